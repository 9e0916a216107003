import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as BestOfN from "../../src/statistics/BestOfN.ts"
import { golden } from "../statistics.ts"

describe("the KL bound of best-of-n", () => {
  it("has the tabulated values", () => {
    assert.deepStrictEqual(
      [1, 2, 5, 64].map((n) => BestOfN.klBound(n).toFixed(6)),
      ["0.000000", "0.193147", "0.809438", "3.174508"]
    )
    assert.throws(() => BestOfN.klBound(0), /whole number from 1/)
    assert.throws(() => BestOfN.klBound(1.5), /whole number from 1/)
  })
})

describe("the expected best of n", () => {
  it("of two is the mean of the larger ones of all pairs", () => {
    // .4 .5 .9 .5 .9 .9 over 6
    assert.closeTo(BestOfN.expectedMax([0.1, 0.4, 0.5, 0.9], 2), 0.68333333, 5e-9)
  })

  it("agrees with all subsets, ties among them", () => {
    for (const { atMax, gold, max, n, scores } of golden.bestOfN) {
      assert.closeTo(BestOfN.expectedMax(scores, n), max, 1e-13)
      assert.closeTo(BestOfN.expectedGold(scores, gold, n), atMax, 1e-13)
    }
  })

  it("is the mean for one, the largest for all, and grows between", () => {
    const scores = [3, 1, 4, 1, 5, 9, 2, 6]
    assert.closeTo(BestOfN.expectedMax(scores, 1), 31 / 8, 1e-14)
    assert.closeTo(BestOfN.expectedMax(scores, 8), 9, 1e-14)
    for (let n = 2; n <= 8; n++) assert.isAbove(BestOfN.expectedMax(scores, n), BestOfN.expectedMax(scores, n - 1))
  })

  it("does not depend on the order of the samples, even where they tie", () => {
    const scores = [1, 1, 0, 1, 0]
    const gold = [5, 0, 7, 1, 3]
    const reversed = BestOfN.expectedGold([...scores].reverse(), [...gold].reverse(), 2)
    assert.closeTo(BestOfN.expectedGold(scores, gold, 2), reversed, 1e-15)
    // With all scores equal nothing is chosen: the mean of the gold scores.
    assert.closeTo(BestOfN.expectedGold([2, 2, 2, 2, 2], gold, 3), 16 / 5, 1e-14)
  })

  it("is stable for 100,000 samples", () => {
    // The scores 1..m: the expected largest of n is n (m + 1) / (n + 1).
    const m = 100_000
    const scores = Float64Array.from({ length: m }, (_, i) => ((i * 7919) % m) + 1)
    for (const n of [1, 2, 64, 1000, 50_000, m]) {
      const expected = (n * (m + 1)) / (n + 1)
      assert.closeTo(BestOfN.expectedMax(scores, n) / expected, 1, 1e-11, `n ${n}`)
    }
  })

  it("is refused with too few scores, or ones that are not finite", () => {
    assert.throws(() => BestOfN.expectedMax([1, 2], 3), /best of 3 needs at least 3 scores, got 2/)
    assert.throws(() => BestOfN.expectedMax([1, Number.NaN], 1), /score 1 is NaN/)
    assert.throws(() => BestOfN.expectedGold([1, 2], [1], 1), /1 gold scores for 2 scores/)
  })
})

describe("best-of-n over prompts", () => {
  // The proxy likes what is long; beyond some point the gold score does not.
  const prompts = [
    { id: "a", scores: [1, 2, 3, 4], gold: [1, 3, 2, 0] },
    { id: "b", scores: [4, 1, 3, 2], gold: [1, 2, 3, 4] },
    { id: "c", scores: [2, 2, 2, 8], gold: [0, 3, 6, -1] }
  ]

  it("is the mean of the prompts, with a standard error over them", () => {
    // Largest of all four: gold 0, 1, -1.
    const estimate = Result.getOrThrow(BestOfN.estimate("bon", prompts, 4))
    assert.closeTo(estimate.value, 0, 1e-15)
    assert.closeTo(estimate.se!, Math.sqrt(1 / 3), 1e-15)
    assert.deepStrictEqual([estimate.n, estimate.method], [3, "best of 4 over prompts, mean, Student t"])
  })

  it("draws a curve on which the score grows and the gold score turns", () => {
    const points = Result.getOrThrow(BestOfN.curve("bon", prompts, [1, 2, 4]))
    assert.deepStrictEqual(
      points.map(({ n }) => n),
      [1, 2, 4]
    )
    assert.deepStrictEqual(
      points.map(({ kl }) => kl),
      [1, 2, 4].map(BestOfN.klBound)
    )
    assert.isTrue(points[0]!.score.value < points[1]!.score.value && points[1]!.score.value < points[2]!.score.value)
    assert.closeTo(points[0]!.gold.value, (1.5 + 2.5 + 2) / 3, 1e-14)
    assert.closeTo(points[2]!.gold.value, 0, 1e-14)
  })

  it("fails with the prompt at fault", () => {
    const bad = [...prompts, { id: "d", scores: [1, 2] }]
    const failure = Result.getOrThrow(Result.flip(BestOfN.curve("bon", bad, [1, 4])))
    assert.strictEqual(failure.message, `sample "bon", item "d": best of 4 needs at least 4 scores, got 2`)
  })
})
