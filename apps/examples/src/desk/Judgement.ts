/**
 * Judgements that need the ticket: whether a refinement follows a critique, where the one that does not states a wrong fact
 * as well as the one that does states the right one.
 *
 * @since 0.1.0
 */
import * as Corpus from "./Corpus.ts"
import type { Dice } from "./Dice.ts"
import * as Entity from "./Entity.ts"
import * as Labeller from "./Labeller.ts"
import * as Summary from "./Summary.ts"
import * as Ticket from "./Ticket.ts"

/**
 * A refinement of a draft, and whether it follows the critique and spoils nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Judgement {
  readonly ticket: Ticket.Ticket
  readonly draft: string
  readonly critique: string
  readonly refinement: string
  readonly follows: boolean
}

// Shares of what goes wrong: a wrong fact, of the kind that the critique is about where it is about one, or the draft as it was.
const shares = { fact: 0.8, named: 0.8, near: 0.7 }

const others = (slot: Entity.Slot, truth: string): ReadonlyArray<string> =>
  Entity.values.train[slot].filter((value) => value !== truth)

// Another value for a fact, often one that shares a word with it.
const mistaken = (dice: Dice, slot: Entity.Slot, truth: string): string => {
  const words = new Set(truth.split(" "))
  const close = others(slot, truth).filter((value) => value.split(" ").some((word) => words.has(word)))
  return dice.pick(close.length > 0 && dice.chance(shares.near) ? close : others(slot, truth))
}

const refined = (dice: Dice) => {
  for (;;) {
    const ticket = Ticket.draw(dice, "train", "judged")
    const { critique, draft } = Corpus.criticised(dice, ticket, "train")
    const good = Labeller.refine(ticket, draft, critique)
    if (!Labeller.followsCritique(ticket, draft, critique, good)) continue
    const facts = Summary.stated(good)
    const stated = Entity.slots.filter((slot) => facts[slot] !== undefined)
    const named = stated.filter((slot) => Labeller.faultOf(critique)!.endsWith(` ${slot}`))
    const stating = (slot: Entity.Slot, value: string) =>
      Summary.render(Summary.formOf(good), { ...facts, [slot]: value })
    const judged = (refinement: string): Judgement => {
      const follows = Labeller.followsCritique(ticket, draft, critique, refinement)
      return { ticket, draft, critique, refinement, follows }
    }
    return { draft, good, judged, named, stated, stating, truth: ticket.facts }
  }
}

/**
 * A refinement that names the time, and the same one with another day at the same time of day: what a small model learns to
 * tell apart first, and the rest from it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const days = (dice: Dice): readonly [Judgement, Judgement] => {
  for (;;) {
    const { good, judged, named, stating, truth } = refined(dice)
    if (!named.includes("time")) continue
    const [, timeOfDay] = truth.time.split(" ")
    const wrong = dice.pick(others("time", truth.time).filter((value) => value.endsWith(` ${timeOfDay}`)))
    return [judged(good), judged(stating("time", wrong))]
  }
}

/**
 * A good refinement, and one that goes wrong: mostly in a fact, and mostly in that which the critique is about.
 *
 * @category constructors
 * @since 0.1.0
 */
export const pair = (dice: Dice): readonly [Judgement, Judgement] => {
  for (;;) {
    const { draft, good, judged, named, stated, stating, truth } = refined(dice)
    const slot = dice.pick(named.length > 0 && dice.chance(shares.named) ? named : stated)
    const bad = judged(dice.chance(shares.fact) ? stating(slot, mistaken(dice, slot, truth[slot])) : draft)
    // A wrong fact that the draft has too spoils nothing.
    if (!bad.follows) return [judged(good), bad]
  }
}
