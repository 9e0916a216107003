import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Op from "../../src/onnx/Op.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as TrainLoop from "../../src/onnx/TrainLoop.ts"
import * as Tensor from "../../src/Tensor.ts"
import golden from "./optim.golden.json" with { type: "json" }
import * as Run from "./run.ts"

type Record_ = (typeof golden.adamw)[number]
type Name = "weight" | "table" | "bias"
const names: ReadonlyArray<Name> = ["weight", "table", "bias"]

/** A loss whose gradient is what is fed: `Σ parameter ∘ gradient`. */
const stepOf = (record: Record_): TrainLoop.TrainStep => {
  const [beta1, beta2] = record.betas as [number, number]
  return {
    name: "golden",
    parameters: names.map((name) => ({
      name,
      shape: record.parameters[name].shape,
      trainable: true,
      decays: record.weight_decay[name] !== 0
    })),
    sizes: [],
    batch: names.map((name) => ({
      name: `gradient:${name}`,
      dtype: "float32" as const,
      shape: record.parameters[name].shape
    })),
    metrics: ["twice"],
    ema: record.ema_decay ?? undefined,
    optimizer: Optimizer.adamW({
      learningRate: (step) => record.learning_rate[step]!,
      beta1,
      beta2,
      epsilon: record.eps,
      weightDecay: Math.max(...Object.values(record.weight_decay)),
      maxGradNorm: record.max_norm ?? undefined
    }),
    forward: (g, weights, batch) => {
      const loss = names
        .map((name) => Op.sumAll(g, Op.Mul(g, weights(name), batch(`gradient:${name}`))))
        .reduce((a, b) => Op.Add(g, a, b))
      return { loss, metrics: { twice: Op.Add(g, loss, loss) } }
    }
  }
}

const initialState = (step: TrainLoop.TrainStep, record: Record_): Record<string, Tensor.Tensor> =>
  Object.fromEntries(
    TrainLoop.stateNames(step).map((key) => {
      const name = key.slice(key.indexOf(":") + 1) as Name
      const { data, shape } = record.parameters[name]
      const isMoment = key.startsWith("first:") || key.startsWith("second:")
      return [key, isMoment ? Tensor.zeros(shape) : Tensor.float32(data, shape)]
    })
  )

/** Gradients of steps `from .. to`, each divided over `accumulate` micro-batches, stacked. */
const batches = (record: Record_, from: number, to: number, accumulate: number): Record<string, Tensor.Tensor> =>
  Object.fromEntries(
    names.map((name) => {
      const rows = record.steps
        .slice(from, to)
        .flatMap(({ gradients }) => Array.from({ length: accumulate }, () => gradients[name].data))
      const shape = [rows.length, ...record.parameters[name].shape]
      return [
        `gradient:${name}`,
        Tensor.float32(
          rows.flat().map((value) => value / accumulate),
          shape
        )
      ]
    })
  )

const coefficients = (step: TrainLoop.TrainStep, from: number, to: number): ReadonlyArray<number> =>
  Array.from({ length: to - from }, (_, i) => [...Optimizer.coefficients(step.optimizer, from + i)]).flat()

const after = (step: TrainLoop.TrainStep, outputs: Run.Tensors): Record<string, Tensor.Tensor> =>
  Object.fromEntries(TrainLoop.stateNames(step).map((name) => [name, outputs[TrainLoop.next(name)]!]))

const runLoop = Effect.fnUntraced(function* (
  runner: Run.Runner,
  step: TrainLoop.TrainStep,
  state: Run.Tensors,
  given: Run.Tensors,
  from: number,
  to: number,
  accumulate = 1
) {
  const parts = Array.from({ length: to - from }, (_, i) => [i * accumulate, accumulate]).flat()
  const outputs = yield* runner.run({
    ...state,
    ...given,
    ...(accumulate === 1 ? {} : { parts: Tensor.int64(parts, [to - from, 2]) }),
    steps: Tensor.int64([to - from], []),
    sizes: Tensor.int64([], [(to - from) * accumulate, 0]),
    coefficients: Tensor.float32(coefficients(step, from, to), [to - from, 3])
  })
  return { state: after(step, outputs), metrics: Run.numbers(outputs["metrics"]), rows: outputs["metrics"]!.shape[0]! }
})

const open = (graph: ReturnType<typeof TrainLoop.loop>) => Run.open(Result.getOrThrow(graph))

const isGolden = (record: Record_, state: Run.Tensors, step: number) => {
  const { ema, parameters } = record.steps[step]!
  for (const name of names) {
    const tolerance = { absolute: 1e-6, relative: 2e-6 }
    Run.close(Run.numbers(state[name]), parameters[name].data, `${name} after step ${step}`, tolerance)
    if (ema === null) continue
    Run.close(Run.numbers(state[`ema:${name}`]), ema[name].data, `ema of ${name} after step ${step}`, tolerance)
  }
}

describe("ten steps as PyTorch takes them", () => {
  for (const record of golden.adamw) {
    for (const accumulate of [1, 2]) {
      it.effect(`${record.name}, in one run, ${accumulate} micro-batches`, () =>
        Effect.scoped(
          Effect.gen(function* () {
            const step = stepOf(record)
            const runner = yield* open(accumulate === 1 ? TrainLoop.loop(step) : TrainLoop.accumulating(step))
            const start = initialState(step, record)
            const given = batches(record, 0, 10, accumulate)
            const { metrics, state } = yield* runLoop(runner, step, start, given, 0, 10, accumulate)
            isGolden(record, state, 9)
            assert.deepStrictEqual(TrainLoop.metricNames(step), ["loss", "grad_norm", "finite", "twice"])
            record.steps.forEach(({ grad_norm }, i) => {
              const [loss, norm, finite, twice] = metrics.slice(i * 4, i * 4 + 4) as [number, number, number, number]
              assert.closeTo(norm / grad_norm, 1, 1e-6)
              assert.strictEqual(finite, 1)
              assert.strictEqual(twice, loss * 2)
            })
          })
        )
      )
    }

    it.effect(`${record.name}, a run for each step`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const step = stepOf(record)
          const { run } = yield* open(TrainLoop.single(step))
          let state: Run.Tensors = initialState(step, record)
          for (let i = 0; i < 10; i++) {
            const given = Object.entries(batches(record, i, i + 1, 1)).map(
              ([name, tensor]) => [name, { ...tensor, shape: tensor.shape.slice(1) }] as const
            )
            const outputs = yield* run({
              ...state,
              ...Object.fromEntries(given),
              coefficients: Tensor.float32(coefficients(step, i, i + 1))
            })
            state = after(step, outputs)
            isGolden(record, state, i)
          }
        })
      )
    )
  }
})

const averaged = golden.adamw.find(({ ema_decay }) => ema_decay !== null)!

it.effect("cut into runs of any number of steps, gives the same bits", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const step = stepOf(averaged)
      const runner = yield* open(TrainLoop.loop(step))
      const train = Effect.fnUntraced(function* (size: number) {
        let state: Run.Tensors = initialState(step, averaged)
        for (let from = 0; from < 10; from += size) {
          const to = Math.min(10, from + size)
          state = (yield* runLoop(runner, step, state, batches(averaged, from, to, 1), from, to)).state
        }
        return state
      })
      const whole = yield* train(10)
      for (const size of [1, 3, 4]) assert.deepStrictEqual(yield* train(size), whole)
    })
  )
)

it.effect("takes the same steps with a parameter that it carries in pieces as a run for each step", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const shape = [768, 1024]
      const step: TrainLoop.TrainStep = {
        name: "large",
        parameters: [{ name: "weight", shape, trainable: true, decays: true }],
        sizes: [],
        batch: [{ name: "target", dtype: "float32", shape: [1024] }],
        metrics: [],
        ema: 0.9,
        optimizer: Optimizer.adamW({ learningRate: 0.05, weightDecay: 0.1, maxGradNorm: 1 }),
        forward: (g, weights, batch) => {
          const error = Op.Sub(g, weights("weight"), batch("target"))
          return { loss: Op.sumAll(g, Op.Mul(g, error, error)), metrics: {} }
        }
      }
      const random = Run.seeded(5)
      const numbers = (length: number) => Array.from({ length }, () => random.uniform(-1, 1))
      const weight = Tensor.float32(numbers(768 * 1024), shape)
      const start: Run.Tensors = {
        weight,
        "ema:weight": weight,
        "first:weight": Tensor.zeros(shape),
        "second:weight": Tensor.zeros(shape)
      }
      const targets = numbers(3 * 1024)
      const given = { target: Tensor.float32(targets, [3, 1024]) }
      const together = yield* runLoop(yield* open(TrainLoop.loop(step)), step, start, given, 0, 3)

      const { run } = yield* open(TrainLoop.single(step))
      let state = start
      for (let i = 0; i < 3; i++) {
        const target = Tensor.float32(targets.slice(i * 1024, (i + 1) * 1024))
        const outputs = yield* run({ ...state, target, coefficients: Tensor.float32(coefficients(step, i, i + 1)) })
        state = after(step, outputs)
      }
      for (const name of TrainLoop.stateNames(step)) {
        assert.deepStrictEqual(together.state[name]!.shape, shape)
        assert.deepStrictEqual(together.state[name]!.data, state[name]!.data, name)
      }
    })
  )
)

describe("a step that is not finite", () => {
  const poison = (given: Record<string, Tensor.Tensor>, step: number, value: number) => {
    const data = Float32Array.from(given["gradient:table"]!.data as Float32Array)
    data[step * 10] = value
    return { ...given, "gradient:table": Tensor.float32(data, given["gradient:table"]!.shape) }
  }

  for (const value of [Number.NaN, Infinity, -Infinity, 1e30]) {
    it.effect(`ends the run before anything changes: ${value}`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const step = stepOf(averaged)
          const runner = yield* open(TrainLoop.loop(step))
          const start = initialState(step, averaged)
          const before = yield* runLoop(runner, step, start, batches(averaged, 0, 3, 1), 0, 3)
          const given = poison(batches(averaged, 0, 6, 1), 3, value)
          const { metrics, rows, state } = yield* runLoop(runner, step, start, given, 0, 6)
          assert.strictEqual(rows, 4)
          assert.deepStrictEqual(
            [2, 6, 10, 14].map((i) => metrics[i]),
            [1, 1, 1, 0]
          )
          assert.deepStrictEqual(state, before.state)
        })
      )
    )
  }
})

// The golden step with a metric that is fed: each micro-batch brings its own number.
const watched = (settings: Partial<Pick<TrainLoop.TrainStep, "stop" | "maxima">>): TrainLoop.TrainStep => {
  const base = stepOf(averaged)
  return {
    ...base,
    ...settings,
    batch: [...base.batch, { name: "watched", dtype: "float32", shape: [] }],
    metrics: ["twice", "watched", "lowest"],
    forward: (g, weights, batch) => {
      const { loss, metrics } = base.forward(g, weights, batch)
      const fed = batch("watched")
      return { loss, metrics: { ...metrics, watched: fed, lowest: Op.Neg(g, fed) } }
    }
  }
}

const columnsOf = (metrics: ReadonlyArray<number>, column: number) => metrics.filter((_, i) => i % 6 === column)

describe("a metric that the run stops at", () => {
  const limit = { metric: "watched", above: 0.1 }
  // Exactly at the limit, as float32 has it, at the limit of what is below, and above.
  const fed = [0.05, 0.1, -3, 0.1, 0.11, 0.02]

  for (const accumulate of [1, 2]) {
    it.effect(`is not passed: the state is that before the step, in ${accumulate} micro-batches`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const step = watched({ stop: limit })
          const runner = yield* open(accumulate === 1 ? TrainLoop.loop(step) : TrainLoop.accumulating(step))
          const start = initialState(step, averaged)
          const run = (numbers: ReadonlyArray<number>) => {
            const given = {
              ...batches(averaged, 0, numbers.length, accumulate),
              watched: Tensor.float32(numbers.flatMap((x) => Array.from({ length: accumulate }, () => x / accumulate)))
            }
            return runLoop(runner, step, start, given, 0, numbers.length, accumulate)
          }
          const stopped = yield* run(fed)
          assert.strictEqual(stopped.rows, 5)
          assert.deepStrictEqual(columnsOf(stopped.metrics, 4), [0.05, 0.1, -3, 0.1, 0.11].map(Math.fround))
          assert.deepStrictEqual(columnsOf(stopped.metrics, 2), [1, 1, 1, 1, 1])
          const four = yield* run(fed.slice(0, 4))
          assert.strictEqual(four.rows, 4)
          assert.deepStrictEqual(stopped.state, four.state)
          isGolden(averaged, stopped.state, 3)
          // At the first step nothing changes at all.
          const none = yield* run([0.2, 0, 0])
          assert.strictEqual(none.rows, 1)
          assert.deepStrictEqual(none.state, start)
        })
      )
    )
  }

  it.effect("is not passed by a run of one step", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const step = watched({ stop: limit })
        const { run } = yield* open(TrainLoop.single(step))
        const start = initialState(step, averaged)
        const given = Object.entries(batches(averaged, 0, 1, 1)).map(
          ([name, tensor]) => [name, { ...tensor, shape: tensor.shape.slice(1) }] as const
        )
        const feeds = {
          ...start,
          ...Object.fromEntries(given),
          coefficients: Tensor.float32(coefficients(step, 0, 1))
        }
        isGolden(averaged, after(step, yield* run({ ...feeds, watched: Tensor.scalar(0.1) })), 0)
        const stopped = after(step, yield* run({ ...feeds, watched: Tensor.scalar(0.11) }))
        assert.deepStrictEqual(stopped, start)
      })
    )
  )

  it.effect("may be a maximum: one micro-batch above the limit is enough", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const step = watched({ stop: limit, maxima: ["watched"] })
        const runner = yield* open(TrainLoop.accumulating(step))
        const start = initialState(step, averaged)
        const run = (numbers: ReadonlyArray<number>) =>
          runLoop(runner, step, start, { ...batches(averaged, 0, 2, 2), watched: Tensor.float32(numbers) }, 0, 2, 2)
        assert.strictEqual((yield* run([0.1, 0.1, -5, 0.11])).rows, 2)
        const { rows, state } = yield* run([-5, 0.11, 0, 0])
        assert.strictEqual(rows, 1)
        assert.deepStrictEqual(state, start)
      })
    )
  )
})

it.effect("reports the largest of a step's micro-batches where a metric is a maximum, else their sum", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const step = watched({ maxima: ["lowest"] })
      const runner = yield* open(TrainLoop.accumulating(step))
      const given = {
        ...batches(averaged, 0, 2, 3),
        watched: Tensor.float32([4, 2, 8, -1, 0.5, -2])
      }
      const { metrics } = yield* runLoop(runner, step, initialState(step, averaged), given, 0, 2, 3)
      assert.deepStrictEqual(columnsOf(metrics, 4), [14, -2.5])
      // Of -4, -2, -8 and of 1, -0.5, 2: below 0 too.
      assert.deepStrictEqual(columnsOf(metrics, 5), [-2, 2])
    })
  )
)

describe("refuses a loss that control flow hides", () => {
  const base = stepOf(averaged)

  it("behind an If", () => {
    const step: TrainLoop.TrainStep = {
      ...base,
      forward: (g, weights, batch) => {
        const { loss, metrics } = base.forward(g, weights, batch)
        const branch = (name: string) => {
          const body = Graph.make(name, g)
          Graph.output(body, `${name}.out`, Op.Neg(body, loss))
          return body
        }
        const positive = Op.Greater(g, loss, Graph.scalar(g, 0))
        const [chosen] = Op.If(g, positive, branch("then"), branch("else"), [{ dtype: "float32", shape: [] }])
        return { loss: chosen!, metrics }
      }
    }
    for (const graph of [TrainLoop.loop(step), TrainLoop.single(step)]) {
      assert.strictEqual(Result.getOrThrow(Result.flip(graph)).op, "If")
    }
  })

  it("behind a Loop", () => {
    const step: TrainLoop.TrainStep = {
      ...base,
      forward: (g, weights, batch) => {
        const { loss, metrics } = base.forward(g, weights, batch)
        const body = Graph.make("double", g)
        Graph.input(body, "double.iteration", "int64", [])
        const condition = Graph.input(body, "double.condition", "bool", [])
        const value = Graph.input(body, "double.value", "float32", [])
        Graph.output(body, "double.go", Op.Identity(body, condition))
        Graph.output(body, "double.next", Op.Add(body, value, value))
        return { loss: Op.Loop(g, Graph.int(g, 3), [loss], body)[0]!, metrics }
      }
    }
    for (const graph of [TrainLoop.loop(step), TrainLoop.accumulating(step)]) {
      assert.strictEqual(Result.getOrThrow(Result.flip(graph)).op, "Loop")
    }
  })
})
