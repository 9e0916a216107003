/**
 * A sampled answer. Log-probabilities are in nats, one per token, and never include the prompt's tokens.
 *
 * @since 0.1.0
 */

/**
 * Why sampling ended: a stop token or stop string was produced, or the limit of new tokens was reached.
 *
 * @category models
 * @since 0.1.0
 */
export type FinishReason = "stop" | "length"

/**
 * A sampled answer of `T` tokens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Completion {
  /** Sampled ids `[T]`. A stop token is kept: it was sampled, so it is scored and trained on. */
  readonly tokens: Int32Array
  /** Log-probabilities `[T]` under the distribution that was sampled from: after temperature, top-k and top-p. */
  readonly logprobs: Float32Array
  /** Log-probabilities `[T]` under the model itself: temperature 1, nothing cut. */
  readonly untemperedLogprobs: Float32Array
  /** The decoded answer, special tokens left out. */
  readonly text: string
  readonly finishReason: FinishReason
}

/**
 * Makes a completion. Throws when the three arrays differ in length.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (completion: Completion): Completion => {
  const { logprobs, tokens, untemperedLogprobs } = completion
  if (logprobs.length !== tokens.length || untemperedLogprobs.length !== tokens.length) {
    throw new RangeError(
      `a completion of ${tokens.length} tokens has ${logprobs.length} logprobs and ` +
        `${untemperedLogprobs.length} untempered logprobs`
    )
  }
  return completion
}
