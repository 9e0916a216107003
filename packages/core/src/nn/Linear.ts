/**
 * Affine maps of rows.
 *
 * @since 0.1.0
 */
import type { Graph, Value } from "../onnx/Graph.ts"
import * as GraphOf from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"

/**
 * `x Wᵀ + b`: `x` `[M, in]`, `weight` `[out, in]` as in PyTorch's `Linear`, `bias` `[out]`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const linear = (g: Graph, x: Value, weight: Value, bias?: Value): Value =>
  Op.Gemm(g, x, weight, { transB: true, c: bias })

/**
 * `x W + b`: `weight` `[in, out]`, as GPT-2 stores its matrices (`Conv1D`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const conv1d = (g: Graph, x: Value, weight: Value, bias: Value): Value => Op.Gemm(g, x, weight, { c: bias })

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
