/**
 * Log-probabilities from logits, and the sums that masks allow. Natural logarithms, so the unit is the nat.
 *
 * Rows lie one after another: logits of shape `[N, V]` are an array of `N * V` numbers. Results are 32-bit; every
 * maximum, exponential and sum is taken in 64 bits. Masks are 1 = keep.
 *
 * @since 0.1.0
 */

const rowCount = (logits: Float32Array, vocabSize: number): number => {
  if (!(vocabSize > 0) || logits.length % vocabSize !== 0) {
    throw new RangeError(`${logits.length} logits are not whole rows of ${vocabSize}`)
  }
  return logits.length / vocabSize
}

const logSumExp = (logits: Float32Array, start: number, end: number, temperature: number): number => {
  let max = -Infinity
  for (let i = start; i < end; i++) max = Math.max(max, logits[i]!)
  if (max === -Infinity) return -Infinity
  let sum = 0
  for (let i = start; i < end; i++) sum += Math.exp((logits[i]! - max) / temperature)
  return max / temperature + Math.log(sum)
}

/**
 * Computes the logarithm of the softmax of each row of logits.
 *
 * **Details**
 *
 * Shapes: `logits` `[N, V]`; result `[N, V]`.
 *
 *     logSoftmax(x)_v = x_v / temperature - log(sum_w exp(x_w / temperature))
 *
 * **Gotchas**
 *
 * `temperature` must be above 0; greedy decoding is an arg-max, not a limit taken here. A logit of `-Infinity` stays
 * `-Infinity`.
 *
 * **Example** (Turning three logits into probabilities)
 *
 * ```ts
 * import { Logprobs } from "@attune/core"
 *
 * Logprobs.logSoftmax(Float32Array.of(0, 0), 2).map(Math.exp) // => Float32Array.of(0.5, 0.5)
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const logSoftmax = (logits: Float32Array, vocabSize: number, temperature = 1): Float32Array => {
  if (!(temperature > 0)) throw new RangeError(`temperature must be above 0, got ${temperature}`)
  const rows = rowCount(logits, vocabSize)
  const result = new Float32Array(logits.length)
  for (let n = 0; n < rows; n++) {
    const start = n * vocabSize
    const total = logSumExp(logits, start, start + vocabSize, temperature)
    for (let i = start; i < start + vocabSize; i++) result[i] = logits[i]! / temperature - total
  }
  return result
}

/**
 * Computes the log-probability of one token per row of logits.
 *
 * **Details**
 *
 * Shapes: `logits` `[N, V]`, `tokens` `[N]`; result `[N]`. Equal to `logSoftmax` followed by picking, without the `[N,
 * V]` intermediate. The caller aligns the two: row `n` must be the logits that predict token `n`.
 *
 * **Gotchas**
 *
 * Throws on a token id outside `[0, V)`.
 *
 * @category math
 * @since 0.1.0
 */
export const gather = (
  logits: Float32Array,
  vocabSize: number,
  tokens: ArrayLike<number>,
  temperature = 1
): Float32Array => {
  if (!(temperature > 0)) throw new RangeError(`temperature must be above 0, got ${temperature}`)
  if (rowCount(logits, vocabSize) !== tokens.length) {
    throw new RangeError(`${rowCount(logits, vocabSize)} rows of logits for ${tokens.length} tokens`)
  }
  const result = new Float32Array(tokens.length)
  for (let n = 0; n < tokens.length; n++) {
    const token = tokens[n]!
    if (!(token >= 0 && token < vocabSize))
      throw new RangeError(`token ${token} is outside a vocabulary of ${vocabSize}`)
    const start = n * vocabSize
    result[n] = logits[start + token]! / temperature - logSumExp(logits, start, start + vocabSize, temperature)
  }
  return result
}

/**
 * Computes the entropy of each row's softmax, in nats.
 *
 * **Details**
 *
 * Shapes: `logits` `[N, V]`; result `[N]`, between 0 and `log(V)`. Entries of probability 0 add nothing.
 *
 *     entropy = -sum_v p_v log p_v
 *
 * @category math
 * @since 0.1.0
 */
export const entropy = (logits: Float32Array, vocabSize: number): Float32Array => {
  const rows = rowCount(logits, vocabSize)
  const result = new Float32Array(rows)
  for (let n = 0; n < rows; n++) {
    const start = n * vocabSize
    const total = logSumExp(logits, start, start + vocabSize, 1)
    let sum = 0
    for (let i = start; i < start + vocabSize; i++) {
      const logprob = logits[i]! - total
      if (logprob > -Infinity) sum -= Math.exp(logprob) * logprob
    }
    result[n] = Math.max(0, sum)
  }
  return result
}

const checkMask = (values: ArrayLike<number>, mask: ArrayLike<number>): void => {
  if (values.length !== mask.length) throw new RangeError(`${values.length} values for a mask of ${mask.length}`)
}

/**
 * Sums the values that the mask keeps. Shapes: `values` and `mask` `[N]`. A masked value may be anything, NaN included.
 *
 * @category math
 * @since 0.1.0
 */
export const maskedSum = (values: ArrayLike<number>, mask: ArrayLike<number>): number => {
  checkMask(values, mask)
  let sum = 0
  for (let i = 0; i < values.length; i++) {
    if (mask[i]! !== 0) sum += values[i]! * mask[i]!
  }
  return sum
}

/**
 * Averages the values that the mask keeps; `NaN` when it keeps none, so that an empty batch cannot pass for a zero
 * loss.
 *
 * **Example** (Leaving padding out)
 *
 * ```ts
 * import { Logprobs } from "@attune/core"
 *
 * Logprobs.maskedMean([1, 2, 99], [1, 1, 0]) // => 1.5
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const maskedMean = (values: ArrayLike<number>, mask: ArrayLike<number>): number => {
  let kept = 0
  for (let i = 0; i < mask.length; i++) kept += mask[i]!
  return maskedSum(values, mask) / kept
}

/**
 * Sums each row over the entries that the mask keeps. Shapes: `values` and `mask` `[B, T]`; result `[B]`. `length`: `T`.
 *
 * @category math
 * @since 0.1.0
 */
export const sequenceSums = (values: Float32Array, mask: ArrayLike<number>, length: number): Float32Array => {
  checkMask(values, mask)
  const result = new Float32Array(rowCount(values, length))
  for (let b = 0; b < result.length; b++) {
    let sum = 0
    for (let i = b * length; i < (b + 1) * length; i++) {
      if (mask[i]! !== 0) sum += values[i]! * mask[i]!
    }
    result[b] = sum
  }
  return result
}
