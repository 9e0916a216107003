/**
 * The smallest useful ONNX file: one `Identity` node over a tensor of any shape.
 *
 * It moves tensors between host and device, and shows whether a provider really runs. Encoded by hand (protobuf wire
 * format), so that the worker and the probe load no protobuf library.
 *
 * @since 0.1.0
 */
import { elementTypes } from "../onnx/Graph.ts"
import type { DType } from "../Tensor.ts"

type Bytes = ReadonlyArray<number>

// Every number and length written here fits in one varint byte (below 128).
const int = (field: number, value: number): Bytes => [field << 3, value]
const bytes = (field: number, data: Bytes): Bytes => [(field << 3) | 2, data.length, ...data]
const text = (field: number, value: string): Bytes => bytes(field, [...new TextEncoder().encode(value)])

// ValueInfoProto { name, type { tensor_type { elem_type } } }: no shape field, so any rank is accepted
const valueInfo = (name: string, dtype: DType): Bytes => [
  ...text(1, name),
  ...bytes(2, bytes(1, int(1, elementTypes[dtype])))
]

/**
 * Encodes the graph `y = Identity(x)` for one dtype, as an ONNX file.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (dtype: DType): Uint8Array => {
  const node = [...text(1, "x"), ...text(2, "y"), ...text(4, "Identity")]
  const graph = [
    ...bytes(1, node),
    ...text(2, "identity"),
    ...bytes(11, valueInfo("x", dtype)),
    ...bytes(12, valueInfo("y", dtype))
  ]
  // ModelProto { ir_version: 8, graph, opset_import { version: 17 } }
  return Uint8Array.from([...int(1, 8), ...bytes(7, graph), ...bytes(8, int(2, 17))])
}
