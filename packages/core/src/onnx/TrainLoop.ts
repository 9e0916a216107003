/**
 * Training as one graph: K optimizer steps in an ONNX `Loop`, parameters and moments carried from step to step, so that
 * nothing crosses into JavaScript in between.
 *
 * The same step also exists without the loop ({@link single}), for devices that keep its state in resident tensors.
 *
 * @since 0.1.0
 */
import { Result } from "effect"
import type { DType } from "../Tensor.ts"
import * as Gradient from "./Gradient.ts"
import type { Value } from "./Graph.ts"
import * as Graph from "./Graph.ts"
import * as Op from "./Op.ts"
import * as Optimizer from "./Optimizer.ts"
import * as Shape from "./Shape.ts"

/**
 * A trainable or frozen tensor of the model.
 *
 * @category models
 * @since 0.1.0
 */
export interface TrainParameter {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  readonly trainable: boolean
  readonly decays: boolean
}

/**
 * A tensor that every micro-batch brings. Symbolic dimensions are sizes of the micro-batch; in the loop each tensor is
 * fed padded to the largest of them and cut to its own size.
 *
 * @category models
 * @since 0.1.0
 */
export interface BatchInput {
  readonly name: string
  readonly dtype: DType
  readonly shape: Graph.Shape
}

/**
 * What one step computes.
 *
 * **Details**
 *
 * `sizes`: the symbolic dimensions of the batch inputs, in the order in which the loop is fed them. `forward` builds a
 * scalar loss and named scalar metrics; both are sums over a step's micro-batches, so means must be taken with weights
 * that add up to one over the whole step. Of the metrics in `maxima` the largest is taken instead. `stop`: the run ends
 * before the step whose metric is above the number. `ema`: decay of a moving average of the weights, none by default.
 * `numerics`: default `invariant`.
 *
 * @category models
 * @since 0.1.0
 */
export interface TrainStep {
  readonly name: string
  readonly parameters: ReadonlyArray<TrainParameter>
  readonly sizes: ReadonlyArray<string>
  readonly batch: ReadonlyArray<BatchInput>
  readonly metrics: ReadonlyArray<string>
  readonly maxima?: ReadonlyArray<string> | undefined
  readonly stop?: { readonly metric: string; readonly above: number } | undefined
  readonly forward: (
    g: Graph.Graph,
    weights: (name: string) => Value,
    batch: (name: string) => Value
  ) => { readonly loss: Value; readonly metrics: Readonly<Record<string, Value>> }
  readonly optimizer: Optimizer.AdamW
  readonly ema?: number | undefined
  readonly numerics?: Graph.Numerics | undefined
}

/**
 * Names of the metrics in the rows that a run returns: the loss, the gradient's norm before clipping, 1 where both were
 * finite, then the step's own.
 *
 * @category constants
 * @since 0.1.0
 */
export const metricNames = (step: TrainStep): ReadonlyArray<string> => ["loss", "grad_norm", "finite", ...step.metrics]

/**
 * Names of the state of a parameter, as graph inputs; the outputs carry {@link next} of them.
 *
 * @category constants
 * @since 0.1.0
 */
export const stateNames = (step: TrainStep): ReadonlyArray<string> =>
  step.parameters
    .filter((parameter) => parameter.trainable)
    .flatMap(({ name }) => [
      name,
      `first:${name}`,
      `second:${name}`,
      ...(step.ema === undefined ? [] : [`ema:${name}`])
    ])

/**
 * Name of the output that replaces the input `name`.
 *
 * @category constants
 * @since 0.1.0
 */
export const next = (name: string): string => `next:${name}`

const trainableOf = (step: TrainStep) => step.parameters.filter((parameter) => parameter.trainable)

interface Sums {
  readonly loss: Value
  readonly metrics: ReadonlyArray<Value>
  readonly gradients: ReadonlyArray<Value>
}

// Loss, metrics and gradients of one micro-batch, appended to `g`.
const microBatch = (
  g: Graph.Graph,
  step: TrainStep,
  weights: (name: string) => Value,
  batch: (name: string) => Value
): Result.Result<Sums, Gradient.MissingGradientRule> => {
  const { loss, metrics } = step.forward(g, weights, batch)
  const wanted = trainableOf(step).map(({ name }) => weights(name))
  return Result.map(Gradient.backward(g, loss, wanted), (gradients) => ({
    loss,
    metrics: step.metrics.map((name) => metrics[name]!),
    gradients: wanted.map((weight) => gradients.get(weight.name) ?? Op.ConstantOfShape(g, weight.shape))
  }))
}

// The row `index` of a tensor that was padded and stacked, cut back to its own size.
const rowOf = (
  g: Graph.Graph,
  input: BatchInput,
  stacked: Value,
  index: Value,
  sizeOf: (dim: string) => Value
): Value =>
  input.shape.reduce<Value>(
    (x, dim, axis) => (typeof dim === "string" ? Op.Slice(g, x, Graph.ints(g, [0]), sizeOf(dim), axis, dim) : x),
    Op.Gather(g, stacked, index)
  )

// The micro-batch number `index` of the stacked inputs of the graph around `g`.
const readBatch = (g: Graph.Graph, step: TrainStep, index: Value): ((name: string) => Value) => {
  const sizes = Op.Gather(g, Graph.value(g, "sizes"), index)
  const sizeOf = (dim: string) => {
    const i = step.sizes.indexOf(dim)
    return Op.Slice(g, sizes, Graph.ints(g, [i]), Graph.ints(g, [i + 1]), 0, 1)
  }
  const values = new Map(
    step.batch.map((input) => [input.name, rowOf(g, input, Graph.value(g, input.name), index, sizeOf)] as const)
  )
  return (name) => values.get(name)!
}

// Sums of a step's micro-batches, from a loop inside the step.
const accumulated = (
  g: Graph.Graph,
  step: TrainStep,
  weights: (name: string) => Value,
  { count, first }: { readonly first: Value; readonly count: Value }
): Result.Result<Sums, Gradient.MissingGradientRule> => {
  const body = Graph.make(`${g.name}.micro`, g)
  const iteration = Graph.input(body, `${body.name}/iteration`, "int64", [])
  const condition = Graph.input(body, `${body.name}/condition`, "bool", [])
  const sums = ["loss", ...step.metrics].map((name) => Graph.input(body, `${body.name}/sum:${name}`, "float32", []))
  const sofar = trainableOf(step).map(({ name, shape }) =>
    Graph.input(body, `${body.name}/sum:grad:${name}`, "float32", shape)
  )
  const own = microBatch(body, step, weights, readBatch(body, step, Op.Add(body, first, iteration)))
  if (Result.isFailure(own)) return Result.fail(own.failure)
  const { gradients, loss, metrics } = own.success
  Graph.output(body, `${body.name}/go`, Op.Identity(body, condition))
  const isMaximum = (i: number) => i > 0 && (step.maxima?.includes(step.metrics[i - 1]!) ?? false)
  for (const [i, value] of [loss, ...metrics].entries()) {
    const join = isMaximum(i) ? Op.Max : Op.Add
    Graph.output(body, `${body.name}/next:${i}`, join(body, sums[i]!, value))
  }
  for (const [i, gradient] of gradients.entries()) {
    Graph.output(body, `${body.name}/next:grad:${i}`, Op.Add(body, sofar[i]!, gradient))
  }
  const zero = Graph.scalar(g, 0)
  const lowest = Graph.scalar(g, -Infinity)
  const start = [
    ...sums.map((_, i) => (isMaximum(i) ? lowest : zero)),
    ...sofar.map(({ shape }) => Op.ConstantOfShape(g, shape))
  ]
  const totals = Op.Loop(g, count, start, Graph.prune(body))
  const scalars = 1 + step.metrics.length
  return Result.succeed({
    loss: totals[0]!,
    metrics: totals.slice(1, scalars),
    gradients: totals.slice(scalars)
  })
}

interface State {
  readonly slots: ReadonlyArray<Optimizer.Slot>
  readonly ema: ReadonlyArray<Value>
}

const flat = ({ ema, slots }: State): ReadonlyArray<Value> =>
  slots.flatMap(({ first, second, weight }, i) => [weight, first, second, ...(ema[i] === undefined ? [] : [ema[i]])])

// New state and the row of metrics. Nothing changes when the loss or the gradient is not finite, or the run is to stop.
const optimize = (
  g: Graph.Graph,
  step: TrainStep,
  state: State,
  { gradients, loss, metrics }: Sums,
  coefficients: Value
): { readonly state: ReadonlyArray<Value>; readonly row: Value; readonly taken: Value } => {
  const { optimizer } = step
  const norm = Optimizer.globalNorm(g, gradients)
  const sum = Op.Add(g, loss, norm)
  const finite = Op.Not(g, Op.Or(g, Op.IsNaN(g, sum), Op.IsInf(g, sum)))
  const watched = metrics[step.metrics.indexOf(step.stop?.metric ?? "")]
  const taken =
    watched === undefined
      ? finite
      : Op.And(g, finite, Op.Not(g, Op.Greater(g, watched, Graph.scalar(g, step.stop!.above))))
  const factor = optimizer.maxGradNorm === undefined ? null : Optimizer.clipFactor(g, norm, optimizer.maxGradNorm)
  const scalar = (i: number) => Op.Reshape(g, Op.Gather(g, coefficients, Graph.ints(g, [i])), [])
  const [keep, stepSize, epsilon] = [scalar(0), scalar(1), scalar(2)]

  const updated = Graph.make(`${g.name}.update`, g)
  const parameters = trainableOf(step)
  const nextSlots = state.slots.map((slot, i) => {
    const decays = optimizer.weightDecay !== 0 && parameters[i]!.decays
    const scalars = { keep: decays ? keep! : null, stepSize: stepSize!, epsilon: epsilon!, clip: factor }
    const gradient = gradients[i]!
    const { shape } = slot.weight
    return Shape.equals(shape, gradient.shape)
      ? Optimizer.update(updated, optimizer, slot, gradient, scalars)
      : Optimizer.updatePieces(updated, optimizer, slot, Op.Reshape(updated, gradient, shape), scalars)
  })
  const nextEma = state.ema.map((average, i) => {
    const decay = step.ema!
    return Op.Add(
      updated,
      Op.Mul(updated, average, Graph.scalar(updated, decay)),
      Op.Mul(updated, nextSlots[i]!.weight, Graph.scalar(updated, 1 - decay))
    )
  })
  const results = flat({ slots: nextSlots, ema: nextEma })
  // Under their own names: an output of another name is a copy where the graph reads the value too.
  for (const value of results) Graph.output(updated, value.name, value)

  const unchanged = Graph.make(`${g.name}.keep`, g)
  for (const [i, value] of flat(state).entries()) {
    Graph.output(unchanged, `${unchanged.name}/out:${i}`, Op.Identity(unchanged, value))
  }

  const row = Op.Concat(
    g,
    [loss, norm, Op.Cast(g, finite, "float32"), ...metrics].map((value) => Op.Reshape(g, value, [1])),
    0
  )
  return { state: Op.If(g, taken, Graph.prune(updated), unchanged, results), row, taken }
}

// Shape in which the state of a parameter of the given shape is carried.
type Carried = (shape: ReadonlyArray<number>) => ReadonlyArray<number>

const whole: Carried = (shape) => shape

const declareState = (g: Graph.Graph, step: TrainStep, prefix: string, carried: Carried): State => {
  const slots: Array<Optimizer.Slot> = []
  const ema: Array<Value> = []
  for (const { name, shape } of trainableOf(step)) {
    const declare = (key: string) => Graph.input(g, `${prefix}${key}`, "float32", carried(shape))
    slots.push({ weight: declare(name), first: declare(`first:${name}`), second: declare(`second:${name}`) })
    if (step.ema !== undefined) ema.push(declare(`ema:${name}`))
  }
  return { slots, ema }
}

const lookUp = (g: Graph.Graph, step: TrainStep, state: State, frozen: (name: string) => Value) => {
  const trained = new Map(
    trainableOf(step).map(({ name, shape }, i) => [name, Op.Reshape(g, state.slots[i]!.weight, shape)])
  )
  return (name: string): Value => trained.get(name) ?? frozen(name)
}

/**
 * K steps of one micro-batch each in one run.
 *
 * **Details**
 *
 * Inputs: `steps` (`int64`, how many), `sizes` `[S, sizes]` (`int64`), each batch input stacked as `[S, ...]`,
 * `coefficients` `[K, 3]` of the optimizer, and the state and frozen parameters by name, where `S = K`.
 * Outputs: {@link next} of each state tensor and `metrics` `[k, metricNames]`, where `k < K` when a step was not finite
 * or was where the run stops: that step's row is the last one, and the state is the one before it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const loop = (step: TrainStep): Result.Result<Graph.Graph, Gradient.MissingGradientRule> =>
  repeat(step, (body, weights, iteration) => microBatch(body, step, weights, readBatch(body, step, iteration)))

/**
 * K steps in one run, each of which sums the gradients of several micro-batches.
 *
 * **Details**
 *
 * As {@link loop}, with one input more: `parts` `[K, 2]` (`int64`) says of each step which of the `S` stacked
 * micro-batches is its first, and how many are its own.
 *
 * @category constructors
 * @since 0.1.0
 */
export const accumulating = (step: TrainStep): Result.Result<Graph.Graph, Gradient.MissingGradientRule> =>
  repeat(
    step,
    (body, weights, iteration) => {
      const own = Op.Gather(body, Graph.value(body, "parts"), iteration)
      const part = (i: number) => Op.Reshape(body, Op.Gather(body, own, Graph.ints(body, [i])), [])
      return accumulated(body, step, weights, { first: part(0), count: part(1) })
    },
    (top) => Graph.input(top, "parts", "int64", ["K", 2])
  )

// The loop over steps, around what computes the sums of one.
const repeat = (
  step: TrainStep,
  sumsOf: (
    body: Graph.Graph,
    weights: (name: string) => Value,
    iteration: Value
  ) => Result.Result<Sums, Gradient.MissingGradientRule>,
  declareInputs: (top: Graph.Graph) => void = () => undefined
): Result.Result<Graph.Graph, Gradient.MissingGradientRule> => {
  const top = Graph.make(step.name, undefined, { numerics: step.numerics ?? "invariant" })
  const trips = Graph.input(top, "steps", "int64", [])
  Graph.input(top, "sizes", "int64", ["S", step.sizes.length])
  for (const { dtype, name, shape } of step.batch) {
    Graph.input(top, name, dtype, ["S", ...shape.map((dim) => (typeof dim === "string" ? `max ${dim}` : dim))])
  }
  declareInputs(top)
  const coefficients = Graph.input(top, "coefficients", "float32", ["K", 3])
  const initial = declareState(top, step, "", whole)
  for (const { name, shape, trainable } of step.parameters) {
    if (!trainable) Graph.input(top, name, "float32", shape)
  }

  const body = Graph.make(`${step.name}.step`, top)
  const iteration = Graph.input(body, `${body.name}/iteration`, "int64", [])
  Graph.input(body, `${body.name}/condition`, "bool", [])
  const state = declareState(body, step, `${body.name}/`, Optimizer.pieces)
  const weights = lookUp(body, step, state, (name) => Graph.value(top, name))
  const sums = sumsOf(body, weights, iteration)
  if (Result.isFailure(sums)) return Result.fail(sums.failure)
  const {
    row,
    state: results,
    taken
  } = optimize(body, step, state, sums.success, Op.Gather(body, coefficients, iteration))
  Graph.output(body, `${body.name}/go`, Op.Identity(body, taken))
  for (const value of results) Graph.output(body, value.name, value)
  Graph.output(body, `${body.name}/metrics`, row)

  const carried = flat(state)
  const starts = flat(initial)
  const outputs = Op.Loop(
    top,
    trips,
    starts.map((x, i) => Op.Reshape(top, x, carried[i]!.shape)),
    Graph.prune(body),
    { scans: "k" }
  )
  for (const [i, name] of stateNames(step).entries()) {
    Graph.output(top, next(name), Op.Reshape(top, outputs[i]!, starts[i]!.shape))
  }
  Graph.output(top, "metrics", outputs.at(-1)!)
  return Result.succeed(Graph.prune(top))
}

/**
 * One step of one micro-batch in one run: inputs and outputs as {@link loop}, without the leading dimensions, `steps`
 * and `sizes`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const single = (step: TrainStep): Result.Result<Graph.Graph, Gradient.MissingGradientRule> => {
  const g = Graph.make(step.name, undefined, { numerics: step.numerics ?? "invariant" })
  for (const { dtype, name, shape } of step.batch) Graph.input(g, name, dtype, shape)
  const coefficients = Graph.input(g, "coefficients", "float32", [3])
  const state = declareState(g, step, "", whole)
  for (const { name, shape, trainable } of step.parameters) {
    if (!trainable) Graph.input(g, name, "float32", shape)
  }
  const weights = lookUp(g, step, state, (name) => Graph.value(g, name))
  const sums = microBatch(g, step, weights, (name) => Graph.value(g, name))
  if (Result.isFailure(sums)) return Result.fail(sums.failure)
  const { row, state: results } = optimize(g, step, state, sums.success, coefficients)
  for (const [i, name] of stateNames(step).entries()) Graph.output(g, next(name), results[i]!)
  Graph.output(g, "metrics", row)
  return Result.succeed(Graph.prune(g))
}
