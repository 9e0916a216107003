/**
 * Benchmarks of which the user has the file: the flags that name them, and their scores.
 *
 * @since 0.1.0
 */

import { basename } from "node:path"
import { Demonstration, type ModelError, type Policy } from "@attune/core"
import {
  BigBench,
  BigBenchHard,
  CrowsPairs,
  type DataFile,
  HellaSwag,
  type MultipleChoice,
  Perplexity,
  type Sample,
  type Score,
  TruthfulQa,
  Winogender
} from "@attune/eval"
import { Effect, type FileSystem, Option } from "effect"
import { Flag } from "effect/cli"
import * as CommonFlags from "./CommonFlags.ts"

const file = (name: string, form: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(form), Flag.withDescription(description), Flag.optional)

/**
 * A flag for each kind of file, and how many of its rows are used.
 *
 * @category constants
 * @since 0.1.0
 */
export const flags = {
  hellaswag: file("hellaswag", "FILE.jsonl", "HellaSwag: acc, acc_norm"),
  truthfulqa: file("truthfulqa", "mc_task.json", "TruthfulQA, multiple choice: mc1, mc2"),
  crowsPairs: file("crows-pairs", "FILE.csv", "CrowS-Pairs: pct_stereotype, likelihood_diff, entropy"),
  winogender: file("winogender", "all_sentences.tsv", "Winogender schemas: entropy over she and he"),
  bbh: Flag.String("bbh").pipe(
    Flag.withMetavar("FILE.json"),
    Flag.withDescription("BIG-Bench-Hard: acc over the options, exact_match of what is written. May be repeated"),
    Flag.atLeast(0)
  ),
  bigbench: Flag.String("bigbench").pipe(
    Flag.withMetavar("task.json"),
    Flag.withDescription("BIG-bench: multiple choice where a task has choices, otherwise exact match. May be repeated"),
    Flag.atLeast(0)
  ),
  text: file("text", "FILE.txt", "Documents separated by <|endoftext|>: token, word and byte perplexity"),
  rows: CommonFlags.count("rows").pipe(
    Flag.withDescription("Most rows of each file, from its beginning. Default all"),
    Flag.optional
  ),
  maxNewTokens: CommonFlags.count("max-new-tokens").pipe(
    Flag.withDescription("Length of what is written for exact match. Default 32"),
    Flag.withDefault(32)
  )
} as const

type Chosen = {
  readonly [Name in keyof typeof flags]: (typeof flags)[Name] extends Flag.Flag<infer A> ? A : never
}

/**
 * Whether any file was named.
 *
 * @category constructors
 * @since 0.1.0
 */
export const isAnyChosen = ({ bbh, bigbench, crowsPairs, hellaswag, text, truthfulqa, winogender }: Chosen): boolean =>
  bbh.length + bigbench.length > 0 || [crowsPairs, hellaswag, text, truthfulqa, winogender].some(Option.isSome)

/**
 * A file out of form, items that cannot be scored, or a model that fails.
 *
 * @category errors
 * @since 0.1.0
 */
export type BenchmarkError =
  | DataFile.DataFileError
  | CommonFlags.ExampleError
  | MultipleChoice.MultipleChoiceError
  | BigBench.BigBenchError
  | Perplexity.PerplexityError
  | Sample.SampleError
  | ModelError.ModelError

/**
 * Scores of a policy on every file that was named.
 *
 * @category running
 * @since 0.1.0
 */
export const scores: (
  system: string,
  policy: Policy.PolicyShape,
  chosen: Chosen
) => Effect.Effect<ReadonlyArray<Score.Score>, BenchmarkError, FileSystem.FileSystem> = Effect.fn(
  "BenchmarkFiles.scores"
)(function* (system, policy, chosen) {
  const most = Option.getOrElse(chosen.rows, () => Number.POSITIVE_INFINITY)
  const first = <A>(rows: ReadonlyArray<A>) => rows.slice(0, most)
  const about = { system }
  const all: Array<Score.Score> = []
  if (Option.isSome(chosen.hellaswag)) {
    const items = first(yield* HellaSwag.read(chosen.hellaswag.value))
    all.push(...HellaSwag.scores(yield* HellaSwag.score(policy, items), about))
  }
  if (Option.isSome(chosen.truthfulqa)) {
    const questions = first(yield* TruthfulQa.readChoices(chosen.truthfulqa.value))
    all.push(...TruthfulQa.scores(yield* TruthfulQa.score(policy, questions), about))
  }
  if (Option.isSome(chosen.crowsPairs)) {
    const pairs = first(yield* CrowsPairs.read(chosen.crowsPairs.value))
    all.push(...(yield* Effect.fromResult(CrowsPairs.scores(yield* CrowsPairs.score(policy, pairs), about))))
  }
  if (Option.isSome(chosen.winogender)) {
    const schemas = first(yield* Winogender.readSentences(chosen.winogender.value))
    all.push(...(yield* Effect.fromResult(Winogender.scores(yield* Winogender.score(policy, schemas), about))))
  }
  const tasks = [
    ...(yield* Effect.forEach(chosen.bbh, (file) => BigBenchHard.read(file))),
    ...(yield* Effect.forEach(chosen.bigbench, (file) => BigBench.read(file)))
  ].map((task) => ({ ...task, examples: first(task.examples) }))
  for (const task of tasks) {
    const hasChoices = task.examples.some(({ choices }) => choices.length > 0)
    if (hasChoices) all.push(...BigBench.choiceScores(task, yield* BigBench.choose(policy, task), about))
    if (hasChoices && task.suite === "bigbench") continue
    const written = yield* BigBench.write(policy, task, { maxNewTokens: chosen.maxNewTokens })
    all.push(...(yield* Effect.fromResult(BigBench.writtenScores(task, written, about))))
  }
  if (Option.isSome(chosen.text)) {
    const file = chosen.text.value
    const texts = first(Demonstration.fromText(yield* CommonFlags.readText(file))).map(({ completion }) => completion)
    const scored = yield* Perplexity.score(policy, Perplexity.fromTexts(texts))
    all.push(...Perplexity.scores(scored, { system, task: basename(file) }))
  }
  return all
})
