import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Gradient from "../../src/onnx/Gradient.ts"
import { gradientRules } from "../../src/onnx/GradientRules.ts"
import type { Dim, Graph as G, Shape, Value } from "../../src/onnx/Graph.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import type { OpName } from "../../src/onnx/Op.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Tensor from "../../src/Tensor.ts"
import golden from "./operators.golden.json" with { type: "json" }
import * as Run from "./run.ts"

type Sizes = Readonly<Record<string, number>>

/** An input of a case: how it is declared, and what it is filled with. */
interface Input {
  readonly dtype: Tensor.DType
  readonly shape: Shape
  readonly fill: (random: Run.Random, shape: ReadonlyArray<number>, sizes: Sizes) => Tensor.Tensor
  readonly frozen: boolean
}

interface Case {
  readonly op: OpName
  readonly label: string
  readonly inputs: ReadonlyArray<Input>
  readonly build: (g: G, ...inputs: ReadonlyArray<Value>) => Value | ReadonlyArray<Value>
  /** Sizes of the symbolic dimensions: every one of these is compared with central differences on the same session. */
  readonly sizes: ReadonlyArray<Sizes>
  /** Sizes at which ONNX Runtime splits the work over its threads. */
  readonly large: Sizes
}

const concrete = (shape: Shape, sizes: Sizes): ReadonlyArray<number> =>
  shape.map((dim) => (typeof dim === "number" ? dim : sizes[dim]!))

const floats = (shape: Shape, next: (random: Run.Random) => number, frozen = false): Input => ({
  dtype: "float32",
  shape,
  fill: (random, dims) =>
    Tensor.float32(
      Float32Array.from({ length: Tensor.size(dims) }, () => next(random)),
      dims
    ),
  frozen
})

/** Numbers of order 1, either sign. */
const real = (...shape: ReadonlyArray<Dim>): Input => floats(shape, (random) => random.uniform(-1.5, 1.5))

/** Numbers well above zero. */
const positive = (...shape: ReadonlyArray<Dim>): Input => floats(shape, (random) => random.uniform(0.8, 2.5))

/** A shuffled grid of numbers: no two within 0.3 of each other, none within 0.15 of zero; for functions with corners. */
const distinct = (shape: Shape, offset = 0): Input => ({
  dtype: "float32",
  shape,
  fill: (random, dims) => {
    const data = Float32Array.from({ length: Tensor.size(dims) }, (_, i) => i)
    const middle = data.length / 2 - 0.5 - (data.length % 2) / 2
    for (let i = data.length - 1; i > 0; i--) {
      const j = random.below(i + 1)
      const kept = data[i]!
      data[i] = data[j]!
      data[j] = kept
    }
    return Tensor.float32(
      data.map((rank) => (rank - middle) * 0.3125 + offset),
      dims
    )
  },
  frozen: false
})

const frozen = (input: Input): Input => ({ ...input, frozen: true })

/** Indices `0 .. bound - 1`, duplicates likely; `signed` also counts some of them from the end. */
const indices = (shape: Shape, bound: Dim, signed = false): Input => ({
  dtype: "int64",
  shape,
  fill: (random, dims, sizes) => {
    const limit = typeof bound === "number" ? bound : sizes[bound]!
    const next = () => random.below(limit) - (signed && random.below(2) === 0 ? limit : 0)
    return Tensor.int64(Array.from({ length: Tensor.size(dims) }, next), dims)
  },
  frozen: true
})

/** Along the last axis a shuffle of `0 .. size - 1`: indices without duplicates. */
const permutations = (shape: Shape): Input => ({
  dtype: "int64",
  shape,
  fill: (random, dims) => {
    const size = dims.at(-1)!
    const rows = Array.from({ length: Tensor.size(dims) / size }, () => {
      const shift = random.below(size)
      return Array.from({ length: size }, (_, i) => (i + shift) % size)
    })
    return Tensor.int64(rows.flat(), dims)
  },
  frozen: true
})

const bools = (...shape: ReadonlyArray<Dim>): Input => ({
  dtype: "bool",
  shape,
  fill: (random, dims) =>
    Tensor.make(
      "bool",
      Uint8Array.from({ length: Tensor.size(dims) }, () => random.below(2)),
      dims
    ),
  frozen: true
})

const small: ReadonlyArray<Sizes> = [
  { B: 2, T: 3, H: 2, D: 4, V: 5, N: 4 },
  { B: 1, T: 4, H: 3, D: 2, V: 6, N: 5 }
]
const large: Sizes = { B: 16, T: 64, H: 8, D: 64, V: 64, N: 4096 }

const cases: Array<Case> = []
const add = (
  op: OpName,
  label: string,
  inputs: ReadonlyArray<Input>,
  build: Case["build"],
  sizes: { readonly small?: ReadonlyArray<Sizes>; readonly large?: Sizes } = {}
): void => {
  cases.push({ op, label, inputs, build, sizes: sizes.small ?? small, large: { ...large, ...sizes.large } })
}

// ---- elementwise

const bt = ["B", "T", "D"]
const unary = { Neg: Op.Neg, Exp: Op.Exp, Sin: Op.Sin, Cos: Op.Cos, Tanh: Op.Tanh, Erf: Op.Erf, Sigmoid: Op.Sigmoid }
for (const [op, build] of Object.entries(unary)) add(op as OpName, "", [real(...bt)], build)
add("Identity", "", [real(...bt)], Op.Identity)
for (const [op, build] of Object.entries({ Log: Op.Log, Sqrt: Op.Sqrt, Reciprocal: Op.Reciprocal })) {
  add(op as OpName, "", [positive(...bt)], build)
}
for (const [op, build] of Object.entries({ Abs: Op.Abs, Relu: Op.Relu })) add(op as OpName, "", [distinct(bt)], build)
add("Gelu", "exact", [real(...bt)], (g, x) => Op.Gelu(g, x!))
add("Gelu", "tanh", [real(...bt)], (g, x) => Op.Gelu(g, x!, "tanh"))
add("Clip", "", [distinct(bt)], (g, x) => Op.Clip(g, x!, Graph.scalar(g, -0.625), Graph.scalar(g, 0.9375)))
add("Cast", "through float64", [real(...bt)], (g, x) =>
  Op.Cast(g, Op.Mul(g, Op.Cast(g, x!, "float64"), Op.Cast(g, x!, "float64")), "float32")
)

const pairs: ReadonlyArray<readonly [string, Shape, Shape]> = [
  ["same shape", ["B", "T"], ["B", "T"]],
  ["row", ["B", "T", "D"], ["D"]],
  ["both sides", ["B", 1, "D"], ["T", 1]],
  ["scalar", ["B", "T"], []],
  ["leading axis", ["T"], ["B", "H", "T"]],
  ["numbers and names", ["B", 1, 3], [1, 2, 3]]
]
const wide = { B: 32, T: 64, D: 32 }
for (const [label, a, b] of pairs) {
  add("Add", label, [real(...a), real(...b)], Op.Add, { large: wide })
  add("Sub", label, [real(...a), real(...b)], Op.Sub, { large: wide })
  add("Mul", label, [real(...a), real(...b)], Op.Mul, { large: wide })
  add("Div", label, [real(...a), positive(...b)], Op.Div, { large: wide })
  add("Max", label, [distinct(a), distinct(b, 0.15625)], Op.Max, { large: wide })
  add("Min", label, [distinct(a), distinct(b, 0.15625)], Op.Min, { large: wide })
}
for (const exponent of [2, 3, 0.5, -1.5]) {
  add("Pow", `to ${exponent}`, [positive(...bt)], (g, x) => Op.Pow(g, x!, Graph.scalar(g, exponent)))
}
add("Pow", "broadcast", [positive("T", 1), frozen(positive("B", 1, "D"))], (g, x, c) => Op.Pow(g, x!, c!))
add("Where", "same shape", [bools("B", "T"), real("B", "T"), real("B", "T")], Op.Where, { large: wide })
add("Where", "broadcast", [bools("B", 1, "D"), real("T", 1), real("B", "T", "D")], Op.Where, { large: wide })
add("Where", "scalar", [bools("D"), real("B", "T", "D"), real()], Op.Where, { large: wide })

// ---- piecewise constant: x times the result, so that only the direct path has a gradient

const scaled = (g: G, x: Value, result: Value): Value => Op.Mul(g, x, Op.Cast(g, result, "float32"))
const comparisons = {
  Equal: Op.Equal,
  Less: Op.Less,
  LessOrEqual: Op.LessOrEqual,
  Greater: Op.Greater,
  GreaterOrEqual: Op.GreaterOrEqual
}
for (const [op, compare] of Object.entries(comparisons)) {
  add(op as OpName, "", [distinct(["B", "T"]), frozen(distinct(["T"], 0.15625))], (g, x, y) =>
    scaled(g, x!, compare(g, x!, y!))
  )
}
const isPositive = (g: G, x: Value) => Op.Greater(g, x, Graph.scalar(g, 0))
for (const [op, combine] of Object.entries({ And: Op.And, Or: Op.Or })) {
  add(op as OpName, "", [distinct(["B", "T"]), frozen(distinct(["T"]))], (g, x, y) =>
    scaled(g, x!, combine(g, isPositive(g, x!), isPositive(g, y!)))
  )
}
add("Not", "", [distinct(["B", "T"])], (g, x) => scaled(g, x!, Op.Not(g, isPositive(g, x!))))
add("IsNaN", "", [real("B", "T")], (g, x) => scaled(g, x!, Op.Not(g, Op.IsNaN(g, x!))))
add("IsInf", "", [real("B", "T")], (g, x) => scaled(g, x!, Op.Not(g, Op.IsInf(g, x!))))
add("ArgMax", "", [distinct(["B", "T"])], (g, x) => scaled(g, x!, Op.ArgMax(g, x!, -1)))
add("Range", "", [real("B", "T")], (g, x) => scaled(g, x!, Op.Range(g, "T")))
add("Shape", "", [real("B", 2)], (g, x) => scaled(g, x!, Graph.shape(g, ["B", 2])), {
  large: { B: 4096 }
})
add("ConstantOfShape", "", [real("B", "T")], (g, x) => Op.Mul(g, x!, Op.ConstantOfShape(g, ["B", "T"], 1)))

// ---- reduction

const reductions = {
  ReduceSum: Op.ReduceSum,
  ReduceSumSquare: Op.ReduceSumSquare,
  ReduceMean: Op.ReduceMean,
  ReduceMax: Op.ReduceMax,
  ReduceMin: Op.ReduceMin
}
for (const [op, reduce] of Object.entries(reductions)) {
  for (const axes of [[-1], [0], [1], [0, 2], [0, 1, 2]]) {
    for (const keepDims of [true, false]) {
      const label = `over [${axes}]${keepDims ? ", axes kept" : ""}`
      add(op as OpName, label, [distinct(bt)], (g, x) => reduce(g, x!, axes, keepDims))
    }
  }
}
for (const [op, build] of Object.entries({ Softmax: Op.Softmax, LogSoftmax: Op.LogSoftmax })) {
  add(op as OpName, "", [real("B", "T", "V")], build)
}
for (const axis of [0, 1, -1]) add("CumSum", `axis ${axis}`, [real(...bt)], (g, x) => Op.CumSum(g, x!, axis))
add("TopK", "known k", [distinct(["B", "V"])], (g, x) => Op.TopK(g, x!, Graph.ints(g, [2]), 2).values)
add(
  "TopK",
  "k read from a dimension",
  [distinct(["B", "V"]), frozen(real("T"))],
  (g, x) => Op.TopK(g, x!, Graph.dim(g, "T"), "T").values
)
add("TopK", "of a vector", [distinct(["V"])], (g, x) => Op.TopK(g, x!, Graph.ints(g, [3]), 3).values)

// ---- linear algebra

const products: ReadonlyArray<readonly [string, Shape, Shape]> = [
  ["matrices", ["T", "D"], ["D", "V"]],
  ["batch", ["B", "T", "D"], ["B", "D", "V"]],
  ["weight", ["B", "T", "D"], ["D", "V"]],
  ["weight, four axes", ["B", "H", "T", 3], [3, 2]],
  ["left broadcast", ["T", "D"], ["B", "D", "V"]],
  ["heads broadcast", ["B", 1, "T", "D"], ["H", "D", "V"]],
  ["heads", ["B", "H", "T", "D"], ["B", "H", "D", "T"]]
]
for (const [label, a, b] of products) add("MatMul", label, [real(...a), real(...b)], Op.MatMul)
const biases: Readonly<Record<string, Shape | undefined>> = {
  "no bias": undefined,
  "row bias": ["V"],
  "full bias": ["T", "V"],
  "column bias": ["T", 1],
  "scalar bias": []
}
const flip = (shape: Shape, flipped: boolean): Shape =>
  flipped ? [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!] : shape
for (const transA of [false, true]) {
  for (const transB of [false, true]) {
    const sides = `A${transA ? "ᵀ" : ""} B${transB ? "ᵀ" : ""}`
    for (const [label, bias] of Object.entries(biases)) {
      const inputs = [real(...flip(["T", "D"], transA)), real(...flip(["D", "V"], transB))]
      if (bias !== undefined) inputs.push(real(...bias))
      add("Gemm", `${sides}, ${label}`, inputs, (g, a, b, c) => Op.Gemm(g, a!, b!, { transA, transB, c }), {
        large: { T: 256 }
      })
    }
    for (const [label, a, b] of products.filter(([label]) => !label.startsWith("weight"))) {
      const inputs = [real(...flip(a, transA)), real(...flip(b, transB))]
      const build: Case["build"] = (g, x, y) => Op.FusedMatMul(g, x!, y!, { transA, transB, alpha: 0.75 })
      add("FusedMatMul", `${sides}, ${label}`, inputs, build, { large: { B: 4, H: 4 } })
    }
  }
}

// ---- movement

// Equality of x and its square's movement would hide a wrong order of elements, so each result is squared.
const squared = (g: G, y: Value): Value => Op.Mul(g, y, y)
const headed: Shape = ["B", "T", "H", "D"]
add(
  "Reshape",
  "rows to a batch of heads",
  [real("B*T", 6), frozen(real("B", "T"))],
  (g, x) => squared(g, Op.Reshape(g, x!, ["B", "T", 3, 2])),
  { small: small.map((sizes) => ({ ...sizes, "B*T": sizes.B! * sizes.T! })), large: { "B*T": 16 * 64 } }
)
add("Reshape", "batch to rows", [real("B", "T", "D")], (g, x) => squared(g, Op.Reshape(g, x!, ["B*T", "D"])))
add("Reshape", "several unknown sizes", [real(...headed)], (g, x) =>
  squared(g, Op.Reshape(g, Op.Reshape(g, x!, ["B*T*H", "D"]), ["B", "T", "H", "D"]))
)
add("Reshape", "sizes that change places", [real("B", "T")], (g, x) => squared(g, Op.Reshape(g, x!, ["T", "B"])))
add("Reshape", "rows to heads, transposed, and back", [real("B", "T", 6)], (g, x) => {
  const rows = Op.Reshape(g, x!, ["B*T", 6])
  const heads = Op.Transpose(g, Op.Reshape(g, rows, ["B", "T", 3, 2]), [0, 2, 1, 3])
  const scores = Op.Softmax(g, Op.MatMul(g, heads, Op.Transpose(g, heads, [0, 1, 3, 2])))
  const mixed = Op.Transpose(g, Op.MatMul(g, scores, heads), [0, 2, 1, 3])
  return Op.Reshape(g, mixed, ["B*T", 6])
})
add("Transpose", "matrix", [real("B", "T")], (g, x) => squared(g, Op.Transpose(g, x!, [1, 0])))
add("Transpose", "heads", [real(...headed)], (g, x) => squared(g, Op.Transpose(g, x!, [0, 2, 1, 3])))
add("Transpose", "cycle", [real(...bt)], (g, x) => squared(g, Op.Transpose(g, x!, [2, 0, 1])))
add("Expand", "new and old axes", [real("T", 1), frozen(real("B", "D"))], (g, x) =>
  squared(g, Op.Expand(g, x!, ["B", "T", "D"]))
)
add("Expand", "scalar", [real()], (g, x) => squared(g, Op.Expand(g, x!, [3, 4])), { large: {} })
add("Unsqueeze", "", [real("B", "T")], (g, x) => squared(g, Op.Unsqueeze(g, x!, [0, -1])))
add("Squeeze", "", [real("B", 1, "T", 1)], (g, x) => squared(g, Op.Squeeze(g, x!, [1, -1])))
add("Concat", "numbers", [real("B", 2), real("B", 3)], (g, ...xs) => squared(g, Op.Concat(g, xs, -1)), {
  large: { B: 8192 }
})
add(
  "Concat",
  "names and a number",
  [real("B", "T", 2), real("B", 1, 2), real("B", "N", 2)],
  (g, ...xs) => squared(g, Op.Concat(g, xs, 1)),
  { large: { N: 512 } }
)
add("Concat", "the same value twice", [real("B", "T")], (g, x) => squared(g, Op.Concat(g, [x!, x!], 0, "2B")), {
  large: wide
})
add("Split", "every part used", [real("B", 6)], (g, x) => Op.Split(g, x!, [1, 3, 2], -1).map((y) => squared(g, y)), {
  large: { B: 8192 }
})
add(
  "Split",
  "one part unused",
  [real(6, "T")],
  (g, x) => {
    const [a, , c] = Op.Split(g, x!, [1, 3, 2], 0)
    return [squared(g, a!), squared(g, c!)]
  },
  { large: { T: 8192 } }
)
add(
  "Split",
  "sizes from dimensions",
  [real("B", "H+T", 2), frozen(real("H", "T"))],
  (g, x) => {
    const sizes = Op.Concat(g, [Graph.dim(g, "H"), Graph.dim(g, "T")], 0)
    const [a, b] = Op.SplitAt(g, x!, sizes, ["H", "T"], 1)
    return [squared(g, a!), Op.Exp(g, b!)]
  },
  { small: small.map((sizes) => ({ ...sizes, "H+T": sizes.H! + sizes.T! })), large: { "H+T": 72, B: 128 } }
)
const slice =
  (start: number, end: number, axis: number, size: Dim): Case["build"] =>
  (g, x) =>
    squared(g, Op.Slice(g, x!, Graph.ints(g, [start]), Graph.ints(g, [end]), axis, size))
add("Slice", "middle", [real("B", 4, "D")], slice(1, 3, 1, 2), { large: { B: 128 } })
add("Slice", "last position", [real("B", "T", "D")], slice(-1, 2 ** 31, 1, 1))
add("Slice", "all but the last", [real("B", "T", "D")], slice(0, -1, 1, "T-1"))
add("Slice", "all but the first", [real("B", "T")], slice(1, 2 ** 31, -1, "T-1"), { large: wide })
add("Slice", "nothing", [real("B", "T")], (g, x) =>
  Op.Add(g, Op.Mul(g, x!, x!), Op.ReduceSum(g, slice(2, 1, 0, "none")(g, x!) as Value, [0]))
)
add(
  "Slice",
  "bounds from dimensions",
  [real("N", "B"), frozen(real("T"))],
  (g, x) => squared(g, Op.Slice(g, x!, Graph.ints(g, [1]), Graph.dim(g, "T"), 0, "T-1")),
  { small: small.map((sizes) => ({ ...sizes, N: sizes.T! + 2 })) }
)

// ---- indexing

add(
  "Gather",
  "rows, duplicates",
  [real("V", "D"), indices(["B", "T"], "V")],
  (g, x, i) => squared(g, Op.Gather(g, x!, i!)),
  {
    large: { B: 64, D: 32 }
  }
)
add(
  "Gather",
  "vector of duplicates",
  [real("V", "D"), indices(["N"], "V")],
  (g, x, i) => squared(g, Op.Gather(g, x!, i!)),
  {
    large: { N: 4096, V: 64, D: 32 }
  }
)
add("Gather", "negative indices", [real("V", 3), indices(["N"], "V", true)], (g, x, i) =>
  squared(g, Op.Gather(g, x!, i!))
)
add("Gather", "middle axis", [real("B", "V", "D"), indices(["T"], "V")], (g, x, i) =>
  squared(g, Op.Gather(g, x!, i!, 1))
)
add("Gather", "last axis of a matrix", [real("B", "V"), indices(["N"], "V")], (g, x, i) =>
  squared(g, Op.Gather(g, x!, i!, -1))
)
add("Gather", "from a vector", [real("V"), indices(["B", "T"], "V")], (g, x, i) => squared(g, Op.Gather(g, x!, i!)), {
  large: { B: 128 }
})
add("Gather", "one index", [real("V", "D"), indices([], "V")], (g, x, i) => squared(g, Op.Gather(g, x!, i!)), {
  large: { V: 512, D: 256 }
})
add("GatherElements", "last axis", [real("B", "V"), indices(["B", "N"], "V")], (g, x, i) =>
  squared(g, Op.GatherElements(g, x!, i!, -1))
)
add(
  "GatherElements",
  "first axis",
  [real("V", "D"), indices(["N", "D"], "V")],
  (g, x, i) => squared(g, Op.GatherElements(g, x!, i!, 0)),
  { large: { N: 1024 } }
)
add("GatherElements", "one of the vocabulary", [real("B", "T", "V"), indices(["B", "T", 1], "V")], (g, x, i) =>
  Op.GatherElements(g, Op.LogSoftmax(g, x!), i!, -1)
)
add(
  "ScatterElements",
  "added, duplicates",
  [real("V", "D"), indices(["N", "D"], "V"), real("N", "D")],
  (g, x, i, u) => squared(g, Op.ScatterElements(g, x!, i!, u!, 0, "add")),
  { large: { N: 4096, V: 64, D: 32 } }
)
add(
  "ScatterElements",
  "overwritten",
  [real("B", "V"), permutations(["B", "V"]), real("B", "V")],
  (g, x, i, u) => squared(g, Op.ScatterElements(g, x!, i!, u!, -1)),
  { large: { B: 256 } }
)
add(
  "ScatterElements",
  "one overwritten",
  [real("B", "V"), indices(["B", 1], "V"), real("B", 1)],
  (g, x, i, u) => squared(g, Op.ScatterElements(g, x!, i!, u!, 1)),
  { large: { B: 2048 } }
)

// ---- normalisation

add(
  "LayerNormalization",
  "",
  [real(...bt), real("D"), real("D")],
  (g, x, w, b) => Op.LayerNormalization(g, x!, w!, b!, 1e-5).y
)
add(
  "LayerNormalization",
  "four axes",
  [real("B", 1, "T", 5), real(5), real(5)],
  (g, x, w, b) => Op.LayerNormalization(g, x!, w!, b!, 1e-2).y,
  { large: { B: 64 } }
)
add(
  "SimplifiedLayerNormalization",
  "",
  [real(...bt), real("D")],
  (g, x, w) => Op.SimplifiedLayerNormalization(g, x!, w!, 1e-6).y
)
add(
  "SimplifiedLayerNormalization",
  "per head",
  [real("B", "T", "H", 5), real(5)],
  (g, x, w) => Op.SimplifiedLayerNormalization(g, x!, w!, 1e-2).y
)
const tables = [frozen(real("N", 2)), frozen(real("N", 2))]
add("RotaryEmbedding", "", [real("B", "H", "T", 4), indices(["B", "T"], "N"), ...tables], (g, x, i, cos, sin) =>
  squared(g, Op.RotaryEmbedding(g, x!, i!, cos!, sin!))
)

// ---------------------------------------------------------------------------------------------------------------------

interface Built {
  readonly forward: G
  readonly whole: G
  readonly inputs: ReadonlyArray<{ readonly value: Value; readonly input: Input }>
  readonly results: ReadonlyArray<Value>
}

/** Outputs `y0, y1, ...`, and with upstream gradients `w0, w1, ...` as inputs, `dx0, ...` of the inputs that train. */
const build = ({ build, inputs, op }: Pick<Case, "build" | "inputs" | "op">): Built => {
  const g = Graph.make(op)
  const declared = inputs.map((input, i) => ({ input, value: Graph.input(g, `x${i}`, input.dtype, input.shape) }))
  const results = [build(g, ...declared.map(({ value }) => value))].flat()
  results.forEach((y, i) => void Graph.output(g, `y${i}`, y))
  const forward: G = {
    ...g,
    nodes: [...g.nodes],
    inputs: [...g.inputs],
    outputs: [...g.outputs],
    initializers: new Map(g.initializers)
  }
  const upstream = results.map((y, i) => Graph.input(g, `w${i}`, y.dtype, y.shape))
  const loss = results.map((y, i) => Op.sumAll(g, Op.Mul(g, y, upstream[i]!))).reduce((a, b) => Op.Add(g, a, b))
  const parameters = declared.flatMap(({ input, value }) => (input.frozen ? [] : [value]))
  const gradients = Result.getOrThrow(Gradient.backward(g, loss, parameters))
  assert.deepStrictEqual(
    [...gradients.keys()],
    parameters.map(({ name }) => name),
    "every input has a gradient"
  )
  for (const [name, dy] of gradients) {
    const { shape } = Graph.value(g, name)
    assert.deepStrictEqual(dy.shape, shape, `shape of the gradient of ${name}`)
    Graph.output(g, `d${name}`, dy)
  }
  assert.deepStrictEqual(Graph.check(g), [])
  assert.deepStrictEqual(Graph.check(Graph.prune(g)), [])
  return { forward, whole: g, inputs: declared, results }
}

const feedsOf = ({ inputs }: Built, random: Run.Random, sizes: Sizes): Run.Tensors =>
  Object.fromEntries(
    inputs.map(({ input, value }) => {
      return [value.name, input.fill(random, concrete(input.shape, sizes), sizes)]
    })
  )

const upstreamOf = (results: Run.Tensors, random: Run.Random): Run.Tensors =>
  Object.fromEntries(
    Object.entries(results).map(([name, { shape }]) => [
      name.replace("y", "w"),
      Tensor.float32(
        Float32Array.from({ length: Tensor.size(shape) }, () => random.uniform(-1, 1)),
        shape
      )
    ])
  )

/** Σ y w in double precision, and Σ |y w|, which bounds its rounding. */
const weighted = (results: Run.Tensors, upstream: Run.Tensors): readonly [number, number] => {
  let [sum, magnitude] = [0, 0]
  for (const [name, y] of Object.entries(results)) {
    const w = Run.numbers(upstream[name.replace("y", "w")])
    Run.numbers(y).forEach((value, i) => {
      sum += value * w[i]!
      magnitude += Math.abs(value * w[i]!)
    })
  }
  return [sum, magnitude]
}

// Inputs are multiples of 2^-10, so that x ± h and x ± 2h are exact in float32. The five-point rule errs by
// h⁴/30 |f⁽⁵⁾| and, since every result is within some roundings (2^-24 each) of the truth, by 3/2 of those over h.
const h = 2 ** -5
const roundings = 4
const differences = [
  [1, 8 / 12],
  [-1, -8 / 12],
  [2, -1 / 12],
  [-2, 1 / 12]
] as const

const checkDifferences = Effect.fnUntraced(function* (
  built: Built,
  sizes: Sizes,
  forward: Run.Runner,
  whole: Run.Runner
) {
  const random = Run.seeded(17)
  const feeds = feedsOf(built, random, sizes)
  const results = yield* forward.run(feeds)
  const upstream = upstreamOf(results, random)
  const actual = yield* whole.run({ ...feeds, ...upstream })
  const [, magnitude] = weighted(results, upstream)
  for (const {
    input,
    value: { name }
  } of built.inputs) {
    if (input.frozen) continue
    const given = feeds[name] as Tensor.Tensor<"float32">
    const expected = new Float64Array(given.data.length)
    for (let i = 0; i < expected.length; i++) {
      for (const [steps, weight] of differences) {
        const data = given.data.slice()
        data[i]! += steps * h
        const [moved] = weighted(yield* forward.run({ ...feeds, [name]: { ...given, data } }), upstream)
        expected[i]! += (weight * moved) / h
      }
    }
    const absolute = 1e-5 + (1.5 * roundings * 2 ** -24 * magnitude) / h
    Run.close(Run.numbers(actual[`d${name}`]), expected, `d${name} at ${JSON.stringify(sizes)}`, {
      absolute,
      relative: 1e-4
    })
  }
})

const checkThreads = Effect.fnUntraced(function* (built: Built, sizes: Sizes) {
  const random = Run.seeded(5)
  const feeds = feedsOf(built, random, sizes)
  let first: Run.Tensors | undefined
  for (const threads of [1, 2, 4]) {
    yield* Effect.scoped(
      Effect.gen(function* () {
        const { run } = yield* Run.open(built.whole, { threads })
        const forward = yield* Run.open(built.forward, { threads })
        const upstream = upstreamOf(yield* forward.run(feeds), Run.seeded(6))
        for (const attempt of [1, 2]) {
          const found = yield* run({ ...feeds, ...upstream })
          first ??= found
          for (const [name, tensor] of Object.entries(found)) {
            const same = Buffer.compare(Tensor.toBytes(tensor), Tensor.toBytes(first[name]!)) === 0
            if (same) continue
            Run.close(Run.numbers(tensor), Run.numbers(first[name]), `${name} with ${threads} threads, run ${attempt}`)
            assert.fail(`${name} with ${threads} threads, run ${attempt}: other bits than with 1 thread`)
          }
        }
      })
    )
  }
})

describe("every row of the table", () => {
  it("has a case here", () => {
    const tested = new Set<string>(cases.map(({ op }) => op))
    const refused = ["Loop", "If", "Scan"] // Gradient.test.ts
    assert.deepStrictEqual(
      Object.keys(gradientRules)
        .filter((op) => !tested.has(op))
        .sort(),
      refused.sort()
    )
  })

  for (const op of new Set(cases.map(({ op }) => op))) {
    const rows = cases.filter((row) => row.op === op)
    describe(op, () => {
      it.effect("agrees with central differences, and every shape with what runs", () =>
        Effect.gen(function* () {
          for (const row of rows) {
            yield* Effect.scoped(
              Effect.gen(function* () {
                const built = build(row)
                const forward = yield* Run.open(built.forward)
                const whole = yield* Run.open(built.whole)
                const every = yield* Run.open(Run.exposed(built.whole))
                for (const sizes of row.sizes) {
                  const random = Run.seeded(3)
                  const feeds = feedsOf(built, random, sizes)
                  yield* every.run({ ...feeds, ...upstreamOf(yield* forward.run(feeds), random) })
                  yield* checkDifferences(built, sizes, forward, whole)
                }
              })
            ).pipe(named(row))
          }
        })
      )

      it.effect("gives the same bits with 1, 2 and 4 threads, every time", () =>
        Effect.gen(function* () {
          for (const row of rows) yield* checkThreads(build(row), row.large).pipe(named(row))
        })
      )
    })
  }
})

// A failure says which case of the operator it was.
const named =
  (row: Case) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.catchDefect(effect, (defect) => {
      if (defect instanceof Error) defect.message = `${row.op} ${row.label}: ${defect.message}`
      return Effect.die(defect)
    })

// ---------------------------------------------------------------------------------------------------------------------

interface GoldenTensor {
  readonly dtype: string
  readonly shape: ReadonlyArray<number>
  readonly data: ReadonlyArray<number | string>
}

interface GoldenRow {
  readonly name: string
  readonly op: string
  readonly attributes: Readonly<Record<string, number | string | ReadonlyArray<number>>>
  readonly inputs: ReadonlyArray<GoldenTensor | null>
  readonly output?: GoldenTensor
  readonly outputs?: ReadonlyArray<GoldenTensor>
  readonly dy?: GoldenTensor
  readonly dys?: ReadonlyArray<GoldenTensor>
  readonly gradients: ReadonlyArray<GoldenTensor | null>
}

const fromGolden = ({ data, dtype, shape }: GoldenTensor): Tensor.Tensor => {
  if (dtype === "int64") return Tensor.int64(data.map(Number), shape)
  return dtype === "bool"
    ? Tensor.make("bool", Uint8Array.from(data, Number), shape)
    : Tensor.float32(data.map(Number), shape)
}

/** Writes a row of the golden file with `Op`: `x(i)` is input `i` as a value, `n(i)` the same as numbers. */
type Writer = (
  g: G,
  row: {
    readonly x: (i: number) => Value
    readonly n: (i: number) => ReadonlyArray<number>
    readonly count: number
    readonly attributes: GoldenRow["attributes"]
  }
) => Value | ReadonlyArray<Value>

const unaryWriter =
  (op: (g: G, x: Value) => Value): Writer =>
  (g, { x }) =>
    op(g, x(0))
const binaryWriter =
  (op: (g: G, a: Value, b: Value) => Value): Writer =>
  (g, { x }) =>
    op(g, x(0), x(1))
const reductionWriter =
  (reduce: typeof Op.ReduceSum): Writer =>
  (g, { attributes, count, n, x }) =>
    reduce(g, x(0), count > 1 ? n(1) : x(0).shape.map((_, i) => i), attributes.keepdims === 1)
const axisOf = (attributes: GoldenRow["attributes"]): number => Number(attributes.axis)

const writers: Readonly<Record<string, Writer>> = {
  Add: binaryWriter(Op.Add),
  Sub: binaryWriter(Op.Sub),
  Mul: binaryWriter(Op.Mul),
  Div: binaryWriter(Op.Div),
  Max: binaryWriter(Op.Max),
  Min: binaryWriter(Op.Min),
  MatMul: binaryWriter(Op.MatMul),
  Neg: unaryWriter(Op.Neg),
  Exp: unaryWriter(Op.Exp),
  Tanh: unaryWriter(Op.Tanh),
  Sigmoid: unaryWriter(Op.Sigmoid),
  Erf: unaryWriter(Op.Erf),
  Sin: unaryWriter(Op.Sin),
  Cos: unaryWriter(Op.Cos),
  Relu: unaryWriter(Op.Relu),
  Abs: unaryWriter(Op.Abs),
  Log: unaryWriter(Op.Log),
  Sqrt: unaryWriter(Op.Sqrt),
  Reciprocal: unaryWriter(Op.Reciprocal),
  Softmax: unaryWriter(Op.Softmax),
  LogSoftmax: unaryWriter(Op.LogSoftmax),
  Pow: (g, { n, x }) => Op.Pow(g, x(0), Graph.scalar(g, n(1)[0]!)),
  Where: (g, { x }) => Op.Where(g, x(0), x(1), x(2)),
  Gelu: (g, { attributes, x }) => Op.Gelu(g, x(0), attributes.approximate as "none" | "tanh"),
  Clip: (g, { n, x }) => Op.Clip(g, x(0), Graph.scalar(g, n(1)[0]!), Graph.scalar(g, n(2)[0]!)),
  ReduceSum: reductionWriter(Op.ReduceSum),
  ReduceMean: reductionWriter(Op.ReduceMean),
  ReduceMax: reductionWriter(Op.ReduceMax),
  CumSum: (g, { n, x }) => Op.CumSum(g, x(0), n(1)[0]!),
  Gemm: (g, { attributes, count, x }) =>
    Op.Gemm(g, x(0), x(1), {
      transA: attributes.transA === 1,
      transB: attributes.transB === 1,
      c: count > 2 ? x(2) : undefined
    }),
  // One node for each axis.
  Slice: (g, { n, x }) =>
    n(3).reduce((y, axis, i) => {
      const length = y.shape[axis] as number
      const bound = (at: number) => Math.min(at < 0 ? at + length : at, length)
      const [start, end] = [n(1)[i]!, n(2)[i]!]
      return Op.Slice(g, y, Graph.ints(g, [start]), Graph.ints(g, [end]), axis, bound(end) - bound(start))
    }, x(0)),
  Concat: (g, { attributes, count, x }) =>
    Op.Concat(
      g,
      Array.from({ length: count }, (_, i) => x(i)),
      axisOf(attributes)
    ),
  Split: (g, { attributes, n, x }) => Op.Split(g, x(0), n(1), axisOf(attributes)),
  Transpose: (g, { attributes, x }) => Op.Transpose(g, x(0), attributes.perm as ReadonlyArray<number>),
  Reshape: (g, { n, x }) => {
    const { shape } = x(0)
    const target = n(1).map((dim, i) => (dim === 0 ? (shape[i] as number) : dim))
    const missing = Tensor.size(shape as ReadonlyArray<number>) / Math.abs(Tensor.size(target))
    return Op.Reshape(
      g,
      x(0),
      target.map((dim) => (dim === -1 ? missing : dim))
    )
  },
  Expand: (g, { n, x }) => Op.Expand(g, x(0), n(1)),
  Squeeze: (g, { n, x }) => Op.Squeeze(g, x(0), n(1)),
  Unsqueeze: (g, { n, x }) => Op.Unsqueeze(g, x(0), n(1)),
  Gather: (g, { attributes, x }) => Op.Gather(g, x(0), x(1), axisOf(attributes)),
  GatherElements: (g, { attributes, x }) => Op.GatherElements(g, x(0), x(1), axisOf(attributes)),
  ScatterElements: (g, { attributes, x }) =>
    Op.ScatterElements(g, x(0), x(1), x(2), axisOf(attributes), attributes.reduction as "add"),
  LayerNormalization: (g, { attributes, x }) =>
    Op.LayerNormalization(g, x(0), x(1), x(2), Number(attributes.epsilon)).y,
  RMSNormalization: (g, { attributes, x }) =>
    Op.SimplifiedLayerNormalization(g, x(0), x(1), Number(attributes.epsilon)).y
}

// What no function of `Op` writes, so that no graph of ours can hold it.
const beyond: ReadonlyArray<(row: GoldenRow) => boolean> = [
  ({ op }) => op === "Softplus" || op === "Trilu",
  ({ inputs, op }) => op === "Clip" && inputs.includes(null),
  ({ attributes, op }) => (op === "Softmax" || op === "LogSoftmax") && attributes.axis !== -1,
  ({ attributes, op }) => op === "CumSum" && (attributes.exclusive === 1 || attributes.reverse === 1),
  ({ inputs, op }) => op === "MatMul" && inputs.some((input) => input!.shape.length < 2),
  ({ attributes, op }) => op === "Gemm" && (attributes.alpha !== 1 || attributes.beta !== 1),
  ({ name }) => name === "Slice step 2" || name === "Slice reversed",
  ({ name }) => name === "LayerNormalization without bias"
]

const rows = golden.cases as ReadonlyArray<GoldenRow>
const expressible = rows.filter((row) => !beyond.some((is) => is(row)))

describe("PyTorch's values", () => {
  it("cover the rows that have numbers to compare", () => {
    const covered = new Set(
      expressible.map(({ op }) => (op === "RMSNormalization" ? "SimplifiedLayerNormalization" : op))
    )
    const own = Object.keys(gradientRules).filter((op) => !covered.has(op))
    // Rows without a gradient, and those that PyTorch has no operator for: central differences stand for these.
    assert.deepStrictEqual(own.sort(), [
      ...["And", "ArgMax", "Cast", "ConstantOfShape", "Equal", "FusedMatMul", "Greater", "GreaterOrEqual", "Identity"],
      ...["If", "IsInf", "IsNaN", "Less", "LessOrEqual", "Loop", "Not", "Or", "Range", "ReduceMin", "ReduceSumSquare"],
      ...["RotaryEmbedding", "Scan", "Shape", "TopK"]
    ])
    assert.strictEqual(expressible.length, 131)
  })

  for (const op of new Set(expressible.map(({ op }) => op))) {
    it.effect(`are those of ${op}, forwards and backwards`, () =>
      Effect.gen(function* () {
        for (const row of expressible.filter((row) => row.op === op)) yield* checkGolden(row)
      })
    )
  }
})

const checkGolden = Effect.fnUntraced(function* (row: GoldenRow) {
  const g = Graph.make(row.op)
  const feeds: Record<string, Tensor.Tensor> = {}
  const x = (i: number): Value => {
    const name = `x${i}`
    if (g.values.has(name)) return Graph.value(g, name)
    const tensor = fromGolden(row.inputs[i]!)
    feeds[name] = tensor
    return Graph.input(g, name, tensor.dtype, tensor.shape)
  }
  const n = (i: number) => row.inputs[i]!.data.map(Number)
  const count = row.inputs.filter((input) => input !== null).length
  const ys = [writers[row.op]!(g, { x, n, count, attributes: row.attributes })].flat()
  const dys = (row.dys ?? [row.dy!]).map(fromGolden)
  const upstream = dys.map((dy, i) => {
    feeds[`w${i}`] = dy
    return Graph.input(g, `w${i}`, dy.dtype, dy.shape)
  })
  const loss = ys.map((y, i) => Op.sumAll(g, Op.Mul(g, y, upstream[i]!))).reduce((a, b) => Op.Add(g, a, b))
  const parameters = g.inputs.filter(({ name }) => name.startsWith("x"))
  const gradients = Result.getOrThrow(Gradient.backward(g, loss, parameters))
  ys.forEach((y, i) => void Graph.output(g, `y${i}`, y))
  for (const [name, dy] of gradients) Graph.output(g, `d${name}`, dy)
  const found = yield* Run.once(Graph.prune(g), feeds)
  for (const [i, output] of (row.outputs ?? [row.output!]).entries()) {
    assert.deepStrictEqual(found[`y${i}`]!.shape, output.shape, `${row.name}: shape of output ${i}`)
    Run.close(Run.numbers(found[`y${i}`]), output.data.map(Number), `${row.name}: output ${i}`)
  }
  for (const [i, gradient] of row.gradients.entries()) {
    if (gradient === null) assert.isUndefined(found[`dx${i}`], `${row.name}: no gradient of input ${i}`)
    else Run.close(Run.numbers(found[`dx${i}`]), gradient.data.map(Number), `${row.name}: gradient of input ${i}`)
  }
})
