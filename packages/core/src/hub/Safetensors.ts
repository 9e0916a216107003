/**
 * The safetensors format: named dense arrays in one file, without code.
 *
 *     u64 little-endian: length N of the header
 *     N bytes: JSON `{ name: { dtype, shape, data_offsets: [begin, end] }, "__metadata__"?: { key: text } }`
 *     the elements of all tensors, row-major, little-endian, without gaps; offsets count from the end of the header
 *
 * Reading follows the rules of the reference implementation (no gaps, no overlaps, nothing after the last tensor), and
 * `write` gives the bytes that it would give. Source: https://github.com/huggingface/safetensors.
 *
 * @since 0.1.0
 */
import { access, type FileHandle, open, readFile } from "node:fs/promises"
import { join } from "node:path"
import { Effect, Option, Result, Schema } from "effect"
import * as AtomicFile from "../AtomicFile.ts"
import * as Tensor from "../Tensor.ts"

/**
 * Reports a file that is not what it should be, or that could not be read or written. `reason` is for programs, the
 * message for people.
 *
 * @category errors
 * @since 0.1.0
 */
export class SafetensorsError extends Schema.TaggedError<SafetensorsError>()("SafetensorsError", {
  path: Schema.String,
  reason: Schema.Literals([
    "Missing",
    "NotSafetensors",
    "Truncated",
    "HeaderTooLarge",
    "HeaderNotJson",
    "HeaderInvalid",
    "UnknownDType",
    "Offsets",
    "ShapeMismatch",
    "NonFinite",
    "Index",
    "Read",
    "Write"
  ]),
  detail: Schema.String,
  tensor: Schema.optionalKey(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const tensor = this.tensor === undefined ? "" : ` tensor "${this.tensor}":`
    return `${this.path === "" ? "" : `${this.path}:`}${tensor} ${this.detail}`.trim()
  }
}

/**
 * Tensors by name, in the order of the file, and the text notes of the header.
 *
 * @category models
 * @since 0.1.0
 */
export interface Safetensors {
  readonly tensors: Map<string, Tensor.Tensor>
  readonly metadata: Readonly<Record<string, string>>
}

type Reason = SafetensorsError["reason"]

const dtypes: Readonly<Record<string, Tensor.DType>> = {
  F64: "float64",
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  I64: "int64",
  I32: "int32",
  I8: "int8",
  U8: "uint8",
  BOOL: "bool"
}

const dtypeNames = new Map(Object.entries(dtypes).map(([name, dtype]) => [dtype, name]))

// The reference writer sorts by this order of its dtype enumeration, so that wider elements come first and every tensor
// starts at a multiple of its element size.
const writingOrder: ReadonlyArray<Tensor.DType> = [
  "int64",
  "float64",
  "float32",
  "int32",
  "bfloat16",
  "float16",
  "int8",
  "uint8",
  "bool"
]

const maxHeader = 100_000_000 // bytes, the limit of the reference implementation

const decodeHeader = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown)))

const decodeText = (bytes: Uint8Array): string | undefined => {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes)
  } catch {
    return undefined
  }
}

const decodeMetadata = Schema.decodeUnknownOption(Schema.Record(Schema.String, Schema.String))

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

const decodeEntry = Schema.decodeUnknownOption(
  Schema.Struct({
    dtype: Schema.String,
    shape: Schema.Array(Natural),
    data_offsets: Schema.Tuple([Natural, Natural])
  })
)

interface Entry {
  readonly name: string
  readonly dtype: Tensor.DType
  readonly shape: ReadonlyArray<number>
  readonly begin: number
  readonly end: number
}

// Element widths are powers of two up to 8, so an array of bytes that starts its own buffer is aligned for all of them.
const readExactly = async (handle: FileHandle, position: number, length: number): Promise<Uint8Array | undefined> => {
  const bytes = new Uint8Array(length)
  for (let filled = 0; filled < length; ) {
    // read(2) moves less than 2 GiB at a time
    const want = Math.min(length - filled, 256 * 1024 * 1024)
    const { bytesRead } = await handle.read(bytes, filled, want, position + filled)
    if (bytesRead === 0) return undefined
    filled += bytesRead
  }
  return bytes
}

const parseEntries = (
  path: string,
  header: Readonly<Record<string, unknown>>,
  dataSize: number
): ReadonlyArray<Entry> => {
  const fail = (reason: Reason, tensor: string, detail: string) =>
    new SafetensorsError({ path, reason, tensor, detail })
  const entries: Array<Entry> = []
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") continue
    const decoded = decodeEntry(value)
    if (Option.isNone(decoded)) {
      throw fail("HeaderInvalid", name, "the header must give dtype, shape and two data_offsets, all whole numbers")
    }
    const {
      data_offsets: [begin, end],
      dtype: dtypeName,
      shape
    } = decoded.value
    const dtype = Object.hasOwn(dtypes, dtypeName) ? dtypes[dtypeName] : undefined
    if (dtype === undefined) {
      throw fail("UnknownDType", name, `dtype ${dtypeName} is not one of ${Object.keys(dtypes).join(", ")}`)
    }
    if (end < begin) throw fail("Offsets", name, `data_offsets [${begin}, ${end}] run backwards`)
    const expected = Tensor.size(shape) * Tensor.bytesPerElement[dtype]
    if (end - begin !== expected) {
      throw fail(
        "ShapeMismatch",
        name,
        `shape [${shape}] of ${dtypeName} takes ${expected} bytes, data_offsets [${begin}, ${end}] hold ${end - begin}`
      )
    }
    entries.push({ name, dtype, shape, begin, end })
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let position = 0
  for (const { begin, end, name } of entries) {
    if (begin !== position) {
      const what = begin < position ? "overlap the tensor before" : "leave a gap after the tensor before"
      throw fail("Offsets", name, `data_offsets [${begin}, ${end}] ${what}, which ends at ${position}`)
    }
    position = end
  }
  if (position > dataSize) {
    const { begin, end, name } = entries.find((entry) => entry.end > dataSize)!
    throw fail(
      "Truncated",
      name,
      `the file is cut short: data_offsets [${begin}, ${end}] lie beyond its ${dataSize} bytes of data; copy or download it again`
    )
  }
  if (position < dataSize) {
    throw new SafetensorsError({
      path,
      reason: "Offsets",
      detail: `${dataSize - position} bytes after the last tensor belong to no tensor`
    })
  }
  return entries
}

const readHeader = async (path: string, handle: FileHandle) => {
  const fail = (reason: Reason, detail: string) => new SafetensorsError({ path, reason, detail })
  const { size } = await handle.stat()
  const prefix = size < 8 ? undefined : await readExactly(handle, 0, 8)
  if (prefix === undefined) {
    throw fail("NotSafetensors", `not a safetensors file: ${size} bytes, and the length of the header alone takes 8`)
  }
  if (new TextDecoder().decode(prefix) === "version ") {
    throw fail("NotSafetensors", "not a safetensors file but a Git LFS pointer; fetch the file itself (git lfs pull)")
  }
  const announced = new DataView(prefix.buffer).getBigUint64(0, true)
  if (announced > BigInt(size - 8) || announced > BigInt(maxHeader)) {
    throw fail(
      "HeaderTooLarge",
      `the header is announced as ${announced} bytes but ${size - 8} follow` +
        " (at most 100 MB allowed); the file is cut short or is not a safetensors file"
    )
  }
  const length = Number(announced)
  const bytes = await readExactly(handle, 8, length)
  if (bytes === undefined) throw fail("Truncated", "the file became shorter while it was read")
  if (bytes[0] !== 0x7b) throw fail("NotSafetensors", "not a safetensors file: its header does not begin with {")
  const header = decodeHeader(decodeText(bytes))
  if (Option.isNone(header)) throw fail("HeaderNotJson", "the header is not a JSON object")
  const metadata = decodeMetadata(header.value.__metadata__ ?? {})
  if (Option.isNone(metadata)) throw fail("HeaderInvalid", "__metadata__ must map names to text")
  return {
    metadata: metadata.value,
    entries: parseEntries(path, header.value, size - 8 - length),
    dataStart: 8 + length
  }
}

const readFailure =
  (path: string) =>
  (cause: unknown): SafetensorsError => {
    if (cause instanceof SafetensorsError) return cause
    const missing = cause instanceof Error && "code" in cause && cause.code === "ENOENT"
    return missing
      ? new SafetensorsError({ path, reason: "Missing", detail: "no such file", cause })
      : new SafetensorsError({ path, reason: "Read", detail: `cannot read: ${AtomicFile.explain(cause)}`, cause })
  }

/**
 * Reads all tensors of a file.
 *
 * **Details**
 *
 * Each tensor has a buffer of its own, so dropping one frees its memory. Fails with `Missing`, `Read`, or the reason why
 * the content is not valid; checks every offset before reading any data. `NaN` is data here: see `checkFinite`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (path: string) => Effect.Effect<Safetensors, SafetensorsError> = (path) =>
  Effect.tryPromise({
    try: async () => {
      const handle = await open(path, "r")
      try {
        const { dataStart, entries, metadata } = await readHeader(path, handle)
        const tensors = new Map<string, Tensor.Tensor>()
        for (const { begin, dtype, end, name, shape } of entries) {
          const bytes = await readExactly(handle, dataStart + begin, end - begin)
          if (bytes === undefined) {
            throw new SafetensorsError({
              path,
              reason: "Truncated",
              tensor: name,
              detail: "the file became shorter while it was read"
            })
          }
          tensors.set(name, Tensor.fromBytes(dtype, bytes, shape))
        }
        return { tensors, metadata }
      } finally {
        await handle.close()
      }
    },
    catch: readFailure(path)
  })

const decodeIndex = Schema.decodeUnknownOption(
  Schema.fromJsonString(Schema.Struct({ weight_map: Schema.Record(Schema.String, Schema.String) }))
)

/**
 * Reads the text of a `model.safetensors.index.json`: the file of each tensor, by the tensor's name. None where the text
 * is no such index; file names are as they stand there, and may be no names.
 *
 * @category decoding
 * @since 0.1.0
 */
export const parseIndex = (text: string): Option.Option<ReadonlyMap<string, string>> =>
  Option.map(decodeIndex(text), ({ weight_map }) => new Map(Object.entries(weight_map)))

const exists = (path: string) =>
  Effect.promise(() =>
    access(path).then(
      () => true,
      () => false
    )
  )

// A name from an index must not lead out of the directory.
const isPlainName = (name: string) => name !== "" && name !== "." && name !== ".." && !/[/\\\0]/.test(name)

/**
 * Reads the weights of a Hugging Face model directory: `model.safetensors`, or the shards that
 * `model.safetensors.index.json` lists.
 *
 * **Details**
 *
 * Fails with `Missing` and the name of the file when neither is there or a shard is absent, and with `Index` when the
 * index is not valid, names a path instead of a file, or promises a tensor that its shard lacks. Tensors of a shard that
 * the index does not mention are kept, so that the loader can complain about them by name.
 *
 * @category decoding
 * @since 0.1.0
 */
export const readSharded: (directory: string) => Effect.Effect<Safetensors, SafetensorsError> = Effect.fn(
  "Safetensors.readSharded"
)(function* (directory) {
  const single = join(directory, "model.safetensors")
  if (yield* exists(single)) return yield* read(single)
  const path = join(directory, "model.safetensors.index.json")
  const fail = (reason: Reason, detail: string) => new SafetensorsError({ path, reason, detail })
  if (!(yield* exists(path))) {
    return yield* new SafetensorsError({
      path: directory,
      reason: "Missing",
      detail: "neither model.safetensors nor model.safetensors.index.json is there"
    })
  }
  const text = yield* Effect.tryPromise({ try: () => readFile(path, "utf8"), catch: readFailure(path) })
  const index = parseIndex(text)
  if (Option.isNone(index)) return yield* fail("Index", "not JSON with a weight_map of tensor names to file names")
  const weightMap = index.value
  const shards = [...new Set(weightMap.values())].sort()
  const tensors = new Map<string, Tensor.Tensor>()
  let metadata: Safetensors["metadata"] = {}
  for (const shard of shards) {
    if (!isPlainName(shard)) return yield* fail("Index", `shard "${shard}" must be a file name without a path`)
    const content = yield* read(join(directory, shard)).pipe(
      Effect.mapError((error) =>
        error.reason === "Missing" ? fail("Missing", `shard ${shard} is listed here but is not there`) : error
      )
    )
    metadata = { ...content.metadata, ...metadata }
    for (const [name, tensor] of content.tensors) {
      if ((weightMap.get(name) ?? shard) === shard) tensors.set(name, tensor)
    }
  }
  for (const [name, shard] of weightMap) {
    if (!tensors.has(name)) return yield* fail("Index", `tensor "${name}" is not in shard ${shard}`)
  }
  return { tensors, metadata }
})

/**
 * The chunks of a safetensors file, one after the other, without copying the tensors. The order is that of the reference
 * writer: wide elements first, then by name; the header is padded with spaces to a multiple of 8 bytes.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (
  tensors: ReadonlyMap<string, Tensor.Tensor>,
  metadata: Readonly<Record<string, string>> = {}
): ReadonlyArray<Uint8Array> => {
  const sorted = [...tensors].sort(
    ([a, left], [b, right]) =>
      writingOrder.indexOf(left.dtype) - writingOrder.indexOf(right.dtype) ||
      Buffer.compare(Buffer.from(a), Buffer.from(b))
  )
  const fields: Array<string> = []
  if (Object.keys(metadata).length > 0) fields.push(`"__metadata__":${JSON.stringify(metadata)}`)
  const chunks: Array<Uint8Array> = []
  let position = 0
  for (const [name, tensor] of sorted) {
    if (name === "__metadata__") throw new RangeError("a tensor cannot be named __metadata__")
    const bytes = Tensor.toBytes(tensor)
    const end = position + bytes.byteLength
    const entry = { dtype: dtypeNames.get(tensor.dtype)!, shape: tensor.shape, data_offsets: [position, end] }
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`)
    chunks.push(bytes)
    position = end
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`)
  const length = Math.ceil(json.byteLength / 8) * 8
  const header = new Uint8Array(8 + length).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true)
  header.set(json, 8)
  return [header, ...chunks]
}

/**
 * Writes tensors to a file atomically: a crash leaves the old file or the new one. Fails with `Write`.
 *
 * @category encoding
 * @since 0.1.0
 */
export const write: (
  path: string,
  tensors: ReadonlyMap<string, Tensor.Tensor>,
  metadata?: Readonly<Record<string, string>>
) => Effect.Effect<void, SafetensorsError> = (path, tensors, metadata = {}) =>
  Effect.suspend(() => AtomicFile.write(path, encode(tensors, metadata))).pipe(
    Effect.mapError(
      ({ cause }) =>
        new SafetensorsError({ path, reason: "Write", detail: `cannot write: ${AtomicFile.explain(cause)}`, cause })
    ),
    Effect.asVoid
  )

/**
 * Fails with `NonFinite`, the index and the value when a floating-point tensor holds `NaN` or an infinity.
 *
 * @category decoding
 * @since 0.1.0
 */
export const checkFinite = (
  name: string,
  tensor: Tensor.Tensor,
  path: string = ""
): Result.Result<void, SafetensorsError> => {
  const at = firstNonFinite(tensor)
  if (at < 0) return Result.void
  const value = toFloat32({ dtype: tensor.dtype, shape: [1], data: tensor.data.slice(at, at + 1) }).data[0]
  return Result.fail(
    new SafetensorsError({
      path,
      reason: "NonFinite",
      tensor: name,
      detail: `element ${at} is ${value}; the weights are damaged`
    })
  )
}

const firstNonFinite = (tensor: Tensor.Tensor): number => {
  switch (tensor.dtype) {
    case "float32":
    case "float64":
      return (tensor.data as Float32Array | Float64Array).findIndex((x) => !Number.isFinite(x))
    case "float16":
      return (tensor.data as Uint16Array).findIndex((bits) => (bits & 0x7c00) === 0x7c00)
    case "bfloat16":
      return (tensor.data as Uint16Array).findIndex((bits) => (bits & 0x7f80) === 0x7f80)
    default:
      return -1
  }
}

// binary16: sign 1, exponent 5 (bias 15), mantissa 10; binary32: sign 1, exponent 8 (bias 127), mantissa 23.
const float16ToBits = (half: number): number => {
  const sign = (half & 0x8000) << 16
  const exponent = (half >> 10) & 0x1f
  const mantissa = half & 0x3ff
  if (exponent === 0x1f) return sign | 0x7f800000 | (mantissa << 13)
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (mantissa << 13)
  if (mantissa === 0) return sign
  // Subnormal: mantissa * 2^-24. Its highest bit becomes the implicit one.
  const shift = Math.clz32(mantissa) - 21
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13)
}

const bitsToFloat16 = (bits: number): number => {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >> 13) & 0x3ff)
  if (magnitude >= 0x47800000) return sign | 0x7c00 // 2^16 and above
  if (magnitude >= 0x38800000) {
    // 2^-14, the smallest normal number
    const rebased = magnitude - (112 << 23)
    return sign | ((rebased + 0xfff + ((rebased >> 13) & 1)) >> 13)
  }
  if (magnitude <= 0x33000000) return sign // 2^-25 is halfway to the smallest subnormal, and zero is even
  const shift = 126 - (magnitude >> 23)
  const mantissa = (magnitude & 0x7fffff) | 0x800000
  const kept = mantissa >> shift
  const rest = mantissa & ((1 << shift) - 1)
  const half = 1 << (shift - 1)
  return sign | (kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0))
}

const bitsToBfloat16 = (bits: number): number =>
  (bits & 0x7fffffff) > 0x7f800000
    ? (bits >>> 16) | 0x40 // stays NaN even if only low bits of the payload are set
    : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16

/**
 * Converts a tensor of any dtype to `float32`; `float16` and `bfloat16` exactly, subnormals, infinities and `NaN`
 * included. A `float32` tensor is returned as it is.
 *
 * @category transforming
 * @since 0.1.0
 */
export const toFloat32 = (tensor: Tensor.Tensor): Tensor.Tensor<"float32"> => {
  const { data, dtype, shape } = tensor
  if (data instanceof Float32Array) return { dtype: "float32", shape, data }
  const values = new Float32Array(data.length)
  if (dtype === "float16" || dtype === "bfloat16") {
    const bits = new Uint32Array(values.buffer)
    const halves = data as Uint16Array
    if (dtype === "bfloat16") for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16
    else for (let i = 0; i < halves.length; i++) bits[i] = float16ToBits(halves[i]!)
  } else {
    for (let i = 0; i < data.length; i++) values[i] = Number(data[i]!)
  }
  return { dtype: "float32", shape, data: values }
}

/**
 * The bits of `float32` numbers as `float16` or `bfloat16`, rounded to the nearest, ties to even.
 *
 * **Details**
 *
 * Too large becomes infinite; `NaN` stays `NaN`. Source: IEEE 754-2019, section 4.3.1.
 *
 * @category transforming
 * @since 0.1.0
 */
export const fromFloat32 = (data: Float32Array, dtype: "float16" | "bfloat16"): Uint16Array<ArrayBuffer> => {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length)
  const halves = new Uint16Array(data.length)
  if (dtype === "bfloat16") for (let i = 0; i < bits.length; i++) halves[i] = bitsToBfloat16(bits[i]!)
  else for (let i = 0; i < bits.length; i++) halves[i] = bitsToFloat16(bits[i]!)
  return halves
}
