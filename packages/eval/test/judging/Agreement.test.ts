import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as Agreement from "../../src/judging/Agreement.ts"
import type { Preference } from "../../src/judging/Judge.ts"
import type { SampleError } from "../../src/Sample.ts"

interface Golden {
  readonly kappa: ReadonlyArray<{
    readonly first: ReadonlyArray<Agreement.Label>
    readonly second: ReadonlyArray<Agreement.Label>
    readonly labels: ReadonlyArray<Agreement.Label>
    readonly none: number
    readonly linear: number
    readonly quadratic: number
  }>
  readonly alpha: ReadonlyArray<{
    readonly units: ReadonlyArray<ReadonlyArray<number | null>>
    readonly nominal: number
    readonly ordinal: number
    readonly interval: number
  }>
}

const golden: Golden = JSON.parse(readFileSync(new URL("./Comparison.golden.json", import.meta.url), "utf8"))

const few = { seed: 1, resamples: 200 }
const pairs = (first: ReadonlyArray<Agreement.Label>, second: ReadonlyArray<Agreement.Label>) =>
  first.map((label, i): Agreement.Pair => ({ id: `q${i}`, first: label, second: second[i]! }))
const units = (rows: ReadonlyArray<ReadonlyArray<Agreement.Label | null>>) =>
  rows.map((ratings, i): Agreement.Unit => ({ id: `q${i}`, ratings }))
const message = (result: Result.Result<unknown, SampleError>) => Result.getOrThrow(Result.flip(result)).message
const near = (actual: number, expected: number) => assert.closeTo(actual, expected, 1e-12)

describe("accuracy", () => {
  it("is the share equal to the reference, with Wilson's interval", () => {
    const estimate = Result.getOrThrow(Agreement.accuracy("judge", pairs(["a", "b", "a", 1], ["a", "a", "a", 1])))
    assert.strictEqual(estimate.value, 0.75)
    assert.strictEqual(estimate.n, 4)
    // Wilson by hand: z = 1.959964, centre (0.75 + z²/8) / (1 + z²/4), half z √(0.75·0.25/4 + z²/64) / (1 + z²/4)
    assert.closeTo(estimate.low!, 0.30064184, 1e-8)
    assert.closeTo(estimate.high!, 0.95441274, 1e-8)
  })

  it("does not take a number for its text", () => {
    assert.strictEqual(Result.getOrThrow(Agreement.accuracy("judge", pairs([1, 2], ["1", 2]))).value, 0.5)
  })

  it("takes clusters as the independent units", () => {
    const clustered = pairs(["a", "a", "b", "b"], ["a", "a", "a", "b"]).map((pair, i) => ({
      ...pair,
      cluster: i < 2 ? "p" : "q"
    }))
    const estimate = Result.getOrThrow(Agreement.accuracy("judge", clustered))
    assert.strictEqual(estimate.clusters, 2)
    // cluster sums of x - 0.75: 0.5 and -0.5; se² = 2/1 (0.25 + 0.25) / 16
    near(estimate.se!, 0.25)
    assert.strictEqual(estimate.high, 1)
    assert.strictEqual(estimate.low, 0)
  })

  it("refuses no items, ids that stand twice and labels that are not finite", () => {
    assert.match(message(Agreement.accuracy("judge", [])), /sample "judge": no items/)
    const twice = [...pairs(["a"], ["a"]), ...pairs(["a"], ["a"])]
    assert.match(message(Agreement.accuracy("judge", twice)), /item "q0": the id stands twice/)
    assert.match(message(Agreement.accuracy("judge", pairs([1, Number.NaN], [1, 2]))), /item "q1": the value is NaN/)
  })
})

describe("kappa", () => {
  it("is that of scikit-learn, weighted and not", () => {
    assert.isAtLeast(golden.kappa.length, 4)
    for (const { first, labels, second, ...expected } of golden.kappa) {
      for (const weights of ["none", "linear", "quadratic"] as const) {
        const estimate = Agreement.kappa("raters", pairs(first, second), { ...few, weights, order: labels })
        near(Result.getOrThrow(estimate).value, expected[weights])
      }
    }
  })

  it("is Cohen's by hand", () => {
    // 20 both yes, 15 both no, 5 + 10 apart: observed 0.7, by chance 0.5 · 0.6 + 0.5 · 0.4 = 0.5
    const cells = [
      ["yes", "yes", 20],
      ["yes", "no", 5],
      ["no", "yes", 10],
      ["no", "no", 15]
    ] as const
    const rows = cells.flatMap(([one, other, count]) => Array.from({ length: count }, () => [one, other] as const))
    const data = pairs(
      rows.map(([one]) => one),
      rows.map(([, other]) => other)
    )
    const estimate = Result.getOrThrow(Agreement.kappa("raters", data, { seed: 7, resamples: 4000 }))
    near(estimate.value, 0.4)
    // The large-sample standard error, of statsmodels, is 0.1270 here.
    assert.closeTo(estimate.se!, 0.127, 0.01)
    assert.isBelow(estimate.low!, 0.4 - 1.5 * 0.127)
    assert.isAbove(estimate.high!, 0.4 + 1.5 * 0.127)
  })

  it("takes numbers ascending where no order is given, by their places", () => {
    const [one, other] = [
      [1, 2, 10, 10],
      [1, 10, 10, 2]
    ]
    const linear = (first: ReadonlyArray<number>, second: ReadonlyArray<number>) =>
      Result.getOrThrow(Agreement.kappa("raters", pairs(first, second), { ...few, weights: "linear" })).value
    const place = (label: number) => [1, 2, 10].indexOf(label)
    near(linear(one, other), linear(one.map(place), other.map(place)))
  })

  it("has no interval for one item or for raters who never differ, and says so", () => {
    const one = Result.getOrThrow(Agreement.kappa("raters", pairs(["a"], ["b"]), few))
    assert.isNull(one.low)
    assert.match(one.method, /one value, no interval/)
    const same = Result.getOrThrow(Agreement.kappa("raters", pairs(["a", "b"], ["a", "b"]), few))
    assert.strictEqual(same.value, 1)
    assert.isNull(same.high)
    assert.match(same.method, /all equal, no interval/)
  })

  it("draws whole clusters", () => {
    const data = pairs(["a", "b", "a", "b", "a", "b"], ["a", "b", "b", "b", "a", "a"])
    const clustered = data.map((pair, i) => ({ ...pair, cluster: `p${i % 3}` }))
    const estimate = Result.getOrThrow(Agreement.kappa("raters", clustered, few))
    assert.strictEqual(estimate.n, 6)
    assert.strictEqual(estimate.clusters, 3)
    assert.match(estimate.method, /of clusters/)
  })

  it("is undefined where both use one label, and refuses labels without a place", () => {
    assert.match(
      message(Agreement.kappa("raters", pairs(["a", "a"], ["a", "a"]), few)),
      /both raters say "a" of every item; κ is undefined/
    )
    assert.match(
      message(Agreement.kappa("raters", pairs(["a", "b"], ["b", "a"]), { ...few, weights: "linear" })),
      /the label "a" has no place in an order/
    )
    assert.match(
      message(Agreement.kappa("raters", pairs(["a", "b"], ["b", "a"]), { ...few, order: ["a", "c"] })),
      /the label "b" is none of the categories "a", "c"/
    )
    assert.match(
      message(Agreement.kappa("raters", pairs([1, 2], [2, 1]), { ...few, order: [1, 2, 1] })),
      /a category stands twice/
    )
  })
})

describe("alpha", () => {
  it("is Krippendorff's published example", () => {
    // Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C and E: four raters, twelve items.
    const n = null
    const raters = [
      [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
      [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
      [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
      [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n]
    ]
    const data = units(raters[0]!.map((_, item) => raters.map((ratings) => ratings[item]!)))
    const values = { nominal: 0.743, ordinal: 0.815, interval: 0.849 }
    for (const level of ["nominal", "ordinal", "interval"] as const) {
      const estimate = Result.getOrThrow(Agreement.alpha("raters", data, { ...few, level }))
      assert.strictEqual(estimate.value.toFixed(3), String(values[level]))
      // One rating of the last item pairs with none.
      assert.strictEqual(estimate.n, 11)
      assert.isBelow(estimate.low!, estimate.value)
    }
  })

  it("is that of the krippendorff package, with ratings missing", () => {
    assert.isAtLeast(golden.alpha.length, 4)
    for (const expected of golden.alpha) {
      for (const level of ["nominal", "ordinal", "interval"] as const) {
        const estimate = Agreement.alpha("raters", units(expected.units), { ...few, level })
        near(Result.getOrThrow(estimate).value, expected[level])
      }
    }
  })

  it("takes names in a given order as ordinal", () => {
    const names = ["poor", "fair", "good"]
    const rows = [
      [0, 0],
      [1, 2],
      [2, 2],
      [0, 1]
    ]
    const options = { ...few, level: "ordinal" } as const
    const named = units(rows.map((row) => row.map((place) => names[place]!)))
    const estimate = Result.getOrThrow(Agreement.alpha("raters", named, { ...options, order: names }))
    near(estimate.value, Result.getOrThrow(Agreement.alpha("raters", units(rows), options)).value)
  })

  it("does not care by how much interval ratings are shifted or scaled", () => {
    const rows = [
      [1, 2],
      [4, 4],
      [2, 2],
      [7, 3]
    ]
    const of = (move: (rating: number) => number) =>
      Result.getOrThrow(
        Agreement.alpha("raters", units(rows.map((row) => row.map(move))), { ...few, level: "interval" })
      ).value
    assert.closeTo(
      of((rating) => rating),
      of((rating) => 1e6 + 3 * rating),
      1e-9
    )
  })

  it("refuses what has no α, never gives NaN", () => {
    const nominal = { ...few, level: "nominal" } as const
    assert.match(message(Agreement.alpha("raters", [], nominal)), /no items/)
    const lone = units([
      ["a", null],
      [null, "b"]
    ])
    assert.match(message(Agreement.alpha("raters", lone, nominal)), /no item has two ratings/)
    const alike = units([
      ["a", "a"],
      ["a", "a"],
      ["b", null]
    ])
    assert.match(message(Agreement.alpha("raters", alike, nominal)), /all ratings are "a"; α is undefined/)
    assert.match(
      message(Agreement.alpha("raters", units([["a", 2]]), { ...few, level: "interval" })),
      /the label "a" is no number/
    )
    assert.match(
      message(Agreement.alpha("raters", units([[1, Number.POSITIVE_INFINITY]]), { ...few, level: "interval" })),
      /item "q0": the value is Infinity/
    )
  })

  it("leaves out resamples in which all ratings are alike, and says how many", () => {
    const data = units([
      ["a", "a"],
      ["a", "b"],
      ["a", "a"]
    ])
    const estimate = Result.getOrThrow(Agreement.alpha("raters", data, { ...few, level: "nominal" }))
    assert.isTrue(Number.isFinite(estimate.low))
    assert.match(estimate.method, /\d+ left out/)
    // Sums of equal numbers round: their mean is not always the number.
    assert.notStrictEqual((0.1 * 6) / 6, 0.1)
    const numbers = units([
      [0.1, 0.1],
      [0.1, 5.7],
      [0.1, 0.1]
    ])
    const interval = Result.getOrThrow(Agreement.alpha("raters", numbers, { ...few, level: "interval" }))
    assert.strictEqual(interval.method, estimate.method)
  })
})

describe("preferences", () => {
  const labelled = (text: string) =>
    [...text].map((letter, i) => {
      const preference: Preference = letter === "f" ? "first" : letter === "s" ? "second" : "tie"
      return { id: `q${i}`, preference }
    })
  const judged = (text: string) => ({ name: "judge", preferences: labelled(text) })
  const people = (text: string) => ({ name: "people", preferences: labelled(text) })

  it("counts with and without ties", () => {
    const result = Result.getOrThrow(Agreement.preferences(judged("ffst-f"), people("fsssft")))
    // equal: 0, 2; decided on both sides: 0, 1, 2; a tie on one side: 3, 4, 5
    assert.strictEqual(result.all.value, 2 / 6)
    assert.strictEqual(result.decided?.value, 2 / 3)
    assert.strictEqual(result.decided?.n, 3)
    assert.strictEqual(result.ties.value, 3 / 6)
  })

  it("matches by id, not by place", () => {
    const reversed = { name: "people", preferences: labelled("fst").toReversed() }
    assert.strictEqual(Result.getOrThrow(Agreement.preferences(judged("fst"), reversed)).all.value, 1)
  })

  it("has no share of decided items where none is", () => {
    assert.isNull(Result.getOrThrow(Agreement.preferences(judged("tf"), people("ft"))).decided)
  })

  it("refuses different items", () => {
    assert.match(message(Agreement.preferences(judged("ff"), people("f"))), /sample "people", item "q1": only "judge"/)
    assert.match(message(Agreement.preferences(judged(""), people("f"))), /sample "judge": no items/)
  })
})
