/**
 * Correlation of two measures of the same items, such as the length of answers and their reward.
 *
 * @since 0.1.0
 */
import { Result } from "effect"
import * as Estimate from "../Estimate.ts"
import { type Paired, SampleError } from "../Sample.ts"

const average = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** Place of each value in ascending order, from 1; equal values share the mean of their places. */
const ranks = (values: Float64Array): Float64Array => {
  const order = Uint32Array.from(values, (_, i) => i).sort((a, b) => values[a]! - values[b]!)
  const places = new Float64Array(values.length)
  for (let from = 0; from < order.length; ) {
    let to = from
    while (to < order.length && values[order[to]!] === values[order[from]!]) to++
    for (let i = from; i < to; i++) places[order[i]!] = (from + 1 + to) / 2
    from = to
  }
  return places
}

/** Sums of a set of items, of deviations from fixed centres. */
type Sums = readonly [n: number, x: number, y: number, xx: number, yy: number, xy: number]

const minus = (a: Sums, b: Sums): Sums => [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3], a[4] - b[4], a[5] - b[5]]

const plus = (a: Sums, b: Sums): Sums => [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5]]

const coefficient = ([n, x, y, xx, yy, xy]: Sums): number =>
  Math.max(-1, Math.min(1, (xy - (x * y) / n) / Math.sqrt((xx - (x * x) / n) * (yy - (y * y) / n))))

const none: Sums = [0, 0, 0, 0, 0, 0]

const fromPairs = (
  name: string,
  pair: Paired,
  [first, second]: readonly [Float64Array, Float64Array],
  variance: (r: number) => number,
  confidence: number
): Result.Result<Estimate.Estimate, SampleError> => {
  const n = first.length
  for (const [i, values] of [first, second].entries()) {
    if (values.every((value) => value === values[0])) {
      const reason = `all ${n} values are equal; a correlation needs values that vary`
      return Result.fail(new SampleError({ sample: pair.names[i]!, reason }))
    }
  }
  const [x, y] = [average(first), average(second)]
  const sums = Array.from(first, (value, i): Sums => {
    const [dx, dy] = [value - x, second[i]! - y]
    return [1, dx, dy, dx * dx, dy * dy, dx * dy]
  })
  const all = sums.reduce(plus, none)
  const value = coefficient(all)
  const groups = new Map<string, Sums>()
  for (const [i, cluster] of (pair.clusters ?? []).entries()) {
    groups.set(cluster, plus(groups.get(cluster) ?? none, sums[i]!))
  }
  const clusters = groups.size
  const common = { value, n, ...(clusters > 0 ? { clusters } : {}), confidence, se: null }
  const without = (reason: string): Estimate.Estimate => ({
    ...common,
    low: null,
    high: null,
    method: `${name}: ${reason}, no interval`
  })
  // Rounding keeps the coefficient of points on a line from being 1 by some 1e-16.
  if (1 - Math.abs(value) < 1e-12) return Result.succeed(without("the values determine each other"))
  const around = (half: number, method: string): Estimate.Estimate => ({
    ...common,
    low: Math.tanh(Math.atanh(value) - half),
    high: Math.tanh(Math.atanh(value) + half),
    method: `${name}, ${method}`
  })
  if (clusters === 0) {
    if (n < 4) return Result.succeed(without(`${n} items are too few`))
    const z = Estimate.normalQuantile((1 + confidence) / 2)
    return Result.succeed(around(z * Math.sqrt(variance(value) / (n - 3)), "Fisher z"))
  }
  if (clusters < 3)
    return Result.succeed(without(`${clusters} ${clusters === 1 ? "cluster is" : "clusters are"} too few`))
  const left = Float64Array.from(groups.values(), (group) => Math.atanh(coefficient(minus(all, group))))
  if (!left.every(Number.isFinite)) return Result.succeed(without("it hangs on one cluster"))
  const centre = average(left)
  const squares = left.reduce((sum, z) => sum + (z - centre) ** 2, 0)
  const half =
    Estimate.studentQuantile((1 + confidence) / 2, clusters - 1) * Math.sqrt(((clusters - 1) / clusters) * squares)
  return Result.succeed(around(half, "Fisher z, jackknife over clusters"))
}

/**
 * Pearson's correlation of the values of two samples of the same items, with its interval by Fisher's z:
 *
 *     tanh(atanh r ± z / √(n - 3))
 *
 * Where the items have clusters, the standard error of `atanh r` comes from leaving out one cluster at a time, and
 * `t` with one degree of freedom less than there are clusters takes the place of `z`. `se` is `null`: the interval is
 * not symmetric. Source: Fisher 1921; Efron & Tibshirani 1993, chapter 11.
 *
 * **Gotchas**
 *
 * Fails where one of the two is the same for all items. Fewer than 4 items (3 clusters), or `r = ±1`, have no
 * interval. It supposes values close to normal; heavy tails are a case for {@link spearman}.
 *
 * @category constructors
 * @since 0.1.0
 */
export const pearson = (pair: Paired, confidence = 0.95): Result.Result<Estimate.Estimate, SampleError> =>
  fromPairs("Pearson", pair, [pair.first, pair.second], () => 1, confidence)

/**
 * Spearman's correlation: {@link pearson} of the ranks, equal values sharing the mean of their ranks, with `1 + r²/2`
 * as the variance of `√(n - 3) atanh r`. Over clusters the ranks are those among all items. Source: Bonett & Wright
 * 2000, Psychometrika 65(1).
 *
 * @category constructors
 * @since 0.1.0
 */
export const spearman = (pair: Paired, confidence = 0.95): Result.Result<Estimate.Estimate, SampleError> =>
  fromPairs("Spearman", pair, [ranks(pair.first), ranks(pair.second)], (r) => 1 + (r * r) / 2, confidence)
