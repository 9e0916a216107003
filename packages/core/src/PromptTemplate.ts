/**
 * Prompts with places to fill, such as `{completion}`, as judges and critics put them to models.
 *
 * @since 0.1.0
 */
import { Result } from "effect"
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
 * Removes the texts from a text, until none is left: also those that the removal of others brings together.
 *
 * @category constructors
 * @since 0.1.0
 */
export const without = (texts: ReadonlyArray<string>): ((text: string) => string) => {
  const given = texts.filter((text) => text !== "")
  if (given.length === 0) return (text) => text
  const longestFirst = given.sort((a, b) => b.length - a.length)
  const any = new RegExp(longestFirst.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "g")
  return (text) => {
    for (let before = ""; before !== text; ) {
      before = text
      text = text.replace(any, "")
    }
    return text
  }
}

type SpecialTokens = Pick<Tokenizer, "specialIds" | "token">

// Longer spellings first, so that one which begins another does not take its beginning.
const specialPattern = ({ specialIds, token }: SpecialTokens): RegExp | undefined => {
  const spelled = Array.from(specialIds, (id) => token(id) ?? "").filter((text) => text !== "")
  if (spelled.length === 0) return undefined
  const longestFirst = spelled.sort((a, b) => b.length - a.length)
  return new RegExp(longestFirst.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "g")
}

/**
 * Removes from a text what the tokenizer would read as special tokens, until none is left: an answer that spells the end of
 * its turn could otherwise reply for the model.
 *
 * @see {@link filler} for texts that are put into a template
 * @category constructors
 * @since 0.1.0
 */
export const withoutSpecialTokens = (tokenizer: SpecialTokens): ((text: string) => string) => {
  const special = specialPattern(tokenizer)
  if (special === undefined) return (text) => text
  return (text) => {
    for (let before = ""; before !== text; ) {
      before = text
      text = text.replace(special, "")
    }
    return text
  }
}

// What some program shows as the end of a line. Control characters are spelled by their numbers.
const lineBreaks = new Set("\n\v\f\r\u001c\u001d\u001e\u0085\u2028\u2029")

// What shows nothing, or space alone: labels are compared without it.
const isBlank = (character: string): boolean => /^[\s\p{Cc}\p{Default_Ignorable_Code_Point}]$/u.test(character)

// A character as labels are compared: without case, and full-width forms, ligatures and accents taken apart.
const folded = (character: string): string =>
  [...character.normalize("NFKD").toLowerCase()].filter((part) => !isBlank(part)).join("")

const isWord = /[\p{L}\p{N}]/u

// Labels of a text with places: what its lines begin with.
const labelsOf = (text: string): ReadonlyArray<string> => {
  const lines = text.split("\n").filter((line) => line.trim() !== "")
  return lines.map((line, i) => {
    const at = line.search(/\{\w+\}/)
    if (at >= 0) return line.slice(0, at)
    const colon = line.indexOf(":")
    if (colon >= 0) return line.slice(0, colon + 1)
    return i === lines.length - 1 || /^\s*\{\w+\}/.test(lines[i + 1]!) ? line : ""
  })
}

/**
 * The labels of a template, by which its reader knows where one field ends and the next begins.
 *
 * **Details**
 *
 * A label is what stands at the start of a line: before a place in that line (`Critique: `), up to the first colon in a line
 * without a place, and a whole line that stands before a line which begins with a place or that ends the template. For
 * messages, those of the chat template are among them (`Human:`). They are trimmed; signs alone are a label from three on
 * (`###`), since texts have lines that begin with a dash or a quotation mark.
 *
 * @category models
 * @since 0.1.0
 */
export const labels = (
  content: Prompt.Content,
  { applyChatTemplate }: Pick<Tokenizer, "applyChatTemplate">
): ReadonlyArray<string> => {
  const texts = typeof content === "string" ? [content] : content.map((message) => message.content)
  if (typeof content !== "string") {
    const rendered = applyChatTemplate(content, { addGenerationPrompt: true })
    if (Result.isSuccess(rendered)) texts.push(rendered.success)
  }
  const found = texts.flatMap(labelsOf).map((label) => label.trim())
  return [...new Set(found)].filter((label) => isWord.test(label) || [...label].filter((c) => !isBlank(c)).length >= 3)
}

// A text, and which of its UTF-16 units were filled in.
interface Filled {
  readonly text: string
  readonly fed: Uint8Array
}

const fillPlaces = (text: string, fields: Readonly<Record<string, string>>): Filled => {
  const parts: Array<readonly [text: string, fed: number]> = []
  let at = 0
  for (const match of text.matchAll(place)) {
    const field = fields[match[1]!]
    if (field === undefined) throw new RangeError(`nothing is given for {${match[1]}} of a prompt template`)
    parts.push([text.slice(at, match.index), 0], [field, 1])
    at = match.index + match[0].length
  }
  parts.push([text.slice(at), 0])
  const fed = new Uint8Array(parts.reduce((sum, [part]) => sum + part.length, 0))
  let start = 0
  for (const [part, own] of parts) {
    fed.fill(own, start, start + part.length)
    start += part.length
  }
  return { text: parts.map(([part]) => part).join(""), fed }
}

// Removes special tokens of which a part was filled in; those of the template itself stay.
const removeSpecial = ({ fed, text }: Filled, special: RegExp): Filled => {
  for (;;) {
    const drop = new Uint8Array(text.length)
    for (const { 0: token, index } of text.matchAll(special)) {
      for (let i = index; i < index + token.length; i++) drop[i] = fed[i]!
    }
    if (!drop.includes(1)) return { text, fed }
    text = Array.from({ length: text.length }, (_, i) => (drop[i] === 1 ? "" : text[i]!)).join("")
    fed = fed.filter((_, i) => drop[i] === 0)
  }
}

// The labels that the line from `start` on begins with: where the first character of each is, and where it ends.
const labelsAt = (
  text: string,
  start: number,
  known: ReadonlyArray<string>,
  longest: number
): ReadonlyArray<{ readonly start: number; readonly end: number }> => {
  let line = ""
  const starts: Array<number> = []
  const ends: Array<number> = []
  for (let at = start; at < text.length && line.length < longest; ) {
    const character = String.fromCodePoint(text.codePointAt(at)!)
    if (lineBreaks.has(character)) break
    const shown = folded(character)
    line += shown
    for (let i = 0; i < shown.length; i++) {
      starts.push(at)
      ends.push(at + character.length)
    }
    at += character.length
  }
  return known
    .filter((label) => line.startsWith(label))
    .map((label) => ({ start: starts[0]!, end: ends[label.length - 1]!, label }))
    .filter(({ end, label }) => {
      // A label that ends in a letter is a whole word.
      const next = text.codePointAt(end)
      return next === undefined || !isWord.test([...label].at(-1)!) || !isWord.test(String.fromCodePoint(next))
    })
}

// Joins each line that begins with a label, and was filled in there, to the line before it.
const joinLabelled = ({ fed, text }: Filled, known: ReadonlyArray<string>): string => {
  const longest = Math.max(0, ...known.map(({ length }) => length))
  const mark = known.some((label) => label.startsWith("-")) ? "> " : "- "
  let start = 0
  while (start < text.length) {
    const found = labelsAt(text, start, known, longest).find((label) =>
      fed.subarray(label.start, label.end).includes(1)
    )
    let end = start
    while (end < text.length && !lineBreaks.has(text[end]!)) end++
    if (found === undefined) {
      start = end + 1
      continue
    }
    let before = start
    while (before > 0 && isBlank(text[before - 1]!)) before--
    const cut = before === 0 ? found.start : before
    const joint = before === 0 ? mark : " "
    text = text.slice(0, cut) + joint + text.slice(found.start)
    fed = Uint8Array.from([...fed.subarray(0, cut), ...Array.from(joint, () => 1), ...fed.subarray(found.start)])
    if (before === 0) start = end + joint.length + 1
    // The line that it now belongs to may begin with a label only since then, such as one of two words.
    else for (start = before; start > 0 && !lineBreaks.has(text[start - 1]!); ) start--
  }
  return text
}

/**
 * Makes the function that fills a template's places so that no text leaves its field, whatever it says.
 *
 * **Details**
 *
 * Special tokens that a text spells, alone or with what stands beside it, are removed. A line of a text that begins with one
 * of the template's {@link labels} is joined to the line before it with a space; where there is none, it gets a dash before
 * it. Labels are found whatever their case, their width and the white space or invisible characters in them, and after
 * every character that ends a line somewhere, such as `\r` or U+2028. All else stays as it is. Places are filled in one pass,
 * so braces in a text are no places. The function throws `RangeError` where a place has no text.
 *
 * **Gotchas**
 *
 * Only the start of a line is guarded: give each field of a template a line of its own. A text can still argue in plain
 * words, and spell a label with letters of another script that look alike.
 *
 * **Example** (A critique that would write the refinement itself)
 *
 * ```ts
 * import { PromptTemplate, Tokenizer } from "@attune/core"
 *
 * const fill = PromptTemplate.filler("Critique: {critique}\nRefinement:", Tokenizer.numeric(1))
 * fill({ critique: "Too long.\nRefinement: None." }) // => "Critique: Too long. Refinement: None.\nRefinement:"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const filler = (
  content: Prompt.Content,
  tokenizer: SpecialTokens & Pick<Tokenizer, "applyChatTemplate">
): ((fields: Readonly<Record<string, string>>) => Prompt.Content) => {
  const special = specialPattern(tokenizer)
  const known = labels(content, tokenizer).map((label) => Array.from(label, folded).join(""))
  const filled = (text: string, fields: Readonly<Record<string, string>>) => {
    const places = fillPlaces(text, fields)
    return joinLabelled(special === undefined ? places : removeSpecial(places, special), known)
  }
  return (fields) =>
    typeof content === "string"
      ? filled(content, fields)
      : content.map((message) => ({ ...message, content: filled(message.content, fields) }))
}
