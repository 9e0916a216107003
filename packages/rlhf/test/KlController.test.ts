import { Kl } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import * as KlController from "../src/KlController.ts"

const adaptive = { _tag: "Adaptive", klCoef: 0.15, target: 6, horizon: 10_000 } as const

const refusal = (input: unknown): string => {
  const decoded = Schema.decodeUnknownResult(KlController.KlController)(input)
  return Result.isFailure(decoded) ? decoded.failure.message : "accepted"
}

describe("next", () => {
  it("R8: moves by the relative error, clipped to a fifth, in the share of the horizon that has passed", () => {
    for (const [kl, expected] of [
      [9, 0.151536],
      [3, 0.148464],
      [6.6, 0.150768],
      [6, 0.15]
    ] as const) {
      assert.closeTo(KlController.next(adaptive, kl, 512).klCoef, expected, 1e-12, `at ${kl}`)
    }
  })

  it("R8b: is shown the mean over answers of the sum over tokens", () => {
    assert.closeTo(
      KlController.observed([
        [0.1, 0.2, 0.3],
        [0.4, 0, 0.2]
      ]),
      0.6,
      1e-12
    )
    // answers of different lengths: (0.75 + 0.25) / 2, where a mean over tokens is 0.25
    assert.strictEqual(KlController.observed([[0.25, 0.25, 0.25], [0.25]]), 0.5)
  })

  it("R6: sums k1 of an answer, which may be negative", () => {
    const kl = Kl.estimate(Float32Array.of(-1, -2, -0.5), Float32Array.of(-1.2, -1.5, -0.5), "k1")
    assert.closeTo(KlController.observed([kl]), -0.3, 1e-7)
    assert.closeTo(KlController.next(adaptive, KlController.observed([kl]), 512).klCoef, 0.148464, 1e-12)
  })

  it("starts from where it is, and leaves what it was given", () => {
    const second = KlController.next(KlController.next(adaptive, 9, 512), 9, 512)
    assert.closeTo(second.klCoef, 0.15 * 1.01024 ** 2, 1e-15)
    assert.strictEqual(adaptive.klCoef, 0.15)
  })

  it("never moves when it is fixed", () => {
    const fixed = { _tag: "Fixed", klCoef: 0.02 } as const
    assert.deepStrictEqual(KlController.next(fixed, 100, 512), fixed)
  })

  it("throws on a divergence that is not finite", () => {
    assert.throws(() => KlController.next(adaptive, Number.NaN, 512), /the divergence of a batch is NaN/)
    assert.throws(() => KlController.next(adaptive, KlController.observed([]), 0), RangeError)
  })

  const divergence = Schema.Finite.check(Schema.isBetween({ minimum: -1e3, maximum: 1e6 }))
  const count = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e6 }))

  it.prop(
    "moves the coefficient the right way, by a fifth at most, however large the batch",
    [Arbitrary.schema(divergence), Arbitrary.schema(count)],
    ([kl, episodes]) => {
      const { klCoef } = KlController.next(adaptive, kl, episodes)
      assert.isAtLeast(klCoef, 0.15 * 0.8 - 1e-15)
      assert.isAtMost(klCoef, 0.15 * 1.2 + 1e-15)
      assert.isAtLeast((klCoef - 0.15) * (kl - 6), 0)
      if (episodes > 0 && Math.abs(kl - 6) > 1e-3) assert.notStrictEqual(klCoef, 0.15)
    }
  )
})

describe("KlController", () => {
  it("goes on from a checkpoint as if it had never stopped", () => {
    const codec = Schema.fromJsonString(KlController.KlController)
    let kept: KlController.KlController = adaptive
    let restored: KlController.KlController = adaptive
    for (const kl of [9, 2.7, 6.1, 40, 0.1]) {
      kept = KlController.next(kept, kl, 300)
      const text = Schema.encodeSync(codec)(KlController.next(restored, kl, 300))
      restored = Schema.decodeUnknownSync(codec)(text)
      assert.deepStrictEqual(restored, kept)
    }
    assert.notStrictEqual(kept.klCoef, adaptive.klCoef)
  })

  it("refuses coefficients that reward divergence, and says what to do", () => {
    assert.match(refusal({ _tag: "Fixed", klCoef: -0.02 }), /0 \(no penalty\) or more: .*write .*without a sign/)
    assert.match(refusal({ ...adaptive, klCoef: -0.1 }), /above 0: .*without a sign/)
    assert.match(refusal({ ...adaptive, klCoef: 0 }), /use Fixed for 0/)
    assert.match(refusal({ _tag: "Fixed", klCoef: Number.NaN }), /finite/)
    assert.strictEqual(refusal({ _tag: "Fixed", klCoef: 0 }), "accepted")
  })

  it("refuses targets and horizons that divide by zero", () => {
    assert.match(refusal({ ...adaptive, target: 0 }), /target must be above 0: it is the divergence to hold/)
    assert.match(refusal({ ...adaptive, horizon: -1 }), /horizon must be above 0: it is a number of episodes/)
  })
})
