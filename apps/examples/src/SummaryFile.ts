/**
 * What an example measured, as `summary.json`.
 *
 * @since 0.1.0
 */

import { join } from "node:path"
import { AtomicFile } from "@attune/core"
import type { Score } from "@attune/eval"
import { Effect, Schema } from "effect"

/**
 * One measured number of a system's `metric` on a `task`. `low` and `high` bound its 95 % interval, `null` where it has none; `n` counts what it was
 * measured on.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Measurement = Schema.Struct({
  system: Schema.String,
  task: Schema.String,
  metric: Schema.String,
  value: Schema.Finite,
  low: Schema.NullOr(Schema.Finite),
  high: Schema.NullOr(Schema.Finite),
  n: Schema.Int,
  unit: Schema.String
})

/**
 * @see {@link Measurement}
 * @category models
 * @since 0.1.0
 */
export type Measurement = typeof Measurement.Type

/**
 * Contents of `summary.json`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Summary = Schema.Struct({
  example: Schema.String,
  measurements: Schema.Array(Measurement),
  versions: Schema.Record(Schema.String, Schema.String),
  seed: Schema.Int,
  seconds: Schema.Finite
})

/**
 * What a program reads of a score.
 *
 * @category converting
 * @since 0.1.0
 */
export const measurement = ({ estimate, metric, system, task, unit }: Score.Score): Measurement => {
  const { high, low, n, value } = estimate
  return { system, task, metric, value, low, high, n, unit }
}

/**
 * Writes `summary.json` into `directory` and returns its path.
 *
 * @category encoding
 * @since 0.1.0
 */
export const write = Effect.fn("SummaryFile.write")(function* (
  directory: string,
  { scores, ...summary }: Omit<typeof Summary.Type, "measurements"> & { readonly scores: ReadonlyArray<Score.Score> }
) {
  const path = join(directory, "summary.json")
  const text = JSON.stringify(
    Schema.encodeSync(Summary)({ ...summary, measurements: scores.map(measurement) }),
    null,
    2
  )
  yield* AtomicFile.write(path, [Buffer.from(`${text}\n`)])
  return path
})
