/**
 * Embeddings of texts from an ONNX encoder: the mean of the last hidden states over each text's tokens, scaled to
 * length 1.
 *
 * @since 0.1.0
 */
import { Effect, type FileSystem, type Path, Result, type Scope } from "effect"
import * as Safetensors from "../hub/Safetensors.ts"
import { ModelError } from "../ModelError.ts"
import * as Tensor from "../Tensor.ts"
import type { Tokenizer, TokenizerError } from "../Tokenizer.ts"
import * as Tokens from "../Tokens.ts"
import type * as Device from "./Device.ts"
import * as ExportedModel from "./ExportedModel.ts"

/**
 * Settings of `load`.
 *
 * **Details**
 *
 * `contextLength`: most tokens of a text, special ones included; default what `config.json` says. `overlong`: what
 * happens to a longer text: `fail`, the default, or `truncate`, which drops tokens before the last one, as
 * sentence-transformers does. `batchSize`: most texts in one run, default 32.
 *
 * @category models
 * @since 0.1.0
 */
export interface LoadOptions {
  readonly contextLength?: number | undefined
  readonly overlong?: "fail" | "truncate" | undefined
  readonly batchSize?: number | undefined
}

/**
 * A model that places texts in a space where direction is meaning.
 *
 * **Details**
 *
 * `embed` returns one row `[D]` of length 1 per text, so that the dot product of two rows is their cosine similarity.
 *
 * @category models
 * @since 0.1.0
 */
export interface OnnxEmbedding {
  readonly name: string
  readonly tokenizer: Tokenizer
  readonly contextLength: number
  readonly embed: (texts: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Float32Array>, ModelError>
}

/**
 * Computes the mean over the kept tokens of each row, then divides it by its Euclidean length.
 *
 * **Details**
 *
 * Shapes: `hidden` `[B, T, D]`, `mask` `[B, T]`, 1 = keep; result `B` rows `[D]`. Sums are 64-bit.
 *
 *     mean_d   = sum_t mask_t h_td / sum_t mask_t
 *     result_d = mean_d / max(sqrt(sum_e mean_e^2), 1e-12)
 *
 * Source: Reimers and Gurevych 2019, arXiv:1908.10084, section 3 (mean pooling); the floor is that of PyTorch's
 * `normalize`.
 *
 * **Example** (Leaving a padded token out)
 *
 * ```ts
 * import { Tensor } from "@attune/core"
 * import { OnnxEmbedding } from "@attune/core/ort"
 *
 * const hidden = Tensor.float32([1, 2, 5, 6, 100, 100], [1, 3, 2])
 * OnnxEmbedding.pool(hidden, Tensor.int64([1, 1, 0], [1, 3])) // => [Float32Array.of(0.6, 0.8)]
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const pool = (hidden: Tensor.Tensor<"float32">, mask: Tensor.Tensor<"int64">): ReadonlyArray<Float32Array> => {
  const [batch, length, width] = hidden.shape
  if (hidden.shape.length !== 3 || mask.shape[0] !== batch || mask.shape[1] !== length) {
    throw new RangeError(`hidden states of shape [${hidden.shape}] for a mask of shape [${mask.shape}]`)
  }
  return Array.from({ length: batch! }, (_, b) => {
    const sum = new Float64Array(width!)
    for (let t = b * length!; t < (b + 1) * length!; t++) {
      if (mask.data[t] === 1n) for (let d = 0; d < width!; d++) sum[d] = sum[d]! + hidden.data[t * width! + d]!
    }
    return normalise(sum) // the number of tokens cancels
  })
}

const normalise = (row: Float64Array): Float32Array => {
  let squares = 0
  for (const value of row) squares += value * value
  const norm = Math.max(Math.sqrt(squares), 1e-12)
  return Float32Array.from(row, (value) => value / norm)
}

const knownInputs = ["input_ids", "attention_mask", "token_type_ids", "position_ids"]
const tokenOutputs = ["last_hidden_state", "token_embeddings"]

interface Signature {
  readonly inputs: ReadonlyMap<string, Device.Slot>
  readonly hidden: Device.Slot
}

const signature = (model: string, { inputs, outputs }: Device.Session): Result.Result<Signature, ModelError> => {
  const fail = (reason: string) => {
    const names = (slots: ReadonlyArray<Device.Slot>) => slots.map(({ name }) => name).join(", ")
    return Result.fail(
      ExportedModel.unusable(model, `${reason}; its inputs are ${names(inputs)} and its outputs ${names(outputs)}`)
    )
  }
  const slots = new Map(inputs.map((slot) => [slot.name, slot]))
  if (!slots.has("input_ids")) return fail("is not an encoder: it has no input input_ids")
  if (!slots.has("attention_mask")) {
    return fail("takes no attention_mask, so texts of different lengths would change each other; export it with one")
  }
  const unknown = inputs.find(({ name }) => !knownInputs.includes(name))
  if (unknown !== undefined) return fail(`takes "${unknown.name}", which an encoder of texts does not know how to fill`)
  const hidden = tokenOutputs
    .map((name) => outputs.find((slot) => slot.name === name))
    .find((slot) => slot !== undefined)
  if (hidden === undefined) return fail(`returns no ${tokenOutputs.join(" or ")}; export it for feature extraction`)
  return Result.succeed({ inputs: slots, hidden })
}

/**
 * Loads an encoder, with the tokenizer beside it.
 *
 * **Details**
 *
 * Inputs are found by name: `input_ids` and `attention_mask`, and `token_type_ids` (all 0) and `position_ids` where the
 * graph takes them. Output: `last_hidden_state` or `token_embeddings`, `[B, T, D]`.
 *
 * **Gotchas**
 *
 * Models trained with another pooling (the first token's state, say) give poorer embeddings this way.
 *
 * **Example** (Comparing two texts)
 *
 * ```ts
 * import { OnnxEmbedding } from "@attune/core/ort"
 * import { Effect } from "effect"
 *
 * const similarity = Effect.gen(function*() {
 *   const encoder = yield* OnnxEmbedding.load("models/all-MiniLM-L6-v2")
 *   const [a, b] = yield* encoder.embed(["It names the product.", "The product is named."])
 *   return a!.reduce((sum, value, d) => sum + value * b![d]!, 0)
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const load: (
  source: ExportedModel.Source,
  options?: LoadOptions
) => Effect.Effect<
  OnnxEmbedding,
  ModelError | TokenizerError,
  Device.Device | FileSystem.FileSystem | Path.Path | Scope.Scope
> = Effect.fn("OnnxEmbedding.load")(function* (source, options) {
  const model = yield* ExportedModel.open(source)
  const { config, name, tokenizer } = model
  const session = yield* model.compile(() => false)
  const { hidden, inputs } = yield* Effect.fromResult(signature(name, session))
  yield* Effect.fromResult(ExportedModel.checkVocabulary(model, config.vocab_size ?? undefined))
  const contextLength = options?.contextLength ?? config.max_position_embeddings ?? Number.POSITIVE_INFINITY
  const batchSize = options?.batchSize ?? 32
  const padId = tokenizer.padId ?? 0

  const refuse = (message: string) =>
    new ModelError({ model: name, operation: "embed", message: `${name}: ${message}` })

  const tokensOf = (text: string, index: number): Result.Result<Int32Array, ModelError> => {
    const tokens = tokenizer.encode(text)
    if (tokens.length === 0) return Result.fail(refuse(`text ${index} has no tokens; leave empty texts out`))
    if (tokens.length <= contextLength) return Result.succeed(tokens)
    if (options?.overlong === "truncate") {
      // the last token closes the text for the model, so it stays
      return Result.succeed(Int32Array.of(...tokens.subarray(0, contextLength - 1), tokens.at(-1)!))
    }
    return Result.fail(
      refuse(
        `text ${index} has ${tokens.length} tokens, more than its context of ${contextLength}; ` +
          `shorten it, or load the model with overlong: "truncate"`
      )
    )
  }

  const feedsOf = ({ mask, positions, tokens }: Tokens.Padded): Readonly<Record<string, Device.Feed>> => {
    const zeros = Tensor.int64(new BigInt64Array(tokens.data.length), tokens.shape)
    const values = { input_ids: tokens, attention_mask: mask, token_type_ids: zeros, position_ids: positions }
    const feeds: Record<string, Device.Feed> = {}
    for (const [input, value] of Object.entries(values)) {
      const slot = inputs.get(input)
      if (slot !== undefined) feeds[input] = ExportedModel.integers(slot, value)
    }
    return feeds
  }

  const embed: OnnxEmbedding["embed"] = Effect.fn("OnnxEmbedding.embed")(function* (texts) {
    const rows: Array<{ readonly index: number; readonly tokens: Int32Array }> = []
    for (const [index, text] of texts.entries()) {
      rows.push({ index, tokens: yield* Effect.fromResult(tokensOf(text, index)) })
    }
    rows.sort((a, b) => a.tokens.length - b.tokens.length) // little padding
    const result: Array<Float32Array> = []
    for (let start = 0; start < rows.length; start += batchSize) {
      const batch = rows.slice(start, start + batchSize)
      const padded = Tokens.pad(
        batch.map(({ tokens }) => tokens),
        { padId, side: "right" }
      )
      const outputs = yield* session
        .run(feedsOf(padded), { fetch: [hidden.name] })
        .pipe(Effect.mapError(ExportedModel.runtimeError(name, "embed")))
      for (const [b, row] of pool(Safetensors.toFloat32(outputs.tensors[hidden.name]!), padded.mask).entries()) {
        const { index } = batch[b]!
        if (!row.every(Number.isFinite)) return yield* refuse(`its hidden states for text ${index} are not finite`)
        result[index] = row
      }
    }
    return result
  })

  return { name, tokenizer, contextLength, embed }
})
