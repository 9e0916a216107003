// A training run of 60 steps that a test kills and starts again: node resume-child.ts DIRECTORY
import { Effect, Layer } from "effect"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OrtLearner from "../../src/ort/OrtLearner.ts"
import * as Progress from "../../src/Progress.ts"
import * as Sft from "../../src/Sft.ts"
import * as Tiny from "./tiny.ts"

const directory = process.argv[2]!

const program = Effect.gen(function* () {
  const decoder = Tiny.llama({ hidden_size: 64, intermediate_size: 96 })
  const learner = yield* OrtLearner.make({
    model: yield* Tiny.policy(decoder),
    loss: Sft.loss,
    optimizer: Optimizer.adamW({ learningRate: 1e-3, weightDecay: 0.01, maxGradNorm: 1 }),
    accumulate: 2,
    stepsPerRun: 4
  })
  yield* Sft.train(learner, Tiny.examples(8 * 20, 5), {
    epochs: 3,
    batchSize: 8,
    seed: 11,
    directory,
    resume: true,
    checkpointEvery: 3
  })
}).pipe(
  Effect.scoped,
  Effect.provide(Layer.merge(Device.layer({ provider: "cpu", threads: 2 }), Progress.layer({ mode: "quiet" })))
)

await Effect.runPromise(program)
