/**
 * Scaled dot-product attention, and the ways in which tokens find the others of their sequence.
 *
 * Query heads that share a key head are stacked along the time axis, so that grouped-query attention is one product per
 * key head and nothing is repeated.
 *
 * @since 0.1.0
 */
import type { Dim, Graph, Value } from "../onnx/Graph.ts"
import * as GraphOf from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"
import type { Attend, HeadSizes } from "./Decoder.ts"

/**
 * Added to the score of a key that must not be seen: large enough that its weight is exactly zero in `float32`, small
 * enough that a row without any key stays finite.
 *
 * @category constants
 * @since 0.1.0
 */
export const hidden = -1e9

/**
 * `[M, H * Dh]` → `[B, KV, G, T, Dh]`, where `M = B * T` and `G = H / KV`.
 *
 * @category transforming
 * @since 0.1.0
 */
export const splitHeads = (g: Graph, x: Value, batch: Dim, time: Dim, kvHeads: number, headDim: number): Value => {
  const groups = (x.shape[1] as number) / (kvHeads * headDim)
  return Op.Transpose(g, Op.Reshape(g, x, [batch, time, kvHeads, groups, headDim]), [0, 2, 3, 1, 4])
}

/**
 * `[M, KV * Dh]` → `[B, KV, T, Dh]`.
 *
 * @category transforming
 * @since 0.1.0
 */
export const splitKeys = (g: Graph, x: Value, batch: Dim, time: Dim, kvHeads: number, headDim: number): Value =>
  Op.Transpose(g, Op.Reshape(g, x, [batch, time, kvHeads, headDim]), [0, 2, 1, 3])

/**
 * `[B, KV, G, T, Dh]` → `[M, H * Dh]`; `rows` names `M`.
 *
 * @category transforming
 * @since 0.1.0
 */
export const joinHeads = (g: Graph, x: Value, rows: Dim): Value => {
  const [, kvHeads, groups, , headDim] = x.shape as readonly [Dim, number, number, Dim, number]
  return Op.Reshape(g, Op.Transpose(g, x, [0, 3, 1, 2, 4]), [rows, kvHeads * groups * headDim])
}

/**
 * `0` where query `t` may see key `s <= t`, {@link hidden} elsewhere: `[T, T]`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const causalBias = (g: Graph, time: Dim): Value => {
  const steps = Op.Range(g, time)
  const seen = Op.LessOrEqual(g, Op.Reshape(g, steps, [1, time]), Op.Reshape(g, steps, [time, 1]))
  return Op.Where(g, seen, GraphOf.scalar(g, 0), GraphOf.scalar(g, hidden))
}

/**
 * Softmax(q kᵀ + bias) v: `q` `[B, KV, G, T, Dh]`, already scaled; `k`, `v` `[B, KV, S, Dh]`; `bias` broadcastable to
 * `[B, KV, G, T, S]`; result as `q`.
 *
 * **Details**
 *
 * Its derivative is stated as a whole. With `P` the weights and `O` the result, `rowsum(dP ∘ P) = rowsum(dO ∘ O)`, so
 * the backward pass makes two passes over `[T, S]` matrices besides the products:
 *
 *     dV = Pᵀ dO        dS = P ∘ (dO Vᵀ - rowsum(dO ∘ O))        dQ = dS K        dK = dSᵀ Q
 *
 * Source: Dao et al. 2022, arXiv:2205.14135, section 3.1 for the row sums.
 *
 * @category constructors
 * @since 0.1.0
 */
export const attention = (g: Graph, q: Value, k: Value, v: Value, bias: Value | null): Value => {
  const [batch, kvHeads, groups, time, headDim] = q.shape as readonly [Dim, number, number, Dim, number]
  const span = k.shape[2]!
  const stacked: Dim = typeof time === "number" ? groups * time : groups === 1 ? time : `${groups}*${time}`
  const stack = (x: Value) => Op.Reshape(g, x, [batch, kvHeads, stacked, x.shape[4]!])
  const unstack = (x: Value) => Op.Reshape(g, x, [batch, kvHeads, groups, time, x.shape[3]!])
  const flip = (x: Value) => Op.Transpose(g, x, [0, 1, 3, 2])

  const queries = stack(q)
  const scores = unstack(Op.MatMul(g, queries, flip(k)))
  const weights = Op.Softmax(g, bias === null ? scores : Op.Add(g, scores, bias))
  const p = Op.Reshape(g, weights, [batch, kvHeads, stacked, span])
  const mixed = Op.MatMul(g, p, v)
  return GraphOf.derive(g, unstack(mixed), [q, k, v], (dy) => {
    const dO = stack(dy)
    const rowSum = Op.ReduceSum(g, Op.Mul(g, dO, mixed), [-1])
    const dS = Op.Mul(g, p, Op.Sub(g, Op.MatMul(g, dO, flip(v)), rowSum))
    return [
      Op.Reshape(g, Op.MatMul(g, dS, k), [batch, kvHeads, groups, time, headDim]),
      Op.MatMul(g, flip(dS), queries),
      Op.MatMul(g, flip(p), dO)
    ]
  })
}

/**
 * Queries divided by √Dh.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scaled = (g: Graph, q: Value, headDim: number): Value =>
  Op.Mul(g, q, GraphOf.scalar(g, 1 / Math.sqrt(headDim)))

/**
 * Whole sequences, `M = B * T` rows: every token sees itself and those before it.
 *
 * **Details**
 *
 * Padding on the right needs no mask: padded keys come after every real query. For other layouts `visible` `[B, T]`
 * (`float32`, 1 = keep) hides keys. `onKeys` receives the keys and values `[B, KV, T, Dh]` of each layer, for a cache.
 *
 * @category constructors
 * @since 0.1.0
 */
export const causal = (
  g: Graph,
  { headDim, kvHeads }: HeadSizes,
  layout: {
    readonly batch: Dim
    readonly time: Dim
    readonly visible?: Value | undefined
    readonly onKeys?: (layer: number, k: Value, v: Value) => void
  }
): Attend => {
  const { batch, onKeys, time, visible } = layout
  let bias = causalBias(g, time)
  if (visible !== undefined) {
    const padding = Op.Mul(g, Op.Sub(g, visible, GraphOf.scalar(g, 1)), GraphOf.scalar(g, -hidden))
    bias = Op.Add(g, Op.Reshape(g, padding, [batch, 1, 1, 1, time]), bias)
  }
  return (layer, q, k, v) => {
    const keys = splitKeys(g, k, batch, time, kvHeads, headDim)
    const values = splitKeys(g, v, batch, time, kvHeads, headDim)
    onKeys?.(layer, keys, values)
    const queries = splitHeads(g, scaled(g, q, headDim), batch, time, kvHeads, headDim)
    return joinHeads(g, attention(g, queries, keys, values, bias), q.shape[0]!)
  }
}
