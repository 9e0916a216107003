/**
 * A language model as the selector: it is asked whether a refinement does what the critique says, and how likely it finds
 * Yes rather than No is the score. Nothing is sampled, and nothing need be trained.
 *
 * @since 0.1.0
 */
import { ForcedChoice, type Policy, Progress, Prompt, PromptTemplate } from "@attune/core"
import { Effect, type Layer } from "effect"
import * as Selection from "./Selection.ts"

/**
 * A question about a refinement, and the two replies whose probabilities are compared.
 *
 * **Details**
 *
 * `content`: text, or messages for the judge's chat template. Its places are `{context}`, the prompt that was answered,
 * `{draft}`, `{critique}` and `{refinement}`, of which it must have the last two; each belongs on a line of its own.
 * `replies`: Yes and No, or what stands for them, with the white space before them; they may be several tokens long.
 *
 * @category models
 * @since 0.1.0
 */
export type Template = ForcedChoice.Question

const task =
  "Someone wrote an answer to a text, got feedback on it, and wrote the answer again. A good answer keeps what matters in " +
  "the text, adds nothing to it, and is short and clear. Read everything, then say whether the new answer does what the " +
  "feedback asks for."

const goal = "You are told whether a new answer is better than an old one in the respect that the feedback is about."

const reminder = "Remember the question: does the new answer do what the feedback asks for?"

const yesNo = ["Question: Does the new answer do what the feedback asks for? Reply with Yes or No.", "Reply:"]

const trueFalse = [
  "Statement: The new answer is better than the old one, as the feedback asks. True or False?",
  "Reply:"
]

const paragraphs = (...parts: ReadonlyArray<string>): string => parts.join("\n\n")

/**
 * The five prompts of an ensemble, after the shapes of the paper's.
 *
 * **Details**
 *
 * In order: the task and what a good answer is, then the fields with sentences between them; the bare fields and the
 * question; the aim that the new answer improves on the old one as the critique asks, and the bare fields; the first one with
 * the question before each field; the critique first and again later, with reminders. The third and the last are replied to
 * with True or False, the others with Yes or No.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, and its code, `scoring_functions/causal_response.py`. Deviation: in words
 * of our own, and about answers of any kind instead of summaries.
 *
 * @category constants
 * @since 0.1.0
 */
export const templates: ReadonlyArray<Template> = [
  {
    content: paragraphs(
      task,
      "This is the text that was answered.",
      "Text: {context}",
      "This was answered first.",
      "Old answer: {draft}",
      "A reader then gave feedback on the old answer.",
      "Feedback: {critique}",
      "With the feedback in mind, this was written.",
      "New answer: {refinement}",
      ...yesNo
    ),
    replies: [" Yes", " No"]
  },
  {
    content: paragraphs(
      "Text: {context}",
      "Old answer: {draft}",
      "Feedback: {critique}",
      "New answer: {refinement}",
      ...yesNo
    ),
    replies: [" Yes", " No"]
  },
  {
    content: paragraphs(
      goal,
      "Text: {context}",
      "Old answer: {draft}",
      "Feedback: {critique}",
      "New answer: {refinement}",
      ...trueFalse
    ),
    replies: [" True", " False"]
  },
  {
    content: paragraphs(
      task,
      reminder,
      "Text: {context}",
      reminder,
      "Old answer: {draft}",
      reminder,
      "Feedback: {critique}",
      reminder,
      "New answer: {refinement}",
      ...yesNo
    ),
    replies: [" Yes", " No"]
  },
  {
    content: paragraphs(
      goal,
      "Feedback: {critique}",
      "Keep this feedback in mind while you read.",
      "Text: {context}",
      "Old answer: {draft}",
      "This is what the feedback asked for, once more.",
      "Feedback: {critique}",
      reminder,
      "New answer: {refinement}",
      ...trueFalse
    ),
    replies: [" True", " False"]
  }
]

/**
 * Settings: the `templates`, default all of {@link templates}; `context`, what `{context}` shows of a prompt, default
 * `Prompt.transcript`; a `name` for messages and reports, default `InstructRM (<judge>)`; and `batchSize`, how many questions
 * the judge is asked in one call, default 256, which bounds the memory for their tokens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly templates?: ReadonlyArray<Template> | undefined
  readonly context?: ((prompt: Prompt.Content) => string) | undefined
  readonly name?: string | undefined
  readonly batchSize?: number | undefined
}

const places: PromptTemplate.Places = {
  known: ["context", "draft", "critique", "refinement"],
  needed: ["critique", "refinement"]
}

/**
 * The score `[N]` of an ensemble from its templates' scores `[K, N]`: their arithmetic mean.
 *
 * **Gotchas**
 *
 * It is the probabilities that are averaged, not their logarithms, so one template that is sure of No does not outvote the
 * others. Throws `RangeError` without a template, and where rows differ in length.
 *
 * Source: the code of arXiv:2303.16755, `experiments/ensemble_causal_response_selections.py`.
 *
 * @category math
 * @since 0.1.0
 */
export const mean = (probabilities: ReadonlyArray<ArrayLike<number>>): Float64Array => {
  const [first] = probabilities
  if (first === undefined) throw new RangeError("an ensemble needs at least one template")
  const sums = new Float64Array(first.length)
  for (const row of probabilities) {
    if (row.length !== sums.length) throw new RangeError(`scores of ${row.length} refinements beside ${sums.length}`)
    for (let i = 0; i < sums.length; i++) sums[i] = sums[i]! + row[i]!
  }
  return sums.map((sum) => sum / probabilities.length)
}

/**
 * A judge that says what each of its templates scores.
 *
 * **Details**
 *
 * `templateScores`: `[template][question]` → `[N]`, for tables of selectors, which compare single prompts with the ensemble at
 * no further cost.
 *
 * @category models
 * @since 0.1.0
 */
export interface InstructRm extends Selection.SelectorShape {
  readonly templateScores: (
    questions: ReadonlyArray<Selection.Question>
  ) => Effect.Effect<ReadonlyArray<ReadonlyArray<Float64Array>>, Selection.SelectorError>
}

// A text to judge, and where its scores belong: a text that a question has twice is judged once.
interface Judged {
  readonly question: number
  readonly refinements: ReadonlyArray<number>
  readonly fields: Readonly<Record<string, string>>
}

const judgedOf =
  (contextOf: (prompt: Prompt.Content) => string) =>
  ({ critique, refinements }: Selection.Question, question: number): ReadonlyArray<Judged> => {
    const context = contextOf(critique.prompt).trim()
    const draft = critique.completion.trim()
    const said = critique.critique.trim()
    const alike = new Map<string, Array<number>>()
    for (const [i, text] of refinements.entries()) alike.set(text, [...(alike.get(text) ?? []), i])
    return Array.from(alike, ([refinement, own]) => ({
      question,
      refinements: own,
      fields: { context, draft, critique: said, refinement: refinement.trim() }
    }))
  }

/**
 * Makes a selector of a policy, the judge, that is asked about each refinement with each template.
 *
 * **Details**
 *
 * With `p` the probability of a reply after template `k`, the product over its tokens at temperature 1:
 *
 *     score_k = p(Yes) / (p(Yes) + p(No)) = sigmoid(log p(Yes) - log p(No))
 *     score   = mean_k score_k
 *
 * A prompt of several messages is shown as `role: content` with empty lines between. White space around a text is left out:
 * completions begin with a space, and the template has its own. Equal refinements of a question are
 * judged once, and so score exactly the same. A single prompt is an ensemble of one: `templates: [template]`.
 *
 * Fails with question, refinement and template where a text is longer than the judge's context (nothing is cut), where no
 * chat template can render it, where the replies have the same tokens, and where the score is no number. Throws `RangeError`
 * where there is no template, or one has an unknown place, does not show critique and refinement, or has replies that are
 * empty or alike.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, InstructRM.
 *
 * **Gotchas**
 *
 * A text cannot leave its field: see `PromptTemplate.filler` for how. It can still argue for itself in plain words.
 *
 * **Example** (Asking one question)
 *
 * ```ts
 * import type { Policy } from "@attune/core"
 * import { InstructRm } from "@attune/ilf"
 *
 * const follows = (judge: Policy.PolicyShape) =>
 *   InstructRm.make(judge, {
 *     templates: [
 *       {
 *         content: "Feedback: {critique}\nNew: {refinement}\nDoes the new text follow the feedback? Yes or No:",
 *         replies: [" Yes", " No"]
 *       }
 *     ]
 *   })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (policy: Policy.PolicyShape, options: Options = {}): InstructRm => {
  const {
    batchSize = 256,
    context = Prompt.transcript,
    name = `InstructRM (${policy.name})`,
    templates: asked = templates
  } = options
  if (asked.length === 0) throw new RangeError("InstructRM needs at least one template")
  if (!Number.isInteger(batchSize) || batchSize < 1) {
    throw new RangeError(`batchSize must be a whole number from 1, not ${batchSize}`)
  }
  const fillers = asked.map(({ content, replies }) => {
    PromptTemplate.check(content, places)
    ForcedChoice.check(replies)
    return PromptTemplate.filler(content, policy.tokenizer)
  })
  const fail = (reason: string, k: number, { question, refinements }: Judged, cause?: unknown) =>
    new Selection.SelectorError({
      selector: name,
      reason: asked.length === 1 ? reason : `template ${k}: ${reason}`,
      question,
      refinement: refinements[0]!,
      ...(cause === undefined ? {} : { cause })
    })

  const probabilities = Effect.fnUntraced(function* (k: number, batch: ReadonlyArray<Judged>) {
    const { replies } = asked[k]!
    const questions = batch.map(({ fields }) => ({ content: fillers[k]!(fields), replies }))
    const logprobs = yield* Effect.mapError(ForcedChoice.logprobs(policy, questions), ({ cause, question, reason }) =>
      question === undefined
        ? new Selection.SelectorError({ selector: name, reason, ...(cause === undefined ? {} : { cause }) })
        : fail(reason, k, batch[question]!, cause)
    )
    const result = logprobs.map(([yes, no]) => ForcedChoice.probability(yes, no))
    const bad = result.findIndex((p) => !Number.isFinite(p))
    if (bad < 0) return result
    const [yes, no] = replies.map((reply, r) => `log p(${JSON.stringify(reply)}) = ${logprobs[bad]![r]}`)
    const reason = `is scored ${result[bad]}, since ${yes} and ${no}; see what is wrong with the judge`
    return yield* fail(reason, k, batch[bad]!)
  })

  const templateScores: InstructRm["templateScores"] = Effect.fn("InstructRm.templateScores")(function* (questions) {
    const judged = questions.flatMap(judgedOf(context))
    const scores = asked.map(() => questions.map(({ refinements }) => new Float64Array(refinements.length)))
    const task = yield* Progress.start({ label: name, total: judged.length * asked.length })
    // One template after the other: its questions are of similar length, which leaves little padding.
    for (const [k, rows] of scores.entries()) {
      for (let start = 0; start < judged.length; start += batchSize) {
        const batch = judged.slice(start, start + batchSize)
        for (const [i, p] of (yield* probabilities(k, batch)).entries()) {
          const { question, refinements } = batch[i]!
          for (const refinement of refinements) rows[question]![refinement] = p
        }
        yield* task.update(k * judged.length + start + batch.length)
      }
    }
    return scores
  }, Effect.scoped)

  const selector = Selection.guarded({
    name,
    score: (questions) =>
      Effect.map(templateScores(questions), (scores) => questions.map((_, q) => mean(scores.map((rows) => rows[q]!))))
  })
  return { ...selector, templateScores }
}

/**
 * Layer with a judge as the selector.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (policy: Policy.PolicyShape, options?: Options): Layer.Layer<Selection.Selector> =>
  Selection.layer(make(policy, options))
