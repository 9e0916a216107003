import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Tokenizer } from "@attune/core"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Corpus from "../../src/desk/Corpus.ts"
import * as Dice from "../../src/desk/Dice.ts"
import * as Entity from "../../src/desk/Entity.ts"
import * as Format from "../../src/desk/Format.ts"
import * as Labeller from "../../src/desk/Labeller.ts"
import * as Summary from "../../src/desk/Summary.ts"
import * as Ticket from "../../src/desk/Ticket.ts"
import * as TrainTokenizer from "../../src/desk/TrainTokenizer.ts"

const directory = join(import.meta.dirname, "../../models/desk-base")

const withTokenizer = (use: (tokenizer: Tokenizer.Tokenizer) => void) =>
  Tokenizer.load(directory).pipe(Effect.map(use), Effect.provide(NodeServices.layer))

describe("the committed tokenizer", () => {
  it.effect("has three special tokens and every byte", () =>
    withTokenizer((tokenizer) => {
      assert.strictEqual(tokenizer.vocabSize, TrainTokenizer.vocabularySize)
      assert.deepStrictEqual([tokenizer.padId, tokenizer.bosId, tokenizer.eosId], [0, 1, 2])
      assert.deepStrictEqual([...tokenizer.encode(Format.endOfText)], [2])
    })
  )

  it.effect("round-trips any text", () =>
    withTokenizer((tokenizer) => {
      const texts = ["Grüße 🎉 naïve", "a\n\n\tb  c ", " 日本語\u0000", "it's 12/25/1937", "", "don't  stop\r\n"]
      const everyByte = Array.from({ length: 0x250 }, (_, i) => String.fromCodePoint(i)).join("")
      for (const text of [...texts, everyByte]) assert.strictEqual(tokenizer.decode(tokenizer.encode(text)), text)
    })
  )

  it.effect("keeps each word of the help desk in one piece", () =>
    withTokenizer((tokenizer) => {
      for (const word of Entity.slots.flatMap((slot) => Entity.words[slot].flat())) {
        assert.strictEqual(tokenizer.encode(` ${word}`).length, 1, word)
      }
      const words = new Set(
        Ticket.generate({ seed: 1, split: "test", n: 500 }).flatMap(({ text }) => text.match(/ \w+/g) ?? [])
      )
      for (const word of words) assert.strictEqual(tokenizer.encode(word).length, 1, word)
    })
  )

  it.effect("gives prompt and completion the same pieces apart and together", () =>
    withTokenizer((tokenizer) => {
      for (const { prompt, completion } of Corpus.rows({ seed: 8, n: 500 })) {
        assert.deepStrictEqual(
          [...tokenizer.encode(prompt), ...tokenizer.encode(completion), 2],
          [...tokenizer.encode(`${prompt}${completion}${Format.endOfText}`)]
        )
      }
    })
  )

  it.effect("makes rows of fewer than 128 tokens, 60 on average, and tickets of fewer than 50", () =>
    withTokenizer((tokenizer) => {
      const lengths = [...Corpus.rows({ seed: 9, n: 3000 })].map(
        ({ completion, prompt }) => tokenizer.encode(`${prompt}${completion}${Format.endOfText}`).length
      )
      assert.isBelow(Math.max(...lengths), 128)
      assert.isBelow(lengths.reduce((sum, n) => sum + n, 0) / lengths.length, 60)
      const dice = Dice.make(1)
      for (const split of ["train", "test"] as const) {
        for (const ticket of Ticket.generate({ seed: 9, split, n: 1000 })) {
          assert.isBelow(tokenizer.encode(ticket.text).length, 50)
          assert.isAtMost(tokenizer.encode(Format.completion(Labeller.demonstration(ticket, dice))).length, 16)
        }
      }
    })
  )
})

describe("TrainTokenizer.train", () => {
  it("learns the same pieces from the same texts, of the size asked for", () => {
    const texts = Ticket.generate({ seed: 1, split: "train", n: 200 }).map(({ text }) => text)
    const trained = () =>
      TrainTokenizer.train(texts, 400) as { readonly model: { readonly vocab: Readonly<Record<string, number>> } }
    assert.deepStrictEqual(trained(), trained())
    // JavaScript puts keys that are whole numbers first.
    const ids = Object.values(trained().model.vocab).sort((a, b) => a - b)
    assert.deepStrictEqual(
      ids,
      Array.from({ length: 400 }, (_, i) => i)
    )
  })

  it("is what the committed files came from", () => {
    for (const [name, content] of Object.entries(TrainTokenizer.files())) {
      assert.deepStrictEqual(JSON.parse(readFileSync(join(directory, name), "utf8")), content, name)
    }
  })
})

describe("Summary", () => {
  it("reads back what it renders, in every form and for every subset of facts", () => {
    for (const { facts } of Ticket.generate({ seed: 2, split: "test", n: 50 })) {
      for (const form of Summary.forms) {
        for (let bits = 0; bits < 16; bits++) {
          const some = Object.fromEntries(
            Entity.slots.filter((_, i) => (bits >> i) & 1).map((slot) => [slot, facts[slot]])
          )
          const text = Summary.render(form, some)
          assert.deepStrictEqual(Summary.stated(text), some)
          if (bits === 15) assert.strictEqual(Summary.formOf(text), form)
        }
      }
    }
  })
})
