import type { Learner, Loss } from "@attune/core"
import { Optimizer } from "@attune/core/onnx"
import { Device, OrtLearner, OrtPolicy, OrtScalarModel } from "@attune/core/ort"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as PpoConfig from "../src/PpoConfig.ts"
import * as PpoLearners from "../src/PpoLearners.ts"
import type * as PpoLoss from "../src/PpoLoss.ts"
import * as Golden from "./Golden.ts"

const oneThread = Device.layerInProcess({ provider: "cpu", threads: 1 })

type Settings = PpoConfig.PpoConfigInput & { readonly accumulate?: number; readonly optimizer?: Optimizer.AdamW }

// The first moment after a step is its gradient; weights do not move.
const still = Optimizer.adamW({ learningRate: 1e-30, beta1: 0 })

const opened = ({ accumulate = 1, optimizer = still, ...settings }: Settings) => ({
  config: Result.getOrThrow(
    PpoConfig.make("instructgpt", {
      episodes: 64,
      batchSize: 8,
      minibatchSize: 4,
      warmUpIterations: 0,
      ptx: null,
      ema: null,
      ...settings
    })
  ),
  learning: { accumulate, optimizer }
})

const policyLearner = Effect.fnUntraced(function* (settings: Settings) {
  const { config, learning } = opened(settings)
  const model = yield* OrtPolicy.make(Golden.model("language"))
  return yield* OrtLearner.make({ model, ...PpoLearners.policyOptions(config), ...learning })
})

const valueLearner = Effect.fnUntraced(function* (settings: Settings) {
  const { config, learning } = opened(settings)
  const model = yield* OrtScalarModel.make(Golden.model("scalar"))
  return yield* OrtLearner.make({ model, ...PpoLearners.valueOptions(config), ...learning })
})

const separate = Effect.fnUntraced(function* (settings: Settings) {
  return PpoLearners.separate(yield* policyLearner(settings), yield* valueLearner(settings))
})

const sharing = Effect.fnUntraced(function* (settings: Settings) {
  const { config, learning } = opened(settings)
  const model = yield* OrtScalarModel.makeActorCritic(Golden.model("both"))
  return PpoLearners.shared(yield* OrtLearner.make({ model, ...PpoLearners.sharedOptions(config), ...learning }))
})

const minibatch: PpoLearners.Minibatch = { episodes: Golden.episodes, pretraining: Golden.pretraining }
const plain: PpoLearners.Minibatch = { episodes: Golden.episodes, pretraining: [] }

const state = (learners: PpoLearners.PpoLearners, part: string) => learners.parts[part]!.state

const bits = ({ step, tensors }: Learner.LearnerState) => ({
  step,
  tensors: Object.entries(tensors).map(([part, byName]) => [
    part,
    [...byName].map(([name, { data }]) => [name, Buffer.from(data.buffer).toString("base64")])
  ])
})

// One micro-batch, and one for every sequence, so that answers and text are apart.
const cuts = [1, 7]

describe("a step is that of PyTorch, whatever it is cut into", () => {
  for (const name of ["policy with ptx", "policy with ptx, temperature 1"]) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const golden = Golden.cases[name]!
        for (const accumulate of cuts) {
          const learners = PpoLearners.policyOnly(yield* policyLearner({ ...golden.settings, accumulate }))
          const { policy, value } = yield* learners.update([minibatch])
          assert.deepStrictEqual([policy.length, value.length], [1, 0])
          Golden.assertReport(policy[0]!, golden)
          Golden.assertGradients(yield* state(learners, "policy"), golden.gradients)
        }
      }).pipe(Effect.scoped, Effect.provide(oneThread))
    )
  }

  it.effect("policy and value model of its own", () =>
    Effect.gen(function* () {
      const [ofPolicy, ofValue] = [Golden.cases["policy"]!, Golden.cases["value"]!]
      for (const accumulate of cuts) {
        const learners = yield* separate({ ...ofPolicy.settings, ...ofValue.settings, accumulate })
        const { policy, value } = yield* learners.update([plain])
        Golden.assertReport(policy[0]!, ofPolicy)
        Golden.assertReport(value[0]!, ofValue)
        Golden.assertGradients(yield* state(learners, "policy"), ofPolicy.gradients)
        Golden.assertGradients(yield* state(learners, "value"), ofValue.gradients)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("policy and values with a shared trunk", () =>
    Effect.gen(function* () {
      const golden = Golden.cases["shared"]!
      for (const accumulate of cuts) {
        const learners = yield* sharing({ ...golden.settings, accumulate })
        const { policy, value } = yield* learners.update([minibatch])
        Golden.assertReport(policy[0]!, golden)
        assert.strictEqual(value, policy)
        Golden.assertGradients(yield* state(learners, "policy"), golden.gradients)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

describe("a step", () => {
  const settings: Settings = { temperature: 0.75, ptx: { coef: 2, examplesPerEpisode: 8 }, valueCoef: 0.5 }

  const gradients = ({ tensors }: Learner.LearnerState) =>
    Object.fromEntries([...tensors["first"]!].map(([name, { data }]) => [name, data]))

  it.effect("with a shared trunk is that of the policy and valueCoef times that of the values", () =>
    Effect.gen(function* () {
      const own = yield* separate(settings)
      const both = yield* sharing(settings)
      const apart = yield* own.update([minibatch])
      const { policy } = yield* both.update([minibatch])
      assert.closeTo(policy[0]!["loss"]!, apart.policy[0]!["loss"]! + 0.5 * apart.value[0]!["loss"]!, 1e-5)
      const ofPolicy = gradients(yield* state(own, "policy"))
      const sums = Object.entries(gradients(yield* state(own, "value"))).map(([name, ofValue]) => [
        name,
        ofValue.map((slope, i) => (ofPolicy[name]?.[i] ?? 0) + 0.5 * slope)
      ])
      Golden.assertGradients(yield* state(both, "policy"), Object.fromEntries(sums))
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("sees no order, and no tokens after the last target", () =>
    Effect.gen(function* () {
      const learners = yield* sharing(settings)
      const once = (yield* learners.update([minibatch])).policy[0]!
      const before = gradients(yield* state(learners, "policy"))
      const other = yield* sharing(settings)
      const tail = (example: Loss.Example<Record<never, never>>): typeof example => ({
        ...example,
        tokens: Int32Array.of(...example.tokens, 3, 1, 4),
        weights: Float32Array.of(...example.weights, 0, 0, 0)
      })
      const changed = {
        episodes: minibatch.episodes.toReversed(),
        pretraining: minibatch.pretraining.map(tail).toReversed()
      }
      const again = (yield* other.update([changed])).policy[0]!
      for (const [name, value] of Object.entries(once)) {
        assert.closeTo(again[name]!, value, 2e-6 * Math.max(1, Math.abs(value)), name)
      }
      Golden.assertGradients(yield* state(other, "policy"), before, 2e-6)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("is the same, bit for bit, beside steps that pad it", () =>
    Effect.gen(function* () {
      const short = { episodes: Golden.episodes.slice(0, 2), pretraining: [] }
      const learners = yield* separate({ ptx: null })
      const alone = yield* learners.update([short])
      const padded = yield* learners.update([short, plain])
      for (const part of ["policy", "value"] as const) {
        assert.deepStrictEqual({ ...padded[part][0]! }, { ...alone[part][0]! })
        assert.strictEqual(padded[part].length, 2)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("leaves text without a target out", () =>
    Effect.gen(function* () {
      const silent = { tokens: Int32Array.of(3), weights: Float32Array.of(0), fields: {} }
      const learners = PpoLearners.policyOnly(yield* policyLearner({ ...settings, accumulate: 8 }))
      const without = yield* learners.update([minibatch])
      const withSilent = yield* learners.update([{ ...minibatch, pretraining: [silent, ...Golden.pretraining] }])
      for (const name of ["loss", "policy_loss", "ptx_loss", "ratio", "entropy", "grad_norm", "tokens"]) {
        const value = without.policy[0]![name]!
        assert.closeTo(withSilent.policy[0]![name]!, value, 2e-6 * Math.abs(value), name)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

describe("the first update", () => {
  for (const temperature of [1, 0.6]) {
    it.effect(`agrees with the sampler: ratios are 1 at temperature ${temperature}`, () =>
      Effect.gen(function* () {
        const learners = yield* separate({ temperature })
        const prompts = [[1], [2, 3, 4], [5, 6], [7, 8, 9, 10, 11]].map((tokens) => ({
          text: tokens.join(" "),
          tokens: Int32Array.from(tokens)
        }))
        const completions = yield* learners.policy.sample(prompts, { maxNewTokens: 11, temperature, seed: 3 })
        const continuations = completions.map(({ tokens }, i) => ({ prompt: prompts[i]!.tokens, completion: tokens }))
        const values = yield* learners.values(continuations)
        const episodes = completions.map(({ logprobs, tokens }, i) => ({
          tokens: Int32Array.of(...prompts[i]!.tokens, ...tokens),
          logprobs,
          values: values[i]!,
          advantages: logprobs.map((_, t) => Math.sin(t + i)),
          returns: values[i]!.map((value) => value + 0.5)
        }))
        const { policy, value } = yield* learners.update([{ episodes, pretraining: [] }])
        const advantages = episodes.flatMap((episode) => [...episode.advantages])
        const mean = advantages.reduce((sum, advantage) => sum + advantage, 0) / advantages.length
        const report = policy[0]!
        assert.isAtMost(report["max_logprob_difference"]!, 1e-5)
        assert.closeTo(report["ratio"]!, 1, 1e-5)
        assert.isAtMost(report["approxkl"]!, 1e-10)
        assert.strictEqual(report["clipfrac"], 0)
        assert.closeTo(report["policy_loss"]!, -mean, 1e-5)
        assert.closeTo(value[0]!["value_loss"]!, 0.125, 1e-5)
        assert.strictEqual(value[0]!["value_clipfrac"], 0)
        assert.strictEqual(report["tokens"], advantages.length)
      }).pipe(Effect.scoped, Effect.provide(oneThread))
    )
  }
})

describe("updates", () => {
  const quick = Optimizer.adamW({ learningRate: 3e-4 })
  // Answers that the policy gives now, so that it has moved only once it has learned.
  const fresh = Effect.fnUntraced(function* (learners: PpoLearners.PpoLearners) {
    const cut = Golden.episodes.map(({ logprobs, tokens }) => ({
      prompt: tokens.subarray(0, tokens.length - logprobs.length),
      completion: tokens.subarray(tokens.length - logprobs.length)
    }))
    const logprobs = yield* learners.policy.logprobs(cut)
    return { episodes: Golden.episodes.map((episode, i) => ({ ...episode, logprobs: logprobs[i]! })), pretraining: [] }
  })

  for (const [name, make, steps] of [
    ["a value model of its own", separate, 6],
    ["a shared trunk", sharing, undefined]
  ] as const) {
    it.effect(`end for the policy where it has moved beyond targetKl: ${name}`, () =>
      Effect.gen(function* () {
        const settings = { targetKl: 0.002, optimizer: quick, minibatchSize: 8, innerEpochs: 6 }
        const learners = yield* make(settings)
        const batch = yield* fresh(learners)
        const { policy, value } = yield* learners.update(Array.from({ length: 6 }, () => batch))
        assert.isTrue(policy.length > 1 && policy.length < 6, `${policy.length} steps`)
        assert.isTrue(policy.every((report) => report["approxkl"]! <= 0.002))
        assert.strictEqual(value.length, steps ?? policy.length)
        assert.strictEqual((yield* state(learners, "policy")).step, policy.length)
      }).pipe(Effect.scoped, Effect.provide(oneThread))
    )
  }

  it.effect("have answers to one prompt together, no more than 16, and nothing else", () =>
    Effect.gen(function* () {
      const learner = yield* policyLearner({})
      let batches: ReadonlyArray<Loss.Batch<PpoLoss.PolicyFields>> = []
      const spied: typeof learner = {
        ...learner,
        update: (given) => {
          batches = given
          return Effect.succeed([])
        }
      }
      const episode = (prompt: ReadonlyArray<number>, ...completion: ReadonlyArray<number>): PpoLearners.Episode => {
        const zeros = new Float32Array(completion.length)
        const tokens = Int32Array.of(...prompt, ...completion)
        return { tokens, logprobs: zeros, values: zeros, advantages: zeros, returns: zeros }
      }
      const episodes = [
        episode([1, 2], 3, 4),
        episode([1, 2], 5),
        // The same tokens, but another prompt.
        episode([1, 2, 5], 6),
        episode([1], 2, 3),
        ...Array.from({ length: 20 }, (_, i) => episode([7], i))
      ]
      yield* PpoLearners.policyOnly(spied).update([{ episodes, pretraining: Golden.pretraining }])
      const units = batches[0]!.map((unit) => ("tokens" in unit ? 1 : (unit as Loss.Group).length))
      assert.deepStrictEqual(units, [2, 1, 1, 16, 4, ...Golden.pretraining.map(() => 1)])
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("of a policy alone have values of 0", () =>
    Effect.gen(function* () {
      const learners = PpoLearners.policyOnly(yield* policyLearner({}))
      const values = yield* learners.values([
        { prompt: [1, 2], completion: [3, 4, 5] },
        { prompt: [1], completion: [] }
      ])
      assert.deepStrictEqual(values, [new Float32Array(3), new Float32Array(0)])
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

describe("the state of all learners", () => {
  const progressOf = (iteration: number, memory: Learner.LearnerState["memory"]) => {
    let now = { iteration, memory }
    return {
      read: () => now,
      write: (iteration: number, memory: Learner.LearnerState["memory"]) => {
        now = { iteration, memory }
      }
    }
  }

  it.effect("brings them back to where they were, bit for bit, and remembers what the caller did", () =>
    Effect.gen(function* () {
      const settings = { optimizer: Optimizer.adamW({ learningRate: 0.01 }), ema: 0.9 }
      const learners = yield* separate(settings)
      const whole = PpoLearners.resumable(learners, progressOf(3, { klCoef: 0.5 }))
      yield* learners.update([plain, plain])
      const saved = yield* whole.state
      assert.strictEqual(saved.step, 3)
      const parts = ["weights", "first", "second"]
      assert.sameMembers(Object.keys(saved.tensors), [
        ...[...parts, "ema"].map((part) => `policy.${part}`),
        ...parts.map((part) => `value.${part}`)
      ])
      yield* learners.update([plain])
      const after = [bits(yield* state(learners, "policy")), bits(yield* state(learners, "value"))]

      const progress = progressOf(5, null)
      const resumed = PpoLearners.resumable(learners, progress)
      yield* resumed.restore(saved)
      assert.deepStrictEqual(progress.read(), { iteration: 3, memory: { klCoef: 0.5 } })
      assert.deepStrictEqual(bits(yield* resumed.state), bits(saved))
      yield* learners.update([plain])
      assert.deepStrictEqual([bits(yield* state(learners, "policy")), bits(yield* state(learners, "value"))], after)
      const { value: _value, ...alone } = learners.parts
      const other = PpoLearners.resumable({ ...learners, parts: alone }, progress)
      assert.notStrictEqual(other.fingerprint, whole.fingerprint)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})
