import { readFileSync } from "node:fs"
import { join } from "node:path"
import { NextToken } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import * as Estimate from "../../src/Estimate.ts"
import * as Calibration from "../../src/statistics/Calibration.ts"

interface Expected {
  readonly predicted: ReadonlyArray<number>
  readonly observed: ReadonlyArray<number>
  readonly expectedError: number
}

// of tools/golden/calibration.py: scikit-learn and numpy
const golden: {
  readonly cases: ReadonlyArray<{
    readonly name: string
    readonly bins: number
    readonly probabilities: ReadonlyArray<number>
    readonly outcomes: ReadonlyArray<0 | 1>
    readonly brier: number
    readonly width: Expected
    readonly count: Expected
  }>
} = JSON.parse(readFileSync(join(import.meta.dirname, "Calibration.golden.json"), "utf8"))

const make = (
  probabilities: ReadonlyArray<number>,
  outcomes: ReadonlyArray<number>,
  clusters?: ReadonlyArray<string>
): ReturnType<typeof Calibration.make> =>
  Calibration.make(
    "judge",
    probabilities.map((probability, i) => ({
      id: `q${i}`,
      probability,
      outcome: outcomes[i]! as 0 | 1,
      cluster: clusters?.[i]
    }))
  )

const predictions = (...args: Parameters<typeof make>) => Result.getOrThrow(make(...args))

const closeTo = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>) => {
  assert.strictEqual(actual.length, expected.length)
  for (const [i, value] of expected.entries()) assert.closeTo(actual[i]!, value, 1e-12, `index ${i}`)
}

const few = { seed: 1, resamples: 200 }

describe("against scikit-learn", () => {
  for (const { bins, brier, name, outcomes, probabilities, ...expected } of golden.cases) {
    const made = predictions(probabilities, outcomes)
    for (const by of ["width", "count"] as const) {
      it(`${name}: bins of equal ${by} and their expected error`, () => {
        const found = Calibration.bins(made, { by, bins })
        closeTo(
          found.map(({ predicted }) => predicted),
          expected[by].predicted
        )
        closeTo(
          found.map(({ observed }) => observed.value),
          expected[by].observed
        )
        const error = Calibration.expectedError(made, { by, bins, ...few })
        assert.closeTo(error.value, expected[by].expectedError, 1e-12)
      })
    }

    it(`${name}: Brier score`, () => {
      assert.closeTo(Calibration.brierScore(made).value, brier, 1e-12)
    })
  }
})

describe("bins", () => {
  it("carry the share that came true with Wilson's interval, and leave empty ones out", () => {
    const made = predictions([0.05, 0.1, 0.7, 0.8, 0.75], [0, 1, 1, 1, 0])
    assert.deepStrictEqual(
      Calibration.bins(made, { by: "width", bins: 5 }).map(({ from, n, observed, to }) => ({ from, n, observed, to })),
      [
        { from: 0, to: 0.2, n: 2, observed: Estimate.rate(1, 2) },
        // 0.8 lies on the edge, and belongs below it
        { from: 0.6, to: 0.8, n: 3, observed: Estimate.rate(2, 3) }
      ]
    )
  })

  it("keep equal probabilities together", () => {
    const made = predictions([0, 1, 1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 0, 1, 1, 1])
    assert.deepStrictEqual(
      Calibration.bins(made, { by: "count", bins: 4 }).map(({ n }) => n),
      [4, 4]
    )
  })

  it("count clusters where predictions have them", () => {
    const made = predictions([0.6, 0.7, 0.8, 0.9], [0, 0, 1, 1], ["a", "a", "b", "b"])
    const [bin] = Calibration.bins(made, { by: "width", bins: 1 })
    assert.strictEqual(bin!.observed.clusters, 2)
    // by cluster 0 and 1: se² = 2 / 1 * 2 / 16, where independent answers would have 1 / 12
    assert.closeTo(bin!.observed.se!, 0.5, 1e-12)
    assert.deepInclude(Calibration.expectedError(made, { by: "width", bins: 1, ...few }), { n: 4, clusters: 2 })
    assert.strictEqual(Calibration.brierScore(made).clusters, 2)
  })

  const probability = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
  const pairs = Arbitrary.array(Arbitrary.schema(Schema.Tuple([probability, Schema.Literals([0, 1])])), {
    minLength: 1,
    maxLength: 40
  })

  it.prop("hold every prediction once, between their edges, and weigh up to the means of all", [pairs], ([pairs]) => {
    const made = predictions(
      pairs.map(([p]) => p),
      pairs.map(([, y]) => y)
    )
    for (const by of ["width", "count"] as const) {
      const bins = Calibration.bins(made, { by, bins: 7 })
      const sum = (f: (bin: Calibration.Bin) => number) => bins.reduce((sum, bin) => sum + f(bin), 0)
      assert.strictEqual(
        sum(({ n }) => n),
        pairs.length
      )
      const hits = pairs.filter(([, y]) => y === 1).length
      assert.closeTo(
        sum(({ n, observed }) => n * observed.value),
        hits,
        1e-9
      )
      for (const { from, predicted, to } of bins) assert.isTrue(from - 1e-12 <= predicted && predicted <= to + 1e-12)
    }
  })
})

describe("expectedError", () => {
  it("is the gap of two bins, weighted by hand", () => {
    // mean 0.2, one of four came true: gap 0.05; mean 0.9, none of one: gap 0.9
    const made = predictions([0.1, 0.1, 0.3, 0.3, 0.9], [0, 0, 0, 1, 0])
    const error = Calibration.expectedError(made, { by: "width", bins: 2, ...few })
    assert.closeTo(error.value, (4 * 0.05 + 0.9) / 5, 1e-12)
    assert.isTrue(error.low! >= 0 && error.low! <= error.value && error.value <= error.high!)
    assert.strictEqual(error.n, 5)
  })

  it("has no interval from one prediction, and says so", () => {
    const one = predictions([0.7], [1])
    const error = Calibration.expectedError(one, { by: "width", ...few })
    assert.deepInclude(error, { low: null, high: null, n: 1 })
    assert.closeTo(error.value, 0.3, 1e-12)
    assert.match(error.method, /no interval/)
    assert.match(Calibration.brierScore(one).method, /no interval/)
  })

  it("covers the error of a calibrated and of an overconfident model, where percentiles never reach 0", () => {
    const z = (u: number) => 1.5 * Estimate.normalQuantile(u)
    const [n, runs] = [300, 200]
    const draw = (confidence: number, uniform: () => number) => {
      const logit = z((Math.floor(uniform() * 2 ** 31) + 0.5) / 2 ** 31)
      return [
        Calibration.winProbability(confidence * logit),
        uniform() < Calibration.winProbability(logit) ? 1 : 0
      ] as const
    }
    const coverage = (confidence: number) => {
      // of the population: gaps between what is said and what is true, in the same ten bins
      const gaps = new Float64Array(10)
      for (let i = 0; i < 100_000; i++) {
        const logit = z((i + 0.5) / 100_000)
        const said = Calibration.winProbability(confidence * logit)
        gaps[Math.max(0, Math.ceil(said * 10) - 1)]! += (said - Calibration.winProbability(logit)) / 100_000
      }
      const truth = gaps.reduce((sum, gap) => sum + Math.abs(gap), 0)
      let [covered, percentile] = [0, 0]
      for (let run = 0; run < runs; run++) {
        const uniform = NextToken.uniforms(run)
        const drawn = Array.from({ length: n }, () => draw(confidence, uniform))
        const made = predictions(
          drawn.map(([p]) => p),
          drawn.map(([, y]) => y)
        )
        const error = Calibration.expectedError(made, { by: "width", seed: run, resamples: 200 })
        if (error.low! <= truth && truth <= error.high!) covered++
        // the lower percentile of the resamples, from which the upper bound was reflected
        if (2 * error.value - error.high! <= truth) percentile++
      }
      return { covered: covered / runs, percentile: percentile / runs }
    }
    const calibrated = coverage(1)
    assert.isAtLeast(calibrated.covered, 0.93)
    assert.strictEqual(calibrated.percentile, 0)
    assert.isAtLeast(coverage(2.5).covered, 0.92)
  })
})

describe("brierScore", () => {
  it("averages squared errors, with an interval inside [0, 1]", () => {
    const score = Calibration.brierScore(predictions([0.5, 1, 0], [1, 1, 1]))
    assert.closeTo(score.value, 1.25 / 3, 1e-12)
    assert.isTrue(score.low! >= 0 && score.high! <= 1)
  })
})

describe("winProbability", () => {
  it("is the logistic function, finite at both ends", () => {
    assert.strictEqual(Calibration.winProbability(0), 0.5)
    assert.closeTo(Calibration.winProbability(Math.log(3)), 0.75, 1e-15)
    assert.closeTo(Calibration.winProbability(-Math.log(3)), 0.25, 1e-15)
    assert.deepStrictEqual([-1000, 1000].map(Calibration.winProbability), [0, 1])
  })
})

describe("make", () => {
  const messageOf = (...args: Parameters<typeof make>) => {
    const made = make(...args)
    return Result.isFailure(made) ? made.failure.message : "made"
  }

  it("names the prediction at fault", () => {
    assert.match(messageOf([0.5, Number.NaN], [1, 1]), /"judge", item "q1": the probability is NaN/)
    assert.match(messageOf([1.2], [1]), /item "q0": the probability is 1.2/)
    assert.match(messageOf([0.5, 0.5], [1, 0.5]), /item "q1": the outcome is 0.5/)
    assert.match(messageOf([], []), /no items/)
    assert.match(messageOf([0, 1], [0, 1], ["a"]), /item "q1": the item has no cluster/)
    const twice = { id: "x", probability: 0.5, outcome: 1 } as const
    assert.match(
      Result.match(Calibration.make("j", [twice, twice]), { onFailure: String, onSuccess: () => "" }),
      /twice/
    )
  })

  it("throws where the number of bins makes no sense", () => {
    assert.throws(() => Calibration.bins(predictions([0.5], [1]), { by: "width", bins: 0 }), RangeError)
  })
})
