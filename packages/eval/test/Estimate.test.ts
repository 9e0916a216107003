import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as simple from "simple-statistics"
import * as Estimate from "../src/Estimate.ts"
import { close, golden, noInterval, sample } from "./statistics.ts"

describe("a mean", () => {
  it("has the standard error of five comparisons that were ranked by hand", () => {
    // Squared deviations from 0.7: .09 + .04 + .49 + .09 + .09 = 0.8; 0.8 / 4 / 5 = 0.04.
    const estimate = Estimate.mean(sample([1, 0.5, 0, 1, 1]))
    assert.closeTo(estimate.value, 0.7, 1e-15)
    assert.closeTo(estimate.se!, 0.2, 1e-15)
    assert.strictEqual(estimate.n, 5)
  })

  // The library's quantiles of Student's t are good to 3e-8 of their value.
  it("has the interval that scipy gives", () => {
    for (const { confidence, values, ...expected } of golden.t) {
      close(Estimate.mean(sample(values), confidence), { ...expected, value: simple.mean([...values]) }, 1e-6)
    }
  })

  it("moves and stretches with its values", () => {
    const values = golden.t.at(-1)!.values
    const plain = Estimate.mean(sample(values))
    const moved = Estimate.mean(sample(values.map((value) => 5 - 2 * value)))
    close(
      moved,
      { value: 5 - 2 * plain.value, low: 5 - 2 * plain.high!, high: 5 - 2 * plain.low!, se: 2 * plain.se! },
      1e-12
    )
  })

  it("of one value, or of equal ones, has no interval", () => {
    noInterval(Estimate.mean(sample([3])), 3, "one value")
    // The sum of three times 0.1 is not 0.3.
    noInterval(Estimate.mean(sample([0.1, 0.1, 0.1])), 0.1, "all values equal")
    noInterval(Estimate.clustered(sample([1, 1, 1], ["a", "a", "b"])), 1, "equal")
  })
})

describe("a mean of clusters", () => {
  it("has the standard error that statsmodels gives", () => {
    for (const { clusters, values, ...expected } of golden.clustered) {
      const estimate = Estimate.clustered(sample(values, clusters))
      close(estimate, { ...expected, value: simple.mean([...values]) }, 1e-6)
      assert.deepStrictEqual([estimate.n, estimate.clusters], [values.length, new Set(clusters).size])
    }
  })

  it("is the plain mean where each value is its own cluster, or none has one", () => {
    const { values } = golden.t.at(-1)!
    const { high, low, se, value } = Estimate.mean(sample(values))
    const alone = values.map((_, i) => `${i}`)
    close(Estimate.clustered(sample(values, alone)), { value, low: low!, high: high!, se: se! }, 1e-12)
    assert.deepStrictEqual(Estimate.clustered(sample(values)), Estimate.mean(sample(values)))
  })

  it("is no surer for copies of the same values", () => {
    const values = [1, 4, 2, 8, 5]
    const copies = [...values, ...values, ...values]
    const names = copies.map((_, i) => `${i % 5}`)
    const { high, low, se, value } = Estimate.mean(sample(values))
    close(Estimate.clustered(sample(copies, names)), { value, low: low!, high: high!, se: se! }, 1e-12)
    assert.isBelow(Estimate.mean(sample(copies)).se!, 0.6 * se!)
  })

  it("has no interval with one cluster, or where all have the same mean", () => {
    noInterval(Estimate.clustered(sample([1, 2], ["a", "a"])), 1.5, "one cluster")
    noInterval(Estimate.clustered(sample([0, 1, 1, 0], ["a", "a", "b", "b"])), 0.5, "all clusters equal")
  })
})

describe("a rate", () => {
  it("has the Wilson interval that scipy gives", () => {
    for (const { confidence, hits, n, ...expected } of golden.wilson) {
      close(Estimate.rate(hits, n, confidence), { ...expected, value: hits / n }, 1e-12)
    }
  })

  it("covers as often as sums of binomial probabilities say, which is not 95 % everywhere", () => {
    for (const { coverage, n, p } of golden.wilsonCoverage) {
      let log = n * Math.log1p(-p)
      let inside = 0
      for (let hits = 0; hits <= n; hits++) {
        const { high, low } = Estimate.rate(hits, n)
        if (low! <= p && p <= high!) inside += Math.exp(log)
        log += Math.log(((n - hits) / (hits + 1)) * (p / (1 - p)))
      }
      assert.closeTo(inside, coverage, 1e-9, `n ${n}, p ${p}`)
      if (n === 50 && p === 0.02) assert.strictEqual(inside.toFixed(2), "0.92")
    }
  })

  it("stays within 0 and 1, around its value, and mirrors", () => {
    for (const n of [1, 2, 7, 50, 1000]) {
      for (const hits of new Set([0, 1, Math.floor(n / 3), n])) {
        const { high, low, value } = Estimate.rate(hits, n)
        assert.isTrue(0 <= low! && low! <= value && value <= high! && high! <= 1 && low! < high!)
        close(Estimate.rate(n - hits, n), { value: 1 - value, low: 1 - high!, high: 1 - low! }, 1e-12)
      }
    }
  })

  it("is refused for counts that make no sense", () => {
    for (const [hits, n] of [
      [0, 0],
      [-1, 5],
      [6, 5],
      [1.5, 5],
      [1, 2.5]
    ] as const) {
      assert.throws(() => Estimate.rate(hits, n), /0 <= hits <= n/)
    }
  })
})

describe("a confidence", () => {
  it("is a share, not a percentage", () => {
    assert.throws(() => Estimate.mean(sample([1, 2]), 95), /between 0 and 1, got 95/)
    assert.throws(() => Estimate.mean(sample([1]), 95), /between 0 and 1, got 95/)
    assert.throws(() => Estimate.clustered(sample([1, 2], ["a", "a"]), 95), /between 0 and 1, got 95/)
    assert.throws(() => Estimate.rate(1, 2, 1), /between 0 and 1/)
  })
})

describe("quantiles", () => {
  it("of the normal and Student's t distribution are the tabulated ones", () => {
    assert.closeTo(Estimate.normalQuantile(0.975), 1.959963984540054, 1e-14)
    assert.closeTo(Estimate.normalQuantile(0.8), 0.8416212335729143, 1e-14)
    assert.closeTo(Estimate.normalProbability(-1), 0.15865525393145707, 1e-15)
    assert.closeTo(Estimate.studentQuantile(0.975, 1), 12.706204736174694, 1e-7)
    assert.closeTo(Estimate.studentQuantile(0.975, 499), 1.9647293909876886, 1e-7)
  })
})

describe("an estimate", () => {
  it("prints with its interval and n, or without", () => {
    assert.strictEqual(Estimate.format(Estimate.rate(713, 1000)), "0.713 [0.684, 0.740], n = 1000")
    assert.strictEqual(Estimate.format(Estimate.mean(sample([2])), 1), "2.0 no interval, n = 1")
  })

  it("passes through JSON", () => {
    const estimate = Estimate.clustered(sample([1, 2, 4], ["a", "a", "b"]))
    const json = Schema.fromJsonString(Estimate.Estimate)
    assert.deepStrictEqual(Schema.decodeSync(json)(Schema.encodeSync(json)(estimate)), estimate)
  })
})
