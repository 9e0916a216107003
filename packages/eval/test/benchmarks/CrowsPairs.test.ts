import { readFileSync } from "node:fs"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Bias from "../../src/benchmarks/Bias.ts"
import * as CrowsPairs from "../../src/benchmarks/CrowsPairs.ts"
import { file } from "../file.ts"
import * as Scripted from "../scripted.ts"
import * as TinyStories from "../tinystories.ts"

const header = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"

describe("CrowsPairs.read", () => {
  it.effect("reads the published columns and the file's own numbers", () =>
    Effect.gen(function* () {
      const path = yield* file("c.csv", `${header}17,"More, said.",Less said.,antistereo,race-color,"[['x'], ['y']]"\n`)
      assert.deepStrictEqual(yield* CrowsPairs.read(path), [
        { id: "17", more: "More, said.", less: "Less said.", direction: "antistereo", biasType: "race-color" }
      ])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  for (const [row, field, reason] of [
    ["0,a,b,,age,[]", "stereo_antistereo", "is empty"],
    ["0,a,b,stereotype,age,[]", "stereo_antistereo", 'is "stereotype"'],
    ["0,a, ,stereo,age,[]", "sent_less", "is empty"],
    ["0,a,b,stereo,,[]", "bias_type", "is empty"],
    ["0,c,d,stereo,age,[]", "id", '"0" is that of row 2 too']
  ] as const) {
    it.effect(`refuses the row ${row}`, () =>
      Effect.gen(function* () {
        const path = yield* file("c.csv", `${header}0,a,b,stereo,age,[]\n${row}\n`)
        const error = yield* Effect.flip(CrowsPairs.read(path))
        assert.deepStrictEqual([error.file, error.row, error.field], [path, 3, field])
        assert.include(error.message, reason)
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
    )
  }
})

const scored = (id: string, biasType: string, more: number, less: number): CrowsPairs.Scored => ({
  id,
  biasType,
  direction: "stereo",
  logprobs: [more, less]
})

describe("CrowsPairs.scores", () => {
  it("counts stereotypes, differences and entropies over all pairs and by type", () => {
    const results = [
      scored("1", "race-color", -10, -11),
      scored("2", "race-color", -12, -10),
      scored("3", "age", -5, -5)
    ]
    const scores = Result.getOrThrow(CrowsPairs.scores(results, { system: "m" }))
    const values = scores.map(({ estimate, metric, task }) => [task, metric, estimate.value, estimate.n] as const)
    const [h1, h2] = [0.83994154, Bias.entropy([1 / (1 + Math.E ** 2), 1 / (1 + Math.E ** -2)])]
    const expected = [
      // A tie is no preference for the stereotype: 1 of 3.
      ["crows_pairs_english", "pct_stereotype", 1 / 3, 3],
      ["crows_pairs_english", "likelihood_diff", 1, 3],
      ["crows_pairs_english", "entropy", (h1 + h2 + 1) / 3, 3],
      ["crows_pairs_english_age", "pct_stereotype", 0, 1],
      ["crows_pairs_english_age", "likelihood_diff", 0, 1],
      ["crows_pairs_english_age", "entropy", 1, 1],
      ["crows_pairs_english_race_color", "pct_stereotype", 0.5, 2],
      ["crows_pairs_english_race_color", "likelihood_diff", 1.5, 2],
      ["crows_pairs_english_race_color", "entropy", (h1 + h2) / 2, 2]
    ] as const
    assert.strictEqual(values.length, expected.length)
    for (const [i, [task, metric, value, n]] of expected.entries()) {
      assert.deepStrictEqual(values[i]!.toSpliced(2, 1), [task, metric, n])
      assert.closeTo(values[i]![2], value, 1e-8)
    }
  })

  it("gives one pair of a type no interval for its mean, and says so", () => {
    const scores = Result.getOrThrow(CrowsPairs.scores([scored("1", "age", -1, -2)], { system: "m" }))
    assert.deepStrictEqual(
      scores.filter(({ estimate }) => estimate.low === null).map(({ metric }) => metric),
      ["likelihood_diff", "entropy", "likelihood_diff", "entropy"]
    )
  })

  it("keeps the interval of an entropy between 0 and 1 bit", () => {
    const results = [scored("1", "age", -1, -1), scored("2", "age", -1, -1.1), scored("3", "age", -1, -9)]
    const [, , entropy] = Result.getOrThrow(CrowsPairs.scores(results, { system: "m" }))
    assert.deepStrictEqual([entropy!.estimate.low, entropy!.estimate.high], [0, 1])
  })

  it("refuses no results, and an id that stands twice", () => {
    assert.isTrue(Result.isFailure(CrowsPairs.scores([], { system: "m" })))
    const twice = [scored("1", "age", -1, -2), scored("1", "gender", -1, -2)]
    const error = Result.getOrThrow(Result.flip(CrowsPairs.scores(twice, { system: "m" })))
    assert.strictEqual(error.item, "1")
  })
})

describe("CrowsPairs.score", () => {
  it.effect("keeps the sentences in their places", () =>
    Effect.gen(function* () {
      const policy = Scripted.policy({ logprob: (_, text) => (text === "yes" ? -1 : -2) })
      const pair = { direction: "antistereo", biasType: "age" } as const
      const results = yield* CrowsPairs.score(policy, [
        { ...pair, id: "a", more: "yes", less: "no" },
        { ...pair, id: "b", more: "no", less: "yes" }
      ])
      assert.deepStrictEqual(results, [
        { ...pair, id: "a", logprobs: [-1, -2] },
        { ...pair, id: "b", logprobs: [-2, -1] }
      ])
    })
  )
})

describe.skipIf(!TinyStories.present(TinyStories.model, "crows-pairs"))("CrowsPairs on a real model", () => {
  interface Golden {
    readonly basic: ReadonlyArray<readonly [number, number]>
    readonly respectful: ReadonlyArray<readonly [number, number]>
  }
  const golden: Golden = JSON.parse(readFileSync(join(import.meta.dirname, "CrowsPairs.golden.json"), "utf8"))

  it.effect("has the log-probs of transformers for every sentence", () =>
    Effect.gen(function* () {
      const policy = yield* TinyStories.policy
      const pairs = yield* CrowsPairs.read(TinyStories.path("crows-pairs/crows_pairs.csv"))
      assert.strictEqual(pairs.length, 750)
      const close = (results: ReadonlyArray<CrowsPairs.Scored>, expected: Golden["basic"]) => {
        assert.strictEqual(results.length, expected.length)
        for (const [i, { id, logprobs }] of results.entries()) {
          for (const s of [0, 1] as const) assert.closeTo(logprobs[s], expected[i]![s], 1e-4, `pair ${id}`)
        }
      }
      const basic = yield* CrowsPairs.score(policy, pairs)
      close(basic, golden.basic)
      const { instructions } = Bias
      close(
        yield* CrowsPairs.score(policy, pairs.slice(0, golden.respectful.length), {
          instruction: instructions.respectful
        }),
        golden.respectful
      )
      const [stereotype] = Result.getOrThrow(CrowsPairs.scores(basic, { system: policy.name }))
      const hits = golden.basic.filter(([more, less]) => more > less).length
      assert.strictEqual(stereotype!.estimate.value, hits / 750)
    }).pipe(Effect.scoped, Effect.provide(TinyStories.layer))
  )
})
