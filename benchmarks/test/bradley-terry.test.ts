import { Progress } from "@attune/core"
import { Device } from "@attune/core/ort"
import { RankingAccuracy } from "@attune/eval"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Result } from "effect"
import * as BradleyTerry from "../bradley-terry.ts"

const layer = Layer.merge(Device.layerInProcess({ provider: "cpu", threads: 1 }), Progress.layer({ mode: "quiet" }))

describe("rankings drawn from a known Bradley-Terry model", () => {
  it("have pairs that go as often to the better completion as its score says", () => {
    const { rankings, scores } = BradleyTerry.world(2000, { seed: 5, spread: 1.5 }, 0)
    const bayes = Result.getOrThrow(RankingAccuracy.fromScores("Bayes", rankings, scores))
    const { expectedError, bins } = RankingAccuracy.calibration(bayes, { seed: 1, resamples: 500 })
    // An error of 0 is not to be expected of counts: each bin is held against its own interval.
    assert.isBelow(expectedError.value, 0.02)
    for (const { observed, predicted } of bins) {
      assert.isTrue(predicted >= observed.low! - 0.01 && predicted <= observed.high! + 0.01, `${predicted}`)
    }
    assert.deepStrictEqual([...new Set(scores.map(({ length }) => length))].sort(), [2, 3, 4, 5, 6, 7, 8, 9])
    assert.isAbove(new Set(rankings.map(({ prompt }) => prompt)).size, 1900)
  })

  it.effect("are learned: held-out accuracy is within 1 point of the Bayes accuracy", () =>
    Effect.gen(function* () {
      const sizes = { ...BradleyTerry.defaults, rankings: 4096, heldOut: 1024, learningRate: 3e-3 }
      const { bayes, difference, trained } = yield* BradleyTerry.measure(sizes)
      const { high, low, value } = difference.difference
      const shown = `${trained.value} against ${bayes.value}: ${value}, from ${low} to ${high}, ${trained.n} pairs`
      assert.isTrue(bayes.value > 0.7 && bayes.value < 0.85, shown)
      assert.isAbove(value, -0.01, shown)
      // By more than chance the trained model cannot be the better one.
      assert.isTrue(low! > -0.01 && low! < 0, shown)
    }).pipe(Effect.provide(layer))
  )
})
