import { Ranking } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as PairwiseLoss from "../src/PairwiseLoss.ts"

const close = (actual: number, expected: number, tolerance = 5e-9) => assert.closeTo(actual, expected, tolerance)
const closeAll = (actual: ArrayLike<number>, expected: ReadonlyArray<number>, tolerance = 5e-9) => {
  assert.strictEqual(actual.length, expected.length)
  for (const [i, value] of expected.entries()) close(actual[i]!, value, tolerance)
}

// Central differences of a function of the scores.
const slopes = (f: (scores: ReadonlyArray<number>) => number, scores: ReadonlyArray<number>) =>
  scores.map((_, i) => {
    const at = (shift: number) => f(scores.map((score, j) => (i === j ? score + shift : score)))
    return (at(1e-5) - at(-1e-5)) / 2e-5
  })

const four = [2, 1, 0.5, -1]
const ranks = [1, 2, 3, 4]

describe("the loss of a prompt", () => {
  it("R2: is the mean over its pairs", () => {
    const expected = [0.31326169, 0.20141328, 0.04858735, 0.47407698, 0.12692801, 0.20141328]
    closeAll(PairwiseLoss.pairLosses(four, ranks), expected)
    close(PairwiseLoss.loss(four, ranks), 0.22761343)
  })

  it("R2b: has a gradient that adds up to 0", () => {
    const gradient = PairwiseLoss.gradient(four, ranks)
    closeAll(gradient, [-0.08313214, -0.03796703, 0.06292344, 0.05817572])
    close(
      gradient.reduce((sum, slope) => sum + slope, 0),
      0,
      1e-16
    )
  })

  it("R2c: depends on differences of scores alone", () => {
    for (const shift of [-7, 0.3, 1e3]) {
      close(
        PairwiseLoss.loss(
          four.map((score) => score + shift),
          ranks
        ),
        PairwiseLoss.loss(four, ranks),
        1e-12
      )
    }
  })

  it("R3: leaves ties out, of the sum and, unless told otherwise, of what it is divided by", () => {
    close(PairwiseLoss.loss(four, [1, 2, 2, 3]), 0.17832072)
    close(PairwiseLoss.loss(four, [1, 2, 2, 3], { denominator: "kept" }), 0.17832072)
    close(PairwiseLoss.loss(four, [1, 2, 2, 3], { denominator: "all" }), 0.1486006)
    closeAll(
      PairwiseLoss.gradient(four, [1, 2, 2, 3], { denominator: "all" }),
      Array.from(PairwiseLoss.gradient(four, [1, 2, 2, 3]), (slope) => (slope * 5) / 6),
      1e-16
    )
  })

  it("is nothing where all are tied, and must not pass for perfect", () => {
    assert.isNaN(PairwiseLoss.loss([1, 2, 3], [4, 4, 4], { centering: 1 }))
    assert.deepStrictEqual(PairwiseLoss.gradient([1, 2, 3], [4, 4, 4], { centering: 1 }), new Float64Array(3))
  })

  it("takes ranks in any order", () => {
    close(PairwiseLoss.loss([-1, 2, 0.5, 1], [90, -5, 7, 0]), 0.22761343)
    closeAll(PairwiseLoss.gradient([-1, 2, 0.5, 1], [90, -5, 7, 0]), [0.05817572, -0.08313214, 0.06292344, -0.03796703])
  })

  it("asks for the margin besides, by hand", () => {
    // differences 1, 1.5, 3, 0.5, 2, 1.5, all less by 1: -log sigmoid of 0, 0.5, 2, -0.5, 1, 0.5
    close(
      PairwiseLoss.loss(four, ranks, { margin: 1 }),
      (Math.LN2 + 0.47407698 + 0.12692801 + 0.97407698 + 0.31326169 + 0.47407698) / 6
    )
    // log(1 + e) and log(1 + e^2): answer 0 is to lead by one rank and by two
    const margin = (better: number, worse: number) => worse - better
    closeAll(PairwiseLoss.pairLosses([0, 0], [1, 2], { margin }), [Math.log(1 + Math.E)])
    closeAll(PairwiseLoss.pairLosses([0, 0], [3, 1], { margin }), [Math.log(1 + Math.E ** 2)])
    close(PairwiseLoss.loss([5, 4], [1, 2], { margin: 1 }), Math.LN2)
  })

  it("draws the scores of pairs towards 0, by hand", () => {
    // sums 3, 2.5, 1, 1.5, 0, -0.5: squares add up to 18.75
    close(PairwiseLoss.loss(four, ranks, { centering: 0.01 }), 0.22761343 + (0.01 * 18.75) / 6)
    // the tied pair (1, 0.5) is left out of this mean too
    close(PairwiseLoss.loss(four, [1, 2, 2, 3], { centering: 0.01 }), 0.17832072 + (0.01 * 16.5) / 5)
    close(PairwiseLoss.loss(four, [1, 2, 2, 3], { centering: 0.01, denominator: "all" }), 0.1486006 + (0.01 * 16.5) / 6)
  })

  it("is exact where the exponential would overflow", () => {
    assert.strictEqual(PairwiseLoss.loss([-1e4, 1e4], [1, 2]), 2e4)
    assert.strictEqual(PairwiseLoss.loss([1e4, -1e4], [1, 2]), 0)
    assert.deepStrictEqual(PairwiseLoss.gradient([-1e4, 1e4], [1, 2]), Float64Array.of(-1, 1))
    assert.deepStrictEqual(PairwiseLoss.gradient([1e4, -1e4], [1, 2]), Float64Array.of(0, 0))
    // where 1 + e^-40 is 1
    close(PairwiseLoss.loss([40, 0], [1, 2]), Math.exp(-40), 1e-33)
  })

  it("needs a score per rank", () => {
    assert.throws(() => PairwiseLoss.loss([1, 2], [1, 2, 3]), RangeError, "2 scores for 3 ranks")
    assert.throws(() => PairwiseLoss.gradient([1, 2, 3], [1, 2]), RangeError, "3 scores for 2 ranks")
  })

  const answer = Arbitrary.schema(
    Schema.Tuple([
      Schema.Finite.check(Schema.isBetween({ minimum: -4, maximum: 4 })),
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4 }))
    ])
  )
  const answers = Arbitrary.array(answer, { minLength: 2, maxLength: 9 })
  it.prop("has the slope that differences show, and does not depend on the order", [answers], ([answers]) => {
    const scores = answers.map(([score]) => score)
    const ranks = answers.map(([, rank]) => rank)
    if (Ranking.pairs(ranks).length === 0) return
    const options = { margin: 0.3, centering: 0.05, denominator: "all" } as const
    closeAll(
      PairwiseLoss.gradient(scores, ranks, options),
      slopes((scores) => PairwiseLoss.loss(scores, ranks, options), scores),
      1e-8
    )
    close(
      PairwiseLoss.loss([...scores].reverse(), [...ranks].reverse(), options),
      PairwiseLoss.loss(scores, ranks, options),
      1e-12
    )
  })
})

describe("the loss of a batch", () => {
  const batch = [
    { scores: [2, 1], ranks: [1, 2] },
    { scores: [0, 0.5, -1], ranks: [1, 2, 3] }
  ]

  it("R4: counts every prompt alike, and does not pool the pairs", () => {
    close(PairwiseLoss.loss([2, 1], [1, 2]), 0.31326169)
    close(PairwiseLoss.loss([0, 0.5, -1], [1, 2, 3]), 0.49625065)
    close(PairwiseLoss.mean(batch), 0.40475617)
    const pooled = batch.flatMap(({ ranks, scores }) => Array.from(PairwiseLoss.pairLosses(scores, ranks)))
    close(pooled.reduce((sum, loss) => sum + loss, 0) / pooled.length, 0.45050341)
  })

  it("is that of the prompts that keep a pair", () => {
    const tied = { scores: [3, -3], ranks: [1, 1] }
    close(PairwiseLoss.mean([tied, ...batch, tied]), 0.40475617)
    assert.deepStrictEqual(PairwiseLoss.meanGradients([tied, ...batch, tied]), [
      new Float64Array(2),
      ...PairwiseLoss.meanGradients(batch),
      new Float64Array(2)
    ])
    assert.isNaN(PairwiseLoss.mean([tied]))
    assert.isNaN(PairwiseLoss.mean([]))
    assert.deepStrictEqual(PairwiseLoss.meanGradients([tied]), [new Float64Array(2)])
  })

  it("has the slopes that differences show", () => {
    const gradients = PairwiseLoss.meanGradients(batch, { centering: 0.1 })
    for (const [i, { scores }] of batch.entries()) {
      const shifted = (scores: ReadonlyArray<number>) =>
        PairwiseLoss.mean(
          batch.map((prompt, j) => (i === j ? { ...prompt, scores: [...scores] } : prompt)),
          { centering: 0.1 }
        )
      closeAll(gradients[i]!, slopes(shifted, scores), 1e-9)
    }
  })
})

describe("the loss of the best of K", () => {
  it("R4b: is that of a softmax", () => {
    close(PairwiseLoss.bestOfK(four, 0), 0.4951819)
    close(PairwiseLoss.bestOfK(four, 3), 3.4951819)
  })

  it("is that of the pair where K is 2, and exact for large scores", () => {
    close(PairwiseLoss.bestOfK([0.2, 1.4], 1), PairwiseLoss.loss([0.2, 1.4], [2, 1]), 1e-15)
    assert.strictEqual(PairwiseLoss.bestOfK([-1e4, 1e4], 0), 2e4)
    assert.strictEqual(PairwiseLoss.bestOfK([-1e4, 1e4], 1), 0)
  })
})
