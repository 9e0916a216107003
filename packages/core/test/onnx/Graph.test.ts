import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "./run.ts"

const f32 = (...shape: Graph.Shape) => ({ dtype: "float32" as const, shape })

/** `y = x + 1`, sound. */
const sound = (): Graph.Graph => {
  const g = Graph.make("g")
  const x = Graph.input(g, "x", "float32", ["B"])
  Graph.output(g, "y", Op.Add(g, x, Graph.scalar(g, 1)))
  return g
}

/** A `Loop` whose body adds `step`, an initializer around it, to its state and scans the state. */
const looping = (g: Graph.Graph, x: Graph.Value, step: Graph.Value): ReadonlyArray<Graph.Value> => {
  const body = Graph.make("body", g)
  Graph.input(body, "i", "int64", [])
  const on = Graph.input(body, "on", "bool", [])
  const state = Graph.input(body, "state", "float32", x.shape)
  Graph.output(body, "on_out", on)
  Graph.output(body, "state_out", Op.Add(body, state, step))
  Graph.output(body, "scan", Op.Mul(body, state, Graph.scalar(body, 2)))
  return Op.Loop(g, Graph.int(g, 3), [x], body, { scans: 3 })
}

describe("values", () => {
  it("are refused when their name is taken", () => {
    const g = sound()
    assert.throws(() => Graph.input(g, "x", "float32", []), "already has a value named x")
    assert.throws(() => Graph.initializer(g, "y", Tensor.scalar(1)), "already has a value named y")
  })

  it("are found here and in the graphs around, and nowhere else", () => {
    const g = sound()
    const inner = Graph.make("inner", Graph.make("middle", g))
    assert.strictEqual(Graph.value(inner, "x"), g.values.get("x"))
    assert.throws(() => Graph.value(inner, "z"), "no value named z")
  })

  it("are one where constants are equal, and two where dtype, shape or data differ", () => {
    const g = Graph.make("g")
    assert.strictEqual(Graph.scalar(g, 0.5), Graph.scalar(g, 0.5))
    assert.strictEqual(Graph.ints(g, [1, 2]), Graph.ints(g, [1, 2]))
    const different = [
      Graph.scalar(g, 1),
      Graph.int(g, 1),
      Graph.ints(g, [1]),
      Graph.ints(g, [1, 1]),
      Graph.ints(g, [11])
    ]
    assert.strictEqual(new Set(different).size, different.length)
    assert.strictEqual(g.initializers.size, 7)
  })
})

describe("output", () => {
  it("names a value through one Identity, and leaves a value that has the name already", () => {
    const g = Graph.make("g")
    const x = Graph.input(g, "x", "float32", ["B"])
    assert.strictEqual(Graph.output(g, "y", x).name, "y")
    assert.deepStrictEqual(
      g.nodes.map(({ op, inputs, outputs }) => [op, inputs, outputs]),
      [["Identity", ["x"], ["y"]]]
    )
    const [z] = Graph.append(g, "Neg", [x], [f32("B")], {}, { names: ["z"] })
    Graph.output(g, "z", z!)
    assert.strictEqual(g.nodes.length, 2)
    assert.deepStrictEqual(
      g.outputs.map(({ name }) => name),
      ["y", "z"]
    )
    assert.deepStrictEqual(Graph.check(g), [])
  })
})

describe("dim and shape", () => {
  it.effect("give sizes as the graph runs, also inside a subgraph", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = Graph.input(g, "x", "float32", ["B", "T", 3])
      Graph.output(g, "all", Graph.shape(g, x.shape))
      Graph.output(g, "one", Graph.shape(g, ["T"]))
      Graph.output(g, "numbers", Graph.shape(g, [2, 3]))
      const branch = (name: string, shape: Graph.Shape) => {
        const body = Graph.make(name, g)
        Graph.output(body, `${name}_out`, Graph.shape(body, shape))
        return body
      }
      const [chosen] = Op.If(
        g,
        Op.Equal(g, Graph.dim(g, "T"), Graph.ints(g, [4])),
        branch("yes", ["T", "B"]),
        branch("no", ["B", "T"]),
        [{ dtype: "int64", shape: [2] }]
      )
      Graph.output(g, "chosen", chosen!)
      const { all, chosen: pair, numbers, one } = yield* Run.once(g, { x: Tensor.zeros([2, 4, 3]) })
      assert.deepStrictEqual(Run.numbers(all), [2, 4, 3])
      assert.deepStrictEqual(Run.numbers(one), [4])
      assert.deepStrictEqual(Run.numbers(numbers), [2, 3])
      assert.deepStrictEqual(Run.numbers(pair), [4, 2])
    })
  )

  it("read each dimension once, and refuse one that no value has", () => {
    const g = Graph.make("g")
    Graph.input(g, "x", "float32", ["B", "T"])
    assert.strictEqual(Graph.dim(g, "T"), Graph.dim(g, "T"))
    assert.strictEqual(g.nodes.filter(({ op }) => op === "Shape").length, 1)
    assert.throws(() => Graph.dim(g, "V"), "no value has the dimension V")
  })
})

describe("check", () => {
  it("finds nothing in a sound graph, subgraphs included", () => {
    const g = Graph.make("g")
    const x = Graph.input(g, "x", "float32", ["B"])
    const step = Graph.initializer(g, "step", Tensor.scalar(1))
    for (const [i, y] of looping(g, x, step).entries()) Graph.output(g, `y${i}`, y)
    assert.deepStrictEqual(Graph.check(g), [])
  })

  it("finds a name that is read before it is defined", () => {
    const g = sound()
    g.nodes.reverse()
    Graph.append(g, "Neg", [Graph.value(g, "x")], [f32("B")])
    g.nodes.reverse()
    const [neg, identity] = g.nodes
    assert.deepStrictEqual([neg!.op, identity!.op], ["Neg", "Add"])
    assert.deepStrictEqual(Graph.check(g), [])
    g.nodes.splice(1, 2, g.nodes[2]!, g.nodes[1]!)
    assert.deepStrictEqual(Graph.check(g), [`${g.nodes[1]!.name} (Identity) reads g/Add_0 before it is defined`])
  })

  it("allows an optional input that is left out", () => {
    const g = sound()
    Graph.append(g, "Clip", [Graph.value(g, "x"), null, Graph.scalar(g, 1)], [f32("B")])
    assert.deepStrictEqual(Graph.check(g), [])
  })

  it("finds a name that is defined a second time: by a node, as an initializer, in a body", () => {
    const twice = sound()
    twice.nodes.push({ ...twice.nodes[0]!, name: "again" })
    assert.deepStrictEqual(Graph.check(twice), ["again defines g/Add_0 a second time"])

    const both = sound()
    both.initializers.set("x", Tensor.zeros([1]))
    assert.deepStrictEqual(Graph.check(both), ["initializer of g defines x a second time"])

    const shadowing = Graph.make("g")
    const x = Graph.input(shadowing, "state", "float32", ["B"])
    looping(shadowing, x, Graph.scalar(shadowing, 1))
    assert.deepStrictEqual(Graph.check(shadowing), ["input of body defines state a second time"])
  })

  it("finds a value whose dtype and shape are unknown", () => {
    const g = sound()
    g.values.delete("x")
    g.values.delete("g/Add_0")
    assert.deepStrictEqual(Graph.check(g), [
      "input of g: dtype and shape of x are unknown",
      "g/Add_0: dtype and shape of g/Add_0 are unknown"
    ])
  })

  it("finds an output that nothing defines", () => {
    const g = sound()
    g.outputs.push({ name: "lost", ...f32() })
    assert.deepStrictEqual(Graph.check(g), ["output lost of g is never defined"])
  })

  it("finds a problem inside a body, and values of a body that are read outside it", () => {
    const g = Graph.make("g")
    const x = Graph.input(g, "x", "float32", ["B"])
    looping(g, x, { name: "missing", ...f32() })
    Graph.append(g, "Neg", [{ name: "state_out", ...f32("B") }], [f32("B")])
    assert.deepStrictEqual(Graph.check(g), [
      "body/Add_1 (Add) reads missing before it is defined",
      "g/Neg_1 (Neg) reads state_out before it is defined"
    ])
  })
})

describe("prune", () => {
  it("removes dead nodes and initializers, whole chains of them", () => {
    const g = sound()
    const x = Graph.value(g, "x")
    Op.Mul(g, Op.Exp(g, Op.Neg(g, x)), Graph.initializer(g, "unused", Tensor.scalar(2)))
    Graph.prune(g)
    assert.deepStrictEqual(
      g.nodes.map(({ op }) => op),
      ["Add", "Identity"]
    )
    assert.strictEqual(g.initializers.size, 1)
    assert.isFalse(g.initializers.has("unused"))
    assert.deepStrictEqual(Graph.check(g), [])
  })

  it("keeps a node when any one of its outputs is needed", () => {
    const g = Graph.make("g")
    const parts = Op.Split(g, Graph.input(g, "x", "float32", [4]), [1, 3], 0)
    Graph.output(g, "y", parts[1]!)
    Graph.prune(g)
    assert.deepStrictEqual(
      g.nodes.map(({ op }) => op),
      ["Split", "Identity"]
    )
  })

  it("keeps inputs that nothing reads, because callers feed them", () => {
    const g = sound()
    Graph.input(g, "ignored", "float32", [])
    assert.deepStrictEqual(
      Graph.prune(g).inputs.map(({ name }) => name),
      ["x", "ignored"]
    )
  })

  it.effect("keeps what subgraphs read, and prunes inside them", () =>
    Effect.gen(function* () {
      const g = Graph.make("g")
      const x = Graph.input(g, "x", "float32", ["B"])
      const step = Op.Exp(g, Graph.initializer(g, "log_step", Tensor.scalar(0)))
      const inner = Graph.initializer(g, "only dead code reads this", Tensor.scalar(5))
      const [last, scan] = looping(g, x, step)
      const { body } = g.nodes.at(-1)!.attributes as { body: { graph: Graph.Graph } }
      Op.Sin(body.graph, inner)
      Graph.output(g, "last", last!)
      Graph.output(g, "scan", scan!)
      Graph.prune(g)
      assert.deepStrictEqual(
        g.nodes.map(({ op }) => op),
        ["Exp", "Loop", "Identity", "Identity"]
      )
      assert.isTrue(g.initializers.has("log_step"))
      assert.isFalse(g.initializers.has(inner.name))
      assert.isFalse(body.graph.nodes.some(({ op }) => op === "Sin"))
      assert.deepStrictEqual(Graph.check(g), [])
      const found = yield* Run.once(g, { x: Tensor.float32([0, 10]) })
      assert.deepStrictEqual(Run.numbers(found.last), [3, 13])
      assert.deepStrictEqual(Run.numbers(found.scan), [0, 20, 2, 22, 4, 24])
    })
  )

  it.effect("leaves a graph that can be built further, with constants and sizes that were pruned away", () =>
    Effect.gen(function* () {
      const g = sound()
      const x = Graph.value(g, "x")
      Op.Mul(g, Op.Cast(g, Graph.dim(g, "B"), "float32"), Graph.scalar(g, 7))
      Graph.prune(g)
      Graph.output(g, "z", Op.Mul(g, Op.Mul(g, x, Graph.scalar(g, 7)), Op.Cast(g, Graph.dim(g, "B"), "float32")))
      const { z } = yield* Run.once(g, { x: Tensor.float32([1, 2]) })
      assert.deepStrictEqual(Run.numbers(z), [14, 28])
    })
  )

  it("leaves names free that no node has, and forgets derivatives that were stated for dead nodes", () => {
    const g = Graph.make("g")
    const x = Graph.input(g, "x", "float32", ["B"])
    const dead = Graph.derive(g, Op.Exp(g, x), [x], (dy) => [dy])
    Graph.output(g, "y", Op.Neg(g, Op.Neg(g, Op.Neg(g, x))))
    Graph.prune(g)
    assert.isFalse(g.derivatives.has(dead.name))
    const more = Array.from({ length: 4 }, () => Op.Neg(g, x).name)
    assert.strictEqual(new Set([...g.nodes.flatMap(({ outputs }) => outputs), ...more]).size, g.nodes.length)
    assert.deepStrictEqual(Graph.check(g), [])
  })
})
