import { Prompt, RewardModel, Tokenizer } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as RewardNormalization from "../src/RewardNormalization.ts"

const closeAll = (actual: ArrayLike<number>, expected: ReadonlyArray<number>, tolerance = 1e-12) => {
  assert.strictEqual(actual.length, expected.length)
  for (const [i, value] of expected.entries()) assert.closeTo(actual[i]!, value, tolerance)
}

const answers = (count: number): ReadonlyArray<RewardModel.Answer> =>
  Array.from({ length: count }, (_, i) => ({
    prompt: Prompt.make("p", [0]),
    completion: { text: String(i), tokens: Int32Array.of(i) }
  }))

// A model that gives the answers these scores by their text, and counts its calls.
const scoring = (scores: ReadonlyArray<number>) => {
  let calls = 0
  const model = RewardModel.fromBatchFunction("scripted", (answers) => {
    calls++
    return answers.map(({ completion }) => scores[Number(completion.text)]!)
  })
  return { model, calls: () => calls }
}

describe("a normalisation", () => {
  it("R5: makes demonstrations score 0 on average; their mean, .5, is subtracted", () => {
    const scores = [1.2, 0.8, -0.5]
    const { mean } = RewardNormalization.moments(scores)
    assert.closeTo(mean, 0.5, 1e-12)
    const normalization = RewardNormalization.centred({ mean })
    assert.strictEqual(normalization.gain, 1)
    assert.closeTo(normalization.bias, -0.5, 1e-12)
    closeAll(RewardNormalization.apply(normalization, scores), [0.7, 0.3, -1])
  })

  it("R5b: takes mean and standard deviation to others", () => {
    assert.deepStrictEqual(RewardNormalization.standardised({ mean: 2, std: 4 }), { gain: 0.25, bias: -0.5 })
    assert.deepStrictEqual(RewardNormalization.standardised({ mean: 2, std: 4 }, { mean: 3, std: 8 }), {
      gain: 2,
      bias: -1
    })
  })

  it("has the variance of the scores themselves, not of a population they are drawn from", () => {
    const { mean, std } = RewardNormalization.moments(Float32Array.of(1, 2, 3, 6))
    assert.deepStrictEqual([mean, std], [3, Math.sqrt(3.5)])
    assert.deepStrictEqual(RewardNormalization.moments(Array(7).fill(0.1)), { mean: 0.1, std: 0 })
    const normalization = RewardNormalization.standardised({ mean, std })
    const after = RewardNormalization.moments(RewardNormalization.apply(normalization, [1, 2, 3, 6]))
    closeAll([after.mean, after.std], [0, 1])
  })

  it("cannot turn scores round, nor stretch what has no spread", () => {
    const { model } = scoring([1])
    for (const normalization of [
      { gain: 0, bias: 0 },
      { gain: -1, bias: 0 },
      { gain: 1, bias: Number.NaN },
      { gain: Number.POSITIVE_INFINITY, bias: 0 }
    ]) {
      assert.throws(() => RewardNormalization.normalised(model, normalization), RangeError, "a gain above 0")
    }
    assert.throws(() => RewardNormalization.standardised({ mean: 1, std: 0 }), RangeError, "got 0 and 1")
    assert.throws(
      () => RewardNormalization.standardised({ mean: 1, std: 1 }, { mean: 0, std: -1 }),
      RangeError,
      "got 1 and -1"
    )
    assert.throws(() => RewardNormalization.moments([]), RangeError)
  })
})

describe("a normalised reward model", () => {
  it.effect("keeps its name and scores all answers in one call", () =>
    Effect.gen(function* () {
      const { calls, model } = scoring([1, 2, -4])
      const normalised = RewardNormalization.normalised(model, { gain: 0.5, bias: 3 })
      assert.strictEqual(normalised.name, "scripted")
      assert.deepStrictEqual(yield* normalised.score(answers(3)), Float32Array.of(3.5, 4, 1))
      assert.strictEqual(calls(), 1)
      assert.deepStrictEqual(yield* normalised.score([]), new Float32Array())
    })
  )

  it("reads the tokens that its model reads", () => {
    const { model } = scoring([])
    const tokenizer = Tokenizer.numeric(8)
    const by = { gain: 1, bias: 0 }
    assert.strictEqual(RewardNormalization.normalised({ ...model, tokenizer }, by).tokenizer, tokenizer)
    assert.notProperty(RewardNormalization.normalised(model, by), "tokenizer")
  })

  it.effect("is not fitted to a score that is none, whoever made the model", () =>
    Effect.gen(function* () {
      const model = { name: "own", score: () => Effect.succeed(Float32Array.of(1, Number.NaN)) }
      const error = yield* Effect.flip(RewardNormalization.fit(model, answers(2)))
      assert.match(error.message, /^reward model own: scored answer 1 of 2 as NaN/)
    })
  )

  it.effect("is fitted to answers: R5 by default, R5b where moments are given", () =>
    Effect.gen(function* () {
      const { model } = scoring([1.5, 0.5, -0.5])
      assert.deepStrictEqual(yield* RewardNormalization.fit(model, answers(3)), { gain: 1, bias: -0.5 })
      const wide = scoring([6, -2]).model
      assert.deepStrictEqual(yield* RewardNormalization.fit(wide, answers(2), { mean: 0, std: 1 }), {
        gain: 0.25,
        bias: -0.5
      })
      const normalised = RewardNormalization.normalised(model, yield* RewardNormalization.fit(model, answers(3)))
      assert.deepStrictEqual(yield* normalised.score(answers(3)), Float32Array.of(1, 0, -1))
    })
  )

  it.effect("says what it cannot be fitted to", () =>
    Effect.gen(function* () {
      const { model } = scoring([1.5, 1.5])
      const message = (...args: Parameters<typeof RewardNormalization.fit>) =>
        Effect.map(Effect.flip(RewardNormalization.fit(...args)), (error) => error.message)
      assert.strictEqual(
        yield* message(model, answers(2), { mean: 0, std: 1 }),
        "reward model scripted: all 2 answers score 1.5, so no gain gives them a standard deviation of 1"
      )
      assert.strictEqual(yield* message(model, []), "reward model scripted: there is no answer to normalise scores by")
      assert.deepStrictEqual(yield* RewardNormalization.fit(model, answers(2)), { gain: 1, bias: -1.5 })
      assert.match(yield* message(scoring([1, Number.NaN]).model, answers(2)), /scored answer 1 of 2 as NaN/)
    })
  )

  it.effect("names the answer whose score leaves single precision", () =>
    Effect.gen(function* () {
      const normalised = RewardNormalization.normalised(scoring([1, 1e30]).model, { gain: 1e10, bias: 0 })
      const error = yield* Effect.flip(normalised.score(answers(2)))
      assert.strictEqual(error.answer, 1)
      assert.match(error.message, /^reward model scripted: answer 1 of 2, which scored .*, is normalised to Infinity/)
    })
  )
})
