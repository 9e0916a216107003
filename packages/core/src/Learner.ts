/**
 * What updates a model: it owns the optimizer's state, and turns batches of examples into steps.
 *
 * No model runs here: see `ort/OrtLearner.ts`.
 *
 * @since 0.1.0
 */
import { type Effect, Schema } from "effect"
import type { Batch, Fields } from "./Loss.ts"
import type { Tensor } from "./Tensor.ts"

/**
 * Reports that an update was refused or failed. `reason` says which: an `input` that cannot be learned from (the message
 * names step and example), a loss or gradient that was not `finite` (parameters are those before that step), or the
 * `runtime`. `step`: how many steps had been taken before it, so that the first is step 0; -1 where state was moved.
 * `completed`: what the steps of the same call reported that were taken before.
 *
 * @category errors
 * @since 0.1.0
 */
export class LearnerError extends Schema.TaggedError<LearnerError>()("LearnerError", {
  reason: Schema.Literals(["input", "finite", "runtime"]),
  step: Schema.Int,
  message: Schema.String,
  completed: Schema.optionalKey(Schema.Array(Schema.Record(Schema.String, Schema.Number))),
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/**
 * What one optimizer step reports: `loss`, `grad_norm` (before clipping), `learning_rate`, `tokens` (targets), and the
 * metrics of the loss.
 *
 * @category models
 * @since 0.1.0
 */
export type StepMetrics = Readonly<Record<string, number>>

/**
 * Everything that a learner needs to go on exactly where it was: the number of steps taken and, by part (`weights`,
 * `first`, `second`, `ema`) and parameter name, the tensors. `memory`: what a method remembers besides.
 *
 * @category models
 * @since 0.1.0
 */
export interface LearnerState {
  readonly step: number
  readonly tensors: Readonly<Record<string, ReadonlyMap<string, Tensor<"float32">>>>
  readonly memory?: Schema.Json
}

/**
 * What a run keeps, and takes up again: a learner, or several that make progress together.
 *
 * **Details**
 *
 * `stepsPerRun` is how many steps are best taken at once. `fingerprint` names architecture, trained parameters and loss, so
 * that a checkpoint of another learner is recognised.
 *
 * @category models
 * @since 0.1.0
 */
export interface Resumable {
  readonly fingerprint: string
  readonly stepsPerRun: number
  readonly state: Effect.Effect<LearnerState, LearnerError>
  readonly restore: (state: LearnerState) => Effect.Effect<void, LearnerError>
}

/**
 * Trains one model with one loss.
 *
 * **Details**
 *
 * `update` takes the batches of consecutive optimizer steps and returns a record for each step taken: for all of them,
 * unless the learner was told when to stop. The weights of `model` are the learner's: after `update` it samples and scores
 * with the new ones.
 *
 * @category models
 * @since 0.1.0
 */
export interface Learner<F extends Fields = Fields, Model = unknown> extends Resumable {
  readonly model: Model
  readonly update: (batches: ReadonlyArray<Batch<F>>) => Effect.Effect<ReadonlyArray<StepMetrics>, LearnerError>
}
