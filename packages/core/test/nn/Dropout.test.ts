import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Dropout from "../../src/nn/Dropout.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"

const small = { layers: 2, width: 12 }

const masks = (dropout: Dropout.Dropout, tokens: number, at = { step: 0, sequence: 0 }) => {
  const bytes = new Uint8Array(tokens * dropout.bytesPerToken)
  dropout.fill(bytes, at)
  return bytes
}

const bitsOf = (bytes: Uint8Array) =>
  Array.from({ length: bytes.length * 8 }, (_, i) => (bytes[i >> 3]! >> (i & 7)) & 1)

const mean = (values: ReadonlyArray<number>) => values.reduce((sum, value) => sum + value, 0) / values.length

describe("masks", () => {
  it("keep as many as the rate says, to 1/256, and never all or none", () => {
    for (const [asked, rate] of [
      [0.5, 0.5],
      [0.2, 51 / 256],
      [0.1, 26 / 256],
      [0.75, 0.75],
      [1e-9, 1 / 256],
      [0.9999, 255 / 256]
    ] as const) {
      const dropout = Dropout.make({ layers: 4, width: 64 }, asked, 7)
      assert.strictEqual(dropout.rate, rate)
      const bits = bitsOf(masks(dropout, 500))
      // Six standard errors of a mean of independent bits.
      assert.closeTo(mean(bits), 1 - rate, 6 * Math.sqrt((rate * (1 - rate)) / bits.length), String(asked))
    }
  })

  it("have bits that know nothing of their neighbours, of other tokens, places, sequences and steps", () => {
    const dropout = Dropout.make({ layers: 4, width: 64 }, 0.2, 3)
    const spread = bitsOf(masks(dropout, 200)).map((bit) => bit - (1 - dropout.rate))
    const variance = dropout.rate * (1 - dropout.rate)
    const correlation = (a: ReadonlyArray<number>, b: ReadonlyArray<number>) =>
      mean(a.slice(0, b.length).map((value, i) => value * b[i]!)) / variance
    const limit = 6 / Math.sqrt(spread.length - 1000)
    for (const lag of [1, 8, 32, 64, 8 * dropout.bytesPerToken]) {
      assert.isBelow(Math.abs(correlation(spread, spread.slice(lag))), limit, `lag ${lag}`)
    }
    for (const [seed, step, sequence] of [
      [3, 0, 1],
      [3, 1, 0],
      [4, 0, 0],
      [3, 1, 1],
      [0, 3, 0],
      [0, 0, 3]
    ] as const) {
      const other = Dropout.make({ layers: 4, width: 64 }, 0.2, seed)
      const found = bitsOf(masks(other, 200, { step, sequence })).map((bit) => bit - (1 - dropout.rate))
      assert.isBelow(Math.abs(correlation(spread, found)), limit, `${seed} ${step} ${sequence}`)
      // From the first word on: neighbours do not begin alike.
      assert.isBelow(Math.abs(correlation(spread.slice(0, 4096), found.slice(0, 4096))), 6 / 64)
    }
  })

  it("of a longer sequence begin as those of a shorter one", () => {
    const dropout = Dropout.make(small, 0.2, 3)
    const long = masks(dropout, 30)
    assert.deepStrictEqual(masks(dropout, 4), long.subarray(0, 4 * dropout.bytesPerToken))
  })

  it("stay what they are, or resumed runs would not go on as they began", () => {
    const dropout = Dropout.make(small, 0.2, 20261122)
    assert.strictEqual(
      Buffer.from(masks(dropout, 3, { step: 5, sequence: 2 })).toString("hex"),
      "f7fd7febb7f6feddffddffe78ffbdffdbe5fdd89ef9fff9f"
    )
  })

  it("refuse rates that drop nothing or everything", () => {
    for (const rate of [0, 1, -1, Number.NaN]) assert.throws(() => Dropout.make(small, rate, 0), /between 0 and 1/)
  })
})

describe("residual", () => {
  const tokens = 3000
  const applied = Effect.fnUntraced(function* (
    dropout: Dropout.Dropout,
    x: Float32Array,
    place: number,
    width: number
  ) {
    const g = Graph.make("dropout")
    const branch = Graph.input(g, "x", "float32", ["M", width])
    const bytes = Graph.input(g, "masks", "uint8", ["M", dropout.bytesPerToken])
    Graph.output(g, "y", dropout.residual(g, bytes)(branch, place))
    const { y } = yield* Run.once(g, {
      x: Tensor.float32(x, [tokens, width]),
      masks: Tensor.make("uint8", masks(dropout, tokens), [tokens, dropout.bytesPerToken])
    })
    return Run.numbers(y)
  })

  for (const width of [16, 12]) {
    it.effect(`keeps the mean of what it is given, and what the bits of its place say: width ${width}`, () =>
      Effect.gen(function* () {
        const dropout = Dropout.make({ layers: 2, width }, 0.2, 9)
        const kept = 1 - dropout.rate
        const random = Run.seeded(2)
        const row = Float32Array.from({ length: width }, () => random.uniform(-2, 2))
        const x = Float32Array.from({ length: tokens * width }, (_, i) => row[i % width]!)
        const bytes = masks(dropout, tokens)
        for (const place of [0, 1, 3]) {
          const y = yield* applied(dropout, x, place, width)
          for (const i of Array.from(y.keys())) {
            const [token, d] = [Math.floor(i / width), i % width]
            const byte = bytes[token * dropout.bytesPerToken + place * Math.ceil(width / 8) + (d >> 3)]!
            const expected = ((byte >> (d & 7)) & 1) === 1 ? x[i]! / kept : 0
            if (Math.abs(y[i]! - expected) > 1e-6) assert.fail(`token ${token}, number ${d}: ${y[i]}, not ${expected}`)
          }
          for (let d = 0; d < width; d++) {
            const column = Array.from({ length: tokens }, (_, t) => y[t * width + d]!)
            const error = Math.abs(row[d]!) * Math.sqrt(dropout.rate / kept / tokens)
            assert.closeTo(mean(column), row[d]!, 6 * error)
          }
        }
      })
    )
  }
})
