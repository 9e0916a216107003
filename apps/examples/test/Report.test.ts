import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as Report from "../src/Report.ts"
import { versions } from "../src/Versions.ts"

describe("mean", () => {
  it("has the interval of the normal approximation", () => {
    // mean 3, variance ((-2)² + 0 + 2²) / 2 = 4, standard error 2 / √3
    const { high, low, n, value } = Report.mean("base", "gold score", "of 4", [1, 3, 5])
    assert.strictEqual(value, 3)
    assert.strictEqual(n, 3)
    assert.closeTo(low!, 3 - (1.96 * 2) / Math.sqrt(3), 1e-12)
    assert.closeTo(high!, 3 + (1.96 * 2) / Math.sqrt(3), 1e-12)
  })

  it("has no interval for one value", () => {
    const { high, low } = Report.mean("base", "gold score", "of 4", [2])
    assert.deepStrictEqual([low, high], [null, null])
  })
})

describe("rate", () => {
  it("has Wilson's interval", () => {
    // 8 of 10: centre (0.8 + 0.19208) / 1.38416, half-width 1.96 √(0.016 + 0.009604) / 1.38416
    const { high, low, value } = Report.rate("base", "judgement right", 8, 10)
    assert.strictEqual(value, 0.8)
    assert.closeTo(low!, 0.49016, 1e-4)
    assert.closeTo(high!, 0.94331, 1e-4)
  })

  it("stays inside 0 and 1 at the ends", () => {
    const none = Report.rate("base", "judgement right", 0, 20)
    const all = Report.rate("base", "judgement right", 20, 20)
    assert.closeTo(none.low!, 0, 1e-12)
    assert.closeTo(all.high!, 1, 1e-12)
    for (let n = 1; n <= 300; n++) {
      assert.isAtLeast(Report.rate("base", "judgement right", 0, n).low!, 0, String(n))
      assert.isAtMost(Report.rate("base", "judgement right", n, n).high!, 1, String(n))
    }
    assert.isAbove(none.high!, 0.1)
    assert.isBelow(all.low!, 0.9)
  })
})

describe("write", () => {
  it.effect("writes a summary that its schema reads back", () =>
    Effect.gen(function* () {
      const directory = mkdtempSync(join(tmpdir(), "attune-report-"))
      const summary = {
        example: "sft",
        measurements: [Report.mean("before", "held-out loss", "nats/token", [1, 2])],
        versions: { attune: "0.1.0" },
        seed: 7,
        seconds: 1.5
      }
      const path = yield* Report.write(directory, summary)
      const read = yield* Schema.decodeUnknownEffect(Schema.fromJsonString(Report.Summary))(readFileSync(path, "utf8"))
      assert.deepStrictEqual(read, summary)
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
