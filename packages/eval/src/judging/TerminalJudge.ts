/**
 * The person at the terminal as a judge: sees two answers without knowing which is which, or answers yes-or-no
 * questions.
 *
 * Every judgement can be kept in a JSON Lines file as soon as it is given, so that leaving costs nothing: what the file
 * has is not asked again.
 *
 * @since 0.1.0
 */
import { Journal, NextToken, VisibleText } from "@attune/core"
import { Effect, Layer, Schema, Terminal } from "effect"
import * as Judge from "./Judge.ts"

/**
 * A line of the file of a judge.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Comparison = Schema.Struct({
  id: Schema.String,
  prompt: Schema.String,
  first: Schema.String,
  second: Schema.String,
  /** Which of the two was shown above the other. */
  above: Schema.Literals(["first", "second"]),
  preference: Schema.Literals(["first", "second", "tie"])
})

/**
 * @see {@link Comparison}
 * @category models
 * @since 0.1.0
 */
export type Comparison = typeof Comparison.Type

/**
 * A line of the file of a grader.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Question = Schema.Struct({
  id: Schema.String,
  prompt: Schema.String,
  completion: Schema.String,
  question: Schema.String,
  yes: Schema.Boolean
})

/**
 * @see {@link Question}
 * @category models
 * @since 0.1.0
 */
export type Question = typeof Question.Type

/**
 * Settings of the person at the terminal as a judge.
 *
 * **Details**
 *
 * `seed`: a 32-bit integer that decides for each comparison which answer stands above the other. `file`: where
 * judgements are kept, only ever added to; without it they are lost when the program ends.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly seed: number
  readonly file?: string
}

const name = "the person at the terminal"

const failed = (reason: string, cause: unknown, item?: string) =>
  new Judge.JudgeError({ judge: name, reason, cause, ...(item === undefined ? {} : { item }) })

// Asks what is not in the file and adds the answer. `read`: undefined where a reply is of no use.
const asker = Effect.fnUntraced(function* <Item extends { readonly id: string }, A extends Item>(
  file: string | undefined,
  schema: Schema.Codec<A, object>,
  keyOf: (item: Item) => string
) {
  const terminal = yield* Terminal.Terminal
  const lasting = Effect.mapError((cause: Journal.JournalError) => failed(cause.message, cause))
  const saved = yield* lasting(Journal.open({ path: file, schema, keyOf, resume: true }))
  const kept = file === undefined ? "" : `; what was answered is in ${file} and is not asked again`
  return Effect.fnUntraced(function* (
    item: Item,
    [text, question]: readonly [text: string, question: string],
    read: (reply: string) => A | undefined
  ) {
    const known = saved.get(keyOf(item))
    if (known !== undefined) return known
    const show = (shown: string) =>
      Effect.mapError(terminal.display(shown), (cause) => failed(`cannot be asked: ${cause.message}`, cause, item.id))
    yield* show(`${text}\n\n`)
    while (true) {
      yield* show(`${question}\n> `)
      const reply = yield* Effect.mapError(terminal.readLine, (cause) =>
        failed(`left before answering${kept}`, cause, item.id)
      )
      const answer = read(reply.trim())
      if (answer === undefined) continue
      yield* lasting(saved.append([answer]))
      return answer
    }
  })
})

const hash = (text: string): number => {
  let h = 0x811c9dc5 // FNV-1a
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return h | 0
}

const comparisonKey = ({ first, id, prompt, second }: Judge.Comparison): string =>
  JSON.stringify([id, prompt, first, second])

const questionKey = ({ completion, id, prompt, question }: Judge.Question): string =>
  JSON.stringify([id, prompt, completion, question])

/**
 * Makes a judge of the person at the terminal, who answers 1, 2 or t for a tie and is asked again until the reply can
 * be used.
 *
 * **Details**
 *
 * Which answer stands above depends on the seed and on the comparison alone, not on what was asked before. Ids and
 * names of systems are not shown; characters that are invisible or move the cursor are spelled out. Each judgement is
 * on the disk (`fsync`) before the next question is asked. The same comparison, texts included, is asked once; with its
 * answers exchanged it is another one, and shown the other way round. A line that a crash cut off is dropped and asked
 * again.
 *
 * Fails where the file cannot be used or holds anything else, and, naming the comparison, when the person leaves (Ctrl-C
 * or end of input).
 *
 * **Gotchas**
 *
 * `firstPosition` of `WinRate.compare` says nothing of this judge, who does not see a comparison's first answer first.
 * The file says which stood `above`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const judge: (options: Options) => Effect.Effect<Judge.JudgeShape, Judge.JudgeError, Terminal.Terminal> =
  Effect.fn("TerminalJudge.judge")(function* ({ file, seed }) {
    const ask = yield* asker(file, Comparison, comparisonKey)
    const compare = Effect.fn("TerminalJudge.compare")((comparisons: ReadonlyArray<Judge.Comparison>) =>
      Effect.forEach(comparisons, (comparison, i) => {
        const { first, id, prompt, second } = comparison
        // With its answers exchanged the same is drawn, so that what stood above now stands below.
        const place = JSON.stringify([id, prompt, ...[first, second].sort()])
        const uniform = NextToken.uniforms(NextToken.rowSeed(seed, hash(place)))()
        const [above, below] = uniform < 0.5 ? (["first", "second"] as const) : (["second", "first"] as const)
        const text =
          `Comparison ${i + 1} of ${comparisons.length}\n\n${VisibleText.show(prompt)}\n\n` +
          `[1]\n${VisibleText.show(comparison[above])}\n\n[2]\n${VisibleText.show(comparison[below])}`
        const answer = ask(comparison, [text, "Which answer is better? Reply 1, 2, or t for a tie."], (reply) => {
          const preference = reply === "1" ? above : reply === "2" ? below : /^t(ie)?$/i.test(reply) ? "tie" : undefined
          return preference && { id, prompt, first, second, above, preference }
        })
        return Effect.map(answer, ({ preference }) => preference)
      })
    )
    return { name, compare }
  })

/**
 * Makes a grader of the person at the terminal, who answers y or n and is asked again until the reply can be used.
 *
 * @see {@link judge} for what is kept and what fails; a grader needs a file of its own
 * @category constructors
 * @since 0.1.0
 */
export const grader: (
  options: Pick<Options, "file">
) => Effect.Effect<Judge.GraderShape, Judge.JudgeError, Terminal.Terminal> = Effect.fn("TerminalJudge.grader")(
  function* ({ file }) {
    const ask = yield* asker(file, Question, questionKey)
    const grade = Effect.fn("TerminalJudge.grade")((questions: ReadonlyArray<Judge.Question>) =>
      Effect.forEach(questions, (item, i) => {
        const { completion, id, prompt, question } = item
        const text =
          `Question ${i + 1} of ${questions.length}\n\n${VisibleText.show(prompt)}\n\n` +
          `[Answer]\n${VisibleText.show(completion)}`
        const answer = ask(item, [text, `${VisibleText.show(question)} Reply y or n.`], (reply) => {
          const yes = /^y(es)?$/i.test(reply) ? true : /^no?$/i.test(reply) ? false : undefined
          return yes === undefined ? undefined : { id, prompt, completion, question, yes }
        })
        return Effect.map(answer, ({ yes }) => (yes ? 1 : 0))
      })
    )
    return { name, grade }
  }
)

/**
 * Layer with the person at the terminal as a judge.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerJudge = (options: Options): Layer.Layer<Judge.Judge, Judge.JudgeError, Terminal.Terminal> =>
  Layer.effect(Judge.Judge, judge(options))

/**
 * Layer with the person at the terminal as a grader.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerGrader = (
  options: Pick<Options, "file">
): Layer.Layer<Judge.Grader, Judge.JudgeError, Terminal.Terminal> => Layer.effect(Judge.Grader, grader(options))
