/**
 * What a run drew, was told and judged, kept as soon as it is there: drafts, critiques, refinements and scores are
 * neither made twice nor lost when the program ends, and each says who made it, in which round and with which seed.
 *
 *     {"kind":"critique","round":0,"item":3,"of":"5f0c...","by":"the scripted labeller","critique":"Name the product."}
 *
 * `of` is the digest of what was asked and of the name of who was, so that an answer is only used again for the very
 * same question.
 *
 * @since 0.1.0
 */
import { dirname } from "node:path"
import { AtomicFile, Journal, Progress, Prompt, Run } from "@attune/core"
import { Effect, Schema } from "effect"

const made = { round: Schema.Int, item: Schema.Int, of: Schema.String, by: Schema.String }

/**
 * Schema for a line of the file. `round` and `item` count from 0.
 *
 * **Details**
 *
 * A `draft` without `text` had no room in the context; a `critique` without one is of a draft that needs none.
 * `logprob` is that of the distribution sampled from, in nats; `seed` that of the row. `scores` are those of the texts
 * that are not empty, in the order of the candidates.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Entry = Schema.Union([
  Schema.Struct({
    kind: Schema.Literal("draft"),
    ...made,
    prompt: Prompt.Content,
    text: Schema.optionalKey(Schema.String),
    seed: Schema.optionalKey(Schema.Int)
  }),
  Schema.Struct({
    kind: Schema.Literal("critique"),
    ...made,
    critique: Schema.optionalKey(Schema.NonEmptyString)
  }),
  Schema.Struct({
    kind: Schema.Literal("refinements"),
    ...made,
    candidates: Schema.Array(
      Schema.Struct({ text: Schema.String, sampled: Schema.String, seed: Schema.Int, logprob: Schema.Finite })
    )
  }),
  Schema.Struct({ kind: Schema.Literal("scores"), ...made, scores: Schema.Array(Schema.Finite) })
])

/**
 * A line of the file.
 *
 * @category models
 * @since 0.1.0
 */
export type Entry = typeof Entry.Type

/**
 * What is in a line of one kind besides who made it and where it belongs.
 *
 * @category models
 * @since 0.1.0
 */
export type Body<K extends Entry["kind"]> = Omit<Extract<Entry, { readonly kind: K }>, keyof typeof made | "kind">

/**
 * Reports a file that holds another run, or answers to other questions than this one asks.
 *
 * @category errors
 * @since 0.1.0
 */
export class RoundJournalError extends Schema.TaggedError<RoundJournalError>()("RoundJournalError", {
  path: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.path} ${this.reason}`
  }
}

/**
 * One question of a round: its number there, and everything that the answer depends on.
 *
 * @category models
 * @since 0.1.0
 */
export interface Asked {
  readonly item: number
  readonly on: ReadonlyArray<string>
}

/**
 * How questions are put. `by`: who answers. `atOnce`: questions of one call, always the same ones together, since a
 * model's last digit may depend on what else is in its batch. `concurrency`: calls under way at a time.
 *
 * @category models
 * @since 0.1.0
 */
export interface Asking {
  readonly round: number
  readonly by: string
  readonly atOnce: number
  readonly concurrency?: number
}

/**
 * An open journal of a run. `answers`: the bodies for all questions, in their order; `make` is called for those calls
 * that lack any, with the places of their questions. Progress is one bar for all of them, and none where nothing is
 * asked.
 *
 * @category models
 * @since 0.1.0
 */
export interface RoundJournal {
  readonly answers: <K extends Entry["kind"], E, R>(
    kind: K,
    asked: ReadonlyArray<Asked>,
    asking: Asking,
    make: (places: ReadonlyArray<number>) => Effect.Effect<ReadonlyArray<Body<K>>, E, R>
  ) => Effect.Effect<ReadonlyArray<Body<K>>, E | Journal.JournalError | RoundJournalError, R>
}

/**
 * Opens the journal at `path`; without one, nothing outlives the program. Fails where the file holds a run that is not
 * to be resumed: what people said is never removed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: (
  path: string | undefined,
  resume: boolean
) => Effect.Effect<RoundJournal, Journal.JournalError | RoundJournalError> = Effect.fn("RoundJournal.open")(
  function* (path, resume) {
    if (path !== undefined) {
      yield* Effect.tryPromise({
        try: () => AtomicFile.makeDirectory(dirname(path)),
        catch: (cause) => new RoundJournalError({ path, reason: `cannot be made: ${AtomicFile.explain(cause)}` })
      })
    }
    const journal = yield* Journal.open({ path, schema: Entry, resume: true, keyOf })
    if (!resume && path !== undefined && journal.records.length > 0) {
      const reason = "holds an earlier run; resume it, or give another directory"
      return yield* new RoundJournalError({ path, reason })
    }
    return {
      answers: Effect.fnUntraced(function* <K extends Entry["kind"], E, R>(
        kind: K,
        asked: ReadonlyArray<Asked>,
        { atOnce, by, concurrency = 1, round }: Asking,
        make: (places: ReadonlyArray<number>) => Effect.Effect<ReadonlyArray<Body<K>>, E, R>
      ) {
        const places = asked.map(({ item, on }) => ({
          kind,
          round,
          item,
          of: Run.digest([by, ...on]).slice(0, 16),
          by
        }))
        const known = places.map((place) => journal.get(keyOf(place)) as Extract<Entry, { kind: K }> | undefined)
        const other = known.findIndex((entry, i) => entry !== undefined && entry.of !== places[i]!.of)
        if (other >= 0) {
          const reason =
            `holds ${kind} of item ${places[other]!.item} in round ${round} for another prompt, model or setting; ` +
            "resume with what the run began with, or give another directory"
          return yield* new RoundJournalError({ path: path ?? "the journal", reason })
        }
        const bodies: Array<Body<K> | undefined> = [...known]
        const calls = Array.from({ length: Math.ceil(asked.length / atOnce) }, (_, call) =>
          Array.from({ length: Math.min(atOnce, asked.length - call * atOnce) }, (_, i) => call * atOnce + i)
        ).filter((call) => call.some((place) => known[place] === undefined))
        let done = known.filter((entry) => entry !== undefined).length
        const label = `${kind}, round ${round + 1}`
        const answer = (call: ReadonlyArray<number>, progress: Progress.Task) =>
          Effect.uninterruptibleMask((restore) =>
            Effect.gen(function* () {
              // One bar for all calls, instead of one for each.
              const answered = yield* restore(make(call)).pipe(Effect.provideService(Progress.Progress, silent))
              const lacking = call.flatMap((place, i) =>
                known[place] === undefined ? [{ place, body: answered[i]! }] : []
              )
              // Once an answer is there it is kept, whatever happens.
              yield* journal.append(
                lacking.map(({ body, place }) => ({ ...places[place]!, ...body }) as unknown as Entry)
              )
              for (const { body, place } of lacking) bodies[place] = body
              done += lacking.length
              yield* progress.update(done)
            })
          )
        if (calls.length > 0) {
          yield* Progress.start({ label, total: asked.length, from: done }).pipe(
            Effect.flatMap((progress) =>
              Effect.forEach(calls, (call) => answer(call, progress), { concurrency, discard: true })
            ),
            Effect.scoped
          )
        }
        return bodies as ReadonlyArray<Body<K>>
      })
    }
  }
)

const silent = Progress.make({ mode: "quiet" })

const keyOf = ({ item, kind, round }: Pick<Entry, "item" | "kind" | "round">): string => `${kind} ${round} ${item}`
