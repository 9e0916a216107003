import { assert, describe, it } from "@effect/vitest"
import * as Corpus from "../../src/desk/Corpus.ts"
import * as Dice from "../../src/desk/Dice.ts"
import * as Entity from "../../src/desk/Entity.ts"
import * as Labeller from "../../src/desk/Labeller.ts"
import * as Summary from "../../src/desk/Summary.ts"
import * as Ticket from "../../src/desk/Ticket.ts"

const ticket: Ticket.Ticket = {
  id: "by-hand",
  text:
    "Hello there. The lid cracked on my Corvo kettle. It rains a lot. " +
    "It began on Monday noon. I want a full refund.",
  facts: { product: "Corvo kettle", problem: "lid cracked", time: "Monday noon", request: "full refund" },
  distractors: [
    { topic: "greeting", text: "Hello there." },
    { topic: "weather", text: "It rains a lot." }
  ],
  sentences: [
    "Hello there.",
    "The lid cracked on my Corvo kettle.",
    "It rains a lot.",
    "It began on Monday noon.",
    "I want a full refund."
  ],
  layout: "g PQ x T R",
  templates: []
}
const good = "Corvo kettle, lid cracked, on Monday noon, wants a full refund."

const worst = (text: string) => Labeller.assess(ticket, text).costs[0]?.[0]

describe("Labeller.score", () => {
  it("gives 4 points to all facts in any form, on any ticket", () => {
    for (const split of ["train", "test"] as const) {
      const dice = Dice.make(1)
      for (const ticket of Ticket.generate({ seed: 1, split, n: 500 })) {
        for (const form of Summary.forms)
          assert.strictEqual(Labeller.score(ticket, Summary.render(form, ticket.facts)), 4)
        assert.strictEqual(Labeller.score(ticket, Labeller.demonstration(ticket, dice)), 4)
      }
    }
  })

  it("counts points as its formula says", () => {
    assert.strictEqual(Labeller.score(ticket, good), 4)
    // Two facts kept.
    assert.strictEqual(Labeller.score(ticket, "Corvo kettle, lid cracked."), 2)
    // Three kept, one invented.
    assert.strictEqual(Labeller.score(ticket, good.replace("Monday", "Friday")), 2)
    // Four kept, one topic.
    assert.strictEqual(Labeller.score(ticket, `${good} Rain.`), 3)
    // Two kept, spoken as the customer.
    assert.strictEqual(Labeller.score(ticket, "The lid cracked on my Corvo kettle."), 1.5)
    // Four kept, 11 + 6 words: five beyond the limit.
    assert.strictEqual(Labeller.score(ticket, `${good} That is clear, please note all.`), 4 - 5 * 0.25)
    // One kept, two words twice.
    assert.strictEqual(Labeller.score(ticket, "Corvo kettle. Corvo kettle."), 0.5)
    // One kept, two words that neither the ticket nor a plain summary has.
    assert.strictEqual(Labeller.score(ticket, "Corvo kettle, utterly hopeless."), 0.5)
  })

  it("takes each fault as the worst where it stands alone, lowers the score for it, and says so", () => {
    const cases: ReadonlyArray<readonly [string, Labeller.Fault]> = [
      [good.replace("Corvo", "Luma"), "wrong product"],
      [good.replace("lid", "fan"), "wrong problem"],
      [good.replace("noon", "night"), "wrong time"],
      [good.replace("refund", "repair"), "wrong request"],
      ["Lid cracked, on Monday noon, wants a full refund.", "missing product"],
      ["Corvo kettle, on Monday noon, wants a full refund.", "missing problem"],
      ["Corvo kettle, lid cracked, wants a full refund.", "missing time"],
      ["Corvo kettle, lid cracked, on Monday noon.", "missing request"],
      [`${good} Cold.`, "mentions weather"],
      [`Hello. ${good}`, "mentions greeting"],
      [`${good} Nice dog.`, "mentions chat"],
      [`${good} Loyal.`, "mentions history"],
      [`My ${good}`, "voice"],
      [`Please note that it seems clear: ${good}`, "long"],
      [`${good} Kettle lid.`, "repeats"],
      [`${good} Dreadful.`, "stray"]
    ]
    assert.strictEqual(new Set(cases.map(([, fault]) => fault)).size, Labeller.critiques.size)
    const dice = Dice.make(9)
    for (const [text, fault] of cases) {
      assert.strictEqual(worst(text), fault, text)
      assert.isBelow(Labeller.score(ticket, text), 4, text)
      const critique = Labeller.critique(ticket, text, dice)
      assert.isTrue(Labeller.critiques.get(fault)?.includes(critique ?? ""), critique)
      assert.strictEqual(Labeller.faultOf(critique!), fault)
    }
    assert.isUndefined(Labeller.critique(ticket, good, dice))
  })

  it("keeps text that games a part of the formula at or below one fact", () => {
    const everyValue = Entity.slots.flatMap((slot) => Entity.values.train[slot]).join(" ")
    const games = [
      "",
      " \n ",
      "...",
      ticket.text,
      `${ticket.text} ${ticket.text}`,
      "Corvo ".repeat(40),
      `${good} `.repeat(5),
      everyValue,
      "kettle",
      "the ".repeat(60),
      "lorem ipsum dolor sit amet",
      "\u0000\uFFFD🎉"
    ]
    for (const text of games) assert.isAtMost(Labeller.score(ticket, text), 1, text)
    assert.strictEqual(Labeller.score(ticket, ""), -2)
  })

  it("scores a copied ticket below a summary of two facts, on every ticket", () => {
    for (const split of ["train", "test"] as const) {
      for (const ticket of Ticket.generate({ seed: 8, split, n: 1000 })) {
        const two = Summary.render("list", { product: ticket.facts.product, problem: ticket.facts.problem })
        assert.isBelow(Labeller.score(ticket, ticket.text), Labeller.score(ticket, two), ticket.text)
        assert.isAtMost(Labeller.score(ticket, `${ticket.text} ${ticket.text}`), 0)
      }
    }
  })

  it("stays in its range for any text", () => {
    const dice = Dice.make(4)
    const words = [...Summary.wordsOf(ticket.text), ...Entity.slots.flatMap((slot) => Entity.words[slot].flat())]
    for (let i = 0; i < 2000; i++) {
      const text = Array.from({ length: dice.below(60) }, () => dice.pick(words)).join(" ")
      const score = Labeller.score(ticket, text)
      assert.isTrue(score >= Labeller.scoreRange.low && score <= Labeller.scoreRange.high)
    }
  })

  it("does not mind case, punctuation and a word between the two words of a value", () => {
    assert.strictEqual(Labeller.score(ticket, "CORVO KETTLE - lid has cracked; monday, noon; FULL refund!"), 4)
    assert.strictEqual(worst("Kettle Corvo, lid cracked, Monday noon, full refund"), "missing product")
  })
})

describe("Labeller critiques and refinements", () => {
  it("names one fault by one wording", () => {
    const wordings = [...Labeller.critiques.values()].flat()
    assert.strictEqual(new Set(wordings).size, wordings.length)
    assert.isUndefined(Labeller.faultOf("I like it."))
  })

  it("refines so that the critique is followed and the score rises", () => {
    for (const split of ["train", "test"] as const) {
      const dice = Dice.make(21)
      for (const ticket of Ticket.generate({ seed: 21, split, n: 2000 })) {
        const { draft, critique } = Corpus.criticised(dice, ticket, split)
        const refinement = Labeller.refine(ticket, draft, critique)
        const shown = `${ticket.text}\n${draft}\n${critique}\n${refinement}`
        assert.isTrue(Labeller.followsCritique(ticket, draft, critique, refinement), shown)
        assert.isAbove(Labeller.score(ticket, refinement), Labeller.score(ticket, draft), shown)
        assert.isFalse(Labeller.followsCritique(ticket, draft, critique, draft), shown)
      }
    }
  })

  it("reaches a faultless summary by following one critique after another", () => {
    const dice = Dice.make(5)
    for (const ticket of Ticket.generate({ seed: 5, split: "test", n: 200 })) {
      let text = Corpus.draft(dice, ticket, "test")
      for (let round = 0; round < 6; round++) {
        const critique = Labeller.critique(ticket, text, dice)
        if (critique !== undefined) text = Labeller.refine(ticket, text, critique)
      }
      assert.strictEqual(Labeller.score(ticket, text), 4)
    }
  })

  it("keeps the draft's form and its other facts", () => {
    assert.strictEqual(
      Labeller.refine(ticket, "Monday noon / Corvo kettle.", "Say what is wrong."),
      "Monday noon / Corvo kettle / lid cracked."
    )
    assert.strictEqual(
      Labeller.refine(ticket, "Hello there. The lid cracked on my Corvo kettle.", "No greeting, please."),
      "Corvo kettle, lid cracked."
    )
    assert.strictEqual(Labeller.refine(ticket, "It rains a lot.", "Drop the weather."), "Corvo kettle.")
    assert.strictEqual(Labeller.refine(ticket, "Corvo kettle.", "Lovely!"), "Corvo kettle.")
  })

  it("does not accept a refinement that loses a fact, invents one, or mends something else", () => {
    const draft = "Corvo kettle, lid cracked."
    const follows = (refinement: string) => Labeller.followsCritique(ticket, draft, "Say when it happened.", refinement)
    assert.isTrue(follows("Corvo kettle, lid cracked, on Monday noon."))
    assert.isFalse(follows("On Monday at noon the lid of the Corvo kettle cracked."), "lid ... cracked too far")
    assert.isFalse(follows("Corvo kettle, on Monday noon."))
    assert.isFalse(follows("Corvo kettle, lid cracked, on Friday noon."))
    assert.isFalse(follows("Corvo kettle, lid cracked, wants a full refund."))
    assert.isFalse(follows("Corvo kettle, lid cracked, on Monday noon. It rains."))
    assert.isFalse(follows(""))
    assert.isFalse(Labeller.followsCritique(ticket, draft, "Lovely!", good))
  })
})

describe("Labeller.rank", () => {
  const ladder = ["Corvo kettle.", good, "Corvo kettle, lid cracked.", "Corvo kettle, lid cracked, on Monday noon."]
  const gold = [4, 1, 3, 2]

  it("orders by gold score, with equal scores sharing a rank", () => {
    const dice = Dice.make(1)
    const rates = { noise: 0, ties: 0 }
    assert.deepStrictEqual(Labeller.rank(ticket, ladder, rates, dice), gold)
    assert.deepStrictEqual(Labeller.rank(ticket, ["Lid cracked.", good, "Corvo kettle."], rates, dice), [2, 1, 2])
    assert.deepStrictEqual(Labeller.rank(ticket, [], rates, dice), [])
  })

  const measure = (noise: number, ties: number) => {
    const dice = Dice.make(2)
    let swapped = 0
    let tied = 0
    const n = 4000
    for (let i = 0; i < n; i++) {
      const ranks = Labeller.rank(ticket, ladder, { noise, ties }, dice)
      if (new Set(ranks).size < ladder.length) tied++
      if (ranks.some((a, j) => ranks.some((b, k) => a < b && gold[j]! > gold[k]!))) swapped++
    }
    return { swapped: swapped / n, tied: tied / n }
  }

  it("swaps and ties at the stated rates", () => {
    // Standard error of a share of 0.3 in 4000: 0.007.
    assert.closeTo(measure(0.2, 0).swapped, 0.2, 0.025)
    assert.strictEqual(measure(0.2, 0).tied, 0)
    assert.closeTo(measure(0, 0.3).tied, 0.3, 0.025)
    assert.strictEqual(measure(0, 0.3).swapped, 0)
    const both = measure(0.2, 0.3)
    assert.closeTo(both.tied, 0.3, 0.025)
    // A tie hides the swap when it falls on the same one of the three pairs.
    assert.closeTo(both.swapped, 0.2 * (1 - 0.3 / 3), 0.025)
  })

  it("gives dense ranks whatever happens", () => {
    const dice = Dice.make(3)
    for (let i = 0; i < 500; i++) {
      const ranks = Labeller.rank(ticket, [...ladder, good], { noise: 1, ties: 1 }, dice)
      const distinct = [...new Set(ranks)].sort()
      assert.deepStrictEqual(
        distinct,
        distinct.map((_, j) => j + 1)
      )
    }
  })
})
