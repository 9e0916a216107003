/**
 * Before an evaluation: the smallest difference that it can find, and how many items it needs to find a given one.
 *
 * Both start from a spread: the standard deviation of what is averaged, so that the standard error is `spread / √n`.
 * They use the normal approximation of Miller 2024, arXiv:2411.00640, section 5, for a two-sided test.
 *
 * @since 0.1.0
 */

import * as Estimate from "../Estimate.ts"
import type { Sample } from "../Sample.ts"
import * as Bootstrap from "./Bootstrap.ts"

/**
 * What the test should hold to.
 *
 * @category models
 * @since 0.1.0
 */
export interface Aims {
  /** Probability of finding a difference where there is none, 0.05 where nothing is said. */
  readonly alpha?: number
  /** Probability of finding a difference of the given size, 0.8 where nothing is said. */
  readonly power?: number
}

const between = (name: string, value: number): number => {
  if (!(value > 0 && value < 1)) throw new RangeError(`${name} lies between 0 and 1, got ${value}`)
  return value
}

/** `z_{1 - alpha/2} + z_power` */
const reach = ({ alpha = 0.05, power = 0.8 }: Aims): number =>
  Estimate.normalQuantile(1 - between("alpha", alpha) / 2) + Estimate.normalQuantile(between("power", power))

const assumed = (value: number, method: string): Estimate.Estimate => {
  if (!(value >= 0 && value < Number.POSITIVE_INFINITY)) {
    throw new RangeError(`a standard deviation is a finite number from 0, got ${value}`)
  }
  return { value, low: null, high: null, se: null, n: 0, confidence: 0.95, method }
}

/**
 * A spread that is known or assumed: of the values where one mean is compared with a fixed number, of the differences
 * where two systems answer the same items. It rests on no data, so `n` is 0 and there is no interval.
 *
 * **Details**
 *
 * With K samples per item and their mean as its value, the spread is `√(between² + within² / K)`: more samples per item
 * shrink the second part only.
 *
 * @category constructors
 * @since 0.1.0
 */
export const known = (sd: number): Estimate.Estimate => assumed(sd, "assumed standard deviation, no interval")

/**
 * The spread of 0/1 values with the given rate, `√(p (1 - p))`; largest at one half. The normal approximation wants
 * some ten expected hits and misses.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ofRate = (rate: number): Estimate.Estimate =>
  assumed(Math.sqrt(between("a rate", rate) * (1 - rate)), `assumed rate ${rate}, no interval`)

/**
 * The spread of a difference of two systems that answer different items, `n` each: `√(first² + second²)`. Where both
 * answer the same items, take the {@link pilot} of their differences instead: it is smaller wherever they agree on
 * what is hard. Throws `RangeError` where the two have intervals of different confidence.
 *
 * @category constructors
 * @since 0.1.0
 */
export const unpaired = (first: Estimate.Estimate, second: Estimate.Estimate): Estimate.Estimate => {
  const [a, b] = [first, second]
  if (a.low !== null && b.low !== null && a.confidence !== b.confidence) {
    throw new RangeError(`spreads at confidence ${a.confidence} and ${b.confidence}; estimate both at the same`)
  }
  const bounds =
    a.low === null || a.high === null || b.low === null || b.high === null
      ? { low: null, high: null }
      : {
          // Distances to the bounds combine as independent errors do (Zou & Donner 2008).
          low: Math.sqrt(
            Math.max(0, a.value ** 2 + b.value ** 2 - Math.hypot(a.value ** 2 - a.low ** 2, b.value ** 2 - b.low ** 2))
          ),
          high: Math.sqrt(
            a.value ** 2 + b.value ** 2 + Math.hypot(a.high ** 2 - a.value ** 2, b.high ** 2 - b.value ** 2)
          )
        }
  return {
    value: Math.hypot(a.value, b.value),
    ...bounds,
    se: null,
    n: a.n + b.n,
    confidence: a.confidence,
    method: `${a.method}; ${b.method}`
  }
}

/** Root of the sum of squares over degrees of freedom. */
const rootMeanSquare = (values: Float64Array): number =>
  Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / (values.length - 1))

/**
 * The spread found in a pilot, with its percentile bootstrap interval: of a sample, or of `Sample.difference` of a
 * pair. In a sample with clusters it is what makes `spread / √n` the clustered standard error: it holds for
 * evaluations with clusters of the same sizes.
 *
 * Throws `RangeError` where the pilot has one value or one cluster, which shows no spread.
 *
 * @category constructors
 * @since 0.1.0
 */
export const pilot = (sample: Sample, options: Bootstrap.Options): Estimate.Estimate => {
  const n = sample.values.length
  const mean = sample.values.reduce((sum, value) => sum + value, 0) / n
  const sums = new Map<string, number>()
  for (const [i, value] of sample.values.entries()) {
    const key = sample.clusters?.[i] ?? sample.ids[i]!
    sums.set(key, (sums.get(key) ?? 0) + value - mean)
  }
  if (sums.size < 2) throw new RangeError(`pilot "${sample.name}": one value or cluster shows no spread`)
  // se = √(C / (C - 1) Σ_c sum_c²) / n, and the spread is se √n
  const scale = Math.sqrt(sums.size / n)
  const deviations: Sample = {
    name: sample.name,
    ids: Array.from(sums.keys()),
    values: Float64Array.from(sums.values(), (sum) => sum * scale)
  }
  const spread = Bootstrap.percentile(deviations, { ...options, statistic: rootMeanSquare })
  return {
    ...spread,
    n,
    ...(sample.clusters === undefined ? {} : { clusters: sums.size }),
    method: `standard deviation of the pilot, ${spread.method}`
  }
}

const scaled = (
  spread: Estimate.Estimate,
  by: (spread: number) => number,
  rest: Pick<Estimate.Estimate, "n" | "method">
): Estimate.Estimate => ({
  value: by(spread.value),
  low: spread.low === null ? null : by(spread.low),
  high: spread.high === null ? null : by(spread.high),
  se: null,
  confidence: spread.confidence,
  ...rest
})

const say = ({ alpha = 0.05, power = 0.8 }: Aims) => `power ${power}, alpha ${Number(alpha.toPrecision(3))}`

/**
 * Minimum detectable effect: the smallest true difference that `n` items find with the given power.
 *
 *     (z_{1 - alpha/2} + z_power) spread / √n
 *
 * The interval is that of the spread; `n` of the result is the one asked about. Source: Miller 2024, arXiv:2411.00640,
 * section 5. Throws `RangeError` unless `n` is a whole number from 1.
 *
 * @category math
 * @since 0.1.0
 */
export const detectable = (spread: Estimate.Estimate, n: number, aims: Aims = {}): Estimate.Estimate => {
  if (!Number.isInteger(n) || n < 1) throw new RangeError(`n is a whole number from 1, got ${n}`)
  const factor = reach(aims) / Math.sqrt(n)
  const method = `minimum detectable effect, ${say(aims)}; ${spread.method}`
  return scaled(spread, (sd) => factor * sd, { n, method })
}

/**
 * How many items find a true difference of size `effect` with the given power, rounded up: the inverse of
 * {@link detectable}. `n` of the result is that of the spread.
 *
 *     ((z_{1 - alpha/2} + z_power) spread / effect)²
 *
 * Throws `RangeError` unless `effect` is a finite number other than 0.
 *
 * @category math
 * @since 0.1.0
 */
export const needed = (spread: Estimate.Estimate, effect: number, aims: Aims = {}): Estimate.Estimate => {
  if (!Number.isFinite(effect) || effect === 0)
    throw new RangeError(`an effect is a finite number but 0, got ${effect}`)
  const factor = reach(aims) / Math.abs(effect)
  const method = `items needed, ${say(aims)}; ${spread.method}`
  // Rounding of the square must not ask for one item more.
  const items = (sd: number) => Math.max(1, Math.ceil((factor * sd) ** 2 * (1 - 1e-12)))
  return scaled(spread, items, { n: spread.n, method })
}
