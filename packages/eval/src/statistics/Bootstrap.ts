/**
 * Bootstrap intervals: how far a statistic moves when the sample is drawn again from itself, with replacement.
 *
 * Every function takes a seed and gives the same numbers for it everywhere. Where a sample has clusters, whole clusters
 * are drawn. Intervals that do not exist are `null`, with the reason in `method`.
 *
 * @since 0.1.0
 */
import * as Estimate from "../Estimate.ts"
import { difference, type Paired, type Sample } from "../Sample.ts"

/**
 * Settings of a bootstrap.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** An integer. */
  readonly seed: number
  /** How often the sample is drawn again, 10,000 where nothing is said. */
  readonly resamples?: number
  /** Between 0 and 1, 0.95 where nothing is said. */
  readonly confidence?: number
}

/**
 * A number made of values. The array is reused for the next resample: it may be sorted in place, not kept.
 *
 * @category models
 * @since 0.1.0
 */
export type Statistic = (values: Float64Array) => number

const settings = ({ confidence = 0.95, resamples = 10_000, seed }: Options): Required<Options> => {
  if (!Number.isSafeInteger(seed)) throw new RangeError(`a seed is an integer, got ${seed}`)
  if (!Number.isInteger(resamples) || resamples < 2) {
    throw new RangeError(`a bootstrap needs a whole number of resamples from 2, got ${resamples}`)
  }
  if (!(confidence > 0 && confidence < 1)) throw new RangeError(`confidence lies between 0 and 1, got ${confidence}`)
  return { confidence, resamples, seed }
}

/** sfc32 (Doty-Humphrey, PractRand): three mixed words and a counter. */
type State = Int32Array

/**
 * Fills the first `count` of an array of one place more with uniform indices below `n`, two from each word.
 *
 * The loop holds the generator's state in registers: 10,000 means of 10,000 values take 0.35 s of one core so, and
 * 0.75 to 1.1 s with a call of pure-rand's xoroshiro128+ for each word. The variables are declared one by one and
 * `0x10000` is no power, because V8 takes what comes from a pattern or from `**` for a double, which doubles the
 * time.
 *
 * Source: Lemire 2019, arXiv:1805.10941. The high half of `word * n` is exactly uniform where words whose low half is
 * below `2^bits mod n` are refused. No branch hangs on what was drawn: a refused index is overwritten by the next
 * one.
 */
const drawShort = (state: State, n: number, into: Uint32Array, count: number): void => {
  let a = state[0]!
  let b = state[1]!
  let c = state[2]!
  let counter = state[3]!
  const lastRefused = (0x10000 % n) - 1
  for (let k = 0; k < count; ) {
    const word = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (((c << 21) | (c >>> 11)) + word) | 0
    const one = Math.imul(word & 0xffff, n)
    into[k] = one >>> 16
    k += (lastRefused - (one & 0xffff)) >>> 31
    const two = Math.imul(word >>> 16, n)
    into[k] = two >>> 16
    k += (lastRefused - (two & 0xffff)) >>> 31
  }
  state.set([a, b, c, counter])
}

/** As {@link drawShort} for `n` above 65,536: an index from each word. */
const drawLong = (state: State, n: number, into: Uint32Array, count: number): void => {
  let a = state[0]!
  let b = state[1]!
  let c = state[2]!
  let counter = state[3]!
  const refused = 2 ** 32 % n
  for (let k = 0; k < count; ) {
    const word = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (((c << 21) | (c >>> 11)) + word) | 0
    const low = Math.imul(word, n) >>> 0
    into[k] = Math.round(((word >>> 0) * n - low) / 2 ** 32)
    if (low >= refused) k++
  }
  state.set([a, b, c, counter])
}

/** Fills its array, of `n + 1` places, with `n` uniform indices below `n`; the last place is room to work in. */
const drawer = (n: number, seed: number): ((into: Uint32Array) => void) => {
  const state = Int32Array.of(seed, seed / 2 ** 32, 0, 1)
  // Until every bit of the seed has reached every bit of the state.
  drawLong(state, 2 ** 32, new Uint32Array(33), 32)
  const draw = n <= 2 ** 16 ? drawShort : drawLong
  return (into) => draw(state, n, into, n)
}

const gather = (values: Float64Array, drawn: Uint32Array): number => {
  const n = values.length
  // Four sums, because an addition waits for the one before it.
  let a = 0
  let b = 0
  let c = 0
  let d = 0
  let i = 0
  for (; i + 3 < n; i += 4) {
    a += values[drawn[i]!]!
    b += values[drawn[i + 1]!]!
    c += values[drawn[i + 2]!]!
    d += values[drawn[i + 3]!]!
  }
  for (; i < n; i++) a += values[drawn[i]!]!
  return a + b + (c + d)
}

/** What a bootstrap draws: `count` units, and the statistic of a draw, of all units, and of all but one. */
interface Units {
  readonly count: number
  readonly clustered: boolean
  readonly observed: number
  readonly of: (drawn: Uint32Array) => number
  readonly without: () => Float64Array
}

const byCluster = ({ clusters = [], values }: Sample): ReadonlyArray<Float64Array> => {
  const groups = new Map<string, Array<number>>()
  for (const [i, cluster] of clusters.entries()) {
    const group = groups.get(cluster)
    if (group === undefined) groups.set(cluster, [values[i]!])
    else group.push(values[i]!)
  }
  return Array.from(groups.values(), (group) => Float64Array.from(group))
}

const total = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0)

const unitsOfMean = (sample: Sample): Units => {
  const { clusters, values } = sample
  const n = values.length
  if (clusters === undefined) {
    const sum = total(values)
    return {
      count: n,
      clustered: false,
      observed: sum / n,
      of: (drawn) => gather(values, drawn) / n,
      without: () => values.map((value) => (sum - value) / (n - 1))
    }
  }
  const groups = byCluster(sample)
  const sums = Float64Array.from(groups, total)
  const sizes = Float64Array.from(groups, (group) => group.length)
  const sum = total(sums)
  return {
    count: groups.length,
    clustered: true,
    observed: sum / n,
    of: (drawn) => gather(sums, drawn) / gather(sizes, drawn),
    without: () => sums.map((own, c) => (sum - own) / (n - sizes[c]!))
  }
}

const unitsOf = (sample: Sample, statistic: Statistic): Units =>
  sample.clusters === undefined ? unitsOfValues(sample.values, statistic) : unitsOfClusters(sample, statistic)

const unitsOfValues = (values: Float64Array, statistic: Statistic): Units => {
  const n = values.length
  const room = new Float64Array(n)
  return {
    count: n,
    clustered: false,
    observed: statistic(values.slice()),
    of: (drawn) => {
      for (let i = 0; i < n; i++) room[i] = values[drawn[i]!]!
      return statistic(room)
    },
    without: () =>
      values.map((_, left) => {
        room.set(values.subarray(0, left))
        room.set(values.subarray(left + 1), left)
        return statistic(room.subarray(0, n - 1))
      })
  }
}

const unitsOfClusters = (sample: Sample, statistic: Statistic): Units => {
  const groups = byCluster(sample)
  const longest = groups.reduce((most, group) => Math.max(most, group.length), 0)
  const room = new Float64Array(groups.length * longest)
  const joined = (count: number, pick: (i: number) => Float64Array): Float64Array => {
    let length = 0
    for (let i = 0; i < count; i++) {
      const group = pick(i)
      if (group.length === 1) room[length] = group[0]!
      else room.set(group, length)
      length += group.length
    }
    return room.subarray(0, length)
  }
  return {
    count: groups.length,
    clustered: true,
    observed: statistic(sample.values.slice()),
    of: (drawn) => statistic(joined(groups.length, (i) => groups[drawn[i]!]!)),
    without: () =>
      Float64Array.from(groups, (_, left) => statistic(joined(groups.length - 1, (i) => groups[i < left ? i : i + 1]!)))
  }
}

/** The statistic on every resample, where it is finite, ascending. */
const replicates = (units: Units, { resamples, seed }: Required<Options>): Float64Array => {
  const draw = drawer(units.count, seed)
  const drawn = new Uint32Array(units.count + 1)
  const values = new Float64Array(resamples)
  for (let r = 0; r < resamples; r++) {
    draw(drawn)
    values[r] = units.of(drawn)
  }
  return values.filter(Number.isFinite).sort()
}

/** Linear between the two nearest of the ascending values, as numpy and scipy take quantiles. */
const quantile = (ascending: Float64Array, p: number): number => {
  const at = p * (ascending.length - 1)
  const below = Math.floor(at)
  const value = ascending[below]!
  return at === below ? value : value + (at - below) * (ascending[below + 1]! - value)
}

const deviation = (values: Float64Array): number => {
  const mean = total(values) / values.length
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1))
}

// Sums of the same numbers in another order differ by rounding; a tie is a tie all the same.
const rounding = (ascending: Float64Array, value: number): number =>
  1e-12 * Math.max(Math.abs(value), Math.abs(ascending[0]!), Math.abs(ascending.at(-1)!))

type Levels = (ascending: Float64Array) => readonly [low: number, high: number] | string

/** An estimate bounded by the quantiles of the resamples at two levels, or by none for the reason given there. */
const estimate = (
  name: string,
  { clustered, count, observed }: Pick<Units, "clustered" | "count" | "observed">,
  n: number,
  { confidence, resamples }: Required<Options>,
  ascending: () => Float64Array,
  levels: Levels
): Estimate.Estimate => {
  if (!Number.isFinite(observed)) throw new RangeError(`the statistic of the data is ${observed}, not a finite number`)
  const common = { value: observed, n, ...(clustered ? { clusters: count } : {}), confidence }
  const none = (reason: string) => ({ ...common, low: null, high: null, se: null, method: `${reason}, no interval` })
  if (count < 2) return none(clustered ? "one cluster" : "one value")
  const values = ascending()
  const lost = resamples - values.length
  const method = `${name}, ${resamples} resamples${clustered ? " of clusters" : ""}`
  if (values.length < 2) return none(`${method}: the statistic is not finite on ${lost} of them`)
  if (values.at(-1)! - values[0]! <= rounding(values, observed)) return none(`${method}: all equal`)
  const at = levels(values)
  if (typeof at === "string") return none(`${method}: ${at}`)
  return {
    ...common,
    low: quantile(values, at[0]),
    high: quantile(values, at[1]),
    se: deviation(values),
    method: lost === 0 ? method : `${method}, ${lost} left out where the statistic is not finite`
  }
}

const tails = (confidence: number): readonly [number, number] => [(1 - confidence) / 2, (1 + confidence) / 2]

const unitsFor = (sample: Sample, statistic: Statistic | undefined): Units =>
  statistic === undefined ? unitsOfMean(sample) : unitsOf(sample, statistic)

/**
 * A statistic of the sample, the mean where none is given, with its percentile bootstrap interval: the quantiles of the
 * statistic over the resamples. `se` is the standard deviation over them. Source: Efron & Tibshirani 1993, chapter 13.
 *
 * **Gotchas**
 *
 * For a mean of fewer than some 200 values `Estimate.mean` covers better: a bootstrap does not know how uncertain the
 * spread itself is, nor do a few hundred resamples find the tails well.
 *
 * One value, one cluster, or a statistic that is the same on all resamples (as where all values are equal) has no
 * interval. Resamples on which the statistic is not finite are left out, and `method` says how many. Throws
 * `RangeError` where it is not finite on the data, or where an option makes no sense.
 *
 * @category constructors
 * @since 0.1.0
 */
export const percentile = (
  sample: Sample,
  options: Options & { readonly statistic?: Statistic }
): Estimate.Estimate => {
  const all = settings(options)
  const units = unitsFor(sample, options.statistic)
  return estimate(
    "percentile bootstrap",
    units,
    sample.values.length,
    all,
    () => replicates(units, all),
    () => tails(all.confidence)
  )
}

/** The levels of {@link bca}, or why there are none. */
const corrected =
  (units: Units, confidence: number): Levels =>
  (ascending) => {
    const tie = rounding(ascending, units.observed)
    let below = 0
    for (const value of ascending) {
      if (value < units.observed - tie) below += 1
      else if (value <= units.observed + tie) below += 0.5
    }
    if (below === 0 || below === ascending.length) return "all on one side of the estimate"
    const bias = Estimate.normalQuantile(below / ascending.length)
    const jackknife = units.without()
    const centre = total(jackknife) / jackknife.length
    const squares = jackknife.reduce((sum, value) => sum + (centre - value) ** 2, 0)
    const cubes = jackknife.reduce((sum, value) => sum + (centre - value) ** 3, 0)
    const acceleration = cubes / (6 * squares ** 1.5)
    if (!Number.isFinite(acceleration)) return "the jackknife gives no acceleration"
    const [low, high] = tails(confidence).map((p) => {
      const z = bias + Estimate.normalQuantile(p)
      return acceleration * z >= 1 ? undefined : Estimate.normalProbability(bias + z / (1 - acceleration * z))
    })
    return low === undefined || high === undefined ? "the acceleration is too large" : [low, high]
  }

/**
 * As {@link percentile}, with the levels corrected for bias and for a spread that changes with the estimate (BCa):
 *
 *     z0 = Φ⁻¹(share of resamples below the estimate, ties as halves)
 *     a  = Σ_i (θ̄ - θ_i)³ / (6 (Σ_i (θ̄ - θ_i)²)^(3/2))     θ_i: the estimate without value (or cluster) i
 *     level(p) = Φ(z0 + (z0 + z_p) / (1 - a (z0 + z_p)))
 *
 * A statistic of one's own costs one more call per value for the jackknife. Source: Efron 1987, JASA 82(397).
 *
 * **Gotchas**
 *
 * No interval either where all resamples lie on one side of the estimate (the bias correction is infinite), or where
 * the acceleration does not exist.
 *
 * @category constructors
 * @since 0.1.0
 */
export const bca = (sample: Sample, options: Options & { readonly statistic?: Statistic }): Estimate.Estimate => {
  const all = settings(options)
  const units = unitsFor(sample, options.statistic)
  return estimate(
    "BCa bootstrap",
    units,
    sample.values.length,
    all,
    () => replicates(units, all),
    corrected(units, all.confidence)
  )
}

/**
 * Percentile intervals of several statistics of the same resamples of items, such as the strengths of all systems
 * from resampled comparisons. `statistics` gives as many numbers, in the same order, for every draw; the estimates
 * come in that order. A number that is not finite on a resample is left out there, and `method` says how many were.
 * Throws `RangeError` without items, or where a number is not finite on the items themselves.
 *
 * @category constructors
 * @since 0.1.0
 */
export const joint = <A>(
  items: ReadonlyArray<A>,
  statistics: (draw: ReadonlyArray<A>) => ReadonlyArray<number>,
  options: Options
): ReadonlyArray<Estimate.Estimate> => {
  const all = settings(options)
  const count = items.length
  if (count === 0) throw new RangeError("no items; there is nothing to estimate")
  const observed = statistics(items)
  const draws = observed.map(() => new Float64Array(all.resamples))
  const draw = drawer(count, all.seed)
  const drawn = new Uint32Array(count + 1)
  for (let r = 0; count > 1 && r < all.resamples; r++) {
    draw(drawn)
    const values = statistics(items.map((_, i) => items[drawn[i]!]!))
    if (values.length !== observed.length) {
      throw new RangeError(`${values.length} statistics of a resample, ${observed.length} of the data`)
    }
    for (const [s, value] of values.entries()) draws[s]![r] = value
  }
  return observed.map((value, s) =>
    estimate(
      "percentile bootstrap",
      { clustered: false, count, observed: value },
      count,
      all,
      () => draws[s]!.filter(Number.isFinite).sort(),
      () => tails(all.confidence)
    )
  )
}

/**
 * Two systems on the same items.
 *
 * @category models
 * @since 0.1.0
 */
export interface PairedBootstrap {
  /** Mean of `first - second`. */
  readonly difference: Estimate.Estimate
  /**
   * Share of the resamples in which the first has the higher mean, ties as halves. It says how sure the order of the
   * two is, not by how much they differ. It says nothing of one item or one cluster, which have no interval either.
   */
  readonly firstHigher: number
}

/**
 * Difference of the means of two systems on the same items, with its percentile interval: items (or whole clusters) are
 * drawn with both of their values. Source: Koehn 2004, "Statistical significance tests for machine translation
 * evaluation".
 *
 * @category constructors
 * @since 0.1.0
 */
export const paired = (pair: Paired, options: Options): PairedBootstrap => {
  const all = settings(options)
  const sample = difference(pair)
  const units = unitsOfMean(sample)
  const ascending = replicates(units, all)
  const tie = rounding(ascending, units.observed)
  let higher = 0
  for (const value of ascending) higher += value > tie ? 1 : value >= -tie ? 0.5 : 0
  return {
    difference: estimate(
      "paired percentile bootstrap",
      units,
      sample.values.length,
      all,
      () => ascending,
      () => tails(all.confidence)
    ),
    firstHigher: higher / ascending.length
  }
}
