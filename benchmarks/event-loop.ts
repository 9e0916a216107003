/**
 * Does the program stay responsive while a model trains?
 */
import { monitorEventLoopDelay } from "node:perf_hooks"
import { Effect, Stream } from "effect"
import { type Bench, type Case, number } from "./Bench.ts"
import * as RandomModel from "./RandomModel.ts"

const defaults = { batch: 16, length: 128, vocab: 2048, width: 128, heads: 4, layers: 2 }

// Milliseconds between two looks at the clock; what is beyond is delay.
const resolution = 1

const observe = <A, E, R>(name: string, work: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const histogram = monitorEventLoopDelay({ resolution })
    yield* Effect.sync(() => histogram.enable())
    yield* work
    yield* Effect.sync(() => histogram.disable())
    const delay = (nanoseconds: number) => [Math.max(0, nanoseconds / 1e6 - resolution)]
    const cases: ReadonlyArray<Case> = [
      { case: `${name}, p99`, unit: "ms", values: delay(histogram.percentile(99)) },
      { case: `${name}, max`, unit: "ms", values: delay(histogram.max) }
    ]
    return cases
  })

export const bench: Bench = {
  question: "delay of the event loop of the program that trains, and of an idle one beside it",
  flags: { ...RandomModel.flagsFor(defaults), seconds: "seconds that are observed, at least (default 10)" },
  run: ({ flags }) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const shape = yield* RandomModel.sizes(flags, defaults)
        const seconds = yield* number(flags, "seconds", 10)
        const learner = yield* RandomModel.learner(shape)
        const batches = RandomModel.batches(shape, learner.stepsPerRun)
        yield* learner.update(batches)
        const idle = yield* observe("idle", Effect.sleep("2 seconds"))
        const end = performance.now() + 1000 * seconds
        const training = Effect.gen(function* () {
          while (performance.now() < end) yield* learner.update(batches)
        })
        return Stream.fromIterable([...idle, ...(yield* observe("training", training))])
      })
    )
}
