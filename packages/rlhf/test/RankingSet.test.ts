import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { Progress, Prompt, Ranking, Sft, Tokenizer } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Result, Schema } from "effect"
import * as RankingSet from "../src/RankingSet.ts"

// Words with the space before them as tokens, after a first special token; id 1 ends texts. Case is lost.
const wordTokenizer = ({ ends = true, chats = true } = {}): Tokenizer.Tokenizer => {
  const words: Array<string> = ["<s>", "</s>"]
  const id = (word: string) => {
    if (!words.includes(word)) words.push(word)
    return words.indexOf(word)
  }
  const encode: Tokenizer.Tokenizer["encode"] = (text, options) => {
    const ids = (text.toLowerCase().match(/\s*\S+/g) ?? []).map(id)
    return Int32Array.from(options?.addSpecialTokens === false ? ids : [0, ...ids])
  }
  return {
    ...Tokenizer.numeric(1),
    bosId: 0,
    eosId: ends ? 1 : undefined,
    encode,
    prompt: (content) => {
      if (typeof content === "string") return Result.succeed(Prompt.make(content, encode(content)))
      if (!chats) {
        return Result.fail(new Tokenizer.TokenizerError({ file: "tokenizer", reason: "has no chat template" }))
      }
      const text = content.map((message) => `${message.role}: ${message.content}`).join(" ")
      return Result.succeed(Prompt.make(text, encode(text, { addSpecialTokens: false }), content))
    }
  }
}

const reader = (options?: Parameters<typeof wordTokenizer>[0], contextLength = 100): RankingSet.Reader => ({
  tokenizer: wordTokenizer(options),
  contextLength
})

const ranking = (
  completions: ReadonlyArray<string>,
  ranks: ReadonlyArray<number>,
  prompt: Prompt.Content = "say it"
): Ranking.Ranking => ({ prompt, completions, ranks })

const make = (...args: Parameters<typeof RankingSet.make>) =>
  Effect.provide(RankingSet.make(...args), Progress.layer({ mode: "quiet" }))

const message = <A>(effect: Effect.Effect<A, RankingSet.RankingSetError>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)

describe("a set of rankings", () => {
  it.effect("has the tokens that supervised fine-tuning has, the end of text included", () =>
    Effect.gen(function* () {
      const chat = [{ role: "user", content: "Hello you" }]
      const given = [
        ranking([" yes", " no no"], [2, 1]),
        ranking(["never", "ever so"], [1, 2], chat),
        ranking(["one", "two"], [1, 2], "")
      ]
      for (const model of [reader(), reader({ ends: false })]) {
        const { rankings } = yield* make(model, given)
        const expected = Result.getOrThrow(
          Sft.examples(
            model.tokenizer,
            given.flatMap(({ completions, prompt }) => completions.map((completion) => ({ prompt, completion })))
          )
        )
        const tokens = rankings.flatMap(({ completions, prompt }) =>
          completions.map((completion) => [...prompt.tokens, ...completion.tokens])
        )
        assert.deepStrictEqual(
          tokens,
          expected.map((example) => [...example.tokens])
        )
        const ends = rankings.flatMap(({ completions }) => completions.map(({ tokens }) => tokens.at(-1) === 1))
        assert.deepStrictEqual(ends, Array(6).fill(model.tokenizer.eosId === 1))
      }
    })
  )

  it.effect("keeps texts, ranks and places, and counts pairs by hand", () =>
    Effect.gen(function* () {
      const given = [
        ranking(["a", "b"], [5, 5]),
        ranking(["a", "b", "c", "d"], [1, 2, 2, 2], "best of four"),
        ranking(["a", "b"], [2, 1]),
        ranking(["a", "b", "c", "d"], [1, 2, 2, 4]),
        ranking(
          Array.from({ length: 11 }, (_, i) => `w${i}`),
          [0, 0, ...Array(9).keys()]
        )
      ]
      const { rankings, summary } = yield* make(reader(), given)
      assert.deepStrictEqual(
        rankings.map(({ index, pairs, ranks }) => [index, pairs, ranks]),
        [
          [1, 3, given[1]!.ranks],
          [2, 1, given[2]!.ranks],
          [3, 5, given[3]!.ranks],
          [4, 52, given[4]!.ranks] // of 55, less the three ties of rank 0
        ]
      )
      assert.deepStrictEqual(
        rankings.map(({ completions, prompt }) => [prompt.text, completions.map(({ text }) => text)]),
        given.slice(1).map(({ completions, prompt }) => [prompt as string, completions])
      )
      assert.deepStrictEqual(summary, {
        given: 5,
        kept: 4,
        tied: 1,
        tooLong: 0,
        copies: 0,
        pairs: 61,
        tiedPairs: 7, // 3 + 0 + 1 + 3
        perK: [
          { K: 2, rankings: 1, pairs: 1 },
          { K: 4, rankings: 2, pairs: 8 },
          { K: 11, rankings: 1, pairs: 52 }
        ]
      })
    })
  )

  it.effect("refuses rankings all tied where told so, and sets of which nothing is left", () =>
    Effect.gen(function* () {
      const given = [ranking(["a", "b"], [1, 2]), ranking(["a", "b", "c"], [3, 3, 3])]
      const error = yield* Effect.flip(make(reader(), given, { tied: "refuse" }))
      assert.strictEqual(error._tag, "RankingSetError")
      assert.strictEqual(error.ranking, 1)
      assert.match(error.message, /^ranking 1: no completion is better than another/)
      assert.match(
        yield* message(make(reader({}, 4), given, { tooLong: "skip" })),
        /nothing to learn from: of 2 rankings, 0 are all tied and 2 are too long/
      )
      assert.match(yield* message(make(reader(), given.slice(1))), /of 1 rankings, 1 are all tied and 0 are too long/)
      assert.strictEqual(yield* message(make(reader(), [])), "there is no ranking to learn from")
    })
  )

  it.effect("refuses what cannot be compared, with its place", () =>
    Effect.gen(function* () {
      const good = ranking(["a", "b"], [1, 2])
      const complain = (bad: Ranking.Ranking, model = reader()) => message(make(model, [good, bad]))
      assert.match(yield* complain(ranking(["a"], [1])), /^ranking 1: has 1 completions; at least 2/)
      assert.match(yield* complain(ranking(["a", "b", "c"], [1, 2])), /^ranking 1: has 2 ranks for 3 completions/)
      assert.match(yield* complain(ranking(["a", "b"], [1, 2, 3])), /^ranking 1: has 3 ranks for 2 completions/)
      assert.match(yield* complain(ranking(["a", "b"], [1, Number.NaN])), /^ranking 1: rank 1 is NaN/)
      assert.match(yield* complain(ranking(["a", "b"], [0.5, 1])), /^ranking 1: rank 0 is 0.5/)
      assert.match(
        yield* complain(ranking(["a", "  "], [1, 2]), reader({ ends: false })),
        /^ranking 1: completion 1 has no tokens/
      )
      const chat = ranking(["a", "b"], [1, 2], [{ role: "user", content: "hi" }])
      const error = yield* Effect.flip(make(reader({ chats: false }), [good, chat]))
      assert.strictEqual(error.message, "ranking 1: tokenizer: has no chat template")
      assert.instanceOf(error.cause, Tokenizer.TokenizerError)
    })
  )

  it.effect("has rankings that fit the model, or counts those that do not", () =>
    Effect.gen(function* () {
      // <s> say it + one two </s> are six tokens
      const given = [ranking(["one two", "one"], [1, 2]), ranking(["one", "two", "one two three"], [1, 2, 3])]
      const { rankings } = yield* make(reader({}, 6), given.slice(0, 1))
      assert.strictEqual(rankings.length, 1)
      const error = yield* Effect.flip(make(reader({}, 6), given))
      assert.strictEqual(error.ranking, 1)
      assert.match(
        error.message,
        /^ranking 1: the prompt has 3 tokens and completion 2 has 4, together more than the model's context of 6/
      )
      const skipped = yield* make(reader({}, 6), given, { tooLong: "skip" })
      assert.deepStrictEqual(
        skipped.rankings.map(({ index }) => index),
        [0]
      )
      assert.deepStrictEqual([skipped.summary.given, skipped.summary.kept, skipped.summary.tooLong], [2, 1, 1])
    })
  )

  it.effect("is read with pauses, in which it can be stopped", () =>
    Effect.gen(function* () {
      let encoded = 0
      const tokenizer = wordTokenizer()
      const counting: Tokenizer.Tokenizer = {
        ...tokenizer,
        encode: (...args) => {
          encoded++
          return tokenizer.encode(...args)
        }
      }
      const given = Array.from({ length: 40 }, () => ranking(["a", "b"], [1, 2]))
      const fiber = yield* Effect.forkChild(make({ tokenizer: counting, contextLength: 9 }, given))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      assert.isAbove(encoded, 0)
      assert.isBelow(encoded, 80)
    })
  )

  it.effect("has no completion twice: refused, or removed where ranks agree, and altogether where they do not", () =>
    Effect.gen(function* () {
      // As tokens "B" is "b".
      const given = [
        ranking(["a", "b", "c", "B"], [1, 2, 3, 2]),
        ranking(["a", "b", "c", "B"], [1, 2, 3, 4]),
        ranking(["a", "a"], [1, 2])
      ]
      assert.match(
        yield* message(make(reader(), given.slice(1))),
        /^ranking 0: completions 1 and 3 are the same, with ranks 2 and 4/
      )
      const { rankings, summary } = yield* make(reader(), given, { copies: "remove" })
      assert.deepStrictEqual(
        rankings.map(({ completions, ranks }) => [completions.map(({ text }) => text), ranks]),
        [
          [
            ["a", "b", "c"],
            [1, 2, 3]
          ],
          [
            ["a", "c"],
            [1, 3]
          ]
        ]
      )
      assert.deepStrictEqual([summary.copies, summary.tied, summary.kept, summary.pairs], [5, 1, 2, 4])
      assert.deepStrictEqual(
        summary.perK.map(({ K }) => K),
        [2, 3]
      )
    })
  )
})

describe("a split", () => {
  const given = Array.from({ length: 300 }, (_, i) => ranking([`a${i}`, `b${i}`], [1, 2], `prompt ${i % 100}`))
  const halves = (seed: number, share = 0.2, rankings: ReadonlyArray<Ranking.Ranking> = given) =>
    Result.getOrThrow(RankingSet.split(rankings, { share, seed }))

  it("holds out a share of the prompts, and no prompt is on both sides", () => {
    const { heldOut, train } = halves(3)
    assert.strictEqual(heldOut.length, 60)
    assert.strictEqual(train.length, 240)
    const prompts = new Set(heldOut.map(({ prompt }) => prompt))
    assert.strictEqual(prompts.size, 20)
    assert.isFalse(train.some(({ prompt }) => prompts.has(prompt)))
    for (const side of [train, heldOut]) {
      const places = side.map((one) => given.indexOf(one))
      assert.deepStrictEqual(
        places,
        [...places].sort((a, b) => a - b)
      )
    }
  })

  it("depends on the seed and on nothing else", () => {
    assert.deepStrictEqual(halves(3), halves(3))
    assert.deepStrictEqual(Result.getOrThrow(RankingSet.split(given, { share: 0.2 })), halves(0))
    assert.notDeepEqual(halves(3).heldOut, halves(4).heldOut)
    // Not the first or the last prompts.
    const places = new Set(halves(3).heldOut.map((one) => given.indexOf(one) % 100))
    assert.isAbove(Math.max(...places) - Math.min(...places), 50)
  })

  it("leaves no side empty", () => {
    const few = given.slice(0, 3)
    assert.strictEqual(halves(0, 0.001, few).heldOut.length, 1)
    assert.strictEqual(halves(0, 0.999, few).train.length, 1)
    const complain = (rankings: ReadonlyArray<Ranking.Ranking>, share: number) =>
      Result.getOrThrow(Result.flip(RankingSet.split(rankings, { share }))).message
    assert.match(complain([given[0]!, given[100]!], 0.5), /^2 rankings have 1 different prompts/)
    assert.match(complain([], 0.5), /^0 rankings have 0 different prompts/)
    for (const share of [0, 1, -0.1, 1.5, Number.NaN]) {
      assert.match(complain(given, share), /^the share to hold out must be between 0 and 1, got/)
    }
  })

  it("knows conversations by what is said, and takes rankings without a prompt for different ones", () => {
    const chat = (content: string) => ranking(["a", "b"], [1, 2], [{ role: "user", content }])
    const chats = [chat("x"), chat("y"), chat("x"), chat("y")]
    for (const seed of [0, 1, 2]) {
      const { heldOut, train } = halves(seed, 0.5, chats)
      assert.deepStrictEqual([heldOut[0], train[0]], [heldOut[1], train[1]])
    }
    const bare = Array.from({ length: 4 }, () => ranking(["a", "b"], [1, 2], ""))
    assert.strictEqual(halves(0, 0.5, bare).heldOut.length, 2)
  })

  it.effect("is the same of rankings as of their tokens", () =>
    Effect.gen(function* () {
      const { rankings } = yield* make(reader(), given)
      const { heldOut } = Result.getOrThrow(RankingSet.split(rankings, { share: 0.2, seed: 3 }))
      assert.deepStrictEqual(
        heldOut.map(({ index }) => given[index]!),
        halves(3).heldOut
      )
    })
  )
})

const data = join(import.meta.dirname, "../../../../shared/data")
const [model, pairs] = [join(data, "tinystories-656K"), join(data, "hh-rlhf-harmless/pairs.jsonl")]
const missing = [model, pairs].find((path) => !existsSync(path))
if (missing !== undefined) process.stderr.write(`skipped: ../shared/data/${missing.slice(data.length + 1)} is absent\n`)

describe.runIf(missing === undefined)("HH-RLHF, harmless", () => {
  it.effect("becomes tokens of a real model", () =>
    Effect.gen(function* () {
      const files = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"]
      const contents = new Map(
        files.flatMap((name) => {
          const path = join(model, name)
          return existsSync(path) ? [[name, readFileSync(path)] as const] : []
        })
      )
      const tokenizer = Result.getOrThrow(Tokenizer.fromFiles(contents))
      const lines = readFileSync(pairs, "utf8").trim().split("\n").slice(0, 200)
      const rankings = lines.map((line) => Schema.decodeUnknownSync(Schema.fromJsonString(Ranking.Ranking))(line))
      const refused = yield* Effect.flip(make({ tokenizer, contextLength: 512 }, rankings))
      assert.match(refused.message, /^ranking 3: the prompt has 422 tokens and completion 1 has 99, together more/)
      const made = yield* make({ tokenizer, contextLength: 512 }, rankings, { tooLong: "skip" })
      const { given, kept, pairs: keptPairs, tooLong } = made.summary
      assert.deepStrictEqual([given, kept + tooLong, keptPairs], [200, 200, kept])
      assert.isAbove(tooLong, 5)
      for (const { completions, index, prompt } of made.rankings) {
        assert.isTrue(prompt.text.endsWith("\n\nAssistant:"))
        assert.strictEqual(prompt.tokens.indexOf(tokenizer.eosId!), -1)
        for (const [i, { text, tokens }] of completions.entries()) {
          assert.strictEqual(tokens.indexOf(tokenizer.eosId!), tokens.length - 1)
          assert.strictEqual(text, rankings[index]!.completions[i])
          assert.isAtMost(prompt.tokens.length + tokens.length, 512)
        }
      }
    })
  )
})
