/**
 * Prompt templates of ILF as data: first drafts, refinements with and without the critique, and critique and refinement in
 * one. Each is a prompt with places, what is written after it, and the texts that end it.
 *
 * The places are `{context}`, what is answered; `{draft}`, the first answer; `{critique}`, what was said about it; and, in
 * what is written, `{refinement}`, the better answer.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755; the forms follow the fields and cues of the authors' code in other words.
 *
 * @since 0.1.0
 */
import { type Prompt, PromptTemplate, type Tokenizer } from "@attune/core"

/**
 * A prompt with places to fill, and what a model is to write after it.
 *
 * **Details**
 *
 * `content`: text, or messages for the model's chat template; a line for each field. `completion`: what is written, as
 * models are trained to write it; it ends with its last place, or with a text that is its end. After a prompt that is text
 * it begins with a space. `stopStrings`: texts that end what is sampled. `maxNewTokens`: most tokens to sample, default 48.
 *
 * @category models
 * @since 0.1.0
 */
export interface Template {
  readonly content: Prompt.Content
  readonly completion: string
  readonly stopStrings: ReadonlyArray<string>
  readonly maxNewTokens?: number | undefined
}

/**
 * The four forms.
 *
 * @category models
 * @since 0.1.0
 */
export interface Forms {
  /** A first answer to the context. */
  readonly draft: Template
  /** A better answer than the draft, which follows the critique. */
  readonly refinement: Template
  /** A better answer than the draft, the critique unseen: the ablation. */
  readonly direct: Template
  /** The critique of the draft and then the refinement, both written by the model. */
  readonly critiqueAndRefinement: Template
}

/**
 * What the forms call things: the heading of the context, that of an answer, and what is to be written.
 *
 * @category models
 * @since 0.1.0
 */
export interface Words {
  readonly context: string
  readonly answer: string
  readonly task: string
}

/**
 * The paper's task.
 *
 * @category constants
 * @since 0.1.0
 */
export const summaries: Words = { context: "Text", answer: "Summary", task: "a summary of the text below" }

/**
 * Answers to prompts of any kind.
 *
 * @category constants
 * @since 0.1.0
 */
export const answers: Words = { context: "Prompt", answer: "Answer", task: "an answer to the prompt below" }

interface Pieces {
  readonly draft: string
  readonly refinement: string
  readonly direct: string
  readonly critiqueAndRefinement: string
  readonly fields: Readonly<Record<"context" | "draft" | "critique", string>>
  readonly better: string
}

const pieces = ({ answer, context, task }: Words): Pieces => {
  const name = answer.toLowerCase()
  return {
    draft: `Write ${task}, as good as you can.`,
    refinement: `Write ${task}. Follow the critique of the first ${name}, and do better than it.`,
    direct: `Write ${task}. Do better than the first ${name}.`,
    critiqueAndRefinement: `Say what is wrong with the first ${name}. Then write ${task} that does better.`,
    fields: { context: `${context}: {context}`, draft: `${answer}: {draft}`, critique: "Critique: {critique}" },
    better: `Better ${name}:`
  }
}

const end = "###"

/**
 * The forms as text for models that continue it: a line of instruction, the fields with empty lines between, and the cue.
 *
 * **Details**
 *
 * A completion begins with a space. What is sampled ends where a line begins with one of the form's own headings, or with
 * `###` after critique and refinement, which may have 300 tokens.
 *
 * @category constructors
 * @since 0.1.0
 */
export const text = (words: Words = summaries): Forms => {
  const { better, critiqueAndRefinement, direct, draft, fields, refinement } = pieces(words)
  const headings = [words.context, words.answer, "Critique"].map((heading) => `\n${heading}:`)
  const form = (...lines: ReadonlyArray<string>): Template => ({
    content: lines.join("\n\n"),
    completion: " {refinement}",
    stopStrings: [...headings, `\n${better}`]
  })
  return {
    draft: form(draft, fields.context, `${words.answer}:`),
    refinement: form(refinement, fields.context, fields.draft, fields.critique, better),
    direct: form(direct, fields.context, fields.draft, better),
    critiqueAndRefinement: {
      content: [critiqueAndRefinement, fields.context, fields.draft, "Critique:"].join("\n\n"),
      completion: ` {critique}\n\n${better} {refinement}\n${end}`,
      stopStrings: [`\n${end}`],
      maxNewTokens: 300
    }
  }
}

/**
 * The forms as messages for models with a chat template: the instruction and the context from the user, the draft from the
 * assistant, and what is to be done about it from the user. The end of the turn is the end of the completion.
 *
 * @category constructors
 * @since 0.1.0
 */
export const conversation = (words: Words = summaries): Forms => {
  const { better, critiqueAndRefinement, direct, draft, fields, refinement } = pieces(words)
  const only = `Reply with the ${words.answer.toLowerCase()} alone.`
  const user = (...lines: ReadonlyArray<string>): Prompt.Message => ({ role: "user", content: lines.join("\n\n") })
  const drafted: ReadonlyArray<Prompt.Message> = [
    user(`${draft} ${only}`, fields.context),
    { role: "assistant", content: "{draft}" }
  ]
  const form = (...content: ReadonlyArray<Prompt.Message>): Template => ({
    content,
    completion: "{refinement}",
    stopStrings: []
  })
  return {
    draft: form(drafted[0]!),
    refinement: form(...drafted, user(fields.critique, `${refinement} ${only}`)),
    direct: form(...drafted, user(`${direct} ${only}`)),
    critiqueAndRefinement: {
      content: [...drafted, user(`${critiqueAndRefinement} Begin the latter with "${better}".`)],
      completion: `{critique}\n\n${better} {refinement}`,
      stopStrings: [],
      maxNewTokens: 300
    }
  }
}

/**
 * Texts for the places.
 *
 * @category models
 * @since 0.1.0
 */
export type Fields = Readonly<Partial<Record<"context" | "draft" | "critique" | "refinement", string>>>

const all = ["context", "draft", "critique", "refinement"]

// A refinement that follows a critique begins where a line does that says so.
const toldApart = /\{critique\}\s*?\n\s*[^\n{}]*[\p{L}\p{N}][^\n{}]*\s*\{refinement\}/u

/**
 * Throws `RangeError` where the prompt lacks a needed place or has one that it may not have, where the completion lacks
 * `{refinement}`, and where a stop string or `maxNewTokens` is not one.
 *
 * @category running
 * @since 0.1.0
 */
export const check = (template: Template, places: PromptTemplate.Places): void => {
  const { completion, content, maxNewTokens = 1, stopStrings } = template
  PromptTemplate.check(content, places)
  PromptTemplate.check(completion, { known: all, needed: ["refinement"] })
  if (completion.includes("{critique}") && !toldApart.test(completion)) {
    throw new RangeError(
      `the completion of a prompt template is ${JSON.stringify(completion)}; ` +
        "give it {critique}, then a cue in words on a new line, then {refinement}"
    )
  }
  if (stopStrings.includes("")) throw new RangeError("a stop string of a prompt template is empty; leave it out")
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 1) {
    throw new RangeError(`maxNewTokens of a prompt template is ${maxNewTokens}; give a whole number from 1`)
  }
}

/**
 * Whether the prompt shows the place.
 *
 * @category models
 * @since 0.1.0
 */
export const shows = ({ content }: Template, place: keyof Fields): boolean =>
  (typeof content === "string" ? [content] : content.map((message) => message.content)).some((text) =>
    text.includes(`{${place}}`)
  )

/**
 * Makes the function that fills a template's prompt; no text leaves its field (see `PromptTemplate.filler`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const prompting = (template: Template, tokenizer: Tokenizer.Tokenizer): ((fields: Fields) => Prompt.Content) =>
  PromptTemplate.filler(template.content, tokenizer)

/**
 * Makes the function that fills a template's completion, for training; no text leaves its field here either.
 *
 * @category constructors
 * @since 0.1.0
 */
export const completing = (template: Template, tokenizer: Tokenizer.Tokenizer): ((fields: Fields) => string) => {
  const fill = PromptTemplate.filler(template.completion, tokenizer)
  return (fields) => fill(fields) as string
}

/**
 * The refinement in a text that a model wrote after the template's prompt, as it stands there: what follows the text that
 * comes before `{refinement}` in the completion, up to the one that comes after it. Empty where that text is missing.
 *
 * **Details**
 *
 * After a critique, that text is looked for at the start of lines but the first: a critique may quote it.
 *
 * @category decoding
 * @since 0.1.0
 */
export const refinementOf = ({ completion }: Template, written: string): string => {
  const [before = "", after = ""] = completion.split("{refinement}")
  const cue = before.slice(before.lastIndexOf("}") + 1).trim()
  const end = after.trimEnd()
  const first = before.includes("{critique}") ? 1 : 0
  const lines = written.split("\n")
  const at = cue === "" ? 0 : lines.findIndex((line, i) => i >= first && line.trimStart().startsWith(cue))
  if (at < 0) return ""
  const found = lines.slice(at).join("\n")
  const rest = found.slice(cue === "" ? 0 : found.indexOf(cue) + cue.length)
  const stop = end === "" ? -1 : rest.indexOf(end)
  return stop < 0 ? rest : rest.slice(0, stop)
}
