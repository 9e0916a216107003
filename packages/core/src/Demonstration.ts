/**
 * An answer to imitate.
 *
 * @since 0.1.0
 */
import { Effect, Schema, type SchemaIssue } from "effect"
import * as Form from "./Form.ts"
import * as Prompt from "./Prompt.ts"

const Normal = Schema.Struct({
  prompt: Prompt.Content,
  completion: Schema.String.check(
    Schema.makeFilter((text: string) => text.trim() !== "" || "is empty: nothing to imitate")
  )
})

type Encoded = typeof Normal.Encoded

const fromMessages = (
  messages: ReadonlyArray<Prompt.Message>,
  field: string
): Effect.Effect<Encoded, SchemaIssue.Issue> => {
  const last = messages.at(-1)
  return last?.role === "assistant"
    ? Effect.succeed({ prompt: messages.slice(0, -1), completion: last.content })
    : Form.refuse(
        field,
        `Expected a last message by the assistant, got ${last === undefined ? "none" : `"${last.role}"`}`
      )
}

/**
 * Schema for a demonstration: text or messages, and the answer to imitate.
 *
 * **Details**
 *
 * Decodes `{ prompt, completion }` (each text or messages), `{ messages }` and ShareGPT's `{ conversations }` (the last
 * message is the answer), `{ prompt, response }`, Alpaca's `{ instruction, input?, output }`, and `{ text }`, whose
 * prompt is empty: all of it is imitated. Encodes `{ prompt, completion }`.
 *
 * **Gotchas**
 *
 * Texts are kept as they are. Prompt and completion are joined without a separator, so one of the two holds the space
 * between them. A completion of nothing but white space fails.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Demonstration = Form.schema(Normal, [
  Form.make(Schema.Struct({ messages: Prompt.Messages }), ["messages"], (d) => fromMessages(d.messages, "messages")),
  Form.make(Schema.Struct({ conversations: Prompt.Messages }), ["conversations"], (d) =>
    fromMessages(d.conversations, "conversations")
  ),
  Form.make(
    Schema.Struct({ prompt: Prompt.FileContent, completion: Prompt.FileContent }),
    ["prompt", "completion"],
    ({ completion, prompt }) =>
      Effect.map(Prompt.answer(completion, "completion"), (completion): Encoded => ({ prompt, completion }))
  ),
  Form.make(
    Schema.Struct({ prompt: Prompt.FileContent, response: Prompt.FileContent }),
    ["prompt", "response"],
    ({ prompt, response }) =>
      Effect.map(Prompt.answer(response, "response"), (completion): Encoded => ({ prompt, completion }))
  ),
  Form.make(
    Schema.Struct({ instruction: Schema.String, input: Schema.optionalKey(Schema.String), output: Schema.String }),
    ["instruction", "output"],
    ({ input = "", instruction, output }) =>
      Effect.succeed({ prompt: input === "" ? instruction : `${instruction}\n\n${input}`, completion: output })
  ),
  Form.make(Schema.Struct({ text: Schema.String }), ["text"], ({ text }) =>
    Effect.succeed({ prompt: "", completion: text })
  )
])

/**
 * An answer to imitate.
 *
 * @category models
 * @since 0.1.0
 */
export type Demonstration = typeof Demonstration.Type

/**
 * Demonstrations from a file of plain texts with `<|endoftext|>` between them: their prompts are empty, so all of a text
 * is imitated.
 *
 * **Details**
 *
 * White space around a text is cut, as is a byte order mark, and texts of nothing else are left out. The separator is the
 * same for every model, whichever token ends a text for its tokenizer.
 *
 * **Example** (Reading two texts)
 *
 * ```ts
 * import { Demonstration } from "@attune/core"
 *
 * Demonstration.fromText("One.\n<|endoftext|>\nTwo.\n").map(({ completion }) => completion) // => ["One.", "Two."]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromText = (text: string): ReadonlyArray<Demonstration> =>
  text
    .split("<|endoftext|>")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map((completion) => ({ prompt: "", completion }))
