import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { afterAll, vi } from "vitest"
import * as RunLog from "../src/RunLog.ts"
import * as TensorBoard from "../src/TensorBoard.ts"

/** Makes the next write stop half-way, as on a full disk. */
const disk = { full: false }

vi.mock("node:fs", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs")>()
  return {
    ...actual,
    writeSync: (file: number, bytes: Uint8Array, offset = 0) => {
      if (!disk.full) return actual.writeSync(file, bytes, offset)
      actual.writeSync(file, bytes, offset, 10)
      throw Object.assign(new Error("no space left"), { code: "ENOSPC" })
    }
  }
})

const directory = fs.mkdtempSync(join(tmpdir(), "attune-run-log-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))

let serial = 0
const freshRun = () => join(directory, `run-${serial++}`)

const header: RunLog.RunHeader = { seeds: { run: 7 }, config: { learningRate: 0.001 }, versions: { attune: "0.1.0" } }

/** Steps `from..to` of a run that evaluates after every second step. */
const steps = (run: string, from: number, to: number, options?: RunLog.Options) =>
  Effect.scoped(
    Effect.gen(function* () {
      const runLog = yield* RunLog.make(run, header, options)
      for (let step = from; step <= to; step++) {
        yield* TestClock.adjust("1 second")
        yield* runLog.log(step, { sft_loss: 1 / step, sft_tokens: 100 * step }, { row: step })
        if (step % 2 === 0) yield* runLog.event("evaluation", { score: step })
      }
    })
  )

const text = (run: string) => fs.readFileSync(join(run, "run.jsonl"), "utf8")
const withoutTimes = (content: string) => content.replaceAll(/"time":"[^"]*"/g, `"time":""`)

const eventFile = (run: string) => {
  const files = fs.readdirSync(run).filter((name) => name.includes("tfevents"))
  assert.strictEqual(files.length, 1)
  return join(run, files[0]!)
}
const events = (run: string) =>
  TensorBoard.decode(fs.readFileSync(eventFile(run))).map(({ scalars, step }) => ({ scalars, step }))

describe("a fresh run", () => {
  it.effect("begins with what is needed to repeat it", () =>
    Effect.gen(function* () {
      const run = freshRun()
      yield* steps(run, 1, 2)
      const [first] = yield* RunLog.read(run)
      assert.strictEqual(first?.type, "run")
      if (first?.type !== "run") return
      assert.deepStrictEqual(first.seeds, { run: 7 })
      assert.deepStrictEqual(first.config, { learningRate: 0.001 })
      assert.deepStrictEqual(first.versions, { node: process.version, attune: "0.1.0" })
      assert.strictEqual(first.time, "1970-01-01T00:00:00.000Z")
      if (first.commit !== null) assert.match(first.commit, /^[0-9a-f]{40}$/)
    })
  )

  it.effect("has one line per step and event, in order", () =>
    Effect.gen(function* () {
      const run = freshRun()
      yield* steps(run, 1, 2)
      assert.deepStrictEqual(text(run).split("\n").slice(1), [
        `{"type":"step","step":1,"time":"1970-01-01T00:00:01.000Z","metrics":{"sft_loss":1,"sft_tokens":100},"extra":{"row":1}}`,
        `{"type":"step","step":2,"time":"1970-01-01T00:00:02.000Z","metrics":{"sft_loss":0.5,"sft_tokens":200},"extra":{"row":2}}`,
        `{"type":"event","step":2,"time":"1970-01-01T00:00:02.000Z","name":"evaluation","data":{"score":2}}`,
        ""
      ])
      assert.deepStrictEqual(events(run), [
        { step: 0, scalars: {} },
        { step: 1, scalars: { sft_loss: 1, sft_tokens: 100 } },
        { step: 2, scalars: { sft_loss: 0.5, sft_tokens: 200 } }
      ])
    })
  )

  it.effect("has each line on disk when the effect is done", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const run = freshRun()
        const { log } = yield* RunLog.make(run, header)
        for (let step = 1; step <= 3; step++) {
          yield* log(step, { loss: step })
          assert.strictEqual(text(run).split("\n").length, step + 2)
        }
      })
    )
  )

  it.effect("keeps NaN and infinities", () =>
    Effect.gen(function* () {
      const run = freshRun()
      const metrics = { a: Number.NaN, b: Number.POSITIVE_INFINITY, c: Number.NEGATIVE_INFINITY }
      yield* Effect.scoped(Effect.flatMap(RunLog.make(run, header), ({ log }) => log(1, metrics)))
      const line = (yield* RunLog.read(run))[1]
      assert.deepStrictEqual(line?.type === "step" ? line.metrics : undefined, metrics)
    })
  )

  it.effect("refuses a metric that is not in snake_case, and steps that go back", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { log } = yield* RunLog.make(freshRun(), header)
        for (const name of ["approxKl", "kl-k3", "_loss", "loss_", "a__b", "/kl", "rlhf/", "rlhf//kl", ""]) {
          const exit = yield* Effect.exit(log(1, { [name]: 1 }))
          assert.match(String(exit), /must be named in snake_case/, name)
        }
        yield* log(2, { rlhf_kl_k3: 1, "objective/non_score_reward": 1 })
        assert.match(String(yield* Effect.exit(log(1, {}))), /step 1 logged after step 2/)
      })
    )
  )
})

describe("a directory with a log", () => {
  it.effect("is refused unless the caller says what to do", () =>
    Effect.gen(function* () {
      const run = freshRun()
      yield* steps(run, 1, 3)
      const before = text(run)
      const error = yield* Effect.flip(steps(run, 1, 1))
      assert.strictEqual(error._tag, "RunLogError")
      assert.match(error.message, /resume it, overwrite it or choose another directory/)
      assert.strictEqual(text(run), before)
      yield* steps(run, 1, 1, { overwrite: true })
      assert.strictEqual((yield* RunLog.read(run)).length, 2)
      assert.strictEqual(events(run).length, 2)
    })
  )

  // Steps 5 and 4 of a run of 8, 6 logged before the kill: lines after the resumed step go, events of that step stay.
  it.effect.each([6, 5, 4, 1, 0])("resumed after step %i equals that of an uninterrupted run but for times", (step) =>
    Effect.gen(function* () {
      const whole = freshRun()
      yield* steps(whole, 1, 8)
      const run = freshRun()
      yield* steps(run, 1, 6)
      yield* steps(run, step + 1, 8, { resumeAt: step })
      assert.strictEqual(withoutTimes(text(run)), withoutTimes(text(whole)))
      assert.deepStrictEqual(events(run), events(whole))
    })
  )

  it.effect("is mended wherever it was cut short", () =>
    Effect.gen(function* () {
      const whole = freshRun()
      yield* steps(whole, 1, 4)
      const wanted = withoutTimes(text(whole))
      const base = freshRun()
      yield* steps(base, 1, 3)
      const lines = fs.readFileSync(join(base, "run.jsonl"))
      const records = fs.readFileSync(eventFile(base))
      // Cut anywhere inside the third step: both files end somewhere after step 2.
      const lineEnd = lines.lastIndexOf("\n", lines.byteLength - 2) + 1
      const recordEnd = TensorBoard.decode(records).at(-2)!.end
      for (let cut = 0; lineEnd + cut < lines.byteLength; cut += 3) {
        const run = freshRun()
        fs.mkdirSync(run)
        fs.writeFileSync(join(run, "run.jsonl"), lines.subarray(0, lineEnd + cut))
        fs.writeFileSync(join(run, "events.out.tfevents.0.attune"), records.subarray(0, recordEnd + (cut >> 1)))
        assert.strictEqual((yield* RunLog.read(run)).length, 4)
        yield* steps(run, 3, 4, { resumeAt: 2 })
        assert.strictEqual(withoutTimes(text(run)), wanted)
        assert.deepStrictEqual(events(run), events(whole))
      }
    })
  )

  it.effect("is mended when a power failure left zeros for the last line", () =>
    Effect.gen(function* () {
      const run = freshRun()
      yield* steps(run, 1, 1)
      const before = text(run)
      fs.appendFileSync(join(run, "run.jsonl"), "\0\0\0\n")
      assert.strictEqual((yield* RunLog.read(run)).length, 2)
      yield* steps(run, 2, 1, { resumeAt: 1 })
      assert.strictEqual(text(run), before)
    })
  )

  it.effect("that was killed before its first line is begun anew", () =>
    Effect.gen(function* () {
      const run = freshRun()
      fs.mkdirSync(run)
      fs.writeFileSync(join(run, "run.jsonl"), `{"type":"run","for`)
      yield* steps(run, 1, 2, { resumeAt: 0 })
      assert.deepStrictEqual(
        (yield* RunLog.read(run)).map(({ type }) => type),
        ["run", "step", "step", "event"]
      )
    })
  )

  it.effect("with a damaged line in the middle names the line", () =>
    Effect.gen(function* () {
      const run = freshRun()
      yield* steps(run, 1, 3)
      const damaged = text(run).replace(`"step":2`, `"step":two`)
      fs.writeFileSync(join(run, "run.jsonl"), damaged)
      for (const attempt of [Effect.asVoid(RunLog.read(run)), steps(run, 4, 4, { resumeAt: 3 })]) {
        assert.match((yield* Effect.flip(attempt)).message, /line 3 is not a line of a run log/)
      }
      assert.strictEqual(text(run), damaged)
    })
  )

  it.effect("is begun anew without the event files of other programs", () =>
    Effect.gen(function* () {
      const run = freshRun()
      fs.mkdirSync(run)
      const others = ["events.out.tfevents.1700000000.host.1.0", "events.out.tfevents.0000000000.host"]
      for (const name of others) fs.writeFileSync(join(run, name), "theirs")
      yield* steps(run, 1, 2)
      yield* steps(run, 1, 1, { overwrite: true })
      yield* steps(run, 2, 2, { resumeAt: 1 })
      for (const name of others) {
        assert.strictEqual(fs.readFileSync(join(run, name), "utf8"), "theirs")
        fs.rmSync(join(run, name))
      }
      assert.deepStrictEqual(
        events(run).map(({ step }) => step),
        [0, 1, 2]
      )
    })
  )

  it.effect.skipIf(process.platform !== "linux")("where the system makes no directories is a typed error", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(steps("/proc/attune/run", 1, 1))
      assert.match(error.message, /cannot be opened: the directory does not exist/)
    })
  )

  it.effect("that cannot be written is a typed error", () =>
    Effect.gen(function* () {
      const blocker = freshRun()
      fs.writeFileSync(blocker, "a file")
      const error = yield* Effect.flip(steps(join(blocker, "run"), 1, 1))
      assert.strictEqual(error._tag, "RunLogError")
      assert.match(error.message, /cannot be opened: .*not a directory/)
    })
  )

  it.effect("on a full disk is a typed error, and no torn line stays inside when space is freed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const run = freshRun()
        const { log } = yield* RunLog.make(run, header)
        yield* log(1, { loss: 1 })
        disk.full = true
        const error = yield* Effect.flip(log(2, { loss: 2 }))
        disk.full = false
        assert.match(error.message, /cannot be written: the disk is full/)
        yield* log(3, { loss: 3 })
        assert.deepStrictEqual(
          (yield* RunLog.read(run)).map((line) => (line.type === "run" ? "run" : line.step)),
          ["run", 1, 3]
        )
      })
    )
  )
})
