import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Redacted, type Scope } from "effect"
import { FetchHttpClient, type HttpClient } from "effect/http"
import * as Prompt from "../../src/Prompt.ts"
import * as RewardModel from "../../src/RewardModel.ts"
import * as RewardEndpoint from "../../src/remote/RewardEndpoint.ts"
import * as Tokenizer from "../../src/Tokenizer.ts"
import * as ChatServer from "./ChatServer.ts"
import { skippingClock, timeout } from "./SkippingClock.ts"

const answer = (text: string, prompt = "q: "): RewardModel.Answer => ({
  prompt: Prompt.make(prompt, [1, 2]),
  completion: { text, tokens: Int32Array.of(3, 0) }
})
const answers = (count: number) => Array.from({ length: count }, (_, i) => answer("x".repeat(i)))

const run = <A, E>(effect: Effect.Effect<A, E, HttpClient.HttpClient | Scope.Scope>) =>
  effect.pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

interface Asked {
  readonly answers: ReadonlyArray<{ readonly prompt: string; readonly completion: string }>
}
const askedOf = ({ body }: ChatServer.Seen) => body as unknown as Asked

/** Scores each answer by its length. */
const lengths: ChatServer.Behaviour = (response, seen) =>
  response.end(JSON.stringify({ scores: askedOf(seen).answers.map(({ completion }) => completion.length) }))

/** A server, a reward model of it, and a clock that skips pauses. */
const setting = Effect.fnUntraced(function* (
  behave: ChatServer.Behaviour,
  options: Partial<RewardEndpoint.Options> = {}
) {
  const server = yield* ChatServer.start(behave)
  const time = skippingClock()
  const url = `${server.baseUrl}/score`
  const model = yield* RewardEndpoint.make({ url, timeout, ...options })
  const score = (answers: ReadonlyArray<RewardModel.Answer>) =>
    model.score(answers).pipe(Effect.provideService(Clock.Clock, time.clock))
  return { server, model, score, time, url }
})

describe("a request", () => {
  it.effect("holds prompts and completions, and messages where there are any", () =>
    run(
      Effect.gen(function* () {
        const { model, score, server, url } = yield* setting(lengths, { apiKey: Redacted.make("secret") })
        const messages = [{ role: "user", content: "hi" }]
        const scores = yield* score([
          answer("abc"),
          { ...answer(""), prompt: Prompt.make("<user>hi<assistant>", [1], messages) }
        ])
        assert.deepStrictEqual(scores, Float32Array.of(3, 0))
        assert.strictEqual(model.name, url)
        assert.isFalse("tokenizer" in model)
        assert.lengthOf(server.requests, 1)
        assert.strictEqual(server.requests[0]!.url, "POST /v1/score")
        assert.strictEqual(server.requests[0]!.authorization, "Bearer secret")
        assert.deepStrictEqual<unknown>(server.requests[0]!.body, {
          answers: [
            { prompt: "q: ", completion: "abc" },
            { prompt: "<user>hi<assistant>", completion: "", messages }
          ]
        })
      })
    )
  )

  it.effect("is as OpenRLHF makes it, if told so", () =>
    run(
      Effect.gen(function* () {
        const { score, server } = yield* setting(
          (response) => response.end(JSON.stringify({ rewards: [1.5, -2], scores: [0, 0], extra_logs: {} })),
          { protocol: "openrlhf", extra: { model: "rm" } }
        )
        assert.deepStrictEqual(yield* score([answer("a"), answer("b", "r: ")]), Float32Array.of(1.5, -2))
        assert.deepStrictEqual<unknown>(server.requests[0]!.body, {
          model: "rm",
          query: ["q: a", "r: b"],
          prompts: ["q: ", "r: "],
          labels: ["", ""]
        })
      })
    )
  )

  it.effect("spells all tokens with the policy's tokenizer, whose ids the model then reads", () =>
    run(
      Effect.gen(function* () {
        const tokenizer: Tokenizer.Tokenizer = {
          ...Tokenizer.numeric(9),
          decode: (ids, options) =>
            Array.from(ids, (id) => (id > 0 ? `${id}` : options?.skipSpecialTokens === false ? "</s>" : "")).join(" ")
        }
        const { model, score, server } = yield* setting(lengths, { tokenizer })
        yield* score([answer("abc")])
        assert.deepStrictEqual(askedOf(server.requests[0]!).answers, [{ prompt: "1 2", completion: "3 </s>" }])
        assert.isFalse(RewardModel.reads(model, Tokenizer.numeric(8)))
      })
    )
  )

  it.effect("holds so many answers, and their scores keep the order", () =>
    run(
      Effect.gen(function* () {
        // Later requests are answered first.
        const waiting: Array<() => void> = []
        const { score, server } = yield* setting(
          (response, seen, index) => {
            waiting.push(() => lengths(response, seen, index))
            if (waiting.length === 3) for (const reply of waiting.reverse()) reply()
          },
          { batchSize: 4, concurrency: 3 }
        )
        assert.deepStrictEqual(
          yield* score(answers(10)),
          Float32Array.from({ length: 10 }, (_, i) => i)
        )
        assert.deepStrictEqual(server.requests.map((seen) => askedOf(seen).answers.length).sort(), [2, 4, 4])
        assert.deepStrictEqual(yield* score([]), new Float32Array())
        assert.lengthOf(server.requests, 3)
      })
    )
  )

  it.effect("is one of no more than may be under way, whoever asks", () =>
    Effect.gen(function* () {
      let underWay = 0
      let most = 0
      const fetch: typeof globalThis.fetch = async (...request) => {
        most = Math.max(most, ++underWay)
        const response = await globalThis.fetch(...request)
        const body = await response.text()
        underWay--
        return new Response(body, response)
      }
      const asked = Effect.gen(function* () {
        const { score, server } = yield* setting(lengths, { batchSize: 1, concurrency: 2 })
        yield* Effect.all([score(answers(9)), score(answers(9))], { concurrency: 2 })
        assert.lengthOf(server.requests, 18)
      })
      yield* run(asked).pipe(Effect.provideService(FetchHttpClient.Fetch, fetch))
      assert.strictEqual(most, 2)
    })
  )

  it.live("is aborted when the fiber that asked is interrupted", () =>
    run(
      Effect.gen(function* () {
        const arrived = Promise.withResolvers<ChatServer.Seen>()
        const { model } = yield* setting((_response, seen) => arrived.resolve(seen))
        const fiber = yield* Effect.forkChild(model.score(answers(1)))
        const { aborted } = yield* Effect.promise(() => arrived.promise)
        yield* Fiber.interrupt(fiber)
        yield* Effect.promise(() => aborted)
      })
    )
  )

  it.effect("comes from a layer as well", () =>
    run(
      Effect.gen(function* () {
        const server = yield* ChatServer.start(lengths)
        const scored = Effect.flatMap(RewardModel.RewardModel, (model) => model.score(answers(2)))
        const layer = RewardEndpoint.layer({ url: `${server.baseUrl}/score` })
        assert.deepStrictEqual(yield* Effect.provide(scored, layer), Float32Array.of(0, 1))
      })
    )
  )
})

describe("a failure in passing", () => {
  it.effect.each<readonly [string, ChatServer.Behaviour]>([
    ["a status that passes", (response) => ChatServer.refuse(response, 503)],
    ["a connection that breaks", (response) => response.socket!.destroy()],
    ["a page", (response) => response.end("<html>Bad gateway</html>")]
  ])("is tried again: %s", ([, misbehave]) =>
    run(
      Effect.gen(function* () {
        const { score, server, time } = yield* setting((response, seen, index) =>
          index < 2 ? misbehave(response, seen, index) : lengths(response, seen, index)
        )
        assert.deepStrictEqual(yield* score(answers(2)), Float32Array.of(0, 1))
        assert.lengthOf(server.requests, 3)
        assert.lengthOf(time.pauses, 2)
      })
    )
  )

  it.effect("is not tried again before its Retry-After", () =>
    run(
      Effect.gen(function* () {
        const at: Array<number> = []
        const { score, time } = yield* setting(
          (response, seen, index) => {
            at.push(time.now())
            if (index > 0) return lengths(response, seen, index)
            return ChatServer.refuse(response, 429, {}, { "retry-after": "7" })
          },
          { pause: 100 }
        )
        yield* score(answers(1))
        assert.lengthOf(at, 2)
        assert.isAtLeast(at[1]!, 7000)
        assert.isAtMost(at[1]!, 7100)
      })
    )
  )

  it.effect("that does not pass names URL, answers, status, attempts and what the server says", () =>
    run(
      Effect.gen(function* () {
        const { score, server, url } = yield* setting(
          (response, seen, index) =>
            askedOf(seen).answers[0]!.completion.length === 2
              ? ChatServer.refuse(response, 500, { detail: "out of memory" })
              : lengths(response, seen, index),
          { retries: 3, batchSize: 2, name: "helpful", concurrency: 1 }
        )
        const error = yield* Effect.flip(score(answers(5)))
        assert.strictEqual(
          error.message,
          `reward model helpful at ${url}: answers 2 to 3 of 5, status 500, 4 attempts: the server cannot answer now; ` +
            "try again later, or with less concurrency; it said: out of memory"
        )
        assert.strictEqual(error.status, 500)
        assert.strictEqual(error.attempts, 4)
        assert.strictEqual(error.answer, undefined)
        assert.lengthOf(server.requests, 5)
      })
    )
  )

  it.live("may be an attempt that takes too long", () =>
    run(
      Effect.gen(function* () {
        const { model, server } = yield* setting(() => undefined, { timeout: 40, retries: 1, pause: 1 })
        const error = yield* Effect.flip(model.score(answers(1)))
        assert.match(error.message, /answer 0 of 1, 2 attempts: no whole answer within 40ms; raise timeout, or lower b/)
        assert.strictEqual(error.answer, 0)
        yield* Effect.promise(() => Promise.all(server.requests.map(({ aborted }) => aborted)))
      })
    )
  )

  it.effect("may be a server that does not run", () =>
    run(
      Effect.gen(function* () {
        const { baseUrl } = yield* Effect.scoped(ChatServer.start())
        const model = yield* RewardEndpoint.make({ url: baseUrl, retries: 0, timeout })
        const error = yield* Effect.flip(model.score(answers(1)))
        assert.include(error.message, baseUrl)
        assert.match(error.message, /ECONNREFUSED.*; check that the server runs/)
        assert.strictEqual(error.status, undefined)
      })
    )
  )
})

describe("a failure that stays", () => {
  it.effect.each([
    [401, /does not accept the key; check apiKey; it said: no/],
    [404, /knows no such path; check url, which must hold the whole path/],
    [422, /rejects the request; change what it names; it said: no/]
  ] as const)("of status %i is not tried again", ([status, expected]) =>
    run(
      Effect.gen(function* () {
        const { score, server } = yield* setting((response) => ChatServer.refuse(response, status, { detail: "no" }))
        const error = yield* Effect.flip(score(answers(1)))
        assert.match(error.message, expected)
        assert.strictEqual(error.status, status)
        assert.lengthOf(server.requests, 1)
      })
    )
  )

  it.effect.each<readonly [string, string, RegExp, number]>([
    [
      "of another protocol",
      '{"rewards":[1,2,3]}',
      /status 200, 2 attempts: the body holds no list of scores; check/,
      2
    ],
    ["with NaN, as Python writes it", '{"scores":[1,NaN,3]}', /holds NaN or Infinity, which JSON does not know/, 2],
    ["with too few scores", '{"scores":[1]}', /: returned 1 scores for 3 answers; return one score per answer/, 1],
    ["with too many scores", '{"scores":[1,2,3,4]}', /: returned 4 scores for 3 answers/, 1],
    ["with null for a score", '{"scores":[1,null,3]}', /: scored answer 4 of 6 as null; a score must be a finite/, 1],
    ["with a text for a score", '{"scores":[1,"2",3]}', /: scored answer 4 of 6 as "2"; a score must be a finite/, 1],
    ["with a score that is too large", '{"scores":[1,2,1e39]}', /: scored answer 5 of 6 as 1e\+39, which single/, 1]
  ])("is an answer %s", ([, body, expected, requests]) =>
    run(
      Effect.gen(function* () {
        const { score, server } = yield* setting(
          (response, seen, index) =>
            askedOf(seen).answers[0]!.completion.length === 3 ? response.end(body) : lengths(response, seen, index),
          { batchSize: 3, concurrency: 1 }
        )
        const error = yield* Effect.flip(score(answers(6)))
        assert.match(error.message, expected)
        assert.lengthOf(server.requests, 1 + requests)
        const answer = /scored answer (\d)/.exec(error.message)?.[1]
        assert.strictEqual(error.answer, answer === undefined ? undefined : Number(answer))
      })
    )
  )

  it.effect.each<readonly [string, Partial<RewardEndpoint.Options>]>([
    ["url", { url: "localhost:5000" }],
    ["user and password", { url: "http://me:pw@example.com/score" }],
    ["batchSize", { batchSize: 0 }],
    ["concurrency", { concurrency: 0 }],
    ["retries", { retries: -1 }],
    ["timeout", { timeout: 0 }],
    ["apiKey", { apiKey: Redacted.make("a b") }],
    ["extra must not hold answers", { extra: { answers: [] } }],
    ["extra must not hold query", { extra: { query: [] }, protocol: "openrlhf" }]
  ])("is an option that makes no sense: %s", ([name, options]) =>
    run(
      Effect.gen(function* () {
        const error = yield* Effect.flip(RewardEndpoint.make({ url: "http://h/score", ...options }))
        assert.include(error.reason, name)
        assert.notInclude(error.message, "pw@")
      })
    )
  )
})

it.effect("neither the key nor the query of the URL is in an error or the model", () =>
  run(
    Effect.gen(function* () {
      const secret = "QZ-0123456789abcdef"
      const server = yield* ChatServer.start((response, seen) =>
        ChatServer.refuse(response, 401, { error: `bad key ${seen.authorization}` })
      )
      const url = `${server.baseUrl}/score?token=TOKEN-42`
      const model = yield* RewardEndpoint.make({ url, apiKey: Redacted.make(secret) })
      const error = yield* Effect.flip(model.score(answers(1)))
      assert.include(error.message, "bad key Bearer <api key>")
      assert.strictEqual(server.requests[0]!.url, "POST /v1/score?token=TOKEN-42")
      const everything = `${error.stack} ${inspect([error, model], { depth: null, showHidden: true })}`
      assert.notInclude(everything, secret)
      assert.notInclude(everything, "TOKEN-42")
    })
  )
)
