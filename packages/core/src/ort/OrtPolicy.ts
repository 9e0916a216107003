/**
 * A decoder on ONNX Runtime that can be sampled, scored and trained: its weights stay on the device.
 *
 * @since 0.1.0
 */
import { Context, Effect, Layer, type Scope } from "effect"
import type { Pretrained } from "../hub/Pretrained.ts"
import { ModelError } from "../ModelError.ts"
import * as Attention from "../nn/Attention.ts"
import type { Decoder } from "../nn/Decoder.ts"
import * as Heads from "../nn/Heads.ts"
import { takeRows } from "../nn/Linear.ts"
import * as Graph from "../onnx/Graph.ts"
import * as Model from "../onnx/Model.ts"
import * as Op from "../onnx/Op.ts"
import { Policy, type PolicyShape, Reference } from "../Policy.ts"
import { Sampler } from "../Sampler.ts"
import * as Tensor from "../Tensor.ts"
import * as Tokens from "../Tokens.ts"
import * as Device from "./Device.ts"
import * as OrtSampler from "./OrtSampler.ts"
import * as Row from "./Row.ts"

/**
 * A policy whose weights a learner may replace.
 *
 * **Details**
 *
 * `base`: the model as it was loaded. `parameters`: the current weights by name, valid until they are replaced or the
 * scope closes. `replaceParameters` takes over the handles given, any of the same names and shapes, and releases
 * those that they replace. `snapshot` downloads the current weights.
 *
 * @category models
 * @since 0.1.0
 */
export interface OrtPolicy extends PolicyShape {
  readonly base: Pretrained
  readonly parameters: Effect.Effect<ReadonlyMap<string, Device.DeviceTensor>>
  readonly replaceParameters: (next: ReadonlyMap<string, Device.DeviceTensor>) => Effect.Effect<void>
  readonly snapshot: Effect.Effect<Pretrained, ModelError>
}

/**
 * The graph that scores completions: `tokens` `[B, T]` padded on the right, `rows` `[N]` of the flattened tokens that
 * predict `targets` `[N]`; result `logprobs` `[N]`. Only those rows reach the language-model head.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scoring = (decoder: Decoder): Graph.Graph => {
  const g = Graph.make("scoring")
  for (const { name, shape } of decoder.parameters) Graph.input(g, name, "float32", shape)
  const tokens = Graph.input(g, "tokens", "int64", ["B", "T"])
  const rows = Graph.input(g, "rows", "int64", ["N"])
  const targets = Graph.input(g, "targets", "int64", ["N"])
  const weights = (name: string) => Graph.value(g, name)
  const steps = Op.Expand(g, Op.Reshape(g, Op.Range(g, "T"), [1, "T"]), ["B", "T"])
  const hidden = decoder.forward(
    g,
    weights,
    Op.Reshape(g, tokens, ["M"]),
    Op.Reshape(g, steps, ["M"]),
    Attention.causal(g, decoder, { batch: "B", time: "T" })
  )
  const scored = Heads.tokenLogprobs(g, takeRows(g, hidden, rows), weights(decoder.headWeight), targets)
  Graph.output(g, "logprobs", scored)
  return Graph.prune(g)
}

// Limits of one scoring run: memory for activations and for the logits of the scored positions.
const tokensPerBatch = 8192
const logitsPerBatch = 2 ** 25

// Batches of sequences of similar length within the limits.
const batches = (scored: ReadonlyArray<Row.Scored>, vocabSize: number): ReadonlyArray<ReadonlyArray<Row.Scored>> => {
  const sorted = scored.toSorted((a, b) => b.tokens.length - a.tokens.length)
  const result: Array<Array<Row.Scored>> = []
  let width = 0
  let targets = 0
  for (const item of sorted) {
    const current = result.at(-1)
    const fits =
      current !== undefined &&
      (current.length + 1) * width <= tokensPerBatch &&
      (targets + item.completion.length) * vocabSize <= logitsPerBatch
    if (fits) {
      current.push(item)
      targets += item.completion.length
    } else {
      result.push([item])
      width = item.tokens.length - 1
      targets = item.completion.length
    }
  }
  return result
}

/**
 * Uploads a model's weights and makes a policy of them. Weights and compiled graphs are freed when the scope closes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  base: Pretrained,
  options?: OrtSampler.Options
) => Effect.Effect<OrtPolicy, ModelError | Device.OrtError, Device.Device | Scope.Scope> = Effect.fn("OrtPolicy.make")(
  function* (base, options) {
    const device = yield* Device.Device
    const { decoder, name, tokenizer } = base
    const { contextLength, vocabSize } = decoder
    if (tokenizer.vocabSize > vocabSize) {
      return yield* new ModelError({
        model: name,
        operation: "load",
        message:
          `the tokenizer has ${tokenizer.vocabSize} ids, but the model's vocabulary ${vocabSize}: ` +
          "they do not belong together"
      })
    }
    let current: ReadonlyMap<string, Device.DeviceTensor> = new Map()
    yield* Effect.addFinalizer(() => Effect.suspend(() => device.release(current.values())))
    for (const { name: parameter } of decoder.parameters) {
      const tensor = base.weights.get(parameter)
      if (tensor === undefined) {
        return yield* new ModelError({
          model: name,
          operation: "load",
          message: `weights lack the tensor ${parameter}`
        })
      }
      yield* Effect.uninterruptible(
        Effect.map(device.upload(tensor), (handle) => {
          current = new Map([...current, [parameter, handle]])
        })
      )
    }
    const parameters = Effect.sync(() => current)
    const failure = (operation: ModelError["operation"], message: string, cause?: unknown) =>
      new ModelError({ model: name, operation, message, ...(cause === undefined ? {} : { cause }) })

    const scorer = yield* device.compile(Model.encode(scoring(decoder)), { name: `${name}: scoring` })

    const score = Effect.fnUntraced(function* (batch: ReadonlyArray<Row.Scored>) {
      // The last token predicts nothing that is asked for.
      const inputs = batch.map(({ tokens }) => tokens.subarray(0, -1))
      const width = inputs[0]!.length
      const rows = batch.flatMap(({ completion }, b) =>
        Array.from(completion, (_, t) => b * width + inputs[b]!.length - completion.length + t)
      )
      const targets = batch.flatMap(({ completion }) => Array.from(completion))
      const { tokens } = Tokens.pad(inputs, { padId: 0, side: "right", length: width })
      const outputs = yield* Effect.flatMap(parameters, (weights) =>
        scorer.run({ ...Object.fromEntries(weights), tokens, rows: Tensor.int64(rows), targets: Tensor.int64(targets) })
      ).pipe(Effect.mapError((error) => failure("logprobs", error.message, error)))
      return Device.tensor(outputs, "logprobs", "float32").data
    })

    const logprobs: PolicyShape["logprobs"] = Effect.fn("OrtPolicy.logprobs")(function* (continuations) {
      const limits = { name, tokenizer, vocabSize, contextLength }
      const scored = yield* Effect.fromResult(Row.readContinuations(limits, continuations))
      const results = continuations.map(() => new Float32Array(0))
      for (const batch of batches(scored, vocabSize)) {
        const scores = yield* score(batch)
        let at = 0
        for (const { completion, index } of batch) {
          results[index] = scores.slice(at, at + completion.length)
          at += completion.length
        }
      }
      return results
    })

    const snapshot = Effect.gen(function* () {
      const weights = new Map<string, Tensor.Tensor<"float32">>()
      for (const [parameter, handle] of yield* parameters) {
        weights.set(parameter, (yield* device.download(handle)) as Tensor.Tensor<"float32">)
      }
      return { ...base, weights }
    }).pipe(Effect.mapError((error) => failure("save", error.message, error)))

    const sampler = yield* OrtSampler.make({ name, decoder, tokenizer, parameters }, options)
    return {
      ...sampler,
      name,
      tokenizer,
      vocabSize,
      contextLength,
      logprobs,
      base,
      parameters,
      replaceParameters: (next) =>
        Effect.suspend(() => {
          const before = current
          current = new Map([...before, ...next])
          const kept = new Set(current.values())
          return device.release([...before.values()].filter((handle) => !kept.has(handle)))
        }),
      snapshot
    }
  }
)

/**
 * The policy that is trained, as `Policy` and as the `Sampler` of completions.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  base: Pretrained,
  options?: OrtSampler.Options
): Layer.Layer<Policy | Sampler, ModelError | Device.OrtError, Device.Device> =>
  Layer.effectContext(
    Effect.map(make(base, options), (policy) => Context.make(Policy, policy).pipe(Context.add(Sampler, policy)))
  )

/**
 * The frozen model that the KL penalty is measured against.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerReference = (
  base: Pretrained,
  options?: OrtSampler.Options
): Layer.Layer<Reference, ModelError | Device.OrtError, Device.Device> => Layer.effect(Reference, make(base, options))
