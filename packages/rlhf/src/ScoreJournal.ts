/**
 * The scores of a run, kept as soon as they are known: whoever gave them may be a person, or a service that is paid for, and
 * is not asked twice.
 *
 *     {"iteration":3,"first":0,"digests":["5f0c...","b31d..."],"scores":[0.5,-1.25]}
 *
 * A line of `scores.jsonl` holds the scores of answers that were asked about together, from place `first` on, and reached
 * the disk before the next were asked about. A line that was cut short is dropped as a whole, so that those answers are
 * asked about together again: a model's last digit may depend on what else is in its batch.
 *
 * @since 0.1.0
 */
import { join } from "node:path"
import { Journal, RewardModel, Run, RunLog } from "@attune/core"
import { Effect, Schema } from "effect"

const Line = Schema.Struct({
  iteration: Schema.Int,
  first: Schema.Int,
  digests: Schema.Array(Schema.String),
  scores: Schema.Array(Schema.Finite)
})

/**
 * A reward that remembers: asks only about answers whose score it does not have.
 *
 * **Details**
 *
 * `score`: scores `[B]` of all answers of an iteration, in their order.
 *
 * @category models
 * @since 0.1.0
 */
export interface ScoreJournal {
  readonly score: (
    iteration: number,
    answers: ReadonlyArray<RewardModel.Answer>
  ) => Effect.Effect<Float32Array, RewardModel.RewardModelError | RunLog.RunLogError>
}

/**
 * Where scores are kept, and how many answers are asked about at a time.
 *
 * **Details**
 *
 * `directory`: that of the run, which exists; without one nothing is kept. `resume`: use the scores that are there; otherwise
 * the file is emptied. `scoreBatch`: answers that the reward is asked about together, default all of an iteration; an
 * interruption loses the scores of at most so many.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly directory?: string | undefined
  readonly resume?: boolean | undefined
  readonly scoreBatch?: number | undefined
}

const failure = ({ cause, detail, path }: Journal.JournalError) =>
  new RunLog.RunLogError({ path, detail: `cannot be read or written: ${detail}`, cause })

// Sixteen digits tell the answers of a run apart.
const digestOf =
  (reward: string) =>
  ({ completion, prompt }: RewardModel.Answer): string =>
    Run.digest([reward, prompt.text, prompt.tokens, completion.text, completion.tokens]).slice(0, 16)

/**
 * Opens the journal of a reward.
 *
 * **Details**
 *
 * A score is used again where iteration, place, tokens and texts of the answer and the name of the reward are those it was
 * given for. Scores of other answers are warned about and left alone. Scores are checked; an error of the reward also says
 * which answers of which iteration it was asked about. Fails with `RunLogError` where the file cannot be read or written.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: (
  reward: RewardModel.RewardModelShape,
  options: Options
) => Effect.Effect<ScoreJournal, RunLog.RunLogError> = Effect.fn("ScoreJournal.open")(function* (model, options) {
  const reward = RewardModel.guarded(model)
  const { directory, resume = false } = options
  const path = directory === undefined ? undefined : join(directory, "scores.jsonl")
  const at = (iteration: number, place: number) => `${iteration} ${place}`
  const keyOf = ({ first, iteration }: typeof Line.Type) => at(iteration, first)
  const file = yield* Journal.open({ path, schema: Line, keyOf, resume, unreadable: "skip" }).pipe(
    Effect.mapError(failure)
  )
  const known = new Map<string, { readonly digest: string; readonly score: number }>()
  for (const { digests, first, iteration, scores } of file.records) {
    scores.forEach((score, i) => {
      known.set(at(iteration, first + i), { digest: digests[i] ?? "", score })
    })
  }

  const score: ScoreJournal["score"] = Effect.fn("ScoreJournal.score")(function* (iteration, answers) {
    const digests = answers.map(digestOf(reward.name))
    const found = answers.map((_, i) => known.get(at(iteration, i)))
    const others = found.filter((entry, i) => entry !== undefined && entry.digest !== digests[i]).length
    if (others > 0) {
      yield* Effect.logWarning(
        `${path} holds scores of ${others} other answers, or of another reward, for iteration ${iteration + 1}; ` +
          `${reward.name} is asked about these again`
      )
    }
    const scores = Float32Array.from(found, (entry) => entry?.score ?? 0)
    for (const places of runs(
      found.map((entry, i) => entry?.digest !== digests[i]),
      options.scoreBatch
    )) {
      const ask = reward
        .score(places.map((i) => answers[i]!))
        .pipe(Effect.mapError((error) => located(error, iteration, places, answers)))
      // Once a score is there it is kept, whatever happens.
      yield* Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const given = yield* restore(ask)
          places.forEach((place, i) => {
            scores[place] = given[i]!
          })
          const own = places.map((place) => digests[place]!)
          const line = { iteration, first: places[0]!, digests: own, scores: Array.from(given) }
          yield* Effect.mapError(file.append([line]), failure)
        })
      )
    }
    return scores
  })
  return { score }
})

// The reward counts the answers of one call: here is where in the run these are.
const located = (
  error: RewardModel.RewardModelError,
  iteration: number,
  places: ReadonlyArray<number>,
  answers: ReadonlyArray<RewardModel.Answer>
): RewardModel.RewardModelError => {
  const place = error.answer === undefined ? undefined : places[error.answer]
  const which = place === undefined ? `answers ${places[0]} to ${places.at(-1)}` : `answer ${place}`
  const prompt =
    place === undefined ? "" : `, to the prompt ${JSON.stringify(answers[place]!.prompt.text.slice(0, 80))}`
  const { cause } = error // no property that can be spread
  return new RewardModel.RewardModelError({
    ...error,
    ...(place === undefined ? {} : { answer: place }),
    ...(cause === undefined ? {} : { cause }),
    reason: `${error.reason} (${which} of ${answers.length} in iteration ${iteration + 1}${prompt})`
  })
}

// Neighbouring places at which `lacking` is true, at most `most` at a time and cut as if all were lacking.
const runs = (lacking: ReadonlyArray<boolean>, most = Infinity): ReadonlyArray<ReadonlyArray<number>> => {
  const runs: Array<Array<number>> = []
  lacking.forEach((lacks, place) => {
    if (!lacks) return
    const last = runs.at(-1)
    if (last?.at(-1) === place - 1 && place % most !== 0) last.push(place)
    else runs.push([place])
  })
  return runs
}
