/**
 * What a person or a model says about an answer, in words, and possibly the answer made better.
 *
 * @since 0.1.0
 */
import { Effect, Schema, type SchemaIssue } from "effect"
import * as Form from "./Form.ts"
import * as Prompt from "./Prompt.ts"

const Refinement = { refinement: Schema.optionalKey(Schema.NonEmptyString) }

const Normal = Schema.Struct({
  prompt: Prompt.Content,
  completion: Schema.String,
  critique: Schema.NonEmptyString,
  ...Refinement
})

type Encoded = typeof Normal.Encoded

const ownForm = "{ prompt, completion, critique }"

const make = (
  prompt: Prompt.Content,
  answer: Effect.Effect<string, SchemaIssue.Issue>,
  critique: string,
  refinement: string | undefined
): Effect.Effect<Encoded, SchemaIssue.Issue> =>
  Effect.map(answer, (completion) => ({
    prompt,
    completion,
    critique,
    ...(refinement === undefined ? {} : { refinement })
  }))

/**
 * Schema for a critique of an answer, with the refined answer where there is one.
 *
 * **Details**
 *
 * Decodes `{ prompt, completion, critique, refinement? }`, the same with `feedback` for `critique`, and the records of
 * ILF for code: `{ prompt, original_model_completion, Feedback, completion? }`, where the original repeats the prompt
 * and `completion` is the refinement. Encodes `{ prompt, completion, critique, refinement? }`.
 *
 * **Gotchas**
 *
 * The completion may be empty, since a policy may end its answer at once and be told so. In the other two forms an empty
 * one fails: there it mostly is an answer that got lost. Critique and refinement are never empty.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Critique = Form.schema(Normal, [
  Form.make(
    Schema.Struct({
      prompt: Prompt.FileContent,
      completion: Prompt.FileContent,
      critique: Schema.String,
      ...Refinement
    }),
    ["prompt", "completion", "critique"],
    ({ completion, critique, prompt, refinement }) =>
      make(prompt, Prompt.answer(completion, "completion"), critique, refinement)
  ),
  Form.make(
    Schema.Struct({
      prompt: Schema.String,
      original_model_completion: Schema.String,
      Feedback: Schema.String,
      completion: Schema.optionalKey(Schema.String)
    }),
    ["prompt", "original_model_completion", "Feedback"],
    ({ Feedback, completion: refinement, original_model_completion: original, prompt }) => {
      const completion = original.startsWith(prompt) ? original.slice(prompt.length) : original
      const answer = Prompt.nonEmptyAnswer(completion, "original_model_completion", ownForm)
      return make(prompt, answer, Feedback, refinement)
    }
  ),
  Form.make(
    Schema.Struct({
      prompt: Prompt.FileContent,
      completion: Prompt.FileContent,
      feedback: Schema.String,
      ...Refinement
    }),
    ["prompt", "completion", "feedback"],
    ({ completion, feedback, prompt, refinement }) =>
      make(prompt, Prompt.nonEmptyAnswer(completion, "completion", ownForm), feedback, refinement)
  )
])

/**
 * A critique of an answer.
 *
 * @category models
 * @since 0.1.0
 */
export type Critique = typeof Critique.Type
