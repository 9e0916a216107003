import { assert, describe, it } from "@effect/vitest"
import * as Initial from "../../src/nn/Initial.ts"
import * as Tiny from "../ort/tiny.ts"

const residual = ["attn.c_proj.weight", "mlp.c_proj.weight", "o_proj.weight", "down_proj.weight"]

const models = {
  gpt2: Tiny.gpt2({ n_embd: 64, n_layer: 3, vocab_size: 200 }),
  llama: Tiny.llama({ hidden_size: 64, intermediate_size: 96, num_hidden_layers: 3, vocab_size: 200 })
}

describe("weights", () => {
  for (const [name, decoder] of Object.entries(models)) {
    const weights = Initial.weights(decoder, 1)

    it(`are one for norms and zero for biases: ${name}`, () => {
      assert.deepStrictEqual(
        [...weights].map(([name, { shape }]) => [name, shape]),
        decoder.parameters.map(({ name, shape }) => [name, shape])
      )
      for (const [name, { data, shape }] of weights) {
        if (shape.length > 1) continue
        const expected = name.endsWith(".bias") ? 0 : 1
        assert.isTrue(
          data.every((value) => value === expected),
          name
        )
      }
    })

    it(`are normal for matrices, smaller where they write into the residual stream: ${name}`, () => {
      const scaled = new Set<string>()
      for (const [name, { data, shape }] of weights) {
        if (shape.length === 1) continue
        const writes = residual.some((suffix) => name.endsWith(suffix))
        if (writes) scaled.add(name)
        const deviation = writes ? 0.02 / Math.sqrt(6) : 0.02
        const n = data.length
        const z = Array.from(data, (value) => value / deviation)
        const mean = z.reduce((sum, value) => sum + value, 0) / n
        const variance = z.reduce((sum, value) => sum + value * value, 0) / n
        const within = z.filter((value) => Math.abs(value) < 1).length / n
        // Five standard errors of each.
        assert.closeTo(mean, 0, 5 / Math.sqrt(n), `mean of ${name}`)
        assert.closeTo(variance, 1, 5 * Math.sqrt(2 / n), `variance of ${name}`)
        assert.closeTo(within, 0.6827, 5 * Math.sqrt((0.6827 * 0.3173) / n), `share of ${name} within one deviation`)
      }
      assert.strictEqual(scaled.size, 2 * decoder.layers)
    })

    it(`are fixed by the seed: ${name}`, () => {
      const [again, other] = [Initial.weights(decoder, 1), Initial.weights(decoder, 2)]
      for (const [name, { data, shape }] of weights) {
        assert.deepStrictEqual(again.get(name)!.data, data, name)
        if (shape.length > 1) assert.notDeepEqual(other.get(name)!.data, data, name)
      }
    })
  }
})
