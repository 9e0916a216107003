/**
 * Passes over examples in shuffled order, a batch for each optimizer step: what every kind of supervised training is.
 *
 * @since 0.1.0
 */
import { Effect, type Schema } from "effect"
import { uniformInt } from "pure-rand/distribution/uniformInt"
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import type { CheckpointError } from "./Checkpoint.ts"
import { type Learner, LearnerError, type StepMetrics } from "./Learner.ts"
import type { Batch, Fields } from "./Loss.ts"
import * as Progress from "./Progress.ts"
import * as Run from "./Run.ts"
import type { RunLogError } from "./RunLog.ts"

/**
 * Settings of a training run, besides those of {@link Run.KeepOptions}: `epochs`, default 1; `batchSize` examples (or
 * groups of sequences) per optimizer step, default 16; `seed` of the order in which examples are taken, drawn anew for each
 * epoch, default 0.
 *
 * **Details**
 *
 * `epochEnd` runs after the last step of each epoch, whose number it is given, from 1, and what it returns becomes the event
 * `epoch` of the log. It may read and sample the model, but not train it. It runs before that step is logged and kept: a run
 * that it fails, or that is stopped meanwhile, goes on from the checkpoint before, and it runs again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<E = never, R = never> extends Run.KeepOptions {
  readonly epochs?: number | undefined
  readonly batchSize?: number | undefined
  readonly seed?: number | undefined
  readonly epochEnd?: ((epoch: number) => Effect.Effect<Schema.Json, E, R>) | undefined
}

/**
 * Indices `0 .. n - 1` in the order of one epoch: a Fisher-Yates shuffle that depends only on seed and epoch.
 *
 * @category math
 * @since 0.1.0
 */
export const order = (n: number, seed: number, epoch: number): Int32Array => {
  const generator = xoroshiro128plus(seed ^ Math.imul(epoch + 1, 0x9e3779b9))
  const indices = Int32Array.from({ length: n }, (_, i) => i)
  for (let i = n - 1; i > 0; i--) {
    const j = uniformInt(generator, 0, i)
    const swap = indices[i]!
    indices[i] = indices[j]!
    indices[j] = swap
  }
  return indices
}

/**
 * Number of optimizer steps: the last batch of an epoch may be smaller.
 *
 * @category math
 * @since 0.1.0
 */
export const steps = (
  examples: number,
  { batchSize = 16, epochs = 1 }: Pick<Options, "batchSize" | "epochs">
): number => Math.ceil(examples / batchSize) * epochs

/**
 * What the run is called in progress, log and checkpoints, and the digest of its examples: see `Run.digest`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Subject {
  readonly method: string
  readonly data: string
}

/**
 * Trains the learner on examples, or on groups of sequences, and returns what each step reported.
 *
 * **Details**
 *
 * Shows progress, logs every step, and writes checkpoints where a directory is given; an interrupted run leaves one, and
 * a resumed run continues bit for bit. Only the steps of this call are returned. Where there are fewer examples than
 * `batchSize`, every step takes all of them. Fails with `LearnerError` (reason `input`) before the first step where there is
 * no example, and for counts below 1; and where the learner's option `stop` ends an update, once the steps taken are logged.
 *
 * @category running
 * @since 0.1.0
 */
export const train: <F extends Fields, E = never, R = never>(
  learner: Learner<F>,
  examples: Batch<F>,
  subject: Subject,
  options?: Options<E, R>
) => Effect.Effect<ReadonlyArray<StepMetrics>, LearnerError | RunLogError | CheckpointError | E, R> = Effect.fn(
  "Epochs.train"
)(function* <F extends Fields, E, R>(
  learner: Learner<F>,
  examples: Batch<F>,
  subject: Subject,
  options: Options<E, R> = {}
) {
  const { batchSize = 16, epochEnd, epochs = 1, seed = 0 } = options
  const refuse = (message: string, step = 0) => new LearnerError({ reason: "input", step, message })
  for (const [name, count] of Object.entries({ epochs, batchSize })) {
    if (Number.isSafeInteger(count) && count >= 1) continue
    return yield* refuse(`${name} must be a whole number from 1, got ${count}`)
  }
  if (examples.length === 0) return yield* refuse("there is no example to train on")
  const total = steps(examples.length, options)
  const perEpoch = total / epochs
  // Kept for an epoch: shuffling millions of indices at every step would hold up the program.
  let shuffled: { readonly epoch: number; readonly indices: Int32Array } = { epoch: -1, indices: new Int32Array() }
  const orderOf = (epoch: number) => {
    if (shuffled.epoch !== epoch) shuffled = { epoch, indices: order(examples.length, seed, epoch) }
    return shuffled.indices
  }
  const batchAt = (step: number) => {
    const indices = orderOf(Math.floor(step / perEpoch))
    const first = (step % perEpoch) * batchSize
    return Array.from(indices.subarray(first, first + batchSize), (i) => examples[i]!)
  }

  const { data, method } = subject
  const identity = { method, config: { epochs, batchSize }, seeds: { seed }, steps: total, data }
  const run = yield* Run.open(learner, identity, options)
  const progress = yield* Progress.start({ label: method, total, from: run.step })

  const reports: Array<StepMetrics> = []
  for (let step = run.step; step < total; ) {
    const epochSteps = perEpoch - (step % perEpoch)
    const until = epochEnd === undefined ? run.until(step) : Math.min(run.until(step), step + epochSteps)
    const batches = Array.from({ length: until - step }, (_, i) => batchAt(step + i))
    // What a failing call did take is logged before it fails, with the error that it fails with.
    const metrics = yield* Effect.tapError(learner.update(batches), ({ completed = [] }) =>
      completed.length === 0
        ? Effect.void
        : Effect.catch(run.record(completed), (error) =>
            Effect.logError(`the steps before the failure were not recorded: ${error.message}`)
          )
    )
    if (metrics.length < batches.length) {
      if (metrics.length > 0) yield* run.record(metrics)
      return yield* refuse(
        `the learner stopped after step ${step + metrics.length}, as its option stop says; train in epochs without it`,
        step + metrics.length
      )
    }
    const ended = epochEnd !== undefined && until % perEpoch === 0
    const events = ended ? [{ name: "epoch", data: yield* epochEnd(until / perEpoch) }] : []
    yield* run.record(metrics, events)
    yield* progress.update(until, { loss: metrics.at(-1)!["loss"]!, lr: metrics.at(-1)!["learning_rate"]! })
    reports.push(...metrics)
    step = until
  }
  return reports
}, Effect.scoped)
