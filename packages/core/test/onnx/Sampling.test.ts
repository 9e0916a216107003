import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Sampling from "../../src/onnx/Sampling.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "./run.ts"

interface Golden {
  readonly cases: ReadonlyArray<{
    readonly name: string
    readonly repetitionPenalty: number
    readonly temperature: number
    readonly topK: number
    readonly topP: number
    readonly logits: { readonly shape: ReadonlyArray<number>; readonly data: ReadonlyArray<number> }
    readonly previous: ReadonlyArray<ReadonlyArray<number>>
    readonly logprobs: { readonly shape: ReadonlyArray<number>; readonly data: ReadonlyArray<number | "-Infinity"> }
  }>
}

const golden: Golden = JSON.parse(readFileSync(new URL("./sampling.golden.json", import.meta.url), "utf8"))

const none: Sampling.Processors = {
  greedy: false,
  repetitionPenalty: false,
  temperature: false,
  topK: false,
  topP: false
}

const drawing = (batch: Graph.Dim, vocabSize: number): Graph.Graph => {
  const g = Graph.make("draw")
  const p = Graph.input(g, "p", "float32", [batch, vocabSize])
  const first = Graph.input(g, "first", "float32", [batch, 1])
  const second = Graph.input(g, "second", "float32", [batch, 1, 1])
  Graph.output(g, "token", Sampling.draw(g, p, first, second, Sampling.cuts(g, batch, vocabSize)))
  return Graph.prune(g)
}

const feeds = (p: Float32Array, vocabSize: number, first: ReadonlyArray<number>, second: ReadonlyArray<number>) => {
  const B = first.length
  return {
    p: Tensor.float32(p, [B, vocabSize]),
    first: Tensor.float32(first, [B, 1]),
    second: Tensor.float32(second, [B, 1, 1])
  }
}

const smallest = 2 ** -24
const largest = 1 - 2 ** -24

describe("Sampling", () => {
  for (const { logits, logprobs, name, previous, ...settings } of golden.cases) {
    it.effect(`processes logits as transformers: ${name}`, () =>
      Effect.gen(function* () {
        const [B, V] = logits.shape as [number, number]
        const g = Graph.make("process")
        const x = Graph.input(g, "logits", "float32", ["B", V])
        const seen = Graph.input(g, "previous", "int64", ["B", "S"])
        const declared = Sampling.declare(g, {
          greedy: false,
          repetitionPenalty: settings.repetitionPenalty !== 1,
          temperature: settings.temperature !== 1,
          topK: settings.topK > 0,
          topP: settings.topP < 1
        })
        Graph.output(g, "logprobs", Op.LogSoftmax(g, Sampling.process(g, x, declared, seen)))
        const inputs = new Set(g.inputs.map((input) => input.name))
        const all: Run.Tensors = {
          logits: Tensor.float32(logits.data, [B, V]),
          previous: Tensor.int64(previous.flat(), [B, previous[0]!.length]),
          repetitionPenalty: Tensor.scalar(settings.repetitionPenalty),
          temperature: Tensor.scalar(settings.temperature),
          topK: Tensor.int64([Math.min(V, Math.max(1, settings.topK))]),
          topP: Tensor.scalar(settings.topP)
        }
        const given = Object.fromEntries(Object.entries(all).filter(([key]) => inputs.has(key)))
        const found = yield* Run.once(Graph.prune(g), given)
        Run.close(Run.numbers(found.logprobs), logprobs.data.map(Number), name)
      })
    )
  }

  it.effect("keeps everything that ties with the last token of a nucleus", () =>
    Effect.gen(function* () {
      const g = Graph.make("ties")
      const x = Graph.input(g, "logits", "float32", [1, 4])
      const declared = Sampling.declare(g, { ...none, topP: true })
      Graph.output(g, "p", Op.Softmax(g, Sampling.process(g, x, declared)))
      // probabilities 0.4, 0.2, 0.2, 0.2: the first two reach 0.55, and two more tie with the second
      const logits = Tensor.float32([0.4, 0.2, 0.2, 0.2].map(Math.log), [1, 4])
      const found = yield* Run.once(Graph.prune(g), { logits, topP: Tensor.scalar(0.55) })
      Run.close(Run.numbers(found.p), [0.4, 0.2, 0.2, 0.2], "p")
    })
  )

  it("cuts every vocabulary into blocks that cover it", () => {
    for (const size of [1, 2, 7, 16, 29, 96, 512, 2048, 32000, 32003, 49152, 50257, 128256, 151936]) {
      const { blocks, padding, size: width } = Sampling.blocks(size)
      assert.strictEqual(blocks * width, size + padding)
      assert.isTrue(padding < width, `${size}: ${padding} of ${width}`)
      assert.isTrue(blocks + width <= 10 * Math.sqrt(size) + 2, `${size}: ${blocks} blocks of ${width}`)
    }
    assert.strictEqual(Sampling.blocks(2048).padding, 0)
  })

  it.effect("never draws a token of probability zero, at either end of the noise", () =>
    Effect.gen(function* () {
      for (const V of [7, 50, 2048, 50257]) {
        const random = Run.seeded(V)
        const noise = [smallest, largest, 0.5 + smallest, 0.25, 0.999999]
        const pairs = noise.flatMap((a) => noise.map((b) => [a, b] as const))
        const p = new Float32Array(pairs.length * V)
        pairs.forEach((_, row) => {
          // few tokens have any probability, sums of them are not exactly 1, and some are hardly more than nothing
          const kept = 1 + random.below(6)
          for (let i = 0; i < kept; i++) p[row * V + random.below(V)] = i % 3 === 2 ? 1e-30 : 1 / (kept + 0.001)
        })
        const { token } = yield* Run.once(
          drawing("B", V),
          feeds(
            p,
            V,
            pairs.map(([a]) => a),
            pairs.map(([, b]) => b)
          )
        )
        Run.numbers(token).forEach((id, row) => {
          assert.isTrue(id >= 0 && id < V, `V ${V}, row ${row}: ${id}`)
          assert.isAbove(p[row * V + id]!, 0, `V ${V}, noise ${pairs[row]}: token ${id}`)
        })
      }
    })
  )

  it.effect("inverts the cumulative distribution of a vocabulary of 50257 to a millionth", () =>
    Effect.gen(function* () {
      const [B, V] = [24, 50257]
      const random = Run.seeded(5)
      const p = Float32Array.from({ length: B * V }, () => Math.exp(random.uniform(-4, 4)))
      for (let b = 0; b < B; b++) {
        const row = p.subarray(b * V, (b + 1) * V)
        const sum = row.reduce((a, x) => a + x, 0)
        p.set(
          row.map((x) => x / sum),
          b * V
        )
      }
      const first = Array.from({ length: B }, (_, b) => (b === 0 ? largest : random.uniform(0, 1) + smallest))
      const second = first.map(() => random.uniform(0, 1) + smallest)
      const { token } = yield* Run.once(drawing("B", V), feeds(p, V, first, second))
      const { size } = Sampling.blocks(V)
      Run.numbers(token).forEach((id, b) => {
        const row = p.subarray(b * V, (b + 1) * V)
        const sum = (from: number, to: number) => row.subarray(from, to).reduce((a, x) => a + x, 0)
        const start = Math.floor(id / size) * size
        const total = sum(0, V)
        assert.isAtMost(sum(0, start) / total, first[b]! + 1e-6)
        assert.isAtLeast(sum(0, start + size) / total, first[b]! - 1e-6)
        const block = sum(start, start + size)
        assert.isAtMost(sum(start, id) / block, second[b]! + 1e-6)
        assert.isAtLeast(sum(start, id + 1) / block, second[b]! - 1e-6)
      })
    })
  )

  it.effect("draws each token as often as its probability says", () =>
    Effect.gen(function* () {
      const p = Array.from({ length: 40 }, (_, v) => (v % 7 === 3 ? 0 : 1 + (v % 5)))
      const total = p.reduce((a, b) => a + b)
      const B = 20000
      const random = Run.seeded(11)
      const noise = () => Array.from({ length: B }, () => random.uniform(0, 1) + smallest)
      const rows = Float32Array.from({ length: B * 40 }, (_, i) => p[i % 40]! / total)
      const { token } = yield* Run.once(drawing("B", 40), feeds(rows, 40, noise(), noise()))
      const counts = new Array<number>(40).fill(0)
      for (const id of Run.numbers(token)) counts[id]!++
      const kinds = p.flatMap((weight, v) =>
        weight === 0 ? [] : [(counts[v]! - (B * weight) / total) ** 2 / ((B * weight) / total)]
      )
      // 33 degrees of freedom: 63.9 is exceeded once in a thousand
      assert.isBelow(
        kinds.reduce((a, b) => a + b),
        63.9
      )
      assert.isTrue(p.every((weight, v) => weight > 0 || counts[v] === 0))
    })
  )

  it.effect("is greedy without noise, ties to the smallest id, and scores the token under the model", () =>
    Effect.gen(function* () {
      const g = Graph.make("greedy")
      const logits = Graph.input(g, "logits", "float32", ["B", 5])
      const { logprob, token, untempered } = Sampling.next(g, logits, {}, null)
      assert.isNull(logprob)
      Graph.output(g, "token", token)
      Graph.output(g, "untempered", untempered)
      const found = yield* Run.once(Graph.prune(g), {
        logits: Tensor.float32([0, 3, 1, 3, 2, -1, -1, -1, -1, -1], [2, 5])
      })
      assert.deepStrictEqual(Run.numbers(found.token), [1, 0])
      const sum = [0, 3, 1, 3, 2].reduce((a, x) => a + Math.exp(x), 0)
      Run.close(Run.numbers(found.untempered), [3 - Math.log(sum), -Math.log(5)], "untempered")
    })
  )

  it("refuses a repetition penalty without the tokens that it counts", () => {
    const g = Graph.make("penalty")
    const logits = Graph.input(g, "logits", "float32", ["B", 5])
    const declared = Sampling.declare(g, { ...none, repetitionPenalty: true })
    assert.throws(() => Sampling.next(g, logits, declared, null), "needs the previous tokens")
  })

  it("knows where the log-prob needs no computing", () => {
    assert.strictEqual(Sampling.drawnLogprob(none), "model")
    assert.strictEqual(Sampling.drawnLogprob({ ...none, greedy: true, repetitionPenalty: true }), "zero")
    assert.strictEqual(Sampling.drawnLogprob({ ...none, topP: true }), "computed")
  })
})
