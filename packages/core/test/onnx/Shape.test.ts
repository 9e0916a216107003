import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import type { Dim } from "../../src/onnx/Graph.ts"
import * as Shape from "../../src/onnx/Shape.ts"

const dims = Schema.Literals([1, 2, 3, "B", "T"])
const shapes = Arbitrary.array(Arbitrary.schema(dims), { maxLength: 4 })

/** `undefined` where the shapes do not broadcast. */
const attempt = (a: ReadonlyArray<Dim>, b: ReadonlyArray<Dim>) => {
  try {
    return Shape.broadcast(a, b)
  } catch {
    return undefined
  }
}

describe("equals", () => {
  it("compares rank, numbers and names", () => {
    assert.isTrue(Shape.equals(["B", 2], ["B", 2]))
    assert.isTrue(Shape.equals([], []))
    assert.isFalse(Shape.equals(["B", 2], ["B"]))
    assert.isFalse(Shape.equals(["B"], ["T"]))
    assert.isFalse(Shape.equals([2], ["2"]))
  })
})

describe("axis", () => {
  it("counts from the front or the back, and refuses what is outside", () => {
    assert.deepStrictEqual(
      [0, 1, -1, -2].map((index) => Shape.axis(["B", "T"], index)),
      [0, 1, 1, 0]
    )
    assert.throws(() => Shape.axis(["B", "T"], 2), "axis 2 is outside the shape [B,T]")
    assert.throws(() => Shape.axis(["B", "T"], -3), "axis -3")
    assert.throws(() => Shape.axis([], 0), "axis 0")
  })
})

describe("withDim", () => {
  it("replaces one dimension and leaves the argument alone", () => {
    const shape = ["B", "T", 3]
    assert.deepStrictEqual(Shape.withDim(shape, -2, 1), ["B", 1, 3])
    assert.deepStrictEqual(shape, ["B", "T", 3])
  })
})

describe("broadcast", () => {
  it("aligns at the back and stretches ones, named dimensions included", () => {
    assert.deepStrictEqual(Shape.broadcast(["B", "T"], ["T"]), ["B", "T"])
    assert.deepStrictEqual(Shape.broadcast(["B", 1, 4], ["T", 1]), ["B", "T", 4])
    assert.deepStrictEqual(Shape.broadcast([], [2, 3]), [2, 3])
    assert.deepStrictEqual(Shape.broadcast([1], []), [1])
  })

  it("refuses different numbers, different names, and a name against a number", () => {
    assert.throws(() => Shape.broadcast([2], [3]), "shapes [2] and [3] do not broadcast")
    assert.throws(() => Shape.broadcast(["B"], ["T"]), "do not broadcast")
    assert.throws(() => Shape.broadcast(["B", 2], [2, 2]), "do not broadcast")
  })

  it.prop("does not depend on the order, and changes nothing the second time", [shapes, shapes], ([a, b]) => {
    const shape = attempt(a, b)
    assert.deepStrictEqual(attempt(b, a), shape)
    if (shape === undefined) return
    assert.deepStrictEqual(Shape.broadcast(shape, a), shape)
    assert.deepStrictEqual(Shape.broadcast(shape, b), shape)
  })
})

describe("broadcastAxes", () => {
  it("names the axes that broadcasting added or stretched", () => {
    assert.deepStrictEqual(Shape.broadcastAxes(["B", "T", 4], [4]), [0, 1])
    assert.deepStrictEqual(Shape.broadcastAxes(["B", "T", 4], ["B", 1, 4]), [1])
    assert.deepStrictEqual(Shape.broadcastAxes(["B", "T"], ["B", "T"]), [])
    assert.deepStrictEqual(Shape.broadcastAxes(["B", 1], [1, 1]), [0])
    assert.deepStrictEqual(Shape.broadcastAxes([2, 3], []), [0, 1])
  })

  it.prop("leads back to the shape that was broadcast", [shapes, shapes], ([a, b]) => {
    const shape = attempt(a, b)
    if (shape === undefined) return
    const summed = Shape.reduce(shape, Shape.broadcastAxes(shape, a), true)
    assert.deepStrictEqual(summed.slice(shape.length - a.length), a)
    assert.isTrue(summed.slice(0, shape.length - a.length).every((dim) => dim === 1))
  })
})

describe("product", () => {
  it("multiplies numbers and names what is symbolic after its factors", () => {
    assert.strictEqual(Shape.product([2, 3]), 6)
    assert.strictEqual(Shape.product([]), 1)
    assert.strictEqual(Shape.product(["B", "T"]), "B*T")
    assert.strictEqual(Shape.product(["B", 1]), "B")
    assert.strictEqual(Shape.product(["B", 2, "T", 3]), "6*B*T")
  })
})

describe("matMul", () => {
  it("multiplies the last two axes and broadcasts the others", () => {
    assert.deepStrictEqual(Shape.matMul(["T", "D"], ["D", 5]), ["T", 5])
    assert.deepStrictEqual(Shape.matMul(["B", 1, "T", 4], ["H", 4, "T"]), ["B", "H", "T", "T"])
  })

  it("refuses vectors and inner dimensions that differ", () => {
    assert.throws(() => Shape.matMul([3], [3, 4]), "cannot multiply [3] by [3,4]")
    assert.throws(() => Shape.matMul([3, 4], [4]), "cannot multiply")
    assert.throws(() => Shape.matMul(["T", "D"], ["T", 5]), "cannot multiply [T,D] by [T,5]")
    assert.throws(() => Shape.matMul([2, 3, 4], [3, 4, 5]), "do not broadcast")
  })
})

describe("reduce", () => {
  it("drops axes or keeps them as ones", () => {
    assert.deepStrictEqual(Shape.reduce(["B", "T", 4], [-1], false), ["B", "T"])
    assert.deepStrictEqual(Shape.reduce(["B", "T", 4], [0, -1], true), [1, "T", 1])
    assert.deepStrictEqual(Shape.reduce(["B", "T"], [], false), ["B", "T"])
    assert.throws(() => Shape.reduce(["B"], [1], true), "axis 1")
  })
})
