/**
 * Best-of-n: the expected score when the best of n samples is kept, how far that moves from the sampling policy, and
 * what it does to another score that was not optimised.
 *
 * @since 0.1.0
 */
import { Result } from "effect"
import * as Estimate from "../Estimate.ts"
import * as Sample from "../Sample.ts"

/**
 * Upper bound of `KL(best-of-n || policy)` in nats, `log n - (n - 1) / n`; it is the KL itself
 * where the policy never gives the same sample twice. Source: Stiennon et al. 2020, arXiv:2009.01325; Beirami et al. 2024,
 * arXiv:2401.01879, that it is a bound and no more. Throws `RangeError` unless `n` is a whole number from 1.
 *
 * **Example** (How far best of 64 may move)
 *
 * ```ts
 * import { BestOfN } from "@attune/eval"
 *
 * BestOfN.klBound(64).toFixed(6) // => "3.174508"
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const klBound = (n: number): number => {
  if (!Number.isInteger(n) || n < 1) throw new RangeError(`n is a whole number from 1, got ${n}`)
  return Math.log(n) - (n - 1) / n
}

const wrong = (scores: ArrayLike<number>, gold: ArrayLike<number>, n: number): string | undefined => {
  if (!Number.isInteger(n) || n < 1) return `n is a whole number from 1, got ${n}`
  if (scores.length < n) return `best of ${n} needs at least ${n} scores, got ${scores.length}`
  if (gold.length !== scores.length) return `${gold.length} gold scores for ${scores.length} scores`
  for (const [name, values] of [["score", scores] as const, ["gold score", gold] as const]) {
    const bad = Array.from(values).findIndex((value) => !Number.isFinite(value))
    if (bad >= 0) return `${name} ${bad} is ${values[bad]}; a score is a finite number`
  }
  return undefined
}

const selected = (scores: ArrayLike<number>, gold: ArrayLike<number>, n: number): number => {
  const m = scores.length
  const order = Uint32Array.from(scores, (_, i) => i).sort((a, b) => scores[a]! - scores[b]!)
  // Probability that the j-th smallest is the largest of the n: C(j - 1, n - 1) / C(m, n), from the largest downwards.
  let weight = n / m
  let sum = 0
  for (let j = m; j >= n; ) {
    // Equal scores share their weights: any of them may be the one that is kept.
    const score = scores[order[j - 1]!]!
    let [weights, golds, ties] = [0, 0, 0]
    for (; j >= 1 && scores[order[j - 1]!] === score; j--) {
      weights += weight
      golds += gold[order[j - 1]!]!
      ties += 1
      weight *= j > 1 ? (j - n) / (j - 1) : 0
    }
    sum += (weights * golds) / ties
  }
  return sum
}

/**
 * Expected largest of `n` scores drawn without replacement from all: unbiased for the expected best of `n` fresh
 * samples.
 *
 *     Σ_j x_(j) C(j - 1, n - 1) / C(m, n)      x_(j): the j-th smallest of the m scores
 *
 * The weights come from each other by multiplication, so that no binomial is ever formed. Throws `RangeError` where
 * there are fewer than `n` scores, or one is not finite.
 *
 * **Example** (Best of two)
 *
 * ```ts
 * import { BestOfN } from "@attune/eval"
 *
 * BestOfN.expectedMax([0.1, 0.4, 0.5, 0.9], 2).toFixed(8) // => "0.68333333"
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const expectedMax = (scores: ArrayLike<number>, n: number): number => expectedGold(scores, scores, n)

/**
 * Expected gold score of the sample that has the largest `scores` among `n`: as {@link expectedMax}, with the value of
 * another measure. Samples of equal score are equally likely kept. Source: Gao et al. 2023, arXiv:2210.10760.
 *
 * @category math
 * @since 0.1.0
 */
export const expectedGold = (scores: ArrayLike<number>, gold: ArrayLike<number>, n: number): number => {
  const reason = wrong(scores, gold, n)
  if (reason !== undefined) throw new RangeError(reason)
  return selected(scores, gold, n)
}

/**
 * The scores of the samples of one prompt: those by which the best is chosen, and, in the same order, those of the
 * measure that it should serve.
 *
 * @category models
 * @since 0.1.0
 */
export interface Prompt {
  readonly id: string
  readonly scores: ArrayLike<number>
  /** The scores themselves where nothing is said. */
  readonly gold?: ArrayLike<number>
}

/**
 * Expected gold score under best-of-n of each prompt. Fails where a prompt has fewer than `n` scores, not as many gold
 * scores, or one that is not finite.
 *
 * @category constructors
 * @since 0.1.0
 */
export const sample = (
  name: string,
  prompts: Iterable<Prompt>,
  n: number
): Result.Result<Sample.Sample, Sample.SampleError> => {
  const items: Array<Sample.Item> = []
  for (const { id, scores, gold = scores } of prompts) {
    const reason = wrong(scores, gold, n)
    if (reason !== undefined) return Result.fail(new Sample.SampleError({ sample: name, item: id, reason }))
    items.push({ id, value: selected(scores, gold, n) })
  }
  return Sample.make(name, items)
}

/**
 * Mean over the prompts of the expected gold score under best-of-n; prompts are the independent draws: Student t
 * interval.
 *
 * @category constructors
 * @since 0.1.0
 */
export const estimate = (
  name: string,
  prompts: Iterable<Prompt>,
  n: number,
  confidence = 0.95
): Result.Result<Estimate.Estimate, Sample.SampleError> =>
  Result.map(sample(name, prompts, n), (values) => {
    const mean = Estimate.mean(values, confidence)
    return { ...mean, method: `best of ${n} over prompts, ${mean.method}` }
  })

/**
 * One point of an over-optimisation curve.
 *
 * @category models
 * @since 0.1.0
 */
export interface Point {
  readonly n: number
  /** {@link klBound} of `n`, in nats. */
  readonly kl: number
  /** Expected score of the kept sample. */
  readonly score: Estimate.Estimate
  /** Expected gold score of the kept sample. */
  readonly gold: Estimate.Estimate
}

/**
 * How score and gold score grow, or part, with `n`. Source: Gao et al. 2023, arXiv:2210.10760.
 *
 * @category constructors
 * @since 0.1.0
 */
export const curve = (
  name: string,
  prompts: ReadonlyArray<Prompt>,
  ns: ReadonlyArray<number>,
  confidence = 0.95
): Result.Result<ReadonlyArray<Point>, Sample.SampleError> => {
  const points: Array<Point> = []
  const scores = prompts.map(({ id, scores }) => ({ id, scores }))
  for (const n of ns) {
    const both = Result.all([estimate(name, scores, n, confidence), estimate(name, prompts, n, confidence)])
    if (Result.isFailure(both)) return Result.fail(both.failure)
    const [score, gold] = both.success
    points.push({ n, kl: klBound(n), score, gold })
  }
  return Result.succeed(points)
}
