import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"

/** Native ONNX Runtime libraries in a fresh process that has imported `specifier`. */
const nativeLibraries = (specifier: string): ReadonlyArray<string> => {
  const script = `
    await import(${JSON.stringify(specifier)})
    process.report.excludeNetwork = true
    const { sharedObjects } = process.report.getReport()
    process.stdout.write(JSON.stringify(sharedObjects.filter((path) => path.includes("onnxruntime"))))`
  const { stderr, stdout } = spawnSync(
    process.execPath,
    ["--conditions=@attune/source", "--input-type=module", "--eval", script],
    { cwd: fileURLToPath(new URL("..", import.meta.url)), encoding: "utf8" }
  )
  assert.notStrictEqual(stdout, "", stderr)
  return JSON.parse(stdout)
}

describe("native code", () => {
  it.each(["@attune/core", "@attune/core/onnx", "@attune/core/nn", "@attune/core/hub", "@attune/core/remote"])(
    "is not loaded by importing %s",
    (entry) => {
      assert.deepStrictEqual(nativeLibraries(entry), [])
    }
  )

  it("is seen where it is loaded", () => {
    assert.isAbove(nativeLibraries("onnxruntime-node").length, 0)
  })
})
