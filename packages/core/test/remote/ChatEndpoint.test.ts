import { spawn } from "node:child_process"
import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Fiber, Logger, Random, Redacted, References, Schema, type Scope } from "effect"
import { FetchHttpClient, type HttpClient } from "effect/http"
import { afterAll } from "vitest"
import type * as Prompt from "../../src/Prompt.ts"
import * as ChatEndpoint from "../../src/remote/ChatEndpoint.ts"
import * as ChatServer from "./ChatServer.ts"
import { type SkippingClock, skippingClock, timeout } from "./SkippingClock.ts"

const directory = fs.mkdtempSync(join(tmpdir(), "attune-chat-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))
let serial = 0
const freshCache = () => join(directory, `cache-${serial++}.jsonl`)

const user = (content: string): ReadonlyArray<Prompt.Message> => [{ role: "user", content }]
const questions = (count: number) => Array.from({ length: count }, (_, i) => `question ${i}`)
const contentsOf = ({ requests }: ChatServer.ChatServer) => requests.map(({ body }) => body.messages.at(-1)!.content)

const run = <A, E>(effect: Effect.Effect<A, E, HttpClient.HttpClient | Scope.Scope>) =>
  effect.pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

/** A server, an endpoint of it, and a clock that skips pauses. */
const setting = Effect.fnUntraced(function* (
  behave: ChatServer.Behaviour,
  options: Partial<ChatEndpoint.Options> = {},
  time: SkippingClock = skippingClock()
) {
  const server = yield* ChatServer.start(behave)
  const endpoint = yield* ChatEndpoint.make({ baseUrl: server.baseUrl, model: "m", timeout, ...options })
  const ask = (content: string, asked?: ChatEndpoint.AskOptions) =>
    endpoint.ask(user(content), asked).pipe(Effect.provideService(Clock.Clock, time.clock))
  return { server, endpoint, ask, time }
})

describe("a request", () => {
  it.effect("says what was asked, with the settings of the endpoint and its own", () =>
    run(
      Effect.gen(function* () {
        const { ask, server } = yield* setting(ChatServer.echo, {
          apiKey: Redacted.make("secret"),
          temperature: 0,
          maxTokens: 5,
          seed: 3,
          extra: { top_p: 0.5 }
        })
        const answer = yield* ask("hi", { maxTokens: 7, topLogprobs: 4 })
        assert.deepStrictEqual(answer, { content: "echo hi", finishReason: "stop", cached: false })
        assert.strictEqual(server.requests[0]!.url, "POST /v1/chat/completions")
        assert.strictEqual(server.requests[0]!.authorization, "Bearer secret")
        assert.deepStrictEqual(server.requests[0]!.body, {
          model: "m",
          messages: [{ role: "user", content: "hi" }],
          temperature: 0,
          max_tokens: 7,
          seed: 3,
          logprobs: true,
          top_logprobs: 4,
          top_p: 0.5
        })
      })
    )
  )

  it.effect("leaves out what is not set, and the key where there is none", () =>
    run(
      Effect.gen(function* () {
        const { ask, server } = yield* setting(ChatServer.echo)
        yield* ask("hi")
        assert.strictEqual(server.requests[0]!.authorization, undefined)
        assert.deepStrictEqual(server.requests[0]!.body, { model: "m", messages: [{ role: "user", content: "hi" }] })
      })
    )
  )

  it.effect("gives the likeliest first tokens and the usage", () =>
    run(
      Effect.gen(function* () {
        const { ask } = yield* setting((response) =>
          ChatServer.answer(response, "Yes", {
            first: { Yes: 0.5, No: 0.25 },
            usage: { prompt_tokens: 9, completion_tokens: 1 }
          })
        )
        const answer = yield* ask("hi", { topLogprobs: 2 })
        assert.deepStrictEqual(answer.first, [
          { token: "Yes", logprob: Math.log(0.5) },
          { token: "No", logprob: Math.log(0.25) }
        ])
        assert.deepStrictEqual(answer.usage, { prompt: 9, completion: 1 })
      })
    )
  )

  it.effect.each([
    ["http://h:1/v1", "http://h:1/v1/chat/completions"],
    ["http://h:1/v1/", "http://h:1/v1/chat/completions"],
    ["http://h:1", "http://h:1/chat/completions"],
    ["http://h:1/v1/chat/completions", "http://h:1/v1/chat/completions"],
    ["http://h:1/x?api-version=2", "http://h:1/x/chat/completions?api-version=2"]
  ] as const)("to %s goes to %s", ([baseUrl, url]) =>
    Effect.gen(function* () {
      const urls: Array<string> = []
      const fetch: typeof globalThis.fetch = async (input) => {
        urls.push(String(input))
        return new Response(ChatServer.completion("x"))
      }
      const asked = Effect.flatMap(ChatEndpoint.make({ baseUrl, model: "m" }), ({ ask }) => ask(user("hi")))
      yield* run(asked).pipe(Effect.provideService(FetchHttpClient.Fetch, fetch))
      assert.deepStrictEqual(urls, [url])
    })
  )

  it.live("is aborted when the fiber that asked is interrupted", () =>
    run(
      Effect.gen(function* () {
        const arrived = Promise.withResolvers<ChatServer.Seen>()
        const server = yield* ChatServer.start((_response, seen) => arrived.resolve(seen))
        const endpoint = yield* ChatEndpoint.make({ baseUrl: server.baseUrl, model: "m" })
        const fiber = yield* Effect.forkChild(endpoint.ask(user("hi")))
        const { aborted } = yield* Effect.promise(() => arrived.promise)
        yield* Fiber.interrupt(fiber)
        yield* Effect.promise(() => aborted)
        assert.lengthOf(server.requests, 1)
      })
    )
  )

  it.effect("is aborted in the middle of its answer too", () =>
    Effect.gen(function* () {
      const begun = Promise.withResolvers<void>()
      const fetch: typeof globalThis.fetch = async (...request) => {
        const response = await globalThis.fetch(...request)
        begun.resolve()
        return response
      }
      const asked = Effect.gen(function* () {
        const server = yield* ChatServer.start((response) => {
          response.writeHead(200, { "content-length": 1000 }).write("{")
        })
        const endpoint = yield* ChatEndpoint.make({ baseUrl: server.baseUrl, model: "m", timeout })
        const fiber = yield* Effect.forkChild(endpoint.ask(user("hi")))
        yield* Effect.promise(() => begun.promise)
        // Until the body is waited for.
        yield* Effect.promise(() => new Promise((done) => setImmediate(done)))
        yield* Fiber.interrupt(fiber)
        yield* Effect.promise(() => server.requests[0]!.aborted)
      })
      yield* run(asked).pipe(Effect.provideService(FetchHttpClient.Fetch, fetch))
    })
  )
})

describe("a failure in passing", () => {
  it.effect.each([408, 409, 425, 429, 500, 502, 503, 529])("of status %i is tried again", (status) =>
    run(
      Effect.gen(function* () {
        const { ask, server, time } = yield* setting((response, seen, index) =>
          index === 0 ? ChatServer.refuse(response, status) : ChatServer.echo(response, seen, index)
        )
        assert.strictEqual((yield* ask("hi")).content, "echo hi")
        assert.lengthOf(server.requests, 2)
        assert.lengthOf(time.pauses, 1)
      })
    )
  )

  it.effect("that does not pass is given up, with what the server says", () =>
    run(
      Effect.gen(function* () {
        const { ask, endpoint, server } = yield* setting(
          (response) => ChatServer.refuse(response, 500, { error: { message: "out of memory" } }),
          { retries: 3 }
        )
        const error = yield* Effect.flip(ask("hi"))
        assert.strictEqual(error.reason, "Unavailable")
        assert.strictEqual(error.attempts, 4)
        assert.strictEqual(error.status, 500)
        assert.strictEqual(error.excerpt, "out of memory")
        assert.match(error.message, /^m at 127\.0\.0\.1:\d+, status 500, 4 attempts: .* it said: out of memory$/)
        assert.lengthOf(server.requests, 4)
        assert.strictEqual((yield* endpoint.usage).requests, 4)
      })
    )
  )

  it.effect("is followed by a pause that doubles up to a limit, with jitter in [1/2, 1]", () =>
    run(
      Effect.gen(function* () {
        const { ask, time } = yield* setting((response) => ChatServer.refuse(response, 500), {
          retries: 6,
          pause: 100,
          longestPause: 1000
        })
        yield* Effect.flip(ask("hi")).pipe(Random.withSeed("pauses"))
        const full = [100, 200, 400, 800, 1000, 1000]
        assert.lengthOf(time.pauses, full.length)
        time.pauses.forEach((pause, i) => {
          assert.isAtLeast(pause, full[i]! / 2)
          assert.isAtMost(pause, full[i]!)
        })
        assert.strictEqual(new Set(time.pauses.map((pause, i) => pause / full[i]!)).size, full.length)
      })
    )
  )

  // Noon of a day, for dates.
  const noon = Date.UTC(2026, 0, 2, 12)
  it.effect.each([
    ["seconds", "7"],
    ["a date", new Date(noon + 7000).toUTCString()]
  ])("is not tried again before its Retry-After in %s", ([, header]) =>
    run(
      Effect.gen(function* () {
        const time = skippingClock(noon)
        const at: Array<number> = []
        const { ask } = yield* setting(
          (response, seen, index) => {
            at.push(time.now() - noon)
            if (index > 0) return ChatServer.echo(response, seen, index)
            return ChatServer.refuse(response, 429, {}, { "retry-after": header })
          },
          { pause: 100 },
          time
        )
        yield* ask("hi")
        assert.lengthOf(at, 2)
        assert.isAtLeast(at[1]!, 7000)
        assert.isAtMost(at[1]!, 7100)
      })
    )
  )

  it.effect("with a Retry-After holds back the other requests of the endpoint", () =>
    run(
      Effect.gen(function* () {
        // Pauses begin and never end; attempts never time out.
        const begun: Array<PromiseWithResolvers<string>> = [Promise.withResolvers(), Promise.withResolvers()]
        const pauses: Array<number> = []
        const { clock } = skippingClock()
        const stopped: Clock.Clock = {
          ...clock,
          sleep: (duration) =>
            Effect.andThen(
              Effect.sync(() => {
                if (Duration.toMillis(duration) === Duration.toMillis(timeout)) return
                begun[pauses.push(Duration.toMillis(duration)) - 1]?.resolve("paused")
              }),
              Effect.never
            )
        }
        const { ask } = yield* setting(
          (response, seen, index) => {
            if (index === 0) return ChatServer.refuse(response, 503, {}, { "retry-after": "9" })
            begun[1]!.resolve("sent")
            return ChatServer.echo(response, seen, index)
          },
          { pause: 100 },
          { ...skippingClock(), clock: stopped }
        )
        yield* Effect.forkChild(ask("refused"))
        yield* Effect.promise(() => begun[0]!.promise)
        yield* Effect.forkChild(ask("other"))
        assert.strictEqual(yield* Effect.promise(() => begun[1]!.promise), "paused")
        assert.isAtLeast(pauses[1]!, 9000)
        assert.isAtMost(pauses[1]!, 9100)
      })
    )
  )

  it.effect("whose Retry-After is longer than one waits is given up", () =>
    run(
      Effect.gen(function* () {
        const { ask, server, time } = yield* setting(
          (response) => ChatServer.refuse(response, 429, {}, { "retry-after": "3600" }),
          { longestWait: "10 minutes" }
        )
        const error = yield* Effect.flip(ask("hi"))
        assert.strictEqual(error.reason, "Unavailable")
        assert.include(error.message, "3600 s")
        assert.lengthOf(server.requests, 1)
        assert.deepStrictEqual(time.pauses, [])
      })
    )
  )

  it.effect.each<readonly [string, ChatServer.Behaviour]>([
    ["a connection that is reset", (response) => response.socket!.resetAndDestroy()],
    ["a connection that is closed without an answer", (response) => response.socket!.destroy()],
    [
      "an answer that breaks off",
      (response) => {
        const whole = ChatServer.completion("hello")
        response.writeHead(200, { "content-length": whole.length })
        response.write(whole.slice(0, 40), () => response.socket!.destroy())
      }
    ],
    ["JSON that was cut", (response) => response.end(ChatServer.completion("hello").slice(0, 60))],
    ["an HTML page", (response) => response.setHeader("content-type", "text/html").end("<html>Bad gateway</html>")],
    ["an empty body", (response) => response.end()],
    [
      "an error status inside a body of status 200",
      (response) => response.end(JSON.stringify({ error: { code: 429, message: "slow down" } }))
    ]
  ])("may be %s", ([, misbehave]) =>
    run(
      Effect.gen(function* () {
        const { ask, server } = yield* setting((response, seen, index) =>
          index < 2 ? misbehave(response, seen, index) : ChatServer.echo(response, seen, index)
        )
        assert.strictEqual((yield* ask("hi")).content, "echo hi")
        assert.lengthOf(server.requests, 3)
      })
    )
  )

  it.live("may be an attempt that takes too long", () =>
    run(
      Effect.gen(function* () {
        const server = yield* ChatServer.start(() => undefined)
        const endpoint = yield* ChatEndpoint.make({
          baseUrl: server.baseUrl,
          model: "m",
          timeout: 40,
          retries: 2,
          pause: 1
        })
        const error = yield* Effect.flip(endpoint.ask(user("hi")))
        assert.strictEqual(error.reason, "Timeout")
        assert.strictEqual(error.attempts, 3)
        yield* Effect.promise(() => Promise.all(server.requests.map(({ aborted }) => aborted)))
      })
    )
  )

  it.effect("may be a server that does not run, which is said", () =>
    run(
      Effect.gen(function* () {
        const { baseUrl } = yield* Effect.scoped(ChatServer.start())
        const limit = { tokens: 1000 }
        const endpoint = yield* ChatEndpoint.make({ baseUrl, model: "m", retries: 2, timeout, maxTokens: 1, limit })
        const error = yield* Effect.flip(endpoint.ask(user("hi"))).pipe(
          Effect.provideService(Clock.Clock, skippingClock().clock)
        )
        assert.strictEqual(error.reason, "Network")
        assert.strictEqual(error.attempts, 3)
        assert.include(error.message, "ECONNREFUSED")
        // What never reached a server costs no tokens.
        const { completionTokens, promptTokens } = yield* endpoint.usage
        assert.deepStrictEqual([promptTokens, completionTokens], [0, 0])
      })
    )
  )

  it.effect("that is a page all along ends with its beginning", () =>
    run(
      Effect.gen(function* () {
        const page = `<html>\n\x1b[31m${"long ".repeat(1000)}`
        const { ask } = yield* setting((response) => response.end(page), { retries: 1 })
        const error = yield* Effect.flip(ask("hi"))
        assert.strictEqual(error.reason, "Reply")
        assert.isTrue(error.excerpt!.startsWith("<html> [31mlong long"))
        assert.isBelow(error.excerpt!.length, 310)
      })
    )
  )
})

describe("a failure that stays", () => {
  it.effect.each([
    [400, "Rejected"],
    [401, "Unauthorised"],
    [403, "Unauthorised"],
    [404, "NotFound"],
    [413, "Rejected"],
    [422, "Rejected"]
  ] as const)("of status %i is not tried again", ([status, reason]) =>
    run(
      Effect.gen(function* () {
        const { ask, server } = yield* setting((response) =>
          ChatServer.refuse(response, status, { error: { message: "because", code: null } })
        )
        const error = yield* Effect.flip(ask("hi"))
        assert.strictEqual(error.reason, reason)
        assert.strictEqual(error.status, status)
        assert.strictEqual(error.excerpt, "because")
        assert.lengthOf(server.requests, 1)
      })
    )
  )

  it.effect("is a quota that is used up, although its status is 429", () =>
    run(
      Effect.gen(function* () {
        const { ask, server } = yield* setting((response) =>
          ChatServer.refuse(response, 429, { error: { message: "pay", code: "insufficient_quota" } })
        )
        assert.strictEqual((yield* Effect.flip(ask("hi"))).reason, "Rejected")
        assert.lengthOf(server.requests, 1)
      })
    )
  )

  it.effect.each([
    ["no choices", { choices: [] }],
    ["no content", { choices: [{ message: { role: "assistant", content: null } }] }],
    ["content that is no text", { choices: [{ message: { content: ["a"] } }] }],
    ["another protocol", { output: "hello" }],
    ["a number", 3],
    ["usage below 0", { choices: [{ message: { content: "a" } }], usage: { prompt_tokens: -1 } }]
  ] as const)("is an answer with %s, which is tried again once", ([, body]) =>
    run(
      Effect.gen(function* () {
        const { ask, server } = yield* setting((response) => response.end(JSON.stringify(body)))
        const error = yield* Effect.flip(ask("hi"))
        assert.strictEqual(error.reason, "Reply")
        assert.strictEqual(error.attempts, 2)
        assert.strictEqual(error.status, 200)
        assert.strictEqual(error.excerpt, JSON.stringify(body))
        assert.lengthOf(server.requests, 2)
      })
    )
  )

  it.effect.each<readonly [string, Partial<ChatEndpoint.Options>]>([
    ["baseUrl", { baseUrl: "example.com/v1" }],
    ["baseUrl", { baseUrl: "ftp://example.com" }],
    ["user and password", { baseUrl: "http://me:pw@example.com" }],
    ["model", { model: "" }],
    ["apiKey", { apiKey: Redacted.make("key\n") }],
    ["apiKey", { apiKey: Redacted.make("") }],
    ["extra", { extra: { messages: [] } }],
    ["give maxTokens", { extra: { max_completion_tokens: 1e6 }, maxTokens: 1 }],
    ["retries", { retries: -1 }],
    ["concurrency", { concurrency: 0 }],
    ["limit.requests", { limit: { requests: 1.5 } }],
    ["limit.tokens", { limit: { tokens: Number.NaN }, maxTokens: 1 }],
    ["price", { limit: { cost: 1 }, maxTokens: 1 }],
    ["price.prompt", { price: { prompt: -1, completion: 0 } }],
    ["timeout", { timeout: 0 }],
    ["temperature", { temperature: Number.NaN }],
    ["maxTokens", { maxTokens: 0 }],
    ["topLogprobs", { topLogprobs: 21 }]
  ])("is an option that makes no sense: %s", ([name, options]) =>
    run(
      Effect.gen(function* () {
        const error = yield* Effect.flip(ChatEndpoint.make({ baseUrl: "http://h/v1", model: "m", ...options }))
        assert.strictEqual(error.reason, "Options")
        assert.include(error.detail, name)
      })
    )
  )

  it.effect("is a limit of tokens without knowing the most that a request can use", () =>
    run(
      Effect.gen(function* () {
        const { ask, server } = yield* setting(ChatServer.echo, { limit: { tokens: 100 } })
        const error = yield* Effect.flip(ask("hi"))
        assert.strictEqual(error.reason, "Options")
        assert.include(error.detail, "maxTokens")
        assert.lengthOf(server.requests, 0)
      })
    )
  )
})

describe("the API key", () => {
  const secret = "QZ-0123456789abcdef"

  // Repeated by the server where an excerpt has room for it, and where it ends within the key.
  it.effect.each([0, 280])("is in no error, log line or cache file, said after %i characters", (before) =>
    run(
      Effect.gen(function* () {
        const lines: Array<unknown> = []
        const logger = Logger.make(({ message }) => lines.push(message))
        const cache = freshCache()
        const { ask, endpoint } = yield* setting(
          (response, seen, index) => {
            const error = { message: `${"-".repeat(before)}bad key ${seen.authorization}` }
            if (index === 1) return ChatServer.echo(response, seen, index)
            return ChatServer.refuse(response, index === 0 ? 500 : 401, { error })
          },
          { apiKey: Redacted.make(secret), cache }
        )
        const error = yield* Effect.gen(function* () {
          yield* ask("first")
          return yield* Effect.flip(ask("second"))
        }).pipe(Effect.provide(Logger.layer([logger])), Effect.provideService(References.MinimumLogLevel, "All"))
        assert.strictEqual(error.reason, "Unauthorised")
        assert.include(error.message, "bad key Bearer")
        assert.isAbove(lines.length, 0)
        const everything = [
          error.message,
          error.stack,
          inspect(error, { depth: null, showHidden: true }),
          JSON.stringify(error),
          inspect(lines, { depth: null }),
          inspect(endpoint, { depth: null, showHidden: true }),
          fs.readFileSync(cache, "utf8")
        ].join("\n")
        assert.notInclude(everything, secret.slice(0, 2))
      })
    )
  )

  it.effect("is not in the error of a connection either", () =>
    Effect.gen(function* () {
      const fetch: typeof globalThis.fetch = async (_url, init) => {
        throw new TypeError(`fetch failed for ${new Headers(init?.headers).get("authorization")}`)
      }
      const asked = Effect.flatMap(
        ChatEndpoint.make({ baseUrl: "http://h/v1", model: "m", retries: 0, apiKey: Redacted.make(secret) }),
        ({ ask }) => Effect.flip(ask(user("hi")))
      )
      const error = yield* run(asked).pipe(Effect.provideService(FetchHttpClient.Fetch, fetch))
      assert.include(error.message, "fetch failed for Bearer")
      assert.notInclude(inspect(error, { depth: null, showHidden: true }), secret)
    })
  )
})

describe("concurrency", () => {
  it.effect("never has more requests under way than allowed, and as many", () =>
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
        // Answers come in groups of three, so that fewer at a time would never end.
        const waiting: Array<() => void> = []
        const { ask, server } = yield* setting(
          (response, seen, index) => {
            waiting.push(() => ChatServer.echo(response, seen, index))
            if (waiting.length === 3) for (const answer of waiting.splice(0)) answer()
          },
          { concurrency: 3 }
        )
        yield* Effect.forEach(questions(30), (content) => ask(content), { concurrency: "unbounded" })
        assert.lengthOf(server.requests, 30)
        assert.isAtMost(server.mostAtOnce(), 3)
      })
      yield* run(asked).pipe(Effect.provideService(FetchHttpClient.Fetch, fetch))
      assert.strictEqual(most, 3)
    })
  )
})

describe("a limit", () => {
  it.effect("of requests is kept exactly, failed ones counted", () =>
    run(
      Effect.gen(function* () {
        const { ask, endpoint, server } = yield* setting(
          (response, seen, index) =>
            index % 3 === 0 ? ChatServer.refuse(response, 500) : ChatServer.echo(response, seen, index),
          { limit: { requests: 20 }, concurrency: 7, retries: 50 }
        )
        const results = yield* Effect.forEach(questions(40), (content) => Effect.result(ask(content)), {
          concurrency: "unbounded"
        })
        assert.lengthOf(server.requests, 20)
        const failures = results.flatMap((result) => (result._tag === "Failure" ? [result.failure] : []))
        assert.isAbove(failures.length, 0)
        for (const { message, reason, spent } of failures) {
          assert.strictEqual(reason, "SpendLimit")
          assert.strictEqual(spent?.requests, 20)
          assert.include(message, "limit of 20 requests")
        }
        assert.strictEqual((yield* endpoint.usage).requests, 20)
      })
    )
  )

  it.effect("of tokens stops before a request that could go over it, and not earlier", () =>
    run(
      Effect.gen(function* () {
        // "x" may be 64 + 16 + 1 tokens and its answer 19: 100 at most; 20 are used.
        const { ask, endpoint, server } = yield* setting(
          (response) => ChatServer.answer(response, "y", { usage: { prompt_tokens: 15, completion_tokens: 5 } }),
          { limit: { tokens: 400 }, maxTokens: 19, concurrency: 8 }
        )
        const results = yield* Effect.forEach(questions(40), (_, draw) => Effect.result(ask("x", { draw })), {
          concurrency: "unbounded"
        })
        // After k answers 20 k are used: the 16th request fits, 300 + 100, and the 17th does not.
        assert.lengthOf(server.requests, 16)
        assert.lengthOf(
          results.filter(({ _tag }) => _tag === "Success"),
          16
        )
        assert.isAtMost(server.mostAtOnce(), 4)
        const error = yield* Effect.flip(ask("x", { draw: 99 }))
        assert.deepStrictEqual(error.spent, { requests: 16, promptTokens: 240, completionTokens: 80 })
        assert.strictEqual((yield* endpoint.usage).unstated, 0)
      })
    )
  )

  it.effect("of tokens counts further fields among what a prompt can be", () =>
    run(
      Effect.gen(function* () {
        // 100 at most without the tools, as above.
        const options = { limit: { tokens: 100 }, maxTokens: 19 }
        const bare = yield* setting(ChatServer.echo, options)
        yield* bare.ask("x")
        const { ask, server } = yield* setting(ChatServer.echo, { ...options, extra: { tools: ["t"] } })
        assert.strictEqual((yield* Effect.flip(ask("x"))).reason, "SpendLimit")
        assert.lengthOf(server.requests, 0)
      })
    )
  )

  it.effect("of cost counts prompt and completion at their prices", () =>
    run(
      Effect.gen(function* () {
        const { ask, endpoint, server } = yield* setting(
          (response) => ChatServer.answer(response, "y", { usage: { prompt_tokens: 15, completion_tokens: 5 } }),
          // At most 81 + 2 * 19 = 119 millionths a request; 25 are used.
          { limit: { cost: 200e-6 }, price: { prompt: 1, completion: 2 }, maxTokens: 19 }
        )
        const results = yield* Effect.forEach(questions(9), (_, draw) => Effect.result(ask("x", { draw })))
        // 25 k + 119 <= 200 for k <= 3.
        assert.lengthOf(
          results.filter(({ _tag }) => _tag === "Success"),
          4
        )
        assert.lengthOf(server.requests, 4)
        assert.closeTo((yield* endpoint.usage).cost!, 100e-6, 1e-12)
        const error = yield* Effect.flip(ask("x", { draw: 99 }))
        assert.include(error.message, "limit of cost 0.0002; spent: 4 requests, 60 + 20 tokens, cost 0.0001")
      })
    )
  )

  it.effect("counts usage that a failure states, and the most where nothing is stated", () =>
    run(
      Effect.gen(function* () {
        const usage = { prompt_tokens: 11, completion_tokens: 3 }
        const { ask, endpoint } = yield* setting(
          (response, seen, index) => {
            if (index === 0) return ChatServer.refuse(response, 500, { usage })
            if (index === 1) return response.end(JSON.stringify({ choices: [], usage }))
            if (index === 2) return ChatServer.refuse(response, 503)
            return ChatServer.echo(response, seen, index)
          },
          { maxTokens: 19 }
        )
        yield* ask("x")
        const { completionTokens, promptTokens, requests, unstated } = yield* endpoint.usage
        assert.strictEqual(requests, 4)
        assert.strictEqual(unstated, 1)
        assert.deepStrictEqual([promptTokens, completionTokens], [11 + 11 + 0 + 81, 3 + 3 + 0 + 19])
      })
    )
  )
})

describe("the cache", () => {
  it.effect("makes a second run cost nothing", () =>
    run(
      Effect.gen(function* () {
        const cache = freshCache()
        const server = yield* ChatServer.start()
        const all = Effect.gen(function* () {
          const endpoint = yield* ChatEndpoint.make({
            baseUrl: server.baseUrl,
            model: "m",
            cache,
            limit: { requests: 9 }
          })
          const answers = yield* Effect.forEach(questions(9), (content) => endpoint.ask(user(content)))
          return { contents: answers.map(({ content }) => content), usage: yield* endpoint.usage }
        }).pipe(Effect.scoped)
        const first = yield* all
        const second = yield* all
        assert.deepStrictEqual(second.contents, first.contents)
        assert.lengthOf(server.requests, 9)
        assert.deepInclude(first.usage, { requests: 9, answers: 9, cached: 0 })
        assert.deepInclude(second.usage, { requests: 0, answers: 9, cached: 9, promptTokens: 0 })
      })
    )
  )

  it.effect("lets a run that failed go on where it stopped", () =>
    run(
      Effect.gen(function* () {
        const cache = freshCache()
        const server = yield* ChatServer.start((response, seen, index) =>
          index === 5 ? ChatServer.refuse(response, 400) : ChatServer.echo(response, seen, index)
        )
        const all = Effect.gen(function* () {
          const endpoint = yield* ChatEndpoint.make({ baseUrl: server.baseUrl, model: "m", cache })
          return yield* Effect.forEach(questions(10), (content) => endpoint.ask(user(content)))
        }).pipe(Effect.scoped)
        assert.strictEqual((yield* Effect.flip(all)).reason, "Rejected")
        yield* all
        assert.deepStrictEqual(contentsOf(server), [...questions(6), ...questions(10).slice(5)])
      })
    )
  )

  it.effect("loses nothing when the process is killed", () =>
    run(
      Effect.gen(function* () {
        const cache = freshCache()
        const server = yield* ChatServer.start()
        const script = join(import.meta.dirname, "chat-loop.ts")
        const printed = yield* Effect.promise(
          () =>
            new Promise<string>((done, failed) => {
              const child = spawn(process.execPath, ["--conditions=@attune/source", script, server.baseUrl, cache], {
                stdio: ["ignore", "pipe", "inherit"]
              })
              let text = ""
              child.stdout.on("data", (data) => (text += data))
              server.behave = (response, seen, index) => {
                if (index === 60) child.kill("SIGKILL")
                ChatServer.echo(response, seen, index)
              }
              child.once("close", (_code, signal) =>
                signal === "SIGKILL" ? done(text) : failed(new Error("died early"))
              )
            })
        )
        const answered = printed.split("\n").slice(0, -1)
        assert.isAtLeast(answered.length, 40)
        const before = server.requests.length
        server.behave = ChatServer.echo
        const endpoint = yield* ChatEndpoint.make({ baseUrl: server.baseUrl, model: "m", cache })
        const answers = yield* Effect.forEach(questions(100), (content) => endpoint.ask(user(content)))
        assert.deepStrictEqual(
          answers.map(({ content }) => content),
          questions(100).map((content) => `echo ${content}`)
        )
        const again = contentsOf(server).slice(before)
        assert.deepStrictEqual(
          again.filter((content) => answered.includes(content)),
          []
        )
        // Asked twice is at most what was under way when the process died.
        assert.isAtMost(server.requests.length - 100, 4)
      })
    )
  )

  it.effect("keeps apart what differs in settings, draw, model or conversation", () =>
    run(
      Effect.gen(function* () {
        const cache = freshCache()
        const server = yield* ChatServer.start()
        const of = (options: Partial<ChatEndpoint.Options>) =>
          ChatEndpoint.make({ baseUrl: server.baseUrl, model: "m", cache, ...options })
        const ask = (
          content: string,
          options: Partial<ChatEndpoint.Options> = {},
          asked: ChatEndpoint.AskOptions = {},
          role = "user"
        ) => Effect.flatMap(of(options), (endpoint) => endpoint.ask([{ role, content }], asked))
        const asks = [
          ask("a"),
          ask("b"),
          ask("a", {}, {}, "system"),
          ask("a", {}, { draw: 1 }),
          ask("a", {}, { temperature: 1 }),
          ask("a", { seed: 1 }),
          ask("a", { model: "n" }),
          ask("a", { extra: { top_p: 1 } }),
          ask("a", { baseUrl: `${server.baseUrl}/other` })
        ]
        for (const one of asks) {
          assert.isFalse((yield* one).cached)
          assert.isTrue((yield* one).cached)
        }
        assert.lengthOf(server.requests, asks.length)
        // The key is of the account, not of the question.
        assert.isTrue((yield* ask("a", { apiKey: Redacted.make("other") })).cached)
      })
    )
  )

  it.effect("lets fibers that ask the same thing share one request", () =>
    run(
      Effect.gen(function* () {
        const { ask, endpoint, server } = yield* setting(ChatServer.echo)
        const answers = yield* Effect.all(
          questions(20).map(() => ask("same")),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(server.requests, 1)
        assert.lengthOf(
          answers.filter(({ cached }) => !cached),
          1
        )
        assert.deepInclude(yield* endpoint.usage, { answers: 20, cached: 19 })
      })
    )
  )

  it.effect("that cannot be written is said", () =>
    run(
      Effect.gen(function* () {
        const path = join(freshCache(), "..", "is-a-directory")
        fs.mkdirSync(path, { recursive: true })
        const error = yield* Effect.flip(ChatEndpoint.make({ baseUrl: "http://h/v1", model: "m", cache: path }))
        assert.strictEqual(error.reason, "Cache")
        assert.include(error.message, path)
      })
    )
  )
})

describe("askJson", () => {
  const City = Schema.Struct({ name: Schema.String, people: Schema.Int })

  it.effect("states the schema and decodes the answer", () =>
    run(
      Effect.gen(function* () {
        const { endpoint, server } = yield* setting((response) =>
          ChatServer.answer(response, '{"name":"Ulm","people":126000}')
        )
        assert.deepStrictEqual(yield* endpoint.askJson(user("hi"), City), { name: "Ulm", people: 126000 })
        const { response_format } = server.requests[0]!.body as { readonly response_format?: unknown }
        assert.deepInclude(response_format, { type: "json_schema" })
        assert.nestedPropertyVal(response_format, "json_schema.name", "answer")
        assert.nestedPropertyVal(response_format, "json_schema.schema.properties.name.type", "string")
      })
    )
  )

  it.effect.each([
    ["json_object", { type: "json_object" }],
    ["none", undefined]
  ] as const)("asks with json mode %s, and takes the answer out of a code block", ([jsonMode, format]) =>
    run(
      Effect.gen(function* () {
        const { endpoint, server } = yield* setting(
          (response) => ChatServer.answer(response, '```json\n{"name":"Ulm","people":126000}\n```'),
          { jsonMode }
        )
        assert.deepStrictEqual(yield* endpoint.askJson(user("hi"), City), { name: "Ulm", people: 126000 })
        assert.deepStrictEqual(server.requests[0]!.body["response_format"], format)
      })
    )
  )

  it.effect("shows the model what does not fit and asks once more", () =>
    run(
      Effect.gen(function* () {
        const { endpoint, server } = yield* setting((response, _seen, index) =>
          ChatServer.answer(response, index === 0 ? '{"name":"Ulm"}' : '{"name":"Ulm","people":126000}')
        )
        assert.deepStrictEqual(yield* endpoint.askJson(user("hi"), City), { name: "Ulm", people: 126000 })
        const [first, again, issue] = server.requests[1]!.body.messages
        assert.deepStrictEqual(first, { role: "user", content: "hi" })
        assert.deepStrictEqual(again, { role: "assistant", content: '{"name":"Ulm"}' })
        assert.include(issue!.content, "people")
      })
    )
  )

  it.effect("fails for an answer that does not fit the second time either, also from the cache", () =>
    run(
      Effect.gen(function* () {
        const { endpoint, server } = yield* setting((response) =>
          ChatServer.answer(response, "Ulm, of course", { finish: "length" })
        )
        const error = yield* Effect.flip(endpoint.askJson(user("hi"), City))
        assert.strictEqual(error.reason, "Undecodable")
        assert.strictEqual(error.attempts, 2)
        assert.strictEqual(error.excerpt, "Ulm, of course")
        assert.include(error.detail, "maxTokens")
        yield* Effect.flip(endpoint.askJson(user("hi"), City))
        assert.lengthOf(server.requests, 2)
      })
    )
  )
})
