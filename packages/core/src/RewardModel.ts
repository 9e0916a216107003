/**
 * What an answer is worth: one number per answer, larger is better. No model runs here: a function gives the numbers.
 *
 * @since 0.1.0
 */
import { Context, Effect, Layer, Schema } from "effect"
import type { Completion } from "./Completion.ts"
import type { Prompt } from "./Prompt.ts"
import * as UserFunction from "./UserFunction.ts"

/**
 * Reports that answers could not be scored, or that a score is not a finite number.
 *
 * Whoever wrote the reward function, or chose the reward model, can fix it.
 *
 * @category errors
 * @since 0.1.0
 */
export class RewardModelError extends Schema.TaggedError<RewardModelError>()("RewardModelError", {
  model: Schema.String,
  /** Place of the answer at fault among those that were asked about, where it is one's. */
  answer: Schema.optionalKey(Schema.Int),
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
}

/**
 * Service for the reward that a policy is trained on.
 *
 * @category services
 * @since 0.1.0
 */
export class RewardModel extends Context.Service<RewardModel, RewardModelShape>()("@attune/core/RewardModel") {}

const checked = (
  name: string,
  scores: ArrayLike<number>,
  count: number
): Effect.Effect<Float32Array, RewardModelError> => {
  if (scores.length !== count) {
    return Effect.fail(
      new RewardModelError({ model: name, reason: `returned ${scores.length} scores for ${count} answers` })
    )
  }
  const result = Float32Array.from(scores)
  const bad = result.findIndex((score) => !Number.isFinite(score))
  if (bad < 0) return Effect.succeed(result)
  const reason = `scored answer ${bad} of ${count} as ${scores[bad]}; a score must be a finite number`
  return Effect.fail(new RewardModelError({ model: name, answer: bad, reason }))
}

const failed = (name: string, answer?: number) => (cause: unknown) =>
  new RewardModelError({
    model: name,
    ...(answer === undefined ? {} : { answer }),
    reason: cause instanceof Error ? cause.message : String(cause),
    cause
  })

/**
 * Makes a reward model of a function of one answer, which may return a number, a promise or an effect.
 *
 * **Details**
 *
 * `concurrency` answers are scored at a time, 1 unless given: raise it for a function that waits for a network.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromFunction = (
  name: string,
  score: (answer: Answer) => UserFunction.Returned<number>,
  options?: { readonly concurrency?: number }
): RewardModelShape => ({
  name,
  score: Effect.fn("RewardModel.score")(function* (answers) {
    const scores = yield* Effect.forEach(
      answers,
      (answer, i) => UserFunction.call(() => score(answer)).pipe(Effect.mapError(failed(name, i))),
      { concurrency: options?.concurrency ?? 1 }
    )
    return yield* checked(name, scores, answers.length)
  })
})

/**
 * Makes a reward model of a function of all answers at once.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromBatchFunction = (
  name: string,
  score: (answers: ReadonlyArray<Answer>) => UserFunction.Returned<ArrayLike<number>>
): RewardModelShape => ({
  name,
  score: Effect.fn("RewardModel.score")(function* (answers) {
    const scores = yield* UserFunction.call(() => score(answers)).pipe(Effect.mapError(failed(name)))
    return yield* checked(name, scores, answers.length)
  })
})

/**
 * Combines reward models into one: the mean of their scores, or the smallest, which trusts an answer only as far as the
 * most doubtful model does.
 *
 * **Gotchas**
 *
 * Scores are combined as they are: models on different scales must be normalised first. Throws without a model.
 *
 * Source of `min`: Coste et al. 2023, arXiv:2310.02743, worst-case optimisation.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ensemble = (models: ReadonlyArray<RewardModelShape>, combine: "mean" | "min"): RewardModelShape => {
  if (models.length === 0) throw new RangeError("an ensemble needs at least one reward model")
  const name = `${combine}(${models.map((model) => model.name).join(", ")})`
  return {
    name,
    score: Effect.fn("RewardModel.score")(function* (answers) {
      const scores = yield* Effect.forEach(models, (model) => model.score(answers))
      return Float32Array.from(answers, (_, i) => {
        const column = scores.map((row) => row[i]!)
        return combine === "min" ? Math.min(...column) : column.reduce((sum, score) => sum + score, 0) / column.length
      })
    })
  }
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
