import { assert, describe, it } from "@effect/vitest"
import * as Estimate from "../../src/Estimate.ts"
import { difference } from "../../src/Sample.ts"
import * as Bootstrap from "../../src/statistics/Bootstrap.ts"
import * as Power from "../../src/statistics/Power.ts"
import { golden, pair, sample } from "../statistics.ts"

describe("the minimum detectable effect", () => {
  it("is 2.8 standard errors for 80 % power at 5 %", () => {
    // 1.959964 + 0.841621 = 2.801585
    const effect = Power.detectable(Power.known(0.5), 100)
    assert.closeTo(effect.value, 2.801585 * 0.05, 1e-7)
    assert.deepStrictEqual([effect.low, effect.high, effect.n], [null, null, 100])
    assert.include(effect.method, "power 0.8, alpha 0.05; assumed standard deviation, no interval")
    // 1.644854 + 1.281552 for 90 % at 10 %
    assert.closeTo(Power.detectable(Power.known(1), 1, { power: 0.9, alpha: 0.1 }).value, 2.926405, 1e-6)
  })

  it("of a rate and of two systems on different items follow from their spreads", () => {
    assert.closeTo(Power.ofRate(0.2).value, 0.4, 1e-15)
    assert.closeTo(Power.unpaired(Power.known(3), Power.known(4)).value, 5, 1e-15)
  })

  it("shrinks with the root of n, and grows with power", () => {
    const spread = Power.known(2)
    assert.closeTo(Power.detectable(spread, 400).value * 2, Power.detectable(spread, 100).value, 1e-14)
    assert.isAbove(Power.detectable(spread, 100, { power: 0.95 }).value, Power.detectable(spread, 100).value)
    assert.isAbove(Power.detectable(spread, 100, { alpha: 0.01 }).value, Power.detectable(spread, 100).value)
  })
})

describe("the number of items needed", () => {
  it("for 3 points with a variance of 1/9 between items is 969", () => {
    // 7.84888 / 9 / 0.0009 = 968.99; with 1/6 within items on either side and one sample each, 7.84888 * 4/9 / 0.0009.
    assert.strictEqual(Power.needed(Power.known(Math.sqrt(1 / 9)), 0.03).value, 969)
    assert.strictEqual(Power.needed(Power.known(Math.sqrt(1 / 9 + 2 / 6)), 0.03).value, 3876)
  })

  it("is the least for which the effect can be detected", () => {
    for (const [sd, effect] of [
      [0.5, 0.03],
      [1, -0.2],
      [7, 0.9]
    ] as const) {
      const spread = Power.known(sd)
      const { value: n } = Power.needed(spread, effect)
      assert.isAtMost(Power.detectable(spread, n).value, Math.abs(effect))
      assert.isAbove(Power.detectable(spread, n - 1).value, Math.abs(effect))
    }
  })

  it("takes back what can be detected", () => {
    for (const n of [2, 10, 97, 1000, 123_457]) {
      const spread = Power.known(0.37)
      assert.strictEqual(Power.needed(spread, Power.detectable(spread, n).value).value, n)
    }
  })
})

describe("a pilot", () => {
  const options = { seed: 1, resamples: 2000 }
  const { values } = golden.bootstrap[0]!

  it("has the spread of its values, with an interval that what is planned inherits", () => {
    const spread = Power.pilot(sample(values), options)
    assert.closeTo(spread.value, Estimate.mean(sample(values)).se! * Math.sqrt(values.length), 1e-14)
    assert.isTrue(spread.low! < spread.value && spread.value < spread.high!)
    const effect = Power.detectable(spread, 500)
    assert.closeTo(effect.low! / effect.value, spread.low! / spread.value, 1e-14)
    const items = Power.needed(spread, 0.1)
    assert.strictEqual(items.n, values.length)
    assert.strictEqual(items.high, Power.needed({ ...spread, value: spread.high! }, 0.1).value)
  })

  it("of a pair knows that both systems find the same items hard", () => {
    const second = values.map((value, i) => value + (i % 2) / 10)
    const paired = Power.pilot(difference(pair(values, second)), options)
    const unpaired = Power.unpaired(Power.pilot(sample(values), options), Power.pilot(sample(second), options))
    assert.isBelow(paired.value, unpaired.value / 10)
    assert.isTrue(unpaired.low! < unpaired.value && unpaired.value < unpaired.high!)
    assert.strictEqual(unpaired.n, 80)
    const other = Power.pilot(sample(second), { ...options, confidence: 0.5 })
    assert.throws(() => Power.unpaired(Power.pilot(sample(values), options), other), /at confidence 0.95 and 0.5/)
  })

  it("with clusters gives the clustered standard error at its own size", () => {
    for (const { clusters, values } of golden.clustered) {
      const clustered = sample(values, clusters)
      const spread = Power.pilot(clustered, options)
      assert.closeTo(spread.value / Math.sqrt(values.length), Estimate.clustered(clustered).se!, 1e-14)
      assert.deepStrictEqual([spread.n, spread.clusters], [values.length, new Set(clusters).size])
    }
  })

  it("of one value or cluster is refused, as are aims that make no sense", () => {
    assert.throws(() => Power.pilot(sample([1]), options), /pilot "numbers": one value or cluster/)
    assert.throws(() => Power.pilot(sample([1, 2], ["a", "a"]), options), /one value or cluster/)
    assert.throws(() => Power.detectable(Power.known(1), 0), /n is a whole number/)
    assert.throws(() => Power.detectable(Power.known(1), 5, { power: 80 }), /power lies between 0 and 1, got 80/)
    assert.throws(() => Power.needed(Power.known(1), 0), /finite number but 0/)
    assert.throws(() => Power.known(-1), /from 0, got -1/)
    assert.throws(() => Power.ofRate(50), /a rate lies between 0 and 1/)
  })

  it("keeps what it promises: planned for 80 % power, four of five evaluations find the effect", () => {
    const sd = 1
    const n = Power.needed(Power.known(sd), 0.5).value
    // Normal values by resampling normal quantiles, shifted by the effect; the bootstrap only serves as a seeded source.
    const quantiles = Array.from({ length: 999 }, (_, i) => 0.5 + Estimate.normalQuantile((i + 1) / 1000))
    let found = 0
    let runs = 0
    Bootstrap.joint(
      quantiles,
      (draw) => {
        const mean = draw.slice(0, n).reduce((sum, value) => sum + value, 0) / n
        if (draw !== quantiles) {
          runs++
          if (Math.abs(mean) > 1.959964 * (sd / Math.sqrt(n))) found++
        }
        return [mean]
      },
      { seed: 3, resamples: 2000 }
    )
    // n is rounded up to 32, for 80.7 %; four standard deviations of a share of 2000.
    assert.strictEqual(runs, 2000)
    assert.closeTo(found / runs, 0.807, 0.036)
  })
})
