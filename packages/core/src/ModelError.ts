/**
 * The one error of evaluating a model.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"

/**
 * Reports that a model could not be evaluated, whatever it runs on: an input that it cannot take (`message` names it and
 * says what to do) or a failure of its runtime (`cause`).
 *
 * @category errors
 * @since 0.1.0
 */
export class ModelError extends Schema.TaggedError<ModelError>()("ModelError", {
  model: Schema.String,
  operation: Schema.Literals(["load", "sample", "logprobs", "values", "embed", "save"]),
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}
