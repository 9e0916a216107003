import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Logprobs from "../src/Logprobs.ts"

const closeTo = (actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-6) => {
  assert.strictEqual(actual.length, expected.length)
  for (let i = 0; i < expected.length; i++) assert.closeTo(actual[i]!, expected[i]!, tolerance, `index ${i}`)
}

const logit = Schema.Finite.check(Schema.isBetween({ minimum: -30, maximum: 30 }))
const row = Arbitrary.array(Arbitrary.schema(logit), { minLength: 2, maxLength: 40 })

describe("logSoftmax", () => {
  it("agrees with oracle R18 at temperatures 1 and 0.7", () => {
    const logits = Float32Array.of(2, 1, 0)
    closeTo(Logprobs.logSoftmax(logits, 3), [-0.40760596, -1.40760596, -2.40760596])
    closeTo(Logprobs.logSoftmax(logits, 3, 0.7), [-0.2601184, -1.68868983, -3.11726126])
  })

  it("treats each row by itself", () => {
    closeTo(Logprobs.logSoftmax(Float32Array.of(2, 1, 0, 0, 0, 0), 3).subarray(3), Array(3).fill(-Math.log(3)))
  })

  it("survives logits whose exponential overflows, and forbidden tokens", () => {
    closeTo(Logprobs.logSoftmax(Float32Array.of(1000, 999, 998), 3), [-0.40760596, -1.40760596, -2.40760596])
    const [allowed, forbidden] = Logprobs.logSoftmax(Float32Array.of(-800, -Infinity), 2)
    assert.strictEqual(allowed, 0)
    assert.strictEqual(forbidden, -Infinity)
  })

  it.prop("is a distribution", [row], ([logits]) => {
    const logprobs = Logprobs.logSoftmax(Float32Array.from(logits), logits.length)
    assert.closeTo(
      logprobs.reduce((sum, logprob) => sum + Math.exp(logprob), 0),
      1,
      1e-5
    )
  })

  it.prop("does not change when every logit moves by the same amount", [row], ([logits]) => {
    const moved = Logprobs.logSoftmax(
      Float32Array.from(logits, (x) => x + 8),
      logits.length
    )
    closeTo(moved, Logprobs.logSoftmax(Float32Array.from(logits), logits.length), 1e-5)
  })

  it("throws on a temperature of 0 and on incomplete rows", () => {
    assert.throws(() => Logprobs.logSoftmax(Float32Array.of(1, 2), 2, 0), RangeError)
    assert.throws(() => Logprobs.logSoftmax(Float32Array.of(1, 2, 3), 2), RangeError)
  })
})

describe("gather", () => {
  it.prop("picks from logSoftmax", [row, Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1 }))], ([x, t]) => {
    const logits = Float32Array.from([...x, ...x.toReversed()])
    const all = Logprobs.logSoftmax(logits, x.length, 1.5)
    closeTo(Logprobs.gather(logits, x.length, [t, x.length - 1], 1.5), [all[t]!, all[2 * x.length - 1]!], 1e-6)
  })

  it("throws on a token outside the vocabulary and on a missing row", () => {
    assert.throws(() => Logprobs.gather(Float32Array.of(1, 2), 2, [2]), /token 2/)
    assert.throws(() => Logprobs.gather(Float32Array.of(1, 2), 2, [0, 1]), RangeError)
  })
})

describe("entropy", () => {
  it("is log V when all are equal and 0 when one is certain", () => {
    closeTo(Logprobs.entropy(Float32Array.of(3, 3, 3, 0, -Infinity, -Infinity), 3), [Math.log(3), 0])
  })

  it("agrees with a biased coin", () => {
    // p = 0.9: 0.46899559 bits (oracle R21)
    const [nats] = Logprobs.entropy(Float32Array.of(Math.log(0.9), Math.log(0.1)), 2)
    assert.closeTo(nats! / Math.LN2, 0.46899559, 1e-6)
  })
})

describe("masks", () => {
  it("leave out what they mask, whatever it holds", () => {
    assert.strictEqual(Logprobs.maskedSum([1, NaN, 3], [1, 0, 1]), 4)
    assert.strictEqual(Logprobs.maskedMean([1, NaN, 3], [1, 0, 1]), 2)
  })

  it("that keep nothing have no mean", () => {
    assert.isNaN(Logprobs.maskedMean([1, 2], [0, 0]))
  })

  it("sum each row by itself", () => {
    closeTo(Logprobs.sequenceSums(Float32Array.of(1, 2, 3, 4), [1, 1, 0, 1], 2), [3, 4])
    closeTo(Logprobs.sequenceSums(Float32Array.of(1, NaN, 3, 4), [1, 0, 0, 1], 2), [1, 4])
  })

  it("of another length throw", () => {
    assert.throws(() => Logprobs.maskedSum([1, 2], [1]), RangeError)
  })

  it.prop("padding a row never changes its mean", [row, row], ([values, padding]) => {
    const mask = [...values.map(() => 1), ...padding.map(() => 0)]
    assert.strictEqual(
      Logprobs.maskedMean([...values, ...padding], mask),
      Logprobs.maskedMean(
        values,
        values.map(() => 1)
      )
    )
  })
})
