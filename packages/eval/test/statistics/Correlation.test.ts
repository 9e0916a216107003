import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as simple from "simple-statistics"
import * as Estimate from "../../src/Estimate.ts"
import * as Correlation from "../../src/statistics/Correlation.ts"
import { close, golden, noInterval, pair } from "../statistics.ts"

const pearson = (...args: Parameters<typeof Correlation.pearson>) => Result.getOrThrow(Correlation.pearson(...args))
const spearman = (...args: Parameters<typeof Correlation.spearman>) => Result.getOrThrow(Correlation.spearman(...args))

describe("Pearson's correlation", () => {
  it("has the value and interval of scipy", () => {
    for (const { confidence, first, pearson: expected, second } of golden.correlation) {
      const estimate = pearson(pair(first, second), confidence)
      close(estimate, expected, 1e-12)
      assert.closeTo(estimate.value, simple.sampleCorrelation([...first], [...second]), 1e-12)
      assert.deepStrictEqual([estimate.n, estimate.se], [first.length, null])
    }
  })

  it("stays where values are shifted and stretched, and turns with their sign", () => {
    const { first, second } = golden.correlation[0]!
    const plain = pearson(pair(first, second))
    const moved = pearson(
      pair(
        first.map((value) => 1e6 + 3 * value),
        second.map((value) => -value)
      )
    )
    close(moved, { value: -plain.value, low: -plain.high!, high: -plain.low! }, 1e-9)
  })

  it("has no interval with three items, or where the values determine each other", () => {
    noInterval(pearson(pair([1, 2, 3], [1, 3, 2])), 0.5, "3 items are too few")
    for (const sign of [1, -1]) {
      const estimate = pearson(
        pair(
          [0.1, 0.2, 0.3, 0.7, 0.9],
          [0.1, 0.2, 0.3, 0.7, 0.9].map((x) => sign * (3 * x + 1))
        )
      )
      assert.closeTo(estimate.value, sign, 1e-15)
      assert.isNull(estimate.low)
      assert.include(estimate.method, "determine each other")
    }
  })

  it("fails where one of the two does not vary", () => {
    const one = Result.getOrThrow(Result.flip(Correlation.pearson(pair([1, 2, 3, 4], [0.1, 0.1, 0.1, 0.1]))))
    assert.strictEqual(one.message, `sample "second": all 4 values are equal; a correlation needs values that vary`)
    const other = Result.getOrThrow(Result.flip(Correlation.spearman(pair([7], [3]))))
    assert.include(other.message, `sample "first": all 1 values are equal`)
  })
})

describe("Spearman's correlation", () => {
  it("has the value of scipy, ties among its ranks", () => {
    for (const { confidence, first, second, spearman: expected } of golden.correlation) {
      const estimate = spearman(pair(first, second), confidence)
      assert.closeTo(estimate.value, expected, 1e-12)
      // Bonett and Wright's standard error of Fisher's z, by hand.
      const half =
        Estimate.normalQuantile((1 + confidence) / 2) * Math.sqrt((1 + expected ** 2 / 2) / (first.length - 3))
      const bounds = { low: Math.tanh(Math.atanh(expected) - half), high: Math.tanh(Math.atanh(expected) + half) }
      close(estimate, bounds, 1e-12)
    }
  })

  it("sees order only", () => {
    const { first, second } = golden.correlation[0]!
    const plain = spearman(pair(first, second))
    const bent = spearman(
      pair(
        first.map(Math.exp),
        second.map((value) => value ** 3)
      )
    )
    assert.deepStrictEqual(bent, plain)
  })
})

describe("a correlation of items in clusters", () => {
  const { first, second } = golden.correlation[0]!

  it("leaves out one cluster at a time", () => {
    const names = first.map((_, i) => `${i % 6}`)
    const estimate = pearson(pair(first, second, names))
    const left = Array.from({ length: 6 }, (_, c) => {
      const kept = (values: ReadonlyArray<number>) => values.filter((_, i) => i % 6 !== c)
      return Math.atanh(simple.sampleCorrelation(kept(first), kept(second)))
    })
    // Variance of the jackknife: 5 / 6 of the sum of squares, which is 25 / 6 of the sample variance.
    const half = Estimate.studentQuantile(0.975, 5) * Math.sqrt((25 / 6) * simple.sampleVariance(left))
    const z = Math.atanh(estimate.value)
    close(estimate, { low: Math.tanh(z - half), high: Math.tanh(z + half) }, 1e-12)
    assert.strictEqual(estimate.clusters, 6)
    assert.strictEqual(estimate.method, "Pearson, Fisher z, jackknife over clusters")
  })

  it("is as sure for copies as for the values", () => {
    const names = first.map((_, i) => `${i}`)
    const alone = pearson(pair(first, second, names))
    const twice = pearson(pair([...first, ...first], [...second, ...second], [...names, ...names]))
    close(twice, { value: alone.value, low: alone.low!, high: alone.high! }, 1e-12)
    assert.isBelow(pearson(pair([...first, ...first], [...second, ...second])).high!, alone.high! + 0.1)
  })

  it("has no interval with two clusters, or where it hangs on one", () => {
    const few = first.map((_, i) => `${i % 2}`)
    assert.include(pearson(pair(first, second, few)).method, "2 clusters are too few, no interval")
    const lone = pearson(pair([0, 0, 0, 1], [1, 2, 3, 4], ["a", "b", "c", "d"]))
    assert.include(lone.method, "hangs on one cluster, no interval")
    assert.isNull(lone.low)
  })
})
