/**
 * Runs graphs on ONNX Runtime for tests, and holds every result against the dtype and the shape that its graph declares.
 */
import { assert } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node"
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Model from "../../src/onnx/Model.ts"
import * as Tensor from "../../src/Tensor.ts"

export type Tensors = Readonly<Record<string, Tensor.Tensor>>

/** A graph made ready to run. */
export interface Runner {
  /** Runs once: a tensor for every input in, a tensor for every output out. */
  readonly run: (feeds: Tensors) => Effect.Effect<Tensors>
}

const toOrt = ({ data, dtype, shape }: Tensor.Tensor): OrtTensor =>
  new OrtTensor(dtype as "float32", data as Float32Array, shape)

const fromOrt = (tensor: OrtTensor): Tensor.Tensor =>
  Tensor.make(tensor.type as "float32", tensor.data as Float32Array, tensor.dims)

/**
 * Adds the sizes that a tensor gives to the names of a declared shape, and asserts that they agree with those known:
 * numbers are equal, one name has one size, and a product or a sum of names has the size that its parts say.
 */
const bind = (sizes: Map<string, number>, declared: Graph.Value, actual: Tensor.Tensor): void => {
  const where = `${declared.name}: declared [${declared.shape}], got [${actual.shape}]`
  assert.strictEqual(actual.dtype, declared.dtype, `dtype of ${declared.name}`)
  assert.strictEqual(actual.shape.length, declared.shape.length, `rank of ${where}`)
  declared.shape.forEach((dim, i) => {
    const size = actual.shape[i]!
    const expected = typeof dim === "number" ? dim : (sizes.get(dim) ?? evaluate(dim, sizes) ?? size)
    assert.strictEqual(size, expected, where)
    if (typeof dim === "string") sizes.set(dim, size)
  })
}

const evaluate = (dim: string, sizes: ReadonlyMap<string, number>): number | undefined => {
  const fold = (separator: string, combine: (a: number, b: number) => number) => {
    const parts = dim.split(separator)
    if (parts.length === 1) return undefined
    const known = parts.map((part) => (/^\d+$/.test(part) ? Number(part) : (sizes.get(part) ?? evaluate(part, sizes))))
    return known.every((size) => size !== undefined) ? known.reduce(combine) : undefined
  }
  return dim.includes("/") ? undefined : (fold("+", (a, b) => a + b) ?? fold("*", (a, b) => a * b))
}

/** Opens a session on a graph, released with the scope. */
export const open = (
  graph: Graph.Graph,
  options: { readonly threads?: number } = {}
): Effect.Effect<Runner, never, Scope.Scope> =>
  Effect.gen(function* () {
    assert.deepStrictEqual(Graph.check(graph), [])
    const session = yield* Effect.acquireRelease(
      Effect.promise(() =>
        InferenceSession.create(Model.encode(graph), {
          intraOpNumThreads: options.threads ?? 1,
          interOpNumThreads: 1,
          // Threads that spin while they wait would fight over a small machine's cores.
          extra: { session: { intra_op: { allow_spinning: "0" } } },
          logSeverityLevel: 3
        })
      ),
      (session) => Effect.promise(() => session.release())
    )
    const run = (feeds: Tensors): Effect.Effect<Tensors> =>
      Effect.promise(async () => {
        const sizes = new Map<string, number>()
        for (const input of graph.inputs) bind(sizes, input, feeds[input.name]!)
        const given = Object.fromEntries(graph.inputs.map(({ name }) => [name, toOrt(feeds[name]!)]))
        const found = await session.run(given)
        return Object.fromEntries(
          graph.outputs.map((output) => {
            const tensor = fromOrt(found[output.name]!)
            bind(sizes, output, tensor)
            return [output.name, tensor]
          })
        )
      })
    return { run }
  })

/** The same graph with the result of every node as an output, so that a run checks every shape rule in it. */
export const exposed = (graph: Graph.Graph): Graph.Graph => {
  const outputs = new Set(graph.outputs.map(({ name }) => name))
  const rest = graph.nodes.flatMap((node) => node.outputs).filter((name) => name !== "" && !outputs.has(name))
  return { ...graph, outputs: [...graph.outputs, ...rest.map((name) => Graph.value(graph, name))] }
}

/** Builds a graph, runs it once with every result checked, and returns its outputs. */
export const once = (graph: Graph.Graph, feeds: Tensors): Effect.Effect<Tensors> =>
  Effect.scoped(Effect.flatMap(open(exposed(graph)), ({ run }) => run(feeds)))

/** Seeded numbers. */
export interface Random {
  /** Uniform in `[low, high)`, a multiple of 2⁻¹⁰, so that small steps from it are exact in `float32`. */
  readonly uniform: (low: number, high: number) => number
  /** Uniform in `0 .. bound - 1`. */
  readonly below: (bound: number) => number
}

export const seeded = (seed: number): Random => {
  const generator = xoroshiro128plus(seed)
  const unit = () => (generator.next() >>> 0) / 2 ** 32
  return {
    uniform: (low, high) => Math.floor((low + unit() * (high - low)) * 1024) / 1024,
    below: (bound) => Math.floor(unit() * bound)
  }
}

/** Asserts elementwise closeness: `absolute` or `relative` to the expected value, the larger. */
export const close = (
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  what: string,
  { absolute = 1e-5, relative = 1e-4 } = {}
): void => {
  assert.strictEqual(actual.length, expected.length, `${what}: number of elements`)
  for (let i = 0; i < expected.length; i++) {
    const [x, y] = [actual[i]!, expected[i]!]
    if (Object.is(x, y) || x === y) continue
    const allowed = Math.max(absolute, relative * Math.abs(y))
    assert.isTrue(Math.abs(x - y) <= allowed, `${what}[${i}]: ${x} is not ${y} (allowed error ${allowed})`)
  }
}

export const numbers = (tensor: Tensor.Tensor | undefined): ReadonlyArray<number> =>
  Array.from(tensor!.data as ArrayLike<number | bigint>, Number)
