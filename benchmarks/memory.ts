/**
 * Does memory grow while a model trains?
 */
import { Effect, Stream } from "effect"
import { type Bench, BenchError, type Case, count } from "./Bench.ts"
import * as RandomModel from "./RandomModel.ts"

const models: Readonly<Record<string, RandomModel.Sizes>> = {
  tiny: { batch: 4, length: 32, vocab: 256, width: 32, heads: 2, layers: 2 },
  middle: { batch: 4, length: 64, vocab: 4096, width: 128, heads: 4, layers: 4 }
}

/** Slope of the straight line closest to the points, by least squares. */
const slope = (points: ReadonlyArray<readonly [x: number, y: number]>): number => {
  const mean = (of: 0 | 1) => points.reduce((sum, point) => sum + point[of], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const across = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0)
  return across / points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0)
}

const megabytes = () => process.memoryUsage.rss() / 2 ** 20

export const bench: Bench = {
  question: "resident memory per optimizer step, by least squares after a warm-up",
  flags: {
    models: `models, separated by commas (default ${Object.keys(models).join(",")})`,
    steps: "steps that are observed (default 500)",
    "warm-up": "steps before them (default 100)"
  },
  run: ({ flags }) =>
    Stream.fromIterable((flags.get("models") ?? Object.keys(models).join(",")).split(",")).pipe(
      Stream.mapEffect((name) =>
        Effect.gen(function* () {
          const shape = models[name]
          if (shape === undefined) {
            return yield* new BenchError({ message: `no model "${name}"; there are ${Object.keys(models).join(", ")}` })
          }
          const warmUp = yield* count(flags, "warm-up", 100, 0)
          const steps = yield* count(flags, "steps", 500)
          const learner = yield* RandomModel.learner(shape)
          const batches = RandomModel.batches(shape, learner.stepsPerRun)
          for (let done = 0; done < warmUp; done += batches.length) yield* learner.update(batches)
          const points: Array<readonly [number, number]> = [[0, megabytes()]]
          for (let done = 0; done < steps; ) {
            yield* learner.update(batches)
            done += batches.length
            points.push([done, megabytes()])
          }
          const cases: ReadonlyArray<Case> = [
            { case: `${name}, slope`, unit: "MB/step", values: [slope(points)] },
            { case: `${name}, resident`, unit: "MB", values: points.map(([, resident]) => resident) }
          ]
          return cases
        }).pipe(Effect.scoped)
      ),
      Stream.flatMap(Stream.fromIterable)
    )
}
