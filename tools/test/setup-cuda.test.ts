import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { CopyFailed, copyLibraries, libraries, MissingLibraries } from "../setup-cuda.ts"

const withFolders = (use: (from: string, to: string) => void): void => {
  const root = mkdtempSync(join(tmpdir(), "setup-cuda-"))
  try {
    const [from, to] = [join(root, "from"), join(root, "to")]
    mkdirSync(from)
    mkdirSync(to)
    use(from, to)
  } finally {
    rmSync(root, { recursive: true })
  }
}

const caught = (run: () => void): unknown => {
  try {
    run()
  } catch (error) {
    return error
  }
  return undefined
}

describe("copyLibraries", () => {
  it("copies exactly the provider libraries", () =>
    withFolders((from, to) => {
      for (const name of [...libraries, "other.so"]) writeFileSync(join(from, name), name)
      copyLibraries(from, to)
      assert.deepStrictEqual(readdirSync(to).sort(), [...libraries].sort())
      assert.strictEqual(readFileSync(join(to, libraries[0]), "utf8"), libraries[0])
    }))

  it("names what the folder lacks and copies nothing", () =>
    withFolders((from, to) => {
      writeFileSync(join(from, libraries[0]), "")
      const error = caught(() => copyLibraries(from, to))
      assert.instanceOf(error, MissingLibraries)
      assert.deepStrictEqual(error.missing, libraries.slice(1))
      assert.include(error.message, from)
      assert.deepStrictEqual(readdirSync(to), [])
    }))

  it("leaves no partial file when a library cannot be written", () =>
    withFolders((from, to) => {
      for (const name of libraries) writeFileSync(join(from, name), name)
      mkdirSync(join(to, libraries[0], "in-the-way"), { recursive: true })
      const error = caught(() => copyLibraries(from, to))
      assert.instanceOf(error, CopyFailed)
      assert.include(error.message, libraries[0])
      assert.deepStrictEqual(readdirSync(to), [libraries[0]])
    }))
})
