/**
 * How long does a bootstrap of a mean take?
 */
import { NextToken } from "@attune/core"
import { Bootstrap, Sample } from "@attune/eval"
import { Effect, Stream } from "effect"
import { type Bench, type Case, count } from "./Bench.ts"
import * as Peer from "./Peer.ts"

export const bench: Bench = {
  question: "time of a percentile and of a BCa interval of a mean, on one thread",
  flags: {
    values: "values of the sample (default 10000)",
    resamples: "times that it is drawn again (default 10000)",
    rounds: "intervals that are measured (default 7)",
    peer: "shell command that prints a JSON line with bootstrap_ms; run after each round, and compared"
  },
  run: ({ flags }) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const n = yield* count(flags, "values", 10_000, 2)
        const resamples = yield* count(flags, "resamples", 10_000, 2)
        const rounds = yield* count(flags, "rounds", 7)
        const command = flags.get("peer")
        const uniform = NextToken.uniforms(1)
        const sample = yield* Effect.fromResult(Sample.fromValues("uniform", Float64Array.from({ length: n }, uniform)))
        const intervals = { percentile: Bootstrap.percentile, BCa: Bootstrap.bca }
        const peer: Array<number> = []
        const own: Record<keyof typeof intervals, Array<number>> = { percentile: [], BCa: [] }
        for (const interval of Object.values(intervals)) interval(sample, { seed: 0, resamples: 100 })
        for (let seed = 0; seed < rounds; seed++) {
          for (const name of ["percentile", "BCa"] as const) {
            const begun = performance.now()
            intervals[name](sample, { seed, resamples })
            own[name].push(performance.now() - begun)
          }
          if (command !== undefined) peer.push(yield* Peer.measure(command, "bootstrap_ms"))
        }
        const label = (name: keyof typeof intervals): Case => ({
          case: `${name}, ${resamples} x ${n}`,
          unit: "ms",
          values: own[name]
        })
        return Stream.fromIterable([...Peer.compared(label("percentile"), peer, "less"), label("BCa")])
      })
    )
}
