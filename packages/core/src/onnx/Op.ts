/**
 * The operators that Attune builds graphs from, one function each, under the operator's ONNX name.
 *
 * Every function appends one node and returns its output with dtype and shape resolved. They stand in the order of the
 * gradient table, those of ONNX Runtime's own domain at the end. The one that not every provider computes in full,
 * `SimplifiedLayerNormalization`, has a plain form, `Norm.rmsNormPlain`.
 *
 * @since 0.1.0
 */
import type { DType } from "../Tensor.ts"
import type { Attribute, Dim, Value } from "./Graph.ts"
import * as Graph from "./Graph.ts"
import * as Shape from "./Shape.ts"

/**
 * Names of the operators that may stand in a graph that is differentiated. The gradient table has a row for each.
 *
 * @category models
 * @since 0.1.0
 */
export type OpName =
  | "Abs"
  | "Add"
  | "And"
  | "ArgMax"
  | "Cast"
  | "Clip"
  | "Concat"
  | "ConstantOfShape"
  | "Cos"
  | "CumSum"
  | "Div"
  | "Equal"
  | "Erf"
  | "Exp"
  | "Expand"
  | "FusedMatMul"
  | "Gather"
  | "GatherElements"
  | "Gelu"
  | "Gemm"
  | "Greater"
  | "GreaterOrEqual"
  | "Identity"
  | "If"
  | "IsInf"
  | "IsNaN"
  | "LayerNormalization"
  | "Less"
  | "LessOrEqual"
  | "Log"
  | "LogSoftmax"
  | "Loop"
  | "MatMul"
  | "Max"
  | "Min"
  | "Mul"
  | "Neg"
  | "Not"
  | "Or"
  | "Pow"
  | "Range"
  | "Reciprocal"
  | "ReduceMax"
  | "ReduceMean"
  | "ReduceMin"
  | "ReduceSum"
  | "ReduceSumSquare"
  | "Relu"
  | "Reshape"
  | "RotaryEmbedding"
  | "Scan"
  | "ScatterElements"
  | "Shape"
  | "Sigmoid"
  | "SimplifiedLayerNormalization"
  | "Sin"
  | "Slice"
  | "Softmax"
  | "Split"
  | "Sqrt"
  | "Squeeze"
  | "Sub"
  | "Tanh"
  | "TopK"
  | "Transpose"
  | "Unsqueeze"
  | "Where"

type G = Graph.Graph

const one = (
  g: G,
  op: OpName,
  inputs: ReadonlyArray<Value | null>,
  dtype: DType,
  shape: Graph.Shape,
  attributes: Readonly<Record<string, Attribute>> = {},
  domain = ""
): Value => Graph.append(g, op, inputs, [{ dtype, shape }], attributes, { domain })[0]!

const elementwise =
  (op: OpName) =>
  (g: G, x: Value): Value =>
    one(g, op, [x], x.dtype, x.shape)

const arithmetic =
  (op: OpName) =>
  (g: G, a: Value, b: Value): Value => {
    if (a.dtype !== b.dtype)
      throw new Error(`${op} of ${a.name} (${a.dtype}) and ${b.name} (${b.dtype}): dtypes differ`)
    return one(g, op, [a, b], a.dtype, Shape.broadcast(a.shape, b.shape))
  }

const comparison =
  (op: OpName) =>
  (g: G, a: Value, b: Value): Value =>
    one(g, op, [a, b], "bool", Shape.broadcast(a.shape, b.shape))

export const Add = arithmetic("Add")
export const Sub = arithmetic("Sub")
export const Mul = arithmetic("Mul")
export const Div = arithmetic("Div")
export const Max = arithmetic("Max")
export const Min = arithmetic("Min")
export const Neg = elementwise("Neg")
export const Abs = elementwise("Abs")
export const Exp = elementwise("Exp")
export const Log = elementwise("Log")
export const Sqrt = elementwise("Sqrt")
export const Reciprocal = elementwise("Reciprocal")
export const Sin = elementwise("Sin")
export const Cos = elementwise("Cos")
export const Tanh = elementwise("Tanh")
export const Erf = elementwise("Erf")
export const Sigmoid = elementwise("Sigmoid")
export const Relu = elementwise("Relu")
export const Identity = elementwise("Identity")
export const Equal = comparison("Equal")
export const Less = comparison("Less")
export const LessOrEqual = comparison("LessOrEqual")
export const Greater = comparison("Greater")
export const GreaterOrEqual = comparison("GreaterOrEqual")
export const And = comparison("And")
export const Or = comparison("Or")
export const Not = elementwise("Not")

export const IsNaN = (g: G, x: Value): Value => one(g, "IsNaN", [x], "bool", x.shape)

export const IsInf = (g: G, x: Value): Value => one(g, "IsInf", [x], "bool", x.shape)

/** `x ** exponent`, broadcast. */
export const Pow = (g: G, x: Value, exponent: Value): Value =>
  one(g, "Pow", [x, exponent], x.dtype, Shape.broadcast(x.shape, exponent.shape))

/** Gaussian error linear unit: exact, or the tanh approximation that GPT-2 calls `gelu_new`. */
export const Gelu = (g: G, x: Value, approximate: "none" | "tanh" = "none"): Value =>
  one(g, "Gelu", [x], x.dtype, x.shape, { approximate: { string: approximate } })

/** Limits `x` to `[low, high]`; both are scalars of `x`'s dtype. */
export const Clip = (g: G, x: Value, low: Value, high: Value): Value => one(g, "Clip", [x, low, high], x.dtype, x.shape)

export const Where = (g: G, condition: Value, a: Value, b: Value): Value =>
  one(g, "Where", [condition, a, b], a.dtype, Shape.broadcast(condition.shape, Shape.broadcast(a.shape, b.shape)))

export const Cast = (g: G, x: Value, to: DType): Value =>
  x.dtype === to ? x : one(g, "Cast", [x], to, x.shape, { to: { int: Graph.elementTypes[to] } })

const reduction =
  (op: OpName) =>
  (g: G, x: Value, axes: ReadonlyArray<number>, keepDims = true): Value =>
    one(g, op, [x, Graph.ints(g, axes)], x.dtype, Shape.reduce(x.shape, axes, keepDims), {
      keepdims: { int: keepDims ? 1 : 0 }
    })

export const ReduceSum = reduction("ReduceSum")
export const ReduceSumSquare = reduction("ReduceSumSquare")
export const ReduceMean = reduction("ReduceMean")
export const ReduceMax = reduction("ReduceMax")
export const ReduceMin = reduction("ReduceMin")

/** Sum of all elements, a scalar. */
export const sumAll = (g: G, x: Value): Value =>
  x.shape.length === 0
    ? x
    : ReduceSum(
        g,
        x,
        x.shape.map((_, i) => i),
        false
      )

export const Softmax = (g: G, x: Value): Value => one(g, "Softmax", [x], x.dtype, x.shape, { axis: { int: -1 } })

export const LogSoftmax = (g: G, x: Value): Value => one(g, "LogSoftmax", [x], x.dtype, x.shape, { axis: { int: -1 } })

/** Running sum along an axis. */
export const CumSum = (g: G, x: Value, axis: number): Value =>
  one(g, "CumSum", [x, Graph.int(g, axis)], x.dtype, x.shape)

export const ArgMax = (g: G, x: Value, axis: number, keepDims = true): Value =>
  one(g, "ArgMax", [x], "int64", Shape.reduce(x.shape, [axis], keepDims), {
    axis: { int: axis },
    keepdims: { int: keepDims ? 1 : 0 }
  })

/** The `k` (an `int64` vector of one element) largest entries along the last axis, largest first, and where they were. */
export const TopK = (g: G, x: Value, k: Value, size: Dim): { readonly values: Value; readonly indices: Value } => {
  const shape = Shape.withDim(x.shape, -1, size)
  const [values, indices] = Graph.append(
    g,
    "TopK",
    [x, k],
    [
      { dtype: x.dtype, shape },
      { dtype: "int64", shape }
    ],
    {
      axis: { int: -1 }
    }
  )
  return { values: values!, indices: indices! }
}

export const MatMul = (g: G, a: Value, b: Value): Value =>
  one(g, "MatMul", [a, b], a.dtype, Shape.matMul(a.shape, b.shape))

/** `A B + c` for matrices, either of them transposed first; `c` is broadcast. */
export const Gemm = (
  g: G,
  a: Value,
  b: Value,
  options: { readonly transA?: boolean; readonly transB?: boolean; readonly c?: Value | undefined } = {}
): Value => {
  const [m, k] = options.transA === true ? [a.shape[1]!, a.shape[0]!] : [a.shape[0]!, a.shape[1]!]
  const [k2, n] = options.transB === true ? [b.shape[1]!, b.shape[0]!] : [b.shape[0]!, b.shape[1]!]
  if (a.shape.length !== 2 || b.shape.length !== 2 || k !== k2) {
    throw new Error(`Gemm cannot multiply ${a.name} [${a.shape}] by ${b.name} [${b.shape}]`)
  }
  return one(g, "Gemm", options.c === undefined ? [a, b] : [a, b, options.c], a.dtype, [m, n], {
    ...(options.transA === true ? { transA: { int: 1 } } : {}),
    ...(options.transB === true ? { transB: { int: 1 } } : {})
  })
}

/**
 * Reshapes. Dimensions that cannot be stated as a constant (one unknown is `-1`) are read when the graph runs.
 */
export const Reshape = (g: G, x: Value, shape: Graph.Shape): Value => {
  if (Shape.equals(x.shape, shape)) return x
  const copied = shape.map((dim, i) => typeof dim === "string" && x.shape[i] === dim)
  const open = shape.flatMap((dim, i) => (typeof dim === "string" && !copied[i] ? [i] : []))
  const unknown = open.length
  // One unknown dimension may be inferred: the one that no value has yet, such as a product, or else the last one.
  const inferred = open.find((i) => Graph.withDim(g, shape[i] as string) === undefined) ?? open.at(-1)
  const target = shape.map((dim, i): Dim => (i === inferred ? -1 : copied[i] && unknown <= 1 ? 0 : dim))
  return one(g, "Reshape", [x, Graph.shape(g, target)], x.dtype, shape)
}

export const Transpose = (g: G, x: Value, perm: ReadonlyArray<number>): Value =>
  one(
    g,
    "Transpose",
    [x],
    x.dtype,
    perm.map((i) => x.shape[i]!),
    { perm: { ints: perm } }
  )

export const Expand = (g: G, x: Value, shape: Graph.Shape): Value =>
  Shape.equals(x.shape, shape)
    ? x
    : one(g, "Expand", [x, Graph.shape(g, shape)], x.dtype, Shape.broadcast(x.shape, shape))

export const Unsqueeze = (g: G, x: Value, axes: ReadonlyArray<number>): Value => {
  const rank = x.shape.length + axes.length
  const positions = new Set(axes.map((index) => (index < 0 ? index + rank : index)))
  let next = 0
  const shape = Array.from({ length: rank }, (_, i): Dim => (positions.has(i) ? 1 : x.shape[next++]!))
  return one(g, "Unsqueeze", [x, Graph.ints(g, axes)], x.dtype, shape)
}

export const Squeeze = (g: G, x: Value, axes: ReadonlyArray<number>): Value =>
  one(g, "Squeeze", [x, Graph.ints(g, axes)], x.dtype, Shape.reduce(x.shape, axes, false))

/** Joins values along an axis; `size` names the joined dimension where it is not a sum of numbers. */
export const Concat = (g: G, values: ReadonlyArray<Value>, axis: number, size?: Dim): Value => {
  const first = values[0]!
  const at = Shape.axis(first.shape, axis)
  const dims = values.map((value) => value.shape[at]!)
  const total =
    size ?? (dims.every((dim) => typeof dim === "number") ? dims.reduce((a, b) => a + b, 0) : dims.join("+"))
  return one(g, "Concat", values, first.dtype, Shape.withDim(first.shape, at, total), { axis: { int: at } })
}

/** Cuts along an axis into parts of known sizes. */
export const Split = (
  g: G,
  x: Value,
  sizes: ReadonlyArray<number>,
  axis: number,
  names?: ReadonlyArray<string>
): ReadonlyArray<Value> =>
  Graph.append(
    g,
    "Split",
    [x, Graph.ints(g, sizes)],
    sizes.map((size) => ({ dtype: x.dtype, shape: Shape.withDim(x.shape, axis, size) })),
    { axis: { int: Shape.axis(x.shape, axis) } },
    names === undefined ? {} : { names }
  )

/** Cuts along an axis into parts whose sizes are known when the graph runs: `sizes` is an `int64` vector. */
export const SplitAt = (g: G, x: Value, sizes: Value, dims: ReadonlyArray<Dim>, axis: number): ReadonlyArray<Value> =>
  Graph.append(
    g,
    "Split",
    [x, sizes],
    dims.map((dim) => ({ dtype: x.dtype, shape: Shape.withDim(x.shape, axis, dim) })),
    { axis: { int: Shape.axis(x.shape, axis) } }
  )

/** Elements `start` (inclusive) to `end` (exclusive) along one axis; both are `int64` vectors of one element. */
export const Slice = (g: G, x: Value, start: Value, end: Value, axis: number, size: Dim): Value =>
  one(
    g,
    "Slice",
    [x, start, end, Graph.ints(g, [Shape.axis(x.shape, axis)])],
    x.dtype,
    Shape.withDim(x.shape, axis, size)
  )

export const ConstantOfShape = (g: G, shape: Graph.Shape, value: 0 | 1 = 0): Value =>
  one(g, "ConstantOfShape", [Graph.shape(g, shape)], "float32", shape, {
    value: { tensor: { dtype: "float32", shape: [1], data: Float32Array.of(value) } }
  })

/** The integers `0 .. size - 1`. */
export const Range = (g: G, size: Dim): Value =>
  one(g, "Range", [Graph.int(g, 0), Squeeze(g, Graph.dim(g, size), [0]), Graph.int(g, 1)], "int64", [size])

export const Gather = (g: G, x: Value, indices: Value, axis = 0): Value => {
  const at = Shape.axis(x.shape, axis)
  return one(
    g,
    "Gather",
    [x, indices],
    x.dtype,
    [...x.shape.slice(0, at), ...indices.shape, ...x.shape.slice(at + 1)],
    { axis: { int: at } }
  )
}

export const GatherElements = (g: G, x: Value, indices: Value, axis: number): Value =>
  one(g, "GatherElements", [x, indices], x.dtype, indices.shape, { axis: { int: Shape.axis(x.shape, axis) } })

/**
 * Writes, or with `reduction: "add"` adds, `updates` at `indices` along an axis. Unlike `ScatterND`, whose additions race
 * on the CPU provider with more than one thread, its result does not depend on the number of threads.
 */
export const ScatterElements = (
  g: G,
  x: Value,
  indices: Value,
  updates: Value,
  axis: number,
  reduction: "none" | "add" = "none"
): Value =>
  one(g, "ScatterElements", [x, indices, updates], x.dtype, x.shape, {
    axis: { int: Shape.axis(x.shape, axis) },
    ...(reduction === "add" ? { reduction: { string: "add" } } : {})
  })

/** Layer normalisation over the last axis: the result, and per row the mean and 1/standard deviation. */
export const LayerNormalization = (
  g: G,
  x: Value,
  scale: Value,
  bias: Value,
  epsilon: number
): { readonly y: Value; readonly mean: Value; readonly invStdDev: Value } => {
  const row = { dtype: x.dtype, shape: Shape.withDim(x.shape, -1, 1) }
  const [y, mean, invStdDev] = Graph.append(
    g,
    "LayerNormalization",
    [x, scale, bias],
    [{ dtype: x.dtype, shape: x.shape }, row, row],
    { axis: { int: -1 }, epsilon: { float: epsilon } }
  )
  return { y: y!, mean: mean!, invStdDev: invStdDev! }
}

/** Root-mean-square normalisation over the last axis as ONNX Runtime names it: the result and 1/RMS per row. */
export const SimplifiedLayerNormalization = (
  g: G,
  x: Value,
  scale: Value,
  epsilon: number
): { readonly y: Value; readonly invRms: Value } => {
  const [y, invRms] = Graph.append(
    g,
    "SimplifiedLayerNormalization",
    [x, scale],
    [
      { dtype: x.dtype, shape: x.shape },
      { dtype: x.dtype, shape: Shape.withDim(x.shape, -1, 1) }
    ],
    { axis: { int: -1 }, epsilon: { float: epsilon } }
  )
  return { y: y!, invRms: invRms! }
}

/** One of two subgraphs; both have the outputs that `outputs` describes. */
export const If = (
  g: G,
  condition: Value,
  thenBranch: Graph.Graph,
  elseBranch: Graph.Graph,
  outputs: ReadonlyArray<{ readonly dtype: DType; readonly shape: Graph.Shape }>
): ReadonlyArray<Value> =>
  Graph.append(g, "If", [condition], outputs, {
    then_branch: { graph: thenBranch },
    else_branch: { graph: elseBranch }
  })

/**
 * Repeats `body` at most `trips` times. `body` has the inputs (iteration, condition, ...state) and the outputs
 * (condition, ...state, ...scans); the results are the final state and each scan stacked over the iterations.
 */
export const Loop = (
  g: G,
  trips: Value,
  state: ReadonlyArray<Value>,
  body: Graph.Graph,
  options: { readonly scans?: Dim; readonly condition?: Value } = {}
): ReadonlyArray<Value> => {
  const results = body.outputs.slice(1)
  return Graph.append(
    g,
    "Loop",
    [trips, options.condition ?? null, ...state],
    results.map(({ dtype, shape }, i) => ({
      dtype,
      shape: i < state.length ? shape : [options.scans ?? "iterations", ...shape]
    })),
    { body: { graph: body } }
  )
}

/**
 * Runs `body` on each slice along the first axis of `inputs`; the results are its outputs stacked along a new first axis.
 * Slices are views: nothing is copied in or out.
 */
export const Scan = (g: G, inputs: ReadonlyArray<Value>, body: Graph.Graph): ReadonlyArray<Value> =>
  Graph.append(
    g,
    "Scan",
    inputs,
    body.outputs.map(({ dtype, shape }) => ({ dtype, shape: [inputs[0]!.shape[0]!, ...shape] })),
    { body: { graph: body }, num_scan_inputs: { int: inputs.length } }
  )

const contrib = "com.microsoft"

/** Batched product with either side transposed in its last two axes, and scaled by `alpha`. */
export const FusedMatMul = (
  g: G,
  a: Value,
  b: Value,
  options: { readonly transA?: boolean; readonly transB?: boolean; readonly alpha?: number } = {}
): Value => {
  const flip = (shape: Graph.Shape, transposed: boolean | undefined) =>
    transposed === true ? [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!] : shape
  return one(
    g,
    "FusedMatMul",
    [a, b],
    a.dtype,
    Shape.matMul(flip(a.shape, options.transA), flip(b.shape, options.transB)),
    {
      alpha: { float: options.alpha ?? 1 },
      transA: { int: options.transA === true ? 1 : 0 },
      transB: { int: options.transB === true ? 1 : 0 }
    },
    contrib
  )
}

/**
 * Rotary position embedding, halves rotated as in Llama. `x` `[B, H, T, Dh]` or `[B, T, H * Dh]`, `positions` `[B, T]`,
 * the tables `[positions, Dh / 2]`.
 */
export const RotaryEmbedding = (g: G, x: Value, positions: Value, cos: Value, sin: Value): Value =>
  one(g, "RotaryEmbedding", [x, positions, cos, sin], x.dtype, x.shape, {}, contrib)
