import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Completion from "../src/Completion.ts"
import * as Prompt from "../src/Prompt.ts"
import * as Rollout from "../src/Rollout.ts"
import * as Tensor from "../src/Tensor.ts"
import * as Tokens from "../src/Tokens.ts"

const numbers = (tensor: Tensor.Tensor<"int64">) => Array.from(tensor.data, Number)

describe("pad", () => {
  it("pads on the right", () => {
    const { mask, positions, tokens } = Tokens.pad([[5, 7, 2], [9]], { padId: 0, side: "right" })
    assert.deepStrictEqual(tokens.shape, [2, 3])
    assert.deepStrictEqual(numbers(tokens), [5, 7, 2, 9, 0, 0])
    assert.deepStrictEqual(numbers(mask), [1, 1, 1, 1, 0, 0])
    assert.deepStrictEqual(numbers(positions), [0, 1, 2, 0, 1, 1])
  })

  it("pads on the left up to a given length", () => {
    const { mask, positions, tokens } = Tokens.pad([[5, 7], [9]], { padId: 0, side: "left", length: 3 })
    assert.deepStrictEqual(numbers(tokens), [0, 5, 7, 0, 0, 9])
    assert.deepStrictEqual(numbers(mask), [0, 1, 1, 0, 0, 1])
    assert.deepStrictEqual(numbers(positions), [0, 0, 1, 0, 0, 0])
  })

  it("keeps the end-of-text token where its id is also the padding id", () => {
    const { mask, tokens } = Tokens.pad(
      [
        [5, 0],
        [9, 8, 0]
      ],
      { padId: 0, side: "right" }
    )
    assert.deepStrictEqual(numbers(tokens), [5, 0, 0, 9, 8, 0])
    assert.deepStrictEqual(numbers(mask), [1, 1, 0, 1, 1, 1])
  })

  it("throws on a row that does not fit", () => {
    assert.throws(() => Tokens.pad([[1, 2, 3]], { padId: 0, side: "right", length: 2 }), /truncate/)
  })

  const id = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 }))
  const rows = Arbitrary.array(Arbitrary.array(Arbitrary.schema(id), { maxLength: 6 }), { maxLength: 5 })

  it.prop("unpad gives the rows back, on either side and with any padding id", [rows, id], ([rows, padId]) => {
    for (const side of ["left", "right"] as const) {
      const back = Tokens.unpad(Tokens.pad(rows, { padId, side }))
      assert.deepStrictEqual(
        back.map((row) => [...row]),
        rows.map((row) => [...row])
      )
    }
  })
})

describe("positions", () => {
  it("agrees with oracle R16", () => {
    const at = (mask: ReadonlyArray<number>) => numbers(Tokens.positions(Tensor.int64(mask, [1, mask.length])))
    assert.deepStrictEqual(at([0, 0, 1, 1, 1]), [0, 0, 0, 1, 2])
    assert.deepStrictEqual(at([1, 0, 0, 1, 1, 1]), [0, 1, 1, 1, 2, 3])
  })
})

describe("Rollout", () => {
  const completion = Completion.make({
    tokens: Int32Array.of(7, 2),
    logprobs: Float32Array.of(-1, -2),
    untemperedLogprobs: Float32Array.of(-1.5, -2.5),
    text: " there",
    finishReason: "stop"
  })
  const prompt = Prompt.make("hello", [5, 6])

  it("joins prompt and completion", () => {
    assert.deepStrictEqual([...Rollout.tokens({ prompt, completion })], [5, 6, 7, 2])
  })

  it("throws where a per-token array has another length", () => {
    assert.throws(() => Rollout.make({ prompt, completion, values: Float32Array.of(1) }), /values/)
    assert.throws(() => Completion.make({ ...completion, logprobs: Float32Array.of(1) }), /logprobs/)
    assert.strictEqual(Rollout.make({ prompt, completion, values: Float32Array.of(1, 2) }).values?.length, 2)
  })
})
