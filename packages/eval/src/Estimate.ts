/**
 * A number with what is needed to believe it: how many values it rests on, and its interval.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"
import jstat from "jstat"
import type { Sample } from "./Sample.ts"

/**
 * An estimate. `low` and `high` bound its interval at the given `confidence`, `null` where it has none; `method` says
 * how it was made, or why there is none. `n` counts values, `clusters` the independent groups among them where they
 * were clustered.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Estimate = Schema.Struct({
  value: Schema.Finite,
  low: Schema.NullOr(Schema.Finite),
  high: Schema.NullOr(Schema.Finite),
  /** Standard error, `null` where it is undefined or the interval does not rest on one. */
  se: Schema.NullOr(Schema.Finite),
  n: Schema.Int,
  clusters: Schema.optionalKey(Schema.Int),
  confidence: Schema.Finite,
  method: Schema.String
})

/**
 * @see {@link Estimate}
 * @category models
 * @since 0.1.0
 */
export type Estimate = typeof Estimate.Type

/**
 * Quantile of the standard normal distribution.
 *
 * @category math
 * @since 0.1.0
 */
export const normalQuantile = (p: number): number => jstat.normal.inv(p, 0, 1)

/**
 * Distribution function of the standard normal distribution.
 *
 * @category math
 * @since 0.1.0
 */
export const normalProbability = (z: number): number => jstat.normal.cdf(z, 0, 1)

/**
 * Quantile of Student's t distribution.
 *
 * @category math
 * @since 0.1.0
 */
export const studentQuantile = (p: number, degreesOfFreedom: number): number => jstat.studentt.inv(p, degreesOfFreedom)

/** Where the upper tail outside an interval begins. */
const upper = (confidence: number): number => {
  if (!(confidence > 0 && confidence < 1)) throw new RangeError(`confidence lies between 0 and 1, got ${confidence}`)
  return (1 + confidence) / 2
}

const average = (values: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]!
  return sum / values.length
}

const variance = (values: ArrayLike<number>, mean: number): number => {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += (values[i]! - mean) ** 2
  return sum / (values.length - 1)
}

/**
 * Mean of the values with its Student t interval, `mean ± t(n - 1) s / √n`, `s` with `n - 1` in the denominator. A
 * single value has no interval, nor have values that are all equal: they show no spread, which is no proof that there
 * is none. The values are taken as independent: for several per prompt use {@link clustered}.
 *
 * @category constructors
 * @since 0.1.0
 */
export const mean = (sample: Sample, confidence = 0.95): Estimate => {
  const tail = upper(confidence)
  const n = sample.values.length
  const value = average(sample.values)
  if (n < 2) return { value, low: null, high: null, se: null, n, confidence, method: "one value, no interval" }
  if (sample.values.every((one) => one === sample.values[0])) {
    const method = "all values equal, no interval"
    return { value: sample.values[0]!, low: null, high: null, se: 0, n, confidence, method }
  }
  const se = Math.sqrt(variance(sample.values, value) / n)
  const half = studentQuantile(tail, n - 1) * se
  return { value, low: value - half, high: value + half, se, n, confidence, method: "mean, Student t" }
}

/**
 * Mean with the standard error that holds when the values of a cluster depend on each other: clusters, not values,
 * are the independent draws, and `t` has one degree of freedom less than there are clusters.
 *
 *     se² = C / (C - 1) Σ_c (Σ_{i in c} (x_i - mean))² / n²
 *
 * Source: Liang & Zeger 1986; Miller 2024, arXiv:2411.00640, section 2.2. A sample without clusters is {@link mean}.
 *
 * **Gotchas**
 *
 * The interval is a little too short with few clusters (below some 30) or with very unequal ones.
 *
 * @category constructors
 * @since 0.1.0
 */
export const clustered = (sample: Sample, confidence = 0.95): Estimate => {
  if (sample.clusters === undefined) return mean(sample, confidence)
  const tail = upper(confidence)
  const n = sample.values.length
  const value = average(sample.values)
  const sums = new Map<string, number>()
  for (const [i, cluster] of sample.clusters.entries()) {
    sums.set(cluster, (sums.get(cluster) ?? 0) + sample.values[i]! - value)
  }
  const clusters = sums.size
  if (clusters < 2) {
    return { value, low: null, high: null, se: null, n, clusters, confidence, method: "one cluster, no interval" }
  }
  let squares = 0
  let largest = 0
  for (const sum of sums.values()) squares += sum * sum
  for (const one of sample.values) largest = Math.max(largest, Math.abs(one))
  // Means of clusters that are equal up to rounding show no more than equal values do.
  if (Math.sqrt(squares) <= 1e-12 * n * largest) {
    const method = "all clusters equal, no interval"
    return { value, low: null, high: null, se: 0, n, clusters, confidence, method }
  }
  const se = Math.sqrt((clusters / (clusters - 1)) * squares) / n
  const half = studentQuantile(tail, clusters - 1) * se
  return { value, low: value - half, high: value + half, se, n, clusters, confidence, method: "mean, clustered t" }
}

/**
 * Share of `hits` among `n` with its Wilson interval, which stays inside `[0, 1]` and has a width where all or none are
 * hits. Source: Wilson 1927, JASA 22(158).
 *
 * **Gotchas**
 *
 * Coverage is 95 % on average over rates, not at each: at `n = 50` and a rate of 2 % it is 92 %.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rate = (hits: number, n: number, confidence = 0.95): Estimate => {
  if (!Number.isInteger(hits) || !Number.isInteger(n) || n < 1 || hits < 0 || hits > n) {
    throw new RangeError(`a rate needs 0 <= hits <= n with n >= 1, got ${hits} of ${n}`)
  }
  const z = normalQuantile(upper(confidence))
  const z2 = z * z
  const p = hits / n
  const centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  const half = (z * Math.sqrt((p * (1 - p)) / n + z2 / (4 * n * n))) / (1 + z2 / n)
  const se = Math.sqrt((p * (1 - p)) / n)
  // Where all or none are hits, one bound is p itself, which rounding may pass.
  const [low, high] = [Math.max(0, Math.min(p, centre - half)), Math.min(1, Math.max(p, centre + half))]
  return { value: p, low, high, se, n, confidence, method: "rate, Wilson" }
}

/**
 * `0.713 [0.684, 0.741], n = 1000`; `no interval` stands where there is none.
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = ({ high, low, n, value }: Estimate, digits = 3): string => {
  const interval = low === null || high === null ? "no interval" : `[${low.toFixed(digits)}, ${high.toFixed(digits)}]`
  return `${value.toFixed(digits)} ${interval}, n = ${n}`
}
