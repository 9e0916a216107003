/**
 * A model as it is kept: configuration, tokenizer and weights in the Hugging Face layout.
 *
 * @since 0.1.0
 */
import { Effect, Schema } from "effect"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import type { Decoder } from "../nn/Decoder.ts"
import * as Gpt2 from "../nn/Gpt2.ts"
import * as Llama from "../nn/Llama.ts"
import type { Tensor } from "../Tensor.ts"
import * as Tokenizer from "../Tokenizer.ts"
import * as Safetensors from "./Safetensors.ts"

/**
 * A model in memory.
 *
 * **Details**
 *
 * `name`: where it came from, for messages. `config`: `config.json` as it was read, so that saving keeps what Attune does
 * not use. `weights`: every parameter of `decoder` by name, `float32`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pretrained {
  readonly name: string
  readonly config: Readonly<Record<string, unknown>>
  readonly decoder: Decoder
  readonly tokenizer: Tokenizer.Tokenizer
  readonly weights: ReadonlyMap<string, Tensor<"float32">>
}

/**
 * Loads a model directory.
 *
 * @category decoding
 * @since 0.1.0
 */
export const load = Effect.fn("Pretrained.load")(function*(directory: string) {
  const config = JSON.parse(yield* Effect.promise(() => readFile(join(directory, "config.json"), "utf8")))
  const decoder = config.model_type === "gpt2"
    ? Gpt2.make(yield* Schema.decodeUnknownEffect(Gpt2.Gpt2Config)(config))
    : Llama.make(yield* Schema.decodeUnknownEffect(Llama.LlamaConfig)(config))
  const { tensors } = yield* Safetensors.readSharded(directory)
  const tokenizer = yield* Tokenizer.load(directory)
  const weights = new Map(decoder.parameters.map(({ name }) => [name, Safetensors.toFloat32(tensors.get(name)!)]))
  return { name: directory, config, decoder, tokenizer, weights } satisfies Pretrained
})
