import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as Sample from "../src/Sample.ts"

const message = <A>(result: Result.Result<A, Sample.SampleError>): string =>
  Result.isFailure(result) ? result.failure.message : "no failure"

const items = (...values: ReadonlyArray<number>) => values.map((value, i) => ({ id: `q${i}`, value }))

describe("a sample", () => {
  it("keeps its items in their order", () => {
    const { ids, name, values } = Result.getOrThrow(Sample.make("acc", items(1, 0.5, 0)))
    assert.deepStrictEqual([name, ids, [...values]], ["acc", ["q0", "q1", "q2"], [1, 0.5, 0]])
  })

  it("has no clusters where its items have none", () => {
    assert.notProperty(Result.getOrThrow(Sample.make("acc", items(1, 0))), "clusters")
    const clustered = items(1, 0).map((item) => ({ ...item, cluster: "p" }))
    assert.deepStrictEqual(Result.getOrThrow(Sample.make("acc", clustered)).clusters, ["p", "p"])
  })

  it("is named by places where it is made of values only", () => {
    assert.deepStrictEqual(Result.getOrThrow(Sample.fromValues("acc", Float32Array.of(1, 2))).ids, ["0", "1"])
  })

  it("is refused empty, with values that are no numbers, with an id twice, or partly clustered", () => {
    assert.strictEqual(message(Sample.make("acc", [])), `sample "acc": no items; there is nothing to estimate`)
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.include(message(Sample.make("acc", items(1, value))), `sample "acc", item "q1": the value is ${value}`)
    }
    assert.include(message(Sample.make("acc", [...items(1, 2), ...items(3)])), `item "q0": the id stands twice`)
    const partly = [{ id: "a", value: 1, cluster: "p" }, ...items(1)]
    assert.include(message(Sample.make("acc", partly)), `item "q0": the item has no cluster`)
  })
})

describe("a pair", () => {
  const first = Result.getOrThrow(
    Sample.make(
      "new",
      items(3, 5, 7).map((item, i) => ({ ...item, cluster: i < 2 ? "a" : "b" }))
    )
  )

  it("follows the ids, whatever the order of the second sample", () => {
    const second = Result.getOrThrow(Sample.make("old", items(1, 2, 4).reverse()))
    const pair = Result.getOrThrow(Sample.pair(first, second))
    assert.deepStrictEqual([...pair.second], [1, 2, 4])
    const difference = Sample.difference(pair)
    assert.deepStrictEqual([difference.name, [...difference.values]], ["new - old", [2, 3, 3]])
    assert.deepStrictEqual(difference.clusters, ["a", "a", "b"])
  })

  it("has the clusters of whichever sample has any, and is refused where they differ", () => {
    const values = items(4, 1, 2)
    const plain = Result.getOrThrow(Sample.make("old", values.toReversed()))
    assert.deepStrictEqual(Result.getOrThrow(Sample.pair(plain, first)).clusters, ["b", "a", "a"])
    const clustered = (names: string) =>
      Result.getOrThrow(
        Sample.make(
          "old",
          values.map((item, i) => ({ ...item, cluster: names[i]! }))
        )
      )
    assert.deepStrictEqual(Result.getOrThrow(Sample.pair(first, clustered("aab"))).clusters, ["a", "a", "b"])
    assert.strictEqual(
      message(Sample.pair(first, clustered("abb"))),
      `sample "old", item "q1": its cluster is "b", in "new" it is "a"; name clusters alike`
    )
  })

  it("is refused where either sample has an item that the other lacks", () => {
    const fewer = Result.getOrThrow(Sample.make("old", items(1, 2)))
    assert.include(message(Sample.pair(first, fewer)), `sample "old", item "q2": only "new" has it`)
    const more = Result.getOrThrow(Sample.make("old", items(1, 2, 3, 4)))
    assert.include(message(Sample.pair(first, more)), `sample "new", item "q3": only "old" has it`)
  })
})
