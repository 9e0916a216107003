/**
 * A GPT-2 of any size with random weights, without a tokenizer, and sequences of random tokens that fill its context.
 */
import { type Learner, Sft, Tokenizer } from "@attune/core"
import type { Pretrained } from "@attune/core/hub"
import { Gpt2, Initial } from "@attune/core/nn"
import { Optimizer } from "@attune/core/onnx"
import { type Device, OrtLearner, OrtPolicy } from "@attune/core/ort"
import { Effect, Schema, type Scope } from "effect"
import { type BenchError, count } from "./Bench.ts"

/** Sizes of the model and of a batch. */
export interface Sizes {
  readonly batch: number
  readonly length: number
  readonly vocab: number
  readonly width: number
  readonly heads: number
  readonly layers: number
}

/** Says what the flags of {@link sizes} mean. */
export const flagsFor = (defaults: Sizes): Record<keyof Sizes, string> => ({
  batch: `sequences per step (default ${defaults.batch})`,
  length: `tokens per sequence (default ${defaults.length})`,
  vocab: `size of the vocabulary (default ${defaults.vocab})`,
  width: `width of the model (default ${defaults.width})`,
  heads: `attention heads (default ${defaults.heads})`,
  layers: `layers (default ${defaults.layers})`
})

/** Sizes as the flags say. */
export const sizes = (flags: ReadonlyMap<string, string>, defaults: Sizes): Effect.Effect<Sizes, BenchError> =>
  Effect.all({
    batch: count(flags, "batch", defaults.batch),
    length: count(flags, "length", defaults.length, 2),
    vocab: count(flags, "vocab", defaults.vocab),
    width: count(flags, "width", defaults.width),
    heads: count(flags, "heads", defaults.heads),
    layers: count(flags, "layers", defaults.layers)
  })

/** The model. */
export const make = ({ heads, layers, length, vocab, width }: Sizes): Pretrained.Pretrained => {
  const config = {
    model_type: "gpt2",
    vocab_size: vocab,
    n_embd: width,
    n_head: heads,
    n_layer: layers,
    n_positions: length
  }
  const decoder = Gpt2.make(Schema.decodeUnknownSync(Gpt2.Gpt2Config)(config))
  return {
    name: `gpt2 ${layers}x${width}, vocabulary ${vocab}`,
    config,
    decoder,
    tokenizer: Tokenizer.numeric(vocab),
    weights: Initial.weights(decoder, 1)
  }
}

/** A learner of the model: supervised fine-tuning with AdamW, gradients clipped at norm 1, as the peers train. */
export const learner: (
  shape: Sizes,
  stepsPerRun?: number
) => Effect.Effect<Learner.Learner<Record<never, never>>, unknown, Device.Device | Scope.Scope> = Effect.fnUntraced(
  function* (shape, stepsPerRun) {
    const policy = yield* OrtPolicy.make(make(shape))
    const optimizer = Optimizer.adamW({ learningRate: 1e-4, weightDecay: 0.01, maxGradNorm: 1, decays: () => true })
    return yield* OrtLearner.make({ model: policy, loss: Sft.loss, optimizer, stepsPerRun })
  }
)

/** Batches of `steps` optimizer steps. Numbers that only look random will do. */
export const batches = ({ batch, length, vocab }: Sizes, steps: number): ReadonlyArray<ReadonlyArray<Sft.Example>> => {
  let state = 1
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * vocab)
  }
  return Array.from({ length: steps }, () =>
    Array.from({ length: batch }, () => Sft.example([], Int32Array.from({ length }, next)))
  )
}
