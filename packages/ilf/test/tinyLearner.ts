/**
 * A learner of a policy with a handful of weights, whose texts are numbers, for tests of what fine-tuning does.
 */
import { type Learner, NextToken, Progress, Tensor, Tokenizer } from "@attune/core"
import type { Pretrained } from "@attune/core/hub"
import { Gpt2 } from "@attune/core/nn"
import { Optimizer } from "@attune/core/onnx"
import { Device, OrtLearner, OrtPolicy } from "@attune/core/ort"
import { Effect, Layer, Logger, Schema, type Scope } from "effect"
import * as PromptLoss from "../src/PromptLoss.ts"

/** Texts of the numbers from 0 to 11; 0 ends a text. */
export const numbers: Tokenizer.Tokenizer = { ...Tokenizer.numeric(12), eosId: 0, stopIds: [0] }

export const contextLength = 8

const base = (): Pretrained.Pretrained => {
  const config = { model_type: "gpt2", vocab_size: 12, n_embd: 16, n_head: 2, n_layer: 1, n_positions: contextLength }
  const decoder = Gpt2.make(Schema.decodeUnknownSync(Gpt2.Gpt2Config)(config))
  const uniform = NextToken.uniforms(1)
  const weights = new Map(
    decoder.parameters.map(({ name, shape }) => {
      const isNorm = shape.length === 1 && name.endsWith(".weight")
      return [
        name,
        Tensor.float32(
          Float32Array.from({ length: Tensor.size(shape) }, () => +isNorm + 0.3 * (2 * uniform() - 1)),
          shape
        )
      ]
    })
  )
  return { name: "tiny", config, decoder, tokenizer: numbers, weights }
}

export const layer = Layer.mergeAll(
  Device.layerInProcess({ provider: "cpu", threads: 1 }),
  Progress.layer({ mode: "quiet" }),
  Logger.layer([])
)

export const learnerOf = (
  learningRate: number
): Effect.Effect<Learner.Learner<PromptLoss.Fields, OrtPolicy.OrtPolicy>, never, Device.Device | Scope.Scope> =>
  Effect.gen(function* () {
    const model = yield* OrtPolicy.make(base())
    return yield* OrtLearner.make({ model, loss: PromptLoss.loss, optimizer: Optimizer.adamW({ learningRate }) })
  }).pipe(Effect.orDie)
