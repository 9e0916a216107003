import { existsSync } from "node:fs"
import { join } from "node:path"
import { ForcedChoice, ModelError, Policy, Tensor, Tokenizer } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { Attention, Heads } from "@attune/core/nn"
import { Graph, Model, Op } from "@attune/core/onnx"
import { Device, OrtPolicy } from "@attune/core/ort"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Result, Stream } from "effect"
import * as Judge from "../../src/judging/Judge.ts"
import * as PolicyJudge from "../../src/judging/PolicyJudge.ts"

/** Words with the space before them as tokens, between a first and, if `closes`, a last special token. */
const wordTokenizer = (closes = false) => {
  const words: Array<string> = ["<s>", "</s>"]
  const id = (word: string) => {
    if (!words.includes(word)) words.push(word)
    return words.indexOf(word)
  }
  const encode: Tokenizer.Tokenizer["encode"] = (text, options) => {
    const ids = (text.match(/\s*\S+|\s+/g) ?? []).map(id)
    return Int32Array.from(options?.addSpecialTokens === false ? ids : [0, ...ids, ...(closes ? [1] : [])])
  }
  const decode = (ids: ArrayLike<number>) => Array.from(ids, (id) => words[id]).join("")
  const tokenizer: Tokenizer.Tokenizer = {
    ...Tokenizer.numeric(1),
    bosId: 0,
    eosId: 1,
    specialIds: new Set([0, 1]),
    encode,
    decode,
    token: (id) => words[id],
    applyChatTemplate: (messages, options) => {
      const said = messages.map((message) => ` ${message.role}: ${message.content}`).join("")
      return Result.succeed(`<s>${said}${options?.addGenerationPrompt === true ? " assistant:" : ""}`)
    }
  }
  return tokenizer
}

interface Asked {
  readonly prompt: string
  readonly completion: string
}

/** A policy with the given log-prob of each word of an answer, and all that it was asked. */
const policyOf = (
  logprob: (word: string, asked: Asked) => number,
  { contextLength = 1000, tokenizer = wordTokenizer() } = {}
) => {
  const calls: Array<ReadonlyArray<Asked>> = []
  const unused = () => assert.fail("a judge does not sample")
  const policy: Policy.PolicyShape = {
    name: "fake",
    tokenizer,
    vocabSize: 1000,
    contextLength,
    sample: () => Effect.sync(unused),
    stream: () => Stream.sync(unused),
    logprobs: (continuations) =>
      Effect.sync(() => {
        const asked = continuations.map(({ completion, prompt }) => ({
          prompt: tokenizer.decode(prompt),
          completion: tokenizer.decode(completion)
        }))
        calls.push(asked)
        return continuations.map(({ completion }, i) =>
          Float32Array.from(completion, (id) => logprob(tokenizer.token(id)!, asked[i]!))
        )
      })
  }
  return { calls, policy }
}

const question = (id: string, completion = "an answer"): Judge.Question => ({
  id,
  prompt: "What?",
  completion,
  question: "Is it short?"
})
const comparison = (id: string, first: string, second: string): Judge.Comparison => ({
  id,
  prompt: "What?",
  first,
  second
})
const template = (
  content: PolicyJudge.Template["content"],
  answers: PolicyJudge.Template["answers"] = [" Yes", " No"]
): PolicyJudge.Template => ({ content, answers })
const plain = template("{prompt} {completion} {question}")

const close = (actual: number, expected: number, tolerance = 1e-7) => assert.closeTo(actual, expected, tolerance)
const message = <A, R>(effect: Effect.Effect<A, Judge.JudgeError, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)

describe("the probability of Yes", () => {
  it("is normalised over both answers", () => {
    close(ForcedChoice.probability(-0.2, -1.9), 0.84553473, 5e-9)
    close(ForcedChoice.probability(Math.log(0.3), Math.log(0.1)), 0.75, 1e-15)
    assert.strictEqual(ForcedChoice.probability(-1000, -2000), 1)
    assert.strictEqual(ForcedChoice.probability(-2000, -1000), 0)
    assert.strictEqual(ForcedChoice.probability(Number.NEGATIVE_INFINITY, -1), 0)
  })

  it.effect("is that of the model's answers after the filled template", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf((word) => Math.log(word === " Yes" ? 0.3 : 0.1))
      const grader = PolicyJudge.grader(policy, { templates: [plain] })
      const [p, ...rest] = yield* grader.grade([question("a")])
      close(p!, 0.75)
      assert.deepStrictEqual(rest, [])
      assert.deepStrictEqual(calls, [
        [
          { prompt: "<s>What? an answer Is it short?", completion: " Yes" },
          { prompt: "<s>What? an answer Is it short?", completion: " No" }
        ]
      ])
    })
  )

  it.effect("sums the tokens of long answers, after what they have in common", () =>
    Effect.gen(function* () {
      const logprobs: Record<string, number> = { " do": -0.5, " agree": -0.25, " fully": -0.125, " doubt": -2 }
      const { calls, policy } = policyOf((word) => logprobs[word] ?? -100)
      const long = template("{completion}", [" I do agree fully", " I doubt"])
      const [p] = yield* PolicyJudge.grader(policy, { templates: [long] }).grade([question("a")])
      close(p!, 1 / (1 + Math.exp(-2 + 0.875)))
      assert.deepStrictEqual(calls[0], [
        { prompt: "<s>an answer I", completion: " do agree fully" },
        { prompt: "<s>an answer I", completion: " doubt" }
      ])
    })
  )

  it.effect("is comparable where a token spans the end of the prompt", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf(() => -1)
      const merging = template("{completion} Reply:", ["Yes", "No"])
      yield* PolicyJudge.grader(policy, { templates: [merging] }).grade([question("a")])
      assert.deepStrictEqual(calls[0], [
        { prompt: "<s>an answer", completion: " Reply:Yes" },
        { prompt: "<s>an answer", completion: " Reply:No" }
      ])
    })
  )

  it.effect("leaves out a token that closes every text", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf(() => -1, { tokenizer: wordTokenizer(true) })
      yield* PolicyJudge.grader(policy, { templates: [plain] }).grade([question("a")])
      assert.deepStrictEqual(
        calls[0]!.map(({ completion }) => completion),
        [" Yes", " No"]
      )
    })
  )

  it.effect("is the arithmetic mean over templates, asked with all items in one call", () =>
    Effect.gen(function* () {
      // Four templates at 0.99 and one at 0.02 beat five at 0.70, which a geometric mean would prefer.
      const { calls, policy } = policyOf((word, { prompt }) => {
        const p = prompt.includes(" B") ? 0.7 : prompt.includes("last") ? 0.02 : 0.99
        return Math.log(word === " Yes" ? p : 1 - p)
      })
      const templates = ["one", "two", "three", "four", "last"].map((name) => template(`${name} {completion}`))
      const [a, b] = yield* PolicyJudge.grader(policy, { templates }).grade([question("a", "A"), question("b", "B")])
      close(a!, 0.796)
      close(b!, 0.7)
      assert.strictEqual(calls.length, 1)
      assert.strictEqual(calls[0]!.length, 20)
    })
  )

  it.effect("is asked in the words of the model's chat template", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf(() => -1)
      const chat = template([
        { role: "system", content: "Judge." },
        { role: "user", content: "{completion}" }
      ])
      yield* PolicyJudge.grader(policy, { templates: [chat] }).grade([question("a", "It {question}")])
      assert.deepStrictEqual(
        calls[0]!.map(({ prompt }) => prompt),
        Array(2).fill("<s> system: Judge. user: It {question} assistant:")
      )
      const numeric = policyOf(() => -1, { tokenizer: Tokenizer.numeric(9) })
      assert.match(
        yield* message(PolicyJudge.grader(numeric.policy, { templates: [chat] }).grade([question("a")])),
        /^judge fake, item "a": tokenizer: is numeric/
      )
    })
  )

  it.effect("needs a question that fits the model, and says which does not", () =>
    Effect.gen(function* () {
      // "<s>What? x Is it short? Yes" are seven tokens.
      const fits = policyOf(() => -1, { contextLength: 7 })
      close((yield* PolicyJudge.grader(fits.policy, { templates: [plain] }).grade([question("a", "x")]))[0]!, 0.5)
      const { calls, policy } = policyOf(() => -1, { contextLength: 7 })
      assert.match(
        yield* message(
          PolicyJudge.grader(policy, { templates: [plain] }).grade([question("a", "x"), question("b", "x y")])
        ),
        /^judge fake, item "b": the question has 8 tokens, more than the model's context of 7/
      )
      assert.strictEqual(calls.length, 0)
    })
  )

  it.effect("fails where it is none, or the model does", () =>
    Effect.gen(function* () {
      const impossible = policyOf((_, { prompt }) => (prompt.includes("never") ? Number.NEGATIVE_INFINITY : -1)).policy
      const questions = [question("a"), question("b", "never")]
      assert.match(
        yield* message(PolicyJudge.grader(impossible).grade(questions)),
        /^judge fake, item "b": answered NaN; expected a probability/
      )
      const broken: Policy.PolicyShape = {
        ...impossible,
        logprobs: () =>
          Effect.fail(new ModelError.ModelError({ model: "fake", operation: "logprobs", message: "out of memory" }))
      }
      const error = yield* Effect.flip(PolicyJudge.grader(broken).grade(questions))
      assert.strictEqual(error.message, "judge fake: out of memory")
      assert.instanceOf(error.cause, ModelError.ModelError)
    })
  )

  it.effect("needs no model where nothing is asked", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf(() => -1)
      assert.deepStrictEqual(yield* PolicyJudge.grader(policy).grade([]), [])
      assert.strictEqual(calls.length, 0)
    })
  )
})

describe("a prompt template", () => {
  const { policy } = policyOf(() => -1)

  it("has known places, those that it needs, and two different answers", () => {
    const make = (...templates: ReadonlyArray<PolicyJudge.Template>) => PolicyJudge.grader(policy, { templates })
    assert.throws(() => make(), RangeError, "at least one")
    assert.throws(() => make(plain, template("{prompt} {answer}")), RangeError, "{answer}; its places are {prompt}")
    assert.throws(() => make(template([{ role: "user", content: "{first}" }])), RangeError, "{first}")
    assert.throws(() => make(template("{prompt} {question}")), RangeError, "lacks {completion}")
    assert.throws(() => make(template("{completion}", [" Yes", " Yes"])), RangeError, "two different")
    assert.throws(() => make(template("{completion}", [" Yes", ""])), RangeError, "two different")
    assert.throws(() => PolicyJudge.byChoice(policy, { templates: [plain] }), RangeError, "{completion}")
    assert.throws(() => PolicyJudge.byQuestion(policy, "?", { templates: [PolicyJudge.aOrB] }), RangeError, "{first}")
    assert.doesNotThrow(() => make(PolicyJudge.yesNo, PolicyJudge.trueFalse, template('{"json": 1} {completion}')))
  })

  it.effect("has answers that are told apart by tokens", () =>
    Effect.gen(function* () {
      const grade = (answers: PolicyJudge.Template["answers"]) =>
        message(PolicyJudge.grader(policy, { templates: [template("{completion}", answers)] }).grade([question("a")]))
      assert.match(yield* grade([" Yes", " Yes indeed"]), /item "a": the tokens of .* cannot be told apart/)
    })
  )

  it.effect("is filled once: braces and dollar signs of the texts stay", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf(() => -1)
      yield* PolicyJudge.grader(policy, { templates: [plain] }).grade([question("a", "{prompt} $& $1")])
      assert.strictEqual(calls[0]![0]!.prompt, "<s>What? {prompt} $& $1 Is it short?")
    })
  )
})

describe("a policy as a judge", () => {
  const share: Record<string, number> = { low: 0.25, high: 0.75, higher: 0.8 }
  const comparisons = [
    comparison("a", "high", "low"),
    comparison("b", "low", "high"),
    comparison("c", "high", "higher")
  ]
  const logprob = (word: string, { prompt }: Asked) => {
    const p = share[/: (\w+)\n\nQuestion/.exec(prompt)![1]!]!
    return Math.log(word === " Yes" ? p : 1 - p)
  }

  it.effect("prefers the answer with the higher p(Yes)", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf(logprob)
      const judge = PolicyJudge.byQuestion(policy, "Is it good?")
      assert.deepStrictEqual(yield* judge.compare(comparisons), ["first", "second", "second"])
      assert.strictEqual(calls.length, 1)
      assert.include(calls[0]![0]!.prompt, "Is it good?")
      const lenient = PolicyJudge.byQuestion(policy, "Is it good?", { margin: 0.1 })
      assert.deepStrictEqual(yield* lenient.compare(comparisons), ["first", "second", "tie"])
      assert.deepStrictEqual(yield* judge.compare([comparison("d", "low", "low")]), ["tie"])
    })
  )

  it.effect("or the one whose letter it finds likelier", () =>
    Effect.gen(function* () {
      const { calls, policy } = policyOf((word, { prompt }) => {
        const p = prompt.includes("sure") ? 0.9 : prompt.includes("leaning") ? 0.45 : 0.5
        return Math.log(word === " A" ? p : 1 - p)
      })
      const asked = [comparison("a", "sure", "x"), comparison("b", "leaning", "x"), comparison("c", "y", "x")]
      const judge = PolicyJudge.byChoice(policy)
      assert.deepStrictEqual(yield* judge.compare(asked), ["first", "second", "tie"])
      assert.strictEqual(
        calls[0]![0]!.prompt,
        "<s>Prompt: What?\n\nAnswer A: sure\n\nAnswer B: x\n\n" +
          "Question: Which answer is better? Reply with A or B.\n\nReply:"
      )
      const lenient = PolicyJudge.byChoice(policy, { margin: 0.2 })
      assert.deepStrictEqual(yield* lenient.compare(asked), ["first", "tie", "tie"])
    })
  )

  it.effect("is a layer of each kind", () =>
    Effect.gen(function* () {
      const { policy } = policyOf((word) => (word === " Yes" || word === " B" ? -1 : -2))
      const given = Layer.succeed(Policy.Policy, policy)
      const compare = Effect.flatMap(Judge.Judge, (judge) => judge.compare([comparison("a", "x", "y")]))
      const byChoice = Layer.provide(PolicyJudge.layerByChoice(), given)
      assert.deepStrictEqual(yield* Effect.provide(compare, byChoice), ["second"])
      const byQuestion = Layer.provide(PolicyJudge.layerByQuestion("Good?"), given)
      assert.deepStrictEqual(yield* Effect.provide(compare, byQuestion), ["tie"])
      const grade = Effect.flatMap(Judge.Grader, (grader) => grader.grade([question("a")]))
      close((yield* Effect.provide(grade, Layer.provide(PolicyJudge.layerGrader(), given)))[0]!, 1 / (1 + Math.exp(-1)))
    })
  )
})

const model = join(import.meta.dirname, "../../../../../shared/data/tinystories-656K")
const present = existsSync(model)
if (!present) process.stderr.write("skipped: ../shared/data/tinystories-656K is absent\n")

describe.runIf(present)("tinystories-656K as a judge", () => {
  it.effect("gives the probability that its logits say", () =>
    Effect.gen(function* () {
      const base = yield* Pretrained.load(model)
      const { decoder, tokenizer, weights } = base
      const policy = yield* OrtPolicy.make(base)
      const templates = [
        template("{completion} {question}", [" Yes, it was.", " No."]),
        template("{completion} Was the dog happy?", [" he was happy", " he was very sad"])
      ]
      const questions = ["The dog had a big bone.", "The dog was lost in the dark. He cried."].map((completion, i) => ({
        ...question(String(i), completion),
        question: "Was the dog happy?"
      }))
      const graded = yield* PolicyJudge.grader(policy, { templates }).grade(questions)

      // The whole forward pass, and the log-softmax of its logits in 64 bits.
      const device = yield* Device.Device
      const g = Graph.make("logits")
      for (const { name, shape } of decoder.parameters) Graph.input(g, name, "float32", shape)
      const ids = Graph.input(g, "tokens", "int64", ["T"])
      const attend = Attention.causal(g, decoder, { batch: 1, time: "T" })
      const hidden = decoder.forward(g, (name) => Graph.value(g, name), ids, Op.Range(g, "T"), attend)
      Graph.output(g, "logits", Heads.logits(g, hidden, Graph.value(g, decoder.headWeight)))
      const forward = yield* device.compile(Model.encode(Graph.prune(g)), { name: "logits" })
      const logprob = Effect.fnUntraced(function* (prompt: string, answer: string) {
        const start = tokenizer.encode(prompt).length
        const tokens = Array.from(tokenizer.encode(prompt + answer))
        const inputs = new Map<string, Tensor.Tensor>([...weights, ["tokens", Tensor.int64(tokens)]])
        const { tensors } = yield* forward.run(Object.fromEntries(inputs))
        const data = tensors["logits"]!.data as Float32Array
        const V = decoder.vocabSize
        let sum = 0
        for (let t = start; t < tokens.length; t++) {
          const row = Array.from(data.subarray((t - 1) * V, t * V))
          const max = Math.max(...row)
          const total = row.reduce((all, x) => all + Math.exp(x - max), 0)
          sum += row[tokens[t]!]! - max - Math.log(total)
        }
        return sum
      })
      for (const [i, { completion }] of questions.entries()) {
        let expected = 0
        for (const { answers } of templates) {
          const yes = yield* logprob(`${completion} Was the dog happy?`, answers[0])
          const no = yield* logprob(`${completion} Was the dog happy?`, answers[1])
          expected += Math.exp(yes) / (Math.exp(yes) + Math.exp(no)) / templates.length
        }
        assert.isAbove(expected, 0.01)
        assert.isBelow(expected, 0.99)
        close(graded[i]!, expected, 1e-5)
      }
      const long = { ...question("long"), completion: "The dog ran. ".repeat(400) }
      assert.match(
        yield* message(PolicyJudge.grader(policy, { templates }).grade([long])),
        /item "long": the question has \d+ tokens, more than the model's context of \d+/
      )
    }).pipe(Effect.scoped, Effect.provide([NodeServices.layer, Device.layerInProcess({ provider: "cpu", threads: 1 })]))
  )
})
