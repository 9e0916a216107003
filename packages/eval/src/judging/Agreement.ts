/**
 * Agreement of raters: of a judge with people, or of people with each other.
 *
 * Intervals of κ and α are percentiles of a bootstrap over items, whole clusters where items have them. Raters who
 * agree on every item have none: no resample disagrees either.
 *
 * @since 0.1.0
 */
import { Result } from "effect"
import type { Estimate } from "../Estimate.ts"
import * as Sample from "../Sample.ts"
import * as Share from "../Share.ts"
import type * as Bootstrap from "../statistics/Bootstrap.ts"
import * as ClusterBootstrap from "../statistics/ClusterBootstrap.ts"
import type { Preference } from "./Judge.ts"

/**
 * What a rater said of an item.
 *
 * @category models
 * @since 0.1.0
 */
export type Label = string | number

/**
 * What two raters said of an item; in {@link accuracy} the second is the reference.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pair {
  readonly id: string
  readonly first: Label
  readonly second: Label
  readonly cluster?: string | undefined
}

const shown = (label: Label): string => (typeof label === "string" ? JSON.stringify(label) : String(label))

// Items are checked as samples are; a label that is not finite has no value that could be.
const checked = (
  name: string,
  items: ReadonlyArray<{
    readonly id: string
    readonly cluster?: string | undefined
    readonly labels: ReadonlyArray<Label>
  }>
): Result.Result<Sample.Sample, Sample.SampleError> =>
  Sample.make(
    name,
    items.map(({ cluster, id, labels }) => ({
      id,
      cluster,
      value: labels.find((label): label is number => typeof label === "number" && !Number.isFinite(label)) ?? 0
    }))
  )

const pairsChecked = (name: string, pairs: ReadonlyArray<Pair>) =>
  checked(
    name,
    pairs.map(({ cluster, first, id, second }) => ({ id, cluster, labels: [first, second] }))
  )

/**
 * Share of the items on which the first rater says what the reference says, with Wilson's interval, or the clustered
 * one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const accuracy = (
  name: string,
  pairs: ReadonlyArray<Pair>,
  confidence = 0.95
): Result.Result<Estimate, Sample.SampleError> =>
  Result.map(pairsChecked(name, pairs), ({ values, ...sample }) =>
    Share.rate({ ...sample, values: values.map((_, i) => (pairs[i]!.first === pairs[i]!.second ? 1 : 0)) }, confidence)
  )

/**
 * How much a disagreement weighs: all the same, or by how many categories lie between the two labels, or by the square
 * of that.
 *
 * @category models
 * @since 0.1.0
 */
export type Weights = "none" | "linear" | "quadratic"

const distances: Record<Weights, (steps: number) => number> = {
  none: (steps) => (steps === 0 ? 0 : 1),
  linear: (steps) => Math.abs(steps),
  quadratic: (steps) => steps * steps
}

/** Labels as places in their order: as given, or ascending where all are numbers. */
const domain = (
  name: string,
  labels: ReadonlyArray<Label>,
  order: ReadonlyArray<Label> | undefined,
  ordered: boolean
): Result.Result<ReadonlyMap<Label, number>, Sample.SampleError> => {
  const fail = (reason: string) => Result.fail(new Sample.SampleError({ sample: name, reason }))
  const found = [...new Set(labels)]
  if (order !== undefined) {
    const known = new Map(order.map((label, i) => [label, i]))
    if (known.size < order.length) return fail("a category stands twice in the order of categories")
    const unknown = found.find((label) => !known.has(label))
    return unknown === undefined
      ? Result.succeed(known)
      : fail(`the label ${shown(unknown)} is none of the categories ${order.map(shown).join(", ")}`)
  }
  if (ordered && !found.every((label) => typeof label === "number")) {
    const text = shown(found.find((label) => typeof label === "string")!)
    return fail(`the label ${text} has no place in an order; give the categories in their order`)
  }
  const sorted = ordered ? (found as Array<number>).sort((a, b) => a - b) : found
  return Result.succeed(new Map(sorted.map((label, i) => [label, i])))
}

/**
 * Settings of {@link kappa}. `order` lists the categories for weighted κ, also those that nobody used; numbers are
 * taken ascending unless it is given.
 *
 * @category models
 * @since 0.1.0
 */
export interface KappaOptions extends Bootstrap.Options {
  readonly weights?: Weights
  readonly order?: ReadonlyArray<Label>
}

interface Coded {
  readonly first: number
  readonly second: number
  readonly cluster: string | undefined
}

// Not a number where no disagreement is possible by chance.
const kappaOf = (pairs: ReadonlyArray<Coded>, categories: number, distance: (steps: number) => number): number => {
  const [rows, columns] = [new Float64Array(categories), new Float64Array(categories)]
  let observed = 0
  for (const { first, second } of pairs) {
    rows[first]! += 1
    columns[second]! += 1
    observed += distance(first - second)
  }
  let expected = 0
  for (let i = 0; i < categories; i++) {
    for (let j = 0; j < categories; j++) expected += (rows[i]! * columns[j]! * distance(i - j)) / pairs.length
  }
  return 1 - observed / expected
}

/**
 * Cohen's κ of two raters: 1 where they agree throughout, 0 where they agree as often as raters would who answer
 * independently with the same frequencies.
 *
 *     κ = 1 - Σ d(a, b) observed(a, b) / Σ d(a, b) expected(a, b)
 *
 * Weighted κ for ordered categories takes `d` by how many places lie between two labels, not by their values. Fails
 * where both raters use one and the same label throughout: agreement by chance is then certain and κ undefined.
 * Resamples in which that happens are left out.
 *
 * Source: Cohen 1960, Educational and Psychological Measurement 20(1); weights: Cohen 1968, Psychological Bulletin
 * 70(4).
 *
 * @category constructors
 * @since 0.1.0
 */
export const kappa = (
  name: string,
  pairs: ReadonlyArray<Pair>,
  { order, weights = "none", ...options }: KappaOptions
): Result.Result<Estimate, Sample.SampleError> =>
  Result.gen(function* () {
    yield* pairsChecked(name, pairs)
    const labels = pairs.flatMap(({ first, second }) => [first, second])
    const places = yield* domain(name, labels, order, weights !== "none")
    if (new Set(labels).size === 1) {
      const label = shown(labels[0]!)
      const reason = `both raters say ${label} of every item; κ is undefined, since no chance could disagree`
      return yield* Result.fail(new Sample.SampleError({ sample: name, reason }))
    }
    const coded = pairs.map(
      ({ cluster, first, second }): Coded => ({ first: places.get(first)!, second: places.get(second)!, cluster })
    )
    const statistic = (draw: ReadonlyArray<Coded>) => [kappaOf(draw, places.size, distances[weights])]
    return ClusterBootstrap.joint(coded, statistic, options)[0]!
  })

/**
 * What any number of raters said of an item; `null` where a rater said nothing. Which rater stands where does not
 * matter.
 *
 * @category models
 * @since 0.1.0
 */
export interface Unit {
  readonly id: string
  readonly ratings: ReadonlyArray<Label | null>
  readonly cluster?: string | undefined
}

/**
 * What the labels are: names, places in an order, or numbers whose differences mean something.
 *
 * @category models
 * @since 0.1.0
 */
export type Level = "nominal" | "ordinal" | "interval"

/**
 * Settings of {@link alpha}. `order` lists the categories of ordinal labels that are not numbers.
 *
 * @category models
 * @since 0.1.0
 */
export interface AlphaOptions extends Bootstrap.Options {
  readonly level: Level
  readonly order?: ReadonlyArray<Label>
}

interface Rated {
  /** Place of each rating's value; at least two. */
  readonly places: ReadonlyArray<number>
  readonly cluster: string | undefined
}

const square = (value: number): number => value * value

// Sums over pairs of ratings by sums over ratings: Σ_{i<j} (s_i - s_j)² = m Σ s² - (Σ s)², and the number of pairs that
// differ is (m² - Σ_v count_v²) / 2.
const apart = (places: ReadonlyArray<number>, scale: Float64Array): number => {
  let [sum, squares] = [0, 0]
  for (const place of places) {
    sum += scale[place]!
    squares += square(scale[place]!)
  }
  return places.length * squares - square(sum)
}

const different = (places: ReadonlyArray<number>): number => {
  let pairs = 0
  for (const [i, place] of places.entries()) for (let j = 0; j < i; j++) if (places[j] !== place) pairs++
  return pairs
}

// Not a number where all ratings are alike.
const alphaOf = (units: ReadonlyArray<Rated>, values: Float64Array, level: Level): number => {
  const totals = new Float64Array(values.length)
  let all = 0
  for (const { places } of units) {
    for (const place of places) totals[place]! += 1
    all += places.length
  }
  // On the ordinal scale a value lies at its mean rank among all ratings, on any at a distance from the mean.
  if (totals.includes(all)) return Number.NaN
  let below = 0
  const middles = totals.map((count) => {
    below += count
    return below - count / 2
  })
  const raw = level === "ordinal" ? middles : values
  const mean = raw.reduce((sum, value, v) => sum + value * totals[v]!, 0) / all
  const scale = raw.map((value) => value - mean)
  let observed = 0
  for (const { places } of units) {
    observed += (level === "nominal" ? different(places) : apart(places, scale)) / (places.length - 1)
  }
  const expected =
    level === "nominal"
      ? (square(all) - totals.reduce((sum, count) => sum + square(count), 0)) / 2
      : all * scale.reduce((sum, value, v) => sum + totals[v]! * square(value), 0)
  return 1 - (observed * (all - 1)) / expected
}

/**
 * Krippendorff's α: 1 where raters agree throughout, 0 where they agree as if ratings were dealt to the items at
 * random.
 *
 *     α = 1 - D_observed / D_expected        D = mean over pairs of ratings of d(a, b)
 *     d = 1 (nominal) | (ranks between a and b)² (ordinal) | (a - b)² (interval), 0 for equal labels
 *
 * Any number of raters, missing ratings allowed; an item with fewer than two ratings tells nothing and is left out, and
 * `n` counts the others. Fails where no item has two ratings, and where all ratings are alike: α is then undefined.
 *
 * Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability". Deviation: the interval is of items drawn
 * again, not of Krippendorff's own scheme, which draws pairs of ratings as if they were independent.
 *
 * @category constructors
 * @since 0.1.0
 */
export const alpha = (
  name: string,
  units: ReadonlyArray<Unit>,
  { level, order, ...options }: AlphaOptions
): Result.Result<Estimate, Sample.SampleError> =>
  Result.gen(function* () {
    const fail = (reason: string) => Result.fail(new Sample.SampleError({ sample: name, reason }))
    const rated = units.map(({ cluster, id, ratings }) => ({
      id,
      cluster,
      labels: ratings.filter((rating) => rating !== null)
    }))
    yield* checked(name, rated)
    const used = rated.filter(({ labels }) => labels.length >= 2)
    if (used.length === 0) return yield* fail("no item has two ratings; there is nothing to agree about")
    const labels = used.flatMap(({ labels }) => labels)
    const text = level === "interval" ? labels.find((label) => typeof label === "string") : undefined
    if (text !== undefined) return yield* fail(`the label ${shown(text)} is no number; its level is nominal or ordinal`)
    const places = yield* domain(name, labels, level === "ordinal" ? order : undefined, level !== "nominal")
    if (new Set(labels).size === 1) {
      return yield* fail(`all ratings are ${shown(labels[0]!)}; α is undefined, since no chance could disagree`)
    }
    const values = Float64Array.from(places.keys(), (label) => (typeof label === "number" ? label : 0))
    const coded = used.map(
      ({ cluster, labels }): Rated => ({ places: labels.map((label) => places.get(label)!), cluster })
    )
    return ClusterBootstrap.joint(coded, (draw) => [alphaOf(draw, values, level)], options)[0]!
  })

/**
 * A preference between the two answers of an item.
 *
 * @category models
 * @since 0.1.0
 */
export interface Labelled {
  readonly id: string
  readonly preference: Preference
  readonly cluster?: string | undefined
}

/**
 * How a judge's preferences meet people's.
 *
 * @category models
 * @since 0.1.0
 */
export interface PreferenceAgreement {
  /** Share of all items on which the two say the same of `first`, `second` and `tie`. By chance about a third. */
  readonly all: Estimate
  /** Share among the items on which neither says tie, `null` where there are none. By chance about a half. */
  readonly decided: Estimate | null
  /** Share of the items on which at least one says tie. */
  readonly ties: Estimate
}

/**
 * Compares the preferences of a judge with labels of the same items, matched by id. Fails where the items differ.
 *
 * Source: both ways of counting, Zheng et al. 2023, arXiv:2306.05685, section 4.2.
 *
 * @category constructors
 * @since 0.1.0
 */
export const preferences = (
  judged: { readonly name: string; readonly preferences: ReadonlyArray<Labelled> },
  labels: { readonly name: string; readonly preferences: ReadonlyArray<Labelled> },
  confidence = 0.95
): Result.Result<PreferenceAgreement, Sample.SampleError> =>
  Result.gen(function* () {
    const sampleOf = ({ name, preferences }: typeof judged) =>
      Sample.make(
        name,
        preferences.map(({ cluster, id }) => ({ id, value: 0, cluster }))
      )
    const name = `${judged.name} against ${labels.name}`
    yield* Sample.pair(yield* sampleOf(judged), yield* sampleOf(labels))
    const byId = new Map(labels.preferences.map(({ id, preference }) => [id, preference]))
    const pairs = judged.preferences.map(
      ({ cluster, id, preference }): Pair => ({ id, cluster, first: preference, second: byId.get(id)! })
    )
    const tied = ({ first, second }: Pair) => first === "tie" || second === "tie"
    const decided = pairs.filter((pair) => !tied(pair))
    return {
      all: yield* accuracy(name, pairs, confidence),
      decided: decided.length === 0 ? null : yield* accuracy(`${name}, decided`, decided, confidence),
      ties: yield* accuracy(
        `${name}, ties`,
        pairs.map((pair) => ({ ...pair, first: tied(pair) ? 1 : 0, second: 1 })),
        confidence
      )
    }
  })
