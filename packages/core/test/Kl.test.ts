import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Kl from "../src/Kl.ts"
import * as Logprobs from "../src/Logprobs.ts"

const closeTo = (actual: ArrayLike<number>, expected: ReadonlyArray<number>, tolerance = 1e-7) => {
  assert.strictEqual(actual.length, expected.length)
  for (const [i, value] of expected.entries()) assert.closeTo(actual[i]!, value, tolerance, `index ${i}`)
}

// oracle R6 and R7 of the specification
const logprobs = Float32Array.of(-1, -2, -0.5)
const refLogprobs = Float32Array.of(-1.2, -1.5, -0.5)

describe("estimate", () => {
  it("gives k1, k2 and k3 of three tokens, positive where the policy likes the token more", () => {
    closeTo(Kl.estimate(logprobs, refLogprobs, "k1"), [0.2, -0.5, 0])
    closeTo(Kl.estimate(logprobs, refLogprobs, "k2"), [0.02, 0.125, 0])
    closeTo(Kl.estimate(logprobs, refLogprobs, "k3"), [0.01873075, 0.14872127, 0])
  })

  it("sums over the sequence", () => {
    assert.closeTo(Kl.sequence(logprobs, refLogprobs, "k1"), -0.3, 1e-6)
    assert.closeTo(Kl.sequence(logprobs, refLogprobs, "k2"), 0.145, 1e-6)
    assert.closeTo(Kl.sequence(logprobs, refLogprobs, "k3"), 0.16745202, 1e-6)
  })

  it("gives the KL-penalised rewards of oracle R6", () => {
    const rewards = Kl.estimate(logprobs, refLogprobs, "k1").map((kl) => -0.02 * kl)
    rewards[2]! += 0.8
    closeTo(rewards, [-0.004, 0.01, 0.8])
    assert.closeTo(
      rewards.reduce((a, b) => a + b, 0),
      0.806,
      1e-6
    )
  })

  it("keeps its digits where the log-ratio is small", () => {
    // k3 = r^2 / 2 - r^3 / 6 + ...; computed as exp(-r) - 1 + r it would be 0 or noise
    assert.closeTo(Kl.estimate(Float32Array.of(1e-5), Float32Array.of(0), "k3")[0]! / 5e-11, 1, 1e-4)
  })

  it("throws on arrays of different lengths", () => {
    assert.throws(() => Kl.estimate(logprobs, Float32Array.of(0), "k1"), RangeError)
  })

  const logprob = Schema.Finite.check(Schema.isBetween({ minimum: -20, maximum: 0 }))
  const pairs = Arbitrary.array(Arbitrary.schema(Schema.Tuple([logprob, logprob])), { minLength: 1, maxLength: 16 })

  it.prop("k2 and k3 are never negative, and all are 0 where policy and reference agree", [pairs], ([rows]) => {
    const policy = Float32Array.from(rows, ([p]) => p)
    const reference = Float32Array.from(rows, ([, r]) => r)
    for (const estimator of ["k2", "k3"] as const) {
      assert.isTrue(Kl.estimate(policy, reference, estimator).every((kl) => kl >= 0))
    }
    for (const estimator of ["k1", "k2", "k3"] as const) {
      assert.isTrue(Kl.estimate(policy, policy, estimator).every((kl) => kl === 0))
    }
  })
})

describe("exact", () => {
  // oracle R7b
  const pi = [0.5, 0.3, 0.2]
  const log = (p: ReadonlyArray<number>) => Float32Array.from(p, Math.log)
  const [policy, reference] = [log(pi), log([0.4, 0.4, 0.2])]

  it("agrees with the oracle in both directions", () => {
    assert.closeTo(Kl.exact(policy, reference), 0.02526715, 1e-7)
    assert.closeTo(Kl.exact(reference, policy), 0.02581541, 1e-7)
  })

  it("is the expectation of k1 and of k3 but not of k2", () => {
    const expectation = (estimator: Kl.Estimator) =>
      Kl.estimate(policy, reference, estimator).reduce((sum, kl, v) => sum + pi[v]! * kl, 0)
    assert.closeTo(expectation("k1"), 0.02526715, 1e-7)
    assert.closeTo(expectation("k3"), 0.02526715, 1e-7)
    assert.closeTo(expectation("k2"), 0.02486241, 1e-7)
  })

  it.prop(
    "is never negative",
    [
      Arbitrary.array(Arbitrary.schema(Schema.Finite.check(Schema.isBetween({ minimum: -9, maximum: 9 }))), {
        minLength: 4,
        maxLength: 4
      })
    ],
    ([logits]) => {
      const p = Logprobs.logSoftmax(Float32Array.from(logits), 4)
      const q = Logprobs.logSoftmax(Float32Array.of(0, 1, 2, 3), 4)
      assert.isAtLeast(Kl.exact(p, q), -1e-6)
    }
  )
})
