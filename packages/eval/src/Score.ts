/**
 * A metric of a system on a task: the values of its items and the estimate made of them.
 *
 * @since 0.1.0
 */
import * as Estimate from "./Estimate.ts"
import type { Sample } from "./Sample.ts"
import * as Share from "./Share.ts"

/**
 * What was measured. `metric` is named as in the LM evaluation harness where it has the metric (`acc`, `acc_norm`,
 * `exact_match`, `word_perplexity`, …).
 *
 * @category models
 * @since 0.1.0
 */
export interface Measured {
  /** The model or method that was measured. */
  readonly system: string
  /** The benchmark: `hellaswag`, `truthfulqa_mc1`, … */
  readonly task: string
  readonly metric: string
  readonly unit: string
  readonly higherIsBetter: boolean
}

/**
 * A benchmark's or a comparison's result.
 *
 * @category models
 * @since 0.1.0
 */
export interface Score extends Measured {
  readonly estimate: Estimate.Estimate
  /** One value per item, from which the estimate was made, and by which two systems are paired. */
  readonly sample: Sample
}

/**
 * Score whose estimate is the mean of the items, clustered where they are: {@link Estimate.clustered}.
 *
 * @category constructors
 * @since 0.1.0
 */
export const mean = (measured: Measured, sample: Sample, confidence = 0.95): Score => ({
  ...measured,
  estimate: Estimate.clustered(sample, confidence),
  sample
})

/**
 * Score whose estimate is the mean of items that lie in `[0, 1]`, with an interval that does too: `Share.mean`. Throws on
 * any other value.
 *
 * @category constructors
 * @since 0.1.0
 */
export const share = (measured: Measured, sample: Sample, confidence = 0.95): Score => ({
  ...measured,
  estimate: Share.mean(sample, confidence),
  sample
})

/**
 * Score whose estimate is the share of items that are 1 among items that are 0 or 1, with Wilson's interval, or the
 * clustered one: `Share.rate`. Throws on any other value.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rate = (measured: Measured, sample: Sample, confidence = 0.95): Score => ({
  ...measured,
  estimate: Share.rate(sample, confidence),
  sample
})
