/**
 * Oracles of the specification's section on PPO that no module of this package answers for, on the parts of the core
 * that PPO relies on.
 */
import { Ranking, Tensor } from "@attune/core"
import { Model, Op, Optimizer, TrainLoop } from "@attune/core/onnx"
import { Device } from "@attune/core/ort"
import { assert, it } from "@effect/vitest"
import { Effect, Result } from "effect"

it.effect("R15: the average of the weights nears weights that stand still, 0.992 of the way left at each step", () =>
  Effect.gen(function* () {
    // The weight is 1 and has no gradient; its average starts from 0.
    const step: TrainLoop.TrainStep = {
      name: "average",
      parameters: [{ name: "weight", shape: [1], trainable: true, decays: false }],
      sizes: [],
      batch: [{ name: "slope", dtype: "float32", shape: [1] }],
      metrics: [],
      ema: 0.992,
      optimizer: Optimizer.adamW({ learningRate: 1 }),
      forward: (g, weights, batch) => ({
        loss: Op.sumAll(g, Op.Mul(g, weights("weight"), batch("slope"))),
        metrics: {}
      })
    }
    const device = yield* Device.Device
    const graph = Result.getOrThrow(TrainLoop.loop(step))
    const session = yield* device.compile(Model.encode(graph), { name: "average" })
    let state: Readonly<Record<string, Tensor.Tensor>> = {
      weight: Tensor.float32([1]),
      "first:weight": Tensor.zeros([1]),
      "second:weight": Tensor.zeros([1]),
      "ema:weight": Tensor.zeros([1])
    }
    let done = 0
    for (const [steps, expected] of [
      [1, 0.008],
      [87, 0.50281791],
      [500, 0.98197663]
    ] as const) {
      const count = steps - done
      const coefficients = Array.from({ length: count }, (_, i) => Optimizer.coefficients(step.optimizer, done + i))
      const { tensors } = yield* session.run({
        ...state,
        slope: Tensor.zeros([count, 1]),
        steps: Tensor.int64([count], []),
        sizes: Tensor.int64([], [count, 0]),
        coefficients: Tensor.float32(coefficients.flat(), [count, 3])
      })
      state = Object.fromEntries(TrainLoop.stateNames(step).map((name) => [name, tensors[TrainLoop.next(name)]!]))
      done = steps
      assert.closeTo(Number(state["ema:weight"]!.data[0]), expected, 1e-5, `after ${steps} steps`)
      assert.strictEqual(state["weight"]!.data[0], 1)
    }
  }).pipe(Effect.scoped, Effect.provide(Device.layer({ provider: "cpu", threads: 1 })))
)

it("R19: the first step of Adam adds epsilon to the bias-corrected root, as in PyTorch", () => {
  const [keep, stepSize, epsilon] = Optimizer.coefficients(Optimizer.adamW({ learningRate: 1, epsilon: 1e-5 }), 0)
  assert.strictEqual(keep, 1)
  for (const [gradient, expected] of [
    [1e-6, 0.09090909],
    [1e-4, 0.90909091],
    [1e-2, 0.999001]
  ] as const) {
    // With moments over their factors, the first ones are the gradient and its square.
    assert.closeTo((stepSize * gradient) / (Math.sqrt(gradient ** 2) + epsilon), expected, 1e-8)
  }
})

it("R23: 64 prompts with 9 answers in strict order are 2304 comparisons", () => {
  assert.strictEqual(64 * Ranking.pairs([1, 2, 3, 4, 5, 6, 7, 8, 9]).length, 2304)
})
