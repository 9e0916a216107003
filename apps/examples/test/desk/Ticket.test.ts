import { assert, describe, it } from "@effect/vitest"
import * as Dice from "../../src/desk/Dice.ts"
import * as Entity from "../../src/desk/Entity.ts"
import * as Summary from "../../src/desk/Summary.ts"
import * as Ticket from "../../src/desk/Ticket.ts"

const splits = ["train", "test"] as const

const disjoint = (a: Iterable<string>, b: Iterable<string>) => {
  const seen = new Set(a)
  assert.deepStrictEqual(
    [...new Set(b)].filter((item) => seen.has(item)),
    []
  )
}

describe("Dice", () => {
  it("repeats its draws for one seed and differs for neighbouring seeds", () => {
    const draws = (seed: number) => {
      const dice = Dice.make(seed)
      return Array.from({ length: 8 }, () => dice.below(1000))
    }
    assert.deepStrictEqual(draws(3), draws(3))
    assert.notDeepEqual(draws(3), draws(4))
  })

  it("draws from weighted items at their rates", () => {
    const dice = Dice.make(1)
    let heavy = 0
    for (let i = 0; i < 10_000; i++) {
      if (
        dice.weighted([
          [3, true],
          [1, false]
        ])
      )
        heavy++
    }
    // Standard error of a share of 0.75 in 10 000 draws: 0.0043.
    assert.closeTo(heavy / 10_000, 0.75, 0.02)
  })

  it("shuffles without losing or doubling an item, every place equally likely", () => {
    const dice = Dice.make(2)
    const firsts = [0, 0, 0, 0]
    for (let i = 0; i < 8000; i++) {
      const shuffled = dice.shuffle([0, 1, 2, 3])
      assert.deepStrictEqual([...shuffled].sort(), [0, 1, 2, 3])
      firsts[shuffled[0]!]!++
    }
    for (const count of firsts) assert.closeTo(count / 8000, 0.25, 0.02)
  })
})

describe("Entity", () => {
  it("keeps pairs of known words for testing: no product and no problem of one split is in the other, days and requests are", () => {
    for (const slot of Entity.slots) {
      const [first, second] = Entity.words[slot]
      const { test, train } = Entity.values
      if (slot === "time" || slot === "request") {
        assert.deepStrictEqual(train[slot], test[slot])
        assert.strictEqual(train[slot].length, first.length * second.length)
      } else {
        disjoint(train[slot], test[slot])
        assert.strictEqual(train[slot].length + test[slot].length, first.length * second.length)
        assert.closeTo(test[slot].length / (first.length * second.length), 1 / 8, 0.02)
      }
      const trained = new Set(Entity.values.train[slot].flatMap((value) => value.split(" ")))
      for (const word of [...first, ...second]) assert.isTrue(trained.has(word), word)
    }
  })

  it("has no word in two lists, so that a word alone tells the kind of fact", () => {
    const all = Entity.slots.flatMap((slot) => Entity.words[slot].flat().map((word) => word.toLowerCase()))
    assert.strictEqual(new Set(all).size, all.length)
  })
})

describe("Ticket", () => {
  it("gives the same tickets for the same seed, and a longer run begins with the shorter one", () => {
    const short = Ticket.generate({ seed: 5, split: "train", n: 20 })
    assert.deepStrictEqual(Ticket.generate({ seed: 5, split: "train", n: 50 }).slice(0, 20), short)
    assert.notDeepEqual(
      Ticket.generate({ seed: 6, split: "train", n: 20 }).map((t) => t.text),
      short.map((t) => t.text)
    )
  })

  it("shares no template, layout, product or problem between the splits", () => {
    const [train, test] = splits.map((split) => Ticket.generate({ seed: 1, split, n: 3000 }))
    for (const of of [
      (t: Ticket.Ticket) => t.templates,
      (t: Ticket.Ticket) => [t.layout],
      (t: Ticket.Ticket) => [t.facts.product, t.facts.problem],
      (t: Ticket.Ticket) => [t.text]
    ])
      disjoint(train!.flatMap(of), test!.flatMap(of))
    for (const kind of Object.values(Ticket.templates)) disjoint(kind.train, kind.test)
    disjoint(Ticket.layouts.train, Ticket.layouts.test)
  })

  it("uses no word in held-out templates that training never shows", () => {
    const known = new Set(
      Ticket.generate({ seed: 2, split: "train", n: 5000 }).flatMap((ticket) => Summary.wordsOf(ticket.text))
    )
    const held = Ticket.generate({ seed: 2, split: "test", n: 2000 }).flatMap((ticket) => Summary.wordsOf(ticket.text))
    assert.deepStrictEqual([...new Set(held.filter((word) => !known.has(word)))], [])
  })

  it("states every fact, and no other value, in its text; distractors carry a word of their topic", () => {
    for (const split of splits) {
      for (const ticket of Ticket.generate({ seed: 3, split, n: 1000 })) {
        assert.deepStrictEqual(Summary.stated(ticket.text), ticket.facts)
        const truth = new Set(Object.values(ticket.facts).flatMap((value) => Summary.wordsOf(value)))
        for (const word of Summary.wordsOf(ticket.text)) {
          if (Entity.slotOf(word) !== undefined) assert.isTrue(truth.has(word), `${word}: ${ticket.text}`)
        }
        for (const { topic, text } of ticket.distractors) {
          assert.isTrue(
            Summary.wordsOf(text).some((word) => Ticket.topicWords[topic].includes(word)),
            text
          )
        }
        assert.notInclude(ticket.text, "{")
      }
    }
  })

  it("names a topic only in its distractors", () => {
    for (const kind of ["PQ", "PQT", "P", "Q", "T", "R", "TR"] as const) {
      for (const template of [...Ticket.templates[kind].train, ...Ticket.templates[kind].test]) {
        for (const words of Object.values(Ticket.topicWords)) {
          assert.isFalse(
            Summary.wordsOf(template).some((word) => words.includes(word)),
            template
          )
        }
      }
    }
  })
})
