import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import type { LearnerState } from "../../src/Learner.ts"
import type { Decoder } from "../../src/nn/Decoder.ts"
import * as Dropout from "../../src/nn/Dropout.ts"
import * as Gradient from "../../src/onnx/Gradient.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OrtLearner from "../../src/ort/OrtLearner.ts"
import * as OrtPolicy from "../../src/ort/OrtPolicy.ts"
import * as Sft from "../../src/Sft.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as Model from "./model.ts"
import * as Tiny from "./tiny.ts"

const oneThread = Device.layerInProcess({ provider: "cpu", threads: 1 })

const decoders = { gpt2: Tiny.gpt2(), llama: Tiny.llama(), "gpt2 of a width of 12": Tiny.gpt2({ n_embd: 12 }) }

describe("a model with dropout", () => {
  const tokens = [
    [3, 1, 4, 0],
    [5, 9, 2, 6]
  ]
  const targets = [
    { row: 1, token: 4, weight: 0.25 },
    { row: 5, token: 2, weight: 0.25 },
    { row: 6, token: 6, weight: 0.5 }
  ]
  const feeds = {
    tokens: Tensor.int64(tokens.flat(), [2, 4]),
    rows: Tensor.int64(targets.map(({ row }) => row)),
    targets: Tensor.int64(targets.map(({ token }) => token)),
    weights: Tensor.float32(targets.map(({ weight }) => weight))
  }

  const lossGraph = (decoder: Decoder, dropout?: Dropout.Dropout) => {
    const optimizer = Optimizer.adamW({ learningRate: 1 })
    const step = OrtLearner.trainStep(Tiny.language(decoder), Sft.loss, optimizer, { dropout })
    const g = Graph.make("sft")
    for (const { dtype, name, shape } of step.batch) Graph.input(g, name, dtype, shape)
    const parameters = step.parameters.map(({ name, shape }) => Graph.input(g, name, "float32", shape))
    const of = (name: string) => Graph.value(g, name)
    const { loss } = step.forward(g, of, of)
    const gradients = Result.getOrThrow(Gradient.backward(g, loss, parameters))
    Graph.output(g, "loss", Op.Identity(g, loss))
    for (const [name, gradient] of gradients) Graph.output(g, `gradient:${name}`, Op.Identity(g, gradient))
    return g
  }

  const masksOf = ({ bytesPerToken, fill }: Dropout.Dropout) => {
    const masks = new Uint8Array(8 * bytesPerToken)
    for (const sequence of [0, 1]) {
      fill(masks.subarray(4 * sequence * bytesPerToken, 4 * (sequence + 1) * bytesPerToken), { step: 0, sequence })
    }
    return Tensor.make("uint8", masks, [2, 4, bytesPerToken])
  }

  for (const [name, decoder] of Object.entries(decoders)) {
    it.effect(`drops what its branches add, and nothing else: ${name}`, () =>
      Effect.gen(function* () {
        const weights = Tiny.weightsOf(decoder)
        const dropout = Dropout.make(decoder, 0.5, 1)
        const nothing = Tensor.make("uint8", new Uint8Array(8 * dropout.bytesPerToken), [2, 4, dropout.bytesPerToken])
        const dropped = yield* Run.once(lossGraph(decoder, dropout), {
          ...feeds,
          dropout: nothing,
          ...Object.fromEntries(weights)
        })
        // Branches whose last matrix and bias are zero add nothing either.
        const silent = [...weights].map(([parameter, tensor]) => {
          const last = /(o_proj|down_proj|c_proj)\./.test(parameter)
          return [parameter, last ? Tensor.zeros(tensor.shape) : tensor] as const
        })
        const expected = yield* Run.once(lossGraph(decoder), { ...feeds, ...Object.fromEntries(silent) })
        assert.deepStrictEqual(Run.numbers(dropped["loss"]), Run.numbers(expected["loss"]))
      })
    )

    it.effect(`has the gradient that differences say, where its masks stay: ${name}`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const dropout = Dropout.make(decoder, 0.3, 5)
          const g = lossGraph(decoder, dropout)
          const weights = Object.fromEntries(Tiny.weightsOf(decoder))
          const fixed = { ...feeds, dropout: masksOf(dropout) }
          const outputs = yield* Effect.flatMap(Run.open(g), ({ run }) => run({ ...fixed, ...weights }))
          const { run } = yield* Run.open(Graph.prune({ ...g, outputs: [Graph.value(g, "loss")] }))
          const lossAt = (changed: Record<string, Tensor.Tensor>) =>
            Effect.map(run({ ...fixed, ...weights, ...changed }), ({ loss }) => Run.numbers(loss)[0]!)
          // Four points, so that the error falls with the fourth power of the step.
          const h = 2 ** -7
          for (const parameter of Object.keys(weights)) {
            const { data, shape } = weights[parameter]!
            const some = Array.from(data.keys()).filter((i) => data.length <= 12 || i % 41 === 0)
            const differences: Array<number> = []
            for (const i of some) {
              const moved = (by: number) => ({ [parameter]: Tensor.float32(data.with(i, data[i]! + by), shape) })
              const across = (by: number) =>
                Effect.zipWith(lossAt(moved(by)), lossAt(moved(-by)), (up, down) => up - down)
              differences.push((8 * (yield* across(h)) - (yield* across(2 * h))) / (12 * h))
            }
            const gradient = Run.numbers(outputs[`gradient:${parameter}`])
            const own = some.map((i) => gradient[i]!)
            Run.close(own, differences, `gradient of ${parameter}`, { absolute: 3e-4, relative: 2e-3 })
          }
        })
      )
    )
  }
})

const bits = ({ step, tensors }: LearnerState) => ({
  step,
  tensors: Object.entries(tensors).map(([part, byName]) => [
    part,
    [...byName].map(([name, { data }]) => [name, Buffer.from(data.buffer).toString("base64")])
  ])
})

type Settings = Pick<
  OrtLearner.Options<Tiny.NoFields, never>,
  "accumulate" | "dropout" | "dropoutSeed" | "stepsPerRun" | "ema"
>

// Without clipping and with a large epsilon, the last bits of a gradient near zero make no step of another sign.
const optimizer = Optimizer.adamW({ learningRate: 1e-2, epsilon: 1e-4 })

const make = Effect.fnUntraced(function* (settings: Settings) {
  return yield* OrtLearner.make({ model: yield* Tiny.policy(Tiny.llama()), loss: Sft.loss, optimizer, ...settings })
})

const trained = Effect.fnUntraced(function* (settings: Settings, batches = Tiny.batches(6, 4)) {
  const learner = yield* make(settings)
  const metrics = yield* learner.update(batches)
  return { metrics, state: yield* learner.state, fingerprint: learner.fingerprint }
}, Effect.scoped)

const losses = ({ metrics }: { readonly metrics: ReadonlyArray<Readonly<Record<string, number>>> }) =>
  metrics.map((record) => record["loss"]!)

describe("a learner with dropout", () => {
  it.effect("of rate 0 is one without, bit for bit", () =>
    Effect.gen(function* () {
      const none = yield* trained({})
      const zero = yield* trained({ dropout: 0, dropoutSeed: 3 })
      assert.deepStrictEqual(bits(zero.state), bits(none.state))
      assert.strictEqual(zero.fingerprint, none.fingerprint)
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("repeats with the same seed, and is another with another seed or rate", () =>
    Effect.gen(function* () {
      const once = yield* trained({ dropout: 0.2 })
      const again = yield* trained({ dropout: 0.2, dropoutSeed: 0 })
      assert.deepStrictEqual(bits(again.state), bits(once.state))
      assert.strictEqual(again.fingerprint, once.fingerprint)
      const others = yield* Effect.forEach([{}, { dropout: 0.2, dropoutSeed: 1 }, { dropout: 0.3 }], (settings) =>
        trained(settings)
      )
      for (const other of others) {
        assert.notStrictEqual(losses(other)[0], losses(once)[0])
        assert.notStrictEqual(other.fingerprint, once.fingerprint)
      }
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("drops something else for each step and for each of two equal examples", () =>
    Effect.gen(function* () {
      const still = Optimizer.adamW({ learningRate: 0 })
      const learner = yield* OrtLearner.make({
        model: yield* Tiny.policy(Tiny.llama()),
        loss: Sft.loss,
        optimizer: still,
        dropout: 0.5
      })
      const example = Sft.example([1], [2, 3, 4, 5])
      const records = yield* learner.update([[example], [example], [example, example]])
      const [first, second, both] = losses({ metrics: records }) as [number, number, number]
      assert.isAbove(Math.abs(first - second), 1e-3)
      // Twice the same masks would give what the same step gives for one of them.
      yield* learner.restore({ ...(yield* learner.state), step: 2 })
      const [alone] = losses({ metrics: yield* learner.update([[example]]) })
      assert.isAbove(Math.abs(both - alone!), 1e-3)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("has the same masks however batches are cut and whatever runs take", () =>
    Effect.gen(function* () {
      const batches = Tiny.batches(5, 8)
      const whole = yield* trained({ dropout: 0.2, stepsPerRun: 1 }, batches)
      const oneRun = yield* trained({ dropout: 0.2, stepsPerRun: 5 }, batches)
      assert.deepStrictEqual(bits(oneRun.state), bits(whole.state))
      for (const accumulate of [2, 3, 8]) {
        const parts = yield* trained({ dropout: 0.2, accumulate }, batches)
        for (const [i, loss] of losses(parts).entries()) assert.closeTo(loss / losses(whole)[i]!, 1, 2e-6)
      }
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("goes on from a saved state with the masks of one that did not stop", () =>
    Effect.gen(function* () {
      const settings = { dropout: 0.2, ema: 0.9, accumulate: 2, stepsPerRun: 4 }
      const batches = Tiny.batches(9, 4)
      const whole = yield* trained(settings, batches)
      const learner = yield* make(settings)
      yield* learner.update(batches.slice(0, 5))
      const saved = yield* learner.state
      const resumed = yield* make(settings)
      yield* resumed.restore(saved)
      yield* resumed.update(batches.slice(5))
      assert.deepStrictEqual(bits(yield* resumed.state), bits(whole.state))
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("leaves what the policy says and samples to its weights alone", () =>
    Effect.gen(function* () {
      const base = Model.llama()
      const policy = yield* OrtPolicy.make(base)
      const learner = yield* OrtLearner.make({ model: policy, loss: Sft.loss, optimizer, dropout: 0.5 })
      yield* learner.update(Tiny.batches(3, 4))
      const fresh = yield* OrtPolicy.make(yield* policy.snapshot)
      const continuations = [{ prompt: [1, 2], completion: [3, 4, 5] }]
      assert.deepStrictEqual(yield* policy.logprobs(continuations), yield* fresh.logprobs(continuations))
      const options = { maxNewTokens: 12, seed: 3 }
      assert.deepStrictEqual(
        yield* policy.sample([Model.prompt([1, 2])], options),
        yield* fresh.sample([Model.prompt([1, 2])], options)
      )
      const before = yield* Effect.flatMap(OrtPolicy.make(base), ({ logprobs }) => logprobs(continuations))
      assert.notDeepEqual(yield* policy.logprobs(continuations), before)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("refuses rates that drop everything, or are none", () =>
    Effect.gen(function* () {
      for (const dropout of [1, -0.1, Number.NaN]) {
        const error = yield* Effect.flip(make({ dropout }))
        assert.match(error.message, /^dropout is .*; give a rate from 0 to below 1/)
      }
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})
