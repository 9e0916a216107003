/**
 * What others take for the same work: a command that prints JSON lines.
 */
import { execFile } from "node:child_process"
import { promisify } from "node:util"
import { Effect, Option, Schema } from "effect"
import { BenchError, type Case, median } from "./Bench.ts"

type Printed = Readonly<Record<string, unknown>>

const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown)))

// The JSON lines that a shell command prints, among whatever else it says.
const printed = (command: string): Effect.Effect<ReadonlyArray<Printed>, BenchError> =>
  Effect.tryPromise({
    try: async () => {
      const { stdout } = await promisify(execFile)("/bin/sh", ["-c", command], { maxBuffer: 2 ** 26 })
      // Trainers print dictionaries of their own, which only look like JSON.
      return stdout.split("\n").flatMap((line) => Option.toArray(decode(line)))
    },
    catch: (cause) =>
      new BenchError({
        message: `the peer's command failed: ${cause instanceof Error ? cause.message : String(cause)}`
      })
  })

const missing = (what: string) => new BenchError({ message: `the peer's command printed no JSON line with ${what}` })

/** Runs a shell command and returns the numbers that its last JSON line holds under `keys`. */
export const measureAll = Effect.fnUntraced(function* <K extends string>(command: string, keys: ReadonlyArray<K>) {
  const last = (yield* printed(command)).at(-1)
  const absent = keys.find((key) => typeof last?.[key] !== "number")
  return absent === undefined ? (last as Readonly<Record<K, number>>) : yield* missing(`a number "${absent}"`)
})

/** Runs a shell command and returns the number that its last JSON line holds under `key`. */
export const measure = (command: string, key: string) =>
  Effect.map(measureAll(command, [key]), (numbers) => numbers[key]!)

/** Runs a shell command that prints a JSON line for each case, and returns their numbers under `key` by those under `by`. */
export const measureEach = Effect.fnUntraced(function* (command: string, by: string, key: string) {
  const numbers = new Map<number, number>()
  for (const line of yield* printed(command)) {
    const [name, value] = [line[by], line[key]]
    if (typeof name === "number" && typeof value === "number") numbers.set(name, value)
  }
  return numbers.size > 0 ? numbers : yield* missing(`numbers "${by}" and "${key}"`)
})

/** Our measurements, the peer's, and the ratio of their medians in our favour: above 1 we are faster. */
export const compared = (own: Case, peer: ReadonlyArray<number>, better: "more" | "less"): ReadonlyArray<Case> => {
  if (peer.length === 0) return [own]
  const ratio = median(own.values) / median(peer)
  return [
    own,
    { case: `${own.case}, peer`, unit: own.unit, values: peer },
    { case: `${own.case}, ratio of medians`, unit: "x", values: [better === "more" ? ratio : 1 / ratio] }
  ]
}
