// A training run that a test kills and starts again: node resume-child.ts DIRECTORY ppo|everything|reward-model
// Prints a line whenever something begins or ends, so that the test knows where it is.
import { writeSync } from "node:fs"
import { type Learner, Policy, RewardModel } from "@attune/core"
import { ScalarHead } from "@attune/core/hub"
import { Optimizer } from "@attune/core/onnx"
import { type Device, OrtLearner, OrtPolicy, OrtScalarModel } from "@attune/core/ort"
import { Effect, type Scope } from "effect"
import * as Ppo from "../src/Ppo.ts"
import type { PpoLearners } from "../src/PpoLearners.ts"
import type { TokenizedRanking } from "../src/RankingSet.ts"
import * as RewardModelling from "../src/RewardModelling.ts"
import * as Tiny from "./tiny.ts"

const [directory, what] = process.argv.slice(2) as [string, string]

const marked =
  <Args extends ReadonlyArray<unknown>, A, E, R>(name: string, f: (...args: Args) => Effect.Effect<A, E, R>) =>
  (...args: Args): Effect.Effect<A, E, R> => {
    const mark = (moment: string) => Effect.sync(() => writeSync(1, `${name} ${moment}\n`))
    return mark("begins").pipe(
      Effect.andThen(f(...args)),
      Effect.tap(() => mark("ends"))
    )
  }

const markedState = <L extends Learner.Resumable>(name: string, learner: L): L => ({
  ...learner,
  state: marked(`state of ${name}`, () => learner.state)()
})

const ppo = Effect.gen(function* () {
  const settings = Tiny.config({
    episodes: 12 * 8,
    innerEpochs: 2,
    ...(what === "everything"
      ? {
          ema: 0.9,
          ptx: { coef: 1, examplesPerEpisode: 1 },
          kl: { _tag: "Adaptive", klCoef: 0.2, target: 0.1, horizon: 50 },
          targetKl: 0.02
        }
      : {})
  })
  const own = yield* Tiny.learners(settings, what === "everything" ? "separate" : "none")
  const learners: PpoLearners = {
    policy: { ...own.policy, sample: marked("sampling", own.policy.sample) },
    values: marked("values", own.values),
    update: marked("update", own.update),
    parts: Object.fromEntries(Object.entries(own.parts).map(([name, part]) => [name, markedState(name, part)]))
  }
  const reference = yield* OrtPolicy.make(Tiny.base())
  yield* Ppo.train(learners, settings, {
    prompts: Tiny.prompts,
    ...(settings.ptx === null ? {} : { pretraining: Tiny.pretraining }),
    directory,
    resume: true,
    checkpointEvery: 3,
    samplesEvery: 2,
    scoreBatch: 3
  }).pipe(
    Effect.provideService(Policy.Reference, { ...reference, logprobs: marked("reference", reference.logprobs) }),
    Effect.provideService(RewardModel.RewardModel, { ...Tiny.reward, score: marked("scores", Tiny.reward.score) })
  )
})

// Six rankings of two to four answers; longer ones are better.
const rankings: ReadonlyArray<TokenizedRanking> = Array.from({ length: 6 }, (_, i) => {
  const K = 2 + (i % 3)
  return {
    index: i,
    prompt: Tiny.prompts[i % Tiny.prompts.length]!,
    completions: Array.from({ length: K }, (_, k) => ({
      text: "",
      tokens: Int32Array.from({ length: k + 2 }, (_, t) => (i + k + t) % Tiny.vocabSize)
    })),
    ranks: Array.from({ length: K }, (_, k) => K - k),
    pairs: (K * (K - 1)) / 2
  }
})

const rewardModel = Effect.gen(function* () {
  const learner = yield* OrtLearner.make({
    model: yield* OrtScalarModel.make(ScalarHead.initial(Tiny.base(), { seed: 1 })),
    loss: RewardModelling.loss(),
    optimizer: Optimizer.adamW({ learningRate: 1e-2, weightDecay: 0.01, maxGradNorm: 1 }),
    accumulate: 2,
    stepsPerRun: 2,
    ema: 0.9
  })
  const own = { ...markedState("reward model", learner), update: marked("update", learner.update) }
  yield* RewardModelling.train(own, rankings, {
    epochs: 20,
    batchSize: 2,
    directory,
    resume: true,
    checkpointEvery: 5
  })
})

const program: Effect.Effect<void, unknown, Device.Device | Scope.Scope> = what === "reward-model" ? rewardModel : ppo

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(Tiny.layer)))
