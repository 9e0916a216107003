/**
 * What a run needs to continue as if it had never stopped: tensors, and everything else as JSON.
 *
 *     root/step-00000040/params.safetensors, m.safetensors, ...   one file per named group of tensors
 *     root/step-00000040/manifest.json                            written last; sizes and SHA-256 of the others
 *
 * A checkpoint is written under a temporary name, every file is flushed to the disk, and the directory is renamed: under its
 * own name it is always complete. One process at a time may save into a root.
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import { createReadStream } from "node:fs"
import { mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises"
import { join, resolve } from "node:path"
import { Effect, Option, Schema } from "effect"
import * as AtomicFile from "./AtomicFile.ts"
import * as Safetensors from "./hub/Safetensors.ts"
import type { Tensor } from "./Tensor.ts"

/**
 * Reports a checkpoint that cannot be saved or used.
 *
 * **Details**
 *
 * `Missing`: there is no such directory. `Torn`: a file is missing or has another size. `Corrupt`: a file's bytes
 * changed. `Fingerprint`: it is from another model. `State`: its state is not what the caller expects, or not JSON.
 * `Version`: another version of Attune wrote it. `Read`, `Write`: the operating system refused.
 *
 * @category errors
 * @since 0.1.0
 */
export class CheckpointError extends Schema.TaggedError<CheckpointError>()("CheckpointError", {
  path: Schema.String,
  reason: Schema.Literals(["Missing", "Torn", "Corrupt", "Fingerprint", "Version", "State", "Read", "Write"]),
  detail: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `checkpoint ${this.path}: ${this.detail}`
  }
}

const formatVersion = 1

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

// A stem becomes a file name, in both directions.
const Stem = Schema.String.check(Schema.isPattern(/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/))

/**
 * Schema of `manifest.json`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Manifest = Schema.Struct({
  /** Version of this layout. */
  format: Natural,
  /** Optimizer steps done. */
  step: Natural,
  /** Names the model, and whatever else must be the same to continue; chosen by the caller. */
  fingerprint: Schema.String,
  /** Seeds of the run. */
  seeds: Schema.Record(Schema.String, Schema.Json),
  /** Where the data goes on. */
  cursor: Schema.Json,
  /** States of the random number generators. */
  rng: Schema.Json,
  /** Whatever else the caller needs. */
  state: Schema.Json,
  /** Versions of Node, Attune, ONNX Runtime, ... that wrote the checkpoint. */
  versions: Schema.Record(Schema.String, Schema.String),
  /** Size and SHA-256 of every group of tensors, by stem of the file name. */
  files: Schema.Record(Stem, Schema.Struct({ bytes: Natural, sha256: Schema.String }))
})

/**
 * The content of `manifest.json`.
 *
 * @category models
 * @since 0.1.0
 */
export type Manifest = typeof Manifest.Type

/**
 * What to save. The JSON parts must be finite: JSON has no `NaN`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Content {
  readonly step: number
  readonly fingerprint: string
  /** Groups of tensors by file stem: `params`, `m`, `v`, ... */
  readonly tensors: Readonly<Record<string, ReadonlyMap<string, Tensor>>>
  readonly state: Schema.Json
  readonly seeds?: Readonly<Record<string, Schema.Json>>
  readonly cursor?: Schema.Json
  readonly rng?: Schema.Json
  /** Node's version is added. */
  readonly versions?: Readonly<Record<string, string>>
}

/**
 * A checkpoint that was read and found whole.
 *
 * @category models
 * @since 0.1.0
 */
export interface Checkpoint<State = Schema.Json> {
  readonly directory: string
  readonly step: number
  readonly tensors: Readonly<Record<string, ReadonlyMap<string, Tensor>>>
  readonly state: State
  readonly manifest: Manifest
}

/**
 * What a checkpoint must agree with to be used.
 *
 * @category models
 * @since 0.1.0
 */
export interface Expected<State = Schema.Json> {
  /** The fingerprint it was saved with. Left out, any is accepted. */
  readonly fingerprint?: string
  /** Schema of `state`, which is plain JSON without it. */
  readonly state?: Schema.Codec<State, Schema.Json>
}

const manifestName = "manifest.json"
const directoryName = (step: number) => `step-${String(step).padStart(8, "0")}`
const temporaryPrefix = ".tmp-"
// An older checkpoint of the same step, moved aside while the new one takes its place.
const replacedSuffix = ".replaced"
const namePattern = /^step-(\d{8,})(\.replaced)?$/

const sha256 = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex")

// The last field covers every byte before it, so that damage to the manifest shows like damage to the other files.
const checksumLine = (body: Uint8Array | string) => `,\n  "checksum": "${sha256(body)}"\n}\n`

const encodeManifest = (manifest: Manifest): string => {
  const body = JSON.stringify(manifest, null, 2).slice(0, -2) // without the closing "\n}"
  return body + checksumLine(body)
}

const checksumLength = checksumLine("").length

const decodeManifest = Schema.decodeUnknownOption(Schema.fromJsonString(Manifest))

const parseManifest = (path: string, bytes: Uint8Array): Manifest => {
  const body = bytes.subarray(0, Math.max(0, bytes.byteLength - checksumLength))
  const rest = Buffer.from(bytes.subarray(body.byteLength)).toString("latin1")
  const damaged = new CheckpointError({
    path,
    reason: "Corrupt",
    detail: `${manifestName} does not match its checksum`
  })
  if (rest !== checksumLine(body)) throw damaged
  const manifest = decodeManifest(new TextDecoder().decode(bytes))
  if (Option.isNone(manifest) || manifest.value.format !== formatVersion) {
    const detail = `${manifestName} is not of format ${formatVersion}; another version of Attune wrote it`
    throw new CheckpointError({ path, reason: "Version", detail })
  }
  return manifest.value
}

const hashFile = async (path: string): Promise<string> => {
  const hash = createHash("sha256")
  for await (const part of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(part)
  return hash.digest("hex")
}

const isMissing = (cause: unknown) => cause instanceof Error && "code" in cause && cause.code === "ENOENT"

// Reads the manifest and compares every file with it, without decoding tensors.
const verify = (path: string): Effect.Effect<Manifest, CheckpointError> =>
  Effect.tryPromise({
    try: async () => {
      const torn = (detail: string) => new CheckpointError({ path, reason: "Torn", detail })
      const text = await readFile(join(path, manifestName)).catch(async (cause) => {
        if (!isMissing(cause)) throw cause
        const there = await stat(path).then(
          () => true,
          () => false
        )
        if (there) throw torn(`${manifestName} is missing`)
        throw new CheckpointError({ path, reason: "Missing", detail: "no such directory" })
      })
      const manifest = parseManifest(path, text)
      for (const [stem, { bytes, sha256 }] of Object.entries(manifest.files)) {
        const name = `${stem}.safetensors`
        const { size } = await stat(join(path, name)).catch((cause) => {
          throw isMissing(cause) ? torn(`${name} is missing`) : cause
        })
        if (size !== bytes) throw torn(`${name} has ${size} bytes instead of ${bytes}`)
        if ((await hashFile(join(path, name))) !== sha256) {
          throw new CheckpointError({ path, reason: "Corrupt", detail: `${name} does not match its SHA-256` })
        }
      }
      return manifest
    },
    catch: (cause) =>
      cause instanceof CheckpointError
        ? cause
        : new CheckpointError({ path, reason: "Read", detail: `cannot read: ${AtomicFile.explain(cause)}`, cause })
  })

/**
 * Reads the checkpoint in `directory` after comparing every byte with the manifest.
 *
 * **Details**
 *
 * Tensors come back bit for bit, `NaN` payloads included. Fails with `Missing`, `Torn` or `Corrupt` when it is not whole, and
 * with `Fingerprint`, `State` or `Version` when it is whole but not the expected one.
 *
 * @category decoding
 * @since 0.1.0
 */
export const load: <State = Schema.Json>(
  directory: string,
  expected?: Expected<State>
) => Effect.Effect<Checkpoint<State>, CheckpointError> = Effect.fn("Checkpoint.load")(function* <State>(
  path: string,
  expected: Expected<State> = {}
) {
  const manifest = yield* verify(path)
  if (expected.fingerprint !== undefined && manifest.fingerprint !== expected.fingerprint) {
    return yield* new CheckpointError({
      path,
      reason: "Fingerprint",
      detail:
        "is from another model, or from a run with other data or settings: " +
        `its fingerprint is ${manifest.fingerprint}, expected ${expected.fingerprint};` +
        " resume with the model, data and settings that it was saved with, or choose another directory"
    })
  }
  const stateSchema = expected.state ?? (Schema.Json as unknown as Schema.Codec<State, Schema.Json>)
  const state = yield* Schema.decodeEffect(stateSchema)(manifest.state).pipe(
    Effect.mapError(
      (cause) =>
        new CheckpointError({ path, reason: "State", detail: `its state is not the expected one: ${cause}`, cause })
    )
  )
  const tensors: Record<string, ReadonlyMap<string, Tensor>> = {}
  for (const stem of Object.keys(manifest.files)) {
    const content = yield* Safetensors.read(join(path, `${stem}.safetensors`)).pipe(
      Effect.mapError((cause) => new CheckpointError({ path, reason: "Corrupt", detail: cause.message, cause }))
    )
    tensors[stem] = content.tensors
  }
  return { directory: path, step: manifest.step, tensors, state, manifest }
})

interface Candidate {
  readonly name: string
  readonly step: number
}

// Newest first; of two with the same step, the one that replaces the other first.
const candidates = async (root: string): Promise<ReadonlyArray<Candidate>> => {
  const names = await readdir(root).catch((cause) => {
    if (isMissing(cause)) return []
    throw cause
  })
  return names
    .flatMap((name): ReadonlyArray<Candidate> => {
      const match = namePattern.exec(name)
      return match === null ? [] : [{ name, step: Number(match[1]) }]
    })
    .sort((a, b) => b.step - a.step || a.name.length - b.name.length)
}

const list = (root: string): Effect.Effect<ReadonlyArray<Candidate>, CheckpointError> =>
  Effect.tryPromise({
    try: () => candidates(root),
    catch: (cause) =>
      new CheckpointError({ path: root, reason: "Read", detail: `cannot read: ${AtomicFile.explain(cause)}`, cause })
  })

/**
 * Steps of the checkpoints under `root`, newest first, whole or not.
 *
 * @category decoding
 * @since 0.1.0
 */
export const steps: (root: string) => Effect.Effect<ReadonlyArray<number>, CheckpointError> = (root) =>
  Effect.map(list(root), (found) => [...new Set(found.map(({ step }) => step))])

/**
 * Reads the newest whole checkpoint under `root`, or nothing when there is none.
 *
 * **Details**
 *
 * A torn or corrupt checkpoint is skipped with a logged warning that names it and says why. One that is whole but from
 * another model, or with another state, is an error: training on from an older one would be a silent mistake.
 *
 * @category decoding
 * @since 0.1.0
 */
export const latest: <State = Schema.Json>(
  root: string,
  expected?: Expected<State>
) => Effect.Effect<Option.Option<Checkpoint<State>>, CheckpointError> = Effect.fn("Checkpoint.latest")(function* <
  State
>(root: string, expected: Expected<State> = {}) {
  for (const { name } of yield* list(root)) {
    const path = join(root, name)
    const checkpoint = yield* load(path, expected).pipe(
      Effect.map(Option.some),
      Effect.catchIf(
        ({ reason }) => reason === "Missing" || reason === "Torn" || reason === "Corrupt",
        (error) => Effect.as(Effect.logWarning(`skipped ${error.message}`), Option.none())
      )
    )
    if (Option.isSome(checkpoint)) return checkpoint
  }
  return Option.none()
})

const isLeftover = (name: string) => name.startsWith(temporaryPrefix)

// Renamed first, so that a crash in the middle leaves no torn checkpoint behind.
const remove = async (root: string, name: string): Promise<void> => {
  const doomed = join(root, `${temporaryPrefix}removed-${name}`)
  await rm(doomed, { recursive: true, force: true })
  await rename(join(root, name), doomed)
  await rm(doomed, { recursive: true, force: true })
}

const isJson = Schema.is(Schema.Json)
const isStem = Schema.is(Stem)

/**
 * Saves a checkpoint under `root` and returns its directory. Cannot be interrupted half-way.
 *
 * **Details**
 *
 * Old checkpoints are removed only after the new one is in place: with `keepLast`, the newest `keepLast` up to and including
 * this step stay, and those of later steps (left by a run that was resumed from further back) are not touched. Leftovers of a
 * killed run are removed. Fails with `Write` when the directory cannot be written or the disk is full, and with `State` when
 * a JSON part is not finite JSON.
 *
 * @category encoding
 * @since 0.1.0
 */
export const save: (
  root: string,
  content: Content,
  options?: { readonly keepLast?: number }
) => Effect.Effect<string, CheckpointError> = Effect.fn("Checkpoint.save")(function* (root, content, options = {}) {
  const { fingerprint, state, step, tensors } = content
  const { keepLast } = options
  if (keepLast !== undefined && !(keepLast >= 1)) throw new RangeError(`keepLast must be at least 1, got ${keepLast}`)
  const stem = Object.keys(tensors).find((stem) => !isStem(stem))
  if (stem !== undefined) throw new RangeError(`"${stem}" cannot name a file of tensors`)
  const { cursor = null, rng = null, seeds = {} } = content
  const path = join(root, directoryName(step))
  for (const [name, part] of Object.entries({ state, cursor, rng, seeds })) {
    if (isJson(part)) continue
    return yield* new CheckpointError({
      path,
      reason: "State",
      detail: `${name} is not JSON: numbers must be finite, and maps, typed arrays and undefined encoded first`
    })
  }
  yield* Effect.tryPromise({
    try: async () => {
      await AtomicFile.makeDirectory(root)
      for (const name of await readdir(root)) {
        if (isLeftover(name)) await rm(join(root, name), { recursive: true, force: true })
      }
      const temporary = join(root, `${temporaryPrefix}${directoryName(step)}`)
      try {
        await mkdir(temporary)
        const files: Record<string, AtomicFile.Written> = {}
        for (const [stem, group] of Object.entries(tensors)) {
          files[stem] = await AtomicFile.writeSynced(join(temporary, `${stem}.safetensors`), Safetensors.encode(group))
        }
        const manifest: Manifest = {
          format: formatVersion,
          step,
          fingerprint,
          seeds,
          cursor,
          rng,
          state,
          versions: { node: process.version, ...content.versions },
          files
        }
        await AtomicFile.writeSynced(join(temporary, manifestName), [Buffer.from(encodeManifest(manifest))])
        await AtomicFile.syncDirectory(temporary)
        const replaced = directoryName(step) + replacedSuffix
        const present = (await candidates(root)).map(({ name }) => name)
        if (present.includes(directoryName(step))) {
          if (present.includes(replaced)) await remove(root, replaced)
          await rename(path, join(root, replaced))
        }
        await rename(temporary, path)
        await AtomicFile.syncDirectory(resolve(root))
      } catch (cause) {
        await rm(temporary, { recursive: true, force: true }).catch(() => undefined)
        throw cause
      }
      const present = (await candidates(root)).map(({ name }) => name)
      for (const name of present) {
        if (present.includes(`${name}${replacedSuffix}`)) await remove(root, `${name}${replacedSuffix}`)
      }
      if (keepLast === undefined) return
      const older = (await candidates(root)).filter((other) => other.step < step)
      for (const { name } of older.slice(keepLast - 1)) await remove(root, name)
    },
    catch: (cause) =>
      new CheckpointError({ path, reason: "Write", detail: `cannot be saved: ${AtomicFile.explain(cause)}`, cause })
  }).pipe(Effect.uninterruptible)
  return path
})
