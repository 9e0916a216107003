/**
 * Selection by meaning: the refinement whose embedding points most nearly where that of the critique does.
 *
 * @since 0.1.0
 */
import { Progress } from "@attune/core"
import { Context, Effect, type Layer, Schema } from "effect"
import * as Selection from "./Selection.ts"

/**
 * Reports that texts could not be embedded. `text`: its place among those that were asked about, where it is one's.
 *
 * @category errors
 * @since 0.1.0
 */
export class EmbedderError extends Schema.TaggedError<EmbedderError>()("EmbedderError", {
  embedder: Schema.String,
  reason: Schema.String,
  text: Schema.optionalKey(Schema.Int),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `embedder ${this.embedder}: ${this.reason}`
  }
}

/**
 * Places texts in a space where direction is meaning: one row `[D]` per text, in their order, of any length above 0.
 *
 * @category models
 * @since 0.1.0
 */
export interface EmbedderShape {
  /** For messages and reports. */
  readonly name: string
  readonly embed: (texts: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Float32Array>, EmbedderError>
}

/**
 * Service for the model that embeds texts.
 *
 * @category services
 * @since 0.1.0
 */
export class Embedder extends Context.Service<Embedder, EmbedderShape>()("@attune/ilf/Embedder") {}

/**
 * Whatever embeds and fails with an error of its own: `OnnxEmbedding` and `OrtEmbedding` of `@attune/core/ort`,
 * `EmbeddingEndpoint` of `@attune/core/remote`. `text` of the error: the place of the text at fault.
 *
 * @category models
 * @since 0.1.0
 */
export interface Source {
  readonly name: string
  readonly embed: (
    texts: ReadonlyArray<string>
  ) => Effect.Effect<ReadonlyArray<Float32Array>, { readonly message: string; readonly text?: number | undefined }>
}

/**
 * Makes an embedder of a sentence encoder, of a decoder on the device, or of an endpoint.
 *
 * **Example** (Three ways to embed)
 *
 * ```ts
 * import { OnnxEmbedding, OrtEmbedding, type OrtPolicy } from "@attune/core/ort"
 * import { EmbeddingEndpoint } from "@attune/core/remote"
 * import { EmbeddingSimilarity } from "@attune/ilf"
 * import { Effect } from "effect"
 *
 * const encoder = Effect.map(OnnxEmbedding.load("models/all-MiniLM-L6-v2"), EmbeddingSimilarity.embedder)
 * const server = Effect.map(
 *   EmbeddingEndpoint.make({ baseUrl: "http://localhost:11434/v1", model: "nomic-embed-text" }),
 *   EmbeddingSimilarity.embedder
 * )
 * const local = (policy: OrtPolicy.OrtPolicy) => Effect.map(OrtEmbedding.make(policy), EmbeddingSimilarity.embedder)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const embedder = ({ embed, name }: Source): EmbedderShape => ({
  name,
  embed: (texts) =>
    Effect.mapError(
      embed(texts),
      (cause) =>
        new EmbedderError({
          embedder: name,
          reason: cause.message,
          ...(cause.text === undefined ? {} : { text: cause.text }),
          cause
        })
    )
})

/**
 * The cosine of the angle between two vectors `[D]`: 1 where they point the same way, 0 where they have nothing in common,
 * -1 where they are opposed.
 *
 *     cos(a, b) = a . b / (|a| |b|)
 *
 * Sums are 64-bit. `NaN` where one of them is all 0, which points nowhere. Throws `RangeError` where lengths differ.
 *
 * @category math
 * @since 0.1.0
 */
export const cosine = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  if (a.length !== b.length) throw new RangeError(`vectors of ${a.length} and ${b.length} numbers have no angle`)
  let dot = 0
  let aa = 0
  let bb = 0
  for (let d = 0; d < a.length; d++) {
    dot += a[d]! * b[d]!
    aa += a[d]! * a[d]!
    bb += b[d]! * b[d]!
  }
  // The roots apart: the product of squares could leave the range of numbers.
  return Math.max(-1, Math.min(1, dot / (Math.sqrt(aa) * Math.sqrt(bb))))
}

/**
 * Settings: a `name` for messages and reports, default `embedding similarity (<embedder>)`; and `batchSize`, how many texts
 * the embedder is asked for in one call, default 256.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly name?: string | undefined
  readonly batchSize?: number | undefined
}

// Where a text stands: that of a critique, or a refinement.
interface Place {
  readonly question: number
  readonly refinement?: number
}

const what = ({ refinement }: Place): string => (refinement === undefined ? "the critique" : "the refinement")

/**
 * Makes a selector that scores a refinement with the cosine of its embedding and that of the critique.
 *
 * **Details**
 *
 * Each text is embedded once however often it occurs, so equal refinements score exactly the same. Fails with question and
 * refinement where a text is empty, where its embedding is all 0 or not finite, and where embeddings differ in length.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, and its code, `scoring_functions/embedding_similarity.py`.
 *
 * **Gotchas**
 *
 * It prefers refinements that are about what the critique is about, and so may prefer one that repeats the critique. In the
 * paper it chose no better than chance.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (model: EmbedderShape, options: Options = {}): Selection.SelectorShape => {
  const { batchSize = 256, name = `embedding similarity (${model.name})` } = options
  if (!Number.isInteger(batchSize) || batchSize < 1) {
    throw new RangeError(`batchSize must be a whole number from 1, not ${batchSize}`)
  }
  const fail = (reason: string, place: Partial<Place> = {}, cause?: unknown) =>
    new Selection.SelectorError({
      selector: name,
      reason,
      ...place,
      ...(cause === undefined ? {} : { cause })
    })

  return Selection.guarded({
    name,
    score: Effect.fnUntraced(function* (questions) {
      // Each text, and where it stands first.
      const places = new Map<string, Place>()
      for (const [question, { critique, refinements }] of questions.entries()) {
        for (const [i, text] of [critique.critique, ...refinements].entries()) {
          const place: Place = i === 0 ? { question } : { question, refinement: i - 1 }
          if (text === "") return yield* fail(`${what(place)} is empty, which has no embedding; leave it out`, place)
          if (!places.has(text)) places.set(text, place)
        }
      }
      const texts = [...places.keys()]
      const embeddings = new Map<string, Float32Array>()
      let width: number | undefined
      const task = yield* Progress.start({ label: name, total: texts.length })
      for (let start = 0; start < texts.length; start += batchSize) {
        const batch = texts.slice(start, start + batchSize)
        const rows = yield* Effect.mapError(model.embed(batch), (cause) =>
          fail(cause.message, cause.text === undefined ? {} : places.get(batch[cause.text] ?? ""), cause)
        )
        if (rows.length !== batch.length) {
          return yield* fail(`embedder ${model.name} returned ${rows.length} embeddings for ${batch.length} texts`)
        }
        for (const [i, row] of rows.entries()) {
          const text = batch[i]!
          const place = places.get(text)!
          width ??= row.length
          if (row.length !== width) {
            const reason = `the embedding of ${what(place)} has ${row.length} numbers, others have ${width}`
            return yield* fail(`${reason}; use one model for all`, place)
          }
          if (!row.every(Number.isFinite)) {
            return yield* fail(`the embedding of ${what(place)} is not finite; see what is wrong with the model`, place)
          }
          if (row.every((value) => value === 0)) {
            return yield* fail(`the embedding of ${what(place)} is all 0, which has no direction; leave it out`, place)
          }
          embeddings.set(text, row)
        }
        yield* task.update(start + batch.length)
      }
      return questions.map(({ critique, refinements }) => {
        const said = embeddings.get(critique.critique)!
        return Float64Array.from(refinements, (text) => cosine(said, embeddings.get(text)!))
      })
    }, Effect.scoped)
  })
}

/**
 * Layer with the similarity to the critique as the selector, by the program's embedder.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Selection.Selector, never, Embedder> =>
  Selection.layerEffect(Effect.map(Embedder, (model) => make(model, options)))
