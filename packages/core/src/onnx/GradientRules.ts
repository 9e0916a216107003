/**
 * Reverse-mode derivatives of the operators, one row each.
 *
 * A rule computes no numbers: it reads a forward node and appends the backward nodes, so the gradient of a graph is a
 * graph. In the notation below `dy` is dL/dy, the gradient that arrives at the node's output. The walk in `Gradient`
 * accumulates, prunes and undoes broadcasting; rules never do.
 *
 * @since 0.1.0
 */

import type { Attribute, Value } from "./Graph.ts"
import * as Graph from "./Graph.ts"
import type { OpName } from "./Op.ts"
import * as Op from "./Op.ts"
import * as Shape from "./Shape.ts"

/**
 * A gradient that is zero except at `indices` along `axis`, where `updates` are added. The walk adds it into a gradient
 * that is already there rather than into zeros.
 *
 * @category models
 * @since 0.1.0
 */
export interface ScatterAdd {
  readonly _tag: "ScatterAdd"
  readonly indices: Value
  readonly updates: Value
  readonly axis: number
}

/**
 * What a rule sees of a forward node.
 *
 * @category models
 * @since 0.1.0
 */
export interface ForwardNode {
  /** `undefined` is an optional input left out. */
  readonly inputs: ReadonlyArray<Value | undefined>
  readonly outputs: ReadonlyArray<Value>
  readonly attributes: Readonly<Record<string, Attribute>>
  /** dL/d(output) of every output, `undefined` where nothing depends on it. */
  readonly gradients: ReadonlyArray<Value | undefined>
}

/**
 * Appends the gradient of each input, in input order; `null` where no gradient flows.
 *
 * @category models
 * @since 0.1.0
 */
export type GradientRule = (g: Graph.Graph, node: ForwardNode, dy: Value) => ReadonlyArray<Value | ScatterAdd | null>

const intAttribute = (node: ForwardNode, name: string, otherwise: number): number => {
  const attribute = node.attributes[name]
  return attribute !== undefined && "int" in attribute ? attribute.int : otherwise
}

const swapped = (value: Value): ReadonlyArray<number> => {
  const axes = value.shape.map((_, i) => i)
  return [...axes.slice(0, -2), axes.length - 1, axes.length - 2]
}

const transposed = (g: Graph.Graph, x: Value): Value => Op.Transpose(g, x, swapped(x))

// The gradient of a reduction, its reduced axes put back and repeated.
const spread = (g: Graph.Graph, node: ForwardNode, dy: Value): Value => {
  const [x, axes] = node.inputs
  const kept =
    dy.shape.length === x!.shape.length ? dy : Op.Reshape(g, dy, Shape.reduce(x!.shape, constantInts(g, axes!), true))
  return Op.Expand(g, kept, x!.shape)
}

const constantInts = (g: Graph.Graph, value: Value): ReadonlyArray<number> => {
  for (let scope: Graph.Graph | undefined = g; scope !== undefined; scope = scope.outer) {
    const tensor = scope.initializers.get(value.name)
    if (tensor !== undefined) return Array.from(tensor.data as BigInt64Array, Number)
  }
  throw new Error(`${value.name} must be a constant for the gradient`)
}

const none: GradientRule = (_g, node) => node.inputs.map(() => null)

const halfWhereEqual =
  (op: "Max" | "Min"): GradientRule =>
  (g, { inputs: [a, b] }, dy) => {
    const half = Op.Mul(g, dy, Graph.scalar(g, 0.5))
    const zero = Graph.scalar(g, 0)
    const wins = op === "Max" ? Op.Greater : Op.Less
    const share = (self: Value, other: Value) =>
      Op.Where(g, wins(g, self, other), dy, Op.Where(g, Op.Equal(g, self, other), half, zero))
    return [share(a!, b!), share(b!, a!)]
  }

/**
 * The table, in the order elementwise, reduction, linear algebra, movement, indexing, normalisation, control flow. It is
 * total: an operator without a row does not compile, and "no gradient flows" is a row.
 *
 * @category constants
 * @since 0.1.0
 */
export const gradientRules: Readonly<Record<OpName, GradientRule>> = {
  // y = a + b                     da = dy                           db = dy
  Add: (_g, _node, dy) => [dy, dy],
  // y = a - b                     da = dy                           db = -dy
  Sub: (g, _node, dy) => [dy, Op.Neg(g, dy)],
  // y = a * b                     da = dy * b                       db = dy * a
  Mul: (g, { inputs: [a, b] }, dy) => [Op.Mul(g, dy, b!), Op.Mul(g, dy, a!)],
  // y = a / b                     da = dy / b                       db = -(dy / b) * y
  Div: (g, { inputs: [, b], outputs: [y] }, dy) => {
    const da = Op.Div(g, dy, b!)
    return [da, Op.Neg(g, Op.Mul(g, da, y!))]
  },
  // y = max(a, b)                 da = dy where a > b, dy / 2 where equal (as PyTorch)
  Max: halfWhereEqual("Max"),
  Min: halfWhereEqual("Min"),
  // y = -x                        dx = -dy
  Neg: (g, _node, dy) => [Op.Neg(g, dy)],
  // y = |x|                       dx = dy * sign(x), 0 at 0
  Abs: (g, { inputs: [x] }, dy) => {
    const zero = Graph.scalar(g, 0)
    return [Op.Where(g, Op.Greater(g, x!, zero), dy, Op.Where(g, Op.Less(g, x!, zero), Op.Neg(g, dy), zero))]
  },
  // y = exp(x)                    dx = dy * y
  Exp: (g, { outputs: [y] }, dy) => [Op.Mul(g, dy, y!)],
  // y = log(x)                    dx = dy / x
  Log: (g, { inputs: [x] }, dy) => [Op.Div(g, dy, x!)],
  // y = sqrt(x)                   dx = dy / (2 y)
  Sqrt: (g, { outputs: [y] }, dy) => [Op.Div(g, dy, Op.Add(g, y!, y!))],
  // y = 1 / x                     dx = -dy * y²
  Reciprocal: (g, { outputs: [y] }, dy) => [Op.Neg(g, Op.Mul(g, dy, Op.Mul(g, y!, y!)))],
  // y = x ** c                    dx = dy * c * x ** (c - 1), 0 where c = 0        c is a constant
  Pow: (g, { inputs: [x, c] }, dy) => {
    const zero = Graph.scalar(g, 0)
    const slope = Op.Mul(g, c!, Op.Pow(g, x!, Op.Sub(g, c!, Graph.scalar(g, 1))))
    return [Op.Mul(g, dy, Op.Where(g, Op.Equal(g, c!, zero), zero, slope)), null]
  },
  // y = sin(x)                    dx = dy * cos(x)
  Sin: (g, { inputs: [x] }, dy) => [Op.Mul(g, dy, Op.Cos(g, x!))],
  // y = cos(x)                    dx = -dy * sin(x)
  Cos: (g, { inputs: [x] }, dy) => [Op.Neg(g, Op.Mul(g, dy, Op.Sin(g, x!)))],
  // y = tanh(x)                   dx = dy * (1 - y²)
  Tanh: (g, { outputs: [y] }, dy) => [Op.Sub(g, dy, Op.Mul(g, dy, Op.Mul(g, y!, y!)))],
  // y = erf(x)                    dx = dy * 2/√π * exp(-x²)
  Erf: (g, { inputs: [x] }, dy) => {
    const slope = Op.Mul(g, Graph.scalar(g, 2 / Math.sqrt(Math.PI)), Op.Exp(g, Op.Neg(g, Op.Mul(g, x!, x!))))
    return [Op.Mul(g, dy, slope)]
  },
  // y = σ(x)                      dx = dy * y * (1 - y)
  Sigmoid: (g, { outputs: [y] }, dy) => {
    const t = Op.Mul(g, dy, y!)
    return [Op.Sub(g, t, Op.Mul(g, t, y!))]
  },
  // y = max(x, 0)                 dx = dy where x > 0
  Relu: (g, { outputs: [y] }, dy) => [Op.Where(g, Op.Greater(g, y!, Graph.scalar(g, 0)), dy, Graph.scalar(g, 0))],
  // y = x Φ(x)                    dx = dy * (Φ(x) + x φ(x))
  // y = x/2 (1 + tanh u)          dx = dy * (1/2 (1 + tanh u) + x/2 (1 - tanh² u) u'),  u = √(2/π) (x + 0.044715 x³)
  Gelu: (g, node, dy) => {
    const x = node.inputs[0]!
    const attribute = node.attributes["approximate"]
    const tanh = attribute !== undefined && "string" in attribute && attribute.string === "tanh"
    const half = Graph.scalar(g, 0.5)
    const one = Graph.scalar(g, 1)
    const x2 = Op.Mul(g, x, x)
    if (!tanh) {
      const cdf = Op.Mul(g, half, Op.Add(g, one, Op.Erf(g, Op.Mul(g, x, Graph.scalar(g, Math.SQRT1_2)))))
      const pdf = Op.Mul(
        g,
        Graph.scalar(g, 1 / Math.sqrt(2 * Math.PI)),
        Op.Exp(g, Op.Mul(g, x2, Graph.scalar(g, -0.5)))
      )
      return [Op.Mul(g, dy, Op.Add(g, cdf, Op.Mul(g, x, pdf)))]
    }
    // With s = σ(2u) the output is y = x s, and dx = dy (s + y (1 - s) 2u'): four passes fewer than by tanh.
    const c = 2 * Math.sqrt(2 / Math.PI)
    const polynomial = (first: number, third: number) =>
      Op.Add(g, Op.Mul(g, x2, Graph.scalar(g, third)), Graph.scalar(g, first))
    const sigmoid = Op.Sigmoid(g, Op.Mul(g, x, polynomial(c, c * 0.044715)))
    const bend = Op.Mul(g, node.outputs[0]!, polynomial(c, 3 * c * 0.044715))
    return [Op.Mul(g, dy, Op.Add(g, sigmoid, Op.Sub(g, bend, Op.Mul(g, bend, sigmoid))))]
  },
  // y = clip(x, low, high)        dx = dy where low <= x <= high
  Clip: (g, { inputs: [x, low, high] }, dy) => {
    const inside = Op.And(g, Op.GreaterOrEqual(g, x!, low!), Op.LessOrEqual(g, x!, high!))
    return [Op.Where(g, inside, dy, Graph.scalar(g, 0)), null, null]
  },
  // y = c ? a : b                 da = c ? dy : 0                   db = c ? 0 : dy
  Where: (g, { inputs: [c] }, dy) => {
    const zero = Graph.scalar(g, 0)
    return [null, Op.Where(g, c!, dy, zero), Op.Where(g, c!, zero, dy)]
  },
  Identity: (_g, _node, dy) => [dy],
  // y = (to) x                    dx = (from) dy
  Cast: (g, { inputs: [x] }, dy) => [Op.Cast(g, dy, x!.dtype)],
  // Piecewise constant.
  Equal: none,
  Less: none,
  LessOrEqual: none,
  Greater: none,
  GreaterOrEqual: none,
  And: none,
  Or: none,
  Not: none,
  IsNaN: none,
  IsInf: none,

  // y = Σ x                       dx = dy, repeated
  ReduceSum: (g, node, dy) => [spread(g, node, dy), null],
  // y = Σ x²                      dx = 2 x dy, repeated
  ReduceSumSquare: (g, node, dy) => {
    const x = node.inputs[0]!
    return [Op.Mul(g, Op.Add(g, x, x), spread(g, node, dy)), null]
  },
  // y = Σ x / n                   dx = dy / n, repeated
  ReduceMean: (g, node, dy) => {
    const x = node.inputs[0]!
    const axes = constantInts(g, node.inputs[1]!)
    const sizes = axes.map((axis) => Graph.dim(g, x.shape.at(axis)!))
    const n = sizes.map((size) => Op.Cast(g, size, x.dtype)).reduce((a, b) => Op.Mul(g, a, b))
    return [Op.Div(g, spread(g, node, dy), n), null]
  },
  // y = max x                     dx = dy where x = y, shared between equals
  ReduceMax: (g, node, dy) => extremum(g, node, dy),
  ReduceMin: (g, node, dy) => extremum(g, node, dy),
  // y = softmax(x)                dx = y * (dy - Σ dy * y)
  Softmax: (g, { outputs: [y] }, dy) => [Op.Mul(g, y!, Op.Sub(g, dy, Op.ReduceSum(g, Op.Mul(g, dy, y!), [-1])))],
  // y = log softmax(x)            dx = dy - exp(y) * Σ dy
  LogSoftmax: (g, { outputs: [y] }, dy) => [Op.Sub(g, dy, Op.Mul(g, Op.Exp(g, y!), Op.ReduceSum(g, dy, [-1])))],
  // y_t = Σ_{s <= t} x_s          dx_s = Σ_{t >= s} dy_t = Σ dy - Σ_{t <= s} dy_t + dy_s
  CumSum: (g, { inputs: [x, axis] }, dy) => {
    const at = constantInts(g, axis!)[0]!
    const total = Op.ReduceSum(g, dy, [at])
    return [Op.Add(g, Op.Sub(g, total, Op.CumSum(g, dy, Shape.axis(x!.shape, at))), dy), null]
  },
  ArgMax: none,
  // y = x at the k largest        dx = dy there
  TopK: (_g, { outputs: [values, indices], gradients: [dy] }) => [
    dy === undefined ? null : { _tag: "ScatterAdd", indices: indices!, updates: dy, axis: values!.shape.length - 1 },
    null
  ],

  // Y = A B                       dA = dY Bᵀ                        dB = Aᵀ dY
  MatMul: (g, { inputs: [a, b] }, dy) => {
    // A matrix on the right sums over every row on the left: one product of matrices instead of a batch of them.
    if (b!.shape.length === 2 && a!.shape.length > 2) {
      const flat = (x: Value) => Op.Reshape(g, x, [Shape.product(x.shape.slice(0, -1)), x.shape.at(-1)!])
      const da = Op.Reshape(g, Op.Gemm(g, flat(dy), b!, { transB: true }), a!.shape)
      return [da, Op.Gemm(g, flat(a!), flat(dy), { transA: true })]
    }
    return [Op.MatMul(g, dy, transposed(g, b!)), Op.MatMul(g, transposed(g, a!), dy)]
  },
  // Y = op(A) op(B) + c           dA, dB by the case of the two transpositions           dc = dY
  Gemm: (g, node, dy) => {
    const [a, b, c] = node.inputs
    const transA = intAttribute(node, "transA", 0) === 1
    const transB = intAttribute(node, "transB", 0) === 1
    const da = transA ? Op.Gemm(g, b!, dy, { transA: transB, transB: true }) : Op.Gemm(g, dy, b!, { transB: !transB })
    const db = transB ? Op.Gemm(g, dy, a!, { transA: true, transB: transA }) : Op.Gemm(g, a!, dy, { transA: !transA })
    return c === undefined ? [da, db] : [da, db, dy]
  },
  // Y = α op(A) op(B)             dA, dB by the case of the two transpositions
  FusedMatMul: (g, node, dy) => {
    const [a, b] = node.inputs
    const transA = intAttribute(node, "transA", 0) === 1
    const transB = intAttribute(node, "transB", 0) === 1
    const scale = node.attributes["alpha"]
    const alpha = scale !== undefined && "float" in scale ? scale.float : 1
    return [
      transA
        ? Op.FusedMatMul(g, b!, dy, { transA: transB, transB: true, alpha })
        : Op.FusedMatMul(g, dy, b!, { transB: !transB, alpha }),
      transB
        ? Op.FusedMatMul(g, dy, a!, { transA: true, transB: transA, alpha })
        : Op.FusedMatMul(g, a!, dy, { transA: !transA, alpha })
    ]
  },

  // Movement: the gradient moves back.
  Reshape: (g, { inputs: [x] }, dy) => [Op.Reshape(g, dy, x!.shape), null],
  Unsqueeze: (g, { inputs: [x] }, dy) => [Op.Reshape(g, dy, x!.shape), null],
  Squeeze: (g, { inputs: [x] }, dy) => [Op.Reshape(g, dy, x!.shape), null],
  // y = x repeated                dx = Σ dy over the repeated axes (the walk)
  Expand: (_g, _node, dy) => [dy, null],
  Transpose: (g, node, dy) => {
    const perm = node.attributes["perm"] as { readonly ints: ReadonlyArray<number> }
    return [
      Op.Transpose(
        g,
        dy,
        perm.ints.map((_, i) => perm.ints.indexOf(i))
      )
    ]
  },
  // y = [a, b, ...]               da, db, ... = the parts of dy
  Concat: (g, node, dy) => {
    const axis = Shape.axis(dy.shape, intAttribute(node, "axis", 0))
    const dims = node.inputs.map((input) => input!.shape[axis]!)
    const known = dims.every((dim) => typeof dim === "number")
    const sizes = dims.map((dim) => Graph.dim(g, dim))
    return known ? Op.Split(g, dy, dims, axis) : Op.SplitAt(g, dy, Op.Concat(g, sizes, 0), dims, axis)
  },
  // a, b, ... = parts of x        dx = [da, db, ...]
  Split: (g, node) => {
    const axis = intAttribute(node, "axis", 0)
    const parts = node.outputs.map((output, i) => node.gradients[i] ?? zerosLike(g, output))
    return [Op.Concat(g, parts, axis, node.inputs[0]!.shape[axis]!), null]
  },
  // y = x[start:end]              dx = dy between zeros
  Slice: (g, { inputs: [x, start, end, axes], outputs: [y] }, dy) => {
    const axis = constantInts(g, axes!)[0]!
    const size = Op.Slice(g, Graph.shape(g, x!.shape), Graph.ints(g, [axis]), Graph.ints(g, [axis + 1]), 0, 1)
    const first = sliceBound(g, start!, size)
    const last = Op.Max(g, first, sliceBound(g, end!, size))
    const blank = (dim: string, count: Value) =>
      zerosOf(g, Shape.withDim(x!.shape, axis, dim), Shape.withDim(x!.shape, axis, 1), axis, count)
    const before = blank(`${y!.name}/before`, first)
    const after = blank(`${y!.name}/after`, Op.Sub(g, size, last))
    return [Op.Concat(g, [before, dy, after], axis, x!.shape[axis]!), null, null, null]
  },

  // y = x[indices]                dx = dy added at the indices
  Gather: (g, node, dy) => {
    const [x, indices] = node.inputs
    const axis = intAttribute(node, "axis", 0)
    const flat = Op.Reshape(g, indices!, [Shape.product(indices!.shape)])
    const updates = Op.Reshape(g, dy, Shape.withDim(x!.shape, axis, flat.shape[0]!))
    const rank = x!.shape.length
    const column =
      rank === 1
        ? flat
        : Op.Reshape(
            g,
            flat,
            x!.shape.map((_, i) => (i === axis ? flat.shape[0]! : 1))
          )
    return [{ _tag: "ScatterAdd", indices: Op.Expand(g, column, updates.shape), updates, axis }, null]
  },
  GatherElements: (_g, node, dy) => [
    { _tag: "ScatterAdd", indices: node.inputs[1]!, updates: dy, axis: intAttribute(node, "axis", 0) },
    null
  ],
  // y = x with u at the indices   dx = dy, zero where overwritten ("none") or dy ("add")      du = dy at the indices
  ScatterElements: (g, node, dy) => {
    const [, indices, updates] = node.inputs
    const axis = intAttribute(node, "axis", 0)
    const adds = node.attributes["reduction"] !== undefined
    const blank = Op.Expand(g, Graph.scalar(g, 0), updates!.shape)
    const dx = adds ? dy : Op.ScatterElements(g, dy, indices!, blank, axis)
    return [dx, null, Op.GatherElements(g, dy, indices!, axis)]
  },
  ConstantOfShape: none,
  Range: none,
  Shape: none,

  // y = x̂ w + b, x̂ = (x - μ) / σ  dx = (dŷ - mean dŷ - x̂ mean(dŷ x̂)) / σ,  dŷ = dy w      dw = Σ dy x̂      db = Σ dy
  LayerNormalization: (g, node, dy) => {
    const {
      inputs: [x, w],
      outputs: [, mean, invStdDev]
    } = firstOutput(node)
    const xhat = Op.Mul(g, Op.Sub(g, x!, mean!), invStdDev!)
    const dyhat = Op.Mul(g, dy, w!)
    const along = Op.ReduceMean(g, Op.Mul(g, dyhat, xhat), [-1])
    const centred = Op.Sub(g, dyhat, Op.ReduceMean(g, dyhat, [-1]))
    return [Op.Mul(g, Op.Sub(g, centred, Op.Mul(g, xhat, along)), invStdDev!), Op.Mul(g, dy, xhat), dy]
  },
  // y = x̂ w, x̂ = x / rms          dx = (dŷ - x̂ mean(dŷ x̂)) / rms,  dŷ = dy w              dw = Σ dy x̂
  SimplifiedLayerNormalization: (g, node, dy) => {
    const {
      inputs: [x, w],
      outputs: [, invRms]
    } = firstOutput(node)
    const xhat = Op.Mul(g, x!, invRms!)
    const dyxhat = Op.Mul(g, dy, xhat)
    const along = Op.ReduceMean(g, Op.Mul(g, dyxhat, w!), [-1])
    return [Op.Mul(g, Op.Sub(g, Op.Mul(g, dy, w!), Op.Mul(g, xhat, along)), invRms!), dyxhat]
  },
  // y = R(θ) x                    dx = R(-θ) dy
  RotaryEmbedding: (g, { inputs: [, positions, cos, sin] }, dy) => [
    Op.RotaryEmbedding(g, dy, positions!, cos!, Op.Neg(g, sin!)),
    null,
    null,
    null
  ],

  // A loop is differentiated inside its body, never across it; the walk reports an attempt.
  Loop: () => {
    throw new NotDifferentiable()
  },
  Scan: () => {
    throw new NotDifferentiable()
  },
  If: () => {
    throw new NotDifferentiable()
  }
}

/**
 * Thrown by the rows of `Loop`, `Scan` and `If`, and where a gradient arrives at an output that the row does not differentiate;
 * the walk turns it into `MissingGradientRule`.
 *
 * @category errors
 * @since 0.1.0
 */
export class NotDifferentiable extends Error {}

const extremum = (g: Graph.Graph, node: ForwardNode, dy: Value): ReadonlyArray<Value | null> => {
  const [x, axes] = node.inputs
  const y = spread(g, node, node.outputs[0]!)
  const hit = Op.Cast(g, Op.Equal(g, x!, y), x!.dtype)
  const ties = Op.ReduceSum(g, hit, constantInts(g, axes!))
  return [Op.Mul(g, spread(g, node, dy), Op.Div(g, hit, ties)), null]
}

// The statistics that a normalisation returns beside its result are for its gradient, and have none themselves.
const firstOutput = (node: ForwardNode): ForwardNode => {
  if (node.gradients.some((dy, i) => i > 0 && dy !== undefined)) throw new NotDifferentiable()
  return node
}

const zerosLike = (g: Graph.Graph, x: Value): Value => Op.Expand(g, Graph.scalar(g, 0), x.shape)

// Zeros whose size along one axis is known only as a value.
const zerosOf = (g: Graph.Graph, shape: Graph.Shape, ones: Graph.Shape, axis: number, count: Value): Value => {
  const sizes = ones.map((dim, i) => (i === axis ? count : Graph.dim(g, dim)))
  const target = sizes.length === 1 ? sizes[0]! : Op.Concat(g, sizes, 0)
  return Graph.append(g, "Expand", [Graph.scalar(g, 0), target], [{ dtype: "float32", shape }])[0]!
}

// Negative bounds count from the end; bounds past the end mean the end.
const sliceBound = (g: Graph.Graph, bound: Value, size: Value): Value => {
  const zero = Graph.ints(g, [0])
  const positive = Op.Where(g, Op.Less(g, bound, zero), Op.Add(g, bound, size), bound)
  return Op.Min(g, Op.Max(g, positive, zero), size)
}
