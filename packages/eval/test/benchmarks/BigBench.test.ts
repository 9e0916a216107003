import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as BigBench from "../../src/benchmarks/BigBench.ts"
import { file } from "../file.ts"
import * as Scripted from "../scripted.ts"

const example = { input: "1 + 1 =", target_scores: { "3": 0, "2": 1, "4": 0.25 } }

const read = (content: object) =>
  Effect.flatMap(file("task.json", JSON.stringify({ name: "sums", ...content })), BigBench.read).pipe(
    Effect.scoped,
    Effect.provide(NodeServices.layer)
  )

describe("BigBench.read", () => {
  it.effect("fills in what a file does not say as BIG-bench does", () =>
    Effect.gen(function* () {
      const task = yield* read({ examples: [example] })
      assert.deepStrictEqual(task.format, {
        description: "",
        inputPrefix: "\nQ: ",
        choicePrefix: "\n  choice: ",
        outputPrefix: "\nA: ",
        delimiter: "",
        separator: "\n",
        stopStrings: []
      })
      assert.deepStrictEqual(task.examples[0]!.targets, ["2"])
      const text = BigBench.prompt(task, task.examples[0]!)
      assert.deepStrictEqual(
        text.split("\n  choice: ").toSorted(),
        ["\nQ: 1 + 1 =", ...text.split("\n  choice: ").slice(1)].toSorted()
      )
      assert.include(
        ["2", "3", "4"].map((last) => text.endsWith(`\n  choice: ${last}\nA: `)),
        true
      )
    })
  )

  it.effect("takes what the file says", () =>
    Effect.gen(function* () {
      const task = yield* read({
        task_prefix: "Add.",
        example_input_prefix: "\nIn: ",
        example_output_prefix: "\nOut: ",
        append_choices_to_input: false,
        few_shot_example_separator: "\n--",
        stop_string: ";",
        metrics: ["multiple_choice_grade", "bleu"],
        preferred_score: "bleu",
        examples: [{ input: "1 + 2", target: ["3", "three"] }, example]
      })
      assert.strictEqual(
        BigBench.prompt(task, task.examples[1]!, { shots: 1 }),
        "Add.\nIn: 1 + 2\nOut: 3\n--\nIn: 1 + 1 =\nOut: "
      )
      assert.deepStrictEqual(task.format.stopStrings, [";"])
      assert.deepStrictEqual([task.metrics, task.preferredScore], [["multiple_choice_grade", "bleu"], "bleu"])
    })
  )

  for (const [examples, field, reason] of [
    [[example, { input: "2" }], "examples.1.target", "no label"],
    [[{ input: "2", target_scores: { a: 0, b: 0 } }], "examples.0.target_scores", "needs an answer that is right"],
    [[{ input: "2", target_scores: { a: 1 } }], "examples.0.target_scores", "needs an answer that is right"],
    [[{ input: "2", target_scores: { a: 1, "": 0 } }], "examples.0.target_scores", "without text"],
    [[{ target: "2" }], "examples.0.input", "Missing key"],
    [[{ input: "2", target_scores: { a: "1" } }], "examples.0.target_scores.a", "Expected number"],
    [[], "examples", "subtask"]
  ] as const) {
    it.effect(`refuses ${JSON.stringify(examples)}`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(read({ examples }))
        assert.strictEqual(error.field, field)
        assert.include(error.message, reason)
      })
    )
  }

  it.effect("refuses a regular expression that JavaScript cannot read", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(read({ examples: [example], output_regex: "(" }))
      assert.strictEqual(error.field, "output_regex")
    })
  )
})

describe("BigBench.prompt", () => {
  it.effect("lists choices in an order that does not tell the right one, the same for the same seed", () =>
    Effect.gen(function* () {
      const examples = Array.from({ length: 900 }, () => ({ input: "?", target_scores: { a: 1, b: 0, c: 0 } }))
      const task = yield* read({ examples })
      const prompts = (seed: number) => task.examples.map((one) => BigBench.prompt(task, one, { seed }))
      assert.deepStrictEqual(prompts(1), prompts(1))
      assert.notDeepEqual(prompts(1), prompts(2))
      for (const letter of ["a", "b", "c"]) {
        const first = prompts(1).filter((text) => text.startsWith(`\nQ: ?\n  choice: ${letter}`)).length
        assert.closeTo(first, 300, 5 * Math.sqrt(200), letter) // binomial, 900 draws at 1/3
      }
    })
  )
})

describe("BigBench.choose", () => {
  const policy = Scripted.policy({ logprob: (_, text) => ({ " 2": -3, " 3": -4, " 4": -2 })[text] ?? -9 })

  it.effect("grades the most likely answer by what it is worth", () =>
    Effect.gen(function* () {
      const other = { input: "2 + 2 =", target_scores: { "3": 0, "4": 1 } }
      const task = yield* read({ examples: [example, other] })
      const answers = yield* BigBench.choose(policy, task)
      assert.deepStrictEqual(Array.from(answers[0]!.logprobs), [-3, -4, -2]) // keys that are numbers come in their order
      const scores = BigBench.choiceScores(task, answers, { system: "m" })
      assert.deepStrictEqual(
        scores.map(({ estimate, metric, task }) => [task, metric, estimate.value]),
        [
          ["bigbench_sums_multiple_choice", "acc", 0.5],
          ["bigbench_sums_multiple_choice", "acc_norm", 0.5],
          ["bigbench_sums_multiple_choice", "multiple_choice_grade", 0.625]
        ]
      )
      assert.throws(() => BigBench.choiceScores({ ...task, examples: [] }, answers, { system: "m" }), /no example 0/)
    })
  )

  it.effect("holds out the examples that it shows", () =>
    Effect.gen(function* () {
      const task = yield* read({ examples: [example, example, example] })
      const answers = yield* BigBench.choose(policy, task, { shots: 2 })
      assert.deepStrictEqual(
        answers.map(({ id }) => id),
        ["2"]
      )
      const error = yield* Effect.flip(BigBench.choose(policy, task, { shots: 3 }))
      assert.include(error.message, "3 examples cannot be held out of 3")
    })
  )

  it.effect("says that there is nothing to choose from", () =>
    Effect.gen(function* () {
      const task = yield* read({ examples: [{ input: "1", target: "2" }] })
      const error = yield* Effect.flip(BigBench.choose(policy, task))
      assert.strictEqual(error._tag, "BigBenchError")
      assert.include(error.message, "no example has choices")
    })
  )
})

describe("BigBench.write", () => {
  const examples = [
    { input: "1", target: "one" },
    { input: "2", target: ["two", "a pair"] },
    { input: "3", target: "three" }
  ]
  const answers: Readonly<Record<string, string>> = { "1": " one. Then", "2": "a pair; or", "3": "Three." }
  const policy = Scripted.policy({ answer: (prompt) => answers[/Q: (\d)\nA: $/.exec(prompt)?.[1] ?? ""] ?? "" })

  it.effect("asks greedily, and matches the first stretch without punctuation against every target", () =>
    Effect.gen(function* () {
      const task = yield* read({ examples })
      const written = yield* BigBench.write(policy, task)
      const { rowSeeds: _, ...options } = policy.asked.at(-1)!.options
      assert.deepStrictEqual(options, { maxNewTokens: 256, temperature: 0, stopStrings: [], batchSize: 128 })
      const [score] = Result.getOrThrow(BigBench.writtenScores(task, written, { system: "m" }))
      assert.deepStrictEqual([score!.task, score!.metric], ["bigbench_sums_generate_until", "exact_match"])
      assert.deepStrictEqual(Array.from(score!.sample.values), [1, 1, 0])
    })
  )

  it.effect("matches the whole answer before a stop string", () =>
    Effect.gen(function* () {
      const task = yield* read({ examples, stop_string: ";" })
      const written = yield* BigBench.write(policy, task)
      assert.deepStrictEqual(written[1], { id: "1", output: "a pair", truncated: 0 })
      const [score] = Result.getOrThrow(BigBench.writtenScores(task, written, { system: "m" }))
      assert.deepStrictEqual(Array.from(score!.sample.values), [0, 1, 0])
    })
  )

  it.effect("cuts a long prompt from the left, and refuses an answer longer than the context", () =>
    Effect.gen(function* () {
      const task = yield* read({ examples: [{ input: "abcdefgh", target: "x" }] })
      const short = Scripted.policy({ contextLength: 12 })
      const [written] = yield* BigBench.write(short, task, { maxNewTokens: 4 })
      // beginning of text, "\nQ: abcdefgh\nA: " of 16 characters; 8 fit
      assert.strictEqual(written!.truncated, 9)
      assert.deepStrictEqual(short.asked[0]!.prompts, ["efgh\nA: "])
      const error = yield* Effect.flip(BigBench.write(short, task, { maxNewTokens: 12 }))
      assert.include(error.message, "an answer may have 12 tokens, the model's context 12")
    })
  )
})
