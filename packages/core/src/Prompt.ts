/**
 * What a completion answers: text, or the messages of a conversation, with its token ids.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"

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
