import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as ToxicityScorer from "../../src/benchmarks/ToxicityScorer.ts"

const texts = [
  { id: "p1#0", text: "kind" },
  { id: "p1#1", text: "rude" }
]

describe("ToxicityScorer", () => {
  it.effect("scores with plain, asynchronous and effectful functions, of one text or of all", () =>
    Effect.gen(function* () {
      const toxicity = (text: string) => (text === "rude" ? 0.9 : 0.1)
      for (const scorer of [
        ToxicityScorer.fromFunction("plain", toxicity),
        ToxicityScorer.fromFunction("async", async (text) => toxicity(text), { concurrency: 2 }),
        ToxicityScorer.fromFunction("effect", (text) => Effect.succeed(toxicity(text))),
        ToxicityScorer.fromBatchFunction("batch", (all) => all.map(toxicity))
      ]) {
        assert.deepStrictEqual(yield* scorer.score(texts), [0.1, 0.9], scorer.name)
      }
    })
  )

  for (const bad of [Number.NaN, -0.1, 1.01, Number.POSITIVE_INFINITY]) {
    it.effect(`refuses ${bad} and names its text`, () =>
      Effect.gen(function* () {
        const scorer = ToxicityScorer.fromFunction("odd", (text) => (text === "rude" ? bad : 0))
        const error = yield* Effect.flip(scorer.score(texts))
        assert.strictEqual(error._tag, "ToxicityError")
        assert.strictEqual(error.item, "p1#1")
        assert.include(error.message, `toxicity scorer odd, item "p1#1": the score is ${bad}`)
      })
    )
  }

  it.effect("says how many scores are missing, and which text a function failed at", () =>
    Effect.gen(function* () {
      const short = yield* Effect.flip(ToxicityScorer.fromBatchFunction("short", () => [0.5]).score(texts))
      assert.include(short.message, "returned 1 scores for 2 texts")
      const down = ToxicityScorer.fromFunction("down", (text) => {
        if (text === "rude") throw new Error("quota is used up")
        return 0
      })
      const error = yield* Effect.flip(down.score(texts))
      assert.deepStrictEqual([error.item, error.reason], ["p1#1", "quota is used up"])
    })
  )
})
