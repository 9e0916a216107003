import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { FeedbackSource, type Prompt } from "@attune/core"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as FineTuning from "../src/FineTuning.ts"
import * as Ilf from "../src/Ilf.ts"
import * as Selection from "../src/Selection.ts"
import * as scripted from "./scriptedPolicy.ts"
import { layer, learnerOf, numbers } from "./tinyLearner.ts"

const root = mkdtempSync(join(tmpdir(), "attune-ilf-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let directories = 0
const fresh = () => join(root, String(directories++))

const rounds = [
  ["1", "2", "3"],
  ["4", "5"]
]

// Drafts say the prompt and a 9; refinements name the prompt and one of two numbers, by their seed.
const drafter = () => scripted.make((prompt) => `${prompt} 9`)
const refiner = () => scripted.make((prompt, seed) => `${/Text: (\d+)/.exec(prompt)![1]} ${seed % 2 === 0 ? 7 : 8}`)

// Fails at the `failing`-th draft that it is asked about.
const critic = (failing = Infinity) => {
  const asked: Array<string> = []
  const source = FeedbackSource.fromLabeller("critic", {
    critique: ({ completion }) => {
      if (asked.length === failing) throw new Error("gone home")
      asked.push(completion)
      return "No 9."
    }
  })
  return { asked, source }
}

const sevens = Selection.fromFunction("sevens", (_critique, refinement) => (refinement.endsWith("7") ? 1 : 0))

const run = Effect.fnUntraced(function* (
  options: Partial<Ilf.Options> = {},
  { source = critic().source, selector = sevens } = {}
) {
  const roles = { draft: drafter(), refine: refiner(), learner: yield* learnerOf(0.05) }
  const trained = Ilf.train(roles, { prompts: rounds, epochs: 2, batchSize: 2, seed: 3, ...options }).pipe(
    Effect.provide(
      Layer.merge(Layer.succeed(FeedbackSource.FeedbackSource, source), Layer.succeed(Selection.Selector, selector))
    )
  )
  const state = Effect.map(roles.learner.state, ({ tensors }) =>
    [...tensors["weights"]!].map(([name, { data }]) => [name, Array.from(data as Float32Array)])
  )
  return { ...roles, trained, weights: state }
})

const lines = (directory: string) =>
  readFileSync(join(directory, "feedback.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>)

const test = <E>(effect: Effect.Effect<void, E, Layer.Success<typeof layer> | import("effect").Scope.Scope>) =>
  effect.pipe(Effect.scoped, Effect.provide(layer))

describe("a run", () => {
  it.effect("drafts, is told, refines, selects and learns, round after round, and keeps who said what", () =>
    test(
      Effect.gen(function* () {
        const directory = fresh()
        const { asked, source } = critic()
        const { draft, learner, trained } = yield* run({ directory, epochs: 30 }, { source })
        const reports = yield* trained
        assert.deepStrictEqual(asked, ["1 9", "2 9", "3 9", "4 9", "5 9"])
        assert.deepStrictEqual(
          reports.map(({ questions, summary }) => [questions.length, summary.chosen]),
          [
            [3, 3],
            [2, 2]
          ]
        )
        for (const { questions, selected } of reports) {
          for (const [i, { refinements }] of questions.entries()) {
            assert.lengthOf(refinements, 5)
            assert.strictEqual(
              selected[i]!.index,
              Math.max(
                0,
                refinements.findIndex((text) => text.endsWith("7"))
              )
            )
          }
        }
        const [row] = yield* learner.model.logprobs([{ prompt: [4], completion: numbers.encode("4") }])
        assert.isAbove(Math.exp(row![0]!), 0.5)
        const kept = lines(directory)
        const kinds = (kind: string) => kept.filter((line) => line["kind"] === kind)
        for (const kind of ["draft", "critique", "refinements", "scores"]) assert.lengthOf(kinds(kind), 5)
        assert.deepStrictEqual(
          kinds("critique").map(({ by, critique, item, round }) => [round, item, by, critique]),
          [0, 1, 2].map((item) => [0, item, "critic", "No 9."]).concat([0, 1].map((i) => [1, i, "critic", "No 9."]))
        )
        assert.deepInclude(kinds("draft")[3], { round: 1, item: 0, by: "scripted", prompt: "4", text: "4 9" })
        assert.strictEqual(new Set(kinds("draft").map(({ seed }) => seed)).size, 5, "no draft is drawn as another")
        assert.strictEqual(draft.calls.length, 2)
        for (const round of ["round-1", "round-2"]) assert.isTrue(existsSync(join(directory, round, "run.jsonl")))
      })
    )
  )

  it.effect("retrains on all rounds, or continues on the latest", () =>
    test(
      Effect.gen(function* () {
        const { trained, weights } = yield* run()
        const reports = yield* trained
        const imitated = (of: ReadonlyArray<Ilf.Round>) =>
          of.flatMap(({ questions, selected }) =>
            Effect.runSync(Effect.fromResult(FineTuning.refinements(questions, selected)))
          )
        const examples = (of: ReadonlyArray<Ilf.Round>) => Effect.fromResult(FineTuning.examples(numbers, imitated(of)))

        const once = yield* run()
        yield* FineTuning.train(once.learner, yield* examples(reports), { epochs: 2, batchSize: 2, seed: 4 })
        assert.deepStrictEqual(yield* weights, yield* once.weights)

        const further = yield* run({ between: "continue" })
        yield* further.trained
        const first = yield* run({ prompts: rounds.slice(0, 1) })
        yield* first.trained
        const { tensors } = yield* first.learner.state
        const beginning = yield* once.learner.state
        const zeros = (yield* (yield* learnerOf(0.05)).state).tensors
        yield* first.learner.restore({ ...beginning, step: 0, tensors: { ...zeros, weights: tensors["weights"]! } })
        yield* FineTuning.train(first.learner, yield* examples(reports.slice(1)), { epochs: 2, batchSize: 2, seed: 4 })
        assert.deepStrictEqual(yield* further.weights, yield* first.weights)
        assert.notDeepEqual(yield* further.weights, yield* weights)
      })
    )
  )

  it.effect("leaves out drafts that need no critique, and says where nothing is left", () =>
    test(
      Effect.gen(function* () {
        const pleased = (by: (draft: string) => boolean) =>
          FeedbackSource.fromLabeller("pleased", {
            critique: ({ completion }) => (by(completion) ? undefined : "No 9.")
          })
        const { trained } = yield* run({}, { source: pleased((draft) => draft.startsWith("2")) })
        const reports = yield* trained
        assert.deepStrictEqual(
          reports.map(({ questions, uncriticised }) => [questions.length, uncriticised]),
          [
            [2, 1],
            [2, 0]
          ]
        )
        const nothing = yield* run({}, { source: pleased(() => true) })
        const error = yield* Effect.flip(nothing.trained)
        assert.match(error.message, /^ILF, round 0: of 3 prompts none has a critique/)
      })
    )
  )

  it.effect("begins with critiques that somebody gave, among prompts that nobody has answered yet", () =>
    test(
      Effect.gen(function* () {
        const directory = fresh()
        const given = { prompt: "2", completion: "2 6", critique: "No 6." }
        const { asked, source } = critic()
        const { draft, trained } = yield* run({ prompts: [["1", given, "3"]], directory }, { source })
        const [report] = yield* trained
        assert.deepStrictEqual(
          report!.questions.map(({ critique }) => critique),
          [
            { prompt: "1", completion: "1 9", critique: "No 9." },
            given,
            { prompt: "3", completion: "3 9", critique: "No 9." }
          ]
        )
        assert.deepStrictEqual(asked, ["1 9", "3 9"])
        assert.deepStrictEqual([draft.calls.length, report!.uncriticised], [1, 0])
        const ofGiven = lines(directory).filter(({ item }) => item === 1)
        assert.deepStrictEqual(
          ofGiven.map(({ kind }) => kind),
          ["refinements", "scores"]
        )
      })
    )
  )

  it.effect("refuses a learner that has learned before", () =>
    test(
      Effect.gen(function* () {
        const { trained } = yield* run()
        yield* trained
        const error = yield* Effect.flip(trained)
        assert.match(error.message, /has taken 6 steps; give a new one/)
      })
    )
  )
})

describe("a run that stopped", () => {
  // A selector that fails in the second round, once the first has been learned.
  const failing = Selection.make("sevens", (questions) => {
    if (questions[0]!.critique.prompt === "4") throw new Error("gone home")
    return questions.map(({ refinements }) => refinements.map((text) => (text.endsWith("7") ? 1 : 0)))
  })

  it.effect("asks nobody twice and ends with the same bits", () =>
    test(
      Effect.gen(function* () {
        const whole = yield* run()
        yield* whole.trained
        const directory = fresh()

        const early = critic(2)
        const first = yield* run({ directory }, { source: early.source })
        assert.match((yield* Effect.flip(first.trained)).message, /gone home/)
        const late = critic()
        const second = yield* run({ directory, resume: true }, { source: late.source, selector: failing })
        assert.match((yield* Effect.flip(second.trained)).message, /gone home/)
        assert.deepStrictEqual(
          [early.asked, late.asked],
          [
            ["1 9", "2 9"],
            ["3 9", "4 9", "5 9"]
          ]
        )
        assert.lengthOf(second.draft.calls, 1, "drafts of the second round alone")

        const silent = critic(0)
        const third = yield* run({ directory, resume: true }, { source: silent.source })
        yield* third.trained
        assert.lengthOf([...third.draft.calls, ...third.refine.calls], 0)
        assert.deepStrictEqual(yield* third.weights, yield* whole.weights)
        assert.lengthOf(lines(directory), 20)
      })
    )
  )

  it.effect("goes on only with what it began with", () =>
    test(
      Effect.gen(function* () {
        const directory = fresh()
        yield* (yield* run({ directory })).trained
        const changed: ReadonlyArray<readonly [Partial<Ilf.Options>, RegExp]> = [
          [
            { prompts: [["1", "2", "4"]] as ReadonlyArray<ReadonlyArray<Prompt.Content>> },
            /draft of item 2 in round 0/
          ],
          [{ seed: 4 }, /draft of item 0 in round 0/],
          [{ samples: 4 }, /refinements of item 0 in round 0/]
        ]
        for (const [options, message] of changed) {
          const again = yield* run({ directory, resume: true, ...options })
          assert.match((yield* Effect.flip(again.trained)).message, message)
        }
        const unasked = yield* run({ directory })
        assert.match((yield* Effect.flip(unasked.trained)).message, /resume|run/)
        assert.lengthOf(lines(directory), 20, "nothing is lost by asking wrongly")
      })
    )
  )
})
