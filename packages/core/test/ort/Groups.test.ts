import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as ScalarHead from "../../src/hub/ScalarHead.ts"
import type { LearnerState } from "../../src/Learner.ts"
import * as Loss from "../../src/Loss.ts"
import * as Heads from "../../src/nn/Heads.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OrtLearner from "../../src/ort/OrtLearner.ts"
import * as OrtScalarModel from "../../src/ort/OrtScalarModel.ts"
import * as ResidentModel from "../../src/ort/ResidentModel.ts"
import * as Run from "../onnx/run.ts"
import * as TestModel from "./model.ts"
import * as Tiny from "./tiny.ts"

const device = Device.layerInProcess({ provider: "cpu", threads: 1 })
const base = ScalarHead.initial(
  TestModel.pretrained(Tiny.llama({ num_hidden_layers: 1, max_position_embeddings: 96 })),
  { seed: 3 }
)

// Without what scores.
const trainable = Effect.map(ResidentModel.make(base), (model) => ({ ...model, outputs: Heads.scalars }))

/** Softplus of how much worse a number is than each that it should be above, over the pairs of equal groups. */
const pairwise = Loss.makeScalar({
  name: "pairwise",
  fields: { group: ["N"], rank: ["N"] },
  metrics: ["pairs", "margin"],
  maxima: ["margin"],
  build: ({ fields: { group, rank }, g, values, weights }) => {
    const row = (x: Graph.Value) => Op.Reshape(g, x, [1, "N"])
    const column = (x: Graph.Value) => Op.Reshape(g, x, ["N", 1])
    const together = Op.Equal(g, column(group), row(group))
    const kept = Op.And(g, together, Op.Less(g, column(rank), row(rank)))
    const mask = Op.Where(g, kept, Graph.scalar(g, 1), Graph.scalar(g, 0))
    const margins = Op.Sub(g, column(values()), row(values()))
    const losses = Op.Neg(g, Op.Log(g, Op.Sigmoid(g, margins)))
    return {
      loss: Op.sumAll(g, Op.Mul(g, Op.Mul(g, losses, mask), column(weights))),
      metrics: { pairs: Op.sumAll(g, mask), margin: Op.ReduceMax(g, Op.Mul(g, margins, mask), [0, 1], false) }
    }
  }
})

type Answer = Loss.Example<(typeof pairwise)["fields"]>

/** Groups of these sizes, of answers of different lengths that count at their last token. */
const groupsOf = (sizes: ReadonlyArray<number>, seed = 5, longest = 16): ReadonlyArray<ReadonlyArray<Answer>> => {
  const random = Run.seeded(seed)
  return sizes.map((size, group) =>
    Array.from({ length: size }, (_, rank) => {
      const tokens = Int32Array.from({ length: 2 + random.below(longest - 1) }, () => random.below(Tiny.vocabSize))
      const weights = new Float32Array(tokens.length)
      weights[tokens.length - 1] = 1 + random.below(3)
      return { tokens, weights, fields: { group: Float32Array.of(group), rank: Float32Array.of(rank) } }
    })
  )
}

const step = Effect.fnUntraced(function* (batch: Loss.Batch<(typeof pairwise)["fields"]>, accumulate?: number) {
  const model = yield* trainable
  const optimizer = Optimizer.adamW({ learningRate: 1e-3 })
  const learner = yield* OrtLearner.make({ model, loss: pairwise, optimizer, accumulate })
  const [record] = yield* learner.update([batch])
  return { record: record!, state: yield* learner.state }
}, Effect.scoped)

const frobenius = (a: ArrayLike<number>, b?: ArrayLike<number>) =>
  Math.hypot(...Array.from(a, (value, i) => value - (b?.[i] ?? 0)))

const sameStep = (
  actual: { readonly record: Readonly<Record<string, number>>; readonly state: LearnerState },
  expected: typeof actual
) => {
  for (const name of ["loss", "grad_norm", "margin"]) {
    assert.closeTo(actual.record[name]! / expected.record[name]!, 1, 2e-6, name)
  }
  for (const name of ["pairs", "tokens"]) assert.strictEqual(actual.record[name], expected.record[name], name)
  // Without clipping, the first moment after one step is the gradient.
  const { first } = actual.state.tensors
  for (const [name, { data }] of expected.state.tensors["first"]!) {
    assert.isAtMost(frobenius(first!.get(name)!.data, data), 2e-6 * Math.max(1, frobenius(data)), name)
  }
}

describe("groups", () => {
  const sizes = [3, 1, 4, 2, 5]
  const pairs = sizes.reduce((sum, size) => sum + (size * (size - 1)) / 2, 0)

  it.effect("are computed together, whatever the batch is cut into", () =>
    Effect.gen(function* () {
      const batch = groupsOf(sizes)
      const whole = yield* step(batch, 1)
      assert.strictEqual(whole.record["pairs"], pairs)
      assert.strictEqual(whole.record["tokens"], 15)
      for (const accumulate of [2, 3, 9]) sameStep(yield* step(batch, accumulate), whole)
    }).pipe(Effect.provide(device))
  )

  it.effect("give the loss and the margins that the values give by hand", () =>
    Effect.gen(function* () {
      const batch = groupsOf(sizes)
      const model = yield* OrtScalarModel.make(base)
      const total = batch.flat().reduce((sum, { weights }) => sum + weights.at(-1)!, 0)
      let loss = 0
      let margin = 0
      for (const group of batch) {
        const values = yield* model.scores(
          group.map(({ tokens }) => ({ prompt: tokens.subarray(0, -1), completion: [] }))
        )
        for (const [i, { weights }] of group.entries()) {
          for (let j = i + 1; j < group.length; j++) {
            loss += (weights.at(-1)! / total) * Math.log1p(Math.exp(values[j]! - values[i]!))
            margin = Math.max(margin, values[i]! - values[j]!)
          }
        }
      }
      const { record } = yield* step(batch, 2)
      assert.closeTo(record["loss"]!, loss, 1e-5)
      assert.closeTo(record["margin"]!, margin, 1e-5)
    }).pipe(Effect.scoped, Effect.provide(device))
  )

  it.effect("stay whole where the batch is too large for the caches", () =>
    Effect.gen(function* () {
      const large = groupsOf([9, 9, 9, 9, 9], 7, 90)
      const whole = yield* step(large, 1)
      assert.strictEqual(whole.record["pairs"], 5 * 36)
      sameStep(yield* step(large), whole)
    }).pipe(Effect.provide(device))
  )

  it.effect("whose sequences begin alike take the step of the same sequences one by one", () =>
    Effect.gen(function* () {
      const random = Run.seeded(11)
      const batch = groupsOf([4, 2, 3], 9, 12).map((group) => {
        const prompt = Array.from({ length: 40 }, () => random.below(Tiny.vocabSize))
        return group.map((answer) => ({
          ...answer,
          tokens: Int32Array.of(...prompt, ...answer.tokens),
          weights: Float32Array.of(...prompt.map(() => 0), ...answer.weights)
        }))
      })
      const alone = yield* step(batch.flat(), 1)
      assert.strictEqual(alone.record["pairs"], 6 + 1 + 3)
      sameStep(yield* step(batch, 1), alone)
      sameStep(yield* step(batch, 3), alone)
    }).pipe(Effect.provide(device))
  )

  it.effect("may stand beside single examples", () =>
    Effect.gen(function* () {
      const [one, two, three] = groupsOf([3, 1, 4]) as [Array<Answer>, Array<Answer>, Array<Answer>]
      const grouped = yield* step([one, two, three], 1)
      sameStep(yield* step([one, two[0]!, three], 1), grouped)
      sameStep(yield* step([two[0]!, three, one], 3), grouped)
    }).pipe(Effect.provide(device))
  )

  it.effect("without sequences are refused, and bad sequences in them named by their group", () =>
    Effect.gen(function* () {
      const model = yield* trainable
      const optimizer = Optimizer.adamW({ learningRate: 1e-3 })
      const learner = yield* OrtLearner.make({ model, loss: pairwise, optimizer })
      const [good] = groupsOf([2]) as [ReadonlyArray<Answer>]
      const foreign = { ...good[1]!, tokens: good[1]!.tokens.map(() => 29) }
      for (const [batches, at, message] of [
        [[[good, []]], 0, /^step 1, example 1 is a group without sequences/],
        [[[good], [good, good, [good[0]!, foreign]]], 1, /^step 2, example 2 has the token 29/]
      ] as const) {
        const error = yield* Effect.flip(learner.update(batches))
        assert.include(error, { _tag: "LearnerError", reason: "input", step: at })
        assert.match(error.message, message)
        assert.strictEqual((yield* learner.state).step, 0)
      }
    }).pipe(Effect.scoped, Effect.provide(device))
  )
})

// Imitation, with a number that each batch brings as its metric.
const watched = Loss.make({
  name: "watched",
  fields: { fed: ["N"] },
  metrics: ["fed", "largest"],
  maxima: ["largest"],
  build: ({ fields, g, logprobs, weights }) => ({
    loss: Op.Neg(g, Loss.mean(g, logprobs(), weights)),
    metrics: { fed: Loss.mean(g, fields.fed, weights), largest: Op.ReduceMax(g, fields.fed, [0], false) }
  })
})

const watchedBatches = (fed: ReadonlyArray<number>) =>
  Tiny.batches(fed.length, 3).map((batch, i) =>
    batch.map((example) => {
      const targets = example.weights.filter((weight) => weight > 0).length
      return { ...example, fields: { fed: new Float32Array(targets).fill(fed[i]!) } }
    })
  )

const bits = ({ step, tensors }: LearnerState) => [
  step,
  Object.entries(tensors).map(([part, byName]) => [
    part,
    [...byName].map(([name, { data }]) => [name, Buffer.from(data.buffer).toString("base64")])
  ])
]

describe("a learner that was told when to stop", () => {
  const fed = [0.05, 0.1, 0.02, 0.1, 0.11, 0.01, 0.02]
  const open = (settings: Partial<OrtLearner.Options<(typeof watched)["fields"], "fed" | "largest">> = {}) =>
    Effect.gen(function* () {
      const model = yield* Tiny.policy(Tiny.gpt2())
      const optimizer = Optimizer.adamW({ learningRate: 0.01 })
      return yield* OrtLearner.make({ model, loss: watched, optimizer, ...settings })
    })

  for (const [stepsPerRun, accumulate] of [
    [8, 1],
    [2, 1],
    [3, 2]
  ] as const) {
    it.effect(`takes no step that is above, nor one after it: ${stepsPerRun} a run, ${accumulate} parts`, () =>
      Effect.gen(function* () {
        const settings = { stepsPerRun, accumulate, ema: 0.9 }
        const stop = { metric: "largest", above: 0.1 } as const
        const learner = yield* open({ ...settings, stop })
        const batches = watchedBatches(fed)
        const records = yield* learner.update(batches)

        const other = yield* open(settings)
        const expected = yield* other.update(batches.slice(0, 4))
        assert.deepStrictEqual(records, expected)
        // In single precision 0.1 is above 0.1: that is not what stops.
        assert.strictEqual(records[3]!["largest"], Math.fround(0.1))
        assert.deepStrictEqual(bits(yield* learner.state), bits(yield* other.state))

        // The next call begins where this one ended.
        const rest = batches.slice(5)
        assert.deepStrictEqual(yield* learner.update(rest), yield* other.update(rest))
        assert.deepStrictEqual(bits(yield* learner.state), bits(yield* other.state))
        assert.deepStrictEqual(yield* learner.update(batches.slice(4, 5)), [])
        assert.deepStrictEqual(bits(yield* learner.state), bits(yield* other.state))
      }).pipe(Effect.scoped, Effect.provide(device))
    )
  }

  it.effect("does not count a step that is not finite as a stop", () =>
    Effect.gen(function* () {
      const model = yield* Tiny.policy(Tiny.gpt2())
      const optimizer = Optimizer.adamW({ learningRate: (step) => (step < 2 ? 1e-3 : 1e30) })
      const stop = { metric: "largest", above: 0.1 } as const
      const learner = yield* OrtLearner.make({ model, loss: watched, optimizer, stop })
      const error = yield* Effect.flip(learner.update(watchedBatches([0, 0, 0, 0, 0])))
      assert.include(error, { _tag: "LearnerError", reason: "finite" })
      assert.strictEqual(error.completed!.length, error.step)
    }).pipe(Effect.scoped, Effect.provide(device))
  )
})

// What a loss asks at two temperatures.
const tempered = Loss.make({
  name: "tempered",
  fields: {},
  metrics: ["logprob", "entropy", "plain"],
  build: ({ entropy, g, logprobs, weights }) => {
    const logprob = Loss.mean(g, logprobs(0.7), weights)
    const metrics = {
      logprob,
      entropy: Loss.mean(g, entropy(0.7), weights),
      plain: Loss.mean(g, logprobs(), weights)
    }
    return { loss: Op.Neg(g, logprob), metrics }
  }
})

it.effect("a loss reads log-probs and entropy at the temperature that it names", () =>
  Effect.gen(function* () {
    const own = TestModel.gpt2()
    const V = own.decoder.vocabSize
    const batch = Tiny.examples(4, 9)
    const expected = { logprob: 0, entropy: 0, plain: 0 }
    const total = batch.reduce((sum, { weights }) => sum + weights.reduce((a, b) => a + b, 0), 0)
    for (const { tokens, weights } of batch) {
      const logits = yield* TestModel.logits(own, [...tokens])
      for (let t = 1; t < tokens.length; t++) {
        for (const [temperature, logprob] of [
          [0.7, "logprob"],
          [1, "plain"]
        ] as const) {
          const row = logits.slice((t - 1) * V, t * V).map((x) => x / temperature)
          const logSum = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))
          const share = weights[t]! / total
          expected[logprob] += share * (row[tokens[t]!]! - logSum)
          if (logprob === "plain") continue
          expected.entropy -= share * row.reduce((sum, x) => sum + Math.exp(x - logSum) * (x - logSum), 0)
        }
      }
    }
    const model = yield* Tiny.policy(own.decoder, own.weights)
    const learner = yield* OrtLearner.make({
      model,
      loss: tempered,
      optimizer: Optimizer.adamW({ learningRate: 1e-3 })
    })
    const [record] = yield* learner.update([batch])
    for (const [name, value] of Object.entries(expected)) assert.closeTo(record![name]!, value, 2e-6, name)
    assert.closeTo(record!["loss"]!, -expected.logprob, 2e-6)
  }).pipe(Effect.scoped, Effect.provide(device))
)
