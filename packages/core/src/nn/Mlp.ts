/**
 * Position-wise feed-forward layers.
 *
 * @since 0.1.0
 */
import type { Graph, Value } from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"
import { conv1d, linear } from "./Linear.ts"

/**
 * Two matrices with GELU between them, as in GPT-2.
 *
 * @category constructors
 * @since 0.1.0
 */
export const gelu = (
  g: Graph,
  x: Value,
  up: readonly [weight: Value, bias: Value],
  down: readonly [weight: Value, bias: Value],
  approximate: "none" | "tanh"
): Value => conv1d(g, Op.Gelu(g, conv1d(g, x, ...up), approximate), ...down)

/**
 * `down(silu(gate x) * up x)`, as in Llama. Source: Shazeer 2020, arXiv:2002.05202.
 *
 * @category constructors
 * @since 0.1.0
 */
export const swiGlu = (g: Graph, x: Value, gate: Value, up: Value, down: Value): Value => {
  const a = linear(g, x, gate)
  const silu = Op.Mul(g, a, Op.Sigmoid(g, a))
  return linear(g, Op.Mul(g, silu, linear(g, x, up)), down)
}
