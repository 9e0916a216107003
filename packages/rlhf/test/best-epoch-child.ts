// Fine-tuning that a test kills and starts again: node best-epoch-child.ts DIRECTORY [MILLISECONDS]. Kills itself so long after
// it began to train, or prints what it chose and how long it took.
import { Progress } from "@attune/core"
import { Device } from "@attune/core/ort"
import { Effect, Layer } from "effect"
import { trained } from "./best-epoch.ts"

const [directory, millis] = process.argv.slice(2)

const program = Effect.gen(function* () {
  const started = performance.now()
  if (millis !== undefined) setTimeout(() => process.kill(process.pid, "SIGKILL"), Number(millis))
  const chosen = yield* trained({ directory: directory!, resume: true, checkpointEvery: 3 })
  return { chosen, millis: performance.now() - started }
}).pipe(
  Effect.scoped,
  Effect.provide(Layer.merge(Device.layer({ provider: "cpu", threads: 1 }), Progress.layer({ mode: "quiet" })))
)

process.stdout.write(`${JSON.stringify(await Effect.runPromise(program))}\n`)
