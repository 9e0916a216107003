/**
 * What a person or a model says about an answer, in words, and possibly the answer made better.
 *
 * @since 0.1.0
 */
import { Effect, type FileSystem, Schema, type SchemaIssue, Stream } from "effect"
import * as Form from "./Form.ts"
import * as JsonLines from "./JsonLines.ts"
import * as Prompt from "./Prompt.ts"

const isBlank = (text: string): boolean => text.trim() === ""

const blankAdvice = 'is empty; to skip such records of a file, read it by Critique.read with { empty: "skip" }'

const Words = Schema.String.check(Schema.makeFilter((text) => (isBlank(text) ? blankAdvice : undefined)))

// A record in any of its forms, with what is asked of the critique's text.
const schemaOf = (words: Schema.Codec<string, string>) => {
  const refinement = { refinement: Schema.optionalKey(Schema.NonEmptyString) }
  const normal = Schema.Struct({ prompt: Prompt.Content, completion: Schema.String, critique: words, ...refinement })
  const make = (
    prompt: Prompt.Content,
    answer: Effect.Effect<string, SchemaIssue.Issue>,
    critique: string,
    refinement: string | undefined
  ): Effect.Effect<typeof normal.Encoded, SchemaIssue.Issue> =>
    Effect.map(answer, (completion) => ({
      prompt,
      completion,
      critique,
      ...(refinement === undefined ? {} : { refinement })
    }))
  const ownForm = "{ prompt, completion, critique }"
  return Form.schema(normal, [
    Form.make(
      Schema.Struct({ prompt: Prompt.FileContent, completion: Prompt.FileContent, critique: words, ...refinement }),
      ["prompt", "completion", "critique"],
      ({ completion, critique, prompt, refinement }) =>
        make(prompt, Prompt.answer(completion, "completion"), critique, refinement)
    ),
    Form.make(
      Schema.Struct({
        prompt: Schema.String,
        original_model_completion: Schema.String,
        Feedback: words,
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
      Schema.Struct({ prompt: Prompt.FileContent, completion: Prompt.FileContent, feedback: words, ...refinement }),
      ["prompt", "completion", "feedback"],
      ({ completion, feedback, prompt, refinement }) =>
        make(prompt, Prompt.nonEmptyAnswer(completion, "completion", ownForm), feedback, refinement)
    )
  ])
}

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
 * one fails: there it mostly is an answer that got lost. A critique is never empty or mere white space, a refinement never
 * empty.
 *
 * @see {@link read} for files in which some critiques are empty
 * @category schemas
 * @since 0.1.0
 */
export const Critique = schemaOf(Words)

/**
 * A critique of an answer.
 *
 * @category models
 * @since 0.1.0
 */
export type Critique = typeof Critique.Type

const PerhapsBlank = schemaOf(Schema.String)

/**
 * What to do about a record whose critique is empty or mere white space; it is refused by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface ReadOptions {
  readonly empty?: "refuse" | "skip"
}

/**
 * The critiques of a file, and the 1-based lines of those that were skipped because they are empty.
 *
 * @category models
 * @since 0.1.0
 */
export interface FromFile {
  readonly critiques: ReadonlyArray<Critique>
  readonly skipped: ReadonlyArray<number>
}

/**
 * Reads the critiques of a JSON Lines file, in their order.
 *
 * **Details**
 *
 * Fails with file, line and field at the first record that is none: one without a draft, for instance. An empty critique is
 * such a record too unless `empty` is `"skip"`; then its line is reported, and all else of the record is still checked.
 *
 * **Example** (Leaving out drafts that nobody found a word for)
 *
 * ```ts
 * import { Critique } from "@attune/core"
 *
 * const recorded = Critique.read("critiques.jsonl", { empty: "skip" })
 * ```
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (
  file: string,
  options?: ReadOptions
) => Effect.Effect<FromFile, JsonLines.FeedbackLineError, FileSystem.FileSystem> = Effect.fn("Critique.read")(
  function* (file, { empty = "refuse" } = {}) {
    const records = yield* Stream.runCollect(JsonLines.numbered(file, empty === "skip" ? PerhapsBlank : Critique))
    return {
      critiques: records.filter(({ value }) => !isBlank(value.critique)).map(({ value }) => value),
      skipped: records.filter(({ value }) => isBlank(value.critique)).map(({ line }) => line)
    }
  }
)
