/**
 * What alignment cost elsewhere: two systems on the same benchmarks, item by item.
 *
 * @since 0.1.0
 */
import { Result, Schema } from "effect"
import type * as Estimate from "../Estimate.ts"
import type * as Report from "../Report.ts"
import * as Sample from "../Sample.ts"
import type * as Score from "../Score.ts"
import * as Permutation from "../statistics/Permutation.ts"
import * as Power from "../statistics/Power.ts"

/**
 * The scores of two systems cannot be compared: a metric that only one of them has, or that is not the same for both.
 *
 * @category errors
 * @since 0.1.0
 */
export class AlignmentTaxError extends Schema.TaggedError<AlignmentTaxError>()("AlignmentTaxError", {
  /** Task and metric at fault, where it is one's. */
  task: Schema.optionalKey(Schema.String),
  metric: Schema.optionalKey(Schema.String),
  reason: Schema.String
}) {
  override get message(): string {
    const place = this.task === undefined ? "" : `${this.task}, ${this.metric}: `
    return `alignment tax: ${place}${this.reason}`
  }
}

/**
 * What the test found: a difference for the better or for the worse, or none. None found is not none: see the row's
 * `minimumDetectableEffect`.
 *
 * @category models
 * @since 0.1.0
 */
export type Verdict = "better" | "worse" | "no difference detected"

/**
 * One metric of one benchmark, before and after.
 *
 * @category models
 * @since 0.1.0
 */
export interface Row extends Omit<Score.Measured, "system"> {
  readonly before: Estimate.Estimate
  readonly after: Estimate.Estimate
  /** `after - before`, mean over items; its interval is not corrected for the number of rows. */
  readonly difference: Estimate.Estimate
  /** Two-sided, of a sign-flip test on the paired items. */
  readonly pValue: number
  /** Holm's correction over all rows. */
  readonly adjustedPValue: number
  /** How the p-value was made. */
  readonly test: string
  readonly verdict: Verdict
  /** In units of the metric; `null` where the items show no spread: one item, one cluster, or all differences equal. */
  readonly minimumDetectableEffect: Estimate.Estimate | null
}

/**
 * Rows in the order of the scores before.
 *
 * @category models
 * @since 0.1.0
 */
export interface AlignmentTax {
  readonly before: string
  readonly after: string
  /** Probability of calling any difference one where there are none: `1 - confidence`. */
  readonly alpha: number
  /** What was done about the number of rows, in words. */
  readonly correction: string
  readonly rows: ReadonlyArray<Row>
}

/**
 * Settings: those of the permutation tests; `power`, the probability with which the minimum detectable effect would be
 * found, 0.8 where nothing is said; and `resamples` for the interval of that effect, 10,000 where nothing is said.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Permutation.Options {
  readonly power?: number
  readonly resamples?: number
}

/**
 * Holm's adjusted p-values, in the order given: at or below `alpha` where the hypothesis is rejected, such that a false
 * rejection among all of them has probability `alpha` at most, however the tests depend on each other.
 *
 *     adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j))     p_(1) <= … <= p_(m)
 *
 * Source: Holm 1979, Scandinavian Journal of Statistics 6(2).
 *
 * **Example** (Correcting three tests)
 *
 * ```ts
 * import { AlignmentTax } from "@attune/eval"
 *
 * AlignmentTax.holm([0.01, 0.04, 0.03]) // => [0.03, 0.06, 0.06]
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const holm = (pValues: ReadonlyArray<number>): ReadonlyArray<number> => {
  const order = pValues.map((_, i) => i).sort((a, b) => pValues[a]! - pValues[b]!)
  const adjusted = new Array<number>(pValues.length)
  let most = 0
  for (const [rank, i] of order.entries()) {
    most = Math.max(most, Math.min(1, (pValues.length - rank) * pValues[i]!))
    adjusted[i] = most
  }
  return adjusted
}

const key = ({ metric, task }: Pick<Score.Score, "metric" | "task">) => JSON.stringify([task, metric])

const refuse = (reason: string, score?: Pick<Score.Score, "metric" | "task">) =>
  Result.fail(
    new AlignmentTaxError({ reason, ...(score === undefined ? {} : { task: score.task, metric: score.metric }) })
  )

interface Side {
  readonly system: string
  readonly scores: ReadonlyMap<string, Score.Score>
}

const side = (which: string, scores: ReadonlyArray<Score.Score>): Result.Result<Side, AlignmentTaxError> => {
  const [first] = scores
  if (first === undefined) return refuse(`no scores ${which}; give those of one system`)
  const byKey = new Map<string, Score.Score>()
  for (const score of scores) {
    if (score.system !== first.system) {
      return refuse(`the scores ${which} are of "${first.system}" and of "${score.system}"; give those of one system`)
    }
    if (byKey.has(key(score))) return refuse(`"${score.system}" has it twice ${which}`, score)
    byKey.set(key(score), score)
  }
  return Result.succeed({ system: first.system, scores: byKey })
}

const named = ({ metric, sample, system, task }: Score.Score): Sample.Sample => ({
  ...sample,
  name: `${system}: ${task} ${metric}`
})

const isMean = ({ estimate, sample: { values } }: Score.Score): boolean => {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  return Math.abs(mean - estimate.value) <= 1e-9 * Math.max(1, Math.abs(mean))
}

/** The first item that is not in the same cluster on both sides. */
const movedItem = (before: Sample.Sample, after: Sample.Sample): string | undefined => {
  const clusters = new Map(before.ids.map((id, i) => [id, before.clusters?.[i]]))
  return after.ids.find((id, i) => clusters.has(id) && clusters.get(id) !== after.clusters?.[i])
}

type Tested = Omit<Row, "adjustedPValue" | "verdict">

const test = (
  before: Score.Score,
  after: Score.Score,
  rows: number,
  { confidence = 0.95, power = 0.8, resamples = 10_000, ...options }: Options
): Result.Result<Tested, AlignmentTaxError | Sample.SampleError> => {
  const { higherIsBetter, metric, task, unit } = before
  if (after.higherIsBetter !== higherIsBetter || after.unit !== unit) {
    const say = (score: Score.Score) => `${score.unit}, ${score.higherIsBetter ? "higher" : "lower"} is better`
    return refuse(`"${before.system}" has it in ${say(before)}; "${after.system}" in ${say(after)}`, before)
  }
  const moved = movedItem(before.sample, after.sample)
  if (moved !== undefined) {
    return refuse(
      `item ${JSON.stringify(moved)} is not in the same cluster before and after; name clusters alike`,
      before
    )
  }
  return Result.map(Sample.pair(named(after), named(before)), (pair) => {
    const { difference, method, pValue } = Permutation.paired(pair, { ...options, confidence })
    const differences = Sample.difference(pair)
    const spread =
      difference.low === null ? undefined : Power.pilot(differences, { seed: options.seed, confidence, resamples })
    const alpha = (1 - confidence) / rows
    return {
      task,
      metric,
      unit,
      higherIsBetter,
      before: before.estimate,
      after: after.estimate,
      difference:
        isMean(before) && isMean(after)
          ? difference
          : {
              ...difference,
              method: `${difference.method}, of the items' values, whose mean the score is not`
            },
      pValue,
      test: method,
      minimumDetectableEffect: spread === undefined ? null : Power.detectable(spread, difference.n, { alpha, power })
    }
  })
}

const verdict = ({ difference, higherIsBetter }: Tested, adjustedPValue: number, alpha: number): Verdict => {
  if (adjustedPValue > alpha || difference.value === 0) return "no difference detected"
  return difference.value > 0 === higherIsBetter ? "better" : "worse"
}

/**
 * Compares the scores of one system after alignment with those of one system before it, metric by metric.
 *
 * **Details**
 *
 * Items are paired by id. The p-values are of sign-flip tests, corrected by {@link holm} over all rows; the verdict follows
 * them, at `alpha = 1 - confidence`. The minimum detectable effect is the true difference that would be found with the given
 * power at Holm's strictest step, `alpha / rows`. Intervals of differences are Student's (clustered where items are) and
 * hold for each row by itself: one may leave 0 out while the verdict, which answers for all rows at once, finds nothing.
 *
 * Fails where a metric exists on one side only, stands there twice, or differs in unit or direction; and where the items
 * or their clusters differ, with the first that does.
 *
 * Source of the term and of what it is measured by: Askell et al. 2021, arXiv:2112.00861; Ouyang et al. 2022,
 * arXiv:2203.02155, section 4.2.
 *
 * **Gotchas**
 *
 * Several metrics of one benchmark (`acc`, `acc_norm`) are several rows, and each makes the correction stricter: choose
 * beforehand. A metric whose score is not the mean of its items, such as a perplexity, is compared by the mean of its items'
 * values; the difference's `method` says so.
 *
 * @category combining
 * @since 0.1.0
 */
export const compare = (
  before: ReadonlyArray<Score.Score>,
  after: ReadonlyArray<Score.Score>,
  options: Options
): Result.Result<AlignmentTax, AlignmentTaxError | Sample.SampleError> => {
  const sides = Result.all([side("before", before), side("after", after)])
  if (Result.isFailure(sides)) return Result.fail(sides.failure)
  const [first, second] = sides.success
  for (const [has, lacks] of [
    [first, second],
    [second, first]
  ] as const) {
    const alone = [...has.scores].find(([key]) => !lacks.scores.has(key))
    if (alone !== undefined) {
      return refuse(`only "${has.system}" has it, not "${lacks.system}"; run it on both or leave it out`, alone[1])
    }
  }
  const tested: Array<Tested> = []
  for (const [key, score] of first.scores) {
    const row = test(score, second.scores.get(key)!, first.scores.size, options)
    if (Result.isFailure(row)) return Result.fail(row.failure)
    tested.push(row.success)
  }
  // 1 - 0.95 is a little above 0.05
  const alpha = Number((1 - (options.confidence ?? 0.95)).toPrecision(12))
  const adjusted = holm(tested.map(({ pValue }) => pValue))
  return Result.succeed({
    before: first.system,
    after: second.system,
    alpha,
    correction:
      tested.length === 1
        ? "none: there is one row"
        : `Holm over ${tested.length} rows, family-wise error rate ${alpha}`,
    rows: tested.map((row, i) => ({
      ...row,
      adjustedPValue: adjusted[i]!,
      verdict: verdict(row, adjusted[i]!, alpha)
    }))
  })
}

const formatPValue = (p: number): string => (p < 0.001 ? "< 0.001" : p.toFixed(3))

/**
 * The comparison as a table of a report, with the correction in its caption.
 *
 * @category formatting
 * @since 0.1.0
 */
export const table = ({ after, alpha, before, correction, rows }: AlignmentTax): typeof Report.Table.Type => ({
  _tag: "Table",
  title: `Alignment tax: ${after} against ${before}`,
  caption:
    `Differences are ${after} minus ${before}, paired by item, each with its own interval; ↑ higher is better, ↓ lower is ` +
    `better. Verdicts rest on p-values of sign-flip tests at ${alpha}; correction: ${correction}. The minimum detectable ` +
    "effect holds at the strictest step of it.",
  columns: ["Benchmark", before, after, "Difference", "Verdict", "p, corrected", "p", "Minimum detectable effect"],
  rows: rows.map((row) => [
    `${row.task}, ${row.metric} ${row.higherIsBetter ? "↑" : "↓"}`,
    row.before,
    row.after,
    row.difference,
    row.verdict,
    formatPValue(row.adjustedPValue),
    formatPValue(row.pValue),
    row.minimumDetectableEffect ?? "the items show no spread"
  ])
})
