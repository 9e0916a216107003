/**
 * Tiny models with seeded weights, and PPO with them, for tests of what trains.
 */
import { type Loss, NextToken, Policy, Progress, Prompt, RewardModel, Sft, Tensor, Tokenizer } from "@attune/core"
import { type Pretrained, ScalarHead } from "@attune/core/hub"
import { type Decoder, Gpt2 } from "@attune/core/nn"
import { Device, OrtLearner, OrtPolicy, OrtScalarModel } from "@attune/core/ort"
import { Effect, Layer, Logger, Result, Schema, type Scope } from "effect"
import * as Ppo from "../src/Ppo.ts"
import * as PpoConfig from "../src/PpoConfig.ts"
import * as PpoLearners from "../src/PpoLearners.ts"

export const vocabSize = 12
export const contextLength = 16

/** Ids as words; 0 ends an answer. */
export const tokenizer: Tokenizer.Tokenizer = { ...Tokenizer.numeric(vocabSize), eosId: 0, stopIds: [0] }

const weightsOf = (decoder: Decoder.Decoder, seed: number) => {
  const uniform = NextToken.uniforms(seed)
  return new Map(
    decoder.parameters.map(({ name, shape }) => {
      const isNorm = shape.length === 1 && name.endsWith(".weight")
      const spread = name.includes("wte") ? 0.6 : 0.3
      const values = Float32Array.from({ length: Tensor.size(shape) }, () => +isNorm + spread * (2 * uniform() - 1))
      return [name, Tensor.float32(values, shape)]
    })
  )
}

/** A GPT-2 of two thousand parameters. */
export const base = (seed = 1): Pretrained.Pretrained => {
  const config = {
    model_type: "gpt2",
    vocab_size: vocabSize,
    n_embd: 8,
    n_head: 2,
    n_layer: 1,
    n_positions: contextLength
  }
  const decoder = Gpt2.make(Schema.decodeUnknownSync(Gpt2.Gpt2Config)(config))
  return { name: `tiny ${seed}`, config, decoder, tokenizer, weights: weightsOf(decoder, seed) }
}

export const prompt = (...tokens: ReadonlyArray<number>): Prompt.Prompt => Prompt.make(tokens.join(" "), tokens)

export const prompts: ReadonlyArray<Prompt.Prompt> = [prompt(1), prompt(2, 3), prompt(4, 5, 6), prompt(7), prompt(8, 9)]

export const pretraining: ReadonlyArray<Loss.Example<Record<never, never>>> = [
  Sft.example([], [1, 2, 3, 4]),
  Sft.example([], [5, 6, 0]),
  Sft.example([2], [7, 8, 9, 10, 11])
]

/** Settings small enough for a test; `maxNewTokens` 4 of 16. */
export const config = (settings: PpoConfig.PpoConfigInput = {}): PpoConfig.PpoConfig =>
  Result.getOrThrow(
    PpoConfig.make("instructgpt", {
      episodes: 32,
      batchSize: 8,
      minibatchSize: 4,
      maxNewTokens: 4,
      policyLearningRate: 3e-3,
      valueLearningRate: 3e-3,
      warmUpIterations: 0,
      ptx: null,
      ema: null,
      ...settings
    })
  )

export type Values = "none" | "separate" | "shared"

/** Learners of a tiny policy; their values come from nothing, a model of their own, or the trunk. */
export const learners: (
  settings: PpoConfig.PpoConfig,
  values?: Values,
  seed?: number
) => Effect.Effect<PpoLearners.PpoLearners, never, Device.Device | Scope.Scope> = Effect.fnUntraced(function* (
  settings,
  values = "none",
  seed = 1
) {
  if (values === "shared") {
    const both = ScalarHead.initial(base(seed), { seed: 1, keepLanguage: true })
    const model = yield* OrtScalarModel.makeActorCritic(both)
    return PpoLearners.shared(yield* OrtLearner.make({ model, ...PpoLearners.sharedOptions(settings) }))
  }
  const model = yield* OrtPolicy.make(base(seed))
  const policy = yield* OrtLearner.make({ model, ...PpoLearners.policyOptions(settings) })
  if (values === "none") return PpoLearners.policyOnly(policy)
  const scalar = yield* OrtScalarModel.make(ScalarHead.initial(base(seed), { seed: 1 }))
  return PpoLearners.separate(policy, yield* OrtLearner.make({ model: scalar, ...PpoLearners.valueOptions(settings) }))
}, Effect.orDie)

/** More for each 3 in the answer, less for each token. */
export const reward = RewardModel.fromFunction("threes", ({ completion }) =>
  Array.from(completion.tokens, (id): number => (id === 3 ? 1 : -0.1)).reduce((sum, x) => sum + x, 0)
)

export interface TrainOptions extends Partial<Ppo.Options> {
  readonly reward?: RewardModel.RewardModelShape
  readonly reference?: Policy.PolicyShape
}

/** Trains with the reward, against the model that the policy started from. */
export const train: (
  own: PpoLearners.PpoLearners,
  settings: PpoConfig.PpoConfig,
  options?: TrainOptions
) => Effect.Effect<Ppo.Trained, Effect.Error<ReturnType<typeof Ppo.train>>, Device.Device | Scope.Scope> =
  Effect.fnUntraced(function* (own, settings, options = {}) {
    const { reference, reward: scored = reward, ...rest } = options
    const frozen = reference ?? (yield* Effect.orDie(OrtPolicy.make(base())))
    return yield* Ppo.train(own, settings, {
      prompts,
      ...(settings.ptx === null ? {} : { pretraining }),
      ...rest
    }).pipe(Effect.provideService(Policy.Reference, frozen), Effect.provideService(RewardModel.RewardModel, scored))
  })

/** What the effects above need: a device in this thread, and silence on the terminal. */
export const layer = Layer.mergeAll(
  Device.layerInProcess({ provider: "cpu", threads: 1 }),
  Progress.layer({ mode: "quiet" }),
  Logger.layer([])
)
