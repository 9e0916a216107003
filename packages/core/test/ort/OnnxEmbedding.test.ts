import { readFileSync } from "node:fs"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Device from "../../src/ort/Device.ts"
import * as OnnxEmbedding from "../../src/ort/OnnxEmbedding.ts"
import * as Tensor from "../../src/Tensor.ts"

const exported = join(import.meta.dirname, "../fixtures/exported")
const golden: {
  readonly texts: ReadonlyArray<string>
  readonly tokens: ReadonlyArray<ReadonlyArray<number>>
  readonly embeddings: ReadonlyArray<ReadonlyArray<number>>
} = JSON.parse(readFileSync(join(exported, "bert/golden.json"), "utf8"))
const layer = Layer.merge(NodeServices.layer, Device.layerInProcess({ provider: "cpu", threads: 1 }))

describe("OnnxEmbedding", () => {
  it("pools over the mask and scales to length 1", () => {
    // means (3, 4) and (0, -2)
    const hidden = Tensor.float32([1, 2, 5, 6, 100, 100, 0, -2, 9, 9, 9, 9], [2, 3, 2])
    const rows = OnnxEmbedding.pool(hidden, Tensor.int64([1, 1, 0, 1, 0, 0], [2, 3]))
    assert.deepStrictEqual(rows, [Float32Array.of(0.6, 0.8), Float32Array.of(0, -1)])
    assert.throws(() => OnnxEmbedding.pool(hidden, Tensor.int64([1, 1], [1, 2])), /hidden states of shape/)
  })

  it.layer(layer)("bert", (it) => {
    it.effect("embeds as transformers does, whatever texts share a batch", () =>
      Effect.gen(function* () {
        for (const batchSize of [1, 3, 32]) {
          const encoder = yield* OnnxEmbedding.load(join(exported, "bert"), { batchSize })
          const rows = yield* encoder.embed(golden.texts)
          assert.deepStrictEqual(
            golden.texts.map((text) => [...encoder.tokenizer.encode(text)]),
            golden.tokens
          )
          for (const [i, row] of rows.entries()) {
            for (const [d, value] of row.entries()) {
              assert.closeTo(value, golden.embeddings[i]![d]!, 1e-6, `text ${i}, entry ${d}`)
            }
          }
          assert.strictEqual(rows.length, golden.texts.length)
        }
      })
    )

    it.effect("embeds nothing as nothing", () =>
      Effect.gen(function* () {
        const encoder = yield* OnnxEmbedding.load(join(exported, "bert"))
        assert.deepStrictEqual(yield* encoder.embed([]), [])
      })
    )

    it.effect("refuses a text that is too long, or cuts it before its last token when told to", () =>
      Effect.gen(function* () {
        const bert = join(exported, "bert")
        const error = yield* Effect.flip((yield* OnnxEmbedding.load(bert)).embed(["the cat", "cat ".repeat(64)]))
        assert.match(error.message, /text 1 has \d+ tokens, more than its context of 64/)
        const whole = yield* OnnxEmbedding.load(bert)
        const cut = yield* OnnxEmbedding.load(bert, { contextLength: golden.tokens[1]!.length, overlong: "truncate" })
        const [long] = yield* cut.embed([`${golden.texts[1]} and more`])
        assert.deepStrictEqual([long!], yield* whole.embed([golden.texts[1]!]))
      })
    )

    it.effect("says what a decoder has instead of hidden states", () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(OnnxEmbedding.load(join(exported, "gpt2-no-cache")))
        assert.strictEqual(error._tag, "ModelError")
        assert.match(error.message, /returns no last_hidden_state or token_embeddings; .*its outputs logits/)
        assert.match(
          (yield* Effect.flip(OnnxEmbedding.load(join(exported, "llama")))).message,
          /takes "past_key_values.0.key"|takes "position_ids"/
        )
      })
    )
  })
})
