import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, it } from "@effect/vitest"
import { Effect, Option } from "effect"
import { afterAll, vi } from "vitest"
import * as Checkpoint from "../src/Checkpoint.ts"
import type { Learner, LearnerState, Resumable } from "../src/Learner.ts"
import * as Run from "../src/Run.ts"
import * as RunLog from "../src/RunLog.ts"
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
    const identity = { method: "test", config: { epochs: 3 }, seeds: {}, steps: 6, data: "" }
    const run = yield* Run.open(learner, identity, { directory, checkpointEvery: 2 })
    while (step < 6) {
      const until = run.until(step)
      const metrics = Array.from({ length: until - step }, () => ({ loss: 1 }))
      step = until
      yield* run.record(metrics, [{ name: "samples", data: { step } }])
    }
    const checkpoints = durable.flatMap((entry, i) =>
      "checkpoint" in entry ? [{ ...entry, before: durable[i - 1] }] : []
    )
    assert.deepStrictEqual(
      checkpoints.map(({ checkpoint }) => checkpoint),
      ["00000002", "00000004", "00000006"]
    )
    const log = fs.readFileSync(join(directory, "run.jsonl"))
    for (const { before, checkpoint, written } of checkpoints) {
      assert.deepStrictEqual(before, { log: written })
      const last = log.subarray(0, written).toString().trimEnd().split("\n").at(-1)!
      assert.deepInclude(JSON.parse(last), { type: "event", name: "samples", data: { step: Number(checkpoint) } })
    }

    const config = { method: "test", steps: 6, data: "", epochs: 3 }
    const saved = Option.getOrThrow(yield* Checkpoint.latest(join(directory, "checkpoints")))
    assert.deepStrictEqual(saved.state, { config })
    const [header] = yield* RunLog.read(directory)
    assert.deepInclude(header, { type: "run", config })
    for (const versions of [saved.manifest.versions, header!.type === "run" ? header!.versions : {}]) {
      assert.match(versions["attune"]!, /^\d+\.\d+\.\d+$/)
      assert.match(versions["onnxruntime-node"]!, /^1\.\d+\.\d+$/)
    }
  }).pipe(Effect.scoped)
)

it.effect(
  "gives back what a method remembers with the state that it belongs to, and nothing where there was nothing",
  () =>
    Effect.gen(function* () {
      const remembering = (memory: LearnerState["memory"]) => {
        let step = 0
        const restored: Array<LearnerState> = []
        const learner: Resumable = {
          fingerprint: "remembering",
          stepsPerRun: 1,
          state: Effect.sync(() => ({
            step,
            tensors: { weights: new Map([["w", Tensor.float32([step])]]) },
            ...(memory === undefined ? {} : { memory })
          })),
          restore: (state) => Effect.sync(() => void restored.push(state))
        }
        return { learner, restored, advance: Effect.sync(() => step++) }
      }
      for (const [name, memory] of [
        ["kept", { klCoef: 0.1 + 0.2, episodes: 512, running: [1, -2.5e-300, null, { best: "é" }] }],
        ["empty", undefined]
      ] as const) {
        const identity = { method: "test", config: {}, seeds: {}, steps: 4, data: "" }
        const options = { directory: join(directory, name), checkpointEvery: 2 }
        const { advance, learner } = remembering(memory)
        yield* Effect.scoped(
          Effect.gen(function* () {
            const run = yield* Run.open(learner, identity, options)
            for (let i = 0; i < 3; i++) {
              yield* advance
              yield* run.record([{ loss: 1 }])
            }
          })
        )
        const { learner: fresh, restored } = remembering(undefined)
        const run = yield* Effect.scoped(Run.open(fresh, identity, { ...options, resume: true }))
        assert.strictEqual(run.step, 2)
        assert.strictEqual(restored.length, 1)
        const [state] = restored
        assert.strictEqual(state!.step, 2)
        assert.deepStrictEqual([...state!.tensors["weights"]!.get("w")!.data], [2])
        assert.deepStrictEqual(state!.memory, memory)
        assert.strictEqual("memory" in state!, memory !== undefined)
      }
    })
)
