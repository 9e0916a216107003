/**
 * What becomes of a sampled text before anybody reads it: a function from text to text.
 *
 * @since 0.1.0
 */

/**
 * Makes one tidy paragraph of whole sentences of a sampled text.
 *
 * **Details**
 *
 * In this order: drops what stands before the first letter or digit; makes runs of spaces one space; trims; cuts at the
 * first `\n`; and, where there is a `.`, `?` or `!`, drops what follows the last one, which is an unfinished sentence. A
 * text without letters and digits becomes empty.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, the authors' code, `utilities/summarization_utilities.py`.
 *
 * **Gotchas**
 *
 * The rule is kept with its flaws. It takes the point of a decimal or an abbreviation for the end of a sentence ("I paid
 * 3.50 to" becomes "I paid 3.", "in the U.S. and" ends after "U.S."), leaves a long text without punctuation as it is,
 * drops an opening quotation mark or bracket, and, as it trims before it cuts, may leave a space at the end.
 *
 * **Example** (Dropping an unfinished sentence)
 *
 * ```ts
 * import { PostProcessing } from "@attune/ilf"
 *
 * PostProcessing.clean("  \n- He left.  She  stay") // => "He left."
 * ```
 *
 * @category transforming
 * @since 0.1.0
 */
export const clean = (text: string): string => {
  const first = text.search(/[\p{L}\p{N}]/u)
  if (first < 0) return ""
  const [line = ""] = text.slice(first).replace(/ +/g, " ").trim().split("\n")
  const end = Math.max(line.lastIndexOf("."), line.lastIndexOf("?"), line.lastIndexOf("!"))
  return end < 0 ? line : line.slice(0, end + 1)
}

/**
 * Leaves a sampled text as it is, for answers whose form counts, such as programs.
 *
 * @category transforming
 * @since 0.1.0
 */
export const none = (text: string): string => text
