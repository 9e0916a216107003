import { NextToken } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import * as LongestCommonSubsequence from "../../src/text/LongestCommonSubsequence.ts"

/** The whole table, and the walk back through it as in the Python package rouge_score. */
const byTable = (first: ReadonlyArray<string>, second: ReadonlyArray<string>) => {
  const table = Array.from({ length: first.length + 1 }, () => new Int32Array(second.length + 1))
  for (let i = 1; i <= first.length; i++) {
    for (let j = 1; j <= second.length; j++) {
      table[i]![j] =
        first[i - 1] === second[j - 1] ? table[i - 1]![j - 1]! + 1 : Math.max(table[i - 1]![j]!, table[i]![j - 1]!)
    }
  }
  const indices: Array<number> = []
  for (let i = first.length, j = second.length; i > 0 && j > 0; ) {
    if (first[i - 1] === second[j - 1]) {
      indices.unshift(i - 1)
      i--
      j--
    } else if (table[i]![j - 1]! > table[i - 1]![j]!) j--
    else i--
  }
  return { length: table[first.length]![second.length]!, indices }
}

describe("the longest common subsequence", () => {
  it("of a small pair is the one that paper gives", () => {
    // A B C B D A B and B D C A B A have B C B A, B C A B and B D A B in common.
    const [first, second] = ["ABCBDAB", "BDCABA"].map((text) => [...text]) as [Array<string>, Array<string>]
    assert.strictEqual(LongestCommonSubsequence.length(first, second), 4)
    assert.deepStrictEqual(
      LongestCommonSubsequence.indices(first)(second).map((i) => first[i]),
      [..."BCBA"]
    )
  })

  it("of nothing is nothing", () => {
    for (const [first, second] of [
      [[], []],
      [["a"], []],
      [[], ["a"]],
      [["a"], ["b"]]
    ] as const) {
      assert.strictEqual(LongestCommonSubsequence.length(first, second), 0)
      assert.deepStrictEqual(LongestCommonSubsequence.indices(first)(second), [])
    }
  })

  it("is that of the table, ties included, for lists shorter and longer than a machine word", () => {
    const uniform = NextToken.uniforms(5)
    const list = (length: number, vocabulary: number) =>
      Array.from({ length }, () => String.fromCharCode(97 + Math.floor(uniform() * vocabulary)))
    for (const n of [1, 2, 7, 29, 30, 31, 59, 60, 61, 150]) {
      for (const m of [1, 3, 16, 17, 30, 90, 200]) {
        for (const vocabulary of [1, 2, 4, 20]) {
          const [first, second] = [list(n, vocabulary), list(m, vocabulary)]
          const expected = byTable(first, second)
          const where = `${n} and ${m} of ${vocabulary}`
          assert.strictEqual(LongestCommonSubsequence.length(first, second), expected.length, where)
          assert.deepStrictEqual(LongestCommonSubsequence.indices(first)(second), expected.indices, where)
        }
      }
    }
  })

  it("of a list with its own parts is the part, for very long lists", () => {
    const uniform = NextToken.uniforms(6)
    const whole = Array.from({ length: 100_000 }, () => `w${Math.floor(uniform() * 1000)}`)
    const part = whole.filter((_, i) => i % 3 === 0)
    assert.strictEqual(LongestCommonSubsequence.length(whole, part), part.length)
    assert.strictEqual(LongestCommonSubsequence.length(part, whole), part.length)
  })
})
