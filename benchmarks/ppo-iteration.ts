/**
 * How long does an iteration of PPO take, without and with a value model, and how does that compare with a peer?
 */
import { Policy, Progress, RewardModel } from "@attune/core"
import { Pretrained, ScalarHead } from "@attune/core/hub"
import { OrtLearner, OrtPolicy, OrtScalarModel } from "@attune/core/ort"
import { Ppo, PpoConfig, PpoLearners } from "@attune/rlhf"
import { Effect, References, Stream } from "effect"
import { type Bench, type Case, count, number } from "./Bench.ts"
import * as Peer from "./Peer.ts"

const openings = ["Once upon a time", "Tom and Lily", "The big dog", "One day, a little girl"]

const reward = RewardModel.fromFunction("happy", ({ completion }) => completion.text.split("happy").length - 1)

export const bench: Bench = {
  question:
    "seconds of one on-policy iteration: sampling, scripted reward, log-probs of a frozen reference, one optimizer step",
  flags: {
    model: "model directory (default ../shared/data/tinystories-656K)",
    completions: "sampled in an iteration, eight of each prompt (default 64)",
    tokens: "most new tokens of a completion (default 128)",
    rate: "learning rate (default 1e-5)",
    iterations: "iterations of a round that are measured, after one that is not (default 4)",
    rounds: "rounds over both variants (default 3)",
    peer: "shell command that prints seconds_per_iteration and mean_length; run after each round, and compared"
  },
  run: ({ flags }) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const base = yield* Pretrained.load(flags.get("model") ?? "../shared/data/tinystories-656K")
        const batchSize = yield* count(flags, "completions", 64, 8)
        const maxNewTokens = yield* count(flags, "tokens", 128)
        const learningRate = yield* number(flags, "rate", 1e-5)
        const iterations = yield* count(flags, "iterations", 4)
        const rounds = yield* count(flags, "rounds", 3)
        const command = flags.get("peer")
        const prompts = yield* Effect.forEach(openings, (text) => Effect.fromResult(base.tokenizer.prompt(text)))
        const config = yield* Effect.fromResult(
          PpoConfig.make("instructgpt", {
            episodes: batchSize * (1 + iterations),
            batchSize,
            minibatchSize: batchSize,
            samplesPerPrompt: 8,
            innerEpochs: 1,
            maxNewTokens,
            maxGradNorm: 1,
            policyLearningRate: learningRate,
            valueLearningRate: learningRate,
            warmUpIterations: 0,
            ptx: null,
            ema: null
          })
        )

        const reference = yield* OrtPolicy.make(base)
        const policyOf = Effect.gen(function* () {
          return yield* OrtLearner.make({ model: yield* OrtPolicy.make(base), ...PpoLearners.policyOptions(config) })
        })
        const value = yield* OrtLearner.make({
          model: yield* OrtScalarModel.make(ScalarHead.initial(base, { seed: 1 })),
          ...PpoLearners.valueOptions(config)
        })
        const variants = [
          { name: "policy only", learners: PpoLearners.policyOnly(yield* policyOf) },
          { name: "with a value model", learners: PpoLearners.separate(yield* policyOf, value) }
        ]
        const measured = variants.map(({ learners, name }) => ({
          name,
          learners,
          seconds: [] as Array<number>,
          lengths: [] as Array<number>,
          differences: [] as Array<number>
        }))
        const peer = { seconds: [] as Array<number>, lengths: [] as Array<number> }

        for (let round = 0; round < rounds; round++) {
          for (const { differences, learners, lengths, seconds } of measured) {
            const parts = Object.values(learners.parts)
            const starts = yield* Effect.forEach(parts, (part) => part.state)
            // An iteration lasts from the end of one update to that of the next.
            const ends: Array<number> = []
            const mark = Effect.sync(() => ends.push(performance.now()))
            const update: typeof learners.update = (minibatches) => Effect.tap(learners.update(minibatches), mark)
            const { reports } = yield* Ppo.train({ ...learners, update }, { ...config, seed: round }, { prompts }).pipe(
              Effect.provide(Progress.layer({ mode: "quiet" })),
              // What training warns of would stand among the lines.
              Effect.provideService(References.MinimumLogLevel, "None"),
              Effect.provideService(Policy.Reference, reference),
              Effect.provideService(RewardModel.RewardModel, reward)
            )
            seconds.push(...ends.slice(1).map((end, i) => (end - ends[i]!) / 1000))
            for (const report of reports.slice(1)) {
              lengths.push(report["rollout/length"]!)
              differences.push(report["rollout/max_logprob_difference"]!)
            }
            yield* Effect.forEach(parts, (part, i) => part.restore(starts[i]!))
          }
          if (command === undefined) continue
          const printed = yield* Peer.measureAll(command, ["seconds_per_iteration", "mean_length"])
          peer.seconds.push(printed.seconds_per_iteration)
          peer.lengths.push(printed.mean_length)
        }
        const theirLengths: ReadonlyArray<Case> =
          command === undefined ? [] : [{ case: "peer, tokens per completion", unit: "tokens", values: peer.lengths }]
        return Stream.fromIterable([
          ...measured.flatMap(({ differences, lengths, name, seconds }) => [
            ...Peer.compared({ case: name, unit: "s/iteration", values: seconds }, peer.seconds, "less"),
            { case: `${name}, tokens per completion`, unit: "tokens", values: lengths },
            { case: `${name}, max |Δlogprob|`, unit: "nats", values: differences }
          ]),
          ...theirLengths
        ])
      })
    )
}
