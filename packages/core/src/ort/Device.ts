/**
 * The place where graphs run: one worker thread that owns every ONNX Runtime session and every resident tensor, so that the
 * program's event loop stays free while a graph computes.
 *
 * Feeds are copied once, on the way to the worker; outputs are transferred without a copy. Outputs named in `keep` stay
 * resident and come back as handles: in the worker's memory with `cpu` and `cuda`, in a GPU buffer with `webgpu`.
 *
 * @since 0.1.0
 */
import { execFile } from "node:child_process"
import { existsSync } from "node:fs"
import { createRequire } from "node:module"
import { availableParallelism } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import { Context, Effect, Layer, Schema, type Scope } from "effect"
import type { Numerics } from "../onnx/Graph.ts"
import * as Tensor from "../Tensor.ts"
import type { Message, Provider, Reply, Request, Results, Slot, Waiting, WireFeed, WireTensor } from "./DeviceCore.ts"
import * as DeviceGate from "./DeviceGate.ts"

export type { Provider, Slot, Waiting } from "./DeviceCore.ts"

/**
 * A tensor that stays where the device computes. It lives until it is released, given up in a `run`, or the device closes.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeviceTensor {
  readonly _tag: "DeviceTensor"
  readonly id: number
  readonly dtype: Tensor.DType
  readonly shape: ReadonlyArray<number>
}

/**
 * A value for an input of a graph: a tensor, which is copied to the device, or one that is there already.
 *
 * @category models
 * @since 0.1.0
 */
export type Feed = Tensor.Tensor | DeviceTensor

/**
 * Outputs of one run by name: `kept` ones stayed on the device, `tensors` came back.
 *
 * @see {@link tensor} and {@link kept} for reading one output by name and dtype
 * @category models
 * @since 0.1.0
 */
export interface Outputs {
  readonly tensors: Readonly<Record<string, Tensor.Tensor>>
  readonly kept: Readonly<Record<string, DeviceTensor>>
}

/**
 * Which outputs a run computes, and which resident tensors it consumes.
 *
 * **Details**
 *
 * `fetch`: names of the outputs to compute; default all. `release`: handles given up once the run has succeeded. When it
 * fails or is interrupted they stay valid, so that no state is lost.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunOptions {
  readonly fetch?: ReadonlyArray<string> | undefined
  readonly release?: Iterable<DeviceTensor> | undefined
}

/**
 * A compiled graph; released when the scope in which it was compiled closes.
 *
 * **Details**
 *
 * `run` executes the graph once. Runs of one device happen one after the other, in the order in which they were started.
 * Fails with `OrtError` when a feed is missing, unknown or of the wrong dtype, and when ONNX Runtime fails.
 *
 * **Gotchas**
 *
 * A native run cannot be stopped. Interrupting the fiber returns at once, in uninterruptible regions too: a run that has
 * not started is dropped, one that has started ends unobserved and its outputs, resident ones included, are discarded.
 * Whoever keeps outputs calls `run` in an uninterruptible region together with what takes the handles: an interruption
 * that comes with the answer then waits until they have an owner. A fiber that was interrupted starts no run any more, not
 * in its finalizers either; `download`, `upload` and `release` work there.
 *
 * @category models
 * @since 0.1.0
 */
export interface Session {
  readonly name: string
  readonly inputs: ReadonlyArray<Slot>
  readonly outputs: ReadonlyArray<Slot>
  readonly run: (feeds: Readonly<Record<string, Feed>>, options?: RunOptions) => Effect.Effect<Outputs, OrtError>
}

/**
 * How a graph is compiled.
 *
 * **Details**
 *
 * `name`: names the graph in errors. `keep`: outputs that stay resident. `provider`: default the device's; small graphs may
 * be faster on `cpu`. `waiting`: what threads do between their shares of operators, default `spin`, which is quicker where
 * they have their cores for themselves; `sleep` is for graphs that run while their caller computes. `profile`: path prefix
 * of a trace that ONNX Runtime writes when the session is released.
 *
 * @category models
 * @since 0.1.0
 */
export interface CompileOptions {
  readonly name: string
  readonly keep?: ReadonlyArray<string> | undefined
  readonly provider?: Provider | undefined
  readonly waiting?: Waiting | undefined
  readonly profile?: string | undefined
}

/**
 * Settings of a device. `threads`: threads within one operator, default all that the process may use.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly provider?: "auto" | Provider | undefined
  readonly threads?: number | undefined
}

/**
 * Reports that ONNX Runtime could not load or run a graph, or that the worker died. `graph` is the name given to `compile`.
 *
 * @category errors
 * @since 0.1.0
 */
export class OrtError extends Schema.TaggedError<OrtError>()("OrtError", {
  operation: Schema.Literals(["load", "run", "upload", "download", "worker"]),
  graph: Schema.String,
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/**
 * Reports that the provider asked for does not run on this machine. The user installs what the message names, or asks for
 * `cpu`, which always runs.
 *
 * @category errors
 * @since 0.1.0
 */
export class ProviderUnavailable extends Schema.TaggedError<ProviderUnavailable>()("ProviderUnavailable", {
  provider: Schema.Literals(["cpu", "webgpu", "cuda"]),
  reason: Schema.String,
  message: Schema.String
}) {}

/**
 * How graphs that sample and graphs that train sum. What makes results `invariant` was found out on the CPU; of the others
 * WebGPU has no `float64`, and most graphics cards a slow one.
 *
 * @category constants
 * @since 0.1.0
 */
export const numerics = (provider: Provider): Numerics => (provider === "cpu" ? "invariant" : "quick")

/**
 * One device: a thread with its sessions and resident tensors, all freed when the layer closes.
 *
 * **Details**
 *
 * `reason` says why this provider was chosen. `compile` takes the bytes of an ONNX file or, for files with external data,
 * its path; interrupting it returns at once, and what is compiled all the same is freed. `upload` copies a tensor to the
 * device, `download` copies it back, `release` gives handles up and never fails. `stats` counts what the device holds.
 *
 * @category services
 * @since 0.1.0
 */
export class Device extends Context.Service<
  Device,
  {
    readonly provider: Provider
    readonly threads: number
    readonly reason: string
    readonly compile: (
      model: Uint8Array | { readonly path: string },
      options: CompileOptions
    ) => Effect.Effect<Session, OrtError, Scope.Scope>
    readonly upload: (tensor: Tensor.Tensor) => Effect.Effect<DeviceTensor, OrtError>
    readonly download: (tensor: DeviceTensor) => Effect.Effect<Tensor.Tensor, OrtError>
    readonly release: (tensors: Iterable<DeviceTensor>) => Effect.Effect<void>
    readonly stats: Effect.Effect<Results["stats"], OrtError>
  }
>()("@attune/core/Device") {}

const noGraph = "(none)"

/**
 * One output that came back, by name. Throws when the run did not return it, or when its dtype is not the one asked for.
 *
 * @category running
 * @since 0.1.0
 */
export const tensor = <D extends Tensor.DType>(outputs: Outputs, name: string, dtype: D): Tensor.Tensor<D> => {
  const found = outputs.tensors[name]
  if (found === undefined) {
    throw new Error(`no output "${name}" came back; there are ${Object.keys(outputs.tensors).join(", ") || "none"}`)
  }
  if (found.dtype !== dtype) throw new Error(`output "${name}" is ${found.dtype}, not ${dtype}`)
  return found as Tensor.Tensor<D>
}

/**
 * One output that stayed on the device, by name. Throws when the run did not keep it.
 *
 * @category running
 * @since 0.1.0
 */
export const kept = (outputs: Outputs, name: string): DeviceTensor => {
  const found = outputs.kept[name]
  if (found === undefined) {
    throw new Error(`output "${name}" was not kept; kept are ${Object.keys(outputs.kept).join(", ") || "none"}`)
  }
  return found
}

/** A way to a core: in a worker thread, or in process. */
interface Link {
  readonly post: (message: Message, transfer: Array<ArrayBuffer>) => void
  /** Whether the program must stay alive for an answer. */
  readonly hold: (busy: boolean) => void
}

/** Pairs requests with replies, and fails the open ones when the link breaks. */
interface Client {
  readonly link: Link
  readonly pending: Map<number, (reply: Reply | { readonly broken: string }) => void>
  broken: string | undefined
}

let lastId = 0
const nextId = (): number => ++lastId

const breakDown = (client: Client, reason: string): void => {
  if (client.broken !== undefined) return
  client.broken = reason
  for (const settle of [...client.pending.values()]) settle({ broken: reason })
}

const receive = (client: Client, reply: Reply): void => {
  if ("id" in reply) client.pending.get(reply.id)?.(reply)
}

const post = (
  client: Client,
  request: Request,
  transfer: Array<ArrayBuffer>,
  settle: (reply: Reply | { readonly broken: string }) => void
): number => {
  const id = nextId()
  if (client.broken !== undefined) {
    settle({ broken: client.broken })
    return id
  }
  client.pending.set(id, (reply) => {
    client.pending.delete(id)
    client.link.hold(client.pending.size > 0)
    settle(reply)
  })
  client.link.hold(true)
  client.link.post({ id, request }, transfer)
  return id
}

const subject = ({ graph, operation }: Where): string => (graph === noGraph ? operation : `graph "${graph}"`)

interface Where {
  readonly operation: OrtError["operation"]
  readonly graph: string
}

/** `discard` undoes a request that succeeded after its fiber was interrupted. */
const ask = <Op extends Request["op"]>(
  client: Client,
  where: Where,
  prepare: (transfer: Array<ArrayBuffer>) => Extract<Request, { readonly op: Op }>,
  discard: (result: Results[Op]) => void
): Effect.Effect<Results[Op], OrtError> =>
  Effect.suspend(() => {
    let interrupted = false
    let answered: Results[Op] | undefined
    const answer = Effect.callback<Results[Op], OrtError>((resume) => {
      const transfer: Array<ArrayBuffer> = []
      const id = post(client, prepare(transfer), transfer, (reply) => {
        if ("broken" in reply) {
          resume(
            new OrtError({ operation: "worker", graph: where.graph, message: `${subject(where)}: ${reply.broken}` })
          )
        } else if ("error" in reply) {
          const cause = new Error(reply.error)
          if (reply.stack !== undefined) cause.stack = reply.stack
          resume(new OrtError({ ...where, message: `${subject(where)}: ${reply.error.trim()}`, cause }))
        } else if ("result" in reply) {
          answered = reply.result as Results[Op]
          if (interrupted) discard(answered)
          else resume(Effect.succeed(answered))
        }
      })
      return Effect.sync(() => {
        if (client.pending.has(id)) client.link.post({ cancel: id }, [])
      })
    })
    // Nothing can come between the answer and the end of this region: it is either returned or discarded.
    return Effect.uninterruptibleMask((restore) =>
      Effect.onInterrupt(restore(answer), () =>
        Effect.sync(() => {
          interrupted = true
          if (answered !== undefined) discard(answered)
        })
      )
    )
  })

// The one copy of a feed. The caller's array stays usable, and a view of a big file does not drag the file along.
const toWire = (tensor: Tensor.Tensor, transfer: Array<ArrayBuffer>): WireTensor => {
  const buffer = new ArrayBuffer(tensor.data.byteLength)
  new Uint8Array(buffer).set(Tensor.toBytes(tensor))
  transfer.push(buffer)
  return { dtype: tensor.dtype, shape: tensor.shape, buffer }
}

const fromWire = ({ buffer, dtype, shape }: WireTensor): Tensor.Tensor =>
  Tensor.fromBytes(dtype, new Uint8Array(buffer), shape)

const isDeviceTensor = (feed: Feed): feed is DeviceTensor => "_tag" in feed

const nothing = (): void => undefined

const makeDevice = (client: Client, provider: Provider, threads: number, reason: string): Device["Service"] => {
  const releaseIds = (ids: ReadonlyArray<number>): void => {
    if (ids.length > 0) post(client, { op: "release", ids }, [], nothing)
  }

  const checkFeeds = (session: Omit<Session, "run">, feeds: Readonly<Record<string, Feed>>): string | undefined => {
    for (const { dtype, name } of session.inputs) {
      const feed = feeds[name]
      if (feed === undefined) return `feed "${name}" is missing`
      if (feed.dtype !== dtype) return `feed "${name}" is ${feed.dtype}, but the graph's input is ${dtype}`
    }
    const known = new Set(session.inputs.map(({ name }) => name))
    const unknown = Object.keys(feeds).find((name) => !known.has(name))
    if (unknown === undefined) return undefined
    return `feed "${unknown}" is not an input of the graph; its inputs are ${[...known].join(", ")}`
  }

  const runSession = (id: number, session: Omit<Session, "run">, keep: ReadonlySet<string>): Session["run"] => {
    const outputNames = session.outputs.map(({ name }) => name)
    const where = { operation: "run", graph: session.name } as const
    const reject = (problem: string) => new OrtError({ ...where, message: `${subject(where)}: ${problem}` })
    return Effect.fnUntraced(function* (feeds, options = {}) {
      const problem = checkFeeds(session, feeds)
      if (problem !== undefined) return yield* reject(problem)
      const fetch = options.fetch ?? outputNames
      const unknown = fetch.find((name) => !outputNames.includes(name))
      if (unknown !== undefined) {
        return yield* reject(`fetch names "${unknown}", but the graph's outputs are ${outputNames.join(", ")}`)
      }
      const ids: Record<string, number> = {}
      for (const name of fetch) {
        if (keep.has(name)) ids[name] = nextId()
      }
      const execute = ask<"run">(
        client,
        where,
        (transfer) => {
          const wired: Record<string, WireFeed> = {}
          for (const [name, feed] of Object.entries(feeds)) {
            wired[name] = isDeviceTensor(feed) ? { resident: feed.id } : toWire(feed, transfer)
          }
          return { op: "run", session: id, feeds: wired, fetch, keep: ids }
        },
        () => releaseIds(Object.values(ids))
      )
      const delivered = ({ kept, tensors }: Results["run"]): Outputs => {
        // Consumed handles are given up only when the result is surely delivered.
        releaseIds(Array.from(options.release ?? [], ({ id }) => id))
        return {
          tensors: Object.fromEntries(Object.entries(tensors).map(([name, wire]) => [name, fromWire(wire)])),
          kept: Object.fromEntries(
            Object.entries(kept).map(([name, known]) => [name, { _tag: "DeviceTensor", id: ids[name]!, ...known }])
          )
        }
      }
      return yield* Effect.uninterruptible(Effect.map(Effect.interruptible(execute), delivered))
    })
  }

  const compile: Device["Service"]["compile"] = Effect.fn("Device.compile")(function* (model, options) {
    const id = nextId()
    const keep = options.keep ?? []
    const dispose = { op: "dispose", session: id } as const
    const { inputs, outputs } = yield* Effect.acquireRelease(
      ask<"compile">(
        client,
        { operation: "load", graph: options.name },
        (transfer) => {
          let source: ArrayBuffer | string
          if (model instanceof Uint8Array) {
            source = new ArrayBuffer(model.byteLength)
            new Uint8Array(source).set(model)
            transfer.push(source)
          } else {
            source = model.path
          }
          return {
            op: "compile",
            session: id,
            model: source,
            provider: options.provider ?? provider,
            keep,
            waiting: options.waiting ?? "spin",
            profile: options.profile
          }
        },
        () => post(client, dispose, [], nothing)
      ),
      // A dead worker has freed the session already.
      () => Effect.ignore(ask<"dispose">(client, { operation: "run", graph: options.name }, () => dispose, nothing)),
      { interruptible: true }
    )
    const session = { name: options.name, inputs, outputs }
    return { ...session, run: runSession(id, session, new Set(keep)) }
  })

  return Device.of({
    provider,
    threads,
    reason,
    compile,
    upload: Effect.fnUntraced(function* (tensor) {
      const id = nextId()
      yield* ask<"upload">(
        client,
        { operation: "upload", graph: noGraph },
        (transfer) => ({ op: "upload", tensor: toWire(tensor, transfer), id }),
        () => releaseIds([id])
      )
      return { _tag: "DeviceTensor", id, dtype: tensor.dtype, shape: tensor.shape } as const
    }),
    download: Effect.fnUntraced(function* (tensor) {
      const where = { operation: "download", graph: noGraph } as const
      return fromWire(yield* ask<"download">(client, where, () => ({ op: "download", id: tensor.id }), nothing))
    }),
    release: (tensors) => Effect.sync(() => releaseIds(Array.from(tensors, ({ id }) => id))),
    stats: ask<"stats">(client, { operation: "run", graph: noGraph }, () => ({ op: "stats" }), nothing)
  })
}

/**
 * Whether a provider runs here, and why or why not.
 *
 * @category models
 * @since 0.1.0
 */
export interface ProviderStatus {
  readonly provider: Provider
  readonly available: boolean
  readonly reason: string
}

// Sibling entry points are .ts in the sources and .js in dist.
const sibling = (name: string): URL =>
  new URL(`./${name}${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url)

const cudaLibrary = (): string =>
  join(
    dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json")),
    "bin/napi-v6",
    process.platform,
    process.arch,
    process.platform === "win32" ? "onnxruntime_providers_cuda.dll" : "libonnxruntime_providers_cuda.so"
  )

// ONNX Runtime puts source file, function and condition before what the reader can use.
const lastSentence = (reason: string): string => reason.trim().split(" was false. ").at(-1)!

const probeProvider = (provider: Provider): Effect.Effect<ProviderStatus> =>
  Effect.callback((resume) => {
    const answer = (available: boolean, reason: string) => resume(Effect.succeed({ provider, available, reason }))
    if (provider === "cuda" && !existsSync(cudaLibrary())) {
      return answer(false, "ONNX Runtime's CUDA library is not installed")
    }
    const child = execFile(
      process.execPath,
      [fileURLToPath(sibling("DeviceProbe")), provider],
      { timeout: 60_000 },
      (error, stdout) => {
        const line = stdout.trim().split("\n").at(-1) ?? ""
        // A library that aborts when its process ends is no use either: the result would be lost with it.
        if (error === null && line.startsWith("{")) {
          const outcome: { readonly available: boolean; readonly reason: string } = JSON.parse(line)
          return answer(outcome.available, lastSentence(outcome.reason))
        }
        const how = error?.signal ?? `exit code ${error?.code}`
        answer(false, `the test process died (${how})`)
      }
    )
    return Effect.sync(() => child.kill())
  })

/**
 * Tries every provider by running a tiny graph on it, each in a child process of its own: a native library that crashes
 * cannot take the caller along.
 *
 * @category running
 * @since 0.1.0
 */
export const probe: Effect.Effect<ReadonlyArray<ProviderStatus>> = Effect.forEach(
  ["cpu", "webgpu", "cuda"] as const,
  probeProvider
)

const advice: Readonly<Record<Provider, string>> = {
  cpu: "reinstall onnxruntime-node for this platform",
  webgpu: "install a Vulkan driver (Linux) or update the graphics driver, or ask for cpu",
  cuda: "run `pnpm setup:cuda` on a machine with an NVIDIA driver and CUDA 12, or ask for cpu"
}

interface Choice {
  readonly provider: Provider
  readonly reason: string
}

/**
 * `auto` takes CUDA where it runs and the CPU otherwise. WebGPU is taken only when asked for: ONNX Runtime does not say
 * whether the adapter is a real GPU or a software one, and training steps are many small kernels, which a weak GPU runs
 * slower than a CPU.
 */
const choose = Effect.fnUntraced(function* (wanted: "auto" | Provider): Effect.fn.Return<Choice, ProviderUnavailable> {
  if (wanted === "cpu") return { provider: "cpu", reason: "cpu was asked for" }
  const asked = wanted === "auto" ? "cuda" : wanted
  const { available, reason } = yield* probeProvider(asked)
  if (wanted === "auto") {
    return available
      ? { provider: "cuda", reason: "auto: cuda runs here" }
      : { provider: "cpu", reason: `auto: cuda is not available (${reason}); webgpu is used only when asked for` }
  }
  if (available) return { provider: wanted, reason: `${wanted} was asked for and runs here` }
  return yield* new ProviderUnavailable({
    provider: wanted,
    reason,
    message: `provider ${wanted} is not available: ${reason}; ${advice[wanted]}`
  })
})

const openClient = (link: Link): Client => ({ link, pending: new Map(), broken: undefined })

const closed = "the device is closed"

interface Settings {
  readonly provider: Provider
  readonly threads: number
}

const connectWorker = (settings: Settings) =>
  Effect.acquireRelease(
    Effect.callback<{ readonly client: Client; readonly ended: Promise<void> }, OrtError>((resume) => {
      const gate = DeviceGate.make()
      const workerData = { ...settings, gate }
      // The worker imports by relative paths only; flags of the program, such as --input-type, would only hurt it.
      const worker = new Worker(sibling("DeviceWorker"), { name: "attune-device", workerData, execArgv: [] })
      const onExit = () => DeviceGate.stop(gate)
      process.on("exit", onExit)
      const ended = new Promise<void>((resolve) =>
        worker.once("exit", () => {
          process.off("exit", onExit)
          resolve()
        })
      )
      const client = openClient({
        post: (message, transfer) => worker.postMessage(message, transfer),
        hold: (busy) => (busy ? worker.ref() : worker.unref())
      })
      const fail = (reason: string) => {
        breakDown(client, reason)
        resume(new OrtError({ operation: "worker", graph: noGraph, message: reason }))
      }
      worker.on("message", (reply: Reply) => {
        if (!("ready" in reply)) return receive(client, reply)
        worker.unref()
        resume(Effect.succeed({ client, ended }))
      })
      worker.on("messageerror", (error) => fail(`the device worker sent an unreadable message: ${error.message}`))
      worker.on("error", (error) => fail(`the device worker failed: ${String(error)}`))
      worker.on("exit", (code) => fail(`the device worker ended (exit code ${code})`))
    }),
    ({ client, ended }) =>
      Effect.promise(() => {
        // Graceful, so that native objects are freed by the thread that made them; a graph that is running ends first.
        client.link.post({ close: true }, [])
        breakDown(client, closed)
        // Last: settling what was pending lets go of the program.
        client.link.hold(true)
        return ended
      })
  ).pipe(Effect.map(({ client }) => client))

const connectInProcess = (settings: Settings) =>
  Effect.acquireRelease(
    Effect.tryPromise({
      try: async () => {
        // Imported here, so that a program with a worker loads native code only there.
        const DeviceCore = await import("./DeviceCore.ts")
        const ended = Promise.withResolvers<void>()
        const core = DeviceCore.make({ ...settings, gate: DeviceGate.make() }, (reply) => {
          if ("closed" in reply) ended.resolve()
          else receive(client, reply)
        })
        const client: Client = openClient({ post: core.receive, hold: nothing })
        return { client, ended: ended.promise }
      },
      catch: (cause) =>
        new OrtError({
          operation: "load",
          graph: noGraph,
          message: `ONNX Runtime does not load on this machine (${String(cause)}); ${advice.cpu}`,
          cause
        })
    }),
    ({ client, ended }) =>
      Effect.promise(() => {
        client.link.post({ close: true }, [])
        breakDown(client, closed)
        return ended
      })
  ).pipe(Effect.map(({ client }) => client))

const layerWith =
  (connect: (settings: Settings) => Effect.Effect<Client, OrtError, Scope.Scope>) =>
  (options: Options = {}): Layer.Layer<Device, OrtError | ProviderUnavailable> =>
    Layer.effect(
      Device,
      Effect.gen(function* () {
        const { provider, reason } = yield* choose(options.provider ?? "auto")
        const threads = options.threads ?? availableParallelism()
        const client = yield* connect({ provider, threads })
        return makeDevice(client, provider, threads, reason)
      })
    )

/**
 * A device on a worker thread. The worker frees everything and ends when the layer closes; it never keeps an idle program
 * alive.
 *
 * **Details**
 *
 * `provider: "auto"` (the default) takes CUDA where it runs, the CPU otherwise; WebGPU only when asked for. Fails with
 * `ProviderUnavailable` when the provider asked for does not run here.
 *
 * **Example** (Choosing a device)
 *
 * ```ts
 * import { Device } from "@attune/core/ort"
 *
 * const device = Device.layer({ provider: "cpu", threads: 2 })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: (options?: Options) => Layer.Layer<Device, OrtError | ProviderUnavailable> =
  layerWith(connectWorker)

/**
 * The same device without a thread: graphs block the event loop while they run. For tests and debuggers.
 *
 * @category testing
 * @since 0.1.0
 */
export const layerInProcess: (options?: Options) => Layer.Layer<Device, OrtError | ProviderUnavailable> =
  layerWith(connectInProcess)
