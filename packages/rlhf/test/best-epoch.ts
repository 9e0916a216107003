/**
 * Fine-tuning of a tiny policy whose best epoch is kept, for tests.
 */
import { type Learner, NextToken, type Policy, RewardModel, Sft } from "@attune/core"
import { Optimizer } from "@attune/core/onnx"
import { type Device, OrtLearner, OrtPolicy } from "@attune/core/ort"
import { Effect, type Scope } from "effect"
import * as BestEpoch from "../src/BestEpoch.ts"
import * as Tiny from "./tiny.ts"

const uniform = NextToken.uniforms(5)
const id = () => Math.floor(uniform() * Tiny.vocabSize)
const ids = (count: number) => Array.from({ length: count }, id)

export const examples: ReadonlyArray<Sft.Example> = Array.from({ length: 30 }, (_, i) =>
  Sft.example(ids(1 + (i % 3)), [...ids(1 + (i % 5)), 0])
)

export const heldOut: ReadonlyArray<Sft.Example> = [
  Sft.example([1, 2], [3, 4, 0]),
  Sft.example([5, 6, 7], [8, 0], 0.25),
  { ...Sft.example([1], [9, 10, 11, 0]), weights: Float32Array.of(0, 0, 2, 0, 0) }
]

export const options: BestEpoch.Options = {
  epochs: 6,
  batchSize: 4,
  seed: 3,
  prompts: Tiny.prompts,
  sampling: { maxNewTokens: 5, seed: 7 },
  heldOut
}

/** A learner of a fresh policy. */
export const learner: Effect.Effect<
  Learner.Learner<Record<never, never>, Policy.PolicyShape>,
  never,
  Device.Device | Scope.Scope
> = Effect.gen(function* () {
  return yield* OrtLearner.make({
    model: yield* OrtPolicy.make(Tiny.base()),
    loss: Sft.loss,
    optimizer: Optimizer.adamW({ learningRate: 0.02 }),
    dropout: 0.2,
    stepsPerRun: 4
  })
}).pipe(Effect.orDie)

/** Answers are worth what their tokens are worth, on a scale that rises and falls. */
export const score = (tokens: ArrayLike<number>): number =>
  Array.from(tokens, (token) => ((token * 3) % 11) - 5).reduce((sum, worth) => sum + worth, 0)

export type Bits = ReadonlyArray<readonly [name: string, base64: string]>

export const bits = (weights: ReadonlyMap<string, { readonly data: Float32Array }>): Bits =>
  [...weights].map(([name, { data }]) => [name, Buffer.from(data.buffer).toString("base64")] as const)

/** Trains, and says what was measured, which epoch was chosen, and which weights the model has in the end. */
export const trained: (
  given?: Partial<BestEpoch.Options>
) => Effect.Effect<
  { readonly best: BestEpoch.Epoch; readonly epochs: ReadonlyArray<BestEpoch.Epoch>; readonly weights: Bits },
  unknown,
  Device.Device | Scope.Scope
> = Effect.fnUntraced(function* (given: Partial<BestEpoch.Options> = {}) {
  const own = yield* learner
  const { best, epochs } = yield* BestEpoch.train(own, examples, { ...options, ...given }).pipe(
    Effect.provide(RewardModel.layerFunction("worth", ({ completion }) => score(completion.tokens)))
  )
  return { best, epochs, weights: bits((yield* own.state).tensors["weights"]!) }
})
