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

type SpecialTokens = Pick<Tokenizer, "specialIds" | "token">

// Longer spellings first, so that one which begins another does not take its beginning.
const specialPattern = ({ specialIds, token }: SpecialTokens): RegExp | undefined => {
  const spelled = Array.from(specialIds, (id) => token(id) ?? "").filter((text) => text !== "")
  if (spelled.length === 0) return undefined
  const longestFirst = spelled.sort((a, b) => b.length - a.length)
  return new RegExp(longestFirst.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "g")
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

const concat = (...parts: ReadonlyArray<Filled>): Filled => {
  const fed = new Uint8Array(parts.reduce((sum, { text }) => sum + text.length, 0))
  let start = 0
  for (const part of parts) {
    fed.set(part.fed, start)
    start += part.text.length
  }
  return { text: parts.map(({ text }) => text).join(""), fed }
}

const slice = ({ fed, text }: Filled, start: number, end?: number): Filled => ({
  text: text.slice(start, end),
  fed: fed.subarray(start, end)
})

const fillPlaces = (text: string, fields: Readonly<Record<string, string>>): Filled => {
  const parts: Array<Filled> = []
  const add = (text: string, fed: 0 | 1) => parts.push({ text, fed: new Uint8Array(text.length).fill(fed) })
  let at = 0
  for (const match of text.matchAll(place)) {
    const field = fields[match[1]!]
    if (field === undefined) throw new RangeError(`nothing is given for {${match[1]}} of a prompt template`)
    add(text.slice(at, match.index), 0)
    add(field, 1)
    at = match.index + match[0].length
  }
  add(text.slice(at), 0)
  return concat(...parts)
}

// Removes special tokens of which a part was filled in; those of the template itself stay.
const removeSpecial = (filled: Filled, special: RegExp): Filled => {
  for (;;) {
    const kept: Array<Filled> = []
    let at = 0
    for (const { 0: token, index } of filled.text.matchAll(special)) {
      const { fed } = slice(filled, index, index + token.length)
      if (!fed.includes(1)) continue
      const own = [...fed.keys()].filter((unit) => fed[unit] === 0)
      kept.push(slice(filled, at, index), ...own.map((unit) => slice(filled, index + unit, index + unit + 1)))
      at = index + token.length
    }
    if (at === 0) return filled
    filled = concat(...kept, slice(filled, at))
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
const joinLabelled = (filled: Filled, known: ReadonlyArray<string>): string => {
  const longest = Math.max(0, ...known.map(({ length }) => length))
  const joint = (text: string): Filled => ({ text, fed: new Uint8Array(text.length).fill(1) })
  const mark = joint(known.some((label) => label.startsWith("-")) ? "> " : "- ")
  const starts = [0] // of the lines so far; the last one is at hand
  let clear = 0 // no line ends between the start of that line and here
  for (;;) {
    const start = starts.at(-1)!
    const found = labelsAt(filled.text, start, known, longest).find((label) =>
      filled.fed.subarray(label.start, label.end).includes(1)
    )
    if (found !== undefined) {
      let before = start
      while (before > 0 && isBlank(filled.text[before - 1]!)) before--
      const cut = before === 0 ? found.start : before
      filled = concat(slice(filled, 0, cut), before === 0 ? mark : joint(" "), slice(filled, found.start))
      if (before > 0) {
        // The line that it now belongs to may begin with a label only since then, such as one of two words.
        while (starts.at(-1)! >= before) starts.pop()
        clear = before
        continue
      }
      clear = found.start
    }
    let end = clear
    while (end < filled.text.length && !lineBreaks.has(filled.text[end]!)) end++
    if (end === filled.text.length) return filled.text
    clear = end + 1
    starts.push(clear)
  }
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
