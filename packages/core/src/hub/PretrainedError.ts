/**
 * The error of a model directory.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"

/**
 * Reports a model directory that cannot be loaded or written. `path` is the file or directory at fault, `tensor` or
 * `field` (of `config.json`) the place in it; `reason` is for programs, the message for people.
 *
 * @category errors
 * @since 0.1.0
 */
export class PretrainedError extends Schema.TaggedError<PretrainedError>()("PretrainedError", {
  path: Schema.String,
  reason: Schema.Literals([
    "Missing",
    "Read",
    "ConfigNotJson",
    "UnknownModelType",
    "ConfigField",
    "MissingTensor",
    "ExtraTensor",
    "WrongShape",
    "NonFinite",
    "Vocabulary",
    "UnsafePath",
    "Write"
  ]),
  detail: Schema.String,
  tensor: Schema.optionalKey(Schema.String),
  field: Schema.optionalKey(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const place =
      this.tensor !== undefined ? ` tensor "${this.tensor}":` : this.field !== undefined ? ` field ${this.field}:` : ""
    return `${this.path}:${place} ${this.detail}`
  }
}
