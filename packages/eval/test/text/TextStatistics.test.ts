import { NextToken, Tokenizer } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as TextStatistics from "../../src/text/TextStatistics.ts"

const split = (text: string) => text.split(" ")

describe("the length of a text", () => {
  it("in characters counts code points", () => {
    assert.strictEqual(TextStatistics.characters(""), 0)
    assert.strictEqual(TextStatistics.characters("häß"), 3)
    assert.strictEqual(TextStatistics.characters("🦊𝒜b"), 3)
    assert.strictEqual(TextStatistics.characters("e\u0301"), 2)
    assert.strictEqual(TextStatistics.characters("a\ud83eb"), 3, "a lone surrogate is one")
  })

  it("in words leaves out spaces, punctuation and pictures", () => {
    assert.deepStrictEqual(TextStatistics.words(""), [])
    assert.deepStrictEqual(TextStatistics.words(" \n?! 🦊"), [])
    assert.deepStrictEqual(TextStatistics.words("fox"), ["fox"])
    assert.deepStrictEqual(TextStatistics.words("It's 3.50, isn't it? — Füchse-Bau 🦊!"), [
      "It's",
      "3.50",
      "isn't",
      "it",
      "Füchse",
      "Bau"
    ])
    assert.isAbove(TextStatistics.words("私は眠る", "ja").length, 1)
  })
})

describe("distinct-n", () => {
  it("is distinct n-grams over tokens", () => {
    const text = split("a b a b c")
    assert.strictEqual(TextStatistics.distinct([text], 1), 3 / 5)
    // ab ba bc
    assert.strictEqual(TextStatistics.distinct([text], 2), 3 / 5)
    assert.strictEqual(TextStatistics.distinct([text], 5), 1 / 5)
    assert.strictEqual(TextStatistics.distinct([text], 6), 0)
  })

  it("takes texts together, without n-grams across them", () => {
    // a b | b a: the bigrams ab and ba, not bb
    assert.strictEqual(TextStatistics.distinct([split("a b"), split("b a")], 2), 2 / 4)
    assert.strictEqual(TextStatistics.distinct([split("a b"), split("a b"), []], 1), 2 / 4)
    assert.strictEqual(TextStatistics.distinct([Int32Array.of(1, 2, 1)], 1), 2 / 3)
    assert.strictEqual(
      TextStatistics.distinct(
        [
          [12, 3],
          [1, 23]
        ],
        2
      ),
      2 / 4,
      "ids do not run together"
    )
    assert.strictEqual(TextStatistics.distinct([[]], 1), 0)
    assert.strictEqual(TextStatistics.distinct([], 1), 0)
  })

  it("has no interval as an estimate", () => {
    const estimate = TextStatistics.distinctEstimate([split("a b"), split("a c")], 1)
    assert.strictEqual(estimate.value, 3 / 4)
    assert.deepStrictEqual([estimate.low, estimate.high, estimate.se, estimate.n], [null, null, null, 2])
    assert.match(estimate.method, /no interval/)
  })

  it("needs n-grams of at least one token", () => {
    for (const n of [0, 1.5, Number.NaN]) {
      assert.throws(() => TextStatistics.distinct([["a"]], n), RangeError, `got ${n}`)
      assert.throws(() => TextStatistics.repeated(["a"], n), RangeError, `got ${n}`)
    }
  })
})

describe("the share of repeated n-grams", () => {
  it("counts those that stood there before", () => {
    assert.strictEqual(TextStatistics.repeated(split("a b a b c"), 1), 1 - 3 / 5)
    assert.strictEqual(TextStatistics.repeated(split("a b a b c"), 2), 1 - 3 / 4)
    assert.strictEqual(TextStatistics.repeated(split("a a a a"), 2), 1 - 1 / 3)
    assert.strictEqual(TextStatistics.repeated(split("a b c"), 2), 0)
    assert.strictEqual(TextStatistics.repeated(["a"], 2), 0)
    assert.strictEqual(TextStatistics.repeated([], 1), 0)
  })
})

describe("the longest repeat", () => {
  it("by hand", () => {
    const repeat = (text: string) => TextStatistics.longestRepeat(split(text))
    assert.deepStrictEqual(repeat("b a n a n a"), { length: 3, first: 1, second: 3 })
    assert.deepStrictEqual(repeat("ha ha ha ha"), { length: 3, first: 0, second: 1 })
    assert.deepStrictEqual(repeat("x y z"), { length: 0, first: 0, second: 0 })
    assert.deepStrictEqual(repeat("x y x"), { length: 1, first: 0, second: 2 })
    assert.deepStrictEqual(TextStatistics.longestRepeat([]), { length: 0, first: 0, second: 0 })
    assert.deepStrictEqual(TextStatistics.longestRepeat(["x"]), { length: 0, first: 0, second: 0 })
    assert.deepStrictEqual(TextStatistics.longestRepeat(Int32Array.of(7, 8, 7, 8, 9)), {
      length: 2,
      first: 0,
      second: 2
    })
  })

  it("is that of comparing all pairs of places", () => {
    const uniform = NextToken.uniforms(3)
    for (let i = 0; i < 300; i++) {
      const vocabulary = 1 + Math.floor(uniform() * 6)
      const tokens = Array.from({ length: 1 + (i % 60) }, () => Math.floor(uniform() * vocabulary))
      let longest = 0
      for (let a = 0; a < tokens.length; a++) {
        for (let b = a + 1; b < tokens.length; b++) {
          let length = 0
          while (b + length < tokens.length && tokens[a + length] === tokens[b + length]) length++
          longest = Math.max(longest, length)
        }
      }
      const { first, length, second } = TextStatistics.longestRepeat(tokens)
      assert.strictEqual(length, longest, tokens.join(" "))
      assert.deepStrictEqual(tokens.slice(first, first + length), tokens.slice(second, second + length))
      if (length > 0) assert.isBelow(first, second)
    }
  })

  it("is found in very long texts", () => {
    const uniform = NextToken.uniforms(4)
    const words = Array.from({ length: 100_000 }, () => `w${Math.floor(uniform() * 3000)}`)
    words.splice(90_000, 700, ...words.slice(1000, 1700))
    assert.deepStrictEqual(TextStatistics.longestRepeat(words), { length: 700, first: 1000, second: 90_000 })
    assert.strictEqual(TextStatistics.longestRepeat(Array(100_000).fill("a")).length, 99_999)
    const text = words.join(" ")
    assert.strictEqual(TextStatistics.words(text).length, 100_000)
    assert.strictEqual(TextStatistics.characters(text), text.length)
    const repeated = TextStatistics.repeated(words, 4)
    assert.isBelow(repeated, 0.008)
    assert.isAbove(repeated, 0.0069)
  })
})

describe("scores of texts", () => {
  const items: ReadonlyArray<TextStatistics.Item> = [
    { id: "a", text: "go go go" },
    { id: "b", text: "" },
    { id: "c", text: "stop 🦊" }
  ]
  const values = (result: ReturnType<typeof TextStatistics.scores>) =>
    Object.fromEntries(Result.getOrThrow(result).map(({ metric, sample }) => [metric, Array.from(sample.values)]))

  it("are means over texts, with words as tokens", () => {
    const scores = TextStatistics.scores(items, { system: "model", task: "answers", orders: [1, 2] })
    assert.deepStrictEqual(values(scores), {
      characters: [8, 0, 6],
      words: [3, 0, 1],
      distinct_1: [1 / 3, 0, 1],
      distinct_2: [1 / 3, 0, 0],
      repeated_1: [1 - 1 / 3, 0, 0],
      repeated_2: [1 / 2, 0, 0],
      longest_repeat: [2, 0, 0]
    })
    const [characters] = Result.getOrThrow(scores)
    assert.closeTo(characters!.estimate.value, 14 / 3, 1e-12)
    assert.strictEqual(characters!.estimate.n, 3)
    assert.strictEqual(Result.getOrThrow(scores).at(-1)!.unit, "words")
    assert.strictEqual(Object.keys(values(TextStatistics.scores(items, { system: "m", task: "t" }))).length, 11)
  })

  it("count over the ids of a tokenizer where one is given, special ones left out", () => {
    const numeric = Tokenizer.numeric(10)
    const tokenizer = {
      encode: (text: string, options?: { readonly addSpecialTokens?: boolean }) =>
        Int32Array.from([...(options?.addSpecialTokens === false ? [] : [9]), ...numeric.encode(text)])
    }
    const scores = TextStatistics.scores([{ id: "a", text: "1 2 1 2 x" }], {
      system: "m",
      task: "t",
      tokenizer,
      orders: [1]
    })
    assert.deepStrictEqual(values(scores), {
      characters: [9],
      words: [5],
      tokens: [4],
      distinct_1: [0.5],
      repeated_1: [0.5],
      longest_repeat: [2]
    })
    assert.strictEqual(Result.getOrThrow(scores).at(-1)!.unit, "tokens")
  })

  it("keep clusters, and need items with ids of their own", () => {
    const clustered = items.map((item) => ({ ...item, cluster: item.id === "a" ? "x" : "y" }))
    assert.strictEqual(
      Result.getOrThrow(TextStatistics.scores(clustered, { system: "m", task: "t" }))[0]!.estimate.clusters,
      2
    )
    const twice = Result.flip(TextStatistics.scores([items[0]!, items[0]!], { system: "m", task: "t" }))
    assert.match(Result.getOrThrow(twice).message, /"m: t characters", item "a": the id stands twice/)
  })
})
