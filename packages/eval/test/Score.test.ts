import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as Estimate from "../src/Estimate.ts"
import * as Sample from "../src/Sample.ts"
import * as Score from "../src/Score.ts"

const measured: Score.Measured = { system: "s", task: "t", metric: "acc", unit: "share", higherIsBetter: true }

const sampleOf = (values: ReadonlyArray<number>, clusters?: ReadonlyArray<string>): Sample.Sample =>
  Result.getOrThrow(
    Sample.make(
      "s",
      values.map((value, i) => ({ id: String(i), value, cluster: clusters?.[i] }))
    )
  )

describe("mean", () => {
  it("takes clusters into account where there are any", () => {
    const clusters = ["a", "a", "b", "b"]
    const { estimate } = Score.mean(measured, sampleOf([1, 1, 0, 0], clusters))
    assert.strictEqual(estimate.clusters, 2)
    // sums of residuals 1 and -1: se² = 2 / 1 * 2 / 16
    assert.closeTo(estimate.se!, 0.5, 1e-12)
    assert.isBelow(Score.mean(measured, sampleOf([1, 1, 0, 0])).estimate.se!, 0.3)
  })
})

describe("share", () => {
  it("keeps the interval between 0 and 1", () => {
    const values = [0.9, 1, 1, 0.4]
    const { estimate } = Score.share(measured, sampleOf(values))
    assert.isAbove(Score.mean(measured, sampleOf(values)).estimate.high!, 1)
    assert.strictEqual(estimate.high, 1)
    assert.strictEqual(estimate.method, "mean, Student t, cut to [0, 1]")
  })

  it("refuses what lies outside, but for rounding", () => {
    assert.throws(() => Score.share(measured, sampleOf([1, 1.5])), /item "1": 1.5 does not lie in \[0, 1\]/)
    assert.throws(() => Score.share(measured, sampleOf([-0.1, 1])), /item "0": -0.1 does not/)
    assert.strictEqual(Score.share(measured, sampleOf([1 + 1e-12, 0.5, 1])).estimate.n, 3)
  })
})

describe("rate", () => {
  it("is Wilson's for independent items", () => {
    const { estimate } = Score.rate(measured, sampleOf([1, 0, 1, 1]))
    assert.deepStrictEqual(estimate, Estimate.rate(3, 4))
  })

  it("is clustered for items in clusters", () => {
    const { estimate } = Score.rate(measured, sampleOf([1, 1, 0, 0], ["a", "a", "b", "b"]))
    assert.strictEqual(estimate.clusters, 2)
  })

  it("refuses what is neither hit nor miss, and names it", () => {
    assert.throws(() => Score.rate(measured, sampleOf([1, 0.5])), /item "1": 0.5 is neither 0 nor 1/)
  })
})
