/**
 * Normalisation of rows.
 *
 * @since 0.1.0
 */
import type { Graph, Value } from "../onnx/Graph.ts"
import * as GraphOf from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"

/**
 * Layer normalisation over the last axis. Source: Ba et al. 2016, arXiv:1607.06450.
 *
 * @category constructors
 * @since 0.1.0
 */
export const layerNorm = (g: Graph, x: Value, weight: Value, bias: Value, epsilon: number): Value =>
  Op.LayerNormalization(g, x, weight, bias, epsilon).y

/**
 * Root-mean-square normalisation over the last axis, `epsilon` added to the mean square. Source: Zhang & Sennrich 2019,
 * arXiv:1910.07467.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rmsNorm = (g: Graph, x: Value, weight: Value, epsilon: number): Value =>
  Op.SimplifiedLayerNormalization(g, x, weight, epsilon).y

/**
 * {@link rmsNorm} from plain operators, for providers without the fused one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rmsNormPlain = (g: Graph, x: Value, weight: Value, epsilon: number): Value => {
  const meanSquare = Op.ReduceMean(g, Op.Mul(g, x, x), [-1])
  const invRms = Op.Reciprocal(g, Op.Sqrt(g, Op.Add(g, meanSquare, GraphOf.scalar(g, epsilon))))
  return Op.Mul(g, Op.Mul(g, x, invRms), weight)
}
