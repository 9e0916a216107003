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
 * The graph that scores completions, in which every token is computed once: a prompt serves all completions after it.
 *
 * **Details**
 *
 * `tokens` `[M]` at `positions` `[M]` are those of all prompts and completions. Only attention sees sequences: `queries`
 * `[K, Q]` are blocks of tokens of one sequence each, by their places in `tokens`, and `keys` `[K, T]` is the sequence from
 * position 0 on, both padded on the right with any place. `places` `[M]` says where in the flattened queries each token
 * stands. `rows` `[N]` are the tokens that predict `targets` `[N]`; result `logprobs` `[N]`. Only those rows reach the
 * language-model head.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scoring = (decoder: Decoder): Graph.Graph => {
  const g = Graph.make("scoring")
  for (const { name, shape } of decoder.parameters) Graph.input(g, name, "float32", shape)
  const tokens = Graph.input(g, "tokens", "int64", ["M"])
  const positions = Graph.input(g, "positions", "int64", ["M"])
  const queries = Graph.input(g, "queries", "int64", ["K", "Q"])
  const keys = Graph.input(g, "keys", "int64", ["K", "T"])
  const places = Graph.input(g, "places", "int64", ["M"])
  const rows = Graph.input(g, "rows", "int64", ["N"])
  const targets = Graph.input(g, "targets", "int64", ["N"])
  const weights = (name: string) => Graph.value(g, name)
  const attend = Attention.blocks(g, decoder, { positions, queries, keys, places })
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

const promptLength = ({ completion, tokens }: Row.Scored): number => tokens.length - completion.length

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

// Tokens of one sequence that stand next to each other, each of which is computed here.
interface Segment {
  /** Places in `tokens` of the whole sequence up to the segment's end. */
  readonly sequence: ReadonlyArray<number>
  /** Where the segment begins in the sequence. */
  readonly start: number
}

/**
 * How many queries a block should have: the more, the fewer keys are copied for it; the fewer, the less padding. Work is
 * counted in multiplications and copies of numbers, for each key.
 */
const blockSize = (segments: ReadonlyArray<Segment>, { headDim, heads, kvHeads }: Decoder): number => {
  const lengths = segments.map(({ sequence, start }) => sequence.length - start)
  const longest = lengths.reduce((most, length) => Math.max(most, length), 1)
  let best = { size: longest, work: Number.POSITIVE_INFINITY }
  for (let parts = 1; parts <= longest; parts *= 2) {
    const size = Math.ceil(longest / parts)
    const blocks = lengths.reduce((sum, length) => sum + Math.ceil(length / size), 0)
    const work = blocks * (size * heads * (headDim + 8) + 2 * 8 * kvHeads * headDim)
    if (work < best.work) best = { size, work }
  }
  return best.size
}

// The inputs of the scoring graph for a batch.
const layout = (batch: ReadonlyArray<Row.Scored>, decoder: Decoder) => {
  const tokens: Array<number> = []
  const positions: Array<number> = []
  const rows: Array<number> = []
  const targets: Array<number> = []
  const segments: Array<Segment> = []
  const add = (token: number, position: number) => {
    positions.push(position)
    return tokens.push(token) - 1
  }
  for (const group of byPrompt(batch)) {
    const prompt = Array.from(group[0]!.tokens.subarray(0, promptLength(group[0]!)), add)
    segments.push({ sequence: prompt, start: 0 })
    for (const { completion } of group) {
      // What its last token predicts is not asked for.
      const read = Array.from({ length: completion.length - 1 }, (_, t) => add(completion[t]!, prompt.length + t))
      if (read.length > 0) segments.push({ sequence: [...prompt, ...read], start: prompt.length })
      rows.push(prompt.at(-1)!, ...read)
      for (let t = 0; t < completion.length; t++) targets.push(completion[t]!)
    }
  }
  const Q = blockSize(segments, decoder)
  const T = segments.reduce((most, { sequence }) => Math.max(most, sequence.length), 0)
  const K = segments.reduce((sum, { sequence, start }) => sum + Math.ceil((sequence.length - start) / Q), 0)
  const queries = new BigInt64Array(K * Q)
  const keys = new BigInt64Array(K * T)
  const places = new BigInt64Array(tokens.length)
  let k = 0
  for (const { sequence, start } of segments) {
    for (let first = start; first < sequence.length; first += Q, k++) {
      for (let t = first; t < Math.min(first + Q, sequence.length); t++) {
        const slot = k * Q + t - first
        queries[slot] = BigInt(sequence[t]!)
        places[sequence[t]!] = BigInt(slot)
      }
      for (const [t, token] of sequence.entries()) keys[k * T + t] = BigInt(token)
    }
  }
  return {
    tokens: Tensor.int64(tokens),
    positions: Tensor.int64(positions),
    queries: Tensor.int64(queries, [K, Q]),
    keys: Tensor.int64(keys, [K, T]),
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
        scorer.run({ ...Object.fromEntries(weights), ...layout(batch, decoder) })
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
