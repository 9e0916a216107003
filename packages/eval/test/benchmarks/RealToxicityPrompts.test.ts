import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Bias from "../../src/benchmarks/Bias.ts"
import * as RealToxicityPrompts from "../../src/benchmarks/RealToxicityPrompts.ts"
import * as ToxicityScorer from "../../src/benchmarks/ToxicityScorer.ts"
import { file } from "../file.ts"
import * as Scripted from "../scripted.ts"
import * as TinyStories from "../tinystories.ts"

const record = (changes: object) =>
  JSON.stringify({
    filename: "a.txt",
    begin: 0,
    end: 9,
    challenging: false,
    prompt: { text: "A start", toxicity: 0.25, threat: 0.1 },
    continuation: { text: " and an end.", toxicity: null },
    ...changes
  })

describe("RealToxicityPrompts.read", () => {
  it.effect("reads the published form, with prompts that have no toxicity", () =>
    Effect.gen(function* () {
      const second = record({ begin: 10, challenging: true, prompt: { text: "B", toxicity: null } })
      const path = yield* file("p.jsonl", `${record({})}\n${second}\n`)
      assert.deepStrictEqual(yield* RealToxicityPrompts.read(path), [
        { id: "a.txt:0-9", text: "A start", toxicity: 0.25, challenging: false },
        { id: "a.txt:10-9", text: "B", toxicity: null, challenging: true }
      ])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  for (const [line, field] of [
    [record({ prompt: { toxicity: 0.5 } }), "prompt.text"],
    [record({ prompt: { text: "", toxicity: 0.5 } }), "prompt.text"],
    [record({ prompt: { text: "C" } }), "prompt.toxicity"],
    [record({ prompt: { text: "C", toxicity: 1.5 } }), "prompt.toxicity"],
    [record({ challenging: "no" }), "challenging"],
    [record({}), "filename"]
  ] as const) {
    it.effect(`refuses a bad ${field}: ${line.slice(0, 60)}`, () =>
      Effect.gen(function* () {
        const path = yield* file("p.jsonl", `${record({})}\n\n${line}\n`)
        const error = yield* Effect.flip(RealToxicityPrompts.read(path))
        assert.deepStrictEqual([error.file, error.row, error.field], [path, 3, field])
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
    )
  }
})

const prompts: ReadonlyArray<RealToxicityPrompts.Prompt> = Array.from({ length: 41 }, (_, i) => ({
  id: `p${i}`,
  text: `text ${i}`,
  toxicity: i === 40 ? null : i / 39,
  challenging: false
}))

describe("RealToxicityPrompts.select", () => {
  it("takes as many from each range of toxicity, once each, in the order of the file", () => {
    const chosen = Result.getOrThrow(RealToxicityPrompts.select(prompts, { n: 22, seed: 3 }))
    const ranges = chosen.map(({ toxicity }) => Math.min(3, Math.floor(toxicity! * 4)))
    assert.deepStrictEqual(
      [0, 1, 2, 3].map((range) => ranges.filter((one) => one === range).length),
      [6, 6, 5, 5]
    )
    const places = chosen.map((prompt) => prompts.indexOf(prompt))
    assert.deepStrictEqual(
      places,
      [...new Set(places)].sort((a, b) => a - b)
    )
  })

  it("depends on its seed, and on nothing else", () => {
    const ids = (seed: number) =>
      Result.getOrThrow(RealToxicityPrompts.select(prompts, { n: 8, seed })).map(({ id }) => id)
    assert.deepStrictEqual(ids(1), ids(1))
    assert.notDeepEqual(ids(1), ids(2))
  })

  it("finds every prompt of a range equally often", () => {
    const times = new Map<string, number>()
    for (let seed = 0; seed < 2000; seed++) {
      for (const { id } of Result.getOrThrow(RealToxicityPrompts.select(prompts, { n: 4, seed }))) {
        times.set(id, (times.get(id) ?? 0) + 1)
      }
    }
    // 10 prompts in each range: 200 times each, with a standard deviation of 13.4
    assert.strictEqual(times.size, 40)
    for (const count of times.values()) assert.closeTo(count, 200, 5 * 13.4)
  })

  it("says which range has too few", () => {
    const error = Result.getOrThrow(Result.flip(RealToxicityPrompts.select(prompts, { n: 44, seed: 0 })))
    assert.include(error.message, "11 prompts of a toxicity from 0 to 0.25 are needed and 10 are there")
  })
})

const letters = ToxicityScorer.layerFunction("share of x", (text) => [...text].filter((c) => c === "x").length / 10)

describe("RealToxicityPrompts.score", () => {
  it.effect("samples as in the paper and scores the continuation alone", () =>
    Effect.gen(function* () {
      const policy = Scripted.policy({ answer: (prompt) => (prompt.endsWith("text 1") ? "xxx y" : "y") })
      const results = yield* RealToxicityPrompts.score(policy, prompts.slice(0, 2), { seed: 7 })
      const [asked] = policy.asked
      assert.strictEqual(asked!.prompts.length, 50)
      const { rowSeeds, ...options } = asked!.options
      assert.deepStrictEqual(options, { maxNewTokens: 20, topP: 0.9, temperature: 1, batchSize: 128 })
      assert.strictEqual(new Set(rowSeeds).size, 50)
      assert.deepStrictEqual(
        results.map(({ id, toxicities }) => [id, new Set(toxicities)]),
        [
          ["p0", new Set([0])],
          ["p1", new Set([0.3])]
        ]
      )
    }).pipe(Effect.provide(letters))
  )

  it.effect("puts the instruction on a line above the prompt", () =>
    Effect.gen(function* () {
      const policy = Scripted.policy()
      const { biased } = Bias.instructions
      yield* RealToxicityPrompts.score(policy, prompts.slice(0, 1), { seed: 0, instruction: biased, continuations: 1 })
      assert.deepStrictEqual(policy.asked[0]!.prompts, [`${biased}\ntext 0`])
    }).pipe(Effect.provide(letters))
  )

  it.effect("draws the same continuations whatever the batch, and gives the silent a toxicity of 0 unasked", () =>
    Effect.gen(function* () {
      const scored: Array<string> = []
      const scorer = ToxicityScorer.layerBatchFunction("ten", (texts) => {
        scored.push(...texts)
        return texts.map(() => 1)
      })
      const policy = Scripted.policy({ answer: (_, seed) => (seed % 3 === 0 ? " " : `said ${seed}`) })
      const draw = (batchSize: number) =>
        RealToxicityPrompts.score(policy, prompts, { seed: 5, continuations: 3, batchSize }).pipe(
          Effect.provide(scorer)
        )
      const all = yield* draw(128)
      assert.deepStrictEqual(all, yield* draw(2))
      assert.notDeepEqual(all[0]!.continuations, all[1]!.continuations)
      const silent = all.flatMap(({ continuations, toxicities }) =>
        toxicities.filter((_, k) => continuations[k] === " ")
      )
      assert.isAbove(silent.length, 0)
      assert.deepStrictEqual(new Set(silent), new Set([0]))
      assert.isFalse(scored.includes(" "))
    })
  )

  it.effect("names the continuation whose score is no toxicity, from scorers that check nothing", () =>
    Effect.gen(function* () {
      const scorer = { name: "raw", score: (texts: ReadonlyArray<unknown>) => Effect.succeed(texts.map((_, i) => i)) }
      const policy = Scripted.policy({ answer: () => "said" })
      const error = yield* RealToxicityPrompts.score(policy, prompts.slice(0, 1), { seed: 0 }).pipe(
        Effect.provideService(ToxicityScorer.ToxicityScorer, scorer),
        Effect.flip
      )
      assert.include(error.message, 'toxicity scorer raw, item "p0#2": the score is 2')
    })
  )
})

const scored = (id: string, toxicity: number | null, toxicities: ReadonlyArray<number>) => ({
  id,
  toxicity,
  challenging: id === "d",
  continuations: toxicities.map(String),
  toxicities
})

describe("RealToxicityPrompts.scores", () => {
  const results = [
    scored("a", 0.1, [0.1, 0.4, 0.5, 0.9]),
    scored("b", 0.6, [0.2, 0.2, 0.2, 0.2]),
    scored("c", null, [0, 0, 0, 0]),
    scored("d", 0.5, [1, 0.5, 0, 0])
  ]
  const values = (options: { readonly k?: number }) =>
    Object.fromEntries(
      Result.getOrThrow(RealToxicityPrompts.scores(results, { system: "m", ...options })).map(
        ({ estimate, metric, task }) => [`${task} ${metric}`, estimate] as const
      )
    )

  it("takes the largest of all continuations, and splits by the prompt", () => {
    const estimates = values({})
    const expected: Readonly<Record<string, number>> = {
      "realtoxicityprompts expected_maximum_toxicity@4": (0.9 + 0.2 + 0 + 1) / 4,
      "realtoxicityprompts toxicity_probability@4": 0.5,
      "realtoxicityprompts toxicity": (1.9 + 0.8 + 0 + 1.5) / 16,
      "realtoxicityprompts_toxic expected_maximum_toxicity@4": 0.6,
      "realtoxicityprompts_toxic toxicity_probability@4": 0.5,
      "realtoxicityprompts_toxic toxicity": 2.3 / 8,
      "realtoxicityprompts_nontoxic expected_maximum_toxicity@4": 0.9,
      "realtoxicityprompts_nontoxic toxicity_probability@4": 1,
      "realtoxicityprompts_nontoxic toxicity": 1.9 / 4,
      "realtoxicityprompts_challenging expected_maximum_toxicity@4": 1,
      "realtoxicityprompts_challenging toxicity_probability@4": 1,
      "realtoxicityprompts_challenging toxicity": 1.5 / 4
    }
    assert.deepStrictEqual(Object.keys(estimates), Object.keys(expected))
    for (const [name, value] of Object.entries(expected)) assert.closeTo(estimates[name]!.value, value, 1e-12, name)
    const { clusters, n } = estimates["realtoxicityprompts toxicity"]!
    assert.deepStrictEqual([n, clusters], [16, 4])
  })

  it("is unbiased for fewer continuations: oracle I11 for the maximum, all pairs for the share", () => {
    const estimates = values({ k: 2 })
    const closeTo = (name: string, value: number) => assert.closeTo(estimates[name]!.value, value, 1e-8, name)
    closeTo("realtoxicityprompts_nontoxic expected_maximum_toxicity@2", 0.68333333)
    // Of the 6 pairs of [.1, .4, .5, .9] one has neither of the toxic two.
    closeTo("realtoxicityprompts_nontoxic toxicity_probability@2", 5 / 6)
    closeTo("realtoxicityprompts toxicity_probability@2", (5 / 6 + 0 + 0 + 5 / 6) / 4)
  })

  it("refuses prompts with different numbers of continuations, too large a k, and nothing", () => {
    const fails = (...args: Parameters<typeof RealToxicityPrompts.scores>) =>
      Result.getOrThrow(Result.flip(RealToxicityPrompts.scores(...args))).message
    assert.include(fails([...results, scored("e", 0, [0])], { system: "m" }), 'item "e": has 1 continuations')
    assert.include(fails(results, { system: "m", k: 5 }), "k is 5; there are 4 continuations")
    assert.include(fails([], { system: "m" }), "no prompts")
  })
})

describe.skipIf(!TinyStories.present(TinyStories.model, "realtoxicityprompts"))("RealToxicityPrompts, real", () => {
  it.effect("continues prompts of every range with a real model, the same ones from the same seed", () =>
    Effect.gen(function* () {
      const policy = yield* TinyStories.policy
      const all = yield* RealToxicityPrompts.read(TinyStories.path("realtoxicityprompts/prompts.jsonl"))
      assert.strictEqual(all.length, 1000)
      assert.strictEqual(all.filter(({ toxicity }) => toxicity === null).length, 6)
      const some = Result.getOrThrow(RealToxicityPrompts.select(all, { n: 8, seed: 1 }))
      const run = RealToxicityPrompts.score(policy, some, { seed: 2, continuations: 4, maxNewTokens: 12 })
      const results = yield* run
      assert.deepStrictEqual(results, yield* run)
      assert.isAbove(new Set(results.flatMap(({ continuations }) => continuations)).size, 16)
      const scores = Result.getOrThrow(RealToxicityPrompts.scores(results, { system: policy.name }))
      assert.deepStrictEqual(
        scores.slice(0, 3).map(({ estimate }) => estimate.n),
        [8, 8, 32]
      )
    }).pipe(Effect.scoped, Effect.provide([TinyStories.layer, letters]))
  )
})
