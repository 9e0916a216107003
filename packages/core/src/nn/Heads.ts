/**
 * What is read off the hidden states: logits, log-probs of given tokens, scalars.
 *
 * @since 0.1.0
 */
import type { Graph, Value } from "../onnx/Graph.ts"
import * as GraphOf from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"
import { linear } from "./Linear.ts"

/**
 * Logits `[N, V]` of hidden states `[N, D]`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const logits = (g: Graph, hidden: Value, headWeight: Value): Value => linear(g, hidden, headWeight)

/**
 * Log-probs `[N]`, in nats, of `targets` `[N]` under the hidden states `[N, D]` that predict them.
 *
 * **Details**
 *
 * The derivative is stated as a whole and never scales an `[N, V]` matrix: with `p = softmax(h Wᵀ)` and `e` the one-hot
 * targets, the incoming gradient `dy` `[N]` multiplies the small operands instead,
 *
 *     dh = dy ∘ ((e - p) W)        dW = (e - p)ᵀ (dy ∘ h)
 *
 * @category constructors
 * @since 0.1.0
 */
export const tokenLogprobs = (g: Graph, hidden: Value, headWeight: Value, targets: Value): Value => {
  const n = targets.shape[0]!
  const all = Op.LogSoftmax(g, logits(g, hidden, headWeight))
  const column = Op.Reshape(g, targets, [n, 1])
  const picked = Op.Reshape(g, Op.GatherElements(g, all, column, 1), [n])
  return GraphOf.derive(g, picked, [hidden, headWeight], (dy) => {
    const minusOne = Op.Expand(g, GraphOf.constant(g, { dtype: "float32", shape: [1, 1], data: Float32Array.of(-1) }), [
      n,
      1
    ])
    const pMinusE = Op.ScatterElements(g, Op.Exp(g, all), column, minusOne, 1, "add")
    const weight = Op.Neg(g, Op.Reshape(g, dy, [n, 1]))
    return [
      Op.Mul(g, Op.Gemm(g, pMinusE, headWeight), weight),
      Op.Gemm(g, pMinusE, Op.Mul(g, hidden, weight), { transA: true })
    ]
  })
}

/**
 * Entropy `[N]`, in nats, of the next-token distributions of hidden states `[N, D]`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const entropy = (g: Graph, hidden: Value, headWeight: Value): Value => {
  const all = Op.LogSoftmax(g, logits(g, hidden, headWeight))
  return Op.Neg(g, Op.ReduceSum(g, Op.Mul(g, Op.Exp(g, all), all), [-1], false))
}

/**
 * A scalar `[N]` for each hidden state `[N, D]`: the head of reward and value models, `weight` `[1, D]`, `bias` `[1]`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scalar = (g: Graph, hidden: Value, weight: Value, bias: Value): Value =>
  Op.Reshape(g, linear(g, hidden, weight, bias), [hidden.shape[0]!])
