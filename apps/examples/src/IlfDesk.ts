/**
 * What imitation learning from language feedback works with on the help desk: tickets, a critic who knows what is wrong with a
 * summary, and the prompts in which models were taught to refine and to judge.
 *
 * @since 0.1.0
 */
import { fileURLToPath } from "node:url"
import {
  type Critique,
  type Demonstration,
  FeedbackSource,
  type GenerativeRewardModel,
  type Prompt,
  type Ranking
} from "@attune/core"
import type { InstructRm, Templates } from "@attune/ilf"
import * as Dice from "./desk/Dice.ts"
import * as Feedback from "./desk/Feedback.ts"
import * as Format from "./desk/Format.ts"
import * as Labeller from "./desk/Labeller.ts"
import * as Ticket from "./desk/Ticket.ts"

/**
 * How much of the help desk is used. `training`: numbers of tickets to learn from, ascending.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sizes {
  readonly training: ReadonlyArray<number>
  readonly rankings: number
  readonly test: number
}

/**
 * Tickets to learn from and to measure on, both from a seed, and what is known about them.
 *
 * **Details**
 *
 * `prompts`: as many as the largest training set has; smaller ones are their beginnings. `demonstrations`: a good summary of
 * each. `compared`: prompts whose answers `rank` puts in an order, with a few mistakes and ties. `critic`: criticises the worst
 * fault of a summary, and has nothing to say about one without. `gold` scores a summary of a ticket, `follows` says whether a
 * refinement does what the critique asks for and spoils nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Desk {
  readonly prompts: ReadonlyArray<string>
  readonly demonstrations: ReadonlyArray<Demonstration.Demonstration>
  readonly critic: FeedbackSource.FeedbackSourceShape
  readonly compared: ReadonlyArray<string>
  readonly rank: (answers: ReadonlyArray<ReadonlyArray<string>>) => ReadonlyArray<Ranking.Ranking>
  readonly test: ReadonlyArray<string>
  readonly gold: (prompt: Prompt.Content, summary: string) => number
  readonly follows: (critique: Critique.Critique, refinement: string) => boolean
}

/**
 * Material of the help desk, from a seed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (sizes: Sizes, seed: number): Desk => {
  const tickets = Ticket.generate({ seed: seed * 100 + 21, split: "train", n: sizes.training.at(-1)! })
  const test = Ticket.generate({ seed: seed * 100 + 22, split: "test", n: sizes.test })
  const compared = Ticket.generate({ seed: seed * 100 + 24, split: "train", n: sizes.rankings })
  const ticketOf = new Map([...tickets, ...test].map((ticket) => [Format.summary(ticket), ticket]))
  const of = (prompt: Prompt.Content): Ticket.Ticket => {
    const ticket = typeof prompt === "string" ? ticketOf.get(prompt) : undefined
    if (ticket === undefined) throw new RangeError(`no ticket of the help desk: ${JSON.stringify(prompt)}`)
    return ticket
  }
  return {
    prompts: tickets.map(Format.summary),
    demonstrations: Feedback.demonstrations(tickets, Dice.make(seed * 100 + 23)),
    critic: FeedbackSource.fromLabeller("scripted labeller", {
      // Its words depend on seed, prompt and summary, not on the order of questions: a run that goes on hears the same.
      critique: ({ completion, prompt }) =>
        Labeller.critique(of(prompt), completion, Dice.make(seed * 100 + prompt.length + completion.length))
    }),
    compared: compared.map(Format.summary),
    rank: (answers) => {
      const items = compared.map((ticket, i) => ({ ticket, completions: [...new Set(answers[i])] }))
      const comparable = items.filter(({ completions }) => completions.length > 1)
      return Feedback.rankings(comparable, { noise: 0.1, ties: 0.1 }, Dice.make(seed * 100 + 25))
    },
    test: test.map(Format.summary),
    gold: (prompt, summary) => Labeller.score(of(prompt), summary),
    follows: ({ completion, critique, prompt }, refinement) =>
      Labeller.followsCritique(of(prompt), completion, critique, refinement)
  }
}

/**
 * The text of the ticket in a prompt.
 *
 * @category decoding
 * @since 0.1.0
 */
export const context = (prompt: Prompt.Content): string =>
  typeof prompt === "string" ? prompt.slice("Ticket: ".length, -"\nSummary:".length) : ""

const template = (...fields: ReadonlyArray<string>): Templates.Template => ({
  content: [...fields, "Refinement:"].join("\n"),
  completion: " {refinement}",
  stopStrings: ["\n"]
})

/**
 * Prompts for refinements, as `Format.refinement` has them: with the critique, and `direct` without.
 *
 * @category constants
 * @since 0.1.0
 */
export const refinement = {
  template: template("Ticket: {context}", "Draft: {draft}", "Critique: {critique}"),
  direct: template("Ticket: {context}", "Draft: {draft}")
}

const judged = (fields: ReadonlyArray<string>, question: string): InstructRm.Template => ({
  content: [...fields, "Refinement: {refinement}", question].join("\n"),
  replies: [Format.yes, Format.no]
})

const follows = "Does it follow the critique?"

/**
 * Folder of the shipped judge: the base model, taught by `TeachJudge` to judge with the ticket in view. The base model itself
 * was taught without, and cannot see a wrong fact.
 *
 * @category constants
 * @since 0.1.0
 */
export const judgeModel = fileURLToPath(new URL("../models/desk-judge", import.meta.url))

/**
 * An ensemble of five prompts for judgements, in which {@link judgeModel} was taught to judge. The five of `InstructRm` are
 * longer than the model's context.
 *
 * @category constants
 * @since 0.1.0
 */
export const judgements: ReadonlyArray<InstructRm.Template> = [
  judged(["Ticket: {context}", "Draft: {draft}", "Critique: {critique}"], follows),
  judged(["Ticket: {context}", "Critique: {critique}", "Draft: {draft}"], follows),
  judged(["Critique: {critique}", "Ticket: {context}", "Draft: {draft}"], follows),
  judged(["Ticket: {context}", "Draft: {draft}", "Critique: {critique}"], "Does the refinement follow the critique?"),
  judged(["Critique: {critique}", "Ticket: {context}", "Draft: {draft}", "Critique: {critique}"], follows)
]

/**
 * The question of the reward model that is trained on comparisons.
 *
 * @category constants
 * @since 0.1.0
 */
export const excellent: GenerativeRewardModel.Template = {
  content: "{prompt} {completion}\nIs this an excellent summary?",
  replies: [Format.yes, Format.no]
}
