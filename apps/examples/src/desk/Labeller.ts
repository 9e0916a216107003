/**
 * The scripted labeller: what a person would say about a summary of a ticket, from the ticket's known facts. It judges
 * any text, so models cannot leave the ground on which it is right.
 *
 * Gold score, in points, clamped to `[-2, 4]`:
 *
 *     facts kept (0..4)
 *       - 1    per kind of fact with an invented value (which then does not count as kept)
 *       - 1    per topic that does not matter (weather, greeting, chat, history)
 *       - 0.5  for speaking as the customer (I, my, we, our, us, me)
 *       - 0.25 per word beyond 12, at most 3
 *       - 0.25 per repeated word, at most 2
 *       - 0.25 per word that neither the ticket nor a plain summary has, at most 2
 *     and -2 for a text without words
 *
 * @since 0.1.0
 */
import type { Dice } from "./Dice.ts"
import * as Entity from "./Entity.ts"
import * as Summary from "./Summary.ts"
import * as Ticket from "./Ticket.ts"

/**
 * Something wrong with a summary, in the order that settles which of two equally costly faults is named.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  | `wrong ${Entity.Slot}`
  | `mentions ${Ticket.Topic}`
  | `missing ${Entity.Slot}`
  | "voice"
  | "long"
  | "repeats"
  | "stray"

/**
 * A scored summary. `costs` has the points that each fault loses, worst first.
 *
 * @category models
 * @since 0.1.0
 */
export interface Assessment {
  /** Gold score in points, in `[-2, 4]`. */
  readonly score: number
  readonly kept: ReadonlyArray<Entity.Slot>
  readonly costs: ReadonlyArray<readonly [fault: Fault, points: number]>
}

/**
 * Words beyond this number cost points; the longest form of a good summary has as many.
 *
 * @category constants
 * @since 0.1.0
 */
export const wordLimit = 12

/**
 * Range of the gold score, in points.
 *
 * @category constants
 * @since 0.1.0
 */
export const scoreRange = { low: -2, high: 4 }

const voiceWords = new Set(["i", "my", "me", "we", "our", "us"])

// Words that any summary may use: they are never stray, and may occur three times before they count as repeated.
const plainWords = new Set(
  (
    "a an the and or of on in at for to with is was are it its this that has have be been so since when by from as " +
    "not no customer wants want asks ask needs need product problem time request they their she he you your new now said says"
  ).split(" ")
)

const fillerWords = new Set("seems far know please note clear say let there about all well here".split(" "))

const topicOf: ReadonlyMap<string, Ticket.Topic> = new Map(
  Object.entries(Ticket.topicWords).flatMap(([topic, words]) => words.map((word) => [word, topic as Ticket.Topic]))
)

const topics = Object.keys(Ticket.topicWords) as ReadonlyArray<Ticket.Topic>

const occurrences = (words: ReadonlyArray<string>): ReadonlyMap<string, number> => {
  const counts = new Map<string, number>()
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1)
  return counts
}

const repeatedCount = (words: ReadonlyArray<string>): number => {
  let repeated = 0
  for (const [word, count] of occurrences(words)) {
    repeated += Math.max(0, count - (plainWords.has(word) || voiceWords.has(word) ? 3 : 1))
  }
  return repeated
}

// Worst first; equal costs stay in the order in which the faults were pushed.
const byCost = (costs: ReadonlyArray<readonly [Fault, number]>) => [...costs].sort((a, b) => b[1] - a[1])

/**
 * Scores a text as a summary of a ticket.
 *
 * **Gotchas**
 *
 * A fault's cost is what mending it would gain: 2 for an invented value (the lost point and the fact), 1 for a missing
 * fact.
 *
 * @category running
 * @since 0.1.0
 */
export const assess = (ticket: Ticket.Ticket, text: string): Assessment => {
  const words = Summary.wordsOf(text)
  const stated = Summary.stated(text)
  const wrong: Array<Entity.Slot> = []
  const missing: Array<Entity.Slot> = []
  const kept: Array<Entity.Slot> = []
  for (const slot of Entity.slots) {
    const truth = Summary.wordsOf(ticket.facts[slot])
    const foreign = words.some((word) => Entity.slotOf(word) === slot && !truth.includes(word))
    const list = foreign ? wrong : stated[slot] === ticket.facts[slot] ? kept : missing
    list.push(slot)
  }
  const mentioned = new Set(words.map((word) => topicOf.get(word)))
  const ticketWords = new Set(Summary.wordsOf(ticket.text))
  const strays = words.filter(
    (word) =>
      !ticketWords.has(word) &&
      !plainWords.has(word) &&
      !fillerWords.has(word) &&
      !voiceWords.has(word) &&
      !topicOf.has(word) &&
      Entity.slotOf(word) === undefined
  )
  const offTopic = topics.filter((topic) => mentioned.has(topic))
  const voice = words.some((word) => voiceWords.has(word)) ? 0.5 : 0
  const long = Math.min(3, 0.25 * Math.max(0, words.length - wordLimit))
  const repeats = Math.min(2, 0.25 * repeatedCount(words))
  const stray = Math.min(2, 0.25 * strays.length)
  const costs = [
    ...wrong.map((slot) => [`wrong ${slot}`, 2] as const),
    ...offTopic.map((topic) => [`mentions ${topic}`, 1] as const),
    ...missing.map((slot) => [`missing ${slot}`, 1] as const),
    ["voice", voice] as const,
    ["long", long] as const,
    ["repeats", repeats] as const,
    ["stray", stray] as const
  ].filter(([, points]) => points > 0)
  const points = kept.length - wrong.length - offTopic.length - voice - long - repeats - stray
  const score = words.length === 0 ? scoreRange.low : Math.min(scoreRange.high, Math.max(scoreRange.low, points))
  return { score, kept, costs: byCost(costs) }
}

/**
 * The gold score of a text, in points, in `[-2, 4]`.
 *
 * @category running
 * @since 0.1.0
 */
export const score = (ticket: Ticket.Ticket, text: string): number => assess(ticket, text).score

/**
 * A good summary in one of the forms: all facts, nothing else.
 *
 * @category running
 * @since 0.1.0
 */
export const demonstration = (ticket: Ticket.Ticket, dice: Dice): string =>
  Summary.render(dice.pick(Summary.forms), ticket.facts)

const slotCritiques = (slot: Entity.Slot, ask: string): ReadonlyArray<readonly [Fault, ReadonlyArray<string>]> => [
  [
    `wrong ${slot}`,
    [`The ${slot} is wrong.`, `Correct the ${slot}.`, `That is the wrong ${slot}.`, `Check the ${slot} again.`]
  ],
  [`missing ${slot}`, [`Name the ${slot}.`, ask, `The ${slot} is missing.`, `Add the ${slot}.`]]
]

const topicCritiques = (topic: Ticket.Topic, name: string): readonly [Fault, ReadonlyArray<string>] => [
  `mentions ${topic}`,
  [`Do not mention the ${name}.`, `Leave out the ${name}.`, `No ${name}, please.`, `Drop the ${name}.`]
]

/**
 * Wordings of the critique of each fault. No wording belongs to two faults.
 *
 * @category constants
 * @since 0.1.0
 */
export const critiques: ReadonlyMap<Fault, ReadonlyArray<string>> = new Map<Fault, ReadonlyArray<string>>([
  ...slotCritiques("product", "Say which product it is."),
  ...slotCritiques("problem", "Say what is wrong."),
  ...slotCritiques("time", "Say when it happened."),
  ...slotCritiques("request", "Say what the customer wants."),
  topicCritiques("weather", "weather"),
  topicCritiques("greeting", "greeting"),
  topicCritiques("chat", "small talk"),
  topicCritiques("history", "past"),
  ["voice", ["Do not write as the customer.", "Do not say I or my.", "Write as the help desk."]],
  ["long", ["Too long.", "Make it shorter.", "Use fewer words.", "Be brief."]],
  ["repeats", ["Do not repeat words.", "Say it only once."]],
  ["stray", ["Stick to the ticket.", "Use words from the ticket."]]
])

const faultByWording: ReadonlyMap<string, Fault> = new Map(
  [...critiques].flatMap(([fault, wordings]) =>
    wordings.map((wording) => [Summary.wordsOf(wording).join(" "), fault] as const)
  )
)

/**
 * The fault that a critique names, by its words; undefined for a wording that is not the labeller's.
 *
 * @category decoding
 * @since 0.1.0
 */
export const faultOf = (critique: string): Fault | undefined => faultByWording.get(Summary.wordsOf(critique).join(" "))

/**
 * A critique of one given fault, in one of its wordings.
 *
 * @category running
 * @since 0.1.0
 */
export const critiqueOf = (fault: Fault, dice: Dice): string => dice.pick(critiques.get(fault) ?? [])

/**
 * A critique of the fault that costs most; undefined if the draft has none.
 *
 * @category running
 * @since 0.1.0
 */
export const critique = (ticket: Ticket.Ticket, draft: string, dice: Dice): string | undefined => {
  const worst = assess(ticket, draft).costs[0]
  return worst === undefined ? undefined : critiqueOf(worst[0], dice)
}

/**
 * What a good writer makes of a draft and a critique: the facts that the draft states, in the draft's form and without
 * chatter, with the one fact that the critique asks for put in or put right. A draft that states nothing gets the
 * product. Facts that the critique does not speak of stay as they are, wrong ones too. An unknown critique changes
 * nothing.
 *
 * @category running
 * @since 0.1.0
 */
export const refine = (ticket: Ticket.Ticket, draft: string, critique: string): string => {
  const fault = faultOf(critique)
  if (fault === undefined) return draft
  const facts = Summary.stated(draft)
  for (const slot of Entity.slots) {
    if (fault === `wrong ${slot}` || fault === `missing ${slot}`) facts[slot] = ticket.facts[slot]
  }
  if (Object.keys(facts).length === 0) facts.product = ticket.facts.product
  return Summary.render(Summary.formOf(draft), facts)
}

/**
 * True if a refinement follows a critique: the named fault is gone, every fact that the draft kept is kept, and no
 * fault has come in that the draft did not have.
 *
 * **Gotchas**
 *
 * False for a critique that is not in the labeller's wording: it cannot tell.
 *
 * @category running
 * @since 0.1.0
 */
export const followsCritique = (
  ticket: Ticket.Ticket,
  draft: string,
  critique: string,
  refinement: string
): boolean => {
  const fault = faultOf(critique)
  if (fault === undefined || Summary.wordsOf(refinement).length === 0) return false
  const before = assess(ticket, draft)
  const after = assess(ticket, refinement)
  const had = new Set(before.costs.map(([name]) => name))
  return (
    before.kept.every((slot) => after.kept.includes(slot)) &&
    after.costs.every(([name]) => name !== fault && had.has(name))
  )
}

/**
 * Rates of a ranking's imperfections, as probabilities in `[0, 1]`.
 *
 * @category models
 * @since 0.1.0
 */
export interface RankingRates {
  /** That two neighbours of the gold order with different scores change places. */
  readonly noise: number
  /** That two neighbours of the resulting order share a rank. */
  readonly ties: number
}

/**
 * Ranks of the given summaries, 1 the best, by gold score; equal scores share a rank, and ranks have no gaps.
 *
 * **Details**
 *
 * With probability `noise` one pair of neighbours with different scores changes places; then, independently, with
 * probability `ties` one pair of neighbours with different ranks gets the same. The pairs are drawn uniformly.
 *
 * @category running
 * @since 0.1.0
 */
export const rank = (
  ticket: Ticket.Ticket,
  summaries: ReadonlyArray<string>,
  rates: RankingRates,
  dice: Dice
): ReadonlyArray<number> => {
  const scores = summaries.map((summary) => score(ticket, summary))
  const distinct = [...new Set(scores)].sort((a, b) => b - a)
  // Groups of equal score, best first: the gold order.
  const groups = distinct.map((points) => scores.flatMap((own, i) => (own === points ? [i] : [])))
  if (groups.length > 1 && dice.chance(rates.noise)) {
    const at = dice.below(groups.length - 1)
    const upper = groups[at]!
    const lower = groups[at + 1]!
    const left = dice.pick(upper)
    const right = dice.pick(lower)
    groups[at] = upper.map((i) => (i === left ? right : i))
    groups[at + 1] = lower.map((i) => (i === right ? left : i))
  }
  if (groups.length > 1 && dice.chance(rates.ties)) {
    const at = dice.below(groups.length - 1)
    groups.splice(at, 2, [...groups[at]!, ...groups[at + 1]!])
  }
  const ranks = new Array<number>(summaries.length).fill(0)
  groups.forEach((group, i) => {
    for (const j of group) ranks[j] = i + 1
  })
  return ranks
}
