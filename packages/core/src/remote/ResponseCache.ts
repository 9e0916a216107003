/**
 * Answers that were paid for, kept: in memory, and in a file of JSON lines `{"key":"...","value":...}` that outlives the
 * process.
 *
 * A line is one write that has reached the operating system before the answer is handed on, so that a killed process
 * loses no answer. Lines are only ever added, and a key that stands twice has the value of its last line.
 *
 * @since 0.1.0
 */
import * as fs from "node:fs"
import { dirname } from "node:path"
import { Cause, Deferred, Effect, Exit, Option, Schema, type Scope } from "effect"
import { explain, makeDirectory } from "../AtomicFile.ts"

/**
 * Reports a cache file that cannot be read or written; the message says what to do about it.
 *
 * @category errors
 * @since 0.1.0
 */
export class ResponseCacheError extends Schema.TaggedError<ResponseCacheError>()("ResponseCacheError", {
  path: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `response cache ${this.path}: ${explain(this.cause)}`
  }
}

/**
 * A value, and whether it was there before.
 *
 * @category models
 * @since 0.1.0
 */
export interface Found<A> {
  readonly value: A
  readonly cached: boolean
}

/**
 * An open cache.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResponseCache<A> {
  /** Number of keys. */
  readonly size: Effect.Effect<number>
  /**
   * The value of the key; where it has none, what `request` gives, which is kept. Fibers that ask for the same key at the
   * same time share one request and its failure; when the fiber that sent it is interrupted, another sends it anew.
   */
  readonly once: <E, R>(
    key: string,
    request: Effect.Effect<A, E, R>
  ) => Effect.Effect<Found<A>, E | ResponseCacheError, R>
}

/**
 * Opens the cache in the file `path`, which is made if absent and closed with the scope; without a path, one in memory.
 *
 * **Details**
 *
 * Lines that cannot be decoded (cut short by a crash, edited, of an earlier format) are left where they are and not used:
 * their requests are sent again, and a warning counts them. Several processes may add to one file, each seeing what was
 * there when it opened it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: <A>(
  path: string | undefined,
  schema: Schema.Codec<A, unknown>
) => Effect.Effect<ResponseCache<A>, ResponseCacheError, Scope.Scope> = Effect.fn("ResponseCache.open")(function* <A>(
  path: string | undefined,
  schema: Schema.Codec<A, unknown>
) {
  const values = new Map<string, A>()
  const keep = path === undefined ? () => Effect.void : yield* appender(path, schema, values)
  const underWay = new Map<string, Deferred.Deferred<Exit.Exit<A, unknown>>>()

  const once = <E, R>(
    key: string,
    request: Effect.Effect<A, E, R>
  ): Effect.Effect<Found<A>, E | ResponseCacheError, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.suspend((): Effect.Effect<Found<A>, E | ResponseCacheError, R> => {
        if (values.has(key)) return Effect.succeed({ value: values.get(key)!, cached: true })
        const other = underWay.get(key)
        if (other !== undefined) {
          return restore(
            Effect.flatMap(Deferred.await(other), (exit) =>
              Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)
                ? once(key, request)
                : // Same key, same cache: what the other fiber can fail with, this one can.
                  Effect.map(exit as Exit.Exit<A, E>, (value) => ({ value, cached: true }))
            )
          )
        }
        const own = Deferred.makeUnsafe<Exit.Exit<A, unknown>>()
        underWay.set(key, own)
        return restore(request).pipe(
          Effect.tap((value) => keep(key, value)),
          Effect.tap((value) => Effect.sync(() => values.set(key, value))),
          Effect.onExit((exit) =>
            Effect.sync(() => {
              underWay.delete(key)
              Deferred.doneUnsafe(own, Effect.succeed(exit))
            })
          ),
          Effect.map((value) => ({ value, cached: false }))
        )
      })
    )
  return { size: Effect.sync(() => values.size), once }
})

type Keep<A> = (key: string, value: A) => Effect.Effect<void, ResponseCacheError>

// Reads what the file holds into `values` and returns how to add to it.
const appender = Effect.fnUntraced(function* <A>(
  path: string,
  schema: Schema.Codec<A, unknown>,
  values: Map<string, A>
): Effect.fn.Return<Keep<A>, ResponseCacheError, Scope.Scope> {
  const Line = Schema.fromJsonString(Schema.Struct({ key: Schema.String, value: schema }))
  const decode = Schema.decodeUnknownOption(Line)
  const encode = Schema.encodeSync(Line)
  const failure = (cause: unknown) => new ResponseCacheError({ path, cause })
  const file = yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: async () => {
        await makeDirectory(dirname(path))
        return fs.openSync(path, "a+")
      },
      catch: failure
    }),
    (file) => Effect.sync(() => fs.closeSync(file))
  )
  const text = yield* Effect.try({ try: () => fs.readFileSync(path, "utf8"), catch: failure })
  const broken: Array<number> = []
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue
    const decoded = decode(line)
    if (Option.isSome(decoded)) values.set(decoded.value.key, decoded.value.value)
    else broken.push(index + 1)
  }
  if (broken.length > 0) {
    const which = `line ${broken.slice(0, 5).join(", ")}${broken.length > 5 ? ", ..." : ""}`
    yield* Effect.logWarning(
      `response cache ${path}: ${broken.length} lines hold no answer (${which}) and are not used; their requests are sent again`
    )
  }
  // A line that was cut short keeps to itself.
  let torn = text !== "" && !text.endsWith("\n")
  return (key, value) =>
    Effect.try({
      try: () => {
        const bytes = Buffer.from(`${torn ? "\n" : ""}${encode({ key, value })}\n`)
        torn = true
        for (let sent = 0; sent < bytes.byteLength; ) sent += fs.writeSync(file, bytes, sent)
        torn = false
      },
      catch: failure
    })
})
