import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { example, refused, saveModel, scratch } from "./CommandLine.ts"

const root = mkdtempSync(join(tmpdir(), "attune-ilf-"))
const model = join(root, "model")
const { file, fresh } = scratch(root)

beforeAll(() => saveModel(model, { contextLength: 256 }))
afterAll(() => rmSync(root, { recursive: true, force: true }))

interface Measurement {
  readonly system: string
  readonly task: string
  readonly metric: string
  readonly value: number
  readonly n: number
}

const measurements = (out: string) =>
  (JSON.parse(readFileSync(join(out, "summary.json"), "utf8")) as { measurements: ReadonlyArray<Measurement> })
    .measurements

const words = ["lamp", "phone", "cable", "radio", "printer", "kettle", "oven", "clock", "stove", "drill"]
const critiques = words.map((word) => ({
  prompt: `My ${word} is broken.`,
  completion: ` It rains, and the ${word} too.`,
  critique: "Leave out the weather.",
  refinement: ` The ${word} is broken.`
}))
const jsonLines = (items: ReadonlyArray<object>) => items.map((item) => `${JSON.stringify(item)}\n`).join("")
const small = ["--selector", "longest", "--max-new-tokens", "6", "--epochs", "3", "--quiet"]

describe("on the help desk", () => {
  it.live(
    "compares what can be learned from, who selects, and what a critique is worth",
    () =>
      Effect.gen(function* () {
        const out = fresh()
        const shown = yield* example("ilf", "--model", model, "--quick", "--quiet", "--out", out)
        assert.strictEqual(shown.code, 0, shown.err)
        for (const stage of ["ilf-16", "ilf-iterated", "ilf-8", "drafts-8", "demonstrations-16", "reward-model-8"]) {
          assert.isTrue(existsSync(join(out, stage, "model", "model.safetensors")), stage)
        }
        assert.isTrue(existsSync(join(out, "report.html")))
        const found = measurements(out)
        const systems = (metric: string) => found.flatMap((of) => (of.metric === metric ? [of.system] : []))
        assert.deepStrictEqual(systems("gold score"), [
          "base",
          "best of 4, 8",
          "best of 4, 16",
          ...[8, 16].flatMap((n) => [`drafts, ${n}`, `demonstrations, ${n}`, `ILF, ${n}`]),
          "ILF + best of 4, 8",
          "ILF + best of 4, 16",
          "ILF, 2 rounds of 8"
        ])
        assert.deepStrictEqual(systems("exact match"), ["base", "ILF, 16"])
        assert.lengthOf(systems("most important point incorporated"), 3)
        const known = ["longest", "random", "best possible", "embedding similarity", "reward model"]
        assert.includeMembers(systems("critique followed"), [...known, "InstructRM, 5 prompts", "InstructRM, prompt 5"])
        assert.strictEqual(new Set(found.map(({ task }) => task.match(/refinements at.*/)?.[0])).size, 3)
      }),
    120_000
  )
})

describe("from a file of critiques", () => {
  it.live("imitates selected refinements, and measures what was held out", () =>
    Effect.gen(function* () {
      const out = fresh()
      const given = ["--model", model, "--critiques", file("c.jsonl", jsonLines(critiques)), ...small]
      const shown = yield* example("ilf", ...given, "--out", out)
      assert.strictEqual(shown.code, 0, shown.err)
      assert.match(shown.out, /8 critiques learned from, of 10 read; 8 have refinements/)
      const losses = measurements(out).map(({ n, system, task }) => [system, task, n])
      assert.deepStrictEqual(losses, [
        ["before", "selected refinements", 8],
        ["after", "selected refinements", 8],
        ["before", "people's refinements, held out", 2],
        ["after", "people's refinements, held out", 2]
      ])
      const [before, after] = measurements(out)
      assert.isBelow(after!.value, before!.value)

      const journal = readFileSync(join(out, "ilf", "feedback.jsonl"), "utf8")
      const weights = readFileSync(join(out, "ilf", "model", "model.safetensors"))
      const again = yield* example("ilf", ...given, "--out", out, "--resume")
      assert.strictEqual(again.code, 0, again.err)
      assert.strictEqual(readFileSync(join(out, "ilf", "feedback.jsonl"), "utf8"), journal)
      assert.isTrue(readFileSync(join(out, "ilf", "model", "model.safetensors")).equals(weights))
    })
  )

  it.live("takes the records of ILF for code, lines and indentation and all", () =>
    Effect.gen(function* () {
      const out = fresh()
      const records = words.map((word) => ({
        prompt: `def ${word}(x):\n`,
        original_model_completion: `def ${word}(x):\n    return x.\n`,
        Feedback: "Return one more.",
        completion: `    y = x + 1\n    return y\n`
      }))
      const given = ["--model", model, "--critiques", file("c.jsonl", jsonLines(records)), ...small]
      const shown = yield* example("ilf", ...given, "--out", out)
      assert.strictEqual(shown.code, 0, shown.err)
      const entries = readFileSync(join(out, "ilf", "feedback.jsonl"), "utf8")
        .trimEnd()
        .split("\n")
      const drawn = entries.flatMap((line) => {
        const entry = JSON.parse(line) as { candidates?: ReadonlyArray<{ text: string; sampled: string }> }
        return entry.candidates ?? []
      })
      assert.isAbove(drawn.length, 0)
      for (const { sampled, text } of drawn) assert.strictEqual(text, sampled.trimEnd())
    })
  )

  it.live("talks to a model with a chat template in its turns", () =>
    Effect.gen(function* () {
      const chat = join(root, "chat")
      cpSync(model, chat, { recursive: true })
      const config = join(chat, "tokenizer_config.json")
      const template =
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}" +
        "{% if add_generation_prompt %}assistant:{% endif %}"
      writeFileSync(
        config,
        JSON.stringify({ ...(JSON.parse(readFileSync(config, "utf8")) as object), chat_template: template })
      )
      const asked = critiques.map(({ prompt, ...rest }) => ({ ...rest, prompt: [{ role: "user", content: prompt }] }))
      const given = ["--critiques", file("c.jsonl", jsonLines(asked)), ...small]
      const losses = Effect.fnUntraced(function* (of: string) {
        const out = fresh()
        const shown = yield* example("ilf", "--model", of, ...given, "--out", out)
        assert.strictEqual(shown.code, 0, shown.err)
        return measurements(out).map(({ value }) => value)
      })
      assert.lengthOf(yield* losses(chat), 4)
      const out = fresh()
      const shown = yield* example("ilf", "--model", model, ...given, "--out", out)
      refused(shown, /c\.jsonl: critique 1: .*has no chat_template/)
      assert.isFalse(existsSync(join(out, "ilf")))
    })
  )

  it.live("what cannot be used is left out and counted, or named", () =>
    Effect.gen(function* () {
      const long = { prompt: "very ".repeat(200), completion: " a", critique: "Shorter." }
      const silent = { prompt: "a", completion: " b", critique: " " }
      const mixed = file("c.jsonl", jsonLines([...critiques, long, silent]))
      const shown = yield* example("ilf", "--model", model, "--critiques", mixed, ...small, "--out", fresh())
      assert.strictEqual(shown.code, 0, shown.err)
      assert.match(shown.err, /c\.jsonl: 1 lines have an empty critique \(12\)/)
      assert.match(shown.err, /c\.jsonl: 1 of 11 critiques are left out/)

      const attempt = Effect.fnUntraced(function* (message: RegExp, lines: ReadonlyArray<object>) {
        const bad = file("c.jsonl", jsonLines(lines))
        refused(yield* example("ilf", "--model", model, "--critiques", bad, ...small, "--out", fresh()), message)
      })
      yield* attempt(/c\.jsonl.*2.*completion/, [critiques[0]!, { prompt: "a", critique: "b" }])
      const none = file("c.jsonl", jsonLines([long]))
      const nothing = yield* example("ilf", "--model", model, "--critiques", none, ...small, "--out", fresh())
      assert.match(nothing.err, /c\.jsonl: has no critique that the model has room for/)
      assert.strictEqual(nothing.code, 1)
    })
  )
})
