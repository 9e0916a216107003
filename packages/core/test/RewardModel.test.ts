import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as Prompt from "../src/Prompt.ts"
import * as RewardModel from "../src/RewardModel.ts"
import * as Tokenizer from "../src/Tokenizer.ts"
import type * as UserFunction from "../src/UserFunction.ts"

const answers = ["a", "bbb", "cc"].map((text) => ({
  prompt: Prompt.make("q", [1]),
  completion: { text, tokens: Int32Array.of(text.length) }
}))
const brevity = (answer: RewardModel.Answer) => -answer.completion.text.length

it.effect("scores with plain, asynchronous and effectful functions, in order", () =>
  Effect.gen(function* () {
    const models = [
      RewardModel.fromFunction("plain", brevity),
      RewardModel.fromFunction("promise", async (answer) => brevity(answer), { concurrency: 3 }),
      RewardModel.fromFunction("effect", (answer) => Effect.sync(() => brevity(answer))),
      RewardModel.fromBatchFunction("batch", (answers) => answers.map(brevity)),
      RewardModel.fromBatchFunction("batch promise", async (answers) => Float64Array.from(answers, brevity))
    ]
    for (const model of models) {
      assert.deepStrictEqual(yield* model.score(answers), Float32Array.of(-1, -3, -2), model.name)
    }
  })
)

it.effect("asks about one answer at a time, or as many as it is told to", () =>
  Effect.gen(function* () {
    const most = (options?: { readonly concurrency: number }) =>
      Effect.gen(function* () {
        let [running, most] = [0, 0]
        const slow = Effect.gen(function* () {
          most = Math.max(most, ++running)
          yield* Effect.yieldNow
          running--
          return 0
        })
        yield* RewardModel.fromFunction("slow", () => slow, options).score(answers)
        return most
      })
    assert.strictEqual(yield* most(), 1)
    assert.strictEqual(yield* most({ concurrency: 2 }), 2)
  })
)

it.effect("is a service that a layer provides", () =>
  Effect.gen(function* () {
    const rewardModel = yield* RewardModel.RewardModel
    assert.deepStrictEqual(yield* rewardModel.score(answers), Float32Array.of(-1, -3, -2))
  }).pipe(Effect.provide(RewardModel.layerFunction("brevity", brevity)))
)

const constant = (name: string, ...scores: ReadonlyArray<number>) => RewardModel.fromBatchFunction(name, () => scores)
const failure = (model: RewardModel.RewardModelShape) => Effect.flip(model.score(answers))
const message = (model: RewardModel.RewardModelShape) => Effect.map(failure(model), (error) => error.message)

describe("a reward that fails", () => {
  it.effect("of one answer is named with it, what happened and what to do", () =>
    Effect.gen(function* () {
      const infinite = RewardModel.fromFunction("odd", ({ completion }) => 1 / (completion.text.length - 3))
      const error = yield* failure(infinite)
      assert.match(
        error.message,
        /^reward model odd: scored answer 1 of 3 as Infinity; a score must be a finite number/
      )
      assert.strictEqual(error.answer, 1)
      assert.strictEqual(error.attempts, undefined)
      const nan = RewardModel.fromFunction("odd", ({ completion }) => (completion.text === "cc" ? Number.NaN : 0))
      assert.match(yield* message(nan), /odd: scored answer 2 of 3 as NaN/)
      const huge = RewardModel.fromFunction("odd", () => 1e39)
      assert.match(yield* message(huge), /odd: scored answer 0 of 3 as 1e\+39, which single precision cannot hold/)
      const cause = new Error("no such word")
      const throwing = RewardModel.fromFunction("bad", ({ completion }) => {
        if (completion.text === "bbb") throw cause
        return 0
      })
      const thrown = yield* failure(throwing)
      assert.match(thrown.message, /^reward model bad: failed on answer 1 of 3: no such word; correct the function, or/)
      assert.strictEqual(thrown.answer, 1)
      assert.strictEqual(thrown.cause, cause)
    })
  )

  it.effect.each<readonly [string, () => UserFunction.Returned<number>]>([
    ["a promise", () => Promise.reject(new Error("stopped"))],
    ["an effect", () => Effect.fail("stopped")],
    ["an effect with an error of its own", () => Effect.fail({ _tag: "Stopped", why: "stopped" })],
    [
      "an effect that throws",
      () =>
        Effect.sync(() => {
          throw new Error("stopped")
        })
    ]
  ])("as %s is named too", ([, score]) =>
    Effect.map(message(RewardModel.fromFunction("late", score)), (message) =>
      assert.match(message, /^reward model late: failed on answer 0 of 3: .*stopped.*; correct the function/)
    )
  )

  it.effect("of all answers is named, with the answer where it is one's", () =>
    Effect.gen(function* () {
      assert.match(yield* message(constant("short", 1)), /short: returned 1 scores for 3 answers; return one score per/)
      assert.match(yield* message(constant("long", 1, 2, 3, 4)), /long: returned 4 scores for 3 answers/)
      const nan = yield* failure(constant("odd", 0, 0, Number.NaN))
      assert.match(nan.message, /odd: scored answer 2 of 3 as NaN/)
      assert.strictEqual(nan.answer, 2)
      const throwing = RewardModel.fromBatchFunction("bad", () => {
        throw new Error("no such word")
      })
      assert.match(yield* message(throwing), /bad: failed on 3 answers: no such word; correct/)
    })
  )

  it.effect.each<readonly [string, unknown, string]>([
    ["nothing", undefined, "undefined"],
    ["one number", 1, "1"],
    ["a text", "123", '"123"']
  ])("returning %s instead of scores is named", ([, returned, shown]) =>
    Effect.map(message(RewardModel.fromBatchFunction("odd", () => returned as Array<number>)), (message) =>
      assert.include(message, `odd: returned ${shown} for 3 answers; return an array of numbers`)
    )
  )

  it.effect.each<readonly [string, unknown, string]>([
    ["nothing", undefined, "undefined"],
    ["null", null, "null"],
    ["a text that looks like a number", "1", '"1"']
  ])("returning %s instead of a score is named", ([, returned, shown]) =>
    Effect.map(message(RewardModel.fromFunction("odd", () => returned as number)), (message) =>
      assert.include(message, `odd: scored answer 0 of 3 as ${shown};`)
    )
  )

  it.effect("is not asked about no answers", () =>
    Effect.gen(function* () {
      const never = RewardModel.fromBatchFunction("never", () => [1])
      assert.deepStrictEqual(yield* never.score([]), new Float32Array())
    })
  )
})

// Fails or hangs at first, in the way that `fault` says.
const flaky = (faults: number, fault: (signal: AbortSignal) => UserFunction.Returned<number>) => {
  const calls: Array<string> = []
  const score = ({ completion }: RewardModel.Answer, signal: AbortSignal) => {
    calls.push(completion.text)
    const own = calls.filter((text) => text === completion.text).length
    return own <= faults ? fault(signal) : -completion.text.length
  }
  return { calls, score }
}

const faults: ReadonlyArray<readonly [string, RegExp, () => UserFunction.Returned<number>]> = [
  [
    "an error",
    /failed on answer 0 of 3: busy;/,
    () => {
      throw new Error("busy")
    }
  ],
  ["a rejection", /failed on answer 0 of 3: busy;/, () => Promise.reject(new Error("busy"))],
  ["a score that is not finite", /scored answer 0 of 3 as NaN/, () => Number.NaN],
  ["a promise that stays open", /gave no score for answer 0 of 3 within 1m;/, () => new Promise<number>(() => {})],
  ["an effect that does not end", /gave no score for answer 0 of 3 within 1m;/, () => Effect.never]
]

describe("patience", () => {
  // Pauses of 1, 2 and 2 seconds.
  const patience = { timeout: "1 minute", retries: 3, pause: "1 second", longestPause: "2 seconds" } as const

  it.effect.each(faults)("outlasts %s, one answer at a time", ([, , fault]) =>
    Effect.gen(function* () {
      const { calls, score } = flaky(3, fault)
      const fiber = yield* Effect.forkChild(RewardModel.fromFunction("flaky", score, patience).score(answers))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.join(fiber), Float32Array.of(-1, -3, -2))
      assert.deepStrictEqual(calls, [..."aaaa"].concat(["bbb", "bbb", "bbb", "bbb", "cc", "cc", "cc", "cc"]))
    })
  )

  it.effect.each(faults)("ends, naming the attempts and %s", ([, expected, fault]) =>
    Effect.gen(function* () {
      const { calls, score } = flaky(4, fault)
      const fiber = yield* Effect.forkChild(failure(RewardModel.fromFunction("flaky", score, patience)))
      yield* TestClock.adjust("1 hour")
      const error = yield* Fiber.join(fiber)
      assert.match(error.message, /^reward model flaky: .* \(the last of 4 attempts\)$/)
      assert.match(error.message, expected)
      assert.strictEqual(error.answer, 0)
      assert.strictEqual(error.attempts, 4)
      if (error.message.includes("busy")) assert.instanceOf(error.cause, Error)
      assert.lengthOf(calls, 4)
    })
  )

  it.effect("waits longer before each attempt, up to a limit", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      const model = RewardModel.fromBatchFunction(
        "down",
        () => Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.fail(at.push(now))),
        patience
      )
      const fiber = yield* Effect.forkChild(failure(model))
      yield* TestClock.adjust("1 hour")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(at, [0, 1000, 3000, 5000])
    })
  )

  it.effect("is short unless told: no second attempt", () =>
    Effect.gen(function* () {
      const { calls, score } = flaky(1, () => Number.NaN)
      const error = yield* failure(RewardModel.fromFunction("flaky", score))
      assert.notInclude(error.message, "attempts")
      assert.deepStrictEqual(calls, ["a"])
    })
  )

  it.effect("aborts the signal of the attempt that it gives up, and of no other", () =>
    Effect.gen(function* () {
      const signals: Array<AbortSignal> = []
      const model = RewardModel.fromBatchFunction(
        "slow",
        (_, signal) => {
          signals.push(signal)
          return signals.length === 2 ? [1, 2, 3] : new Promise<Array<number>>(() => {})
        },
        patience
      )
      const fiber = yield* Effect.forkChild(model.score(answers))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.join(fiber), Float32Array.of(1, 2, 3))
      assert.deepStrictEqual(
        signals.map((signal) => signal.aborted),
        [true, false]
      )
    })
  )

  it.effect("does not try again what was interrupted, and aborts its signal", () =>
    Effect.gen(function* () {
      const { calls, score } = flaky(1, () => new Promise<number>(() => {}))
      let signal: AbortSignal | undefined
      const model = RewardModel.fromFunction(
        "flaky",
        (answer, own) => {
          signal = own
          return score(answer, own)
        },
        patience
      )
      const fiber = yield* Effect.forkChild(model.score(answers))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("1 hour")
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
      assert.deepStrictEqual(calls, ["a"])
      assert.isTrue(signal!.aborted)
    })
  )

  it.effect("leaves scores as they are, whatever the retries were", () =>
    Effect.gen(function* () {
      const { score } = flaky(2, () => Number.NaN)
      const model = RewardModel.fromFunction("flaky", score, { ...patience, pause: 0, concurrency: 3 })
      assert.deepStrictEqual(yield* model.score(answers), Float32Array.of(-1, -3, -2))
    })
  )

  it.effect("guards any model: late, wrong or failing", () =>
    Effect.gen(function* () {
      let calls = 0
      const outcomes = [Effect.never, Effect.succeed(Float32Array.of(1)), Effect.succeed(Float32Array.of(1, NaN, 1))]
      const own: RewardModel.RewardModelShape = {
        name: "own",
        score: () => outcomes[calls++] ?? Effect.succeed(Float32Array.of(4, 5, 6))
      }
      const scored = yield* Effect.forkChild(RewardModel.guarded(own, patience).score(answers))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.join(scored), Float32Array.of(4, 5, 6))
      calls = 0
      const late = yield* Effect.forkChild(failure(RewardModel.guarded(own, { timeout: "3 seconds" })))
      yield* TestClock.adjust("1 hour")
      assert.match((yield* Fiber.join(late)).message, /^reward model own: gave no score for 3 answers within 3s; raise/)
      assert.match(yield* message(RewardModel.guarded(own)), /own: returned 1 scores for 3 answers/)
      const nan = yield* failure(RewardModel.guarded(own, { retries: 0 }))
      assert.match(nan.message, /own: scored answer 1 of 3 as NaN/)
      assert.strictEqual(nan.answer, 1)
      const throwing: RewardModel.RewardModelShape = {
        name: "own",
        score: () => {
          throw new Error("no memory")
        }
      }
      assert.match(yield* message(RewardModel.guarded(throwing)), /^reward model own: failed on 3 answers: no memory;/)
    })
  )

  it.each([
    [{ retries: -1 }, /retries must be a whole number from 0, not -1/],
    [{ retries: 1.5 }, /retries/],
    [{ timeout: 0 }, /timeout must be above 0/],
    [{ pause: -1 }, /pause/],
    [{ concurrency: 0 }, /concurrency must be a whole number from 1, not 0/]
  ])("makes sense: %o does not", (options, expected) => {
    assert.throws(() => RewardModel.fromFunction("x", () => 0, options), expected)
  })
})

describe("an ensemble", () => {
  const models = [constant("m0", 1, 2, 3), constant("m1", 3, 0, 3)]

  it.effect("takes the mean or the smallest score of each answer", () =>
    Effect.gen(function* () {
      const mean = RewardModel.ensemble(models, "mean")
      assert.strictEqual(mean.name, "mean(m0, m1)")
      assert.deepStrictEqual(yield* mean.score(answers), Float32Array.of(2, 1, 3))
      assert.deepStrictEqual(yield* RewardModel.ensemble(models, "min").score(answers), Float32Array.of(1, 0, 3))
    })
  )

  it.effect("takes the mean less a share of the variance", () =>
    Effect.gen(function* () {
      const three = [...models, constant("m2", 5, 1, 3)]
      const cautious = RewardModel.ensemble(three, { varianceCoef: 0.75 })
      assert.strictEqual(cautious.name, "mean - 0.75 * variance(m0, m1, m2)")
      // 1, 3, 5: mean 3, variance (4 + 0 + 4) / 3; 2, 0, 1: mean 1, variance (1 + 1 + 0) / 3
      assert.deepStrictEqual(yield* cautious.score(answers), Float32Array.of(3 - 2, 1 - 0.5, 3))
      const trusting = RewardModel.ensemble(three, { varianceCoef: 0 })
      assert.deepStrictEqual(yield* trusting.score(answers), Float32Array.of(3, 1, 3))
    })
  )

  it.effect("says how far its models agree on each answer", () =>
    Effect.gen(function* () {
      const { mean, scores, standardDeviation } = yield* RewardModel.disagreement(models, answers)
      assert.deepStrictEqual(scores, [Float32Array.of(1, 2, 3), Float32Array.of(3, 0, 3)])
      assert.deepStrictEqual(mean, Float32Array.of(2, 1, 3))
      assert.deepStrictEqual(standardDeviation, Float32Array.of(1, 1, 0))
      const alone = yield* RewardModel.disagreement([models[0]!], answers)
      assert.deepStrictEqual(alone.standardDeviation, Float32Array.of(0, 0, 0))
      assert.deepStrictEqual((yield* RewardModel.disagreement(models, [])).mean, new Float32Array())
    })
  )

  it.effect("fails with the name of the model at fault", () =>
    Effect.gen(function* () {
      const odd: RewardModel.RewardModelShape = { name: "odd", score: () => Effect.succeed(Float32Array.of(1)) }
      assert.match(yield* message(RewardModel.ensemble([...models, odd], "mean")), /model odd: returned 1 scores for 3/)
      assert.match(
        (yield* Effect.flip(RewardModel.disagreement([odd], answers))).message,
        /model odd: returned 1 scores for 3/
      )
    })
  )

  it("needs a model and a coefficient that is a number from 0", () => {
    assert.throws(() => RewardModel.ensemble([], "mean"), RangeError)
    assert.throws(() => RewardModel.disagreement([], answers), RangeError)
    for (const varianceCoef of [-1, Number.NaN, Infinity]) {
      assert.throws(() => RewardModel.ensemble(models, { varianceCoef }), /varianceCoef must be/)
    }
  })
})

describe("a weighted sum", () => {
  const helpful = constant("helpful", 1, 2, 3)
  const length = constant("length", 10, 0, 20)

  it.effect("adds each reward times its weight, and shows the weights", () =>
    Effect.gen(function* () {
      const sum = RewardModel.weighted([
        { model: helpful, weight: 2 },
        { model: length, weight: -0.25 },
        { model: constant("other", 1, 1, 1), weight: 0.5 }
      ])
      assert.strictEqual(sum.name, "2 * helpful - 0.25 * length + 0.5 * other")
      assert.deepStrictEqual(yield* sum.score(answers), Float32Array.of(0, 4.5, 1.5))
      const outer = RewardModel.weighted([{ model: sum, weight: -1 }])
      assert.strictEqual(outer.name, "-1 * (2 * helpful - 0.25 * length + 0.5 * other)")
      assert.deepStrictEqual(yield* outer.score(answers), Float32Array.of(0, -4.5, -1.5))
    })
  )

  it.effect("fails with the name of the model at fault, and of the sum where that is too large", () =>
    Effect.gen(function* () {
      const bad = RewardModel.fromFunction("bad", () => Number.NaN)
      const parts = [helpful, bad].map((model) => ({ model, weight: 1 }))
      assert.match(yield* message(RewardModel.weighted(parts)), /^reward model bad: scored answer 0 of 3 as NaN/)
      const huge = RewardModel.weighted([{ model: helpful, weight: 3e38 }])
      assert.match(yield* message(huge), /^reward model 3e\+38 \* helpful: scored answer 1 of 3 as 6e\+38, which/)
    })
  )

  it("needs a model and finite weights", () => {
    assert.throws(() => RewardModel.weighted([]), RangeError)
    assert.throws(() => RewardModel.weighted([{ model: helpful, weight: NaN }]), /weight of helpful must be finite/)
  })
})

describe("the tokenizer of a model", () => {
  const [ten, alsoTen, twenty] = [Tokenizer.numeric(10), Tokenizer.numeric(10), Tokenizer.numeric(20)]
  const reader = (name: string, tokenizer?: Tokenizer.Tokenizer) =>
    RewardModel.fromFunction(name, () => 0, tokenizer === undefined ? {} : { tokenizer })

  it("says whose answers it can score", () => {
    assert.isTrue(RewardModel.reads(reader("texts"), ten))
    assert.isTrue(RewardModel.reads(reader("tokens", ten), ten))
    assert.isTrue(RewardModel.reads(reader("tokens", ten), alsoTen))
    assert.isFalse(RewardModel.reads(reader("tokens", ten), twenty))
    // As many tokens, spelt otherwise.
    const spelt = { ...ten, token: (id: number) => `<${id}>` }
    assert.isFalse(RewardModel.reads(reader("tokens", ten), spelt))
  })

  it("is that of the parts of an ensemble, a sum or a guarded model", () => {
    const parts = [reader("texts"), reader("tokens", ten), reader("others", alsoTen)]
    assert.strictEqual(RewardModel.ensemble(parts, "mean").tokenizer, ten)
    assert.strictEqual(RewardModel.weighted(parts.map((model) => ({ model, weight: 1 }))).tokenizer, ten)
    assert.strictEqual(RewardModel.guarded(parts[1]!).tokenizer, ten)
    assert.strictEqual(RewardModel.fromBatchFunction("batch", () => [], { tokenizer: ten }).tokenizer, ten)
    assert.isFalse("tokenizer" in RewardModel.ensemble([reader("texts")], "min"))
  })

  it("is one: models of two tokenizers do not combine", () => {
    const parts = [reader("texts"), reader("tokens", ten), reader("others", twenty)]
    assert.throws(() => RewardModel.ensemble(parts, "min"), /tokens and others read tokens of different tokenizers/)
    assert.throws(() => RewardModel.weighted(parts.map((model) => ({ model, weight: 1 }))), /different tokenizers/)
  })
})
