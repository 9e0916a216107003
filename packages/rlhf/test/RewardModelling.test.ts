import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Learner, NextToken, Progress, Prompt, RunLog, Tensor } from "@attune/core"
import type { Pretrained } from "@attune/core/hub"
import { Optimizer } from "@attune/core/onnx"
import { Device, OrtLearner, OrtScalarModel } from "@attune/core/ort"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { afterAll } from "vitest"
import * as PairwiseLoss from "../src/PairwiseLoss.ts"
import * as RankingSet from "../src/RankingSet.ts"
import * as RewardModelling from "../src/RewardModelling.ts"
import * as Golden from "./Golden.ts"
import * as LossGraph from "./LossGraph.ts"

const oneThread = Layer.merge(Device.layerInProcess({ provider: "cpu", threads: 1 }), Progress.layer({ mode: "quiet" }))

const close = (actual: number, expected: number, what: string, tolerance = 2e-7) =>
  assert.closeTo(actual, expected, tolerance * Math.max(1, Math.abs(expected)), what)
const closeAll = (actual: ArrayLike<number>, expected: ArrayLike<number>, what: string, tolerance = 2e-7) => {
  assert.strictEqual(actual.length, expected.length, what)
  for (let i = 0; i < expected.length; i++) close(actual[i]!, expected[i]!, `${what}, completion ${i}`, tolerance)
}

const tokenized = (
  prompt: ReadonlyArray<number>,
  completions: ReadonlyArray<ReadonlyArray<number>>,
  ranks: ReadonlyArray<number>,
  index = 0
): RankingSet.TokenizedRanking => ({
  index,
  prompt: Prompt.make(prompt.join(" "), prompt),
  completions: completions.map((tokens) => ({ text: tokens.join(" "), tokens: Int32Array.from(tokens) })),
  ranks,
  pairs: ranks.flatMap((rank, i) => ranks.slice(i + 1).filter((other) => other !== rank)).length
})

// The loss of rankings whose completions have these scores, which is all that it knows of them.
const ofScores = Effect.fnUntraced(function* (
  prompts: ReadonlyArray<PairwiseLoss.Scored>,
  options?: RewardModelling.LossOptions
) {
  const groups = prompts.map(({ ranks }, number) => {
    const completions = ranks.map((_, i) => [i])
    return RewardModelling.group(tokenized([0], completions, ranks), number)
  })
  const sequences = groups.flat()
  const total = sequences.reduce((sum, { weights }) => sum + weights.at(-1)!, 0)
  const field = (name: keyof RewardModelling.Fields) => sequences.map(({ fields }) => fields[name][0]!)
  return yield* LossGraph.evaluate(
    RewardModelling.loss(options),
    { values: prompts.flatMap(({ scores }) => Array.from(scores)) },
    { ranking: field("ranking"), rank: field("rank"), pairShare: field("pairShare") },
    sequences.map(({ weights }) => weights.at(-1)! / total)
  )
})

const four = { scores: [2, 1, 0.5, -1], ranks: [1, 2, 3, 4] }

describe("the loss", () => {
  it.effect("R2, R2b: is the mean over the pairs of a prompt, with a gradient that adds up to 0", () =>
    Effect.gen(function* () {
      const { gradients, loss } = yield* ofScores([four])
      close(loss, 0.22761343, "loss")
      closeAll(gradients["values"]!, [-0.08313214, -0.03796703, 0.06292344, 0.05817572], "gradient")
      close(
        gradients["values"]!.reduce((sum, slope) => sum + slope, 0),
        0,
        "sum",
        1e-8
      )
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("R2c: depends on differences of scores alone", () =>
    Effect.gen(function* () {
      for (const shift of [-8, 0.25, 64]) {
        const { loss } = yield* ofScores([{ ...four, scores: four.scores.map((score) => score + shift) }])
        close(loss, 0.22761343, `shifted by ${shift}`)
      }
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("R3: leaves ties out of the sum and of what it is divided by", () =>
    Effect.gen(function* () {
      const { gradients, loss, metrics } = yield* ofScores([{ ...four, ranks: [1, 2, 2, 3] }])
      close(loss, 0.17832072, "loss")
      closeAll(gradients["values"]!, PairwiseLoss.gradient(four.scores, [1, 2, 2, 3]), "gradient")
      close(metrics.accuracy, 1, "accuracy")
      close(metrics.score_margin, (1 + 1.5 + 3 + 2 + 1.5) / 5, "score_margin")
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("R4: counts every prompt the same, whatever its K", () =>
    Effect.gen(function* () {
      const two = { scores: [2, 1], ranks: [1, 2] }
      const three = { scores: [0, 0.5, -1], ranks: [1, 2, 3] }
      close((yield* ofScores([two])).loss, 0.31326169, "K = 2")
      close((yield* ofScores([three])).loss, 0.49625065, "K = 3")
      const both = yield* ofScores([two, three])
      close(both.loss, 0.40475617, "both")
      close(both.metrics.accuracy, (1 + 2 / 3) / 2, "accuracy")
      close(both.metrics.score_margin, (1 + (-0.5 + 1 + 1.5) / 3) / 2, "score_margin")
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("of equal scores is log 2, and still pulls them apart", () =>
    Effect.gen(function* () {
      const { gradients, loss, metrics } = yield* ofScores([{ scores: [3, 3], ranks: [2, 1] }])
      close(loss, Math.LN2, "loss")
      assert.deepStrictEqual(gradients["values"], [0.5, -0.5])
      assert.deepStrictEqual(metrics, { accuracy: 0.5, score_margin: 0 })
      const all = yield* ofScores([{ scores: [0, 0, 0, 0], ranks: [1, 2, 3, 4] }])
      closeAll(all.gradients["values"]!, [-1.5 / 6, -0.5 / 6, 0.5 / 6, 1.5 / 6], "gradient")
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("stays finite where the exponential would not", () =>
    Effect.gen(function* () {
      const { gradients, loss } = yield* ofScores([{ scores: [-500, 500], ranks: [1, 2] }])
      assert.strictEqual(loss, 1000)
      assert.deepStrictEqual(gradients["values"], [-1, 1])
      const right = yield* ofScores([{ scores: [500, -500], ranks: [1, 2] }])
      assert.strictEqual(right.loss, 0)
      assert.deepStrictEqual(Array.from(right.gradients["values"]!, Math.abs), [0, 0])
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("reads ranks as an order, however large they are", () =>
    Effect.gen(function* () {
      const large = 2 ** 40
      const { loss } = yield* ofScores([{ ...four, ranks: [large, large + 1, large + 1, large + 5] }])
      close(loss, 0.17832072, "loss")
    }).pipe(Effect.provide(oneThread))
  )

  // Rankings of 2 to 9 completions, with and without ties, all in one step.
  const mixed = (seed: number): ReadonlyArray<PairwiseLoss.Scored> => {
    const next = NextToken.uniforms(seed)
    return [2, 9, 4, 3, 8, 2, 5, 7, 6, 9].map((K, i) => ({
      scores: Array.from({ length: K }, () => Math.fround(6 * next() - 3)),
      // No ranking is tied throughout, which RankingSet leaves out.
      ranks: [1, ...Array.from({ length: K - 1 }, () => 2 + Math.floor(next() * (i % 2 === 0 ? K : 100 * K)))]
    }))
  }

  for (const options of [{}, { margin: 0.75 }, { centering: 0.1 }, { margin: -0.5, centering: 0.01 }]) {
    it.effect(`is that of double precision: ${JSON.stringify(options)}`, () =>
      Effect.gen(function* () {
        const prompts = mixed(11)
        const { gradients, loss, metrics } = yield* ofScores(prompts, options)
        close(loss, PairwiseLoss.mean(prompts, options), "loss", 1e-6)
        const expected = PairwiseLoss.meanGradients(prompts, options).flatMap((slopes) => [...slopes])
        closeAll(gradients["values"]!, expected, "gradient")
        const ahead = prompts.map(({ ranks, scores }) => {
          const pairs = ranks.flatMap((rank, i) =>
            ranks.flatMap((other, j) => (rank < other ? [scores[i]! - scores[j]!] : []))
          )
          const mean = (of: (difference: number) => number) =>
            pairs.reduce((sum, difference) => sum + of(difference), 0) / pairs.length
          return { accuracy: mean((difference) => (difference > 0 ? 1 : 0)), margin: mean((difference) => difference) }
        })
        const mean = (name: "accuracy" | "margin") => ahead.reduce((sum, of) => sum + of[name], 0) / ahead.length
        close(metrics.accuracy, mean("accuracy"), "accuracy", 1e-6)
        close(metrics.score_margin, mean("margin"), "score_margin", 1e-6)
      }).pipe(Effect.provide(oneThread))
    )
  }
})

const opened = Effect.fnUntraced(function* (
  base: Pretrained.Pretrained,
  options: Partial<
    Pick<OrtLearner.Options<RewardModelling.Fields, string>, "accumulate" | "optimizer" | "stepsPerRun">
  >,
  loss?: RewardModelling.LossOptions
) {
  const model = yield* OrtScalarModel.make(base)
  // The first moment after a step is its gradient; weights do not move.
  const optimizer = Optimizer.adamW({ learningRate: 1e-30, beta1: 0 })
  return yield* OrtLearner.make({ model, loss: RewardModelling.loss(loss), optimizer, ...options })
})

const goldenRankings = Golden.rankings.map(({ completions, prompt, ranks }, i) =>
  tokenized(prompt, completions, ranks, i)
)

describe("a step", () => {
  for (const name of ["ranking", "ranking with margin and centering"]) {
    it.effect(`is that of PyTorch, whatever it is cut into: ${name}`, () =>
      Effect.gen(function* () {
        const golden = Golden.cases[name]!
        for (const accumulate of [1, 2, 3]) {
          const learner = yield* opened(Golden.model("scalar"), { accumulate }, golden.settings)
          const [report] = yield* learner.update([goldenRankings.map(RewardModelling.group)])
          Golden.assertReport(report!, golden)
          Golden.assertGradients(yield* learner.state, golden.gradients)
        }
      }).pipe(Effect.scoped, Effect.provide(oneThread))
    )
  }

  it.effect("is the same, bit for bit, beside steps that pad it", () =>
    Effect.gen(function* () {
      const learner = yield* opened(Golden.model("scalar"), {})
      const short = [RewardModelling.group(tokenized([1], [[2], [3, 4]], [2, 1]), 0)]
      const [alone] = yield* learner.update([short])
      const [padded] = yield* learner.update([short, goldenRankings.map(RewardModelling.group)])
      assert.deepStrictEqual({ ...padded! }, { ...alone! })
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("takes a completion that fills the context, and refuses a longer one", () =>
    Effect.gen(function* () {
      const base = Golden.model("scalar")
      const learner = yield* opened(base, {})
      const filling = (length: number) => [
        RewardModelling.group(tokenized([1, 2], [Array.from({ length: length - 2 }, (_, i) => i), [3]], [1, 2]), 0)
      ]
      const { contextLength } = base.decoder
      assert.strictEqual((yield* learner.update([filling(contextLength)]))[0]!["tokens"], 2)
      const error = yield* Effect.flip(learner.update([filling(contextLength + 1)]))
      assert.include(error.message, `more than the model's context of ${contextLength}`)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

describe("scores", () => {
  it.effect("are read at the last token, beside shorter and longer ones and alone", () =>
    Effect.gen(function* () {
      const model = yield* OrtScalarModel.make(Golden.model("scalar"))
      const all = Golden.rankings.flatMap(({ completions, prompt, scores }) =>
        completions.map((completion, i) => ({ prompt, completion, score: scores[i]! }))
      )
      const together = yield* model.scores(all)
      closeAll(
        together,
        all.map(({ score }) => score),
        "together",
        1e-5
      )
      for (const { score, ...one } of all) close((yield* model.scores([one]))[0]!, score, "alone", 1e-5)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

// A model that adds nothing to the embedding of the last token, of which those of ids 0 to 7 are orthogonal: each has a
// score of its own.
const lastToken = (scores: ReadonlyArray<number>): Pretrained.Pretrained => {
  const base = Golden.model("scalar")
  const width = base.decoder.width
  const weights = new Map(base.weights)
  for (const [name, { shape }] of base.weights) {
    const { length } = base.weights.get(name)!.data
    if (/o_proj|down_proj/.test(name)) weights.set(name, Tensor.zeros(shape))
    if (name === "model.norm.weight") weights.set(name, Tensor.float32(new Float32Array(length).fill(1), shape))
  }
  const [embedding, head] = ["model.embed_tokens.weight", "score.weight"]
  const rows = weights.get(embedding)!.data.slice()
  for (let i = 0; i < width * width; i++) rows[i] = i % (width + 1) === 0 ? Math.sqrt(width) : 0
  const row = Float32Array.from({ length: width }, (_, i) => (scores[i] ?? 0) / Math.sqrt(width))
  weights.set(embedding, Tensor.float32(rows, [base.decoder.vocabSize, width]))
  weights.set(head, Tensor.float32(row, [1, width]))
  weights.set("score.bias", Tensor.zeros([1]))
  return { ...base, weights }
}

describe("centre", () => {
  const demonstrations = [
    { prompt: "9 8", completion: "5 0" },
    { prompt: "7", completion: "1" },
    { prompt: "", completion: "4 4 2" }
  ]

  it.effect("R5: shifts scores so that demonstrations score 0 on average, and nothing else", () =>
    Effect.gen(function* () {
      const model = yield* OrtScalarModel.make(lastToken([1.2, 0.8, -0.5, 3]))
      const continuations = [
        { prompt: [9, 8], completion: [5, 0] },
        { prompt: [7], completion: [1] },
        { prompt: [4], completion: [4, 2] },
        { prompt: [0], completion: [3] }
      ]
      closeAll(yield* model.scores(continuations), [1.2, 0.8, -0.5, 3], "before", 1e-5)
      close(yield* RewardModelling.centre(model, demonstrations), -0.5, "bias", 1e-5)
      closeAll(yield* model.scores(continuations), [0.7, 0.3, -1, 2.5], "after", 1e-5)
      close(yield* RewardModelling.centre(model, demonstrations), 0, "again", 1e-6)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("reads the end-of-text token, where there is one", () =>
    Effect.gen(function* () {
      const base = lastToken([1.2, 0.8, -0.5, 3])
      const model = yield* OrtScalarModel.make({ ...base, tokenizer: { ...base.tokenizer, eosId: 3 } })
      close(yield* RewardModelling.centre(model, demonstrations), -3, "bias", 1e-5)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("needs a demonstration, and one that the tokenizer reads", () =>
    Effect.gen(function* () {
      const model = yield* OrtScalarModel.make(lastToken([]))
      const none = yield* Effect.flip(RewardModelling.centre(model, []))
      assert.match(none.message, /^there is no demonstration to centre the scores on/)
      const broken = { ...model, scores: () => Effect.succeed(Float32Array.of(1, Number.NaN)) }
      const bad = yield* Effect.flip(RewardModelling.centre(broken, demonstrations.slice(0, 2)))
      assert.match(bad.message, /^demonstration 1 scores NaN/)
      const spoken = { prompt: [{ role: "user" as const, content: "1" }], completion: "2" }
      const error = yield* Effect.flip(RewardModelling.centre(model, [spoken]))
      assert.strictEqual(error._tag, "TokenizerError")
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )
})

const root = mkdtempSync(join(tmpdir(), "attune-rewards-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const bits = ({ step, tensors }: Learner.LearnerState) => ({
  step,
  tensors: Object.entries(tensors).map(([part, byName]) => [
    part,
    [...byName].map(([name, { data }]) => [name, Buffer.from(data.buffer).toString("base64")])
  ])
})

describe("train", () => {
  // Of two completions that one is better whose last token is larger.
  const rankings = Array.from({ length: 40 }, (_, i) => {
    const [a, b] = [i % 18, (i * 7 + 5) % 18]
    return {
      prompt: `${i % 20}`,
      completions: [`${b} ${a}`, `${b} ${a} 3 ${a === b ? a + 1 : b}`],
      ranks: a > b ? [1, 2] : [2, 1]
    }
  })
  const optimizer = Optimizer.adamW({ learningRate: 0.03 })

  it.effect("learns from rankings, 64 in a step and once through unless told otherwise", () =>
    Effect.gen(function* () {
      const base = Golden.model("scalar")
      const learner = yield* opened(base, { optimizer })
      const model = { tokenizer: base.tokenizer, contextLength: base.decoder.contextLength }
      const { rankings: read } = yield* RankingSet.make(model, [...rankings, ...rankings])
      const scored = yield* Effect.forEach(read, ({ completions, prompt, ranks }) =>
        Effect.map(
          learner.model.scores(completions.map(({ tokens }) => ({ prompt: prompt.tokens, completion: tokens }))),
          (scores) => ({ scores, ranks })
        )
      )
      const [all] = yield* RewardModelling.train(yield* opened(base, {}), read, { batchSize: 100 })
      close(all!["loss"]!, PairwiseLoss.mean(scored), "loss of the whole set", 1e-5)
      const once = yield* RewardModelling.train(learner, read, { batchSize: undefined })
      assert.deepStrictEqual(
        once.map((report) => report["tokens"]),
        [128, 32]
      )
      const more = yield* RewardModelling.train(learner, read, { epochs: 30, batchSize: 20 })
      assert.strictEqual(more.length, 120)
      assert.isAbove(once[0]!["loss"]!, 0.6)
      assert.isBelow(more.at(-1)!["loss"]!, 0.3)
      assert.isAbove(more.at(-1)!["accuracy"]!, 0.9)
    }).pipe(Effect.scoped, Effect.provide(oneThread))
  )

  it.effect("goes on bit for bit where it stopped, and only with the same rankings", () =>
    Effect.gen(function* () {
      const base = Golden.model("scalar")
      const model = { tokenizer: base.tokenizer, contextLength: base.decoder.contextLength }
      const { rankings: read } = yield* RankingSet.make(model, rankings)
      const settings = { optimizer, stepsPerRun: 2 }
      const options = { epochs: 2, batchSize: 8, seed: 3 }
      const whole = yield* opened(base, settings)
      const reports = yield* RewardModelling.train(whole, read, options)
      assert.strictEqual(reports.length, 10)

      const directory = join(root, "run")
      const learner = yield* opened(base, settings)
      let updates = 0
      const failing: typeof learner = {
        ...learner,
        update: (batches) =>
          ++updates > 3
            ? Effect.fail(new Learner.LearnerError({ reason: "runtime", step: 6, message: "the power failed" }))
            : learner.update(batches)
      }
      const error = yield* Effect.flip(RewardModelling.train(failing, read, { ...options, directory }))
      assert.strictEqual(error.message, "the power failed")
      const resumed = yield* opened(base, settings)
      const others = read.with(5, { ...read[5]!, ranks: [...read[5]!.ranks].reverse() })
      const refused = yield* Effect.flip(
        RewardModelling.train(resumed, others, { ...options, directory, resume: true })
      )
      assert.strictEqual(refused._tag, "CheckpointError")
      for (const loss of [{ margin: 1 }, { centering: 0.01 }]) {
        const other = yield* opened(base, settings, loss)
        const refused = yield* Effect.flip(RewardModelling.train(other, read, { ...options, directory, resume: true }))
        assert.strictEqual(refused._tag, "CheckpointError", JSON.stringify(loss))
      }
      const rest = yield* RewardModelling.train(resumed, read, { ...options, directory, resume: true })
      assert.deepStrictEqual(rest, reports.slice(6))
      assert.deepStrictEqual(bits(yield* resumed.state), bits(yield* whole.state))
      const logged = (yield* RunLog.read(directory)).flatMap((line) =>
        line.type === "step" ? [line.metrics["loss"]] : []
      )
      assert.deepStrictEqual(
        logged,
        reports.map((report) => report["loss"])
      )
    }).pipe(Effect.scoped, Effect.provide(Layer.merge(oneThread, NodeServices.layer)))
  )
})
