/**
 * Scores of values that were measured on items in an order, which is the same for every system.
 *
 * @since 0.1.0
 */
import { Sample, Score } from "@attune/eval"
import { Effect } from "effect"

/**
 * A score of one value for each item; `make` says which estimate, by default the mean.
 *
 * @category constructors
 * @since 0.1.0
 */
export const score = (
  measured: Score.Measured,
  values: ReadonlyArray<number>,
  make: typeof Score.mean = Score.mean
): Effect.Effect<Score.Score, Sample.SampleError> =>
  Effect.map(Effect.fromResult(Sample.fromValues(`${measured.system}, ${measured.metric}`, values)), (sample) =>
    make(measured, sample)
  )
