/**
 * ONNX files: `ModelProto` in and out of bytes and folders, and its translation from and to `Graph`.
 *
 * A `Model` is the protobuf message itself. It keeps fields that this library does not know, so a foreign model can be
 * read, changed in one place and written back without loss.
 *
 * @since 0.1.0
 */
import { clearField, create, isFieldSet, type Message, toBinary } from "@bufbuild/protobuf"
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire"
import { Schema } from "effect"
import * as Tensor from "../Tensor.ts"
import type { Attribute, Graph, Node, Value } from "./Graph.ts"
import { opset } from "./Graph.ts"
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProto_DataType as DataType,
  TensorProtoSchema,
  TensorShapeProto_DimensionSchema,
  TensorShapeProtoSchema,
  TypeProto_TensorSchema,
  TypeProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema
} from "./generated/onnx_pb.ts"

/**
 * A whole ONNX model as a protobuf message, unknown fields included.
 *
 * @category models
 * @since 0.1.0
 */
export type Model = ModelProto

/**
 * What a model says about itself besides its graph.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Version of the program that made the model; `producer_name` is `attune`. */
  readonly producerVersion?: string
  /** Named strings kept in `metadata_props`, in this order. */
  readonly metadata?: Readonly<Record<string, string>>
}

/**
 * An ONNX file that cannot be read, understood or written: `path` is the file, `(memory)` for bytes without one.
 *
 * @category errors
 * @since 0.1.0
 */
export class OnnxFileError extends Schema.TaggedError<OnnxFileError>()("OnnxFileError", {
  path: Schema.String,
  reason: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return `${this.path}: ${this.reason}`
  }
}

/** The IR version that belongs to opset 20 (ONNX 1.15). */
const irVersion = 9n

const dataTypes: Readonly<Record<Tensor.DType, DataType>> = {
  float32: DataType.FLOAT,
  float16: DataType.FLOAT16,
  bfloat16: DataType.BFLOAT16,
  float64: DataType.DOUBLE,
  int64: DataType.INT64,
  int32: DataType.INT32,
  int8: DataType.INT8,
  uint8: DataType.UINT8,
  bool: DataType.BOOL
}

// ---------------------------------------------------------------------------------------------------------------------
// Graph to ModelProto
// ---------------------------------------------------------------------------------------------------------------------

const tensorProto = (name: string, tensor: Tensor.Tensor): TensorProto =>
  create(TensorProtoSchema, {
    name,
    dims: tensor.shape.map(BigInt),
    dataType: dataTypes[tensor.dtype],
    rawData: Tensor.toBytes(tensor) as Uint8Array<ArrayBuffer>
  })

const valueInfo = (value: Value): ValueInfoProto =>
  create(ValueInfoProtoSchema, {
    name: value.name,
    type: create(TypeProtoSchema, {
      value: {
        case: "tensorType",
        value: create(TypeProto_TensorSchema, {
          elemType: dataTypes[value.dtype],
          shape: create(TensorShapeProtoSchema, {
            dim: value.shape.map((dim) =>
              create(TensorShapeProto_DimensionSchema, {
                value: typeof dim === "number"
                  ? { case: "dimValue", value: BigInt(dim) }
                  : { case: "dimParam", value: dim }
              })
            )
          })
        })
      }
    })
  })

const utf8 = new TextEncoder()

const attributeProto = (name: string, attribute: Attribute): AttributeProto => {
  if ("int" in attribute) {
    return create(AttributeProtoSchema, { name, type: AttributeType.INT, i: BigInt(attribute.int) })
  }
  if ("float" in attribute) return create(AttributeProtoSchema, { name, type: AttributeType.FLOAT, f: attribute.float })
  if ("string" in attribute) {
    return create(AttributeProtoSchema, { name, type: AttributeType.STRING, s: utf8.encode(attribute.string) })
  }
  if ("ints" in attribute) {
    return create(AttributeProtoSchema, { name, type: AttributeType.INTS, ints: attribute.ints.map(BigInt) })
  }
  if ("floats" in attribute) {
    return create(AttributeProtoSchema, { name, type: AttributeType.FLOATS, floats: [...attribute.floats] })
  }
  if ("strings" in attribute) {
    const strings = attribute.strings.map((text) => utf8.encode(text))
    return create(AttributeProtoSchema, { name, type: AttributeType.STRINGS, strings })
  }
  if ("tensor" in attribute) {
    return create(AttributeProtoSchema, { name, type: AttributeType.TENSOR, t: tensorProto("", attribute.tensor) })
  }
  return create(AttributeProtoSchema, { name, type: AttributeType.GRAPH, g: graphProto(attribute.graph) })
}

const nodeProto = (node: Node): NodeProto =>
  create(NodeProtoSchema, {
    opType: node.op,
    domain: node.domain,
    name: node.name,
    input: [...node.inputs],
    output: [...node.outputs],
    attribute: Object.entries(node.attributes).map(([name, attribute]) => attributeProto(name, attribute))
  })

const graphProto = (graph: Graph): GraphProto =>
  create(GraphProtoSchema, {
    name: graph.name,
    node: graph.nodes.map(nodeProto),
    input: graph.inputs.map(valueInfo),
    output: graph.outputs.map(valueInfo),
    initializer: Array.from(graph.initializers, ([name, tensor]) => tensorProto(name, tensor))
  })

const addDomains = (graph: Graph, domains: Set<string>): Set<string> => {
  for (const node of graph.nodes) {
    domains.add(node.domain)
    for (const attribute of Object.values(node.attributes)) {
      if ("graph" in attribute) addDomains(attribute.graph, domains)
    }
  }
  return domains
}

/**
 * Translates a graph, subgraphs included. Weights are not copied: the model's initializers are views of the tensors.
 *
 * **Details**
 *
 * Imports `Graph.opset` and version 1 of every other operator domain in use. Symbolic dimensions become `dim_param`.
 * Dtypes and shapes of intermediate values are not written: a runtime infers them.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromGraph = (graph: Graph, options: Options = {}): Model => {
  const domains = addDomains(graph, new Set([""]))
  return create(ModelProtoSchema, {
    irVersion,
    producerName: "attune",
    ...(options.producerVersion === undefined ? {} : { producerVersion: options.producerVersion }),
    opsetImport: Array.from(
      domains,
      (domain) => create(OperatorSetIdProtoSchema, { domain, version: domain === "" ? BigInt(opset) : 1n })
    ),
    metadataProps: Object.entries(options.metadata ?? {}).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value })
    ),
    graph: graphProto(graph)
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// ModelProto to bytes
// ---------------------------------------------------------------------------------------------------------------------

/** A copy one level deep; field presence lives in own properties, defaults in the prototype. */
const copy = <M extends Message>(message: M): M =>
  Object.assign(Object.create(Object.getPrototypeOf(message)) as M, message)

const withoutRawData = (tensor: TensorProto): TensorProto => {
  const rest = copy(tensor)
  clearField(rest, TensorProtoSchema.field.rawData)
  return rest
}

const byteLength = (chunks: ReadonlyArray<Uint8Array>): number =>
  chunks.reduce((total, chunk) => total + chunk.byteLength, 0)

const fieldHeader = (fieldNumber: number, length: number): Uint8Array =>
  new BinaryWriter().tag(fieldNumber, WireType.LengthDelimited).uint32(length).finish()

const tensorChunks = (tensor: TensorProto): Array<Uint8Array> =>
  isFieldSet(tensor, TensorProtoSchema.field.rawData)
    ? [
      toBinary(TensorProtoSchema, withoutRawData(tensor)),
      fieldHeader(TensorProtoSchema.field.rawData.number, tensor.rawData.byteLength),
      tensor.rawData
    ]
    : [toBinary(TensorProtoSchema, tensor)]

/**
 * The serialised model in pieces, where each weight is a view of its own bytes. The protobuf writer copies a weight once
 * per level of nesting and doubles its buffer on the way (5.9 GB for a 1.5 GB model), so weights are spliced in here.
 */
const modelChunks = (model: Model): Array<Uint8Array> => {
  if (model.graph === undefined) return [toBinary(ModelProtoSchema, model)]
  const modelRest = copy(model)
  delete modelRest.graph
  const graphRest = copy(model.graph)
  graphRest.initializer = []

  const graph: Array<Uint8Array> = [toBinary(GraphProtoSchema, graphRest)]
  for (const initializer of model.graph.initializer) {
    const chunks = tensorChunks(initializer)
    graph.push(fieldHeader(GraphProtoSchema.field.initializer.number, byteLength(chunks)))
    for (const chunk of chunks) graph.push(chunk)
  }
  return [
    toBinary(ModelProtoSchema, modelRest),
    fieldHeader(ModelProtoSchema.field.graph.number, byteLength(graph)),
    ...graph
  ]
}

/** A protobuf message may not be longer than this. */
const maxMessageBytes = 2 ** 31 - 1

/**
 * Serialises a model; every weight is copied once, into the result. Throws above protobuf's limit of 2 GB, where only
 * `write` helps, because it can put weights beside the model.
 *
 * @category encoding
 * @since 0.1.0
 */
export const toBytes = (model: Model): Uint8Array<ArrayBuffer> => {
  const chunks = modelChunks(model)
  const total = byteLength(chunks)
  if (total > maxMessageBytes) {
    throw new RangeError(`the model takes ${total} bytes, above the 2 GB limit of protobuf: use Model.write`)
  }
  const bytes = new Uint8Array(total)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.byteLength
  }
  return bytes
}

/**
 * Serialises a graph as an ONNX model with its weights inside: what a session is made from.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (graph: Graph, options: Options = {}): Uint8Array<ArrayBuffer> =>
  toBytes(fromGraph(graph, options))
