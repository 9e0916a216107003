/**
 * Win rates: how often one system's answer is preferred to another's. A win counts 1, a tie ½, a loss 0.
 *
 * Verdicts come from a judge that sees each pair in both orders, or from people who rank the answers of several systems
 * on one screen. Every result carries the session in which it was judged, since win rates of two sessions cannot be
 * laid side by side: the same model won 28.9 % in one session of Scheurer et al. 2023 (arXiv:2303.16755) and 35.4 % in
 * another.
 *
 * @since 0.1.0
 */
import { JsonLines } from "@attune/core"
import { Effect, type FileSystem, Result, Schema, Stream } from "effect"
import type * as Estimate from "../Estimate.ts"
import * as Sample from "../Sample.ts"
import * as Score from "../Score.ts"
import * as Share from "../Share.ts"
import type * as Bootstrap from "../statistics/Bootstrap.ts"
import * as ClusterBootstrap from "../statistics/ClusterBootstrap.ts"
import * as Judge from "./Judge.ts"

/**
 * Numbers of two sessions were about to be compared. Who ranks, beside which other answers, and how carefully differs
 * from session to session: only systems that were judged in one session have comparable win rates.
 *
 * @category errors
 * @since 0.1.0
 */
export class SessionError extends Schema.TaggedError<SessionError>()("SessionError", {
  sessions: Schema.Tuple([Schema.String, Schema.String]),
  /** What was judged in the one and in the other. */
  systems: Schema.Tuple([Schema.String, Schema.String])
}) {
  override get message(): string {
    const [one, other] = this.sessions.map((session) => JSON.stringify(session))
    return (
      `${this.systems[0]} was judged in session ${one}, ${this.systems[1]} in session ${other}; ` +
      "win rates are comparable within one session only: make a table of each"
    )
  }
}

/**
 * A score that is comparable with those of its session only.
 *
 * @category models
 * @since 0.1.0
 */
export interface InSession {
  readonly session: string
  readonly score: Score.Score
}

/**
 * What every comparison of two systems results in. `score` is of the system, against `opponent`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rated extends InSession {
  readonly opponent: string
}

/**
 * How often a system wins against its opponent. The values of `score.sample` are 1 for a win, ½ for a tie, 0 for a
 * loss.
 *
 * @category models
 * @since 0.1.0
 */
export interface WinRate extends Rated {
  readonly wins: number
  readonly ties: number
  readonly losses: number
}

/**
 * What a win rate is of. `task` names the prompts, where there are several sets of them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly session: string
  readonly task?: string
  /** Of all intervals, 0.95 unless given. */
  readonly confidence?: number
}

const measured = (
  metric: string,
  { opponent, session, system, task }: { system: string; opponent: string; session: string; task?: string | undefined }
): Score.Measured => ({
  system,
  // Opponent and session are of the task, so that a table by tasks cannot put different ones into one column.
  task: `${task === undefined ? "" : `${task}, `}against ${opponent}, session ${session}`,
  metric,
  unit: "share",
  higherIsBetter: true
})

const ofSample = (
  sample: Sample.Sample,
  system: string,
  opponent: string,
  { confidence = 0.95, session, task }: Options
): WinRate => {
  const count = (value: number) => sample.values.filter((other) => other === value).length
  return {
    session,
    opponent,
    score: {
      ...measured("win_rate", { system, opponent, session, task }),
      estimate: Share.mean(sample, confidence),
      sample
    },
    wins: count(1),
    ties: count(0.5),
    losses: count(0)
  }
}

/**
 * Answers of two systems to one prompt. `cluster` names the prompt where it has several pairs of answers.
 *
 * @category models
 * @since 0.1.0
 */
export interface Item {
  readonly id: string
  readonly prompt: string
  readonly first: string
  readonly second: string
  readonly cluster?: string | undefined
}

/**
 * A system's answer to a prompt. `id` is that of the prompt, or of the sample where a prompt (`cluster`) has several.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer {
  readonly id: string
  readonly prompt: string
  readonly completion: string
  readonly cluster?: string | undefined
}

const answersOf = (system: string, answers: ReadonlyArray<Answer>): Result.Result<Sample.Sample, Sample.SampleError> =>
  Sample.make(
    system,
    answers.map(({ cluster, id }) => ({ id, value: 0, cluster }))
  )

/**
 * Lays the answers of two systems side by side, by id and in the order of the first. Fails where they did not answer
 * the same prompts.
 *
 * @category constructors
 * @since 0.1.0
 */
export const pair = (
  first: { readonly system: string; readonly answers: ReadonlyArray<Answer> },
  second: { readonly system: string; readonly answers: ReadonlyArray<Answer> }
): Result.Result<ReadonlyArray<Item>, Sample.SampleError> =>
  Result.gen(function* () {
    const one = yield* answersOf(first.system, first.answers)
    const other = yield* answersOf(second.system, second.answers)
    const { clusters } = yield* Sample.pair(one, other)
    const byId = new Map(second.answers.map((answer) => [answer.id, answer]))
    const differs = first.answers.find(({ id, prompt }) => byId.get(id)?.prompt !== prompt)
    if (differs !== undefined) {
      return yield* Result.fail(
        new Sample.SampleError({
          sample: second.system,
          item: differs.id,
          reason: `its prompt is another than that of "${first.system}"; compare answers to the same prompts`
        })
      )
    }
    return first.answers.map(({ completion, id, prompt }, i) => ({
      id,
      prompt,
      first: completion,
      second: byId.get(id)!.completion,
      ...(clusters === undefined ? {} : { cluster: clusters[i]! })
    }))
  })

/**
 * What the judge said of one pair: seen as `first, second`, then as `second, first`. Both preferences are of the item,
 * not of the place: `first` is the first system's answer. Identical answers are a tie that the judge was not asked
 * about.
 *
 * @category models
 * @since 0.1.0
 */
export interface Verdict {
  readonly id: string
  readonly orders: readonly [Judge.Preference, Judge.Preference]
  readonly asked: boolean
}

/**
 * Win rate by a judge, with what its answers owe to the order in which it saw them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Judged extends WinRate {
  readonly judge: string
  readonly verdicts: ReadonlyArray<Verdict>
  /** Pairs of identical answers: ties, of which the judge was not asked. */
  readonly identical: number
  /**
   * Share of the pairs asked about on which the two orders do not agree, a preference against a tie included. `null`
   * where all answers are identical.
   */
  readonly flipRate: Estimate.Estimate | null
  /**
   * How often the answer shown first was preferred, ties as half, mean over pairs of both orders: ½ without position
   * bias. A judge who never flips scores ½ on every pair, which leaves no interval.
   */
  readonly firstPosition: Estimate.Estimate | null
}

const swapped: Record<Judge.Preference, Judge.Preference> = { first: "second", second: "first", tie: "tie" }
const valueOf: Record<Judge.Preference, number> = { first: 1, second: 0, tie: 0.5 }

/**
 * Has a judge compare answers in both orders. A system wins a pair where the judge prefers it in both; where the two
 * orders do not agree, the pair is a tie.
 *
 * **Details**
 *
 * The judge is called twice, once with all pairs as they are and once with all of them swapped, under the same ids: a
 * judge that keeps its answers must tell them apart by their texts. Pairs of identical answers are ties without asking.
 * Nothing is asked before the items are checked. The interval is Student's t over the verdicts, clustered where items
 * have clusters, cut to `[0, 1]`; Wilson's where all verdicts are wins or all losses.
 *
 * Source: both orders and ties on disagreement, Zheng et al. 2023, arXiv:2306.05685, section 3.4.
 *
 * @category running
 * @since 0.1.0
 */
export const compare: (
  judge: Judge.JudgeShape,
  items: ReadonlyArray<Item>,
  options: Options & { readonly first: string; readonly second: string }
) => Effect.Effect<Judged, Sample.SampleError | Judge.JudgeError> = Effect.fn("WinRate.compare")(
  function* (judge, items, options) {
    const { confidence = 0.95, first, second } = options
    const name = `${first} against ${second}`
    if (first === second) {
      const reason = "both systems have this name; a win must be of one of them"
      return yield* new Sample.SampleError({ sample: first, reason })
    }
    yield* Effect.fromResult(
      Sample.make(
        name,
        items.map(({ cluster, id }) => ({ id, value: 0, cluster }))
      )
    )
    const asked = items.filter((item) => item.first !== item.second)
    const forward = asked.map(({ first, id, prompt, second }) => ({ id, prompt, first, second }))
    const backward = asked.map(({ first, id, prompt, second }) => ({ id, prompt, first: second, second: first }))
    const one = asked.length === 0 ? [] : yield* Judge.ask(judge, forward)
    const two = asked.length === 0 ? [] : yield* Judge.ask(judge, backward)
    const orders = new Map(asked.map(({ id }, i) => [id, [one[i]!, swapped[two[i]!]] as const]))
    const verdicts = items.map(
      ({ id }): Verdict => ({ id, orders: orders.get(id) ?? ["tie", "tie"], asked: orders.has(id) })
    )

    const sampleOf = (of: string, among: ReadonlyArray<Item>, value: (item: Item) => number) =>
      Effect.fromResult(
        Sample.make(
          of,
          among.map((item) => ({ id: item.id, value: value(item), cluster: item.cluster }))
        )
      )
    const wins = yield* sampleOf(name, items, ({ id }) => {
      const [forwards, backwards] = orders.get(id) ?? ["tie", "tie"]
      return forwards === backwards ? valueOf[forwards] : 0.5
    })
    const biases =
      asked.length === 0
        ? { flipRate: null, firstPosition: null }
        : {
            flipRate: Share.rate(
              yield* sampleOf(`${name}, flips`, asked, ({ id }) => {
                const [forwards, backwards] = orders.get(id)!
                return forwards === backwards ? 0 : 1
              }),
              confidence
            ),
            firstPosition: Share.mean(
              yield* sampleOf(`${name}, first place preferred`, asked, ({ id }) => {
                const [forwards, backwards] = orders.get(id)!
                return (valueOf[forwards] + 1 - valueOf[backwards]) / 2
              }),
              confidence
            )
          }
    return {
      ...ofSample(wins, first, second, options),
      judge: judge.name,
      verdicts,
      identical: items.length - asked.length,
      ...biases
    }
  }
)

/**
 * Schema for the ranks that one person gave on one screen to the answers of several systems to one prompt: smaller is
 * better, equal ranks are ties, at least two systems. `cluster` names the prompt where several screens show it.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Screen = Schema.Struct({
  session: Schema.NonEmptyString,
  id: Schema.NonEmptyString,
  ranks: Schema.Record(Schema.NonEmptyString, Schema.Finite),
  cluster: Schema.optionalKey(Schema.NonEmptyString)
}).check(
  Schema.makeFilter(({ ranks }) => {
    const count = Object.keys(ranks).length
    return count >= 2 || { path: ["ranks"], issue: `Expected the ranks of at least 2 systems, got ${count}` }
  })
)

/**
 * @see {@link Screen}
 * @category models
 * @since 0.1.0
 */
export type Screen = typeof Screen.Type

/**
 * Reads screens from JSON Lines, one per line. Sessions may share a file, and a screen's id must be its own within a
 * session. Fails with file, line and field.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (
  file: string
) => Effect.Effect<ReadonlyArray<Screen>, JsonLines.FeedbackLineError, FileSystem.FileSystem> = Effect.fn(
  "WinRate.read"
)(function* (file) {
  const lines = yield* Stream.runCollect(JsonLines.numbered(file, Screen))
  const seen = new Map<string, number>()
  for (const { line, value } of lines) {
    const key = JSON.stringify([value.session, value.id])
    const before = seen.get(key)
    if (before !== undefined) {
      const [id, of] = [JSON.stringify(value.id), JSON.stringify(value.session)]
      const reason = `line ${before} has ${id} in session ${of} already`
      return yield* new JsonLines.FeedbackLineError({ file, line, field: "id", reason })
    }
    seen.set(key, line)
  }
  return lines.map(({ value }) => value)
})

/**
 * Screens of one session that show the same systems, all with distinct ids.
 *
 * @category models
 * @since 0.1.0
 */
export interface Session {
  readonly session: string
  /** In the order of the first screen. */
  readonly systems: ReadonlyArray<string>
  readonly screens: ReadonlyArray<Screen>
}

const listed = (systems: ReadonlyArray<string>): string => systems.map((system) => JSON.stringify(system)).join(", ")

/**
 * Checks screens that are to be evaluated together: some, of one session, with distinct ids, each system on all of them,
 * at least two systems, and ranks that are finite.
 *
 * @category decoding
 * @since 0.1.0
 */
export const session = (screens: ReadonlyArray<Screen>): Result.Result<Session, Sample.SampleError | SessionError> =>
  Result.gen(function* () {
    const [first] = screens
    const other = screens.find((screen) => screen.session !== first?.session)
    if (first !== undefined && other !== undefined) {
      return yield* Result.fail(
        new SessionError({
          sessions: [first.session, other.session],
          systems: [listed(Object.keys(first.ranks)), listed(Object.keys(other.ranks))]
        })
      )
    }
    const name = first === undefined ? "screens" : `session ${first.session}`
    yield* Sample.make(
      name,
      screens.map(({ cluster, id }) => ({ id, value: 0, cluster }))
    )
    const systems = Object.keys(first!.ranks)
    const all = new Set(screens.flatMap(({ ranks }) => Object.keys(ranks)))
    if (all.size < 2) {
      const reason = `has the ranks of ${all.size} systems; a comparison needs at least 2`
      return yield* Result.fail(new Sample.SampleError({ sample: name, item: first!.id, reason }))
    }
    for (const { id, ranks } of screens) {
      const unranked = Object.keys(ranks).find((system) => !Number.isFinite(ranks[system]))
      if (unranked !== undefined) {
        const reason = `the rank of ${JSON.stringify(unranked)} is ${ranks[unranked]}; a rank is a finite number`
        return yield* Result.fail(new Sample.SampleError({ sample: name, item: id, reason }))
      }
      const missing = [...all].filter((system) => !Object.hasOwn(ranks, system))
      if (missing.length > 0) {
        const reason = `has no rank of ${listed(missing)}; leave such screens, or such systems, out of all comparisons`
        return yield* Result.fail(new Sample.SampleError({ sample: name, item: id, reason }))
      }
    }
    return { session: first!.session, systems, screens }
  })

/**
 * Values of a comparison by ranks, which belong to each other by their places: 1 where ours is smaller, ½ where they
 * are equal, 0 where theirs is smaller. Throws where there are not as many of each.
 *
 * @category math
 * @since 0.1.0
 */
export const wins = (ours: ArrayLike<number>, theirs: ArrayLike<number>): ReadonlyArray<number> => {
  if (ours.length !== theirs.length) {
    throw new RangeError(`${ours.length} of our ranks cannot be compared with ${theirs.length} of theirs`)
  }
  return Array.from(ours, (rank, i) => (rank < theirs[i]! ? 1 : rank === theirs[i] ? 0.5 : 0))
}

const known = (session: Session, system: string): Result.Result<void, Sample.SampleError> =>
  session.systems.includes(system)
    ? Result.succeed(undefined)
    : Result.fail(
        new Sample.SampleError({
          sample: `session ${session.session}`,
          reason: `no screen has the system ${JSON.stringify(system)}; there are ${listed(session.systems)}`
        })
      )

const ofPair = (
  { screens, session }: Session,
  system: string,
  opponent: string,
  options: Omit<Options, "session"> = {}
): WinRate => {
  const ranks = (of: string) => screens.map(({ ranks }) => ranks[of]!)
  const values = wins(ranks(system), ranks(opponent))
  // A session was checked when it was made.
  const sample = Result.getOrThrow(
    Sample.make(
      `${system} against ${opponent}`,
      screens.map(({ cluster, id }, i) => ({ id, value: values[i]!, cluster }))
    )
  )
  return ofSample(sample, system, opponent, { ...options, session })
}

/**
 * Win rate of each other system against one, by its ranks on all screens: mean and standard error over screens, as in
 * Scheurer et al. 2023, arXiv:2303.16755.
 *
 * @category constructors
 * @since 0.1.0
 */
export const against = (
  session: Session,
  opponent: string,
  options?: Omit<Options, "session">
): Result.Result<ReadonlyArray<WinRate>, Sample.SampleError> =>
  Result.map(known(session, opponent), () =>
    session.systems.filter((system) => system !== opponent).map((system) => ofPair(session, system, opponent, options))
  )

/**
 * Win rate of each system against each other, in the order of `session.systems`: rows are systems, columns opponents,
 * and the diagonal is `null`. `rates[i][j]` and `rates[j][i]` add up to 1.
 *
 * @category constructors
 * @since 0.1.0
 */
export const matrix = (
  session: Session,
  options?: Omit<Options, "session">
): ReadonlyArray<ReadonlyArray<WinRate | null>> =>
  session.systems.map((system) =>
    session.systems.map((opponent) => (system === opponent ? null : ofPair(session, system, opponent, options)))
  )

/**
 * Mean rank of each system among those on its screens, 1 for the best. Ranks are counted anew on each screen, and
 * systems that tie share the mean of their places, so that it does not matter whether a person wrote 1, 1, 2 or 1, 1,
 * 3.
 *
 * @category constructors
 * @since 0.1.0
 */
export const meanRanks = (
  { screens, session, systems }: Session,
  options: Omit<Options, "session"> = {}
): ReadonlyArray<InSession> =>
  systems.map((system) => {
    const place = (ranks: Screen["ranks"]): number => {
      const others = Object.values(ranks)
      const better = others.filter((rank) => rank < ranks[system]!).length
      const equal = others.filter((rank) => rank === ranks[system]!).length
      return better + (equal + 1) / 2
    }
    const sample = Sample.make(
      `${system}, ranks`,
      screens.map(({ cluster, id, ranks }) => ({ id, value: place(ranks), cluster }))
    )
    const task = `${options.task === undefined ? "" : `${options.task}, `}among ${systems.length}, session ${session}`
    const measured = { system, task, metric: "mean_rank", unit: "rank", higherIsBetter: false }
    return { session, score: Score.mean(measured, Result.getOrThrow(sample), options.confidence) }
  })

/**
 * The scores of results that may stand in one table: those of one session. Make tables of win rates and ranks through here.
 *
 * @category combining
 * @since 0.1.0
 */
export const table = (
  results: ReadonlyArray<InSession | Rated>
): Result.Result<ReadonlyArray<Score.Score>, SessionError> => {
  const [first] = results
  const other = results.find(({ session }) => session !== first?.session)
  if (first === undefined || other === undefined) return Result.succeed(results.map(({ score }) => score))
  const names = (result: InSession | Rated) =>
    JSON.stringify(result.score.system) + ("opponent" in result ? ` against ${JSON.stringify(result.opponent)}` : "")
  return Result.fail(
    new SessionError({ sessions: [first.session, other.session], systems: [names(first), names(other)] })
  )
}

/**
 * Win rate that the system would have if its answers were as long as its opponent's.
 *
 * @category models
 * @since 0.1.0
 */
export interface LengthControlled extends Rated {
  /** The win rate as it was judged. */
  readonly raw: Estimate.Estimate
  /** Coefficient of the length term in nats of odds: above 0 where longer answers are preferred. */
  readonly lengthEffect: Estimate.Estimate
}

/**
 * Settings of {@link lengthControlled}. `length` is in Unicode characters unless given. `ridge` is the λ of the penalty
 * `λ (θ² + φ²) / 2`, 0.01 unless given.
 *
 * @category models
 * @since 0.1.0
 */
export interface LengthOptions extends Bootstrap.Options {
  readonly length?: (answer: string) => number
  readonly ridge?: number
  readonly task?: string
}

const characters = (text: string): number => {
  let count = 0
  for (const _ of text) count++
  return count
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/**
 * Fits `P(win) = σ(θ + φ x)` to wins in `[0, 1]` by Newton's method, at the maximum of
 *
 *     Σ (y η - log(1 + e^η)) - λ (θ² + φ²) / 2        η = θ + φ x
 *
 * The ridge `λ > 0` makes it finite where wins and losses are separated by `x` or all are alike.
 *
 * Shapes: `x` and `y` `[n]`. `start` is where Newton's method begins, 0 unless given; the result does not depend on it.
 *
 * @category math
 * @since 0.1.0
 */
export const logistic = (
  x: ArrayLike<number>,
  y: ArrayLike<number>,
  ridge: number,
  start: { readonly intercept: number; readonly slope: number } = { intercept: 0, slope: 0 }
): { readonly intercept: number; readonly slope: number } => {
  if (!(ridge > 0 && Number.isFinite(ridge))) throw new RangeError(`a ridge is a finite number above 0, got ${ridge}`)
  let { intercept: a, slope: b } = start
  let [da, db] = [0, 0]
  let best = Number.NEGATIVE_INFINITY
  for (let iteration = 0; iteration < 200; iteration++) {
    let objective = (-ridge * (a * a + b * b)) / 2
    let [ga, gb, haa, hab, hbb] = [-ridge * a, -ridge * b, ridge, 0, ridge]
    for (let i = 0; i < x.length; i++) {
      const xi = x[i]!
      const eta = a + b * xi
      const small = Math.exp(-Math.abs(eta))
      const p = (eta > 0 ? 1 : small) / (1 + small)
      const w = p * (1 - p)
      const residual = y[i]! - p
      objective += y[i]! * eta - Math.max(eta, 0) - Math.log1p(small)
      ga += residual
      gb += residual * xi
      haa += w
      hab += w * xi
      hbb += w * xi * xi
    }
    // Where almost all is separated a full step may pass the maximum: half of it then, unless only rounding is lost.
    if (objective < best - 1e-10 * Math.abs(best)) {
      da /= 2
      db /= 2
      a -= da
      b -= db
      continue
    }
    best = objective
    const determinant = haa * hbb - hab * hab
    da = (hbb * ga - hab * gb) / determinant
    db = (haa * gb - hab * ga) / determinant
    a += da
    b += db
    // Each step squares the error of the one before.
    if (Math.abs(da) + Math.abs(db) < 1e-8) break
  }
  return { intercept: a, slope: b }
}

interface Judgement {
  readonly win: number
  /** Length of the system's answer less that of its opponent's. */
  readonly difference: number
  readonly cluster?: string | undefined
}

const deviation = (judgements: ReadonlyArray<Judgement>): number => {
  let sum = 0
  for (const { difference } of judgements) sum += difference
  const mean = sum / judgements.length
  let squares = 0
  for (const { difference } of judgements) squares += (difference - mean) ** 2
  return Math.sqrt(squares / (judgements.length - 1))
}

type Coefficients = ReturnType<typeof logistic>

// Nothing where lengths differ by one amount throughout, which is collinear with the intercept.
const controlled = (
  judgements: ReadonlyArray<Judgement>,
  ridge: number,
  start?: Coefficients
): Coefficients | undefined => {
  const sd = deviation(judgements)
  if (!(sd > 0) && judgements[0]!.difference !== 0) return undefined
  const x = Float64Array.from(judgements, ({ difference }) => (difference === 0 ? 0 : Math.tanh(difference / sd)))
  const y = Float64Array.from(judgements, ({ win }) => win)
  return logistic(x, y, ridge, start)
}

/**
 * Win rate corrected for the length of the answers, by a logistic regression of the verdicts on the difference of
 * lengths, read off where it is zero.
 *
 * **Details**
 *
 *     P(win_i) = σ(θ + φ tanh(d_i / sd(d)))      d_i = length(first_i) - length(second_i)
 *     rate     = σ(θ)
 *
 * Ties count as half a win and half a loss. `sd` has `n - 1` in its denominator. Intervals are percentiles of a
 * bootstrap over items, of whole clusters where the win rate has them.
 *
 * Source: Dubois et al. 2024, arXiv:2404.04475. Deviations: its term for the difficulty of the instruction
 * is left out, since it rests on a fit over many models; a small fixed ridge stands in for a penalty chosen by
 * cross-validation; and there is no pull towards deliberately long and short baselines. Numbers are therefore not those
 * of its leaderboard.
 *
 * **Gotchas**
 *
 * Where one system's answers are nearly always the longer ones, zero difference lies outside the data and the result is
 * an extrapolation. Fails where all lengths differ by one and the same amount, which nothing can tell from quality, and
 * where the answers are not those of the win rate.
 *
 * @category constructors
 * @since 0.1.0
 */
export const lengthControlled = (
  rate: WinRate,
  answers: ReadonlyArray<Pick<Item, "id" | "first" | "second">>,
  { length = characters, ridge = 0.01, task, ...options }: LengthOptions
): Result.Result<LengthControlled, Sample.SampleError> =>
  Result.gen(function* () {
    const { opponent, score, session } = rate
    const { sample, system } = score
    const differences = yield* Sample.make(
      `lengths of ${sample.name}`,
      answers.map(({ first, id, second }) => ({ id, value: length(first) - length(second) }))
    )
    const { second, ids } = yield* Sample.pair(sample, differences)
    const judgements = ids.map(
      (_, i): Judgement => ({
        win: sample.values[i]!,
        difference: second[i]!,
        cluster: sample.clusters?.[i]
      })
    )
    const fitted = controlled(judgements, ridge)
    if (fitted === undefined) {
      const by = second[0]
      const reason = `all answers differ in length from their opponents by ${by}; length cannot be told from quality`
      return yield* Result.fail(new Sample.SampleError({ sample: differences.name, reason }))
    }
    const [value, raw, slope] = ClusterBootstrap.joint(
      judgements,
      (draw) => {
        const again = controlled(draw, ridge, fitted)
        const wins = draw.reduce((sum, { win }) => sum + win, 0)
        return [
          again === undefined ? Number.NaN : sigmoid(again.intercept),
          wins / draw.length,
          again?.slope ?? Number.NaN
        ]
      },
      options
    )
    // Resamples of verdicts that are all alike differ in lengths only, which says nothing of how sure the rate is.
    const alike = sample.values.every((win) => win === sample.values[0])
    const told = (estimate: Estimate.Estimate) =>
      alike && estimate.low !== null
        ? { ...estimate, low: null, high: null, se: null, method: "all verdicts equal, no interval" }
        : estimate
    return {
      session,
      opponent,
      score: {
        ...measured("length_controlled_win_rate", { system, opponent, session, task }),
        estimate: told(value!),
        sample
      },
      raw: told(raw!),
      lengthEffect: told(slope!)
    }
  })
