/** Do intervals of 95 % hold what they say? Two thousand seeded runs each; the share is known to half a point. */
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import * as Estimate from "../../src/Estimate.ts"
import { difference, type Paired, type Sample } from "../../src/Sample.ts"
import * as Bootstrap from "../../src/statistics/Bootstrap.ts"
import * as Correlation from "../../src/statistics/Correlation.ts"

const runs = 2000

interface Source {
  readonly uniform: () => number
  readonly normal: () => number
  /** Sum of four exponentials: mean 4, skewness 1. */
  readonly gamma: () => number
}

const source = (seed: number): Source => {
  const generator = xoroshiro128plus(seed)
  for (let i = 0; i < 64; i++) generator.next()
  const uniform = () => ((generator.next() >>> 0) + 0.5) / 2 ** 32
  return {
    uniform,
    normal: () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
    gamma: () => -Math.log(uniform() * uniform() * uniform() * uniform())
  }
}

const ids = Array.from({ length: 500 }, (_, i) => `${i}`)

const drawn = (n: number, draw: () => number): Sample => ({
  name: "drawn",
  ids: ids.slice(0, n),
  values: Float64Array.from({ length: n }, draw)
})

/** Share of the runs whose interval holds the truth. */
const coverage = (truth: number, interval: (run: number) => Estimate.Estimate): number => {
  let inside = 0
  for (let run = 0; run < runs; run++) {
    const { high, low } = interval(run)
    if (low !== null && high !== null && low <= truth && truth <= high) inside++
  }
  return inside / runs
}

const covers = (share: number): void => {
  assert.isAtLeast(share, 0.93)
  assert.isAtMost(share, 0.97)
}

describe.each([50, 500])("with %i items, the t interval covers", (n) => {
  it("the mean of normal values", () => {
    const { normal } = source(n)
    covers(coverage(3, () => Estimate.mean(drawn(n, () => 3 + 2 * normal()))))
  })

  it("the mean of skewed values, gamma of shape 4", () => {
    const { gamma } = source(n + 1)
    covers(coverage(4, () => Estimate.mean(drawn(n, gamma))))
  })

  it("the difference of two systems that find the same items hard", () => {
    const { gamma, normal } = source(n + 2)
    const pair = (): Paired => {
      const hard = Float64Array.from({ length: n }, gamma)
      const answered = (shift: number) => hard.map((value) => value + shift + normal())
      return { names: ["a", "b"], ids: ids.slice(0, n), first: answered(0.3), second: answered(0) }
    }
    covers(coverage(0.3, () => Estimate.mean(difference(pair()))))
  })

  it("the difference of two systems that are right or wrong", () => {
    const { uniform } = source(n + 3)
    const pair = (): Paired => {
      const hard = Float64Array.from({ length: n }, uniform)
      const right = (shift: number) => hard.map((level) => (uniform() < 0.7 * level + shift ? 1 : 0))
      return { names: ["a", "b"], ids: ids.slice(0, n), first: right(0.25), second: right(0.1) }
    }
    covers(coverage(0.15, () => Estimate.mean(difference(pair()))))
  })
})

describe("a bootstrap of 500 resamples covers", () => {
  // With 100 of these skewed values both cover 93.4 %: 200 are used for the mean.
  it("the mean of skewed values, gamma of shape 4, by percentiles", () => {
    const { gamma } = source(1)
    covers(coverage(4, (seed) => Bootstrap.percentile(drawn(200, gamma), { seed, resamples: 500 })))
  })

  it("the mean of skewed values, gamma of shape 4, by BCa", () => {
    const { gamma } = source(2)
    covers(coverage(4, (seed) => Bootstrap.bca(drawn(200, gamma), { seed, resamples: 500 })))
  })

  it("the difference of two systems on the same items", () => {
    const n = 100
    const { gamma, normal } = source(3)
    const pair = (): Paired => {
      const hard = Float64Array.from({ length: n }, gamma)
      const answered = (shift: number) => hard.map((value) => value + shift + normal())
      return { names: ["a", "b"], ids: ids.slice(0, n), first: answered(0.3), second: answered(0) }
    }
    covers(coverage(0.3, (seed) => Bootstrap.paired(pair(), { seed, resamples: 500 }).difference))
  })
})

describe("where several values belong to one prompt", () => {
  // 100 prompts of 2 to 8 samples; half of the variance is between prompts.
  const sizes = Array.from({ length: 100 }, (_, c) => 2 + (c % 7))
  const clusters = sizes.flatMap((size, c) => Array.from({ length: size }, () => `${c}`))
  const clustered = ({ normal }: Source): Sample => {
    const values = sizes.flatMap((size) => {
      const level = normal()
      return Array.from({ length: size }, () => level + normal())
    })
    return { name: "drawn", ids: ids.slice(0, values.length), values: Float64Array.from(values), clusters }
  }

  it("the clustered interval covers", () => {
    const from = source(4)
    covers(coverage(0, () => Estimate.clustered(clustered(from))))
  })

  it("the naive one does not", () => {
    const from = source(4)
    assert.isBelow(
      coverage(0, () => Estimate.mean(clustered(from))),
      0.8
    )
  })

  it("the bootstrap of clusters covers, that of values does not", () => {
    const whole = source(5)
    covers(coverage(0, (seed) => Bootstrap.percentile(clustered(whole), { seed, resamples: 500 })))
    const single = source(5)
    const unclustered = ({ clusters: _, ...rest }: Sample): Sample => rest
    const naive = coverage(0, (seed) => Bootstrap.percentile(unclustered(clustered(single)), { seed, resamples: 100 }))
    assert.isBelow(naive, 0.8)
  })

  it("so does a correlation, by leaving out clusters, and not without", () => {
    // Both measures share half of the variance between prompts, and nothing within: a correlation of 1/4.
    const pair = ({ normal }: Source): Paired => {
      const rows = sizes.flatMap((size) => {
        const [both, one, other] = [normal(), normal(), normal()]
        return Array.from({ length: size }, () => [
          both + one + Math.SQRT2 * normal(),
          both + other + Math.SQRT2 * normal()
        ])
      })
      const column = (c: 0 | 1) => Float64Array.from(rows, (row) => row[c]!)
      return { names: ["a", "b"], ids: ids.slice(0, rows.length), first: column(0), second: column(1), clusters }
    }
    const from = source(6)
    covers(coverage(0.25, () => Result.getOrThrow(Correlation.pearson(pair(from)))))
    const again = source(6)
    const naive = ({ clusters: _, ...rest }: Paired): Paired => rest
    assert.isBelow(
      coverage(0.25, () => Result.getOrThrow(Correlation.pearson(naive(pair(again))))),
      0.9
    )
  })
})

describe("Fisher's z covers", () => {
  const n = 50
  const pair = ({ normal }: Source): Paired => {
    const first = Float64Array.from({ length: n }, normal)
    const second = first.map((value) => 0.6 * value + 0.8 * normal())
    return { names: ["a", "b"], ids: ids.slice(0, n), first, second }
  }

  it("the correlation of normal values", () => {
    const from = source(7)
    covers(coverage(0.6, () => Result.getOrThrow(Correlation.pearson(pair(from)))))
  })

  it("the correlation of their ranks", () => {
    const from = source(8)
    // 6 / π asin(ρ / 2) for normal values
    const truth = (6 / Math.PI) * Math.asin(0.3)
    covers(coverage(truth, () => Result.getOrThrow(Correlation.spearman(pair(from)))))
  })
})
