/**
 * What a model can do on held-out help-desk tickets, and how well it predicts held-out text.
 *
 * @since 0.1.0
 */

import { fileURLToPath } from "node:url"
import type { ModelError, Policy } from "@attune/core"
import { Judge, type Sample, Score, WinRate } from "@attune/eval"
import { Effect } from "effect"
import { Flag } from "effect/cli"
import * as Corpus from "./desk/Corpus.ts"
import * as Dice from "./desk/Dice.ts"
import * as Format from "./desk/Format.ts"
import * as Labeller from "./desk/Labeller.ts"
import * as Ticket from "./desk/Ticket.ts"
import * as ItemScores from "./ItemScores.ts"

/**
 * Folder of the shipped base model.
 *
 * @category constants
 * @since 0.1.0
 */
export const deskModel = fileURLToPath(new URL("../models/desk-base", import.meta.url))

/**
 * `--model`, by default the shipped one.
 *
 * @category constants
 * @since 0.1.0
 */
export const modelFlag: Flag.Flag<string> = Flag.String("model").pipe(
  Flag.withMetavar("DIR|REPO"),
  Flag.withDescription("Model directory or Hugging Face repository. Default the shipped help-desk model"),
  Flag.withDefault(deskModel)
)

const maxNewTokens = 40

/**
 * Summaries of tickets that a policy wrote. Temperature 0 is greedy.
 *
 * @category running
 * @since 0.1.0
 */
export const summaries = (
  policy: Policy.PolicyShape,
  tickets: ReadonlyArray<Ticket.Ticket>,
  options: { readonly temperature: number; readonly seed: number }
): Effect.Effect<ReadonlyArray<string>, ModelError.ModelError> =>
  Effect.map(policy.sample(tickets.map(Format.summary), { maxNewTokens, ...options }), (completions) =>
    completions.map(({ text }) => Format.answer(text))
  )

// Which drafts are rewritten as the critique asks, greedily.
const refinements = Effect.fn("DeskScores.refinements")(function* (
  policy: Policy.PolicyShape,
  tickets: ReadonlyArray<Ticket.Ticket>,
  dice: Dice.Dice
) {
  const asked = tickets.map((ticket) => ({ ticket, ...Corpus.criticised(dice, ticket, "test") }))
  const completions = yield* policy.sample(
    asked.map(({ critique, draft, ticket }) => Format.refinement(ticket, draft, critique)),
    { maxNewTokens, temperature: 0 }
  )
  return asked.map(({ critique, draft, ticket }, i) =>
    Number(Labeller.followsCritique(ticket, draft, critique, Format.answer(completions[i]!.text)))
  )
})

// In which judgements the right answer is the more probable one.
const judgements = Effect.fn("DeskScores.judgements")(function* (
  policy: Policy.PolicyShape,
  dice: Dice.Dice,
  n: number
) {
  const rows = Array.from({ length: n }, () => Corpus.row(dice, "judgement", "test"))
  const answers = [Format.yes, Format.no].map((text) => policy.tokenizer.encode(text, { addSpecialTokens: false }))
  const scores = yield* policy.logprobs(
    rows.flatMap(({ prompt }) => answers.map((completion) => ({ prompt: policy.tokenizer.encode(prompt), completion })))
  )
  const sum = (logprobs: Float32Array) => logprobs.reduce((a, b) => a + b, 0)
  return rows.map(({ completion }, i) =>
    Number(sum(scores[2 * i]!) > sum(scores[2 * i + 1]!) === (completion === Format.yes))
  )
})

/**
 * Gold scores of summaries of tickets, in their order. Training never sees them.
 *
 * @category running
 * @since 0.1.0
 */
export const goldScore = (
  system: string,
  how: "greedy" | "sampled",
  tickets: ReadonlyArray<Ticket.Ticket>,
  texts: ReadonlyArray<string>
): Effect.Effect<Score.Score, Sample.SampleError> =>
  ItemScores.score(
    { system, task: "help desk", metric: `gold score, ${how}`, unit: "of 4", higherIsBetter: true },
    texts.map((text, i) => Labeller.score(tickets[i]!, text))
  )

/**
 * What a policy makes of tickets: summaries, the most likely ones and ones drawn at temperature 1, and their gold scores.
 *
 * @category models
 * @since 0.1.0
 */
export interface Gold {
  readonly system: string
  readonly greedy: ReadonlyArray<string>
  readonly scores: readonly [greedy: Score.Score, sampled: Score.Score]
}

/**
 * Lets a policy summarise tickets and scores what it wrote.
 *
 * @category running
 * @since 0.1.0
 */
export const gold: (
  system: string,
  policy: Policy.PolicyShape,
  tickets: ReadonlyArray<Ticket.Ticket>,
  seed: number
) => Effect.Effect<Gold, ModelError.ModelError | Sample.SampleError> = Effect.fn("DeskScores.gold")(
  function* (system, policy, tickets, seed) {
    const greedy = yield* summaries(policy, tickets, { temperature: 0, seed })
    const sampled = yield* summaries(policy, tickets, { temperature: 1, seed })
    const scores = [
      yield* goldScore(system, "greedy", tickets, greedy),
      yield* goldScore(system, "sampled", tickets, sampled)
    ] as const
    return { system, greedy, scores }
  }
)

/**
 * How often the gold labeller prefers the first system's greedy summaries to the second's; equal points are ties.
 *
 * @category running
 * @since 0.1.0
 */
export const winRate = (
  tickets: ReadonlyArray<Ticket.Ticket>,
  first: Gold,
  second: Gold
): Effect.Effect<WinRate.Judged, Sample.SampleError | Judge.JudgeError> => {
  const judge = Judge.fromScore("gold labeller", ({ completion, id }) =>
    Labeller.score(tickets[Number(id)]!, completion)
  )
  const items = tickets.map((ticket, i) => ({
    id: String(i),
    prompt: Format.summary(ticket),
    first: first.greedy[i]!,
    second: second.greedy[i]!
  }))
  // One judge and one set of tickets: one session.
  const session = "gold labeller"
  return WinRate.compare(judge, items, { session, task: "help desk", first: first.system, second: second.system })
}

/**
 * A policy on the help desk.
 *
 * @category models
 * @since 0.1.0
 */
export interface Desk {
  readonly tickets: ReadonlyArray<Ticket.Ticket>
  readonly gold: Gold
  readonly scores: ReadonlyArray<Score.Score>
}

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
) => Effect.Effect<Desk, ModelError.ModelError | Sample.SampleError> = Effect.fn("DeskScores.desk")(
  function* (system, policy, seed, n) {
    const tickets = Ticket.generate({ seed, split: "test", n })
    const dice = Dice.make(seed + 1)
    const written = yield* gold(system, policy, tickets, seed)
    const share = { system, task: "help desk", unit: "share", higherIsBetter: true }
    const scores = [
      ...written.scores,
      yield* ItemScores.score(
        { ...share, metric: "critique followed" },
        yield* refinements(policy, tickets, dice),
        Score.rate
      ),
      yield* ItemScores.score({ ...share, metric: "judgement right" }, yield* judgements(policy, dice, n), Score.rate)
    ]
    return { tickets, gold: written, scores }
  }
)

/**
 * Mean over held-out examples of their negative log-likelihood per token, in nats.
 *
 * @category running
 * @since 0.1.0
 */
export const heldOut: (
  system: string,
  policy: Policy.PolicyShape,
  examples: ReadonlyArray<{ readonly tokens: Int32Array; readonly weights: Float32Array }>
) => Effect.Effect<Score.Score, ModelError.ModelError | Sample.SampleError> = Effect.fn("DeskScores.heldOut")(
  function* (system, policy, examples) {
    const continuations = examples.map(({ tokens, weights }) => {
      const start = Math.max(
        1,
        weights.findIndex((weight) => weight > 0)
      )
      return { prompt: tokens.subarray(0, start), completion: tokens.subarray(start) }
    })
    const scores = yield* policy.logprobs(continuations)
    const measured = { system, task: "held out", metric: "held-out loss", unit: "nats/token", higherIsBetter: false }
    const losses = scores.map((logprobs) => -logprobs.reduce((a, b) => a + b, 0) / logprobs.length)
    return yield* ItemScores.score(measured, losses)
  }
)
