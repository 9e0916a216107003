import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Device from "../../src/ort/Device.ts"
import * as OrtPolicy from "../../src/ort/OrtPolicy.ts"
import { Policy, Reference } from "../../src/Policy.ts"
import { Sampler } from "../../src/Sampler.ts"
import * as Run from "../onnx/run.ts"
import * as TestModel from "./model.ts"
import * as Tiny from "./tiny.ts"

const device = Device.layerInProcess({ provider: "cpu", threads: 1 })

describe("OrtPolicy", () => {
  for (const base of [
    TestModel.llama(),
    TestModel.gpt2(),
    TestModel.pretrained(Tiny.qwen3({ max_position_embeddings: 96, num_hidden_layers: 1 }))
  ]) {
    it.effect(`scores completions of all lengths as their logits say: ${base.name}`, () =>
      Effect.gen(function* () {
        const V = base.decoder.vocabSize
        const random = Run.seeded(4)
        const ids = (length: number) => Array.from({ length }, () => random.below(V))
        const lengths = [
          [1, 1],
          [1, 95],
          [95, 1],
          [3, 0],
          [5, 9],
          [2, 31],
          [40, 2],
          [1, 0]
        ] as const
        const continuations = lengths.map(([p, c]) => ({ prompt: ids(p), completion: ids(c) }))
        const policy = yield* OrtPolicy.make(base)
        const scores = yield* policy.logprobs(continuations)
        for (const [i, { completion, prompt }] of continuations.entries()) {
          assert.strictEqual(scores[i]!.length, completion.length)
          if (completion.length === 0) continue
          const logits = yield* TestModel.logits(base, [...prompt, ...completion].slice(0, -1))
          const expected = completion.map((id, t) => {
            const row = logits.slice((prompt.length - 1 + t) * V, (prompt.length + t) * V)
            return row[id]! - Math.log(row.reduce((a, x) => a + Math.exp(x), 0))
          })
          Run.close(scores[i]!, expected, `continuation ${i}`, { absolute: 1e-5, relative: 0 })
        }
      }).pipe(Effect.scoped, Effect.provide(device))
    )
  }

  it.effect("scores at a temperature as the logits divided by it say, and as what was sampled at it says", () =>
    Effect.gen(function* () {
      const base = TestModel.gpt2()
      const V = base.decoder.vocabSize
      const policy = yield* OrtPolicy.make(base)
      const prompts = [TestModel.prompt([4, 9, 2]), TestModel.prompt([7])]
      for (const temperature of [0.7, 1, 2.5]) {
        const settings = { maxNewTokens: 9, temperature, seed: 3, stopTokens: [] }
        const sampled = yield* policy.sample(prompts, settings)
        const continuations = sampled.map(({ tokens }, i) => ({ prompt: prompts[i]!.tokens, completion: tokens }))
        const scores = yield* policy.logprobs(continuations, { temperature })
        for (const [i, { completion, prompt }] of continuations.entries()) {
          const logits = yield* TestModel.logits(base, [...prompt, ...completion].slice(0, -1))
          const expected = Array.from(completion, (id, t) => {
            const row = logits.slice((prompt.length - 1 + t) * V, (prompt.length + t) * V).map((x) => x / temperature)
            return row[id]! - Math.log(row.reduce((a, x) => a + Math.exp(x), 0))
          })
          const close = { absolute: 1e-5, relative: 0 }
          Run.close(scores[i]!, expected, `continuation ${i} at ${temperature}`, close)
          Run.close(scores[i]!, sampled[i]!.logprobs, `sampled ${i} at ${temperature}`, close)
        }
        if (temperature === 1) assert.deepStrictEqual(scores, yield* policy.logprobs(continuations))
      }
    }).pipe(Effect.scoped, Effect.provide(device))
  )

  it.effect("refuses temperatures of log-probs that are not above 0", () =>
    Effect.gen(function* () {
      const policy = yield* OrtPolicy.make(TestModel.llama())
      for (const temperature of [0, -0.7, Number.NaN, Number.POSITIVE_INFINITY]) {
        const error = yield* Effect.flip(policy.logprobs([{ prompt: [1], completion: [2] }], { temperature }))
        assert.include(error, { _tag: "ModelError", operation: "logprobs" })
        assert.include(error.message, `the temperature of log-probs must be above 0, got ${temperature}`)
      }
    }).pipe(Effect.scoped, Effect.provide(device))
  )

  it.effect("scores completions of one token, of which none is read", () =>
    Effect.gen(function* () {
      const policy = yield* OrtPolicy.make(TestModel.llama())
      const answers = [
        { prompt: [3, 1, 4], completion: [5] },
        { prompt: [3, 1, 4], completion: [6] },
        { prompt: [2], completion: [7] }
      ]
      const scores = yield* policy.logprobs(answers)
      // The same tokens with one more after them, so that the first is read.
      const longer = yield* policy.logprobs(answers.map((a) => ({ ...a, completion: [...a.completion, 9] })))
      for (const [i, score] of scores.entries()) {
        assert.strictEqual(score.length, 1)
        Run.close(score, [longer[i]![0]!], `answer ${i}`, { absolute: 1e-5, relative: 0 })
      }
    }).pipe(Effect.scoped, Effect.provide(device))
  )

  it.effect("scores completions of one prompt, which is computed once, as it scores each alone", () =>
    Effect.gen(function* () {
      const policy = yield* OrtPolicy.make(TestModel.llama())
      const random = Run.seeded(8)
      const ids = (length: number) => Array.from({ length }, () => random.below(policy.vocabSize))
      const prompts = [ids(7), ids(20), ids(1)]
      const continuations = [
        ...[9, 1, 30, 0, 2].map((length) => ({ prompt: prompts[0]!, completion: ids(length) })),
        ...[1, 1].map((length) => ({ prompt: prompts[1]!, completion: ids(length) })),
        { prompt: prompts[2]!, completion: ids(40) },
        { prompt: prompts[0]!, completion: ids(3) }
      ]
      const all = yield* policy.logprobs(continuations)
      for (const [i, continuation] of continuations.entries()) {
        const [alone] = yield* policy.logprobs([continuation])
        Run.close(all[i]!, alone!, `continuation ${i}`, { absolute: 1e-5, relative: 0 })
      }
    }).pipe(Effect.scoped, Effect.provide(device))
  )

  it.effect("scores in batches that hold no more than their share of logits", () =>
    Effect.gen(function* () {
      // 20,000 scored positions of 2,048 logits are more than one batch may hold, and 40,000 tokens more than it may
      // read
      const base = TestModel.pretrained(Tiny.llama({ vocab_size: 2048, max_position_embeddings: 96 }))
      const policy = yield* OrtPolicy.make(base)
      const random = Run.seeded(6)
      const completion = () => Array.from({ length: 50 }, () => random.below(2048))
      const continuations = Array.from({ length: 400 }, () => ({
        prompt: Array.from({ length: 46 }, () => 3),
        completion: completion()
      }))
      const all = yield* policy.logprobs(continuations)
      for (const i of [0, 199, 399]) {
        const [alone] = yield* policy.logprobs([continuations[i]!])
        Run.close(all[i]!, alone!, `continuation ${i}`)
      }
    }).pipe(Effect.scoped, Effect.provide(device))
  )

  it.effect("cuts the completions of one prompt where their logits would not fit", () =>
    Effect.gen(function* () {
      const service = yield* Device.Device
      const runs: Array<number> = []
      const recording: Device.Device["Service"] = {
        ...service,
        compile: (...args) =>
          Effect.map(service.compile(...args), (session) => ({
            ...session,
            run: (feeds, ...rest) => {
              const targets = feeds["targets"]
              if (targets !== undefined && "data" in targets) runs.push(targets.data.length)
              return session.run(feeds, ...rest)
            }
          }))
      }
      const base = TestModel.pretrained(Tiny.llama({ vocab_size: 2 ** 16, max_position_embeddings: 64 }))
      const policy = yield* OrtPolicy.make(base).pipe(Effect.provideService(Device.Device, recording))
      const random = Run.seeded(7)
      const continuations = Array.from({ length: 16 }, () => ({
        prompt: [3, 4],
        completion: Array.from({ length: 50 }, () => random.below(2 ** 16))
      }))
      const all = yield* policy.logprobs(continuations)
      assert.strictEqual(
        runs.reduce((sum, targets) => sum + targets),
        16 * 50
      )
      // 2^25 logits of 2^16 ids are 512 positions.
      assert.isAtMost(Math.max(...runs), 512)
      const [alone] = yield* policy.logprobs([continuations[15]!])
      Run.close(all[15]!, alone!, "the last continuation")
    }).pipe(Effect.scoped, Effect.provide(device))
  )

  it.effect("samples and scores with replaced weights at once, and downloads them", () =>
    Effect.gen(function* () {
      const service = yield* Device.Device
      const [base, other] = [TestModel.llama(1), TestModel.llama(2)]
      const policy = yield* OrtPolicy.make(base)
      const wanted = yield* OrtPolicy.make(other)
      const options = { maxNewTokens: 12, temperature: 0, stopTokens: [] } as const
      const prompts = [TestModel.prompt([4, 9])]
      const continuation = [{ prompt: [4, 9], completion: [1, 2, 3] }]
      const [before, target] = [yield* policy.sample(prompts, options), yield* wanted.sample(prompts, options)]
      assert.notDeepEqual(before, target)
      const stats = yield* service.stats
      const next = new Map<string, Device.DeviceTensor>()
      for (const [name, tensor] of other.weights) next.set(name, yield* service.upload(tensor))
      yield* policy.replaceParameters(next)
      assert.deepStrictEqual(yield* policy.sample(prompts, options), target)
      assert.deepStrictEqual(yield* policy.logprobs(continuation), yield* wanted.logprobs(continuation))
      assert.strictEqual((yield* service.stats).tensors, stats.tensors)
      const snapshot = yield* policy.snapshot
      assert.deepStrictEqual(snapshot, { ...base, weights: other.weights })
      // handles that stay are not released; names that are not given keep theirs
      const [name, handle] = [...next][0]!
      yield* policy.replaceParameters(new Map([[name, handle]]))
      assert.deepStrictEqual(yield* policy.sample(prompts, options), target)
    }).pipe(Effect.scoped, Effect.provide(device))
  )

  it.effect("frees its weights and graphs when its scope closes", () =>
    Effect.gen(function* () {
      const service = yield* Device.Device
      yield* Effect.scoped(
        Effect.gen(function* () {
          const policy = yield* OrtPolicy.make(TestModel.gpt2())
          yield* policy.sample(["ab"], { maxNewTokens: 3 })
          assert.isAbove((yield* service.stats).tensors, 20)
          assert.isAbove((yield* service.stats).sessions, 1)
        })
      )
      assert.deepStrictEqual(yield* service.stats, { tensors: 0, bytes: 0, sessions: 0 })
    }).pipe(Effect.provide(device))
  )

  it.effect("is the policy, the sampler, or the reference of a program", () =>
    Effect.gen(function* () {
      const [policy, sampler, reference] = [yield* Policy, yield* Sampler, yield* Reference]
      const completions = yield* sampler.sample(["ab"], { maxNewTokens: 5, seed: 3, stopTokens: [] })
      const continuation = [{ prompt: [1, 2], completion: completions[0]!.tokens }]
      const [own] = yield* policy.logprobs(continuation)
      const [other] = yield* reference.logprobs(continuation)
      Run.close(own!, completions[0]!.untemperedLogprobs, "own", { absolute: 1e-5, relative: 0 })
      assert.isAbove(Math.abs(own![0]! - other![0]!), 0.01)
    }).pipe(
      Effect.provide([OrtPolicy.layer(TestModel.llama(1)), OrtPolicy.layerReference(TestModel.llama(2))]),
      Effect.provide(device)
    )
  )

  it.effect("refuses weights that lack a tensor, and a tokenizer with more ids than the model", () =>
    Effect.gen(function* () {
      const base = TestModel.llama()
      const weights = new Map(base.weights)
      weights.delete("model.norm.weight")
      const missing = yield* Effect.flip(OrtPolicy.make({ ...base, weights }))
      assert.match(missing.message, /model\.norm\.weight/)
      const tokenizer = TestModel.tokenizer({ vocabSize: 30 })
      const mismatch = yield* Effect.flip(OrtPolicy.make({ ...base, tokenizer }))
      assert.match(mismatch.message, /30 ids.*29/)
    }).pipe(Effect.scoped, Effect.provide(device))
  )
})
