/**
 * Supervised fine-tuning: raises the probability of the completions that people wrote.
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5 (the first step of InstructGPT).
 *
 * @since 0.1.0
 */
import * as Loss from "./Loss.ts"
import * as Op from "./onnx/Op.ts"

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
export const example = (
  prompt: ArrayLike<number>,
  completion: ArrayLike<number>,
  promptWeight = 0
): Loss.Example<{}> => {
  const tokens = new Int32Array(prompt.length + completion.length)
  tokens.set(prompt)
  tokens.set(completion, prompt.length)
  const weights = new Float32Array(tokens.length).fill(1, prompt.length).fill(promptWeight, 0, prompt.length)
  if (weights.length > 0) weights[0] = 0
  return { tokens, weights, fields: {} }
}
