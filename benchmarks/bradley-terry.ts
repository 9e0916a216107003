/**
 * Does reward modelling find the scores that rankings were drawn from? A small model learns from rankings of a known
 * Bradley-Terry model, and is held against the scores of that model on rankings it has not seen: no rule orders those better.
 */
import { NextToken, Progress, type Ranking, Tokenizer } from "@attune/core"
import { ScalarHead } from "@attune/core/hub"
import { LearningRate, Optimizer } from "@attune/core/onnx"
import { type Device, OrtLearner, OrtScalarModel } from "@attune/core/ort"
import { type Bootstrap, type Estimate, RankingAccuracy } from "@attune/eval"
import { RankingSet, RewardModelling } from "@attune/rlhf"
import { Effect, Result, Stream } from "effect"
import { type Bench, count, number } from "./Bench.ts"
import * as RandomModel from "./RandomModel.ts"

/** Sizes of the rankings and of what learns from them. */
export interface Sizes {
  /** Rankings to learn from, of 2 to 9 completions each, 64 in a step. */
  readonly rankings: number
  readonly heldOut: number
  readonly epochs: number
  readonly learningRate: number
  /** Standard deviation of the scores of completions, in nats: the larger, the less is left to chance. */
  readonly spread: number
  readonly seed: number
}

export const defaults: Sizes = {
  rankings: 8192,
  heldOut: 4096,
  epochs: 1,
  learningRate: 5e-3,
  spread: 1.5,
  seed: 1
}

const written = (text: ReadonlyArray<number>) => text.map((word) => word + 1).join(" ")

/** Rankings, and the scores that they were drawn from. */
export interface World {
  readonly rankings: ReadonlyArray<Ranking.Ranking>
  readonly scores: ReadonlyArray<ReadonlyArray<number>>
}

// Of prompts and of completions.
const length = 4
// Ids 1 to 16; 0 ends a completion.
const words = 16
const tokenizer: Tokenizer.Tokenizer = { ...Tokenizer.numeric(1 + words), eosId: 0, stopIds: [0] }

/**
 * Rankings of 2 to 9 different completions of different prompts. Every word has a worth, and the score of a completion is the
 * sum of its words'. Rankings are drawn by Plackett and Luce, so that each pair of them is one of Bradley and Terry's.
 */
export const world = (rankings: number, { seed, spread }: Pick<Sizes, "seed" | "spread">, first: number): World => {
  const fixed = NextToken.uniforms(seed)
  const normal = () => Math.sqrt(-2 * Math.log(1 - fixed())) * Math.cos(2 * Math.PI * fixed())
  const raw = Array.from({ length: words }, normal)
  const deviation = Math.sqrt(raw.reduce((sum, x) => sum + x * x, 0) / words)
  const worth = raw.map((x) => (spread * x) / (deviation * Math.sqrt(length)))
  const drawn = Array.from({ length: rankings }, (_, i) => {
    const next = NextToken.uniforms(NextToken.rowSeed(seed, first + i))
    const below = (bound: number) => Math.floor(bound * next())
    const text = () => Array.from({ length }, () => below(words))
    const prompt = text()
    const completions = new Map<string, number>()
    const K = 2 + below(8)
    while (completions.size < K) {
      const completion = text()
      const score = completion.reduce((sum, word) => sum + worth[word]!, 0)
      completions.set(written(completion), score)
    }
    const scores = [...completions.values()]
    const noisy = scores.map((score) => score - Math.log(-Math.log(1 - next())))
    const ranks = noisy.map((value) => 1 + noisy.filter((other) => other > value).length)
    return { ranking: { prompt: written(prompt), completions: [...completions.keys()], ranks }, scores }
  })
  return { rankings: drawn.map(({ ranking }) => ranking), scores: drawn.map(({ scores }) => scores) }
}

/** Pairwise accuracies on held-out rankings, and the paired difference of the trained model's and the best possible one. */
export interface Measured {
  readonly bayes: Estimate.Estimate
  readonly trained: Estimate.Estimate
  readonly difference: Bootstrap.PairedBootstrap
  readonly seconds: number
}

const accuracy = (scored: RankingAccuracy.Scored): Estimate.Estimate =>
  RankingAccuracy.scores(scored).find(({ metric }) => metric === "pairwise_accuracy")!.estimate

/** Draws rankings, trains a model on them, and measures it on others. */
export const measure: (sizes: Sizes) => Effect.Effect<Measured, unknown, Device.Device> = Effect.fnUntraced(function* (
  sizes
) {
  const { epochs, learningRate, seed } = sizes
  const shape = { batch: 1, length: 1 + 2 * length, vocab: tokenizer.vocabSize, width: 32, heads: 4, layers: 2 }
  const base = ScalarHead.initial({ ...RandomModel.make(shape), tokenizer }, { seed })
  const model = yield* OrtScalarModel.make(base)
  const { rankings } = yield* RankingSet.make(model, world(sizes.rankings, sizes, 0).rankings)
  const batchSize = 64
  const steps = Math.ceil(rankings.length / batchSize) * epochs
  const rate = LearningRate.warmUp(
    Math.ceil(steps / 10),
    LearningRate.cosine(learningRate, Math.ceil(0.9 * steps), learningRate / 10)
  )
  const optimizer = Optimizer.adamW({ learningRate: rate, beta2: 0.95 })
  const learner = yield* OrtLearner.make({ model, loss: RewardModelling.loss(), optimizer })
  const started = performance.now()
  yield* RewardModelling.train(learner, rankings, { epochs, batchSize, seed })
  const seconds = (performance.now() - started) / 1000
  const heldOut = world(sizes.heldOut, sizes, sizes.rankings)
  const options = { tokenizer, endOfText: true }
  const trained = yield* RankingAccuracy.score(OrtScalarModel.rewardModel(model), heldOut.rankings, options)
  const bayes = yield* Effect.fromResult(RankingAccuracy.fromScores("Bayes", heldOut.rankings, heldOut.scores))
  const difference = Result.getOrThrow(RankingAccuracy.compare(trained, bayes, { seed }))
  return { bayes: accuracy(bayes), trained: accuracy(trained), difference, seconds }
}, Effect.scoped)

export const bench: Bench = {
  question: "how close a reward model comes to the accuracy of the scores that its rankings were drawn from",
  flags: {
    rankings: `rankings to learn from, of 2 to 9 completions (default ${defaults.rankings})`,
    "held-out": `rankings to measure on (default ${defaults.heldOut})`,
    epochs: `passes over the rankings (default ${defaults.epochs})`,
    rate: `peak learning rate (default ${defaults.learningRate})`,
    spread: `standard deviation of scores, in nats (default ${defaults.spread})`,
    seeds: "worlds, each with its own scores and rankings (default 3)"
  },
  run: ({ flags }) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const sizes = {
          rankings: yield* count(flags, "rankings", defaults.rankings),
          heldOut: yield* count(flags, "held-out", defaults.heldOut),
          epochs: yield* count(flags, "epochs", defaults.epochs),
          learningRate: yield* number(flags, "rate", defaults.learningRate),
          spread: yield* number(flags, "spread", defaults.spread)
        }
        const seeds = yield* count(flags, "seeds", 3)
        return Stream.range(1, seeds).pipe(
          Stream.mapEffect((seed) =>
            measure({ ...sizes, seed }).pipe(Effect.provide(Progress.layer({ mode: "quiet" })))
          ),
          Stream.flatMap(({ bayes, difference, seconds, trained }) => {
            const { clusters, n } = trained
            const name = `${clusters ?? n} prompts, ${n} pairs`
            const points = (value: number | null) => [100 * (value ?? Number.NaN)]
            return Stream.fromIterable([
              { case: `Bayes, ${name}`, unit: "%", values: points(bayes.value) },
              { case: "reward model", unit: "%", values: points(trained.value) },
              { case: "difference", unit: "points", values: points(difference.difference.value) },
              { case: "difference, lower end", unit: "points", values: points(difference.difference.low) },
              { case: "difference, upper end", unit: "points", values: points(difference.difference.high) },
              { case: "training", unit: "s", values: [seconds] }
            ])
          })
        )
      })
    )
}
