import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as NextToken from "../src/NextToken.ts"

interface Case extends NextToken.Settings {
  readonly name: string
  readonly logits: { readonly shape: readonly [number, number]; readonly data: ReadonlyArray<number> }
  readonly previous: ReadonlyArray<ReadonlyArray<number>>
  readonly logprobs: { readonly data: ReadonlyArray<number | string> }
}
const golden: { readonly cases: ReadonlyArray<Case> } = JSON.parse(
  readFileSync(join(import.meta.dirname, "onnx/sampling.golden.json"), "utf8")
)
const plain: NextToken.Settings = { temperature: 1, topK: 0, topP: 1, repetitionPenalty: 1 }

describe("NextToken", () => {
  for (const { logits, logprobs, name, previous, ...settings } of golden.cases) {
    it(`draws from the same distribution as transformers: ${name}`, () => {
      const [rows, vocabSize] = logits.shape
      for (let b = 0; b < rows; b++) {
        const row = Float32Array.from(logits.data.slice(b * vocabSize, (b + 1) * vocabSize))
        const own = NextToken.logprobs(row, settings, previous[b]!)
        for (let id = 0; id < vocabSize; id++) {
          const expected = Number(logprobs.data[b * vocabSize + id])
          if (expected === -Infinity) assert.strictEqual(own[id], -Infinity, `row ${b}, token ${id}`)
          else assert.closeTo(own[id]!, expected, 1e-6, `row ${b}, token ${id}`)
        }
      }
    })
  }

  it("keeps the k most likely tokens of a long row, for any k", () => {
    const next = NextToken.uniforms(11)
    const row = Float32Array.from({ length: 1000 }, () => Math.floor(next() * 4000) / 100)
    const descending = [...row].sort((a, b) => b - a)
    for (const topK of [1, 7, 256, 257, 999, 1000]) {
      const kept = NextToken.logprobs(row, { ...plain, topK }, [])
      const threshold = descending[topK - 1]!
      for (const [id, logit] of row.entries()) assert.strictEqual(kept[id]! > -Infinity, logit >= threshold)
    }
  })

  it("drops the larger ids of equally likely tokens first", () => {
    // 1/4 each: dropping two leaves exactly 0.5
    const kept = NextToken.logprobs(Float32Array.of(1, 1, 1, 1), { ...plain, topP: 0.5 }, [])
    assert.deepStrictEqual(
      [...kept].map((value) => value > -Infinity),
      [true, true, false, false]
    )
  })

  it("is certain of the greedy choice at temperature 0, the smallest id of equal ones", () => {
    const row = Float32Array.of(0, 2, 2, 1)
    assert.deepStrictEqual(
      [...NextToken.logprobs(row, { ...plain, temperature: 0 }, [])],
      [-Infinity, 0, -Infinity, -Infinity]
    )
    assert.strictEqual(NextToken.greedy(row), 1)
  })

  it("applies the repetition penalty before the greedy choice", () => {
    const settings = { ...plain, temperature: 0, repetitionPenalty: 2 }
    assert.strictEqual(NextToken.greedy(NextToken.logprobs(Float32Array.of(0, 2, 1.5), settings, [1])), 2)
    assert.strictEqual(NextToken.greedy(NextToken.logprobs(Float32Array.of(-3, -2, -3), settings, [1])), 0)
  })

  it("chooses by the cumulative distribution in the order of ids", () => {
    const row = Float32Array.of(0.25, 0, 0.5, 0.25).map(Math.log)
    const choices = [0, 0.24, 0.25, 0.74, 0.76, 0.999].map((uniform) => NextToken.choose(row, uniform))
    assert.deepStrictEqual(choices, [0, 0, 2, 2, 3, 3])
    assert.strictEqual(NextToken.choose(Float32Array.of(-0.7, -0.7, -Infinity), 0.9999), 1)
  })

  it("draws tokens as often as their probabilities say, from one stream and across neighbouring seeds", () => {
    const probabilities = [0.1, 0.2, 0.3, 0.4]
    const row = Float32Array.from(probabilities, Math.log)
    const draws = 20_000
    for (const draw of [NextToken.uniforms(7), firstOfEachSeed()]) {
      const counts = [0, 0, 0, 0]
      for (let i = 0; i < draws; i++) counts[NextToken.choose(row, draw())]!++
      // chi-squared with 3 degrees of freedom: above 16.3 in one of a thousand runs
      const chi = counts.reduce(
        (sum, n, id) => sum + (n - draws * probabilities[id]!) ** 2 / (draws * probabilities[id]!),
        0
      )
      assert.isBelow(chi, 16.3)
    }
  })

  it("gives every row a stream of its own, the same one each time", () => {
    const first = (seed: number) => NextToken.uniforms(seed)()
    const seeds = Array.from({ length: 100 }, (_, index) => NextToken.rowSeed(3, index))
    assert.strictEqual(new Set(seeds).size, 100)
    assert.strictEqual(first(seeds[5]!), first(NextToken.rowSeed(3, 5)))
    assert.notStrictEqual(first(NextToken.rowSeed(4, 5)), first(NextToken.rowSeed(3, 5)))
  })
})

const firstOfEachSeed = () => {
  let index = 0
  return () => NextToken.uniforms(index++)()
}
