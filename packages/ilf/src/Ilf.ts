/**
 * Imitation learning from language feedback: the policy drafts, somebody says what is wrong, a model refines, the best
 * refinement is selected, and the policy learns to say it at once. Any number of rounds.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, its algorithm; iterated, its section on several rounds.
 *
 * @since 0.1.0
 */
import { join } from "node:path"
import {
  type Checkpoint,
  type Critique,
  FeedbackSource,
  type Journal,
  type Learner,
  type ModelError,
  type Policy,
  type Prompt,
  type Run,
  type RunLog
} from "@attune/core"
import { Effect, Schema } from "effect"
import * as FineTuning from "./FineTuning.ts"
import type * as PromptLoss from "./PromptLoss.ts"
import * as Refinement from "./Refinement.ts"
import * as RoundJournal from "./RoundJournal.ts"
import * as Selection from "./Selection.ts"

/**
 * Reports a round that leaves nothing to learn from, or settings that do not fit. `round` counts from 0.
 *
 * @category errors
 * @since 0.1.0
 */
export class IlfError extends Schema.TaggedError<IlfError>()("IlfError", {
  round: Schema.Int,
  reason: Schema.String
}) {
  override get message(): string {
    return `ILF, round ${this.round}: ${this.reason}`
  }
}

/**
 * Who drafts, who refines, and who learns; the critic is `FeedbackSource`, the judge `Selection.Selector`.
 *
 * **Details**
 *
 * They may be one model or several: in the paper, drafts and refinements are those of an instructed model, and another
 * one is trained. Where `draft` is the learner's own policy, later rounds draft with what it has learned.
 *
 * @category models
 * @since 0.1.0
 */
export interface Roles {
  readonly draft: Policy.PolicyShape
  readonly refine: Policy.PolicyShape
  readonly learner: Learner.Learner<PromptLoss.Fields, Policy.PolicyShape>
}

type Drawing<O extends Refinement.Options> = Omit<O, "count" | "items" | "round" | "seed">

/**
 * What a round begins with: a prompt, of which a draft and a critique are asked, or a draft with its critique, which
 * somebody gave already.
 *
 * @category models
 * @since 0.1.0
 */
export type Start = Prompt.Content | Critique.Critique

/**
 * What a run takes besides its roles.
 *
 * **Details**
 *
 * `prompts`: those of each round, or critiques; there are as many rounds as lists. `drafts`, `refinements`, `samples`:
 * how they are drawn, and how many refinements, default 5. `beta`, `least`: as of `Selection.select`. `importance`:
 * weigh by the full importance ratio instead of the paper's simplification; it takes a finite `beta`. Repeats are drawn
 * again, so that candidates are draws of the proposal only with `refinements: { extra: 0 }`.
 *
 * `examples`, `epochs`, `batchSize` (in prompts): of fine-tuning. `between`: after the first round, `retrain` (default)
 * the weights of the beginning on all rounds, or `continue` with the last ones on the latest round alone; the optimizer
 * begins anew in both. `directory` keeps everything: `feedback.jsonl` (see `RoundJournal`) and a run of fine-tuning in
 * `round-1`, `round-2`, ...; `resume` goes on where it stopped.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Run.KeepOptions, Pick<Selection.SelectOptions, "beta" | "least"> {
  readonly prompts: ReadonlyArray<ReadonlyArray<Start>>
  readonly drafts?: Drawing<Refinement.DraftOptions> | undefined
  readonly refinements?: Drawing<Refinement.RefinementOptions> | undefined
  readonly samples?: number | undefined
  readonly importance?: boolean | undefined
  readonly examples?: FineTuning.ExampleOptions | undefined
  readonly epochs?: number | undefined
  readonly batchSize?: number | undefined
  readonly between?: "retrain" | "continue" | undefined
  readonly seed?: number | undefined
}

/**
 * What became of a round: `questions`, critiques with their refinements; `selected`, what was chosen for each;
 * `summary`; `steps`, what fine-tuning reported in this process; and how many items were left out before the selection.
 *
 * **Details**
 *
 * `undrafted`: prompts that left no room for a draft. `uncriticised`: drafts of which the critic had nothing to say that
 * could be used. `unrefined`: critiques that were skipped, or of which all refinements are empty. What a round begins with
 * is counted once: `starts = undrafted + uncriticised + unrefined + questions`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Round {
  readonly questions: ReadonlyArray<Selection.Question>
  readonly selected: ReadonlyArray<Selection.Selected | undefined>
  readonly summary: Selection.Summary
  readonly undrafted: number
  readonly uncriticised: number
  readonly unrefined: number
  readonly steps: ReadonlyArray<Learner.StepMetrics>
}

type Failure =
  | IlfError
  | RoundJournal.RoundJournalError
  | Journal.JournalError
  | Refinement.RefinementError
  | FeedbackSource.FeedbackSourceError
  | Selection.SelectorError
  | FineTuning.FineTuningError
  | ModelError.ModelError
  | Learner.LearnerError
  | RunLog.RunLogError
  | Checkpoint.CheckpointError

// Items of a call that drafts, refines or scores: kept together when it is over.
const atOnce = 64

/**
 * Trains the learner's policy, round after round, and returns what became of each.
 *
 * **Details**
 *
 * With a directory, an answer that is in it is never asked for again. Answers are kept call by call: a call has one
 * critique, or the drafts, the refinements or the scores of up to 64 items; all refinements of these take the sampler
 * several calls. An interruption, a failure or a kill costs what the calls under way had.
 *
 * A resumed run ends with the same weights, bit for bit, if it is given what it began with, and is refused where that
 * is seen to differ. Models, critic and selector are known by their names only, so that one that changed needs another
 * name (InstructRM with other prompts, for instance), and functions among the settings are not compared.
 *
 * The learner must be new: its weights are those that `retrain` returns to. `RefinementError.item` and
 * `SelectorError.question` are places in the round's list of `prompts`. What was left out is counted in {@link Round};
 * `IlfError` where a round has nothing left. Throws `RangeError` for `importance` without a finite `beta`.
 *
 * @category running
 * @since 0.1.0
 */
export const train: (
  roles: Roles,
  options: Options
) => Effect.Effect<ReadonlyArray<Round>, Failure, FeedbackSource.FeedbackSource | Selection.Selector> = Effect.fn(
  "Ilf.train"
)(function* (roles, options) {
  const { batchSize = 16, between = "retrain", directory, epochs = 1, resume = false, seed = 0 } = options
  const { beta = Number.POSITIVE_INFINITY, importance = false } = options
  if (importance && beta === Number.POSITIVE_INFINITY) {
    throw new RangeError("importance changes nothing where the best refinement takes all; give a finite beta")
  }
  const { learner } = roles
  const beginning = yield* learner.state
  if (beginning.step !== 0) {
    return yield* new IlfError({ round: 0, reason: `the learner has taken ${beginning.step} steps; give a new one` })
  }
  const file = directory === undefined ? undefined : join(directory, "feedback.jsonl")
  const journal = yield* RoundJournal.open(file, resume)
  const rounds: Array<Round> = []
  const learned: Array<FineTuning.Target> = []
  for (const [round, prompts] of options.prompts.entries()) {
    const feedback = yield* feedbackOf(roles, round, prompts, journal, options)
    const { questions, selected, summary, undrafted, uncriticised, unrefined } = feedback
    const targets = yield* Effect.fromResult(FineTuning.refinements(questions, selected))
    if (targets.length === 0) {
      const reason =
        `of ${prompts.length} prompts none has a critique and a refinement that was selected: ${undrafted} undrafted ` +
        `(no room), ${uncriticised} uncriticised, ${unrefined} unrefined, ${summary.dropped} dropped (below least)`
      return yield* new IlfError({ round, reason })
    }
    learned.push(...targets)
    if (round > 0) {
      const { weights } = between === "retrain" ? beginning.tensors : (yield* learner.state).tensors
      yield* learner.restore({ ...beginning, tensors: { ...beginning.tensors, weights: weights! } })
    }
    const imitated = between === "retrain" ? learned : targets
    const examples = yield* Effect.fromResult(FineTuning.examples(learner.model.tokenizer, imitated, options.examples))
    const kept = directory === undefined ? {} : { directory: join(directory, `round-${round + 1}`) }
    const { checkpointEvery, keepLast } = options
    const run = { epochs, batchSize, seed: seed + round, resume, checkpointEvery, keepLast, ...kept }
    rounds.push({ ...feedback, steps: yield* FineTuning.train(learner, examples, run) })
  }
  return rounds
})

const isPrompt = (start: Start): start is Prompt.Content => typeof start === "string" || Array.isArray(start)

// What a selector says about one of some questions, about the place of that question.
const at = (places: ReadonlyArray<number>) => (error: Selection.SelectorError) => {
  const { cause, question, reason, refinement, selector } = error
  if (question === undefined) return error
  return new Selection.SelectorError({
    selector,
    reason,
    question: places[question] ?? question,
    ...(refinement === undefined ? {} : { refinement }),
    ...(cause === undefined ? {} : { cause })
  })
}

// Draft, critique, refine, select.
const feedbackOf = Effect.fnUntraced(function* (
  { draft, refine }: Roles,
  round: number,
  starts: ReadonlyArray<Start>,
  journal: RoundJournal.RoundJournal,
  { beta, drafts: drawing = {}, importance = false, least, refinements: refining = {}, samples = 5, seed = 0 }: Options
) {
  const critic = yield* FeedbackSource.FeedbackSource
  const selector = yield* Selection.Selector
  const ask = { round, atOnce }
  const settings = (of: object) => JSON.stringify([seed, of])

  const asked = starts.flatMap((start, item) => (isPrompt(start) ? [{ item, prompt: start }] : []))
  const drafts = yield* journal.answers(
    "draft",
    asked.map(({ item, prompt }) => ({ item, on: [JSON.stringify(prompt), settings(drawing)] })),
    { ...ask, by: draft.name },
    (places) => {
      const own = places.map((i) => asked[i]!)
      const prompts = own.map(({ prompt }) => prompt)
      return Effect.map(
        Refinement.draft(draft, prompts, { ...drawing, items: own.map(({ item }) => item), round, seed }),
        (drawn) =>
          drawn.map(([candidate], i) => ({
            prompt: prompts[i]!,
            ...(candidate === undefined ? {} : { text: candidate.text, seed: candidate.seed })
          }))
      )
    }
  )
  const attempts = drafts.flatMap(({ prompt, text }, i) =>
    text === undefined ? [] : [{ item: asked[i]!.item, prompt, completion: text }]
  )
  const said = yield* journal.answers(
    "critique",
    attempts.map(({ completion, item, prompt }) => ({ item, on: [JSON.stringify(prompt), completion] })),
    { round, by: critic.name, atOnce: 1, concurrency: critic.concurrency ?? 1 },
    ([i]) =>
      critic.critique(attempts[i!]!).pipe(
        Effect.map(({ critique }) => [{ critique }]),
        Effect.catchIf(
          ({ nothing }) => nothing === true,
          () => Effect.succeed([{}])
        )
      )
  )
  const heard = attempts.flatMap(({ completion, item, prompt }, i) => {
    const { critique } = said[i]!
    return critique === undefined ? [] : [{ item, critique: { prompt, completion, critique } }]
  })
  const given = starts.flatMap((start, item) => (isPrompt(start) ? [] : [{ item, critique: start }]))
  const criticised = [...heard, ...given].sort((a, b) => a.item - b.item)

  const drawn = yield* journal.answers(
    "refinements",
    criticised.map(({ critique, item }) => ({
      item,
      on: [JSON.stringify(critique), settings({ ...refining, samples })]
    })),
    { ...ask, by: refine.name },
    (places) =>
      Effect.map(
        Refinement.sample(
          refine,
          places.map((i) => criticised[i]!.critique),
          { ...refining, count: samples, items: places.map((i) => criticised[i]!.item), round, seed }
        ),
        (all) =>
          all.map((candidates) => ({
            candidates: candidates.map(({ completion, logprob, seed, text }) => ({
              text,
              sampled: completion.text,
              seed,
              logprob
            }))
          }))
      )
  )
  const answered = criticised.flatMap(({ critique, item }, i) => {
    const candidates = drawn[i]!.candidates.filter(({ text }) => text.trim() !== "")
    return candidates.length === 0 ? [] : [{ item, critique, candidates }]
  })

  const questions = answered.map(({ candidates, critique }) => ({
    critique,
    refinements: candidates.map(({ text }) => text)
  }))
  const remembering: Selection.SelectorShape = {
    name: selector.name,
    score: (questions) =>
      journal
        .answers(
          "scores",
          questions.map((question, i) => ({ item: answered[i]!.item, on: [JSON.stringify(question)] })),
          { ...ask, by: selector.name },
          (places) =>
            Selection.guarded(selector)
              .score(places.map((i) => questions[i]!))
              .pipe(
                Effect.map((rows) => rows.map((scores) => ({ scores: Array.from(scores) }))),
                Effect.mapError(at(places))
              )
        )
        .pipe(
          Effect.map((rows) => rows.map(({ scores }) => Float64Array.from(scores))),
          Effect.mapError((cause) =>
            cause instanceof Selection.SelectorError
              ? cause
              : new Selection.SelectorError({ selector: selector.name, reason: cause.message, cause })
          )
        )
  }
  const logq = importance ? answered.map(({ candidates }) => candidates.map(({ logprob }) => logprob)) : undefined
  const { selected, summary } = yield* Selection.select(remembering, questions, {
    ...(beta === undefined ? {} : { beta }),
    ...(least === undefined ? {} : { least }),
    ...(logq === undefined ? {} : { logq })
  }).pipe(Effect.mapError(at(answered.map(({ item }) => item))))
  return {
    questions,
    selected,
    summary,
    undrafted: asked.length - attempts.length,
    uncriticised: attempts.length - heard.length,
    unrefined: criticised.length - answered.length
  }
})
