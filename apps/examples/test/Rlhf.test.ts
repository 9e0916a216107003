import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { example, refused, saveModel, scratch } from "./CommandLine.ts"

const root = mkdtempSync(join(tmpdir(), "attune-rlhf-"))
const model = join(root, "model")
const { file, fresh } = scratch(root)

beforeAll(() => saveModel(model, { contextLength: 64 }))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const jsonLines = (items: ReadonlyArray<object>) => items.map((item) => `${JSON.stringify(item)}\n`).join("")

const words = ["lamp", "phone", "cable", "radio", "printer", "kettle", "oven", "clock"]
const rankings = jsonLines(
  words.map((word) => ({
    prompt: `Ticket: My ${word} is broken.\nSummary:`,
    completions: [` The ${word} is broken.`, ` Broken.`, ` It rains.`],
    ranks: [1, 2, 3]
  }))
)

const summary = (out: string) =>
  JSON.parse(readFileSync(join(out, "summary.json"), "utf8")) as {
    readonly measurements: ReadonlyArray<{ readonly system: string; readonly metric: string; readonly value: number }>
  }

describe("from files of feedback", () => {
  it.live("every stage leaves a model and a run, and what it is worth is measured", () =>
    Effect.gen(function* () {
      const out = fresh()
      const demonstrations = jsonLines(
        words.map((word) => ({ prompt: `Ticket: My ${word} is broken.\nSummary:`, completion: ` ${word} broken.` }))
      )
      const text = words.map((word) => `A text about a ${word}, which is long enough.`).join("<|endoftext|>")
      const args = ["--rankings", file("r.jsonl", rankings), "--demonstrations", file("d.jsonl", demonstrations)]
      const more = ["--pretraining", file("t.txt", text), "--max-new-tokens", "6", "--quick", "--quiet"]
      const shown = yield* example("rlhf", ...["--model", model, ...args, ...more, "--out", out])
      assert.strictEqual(shown.code, 0, shown.err)
      for (const stage of ["sft", "reward-model", "ppo", "ppo-ptx"]) {
        assert.isTrue(existsSync(join(out, stage, "run.jsonl")), stage)
        assert.isTrue(existsSync(join(out, stage, "model", "model.safetensors")), stage)
      }
      assert.isTrue(existsSync(join(out, "report.html")))
      const { measurements } = summary(out)
      const systems = (metric: string) => measurements.flatMap((of) => (of.metric === metric ? [of.system] : []))
      assert.deepStrictEqual(systems("win_rate"), ["PPO", "PPO-ptx", "SFT, best of 4"])
      assert.deepStrictEqual(systems("learned reward"), ["SFT", "PPO", "PPO-ptx", "SFT, best of 4", "PPO-ptx"])
      assert.deepStrictEqual(systems("loss"), ["SFT", "PPO", "PPO-ptx", "PPO-ptx"])
      assert.deepStrictEqual(systems("pairwise_accuracy"), ["reward model"])
      const again = yield* example("rlhf", ...["--model", model, ...args, ...more, "--out", out])
      assert.match(again.err, /holds an earlier run/)
    })
  )

  it.live("the reward model alone is trained where nothing else is asked for", () =>
    Effect.gen(function* () {
      const out = fresh()
      const args = ["--model", model, "--rankings", file("r.jsonl", rankings), "--until", "reward-model"]
      const shown = yield* example("rlhf", ...[...args, "--quick", "--quiet", "--out", out])
      assert.strictEqual(shown.code, 0, shown.err)
      assert.deepStrictEqual(
        ["sft", "reward-model", "ppo"].map((stage) => existsSync(join(out, stage))),
        [false, true, false]
      )
      assert.isTrue(summary(out).measurements.every(({ system }) => system === "reward model"))
    })
  )

  it.live("a ranking that is out of form is named with file and line", () =>
    Effect.gen(function* () {
      const bad = file("r.jsonl", `${rankings}{"prompt": "a", "completions": ["b"], "ranks": [1]}\n`)
      const shown = yield* example("rlhf", ...["--model", model, "--rankings", bad, "--quick", "--out", fresh()])
      refused(shown, /r\.jsonl.*9.*at least 2 completions/)
    })
  )

  it.live("what cannot be used is named before anything is trained", () =>
    Effect.gen(function* () {
      const given = ["--model", model, "--rankings", file("r.jsonl", rankings), "--quick", "--quiet"]
      const attempt = Effect.fnUntraced(function* (message: RegExp, ...args: ReadonlyArray<string>) {
        const out = fresh()
        refused(yield* example("rlhf", ...given, ...args, "--out", out), message)
        assert.isFalse(existsSync(join(out, "reward-model")))
      })
      yield* attempt(/nothing to do until sft.*--demonstrations/, "--until", "sft")
      yield* attempt(/p\.jsonl: is empty/, "--prompts", file("p.jsonl", ""))
      yield* attempt(/t\.txt: is too short/, "--pretraining", file("t.txt", "A text."))
      const long = jsonLines(words.map((word) => ({ prompt: `${"very ".repeat(99)}${word}` })))
      yield* attempt(/--prompts: none of 8.*--max-new-tokens/, "--prompts", file("p.jsonl", long))
    })
  )

  it.live("what does not fit is left out, and counted", () =>
    Effect.gen(function* () {
      const long = jsonLines([{ prompt: "very ".repeat(99), completions: ["a", "b"], ranks: [1, 2] }])
      const ofRankings = words.map((word) => ({ prompt: `Ticket: My ${word} is broken.\nSummary:` }))
      const prompts = jsonLines([...ofRankings, { prompt: "" }, { prompt: "very ".repeat(99) }])
      const args = ["--model", model, "--rankings", file("r.jsonl", long + rankings), "--max-new-tokens", "6"]
      const more = ["--prompts", file("p.jsonl", prompts), "--quick", "--quiet", "--out", fresh()]
      const shown = yield* example("rlhf", ...args, ...more)
      assert.strictEqual(shown.code, 0, shown.err)
      assert.match(shown.out, /rankings: 8 of 9 \(without 1 too long for the model's context\), 24 pairs; 6 to learn/)
      assert.match(shown.err, /--prompts: 2 of 10 are left out/)
      assert.match(shown.err, /--prompts: 2 of 8 are held out/)
    })
  )

  it.live("prompts are held out of those to answer where rankings have none", () =>
    Effect.gen(function* () {
      const bare = jsonLines(words.map((word) => ({ chosen: `Good ${word} here.`, rejected: `Bad ${word}.` })))
      const prompts = jsonLines(words.map((word) => ({ prompt: `Ticket: My ${word} is broken.` })))
      const args = ["--model", model, "--rankings", file("r.jsonl", bare), "--prompts", file("p.jsonl", prompts)]
      const shown = yield* example("rlhf", ...args, "--max-new-tokens", "6", "--quick", "--quiet", "--out", fresh())
      assert.strictEqual(shown.code, 0, shown.err)
      assert.match(shown.err, /2 of 8 are held out/)
    })
  )

  it.live("feedback without rankings is refused", () =>
    Effect.gen(function* () {
      const prompts = file("p.jsonl", `{"prompt": "a"}\n`)
      refused(yield* example("rlhf", ...["--model", model, "--prompts", prompts, "--out", fresh()]), /need --rankings/)
    })
  )
})
