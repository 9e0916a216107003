import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Norm from "../../src/nn/Norm.ts"
import * as Run from "../onnx/run.ts"
import * as Differences from "./differences.ts"

const width = 4

const feeds = (n: number, seed: number) => {
  const random = Run.seeded(seed)
  return { x: Differences.real(random, [n, width], 2), weight: Differences.real(random, [width]) }
}

/** `x / √(mean(x²) + epsilon) ∘ weight` in double precision. */
const normalised = ({ weight, x }: ReturnType<typeof feeds>, epsilon: number) =>
  Array.from(x.data, (value, i) => {
    const row = x.data.slice(i - (i % width), i - (i % width) + width)
    const meanSquare = row.reduce((sum, a) => sum + a * a, 0) / width
    return (value / Math.sqrt(meanSquare + epsilon)) * weight.data[i % width]!
  })

describe("rmsNorm", () => {
  for (const epsilon of [1e-6, 0.5]) {
    const fragment = (norm: typeof Norm.rmsNorm): Differences.Fragment => ({
      trains: { x: ["N", width], weight: [width] },
      build: (g, x) => norm(g, x("x"), x("weight"), epsilon)
    })
    const plain = fragment(Norm.rmsNormPlain)

    it.effect(`is rmsNormPlain, forwards and backwards: epsilon ${epsilon}`, () =>
      Differences.check(fragment(Norm.rmsNorm), [feeds(3, 1), feeds(1, 2)], { rmsNormPlain: plain })
    )

    it.effect(`written out adds epsilon to the mean square: epsilon ${epsilon}`, () =>
      Effect.gen(function* () {
        const given = feeds(3, 3)
        const { y } = yield* Run.once(Differences.forward(plain), given)
        Run.close(Run.numbers(y), normalised(given, epsilon), "norm", { absolute: 1e-6, relative: 1e-6 })
        yield* Differences.check(plain, [given])
      })
    )
  }
})

describe("layerNorm", () => {
  it.effect("adds epsilon to the variance, and has the gradients of differences", () =>
    Effect.gen(function* () {
      const fragment: Differences.Fragment = {
        trains: { x: ["N", width], weight: [width], bias: [width] },
        build: (g, x) => Norm.layerNorm(g, x("x"), x("weight"), x("bias"), 0.5)
      }
      const given = { ...feeds(3, 4), bias: Differences.real(Run.seeded(5), [width]) }
      const centred = given.x.data.map((value, i) => {
        const row = given.x.data.slice(i - (i % width), i - (i % width) + width)
        return value - row.reduce((sum, a) => sum + a, 0) / width
      })
      // The root mean square of what is left is the standard deviation.
      const scaled = normalised({ ...given, x: { ...given.x, data: centred } }, 0.5)
      const expected = scaled.map((value, i) => value + given.bias.data[i % width]!)
      const { y } = yield* Run.once(Differences.forward(fragment), given)
      Run.close(Run.numbers(y), expected, "norm", { absolute: 1e-6, relative: 1e-6 })
      yield* Differences.check(fragment, [given])
    })
  )
})
