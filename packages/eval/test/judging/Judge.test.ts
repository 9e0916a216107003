import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Judge from "../../src/judging/Judge.ts"

const comparison = (id: string, first: string, second: string): Judge.Comparison => ({ id, prompt: "p", first, second })
const question = (id: string, completion: string): Judge.Question => ({
  id,
  prompt: "p",
  completion,
  question: "Long?"
})
const comparisons = [comparison("a", "long", "no"), comparison("b", "x", "yyy"), comparison("c", "same", "size")]

const message = <A, R>(effect: Effect.Effect<A, Judge.JudgeError, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)
// What a user's function returns where types are not checked.
const anything = <A>(value: unknown): A => value as A

describe("a judge made of a function", () => {
  it.effect("answers in the order of the comparisons, whatever form the function has", () =>
    Effect.gen(function* () {
      const prefer = ({ first, second }: Judge.Comparison): Judge.Preference =>
        first.length === second.length ? "tie" : first.length > second.length ? "first" : "second"
      for (const compare of [
        prefer,
        async (asked: Judge.Comparison) => prefer(asked),
        (asked: Judge.Comparison) => Effect.succeed(prefer(asked))
      ]) {
        const judge = Judge.fromFunction("length", compare, { concurrency: 2 })
        assert.deepStrictEqual(yield* judge.compare(comparisons), ["first", "second", "tie"])
      }
    })
  )

  it.effect("is held to its answers", () =>
    Effect.gen(function* () {
      for (const [answer, spelled] of [
        ["First", '"First"'],
        [undefined, "undefined"],
        [1, "1"],
        ["x".repeat(500), `"${"x".repeat(79)}…`]
      ] as const) {
        const judge = Judge.fromFunction("odd", ({ id }) => (id === "b" ? anything(answer) : "tie"))
        assert.strictEqual(
          yield* message(judge.compare(comparisons)),
          `judge odd, item "b": answered ${spelled}; expected "first", "second" or "tie"`
        )
      }
    })
  )

  it.effect("says at which item the function failed, and keeps the cause", () =>
    Effect.gen(function* () {
      const cause = new Error("out of words")
      const judge = Judge.fromFunction("moody", ({ id }) => {
        if (id === "c") throw cause
        return "tie"
      })
      const error = yield* Effect.flip(judge.compare(comparisons))
      assert.strictEqual(error.message, 'judge moody, item "c": out of words')
      assert.strictEqual(error.cause, cause)
    })
  )

  it.effect("is a layer", () =>
    Effect.gen(function* () {
      const judge = yield* Judge.Judge
      assert.deepStrictEqual(yield* judge.compare(comparisons), ["second", "second", "second"])
    }).pipe(Effect.provide(Judge.layerFunction("contrary", () => "second")))
  )
})

describe("a judge by scores", () => {
  it.effect("prefers the higher score; within the margin it is a tie", () =>
    Effect.gen(function* () {
      const score = ({ completion }: Judge.Answer) => completion.length
      const strict = Judge.fromScore("length", score)
      assert.deepStrictEqual(yield* strict.compare(comparisons), ["first", "second", "tie"])
      const lenient = Judge.fromScore("length", async (answer) => score(answer), { margin: 2 })
      assert.deepStrictEqual(yield* lenient.compare(comparisons), ["tie", "tie", "tie"])
      const between = Judge.fromScore("length", score, { margin: 1.5 })
      assert.deepStrictEqual(yield* between.compare(comparisons), ["first", "second", "tie"])
    })
  )

  it.effect("ties equal texts, whatever their scores", () =>
    Effect.gen(function* () {
      let scored = 0
      const judge = Judge.fromScore("noise", () => scored++)
      assert.deepStrictEqual(yield* judge.compare([comparison("a", "x", "x"), comparison("b", "x", "y")]), [
        "tie",
        "second"
      ])
    })
  )

  it.effect("names the item whose score is not a finite number", () =>
    Effect.gen(function* () {
      for (const [score, spelled] of [
        [Number.NaN, "NaN"],
        [Number.POSITIVE_INFINITY, "Infinity"],
        ["7", '"7"']
      ] as const) {
        const judge = Judge.fromScore("broken", ({ completion }) => (completion === "yyy" ? anything(score) : 0))
        assert.strictEqual(
          yield* message(judge.compare(comparisons)),
          `judge broken, item "b": scored ${spelled}; a score must be a finite number`
        )
      }
    })
  )

  it("needs a margin that is one", () => {
    for (const margin of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.throws(() => Judge.fromScore("x", () => 0, { margin }), RangeError, `got ${margin}`)
    }
  })

  it.effect("is a layer", () =>
    Effect.gen(function* () {
      const judge = yield* Judge.Judge
      assert.deepStrictEqual(yield* judge.compare(comparisons), ["second", "first", "tie"])
    }).pipe(Effect.provide(Judge.layerScore("brevity", ({ completion }) => -completion.length)))
  )
})

describe("a grader made of a function", () => {
  const questions = [question("a", "long"), question("b", "x")]

  it.effect("takes probabilities and booleans", () =>
    Effect.gen(function* () {
      const graded = Judge.graderFromFunction("length", ({ completion }) => completion.length / 8)
      assert.deepStrictEqual(yield* graded.grade(questions), [0.5, 0.125])
      const certain = Judge.graderFromFunction("length", async ({ completion }) => completion.length > 1)
      assert.deepStrictEqual(yield* certain.grade(questions), [1, 0])
    })
  )

  it.effect("is held to probabilities", () =>
    Effect.gen(function* () {
      for (const answer of [-0.01, 1.01, Number.NaN, "Yes", null]) {
        const grader = Judge.graderFromFunction("odd", ({ id }) => (id === "b" ? anything(answer) : 1))
        assert.match(
          yield* message(grader.grade(questions)),
          /^judge odd, item "b": answered .*; expected a probability/
        )
      }
    })
  )

  it.effect("is a layer", () =>
    Effect.gen(function* () {
      const grader = yield* Judge.Grader
      assert.deepStrictEqual(yield* grader.grade(questions), [1, 1])
    }).pipe(Effect.provide(Judge.layerGraderFunction("kind", () => true)))
  )
})

describe("answers that are checked", () => {
  it.effect("are those of judges and graders whom another made", () =>
    Effect.gen(function* () {
      const judge: Judge.JudgeShape = { name: "odd", compare: () => Effect.succeed(anything(["tie", "A", "tie"])) }
      assert.match(yield* message(Judge.ask(judge, comparisons)), /^judge odd, item "b": answered "A"/)
      const grader: Judge.GraderShape = { name: "odd", grade: () => Effect.succeed([1, Number.NaN]) }
      const questions = [question("a", "long"), question("b", "x")]
      assert.match(yield* message(Judge.grade(grader, questions)), /^judge odd, item "b": answered NaN/)
      const silent: Judge.JudgeShape = { name: "silent", compare: () => Effect.succeed(anything(undefined)) }
      assert.strictEqual(
        yield* message(Judge.ask(silent, comparisons)),
        "judge silent: gave undefined instead of a list of answers"
      )
      const kind: Judge.GraderShape = { name: "kind", grade: () => Effect.succeed(anything([true, 0.5])) }
      assert.deepStrictEqual(yield* Judge.grade(kind, questions), [1, 0.5])
    })
  )

  it.effect("are as many as the questions; the first that lacks one is named", () =>
    Effect.gen(function* () {
      const questions = [question("a", "long"), question("b", "x")]
      assert.strictEqual(
        yield* message(Effect.fromResult(Judge.checkedProbabilities("short", questions, [1]))),
        'judge short, item "b": gave 1 answers to 2 questions'
      )
      assert.strictEqual(
        yield* message(Effect.fromResult(Judge.checkedPreferences("long", comparisons, ["tie", "tie", "tie", "tie"]))),
        "judge long: gave 4 answers to 3 questions"
      )
      assert.strictEqual(
        yield* message(Effect.fromResult(Judge.byScore("odd", comparisons, new Float32Array(3)))),
        'judge odd, item "b": gave 3 answers to 6 questions'
      )
    })
  )
})
