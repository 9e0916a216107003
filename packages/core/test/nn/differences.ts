/**
 * Holds the gradients of a fragment against central differences, and a stated derivative also against the one that the
 * table makes of the same fragment.
 */
import { assert } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Gradient from "../../src/onnx/Gradient.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"

export interface Fragment {
  /** Shapes of the `float32` inputs that train, by name. */
  readonly trains: Readonly<Record<string, Graph.Shape>>
  /** The other inputs. */
  readonly given?: Readonly<Record<string, readonly [dtype: Tensor.DType, shape: Graph.Shape]>>
  readonly build: (g: Graph.Graph, x: (name: string) => Graph.Value) => Graph.Value
  /** Of the graph; default `quick`. */
  readonly numerics?: Graph.Numerics
}

const declared = ({ build, given = {}, numerics, trains }: Fragment) => {
  const g = Graph.make("fragment", undefined, { numerics })
  const parameters = Object.entries(trains).map(([name, shape]) => Graph.input(g, name, "float32", shape))
  for (const [name, [dtype, shape]] of Object.entries(given)) Graph.input(g, name, dtype, shape)
  const y = build(g, (name) => Graph.value(g, name))
  return { g, parameters, y }
}

/** The fragment with the result `y`. */
export const forward = (fragment: Fragment): Graph.Graph => {
  const { g, y } = declared(fragment)
  Graph.output(g, "y", y)
  return g
}

/**
 * The fragment with the result `y` and, for the upstream gradient `w`, the gradients `d<name>`: those that `stated`
 * derivatives give, or those of the operators' rules.
 */
export const differentiated = (fragment: Fragment, stated: boolean): Graph.Graph => {
  const { g, parameters, y } = declared(fragment)
  if (!stated) g.derivatives.clear()
  Graph.output(g, "y", y)
  const loss = Op.sumAll(g, Op.Mul(g, y, Graph.input(g, "w", "float32", y.shape)))
  const gradients = Result.getOrThrow(Gradient.backward(g, loss, parameters))
  for (const { name, shape } of parameters) {
    assert.deepStrictEqual(gradients.get(name)?.shape, shape, `shape of the gradient of ${name}`)
    Graph.output(g, `d${name}`, gradients.get(name)!)
  }
  assert.deepStrictEqual(Graph.check(Graph.prune(g)), [])
  return g
}

/** Uniform in `[-spread, spread)`, multiples of 2⁻¹⁰. */
export const real = (random: Run.Random, shape: ReadonlyArray<number>, spread = 1): Tensor.Tensor<"float32"> =>
  Tensor.float32(
    Float32Array.from({ length: Tensor.size(shape) }, () => random.uniform(-spread, spread)),
    shape
  )

// Inputs are multiples of 2^-10, so that x ± h and x ± 2h are exact. Only results that move have a rounding error; each
// of them is within some roundings (2^-24 each) of the truth, and the five-point rule weighs these with 3/2 over h.
const h = 2 ** -5
const roundings = 4
const stencil = [
  [1, 8 / 12],
  [-1, -8 / 12],
  [2, -1 / 12],
  [-2, 1 / 12]
] as const

/**
 * Asserts for each of `cases` (a tensor for every input of the fragment) that the gradients agree with central
 * differences, and with those of `others`: fragments of the same inputs and the same result, differentiated by the table.
 */
export const check = Effect.fnUntraced(function* (
  fragment: Fragment,
  cases: ReadonlyArray<Run.Tensors>,
  others: Readonly<Record<string, Fragment>> = {}
) {
  const plain = yield* Run.open(forward(fragment))
  const whole = yield* Run.open(Run.exposed(differentiated(fragment, true)))
  const oracles = yield* Effect.forEach(Object.entries(others), ([name, other]) =>
    Effect.map(Run.open(differentiated(other, false)), (runner) => [name, runner] as const)
  )
  for (const [i, feeds] of cases.entries()) {
    const { y } = yield* plain.run(feeds)
    const w = real(Run.seeded(17 + i), y!.shape)
    const found = yield* whole.run({ ...feeds, w })
    const at = `case ${i}`
    Run.close(Run.numbers(found["y"]), Run.numbers(y), `y, ${at}`, { absolute: 1e-6, relative: 1e-6 })

    for (const [name, oracle] of oracles) {
      const expected = yield* oracle.run({ ...feeds, w })
      for (const output of ["y", ...Object.keys(fragment.trains).map((input) => `d${input}`)]) {
        const what = `${output} against ${name}, ${at}`
        Run.close(Run.numbers(found[output]), Run.numbers(expected[output]), what, { absolute: 1e-5, relative: 1e-5 })
      }
    }

    for (const name of Object.keys(fragment.trains)) {
      const given = feeds[name] as Tensor.Tensor<"float32">
      const actual = Run.numbers(found[`d${name}`])
      for (const j of given.data.keys()) {
        const rows = yield* Effect.forEach(stencil, ([steps]) => {
          const data = given.data.slice()
          data[j]! += steps * h
          return Effect.map(plain.run({ ...feeds, [name]: { ...given, data } }), (moved) => Run.numbers(moved["y"]))
        })
        let [expected, magnitude] = [0, 0]
        w.data.forEach((weight, k) => {
          if (rows.every((row) => row[k] === rows[0]![k])) return
          for (const [s, [, factor]] of stencil.entries()) expected += (factor * rows[s]![k]! * weight) / h
          magnitude += Math.max(...rows.map((row) => Math.abs(row[k]! * weight)))
        })
        const absolute = 1e-5 + (1.5 * roundings * 2 ** -24 * magnitude) / h
        Run.close([actual[j]!], [expected], `d${name}[${j}] against differences, ${at}`, { absolute, relative: 1e-4 })
      }
    }
  }
}, Effect.scoped)

/**
 * Asserts that the result and the gradients of stated derivatives have the same bits with 1, 2 and 4 threads, every time,
 * and that the gradients are those of the table. `feeds` should be large enough for ONNX Runtime to split the work.
 */
export const checkThreads = Effect.fnUntraced(function* (fragment: Fragment, feeds: Run.Tensors) {
  const table = yield* Run.open(differentiated({ ...fragment, numerics: "quick" }, false))
  const { y } = yield* Effect.flatMap(Run.open(forward(fragment)), ({ run }) => run(feeds))
  const given = { ...feeds, w: real(Run.seeded(6), y!.shape) }
  const expected = yield* table.run(given)
  let first: Run.Tensors | undefined
  for (const threads of [1, 2, 4]) {
    const { run } = yield* Run.open(differentiated(fragment, true), { threads })
    for (const attempt of [1, 2]) {
      const found = yield* run(given)
      for (const [name, tensor] of Object.entries(found)) {
        const at = `${name} with ${threads} threads, run ${attempt}`
        if (first === undefined) {
          Run.close(Run.numbers(tensor), Run.numbers(expected[name]), at, { absolute: 1e-4, relative: 1e-4 })
        } else {
          const same = Buffer.compare(Tensor.toBytes(tensor), Tensor.toBytes(first[name]!)) === 0
          assert.isTrue(same, `${at}: other bits than with 1 thread`)
        }
      }
      first ??= found
    }
  }
}, Effect.scoped)
