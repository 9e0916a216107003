/**
 * Whether probabilities mean what they say: of what is predicted with 70 %, 70 % should come true.
 *
 * For a judge's p(Yes) against a person's answers, or a reward model's chance that one response beats another against what
 * people chose.
 *
 * @since 0.1.0
 */
import { Result } from "effect"
import type * as Estimate from "../Estimate.ts"
import * as Sample from "../Sample.ts"
import * as Share from "../Share.ts"
import * as Bootstrap from "./Bootstrap.ts"

/**
 * A probability, and whether what it was given to came true. `cluster` as in `Sample.Item`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Prediction {
  readonly id: string
  /** In `[0, 1]`. */
  readonly probability: number
  readonly outcome: 0 | 1
  readonly cluster?: string | undefined
}

/**
 * Checked predictions: at least one, probabilities in `[0, 1]`, outcomes 0 or 1, ids distinct.
 *
 * @category models
 * @since 0.1.0
 */
export interface Predictions {
  readonly probabilities: Sample.Sample
  readonly outcomes: Sample.Sample
}

/**
 * Checks predictions. Fails with the item at fault.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  name: string,
  predictions: Iterable<Prediction>
): Result.Result<Predictions, Sample.SampleError> => {
  const all = Array.from(predictions)
  for (const { id, outcome, probability } of all) {
    const fail = (reason: string) => Result.fail(new Sample.SampleError({ sample: name, item: id, reason }))
    if (!(probability >= 0 && probability <= 1)) {
      return fail(`the probability is ${probability}; a probability lies in [0, 1]`)
    }
    if (outcome !== 0 && outcome !== 1) return fail(`the outcome is ${outcome}; an outcome is 0 or 1`)
  }
  const sample = (what: string, value: (prediction: Prediction) => number) =>
    Sample.make(
      `${name}, ${what}`,
      all.map((prediction) => ({ id: prediction.id, cluster: prediction.cluster, value: value(prediction) }))
    )
  return Result.all({
    probabilities: sample("probabilities", ({ probability }) => probability),
    outcomes: sample("outcomes", ({ outcome }) => outcome)
  })
}

/**
 * Probability that the response with the higher score is the better one, as Bradley-Terry reward models are trained:
 * `sigmoid(difference)`. Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.
 *
 * **Example** (Scores one apart)
 *
 * ```ts
 * import { Calibration } from "@attune/eval"
 *
 * Calibration.winProbability(1).toFixed(6) // => "0.731059"
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const winProbability = (difference: number): number =>
  difference >= 0 ? 1 / (1 + Math.exp(-difference)) : Math.exp(difference) / (1 + Math.exp(difference))

/**
 * How probabilities are put in bins: bins of equal width, or as many predictions in each, `bins` of them, 10 where nothing
 * is said.
 *
 * @category models
 * @since 0.1.0
 */
export interface Binning {
  readonly bins?: number
  readonly by: "width" | "count"
}

/**
 * A bin with predictions in it: probabilities above `from` (the first bin: from `from`) up to and with `to`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Bin {
  readonly from: number
  readonly to: number
  /** Mean probability of the predictions in it. */
  readonly predicted: number
  /** Share of them that came true. */
  readonly observed: Estimate.Estimate
  readonly n: number
}

/** Linear between the two nearest of the ascending values, as numpy takes quantiles. */
const quantile = (ascending: Float64Array, p: number): number => {
  const at = p * (ascending.length - 1)
  const [below, above] = [ascending[Math.floor(at)]!, ascending[Math.ceil(at)]!]
  return below + (at - Math.floor(at)) * (above - below)
}

interface Placed {
  readonly edges: ReadonlyArray<number>
  /** Bin of each prediction. */
  readonly places: ReadonlyArray<number>
}

const place = ({ probabilities }: Predictions, { bins = 10, by }: Binning): Placed => {
  if (!Number.isInteger(bins) || bins < 1) throw new RangeError(`bins is a whole number from 1, got ${bins}`)
  const ascending = probabilities.values.toSorted()
  const edges = Array.from({ length: bins + 1 }, (_, b) => (by === "width" ? b / bins : quantile(ascending, b / bins)))
  const inner = edges.slice(1, -1)
  // An edge belongs to the bin below it, and equal probabilities to one bin, whatever the bins.
  const places = Array.from(probabilities.values, (probability) => {
    const above = inner.findIndex((edge) => probability <= edge)
    return above < 0 ? inner.length : above
  })
  return { edges, places }
}

const pick = ({ clusters, ids, name, values }: Sample.Sample, chosen: ReadonlyArray<number>): Sample.Sample => ({
  name,
  ids: chosen.map((i) => ids[i]!),
  values: Float64Array.from(chosen, (i) => values[i]!),
  ...(clusters === undefined ? {} : { clusters: chosen.map((i) => clusters[i]!) })
})

/**
 * The reliability diagram: bins in ascending order, those without predictions left out.
 *
 * **Details**
 *
 * Edges and means are those of scikit-learn's `calibration_curve`, with `by: "count"` for its `strategy="quantile"`. Equal
 * probabilities share a bin, so bins of equal count may be fewer and uneven. Observed shares have Wilson's interval; a
 * clustered one where predictions have clusters. Throws `RangeError` where `bins` is no whole number from 1.
 *
 * Source: DeGroot & Fienberg 1983; Murphy & Winkler 1977.
 *
 * @category math
 * @since 0.1.0
 */
export const bins = (
  predictions: Predictions,
  binning: Binning & { readonly confidence?: number }
): ReadonlyArray<Bin> => {
  const { edges, places } = place(predictions, binning)
  return edges.slice(1).flatMap((to, b): ReadonlyArray<Bin> => {
    const chosen = places.flatMap((place, i) => (place === b ? [i] : []))
    if (chosen.length === 0) return []
    const { values } = pick(predictions.probabilities, chosen)
    const bin = {
      from: edges[b]!,
      to,
      predicted: values.reduce((sum, value) => sum + value, 0) / values.length,
      observed: Share.rate(pick(predictions.outcomes, chosen), binning.confidence),
      n: chosen.length
    }
    return [bin]
  })
}

/**
 * Expected calibration error: how far the bins lie from the diagonal, on average over predictions.
 *
 *     Σ_b n_b / n |mean probability_b - share that came true_b|
 *
 * **Details**
 *
 * The bins stay as they are on the data; predictions (or clusters) are drawn again. The resamples' own quantiles are not an
 * interval here: noise only ever adds to a sum of absolute values, so that they never reach 0 for probabilities that
 * are perfectly calibrated. Instead
 *
 *     low    error - q     q: upper quantile of Σ_b |gap_b on the resample - gap_b on the data|, by the triangle inequality
 *     high   2 error - lower quantile of the error on resamples
 *
 * cut at 0. Source of the error: Naeini et al. 2015, AAAI; of its bias: Kumar et al. 2019, arXiv:1909.10155.
 *
 * **Gotchas**
 *
 * The value itself is too large for the same reason, the more so the fewer predictions there are in a bin: at n = 500 and
 * 10 bins a calibrated model has some 0.045. Compare models on the same items and bins only.
 *
 * @category math
 * @since 0.1.0
 */
export const expectedError = (
  predictions: Predictions,
  { bins, by, ...options }: Binning & Bootstrap.Options
): Estimate.Estimate => {
  const { outcomes, probabilities } = predictions
  const { edges, places } = place(predictions, { by, ...(bins === undefined ? {} : { bins }) })
  const bin = Uint32Array.from(places)
  const gap = probabilities.values.map((probability, i) => probability - outcomes.values[i]!)
  const gaps = (drawn: Float64Array): Float64Array => {
    const sums = new Float64Array(edges.length - 1)
    for (let k = 0; k < drawn.length; k++) sums[bin[drawn[k]!]!]! += gap[drawn[k]!]!
    return sums.map((sum) => sum / drawn.length)
  }
  // What is drawn again are the places of the predictions, so that both numbers of one stay together.
  const indices = { ...outcomes, values: outcomes.values.map((_, i) => i) }
  const onData = gaps(indices.values)
  const distanceFrom = (centre: Float64Array) =>
    Bootstrap.percentile(indices, {
      ...options,
      statistic: (drawn) => gaps(drawn).reduce((sum, gap, b) => sum + Math.abs(gap - centre[b]!), 0)
    })
  const error = distanceFrom(new Float64Array(onData.length))
  const moved = distanceFrom(onData)
  const { low, value } = error
  if (low === null || moved.high === null) return error
  return {
    ...error,
    low: Math.max(0, value - moved.high),
    high: Math.min(1, Math.max(value, 2 * value - low)),
    method: `expected calibration error, ${edges.length - 1} bins of equal ${by}, ${error.method}, bias corrected`
  }
}

/**
 * Brier score: mean of `(probability - outcome)²`, in `[0, 1]`, smaller is better. It rewards both calibration and telling
 * outcomes apart; saying one half everywhere gives 0.25. Source: Brier 1950.
 *
 * @category math
 * @since 0.1.0
 */
export const brierScore = ({ outcomes, probabilities }: Predictions, confidence = 0.95): Estimate.Estimate =>
  Share.mean(
    { ...outcomes, values: outcomes.values.map((outcome, i) => (probabilities.values[i]! - outcome) ** 2) },
    confidence
  )
