/**
 * Rows of token ids of different lengths, and the rectangles that graphs take.
 *
 * Masks are 1 where a token counts and come from the rows' lengths, never from the ids: a padding id that is also the
 * end-of-text id, as in GPT-2, masks nothing but padding.
 *
 * @since 0.1.0
 */
import * as Tensor from "./Tensor.ts"

/**
 * Rows padded to one length, all `[B, T]`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Padded {
  readonly tokens: Tensor.Tensor<"int64">
  /** 1 on the rows' own tokens, 0 on padding. */
  readonly mask: Tensor.Tensor<"int64">
  /** Position of each token in its own row; on padding, the number of the row's tokens that lie to its left. */
  readonly positions: Tensor.Tensor<"int64">
}

/**
 * Pads rows to the longest one, or to `length`.
 *
 * **Details**
 *
 * Shapes: `rows` is `B` rows of at most `length` ids; results `[B, T]`. Right padding suits training, left padding
 * suits decoding, where every row must end at the same column.
 *
 * **Gotchas**
 *
 * Throws when a row is longer than `length`: the caller decides how to truncate, since cutting a completion and
 * cutting a prompt are different mistakes.
 *
 * **Example** (Padding on the right)
 *
 * ```ts
 * import { Tokens } from "@attune/core"
 *
 * Tokens.pad([[5, 7], [9]], { padId: 0, side: "right" }).mask.data // => BigInt64Array.of(1n, 1n, 1n, 0n)
 * ```
 *
 * @category transforming
 * @since 0.1.0
 */
export const pad = (
  rows: ReadonlyArray<ArrayLike<number>>,
  options: { readonly padId: number; readonly side: "left" | "right"; readonly length?: number | undefined }
): Padded => {
  const longest = rows.reduce((most, row) => Math.max(most, row.length), 0)
  const length = options.length ?? longest
  if (longest > length) {
    throw new RangeError(`a row of ${longest} tokens does not fit in ${length}: truncate it before padding`)
  }
  const shape = [rows.length, length]
  const tokens = new BigInt64Array(rows.length * length).fill(BigInt(options.padId))
  const mask = new BigInt64Array(tokens.length)
  rows.forEach((row, b) => {
    const start = b * length + (options.side === "left" ? length - row.length : 0)
    for (let t = 0; t < row.length; t++) {
      tokens[start + t] = BigInt(row[t]!)
      mask[start + t] = 1n
    }
  })
  const rectangle = Tensor.int64(mask, shape)
  return { tokens: Tensor.int64(tokens, shape), mask: rectangle, positions: positions(rectangle) }
}

/**
 * Positions that a mask implies: how many kept tokens lie to the left.
 *
 * **Details**
 *
 * Shapes: `mask` `[B, T]`, 1 = keep; result `[B, T]`.
 *
 *     position_t = sum_{s < t} mask_s
 *
 * @category math
 * @since 0.1.0
 */
export const positions = (mask: Tensor.Tensor<"int64">): Tensor.Tensor<"int64"> => {
  const length = mask.shape.at(-1) ?? 1
  const data = new BigInt64Array(mask.data.length)
  let kept = 0n
  for (let i = 0; i < data.length; i++) {
    if (i % length === 0) kept = 0n
    data[i] = kept
    kept += mask.data[i]!
  }
  return Tensor.int64(data, mask.shape)
}

/**
 * The rows that were padded: the tokens where the mask is 1.
 *
 * @category transforming
 * @since 0.1.0
 */
export const unpad = ({ mask, tokens }: Pick<Padded, "tokens" | "mask">): ReadonlyArray<Int32Array> => {
  const [batch = 0, length = 0] = tokens.shape
  return Array.from({ length: batch }, (_, b) => {
    const row: Array<number> = []
    for (let i = b * length; i < (b + 1) * length; i++) {
      if (mask.data[i] === 1n) row.push(Number(tokens.data[i]))
    }
    return Int32Array.from(row)
  })
}
