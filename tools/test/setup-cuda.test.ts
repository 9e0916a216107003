import { spawnSync } from "node:child_process"
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

describe("the command", () => {
  const root = join(import.meta.dirname, "../..")
  const run = (args: ReadonlyArray<string>, variables: NodeJS.ProcessEnv = {}) => {
    const { ORT_CUDA_DIR: _, ...rest } = process.env
    const env = { ...rest, ...variables }
    return spawnSync(process.execPath, [join(root, "tools/setup-cuda.ts"), ...args], { encoding: "utf8", env })
  }

  it.skipIf(process.platform !== "linux" || process.arch !== "x64")(
    "asks NuGet, also when npx runs it in the root",
    () => {
      const { status, stderr } = run([], {
        npm_config_local_prefix: root,
        npm_package_json: join(root, "package.json"),
        GLOBAL_AGENT_NO_PROXY: "",
        GLOBAL_AGENT_HTTPS_PROXY: "http://127.0.0.1:9" // nothing listens there, so nothing is downloaded
      })
      assert.strictEqual(status, 1)
      assert.include(stderr, "ECONNREFUSED")
      assert.include(stderr, "DownloadFailed")
    }
  )

  it("says how it is used, and downloads nothing then", () => {
    const help = run(["--help"])
    assert.deepStrictEqual([help.status, help.stderr], [0, ""])
    assert.include(help.stdout, "ORT_CUDA_DIR")
    const wrong = run(["--cuda=12"])
    assert.strictEqual(wrong.status, 1)
    assert.include(wrong.stderr, "usage: setup:cuda")
  })
})
