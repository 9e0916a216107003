import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as DecodeLoop from "../../src/nn/DecodeLoop.ts"
import * as Linear from "../../src/nn/Linear.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as TrainLoop from "../../src/onnx/TrainLoop.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as tiny from "../ort/tiny.ts"
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

describe("products that are summed in blocks", () => {
  // Two blocks, the last of 2 terms.
  const width = 130
  const layers = {
    linear: [Linear.linear, [3, width]],
    conv1d: [Linear.conv1d, [width, 3]]
  } as const
  const given = (random: Run.Random, weight: ReadonlyArray<number>) => ({
    x: Differences.real(random, [4, width]),
    weight: Differences.real(random, weight, 1 / 8),
    bias: Differences.real(random, [3])
  })

  it.effect.each(["linear", "conv1d"] as const)("have the result and the gradients of whole ones: %s", (name) =>
    Effect.gen(function* () {
      const [layer, shape] = layers[name]
      const feeds = given(Run.seeded(1), shape)
      const trains = { x: ["M", width], weight: shape, bias: [3] }
      const fragment: Differences.Fragment = { trains, build: (g, x) => layer(g, x("x"), x("weight"), x("bias")) }
      const [blocked, whole] = [{ ...fragment, numerics: "invariant" }, fragment] as const
      const ops = (g: Graph.Graph) => g.nodes.filter(({ op }) => op === "Gemm").length
      assert.deepStrictEqual([ops(Differences.forward(blocked)), ops(Differences.forward(whole))], [2, 1])
      yield* Differences.check(blocked, [feeds], { whole })
    })
  )

  it.effect("are cut along both axes of a square weight that both layers read", () =>
    Effect.gen(function* () {
      const square = [width, width]
      const random = Run.seeded(2)
      const feeds = {
        x: Differences.real(random, [4, width]),
        weight: Differences.real(random, square, 1 / 8),
        bias: Differences.real(random, [width]),
        w: Differences.real(random, [4, width])
      }
      const fragment: Differences.Fragment = {
        trains: { x: ["M", width], weight: square, bias: [width] },
        build: (g, of) => {
          const rows = Linear.linear(g, of("x"), of("weight"))
          return Op.Mul(g, rows, Linear.conv1d(g, of("x"), of("weight"), of("bias")))
        }
      }
      const blocked = Differences.differentiated({ ...fragment, numerics: "invariant" }, true)
      const cuts = blocked.nodes.filter(({ op }) => op === "Split").map(({ inputs }) => inputs[0])
      assert.deepStrictEqual(cuts, ["weight", "x", "weight"])
      const expected = yield* Run.once(Differences.differentiated(fragment, false), feeds)
      const found = yield* Run.once(blocked, feeds)
      for (const name of ["y", "dx", "dweight", "dbias"]) {
        Run.close(Run.numbers(found[name]), Run.numbers(expected[name]), name, { absolute: 1e-5, relative: 1e-5 })
      }
    })
  )

  it.effect("have the same bits for a row whatever the number of rows and threads", () =>
    Effect.gen(function* () {
      const [m, n] = [96, 64]
      // All bits of float32 in use, so that every addition rounds.
      const waves = (rows: number, columns: number, step: number) =>
        Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(step * (i + 1) ** 1.5))
      for (const terms of [100, 128, 384]) {
        const fragment: Differences.Fragment = {
          trains: { x: ["M", terms], weight: [n, terms] },
          build: (g, of) => Linear.linear(g, of("x"), of("weight")),
          numerics: "invariant"
        }
        const [x, weight] = [waves(m, terms, 1.3), Tensor.float32(waves(n, terms, 0.7), [n, terms])]
        const rows = Effect.fnUntraced(function* (count: number, threads: number) {
          const { run } = yield* Run.open(Differences.forward(fragment), { threads })
          const { y } = yield* run({ x: Tensor.float32(x.slice(0, count * terms), [count, terms]), weight })
          return Run.numbers(y)
        })
        const all = yield* rows(m, 1)
        for (const [count, threads] of [
          [2, 1],
          [3, 2],
          [17, 2],
          [m, 2],
          [m, 4]
        ] as const) {
          const at = `${terms} terms, ${count} rows, ${threads} threads`
          assert.deepStrictEqual(yield* rows(count, threads), all.slice(0, count * n), at)
        }
      }
    })
  )

  it("are cut outside a loop, and once for all layers that read the same", () => {
    const outer = Graph.make("outer", undefined, { numerics: "invariant" })
    const weight = Graph.input(outer, "weight", "float32", [3, width])
    const other = Graph.input(outer, "other", "float32", [3, width])
    const body = Graph.make("body", outer)
    const x = Graph.input(body, "x", "float32", ["M", width])
    Linear.linear(body, x, weight)
    Linear.linear(body, x, other)
    Linear.linear(body, x, weight)
    const splits = (g: Graph.Graph) => g.nodes.flatMap(({ inputs, op }) => (op === "Split" ? [inputs[0]] : []))
    assert.deepStrictEqual(splits(outer), ["weight", "other"])
    assert.deepStrictEqual(splits(body), ["x"])
  })

  it("are those of graphs that sample and of graphs that train", () => {
    const decoder = tiny.llama()
    const processors = { greedy: true, repetitionPenalty: false, temperature: false, topK: false, topP: false }
    const loop = { decoder, processors, stops: false, chunk: 8 }
    const step: TrainLoop.TrainStep = {
      name: "step",
      parameters: [{ name: "w", shape: [2], trainable: true, decays: false }],
      sizes: [],
      batch: [],
      metrics: [],
      optimizer: Optimizer.adamW({ learningRate: () => 1 }),
      forward: (g, weights) => ({ loss: Op.sumAll(g, weights("w")), metrics: {} })
    }
    const graphs = [DecodeLoop.start("start", loop), DecodeLoop.resume("resume", loop)]
    const trains = [TrainLoop.loop(step), TrainLoop.accumulating(step), TrainLoop.single(step)]
    for (const { numerics } of [...graphs, ...trains.map(Result.getOrThrow)]) assert.strictEqual(numerics, "invariant")
  })

  it.each([
    [128, 1],
    [129, 2],
    [384, 3],
    [385, 1]
  ])("have three parts at most: %i terms, %i", (terms, parts) => {
    const g = Graph.make("layer", undefined, { numerics: "invariant" })
    const weight = Graph.input(g, "weight", "float32", [3, terms])
    Linear.linear(g, Graph.input(g, "x", "float32", ["M", terms]), weight)
    assert.strictEqual(g.nodes.filter(({ op }) => op === "Gemm").length, parts)
  })
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
