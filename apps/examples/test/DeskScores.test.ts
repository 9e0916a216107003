import { Sft } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { Device, OrtPolicy } from "@attune/core/ort"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as DeskScores from "../src/DeskScores.ts"
import * as Dice from "../src/desk/Dice.ts"
import * as Feedback from "../src/desk/Feedback.ts"
import * as Format from "../src/desk/Format.ts"
import * as Labeller from "../src/desk/Labeller.ts"
import * as Ticket from "../src/desk/Ticket.ts"

const layer = Layer.merge(NodeServices.layer, Device.layerInProcess({ provider: "cpu" }))

const open = Effect.gen(function* () {
  return yield* OrtPolicy.make(yield* Pretrained.load(DeskScores.deskModel))
})

describe("the shipped model", () => {
  it.live("summarises badly, follows critiques and judges well, on tickets that it never met", () =>
    Effect.gen(function* () {
      const n = 60
      const found = new Map(
        (yield* DeskScores.desk("base", yield* open, 5, n)).scores.map((score) => [score.metric, score])
      )
      assert.deepStrictEqual(
        [...found.keys()],
        ["gold score, greedy", "gold score, sampled", "critique followed", "judgement right"]
      )
      assert.isTrue([...found.values()].every(({ estimate }) => estimate.n === n))
      const value = (metric: string) => found.get(metric)!.estimate.value
      // Wide beside the intervals of 60 tickets, narrow beside what a swapped prompt or answer gives.
      assert.isTrue(value("gold score, greedy") > 1.5 && value("gold score, greedy") < 2.5)
      assert.isBelow(value("gold score, sampled"), value("gold score, greedy"))
      assert.isAbove(value("critique followed"), 0.75)
      assert.isAbove(value("judgement right"), 0.85)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )
})

describe("gold", () => {
  it.live("are those that the labeller gives, up to the end of the summary's line", () =>
    Effect.gen(function* () {
      const policy = yield* open
      const tickets = Ticket.generate({ seed: 6, split: "test", n: 2 })
      const [first, second] = tickets
      const texts = [
        Format.completion(Labeller.demonstration(first!, Dice.make(1))),
        ` ${second!.facts.product}.\nMore.`
      ]
      const scripted: OrtPolicy.OrtPolicy = {
        ...policy,
        sample: (prompts, options) =>
          Effect.map(policy.sample(prompts, { ...options, maxNewTokens: 1 }), (completions) =>
            completions.map((completion, i) => ({ ...completion, text: texts[i]! }))
          )
      }
      const { scores } = yield* DeskScores.gold("scripted", scripted, tickets, 0)
      // All four facts, and one.
      assert.strictEqual(scores[0].estimate.value, (4 + 1) / 2)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )
})

describe("heldOut", () => {
  it.live("is the mean over the completion's tokens, the prompt's left out", () =>
    Effect.gen(function* () {
      const policy = yield* open
      const tickets = Ticket.generate({ seed: 7, split: "test", n: 3 })
      const demonstrations = Feedback.demonstrations(tickets, Dice.make(1))
      const examples = yield* Effect.fromResult(Sft.examples(policy.tokenizer, demonstrations))
      const found = yield* DeskScores.heldOut("base", policy, examples)
      const expected = yield* policy.logprobs(
        demonstrations.map(({ completion, prompt }) => ({
          prompt: policy.tokenizer.encode(prompt),
          completion: policy.tokenizer.encode(`${completion}${Format.endOfText}`)
        }))
      )
      found.sample.values.forEach((nll, i) => {
        const own = expected[i]!
        assert.closeTo(nll, -own.reduce((sum, x) => sum + x, 0) / own.length, 1e-5)
      })
    }).pipe(Effect.scoped, Effect.provide(layer))
  )
})
