import {
  type Loss,
  NextToken,
  type Policy,
  Progress,
  Prompt,
  type Ranking,
  type RewardModel,
  Tensor,
  Tokenizer
} from "@attune/core"
import type { Pretrained } from "@attune/core/hub"
import { Gpt2 } from "@attune/core/nn"
import { Optimizer } from "@attune/core/onnx"
import { Device, OrtLearner, OrtPolicy } from "@attune/core/ort"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger, Result, Schema, Stream } from "effect"
import * as BinaryReward from "../src/BinaryReward.ts"
import * as PromptLoss from "../src/PromptLoss.ts"

// Ids as words: 1 asks, 2 is Yes and 3 is No.
const template = { content: "{prompt} {completion} 1", replies: [" 2", " 3"] } as const
const tokenizer: Tokenizer.Tokenizer = { ...Tokenizer.numeric(14), eosId: 0, stopIds: [0] }
const reader = (contextLength = 16) => ({ tokenizer, contextLength })

const ok = <A, E>(result: Result.Result<A, E>): A => Result.getOrThrow(result)
const shown = (units: Loss.Batch<PromptLoss.Fields>) =>
  units.map((unit) => ("tokens" in unit ? [unit] : unit).map(({ tokens, weights }) => [[...tokens], [...weights]]))

const logits = [1.0, 0.2, -1, 0]
const normalizer = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0))
const unused = () => assert.fail("nothing is sampled")
const fake: Policy.PolicyShape = {
  name: "fake",
  ...reader(),
  vocabSize: 14,
  sample: () => Effect.sync(unused),
  stream: () => Stream.sync(unused),
  logprobs: (asked) =>
    Effect.succeed(asked.map(({ completion }) => Float32Array.of(logits[completion[0]! - 2]! - normalizer)))
}

const answer = (text: string): RewardModel.Answer => ({
  prompt: Prompt.make("4", []),
  completion: { text, tokens: new Int32Array() }
})

describe("a question", () => {
  it.effect("I6: has a cross-entropy for Yes, and a score among Yes and No", () =>
    Effect.gen(function* () {
      const [pair] = ok(
        BinaryReward.examples(fake, [{ prompt: "4", completions: ["5", "6"], ranks: [1, 2] }], { template })
      )
      const [yes] = pair as Loss.Group<PromptLoss.Fields>
      const reply = yes!.tokens.subarray(yes!.weights.indexOf(1))
      const [row] = yield* fake.logprobs([{ prompt: [1], completion: reply }])
      assert.closeTo(PromptLoss.mean([{ prompt: [], completion: Array.from(row!, (x) => -x) }]), 0.66913298, 5e-8)
      assert.closeTo(normalizer - logits[0]!, 0.66913298, 5e-9)
      const [score] = yield* BinaryReward.make(fake, { template }).score([answer("5")])
      assert.closeTo(score!, 0.68997448, 5e-8)
    })
  )

  it("I6b: is answered after its last token, with the reply there or not", () => {
    const asked: Array<ReadonlyArray<number>> = []
    const listening: Policy.PolicyShape = {
      ...fake,
      logprobs: (rows) => {
        asked.push(...rows.map(({ prompt }) => Array.from(prompt)))
        return fake.logprobs(rows)
      }
    }
    Effect.runSync(BinaryReward.make(listening, { template }).score([answer("7 8")]))
    // [a, b, c, d]: the next token is predicted at index 3.
    assert.deepStrictEqual(asked[0], [4, 7, 8, 1])
    const units = shown(
      ok(BinaryReward.examples(fake, [{ prompt: "4", completions: ["7 8", "9"], ranks: [1, 2] }], { template }))
    )
    assert.deepStrictEqual(units, [
      [
        [
          [4, 7, 8, 1, 2],
          [0, 0, 0, 0, 1]
        ],
        [
          [4, 9, 1, 3],
          [0, 0, 0, 1]
        ]
      ]
    ])
  })

  it("stands in English by default", () => {
    assert.include(BinaryReward.question.content, "{completion}\n\nQuestion: Is this an excellent answer?")
    assert.deepStrictEqual(BinaryReward.question.replies, [" Yes", " No"])
  })
})

describe("examples", () => {
  const weightsOf = (ranks: ReadonlyArray<number>) => {
    const completions = ranks.map((_, i) => `${i + 5}`)
    return shown(ok(BinaryReward.examples(fake, [{ prompt: "4", completions, ranks }], { template }))).map((unit) =>
      unit.map(([tokens, weights]) => `${tokens![1]! - 5} ${tokens!.at(-1) === 2 ? "Yes" : "No"} ${weights!.at(-1)}`)
    )
  }

  it("say how many of the others an answer beats", () => {
    assert.deepStrictEqual(weightsOf([2, 1]), [["0 No 1", "1 Yes 1"]])
    assert.deepStrictEqual(weightsOf([1, 2, 3]), [["0 Yes 1", "1 Yes 0.5", "1 No 0.5", "2 No 1"]])
    assert.deepStrictEqual(weightsOf([1, 2, 2]), [["0 Yes 1", "1 No 0.5", "2 No 0.5"]])
    assert.deepStrictEqual(weightsOf([1, 1]), [])
  })

  it("weigh the question as asked", () => {
    const options = { template, promptWeight: 0.5, denominator: "lossTokens" } as const
    const ranking = { prompt: "4", completions: ["5", "6"], ranks: [1, 2] }
    const [unit] = ok(BinaryReward.examples(fake, [ranking], options))
    assert.deepStrictEqual((unit as Loss.Group<PromptLoss.Fields>)[0], PromptLoss.example([4, 5, 1], [2], 1, options))
  })

  it("are refused by their place where the reply would be cut off", () => {
    const ranking = { prompt: "4", completions: ["5", "6 7 8"], ranks: [1, 2] }
    assert.strictEqual(ok(BinaryReward.examples(reader(6), [ranking], { template })).length, 1)
    const error = ok(Result.flip(BinaryReward.examples(reader(5), [ranking, ranking], { template })))
    assert.match(
      error.message,
      /^ranking 0, completion 1: the question has 6 tokens, more than the model's context of 5/
    )
    const same = { ...template, replies: [" 2", " 2 3"] } as const
    assert.match(
      ok(Result.flip(BinaryReward.examples(reader(), [ranking], { template: same }))).message,
      /completion 0: .*told apart/
    )
  })
})

const base = (): Pretrained.Pretrained => {
  const config = { model_type: "gpt2", vocab_size: 14, n_embd: 16, n_head: 2, n_layer: 1, n_positions: 16 }
  const decoder = Gpt2.make(Schema.decodeUnknownSync(Gpt2.Gpt2Config)(config))
  const uniform = NextToken.uniforms(2)
  const weights = new Map(
    decoder.parameters.map(({ name, shape }) => {
      const isNorm = shape.length === 1 && name.endsWith(".weight")
      const values = Float32Array.from({ length: Tensor.size(shape) }, () => +isNorm + 0.3 * (2 * uniform() - 1))
      return [name, Tensor.float32(values, shape)]
    })
  )
  return { name: "tiny", config, decoder, tokenizer, weights }
}

const layer = Layer.mergeAll(
  Device.layerInProcess({ provider: "cpu", threads: 1 }),
  Progress.layer({ mode: "quiet" }),
  Logger.layer([])
)

// An answer is good that holds a 7, wherever; of three, those with more of them are better.
const rankings = (seed: number, count: number): ReadonlyArray<Ranking.Ranking> => {
  const uniform = NextToken.uniforms(seed)
  const below = (n: number) => Math.floor(uniform() * n)
  const filler = () => `${8 + below(6)}`
  return Array.from({ length: count }, () => {
    const good = Array.from({ length: 2 + below(4) }, filler)
    good[below(good.length)] = "7"
    const bad = Array.from({ length: 2 + below(4) }, filler)
    const isFirst = uniform() < 0.5
    const [a, b] = isFirst ? [good, bad] : [bad, good]
    return { prompt: `${4 + below(3)}`, completions: [a.join(" "), b.join(" ")], ranks: isFirst ? [1, 2] : [2, 1] }
  })
}

describe("a tiny model", () => {
  const learnerOf = (learningRate: number) =>
    Effect.gen(function* () {
      const model = yield* OrtPolicy.make(base())
      return yield* OrtLearner.make({ model, loss: PromptLoss.loss, optimizer: Optimizer.adamW({ learningRate }) })
    })

  it.effect("I6b: scores and learns alike whatever is padded beside", () =>
    Effect.gen(function* () {
      const learner = yield* learnerOf(1e-30)
      const model = BinaryReward.make(learner.model, { template, output: "logOdds" })
      const texts = ["7", "8 9 10 11 12 13", "8 7 9"]
      const together = yield* model.score(texts.map(answer))
      for (const [i, text] of texts.entries()) {
        const [alone] = yield* model.score([answer(text)])
        assert.closeTo(alone!, together[i]!, 2e-6)
      }
      const ranking = { prompt: "4", completions: [texts[0]!, texts[1]!], ranks: [1, 2] }
      const [unit] = ok(BinaryReward.examples(learner.model, [ranking], { template }))
      const [report] = yield* learner.update([[unit!]])
      const replies = (unit as Loss.Group<PromptLoss.Fields>).map(({ tokens }) => ({
        prompt: tokens.subarray(0, -1),
        completion: tokens.subarray(-1)
      }))
      const rows = yield* Effect.forEach(replies, (reply) => learner.model.logprobs([reply]))
      assert.closeTo(report!["loss"]!, -(rows[0]![0]![0]! + rows[1]![0]![0]!) / 2, 1e-5)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  // Share of pairs whose better answer scores higher.
  const accuracy = (model: RewardModel.RewardModelShape, pairs: ReadonlyArray<Ranking.Ranking>) =>
    Effect.map(
      model.score(
        pairs.flatMap(({ completions, prompt }) =>
          completions.map((text) => ({
            prompt: Prompt.make(prompt as string, []),
            completion: { text, tokens: new Int32Array() }
          }))
        )
      ),
      (scores) =>
        pairs.filter(({ ranks }, i) => ranks[0]! < ranks[1]! === scores[2 * i]! > scores[2 * i + 1]!).length /
        pairs.length
    )

  it.effect("learns from comparisons which answers are excellent", () =>
    Effect.gen(function* () {
      const learner = yield* learnerOf(0.02)
      const model = BinaryReward.make(learner.model, { template })
      const heldOut = rankings(2, 100)
      const before = yield* accuracy(model, heldOut)
      const examples = ok(BinaryReward.examples(learner.model, rankings(1, 200), { template }))
      yield* BinaryReward.train(learner, examples, { epochs: 4, batchSize: 16 })
      const after = yield* accuracy(model, heldOut)
      assert.isBelow(before, 0.75)
      assert.isAbove(after, 0.95)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )
})
