/**
 * Judges made of language models: a policy is asked a question, and how likely it finds each of two given answers
 * decides.
 *
 * Nothing is sampled. With `p` the probability of an answer, the product over its tokens, the result is
 * `p(Yes) / (p(Yes) + p(No))`: what the model would rather say is left out.
 *
 * @since 0.1.0
 */
import { ForcedChoice, Policy, type Prompt, PromptTemplate } from "@attune/core"
import { Effect, Layer } from "effect"
import * as Judge from "./Judge.ts"

/**
 * A prompt with places to fill, and the two answers to it.
 *
 * **Details**
 *
 * `content` is text, or messages for a chat template. Its places are `{prompt}`, `{completion}` and `{question}` where
 * one answer is asked about, `{prompt}`, `{first}` and `{second}` where two are compared. `answers`: Yes and No, or the
 * first and the second answer's names, with the white space that stands before them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Template {
  readonly content: Prompt.Content
  readonly answers: readonly [yes: string, no: string]
}

/**
 * Asks a question about an answer, Yes or No.
 *
 * @category constants
 * @since 0.1.0
 */
export const yesNo: Template = {
  content: "Prompt: {prompt}\n\nAnswer: {completion}\n\nQuestion: {question} Reply with Yes or No.\n\nReply:",
  answers: [" Yes", " No"]
}

/**
 * Puts a question about an answer as a statement of which the model says whether it is true.
 *
 * @category constants
 * @since 0.1.0
 */
export const trueFalse: Template = {
  content:
    "Consider an answer to a prompt.\n\nPrompt: {prompt}\n\nAnswer: {completion}\n\n" +
    'To the question "{question}" one would say yes. True or False?\n\nReply:',
  answers: [" True", " False"]
}

/**
 * Asks which of two answers is better, A or B.
 *
 * @category constants
 * @since 0.1.0
 */
export const aOrB: Template = {
  content:
    "Prompt: {prompt}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\n" +
    "Question: Which answer is better? Reply with A or B.\n\nReply:",
  answers: [" A", " B"]
}

type Fields = Readonly<Record<string, string>>

const check = (templates: ReadonlyArray<Template>, places: PromptTemplate.Places): void => {
  if (templates.length === 0) throw new RangeError("a judge needs at least one prompt template")
  for (const template of templates) {
    PromptTemplate.check(template.content, places)
    ForcedChoice.check(template.answers)
  }
}

// The mean over the templates of p(Yes), for each item.
const probabilities = Effect.fnUntraced(function* (
  policy: Policy.PolicyShape,
  templates: ReadonlyArray<Template>,
  items: ReadonlyArray<{ readonly id: string; readonly fields: Fields }>
) {
  const fail = (reason: string, item?: string, cause?: unknown) =>
    new Judge.JudgeError({
      judge: policy.name,
      reason,
      ...(item === undefined ? {} : { item }),
      ...(cause === undefined ? {} : { cause })
    })
  const forms = templates.map(({ answers, content }) => ({
    replies: answers,
    fill: PromptTemplate.filler(content, policy.tokenizer)
  }))
  const questions = items.flatMap(({ fields }) =>
    forms.map(({ fill, replies }) => ({ content: fill(fields), replies }))
  )
  const logprobs = yield* Effect.mapError(ForcedChoice.logprobs(policy, questions), ({ cause, question, reason }) =>
    fail(reason, question === undefined ? undefined : items[Math.floor(question / templates.length)]!.id, cause)
  )
  const means = items.map((_, i) => {
    const own = logprobs.slice(i * templates.length, (i + 1) * templates.length)
    return own.reduce((sum, [yes, no]) => sum + ForcedChoice.probability(yes, no), 0) / templates.length
  })
  return yield* Effect.fromResult(Judge.checkedProbabilities(policy.name, items, means))
})

/**
 * Settings of asking: prompt templates, over which the probabilities are averaged. Default {@link yesNo} alone.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly templates?: ReadonlyArray<Template>
}

/**
 * Makes a grader of a policy that is asked the question of each item.
 *
 * **Details**
 *
 * All questions go to the policy in one call. Several templates are averaged as probabilities, not as log-probs. Fails
 * where a question is longer than the model's context; nothing is cut. Throws where a template has an unknown place or
 * does not show the answer, or where the answers that it allows are empty or alike.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, InstructRM ensemble.
 *
 * @category constructors
 * @since 0.1.0
 */
export const grader = (policy: Policy.PolicyShape, options?: Options): Judge.GraderShape => {
  const templates = options?.templates ?? [yesNo]
  check(templates, Judge.questionPlaces)
  return {
    name: policy.name,
    grade: Effect.fn("PolicyJudge.grade")((questions) =>
      probabilities(
        policy,
        templates,
        questions.map(({ completion, id, prompt, question }) => ({ id, fields: { prompt, completion, question } }))
      )
    )
  }
}

/**
 * Makes a judge of a policy that is asked the same yes-or-no question about both answers: the one with the higher
 * p(Yes) wins, and where they differ by no more than `margin`, 0 unless given, it is a tie. Each answer is seen alone,
 * so the order of the two does not matter.
 *
 * @see {@link grader} for how the model is asked, and what fails
 * @category constructors
 * @since 0.1.0
 */
export const byQuestion = (
  policy: Policy.PolicyShape,
  question: string,
  options?: Options & { readonly margin?: number }
): Judge.JudgeShape => {
  const templates = options?.templates ?? [yesNo]
  const margin = Judge.checkedMargin(options?.margin)
  check(templates, Judge.questionPlaces)
  return {
    name: policy.name,
    compare: Effect.fn("PolicyJudge.compare")(function* (comparisons) {
      const items = comparisons.flatMap(({ first, id, prompt, second }) => [
        { id, fields: { prompt, completion: first, question } },
        { id, fields: { prompt, completion: second, question } }
      ])
      const scores = yield* probabilities(policy, templates, items)
      return yield* Effect.fromResult(Judge.byScore(policy.name, comparisons, scores, margin))
    })
  }
}

/**
 * Makes a judge of a policy that sees both answers and is asked which is better: the first where the probability of its
 * name is above one half by more than `margin / 2`, the second where it is below by as much, otherwise a tie. Templates
 * default to {@link aOrB} alone.
 *
 * **Gotchas**
 *
 * Models favour a place: ask in both orders.
 *
 * @see {@link grader} for how the model is asked, and what fails
 * @category constructors
 * @since 0.1.0
 */
export const byChoice = (
  policy: Policy.PolicyShape,
  options?: Options & { readonly margin?: number }
): Judge.JudgeShape => {
  const templates = options?.templates ?? [aOrB]
  const margin = Judge.checkedMargin(options?.margin)
  check(templates, Judge.comparisonPlaces)
  return {
    name: policy.name,
    compare: Effect.fn("PolicyJudge.compare")(function* (comparisons) {
      const items = comparisons.map(({ first, id, prompt, second }) => ({ id, fields: { prompt, first, second } }))
      const shares = yield* probabilities(policy, templates, items)
      const scores = shares.flatMap((p) => [p, 1 - p])
      return yield* Effect.fromResult(Judge.byScore(policy.name, comparisons, scores, margin))
    })
  }
}

/**
 * Layer with a grader made of the policy.
 *
 * **Gotchas**
 *
 * The judge is seldom the model that is being trained: give this layer a policy of its own with `Layer.provide`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerGrader = (options?: Options): Layer.Layer<Judge.Grader, never, Policy.Policy> =>
  Layer.effect(
    Judge.Grader,
    Effect.map(Policy.Policy, (policy) => grader(policy, options))
  )

/**
 * Layer with a judge that asks the policy a yes-or-no question about each answer.
 *
 * @see {@link layerGrader} about the policy
 * @category layers
 * @since 0.1.0
 */
export const layerByQuestion = (
  question: string,
  options?: Options & { readonly margin?: number }
): Layer.Layer<Judge.Judge, never, Policy.Policy> =>
  Layer.effect(
    Judge.Judge,
    Effect.map(Policy.Policy, (policy) => byQuestion(policy, question, options))
  )

/**
 * Layer with a judge that asks the policy which of the two answers is better.
 *
 * @see {@link layerGrader} about the policy
 * @category layers
 * @since 0.1.0
 */
export const layerByChoice = (
  options?: Options & { readonly margin?: number }
): Layer.Layer<Judge.Judge, never, Policy.Policy> =>
  Layer.effect(
    Judge.Judge,
    Effect.map(Policy.Policy, (policy) => byChoice(policy, options))
  )
