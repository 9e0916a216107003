import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as PassAtK from "../../src/statistics/PassAtK.ts"
import { golden } from "../statistics.ts"

describe("pass@k of a problem", () => {
  it("counts draws without replacement", () => {
    // Of the 10 triples of 5 samples, 1 misses both correct ones.
    assert.closeTo(PassAtK.ofProblem(5, 2, 3), 0.9, 1e-15)
    assert.strictEqual(PassAtK.ofProblem(5, 2, 4), 1)
    assert.strictEqual(PassAtK.ofProblem(7, 0, 7), 0)
  })

  it("agrees with exact fractions, up to 100,000 samples", () => {
    for (const { correct, k, samples, value } of golden.passAtK) {
      assert.closeTo(
        PassAtK.ofProblem(samples, correct, k),
        value,
        1e-12 * Math.max(value, 1e-3),
        `${samples} ${correct} ${k}`
      )
    }
  })

  it("is the share of correct ones at k = 1, and grows with k and with them", () => {
    for (const samples of [1, 4, 9]) {
      for (let correct = 0; correct <= samples; correct++) {
        assert.closeTo(PassAtK.ofProblem(samples, correct, 1), correct / samples, 1e-15)
        for (let k = 2; k <= samples; k++) {
          assert.isAtLeast(PassAtK.ofProblem(samples, correct, k), PassAtK.ofProblem(samples, correct, k - 1) - 1e-15)
          if (correct > 0) {
            assert.isAtLeast(PassAtK.ofProblem(samples, correct, k), PassAtK.ofProblem(samples, correct - 1, k))
          }
        }
      }
    }
  })

  it("is unbiased: its mean over binomial counts is 1 - (1 - p)^k", () => {
    const [samples, k, p] = [6, 3, 0.3]
    const choose = [1, 6, 15, 20, 15, 6, 1]
    const expected = choose.reduce(
      (sum, ways, c) => sum + ways * p ** c * (1 - p) ** (samples - c) * PassAtK.ofProblem(samples, c, k),
      0
    )
    assert.closeTo(expected, 1 - (1 - p) ** k, 1e-14)
  })

  it("is 0, without a sign, where nothing is correct", () => {
    assert.isTrue(Object.is(PassAtK.ofProblem(4, 0, 2), 0))
  })

  it("is refused for counts that make no sense", () => {
    assert.throws(() => PassAtK.ofProblem(2, 1, 3), /pass@3 needs at least 3 samples, got 2/)
    assert.throws(() => PassAtK.ofProblem(2, 3, 1), /3 correct of 2 samples/)
    assert.throws(() => PassAtK.ofProblem(2, 1, 0), /whole number from 1/)
  })
})

describe("pass@k over problems", () => {
  const problems = [
    { id: "a", samples: 4, correct: 0 },
    { id: "b", samples: 4, correct: 2 },
    { id: "c", samples: 2, correct: 2 }
  ]

  it("is their mean, with its standard error", () => {
    // 0, 1 - 1/6, 1: mean 11/18, squared deviations (121 + 16 + 49) / 324, over 2 and 3.
    const estimate = Result.getOrThrow(PassAtK.estimate("code", problems, 2))
    assert.closeTo(estimate.value, 11 / 18, 1e-15)
    assert.closeTo(estimate.se!, Math.sqrt(186 / 324 / 6), 1e-15)
    // t(2) times the error reaches beyond both ends.
    assert.deepStrictEqual([estimate.low, estimate.high], [0, 1])
    assert.deepStrictEqual([estimate.n, estimate.method], [3, "pass@2 over problems, mean, Student t, cut to [0, 1]"])
  })

  it("has an interval where all problems are solved", () => {
    const solved = ["a", "b", "c", "d"].map((id) => ({ id, samples: 2, correct: 2 }))
    const estimate = Result.getOrThrow(PassAtK.estimate("code", solved, 2))
    // Wilson, 4 of 4 (statsmodels)
    assert.closeTo(estimate.low!, 0.5101091634545425, 1e-9)
    assert.deepStrictEqual([estimate.high, estimate.method], [1, "pass@2 over problems, all equal, Wilson"])
  })

  it("fails with the problem that has too few samples", () => {
    const failure = Result.getOrThrow(Result.flip(PassAtK.estimate("code", problems, 3)))
    assert.strictEqual(failure.message, `sample "code", item "c": pass@3 needs at least 3 samples, got 2`)
    const twice = Result.getOrThrow(Result.flip(PassAtK.estimate("code", [...problems, ...problems], 1)))
    assert.include(twice.message, `item "a": the id stands twice`)
  })
})
