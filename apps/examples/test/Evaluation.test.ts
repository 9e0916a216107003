import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Report } from "@attune/eval"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { afterAll, beforeAll } from "vitest"
import { example, refused, saveModel, scratch } from "./CommandLine.ts"

const root = mkdtempSync(join(tmpdir(), "attune-evaluation-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const { file, fresh } = scratch(root)
const [model, other] = [join(root, "after"), join(root, "before")]
beforeAll(() =>
  Promise.all([saveModel(model, { contextLength: 64, seed: 1 }), saveModel(other, { contextLength: 64, seed: 2 })])
)

const evaluate = (...args: ReadonlyArray<string>) => {
  const defaults = { "--model": model, "--out": fresh(), "--provider": "cpu" }
  const rest = Object.entries(defaults).filter(([flag]) => !args.includes(flag))
  return example("evaluate", "--quiet", ...rest.flat(), ...args)
}

const ending = (label?: number) =>
  JSON.stringify({ ctx: "A person", endings: ["sits.", "stands.", "runs.", "sleeps."], label })
const hellaswag = (n: number) => Array.from({ length: n }, (_, i) => ending(i % 4))
const question = (choices: Readonly<Record<string, number>>) => ({
  question: "Why?",
  mc1_targets: choices,
  mc2_targets: choices
})
const pairs = "id,sent_more,sent_less,stereo_antistereo,bias_type\n"
const example1 = { input: "Which?\nOptions:\n(A) one\n(B) two", target: "(A)" }

const files = () => ({
  "--hellaswag": file("hellaswag.jsonl", hellaswag(6).join("\n")),
  "--truthfulqa": file("mc_task.json", JSON.stringify(Array.from({ length: 3 }, () => question({ so: 1, not: 0 })))),
  "--crows-pairs": file(
    "crows.csv",
    `${pairs}1,"Old, they say.",Young they say.,stereo,age\n2,He is.,She is.,antistereo,gender\n`
  ),
  "--bbh": file("choosing.json", JSON.stringify({ examples: [example1, { ...example1, target: "(B)" }] })),
  "--bigbench": file(
    "task.json",
    JSON.stringify({
      name: "picking",
      examples: [
        { input: "1", target_scores: { yes: 1, no: 0 } },
        { input: "2", target_scores: { yes: 0, no: 1 } }
      ]
    })
  ),
  "--text": file("stories.txt", "One day.<|endoftext|>Another day came.")
})

const measurements = (out: string): ReadonlyArray<Readonly<Record<string, unknown>>> =>
  JSON.parse(readFileSync(join(out, "summary.json"), "utf8")).measurements

const report = (out: string) => Report.fromJson(readFileSync(join(out, "report.json"), "utf8"))

describe("a benchmark's file", () => {
  for (const [flag, name, contents, message] of [
    ["--hellaswag", "h.jsonl", [...hellaswag(2), ending()].join("\n"), /h\.jsonl, row 3: field "label": .*no label/],
    ["--hellaswag", "h.jsonl", [...hellaswag(2), "{"].join("\n"), /h\.jsonl, row 3: is not JSON/],
    [
      "--truthfulqa",
      "t.json",
      JSON.stringify([question({ so: 1, not: 0 }), question({ so: 0, not: 0 })]),
      /t\.json: field "1\.mc1_targets": marks 0 choices as right/
    ],
    [
      "--crows-pairs",
      "c.csv",
      `${pairs}1,a,b,stereo,age\n2,a,b,both,age\n`,
      /c\.csv, row 3: field "stereo_antistereo"/
    ],
    ["--winogender", "w.tsv", "sentid\tsentence\nx\ty\n", /w\.tsv, row 2: field "sentid"/],
    [
      "--bbh",
      "b.json",
      JSON.stringify({ examples: [example1, { input: "q" }] }),
      /b\.json: field "examples\.1\.target"/
    ],
    ["--bigbench", "g.json", JSON.stringify({ name: "g", examples: [{ input: "q" }] }), /field "examples\.0\.target"/],
    ["--text", "d.txt", " \n<|endoftext|>", /d\.txt: has no documents/]
  ] as const) {
    it.live(`of ${flag} that is out of form is named with the place, before anything is scored: ${message}`, () =>
      Effect.gen(function* () {
        const out = fresh()
        // Scoring this one would fail.
        const endings = ["sits.", "stands.", "runs.", "word ".repeat(90)]
        const long = file("long.jsonl", JSON.stringify({ ctx: "A person", endings, label: 0 }))
        const before = flag === "--hellaswag" ? [] : ["--hellaswag", long]
        refused(yield* evaluate(...before, flag, file(name, contents), "--out", out), message)
        assert.deepStrictEqual(readdirSync(out), [])
      })
    )
  }

  for (const flag of Object.keys(files())) {
    it.live(`of ${flag} that is not there`, () =>
      Effect.gen(function* () {
        refused(yield* evaluate(flag, join(root, "none")), /none: cannot be read: no such file/)
      })
    )
  }
})

describe("a model", () => {
  it.live("is measured on every file, and everything is written", () =>
    Effect.gen(function* () {
      const out = fresh()
      const shown = yield* evaluate(...Object.entries(files()).flat(), "--max-new-tokens", "4", "--out", out)
      assert.deepStrictEqual([shown.code, shown.err], [0, ""])
      assert.deepStrictEqual(readdirSync(out).sort(), ["report.html", "report.json", "report.md", "summary.json"])
      const found = new Map(measurements(out).map((one) => [`${one["task"]} ${one["metric"]}`, one]))
      for (const [name, n] of [
        ["hellaswag acc", 6],
        ["hellaswag acc_norm", 6],
        ["truthfulqa_mc1 acc", 3],
        ["truthfulqa_mc2 acc", 3],
        ["crows_pairs_english pct_stereotype", 2],
        ["crows_pairs_english_age entropy", 1],
        ["bbh_zeroshot_choosing acc", 2],
        ["bbh_zeroshot_choosing exact_match", 2],
        ["bigbench_picking_multiple_choice acc", 2]
      ] as const) {
        assert.strictEqual(found.get(name)?.["n"], n, name)
      }
      const perplexity = [...found.values()].find(({ metric }) => metric === "word_perplexity")
      assert.strictEqual(perplexity?.["n"], 2)
      assert.isTrue([...found.values()].every(({ system, value }) => system === "after" && Number.isFinite(value)))
      const { provenance, sections } = yield* report(out)
      assert.deepStrictEqual(
        provenance.datasets.map(({ items, name }) => [name, items]),
        [
          ["hellaswag.jsonl", 6],
          ["mc_task.json", 3],
          ["crows.csv", 2],
          ["choosing.json", 2],
          ["task.json", 2],
          ["stories.txt", 2]
        ]
      )
      assert.isTrue(provenance.datasets.every(({ sha256 }) => /^[0-9a-f]{64}$/.test(sha256)))
      // TruthfulQA's prompt has more tokens than the model's context.
      const warning = "truthfulqa: 3 of 3 prompts were cut from the left"
      assert.include(shown.out, `warning: ${warning}`)
      assert.include(JSON.stringify(sections), warning)
    })
  )

  it.live("is measured on the first rows, 20 with --quick", () =>
    Effect.gen(function* () {
      const rows = ["--hellaswag", file("rows.jsonl", hellaswag(30).join("\n"))]
      for (const [args, n] of [
        [["--rows", "7"], 7],
        [["--quick"], 20],
        [["--quick", "--rows", "25"], 25],
        [[], 30]
      ] as const) {
        const out = fresh()
        const shown = yield* evaluate(...rows, ...args, "--out", out)
        assert.deepStrictEqual([shown.code, shown.err], [0, ""])
        assert.deepStrictEqual(
          measurements(out).map((one) => one["n"]),
          [n, n]
        )
      }
    })
  )

  it.live("is measured on the help desk where no file is given", () =>
    Effect.gen(function* () {
      const out = fresh()
      const desk = join(root, "desk")
      yield* Effect.promise(() => saveModel(desk, { contextLength: 256 }))
      const shown = yield* evaluate("--model", desk, "--rows", "3", "--out", out)
      assert.deepStrictEqual([shown.code, shown.err], [0, ""])
      assert.deepStrictEqual(
        measurements(out).map(({ metric, n, task }) => [task, metric, n]),
        [
          ["help desk", "gold score, greedy", 3],
          ["help desk", "gold score, sampled", 3],
          ["help desk", "critique followed", 3],
          ["help desk", "judgement right", 3]
        ]
      )
    })
  )
})

describe("two models", () => {
  it.live("are compared item by item", () =>
    Effect.gen(function* () {
      const out = fresh()
      const { "--crows-pairs": crows, "--hellaswag": hellaswag, "--text": text } = files()
      const named = ["--hellaswag", hellaswag, "--crows-pairs", crows, "--text", text]
      const shown = yield* evaluate("--against", other, ...named, "--out", out)
      assert.deepStrictEqual([shown.code, shown.err], [0, ""])
      assert.match(shown.out, /^before +hellaswag +acc /m)
      assert.match(shown.out, /^after +hellaswag +acc /m)
      assert.deepStrictEqual(
        measurements(out).map((one) => one["system"]),
        ["before", "after"].flatMap((system) => Array<string>(15).fill(system))
      )
      const { provenance, sections } = yield* report(out)
      assert.deepStrictEqual(
        provenance.models.map(({ name, source }) => [name, source]),
        [
          ["after", model],
          ["before", other]
        ]
      )
      const table = sections.flatMap(({ blocks }) => blocks).find((block) => block._tag === "Table")
      assert.strictEqual(table?.title, "after against before")
      assert.deepStrictEqual(
        table?.rows.map(([benchmark]) => benchmark),
        [
          "hellaswag, acc ↑",
          "hellaswag, acc_norm ↑",
          ...["pct_stereotype ↓", "likelihood_diff ↓", "entropy ↑"].map((metric) => `crows_pairs_english, ${metric}`),
          "stories.txt, bits_per_byte ↓"
        ]
      )
      for (const name of ["report.html", "report.md"]) {
        assert.include(readFileSync(join(out, name), "utf8"), "after against before")
      }
    })
  )

  it.live("of one path are refused", () =>
    Effect.gen(function* () {
      refused(yield* evaluate("--against", model), /--model and --against are both .*name another model/)
    })
  )

  it.live("of one name are told apart by their paths", () =>
    Effect.gen(function* () {
      const out = fresh()
      const namesake = join(root, "elsewhere", "after")
      yield* Effect.promise(() => saveModel(namesake, { contextLength: 64, seed: 3 }))
      const { "--hellaswag": hellaswag } = files()
      const shown = yield* evaluate("--against", namesake, "--hellaswag", hellaswag, "--out", out)
      assert.deepStrictEqual([shown.code, shown.err], [0, ""])
      assert.deepStrictEqual([...new Set(measurements(out).map((one) => one["system"]))], [namesake, model])
    })
  )
})

describe("a directory", () => {
  it.live("that holds an earlier evaluation is kept", () =>
    Effect.gen(function* () {
      const out = fresh()
      const { "--hellaswag": hellaswag } = files()
      yield* evaluate("--hellaswag", hellaswag, "--rows", "2", "--out", out)
      const before = readFileSync(join(out, "summary.json"), "utf8")
      refused(
        yield* evaluate("--hellaswag", hellaswag, "--out", out),
        /holds an earlier run: choose another directory with --out\n?$/
      )
      assert.strictEqual(readFileSync(join(out, "summary.json"), "utf8"), before)
      assert.isFalse(existsSync(join(out, "run.jsonl")))
    })
  )
})
