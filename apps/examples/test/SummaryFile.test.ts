import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Sample, Score } from "@attune/eval"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as SummaryFile from "../src/SummaryFile.ts"
import { versions } from "../src/Versions.ts"

describe("write", () => {
  it.effect("writes a summary that its schema reads back", () =>
    Effect.gen(function* () {
      const directory = mkdtempSync(join(tmpdir(), "attune-report-"))
      const about = { example: "sft", versions: { attune: "0.1.0" }, seed: 7, seconds: 1.5 }
      const measured = { system: "before", task: "held out", metric: "held-out loss", unit: "nats/token" }
      const sample = yield* Effect.fromResult(Sample.fromValues("losses", [1, 2]))
      const score = Score.mean({ ...measured, higherIsBetter: false }, sample)
      const path = yield* SummaryFile.write(directory, { ...about, scores: [score] })
      const read = yield* Schema.decodeUnknownEffect(Schema.fromJsonString(SummaryFile.Summary))(
        readFileSync(path, "utf8")
      )
      const { high, low } = score.estimate
      assert.deepStrictEqual(read, { ...about, measurements: [{ ...measured, value: 1.5, low, high, n: 2 }] })
      rmSync(directory, { recursive: true })
    })
  )
})

describe("versions", () => {
  it("name everything that the numbers depend on", () => {
    assert.deepStrictEqual(Object.keys(versions), ["attune", "node", "effect", "onnxruntime-node"])
    for (const [name, version] of Object.entries(versions)) assert.match(version, /^\d+\.\d+\.\d+/, name)
  })
})
