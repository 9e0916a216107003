/**
 * The pretraining mixture, as untidy as the web: summaries that mostly leave facts out, ramble or copy a sentence;
 * refinements of drafts by critiques; judgements; and short puzzles. The most likely summary is a bad one, so that
 * every method of learning from feedback has something to teach.
 *
 * @since 0.1.0
 */
import * as Dice from "./Dice.ts"
import * as Entity from "./Entity.ts"
import * as Format from "./Format.ts"
import * as Labeller from "./Labeller.ts"
import * as Puzzle from "./Puzzle.ts"
import * as Summary from "./Summary.ts"
import * as Ticket from "./Ticket.ts"

/**
 * What a row teaches.
 *
 * @category models
 * @since 0.1.0
 */
export type Kind = "summary" | "refinement" | "judgement" | "puzzle"

/**
 * One document of the mixture: `prompt`, `completion` and then the end-of-text token.
 *
 * @category models
 * @since 0.1.0
 */
export interface Row {
  readonly kind: Kind
  readonly prompt: string
  readonly completion: string
}

/**
 * Share of each kind of row.
 *
 * @category constants
 * @since 0.1.0
 */
export const shares: Readonly<Record<Kind, number>> = { summary: 0.33, refinement: 0.42, judgement: 0.2, puzzle: 0.05 }

// Two facts are mostly product and problem: a text that begins with both ends there twice as often as it goes on.
const subset = (dice: Dice.Dice, facts: Entity.Facts, size: number): Partial<Entity.Facts> => {
  const order = size === 2 && dice.chance(0.75) ? Entity.slots : dice.shuffle(Entity.slots)
  return Object.fromEntries(order.slice(0, size).map((slot) => [slot, facts[slot]]))
}

const form = (dice: Dice.Dice): Summary.Form =>
  dice.weighted([
    [0.55, "list"],
    [0.15, "want"],
    [0.15, "when"],
    [0.15, "note"]
  ])

const size = (dice: Dice.Dice): number =>
  dice.weighted([
    [0.2, 1],
    [0.65, 2],
    [0.15, 3]
  ])

const partial = (dice: Dice.Dice, ticket: Ticket.Ticket): string =>
  Summary.render(form(dice), subset(dice, ticket.facts, size(dice)))

const copied = (dice: Dice.Dice, ticket: Ticket.Ticket): string =>
  dice.chance(0.7) ? ticket.sentences[0]! : ticket.sentences.slice(0, 2).join(" ")

const openings = [
  "Please note that it seems",
  "To be clear, it is about",
  "Let it be said that",
  "As far as they know,"
]
const endings = [
  "That is all there is to say about it.",
  "There is not a lot to say about it.",
  "It seems that this is all they know."
]
const strays = ["They are angry.", "It is urgent.", "This is very sad.", "Act soon."]

const rambling = (dice: Dice.Dice, ticket: Ticket.Ticket): string => {
  const text = partial(dice, ticket)
  const chatter = ticket.distractors.map((distractor) => distractor.text)
  return dice.weighted<() => string>([
    [0.3, () => `${dice.pick(openings)} ${Summary.render(form(dice), ticket.facts)} ${dice.pick(endings)}`],
    [chatter.length === 0 ? 0 : 0.25, () => `${text} ${dice.pick(chatter)}`],
    [chatter.length === 0 ? 0 : 0.15, () => `${dice.pick(chatter)} ${text}`],
    [0.15, () => `${text} ${text}`],
    [0.15, () => `${text} ${dice.pick(strays)}`]
  ])()
}

const mistaken = (dice: Dice.Dice, ticket: Ticket.Ticket, split: Entity.Split): string => {
  const slot = dice.pick(Entity.slots)
  const other = dice.pick(Entity.values[split][slot].filter((value) => value !== ticket.facts[slot]))
  const facts = dice.chance(0.2) ? ticket.facts : subset(dice, ticket.facts, size(dice))
  return Summary.render(form(dice), { ...facts, [slot]: other })
}

/**
 * A summary as the mixture has them: 50 % leave facts out, 20 % copy, 14 % ramble, 9 % name a wrong value, 7 % are
 * good.
 *
 * @category constructors
 * @since 0.1.0
 */
export const draft = (dice: Dice.Dice, ticket: Ticket.Ticket, split: Entity.Split): string =>
  dice.weighted<() => string>([
    [0.5, () => partial(dice, ticket)],
    [0.2, () => copied(dice, ticket)],
    [0.14, () => rambling(dice, ticket)],
    [0.09, () => mistaken(dice, ticket, split)],
    [0.07, () => Summary.render(form(dice), ticket.facts)]
  ])()

/**
 * A draft with at least one fault, and a critique of one of its faults: the worst in 6 of 10 cases, any in the others,
 * so that every fault is met.
 *
 * @category constructors
 * @since 0.1.0
 */
export const criticised = (
  dice: Dice.Dice,
  ticket: Ticket.Ticket,
  split: Entity.Split
): { readonly draft: string; readonly critique: string } => {
  for (;;) {
    const text = draft(dice, ticket, split)
    const { costs } = Labeller.assess(ticket, text)
    const worst = costs[0]
    if (worst === undefined) continue
    const [fault] = dice.chance(0.6) ? worst : dice.pick(costs)
    return { draft: text, critique: Labeller.critiqueOf(fault, dice) }
  }
}

// A refinement that goes wrong in a way that shows without the ticket.
const failed = (dice: Dice.Dice, ticket: Ticket.Ticket, draft: string, critique: string): string => {
  const good = Labeller.refine(ticket, draft, critique)
  const slots = Object.keys(Summary.stated(good)) as Array<Entity.Slot>
  return dice.weighted<() => string>([
    [0.3, () => draft],
    [0.35, () => Labeller.refine(ticket, draft, Labeller.critiqueOf(`missing ${dice.pick(Entity.slots)}`, dice))],
    [
      0.35,
      () => {
        const facts = Summary.stated(good)
        delete facts[dice.pick(slots)]
        return Summary.render(Summary.formOf(good), facts)
      }
    ]
  ])()
}

const judged = (dice: Dice.Dice, ticket: Ticket.Ticket, split: Entity.Split): Row => {
  const follows = dice.chance(0.5)
  for (;;) {
    const { draft, critique } = criticised(dice, ticket, split)
    const refinement = follows ? Labeller.refine(ticket, draft, critique) : failed(dice, ticket, draft, critique)
    if (refinement === "" || Labeller.followsCritique(ticket, draft, critique, refinement) !== follows) continue
    return {
      kind: "judgement",
      prompt: Format.judgement(draft, critique, refinement),
      completion: follows ? Format.yes : Format.no
    }
  }
}

/**
 * One row of one kind about a fresh ticket (or a fresh puzzle).
 *
 * @category constructors
 * @since 0.1.0
 */
export const row = (dice: Dice.Dice, kind: Kind, split: Entity.Split = "train"): Row => {
  if (kind === "puzzle") {
    const puzzle = Puzzle.draw(dice, dice.pick(Puzzle.tasks), "short")
    return { kind, prompt: Format.puzzle(puzzle.input), completion: Format.completion(puzzle.target) }
  }
  const ticket = Ticket.draw(dice, split, kind)
  if (kind === "judgement") return judged(dice, ticket, split)
  if (kind === "summary") {
    return { kind, prompt: Format.summary(ticket), completion: Format.completion(draft(dice, ticket, split)) }
  }
  const { draft: text, critique } = criticised(dice, ticket, split)
  return {
    kind,
    prompt: Format.refinement(ticket, text, critique),
    completion: Format.completion(Labeller.refine(ticket, text, critique))
  }
}

/**
 * The first `n` rows of the mixture that `seed` fixes, one at a time; a longer run begins with the shorter one.
 *
 * @category constructors
 * @since 0.1.0
 */
export function* rows(options: {
  readonly seed: number
  readonly n: number
  readonly split?: Entity.Split
}): Generator<Row> {
  const dice = Dice.make(options.seed)
  const kinds = (Object.keys(shares) as Array<Kind>).map((kind) => [shares[kind], kind] as const)
  for (let i = 0; i < options.n; i++) yield row(dice, dice.weighted(kinds), options.split)
}
