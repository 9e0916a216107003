/**
 * What an answer is worth: one number per answer, larger is better. No model runs here: a function gives the numbers.
 *
 * @since 0.1.0
 */
import { Context, Duration, Effect, Inspectable, Layer, Schedule, Schema } from "effect"
import type { Completion } from "./Completion.ts"
import type { Prompt } from "./Prompt.ts"
import { difference, type Tokenizer } from "./Tokenizer.ts"
import * as UserFunction from "./UserFunction.ts"

/**
 * Reports that answers could not be scored, or that a score is not a finite number.
 *
 * Whoever wrote the reward function, chose the reward model or runs its server can fix it; `reason` says what happened
 * and what to do.
 *
 * @category errors
 * @since 0.1.0
 */
export class RewardModelError extends Schema.TaggedError<RewardModelError>()("RewardModelError", {
  model: Schema.String,
  /** Place of the answer at fault among those that were asked about, from 0, where it is one's. */
  answer: Schema.optionalKey(Schema.Int),
  /** How often it was tried, where there was more than one attempt. */
  attempts: Schema.optionalKey(Schema.Int),
  /** HTTP status of the last attempt at a remote model, where it got one. */
  status: Schema.optionalKey(Schema.Int),
  reason: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `reward model ${this.model}: ${this.reason}`
  }
}

/**
 * An answer to score. A `Rollout` is one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer {
  readonly prompt: Prompt
  readonly completion: Pick<Completion, "text" | "tokens">
}

/**
 * Scores answers. One instance stands for one reward; whoever made it releases what it holds.
 *
 * @category models
 * @since 0.1.0
 */
export interface RewardModelShape {
  /** For messages and reports. */
  readonly name: string
  /** Scores `[B]`, one per answer and in their order, all finite. */
  readonly score: (answers: ReadonlyArray<Answer>) => Effect.Effect<Float32Array, RewardModelError>
  /**
   * The tokenizer whose ids the model reads in `prompt.tokens` and `completion.tokens`. Absent for a model that reads
   * texts, which scores the answers of any policy.
   */
  readonly tokenizer?: Tokenizer
}

/**
 * Service for the reward that a policy is trained on.
 *
 * @category services
 * @since 0.1.0
 */
export class RewardModel extends Context.Service<RewardModel, RewardModelShape>()("@attune/core/RewardModel") {}

/**
 * Whether the model can score answers of a policy with this tokenizer: it reads texts, or ids that mean the same tokens.
 *
 * @category models
 * @since 0.1.0
 */
export const reads = (model: RewardModelShape, tokenizer: Tokenizer): boolean =>
  model.tokenizer === undefined || difference(model.tokenizer, tokenizer) === undefined

const of = (
  name: string,
  tokenizer: Tokenizer | undefined,
  score: (answers: ReadonlyArray<Answer>) => Effect.Effect<Float32Array, RewardModelError>
): RewardModelShape => ({
  name,
  ...(tokenizer === undefined ? {} : { tokenizer }),
  // No model is asked about nothing.
  score: Effect.fn("RewardModel.score")((answers: ReadonlyArray<Answer>) =>
    answers.length === 0 ? Effect.succeed(new Float32Array()) : score(answers)
  )
})

/**
 * The scores of `count` answers as a model, a function or a server returned them: one finite number per answer, in
 * single precision. `first` is the place of the first of them among `total`, where they are a part of those asked about.
 *
 * @category constructors
 * @since 0.1.0
 */
export const checked = (
  name: string,
  scores: unknown,
  count: number,
  part?: { readonly first: number; readonly total: number }
): Effect.Effect<Float32Array, RewardModelError> => {
  const { first, total } = part ?? { first: 0, total: count }
  const fail = (reason: string, answer?: number) =>
    Effect.fail(new RewardModelError({ model: name, ...(answer === undefined ? {} : { answer }), reason }))
  if (!isArrayLike(scores)) return fail(`returned ${quoted(scores)} for ${count} answers; return an array of numbers`)
  if (scores.length !== count) {
    return fail(`returned ${scores.length} scores for ${count} answers; return one score per answer, in their order`)
  }
  const result = new Float32Array(count)
  for (let i = 0; i < count; i++) {
    const score = scores[i]
    result[i] = typeof score === "number" ? score : Number.NaN
    if (!Number.isFinite(result[i])) {
      const why = typeof score === "number" && Number.isFinite(score) ? ", which single precision cannot hold" : ""
      const rule = "a score must be a finite number, whatever the answer"
      return fail(`scored answer ${first + i} of ${total} as ${quoted(score)}${why}; ${rule}`, first + i)
    }
  }
  return Effect.succeed(result)
}

const isArrayLike = (value: unknown): value is ArrayLike<unknown> =>
  typeof value === "object" && value !== null && "length" in value && typeof value.length === "number"

const shown = (value: unknown): string => {
  if (value instanceof Error) return value.message === "" ? value.name : value.message
  const isPlain = typeof value !== "object" || value === null
  const text = isPlain ? String(value) : Inspectable.toStringUnknown(value, 0)
  return text.length > 200 ? `${text.slice(0, 200)}...` : text
}

const quoted = (value: unknown): string => (typeof value === "string" ? JSON.stringify(value) : shown(value))

const failed = (model: string, what: string, answer?: number) => (cause: unknown) =>
  new RewardModelError({
    model,
    ...(answer === undefined ? {} : { answer }),
    reason: `failed on ${what}: ${shown(cause)}; correct the function, or give it retries if this passes by itself`,
    cause
  })

/**
 * How long to wait for scores, and how often to ask for them again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Patience {
  /** For one attempt, from the call to its result. No limit unless given. */
  readonly timeout?: Duration.Input
  /** Attempts after the first, whatever it failed of: an error, a score that is not finite, no answer in time. 0 unless given. */
  readonly retries?: number
  /** Pause before the first retry; doubled before each further one. Half a second by default. */
  readonly pause?: Duration.Input
  /** The longest of these pauses. 30 seconds by default. */
  readonly longestPause?: Duration.Input
}

const natural = (name: string, value: number, least: number): void => {
  if (!Number.isInteger(value) || value < least) {
    throw new RangeError(`${name} must be a whole number from ${least}, not ${value}`)
  }
}

// Runs attempts at scoring `what` in time, and again while they fail.
const patiently = (model: string, options: Patience) => {
  const { retries = 0 } = options
  const timeout = options.timeout === undefined ? undefined : Duration.fromInputUnsafe(options.timeout)
  const pause = Duration.fromInputUnsafe(options.pause ?? "500 millis")
  const longestPause = Duration.fromInputUnsafe(options.longestPause ?? "30 seconds")
  natural("retries", retries, 0)
  if (timeout !== undefined && !(Duration.toMillis(timeout) > 0)) throw new RangeError("timeout must be above 0")
  if (!(Duration.toMillis(pause) >= 0 && Duration.toMillis(longestPause) >= 0)) {
    throw new RangeError("pause and longestPause must be durations from 0")
  }
  // No jitter: one program asks one function, so there is no crowd to spread.
  const schedule = Schedule.exponential(pause).pipe(
    Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, longestPause))),
    Schedule.upTo({ times: retries }),
    Schedule.setInputType<RewardModelError>(),
    Schedule.tap(({ duration, input }) => Effect.logDebug(`${input.message}; again in ${Duration.format(duration)}`))
  )
  return <A>(
    what: string,
    answer: number | undefined,
    attempt: Effect.Effect<A, RewardModelError>
  ): Effect.Effect<A, RewardModelError> => {
    const late = (limit: Duration.Duration) =>
      new RewardModelError({
        model,
        ...(answer === undefined ? {} : { answer }),
        reason: `gave no score for ${what} within ${Duration.format(limit)}; raise timeout, or see what it waits for`
      })
    const inTime =
      timeout === undefined
        ? attempt
        : Effect.timeoutOrElse(attempt, { duration: timeout, orElse: () => Effect.fail(late(timeout)) })
    if (retries === 0) return inTime
    return inTime.pipe(
      Effect.retry(schedule),
      Effect.mapError((error) => {
        const attempts = retries + 1
        const reason = `${error.reason} (the last of ${attempts} attempts)`
        // The cause is no property that can be spread.
        const { cause } = error
        return new RewardModelError({ ...error, attempts, reason, ...(cause === undefined ? {} : { cause }) })
      })
    )
  }
}

/**
 * Settings of a reward that is a function.
 *
 * @category models
 * @since 0.1.0
 */
export interface BatchOptions extends Patience {
  /** For a function that reads the ids of `prompt.tokens` and `completion.tokens`: the tokenizer that they are of. */
  readonly tokenizer?: Tokenizer
}

/**
 * Settings of a reward that is a function of one answer; `timeout` and `retries` hold for each answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface FunctionOptions extends BatchOptions {
  /** Answers scored at a time, 1 unless given: raise it for a function that waits for a network. */
  readonly concurrency?: number
}

/**
 * Makes a reward model of a function of one answer, which may return a number, a promise or an effect.
 *
 * **Details**
 *
 * A score that is not a finite number, an error of any kind and an answer that does not come in time are failures; after
 * the last attempt the whole batch fails with a `RewardModelError` that names the answer. An interruption is never tried
 * again. The signal is aborted when its attempt is given up.
 *
 * **Gotchas**
 *
 * A synchronous function, or a synchronous stretch of another, cannot be timed out: nothing else runs until it returns.
 * Nor can an effect that is uninterruptible. A promise that does not listen to the signal works on, unheard. Throws a
 * `RangeError` for settings that make no sense.
 *
 * **Example** (Asking a service that is sometimes slow)
 *
 * ```ts
 * import { RewardModel } from "@attune/core"
 *
 * const polite = RewardModel.fromFunction(
 *   "polite",
 *   async ({ completion }, signal) => {
 *     const response = await fetch("https://example.com/score", { method: "POST", body: completion.text, signal })
 *     return Number(await response.text())
 *   },
 *   { concurrency: 8, timeout: "10 seconds", retries: 3 }
 * )
 * ```
 *
 * @see `RewardEndpoint` of `@attune/core/remote` for a server that takes many answers at once
 * @category constructors
 * @since 0.1.0
 */
export const fromFunction = (
  name: string,
  score: (answer: Answer, signal: AbortSignal) => UserFunction.Returned<number>,
  options: FunctionOptions = {}
): RewardModelShape => {
  const { concurrency = 1 } = options
  natural("concurrency", concurrency, 1)
  const attempt = patiently(name, options)
  return of(name, options.tokenizer, (answers) => {
    const one = (answer: Answer, i: number) => {
      const what = `answer ${i} of ${answers.length}`
      const scored = UserFunction.call((signal) => score(answer, signal)).pipe(
        Effect.mapError(failed(name, what, i)),
        Effect.flatMap((value) => checked(name, [value], 1, { first: i, total: answers.length }))
      )
      return attempt(what, i, scored)
    }
    return Effect.map(Effect.forEach(answers, one, { concurrency }), (scores) =>
      Float32Array.from(scores, ([score]) => score!)
    )
  })
}

/**
 * Makes a reward model of a function of all answers at once. Fails, times out and tries again as {@link fromFunction}
 * does, with all answers as one attempt.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromBatchFunction = (
  name: string,
  score: (answers: ReadonlyArray<Answer>, signal: AbortSignal) => UserFunction.Returned<ArrayLike<number>>,
  options: BatchOptions = {}
): RewardModelShape => {
  const attempt = patiently(name, options)
  return of(name, options.tokenizer, (answers) => {
    const what = `${answers.length} answers`
    const scored = UserFunction.call((signal) => score(answers, signal)).pipe(
      Effect.mapError(failed(name, what)),
      Effect.flatMap((scores) => checked(name, scores, answers.length))
    )
    return attempt(what, undefined, scored)
  })
}

/**
 * The model, with its scores checked, a limit of time and further attempts: for a model that does not do so itself.
 *
 * **Details**
 *
 * All answers of a call are one attempt. An error that the model throws becomes a `RewardModelError`. What interrupts the
 * model when its time is up is its own affair; see {@link fromFunction} for what cannot be interrupted.
 *
 * @category constructors
 * @since 0.1.0
 */
export const guarded = (model: RewardModelShape, patience: Patience = {}): RewardModelShape => {
  const attempt = patiently(model.name, patience)
  return of(model.name, model.tokenizer, (answers) => {
    const what = `${answers.length} answers`
    const scored = Effect.catchDefect(scoresOf(model, answers), (defect) =>
      Effect.fail(failed(model.name, what)(defect))
    )
    return attempt(what, undefined, scored)
  })
}

const scoresOf = (model: RewardModelShape, answers: ReadonlyArray<Answer>) =>
  Effect.flatMap(
    Effect.suspend(() => model.score(answers)),
    (scores) => checked(model.name, scores, answers.length)
  )

// The tokenizer of all models that read tokens. An answer's ids are those of one tokenizer.
const commonTokenizer = (models: ReadonlyArray<RewardModelShape>): Tokenizer | undefined => {
  const first = models.find((model) => model.tokenizer !== undefined)
  const other = models.find(
    ({ tokenizer }) => tokenizer !== undefined && difference(tokenizer, first!.tokenizer!) !== undefined
  )
  if (other === undefined) return first?.tokenizer
  throw new RangeError(
    `${first!.name} and ${other.name} read tokens of different tokenizers, so that no answer suits both; ` +
      "combine models of one tokenizer, or models that read texts"
  )
}

/**
 * How an ensemble's scores become one: their mean, the smallest, or the mean less `varianceCoef` times their variance.
 *
 * @category models
 * @since 0.1.0
 */
export type Combination = "mean" | "min" | { readonly varianceCoef: number }

/**
 * Combines reward models into one: the mean of their scores, or the smallest, which trusts an answer only as far as the
 * most doubtful model does, or `mean - varianceCoef * variance`, which trusts it less the less they agree.
 *
 * **Details**
 *
 * The variance is the mean of squared distances from the mean, divided by the number of models and not by one less: 0 for
 * a single model.
 *
 * Source: Coste et al. 2023, arXiv:2310.02743: mean, worst-case and uncertainty-weighted optimisation.
 *
 * **Gotchas**
 *
 * Scores are combined as they are: models on different scales must be normalised first. Throws a `RangeError` without a
 * model, for models that read tokens of different tokenizers, and for a coefficient that is negative or not finite.
 *
 * @see {@link disagreement} to see how far the models agree
 * @see {@link weighted} for rewards that measure different things
 * @category constructors
 * @since 0.1.0
 */
export const ensemble = (models: ReadonlyArray<RewardModelShape>, combine: Combination): RewardModelShape => {
  if (models.length === 0) throw new RangeError("an ensemble needs at least one reward model")
  if (typeof combine === "object" && !(combine.varianceCoef >= 0 && combine.varianceCoef < Infinity)) {
    throw new RangeError(`varianceCoef must be a finite number from 0, not ${combine.varianceCoef}`)
  }
  const kind = typeof combine === "string" ? combine : `mean - ${combine.varianceCoef} * variance`
  const name = `${kind}(${models.map((model) => model.name).join(", ")})`
  const worth = (column: ReadonlyArray<number>): number => {
    if (combine === "min") return Math.min(...column)
    const { mean, variance } = moments(column)
    return combine === "mean" ? mean : mean - combine.varianceCoef * variance
  }
  return of(name, commonTokenizer(models), (answers) =>
    Effect.flatMap(
      Effect.forEach(models, (model) => scoresOf(model, answers)),
      (scores) => checked(name, columns(scores).map(worth), answers.length)
    )
  )
}

// Scores by answer, of scores by model.
const columns = (scores: ReadonlyArray<Float32Array>): ReadonlyArray<ReadonlyArray<number>> =>
  Array.from(scores[0]!, (_, i) => scores.map((row) => row[i]!))

const moments = (values: ReadonlyArray<number>): { readonly mean: number; readonly variance: number } => {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  return { mean, variance: values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length }
}

/**
 * How far the models of an ensemble agree on `B` answers.
 *
 * @category models
 * @since 0.1.0
 */
export interface Disagreement {
  /** Of each model, `[B]`. */
  readonly scores: ReadonlyArray<Float32Array>
  /** Mean over models `[B]`. */
  readonly mean: Float32Array
  /** Standard deviation over models `[B]`, in the unit of the scores. */
  readonly standardDeviation: Float32Array
}

/**
 * Scores answers with each model and says how far the models agree on each.
 *
 * **Details**
 *
 *     standardDeviation = sqrt(mean((score - mean)^2))
 *
 * over the models, divided by their number and not by one less, so that 1 model agrees with itself; it is the root of the
 * variance of {@link ensemble}. Where it grows during training, the policy has left what the models were trained on.
 *
 * Source: Coste et al. 2023, arXiv:2310.02743. Throws a `RangeError` without a model.
 *
 * @category math
 * @since 0.1.0
 */
export const disagreement = (
  models: ReadonlyArray<RewardModelShape>,
  answers: ReadonlyArray<Answer>
): Effect.Effect<Disagreement, RewardModelError> => {
  if (models.length === 0) throw new RangeError("a disagreement needs at least one reward model")
  return Effect.map(
    Effect.forEach(models, (model) => scoresOf(model, answers)),
    (scores) => {
      const byAnswer = columns(scores).map(moments)
      return {
        scores,
        mean: Float32Array.from(byAnswer, ({ mean }) => mean),
        standardDeviation: Float32Array.from(byAnswer, ({ variance }) => Math.sqrt(variance))
      }
    }
  )
}

/**
 * Adds up several rewards, each times its weight: what is wanted, less what is not.
 *
 * **Details**
 *
 * The name shows the weights, as in `1 * helpful - 0.01 * length`. The sum is taken in double precision. Every model is
 * asked, whatever its weight, one after the other.
 *
 * **Gotchas**
 *
 * A weight is in units of the model's own scale. Throws a `RangeError` without a model, for a weight that is not finite,
 * and for models that read tokens of different tokenizers.
 *
 * **Example** (Paying for short answers)
 *
 * ```ts
 * import { RewardModel } from "@attune/core"
 *
 * const polite = RewardModel.fromFunction("polite", ({ completion }) => (completion.text.includes("please") ? 1 : 0))
 * const length = RewardModel.fromFunction("length", ({ completion }) => completion.text.length)
 *
 * const parts = [
 *   { model: polite, weight: 1 },
 *   { model: length, weight: -0.01 }
 * ]
 * RewardModel.weighted(parts).name // => "1 * polite - 0.01 * length"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const weighted = (
  parts: ReadonlyArray<{ readonly model: RewardModelShape; readonly weight: number }>
): RewardModelShape => {
  if (parts.length === 0) throw new RangeError("a weighted sum needs at least one reward model")
  for (const { model, weight } of parts) {
    if (!Number.isFinite(weight)) throw new RangeError(`the weight of ${model.name} must be finite, not ${weight}`)
  }
  const name = parts
    .map(({ model, weight }, i) => {
      const sign = i === 0 ? (weight < 0 ? "-" : "") : weight < 0 ? " - " : " + "
      const isSum = / [+-] /.test(model.name)
      return `${sign}${Math.abs(weight)} * ${isSum ? `(${model.name})` : model.name}`
    })
    .join("")
  const tokenizer = commonTokenizer(parts.map(({ model }) => model))
  return of(name, tokenizer, (answers) =>
    Effect.flatMap(
      Effect.forEach(parts, ({ model }) => scoresOf(model, answers)),
      (scores) => {
        const sums = columns(scores).map((column) =>
          column.reduce((sum, score, i) => sum + score * parts[i]!.weight, 0)
        )
        return checked(name, sums, answers.length)
      }
    )
  )
}

/**
 * Layer with a reward model made of a function of one answer.
 *
 * **Example** (Rewarding short answers)
 *
 * ```ts
 * import { RewardModel } from "@attune/core"
 *
 * const brevity = RewardModel.layerFunction("brevity", ({ completion }) => -completion.text.length)
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFunction = (...args: Parameters<typeof fromFunction>): Layer.Layer<RewardModel> =>
  Layer.succeed(RewardModel, fromFunction(...args))

/**
 * Layer with a reward model made of a function of all answers at once.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerBatchFunction = (...args: Parameters<typeof fromBatchFunction>): Layer.Layer<RewardModel> =>
  Layer.succeed(RewardModel, fromBatchFunction(...args))
