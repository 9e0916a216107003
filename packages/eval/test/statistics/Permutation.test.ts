import { assert, describe, it } from "@effect/vitest"
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import * as Estimate from "../../src/Estimate.ts"
import * as Permutation from "../../src/statistics/Permutation.ts"
import { golden, pair, sample } from "../statistics.ts"

const zeros = (values: ReadonlyArray<number>) => values.map(() => 0)

/** All sign patterns, one by one. */
const enumerated = (values: ReadonlyArray<number>): number => {
  const far = Math.abs(values.reduce((sum, value) => sum + value, 0)) - 1e-9
  let count = 0
  for (let pattern = 0; pattern < 2 ** values.length; pattern++) {
    const sum = values.reduce((all, value, i) => all + ((pattern >> i) & 1 ? value : -value), 0)
    if (Math.abs(sum) >= far) count++
  }
  return count / 2 ** values.length
}

const stream = (seed: number): (() => number) => {
  const generator = xoroshiro128plus(seed)
  for (let i = 0; i < 64; i++) generator.next()
  return () => (generator.next() >>> 0) / 2 ** 32
}

describe("the test of two systems on the same items", () => {
  it("counts sign patterns as on paper", () => {
    // Differences 1, 2, 3: the sums of the eight patterns are ±6, ±4, ±2, 0, 0. Two are as far from 0 as 6.
    const test = Permutation.paired(pair([1, 2, 3], [0, 0, 0]), { seed: 1 })
    assert.strictEqual(test.pValue, 2 / 8)
    assert.deepStrictEqual([test.exact, test.flipped, test.draws], [true, 3, 0])
    assert.strictEqual(test.method, "sign flips of 3 items, exact")
    assert.deepStrictEqual(test.difference, Estimate.mean(sample([1, 2, 3])))
  })

  it("agrees with scipy's exact test, on grids and off them", () => {
    for (const { first, pValue, second } of golden.permutation) {
      const test = Permutation.paired(pair(first, second), { seed: 1 })
      assert.isTrue(test.exact)
      assert.closeTo(test.pValue, pValue, 1e-12)
    }
  })

  it("agrees with the sign test where every difference is one step, for any number of items", () => {
    // 60 to 40: 2 P(X >= 60) for X binomial with 100 and 1/2. scipy.stats.binomtest(60, 100).
    const wins = Array.from({ length: 100 }, (_, i) => (i < 60 ? 1 : 0))
    const losses = wins.map((win) => 1 - win)
    assert.closeTo(Permutation.paired(pair(wins, losses), { seed: 1 }).pValue, 0.05688793364098078, 1e-12)
    // Two thousand wins of two thousand: 2^-1999, far below what doubles tell apart from 0.
    const all = Array.from({ length: 2000 }, () => 1)
    const sure = Permutation.paired(pair(all, zeros(all)), { seed: 1 })
    assert.deepStrictEqual([sure.pValue, sure.exact], [Number.MIN_VALUE, true])
  })

  it("is exact by sums as by enumeration, on grids of decimal fractions", () => {
    const uniform = stream(1)
    for (let round = 0; round < 30; round++) {
      const step = [1, 0.5, 0.1, 0.01, 1 / 3][round % 5]!
      const first = Array.from({ length: 12 }, () => Math.round(uniform() * 5) * step)
      const second = Array.from({ length: 12 }, () => Math.round(uniform() * 4) * step)
      const differences = first.map((value, i) => value - second[i]!)
      const test = Permutation.paired(pair(first, second), { seed: 1 })
      assert.closeTo(test.pValue, enumerated(differences), 1e-12)
    }
  })

  it("is exact in the middle as by enumeration, off grids", () => {
    const uniform = stream(2)
    for (const n of [2, 3, 7, 12]) {
      const differences = Array.from({ length: n }, () => uniform() - 0.3)
      const test = Permutation.paired(pair(differences, zeros(differences)), { seed: 1 })
      assert.isTrue(test.exact)
      assert.closeTo(test.pValue, enumerated(differences), 1e-12)
    }
  })

  it("draws patterns where they are too many, and comes near the exact value", () => {
    // Of 60 differences off any grid, and the same ones on a grid so fine that it hardly moves them, counted exactly.
    const uniform = stream(3)
    const differences = Array.from({ length: 60 }, () => uniform() - 0.42)
    const test = Permutation.paired(pair(differences, zeros(differences)), { seed: 5, draws: 20_000 })
    assert.deepStrictEqual([test.exact, test.flipped, test.draws], [false, 60, 20_000])
    assert.strictEqual(test.method, "sign flips of 60 items, 20000 patterns drawn")
    const onGrid = differences.map((value) => Math.round(value * 5000) / 5000)
    const exact = Permutation.paired(pair(onGrid, zeros(onGrid)), { seed: 1 })
    assert.isTrue(exact.exact)
    const p = exact.pValue
    assert.isTrue(p > 0.001 && p < 0.2, `${p}`)
    assert.closeTo(test.pValue, p, 4 * Math.sqrt((p * (1 - p)) / 20_000))
    // k of 20,000 as (k + 1) / 20,001
    assert.closeTo((test.pValue * 20_001) % 1, 0, 1e-6)
  })

  it("gives the same for the same seed, and never 0", () => {
    const uniform = stream(4)
    const differences = Array.from({ length: 80 }, () => 1 + uniform() / 2)
    const test = (seed: number) => Permutation.paired(pair(differences, zeros(differences)), { seed, draws: 99 })
    assert.deepStrictEqual(test(1), test(1))
    assert.strictEqual(test(2).pValue, 1 / 100)
  })

  it("is the same in both directions, and blind to items that do not differ", () => {
    const [first, second] = [
      [0.3, 0.9, 0.1, 0.8, 0.7],
      [0.1, 0.2, 0.4, 0.3, 0.1]
    ]
    const one = Permutation.paired(pair(first!, second!), { seed: 1 })
    const other = Permutation.paired(pair(second!, first!), { seed: 1 })
    assert.strictEqual(one.pValue, other.pValue)
    assert.strictEqual(one.difference.value, -other.difference.value)
    const padded = Permutation.paired(pair([...first!, 5, 5, 5], [...second!, 5, 5, 5]), { seed: 1 })
    assert.deepStrictEqual([padded.pValue, padded.flipped], [one.pValue, one.flipped])
  })

  it("flips clusters as wholes", () => {
    // Clusters sum to 3, 1, 2; the items alone would give 2 of 64.
    const first = [2, 1, 1, 0, 1, 1]
    const test = Permutation.paired(pair(first, zeros(first), ["a", "a", "b", "b", "c", "c"]), { seed: 1 })
    assert.deepStrictEqual([test.pValue, test.flipped, test.method], [0.25, 3, "sign flips of 3 clusters, exact"])
    assert.strictEqual(test.difference.clusters, 3)
    // 0.1 + 0.2 - 0.3 is not 0 in doubles, but has no sign.
    const cancelling = Permutation.paired(
      pair([0.1, 0.2, -0.3, 1, 1], zeros([1, 1, 1, 1, 1]), ["a", "a", "a", "b", "c"]),
      {
        seed: 1
      }
    )
    assert.strictEqual(cancelling.flipped, 2)
  })

  it("finds nothing where nothing differs", () => {
    const test = Permutation.paired(pair([1, 2], [1, 2]), { seed: 1 })
    assert.deepStrictEqual([test.pValue, test.exact, test.flipped], [1, true, 0])
    assert.strictEqual(Permutation.paired(pair([2], [1]), { seed: 1 }).pValue, 1)
  })

  it("rejects equal systems as often as it says", () => {
    // 400 pairs of equal systems, tested at 10 %: 40 expected, with a standard deviation of 6.
    const uniform = stream(6)
    let rejected = 0
    for (let run = 0; run < 400; run++) {
      const first = Array.from({ length: 16 }, uniform)
      const second = Array.from({ length: 16 }, uniform)
      if (Permutation.paired(pair(first, second), { seed: run }).pValue <= 0.1) rejected++
    }
    assert.closeTo(rejected, 40, 18)
  })

  it("refuses options that make no sense", () => {
    const two = pair([1, 2], [0, 0])
    assert.throws(() => Permutation.paired(two, { seed: Number.NaN }), /a seed is an integer/)
    assert.throws(() => Permutation.paired(two, { seed: 1, draws: 0 }), /whole number from 1, got 0/)
  })
})
