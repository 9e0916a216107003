import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Result } from "effect"
import * as Linear from "../../src/nn/Linear.ts"
import * as Gradient from "../../src/onnx/Gradient.ts"
import { gradientRules } from "../../src/onnx/GradientRules.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import type { OpName } from "../../src/onnx/Op.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "./run.ts"

/** Appends the gradients as outputs `d<name>`, prunes, and holds the graph against `Graph.check` before and after. */
const differentiated = (g: Graph.Graph, loss: Graph.Value, parameters: ReadonlyArray<Graph.Value>): Graph.Graph => {
  const gradients = Result.getOrThrow(Gradient.backward(g, loss, parameters))
  for (const [name, dy] of gradients) Graph.output(g, `d${name}`, dy)
  assert.deepStrictEqual(Graph.check(g), [])
  assert.deepStrictEqual(Graph.check(Graph.prune(g)), [])
  return g
}

const refusal = (g: Graph.Graph, loss: Graph.Value, parameters: ReadonlyArray<Graph.Value>) =>
  Option.getOrUndefined(Result.getFailure(Gradient.backward(g, loss, parameters)))

const input = (g: Graph.Graph, name: string, ...shape: Graph.Shape) => Graph.input(g, name, "float32", shape)

const gradient = (found: Run.Tensors, name: string) => Run.numbers(found[`d${name}`])

const ops = (g: Graph.Graph) => g.nodes.map(({ op }) => op)

describe("backward", () => {
  it.effect("adds up the gradients of a value that is used several times", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", "B")
      // y = x² + x sin x;  dy/dx = 2x + sin x + x cos x
      const y = Op.Add(g, Op.Mul(g, x, x), Op.Mul(g, x, Op.Sin(g, x)))
      const found = yield* Run.once(differentiated(g, Op.sumAll(g, y), [x]), { x: Tensor.float32([0.5, -2]) })
      Run.close(
        gradient(found, "x"),
        [0.5, -2].map((v) => 2 * v + Math.sin(v) + v * Math.cos(v)),
        "dx"
      )
    })
  )

  it.effect("adds up the gradients of an intermediate value before it goes on", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", "B")
      const e = Op.Exp(g, x)
      // y = e^x e^x + 3 e^x;  dy/dx = 2 e^2x + 3 e^x
      const y = Op.Add(g, Op.Mul(g, e, e), Op.Mul(g, e, Graph.scalar(g, 3)))
      differentiated(g, Op.sumAll(g, y), [x])
      const found = yield* Run.once(g, { x: Tensor.float32([0, 1]) })
      Run.close(
        gradient(found, "x"),
        [0, 1].map((v) => 2 * Math.exp(2 * v) + 3 * Math.exp(v)),
        "dx"
      )
    })
  )

  it("has no entry for a parameter that the loss does not depend on", () => {
    const g = Graph.make("g")
    const [x, unused, elsewhere] = [input(g, "x", "B"), input(g, "unused", "B"), input(g, "elsewhere", "B")]
    Op.Mul(g, x, elsewhere)
    const loss = Op.sumAll(g, Op.Mul(g, x, x))
    const gradients = Result.getOrThrow(Gradient.backward(g, loss, [x, unused, elsewhere]))
    assert.deepStrictEqual([...gradients.keys()], ["x"])
  })

  it("has no entry where only integers and booleans lead to the loss", () => {
    const g = Graph.make("g")
    const x = input(g, "x", "B", "V")
    const winner = Op.Cast(g, Op.ArgMax(g, x, -1), "float32")
    const many = Op.Cast(g, Op.Greater(g, x, Graph.scalar(g, 0)), "float32")
    const loss = Op.Add(g, Op.sumAll(g, winner), Op.sumAll(g, many))
    assert.strictEqual(Result.getOrThrow(Gradient.backward(g, loss, [x])).size, 0)
  })

  it("appends nothing for values that no parameter reaches", () => {
    const g = Graph.make("g")
    const [x, frozen] = [input(g, "x", "B"), input(g, "frozen", "B")]
    const loss = Op.sumAll(g, Op.Mul(g, x, Op.Tanh(g, Op.Exp(g, frozen))))
    const forward = ops(g).length
    Result.getOrThrow(Gradient.backward(g, loss, [x]))
    assert.isFalse(
      ops(g)
        .slice(forward)
        .some((op) => op === "Sub" || op === "Exp"),
      "no derivative of Tanh or Exp"
    )
  })

  it.effect("is zero for a power of zero, also at zero, as in PyTorch", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const [x, c] = [input(g, "x", "B"), input(g, "c", "B")]
      const feeds = { x: Tensor.float32([0, -2, 3]), c: Tensor.float32([0, 0, 2]) }
      const found = yield* Run.once(differentiated(g, Op.sumAll(g, Op.Pow(g, x, c)), [x]), feeds)
      assert.deepStrictEqual(gradient(found, "x"), [0, 0, 6])
    })
  )

  it.effect("is 1 for the loss itself when that is a parameter's element", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x")
      const found = yield* Run.once(differentiated(g, x, [x]), { x: Tensor.scalar(5) })
      assert.deepStrictEqual(gradient(found, "x"), [1])
    })
  )

  it.effect("sums over broadcast axes, named ones and added ones, to the parameter's shape", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const [x, row, column, scalar] = [
        input(g, "x", "B", "T"),
        input(g, "row", "T"),
        input(g, "column", "B", 1),
        input(g, "scalar")
      ]
      const y = Op.Mul(g, Op.Mul(g, Op.Mul(g, x, row), column), scalar)
      differentiated(g, Op.sumAll(g, y), [row, column, scalar])
      const found = yield* Run.once(g, {
        x: Tensor.float32([1, 2, 3, 4, 5, 6], [2, 3]),
        row: Tensor.float32([1, 10, 100]),
        column: Tensor.float32([2, 3], [2, 1]),
        scalar: Tensor.scalar(0.5)
      })
      assert.deepStrictEqual(found.drow!.shape, [3])
      assert.deepStrictEqual(found.dcolumn!.shape, [2, 1])
      assert.deepStrictEqual(found.dscalar!.shape, [])
      Run.close(gradient(found, "row"), [0.5 * (2 + 12), 0.5 * (4 + 15), 0.5 * (6 + 18)], "drow")
      Run.close(gradient(found, "column"), [0.5 * (1 + 20 + 300), 0.5 * (4 + 50 + 600)], "dcolumn")
      Run.close(gradient(found, "scalar"), [2 * 321 + 3 * 654], "dscalar")
    })
  )

  it.effect("differentiates by an intermediate value, and past it", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", "B")
      const y = Op.Exp(g, x)
      const gradients = Result.getOrThrow(Gradient.backward(g, Op.sumAll(g, Op.Mul(g, y, y)), [y, x]))
      Graph.output(g, "dy", gradients.get(y.name)!)
      Graph.output(g, "dx", gradients.get("x")!)
      const found = yield* Run.once(g, { x: Tensor.float32([0, 1]) })
      Run.close(gradient(found, "y"), [2, 2 * Math.E], "dy")
      Run.close(gradient(found, "x"), [2, 2 * Math.E ** 2], "dx")
    })
  )
})

describe("scattered gradients", () => {
  // The table is read by Gather at the front and by Gemm at the end, as tied embeddings are.
  const tied = (g: Graph.Graph) => {
    const table = input(g, "table", "V", "D")
    const ids = Graph.input(g, "ids", "int64", ["B", "T"])
    const hidden = Op.Reshape(g, Op.Gather(g, table, ids), [Graph.input(g, "rows", "float32", ["N"]).shape[0]!, "D"])
    const logits = Op.Gemm(g, Op.Tanh(g, hidden), table, { transB: true })
    return { table, loss: Op.sumAll(g, Op.Mul(g, logits, logits)) }
  }

  it.effect("are added into the dense gradient of the same table, without zeros of their own", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const { loss, table } = tied(g)
      Graph.output(g, "loss", loss)
      differentiated(g, loss, [table])
      assert.isFalse(ops(g).includes("ConstantOfShape"))
      assert.strictEqual(ops(g).filter((op) => op === "ScatterElements").length, 1)
      const random = Run.seeded(11)
      const feeds = {
        ids: Tensor.int64([2, 0, 2, 2, 1, 0], [2, 3]),
        rows: Tensor.zeros([6]),
        table: Tensor.float32(
          Float32Array.from({ length: 8 }, () => random.uniform(-0.9, 0.9)),
          [4, 2]
        )
      }
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { run } = yield* Run.open(Run.exposed(g))
          const found = yield* run(feeds)
          const h = 2 ** -6
          for (let i = 0; i < 8; i++) {
            const at = (step: number) => {
              const data = feeds.table.data.slice()
              data[i]! += step * h
              return Effect.map(run({ ...feeds, table: { ...feeds.table, data } }), (r) => Run.numbers(r.loss)[0]!)
            }
            const slope = (8 * ((yield* at(1)) - (yield* at(-1))) - ((yield* at(2)) - (yield* at(-2)))) / (12 * h)
            assert.closeTo(gradient(found, "table")[i]!, slope, 1e-4, `element ${i}`)
          }
        })
      )
    })
  )

  it.effect("of two lookups share one zero tensor", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const table = input(g, "table", "V", 2)
      const [a, b] = [Graph.input(g, "a", "int64", ["N"]), Graph.input(g, "b", "int64", ["M"])]
      const loss = Op.Add(g, Op.sumAll(g, Op.Gather(g, table, a)), Op.sumAll(g, Op.Gather(g, table, b)))
      differentiated(g, loss, [table])
      assert.strictEqual(ops(g).filter((op) => op === "ConstantOfShape").length, 1)
      const found = yield* Run.once(g, {
        table: Tensor.zeros([3, 2]),
        a: Tensor.int64([0, 0, 2]),
        b: Tensor.int64([-1, 0])
      })
      assert.deepStrictEqual(gradient(found, "table"), [3, 3, 0, 0, 2, 2])
    })
  )
})

describe("MissingGradientRule", () => {
  it("names the operator that has no rule, and its node", () => {
    const g = Graph.make("g")
    const x = input(g, "x", "B")
    const [y] = Graph.append(g, "Mish", [x], [{ dtype: "float32", shape: x.shape }])
    const error = refusal(g, Op.sumAll(g, y!), [x])
    assert.instanceOf(error, Gradient.MissingGradientRule)
    assert.deepStrictEqual([error?._tag, error?.op, error?.node], ["MissingGradientRule", "Mish", "g/Mish_0"])
    assert.include(error?.message, "no gradient rule for the ONNX operator Mish (node g/Mish_0)")
  })

  it("is not reported for an operator off the path between the parameters and the loss", () => {
    const g = Graph.make("g")
    const [x, frozen] = [input(g, "x", "B"), input(g, "frozen", "B")]
    const mish = (value: Graph.Value) => Graph.append(g, "Mish", [value], [{ dtype: "float32", shape: ["B"] }])[0]!
    mish(x)
    assert.isUndefined(refusal(g, Op.sumAll(g, Op.Mul(g, x, mish(frozen))), [x]))
  })

  it("is reported where the statistics of a normalisation would need a gradient", () => {
    const g = Graph.make("g")
    const [x, w] = [input(g, "x", "B", "D"), input(g, "w", "D")]
    const layer = Op.LayerNormalization(g, x, w, w, 1e-5)
    const rms = Op.SimplifiedLayerNormalization(g, x, w, 1e-5)
    assert.isUndefined(refusal(g, Op.sumAll(g, Op.Add(g, layer.y, rms.y)), [x]))
    assert.strictEqual(refusal(g, Op.sumAll(g, Op.Mul(g, layer.y, layer.mean)), [x])?.op, "LayerNormalization")
    assert.strictEqual(refusal(g, Op.sumAll(g, rms.invRms), [x])?.op, "SimplifiedLayerNormalization")
  })

  it("is reported for a parameter where the rule wants a constant, instead of leaving it out", () => {
    const g = Graph.make("g")
    const [x, c] = [input(g, "x", "B"), input(g, "c")]
    const power = Op.sumAll(g, Op.Pow(g, x, c))
    const clipped = Op.sumAll(g, Op.Clip(g, x, c, Graph.scalar(g, 1)))
    assert.isUndefined(refusal(g, Op.Add(g, power, clipped), [x]))
    assert.strictEqual(refusal(g, power, [x, c])?.op, "Pow")
    assert.strictEqual(refusal(g, clipped, [c])?.op, "Clip")
  })

  const branch = (g: Graph.Graph, name: string, build: (body: Graph.Graph) => Graph.Value) => {
    const body = Graph.make(name, g)
    Graph.output(body, `${name}_out`, build(body))
    return body
  }
  const choice = (g: Graph.Graph, x: Graph.Value, yes: (body: Graph.Graph) => Graph.Value) => {
    const condition = Graph.input(g, "condition", "bool", [])
    const no = branch(g, "no", (body) => Op.Identity(body, Graph.value(g, "other")))
    return Op.If(g, condition, branch(g, "yes", yes), no, [{ dtype: "float32", shape: x.shape }])[0]!
  }
  const loop = (g: Graph.Graph, x: Graph.Value, change: (body: Graph.Graph, state: Graph.Value) => Graph.Value) => {
    const body = Graph.make("body", g)
    Graph.input(body, "i", "int64", [])
    const on = Graph.input(body, "on", "bool", [])
    const state = Graph.input(body, "state", "float32", x.shape)
    Graph.output(body, "on_out", on)
    Graph.output(body, "state_out", change(body, state))
    return Op.Loop(g, Graph.int(g, 2), [x], body)[0]!
  }

  it("is reported for a Loop that carries a parameter", () => {
    const g = Graph.make("g")
    const x = input(g, "x", "B")
    const y = loop(g, x, (body, state) => Op.Mul(body, state, state))
    assert.strictEqual(refusal(g, Op.sumAll(g, y), [x])?.op, "Loop")
  })

  it("is reported for a Loop whose body reads a parameter around it", () => {
    const g = Graph.make("g")
    const [x, w] = [input(g, "x", "B"), input(g, "w", "B")]
    const y = loop(g, x, (body, state) => Op.Mul(body, state, w))
    assert.strictEqual(refusal(g, Op.sumAll(g, Op.Mul(g, y, w)), [w])?.op, "Loop")
  })

  it("is reported for an If whose branch reads a parameter", () => {
    const g = Graph.make("g")
    const x = input(g, "x", "B")
    input(g, "other", "B")
    const y = choice(g, x, (body) => Op.Mul(body, x, x))
    assert.strictEqual(refusal(g, Op.sumAll(g, y), [x])?.op, "If")
  })

  it("is reported for a Scan over a parameter", () => {
    const g = Graph.make("g")
    const x = input(g, "x", "B", 2)
    const body = Graph.make("body", g)
    const row = Graph.input(body, "row", "float32", [2])
    Graph.output(body, "out", Op.Mul(body, row, row))
    assert.strictEqual(refusal(g, Op.sumAll(g, Op.Scan(g, [x], body)[0]!), [x])?.op, "Scan")
  })

  it("is not reported for Loop and If that no parameter reaches", () => {
    const g = Graph.make("g")
    const [x, other] = [input(g, "x", "B"), input(g, "other", "B")]
    const scale = loop(
      g,
      choice(g, other, (body) => Op.Neg(body, other)),
      (body, state) => Op.Exp(body, state)
    )
    assert.isUndefined(refusal(g, Op.sumAll(g, Op.Mul(g, x, scale)), [x]))
  })

  it.effect("does not stop a graph from being differentiated inside a Loop's body", () =>
    Effect.gen(function* () {
      // Two steps of x ← x - 0.1 d/dx Σ w x², that is x (1 - 0.2 w)²; w and the step live outside the loop.
      const g = Graph.make("g")
      const [x, w] = [input(g, "x", "B"), input(g, "w", "B")]
      const y = loop(g, x, (body, state) => {
        const loss = Op.sumAll(body, Op.Mul(body, w, Op.Mul(body, state, state)))
        const gradients = Result.getOrThrow(Gradient.backward(body, loss, [state]))
        return Op.Sub(body, state, Op.Mul(body, gradients.get("state")!, Graph.scalar(body, 0.1)))
      })
      Graph.output(g, "y", y)
      assert.deepStrictEqual(Graph.check(Graph.prune(g)), [])
      const found = yield* Run.once(g, { x: Tensor.float32([1, -2]), w: Tensor.float32([1, 3]) })
      Run.close(Run.numbers(found.y), [0.64, -0.32], "y")
    })
  )
})

describe("Graph.derive", () => {
  it.effect("is used instead of the rules of the fragment's operators", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const [x, w] = [input(g, "x", "B"), input(g, "w", "B")]
      const inner = Op.Exp(g, Op.Mul(g, x, w))
      // A derivative that is plainly not the operators', to tell who was asked: dx = 100 dy, dw = none.
      const y = Graph.derive(g, Op.Add(g, inner, x), [x, w], (dy) => [Op.Mul(g, dy, Graph.scalar(g, 100)), null])
      const loss = Op.sumAll(g, Op.Mul(g, Op.Mul(g, y, y), x))
      Graph.output(g, "y", y)
      differentiated(g, loss, [x, w])
      assert.isFalse(g.values.has("dw"))
      const found = yield* Run.once(g, { x: Tensor.float32([1]), w: Tensor.float32([0]) })
      // y = 2: direct path y² = 4, through the fragment 2 y x * 100 = 400
      Run.close(gradient(found, "x"), [404], "dx")
    })
  )

  it.effect("reaches through an operator without a rule, and sums what was broadcast", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const [x, b] = [input(g, "x", "B", 2), input(g, "b", 2)]
      // Celu with alpha 1 of a positive argument is the identity; the table has no row for it.
      const [celu] = Graph.append(g, "Celu", [Op.Add(g, x, b)], [{ dtype: "float32", shape: x.shape }])
      const y = Graph.derive(g, celu!, [x, b], (dy) => [dy, dy])
      differentiated(g, Op.sumAll(g, Op.Mul(g, y, x)), [x, b])
      const found = yield* Run.once(g, { x: Tensor.float32([1, 2, 3, 4], [2, 2]), b: Tensor.float32([1, 2]) })
      Run.close(gradient(found, "b"), [4, 6], "db")
      Run.close(gradient(found, "x"), [3, 6, 7, 10], "dx")
    })
  )

  it.effect("may state the derivative of a node's second output", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", 3)
      const [, rest] = Op.Split(g, x, [1, 2], 0)
      const y = Graph.derive(g, rest!, [x], () => [Graph.constant(g, Tensor.float32([7, 8, 9]))])
      differentiated(g, Op.sumAll(g, y), [x])
      const found = yield* Run.once(g, { x: Tensor.float32([0, 0, 0]) })
      assert.deepStrictEqual(gradient(found, "x"), [7, 8, 9])
    })
  )

  it.effect("leaves the gradient of a node's other outputs to the table", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", 3)
      const [first, rest] = Op.Split(g, x, [1, 2], 0)
      const y = Graph.derive(g, rest!, [x], () => [Graph.constant(g, Tensor.float32([7, 8, 9]))])
      // first² beside the fragment: 2 x0 is added to its 7, and nothing to the others.
      differentiated(g, Op.Add(g, Op.sumAll(g, y), Op.sumAll(g, Op.Mul(g, first!, first!))), [x])
      const found = yield* Run.once(g, { x: Tensor.float32([3, 0, 0]) })
      assert.deepStrictEqual(gradient(found, "x"), [13, 8, 9])
    })
  )

  it.effect("adds what a value in between contributes outside the fragment", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = input(g, "x", "B")
      const between = Op.Mul(g, x, x)
      const y = Graph.derive(g, Op.Neg(g, between), [x], (dy) => [Op.Mul(g, dy, Graph.scalar(g, 100))])
      differentiated(g, Op.sumAll(g, Op.Add(g, y, Op.Mul(g, between, x))), [x])
      const found = yield* Run.once(g, { x: Tensor.float32([2, -1]) })
      // 100 by the fragment, 3 x² by the table
      assert.deepStrictEqual(gradient(found, "x"), [112, 103])
    })
  )

  it.effect("reaches a parameter that the fragment reads through nodes of the graph around", () =>
    Effect.gen(function* () {
      // Σ x Wᵀ in the body of a loop, of blocks that are cut outside of it; no other input trains.
      const [m, width] = [2, 130]
      const outer = Graph.make("outer", undefined, { numerics: "invariant" })
      const [x, weight] = [input(outer, "x", m, width), input(outer, "weight", 3, width)]
      const body = Graph.make("body", outer)
      Graph.input(body, "i", "int64", [])
      const on = Graph.input(body, "on", "bool", [])
      const sofar = Graph.input(body, "sofar", "float32", weight.shape)
      const loss = Op.sumAll(body, Linear.linear(body, x, weight))
      const gradients = Result.getOrThrow(Gradient.backward(body, loss, [weight]))
      assert.deepStrictEqual([...gradients.keys()], ["weight"])
      Graph.output(body, "on_out", on)
      Graph.output(body, "sofar_out", Op.Add(body, sofar, gradients.get("weight")!))
      const zeros = Op.ConstantOfShape(outer, weight.shape)
      Graph.output(outer, "dweight", Op.Loop(outer, Graph.int(outer, 2), [zeros], Graph.prune(body))[0]!)
      assert.deepStrictEqual(Graph.check(Graph.prune(outer)), [])
      const rows = Array.from({ length: m * width }, (_, i) => i)
      const found = yield* Run.once(outer, { x: Tensor.float32(rows, [m, width]), weight: Tensor.zeros([3, width]) })
      // Two steps, each with the sum of the two rows for every row of the weight: 2 (j + (44 + j)).
      const row = rows.slice(0, width).map((j) => 2 * (2 * j + width))
      assert.deepStrictEqual(gradient(found, "weight"), [...row, ...row, ...row])
    })
  )

  it("is refused where the fragment reads a parameter that it does not state", () => {
    const g = Graph.make("g")
    const [x, w, frozen] = [input(g, "x", "B"), input(g, "w", "B"), input(g, "frozen", "B")]
    const inner = Op.Mul(g, Op.Add(g, x, frozen), Op.Exp(g, w))
    const y = Graph.derive(g, Op.Neg(g, inner), [x], (dy) => [dy])
    const loss = Op.sumAll(g, y)
    assert.isUndefined(refusal(g, loss, [x]))
    assert.throws(() => Gradient.backward(g, loss, [x, w]), "the derivative stated for g/Neg_3 leaves out w")
  })
})

describe("rows without a gradient", () => {
  const rows: ReadonlyArray<OpName> = [
    ...(["And", "ArgMax", "ConstantOfShape", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"] as const),
    ...(["LessOrEqual", "Not", "Or", "Range", "Shape"] as const)
  ]
  for (const op of rows) {
    it(`${op} lets none through`, () => {
      const g = Graph.make("g")
      const x = input(g, "x", "B")
      const node = { inputs: [x, x], outputs: [x], attributes: {}, gradients: [x] }
      assert.deepStrictEqual(gradientRules[op](g, node, x), [null, null])
      assert.strictEqual(g.nodes.length, 0)
    })
  }
})
