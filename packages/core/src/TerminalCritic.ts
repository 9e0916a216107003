/**
 * The person at the terminal as a critic, who may stop at any draft and go on later.
 *
 * Every critique is on the disk before the next draft is shown: what the file has is not asked again.
 *
 * @since 0.1.0
 */
import * as fs from "node:fs/promises"
import { Effect, Option, Schema, Terminal } from "effect"
import * as AtomicFile from "./AtomicFile.ts"
import type { Critique } from "./Critique.ts"
import * as Journal from "./Journal.ts"
import * as Prompt from "./Prompt.ts"
import * as VisibleText from "./VisibleText.ts"

/**
 * Reports that the person could not be asked, or that what was typed could not be kept.
 *
 * @category errors
 * @since 0.1.0
 */
export class TerminalCriticError extends Schema.TaggedError<TerminalCriticError>()("TerminalCriticError", {
  reason: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `the person at the terminal ${this.reason}`
  }
}

/**
 * An answer to criticise, possibly an empty one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Draft {
  readonly prompt: Prompt.Content
  readonly completion: string
}

/**
 * `file`: where critiques are kept, in a directory that exists; without it they are lost when the program ends.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly file?: string | undefined
}

/**
 * What the person said of the drafts.
 *
 * **Details**
 *
 * `critiques`: in the order of the drafts. `skipped`: places in the list of drafts, with the reason that was typed. `left`:
 * how many drafts have neither, since the person left; 0 when all is done. A draft that stands twice counts twice.
 *
 * @category models
 * @since 0.1.0
 */
export interface Session {
  readonly critiques: ReadonlyArray<Critique>
  readonly skipped: ReadonlyArray<{ readonly index: number; readonly reason: string }>
  readonly left: number
}

/**
 * Schema for a line of the file: a critique, or the reason why a draft has none, its critique then being empty.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Line = Schema.Struct({
  prompt: Prompt.Content,
  completion: Schema.String,
  critique: Schema.String,
  refinement: Schema.optionalKey(Schema.NonEmptyString),
  skipped: Schema.optionalKey(Schema.NonEmptyString)
})

/**
 * @see {@link Line}
 * @category models
 * @since 0.1.0
 */
export type Line = typeof Line.Type

/**
 * An answer as a person is shown it: harmless by `VisibleText.show`, and told of where it is empty, since an empty line looks
 * like a fault of the program.
 *
 * @category transforming
 * @since 0.1.0
 */
export const showAnswer = (text: string): string => (text.trim() === "" ? "(an empty answer)" : VisibleText.show(text))

const keyOf = ({ completion, prompt }: Draft): string => JSON.stringify([Prompt.key(prompt), completion])

/** Whether a draft needs not be asked about: a critique that is empty without a reason says nothing. */
const isDone = ({ critique, skipped }: Line): boolean => critique.trim() !== "" || skipped !== undefined

type Reply =
  | { readonly _tag: "critique"; readonly text: string }
  | { readonly _tag: "skip"; readonly reason: string }
  | { readonly _tag: "undo" }
  | { readonly _tag: "quit" }

/** The reply, or what to tell the person instead. */
const read = (typed: string): Reply | string => {
  const text = typed.trim()
  if (text === "") return ""
  if (!text.startsWith("/")) return { _tag: "critique", text }
  const [command = "", ...words] = text.split(/\s+/)
  if (command === "/skip") {
    const reason = words.join(" ")
    return reason === "" ? "Say why, for instance: /skip the draft is cut off" : { _tag: "skip", reason }
  }
  if (text === "/undo") return { _tag: "undo" }
  if (text === "/quit") return { _tag: "quit" }
  return `There is no ${VisibleText.line(command)}; a critique cannot begin with a slash.`
}

const question = "What should be better? Reply in one line, or: /skip and why, /undo (the last one), /quit"

const journalError = ({ cause, message }: Journal.JournalError) =>
  new TerminalCriticError({ reason: `cannot go on: ${message}`, cause })

// Removes all lines of a draft; the others stay as they are.
const withdraw = (file: string, key: string): Effect.Effect<void, TerminalCriticError> => {
  const failed = (cause: unknown) =>
    new TerminalCriticError({ reason: `cannot take back a critique in ${file}: ${AtomicFile.explain(cause)}`, cause })
  const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Line))
  const isOther = (line: string) =>
    Option.match(decode(line), { onNone: () => true, onSome: (found) => keyOf(found) !== key })
  return Effect.tryPromise({ try: () => fs.readFile(file), catch: failed }).pipe(
    Effect.flatMap((bytes) => {
      const lines = new TextDecoder().decode(bytes).split("\n")
      const kept = Buffer.from(lines.filter(isOther).join("\n"))
      return Effect.mapError(AtomicFile.write(file, [kept]), ({ cause }) => failed(cause))
    }),
    Effect.uninterruptible
  )
}

/**
 * Shows the drafts one after the other to the person at the terminal and reads a critique of each, in one line.
 *
 * **Details**
 *
 * Instead of a critique the person may reply `/skip` with a reason; `/undo`, which takes back what was said last, also
 * before the program was started again, and asks about that draft once more, as often as there is something to take back;
 * or `/quit`, as which the end of the input (Ctrl-D) counts too: then `left` says how many drafts are open. Where Ctrl-C
 * kills the program, nothing is lost either.
 *
 * The file holds a line for each draft, in the order in which they were asked about: core's form of a critique or, for a
 * draft that was skipped, the same with an empty critique and `skipped`, the reason. So `Critique.read` reads it, with
 * `{ empty: "skip" }` where drafts were skipped, and any such file may be gone on with. A draft is known by prompt and
 * completion: the same one is asked about once, in whatever list it stands. Each line is flushed to the disk (`fsync`)
 * before the next question; one that a crash cut off is asked again. Characters of prompts and drafts that are invisible or
 * move the cursor are spelled out.
 *
 * Fails, before anything is asked, where the file cannot be used or holds anything else.
 *
 * **Gotchas**
 *
 * A line is a critique: of a text of several lines that is pasted, each answers a question of its own.
 *
 * **Example** (Criticising drafts in several sittings)
 *
 * ```ts
 * import { TerminalCritic } from "@attune/core"
 * import { Effect } from "effect"
 *
 * const drafts = [{ prompt: "Say hello.", completion: "Go away." }]
 * const program = Effect.gen(function* () {
 *   const { critiques, left } = yield* TerminalCritic.collect(drafts, { file: "critiques.jsonl" })
 *   return left > 0 ? `${left} drafts are left for another day` : critiques
 * })
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const collect: (
  drafts: ReadonlyArray<Draft>,
  options?: Options
) => Effect.Effect<Session, TerminalCriticError, Terminal.Terminal> = Effect.fn("TerminalCritic.collect")(function* (
  drafts,
  { file } = {}
) {
  const terminal = yield* Terminal.Terminal
  const keys = drafts.map(keyOf)
  const asked = new Set(keys)
  // What is done, in the order in which it was: the last is what is taken back first.
  const done = new Map<string, Line>()
  const remember = (line: Line) => {
    const key = keyOf(line)
    done.delete(key)
    if (asked.has(key) && isDone(line)) done.set(key, line)
  }
  const display = (text: string) =>
    Effect.mapError(
      terminal.display(text),
      (cause) => new TerminalCriticError({ reason: `cannot be asked: ${cause.message}`, cause })
    )

  const ask = Effect.fnUntraced(function* (index: number) {
    const { completion, prompt } = drafts[index]!
    const place = drafts.length > 1 ? `Draft ${index + 1} of ${drafts.length}\n\n` : ""
    yield* display(`${place}${VisibleText.show(Prompt.transcript(prompt))}\n\n[Draft]\n${showAnswer(completion)}\n\n`)
    while (true) {
      yield* display(`${question}\n> `)
      const typed = yield* Effect.catch(terminal.readLine, () => Effect.succeed("/quit"))
      const reply = read(typed)
      if (reply === "") continue
      if (typeof reply === "string") yield* display(`${reply}\n`)
      else if (reply._tag === "undo" && done.size === 0) yield* display("There is nothing to take back.\n")
      else return reply
    }
  })

  const journal = yield* Effect.mapError(Journal.open({ path: file, schema: Line, keyOf, resume: true }), journalError)
  journal.records.forEach(remember)
  let takenBack: string | undefined
  while (true) {
    const next = keys.findIndex((key) => (takenBack === undefined ? !done.has(key) : key === takenBack))
    if (next === -1) break
    const reply = yield* ask(next)
    if (reply._tag === "quit") break
    if (reply._tag === "undo") {
      takenBack = [...done.keys()].at(-1)!
      if (file !== undefined) yield* withdraw(file, takenBack)
      done.delete(takenBack)
      continue
    }
    const { completion, prompt } = drafts[next]!
    const line: Line =
      reply._tag === "skip"
        ? { prompt, completion, critique: "", skipped: reply.reason }
        : { prompt, completion, critique: reply.text }
    yield* Effect.mapError(journal.append([line]), journalError)
    remember(line)
    takenBack = undefined
  }

  const lines = keys.map((key) => done.get(key))
  return {
    critiques: lines.flatMap((line) => {
      if (line === undefined || line.skipped !== undefined) return []
      const { skipped: _, ...critique } = line
      return [critique]
    }),
    skipped: lines.flatMap((line, index) => (line?.skipped === undefined ? [] : [{ index, reason: line.skipped }])),
    left: lines.filter((line) => line === undefined).length
  }
})
