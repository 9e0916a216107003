import { spawn } from "node:child_process"
import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Logger, Schema } from "effect"
import { afterAll, afterEach, vi } from "vitest"
import * as Journal from "../src/Journal.ts"

/** What the disk does: stop a write half-way, refuse to open or to flush; what it did; what a flush waits for. */
const disk = {
  full: false,
  openFails: undefined as string | undefined,
  flushFails: false,
  events: [] as Array<string>,
  flushing: Promise.resolve()
}
const failure = (code: string) => Object.assign(new Error("the disk says no"), { code })

vi.mock("node:fs", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs")>()
  return {
    ...actual,
    openSync: (path: string, flags: string) => {
      if (disk.openFails !== undefined) throw failure(disk.openFails)
      return actual.openSync(path, flags)
    },
    writeFileSync: (file: number | string, data: string | Uint8Array) => {
      if (typeof file === "number") disk.events.push(`write ${data.length}`)
      if (!disk.full) return actual.writeFileSync(file, data)
      actual.writeFileSync(file, data.slice(0, 9))
      throw failure("ENOSPC")
    },
    fsync: (file: number, done: (error: Error | null) => void) => {
      disk.events.push("flush")
      if (disk.flushFails) done(failure("EIO"))
      else void disk.flushing.then(() => actual.fsync(file, done))
    }
  }
})

vi.mock("node:fs/promises", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs/promises")>()
  return {
    ...actual,
    open: (path: string, flags: string) => {
      disk.events.push(`open ${path}`)
      return actual.open(path, flags)
    }
  }
})

const directory = fs.mkdtempSync(join(tmpdir(), "attune-journal-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))
afterEach(() => {
  Object.assign(disk, { full: false, openFails: undefined, flushFails: false, flushing: Promise.resolve() })
})

let serial = 0
const fresh = () => join(directory, `journal-${serial++}.jsonl`)

const Draft = Schema.Struct({ id: Schema.String, text: Schema.String, score: Schema.optionalKey(Schema.Finite) })
type Draft = typeof Draft.Type

const drafts: readonly [Draft, Draft, Draft] = [
  { id: "a", text: "één \ufffd 😀" },
  { id: "b", text: "two\nlines", score: 0.1 },
  { id: "c", text: "" }
]
const open = (path: string | undefined, options: Partial<Journal.Options<Draft>> = {}) =>
  Journal.open({ path, schema: Draft, keyOf: ({ id }) => id, resume: true, ...options })
const append = (path: string | undefined, records: ReadonlyArray<Draft>) =>
  Effect.flatMap(open(path), (journal) => journal.append(records))
const errorOf = <A>(effect: Effect.Effect<A, Journal.JournalError>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.strictEqual(error._tag, "JournalError")
    return error
  })
const linesOf = (records: ReadonlyArray<Draft>) => records.map((record) => `${JSON.stringify(record)}\n`).join("")

const warningsOf = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.suspend(() => {
    const warnings: Array<string> = []
    const logger = Logger.make(({ message }) => warnings.push(String(message)))
    return Effect.map(Effect.provide(effect, Logger.layer([logger])), (value) => ({ value, warnings }))
  })

describe("a journal", () => {
  it.effect("has its records again when it is opened again, in their order", () =>
    Effect.gen(function* () {
      const path = fresh()
      const journal = yield* open(path)
      assert.deepStrictEqual(journal.records, [])
      yield* journal.append(drafts.slice(0, 2))
      yield* journal.append([])
      yield* journal.append(drafts.slice(2))
      assert.strictEqual(fs.readFileSync(path, "utf8"), linesOf(drafts))
      const again = yield* open(path)
      assert.deepStrictEqual(again.records, drafts)
      for (const { id } of drafts) assert.deepStrictEqual(again.get(id), journal.get(id))
      assert.strictEqual(again.get("d"), undefined)
    })
  )

  it.effect("gives the later of two records with one key, and has both among the records", () =>
    Effect.gen(function* () {
      const path = fresh()
      const [first, second] = [
        { id: "a", text: "first" },
        { id: "a", text: "second" }
      ]
      const journal = yield* open(path)
      yield* journal.append([first])
      assert.deepStrictEqual(journal.get("a"), first)
      yield* journal.append([second, drafts[1]])
      assert.deepStrictEqual(journal.get("a"), second)
      const again = yield* open(path)
      assert.deepStrictEqual(again.get("a"), second)
      assert.deepStrictEqual(again.records, [first, second, drafts[1]])
    })
  )

  it.effect("without a path remembers while the program runs", () =>
    Effect.gen(function* () {
      const journal = yield* open(undefined)
      yield* journal.append(drafts)
      assert.deepStrictEqual(journal.get("b"), drafts[1])
      assert.deepStrictEqual((yield* open(undefined)).records, [])
    })
  )

  it.effect("has flushed what was added before the effect is done, and the name of a new file", () =>
    Effect.gen(function* () {
      disk.events.length = 0
      const journal = yield* open(fresh())
      assert.strictEqual(disk.events.at(-1), `open ${directory}`)
      for (const draft of drafts) {
        disk.events.length = 0
        yield* journal.append([draft])
        assert.deepStrictEqual(disk.events, [`write ${linesOf([draft]).length}`, "flush"])
      }
    })
  )

  it.live("finishes what it has begun to add, although it is interrupted", () =>
    Effect.gen(function* () {
      const path = fresh()
      const journal = yield* open(path)
      const { promise, resolve } = Promise.withResolvers<void>()
      disk.flushing = promise
      disk.events.length = 0
      const fiber = yield* Effect.forkChild(journal.append(drafts))
      while (!disk.events.includes("flush")) yield* Effect.yieldNow
      const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber))
      yield* Effect.yieldNow
      assert.strictEqual(journal.get("a"), undefined)
      resolve()
      yield* Fiber.join(interruption)
      assert.deepStrictEqual(journal.get("a"), drafts[0])
      assert.deepStrictEqual((yield* open(path)).records, drafts)
    })
  )

  it.live("writes one after the other what fibers add at once, and takes back only what failed", () =>
    Effect.gen(function* () {
      const path = fresh()
      const journal = yield* open(path)
      const many = Array.from({ length: 20 }, (_, i) => ({ id: `${i}`, text: "x".repeat(i) }))
      const add = (draft: Draft) =>
        Effect.exit(
          Effect.suspend(() => {
            // Fails between the write and the end of the flush, when others wait for their turn.
            disk.flushFails = draft.id === "7"
            return journal.append([draft])
          })
        )
      yield* Effect.all(many.slice(0, 7).map(add), { concurrency: "unbounded" })
      yield* Effect.all(many.slice(7).map(add), { concurrency: "unbounded" })
      disk.flushFails = false
      const { records } = yield* open(path)
      assert.deepStrictEqual(
        records,
        many.filter(({ id }) => journal.get(id) !== undefined)
      )
      assert.isAtLeast(records.length, 7)
    })
  )

  it.effect("adds to the file that has the name, which an editor may have put there meanwhile", () =>
    Effect.gen(function* () {
      const path = fresh()
      const journal = yield* open(path)
      yield* journal.append(drafts.slice(0, 1))
      const edited = { id: "a", text: "corrected" }
      fs.writeFileSync(`${path}.new`, linesOf([edited]))
      fs.renameSync(`${path}.new`, path)
      yield* journal.append(drafts.slice(1))
      assert.deepStrictEqual((yield* open(path)).records, [edited, ...drafts.slice(1)])
    })
  )
})

describe("after a crash, a journal", () => {
  it.effect("cut at any byte has every whole record, and goes on as if it had never had more", () =>
    Effect.gen(function* () {
      const path = fresh()
      yield* append(path, drafts)
      const whole = fs.readFileSync(path)
      for (let size = 0; size <= whole.length; size++) {
        fs.writeFileSync(path, whole.subarray(0, size))
        // A record that lacks its end of line alone is whole.
        const kept = drafts.filter((_, i) => size >= Buffer.byteLength(linesOf(drafts.slice(0, i + 1))) - 1)
        const { value: journal, warnings } = yield* warningsOf(open(path))
        assert.deepStrictEqual(journal.records, kept, `${size} bytes`)
        assert.deepStrictEqual(warnings, [])
        assert.strictEqual(fs.readFileSync(path, "utf8"), linesOf(kept))
        yield* journal.append(drafts.slice(kept.length))
        assert.isTrue(fs.readFileSync(path).equals(whole), `${size} bytes`)
      }
    })
  )

  it.effect("drops zeros that a power failure left at the end", () =>
    Effect.gen(function* () {
      const path = fresh()
      yield* append(path, drafts)
      const whole = fs.readFileSync(path)
      const end = whole.lastIndexOf(10, whole.length - 2) + 1
      for (const size of [end, end + 3, end + 20, whole.length - 1]) {
        fs.writeFileSync(path, Buffer.concat([whole.subarray(0, size), new Uint8Array(100)]))
        assert.deepStrictEqual((yield* open(path)).records, drafts.slice(0, 2))
        assert.isTrue(fs.readFileSync(path).equals(whole.subarray(0, end)))
      }
    })
  )

  it.effect("knows a record that was cut short by the first field of any member of a union", () =>
    Effect.gen(function* () {
      const path = fresh()
      const schema = Schema.Union([
        Schema.Struct({ draft: Schema.Int, text: Schema.String }),
        Schema.Struct({ chosen: Schema.Int, text: Schema.String })
      ])
      const options = { path, schema, keyOf: JSON.stringify, resume: true }
      for (const cut of ['{"draft":1,"te', '{"chosen":', '{"cho']) {
        fs.writeFileSync(path, `{"chosen":1,"text":""}\n${cut}`)
        assert.deepStrictEqual((yield* Journal.open(options)).records, [{ chosen: 1, text: "" }])
      }
      fs.writeFileSync(path, '{"text":"x')
      assert.strictEqual((yield* errorOf(Journal.open(options))).line, 1)
    })
  )

  it.live("has each record once, which a killed process had added and begins again after", () =>
    Effect.gen(function* () {
      const path = fresh()
      const script = fileURLToPath(new URL("./journal-loop.ts", import.meta.url))
      /** The numbers that a child prints until it is killed, at the `count`-th. */
      const life = (count: number) =>
        new Promise<ReadonlyArray<number>>((resolve, reject) => {
          const child = spawn(process.execPath, ["--conditions=@attune/source", script, path])
          let printed = ""
          let errors = ""
          child.stdout.on("data", (data) => {
            printed += String(data)
            if (printed.split("\n").length > count) child.kill("SIGKILL")
          })
          child.stderr.on("data", (data) => {
            errors += String(data)
          })
          child.on("close", (_, signal) =>
            signal === "SIGKILL" ? resolve(printed.trimEnd().split("\n").map(Number)) : reject(new Error(errors))
          )
        })
      const printed = []
      for (const count of [5, 9]) printed.push(...(yield* Effect.promise(() => life(count))))
      const Numbered = Schema.Struct({ n: Schema.Int, text: Schema.String })
      const { records } = yield* Journal.open({ path, schema: Numbered, keyOf: ({ n }) => `${n}`, resume: true })
      // Whatever was printed is there; the last of a life may be there and not have been printed.
      assert.deepStrictEqual(
        records.map(({ n }) => n),
        Array.from(records, (_, n) => n)
      )
      assert.strictEqual(new Set(printed).size, printed.length)
      assert.isAtLeast(printed.length, 14)
      assert.isTrue(printed.every((n) => n < records.length))
      assert.isAtMost(records.length, printed.length + 2)
    })
  )
})

describe("a line that cannot be read", () => {
  const [first, middle, last] = drafts.map((draft) => linesOf([draft]))

  it.effect("is an error that names file, line and field, and the file stays as it is", () =>
    Effect.gen(function* () {
      const path = fresh()
      const cases = [
        ['{"id":"b"}\n', 'line 2: field "text": Missing key; repair or remove the line, or choose another file'],
        ['{"id":"b","text":"x","score":"much"}\n', 'line 2: field "score": '],
        ["notes\n", "line 2: Expected a valid JSON string"],
        ['{"id":"b","te\n', "line 2: Expected a valid JSON string"],
        ["\r\n\n[1]\n", "line 4: Expected object"]
      ] as const
      for (const [line, message] of cases) {
        // With a last line that would be dropped.
        const content = `\ufeff${first}${line}${last!.slice(0, 8)}`
        fs.writeFileSync(path, content)
        const error = yield* errorOf(open(path))
        assert.include(error.message, `${path}, ${message}`)
        assert.strictEqual(error.path, path)
        assert.strictEqual(error.line, Number(/line (\d)/.exec(message)![1]))
        assert.strictEqual(fs.readFileSync(path, "utf8"), content)
      }
    })
  )

  it.effect("is one in which the highest bit of any byte is flipped", () =>
    Effect.gen(function* () {
      const path = fresh()
      const whole = Buffer.from(linesOf(drafts))
      const start = Buffer.byteLength(first!)
      for (let at = start; at < start + Buffer.byteLength(middle!) - 1; at++) {
        const flipped = Uint8Array.from(whole)
        flipped[at]! ^= 0x80
        fs.writeFileSync(path, flipped)
        assert.strictEqual((yield* errorOf(open(path))).line, 2, `byte ${at}`)
        assert.isTrue(fs.readFileSync(path).equals(flipped))
        const { value: journal, warnings } = yield* warningsOf(open(path, { unreadable: "skip" }))
        assert.deepStrictEqual(journal.records, [drafts[0], drafts[2]])
        assert.strictEqual(warnings.length, 1)
        assert.include(warnings[0], `1 lines of ${path} cannot be read and are not used; ${path}, line 2: `)
      }
    })
  )

  it.effect("that is skipped is left where it is, and what is added comes after it", () =>
    Effect.gen(function* () {
      const path = fresh()
      // The last begins as no record does, so that no crash has left it.
      for (const content of [`${first}notes\n`, `${first}notes`, `notes\n${first}more notes`]) {
        fs.writeFileSync(path, content)
        const { value: journal, warnings } = yield* warningsOf(open(path, { unreadable: "skip" }))
        assert.deepStrictEqual(journal.records, [drafts[0]])
        assert.strictEqual(warnings.length, 1)
        yield* journal.append([drafts[1]])
        assert.strictEqual(fs.readFileSync(path, "utf8"), `${content.trimEnd()}\n${middle}`)
      }
    })
  )
})

describe("a file that was there", () => {
  it.effect("is emptied where the journal is not resumed, and only then", () =>
    Effect.gen(function* () {
      const path = fresh()
      for (const content of [linesOf(drafts), "what a person typed", '{"id":"a","name":"of another kind"}']) {
        fs.writeFileSync(path, content)
        const resumed = yield* Effect.exit(open(path))
        assert.strictEqual(resumed._tag, content === linesOf(drafts) ? "Success" : "Failure")
        assert.strictEqual(fs.readFileSync(path, "utf8"), content)
        const journal = yield* open(path, { resume: false })
        assert.deepStrictEqual(journal.records, [])
        assert.strictEqual(journal.get("a"), undefined)
        assert.strictEqual(fs.readFileSync(path, "utf8"), "")
        yield* journal.append(drafts.slice(1))
        assert.deepStrictEqual((yield* open(path)).records, drafts.slice(1))
      }
    })
  )
})

describe("a journal that cannot be written", () => {
  it.effect("is known when it is opened: a directory that is missing, in the way or read-only", () =>
    Effect.gen(function* () {
      const messageOf = (path: string, resume = true) => Effect.map(errorOf(open(path, { resume })), (e) => e.message)
      for (const resume of [true, false]) {
        const absent = join(directory, "absent", "x.jsonl")
        assert.include(yield* messageOf(absent, resume), `cannot write ${absent}: the directory does not exist`)
        assert.isFalse(fs.existsSync(join(directory, "absent")))
        assert.match(yield* messageOf(directory, resume), /cannot write .*: a directory of that name is in the way/)
        const path = fresh()
        for (const [code, hint] of [
          ["EROFS", "the file system is read-only; choose another directory"],
          ["EACCES", "permission denied; choose a directory that this user may write to"]
        ] as const) {
          disk.openFails = code
          assert.strictEqual(yield* messageOf(path, resume), `cannot write ${path}: ${hint} (${code})`)
          disk.openFails = undefined
        }
        assert.isFalse(fs.existsSync(path))
      }
    })
  )

  it.effect("on a full disk has no half line, and goes on when space is freed", () =>
    Effect.gen(function* () {
      const path = fresh()
      const journal = yield* open(path)
      yield* journal.append(drafts.slice(0, 1))
      for (const fault of ["full", "flushFails"] as const) {
        disk[fault] = true
        const error = yield* errorOf(journal.append(drafts.slice(1)))
        disk[fault] = false
        if (fault === "full") assert.include(error.message, `cannot write ${path}: the disk is full; free some space`)
        assert.strictEqual(fs.readFileSync(path, "utf8"), linesOf(drafts.slice(0, 1)))
        assert.strictEqual(journal.get("b"), undefined)
      }
      yield* journal.append(drafts.slice(1))
      assert.deepStrictEqual((yield* open(path)).records, drafts)
    })
  )

  it.effect("keeps none of the records where one of them cannot be encoded", () =>
    Effect.gen(function* () {
      const path = fresh()
      const journal = yield* open(path)
      const error = yield* errorOf(journal.append([drafts[0], { id: "x", text: "", score: Number.NaN }]))
      assert.include(error.message, `cannot write ${path}: Expected a finite number`)
      assert.include(error.message, "score")
      assert.strictEqual(fs.readFileSync(path, "utf8"), "")
      assert.strictEqual(journal.get("a"), undefined)
    })
  )
})
