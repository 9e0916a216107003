import { assert, describe, it } from "@effect/vitest"
import * as LearningRate from "../../src/onnx/LearningRate.ts"
import golden from "./optim.golden.json" with { type: "json" }

const make = (name: string, base: number, steps: number, floor: number): LearningRate.LearningRate => {
  if (name === "constant") return LearningRate.constant(base)
  return name === "linear" ? LearningRate.linear(base, steps, floor) : LearningRate.cosine(base, steps, floor)
}

const closeTo = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>, tolerance: number) => {
  assert.strictEqual(actual.length, expected.length)
  expected.forEach((value, i) => {
    assert.closeTo(actual[i]!, value, tolerance, `step ${i}`)
  })
}

describe("as in transformers", () => {
  for (const { min_rate, multipliers, name, total_steps, warmup_steps } of golden.schedules) {
    it(`${name} to ${min_rate} after ${warmup_steps} steps of warm-up`, () => {
      const base = 3e-4
      const after = make(name, base, total_steps - warmup_steps, min_rate * base)
      const rate = warmup_steps === 0 ? after : LearningRate.warmUp(warmup_steps, after)
      closeTo(
        multipliers.map((_, step) => rate(step) / base),
        multipliers,
        1e-12
      )
    })
  }
})

describe("as in the papers", () => {
  it("warms up from a tenth of the rate (InstructGPT)", () => {
    const rate = LearningRate.warmUp(10, LearningRate.constant(1), 0.1)
    closeTo([0, 1, 5, 10].map(rate), [0.1, 0.19, 0.55, 1], 1e-12)
  })

  it("follows half a cosine to a tenth of the rate", () => {
    const rate = LearningRate.cosine(1, 4, 0.1)
    closeTo([0, 1, 2, 3, 4].map(rate), [1, 0.86819805, 0.55, 0.23180195, 0.1], 1e-8)
  })
})

it("stays at the floor after the last step", () => {
  assert.strictEqual(LearningRate.linear(1, 4, 0.25)(100), 0.25)
  assert.strictEqual(LearningRate.cosine(1, 4, 0.25)(100), 0.25)
  assert.strictEqual(LearningRate.linear(1, 4)(5), 0)
})

it("is a rate, and no quotient of zeros, where a warm-up leaves no steps to what follows", () => {
  for (const make of [LearningRate.linear, LearningRate.cosine]) {
    const rate = LearningRate.warmUp(4, make(1, 0, 0.25))
    assert.deepStrictEqual([0, 2, 4, 5].map(rate), [0, 0.5, 1, 0.25])
  }
})

it("counts the steps of what follows a warm-up from its end", () => {
  const rate = LearningRate.warmUp(2, LearningRate.linear(1, 4))
  assert.deepStrictEqual([0, 1, 2, 3, 6].map(rate), [0, 0.5, 1, 0.75, 0])
})
