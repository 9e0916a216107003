/**
 * Whoever gives feedback: recorded lines, a scripted labeller, a person at a terminal.
 *
 * @since 0.1.0
 */
import { Context, Effect, type FileSystem, Layer, Schema, Terminal } from "effect"
import * as Critique from "./Critique.ts"
import { Demonstration } from "./Demonstration.ts"
import { Instruction } from "./Instruction.ts"
import * as JsonLines from "./JsonLines.ts"
import * as Prompt from "./Prompt.ts"
import { Ranking } from "./Ranking.ts"
import * as TerminalCritic from "./TerminalCritic.ts"
import * as UserFunction from "./UserFunction.ts"
import * as VisibleText from "./VisibleText.ts"

/**
 * Reports feedback that a source does not have or could not give. `nothing`: it looked at the answer and has nothing to say
 * that could be used, so that a method may leave it out and go on.
 *
 * @category errors
 * @since 0.1.0
 */
export class FeedbackSourceError extends Schema.TaggedError<FeedbackSourceError>()("FeedbackSourceError", {
  source: Schema.String,
  reason: Schema.String,
  nothing: Schema.optionalKey(Schema.Literal(true)),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `feedback from ${this.source}: ${this.reason}`
  }
}

/**
 * Answers to compare. They may be empty and the same more than once: a policy may say nothing, and may repeat itself.
 *
 * @category models
 * @since 0.1.0
 */
export interface Comparison {
  readonly prompt: Prompt.Content
  readonly completions: ReadonlyArray<string>
}

/**
 * An answer to judge, possibly an empty one; `instruction` is what it was told to do, where that is not in the prompt.
 *
 * @category models
 * @since 0.1.0
 */
export interface Attempt {
  readonly prompt: Prompt.Content
  readonly completion: string
  readonly instruction?: string
}

/**
 * Gives feedback of every kind that a method may ask for. Each method fails where the source has no such feedback.
 *
 * @category models
 * @since 0.1.0
 */
export interface FeedbackSourceShape {
  readonly name: string
  /** How many questions it can be asked at a time; one where this is absent. */
  readonly concurrency?: number
  /** Shows how to answer. */
  readonly demonstrate: (prompt: Prompt.Content) => Effect.Effect<Demonstration, FeedbackSourceError>
  /** Orders answers; smaller ranks are better, equal ranks are ties. */
  readonly rank: (comparison: Comparison) => Effect.Effect<Ranking, FeedbackSourceError>
  /** Says in words what is wrong with an answer. */
  readonly critique: (attempt: Attempt) => Effect.Effect<Critique.Critique, FeedbackSourceError>
  /** Says whether an answer does what it was told. */
  readonly verify: (attempt: Attempt) => Effect.Effect<Instruction, FeedbackSourceError>
}

/**
 * Service for whoever gives feedback.
 *
 * @category services
 * @since 0.1.0
 */
export class FeedbackSource extends Context.Service<FeedbackSource, FeedbackSourceShape>()(
  "@attune/core/FeedbackSource"
) {}

/**
 * The functions of a scripted labeller; what it cannot judge is left out. `critique` returns `undefined` for an answer that
 * needs none.
 *
 * @category models
 * @since 0.1.0
 */
export interface Labeller {
  readonly demonstrate?: (prompt: Prompt.Content) => UserFunction.Returned<string>
  readonly rank?: (comparison: Comparison) => UserFunction.Returned<ReadonlyArray<number>>
  readonly critique?: (
    attempt: Attempt
  ) => UserFunction.Returned<string | { readonly critique: string; readonly refinement: string } | undefined>
  readonly verify?: (attempt: Attempt) => UserFunction.Returned<boolean>
}

const nothingToSay = (source: string, why?: string) =>
  new FeedbackSourceError({
    source,
    reason: `has no critique of this answer${why === undefined ? "" : `: ${why}`}`,
    nothing: true
  })

/**
 * Makes a source of plain, asynchronous or effectful functions. What they return is checked like a line of a file.
 *
 * **Details**
 *
 * Answers that are the same text are one answer to rank: the labeller sees it once, and its copies tie. Where all are
 * the same, nobody is asked.
 *
 * **Example** (Preferring short answers)
 *
 * ```ts
 * import { FeedbackSource } from "@attune/core"
 *
 * const brevity = FeedbackSource.fromLabeller("brevity", {
 *   rank: ({ completions }) => completions.map((text) => text.length)
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromLabeller = (name: string, labeller: Labeller): FeedbackSourceShape => {
  const ask = <Q, R, A>(
    kind: string,
    f: ((question: Q) => UserFunction.Returned<R>) | undefined,
    schema: Schema.Codec<A, unknown>,
    record: (question: Q, answer: R) => unknown
  ) => {
    const decode = Schema.decodeUnknownEffect(schema)
    const fail = (cause: unknown) =>
      cause instanceof FeedbackSourceError
        ? cause
        : new FeedbackSourceError({
            source: name,
            reason: cause instanceof Error ? cause.message : String(cause),
            cause
          })
    return (question: Q): Effect.Effect<A, FeedbackSourceError> =>
      f === undefined
        ? Effect.fail(new FeedbackSourceError({ source: name, reason: `has no ${kind}; use another source for them` }))
        : UserFunction.call(() => f(question)).pipe(
            Effect.flatMap((answer) => decode(record(question, answer))),
            Effect.mapError(fail)
          )
  }
  const { critique } = labeller
  const criticise =
    critique === undefined
      ? undefined
      : (attempt: Attempt) =>
          Effect.flatMap(
            UserFunction.call(() => critique(attempt)),
            (answer) => (answer === undefined ? Effect.fail(nothingToSay(name)) : Effect.succeed(answer))
          )
  const rank = ask("rankings", labeller.rank, Ranking, (comparison, ranks) => ({ ...comparison, ranks }))
  return {
    name,
    demonstrate: ask("demonstrations", labeller.demonstrate, Demonstration, (prompt, completion) => ({
      prompt,
      completion
    })),
    rank: (comparison) => {
      const { completions, prompt } = comparison
      const distinct = [...new Set(completions)]
      if (distinct.length === 1 && completions.length > 1) {
        return Effect.succeed({ prompt, completions, ranks: completions.map(() => 1) })
      }
      return Effect.map(rank({ ...comparison, completions: distinct }), ({ ranks }) => ({
        prompt,
        completions,
        ranks: completions.map((text) => ranks[distinct.indexOf(text)]!)
      }))
    },
    critique: ask("critiques", criticise, Critique.Critique, ({ completion, prompt }, answer) => ({
      prompt,
      completion,
      ...(typeof answer === "string" ? { critique: answer } : answer)
    })),
    verify: ask("verdicts", labeller.verify, Instruction, (attempt, satisfied) => ({ ...attempt, satisfied }))
  }
}

/**
 * Files of recorded feedback, each optional, in any form that its Schema decodes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Recording {
  readonly demonstrations?: string
  readonly rankings?: string
  readonly critiques?: string
  readonly instructions?: string
}

/**
 * Makes a source of recorded lines, read once.
 *
 * **Details**
 *
 * A question is answered by the first record with the same prompt and the same completions, in any order; for rankings
 * the record may hold more completions than are asked about. A question that nobody recorded fails, and so does the file
 * at a critique that is empty unless `empty` is `"skip"`, as by `Critique.read`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromJsonLines: (
  recording: Recording,
  options?: Critique.ReadOptions
) => Effect.Effect<FeedbackSourceShape, JsonLines.FeedbackLineError, FileSystem.FileSystem> = Effect.fn(
  "FeedbackSource.fromJsonLines"
)(function* (recording, options) {
  const read = Effect.fnUntraced(function* <A extends { readonly prompt: Prompt.Content }, R>(
    file: string | undefined,
    readFile: (file: string) => Effect.Effect<ReadonlyArray<A>, JsonLines.FeedbackLineError, R>
  ) {
    const records = new Map<string, Array<A>>()
    for (const record of file === undefined ? [] : yield* readFile(file)) {
      const key = Prompt.key(record.prompt)
      const same = records.get(key)
      if (same === undefined) records.set(key, [record])
      else same.push(record)
    }
    return (prompt: Prompt.Content, matches: (record: A) => boolean): Effect.Effect<A, FeedbackSourceError> => {
      const found = records.get(Prompt.key(prompt))?.find(matches)
      if (found !== undefined) return Effect.succeed(found)
      const reason =
        file === undefined
          ? "no file was given for this kind of feedback"
          : `has nothing on these answers to the prompt ${JSON.stringify(prompt).slice(0, 80)}`
      return Effect.fail(new FeedbackSourceError({ source: file ?? "recorded lines", reason }))
    }
  })
  const demonstrations = yield* read(recording.demonstrations, (file) => JsonLines.read(file, Demonstration))
  const rankings = yield* read(recording.rankings, (file) => JsonLines.read(file, Ranking))
  const critiques = yield* read(recording.critiques, (file) =>
    Effect.map(Critique.read(file, options), ({ critiques }) => critiques)
  )
  const instructions = yield* read(recording.instructions, (file) => JsonLines.read(file, Instruction))
  return {
    name: Object.values(recording).join(", "),
    demonstrate: (prompt) => demonstrations(prompt, () => true),
    rank: ({ completions, prompt }) =>
      rankings(prompt, (record) => completions.every((text) => record.completions.includes(text))).pipe(
        Effect.map((record) => ({
          prompt,
          completions,
          ranks: completions.map((text) => record.ranks[record.completions.indexOf(text)]!)
        }))
      ),
    critique: ({ completion, prompt }) => critiques(prompt, (record) => record.completion === completion),
    verify: ({ completion, instruction, prompt }) =>
      instructions(prompt, (record) => record.completion === completion && record.instruction === instruction)
  }
})

/**
 * Makes a source of the person at the terminal, who is asked again until the reply can be used.
 *
 * **Details**
 *
 * One answer at a time, and nothing is kept. A draft may be left without a critique, which fails, with the reason. Characters
 * that are invisible or move the cursor are spelled out.
 *
 * @see `TerminalCritic.collect` for critiques of many drafts, with undo and a file that can be gone on with
 * @category constructors
 * @since 0.1.0
 */
export const fromTerminal: Effect.Effect<FeedbackSourceShape, never, Terminal.Terminal> = Effect.gen(function* () {
  const terminal = yield* Terminal.Terminal
  const source = "the person at the terminal"
  const gaveUp = (cause?: unknown) =>
    new FeedbackSourceError({
      source,
      reason: "gave up before answering",
      ...(cause === undefined ? {} : { cause })
    })
  const ask = <A>(question: string, read: (reply: string) => A | undefined): Effect.Effect<A, FeedbackSourceError> =>
    terminal.display(`${question}\n> `).pipe(
      Effect.andThen(terminal.readLine),
      Effect.mapError(gaveUp),
      Effect.flatMap((reply) => {
        const answer = read(reply.trim())
        return answer === undefined ? ask(question, read) : Effect.succeed(answer)
      })
    )
  const criticise = Effect.fnUntraced(function* (attempt: Attempt) {
    const { critiques, skipped } = yield* TerminalCritic.collect([attempt]).pipe(
      Effect.provideService(Terminal.Terminal, terminal),
      Effect.mapError((cause) => new FeedbackSourceError({ source, reason: cause.reason, cause }))
    )
    if (critiques[0] !== undefined) return critiques[0].critique
    if (skipped[0] === undefined) return yield* gaveUp()
    return yield* nothingToSay(source, skipped[0].reason)
  })
  const show = (prompt: Prompt.Content) => VisibleText.show(Prompt.transcript(prompt))
  const answerOf = TerminalCritic.showAnswer
  const words = (reply: string) => (reply === "" ? undefined : reply)
  return fromLabeller(source, {
    demonstrate: (prompt) => ask(`${show(prompt)}\n\nWrite the answer.`, words),
    rank: ({ completions, prompt }) =>
      ask(
        `${show(prompt)}\n\n${completions.map((text, i) => `[${i + 1}] ${answerOf(text)}`).join("\n")}\n\n` +
          `Rank the ${completions.length} answers in their order: 1 is best, equal numbers are ties, as in ` +
          `"${completions.map((_, i) => i + 1).join(" ")}".`,
        (reply) => {
          const ranks = reply.split(/[\s,]+/).map(Number)
          return ranks.length === completions.length && ranks.every((rank) => Number.isInteger(rank) && rank > 0)
            ? ranks
            : undefined
        }
      ),
    critique: criticise,
    verify: ({ completion, instruction, prompt }) =>
      ask(
        `${instruction === undefined ? "" : `${VisibleText.show(instruction)}\n\n`}${show(prompt)}\n\n${answerOf(completion)}\n\n` +
          "Does the answer do what it was told (y/n)?",
        (reply) => (/^y(es)?$/i.test(reply) ? true : /^no?$/i.test(reply) ? false : undefined)
      )
  })
})

/**
 * Layer with a scripted labeller.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLabeller = (name: string, labeller: Labeller): Layer.Layer<FeedbackSource> =>
  Layer.succeed(FeedbackSource, fromLabeller(name, labeller))

/**
 * Layer with recorded lines.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerJsonLines = (
  recording: Recording,
  options?: Critique.ReadOptions
): Layer.Layer<FeedbackSource, JsonLines.FeedbackLineError, FileSystem.FileSystem> =>
  Layer.effect(FeedbackSource, fromJsonLines(recording, options))

/**
 * Layer with the person at the terminal.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTerminal: Layer.Layer<FeedbackSource, never, Terminal.Terminal> = Layer.effect(
  FeedbackSource,
  fromTerminal
)
