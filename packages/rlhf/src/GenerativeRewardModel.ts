/**
 * A reward model without a head: a language model is asked whether an answer is good, and how likely it finds Yes
 * rather than No is the score. Nothing is sampled, and nothing need be trained.
 *
 * @since 0.1.0
 */
import { type Policy, type Prompt, RewardModel, type Tokenizer } from "@attune/core"
import { Effect, Result } from "effect"

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
export interface Template {
  readonly content: Prompt.Content
  readonly replies: readonly [yes: string, no: string]
}

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

const place = /\{(\w+)\}/g
const places = ["prompt", "completion"]

const checkTemplate = ({ content, replies }: Template): void => {
  const texts = typeof content === "string" ? [content] : content.map((message) => message.content)
  const used = texts.flatMap((text) => Array.from(text.matchAll(place), ([, name]) => name!))
  const unknown = used.find((name) => !places.includes(name))
  if (unknown !== undefined) {
    throw new RangeError(`a prompt template has {${unknown}}; its places are {${places.join("}, {")}}`)
  }
  if (!used.includes("completion")) throw new RangeError("a prompt template lacks {completion}, which it must show")
  const [yes, no] = replies
  if (yes === "" || no === "" || yes === no) {
    throw new RangeError(`the replies of a prompt template are ${JSON.stringify(replies)}; give two different ones`)
  }
}

// In one pass, since the texts that are filled in may have braces of their own.
const fill = (content: Prompt.Content, fields: Readonly<Record<string, string>>): Prompt.Content => {
  const filled = (text: string) => text.replace(place, (_, name: string) => fields[name]!)
  return typeof content === "string"
    ? filled(content)
    : content.map((message) => ({ ...message, content: filled(message.content) }))
}

// A conversation as people would write it down: the special tokens of its own template are not for this question.
const textOf = ({ messages, text }: Prompt.Prompt): string => {
  if (messages === undefined) return text
  const [first, ...others] = messages
  if (first === undefined) return ""
  return others.length === 0 ? first.content : messages.map(({ content, role }) => `${role}: ${content}`).join("\n\n")
}

/**
 * Removes what the tokenizer would read as special tokens, until none is left: an answer that spells the end of its
 * turn could otherwise reply for the model.
 */
const withoutSpecialTokens = ({ specialIds, token }: Tokenizer.Tokenizer): ((text: string) => string) => {
  const spelled = Array.from(specialIds, (id) => token(id) ?? "").filter((text) => text !== "")
  if (spelled.length === 0) return (text) => text
  const longestFirst = spelled.sort((a, b) => b.length - a.length)
  const special = new RegExp(longestFirst.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "g")
  return (text) => {
    for (let before = ""; before !== text; ) {
      before = text
      text = text.replace(special, "")
    }
    return text
  }
}

/**
 * The replies as continuations of one prompt, which is everything that they have in common: so they stay comparable
 * where a tokenizer merges the question's end with a reply's beginning, and the prompt is computed once.
 */
const continuations = (
  tokenizer: Tokenizer.Tokenizer,
  content: Prompt.Content,
  replies: Template["replies"]
): Result.Result<readonly [Policy.Continuation, Policy.Continuation], string> =>
  Result.gen(function* () {
    const isText = typeof content === "string"
    const text = isText
      ? content
      : yield* Result.mapError(
          tokenizer.applyChatTemplate(content, { addGenerationPrompt: true }),
          ({ message }) => message
        )
    const begin = tokenizer.bosId === undefined ? "" : (tokenizer.token(tokenizer.bosId) ?? "")
    // a chat template has written its special tokens already, and so have some templates that are text
    const addSpecialTokens = isText && !(begin !== "" && text.startsWith(begin))
    const [yes, no] = replies.map((reply) => {
      const ids = tokenizer.encode(text + reply, { addSpecialTokens })
      let end = ids.length
      while (end > 0 && tokenizer.specialIds.has(ids[end - 1]!)) end-- // some tokenizers close every text
      return ids.subarray(0, end)
    }) as [Int32Array, Int32Array]
    let common = 0
    while (common < yes.length && common < no.length && yes[common] === no[common]) common++
    if (common === 0) return yield* Result.fail("the prompt template has no tokens before its replies")
    if (common === yes.length || common === no.length) {
      return yield* Result.fail(
        `the tokens of ${JSON.stringify(replies)} cannot be told apart: one begins with the other`
      )
    }
    const prompt = yes.subarray(0, common)
    return [
      { prompt, completion: yes.subarray(common) },
      { prompt, completion: no.subarray(common) }
    ]
  })

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
 * The texts are filled in once, and what they spell of the tokenizer's special tokens is removed, so an answer cannot
 * leave its place in the template. It can still argue for itself in plain words, and a policy that is trained on this
 * score may learn to.
 *
 * **Example** (Asking about one thing)
 *
 * ```ts
 * import type { Policy } from "@attune/core"
 * import { GenerativeRewardModel } from "@attune/rlhf"
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
export const make = (policy: Policy.PolicyShape, options: Options = {}): RewardModel.RewardModelShape => {
  const { name = policy.name, output = "probability", template = yesNo } = options
  checkTemplate(template)
  const plain = withoutSpecialTokens(policy.tokenizer)
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
      const asked: Array<Policy.Continuation> = []
      for (const [i, { completion, prompt }] of answers.entries()) {
        if (i % 8 === 7) yield* Effect.yieldNow // reading long texts takes its time
        const fields = { prompt: plain(textOf(prompt)), completion: plain(completion.text) }
        const made = continuations(policy.tokenizer, fill(template.content, fields), template.replies)
        if (Result.isFailure(made)) return yield* fail(made.failure, i)
        for (const continuation of made.success) {
          const length = continuation.prompt.length + continuation.completion.length
          if (length > policy.contextLength) {
            return yield* fail(
              `the question has ${length} tokens, more than the model's context of ${policy.contextLength}; ` +
                "shorten the texts or the prompt template",
              i
            )
          }
          asked.push(continuation)
        }
      }
      if (asked.length === 0) return new Float32Array()
      const logprobs = yield* Effect.mapError(policy.logprobs(asked), (cause) => fail(cause.message, undefined, cause))
      const sums = logprobs.map((row) => row.reduce((sum, logprob) => sum + logprob, 0))
      const scores = Float32Array.from(answers, (_, i) => {
        const logOdds = sums[2 * i]! - sums[2 * i + 1]!
        return output === "logOdds" ? logOdds : 1 / (1 + Math.exp(-logOdds))
      })
      const bad = scores.findIndex((score) => !Number.isFinite(score))
      if (bad < 0) return scores
      const [yes, no] = template.replies.map((reply, r) => `log p(${JSON.stringify(reply)}) = ${sums[2 * bad + r]}`)
      return yield* fail(`is scored ${scores[bad]}, since ${yes} and ${no}; a score must be a finite number`, bad)
    })
  }
}
