import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { afterAll } from "vitest"
import * as Report from "../src/Report.ts"

const root = mkdtempSync(join(tmpdir(), "attune-report-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const summary = {
  example: "sft",
  measurements: [Report.mean("before", "loss", "nats/token", [1, 2, 3, 4]), Report.mean("after", "loss", "nats", [1])],
  versions: { attune: "0" },
  seed: 0,
  seconds: 1.5
}

describe("summary.json", () => {
  it.effect("holds means with their intervals, worked by hand", () =>
    Effect.gen(function* () {
      const path = yield* Report.write(join(root, "new"), summary)
      assert.strictEqual(path, join(root, "new", "summary.json"))
      const read = Schema.decodeUnknownSync(Report.Summary)(JSON.parse(readFileSync(path, "utf8")))
      assert.deepStrictEqual(read, summary)
      const [before, after] = read.measurements
      // s² = 5/3, so s / √4 = 0.6455
      assert.closeTo(before!.high! - 2.5, 1.96 * 0.6454972, 1e-6)
      assert.closeTo(2.5 - before!.low!, 1.96 * 0.6454972, 1e-6)
      assert.include(after!, { low: null, high: null, n: 1 })
    })
  )

  it.effect("that cannot be written is a typed error", () =>
    Effect.gen(function* () {
      writeFileSync(join(root, "a-file"), "")
      const file = yield* Effect.flip(Report.write(join(root, "a-file"), summary))
      assert.strictEqual(file._tag, "FileWriteError")
      assert.match(file.message, /cannot write .*summary\.json: a file of that name is in the way/)
      mkdirSync(join(root, "taken", "summary.json"), { recursive: true })
      const directory = yield* Effect.flip(Report.write(join(root, "taken"), summary))
      assert.match(directory.message, /a directory of that name is in the way/)
      assert.deepStrictEqual(readdirSync(join(root, "taken")), ["summary.json"])
    })
  )
})
