import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import type { LearnerError, LearnerState } from "../../src/Learner.ts"
import * as Loss from "../../src/Loss.ts"
import type { Decoder } from "../../src/nn/Decoder.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OrtLearner from "../../src/ort/OrtLearner.ts"
import * as Sft from "../../src/Sft.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as Tiny from "./tiny.ts"

const oneThread = Device.layerInProcess({ provider: "cpu", threads: 1 })
const twoThreads = Device.layer({ provider: "cpu", threads: 2 })

type Plain = Loss.Example<Tiny.NoFields>

type Settings = Partial<Omit<OrtLearner.Options<Tiny.NoFields, never>, "policy" | "loss">>

const optimizer = Optimizer.adamW({ learningRate: 0.01, weightDecay: 0.1, maxGradNorm: 1 })

const sft = Effect.fnUntraced(function* (decoder: Decoder, settings: Settings = {}, weights?: Tiny.Weights) {
  const policy = yield* Tiny.policy(decoder, weights)
  return yield* OrtLearner.make({ model: policy, loss: Sft.loss, optimizer, ...settings })
})

const bits = ({ step, tensors }: LearnerState) => ({
  step,
  tensors: Object.entries(tensors).map(([part, byName]) => [
    part,
    [...byName].map(([name, { data, shape }]) => [name, [...shape], Buffer.from(data.buffer).toString("base64")])
  ])
})

const sameState = (actual: LearnerState, expected: LearnerState) => assert.deepStrictEqual(bits(actual), bits(expected))

const frobenius = (a: ArrayLike<number>, b?: ArrayLike<number>) =>
  Math.hypot(...Array.from(a, (value, i) => value - (b?.[i] ?? 0)))

/** What a learner holds after `batches`. */
const trained = Effect.fnUntraced(function* (
  decoder: Decoder,
  settings: Settings,
  batches: ReadonlyArray<ReadonlyArray<Plain>>
) {
  const learner = yield* sft(decoder, settings)
  const metrics = yield* learner.update(batches)
  return { metrics, state: yield* learner.state }
}, Effect.scoped)

const decoders = { gpt2: Tiny.gpt2(), llama: Tiny.llama() }

describe("steps", () => {
  it.effect("report loss, gradient norm, rate and target tokens, and lower the loss", () =>
    Effect.gen(function* () {
      const learner = yield* sft(decoders.gpt2, {
        optimizer: Optimizer.adamW({ learningRate: (step) => 0.01 / (step + 1) })
      })
      const batch = Tiny.examples(4, 5)
      const records = yield* learner.update([batch, batch, batch])
      const targets = batch.reduce((sum, { weights }) => sum + weights.filter((weight) => weight > 0).length, 0)
      assert.deepStrictEqual(Object.keys(records[0]!), ["loss", "grad_norm", "learning_rate", "tokens"])
      assert.deepStrictEqual(
        records.map((record) => record["learning_rate"]),
        [0.01, 0.01 / 2, 0.01 / 3]
      )
      assert.deepStrictEqual(
        records.map((record) => record["tokens"]),
        [targets, targets, targets]
      )
      assert.isBelow(records[2]!["loss"]!, records[0]!["loss"]!)
      assert.strictEqual((yield* learner.state).step, 3)
      assert.deepStrictEqual(yield* learner.update([]), [])
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("see padding, order and a longer tail without targets not at all", () =>
    Effect.gen(function* () {
      const [first, second] = Tiny.examples(2, 8) as [Plain, Plain]
      const tail = {
        tokens: Int32Array.of(...first.tokens, 3, 3),
        weights: Float32Array.of(...first.weights, 0, 0),
        fields: {}
      }
      const alone = yield* trained(decoders.llama, {}, [[first, second]])
      const swapped = yield* trained(decoders.llama, {}, [[second, tail]])
      assert.closeTo(swapped.metrics[0]!["loss"]!, alone.metrics[0]!["loss"]!, 1e-6)
      assert.closeTo(swapped.metrics[0]!["grad_norm"]!, alone.metrics[0]!["grad_norm"]!, 1e-5)
    }).pipe(Effect.provide(oneThread))
  )

  for (const [name, decoder] of Object.entries(decoders)) {
    it.effect(`of four micro-batches of four are steps of one batch of sixteen: ${name}`, () =>
      Effect.gen(function* () {
        // Without clipping, the first moment after one step is the gradient.
        const adamW = Optimizer.adamW({ learningRate: 1e-3, epsilon: 1e-4 })
        const batch = [Tiny.examples(16, 7)]
        const whole = yield* trained(decoder, { optimizer: adamW }, batch)
        const parts = yield* trained(decoder, { optimizer: adamW, accumulate: 4 }, batch)
        for (const part of ["first", "weights"]) {
          for (const [parameter, { data }] of whole.state.tensors[part]!) {
            const error = frobenius(parts.state.tensors[part]!.get(parameter)!.data, data) / frobenius(data)
            assert.isAtMost(error, 1e-6, `${part} of ${parameter}`)
          }
        }
        assert.closeTo(parts.metrics[0]!["loss"]! / whole.metrics[0]!["loss"]!, 1, 1e-6)
        assert.strictEqual(parts.metrics[0]!["tokens"], whole.metrics[0]!["tokens"])
      }).pipe(Effect.provide(oneThread))
    )
  }

  it.effect("take prompts of one token and answers of one token", () =>
    Effect.gen(function* () {
      const short = Sft.example([1], [2])
      const longer = { ...Sft.example([1], [2, 3, 4]), weights: Float32Array.of(0, 1, 0, 0) }
      const one = yield* trained(decoders.gpt2, {}, [[short]])
      const padded = yield* trained(decoders.gpt2, {}, [[longer]])
      const three = yield* trained(decoders.gpt2, { accumulate: 2 }, [[short, short, short]])
      for (const name of ["loss", "grad_norm"]) {
        for (const { metrics } of [padded, three])
          assert.closeTo(metrics[0]![name]! / one.metrics[0]![name]!, 1, 1e-6, name)
      }
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("take fewer examples than micro-batches, and micro-batches without a target", () =>
    Effect.gen(function* () {
      const silent = { ...Sft.example([1, 2, 3], []), fields: { advantages: new Float32Array(), scores: 1 } }
      const batch = [...weightedBatch(7, [2, 3]), silent]
      const records = yield* Effect.forEach([1, 2, 3, 5], (accumulate) =>
        Effect.gen(function* () {
          const policy = yield* Tiny.policy(decoders.llama)
          const learner = yield* OrtLearner.make({ model: policy, loss: weighted, optimizer, accumulate })
          return (yield* learner.update([batch]))[0]!
        }).pipe(Effect.scoped)
      )
      for (const record of records) {
        for (const name of ["loss", "grad_norm", "advantage", "score", "entropy", "tokens"]) {
          assert.closeTo(record[name]! / records[0]![name]!, 1, 2e-6, name)
        }
      }
    }).pipe(Effect.provide(oneThread))
  )
})

// Large enough for ONNX Runtime to split the work over its threads.
const larger = Tiny.llama({ vocab_size: 512, hidden_size: 64, intermediate_size: 128, max_position_embeddings: 64 })
const largerBatches = Array.from({ length: 8 }, (_, i) => Tiny.examples(8, i + 1, { longest: 64, vocab: 512 }))

describe("a batch too large for the caches", () => {
  it.effect("is cut by default, takes the step of the whole, and counts each sequence once", () =>
    Effect.gen(function* () {
      const plain = Tiny.examples(40, 9, { longest: 64, vocab: 512 })
      const batch = plain.map((example, i) => weightedExample(example, (i % 7) - 2, i))
      const longest = Math.max(...batch.map(({ tokens }) => tokens.length))
      const parts = Math.ceil((batch.length * longest) / 1024)
      assert.isAbove(parts, 1)
      // A smaller epsilon would turn the last bits of a gradient near zero into a step of another sign.
      const adamW = Optimizer.adamW({ learningRate: 1e-3, epsilon: 1e-4 })
      const [whole, cut, told] = yield* Effect.forEach([1, undefined, parts], (accumulate) =>
        Effect.gen(function* () {
          const policy = yield* Tiny.policy(larger)
          const learner = yield* OrtLearner.make({ model: policy, loss: weighted, optimizer: adamW, accumulate })
          return { metrics: (yield* learner.update([batch]))[0]!, state: yield* learner.state }
        }).pipe(Effect.scoped)
      )
      sameState(cut!.state, told!.state)
      assert.notDeepEqual(bits(cut!.state), bits(whole!.state))
      for (const [parameter, { data }] of whole!.state.tensors["weights"]!) {
        const error = frobenius(cut!.state.tensors["weights"]!.get(parameter)!.data, data) / frobenius(data)
        assert.isAtMost(error, 1e-6, parameter)
      }
      assert.strictEqual(
        cut!.metrics["score"],
        batch.reduce((sum, { fields }) => sum + fields.scores ** 2, 0)
      )
      assert.strictEqual(cut!.metrics["tokens"], whole!.metrics["tokens"])
    }).pipe(Effect.provide(oneThread))
  )
})

describe("bit by bit", () => {
  it.effect("the same however many steps a run takes", () =>
    Effect.gen(function* () {
      for (const ema of [undefined, 0.9]) {
        const { metrics, state } = yield* trained(decoders.gpt2, { ema, stepsPerRun: 1 }, Tiny.batches(9, 4))
        for (const stepsPerRun of [4, 8]) {
          const other = yield* trained(decoders.gpt2, { ema, stepsPerRun }, Tiny.batches(9, 4))
          sameState(other.state, state)
          assert.deepStrictEqual(other.metrics, metrics)
        }
      }
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("the same from run to run with two threads", () =>
    Effect.gen(function* () {
      const once = yield* trained(larger, { stepsPerRun: 4 }, largerBatches)
      for (let again = 0; again < 3; again++) {
        const other = yield* trained(larger, { stepsPerRun: 4 }, largerBatches)
        sameState(other.state, once.state)
        assert.deepStrictEqual(other.metrics, once.metrics)
      }
    }).pipe(Effect.provide(twoThreads))
  )

  it.effect("the same when the state is saved and restored half-way, by another learner too", () =>
    Effect.gen(function* () {
      const settings = { ema: 0.9, accumulate: 2, stepsPerRun: 4 }
      const batches = Tiny.batches(10, 4)
      const whole = yield* trained(decoders.llama, settings, batches)

      const learner = yield* sft(decoders.llama, settings)
      yield* learner.update(batches.slice(0, 5))
      const saved = yield* learner.state
      assert.strictEqual(saved.step, 5)
      assert.deepStrictEqual(Object.keys(saved.tensors), ["weights", "first", "second", "ema"])
      yield* learner.update(batches.slice(5))
      sameState(yield* learner.state, whole.state)

      const other = yield* sft(decoders.llama, settings, Tiny.weightsOf(decoders.llama, 99))
      assert.strictEqual(other.fingerprint, learner.fingerprint)
      for (const resumed of [learner, other]) {
        yield* resumed.restore(saved)
        sameState(yield* resumed.state, saved)
        yield* resumed.update(batches.slice(5))
        sameState(yield* resumed.state, whole.state)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

// Weighs each token's log-prob with a field, and measures the sequences' scores.
const weighted = Loss.make({
  name: "weighted",
  fields: { advantages: ["N"], scores: ["B"] },
  metrics: ["advantage", "score", "entropy"],
  build: ({ entropy, fields, g, logprobs, weights }) => ({
    loss: Op.Neg(g, Loss.mean(g, Op.Mul(g, fields.advantages, logprobs()), weights)),
    metrics: {
      advantage: Loss.mean(g, fields.advantages, weights),
      score: Op.sumAll(g, Op.Mul(g, fields.scores, fields.scores)),
      entropy: Loss.mean(g, entropy(), weights)
    }
  })
})

type Weighted = Loss.Example<(typeof weighted)["fields"]>

const weightedExample = (example: Plain, score: number, seed: number): Weighted => {
  const random = Run.seeded(seed)
  const targets = example.weights.filter((weight) => weight > 0).length
  const advantages = Float32Array.from({ length: targets }, () => random.uniform(-2, 2))
  const weights = example.weights.map((weight) => weight * (1 + random.below(3)))
  return { ...example, weights, fields: { advantages, scores: score } }
}

const weightedBatch = (seed: number, scores: ReadonlyArray<number>): ReadonlyArray<Weighted> =>
  Tiny.examples(scores.length, seed).map((example, i) => weightedExample(example, scores[i]!, seed + i))

/** Log-probs `[T, V]` of one sequence: of every token of the vocabulary in every place. */
const distributions = Effect.fnUntraced(function* (decoder: Decoder, weights: Tiny.Weights, tokens: Int32Array) {
  const g = Graph.make("distributions")
  const everything = Loss.make({
    name: "everything",
    fields: {},
    metrics: [],
    maxima: [],
    build: ({ logprobs, weights }) => {
      Graph.output(g, "logprobs", Op.Identity(g, logprobs()))
      return { loss: weights, metrics: {} }
    }
  })
  const step = OrtLearner.trainStep(Tiny.language(decoder), everything, optimizer)
  for (const { dtype, name, shape } of step.batch) Graph.input(g, name, dtype, shape)
  for (const { name, shape } of step.parameters) Graph.input(g, name, "float32", shape)
  const of = (name: string) => Graph.value(g, name)
  step.forward(g, of, of)
  const pairs = Array.from({ length: tokens.length * decoder.vocabSize }, (_, i) => i)
  const outputs = yield* Run.once(g, {
    ...Object.fromEntries(weights),
    tokens: Tensor.int64(tokens, [1, tokens.length]),
    rows: Tensor.int64(pairs.map((i) => Math.floor(i / decoder.vocabSize))),
    targets: Tensor.int64(pairs.map((i) => i % decoder.vocabSize)),
    weights: Tensor.zeros([pairs.length])
  })
  const logprobs = Run.numbers(outputs["logprobs"])
  return Array.from(tokens, (_, t) => logprobs.slice(t * decoder.vocabSize, (t + 1) * decoder.vocabSize))
})

describe("a loss with fields", () => {
  it.effect("finds each token's number and each sequence's, as computed by hand", () =>
    Effect.gen(function* () {
      const decoder = decoders.llama
      const weights = Tiny.weightsOf(decoder)
      const batch = weightedBatch(40, [0.5, -1, 2, 0.25, 3])
      const total = batch.flatMap((example) => [...example.weights]).reduce((a, b) => a + b, 0)
      const expected = { loss: 0, advantage: 0, entropy: 0, score: 0 }
      for (const { fields, tokens, weights: own } of batch) {
        const table = yield* distributions(decoder, weights, tokens)
        expected.score += fields.scores ** 2
        let target = 0
        for (let t = 1; t < tokens.length; t++) {
          if (own[t] === 0) continue
          const share = own[t]! / total
          const advantage = fields.advantages[target++]!
          const row = table[t - 1]!
          expected.loss -= share * advantage * row[tokens[t]!]!
          expected.advantage += share * advantage
          expected.entropy -= share * row.reduce((sum, logprob) => sum + Math.exp(logprob) * logprob, 0)
        }
      }
      for (const accumulate of [1, 2]) {
        const policy = yield* Tiny.policy(decoder, weights)
        const learner = yield* OrtLearner.make({ model: policy, loss: weighted, optimizer, accumulate })
        const [record] = yield* learner.update([batch])
        for (const [name, value] of Object.entries(expected)) assert.closeTo(record![name]!, value, 2e-6, name)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("that control flow hides does not compile, and the operator is named", () =>
    Effect.gen(function* () {
      const hidden = Loss.make({
        ...weighted,
        fields: {},
        metrics: [],
        maxima: [],
        build: ({ g, logprobs, weights }) => {
          const loss = Loss.mean(g, logprobs(), weights)
          const branch = (name: string) => {
            const body = Graph.make(name, g)
            Graph.output(body, `${name}.out`, Op.Neg(body, loss))
            return body
          }
          const low = Op.Less(g, loss, Graph.scalar(g, 0))
          return { loss: Op.If(g, low, branch("then"), branch("else"), [loss])[0]!, metrics: {} }
        }
      })
      const policy = yield* Tiny.policy(decoders.llama)
      const error = yield* Effect.flip(OrtLearner.make({ model: policy, loss: hidden, optimizer }))
      assert.strictEqual(error._tag, "MissingGradientRule")
      assert.include(error.message, "ONNX operator If")
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

// The loss times a number that a batch brings: infinite when told so.
const scaled = Loss.make({
  name: "scaled",
  fields: { scale: ["B"] },
  metrics: [],
  build: ({ fields, g, logprobs, weights }) => ({
    loss: Op.Mul(g, Op.ReduceMax(g, fields.scale, [0], false), Op.Neg(g, Loss.mean(g, logprobs(), weights))),
    metrics: {}
  })
})

const scaledBatches = (steps: number, bad: number, value: number) =>
  Tiny.batches(steps, 3).map((batch, i) =>
    batch.map((example) => ({ ...example, fields: { scale: i === bad ? value : 1 } }))
  )

const openScaled = Effect.fnUntraced(function* (settings: Settings = {}) {
  const policy = yield* Tiny.policy(decoders.gpt2)
  return yield* OrtLearner.make({ model: policy, loss: scaled, optimizer, stepsPerRun: 4, ...settings })
})

describe("a step that is not finite", () => {
  for (const [value, accumulate] of [
    [Number.NaN, 1],
    [Infinity, 1],
    [1e38, 1],
    [Number.NaN, 2]
  ] as const) {
    it.effect(
      `stops before the parameters change, and the learner goes on: ${value}, ${accumulate} micro-batches`,
      () =>
        Effect.gen(function* () {
          const learner = yield* openScaled({ accumulate })
          const error = yield* Effect.flip(learner.update(scaledBatches(8, 6, value)))
          assert.strictEqual(error._tag, "LearnerError")
          assert.strictEqual(error.reason, "finite")
          assert.strictEqual(error.step, 6)
          assert.include(error.message, "step 7")

          const good = scaledBatches(8, -1, 1)
          const other = yield* openScaled({ accumulate })
          assert.deepStrictEqual(error.completed, yield* other.update(good.slice(0, 6)))
          const before = yield* other.state
          assert.strictEqual(before.step, 6)
          sameState(yield* learner.state, before)

          yield* learner.update(good.slice(6))
          yield* other.update(good.slice(6))
          sameState(yield* learner.state, yield* other.state)
        }).pipe(Effect.scoped, Effect.provide(oneThread))
    )
  }

  it.effect("can be taken again with a lower rate from the state that was kept", () =>
    Effect.gen(function* () {
      const steep = yield* openScaled({ optimizer: Optimizer.adamW({ learningRate: 1e30 }) })
      const batches = scaledBatches(4, -1, 1)
      const error = yield* Effect.flip(steep.update(batches))
      assert.strictEqual(error.reason, "finite")
      const kept = yield* steep.state
      assert.strictEqual(kept.step, error.step)
      const gentle = yield* openScaled()
      assert.strictEqual(gentle.fingerprint, steep.fingerprint)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

describe("a step that AdamW cannot take", () => {
  for (const settings of [
    { learningRate: Number.NaN },
    { learningRate: (step: number) => (step === 5 ? Infinity : 1e-3) },
    { learningRate: 1e-3, weightDecay: Number.NaN },
    { learningRate: 1e-3, epsilon: Number.NaN },
    { learningRate: 1e-3, beta1: 1 },
    { learningRate: 1e-3, beta2: 1 }
  ]) {
    it.effect(`is refused, with the parameters untouched: ${Object.entries(settings).join("; ")}`, () =>
      Effect.gen(function* () {
        const learner = yield* openScaled({
          optimizer: Optimizer.adamW({ ...settings, weightDecay: 0.1, ...settings })
        })
        const before = yield* learner.state
        const error = yield* Effect.flip(learner.update(scaledBatches(8, -1, 1)))
        const at = typeof settings.learningRate === "function" ? 5 : 0
        assert.strictEqual(error.reason, "input")
        assert.strictEqual(error.step, at)
        assert.match(error.message, new RegExp(`^step ${at + 1}: AdamW cannot .*learningRate .* finite`))
        sameState(yield* learner.state, before)
      }).pipe(Effect.scoped, Effect.provide(oneThread))
    )
  }
})

describe("is refused before anything is compiled", () => {
  const cases: ReadonlyArray<readonly [Settings, RegExp]> = [
    [{ accumulate: 0 }, /^accumulate is 0; give a whole number from 1$/],
    [{ accumulate: 1.5 }, /^accumulate is 1.5;/],
    [{ stepsPerRun: 0 }, /^stepsPerRun is 0; give a whole number from 1$/],
    [{ stepsPerRun: Number.NaN }, /^stepsPerRun is NaN;/],
    [{ ema: 1 }, /^ema is 1; give a decay from 0 to below 1$/],
    [{ ema: Number.NaN }, /^ema is NaN;/],
    [{ trains: () => false }, /^nothing is trained: `trains` refuses every parameter/]
  ]
  for (const [settings, message] of cases) {
    const [option, value] = Object.entries(settings)[0]!
    it.effect(`${option}: ${value}`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(sft(decoders.llama, settings))
        assert.strictEqual(error._tag, "LearnerError")
        assert.strictEqual((error as LearnerError).reason, "input")
        assert.match(error.message, message)
        assert.strictEqual((yield* (yield* Device.Device).stats).sessions, 0)
      }).pipe(Effect.scoped, Effect.provide(oneThread))
    )
  }
})

describe("refuses, naming step and example", () => {
  const good = Tiny.examples(1, 3)[0]!
  const long = Int32Array.from({ length: Tiny.contextLength + 2 }, () => 1)
  const given = (example: Partial<Plain>): Plain => ({ ...good, ...example })
  const cases: ReadonlyArray<readonly [string, ReadonlyArray<Plain>, RegExp]> = [
    ["a batch without targets", [Sft.example([1, 2], [])], /^step 4 has no target token/],
    ["an empty batch", [], /^step 4 has no target token/],
    ["a sequence longer than the context", [good, Sft.example([], long)], /^step 4, example 1 has 18 tokens.*16/],
    ["a token outside the vocabulary", [good, Sft.example([1], [29])], /^step 4, example 1 has the token 29.*29/],
    ["a negative token", [good, Sft.example([1], [-1])], /^step 4, example 1 has the token -1/],
    ["weights of another length", [given({ weights: Float32Array.of(0, 1) }), good], /^step 4, example 0 .* 2 weights/],
    [
      "a weight on the first token",
      [good, given({ weights: good.weights.map(() => 1) })],
      /^step 4, example 1 .*first/
    ],
    ["a negative weight", [given({ weights: good.weights.map((w) => -w) })], /^step 4, example 0 .*negative/],
    ["a weight that is no number", [given({ weights: good.weights.map((w) => w / 0) })], /^step 4, example 0 .*/]
  ]

  for (const [name, batch, message] of cases) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const learner = yield* sft(decoders.llama, { stepsPerRun: 1 })
        yield* learner.update(Tiny.batches(2, 2))
        const before = yield* learner.state
        const error: LearnerError = yield* Effect.flip(learner.update([[good], batch]))
        assert.strictEqual(error.reason, "input")
        assert.strictEqual(error.step, 3)
        assert.match(error.message, message)
        // Nothing was learned from the batches before the bad one either.
        sameState(yield* learner.state, before)
      }).pipe(Effect.scoped, Effect.provide(oneThread))
    )
  }

  it.effect("fields that are missing or of the wrong length", () =>
    Effect.gen(function* () {
      const policy = yield* Tiny.policy(decoders.llama)
      const learner = yield* OrtLearner.make({ model: policy, loss: weighted, optimizer })
      const [example] = weightedBatch(3, [1]) as [Weighted]
      const { advantages, scores } = example.fields
      const cases = [
        [{ advantages: advantages.subarray(1), scores }, /field advantages must be a Float32Array of that length/],
        [{ advantages: [...advantages], scores }, /field advantages/],
        [{ advantages }, /number for the field scores/],
        [{ advantages, scores: Float32Array.of(1) }, /number for the field scores/]
      ] as const
      for (const [fields, message] of cases) {
        const error = yield* Effect.flip(
          learner.update([[example, { ...example, fields: fields as unknown as Weighted["fields"] }]])
        )
        assert.strictEqual(error.reason, "input")
        assert.match(error.message, /^step 1, example 1 /)
        assert.match(error.message, message)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("a state of another model, before anything is replaced", () =>
    Effect.gen(function* () {
      const learner = yield* sft(decoders.llama)
      yield* learner.update(Tiny.batches(1, 2))
      const own = yield* learner.state
      const foreign = yield* Effect.flatMap(sft(Tiny.llama({ hidden_size: 12 })), ({ state }) => state)
      const weights = new Map(own.tensors["weights"]!)
      weights.delete("model.norm.weight")
      const cases = [foreign, { ...own, tensors: { ...own.tensors, weights } }, { ...own, tensors: { weights } }]
      for (const state of cases) {
        const error = yield* Effect.flip(learner.restore(state))
        assert.strictEqual(error.reason, "input")
        assert.match(error.message, /^the state has no (weights|first) of shape \[.*\] for /)
        sameState(yield* learner.state, own)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("a state that does not all come to the device: what was there stays as it was", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      let left = Number.POSITIVE_INFINITY
      const upload: typeof device.upload = (tensor) =>
        left-- > 0
          ? device.upload(tensor)
          : Effect.fail(new Device.OrtError({ operation: "upload", graph: "", message: "no memory left" }))
      const learner = yield* sft(decoders.llama).pipe(Effect.provideService(Device.Device, { ...device, upload }))
      const saved = yield* learner.state
      yield* learner.update(Tiny.batches(1, 2))
      const own = yield* learner.state
      const { tensors } = yield* device.stats
      const parameters = decoders.llama.parameters.length
      for (const count of [0, 1, parameters, 2 * parameters]) {
        left = count
        const error = yield* Effect.flip(learner.restore(saved))
        assert.strictEqual(error.reason, "runtime")
        assert.strictEqual((yield* device.stats).tensors, tensors)
        sameState(yield* learner.state, own)
      }
      left = Number.POSITIVE_INFINITY
      yield* learner.restore(saved)
      sameState(yield* learner.state, saved)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

describe("parameters", () => {
  for (const name of ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"]) {
    it.effect(`that alone are trained learn the same in micro-batches: ${name}`, () =>
      Effect.gen(function* () {
        // A smaller epsilon would turn the last bits of a gradient near zero into a step of another sign.
        const adamW = Optimizer.adamW({ learningRate: 1e-3, epsilon: 1e-4 })
        const trains = (parameter: string) => parameter === name
        const start = Tiny.weightsOf(larger).get(name)!.data
        const [whole, parts] = yield* Effect.forEach([1, 2], (accumulate) =>
          trained(larger, { optimizer: adamW, trains, accumulate }, largerBatches)
        )
        const weight = ({ tensors }: LearnerState) => tensors["weights"]!.get(name)!.data
        const moved = frobenius(weight(whole!.state), start)
        assert.isAbove(moved / frobenius(start), 1e-3)
        assert.isAtMost(frobenius(weight(parts!.state), weight(whole!.state)) / moved, 1e-5)
        for (const [i, { loss }] of parts!.metrics.entries()) {
          assert.closeTo(loss! / whole!.metrics[i]!["loss"]!, 1, 1e-6)
        }
      }).pipe(Effect.provide(oneThread))
    )
  }

  it.effect("that are not trained keep their bits, and the others learn", () =>
    Effect.gen(function* () {
      const start = Tiny.weightsOf(decoders.gpt2)
      const trains = (name: string) => name.startsWith("transformer.h.1.")
      const { state } = yield* trained(decoders.gpt2, { trains }, Tiny.batches(5, 4))
      for (const [name, { data }] of state.tensors["weights"]!) {
        const same = Buffer.from(data.buffer).equals(Buffer.from(start.get(name)!.data.buffer))
        assert.strictEqual(same, !trains(name), name)
      }
      assert.isTrue([...state.tensors["first"]!.keys()].every(trains))
      const all = yield* sft(decoders.gpt2)
      const some = yield* sft(decoders.gpt2, { trains })
      assert.notStrictEqual(some.fingerprint, all.fingerprint)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("that the loss does not read stay as they are", () =>
    Effect.gen(function* () {
      const spare = { name: "spare.weight", shape: [3], decay: false }
      const decoder = { ...decoders.llama, parameters: [...decoders.llama.parameters, spare] }
      for (const trains of [() => true, (name: string) => name !== spare.name]) {
        for (const accumulate of [1, 2]) {
          const { state } = yield* trained(decoder, { accumulate, trains }, Tiny.batches(3, 2))
          const expected = Tiny.weightsOf(decoder).get(spare.name)!
          assert.deepStrictEqual([...state.tensors["weights"]!.get(spare.name)!.data], [...expected.data])
        }
      }
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("decay where they are matrices, or where the optimizer says", () =>
    Effect.gen(function* () {
      // No gradient reaches the loss through a field alone, so decay is all that moves the weights.
      const flat = Loss.make({
        name: "flat",
        fields: { value: ["B"] },
        metrics: [],
        build: ({ fields, g, logprobs, weights }) => ({
          loss: Op.Add(g, Op.sumAll(g, fields.value), Op.Mul(g, Loss.mean(g, logprobs(), weights), Graph.scalar(g, 0))),
          metrics: {}
        })
      })
      const batch = Tiny.examples(2, 3).map((example) => ({ ...example, fields: { value: 1 } }))
      const start = Tiny.weightsOf(decoders.gpt2)
      for (const decays of [undefined, (name: string) => name.endsWith("bias")]) {
        const policy = yield* Tiny.policy(decoders.gpt2)
        const adamW = Optimizer.adamW({ learningRate: 0.5, weightDecay: 0.5, decays })
        const learner = yield* OrtLearner.make({ model: policy, loss: flat, optimizer: adamW })
        yield* learner.update([batch])
        for (const [name, { data, shape }] of (yield* learner.state).tensors["weights"]!) {
          const factor = (decays?.(name) ?? shape.length > 1) ? 0.75 : 1
          assert.deepStrictEqual([...data], [...start.get(name)!.data.map((value) => value * factor)], name)
        }
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("keep a moving average beside them", () =>
    Effect.gen(function* () {
      const learner = yield* sft(decoders.llama, { ema: 0.75 })
      const start = (yield* learner.state).tensors["ema"]!
      const name = "model.norm.weight"
      let expected = Array.from(start.get(name)!.data)
      assert.deepStrictEqual(expected, [...Tiny.weightsOf(decoders.llama).get(name)!.data])
      for (const batch of Tiny.batches(3, 2)) {
        yield* learner.update([batch])
        const { ema, weights } = (yield* learner.state).tensors
        expected = expected.map((value, i) => 0.75 * value + 0.25 * weights!.get(name)!.data[i]!)
        Run.close(ema!.get(name)!.data, expected, "average", { absolute: 1e-6 })
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

describe("resources", () => {
  for (const [place, layer] of Object.entries({ "in process": oneThread, "on a worker": twoThreads })) {
    it.effect(`are as many after many updates, and none after the scope: ${place}`, () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        yield* Effect.scoped(
          Effect.gen(function* () {
            const learner = yield* sft(decoders.gpt2, { ema: 0.9, stepsPerRun: 2 })
            const { bytes, tensors } = yield* device.stats
            assert.strictEqual(tensors, 4 * decoders.gpt2.parameters.length)
            const saved = yield* learner.state
            for (let i = 0; i < 5; i++) {
              yield* learner.update(Tiny.batches(3, 2, i))
              yield* Effect.flip(learner.update([[Sft.example([1], [])]]))
              yield* learner.restore(saved)
            }
            const after = yield* device.stats
            assert.deepStrictEqual({ tensors: after.tensors, bytes: after.bytes }, { tensors, bytes })
          })
        )
        assert.deepStrictEqual(yield* device.stats, { tensors: 0, bytes: 0, sessions: 0 })
      }).pipe(Effect.provide(layer))
    )
  }

  it.live("survive an interruption: the state is that of a step boundary, and training goes on from it", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      const settings = { stepsPerRun: 2 }
      const batches = Array.from({ length: 24 }, (_, i) => largerBatches[i % largerBatches.length]!)
      const reference = yield* sft(larger, settings)
      const boundaries = new Map<number, LearnerState>()
      for (let i = 0; i <= batches.length; i += 2) {
        boundaries.set(i, yield* reference.state)
        yield* reference.update(batches.slice(i, i + 2))
      }
      const learner = yield* sft(larger, settings)
      const held = (yield* device.stats).tensors
      const seen = new Set<number>()
      for (let i = 0, done = 0; done < batches.length && i < 200; i++) {
        const fiber = yield* Effect.forkChild(learner.update(batches.slice(done)))
        yield* Effect.sleep(`${(i % 8) * 15} millis`)
        yield* Fiber.interrupt(fiber)
        const state = yield* learner.state
        sameState(state, boundaries.get(state.step)!)
        seen.add(state.step)
        done = state.step
      }
      assert.isAbove(seen.size, 2)
      sameState(yield* learner.state, boundaries.get(batches.length)!)
      assert.strictEqual((yield* device.stats).tensors, held)
    }).pipe(Effect.scoped, Effect.provide(twoThreads))
  )
})
