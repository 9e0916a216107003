import { execFile } from "node:child_process"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Worker } from "node:worker_threads"
import { Tensor } from "@attune/core"
import { Graph, Model } from "@attune/core/onnx"
import { Device } from "@attune/core/ort"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer } from "effect"

// next = state + step; total = sum(next)
const accumulator = (): Uint8Array => {
  const g = Graph.make("accumulator")
  const state = Graph.input(g, "state", "float32", ["N"])
  const step = Graph.input(g, "step", "float32", ["N"])
  const next = Graph.append(g, "Add", [state, step], [{ dtype: "float32", shape: ["N"] }])[0]!
  const total = Graph.append(g, "ReduceSum", [next], [{ dtype: "float32", shape: [] }], { keepdims: { int: 0 } })[0]!
  Graph.output(g, "next", next)
  Graph.output(g, "total", total)
  return Model.encode(g)
}

// y = tanh(x w)
const layerModel = (): Uint8Array => {
  const g = Graph.make("layer")
  const x = Graph.input(g, "x", "float32", ["B", 64])
  const w = Graph.input(g, "w", "float32", [64, 32])
  const product = Graph.append(g, "MatMul", [x, w], [{ dtype: "float32", shape: ["B", 32] }])[0]!
  Graph.output(g, "y", Graph.append(g, "Tanh", [product], [{ dtype: "float32", shape: ["B", 32] }])[0]!)
  return Model.encode(g)
}

// y = x multiplied by itself-sized identity `trips` times: as slow as asked for
const slowModel = (): Uint8Array => {
  const g = Graph.make("slow")
  const trips = Graph.input(g, "trips", "int64", [])
  const x = Graph.input(g, "x", "float32", [256, 256])
  const body = Graph.make("body", g)
  Graph.input(body, "iteration", "int64", [])
  const condition = Graph.input(body, "condition", "bool", [])
  const y = Graph.input(body, "y", "float32", [256, 256])
  Graph.output(body, "condition.out", condition)
  Graph.output(body, "y.out", Graph.append(body, "MatMul", [y, x], [{ dtype: "float32", shape: [256, 256] }])[0]!)
  const result = Graph.append(g, "Loop", [trips, null, x], [{ dtype: "float32", shape: [256, 256] }], {
    body: { graph: body }
  })[0]!
  Graph.output(g, "y.final", result)
  return Model.encode(g)
}

const identity = (dtype: Tensor.DType, shape: Graph.Shape): Uint8Array => {
  const g = Graph.make("identity")
  Graph.output(g, "y", Graph.input(g, "x", dtype, shape))
  return Model.encode(g)
}

const eye = (): Tensor.Tensor =>
  Tensor.float32(
    Float32Array.from({ length: 256 * 256 }, (_, i) => +(i % 257 === 0)),
    [256, 256]
  )
const trips = (n: number): Tensor.Tensor => Tensor.int64([n], [])

const samples: ReadonlyArray<Tensor.Tensor> = [
  Tensor.float32([1.5, -2, Number.NaN, Number.POSITIVE_INFINITY]),
  Tensor.make("float16", Uint16Array.of(0x3c00, 0xc000, 0x7e01, 0x0001), [2, 2]),
  Tensor.make("float64", Float64Array.of(Math.PI, -0), [2]),
  Tensor.make("int64", BigInt64Array.of(2n ** 62n, -(2n ** 40n)), [2]),
  Tensor.make("int32", Int32Array.of(7, -7), [1, 2]),
  Tensor.make("int8", Int8Array.of(-128, 127), [2]),
  Tensor.make("uint8", Uint8Array.of(0, 255), [2]),
  Tensor.make("bool", Uint8Array.of(1, 0, 1), [3])
]

const sameTensor = (actual: Tensor.Tensor, expected: Tensor.Tensor): void => {
  assert.strictEqual(actual.dtype, expected.dtype)
  assert.deepStrictEqual([...actual.shape], [...expected.shape])
  assert.deepStrictEqual(Array.from(Tensor.toBytes(actual)), Array.from(Tensor.toBytes(expected)))
}

const contains = (text: string, ...parts: ReadonlyArray<string>): void => {
  for (const part of parts) assert.include(text, part)
}

const places = {
  "on a worker": Device.layer({ provider: "cpu", threads: 2 }),
  "in process": Device.layerInProcess({ provider: "cpu", threads: 2 })
}

const roundTrip = Effect.fnUntraced(function* (tensor: Tensor.Tensor) {
  const device = yield* Device.Device
  const shape = tensor.shape.map((_, i) => `D${i}`)
  const session = yield* device.compile(identity(tensor.dtype, shape), { name: "identity", keep: ["y"] })
  const uploaded = yield* device.upload(tensor)
  sameTensor(yield* device.download(uploaded), tensor)
  const first = Device.kept(yield* session.run({ x: tensor }), "y")
  const second = Device.kept(yield* session.run({ x: first }, { release: [first, uploaded] }), "y")
  sameTensor(yield* device.download(second), tensor)
  sameTensor(yield* device.download(second), tensor)
  yield* device.release([second])
})

// Ten steps with the state resident: [1, 2] + 10 [0.5, -1]
const tenSteps = Effect.gen(function* () {
  const device = yield* Device.Device
  const session = yield* device.compile(accumulator(), { name: "accumulator", keep: ["next"] })
  const step = yield* device.upload(Tensor.float32([0.5, -1]))
  let state = yield* device.upload(Tensor.float32([1, 2]))
  const totals: Array<number> = []
  for (let i = 0; i < 10; i++) {
    const outputs = yield* session.run({ state, step }, { release: [state] })
    state = Device.kept(outputs, "next")
    totals.push(Device.tensor(outputs, "total", "float32").data[0]!)
    const stats = yield* device.stats
    assert.deepStrictEqual({ tensors: stats.tensors, bytes: stats.bytes }, { tensors: 2, bytes: 16 })
  }
  assert.deepStrictEqual(totals, [2.5, 2, 1.5, 1, 0.5, 0, -0.5, -1, -1.5, -2])
  sameTensor(yield* device.download(state), Tensor.float32([6, -8]))
  yield* device.release([state, step])
})

for (const [place, layer] of Object.entries(places)) {
  describe(place, () => {
    it.effect("declares the inputs and outputs of a graph", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        assert.strictEqual(device.provider, "cpu")
        assert.strictEqual(device.threads, 2)
        const session = yield* device.compile(layerModel(), { name: "layer" })
        assert.strictEqual(session.name, "layer")
        assert.deepStrictEqual(session.inputs, [
          { name: "x", dtype: "float32", shape: ["B", 64] },
          { name: "w", dtype: "float32", shape: [64, 32] }
        ])
        assert.deepStrictEqual(session.outputs, [{ name: "y", dtype: "float32", shape: ["B", 32] }])
      }).pipe(Effect.scoped, Effect.provide(layer))
    )

    it.effect("keeps state on the device from run to run and accounts for every tensor", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        yield* Effect.scoped(tenSteps)
        assert.deepStrictEqual(yield* device.stats, { tensors: 0, bytes: 0, sessions: 0 })
      }).pipe(Effect.provide(layer))
    )

    it.effect("returns every dtype bit by bit, scalars and empty tensors too", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        const corners = [Tensor.scalar(3), Tensor.float32([], [0, 4]), Tensor.int64([], [0])]
        for (const tensor of [...samples, ...corners]) yield* Effect.scoped(roundTrip(tensor))
        assert.deepStrictEqual(yield* device.stats, { tensors: 0, bytes: 0, sessions: 0 })
      }).pipe(Effect.provide(layer))
    )

    it.effect("leaves the caller's arrays alone, and sends only the part that a view shows", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        const file = Float32Array.from({ length: 1000 }, (_, i) => i)
        const part = Tensor.float32(file.subarray(10, 12))
        const resident = yield* device.upload(part)
        assert.strictEqual((yield* device.stats).bytes, 8)
        file.fill(-1)
        sameTensor(yield* device.download(resident), Tensor.float32([10, 11]))
        assert.strictEqual(file.length, 1000)
        const model = accumulator()
        yield* device.compile(model, { name: "accumulator" })
        assert.isAbove(model.length, 0)
      }).pipe(Effect.scoped, Effect.provide(layer))
    )

    it.effect("computes only the outputs asked for", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        const session = yield* device.compile(accumulator(), { name: "accumulator", keep: ["next"] })
        const feeds = { state: Tensor.float32([1]), step: Tensor.float32([2]) }
        const outputs = yield* session.run(feeds, { fetch: ["total"] })
        assert.deepStrictEqual(Object.keys(outputs.tensors), ["total"])
        assert.deepStrictEqual(outputs.kept, {})
        assert.strictEqual((yield* device.stats).tensors, 0)
        assert.throws(() => Device.kept(outputs, "next"), /"next" was not kept/)
        assert.throws(() => Device.tensor(outputs, "loss", "float32"), /no output "loss" came back; there are total/)
        assert.throws(() => Device.tensor(outputs, "total", "int64"), /"total" is float32, not int64/)
        const error = yield* Effect.flip(session.run(feeds, { fetch: ["loss"] }))
        contains(error.message, `graph "accumulator"`, `"loss"`, "next, total")
      }).pipe(Effect.scoped, Effect.provide(layer))
    )

    it.effect("names the graph and the feed of a wrong run", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        const session = yield* device.compile(layerModel(), { name: "layer" })
        const x = Tensor.zeros([2, 64])
        const w = Tensor.zeros([64, 32])
        const wrong = {
          missing: { x },
          unknown: { x, w, weights: w },
          dtype: { x, w: Tensor.make("float64", new Float64Array(2048), [64, 32]) },
          shape: { x: Tensor.zeros([2, 63]), w }
        }
        const messages: Record<string, string> = {}
        for (const [name, feeds] of Object.entries(wrong)) {
          const error = yield* Effect.flip(session.run(feeds))
          assert.strictEqual(error._tag, "OrtError")
          assert.strictEqual(error.operation, "run")
          assert.strictEqual(error.graph, "layer")
          contains(error.message, `graph "layer"`)
          messages[name] = error.message
        }
        contains(messages.missing!, `feed "w" is missing`)
        contains(messages.unknown!, `feed "weights" is not an input`, "x, w")
        contains(messages.dtype!, `feed "w" is float64`, "float32")
        contains(messages.shape!, "x", "63", "64")
        // and the session still works
        assert.strictEqual((yield* session.run({ x, w })).tensors.y!.data.length, 64)
      }).pipe(Effect.scoped, Effect.provide(layer))
    )

    it.effect("refuses a handle that was released, and keeps handles of a run that failed", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        const session = yield* device.compile(accumulator(), { name: "accumulator" })
        const state = yield* device.upload(Tensor.float32([1, 2]))
        const failed = yield* Effect.flip(session.run({ state, step: Tensor.zeros([3]) }, { release: [state] }))
        assert.strictEqual(failed.operation, "run")
        sameTensor(yield* device.download(state), Tensor.float32([1, 2]))
        yield* session.run({ state, step: Tensor.zeros([2]) }, { release: [state] })
        const error = yield* Effect.flip(session.run({ state, step: Tensor.zeros([2]) }))
        contains(error.message, `graph "accumulator"`, `feed "state"`, "released")
        assert.strictEqual((yield* Effect.flip(device.download(state))).operation, "download")
      }).pipe(Effect.scoped, Effect.provide(layer))
    )

    it.effect("names the graph of a model that does not load", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        const compile = (...args: Parameters<typeof device.compile>) => Effect.flip(device.compile(...args))
        const garbage = yield* compile(Uint8Array.of(1, 2, 3, 4), { name: "policy" })
        assert.strictEqual(garbage._tag, "OrtError")
        assert.strictEqual(garbage.operation, "load")
        assert.strictEqual(garbage.graph, "policy")
        contains(garbage.message, `graph "policy"`, "protobuf")
        assert.instanceOf(garbage.cause, Error)
        const absent = yield* compile({ path: "/nowhere/model.onnx" }, { name: "judge" })
        contains(absent.message, `graph "judge"`, "/nowhere/model.onnx")
        const keep = yield* compile(accumulator(), { name: "accumulator", keep: ["nxt"] })
        contains(keep.message, `"nxt"`, "next, total")
        const truncated = yield* compile(layerModel().subarray(0, 60), { name: "torn" })
        contains(truncated.message, `graph "torn"`)
        assert.strictEqual((yield* device.stats).sessions, 0)
      }).pipe(Effect.scoped, Effect.provide(layer))
    )

    it.effect("loads a model from a path, lets its threads sleep and writes a profile when asked", () =>
      Effect.gen(function* () {
        const folder = mkdtempSync(join(tmpdir(), "attune-device-"))
        yield* Effect.addFinalizer(() => Effect.sync(() => rmSync(folder, { recursive: true })))
        const path = join(folder, "model.onnx")
        writeFileSync(path, accumulator())
        const device = yield* Device.Device
        yield* Effect.gen(function* () {
          const session = yield* device.compile(
            { path },
            { name: "accumulator", waiting: "sleep", profile: join(folder, "trace") }
          )
          const outputs = yield* session.run({ state: Tensor.float32([1]), step: Tensor.float32([2]) })
          sameTensor(outputs.tensors.next!, Tensor.float32([3]))
        }).pipe(Effect.scoped)
        assert.isTrue(readdirSync(folder).some((name) => name.startsWith("trace") && name.endsWith(".json")))
      }).pipe(Effect.scoped, Effect.provide(layer))
    )

    it.effect("refuses a session whose scope is closed", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        const session = yield* Effect.scoped(device.compile(accumulator(), { name: "accumulator" }))
        const error = yield* Effect.flip(session.run({ state: Tensor.float32([1]), step: Tensor.float32([2]) }))
        contains(error.message, `graph "accumulator"`, "scope is closed")
      }).pipe(Effect.provide(layer))
    )

    it.effect("never starts a run that is interrupted while it waits", () =>
      Effect.gen(function* () {
        const device = yield* Device.Device
        const session = yield* device.compile(slowModel(), { name: "slow", keep: ["y.final"] })
        const x = yield* device.upload(eye())
        const start = (n: number) =>
          Effect.forkChild(session.run({ x, trips: trips(n) }, { release: [x] }), { startImmediately: true })
        const ahead = yield* start(300)
        // Were it to start, this run would outlast the test; `stats` waits for its turn behind it.
        const waiting = yield* start(1_000_000)
        yield* Fiber.interrupt(waiting)
        yield* Fiber.interrupt(ahead)
        assert.strictEqual((yield* device.stats).tensors, 1)
        sameTensor(yield* device.download(x), eye())
      }).pipe(Effect.scoped, Effect.provide(layer))
    )
  })
}

const throughLayer = (layer: Layer.Layer<Device.Device, Device.OrtError | Device.ProviderUnavailable>) =>
  Effect.gen(function* () {
    const device = yield* Device.Device
    const session = yield* device.compile(layerModel(), { name: "layer" })
    const x = Tensor.float32(
      Float32Array.from({ length: 5 * 64 }, (_, i) => Math.sin(i)),
      [5, 64]
    )
    const w = Tensor.float32(
      Float32Array.from({ length: 64 * 32 }, (_, i) => Math.cos(i)),
      [64, 32]
    )
    return Device.tensor(yield* session.run({ x, w }), "y", "float32")
  }).pipe(Effect.scoped, Effect.provide(layer))

// Turns of the event loop, which the work on a device in process takes too.
const turns = (count: number) =>
  Effect.promise(async () => {
    for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
  })

// The Worker that the effect started, by Node's own event.
const captureWorker = Effect.sync(() => {
  const started: Array<Worker> = []
  const listener = (worker: Worker): void => {
    started.push(worker)
  }
  process.on("worker", listener)
  return { started, stop: () => process.off("worker", listener) }
})

describe("the worker", () => {
  it.effect("computes the same bits as in process", () =>
    Effect.gen(function* () {
      const onWorker = yield* throughLayer(places["on a worker"])
      sameTensor(onWorker, yield* throughLayer(places["in process"]))
      // tanh(sum_k sin(k) cos(32 k)) for row 0, column 0
      let product = 0
      for (let k = 0; k < 64; k++) product += Math.sin(k) * Math.cos(32 * k)
      assert.closeTo(onWorker.data[0]!, Math.tanh(product), 1e-5)
    })
  )

  it.live("leaves the event loop free while a graph runs", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      const session = yield* device.compile(slowModel(), { name: "slow" })
      let ticks = 0
      const timer = setInterval(() => ticks++, 1)
      const outputs = yield* session.run({ x: eye(), trips: trips(500) })
      clearInterval(timer)
      assert.isAbove(ticks, 5)
      sameTensor(outputs.tensors["y.final"]!, eye())
    }).pipe(Effect.scoped, Effect.provide(places["on a worker"]))
  )

  it.live("drops the outputs of an interrupted run and keeps the handles that it would have consumed", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      const session = yield* device.compile(slowModel(), { name: "slow", keep: ["y.final"] })
      const x = yield* device.upload(eye())
      let ended = false
      const running = yield* Effect.forkChild(
        Effect.ensuring(
          session.run({ x, trips: trips(1000) }, { release: [x] }),
          Effect.sync(() => {
            ended = true
          })
        ),
        { startImmediately: true }
      )
      yield* Effect.sleep(50)
      assert.isFalse(ended)
      yield* Fiber.interrupt(running)
      // `stats` is answered after the native run has ended.
      const { tensors, bytes } = yield* device.stats
      assert.deepStrictEqual({ tensors, bytes }, { tensors: 1, bytes: 256 * 256 * 4 })
      sameTensor(yield* device.download(x), eye())
    }).pipe(Effect.scoped, Effect.provide(places["on a worker"]))
  )

  it.live("is interrupted while it runs in an uninterruptible region too", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      const session = yield* device.compile(slowModel(), { name: "slow", keep: ["y.final"] })
      let delivered = false
      const owner = Effect.map(session.run({ x: eye(), trips: trips(1000) }), () => {
        delivered = true
      })
      const running = yield* Effect.forkChild(Effect.uninterruptible(owner), { startImmediately: true })
      yield* Effect.sleep(20)
      yield* Fiber.interrupt(running)
      assert.isFalse(delivered)
      assert.strictEqual((yield* device.stats).tensors, 0)
    }).pipe(Effect.scoped, Effect.provide(places["on a worker"]))
  )

  it.live("still downloads, uploads and releases for a fiber that was interrupted, but runs nothing", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      const session = yield* device.compile(accumulator(), { name: "accumulator" })
      const x = Tensor.float32([1, 2])
      const resident = yield* device.upload(x)
      const seen: Array<Tensor.Tensor> = []
      const finalizer = Effect.gen(function* () {
        seen.push(yield* device.download(resident))
        yield* device.release([yield* device.upload(x)])
        yield* session.run({ state: x, step: x })
        seen.push(x)
      })
      const fiber = yield* Effect.forkChild(
        Effect.onInterrupt(Effect.never, () => finalizer),
        {
          startImmediately: true
        }
      )
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(seen.length, 1)
      sameTensor(seen[0]!, x)
      assert.strictEqual((yield* device.stats).tensors, 1)
    }).pipe(Effect.scoped, Effect.provide(places["in process"]))
  )

  it.live("loses no output to an interruption, whatever the moment: it has an owner or is gone", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      const session = yield* device.compile(accumulator(), { name: "accumulator", keep: ["next"] })
      const feeds = { state: Tensor.float32([1, 2]), step: Tensor.float32([3, 4]) }
      const owned: Array<Device.DeviceTensor> = []
      const owner = Effect.uninterruptible(
        // Other fibers get their turn between the answer and its owner.
        Effect.flatMap(session.run(feeds), (outputs) =>
          Effect.map(turns(3), () => owned.push(Device.kept(outputs, "next")))
        )
      )
      for (let i = 0; i < 120; i++) {
        const running = yield* Effect.forkChild(Effect.asVoid(owner), { startImmediately: true })
        yield* turns(i % 40)
        yield* Fiber.interrupt(running)
      }
      const { tensors } = yield* device.stats
      assert.strictEqual(tensors, owned.length)
      assert.isAbove(owned.length, 0, "no run was quick enough to be interrupted late")
      assert.isBelow(owned.length, 120, "no run was interrupted")
    }).pipe(Effect.scoped, Effect.provide(places["in process"]))
  )

  it.live("compiles no longer for who was interrupted, whatever the moment: a session has a scope or is gone", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      const model = layerModel()
      yield* Effect.scoped(
        Effect.gen(function* () {
          let interrupted = 0
          for (let i = 0; i < 40; i++) {
            const compile = device.compile(model, { name: "layer" })
            const compiling = yield* Effect.forkChild(compile, { startImmediately: true })
            yield* turns(i % 10)
            yield* Fiber.interrupt(compiling)
            if (Exit.hasInterrupts(yield* Fiber.await(compiling))) interrupted++
            assert.strictEqual((yield* device.stats).sessions, i + 1 - interrupted)
          }
          assert.isAbove(interrupted, 0, "no compilation was interrupted")
          assert.isBelow(interrupted, 40, "no compilation was quick enough to be interrupted late")
        })
      )
      assert.strictEqual((yield* device.stats).sessions, 0)
    }).pipe(Effect.provide(places["in process"]))
  )

  it.live("fails what is pending, and all that follows, when it dies", () =>
    Effect.gen(function* () {
      const workers = yield* captureWorker
      const errors = yield* Effect.gen(function* () {
        const device = yield* Device.Device
        const session = yield* device.compile(accumulator(), { name: "accumulator" })
        const run = Effect.flip(session.run({ state: Tensor.zeros([2]), step: Tensor.zeros([2]) }))
        assert.strictEqual(workers.started.length, 1)
        // A message that the worker cannot read throws inside it. It goes out ahead of the run, which could otherwise
        // finish before the worker dies.
        workers.started[0]!.postMessage(null)
        const pending = yield* Effect.forkChild(run, { startImmediately: true })
        return [yield* Fiber.join(pending), yield* run]
      }).pipe(Effect.scoped, Effect.provide(places["on a worker"]), Effect.ensuring(Effect.sync(workers.stop)))
      for (const error of errors) {
        assert.strictEqual(error._tag, "OrtError")
        assert.strictEqual(error.operation, "worker")
        assert.strictEqual(error.graph, "accumulator")
        contains(error.message, `graph "accumulator"`, "worker failed", "TypeError")
      }
    })
  )

  it.live("ends when the layer closes, and fails runs that come later", () =>
    Effect.gen(function* () {
      const workers = yield* captureWorker
      const device = yield* Effect.scoped(
        Effect.gen(function* () {
          const context = yield* Layer.build(places["on a worker"])
          assert.strictEqual(workers.started.length, 1)
          assert.isAbove(workers.started[0]!.threadId, 0)
          return yield* Effect.provide(Device.Device, context)
        })
      ).pipe(Effect.ensuring(Effect.sync(workers.stop)))
      assert.strictEqual(workers.started[0]!.threadId, -1)
      const error = yield* Effect.flip(device.stats)
      assert.strictEqual(error.operation, "worker")
      contains(error.message, "device is closed")
    })
  )

  const runProgram = (body: string) =>
    Effect.promise(async () => {
      const program = `
        import { Context, Effect, Layer, Scope } from "effect"
        import { Graph, Model } from "@attune/core/onnx"
        import { Device } from "@attune/core/ort"
        const scope = Scope.makeUnsafe()
        const layer = Device.layer({ provider: "cpu", threads: 1 })
        const context = await Effect.runPromise(Layer.buildWithScope(layer, scope))
        const device = Context.get(context, Device.Device)
        ${body}
      `
      const args = ["--conditions=@attune/source", "--input-type=module", "--eval", program]
      const options = { cwd: join(import.meta.dirname, "../.."), timeout: 30_000 }
      // A program that never ends is killed, one that crashes dies by a signal: neither has an exit code.
      return new Promise<{ readonly ended: unknown; readonly stdout: string }>((resolve) =>
        execFile(process.execPath, args, options, (error, stdout) =>
          resolve({ ended: error === null ? 0 : (error.signal ?? error.code), stdout })
        )
      )
    })

  it.live("does not keep an idle program alive", () =>
    Effect.gen(function* () {
      const { ended, stdout } = yield* runProgram("console.log((await Effect.runPromise(device.stats)).tensors)")
      assert.deepStrictEqual({ ended, stdout }, { ended: 0, stdout: "0\n" })
    })
  )

  it.live("lets a program exit in the middle of a run with its own exit code", () =>
    Effect.gen(function* () {
      const { ended, stdout } = yield* runProgram(`
        const model = Uint8Array.from(${JSON.stringify(Array.from(slowModel()))})
        const session = await Effect.runPromise(Scope.provide(device.compile(model, { name: "slow" }), scope))
        const x = { dtype: "float32", shape: [256, 256], data: new Float32Array(65536).fill(1 / 256) }
        const trips = { dtype: "int64", shape: [], data: BigInt64Array.of(1200n) }
        setTimeout(() => process.exit(3), 100)
        await Effect.runPromise(session.run({ x, trips }))
        console.log("the run ended first")
      `)
      assert.deepStrictEqual({ ended, stdout }, { ended: 3, stdout: "" })
    })
  )
})

describe("providers", () => {
  it.live("probes each provider and refuses those that do not run here", (context) =>
    Effect.gen(function* () {
      const statuses = yield* Device.probe
      assert.deepStrictEqual(
        statuses.map(({ provider }) => provider),
        ["cpu", "webgpu", "cuda"]
      )
      assert.isTrue(statuses[0]!.available, statuses[0]!.reason)
      const absent = statuses.filter(({ available }) => !available)
      if (absent.length === 0) return context.skip("every provider runs here")
      for (const { provider, reason } of absent) {
        assert.isNotEmpty(reason)
        const error = yield* Device.Device.pipe(Effect.provide(Device.layer({ provider })), Effect.flip)
        assert(error._tag === "ProviderUnavailable")
        assert.strictEqual(error.provider, provider)
        contains(error.message, provider, reason, "ask for cpu")
      }
    })
  )

  it.live("refuses those whose hardware is hidden, on every machine", () =>
    Effect.gen(function* () {
      // Loaders of drivers read these: CUDA's, and Vulkan's on Linux.
      const hidden = { CUDA_VISIBLE_DEVICES: "-1", VK_ICD_FILENAMES: "/nowhere.json", VK_DRIVER_FILES: "/nowhere.json" }
      const before = Object.keys(hidden).map((name) => [name, process.env[name]] as const)
      Object.assign(process.env, hidden)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          for (const [name, value] of before) {
            if (value === undefined) delete process.env[name]
            else process.env[name] = value
          }
        })
      )
      for (const provider of ["cuda", ...(process.platform === "linux" ? (["webgpu"] as const) : [])] as const) {
        const error = yield* Device.Device.pipe(Effect.provide(Device.layer({ provider })), Effect.flip)
        assert(error._tag === "ProviderUnavailable")
        assert.strictEqual(error.provider, provider)
        assert.isNotEmpty(error.reason)
        contains(error.message, `provider ${provider} is not available: ${error.reason}; `, "ask for cpu")
      }
    }).pipe(Effect.scoped)
  )

  it.live("auto says what it chose and why", () =>
    Effect.gen(function* () {
      const { provider, reason } = yield* Device.Device
      assert.include(["cpu", "cuda"], provider)
      contains(reason, "auto", "cuda")
    }).pipe(Effect.provide(Device.layer()))
  )

  const webgpu = process.env.ATTUNE_TEST_WEBGPU === "1"
  it.live.skipIf(!webgpu)("webgpu keeps tensors on the GPU (needs ATTUNE_TEST_WEBGPU=1 and a Vulkan driver)", () =>
    Effect.gen(function* () {
      const device = yield* Device.Device
      assert.strictEqual(device.provider, "webgpu")
      yield* Effect.scoped(tenSteps)
      for (const tensor of samples) yield* Effect.scoped(roundTrip(tensor))
      assert.deepStrictEqual(yield* device.stats, { tensors: 0, bytes: 0, sessions: 0 })
      // A graph compiled for the CPU cannot read a GPU buffer, and says so instead of crashing.
      const session = yield* device.compile(accumulator(), { name: "accumulator", provider: "cpu" })
      const state = yield* device.upload(Tensor.float32([1]))
      const error = yield* Effect.flip(session.run({ state, step: Tensor.float32([2]) }))
      contains(error.message, `feed "state" is on the GPU`)
      sameTensor(
        (yield* session.run({ state: yield* device.download(state), step: Tensor.float32([2]) })).tensors.next!,
        Tensor.float32([3])
      )
      yield* device.release([state])
    }).pipe(Effect.scoped, Effect.provide(Device.layer({ provider: "webgpu" })))
  )
})
