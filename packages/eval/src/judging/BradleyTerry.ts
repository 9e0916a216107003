/**
 * Strengths of several systems from comparisons of two at a time.
 *
 *     P(i beats j) = σ(s_i - s_j)        Σ s_i = 0
 *
 * Strengths are in nats of odds. A tie is half a win for each.
 *
 * @since 0.1.0
 */
import { Result, Schema } from "effect"
import type { Estimate } from "../Estimate.ts"
import type * as Bootstrap from "../statistics/Bootstrap.ts"
import * as ClusterBootstrap from "../statistics/ClusterBootstrap.ts"
import type { Preference } from "./Judge.ts"
import * as WinRate from "./WinRate.ts"

/**
 * Strengths do not exist: there are no comparisons, or some systems never won (or drew) against the others, so that the
 * data put no bound on how much weaker they are. More comparisons help, or a prior.
 *
 * @category errors
 * @since 0.1.0
 */
export class BradleyTerryError extends Schema.TaggedError<BradleyTerryError>()("BradleyTerryError", {
  systems: Schema.Array(Schema.String),
  reason: Schema.String
}) {
  override get message(): string {
    return `Bradley-Terry strengths: ${this.reason}`
  }
}

/**
 * A comparison of two systems. `cluster` names the prompt, whose comparisons depend on each other; `session` that in which
 * it was judged.
 *
 * @category models
 * @since 0.1.0
 */
export interface Match {
  readonly first: string
  readonly second: string
  readonly preference: Preference
  readonly cluster?: string | undefined
  readonly session?: string | undefined
}

/**
 * All pairs of systems on each screen of a session. A screen is a cluster, or a part of its own cluster.
 *
 * @category constructors
 * @since 0.1.0
 */
export const matchesOfScreens = ({ screens, session, systems }: WinRate.Session): ReadonlyArray<Match> =>
  screens.flatMap(({ cluster, id, ranks }) =>
    systems.flatMap((first, i) =>
      systems.slice(i + 1).map((second): Match => {
        const [one, other] = [ranks[first]!, ranks[second]!]
        const preference = one < other ? "first" : one > other ? "second" : "tie"
        return { first, second, preference, cluster: cluster ?? id, session }
      })
    )
  )

/**
 * The verdicts of several win rates, which must be of one session, each pair of systems once (a matrix has it twice). A
 * prompt is a cluster across all of them.
 *
 * @category constructors
 * @since 0.1.0
 */
export const matchesOfRates = (
  rates: ReadonlyArray<WinRate.WinRate>
): Result.Result<ReadonlyArray<Match>, WinRate.SessionError | BradleyTerryError> =>
  Result.gen(function* () {
    yield* WinRate.table(rates)
    const seen = new Set<string>()
    for (const { opponent, score } of rates) {
      const systems = [score.system, opponent].sort()
      const key = JSON.stringify(systems)
      if (seen.has(key)) {
        const reason = `${key} stands twice among the win rates; give each pair of systems once`
        return yield* Result.fail(new BradleyTerryError({ systems, reason }))
      }
      seen.add(key)
    }
    return rates.flatMap(({ opponent, score: { sample, system }, session }) =>
      sample.ids.map((id, i): Match => {
        const value = sample.values[i]!
        const preference = value === 0.5 ? "tie" : value > 0.5 ? "first" : "second"
        return { first: system, second: opponent, preference, cluster: sample.clusters?.[i] ?? id, session }
      })
    )
  })

type Wins = ReadonlyArray<ArrayLike<number>>

/** Indices that can be reached from `start` along `leads`. */
const reached = (count: number, start: number, leads: (from: number, to: number) => boolean): Set<number> => {
  const seen = new Set([start])
  for (const from of seen) {
    for (let to = 0; to < count; to++) if (leads(from, to)) seen.add(to)
  }
  return seen
}

/** Systems that no chain of wins leads out of, if they are not all: they never won against any other. */
const neverWon = (wins: Wins): ReadonlyArray<number> | undefined => {
  for (let start = 0; start < wins.length; start++) {
    const below = reached(wins.length, start, (from, to) => wins[from]![to]! > 0)
    if (below.size < wins.length) return [...below].sort((a, b) => a - b)
  }
  return undefined
}

/** Solves `a x = b` for a positive definite matrix, which it overwrites, as it does `b`. */
const solve = (a: ReadonlyArray<Float64Array>, b: Float64Array): Float64Array => {
  const n = b.length
  for (let k = 0; k < n; k++) {
    for (let i = k + 1; i < n; i++) {
      const factor = a[i]![k]! / a[k]![k]!
      for (let j = k; j < n; j++) a[i]![j]! -= factor * a[k]![j]!
      b[i]! -= factor * b[k]!
    }
  }
  for (let k = n - 1; k >= 0; k--) {
    for (let j = k + 1; j < n; j++) b[k]! -= a[k]![j]! * b[j]!
    b[k]! /= a[k]![k]!
  }
  return b
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))

const logLikelihood = (wins: Wins, strengths: Float64Array): number => {
  let sum = 0
  for (let i = 0; i < wins.length; i++) {
    for (let j = 0; j < wins.length; j++) {
      if (i !== j && wins[i]![j]! > 0) sum -= wins[i]![j]! * softplus(strengths[j]! - strengths[i]!)
    }
  }
  return sum
}

/**
 * Strengths of maximum likelihood, mean 0, by Newton's method; the likelihood is concave, and its maximum is the one
 * that the MM algorithm of Hunter 2004 (Annals of Statistics 32(1)) climbs to. `undefined` where there is none: then
 * the systems fall into two groups of which one never won against the other (Ford 1957).
 *
 * Shapes: `wins` `[K, K]`, `wins[i][j]` how often `i` won against `j`, ties as halves, diagonal ignored; result `[K]`.
 *
 * @category math
 * @since 0.1.0
 */
export const strengths = (wins: Wins): Float64Array | undefined => {
  if (neverWon(wins) !== undefined) return undefined
  const count = wins.length
  let current: Float64Array = new Float64Array(count)
  let step: Float64Array = new Float64Array(count)
  let best = Number.NEGATIVE_INFINITY
  for (let iteration = 0; iteration < 500; iteration++) {
    const likelihood = logLikelihood(wins, current)
    // A full step may pass the maximum: half of it then, unless only rounding is lost.
    if (likelihood < best - 1e-12 * Math.abs(best)) {
      step = step.map((value) => value / 2)
      current = current.map((value, i) => value - step[i]!)
      continue
    }
    best = likelihood
    const gradient = new Float64Array(count)
    // 1 / K everywhere pins the direction in which all strengths move together, along which the likelihood is flat.
    const information = Array.from(gradient, () => new Float64Array(count).fill(1 / count))
    for (let i = 0; i < count; i++) {
      for (let j = 0; j < count; j++) {
        if (i === j) continue
        const p = sigmoid(current[i]! - current[j]!)
        const games = wins[i]![j]! + wins[j]![i]!
        gradient[i]! += wins[i]![j]! - games * p
        information[i]![i]! += games * p * (1 - p)
        information[i]![j]! -= games * p * (1 - p)
      }
    }
    step = solve(information, gradient)
    current = current.map((value, i) => value + step[i]!)
    // Each step squares the error of the one before.
    if (step.every((value) => Math.abs(value) < 1e-7)) break
  }
  const mean = current.reduce((sum, value) => sum + value, 0) / count
  return current.map((value) => value - mean)
}

/**
 * Settings of {@link fit}. `prior` adds that many ties between any two systems, half a win for each: 0, maximum
 * likelihood, unless given. Above 0 strengths always exist, drawn towards each other.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Bootstrap.Options {
  readonly prior?: number
}

/**
 * Strengths with intervals. `differences[i][j]` is `s_i - s_j`, of the same resamples: intervals of two strengths that
 * overlap do not tell whether the two systems differ, this does.
 *
 * @category models
 * @since 0.1.0
 */
export interface Fit {
  /** That of the comparisons, where they name it. */
  readonly session?: string
  /** In order of appearance. */
  readonly systems: ReadonlyArray<string>
  /** `[K]`, mean 0, in nats of odds. */
  readonly strengths: ReadonlyArray<Estimate>
  /** `[K, K]`. */
  readonly differences: ReadonlyArray<ReadonlyArray<Estimate>>
}

interface Indexed {
  readonly first: number
  readonly second: number
  /** Share of a win that the first has. */
  readonly win: number
  readonly cluster: string | undefined
}

/** The wins of a cluster: how many in which cells of the matrix, row by row. */
type Entries = ReadonlyArray<readonly [cell: number, wins: number]>

const entriesOf = (count: number, matches: ReadonlyArray<Indexed>): Entries => {
  const cells = new Map<number, number>()
  const add = (cell: number, wins: number) => wins > 0 && cells.set(cell, (cells.get(cell) ?? 0) + wins)
  for (const { first, second, win } of matches) {
    add(first * count + second, win)
    add(second * count + first, 1 - win)
  }
  return [...cells]
}

const tally = (count: number, prior: number, draw: ReadonlyArray<Entries>): Wins => {
  const wins = new Float64Array(count * count).fill(prior / 2)
  for (const entries of draw) for (const [cell, won] of entries) wins[cell]! += won
  return Array.from({ length: count }, (_, i) => wins.subarray(i * count, (i + 1) * count))
}

const winOf: Record<Preference, number> = { first: 1, second: 0, tie: 0.5 }

const scaled = (estimate: Estimate, factor: number, offset = 0): Estimate => {
  const of = (value: number | null) => (value === null ? null : offset + factor * value)
  const [low, high] = [of(estimate.low), of(estimate.high)]
  return {
    ...estimate,
    value: offset + factor * estimate.value,
    low: factor < 0 ? high : low,
    high: factor < 0 ? low : high,
    se: estimate.se === null ? null : Math.abs(factor) * estimate.se
  }
}

/**
 * Fits strengths to comparisons, with percentile intervals from resampled comparisons, whole clusters where they have
 * them.
 *
 * **Gotchas**
 *
 * Resamples in which a system wins or loses everything have no strengths and are left out; `method` says how many.
 * Where that is more than a few, intervals are too short: give a `prior`. A single comparison, or comparisons of one
 * cluster, have no intervals. Comparisons of two sessions cannot be fitted together; those that name no session are the
 * caller's to keep apart.
 *
 * Source: Bradley & Terry 1952, Biometrika 39(3/4); ties as in Chiang et al. 2024, arXiv:2403.04132.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fit = (
  matches: ReadonlyArray<Match>,
  { prior = 0, ...options }: Options
): Result.Result<Fit, BradleyTerryError | WinRate.SessionError> => {
  if (!(prior >= 0 && Number.isFinite(prior))) throw new RangeError(`a prior is a finite number from 0, got ${prior}`)
  const systems = [...new Set(matches.flatMap(({ first, second }) => [first, second]))]
  const fail = (reason: string, of: ReadonlyArray<string> = []) =>
    Result.fail(new BradleyTerryError({ systems: of, reason }))
  if (matches.length === 0) return fail("no comparisons; there is nothing to fit")
  const itself = matches.find(({ first, second }) => first === second)
  if (itself !== undefined) {
    return fail(`${JSON.stringify(itself.first)} is compared with itself; leave such comparisons out`, [itself.first])
  }
  const unclustered = matches.find(({ cluster }) => cluster === undefined)
  if (unclustered !== undefined && matches.some(({ cluster }) => cluster !== undefined)) {
    const { first, second } = unclustered
    const reason = `a comparison of ${JSON.stringify(first)} with ${JSON.stringify(second)} has no cluster, others have`
    return fail(reason, [first, second])
  }
  const session = matches[0]!.session
  const other = matches.find((match) => match.session !== session)
  if (other !== undefined) {
    const [one, another] = [matches[0]!, other].map(
      ({ first, second }) => `${JSON.stringify(first)} against ${JSON.stringify(second)}`
    ) as [string, string]
    if (session === undefined || other.session === undefined) {
      const reason = `the comparison of ${session === undefined ? one : another} has no session, others have`
      return fail(reason, [])
    }
    return Result.fail(new WinRate.SessionError({ sessions: [session, other.session], systems: [one, another] }))
  }
  const place = new Map(systems.map((system, i) => [system, i]))
  const indexed = matches.map(
    ({ cluster, first, preference, second }): Indexed => ({
      first: place.get(first)!,
      second: place.get(second)!,
      win: winOf[preference],
      cluster
    })
  )
  const weakest = neverWon(tally(systems.length, prior, [entriesOf(systems.length, indexed)]))
  if (weakest !== undefined) {
    const names = weakest.map((i) => systems[i]!)
    const quoted = (of: ReadonlyArray<string>) => of.map((system) => JSON.stringify(system)).join(", ")
    const others = systems.filter((system) => !names.includes(system))
    const reason =
      `${quoted(names)} never won or tied against ${quoted(others)}, so nothing bounds the distance between them; ` +
      "compare more, leave them out, or give a prior"
    return fail(reason, names)
  }
  const count = systems.length
  const estimates = ClusterBootstrap.summarised(
    indexed,
    (cluster) => entriesOf(count, cluster),
    (draw) => {
      const fitted = strengths(tally(count, prior, draw)) ?? new Float64Array(count).fill(Number.NaN)
      const differences = systems.flatMap((_, i) => systems.slice(i + 1).map((_, k) => fitted[i]! - fitted[i + 1 + k]!))
      return [...fitted, ...differences]
    },
    options
  )
  const zero: Estimate = {
    ...estimates[0]!,
    value: 0,
    low: 0,
    high: 0,
    se: 0,
    method: "a system against itself"
  }
  let next = count
  const differences = systems.map(() => systems.map(() => zero))
  for (let i = 0; i < count; i++) {
    for (let j = i + 1; j < count; j++) {
      const estimate = estimates[next++]!
      differences[i]![j] = estimate
      differences[j]![i] = scaled(estimate, -1)
    }
  }
  return Result.succeed({
    ...(session === undefined ? {} : { session }),
    systems,
    strengths: estimates.slice(0, count),
    differences
  })
}

const placeOf = ({ systems }: Fit, system: string): Result.Result<number, BradleyTerryError> => {
  const place = systems.indexOf(system)
  if (place >= 0) return Result.succeed(place)
  const reason = `no comparison has the system ${JSON.stringify(system)}`
  return Result.fail(new BradleyTerryError({ systems: [system], reason }))
}

/**
 * Probability that a system is preferred to another, ties as half, by their strengths: an estimate also for two that
 * never met. The bounds are those of the difference of strengths; it has no standard error of its own.
 *
 * @category combining
 * @since 0.1.0
 */
export const winProbability = (
  fit: Fit,
  system: string,
  opponent: string
): Result.Result<Estimate, BradleyTerryError> =>
  Result.gen(function* () {
    const difference = fit.differences[yield* placeOf(fit, system)]![yield* placeOf(fit, opponent)]!
    const of = (value: number | null) => (value === null ? null : sigmoid(value))
    return {
      ...difference,
      value: sigmoid(difference.value),
      low: of(difference.low),
      high: of(difference.high),
      se: null
    }
  })

const eloPerNat = 400 / Math.LN10

/**
 * Strengths on the scale of Elo ratings, for display: 400 points are odds of 10 to 1. Their mean is 1000; with `anchor`
 * that system has 1000, and intervals are of the distance from it. In the order of `fit.systems`.
 *
 * These are not ratings updated game by game: the order of the comparisons does not matter.
 *
 * @category combining
 * @since 0.1.0
 */
export const elo = (
  fit: Fit,
  options?: { readonly anchor?: string }
): Result.Result<ReadonlyArray<Estimate>, BradleyTerryError> => {
  const of = (estimates: ReadonlyArray<Estimate>) => estimates.map((estimate) => scaled(estimate, eloPerNat, 1000))
  return options?.anchor === undefined
    ? Result.succeed(of(fit.strengths))
    : Result.map(placeOf(fit, options.anchor), (anchor) => of(fit.differences.map((row) => row[anchor]!)))
}
