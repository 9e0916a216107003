/**
 * The README's quick start: fine-tunes a model on demonstrations, samples it and saves it.
 *
 *     node --conditions=@attune/source apps/examples/src/QuickStart.ts MODEL DEMONSTRATIONS.jsonl
 *
 * @since 0.1.0
 */
import { Demonstration, JsonLines, Sft } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { Optimizer } from "@attune/core/onnx"
import { Device, OrtLearner, OrtPolicy } from "@attune/core/ort"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Layer } from "effect"

const [model = "apps/examples/models/desk-base", file = "demonstrations.jsonl"] = process.argv.slice(2)

const program = Effect.gen(function* () {
  const base = yield* Pretrained.load(yield* Pretrained.resolve(model)) // a directory, or a repository on the Hub
  const policy = yield* OrtPolicy.make(base)
  const optimizer = Optimizer.adamW({ learningRate: 5e-4, maxGradNorm: 1 })
  const learner = yield* OrtLearner.make({ model: policy, loss: Sft.loss, optimizer })
  const demonstrations = yield* JsonLines.read(file, Demonstration.Demonstration)
  const examples = yield* Effect.fromResult(Sft.examples(base.tokenizer, demonstrations))
  yield* Sft.train(learner, examples, { epochs: 1, batchSize: 16, directory: "out/quick-start" })
  const [story] = yield* policy.sample(["Once upon a time"], { maxNewTokens: 64, temperature: 0.8, seed: 7 })
  yield* Console.log(story!.text)
  yield* Pretrained.save(policy, "out/quick-start/model") // the Hugging Face layout, with onnx/model.onnx beside it
})

const services = Layer.merge(Device.layer({ provider: "auto" }), NodeServices.layer)
program.pipe(Effect.scoped, Effect.provide(services), NodeRuntime.runMain)
