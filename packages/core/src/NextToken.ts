/**
 * The choice of one token from one row of logits, for samplers that decode through JavaScript.
 *
 * Log-probabilities are in nats; a token that cannot be drawn has `-Infinity`. Arithmetic is 64-bit, results are
 * 32-bit.
 *
 * @since 0.1.0
 */
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import type { SampleOptions } from "./Sampler.ts"

/**
 * What shapes the distribution of the next token.
 *
 * @category models
 * @since 0.1.0
 */
export type Settings = Pick<SampleOptions, "temperature" | "topK" | "topP" | "repetitionPenalty">

/**
 * Computes the log-probs that a token is drawn from.
 *
 * **Details**
 *
 * Shapes: `logits` `[V]`; result `[V]`. `present` are the ids that the repetition penalty counts: prompt and completion
 * so far. Processors apply in the order of Hugging Face's `generate`:
 *
 *     repetition penalty   x_v <- x_v / penalty where x_v > 0, x_v * penalty otherwise, for v in present
 *     temperature          x   <- x / temperature
 *     top-k                drops x_v below the k-th largest; ties with it stay
 *     top-p                drops the least likely tokens, ascending, while their probabilities sum to at most 1 - topP
 *     result               x - logSumExp(x)
 *
 * Source: transformers 5, `generation/logits_process.py`. Deviation: of equally likely tokens top-p drops the largest
 * ids first, where transformers leaves the order to its sort.
 *
 * **Gotchas**
 *
 * With temperature 0 the result is the greedy choice: 0 for it and `-Infinity` for all others.
 *
 * **Example** (Keeping two of four tokens)
 *
 * ```ts
 * import { NextToken } from "@attune/core"
 *
 * const settings = { temperature: 1, topK: 2, topP: 1, repetitionPenalty: 1 }
 * NextToken.logprobs(Float32Array.of(0, 3, 3, 1), settings, []).map(Math.exp) // => Float32Array.of(0, 0.5, 0.5, 0)
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const logprobs = (logits: Float32Array, settings: Settings, present: Iterable<number>): Float32Array => {
  const { repetitionPenalty, temperature, topK, topP } = settings
  const scores = new Float64Array(logits)
  if (repetitionPenalty !== 1) {
    for (const id of new Set(present)) {
      const score = scores[id]!
      scores[id] = score < 0 ? score * repetitionPenalty : score / repetitionPenalty
    }
  }
  if (temperature === 0) {
    const best = greedy(scores)
    const certain = new Float32Array(scores.length).fill(-Infinity)
    certain[best] = 0
    return certain
  }
  if (temperature !== 1) for (let id = 0; id < scores.length; id++) scores[id] = scores[id]! / temperature
  if (topK > 0 && topK < scores.length) {
    const threshold = kthLargest(scores, topK)
    for (let id = 0; id < scores.length; id++) if (scores[id]! < threshold) scores[id] = -Infinity
  }
  if (topP < 1) keepNucleus(scores, topP)
  const max = scores[greedy(scores)]!
  let sum = 0
  for (let id = 0; id < scores.length; id++) sum += Math.exp(scores[id]! - max)
  const total = max + Math.log(sum)
  const result = new Float32Array(scores.length)
  for (let id = 0; id < scores.length; id++) result[id] = scores[id]! - total
  return result
}

/**
 * The largest entry's index; the smallest index of equal ones.
 *
 * @category math
 * @since 0.1.0
 */
export const greedy = (row: Float32Array | Float64Array): number => {
  let best = 0
  for (let id = 1; id < row.length; id++) if (row[id]! > row[best]!) best = id
  return best
}

/**
 * Chooses a token by inverting the cumulative distribution, in the order of ids.
 *
 * **Details**
 *
 * Shapes: `logprobs` `[V]`, normalised. `uniform` is in `[0, 1)`; result: the smallest `v` with
 * `sum_{w <= v} exp(logprobs_w) > uniform`.
 *
 * @category math
 * @since 0.1.0
 */
export const choose = (logprobs: Float32Array, uniform: number): number => {
  let sum = 0
  let last = 0
  for (let id = 0; id < logprobs.length; id++) {
    if (logprobs[id] === -Infinity) continue
    sum += Math.exp(logprobs[id]!)
    if (sum > uniform) return id
    last = id
  }
  return last // 32-bit probabilities may sum to slightly less than 1
}

/**
 * An endless stream of uniform numbers in `[0, 1)` that depends on nothing but its seed, a 32-bit integer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const uniforms = (seed: number): (() => number) => {
  const generator = xoroshiro128plus(mix(seed))
  // the first two outputs are near-linear in the seed
  for (let i = 0; i < 4; i++) generator.next()
  return () => (generator.next() >>> 0) / 2 ** 32
}

/**
 * The seed of a row that was given none of its own: from the seed of the run and the prompt's place.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rowSeed = (seed: number, index: number): number => mix(mix(seed) + index)

// MurmurHash3's finaliser: neighbouring integers become unrelated ones
const mix = (value: number): number => {
  let h = (value | 0) ^ 0x9e3779b9
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) | 0
}

const kthLargest = (scores: Float64Array, k: number): number => {
  if (k > 256) return scores.slice().sort()[scores.length - k]!
  // The k largest so far, ascending. Few of a long row get in, so this beats sorting it.
  const largest = new Float64Array(k).fill(-Infinity)
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id]!
    if (!(score > largest[0]!)) continue
    let place = 0
    while (place + 1 < k && largest[place + 1]! < score) {
      largest[place] = largest[place + 1]!
      place++
    }
    largest[place] = score
  }
  return largest[0]!
}

const keepNucleus = (scores: Float64Array, topP: number): void => {
  // Weights relative to the largest, not probabilities: equal scores then weigh exactly the same.
  const max = scores[greedy(scores)]!
  const weights = new Float64Array(scores.length)
  let total = 0
  for (let id = 0; id < scores.length; id++) {
    weights[id] = Math.exp(scores[id]! - max)
    total += weights[id]!
  }
  const tail = (1 - topP) * total
  // Tokens that weigh no more than tail / V sum to at most `tail`: they go without being sorted, which is nearly all.
  const negligible = tail / scores.length
  const candidates: Array<number> = []
  let dropped = 0
  for (let id = 0; id < scores.length; id++) {
    if (weights[id]! > negligible) candidates.push(id)
    else {
      dropped += weights[id]!
      scores[id] = -Infinity
    }
  }
  candidates.sort((a, b) => scores[a]! - scores[b]! || b - a)
  for (const id of candidates.slice(0, -1)) {
    dropped += weights[id]!
    if (dropped > tail) return
    scores[id] = -Infinity
  }
}
