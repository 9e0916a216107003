/**
 * A decoder on ONNX Runtime that can be sampled, scored and trained: its weights stay on the device.
 *
 * @since 0.1.0
 */
import { Context, Effect, Layer, type Scope } from "effect"
import type { Pretrained } from "../hub/Pretrained.ts"
import { ModelError } from "../ModelError.ts"
import * as Attention from "../nn/Attention.ts"
import type { Attend, Decoder } from "../nn/Decoder.ts"
import * as Heads from "../nn/Heads.ts"
import { takeRows } from "../nn/Linear.ts"
import * as Graph from "../onnx/Graph.ts"
import * as Model from "../onnx/Model.ts"
import * as Op from "../onnx/Op.ts"
import { Policy, type PolicyShape, Reference } from "../Policy.ts"
import { Sampler } from "../Sampler.ts"
import * as Tensor from "../Tensor.ts"
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
 * The graph that scores completions: `tokens` `[M]` at `positions` `[M]`, each of them once, in sequences `slots` `[B, T]`
 * of places in `tokens`, padded on the right with any place; `places` `[M]` says where in the flattened slots each token
 * stands (first). `rows` `[N]` are the tokens that predict `targets` `[N]`; result `logprobs` `[N]`.
 *
 * **Details**
 *
 * Only attention sees sequences. All else is computed once for a prompt that several completions follow, and never for
 * padding; only `rows` reach the language-model head.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scoring = (decoder: Decoder): Graph.Graph => {
  const g = Graph.make("scoring")
  for (const { name, shape } of decoder.parameters) Graph.input(g, name, "float32", shape)
  const tokens = Graph.input(g, "tokens", "int64", ["M"])
  const positions = Graph.input(g, "positions", "int64", ["M"])
  const slots = Op.Reshape(g, Graph.input(g, "slots", "int64", ["B", "T"]), ["S"])
  const places = Graph.input(g, "places", "int64", ["M"])
  const rows = Graph.input(g, "rows", "int64", ["N"])
  const targets = Graph.input(g, "targets", "int64", ["N"])
  const weights = (name: string) => Graph.value(g, name)
  const causal = Attention.causal(g, decoder, { batch: "B", time: "T" })
  const spread = (x: Graph.Value) => Op.Gather(g, x, slots)
  const attend: Attend = (layer, q, k, v) => Op.Gather(g, causal(layer, spread(q), spread(k), spread(v)), places)
  const hidden = decoder.forward(g, weights, tokens, positions, attend)
  const scored = Heads.tokenLogprobs(g, takeRows(g, hidden, rows), weights(decoder.headWeight), targets)
  Graph.output(g, "logprobs", scored)
  return Graph.prune(g)
}

// Limits of one scoring run: memory for activations and for the logits of the scored positions.
const tokensPerBatch = 8192
const logitsPerBatch = 2 ** 25

// Runs of continuations with the same prompt.
const byPrompt = (scored: ReadonlyArray<Row.Scored>): ReadonlyArray<ReadonlyArray<Row.Scored>> => {
  const groups: Array<Array<Row.Scored>> = []
  for (const item of scored) {
    const group = groups.at(-1)
    if (group !== undefined && Row.samePrompt(group[0]!, item)) group.push(item)
    else groups.push([item])
  }
  return groups
}

// What the last token predicts is not asked for.
const read = ({ tokens }: Row.Scored): number => tokens.length - 1

// Batches of sequences of similar length within the limits. Those of one prompt stay together where a batch holds them.
const batches = (scored: ReadonlyArray<Row.Scored>, vocabSize: number): ReadonlyArray<ReadonlyArray<Row.Scored>> => {
  const groups = byPrompt(scored).map((group) => group.toSorted((a, b) => read(b) - read(a)))
  const result: Array<Array<Row.Scored>> = []
  let width = 0
  let targets = 0
  for (const item of groups.toSorted((a, b) => read(b[0]!) - read(a[0]!)).flat()) {
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
      width = read(item)
      targets = item.completion.length
    }
  }
  return result
}

// The inputs of the scoring graph for a batch.
const layout = (batch: ReadonlyArray<Row.Scored>) => {
  const width = batch.reduce((most, item) => Math.max(most, read(item)), 0)
  const slots = new BigInt64Array(batch.length * width)
  const tokens: Array<number> = []
  const positions: Array<number> = []
  const places: Array<number> = []
  const rows: Array<number> = []
  const targets: Array<number> = []
  let start = 0 // of the prompt in `tokens`
  for (const [b, item] of batch.entries()) {
    const length = item.tokens.length - item.completion.length
    const before = batch[b - 1]
    const shared = before !== undefined && Row.samePrompt(before, item)
    if (!shared) start = tokens.length
    // Where the completion's tokens come to stand, relative to their positions.
    const shift = (shared ? tokens.length : start + length) - length
    for (let t = 0; t < read(item); t++) {
      const place = t < length ? start + t : shift + t
      slots[b * width + t] = BigInt(place)
      if (shared && t < length) continue
      tokens.push(item.tokens[t]!)
      positions.push(t)
      places.push(b * width + t)
    }
    for (let t = 0; t < item.completion.length; t++) {
      rows.push(t === 0 ? start + length - 1 : shift + length + t - 1)
      targets.push(item.completion[t]!)
    }
  }
  return {
    tokens: Tensor.int64(tokens),
    positions: Tensor.int64(positions),
    slots: Tensor.int64(slots, [batch.length, width]),
    places: Tensor.int64(places),
    rows: Tensor.int64(rows),
    targets: Tensor.int64(targets)
  }
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
      const outputs = yield* Effect.flatMap(parameters, (weights) =>
        scorer.run({ ...Object.fromEntries(weights), ...layout(batch) })
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
