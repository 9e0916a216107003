import { spawn } from "node:child_process"
import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, Option, Schema } from "effect"
import { uniformInt } from "pure-rand/distribution/uniformInt"
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import { afterAll, beforeEach, vi } from "vitest"
import * as Checkpoint from "../src/Checkpoint.ts"
import * as Tensor from "../src/Tensor.ts"

/** Makes the file operation number `at` fail; after a crash every later one fails too, as if the process were gone. */
const fault = { at: Number.POSITIVE_INFINITY, count: 0, crash: false }

vi.mock("node:fs/promises", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs/promises")>()
  const fails = () => {
    const number = fault.count++
    return fault.crash ? number >= fault.at : number === fault.at
  }
  const full = () => Object.assign(new Error("no space left"), { code: "ENOSPC" })
  const guarded =
    <Args extends ReadonlyArray<unknown>, A>(operation: (...args: Args) => Promise<A>) =>
    async (...args: Args): Promise<A> => {
      if (fails()) throw full()
      return operation(...args)
    }
  return {
    ...actual,
    mkdir: guarded(actual.mkdir),
    rename: guarded(actual.rename),
    rm: guarded(actual.rm),
    open: async (path: string, flags: string) => {
      if (fails()) throw full()
      const handle = await actual.open(path, flags)
      return {
        read: handle.read.bind(handle),
        stat: handle.stat.bind(handle),
        close: () => handle.close(),
        sync: guarded(() => handle.sync()),
        write: async (data: Uint8Array, offset: number, length: number) => {
          if (!fails()) return handle.write(data, offset, length)
          await handle.write(data, offset, Math.floor(length / 2))
          throw full()
        }
      }
    }
  }
})

beforeEach(() => {
  Object.assign(fault, { at: Number.POSITIVE_INFINITY, count: 0, crash: false })
})

const directory = fs.mkdtempSync(join(tmpdir(), "attune-checkpoint-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))

let serial = 0
const freshRoot = () => join(directory, `run-${serial++}`)

const content = (step: number, fingerprint = "gpt2"): Checkpoint.Content => ({
  step,
  fingerprint,
  tensors: {
    params: new Map<string, Tensor.Tensor>([
      ["wte.weight", Tensor.float32([step, step + 0.5, -step, 1e-45], [2, 2])],
      ["ids", Tensor.int64([step])]
    ]),
    m: new Map([["wte.weight", Tensor.float32([1, 2, 3, 4], [2, 2])]])
  },
  state: { learningRate: 0.001, step },
  seeds: { run: 7 },
  cursor: { epoch: 0, row: step * 16 },
  rng: [1, 2, 3, 4],
  versions: { attune: "0.1.0", ort: "1.30.0" }
})

const names = (root: string) => fs.readdirSync(root).sort()

/** What a run resumes from, with the warnings that it gave on the way. */
const resume = (root: string, fingerprint = "gpt2") =>
  Effect.gen(function* () {
    const warnings: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      warnings.push(`${logLevel}: ${message}`)
    })
    const found = yield* Checkpoint.latest(root, { fingerprint }).pipe(Effect.provide(Logger.layer([logger])))
    return { warnings, step: Option.isSome(found) ? found.value.step : undefined }
  })

describe("save and load", () => {
  it.effect("give every part back", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      const saved = content(40)
      const path = yield* Checkpoint.save(root, saved)
      assert.strictEqual(path, join(root, "step-00000040"))
      assert.deepStrictEqual(names(path), ["m.safetensors", "manifest.json", "params.safetensors"])
      const loaded = yield* Checkpoint.load(path, { fingerprint: "gpt2" })
      assert.strictEqual(loaded.step, 40)
      assert.deepStrictEqual(loaded.state, saved.state)
      assert.deepStrictEqual(loaded.manifest.seeds, { run: 7 })
      assert.deepStrictEqual(loaded.manifest.cursor, { epoch: 0, row: 640 })
      assert.deepStrictEqual(loaded.manifest.rng, [1, 2, 3, 4])
      assert.deepStrictEqual(loaded.manifest.versions, { node: process.version, attune: "0.1.0", ort: "1.30.0" })
      assert.deepStrictEqual(Object.keys(loaded.tensors), ["params", "m"])
      for (const [stem, group] of Object.entries(saved.tensors)) {
        for (const [name, tensor] of group) assert.deepStrictEqual(loaded.tensors[stem]?.get(name), tensor)
      }
    })
  )

  it.effect("keep every bit, payloads of NaN included", () =>
    Effect.gen(function* () {
      const bits = Uint32Array.of(0x7f800001, 0xffc12345, 0x80000000, 0x00000001, 0x7f800000, 0x3f9e0419)
      const weights = new Map([["w", Tensor.float32(new Float32Array(bits.buffer))]])
      const path = yield* Checkpoint.save(freshRoot(), { ...content(1), tensors: { params: weights } })
      const loaded = yield* Checkpoint.load(path)
      assert.deepStrictEqual([...new Uint32Array(loaded.tensors.params!.get("w")!.data.buffer)], [...bits])
    })
  )

  it.effect("decode the state with the caller's schema", () =>
    Effect.gen(function* () {
      const path = yield* Checkpoint.save(freshRoot(), content(3))
      const state = Schema.Struct({ learningRate: Schema.Finite, step: Schema.Int })
      const loaded = yield* Checkpoint.load(path, { state })
      assert.strictEqual(loaded.state.learningRate, 0.001)
      const other = Schema.Struct({ momentum: Schema.Finite })
      const error = yield* Effect.flip(Checkpoint.load(path, { state: other }))
      assert.strictEqual(error.reason, "State")
      assert.match(error.message, /momentum/)
    })
  )

  it.effect("replace a checkpoint of the same step", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      yield* Checkpoint.save(root, content(5))
      const path = yield* Checkpoint.save(root, { ...content(5), state: "second" })
      assert.strictEqual((yield* Checkpoint.load(path)).state, "second")
      assert.deepStrictEqual(names(root), ["step-00000005"])
    })
  )

  it.effect("refuse a state that JSON cannot hold", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Checkpoint.save(freshRoot(), { ...content(1), state: { loss: Number.NaN } }))
      assert.strictEqual(error.reason, "State")
      assert.match(error.message, /state is not JSON/)
    })
  )

  it.effect("refuse a checkpoint from another model", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      const path = yield* Checkpoint.save(root, content(1))
      yield* Checkpoint.save(root, content(2, "llama"))
      const attempts = [
        Checkpoint.load(path, { fingerprint: "qwen" }),
        Effect.asVoid(Checkpoint.latest(root, { fingerprint: "gpt2" }))
      ]
      for (const attempt of attempts) {
        const error = yield* Effect.flip(Effect.asVoid(attempt))
        assert.strictEqual(error._tag, "CheckpointError")
        assert.strictEqual(error.reason, "Fingerprint")
        assert.match(error.message, /from another model, or from a run with other data or settings: its fingerprint is/)
        assert.match(error.message, /resume with .* that it was saved with, or choose another directory/)
      }
    })
  )

  it.effect("refuse a manifest of another format", () =>
    Effect.gen(function* () {
      const path = yield* Checkpoint.save(freshRoot(), content(1))
      const manifest = join(path, "manifest.json")
      const text = fs.readFileSync(manifest, "utf8").replace(`"format": 1`, `"format": 2`)
      const body = text.slice(0, text.lastIndexOf(`,\n  "checksum"`))
      const { createHash } = yield* Effect.promise(() => import("node:crypto"))
      const checksum = createHash("sha256").update(body).digest("hex")
      fs.writeFileSync(manifest, `${body},\n  "checksum": "${checksum}"\n}\n`)
      assert.strictEqual((yield* Effect.flip(Checkpoint.load(path))).reason, "Version")
    })
  )

  it.effect("say that a directory is absent", () =>
    Effect.gen(function* () {
      assert.strictEqual((yield* Effect.flip(Checkpoint.load(join(directory, "absent")))).reason, "Missing")
      assert.deepStrictEqual(yield* resume(join(directory, "absent")), { warnings: [], step: undefined })
    })
  )
})

describe("damage", () => {
  const files = ["manifest.json", "params.safetensors", "m.safetensors"]
  const damages: ReadonlyArray<readonly [string, (path: string) => void]> = [
    ["deleted", (path) => fs.rmSync(path)],
    ["emptied", (path) => fs.truncateSync(path, 0)],
    ["cut in the middle", (path) => fs.truncateSync(path, fs.statSync(path).size >> 1)],
    ["cut by one byte", (path) => fs.truncateSync(path, fs.statSync(path).size - 1)],
    ["longer by one byte", (path) => fs.appendFileSync(path, "\n")]
  ]
  for (const name of files) {
    for (const [damage, apply] of damages) {
      it.effect(`${name} ${damage}: the checkpoint before it is used, with a warning`, () =>
        Effect.gen(function* () {
          const root = freshRoot()
          yield* Checkpoint.save(root, content(10))
          const path = yield* Checkpoint.save(root, content(20))
          apply(join(path, name))
          const error = yield* Effect.flip(Checkpoint.load(path))
          // A manifest of another size shows by its checksum.
          assert.strictEqual(error.reason, name === "manifest.json" && damage !== "deleted" ? "Corrupt" : "Torn")
          const { step, warnings } = yield* resume(root)
          assert.strictEqual(step, 10)
          assert.strictEqual(warnings.length, 1)
          assert.match(warnings[0]!, /^Warn: skipped checkpoint .*step-00000020: /)
          assert.include(warnings[0]!, name)
        })
      )
    }

    it.effect(`${name}: every flipped bit is noticed`, () =>
      Effect.gen(function* () {
        const path = yield* Checkpoint.save(freshRoot(), content(20))
        const original = fs.readFileSync(join(path, name))
        // a stride coprime to 8, so that every bit of a byte has its turn
        for (let bit = 0; bit < original.byteLength * 8; bit += 37) {
          const flipped = Buffer.from(original)
          flipped[bit >> 3]! ^= 1 << (bit & 7)
          fs.writeFileSync(join(path, name), flipped)
          const error = yield* Effect.flip(Checkpoint.load(path, { fingerprint: "gpt2" }))
          assert.strictEqual(error.reason, "Corrupt", `bit ${bit}`)
        }
        fs.writeFileSync(join(path, name), original)
        assert.strictEqual((yield* Checkpoint.load(path)).step, 20)
      })
    )
  }

  it.effect("when nothing is whole there is nothing to resume from", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      for (const step of [1, 2]) fs.rmSync(join(yield* Checkpoint.save(root, content(step)), "manifest.json"))
      const { step, warnings } = yield* resume(root)
      assert.strictEqual(step, undefined)
      assert.strictEqual(warnings.length, 2)
    })
  )
})

describe("keepLast", () => {
  it.effect("keeps that many, and the one just saved always", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      for (const step of [1, 2, 3, 4]) yield* Checkpoint.save(root, content(step), { keepLast: 2 })
      assert.deepStrictEqual(names(root), ["step-00000003", "step-00000004"])
      // A run resumed from step 1 leaves the later steps of the abandoned run alone.
      yield* Checkpoint.save(root, content(2), { keepLast: 1 })
      assert.deepStrictEqual(names(root), ["step-00000002", "step-00000003", "step-00000004"])
    })
  )

  it.effect("removes nothing when the new checkpoint cannot be written", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      yield* Checkpoint.save(root, content(1), { keepLast: 1 })
      Object.assign(fault, { at: 6, count: 0 })
      assert.strictEqual((yield* Effect.flip(Checkpoint.save(root, content(2), { keepLast: 1 }))).reason, "Write")
      assert.deepStrictEqual(names(root), ["step-00000001"])
    })
  )
})

describe("failures while saving", () => {
  it.effect("a root that cannot be made is a typed error", () =>
    Effect.gen(function* () {
      const blocker = freshRoot()
      fs.writeFileSync(blocker, "a file")
      const error = yield* Effect.flip(Checkpoint.save(join(blocker, "checkpoints"), content(1)))
      assert.strictEqual(error.reason, "Write")
      assert.match(error.message, /is a file, not a directory/)
    })
  )

  it.effect.skipIf(process.platform !== "linux")("a root where the system makes no directories is a typed error", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Checkpoint.save("/proc/attune/checkpoints", content(1)))
      assert.strictEqual(error.reason, "Write")
      assert.match(error.message, /the directory does not exist/)
    })
  )

  it.effect.skipIf(process.getuid?.() === 0)("a read-only root is a typed error", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      fs.mkdirSync(root, { mode: 0o500 })
      assert.match((yield* Effect.flip(Checkpoint.save(root, content(1)))).message, /permission denied/)
    })
  )

  // Both scenarios: the next step, and the same step again.
  for (const step of [2, 1]) {
    it.effect(`a full disk at any operation leaves the checkpoint before (saving step ${step} after 1)`, () =>
      Effect.gen(function* () {
        for (let at = 0, failed = true; failed; at++) {
          const root = freshRoot()
          yield* Checkpoint.save(root, content(1))
          Object.assign(fault, { at, count: 0, crash: false })
          const result = yield* Effect.result(Checkpoint.save(root, content(step), { keepLast: 1 }))
          failed = fault.count > at
          fault.at = Number.POSITIVE_INFINITY
          if (result._tag === "Failure") {
            assert.strictEqual(result.failure.reason, "Write")
            assert.match(result.failure.message, /the disk is full/)
          }
          const after = yield* resume(root)
          assert.include([1, step], after.step, `operation ${at}`)
          assert.deepStrictEqual(after.warnings, [])
          if (!failed) assert.isAbove(at, 10)
        }
      })
    )

    it.effect(`a crash at any operation leaves a whole checkpoint (saving step ${step} after 1)`, () =>
      Effect.gen(function* () {
        for (let at = 0, crashed = true; crashed; at++) {
          const root = freshRoot()
          yield* Checkpoint.save(root, content(1))
          Object.assign(fault, { at, count: 0, crash: true })
          const result = yield* Effect.result(Checkpoint.save(root, content(step), { keepLast: 1 }))
          crashed = fault.count > at
          assert.strictEqual(result._tag, crashed ? "Failure" : "Success")
          fault.at = Number.POSITIVE_INFINITY
          const after = yield* resume(root)
          assert.include([1, step], after.step, `operation ${at}`)
          assert.deepStrictEqual(after.warnings, [], `operation ${at}`)
          // The next save tidies up whatever the crash left.
          yield* Checkpoint.save(root, content(3), { keepLast: 1 })
          assert.deepStrictEqual(names(root), ["step-00000003"])
        }
      })
    )
  }

  it.effect("leftovers of a killed run are ignored and removed by the next save", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      yield* Checkpoint.save(root, content(1))
      fs.cpSync(join(root, "step-00000001"), join(root, ".tmp-step-00000009"), { recursive: true })
      assert.deepStrictEqual(yield* resume(root), { warnings: [], step: 1 })
      yield* Checkpoint.save(root, content(2))
      assert.deepStrictEqual(names(root), ["step-00000001", "step-00000002"])
    })
  )

  it.live("kill -9 at random moments always leaves a checkpoint to resume from", () =>
    Effect.gen(function* () {
      const root = freshRoot()
      const random = xoroshiro128plus(40)
      let first = 0
      for (let round = 0; round < 6; round++) {
        yield* Effect.promise(
          () =>
            new Promise<void>((done, failed) => {
              const script = join(import.meta.dirname, "checkpoint-loop.ts")
              const child = spawn(process.execPath, ["--conditions=@attune/source", script, root, String(first)], {
                stdio: ["ignore", "pipe", "inherit"]
              })
              // Counted in saves, so that a slow disk gets as far, and then at any moment of the next.
              let begun = 0
              const last = uniformInt(random, 3, 6)
              const delay = uniformInt(random, 0, 30)
              child.stdout.on("data", (data) => {
                const before = begun
                begun += String(data).length
                if (before < last && begun >= last) setTimeout(() => child.kill("SIGKILL"), delay)
              })
              child.once("exit", (_code, signal) => (signal === "SIGKILL" ? done() : failed(new Error("died early"))))
            })
        )
        const found = yield* Checkpoint.latest(root, { fingerprint: "loop" })
        if (Option.isNone(found)) {
          assert.strictEqual(first, 0, "a checkpoint existed before this round")
          continue
        }
        const { state, step, tensors } = found.value
        assert.isAtLeast(step, first - 1)
        assert.deepStrictEqual(state, { step })
        assert.isTrue(tensors.params!.get("w")!.data.every((x) => x === step))
        assert.isTrue(tensors.m!.get("w")!.data.every((x) => x === -step))
        first = step + 1
      }
      assert.isAbove(first, 6)
    })
  )
})
