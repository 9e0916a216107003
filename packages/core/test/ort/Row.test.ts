import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Result, Stream } from "effect"
import { ModelError } from "../../src/ModelError.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OnnxPolicy from "../../src/ort/OnnxPolicy.ts"
import * as OrtPolicy from "../../src/ort/OrtPolicy.ts"
import * as Row from "../../src/ort/Row.ts"
import type { PolicyShape } from "../../src/Policy.ts"
import type { SampleOptionsInput } from "../../src/Sampler.ts"
import * as TestModel from "./model.ts"

// The bytes of each id, as a byte-level tokenizer has them: 0 ends a text, 6 and 7 are the halves of one character.
const bytes = ["", "ab", "c\n", "\nd", "x", "\n", Uint8Array.of(0xf0, 0x9f), Uint8Array.of(0x98, 0x80)]

const tokenizer = {
  ...TestModel.tokenizer({ vocabSize: bytes.length }),
  decode: (ids: ArrayLike<number>) =>
    new TextDecoder().decode(Buffer.concat(Array.from(ids, (id) => Buffer.from(bytes[id]!))))
}

const limits = { name: "letters", tokenizer, vocabSize: bytes.length, contextLength: 100 }

const settled = (tokens: ReadonlyArray<number>, options: Partial<SampleOptionsInput> = {}, contextLength = 100) => {
  const read = Row.readPrompts({ ...limits, contextLength }, [TestModel.prompt([1, 4])], {
    maxNewTokens: 50,
    ...options
  })
  const { options: settings, rows } = Result.getOrThrow(read)
  const row = rows[0]!
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

describe("what is read", () => {
  it("keeps the places of prompts and continuations, and leaves out those without anything to score", () => {
    const prompts = ["d", TestModel.prompt([1, 4])]
    const { rows } = Result.getOrThrow(Row.readPrompts(limits, prompts, { maxNewTokens: 1 }))
    assert.deepStrictEqual(
      rows.map(({ index, prompt }) => [index, ...prompt]),
      [
        [0, 4],
        [1, 1, 4]
      ]
    )
    const continuations = [
      { prompt: [1], completion: [] },
      { prompt: [2, 3], completion: [4] }
    ]
    assert.deepStrictEqual(Result.getOrThrow(Row.readContinuations(limits, continuations)), [
      { index: 1, tokens: Int32Array.of(2, 3, 4), completion: [4] }
    ])
  })

  it("is never too long where the context's length is not known", () => {
    const endless = { ...limits, contextLength: Number.POSITIVE_INFINITY }
    const long = new Array<number>(100_000).fill(1)
    const { rows } = Result.getOrThrow(Row.readPrompts(endless, [TestModel.prompt(long)], { maxNewTokens: 7 }))
    assert.strictEqual(rows[0]!.limit, 7)
    const [scored] = Result.getOrThrow(Row.readContinuations(endless, [{ prompt: [1], completion: long }]))
    assert.strictEqual(scored!.tokens.length, 100_001)
  })
})

const exported = join(import.meta.dirname, "../fixtures/exported/llama")

const policies = [
  ["OrtPolicy", OrtPolicy.make(TestModel.llama())],
  ["OnnxPolicy", OnnxPolicy.load(exported)]
] as const

for (const [implementation, open] of policies) {
  it.layer(Layer.merge(NodeServices.layer, Device.layerInProcess({ provider: "cpu", threads: 1 })))(
    implementation,
    (it) => {
      const refusal = <A>(
        policy: PolicyShape,
        operation: ModelError["operation"],
        effect: Effect.Effect<A, ModelError>
      ) =>
        Effect.map(Effect.flip(effect), (error) => {
          assert.instanceOf(error, ModelError)
          assert.deepStrictEqual([error.model, error.operation], [policy.name, operation])
          assert.isTrue(error.message.startsWith(`${policy.name}: `), error.message)
          return error.message.slice(policy.name.length + 2)
        })
      const ones = (length: number) => new Array<number>(length).fill(1)

      it.effect("refuses prompts and settings that it cannot sample with", () =>
        Effect.gen(function* () {
          const policy = yield* open
          const { contextLength: C, vocabSize: V } = policy
          const refused = Effect.fnUntraced(function* (
            prompts: ReadonlyArray<ReadonlyArray<number>>,
            settings: Partial<SampleOptionsInput>,
            expected: string
          ) {
            const options = { maxNewTokens: 1, ...settings }
            const given = prompts.map(TestModel.prompt)
            assert.include(yield* refusal(policy, "sample", policy.sample(given, options)), expected)
            const streamed = Stream.runCollect(policy.stream(given, options))
            assert.include(yield* refusal(policy, "sample", streamed), expected)
          })
          yield* refused([[1], []], {}, "prompt 1 has no tokens; give at least one")
          yield* refused(
            [[1], ones(C)],
            {},
            `prompt 1 has ${C} tokens; the model's context is ${C}, so a prompt may have at most ${C - 1}: shorten it`
          )
          const known = `the model's ids are 0 to ${V - 1}: encode it with the model's tokenizer`
          yield* refused([[1, V]], {}, `prompt 0 has the token ${V}; ${known}`)
          yield* refused([[1], [-1, 1]], {}, `prompt 1 has the token -1; ${known}`)
          yield* refused([[1], [2]], { rowSeeds: [1] }, "rowSeeds has 1 seeds for 2 prompts; give one for each")
          yield* refused([[1]], { rowSeeds: [1, 2] }, "rowSeeds has 2 seeds for 1 prompts; give one for each")
          yield* refused([[1]], { topP: 1.5 }, "settings of sampling are not valid: ")
          yield* refused([[1]], { topP: 1.5 }, "topP")
        })
      )

      it.effect("refuses continuations that it cannot score", () =>
        Effect.gen(function* () {
          const policy = yield* open
          const { contextLength: C, vocabSize: V } = policy
          const refused = Effect.fnUntraced(function* (
            prompt: ReadonlyArray<number>,
            completion: ReadonlyArray<number>,
            expected: string
          ) {
            const continuations = [
              { prompt: [1], completion: [1] },
              { prompt, completion }
            ]
            assert.strictEqual(yield* refusal(policy, "logprobs", policy.logprobs(continuations)), expected)
          })
          yield* refused([], [1], "the prompt of continuation 1 has no tokens; give at least one")
          yield* refused([], [], "the prompt of continuation 1 has no tokens; give at least one")
          const long = `continuation 1 has ${C + 1} tokens; the model's context is ${C}: shorten it`
          yield* refused(ones(C - 6), ones(7), long)
          yield* refused(ones(C + 1), [], long)
          const known = `the model's ids are 0 to ${V - 1}: encode it with the model's tokenizer`
          yield* refused([1, V], [1], `the prompt of continuation 1 has the token ${V}; ${known}`)
          yield* refused([V], [], `the prompt of continuation 1 has the token ${V}; ${known}`)
          yield* refused([1], [1, -1], `the completion of continuation 1 has the token -1; ${known}`)
          yield* refused([1], [V], `the completion of continuation 1 has the token ${V}; ${known}`)
          yield* refused([1], [1.5], `the completion of continuation 1 has the token 1.5; ${known}`)
          yield* refused([Number.NaN], [1], `the prompt of continuation 1 has the token NaN; ${known}`)
        })
      )

      it.effect("takes what just fits, the first and the last id among it", () =>
        Effect.gen(function* () {
          const policy = yield* open
          const { contextLength: C, vocabSize: V } = policy
          const prompt = [0, V - 1, ...ones(C - 3)]
          const options = { maxNewTokens: 9, temperature: 0, stopTokens: [] }
          const [completion] = yield* policy.sample([TestModel.prompt(prompt)], options)
          assert.deepStrictEqual([completion!.tokens.length, completion!.finishReason], [1, "length"])
          const scored = yield* policy.logprobs([
            { prompt: [1], completion: [] },
            { prompt, completion: completion!.tokens },
            { prompt: [1], completion: [0, V - 1] }
          ])
          assert.deepStrictEqual(
            scored.map(({ length }) => length),
            [0, 1, 2]
          )
          assert.closeTo(scored[1]![0]!, completion!.untemperedLogprobs[0]!, 1e-4)
        })
      )
    }
  )
}
