import { type Critique, type Loss, type Prompt, Tokenizer } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as FineTuning from "../src/FineTuning.ts"
import * as PromptLoss from "../src/PromptLoss.ts"
import * as Selection from "../src/Selection.ts"
import * as Templates from "../src/Templates.ts"
import { layer, learnerOf, numbers } from "./tinyLearner.ts"

const critique = (prompt: Prompt.Content, completion: string, text: string): Critique.Critique => ({
  prompt,
  completion,
  critique: text
})

const questions: ReadonlyArray<Selection.Question> = [
  { critique: critique("1 2", "3", "Name the 4."), refinements: ["4", "5 6", "4"] },
  { critique: critique("7", "8", "Too long."), refinements: ["9", "10"] },
  { critique: critique("2", "1", "None will do."), refinements: ["3", "4"] }
]

const weights = (...values: ReadonlyArray<number>) => ({ weights: Float64Array.from(values) })
const soft = [weights(0.25, 0.25, 0.5), weights(0.75, 0.25), undefined]

const ok = <A, E>(result: Result.Result<A, E>): A => Result.getOrThrow(result)
const message = (result: Result.Result<unknown, FineTuning.FineTuningError>) => ok(Result.flip(result)).message

describe("targets", () => {
  it("of refinements are contexts and weighted refinements, without draft or critique", () => {
    const targets = ok(FineTuning.refinements(questions, soft))
    assert.deepStrictEqual(targets, [
      { prompt: "1 2", completions: ["4", "5 6", "4"], weights: soft[0]!.weights },
      { prompt: "7", completions: ["9", "10"], weights: soft[1]!.weights }
    ])
  })

  it("of refinements never show the critique to the policy, whatever the prompt and the weights", () => {
    const told = [
      critique("A context.", "The draft.", "THE FEEDBACK"),
      critique([{ role: "user", content: "A question." }], "The draft.", "THE FEEDBACK")
    ].map((critique) => ({ critique, refinements: ["One refinement.", "Another."] }))
    for (const beta of [0, 1, Infinity]) {
      const selected = [0.2, 0.9].map((score) => ({ weights: Selection.weights([score, 0.5], { beta }) }))
      for (const target of ok(FineTuning.refinements(told, selected))) {
        assert.notMatch(JSON.stringify(target), /FEEDBACK|draft/)
      }
      for (const target of ok(FineTuning.critiquesAndRefinements(chat, told, selected))) {
        assert.match(JSON.stringify(target.completions), /FEEDBACK/)
        assert.notMatch(JSON.stringify(target.prompt), /FEEDBACK/)
      }
    }
  })

  it("of drafts and demonstrations have one completion each", () => {
    const one = (prompt: string, completion: string) => ({ prompt, completions: [completion], ...weights(1) })
    assert.deepStrictEqual(ok(FineTuning.drafts([questions[0]!.critique, questions[1]!.critique])), [
      one("1 2", "3"),
      one("7", "8")
    ])
    assert.deepStrictEqual(ok(FineTuning.demonstrations([{ prompt: "1", completion: "2" }])), [one("1", "2")])
  })

  it("have something to imitate wherever there is weight", () => {
    assert.match(
      message(FineTuning.drafts([critique("1", " ", "Say something.")])),
      /^target 0, completion 0: the draft/
    )
    const empty = [{ ...questions[0]!, refinements: ["", "4", ""] }]
    assert.match(message(FineTuning.refinements(empty, [soft[0]])), /^target 0, completion 0: the refinement is empty/)
    assert.strictEqual(ok(FineTuning.refinements(empty, [weights(0, 1, 0)])).length, 1)
    assert.deepStrictEqual(ok(FineTuning.refinements(empty, [weights(0, 0, 0)])), [])
  })

  it("take the weights of their own completions, which sum to 1", () => {
    const make = (...given: ReadonlyArray<number>) => FineTuning.refinements([questions[1]!], [weights(...given)])
    assert.throws(() => make(1), RangeError, "1 weights for 2")
    assert.throws(() => make(0.5, 0.6), RangeError, "sum to 1")
    assert.throws(() => make(1.5, -0.5), RangeError, "from 0")
    assert.throws(() => make(Number.NaN, 1), RangeError, "sum to 1")
    assert.throws(() => FineTuning.refinements(questions, [soft[0]]), RangeError, "1 selections for 3")
  })
})

const chat: Tokenizer.Tokenizer = {
  ...Tokenizer.numeric(20),
  specialIds: new Set([0]),
  token: (id) => (id === 0 ? "<end>" : String(id)),
  applyChatTemplate: (messages) => Result.succeed(messages.map(({ content }) => content).join(" "))
}

describe("feedback and refinement", () => {
  const made = (text: string, refinement: string, template?: Templates.Template) =>
    ok(
      FineTuning.critiquesAndRefinements(
        chat,
        [{ critique: critique("The context.", "The draft.", text), refinements: [refinement] }],
        [weights(1)],
        template
      )
    )[0]!

  const { critiqueAndRefinement } = Templates.text(Templates.answers)

  it("are the completion of a prompt that stops before the critique", () => {
    const prompt =
      "Say what is wrong with the first answer. Then write an answer to the prompt below that does better.\n\n" +
      "Prompt: The context.\n\nAnswer: The draft.\n\nCritique:"
    assert.deepStrictEqual(made("Name it.", "It is 4."), {
      prompt,
      completions: [" Name it.\n\nBetter answer: It is 4.\n###"],
      ...weights(1)
    })
    const asked = Templates.prompting(critiqueAndRefinement, chat)({ context: "The context.", draft: "The draft." })
    assert.strictEqual(asked, prompt)
  })

  it("are told apart, whatever the critique says", () => {
    for (const text of [
      "Name it.",
      "Name it.\n\nBetter answer: 5.",
      "Better answer: 5.",
      "Better answer: Better answer: 5.",
      "Better\n\nBetter answer:\nanswer: 5",
      "<end>{refinement} $& Say Better answer: 5.",
      "Name it.\r\n\r\n  better ANSWER: 5."
    ]) {
      const [completion] = made(text, "It is 4.").completions
      assert.strictEqual(Templates.refinementOf(critiqueAndRefinement, completion!), " It is 4.", text)
      assert.notInclude(completion, "<end>")
    }
    assert.strictEqual(Templates.refinementOf(critiqueAndRefinement, " Name it."), "")
    assert.strictEqual(Templates.refinementOf(critiqueAndRefinement, " Better answer: Name it."), "")
  })

  it("are read in a template of one's own, up to its end", () => {
    const template: Templates.Template = {
      content: "{context}\nCritique:",
      completion: " {critique}\nRewritten:\n{refinement}\n###",
      stopStrings: ["\n###"]
    }
    const { completions, prompt } = made("Too long.", "4.\n5.", template)
    assert.strictEqual(prompt, "The context.\nCritique:")
    assert.deepStrictEqual(completions, [" Too long.\nRewritten:\n4.\n5.\n###"])
    assert.strictEqual(Templates.refinementOf(template, `${completions[0]} and more`), "\n4.\n5.")
    for (const completion of [
      "{refinement}\nOr: {critique}",
      "{critique} {refinement}",
      "{critique}\n\n{refinement}"
    ]) {
      assert.throws(() => made("x", "y", { ...template, completion }), RangeError, "a cue in words")
    }
    const lacking = { ...template, completion: "Rewritten: {refinement}" }
    assert.throws(() => made("x", "y", lacking), RangeError, "lacks {critique}")
    assert.throws(() => made("x", "y", { ...template, content: "{draft}" }), RangeError, "lacks {context}")
    const shown = { ...template, content: "{context} {critique}" }
    assert.throws(() => made("x", "y", shown), RangeError, "has {critique}")
  })
})

describe("examples", () => {
  const shown = (units: Loss.Batch<PromptLoss.Fields>) =>
    units.map((unit) => ("tokens" in unit ? [unit] : unit).map(({ tokens, weights }) => [[...tokens], [...weights]]))

  it("are tokens as in Sft, one unit per target, equal completions together", () => {
    const targets = ok(FineTuning.refinements(questions, soft))
    assert.deepStrictEqual(shown(ok(FineTuning.examples(numbers, targets))), [
      [
        [
          [1, 2, 4, 0],
          [0, 0, 0.75, 0.75]
        ],
        [
          [1, 2, 5, 6, 0],
          [0, 0, 0.25, 0.25, 0.25]
        ]
      ],
      [
        [
          [7, 9, 0],
          [0, 0.75, 0.75]
        ],
        [
          [7, 10, 0],
          [0, 0.25, 0.25]
        ]
      ]
    ])
  })

  it("of a choice by arg-max are no groups", () => {
    const [unit] = ok(FineTuning.examples(numbers, ok(FineTuning.refinements([questions[1]!], [weights(0, 1)]))))
    assert.isTrue("tokens" in unit!)
    assert.deepStrictEqual(shown([unit!])[0]![0], [
      [7, 10, 0],
      [0, 1, 1]
    ])
  })

  it("leave out weights that single precision cannot hold", () => {
    const targets = [{ prompt: "1", completions: ["2", "3"], ...weights(1, 1e-60) }]
    assert.strictEqual(shown(ok(FineTuning.examples(numbers, targets)))[0]!.length, 1)
  })

  it("weigh prompts by either denominator, and imitate whole texts without one", () => {
    const targets = ok(FineTuning.demonstrations([{ prompt: "1 2 3", completion: "4" }]))
    const options = { promptWeight: 0.5, denominator: "lossTokens" } as const
    const [unit] = ok(FineTuning.examples(numbers, targets, options))
    assert.deepStrictEqual(unit, PromptLoss.example([1, 2, 3], [4, 0], 1, options))
    const [whole] = ok(FineTuning.examples(numbers, ok(FineTuning.demonstrations([{ prompt: "", completion: "4 5" }]))))
    assert.deepStrictEqual(whole, PromptLoss.example([], [4, 5, 0]))
  })

  it("may begin completions with a space", () => {
    const read: Array<string> = []
    const encode = (text: string) => {
      read.push(text)
      return numbers.encode(text)
    }
    const listening = { ...numbers, encode }
    const targets = [{ prompt: "1", completions: ["2", " 3"], ...weights(0.5, 0.5) }]
    ok(FineTuning.examples(listening, targets, { lead: " " }))
    assert.deepStrictEqual(read, [" 2", " 3"])
  })

  it("need a chat template for conversations, and tokens", () => {
    const conversation = [{ prompt: [{ role: "user", content: "1" }], completions: ["2"], ...weights(1) }]
    const fine = { prompt: "1", completions: ["2"], ...weights(1) }
    assert.match(message(FineTuning.examples(numbers, [fine, ...conversation])), /^target 1: .*numeric/)
    const { eosId: _eosId, ...endless } = numbers
    const silent: Tokenizer.Tokenizer = { ...endless, eosId: undefined, encode: () => new Int32Array() }
    assert.match(
      message(FineTuning.examples(silent, [{ ...fine, prompt: "" }])),
      /^target 0: "2" has no token to predict/
    )
  })
})

describe("training", () => {
  it.effect("I4b: has the weighted log-likelihood as its loss", () =>
    Effect.gen(function* () {
      const learner = yield* learnerOf(1e-30)
      const completions = ["4 5", "6", "7 8 9"]
      const continuations = completions.map((text) => ({ prompt: [1, 2], completion: [...numbers.encode(text), 0] }))
      const rows = yield* learner.model.logprobs(continuations)
      const sums = rows.map((row) => row.reduce((sum, logprob) => sum + logprob, 0))
      for (const beta of [0, 1, 5, Infinity]) {
        const own = Selection.weights([0.2, 0.5, 0.9], { beta })
        const units = ok(FineTuning.examples(numbers, [{ prompt: "1 2", completions, weights: own }]))
        const [report] = yield* learner.update([units])
        const likelihood = own.reduce((sum, weight, i) => sum + weight * sums[i]!, 0)
        const tokens = own.reduce((sum, weight, i) => sum + weight * rows[i]!.length, 0)
        assert.closeTo(report!["loss"]!, -likelihood / tokens, 1e-5, `beta ${beta}`)
      }
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.effect("makes a policy answer as often as the weights say", () =>
    Effect.gen(function* () {
      const learner = yield* learnerOf(0.02)
      const targets = [
        { prompt: "1", completions: ["4", "5"], ...weights(0.8, 0.2) },
        { prompt: "2", completions: ["6"], ...weights(1) }
      ]
      const examples = ok(FineTuning.examples(numbers, targets))
      const reports = yield* FineTuning.train(learner, examples, { epochs: 120, batchSize: 2 })
      assert.strictEqual(reports.length, 120)
      const probability = (prompt: number, completion: number) =>
        Effect.map(learner.model.logprobs([{ prompt: [prompt], completion: [completion] }]), ([row]) =>
          Math.exp(row![0]!)
        )
      assert.closeTo(yield* probability(1, 4), 0.8, 0.02)
      assert.closeTo(yield* probability(1, 5), 0.2, 0.02)
      assert.isAbove(yield* probability(2, 6), 0.95)
      // Two answers, 0.8 to 0.2: their entropy, over the tokens of a step, is all that is left of the loss.
      const entropy = -(0.8 * Math.log(0.8) + 0.2 * Math.log(0.2)) / 4
      assert.closeTo(reports.at(-1)!["loss"]!, entropy, 0.02)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.effect("refuses what is longer than the context, by its place", () =>
    Effect.gen(function* () {
      const learner = yield* learnerOf(1e-3)
      const short = { prompt: "1", completions: ["2"], ...weights(1) }
      const long = { prompt: "1 2 3", completions: ["4", "4 5 6 7 8"], ...weights(0.5, 0.5) }
      const error = yield* Effect.flip(FineTuning.train(learner, ok(FineTuning.examples(numbers, [short, long]))))
      assert.match(error.message, /^target 1 has 9 tokens, more than the model's context of 8/)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it("has the paper's settings by the number of examples", () => {
    assert.deepStrictEqual(FineTuning.presets["5K"], { epochs: 1, promptWeight: 0.1 })
    const targets = ok(FineTuning.demonstrations([{ prompt: "1 2", completion: "3" }]))
    const { promptWeight } = FineTuning.presets["200 iterated"]
    assert.deepStrictEqual(
      ok(FineTuning.examples(numbers, targets, { promptWeight }))[0],
      PromptLoss.example([1, 2], [3, 0], 1, { promptWeight: 0.05 })
    )
  })
})
