/**
 * Feedback of the scripted labeller on help-desk tickets, as the plain objects that feedback files hold. Prompts are
 * those of `Format`; every completion begins with a space and ends without the end-of-text token, which the learner
 * adds.
 *
 * @since 0.1.0
 */
import type { Dice } from "./Dice.ts"
import * as Format from "./Format.ts"
import * as Labeller from "./Labeller.ts"
import type { Ticket } from "./Ticket.ts"

/**
 * A prompt with a good answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Demonstration {
  readonly prompt: string
  readonly completion: string
}

/**
 * A prompt with answers and their ranks: 1 is the best, equal ranks are ties.
 *
 * @category models
 * @since 0.1.0
 */
export interface Ranking {
  readonly prompt: string
  readonly completions: ReadonlyArray<string>
  readonly ranks: ReadonlyArray<number>
}

/**
 * An answer with what is wrong with it, and a better one where somebody wrote it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Critique {
  readonly prompt: string
  readonly completion: string
  readonly critique: string
  readonly refinement?: string
}

/**
 * One good summary per ticket.
 *
 * @category running
 * @since 0.1.0
 */
export const demonstrations = (tickets: ReadonlyArray<Ticket>, dice: Dice): ReadonlyArray<Demonstration> =>
  tickets.map((ticket) => ({
    prompt: Format.summary(ticket),
    completion: Format.completion(Labeller.demonstration(ticket, dice))
  }))

/**
 * Ranks the completions of each ticket, which may come from any model.
 *
 * @category running
 * @since 0.1.0
 */
export const rankings = (
  items: ReadonlyArray<{ readonly ticket: Ticket; readonly completions: ReadonlyArray<string> }>,
  rates: Labeller.RankingRates,
  dice: Dice
): ReadonlyArray<Ranking> =>
  items.map(({ ticket, completions }) => ({
    prompt: Format.summary(ticket),
    completions,
    ranks: Labeller.rank(ticket, completions.map(Format.answer), rates, dice)
  }))

/**
 * A critique of the worst fault of each completion, with the scripted refinement if asked for. A completion without a
 * fault gets none and is left out.
 *
 * @category running
 * @since 0.1.0
 */
export const critiques = (
  items: ReadonlyArray<{ readonly ticket: Ticket; readonly completion: string }>,
  dice: Dice,
  options: { readonly refinements: boolean } = { refinements: false }
): ReadonlyArray<Critique> =>
  items.flatMap(({ ticket, completion }) => {
    const draft = Format.answer(completion)
    const critique = Labeller.critique(ticket, draft, dice)
    if (critique === undefined) return []
    const item = { prompt: Format.summary(ticket), completion, critique }
    if (!options.refinements) return [item]
    return [{ ...item, refinement: Format.completion(Labeller.refine(ticket, draft, critique)) }]
  })

/**
 * JSON Lines: one object per line, each line ended.
 *
 * @category encoding
 * @since 0.1.0
 */
export const toJsonLines = (items: ReadonlyArray<object>): string =>
  items.map((item) => `${JSON.stringify(item)}\n`).join("")
