/**
 * Tests of two systems on the same items: were they equal, each item's difference could as well have the other sign.
 *
 * @since 0.1.0
 */
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import * as Estimate from "../Estimate.ts"
import { difference, type Paired, type Sample } from "../Sample.ts"

/**
 * Settings of a permutation test.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** An integer, used only where the test cannot be exact. */
  readonly seed: number
  /** How many sign patterns are drawn where they are too many to count all, 10,000 where nothing is said. */
  readonly draws?: number
  /** Of the interval of the difference, 0.95 where nothing is said. */
  readonly confidence?: number
}

/**
 * What a permutation test found. The p-value comes with the size of the difference, because it says nothing about it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Permutation {
  /** Mean of `first - second`, with its Student t interval, over clusters where there are any. */
  readonly difference: Estimate.Estimate
  /** Two-sided: how likely a difference as large as this one is, in either direction, where the systems are equal. */
  readonly pValue: number
  /** How many items, or clusters, differ: those whose signs are flipped, in `2^flipped` patterns. */
  readonly flipped: number
  /** Whether the p-value rests on all patterns. */
  readonly exact: boolean
  /** How many patterns were drawn where it does not, otherwise 0. */
  readonly draws: number
  readonly method: string
}

/** The differences that have a sign, of items or summed over clusters. */
const units = ({ clusters, values }: Sample): Float64Array => {
  if (clusters === undefined) return values.filter((value) => value !== 0)
  const sums = new Map<string, { sum: number; size: number }>()
  for (const [i, cluster] of clusters.entries()) {
    const { size, sum } = sums.get(cluster) ?? { sum: 0, size: 0 }
    sums.set(cluster, { sum: sum + values[i]!, size: size + Math.abs(values[i]!) })
  }
  // What cancels within a cluster up to rounding has no sign.
  const signed = Array.from(sums.values()).filter(({ size, sum }) => Math.abs(sum) > tolerance * size)
  return Float64Array.from(signed, ({ sum }) => sum)
}

const total = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0)

// Relative: differences of decimal fractions, and sums in another order, are equal up to rounding.
const tolerance = 1e-9

/** The values as whole multiples of a common step, where there is one not much smaller than they are. */
const multiples = (values: Float64Array): ReadonlyArray<number> | undefined => {
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  const noise = tolerance * largest
  let step = largest
  for (const value of values) {
    let [a, b] = [step, Math.abs(value)]
    while (b > noise) [a, b] = [b, Math.abs(a - b * Math.round(a / b))]
    if (a < 1e-5 * largest) return undefined
    // The largest value says more exactly than the last remainder what the step is.
    step = largest / Math.round(largest / a)
  }
  const counts = Array.from(values, (value) => Math.round(value / step))
  return counts.every((count, i) => Math.abs(count * step - values[i]!) <= noise * 10) ? counts : undefined
}

// Cells of the table of sums that are filled in before drawing is the better choice; about a tenth of a second.
const cells = 5e7

/** Share of the sign patterns whose sum is as far from 0, by the distribution of the sum of the positive ones. */
const bySums = (counts: ReadonlyArray<number>): number | undefined => {
  const sum = Math.abs(counts.reduce((all, count) => all + count, 0))
  const most = counts.reduce((all, count) => all + Math.abs(count), 0)
  if (most * counts.length > cells) return undefined
  const share = new Float64Array(most + 1)
  share[0] = 1
  let reach = 0
  for (const count of counts) {
    const size = Math.abs(count)
    reach += size
    for (let t = reach; t >= 0; t--) share[t] = (share[t]! + (t >= size ? share[t - size]! : 0)) / 2
  }
  // A sum of positives t means a sum of 2t - most.
  return share.reduce((all, part, t) => (Math.abs(2 * t - most) >= sum ? all + part : all), 0)
}

/** Sums of all sign patterns, ascending. */
const allSums = (values: Float64Array): Float64Array => {
  let sums = Float64Array.of(0)
  for (const value of values) {
    const size = Math.abs(value)
    const longer = new Float64Array(2 * sums.length)
    // Two ascending lists, merged.
    for (let low = 0, high = 0; low + high < longer.length; ) {
      const fromLow = low < sums.length ? sums[low]! - size : Number.POSITIVE_INFINITY
      const fromHigh = high < sums.length ? sums[high]! + size : Number.POSITIVE_INFINITY
      longer[low + high] = Math.min(fromLow, fromHigh)
      if (fromLow <= fromHigh) low++
      else high++
    }
    sums = longer
  }
  return sums
}

/** As {@link bySums} for any values: pairs of sums of one half of the values and of the other, counted in order. */
const byHalves = (values: Float64Array): number => {
  const far = Math.abs(total(values)) - tolerance * values.reduce((sum, value) => sum + Math.abs(value), 0)
  if (far <= 0) return 1
  const middle = values.length >> 1
  const [ones, others] = [allSums(values.subarray(0, middle)), allSums(values.subarray(middle))]
  let count = 0
  let from = others.length
  for (const one of ones) {
    while (from > 0 && one + others[from - 1]! >= far) from--
    count += others.length - from
  }
  // The sums are symmetric about 0.
  return (2 * count) / 2 ** values.length
}

// Two halves of 18 signs: a quarter of a million sums each.
const mostHalved = 36

const byDraws = (values: Float64Array, seed: number, draws: number): number => {
  const generator = xoroshiro128plus(seed)
  // the first outputs are near-linear in the seed
  for (let i = 0; i < 64; i++) generator.next()
  const all = total(values)
  const far = Math.abs(all) - tolerance * values.reduce((sum, value) => sum + Math.abs(value), 0)
  let asFar = 0
  for (let d = 0; d < draws; d++) {
    let positive = 0
    for (let i = 0; i < values.length; ) {
      let word = generator.next()
      for (const end = Math.min(i + 32, values.length); i < end; i++, word >>>= 1) positive += values[i]! * (word & 1)
    }
    if (Math.abs(2 * positive - all) >= far) asFar++
  }
  return (asFar + 1) / (draws + 1)
}

/**
 * Tests whether two systems are equal on the same items, by flipping the signs of the differences, of whole clusters
 * where there are any. The p-value is two-sided.
 *
 * **Details**
 *
 * Exact where it can be: by the distribution of the sum where the differences are multiples of a common step (0/1
 * correctness, wins and ties, grades), by meeting in the middle where at most 36 differ. Otherwise by drawing sign
 * patterns, as `(k + 1) / (draws + 1)` for `k` that are as far from 0: never 0, and valid for any number of draws.
 * Source: Fisher 1935; Phipson & Smyth 2010, arXiv:1603.05766, for the `+ 1`.
 *
 * **Gotchas**
 *
 * It assumes that differences would be symmetric about 0. Few differences make a small p-value impossible: the smallest
 * is `2^(1 - flipped)`. Throws `RangeError` where an option makes no sense.
 *
 * @category constructors
 * @since 0.1.0
 */
export const paired = (pair: Paired, { confidence = 0.95, draws = 10_000, seed }: Options): Permutation => {
  if (!Number.isSafeInteger(seed)) throw new RangeError(`a seed is an integer, got ${seed}`)
  if (!Number.isInteger(draws) || draws < 1) throw new RangeError(`draws is a whole number from 1, got ${draws}`)
  const sample = difference(pair)
  const values = units(sample)
  const flipped = values.length
  const common = { difference: Estimate.clustered(sample, confidence), flipped }
  const what = sample.clusters === undefined ? "items" : "clusters"
  const exact = (pValue: number): Permutation => ({
    ...common,
    // Below the smallest double where far more than a thousand differ.
    pValue: Math.min(1, Math.max(pValue, Number.MIN_VALUE)),
    exact: true,
    draws: 0,
    method: `sign flips of ${flipped} ${what}, exact`
  })
  if (flipped < 2) return exact(1)
  const counts = multiples(values)
  const share = counts === undefined ? undefined : bySums(counts)
  if (share !== undefined) return exact(share)
  if (flipped <= mostHalved) return exact(byHalves(values))
  return {
    ...common,
    pValue: byDraws(values, seed, draws),
    exact: false,
    draws,
    method: `sign flips of ${flipped} ${what}, ${draws} patterns drawn`
  }
}
