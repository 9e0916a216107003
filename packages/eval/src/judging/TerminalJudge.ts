/**
 * The person at the terminal as a judge: sees two answers without knowing which is which, or answers yes-or-no
 * questions.
 *
 * Every judgement can be kept in a JSON Lines file as soon as it is given, so that leaving costs nothing: what the file
 * has is not asked again.
 *
 * @since 0.1.0
 */
import { JsonLines, NextToken } from "@attune/core"
import { Effect, FileSystem, Layer, Result, Schema, Terminal } from "effect"
import * as VisibleText from "../VisibleText.ts"
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
 * judgements are kept; without it they are lost when the program ends.
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

/** Whether a line begins as all records do, and breaks off. */
const isCut = (line: string): boolean =>
  (line.startsWith(opening) || opening.startsWith(line)) && Result.isFailure(decodeJson(line))

const opening = '{"id":'
const decodeJson = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Unknown))

// Records of a file by what was asked, and a way to add one that lasts.
const journal = Effect.fnUntraced(function* <A>(
  file: string | undefined,
  schema: Schema.Codec<A, unknown>,
  keyOf: (record: A) => string
) {
  const records = new Map<string, A>()
  if (file === undefined) {
    return {
      get: (key: string) => records.get(key),
      add: (record: A) => Effect.sync(() => void records.set(keyOf(record), record))
    }
  }
  const fs = yield* FileSystem.FileSystem
  const append = (text: string) =>
    Effect.scoped(
      Effect.gen(function* () {
        const handle = yield* fs.open(file, { flag: "a" })
        const { size } = yield* handle.stat
        // A full disk must not leave half a line before the next one.
        yield* handle
          .writeAll(new TextEncoder().encode(text))
          .pipe(Effect.tapError(() => Effect.ignore(handle.truncate(Number(size)))))
        yield* handle.sync
      })
    ).pipe(
      Effect.uninterruptible,
      Effect.mapError((cause) => failed(`cannot write ${file}: ${cause.message}`, cause))
    )
  yield* append("") // it must be writable before the first question is asked, not after
  const bytes = yield* fs
    .readFile(file)
    .pipe(Effect.mapError((cause) => failed(`cannot read ${file}: ${cause.message}`, cause)))
  const end = bytes.lastIndexOf(10) + 1
  if (end < bytes.length) {
    // A last line without its end is one that a crash cut off, unless an editor left it so, or this is another's file.
    const text = (from: number, to: number) => new TextDecoder().decode(bytes.subarray(from, to))
    const decode = Schema.decodeUnknownResult(Schema.fromJsonString(schema))
    const isRecord = (line: string) => Result.isSuccess(decode(line))
    const last = text(end, bytes.length)
    if (isRecord(last)) yield* append("\n")
    else if (isCut(last) && text(0, end).split("\n").slice(0, -1).every(isRecord)) {
      yield* fs
        .truncate(file, end)
        .pipe(Effect.mapError((cause) => failed(`cannot write ${file}: ${cause.message}`, cause)))
    }
  }
  const saved = yield* JsonLines.read(file, schema).pipe(Effect.mapError((cause) => failed(cause.message, cause)))
  for (const record of saved) records.set(keyOf(record), record)
  const encode = Schema.encodeSync(Schema.fromJsonString(schema))
  return {
    get: (key: string) => records.get(key),
    add: (record: A) =>
      Effect.map(append(`${encode(record)}\n`), () => {
        records.set(keyOf(record), record)
      })
  }
})

const ask = Effect.fnUntraced(function* <A>(
  terminal: Terminal.Terminal,
  { file, id }: { readonly file: string | undefined; readonly id: string },
  [text, question]: readonly [text: string, question: string],
  read: (reply: string) => A | undefined
) {
  const left =
    file === undefined
      ? "left before answering"
      : `left before answering; what was answered is in ${file} and is not asked again`
  const show = (shown: string) =>
    Effect.mapError(terminal.display(shown), (cause) => failed(`cannot be asked: ${cause.message}`, cause, id))
  yield* show(`${text}\n\n`)
  while (true) {
    yield* show(`${question}\n> `)
    const reply = yield* Effect.mapError(terminal.readLine, (cause) => failed(left, cause, id))
    const answer = read(reply.trim())
    if (answer !== undefined) return answer
  }
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
export const judge: (
  options: Options
) => Effect.Effect<Judge.JudgeShape, Judge.JudgeError, Terminal.Terminal | FileSystem.FileSystem> = Effect.fn(
  "TerminalJudge.judge"
)(function* ({ file, seed }) {
  const terminal = yield* Terminal.Terminal
  const saved = yield* journal(file, Comparison, comparisonKey)
  const compare = Effect.fn("TerminalJudge.compare")(function* (comparisons: ReadonlyArray<Judge.Comparison>) {
    const preferences: Array<Judge.Preference> = []
    for (const [i, comparison] of comparisons.entries()) {
      const key = comparisonKey(comparison)
      const known = saved.get(key)
      if (known !== undefined) {
        preferences.push(known.preference)
        continue
      }
      const { first, id, prompt, second } = comparison
      // With its answers exchanged the same is drawn, so that what stood above now stands below.
      const place = JSON.stringify([id, prompt, ...[first, second].sort()])
      const uniform = NextToken.uniforms(NextToken.rowSeed(seed, hash(place)))()
      const [above, below] = uniform < 0.5 ? (["first", "second"] as const) : (["second", "first"] as const)
      const preference = yield* ask(
        terminal,
        { file, id },
        [
          `Comparison ${i + 1} of ${comparisons.length}\n\n${VisibleText.show(prompt)}\n\n` +
            `[1]\n${VisibleText.show(comparison[above])}\n\n[2]\n${VisibleText.show(comparison[below])}`,
          "Which answer is better? Reply 1, 2, or t for a tie."
        ],
        (reply) => (reply === "1" ? above : reply === "2" ? below : /^t(ie)?$/i.test(reply) ? "tie" : undefined)
      )
      yield* saved.add({ id, prompt, first, second, above, preference })
      preferences.push(preference)
    }
    return preferences
  })
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
) => Effect.Effect<Judge.GraderShape, Judge.JudgeError, Terminal.Terminal | FileSystem.FileSystem> = Effect.fn(
  "TerminalJudge.grader"
)(function* ({ file }) {
  const terminal = yield* Terminal.Terminal
  const saved = yield* journal(file, Question, questionKey)
  const grade = Effect.fn("TerminalJudge.grade")(function* (questions: ReadonlyArray<Judge.Question>) {
    const probabilities: Array<number> = []
    for (const [i, item] of questions.entries()) {
      const { completion, id, prompt, question } = item
      let yes = saved.get(questionKey(item))?.yes
      if (yes === undefined) {
        yes = yield* ask(
          terminal,
          { file, id },
          [
            `Question ${i + 1} of ${questions.length}\n\n${VisibleText.show(prompt)}\n\n` +
              `[Answer]\n${VisibleText.show(completion)}`,
            `${VisibleText.show(question)} Reply y or n.`
          ],
          (reply) => (/^y(es)?$/i.test(reply) ? true : /^no?$/i.test(reply) ? false : undefined)
        )
        yield* saved.add({ id, prompt, completion, question, yes })
      }
      probabilities.push(yes ? 1 : 0)
    }
    return probabilities
  })
  return { name, grade }
})

/**
 * Layer with the person at the terminal as a judge.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerJudge = (
  options: Options
): Layer.Layer<Judge.Judge, Judge.JudgeError, Terminal.Terminal | FileSystem.FileSystem> =>
  Layer.effect(Judge.Judge, judge(options))

/**
 * Layer with the person at the terminal as a grader.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerGrader = (
  options: Pick<Options, "file">
): Layer.Layer<Judge.Grader, Judge.JudgeError, Terminal.Terminal | FileSystem.FileSystem> =>
  Layer.effect(Judge.Grader, grader(options))
