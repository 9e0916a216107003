import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Option } from "effect"
import { afterAll, beforeAll } from "vitest"
import * as CommonFlags from "../src/CommonFlags.ts"

describe("directory", () => {
  const before = process.cwd()
  const root = mkdtempSync(join(tmpdir(), "attune-directory-"))
  beforeAll(() => process.chdir(root))
  afterAll(() => {
    process.chdir(before)
    rmSync(root, { recursive: true })
  })

  const chosen = (resume: boolean) => CommonFlags.directory("sft", { out: Option.none(), resume })
  const hold = (path: string) => {
    mkdirSync(path, { recursive: true })
    writeFileSync(join(path, "run.jsonl"), "")
  }

  it("is the first that holds no run, and to resume the last that holds one", () => {
    assert.deepStrictEqual([chosen(false), chosen(true)], ["out/sft", "out/sft"])
    // A directory without a run is free.
    mkdirSync("out/sft", { recursive: true })
    assert.strictEqual(chosen(false), "out/sft")
    hold("out/sft")
    assert.deepStrictEqual([chosen(false), chosen(true)], ["out/sft-2", "out/sft"])
    hold("out/sft-2")
    assert.deepStrictEqual([chosen(false), chosen(true)], ["out/sft-3", "out/sft-2"])
  })

  it("is the one that is named, whatever it holds", () => {
    hold("mine")
    for (const resume of [true, false]) {
      assert.strictEqual(CommonFlags.directory("sft", { out: Option.some("mine"), resume }), "mine")
    }
  })
})
