import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Loss from "../../src/Loss.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OrtLearner from "../../src/ort/OrtLearner.ts"
import * as TrainLayout from "../../src/ort/TrainLayout.ts"
import * as Tiny from "./tiny.ts"

const scaled = Loss.make({
  name: "scaled",
  fields: { scale: ["N"], sequence: ["B"] },
  metrics: ["mean_logprob", "mean_sequence"],
  build: ({ fields, g, logprobs, weights }) => ({
    loss: Loss.mean(g, Op.Mul(g, logprobs(), fields.scale), weights),
    metrics: { mean_logprob: Loss.mean(g, logprobs(), weights), mean_sequence: Op.sumAll(g, fields.sequence) }
  })
})

// Completions of a prompt; the first `skipped` tokens of each are no targets.
const group = (
  prompt: ReadonlyArray<number>,
  completions: ReadonlyArray<ReadonlyArray<number>>,
  skipped = 0
): Loss.Group<typeof scaled.fields> =>
  completions.map((completion, k) => {
    const tokens = Int32Array.from([...prompt, ...completion])
    const scale = Float32Array.from({ length: completion.length - skipped }, (_, i) => 0.3 * i - 0.2 * k + 0.5)
    const weights = new Float32Array(tokens.length).fill(1, prompt.length + skipped)
    return { tokens, weights, fields: { scale, sequence: k + completion.length } }
  })

const groups = [
  group([1, 2, 3, 4, 5, 6, 7], [[8, 9], [8, 1, 2], [5]]),
  // Alike beyond the prompt: what is shared ends where targets begin.
  group(
    [3, 3, 4, 9, 9, 1, 2, 3, 4],
    [
      [8, 9, 4, 4],
      [8, 9],
      [8, 1]
    ]
  ),
  group([5, 6, 7, 8, 9, 1, 2, 3, 4, 7, 6], [[4], [7, 7], [9, 1], [3, 3, 3]]),
  group([6, 1, 3, 8, 8, 8, 8, 1, 2, 2], [[1, 2], [3, 4, 5], [2], [2, 1]]),
  group(
    [9, 8, 7, 6, 5, 3, 2, 2],
    [
      [1, 2, 3],
      [1, 2, 4],
      [1, 7, 7]
    ],
    2
  )
]

// Groups that share little: a target right after the first token, a group of one, alike in nothing but the first token.
const poor = [
  group(
    [6],
    [
      [1, 2],
      [3, 4, 5]
    ]
  ),
  group([1, 1, 1, 1], [[2, 3, 4]]),
  [...group([2, 2], [[1, 4, 5]]), ...group([2, 7, 7], [[1]])]
]

// Prompts to the end of the context beside longer completions, whose padding would stand past it.
const full = [
  group(
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5],
    [
      [6, 7],
      [8, 8],
      [9, 7]
    ]
  ),
  group([3, 1, 3, 3, 1, 1, 3, 2], [[1, 2, 2, 2, 2, 2], [2, 1, 1, 1], [2]])
]

const oneThread = Device.layer({ provider: "cpu", threads: 1 })
const nothing = { parts: undefined, rows: 40 }
const rows = (parts: ReadonlyArray<TrainLayout.MicroBatch>) => parts.reduce((sum, { padded }) => sum + padded, 0)

describe("a prompt that several sequences share", () => {
  for (const [name, make] of Object.entries({ llama: Tiny.llama, gpt2: Tiny.gpt2, qwen3: Tiny.qwen3 })) {
    it.effect(`gives the loss, metrics and gradients of whole sequences: ${name}`, () =>
      Effect.gen(function* () {
        const decoder = make()
        const trained = (batch: Loss.Batch<typeof scaled.fields>, accumulate?: number) =>
          Effect.scoped(
            Effect.gen(function* () {
              const model = yield* Tiny.policy(decoder)
              const optimizer = Optimizer.adamW({ learningRate: 0.01 })
              const learner = yield* OrtLearner.make({ model, loss: scaled, optimizer, accumulate })
              const records = yield* learner.update([batch, batch])
              return { records, state: yield* learner.state }
            })
          )
        const cases = [
          { given: [...groups, ...poor], parts: 3 },
          { given: full, parts: 1 }
        ]
        for (const { given, parts } of cases) {
          const apart = yield* trained(given.flat())
          // Micro-batches so large are few enough rows that prompts are shared.
          const cuts = [TrainLayout.whole, TrainLayout.forked].map((layout) =>
            rows(TrainLayout.cut(layout, given, { parts, rows: 0 }, scaled.fields))
          )
          assert.isBelow(cuts[1]!, 0.8 * cuts[0]!)
          for (const together of [yield* trained(given, parts), yield* trained(given, 8)]) {
            for (const [i, record] of apart.records.entries()) {
              for (const [metric, value] of Object.entries(record)) {
                assert.closeTo(together.records[i]![metric]!, value, 5e-6, `step ${i}, ${metric}`)
              }
            }
            // The first moment is a sum of gradients.
            for (const [parameter, { data }] of apart.state.tensors["first"]!) {
              const own = together.state.tensors["first"]!.get(parameter)!.data
              for (const [i, value] of data.entries()) assert.closeTo(own[i]!, value, 5e-6, parameter)
            }
          }
        }
      }).pipe(Effect.provide(oneThread))
    )
  }

  it("is computed once, up to the token before the one that predicts the first target", () => {
    const [part] = TrainLayout.cut(TrainLayout.forked, [groups[0]!], nothing, scaled.fields)
    assert.deepStrictEqual(part!.sizes, { G: 1, P: 6, C: 3, O: 3 })
    assert.deepStrictEqual([...part!.ints["prompts"]!], [1, 2, 3, 4, 5, 6])
    assert.deepStrictEqual([...part!.ints["own"]!], [7, 8, 9, 7, 8, 1, 7, 5, 0])
    assert.deepStrictEqual(part!.targets, [8, 9, 8, 1, 2, 5])
    assert.deepStrictEqual(part!.rows, [0, 1, 3, 4, 5, 6])
  })

  it("costs fewer rows than whole sequences, in micro-batches that each have room for them", () => {
    const many = Array.from({ length: 12 }, (_, i) => group([1, 2, 3, 4, 5, 6, 7, 8, i], [[1], [2, 3], [4], [5]]))
    const whole = TrainLayout.cut(TrainLayout.whole, many, nothing, scaled.fields)
    const forked = TrainLayout.cut(TrainLayout.forked, many, nothing, scaled.fields)
    assert.strictEqual(rows(whole), 480)
    assert.strictEqual(rows(forked), 12 * (8 + 4 * 2))
    for (const { padded } of forked) assert.isAtMost(padded, nothing.rows)
    // Nothing is lost or repeated.
    const numbers = forked.flatMap(({ sequences }) => sequences.map(({ number }) => number))
    assert.deepStrictEqual(
      numbers.toSorted((a, b) => a - b),
      Array.from({ length: 48 }, (_, i) => i)
    )
  })

  it("is left to each sequence by an example alone, whose tokens are all its own", () => {
    const [part] = TrainLayout.cut(TrainLayout.forked, poor[1]!, nothing, scaled.fields)
    assert.deepStrictEqual(part!.sizes, { G: 1, P: 1, C: 1, O: 6 })
    assert.deepStrictEqual([...part!.ints["lengths"]!], [0])
  })
})
