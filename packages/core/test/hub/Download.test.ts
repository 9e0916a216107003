import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { hostname, tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Result, type Scope } from "effect"
import { afterAll } from "vitest"
import * as Download from "../../src/hub/Download.ts"
import * as Pretrained from "../../src/hub/Pretrained.ts"
import * as Model from "../../src/onnx/Model.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OnnxEmbedding from "../../src/ort/OnnxEmbedding.ts"
import * as OnnxPolicy from "../../src/ort/OnnxPolicy.ts"
import * as Progress from "../../src/Progress.ts"
import * as TinyModel from "./TinyModel.ts"

const directory = fs.mkdtempSync(join(tmpdir(), "attune-download-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))
let serial = 0
const freshCache = () => join(directory, `cache-${serial++}`)

const commit = "0123456789abcdef0123456789abcdef01234567"

interface Hub {
  readonly url: string
  /** Every request, as `GET /path`, with the range it asked for. */
  readonly requests: Array<string>
  readonly files: Map<string, Uint8Array>
  /** Asked before each request; true when it has answered. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean
}

const sha1 = (bytes: Uint8Array) => createHash("sha1").update(`blob ${bytes.byteLength}\0`).update(bytes).digest("hex")
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex")
const isLarge = (path: string) => /\.(safetensors|onnx|onnx_data\w*)$/.test(path)

/** A server on this machine that plays the part of the Hub for the repository `owner/tiny`. */
const hub = (files: ReadonlyMap<string, Uint8Array>): Effect.Effect<Hub, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<{ readonly hub: Hub; readonly close: () => void }>((done) => {
          const state: Omit<Hub, "url"> = { requests: [], files: new Map(files), intercept: () => false }
          const server = createServer((request, response) => {
            const url = new URL(request.url!, "http://hub")
            const range = request.headers.range === undefined ? "" : ` ${request.headers.range}`
            state.requests.push(`${request.method} ${url.pathname}${range}`)
            if (state.intercept(request, response)) return
            const json = (value: unknown) =>
              response.setHeader("Content-Type", "application/json").end(JSON.stringify(value))
            const [, resolved] = /^\/owner\/tiny\/resolve\/[0-9a-f]{40}\/(.+)$/.exec(url.pathname) ?? []
            if (url.pathname.startsWith("/api/models/owner/tiny/revision/")) {
              json({ _id: "1", id: "owner/tiny", sha: commit, lastModified: "2026-01-01T00:00:00Z" })
            } else if (url.pathname === `/api/models/owner/tiny/tree/${commit}`) {
              const recursive = url.searchParams.get("recursive") === "true"
              const paths = [...state.files.keys()]
              const folders = new Set(paths.filter((path) => path.includes("/")).map((path) => path.split("/")[0]!))
              json([
                ...[...folders].map((path) => ({ type: "directory", path, size: 0, oid: "0".repeat(40) })),
                ...[...state.files]
                  .filter(([path]) => recursive || !path.includes("/"))
                  .map(([path, bytes]) => ({
                    type: "file",
                    path,
                    size: bytes.byteLength,
                    oid: sha1(bytes),
                    ...(isLarge(path) ? { lfs: { oid: sha256(bytes), size: bytes.byteLength } } : {})
                  }))
              ])
            } else if (resolved !== undefined && state.files.has(resolved)) {
              const bytes = state.files.get(resolved)!
              const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0)
              if (from >= bytes.byteLength) return response.writeHead(416).end()
              if (from > 0) {
                response.writeHead(206, {
                  "Content-Range": `bytes ${from}-${bytes.byteLength - 1}/${bytes.byteLength}`
                })
              }
              response.end(bytes.subarray(from))
            } else {
              response.writeHead(404, { "X-Error-Code": "RepoNotFound" }).end()
            }
          })
          server.listen(0, "127.0.0.1", () => {
            const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
            const close = () => {
              server.closeAllConnections()
              server.close()
            }
            done({ hub: Object.assign(state, { url }), close })
          })
        })
    ),
    ({ close }) => Effect.sync(close)
  ).pipe(Effect.map(({ hub }) => hub))

const quiet = Effect.provide(Progress.layer({ mode: "quiet" }))
const blobRequests = ({ requests }: Hub) => requests.filter((line) => line.includes("/resolve/"))

const exported = join(import.meta.dirname, "../fixtures/exported")
const fixture = (name: string, file: string) => fs.readFileSync(join(exported, name, file))

/** The files of an exported decoder whose graph, `onnx/model_q4.onnx`, keeps its weights in two files beside it. */
const exportedFiles = Effect.gen(function* () {
  const path = join(fs.mkdtempSync(join(directory, "export-")), "model_q4.onnx")
  yield* Model.write(path, yield* Model.read(join(exported, "llama/onnx/model_q4.onnx")), { externalAbove: 0 })
  const graph = Result.getOrThrow(Model.decode(fs.readFileSync(path)))
  const data = fs.readFileSync(`${path}_data`)
  const locations = graph.graph!.initializer.flatMap(({ externalData }) =>
    externalData.filter(({ key }) => key === "location")
  )
  assert.isAbove(locations.length, 1)
  for (const location of locations.slice(1)) location.value = "model_q4.onnx_data_1"
  return new Map<string, Uint8Array>([
    ...["config.json", "tokenizer.json", "tokenizer_config.json"].map(
      (name) => [name, fixture("llama", name)] as const
    ),
    ["generation_config.json", TinyModel.json({ eos_token_id: 2 })],
    ["onnx/model_q4.onnx", Model.toBytes(graph)],
    ["onnx/model_q4.onnx_data", data],
    ["onnx/model_q4.onnx_data_1", data]
  ])
})

/** Other files of the same repository, none of which a download of `onnx/model_q4.onnx` takes. */
const unwanted: ReadonlyArray<readonly [string, Uint8Array]> = [
  ["README.md", Buffer.from("hello")],
  ["model.safetensors", TinyModel.files().get("model.safetensors")!],
  ["onnx/model.onnx", Buffer.from("another")],
  ["onnx/model.onnx_data", Buffer.from("its data")]
]

describe("download", () => {
  it.live("lays a model out as the Hub's cache does, and asks for no blob twice", () =>
    Effect.gen(function* () {
      const server = yield* hub(new Map([...TinyModel.files(), ["README.md", Buffer.from("hello")]]))
      const options = { hubUrl: server.url, cacheDir: freshCache() }
      const folder = join(options.cacheDir, "models--owner--tiny")
      // what a killed process left while it made a link
      const { pid } = spawnSync(process.execPath, ["--eval", ""])
      fs.mkdirSync(join(folder, "snapshots", commit), { recursive: true })
      fs.symlinkSync("gone", join(folder, "snapshots", commit, `.config.json.${hostname()}-${pid}-0a1b2c3d-0.tmp`))
      const snapshot = yield* Download.download("owner/tiny", options)
      assert.strictEqual(snapshot, join(folder, "snapshots", commit))
      assert.strictEqual(fs.readFileSync(join(folder, "refs/main"), "utf8"), commit)
      assert.deepStrictEqual(fs.readdirSync(snapshot).sort(), [...TinyModel.files().keys()].sort())
      for (const [name, bytes] of TinyModel.files()) {
        const hash = name.endsWith(".safetensors") ? sha256(bytes) : sha1(bytes)
        assert.strictEqual(fs.readlinkSync(join(snapshot, name)), join("../../blobs", hash))
        assert.isTrue(Buffer.from(bytes).equals(fs.readFileSync(join(snapshot, name))), name)
      }
      // snapshots link into blobs, which is inside the repository's folder
      const model = yield* Pretrained.loadWeights(snapshot)
      assert.strictEqual(model.decoder.modelType, "gpt2")

      const before = blobRequests(server).length
      assert.strictEqual(before, TinyModel.files().size)
      assert.strictEqual(yield* Download.download("owner/tiny", options), snapshot)
      assert.strictEqual(blobRequests(server).length, before)
      const asked = server.requests.length
      assert.strictEqual(yield* Download.download("owner/tiny", { ...options, revision: commit }), snapshot)
      assert.strictEqual(server.requests.length, asked, "a commit in the cache needs no request")
    }).pipe(quiet)
  )

  it.live("goes on where the connection was cut, within one call", () =>
    Effect.gen(function* () {
      const server = yield* hub(TinyModel.files())
      const weights = server.files.get("model.safetensors")!
      const half = weights.byteLength >> 1
      let cuts = 0
      server.intercept = (request, response) => {
        if (!request.url!.endsWith("model.safetensors") || cuts++ > 0) return false
        response.writeHead(200, { "Content-Length": weights.byteLength })
        response.write(weights.subarray(0, half), () => setTimeout(() => response.destroy(), 20))
        return true
      }
      const shown: Array<string> = []
      const sink = { write: (text: string) => shown.push(text), isTTY: false, columns: 80 }
      const snapshot = yield* Download.download("owner/tiny", { hubUrl: server.url, cacheDir: freshCache() }).pipe(
        Effect.provide(Progress.layer({ mode: "lines", sink }))
      )
      assert.isTrue(Buffer.from(weights).equals(fs.readFileSync(join(snapshot, "model.safetensors"))))
      assert.include(blobRequests(server).join("\n"), `model.safetensors bytes=${half}-`)
      assert.include(shown.at(-1), "100%")
    })
  )

  it.live("goes on in a later run, and starts over when what was there is wrong", () =>
    Effect.gen(function* () {
      const server = yield* hub(TinyModel.files())
      const weights = server.files.get("model.safetensors")!
      for (const [start, ranged] of [
        [weights.slice(0, 100), true],
        [new Uint8Array(100).fill(7), true],
        [new Uint8Array(weights.byteLength), false],
        [new Uint8Array(weights.byteLength + 5), false]
      ] as const) {
        server.requests.length = 0
        const cacheDir = freshCache()
        const blobs = join(cacheDir, "models--owner--tiny/blobs")
        fs.mkdirSync(blobs, { recursive: true })
        fs.writeFileSync(join(blobs, `${sha256(weights)}.incomplete`), start)
        const snapshot = yield* Download.download("owner/tiny", { hubUrl: server.url, cacheDir })
        assert.isTrue(Buffer.from(weights).equals(fs.readFileSync(join(snapshot, "model.safetensors"))))
        assert.strictEqual(blobRequests(server).join("\n").includes("bytes=100-"), ranged)
        assert.deepStrictEqual(
          fs.readdirSync(blobs).filter((name) => name.endsWith(".incomplete")),
          []
        )
      }
    }).pipe(quiet)
  )

  it.live("takes shards that the index names", () =>
    Effect.gen(function* () {
      const server = yield* hub(TinyModel.shardedFiles())
      const snapshot = yield* Download.download("owner/tiny", { hubUrl: server.url, cacheDir: freshCache() })
      const model = yield* Pretrained.loadWeights(snapshot)
      assert.strictEqual(model.weights.size, TinyModel.decoder().parameters.length)
    }).pipe(quiet)
  )

  it.live("refuses an index that leads out of the repository or names what is not there", () =>
    Effect.gen(function* () {
      for (const [shard, reason] of [
        ["../../../secret.safetensors", "Server"],
        ["/etc/passwd", "Server"],
        ["model-00009-of-00009.safetensors", "NotFound"]
      ] as const) {
        const files = TinyModel.shardedFiles()
        files.set("model.safetensors.index.json", Buffer.from(JSON.stringify({ weight_map: { a: shard } })))
        const server = yield* hub(files)
        const error = yield* Effect.flip(
          Download.download("owner/tiny", { hubUrl: server.url, cacheDir: freshCache() })
        )
        assert.strictEqual(error.reason, reason, error.message)
      }
    }).pipe(quiet)
  )

  it.live("says who refused what", () =>
    Effect.gen(function* () {
      const server = yield* hub(TinyModel.files())
      const failureOf = (status: number, code?: string, options: Download.DownloadOptions = {}) => {
        server.intercept = (_request, response) => {
          response.writeHead(status, code === undefined ? {} : { "X-Error-Code": code }).end()
          return true
        }
        return Download.download("owner/tiny", {
          hubUrl: server.url,
          cacheDir: freshCache(),
          retries: 0,
          ...options
        }).pipe(
          Effect.flip,
          Effect.map(({ reason }) => reason)
        )
      }
      assert.strictEqual(yield* failureOf(404), "NotFound")
      assert.strictEqual(yield* failureOf(404, "RevisionNotFound"), "NotFound")
      assert.strictEqual(yield* failureOf(401, "RepoNotFound"), "NotFound")
      assert.strictEqual(yield* failureOf(401), "Unauthorised")
      assert.strictEqual(yield* failureOf(403), "Unauthorised")
      assert.strictEqual(yield* failureOf(403, "GatedRepo"), "Gated")
      assert.strictEqual(yield* failureOf(503), "Network")
      assert.strictEqual(yield* failureOf(418), "Server")
      assert.strictEqual(yield* failureOf(200), "Server", "an empty answer")
      const asked = server.requests.length
      assert.strictEqual(yield* failureOf(200, undefined, { token: "secret" }), "Unauthorised")
      assert.strictEqual(server.requests.length, asked, "a token of another kind is sent nowhere")
    }).pipe(quiet)
  )

  it.live("tries a failing server again, and passes the token on", () =>
    Effect.gen(function* () {
      const server = yield* hub(TinyModel.files())
      const tokens = new Set<string | undefined>()
      let refused = 0
      server.intercept = (request, response) => {
        tokens.add(request.headers.authorization)
        if (refused++ > 0) return false
        response.writeHead(502).end()
        return true
      }
      yield* Download.download("owner/tiny", { hubUrl: server.url, cacheDir: freshCache(), token: "hf_test" })
      assert.deepStrictEqual([...tokens], ["Bearer hf_test"])
    }).pipe(quiet)
  )

  it.live("keeps nothing of a file whose hash is wrong", () =>
    Effect.gen(function* () {
      const server = yield* hub(TinyModel.files())
      const cacheDir = freshCache()
      server.intercept = (request, response) => {
        if (!request.url!.endsWith("model.safetensors")) return false
        const damaged = Uint8Array.from(server.files.get("model.safetensors")!)
        damaged[200]! ^= 1
        response.end(damaged)
        return true
      }
      const error = yield* Effect.flip(Download.download("owner/tiny", { hubUrl: server.url, cacheDir }))
      assert.strictEqual(error.reason, "Checksum")
      assert.strictEqual(error.file, "model.safetensors")
      const folder = join(cacheDir, "models--owner--tiny")
      const hash = sha256(server.files.get("model.safetensors")!)
      assert.isFalse(fs.readdirSync(join(folder, "blobs")).some((name) => name.startsWith(hash)))
      assert.isFalse(fs.existsSync(join(folder, "refs/main")))
      const offline = yield* Effect.flip(Download.download("owner/tiny", { cacheDir, offline: true }))
      assert.strictEqual(offline.reason, "NotCached")
    }).pipe(quiet)
  )

  it.live("works without a connection when the copy is complete", () =>
    Effect.gen(function* () {
      const cacheDir = freshCache()
      const [snapshot, hubUrl] = yield* Effect.scoped(
        Effect.gen(function* () {
          const server = yield* hub(TinyModel.files())
          return [yield* Download.download("owner/tiny", { hubUrl: server.url, cacheDir }), server.url] as const
        })
      )
      const nowhere = { hubUrl, cacheDir, retries: 0 }
      assert.strictEqual(yield* Download.download("owner/tiny", nowhere), snapshot)
      assert.strictEqual(yield* Download.download("owner/tiny", { cacheDir, offline: true }), snapshot)
      assert.strictEqual(yield* Pretrained.resolve("owner/tiny", nowhere), snapshot)
      const other = yield* Effect.flip(Download.download("owner/tiny", { ...nowhere, revision: "v2" }))
      assert.strictEqual(other.reason, "Network")
      fs.rmSync(join(snapshot, "model.safetensors"))
      assert.strictEqual((yield* Effect.flip(Download.download("owner/tiny", nowhere))).reason, "Network")
    }).pipe(quiet)
  )

  it.effect("refuses names that are no repositories, revisions or ONNX files", () =>
    Effect.gen(function* () {
      for (const repo of ["../tiny", "owner/..", "a/b/c", "/etc", "owner/na me", "models--x/y", ""]) {
        const error = yield* Effect.flip(Download.download(repo, { cacheDir: directory, offline: true }))
        assert.strictEqual(error.reason, "InvalidName", repo)
      }
      for (const revision of ["../main", "refs/../../x", "/etc", "a b", ""]) {
        const error = yield* Effect.flip(
          Download.download("owner/tiny", { cacheDir: directory, revision, offline: true })
        )
        assert.strictEqual(error.reason, "InvalidName", revision)
      }
      for (const onnx of [
        "../model.onnx",
        "onnx/../../model.onnx",
        "/etc/model.onnx",
        "onnx\\model.onnx",
        "onnx",
        ""
      ]) {
        const error = yield* Effect.flip(Download.download("owner/tiny", { cacheDir: directory, onnx, offline: true }))
        assert.strictEqual(error.reason, "InvalidName", onnx)
      }
    })
  )

  it.live("reports a cache that cannot be written", () =>
    Effect.gen(function* () {
      const server = yield* hub(TinyModel.files())
      const file = join(directory, "a-file")
      fs.writeFileSync(file, "")
      const error = yield* Effect.flip(Download.download("owner/tiny", { hubUrl: server.url, cacheDir: file }))
      assert.strictEqual(error.reason, "Write", error.message)
    }).pipe(quiet)
  )

  it.live("takes one ONNX file with its external data instead of the weights, and asks for no blob twice", () =>
    Effect.gen(function* () {
      const files = yield* exportedFiles
      const server = yield* hub(new Map([...files, ...unwanted]))
      const options = { hubUrl: server.url, cacheDir: freshCache(), onnx: "onnx/model_q4.onnx" }
      const data = server.files.get("onnx/model_q4.onnx_data_1")!
      let cuts = 0
      server.intercept = (request, response) => {
        if (!request.url!.endsWith("/onnx/model_q4.onnx_data_1") || cuts++ > 0) return false
        response.writeHead(200, { "Content-Length": data.byteLength })
        response.write(data.subarray(0, 100), () => setTimeout(() => response.destroy(), 20))
        return true
      }
      // the other data file has the same contents, so it would leave the blob that is to be cut off
      server.files.set("onnx/model_q4.onnx_data", Buffer.concat([data, Buffer.of(0)]))
      const snapshot = yield* Download.download("owner/tiny", options)
      const names = (fs.readdirSync(snapshot, { recursive: true }) as Array<string>).filter((name) => name !== "onnx")
      assert.deepStrictEqual(names.sort(), [...files.keys()].sort())
      for (const name of names) {
        const bytes = server.files.get(name)!
        const hash = isLarge(name) ? sha256(bytes) : sha1(bytes)
        const up = name.includes("/") ? "../../.." : "../.."
        assert.strictEqual(fs.readlinkSync(join(snapshot, name)), join(up, "blobs", hash))
        assert.isTrue(Buffer.from(bytes).equals(fs.readFileSync(join(snapshot, name))), name)
      }
      assert.include(blobRequests(server).join("\n"), "/onnx/model_q4.onnx_data_1 bytes=100-")

      const before = blobRequests(server).length
      assert.strictEqual(before, files.size + 1)
      assert.strictEqual(yield* Download.download("owner/tiny", options), snapshot)
      assert.strictEqual(blobRequests(server).length, before)
    }).pipe(quiet)
  )

  it.live("makes a directory of which a policy says what the export itself says", () =>
    Effect.gen(function* () {
      const file = "onnx/model_q4.onnx"
      const server = yield* hub(new Map([...(yield* exportedFiles), ...unwanted]))
      const snapshot = yield* Download.download("owner/tiny", {
        hubUrl: server.url,
        cacheDir: freshCache(),
        onnx: file
      })
      const textsOf = Effect.fnUntraced(function* (source: string) {
        const policy = yield* OnnxPolicy.load({ directory: source, file })
        const completions = yield* policy.sample(["the customer", "a"], {
          maxNewTokens: 12,
          temperature: 0,
          stopTokens: []
        })
        return completions.map(({ text }) => text)
      })
      const texts = yield* textsOf(join(exported, "llama"))
      assert.isTrue(texts.every((text) => text.length > 0))
      assert.deepStrictEqual(yield* textsOf(snapshot), texts)
    }).pipe(
      Effect.scoped,
      quiet,
      Effect.provide(Layer.merge(NodeServices.layer, Device.layerInProcess({ provider: "cpu", threads: 1 })))
    )
  )

  it.live("makes a directory of which an encoder embeds as the export itself does", () =>
    Effect.gen(function* () {
      const names = ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"]
      const server = yield* hub(new Map(names.map((name) => [name, fixture("bert", name)])))
      const snapshot = yield* Download.download("owner/tiny", {
        hubUrl: server.url,
        cacheDir: freshCache(),
        onnx: "onnx/model.onnx"
      })
      const rowsOf = (source: string) =>
        Effect.flatMap(OnnxEmbedding.load(source), ({ embed }) => embed(["the customer", "a"]))
      assert.deepStrictEqual(yield* rowsOf(snapshot), yield* rowsOf(join(exported, "bert")))
    }).pipe(
      Effect.scoped,
      quiet,
      Effect.provide(Layer.merge(NodeServices.layer, Device.layerInProcess({ provider: "cpu", threads: 1 })))
    )
  )

  it.live("takes an ONNX file from the cache only with all of its external data", () =>
    Effect.gen(function* () {
      const files = yield* exportedFiles
      const server = yield* hub(new Map([...files, ...unwanted]))
      const options = { hubUrl: server.url, cacheDir: freshCache() }
      const onnx = "onnx/model_q4.onnx"
      const offline = (wanted: string | undefined) =>
        Download.download("owner/tiny", { cacheDir: options.cacheDir, offline: true, onnx: wanted })

      const snapshot = yield* Download.download("owner/tiny", options)
      const absent = yield* Effect.flip(offline(onnx))
      assert.strictEqual(absent.reason, "NotCached")
      assert.include(absent.message, "onnx/model_q4.onnx of revision main is not complete")
      assert.strictEqual(yield* Download.download("owner/tiny", { ...options, onnx }), snapshot)
      assert.strictEqual(yield* offline(onnx), snapshot)
      assert.strictEqual(yield* offline(undefined), snapshot)

      const asked = server.requests.length
      assert.strictEqual(yield* Download.download("owner/tiny", { ...options, onnx, revision: commit }), snapshot)
      assert.strictEqual(server.requests.length, asked, "a commit in the cache needs no request")
      const part = join(snapshot, "onnx/model_q4.onnx_data_1")
      fs.rmSync(part)
      assert.strictEqual((yield* Effect.flip(offline(onnx))).reason, "NotCached")
      yield* Download.download("owner/tiny", { ...options, onnx, revision: commit })
      assert.isTrue(fs.existsSync(part))
      assert.strictEqual(yield* offline(undefined), snapshot)
      fs.rmSync(join(snapshot, "model.safetensors"))
      assert.strictEqual((yield* Effect.flip(offline(undefined))).reason, "NotCached")
      assert.strictEqual(yield* offline(onnx), snapshot)
    }).pipe(quiet)
  )

  it.live("lists the ONNX files that there are when the one asked for is missing, or names missing data", () =>
    Effect.gen(function* () {
      const files = yield* exportedFiles
      const failureOf = Effect.fnUntraced(function* (all: ReadonlyMap<string, Uint8Array>, onnx: string) {
        const server = yield* hub(all)
        return yield* Effect.flip(Download.download("owner/tiny", { hubUrl: server.url, cacheDir: freshCache(), onnx }))
      })
      const other = yield* failureOf(new Map([...files, ...unwanted]), "model_q4.onnx")
      assert.deepStrictEqual([other.reason, other.file], ["NotFound", "model_q4.onnx"])
      assert.match(other.message, /is not there; the repository has onnx\/model_q4\.onnx, onnx\/model\.onnx$/)
      const none = yield* failureOf(TinyModel.files(), "onnx/model.onnx")
      assert.deepStrictEqual([none.reason, none.file], ["NotFound", "onnx/model.onnx"])
      assert.match(none.message, /holds no \.onnx file/)

      files.delete("onnx/model_q4.onnx_data_1")
      const torn = yield* failureOf(files, "onnx/model_q4.onnx")
      assert.deepStrictEqual([torn.reason, torn.file], ["NotFound", "onnx/model_q4.onnx_data_1"])
      assert.include(torn.message, "names it in onnx/model_q4.onnx but lacks it")

      const graph = Result.getOrThrow(Model.decode(files.get("onnx/model_q4.onnx")!))
      for (const location of ["../config.json", "/etc/passwd", ".."]) {
        const first = graph.graph!.initializer.find(({ externalData }) => externalData.length > 0)!
        first.externalData.find(({ key }) => key === "location")!.value = location
        const climbing = yield* failureOf(new Map([...files, ["a.onnx", Model.toBytes(graph)]]), "a.onnx")
        assert.deepStrictEqual([climbing.reason, climbing.file], ["Server", "a.onnx"], climbing.message)
      }
    }).pipe(quiet)
  )
})
