/**
 * An ONNX file that some exporter wrote, with the configuration and tokenizer beside it: the layout of Optimum and
 * transformers.js, `config.json` and `tokenizer.json` in a directory and the graphs in its `onnx/`.
 *
 * @since 0.1.0
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs"
import { Effect, FileSystem, Path, Result, Schema, type Scope } from "effect"
import * as Pretrained from "../hub/Pretrained.ts"
import { ModelError } from "../ModelError.ts"
import * as Tensor from "../Tensor.ts"
import * as Tokenizer from "../Tokenizer.ts"
import * as Device from "./Device.ts"

/**
 * Where an exported model is: the path of an `.onnx` file, or a directory and, where it holds several graphs, the one
 * to take (`"onnx/model_q4.onnx"` or `"model_q4.onnx"`). `root`: the directory that all files must lie in once `..` and
 * symbolic links are followed, by default the model's own, or the repository's folder in a Hub cache.
 *
 * @category models
 * @since 0.1.0
 */
export type Source =
  | string
  | { readonly directory: string; readonly file?: string | undefined; readonly root?: string | undefined }

/**
 * What is read of `config.json`; every architecture names its sizes as it likes.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Config = Schema.Struct({
  vocab_size: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  max_position_embeddings: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  n_positions: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  n_ctx: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  hidden_size: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  n_embd: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  num_attention_heads: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  n_head: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  num_key_value_heads: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  head_dim: Schema.optionalKey(Schema.NullOr(Schema.Int))
})

/**
 * An exported model before anyone asks what it is.
 *
 * @category models
 * @since 0.1.0
 */
export interface ExportedModel {
  /** Path of the `.onnx` file. */
  readonly name: string
  readonly config: typeof Config.Type
  readonly tokenizer: Tokenizer.Tokenizer
  /** Compiles the graph; released when the scope closes. `keep` chooses the outputs that stay on the device. */
  readonly compile: (keep: (output: string) => boolean) => Effect.Effect<Device.Session, ModelError, Scope.Scope>
}

/**
 * Makes the error of an exported model that cannot be used.
 *
 * @category errors
 * @since 0.1.0
 */
export const unusable = (model: string, message: string): ModelError =>
  new ModelError({ model, operation: "load", message: `${model} ${message}` })

/**
 * Retells an error of the runtime in the words of the model.
 *
 * @category errors
 * @since 0.1.0
 */
export const runtimeError =
  (model: string, operation: ModelError["operation"]) =>
  (cause: Device.OrtError): ModelError =>
    new ModelError({ model, operation, message: cause.message, cause })

const isGraph = (path: string): boolean => path.endsWith(".onnx")

/**
 * Finds an exported model and reads what lies beside it. Of a directory without a named file it takes `model.onnx`,
 * then `decoder_model_merged.onnx`, in `onnx/` or beside `config.json`.
 *
 * **Gotchas**
 *
 * Fails with `ModelError` when there is no such file (the message lists the graphs that there are), when a file lies
 * outside the root, and when `config.json` cannot be read; a missing `config.json` is an empty one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: (
  source: Source
) => Effect.Effect<
  ExportedModel,
  ModelError | Tokenizer.TokenizerError,
  Device.Device | FileSystem.FileSystem | Path.Path
> = Effect.fn("ExportedModel.open")(function* (source) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const device = yield* Device.Device

  const exists = (file: string) => fs.exists(file).pipe(Effect.orElseSucceed(() => false))
  const list = (directory: string) => fs.readDirectory(directory).pipe(Effect.orElseSucceed((): Array<string> => []))

  const given = typeof source === "string" && isGraph(source) ? source : undefined
  const parent = given === undefined ? undefined : path.dirname(given)
  const directory =
    typeof source !== "string"
      ? source.directory
      : parent === undefined
        ? source
        : path.basename(parent) === "onnx"
          ? path.dirname(parent)
          : parent
  const file = typeof source === "string" ? undefined : source.file
  const candidates =
    given !== undefined
      ? [given]
      : (file === undefined ? ["model.onnx", "decoder_model_merged.onnx"] : [file]).flatMap((name) => [
          path.join(directory, "onnx", name),
          path.join(directory, name)
        ])

  let name: string | undefined
  for (const candidate of candidates) if (name === undefined && (yield* exists(candidate))) name = candidate
  if (name === undefined) {
    const graphs = [
      ...(yield* list(path.join(directory, "onnx"))).map((entry) => `onnx/${entry}`),
      ...(yield* list(directory))
    ].filter(isGraph)
    return yield* unusable(
      candidates[0]!,
      `does not exist; ${graphs.length === 0 ? `${directory} holds no .onnx file` : `there are ${graphs.join(", ")}`}`
    )
  }
  const found = name
  const folder = path.dirname(found)
  // Weights that lie beside the graph carry its name too: model.onnx_data, model.onnx.data.
  const files = (yield* list(folder)).filter((entry) => entry.startsWith(path.basename(found)))
  yield* Pretrained.confine(
    directory,
    typeof source === "string" ? undefined : source.root,
    files.map((entry) => path.join(folder, entry))
  ).pipe(Effect.mapError((cause) => unusable(cause.path, cause.detail)))

  const configFile = path.join(directory, "config.json")
  const config = (yield* exists(configFile))
    ? yield* fs.readFileString(configFile).pipe(
        Effect.flatMap((text) => Effect.fromResult(Schema.decodeUnknownResult(Schema.fromJsonString(Config))(text))),
        Effect.mapError((error) => unusable(configFile, `cannot be read as a model's configuration: ${error.message}`))
      )
    : {}
  const tokenizer = yield* Tokenizer.load(directory)

  return {
    name: found,
    config,
    tokenizer,
    // a path, not bytes: large exports keep their weights in files beside the graph
    compile: (keep) =>
      outputNames(found).pipe(
        Effect.flatMap((names) => device.compile({ path: found }, { name: found, keep: names.filter(keep) })),
        Effect.mapError(runtimeError(found, "load"))
      )
  }
})

/**
 * Reads the names of a graph's outputs from its file, without loading it: a session must know when it is compiled which
 * outputs will stay on the device. Empty when the file is not an ONNX file; compiling it then says why.
 *
 * @category decoding
 * @since 0.1.0
 */
export const outputNames = (path: string): Effect.Effect<ReadonlyArray<string>> =>
  Effect.acquireUseRelease(
    Effect.try(() => openSync(path, "r")),
    (file) => Effect.try(() => scanOutputs(file)),
    (file) => Effect.sync(() => closeSync(file))
  ).pipe(Effect.orElseSucceed((): ReadonlyArray<string> => []))

// Walks protobuf fields and skips their contents, of which weights are nearly all:
// ModelProto { graph = 7 }, GraphProto { output = 12 }, ValueInfoProto { name = 1 }.
const scanOutputs = (file: number): ReadonlyArray<string> => {
  const size = fstatSync(file).size
  const window = new Uint8Array(1 << 16)
  let windowStart = 0
  let windowEnd = 0
  const byteAt = (position: number): number => {
    if (position < windowStart || position >= windowEnd) {
      windowStart = position
      windowEnd = position + readSync(file, window, 0, window.length, position)
      if (windowEnd === windowStart) throw new RangeError("the file ends too early")
    }
    return window[position - windowStart]!
  }
  let position = 0
  const varint = (): number => {
    let value = 0
    for (let scale = 1; ; scale *= 128) {
      const byte = byteAt(position++)
      value += (byte & 127) * scale
      if (byte < 128) return value
    }
  }
  /** Calls `enter` at the contents of each length-delimited field; other fields are skipped. */
  const fields = (end: number, enter: (field: number, end: number) => void): void => {
    if (end > size) throw new RangeError("the file ends too early")
    while (position < end) {
      const tag = varint()
      const wire = tag % 8
      if (wire === 0) varint()
      else if (wire === 1) position += 8
      else if (wire === 5) position += 4
      else if (wire === 2) {
        const contentsEnd = varint() + position
        enter(Math.floor(tag / 8), contentsEnd)
        position = contentsEnd
      } else throw new RangeError("not a protobuf file")
    }
  }
  const names: Array<string> = []
  fields(size, (field, graphEnd) => {
    if (field !== 7) return
    fields(graphEnd, (field, outputEnd) => {
      if (field !== 12) return
      fields(outputEnd, (field, nameEnd) => {
        if (field !== 1) return
        const name = Uint8Array.from({ length: nameEnd - position }, (_, i) => byteAt(position + i))
        names.push(new TextDecoder().decode(name))
      })
    })
  })
  return names
}

/**
 * Says that the ids of a tokenizer do not fit a model, or nothing when they do.
 *
 * @category constructors
 * @since 0.1.0
 */
export const checkVocabulary = (
  { name, tokenizer }: ExportedModel,
  vocabSize: number | undefined
): Result.Result<number, ModelError> =>
  vocabSize !== undefined && tokenizer.vocabSize > vocabSize
    ? Result.fail(
        unusable(
          name,
          `knows ${vocabSize} token ids, but the tokenizer beside it has ${tokenizer.vocabSize}; ` +
            `use the tokenizer that the model was trained with`
        )
      )
    : Result.succeed(vocabSize ?? tokenizer.vocabSize)

/**
 * Integers in the dtype that an input asks for: some exporters take ids of 32 bits.
 *
 * @category constructors
 * @since 0.1.0
 */
export const integers = (slot: Device.Slot, { data, shape }: Tensor.Tensor<"int64">): Tensor.Tensor =>
  slot.dtype === "int32"
    ? Tensor.make("int32", Int32Array.from(data, Number), shape)
    : Tensor.make("int64", data, shape)
