/**
 * A graph under construction: ONNX nodes over named values, each with a dtype and a symbolic shape.
 *
 * Operators are appended through `Op`; shapes are resolved while the graph is built, so that every later stage (gradient,
 * checks, export) reads them instead of inferring them.
 *
 * @since 0.1.0
 */
import type { DType, Tensor } from "../Tensor.ts"
import * as Tensors from "../Tensor.ts"

/**
 * The ONNX operator set that graphs are written in.
 *
 * @category constants
 * @since 0.1.0
 */
export const opset = 20

/**
 * How ONNX numbers dtypes: `TensorProto.DataType`.
 *
 * @category constants
 * @since 0.1.0
 */
export const elementTypes: Readonly<Record<DType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  bfloat16: 16
}

/**
 * A dimension: a number, or the name of a size that is known only when the graph runs, such as `"B"` or `"T"`.
 *
 * @category models
 * @since 0.1.0
 */
export type Dim = number | string

/**
 * Shape of a value; the rank is always known.
 *
 * @category models
 * @since 0.1.0
 */
export type Shape = ReadonlyArray<Dim>

/**
 * A named value of the graph.
 *
 * @category models
 * @since 0.1.0
 */
export interface Value {
  readonly name: string
  readonly dtype: DType
  readonly shape: Shape
}

/**
 * An attribute of a node, in the kinds that ONNX distinguishes.
 *
 * @category models
 * @since 0.1.0
 */
export type Attribute =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly ints: ReadonlyArray<number> }
  | { readonly floats: ReadonlyArray<number> }
  | { readonly strings: ReadonlyArray<string> }
  | { readonly tensor: Tensor }
  | { readonly graph: Graph }

/**
 * One operator application. An empty input name is an optional input left out, as in ONNX.
 *
 * @category models
 * @since 0.1.0
 */
export interface Node {
  readonly op: string
  readonly domain: string
  readonly name: string
  readonly inputs: ReadonlyArray<string>
  readonly outputs: ReadonlyArray<string>
  readonly attributes: Readonly<Record<string, Attribute>>
}

/**
 * How layers sum. `quick`: with one operator for each sum, which is also what other runtimes and quantizers look for.
 * `invariant`: so that a token's results have the same bits whatever else is computed with it, be it more rows, padding, or
 * all the keys that a cache holds; for graphs whose log-probs are compared, those that sample and those that train.
 *
 * @category models
 * @since 0.1.0
 */
export type Numerics = "quick" | "invariant"

/**
 * A graph. `nodes` are in topological order; `values` knows dtype and shape of every name.
 *
 * @category models
 * @since 0.1.0
 */
export interface Graph {
  readonly name: string
  /** The graph around this one, whose values a `Loop` or `If` body may read. */
  readonly outer?: Graph | undefined
  readonly numerics: Numerics
  readonly nodes: Array<Node>
  readonly inputs: Array<Value>
  readonly outputs: Array<Value>
  readonly initializers: Map<string, Tensor>
  readonly values: Map<string, Value>
  /** Derivatives stated for a whole fragment, by the name of its output: see {@link derive}. */
  readonly derivatives: Map<string, Derivative>
}

/**
 * The derivative of a fragment as one piece: given dL/d(output), one gradient for each of `inputs`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Derivative {
  readonly inputs: ReadonlyArray<Value>
  readonly rule: (dy: Value) => ReadonlyArray<Value | null>
}

/**
 * Starts an empty graph. `outer` makes it the body of a control-flow node of that graph. `numerics`: default those of
 * `outer`, or else `quick`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  name: string,
  outer?: Graph,
  options: { readonly numerics?: Numerics | undefined } = {}
): Graph => ({
  name,
  outer,
  numerics: options.numerics ?? outer?.numerics ?? "quick",
  nodes: [],
  inputs: [],
  outputs: [],
  initializers: new Map(),
  values: new Map(),
  derivatives: new Map()
})

const register = (graph: Graph, value: Value): Value => {
  if (graph.values.has(value.name)) throw new Error(`graph ${graph.name} already has a value named ${value.name}`)
  graph.values.set(value.name, value)
  return value
}

/**
 * Declares an input.
 *
 * @category constructors
 * @since 0.1.0
 */
export const input = (graph: Graph, name: string, dtype: DType, shape: Shape): Value => {
  const value = register(graph, { name, dtype, shape })
  graph.inputs.push(value)
  return value
}

/**
 * Declares that `value` is an output called `name`, through an `Identity` node where the names differ.
 *
 * @category constructors
 * @since 0.1.0
 */
export const output = (graph: Graph, name: string, value: Value): Value => {
  const named =
    value.name === name && graph.values.has(name)
      ? value
      : append(graph, "Identity", [value], [{ dtype: value.dtype, shape: value.shape }], {}, { names: [name] })[0]!
  graph.outputs.push(named)
  return named
}

/**
 * Adds a named tensor that travels with the graph, such as a weight.
 *
 * @category constructors
 * @since 0.1.0
 */
export const initializer = (graph: Graph, name: string, tensor: Tensor): Value => {
  graph.initializers.set(name, tensor)
  return register(graph, { name, dtype: tensor.dtype, shape: tensor.shape })
}

/**
 * Adds a small constant; equal constants are one value.
 *
 * @category constructors
 * @since 0.1.0
 */
export const constant = (graph: Graph, tensor: Tensor): Value => {
  const name = `${graph.name}/const:${tensor.dtype}[${tensor.shape}]:${Array.from(tensor.data as Iterable<unknown>, String).join()}`
  return graph.values.get(name) ?? initializer(graph, name, tensor)
}

/**
 * Adds a `float32` scalar.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scalar = (graph: Graph, value: number): Value => constant(graph, Tensors.scalar(value))

/**
 * Adds an `int64` vector.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ints = (graph: Graph, values: ReadonlyArray<number>): Value => constant(graph, Tensors.int64(values))

/**
 * Adds an `int64` scalar.
 *
 * @category constructors
 * @since 0.1.0
 */
export const int = (graph: Graph, value: number): Value => constant(graph, Tensors.int64([value], []))

/**
 * Appends a node and returns its outputs. Operators with a known meaning are appended through `Op`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const append = (
  graph: Graph,
  op: string,
  inputs: ReadonlyArray<Value | null>,
  outputs: ReadonlyArray<{ readonly dtype: DType; readonly shape: Shape }>,
  attributes: Readonly<Record<string, Attribute>> = {},
  options: { readonly domain?: string; readonly names?: ReadonlyArray<string> } = {}
): ReadonlyArray<Value> => {
  // After `prune` the number of nodes may be that of a node which is still there.
  let number = graph.nodes.length
  while (graph.values.has(`${graph.name}/${op}_${number}`)) number++
  const name = `${graph.name}/${op}_${number}`
  const values = outputs.map((output, i) =>
    register(graph, { ...output, name: options.names?.[i] ?? (i === 0 ? name : `${name}:${i}`) })
  )
  graph.nodes.push({
    op,
    domain: options.domain ?? "",
    name,
    inputs: inputs.map((value) => value?.name ?? ""),
    outputs: values.map((value) => value.name),
    attributes
  })
  return values
}

/**
 * States the derivative of the fragment that computes `output` from `inputs`, in place of the rules of its operators.
 *
 * **Details**
 *
 * The walk continues at `inputs`, which must be all that the fragment reads of parameters and what depends on them. A
 * value in between may be used outside the fragment: its operators' rules apply to that use.
 *
 * @category constructors
 * @since 0.1.0
 */
export const derive = (graph: Graph, output: Value, inputs: ReadonlyArray<Value>, rule: Derivative["rule"]): Value => {
  graph.derivatives.set(output.name, { inputs, rule })
  return output
}

/**
 * Finds a value by name here or in a surrounding graph. Throws when there is none.
 *
 * @category transforming
 * @since 0.1.0
 */
export const value = (graph: Graph, name: string): Value => {
  for (let scope: Graph | undefined = graph; scope !== undefined; scope = scope.outer) {
    const found = scope.values.get(name)
    if (found !== undefined) return found
  }
  throw new Error(`graph ${graph.name} has no value named ${name}`)
}

/**
 * The size of a dimension as an `int64` vector of one element: a constant, or read from a value that has it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const dim = (graph: Graph, size: Dim): Value => {
  if (typeof size === "number") return ints(graph, [size])
  const name = `${graph.name}/dim:${size}`
  const known = graph.values.get(name)
  if (known !== undefined) return known
  const source = withDim(graph, size)
  if (source === undefined) throw new Error(`graph ${graph.name}: no value has the dimension ${size}`)
  const axis = source.shape.indexOf(size)
  const attributes = { start: { int: axis }, end: { int: axis + 1 } }
  return append(graph, "Shape", [source], [{ dtype: "int64", shape: [1] }], attributes, { names: [name] })[0]!
}

/**
 * A value here or in a surrounding graph that has the dimension, `undefined` when there is none.
 *
 * @category transforming
 * @since 0.1.0
 */
export const withDim = (graph: Graph, size: string): Value | undefined => {
  for (let scope: Graph | undefined = graph; scope !== undefined; scope = scope.outer) {
    for (const value of scope.values.values()) if (value.shape.includes(size)) return value
  }
  return undefined
}

/**
 * A shape as an `int64` vector, for operators that take one as an input.
 *
 * @category constructors
 * @since 0.1.0
 */
export const shape = (graph: Graph, dims: Shape): Value => {
  if (dims.every((size) => typeof size === "number")) return ints(graph, dims)
  if (dims.length === 1) return dim(graph, dims[0]!)
  const parts = dims.map((size) => dim(graph, size))
  return append(graph, "Concat", parts, [{ dtype: "int64", shape: [dims.length] }], { axis: { int: 0 } })[0]!
}

const subgraphs = (node: Node): ReadonlyArray<Graph> =>
  Object.values(node.attributes).flatMap((attribute) => ("graph" in attribute ? [attribute.graph] : []))

/**
 * Names that a node reads: its inputs, and all that its subgraphs read, values of the graphs around them among it.
 *
 * @category transforming
 * @since 0.1.0
 */
export const reads = (node: Node): ReadonlyArray<string> => [
  ...node.inputs,
  ...subgraphs(node).flatMap((body) => [...body.nodes.flatMap(reads), ...body.outputs.map((output) => output.name)])
]

/**
 * Removes nodes and initializers that no output depends on, in place. Their values are forgotten, so that constants and
 * dimensions can be asked for again.
 *
 * @category transforming
 * @since 0.1.0
 */
export const prune = (graph: Graph): Graph => {
  const needed = new Set(graph.outputs.map((output) => output.name))
  const kept: Array<Node> = []
  for (const node of graph.nodes.toReversed()) {
    if (!node.outputs.some((name) => needed.has(name))) {
      for (const name of node.outputs) {
        graph.values.delete(name)
        graph.derivatives.delete(name)
      }
      continue
    }
    kept.push(node)
    for (const body of subgraphs(node)) prune(body)
    for (const name of reads(node)) needed.add(name)
  }
  graph.nodes.splice(0, graph.nodes.length, ...kept.reverse())
  for (const name of graph.initializers.keys()) {
    if (needed.has(name)) continue
    graph.initializers.delete(name)
    graph.values.delete(name)
  }
  return graph
}

/**
 * Checks that every name is defined before it is used, that no name is defined twice and that every value is known.
 * Returns the problems found, none for a sound graph. Runs after each transformation in tests.
 *
 * @category transforming
 * @since 0.1.0
 */
export const check = (graph: Graph, outer: ReadonlySet<string> = new Set()): ReadonlyArray<string> => {
  const problems: Array<string> = []
  const defined = new Set(outer)
  const define = (name: string, where: string) => {
    if (defined.has(name)) problems.push(`${where} defines ${name} a second time`)
    if (!graph.values.has(name)) problems.push(`${where}: dtype and shape of ${name} are unknown`)
    defined.add(name)
  }
  for (const { name } of graph.inputs) define(name, `input of ${graph.name}`)
  for (const name of graph.initializers.keys()) define(name, `initializer of ${graph.name}`)
  for (const node of graph.nodes) {
    for (const name of node.inputs) {
      if (name !== "" && !defined.has(name))
        problems.push(`${node.name} (${node.op}) reads ${name} before it is defined`)
    }
    for (const body of subgraphs(node)) problems.push(...check(body, defined))
    for (const name of node.outputs) if (name !== "") define(name, node.name)
  }
  for (const { name } of graph.outputs) {
    if (!defined.has(name)) problems.push(`output ${name} of ${graph.name} is never defined`)
  }
  return problems
}
