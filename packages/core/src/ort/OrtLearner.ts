/**
 * Trains a model on the device: model, loss, gradient and optimizer compiled into one graph, run several steps at a time.
 *
 * @since 0.1.0
 */

import { createHash } from "node:crypto"
import { Effect, Ref, Scope, Semaphore } from "effect"
import type { Pretrained } from "../hub/Pretrained.ts"
import { type Learner, LearnerError, type LearnerState, type StepMetrics } from "../Learner.ts"
import type { Batch, Example, Fields, LanguageOutputs, Loss } from "../Loss.ts"
import * as Attention from "../nn/Attention.ts"
import type { Decoder, Given } from "../nn/Decoder.ts"
import * as Dropout from "../nn/Dropout.ts"
import { takeRows } from "../nn/Linear.ts"
import type { MissingGradientRule } from "../onnx/Gradient.ts"
import type { Graph, Value } from "../onnx/Graph.ts"
import * as Model from "../onnx/Model.ts"
import * as Op from "../onnx/Op.ts"
import * as Optimizer from "../onnx/Optimizer.ts"
import * as TrainLoop from "../onnx/TrainLoop.ts"
import * as Tensor from "../Tensor.ts"
import * as Device from "./Device.ts"
import type { Trainable } from "./ResidentModel.ts"

/**
 * What is trained, and how.
 *
 * **Details**
 *
 * `model`: what the loss reads must be what the model says: a language model, one with a scalar head, or both in one.
 * `accumulate`: micro-batches that each batch is cut into, for less memory and the same gradient; one for each example
 * where there are fewer. By default, on a CPU, as many as it takes for each to hold about a thousand tokens: what a step
 * touches then stays in the caches, and examples of similar length come together, which leaves little padding. Elsewhere 1.
 * `stepsPerRun`: optimizer steps in one run of the graph, default 8; more steps copy less, fewer answer sooner to an
 * interruption. `trains`: chooses the parameters that change, default all. `ema`: decay, in `[0, 1)`, of a
 * moving average of the weights, kept beside them. `stop`: `update` ends before the first step for which the metric `metric`
 * of the loss is above `above`; it does not take that step, nor those after it. `dropout`: rate of dropout on the residual
 * branches while a step is computed, in `[0, 1)`, default 0; taken as the nearest multiple of 1/256 that is neither 0 nor 1
 * (0.2 as 51/256). Its masks depend on `dropoutSeed` (default 0), on the step, and on an example's place in its batch: not
 * on `accumulate`, `stepsPerRun` or a resumption. Whatever samples or scores with the model has no dropout.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<
  F extends Fields,
  M extends string,
  O = LanguageOutputs,
  Model extends Trainable<O> = Trainable<O>
> {
  readonly model: Model
  readonly loss: Loss<F, M, O>
  readonly optimizer: Optimizer.AdamW
  readonly accumulate?: number | undefined
  readonly stepsPerRun?: number | undefined
  readonly trains?: ((parameter: string) => boolean) | undefined
  readonly ema?: number | undefined
  readonly stop?: { readonly metric: NoInfer<M>; readonly above: number } | undefined
  readonly dropout?: number | undefined
  readonly dropoutSeed?: number | undefined
}

/**
 * The step that a loss takes on a model: see `TrainLoop.TrainStep`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const trainStep = <F extends Fields, M extends string, O>(
  { base, outputs }: Pick<Trainable<O>, "outputs"> & { readonly base: Pick<Pretrained, "decoder"> },
  loss: Loss<F, M, O>,
  optimizer: Optimizer.AdamW,
  options: {
    readonly ema?: number | undefined
    readonly stop?: TrainLoop.TrainStep["stop"]
    readonly trains?: ((parameter: string) => boolean) | undefined
    readonly rmsNorm?: Given["rmsNorm"]
    readonly dropout?: Dropout.Dropout | undefined
  } = {}
): TrainLoop.TrainStep => {
  const { decoder } = base
  const { dropout } = options
  const fields = Object.entries(loss.fields)
  return {
    name: `train-${loss.name}`,
    parameters: decoder.parameters.map(({ decay, name, shape }) => ({
      name,
      shape,
      trainable: options.trains?.(name) ?? true,
      decays: optimizer.decays?.(name) ?? decay
    })),
    sizes: ["B", "T", "N"],
    batch: [
      { name: "tokens", dtype: "int64", shape: ["B", "T"] },
      { name: "rows", dtype: "int64", shape: ["N"] },
      { name: "targets", dtype: "int64", shape: ["N"] },
      { name: "weights", dtype: "float32", shape: ["N"] },
      ...(dropout === undefined
        ? []
        : [{ name: "dropout", dtype: "uint8" as const, shape: ["B", "T", dropout.bytesPerToken] }]),
      ...fields.map(([name, shape]) => ({ name: `field:${name}`, dtype: "float32" as const, shape }))
    ],
    metrics: loss.metrics,
    maxima: loss.maxima,
    stop: options.stop,
    ema: options.ema,
    optimizer,
    forward: (g, weights, batch) => {
      const residual = dropout?.residual(g, Op.Reshape(g, batch("dropout"), ["M", dropout.bytesPerToken]))
      const hidden = hiddenStates(g, decoder, weights, batch("tokens"), { rmsNorm: options.rmsNorm, residual })
      const selected = takeRows(g, hidden, batch("rows"))
      return loss.build({
        ...outputs({ g, weights, hidden: selected, targets: () => batch("targets") }),
        g,
        weights: batch("weights"),
        fields: Object.fromEntries(fields.map(([name]) => [name, batch(`field:${name}`)])) as {
          readonly [K in keyof F]: Value
        }
      })
    }
  }
}

// Two blocks skip a quarter of the [T, T] work; more skip little more and cost nodes.
const attentionBlocks = 2

// Hidden states `[B * T, D]` of right-padded tokens `[B, T]`.
const hiddenStates = (
  g: Graph,
  decoder: Decoder,
  weights: (name: string) => Value,
  tokens: Value,
  given: Given
): Value => {
  const positions = Op.Expand(g, Op.Reshape(g, Op.Range(g, "T"), [1, "T"]), ["B", "T"])
  const attend = Attention.causal(g, decoder, { batch: "B", time: "T", blocks: attentionBlocks })
  return decoder.forward(g, weights, Op.Reshape(g, tokens, ["M"]), Op.Reshape(g, positions, ["M"]), attend, given)
}

const refuse = (step: number, message: string) => new LearnerError({ reason: "input", step, message })

// The first thing about an example that cannot be learned from.
const complaint = (example: Example, decoder: Decoder, fields: Fields): string | undefined => {
  const { tokens, weights } = example
  // The last target itself is never read.
  if (weights.findLastIndex((weight) => weight > 0) > decoder.contextLength) {
    return `has ${tokens.length} tokens, more than the model's context of ${decoder.contextLength}: shorten or split it`
  }
  if (weights.length !== tokens.length) return `has ${tokens.length} tokens but ${weights.length} weights`
  if (weights.length > 0 && weights[0] !== 0)
    return "weighs its first token, which nothing predicts: set weights[0] to 0"
  if (weights.some((weight) => !(weight >= 0 && weight < Infinity))) return "has a negative or non-finite weight"
  const foreign = tokens.find((token) => token < 0 || token >= decoder.vocabSize)
  if (foreign !== undefined) return `has the token ${foreign}, outside the model's vocabulary of ${decoder.vocabSize}`
  const targets = weights.reduce((count, weight) => count + (weight > 0 ? 1 : 0), 0)
  for (const [name, shape] of Object.entries(fields)) {
    const given: unknown = example.fields[name]
    if (shape[0] === "B" ? typeof given !== "number" : !(given instanceof Float32Array && given.length === targets)) {
      return shape[0] === "B"
        ? `needs a number for the field ${name}`
        : `has ${targets} target tokens; the field ${name} must be a Float32Array of that length`
    }
  }
  return undefined
}

interface MicroBatch {
  readonly tokens: Array<Int32Array>
  /** The number of each sequence in the batch of its step. */
  readonly numbers: ReadonlyArray<number>
  /** Columns that are computed: tokens after the last target are not. */
  readonly time: number
  readonly rows: Array<number>
  readonly targets: Array<number>
  readonly weights: Array<number>
  readonly fields: Readonly<Record<string, Array<number>>>
}

const examplesOf = (unit: Batch[number]): ReadonlyArray<Example> => ("tokens" in unit ? [unit] : unit)

const microBatch = (
  examples: ReadonlyArray<Example>,
  numbers: ReadonlyArray<number>,
  total: number,
  shapes: Fields,
  step: ReadonlyArray<Example>
): MicroBatch => {
  const last = (example: Example) => example.weights.findLastIndex((weight) => weight > 0)
  // At least a column for each block of attention: ONNX Runtime refuses products over no rows.
  const time = Math.max(attentionBlocks, ...examples.map(last))
  const batch: MicroBatch = {
    tokens: examples.map(({ tokens }) => tokens),
    numbers,
    time,
    rows: [],
    targets: [],
    weights: [],
    fields: Object.fromEntries(Object.keys(shapes).map((name) => [name, []]))
  }
  examples.forEach((example, b) => {
    for (let t = 1; t < example.tokens.length; t++) {
      if (example.weights[t] === 0) continue
      batch.rows.push(b * time + t - 1)
      batch.targets.push(example.tokens[t]!)
      batch.weights.push(example.weights[t]! / total)
    }
    for (const name of Object.keys(shapes)) {
      const given: number | Float32Array = example.fields[name]!
      batch.fields[name]!.push(...(typeof given === "number" ? [given] : (given as Float32Array)))
    }
  })
  // Nor may there be no target at all: without one, a token is predicted that counts nothing. Its
  // fields are those of a real target, so that no logarithm or quotient of them is worse than usual.
  if (batch.rows.length === 0) {
    const real = step.find(({ weights }) => weights.some((weight) => weight > 0))!
    batch.rows.push(0)
    batch.targets.push(0)
    batch.weights.push(0)
    for (const [name, shape] of Object.entries(shapes)) {
      if (shape[0] === "N") batch.fields[name]!.push((real.fields[name] as unknown as Float32Array)[0]!)
    }
  }
  return batch
}

const longest = (examples: ReadonlyArray<Example>): number =>
  examples.reduce((most, { tokens }) => Math.max(most, tokens.length), 0)

// Cuts a batch into micro-batches of almost as many examples or groups, those of similar length together.
const cut = (batch: Batch, parts: number, shapes: Fields): ReadonlyArray<MicroBatch> => {
  let counted = 0
  const units = batch
    .map((unit) => examplesOf(unit).map((example) => ({ example, number: counted++ })))
    .toSorted((a, b) => longest(a.map(({ example }) => example)) - longest(b.map(({ example }) => example)))
  const examples = units.flat().map(({ example }) => example)
  const total = examples.reduce((sum, { weights }) => sum + weights.reduce((a, b) => a + b, 0), 0)
  return Array.from({ length: parts }, (_, i) => {
    const from = Math.floor((i * units.length) / parts)
    const to = Math.floor(((i + 1) * units.length) / parts)
    const own = units.slice(from, to).flat()
    const numbers = own.map(({ number }) => number)
    return microBatch(
      own.map(({ example }) => example),
      numbers,
      total,
      shapes,
      examples
    )
  })
}

const tokensPerMicroBatch = 1024

// How many micro-batches make a batch fit the caches of a CPU.
const cacheSized = (batch: Batch): number => {
  const examples = batch.flatMap(examplesOf)
  return Math.ceil((examples.length * longest(examples)) / tokensPerMicroBatch)
}

const width = (batches: ReadonlyArray<MicroBatch>, of: (batch: MicroBatch) => number) => Math.max(...batches.map(of))

// Feeds of a run: every micro-batch padded to the largest and stacked.
const stack = (batches: ReadonlyArray<MicroBatch>, shapes: Fields): Record<string, Tensor.Tensor> => {
  const count = batches.length
  const [b, t, n] = [
    width(batches, ({ tokens }) => tokens.length),
    width(batches, ({ time }) => time),
    width(batches, ({ rows }) => rows.length)
  ]
  const tokens = new BigInt64Array(count * b * t)
  const ints = (of: (batch: MicroBatch) => ReadonlyArray<number>, size: number) => {
    const data = new BigInt64Array(count * size)
    for (const [i, batch] of batches.entries()) {
      for (const [j, value] of of(batch).entries()) data[i * size + j] = BigInt(value)
    }
    return Tensor.int64(data, [count, size])
  }
  const floats = (of: (batch: MicroBatch) => ReadonlyArray<number>, size: number) => {
    const data = new Float32Array(count * size)
    for (const [i, batch] of batches.entries()) data.set(of(batch), i * size)
    return Tensor.float32(data, [count, size])
  }
  for (const [i, batch] of batches.entries()) {
    for (const [r, row] of batch.tokens.entries()) {
      for (let c = 0; c < Math.min(row.length, batch.time); c++) tokens[(i * b + r) * t + c] = BigInt(row[c]!)
    }
  }
  return {
    tokens: Tensor.int64(tokens, [count, b, t]),
    rows: ints(({ rows }) => rows, n),
    targets: ints(({ targets }) => targets, n),
    weights: floats(({ weights }) => weights, n),
    sizes: ints((batch) => [batch.tokens.length, batch.time, batch.rows.length], 3),
    ...Object.fromEntries(
      Object.entries(shapes).map(([name, shape]) => [
        `field:${name}`,
        floats(({ fields }) => fields[name]!, shape[0] === "B" ? b : n)
      ])
    )
  }
}

// Masks of every sequence's tokens, stacked alike; zeros where they are padded.
const stackMasks = (
  steps: ReadonlyArray<ReadonlyArray<MicroBatch>>,
  first: number,
  { bytesPerToken, fill }: Dropout.Dropout
): Tensor.Tensor => {
  const batches = steps.flat()
  const [b, t] = [width(batches, ({ tokens }) => tokens.length), width(batches, ({ time }) => time)]
  const masks = new Uint8Array(batches.length * b * t * bytesPerToken)
  let row = 0
  for (const [i, parts] of steps.entries()) {
    for (const { numbers, time, tokens } of parts) {
      for (const [r, { length }] of tokens.entries()) {
        const from = (row + r) * t * bytesPerToken
        const own = masks.subarray(from, from + Math.min(length, time) * bytesPerToken)
        fill(own, { step: first + i, sequence: numbers[r]! })
      }
      row += b
    }
  }
  return Tensor.make("uint8", masks, [batches.length, b, t, bytesPerToken])
}

// Of each step: the index of its first micro-batch, and their number. `[K, 2]`.
const ranges = (steps: ReadonlyArray<ReadonlyArray<MicroBatch>>): Tensor.Tensor => {
  let first = 0
  const rows = steps.flatMap(({ length }) => {
    first += length
    return [first - length, length]
  })
  return Tensor.int64(rows, [steps.length, 2])
}

const squeeze = (tensor: Tensor.Tensor): Tensor.Tensor => ({ ...tensor, shape: tensor.shape.slice(1) })

const momentPrefixes = ["first:", "second:", "ema:"] as const

/**
 * Compiles a learner. Its graph and the optimizer's state are freed when the scope closes; the weights stay with the
 * model.
 *
 * **Details**
 *
 * Fails with `MissingGradientRule` when the loss uses an operator that has no derivative, with `LearnerError` when an
 * option cannot be met, and with `OrtError` when the graph does not compile.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: <F extends Fields, M extends string, O, Model extends Trainable<O>>(
  options: Options<F, M, O, Model>
) => Effect.Effect<
  Learner<F, Model>,
  MissingGradientRule | LearnerError | Device.OrtError,
  Device.Device | Scope.Scope
> = Effect.fn("OrtLearner.make")(function* <F extends Fields, M extends string, O, Model extends Trainable<O>>(
  options: Options<F, M, O, Model>
) {
  const { loss, model, optimizer } = options
  const { decoder } = model.base
  const device = yield* Device.Device
  const rmsNorm = device.provider === "webgpu" ? "plain" : "fused"
  for (const name of ["accumulate", "stepsPerRun"] as const) {
    const given = options[name] ?? 1
    if (!Number.isSafeInteger(given) || given < 1) {
      return yield* refuse(0, `${name} is ${given}; give a whole number from 1`)
    }
  }
  if (options.ema !== undefined && !(options.ema >= 0 && options.ema < 1)) {
    return yield* refuse(0, `ema is ${options.ema}; give a decay from 0 to below 1`)
  }
  const { dropout: rate = 0, dropoutSeed = 0 } = options
  if (!(rate >= 0 && rate < 1)) return yield* refuse(0, `dropout is ${rate}; give a rate from 0 to below 1`)
  const dropout = rate === 0 ? undefined : Dropout.make(decoder, rate, dropoutSeed)
  const step = trainStep(model, loss, optimizer, { ...options, rmsNorm, dropout })
  if (!step.parameters.some(({ trainable }) => trainable)) {
    return yield* refuse(0, "nothing is trained: `trains` refuses every parameter of the model")
  }
  // On a CPU a run takes many steps, since the binding copies the state after every run. Elsewhere the state stays where
  // it is, and a run is a step.
  const onCpu = device.provider === "cpu"
  const stateNames = TrainLoop.stateNames(step)
  const compile = (graph: Graph) =>
    device.compile(Model.encode(graph), { name: step.name, keep: stateNames.map(TrainLoop.next) })
  const plain = yield* compile(yield* Effect.fromResult(onCpu ? TrainLoop.loop(step) : TrainLoop.single(step)))
  const scope = yield* Effect.scope
  const accumulatingGraph = yield* Effect.fromResult(TrainLoop.accumulating(step))
  const accumulating = yield* compile(accumulatingGraph).pipe(Effect.provideService(Scope.Scope, scope), Effect.cached)
  // None is empty: whatever stood in for an example would count in a loss that sums over sequences.
  const partsOf = (batch: Batch) => Math.min(batch.length, options.accumulate ?? (onCpu ? cacheSized(batch) : 1))
  const trained = new Set(step.parameters.flatMap(({ name, trainable }) => (trainable ? [name] : [])))
  const stepsPerRun = onCpu ? (options.stepsPerRun ?? 8) : 1
  const fingerprint = createHash("sha256")
    .update(
      JSON.stringify({
        architecture: decoder.modelType,
        parameters: step.parameters.map(({ name, shape }) => [name, shape, trained.has(name)]),
        loss: loss.name,
        fields: loss.fields,
        ema: options.ema ?? null,
        ...(dropout === undefined ? {} : { dropout: { rate: dropout.rate, seed: dropoutSeed } })
      })
    )
    .digest("hex")

  // Everything that is carried besides the weights, by input name.
  const uploadZeros = (shape: ReadonlyArray<number>) => device.upload(Tensor.zeros(shape))
  const initialMoments = Effect.gen(function* () {
    const weights = yield* model.parameters
    const moments = new Map<string, Device.DeviceTensor>()
    for (const { name, shape } of step.parameters) {
      if (!trained.has(name)) continue
      moments.set(`first:${name}`, yield* uploadZeros(shape))
      moments.set(`second:${name}`, yield* uploadZeros(shape))
      if (options.ema !== undefined) {
        moments.set(`ema:${name}`, yield* device.upload(yield* device.download(weights.get(name)!)))
      }
    }
    return moments
  })
  const moments = yield* Effect.acquireRelease(Effect.flatMap(initialMoments, Ref.make), (ref) =>
    Effect.flatMap(Ref.get(ref), (held) => device.release(held.values()))
  )
  const stepsTaken = yield* Ref.make(0)
  const turn = yield* Semaphore.make(1)

  const replaceMoments = (next: ReadonlyMap<string, Device.DeviceTensor>) =>
    Effect.flatMap(Ref.getAndSet(moments, new Map(next)), (old) => device.release(old.values()))

  // Records of the steps taken, and whether there is to be no other.
  const advance = Effect.fnUntraced(function* (batches: ReadonlyArray<Batch<F>>) {
    const first = yield* Ref.get(stepsTaken)
    const fail = (cause: Device.OrtError) =>
      new LearnerError({ reason: "runtime", step: first, message: cause.message, cause })
    const weights = yield* model.parameters
    const held = yield* Ref.get(moments)
    const steps = batches.map((batch) => cut(batch as Batch, partsOf(batch as Batch), loss.fields))
    const whole = steps.every((parts) => parts.length === 1)
    const session = whole ? plain : yield* Effect.mapError(accumulating, fail)
    const rates = batches.flatMap((_, i) => [...Optimizer.coefficients(optimizer, first + i)])
    const coefficients = Tensor.float32(rates, [batches.length, 3])
    const stacked = {
      ...stack(steps.flat(), loss.fields),
      ...(dropout === undefined ? {} : { dropout: stackMasks(steps, first, dropout) })
    }
    const single = !onCpu && whole
    const feeds: Record<string, Device.Feed> = {
      ...(single ? Object.fromEntries(Object.entries(stacked).map(([k, v]) => [k, squeeze(v)])) : stacked),
      coefficients: single ? squeeze(coefficients) : coefficients,
      steps: Tensor.int64([batches.length], []),
      parts: ranges(steps),
      ...Object.fromEntries(weights),
      ...Object.fromEntries(held)
    }
    // A graph has no input for a tensor that its loss does not read, nor for the loop's own where it has none.
    const known = new Set(session.inputs.map(({ name }) => name))
    for (const name of Object.keys(feeds)) if (!known.has(name)) delete feeds[name]

    const names = TrainLoop.metricNames(step)
    const isTaken = (row: Readonly<Record<string, number>>) =>
      row["finite"] === 1 && (step.stop === undefined || !(row[step.stop.metric]! > Math.fround(step.stop.above)))
    // The wait for the run can be interrupted all the same.
    const rows = yield* Effect.uninterruptible(
      Effect.gen(function* () {
        const outputs = yield* Effect.mapError(session.run(feeds), fail)
        const after = (name: string) => Device.kept(outputs, TrainLoop.next(name))
        yield* model.replaceParameters(new Map([...trained].map((name) => [name, after(name)])))
        yield* replaceMoments(new Map([...held.keys()].map((name) => [name, after(name)])))
        const metrics = Device.tensor(outputs, "metrics", "float32").data
        const rows = Array.from(
          { length: metrics.length / names.length },
          (_, i) =>
            Object.fromEntries(names.map((name, j) => [name, metrics[i * names.length + j]!])) as Record<string, number>
        )
        yield* Ref.set(stepsTaken, first + rows.filter(isTaken).length)
        return rows
      })
    )
    const reports = rows.map((row, i): StepMetrics => {
      const { finite: _finite, ...metrics } = row
      const targets = steps[i]!.reduce((sum, part) => sum + part.weights.filter((weight) => weight > 0).length, 0)
      return { ...metrics, learning_rate: optimizer.learningRate(first + i), tokens: targets }
    })
    const bad = rows.findIndex((row) => row["finite"] !== 1)
    if (bad >= 0) {
      return yield* new LearnerError({
        reason: "finite",
        step: first + bad,
        completed: reports.slice(0, bad),
        message:
          `step ${first + bad + 1}: loss ${rows[bad]!["loss"]}, gradient norm ${rows[bad]!["grad_norm"]}; ` +
          "the parameters are those before this step. Lower the learning rate, or clip with maxGradNorm"
      })
    }
    const taken = rows.filter(isTaken).length
    return { reports: reports.slice(0, taken), stopped: taken < batches.length }
  })

  const check = Effect.fnUntraced(function* (batches: ReadonlyArray<Batch<F>>) {
    const first = yield* Ref.get(stepsTaken)
    for (const [i, batch] of batches.entries()) {
      const name = `step ${first + i + 1}` // as the run log counts
      for (const [j, unit] of batch.entries()) {
        const own = examplesOf(unit as Batch[number])
        if (own.length === 0) return yield* refuse(first + i, `${name}, example ${j} is a group without sequences`)
        for (const example of own) {
          const problem = complaint(example, decoder, loss.fields)
          if (problem !== undefined) return yield* refuse(first + i, `${name}, example ${j} ${problem}`)
        }
      }
      const examples = (batch as Batch).flatMap(examplesOf)
      if (!examples.some(({ weights }) => weights.some((weight) => weight > 0))) {
        return yield* refuse(first + i, `${name} has no target token: every weight in its batch is zero`)
      }
      // The graph looks at loss and gradient only: these would reach the parameters.
      if (!Optimizer.coefficients(optimizer, first + i).every((x) => Number.isFinite(Math.fround(x)))) {
        const rate = optimizer.learningRate(first + i)
        const { beta1, beta2, epsilon, weightDecay } = optimizer
        return yield* refuse(
          first + i,
          `${name}: AdamW cannot take a step with learningRate ${rate}, beta1 ${beta1}, beta2 ${beta2}, ` +
            `epsilon ${epsilon}, weightDecay ${weightDecay}; rates must be finite, and betas below 1`
        )
      }
    }
  })

  const update: Learner<F>["update"] = Effect.fn("OrtLearner.update")(
    function* (batches) {
      yield* check(batches)
      const records: Array<StepMetrics> = []
      for (let i = 0; i < batches.length; i += stepsPerRun) {
        const chunk = advance(batches.slice(i, i + stepsPerRun))
        // A failure does not take the records of the steps before it along.
        const withEarlier = ({ cause, completed = [], message, reason, step }: LearnerError) =>
          new LearnerError({
            reason,
            step,
            message,
            completed: [...records, ...completed],
            ...(cause === undefined ? {} : { cause })
          })
        const { reports, stopped } = yield* Effect.mapError(chunk, withEarlier)
        records.push(...reports)
        if (stopped) break
      }
      return records
    },
    (effect) => turn.withPermits(1)(effect)
  )

  const runtime = Effect.mapError(
    (cause: Device.OrtError) => new LearnerError({ reason: "runtime", step: -1, message: cause.message, cause })
  )

  const state: Learner<F>["state"] = turn
    .withPermits(1)(
      Effect.gen(function* () {
        const download = (handles: Iterable<readonly [string, Device.DeviceTensor]>) =>
          Effect.map(
            Effect.forEach(handles, ([name, handle]) =>
              Effect.map(device.download(handle), (tensor) => [name, tensor] as const)
            ),
            (pairs) => new Map(pairs as ReadonlyArray<readonly [string, Tensor.Tensor<"float32">]>)
          )
        const held = yield* Ref.get(moments)
        const parts: Record<string, ReadonlyMap<string, Tensor.Tensor<"float32">>> = {
          weights: yield* download(yield* model.parameters)
        }
        for (const prefix of momentPrefixes) {
          const own = [...held].filter(([name]) => name.startsWith(prefix))
          if (own.length > 0) {
            parts[prefix.slice(0, -1)] = yield* download(
              own.map(([name, handle]) => [name.slice(prefix.length), handle])
            )
          }
        }
        return { step: yield* Ref.get(stepsTaken), tensors: parts } satisfies LearnerState
      })
    )
    .pipe(runtime)

  const restore: Learner<F>["restore"] = Effect.fn("OrtLearner.restore")(
    function* (saved) {
      const shapeOf = new Map(step.parameters.map(({ name, shape }) => [name, shape]))
      const held = yield* Ref.get(moments)
      const find = (part: string, name: string) => {
        const tensor = saved.tensors[part]?.get(name)
        return tensor !== undefined && String(tensor.shape) === String(shapeOf.get(name))
          ? Effect.succeed(tensor)
          : Effect.fail(refuse(saved.step, `the state has no ${part} of shape [${shapeOf.get(name)}] for ${name}`))
      }
      // Everything is found, and on the device, before anything is replaced.
      const weights = yield* Effect.forEach(shapeOf.keys(), (name) =>
        Effect.map(find("weights", name), (t) => [name, t] as const)
      )
      const carried = yield* Effect.forEach(held.keys(), (key) => {
        const [part, name] = [key.slice(0, key.indexOf(":")), key.slice(key.indexOf(":") + 1)]
        return Effect.map(find(part, name), (tensor) => [key, tensor] as const)
      })
      const uploaded = new Map<string, Device.DeviceTensor>()
      const uploadAll = Effect.forEach([...weights, ...carried], ([name, tensor]) =>
        Effect.map(device.upload(tensor), (handle) => uploaded.set(name, handle))
      ).pipe(
        Effect.onError(() => device.release(uploaded.values())),
        runtime
      )
      const of = (pairs: ReadonlyArray<readonly [string, Tensor.Tensor]>) =>
        new Map(pairs.map(([name]) => [name, uploaded.get(name)!]))
      yield* Effect.uninterruptible(
        Effect.gen(function* () {
          yield* uploadAll
          yield* model.replaceParameters(of(weights))
          yield* replaceMoments(of(carried))
          yield* Ref.set(stepsTaken, saved.step)
        })
      )
    },
    (effect) => turn.withPermits(1)(effect)
  )

  return { model, fingerprint, stepsPerRun, update, state, restore }
})
