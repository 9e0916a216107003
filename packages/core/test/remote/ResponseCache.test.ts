import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger, Schema } from "effect"
import { afterAll } from "vitest"
import * as ResponseCache from "../../src/remote/ResponseCache.ts"

const directory = fs.mkdtempSync(join(tmpdir(), "attune-cache-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))
let serial = 0
const fresh = () => join(directory, `folder-${serial++}`, "cache.jsonl")

const Value = Schema.Struct({ text: Schema.String })
const value = (text: string) => Effect.succeed({ text })
const unexpected = Effect.die("asked again")

/** Opens the cache, asks for the keys in turn, and returns what was found and what was warned of. */
const asked = Effect.fnUntraced(function* (path: string, keys: ReadonlyArray<string>, answer = "new") {
  const warnings: Array<string> = []
  const logger = Logger.make(({ message }) => warnings.push(String(message)))
  const found = yield* Effect.gen(function* () {
    const cache = yield* ResponseCache.open(path, Value)
    return yield* Effect.forEach(keys, (key) => cache.once(key, value(answer)))
  }).pipe(Effect.scoped, Effect.provide(Logger.layer([logger])))
  return { texts: found.map(({ cached, value: { text } }) => `${text} ${cached ? "kept" : "asked"}`), warnings }
})

describe("the file", () => {
  it.effect("keeps values for whoever opens it later, and makes its folder", () =>
    Effect.gen(function* () {
      const path = fresh()
      assert.deepStrictEqual((yield* asked(path, ["a", "b", "a"], "1")).texts, ["1 asked", "1 asked", "1 kept"])
      const { texts, warnings } = yield* asked(path, ["a", "b", "c"], "2")
      assert.deepStrictEqual(texts, ["1 kept", "1 kept", "2 asked"])
      assert.deepStrictEqual(warnings, [])
      assert.strictEqual(
        fs.readFileSync(path, "utf8"),
        '{"key":"a","value":{"text":"1"}}\n{"key":"b","value":{"text":"1"}}\n{"key":"c","value":{"text":"2"}}\n'
      )
    })
  )

  it.effect("has the line before the value is handed on", () =>
    Effect.gen(function* () {
      const path = fresh()
      const cache = yield* ResponseCache.open(path, Value)
      yield* cache.once("a", value("1"))
      assert.strictEqual(fs.readFileSync(path, "utf8"), '{"key":"a","value":{"text":"1"}}\n')
    }).pipe(Effect.scoped)
  )

  it.effect.each(Array.from({ length: 33 }, (_, cut) => cut))("survives a last line cut after %i bytes", (cut) =>
    Effect.gen(function* () {
      const path = fresh()
      yield* asked(path, ["a", "b"], "1")
      const whole = fs.readFileSync(path)
      const line = whole.byteLength / 2
      fs.writeFileSync(path, whole.subarray(0, line + cut))
      const isWhole = cut >= line - 1
      const first = yield* asked(path, ["a", "b"], "2")
      assert.deepStrictEqual(first.texts, ["1 kept", isWhole ? "1 kept" : "2 asked"])
      // Neither the torn line nor what was written after it makes trouble later.
      const second = yield* asked(path, ["a", "b"], "3")
      assert.deepStrictEqual(second.texts, ["1 kept", isWhole ? "1 kept" : "2 kept"])
    })
  )

  it.effect("does not use lines that hold no value, and says which", () =>
    Effect.gen(function* () {
      const path = fresh()
      yield* asked(path, ["a", "b", "c", "d", "e"], "1")
      const lines = fs.readFileSync(path, "utf8").split("\n")
      lines[1] = '{"key":"b","value":{"text":7}}'
      lines[2] = "\0\0\0\0"
      lines[3] = '{"value":{"text":"no key"}}'
      fs.writeFileSync(path, lines.join("\n"))
      const { texts, warnings } = yield* asked(path, ["a", "b", "c", "d", "e"], "2")
      assert.deepStrictEqual(texts, ["1 kept", "2 asked", "2 asked", "2 asked", "1 kept"])
      assert.lengthOf(warnings, 1)
      assert.include(warnings[0]!, `${path}: 3 lines hold no answer (line 2, 3, 4)`)
      assert.deepStrictEqual((yield* asked(path, ["b", "c", "d"], "3")).texts, ["2 kept", "2 kept", "2 kept"])
    })
  )

  it.effect("may be open twice", () =>
    Effect.gen(function* () {
      const path = fresh()
      yield* Effect.gen(function* () {
        const one = yield* ResponseCache.open(path, Value)
        const other = yield* ResponseCache.open(path, Value)
        for (let i = 0; i < 20; i++) {
          yield* one.once(`one ${i}`, value("1"))
          yield* other.once(`other ${i}`, value("1"))
        }
      }).pipe(Effect.scoped)
      const keys = Array.from({ length: 20 }, (_, i) => [`one ${i}`, `other ${i}`]).flat()
      assert.deepStrictEqual(
        (yield* asked(path, keys)).texts,
        keys.map(() => "1 kept")
      )
    })
  )

  it.effect("that cannot be made is an error that names it", () =>
    Effect.gen(function* () {
      const path = fresh()
      yield* asked(path, ["a"])
      const below = join(path, "cache.jsonl")
      const error = yield* Effect.flip(Effect.scoped(ResponseCache.open(below, Value)))
      assert.instanceOf(error, ResponseCache.ResponseCacheError)
      assert.include(error.message, `response cache ${below}: a file of that name is in the way`)
    })
  )
})

// A limit of 4 KiB for files stands for a full disk; Windows has none.
describe.skipIf(process.platform === "win32")("a full disk", () => {
  const script = `
    import { Effect, Schema } from "effect"
    const ResponseCache = await import(${JSON.stringify(new URL("../../src/remote/ResponseCache.ts", import.meta.url).href)})
    const program = Effect.gen(function* () {
      const cache = yield* ResponseCache.open(process.argv[1], Schema.String)
      yield* cache.once("a", Effect.succeed("short"))
      const error = yield* Effect.flip(cache.once("b", Effect.succeed("long".repeat(2000))))
      return [error.message, yield* cache.size]
    })
    process.stdout.write(JSON.stringify(await Effect.runPromise(Effect.scoped(program))))`

  it("is an error, hands nothing on, and leaves what was kept", () => {
    const path = join(directory, "full.jsonl")
    const { stderr, stdout } = spawnSync(
      "bash",
      [
        "-c",
        `trap "" XFSZ; ulimit -f 4; exec "$@"`,
        "bash",
        process.execPath,
        "--input-type=module",
        "-e",
        script,
        path
      ],
      { cwd: import.meta.dirname, encoding: "utf8" }
    )
    assert.notStrictEqual(stdout, "", stderr)
    const [message, size] = JSON.parse(stdout)
    assert.include(message, `response cache ${path}: the file is larger than this disk or this user may hold`)
    assert.strictEqual(size, 1)
    const [line, torn, ...rest] = fs.readFileSync(path, "utf8").split("\n")
    assert.strictEqual(line, '{"key":"a","value":"short"}')
    assert.isTrue(torn!.startsWith('{"key":"b"'))
    assert.deepStrictEqual(rest, [])
  })
})

describe("once", () => {
  it.effect("sends one request for fibers that ask together", () =>
    Effect.gen(function* () {
      const cache = yield* ResponseCache.open(undefined, Value)
      let sent = 0
      const gate = yield* Deferred.make<void>()
      const request = Effect.andThen(
        Effect.sync(() => sent++),
        Effect.as(Deferred.await(gate), { text: "1" })
      )
      const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(cache.once("a", request)))
      yield* Effect.yieldNow
      yield* Deferred.succeed(gate, undefined)
      const found = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(
        found.map(({ cached }) => cached),
        [false, true, true]
      )
      assert.strictEqual(sent, 1)
      assert.strictEqual(yield* cache.size, 1)
    }).pipe(Effect.scoped)
  )

  it.effect("gives them the one failure, which is not kept", () =>
    Effect.gen(function* () {
      const cache = yield* ResponseCache.open(undefined, Value)
      let sent = 0
      const failing = Effect.andThen(
        Effect.sync(() => sent++),
        Effect.andThen(Effect.yieldNow, Effect.fail("no"))
      )
      const exits = yield* Effect.forEach([1, 2, 3], () => Effect.exit(cache.once("a", failing)), {
        concurrency: "unbounded"
      })
      for (const exit of exits) assert.deepStrictEqual(exit, Exit.fail("no"))
      assert.strictEqual(sent, 1)
      assert.deepStrictEqual(yield* cache.once("a", value("1")), { value: { text: "1" }, cached: false })
    }).pipe(Effect.scoped)
  )

  it.effect("goes on with another fiber when the one that sent it is interrupted", () =>
    Effect.gen(function* () {
      const cache = yield* ResponseCache.open(undefined, Value)
      const sender = yield* Effect.forkChild(cache.once("a", Effect.never))
      yield* Effect.yieldNow
      const others = yield* Effect.forEach(["1", "2"], (text) => Effect.forkChild(cache.once("a", value(text))))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(sender)
      const found = yield* Effect.forEach(others, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(
        found.map(({ cached, value: { text } }) => [text, cached]),
        [
          ["1", false],
          ["1", true]
        ]
      )
    }).pipe(Effect.scoped)
  )

  it.effect("can be interrupted while it waits for another fiber", () =>
    Effect.gen(function* () {
      const cache = yield* ResponseCache.open(undefined, Value)
      const gate = yield* Deferred.make<void>()
      const sender = yield* Effect.forkChild(cache.once("a", Effect.as(Deferred.await(gate), { text: "1" })))
      yield* Effect.yieldNow
      const waiting = yield* Effect.forkChild(cache.once("a", unexpected))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(waiting)
      yield* Deferred.succeed(gate, undefined)
      assert.isFalse((yield* Fiber.join(sender)).cached)
    }).pipe(Effect.scoped)
  )
})
