/**
 * A policy of one weight that samples without a model, for tests of what PPO does around its models.
 */
import {
  Completion,
  type Learner,
  NextToken,
  Policy,
  Progress,
  Prompt,
  RewardModel,
  Tensor,
  Tokenizer
} from "@attune/core"
import { Effect, Layer, Logger, Result, Stream } from "effect"
import * as Ppo from "../src/Ppo.ts"
import * as PpoConfig from "../src/PpoConfig.ts"
import type { PpoLearners } from "../src/PpoLearners.ts"

export const vocabSize = 8

/** Ids as words; 0 ends an answer. */
export const tokenizer: Tokenizer.Tokenizer = { ...Tokenizer.numeric(vocabSize), eosId: 0, stopIds: [0] }

export const prompts: ReadonlyArray<Prompt.Prompt> = [[1], [2, 3], [4]].map((ids) => Prompt.make(ids.join(" "), ids))

/** Six iterations of four answers each. */
export const config = (settings: PpoConfig.PpoConfigInput = {}): PpoConfig.PpoConfig =>
  Result.getOrThrow(
    PpoConfig.make("instructgpt", {
      episodes: 24,
      batchSize: 4,
      minibatchSize: 2,
      maxNewTokens: 3,
      warmUpIterations: 0,
      ptx: null,
      ema: null,
      kl: { _tag: "Adaptive", klCoef: 0.2, target: 0.5, horizon: 20 },
      ...settings
    })
  )

const logprob = (weight: number, token: number) => -2 + 0.01 * weight * token

/** What happens when the policy samples or is updated; `iteration` counts the calls of this one, from 0. */
export interface Hooks {
  readonly sampling?: (iteration: number) => Effect.Effect<void>
  readonly updating?: (iteration: number) => Effect.Effect<void, Learner.LearnerError>
}

/** A policy of the weight given, or of one that changes. */
export const policy = (
  weight: () => number = () => 0,
  { sampling = () => Effect.void }: Hooks = {}
): Policy.PolicyShape & { readonly sampled: ReadonlyArray<ReadonlyArray<string>> } => {
  const sampled: Array<ReadonlyArray<string>> = []
  return {
    name: "scripted",
    tokenizer,
    vocabSize,
    contextLength: 8,
    sampled,
    stream: () => Stream.empty,
    sample: (asked, { maxNewTokens = 1, rowSeeds = [] }) =>
      Effect.gen(function* () {
        yield* sampling(sampled.length)
        sampled.push(asked.map((prompt) => (typeof prompt === "string" ? prompt : prompt.text)))
        return asked.map((_, i) => {
          const uniform = NextToken.uniforms(rowSeeds[i]!)
          const drawn = Array.from({ length: maxNewTokens }, () => Math.floor(uniform() * vocabSize))
          const end = drawn.indexOf(0)
          const tokens = Int32Array.from(end < 0 ? drawn : drawn.slice(0, end + 1))
          const logprobs = Float32Array.from(tokens, (token) => logprob(weight(), token))
          const finishReason = end < 0 ? "length" : "stop"
          const text = tokenizer.decode(tokens)
          return Completion.make({ tokens, logprobs, untemperedLogprobs: logprobs, text, finishReason })
        })
      }),
    logprobs: (continuations) =>
      Effect.succeed(
        continuations.map(({ completion }) => Float32Array.from(completion, (token) => logprob(weight(), token)))
      )
  }
}

/** Learners whose weight depends on every advantage that it was ever updated with. */
export const learners = (hooks: Hooks = {}): PpoLearners & { readonly weight: () => number } => {
  let weight = 1
  let steps = 0
  let updates = 0
  const own = policy(() => weight, hooks)
  const part: Learner.Resumable = {
    fingerprint: "scripted",
    stepsPerRun: 1,
    state: Effect.sync(() => ({
      step: steps,
      tensors: { weights: new Map([["weight", Tensor.float32([weight])]]) }
    })),
    restore: ({ step, tensors }) =>
      Effect.sync(() => {
        steps = step
        weight = tensors["weights"]!.get("weight")!.data[0]!
      })
  }
  return {
    weight: () => weight,
    policy: own,
    values: (continuations) =>
      Effect.succeed(continuations.map(({ completion }) => new Float32Array(completion.length).fill(weight / 10))),
    parts: { policy: part },
    update: (minibatches) =>
      Effect.gen(function* () {
        yield* (hooks.updating ?? (() => Effect.void))(updates++)
        const policy = minibatches.map(({ episodes }) => {
          steps++
          for (const { advantages } of episodes)
            for (const a of advantages) weight = Math.fround(weight * 0.99 + a / 10)
          return {
            policy_loss: weight,
            ptx_loss: 0,
            approxkl: 0,
            clipfrac: 0,
            entropy: 1,
            ratio: 1,
            max_logprob_difference: 0,
            grad_norm: 1,
            learning_rate: 0.1
          }
        })
        return { policy, value: policy.map(() => ({ value_loss: weight, value_clipfrac: 0, grad_norm: 1 })) }
      })
  }
}

/** A quarter of the first token of an answer. */
export const reward = RewardModel.fromFunction("scripted", ({ completion }) => completion.tokens[0]! / 4)

export interface TrainOptions extends Partial<Ppo.Options> {
  readonly reward?: RewardModel.RewardModelShape
  readonly reference?: Policy.PolicyShape
}

/** Trains with the reward, against the policy of weight 0. */
export const train = (
  own: PpoLearners,
  settings: PpoConfig.PpoConfig,
  options: TrainOptions = {}
): Effect.Effect<Ppo.Trained, Effect.Error<ReturnType<typeof Ppo.train>>> => {
  const { reference = policy(), reward: scored = reward, ...rest } = options
  return Ppo.train(own, settings, { prompts, ...rest }).pipe(
    Effect.provideService(Policy.Reference, reference),
    Effect.provideService(RewardModel.RewardModel, scored),
    Effect.provide(Layer.merge(Progress.layer({ mode: "quiet" }), Logger.layer([])))
  )
}
