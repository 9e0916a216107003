import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "./run.ts"

const input = (g: Graph.Graph, name: string, ...shape: Graph.Shape) => Graph.input(g, name, "float32", shape)

const random = (seed: number, ...shape: ReadonlyArray<number>): Tensor.Tensor<"float32"> => {
  const { uniform } = Run.seeded(seed)
  return Tensor.float32(
    Float32Array.from({ length: Tensor.size(shape) }, () => uniform(-2, 2)),
    shape
  )
}

/** Runs `build` on inputs of fixed shapes, every shape rule checked, and returns its results as numbers. */
const evaluate = (
  feeds: Run.Tensors,
  build: (g: Graph.Graph, inputs: Readonly<Record<string, Graph.Value>>) => Readonly<Record<string, Graph.Value>>
) => {
  const g = Graph.make("g")
  const entries = Object.entries(feeds).map(([name, { dtype, shape }]) => [name, Graph.input(g, name, dtype, shape)])
  for (const [name, value] of Object.entries(build(g, Object.fromEntries(entries)))) Graph.output(g, name, value)
  return Effect.map(Run.once(g, feeds), (found) =>
    Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, Run.numbers(tensor)]))
  )
}

describe("operators without PyTorch's values", () => {
  it.effect("compare, with broadcasting, and combine the answers", () =>
    Effect.gen(function* () {
      const feeds = { x: Tensor.float32([1, 2, 3, 4], [2, 2]), y: Tensor.float32([1, 3]) }
      const found = yield* evaluate(feeds, (g, { x, y }) => {
        const [less, greater] = [Op.Less(g, x!, y!), Op.Greater(g, x!, y!)]
        return {
          less,
          greater,
          lessOrEqual: Op.LessOrEqual(g, x!, y!),
          greaterOrEqual: Op.GreaterOrEqual(g, x!, y!),
          equal: Op.Equal(g, x!, y!),
          or: Op.Or(g, less, greater),
          and: Op.And(g, less, greater),
          not: Op.Not(g, less)
        }
      })
      assert.deepInclude(found, {
        less: [0, 1, 0, 0],
        greater: [0, 0, 1, 1],
        lessOrEqual: [1, 1, 0, 0],
        greaterOrEqual: [1, 0, 1, 1],
        equal: [1, 0, 0, 0],
        or: [0, 1, 1, 1],
        and: [0, 0, 0, 0],
        not: [1, 0, 1, 1]
      })
    })
  )

  it.effect("find what is not a finite number", () =>
    Effect.gen(function* () {
      const x = Tensor.float32([1, NaN, Infinity, -Infinity])
      const found = yield* evaluate({ x }, (g, { x }) => ({ nan: Op.IsNaN(g, x!), inf: Op.IsInf(g, x!) }))
      assert.deepInclude(found, { nan: [0, 1, 0, 0], inf: [0, 0, 1, 1] })
    })
  )

  it.effect("pick the largest and smallest", () =>
    Effect.gen(function* () {
      const x = Tensor.float32([3, 1, 2, -1, 5, 4], [2, 3])
      const found = yield* evaluate({ x }, (g, { x }) => {
        const { indices, values } = Op.TopK(g, x!, Graph.ints(g, [2]), 2)
        return {
          values,
          indices,
          argMax: Op.ArgMax(g, x!, -1, false),
          argMaxRows: Op.ArgMax(g, x!, 0),
          min: Op.ReduceMin(g, x!, [0], false),
          squares: Op.ReduceSumSquare(g, x!, [-1])
        }
      })
      assert.deepInclude(found, {
        values: [3, 2, 5, 4],
        indices: [0, 2, 1, 2],
        argMax: [0, 1],
        argMaxRows: [0, 1, 1],
        min: [-1, 1, 2],
        squares: [14, 42]
      })
    })
  )

  it.effect("make ranges, constants and sums", () =>
    Effect.gen(function* () {
      const x = Tensor.float32([1, 2, 3, 4, 5, 6], [2, 3])
      const found = yield* evaluate({ x }, (g, { x }) => ({
        range: Op.Range(g, 4),
        zeros: Op.ConstantOfShape(g, [2]),
        ones: Op.ConstantOfShape(g, [1, 2], 1),
        sum: Op.sumAll(g, x!),
        scalarSum: Op.sumAll(g, Graph.scalar(g, 9)),
        cast: Op.Cast(g, Op.Div(g, x!, Graph.scalar(g, 2)), "int64")
      }))
      assert.deepInclude(found, {
        range: [0, 1, 2, 3],
        zeros: [0, 0],
        ones: [1, 1],
        sum: [21],
        scalarSum: [9],
        cast: [0, 1, 1, 2, 2, 3]
      })
    })
  )

  it.effect("cast between every pair of dtypes that graphs compute with", () =>
    Effect.gen(function* () {
      const dtypes = ["float32", "float64", "int64", "int32", "bool"] as const
      for (const from of dtypes) {
        for (const to of dtypes) {
          const g = Graph.make("g")
          const x = Op.Cast(g, input(g, "x", "N"), from)
          Graph.output(g, "y", Op.Cast(g, Op.Cast(g, x, to), "float32"))
          const { y } = yield* Run.once(g, { x: Tensor.float32([0, 1]) })
          assert.deepStrictEqual(Run.numbers(y), [0, 1], `${from} to ${to}`)
        }
      }
    })
  )
})

describe("mistakes in the program that builds a graph", () => {
  const g = Graph.make("g")
  const [x, y] = [input(g, "x", "B", 2), input(g, "y", "T", 2)]
  const n = Graph.input(g, "n", "int64", ["B", 2])
  const cases: ReadonlyArray<readonly [string, () => unknown, string]> = [
    ["different dtypes", () => Op.Add(g, x, n), "Add of x (float32) and n (int64): dtypes differ"],
    ["shapes that do not broadcast", () => Op.Mul(g, x, y), "shapes [B,2] and [T,2] do not broadcast"],
    ["matrices that do not fit", () => Op.MatMul(g, x, y), "cannot multiply [B,2] by [T,2]"],
    ["matrices that do not fit Gemm", () => Op.Gemm(g, x, y), "Gemm cannot multiply x [B,2] by y [T,2]"],
    ["a Gemm of batches", () => Op.Gemm(g, Op.Unsqueeze(g, x, [0]), y), "Gemm cannot multiply"],
    ["an axis outside the shape", () => Op.ReduceSum(g, x, [2]), "axis 2 is outside the shape [B,2]"],
    ["a size that nothing has", () => Op.Expand(g, x, ["V", "B", 2]), "no value has the dimension V"]
  ]
  for (const [name, mistake, message] of cases) it(`are reported: ${name}`, () => assert.throws(mistake, message))
})

describe("no node is appended", () => {
  it("for a cast, a reshape or an expansion that changes nothing", () => {
    const g = Graph.make("g")
    const x = input(g, "x", "B", 2)
    assert.strictEqual(Op.Cast(g, x, "float32"), x)
    assert.strictEqual(Op.Reshape(g, x, ["B", 2]), x)
    assert.strictEqual(Op.Expand(g, x, ["B", 2]), x)
    assert.strictEqual(g.nodes.length, 0)
  })
})

describe("Reshape", () => {
  const target = (from: Graph.Shape, to: Graph.Shape, others: Graph.Shape = []): ReadonlyArray<number> | undefined => {
    const g = Graph.make("g")
    if (others.length > 0) input(g, "others", ...others)
    Op.Reshape(g, input(g, "x", ...from), to)
    const data = g.initializers.get(g.nodes.at(-1)!.inputs[1]!)?.data
    return data === undefined ? undefined : Array.from(data as BigInt64Array, Number)
  }

  it("states the shape as a constant where copying and inferring suffice", () => {
    assert.deepStrictEqual(target(["B", "T", 6], ["B", "T", 3, 2]), [0, 0, 3, 2])
    assert.deepStrictEqual(target(["B", "T", 3, 2], ["B", "T", 6]), [0, 0, 6])
    assert.deepStrictEqual(target(["B", "T", 6], ["B*T", 6]), [-1, 6])
    assert.deepStrictEqual(target([2, 6], [3, 4]), [3, 4])
    assert.deepStrictEqual(target(["B", 1, "T"], ["B", "T"]), [0, -1])
  })

  it("reads sizes where two are unknown, and infers the one that no value has", () => {
    assert.isUndefined(target(["M", "D"], ["B", "T", "D"], ["B", "T"]))
    assert.isUndefined(target(["B", "T", "D"], ["B*T", "D"]))
  })

  it.effect("runs at several sizes on one session, there and back", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      input(g, "ids", "B", "T")
      const x = input(g, "x", "B*T", "H*Dh")
      input(g, "heads", "H", "Dh")
      const heads = Op.Reshape(g, x, ["B", "T", "H", "Dh"])
      Graph.output(g, "flipped", Op.Transpose(g, heads, [0, 2, 1, 3]))
      Graph.output(g, "back", Op.Reshape(g, heads, ["B*T", "H*Dh"]))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { run } = yield* Run.open(Run.exposed(g))
          for (const [b, t, h, d] of [
            [2, 3, 2, 2],
            [1, 1, 1, 1],
            [3, 1, 4, 2]
          ] as const) {
            const fed = random(3, b * t, h * d)
            const { back, flipped } = yield* run({
              ids: Tensor.zeros([b, t]),
              heads: Tensor.zeros([h, d]),
              x: fed
            })
            assert.deepStrictEqual(flipped!.shape, [b, h, t, d])
            assert.deepStrictEqual(Run.numbers(back), [...fed.data])
          }
        })
      )
    })
  )
})

describe("Concat", () => {
  it("adds numbers, names what is symbolic, and takes a given name", () => {
    const g = Graph.make("g")
    const [past, now, two] = [input(g, "past", "B", "P"), input(g, "now", "B", "T"), input(g, "two", "B", 2)]
    assert.deepStrictEqual(Op.Concat(g, [two, two], 1).shape, ["B", 4])
    assert.deepStrictEqual(Op.Concat(g, [past, now], -1).shape, ["B", "P+T"])
    assert.deepStrictEqual(Op.Concat(g, [past, now], 1, "S").shape, ["B", "S"])
  })
})

describe("control flow", () => {
  const loop = (g: Graph.Graph, x: Graph.Value, condition?: Graph.Value) => {
    const body = Graph.make("body", g)
    const i = Graph.input(body, "i", "int64", [])
    Graph.input(body, "on", "bool", [])
    const state = Graph.input(body, "state", "float32", x.shape)
    const next = Op.Add(body, state, Graph.value(g, "step"))
    Graph.output(body, "on_out", Op.Less(body, i, Graph.int(body, 2)))
    Graph.output(body, "state_out", next)
    Graph.output(body, "scan", next)
    return Op.Loop(g, Graph.int(g, 10), [x], body, condition === undefined ? { scans: "n" } : { scans: "n", condition })
  }

  it.effect("loops until the condition fails, reads values around the body, and stacks scans", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", "B")
      input(g, "step")
      const [last, scan] = loop(g, x)
      assert.deepStrictEqual([last!.shape, scan!.shape], [["B"], ["n", "B"]])
      Graph.output(g, "last", last!)
      Graph.output(g, "scan", scan!)
      const found = yield* Run.once(g, { x: Tensor.float32([0, 5]), step: Tensor.scalar(2) })
      assert.deepStrictEqual(Run.numbers(found.last), [6, 11])
      assert.deepStrictEqual(Run.numbers(found.scan), [2, 7, 4, 9, 6, 11])
    })
  )

  it.effect("scans the rows of several tensors at once, and stacks what the body makes of them", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const [x, y] = [input(g, "x", "R", 2), input(g, "y", "R", 2)]
      input(g, "step")
      const body = Graph.make("body", g)
      const [a, b] = [Graph.input(body, "a", "float32", [2]), Graph.input(body, "b", "float32", [2])]
      const sum = Op.Add(body, a, b)
      Graph.output(body, sum.name, sum)
      Graph.output(body, "shifted", Op.Add(body, sum, Graph.value(g, "step")))
      const [sums, shifted] = Op.Scan(g, [x, y], body)
      assert.deepStrictEqual(
        [sums!.shape, shifted!.shape],
        [
          ["R", 2],
          ["R", 2]
        ]
      )
      Graph.output(g, "sums", sums!)
      Graph.output(g, "shifted out", shifted!)
      const rows = (...data: Array<number>) => Tensor.float32(data, [3, 2])
      const feeds = { x: rows(1, 2, 3, 4, 5, 6), y: rows(10, 20, 30, 40, 50, 60), step: Tensor.scalar(0.5) }
      const found = yield* Run.once(g, feeds)
      assert.deepStrictEqual(Run.numbers(found.sums), [11, 22, 33, 44, 55, 66])
      assert.deepStrictEqual(Run.numbers(found["shifted out"]), [11.5, 22.5, 33.5, 44.5, 55.5, 66.5])
    })
  )

  it.effect("does not enter a loop whose condition is false", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", "B")
      input(g, "step")
      const [last] = loop(g, x, Graph.input(g, "enter", "bool", []))
      Graph.output(g, "y", last!)
      const enter = Tensor.make("bool", Uint8Array.of(0), [])
      const feeds = { x: Tensor.float32([7]), step: Tensor.scalar(2), enter }
      // The scan is not an output: without an iteration ONNX Runtime gives its named dimensions the size 0.
      const found = yield* Effect.scoped(Effect.flatMap(Run.open(g), ({ run }) => run(feeds)))
      assert.deepStrictEqual(Run.numbers(found.y), [7])
    })
  )

  it.effect("takes the branch that the condition says", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", "B")
      const branch = (name: string, op: (g: Graph.Graph, x: Graph.Value) => Graph.Value) => {
        const body = Graph.make(name, g)
        Graph.output(body, `${name}_out`, op(body, x))
        return body
      }
      const condition = Graph.input(g, "condition", "bool", [])
      const outputs = [{ dtype: "float32" as const, shape: ["B"] }]
      const [y] = Op.If(g, condition, branch("yes", Op.Neg), branch("no", Op.Identity), outputs)
      Graph.output(g, "y", y!)
      for (const [flag, expected] of [
        [1, -3],
        [0, 3]
      ] as const) {
        const found = yield* Run.once(g, {
          x: Tensor.float32([3]),
          condition: Tensor.make("bool", Uint8Array.of(flag), [])
        })
        assert.deepStrictEqual(Run.numbers(found.y), [expected])
      }
    })
  )
})

describe("operators of ONNX Runtime's own", () => {
  it.effect("FusedMatMul is the scaled product of transposed matrices", () =>
    Effect.gen(function* () {
      const swap = [0, 2, 1]
      for (const transA of [false, true]) {
        for (const transB of [false, true]) {
          const feeds = {
            a: random(1, ...(transA ? [2, 4, 3] : [2, 3, 4])),
            b: random(2, ...(transB ? [1, 5, 4] : [1, 4, 5]))
          }
          const found = yield* evaluate(feeds, (g, { a, b }) => {
            const left = transA ? Op.Transpose(g, a!, swap) : a!
            const right = transB ? Op.Transpose(g, b!, swap) : b!
            return {
              fused: Op.FusedMatMul(g, a!, b!, { transA, transB, alpha: 0.125 }),
              plain: Op.Mul(g, Op.MatMul(g, left, right), Graph.scalar(g, 0.125))
            }
          })
          Run.close(found.fused!, found.plain!, `transA ${transA}, transB ${transB}`)
        }
      }
    })
  )

  it.effect("RotaryEmbedding turns the halves of each head by the angles of its position", () =>
    Effect.gen(function* () {
      const [b, h, t, d] = [2, 3, 4, 6]
      const angles = Array.from({ length: 8 * (d / 2) }, (_, i) => Math.floor(i / 3) * 10000 ** (-(i % 3) / 3))
      const feeds = {
        x: random(5, b, h, t, d),
        positions: Tensor.int64([0, 1, 2, 3, 4, 0, 7, 5], [b, t]),
        cos: Tensor.float32(angles.map(Math.cos), [8, d / 2]),
        sin: Tensor.float32(angles.map(Math.sin), [8, d / 2])
      }
      const found = yield* evaluate(feeds, (g, { cos, positions, sin, x }) => {
        const [first, second] = Op.Split(g, x!, [d / 2, d / 2], -1)
        const rows = (table: Graph.Value) => Op.Unsqueeze(g, Op.Gather(g, table, positions!), [1]) // [B, 1, T, Dh / 2]
        const [c, s] = [rows(cos!), rows(sin!)]
        const turned = [
          Op.Sub(g, Op.Mul(g, first!, c), Op.Mul(g, second!, s)),
          Op.Add(g, Op.Mul(g, second!, c), Op.Mul(g, first!, s))
        ]
        return { fused: Op.RotaryEmbedding(g, x!, positions!, cos!, sin!), plain: Op.Concat(g, turned, -1) }
      })
      Run.close(found.fused!, found.plain!, "RotaryEmbedding")
    })
  )

  it.effect("SimplifiedLayerNormalization divides by the root mean square, and returns what it multiplied by", () =>
    Effect.gen(function* () {
      const found = yield* evaluate({ x: random(6, 2, 3, 8), w: random(7, 8) }, (g, { w, x }) => {
        const { invRms, y } = Op.SimplifiedLayerNormalization(g, x!, w!, 1e-2)
        const square = Op.ReduceMean(g, Op.Mul(g, x!, x!), [-1])
        const inverse = Op.Reciprocal(g, Op.Sqrt(g, Op.Add(g, square, Graph.scalar(g, 1e-2))))
        return { y, invRms, plain: Op.Mul(g, Op.Mul(g, x!, inverse), w!), inverse }
      })
      Run.close(found.y!, found.plain!, "y")
      Run.close(found.invRms!, found.inverse!, "invRms")
    })
  )

  it.effect("LayerNormalization returns the mean and 1/σ that its gradient needs", () =>
    Effect.gen(function* () {
      const found = yield* evaluate({ x: random(8, 4, 8), w: random(9, 8), b: random(10, 8) }, (g, { b, w, x }) => {
        const { invStdDev, mean, y } = Op.LayerNormalization(g, x!, w!, b!, 1e-2)
        const middle = Op.ReduceMean(g, x!, [-1])
        const centred = Op.Sub(g, x!, middle)
        const variance = Op.ReduceMean(g, Op.Mul(g, centred, centred), [-1])
        const inverse = Op.Reciprocal(g, Op.Sqrt(g, Op.Add(g, variance, Graph.scalar(g, 1e-2))))
        const plain = Op.Add(g, Op.Mul(g, Op.Mul(g, centred, inverse), w!), b!)
        return { y, mean, invStdDev, plain, middle, inverse }
      })
      Run.close(found.y!, found.plain!, "y")
      Run.close(found.mean!, found.middle!, "mean")
      Run.close(found.invStdDev!, found.inverse!, "invStdDev")
    })
  )
})

describe("sizes that are known when the graph runs", () => {
  it.effect("flow through every operator that moves elements", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", "B", "T")
      const past = input(g, "past", "B", "P")
      const all = Op.Concat(g, [past, x], 1)
      const sizes = Op.Concat(g, [Graph.dim(g, "P"), Graph.dim(g, "T")], 0)
      const [before, after] = Op.SplitAt(g, all, sizes, ["P", "T"], 1)
      Graph.output(g, "same", Op.Sub(g, after!, x))
      Graph.output(g, "last", Op.Slice(g, all, Graph.ints(g, [-1]), Graph.ints(g, [2 ** 31]), 1, 1))
      Graph.output(g, "mean", Op.ReduceMean(g, before!, [1], false))
      Graph.output(g, "grid", Op.Expand(g, Op.Unsqueeze(g, Op.Range(g, "T"), [0]), ["B", "T"]))
      Graph.output(g, "blank", Op.ConstantOfShape(g, ["T", 2]))
      const { indices, values } = Op.TopK(g, all, Graph.dim(g, "T"), "T")
      Graph.output(g, "top", Op.Sub(g, values, Op.GatherElements(g, all, indices, 1)))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { run } = yield* Run.open(Run.exposed(g))
          for (const [b, t, p] of [
            [2, 3, 4],
            [1, 1, 1],
            [3, 2, 5]
          ] as const) {
            const fed = { x: random(1, b, t), past: random(2, b, p) }
            const found = yield* run(fed)
            const zeros = new Float32Array(b * t)
            Run.close(Run.numbers(found.same), zeros, "the part that was put in")
            Run.close(Run.numbers(found.top), zeros, "the largest, and what stands there")
            const row = (i: number) => fed.past.data.subarray(i * p, (i + 1) * p)
            const means = Array.from({ length: b }, (_, i) => row(i).reduce((sum, v) => sum + v, 0) / p)
            Run.close(Run.numbers(found.mean), means, "mean over a named axis")
            Run.close(
              Run.numbers(found.last),
              Array.from({ length: b }, (_, i) => fed.x.data[(i + 1) * t - 1]!),
              "last position"
            )
            assert.deepStrictEqual(
              Run.numbers(found.grid),
              Array.from({ length: b * t }, (_, i) => i % t)
            )
            assert.deepStrictEqual(found.blank!.shape, [t, 2])
          }
        })
      )
    })
  )
})
