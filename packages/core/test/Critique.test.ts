import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Schema } from "effect"
import * as Critique from "../src/Critique.ts"

const data = resolve(import.meta.dirname, "../../../../shared/data/ilf-code/feedback.jsonl")
const present = existsSync(data)
if (!present) process.stderr.write("skipped: ../shared/data/ilf-code is absent\n")

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-critique-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true }))
)
const written = (...records: ReadonlyArray<unknown>) =>
  Effect.map(folder, (path) => {
    const file = join(path, "critiques.jsonl")
    writeFileSync(file, records.map((record) => JSON.stringify(record)).join("\n"))
    return file
  })

const good = { prompt: "q", completion: "a", critique: "Be brief." }
const code = { prompt: "q", original_model_completion: "q a", Feedback: "Count from 1.", completion: " b" }

describe("a critique of white space", () => {
  it("is refused as an empty one is, at the field that the form has for it", () => {
    const reason = (input: unknown) => {
      const result = Schema.decodeUnknownResult(Critique.Critique)(input)
      return result._tag === "Failure" ? result.failure.message : "decoded"
    }
    for (const blank of ["", " \n\t", "\u00a0"]) {
      assert.match(reason({ ...good, critique: blank }), /is empty; to skip such records.*\s+at \["critique"\]/)
      assert.match(reason({ ...code, Feedback: blank }), /is empty; to skip such records.*\s+at \["Feedback"\]/)
      assert.match(
        reason({ prompt: "q", completion: "a", feedback: blank }),
        /is empty; to skip such records.*\s+at \["feedback"\]/
      )
      assert.isTrue(Option.isNone(Schema.encodeOption(Critique.Critique)({ ...good, critique: blank })))
    }
  })
})

describe("reading critiques", () => {
  it.layer(NodeServices.layer)((it) => {
    it.effect("refuses an empty one with file, line and field", () =>
      Effect.gen(function* () {
        const file = yield* written(good, { ...code, Feedback: "  " }, good)
        for (const options of [undefined, {}, { empty: "refuse" }] as const) {
          const error = yield* Effect.flip(Critique.read(file, options))
          assert.deepStrictEqual([error.file, error.line, error.field], [file, 2, "Feedback"])
        }
      })
    )

    it.effect("skips empty ones in every form where told to, and says on which lines", () =>
      Effect.gen(function* () {
        const file = yield* written(
          { ...good, critique: "" },
          good,
          { ...code, Feedback: "\n" },
          { prompt: "q", completion: "a", feedback: " " },
          code
        )
        assert.deepStrictEqual(yield* Critique.read(file, { empty: "skip" }), {
          critiques: [good, { prompt: "q", completion: " a", critique: code.Feedback, refinement: " b" }],
          skipped: [1, 3, 4]
        })
        const all = yield* written(good, code)
        assert.deepStrictEqual((yield* Critique.read(all, { empty: "skip" })).skipped, [])
        assert.lengthOf((yield* Critique.read(all)).critiques, 2)
      })
    )

    it.effect("refuses one without a draft, empty or not, with line and field", () =>
      Effect.gen(function* () {
        for (const critique of ["Be brief.", ""]) {
          const file = yield* written(good, { prompt: "q", critique })
          const error = yield* Effect.flip(Critique.read(file, { empty: "skip" }))
          assert.match(error.message, /critiques\.jsonl, line 2: field "completion": Missing key/)
        }
        const lost = yield* written(good, good, { ...code, original_model_completion: "q" })
        const error = yield* Effect.flip(Critique.read(lost, { empty: "skip" }))
        assert.match(error.message, /line 3: field "original_model_completion": is empty/)
        const none = yield* written({ prompt: "q", completion: "a" })
        assert.match(
          (yield* Effect.flip(Critique.read(none, { empty: "skip" }))).message,
          /line 1: field "critique": Missing key/
        )
      })
    )

    it.effect.skipIf(!present)("reads 100 critiques of code by people, each with a refinement, and skips none", () =>
      Effect.gen(function* () {
        const { critiques, skipped } = yield* Critique.read(data, { empty: "skip" })
        assert.lengthOf(critiques, 100)
        assert.deepStrictEqual(skipped, [])
        assert.isTrue(critiques.every(({ completion, refinement }) => refinement !== undefined && completion !== ""))
        assert.deepStrictEqual((yield* Critique.read(data)).critiques, critiques)
      })
    )
  })
})
