import { Critique, Demonstration, Ranking } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Corpus from "../../src/desk/Corpus.ts"
import * as Dice from "../../src/desk/Dice.ts"
import * as Feedback from "../../src/desk/Feedback.ts"
import * as Format from "../../src/desk/Format.ts"
import * as Labeller from "../../src/desk/Labeller.ts"
import * as Ticket from "../../src/desk/Ticket.ts"

const rows = [...Corpus.rows({ seed: 3, n: 6000 })]

const ofKind = (kind: Corpus.Kind) => rows.filter((row) => row.kind === kind)

const mean = (numbers: ReadonlyArray<number>) => numbers.reduce((sum, x) => sum + x, 0) / numbers.length

describe("Corpus", () => {
  it("repeats for one seed, and a longer run begins with the shorter one", () => {
    assert.deepStrictEqual([...Corpus.rows({ seed: 3, n: 100 })], rows.slice(0, 100))
    assert.notDeepEqual([...Corpus.rows({ seed: 4, n: 100 })], rows.slice(0, 100))
  })

  it("mixes the kinds at their shares", () => {
    assert.closeTo(
      Object.values(Corpus.shares).reduce((sum, share) => sum + share, 0),
      1,
      1e-12
    )
    for (const [kind, share] of Object.entries(Corpus.shares)) {
      // Standard error of a share of 0.42 in 6000 rows: 0.006.
      assert.closeTo(ofKind(kind as Corpus.Kind).length / rows.length, share, 0.025)
    }
  })

  it("writes documents without the end-of-text token, with a completion that begins with a space", () => {
    for (const row of rows) {
      assert.notInclude(`${row.prompt}${row.completion}`, Format.endOfText)
      assert.match(row.completion, /^ \S/)
      assert.match(row.prompt, /[:?]$/)
      assert.notInclude(row.completion, "\n")
    }
  })

  it("answers half of the judgements with yes", () => {
    const answers = ofKind("judgement").map((row) => row.completion)
    assert.closeTo(answers.filter((answer) => answer === Format.yes).length / answers.length, 0.5, 0.05)
    assert.strictEqual(new Set(answers).size, 2)
  })

  it("has bad drafts for the most part: room for every method above the mean and above the usual draft", () => {
    for (const split of ["train", "test"] as const) {
      const dice = Dice.make(12)
      const scores = Ticket.generate({ seed: 12, split, n: 2000 })
        .map((ticket) => Labeller.score(ticket, Corpus.draft(dice, ticket, split)))
        .sort((a, b) => a - b)
      assert.isBelow(mean(scores), 2)
      assert.isAtMost(scores[1000]!, 2)
      const good = scores.filter((score) => score === 4).length / scores.length
      assert.isTrue(good > 0.04 && good < 0.12, String(good))
    }
  })

  it("mostly stops after product and problem, so that the likeliest summary is not the best one", () => {
    const dice = Dice.make(14)
    let begun = 0
    let stopped = 0
    for (const ticket of Ticket.generate({ seed: 14, split: "train", n: 4000 })) {
      const opening = `${ticket.facts.product}, ${ticket.facts.problem}`
      const draft = Corpus.draft(dice, ticket, "train")
      if (!draft.startsWith(opening)) continue
      begun++
      if (draft.startsWith(`${opening}.`)) stopped++
    }
    assert.isAbove(begun, 400)
    assert.isAbove(stopped / begun, 0.62)
  })

  it("never pairs a good draft with a critique", () => {
    const dice = Dice.make(13)
    for (const ticket of Ticket.generate({ seed: 13, split: "train", n: 1000 })) {
      const { draft, critique } = Corpus.criticised(dice, ticket, "train")
      const faults = Labeller.assess(ticket, draft).costs.map(([fault]) => fault)
      assert.include(faults, Labeller.faultOf(critique))
    }
  })

  it("meets every fault", () => {
    const met = new Set(ofKind("refinement").map((row) => Labeller.faultOf(/\nCritique: (.+)\n/.exec(row.prompt)![1]!)))
    assert.deepStrictEqual(met, new Set(Labeller.critiques.keys()))
  })
})

describe("Format", () => {
  it("puts texts on one line, so that labels alone begin lines", () => {
    const prompt = Format.refinement({ text: " a\nb " }, "c\n\nd", " e ")
    assert.strictEqual(prompt, "Ticket: a b\nDraft: c d\nCritique: e\nRefinement:")
    assert.strictEqual(Format.completion("a\nb"), " a b")
    assert.strictEqual(Format.summary({ text: "a" }), "Ticket: a\nSummary:")
    assert.strictEqual(
      Format.judgement("a", "b", "c"),
      "Draft: a\nCritique: b\nRefinement: c\nDoes it follow the critique?"
    )
    assert.strictEqual(Format.puzzle("a\nb"), "Question: a\nb\nAnswer:")
  })

  it("reads an answer up to the end of its text or line", () => {
    assert.strictEqual(Format.answer(" Corvo kettle.<eos> rest"), "Corvo kettle.")
    assert.strictEqual(Format.answer(" Corvo kettle.\nCritique: no"), "Corvo kettle.")
    assert.strictEqual(Format.answer("\n"), "")
  })
})

describe("Feedback", () => {
  const tickets = Ticket.generate({ seed: 30, split: "train", n: 300 })
  const drafts = () => {
    const dice = Dice.make(31)
    return tickets.map((ticket) => ({ ticket, completion: Format.completion(Corpus.draft(dice, ticket, "train")) }))
  }

  it("demonstrates with summaries of the highest score", () => {
    const demonstrations = Feedback.demonstrations(tickets, Dice.make(1))
    demonstrations.forEach(({ prompt, completion }, i) => {
      assert.strictEqual(prompt, Format.summary(tickets[i]!))
      assert.strictEqual(Labeller.score(tickets[i]!, Format.answer(completion)), 4)
    })
    assert.isAbove(new Set(demonstrations.map(({ completion }) => completion.replace(/\w+/g, ""))).size, 3)
  })

  it("ranks the given completions", () => {
    const items = tickets
      .map((ticket, i) => ({
        ticket,
        completions: [drafts()[i]!.completion, Format.completion(Labeller.demonstration(ticket, Dice.make(i)))]
      }))
      .slice(0, 20)
    for (const { completions, ranks } of Feedback.rankings(items, { noise: 0, ties: 0 }, Dice.make(1))) {
      assert.strictEqual(completions.length, 2)
      assert.strictEqual(ranks[1], 1)
    }
  })

  it("criticises each faulty completion, with a refinement that follows where asked for", () => {
    const items = drafts()
    const faulty = items.filter(({ ticket, completion }) => Labeller.score(ticket, Format.answer(completion)) < 4)
    const critiques = Feedback.critiques(items, Dice.make(1), { refinements: true })
    assert.strictEqual(critiques.length, faulty.length)
    critiques.forEach(({ prompt, completion, critique, refinement }, i) => {
      const { ticket } = faulty[i]!
      assert.strictEqual(prompt, Format.summary(ticket))
      assert.isTrue(Labeller.followsCritique(ticket, Format.answer(completion), critique, Format.answer(refinement!)))
    })
    assert.isTrue(Feedback.critiques(items, Dice.make(1)).every((item) => !("refinement" in item)))
  })

  it("writes what the feedback schemas of the core read, without changing it", () => {
    const check = <A>(schema: Schema.Codec<A, unknown>, items: ReadonlyArray<object>) => {
      const lines = Feedback.toJsonLines(items).trimEnd().split("\n")
      const read = lines.map((line) => Schema.decodeUnknownSync(schema)(JSON.parse(line)))
      assert.deepStrictEqual(read as ReadonlyArray<unknown>, items)
    }
    const items = drafts()
    check(Demonstration.Demonstration, Feedback.demonstrations(tickets, Dice.make(1)))
    check(Critique.Critique, Feedback.critiques(items, Dice.make(1), { refinements: true }))
    const pairs = items.slice(1).map(({ ticket, completion }, i) => ({
      ticket,
      completions: [completion, items[i]!.completion]
    }))
    check(Ranking.Ranking, Feedback.rankings(pairs, { noise: 0.1, ties: 0.1 }, Dice.make(1)))
  })

  it("writes one JSON object per line", () => {
    assert.strictEqual(Feedback.toJsonLines([{ a: 1 }, { b: "x\ny" }]), '{"a":1}\n{"b":"x\\ny"}\n')
  })
})
