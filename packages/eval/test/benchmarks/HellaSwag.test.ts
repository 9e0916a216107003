import { Progress } from "@attune/core"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as HellaSwag from "../../src/benchmarks/HellaSwag.ts"
import * as MultipleChoice from "../../src/benchmarks/MultipleChoice.ts"
import { file } from "../file.ts"
import * as TinyStories from "../tinystories.ts"
import * as Evaluation from "./evaluation.ts"

const endings = ["a", "b", "c", "d"]
const lines = (...rows: ReadonlyArray<unknown>) => rows.map((row) => `${JSON.stringify(row)}\n`).join("")

describe("HellaSwag.clean", () => {
  it("removes headings, brackets and doubled spaces as the harness does", () => {
    // From lm_eval/tasks/hellaswag/utils.py of lm-eval 0.4.13.
    for (const [text, cleaned] of [
      [" How to knit [title] Begin. [step] Take wool. ", "How to knit. Begin. Take wool."],
      ["[header] One [a] [b] two", " One  two"],
      ["a    b", "a  b"],
      ["open [ and\nshut ]", "open [ and\nshut ]"]
    ] as const) {
      assert.strictEqual(HellaSwag.clean(text), cleaned)
    }
  })
})

describe("HellaSwag.read", () => {
  it.effect("reads both forms, labels as numbers or digits", () =>
    Effect.gen(function* () {
      const official = {
        ind: 24,
        activity_label: "Roof",
        ctx_a: "A man sits.",
        ctx_b: "he THEN",
        ctx: "A man sits. he THEN",
        endings: [" a [x]", "b", "c", "d"],
        label: "3",
        split: "val"
      }
      const path = yield* file("h.jsonl", lines(official, { ctx: "Roof:  he", endings, label: 0 }))
      assert.deepStrictEqual(yield* HellaSwag.read(path), [
        { id: "24", context: "Roof: A man sits. He then", choices: ["a ", "b", "c", "d"], gold: 3 },
        { id: "2", context: "Roof: he", choices: endings, gold: 0 }
      ])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  for (const [what, row, field, reason] of [
    ["without a label", { ctx: "x", endings }, "label", "the row has no label"],
    ["of a split without labels", { ctx: "x", endings, label: "" }, "label", "the row has no label"],
    ["with a label outside", { ctx: "x", endings, label: 4 }, "label", "0 to 3, got 4"],
    ["with a label in words", { ctx: "x", endings, label: "two" }, "label", '0 to 3, got "two"'],
    ["with three endings", { ctx: "x", endings: ["a", "b", "c"], label: 1 }, "endings", "Expected 4 endings, got 3"],
    ["with an empty ending", { ctx: "x", endings: ["a", "b", "[x]", "d"], label: 1 }, "endings.2", "is empty"],
    ["with the id of another", { ind: 1, ctx: "x", endings, label: 1 }, "ind", '"1" is that of row 1 too'],
    ["without endings", { ctx: "x", label: 1 }, "endings", "Missing key"],
    [
      "of another kind",
      { text: "x" },
      undefined,
      "Expected { activity_label, ctx_a, ctx_b, endings } or { ctx, endings }"
    ]
  ] as const) {
    it.effect(`names file, row and field of a row ${what}`, () =>
      Effect.gen(function* () {
        const path = yield* file("h.jsonl", lines({ ctx: "x", endings, label: 1 }, row))
        const error = yield* Effect.flip(HellaSwag.read(path))
        assert.deepStrictEqual([error._tag, error.file, error.row, error.field], ["DataFileError", path, 2, field])
        assert.include(error.message, reason)
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
    )
  }
})

const quiet = Layer.mergeAll(TinyStories.layer, Progress.layer({ mode: "quiet" }))
const data = "hellaswag/validation.jsonl"

describe("HellaSwag on the real file", () => {
  it.effect.skipIf(!Evaluation.same(data))("has the harness's log-probs and accuracies", () =>
    Effect.gen(function* () {
      const { golden } = Evaluation
      const items = yield* HellaSwag.read(TinyStories.path(data))
      const answers = yield* HellaSwag.score(yield* TinyStories.policy, items)
      const logprobs = answers.map((answer) => answer.logprobs)
      assert.isAtMost(Evaluation.distance(logprobs, golden.hellaswag.logprobs), 1e-4)
      const scores = HellaSwag.scores(answers, { system: "tinystories-656K" })
      assert.deepStrictEqual(
        scores.map(({ estimate, metric, task }) => [task, metric, estimate.value, estimate.n]),
        [
          ["hellaswag", "acc", golden.hellaswag.acc, 1000],
          ["hellaswag", "acc_norm", golden.hellaswag.acc_norm, 1000]
        ]
      )
      assert.strictEqual(MultipleChoice.notes(answers).truncated, 0)
    }).pipe(Effect.scoped, Effect.provide(quiet))
  )
})
