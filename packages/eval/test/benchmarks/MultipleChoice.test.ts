import { type Policy, Progress } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Result } from "effect"
import * as MultipleChoice from "../../src/benchmarks/MultipleChoice.ts"
import * as Loglikelihood from "../../src/text/Loglikelihood.ts"
import * as Scripted from "../scripted.ts"

const quiet = Progress.layer({ mode: "quiet" })

// Merges "ab" into one token (id 1), the others are one per character; optionally begins with token 0.
const merging = (bosId: number | undefined) => ({
  ...Scripted.tokenizer,
  bosId,
  eosId: undefined,
  encode: (text: string, options?: { readonly addSpecialTokens?: boolean | undefined }) => {
    const ids = [...text.replaceAll("ab", "\0")].map((c) => (c === "\0" ? 1 : c.charCodeAt(0) + 2))
    return Int32Array.from(options?.addSpecialTokens === false || bosId === undefined ? ids : [bosId, ...ids])
  }
})

const encoded = (
  tokenizer: Loglikelihood.Reader["tokenizer"],
  context: string,
  continuation: string,
  contextLength = 99
) =>
  Result.map(
    Loglikelihood.encoder({ tokenizer, contextLength })({ context, continuation }),
    ({ completion, crosses, prompt, truncated }) => ({
      prompt: [...prompt],
      completion: [...completion],
      truncated,
      crosses
    })
  )

const id = (c: string) => c.charCodeAt(0) + 2

describe("Loglikelihood.encoder", () => {
  it("splits the whole text where the context ends", () => {
    assert.deepStrictEqual(
      encoded(merging(0), "xab", " ab"),
      Result.succeed({ prompt: [0, id("x"), 1], completion: [id(" "), 1], truncated: 0, crosses: false })
    )
  })

  it("moves white space at the end of the context to the continuation", () => {
    assert.deepStrictEqual(
      encoded(merging(0), "x \n", "y"),
      Result.succeed({
        prompt: [0, id("x")],
        completion: [id(" "), id("\n"), id("y")],
        truncated: 0,
        crosses: false
      })
    )
  })

  it("keeps the context's own tokens where a merge crosses its end, and says so", () => {
    // The whole text is [0, x, ab, y]: what is left of it after the three tokens of the context is y alone.
    assert.deepStrictEqual(
      encoded(merging(0), "xa", "by"),
      Result.succeed({ prompt: [0, id("x"), id("a")], completion: [id("y")], truncated: 0, crosses: true })
    )
    // [0, x, ab] is no longer than the context: it is split after the tokens that both have.
    assert.deepStrictEqual(
      encoded(merging(0), "xa", "b"),
      Result.succeed({ prompt: [0, id("x")], completion: [1], truncated: 0, crosses: true })
    )
    assert.deepStrictEqual(encoded(merging(0), "xa", ""), Result.fail("it adds no tokens to its context"))
  })

  it("begins a text without context with the beginning-of-text token, and does not write a second one", () => {
    const alone = { prompt: [0], completion: [id("y")], truncated: 0, crosses: false }
    assert.deepStrictEqual(encoded(merging(0), "", "y"), Result.succeed(alone))
    assert.deepStrictEqual(encoded(merging(0), " ", "y"), Result.succeed({ ...alone, completion: [id(" "), id("y")] }))
    const literal = encoded(Scripted.tokenizer, "<s>x", "y")
    assert.deepStrictEqual(
      Result.map(literal, ({ prompt }) => prompt.length),
      Result.succeed(4)
    )
    assert.match(Result.getOrThrow(Result.flip(encoded(merging(undefined), "", "y"))), /no beginning-of-text token/)
  })

  it("cuts a long context from the left, and refuses a completion that leaves no room for it", () => {
    assert.deepStrictEqual(
      encoded(merging(0), "uvwx", "yz", 5),
      Result.succeed({
        prompt: [id("v"), id("w"), id("x")],
        completion: [id("y"), id("z")],
        truncated: 2,
        crosses: false
      })
    )
    assert.isTrue(Result.isSuccess(encoded(merging(0), "uvwx", "yz", 3)))
    assert.match(Result.getOrThrow(Result.flip(encoded(merging(0), "uvwx", "yz", 2))), /it has 2 tokens; .* is 2/)
  })
})

describe("Loglikelihood.logprobs", () => {
  it.effect(
    "keeps the order of its groups, whatever their length, and calls the policy for some of them at a time",
    () =>
      Effect.gen(function* () {
        const calls: Array<number> = []
        const policy = Scripted.policy()
        const counting: Pick<typeof policy, "logprobs"> = {
          logprobs: (continuations) => {
            calls.push(continuations.length)
            return Effect.succeed(
              continuations.map(({ completion, prompt }) => Float32Array.of(prompt[0]!, completion.length))
            )
          }
        }
        const groups = Array.from({ length: 60 }, (_, g) =>
          Array.from({ length: 1 + (g % 3) }, (_, c) => ({
            prompt: Int32Array.of(10 * g + c),
            completion: new Int32Array(100 + ((g * 37) % 900))
          }))
        )
        const read: Array<number> = []
        const group = (i: number) => {
          read.push(i)
          return Result.succeed(groups[i]!)
        }
        const results = yield* Loglikelihood.logprobs(counting, groups.length, group, { label: "test" })
        assert.deepStrictEqual(
          read,
          groups.map((_, i) => i)
        )
        assert.deepStrictEqual(
          results.map((group) => group.map((x) => [...x])),
          groups.map((group) => group.map(({ completion, prompt }) => [prompt[0]!, completion.length]))
        )
        assert.strictEqual(
          calls.reduce((a, b) => a + b),
          120
        )
        assert.isAbove(calls.length, 1)
      }).pipe(Effect.provide(quiet))
  )

  it.effect("reads the next groups while it scores, and fails with the one that cannot be read", () =>
    Effect.gen(function* () {
      const events: Array<string> = []
      const scored = yield* Deferred.make<void>()
      const waiting: Pick<Policy.PolicyShape, "logprobs"> = {
        logprobs: (continuations) =>
          Effect.as(
            Deferred.await(scored),
            continuations.map(() => Float32Array.of(0))
          )
      }
      const group = (i: number) => {
        events.push(`read ${i}`)
        // The first group fills the first window, and is with the policy, which answers once the second has been read.
        if (i === 1) Deferred.doneUnsafe(scored, Effect.void)
        return i === 5
          ? Result.fail("broken" as const)
          : Result.succeed([{ prompt: new Int32Array(20_000), completion: Int32Array.of(1) }])
      }
      const exit = yield* Loglikelihood.logprobs(waiting, 6, group, { label: "test" }).pipe(
        Effect.provide(quiet),
        Effect.flip
      )
      assert.strictEqual(exit, "broken")
      assert.deepStrictEqual(
        events,
        [0, 1, 2, 3, 4, 5].map((i) => `read ${i}`)
      )
    })
  )

  it.effect("shows progress under its label", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const sink = { write: (text: string) => void lines.push(text), isTTY: false, columns: 80 }
      const groups = [[{ prompt: Int32Array.of(1), completion: Int32Array.of(2) }]]
      const group = (i: number) => Result.succeed(groups[i]!)
      yield* Loglikelihood.logprobs(Scripted.policy(), 1, group, { label: "riddles" }).pipe(
        Effect.provide(Progress.layer({ mode: "lines", sink }))
      )
      assert.match(lines.join(""), /^riddles 1\/1 100%/)
    })
  )
})

const item = (id: string, gold: number | ReadonlyArray<number>, choices = ["aa", "b"]): MultipleChoice.Item => ({
  id,
  context: "Q",
  choices,
  gold
})

const tables: Readonly<Record<string, number>> = { " aa": -3, " b": -2, " ééé": -4, " c": -2 }
const policy = Scripted.policy({ logprob: (_, text) => tables[text] ?? Number.NaN })

describe("MultipleChoice.score", () => {
  it.effect("refuses a choice that does not fit the model before it scores any", () =>
    Effect.gen(function* () {
      let calls = 0
      const counting: typeof policy = {
        ...policy,
        logprobs: (continuations) => {
          calls++
          return policy.logprobs(continuations)
        }
      }
      const long = "x".repeat(policy.contextLength + 1)
      const error = yield* Effect.flip(
        MultipleChoice.score(counting, [item("1", 0), item("2", 0, ["aa", long])]).pipe(Effect.provide(quiet))
      )
      assert.match(error.message, /"2".*choice 1 cannot be scored: it has \d+ tokens; the model's context is \d+/)
      assert.strictEqual(calls, 0)
    })
  )

  it.effect("sums the log-probs of the tokens of every choice after the context and a space", () =>
    Effect.gen(function* () {
      const [answer] = yield* MultipleChoice.score(policy, [item("1", 1, ["aa", "b", "ééé"])])
      assert.deepStrictEqual(answer, {
        id: "1",
        gold: [1],
        logprobs: Float64Array.of(-3, -2, -4),
        tokens: [3, 2, 4],
        characters: [2, 1, 3],
        bytes: [2, 1, 6],
        truncated: 0,
        crosses: false
      })
    }).pipe(Effect.provide(quiet))
  )

  it.effect("reports how many tokens were cut from a context", () =>
    Effect.gen(function* () {
      const short = Scripted.policy({ contextLength: 8 })
      const items = [
        { id: "long", context: "0123456", choices: ["x", "yz"], gold: 0 },
        { id: "short", context: "0", choices: ["x", "yz"], gold: 0 }
      ]
      const answers = yield* MultipleChoice.score(short, items)
      assert.deepStrictEqual(
        answers.map(({ truncated }) => truncated),
        [3, 0]
      )
      assert.deepStrictEqual(MultipleChoice.notes(answers), { truncated: 1, crossing: 0 })
    }).pipe(Effect.provide(quiet))
  )

  for (const [what, items, reason] of [
    ["no items", [], /^t: there are no items$/],
    ["an id twice", [item("7", 0), item("7", 1)], /item "7": the id stands twice/],
    ["one choice", [item("7", 0, ["aa"])], /item "7": there are 1 choices/],
    [
      "a choice that adds nothing",
      [{ ...item("7", 0, ["aa", ""]), delimiter: "" }],
      /item "7": choice 1 cannot be scored: it adds no tokens/
    ],
    ["no right choice", [item("7", [])], /item "7": no choice is marked as right/],
    ["a right choice that is none", [item("7", [0, 2])], /item "7": the right choice is 2; .* 0 to 1/],
    ["a log-prob that is no number", [item("7", 0, ["aa", "zz"])], /item "7": the log-prob of choice 1 is NaN/]
  ] as const) {
    it.effect(`refuses ${what}`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(MultipleChoice.score(policy, items, { task: "t" }))
        assert.strictEqual(error._tag, "MultipleChoiceError")
        assert.match(error.message, reason)
      }).pipe(Effect.provide(quiet))
    )
  }
})

const answer = (id: string, gold: ReadonlyArray<number>, logprobs: ReadonlyArray<number>): MultipleChoice.Answer => ({
  id,
  gold,
  logprobs: Float64Array.from(logprobs),
  tokens: [4, 3, 1],
  characters: [10, 5, 1],
  bytes: [10, 20, 1],
  truncated: 0,
  crosses: false
})

describe("MultipleChoice.scores", () => {
  it("chooses by sum, characters, bytes and tokens; of equal choices the first", () => {
    // per character -1.2, -1.6, -4; per byte -1.2, -0.4, -4; per token -3, -2.67, -4
    const one = answer("1", [2], [-12, -8, -4])
    assert.deepStrictEqual(
      (["acc", "acc_norm", "acc_bytes", "acc_token_norm"] as const).map((metric) => MultipleChoice.chosen(one, metric)),
      [2, 0, 1, 1]
    )
    assert.strictEqual(MultipleChoice.chosen(answer("1", [0], [-5, -3, -3]), "acc"), 1)
    // An empty choice that is certain: 0 / 0.
    const empty = { ...answer("1", [0], [0, -3, -5]), characters: [0, 3, 10] }
    assert.strictEqual(MultipleChoice.chosen(empty, "acc_norm"), 2)
  })

  it("are shares with Wilson's interval, and samples to pair by", () => {
    const answers = [
      answer("1", [2], [-12, -8, -4]),
      answer("2", [0], [-12, -8, -4]),
      answer("3", [1, 2], [-12, -8, -4])
    ]
    const [acc, norm] = MultipleChoice.scores(answers, { system: "m", task: "t" })
    assert.deepStrictEqual([acc!.system, acc!.task, acc!.metric, norm!.metric], ["m", "t", "acc", "acc_norm"])
    assert.deepStrictEqual([acc!.estimate.n, acc!.estimate.method], [3, "rate, Wilson"])
    assert.deepStrictEqual([...acc!.sample.values], [1, 0, 1])
    assert.deepStrictEqual([...norm!.sample.values], [0, 1, 0])
    assert.deepStrictEqual(acc!.sample.ids, ["1", "2", "3"])
    assert.closeTo(acc!.estimate.value, 2 / 3, 1e-12)
  })

  it("measures the probability of all right choices, also where none has one that a float holds", () => {
    const logs = [Math.log(0.2), Math.log(0.1), Math.log(0.1)]
    assert.closeTo(MultipleChoice.rightMass(answer("1", [0, 2], logs)), 0.75, 1e-12)
    const tiny = logs.map((x) => x - 2000)
    assert.closeTo(MultipleChoice.rightMass(answer("1", [0, 2], tiny)), 0.75, 1e-9)
  })
})
