/**
 * What a model can do on held-out help-desk tickets, and how well it predicts held-out text.
 *
 * @since 0.1.0
 */

import { fileURLToPath } from "node:url"
import type { Completion, ModelError, Policy } from "@attune/core"
import { Effect } from "effect"
import * as Corpus from "./desk/Corpus.ts"
import * as Dice from "./desk/Dice.ts"
import * as Format from "./desk/Format.ts"
import * as Labeller from "./desk/Labeller.ts"
import * as Ticket from "./desk/Ticket.ts"
import * as Report from "./Report.ts"

/**
 * Folder of the shipped base model.
 *
 * @category constants
 * @since 0.1.0
 */
export const deskModel = fileURLToPath(new URL("../models/desk-base", import.meta.url))

const maxNewTokens = 40

// Gold scores of the summaries that a policy writes. Temperature 0 is greedy.
const summaries = Effect.fn("Evaluate.summaries")(function* (
  policy: Policy.PolicyShape,
  tickets: ReadonlyArray<Ticket.Ticket>,
  options: { readonly temperature: number; readonly seed: number }
) {
  const completions = yield* policy.sample(tickets.map(Format.summary), { maxNewTokens, ...options })
  return completions.map(({ text }, i) => Labeller.score(tickets[i]!, Format.answer(text)))
})

// Number of drafts that are rewritten as the critique asks, greedily.
const refinements = Effect.fn("Evaluate.refinements")(function* (
  policy: Policy.PolicyShape,
  tickets: ReadonlyArray<Ticket.Ticket>,
  dice: Dice.Dice
) {
  const asked = tickets.map((ticket) => ({ ticket, ...Corpus.criticised(dice, ticket, "test") }))
  const completions = yield* policy.sample(
    asked.map(({ critique, draft, ticket }) => Format.refinement(ticket, draft, critique)),
    { maxNewTokens, temperature: 0 }
  )
  return asked.filter(({ critique, draft, ticket }, i) =>
    Labeller.followsCritique(ticket, draft, critique, Format.answer(completions[i]!.text))
  ).length
})

// Number of judgements where the right answer is the more probable one.
const judgements = Effect.fn("Evaluate.judgements")(function* (policy: Policy.PolicyShape, dice: Dice.Dice, n: number) {
  const rows = Array.from({ length: n }, () => Corpus.row(dice, "judgement", "test"))
  const answers = [Format.yes, Format.no].map((text) => policy.tokenizer.encode(text, { addSpecialTokens: false }))
  const scores = yield* policy.logprobs(
    rows.flatMap(({ prompt }) => answers.map((completion) => ({ prompt: policy.tokenizer.encode(prompt), completion })))
  )
  const sum = (logprobs: Float32Array) => logprobs.reduce((a, b) => a + b, 0)
  return rows.filter(
    ({ completion }, i) => sum(scores[2 * i]!) > sum(scores[2 * i + 1]!) === (completion === Format.yes)
  ).length
})

/**
 * Gold scores of a policy's summaries of tickets: of the most likely ones, and of ones drawn at temperature 1. Training
 * never sees them.
 *
 * @category running
 * @since 0.1.0
 */
export const goldScores: (
  system: string,
  policy: Policy.PolicyShape,
  tickets: ReadonlyArray<Ticket.Ticket>,
  seed: number
) => Effect.Effect<ReadonlyArray<Report.Measurement>, ModelError.ModelError> = Effect.fn("Evaluate.goldScores")(
  function* (system, policy, tickets, seed) {
    const greedy = yield* summaries(policy, tickets, { temperature: 0, seed })
    const sampled = yield* summaries(policy, tickets, { temperature: 1, seed })
    return [
      Report.mean(system, "gold score, greedy", "of 4", greedy),
      Report.mean(system, "gold score, sampled", "of 4", sampled)
    ]
  }
)

/**
 * Everything that the base model is meant to do, on `n` held-out tickets: gold scores of greedy and of sampled summaries,
 * how often a critique is followed, how often a judgement is right (chance is one half).
 *
 * @category running
 * @since 0.1.0
 */
export const desk: (
  system: string,
  policy: Policy.PolicyShape,
  seed: number,
  n: number
) => Effect.Effect<ReadonlyArray<Report.Measurement>, ModelError.ModelError> = Effect.fn("Evaluate.desk")(
  function* (system, policy, seed, n) {
    const tickets = Ticket.generate({ seed, split: "test", n })
    const dice = Dice.make(seed + 1)
    return [
      ...(yield* goldScores(system, policy, tickets, seed)),
      Report.rate(system, "critique followed", yield* refinements(policy, tickets, dice), n),
      Report.rate(system, "judgement right", yield* judgements(policy, dice, n), n)
    ]
  }
)

/**
 * Mean negative log-likelihood per token of held-out examples, in nats, one value per example.
 *
 * @category running
 * @since 0.1.0
 */
export const heldOut: (
  policy: Policy.PolicyShape,
  examples: ReadonlyArray<{ readonly tokens: Int32Array; readonly weights: Float32Array }>
) => Effect.Effect<ReadonlyArray<number>, ModelError.ModelError> = Effect.fn("Evaluate.heldOut")(
  function* (policy, examples) {
    const continuations = examples.map(({ tokens, weights }) => {
      const start = Math.max(
        1,
        weights.findIndex((weight) => weight > 0)
      )
      return { prompt: tokens.subarray(0, start), completion: tokens.subarray(start) }
    })
    const scores = yield* policy.logprobs(continuations)
    return scores.map((logprobs) => -logprobs.reduce((a, b) => a + b, 0) / logprobs.length)
  }
)

/**
 * Prompts, and what two models say to each, side by side.
 *
 * @category encoding
 * @since 0.1.0
 */
export const sideBySide = (
  prompts: ReadonlyArray<string>,
  before: ReadonlyArray<Completion.Completion>,
  after: ReadonlyArray<Completion.Completion>
): ReadonlyArray<string> =>
  prompts.flatMap((prompt, i) => [
    `prompt  ${prompt.replaceAll("\n", " | ")}`,
    `before  ${before[i]!.text.trim().replaceAll("\n", " | ")}`,
    `after   ${after[i]!.text.trim().replaceAll("\n", " | ")}`,
    ""
  ])
