/**
 * Text of unknown origin made harmless to look at: what a model wrote may hold characters that hide, reorder or erase
 * what stands beside them.
 *
 * @since 0.1.0
 */

// Controls but tab and line feed; what Unicode lets a font ignore (soft hyphen, zero-width space, marks and overrides of
// writing direction, fillers, tags, byte order mark); line and paragraph separators, interlinear marks, lone surrogates.
// Joiners (U+200C, U+200D) stay, and variation selectors (U+FE00 to U+FE0F) behind what they vary: scripts and emoji need
// them. A run of selectors varies nothing and may carry a text of its own.
const hidden =
  /(?!\t|\n|\u200c|\u200d|[\ufe00-\ufe0f])[\p{Cc}\p{Cs}\p{Default_Ignorable_Code_Point}\u2028\u2029\ufff9-\ufffb]|(?<=^|\s|[\ufe00-\ufe0f])[\ufe00-\ufe0f]/gu

/**
 * The text with every character that is invisible or changes the direction of writing spelled out, `⟨U+202E⟩`. Tabs and
 * line feeds stay; `\r\n` becomes `\n`.
 *
 * @category transforming
 * @since 0.1.0
 */
export const show = (text: string): string =>
  text
    .replace(/\r\n/g, "\n")
    .replace(hidden, (character) => `⟨U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}⟩`)

/**
 * {@link show} on one line: runs of white space become one space.
 *
 * @category transforming
 * @since 0.1.0
 */
export const line = (text: string): string => show(text).replace(/\s+/g, " ").trim()

const wide = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]/u
const wideOutside = /[\p{Emoji_Presentation}\u{20000}-\u{3fffd}]/u
const zero = /[\p{Mn}\p{Me}\u200c\u200d]/u

const columnsOf = (character: string): number =>
  zero.test(character) ? 0 : wide.test(character) || wideOutside.test(character) ? 2 : 1

/**
 * Columns that the text takes in a terminal: two for wide characters (Chinese, Japanese, Korean, emoji), none for
 * combining marks, one for others.
 *
 * @category transforming
 * @since 0.1.0
 */
export const width = (text: string): number => Array.from(text).reduce((sum, c) => sum + columnsOf(c), 0)

/**
 * The start of the text that fits into so many columns, with `…` as the last of them where something was cut.
 *
 * @category transforming
 * @since 0.1.0
 */
export const elide = (text: string, columns: number): string => {
  if (width(text) <= columns) return text
  let kept = ""
  let used = 1
  for (const character of text) {
    used += columnsOf(character)
    if (used > columns) break
    kept += character
  }
  return `${kept.trimEnd()}…`
}

/**
 * As {@link elide}, but cut in the middle: names that begin alike often end differently.
 *
 * @category transforming
 * @since 0.1.0
 */
export const elideMiddle = (text: string, columns: number): string => {
  if (width(text) <= columns) return text
  const characters = Array.from(text)
  let end = characters.length
  for (let room = Math.floor((columns - 1) / 2); end > 0; end--) {
    room -= columnsOf(characters[end - 1]!)
    if (room < 0) break
  }
  const tail = characters.slice(end).join("")
  return `${elide(characters.slice(0, end).join(""), columns - width(tail))}${tail.trimStart()}`
}
