/**
 * pass@k: how likely at least one of k samples of a problem is correct.
 *
 * @since 0.1.0
 */
import { Result } from "effect"
import type * as Estimate from "../Estimate.ts"
import * as Sample from "../Sample.ts"
import * as Share from "../Share.ts"

/**
 * What came of the samples of one problem.
 *
 * @category models
 * @since 0.1.0
 */
export interface Problem {
  readonly id: string
  /** How many samples were drawn, at least k. */
  readonly samples: number
  /** How many of them are correct. */
  readonly correct: number
}

/**
 * Probability that `k` of the samples, drawn without replacement, have a correct one among them. Unbiased for pass@k.
 *
 *     1 - C(samples - correct, k) / C(samples, k)
 *
 * Taken as a sum of logarithms, so that it neither overflows nor loses a small value. Source: Chen et al. 2021,
 * arXiv:2107.03374, section 2.1. Throws `RangeError` unless `0 <= correct <= samples` and `1 <= k <= samples`.
 *
 * @category math
 * @since 0.1.0
 */
export const ofProblem = (samples: number, correct: number, k: number): number => {
  const reason = wrong(samples, correct, k)
  if (reason !== undefined) throw new RangeError(reason)
  if (samples - correct < k) return 1
  // The ratio is the same with k and correct exchanged; the shorter product is taken.
  const [few, many] = k < correct ? [k, correct] : [correct, k]
  let log = 0
  for (let i = 0; i < few; i++) log += Math.log1p(-many / (samples - i))
  return 0 - Math.expm1(log) // never -0
}

const wrong = (samples: number, correct: number, k: number): string | undefined => {
  if (!Number.isInteger(k) || k < 1) return `k is a whole number from 1, got ${k}`
  if (!Number.isInteger(samples) || samples < k) return `pass@${k} needs at least ${k} samples, got ${samples}`
  if (!Number.isInteger(correct) || correct < 0 || correct > samples) {
    return `${correct} correct of ${samples} samples; there can be 0 to ${samples}`
  }
  return undefined
}

/**
 * pass@k of each problem. Fails where a problem has fewer than `k` samples or counts that make no sense.
 *
 * @category constructors
 * @since 0.1.0
 */
export const sample = (
  name: string,
  problems: Iterable<Problem>,
  k: number
): Result.Result<Sample.Sample, Sample.SampleError> => {
  const items: Array<Sample.Item> = []
  for (const { correct, id, samples } of problems) {
    const reason = wrong(samples, correct, k)
    if (reason !== undefined) return Result.fail(new Sample.SampleError({ sample: name, item: id, reason }))
    items.push({ id, value: ofProblem(samples, correct, k) })
  }
  return Sample.make(name, items)
}

/**
 * Mean pass@k over the problems, which are taken as independent draws, with the interval of `Share.mean`: Student's t,
 * cut to `[0, 1]`, or Wilson's where all or none are solved for certain.
 *
 * @category constructors
 * @since 0.1.0
 */
export const estimate = (
  name: string,
  problems: Iterable<Problem>,
  k: number,
  confidence = 0.95
): Result.Result<Estimate.Estimate, Sample.SampleError> =>
  Result.map(sample(name, problems, k), (values) => {
    const mean = Share.mean(values, confidence)
    return { ...mean, method: `pass@${k} over problems, ${mean.method}` }
  })
