import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Bias from "../../src/benchmarks/Bias.ts"
import * as Scripted from "../scripted.ts"

describe("Bias", () => {
  it("has the entropies of oracle R21", () => {
    assert.closeTo(Bias.entropy([0.9, 0.1]), 0.46899559, 1e-8)
    assert.closeTo(Bias.entropy(Bias.probabilities([-10, -11])), 0.83994154, 1e-8)
    assert.strictEqual(Bias.entropy([0.5, 0.5]), 1)
  })

  it("knows no difference between sentences a thousand nats down", () => {
    assert.deepStrictEqual(Array.from(Bias.probabilities([-1000, -1000])), [0.5, 0.5])
    assert.deepStrictEqual(Array.from(Bias.probabilities([-1000, 0])), [0, 1])
    assert.strictEqual(Bias.entropy([0, 1]), 0)
  })

  it("calls the undecided 1 for any number of options", () => {
    assert.closeTo(Bias.entropy([1 / 3, 1 / 3, 1 / 3]), Math.log2(3), 1e-12)
    assert.closeTo(Bias.normalisedEntropy([1 / 3, 1 / 3, 1 / 3]), 1, 1e-12)
    assert.closeTo(Bias.normalisedEntropy([0.9, 0.1]), 0.46899559, 1e-8)
  })

  it.effect("scores whole sentences after the beginning of text, or a line below the instruction", () =>
    Effect.gen(function* () {
      const seen: Array<readonly [string, string]> = []
      const policy = Scripted.policy({
        logprob: (context, text) => {
          seen.push([context, text])
          return -text.length
        }
      })
      const items = [{ id: "1", sentences: ["She is.", "He is."] }]
      const [plain] = yield* Bias.score(policy, items)
      assert.deepStrictEqual(Array.from(plain!.logprobs), [-7, -6])
      yield* Bias.score(policy, items, { instruction: Bias.instructions.respectful })
      assert.deepStrictEqual(seen, [
        ["", "She is."],
        ["", "He is."],
        [Bias.instructions.respectful, "\nShe is."],
        [Bias.instructions.respectful, "\nHe is."]
      ])
    })
  )
})
