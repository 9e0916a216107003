import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { create, fromBinary, toBinary } from "@bufbuild/protobuf"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Result, Schema } from "effect"
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node"
import type { Attribute, Graph, Node, Value } from "../../src/onnx/Graph.ts"
import { elementTypes } from "../../src/onnx/Graph.ts"
import {
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  ModelProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema
} from "../../src/onnx/generated/onnx_pb.ts"
import * as Model from "../../src/onnx/Model.ts"
import * as Tensor from "../../src/Tensor.ts"

const node = (
  op: string,
  inputs: ReadonlyArray<string>,
  outputs: ReadonlyArray<string>,
  attributes: Record<string, Attribute> = {},
  domain = ""
): Node => ({ op, domain, name: `${op}_${outputs[0]}`, inputs, outputs, attributes })

const graphOf = (
  name: string,
  inputs: Array<Value>,
  outputs: Array<Value>,
  initializers: Record<string, Tensor.Tensor>,
  nodes: Array<Node>
): Graph => ({
  name,
  numerics: "quick",
  nodes,
  inputs,
  outputs,
  initializers: new Map(Object.entries(initializers)),
  derivatives: new Map(),
  values: new Map([
    ...inputs.map((value) => [value.name, value] as const),
    ...outputs.map((value) => [value.name, value] as const),
    ...Object.entries(initializers).map(([key, { dtype, shape }]) => [key, { name: key, dtype, shape }] as const)
  ])
})

const float32 = (name: string, ...shape: Array<number | string>): Value => ({ name, dtype: "float32", shape })

// state = x; three times: state = gelu(clip(state W, max: 100) + one); `one` is the body's own initializer,
// `W` belongs to the outer graph, the condition input of Loop and the lower bound of Clip are left out.
const loopGraph = (): Graph => {
  const body = graphOf(
    "body",
    [{ name: "step", dtype: "int64", shape: [] }, { name: "keep", dtype: "bool", shape: [] }, float32("state", "B", 2)],
    [{ name: "keepOn", dtype: "bool", shape: [] }, float32("next", "B", 2)],
    { one: Tensor.float32([1], [1]) },
    [
      node("Identity", ["keep"], ["keepOn"]),
      node("MatMul", ["state", "W"], ["product"]),
      node("Constant", [], ["most"], { value: { tensor: Tensor.scalar(100) } }),
      node("Clip", ["product", "", "most"], ["clipped"]),
      node("Add", ["clipped", "one"], ["sum"]),
      node("Identity", ["sum"], ["next"])
    ]
  )
  return graphOf(
    "main",
    [float32("x", "B", 2)],
    [float32("y", "B", 2), float32("z", "B", 2)],
    { W: Tensor.float32([1, 2, 3, 4], [2, 2]), trips: Tensor.int64([3], []) },
    [
      node("Loop", ["trips", "", "x"], ["y"], { body: { graph: body } }),
      node("FastGelu", ["y"], ["z"], {}, "com.microsoft")
    ]
  )
}

// by hand, x = [1, 0]: [2, 3], [12, 17], [64, 93]
const expectLoopResult = async (session: InferenceSession) => {
  const { y, z } = await session.run({ x: new OrtTensor("float32", Float32Array.of(1, 0), [1, 2]) })
  assert.deepStrictEqual(Array.from(y!.data as Float32Array), [64, 93])
  assert.deepStrictEqual(Array.from(z!.data as Float32Array), [64, 93])
}

/** A graph as plain data: byte for byte, without the link to the graph around it. */
const plain = (graph: Graph): unknown => ({
  name: graph.name,
  inputs: graph.inputs,
  outputs: graph.outputs,
  values: Object.fromEntries(graph.values),
  initializers: Array.from(graph.initializers, ([name, tensor]) => [name, plainTensor(tensor)]),
  nodes: graph.nodes.map((node) => ({
    ...node,
    attributes: Object.entries(node.attributes).map(([name, attribute]) => [
      name,
      "graph" in attribute ? plain(attribute.graph) : "tensor" in attribute ? plainTensor(attribute.tensor) : attribute
    ])
  }))
})

const plainTensor = ({ dtype, shape, data }: Tensor.Tensor) => ({
  dtype,
  shape: [...shape],
  kind: data.constructor.name,
  bytes: Array.from(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
})

const decodeGraph = (bytes: Uint8Array) =>
  Result.getOrThrow(Result.flatMap(Model.decode(bytes), (m) => Model.toGraph(m)))

const reasonOf = (result: Result.Result<unknown, Model.OnnxFileError>): string => {
  assert.isTrue(Result.isFailure(result))
  return Result.isFailure(result) ? result.failure.reason : ""
}

const dtypes = Object.keys(Tensor.bytesPerElement) as ReadonlyArray<Tensor.DType>
const word = Arbitrary.schema(Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(8))).pipe(
  Arbitrary.filter((text) => text.isWellFormed())
)
const int = Arbitrary.schema(Schema.Int).pipe(Arbitrary.map((value) => (value === 0 ? 0 : value)))
const float = Arbitrary.schema(Schema.Finite).pipe(Arbitrary.map(Math.fround))
const small = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 })))
const shape = Arbitrary.array(small, { maxLength: 3 })
const dim: Arbitrary.Arbitrary<number | string> = Arbitrary.all([small, word, Arbitrary.schema(Schema.Boolean)]).pipe(
  Arbitrary.map(([size, name, symbolic]) => (symbolic ? name : size))
)
const dtype = Arbitrary.schema(Schema.Literals(dtypes))
const tensor = Arbitrary.all([dtype, shape, Arbitrary.schema(Schema.Int)]).pipe(
  Arbitrary.map(([dtype, shape, seed]): Tensor.Tensor => {
    // every bit pattern, NaN payloads included
    const bytes = Uint8Array.from(
      { length: Tensor.size(shape) * Tensor.bytesPerElement[dtype] },
      (_, i) => seed * 31 + i * 97
    )
    return Tensor.fromBytes(dtype, bytes, shape)
  })
)
const names = Arbitrary.array(word, { maxLength: 3 }).pipe(Arbitrary.map((all) => [...new Set(all)]))
const attributes = Arbitrary.all([
  int,
  float,
  word,
  Arbitrary.array(int, { maxLength: 3 }),
  Arbitrary.array(float, { maxLength: 3 }),
  Arbitrary.array(word, { maxLength: 3 }),
  tensor
]).pipe(
  Arbitrary.map(
    ([int, float, string, ints, floats, strings, tensor]): Record<string, Attribute> => ({
      a: { int },
      b: { float },
      c: { string },
      d: { ints },
      e: { floats },
      f: { strings },
      g: { tensor }
    })
  )
)
const flatGraph = Arbitrary.all([
  word,
  names,
  Arbitrary.array(dim, { maxLength: 3 }),
  dtype,
  Arbitrary.array(tensor, { minLength: 3, maxLength: 3 }),
  attributes
]).pipe(
  Arbitrary.map(([name, names, dims, dtype, tensors, attributes]) =>
    graphOf(
      name,
      names.map((name) => ({ name: `i${name}`, dtype, shape: dims })),
      names.map((name) => ({ name: `o${name}`, dtype, shape: dims.toReversed() })),
      Object.fromEntries(names.map((name, i) => [`w${name}`, tensors[i]!])),
      names.map((name, i) => node(name, ["", `i${name}`], [`o${name}`, ""], attributes, i === 0 ? "" : "com.microsoft"))
    )
  )
)
const graph = Arbitrary.all([flatGraph, flatGraph]).pipe(
  Arbitrary.map(([main, body]) => {
    main.nodes.push(node("Loop", [""], [], { body: { graph: body } }))
    return main
  })
)

// protobuf by hand: a length-delimited field of less than 128 bytes
const field = (no: number, bytes: ReadonlyArray<number>): Array<number> => {
  const tag = no * 8 + 2
  return [...(tag < 128 ? [tag] : [(tag & 127) | 128, tag >> 7]), bytes.length, ...bytes]
}
const ascii = (text: string): Array<number> => Array.from(text, (letter) => letter.charCodeAt(0))

const occurrences = (bytes: Uint8Array, text: string): number =>
  Buffer.from(bytes).toString("latin1").split(text).length - 1

const folder = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "attune-model-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true }))
)
const promise = <A>(run: () => Promise<A>) => Effect.promise(run)

// y = x W, W of 64 by 64 (16 kB) with 2 on the diagonal, and a bias below 1 kB
const wideGraph = (): Graph => {
  const weight = new Float32Array(64 * 64)
  for (let i = 0; i < 64; i++) weight[i * 65] = 2
  return graphOf(
    "wide",
    [float32("x", "B", 64)],
    [float32("y", "B", 64)],
    { pad: Tensor.zeros([300]), W: Tensor.float32(weight, [64, 64]), b: Tensor.float32(new Float32Array(64).fill(1)) },
    [node("Gemm", ["x", "W", "b"], ["y"])]
  )
}
const expectWideResult = async (session: InferenceSession) => {
  const x = Float32Array.from({ length: 64 }, (_, i) => i)
  const { y } = await session.run({ x: new OrtTensor("float32", x, [1, 64]) })
  assert.deepStrictEqual(
    Array.from(y!.data as Float32Array),
    Array.from(x, (value) => 2 * value + 1)
  )
}

/** Writes a model whose tensor `W` points at `location`, and reads it back. */
const readWith = (dir: string, entries: Record<string, string>, options: Model.ReadOptions = {}) =>
  Effect.gen(function* () {
    const model = Model.fromGraph(wideGraph())
    const weight = model.graph!.initializer.find(({ name }) => name === "W")!
    weight.rawData = new Uint8Array(0)
    weight.dataLocation = DataLocation.EXTERNAL
    weight.externalData = Object.entries(entries).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value })
    )
    yield* promise(() => writeFile(join(dir, "model.onnx"), Model.toBytes(model)))
    return yield* Effect.result(Model.read(join(dir, "model.onnx"), options))
  })

describe("encode", () => {
  it("writes a model with a Loop, an omitted input and another domain that the runtime runs", async () => {
    await expectLoopResult(await InferenceSession.create(Model.encode(loopGraph())))
  })

  it("imports the domains in use, those of subgraphs included, and states versions and metadata", () => {
    const main = loopGraph()
    main.nodes.pop()
    const body = main.nodes[0]!.attributes.body!
    if ("graph" in body) body.graph.nodes.push(node("FastGelu", ["sum"], ["unused"], {}, "com.microsoft"))
    const bytes = Model.encode(main, { producerVersion: "1.2", metadata: { b: "2", a: "1" } })
    const model = fromBinary(ModelProtoSchema, bytes)
    assert.deepStrictEqual(
      model.opsetImport.map(({ domain, version }) => [domain, version]),
      [
        ["", 20n],
        ["com.microsoft", 1n]
      ]
    )
    assert.strictEqual(model.irVersion, 9n)
    assert.strictEqual(model.producerVersion, "1.2")
    assert.deepStrictEqual(Object.entries(Model.metadata(model)), [
      ["b", "2"],
      ["a", "1"]
    ])
  })

  it("numbers dtypes as ONNX does", () => {
    assert.deepStrictEqual(elementTypes, {
      float32: DataType.FLOAT,
      float16: DataType.FLOAT16,
      bfloat16: DataType.BFLOAT16,
      float64: DataType.DOUBLE,
      int64: DataType.INT64,
      int32: DataType.INT32,
      int8: DataType.INT8,
      uint8: DataType.UINT8,
      bool: DataType.BOOL
    })
  })

  it("gives what the protobuf library reads as the same message", () => {
    const model = Model.fromGraph(loopGraph())
    const [spliced, plain] = [Model.toBytes(model), toBinary(ModelProtoSchema, model)]
    assert.strictEqual(spliced.byteLength, plain.byteLength)
    assert.deepStrictEqual(fromBinary(ModelProtoSchema, spliced), fromBinary(ModelProtoSchema, plain))
  })

  it("refuses what is above the 2 GB of a protobuf message, before it takes memory for it", () => {
    const eighth = Tensor.zeros([2 ** 26]) // one array of 256 MB, eight times in the model
    const model = Model.fromGraph(
      graphOf("huge", [], [], Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`w${i}`, eighth])), [])
    )
    assert.throws(() => Model.toBytes(model), /above the 2 GB limit of protobuf: use Model\.write/)
  })

  it("does not change the model that it serialises, and does not copy weights into it", () => {
    const graph = wideGraph()
    const model = Model.fromGraph(graph)
    const first = Model.toBytes(model)
    assert.strictEqual(model.graph!.initializer[1]!.rawData.buffer, graph.initializers.get("W")!.data.buffer)
    assert.deepStrictEqual(Model.toBytes(model), first)
  })
})

describe("decode and toGraph", () => {
  it.prop("undo encode", [graph], ([graph]) => {
    assert.deepStrictEqual(plain(decodeGraph(Model.encode(graph))), plain(graph))
  })

  it("keep a byte order mark that begins a string", () => {
    const marked = graphOf("g", [], [], {}, [node("Constant", [], ["x"], { value_string: { string: "\uFEFFa" } })])
    assert.deepStrictEqual(plain(decodeGraph(Model.encode(marked))), plain(marked))
  })

  it("keep the graph around a subgraph", () => {
    const main = decodeGraph(Model.encode(loopGraph()))
    const body = main.nodes[0]!.attributes.body!
    assert.isTrue("graph" in body && body.graph.outer === main)
  })

  it("read tensors from typed fields and from a Node buffer at an odd offset", () => {
    const model = Model.fromGraph(wideGraph())
    const [pad, weight] = model.graph!.initializer as [TensorProto, TensorProto, TensorProto]
    Object.assign(pad, { dataType: DataType.INT8, dims: [3n], int32Data: [1, -2, 3] })
    delete (pad as Partial<TensorProto>).rawData
    Object.assign(weight, { dataType: DataType.INT64, dims: [2n], int64Data: [5n, -6n] })
    delete (weight as Partial<TensorProto>).rawData
    const bytes = Model.toBytes(model)
    for (let shift = 0; shift < 4; shift++) {
      const shifted = Buffer.alloc(bytes.length + shift).subarray(shift)
      shifted.set(bytes)
      const { initializers } = decodeGraph(shifted)
      assert.deepStrictEqual(initializers.get("pad"), Tensor.make("int8", Int8Array.of(1, -2, 3), [3]))
      assert.deepStrictEqual(initializers.get("W"), Tensor.int64([5, -6]))
      assert.deepStrictEqual(initializers.get("b"), Tensor.float32(new Float32Array(64).fill(1)))
    }
  })

  it("refuse bytes that are no model, naming the file", () => {
    const result = Model.decode(Uint8Array.of(255, 255, 255), "x.onnx")
    assert.isTrue(Result.isFailure(result) && result.failure.message.startsWith("x.onnx: not an ONNX model"))
    assert.include(reasonOf(Model.decode(new Uint8Array(0))), "no graph")
    const bytes = Model.encode(wideGraph())
    assert.include(reasonOf(Model.decode(bytes.subarray(0, bytes.length - 100))), "not an ONNX model")
  })

  const broken = (change: (model: Model.Model) => void): string => {
    const model = Model.fromGraph(wideGraph())
    change(model)
    return reasonOf(Model.toGraph(model))
  }

  it("name the tensor, value or node that a graph cannot hold", () => {
    assert.match(
      broken((model) => Object.assign(model.graph!.initializer[1]!, { dataType: DataType.UINT4 })),
      /initializer W has element type UINT4/
    )
    assert.match(
      broken((model) => Object.assign(model.graph!.initializer[1]!, { dims: [64n, 63n] })),
      /initializer W of shape \[64,63\] needs 4032 elements of float32, the file has 4096/
    )
    assert.match(
      broken((model) => Object.assign(model.graph!.initializer[1]!, { dataLocation: DataLocation.EXTERNAL })),
      /initializer W keeps its data in another file/
    )
    assert.match(
      broken((model) => Object.assign(model.graph!.input[0]!, { type: undefined })),
      /input x is of no stated type/
    )
    assert.match(
      broken((model) => {
        const type = model.graph!.output[0]!.type!.value
        if (type.case === "tensorType") delete type.value.shape
      }),
      /output y has no shape/
    )
    assert.match(
      broken((model) => Object.assign(model.opsetImport[0]!, { version: 17n })),
      /opset 17, needed is 20/
    )
    const huge = graphOf("huge", [], [], {}, [node("Slice", ["x"], ["y"], { end: { int: 1 } })])
    const model = Model.fromGraph(huge)
    model.graph!.node[0]!.attribute[0]!.i = 2n ** 63n - 1n
    assert.match(reasonOf(Model.toGraph(model)), /attribute end of node Slice_y \(Slice\) is 9223372036854775807/)
  })
})

describe("a foreign model", () => {
  // name 8, dims 1, data_type 2, raw_data 9 of TensorProto; field 500 belongs to nobody
  const strange = (where: string): Array<number> => field(500, ascii(`strange ${where}`))
  const weight = (name: string): Array<number> => [
    ...[8, 1, 16, 1],
    ...field(8, ascii(name)),
    ...field(9, [0, 0, 128, 63]),
    ...strange(name)
  ]
  const graph = [
    ...field(2, ascii("main")),
    ...field(1, [...field(4, ascii("Add")), ...strange("node")]),
    ...field(5, weight("u")),
    ...strange("graph"),
    ...field(5, weight("v"))
  ]
  const bytes = Uint8Array.from([8, 9, ...field(7, graph), ...strange("model")])

  it("keeps unknown fields when one initializer is changed", () => {
    const model = Result.getOrThrow(Model.decode(bytes))
    const changed = Result.getOrThrow(Model.withInitializer(model, "u", Tensor.int64([7, 8])))
    const written = Model.toBytes(changed)
    for (const where of ["model", "graph", "node", "u", "v"]) {
      assert.strictEqual(occurrences(written, `strange ${where}`), 1, where)
    }
    const [u, v] = fromBinary(ModelProtoSchema, written).graph!.initializer as [TensorProto, TensorProto]
    assert.deepStrictEqual(
      [u.dims, u.dataType, [...u.rawData]],
      [[2n], DataType.INT64, [7, ...Array(7).fill(0), 8, ...Array(7).fill(0)]]
    )
    assert.deepStrictEqual(toBinary(TensorProtoSchema, v), toBinary(TensorProtoSchema, model.graph!.initializer[1]!))
    // the model that was given is as before
    assert.strictEqual(Model.toBytes(model).length, bytes.length)
    assert.deepStrictEqual(Array.from(model.graph!.initializer[0]!.rawData), [0, 0, 128, 63])
  })

  it("has no initializer of another name", () => {
    const model = Result.getOrThrow(Model.decode(bytes))
    assert.include(reasonOf(Model.withInitializer(model, "w", Tensor.scalar(1))), "no initializer named w")
  })
})

describe("write and read", () => {
  it.effect("keep weights inside below the threshold", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "model.onnx")
      yield* Model.write(path, wideGraph())
      assert.deepStrictEqual(yield* promise(() => readdir(join(path, ".."))), ["model.onnx"])
      yield* promise(async () => expectWideResult(await InferenceSession.create(path)))
      assert.deepStrictEqual(yield* promise(() => readFile(path)), Buffer.from(Model.encode(wideGraph())))
    })
  )

  it.effect("put weights beside the model above it, at page offsets, and the runtime finds them", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "model.onnx")
      yield* Model.write(path, wideGraph(), { externalAbove: 1000 })
      assert.deepStrictEqual(yield* promise(() => readdir(join(path, ".."))), ["model.onnx", "model.onnx_data"])
      // pad: 1200 bytes at 0; W: 16384 bytes at the next page; b is small and stays
      assert.strictEqual((yield* promise(() => stat(`${path}_data`))).size, 4096 + 16384)
      assert.isBelow((yield* promise(() => stat(path))).size, 1000)
      yield* promise(async () => expectWideResult(await InferenceSession.create(path)))
      const model = yield* Model.read(path)
      assert.deepStrictEqual(plain(Result.getOrThrow(Model.toGraph(model))), plain(wideGraph()))
      assert.deepStrictEqual(Model.toBytes(model), Model.encode(wideGraph()))
    })
  )

  it.effect("run a Loop from external data", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "loop")
      const graph = loopGraph()
      graph.initializers.set("unused", Tensor.zeros([1000]))
      yield* Model.write(path, graph, { externalAbove: 0 })
      assert.deepStrictEqual(yield* promise(() => readdir(join(path, ".."))), ["loop", "loop.onnx_data"])
      yield* promise(async () => expectLoopResult(await InferenceSession.create(path)))
    })
  )

  it.effect("leave what was there when writing fails", () =>
    Effect.gen(function* () {
      const dir = yield* folder
      const path = join(dir, "model.onnx")
      yield* promise(() => writeFile(path, "before"))
      yield* promise(() => mkdir(`${path}_data`))
      const failure = yield* Effect.flip(Model.write(path, wideGraph(), { externalAbove: 0 }))
      assert.strictEqual(failure._tag, "OnnxFileError")
      assert.strictEqual(failure.path, `${path}_data`)
      assert.deepStrictEqual(yield* promise(() => readdir(dir)), ["model.onnx", "model.onnx_data"])
      assert.strictEqual(yield* promise(() => readFile(path, "utf8")), "before")

      const missing = yield* Effect.flip(Model.write(join(dir, "no", "model.onnx"), wideGraph()))
      assert.include(missing.reason, "ENOENT")
    })
  )

  it.effect("refuse to write a model whose weights were left in another file", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "model.onnx")
      yield* Model.write(path, wideGraph(), { externalAbove: 0 })
      const model = Result.getOrThrow(Model.decode(yield* promise(() => readFile(path))))
      assert.include((yield* Effect.flip(Model.write(path, model))).reason, "tensor pad still lies in another file")
    })
  )

  it.effect("name a file that is missing", () =>
    Effect.gen(function* () {
      const failure = yield* Effect.flip(Model.read(join(yield* folder, "none.onnx")))
      assert.include(failure.message, "none.onnx: cannot read: ENOENT")
    })
  )

  it.effect("name the files of external data, wherever in the file a tensor names them", () =>
    Effect.gen(function* () {
      const dir = yield* folder
      const path = join(dir, "model.onnx")
      const long = `${"weights".repeat(30)}.bin`
      yield* readWith(dir, { location: long, offset: "0" })
      const model = Result.getOrThrow(Model.decode(yield* promise(() => readFile(path))))
      model.metadataProps.push(create(StringStringEntryProtoSchema, { key: "location", value: "Berlin" }))
      const bytes = Model.toBytes(model)
      const at = Buffer.from(bytes).indexOf(long)
      // the name begins before, at and after the end of the piece of 1 MB that is read at once, and is cut by it
      for (const cut of [-20, -1, 0, 1, 100, long.length - 1, long.length, long.length + 20]) {
        yield* promise(() => writeFile(path, Buffer.concat([new Uint8Array(2 ** 20 - at - cut), bytes])))
        assert.deepStrictEqual(yield* Model.externalFiles(path), [long], `${cut}`)
      }
      yield* Model.write(path, wideGraph(), { externalAbove: 0 })
      assert.deepStrictEqual(yield* Model.externalFiles(path), ["model.onnx_data"])
      yield* Model.write(path, wideGraph())
      assert.deepStrictEqual(yield* Model.externalFiles(path), [])
      assert.include((yield* Effect.flip(Model.externalFiles(join(dir, "none.onnx")))).message, "ENOENT")
    })
  )

  it.effect("refuse external data outside the model's folder", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const dir = join(root, "model")
      yield* promise(() => mkdir(dir))
      yield* promise(() => writeFile(join(root, "secret"), new Uint8Array(16384)))
      yield* promise(() => symlink(join("..", "secret"), join(dir, "link")))
      yield* promise(() => symlink("..", join(dir, "up")))
      for (const location of [join(root, "secret"), "C:\\secret", "\\\\host\\secret"]) {
        assert.include(reasonOf(yield* readWith(dir, { location })), "is an absolute path", location)
      }
      for (const location of ["../secret", "a/../../secret", "..\\secret"]) {
        assert.include(reasonOf(yield* readWith(dir, { location })), "leaves the model's folder", location)
      }
      for (const location of ["link", "up/secret"]) {
        assert.include(reasonOf(yield* readWith(dir, { location })), "links out of", location)
      }
      assert.isTrue(Result.isSuccess(yield* readWith(dir, { location: "link" }, { root })))
    })
  )

  it.effect("refuse external data that is missing, short or of another size", () =>
    Effect.gen(function* () {
      const dir = yield* folder
      yield* promise(() => writeFile(join(dir, "data"), new Uint8Array(16384)))
      const location = "data"
      assert.isTrue(Result.isSuccess(yield* readWith(dir, { location })))
      assert.include(reasonOf(yield* readWith(dir, {})), "names no file")
      assert.include(reasonOf(yield* readWith(dir, { location: "none" })), "ENOENT")
      assert.include(
        reasonOf(yield* readWith(dir, { location, offset: "1" })),
        "bytes 1 to 16385 of data, which has 16384"
      )
      assert.include(reasonOf(yield* readWith(dir, { location, offset: "-1" })), "has offset -1")
      assert.include(reasonOf(yield* readWith(dir, { location, length: "x" })), "has length x")
      assert.include(reasonOf(yield* readWith(dir, { location, length: "4" })), "has 4 bytes, its shape needs 16384")
    })
  )
})
