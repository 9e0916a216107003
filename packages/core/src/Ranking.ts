/**
 * A comparison of answers to one prompt. Smaller ranks are better; equal ranks are ties.
 *
 * @since 0.1.0
 */
import { Effect, Schema, type SchemaIssue } from "effect"
import * as Form from "./Form.ts"
import * as Prompt from "./Prompt.ts"

const Normal = Schema.Struct({
  prompt: Prompt.Content,
  completions: Schema.Array(Schema.String),
  ranks: Schema.Array(Schema.Int)
}).check(
  Schema.makeFilter(({ completions, ranks }) => {
    if (completions.length < 2) {
      return { path: ["completions"], issue: `Expected at least 2 completions to compare, got ${completions.length}` }
    }
    if (completions.length !== ranks.length) {
      return {
        path: ["ranks"],
        issue: `Expected one rank per completion: ${completions.length}, got ${ranks.length}`
      }
    }
    const second = completions.findIndex((text, i) => ranks[completions.indexOf(text)] !== ranks[i])
    if (second < 0) return true
    const first = completions.indexOf(completions[second]!)
    const issue =
      `Expected equal ranks for the same text: completions ${first} and ${second} are alike and are ranked ` +
      `${ranks[first]} and ${ranks[second]}; leave one of them out`
    return { path: ["ranks"], issue }
  })
)

type Encoded = typeof Normal.Encoded

const ownForm = "{ prompt, completions, ranks }"

const assistantCue = "\n\nAssistant:"

/** How much of two whole dialogues is their prompt: up to the last cue they share, else whole shared words. */
const sharedPrompt = (chosen: string, rejected: string): number => {
  let shared = 0
  while (shared < chosen.length && shared < rejected.length && chosen[shared] === rejected[shared]) shared++
  const start = chosen.slice(0, shared)
  const cue = start.lastIndexOf(assistantCue)
  return cue >= 0 ? cue + assistantCue.length : Math.max(0, start.search(/\s\S*$/))
}

const fromPair = (
  prompt: Prompt.Content | undefined,
  chosen: Prompt.Content,
  rejected: Prompt.Content
): Effect.Effect<Encoded, SchemaIssue.Issue> => {
  if (typeof chosen === "string" && typeof rejected === "string") {
    const split = prompt === undefined ? sharedPrompt(chosen, rejected) : 0
    return pair(prompt ?? chosen.slice(0, split), chosen.slice(split), rejected.slice(split))
  }
  if (typeof chosen === "string" || typeof rejected === "string") {
    return Form.refuse("rejected", "Expected chosen and rejected to be both text or both messages")
  }
  let split = 0
  const most = Math.min(chosen.length, rejected.length) - 1
  while (split < most && same(chosen[split], rejected[split])) split++
  // with whole dialogues the prompt is their shared part, since a prompt beside them only repeats it
  const shared = split > 0 ? chosen.slice(0, split) : (prompt ?? [])
  return pair(shared, chosen.slice(split), rejected.slice(split))
}

const pair = (
  prompt: Prompt.Content,
  chosen: Prompt.Content,
  rejected: Prompt.Content
): Effect.Effect<Encoded, SchemaIssue.Issue> =>
  Effect.flatMap(
    Effect.all([
      Prompt.nonEmptyAnswer(chosen, "chosen", ownForm),
      Prompt.nonEmptyAnswer(rejected, "rejected", ownForm)
    ]),
    (completions): Effect.Effect<Encoded, SchemaIssue.Issue> =>
      completions[0] === completions[1]
        ? Form.refuse("rejected", `is the same as chosen: leave the record out, or write a tie as ${ownForm}`)
        : Effect.succeed({ prompt, completions, ranks: [1, 2] })
  )

const same = (a: Prompt.Message | undefined, b: Prompt.Message | undefined): boolean =>
  a?.role === b?.role && a?.content === b?.content

/**
 * Schema for a ranking of two or more answers.
 *
 * **Details**
 *
 * Decodes `{ prompt, completions, ranks }`, and pairs as `{ prompt, chosen, rejected }` or `{ chosen, rejected }`,
 * texts or messages. Without a prompt, `chosen` and `rejected` are whole dialogues that start alike: messages are split
 * after the last one they share, texts after the last shared `\n\nAssistant:` (as in HH-RLHF), other texts after their
 * last shared word. Encodes `{ prompt, completions, ranks }`.
 *
 * **Gotchas**
 *
 * Only the order of ranks counts. A completion may be empty, since a policy may end its answer at once, and occur more
 * than once, since a policy may repeat itself; the same text must have the same rank, so that its copies tie. Where all
 * ranks are equal there is nothing to learn: {@link pairs} is empty.
 *
 * In pairs of `chosen` and `rejected` an empty answer fails, as it mostly is one that got lost (a blank does not: in
 * HH-RLHF answers start with one), and so do two answers that are the same.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Ranking = Form.schema(Normal, [
  Form.make(
    Schema.Struct({
      prompt: Prompt.FileContent,
      completions: Schema.Array(Prompt.FileContent),
      ranks: Schema.Array(Schema.Int)
    }),
    ["prompt", "completions", "ranks"],
    ({ completions, prompt, ranks }) =>
      Effect.map(
        Effect.forEach(completions, (completion) => Prompt.answer(completion, "completions")),
        (completions): Encoded => ({ prompt, completions, ranks })
      )
  ),
  Form.make(
    Schema.Struct({ prompt: Prompt.FileContent, chosen: Prompt.FileContent, rejected: Prompt.FileContent }),
    ["prompt", "chosen", "rejected"],
    ({ chosen, prompt, rejected }) => fromPair(prompt, chosen, rejected)
  ),
  Form.make(
    Schema.Struct({ chosen: Prompt.FileContent, rejected: Prompt.FileContent }),
    ["chosen", "rejected"],
    ({ chosen, rejected }) => fromPair(undefined, chosen, rejected)
  )
])

/**
 * A comparison of answers to one prompt.
 *
 * @category models
 * @since 0.1.0
 */
export type Ranking = typeof Ranking.Type

/**
 * The comparisons that a ranking holds: indices of the better and the worse completion, ties left out.
 *
 * **Details**
 *
 * At most `K * (K - 1) / 2` pairs for `K` completions.
 *
 * **Example** (Three answers, two of them equally good)
 *
 * ```ts
 * import { Ranking } from "@attune/core"
 *
 * Ranking.pairs([1, 2, 2]) // => [[0, 1], [0, 2]]
 * ```
 *
 * @category transforming
 * @since 0.1.0
 */
export const pairs = (ranks: ReadonlyArray<number>): ReadonlyArray<readonly [better: number, worse: number]> =>
  ranks.flatMap((rank, i) =>
    ranks.slice(i + 1).flatMap((other, offset) => {
      const j = i + 1 + offset
      return rank === other ? [] : [rank < other ? ([i, j] as const) : ([j, i] as const)]
    })
  )
