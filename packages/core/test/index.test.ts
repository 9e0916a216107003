import { assert, it } from "@effect/vitest"

const nativeLibraries = () =>
  (process.report.getReport() as unknown as { readonly sharedObjects: ReadonlyArray<string> }).sharedObjects

it("importing the package loads no native code", async () => {
  await import("../src/index.ts")
  assert.deepStrictEqual(
    nativeLibraries().filter((path) => path.includes("onnxruntime")),
    []
  )
})
