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
  completion: Schema.NonEmptyString,
  critique: Schema.NonEmptyString,
  ...Refinement
})

type Encoded = typeof Normal.Encoded

const normalize = (
  fields: { readonly prompt: Prompt.Content; readonly completion: Prompt.Content; readonly refinement?: string },
  critique: string
): Effect.Effect<Encoded, SchemaIssue.Issue> =>
  Effect.map(Prompt.answer(fields.completion, "completion"), (completion) => ({
    prompt: fields.prompt,
    completion,
    critique,
    ...(fields.refinement === undefined ? {} : { refinement: fields.refinement })
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
    (fields) => normalize(fields, fields.critique)
  ),
  Form.make(
    Schema.Struct({
      prompt: Schema.String,
      original_model_completion: Schema.String,
      Feedback: Schema.String,
      completion: Schema.optionalKey(Schema.String)
    }),
    ["prompt", "original_model_completion", "Feedback"],
    ({ Feedback, completion: refinement, original_model_completion: original, prompt }) =>
      normalize(
        {
          prompt,
          completion: original.startsWith(prompt) ? original.slice(prompt.length) : original,
          ...(refinement === undefined ? {} : { refinement })
        },
        Feedback
      )
  ),
  Form.make(
    Schema.Struct({
      prompt: Prompt.FileContent,
      completion: Prompt.FileContent,
      feedback: Schema.String,
      ...Refinement
    }),
    ["prompt", "completion", "feedback"],
    (fields) => normalize(fields, fields.feedback)
  )
])

/**
 * A critique of an answer.
 *
 * @category models
 * @since 0.1.0
 */
export type Critique = typeof Critique.Type
