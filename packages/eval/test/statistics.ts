/** Golden numbers of tools/golden/estimates.py, and samples made of plain numbers. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert } from "@effect/vitest"
import { Result } from "effect"
import type { Estimate } from "../src/Estimate.ts"
import * as Sample from "../src/Sample.ts"

interface Interval {
  readonly low: number
  readonly high: number
}

type Numbers = ReadonlyArray<number>

export const golden: {
  readonly t: ReadonlyArray<Interval & { readonly values: Numbers; readonly confidence: number; readonly se: number }>
  readonly clustered: ReadonlyArray<
    Interval & { readonly values: Numbers; readonly clusters: ReadonlyArray<string>; readonly se: number }
  >
  readonly wilson: ReadonlyArray<Interval & { readonly hits: number; readonly n: number; readonly confidence: number }>
  readonly wilsonCoverage: ReadonlyArray<{ readonly n: number; readonly p: number; readonly coverage: number }>
  readonly draws: ReadonlyArray<{
    readonly n: number
    readonly seed: number
    readonly first: Numbers
    readonly second: Numbers
  }>
  readonly bootstrap: ReadonlyArray<
    Interval & {
      readonly values: Numbers
      readonly statistic: "mean" | "sd"
      readonly method: "percentile" | "BCa"
      readonly se: number
    }
  >
  readonly permutation: ReadonlyArray<{ readonly first: Numbers; readonly second: Numbers; readonly pValue: number }>
  readonly passAtK: ReadonlyArray<{
    readonly samples: number
    readonly correct: number
    readonly k: number
    readonly value: number
  }>
  readonly bestOfN: ReadonlyArray<{
    readonly scores: Numbers
    readonly gold: Numbers
    readonly n: number
    readonly max: number
    readonly atMax: number
  }>
  readonly correlation: ReadonlyArray<{
    readonly first: Numbers
    readonly second: Numbers
    readonly confidence: number
    readonly pearson: Interval & { readonly value: number }
    readonly spearman: number
  }>
} = JSON.parse(readFileSync(join(import.meta.dirname, "statistics.golden.json"), "utf8"))

export const sample = (values: ArrayLike<number>, clusters?: ReadonlyArray<string>): Sample.Sample =>
  Result.getOrThrow(
    Sample.make(
      "numbers",
      Array.from(values, (value, i) => ({ id: `${i}`, value, cluster: clusters?.[i] }))
    )
  )

export const pair = (first: Numbers, second: Numbers, clusters?: ReadonlyArray<string>): Sample.Paired =>
  Result.getOrThrow(
    Sample.pair({ ...sample(first, clusters), name: "first" }, { ...sample(second, clusters), name: "second" })
  )

/** An estimate that claims nothing beyond its value, and says why. */
export const noInterval = (estimate: Estimate, value: number, reason: string): void => {
  assert.deepStrictEqual([estimate.value, estimate.low, estimate.high], [value, null, null])
  assert.include(estimate.method, reason)
}

/** Bounds and value, each as close as `delta`. */
export const close = (
  estimate: Estimate,
  expected: Interval & { readonly value?: number; readonly se?: number },
  delta: number
): void => {
  for (const key of ["value", "low", "high", "se"] as const) {
    if (expected[key] !== undefined) assert.closeTo(estimate[key] ?? Number.NaN, expected[key], delta, key)
  }
}
