/**
 * Supervised fine-tuning: raises the probability of the completions that people wrote.
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5 (the first step of InstructGPT).
 *
 * @since 0.1.0
 */
import { Effect, Result } from "effect"
import type { CheckpointError } from "./Checkpoint.ts"
import type { Demonstration } from "./Demonstration.ts"
import * as Epochs from "./Epochs.ts"
import { type Learner, LearnerError, type StepMetrics } from "./Learner.ts"
import * as Loss from "./Loss.ts"
import * as Op from "./onnx/Op.ts"
import type { PolicyShape } from "./Policy.ts"
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
 * Settings of a training run.
 *
 * @category models
 * @since 0.1.0
 */
export type TrainOptions = Epochs.Options

// The first thing that could only end the run later, when some step meets it.
const complaint = (examples: ReadonlyArray<Example>, contextLength: number): string | undefined => {
  for (const [i, { tokens, weights }] of examples.entries()) {
    if (tokens.length > contextLength) {
      return `example ${i} has ${tokens.length} tokens, more than the model's context of ${contextLength}: shorten or split it`
    }
    if (!weights.some((weight) => weight !== 0)) return `example ${i} has no target token: its completion is empty`
  }
  return undefined
}

/**
 * Fine-tunes the learner's model on examples and returns what each step reported: see `Epochs.train`.
 *
 * **Details**
 *
 * Fails with `LearnerError` (reason `input`) before the first step where an example is longer than the context or has no
 * target token.
 *
 * @category running
 * @since 0.1.0
 */
export const train: (
  learner: Learner<Record<never, never>, Pick<PolicyShape, "contextLength">>,
  examples: ReadonlyArray<Example>,
  options?: TrainOptions
) => Effect.Effect<ReadonlyArray<StepMetrics>, LearnerError | RunLogError | CheckpointError> = Effect.fn("Sft.train")(
  function* (learner, examples, options) {
    const problem = complaint(examples, learner.model.contextLength)
    if (problem !== undefined) return yield* new LearnerError({ reason: "input", step: 0, message: problem })
    const data = Run.digest(examples.flatMap(({ tokens, weights }) => [tokens, weights]))
    return yield* Epochs.train(learner, examples, { method: "sft", data }, options)
  }
)
