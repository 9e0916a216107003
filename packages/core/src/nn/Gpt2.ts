/**
 * GPT-2: learned positions, layer norm before each block, fused query-key-value matrix. Source: Radford et al. 2019.
 *
 * @since 0.1.0
 */
import { Effect, Schema } from "effect"
import type { Value } from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"
import type { Decoder, Parameter } from "./Decoder.ts"
import { conv1d } from "./Linear.ts"
import { gelu } from "./Mlp.ts"
import { layerNorm } from "./Norm.ts"

const Size = Schema.Int.check(Schema.isGreaterThan(0))

/**
 * The fields of `config.json` that define the model. Settings that would change the computation in a way that is not
 * implemented are refused by their values.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Gpt2Config = Schema.Struct({
  model_type: Schema.Literal("gpt2"),
  vocab_size: Size,
  n_embd: Size,
  n_head: Size,
  n_layer: Size,
  n_positions: Size,
  n_inner: Schema.optional(Schema.NullOr(Size)),
  activation_function: Schema.Literals(["gelu_new", "gelu_pytorch_tanh", "gelu"]).pipe(
    Schema.withDecodingDefaultKey(Effect.succeed("gelu_new" as const))
  ),
  layer_norm_epsilon: Schema.Finite.pipe(Schema.withDecodingDefaultKey(Effect.succeed(1e-5))),
  scale_attn_by_inverse_layer_idx: Schema.optional(Schema.Literal(false)),
  scale_attn_weights: Schema.optional(Schema.Literal(true)),
  reorder_and_upcast_attn: Schema.optional(Schema.Literal(false)),
  add_cross_attention: Schema.optional(Schema.Literal(false)),
  tie_word_embeddings: Schema.optional(Schema.Boolean)
})

/**
 * A decoded GPT-2 configuration.
 *
 * @category models
 * @since 0.1.0
 */
export type Gpt2Config = typeof Gpt2Config.Type

const block = (i: number, width: number, inner: number): ReadonlyArray<Parameter> => {
  const matrix = (name: string, ...shape: ReadonlyArray<number>) => ({
    name: `transformer.h.${i}.${name}`,
    shape,
    decay: shape.length > 1
  })
  return [
    matrix("ln_1.weight", width),
    matrix("ln_1.bias", width),
    matrix("attn.c_attn.weight", width, 3 * width),
    matrix("attn.c_attn.bias", 3 * width),
    matrix("attn.c_proj.weight", width, width),
    matrix("attn.c_proj.bias", width),
    matrix("ln_2.weight", width),
    matrix("ln_2.bias", width),
    matrix("mlp.c_fc.weight", width, inner),
    matrix("mlp.c_fc.bias", inner),
    matrix("mlp.c_proj.weight", inner, width),
    matrix("mlp.c_proj.bias", width)
  ]
}

/**
 * Makes the decoder of a configuration. Parameter names carry the `transformer.` prefix of the whole checkpoint.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (config: Gpt2Config): Decoder => {
  const { n_embd: width, n_head: heads, n_layer: layers, n_positions: contextLength, vocab_size: vocabSize } = config
  const tied = config.tie_word_embeddings ?? true
  const headWeight = tied ? "transformer.wte.weight" : "lm_head.weight"
  const approximate = config.activation_function === "gelu" ? "none" : "tanh"
  const epsilon = config.layer_norm_epsilon
  return {
    modelType: config.model_type,
    layers,
    width,
    heads,
    kvHeads: heads,
    headDim: width / heads,
    vocabSize,
    contextLength,
    headWeight,
    parameters: [
      { name: "transformer.wte.weight", shape: [vocabSize, width], decay: true },
      { name: "transformer.wpe.weight", shape: [contextLength, width], decay: true },
      ...Array.from({ length: layers }, (_, i) => block(i, width, config.n_inner ?? 4 * width)).flat(),
      { name: "transformer.ln_f.weight", shape: [width], decay: false },
      { name: "transformer.ln_f.bias", shape: [width], decay: false },
      ...(tied ? [] : [{ name: headWeight, shape: [vocabSize, width], decay: true }])
    ],
    forward: (g, weights, tokens, positions, attend, given = {}) => {
      const residual = given.residual ?? ((branch: Value) => branch)
      const pair = (name: string) => [weights(`${name}.weight`), weights(`${name}.bias`)] as const
      let x = Op.Add(
        g,
        Op.Gather(g, weights("transformer.wte.weight"), tokens),
        Op.Gather(g, weights("transformer.wpe.weight"), positions)
      )
      for (let i = 0; i < layers; i++) {
        const at = `transformer.h.${i}`
        const read = (y: Value) => (i === layers - 1 ? (given.read?.(y) ?? y) : y)
        const normed = layerNorm(g, x, ...pair(`${at}.ln_1`), epsilon)
        const qkv = conv1d(g, normed, ...pair(`${at}.attn.c_attn`))
        const [q, k, v] = Op.Split(g, qkv, [width, width, width], 1)
        x = Op.Add(g, read(x), residual(conv1d(g, attend(i, read(q!), k!, v!), ...pair(`${at}.attn.c_proj`)), 2 * i))
        const inner = layerNorm(g, x, ...pair(`${at}.ln_2`), epsilon)
        const mlp = gelu(g, inner, pair(`${at}.mlp.c_fc`), pair(`${at}.mlp.c_proj`), approximate)
        x = Op.Add(g, x, residual(mlp, 2 * i + 1))
      }
      return layerNorm(g, x, ...pair("transformer.ln_f"), epsilon)
    }
  }
}
