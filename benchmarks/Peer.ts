/**
 * What others take for the same work: a command that prints JSON lines.
 */
import { execFile } from "node:child_process"
import { promisify } from "node:util"
import { Effect } from "effect"
import { BenchError, type Case, median } from "./Bench.ts"

/** Runs a shell command and returns the number that its last JSON line holds under `key`. */
export const measure = (command: string, key: string): Effect.Effect<number, BenchError> =>
  Effect.tryPromise({
    try: async () => {
      const { stdout } = await promisify(execFile)("/bin/sh", ["-c", command], { maxBuffer: 2 ** 26 })
      const last = stdout
        .split("\n")
        .filter((text) => text.startsWith("{"))
        .at(-1)
      const value: unknown = last === undefined ? undefined : JSON.parse(last)[key]
      if (typeof value !== "number") throw new BenchError({ message: `it printed no JSON line with a number "${key}"` })
      return value
    },
    catch: (cause) =>
      new BenchError({
        message: `the peer's command failed: ${cause instanceof Error ? cause.message : String(cause)}`
      })
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
