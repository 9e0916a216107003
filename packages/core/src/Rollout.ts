/**
 * A prompt with the answer that was sampled for it, and what was measured on that answer.
 *
 * @since 0.1.0
 */
import type { Completion } from "./Completion.ts"
import type { Prompt } from "./Prompt.ts"

/**
 * A sampled answer with its measurements; `T` is the number of tokens of the completion.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rollout {
  readonly prompt: Prompt
  readonly completion: Completion
  /** Log-probabilities `[T]` of the same tokens under the frozen reference, in nats, temperature 1. */
  readonly refLogprobs?: Float32Array
  /** The critic's values `[T]`, one per completion token, in units of reward. */
  readonly values?: Float32Array
  /** The reward model's scalar for the whole answer. */
  readonly score?: number
}

/**
 * Makes a rollout. Throws when a per-token array does not have one entry per completion token.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (rollout: Rollout): Rollout => {
  for (const name of ["refLogprobs", "values"] as const) {
    const length = rollout[name]?.length ?? rollout.completion.tokens.length
    if (length !== rollout.completion.tokens.length) {
      throw new RangeError(`a completion of ${rollout.completion.tokens.length} tokens has ${length} ${name}`)
    }
  }
  return rollout
}

/**
 * The ids that a model is run on: the prompt's, then the completion's.
 *
 * @category transforming
 * @since 0.1.0
 */
export const tokens = ({ completion, prompt }: Pick<Rollout, "prompt" | "completion">): Int32Array => {
  const joined = new Int32Array(prompt.tokens.length + completion.tokens.length)
  joined.set(prompt.tokens)
  joined.set(completion.tokens, prompt.tokens.length)
  return joined
}
