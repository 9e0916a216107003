/**
 * Affine maps of rows.
 *
 * @since 0.1.0
 */
import type { Graph, Value } from "../onnx/Graph.ts"
import * as GraphOf from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"

// ONNX Runtime on the CPU adds up to as many terms one after another, whatever the number of rows. Longer products it cuts by
// the number of rows and threads, so that their last bits depend on both. More than three blocks would cost more than they
// are worth here: each reads and writes the whole result once more (docs/decisions/0013).
const block = 128
const widest = 3 * block

// `x` cut along `axis`, once. What comes from around a loop is cut there, not in every step.
const cut = (g: Graph, x: Value, axis: 0 | 1, sizes: ReadonlyArray<number>): ReadonlyArray<Value> => {
  if (!g.values.has(x.name) && g.outer !== undefined) return cut(g.outer, x, axis, sizes)
  const names = sizes.map((_, i) => `${x.name}/block:${axis}.${i}`)
  return g.values.has(names[0]!) ? names.map((name) => GraphOf.value(g, name)) : Op.Split(g, x, sizes, axis, names)
}

// `x W + b` or, with `transB`, `x Wᵀ + b`.
const affine = (g: Graph, x: Value, weight: Value, bias: Value | undefined, transB: boolean): Value => {
  const width = x.shape[1]!
  if (g.numerics === "quick" || typeof width !== "number" || width <= block || width > widest) {
    return Op.Gemm(g, x, weight, { transB, c: bias })
  }
  const sizes = Array.from({ length: Math.ceil(width / block) }, (_, i) => Math.min(block, width - i * block))
  const parts = cut(g, weight, transB ? 1 : 0, sizes)
  const sum = cut(g, x, 1, sizes).reduce<Value | undefined>(
    (c, part, i) => Op.Gemm(g, part, parts[i]!, { transB, c }),
    bias
  )!
  return GraphOf.derive(g, sum, bias === undefined ? [x, weight] : [x, weight, bias], (dy) => [
    Op.Gemm(g, dy, weight, { transB: !transB }),
    transB ? Op.Gemm(g, dy, x, { transA: true }) : Op.Gemm(g, x, dy, { transA: true }),
    ...(bias === undefined ? [] : [Op.ReduceSum(g, dy, [0], false)])
  ])
}

/**
 * `x Wᵀ + b`: `x` `[M, in]`, `weight` `[out, in]` as in PyTorch's `Linear`, `bias` `[out]`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const linear = (g: Graph, x: Value, weight: Value, bias?: Value): Value => affine(g, x, weight, bias, true)

/**
 * `x W + b`: `weight` `[in, out]`, as GPT-2 stores its matrices (`Conv1D`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const conv1d = (g: Graph, x: Value, weight: Value, bias: Value): Value => affine(g, x, weight, bias, false)

/**
 * Rows of `x` `[M, D]` at `rows` `[N]`, no row twice.
 *
 * **Details**
 *
 * Because no row repeats, the gradient is a gather too (through the inverse index, with one zero row for those that were
 * not taken) instead of a scatter.
 *
 * @category constructors
 * @since 0.1.0
 */
export const takeRows = (g: Graph, x: Value, rows: Value): Value => {
  const [m, d] = x.shape as [GraphOf.Dim, GraphOf.Dim]
  const n = rows.shape[0]!
  return GraphOf.derive(g, Op.Gather(g, x, rows), [x], (dy) => {
    const untaken = Op.Expand(g, GraphOf.dim(g, n), [m])
    const inverse = Op.ScatterElements(g, untaken, rows, Op.Range(g, n), 0)
    const zeroRow = Op.ConstantOfShape(g, [1, d])
    return [Op.Gather(g, Op.Concat(g, [dy, zeroRow], 0), inverse)]
  })
}
