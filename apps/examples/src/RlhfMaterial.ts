/**
 * What reinforcement learning from human feedback learns from: demonstrations, rankings, prompts and pretraining text, of the
 * help desk or from files.
 *
 * @since 0.1.0
 */
import {
  type Completion,
  Demonstration,
  JsonLines,
  type ModelError,
  NextToken,
  type Policy,
  Progress,
  Prompt,
  Ranking,
  Sft
} from "@attune/core"
import type { Pretrained } from "@attune/core/hub"
import { Effect, Option, Schema } from "effect"
import { Flag } from "effect/cli"
import * as CommonFlags from "./CommonFlags.ts"
import * as Corpus from "./desk/Corpus.ts"
import * as Dice from "./desk/Dice.ts"
import * as Feedback from "./desk/Feedback.ts"
import * as Format from "./desk/Format.ts"
import * as Labeller from "./desk/Labeller.ts"
import * as Ticket from "./desk/Ticket.ts"
import * as Pretrain from "./Pretrain.ts"
import * as Provenance from "./Provenance.ts"

const file = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar("FILE.jsonl"), Flag.withDescription(description), Flag.optional)

/**
 * Flags that name files of feedback. Without rankings, everything is of the help desk.
 *
 * @category constants
 * @since 0.1.0
 */
export const flags = {
  rankings: file(
    "rankings",
    "Answers to prompts with their ranks, or chosen and rejected, one JSON object a line. Default generated ones of the help desk"
  ),
  demonstrations: file(
    "demonstrations",
    "Prompts with good completions for the supervised start. With --rankings, default none: the model is taken as it is"
  ),
  prompts: file(
    "prompts",
    'Prompts to answer in PPO, {"prompt": text or messages} a line. With --rankings, default those of the rankings'
  ),
  pretraining: Flag.String("pretraining").pipe(
    Flag.withMetavar("FILE.txt"),
    Flag.withDescription(
      "Plain documents separated by <|endoftext|>, mixed into PPO-ptx. With --rankings, default none: PPO alone"
    ),
    Flag.optional
  )
}

/**
 * Everything to learn from, and to measure on.
 *
 * **Details**
 *
 * `rankings` may ask the policy after supervised fine-tuning for the answers that are ranked. `prompts`: those that PPO
 * answers, by default those of rankings that are learned from. `test.prompts`: those to measure on, by default those of rankings
 * that are held out; `gold` scores an answer to one of them, where there is a scripted labeller.
 *
 * @category models
 * @since 0.1.0
 */
export interface Material {
  readonly demonstrations: ReadonlyArray<Demonstration.Demonstration>
  readonly rankings: (
    policy: Policy.PolicyShape
  ) => Effect.Effect<ReadonlyArray<Ranking.Ranking>, ModelError.ModelError>
  readonly prompts?: ReadonlyArray<Prompt.Content>
  readonly pretraining: ReadonlyArray<Sft.Example>
  readonly test: {
    readonly prompts?: ReadonlyArray<Prompt.Content>
    readonly gold?: (i: number, text: string) => number
    /** Documents by what they are of, to see what else the model loses. */
    readonly documents: Readonly<Record<string, ReadonlyArray<Sft.Example>>>
  }
  readonly datasets: ReadonlyArray<Provenance.Dataset>
}

/**
 * How much of the help desk is used.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sizes {
  readonly demonstrations: number
  readonly rankings: number
  /** Answers of a ranking; equal ones are ranked once. */
  readonly completions: number
  readonly prompts: number
  readonly test: number
}

const noise: Labeller.RankingRates = { noise: 0.1, ties: 0.1 }

// Documents of pretraining that PPO-ptx goes on with; as many as it takes in a run or more.
const pretrainingRows = 3000

// Answers sampled between two updates of the progress.
const sampledAtOnce = 512

const answersTo = Effect.fnUntraced(function* (
  policy: Policy.PolicyShape,
  prompts: ReadonlyArray<string>,
  { maxNewTokens, seed }: { readonly maxNewTokens: number; readonly seed: number }
) {
  const progress = yield* Progress.start({ label: "answers to rank", total: prompts.length })
  const answers: Array<Completion.Completion> = []
  while (answers.length < prompts.length) {
    const next = prompts.slice(answers.length, answers.length + sampledAtOnce)
    const rowSeeds = next.map((_, i) => NextToken.rowSeed(seed, answers.length + i))
    answers.push(...(yield* policy.sample(next, { maxNewTokens, rowSeeds })))
    yield* progress.update(answers.length)
  }
  return answers
}, Effect.scoped)

/**
 * Material of the help desk, from a seed. Demonstrations, rankings, prompts and tests are of different tickets.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ofDesk = (
  { tokenizer }: Pretrained.Pretrained,
  sizes: Sizes,
  maxNewTokens: number,
  seed: number
): Material => {
  const tickets = (split: "train" | "test", offset: number, n: number) =>
    Ticket.generate({ seed: seed * 100 + offset, split, n })
  const test = tickets("test", 1, sizes.test)
  const rows = (offset: number, n: number, kind?: Corpus.Kind) =>
    kind === undefined
      ? Array.from(Corpus.rows({ seed: seed * 100 + offset, n }))
      : Array.from(
          { length: n },
          (
            (dice) => () =>
              Corpus.row(dice, kind, "test")
          )(Dice.make(seed * 100 + offset))
        )
  const documents = (of: ReadonlyArray<Corpus.Row>) => of.map((row) => Pretrain.document(tokenizer, row))
  return {
    demonstrations: Feedback.demonstrations(tickets("train", 2, sizes.demonstrations), Dice.make(seed * 100 + 3)),
    rankings: Effect.fnUntraced(function* (policy) {
      const ranked = tickets("train", 4, sizes.rankings)
      const asked = ranked.flatMap((ticket) => Array.from({ length: sizes.completions }, () => Format.summary(ticket)))
      const answers = yield* answersTo(policy, asked, { maxNewTokens, seed: seed * 100 + 5 })
      const items = ranked.map((ticket, i) => {
        const own = answers.slice(i * sizes.completions, (i + 1) * sizes.completions).map(({ text }) => text)
        return { ticket, completions: [...new Set(own)] }
      })
      const comparable = items.filter(({ completions }) => completions.length > 1)
      return Feedback.rankings(comparable, noise, Dice.make(seed * 100 + 6))
    }),
    prompts: tickets("train", 7, sizes.prompts).map(Format.summary),
    pretraining: documents(rows(8, pretrainingRows)),
    test: {
      prompts: test.map(Format.summary),
      gold: (i, text) => Labeller.score(test[i]!, Format.answer(text)),
      documents: {
        "pretraining mixture": documents(rows(9, sizes.test)),
        puzzles: documents(rows(10, sizes.test, "puzzle"))
      }
    },
    datasets: []
  }
}

/**
 * Whether a prompt can be answered: it has tokens, and no more than `room`, which is what answers leave of the context.
 *
 * @category guards
 * @since 0.1.0
 */
export const canAnswer = ({ tokens }: Prompt.Prompt, room: number): boolean =>
  tokens.length > 0 && tokens.length <= room

/**
 * The prompts that can be answered. Says how many are left out; fails where none is left. `what` they are called.
 *
 * @category constructors
 * @since 0.1.0
 */
export const answerable = Effect.fnUntraced(function* (
  what: string,
  prompts: ReadonlyArray<Prompt.Prompt>,
  room: number
) {
  const kept = prompts.filter((prompt) => canAnswer(prompt, room))
  const rule = `a prompt must not be empty, nor longer than the ${room} tokens that --max-new-tokens leaves of the context`
  const left = prompts.length - kept.length
  if (kept.length === 0) {
    const message = `${what}: none of ${prompts.length} can be answered; ${rule}`
    return yield* new CommonFlags.ExampleError({ message })
  }
  if (left > 0) yield* Effect.logWarning(`${what}: ${left} of ${prompts.length} are left out; ${rule}`)
  return kept
})

const PromptLine = Schema.Struct({ prompt: Prompt.FileContent })

// Documents that are held out of the pretraining text, to see what the model loses of it.
const heldOutDocuments = 0.1

/**
 * Material from the files that flags name; `rankings` must be among them.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ofFiles = Effect.fn("RlhfMaterial.ofFiles")(function* (
  { decoder: { contextLength }, tokenizer }: Pretrained.Pretrained,
  chosen: { readonly [K in keyof typeof flags]: Option.Option<string> },
  most: Sizes
) {
  const empty = (path: string, what: string) => new CommonFlags.ExampleError({ message: `${path}: ${what}` })
  const lines = <A>(file: Option.Option<string>, schema: Schema.Codec<A, unknown>, count: number) =>
    Option.match(file, {
      onNone: () => Effect.succeed([] as ReadonlyArray<A>),
      onSome: Effect.fnUntraced(function* (path) {
        const all = yield* JsonLines.read(path, schema)
        return all.length > 0 ? all.slice(0, count) : yield* empty(path, "is empty; write one JSON object a line")
      })
    })
  const rankings = yield* lines(chosen.rankings, Ranking.Ranking, most.rankings)
  const demonstrations = yield* lines(chosen.demonstrations, Demonstration.Demonstration, most.demonstrations)
  const prompts = yield* lines(chosen.prompts, PromptLine, most.prompts)
  const texts = yield* Option.match(chosen.pretraining, {
    onNone: () => Effect.succeed([]),
    onSome: (path) => Effect.map(CommonFlags.readText(path), Demonstration.fromText)
  })
  const windows = Sft.windows(
    Sft.join(
      tokenizer,
      texts.map(({ completion }) => completion)
    ),
    Math.min(contextLength, 256)
  )
  if (Option.isSome(chosen.pretraining) && windows.length < 2) {
    return yield* empty(chosen.pretraining.value, "is too short: some of its text is held out to measure on")
  }
  const heldOut = Math.ceil(windows.length * heldOutDocuments)
  const sizes = {
    rankings: rankings.length,
    demonstrations: demonstrations.length,
    prompts: prompts.length,
    pretraining: texts.length
  }
  const datasets = yield* Effect.forEach(
    Object.entries(sizes).flatMap(([name, count]) =>
      Option.match(chosen[name as keyof typeof flags], { onNone: () => [], onSome: (path) => [{ path, count }] })
    ),
    ({ count, path }) => Provenance.dataset(path, count)
  )
  return {
    demonstrations,
    rankings: () => Effect.succeed(rankings),
    ...(prompts.length === 0 ? {} : { prompts: prompts.map(({ prompt }) => prompt) }),
    pretraining: windows.slice(heldOut),
    test: { documents: windows.length === 0 ? {} : { "pretraining text": windows.slice(0, heldOut) } },
    datasets
  } satisfies Material
})
