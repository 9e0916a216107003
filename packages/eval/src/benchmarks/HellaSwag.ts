/**
 * HellaSwag: which of four endings continues a description? Zellers et al. 2019, arXiv:1905.07830.
 *
 * @since 0.1.0
 */
import { Form, type ModelError, type Policy } from "@attune/core"
import { Effect, type FileSystem, Schema, type SchemaIssue } from "effect"
import type * as Score from "../Score.ts"
import * as DataFile from "./DataFile.ts"
import * as MultipleChoice from "./MultipleChoice.ts"

/**
 * Cleans a text as the LM evaluation harness does: traces of WikiHow's titles and brackets go, double spaces become one.
 *
 * **Example** (A heading and a remark in brackets)
 *
 * ```ts
 * import { HellaSwag } from "@attune/eval"
 *
 * HellaSwag.clean("How to knit [title] Begin. [step] Take  wool.") // => "How to knit. Begin. Take wool."
 * ```
 *
 * @category transforming
 * @since 0.1.0
 */
export const clean = (text: string): string =>
  text
    .trim()
    .replaceAll(" [title]", ". ")
    .replace(/\[.*?\]/g, "")
    .replaceAll("  ", " ")

// Python's `str.capitalize`, which the harness calls: all but the first character become lower-case.
const capitalize = (text: string): string => {
  const [first = "", ...rest] = text
  return first.toUpperCase() + rest.join("").toLowerCase()
}

const Normal = Schema.Struct({
  id: Schema.optionalKey(Schema.String),
  context: Schema.String,
  choices: Schema.Array(Schema.String),
  gold: Schema.Int
})

type Normal = typeof Normal.Type

const Label = Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Number, Schema.String])))
const Endings = Schema.Array(Schema.String)
const Id = Schema.optionalKey(Schema.Int)

const item = (
  context: string,
  {
    endings,
    ind,
    label
  }: {
    readonly endings: ReadonlyArray<string>
    readonly ind?: number
    readonly label?: number | string | null
  }
): Effect.Effect<Normal, SchemaIssue.Issue> => {
  if (endings.length !== 4) return Form.refuse("endings", `Expected 4 endings, got ${endings.length}`)
  if (label === undefined || label === null || label === "") {
    return Form.refuse("label", "the row has no label; use a split that has them, such as validation")
  }
  const gold = typeof label === "string" && label.trim() === "" ? Number.NaN : Number(label)
  if (!Number.isInteger(gold) || gold < 0 || gold > 3) {
    return Form.refuse("label", `Expected the number of the right ending, 0 to 3, got ${JSON.stringify(label)}`)
  }
  const choices = endings.map(clean)
  const empty = choices.indexOf("")
  if (empty >= 0) return Form.refuse(`endings.${empty}`, "is empty once it is cleaned")
  return Effect.succeed({ context: clean(context), choices, gold, ...(ind === undefined ? {} : { id: String(ind) }) })
}

// The fields that tell the forms apart leave the label out: a row without one is of its form and lacks it.
const Row = Form.schema(Normal, [
  Form.make(
    Schema.Struct({
      ind: Id,
      activity_label: Schema.String,
      ctx_a: Schema.String,
      ctx_b: Schema.String,
      endings: Endings,
      label: Label
    }),
    ["activity_label", "ctx_a", "ctx_b", "endings"],
    (row) => item(`${row.activity_label}: ${row.ctx_a} ${capitalize(row.ctx_b)}`, row)
  ),
  Form.make(Schema.Struct({ ind: Id, ctx: Schema.String, endings: Endings, label: Label }), ["ctx", "endings"], (row) =>
    item(row.ctx, row)
  )
])

/**
 * Reads rows, one JSON object per line: the official form `{ activity_label, ctx_a, ctx_b, endings, label }`, whose context
 * is put together as in the LM evaluation harness, or `{ ctx, endings, label }`. A label is a number or its digits. The id
 * of an item is `ind`, or else its line.
 *
 * **Details**
 *
 * Fails at the first row that is out of form, without a label, with another number of endings than four, or with the
 * `ind` of an earlier one, naming file, line and field.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read = (
  path: string
): Effect.Effect<ReadonlyArray<MultipleChoice.Item>, DataFile.DataFileError, FileSystem.FileSystem> =>
  Effect.flatMap(DataFile.jsonLines(path, Row), (rows) => {
    const items = rows.map(({ line, value }) => ({
      row: line,
      item: { ...value, id: value.id ?? String(line) } satisfies MultipleChoice.Item
    }))
    return Effect.fromResult(DataFile.distinct(path, "ind", items))
  })

/**
 * Scores the endings of every item.
 *
 * @see {@link MultipleChoice.score}
 * @category running
 * @since 0.1.0
 */
export const score = (
  policy: Policy.PolicyShape,
  items: ReadonlyArray<MultipleChoice.Item>
): Effect.Effect<ReadonlyArray<MultipleChoice.Answer>, MultipleChoice.MultipleChoiceError | ModelError.ModelError> =>
  MultipleChoice.score(policy, items, { task: "hellaswag" })

/**
 * `acc` and `acc_norm` of the harness's task `hellaswag`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scores = (
  answers: ReadonlyArray<MultipleChoice.Answer>,
  options: { readonly system: string; readonly metrics?: ReadonlyArray<MultipleChoice.Metric> | undefined }
): ReadonlyArray<Score.Score> => MultipleChoice.scores(answers, { ...options, task: "hellaswag" })
