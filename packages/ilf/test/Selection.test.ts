import { type Critique, ModelError, Progress, RewardModel, Tokenizer } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Schema } from "effect"
import * as Selection from "../src/Selection.ts"

const critique = (text = "Name the product.", more: Partial<Critique.Critique> = {}): Critique.Critique => ({
  prompt: "My kettle leaks.",
  completion: "It leaks.",
  critique: text,
  ...more
})

const question = (refinements: ReadonlyArray<string>, text?: string): Selection.Question => ({
  critique: critique(text),
  refinements
})

const near = (actual: ArrayLike<number>, expected: ReadonlyArray<number>, within = 5e-9) => {
  assert.strictEqual(actual.length, expected.length)
  for (const [i, value] of expected.entries()) assert.closeTo(actual[i]!, value, within, `entry ${i}`)
}

const message = (effect: Effect.Effect<unknown, Selection.SelectorError>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.strictEqual(error._tag, "SelectorError")
    return error.message
  })

const rows = (scores: ReadonlyArray<Float64Array>) => scores.map((row) => [...row])

const finite = Schema.Finite.check(Schema.isBetween({ minimum: -50, maximum: 50 }))
const row = Arbitrary.array(Arbitrary.schema(finite), { minLength: 1, maxLength: 12 })
const beta = Arbitrary.schema(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 20 })))

describe("weights", () => {
  const R = [0.2, 0.5, 0.9]

  it("I4: are softmax(beta R)", () => {
    near(Selection.weights(R, { beta: 0 }), [1 / 3, 1 / 3, 1 / 3])
    near(Selection.weights(R, { beta: 1 }), [0.22916797, 0.3093444, 0.46148762])
    near(Selection.weights(R, { beta: 5 }), [0.02590865, 0.11611453, 0.85797681])
    assert.deepStrictEqual(Selection.weights(R, { beta: Number.POSITIVE_INFINITY }), Float64Array.of(0, 0, 1))
    assert.deepStrictEqual(Selection.weights(R), Float64Array.of(0, 0, 1))
  })

  it("I4b: weigh log-likelihoods", () => {
    const logpi = [-3, -2, -4]
    const expected: ReadonlyArray<readonly [number, number]> = [
      [0, -3],
      [1, -3.15214322],
      [5, -3.74186228],
      [Number.POSITIVE_INFINITY, -4]
    ]
    for (const [beta, sum] of expected) {
      const weighted = Selection.weights(R, { beta }).reduce((total, w, i) => total + w * logpi[i]!, 0)
      assert.closeTo(weighted, sum, 5e-9, `beta ${beta}`)
    }
  })

  it("I4c: divide by the proposal, where its log-probs are given", () => {
    near(Selection.weights(R, { beta: 5, logq: [-1, -2, -0.5] }), [0.03005889, 0.36619222, 0.6037489])
    // By hand: 1/q = 2, 4, so with beta 0 the weights are 1/3 and 2/3.
    near(Selection.weights([7, 3], { beta: 0, logq: [-Math.LN2, -2 * Math.LN2] }), [1 / 3, 2 / 3], 1e-15)
    assert.deepStrictEqual(Selection.weights([7, 3], { logq: [0, -90] }), Float64Array.of(1, 0))
  })

  it("I12: take the first of equal scores, where the paper's code takes the last", () => {
    assert.strictEqual(Selection.choose([0.5, 0.5, 0.2]), 0)
    assert.strictEqual(Selection.choose([0.2, 0.5, 0.5]), 1)
    assert.strictEqual(Selection.choose([-3]), 0)
    assert.strictEqual(Selection.choose([]), -1)
    assert.deepStrictEqual(Selection.weights([0.5, 0.5, 0.2]), Float64Array.of(1, 0, 0))
  })

  it.prop("sum to 1 and grow with the score", [row, beta], ([scores, beta]) => {
    const w = Selection.weights(scores, { beta })
    assert.closeTo(
      w.reduce((a, b) => a + b, 0),
      1,
      1e-12
    )
    for (let i = 0; i < w.length; i++) {
      for (let j = 0; j < w.length; j++) {
        if (scores[i]! >= scores[j]!) assert.isAtLeast(w[i]!, w[j]!)
      }
    }
  })

  it.prop("stay the same when all scores, or all log-probs, move by as much", [row, beta], ([scores, beta]) => {
    const logq = scores.map((score, i) => -score * 0.1 - i)
    const moved = scores.map((score) => score + 13)
    const w = Selection.weights(scores, { beta, logq })
    near(Selection.weights(moved, { beta, logq }), [...w], 1e-10)
    near(Selection.weights(scores, { beta, logq: logq.map((x) => x - 200) }), [...w], 1e-10)
  })

  it.prop("of a proposal that is the target itself are all alike", [row, beta], ([scores, beta]) => {
    const logq = scores.map((score) => beta * score - 4)
    near(
      Selection.weights(scores, { beta, logq }),
      scores.map(() => 1 / scores.length),
      1e-10
    )
  })

  it("approach the choice as beta grows, and hold where numbers end", () => {
    near(Selection.weights([0.2, 0.9, 0.5], { beta: 1e4 }), [0, 1, 0], 1e-15)
    const huge = Number.MAX_VALUE
    assert.deepStrictEqual(Selection.weights([huge, -huge], { beta: huge }), Float64Array.of(1, 0))
    assert.deepStrictEqual(Selection.weights([huge, -huge], { beta: 0 }), Float64Array.of(0.5, 0.5))
    near(Selection.weights([1, 2], { beta: 1, logq: [-2000, -3000] }), [0, 1])
    assert.deepStrictEqual(Selection.weights([]), new Float64Array())
  })

  it("leave out what scores too little", () => {
    assert.deepStrictEqual(Selection.weights([1, 0, 1], { beta: 3, least: 1 }), Float64Array.of(0.5, 0, 0.5))
    assert.deepStrictEqual(Selection.weights([0, 0], { beta: 3, least: 1 }), Float64Array.of(0, 0))
    assert.deepStrictEqual(Selection.weights([0, 0], { least: 1 }), Float64Array.of(0, 0))
    // The likeliest under 1/q is the one left out: what remains is still normalised.
    near(Selection.weights([0, 2, 2], { beta: 1, least: 1, logq: [-800, -1, -1] }), [0, 0.5, 0.5])
  })

  it("refuse what makes no sense", () => {
    for (const beta of [-1, Number.NaN]) assert.throws(() => Selection.weights(R, { beta }), /^beta must be .* not/)
    assert.throws(() => Selection.weights(R, { logq: [0] }), /1 log-probs for 3 scores/)
    assert.throws(() => Selection.weights([0, Number.NaN]), /score 1 is NaN/)
    assert.throws(() => Selection.weights([0], { logq: [Number.NEGATIVE_INFINITY] }), /log-prob 0 is -Infinity/)
  })
})

describe("select", () => {
  const scores = (...all: ReadonlyArray<ReadonlyArray<number>>) => Selection.make("given", () => all)

  it.effect("chooses the highest, gives weights, and counts what there was no choice in", () =>
    Effect.gen(function* () {
      const questions = [question(["a", "b"]), question(["c", "c"]), question(["d", "e", "f"]), question(["g"])]
      const logq = [[0, 0], [0, 0], [0, 0, -Math.LN2], [0]]
      const selector = scores([1, 2], [5, 5], [0, 3, 3], [1])
      const { selected, summary } = yield* Selection.select(selector, questions, { beta: Math.LN2, logq })
      assert.deepStrictEqual(
        selected.map((own) => own!.index),
        [1, 0, 1, 0]
      )
      near(selected[0]!.weights, [1 / 3, 2 / 3], 1e-15)
      near(selected[2]!.weights, [1 / 25, 8 / 25, 16 / 25], 1e-15)
      assert.deepStrictEqual(summary, { questions: 4, chosen: 4, dropped: 0, identical: 1, tied: 1 })
    })
  )

  it.effect("does not call it a tie where the best is there twice", () =>
    Effect.gen(function* () {
      const { summary } = yield* Selection.select(scores([3, 3, 1]), [question(["a", "a", "b"])])
      assert.deepStrictEqual(summary, { questions: 1, chosen: 1, dropped: 0, identical: 0, tied: 0 })
    })
  )

  it.effect("takes the first where all refinements are equal", () =>
    Effect.gen(function* () {
      for (const selector of [Selection.random(1), Selection.longest, scores([0.5, 0.5, 0.5])]) {
        const { selected, summary } = yield* Selection.select(selector, [question(["same", "same", "same"])])
        assert.strictEqual(summary.identical, 1)
        assert.strictEqual(summary.tied, 0)
        if (selector.name !== "random") assert.strictEqual(selected[0]!.index, 0)
      }
    })
  )

  it.effect("refuses settings that make no sense", () =>
    Effect.gen(function* () {
      for (const [options, expected] of [
        [{ beta: -1 }, /beta must be/],
        [{ least: Number.NaN }, /least must be/],
        [{ logq: [] }, /log-probs for 0 of 1 questions/],
        [{ logq: [[0, 1]] }, /2 log-probs for 1 scores/]
      ] as const) {
        const exit = yield* Effect.exit(Selection.select(scores([1]), [question(["a"])], options))
        assert.match(String(exit), expected)
      }
    })
  )

  it.effect("guards every selector, whoever wrote it", () =>
    Effect.gen(function* () {
      const bare = (score: () => unknown): Selection.SelectorShape => ({
        name: "bare",
        score: () => Effect.sync(score) as Effect.Effect<ReadonlyArray<Float64Array>>
      })
      const two = [question(["a", "b"]), question(["c"])]
      for (const [score, expected] of [
        [() => [[1, 2], [Number.NaN]], /^selector bare: question 1, refinement 0: is scored NaN; .* finite/],
        [() => [[1, Number.POSITIVE_INFINITY], [1]], /question 0, refinement 1: is scored Infinity/],
        [() => [[1, "2"], [1]], /question 0, refinement 1: is scored "2"/],
        [() => [[1, 2, 3], [1]], /question 0: returned 3 scores for 2 refinements; return one score for each/],
        [() => [[1, 2], undefined], /question 1: returned undefined for 1 refinements/],
        [() => [[1, 2]], /^selector bare: returned scores for 1 of 2 questions; return/],
        [() => 3, /^selector bare: returned 3 of 2 questions/],
        [
          () => {
            throw new Error("broken")
          },
          /^selector bare: failed: broken; correct/
        ]
      ] as const) {
        assert.match(yield* message(Selection.select(bare(score), two)), expected)
      }
      const empty = [question(["a"]), question([])]
      assert.match(
        yield* message(
          Selection.select(
            bare(() => assert.fail("asked")),
            empty
          )
        ),
        /question 1: has no refinements; sample some/
      )
      const { selected, summary } = yield* Selection.select(
        bare(() => assert.fail("asked about nothing")),
        []
      )
      assert.deepStrictEqual(selected, [])
      assert.strictEqual(summary.questions, 0)
    })
  )

  it.effect("takes its selector from a layer", () =>
    Effect.gen(function* () {
      const bad: Selection.SelectorShape = { name: "bad", score: () => Effect.succeed([]) }
      const asked = Effect.flatMap(Selection.Selector, (selector) => selector.score([question(["a", "bb"])]))
      assert.deepStrictEqual(rows(yield* Effect.provide(asked, Selection.layer(Selection.longest))), [[1, 2]])
      const made = Selection.layerEffect(Effect.succeed(bad))
      assert.match(yield* message(Effect.provide(asked, made)), /^selector bad: returned scores for 0 of 1/)
    })
  )
})

describe("random", () => {
  it.effect("scores a question alike whatever stands beside it, and differently for another seed or critique", () =>
    Effect.gen(function* () {
      const a = question(["x", "y", "z"], "Too long.")
      const b = question(["x", "y", "z"], "Too short.")
      const [alone] = yield* Selection.random(3).score([a])
      const [other, second] = yield* Selection.random(3).score([b, a])
      assert.deepStrictEqual(second, alone)
      assert.notDeepEqual(other, alone)
      assert.notDeepEqual((yield* Selection.random(4).score([a]))[0], alone)
      const answered = { ...a, critique: { ...a.critique, completion: "It does." } }
      assert.notDeepEqual((yield* Selection.random(3).score([answered]))[0], alone)
    })
  )

  it.effect("chooses each place about as often", () =>
    Effect.gen(function* () {
      const count = 3000
      const questions = Array.from({ length: count }, (_, i) => question(["x", "y", "z"], `point ${i}`))
      const places = (yield* Selection.random(7).score(questions)).map(Selection.choose)
      for (const place of [0, 1, 2]) {
        const share = places.filter((chosen) => chosen === place).length
        // Five standard errors of a third of 3000.
        assert.closeTo(share, count / 3, 5 * Math.sqrt((count * 2) / 9), `place ${place}`)
      }
    })
  )
})

it.effect("the longest refinement has the most characters, not words or bytes", () =>
  Effect.gen(function* () {
    const scores = yield* Selection.longest.score([question(["a b c d", "abcdefghi", "😀😀😀😀😀", ""])])
    assert.deepStrictEqual(rows(scores), [[7, 9, 5, 0]])
  })
)

describe("functions", () => {
  const quiet = Effect.provide(Progress.layer({ mode: "quiet" }))

  it.effect("score one refinement each, at once, later or as an effect", () =>
    Effect.gen(function* () {
      const asked = [question(["a", "bbb"], "first"), question(["cc"], "second")]
      const kinds: ReadonlyArray<
        (c: Critique.Critique, r: string) => number | Promise<number> | Effect.Effect<number>
      > = [
        ({ critique }, text) => text.length + critique.length,
        async ({ critique }, text) => text.length + critique.length,
        ({ critique }, text) => Effect.succeed(text.length + critique.length)
      ]
      for (const score of kinds) {
        const selector = Selection.fromFunction("lengths", score, { concurrency: 2 })
        assert.deepStrictEqual(rows(yield* selector.score(asked)), [[6, 8], [8]])
      }
    }).pipe(quiet)
  )

  it.effect("are named with question and refinement when they fail", () =>
    Effect.gen(function* () {
      const asked = [question(["a"]), question(["b", "c"])]
      const bad = (score: (text: string) => unknown) =>
        message(Selection.fromFunction("mine", (_, text) => (text === "c" ? score(text) : 0) as number).score(asked))
      const where = "selector mine: question 1, refinement 1: "
      assert.strictEqual(
        yield* bad(() => Number.NaN),
        `${where}is scored NaN; a score must be a finite number, larger for what is better`
      )
      assert.match(yield* bad(() => "9"), /refinement 1: is scored "9"/)
      const thrown = yield* bad(() => {
        throw new TypeError("no such field")
      })
      assert.strictEqual(thrown, `${where}failed: no such field; correct the function`)
      assert.match(yield* bad(() => Promise.reject(new Error("offline"))), /refinement 1: failed: offline/)
      assert.throws(() => Selection.fromFunction("mine", () => 0, { concurrency: 0 }), /concurrency must be/)
    }).pipe(quiet)
  )

  it.effect("tell how far they are", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const sink = { write: (text: string) => void lines.push(text), isTTY: false, columns: 80 }
      yield* Selection.fromFunction("mine", () => 0)
        .score([question(["a"]), question(["b", "c"])])
        .pipe(Effect.provide(Progress.layer({ mode: "lines", sink })))
      assert.lengthOf(lines, 3)
      assert.match(lines[2]!, /^mine 3\/3 100%/)
    })
  )

  it.effect("may be tests: what passes is chosen, and with a least score nothing else", () =>
    Effect.gen(function* () {
      const passes = Selection.fromTests("tests", (_, text) => text.startsWith("ok"))
      const asked = [question(["bad", "ok 1", "ok 2"]), question(["bad", "worse"]), question(["ok"])]
      const { selected, summary } = yield* Selection.select(passes, asked, { least: 1, beta: 2 })
      assert.deepStrictEqual(
        selected.map((own) => own?.index),
        [1, undefined, 0]
      )
      assert.deepStrictEqual(selected[0]!.weights, Float64Array.of(0, 0.5, 0.5))
      assert.deepStrictEqual(summary, { questions: 3, chosen: 2, dropped: 1, identical: 0, tied: 1 })
      const lenient = yield* Selection.select(passes, asked)
      assert.deepStrictEqual(
        lenient.selected.map((own) => own?.index),
        [1, 0, 0]
      )
      const wrong = Selection.fromTests("tests", (_, text) => (text === "worse" ? 1 : true) as boolean)
      assert.match(yield* message(wrong.score(asked)), /question 1, refinement 1: is answered with 1; return true/)
      const broken = Selection.fromTests("tests", () => Effect.fail("no compiler"))
      assert.match(yield* message(broken.score(asked)), /question 0, refinement 0: failed: "no compiler"; return false/)
    }).pipe(quiet)
  )

  it.effect("may pick a place, which must be one", () =>
    Effect.gen(function* () {
      const asked = [question(["a", "b"]), question(["c", "d", "e"])]
      const last = Selection.fromChoice("last", ({ refinements }) => refinements.length - 1)
      assert.deepStrictEqual(rows(yield* last.score(asked)), [
        [0, 1],
        [0, 0, 1]
      ])
      for (const [picked, text] of [
        [2, "2"],
        [-1, "-1"],
        [0.5, "0.5"],
        [Number.NaN, "NaN"],
        ["0", '"0"']
      ] as const) {
        const selector = Selection.fromChoice("mine", () => picked as number)
        assert.strictEqual(
          yield* message(selector.score(asked)),
          `selector mine: question 0: picked ${text} of 2 refinements; return a place from 0 to 1`
        )
      }
      const second = Selection.fromChoice("mine", ({ refinements }) =>
        refinements.length === 2 ? Promise.resolve(0) : Promise.reject(new Error("tired"))
      )
      assert.match(yield* message(second.score(asked)), /^selector mine: question 1: failed: tired/)
    })
  )
})

describe("a reward model", () => {
  const asked = [question(["a", "bb"]), question(["ccc"])]

  it.effect("scores refinements as answers to the prompt, all in one call", () =>
    Effect.gen(function* () {
      const calls: Array<ReadonlyArray<RewardModel.Answer>> = []
      const model = RewardModel.fromBatchFunction("lengths", (answers) => {
        calls.push(answers)
        return answers.map(({ completion }) => completion.text.length)
      })
      const messages = [
        { role: "system", content: "Be kind." },
        { role: "user", content: "Hi" }
      ]
      const chat = { critique: critique("", { prompt: messages }), refinements: ["dddd"] }
      const selector = Selection.fromRewardModel(model)
      assert.strictEqual(selector.name, "lengths")
      assert.deepStrictEqual(rows(yield* selector.score([...asked, chat])), [[1, 2], [3], [4]])
      assert.lengthOf(calls, 1)
      assert.deepStrictEqual(calls[0]![1], {
        prompt: { text: "My kettle leaks.", tokens: new Int32Array() },
        completion: { text: "bb", tokens: new Int32Array() }
      })
      assert.deepStrictEqual(calls[0]![3]!.prompt, {
        text: "system: Be kind.\n\nuser: Hi",
        tokens: new Int32Array(),
        messages
      })
    })
  )

  it.effect("that reads tokens gets those that would be trained on", () =>
    Effect.gen(function* () {
      const tokenizer: Tokenizer.Tokenizer = {
        ...Tokenizer.numeric(10),
        eosId: 9,
        encode: (text, options) =>
          Int32Array.from([...(options?.addSpecialTokens === false ? [] : [0]), ...text.split(" ").map(Number)])
      }
      const seen: Array<readonly [ReadonlyArray<number>, ReadonlyArray<number>]> = []
      const model = RewardModel.fromFunction(
        "tokens",
        ({ completion, prompt }) => {
          seen.push([[...prompt.tokens], [...completion.tokens]])
          return 0
        },
        { tokenizer }
      )
      const questions = [
        { critique: critique("", { prompt: "1 2" }), refinements: ["3 4", "5"] },
        { critique: critique("", { prompt: "" }), refinements: ["6"] }
      ]
      // The prompt of a numeric tokenizer is made by its own encode.
      const prompted = { ...tokenizer, prompt: Tokenizer.numeric(10).prompt }
      yield* Selection.fromRewardModel({ ...model, tokenizer: prompted }, { name: "rm" }).score(questions)
      assert.deepStrictEqual(seen, [
        [
          [1, 2],
          [3, 4, 9]
        ],
        [
          [1, 2],
          [5, 9]
        ],
        [[], [0, 6, 9]]
      ])
      assert.throws(
        () => Selection.fromRewardModel(model, { tokenizer: Tokenizer.numeric(8) }),
        /reads tokens of another tokenizer/
      )
      const chat = { critique: critique("", { prompt: [{ role: "user", content: "1" }] }), refinements: ["2"] }
      assert.match(
        yield* message(Selection.fromRewardModel({ ...model, tokenizer: prompted }).score([chat])),
        /^selector tokens: question 0: .*numeric/
      )
    })
  )

  it.effect("that fails is named with question and refinement", () =>
    Effect.gen(function* () {
      const nan = RewardModel.fromFunction("rm", ({ completion }) => (completion.text === "ccc" ? Number.NaN : 1))
      assert.match(
        yield* message(Selection.fromRewardModel(nan, { name: "best" }).score(asked)),
        /^selector best: question 1, refinement 0: scored answer 2 of 3 as NaN; a score must be/
      )
      const thrown: RewardModel.RewardModelShape = {
        name: "rm",
        score: () =>
          Effect.die(new ModelError.ModelError({ model: "m", operation: "values", message: "out of memory" }))
      }
      assert.match(yield* message(Selection.fromRewardModel(thrown).score(asked)), /^selector rm: .*out of memory/)
    })
  )
})
