import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Advantage from "../src/Advantage.ts"
import * as TokenReward from "../src/TokenReward.ts"

const closeTo = (actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-8) => {
  assert.strictEqual(actual.length, expected.length)
  for (let i = 0; i < expected.length; i++) assert.closeTo(actual[i]!, expected[i]!, tolerance, `index ${i}`)
}

const mean = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0) / values.length

const number = Schema.Finite.check(Schema.isBetween({ minimum: -10, maximum: 10 }))
const numbers = Arbitrary.array(Arbitrary.schema(number), { minLength: 1, maxLength: 20 })
const pairs = Arbitrary.array(Arbitrary.schema(Schema.Tuple([number, number])), { minLength: 1, maxLength: 20 })

describe("gae", () => {
  const rewards = [0.1, -0.2, 1]
  const values = [0.5, 0.4, 0.3]

  it("R1: one answer of three tokens at gamma 1 and lambda 0.95, the defaults", () => {
    // A_2 = 1 - 0.3 = 0.7; A_1 = -0.2 + 0.3 - 0.4 + 0.95 * 0.7 = 0.365; A_0 = 0.1 + 0.4 - 0.5 + 0.95 * 0.365 = 0.34675
    const { advantages, returns } = Advantage.gae(rewards, values)
    closeTo(advantages, [0.34675, 0.365, 0.7])
    closeTo(returns, [0.84675, 0.765, 1])
  })

  it("R1b: Monte Carlo at lambda 1, one-step differences at lambda 0", () => {
    closeTo(Advantage.gae(rewards, values, { lambda: 1 }).advantages, [0.4, 0.4, 0.7])
    closeTo(Advantage.gae(rewards, values, { lambda: 0 }).advantages, [0, -0.3, 0.7])
  })

  it("R1c: discounts by gamma", () => {
    closeTo(Advantage.gae(rewards, values, { gamma: 0.9, lambda: 0.8 }).advantages, [0.08528, 0.174, 0.7])
  })

  it("R1d: takes the value after the end where one is given", () => {
    closeTo(Advantage.gae(rewards, values, { bootstrap: 0.25 }).advantages, [0.572375, 0.6025, 0.95])
  })

  it("R1e: another answer", () => {
    closeTo(Advantage.gae([-0.02, 0.01, 0.99], [0.5, 0.6, 0.8]).advantages, [0.450975, 0.3905, 0.19])
  })

  it("R20: the score on the stop token, against the score on the padding behind it", () => {
    const logprobs = Float32Array.of(-0.5, -2, -1)
    const refLogprobs = Float32Array.of(-1, -1, -1)
    const rewards = TokenReward.tokenRewards(logprobs, refLogprobs, 1, { klCoef: 0.02 })
    closeTo(Advantage.gae(rewards, [0.1, 0.2, 0.3]).advantages, [0.83575, 0.785, 0.7])
    const behind = TokenReward.tokenRewards(logprobs, refLogprobs, 0, { klCoef: 0.02 })
    closeTo(
      Advantage.gae([...behind, 1, 0], [0.1, 0.2, 0.3, 0.25, 0]).advantages,
      [0.80190625, 0.749375, 0.6625, 0.75, 0]
    )
  })

  it("is empty for an answer without tokens", () => {
    assert.deepStrictEqual(Advantage.gae([], []), { advantages: new Float64Array(0), returns: new Float64Array(0) })
  })

  it("throws on lengths that differ and on shares outside 0 to 1", () => {
    assert.throws(() => Advantage.gae([1, 2], [1]), /1 values where there should be 2/)
    assert.throws(() => Advantage.gae([1], [1], { lambda: 1.5 }), /lambda must lie between 0 and 1, got 1.5/)
    assert.throws(() => Advantage.gae([1], [1], { gamma: NaN }), /gamma/)
  })

  it.prop("returns what remains of the rewards at gamma and lambda 1, whatever the values", [pairs], ([rows]) => {
    const rewards = rows.map(([reward]) => reward)
    const remaining = rewards.map((_, t) => rewards.slice(t).reduce((a, b) => a + b, 0))
    closeTo(
      Advantage.gae(
        rewards,
        rows.map(([, value]) => value),
        { lambda: 1 }
      ).returns,
      remaining,
      1e-9
    )
  })
})

describe("whiten and scale", () => {
  const rows = [1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]

  it("R9: keeps the mean, biased variance", () => {
    const scaled = Advantage.scale(rows, { variance: "biased" })
    closeTo([...scaled.slice(0, 3), scaled[4]!, scaled[8]!], [0.05080678, 0.43810508, 0.82540339, 1.6, 3.14919322])
  })

  it("R9b: keeps the mean, unbiased variance", () => {
    const scaled = Advantage.scale(rows, { variance: "unbiased" })
    closeTo([...scaled.slice(0, 3), scaled[8]!], [0.13940661, 0.50455496, 0.86970331, 3.06059339])
    assert.deepStrictEqual(Advantage.scale(rows), scaled)
  })

  it("R9c: leaves out what the mask leaves out", () => {
    const mask = [1, 1, 1, 0]
    const whitened = (variance: Advantage.Variance) => Advantage.whiten([1, 2, 3, 99], { mask, variance })
    closeTo(whitened("biased"), [-1.22474486, 0, 1.22474486, 0])
    closeTo(whitened("unbiased"), [-1, 0, 1, 0])
  })

  it("R9d: takes no mean over padding", () => {
    const mask = [1, 1, 1, 0, 0]
    const whitened = Advantage.whiten([1, 2, 3, 0, 0], { mask, variance: "biased" })
    closeTo(whitened, [-1.22474486, 0, 1.22474486, 0, 0])
  })

  it("R9e: whitens the advantages of R1", () => {
    const { advantages } = Advantage.gae([0.1, -0.2, 1], [0.5, 0.4, 0.3])
    closeTo(Advantage.whiten(advantages, { variance: "biased" }), [-0.76255285, -0.65017124, 1.41272409])
  })

  it("makes nothing of a single value, of equal values and of none", () => {
    for (const variance of ["biased", "unbiased"] as const) {
      assert.deepStrictEqual(Advantage.whiten([5, 7], { mask: [1, 0], variance }), Float64Array.of(0, 0))
      assert.deepStrictEqual(Advantage.scale([5, 7], { mask: [1, 0], variance }), Float64Array.of(5, 0))
      assert.deepStrictEqual(Advantage.whiten([0.5, 0.5, 0.5], { variance }), Float64Array.of(0, 0, 0))
      assert.deepStrictEqual(Advantage.whiten([1, NaN], { mask: [0, 0], variance }), Float64Array.of(0, 0))
      assert.deepStrictEqual(Advantage.whitenAll([[], []], variance), [new Float64Array(0), new Float64Array(0)])
    }
  })

  it("throws on a mask of another length", () => {
    assert.throws(() => Advantage.whiten([1, 2], { mask: [1] }), /1 entries of a mask where there should be 2/)
  })

  const spread = Arbitrary.array(Arbitrary.schema(number), { minLength: 1, maxLength: 20 }).pipe(
    // so that the variance is far above the 1e-8 that is added to it
    Arbitrary.map((values) => [...values, 11, 13])
  )

  it.prop("has mean 0 and variance 1, or its own mean and variance 1", [spread], ([values]) => {
    for (const variance of ["biased", "unbiased"] as const) {
      const divisor = variance === "biased" ? values.length : values.length - 1
      const whitened = Advantage.whiten(values, { variance })
      assert.closeTo(mean(whitened), 0, 1e-9)
      assert.closeTo(whitened.reduce((sum, x) => sum + x * x, 0) / divisor, 1, 1e-6)
      const scaled = Advantage.scale(values, { variance })
      assert.closeTo(mean(scaled), mean(values), 1e-9)
      closeTo(
        scaled.map((x) => x - mean(values)),
        whitened,
        1e-9
      )
    }
  })

  it.prop("does not see padding", [spread, numbers], ([values, padding]) => {
    const mask = [...values.map(() => 1), ...padding.map(() => 0)]
    for (const f of [Advantage.whiten, Advantage.scale]) {
      assert.deepStrictEqual(f([...values, ...padding], { mask }).slice(0, values.length), f(values))
    }
  })

  it.prop("of several answers shares one mean and one variance, in their order", [spread, numbers], ([a, b]) => {
    const answers = [a, [], b]
    const cut = (all: Float64Array) => [all.slice(0, a.length), new Float64Array(0), all.slice(a.length)]
    assert.deepStrictEqual(
      Advantage.whitenAll(answers, "biased"),
      cut(Advantage.whiten([...a, ...b], { variance: "biased" }))
    )
    assert.deepStrictEqual(Advantage.scaleAll(answers), cut(Advantage.scale([...a, ...b])))
  })
})

describe("explainedVariance", () => {
  it("is 1 for a perfect critic, 0 for the mean, less for a worse one", () => {
    // variance of [1, 2, 3] is 2/3; errors of [3, 2, 1] are 2, 0, 2: 1 - (8/3) / (2/3) = -3
    assert.strictEqual(Advantage.explainedVariance([1, 2, 3], [1, 2, 3]), 1)
    assert.closeTo(Advantage.explainedVariance([2, 2, 2], [1, 2, 3]), 0, 1e-15)
    assert.closeTo(Advantage.explainedVariance([3, 2, 1], [1, 2, 3]), -3, 1e-15)
  })

  it("charges a constant error", () => {
    assert.closeTo(Advantage.explainedVariance([2, 3, 4], [1, 2, 3]), 1 - 1 / (2 / 3), 1e-15)
  })

  it("is undefined where returns do not vary", () => {
    assert.isNaN(Advantage.explainedVariance([1, 2], [3, 3]))
    assert.isNaN(Advantage.explainedVariance([1], [1]))
    assert.isNaN(Advantage.explainedVariance([], []))
  })

  it.prop("does not see padding", [pairs, numbers], ([rows, padding]) => {
    const values = [0, ...rows.map(([value]) => value)]
    const returns = [20, ...rows.map(([, target]) => target)]
    const mask = [...values.map(() => 1), ...padding.map(() => 0)]
    assert.strictEqual(
      Advantage.explainedVariance([...values, ...padding], [...returns, ...padding.map(() => NaN)], mask),
      Advantage.explainedVariance(values, returns)
    )
  })

  it("throws on lengths that differ", () => {
    assert.throws(() => Advantage.explainedVariance([1], [1, 2]), RangeError)
    assert.throws(() => Advantage.explainedVariance([1, 2], [1, 2], [1]), RangeError)
  })
})
