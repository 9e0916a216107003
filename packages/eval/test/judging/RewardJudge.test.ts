import { RewardModel, Tokenizer } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Judge from "../../src/judging/Judge.ts"
import * as RewardJudge from "../../src/judging/RewardJudge.ts"

const comparisons: ReadonlyArray<Judge.Comparison> = [
  { id: "a", prompt: "1 2", first: "3", second: "4 5 6" },
  { id: "b", prompt: "7", first: "8 9", second: "1" },
  { id: "c", prompt: "2", first: "5", second: "6" }
]

describe("RewardJudge", () => {
  it.effect("prefers the higher score of the texts and ties equal ones", () =>
    Effect.gen(function* () {
      const judge = yield* Judge.Judge
      assert.strictEqual(judge.name, "length")
      assert.deepStrictEqual(yield* judge.compare(comparisons), ["second", "first", "tie"])
    }).pipe(
      Effect.provide(
        Layer.provide(
          RewardJudge.layer(),
          RewardModel.layerFunction("length", ({ completion }) => completion.text.length)
        )
      )
    )
  )

  it.effect("scores all answers in one call, each with its prompt", () =>
    Effect.gen(function* () {
      const calls: Array<ReadonlyArray<RewardModel.Answer>> = []
      const model = RewardModel.fromBatchFunction("recorder", (answers) => {
        calls.push(answers)
        return answers.map(({ completion }) => completion.text.length)
      })
      const judge = RewardJudge.make(model, { margin: 2 })
      assert.deepStrictEqual(yield* judge.compare(comparisons), ["second", "tie", "tie"])
      assert.strictEqual(calls.length, 1)
      assert.deepStrictEqual(
        calls[0]!.map(({ completion, prompt }) => [prompt.text, completion.text, prompt.tokens.length]),
        comparisons.flatMap(({ first, prompt, second }) => [
          [prompt, first, 0],
          [prompt, second, 0]
        ])
      )
    })
  )

  it.effect("gives tokens to a model that reads them, special ones before the prompt alone", () =>
    Effect.gen(function* () {
      const numeric = Tokenizer.numeric(10)
      const tokenizer = {
        encode: (text: string, options?: { readonly addSpecialTokens?: boolean }) =>
          Int32Array.from([...(options?.addSpecialTokens === false ? [] : [0]), ...numeric.encode(text)])
      }
      const seen: Array<string> = []
      const model = RewardModel.fromFunction("sum", ({ completion, prompt }) => {
        seen.push(`${prompt.tokens.join(" ")} | ${completion.tokens.join(" ")}`)
        return completion.tokens.reduce((sum, id) => sum + id, 0)
      })
      assert.deepStrictEqual(yield* RewardJudge.make(model, { tokenizer }).compare(comparisons), [
        "second",
        "first",
        "second"
      ])
      assert.deepStrictEqual(seen, ["0 1 2 | 3", "0 1 2 | 4 5 6", "0 7 | 8 9", "0 7 | 1", "0 2 | 5", "0 2 | 6"])
    })
  )

  it.effect("ends answers with the end of the text where it is asked to", () =>
    Effect.gen(function* () {
      const tokenizer = { ...Tokenizer.numeric(10), eosId: 9 }
      const seen: Array<string> = []
      const model = RewardModel.fromFunction("last", ({ completion, prompt }) => {
        seen.push(`${prompt.tokens.join(" ")} | ${completion.tokens.join(" ")}`)
        return completion.tokens.length
      })
      const judge = RewardJudge.make(model, { tokenizer, endOfText: true })
      // "8 9" ends with it already, so that it is no longer than "1".
      assert.deepStrictEqual(yield* judge.compare(comparisons), ["second", "tie", "tie"])
      assert.deepStrictEqual(seen.slice(0, 4), ["1 2 | 3 9", "1 2 | 4 5 6 9", "7 | 8 9", "7 | 1 9"])
    })
  )

  it.effect("reads a model's own tokenizer and ends of text unless told otherwise", () =>
    Effect.gen(function* () {
      const own = { ...Tokenizer.numeric(10), eosId: 9 }
      const seen: Array<string> = []
      const model = RewardModel.fromFunction(
        "last",
        ({ completion }) => {
          seen.push(completion.tokens.join(" "))
          return completion.tokens.length
        },
        { tokenizer: own }
      )
      const read = Effect.fnUntraced(function* (options?: RewardJudge.Options) {
        yield* RewardJudge.make(model, options).compare(comparisons.slice(0, 1))
        return seen.splice(0)
      })
      assert.deepStrictEqual(yield* read(), ["3 9", "4 5 6 9"])
      assert.deepStrictEqual(yield* read({ endOfText: false }), ["3", "4 5 6"])
      assert.deepStrictEqual(yield* read({ tokenizer: own }), ["3", "4 5 6"])
    })
  )

  it.effect("names the comparison whose score is not finite, and passes on why a model failed", () =>
    Effect.gen(function* () {
      const lying: RewardModel.RewardModelShape = {
        name: "lying",
        score: (answers) => Effect.succeed(Float32Array.from(answers, (_, i) => (i === 3 ? Number.NaN : i)))
      }
      assert.strictEqual(
        (yield* Effect.flip(RewardJudge.make(lying).compare(comparisons))).message,
        'judge lying, item "b": scored NaN; a score must be a finite number'
      )
      const short: RewardModel.RewardModelShape = { name: "short", score: () => Effect.succeed(new Float32Array(1)) }
      assert.strictEqual(
        (yield* Effect.flip(RewardJudge.make(short).compare(comparisons))).message,
        'judge short, item "a": gave 1 answers to 6 questions'
      )
      let asked = 0
      const failing = RewardModel.fromFunction("failing", () => (asked++ === 2 ? Number.NaN : 0))
      const error = yield* Effect.flip(RewardJudge.make(failing).compare(comparisons))
      assert.match(error.message, /^judge failing, item "b": scored answer 2 of 6 as NaN/)
      assert.instanceOf(error.cause, RewardModel.RewardModelError)
    })
  )

  it("needs a margin that is one", () => {
    assert.throws(
      () =>
        RewardJudge.make(
          RewardModel.fromFunction("x", () => 0),
          { margin: -1 }
        ),
      RangeError
    )
  })

  it("asks for the reward model in its type", () => {
    const layer: Layer.Layer<Judge.Judge, never, RewardModel.RewardModel> = RewardJudge.layer({ margin: 0.1 })
    assert.isTrue(Layer.isLayer(layer))
  })
})
