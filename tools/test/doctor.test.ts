import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"

const doctor = (...args: ReadonlyArray<string>) =>
  spawnSync(process.execPath, ["--conditions=@attune/source", join(import.meta.dirname, "../doctor.ts"), ...args], {
    encoding: "utf8"
  })

interface Provider {
  readonly provider: string
  readonly available: boolean
  readonly reason: string
}

describe("doctor", () => {
  it("reports Node, ONNX Runtime, which providers ran a graph, and why the others did not", () => {
    const { status, stdout } = doctor("--json")
    assert.strictEqual(status, 0)
    const found = JSON.parse(stdout)
    assert.deepStrictEqual(found.node, { version: process.versions.node, binary: process.execPath, supported: true })
    assert.match(found.onnxruntime, /^\d+\.\d+\.\d+/)
    const providers: ReadonlyArray<Provider> = found.providers
    assert.deepStrictEqual(
      providers.map(({ provider }) => provider),
      ["cpu", "webgpu", "cuda"]
    )
    assert.deepStrictEqual(providers[0], { provider: "cpu", available: true, reason: "a test graph ran" })
    for (const { available, provider, reason } of providers) {
      if (!available) assert.isAbove(reason.length, 10, provider)
    }

    const lines = doctor().stdout.trim().split("\n")
    assert.deepStrictEqual(
      lines.map((line) => line.split(" ")[0]),
      ["node", "pnpm", "onnxruntime", "cpu", "webgpu", "cuda", "machine"]
    )
    for (const [i, { available, reason }] of providers.entries()) {
      assert.match(lines[3 + i]!, available ? / ok: / : / no: .+; .+/)
      assert.include(lines[3 + i]!, reason)
    }
  })

  it("knows no other option", () => {
    const { status, stderr } = doctor("--quiet")
    assert.strictEqual(status, 1)
    assert.include(stderr, "unknown argument --quiet")
  })
})
