/**
 * The objective of PPO, token by token and in double precision: what the graph of the loss is held against in tests, and
 * what explains its metrics.
 *
 * `newLogprobs` and `newValues` come from the model that is being updated; `logprobs`, `values`, `advantages` and `returns`
 * are those of the rollout and stay the same during the update. `N` counts tokens. Losses are made small, so the
 * surrogate has the minus sign here.
 *
 * @since 0.1.0
 */
import { Logprobs } from "@attune/core"

const requireSame = (length: number, others: Readonly<Record<string, ArrayLike<number>>>): void => {
  for (const [name, other] of Object.entries(others)) {
    if (other.length !== length) throw new RangeError(`${other.length} ${name} for ${length} tokens`)
  }
}

const clamp = (value: number, centre: number, range: number): number =>
  Math.min(centre + range, Math.max(centre - range, value))

const logRatios = (newLogprobs: ArrayLike<number>, logprobs: ArrayLike<number>): Float64Array => {
  requireSame(newLogprobs.length, { logprobs })
  return Float64Array.from(newLogprobs, (newLogprob, n) => newLogprob - logprobs[n]!)
}

/**
 * How much more likely the updated policy makes each token than the policy that sampled it: `exp(newLogprobs -
 * logprobs)`.
 *
 * **Details**
 *
 * Shapes: `newLogprobs`, `logprobs`, result `[N]`. All are 1 before the first update, if sampler and learner agree.
 *
 * @category math
 * @since 0.1.0
 */
export const ratios = (newLogprobs: ArrayLike<number>, logprobs: ArrayLike<number>): Float64Array =>
  logRatios(newLogprobs, logprobs).map(Math.exp)

/**
 * Estimates how far the update has moved the policy from the one that sampled, per token, in nats.
 *
 * **Details**
 *
 * Shapes: `newLogprobs`, `logprobs`, result `[N]`. Neither is ever negative.
 *
 *     r  = newLogprobs - logprobs
 *     k2 = r^2 / 2               its mean is `approxkl` of TRL and of Huang et al. 2024, arXiv:2403.17031
 *     k3 = exp(r) - 1 - r        its mean is `approx_kl` of CleanRL; unbiased for KL(sampling || updated)
 *
 * @category math
 * @since 0.1.0
 */
export const approxKl = (
  newLogprobs: ArrayLike<number>,
  logprobs: ArrayLike<number>,
  estimator: "k2" | "k3"
): Float64Array => logRatios(newLogprobs, logprobs).map((r) => (estimator === "k2" ? (r * r) / 2 : Math.expm1(r) - r))

const surrogates = (
  ratios: ArrayLike<number>,
  advantages: ArrayLike<number>,
  clipRange: number,
  pick: (loss: number, clipped: number) => number
): Float64Array => {
  requireSame(ratios.length, { advantages })
  return Float64Array.from(ratios, (ratio, n) =>
    pick(-advantages[n]! * ratio, -advantages[n]! * clamp(ratio, 1, clipRange))
  )
}

/**
 * The clipped surrogate of each token.
 *
 * **Details**
 *
 * Shapes: `ratios`, `advantages`, result `[N]`.
 *
 *     max(-A ratio, -A clip(ratio, 1 - clipRange, 1 + clipRange))
 *
 * Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7, negated.
 *
 * **Example** (A good token is not made likelier without end)
 *
 * ```ts
 * import { ClippedSurrogate } from "@attune/rlhf"
 *
 * ClippedSurrogate.policyLosses([1.5, 1.5], [1, -1], 0.25) // => Float64Array.of(-1.25, 1.5)
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const policyLosses = (
  ratios: ArrayLike<number>,
  advantages: ArrayLike<number>,
  clipRange: number
): Float64Array => surrogates(ratios, advantages, clipRange, Math.max)

/**
 * 1 for each token whose clipped surrogate is larger than its unclipped one, so that it has no gradient; else 0. The mean
 * is `clipfrac`.
 *
 * **Details**
 *
 * Shapes: `ratios`, `advantages`, result `[N]`. A ratio that lies outside the range where the advantage pulls it back is
 * not counted, unlike in CleanRL's `abs(ratio - 1) > clip_coef`.
 *
 * @category math
 * @since 0.1.0
 */
export const policyClipped = (
  ratios: ArrayLike<number>,
  advantages: ArrayLike<number>,
  clipRange: number
): Float64Array => surrogates(ratios, advantages, clipRange, (loss, clipped) => (clipped > loss ? 1 : 0))

const valueErrors = (
  newValues: ArrayLike<number>,
  values: ArrayLike<number>,
  returns: ArrayLike<number>,
  clipRange: number,
  pick: (error: number, clipped: number) => number
): Float64Array => {
  requireSame(newValues.length, { values, returns })
  return Float64Array.from(newValues, (value, n) =>
    pick((value - returns[n]!) ** 2, (clamp(value, values[n]!, clipRange) - returns[n]!) ** 2)
  )
}

/**
 * The loss of the critic for each token.
 *
 * **Details**
 *
 * Shapes: `newValues`, `values`, `returns`, result `[N]`. Without `clipRange` only the first error counts.
 *
 *     max((V - R)^2, (clip(V, Vold - clipRange, Vold + clipRange) - R)^2) / 2
 *
 * Source: Ziegler et al. 2019, arXiv:1909.08593, their code (after OpenAI Baselines). The larger of the two errors, never
 * the smaller.
 *
 * @category math
 * @since 0.1.0
 */
export const valueLosses = (
  newValues: ArrayLike<number>,
  values: ArrayLike<number>,
  returns: ArrayLike<number>,
  clipRange = Infinity
): Float64Array => valueErrors(newValues, values, returns, clipRange, (error, clipped) => Math.max(error, clipped) / 2)

/**
 * 1 for each token whose clipped value has the larger error, so that it has no gradient; else 0.
 *
 * **Details**
 *
 * Shapes: `newValues`, `values`, `returns`, result `[N]`.
 *
 * @category math
 * @since 0.1.0
 */
export const valueClipped = (
  newValues: ArrayLike<number>,
  values: ArrayLike<number>,
  returns: ArrayLike<number>,
  clipRange: number
): Float64Array => valueErrors(newValues, values, returns, clipRange, (error, clipped) => (clipped > error ? 1 : 0))

type Rows = ReadonlyArray<ArrayLike<number>>

const sumAndCount = (rows: Rows, masks: Rows | undefined): ReadonlyArray<readonly [sum: number, count: number]> => {
  if (masks !== undefined && masks.length !== rows.length) {
    throw new RangeError(`${masks.length} masks for ${rows.length} answers`)
  }
  return rows.map((row, b) => {
    const mask = masks?.[b] ?? new Uint8Array(row.length).fill(1)
    return [Logprobs.maskedSum(row, mask), Logprobs.maskedSum(mask, mask)]
  })
}

/**
 * The mean over all tokens of several answers: a long answer counts for more. What PPO's losses are here.
 *
 * **Details**
 *
 * `perToken`: an array `[T]` for each answer; `masks`: as many of the same lengths, 1 where a token counts, default all.
 * `NaN` without tokens. It is what `Loss.mean` gives where all target tokens of a step have the same weight.
 *
 * @category math
 * @since 0.1.0
 */
export const tokenMean = (perToken: Rows, masks?: Rows): number => {
  let [sum, count] = [0, 0]
  for (const [rowSum, rowCount] of sumAndCount(perToken, masks)) {
    sum += rowSum
    count += rowCount
  }
  return sum / count
}

/**
 * The mean over answers of the mean over their tokens: every answer counts the same, and a token of a long one for less.
 * Answers without tokens are left out.
 *
 * **Details**
 *
 * As {@link tokenMean}; with `Loss.mean`, give each target token of an answer the weight `1 / T`.
 *
 * @category math
 * @since 0.1.0
 */
export const sequenceMean = (perToken: Rows, masks?: Rows): number => {
  const means = sumAndCount(perToken, masks).flatMap(([sum, count]) => (count === 0 ? [] : [sum / count]))
  return means.reduce((sum, mean) => sum + mean, 0) / means.length
}

/**
 * Parts of the total loss and their weights: the mean {@link policyLosses}, the mean {@link valueLosses} (their half
 * included) with the weight `valueCoef`, and the language-modelling loss on pretraining text with the weight `ptxCoef`.
 * What is left out counts 0.
 *
 * @category models
 * @since 0.1.0
 */
export interface Parts {
  readonly policyLoss: number
  readonly valueLoss?: number | undefined
  readonly valueCoef?: number | undefined
  readonly lmLoss?: number | undefined
  readonly ptxCoef?: number | undefined
}

/**
 * The loss of PPO-ptx: `policyLoss + valueCoef valueLoss + ptxCoef lmLoss`. There is no entropy bonus.
 *
 * **Details**
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 2, negated; the value term is that of Ziegler et al. 2019.
 *
 * @category math
 * @since 0.1.0
 */
export const total = ({ lmLoss = 0, policyLoss, ptxCoef = 0, valueCoef = 0, valueLoss = 0 }: Parts): number =>
  policyLoss + valueCoef * valueLoss + ptxCoef * lmLoss
