/** What a person sees who gives the command line something that it cannot use. */
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { afterAll, beforeAll } from "vitest"
import { example, refused, type Shown, saveModel, scratch } from "./CommandLine.ts"

const root = mkdtempSync(join(tmpdir(), "attune-bad-input-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const { file, fresh } = scratch(root)
const model = join(root, "model")
beforeAll(() => saveModel(model, { contextLength: 32 }))

/** Runs it as a person does. */
const spawned = (args: ReadonlyArray<string>, during?: (child: ChildProcess) => void): Promise<Shown> =>
  new Promise((resolve, reject) => {
    const main = fileURLToPath(new URL("../src/main.ts", import.meta.url))
    const child = spawn(process.execPath, ["--conditions=@attune/source", main, ...args])
    const shown = { out: "", err: "" }
    child.stdout.on("data", (data) => (shown.out += String(data)))
    child.stderr.on("data", (data) => (shown.err += String(data)))
    child.on("error", reject)
    child.on("close", (code, signal) => {
      if (code === null) reject(new Error(`ended by ${signal}: ${shown.err}`))
      else resolve({ code, ...shown })
    })
    during?.(child)
  })

const demonstration = (prompt: string, completion: string) => JSON.stringify({ prompt, completion })
const good = demonstration("Ticket:", " broken")

/** Fine-tunes the tiny model on the CPU unless `args` say otherwise. */
const sft = (...args: ReadonlyArray<string>) => {
  const defaults = { "--model": model, "--out": fresh(), "--provider": "cpu" }
  const rest = Object.entries(defaults).filter(([flag]) => !args.includes(flag))
  return example("sft", "--quiet", ...rest.flat(), ...args)
}

describe("demonstrations", () => {
  it.live("that are malformed on line 17: one line names file and line, without a stack", () =>
    Effect.gen(function* () {
      const bad = file("bad.jsonl", [...Array<string>(16).fill(good), `{"prompt": `, good].join("\n"))
      const args = ["sft", "--model", model, "--out", fresh(), "--demonstrations", bad]
      const shown = yield* Effect.promise(() => spawned(args))
      refused(shown, /bad\.jsonl, line 17: is not JSON/)
      const debug = yield* Effect.promise(() => spawned([...args, "--log-level", "debug"]))
      assert.strictEqual(debug.code, 1)
      assert.match(debug.err, /\n\s+at /)
      assert.match(debug.err, /error: .*line 17/)
    })
  )

  for (const [name, line, message] of [
    ["lack a field", `{"prompt":"q"}`, /line 17: field "completion": Missing key/],
    ["have an empty completion", demonstration("q", " "), /line 17: field "completion": is empty/],
    [
      "are longer than the context",
      demonstration("q", "word ".repeat(60)),
      /line 17: has \d+ tokens, more than the model's context of 32; .*--length 32/
    ],
    [
      "are messages for a model without a chat template",
      JSON.stringify({
        messages: [
          { role: "user", content: "q" },
          { role: "assistant", content: "a" }
        ]
      }),
      /line 17: .*has no chat_template/
    ]
  ] as const) {
    it.live(`that ${name} on line 17`, () =>
      Effect.gen(function* () {
        const lines = [...Array<string>(15).fill(good), "", line, good]
        refused(yield* sft("--demonstrations", file("d.jsonl", lines.join("\n"))), message)
      })
    )
  }

  it.live("longer than the context are cut where --length says so, but not to nothing", () =>
    Effect.gen(function* () {
      const long = demonstration("q", "word ".repeat(60))
      const cut = file("long.jsonl", [good, long, good, long].join("\n"))
      const out = fresh()
      const shown = yield* sft("--demonstrations", cut, "--length", "20", "--batch", "3", "--out", out)
      assert.deepStrictEqual([shown.code, shown.err], [0, ""])
      for (const name of ["summary.json", "report.html", "report.md"]) assert.isTrue(existsSync(join(out, name)), name)
      const { provenance } = JSON.parse(readFileSync(join(out, "report.json"), "utf8"))
      assert.deepStrictEqual([provenance.datasets[0].name, provenance.datasets[0].items], ["long.jsonl", 4])
      const full = file("full.jsonl", [good, demonstration("word ".repeat(60), "a")].join("\n"))
      refused(yield* sft("--demonstrations", full, "--length", "20"), /line 2: its prompt leaves no room .* 20 tokens/)
    })
  )

  it.live("are shown by prompts that are held out, and no others", () =>
    Effect.gen(function* () {
      const lines = Array.from({ length: 40 }, (_, i) => demonstration(`q${i}`, " a"))
      const { out } = yield* sft("--demonstrations", file("forty.jsonl", lines.join("\n")))
      const prompts = [...out.matchAll(/^prompt {2}(.*)$/gm)].map(([, prompt]) => prompt)
      // Five in a hundred are held out.
      assert.deepStrictEqual(prompts, ["q0", "q1"])
    })
  )

  it.live("beside --text are refused", () =>
    Effect.gen(function* () {
      const [text, lines] = [file("text.txt", "a b<|endoftext|>c d"), file("two.jsonl", `${good}\n${good}`)]
      refused(yield* sft("--text", text, "--demonstrations", lines), /--text and --demonstrations .* give one of them/)
    })
  )

  it.live("that are absent, or too few to hold any out", () =>
    Effect.gen(function* () {
      refused(yield* sft("--demonstrations", join(root, "none.jsonl")), /none\.jsonl: cannot be read: no such file/)
      refused(yield* sft("--demonstrations", file("empty.jsonl", "")), /empty\.jsonl: has 0 demonstrations/)
      refused(yield* sft("--demonstrations", file("one.jsonl", good)), /one\.jsonl: has 1 demonstrations; .*at least 2/)
    })
  )
})

describe("texts", () => {
  it.live("that are absent or empty", () =>
    Effect.gen(function* () {
      refused(yield* sft("--text", join(root, "none.txt")), /none\.txt: cannot be read: no such file/)
      refused(yield* sft("--text", root), /cannot be read/)
      refused(yield* sft("--text", file("empty.txt", " \n<|endoftext|>\n")), /empty\.txt: has 0 documents/)
      const two = file("two.txt", "one two three<|endoftext|>four five six")
      refused(yield* sft("--text", two, "--prompts", file("prompts.txt", "\n \n")), /prompts\.txt: has no prompts/)
      refused(yield* sft("--text", two, "--prompts", join(root, "p.txt")), /p\.txt: cannot be read: no such file/)
    })
  )

  it.live("of one token are left out, and longer ones than the context cut", () =>
    Effect.gen(function* () {
      const text = file("text.txt", ["a", "one two three", "word ".repeat(90), "four five"].join("<|endoftext|>"))
      const out = fresh()
      const shown = yield* sft("--text", text, "--out", out)
      assert.deepStrictEqual([shown.code, shown.err], [0, ""])
      const { measurements } = JSON.parse(readFileSync(join(out, "summary.json"), "utf8"))
      for (const { value } of measurements) assert.isTrue(Number.isFinite(value))
    })
  )
})

describe("flags", () => {
  for (const args of [
    ["sft", "--rows", "0"],
    ["sft", "--rows=-3"],
    ["sft", "--batch", "0"],
    ["sft", "--epochs", "0"],
    ["sft", "--epochs", "1.5"],
    ["sft", "--length", "0"],
    ["sft", "--max-new-tokens=-1"],
    ["sft", "--learning-rate", "0"],
    ["sft", "--learning-rate=-1"],
    ["sft", "--learning-rate", "nan"],
    ["sft", "--threads", "0"],
    ["sft", "--seed", "x"],
    ["sft", "--provider", "tpu"],
    ["sft", "--rowz", "3"],
    ["pretrain", "--steps", "0"],
    ["pretrain", "--batch", "0"],
    ["teach-judge", "--days", "0"],
    ["teach-judge", "--steps", "0"],
    ["teach-judge", "--batch", "0"],
    ["evaluate", "--rows", "0"],
    ["evaluate", "--max-new-tokens", "0"],
    ["evaluate", "--resume"]
  ]) {
    it.live(`refuse ${args.join(" ")}`, () =>
      Effect.gen(function* () {
        const out = fresh()
        const { code, err } = yield* example(...args, "--out", out)
        assert.strictEqual(code, 1)
        assert.include(err, args[1]!.split("=")[0]!)
        assert.notMatch(err, /\n\s+at /)
        assert.isFalse(existsSync(out))
      })
    )
  }
})

describe("models", () => {
  it.live("that are not there, or no models", () =>
    Effect.gen(function* () {
      refused(yield* sft("--model", join(root, "nowhere")), /nowhere: no such directory/)
      refused(yield* sft("--model", root), /config\.json: no such file/)
      refused(yield* sft("--model", "not a repository!"), /not a repository!/)
    })
  )
})

describe("providers", () => {
  // Hidden, so that the outcome is the same on machines that have them.
  const hidden = { CUDA_VISIBLE_DEVICES: "-1", VK_ICD_FILENAMES: "/nowhere.json", VK_DRIVER_FILES: "/nowhere.json" }
  const named = ["cuda", ...(process.platform === "linux" ? ["webgpu"] : [])]

  it.live("that do not run here, with the reason and what to do", () =>
    Effect.gen(function* () {
      const before = Object.keys(hidden).map((name) => [name, process.env[name]] as const)
      Object.assign(process.env, hidden)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          for (const [name, value] of before) {
            if (value === undefined) delete process.env[name]
            else process.env[name] = value
          }
        })
      )
      for (const provider of named) {
        const out = fresh()
        const shown = yield* sft("--provider", provider, "--out", out)
        refused(shown, new RegExp(`^error: provider ${provider} is not available: .+; .+, or ask for cpu`))
        assert.deepStrictEqual(readdirSync(out), [])
      }
    }).pipe(Effect.scoped)
  )
})

describe("outputs", () => {
  it.live("that cannot be written are refused before anything is computed", () =>
    Effect.gen(function* () {
      const blocker = file("a-file", "")
      refused(yield* sft("--out", blocker), /cannot write .*a-file: a file of that name is in the way/)
      refused(yield* sft("--out", join(blocker, "run")), /cannot write .*run: a part of the path is a file/)
      if (process.platform === "linux") refused(yield* sft("--out", "/proc/attune"), /cannot write \/proc\/attune/)
    })
  )

  it.live("that hold an earlier run are kept unless it is resumed; resuming nothing begins", () =>
    Effect.gen(function* () {
      const out = fresh()
      const args = ["--demonstrations", file("d.jsonl", Array<string>(8).fill(good).join("\n")), "--out", out]
      const first = yield* sft(...args, "--resume")
      assert.deepStrictEqual([first.code, first.err], [0, ""])
      const log = readFileSync(join(out, "run.jsonl"), "utf8")
      refused(yield* sft(...args), /holds an earlier run: .*--resume/)
      refused(yield* sft(...args, "--resume", "--batch", "3"), /checkpoint .*from another model/)
      assert.strictEqual(readFileSync(join(out, "run.jsonl"), "utf8"), log)
    })
  )

  it.live("whose only checkpoint is damaged are kept: what was skipped and why is no result", () =>
    Effect.gen(function* () {
      const out = fresh()
      const args = ["--demonstrations", file("d.jsonl", Array<string>(8).fill(good).join("\n")), "--out", out]
      yield* sft(...args)
      const [name] = readdirSync(join(out, "checkpoints"))
      truncateSync(join(out, "checkpoints", name!, "weights.safetensors"), 100)
      const { code, err, out: results } = yield* sft(...args, "--resume")
      assert.deepStrictEqual([code, results], [1, ""])
      assert.match(err, /WARN.* skipped checkpoint .*weights\.safetensors has 100 bytes instead of/)
      assert.match(err, /\nerror: checkpoint .*no checkpoint in it is whole .*start again elsewhere/)
    })
  )
})

describe("Ctrl-C", () => {
  it.live(
    "ends with code 130 and says which checkpoint to go on from",
    () =>
      Effect.gen(function* () {
        const demonstrations = file("d.jsonl", Array<string>(4000).fill(good).join("\n"))
        const out = fresh()
        const args = ["sft", "--model", model, "--demonstrations", demonstrations, "--out", out, "--rows", "4000"]
        const log = join(out, "run.jsonl")
        const { code, err } = yield* Effect.promise(() =>
          spawned([...args, "--batch", "2", "--epochs", "50", "--provider", "cpu", "--quiet"], (child) => {
            const waiting = setInterval(() => {
              if (!existsSync(log) || readFileSync(log, "utf8").split("\n").length < 10) return
              clearInterval(waiting)
              child.kill("SIGINT")
            }, 20)
            child.on("exit", () => clearInterval(waiting))
          })
        )
        assert.strictEqual(code, 130, err)
        assert.match(err, /^interrupted; .*\n$/)
        const step = /^interrupted; .* has a checkpoint of step (\d+): .*--resume goes on from there\n/.exec(err)?.[1]
        assert.include(readdirSync(join(out, "checkpoints")), `step-${step!.padStart(8, "0")}`)
      }),
    120_000
  )
})
