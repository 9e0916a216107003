import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { FeedbackSource, Progress, type Prompt } from "@attune/core"
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
  { source = critic().source, selector = sevens, refine = refiner() } = {}
) {
  const roles = { draft: drafter(), refine, learner: yield* learnerOf(0.05) }
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
        assert.match(error.message, /^ILF, round 0: of 3 prompts none has a critique.* 0 undrafted .* 3 uncriticised/)
      })
    )
  )

  it.effect("counts what is left out on the way, each once", () =>
    test(
      Effect.gen(function* () {
        const long = "1 ".repeat(500)
        const given = (prompt: string, critique: string) => ({ prompt, completion: `${prompt} 6`, critique })
        const left = [long, `${long}1`, long, "2", "3", given("4", ""), given(long, "No 6."), "5", given("7", "No 6.")]
        const others: Partial<Ilf.Options> = {
          drafts: { tooLong: "skip" },
          refinements: { tooLong: "skip", emptyCritique: "skip" },
          least: 1
        }
        const by = {
          // Nothing to say about 2 and 3, no refinement of 5 that says something, and none of 7 that is good enough.
          source: FeedbackSource.fromLabeller("pleased", {
            critique: ({ completion }) => (/^[23]/.test(completion) ? undefined : "No 9.")
          }),
          refine: scripted.make((prompt) => (prompt.includes("Text: 5") ? " " : "8")),
          selector: Selection.fromFunction("not 7", ({ prompt }) => (prompt === "7" ? 0 : 1))
        }
        const { trained } = yield* run({ ...others, prompts: [[...left, "1"]] }, by)
        const [report] = yield* trained
        const { questions, summary, undrafted, uncriticised, unrefined } = report!
        assert.deepStrictEqual(
          { undrafted, uncriticised, unrefined, questions: questions.length, dropped: summary.dropped },
          { undrafted: 3, uncriticised: 2, unrefined: 3, questions: 2, dropped: 1 }
        )
        const nothing = yield* run({ ...others, prompts: [left] }, by)
        assert.match(
          (yield* Effect.flip(nothing.trained)).message,
          /of 9 prompts none .*: 3 undrafted .*, 2 uncriticised, 3 unrefined, 1 dropped/
        )
      })
    )
  )

  it.effect("names an item by its place in the round, whatever the call of 64 and what was left out before it", () =>
    test(
      Effect.gen(function* () {
        const given = (i: number) => ({ prompt: `${i}`, completion: `${i} 6`, critique: "No 6." })
        // Every third start is a critique that was given; the critic has nothing to say about every seventh prompt.
        const starts = Array.from({ length: 150 }, (_, i) => (i % 3 === 0 ? given(i) : `${i}`))
        const source = FeedbackSource.fromLabeller("pleased", {
          critique: ({ prompt }) => (Number(prompt) % 7 === 0 ? undefined : "No 9.")
        })
        const failing = Effect.fnUntraced(function* (
          options: Partial<Ilf.Options>,
          by: Parameters<typeof run>[1] = {}
        ) {
          const { trained } = yield* run({ prompts: [starts], samples: 1, ...options }, { source, ...by })
          return yield* Effect.flip(trained)
        })
        const long = "1 ".repeat(500)
        const undrafted = yield* failing({ prompts: [starts.map((start, i) => (i === 142 ? long : start))] })
        assert.match(undrafted.message, /^item 142 for scripted: its prompt has 1000 tokens/)
        const empty = starts.map((start, i) => (i === 141 ? { ...given(141), critique: "" } : start))
        assert.match((yield* failing({ prompts: [empty] })).message, /^item 141 for scripted: its critique is empty/)
        const postProcess = (text: string) => (text.startsWith("143 ") ? JSON.parse("{") : text)
        assert.match((yield* failing({ refinements: { postProcess } })).message, /^item 143 .*postProcess failed/)
        const choosy = Selection.fromFunction("choosy", ({ prompt }) => (prompt === "145" ? Number.NaN : 1))
        const unscored = yield* failing({}, { selector: choosy })
        assert.deepInclude(unscored, { _tag: "SelectorError", question: 145, refinement: 0 })
        assert.match(unscored.message, /^selector choosy: question 145, refinement 0: /)
      })
    )
  )

  it.effect("weighs refinements by a finite beta, by the importance ratio, and not below the least score", () =>
    test(
      Effect.gen(function* () {
        // A character is half a nat: sevens are the likelier ones. Prompt 2 has no seven.
        const refine = scripted.make((prompt, seed) => {
          const [, number] = /Text: (\d+)/.exec(prompt)!
          return seed % 2 === 0 && number !== "2" ? `${number} 7` : `${number} 10 8`
        })
        const prompts = [["1", "2", "3"]]
        const settings = { prompts, samples: 8, refinements: { extra: 0, postProcess: (text: string) => text } }
        const trained = Effect.fnUntraced(function* (options: Partial<Ilf.Options>) {
          const { learner, trained, weights } = yield* run({ ...settings, ...options }, { refine })
          const [report] = yield* trained
          return { ...report!, learner, learned: yield* weights }
        })
        const hard = yield* trained({})
        for (const [options, logq] of [
          [{ beta: 1 }, () => 0],
          [{ beta: 1, importance: true }, (text: string) => -text.length / 2]
        ] as const) {
          const { learned, questions, selected } = yield* trained(options)
          for (const [i, { refinements }] of questions.entries()) {
            const expected = refinements.map((text) => Math.exp(Number(text.endsWith("7")) - logq(text)))
            const sum = expected.reduce((total, weight) => total + weight, 0)
            for (const [r, weight] of selected[i]!.weights.entries()) {
              assert.closeTo(weight, expected[r]! / sum, 1e-12)
            }
          }
          const once = yield* run({ prompts })
          const targets = yield* Effect.fromResult(FineTuning.refinements(questions, selected))
          const examples = yield* Effect.fromResult(FineTuning.examples(numbers, targets))
          yield* FineTuning.train(once.learner, examples, { epochs: 2, batchSize: 2, seed: 3 })
          assert.deepStrictEqual(learned, yield* once.weights)
          assert.notDeepEqual(learned, hard.learned)
        }
        const { questions, selected, summary } = yield* trained({ beta: 1, least: 1 })
        assert.deepStrictEqual([summary.chosen, summary.dropped, selected[1]], [2, 1, undefined])
        for (const [i, { refinements }] of questions.entries()) {
          const weights = selected[i]?.weights ?? refinements.map(() => 0)
          assert.deepStrictEqual(
            refinements.map((text) => text.endsWith("7")),
            Array.from(weights, (weight) => weight > 0)
          )
        }
      })
    )
  )

  it.effect("refuses the importance ratio where beta leaves it no effect, before anybody is asked", () =>
    test(
      Effect.gen(function* () {
        for (const beta of [undefined, Number.POSITIVE_INFINITY]) {
          const { draft, trained } = yield* run({ importance: true, beta })
          const defect = yield* Effect.flip(Effect.catchDefect(trained, Effect.fail))
          assert.instanceOf(defect, RangeError)
          assert.match(defect.message, /give a finite beta/)
          assert.lengthOf(draft.calls, 0)
        }
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

  it.effect("shows a bar for each kind and round of which somebody is asked, and none for what is known", () =>
    test(
      Effect.gen(function* () {
        const directory = fresh()
        const given = { prompt: "6", completion: "6 6", critique: "No 6." }
        const prompts = [[...rounds[0]!, given], [given]]
        const shown = Effect.fnUntraced(function* (source = critic().source) {
          const bars: Array<string> = []
          const { trained } = yield* run({ directory, prompts, resume: true }, { source })
          yield* trained.pipe(
            Effect.ignore,
            Effect.provideService(Progress.Progress, {
              start: ({ from = 0, label, total }) =>
                Effect.sync(() => {
                  bars.push(`${label}: ${from} of ${total}`)
                  return { update: () => Effect.void }
                })
            })
          )
          return bars.filter((bar) => !bar.startsWith("ilf"))
        })
        const stopped = yield* shown(critic(2).source)
        assert.deepStrictEqual(stopped, ["draft, round 1: 0 of 3", "critique, round 1: 0 of 3"])
        assert.deepStrictEqual(yield* shown(), [
          "critique, round 1: 2 of 3",
          "refinements, round 1: 0 of 4",
          "scores, round 1: 0 of 4",
          "refinements, round 2: 0 of 1",
          "scores, round 2: 0 of 1"
        ])
        assert.deepStrictEqual(yield* shown(), [])
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
