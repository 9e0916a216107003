/**
 * Flags that every example takes, and how examples end: with their results, one line that says what is wrong, or a
 * checkpoint to go on from.
 *
 * @since 0.1.0
 */

import { existsSync, readdirSync } from "node:fs"
import { access, constants } from "node:fs/promises"
import { join } from "node:path"
import { AtomicFile, Checkpoint, Progress } from "@attune/core"
import { Device } from "@attune/core/ort"
import { Cause, Console, Effect, FileSystem, Layer, Logger, LogLevel, Option, Runtime, Schema } from "effect"
import { Flag } from "effect/cli"

/**
 * A flag for a number of things, at least one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const count = (name: string): Flag.Flag<number> =>
  Flag.Int(name).pipe(
    Flag.filter(
      (value) => Number.isSafeInteger(value) && value >= 1,
      () => "a whole number from 1"
    )
  )

/**
 * `--learning-rate`, a number above 0.
 *
 * @category constructors
 * @since 0.1.0
 */
export const learningRate = (description: string, byDefault: number): Flag.Flag<number> =>
  Flag.Finite("learning-rate").pipe(
    Flag.withDescription(`${description}. Default ${byDefault}`),
    Flag.filter(
      (value) => value > 0,
      () => "a number above 0"
    ),
    Flag.withDefault(byDefault)
  )

/**
 * `--seed`, `--out`, `--quick`, `--resume`, `--quiet`, `--provider`, `--threads`.
 *
 * @category constants
 * @since 0.1.0
 */
export const flags = {
  seed: Flag.Int("seed").pipe(
    Flag.withDescription("Seed of every random draw. Default 0"),
    Flag.filter(
      (value) => Number.isSafeInteger(value),
      () => `a whole number up to ${Number.MAX_SAFE_INTEGER}`
    ),
    Flag.withDefault(0)
  ),
  out: Flag.String("out").pipe(
    Flag.withMetavar("DIR"),
    Flag.withDescription(
      "Where report, summary.json and, of training, run log, checkpoints and model go. The summary has what was measured, " +
        "a list of {system, task, metric, value, low, high, n, unit}, low and high bounding the 95 % interval, beside " +
        "versions, seed and seconds. Default out/NAME, then out/NAME-2, ..."
    ),
    Flag.optional
  ),
  quick: Flag.Boolean("quick").pipe(
    Flag.withDescription("A few steps on little data, to see that everything runs"),
    Flag.withDefault(false)
  ),
  resume: Flag.Boolean("resume").pipe(
    Flag.withDescription("Go on from the newest checkpoint in --out, by default of the last run"),
    Flag.withDefault(false)
  ),
  quiet: Flag.Boolean("quiet").pipe(Flag.withDescription("No progress, only results"), Flag.withDefault(false)),
  provider: Flag.Literals("provider", ["auto", "cpu", "webgpu", "cuda"]).pipe(
    Flag.withDescription("Where graphs run. Default auto: CUDA where it works, otherwise the CPU"),
    Flag.withDefault("auto")
  ),
  threads: count("threads").pipe(Flag.withDescription("Threads on the CPU. Default all"), Flag.optional)
} as const

/**
 * An example that could not finish; the message says what to do. {@link run} has shown it.
 *
 * @category errors
 * @since 0.1.0
 */
export class ExampleError extends Schema.TaggedError<ExampleError>()("ExampleError", {
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  // False means that nobody needs to report it any more.
  override readonly [Runtime.errorReported] = false
}

/**
 * Whatever an example's part fails with, by its message.
 *
 * @category combining
 * @since 0.1.0
 */
export const failing = <A, E extends { readonly message: string }, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, ExampleError, R> =>
  Effect.mapError(effect, (cause) =>
    cause instanceof ExampleError ? cause : new ExampleError({ message: cause.message, cause })
  )

const holds = (directory: string, ...names: ReadonlyArray<string>) =>
  names.some((name) => existsSync(join(directory, name)))

// An example of several stages keeps the run of each in a folder of its own.
const stages = (directory: string): ReadonlyArray<string> =>
  existsSync(directory)
    ? readdirSync(directory, { withFileTypes: true }).flatMap((entry) =>
        entry.isDirectory() ? [join(directory, entry.name)] : []
      )
    : []

const holdsLog = (directory: string) => [directory, ...stages(directory)].some((folder) => holds(folder, "run.jsonl"))

const holdsRun = (directory: string) => holdsLog(directory) || holds(directory, "summary.json")

/**
 * `--out`, or else `out/NAME`, `out/NAME-2`, ...: the first that holds no run yet, or with `--resume` the last that does.
 *
 * @category running
 * @since 0.1.0
 */
export const directory = (
  name: string,
  chosen: { readonly out: Option.Option<string>; readonly resume?: boolean }
): string => {
  if (Option.isSome(chosen.out)) return chosen.out.value
  const numbered = (i: number) => (i === 1 ? `out/${name}` : `out/${name}-${i}`)
  let next = 1
  while (holdsRun(numbered(next))) next++
  return numbered(chosen.resume ? Math.max(1, next - 1) : next)
}

/**
 * Reads a text file that a flag named.
 *
 * @category decoding
 * @since 0.1.0
 */
export const readText: (file: string) => Effect.Effect<string, ExampleError, FileSystem.FileSystem> = Effect.fn(
  "CommonFlags.readText"
)(function* (file) {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.readFileString(file).pipe(
    Effect.mapError((cause) => {
      const why = cause.reason._tag === "NotFound" ? "no such file" : cause.message
      return new ExampleError({ message: `${file}: cannot be read: ${why}`, cause })
    })
  )
})

// What would otherwise only be noticed after minutes of work.
const prepare = Effect.fnUntraced(function* (directory: string, resume: boolean | undefined) {
  yield* Effect.tryPromise({
    try: async () => {
      await AtomicFile.makeDirectory(directory)
      await access(directory, constants.W_OK)
    },
    catch: (cause) => new AtomicFile.FileWriteError({ path: directory, cause })
  })
  if (resume || !holdsRun(directory)) return
  const goOn = holdsLog(directory) && resume !== undefined ? "go on from it with --resume, or " : ""
  return yield* new ExampleError({
    message: `${directory} holds an earlier run: ${goOn}choose another directory with --out`
  })
})

// Control characters of a file's text or a model's name would move the cursor.
const oneLine = (message: string) => message.replace(/\s*[\r\n]+\s*/g, "; ").replace(/\p{Cc}/gu, "?")

const interrupted = Effect.fnUntraced(function* (directory: string, resume: boolean | undefined) {
  if (resume === undefined) return yield* Console.error("interrupted; nothing was written")
  const found = yield* Effect.forEach([directory, ...stages(directory)], (folder) =>
    Effect.map(
      Effect.orElseSucceed(Checkpoint.steps(join(folder, "checkpoints")), () => []),
      (steps) => steps.slice(0, 1).map((step) => `${folder} has a checkpoint of step ${step}`)
    )
  )
  const checkpoints = found.flat()
  yield* Console.error(
    checkpoints.length === 0
      ? "interrupted before there was a checkpoint; start again with --resume to reuse the directory"
      : `interrupted; ${checkpoints.join(", ")}: the same command with --resume goes on from there`
  )
})

/**
 * Runs an example's program on the device, and with the progress display, that the flags ask for.
 *
 * **Details**
 *
 * `directory` is where the example writes; it must be writable and, unless the run resumes, without an earlier run. An
 * example that cannot resume has no `resume`. Warnings go to standard error, so that standard output holds results alone.
 * A failure is shown there as one line, with its whole cause under `--log-level debug`; an interruption says which
 * checkpoint there is.
 *
 * @category running
 * @since 0.1.0
 */
export const run = <A, E extends { readonly message: string }, R>(
  program: Effect.Effect<A, E, R>,
  chosen: {
    readonly provider: "auto" | Device.Provider
    readonly threads: Option.Option<number>
    readonly quiet: boolean
    readonly resume?: boolean
  },
  directory: string
) =>
  program.pipe(
    Effect.scoped,
    Effect.provide(
      Layer.mergeAll(
        Device.layer({ provider: chosen.provider, threads: Option.getOrUndefined(chosen.threads) }),
        Progress.layer(chosen.quiet ? { mode: "quiet" } : {})
      )
    ),
    (work) => Effect.andThen(prepare(directory, chosen.resume), work),
    Effect.provideService(Logger.LogToStderr, true),
    Effect.onError(
      Effect.fnUntraced(function* (cause) {
        if (yield* LogLevel.isEnabled("Debug")) yield* Console.error(Cause.pretty(cause))
        if (Cause.hasInterruptsOnly(cause)) yield* interrupted(directory, chosen.resume)
      })
    ),
    Effect.tapError(({ message }) => Console.error(`error: ${oneLine(message)}`)),
    failing
  )
