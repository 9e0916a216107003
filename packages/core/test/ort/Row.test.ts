import { assert, describe, it } from "@effect/vitest"
import * as Row from "../../src/ort/Row.ts"
import type { SampleOptionsInput } from "../../src/Sampler.ts"
import * as TestModel from "./model.ts"

// The bytes of each id, as a byte-level tokenizer has them: 0 ends a text, 6 and 7 are the halves of one character.
const bytes = ["", "ab", "c\n", "\nd", "x", "\n", Uint8Array.of(0xf0, 0x9f), Uint8Array.of(0x98, 0x80)]

const tokenizer = {
  ...TestModel.tokenizer({ vocabSize: bytes.length }),
  decode: (ids: ArrayLike<number>) =>
    new TextDecoder().decode(Buffer.concat(Array.from(ids, (id) => Buffer.from(bytes[id]!))))
}

const settled = (tokens: ReadonlyArray<number>, options: Partial<SampleOptionsInput> = {}, contextLength = 100) => {
  const settings = {
    temperature: 1,
    topK: 0,
    topP: 1,
    repetitionPenalty: 1,
    seed: 0,
    batchSize: 1,
    maxNewTokens: 50,
    stopStrings: [] as ReadonlyArray<string>,
    ...options
  }
  const row = Row.make(0, Int32Array.of(1, 4), contextLength, settings)
  row.tokens.push(...tokens)
  row.logprobs.push(...tokens.map((_, t) => -t))
  row.untempered.push(...tokens.map((_, t) => -2 * t))
  Row.settle(row, tokenizer, settings)
  return row.finished
}

const summary = (...args: Parameters<typeof settled>) => {
  const { finishReason, text, tokens } = settled(...args)!
  return [[...tokens], text, finishReason]
}

describe("a row ends", () => {
  it("before a stop string, with the tokens that say no more than its text", () => {
    const at = (tokens: ReadonlyArray<number>, stop = "\n") => summary(tokens, { stopStrings: ["never", stop] })
    assert.deepStrictEqual(at([1, 4, 5, 4]), [[1, 4], "abx", "stop"])
    // the string begins inside a token, in the first one, spans tokens
    assert.deepStrictEqual(at([1, 2, 4]), [[1], "abc", "stop"])
    assert.deepStrictEqual(at([3, 4]), [[], "", "stop"])
    assert.deepStrictEqual(at([4, 1, 4, 5], "bx"), [[4], "xa", "stop"])
    // tokens without text before the string go with it
    assert.deepStrictEqual(summary([1, 0, 5], { stopStrings: ["\n"], stopTokens: [] }), [[1], "ab", "stop"])
  })

  it("never in the middle of a character", () => {
    assert.deepStrictEqual(summary([1, 6, 7, 5], { stopStrings: ["\n"] }), [[1, 6, 7], "ab😀", "stop"])
    assert.deepStrictEqual(summary([1, 6, 7, 4], { stopStrings: ["😀"] }), [[1], "ab", "stop"])
  })

  it("after its first stop token, which is kept", () => {
    assert.deepStrictEqual(summary([1, 4, 0, 4]), [[1, 4, 0], "abx", "stop"])
    assert.deepStrictEqual(summary([1, 4, 0, 4], { stopTokens: [4, 1] }), [[1], "ab", "stop"])
    assert.deepStrictEqual(summary([1, 5, 4, 0], { stopStrings: ["\n"] }), [[1], "ab", "stop"])
    assert.deepStrictEqual(summary([1, 0, 5, 4], { stopStrings: ["\n"] }), [[1, 0], "ab", "stop"])
  })

  it("at its limit, which the context may set, and not before", () => {
    assert.deepStrictEqual(summary([1, 4, 4, 4], { maxNewTokens: 3 }), [[1, 4, 4], "abxx", "length"])
    assert.deepStrictEqual(summary([1, 4, 4, 4], {}, 4), [[1, 4], "abx", "length"])
    assert.deepStrictEqual(summary([1, 4, 0], { maxNewTokens: 3 }), [[1, 4, 0], "abx", "stop"])
    assert.deepStrictEqual(summary([1, 4, 0], { maxNewTokens: 2 }), [[1, 4], "abx", "length"])
    assert.isUndefined(settled([1, 4]))
    assert.isUndefined(settled([1, 4], { stopStrings: ["never"] }))
  })

  it("with the log-probs of the tokens that are kept", () => {
    const { logprobs, untemperedLogprobs } = settled([4, 4, 4, 5], { stopStrings: ["\n"] })!
    assert.deepStrictEqual(logprobs, Float32Array.of(-0, -1, -2))
    assert.deepStrictEqual(untemperedLogprobs, Float32Array.of(-0, -2, -4))
  })
})
