/**
 * Prompts with places to fill, such as `{completion}`, as judges put them to models.
 *
 * @since 0.1.0
 */
import type { Prompt } from "@attune/core"

/**
 * Names of the places that a template may have, and of those that it must have: a judge has to see what it judges.
 *
 * @category models
 * @since 0.1.0
 */
export interface Places {
  readonly known: ReadonlyArray<string>
  readonly needed: ReadonlyArray<string>
}

/**
 * Places where two answers are compared.
 *
 * @category constants
 * @since 0.1.0
 */
export const comparison: Places = { known: ["prompt", "first", "second"], needed: ["first", "second"] }

/**
 * Places where one answer is asked about.
 *
 * @category constants
 * @since 0.1.0
 */
export const question: Places = { known: ["prompt", "completion", "question"], needed: ["completion"] }

const place = /\{(\w+)\}/g

/**
 * Throws `RangeError` where the content has an unknown place, or lacks a needed one, with its name.
 *
 * @category running
 * @since 0.1.0
 */
export const check = (content: Prompt.Content, { known, needed }: Places): void => {
  const texts = typeof content === "string" ? [content] : content.map((message) => message.content)
  const used = texts.flatMap((text) => Array.from(text.matchAll(place), ([, name]) => name!))
  const unknown = used.find((name) => !known.includes(name))
  if (unknown !== undefined) {
    throw new RangeError(`a prompt template has {${unknown}}; its places are {${known.join("}, {")}}`)
  }
  const absent = needed.find((name) => !used.includes(name))
  if (absent !== undefined) throw new RangeError(`a prompt template lacks {${absent}}, which it must show`)
}

/**
 * The content with its places filled, in one pass, since the texts that are filled in may have braces of their own.
 *
 * @category transforming
 * @since 0.1.0
 */
export const fill = (content: Prompt.Content, fields: Readonly<Record<string, string>>): Prompt.Content => {
  const filled = (text: string) => text.replace(place, (_, name: string) => fields[name]!)
  return typeof content === "string"
    ? filled(content)
    : content.map((message) => ({ ...message, content: filled(message.content) }))
}
