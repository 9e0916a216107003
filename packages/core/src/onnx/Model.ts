/**
 * ONNX files: `ModelProto` in and out of bytes and folders, and its translation from and to `Graph`.
 *
 * A `Model` is the protobuf message itself. It keeps fields that this library does not know, so a foreign model can be
 * read, changed in one place and written back without loss.
 *
 * @since 0.1.0
 */
import { createReadStream } from "node:fs"
import { type FileHandle, open, readFile, realpath, rename, rm, writeFile } from "node:fs/promises"
import { basename, dirname, join, posix, sep, win32 } from "node:path"
import { clearField, create, fromBinary, isFieldSet, type Message, toBinary } from "@bufbuild/protobuf"
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire"
import { Effect, Result, Schema } from "effect"
import * as Tensor from "../Tensor.ts"
import type { Attribute, Graph, Node, Value } from "./Graph.ts"
import { elementTypes, make, opset } from "./Graph.ts"
import {
  type AttributeProto,
  AttributeProtoSchema,
  AttributeProto_AttributeType as AttributeType,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
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

const tensorProto = (name: string, tensor: Tensor.Tensor): TensorProto =>
  create(TensorProtoSchema, {
    name,
    dims: tensor.shape.map(BigInt),
    dataType: elementTypes[tensor.dtype],
    rawData: Tensor.toBytes(tensor) as Uint8Array<ArrayBuffer>
  })

const valueInfo = (value: Value): ValueInfoProto =>
  create(ValueInfoProtoSchema, {
    name: value.name,
    type: create(TypeProtoSchema, {
      value: {
        case: "tensorType",
        value: create(TypeProto_TensorSchema, {
          elemType: elementTypes[value.dtype],
          shape: create(TensorShapeProtoSchema, {
            dim: value.shape.map((dim) =>
              create(TensorShapeProto_DimensionSchema, {
                value:
                  typeof dim === "number" ? { case: "dimValue", value: BigInt(dim) } : { case: "dimParam", value: dim }
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
    opsetImport: Array.from(domains, (domain) =>
      create(OperatorSetIdProtoSchema, { domain, version: domain === "" ? BigInt(opset) : 1n })
    ),
    metadataProps: Object.entries(options.metadata ?? {}).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value })
    ),
    graph: graphProto(graph)
  })
}

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

const reasonOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

const memory = "(memory)"

/**
 * Parses a serialised model. Weights are views of `bytes`, which stays alive as long as they do; weights in external
 * files stay there (`read` fetches them). `path` is named in errors.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array, path: string = memory): Result.Result<Model, OnnxFileError> =>
  Result.gen(function* () {
    const model = yield* Result.try({
      // a `Buffer` would hand out views whose `slice` does not copy
      try: () => fromBinary(ModelProtoSchema, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)),
      catch: (cause) => new OnnxFileError({ path, reason: `not an ONNX model: ${reasonOf(cause)}`, cause })
    })
    if (model.graph === undefined) {
      return yield* Result.fail(new OnnxFileError({ path, reason: "not an ONNX model: it has no graph" }))
    }
    return model
  })

/**
 * The named strings of `metadata_props`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const metadata = (model: Model): Record<string, string> =>
  Object.fromEntries(model.metadataProps.map(({ key, value }) => [key, value]))

/**
 * The model with one initializer of its main graph replaced, everything else untouched, unknown fields included. Fails
 * when there is no initializer of that name.
 *
 * @category transforming
 * @since 0.1.0
 */
export const withInitializer = (
  model: Model,
  name: string,
  tensor: Tensor.Tensor
): Result.Result<Model, OnnxFileError> => {
  const index = model.graph?.initializer.findIndex((initializer) => initializer.name === name) ?? -1
  if (model.graph === undefined || index < 0) {
    return Result.fail(new OnnxFileError({ path: memory, reason: `the model has no initializer named ${name}` }))
  }
  const { field } = TensorProtoSchema
  const replaced = copy(model.graph.initializer[index]!)
  for (const data of [
    field.floatData,
    field.doubleData,
    field.int32Data,
    field.int64Data,
    field.uint64Data,
    field.stringData,
    field.externalData,
    field.dataLocation,
    field.segment
  ]) {
    clearField(replaced, data)
  }
  const { dims, dataType, rawData } = tensorProto(name, tensor)
  Object.assign(replaced, { dims, dataType, rawData })
  const graph = copy(model.graph)
  graph.initializer = graph.initializer.with(index, replaced)
  return Result.succeed(Object.assign(copy(model), { graph }))
}

type Decoded<A> = Result.Result<A, OnnxFileError>

const fail = (path: string, reason: string): Result.Result<never, OnnxFileError> =>
  Result.fail(new OnnxFileError({ path, reason }))

const dtypes: ReadonlyMap<number, Tensor.DType> = new Map(
  Object.entries(elementTypes).map(([dtype, dataType]) => [dataType, dtype as Tensor.DType])
)

const dataTypeName = (dataType: number): string =>
  Object.entries(DataType).find(([, code]) => code === dataType)?.[0] ?? `${dataType}`

const dtypeOf = (path: string, owner: string, dataType: number): Decoded<Tensor.DType> => {
  const dtype = dtypes.get(dataType)
  return dtype === undefined
    ? fail(
        path,
        `${owner} has element type ${dataTypeName(dataType)}; known are ${Object.keys(elementTypes).join(", ")}`
      )
    : Result.succeed(dtype)
}

/** The elements of a tensor that keeps them in typed fields, as older exporters write small ones. */
const typedData = (proto: TensorProto, dtype: Tensor.DType): Tensor.DTypeData[Tensor.DType] => {
  switch (dtype) {
    case "float32":
      return Float32Array.from(proto.floatData)
    case "float64":
      return Float64Array.from(proto.doubleData)
    case "int64":
      return BigInt64Array.from(proto.int64Data)
    case "int32":
      return Int32Array.from(proto.int32Data)
    case "int8":
      return Int8Array.from(proto.int32Data)
    case "uint8":
    case "bool":
      return Uint8Array.from(proto.int32Data)
    case "float16":
    case "bfloat16":
      return Uint16Array.from(proto.int32Data)
  }
}

const decodeTensor = (path: string, owner: string, proto: TensorProto): Decoded<Tensor.Tensor> =>
  Result.gen(function* () {
    const dtype = yield* dtypeOf(path, owner, proto.dataType)
    if (isExternal(proto)) {
      return yield* fail(path, `${owner} keeps its data in another file: read the model with Model.read`)
    }
    const shape = proto.dims.map(Number)
    const size = Tensor.size(shape)
    const raw = isFieldSet(proto, TensorProtoSchema.field.rawData)
    const data = raw ? proto.rawData : typedData(proto, dtype)
    const length = raw ? proto.rawData.byteLength / Tensor.bytesPerElement[dtype] : data.length
    if (shape.some((dim) => dim < 0) || length !== size) {
      return yield* fail(
        path,
        `${owner} of shape [${shape}] needs ${size} elements of ${dtype}, the file has ${length}`
      )
    }
    return raw ? Tensor.fromBytes(dtype, proto.rawData, shape) : Tensor.make(dtype, data, shape)
  })

const decodeValue = (path: string, owner: string, proto: ValueInfoProto): Decoded<Value> =>
  Result.gen(function* () {
    const type = proto.type?.value
    if (type?.case !== "tensorType") {
      return yield* fail(path, `${owner} ${proto.name} is ${type?.case ?? "of no stated type"}, only tensors are known`)
    }
    const dtype = yield* dtypeOf(path, `${owner} ${proto.name}`, type.value.elemType)
    if (type.value.shape === undefined) {
      return yield* fail(path, `${owner} ${proto.name} has no shape: export the model with shapes`)
    }
    const shape = type.value.shape.dim.map(({ value }, axis) => {
      if (value.case === "dimValue") return Number(value.value)
      // an unnamed dimension is a size of its own
      return value.case === "dimParam" && value.value !== "" ? value.value : `${proto.name}_${axis}`
    })
    return { name: proto.name, dtype, shape }
  })

const safeInt = (path: string, owner: string, value: bigint): Decoded<number> =>
  Number.isSafeInteger(Number(value)) ? Result.succeed(Number(value)) : fail(path, `${owner} is ${value}, beyond 2^53`)

const text = new TextDecoder("utf-8", { ignoreBOM: true })

const decodeAttribute = (path: string, owner: string, proto: AttributeProto, outer: Graph): Decoded<Attribute> =>
  Result.gen(function* () {
    switch (proto.type) {
      case AttributeType.INT:
        return { int: yield* safeInt(path, owner, proto.i) }
      case AttributeType.FLOAT:
        return { float: proto.f }
      case AttributeType.STRING:
        return { string: text.decode(proto.s) }
      case AttributeType.INTS:
        return { ints: yield* Result.all(proto.ints.map((value) => safeInt(path, owner, value))) }
      case AttributeType.FLOATS:
        return { floats: proto.floats }
      case AttributeType.STRINGS:
        return { strings: proto.strings.map((bytes) => text.decode(bytes)) }
      case AttributeType.TENSOR:
        if (proto.t !== undefined) return { tensor: yield* decodeTensor(path, owner, proto.t) }
        break
      case AttributeType.GRAPH:
        if (proto.g !== undefined) return { graph: yield* decodeGraph(path, proto.g, outer) }
        break
    }
    return yield* fail(path, `${owner} is of a kind that Attune does not read (${proto.type})`)
  })

const decodeNode = (path: string, proto: NodeProto, outer: Graph): Decoded<Node> =>
  Result.gen(function* () {
    const attributes: Array<readonly [string, Attribute]> = []
    for (const attribute of proto.attribute) {
      const owner = `attribute ${attribute.name} of node ${proto.name || proto.output[0]} (${proto.opType})`
      attributes.push([attribute.name, yield* decodeAttribute(path, owner, attribute, outer)])
    }
    return {
      op: proto.opType,
      domain: proto.domain === "ai.onnx" ? "" : proto.domain,
      name: proto.name,
      inputs: proto.input,
      outputs: proto.output,
      attributes: Object.fromEntries(attributes)
    }
  })

const decodeGraph = (path: string, proto: GraphProto, outer?: Graph): Decoded<Graph> =>
  Result.gen(function* () {
    if (proto.sparseInitializer.length > 0) {
      return yield* fail(path, `graph ${proto.name} has sparse initializers: make them dense first`)
    }
    const graph = make(proto.name, outer)
    for (const input of proto.input) graph.inputs.push(yield* decodeValue(path, "input", input))
    for (const output of proto.output) graph.outputs.push(yield* decodeValue(path, "output", output))
    for (const initializer of proto.initializer) {
      const tensor = yield* decodeTensor(path, `initializer ${initializer.name}`, initializer)
      graph.initializers.set(initializer.name, tensor)
      graph.values.set(initializer.name, { name: initializer.name, dtype: tensor.dtype, shape: tensor.shape })
    }
    for (const info of proto.valueInfo) {
      const value = decodeValue(path, "value", info)
      if (Result.isSuccess(value)) graph.values.set(info.name, value.success)
    }
    for (const value of [...graph.inputs, ...graph.outputs]) graph.values.set(value.name, value)
    for (const node of proto.node) graph.nodes.push(yield* decodeNode(path, node, graph))
    return graph
  })

/**
 * Translates a model to a graph. `toGraph` of `fromGraph` gives the same graph, save for `values`: those between inputs
 * and outputs are known only where the file states them (`value_info`). Tensors are views of the model's bytes where
 * alignment allows it.
 *
 * **Gotchas**
 *
 * Fails on what a `Graph` cannot say, with the name of the tensor, value or node: another opset, an unknown dtype, a
 * value that is no tensor or has no rank, local functions, sparse initializers. A dimension without a name gets one.
 *
 * @category decoding
 * @since 0.1.0
 */
export const toGraph = (model: Model, path: string = memory): Result.Result<Graph, OnnxFileError> =>
  Result.gen(function* () {
    const version = model.opsetImport.find(({ domain }) => domain === "" || domain === "ai.onnx")?.version
    if (version !== BigInt(opset)) {
      return yield* fail(path, `written for opset ${version ?? "unknown"}, needed is ${opset}: convert the model first`)
    }
    if (model.functions.length > 0) {
      return yield* fail(path, `has local functions (${model.functions.map(({ name }) => name)}): inline them first`)
    }
    if (model.graph === undefined) return yield* fail(path, "has no graph")
    return yield* decodeGraph(path, model.graph)
  })

/**
 * How a model is written to a file.
 *
 * @category models
 * @since 0.1.0
 */
export interface WriteOptions extends Options {
  /** Weights of more bytes than this in total go to `<name>.onnx_data` beside the model; 100 MB by default. */
  readonly externalAbove?: number
}

/**
 * How a model is read from a file.
 *
 * @category models
 * @since 0.1.0
 */
export interface ReadOptions {
  /**
   * The folder that external data must lie in once symbolic links are followed: the model's own by default. A cache that
   * links into a folder of blobs passes the folder that holds both.
   */
  readonly root?: string
}

/** Runtimes fold small constants such as shapes while they load, and look for them inside the model. */
const minExternalBytes = 1024

/** Page size, so that runtimes can map the file. */
const externalAlignment = 4096

const defaultExternalAbove = 100 * 1024 * 1024

const ioError = (path: string, action: string) => (cause: unknown) =>
  new OnnxFileError({ path, reason: `cannot ${action}: ${reasonOf(cause)}`, cause })

/** Moves large weights out of the model: the model that refers to them, and the bytes of the data file. */
const externalise = (model: Model, location: string): { readonly model: Model; readonly data: Array<Uint8Array> } => {
  const data: Array<Uint8Array> = []
  let offset = 0
  const move = (initializer: TensorProto): TensorProto => {
    if (initializer.rawData.byteLength < minExternalBytes) return initializer
    const padding = -offset & (externalAlignment - 1)
    if (padding > 0) data.push(new Uint8Array(padding))
    data.push(initializer.rawData)
    offset += padding
    const moved = withoutRawData(initializer)
    moved.dataLocation = DataLocation.EXTERNAL
    moved.externalData = Object.entries({ location, offset, length: initializer.rawData.byteLength }).map(
      ([key, value]) => create(StringStringEntryProtoSchema, { key, value: `${value}` })
    )
    offset += initializer.rawData.byteLength
    return moved
  }
  if (model.graph === undefined) return { model, data }
  const graph = copy(model.graph)
  graph.initializer = graph.initializer.map(move)
  return { model: Object.assign(copy(model), { graph }), data }
}

const closeFile = (handle: FileHandle) => Effect.promise(() => handle.close())

const writeChunks = (path: string, chunks: ReadonlyArray<Uint8Array>) =>
  Effect.acquireUseRelease(
    Effect.tryPromise({ try: () => open(path, "wx"), catch: ioError(path, "create") }),
    (handle) =>
      Effect.tryPromise({
        try: (signal) => writeFile(handle, chunks, { signal }).then(() => handle.sync()),
        catch: ioError(path, "write")
      }),
    closeFile
  )

let temporaries = 0

const temporary = (path: string) => Effect.sync(() => `${path}.${process.pid}-${temporaries++}.tmp`)

const move = (from: string, to: string) =>
  Effect.tryPromise({ try: () => rename(from, to), catch: ioError(to, "replace") })

const remove = (path: string) => Effect.ignore(Effect.tryPromise(() => rm(path, { force: true })))

/** Every tensor of a graph: initializers and attributes, those of subgraphs included. */
const tensorsOf = (graph: GraphProto): Array<TensorProto> => [
  ...graph.initializer,
  ...graph.node.flatMap(({ attribute }) =>
    attribute.flatMap(({ t, tensors, g, graphs }) => [
      ...(t === undefined ? [] : [t]),
      ...tensors,
      ...[...(g === undefined ? [] : [g]), ...graphs].flatMap(tensorsOf)
    ])
  )
]

const isExternal = ({ dataLocation }: TensorProto): boolean => dataLocation === DataLocation.EXTERNAL

/**
 * Writes a graph or a model to a file, with large weights in `<name>.onnx_data` beside it.
 *
 * **Details**
 *
 * Both files are written under temporary names, flushed to the disk and then renamed, the data file first, so that a
 * failure leaves what was there before. `producerVersion` and `metadata` apply to a graph; a model already has its own.
 * Weights below 1 kB always stay inside the model.
 *
 * **Gotchas**
 *
 * No file system renames two files at once: a crash between the two leaves a new data file beside an older model. Where
 * that matters, write to a new folder.
 *
 * @category encoding
 * @since 0.1.0
 */
export const write: (
  path: string,
  source: Graph | Model,
  options?: WriteOptions
) => Effect.Effect<void, OnnxFileError> = Effect.fn("Model.write")(function* (path, source, options = {}) {
  const whole = "$typeName" in source ? source : fromGraph(source, options)
  const elsewhere = whole.graph && tensorsOf(whole.graph).find(isExternal)
  if (elsewhere !== undefined) {
    const reason = `tensor ${elsewhere.name} still lies in another file: read the model with Model.read before writing it`
    return yield* new OnnxFileError({ path, reason })
  }
  const weights = whole.graph?.initializer.reduce((total, { rawData }) => total + rawData.byteLength, 0) ?? 0
  const dataPath = path.endsWith(".onnx") ? `${path}_data` : `${path}.onnx_data`
  const inline = weights <= (options.externalAbove ?? defaultExternalAbove) ? modelChunks(whole) : undefined
  const external = inline === undefined || byteLength(inline) > maxMessageBytes
  const { model, data } = external ? externalise(whole, basename(dataPath)) : { model: whole, data: [] }
  const chunks = external ? modelChunks(model) : inline
  if (byteLength(chunks) > maxMessageBytes) {
    return yield* new OnnxFileError({ path, reason: "above 2 GB even with the weights of the main graph outside" })
  }
  const temporaryModel = yield* temporary(path)
  const temporaryData = yield* temporary(dataPath)
  yield* Effect.gen(function* () {
    if (data.length > 0) yield* writeChunks(temporaryData, data)
    yield* writeChunks(temporaryModel, chunks)
    yield* Effect.uninterruptible(
      Effect.gen(function* () {
        if (data.length > 0) yield* move(temporaryData, dataPath)
        yield* move(temporaryModel, path)
      })
    )
  }).pipe(Effect.ensuring(Effect.all([remove(temporaryModel), remove(temporaryData)], { discard: true })))
})

interface ExternalTensor {
  readonly tensor: TensorProto
  readonly location: string
  readonly offset: number
  readonly length: number | undefined
}

const externalTensor = (path: string, tensor: TensorProto): Decoded<ExternalTensor> => {
  const entries = new Map(tensor.externalData.map(({ key, value }) => [key, value]))
  const location = entries.get("location") ?? ""
  const refuse = (why: string) => fail(path, `tensor ${tensor.name}: external data at "${location}" ${why}`)
  if (location === "") return refuse("names no file")
  if (posix.isAbsolute(location) || win32.isAbsolute(location)) return refuse("is an absolute path, refused")
  if (location.split(/[\\/]/).includes("..")) return refuse("leaves the model's folder, refused")
  const width = Tensor.bytesPerElement[dtypes.get(tensor.dataType) ?? "uint8"]
  const expected = dtypes.has(tensor.dataType) ? Tensor.size(tensor.dims.map(Number)) * width : undefined
  const offset = Number(entries.get("offset") ?? 0)
  const length = entries.has("length") ? Number(entries.get("length")) : expected
  if (!Number.isSafeInteger(offset) || offset < 0) return refuse(`has offset ${entries.get("offset")}`)
  if (length !== undefined && (!Number.isSafeInteger(length) || length < 0)) {
    return refuse(`has length ${entries.get("length")}`)
  }
  if (expected !== undefined && length !== expected) return refuse(`has ${length} bytes, its shape needs ${expected}`)
  return Result.succeed({ tensor, location, offset, length })
}

const readFully = async (handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> => {
  // one read may not be longer than 2 GB
  for (let done = 0; done < bytes.byteLength; ) {
    const length = Math.min(bytes.byteLength - done, 2 ** 28)
    const { bytesRead } = await handle.read(bytes, done, length, position + done)
    if (bytesRead === 0) throw new Error("the file ended early")
    done += bytesRead
  }
}

// TensorProto { external_data = 13 { key = 1: "location", value = 2 } }: a "j", the length of the entry, these bytes,
// the length of the value. Lengths take one byte below 128 and two up to 16383.
const locationKey = Buffer.from("\n\x08location\x12")

/** No entry that names a file is longer: names have at most 255 bytes. */
const maxLocationBytes = 512

/**
 * Names the files of external data that a model refers to, as it writes them: paths from its own folder, unchecked.
 *
 * **Details**
 *
 * The bytes of the file are searched piece by piece, so a model of 2 GB takes no more memory than a small one. A file
 * that is no model refers to nothing.
 *
 * @category decoding
 * @since 0.1.0
 */
export const externalFiles = (path: string): Effect.Effect<ReadonlyArray<string>, OnnxFileError> =>
  Effect.tryPromise({
    try: async (signal) => {
      const files = new Set<string>()
      let bytes = Buffer.alloc(0)
      for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal })) {
        // an entry that the piece before cut in two is found here as a whole
        bytes = Buffer.concat([bytes.subarray(-maxLocationBytes), chunk])
        for (let at = bytes.indexOf(locationKey); at >= 0; at = bytes.indexOf(locationKey, at + 1)) {
          if (bytes[at - 2] !== 0x6a && bytes[at - 3] !== 0x6a) continue
          const size = at + locationKey.length
          const [low = 0, high = 0] = bytes.subarray(size, size + 2)
          const start = size + (low < 128 ? 1 : 2)
          const end = start + (low < 128 ? low : low - 128 + 128 * high)
          if (end <= bytes.length) files.add(bytes.toString("utf8", start, end))
        }
      }
      return [...files].sort()
    },
    catch: ioError(path, "read")
  })

/** Reads the tensors that one data file holds into the message. */
const readExternal = (path: string, location: string, tensors: ReadonlyArray<ExternalTensor>, root: string) =>
  Effect.gen(function* () {
    const file = join(dirname(path), location)
    const action = `read external data of tensor ${tensors[0]!.tensor.name}`
    const io = <A>(run: () => Promise<A>) => Effect.tryPromise({ try: run, catch: ioError(path, action) })
    const realRoot = yield* io(() => realpath(root))
    const realFile = yield* io(() => realpath(file))
    if (!realFile.startsWith(realRoot.endsWith(sep) ? realRoot : realRoot + sep)) {
      const reason = `tensor ${tensors[0]!.tensor.name}: external data at "${location}" links out of ${root}, refused`
      return yield* new OnnxFileError({ path, reason })
    }
    yield* Effect.acquireUseRelease(
      io(() => open(realFile, "r")),
      (handle) =>
        Effect.gen(function* () {
          const { size } = yield* io(() => handle.stat())
          for (const { tensor, offset, length = size - offset } of tensors) {
            if (length < 0 || offset + length > size) {
              const reason = `tensor ${tensor.name}: bytes ${offset} to ${offset + length} of ${location}, which has ${size}`
              return yield* new OnnxFileError({ path, reason })
            }
            const bytes = new Uint8Array(length)
            yield* io(() => readFully(handle, bytes, offset))
            tensor.rawData = bytes
            clearField(tensor, TensorProtoSchema.field.dataLocation)
            clearField(tensor, TensorProtoSchema.field.externalData)
          }
        }),
      closeFile
    )
  })

/**
 * Reads a model with its external data. Data files are looked for beside the model; an absolute path, `..` and a
 * symbolic link out of `root` are refused.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (path: string, options?: ReadOptions) => Effect.Effect<Model, OnnxFileError> = Effect.fn(
  "Model.read"
)(function* (path, options = {}) {
  const bytes = yield* Effect.tryPromise({ try: (signal) => readFile(path, { signal }), catch: ioError(path, "read") })
  const model = yield* Effect.fromResult(decode(bytes, path))
  const byLocation = new Map<string, Array<ExternalTensor>>()
  for (const tensor of model.graph === undefined ? [] : tensorsOf(model.graph)) {
    if (!isExternal(tensor)) continue
    const external = yield* Effect.fromResult(externalTensor(path, tensor))
    const others = byLocation.get(external.location)
    if (others === undefined) byLocation.set(external.location, [external])
    else others.push(external)
  }
  for (const [location, tensors] of byLocation) {
    yield* readExternal(path, location, tensors, options.root ?? dirname(path))
  }
  return model
})
