/**
 * Prompts with places to fill, such as `{completion}`, as judges and critics put them to models.
 *
 * @since 0.1.0
 */
import type * as Prompt from "./Prompt.ts"
import type { Tokenizer } from "./Tokenizer.ts"

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

/**
 * Removes from a text what the tokenizer would read as special tokens, until none is left: an answer that spells the end of
 * its turn could otherwise reply for the model.
 *
 * @category constructors
 * @since 0.1.0
 */
export const withoutSpecialTokens = ({
  specialIds,
  token
}: Pick<Tokenizer, "specialIds" | "token">): ((text: string) => string) => {
  const spelled = Array.from(specialIds, (id) => token(id) ?? "").filter((text) => text !== "")
  if (spelled.length === 0) return (text) => text
  const longestFirst = spelled.sort((a, b) => b.length - a.length)
  const special = new RegExp(longestFirst.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "g")
  return (text) => {
    for (let before = ""; before !== text; ) {
      before = text
      text = text.replace(special, "")
    }
    return text
  }
}
