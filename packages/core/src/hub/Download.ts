/**
 * Models from the Hugging Face Hub, into the cache that Python's `huggingface_hub` uses too. The only module that imports
 * `@huggingface/hub`.
 *
 *     <cache>/models--owner--name/refs/main                   the commit that "main" was when it was last asked for
 *                                /blobs/<hash>                contents, by the hash that the Hub states for them
 *                                /blobs/<hash>.incomplete     the beginning of one, to go on from
 *                                /snapshots/<commit>/<file>   links to the blobs
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import { createReadStream } from "node:fs"
import { copyFile, open, readFile, rename, rm, stat, symlink, truncate } from "node:fs/promises"
import { dirname, join, posix, relative } from "node:path"
import { pipeline } from "node:stream/promises"
import type { ListFileEntry } from "@huggingface/hub"
import { Effect, Option, Schedule, Schema } from "effect"
import * as AtomicFile from "../AtomicFile.ts"
import * as Model from "../onnx/Model.ts"
import * as Progress from "../Progress.ts"
import * as Tokenizer from "../Tokenizer.ts"
import * as Safetensors from "./Safetensors.ts"

/**
 * Reports that a model could not be downloaded. `reason` is for programs, the message for people.
 *
 * @category errors
 * @since 0.1.0
 */
export class DownloadError extends Schema.TaggedError<DownloadError>()("DownloadError", {
  repo: Schema.String,
  reason: Schema.Literals([
    "InvalidName",
    "NotFound",
    "Unauthorised",
    "Gated",
    "Network",
    "Server",
    "Checksum",
    "Write",
    "NotCached"
  ]),
  detail: Schema.String,
  file: Schema.optionalKey(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `${this.repo}${this.file === undefined ? "" : `/${this.file}`}: ${this.detail}`
  }
}

/**
 * Where from, what, where to and how.
 *
 * @category models
 * @since 0.1.0
 */
export interface DownloadOptions {
  /** Branch, tag or commit; `"main"` by default. */
  readonly revision?: string | undefined
  /** ONNX file of the repository to take instead of the safetensors weights, such as `"onnx/model_q4.onnx"`. */
  readonly onnx?: string | undefined
  /** The Hub's cache; `HF_HUB_CACHE`, then `HF_HOME/hub`, then `~/.cache/huggingface/hub` by default. */
  readonly cacheDir?: string | undefined
  /** `HF_ENDPOINT`, then `https://huggingface.co` by default. */
  readonly hubUrl?: string | undefined
  /** For private and gated repositories: begins with `hf_`; `HF_TOKEN` by default. */
  readonly token?: string | undefined
  readonly fetch?: typeof globalThis.fetch | undefined
  /** Take what the cache has and never touch the network. */
  readonly offline?: boolean | undefined
  /** How often in a row to try again, without a byte gained, when the connection fails; 4 by default. */
  readonly retries?: number | undefined
}

interface Credentials {
  readonly hubUrl: string
  readonly fetch: typeof globalThis.fetch
  readonly accessToken?: string
}

interface Source {
  readonly repo: string
  readonly hubUrl: string
  readonly token: string | undefined
  readonly fetch: typeof globalThis.fetch
  readonly retries: number
  /** The graph to take; the safetensors weights if there is none. */
  readonly onnx: string | undefined
  /** Folder of the repository in the cache. */
  readonly folder: string
}

/** A file of the repository, with the hash that its content must have. */
interface Blob {
  readonly name: string
  readonly size: number
  /** SHA-256 of the content for large files, git's SHA-1 of a blob for the others. */
  readonly hash: string
}

const indexName = "model.safetensors.index.json"
const weightsName = "model.safetensors"

const otherFiles: ReadonlyArray<string> = ["config.json", "generation_config.json", ...Tokenizer.fileNames]

// ---------------------------------------------------------------------------------------------------------------------
// What the Hub answers
// ---------------------------------------------------------------------------------------------------------------------

/** What a refusal of the Hub means. Its codes are listed in huggingface_hub, `utils/_http.py`. */
const refusal = ({ repo, token }: Source, response: Response, file?: string): DownloadError => {
  const make = (reason: DownloadError["reason"], detail: string) =>
    new DownloadError({ repo, reason, detail, ...(file === undefined ? {} : { file }) })
  const { status } = response
  const problem = response.headers.get("X-Error-Code")
  if (problem === "GatedRepo") {
    return make("Gated", "its authors grant access one by one: ask for it on the model's page, then pass your token")
  }
  if (problem === "RepoNotFound") {
    return make("NotFound", "there is no such repository, or it is private and needs a token that may read it")
  }
  if (problem === "RevisionNotFound") return make("NotFound", "there is no such branch, tag or commit")
  if (status === 401 || status === 403) {
    const hint = token === undefined ? "pass a token, or set HF_TOKEN" : "the token may not read it"
    return make("Unauthorised", `access is refused (${status}): ${hint}`)
  }
  if (status === 404 || status === 410) return make("NotFound", `is not there (${status})`)
  if (status === 408 || status === 429 || status >= 500) {
    return make("Network", `the server answered ${status}; try again later`)
  }
  return make("Server", `the server answered ${status}`)
}

const failure =
  ({ repo }: Source, file?: string) =>
  (cause: unknown): DownloadError => {
    if (cause instanceof DownloadError) return cause
    const where = file === undefined ? {} : { file }
    // fetch reports every failure of the connection as a TypeError, with the reason as its cause
    const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause
    const told = inner instanceof Error ? inner.message : String(inner)
    if (told.includes("must start with 'hf_'")) {
      return new DownloadError({ repo, reason: "Unauthorised", detail: "a token begins with hf_", ...where })
    }
    if (cause instanceof SyntaxError) {
      return new DownloadError({ repo, reason: "Server", detail: "the server's answer is not JSON", ...where, cause })
    }
    return new DownloadError({ repo, reason: "Network", detail: `the connection failed: ${told}`, ...where, cause })
  }

/** `fetch` that rejects with what the refusal means, and stops when the fiber is interrupted. */
const checkedFetch =
  (source: Source, signal: AbortSignal): typeof globalThis.fetch =>
  async (input, init) => {
    const response = await source.fetch(input, { ...init, signal })
    if (response.ok) return response
    await response.body?.cancel()
    throw refusal(source, response)
  }

const library = Effect.promise(() => import("@huggingface/hub"))

const commitPattern = /^[0-9a-f]{40}$/

const retrying = <A>(source: Source, effect: Effect.Effect<A, DownloadError>): Effect.Effect<A, DownloadError> =>
  Effect.retry(effect, {
    while: (error) => error.reason === "Network",
    times: source.retries,
    schedule: Schedule.exponential("500 millis")
  })

/** The commit that a revision is now, and the files of that commit. */
const lookUp = Effect.fnUntraced(function* (source: Source, revision: string) {
  const hub = yield* library
  const { hubUrl, repo, token } = source
  const ask = <A>(run: (params: Credentials) => Promise<A>) =>
    retrying(
      source,
      Effect.tryPromise({
        try: (signal) =>
          run({ hubUrl, fetch: checkedFetch(source, signal), ...(token === undefined ? {} : { accessToken: token }) }),
        catch: failure(source)
      })
    )
  const { sha } = yield* ask((params) => hub.modelInfo({ ...params, name: repo, revision, additionalFields: ["sha"] }))
  if (typeof sha !== "string" || !commitPattern.test(sha)) {
    return yield* new DownloadError({ repo, reason: "Server", detail: "the server names no commit" })
  }
  const recursive = source.onnx !== undefined
  const files = yield* ask(async (params) => {
    const entries: Array<ListFileEntry> = []
    for await (const entry of hub.listFiles({ ...params, repo, revision: sha, recursive })) entries.push(entry)
    return entries
  })
  return { commit: sha, files }
})

const describe = (source: Source, { lfs, oid, path, size }: ListFileEntry): Effect.Effect<Blob, DownloadError> => {
  const hash = lfs?.oid ?? oid ?? ""
  // the hash becomes the name of a file
  return /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash) && Number.isSafeInteger(size)
    ? Effect.succeed({ name: path, size, hash })
    : Effect.fail(
        new DownloadError({
          repo: source.repo,
          reason: "Server",
          file: path,
          detail: "the server states no hash for it"
        })
      )
}

// ---------------------------------------------------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------------------------------------------------

const disk = <A>({ repo }: Source, file: string, run: () => Promise<A>): Effect.Effect<A, DownloadError> =>
  Effect.tryPromise({
    try: run,
    catch: (cause) =>
      new DownloadError({ repo, file, reason: "Write", detail: `cannot write: ${AtomicFile.explain(cause)}`, cause })
  })

/** Size in bytes, links followed; `undefined` where there is no such file. */
const sizeOf = (path: string): Effect.Effect<number | undefined> =>
  Effect.promise(() =>
    stat(path).then(
      ({ size }) => size,
      () => undefined
    )
  )

const hashOf = async (path: string, { hash, size }: Blob): Promise<string> => {
  const digest = createHash(hash.length === 64 ? "sha256" : "sha1")
  if (hash.length === 40) digest.update(`blob ${size}\0`)
  await pipeline(createReadStream(path), digest)
  return digest.digest("hex")
}

const urlPath = (name: string): string => name.split("/").map(encodeURIComponent).join("/")

/** Appends the rest of a file to what is there of it. Ends when the server ends, whether or not that was all of it. */
const transfer = (
  source: Source,
  commit: string,
  blob: Blob,
  partial: string,
  onBytes: (have: number) => Effect.Effect<void>
) =>
  Effect.gen(function* () {
    const { hubUrl, repo, token } = source
    const { name, size } = blob
    const have = (yield* sizeOf(partial)) ?? 0
    if (have === size) return
    const response = yield* Effect.tryPromise({
      try: (signal) =>
        checkedFetch(source, signal)(`${hubUrl}/${repo}/resolve/${commit}/${urlPath(name)}`, {
          headers: {
            ...(have > 0 ? { Range: `bytes=${have}-` } : {}),
            ...(token === undefined ? {} : { Authorization: `Bearer ${token}` })
          }
        }),
      catch: failure(source, name)
    })
    const resumed =
      response.status === 206 && response.headers.get("Content-Range")?.startsWith(`bytes ${have}-`) === true
    let at = resumed ? have : 0
    if (have > at) yield* disk(source, name, () => truncate(partial, 0))
    const reader = response.body?.getReader()
    if (reader === undefined) return
    yield* Effect.acquireUseRelease(
      disk(source, name, () => open(partial, "a")),
      (file) =>
        Effect.gen(function* () {
          while (true) {
            const chunk = yield* Effect.tryPromise({ try: () => reader.read(), catch: failure(source, name) })
            if (chunk.done) break
            at += chunk.value.byteLength
            if (at > size) {
              return yield* new DownloadError({
                repo,
                file: name,
                reason: "Checksum",
                detail: `is longer than ${size} bytes`
              })
            }
            yield* disk(source, name, () => file.appendFile(chunk.value))
            yield* onBytes(at)
          }
          yield* disk(source, name, () => file.sync())
        }),
      (file) =>
        Effect.promise(async () => {
          await file.close()
          await reader.cancel().catch(() => undefined)
        })
    )
  })

/** Downloads one file to its blob, going on from where an earlier attempt, or an earlier run, was cut off. */
const fetchBlob = Effect.fnUntraced(function* (
  source: Source,
  commit: string,
  blob: Blob,
  onBytes: (have: number) => Effect.Effect<void>
) {
  const { hash, name, size } = blob
  const path = join(source.folder, "blobs", hash)
  if ((yield* sizeOf(path)) === size) return yield* onBytes(size)
  const partial = `${path}.incomplete`
  yield* disk(source, name, () => AtomicFile.makeDirectory(dirname(path)))
  const discard = disk(source, name, () => rm(partial, { force: true }))
  if (((yield* sizeOf(partial)) ?? 0) > size) yield* discard

  // What an earlier run left may be wrong itself, so a wrong sum counts only once all bytes are of this run.
  let fresh = ((yield* sizeOf(partial)) ?? 0) === 0
  let failures = 0
  while (true) {
    const before = (yield* sizeOf(partial)) ?? 0
    const error = yield* transfer(source, commit, blob, partial, onBytes).pipe(Effect.flip, Effect.option)
    const after = (yield* sizeOf(partial)) ?? 0
    if (Option.isSome(error) && error.value.reason !== "Network") {
      if (error.value.reason === "Checksum") yield* discard
      return yield* error.value
    }
    if (after < size) {
      failures = after > before ? 0 : failures + 1
      if (failures > source.retries || (source.retries === 0 && Option.isSome(error))) {
        return yield* Option.getOrElse(
          error,
          () =>
            new DownloadError({
              repo: source.repo,
              file: name,
              reason: "Network",
              detail: `the server sent ${after} of ${size} bytes; try again to go on from there`
            })
        )
      }
      yield* Effect.sleep(500 * 2 ** failures)
      continue
    }
    const found = yield* disk(source, name, () => hashOf(partial, blob))
    if (found === hash) break
    yield* discard
    if (fresh) {
      return yield* new DownloadError({
        repo: source.repo,
        file: name,
        reason: "Checksum",
        detail: `was damaged on its way: its hash is ${found}, not ${hash}; nothing was kept, try again`
      })
    }
    fresh = true
  }
  yield* disk(source, name, () => rename(partial, path))
})

/** Makes `snapshots/<commit>/<name>` a link to the blob, or a copy of it where the system has no links. */
const link = (source: Source, commit: string, { hash, name }: Blob): Effect.Effect<void, DownloadError> =>
  disk(source, name, async () => {
    const target = join(source.folder, "blobs", hash)
    const path = join(source.folder, "snapshots", commit, name)
    if (await stat(path).catch(() => undefined)) return
    await AtomicFile.makeDirectory(dirname(path))
    const temporary = await AtomicFile.temporary(path)
    try {
      await symlink(relative(dirname(path), target), temporary).catch(() => copyFile(target, temporary))
      await rename(temporary, path)
    } catch (cause) {
      await rm(temporary, { force: true }).catch(() => undefined)
      throw cause
    }
  })

const shardsOf = (path: string): Effect.Effect<ReadonlyArray<string> | undefined> =>
  Effect.promise(() => readFile(path, "utf8").catch(() => "")).pipe(
    Effect.map((text) => {
      const index = Safetensors.parseIndex(text)
      return Option.isNone(index) ? undefined : [...new Set(index.value.values())].sort()
    })
  )

/**
 * The files of the repository in which the graph `onnx`, read at `path`, keeps its weights; `undefined` where it cannot be
 * read or names others than files beside it.
 */
const externalFilesOf = (path: string, onnx: string): Effect.Effect<ReadonlyArray<string> | undefined> =>
  Model.externalFiles(path).pipe(
    Effect.map((names) =>
      names.every((name) => /^\w[\w.-]*$/.test(name))
        ? names.map((name) => posix.join(posix.dirname(onnx), name))
        : undefined
    ),
    Effect.orElseSucceed(() => undefined)
  )

/** Whether a snapshot has the configuration and all weights; tokenizer files are optional. */
const isComplete = Effect.fnUntraced(function* (snapshot: string, onnx: string | undefined) {
  const there = (name: string) => Effect.map(sizeOf(join(snapshot, name)), (size) => size !== undefined)
  if (!(yield* there("config.json"))) return false
  if (onnx === undefined && (yield* there(weightsName))) return true
  const parts = yield* onnx === undefined
    ? shardsOf(join(snapshot, indexName))
    : externalFilesOf(join(snapshot, onnx), onnx)
  if (parts === undefined) return false
  for (const name of parts) if (!(yield* there(name))) return false
  return true
})

/** The snapshot that the cache has of a revision, if it has all of it. */
const cached = Effect.fnUntraced(function* ({ folder, onnx }: Source, revision: string) {
  const commit = commitPattern.test(revision)
    ? revision
    : yield* Effect.promise(() => readFile(join(folder, "refs", revision), "utf8").catch(() => ""))
  const snapshot = join(folder, "snapshots", commit.trim())
  const known = commitPattern.test(commit.trim()) && (yield* isComplete(snapshot, onnx))
  return known ? Option.some(snapshot) : Option.none()
})

const online = Effect.fnUntraced(function* (source: Source, revision: string) {
  const { folder, onnx, repo } = source
  const { commit, files } = yield* lookUp(source, revision)
  const entries = new Map(files.filter(({ type }) => type === "file").map((entry) => [entry.path, entry] as const))
  const missing = (file: string, detail: string) => new DownloadError({ repo, file, reason: "NotFound", detail })
  const wanted = Effect.fnUntraced(function* (names: ReadonlyArray<string>, namedIn = indexName) {
    const blobs: Array<Blob> = []
    for (const name of names) {
      const entry = entries.get(name)
      if (entry === undefined) return yield* missing(name, `the repository names it in ${namedIn} but lacks it`)
      blobs.push(yield* describe(source, entry))
    }
    return blobs
  })
  const kilobytes = (bytes: number) => Math.ceil(bytes / 1000)
  const take = Effect.fnUntraced(function* (blobs: ReadonlyArray<Blob>) {
    const total = blobs.reduce((sum, { size }) => sum + size, 0)
    const task = yield* Progress.start({ label: `download ${repo} (kB)`, total: kilobytes(total) })
    let done = 0
    for (const blob of blobs) {
      yield* fetchBlob(source, commit, blob, (have) => task.update(kilobytes(done + have)))
      yield* link(source, commit, blob)
      done += blob.size
    }
  }, Effect.scoped)

  if (!entries.has("config.json")) return yield* missing("config.json", "the repository has none, so it is no model")
  const blobs = yield* wanted(otherFiles.filter((name) => entries.has(name)))
  if (onnx !== undefined) {
    if (!entries.has(onnx)) {
      const graphs = [...entries.keys()].filter((name) => name.endsWith(".onnx"))
      const others = graphs.length === 0 ? "holds no .onnx file" : `has ${graphs.join(", ")}`
      return yield* missing(onnx, `is not there; the repository ${others}`)
    }
    const [graph] = yield* wanted([onnx])
    yield* take([...blobs, graph!])
    const parts = yield* externalFilesOf(join(folder, "blobs", graph!.hash), onnx)
    if (parts === undefined) {
      const detail = "refers to weights in files that do not lie beside it"
      return yield* new DownloadError({ repo, file: onnx, reason: "Server", detail })
    }
    if (parts.length > 0) yield* take(yield* wanted(parts, onnx))
  } else if (entries.has(weightsName)) {
    yield* take([...blobs, ...(yield* wanted([weightsName]))])
  } else if (entries.has(indexName)) {
    const [index] = yield* wanted([indexName])
    yield* fetchBlob(source, commit, index!, () => Effect.void)
    const shards = yield* shardsOf(join(folder, "blobs", index!.hash))
    // A name must not lead out of the snapshot; only plain ones are looked up among the files of the repository.
    if (shards === undefined || shards.length === 0 || shards.some((name) => !/^[\w.-]+\.safetensors$/.test(name))) {
      return yield* new DownloadError({ repo, file: indexName, reason: "Server", detail: "lists no safetensors files" })
    }
    yield* take([...blobs, index!, ...(yield* wanted(shards))])
  } else {
    return yield* missing(
      weightsName,
      "the repository has no weights as safetensors; convert them, take another one, or name an ONNX file of it (onnx)"
    )
  }
  if (revision !== commit) {
    const path = join(folder, "refs", revision)
    yield* AtomicFile.write(path, [new TextEncoder().encode(commit)]).pipe(
      Effect.mapError(({ cause, message }) => new DownloadError({ repo, reason: "Write", detail: message, cause }))
    )
  }
  return join(folder, "snapshots", commit)
})

/** `owner/name`, or the bare name of an old repository. */
const isRepository = (repo: string): boolean =>
  /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/.test(repo) && !/\.\.|--|\.git$/.test(repo)

/** Whether a branch, tag, commit or file can be named so: a path in the cache that leads nowhere else. */
const isPath = (path: string): boolean =>
  /^[\w.-]+(\/[\w.-]+)*$/.test(path) && !path.split("/").some((part) => /^\.+$/.test(part))

/**
 * Downloads a model from the Hugging Face Hub and returns its directory, ready for `Pretrained.load`; with `onnx`, for
 * `OnnxPolicy.load` or `OnnxEmbedding.load`.
 *
 * **Details**
 *
 * Takes `config.json`, `generation_config.json`, the tokenizer and the weights as safetensors, whole or sharded; with
 * `onnx`, that file instead of safetensors, and the files beside it in which it keeps weights (`model.onnx_data`). Every
 * file is checked against the hash that the Hub states. What is in the cache already is not downloaded again, an
 * interrupted file goes on where it stopped, and a failing connection is tried again with growing pauses. When the Hub
 * cannot be reached, or with `offline`, the cached copy of the revision is returned if it is complete.
 *
 * Fails with `NotFound` (also for private repositories without a token), `Unauthorised`, `Gated`, `Network`, `Checksum`,
 * `Write` (no permission, disk full), `NotCached`, or `Server` for an answer that makes no sense. Where the file named by
 * `onnx` is not found, the message lists those that there are.
 *
 * **Example** (Asking a judge that somebody exported)
 *
 * ```ts
 * import { Pretrained } from "@attune/core/hub"
 * import { OnnxPolicy } from "@attune/core/ort"
 * import { Effect } from "effect"
 *
 * const judge = (repo: string, file: string) =>
 *   Pretrained.download(repo, { onnx: file }).pipe(
 *     Effect.flatMap((directory) => OnnxPolicy.load({ directory, file }))
 *   )
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const download: (repo: string, options?: DownloadOptions) => Effect.Effect<string, DownloadError> = Effect.fn(
  "Pretrained.download"
)(function* (repo, options = {}) {
  const { onnx, retries = 4, revision = "main" } = options
  const invalid = (detail: string) => new DownloadError({ repo, reason: "InvalidName", detail })
  if (!isRepository(repo)) return yield* invalid("is not the name of a repository, such as owner/name")
  if (!isPath(revision)) return yield* invalid(`${JSON.stringify(revision)} is not a branch, tag or commit`)
  if (onnx !== undefined && !(isPath(onnx) && onnx.endsWith(".onnx"))) {
    return yield* invalid(`${JSON.stringify(onnx)} is not an ONNX file of a repository, such as onnx/model.onnx`)
  }
  const cacheDir = options.cacheDir ?? (yield* library).getHFHubCachePath()
  const source: Source = {
    repo,
    hubUrl: (options.hubUrl ?? process.env["HF_ENDPOINT"] ?? "https://huggingface.co").replace(/\/+$/, ""),
    token: options.token ?? process.env["HF_TOKEN"],
    fetch: options.fetch ?? globalThis.fetch,
    retries,
    onnx,
    folder: join(cacheDir, `models--${repo.replace("/", "--")}`)
  }
  // A commit never changes, so a complete copy needs no question.
  if (options.offline === true || commitPattern.test(revision)) {
    const known = yield* cached(source, revision)
    if (Option.isSome(known)) return known.value
    if (options.offline === true) {
      const what = onnx === undefined ? `revision ${revision}` : `${onnx} of revision ${revision}`
      const detail = `${what} is not complete in ${cacheDir}; download it once with a connection`
      return yield* new DownloadError({ repo, reason: "NotCached", detail })
    }
  }
  return yield* online(source, revision).pipe(
    Effect.catch((error) =>
      error.reason !== "Network"
        ? Effect.fail(error)
        : Effect.flatMap(
            cached(source, revision),
            Option.match({
              onNone: () => Effect.fail(error),
              onSome: (snapshot) =>
                Effect.as(Effect.logWarning(`${error.message}; the copy in ${snapshot} is used`), snapshot)
            })
          )
    )
  )
})
