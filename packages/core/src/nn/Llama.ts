/**
 * Llama and the models of its shape: Llama 2 and 3, SmolLM, Mistral without a sliding window, Qwen2 / 2.5 (biases on
 * query, key and value) and Qwen3 (norms on query and key heads). Rotary positions, RMS norm, SwiGLU, grouped queries.
 *
 * Source: Touvron et al. 2023, arXiv:2302.13971; Yang et al. 2024, arXiv:2407.10671; Qwen3 report, arXiv:2505.09388.
 *
 * @since 0.1.0
 */
import { Effect, Schema } from "effect"
import type { Value } from "../onnx/Graph.ts"
import * as Op from "../onnx/Op.ts"
import type { Decoder, Parameter } from "./Decoder.ts"
import { linear } from "./Linear.ts"
import { swiGlu } from "./Mlp.ts"
import { rmsNorm, rmsNormPlain } from "./Norm.ts"
import * as Rope from "./Rope.ts"

const Size = Schema.Int.check(Schema.isGreaterThan(0))
const withDefault = <S extends Schema.Codec<number, number>>(schema: S, value: number) =>
  schema.pipe(Schema.withDecodingDefaultKey(Effect.succeed(value)))

const RopeParameters = Schema.Struct({
  rope_type: Schema.optional(Schema.Literals(["default", "llama3", "linear"])),
  type: Schema.optional(Schema.Literals(["default", "llama3", "linear"])),
  rope_theta: Schema.optional(Schema.Finite),
  factor: Schema.optional(Schema.Finite),
  low_freq_factor: Schema.optional(Schema.Finite),
  high_freq_factor: Schema.optional(Schema.Finite),
  original_max_position_embeddings: Schema.optional(Size)
})

/**
 * The fields of `config.json` that define the model. Settings that would change the computation in a way that is not
 * implemented (sliding windows, other rotary scalings, biases in the feed-forward layers) are refused by their values.
 *
 * @category schemas
 * @since 0.1.0
 */
export const LlamaConfig = Schema.Struct({
  model_type: Schema.Literals(["llama", "mistral", "qwen2", "qwen3"]),
  vocab_size: Size,
  hidden_size: Size,
  intermediate_size: Size,
  num_hidden_layers: Size,
  num_attention_heads: Size,
  num_key_value_heads: Schema.optional(Schema.NullOr(Size)),
  head_dim: Schema.optional(Schema.NullOr(Size)),
  max_position_embeddings: withDefault(Size, 2048),
  rms_norm_eps: withDefault(Schema.Finite, 1e-6),
  hidden_act: Schema.optional(Schema.Literal("silu")),
  attention_bias: Schema.optional(Schema.Boolean),
  mlp_bias: Schema.optional(Schema.Literal(false)),
  tie_word_embeddings: Schema.optional(Schema.Boolean),
  use_sliding_window: Schema.optional(Schema.Literal(false)),
  rope_theta: Schema.optional(Schema.Finite),
  rope_scaling: Schema.optional(Schema.NullOr(RopeParameters)),
  rope_parameters: Schema.optional(Schema.NullOr(RopeParameters))
})

/**
 * A decoded configuration of a model of Llama's shape.
 *
 * @category models
 * @since 0.1.0
 */
export type LlamaConfig = typeof LlamaConfig.Type

const ropeSettings = (config: LlamaConfig): Rope.RopeSettings => {
  // Newer files hold everything in `rope_parameters`, older ones split it over `rope_theta` and `rope_scaling`.
  const parameters = config.rope_parameters ?? config.rope_scaling ?? {}
  const theta = parameters.rope_theta ?? config.rope_theta ?? 10000
  const kind = parameters.rope_type ?? parameters.type ?? "default"
  const factor = parameters.factor ?? 1
  if (kind === "default") return { theta }
  if (kind === "linear") return { theta, scaling: { factor } }
  return {
    theta,
    scaling: {
      factor,
      lowFreqFactor: parameters.low_freq_factor ?? 1,
      highFreqFactor: parameters.high_freq_factor ?? 4,
      originalMaxPositions: parameters.original_max_position_embeddings ?? 8192
    }
  }
}

/**
 * Makes the decoder of a configuration.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (config: LlamaConfig): Decoder => {
  const { hidden_size: width, num_attention_heads: heads, num_hidden_layers: layers, vocab_size: vocabSize } = config
  const kvHeads = config.num_key_value_heads ?? heads
  const headDim = config.head_dim ?? width / heads
  const epsilon = config.rms_norm_eps
  const qkvBias = config.model_type === "qwen2" || (config.attention_bias ?? false)
  const outputBias = config.model_type !== "qwen2" && (config.attention_bias ?? false)
  const headNorms = config.model_type === "qwen3"
  const tied = config.tie_word_embeddings ?? false
  const headWeight = tied ? "model.embed_tokens.weight" : "lm_head.weight"
  const perPosition = Rope.frequencies(headDim, ropeSettings(config))

  const block = (i: number): ReadonlyArray<Parameter> => {
    const at = `model.layers.${i}`
    const matrix = (name: string, out: number, input: number, bias = false): ReadonlyArray<Parameter> => [
      { name: `${at}.${name}.weight`, shape: [out, input], decay: true },
      ...(bias ? [{ name: `${at}.${name}.bias`, shape: [out], decay: false }] : [])
    ]
    const norm = (name: string, size: number): Parameter => ({
      name: `${at}.${name}.weight`,
      shape: [size],
      decay: false
    })
    return [
      norm("input_layernorm", width),
      ...matrix("self_attn.q_proj", heads * headDim, width, qkvBias),
      ...matrix("self_attn.k_proj", kvHeads * headDim, width, qkvBias),
      ...matrix("self_attn.v_proj", kvHeads * headDim, width, qkvBias),
      ...(headNorms ? [norm("self_attn.q_norm", headDim), norm("self_attn.k_norm", headDim)] : []),
      ...matrix("self_attn.o_proj", width, heads * headDim, outputBias),
      norm("post_attention_layernorm", width),
      ...matrix("mlp.gate_proj", config.intermediate_size, width),
      ...matrix("mlp.up_proj", config.intermediate_size, width),
      ...matrix("mlp.down_proj", width, config.intermediate_size)
    ]
  }

  return {
    modelType: config.model_type,
    layers,
    width,
    heads,
    kvHeads,
    headDim,
    vocabSize,
    contextLength: config.max_position_embeddings,
    headWeight,
    parameters: [
      { name: "model.embed_tokens.weight", shape: [vocabSize, width], decay: true },
      ...Array.from({ length: layers }, (_, i) => block(i)).flat(),
      { name: "model.norm.weight", shape: [width], decay: false },
      ...(tied ? [] : [{ name: headWeight, shape: [vocabSize, width], decay: true }])
    ],
    angles: (g, positions) => Rope.angles(g, positions, perPosition),
    forward: (g, weights, tokens, positions, attend, given = {}) => {
      const angles = given.angles ?? Rope.angles(g, positions, perPosition)
      const norm = given.rmsNorm === "plain" ? rmsNormPlain : rmsNorm
      const residual = given.residual ?? ((branch: Value) => branch)
      let x = Op.Gather(g, weights("model.embed_tokens.weight"), tokens)
      for (let i = 0; i < layers; i++) {
        const w = (name: string) => weights(`model.layers.${i}.${name}`)
        const read = (y: Value) => (i === layers - 1 ? (given.read?.(y) ?? y) : y)
        const normed = norm(g, x, w("input_layernorm.weight"), epsilon)
        const project = (y: Value, name: string, bias: boolean) =>
          linear(g, y, w(`self_attn.${name}.weight`), bias ? w(`self_attn.${name}.bias`) : undefined)
        const headNorm = (y: Value, name: string) => {
          if (!headNorms) return y
          const heads = Op.Reshape(g, y, [y.shape[0]!, (y.shape[1] as number) / headDim, headDim])
          return Op.Reshape(g, norm(g, heads, w(`self_attn.${name}.weight`), epsilon), y.shape)
        }
        const turned = { ...angles, rows: read(angles.rows) }
        const q = Rope.rotate(g, headNorm(project(read(normed), "q_proj", qkvBias), "q_norm"), turned)
        const k = Rope.rotate(g, headNorm(project(normed, "k_proj", qkvBias), "k_norm"), angles)
        const mixed = attend(i, q, k, project(normed, "v_proj", qkvBias))
        const bias = outputBias ? w("self_attn.o_proj.bias") : undefined
        x = Op.Add(g, read(x), residual(linear(g, mixed, w("self_attn.o_proj.weight"), bias), 2 * i))
        const inner = norm(g, x, w("post_attention_layernorm.weight"), epsilon)
        const mlp = swiGlu(g, inner, w("mlp.gate_proj.weight"), w("mlp.up_proj.weight"), w("mlp.down_proj.weight"))
        x = Op.Add(g, x, residual(mlp, 2 * i + 1))
      }
      return norm(g, x, weights("model.norm.weight"), epsilon)
    }
  }
}
