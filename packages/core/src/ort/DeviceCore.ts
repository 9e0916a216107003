/**
 * The only owner of ONNX Runtime sessions and resident tensors. It answers requests one after the other, and is the same
 * code in the worker thread and in process.
 *
 * Imports ONNX Runtime and a few pure modules, so that a worker starts at once. Not part of the public interface: programs
 * use `Device`.
 *
 * @since 0.1.0
 */
import * as Ort from "onnxruntime-node"
import * as Tensor from "../Tensor.ts"
import * as DeviceGate from "./DeviceGate.ts"
import * as IdentityModel from "./IdentityModel.ts"

/**
 * Where a graph is computed.
 *
 * @category models
 * @since 0.1.0
 */
export type Provider = "cpu" | "webgpu" | "cuda"

/**
 * A tensor between threads: the buffer holds exactly its elements and is transferred, not copied.
 *
 * @category models
 * @since 0.1.0
 */
export interface WireTensor {
  readonly dtype: Tensor.DType
  readonly shape: ReadonlyArray<number>
  readonly buffer: ArrayBuffer
}

/**
 * A feed between threads: a tensor, or the id of a resident one.
 *
 * @category models
 * @since 0.1.0
 */
export type WireFeed = WireTensor | { readonly resident: number }

/**
 * Name, dtype and shape of an input or output of a graph, as ONNX Runtime declares it. Dimensions known only when the
 * graph runs are names (empty when the file has none).
 *
 * @category models
 * @since 0.1.0
 */
export interface Slot {
  readonly name: string
  readonly dtype: Tensor.DType
  readonly shape: ReadonlyArray<number | string>
}

/**
 * What the threads of a session do while they have no share of an operator.
 *
 * @category models
 * @since 0.1.0
 */
export type Waiting = "spin" | "sleep"

/**
 * What the core is asked to do. Ids of sessions and resident tensors are chosen by the caller.
 *
 * @category models
 * @since 0.1.0
 */
export type Request =
  | {
      readonly op: "compile"
      readonly session: number
      readonly model: ArrayBuffer | string
      readonly provider: Provider
      readonly keep: ReadonlyArray<string>
      readonly waiting: Waiting
      readonly profile: string | undefined
    }
  | {
      readonly op: "run"
      readonly session: number
      readonly feeds: Readonly<Record<string, WireFeed>>
      readonly fetch: ReadonlyArray<string>
      readonly keep: Readonly<Record<string, number>>
    }
  | { readonly op: "upload"; readonly tensor: WireTensor; readonly id: number }
  | { readonly op: "download"; readonly id: number }
  | { readonly op: "release"; readonly ids: ReadonlyArray<number> }
  | { readonly op: "dispose"; readonly session: number }
  | { readonly op: "stats" }

/**
 * Result of each request.
 *
 * @category models
 * @since 0.1.0
 */
export interface Results {
  readonly compile: { readonly inputs: ReadonlyArray<Slot>; readonly outputs: ReadonlyArray<Slot> }
  readonly run: {
    readonly tensors: Readonly<Record<string, WireTensor>>
    readonly kept: Readonly<Record<string, { readonly dtype: Tensor.DType; readonly shape: ReadonlyArray<number> }>>
  }
  readonly upload: null
  readonly download: WireTensor
  readonly release: null
  readonly dispose: null
  readonly stats: { readonly tensors: number; readonly bytes: number; readonly sessions: number }
}

/**
 * Messages to the core. `cancel` drops a request that has not been answered, with what it made; `close` frees everything.
 *
 * @category models
 * @since 0.1.0
 */
export type Message =
  | { readonly id: number; readonly request: Request }
  | { readonly cancel: number }
  | { readonly close: true }

/**
 * Answers of the core: one per request, plus `ready` at the start and `closed` at the end.
 *
 * @category models
 * @since 0.1.0
 */
export type Reply =
  | { readonly ready: true }
  | { readonly closed: true }
  | { readonly id: number; readonly result: Results[keyof Results] }
  | { readonly id: number; readonly error: string; readonly stack: string | undefined }

/**
 * Sends a reply; the buffers in `transfer` may be given away.
 *
 * @category models
 * @since 0.1.0
 */
export type Send = (reply: Reply, transfer: Array<ArrayBuffer>) => void

/**
 * A running core.
 *
 * @category models
 * @since 0.1.0
 */
export interface DeviceCore {
  readonly receive: (message: Message) => void
}

/**
 * Settings of a core.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly provider: Provider
  readonly threads: number
  readonly gate: DeviceGate.DeviceGate
}

interface Session {
  readonly native: Ort.InferenceSession
  readonly provider: Provider
  readonly profiled: boolean
}

interface Resident {
  readonly tensor: Ort.Tensor
  readonly bytes: number
}

const isDType = (type: string): type is Tensor.DType => type in Tensor.bytesPerElement

const dtypeOf = (type: string, what: string): Tensor.DType => {
  if (isDType(type)) return type
  throw new Error(`${what} is of type ${type}; supported are ${Object.keys(Tensor.bytesPerElement).join(", ")}`)
}

const slots = (metadata: ReadonlyArray<Ort.InferenceSession.ValueMetadata>, kind: string): ReadonlyArray<Slot> =>
  metadata.map((slot) => {
    if (!slot.isTensor) throw new Error(`${kind} "${slot.name}" is not a tensor`)
    return { name: slot.name, dtype: dtypeOf(slot.type, `${kind} "${slot.name}"`), shape: slot.shape }
  })

// With Float16Array (Node 24) a float16 tensor reaches the binding with length zero: it gets a plain object around the raw
// bits, with the fields that it reads.
const feedable = (tensor: Ort.Tensor): Ort.Tensor => {
  if (tensor.type !== "float16" || tensor.location !== "cpu") return tensor
  const { buffer, byteOffset, length } = tensor.data as Uint16Array | Float16Array
  const data = new Uint16Array(buffer, byteOffset, length)
  return { type: "float16", dims: tensor.dims, location: "cpu", data } as unknown as Ort.Tensor
}

// Other dtypes have no GPU buffer in onnxruntime-common; kept ones stay in worker memory.
const gpuDTypes: ReadonlySet<Tensor.DType> = new Set(["float32", "float16", "int32", "int64", "uint8", "bool"])

const toOrt = ({ buffer, dtype, shape }: WireTensor): Ort.Tensor => {
  if (dtype === "bfloat16") throw new Error("bfloat16 tensors cannot be fed to ONNX Runtime; convert them to float32")
  const { data } = Tensor.fromBytes(dtype, new Uint8Array(buffer), shape)
  return new Ort.Tensor(dtype as "float32", data as Float32Array, shape)
}

// A view of a bigger buffer is copied, because only whole buffers can be transferred.
const toWire = (tensor: Ort.Tensor, name: string, copy: boolean): WireTensor => {
  const dtype = dtypeOf(tensor.type, name)
  const { buffer, byteLength, byteOffset } = tensor.data as Float32Array<ArrayBuffer>
  const whole = byteOffset === 0 && byteLength === buffer.byteLength
  return {
    dtype,
    shape: tensor.dims,
    buffer: copy || !whole ? buffer.slice(byteOffset, byteOffset + byteLength) : buffer
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/**
 * Starts a core. Requests run in the order in which they came, one at a time.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Settings, send: Send): DeviceCore => {
  const { gate } = options
  const sessions = new Map<number, Session>()
  const residents = new Map<number, Resident>()
  const movers = new Map<string, Ort.InferenceSession>()
  const queue: Array<{ readonly id: number; readonly request: Request }> = []
  const cancelled = new Set<number>()
  let current: number | undefined
  let pumping = false
  let closing = false

  const create = (
    model: ArrayBuffer | string,
    provider: Provider,
    keep: ReadonlyArray<string>,
    { profile, waiting }: { readonly profile?: string | undefined; readonly waiting: Waiting } = { waiting: "spin" }
  ) => {
    // The binding can leave outputs on the device for WebGPU only; with CUDA and CPU, resident is worker memory.
    const onGpu = provider === "webgpu" && keep.length > 0
    const settings: Ort.InferenceSession.SessionOptions = {
      executionProviders: [provider],
      intraOpNumThreads: options.threads,
      interOpNumThreads: 1,
      executionMode: "sequential",
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
      extra: { session: { intra_op: { allow_spinning: waiting === "spin" ? "1" : "0" } } },
      ...(onGpu ? { preferredOutputLocation: Object.fromEntries(keep.map((name) => [name, "gpu-buffer"])) } : {}),
      ...(profile === undefined ? {} : { enableProfiling: true, profileFilePrefix: profile })
    }
    return typeof model === "string"
      ? Ort.InferenceSession.create(model, settings)
      : Ort.InferenceSession.create(new Uint8Array(model), settings)
  }

  const sessionOf = (id: number): Session => {
    const session = sessions.get(id)
    if (session === undefined) throw new Error("the session has been released: its scope is closed")
    return session
  }

  const residentOf = (id: number, what: string): Resident => {
    const resident = residents.get(id)
    if (resident === undefined) {
      throw new Error(`${what} is not on this device: it was released, or belongs to another device`)
    }
    return resident
  }

  const hold = (id: number, tensor: Ort.Tensor, name: string): void => {
    const dtype = dtypeOf(tensor.type, name)
    residents.set(id, { tensor, bytes: Tensor.size(tensor.dims) * Tensor.bytesPerElement[dtype] })
  }

  const drop = (id: number): void => {
    const resident = residents.get(id)
    residents.delete(id)
    if (resident?.tensor.location === "gpu-buffer") resident.tensor.dispose()
  }

  // Identity graphs carry tensors to and from the GPU: `getData()` on a gpu-buffer tensor aborts the process.
  const mover = async (dtype: Tensor.DType, direction: "up" | "down"): Promise<Ort.InferenceSession> => {
    const key = `${direction} ${dtype}`
    const known = movers.get(key)
    if (known !== undefined) return known
    const model = IdentityModel.encode(dtype).slice().buffer
    const session = await create(model, options.provider, direction === "up" ? ["y"] : [])
    movers.set(key, session)
    return session
  }

  const move = async (tensor: Ort.Tensor, direction: "up" | "down"): Promise<Ort.Tensor> => {
    const session = await mover(dtypeOf(tensor.type, "the tensor"), direction)
    return (await session.run({ x: feedable(tensor) })).y!
  }

  const free = async (session: Session): Promise<void> => {
    if (session.profiled) session.native.endProfiling()
    await session.native.release()
  }

  const compile = async (request: Extract<Request, { op: "compile" }>): Promise<Results["compile"]> => {
    const { keep, model, profile, provider, waiting } = request
    const settle = (native: Ort.InferenceSession): Session => ({ native, provider, profiled: profile !== undefined })
    let session = settle(await create(model, provider, keep, { profile, waiting }))
    try {
      const { native } = session
      const inputs = slots(native.inputMetadata, "input")
      const outputs = slots(native.outputMetadata, "output")
      for (const name of keep) {
        if (!native.outputNames.includes(name)) {
          throw new Error(`keep names "${name}", but the graph's outputs are ${native.outputNames.join(", ")}`)
        }
      }
      const onGpu = keep.filter((name) => gpuDTypes.has(outputs.find((output) => output.name === name)!.dtype))
      if (provider === "webgpu" && onGpu.length < keep.length) {
        // Locations are fixed when a session is made, dtypes are known only afterwards.
        const first = session
        session = settle(await create(model, provider, onGpu, { profile, waiting }))
        await free(first)
      }
      sessions.set(request.session, session)
      return { inputs, outputs }
    } catch (error) {
      await free(session)
      throw error
    }
  }

  const run = async (
    request: Extract<Request, { op: "run" }>,
    transfer: Array<ArrayBuffer>
  ): Promise<Results["run"]> => {
    const { native, provider } = sessionOf(request.session)
    const feeds: Record<string, Ort.Tensor> = {}
    for (const [name, feed] of Object.entries(request.feeds)) {
      if ("buffer" in feed) {
        feeds[name] = feedable(toOrt(feed))
        continue
      }
      const { tensor } = residentOf(feed.resident, `feed "${name}" (device tensor ${feed.resident})`)
      if (tensor.location === "gpu-buffer" && provider !== "webgpu") {
        throw new Error(`feed "${name}" is on the GPU, but this graph was compiled for ${provider}; download it first`)
      }
      feeds[name] = feedable(tensor)
    }
    const outputs = await native.run(feeds, request.fetch)
    // Dtypes were checked when the session was made, so nothing fails between here and the reply.
    const tensors: Record<string, WireTensor> = {}
    const kept: Record<string, { dtype: Tensor.DType; shape: ReadonlyArray<number> }> = {}
    for (const name of request.fetch) {
      const tensor = outputs[name]!
      const id = request.keep[name]
      if (id !== undefined) {
        hold(id, tensor, `output "${name}"`)
        kept[name] = { dtype: dtypeOf(tensor.type, name), shape: tensor.dims }
      } else {
        const wire = toWire(tensor, `output "${name}"`, false)
        tensors[name] = wire
        transfer.push(wire.buffer)
      }
    }
    return { tensors, kept }
  }

  const answer = async (request: Request, transfer: Array<ArrayBuffer>): Promise<Results[keyof Results]> => {
    switch (request.op) {
      case "compile":
        return compile(request)
      case "run":
        return run(request, transfer)
      case "upload": {
        const tensor = toOrt(request.tensor)
        const onGpu = options.provider === "webgpu" && gpuDTypes.has(request.tensor.dtype)
        hold(request.id, onGpu ? await move(tensor, "up") : tensor, "the tensor")
        return null
      }
      case "download": {
        const { tensor } = residentOf(request.id, `device tensor ${request.id}`)
        const onGpu = tensor.location === "gpu-buffer"
        const wire = toWire(onGpu ? await move(tensor, "down") : tensor, "the tensor", !onGpu)
        transfer.push(wire.buffer)
        return wire
      }
      case "release":
        for (const id of request.ids) drop(id)
        return null
      case "dispose": {
        const session = sessions.get(request.session)
        sessions.delete(request.session)
        if (session !== undefined) await free(session)
        return null
      }
      case "stats": {
        let bytes = 0
        for (const resident of residents.values()) bytes += resident.bytes
        return { tensors: residents.size, bytes, sessions: sessions.size }
      }
    }
  }

  // What a request made, when nobody waits for it any more.
  const undo = async (request: Request): Promise<void> => {
    if (request.op === "run") for (const id of Object.values(request.keep)) drop(id)
    else if (request.op === "upload") drop(request.id)
    else if (request.op === "compile") await answer({ op: "dispose", session: request.session }, [])
  }

  const serve = async (id: number, request: Request): Promise<void> => {
    const transfer: Array<ArrayBuffer> = []
    let reply: Reply
    try {
      reply = { id, result: await answer(request, transfer) }
    } catch (error) {
      const known = error instanceof Error
      reply = { id, error: known ? error.message : String(error), stack: known ? error.stack : undefined }
    }
    // This turn of the event loop lets a `cancel` that was sent while the graph ran arrive before the reply leaves.
    await turn()
    if (!cancelled.delete(id)) return send(reply, transfer)
    if ("result" in reply) await undo(request)
    send({ id, error: "cancelled", stack: undefined }, [])
  }

  const shutDown = async (): Promise<void> => {
    if (!DeviceGate.enter(gate)) return
    for (const id of [...residents.keys()]) drop(id)
    for (const session of sessions.values()) await free(session)
    for (const session of movers.values()) await session.release()
    DeviceGate.leave(gate)
    send({ closed: true }, [])
  }

  const pump = async (): Promise<void> => {
    pumping = true
    // Messages of the same moment arrive together, so that a request cancelled at once never starts.
    await turn()
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      if (!DeviceGate.enter(gate)) return
      current = next.id
      await serve(next.id, next.request)
      current = undefined
      DeviceGate.leave(gate)
    }
    pumping = false
    if (closing) await shutDown()
  }

  return {
    receive: (message) => {
      if (closing) return
      if ("close" in message) {
        closing = true
        queue.length = 0
        if (!pumping) void shutDown()
      } else if ("cancel" in message) {
        if (message.cancel === current) return void cancelled.add(message.cancel)
        const index = queue.findIndex(({ id }) => id === message.cancel)
        if (index < 0) return
        queue.splice(index, 1)
        send({ id: message.cancel, error: "cancelled", stack: undefined }, [])
      } else {
        queue.push(message)
        if (!pumping) void pump()
      }
    }
  }
}
