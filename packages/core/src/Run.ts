/**
 * A training run on disk: its log, its checkpoints, and going on after it stopped.
 *
 * A run without a directory keeps nothing. Methods open one, then record what the learner reports; when a checkpoint is
 * due it is written, and a run that is interrupted or fails writes one on its way out.
 *
 * @since 0.1.0
 */

import { createHash } from "node:crypto"
import { createRequire } from "node:module"
import { join } from "node:path"
import { Cause, Effect, Exit, Option, Schema, type Scope } from "effect"
import * as Checkpoint from "./Checkpoint.ts"
import { LearnerError, type LearnerState, type Resumable, type StepMetrics } from "./Learner.ts"
import * as RunLog from "./RunLog.ts"
import type { Tensor } from "./Tensor.ts"

const versionOf = (file: string): string =>
  (createRequire(import.meta.url)(file) as { readonly version: string }).version

// What the log and the checkpoints of a run say about the code that wrote them: the same bits come from the same versions.
const versions = {
  attune: versionOf("../package.json"),
  "onnxruntime-node": versionOf("onnxruntime-node/package.json")
}

/**
 * Where a run is kept and how often.
 *
 * **Details**
 *
 * `directory`: holds `run.jsonl`, TensorBoard events and `checkpoints/`; nothing is written without it. `resume`: go on
 * from the newest valid checkpoint in it, or from the start where there is none. `checkpointEvery`: steps between
 * checkpoints, default 100; the last step always has one. `keepLast`: how many are kept, default 2.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeepOptions {
  readonly directory?: string | undefined
  readonly resume?: boolean | undefined
  readonly checkpointEvery?: number | undefined
  readonly keepLast?: number | undefined
}

/**
 * What makes two runs the same: a checkpoint is only resumed by a run with the same model, loss, `config`, `seeds`, `steps`
 * and `data`. The optimizer's settings are not compared, so that a run whose loss was not finite can go on at a lower rate;
 * the same bits come only from the same settings.
 *
 * @category models
 * @since 0.1.0
 */
export interface Identity {
  readonly method: string
  readonly config: Readonly<Record<string, Schema.Json>>
  readonly seeds: Readonly<Record<string, Schema.Json>>
  /** Number of optimizer steps in the whole run. */
  readonly steps: number
  /** Digest of what is learned from: see {@link digest}. */
  readonly data: string
}

// What a checkpoint of a run holds besides tensors.
const State = Schema.Struct({
  config: Schema.Record(Schema.String, Schema.Json),
  memory: Schema.optionalKey(Schema.Json)
})

/**
 * A run in progress.
 *
 * **Details**
 *
 * `step`: optimizer steps taken when it was opened. `until(step)`: the step up to which a method should update at once, so
 * that runs of the graph are full and checkpoints fall where they are due. `record` logs the steps just taken, then what
 * `events` the last of them gave rise to, and writes a checkpoint when one is due: a resumed run neither repeats nor lacks
 * such an event. `event` logs something that happened after the last step.
 *
 * @category models
 * @since 0.1.0
 */
export interface Run {
  readonly step: number
  readonly until: (step: number) => number
  readonly record: (
    steps: ReadonlyArray<StepMetrics>,
    events?: ReadonlyArray<{ readonly name: string; readonly data: Schema.Json }>
  ) => Effect.Effect<void, RunLog.RunLogError | Checkpoint.CheckpointError | LearnerError>
  readonly event: (name: string, data?: Schema.Json) => Effect.Effect<void, RunLog.RunLogError>
}

/**
 * Digest of arrays and texts, in order.
 *
 * @category constructors
 * @since 0.1.0
 */
export const digest = (parts: Iterable<string | Int32Array | Float32Array>): string => {
  const hash = createHash("sha256")
  for (const part of parts) {
    const bytes =
      typeof part === "string" ? Buffer.from(part) : Buffer.from(part.buffer, part.byteOffset, part.byteLength)
    // The length keeps neighbours apart: "ab", "c" is not "a", "bc".
    hash.update(`${bytes.byteLength}:`).update(bytes)
  }
  return hash.digest("hex")
}

/**
 * Opens a run, restoring the learner where it resumes.
 *
 * **Details**
 *
 * Fails with `CheckpointError` when the checkpoints belong to another run or none of them is whole, with `RunLogError`
 * when the directory holds a run that was not asked to be resumed or cannot be written, and with `LearnerError` (reason
 * `input`) for counts below 1.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: (
  learner: Resumable,
  identity: Identity,
  options: KeepOptions
) => Effect.Effect<Run, RunLog.RunLogError | Checkpoint.CheckpointError | LearnerError, Scope.Scope> = Effect.fn(
  "Run.open"
)(function* (learner: Resumable, identity: Identity, options: KeepOptions) {
  const { checkpointEvery: every = 100, keepLast = 2 } = options
  for (const [name, count] of Object.entries({ checkpointEvery: every, keepLast })) {
    if (Number.isSafeInteger(count) && count >= 1) continue
    const message = `${name} must be a whole number from 1, got ${count}`
    return yield* new LearnerError({ reason: "input", step: 0, message })
  }
  const { steps: total } = identity
  const nextDue = (step: number) => Math.min(total, (Math.floor(step / every) + 1) * every)
  const until = (step: number) => Math.min(nextDue(step), step + learner.stepsPerRun)

  const { directory } = options
  if (directory === undefined) {
    return { step: 0, until, record: () => Effect.void, event: () => Effect.void }
  }

  const fingerprint = digest([learner.fingerprint, JSON.stringify(identity)])
  const root = join(directory, "checkpoints")
  const found = options.resume === true ? yield* Checkpoint.latest(root, { fingerprint, state: State }) : Option.none()
  if (options.resume === true && Option.isNone(found)) {
    // A run killed before its first checkpoint has none and starts again; damaged ones are no reason to lose its log.
    const damaged = yield* Checkpoint.steps(root)
    if (damaged.length > 0) {
      return yield* new Checkpoint.CheckpointError({
        path: root,
        reason: "Corrupt",
        detail: `no checkpoint in it is whole (of steps ${damaged.join(", ")}); restore one, or start again elsewhere`
      })
    }
  }
  const start = Option.isSome(found) ? found.value.step : 0
  if (Option.isSome(found)) {
    const tensors = found.value.tensors as Readonly<Record<string, ReadonlyMap<string, Tensor<"float32">>>>
    const { memory } = found.value.state
    yield* learner.restore({ step: start, tensors, ...(memory === undefined ? {} : { memory }) })
  }
  const config = { method: identity.method, steps: total, data: identity.data, ...identity.config }
  const log = yield* RunLog.make(
    directory,
    { seeds: identity.seeds, config, versions },
    Option.isSome(found) ? { resumeAt: start } : options.resume === true ? { overwrite: true } : {}
  )

  let logged = start
  let saved = Option.isSome(found) ? start : -1
  const save = Effect.gen(function* () {
    const { memory, step, tensors }: LearnerState = yield* learner.state
    // Steps whose metrics an interruption swallowed are taken again after resuming, so that the log has no gap.
    if (step === saved || step !== logged) return
    const state = { config, ...(memory === undefined ? {} : { memory }) }
    const content = { step, fingerprint, tensors, state, seeds: identity.seeds, cursor: { step }, versions }
    yield* log.sync // a power failure must not leave a checkpoint of steps that the log has lost
    yield* Checkpoint.save(root, content, { keepLast })
    saved = step
  })
  yield* Effect.addFinalizer((exit) =>
    // Not after a bug of our own: what it left behind is no state to go on from.
    Exit.isFailure(exit) && !Cause.hasDies(exit.cause)
      ? Effect.catch(save, (error) => Effect.logError(`no checkpoint was written at the end: ${error.message}`))
      : Effect.void
  )

  return {
    step: start,
    until,
    event: log.event,
    record: Effect.fn("Run.record")(function* (steps, events = []) {
      for (const metrics of steps) yield* log.log(++logged, metrics)
      for (const { data, name } of events) yield* log.event(name, data)
      if (logged === total || logged % every === 0) yield* save
    })
  }
})
