/**
 * Rotary position embedding: pairs of features are turned by an angle proportional to the position.
 *
 * Halves are paired (`x[i]` with `x[i + Dh / 2]`), as in the Hugging Face checkpoints of Llama and Qwen. Source: Su et
 * al. 2021, arXiv:2104.09864; "llama3" scaling as published with Llama 3.1.
 *
 * @since 0.1.0
 */
import type { Graph, Value } from "../onnx/Graph.ts"
import * as GraphOf from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"
import * as Tensor from "../Tensor.ts"

/**
 * How angles depend on the feature.
 *
 * @category models
 * @since 0.1.0
 */
export interface RopeSettings {
  /** Base of the geometric series of wavelengths. */
  readonly theta: number
  readonly scaling?:
    | {
        readonly factor: number
        readonly lowFreqFactor: number
        readonly highFreqFactor: number
        readonly originalMaxPositions: number
      }
    | { readonly factor: number }
    | undefined
}

/**
 * Radians per position for each pair of features, `[Dh / 2]`.
 *
 * **Details**
 *
 *     f_i = theta^(-2 i / Dh)
 *
 * With "llama3" scaling, wavelengths longer than `originalMaxPositions / lowFreqFactor` are stretched by `factor`, those
 * shorter than `originalMaxPositions / highFreqFactor` are kept, and those between are interpolated. With "linear"
 * scaling (`factor` alone) all are stretched.
 *
 * @category math
 * @since 0.1.0
 */
export const frequencies = (headDim: number, { scaling, theta }: RopeSettings): Float32Array =>
  Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const frequency = Math.fround(1 / Math.fround(theta ** ((2 * i) / headDim)))
    if (scaling === undefined) return frequency
    if (!("lowFreqFactor" in scaling)) return frequency / scaling.factor
    const { factor, highFreqFactor, lowFreqFactor, originalMaxPositions } = scaling
    const wavelength = (2 * Math.PI) / frequency
    if (wavelength > originalMaxPositions / lowFreqFactor) return frequency / factor
    if (wavelength < originalMaxPositions / highFreqFactor) return frequency
    const smooth = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor)
    return ((1 - smooth) * frequency) / factor + smooth * frequency
  })

/**
 * Angles of every token, shared by the layers of one forward pass: cosine and sine `[M, Dh / 2]`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Angles {
  readonly cos: Value
  readonly sin: Value
  /** Row of each token in the tables: `0 .. M - 1`, `[M, 1]`. */
  readonly rows: Value
}

/**
 * Angles of tokens at `positions` `[M]`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const angles = (g: Graph, positions: Value, perPosition: Float32Array): Angles => {
  const m = positions.shape[0]!
  const column = Op.Reshape(g, Op.Cast(g, positions, "float32"), [m, 1])
  const turns = Op.Mul(g, column, GraphOf.constant(g, Tensor.float32(perPosition, [1, perPosition.length])))
  return { cos: Op.Cos(g, turns), sin: Op.Sin(g, turns), rows: Op.Reshape(g, Op.Range(g, m), [m, 1]) }
}

/**
 * Turns every head of `x` `[M, heads * Dh]`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rotate = (g: Graph, x: Value, { cos, rows, sin }: Angles): Value => {
  const [m, width] = x.shape as [GraphOf.Dim, GraphOf.Dim]
  // Each token is a batch of one: the operator then needs no more table rows than there are tokens.
  const turned = Op.RotaryEmbedding(g, Op.Reshape(g, x, [m, 1, width]), rows, cos, sin)
  return Op.Reshape(g, turned, [m, width])
}
