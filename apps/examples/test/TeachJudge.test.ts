import { Progress } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { Device, OrtPolicy } from "@attune/core/ort"
import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as DeskScores from "../src/DeskScores.ts"
import * as Dice from "../src/desk/Dice.ts"
import * as Judgement from "../src/desk/Judgement.ts"
import * as IlfDesk from "../src/IlfDesk.ts"
import * as TeachJudge from "../src/TeachJudge.ts"

const layer = Layer.mergeAll(Device.layer({ provider: "cpu" }), Progress.layer({ mode: "quiet" }), NodeServices.layer)

it.effect("the shipped judge tells the right day from a wrong one, which the base model does not", () =>
  Effect.gen(function* () {
    const dice = Dice.make(90)
    const pairs = Array.from({ length: 100 }, () => Judgement.days(dice))
    const share = Effect.fnUntraced(function* (directory: string) {
      const right = yield* TeachJudge.right(yield* OrtPolicy.make(yield* Pretrained.load(directory)), pairs)
      return right.reduce((a, b) => a + b, 0) / right.length
    })
    assert.isAbove(yield* share(IlfDesk.judgeModel), 0.9)
    assert.isBelow(yield* share(DeskScores.deskModel), 0.6)
  }).pipe(Effect.scoped, Effect.provide(layer))
)
