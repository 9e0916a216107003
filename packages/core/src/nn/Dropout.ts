/**
 * Dropout on the residual branches of a decoder, with masks that are fed: the same seed gives the same masks on every
 * device, and a run that is resumed goes on with those that it would have had.
 *
 * Source: Srivastava et al. 2014, JMLR 15; on residual branches as in GPT-2 (`resid_pdrop`) and in InstructGPT's supervised
 * fine-tuning (rate 0.2), Ouyang et al. 2022, arXiv:2203.02155, appendix C.1.
 *
 * @since 0.1.0
 */
import type { Graph, Value } from "../onnx/Graph.ts"
import * as GraphOf from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"
import * as Tensor from "../Tensor.ts"
import type { Decoder, Given } from "./Decoder.ts"

/**
 * Dropout of one model at one rate from one seed.
 *
 * **Details**
 *
 * `rate`: what is dropped, the nearest multiple of 1/256 to the rate that was asked for, and neither 0 nor 1.
 * `bytesPerToken`: of the masks of all places. `fill` writes the masks of a sequence's first tokens, as many as `masks` has
 * room for: bits, set where a number is kept. They depend on seed, optimizer step, the sequence's number in its batch,
 * token and place only. `residual` applies masks `[M, bytesPerToken]` (`uint8`): what is kept is divided by `1 - rate`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Dropout {
  readonly rate: number
  readonly bytesPerToken: number
  readonly fill: (masks: Uint8Array, at: { readonly step: number; readonly sequence: number }) => void
  readonly residual: (g: Graph, masks: Value) => NonNullable<Given["residual"]>
}

const levels = 256

// Words that are thrown away first: streams of neighbouring seeds look alike at the start.
const warmUp = 16

// Each byte of a mask, as what its eight numbers are multiplied by.
const factors = (scale: number): Tensor.Tensor<"float32"> =>
  Tensor.float32(
    Float32Array.from({ length: levels * 8 }, (_, i) => (((i >> 3) >> (i & 7)) & 1) * scale),
    [levels, 8]
  )

/**
 * Makes the dropout of a decoder. `rate` lies between 0 and 1; both ends, of which one drops nothing and one everything,
 * throw.
 *
 * **Details**
 *
 * There are two places in each layer, where a branch is added to the residual stream: after the projection of attention,
 * and after that of the feed-forward layer. Embeddings and attention weights are not dropped.
 *
 * Bits come from Doty-Humphrey's generator sfc32 (PractRand), which starts from seed, step and sequence: three 32-bit
 * integers. Up to eight of its words make one whose bits are set with a probability of any multiple of 1/256.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (decoder: Pick<Decoder, "layers" | "width">, rate: number, seed: number): Dropout => {
  if (!(rate > 0 && rate < 1)) throw new RangeError(`a rate of dropout lies between 0 and 1, got ${rate}`)
  const { layers, width } = decoder
  const kept = levels - Math.min(levels - 1, Math.max(1, Math.round(rate * levels)))
  const bytesPerPlace = Math.ceil(width / 8)
  const bytesPerToken = 4 * Math.ceil((2 * layers * bytesPerPlace) / 4)
  // Binary digits of kept / 256, from the last that is 1. Where bits are set with probability p, `or` with fair ones makes
  // it (1 + p) / 2, `and` p / 2.
  const all = Uint8Array.from({ length: 8 }, (_, i) => (kept >> i) & 1)
  const digits = all.subarray(all.indexOf(1))

  const fill: Dropout["fill"] = (masks, { sequence, step }) => {
    const words = new Uint32Array(masks.buffer, masks.byteOffset, masks.byteLength / 4)
    let [a, b, c, count] = [seed | 0, step | 0, sequence | 0, 1]
    for (let at = -warmUp; at < words.length; at++) {
      let bits = 0
      for (let i = 0; i < digits.length; i++) {
        const random = (((a + b) | 0) + count) | 0
        count = (count + 1) | 0
        a = b ^ (b >>> 9)
        b = (c + (c << 3)) | 0
        c = (((c << 21) | (c >>> 11)) + random) | 0
        bits = digits[i] === 1 ? bits | random : bits & random
      }
      if (at >= 0) words[at] = bits
    }
  }

  const residual: Dropout["residual"] = (g, masks) => (x, place) => {
    const from = place * bytesPerPlace
    const [first, end] = [GraphOf.ints(g, [from]), GraphOf.ints(g, [from + bytesPerPlace])]
    const bytes = Op.Cast(g, Op.Slice(g, masks, first, end, 1, bytesPerPlace), "int32")
    const name = `${g.name}/dropout factors`
    const table = g.values.get(name) ?? GraphOf.initializer(g, name, factors(levels / kept))
    const wide = Op.Reshape(g, Op.Gather(g, table, bytes), [masks.shape[0]!, bytesPerPlace * 8])
    const whole = width % 8 === 0
    return Op.Mul(g, x, whole ? wide : Op.Slice(g, wide, GraphOf.ints(g, [0]), GraphOf.ints(g, [width]), 1, width))
  }

  return { rate: 1 - kept / levels, bytesPerToken, fill, residual }
}
