import { Progress } from "@attune/core"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as TruthfulQa from "../../src/benchmarks/TruthfulQa.ts"
import * as Judge from "../../src/judging/Judge.ts"
import { file } from "../file.ts"
import * as Scripted from "../scripted.ts"
import * as TinyStories from "../tinystories.ts"
import * as Evaluation from "./evaluation.ts"

const quiet = Progress.layer({ mode: "quiet" })

const question = {
  question: "Why?",
  mc1_targets: { because: 1, never: 0 },
  mc2_targets: { because: 1, so: 1, never: 0 }
}

describe("TruthfulQa.readChoices", () => {
  it.effect("reads the repository's form and the Hub's", () =>
    Effect.gen(function* () {
      const hub = {
        question: "Why?",
        mc1_targets: { choices: ["because", "never"], labels: [1, 0] },
        mc2_targets: { choices: ["because", "so", "never"], labels: [1, 1, 0] }
      }
      const [first, second] = yield* TruthfulQa.readChoices(yield* file("m.json", JSON.stringify([question, hub])))
      assert.deepStrictEqual(first, {
        id: "0",
        question: "Why?",
        mc1: { choices: ["because", "never"], labels: [1, 0] },
        mc2: { choices: ["because", "so", "never"], labels: [1, 1, 0] }
      })
      assert.deepStrictEqual(second, { ...first!, id: "1" })
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  for (const [what, row, field, reason] of [
    ["without targets", { question: "Why?", mc1_targets: question.mc1_targets }, "1.mc2_targets", "Missing key"],
    ["with a label that is none", { ...question, mc1_targets: { a: 1, b: 2 } }, "1.mc1_targets.b", "Expected 0 | 1"],
    ["with two right answers of one", { ...question, mc1_targets: { a: 1, b: 1 } }, "1.mc1_targets", "marks 2 choices"],
    ["without a right answer", { ...question, mc2_targets: { a: 0, b: 0 } }, "1.mc2_targets", "marks 0 of 2"],
    ["without a wrong answer", { ...question, mc2_targets: { a: 1, b: 1 } }, "1.mc2_targets", "marks 2 of 2"],
    [
      "with fewer labels than choices",
      { ...question, mc1_targets: { choices: ["a", "b"], labels: [1] } },
      "1.mc1_targets",
      "has 2 choices and 1 labels"
    ],
    ["without a question", { ...question, question: " " }, "1.question", "is empty"]
  ] as const) {
    it.effect(`names file and field of a question ${what}`, () =>
      Effect.gen(function* () {
        const path = yield* file("m.json", JSON.stringify([question, row]))
        const error = yield* Effect.flip(TruthfulQa.readChoices(path))
        assert.deepStrictEqual([error._tag, error.file, error.field], ["DataFileError", path, field])
        assert.include(error.message, reason)
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
    )
  }
})

describe("TruthfulQa.score", () => {
  it.effect("scores every answer once, and reads both tasks off them", () =>
    Effect.gen(function* () {
      let scored = 0
      const table: Readonly<Record<string, number>> = { " because": -2, " so": -1, " never": -2.5 }
      const policy = Scripted.policy({
        logprob: (context, text) => {
          assert.isTrue(context.endsWith("Barcelona, Spain.\n\nQ: Why?\nA:"))
          scored++
          return table[text]!
        }
      })
      const questions = yield* TruthfulQa.readChoices(yield* file("m.json", JSON.stringify([question])))
      const answers = yield* TruthfulQa.score(policy, questions)
      assert.strictEqual(scored, 3)
      assert.deepStrictEqual([...answers.mc1[0]!.logprobs], [-2, -2.5])
      assert.deepStrictEqual([...answers.mc2[0]!.logprobs], [-2, -1, -2.5])
      const [mc1, mc2] = TruthfulQa.scores(answers, { system: "m" })
      assert.deepStrictEqual([mc1!.task, mc1!.metric, mc1!.estimate.value], ["truthfulqa_mc1", "acc", 1])
      assert.deepStrictEqual([mc2!.task, mc2!.metric], ["truthfulqa_mc2", "acc"])
      const [a, b, c] = [Math.exp(-2), Math.exp(-1), Math.exp(-2.5)]
      assert.closeTo(mc2!.estimate.value, (a + b) / (a + b + c), 1e-7)
    }).pipe(Effect.scoped, Effect.provide(Layer.mergeAll(NodeServices.layer, quiet)))
  )
})

const header = "Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers,Source\n"
const row = 'Adversarial,Myths,"Why, then?",It is; they say,Never,It is; It was ;,Never; Ever,https://example.org\n'

describe("TruthfulQa.read", () => {
  it.effect("reads questions with their answers, split at semicolons", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* TruthfulQa.read(yield* file("t.csv", header + row)), [
        {
          id: "2",
          category: "Myths",
          question: "Why, then?",
          best: "It is; they say",
          correct: ["It is", "It was"],
          incorrect: ["Never", "Ever"]
        }
      ])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  it.effect("names row and column of a missing cell", () =>
    Effect.gen(function* () {
      const path = yield* file("t.csv", `${header}${row}a,b,Why?,yes,no,yes, ;,x\n`)
      const error = yield* Effect.flip(TruthfulQa.read(path))
      assert.deepStrictEqual([error.file, error.row, error.field], [path, 3, "Incorrect Answers"])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )
})

const questions = ["Why?", "Who?", "How?"].map(
  (text, i): TruthfulQa.Question => ({
    id: String(i),
    category: "c",
    question: text,
    best: "best",
    correct: ["right"],
    incorrect: ["wrong"]
  })
)

describe("TruthfulQa.answer", () => {
  it.effect("asks greedily to the end of the line, and counts no comment", () =>
    Effect.gen(function* () {
      const policy = Scripted.policy({
        answer: (prompt) =>
          prompt.endsWith("Q: Who?\nA:")
            ? " I have no comment.\nQ: more"
            : prompt.includes("Why?")
              ? " Because."
              : " So"
      })
      const answers = yield* TruthfulQa.answer(policy, questions, { style: "instruction_qa" })
      assert.deepStrictEqual(
        answers.map(({ answer, noComment }) => [answer, noComment]),
        [
          ["Because.", false],
          ["I have no comment.", true],
          ["So", false]
        ]
      )
      const [asked] = policy.asked
      assert.strictEqual(asked!.options.temperature, 0)
      assert.deepStrictEqual(asked!.options.stopStrings, ["\n"])
      assert.strictEqual(asked!.prompts[0], `${TruthfulQa.instruction}\n\n${TruthfulQa.primer}\n\nQ: Why?\nA:`)
      const [score] = TruthfulQa.answerScores(answers, { system: "m", style: "instruction_qa" })
      assert.deepStrictEqual([score!.task, score!.metric], ["truthfulqa_gen_instruction_qa", "no_comment"])
      assert.closeTo(score!.estimate.value, 1 / 3, 1e-12)
    })
  )

  it("takes no comment for one in any case and punctuation, and nothing longer", () => {
    for (const [text, expected] of [
      ["I have no comment.", true],
      ["“I have NO comment”", true],
      ["I have no  comment!", true],
      ["I have no comment on that", false],
      ["no comment", false],
      ["", false]
    ] as const) {
      assert.strictEqual(TruthfulQa.isNoComment(text), expected, text)
    }
  })
})

describe("TruthfulQa.grade", () => {
  const answer = (id: string, text: string): TruthfulQa.Answer => ({
    id,
    question: questions[Number(id)]?.question ?? "Who?",
    answer: text,
    noComment: TruthfulQa.isNoComment(text)
  })

  it.effect("fails where the grader's answers are no probabilities, or a question is missing", () =>
    Effect.gen(function* () {
      const graded = (grades: ReadonlyArray<number>, ...ids: ReadonlyArray<string>) =>
        TruthfulQa.grade(
          questions,
          ids.map((id) => answer(id, "so"))
        ).pipe(
          Effect.provideService(Judge.Grader, { name: "test", grade: () => Effect.succeed(grades) }),
          Effect.flip,
          Effect.map(({ message }) => message)
        )
      assert.match(yield* graded([1, 1.5], "0", "2"), /judge test, item "2": answered 1\.5; expected a probability/)
      assert.match(yield* graded([1, Number.NaN], "0", "2"), /item "2": answered NaN/)
      assert.match(yield* graded([1], "0", "2"), /item "2": gave 1 answers to 2 questions/)
      assert.match(yield* graded([1], "9"), /item "9": there is no question of this id/)
    })
  )

  it.effect("asks the grader about all answers but those without comment", () =>
    Effect.gen(function* () {
      const asked: Array<Judge.Question> = []
      const grader = {
        name: "test",
        grade: (all: ReadonlyArray<Judge.Question>) => {
          asked.push(...all)
          return Effect.succeed(all.map(({ id }) => (id === "0" ? 0.25 : 1)))
        }
      }
      const graded = yield* TruthfulQa.grade(questions, [
        answer("0", "wrong"),
        answer("1", "I have no comment."),
        answer("2", "right")
      ]).pipe(Effect.provideService(Judge.Grader, grader))
      assert.deepStrictEqual(
        asked.map(({ completion, id, prompt }) => [id, prompt, completion]),
        [
          ["0", "Why?", "wrong"],
          ["2", "How?", "right"]
        ]
      )
      assert.include(asked[0]!.question, "best; right")
      const scores = TruthfulQa.answerScores(graded, { system: "m" })
      assert.deepStrictEqual(
        scores.map(({ estimate, metric, sample }) => [metric, [...sample.values], estimate.n]),
        [
          ["no_comment", [0, 1, 0], 3],
          ["truthful", [0.25, 1, 1], 3],
          ["truthful_informative", [0.25, 0, 1], 3]
        ]
      )
    })
  )
})

const choices = "truthfulqa/mc_task.json"

describe("TruthfulQA on the real file", () => {
  it.effect.skipIf(!Evaluation.same(choices))("has the harness's prompt, log-probs and accuracies", () =>
    Effect.gen(function* () {
      const { golden } = Evaluation
      const questions = yield* TruthfulQa.readChoices(TinyStories.path(choices))
      assert.strictEqual(Evaluation.sha256(TruthfulQa.prompt(questions[0]!.question)), golden.truthfulqa.prompt)
      const answers = yield* TruthfulQa.score(yield* TinyStories.policy, questions)
      const logprobs = answers.mc2.map((answer) => answer.logprobs)
      assert.isAtMost(Evaluation.distance(logprobs, golden.truthfulqa.logprobs), 1e-4)
      const [mc1, mc2] = TruthfulQa.scores(answers, { system: "tinystories-656K" })
      assert.deepStrictEqual([mc1!.estimate.value, mc1!.estimate.n], [golden.truthfulqa.mc1, 395])
      assert.closeTo(mc2!.estimate.value, golden.truthfulqa.mc2, 1e-6)
    }).pipe(Effect.scoped, Effect.provide(Layer.mergeAll(TinyStories.layer, quiet)))
  )

  it.effect.skipIf(!TinyStories.present("truthfulqa/TruthfulQA.csv"))("reads all questions for generation", () =>
    Effect.gen(function* () {
      const questions = yield* TruthfulQa.read(TinyStories.path("truthfulqa/TruthfulQA.csv"))
      assert.strictEqual(questions.length, 395)
      assert.isTrue(questions.every(({ correct, incorrect }) => correct.length > 0 && incorrect.length > 0))
    }).pipe(Effect.provide(NodeServices.layer))
  )
})
