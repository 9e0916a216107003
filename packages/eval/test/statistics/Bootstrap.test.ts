import { assert, describe, it } from "@effect/vitest"
import * as Estimate from "../../src/Estimate.ts"
import * as Bootstrap from "../../src/statistics/Bootstrap.ts"
import { close, golden, noInterval, pair, sample } from "../statistics.ts"

const total = (values: ArrayLike<number>) => Array.from(values).reduce((sum, value) => sum + value, 0)
const mean = (values: ArrayLike<number>) => total(values) / values.length
const sd = (values: Float64Array) => {
  const centre = mean(values)
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1))
}
const median = (values: Float64Array) => {
  values.sort()
  return (values[(values.length - 1) >> 1]! + values[values.length >> 1]!) / 2
}

const skewed = golden.bootstrap[0]!.values
const statistics = { mean: undefined, sd } as const

describe("a bootstrap", () => {
  it("draws every index equally often, in ranges of every kind", () => {
    // 16 bits hold 3, 100 and 40,000 indices, of which they refuse 1, 36 and 25,536 of 65,536 numbers; 70,000 needs 32 bits.
    // The last number is the 99.99 % quantile of chi² with as many degrees of freedom as there are parts, less one.
    for (const [n, resamples, parts, most] of [
      [3, 20_000, 3, 18.42],
      [100, 2000, 100, 161.3],
      [40_000, 20, 100, 161.3],
      [70_000, 20, 100, 161.3]
    ] as const) {
      const counts = new Float64Array(parts)
      const items = Array.from({ length: n }, (_, i) => i)
      const count = (draw: ReadonlyArray<number>) => {
        if (draw !== items) for (const i of draw) counts[Math.floor((i * parts) / n)]! += 1
        return [0]
      }
      Bootstrap.joint(items, count, { seed: 7, resamples })
      assert.strictEqual(total(counts), n * resamples)
      const expected = (n * resamples) / parts
      const chi2 = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
      assert.isBelow(chi2, most, `n ${n}`)
    }
  })

  it("draws what its generator gives by arbitrary precision", () => {
    for (const { first, n, second, seed } of golden.draws) {
      const draws: Array<ReadonlyArray<number>> = []
      const items = Array.from({ length: n }, (_, i) => i)
      Bootstrap.joint(items, (draw) => [draws.push(draw.slice(0, 8))], { seed, resamples: 2 })
      assert.deepStrictEqual(draws.slice(1), [first, second], `n ${n}`)
    }
  })

  it("has the bounds that counting all resamples gives", () => {
    // Means of three draws from {0, 3, 6}: 27 equally likely, sums 0 3 6 9 12 15 18 with counts 1 3 6 7 6 3 1.
    const estimate = Bootstrap.percentile(sample([0, 3, 6]), { seed: 1, resamples: 50_000, confidence: 0.8 })
    // 10 % lies within the second sum (1/27 to 4/27), 90 % within the last but one.
    assert.deepStrictEqual([estimate.low, estimate.value, estimate.high], [1, 3, 5])
    // Variance of one draw 6, of the mean of three 2; the spread of 50,000 draws is known to 0.3 %.
    assert.closeTo(estimate.se!, Math.SQRT2, 4 * 0.0045)
  })

  it("has the bounds and standard errors of scipy, by percentile and BCa, of means and of other statistics", () => {
    for (const { method, statistic, values, ...expected } of golden.bootstrap) {
      const make = method === "BCa" ? Bootstrap.bca : Bootstrap.percentile
      const own = statistics[statistic]
      const options = { seed: 3, resamples: 100_000, ...(own === undefined ? {} : { statistic: own }) }
      const estimate = make(sample(values), options)
      // A quantile at 2.5 % of 100,000 draws is known to about 0.01 standard errors, BCa's extreme levels to 0.015.
      close(estimate, expected, 0.05 * expected.se)
      assert.include(estimate.method, `${method === "BCa" ? "BCa" : "percentile"} bootstrap, 100000 resamples`)
    }
  })

  it("gives the same for the same seed only", () => {
    for (const make of [Bootstrap.percentile, Bootstrap.bca]) {
      const of = (seed: number) => make(sample(skewed), { seed, resamples: 500 })
      assert.deepStrictEqual(of(1), of(1))
      assert.notStrictEqual(of(1).low, of(2).low)
    }
  })

  it("takes the mean by sums as it takes it by the values", () => {
    const names = skewed.map((_, i) => `${i % 7}`)
    for (const clusters of [undefined, names]) {
      for (const make of [Bootstrap.percentile, Bootstrap.bca]) {
        const options = { seed: 11, resamples: 400 }
        const quick = make(sample(skewed, clusters), options)
        const plain = make(sample(skewed, clusters), { ...options, statistic: mean })
        close(quick, { value: plain.value, low: plain.low!, high: plain.high!, se: plain.se! }, 1e-12)
        assert.strictEqual(quick.clusters, clusters === undefined ? undefined : 7)
      }
    }
  })

  it("moves with its values", () => {
    for (const make of [Bootstrap.percentile, Bootstrap.bca]) {
      const options = { seed: 5, resamples: 1000 }
      const plain = make(sample(skewed), options)
      const moved = make(sample(skewed.map((value) => 3 * value - 10)), options)
      close(
        moved,
        { value: 3 * plain.value - 10, low: 3 * plain.low! - 10, high: 3 * plain.high! - 10, se: 3 * plain.se! },
        1e-9
      )
    }
  })

  it("draws clusters as wholes", () => {
    // Two values in each of twenty clusters, equal: as wide as for one value each, not as for forty.
    const ones = skewed.slice(0, 20)
    const twins = [...ones, ...ones]
    const names = twins.map((_, i) => `${i % 20}`)
    const options = { seed: 2, resamples: 2000 }
    const alone = Bootstrap.percentile(sample(ones), options)
    const whole = Bootstrap.percentile(sample(twins, names), options)
    close(whole, { value: alone.value, low: alone.low!, high: alone.high!, se: alone.se! }, 1e-12)
    assert.deepStrictEqual([whole.n, whole.clusters], [40, 20])
    assert.include(whole.method, "2000 resamples of clusters")
    assert.isBelow(Bootstrap.percentile(sample(twins), options).se!, 0.8 * alone.se!)
  })

  it("lets a statistic sort its values, and leaves the sample as it was", () => {
    const numbers = sample([5, 1, 4, 2, 3])
    const estimate = Bootstrap.percentile(numbers, { seed: 1, resamples: 200, statistic: median })
    assert.strictEqual(estimate.value, 3)
    assert.deepStrictEqual([...numbers.values], [5, 1, 4, 2, 3])
  })

  it("has no interval where there is none, and says why", () => {
    for (const make of [Bootstrap.percentile, Bootstrap.bca]) {
      noInterval(make(sample([4]), { seed: 1 }), 4, "one value, no interval")
      noInterval(make(sample([4, 6], ["a", "a"]), { seed: 1 }), 5, "one cluster, no interval")
      noInterval(make(sample([1, 1, 1]), { seed: 1, resamples: 50 }), 1, "all equal, no interval")
      // Means of clusters of one, two and three times 0.1 differ by rounding only.
      const tenths = sample([0.1, 0.1, 0.1, 0.1, 0.1, 0.1], ["a", "b", "b", "c", "c", "c"])
      assert.include(make(tenths, { seed: 1, resamples: 50 }).method, "all equal, no interval")
    }
  })

  it("by BCa has none where the bias correction or the acceleration does not exist", () => {
    const numbers = sample([1, 2, 3, 4, 5, 6])
    const options = { seed: 1, resamples: 200 }
    const size = (values: Float64Array) => new Set(values).size
    // No resample has more different values than the data: half of those that have as many count as below.
    const most = (values: Float64Array) => (size(values) === 6 ? 7 : total(values) / 100)
    noInterval(
      Bootstrap.bca(numbers, { ...options, resamples: 30, statistic: most }),
      7,
      "all on one side of the estimate"
    )
    // Removing any one of the values leaves the same extremes of these.
    const range = (values: Float64Array) => Math.max(...values) - Math.min(...values)
    noInterval(
      Bootstrap.bca(sample([0, 0, 5, 9, 9]), { ...options, statistic: range }),
      9,
      "jackknife gives no acceleration"
    )
  })

  it("leaves out resamples on which the statistic is not finite, and says how many", () => {
    const inverse = (values: Float64Array) => 1 / total(values)
    const estimate = Bootstrap.percentile(sample([0, 0, 1]), { seed: 1, resamples: 27_000, statistic: inverse })
    const lost = Number(/(\d+) left out where the statistic is not finite/.exec(estimate.method)?.[1])
    // All three draws are 0 with 8/27: 8000 of 27,000, with a standard deviation of 75.
    assert.closeTo(lost, 8000, 300)
    assert.isTrue(Number.isFinite(estimate.low) && Number.isFinite(estimate.high))
    // No resample has the values in their order.
    const ordered = (values: Float64Array) => (values.every((value, i) => value === i) ? 1 : Number.NaN)
    const never = Bootstrap.percentile(sample([0, 1, 2, 3, 4, 5, 6, 7]), { seed: 1, resamples: 50, statistic: ordered })
    noInterval(never, 1, "50 resamples: the statistic is not finite on 50 of them, no interval")
  })

  it("refuses a statistic that is not finite on the data, and options that make no sense", () => {
    const numbers = sample([1, 2])
    assert.throws(() => Bootstrap.percentile(numbers, { seed: 1, statistic: () => Number.NaN }), /of the data is NaN/)
    assert.throws(() => Bootstrap.bca(numbers, { seed: 0.5 }), /a seed is an integer, got 0.5/)
    assert.throws(() => Bootstrap.bca(numbers, { seed: 1, resamples: 1 }), /from 2, got 1/)
    assert.throws(() => Bootstrap.percentile(numbers, { seed: 1, confidence: 95 }), /between 0 and 1, got 95/)
  })
})

describe("several statistics of the same resamples", () => {
  const options = { seed: 4, resamples: 500 }

  it("have the intervals that they have alone", () => {
    const [ofMean, ofSd] = Bootstrap.joint(skewed, (draw) => [mean(draw), sd(Float64Array.from(draw))], options)
    close(ofMean!, boundsOf(Bootstrap.percentile(sample(skewed), options)), 1e-12)
    close(ofSd!, boundsOf(Bootstrap.percentile(sample(skewed), { ...options, statistic: sd })), 1e-12)
  })

  it("come from the same draws", () => {
    const [one, other] = Bootstrap.joint(skewed, (draw) => [mean(draw), -mean(draw)], options)
    close(other!, { value: -one!.value, low: -one!.high!, high: -one!.low! }, 1e-12)
  })

  it("leave out what is not finite one by one", () => {
    const [whole, holed] = Bootstrap.joint([0, 0, 1], (draw) => [mean(draw), 1 / mean(draw)], options)
    assert.strictEqual(whole!.method, "percentile bootstrap, 500 resamples")
    assert.match(
      holed!.method,
      /^percentile bootstrap, 500 resamples, 1\d\d left out where the statistic is not finite$/
    )
    assert.isTrue(Number.isFinite(holed!.high))
  })

  it("of one item have no intervals; of none, or not finite on the items, they are refused", () => {
    noInterval(Bootstrap.joint([3], ([only]) => [only!], options)[0]!, 3, "one value")
    assert.throws(() => Bootstrap.joint([], () => [1], options), /no items/)
    assert.throws(() => Bootstrap.joint([1, 2], () => [Number.NaN], options), /of the data is NaN/)
    let calls = 0
    assert.throws(
      () => Bootstrap.joint([1, 2], () => (calls++ === 0 ? [1, 2] : [1]), options),
      /1 statistics of a resample/
    )
  })
})

const boundsOf = ({ high, low, value }: Estimate.Estimate) => ({ value, low: low!, high: high! })

describe("two systems on the same items", () => {
  const first = [1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0]
  const second = [0, 0, 1, 0, 0, 1, 1, 1, 0, 1, 0, 0]
  const options = { seed: 9, resamples: 20_000 }

  it("differ by the bootstrap of their differences, which is narrower than that of each alone", () => {
    const { difference } = Bootstrap.paired(pair(first, second), options)
    const differences = first.map((value, i) => value - second[i]!)
    assert.deepStrictEqual(boundsOf(difference), boundsOf(Bootstrap.percentile(sample(differences), options)))
    assert.isBelow(difference.se!, Math.hypot(Estimate.mean(sample(first)).se!, Estimate.mean(sample(second)).se!))
  })

  it("count as ordered in the share of resamples that order them", () => {
    // Differences: four are 1, one is -1, seven are 0. Sum of twelve draws > 0, ties as halves, by the trinomial.
    const [up, down, rest] = [4 / 12, 1 / 12, 7 / 12]
    const factorial = (k: number): number => (k < 2 ? 1 : k * factorial(k - 1))
    let expected = 0
    for (let u = 0; u <= 12; u++) {
      for (let d = 0; u + d <= 12; d++) {
        const ways = factorial(12) / (factorial(u) * factorial(d) * factorial(12 - u - d))
        expected += (u > d ? 1 : u === d ? 0.5 : 0) * ways * up ** u * down ** d * rest ** (12 - u - d)
      }
    }
    const { firstHigher } = Bootstrap.paired(pair(first, second), options)
    // Four standard deviations of a share near 0.94 of 20,000.
    assert.closeTo(firstHigher, expected, 4 * Math.sqrt((expected * (1 - expected)) / 20_000))
    assert.closeTo(Bootstrap.paired(pair(second, first), options).firstHigher, 1 - firstHigher, 1e-12)
  })

  it("are neither higher where they are the same", () => {
    const same = Bootstrap.paired(pair(first, first), { seed: 1, resamples: 100 })
    assert.strictEqual(same.firstHigher, 0.5)
    noInterval(same.difference, 0, "all equal")
  })

  it("are drawn by clusters where they have them", () => {
    const names = first.map((_, i) => `${i >> 2}`)
    const { difference } = Bootstrap.paired(pair(first, second, names), options)
    assert.strictEqual(difference.clusters, 3)
  })
})
