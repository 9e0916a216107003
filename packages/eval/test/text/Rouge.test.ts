import { readFileSync } from "node:fs"
import { join } from "node:path"
import { NextToken } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import * as JsRouge from "js-rouge"
import * as Rouge from "../../src/text/Rouge.ts"

const Values = Schema.Tuple([Schema.Finite, Schema.Finite, Schema.Finite])
const Golden = Schema.fromJsonString(
  Schema.Struct({
    cases: Schema.Array(
      Schema.Struct({
        name: Schema.String,
        candidate: Schema.String,
        references: Schema.Array(Schema.String),
        rouge1: Values,
        rouge2: Values,
        rougeL: Values,
        rougeLsum: Values
      })
    )
  })
)
const { cases } = Schema.decodeUnknownSync(Golden)(readFileSync(join(import.meta.dirname, "rouge.golden.json"), "utf8"))

const close = (actual: Rouge.Overlap, [precision, recall, f1]: readonly [number, number, number], where: string) => {
  assert.closeTo(actual.precision, precision, 1e-7, `${where}: precision`)
  assert.closeTo(actual.recall, recall, 1e-7, `${where}: recall`)
  assert.closeTo(actual.f1, f1, 1e-7, `${where}: f1`)
}

const metrics = ["rouge1", "rouge2", "rougeL", "rougeLsum"] as const

/** Texts of several lines, from few enough words that subsequences tie. */
const story = (uniform: () => number, words: number, vocabulary: number) =>
  Array.from({ length: words }, () => `w${Math.floor(uniform() * vocabulary)}${uniform() < 0.15 ? "\n" : " "}`).join("")

describe("ROUGE", () => {
  it("by hand", () => {
    const [candidate, reference] = ["the cat the cat sat", "the cat sat down on the mat"]
    // shared: the twice, cat once, sat once; 5 and 7 words
    close(Rouge.n(candidate, reference, 1), [4 / 5, 4 / 7, 2 / 3], "rouge1")
    // "the cat" and "cat sat", of 4 and 6
    close(Rouge.n(candidate, reference, 2), [2 / 4, 2 / 6, 0.4], "rouge2")
    // the cat sat
    close(Rouge.l(candidate, reference), [3 / 5, 3 / 7, 0.5], "rougeL")
    // the line "the cat sat" has "the cat" from one line and "the sat" from the other: all three words, of 3 and 4
    close(Rouge.lsum("the cat\nthe sat", "the cat sat"), [3 / 4, 1, 6 / 7], "rougeLsum")
  })

  it("is that of torchmetrics, which follows rouge_score", () => {
    assert.isAbove(cases.length, 30)
    const items = cases.map(({ candidate, name, references }) => ({ id: name, candidate, references }))
    for (const [i, measured] of Result.getOrThrow(Rouge.measure(items)).entries()) {
      for (const metric of metrics) close(measured[metric], cases[i]![metric], `${cases[i]!.name}, ${metric}`)
    }
  })

  it("has the F1 of js-rouge where the tokens are the same", () => {
    const uniform = NextToken.uniforms(11)
    const tokenizer = (text: string) => [...Rouge.tokenize(text)]
    for (let i = 0; i < 60; i++) {
      const vocabulary = 2 + Math.floor(uniform() * 12)
      const [candidate, reference] = [story(uniform, 3 + i, vocabulary), story(uniform, 5 + i, vocabulary)]
      const where = `story ${i}`
      for (const n of [1, 2, 3]) {
        assert.closeTo(
          Rouge.n(candidate, reference, n).f1,
          JsRouge.n(candidate, reference, { n, tokenizer }),
          1e-12,
          where
        )
      }
      const whole = { tokenizer, segmenter: (text: string) => [text] }
      assert.closeTo(Rouge.l(candidate, reference).f1, JsRouge.l(candidate, reference, whole), 1e-12, where)
      const byLine = { tokenizer, segmenter: (text: string) => text.split("\n") }
      assert.closeTo(Rouge.lsum(candidate, reference).f1, JsRouge.l(candidate, reference, byLine), 1e-12, where)
    }
  })

  it("exchanges precision and recall with the texts", () => {
    const uniform = NextToken.uniforms(12)
    for (let i = 0; i < 20; i++) {
      const [one, two] = [story(uniform, 30, 6), story(uniform, 20, 6)]
      for (const metric of [(a: string, b: string) => Rouge.n(a, b, 2), (a: string, b: string) => Rouge.l(a, b)]) {
        const [there, back] = [metric(one, two), metric(two, one)]
        assert.strictEqual(there.precision, back.recall)
        assert.strictEqual(there.recall, back.precision)
      }
    }
  })

  it("takes tokens of one's own", () => {
    const byCharacter: Rouge.Tokenize = (text) => [...text]
    // キツネ and は are shared, of 6 and 5 characters
    close(Rouge.n("キツネは眠る", "キツネは走", 1, byCharacter), [4 / 6, 4 / 5, 8 / 11], "characters")
    // Tokens may hold what joins others: a+b c is not a b+c.
    const byPlus: Rouge.Tokenize = (text) => text.split(";")
    assert.strictEqual(Rouge.n('a","b;c', 'a;b","c', 2, byPlus).f1, 0)
    assert.strictEqual(Rouge.l("a", "a", () => []).f1, 0)
  })

  it("needs n-grams of at least one token", () => {
    for (const n of [0, -1, 1.5, Number.NaN]) assert.throws(() => Rouge.n("a", "a", n), RangeError, `got ${n}`)
    assert.deepStrictEqual(Rouge.n("a b", "a b", 3), { precision: 0, recall: 0, f1: 0 })
  })

  it("measures very long texts", () => {
    const uniform = NextToken.uniforms(13)
    const words = Array.from({ length: 100_000 }, () => `w${Math.floor(uniform() * 2000)}`)
    const text = words.join(" ")
    const half = words.slice(0, 50_000).join(" ")
    close(Rouge.n(half, text, 2), [1, 49_999 / 99_999, (2 * 49_999) / 149_998], "rouge2")
    close(Rouge.l(half, text), [1, 0.5, 2 / 3], "rougeL")
  })
})

describe("scores of ROUGE", () => {
  const items: ReadonlyArray<Rouge.Item> = [
    { id: "a", candidate: "the fox", references: ["the fox", "a cat"] },
    { id: "b", candidate: "the fox sleeps", references: ["the fox runs"] },
    { id: "c", candidate: "", references: ["the fox"] }
  ]

  it("are mean F1 with intervals, of the best reference", () => {
    const measured = Result.getOrThrow(Rouge.measure(items))
    const scores = Result.getOrThrow(Rouge.scores(measured, { system: "model", task: "summaries" }))
    assert.deepStrictEqual(
      scores.map(({ metric }) => metric),
      [...metrics]
    )
    const [rouge1, rouge2] = scores
    assert.deepStrictEqual(Array.from(rouge1!.sample.values), [1, 2 / 3, 0])
    assert.deepStrictEqual(Array.from(rouge2!.sample.values), [1, 1 / 2, 0])
    assert.deepStrictEqual(rouge1!.sample.ids, ["a", "b", "c"])
    assert.closeTo(rouge1!.estimate.value, 5 / 9, 1e-12)
    assert.strictEqual(rouge1!.estimate.n, 3)
    assert.isBelow(rouge1!.estimate.low!, 5 / 9)
    assert.isTrue(rouge1!.higherIsBetter)
  })

  it("keep clusters", () => {
    const clustered = items.map((item) => ({ ...item, cluster: item.id === "a" ? "x" : "y" }))
    const [score] = Result.getOrThrow(
      Rouge.scores(Result.getOrThrow(Rouge.measure(clustered)), { system: "m", task: "t" })
    )
    assert.strictEqual(score!.estimate.clusters, 2)
  })

  it("need references, items and ids of their own", () => {
    const message = <A>(result: Result.Result<A, Error>) => Result.getOrThrow(Result.flip(result)).message
    assert.match(
      message(Rouge.measure([...items, { id: "d", candidate: "x", references: [] }])),
      /item "d": it has no ref/
    )
    assert.match(message(Rouge.scores([], { system: "m", task: "t" })), /no items/)
    const twice = Result.getOrThrow(Rouge.measure([items[0]!, items[0]!]))
    assert.match(
      message(Rouge.scores(twice, { system: "m", task: "t" })),
      /"m: t rouge1", item "a": the id stands twice/
    )
  })
})
