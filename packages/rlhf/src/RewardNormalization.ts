/**
 * Moves and stretches scores, which ranking leaves free: only their differences are learned, in no particular unit.
 *
 * One sign convention throughout, that of a linear layer: `normalised = gain * score + bias`.
 *
 * @since 0.1.0
 */
import { RewardModel } from "@attune/core"
import { Effect } from "effect"

/**
 * How scores are normalised: `gain * score + bias`. `gain` is above 0, so that better stays better.
 *
 * @category models
 * @since 0.1.0
 */
export interface Normalization {
  readonly gain: number
  readonly bias: number
}

/**
 * Mean and standard deviation of scores, in units of the score.
 *
 * @category models
 * @since 0.1.0
 */
export interface Moments {
  readonly mean: number
  readonly std: number
}

/**
 * Computes mean and standard deviation of scores `[N]`; the variance is divided by `N`. Throws without a score.
 *
 * @category math
 * @since 0.1.0
 */
export const moments = (scores: ArrayLike<number>): Moments => {
  if (scores.length === 0) throw new RangeError("moments of no scores")
  const first = scores[0]! // equal scores have exactly their mean, and no spread
  let sum = 0
  for (let i = 0; i < scores.length; i++) sum += scores[i]! - first
  const mean = first + sum / scores.length
  let squares = 0
  for (let i = 0; i < scores.length; i++) squares += (scores[i]! - mean) ** 2
  return { mean, std: Math.sqrt(squares / scores.length) }
}

/**
 * Makes scores with the mean `from.mean` have the mean 0, and leaves their spread as it is.
 *
 * **Example** (Demonstrations that score 0.5 on average)
 *
 * ```ts
 * import { RewardNormalization } from "@attune/rlhf"
 *
 * RewardNormalization.centred({ mean: 0.5 }) // => { gain: 1, bias: -0.5 }
 * ```
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.
 *
 * **Gotchas**
 *
 * Code bases that store the mean of the demonstrations as their bias subtract it; this bias is added.
 *
 * @category constructors
 * @since 0.1.0
 */
export const centred = (from: Pick<Moments, "mean">): Normalization => ({ gain: 1, bias: 0 - from.mean })

/**
 * Makes scores with the moments `from` have the moments `to`, by default mean 0 and standard deviation 1. Throws where
 * a standard deviation is not above 0: no gain can change it.
 *
 *     gain = to.std / from.std        bias = to.mean - gain * from.mean
 *
 * Source: Ziegler et al. 2019, arXiv:1909.08593, and their code, `lm_human_preferences/rewards.py`, `set_reward_norm`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const standardised = (from: Moments, to: Moments = { mean: 0, std: 1 }): Normalization => {
  if (!(from.std > 0 && to.std > 0)) {
    throw new RangeError(`standard deviations must be above 0, got ${from.std} and ${to.std}`)
  }
  const gain = to.std / from.std
  return checked({ gain, bias: to.mean - gain * from.mean })
}

const checked = (normalization: Normalization): Normalization => {
  const { bias, gain } = normalization
  if (gain > 0 && Number.isFinite(gain) && Number.isFinite(bias)) return normalization
  throw new RangeError(`scores are normalised with a gain above 0 and a bias, got ${gain} and ${bias}`)
}

/**
 * Scores `[N]` as the normalisation has them.
 *
 * @category math
 * @since 0.1.0
 */
export const apply = ({ bias, gain }: Normalization, scores: ArrayLike<number>): Float64Array =>
  Float64Array.from(scores, (score) => gain * score + bias)

const fail = (model: RewardModel.RewardModelShape, reason: string, answer?: number) =>
  new RewardModel.RewardModelError({ model: model.name, reason, ...(answer === undefined ? {} : { answer }) })

/**
 * Makes the normalisation under which the model scores these answers 0 on average; with `to`, under which they have
 * that mean and standard deviation.
 *
 * **Details**
 *
 * InstructGPT takes demonstrations by people, and mean 0. Ziegler et al. take samples of the reference policy, and mean
 * 0 and standard deviation 1, so that a KL coefficient means the same for every reward model.
 *
 * Fails where there is no answer, where the model cannot score one, and, with `to`, where all have the same score.
 *
 * @category running
 * @since 0.1.0
 */
export const fit: (
  model: RewardModel.RewardModelShape,
  answers: ReadonlyArray<RewardModel.Answer>,
  to?: Moments
) => Effect.Effect<Normalization, RewardModel.RewardModelError> = Effect.fn("RewardNormalization.fit")(
  function* (model, answers, to) {
    if (answers.length === 0) return yield* fail(model, "there is no answer to normalise scores by")
    const from = moments(yield* RewardModel.guarded(model).score(answers))
    if (to === undefined) return centred(from)
    if (!(from.std > 0)) {
      const scores = `all ${answers.length} answers score ${from.mean}`
      return yield* fail(model, `${scores}, so no gain gives them a standard deviation of ${to.std}`)
    }
    return standardised(from, to)
  }
)

/**
 * The reward model with normalised scores, under the same name and reading the same tokens. Throws where the gain is not above 0. Fails where a
 * score is too large for single precision once normalised.
 *
 * @category transforming
 * @since 0.1.0
 */
export const normalised = (
  model: RewardModel.RewardModelShape,
  normalization: Normalization
): RewardModel.RewardModelShape => {
  const by = checked(normalization)
  return {
    name: model.name,
    ...(model.tokenizer === undefined ? {} : { tokenizer: model.tokenizer }),
    score: Effect.fn("RewardNormalization.score")(function* (answers) {
      const scores = yield* model.score(answers)
      const result = Float32Array.from(apply(by, scores))
      const bad = result.findIndex((score) => !Number.isFinite(score))
      if (bad < 0) return result
      const reason = `answer ${bad} of ${answers.length}, which scored ${scores[bad]}, is normalised to ${result[bad]}`
      return yield* fail(model, reason, bad)
    })
  }
}
