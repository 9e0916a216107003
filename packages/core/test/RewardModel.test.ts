import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Prompt from "../src/Prompt.ts"
import * as RewardModel from "../src/RewardModel.ts"

const answers = ["a", "bbb", "cc"].map((text) => ({
  prompt: Prompt.make("q", [1]),
  completion: { text, tokens: Int32Array.of(text.length) }
}))
const brevity = (answer: RewardModel.Answer) => -answer.completion.text.length

it.effect("scores with plain, asynchronous and effectful functions, in order", () =>
  Effect.gen(function* () {
    const models = [
      RewardModel.fromFunction("plain", brevity),
      RewardModel.fromFunction("promise", async (answer) => brevity(answer), { concurrency: 3 }),
      RewardModel.fromFunction("effect", (answer) => Effect.sync(() => brevity(answer))),
      RewardModel.fromBatchFunction("batch", (answers) => answers.map(brevity)),
      RewardModel.fromBatchFunction("batch promise", async (answers) => Float64Array.from(answers, brevity))
    ]
    for (const model of models) {
      assert.deepStrictEqual(yield* model.score(answers), Float32Array.of(-1, -3, -2), model.name)
    }
  })
)

it.effect("asks about one answer at a time, or as many as it is told to", () =>
  Effect.gen(function* () {
    const most = (options?: { readonly concurrency: number }) =>
      Effect.gen(function* () {
        let [running, most] = [0, 0]
        const slow = Effect.gen(function* () {
          most = Math.max(most, ++running)
          yield* Effect.yieldNow
          running--
          return 0
        })
        yield* RewardModel.fromFunction("slow", () => slow, options).score(answers)
        return most
      })
    assert.strictEqual(yield* most(), 1)
    assert.strictEqual(yield* most({ concurrency: 2 }), 2)
  })
)

it.effect("is a service that a layer provides", () =>
  Effect.gen(function* () {
    const rewardModel = yield* RewardModel.RewardModel
    assert.deepStrictEqual(yield* rewardModel.score(answers), Float32Array.of(-1, -3, -2))
  }).pipe(Effect.provide(RewardModel.layerFunction("brevity", brevity)))
)

it.effect("names itself and the answer where a score is not finite, missing, or the function throws", () =>
  Effect.gen(function* () {
    const message = (model: RewardModel.RewardModelShape) =>
      Effect.map(Effect.flip(model.score(answers)), (error) => error.message)
    const infinite = RewardModel.fromFunction("odd", ({ completion }) => 1 / (completion.text.length - 3))
    assert.match(yield* message(infinite), /reward model odd: scored answer 1 of 3 as Infinity/)
    assert.match(
      yield* message(RewardModel.fromBatchFunction("short", () => [1])),
      /short: returned 1 scores for 3 answers/
    )
    const throwing = RewardModel.fromFunction("bad", () => {
      throw new Error("no such word")
    })
    assert.match(yield* message(throwing), /bad: no such word/)
    assert.match(
      yield* message(RewardModel.fromFunction("late", () => Promise.reject(new Error("timeout")))),
      /late: timeout/
    )
    assert.match(yield* message(RewardModel.fromFunction("effect", () => Effect.fail("stopped"))), /effect: stopped/)
  })
)

it.effect("an ensemble takes the mean or the smallest score of each answer", () =>
  Effect.gen(function* () {
    const models = [
      [1, 2, 3],
      [3, 0, 3]
    ].map((scores, i) => RewardModel.fromBatchFunction(`m${i}`, () => scores))
    const mean = RewardModel.ensemble(models, "mean")
    assert.strictEqual(mean.name, "mean(m0, m1)")
    assert.deepStrictEqual(yield* mean.score(answers), Float32Array.of(2, 1, 3))
    assert.deepStrictEqual(yield* RewardModel.ensemble(models, "min").score(answers), Float32Array.of(1, 0, 3))
    assert.throws(() => RewardModel.ensemble([], "mean"), RangeError)
  })
)
