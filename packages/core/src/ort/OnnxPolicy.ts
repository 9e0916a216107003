/**
 * A policy from an ONNX file that any exporter wrote, for sampling and scoring without training: judges, refiners,
 * reward models by likelihood.
 *
 * The file decides how it is run: its inputs and outputs are found by name, with or without a key-value cache,
 * positions or a mask, in float32, float16 or with quantised weights. The cache stays on the device; logits come back,
 * and the token is chosen in JavaScript. A policy that is trained, or sampled by the million, is an `OrtPolicy`.
 *
 * @since 0.1.0
 */
import { Effect, type FileSystem, type Path, Queue, Result, type Scope, Stream } from "effect"
import type * as Completion from "../Completion.ts"
import * as Safetensors from "../hub/Safetensors.ts"
import * as Logprobs from "../Logprobs.ts"
import { ModelError } from "../ModelError.ts"
import * as NextToken from "../NextToken.ts"
import type { PolicyShape } from "../Policy.ts"
import type { Finished, SampleOptions, SampleOptionsInput } from "../Sampler.ts"
import * as Tensor from "../Tensor.ts"
import type { TokenizerError } from "../Tokenizer.ts"
import * as Tokens from "../Tokens.ts"
import * as Device from "./Device.ts"
import * as ExportedModel from "./ExportedModel.ts"
import * as Row from "./Row.ts"

/**
 * Settings of `load`.
 *
 * @category models
 * @since 0.1.0
 */
export interface LoadOptions {
  /** Longest sequence, in tokens; default what `config.json` says, and no limit where it says nothing. */
  readonly contextLength?: number | undefined
}

/**
 * One tensor of the key-value cache: where it goes in, where it comes out, and its shape, which has the batch at
 * `batchAxis` and grows along the axis before the last.
 *
 * @category models
 * @since 0.1.0
 */
export interface CacheSlot {
  readonly input: string
  readonly output: string
  readonly dtype: Tensor.DType
  readonly shape: ReadonlyArray<number>
  readonly batchAxis: number
}

/**
 * How a decoder's graph is run: the role of each of its inputs and outputs.
 *
 * @category models
 * @since 0.1.0
 */
export interface Signature {
  readonly ids: Device.Slot
  readonly logits: Device.Slot
  readonly mask: Device.Slot | undefined
  readonly positions: Device.Slot | undefined
  /** Number of last positions that logits are wanted for, 0 for all. */
  readonly logitsToKeep: Device.Slot | undefined
  /** Chooses between the two graphs of a merged file: false for a prompt, true once there is a cache. */
  readonly useCache: Device.Slot | undefined
  /** Empty when the graph has no cache: then each token takes a run over everything before it. */
  readonly cache: ReadonlyArray<CacheSlot>
}

// past_key_values.0.key, past_key_values.0.decoder.key, past_key_0, past.0.value, past_0; present likewise
const cacheName =
  /^(past|present)(?:_key_values|_kv)?[._]?(?:(key|value)s?[._])?(\d+)(?:[._](?:decoder[._])?(key|value)s?)?$/

const cacheKey = (name: string): string | undefined => {
  const match = cacheName.exec(name)
  return match === null ? undefined : `${match[3]} ${match[2] ?? match[4] ?? "both"}`
}

const firstOf = (slots: ReadonlyArray<Device.Slot>, ...names: ReadonlyArray<string>): Device.Slot | undefined =>
  slots.find(({ name }) => names.includes(name))

/**
 * Finds the role of each input and output of a decoder's graph by name.
 *
 * **Details**
 *
 * A cache tensor is `[B, heads, T, width]`, or `[2, B, heads, T, width]` where keys and values share one; sizes that
 * the graph leaves open come from `config.json`.
 *
 * **Gotchas**
 *
 * Fails when the graph is not a decoder that can be run from token ids: the message lists the inputs that it has.
 *
 * @category constructors
 * @since 0.1.0
 */
export const signature = (
  model: string,
  graph: Pick<Device.Session, "inputs" | "outputs">,
  config: typeof ExportedModel.Config.Type
): Result.Result<Signature, ModelError> => {
  const { inputs, outputs } = graph
  const fail = (reason: string) => {
    const names = (slots: ReadonlyArray<Device.Slot>) => slots.map(({ name }) => name).join(", ")
    return Result.fail(
      ExportedModel.unusable(model, `${reason}; its inputs are ${names(inputs)} and its outputs ${names(outputs)}`)
    )
  }
  const ids = firstOf(inputs, "input_ids")
  const logits = firstOf(outputs, "logits")
  if (ids === undefined || logits === undefined) {
    return fail(`is not a decoder: it has no ${ids === undefined ? "input input_ids" : "output logits"}`)
  }
  const mask = firstOf(inputs, "attention_mask")
  const positions = firstOf(inputs, "position_ids")
  const logitsToKeep = firstOf(inputs, "num_logits_to_keep", "logits_to_keep")
  const useCache = firstOf(inputs, "use_cache_branch")

  const presents = new Map(outputs.map(({ name }) => [cacheKey(name), name] as const))
  const heads = config.num_key_value_heads ?? config.num_attention_heads ?? config.n_head ?? undefined
  const queryHeads = config.num_attention_heads ?? config.n_head ?? undefined
  const modelWidth = config.hidden_size ?? config.n_embd ?? undefined
  const width =
    config.head_dim ?? (modelWidth === undefined || queryHeads === undefined ? undefined : modelWidth / queryHeads)
  const cache: Array<CacheSlot> = []
  for (const { dtype, name, shape } of inputs) {
    if ([ids, mask, positions, logitsToKeep, useCache].some((slot) => slot?.name === name)) continue
    const key = cacheKey(name)
    if (key === undefined || !name.startsWith("past")) {
      return fail(`takes "${name}", which a policy does not know how to fill; export a decoder for text generation`)
    }
    const output = presents.get(key)
    if (output === undefined) return fail(`takes "${name}" but returns no tensor that continues it`)
    const both = key.endsWith("both")
    if (shape.length !== (both ? 5 : 4))
      return fail(`has a cache "${name}" of rank ${shape.length}, not ${both ? 5 : 4}`)
    const sizes = [shape.at(-3), shape.at(-1)].map((dim, i) =>
      typeof dim === "number" && dim > 0 ? dim : [heads, width][i]
    )
    if (sizes[0] === undefined || sizes[1] === undefined) {
      return fail(`leaves the heads or their width of "${name}" open, and config.json does not say them either`)
    }
    const empty = [1, sizes[0], 0, sizes[1]]
    cache.push({ input: name, output, dtype, shape: both ? [2, ...empty] : empty, batchAxis: both ? 1 : 0 })
  }
  return Result.succeed({ ids, logits, mask, positions, logitsToKeep, useCache, cache })
}

// Logits of one run are held to 256 MB: [B, T, V] of a large vocabulary outgrows everything else.
const maxLogits = 2 ** 26

const chunksOf = <A>(values: ReadonlyArray<A>, size: number): ReadonlyArray<ReadonlyArray<A>> =>
  Array.from({ length: Math.ceil(values.length / size) }, (_, i) => values.slice(i * size, (i + 1) * size))

const groupBy = <A>(values: ReadonlyArray<A>, key: (value: A) => number): ReadonlyArray<ReadonlyArray<A>> => {
  const groups = new Map<number, Array<A>>()
  for (const value of values) groups.set(key(value), [...(groups.get(key(value)) ?? []), value])
  return [...groups.values()]
}

/**
 * Loads a decoder for sampling and scoring, with the tokenizer beside it.
 *
 * **Details**
 *
 * Known inputs: `input_ids`, `attention_mask`, `position_ids`, `num_logits_to_keep`, `use_cache_branch`, and a cache
 * named as by Optimum, transformers.js or ONNX Runtime (`past_key_values.N.key`, `past_key_N`, `past_N`, ...) with the
 * outputs that continue it. Known output: `logits`. Prompts of one batch are padded to the left where the graph takes a
 * mask and positions; otherwise only prompts of equal length share a batch, since a padded row would be another row.
 *
 * **Gotchas**
 *
 * A completion that reaches the end of the context ends there, with reason `length`. `logprobs` of a greedy completion
 * are 0: its distribution is certain. A completion cut at a stop string keeps the tokens that lie before the string as
 * a whole, while its text ends exactly there.
 *
 * **Example** (Asking a model for its likeliest answer)
 *
 * ```ts
 * import { OnnxPolicy } from "@attune/core/ort"
 * import { Effect } from "effect"
 *
 * const answer = Effect.gen(function*() {
 *   const judge = yield* OnnxPolicy.load({ directory: "models/judge", file: "model_q4.onnx" })
 *   const [completion] = yield* judge.sample(["Is the summary faithful? Answer:"], { maxNewTokens: 4, temperature: 0 })
 *   return completion?.text
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const load: (
  source: ExportedModel.Source,
  options?: LoadOptions
) => Effect.Effect<
  PolicyShape,
  ModelError | TokenizerError,
  Device.Device | FileSystem.FileSystem | Path.Path | Scope.Scope
> = Effect.fn("OnnxPolicy.load")(function* (source, options) {
  const device = yield* Device.Device
  const model = yield* ExportedModel.open(source)
  const { config, name, tokenizer } = model

  const session = yield* model.compile((output) => cacheKey(output) !== undefined)
  const found = yield* Effect.fromResult(signature(name, session, config))
  const columns = found.logits.shape.at(-1)
  const vocabSize = yield* Effect.fromResult(
    ExportedModel.checkVocabulary(
      model,
      typeof columns === "number" && columns > 0 ? columns : (config.vocab_size ?? undefined)
    )
  )
  const contextLength =
    options?.contextLength ??
    config.max_position_embeddings ??
    config.n_positions ??
    config.n_ctx ??
    Number.POSITIVE_INFINITY
  const limits = { name, tokenizer, vocabSize, contextLength }
  const padId = tokenizer.padId ?? 0
  const padded = found.mask !== undefined && found.positions !== undefined

  const feedsOf = (
    batch: Tokens.Padded,
    logitsToKeep: number,
    past: ReadonlyArray<Device.DeviceTensor>
  ): Readonly<Record<string, Device.Feed>> => {
    const size = batch.tokens.shape[0]!
    const feeds: Record<string, Device.Feed> = {}
    const put = (slot: Device.Slot | undefined, tensor: Tensor.Tensor<"int64">) => {
      if (slot !== undefined) feeds[slot.name] = ExportedModel.integers(slot, tensor)
    }
    put(found.ids, batch.tokens)
    put(found.mask, batch.mask)
    put(found.positions, batch.positions)
    put(found.logitsToKeep, Tensor.int64([logitsToKeep], found.logitsToKeep?.shape.map(() => 1) ?? []))
    if (found.useCache !== undefined) {
      feeds[found.useCache.name] = Tensor.make(
        "bool",
        Uint8Array.of(+(past.length > 0)),
        found.useCache.shape.map(() => 1)
      )
    }
    found.cache.forEach(({ batchAxis, dtype, input, shape }, i) => {
      feeds[input] =
        past[i] ??
        Tensor.fromBytes(
          dtype,
          new Uint8Array(0),
          shape.map((dim, axis) => (axis === batchAxis ? size : dim))
        )
    })
    return feeds
  }

  const logitsOf = (outputs: Device.Outputs): Tensor.Tensor<"float32"> =>
    Safetensors.toFloat32(outputs.tensors[found.logits.name]!)

  const notFinite = (operation: ModelError["operation"], what: string) =>
    new ModelError({
      model: name,
      operation,
      message: `${name}: its logits for ${what} are not finite; take a file of higher precision, or check its weights`
    })

  const run = (
    operation: ModelError["operation"],
    feeds: Readonly<Record<string, Device.Feed>>,
    options: Device.RunOptions
  ) => session.run(feeds, options).pipe(Effect.mapError(ExportedModel.runtimeError(name, operation)))

  /** Draws the next token of a row; finishes the row when that token ends it. */
  const draw = (row: Row.Row, logits: Float32Array, settings: SampleOptions): Result.Result<void, ModelError> => {
    const counted = settings.repetitionPenalty === 1 ? [] : [...Array.from(row.prompt), ...row.tokens]
    const distribution = NextToken.logprobs(logits, settings, counted)
    const token =
      settings.temperature === 0 ? NextToken.greedy(distribution) : NextToken.choose(distribution, row.uniform())
    const untempered = Logprobs.gather(logits, vocabSize, [token])[0]!
    if (!Number.isFinite(untempered)) return Result.fail(notFinite("sample", `prompt ${row.index}`))
    row.tokens.push(token)
    row.logprobs.push(distribution[token]!)
    row.untempered.push(untempered)

    Row.settle(row, tokenizer, settings)
    return Result.succeed(undefined)
  }

  /** The next run's tokens: everything without a cache or at the start, one column after that. Left-padded. */
  const nextBatch = (rows: ReadonlyArray<Row.Row>, started: boolean): Tokens.Padded => {
    // a finished row goes on as padding until the batch has ended
    const whole = Tokens.pad(
      rows.map(({ prompt, tokens }) => [...Array.from(prompt), ...tokens]),
      { padId, side: "left" }
    )
    if (!started || found.cache.length === 0) return whole
    const [size, length] = whole.tokens.shape as [number, number]
    const last = ({ data }: Tensor.Tensor<"int64">) =>
      Tensor.int64(
        BigInt64Array.from({ length: size }, (_, b) => data[(b + 1) * length - 1]!),
        [size, 1]
      )
    return { tokens: last(whole.tokens), mask: whole.mask, positions: last(whole.positions) }
  }

  const decode = Effect.fnUntraced(function* (
    rows: ReadonlyArray<Row.Row>,
    settings: SampleOptions,
    emit: (finished: Finished) => void
  ) {
    let held: ReadonlyArray<Device.DeviceTensor> = []
    const fetch = [found.logits.name, ...found.cache.map(({ output }) => output)]
    const loop = Effect.gen(function* () {
      for (let step = 0; rows.some(({ finished }) => finished === undefined); step++) {
        const execute = run("sample", feedsOf(nextBatch(rows, step > 0), 1, held), { fetch, release: held })
        // The wait for the run can be interrupted all the same; the cache cannot slip between two hands.
        const outputs = yield* Effect.uninterruptible(
          Effect.tap(execute, (outputs) =>
            Effect.sync(() => {
              held = found.cache.map(({ output }) => Device.kept(outputs, output))
            })
          )
        )
        const logits = logitsOf(outputs)
        const columns = logits.data.length / rows.length // the last V of each row predict the next token
        for (const [b, row] of rows.entries()) {
          if (row.finished !== undefined) {
            row.tokens.push(padId)
            continue
          }
          const end = (b + 1) * columns
          yield* Effect.fromResult(draw(row, logits.data.subarray(end - vocabSize, end), settings))
          if (row.finished !== undefined) emit({ index: row.index, completion: row.finished })
        }
      }
    })
    yield* loop.pipe(Effect.ensuring(Effect.suspend(() => device.release(held))))
  })

  const sampleEach = Effect.fn("OnnxPolicy.sample")(function* (
    prompts: Parameters<PolicyShape["sample"]>[0],
    input: SampleOptionsInput,
    emit: (finished: Finished) => void
  ) {
    const { options: settings, rows } = yield* Effect.fromResult(Row.readPrompts(limits, prompts, input))
    // Rows that will reach the end of the context end together, so that no row goes on as padding beyond it.
    const mixes = ({ limit }: Row.Row) => padded && limit === settings.maxNewTokens
    const apart = groupBy(
      rows.filter((row) => !mixes(row)),
      ({ prompt }) => prompt.length
    )
    for (const group of [rows.filter(mixes), ...apart]) {
      for (const batch of chunksOf(group, settings.batchSize)) yield* decode(batch, settings, emit)
    }
  })

  const sample: PolicyShape["sample"] = Effect.fnUntraced(function* (prompts, input) {
    const completions: Array<Completion.Completion> = []
    yield* sampleEach(prompts, input, ({ completion, index }) => {
      completions[index] = completion
    })
    return completions
  })

  const stream: PolicyShape["stream"] = (prompts, input) =>
    Stream.callback<Finished, ModelError>((queue) =>
      sampleEach(prompts, input, (finished) => Queue.offerUnsafe(queue, finished)).pipe(
        Effect.andThen(Queue.end(queue))
      )
    )

  /** Scores continuations in one run. Right padding needs no mask and no positions: nothing looks ahead. */
  const score = Effect.fnUntraced(function* (batch: ReadonlyArray<Row.Scored>, temperature: number) {
    const right = Tokens.pad(
      batch.map(({ tokens }) => tokens),
      { padId, side: "right" }
    )
    const length = right.tokens.shape[1]!
    const shortest = Math.min(...batch.map(({ completion, tokens }) => tokens.length - completion.length))
    const kept = found.logitsToKeep === undefined ? length : length - shortest + 1
    const logits = logitsOf(yield* run("logprobs", feedsOf(right, kept, []), { fetch: [found.logits.name] }))
    return yield* Effect.forEach(batch, ({ completion, index, tokens }, b) => {
      // position t predicts token t + 1
      const start = (b * kept + tokens.length - completion.length - 1 - (length - kept)) * vocabSize
      const rows = logits.data.subarray(start, start + completion.length * vocabSize)
      const logprobs = Logprobs.gather(rows, vocabSize, completion, temperature)
      return logprobs.every(Number.isFinite)
        ? Effect.succeed({ index, logprobs })
        : Effect.fail(notFinite("logprobs", `continuation ${index}`))
    })
  })

  const logprobs: PolicyShape["logprobs"] = Effect.fn("OnnxPolicy.logprobs")(function* (continuations, options = {}) {
    const temperature = yield* Effect.fromResult(Row.readTemperature(limits.name, options))
    const scored = yield* Effect.fromResult(Row.readContinuations(limits, continuations))
    const result: Array<Float32Array> = continuations.map(() => new Float32Array(0))
    // longest first: rows that share a run are nearly as long as each other, and the first decides how many fit
    const waiting = scored.toSorted((a, b) => b.tokens.length - a.tokens.length)
    while (waiting.length > 0) {
      const fit = Math.floor(maxLogits / (waiting[0]!.tokens.length * vocabSize))
      for (const { index, logprobs } of yield* score(waiting.splice(0, Math.max(1, Math.min(fit, 64))), temperature)) {
        result[index] = logprobs
      }
    }
    return result
  })

  return { ...limits, logprobs, sample, stream }
})
