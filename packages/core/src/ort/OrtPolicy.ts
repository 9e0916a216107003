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
import { type Continuation, Policy, type PolicyShape, Reference } from "../Policy.ts"
import { Sampler } from "../Sampler.ts"
import * as Tensor from "../Tensor.ts"
import * as Tokens from "../Tokens.ts"
import * as Device from "./Device.ts"
import * as OrtSampler from "./OrtSampler.ts"

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

interface Scored {
  readonly index: number
  /** What the model reads: everything but the last token. */
  readonly input: Int32Array
  readonly targets: ArrayLike<number>
}

// Batches of sequences of similar length within the limits.
const batches = (items: ReadonlyArray<Scored>, vocabSize: number): ReadonlyArray<ReadonlyArray<Scored>> => {
  const sorted = items.toSorted((a, b) => b.input.length - a.input.length)
  const result: Array<Array<Scored>> = []
  let width = 0
  let targets = 0
  for (const item of sorted) {
    const current = result.at(-1)
    const fits =
      current !== undefined &&
      (current.length + 1) * width <= tokensPerBatch &&
      (targets + item.targets.length) * vocabSize <= logitsPerBatch
    if (fits) {
      current.push(item)
      targets += item.targets.length
    } else {
      result.push([item])
      width = item.input.length
      targets = item.targets.length
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

    const read = (continuation: Continuation, index: number): Scored | ModelError => {
      const { completion, prompt } = continuation
      const length = prompt.length + completion.length
      if (prompt.length === 0)
        return failure("logprobs", `continuation ${index} has an empty prompt; give it one token`)
      if (length > contextLength) {
        return failure(
          "logprobs",
          `continuation ${index} has ${length} tokens; the model's context is ${contextLength}: shorten it`
        )
      }
      const all = new Int32Array(length)
      all.set(prompt)
      all.set(completion, prompt.length)
      const bad = all.find((id) => id < 0 || id >= vocabSize)
      if (bad !== undefined) {
        return failure(
          "logprobs",
          `continuation ${index} has the token ${bad}, but the model's vocabulary ends at ${vocabSize - 1}`
        )
      }
      return { index, input: all.subarray(0, -1), targets: completion }
    }

    const score = Effect.fnUntraced(function* (batch: ReadonlyArray<Scored>) {
      const width = batch[0]!.input.length
      const rows = batch.flatMap(({ input, targets }, b) =>
        Array.from(targets, (_, t) => b * width + input.length - targets.length + t)
      )
      const targets = batch.flatMap((item) => Array.from(item.targets))
      const tokens = Tokens.pad(
        batch.map(({ input }) => input),
        { padId: 0, side: "right", length: width }
      ).tokens
      const outputs = yield* Effect.flatMap(parameters, (weights) =>
        scorer.run({ ...Object.fromEntries(weights), tokens, rows: Tensor.int64(rows), targets: Tensor.int64(targets) })
      ).pipe(Effect.mapError((error) => failure("logprobs", error.message, error)))
      return Device.tensor(outputs, "logprobs", "float32").data
    })

    const logprobs: PolicyShape["logprobs"] = Effect.fn("OrtPolicy.logprobs")(function* (continuations) {
      const items: Array<Scored> = []
      for (const [index, continuation] of continuations.entries()) {
        const item = read(continuation, index)
        if (item instanceof ModelError) return yield* item
        if (item.targets.length > 0) items.push(item)
      }
      const results = continuations.map(() => new Float32Array(0))
      for (const batch of batches(items, vocabSize)) {
        const scores = yield* score(batch)
        let at = 0
        for (const { index, targets } of batch) {
          results[index] = scores.slice(at, at + targets.length)
          at += targets.length
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
