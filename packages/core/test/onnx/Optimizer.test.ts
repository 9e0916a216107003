import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Graph as G } from "../../src/onnx/Graph.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as LearningRate from "../../src/onnx/LearningRate.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as Tensor from "../../src/Tensor.ts"
import golden from "./optim.golden.json" with { type: "json" }
import * as Run from "./run.ts"

// One update of a vector [N]: weight, moments and gradient in, weight and moments out.
const updateGraph = (optimizer: Optimizer.AdamW, decays: boolean, size: Graph.Dim = "N"): G => {
  const g = Graph.make("update")
  const vector = (name: string) => Graph.input(g, name, "float32", [size])
  const slot = { weight: vector("weight"), first: vector("first"), second: vector("second") }
  const gradient = vector("gradient")
  const scalar = (name: string) => Graph.input(g, name, "float32", [])
  const keep = decays ? scalar("keep") : null
  const next = Optimizer.update(g, optimizer, slot, gradient, {
    keep,
    stepSize: scalar("stepSize"),
    epsilon: scalar("epsilon"),
    clip: null
  })
  for (const [name, value] of Object.entries(next)) Graph.output(g, `next:${name}`, value)
  return g
}

const vectors = (gradient: ReadonlyArray<number>, weight = gradient.map(() => 0)): Record<string, Tensor.Tensor> => ({
  weight: Tensor.float32(weight),
  first: Tensor.zeros([gradient.length]),
  second: Tensor.zeros([gradient.length]),
  gradient: Tensor.float32(gradient)
})

const scalars = (optimizer: Optimizer.AdamW, step: number, decays: boolean): Record<string, Tensor.Tensor> => {
  const [keep, stepSize, epsilon] = Optimizer.coefficients(optimizer, step)
  const rest = { stepSize: Tensor.scalar(stepSize), epsilon: Tensor.scalar(epsilon) }
  return decays ? { keep: Tensor.scalar(keep), ...rest } : rest
}

describe("update", () => {
  it.effect("adds epsilon to the bias-corrected root, as in PyTorch and not as in TensorFlow", () =>
    Effect.gen(function* () {
      const optimizer = Optimizer.adamW({ learningRate: 1, epsilon: 1e-5 })
      const feeds = { ...vectors([1e-6, 1e-4, 1e-2]), ...scalars(optimizer, 0, false) }
      const { "next:weight": weight } = yield* Run.once(updateGraph(optimizer, false), feeds)
      const expected = [-0.09090909, -0.90909091, -0.999001]
      Run.close(Run.numbers(weight), expected, "weight", { absolute: 0, relative: 2e-6 })
    })
  )

  it.effect("pulls towards zero without a gradient, by the rate times the decay, only where it decays", () =>
    Effect.gen(function* () {
      const optimizer = Optimizer.adamW({ learningRate: 0.25, weightDecay: 0.5 })
      for (const decays of [true, false]) {
        const feeds = { ...vectors([0, 0], [8, -16]), ...scalars(optimizer, 0, decays) }
        const { "next:weight": weight } = yield* Run.once(updateGraph(optimizer, decays), feeds)
        assert.deepStrictEqual(Run.numbers(weight), decays ? [7, -14] : [8, -16])
      }
    })
  )

  for (const record of golden.adamw.filter(({ ema_decay, max_norm }) => ema_decay === null && max_norm === null)) {
    it.effect(`follows PyTorch: ${record.name}`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          for (const parameter of ["weight", "table", "bias"] as const) {
            const weightDecay = record.weight_decay[parameter]
            const [beta1, beta2] = record.betas as [number, number]
            const optimizer = Optimizer.adamW({
              learningRate: (step) => record.learning_rate[step]!,
              beta1,
              beta2,
              epsilon: record.eps,
              weightDecay
            })
            const decays = weightDecay !== 0
            const { run } = yield* Run.open(updateGraph(optimizer, decays))
            let state = vectors(
              record.parameters[parameter].data.map(() => 0),
              record.parameters[parameter].data
            )
            for (const [i, step] of record.steps.entries()) {
              const gradient = Tensor.float32(step.gradients[parameter].data)
              const next = yield* run({ ...state, gradient, ...scalars(optimizer, i, decays) })
              state = Object.fromEntries(
                ["weight", "first", "second"].map((name) => [name, next[`next:${name}`]!] as const)
              )
              const expected = step.parameters[parameter].data
              Run.close(Run.numbers(state["weight"]), expected, `${parameter} after step ${i}`, {
                absolute: 1e-6,
                relative: 2e-6
              })
            }
          }
        })
      )
    )
  }
})

const clipGraph = (max: number): G => {
  const g = Graph.make("clip")
  const norm = Optimizer.globalNorm(g, [
    Graph.input(g, "matrix", "float32", ["R", 2]),
    Graph.input(g, "vector", "float32", ["N"])
  ])
  Graph.output(g, "norm", norm)
  Graph.output(g, "factor", Optimizer.clipFactor(g, norm, max))
  return g
}

const clipped = Effect.fnUntraced(function* (
  max: number,
  matrix: ReadonlyArray<number>,
  vector: ReadonlyArray<number>
) {
  const feeds = { matrix: Tensor.float32(matrix, [matrix.length / 2, 2]), vector: Tensor.float32(vector) }
  const { factor, norm } = yield* Run.once(clipGraph(max), feeds)
  return { factor: Run.numbers(factor)[0]!, norm: Run.numbers(norm)[0]! }
})

describe("clipping", () => {
  it.effect("takes the norm over all gradients together", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* clipped(26, [3, 4], [12]), { factor: 1, norm: 13 })
      const { factor } = yield* clipped(6.5, [3, 4], [12])
      assert.closeTo(factor, 6.5 / (13 + 1e-6), 1e-7)
    })
  )

  it.effect("leaves zero gradients and gradients below the limit alone", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* clipped(1, [0, 0, 0, 0], [0]), { factor: 1, norm: 0 })
      assert.strictEqual((yield* clipped(1, [0.5, 0], [0.25])).factor, 1)
    })
  )
})

it("takes a rate or a schedule, and lets nothing decay unless asked", () => {
  assert.strictEqual(Optimizer.adamW({ learningRate: 0.5 }).learningRate(17), 0.5)
  const schedule = LearningRate.linear(1, 10)
  assert.strictEqual(Optimizer.adamW({ learningRate: schedule }).learningRate(5), 0.5)
  const { beta1, beta2, epsilon, maxGradNorm, weightDecay } = Optimizer.adamW({ learningRate: 1 })
  assert.deepStrictEqual([beta1, beta2, epsilon, weightDecay, maxGradNorm], [0.9, 0.999, 1e-8, 0, undefined])
})

describe("a large parameter", () => {
  it("is cut evenly into pieces of at most 2^18 numbers, where it can be", () => {
    assert.deepStrictEqual(Optimizer.pieces([16384, 512]), [32, 2 ** 18])
    assert.deepStrictEqual(Optimizer.pieces([50257, 768]), [174, 221824])
    assert.deepStrictEqual(Optimizer.pieces([512, 1023]), [512, 1023])
    assert.deepStrictEqual(Optimizer.pieces([1048583]), [1048583], "a prime")
  })

  it.effect("is updated piece by piece with the bits of an update in one piece", () =>
    Effect.gen(function* () {
      const shape = [3, 2 ** 16 + 17]
      const optimizer = Optimizer.adamW({ learningRate: 1e-2, weightDecay: 0.1 })
      const random = Run.seeded(3)
      const numbers = () => Array.from({ length: shape[0]! * shape[1]! }, () => random.uniform(-1, 1))
      const feeds = { ...vectors(numbers(), numbers()), ...scalars(optimizer, 4, true) }
      const whole = yield* Run.once(updateGraph(optimizer, true), feeds)

      const g = Graph.make("update")
      const piece = (name: string) => Op.Reshape(g, Graph.input(g, name, "float32", [shape[0]! * shape[1]!]), shape)
      const scalar = (name: string) => Graph.input(g, name, "float32", [])
      const slot = { weight: piece("weight"), first: piece("first"), second: piece("second") }
      const next = Optimizer.updatePieces(g, optimizer, slot, piece("gradient"), {
        keep: scalar("keep"),
        stepSize: scalar("stepSize"),
        epsilon: scalar("epsilon"),
        clip: null
      })
      for (const [name, value] of Object.entries(next)) Graph.output(g, `next:${name}`, value)
      const pieces = yield* Run.once(g, feeds)
      for (const name of ["weight", "first", "second"]) {
        assert.deepStrictEqual(pieces[`next:${name}`]!.shape, shape)
        assert.deepStrictEqual(pieces[`next:${name}`]!.data, whole[`next:${name}`]!.data, name)
      }
    })
  )
})
