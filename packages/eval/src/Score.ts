/**
 * A metric of a system on a task: the values of its items and the estimate made of them.
 *
 * @since 0.1.0
 */
import type { Estimate } from "./Estimate.ts"
import type { Sample } from "./Sample.ts"

/**
 * What a benchmark or a comparison measured. `metric` is named as in the LM evaluation harness where it has the metric
 * (`acc`, `acc_norm`, `exact_match`, `word_perplexity`, …).
 *
 * @category models
 * @since 0.1.0
 */
export interface Score {
  /** The model or method that was measured. */
  readonly system: string
  /** The benchmark: `hellaswag`, `truthfulqa_mc1`, … */
  readonly task: string
  readonly metric: string
  readonly unit: string
  readonly higherIsBetter: boolean
  readonly estimate: Estimate
  /** One value per item, from which the estimate was made, and by which two systems are paired. */
  readonly sample: Sample
}
