import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Epochs from "../src/Epochs.ts"
import type { Decoder } from "../src/nn/Decoder.ts"
import * as Gradient from "../src/onnx/Gradient.ts"
import * as Graph from "../src/onnx/Graph.ts"
import * as Op from "../src/onnx/Op.ts"
import * as Optimizer from "../src/onnx/Optimizer.ts"
import * as OrtLearner from "../src/ort/OrtLearner.ts"
import * as Sft from "../src/Sft.ts"
import * as Tensor from "../src/Tensor.ts"
import * as Tokenizer from "../src/Tokenizer.ts"
import * as Run from "./onnx/run.ts"
import * as Tiny from "./ort/tiny.ts"

describe("example", () => {
  it("makes the tokens of the completion the targets", () => {
    const { fields, tokens, weights } = Sft.example([5, 6], [7, 8, 9])
    assert.deepStrictEqual([...tokens], [5, 6, 7, 8, 9])
    assert.deepStrictEqual([...weights], [0, 0, 1, 1, 1])
    assert.deepStrictEqual(fields, {})
  })

  it("weighs the prompt where asked, except for its first token, which nothing predicts", () => {
    assert.deepStrictEqual([...Sft.example([5, 6, 7], [8], 0.25).weights], [0, 0.25, 0.25, 1])
  })

  it("without a prompt, leaves out the first token", () => {
    assert.deepStrictEqual([...Sft.example([], [7, 8, 9]).weights], [0, 1, 1])
    assert.deepStrictEqual([...Sft.example([], [7]).weights], [0])
    assert.strictEqual(Sft.example([], []).tokens.length, 0)
  })

  it("takes ids from any array and keeps none of them", () => {
    const completion = Int32Array.of(7, 8)
    const { tokens } = Sft.example(Uint16Array.of(5), completion)
    completion.fill(0)
    assert.deepStrictEqual([...tokens], [5, 7, 8])
  })
})

describe("examples", () => {
  const numbers = Tokenizer.numeric(10)
  const tokenizer = { ...numbers, eosId: 9 }
  const made = (...rest: Parameters<typeof Sft.examples>) =>
    Result.getOrThrow(Sft.examples(...rest)).map(({ tokens, weights }) => [[...tokens], [...weights]])

  it("end in the end-of-text token, where there is one, and count the prompt as much as asked", () => {
    const demonstrations = [
      { prompt: "1 2", completion: "3" },
      { prompt: "", completion: "4 5" }
    ]
    assert.deepStrictEqual(made(tokenizer, demonstrations), [
      [
        [1, 2, 3, 9],
        [0, 0, 1, 1]
      ],
      [
        [4, 5, 9],
        [0, 1, 1]
      ]
    ])
    assert.deepStrictEqual(made(tokenizer, demonstrations.slice(0, 1), 0.5), [
      [
        [1, 2, 3, 9],
        [0, 0.5, 1, 1]
      ]
    ])
    assert.deepStrictEqual(made(numbers, demonstrations.slice(1)), [
      [
        [4, 5],
        [0, 1]
      ]
    ])
  })

  it("of a conversation need a chat template", () => {
    const result = Sft.examples(tokenizer, [{ prompt: [{ role: "user", content: "1" }], completion: "2" }])
    assert.include(Result.getOrThrow(Result.flip(result)).message, "messages")
  })
})

describe("order", () => {
  const sorted = (indices: Int32Array) => [...indices.toSorted()]

  it("has every index once, in an order of its own for each seed and epoch", () => {
    const orders = [0, 1, 2].flatMap((seed) => [0, 1, 2].map((epoch) => Epochs.order(50, seed, epoch)))
    for (const indices of orders)
      assert.deepStrictEqual(
        sorted(indices),
        Array.from({ length: 50 }, (_, i) => i)
      )
    assert.strictEqual(new Set(orders.map(String)).size, orders.length)
    assert.deepStrictEqual(Epochs.order(50, 1, 2), orders[5])
  })

  it("leaves no index where it was more often than chance does", () => {
    const epochs = 2000
    let fixed = 0
    for (let epoch = 0; epoch < epochs; epoch++) fixed += Epochs.order(20, 7, epoch).filter((i, at) => i === at).length
    // One fixed point on average, of variance one: six standard errors.
    assert.closeTo(fixed / epochs, 1, 6 / Math.sqrt(epochs))
  })
})

describe("join", () => {
  it("puts the end-of-text token after every text", () => {
    const numbers = Tokenizer.numeric(10)
    assert.deepStrictEqual([...Sft.join({ ...numbers, eosId: 9 }, ["1 2", "3"])], [1, 2, 9, 3, 9])
    assert.deepStrictEqual([...Sft.join(numbers, ["1 2", "3"])], [1, 2, 3])
    assert.strictEqual(Sft.join(numbers, []).length, 0)
  })
})

describe("windows", () => {
  it("make every token but the very first a target once, after what stands before it", () => {
    for (const [count, length] of [
      [7, 3],
      [8, 3],
      [9, 4],
      [3, 3],
      [2, 5],
      [20, 2]
    ] as const) {
      const tokens = Int32Array.from({ length: count }, (_, i) => i + 10)
      const windows = Sft.windows(tokens, length)
      const targets = windows.flatMap(({ tokens, weights }) => [...tokens].filter((_, i) => weights[i] === 1))
      assert.deepStrictEqual(targets, [...tokens.subarray(1)])
      for (const { tokens } of windows)
        assert.isTrue(tokens.length >= 2 && tokens.every((id, i) => id === tokens[0]! + i))
      for (const { tokens } of windows.slice(0, -1)) assert.strictEqual(tokens.length, length)
      assert.isAtMost(windows.at(-1)!.tokens.length, length)
    }
  })

  it("are none where there is nothing to predict, and need room for a target", () => {
    assert.deepStrictEqual(Sft.windows(Int32Array.of(), 4), [])
    assert.deepStrictEqual(Sft.windows(Int32Array.of(1), 4), [])
    for (const length of [1, 2.5, Number.NaN]) assert.throws(() => Sft.windows(Int32Array.of(1, 2), length), /from 2/)
  })
})

describe("mix", () => {
  const demonstrations = Array.from({ length: 90 }, (_, i) => Sft.example([1], [i]))
  const pretraining = Array.from({ length: 7 }, (_, i) => Sft.example([], [2, i]))
  const drawn = (...[from, options]: [number, Parameters<typeof Sft.mix>[2]?]) => {
    const mixed = Result.getOrThrow(Sft.mix(demonstrations.slice(0, from), pretraining, options))
    assert.deepStrictEqual(mixed.slice(0, from), demonstrations.slice(0, from))
    return mixed.slice(from).map((example) => pretraining.indexOf(example))
  }

  it("has the share of pretraining that was asked for, a tenth by default", () => {
    assert.strictEqual(drawn(90).length, 10)
    assert.strictEqual(drawn(45, { fraction: 0.5 }).length, 45)
    assert.strictEqual(drawn(90, { fraction: 0 }).length, 0)
    // 0.25 / 0.75 of four
    assert.strictEqual(drawn(4, { fraction: 0.25 }).length, 1)
  })

  it("takes all of the pretraining before any of it again, in an order of its own for each seed and pass", () => {
    const seven = [0, 1, 2, 3, 4, 5, 6]
    const indices = drawn(21, { fraction: 0.5 })
    const passes = [0, 7, 14].map((first) => indices.slice(first, first + 7))
    for (const pass of passes) assert.deepStrictEqual(pass.toSorted(), seven)
    assert.strictEqual(new Set(passes.map(String)).size, 3)
    assert.deepStrictEqual(drawn(21, { fraction: 0.5, seed: 0 }), indices)
    assert.notDeepEqual(drawn(21, { fraction: 0.5, seed: 1 }), indices)
    assert.isFalse(drawn(5, { fraction: 0.5 }).includes(-1))
  })

  it("refuses a share that is none, and to take from nothing", () => {
    const message = (...given: Parameters<typeof Sft.mix>) => Result.getOrThrow(Result.flip(Sft.mix(...given))).message
    for (const fraction of [1, -0.1, Number.NaN]) {
      assert.match(message(demonstrations, pretraining, { fraction }), /fraction is .* below 1/)
    }
    assert.match(message(demonstrations, []), /no example of pretraining/)
    assert.deepStrictEqual(Sft.mix(demonstrations, [], { fraction: 0 }), Result.succeed(demonstrations))
  })
})

// Mean over the tokens of one sequence each: the last of three, and the last two of four, the last counting double.
const tokens = [
  [3, 1, 4, 0],
  [5, 9, 2, 6]
]
const targets = [
  { row: 1, token: 4, weight: 0.25 },
  { row: 5, token: 2, weight: 0.25 },
  { row: 6, token: 6, weight: 0.5 }
]
const feeds = {
  tokens: Tensor.int64(tokens.flat(), [2, 4]),
  rows: Tensor.int64(targets.map(({ row }) => row)),
  targets: Tensor.int64(targets.map(({ token }) => token)),
  weights: Tensor.float32(targets.map(({ weight }) => weight))
}

const lossGraph = (decoder: Decoder) => {
  const step = OrtLearner.trainStep(Tiny.language(decoder), Sft.loss, Optimizer.adamW({ learningRate: 1 }))
  const g = Graph.make("sft")
  for (const { dtype, name, shape } of step.batch) Graph.input(g, name, dtype, shape)
  const parameters = step.parameters.map(({ name, shape }) => Graph.input(g, name, "float32", shape))
  const of = (name: string) => Graph.value(g, name)
  const { loss } = step.forward(g, of, of)
  const gradients = Result.getOrThrow(Gradient.backward(g, loss, parameters))
  Graph.output(g, "loss", Op.Identity(g, loss))
  for (const [name, gradient] of gradients) Graph.output(g, `gradient:${name}`, Op.Identity(g, gradient))
  return { g, gradients }
}

const decoders = { gpt2: Tiny.gpt2(), llama: Tiny.llama(), qwen3: Tiny.qwen3() }

describe("loss", () => {
  it.effect("of a model that knows nothing is the logarithm of its vocabulary's size", () =>
    Effect.gen(function* () {
      const decoder = decoders.llama
      const weights = new Map(Tiny.weightsOf(decoder))
      weights.set(decoder.headWeight, Tensor.zeros(weights.get(decoder.headWeight)!.shape))
      const { loss } = yield* Run.once(lossGraph(decoder).g, { ...feeds, ...Object.fromEntries(weights) })
      assert.closeTo(Run.numbers(loss)[0]!, Math.log(Tiny.vocabSize), 1e-6)
    })
  )

  for (const [name, decoder] of Object.entries(decoders)) {
    it.effect(`has the gradient that differences say: ${name}`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { g, gradients } = lossGraph(decoder)
          assert.deepStrictEqual(
            [...gradients.keys()].sort(),
            decoder.parameters.map((parameter) => parameter.name).sort()
          )
          const weights = Object.fromEntries(Tiny.weightsOf(decoder))
          const outputs = yield* Effect.flatMap(Run.open(g), ({ run }) => run({ ...feeds, ...weights }))
          const { run } = yield* Run.open(Graph.prune({ ...g, outputs: [Graph.value(g, "loss")] }))
          const lossAt = (changed: Record<string, Tensor.Tensor>) =>
            Effect.map(run({ ...feeds, ...weights, ...changed }), ({ loss }) => Run.numbers(loss)[0]!)

          // Four points, so that the error falls with the fourth power of the step.
          const h = 2 ** -7
          for (const parameter of Object.keys(weights)) {
            const { data, shape } = weights[parameter]!
            const some = Array.from(data.keys()).filter((i) => data.length <= 12 || i % 11 === 0)
            const differences: Array<number> = []
            for (const i of some) {
              const moved = (by: number) => ({ [parameter]: Tensor.float32(data.with(i, data[i]! + by), shape) })
              const across = (by: number) =>
                Effect.zipWith(lossAt(moved(by)), lossAt(moved(-by)), (up, down) => up - down)
              differences.push((8 * (yield* across(h)) - (yield* across(2 * h))) / (12 * h))
            }
            const gradient = Run.numbers(outputs[`gradient:${parameter}`])
            const own = some.map((i) => gradient[i]!)
            Run.close(own, differences, `gradient of ${parameter}`, { absolute: 3e-4, relative: 2e-3 })
          }
        })
      )
    )
  }
})
