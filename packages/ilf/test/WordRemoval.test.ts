import { Completion, ModelError, type Policy } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as WordRemoval from "../src/WordRemoval.ts"

const thingsOf = (sentence: string) => sentence.replace("This box holds ", "").slice(0, -1).split(", and ")

// Answers with the texts given, and remembers how it was asked.
const policyOf = (answer: (prompt: string, i: number) => string) => {
  const calls: Array<readonly [prompts: ReadonlyArray<unknown>, options: unknown]> = []
  const sample: Policy.PolicyShape["sample"] = (prompts, options) =>
    Effect.sync(() => {
      calls.push([prompts, options])
      return prompts.map((prompt, i) =>
        Completion.make({
          tokens: new Int32Array(),
          logprobs: new Float32Array(),
          untemperedLogprobs: new Float32Array(),
          text: answer(prompt as string, i),
          finishReason: "stop"
        })
      )
    })
  return { calls, policy: { sample } }
}

describe("the items", () => {
  it("I13: are 50 in each of 27 cells, 1350 together", () => {
    const items = WordRemoval.make()
    assert.strictEqual(WordRemoval.cells.length, 27)
    assert.strictEqual(items.length, 1350)
    assert.strictEqual(((520 / items.length) * 100).toFixed(1), "38.5") // what the paper prints of its largest model
    for (const { k, m } of WordRemoval.cells) {
      assert.isTrue(m >= 1 && m <= 3 && m <= k && k <= 10)
      assert.strictEqual(items.filter((item) => item.k === k && item.m === m).length, 50)
    }
    assert.strictEqual(new Set(items.map(({ id }) => id)).size, 1350)
    assert.strictEqual(new Set(items.map(({ removed, sentence }) => `${sentence} ${[...removed].sort()}`)).size, 1350)
  })

  const seeds = Schema.Int.check(Schema.isBetween({ minimum: -(2 ** 31), maximum: 2 ** 31 - 1 }))

  it.prop("are the sentence without what is named, to the letter", [seeds], ([seed]) => {
    for (const { critique, k, m, prompt, removed, sentence, target } of WordRemoval.make({ seed, perCell: 2 })) {
      const things = thingsOf(sentence)
      assert.strictEqual(things.length, k + 1)
      assert.strictEqual(new Set(things.map((thing) => thing.split(" ")[2])).size, k + 1, "a noun stands twice")
      assert.strictEqual(things.filter((thing) => thing === "a nice present").length, 1)
      assert.strictEqual(new Set(removed).size, m)
      assert.isTrue(removed.every((name) => things.includes(`a ${name}`) && critique.includes(`"${name}"`)))
      assert.strictEqual(things.filter((thing) => critique.includes(`"${thing.slice(2)}"`)).length, m)
      const left = things.filter((thing) => !removed.includes(thing.slice(2)))
      assert.strictEqual(`This box${target}`, `This box holds ${left.join(", and ")}.`)
      assert.strictEqual(left.length, k + 1 - m)
      assert.isTrue(
        prompt.endsWith(`Improved text: This box`) && prompt.includes(sentence) && prompt.includes(critique)
      )
    }
  })

  it("depend on the seed alone, and begin alike however many they are", () => {
    const few = WordRemoval.make({ perCell: 3, seed: 5 })
    assert.deepStrictEqual(WordRemoval.make({ perCell: 3, seed: 5 }), few)
    const many = WordRemoval.make({ perCell: 6, seed: 5 })
    assert.deepStrictEqual(
      many.filter((_, i) => i % 6 < 3),
      few
    )
    assert.notDeepEqual(WordRemoval.make({ perCell: 3, seed: 6 }), few)
  })

  it("name any of the things, wherever the one stands that stays", () => {
    const items = WordRemoval.make().filter(({ k }) => k === 3)
    const places = new Set(items.map(({ sentence }) => thingsOf(sentence).indexOf("a nice present")))
    assert.deepStrictEqual([...places].sort(), [0, 1, 2, 3])
    const one = items.filter(({ m }) => m === 1)
    const named = one.map(({ removed, sentence }) =>
      thingsOf(sentence)
        .filter((thing) => thing !== "a nice present")
        .indexOf(`a ${removed[0]}`)
    )
    assert.deepStrictEqual([...new Set(named)].sort(), [0, 1, 2])
  })

  it("read like this", () => {
    const [item] = WordRemoval.make({ perCell: 1, template: "{sentence} {critique} {opening}" })
    assert.strictEqual(item!.target, " holds a nice present.")
    assert.match(
      item!.prompt,
      /^This box holds a .*\. The ideal text does not mention "\w+ \w+", and is otherwise unchanged\. This box$/
    )
  })

  it("are refused for counts and templates that make no sense", () => {
    for (const perCell of [0, 1.5, 201]) assert.throws(() => WordRemoval.make({ perCell }), RangeError, "perCell")
    const make = (template: string) => () => WordRemoval.make({ template })
    assert.throws(make("{sentence} {opening}"), RangeError, "lacks {critique}")
    assert.throws(make("{sentence} {critique} {draft} {opening}"), RangeError, "has {draft}")
    assert.throws(make("{sentence} {critique} {opening} "), RangeError, "must end with {opening}")
    assert.strictEqual(WordRemoval.make({ perCell: 200 }).length, 27 * 200)
  })
})

describe("an answer", () => {
  const item = { target: " holds a nice present, and a red cup." }

  it("is right to the letter, white space around it and what follows the line aside", () => {
    for (const text of [item.target, item.target.trim(), `${item.target}  `, `${item.target}\n\nText: More.`]) {
      assert.strictEqual(WordRemoval.score(item, text), 1, text)
    }
    for (const text of [
      "",
      " holds a nice present, and a red cup",
      " holds a nice present,  and a red cup.",
      " Holds such a nice present, and a red cup.",
      `${item.target} And more.`,
      `\n${item.target}`
    ]) {
      assert.strictEqual(WordRemoval.score(item, text), 0, text)
    }
  })
})

describe("an evaluation", () => {
  const items = WordRemoval.make({ perCell: 4 })

  it.effect("asks greedily, once, and counts by cell", () =>
    Effect.gen(function* () {
      // Right on every other item, and on all where one thing is to be removed of one.
      const isRight = (i: number) => i % 2 === 0 || i < 4
      const { calls, policy } = policyOf((_, i) => (isRight(i) ? items[i]!.target : `${items[i]!.target} `.slice(2)))
      const results = yield* WordRemoval.evaluate(policy, items)
      assert.deepStrictEqual(calls, [
        [items.map(({ prompt }) => prompt), { temperature: 0, maxNewTokens: 200, stopStrings: ["\n"] }]
      ])
      assert.deepStrictEqual(
        results.map(({ id, value }) => [id, value]),
        items.map(({ id }, i) => [id, isRight(i) ? 1 : 0])
      )
      assert.strictEqual(results[4]!.cell, "k2 m1")
      assert.deepStrictEqual(
        WordRemoval.byCell(results),
        WordRemoval.cells.map((cell, i) => ({ ...cell, items: 4, correct: i === 0 ? 4 : 2 }))
      )
      assert.deepStrictEqual(WordRemoval.byCell([]), [])
    })
  )

  it.effect("takes other settings, and fails with the policy", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf(() => "")
      yield* WordRemoval.evaluate(policy, items, { maxNewTokens: 60, batchSize: 8 })
      assert.deepStrictEqual(calls[0]![1], { temperature: 0, maxNewTokens: 60, batchSize: 8, stopStrings: ["\n"] })
      const error = new ModelError.ModelError({ model: "broken", operation: "sample", message: "out of memory" })
      const broken = { sample: () => Effect.fail(error) }
      assert.strictEqual(yield* Effect.flip(WordRemoval.evaluate(broken, items)), error)
    })
  )
})
