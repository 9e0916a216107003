import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Linear from "../../src/nn/Linear.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as Differences from "./differences.ts"

describe("linear and conv1d", () => {
  it.effect("multiply by transposed and by plain matrices, with the gradients of differences", () =>
    Effect.gen(function* () {
      const feeds = {
        x: Tensor.float32([1, 2, 3, 4, 5, 6], [3, 2]),
        weight: Tensor.float32([1, -1, 2, 0.5], [2, 2]),
        bias: Tensor.float32([10, 20])
      }
      const layers = {
        linear: [Linear.linear, [9, 23, 9, 28, 9, 33]],
        conv1d: [Linear.conv1d, [15, 20, 21, 19, 27, 18]]
      } as const
      for (const [name, [layer, expected]] of Object.entries(layers)) {
        const fragment: Differences.Fragment = {
          trains: { x: ["M", 2], weight: [2, 2], bias: [2] },
          build: (g, x) => layer(g, x("x"), x("weight"), x("bias"))
        }
        const { y } = yield* Run.once(Differences.forward(fragment), feeds)
        Run.close(Run.numbers(y), expected, name)
        yield* Differences.check(fragment, [feeds])
      }
    })
  )
})

describe("takeRows", () => {
  const fragment: Differences.Fragment = {
    trains: { x: ["M", "D"] },
    given: { rows: ["int64", ["N"]] },
    build: (g, x) => Linear.takeRows(g, x("x"), x("rows"))
  }

  it.effect("has the gradients of a gather and of differences", () => {
    const cases = [
      [5, [3, 0, 4]],
      [4, [2, 0, 3, 1]],
      [3, [1]]
    ] as const
    return Differences.check(
      fragment,
      cases.map(([m, rows], seed) => ({
        x: Differences.real(Run.seeded(seed), [m, 3]),
        rows: Tensor.int64(rows)
      })),
      { "the table": fragment }
    )
  })

  it.effect("has a gradient of the same bits with 1, 2 and 4 threads, every time", () => {
    const [m, width] = [4096, 64]
    const rows = Array.from({ length: m / 2 }, (_, i) => (i * 2731) % m)
    return Differences.checkThreads(fragment, {
      x: Differences.real(Run.seeded(8), [m, width]),
      rows: Tensor.int64(rows)
    })
  })
})
