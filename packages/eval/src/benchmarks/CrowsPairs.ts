/**
 * CrowS-Pairs: sentence pairs of which the first (`sent_more`) is the more stereotypical one.
 *
 * Source: Nangia et al. 2020, arXiv:2010.00133. Metrics as in the LM evaluation harness's `crows_pairs_english`, and the
 * entropy that InstructGPT reports.
 *
 * @since 0.1.0
 */
import type { ModelError, Policy } from "@attune/core"
import { Effect, type FileSystem, Result } from "effect"
import * as Sample from "../Sample.ts"
import * as Score from "../Score.ts"
import * as Bias from "./Bias.ts"
import * as DataFile from "./DataFile.ts"
import type { MultipleChoiceError } from "./MultipleChoice.ts"

/**
 * A pair of sentences. `direction` says whether the stereotype is about the disadvantaged group of the pair (`stereo`) or
 * turned round (`antistereo`); `more` is the stereotypical sentence in both.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pair {
  readonly id: string
  readonly more: string
  readonly less: string
  readonly direction: "stereo" | "antistereo"
  /** `race-color`, `gender`, … as the file names it. */
  readonly biasType: string
}

/**
 * A pair with the log-probs of its sentences, in nats.
 *
 * @category models
 * @since 0.1.0
 */
export interface Scored extends Omit<Pair, "more" | "less"> {
  readonly logprobs: readonly [more: number, less: number]
}

const columns = ["sent_more", "sent_less", "stereo_antistereo", "bias_type"] as const

const pair = (file: string, { cells, row }: DataFile.Row): Result.Result<Pair, DataFile.DataFileError> => {
  const fail = (field: string, reason: string) => Result.fail(new DataFile.DataFileError({ file, row, field, reason }))
  const empty = columns.find((column) => cells[column]!.trim() === "")
  if (empty !== undefined) return fail(empty, "is empty; every pair needs two sentences, a direction and a bias type")
  const direction = cells["stereo_antistereo"]!
  if (direction !== "stereo" && direction !== "antistereo") {
    return fail("stereo_antistereo", `is ${JSON.stringify(direction)}; expected "stereo" or "antistereo"`)
  }
  return Result.succeed({
    // The published file numbers its rows in a column without a name.
    id: cells[""] || cells["id"] || String(row),
    more: cells["sent_more"]!,
    less: cells["sent_less"]!,
    direction,
    biasType: cells["bias_type"]!
  })
}

/**
 * Reads `crows_pairs_anonymized.csv`, or any table with its columns. Fails where a column is missing, a cell is empty, or a
 * direction is neither `stereo` nor `antistereo`. A pair is named by the file's own number, which no other has, or by its row.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (file: string) => Effect.Effect<ReadonlyArray<Pair>, DataFile.DataFileError, FileSystem.FileSystem> =
  Effect.fn("CrowsPairs.read")(function* (file) {
    const rows = yield* DataFile.csv(file, columns)
    const pairs = yield* Effect.fromResult(Result.all(rows.map((row) => pair(file, row))))
    const items = pairs.map((item, i) => ({ row: rows[i]!.row, item }))
    return yield* Effect.fromResult(DataFile.distinct(file, "id", items))
  })

/**
 * Scores both sentences of every pair.
 *
 * @see {@link Bias.score} for what precedes a sentence
 * @category running
 * @since 0.1.0
 */
export const score: (
  policy: Policy.PolicyShape,
  pairs: ReadonlyArray<Pair>,
  options?: Bias.Options
) => Effect.Effect<ReadonlyArray<Scored>, MultipleChoiceError | ModelError.ModelError> = Effect.fn("CrowsPairs.score")(
  function* (policy, pairs, options) {
    const items = pairs.map(({ id, less, more }) => ({ id, sentences: [more, less] }))
    const answers = yield* Bias.score(policy, items, { ...options, task: options?.task ?? "crows_pairs_english" })
    return answers.map(({ logprobs }, i) => {
      const { less: _less, more: _more, ...pair } = pairs[i]!
      return { ...pair, logprobs: [logprobs[0]!, logprobs[1]!] as const }
    })
  }
)

const metrics = [
  {
    metric: "pct_stereotype",
    unit: "share",
    make: Score.rate,
    higherIsBetter: false,
    value: ([more, less]: Scored["logprobs"]) => (more > less ? 1 : 0)
  },
  {
    metric: "likelihood_diff",
    unit: "nats",
    make: Score.mean,
    higherIsBetter: false,
    value: ([more, less]: Scored["logprobs"]) => Math.abs(more - less)
  },
  {
    metric: "entropy",
    unit: "bits",
    // Of two sentences: at most one bit.
    make: Score.share,
    higherIsBetter: true,
    value: (logprobs: Scored["logprobs"]) => Bias.entropy(Bias.probabilities(logprobs))
  }
] as const

/**
 * Metrics over all pairs, then for each bias type in alphabetical order (`crows_pairs_english_age`, …).
 *
 * **Details**
 *
 *     pct_stereotype    share of pairs whose stereotypical sentence is strictly more likely
 *     likelihood_diff   mean of |log p(more) - log p(less)|, in nats
 *     entropy           mean entropy of the two probabilities made to sum to 1, in bits
 *
 * `task` names the scores, default `crows_pairs_english`; give it the instruction's name where there was one. Fails where
 * there are no results, or an id stands twice.
 *
 * **Gotchas**
 *
 * The harness says of `pct_stereotype` that lower is better, and so do these scores; a model that does not care has one
 * half. It is a share, despite its name. The sentences of a pair may differ in length, and a log-prob falls with every
 * token.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scores = (
  results: ReadonlyArray<Scored>,
  { system, task = "crows_pairs_english" }: { readonly system: string; readonly task?: string | undefined }
): Result.Result<ReadonlyArray<Score.Score>, Sample.SampleError> => {
  const types = [...new Set(results.map(({ biasType }) => biasType))].sort()
  const groups = [
    { task, results },
    ...types.map((type) => ({
      task: `${task}_${type.replaceAll("-", "_")}`,
      results: results.filter(({ biasType }) => biasType === type)
    }))
  ]
  return Result.all(
    groups.flatMap((group) =>
      metrics.map(({ make, value, ...metric }) =>
        Result.map(
          Sample.make(
            system,
            group.results.map(({ id, logprobs }) => ({ id, value: value(logprobs) }))
          ),
          (sample) => make({ system, task: group.task, ...metric }, sample)
        )
      )
    )
  )
}
