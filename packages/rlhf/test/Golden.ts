/**
 * What PyTorch computed with the tiny model of `ppo-loss.golden.json`, and that model: see `tools/golden/ppo_loss.py`.
 */
import { readFileSync } from "node:fs"
import { type Learner, Tensor, Tokenizer } from "@attune/core"
import type { Pretrained } from "@attune/core/hub"
import { Heads, Llama } from "@attune/core/nn"
import { assert } from "@effect/vitest"
import { Schema } from "effect"

interface Case {
  readonly settings: Readonly<Record<string, unknown>>
  readonly loss: number
  readonly metrics: Readonly<Record<string, number>>
  readonly gradients: Readonly<Record<string, ReadonlyArray<number>>>
}

interface File {
  readonly config: Readonly<Record<string, unknown>>
  readonly parameters: Readonly<Record<string, { readonly shape: Array<number>; readonly data: ReadonlyArray<number> }>>
  readonly episodes: ReadonlyArray<
    Readonly<Record<"tokens" | "logprobs" | "values" | "advantages" | "returns", ReadonlyArray<number>>>
  >
  readonly pretraining: ReadonlyArray<Readonly<Record<"tokens" | "weights", ReadonlyArray<number>>>>
  readonly rankings: ReadonlyArray<{
    readonly prompt: ReadonlyArray<number>
    readonly completions: ReadonlyArray<ReadonlyArray<number>>
    readonly ranks: ReadonlyArray<number>
    readonly scores: ReadonlyArray<number>
  }>
  readonly cases: Readonly<Record<string, Case>>
}

const file: File = JSON.parse(readFileSync(new URL("./ppo-loss.golden.json", import.meta.url), "utf8"))

export const { cases, rankings } = file

const floats = (values: ReadonlyArray<number>) => Float32Array.from(values)

export const episodes = file.episodes.map(({ advantages, logprobs, returns, tokens, values }) => ({
  tokens: Int32Array.from(tokens),
  logprobs: floats(logprobs),
  values: floats(values),
  advantages: floats(advantages),
  returns: floats(returns)
}))

export const pretraining = file.pretraining.map(({ tokens, weights }) => ({
  tokens: Int32Array.from(tokens),
  weights: floats(weights),
  fields: {}
}))

const decoder = Llama.make(Schema.decodeUnknownSync(Llama.LlamaConfig)(file.config))

/** The model: a `language` model, a model with a `scalar` head, or `both`. Its tokens are numbers below 20. */
export const model = (heads: "language" | "scalar" | "both"): Pretrained.Pretrained => {
  const own = heads === "language" ? decoder : Heads.withScalar(decoder, { keepLanguage: heads === "both" })
  return {
    name: `tiny llama, ${heads}`,
    config: file.config,
    decoder: own,
    tokenizer: Tokenizer.numeric(decoder.vocabSize),
    weights: new Map(
      own.parameters.map(({ name }) => {
        const { data, shape } = file.parameters[name]!
        return [name, Tensor.float32(floats(data), shape)]
      })
    )
  }
}

/** Asserts that a step reported the loss and the metrics of a case. */
export const assertReport = (report: Learner.StepMetrics, { loss, metrics }: Case): void => {
  for (const [name, value] of Object.entries({ loss, ...metrics })) {
    assert.closeTo(report[name]!, value, 1e-5 * Math.max(1, Math.abs(value)), name)
  }
}

const distance = (a: ArrayLike<number>, b: ArrayLike<number>) => Math.hypot(...Array.from(a, (x, i) => x - b[i]!))
const norm = (a: ArrayLike<number>) => Math.hypot(...Array.from(a))

/**
 * Asserts gradients, relative to their norms, or, where they vanish but for rounding, to that of all. The first moment after
 * a first step is the gradient where `beta1` is 0.
 */
export const assertGradients = (
  { tensors }: Learner.LearnerState,
  gradients: Readonly<Record<string, ArrayLike<number>>>,
  tolerance = 1e-5
): void => {
  const moments = tensors["first"]!
  assert.sameMembers([...moments.keys()], Object.keys(gradients))
  const whole = norm(Object.values(gradients).map(norm))
  for (const [name, { data }] of moments) {
    const expected = gradients[name]!
    const own = norm(expected)
    assert.isAtMost(distance(data, expected), tolerance * (own > 1e-6 * whole ? own : whole), name)
  }
}
