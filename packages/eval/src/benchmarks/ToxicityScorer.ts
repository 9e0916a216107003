/**
 * How toxic a text is. No scorer ships with this package: bring a function, sound or not, and say in your report which.
 *
 * @since 0.1.0
 */
import { UserFunction } from "@attune/core"
import { Context, Effect, Layer, Result, Schema } from "effect"

/**
 * A text could not be scored, or its score is no probability. Whoever wrote or runs the scorer can fix it.
 *
 * @category errors
 * @since 0.1.0
 */
export class ToxicityError extends Schema.TaggedError<ToxicityError>()("ToxicityError", {
  scorer: Schema.String,
  /** Id of the text at fault, where it is one's. */
  item: Schema.optionalKey(Schema.String),
  reason: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const place = this.item === undefined ? "" : `, item ${JSON.stringify(this.item)}`
    return `toxicity scorer ${this.scorer}${place}: ${this.reason}`
  }
}

/**
 * A text to score.
 *
 * @category models
 * @since 0.1.0
 */
export interface Text {
  readonly id: string
  readonly text: string
}

/**
 * Scores texts with the probability, in `[0, 1]`, that a reader finds them toxic; one per text, in their order.
 *
 * @category models
 * @since 0.1.0
 */
export interface ToxicityScorerShape {
  /** For messages and reports. */
  readonly name: string
  readonly score: (texts: ReadonlyArray<Text>) => Effect.Effect<ReadonlyArray<number>, ToxicityError>
}

/**
 * Service for what says how toxic a text is.
 *
 * @category services
 * @since 0.1.0
 */
export class ToxicityScorer extends Context.Service<ToxicityScorer, ToxicityScorerShape>()(
  "@attune/eval/ToxicityScorer"
) {}

/**
 * The scores, if there is one for each text and each is in `[0, 1]`; otherwise the first text at fault.
 *
 * @category decoding
 * @since 0.1.0
 */
export const check = (
  scorer: string,
  texts: ReadonlyArray<Text>,
  scores: ArrayLike<number>
): Result.Result<ReadonlyArray<number>, ToxicityError> => {
  const fail = (reason: string, item?: string) =>
    Result.fail(new ToxicityError({ scorer, reason, ...(item === undefined ? {} : { item }) }))
  if (scores.length !== texts.length) return fail(`returned ${scores.length} scores for ${texts.length} texts`)
  const checked = Array.from(scores)
  const bad = checked.findIndex((score) => !(score >= 0 && score <= 1))
  return bad < 0
    ? Result.succeed(checked)
    : fail(`the score is ${checked[bad]}; a toxicity is a number from 0 to 1`, texts[bad]!.id)
}

const failed = (scorer: string, item?: string) => (cause: unknown) =>
  new ToxicityError({
    scorer,
    reason: cause instanceof Error ? cause.message : String(cause),
    cause,
    ...(item === undefined ? {} : { item })
  })

/**
 * Makes a scorer of a function of one text, which may return a number, a promise or an effect: a word list, a call of an
 * HTTP service such as Perspective, a classifier on ONNX Runtime.
 *
 * **Details**
 *
 * `concurrency` texts are scored at a time, 1 unless given: raise it for a function that waits for a network. Retries and
 * a rate limit are the function's own (`Effect.retry`, `Schedule`).
 *
 * **Example** (Counting words of a list)
 *
 * ```ts
 * import { ToxicityScorer } from "@attune/eval"
 *
 * const rude = ToxicityScorer.fromFunction("word list", (text) => (/\b(idiot|shut up)\b/i.test(text) ? 1 : 0))
 * ```
 *
 * **Example** (Asking a service over HTTP, four texts at a time)
 *
 * ```ts
 * import { ToxicityScorer } from "@attune/eval"
 *
 * const ask = async (text: string): Promise<number> => {
 *   const response = await fetch("https://toxicity.example/score", { method: "POST", body: JSON.stringify({ text }) })
 *   if (!response.ok) throw new Error(`the service answered ${response.status}`)
 *   const answer = (await response.json()) as { readonly toxicity: number }
 *   return answer.toxicity
 * }
 * const service = ToxicityScorer.layerFunction("toxicity.example", ask, { concurrency: 4 })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromFunction = (
  name: string,
  score: (text: string) => UserFunction.Returned<number>,
  options?: { readonly concurrency?: number }
): ToxicityScorerShape => ({
  name,
  score: Effect.fn("ToxicityScorer.score")(function* (texts) {
    const scores = yield* Effect.forEach(
      texts,
      ({ id, text }) => UserFunction.call(() => score(text)).pipe(Effect.mapError(failed(name, id))),
      { concurrency: options?.concurrency ?? 1 }
    )
    return yield* Effect.fromResult(check(name, texts, scores))
  })
})

/**
 * Makes a scorer of a function of all texts at once, such as a classifier that runs on ONNX Runtime in batches.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromBatchFunction = (
  name: string,
  score: (texts: ReadonlyArray<string>) => UserFunction.Returned<ArrayLike<number>>
): ToxicityScorerShape => ({
  name,
  score: Effect.fn("ToxicityScorer.score")(function* (texts) {
    const plain = texts.map(({ text }) => text)
    const scores = yield* UserFunction.call(() => score(plain)).pipe(Effect.mapError(failed(name)))
    return yield* Effect.fromResult(check(name, texts, scores))
  })
})

/**
 * Layer with a scorer made of a function of one text.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFunction = (...args: Parameters<typeof fromFunction>): Layer.Layer<ToxicityScorer> =>
  Layer.succeed(ToxicityScorer, fromFunction(...args))

/**
 * Layer with a scorer made of a function of all texts at once.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerBatchFunction = (...args: Parameters<typeof fromBatchFunction>): Layer.Layer<ToxicityScorer> =>
  Layer.succeed(ToxicityScorer, fromBatchFunction(...args))
