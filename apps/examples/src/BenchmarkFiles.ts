/**
 * Benchmarks of which the user has the file: the flags that name them, and how a model is scored on them.
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
  MultipleChoice,
  Perplexity,
  type Sample,
  type Score,
  TruthfulQa,
  Winogender
} from "@attune/eval"
import { Effect, type FileSystem, Option } from "effect"
import { Flag } from "effect/cli"
import * as CommonFlags from "./CommonFlags.ts"
import * as Provenance from "./Provenance.ts"

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
    Flag.withDescription(
      "Most rows of each file, from its beginning, or tickets of the help desk. Default all, or 300; 20 with --quick"
    ),
    Flag.optional
  ),
  maxNewTokens: CommonFlags.count("max-new-tokens").pipe(
    Flag.withDescription("Length of what is written for exact match. Default 32"),
    Flag.withDefault(32)
  )
} as const

type Chosen = {
  readonly [Name in keyof typeof flags]: (typeof flags)[Name] extends Flag.Flag<infer A> ? A : never
} & { readonly quick: boolean }

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
 * What was measured, and what a reader has to know of it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Measured {
  readonly scores: ReadonlyArray<Score.Score>
  readonly warnings: ReadonlyArray<string>
}

/**
 * A benchmark that was read, with the rows that are used.
 *
 * @category models
 * @since 0.1.0
 */
export interface Benchmark {
  readonly dataset: Provenance.Dataset
  readonly measure: (system: string, policy: Policy.PolicyShape) => Effect.Effect<Measured, BenchmarkError>
}

const cut = (system: string, task: string, truncated: number, of: number): ReadonlyArray<string> =>
  truncated === 0
    ? []
    : [
        `${task}: ${truncated} of ${of} prompts were cut from the left, because they do not fit the context of ${system}.`
      ]

const chosenAnswers = (
  system: string,
  task: string,
  answers: ReadonlyArray<MultipleChoice.Answer>,
  scores: ReadonlyArray<Score.Score>
): Measured => ({ scores, warnings: cut(system, task, MultipleChoice.notes(answers).truncated, answers.length) })

const tasks = (task: BigBench.Task, maxNewTokens: number): Benchmark["measure"] =>
  Effect.fnUntraced(function* (system, policy) {
    const hasChoices = task.examples.some(({ choices }) => choices.length > 0)
    const scores: Array<Score.Score> = []
    const warnings: Array<string> = []
    if (hasChoices) {
      const answers = yield* BigBench.choose(policy, task)
      scores.push(...BigBench.choiceScores(task, answers, { system }))
      const { truncated } = MultipleChoice.notes(answers)
      warnings.push(...cut(system, `${task.name}, choices`, truncated, answers.length))
      if (task.suite === "bigbench") return { scores, warnings }
    }
    const written = yield* BigBench.write(policy, task, { maxNewTokens })
    scores.push(...(yield* Effect.fromResult(BigBench.writtenScores(task, written, { system }))))
    const truncated = written.filter(({ truncated }) => truncated > 0).length
    warnings.push(...cut(system, `${task.name}, in writing`, truncated, written.length))
    return { scores, warnings }
  })

/**
 * Reads every file that was named, so that one that is out of form is refused before anything is scored. Empty where none
 * was named.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (chosen: Chosen) => Effect.Effect<ReadonlyArray<Benchmark>, BenchmarkError, FileSystem.FileSystem> =
  Effect.fn("BenchmarkFiles.read")(function* (chosen) {
    const most = Option.getOrElse(chosen.rows, () => (chosen.quick ? 20 : Number.POSITIVE_INFINITY))
    const all: Array<Benchmark> = []
    const add = Effect.fnUntraced(function* <A>(
      file: string,
      rows: ReadonlyArray<A>,
      measure: (rows: ReadonlyArray<A>) => Benchmark["measure"]
    ) {
      const used = rows.slice(0, most)
      all.push({ dataset: yield* Provenance.dataset(file, used.length), measure: measure(used) })
    })
    const has = <A>(flag: Option.Option<A>) => Option.toArray(flag)

    for (const file of has(chosen.hellaswag)) {
      yield* add(file, yield* HellaSwag.read(file), (items) =>
        Effect.fnUntraced(function* (system, policy) {
          const answers = yield* HellaSwag.score(policy, items)
          return chosenAnswers(system, "hellaswag", answers, HellaSwag.scores(answers, { system }))
        })
      )
    }
    for (const file of has(chosen.truthfulqa)) {
      yield* add(file, yield* TruthfulQa.readChoices(file), (questions) =>
        Effect.fnUntraced(function* (system, policy) {
          const answers = yield* TruthfulQa.score(policy, questions)
          return chosenAnswers(system, "truthfulqa", answers.mc2, TruthfulQa.scores(answers, { system }))
        })
      )
    }
    for (const file of has(chosen.crowsPairs)) {
      yield* add(file, yield* CrowsPairs.read(file), (pairs) =>
        Effect.fnUntraced(function* (system, policy) {
          const scored = yield* CrowsPairs.score(policy, pairs)
          return { scores: yield* Effect.fromResult(CrowsPairs.scores(scored, { system })), warnings: [] }
        })
      )
    }
    for (const file of has(chosen.winogender)) {
      yield* add(file, yield* Winogender.readSentences(file), (schemas) =>
        Effect.fnUntraced(function* (system, policy) {
          const scored = yield* Winogender.score(policy, schemas)
          return { scores: yield* Effect.fromResult(Winogender.scores(scored, { system })), warnings: [] }
        })
      )
    }
    for (const [files, readTask] of [
      [chosen.bbh, (file: string) => BigBenchHard.read(file)],
      [chosen.bigbench, BigBench.read]
    ] as const) {
      for (const file of files) {
        const task = yield* readTask(file)
        yield* add(file, task.examples, (examples) => tasks({ ...task, examples }, chosen.maxNewTokens))
      }
    }
    for (const file of has(chosen.text)) {
      const texts = Demonstration.fromText(yield* CommonFlags.readText(file)).map(({ completion }) => completion)
      if (texts.length === 0) {
        const message = `${file}: has no documents; write some, separated by <|endoftext|>`
        return yield* new CommonFlags.ExampleError({ message })
      }
      yield* add(file, Perplexity.fromTexts(texts), (documents) =>
        Effect.fnUntraced(function* (system, policy) {
          const scored = yield* Perplexity.score(policy, documents)
          const task = basename(file)
          const scores = Perplexity.scores(scored, { system, task })
          const left = (["token", "word", "byte"] as const).filter(
            (unit) => !scores.some(({ metric }) => metric === `${unit}_perplexity`)
          )
          const warnings = left.map((unit) => `${task}: its perplexity per ${unit} is more than a number can hold.`)
          return { scores, warnings }
        })
      )
    }
    return all
  })
