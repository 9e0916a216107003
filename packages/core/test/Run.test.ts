import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { afterAll, vi } from "vitest"
import type { Learner } from "../src/Learner.ts"
import * as Run from "../src/Run.ts"
import * as Tensor from "../src/Tensor.ts"

const directory = fs.mkdtempSync(join(tmpdir(), "attune-run-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))

/** What reached the disk for good, in order: bytes of the log, checkpoints. */
const durable: Array<{ readonly log: number } | { readonly checkpoint: string; readonly written: number }> = []

vi.mock("node:fs", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs")>()
  return {
    ...actual,
    fsync: (file: number, done: (error: Error | null) => void) =>
      actual.fsync(file, (error) => {
        durable.push({ log: actual.fstatSync(file).size })
        done(error)
      })
  }
})

vi.mock("node:fs/promises", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs/promises")>()
  return {
    ...actual,
    rename: async (from: string, to: string) => {
      await actual.rename(from, to)
      if (/[/\\]step-\d+$/.test(to)) {
        durable.push({ checkpoint: to.slice(-8), written: fs.statSync(join(directory, "run.jsonl")).size })
      }
    }
  }
})

it.effect("has a step in its log for good before a checkpoint that rests on it appears", () =>
  Effect.gen(function* () {
    let step = 0
    const learner = {
      fingerprint: "counting",
      stepsPerRun: 2,
      state: Effect.sync(() => ({ step, tensors: { weights: new Map([["w", Tensor.float32([step])]]) } }))
    } as unknown as Learner
    const identity = { method: "test", config: {}, seeds: {}, steps: 6, data: "" }
    const run = yield* Run.open(learner, identity, { directory, checkpointEvery: 2 })
    while (step < 6) {
      const until = run.until(step)
      const metrics = Array.from({ length: until - step }, () => ({ loss: 1 }))
      step = until
      yield* run.record(metrics)
    }
    const checkpoints = durable.flatMap((entry, i) =>
      "checkpoint" in entry ? [{ ...entry, before: durable[i - 1] }] : []
    )
    assert.deepStrictEqual(
      checkpoints.map(({ checkpoint }) => checkpoint),
      ["00000002", "00000004", "00000006"]
    )
    for (const { before, written } of checkpoints) assert.deepStrictEqual(before, { log: written })
  }).pipe(Effect.scoped)
)
