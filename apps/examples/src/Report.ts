/**
 * What an example measured, as `summary.json` and as a table.
 *
 * @since 0.1.0
 */

import { join } from "node:path"
import { AtomicFile } from "@attune/core"
import { Effect, Schema } from "effect"

/**
 * One measured number. `low` and `high` bound its 95 % interval, `null` where it has none; `n` counts what it was
 * measured on.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Measurement = Schema.Struct({
  system: Schema.String,
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
 * Mean with its normal 95 % interval, `1.96 s / √n` to either side; no interval for fewer than two values.
 *
 * @category math
 * @since 0.1.0
 */
export const mean = (system: string, metric: string, unit: string, values: ReadonlyArray<number>): Measurement => {
  const n = values.length
  const value = values.reduce((sum, x) => sum + x, 0) / n
  if (n < 2) return { system, metric, value, low: null, high: null, n, unit }
  const variance = values.reduce((sum, x) => sum + (x - value) ** 2, 0) / (n - 1)
  const half = 1.96 * Math.sqrt(variance / n)
  return { system, metric, value, low: value - half, high: value + half, n, unit }
}

/**
 * Share of `hits` among `n`, with its Wilson 95 % interval. Source: Wilson 1927.
 *
 * @category math
 * @since 0.1.0
 */
export const rate = (system: string, metric: string, hits: number, n: number): Measurement => {
  const z2 = 1.96 ** 2
  const p = hits / n
  const centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  const half = (1.96 * Math.sqrt((p * (1 - p)) / n + z2 / (4 * n * n))) / (1 + z2 / n)
  // Rounding alone could leave the interval's range.
  return {
    system,
    metric,
    value: p,
    low: Math.max(0, centre - half),
    high: Math.min(1, centre + half),
    n,
    unit: "share"
  }
}

/**
 * Lines of a table of measurements.
 *
 * @category encoding
 * @since 0.1.0
 */
export const table = (measurements: ReadonlyArray<Measurement>): ReadonlyArray<string> => {
  const cells = [
    ["system", "metric", "value", "95 % interval", "n"],
    ...measurements.map(({ high, low, metric, n, system, unit, value }) => [
      system,
      metric,
      `${value.toFixed(3)} ${unit}`,
      low === null || high === null ? "" : `${low.toFixed(3)} .. ${high.toFixed(3)}`,
      String(n)
    ])
  ]
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)))
  return cells.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join("  ")
      .trimEnd()
  )
}

/**
 * Writes `summary.json` into `directory` and returns its path.
 *
 * @category encoding
 * @since 0.1.0
 */
export const write = Effect.fn("Report.write")(function* (directory: string, summary: typeof Summary.Type) {
  const path = join(directory, "summary.json")
  const text = JSON.stringify(Schema.encodeSync(Summary)(summary), null, 2)
  yield* AtomicFile.write(path, [Buffer.from(`${text}\n`)])
  return path
})
