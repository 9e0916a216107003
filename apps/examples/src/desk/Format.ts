/**
 * The plain-text formats of the help desk. A prompt ends with a colon or a question mark and the completion begins with
 * a space, so that prompt and completion may be tokenised apart or together with the same pieces. A document is prompt,
 * completion and the end-of-text token.
 *
 *     Ticket: {ticket}\nSummary:                                              -> " {summary}"
 *     Ticket: {ticket}\nDraft: {draft}\nCritique: {critique}\nRefinement:     -> " {refinement}"
 *     Draft: {draft}\nCritique: {critique}\nRefinement: {refinement}\nDoes it follow the critique? -> " Yes" or " No"
 *     Question: {input}\nAnswer:                                              -> " {target}"
 *
 * A draft is labelled otherwise than a summary, so that training on whole documents never teaches that a summary is
 * followed by a critique. The judgement leaves the ticket out: what changed shows in the two texts.
 *
 * @since 0.1.0
 */

/**
 * Text of the token that ends every document.
 *
 * @category constants
 * @since 0.1.0
 */
export const endOfText = "<eos>"

const line = (text: string): string => text.trim().replace(/\s+/g, " ")

/**
 * Prompt for a first summary.
 *
 * @category encoding
 * @since 0.1.0
 */
export const summary = (ticket: { readonly text: string }): string => `Ticket: ${line(ticket.text)}\nSummary:`

/**
 * Prompt for a summary that follows a critique of a draft.
 *
 * @category encoding
 * @since 0.1.0
 */
export const refinement = (ticket: { readonly text: string }, draft: string, critique: string): string =>
  `Ticket: ${line(ticket.text)}\nDraft: ${line(draft)}\nCritique: ${line(critique)}\nRefinement:`

/**
 * Prompt that asks whether a refinement follows a critique; the answer is `yes` or `no`.
 *
 * @category encoding
 * @since 0.1.0
 */
export const judgement = (draft: string, critique: string, refinement: string): string =>
  `Draft: ${line(draft)}\nCritique: ${line(critique)}\nRefinement: ${line(refinement)}\nDoes it follow the critique?`

/**
 * Prompt for a puzzle; the answer is its target.
 *
 * @category encoding
 * @since 0.1.0
 */
export const puzzle = (input: string): string => `Question: ${input}\nAnswer:`

/**
 * A text as the completion of a prompt: on one line, with a space before it.
 *
 * @category encoding
 * @since 0.1.0
 */
export const completion = (text: string): string => ` ${line(text)}`

/**
 * Completions of a judgement.
 *
 * @category constants
 * @since 0.1.0
 */
export const yes = " Yes"

/**
 * @see {@link yes}
 * @category constants
 * @since 0.1.0
 */
export const no = " No"

/**
 * The text of a completion up to the end-of-text token or the first line break, trimmed: what the labeller scores.
 *
 * @category decoding
 * @since 0.1.0
 */
export const answer = (completion: string): string => (completion.split(endOfText)[0] ?? "").trim().split("\n")[0] ?? ""
