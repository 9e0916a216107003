/**
 * A reward model without a head: a language model is asked whether an answer is good, and how likely it finds Yes
 * rather than No is the score. Nothing is sampled, and nothing need be trained.
 *
 * @since 0.1.0
 */
import { Effect } from "effect"
import * as ForcedChoice from "./ForcedChoice.ts"
import type { PolicyShape } from "./Policy.ts"
import * as Prompt from "./Prompt.ts"
import * as PromptTemplate from "./PromptTemplate.ts"
import * as RewardModel from "./RewardModel.ts"
import type { Tokenizer } from "./Tokenizer.ts"

/**
 * A question about an answer, and the two replies whose probabilities are compared.
 *
 * **Details**
 *
 * `content`: text, or messages for the chat template of the model that is asked. Its places are `{completion}`, which
 * it must have, and `{prompt}`. `replies`: Yes and No, or what stands for them, with the white space before them; they
 * may be several tokens long.
 *
 * @category models
 * @since 0.1.0
 */
export type Template = ForcedChoice.Question

/**
 * Asks whether the answer is good, Yes or No.
 *
 * @category constants
 * @since 0.1.0
 */
export const yesNo: Template = {
  content:
    "Prompt: {prompt}\n\nAnswer: {completion}\n\nQuestion: Is this a good answer? Reply with Yes or No.\n\nReply:",
  replies: [" Yes", " No"]
}

/**
 * Settings: the `template`, default {@link yesNo}; a `name` for messages and reports, default the policy's; and what
 * the score is, default `probability`.
 *
 * **Details**
 *
 * `probability`: `p(Yes) / (p(Yes) + p(No))`, between 0 and 1. `logOdds`: `log p(Yes) - log p(No)` in nats, without
 * bounds, of which the probability is the sigmoid; differences of it are what a model trained on pairs learns.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly template?: Template | undefined
  readonly name?: string | undefined
  readonly output?: "probability" | "logOdds" | undefined
}

const places: PromptTemplate.Places = { known: ["prompt", "completion"], needed: ["completion"] }

/**
 * An answer to ask about: only its texts are read.
 *
 * @category models
 * @since 0.1.0
 */
export interface Texts {
  readonly prompt: Pick<Prompt.Prompt, "messages" | "text">
  readonly completion: { readonly text: string }
}

/**
 * Fills the template with answers: the very questions that {@link make} asks, for whoever trains a policy to reply to them.
 * Throws where {@link make} does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const questions = (
  tokenizer: Pick<Tokenizer, "applyChatTemplate" | "specialIds" | "token">,
  template: Template = yesNo
): ((answer: Texts) => ForcedChoice.Question) => {
  PromptTemplate.check(template.content, places)
  ForcedChoice.check(template.replies)
  const fill = PromptTemplate.filler(template.content, tokenizer)
  return ({ completion, prompt }) => {
    const fields = { prompt: Prompt.transcript(prompt.messages ?? prompt.text), completion: completion.text }
    return { content: fill(fields), replies: template.replies }
  }
}

/**
 * Makes a reward model of a policy that is asked about each answer.
 *
 * **Details**
 *
 * With `p` the probability of a reply, the product over its tokens at temperature 1:
 *
 *     probability = p(Yes) / (p(Yes) + p(No)) = sigmoid(log p(Yes) - log p(No))
 *
 * A prompt of several messages is shown as `role: content` with empty lines between. All answers are asked about in one
 * call of the policy. Fails, with the place of the answer, where a question is longer than the model's context (nothing
 * is cut), where no chat template can render it, where the replies have the same tokens, and where the score is not a
 * finite number. Throws where a template has an unknown place or does not show the answer, or where its replies are
 * empty or alike.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, InstructRM.
 *
 * **Gotchas**
 *
 * An answer cannot leave its place in the template: see `PromptTemplate.filler`. It can still argue for itself in plain
 * words, and a policy that is trained on this score may learn to.
 *
 * **Example** (Asking about one thing)
 *
 * ```ts
 * import { GenerativeRewardModel, type Policy } from "@attune/core"
 *
 * const polite = (policy: Policy.PolicyShape) =>
 *   GenerativeRewardModel.make(policy, {
 *     template: { content: "{completion}\n\nIs this polite? Yes or No:", replies: [" Yes", " No"] }
 *   })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (policy: PolicyShape, options: Options = {}): RewardModel.RewardModelShape => {
  const { name = policy.name, output = "probability", template = yesNo } = options
  const question = questions(policy.tokenizer, template)
  const fail = (reason: string, answer?: number, cause?: unknown) =>
    new RewardModel.RewardModelError({
      model: name,
      reason: answer === undefined ? reason : `answer ${answer}: ${reason}`,
      ...(answer === undefined ? {} : { answer }),
      ...(cause === undefined ? {} : { cause })
    })
  return {
    name,
    score: Effect.fn("GenerativeRewardModel.score")(function* (answers) {
      const logprobs = yield* Effect.mapError(
        ForcedChoice.logprobs(policy, answers.map(question)),
        ({ cause, question, reason }) => fail(reason, question, cause)
      )
      const scores = Float32Array.from(logprobs, ([yes, no]) =>
        output === "logOdds" ? yes - no : ForcedChoice.probability(yes, no)
      )
      const bad = scores.findIndex((score) => !Number.isFinite(score))
      if (bad < 0) return scores
      const [yes, no] = template.replies.map((reply, r) => `log p(${JSON.stringify(reply)}) = ${logprobs[bad]![r]}`)
      return yield* fail(`is scored ${scores[bad]}, since ${yes} and ${no}; a score must be a finite number`, bad)
    })
  }
}
