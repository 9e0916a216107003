/**
 * Estimates of how far a policy has moved from its reference, per sampled token, in nats.
 *
 * Sign: `logRatio = logprobs - refLogprobs`, where the tokens were sampled from the policy. Averaged over such tokens,
 * the estimates approach `KL(policy || reference)`.
 *
 * @since 0.1.0
 */

/**
 * Names of the estimators.
 *
 * @category models
 * @since 0.1.0
 */
export type Estimator = "k1" | "k2" | "k3"

const estimators: { readonly [K in Estimator]: (logRatio: number) => number } = {
  k1: (logRatio) => logRatio,
  k2: (logRatio) => (logRatio * logRatio) / 2,
  // exp(-r) - 1 + r, with expm1 because exp(-r) - 1 loses every digit where r is small
  k3: (logRatio) => Math.expm1(-logRatio) + logRatio
}

/**
 * Estimates the KL divergence of the policy from the reference, per token.
 *
 * **Details**
 *
 * Shapes: `logprobs` `[T]`, `refLogprobs` `[T]`; result `[T]`.
 *
 *     r  = logprobs - refLogprobs
 *     k1 = r                   unbiased, may be negative
 *     k2 = r^2 / 2             biased, never negative
 *     k3 = exp(-r) - 1 + r     unbiased, never negative
 *
 * Source: Schulman, "Approximating KL Divergence" (2020); the names are his.
 *
 * **Gotchas**
 *
 * The tokens must be sampled from the policy that gave `logprobs`. k1 is what the KL penalty of PPO subtracts. Throws
 * when the two arrays differ in length.
 *
 * **Example** (Estimating on two tokens)
 *
 * ```ts
 * import { Kl } from "@attune/core"
 *
 * Kl.estimate(Float32Array.of(-1, -2), Float32Array.of(-1.5, -1.5), "k2") // => Float32Array.of(0.125, 0.125)
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const estimate = (logprobs: Float32Array, refLogprobs: Float32Array, estimator: Estimator): Float32Array => {
  if (logprobs.length !== refLogprobs.length) {
    throw new RangeError(`${logprobs.length} logprobs for ${refLogprobs.length} refLogprobs`)
  }
  const kl = estimators[estimator]
  return logprobs.map((logprob, t) => kl(logprob - refLogprobs[t]!))
}

/**
 * Sums an estimate over the tokens of one sequence: the quantity that an adaptive KL controller looks at.
 *
 * **Details**
 *
 * Shapes: `logprobs` `[T]`, `refLogprobs` `[T]`. Average this over sequences; averaging over tokens instead makes
 * long answers look close to the reference.
 *
 * @category math
 * @since 0.1.0
 */
export const sequence = (logprobs: Float32Array, refLogprobs: Float32Array, estimator: Estimator): number =>
  estimate(logprobs, refLogprobs, estimator).reduce((sum, kl) => sum + kl, 0)

/**
 * Computes `KL(p || q)` of two distributions exactly, from their log-probabilities over the same outcomes.
 *
 * **Details**
 *
 * Shapes: `logprobs` `[V]`, `refLogprobs` `[V]`. An outcome that `p` never takes adds nothing; one that `p` takes and
 * `q` never does makes the result infinite.
 *
 *     KL(p || q) = sum_v p_v (log p_v - log q_v)
 *
 * @category math
 * @since 0.1.0
 */
export const exact = (logprobs: ArrayLike<number>, refLogprobs: ArrayLike<number>): number => {
  if (logprobs.length !== refLogprobs.length) {
    throw new RangeError(`${logprobs.length} logprobs for ${refLogprobs.length} refLogprobs`)
  }
  let sum = 0
  for (let v = 0; v < logprobs.length; v++) {
    if (logprobs[v]! > -Infinity) sum += Math.exp(logprobs[v]!) * (logprobs[v]! - refLogprobs[v]!)
  }
  return sum
}
