/**
 * How near does PPO come to the best policy, where that is known? Answers of one token, whose worth is a table: the best policy
 * is the reference's, tilted by exp(worth / klCoef).
 */
import { Kl, Policy, Progress, Prompt, RewardModel } from "@attune/core"
import { ScalarHead } from "@attune/core/hub"
import { OrtLearner, OrtPolicy, OrtScalarModel } from "@attune/core/ort"
import { Ppo, PpoConfig, PpoLearners } from "@attune/rlhf"
import { Effect, Layer, Logger, Stream } from "effect"
import { type Bench, type Case, count } from "./Bench.ts"
import * as RandomModel from "./RandomModel.ts"

const klCoef = 0.5
const prompts = [1, 2, 3]
const table = [0.3, -0.8, 1, 0, -0.4, 0.7, -1, 0.5, -0.2, 0.9, -0.6, 0.1]
const shape = { batch: 1, length: 8, vocab: table.length, width: 8, heads: 2, layers: 1 }

// Prompts like other tokens; with an `offset` a prompt is also worth more than another, whatever the answer.
const worth = (offset: number) => (prompt: number, token: number) =>
  table[(token + 5 * prompt) % table.length]! + offset * prompt

// The largest divergence of the trained policy from the best one, over prompts.
const trained = Effect.fnUntraced(function* (
  values: boolean,
  worthOf: ReturnType<typeof worth>,
  { batch, iterations, seed }: { readonly batch: number; readonly iterations: number; readonly seed: number }
) {
  const config = yield* Effect.fromResult(
    PpoConfig.make("instructgpt", {
      episodes: iterations * batch,
      batchSize: batch,
      minibatchSize: batch / 4,
      innerEpochs: 2,
      maxNewTokens: 1,
      kl: { _tag: "Fixed", klCoef },
      policyLearningRate: 2e-2,
      valueLearningRate: 2e-2,
      schedule: { _tag: "Linear", floor: 0 },
      warmUpIterations: 0,
      valueClipRange: null,
      ptx: null,
      ema: null,
      seed
    })
  )
  const base = RandomModel.make(shape)
  const reference = yield* OrtPolicy.make(base)
  const model = yield* OrtPolicy.make(base)
  const policy = yield* OrtLearner.make({ model, ...PpoLearners.policyOptions(config) })
  const value = Effect.gen(function* () {
    const scalar = yield* OrtScalarModel.make(ScalarHead.initial(base, { seed: 1 }))
    return yield* OrtLearner.make({ model: scalar, ...PpoLearners.valueOptions(config) })
  })
  const learners = values ? PpoLearners.separate(policy, yield* value) : PpoLearners.policyOnly(policy)
  const reward = RewardModel.fromFunction("table", ({ completion, prompt }) =>
    worthOf(prompt.tokens[0]!, completion.tokens[0]!)
  )
  yield* Ppo.train(learners, config, { prompts: prompts.map((id) => Prompt.make(String(id), [id])) }).pipe(
    Effect.provideService(Policy.Reference, reference),
    Effect.provideService(RewardModel.RewardModel, reward),
    // Quiet, since that no answer ends by itself is how it is here.
    Effect.provide(Layer.merge(Progress.layer({ mode: "quiet" }), Logger.layer([])))
  )
  const tokens = Array.from(table, (_, token) => token)
  const distances = yield* Effect.forEach(prompts, (prompt) =>
    Effect.gen(function* () {
      const all = tokens.map((token) => ({ prompt: [prompt], completion: [token] }))
      const own = (yield* model.logprobs(all)).map(([logprob]) => logprob!)
      const tilted = (yield* reference.logprobs(all)).map(([logprob], i) => logprob! + worthOf(prompt, i) / klCoef)
      const logZ = Math.log(tilted.reduce((sum, x) => sum + Math.exp(x), 0))
      return Kl.exact(
        tilted.map((x) => x - logZ),
        own
      )
    })
  )
  return Math.max(...distances)
}, Effect.scoped)

export const bench: Bench = {
  question: "KL(best policy || trained policy) of one token in nats, over prompts the largest, a value for each seed",
  flags: {
    seeds: "runs, seeded 1, 2, ... (default 5)",
    iterations: "iterations of PPO (default 40)",
    batch: "answers of an iteration, a multiple of 4 (default 128)"
  },
  run: ({ flags }) =>
    Stream.fromIterable([
      { name: "policy alone", values: false, offset: 0 },
      { name: "with values", values: true, offset: 2 }
    ]).pipe(
      Stream.mapEffect(({ name, offset, values }) =>
        Effect.gen(function* () {
          const seeds = yield* count(flags, "seeds", 5)
          const iterations = yield* count(flags, "iterations", 40)
          const batch = yield* count(flags, "batch", 128, 4)
          const kls = yield* Effect.forEach(
            Array.from({ length: seeds }, (_, i) => i + 1),
            (seed) => trained(values, worth(offset), { batch, iterations, seed })
          )
          return { case: name, unit: "nats", values: kls } satisfies Case
        })
      )
    )
}
