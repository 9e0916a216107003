import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Heads from "../../src/nn/Heads.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as Differences from "./differences.ts"

const [depth, vocab] = [3, 5]

const feeds = (n: number, seed: number) => {
  const random = Run.seeded(seed)
  return { hidden: Differences.real(random, [n, depth]), head: Differences.real(random, [vocab, depth], 1.5) }
}

/** Log-softmax of `hidden headᵀ` in double precision. */
const logprobs = ({ head, hidden }: ReturnType<typeof feeds>) =>
  Array.from({ length: hidden.shape[0]! }, (_, n) => {
    const logits = Array.from({ length: vocab }, (_, v) =>
      Array.from({ length: depth }, (_, d) => hidden.data[n * depth + d]! * head.data[v * depth + d]!).reduce(
        (a, b) => a + b
      )
    )
    const logSum = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0))
    return logits.map((logit) => logit - logSum)
  })

describe("tokenLogprobs", () => {
  const fragment: Differences.Fragment = {
    trains: { hidden: ["N", depth], head: [vocab, depth] },
    given: { targets: ["int64", ["N"]] },
    build: (g, x) => Heads.tokenLogprobs(g, x("hidden"), x("head"), x("targets"))
  }

  it.effect("picks the targets' log-probs", () =>
    Effect.gen(function* () {
      const given = feeds(3, 5)
      const targets = [4, 0, 4]
      const { y } = yield* Run.once(Differences.forward(fragment), { ...given, targets: Tensor.int64(targets) })
      const expected = logprobs(given).map((row, n) => row[targets[n]!]!)
      Run.close(Run.numbers(y), expected, "logprobs", { absolute: 1e-6, relative: 1e-6 })
    })
  )

  it.effect("has the gradients of its operators and of differences", () =>
    Differences.check(
      fragment,
      [
        { ...feeds(4, 1), targets: Tensor.int64([2, 4, 2, 0]) },
        { ...feeds(1, 2), targets: Tensor.int64([3]) }
      ],
      { "the table": fragment }
    )
  )

  it.effect("has gradients of the same bits with 1, 2 and 4 threads, every time", () => {
    const random = Run.seeded(8)
    const [n, width, ids] = [700, 64, 1000]
    return Differences.checkThreads(
      { ...fragment, trains: { hidden: ["N", width], head: [ids, width] } },
      {
        hidden: Differences.real(random, [n, width]),
        head: Differences.real(random, [ids, width]),
        targets: Tensor.int64(Array.from({ length: n }, () => random.below(50)))
      }
    )
  })
})

describe("entropy", () => {
  const fragment: Differences.Fragment = {
    trains: { hidden: ["N", depth], head: [vocab, depth] },
    build: (g, x) => Heads.entropy(g, x("hidden"), x("head"))
  }

  it.effect("is that of the distributions, with the gradients of differences", () =>
    Effect.gen(function* () {
      const given = feeds(3, 6)
      const { y } = yield* Run.once(Differences.forward(fragment), given)
      const expected = logprobs(given).map((row) => -row.reduce((sum, logprob) => sum + Math.exp(logprob) * logprob, 0))
      Run.close(Run.numbers(y), expected, "entropy", { absolute: 1e-6, relative: 1e-6 })
      yield* Differences.check(fragment, [given, feeds(1, 7)])
    })
  )
})

describe("scalar", () => {
  const fragment: Differences.Fragment = {
    trains: { hidden: ["N", 2], weight: [1, 2], bias: [1] },
    build: (g, x) => Heads.scalar(g, x("hidden"), x("weight"), x("bias"))
  }

  it.effect("is one number for each row, with the gradients of differences", () =>
    Effect.gen(function* () {
      const given = {
        hidden: Tensor.float32([1, 2, 3, 4, 5, 6], [3, 2]),
        weight: Tensor.float32([0.5, -1], [1, 2]),
        bias: Tensor.float32([10])
      }
      const { y } = yield* Run.once(Differences.forward(fragment), given)
      Run.close(Run.numbers(y), [8.5, 7.5, 6.5], "scalar")
      yield* Differences.check(fragment, [given])
    })
  )
})
