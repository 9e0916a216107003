import { readFileSync } from "node:fs"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as BigBench from "../../src/benchmarks/BigBench.ts"
import * as BigBenchHard from "../../src/benchmarks/BigBenchHard.ts"
import { file } from "../file.ts"
import * as Scripted from "../scripted.ts"
import * as TinyStories from "../tinystories.ts"

const input = "Which is red?\nOptions:\n(A) grass\n(B) blood\n(C) the sky"

const read = (name: string, ...examples: ReadonlyArray<object>) =>
  Effect.flatMap(file(name, JSON.stringify({ canary: "c", examples })), (path) => BigBenchHard.read(path)).pipe(
    Effect.scoped,
    Effect.provide(NodeServices.layer)
  )

describe("BigBenchHard.options", () => {
  it("reads lettered and plain options under the last line of that name", () => {
    assert.deepStrictEqual(BigBenchHard.options(input), [
      { name: "(A)", text: "grass" },
      { name: "(B)", text: "blood" },
      { name: "(C)", text: "the sky" }
    ])
    assert.deepStrictEqual(BigBenchHard.options("Is it?\nOptions:\n- Yes\n- No "), [
      { name: "Yes", text: "Yes" },
      { name: "No", text: "No" }
    ])
    assert.deepStrictEqual(
      BigBenchHard.options(`Options:\n(X) none\n${input}`).map(({ name }) => name),
      ["(A)", "(B)", "(C)"]
    )
    assert.deepStrictEqual(BigBenchHard.options("Point (A) is left of (B).\n(A) or (B)?"), [])
  })
})

describe("BigBenchHard.read", () => {
  it.effect("makes a task of a file, named by it", () =>
    Effect.gen(function* () {
      const task = yield* read("date_understanding.json", { input, target: "(B)" }, { input: "How many?", target: "8" })
      assert.strictEqual(task.name, "date_understanding")
      assert.deepStrictEqual(task.examples, [
        {
          id: "0",
          input,
          targets: ["(B)"],
          choices: [
            { text: "(A)", score: 0 },
            { text: "(B)", score: 1 },
            { text: "(C)", score: 0 }
          ]
        },
        { id: "1", input: "How many?", targets: ["8"], choices: [] }
      ])
      assert.strictEqual(
        BigBench.prompt(task, task.examples[1]!, { shots: 1 }),
        `Infer the date from context.\n\nQ: ${input}\nA: (B)\n\nQ: How many?\nA:`
      )
    })
  )

  it.effect("takes an option that the target spells out", () =>
    Effect.gen(function* () {
      const task = yield* read(
        "t.json",
        { input, target: "Blood" },
        { input: "Is it?\nOptions:\n- Yes\n- No", target: "No" }
      )
      assert.deepStrictEqual(
        task.examples.map(({ choices, targets }) => [targets, choices.find(({ score }) => score === 1)!.text]),
        [
          [["(B)", "Blood"], "(B)"],
          [["No"], "No"]
        ]
      )
    })
  )

  for (const [bad, field, reason] of [
    [{ input, target: "(D)" }, "examples.1.target", 'is "(D)", which is none of the options (A), (B), (C)'],
    [{ input, target: "" }, "examples.1.target", ""],
    [{ input }, "examples.1.target", "Missing key"],
    [{ input: "Which?\nOptions:\n(A) one", target: "(A)" }, "examples.1.input", "needs two or more"],
    [{ input: "Which?\nOptions:\n(A) one\n(A) two", target: "(A)" }, "examples.1.input", "each named once"]
  ] as const) {
    it.effect(`refuses ${JSON.stringify(bad)}`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(read("t.json", { input, target: "(A)" }, bad))
        assert.strictEqual(error.field, field)
        assert.include(error.message, "t.json")
        assert.include(error.message, reason)
      })
    )
  }

  it.effect("refuses a file without examples", () =>
    Effect.gen(function* () {
      assert.include((yield* Effect.flip(read("t.json"))).message, "there is nothing to score")
    })
  )
})

describe("BigBenchHard.extract", () => {
  const choices = ["(A)", "(B)"].map((text, c) => ({ text, score: c }))
  const lettered = { id: "0", input, targets: ["(B)"], choices }
  const counted = { id: "0", input, targets: ["8"], choices: [] }
  const free = { id: "0", input, targets: ["a b"], choices: [] }

  for (const [output, example, answer] of [
    [" (B) blood", lettered, "(B)"],
    ["(A) is wrong. So the answer is (B).", lettered, "(B)"],
    ["The answer is: (A).\nNo, the answer is (B).", lettered, "(B)"],
    ["B", lettered, ""],
    [" 8 fruits", counted, "8"],
    ["There are 3 and 5, so the answer is 8.", counted, "8"],
    ["eight", counted, ""],
    [" a b.\nmore", free, "a b"],
    ["Sorted, the answer is a b.", free, "a b"]
  ] as const) {
    it(`finds ${JSON.stringify(answer)} in ${JSON.stringify(output)}`, () => {
      assert.strictEqual(BigBenchHard.extract(output, example), answer)
    })
  }
})

describe("BigBenchHard scores", () => {
  it.effect("are named as in the harness, strict and flexible", () =>
    Effect.gen(function* () {
      const again = input.replace("red", "blue")
      const task = yield* read("t.json", { input, target: "(B)" }, { input: again, target: "(C)" })
      const policy = Scripted.policy({
        answer: (prompt) => (prompt.includes("blue") ? " (C) the skyQ: (A)" : " (B)\n\nMore"),
        logprob: (_, text) => (text === " (B)" ? -1 : -2)
      })
      const written = yield* BigBench.write(policy, task)
      const scores = [
        ...Result.getOrThrow(BigBench.writtenScores(task, written, { system: "m" })),
        ...BigBench.choiceScores(task, yield* BigBench.choose(policy, task), { system: "m" })
      ]
      assert.deepStrictEqual(
        scores.map(({ estimate, metric, task }) => [task, metric, estimate.value]),
        [
          ["bbh_zeroshot_t", "exact_match", 0.5],
          ["bbh_zeroshot_t", "exact_match,flexible-extract", 1],
          ["bbh_zeroshot_t", "acc", 0.5],
          ["bbh_zeroshot_t", "acc_norm", 0.5]
        ]
      )
      assert.strictEqual(BigBench.taskName(task, "generate_until", { shots: 3 }), "bbh_fewshot_t")
    })
  )
})

describe.skipIf(!TinyStories.present(TinyStories.model, "bbh"))("BigBenchHard on a real model", () => {
  interface Golden {
    readonly choices: Readonly<
      Record<string, { readonly rows: ReadonlyArray<number>; readonly logprobs: ReadonlyArray<ReadonlyArray<number>> }>
    >
    readonly greedy: Readonly<
      Record<string, { readonly rows: ReadonlyArray<number>; readonly tokens: ReadonlyArray<ReadonlyArray<number>> }>
    >
  }
  const golden: Golden = JSON.parse(readFileSync(join(import.meta.dirname, "BigBench.golden.json"), "utf8"))

  const taken = (task: BigBench.Task, rows: ReadonlyArray<number>) => ({
    ...task,
    examples: rows.map((row) => task.examples[row]!)
  })

  it.effect("has the log-probs of transformers for every option", () =>
    Effect.gen(function* () {
      const policy = yield* TinyStories.policy
      assert.strictEqual(Object.keys(golden.choices).length, 4)
      for (const [name, { logprobs, rows }] of Object.entries(golden.choices)) {
        const task = yield* BigBenchHard.read(TinyStories.path(`bbh/${name}.json`))
        const answers = yield* BigBench.choose(policy, taken(task, rows))
        assert.strictEqual(answers.length, rows.length)
        for (const [i, answer] of answers.entries()) {
          assert.strictEqual(answer.logprobs.length, logprobs[i]!.length)
          for (const [c, logprob] of answer.logprobs.entries()) {
            assert.closeTo(logprob, logprobs[i]![c]!, 1e-4, `${name}, example ${answer.id}, option ${c}`)
          }
        }
      }
    }).pipe(Effect.scoped, Effect.provide(TinyStories.layer))
  )

  it.effect("writes what transformers writes, and scores it in each of the six files", () =>
    Effect.gen(function* () {
      const policy = yield* TinyStories.policy
      assert.strictEqual(Object.keys(golden.greedy).length, 6)
      for (const [name, { rows, tokens }] of Object.entries(golden.greedy)) {
        const task = yield* BigBenchHard.read(TinyStories.path(`bbh/${name}.json`))
        assert.strictEqual(task.examples.length, name === "penguins_in_a_table" ? 146 : 250)
        const endless = { ...taken(task, rows), format: { ...task.format, stopStrings: [] } }
        const written = yield* BigBench.write(policy, endless, { maxNewTokens: 8 })
        assert.deepStrictEqual(
          written.map(({ output }) => output),
          tokens.map((ids) => policy.tokenizer.decode(ids)),
          name
        )
        const scores = Result.getOrThrow(BigBench.writtenScores(task, written, { system: policy.name }))
        assert.deepStrictEqual(
          scores.map(({ estimate }) => estimate.n),
          [5, 5]
        )
      }
    }).pipe(Effect.scoped, Effect.provide(TinyStories.layer))
  )
})
