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
 * The graph that scores completions, in which every token is computed once: a prompt serves all completions after it.
 *
 * **Details**
 *
 * `tokens` `[M]` at `positions` `[M]` are those of all prompts and completions: first the last token of each prompt, then
 * those of completions, then the other tokens of prompts. Only attention sees sequences: {@link Attention.forked} says what
 * `prompts` `[K, P]`, `lengths` `[K]`, `completions` `[K, C, N]` and `places` `[M]` are. The last layer computes no more than
 * keys and values of tokens that are not among the first `asked` `[1]`. `rows` `[R]`, all below `asked`, are the tokens that
 * predict `targets` `[R]`; result `logprobs` `[R]`. Only those rows reach the language-model head.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scoring = (decoder: Decoder): Graph.Graph => {
  const g = Graph.make("scoring")
  for (const { name, shape } of decoder.parameters) Graph.input(g, name, "float32", shape)
  const tokens = Graph.input(g, "tokens", "int64", ["M"])
  const positions = Graph.input(g, "positions", "int64", ["M"])
  const prompts = Graph.input(g, "prompts", "int64", ["K", "P"])
  const lengths = Graph.input(g, "lengths", "int64", ["K"])
  const completions = Graph.input(g, "completions", "int64", ["K", "C", "N"])
  const places = Graph.input(g, "places", "int64", ["M"])
  const asked = Graph.input(g, "asked", "int64", [1])
  const rows = Graph.input(g, "rows", "int64", ["R"])
  const targets = Graph.input(g, "targets", "int64", ["R"])
  const weights = (name: string) => Graph.value(g, name)
  const forks = Attention.forked(g, decoder, { prompts, lengths, completions, places })
  const attend: Attend = (layer, ...qkv) => (layer < decoder.layers - 1 ? forks.all : forks.read)(layer, ...qkv)
  const hidden = decoder.forward(g, weights, tokens, positions, attend, {
    read: (x) => Op.Slice(g, x, Graph.ints(g, [0]), asked, 0, "A")
  })
  const scored = Heads.tokenLogprobs(g, takeRows(g, hidden, rows), weights(decoder.headWeight), targets)
  Graph.output(g, "logprobs", scored)
  return Graph.prune(g)
}

// Padded tokens of one scoring run. On a CPU activations should fit the caches, elsewhere large products are the fast ones.
const tokensPerBatch = (provider: Device.Provider): number => (provider === "cpu" ? 2048 : 8192)
// A limit of the memory for the logits of the scored positions.
const logitsPerBatch = 2 ** 25

// How much a batch may hold: padded tokens, and tokens that are predicted.
interface Room {
  readonly tokens: number
  readonly targets: number
}

// A prompt and completions of it, the longest first.
interface Fork {
  readonly prompt: Int32Array
  readonly completions: ReadonlyArray<Row.Scored>
}

// Tokens of a completion that are read: what its last one predicts is not asked for.
const read = ({ completion }: Row.Scored): number => completion.length - 1

// Neighbouring continuations of one prompt, as forks of no more completions than a batch holds.
const forks = (scored: ReadonlyArray<Row.Scored>, room: Room): ReadonlyArray<Fork> => {
  const groups: Array<Array<Row.Scored>> = []
  for (const item of scored) {
    const group = groups.at(-1)
    if (group !== undefined && Row.samePrompt(group[0]!, item)) group.push(item)
    else groups.push([item])
  }
  return groups.flatMap((group) => {
    const completions = group.toSorted((a, b) => read(b) - read(a))
    const { completion, tokens } = completions[0]!
    const prompt = tokens.subarray(0, tokens.length - completion.length)
    const byTokens = (room.tokens - prompt.length) / Math.max(1, read(completions[0]!))
    const most = Math.max(1, Math.floor(Math.min(byTokens, room.targets / completion.length)))
    return Array.from({ length: Math.ceil(completions.length / most) }, (_, i) => ({
      prompt,
      completions: completions.slice(i * most, (i + 1) * most)
    }))
  })
}

interface Size {
  /** Longest prompt. */
  readonly P: number
  /** Most completions of a prompt. */
  readonly C: number
  /** Most tokens that are read of a completion; at least one, as no dimension may be empty. */
  readonly N: number
}

const sizeOf = ({ completions, prompt }: Fork): Size => ({
  P: prompt.length,
  C: completions.length,
  N: Math.max(1, read(completions[0]!))
})

const larger = (a: Size, b: Size): Size => ({ P: Math.max(a.P, b.P), C: Math.max(a.C, b.C), N: Math.max(a.N, b.N) })

const paddedTokens = ({ C, N, P }: Size): number => P + C * N

interface Sized {
  readonly fork: Fork
  readonly size: Size
}

// Forks in an order in which neighbours are of similar size in each respect: as many completions, then strips of similar
// completions, and in each strip by the prompt. There are about as many strips as batches in a strip.
const inOrder = (sized: ReadonlyArray<Sized>, room: Room): ReadonlyArray<Sized> => {
  const total = sized.reduce((sum, { size }) => sum + paddedTokens(size), 0)
  const strips = Math.max(1, Math.round(Math.sqrt(total / room.tokens)))
  const sorted = sized.toSorted(({ size: a }, { size: b }) => b.C - a.C || b.N - a.N)
  const width = Math.ceil(sorted.length / strips)
  return Array.from({ length: strips }, (_, i) =>
    sorted.slice(i * width, (i + 1) * width).toSorted(({ size: a }, { size: b }) => b.C - a.C || b.P - a.P)
  ).flat()
}

// Batches of forks of similar size within the limits.
const batches = (scored: ReadonlyArray<Row.Scored>, room: Room): ReadonlyArray<ReadonlyArray<Fork>> => {
  const sized = forks(scored, room).map((fork) => ({ fork, size: sizeOf(fork) }))
  const result: Array<Array<Fork>> = []
  let size: Size = { P: 0, C: 0, N: 0 }
  let targets = 0
  for (const { fork, size: own } of inOrder(sized, room)) {
    const current = result.at(-1)
    const asked = fork.completions.reduce((sum, { completion }) => sum + completion.length, 0)
    const together = larger(size, own)
    const fits =
      current !== undefined &&
      (current.length + 1) * paddedTokens(together) <= room.tokens &&
      targets + asked <= room.targets
    if (fits) {
      current.push(fork)
      size = together
      targets += asked
    } else {
      result.push([fork])
      size = own
      targets = asked
    }
  }
  return result
}

// The inputs of the scoring graph for a batch.
const layout = (batch: ReadonlyArray<Fork>) => {
  const { C, N, P } = batch.map(sizeOf).reduce(larger)
  const K = batch.length
  const prompts = new BigInt64Array(K * P)
  const completions = new BigInt64Array(K * C * N)
  const tokens: Array<number> = []
  const positions: Array<number> = []
  const places: Array<number> = []
  const rows: Array<number> = []
  const targets: Array<number> = []
  // Adds a token whose keys stand at `slot` of `table`; the tables follow each other in what attention returns.
  const add = (token: number, position: number, table: BigInt64Array, slot: number) => {
    const row = tokens.push(token) - 1
    positions.push(position)
    places.push(table === completions ? slot : completions.length + slot)
    table[slot] = BigInt(row)
    return row
  }
  for (const [k, { prompt }] of batch.entries()) {
    const t = prompt.length - 1
    const last = add(prompt[t]!, t, prompts, k * P + t)
    prompts.fill(BigInt(last), k * P + prompt.length, (k + 1) * P)
  }
  for (const [k, fork] of batch.entries()) {
    for (const [c, item] of fork.completions.entries()) {
      let row = k
      for (let t = 0; t < item.completion.length; t++) {
        rows.push(row)
        targets.push(item.completion[t]!)
        if (t === read(item)) break
        row = add(item.completion[t]!, fork.prompt.length + t, completions, (k * C + c) * N + t)
      }
    }
  }
  const asked = tokens.length
  for (const [k, { prompt }] of batch.entries()) {
    for (let t = 0; t < prompt.length - 1; t++) add(prompt[t]!, t, prompts, k * P + t)
  }
  return {
    tokens: Tensor.int64(tokens),
    positions: Tensor.int64(positions),
    prompts: Tensor.int64(prompts, [K, P]),
    lengths: Tensor.int64(batch.map(({ prompt }) => prompt.length)),
    completions: Tensor.int64(completions, [K, C, N]),
    places: Tensor.int64(places),
    asked: Tensor.int64([asked]),
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

    // Who scores also reads: the next texts become tokens while this graph runs.
    const scorer = yield* device.compile(Model.encode(scoring(decoder)), {
      name: `${name}: scoring`,
      waiting: "sleep"
    })

    const room = { tokens: tokensPerBatch(device.provider), targets: logitsPerBatch / vocabSize }
    const score = Effect.fnUntraced(function* (batch: ReadonlyArray<Fork>) {
      const outputs = yield* Effect.flatMap(parameters, (weights) =>
        scorer.run({ ...Object.fromEntries(weights), ...layout(batch) })
      ).pipe(Effect.mapError((error) => failure("logprobs", error.message, error)))
      return Device.tensor(outputs, "logprobs", "float32").data
    })

    const logprobs: PolicyShape["logprobs"] = Effect.fn("OrtPolicy.logprobs")(function* (continuations) {
      const limits = { name, tokenizer, vocabSize, contextLength }
      const scored = yield* Effect.fromResult(Row.readContinuations(limits, continuations))
      const results = continuations.map(() => new Float32Array(0))
      // The next batch waits at the device while one is computed, so that the device never waits for a batch.
      yield* Effect.forEach(
        batches(scored, room),
        Effect.fnUntraced(function* (batch) {
          const scores = yield* score(batch)
          let at = 0
          for (const { completion, index } of batch.flatMap((fork) => fork.completions)) {
            results[index] = scores.slice(at, at + completion.length)
            at += completion.length
          }
        }),
        { concurrency: 2, discard: true }
      )
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
