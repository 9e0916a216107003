/**
 * A graph under construction: ONNX nodes over named values, each with a dtype and a symbolic shape.
 *
 * Operators are appended through `Op`; shapes are resolved while the graph is built, so that every later stage (gradient,
 * checks, export) reads them instead of inferring them.
 *
 * @since 0.1.0
 */
import type { DType, Tensor } from "../Tensor.ts"

/**
 * The ONNX operator set that graphs are written in.
 *
 * @category constants
 * @since 0.1.0
 */
export const opset = 20

/**
 * A dimension: a number, or the name of a size that is known only when the graph runs, such as `"B"` or `"T"`.
 *
 * @category models
 * @since 0.1.0
 */
export type Dim = number | string

/**
 * Shape of a value; the rank is always known.
 *
 * @category models
 * @since 0.1.0
 */
export type Shape = ReadonlyArray<Dim>

/**
 * A named value of the graph.
 *
 * @category models
 * @since 0.1.0
 */
export interface Value {
  readonly name: string
  readonly dtype: DType
  readonly shape: Shape
}

/**
 * An attribute of a node, in the kinds that ONNX distinguishes.
 *
 * @category models
 * @since 0.1.0
 */
export type Attribute =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly ints: ReadonlyArray<number> }
  | { readonly floats: ReadonlyArray<number> }
  | { readonly strings: ReadonlyArray<string> }
  | { readonly tensor: Tensor }
  | { readonly graph: Graph }

/**
 * One operator application. An empty input name is an optional input left out, as in ONNX.
 *
 * @category models
 * @since 0.1.0
 */
export interface Node {
  readonly op: string
  readonly domain: string
  readonly name: string
  readonly inputs: ReadonlyArray<string>
  readonly outputs: ReadonlyArray<string>
  readonly attributes: Readonly<Record<string, Attribute>>
}

/**
 * A graph. `nodes` are in topological order; `values` knows dtype and shape of every name.
 *
 * @category models
 * @since 0.1.0
 */
export interface Graph {
  readonly name: string
  readonly nodes: Array<Node>
  readonly inputs: Array<Value>
  readonly outputs: Array<Value>
  readonly initializers: Map<string, Tensor>
  readonly values: Map<string, Value>
}
