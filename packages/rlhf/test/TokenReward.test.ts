import { Kl } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import * as TokenReward from "../src/TokenReward.ts"

const closeTo = (actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-8) => {
  assert.strictEqual(actual.length, expected.length)
  for (let i = 0; i < expected.length; i++) assert.closeTo(actual[i]!, expected[i]!, tolerance, `index ${i}`)
}

const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0)

const logprobs = Float32Array.of(-1, -2, -0.5)
const refLogprobs = Float32Array.of(-1.2, -1.5, -0.5)

describe("tokenRewards", () => {
  it("R6: subtracts the divergence of each token and adds the score to the last", () => {
    const rewards = TokenReward.tokenRewards(logprobs, refLogprobs, 0.8, { klCoef: 0.02 })
    closeTo(rewards, [-0.004, 0.01, 0.8])
    assert.closeTo(Kl.sequence(logprobs, refLogprobs, "k1"), -0.3, 1e-7)
    assert.closeTo(sum(rewards), 0.806, 1e-8)
  })

  it("R7: subtracts k3 where it is asked for", () => {
    const rewards = TokenReward.tokenRewards(logprobs, refLogprobs, 0, { klCoef: 0.1, estimator: "k3" })
    closeTo(rewards, [-0.001873075, -0.014872127, 0])
    assert.closeTo(sum(rewards), -0.016745202, 1e-8)
  })

  it("puts the score on the stop token, the last one, not behind it", () => {
    // the stop token was sampled, so it is among the three; the KL rewards are those of R20
    const rewards = TokenReward.tokenRewards(Float32Array.of(-0.5, -2, -1), Float32Array.of(-1, -1, -1), 1, {
      klCoef: 0.02
    })
    closeTo(rewards, [-0.01, 0.02, 1])
  })

  it("has nothing to reward in an answer without tokens", () => {
    const none = new Float32Array(0)
    assert.deepStrictEqual(TokenReward.tokenRewards(none, none, 1, { klCoef: 0.02 }), new Float64Array(0))
  })

  it("throws where the reference scored another number of tokens", () => {
    assert.throws(() => TokenReward.tokenRewards(logprobs, Float32Array.of(-1), 1, { klCoef: 0.02 }), RangeError)
  })

  const logprob = Schema.Finite.check(Schema.isBetween({ minimum: -20, maximum: 0 }))
  const policy = Arbitrary.array(Arbitrary.schema(logprob), { minLength: 1, maxLength: 12 })
  const amount = Schema.Finite.check(Schema.isBetween({ minimum: -5, maximum: 5 }))

  it.prop("rewards only the score where policy and reference agree", [policy, amount], ([values, score]) => {
    const same = Float32Array.from(values)
    for (const estimator of ["k1", "k3"] as const) {
      const rewards = TokenReward.tokenRewards(same, same.slice(), score, { klCoef: 0.5, estimator })
      assert.deepStrictEqual(
        rewards,
        Float64Array.from(values, (_, t) => (t === values.length - 1 ? score + 0 : 0))
      )
    }
  })

  it.prop("adds up to the score less the penalty of the answer", [policy, amount], ([values, score]) => {
    const sampled = Float32Array.from(values)
    const reference = Float32Array.from(values, (value) => value / 2 - 1)
    for (const estimator of ["k1", "k3"] as const) {
      const rewards = TokenReward.tokenRewards(sampled, reference, score, { klCoef: 0.25, estimator })
      const penalty = 0.25 * sum(Kl.estimate(sampled, reference, estimator))
      assert.closeTo(sum(rewards), score - penalty, 1e-9 * (1 + Math.abs(penalty)))
    }
  })
})

const rule = (input: typeof TokenReward.ScoreRule.Encoded) => Schema.decodeUnknownSync(TokenReward.ScoreRule)(input)

const refusal = (input: unknown): string => {
  const decoded = Schema.decodeUnknownResult(TokenReward.ScoreRule)(input)
  return Result.isFailure(decoded) ? decoded.failure.message : "accepted"
}

describe("scoreOf", () => {
  it("keeps the score by default, however the answer ended", () => {
    for (const reason of ["stop", "length"] as const)
      assert.strictEqual(TokenReward.scoreOf(0.8, reason, rule({})), 0.8)
  })

  it("R17: subtracts a penalty, or replaces the score, only where the answer did not stop", () => {
    const penalty = rule({ missingEos: { _tag: "Penalty", penalty: 0.5 } })
    const replace = rule({ missingEos: { _tag: "Replace", score: -1 } })
    const of = (settings: TokenReward.ScoreRule) =>
      (["stop", "length"] as const).map((reason) => TokenReward.scoreOf(2, reason, settings))
    assert.deepStrictEqual(of(penalty), [2, 1.5])
    assert.deepStrictEqual(of(replace), [2, -1])
  })

  it("scales before it clips, and penalises after that", () => {
    const settings = { gain: 0.25, bias: -0.5, clip: [-1, 1] } as const
    const of = (score: number) => TokenReward.scoreOf(score, "stop", rule(settings))
    assert.deepStrictEqual([4, 10, -10].map(of), [0.5, 1, -1])
    const cut = rule({ ...settings, missingEos: { _tag: "Penalty", penalty: 3 } })
    assert.strictEqual(TokenReward.scoreOf(10, "length", cut), -2)
  })

  it("refuses settings that turn its sense around, and says what to do", () => {
    assert.match(refusal({ missingEos: { _tag: "Penalty", penalty: -1 } }), /subtracted.*give a number of 0 or more/)
    assert.match(refusal({ gain: -1 }), /gain must be above 0.*negate them in the reward model/)
    assert.match(refusal({ clip: [1, -1] }), /smaller number first/)
    assert.match(refusal({ missingEos: { _tag: "Ignore" } }), /Keep.*Penalty.*Replace/s)
  })
})
