import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import * as Epochs from "../src/Epochs.ts"
import type { Learner, LearnerState } from "../src/Learner.ts"
import type { Batch } from "../src/Loss.ts"
import * as Progress from "../src/Progress.ts"
import * as RunLog from "../src/RunLog.ts"
import * as Sft from "../src/Sft.ts"
import * as Tensor from "../src/Tensor.ts"

type NoFields = Record<never, never>

// A learner whose weights are the digits of what it saw: each example adds its token.
const counting = (stepsPerRun = 3) => {
  let state: LearnerState = { step: 0, tensors: { weights: new Map([["w", Tensor.float32([0])]]) } }
  const calls: Array<number> = []
  const learner: Learner<NoFields> = {
    fingerprint: "counting",
    stepsPerRun,
    model: undefined,
    state: Effect.sync(() => state),
    restore: (next) =>
      Effect.sync(() => {
        state = next
      }),
    update: (batches: ReadonlyArray<Batch<NoFields>>) =>
      Effect.sync(() => {
        calls.push(batches.length)
        return batches.map((batch, i) => {
          const sum = batch.reduce((total, one) => total + ("tokens" in one ? one.tokens[0]! : 0), 0)
          const before = state.tensors["weights"]!.get("w")!.data[0]!
          const weights = new Map([["w", Tensor.float32([(before * 3 + sum) % 1009])]])
          state = { step: state.step + 1, tensors: { weights } }
          return { loss: weights.get("w")!.data[0]!, learning_rate: i }
        })
      })
  }
  const now = () => ({ step: state.step, w: state.tensors["weights"]!.get("w")!.data[0]! })
  return { learner, calls, now }
}

const examples = Array.from({ length: 10 }, (_, i) => Sft.example([i], [1]))
const subject = { method: "test", data: "" }

const inTemporary = <A, E, R>(body: (directory: string) => Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-epochs-"))),
    body,
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )

const lines = (directory: string) =>
  Effect.map(RunLog.read(directory), (read) =>
    read.map((line) =>
      line.type === "run"
        ? "run"
        : line.type === "step"
          ? { step: line.step, loss: line.metrics["loss"] }
          : { step: line.step, [line.name]: line.data }
    )
  )

const quiet = Progress.layer({ mode: "quiet" })

describe("the end of an epoch", () => {
  it.effect("sees the model after all steps of the epoch and before any of the next, whatever a run takes", () =>
    Effect.gen(function* () {
      const plain = counting()
      const reports = yield* Epochs.train(plain.learner, examples, subject, { epochs: 3, batchSize: 2 })
      const { calls, learner, now } = counting()
      const seen: Array<unknown> = []
      const observed = yield* Epochs.train(learner, examples, subject, {
        epochs: 3,
        batchSize: 2,
        epochEnd: (epoch) =>
          Effect.sync(() => {
            seen.push({ epoch, ...now() })
            return null
          })
      })
      assert.deepStrictEqual(
        observed.map(({ loss }) => loss),
        reports.map(({ loss }) => loss)
      )
      assert.deepStrictEqual(plain.calls, [3, 3, 3, 3, 3])
      assert.deepStrictEqual(calls, [3, 2, 3, 2, 3, 2])
      assert.deepStrictEqual(
        seen,
        [1, 2, 3].map((epoch) => ({ epoch, step: 5 * epoch, w: reports[5 * epoch - 1]!["loss"] }))
      )
    }).pipe(Effect.provide(quiet))
  )

  it.effect("is logged after its last step and once, however often the run fails and goes on", () =>
    inTemporary((root) =>
      Effect.gen(function* () {
        const train = (directory: string, failures: Array<number>, resume: boolean) => {
          const { learner, now } = counting()
          return Epochs.train(learner, examples, subject, {
            epochs: 4,
            batchSize: 2,
            directory: join(root, directory),
            resume,
            checkpointEvery: 4,
            epochEnd: (epoch) =>
              failures[0] === epoch
                ? Effect.andThen(
                    Effect.sync(() => failures.shift()),
                    Effect.fail("no reward" as const)
                  )
                : Effect.sync(() => ({ epoch, ...now() }))
          })
        }
        yield* train("whole", [], false)
        const failures = [1, 3, 3, 4]
        const exits: Array<unknown> = []
        while (exits.at(-1) !== "done") {
          const exit = yield* Effect.exit(train("parts", failures, exits.length > 0))
          exits.push(Exit.isSuccess(exit) ? "done" : Exit.hasInterrupts(exit) ? "interrupted" : "failed")
        }
        assert.deepStrictEqual(exits, ["failed", "failed", "failed", "failed", "done"])
        const whole = yield* lines(join(root, "whole"))
        assert.deepStrictEqual(yield* lines(join(root, "parts")), whole)
        const events = whole.flatMap((line) => (typeof line === "object" && "epoch" in line ? [line] : []))
        assert.deepStrictEqual(
          events.map(({ step }) => step),
          [5, 10, 15, 20]
        )
      }).pipe(Effect.provide(quiet))
    )
  )

  it.effect("a learner that stops by itself ends the run, with the steps that it took in the log", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const { learner } = counting()
        const stopping = {
          ...learner,
          update: (batches: ReadonlyArray<Batch<NoFields>>) => learner.update(batches.slice(1))
        }
        const error = yield* Effect.flip(Epochs.train(stopping, examples, subject, { batchSize: 1, directory }))
        assert.match(error.message, /stopped after step 2, .*without it/)
        assert.deepStrictEqual((yield* lines(directory)).length, 3)
      }).pipe(Effect.provide(quiet))
    )
  )
})
