/**
 * How well a reward model orders completions that people (or a known rule) have ranked, and what its scores are worth as
 * probabilities.
 *
 * A ranking of K completions holds up to `K (K - 1) / 2` pairs of a better and a worse completion; ties are no pairs. A
 * pair's margin is the score of the better completion minus that of the worse one, in units of the reward. Pairs of one
 * prompt depend on each other, so that all intervals are clustered by prompt.
 *
 * @since 0.1.0
 */
import { Prompt, Ranking, type RewardModel, type Tokenizer, VisibleText } from "@attune/core"
import { Effect, Result, Schema } from "effect"
import type * as Estimate from "../Estimate.ts"
import type * as Report from "../Report.ts"
import * as Sample from "../Sample.ts"
import * as Score from "../Score.ts"
import * as Share from "../Share.ts"
import * as Bootstrap from "../statistics/Bootstrap.ts"
import * as Calibration from "../statistics/Calibration.ts"
import * as Answer from "./Answer.ts"

/**
 * Rankings cannot be evaluated: there are none, one of them does not hold, or the reward model could not score a
 * completion. Whoever made the rankings, or the reward model, can fix it.
 *
 * @category errors
 * @since 0.1.0
 */
export class RankingError extends Schema.TaggedError<RankingError>()("RankingError", {
  model: Schema.String,
  /** Place of the ranking at fault, from 0, where it is one's. */
  ranking: Schema.optionalKey(Schema.Int),
  prompt: Schema.optionalKey(Schema.String),
  /** Place of the completion at fault in its ranking, from 0, where it is one's. */
  completion: Schema.optionalKey(Schema.Int),
  reason: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const prompt =
      this.prompt === undefined ? "" : ` (${JSON.stringify(VisibleText.elide(VisibleText.line(this.prompt), 60))})`
    const place = this.ranking === undefined ? "" : `, ranking ${this.ranking}${prompt}`
    const completion = this.completion === undefined ? "" : `, completion ${this.completion}`
    return `reward model ${this.model}${place}${completion}: ${this.reason}`
  }
}

/**
 * How completions are given to the reward model.
 *
 * **Details**
 *
 * `tokenizer`: that of a reward model which reads tokens, by default the one that the model names; conversations are
 * rendered by its chat template. Without one the model is given texts and no tokens, and a conversation's text is
 * `role: content` of its messages with empty lines between them. `endOfText`: completions' tokens end with the tokenizer's
 * end-of-text token, where it has one; a trained reward model, which reads its score at that token, needs it. By default so
 * with the tokenizer that the model names, and not with one that is given.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Answer.Options {
  readonly tokenizer?: Pick<Tokenizer.Tokenizer, "encode" | "prompt"> & Partial<Pick<Tokenizer.Tokenizer, "eosId">>
}

/**
 * A pair of completions of one ranking, as places in it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pair {
  readonly better: number
  readonly worse: number
  /** Score of the better one minus score of the worse one. */
  readonly margin: number
}

/**
 * A ranking with a pair at least, and its scores `[K]`, one per completion.
 *
 * @category models
 * @since 0.1.0
 */
export interface ScoredRanking {
  readonly ranking: Ranking.Ranking
  /** Its place among all rankings that were given. */
  readonly id: string
  /** Its prompt, by the place of the first ranking that has it; without a prompt, the ranking itself. */
  readonly cluster: string
  readonly scores: Float64Array
  readonly pairs: ReadonlyArray<Pair>
}

/**
 * What a model scored: at least one ranking with a pair. `tied` counts the rankings whose completions are all tied, which
 * are left out and not scored.
 *
 * @category models
 * @since 0.1.0
 */
export interface Scored {
  readonly model: string
  readonly rankings: ReadonlyArray<ScoredRanking>
  readonly tied: number
}

const textOf = (prompt: Prompt.Content): string =>
  typeof prompt === "string" ? prompt : prompt.map(({ content, role }) => `${role}: ${content}`).join("\n\n")

interface Kept {
  readonly ranking: Ranking.Ranking
  readonly index: number
  readonly pairs: ReadonlyArray<readonly [better: number, worse: number]>
}

// A ranking made in memory has not been through its schema.
const fault = ({ completions, ranks }: Ranking.Ranking): string | undefined => {
  if (completions.length < 2) return `has ${completions.length} completions; a ranking compares at least 2`
  if (ranks.length !== completions.length) {
    return `has ${ranks.length} ranks for ${completions.length} completions; give one for each`
  }
  const bad = ranks.find((rank) => !Number.isInteger(rank))
  return bad === undefined ? undefined : `has the rank ${bad}; a rank is a whole number, smaller is better`
}

const keep = (
  model: string,
  rankings: ReadonlyArray<Ranking.Ranking>
): Result.Result<ReadonlyArray<Kept>, RankingError> => {
  if (rankings.length === 0) {
    return Result.fail(new RankingError({ model, reason: "no rankings; there is nothing to evaluate" }))
  }
  for (const [index, ranking] of rankings.entries()) {
    const reason = fault(ranking)
    if (reason !== undefined) {
      return Result.fail(new RankingError({ model, ranking: index, prompt: textOf(ranking.prompt), reason }))
    }
  }
  const kept = rankings
    .map((ranking, index): Kept => ({ ranking, index, pairs: Ranking.pairs(ranking.ranks) }))
    .filter(({ pairs }) => pairs.length > 0)
  return kept.length > 0
    ? Result.succeed(kept)
    : Result.fail(
        new RankingError({
          model,
          reason: `all completions are tied in each of the ${rankings.length} rankings; no pair is left to compare`
        })
      )
}

const assemble = (
  model: string,
  rankings: ReadonlyArray<Ranking.Ranking>,
  kept: ReadonlyArray<Kept>,
  scoresOf: (kept: Kept, place: number) => ArrayLike<number>
): Result.Result<Scored, RankingError> => {
  const clusters = new Map<string, string>()
  const scored: Array<ScoredRanking> = []
  for (const [place, one] of kept.entries()) {
    const { index, pairs, ranking } = one
    const scores = Float64Array.from(scoresOf(one, place))
    const fail = (reason: string, completion?: number) =>
      Result.fail(
        new RankingError({
          model,
          ranking: index,
          prompt: textOf(ranking.prompt),
          ...(completion === undefined ? {} : { completion }),
          reason
        })
      )
    if (scores.length !== ranking.completions.length) {
      return fail(`${scores.length} scores for ${ranking.completions.length} completions; give one for each`)
    }
    const bad = scores.findIndex((score) => !Number.isFinite(score))
    if (bad >= 0) return fail(`scored as ${scores[bad]}; a score must be a finite number`, bad)
    // Without a prompt every ranking stands for itself.
    const prompt = ranking.prompt.length === 0 ? String(index) : JSON.stringify(ranking.prompt)
    if (!clusters.has(prompt)) clusters.set(prompt, String(index))
    scored.push({
      ranking,
      id: String(index),
      cluster: clusters.get(prompt)!,
      scores,
      pairs: pairs.map(([better, worse]) => ({ better, worse, margin: scores[better]! - scores[worse]! }))
    })
  }
  return Result.succeed({ model, rankings: scored, tied: rankings.length - kept.length })
}

/**
 * Rankings with scores that are known already, one list per ranking: the true scores that rankings were drawn from, or
 * those of a file. `model` names them. Fails as {@link score} does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromScores = (
  model: string,
  rankings: ReadonlyArray<Ranking.Ranking>,
  scores: ReadonlyArray<ArrayLike<number>>
): Result.Result<Scored, RankingError> =>
  Result.flatMap(keep(model, rankings), (kept) =>
    scores.length === rankings.length
      ? assemble(model, rankings, kept, ({ index }) => scores[index]!)
      : Result.fail(
          new RankingError({
            model,
            reason: `${scores.length} lists of scores for ${rankings.length} rankings; give one for each`
          })
        )
  )

/**
 * Scores the completions of all rankings in one call of the reward model, in their order.
 *
 * **Details**
 *
 * A completion whose text stands in its ranking before has the score that it had there: what batching does to the last
 * digits of a number tells no text from itself.
 *
 * Fails without rankings, where a ranking has fewer than two completions, not as many ranks or a rank that is no whole
 * number, where a chat template refuses a prompt, where all rankings are ties throughout, and where the model fails: the
 * error names the ranking, its prompt and the completion.
 *
 * @category running
 * @since 0.1.0
 */
export const score: (
  model: RewardModel.RewardModelShape,
  rankings: ReadonlyArray<Ranking.Ranking>,
  options?: Options
) => Effect.Effect<Scored, RankingError> = Effect.fn("RankingAccuracy.score")(function* (
  model,
  rankings,
  options = {}
) {
  const { name } = model
  const asked: Options = Answer.given(model, options)
  const { tokenizer } = asked
  const kept = yield* Effect.fromResult(keep(name, rankings))
  const { answer, prompt: promptOf } = Answer.maker(asked)
  const answers: Array<RewardModel.Answer> = []
  const places: Array<{ readonly kept: Kept; readonly completion: number }> = []
  const starts: Array<number> = []
  for (const one of kept) {
    const { completions, prompt: content } = one.ranking
    const at = { model: name, ranking: one.index, prompt: textOf(content) }
    const prompt =
      typeof content === "string"
        ? promptOf(content)
        : tokenizer === undefined
          ? Prompt.make(textOf(content), [], content)
          : yield* Effect.fromResult(tokenizer.prompt(content)).pipe(
              Effect.mapError((cause) => new RankingError({ ...at, reason: cause.message, cause }))
            )
    starts.push(answers.length)
    for (const [completion, text] of completions.entries()) {
      answers.push(answer(prompt, text))
      places.push({ kept: one, completion })
    }
  }
  const scores = yield* model.score(answers).pipe(
    Effect.mapError((cause) => {
      const place = cause.answer === undefined ? undefined : places[cause.answer]
      const where =
        place === undefined
          ? {}
          : {
              ranking: place.kept.index,
              prompt: textOf(place.kept.ranking.prompt),
              completion: place.completion
            }
      return new RankingError({ model: name, ...where, reason: cause.reason, cause })
    })
  )
  if (scores.length !== answers.length) {
    const reason = `gave ${scores.length} scores for ${answers.length} completions`
    return yield* new RankingError({ model: name, reason })
  }
  return yield* Effect.fromResult(
    assemble(name, rankings, kept, ({ ranking: { completions } }, place) =>
      completions.map((text) => scores[starts[place]! + completions.indexOf(text)]!)
    )
  )
})

/**
 * How results are named, and the confidence of all intervals, 0.95 unless given. `system` is the model's name unless
 * given, `task` is `rankings`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Naming {
  readonly system?: string
  readonly task?: string
  readonly confidence?: number
}

// Checked when they were scored: finite, and no pair stands twice.
const sampleOf = (name: string, items: ReadonlyArray<Sample.Item>): Sample.Sample =>
  Result.getOrThrow(Sample.make(name, items))

const ofPairs = (
  name: string,
  rankings: ReadonlyArray<ScoredRanking>,
  value: (margin: number) => number
): Sample.Sample =>
  sampleOf(
    name,
    rankings.flatMap(({ cluster, id, pairs }) =>
      pairs.map(({ better, margin, worse }) => ({ id: `${id}: ${better} > ${worse}`, cluster, value: value(margin) }))
    )
  )

const ofRankings = (
  name: string,
  rankings: ReadonlyArray<ScoredRanking>,
  value: (ranking: ScoredRanking) => number
): Sample.Sample =>
  sampleOf(
    name,
    rankings.map((ranking) => ({ id: ranking.id, cluster: ranking.cluster, value: value(ranking) }))
  )

const isRight = (margin: number): number => (margin > 0 ? 1 : margin === 0 ? 0.5 : 0)

/**
 * Loss of a pair in nats, `-log sigmoid(margin)`, finite for any margin.
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5, equation 1.
 *
 * @category math
 * @since 0.1.0
 */
export const pairLoss = (margin: number): number => Math.max(0, -margin) + Math.log1p(Math.exp(-Math.abs(margin)))

/** Share of the highest-scored completions that have the best rank: 1 or 0 where scores differ. */
const bestFirst = ({ ranking: { ranks }, scores }: ScoredRanking): number => {
  const best = Math.min(...ranks)
  const most = Math.max(...scores)
  const first = ranks.filter((_, i) => scores[i] === most)
  return first.filter((rank) => rank === best).length / first.length
}

/**
 * Kendall's tau-b of a ranking and its scores: concordant minus discordant pairs, over the geometric mean of the pairs
 * that the ranks tell apart and those that the scores do. 0 where all scores are equal, of which it is undefined: such
 * scores say nothing of the order.
 *
 * Source: Kendall 1945, Biometrika 33(3).
 *
 * @category math
 * @since 0.1.0
 */
export const kendallTau = ({ pairs, scores }: Pick<ScoredRanking, "pairs" | "scores">): number => {
  let apart = 0
  for (const [i, score] of scores.entries()) for (let j = 0; j < i; j++) if (scores[j] !== score) apart++
  if (apart === 0) return 0
  return pairs.reduce((sum, { margin }) => sum + Math.sign(margin), 0) / Math.sqrt(pairs.length * apart)
}

const accuracyOf = (
  rankings: ReadonlyArray<ScoredRanking>,
  { confidence, system, task }: Required<Naming>
): Score.Score =>
  Score.share(
    { system, task, metric: "pairwise_accuracy", unit: "share", higherIsBetter: true },
    ofPairs(`${system}, ${task}, pairs`, rankings, isRight),
    confidence
  )

const bestFirstOf = (
  rankings: ReadonlyArray<ScoredRanking>,
  { confidence, system, task }: Required<Naming>
): Score.Score =>
  Score.share(
    { system, task, metric: "best_first", unit: "share", higherIsBetter: true },
    ofRankings(`${system}, ${task}, best first`, rankings, bestFirst),
    confidence
  )

const named = ({ model }: Scored, { confidence = 0.95, system = model, task = "rankings" }: Naming = {}) => ({
  confidence,
  system,
  task
})

/**
 * All measures over all rankings, with intervals clustered by prompt.
 *
 * **Details**
 *
 *     pairwise_accuracy   share of pairs whose better completion has the higher score; equal scores count one half
 *     best_first          share of rankings whose highest-scored completion has the best rank; where several share the
 *                         highest score, the share of them that have
 *     kendall_tau_b       mean of {@link kendallTau} over rankings, in [-1, 1]
 *     margin              mean over pairs, in units of the reward
 *     log_loss            mean of -log sigmoid(margin) over pairs, in nats; log 2 for scores that are all equal
 *     ranking_loss        the same, averaged within each ranking first: the loss that reward models are trained on
 *
 * Every pair weighs the same in the measures of pairs, so that a prompt of 9 completions weighs 36 times one of 2; the
 * measures of rankings weigh rankings alike.
 *
 * **Gotchas**
 *
 * Pairs of completions that are one and the same text count one half whatever their ranks.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scores = (scored: Scored, options?: Naming): ReadonlyArray<Score.Score> => {
  const { rankings } = scored
  const naming = named(scored, options)
  const { confidence, system, task } = naming
  const measured = (metric: string, unit: string, higherIsBetter: boolean): Score.Measured => ({
    system,
    task,
    metric,
    unit,
    higherIsBetter
  })
  const name = (what: string) => `${system}, ${task}, ${what}`
  const mean = (measured: Score.Measured, sample: Sample.Sample) => Score.mean(measured, sample, confidence)
  return [
    accuracyOf(rankings, naming),
    bestFirstOf(rankings, naming),
    mean(measured("kendall_tau_b", "", true), ofRankings(name("tau"), rankings, kendallTau)),
    mean(
      measured("margin", "reward", true),
      ofPairs(name("margins"), rankings, (margin) => margin)
    ),
    mean(measured("log_loss", "nats per pair", false), ofPairs(name("log loss"), rankings, pairLoss)),
    mean(
      measured("ranking_loss", "nats per pair", false),
      ofRankings(
        name("loss"),
        rankings,
        ({ pairs }) => pairs.reduce((sum, { margin }) => sum + pairLoss(margin), 0) / pairs.length
      )
    )
  ]
}

/**
 * Accuracy that the scores claim for themselves, mean of `sigmoid(|margin|)` over pairs, clustered by prompt.
 *
 * **Details**
 *
 * Of the true scores of a Bradley-Terry model it is the Bayes accuracy in expectation over rankings, without the chance in
 * these; of a trained model, what it is too sure of itself where it lies above its pairwise accuracy.
 *
 * @see {@link compare} for a difference in which that chance drops out
 * @category constructors
 * @since 0.1.0
 */
export const expectedAccuracy = ({ model, rankings }: Scored, confidence = 0.95): Estimate.Estimate =>
  Share.mean(
    ofPairs(`${model}, expected accuracy`, rankings, (margin) => Calibration.winProbability(Math.abs(margin))),
    confidence
  )

/**
 * Measures of the rankings of so many completions. `prompts` counts distinct prompts.
 *
 * @category models
 * @since 0.1.0
 */
export interface Row {
  /** K, or `null` for all rankings together. */
  readonly completions: number | null
  readonly rankings: number
  readonly prompts: number
  readonly pairs: number
  readonly accuracy: Score.Score
  readonly bestFirst: Score.Score
}

/**
 * Accuracies over all rankings, then by how many completions they rank, in ascending order. Rankings and pairs of the rows
 * by K add up to those of the first; prompts do where no prompt has rankings of several K.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rows = (scored: Scored, options?: Naming): ReadonlyArray<Row> => {
  const naming = named(scored, options)
  const row = (completions: number | null, rankings: ReadonlyArray<ScoredRanking>): Row => {
    const task = completions === null ? naming.task : `${naming.task}, K = ${completions}`
    return {
      completions,
      rankings: rankings.length,
      prompts: new Set(rankings.map(({ cluster }) => cluster)).size,
      pairs: rankings.reduce((sum, { pairs }) => sum + pairs.length, 0),
      accuracy: accuracyOf(rankings, { ...naming, task }),
      bestFirst: bestFirstOf(rankings, { ...naming, task })
    }
  }
  const byK = [...Map.groupBy(scored.rankings, ({ scores }) => scores.length)].sort(([a], [b]) => a - b)
  return [row(null, scored.rankings), ...byK.map(([k, rankings]) => row(k, rankings))]
}

/**
 * The probabilities that scores stand for, `sigmoid(score of one - score of the other)`, and which completion was the
 * better one.
 *
 * **Details**
 *
 * Each pair stands there in both orders: as `(sigmoid(margin), 1)` and as `(sigmoid(-margin), 0)`. Told from the better
 * completion alone, every outcome would be 1 and no model that doubts could be calibrated; told in one order drawn at
 * random, the result would hang on the draw. Both orders are in the prompt's cluster, so that intervals are no narrower.
 *
 * @category constructors
 * @since 0.1.0
 */
export const predictions = ({ model, rankings }: Scored): Calibration.Predictions =>
  Result.getOrThrow(
    Calibration.make(
      model,
      rankings.flatMap(({ cluster, id, pairs }) =>
        pairs.flatMap(
          ({ better, margin, worse }): ReadonlyArray<Calibration.Prediction> => [
            { id: `${id}: ${better} > ${worse}`, probability: Calibration.winProbability(margin), outcome: 1, cluster },
            { id: `${id}: ${worse} > ${better}`, probability: Calibration.winProbability(-margin), outcome: 0, cluster }
          ]
        )
      )
    )
  )

/**
 * Whether a margin of `m` wins as often as `sigmoid(m)` says. `n` of both errors counts pairs; that of a bin counts the
 * pairs that lie in it in one order or the other.
 *
 * @category models
 * @since 0.1.0
 */
export interface Calibrated {
  readonly model: string
  readonly expectedError: Estimate.Estimate
  readonly brierScore: Estimate.Estimate
  /** The reliability diagram, symmetric around one half. */
  readonly bins: ReadonlyArray<Calibration.Bin>
}

/**
 * Calibration of the probabilities of {@link predictions}, in 10 bins of equal width unless told otherwise.
 *
 * @see {@link Calibration.expectedError} for why the error of a calibrated model is not 0
 * @category constructors
 * @since 0.1.0
 */
export const calibration = (
  scored: Scored,
  { bins, by = "width", ...options }: Bootstrap.Options & Partial<Calibration.Binning>
): Calibrated => {
  const both = predictions(scored)
  const binning = { by, ...(bins === undefined ? {} : { bins }) }
  const pairs = both.outcomes.values.length / 2
  const { confidence } = options
  return {
    model: scored.model,
    expectedError: { ...Calibration.expectedError(both, { ...options, ...binning }), n: pairs },
    brierScore: { ...Calibration.brierScore(both, confidence), n: pairs },
    bins: Calibration.bins(both, { ...binning, ...(confidence === undefined ? {} : { confidence }) })
  }
}

const margins = (first: Scored, second: Scored): Result.Result<Sample.Paired, Sample.SampleError> => {
  const [one, other] = [first, second].map((scored) => ofPairs(scored.model, scored.rankings, (margin) => margin))
  const differs = first.rankings.find(({ id, ranking }, i) => {
    const theirs = second.rankings[i]
    // What is missing, or ranked otherwise, is found by pairing.
    if (theirs === undefined || theirs.id !== id || theirs.ranking === ranking) return false
    const texts = (of: Ranking.Ranking) => JSON.stringify([of.prompt, of.completions])
    return texts(theirs.ranking) !== texts(ranking)
  })
  return differs === undefined
    ? Sample.pair(one!, other!)
    : Result.fail(
        new Sample.SampleError({
          sample: second.model,
          item: differs.id,
          reason: `its ranking is another than that of "${first.model}"; score the same rankings with both models`
        })
      )
}

/**
 * Difference of the pairwise accuracies of two models on the same rankings, first minus second, by a paired bootstrap over
 * prompts. Fails where the rankings are not the same.
 *
 * **Details**
 *
 * No rule orders rankings that were drawn from known scores better than those scores do: their accuracy is the Bayes
 * accuracy. A trained model against `fromScores("Bayes", rankings, trueScores)` therefore says what it still lacks; the
 * chance by which the better completion lost its pair weighs on both and drops out of the difference.
 *
 * @category combining
 * @since 0.1.0
 */
export const compare = (
  first: Scored,
  second: Scored,
  options: Bootstrap.Options
): Result.Result<Bootstrap.PairedBootstrap, Sample.SampleError> =>
  Result.map(margins(first, second), (pair) =>
    Bootstrap.paired({ ...pair, first: pair.first.map(isRight), second: pair.second.map(isRight) }, options)
  )

/**
 * Share of the pairs on which two models prefer the same completion, whether or not it is the better one. Where only one
 * of them scores both alike, the pair counts one half. Fails where the rankings are not the same.
 *
 * @category combining
 * @since 0.1.0
 */
export const agreement = (
  first: Scored,
  second: Scored,
  confidence = 0.95
): Result.Result<Estimate.Estimate, Sample.SampleError> =>
  Result.map(margins(first, second), ({ first, second, ...pair }) =>
    Share.mean(
      {
        name: pair.names.join(" and "),
        ids: pair.ids,
        values: first.map((margin, i) => 1 - Math.abs(isRight(margin) - isRight(second[i]!))),
        clusters: pair.clusters
      },
      confidence
    )
  )

/**
 * Accuracies overall and by K as a table of a report, of one model or of several below each other.
 *
 * @category formatting
 * @since 0.1.0
 */
export const table = (models: ReadonlyArray<Scored>, options?: Omit<Naming, "system">): typeof Report.Table.Type => {
  const tied = models.map(({ model, tied }) => `${tied} (${model})`)
  const left = models.some((one) => one.tied > 0)
    ? ` Rankings without a pair, since all is tied, are left out: ${tied.join(", ")}.`
    : ""
  return {
    _tag: "Table",
    title: `Accuracy on ${options?.task ?? "rankings"}`,
    caption:
      "Share of pairs whose better completion has the higher score, equal scores as halves, and share of rankings whose " +
      `best completion has the highest. K is how many completions are ranked; intervals are clustered by prompt.${left}`,
    columns: ["Model", "K", "Rankings", "Prompts", "Pairs", "Pairwise accuracy", "Best first"],
    rows: models.flatMap((scored) =>
      rows(scored, options).map(({ accuracy, bestFirst, completions, pairs, prompts, rankings }) => [
        scored.model,
        completions === null ? "all" : String(completions),
        { count: rankings },
        { count: prompts },
        { count: pairs },
        accuracy.estimate,
        bestFirst.estimate
      ])
    )
  }
}

/**
 * Reliability diagrams as a block of a report.
 *
 * @category formatting
 * @since 0.1.0
 */
export const reliability = (models: ReadonlyArray<Calibrated>): typeof Report.Calibration.Type => ({
  _tag: "Calibration",
  title: "Calibration of score differences",
  caption:
    "How often a completion was ranked above another that scores d less, against sigmoid(d). Each pair stands there in both " +
    "orders, so that the diagram is symmetric.",
  series: models.map(({ bins, model }) => ({
    name: model,
    bins: bins.map(({ observed, predicted }) => ({ predicted, observed }))
  }))
})
