/**
 * What a benchmark is, and the JSON line that it prints for each case.
 */
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import type { Device } from "@attune/core/ort"
import { Effect, type FileSystem, type Path, Schema, type Scope, type Stream } from "effect"

/** Reports a flag that makes no sense, or a peer that could not be measured. */
export class BenchError extends Schema.TaggedError<BenchError>()("BenchError", { message: Schema.String }) {}

/** Repeated measurements of one case. */
export interface Case {
  readonly case: string
  readonly unit: string
  readonly values: ReadonlyArray<number>
}

/** What a benchmark is given: its flags by name, and the number of threads of the device. */
export interface Settings {
  readonly flags: ReadonlyMap<string, string>
  readonly threads: number
}

/** One question, answered by measuring. Every file of this folder that `main.ts` can run exports one as `bench`. */
export interface Bench {
  readonly question: string
  /** Flags beside `--threads`, with what they mean and their defaults. */
  readonly flags: Readonly<Record<string, string>>
  readonly run: (
    settings: Settings
  ) => Stream.Stream<Case, unknown, Device.Device | FileSystem.FileSystem | Path.Path | Scope.Scope>
}

/** The line of one case. */
export interface Line {
  readonly bench: string
  readonly case: string
  readonly value: number
  readonly unit: string
  readonly n: number
  readonly min: number
  readonly median: number
  readonly max: number
  readonly threads: number
  readonly versions: Readonly<Record<string, string>>
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

const core = createRequire(import.meta.resolve("@attune/core/package.json"))

const versionOf = (file: string): string => JSON.parse(readFileSync(core.resolve(file), "utf8")).version

const round = (x: number): number => Number(x.toPrecision(6))

/** Summarises the measurements of a case; `value` is their median. */
export const line = (bench: string, { case: name, unit, values }: Case, threads: number): Line => ({
  bench,
  case: name,
  value: round(median(values)),
  unit,
  n: values.length,
  min: round(Math.min(...values)),
  median: round(median(values)),
  max: round(Math.max(...values)),
  threads,
  versions: {
    attune: versionOf("./package.json"),
    node: process.versions.node,
    "onnxruntime-node": versionOf("onnxruntime-node/package.json")
  }
})

/** The number given for a flag; fails when it is none, or less than `least`. */
export const number = (
  flags: ReadonlyMap<string, string>,
  name: string,
  fallback: number,
  least = 0
): Effect.Effect<number, BenchError> => {
  const text = flags.get(name)
  const value = text === undefined ? fallback : text.trim() === "" ? Number.NaN : Number(text)
  return Number.isFinite(value) && value >= least
    ? Effect.succeed(value)
    : Effect.fail(new BenchError({ message: `--${name} takes a number from ${least}, not "${text}"` }))
}

/** The whole number given for a flag; fails when it is none, or less than `least`. */
export const count = (
  flags: ReadonlyMap<string, string>,
  name: string,
  fallback: number,
  least = 1
): Effect.Effect<number, BenchError> =>
  Effect.filterOrFail(
    number(flags, name, fallback, least),
    (value) => Number.isSafeInteger(value),
    (value) => new BenchError({ message: `--${name} takes a whole number, not ${value}` })
  )
