import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Mlp from "../../src/nn/Mlp.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as Differences from "./differences.ts"

const filled = (shapes: Readonly<Record<string, ReadonlyArray<number>>>, seed: number) => {
  const random = Run.seeded(seed)
  return Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, Differences.real(random, shape)]))
}

describe("gelu", () => {
  const shapes = { up: [2, 3], upBias: [3], down: [3, 2], downBias: [2] }
  // By PyTorch: gelu(1), gelu(-2), gelu(0.5).
  const values = {
    none: [0.8413447, -0.0455003, 0.3457312],
    tanh: [0.841192, -0.0454023, 0.345714]
  } as const
  for (const approximate of ["none", "tanh"] as const) {
    it.effect(`stands between the matrices, and has the gradients of differences: ${approximate}`, () =>
      Effect.gen(function* () {
        const fragment: Differences.Fragment = {
          trains: { x: ["M", 2], ...shapes },
          build: (g, x) => Mlp.gelu(g, x("x"), [x("up"), x("upBias")], [x("down"), x("downBias")], approximate)
        }
        // x up + upBias = [1, -2, 0.5]
        const one = {
          x: Tensor.float32([1, -1], [1, 2]),
          up: Tensor.float32([1, 0, 0, 0, 1, 1], [2, 3]),
          upBias: Tensor.float32([0, -1, 1.5]),
          down: Tensor.float32([1, 0, 2, 1, 0, -1], [3, 2]),
          downBias: Tensor.float32([10, 20])
        }
        const [a, b, c] = values[approximate]
        const { y } = yield* Run.once(Differences.forward(fragment), one)
        Run.close(Run.numbers(y), [a + 2 * b + 10, b - c + 20], "gelu", { absolute: 1e-6, relative: 2e-7 })
        yield* Differences.check(fragment, [one, filled({ x: [3, 2], ...shapes }, 1)])
      })
    )
  }
})

describe("swiGlu", () => {
  it.effect("gates with silu, the first matrix, and has the gradients of differences", () =>
    Effect.gen(function* () {
      const fragment: Differences.Fragment = {
        trains: { x: ["M", 2], gate: [3, 2], up: [3, 2], down: [2, 3] },
        build: (g, x) => Mlp.swiGlu(g, x("x"), x("gate"), x("up"), x("down"))
      }
      const one = {
        x: Tensor.float32([1, -2], [1, 2]),
        gate: Tensor.float32([1, 0, 0, 1, 1, 1], [3, 2]),
        up: Tensor.float32([2, 0, 0, 3, 1, 0], [3, 2]),
        down: Tensor.float32([1, 0, 0, 0, 1, 1], [2, 3])
      }
      const silu = (a: number) => a / (1 + Math.exp(-a))
      const { y } = yield* Run.once(Differences.forward(fragment), one)
      Run.close(Run.numbers(y), [silu(1) * 2, silu(-2) * -6 + silu(-1) * 1], "swiGlu", { absolute: 1e-6 })
      yield* Differences.check(fragment, [one, filled({ x: [3, 2], gate: [3, 2], up: [3, 2], down: [2, 3] }, 2)])
    })
  )
})
