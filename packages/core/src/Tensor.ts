/**
 * Dense arrays with a dtype and a shape, row-major. Data only: no arithmetic lives here.
 *
 * `float16` and `bfloat16` hold raw bits in a `Uint16Array`, so that a tensor means the same on every version of Node.
 *
 * @since 0.1.0
 */

/**
 * The array that holds the elements of each dtype.
 *
 * @category models
 * @since 0.1.0
 */
export interface DTypeData {
  readonly float32: Float32Array
  readonly float16: Uint16Array
  readonly bfloat16: Uint16Array
  readonly float64: Float64Array
  readonly int64: BigInt64Array
  readonly int32: Int32Array
  readonly int8: Int8Array
  readonly uint8: Uint8Array
  readonly bool: Uint8Array
}

/**
 * Element types that Attune reads, computes with and writes.
 *
 * @category models
 * @since 0.1.0
 */
export type DType = keyof DTypeData

/**
 * A dense array: `data` has exactly `size(shape)` elements, row-major.
 *
 * @category models
 * @since 0.1.0
 */
export interface Tensor<D extends DType = DType> {
  readonly dtype: D
  readonly shape: ReadonlyArray<number>
  readonly data: DTypeData[D]
}

/**
 * Bytes per element of each dtype.
 *
 * @category constants
 * @since 0.1.0
 */
export const bytesPerElement: Readonly<Record<DType, number>> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  float64: 8,
  int64: 8,
  int32: 4,
  int8: 1,
  uint8: 1,
  bool: 1
}

/**
 * Number of elements of a shape: the product of its dimensions, `1` for a scalar.
 *
 * @category transforming
 * @since 0.1.0
 */
export const size = (shape: ReadonlyArray<number>): number => shape.reduce((product, dim) => product * dim, 1)

/**
 * Makes a tensor of any dtype. Throws when `data` does not have the number of elements that `shape` asks for.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <D extends DType>(dtype: D, data: DTypeData[D], shape: ReadonlyArray<number>): Tensor<D> => {
  if (data.length !== size(shape)) {
    throw new RangeError(`tensor of shape [${shape}] needs ${size(shape)} elements, got ${data.length}`)
  }
  return { dtype, shape, data }
}

/**
 * Makes a `float32` tensor; a vector when no shape is given.
 *
 * @category constructors
 * @since 0.1.0
 */
export const float32 = (
  values: Float32Array | ReadonlyArray<number>,
  shape: ReadonlyArray<number> = [values.length]
): Tensor<"float32"> => make("float32", values instanceof Float32Array ? values : Float32Array.from(values), shape)

/**
 * Makes an `int64` tensor from 64-bit or ordinary integers; a vector when no shape is given.
 *
 * @category constructors
 * @since 0.1.0
 */
export const int64 = (
  values: BigInt64Array | Int32Array | ReadonlyArray<number>,
  shape: ReadonlyArray<number> = [values.length]
): Tensor<"int64"> => {
  if (values instanceof BigInt64Array) return make("int64", values, shape)
  const data = new BigInt64Array(values.length)
  for (let i = 0; i < values.length; i++) data[i] = BigInt(values[i]!)
  return make("int64", data, shape)
}

/**
 * Makes a tensor of rank 0.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scalar = (value: number): Tensor<"float32"> => float32([value], [])

/**
 * Makes a `float32` tensor of zeros.
 *
 * @category constructors
 * @since 0.1.0
 */
export const zeros = (shape: ReadonlyArray<number>): Tensor<"float32"> => float32(new Float32Array(size(shape)), shape)

const view: { readonly [D in DType]: (buffer: ArrayBufferLike, offset: number, length: number) => DTypeData[D] } = {
  float32: (b, o, n) => new Float32Array(b, o, n),
  float16: (b, o, n) => new Uint16Array(b, o, n),
  bfloat16: (b, o, n) => new Uint16Array(b, o, n),
  float64: (b, o, n) => new Float64Array(b, o, n),
  int64: (b, o, n) => new BigInt64Array(b, o, n),
  int32: (b, o, n) => new Int32Array(b, o, n),
  int8: (b, o, n) => new Int8Array(b, o, n),
  uint8: (b, o, n) => new Uint8Array(b, o, n),
  bool: (b, o, n) => new Uint8Array(b, o, n)
}

/**
 * Reads little-endian bytes as a tensor: a view where alignment allows it, a copy otherwise.
 *
 * @category decoding
 * @since 0.1.0
 */
export const fromBytes = <D extends DType>(dtype: D, bytes: Uint8Array, shape: ReadonlyArray<number>): Tensor<D> => {
  const width = bytesPerElement[dtype]
  // `slice` of a Node `Buffer` shares memory; this one copies.
  const aligned = bytes.byteOffset % width === 0 ? bytes : Uint8Array.prototype.slice.call(bytes)
  return make(dtype, view[dtype](aligned.buffer, aligned.byteOffset, bytes.byteLength / width), shape)
}

/**
 * The bytes of a tensor, little-endian, without copying.
 *
 * @category encoding
 * @since 0.1.0
 */
export const toBytes = (tensor: Tensor): Uint8Array =>
  new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength)
