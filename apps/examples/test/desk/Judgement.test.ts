import { assert, describe, it } from "@effect/vitest"
import * as Dice from "../../src/desk/Dice.ts"
import * as Judgement from "../../src/desk/Judgement.ts"
import * as Labeller from "../../src/desk/Labeller.ts"
import * as Summary from "../../src/desk/Summary.ts"

const draw = <A>(count: number, make: (dice: Dice.Dice) => A): ReadonlyArray<A> => {
  const dice = Dice.make(4)
  return Array.from({ length: count }, () => make(dice))
}

describe("pairs of judgements", () => {
  it("are of one ticket, draft and critique: one refinement follows it and the other does not", () => {
    for (const [good, bad] of draw(500, Judgement.pair)) {
      assert.deepStrictEqual([good.follows, bad.follows], [true, false])
      for (const { critique, draft, follows, refinement, ticket } of [good, bad]) {
        assert.strictEqual(Labeller.followsCritique(ticket, draft, critique, refinement), follows)
      }
      assert.deepStrictEqual([bad.ticket, bad.draft, bad.critique], [good.ticket, good.draft, good.critique])
    }
  })

  it("go wrong in a fact of any kind, or as the draft does", () => {
    const pairs = draw(500, Judgement.pair)
    const kept = pairs.filter(([, { draft, refinement }]) => refinement === draft)
    assert.isTrue(kept.length > 50 && kept.length < 150, `${kept.length} drafts`)
    const kinds = pairs
      .filter(([, { draft, refinement }]) => refinement !== draft)
      .flatMap(([, { refinement, ticket }]) => Labeller.assess(ticket, refinement).costs.map(([fault]) => fault))
    for (const slot of ["product", "problem", "time", "request"] as const) assert.include(kinds, `wrong ${slot}`)
  })

  it("of days differ in a day at the same time of day", () => {
    for (const [good, bad] of draw(200, Judgement.days)) {
      assert.deepStrictEqual([good.follows, bad.follows], [true, false])
      const [right, wrong] = [good, bad].map(({ refinement }) => Summary.stated(refinement).time!.split(" "))
      assert.strictEqual(right!.join(" "), good.ticket.facts.time)
      assert.notStrictEqual(wrong![0], right![0])
      assert.strictEqual(wrong![1], right![1])
    }
  })
})
