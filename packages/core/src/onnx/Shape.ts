/**
 * Shape rules: the shape of an operator's output from the shapes of its inputs, with symbolic dimensions.
 *
 * Two dimensions are equal when they are the same number or the same name. A mismatch is a mistake in the program that
 * builds the graph, and throws.
 *
 * @since 0.1.0
 */
import type { Dim, Shape } from "./Graph.ts"

/**
 * Whether two shapes have the same rank and the same dimensions.
 *
 * @category math
 * @since 0.1.0
 */
export const equals = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((dim, i) => dim === b[i])

/**
 * Position of an axis counted from the front; negative axes count from the back.
 *
 * @category math
 * @since 0.1.0
 */
export const axis = (shape: Shape, index: number): number => {
  const position = index < 0 ? index + shape.length : index
  if (position < 0 || position >= shape.length) throw new Error(`axis ${index} is outside the shape [${shape}]`)
  return position
}

/**
 * The shape with the dimension at `index` replaced.
 *
 * @category math
 * @since 0.1.0
 */
export const withDim = (shape: Shape, index: number, dim: Dim): Shape => shape.with(axis(shape, index), dim)

/**
 * Numpy broadcasting of two shapes.
 *
 * @category math
 * @since 0.1.0
 */
export const broadcast = (a: Shape, b: Shape): Shape => {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, i): Dim => {
    const x = a[i - rank + a.length] ?? 1
    const y = b[i - rank + b.length] ?? 1
    if (x === y || y === 1) return x
    if (x === 1) return y
    throw new Error(`shapes [${a}] and [${b}] do not broadcast`)
  })
}

/**
 * Axes over which a gradient of shape `from` is summed to reach the shape `to` that was broadcast to it.
 *
 * @category math
 * @since 0.1.0
 */
export const broadcastAxes = (from: Shape, to: Shape): ReadonlyArray<number> => {
  const extra = from.length - to.length
  return from.flatMap((dim, i) => (i < extra || (to[i - extra] === 1 && dim !== 1) ? [i] : []))
}

/**
 * Product of dimensions; symbolic products are named after their factors.
 *
 * @category math
 * @since 0.1.0
 */
export const product = (dims: Shape): Dim => {
  const known = dims.filter((dim) => typeof dim === "number").reduce((a, b) => a * b, 1)
  const names = dims.filter((dim) => typeof dim === "string")
  if (names.length === 0) return known
  return known === 1 ? names.join("*") : `${known}*${names.join("*")}`
}

/**
 * Shape of a matrix product, batch dimensions broadcast.
 *
 * @category math
 * @since 0.1.0
 */
export const matMul = (a: Shape, b: Shape): Shape => {
  if (a.length < 2 || b.length < 2 || a.at(-1) !== b.at(-2)) throw new Error(`cannot multiply [${a}] by [${b}]`)
  return [...broadcast(a.slice(0, -2), b.slice(0, -2)), a.at(-2)!, b.at(-1)!]
}

/**
 * Shape after reducing `axes`.
 *
 * @category math
 * @since 0.1.0
 */
export const reduce = (shape: Shape, axes: ReadonlyArray<number>, keepDims: boolean): Shape => {
  const reduced = new Set(axes.map((index) => axis(shape, index)))
  return shape.flatMap((dim, i): Shape => (reduced.has(i) ? (keepDims ? [1] : []) : [dim]))
}
