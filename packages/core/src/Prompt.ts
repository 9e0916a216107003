/**
 * What a completion answers: text, or the messages of a conversation, with its token ids.
 *
 * @since 0.1.0
 */
import { Effect, Schema, type SchemaIssue } from "effect"
import * as Form from "./Form.ts"

/**
 * Schema for one turn of a conversation, as chat templates take it.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Message = Schema.Struct({
  /** `system`, `user`, `assistant`, or whatever else the model's chat template knows. */
  role: Schema.NonEmptyString,
  content: Schema.String
})

/**
 * One turn of a conversation.
 *
 * @category models
 * @since 0.1.0
 */
export type Message = typeof Message.Type

/**
 * Schema for a prompt before tokenization: plain text, or messages for a chat template.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Content = Schema.Union([Schema.String, Schema.Array(Message)])

/**
 * A prompt before tokenization.
 *
 * @category models
 * @since 0.1.0
 */
export type Content = typeof Content.Type

const MessageContent = Schema.Union([
  Schema.String,
  Schema.Array(Schema.Struct({ type: Schema.Literal("text"), text: Schema.String }))
])

const speakers: Readonly<Record<string, string>> = { human: "user", gpt: "assistant" }

/**
 * Schema for messages as files hold them: `{ role, content }` with text or a list of text parts, and ShareGPT's
 * `{ from, value }`, whose `human` and `gpt` become `user` and `assistant`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Messages: Schema.Codec<ReadonlyArray<Message>, unknown> = Schema.Array(
  Form.schema(Message, [
    Form.make(
      Schema.Struct({ role: Schema.String, content: MessageContent }),
      ["role", "content"],
      ({ content, role }) =>
        Effect.succeed({
          role,
          content: typeof content === "string" ? content : content.map(({ text }) => text).join("")
        })
    ),
    Form.make(Schema.Struct({ from: Schema.String, value: Schema.String }), ["from", "value"], ({ from, value }) =>
      Effect.succeed({ role: speakers[from] ?? from, content: value })
    )
  ])
)

/**
 * Schema for text or messages as files hold them.
 *
 * @category schemas
 * @since 0.1.0
 */
export const FileContent: Schema.Codec<Content, unknown> = Schema.Union([Schema.String, Messages])

/**
 * The text of an answer that a file holds as text or as messages: one assistant message. Anything else is an issue at
 * `field`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const answer = (content: Content, field: string): Effect.Effect<string, SchemaIssue.Issue> => {
  if (typeof content === "string") return Effect.succeed(content)
  const [message] = content
  return content.length === 1 && message?.role === "assistant"
    ? Effect.succeed(message.content)
    : Form.refuse(
        field,
        `Expected text or one assistant message, got ${JSON.stringify(content.map(({ role }) => role))}; ` +
          "move earlier messages to the prompt"
      )
}

/**
 * Like {@link answer}, and an empty one is an issue: in data of others it mostly is an answer that got lost. Whoever has
 * a model's empty answer writes it in `form`, which takes it.
 *
 * @category decoding
 * @since 0.1.0
 */
export const nonEmptyAnswer = (
  content: Content,
  field: string,
  form: string
): Effect.Effect<string, SchemaIssue.Issue> =>
  Effect.flatMap(answer(content, field), (text) =>
    text !== ""
      ? Effect.succeed(text)
      : Form.refuse(field, `is empty: leave the record out or, if the model did answer nothing, write it as ${form}`)
  )

/**
 * A prompt as people would write it down, to show it or to ask about it: text as it is, a single message as its content,
 * several as `role: content` with empty lines between.
 *
 * @category transforming
 * @since 0.1.0
 */
export const transcript = (content: Content): string => {
  if (typeof content === "string") return content
  const [first, ...others] = content
  if (first === undefined) return ""
  return others.length === 0 ? first.content : content.map(({ content, role }) => `${role}: ${content}`).join("\n\n")
}

/**
 * The same text for the same prompt, whatever the order of the fields of its messages, and another for another.
 *
 * @category transforming
 * @since 0.1.0
 */
export const key = (content: Content): string =>
  JSON.stringify(typeof content === "string" ? content : content.map(({ content, role }) => [role, content]))

/**
 * A prompt as the model sees it. `tokens` is `[T]`; `text` is what was tokenized, special tokens of a chat template
 * included; `messages` are kept when the prompt is a conversation.
 *
 * @category models
 * @since 0.1.0
 */
export interface Prompt {
  readonly text: string
  readonly tokens: Int32Array
  readonly messages?: ReadonlyArray<Message>
}

/**
 * Makes a prompt from text that is already tokenized.
 *
 * @see `Tokenizer.prompt` to tokenize text or messages
 * @category constructors
 * @since 0.1.0
 */
export const make = (text: string, tokens: ArrayLike<number>, messages?: ReadonlyArray<Message>): Prompt => ({
  text,
  tokens: Int32Array.from(tokens),
  ...(messages === undefined ? {} : { messages })
})
