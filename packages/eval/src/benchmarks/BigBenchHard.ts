/**
 * BIG-Bench-Hard: the BIG-bench tasks on which models were worse than people, as files of inputs and targets. Options
 * stand inside the input, and targets name one: `(A)`.
 *
 * Source: Suzgun et al. 2022, arXiv:2210.09261. {@link read} gives a task of {@link BigBench}, which runs and scores it.
 *
 * @since 0.1.0
 */
import { Effect, type FileSystem, Result, Schema } from "effect"
import type * as BigBench from "./BigBench.ts"
import * as DataFile from "./DataFile.ts"

const shared = {
  logicalDeduction: "A logical deduction task which requires deducing the order of a sequence of objects.",
  trackingShuffledObjects:
    "A task requiring determining the final positions of a set of objects given their initial positions and a " +
    "description of a sequence of swaps."
}

/**
 * The sentence that stands before the questions of a task, for the twelve tasks that HIR uses (arXiv:2302.05206, section
 * 6); as in the prompts published with BIG-Bench-Hard and in the LM evaluation harness.
 *
 * @category constants
 * @since 0.1.0
 */
export const descriptions: Readonly<Record<string, string>> = {
  date_understanding: "Infer the date from context.",
  geometric_shapes: "Name geometric shapes from their SVG paths.",
  logical_deduction_three_objects: shared.logicalDeduction,
  logical_deduction_five_objects: shared.logicalDeduction,
  logical_deduction_seven_objects: shared.logicalDeduction,
  object_counting: "Questions that involve enumerating objects and asking the model to count them.",
  penguins_in_a_table: "Answer questions about a table of penguins and their attributes.",
  reasoning_about_colored_objects: "Answer extremely simple questions about the colors of objects on a surface.",
  tracking_shuffled_objects_three_objects: shared.trackingShuffledObjects,
  tracking_shuffled_objects_five_objects: shared.trackingShuffledObjects,
  tracking_shuffled_objects_seven_objects: shared.trackingShuffledObjects,
  word_sorting: "Sort a list of words."
}

/**
 * An option of a question: what names it in an answer, and what it says.
 *
 * @category models
 * @since 0.1.0
 */
export interface Option {
  /** `(A)`, or the text itself where options have no letters. */
  readonly name: string
  readonly text: string
}

/**
 * The options that stand at the end of an input, under a line `Options:`, each on a line that begins with `(A)` or `-`.
 * Empty where there are none.
 *
 * @category decoding
 * @since 0.1.0
 */
export const options = (input: string): ReadonlyArray<Option> => {
  const lines = input.split(/\r?\n/).map((line) => line.trim())
  const start = lines.lastIndexOf("Options:")
  if (start < 0) return []
  return lines.slice(start + 1).flatMap((line): ReadonlyArray<Option> => {
    const [, name, lettered, plain] = /^(?:(\([A-Z]\))\s*(.*)|-\s*(.*))$/.exec(line) ?? []
    if (name !== undefined) return [{ name, text: lettered! }]
    return plain === undefined || plain === "" ? [] : [{ name: plain, text: plain }]
  })
}

/**
 * Finds the answer in a text: what follows the last "the answer is", or all of it where that does not stand there; in it,
 * the first option named `(A)`, or the first whole number where the target is one, or the first line without its full
 * stop. Empty where there is nothing of the kind.
 *
 * **Details**
 *
 * After `get-answer` and `flexible-extract` of the LM evaluation harness, whose rules differ from task to task. Deviation:
 * an option's own text, a letter without parentheses, and numbers in words do not count.
 *
 * @category decoding
 * @since 0.1.0
 */
export const extract = (output: string, { choices, targets }: BigBench.Example): string => {
  const said = /^.*\bthe answer is:?\s+(.*)$/is.exec(output)?.[1] ?? output
  if (choices.some(({ text }) => /^\([A-Z]\)$/.test(text))) return /\([A-Z]\)/.exec(said)?.[0] ?? ""
  if (targets.every((target) => /^-?\d+$/.test(target))) return /-?\d+/.exec(said)?.[0] ?? ""
  return said.trim().split(/\r?\n/)[0]!.replace(/\.$/, "").trim()
}

const TaskFile = Schema.Struct({
  examples: Schema.Array(Schema.Struct({ input: Schema.NonEmptyString, target: Schema.NonEmptyString }))
})

const example = (
  file: string,
  { input, target }: { readonly input: string; readonly target: string },
  index: number
): Result.Result<BigBench.Example, DataFile.DataFileError> => {
  const found = options(input)
  if (found.length === 0) return Result.succeed({ id: String(index), input, targets: [target], choices: [] })
  const fail = (field: string, reason: string) =>
    Result.fail(new DataFile.DataFileError({ file, field: `examples.${index}.${field}`, reason }))
  const names = found.map(({ name }) => name)
  if (names.length < 2 || new Set(names).size < names.length) {
    return fail("input", `has the options ${names.join(", ")}; a question needs two or more, each named once`)
  }
  // Some published targets spell the option out.
  const same = (text: string) => text.toLowerCase() === target.trim().toLowerCase()
  const right = names.includes(target.trim()) ? target.trim() : found.find(({ text }) => same(text))?.name
  if (right === undefined) {
    return fail("target", `is ${JSON.stringify(target)}, which is none of the options ${names.join(", ")}`)
  }
  return Result.succeed({
    id: String(index),
    input,
    targets: right === target ? [target] : [right, target],
    choices: names.map((name) => ({ text: name, score: name === right ? 1 : 0 }))
  })
}

/**
 * Reads a task file `{ examples: [{ input, target }] }`. Fails with the path of what is missing or empty, of a target that
 * is none of its options, and where there are no examples.
 *
 * **Details**
 *
 * The task is named by the file, and so is the description: `date_understanding.json`. Prompts are
 * `<description>\n\nQ: <input>\nA:`, examples are apart by an empty line, and a written answer ends before `Q:` or an empty
 * line, as in the LM evaluation harness's `bbh_zeroshot`; its `bbh_fewshot` ends them before any `Q`. Given answers are
 * ` (A)`, ` (B)`, …; the harness's `leaderboard_bbh` has no space before them and lists the same options for every question
 * of a task.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (
  file: string,
  options?: { readonly description?: string | undefined }
) => Effect.Effect<BigBench.Task, DataFile.DataFileError, FileSystem.FileSystem> = Effect.fn("BigBenchHard.read")(
  function* (file, options) {
    const decoded = yield* DataFile.json(file, TaskFile)
    if (decoded.examples.length === 0) {
      return yield* new DataFile.DataFileError({
        file,
        field: "examples",
        reason: "is empty; there is nothing to score"
      })
    }
    const examples = yield* Effect.fromResult(Result.all(decoded.examples.map((one, i) => example(file, one, i))))
    const name = file.replace(/^.*[/\\]/, "").replace(/\.json$/, "")
    const description = options?.description ?? descriptions[name] ?? ""
    return {
      suite: "bbh",
      name,
      examples,
      metrics: [],
      preferredScore: undefined,
      format: {
        description: description === "" ? "" : `${description}\n\n`,
        inputPrefix: "Q: ",
        choicePrefix: undefined,
        outputPrefix: "\nA:",
        delimiter: " ",
        separator: "\n\n",
        stopStrings: ["Q:", "\n\n"]
      },
      extractions: [
        { metric: "exact_match", extract: (output) => output.trim() },
        { metric: "exact_match,flexible-extract", extract }
      ]
    }
  }
)
