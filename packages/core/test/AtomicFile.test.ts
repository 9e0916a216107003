import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { hostname, tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { afterAll, vi } from "vitest"
import * as AtomicFile from "../src/AtomicFile.ts"

/** Makes the file operation number `at` fail as on a full disk. */
const fault = { at: Number.POSITIVE_INFINITY, count: 0 }

vi.mock("node:fs/promises", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs/promises")>()
  const guarded =
    <Args extends ReadonlyArray<unknown>, A>(operation: (...args: Args) => Promise<A>) =>
    async (...args: Args): Promise<A> => {
      if (fault.count++ === fault.at) throw Object.assign(new Error("no space left"), { code: "ENOSPC" })
      return operation(...args)
    }
  return {
    ...actual,
    rename: guarded(actual.rename),
    open: guarded(async (path: string, flags: string) => {
      const handle = await actual.open(path, flags)
      return Object.assign(handle, {
        write: guarded(handle.write.bind(handle)),
        sync: guarded(handle.sync.bind(handle))
      })
    })
  }
})

const root = fs.mkdtempSync(join(tmpdir(), "attune-atomic-"))
afterAll(() => fs.rmSync(root, { recursive: true, force: true }))
let serial = 0
const fresh = () => join(root, String(serial++))

const write = (path: string, ...parts: ReadonlyArray<string>) =>
  AtomicFile.write(
    path,
    parts.map((part) => Buffer.from(part))
  )

const temporary = (path: string) => Effect.promise(() => AtomicFile.temporary(path))

describe("write", () => {
  it.effect("replaces a file, making the directories above it, and leaves nothing else", () =>
    Effect.gen(function* () {
      const directory = fresh()
      const path = join(directory, "a", "b", "file")
      yield* write(path, "old")
      const { bytes } = yield* write(path, "new", "er")
      assert.strictEqual(bytes, 5)
      assert.strictEqual(fs.readFileSync(path, "utf8"), "newer")
      assert.deepStrictEqual(fs.readdirSync(join(directory, "a", "b")), ["file"])
    })
  )

  it.effect("removes what killed processes left for the same file, and nothing else", () =>
    Effect.gen(function* () {
      const directory = fresh()
      const { pid: dead } = spawnSync(process.execPath, ["--version"])
      const left = [`.file.${hostname()}-${dead}-0a1b2c3d-0.tmp`, `.file.${hostname()}-${dead}-0a1b2c3d-12.tmp`]
      const others = [
        `.file.${hostname()}-${process.ppid}-0a1b2c3d-0.tmp`,
        `.file.elsewhere-${dead}-0a1b2c3d-0.tmp`,
        `.other.${hostname()}-${dead}-0a1b2c3d-0.tmp`,
        `.file.${hostname()}-${dead}-0a1b2c3d-0.tmp.txt`
      ]
      fs.mkdirSync(join(directory, left[0]!, "onnx"), { recursive: true })
      for (const name of [left[1]!, ...others]) fs.writeFileSync(join(directory, name), "")
      yield* write(join(directory, "file"), "new")
      assert.deepStrictEqual(fs.readdirSync(directory).sort(), ["file", ...others].sort())
    })
  )

  it.effect(
    "also where the killed process had the number that this one has, as the first of a container always does",
    () =>
      Effect.gen(function* () {
        const directory = fresh()
        fs.mkdirSync(directory)
        const path = join(directory, "file")
        const [older, own] = ["0a1b2c3d", "4e5f6071"].map((load) => `.file.${hostname()}-${process.pid}-${load}-0.tmp`)
        fs.mkdirSync(join(directory, older!))
        fs.utimesSync(join(directory, older!), 1e9, 1e9)
        fs.writeFileSync(join(directory, own!), "") // another thread is at it
        const name = yield* temporary(path)
        assert.isFalse(fs.existsSync(name))
        assert.deepStrictEqual(fs.readdirSync(directory), [own])
      })
  )

  it.effect("leaves the old file or the new one, and nothing else, on a disk that is full at any operation", () =>
    Effect.gen(function* () {
      const directory = fresh()
      const path = join(directory, "file")
      yield* write(path, "old")
      for (let at = 0; ; at++) {
        Object.assign(fault, { at, count: 0 })
        const result = yield* Effect.result(write(path, "new", "er"))
        const reached = fault.count > at
        fault.at = Number.POSITIVE_INFINITY
        assert.deepStrictEqual(fs.readdirSync(directory), ["file"])
        if (!reached) {
          assert.isAbove(at, 4)
          break
        }
        assert.strictEqual(result._tag, "Failure")
        if (result._tag === "Failure") {
          assert.strictEqual(result.failure._tag, "FileWriteError")
          assert.strictEqual(
            result.failure.message,
            `cannot write ${path}: the disk is full; free some space and try again (ENOSPC)`
          )
        }
        assert.include(["old", "newer"], fs.readFileSync(path, "utf8"))
        yield* write(path, "old")
      }
    })
  )

  it.effect("says what is in the way", () =>
    Effect.gen(function* () {
      const blocker = fresh()
      fs.writeFileSync(blocker, "")
      const inside = yield* Effect.flip(write(join(blocker, "file"), ""))
      assert.include(inside.message, "a file of that name is in the way")
      const below = yield* Effect.flip(write(join(blocker, "deeper", "file"), ""))
      assert.include(below.message, "a part of the path is a file")
      const directory = fresh()
      fs.mkdirSync(join(directory, "file"), { recursive: true })
      const replaced = yield* Effect.flip(write(join(directory, "file"), ""))
      assert.include(replaced.message, "a directory of that name is in the way")
      assert.deepStrictEqual(fs.readdirSync(directory), ["file"])
    })
  )

  it.effect.skipIf(process.platform !== "linux")("ends where the system makes no directories", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(write("/proc/attune/deeper/file", ""))
      assert.include(error.message, "the directory does not exist")
    })
  )
})
