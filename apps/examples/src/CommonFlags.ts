/**
 * Flags that every example takes.
 *
 * @since 0.1.0
 */
import { Progress } from "@attune/core"
import { Device } from "@attune/core/ort"
import { Effect, Layer, Option, Schema } from "effect"
import { Flag } from "effect/cli"

/**
 * `--seed`, `--out`, `--quick`, `--resume`, `--quiet`, `--provider`, `--threads`.
 *
 * @category constants
 * @since 0.1.0
 */
export const flags = {
  seed: Flag.Int("seed").pipe(Flag.withDescription("Seed of every random draw. Default 0"), Flag.withDefault(0)),
  out: Flag.String("out").pipe(
    Flag.withMetavar("DIR"),
    Flag.withDescription("Where run log, checkpoints, model and summary.json go. Default out/NAME"),
    Flag.optional
  ),
  quick: Flag.Boolean("quick").pipe(
    Flag.withDescription("A few steps on little data, to see that everything runs"),
    Flag.withDefault(false)
  ),
  resume: Flag.Boolean("resume").pipe(
    Flag.withDescription("Go on from the newest checkpoint in --out; without it an earlier run there is an error"),
    Flag.withDefault(false)
  ),
  quiet: Flag.Boolean("quiet").pipe(Flag.withDescription("No progress, only results"), Flag.withDefault(false)),
  provider: Flag.Literals("provider", ["auto", "cpu", "webgpu", "cuda"]).pipe(
    Flag.withDescription("Where graphs run. Default auto: CUDA where it works, otherwise the CPU"),
    Flag.withDefault("auto")
  ),
  threads: Flag.Int("threads").pipe(Flag.withDescription("Threads on the CPU. Default all"), Flag.optional)
} as const

/**
 * An example that could not finish; the message says what to do.
 *
 * @category errors
 * @since 0.1.0
 */
export class ExampleError extends Schema.TaggedError<ExampleError>()("ExampleError", {
  message: Schema.String,
  cause: Schema.Defect()
}) {}

/**
 * Runs an example's program on the device, and with the progress display, that the flags ask for.
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
  }
) =>
  program.pipe(
    Effect.scoped,
    Effect.provide(
      Layer.mergeAll(
        Device.layer({ provider: chosen.provider, threads: Option.getOrUndefined(chosen.threads) }),
        Progress.layer(chosen.quiet ? { mode: "quiet" } : {})
      )
    ),
    Effect.mapError((cause) => new ExampleError({ message: cause.message, cause }))
  )
