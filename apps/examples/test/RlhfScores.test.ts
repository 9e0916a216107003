import { type Completion, type Policy, Prompt, RewardModel, Tokenizer } from "@attune/core"
import { assert, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as RlhfScores from "../src/RlhfScores.ts"

const tokenizer = Tokenizer.numeric(10)

// A policy that always says the same.
const saying = (name: string, tokens: ReadonlyArray<number>, text: string): RlhfScores.System => {
  const completion: Completion.Completion = {
    tokens: Int32Array.from(tokens),
    logprobs: new Float32Array(tokens.length),
    untemperedLogprobs: new Float32Array(tokens.length),
    text,
    finishReason: "stop"
  }
  const policy: Policy.PolicyShape = {
    name,
    tokenizer,
    vocabSize: tokenizer.vocabSize,
    contextLength: 16,
    sample: (prompts) => Effect.succeed(prompts.map(() => completion)),
    stream: () => Stream.empty,
    logprobs: (continuations) =>
      Effect.succeed(continuations.map(({ completion }) => new Float32Array(completion.length)))
  }
  return { name, policy }
}

const small = { gold: undefined, documents: {}, bestOf: 2, maxNewTokens: 4, seed: 0, shown: 1 }

it.effect(
  "each system wins by the rewards of its own answers, where answers of one text are worth different ones",
  () =>
    Effect.gen(function* () {
      const { scores } = yield* RlhfScores.measure({
        reference: saying("SFT", [2], "b"),
        // The same text, once with an end and once without.
        systems: [saying("ended", [1, 0], "a"), saying("cut", [1], "a")],
        reward: RewardModel.fromFunction("ends", ({ completion: { tokens } }) =>
          tokens[0] === 2 ? 0 : tokens.length - 1.5
        ),
        prompts: [Prompt.make("1", [1]), Prompt.make("2", [2])],
        ...small
      })
      const wins = scores.flatMap(({ estimate, metric, system }) =>
        metric === "win_rate" ? [[system, estimate.value]] : []
      )
      assert.deepStrictEqual(wins, [
        ["ended", 1],
        ["cut", 0],
        ["SFT, best of 2", 0.5]
      ])
    })
)

it.effect("later systems are set against the first, each prompt against itself", () =>
  Effect.gen(function* () {
    const rewards: Readonly<Record<string, ReadonlyArray<number>>> = { a: [1, 5, 3], b: [2, 5, 7] }
    const { scores } = yield* RlhfScores.measure({
      reference: saying("SFT", [2], "r"),
      systems: [saying("first", [1], "a"), saying("second", [1, 1], "b")],
      reward: RewardModel.fromFunction("listed", ({ completion: { text }, prompt }) =>
        text === "r" ? 0 : rewards[text]![Number(prompt.text)]!
      ),
      prompts: ["0", "1", "2"].map((text) => Prompt.make(text, [1])),
      ...small
    })
    const differences = scores.filter(({ task }) => task === "held-out prompts, minus first")
    assert.deepStrictEqual(
      differences.map(({ metric, sample, system }) => [system, metric, [...sample.values]]),
      [["second", "learned reward", [1, 0, 4]]]
    )
  })
)
