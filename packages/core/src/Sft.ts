/**
 * Supervised fine-tuning: raises the probability of the completions that people wrote.
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5 (the first step of InstructGPT).
 *
 * @since 0.1.0
 */
import { Effect, Result } from "effect"
import { uniformInt } from "pure-rand/distribution/uniformInt"
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"
import type { CheckpointError } from "./Checkpoint.ts"
import type { Demonstration } from "./Demonstration.ts"
import { type Learner, LearnerError, type StepMetrics } from "./Learner.ts"
import * as Loss from "./Loss.ts"
import * as Op from "./onnx/Op.ts"
import type { PolicyShape } from "./Policy.ts"
import * as Progress from "./Progress.ts"
import * as Run from "./Run.ts"
import type { RunLogError } from "./RunLog.ts"
import type { Tokenizer, TokenizerError } from "./Tokenizer.ts"

/**
 * Mean negative log-likelihood of the target tokens, in nats.
 *
 * @category math
 * @since 0.1.0
 */
export const loss = Loss.make({
  name: "sft",
  fields: {},
  metrics: [],
  build: ({ g, logprobs, weights }) => ({ loss: Op.Neg(g, Loss.mean(g, logprobs(), weights)), metrics: {} })
})

/**
 * An example without fields: tokens and weights.
 *
 * @category models
 * @since 0.1.0
 */
export type Example = Loss.Example<Record<never, never>>

/**
 * An example from a prompt and its completion: only the completion's tokens are targets.
 *
 * **Details**
 *
 * `promptWeight` gives the prompt's tokens a weight besides, `0` by default; with an empty prompt every token but the
 * first is a target.
 *
 * @category constructors
 * @since 0.1.0
 */
export const example = (prompt: ArrayLike<number>, completion: ArrayLike<number>, promptWeight = 0): Example => {
  const tokens = new Int32Array(prompt.length + completion.length)
  tokens.set(prompt)
  tokens.set(completion, prompt.length)
  const weights = new Float32Array(tokens.length).fill(promptWeight).fill(1, prompt.length)
  if (weights.length > 0) weights[0] = 0
  return { tokens, weights, fields: {} }
}

/**
 * Examples from demonstrations: each prompt as the model reads it, its completion, and the end-of-text token.
 *
 * **Details**
 *
 * Prompt and completion are tokenized apart, so that training sees the prompt's tokens exactly as sampling does. Fails
 * when a conversation is given and the tokenizer has no chat template.
 *
 * @category constructors
 * @since 0.1.0
 */
export const examples = (
  tokenizer: Tokenizer,
  demonstrations: ReadonlyArray<Demonstration>,
  promptWeight = 0
): Result.Result<ReadonlyArray<Example>, TokenizerError> => {
  const made: Array<Example> = []
  for (const { completion, prompt } of demonstrations) {
    const end = tokenizer.eosId === undefined ? [] : [tokenizer.eosId]
    if (prompt === "") {
      made.push(example([], [...tokenizer.encode(completion), ...end]))
      continue
    }
    const read = tokenizer.prompt(prompt)
    if (Result.isFailure(read)) return Result.fail(read.failure)
    const answer = [...tokenizer.encode(completion, { addSpecialTokens: false }), ...end]
    made.push(example(read.success.tokens, answer, promptWeight))
  }
  return Result.succeed(made)
}

/**
 * Settings of a training run, besides those of {@link Run.KeepOptions}: `epochs`, default 1; `batchSize` sequences per
 * optimizer step, default 16; `seed` of the order in which examples are taken, drawn anew for each epoch, default 0.
 *
 * @category models
 * @since 0.1.0
 */
export interface TrainOptions extends Run.KeepOptions {
  readonly epochs?: number | undefined
  readonly batchSize?: number | undefined
  readonly seed?: number | undefined
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
export const steps = (examples: number, { batchSize = 16, epochs = 1 }: TrainOptions): number =>
  Math.ceil(examples / batchSize) * epochs

const refuse = (message: string) => new LearnerError({ reason: "input", step: 0, message })

// The first thing that could only end the run later, when some step meets it.
const complaint = (
  examples: ReadonlyArray<Example>,
  contextLength: number,
  counts: Readonly<Record<string, number>>
): string | undefined => {
  for (const [name, count] of Object.entries(counts)) {
    if (!(Number.isSafeInteger(count) && count >= 1)) return `${name} must be a whole number from 1, got ${count}`
  }
  if (examples.length === 0) return "there is no example to train on"
  for (const [i, { tokens, weights }] of examples.entries()) {
    if (tokens.length > contextLength) {
      return `example ${i} has ${tokens.length} tokens, more than the model's context of ${contextLength}: shorten or split it`
    }
    if (!weights.some((weight) => weight !== 0)) return `example ${i} has no target token: its completion is empty`
  }
  return undefined
}

/**
 * Fine-tunes the learner's model on examples and returns what each step reported.
 *
 * **Details**
 *
 * Shows progress, logs every step, and writes checkpoints where a directory is given; an interrupted run leaves one, and
 * a resumed run continues bit for bit. Only the steps of this call are returned. Where there are fewer examples than
 * `batchSize`, every step takes all of them.
 *
 * Fails with `LearnerError` (reason `input`) before the first step where there is no example, where one is longer than
 * the context or has no target token, and for counts below 1.
 *
 * @category running
 * @since 0.1.0
 */
export const train: (
  learner: Learner<Record<never, never>, Pick<PolicyShape, "contextLength">>,
  examples: ReadonlyArray<Example>,
  options?: TrainOptions
) => Effect.Effect<ReadonlyArray<StepMetrics>, LearnerError | RunLogError | CheckpointError> = Effect.fn("Sft.train")(
  function* (learner, examples, options = {}) {
    const { batchSize = 16, epochs = 1, seed = 0 } = options
    const problem = complaint(examples, learner.model.contextLength, { epochs, batchSize })
    if (problem !== undefined) return yield* refuse(problem)
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

    const identity = {
      method: "sft",
      config: { epochs, batchSize },
      seeds: { seed },
      steps: total,
      data: Run.digest(examples.flatMap(({ tokens, weights }) => [tokens, weights]))
    }
    const run = yield* Run.open(learner, identity, options)
    const progress = yield* Progress.start({ label: "sft", total, from: run.step })

    const reports: Array<StepMetrics> = []
    for (let step = run.step; step < total; ) {
      const until = run.until(step)
      const batches = Array.from({ length: until - step }, (_, i) => batchAt(step + i))
      // What a failing call did take is logged before it fails, with the error that it fails with.
      const metrics = yield* Effect.tapError(learner.update(batches), ({ completed = [] }) =>
        completed.length === 0
          ? Effect.void
          : Effect.catch(run.record(completed), (error) =>
              Effect.logError(`the steps before the failure were not recorded: ${error.message}`)
            )
      )
      yield* run.record(metrics)
      yield* progress.update(until, { loss: metrics.at(-1)!["loss"]!, lr: metrics.at(-1)!["learning_rate"]! })
      reports.push(...metrics)
      step = until
    }
    return reports
  },
  Effect.scoped
)
