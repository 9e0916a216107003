import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Option } from "effect"
import { uniformInt } from "pure-rand/distribution/uniformInt"
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import * as Checkpoint from "../../src/Checkpoint.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OrtLearner from "../../src/ort/OrtLearner.ts"
import * as Progress from "../../src/Progress.ts"
import * as RunLog from "../../src/RunLog.ts"
import * as Sft from "../../src/Sft.ts"
import * as Tiny from "./tiny.ts"

const script = fileURLToPath(new URL("./resume-child.ts", import.meta.url))

/** How many steps the log has: the step that the run came to, as a run that goes on writes over what it takes again. */
const logged = (directory: string): number => {
  const path = join(directory, "run.jsonl")
  return existsSync(path) ? (readFileSync(path, "utf8").match(/"type":"step"/g) ?? []).length : 0
}

/** When to kill: once the log has so many steps, or else at the start, and some time later. */
interface Kill {
  readonly steps?: number
  readonly millis: number
}

/** Runs the child to its end, or kills it with SIGKILL. Says whether it ended by itself. */
const live = (directory: string, kill?: Kill): Promise<boolean> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, directory], { stdio: ["ignore", "ignore", "pipe"] })
    const errors: Array<string> = []
    child.stderr.on("data", (data) => errors.push(String(data)))
    let timer: NodeJS.Timeout | undefined
    const watch = ({ millis, steps = 0 }: Kill) => {
      const due = steps === 0 || logged(directory) >= steps
      timer = due ? setTimeout(() => child.kill("SIGKILL"), millis) : setTimeout(watch, 2, { millis, steps })
    }
    if (kill !== undefined) watch(kill)
    child.on("error", reject)
    child.on("exit", (code, signal) => {
      clearTimeout(timer)
      if (signal === "SIGKILL") resolve(false)
      else if (code === 0) resolve(true)
      else reject(new Error(`the run ended with ${code ?? signal}: ${errors.join("")}`))
    })
  })

const weightFiles = ["weights", "first", "second"]
const finalState = (directory: string) =>
  weightFiles.map((part) => readFileSync(join(directory, "checkpoints", "step-00000060", `${part}.safetensors`)))

const losses = (directory: string) =>
  Effect.map(RunLog.read(directory), (lines) =>
    lines.flatMap((line) => (line.type === "step" ? [[line.step, line.metrics["loss"]] as const] : []))
  )

// Twenty is what the project promises; CI kills fewer times, since each life costs a second of start-up.
const kills = Number(process.env["ATTUNE_TEST_KILLS"] ?? 4)

describe("a run that is killed", () => {
  it.live(
    `has the weights of one that was not, bit for bit, after ${kills} kills at random moments`,
    () =>
      Effect.gen(function* () {
        const root = mkdtempSync(join(tmpdir(), "attune-resume-"))
        const whole = join(root, "whole")
        const started = performance.now()
        assert.isTrue(yield* Effect.promise(() => live(whole)))
        const duration = performance.now() - started
        const reference = finalState(whole)
        const referenceLosses = yield* losses(whole)
        assert.strictEqual(referenceLosses.length, 60)

        const generator = xoroshiro128plus(20261122)
        let killed = 0
        let resumable = 0
        for (let chain = 0; killed < kills; chain++) {
          const directory = join(root, `chain-${chain}`)
          let ended = false
          while (!ended) {
            // Past the last kill it may finish. A kill waits for a step that this life has to take, so that it comes as far
            // on a slow machine as on a fast one; some come before the first, while files are read or restored. A log with
            // a fourth step has a checkpoint of the third.
            const before = logged(directory)
            const steps = uniformInt(generator, killed === 0 ? 4 : before - 8, 59)
            const kill: Kill =
              steps > before
                ? { steps, millis: uniformInt(generator, 0, 25) }
                : { millis: uniformInt(generator, 0, Math.floor(duration)) }
            ended = yield* Effect.promise(() => live(directory, killed < kills ? kill : undefined))
            if (ended) continue
            killed++
            if ((yield* Checkpoint.steps(join(directory, "checkpoints"))).length > 0) resumable++
          }
          for (const [i, bytes] of finalState(directory).entries()) {
            assert.isTrue(bytes.equals(reference[i]!), weightFiles[i])
          }
          assert.deepStrictEqual(yield* losses(directory), referenceLosses)
        }
        assert.isAbove(resumable, 0, "every kill came before the first checkpoint")
        rmSync(root, { recursive: true })
      }),
    600_000
  )
})

const learner = Effect.gen(function* () {
  return yield* OrtLearner.make({
    model: yield* Tiny.policy(Tiny.llama()),
    loss: Sft.loss,
    optimizer: Optimizer.adamW({ learningRate: 1e-3 }),
    stepsPerRun: 2
  })
})

const device = Device.layerInProcess({ provider: "cpu", threads: 1 })
const quiet = Progress.layer({ mode: "quiet" })

const inTemporary = <A, E, R>(body: (directory: string) => Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-run-"))),
    body,
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )

describe("a run that is interrupted", () => {
  it.live("leaves a checkpoint of the last step it logged, and resumes from it", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const own = yield* learner
        const examples = Tiny.examples(400, 3)
        const settings = { batchSize: 4, directory, checkpointEvery: 1000 }
        const fiber = yield* Effect.forkChild(Sft.train(own, examples, settings))
        while (!existsSync(join(directory, "run.jsonl")) || (yield* losses(directory)).length < 6) {
          yield* Effect.sleep("5 millis")
        }
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.hasInterrupts(exit))
        const found = yield* Checkpoint.latest(join(directory, "checkpoints"))
        const logged = (yield* losses(directory)).length
        assert.strictEqual(Option.getOrThrow(found).step, logged)

        const reports = yield* Sft.train(yield* learner, examples, { ...settings, resume: true })
        assert.strictEqual(reports.length, 100 - logged)
        const alone = yield* Sft.train(yield* learner, examples, { batchSize: 4 })
        assert.deepStrictEqual(reports, alone.slice(logged))
      }).pipe(Effect.scoped, Effect.provide(Layer.merge(device, quiet)))
    )
  )

  it.live("logs the steps that a failing call did take before it fails", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const policy = yield* Tiny.policy(Tiny.gpt2())
        // Harmless for three steps, then beyond what float32 can hold.
        const optimizer = Optimizer.adamW({ learningRate: (step) => (step < 3 ? 1e-3 : 1e30) })
        const own = yield* OrtLearner.make({ model: policy, loss: Sft.loss, optimizer, stepsPerRun: 8 })
        const error = yield* Effect.flip(Sft.train(own, Tiny.examples(64, 3), { batchSize: 4, directory }))
        assert.strictEqual(error._tag, "LearnerError")
        assert.deepStrictEqual(
          (yield* losses(directory)).map(([step]) => step),
          [1, 2, 3, 4]
        )
      }).pipe(Effect.scoped, Effect.provide(Layer.merge(device, quiet)))
    )
  )

  it.live("is not resumed by a run on other data, nor begun again without being asked", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        yield* Sft.train(yield* learner, Tiny.examples(16, 3), { batchSize: 4, directory })
        const other = yield* Effect.flip(
          Sft.train(yield* learner, Tiny.examples(16, 4), { batchSize: 4, directory, resume: true })
        )
        assert.strictEqual(other._tag, "CheckpointError")
        const again = yield* Effect.flip(Sft.train(yield* learner, Tiny.examples(16, 3), { batchSize: 4, directory }))
        assert.strictEqual(again._tag, "RunLogError")
      }).pipe(Effect.scoped, Effect.provide(Layer.merge(device, quiet)))
    )
  )
})
