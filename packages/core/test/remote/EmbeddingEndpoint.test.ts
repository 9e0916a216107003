import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Redacted, type Scope } from "effect"
import { FetchHttpClient, type HttpClient } from "effect/http"
import * as EmbeddingEndpoint from "../../src/remote/EmbeddingEndpoint.ts"
import * as ChatServer from "./ChatServer.ts"
import { skippingClock, timeout } from "./SkippingClock.ts"

const run = <A, E>(effect: Effect.Effect<A, E, HttpClient.HttpClient | Scope.Scope>) =>
  effect.pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

const inputOf = ({ body }: ChatServer.Seen) => body.input as ReadonlyArray<string>

/** Embeds each text by its length, the last one first. */
const lengths: ChatServer.Behaviour = (response, seen) =>
  response.end(
    JSON.stringify({
      object: "list",
      data: inputOf(seen)
        .map((text, index) => ({ object: "embedding", index, embedding: [text.length, 1] }))
        .reverse(),
      usage: { prompt_tokens: 1, total_tokens: 1 }
    })
  )

/** A server, a way to it, and a clock that skips pauses. */
const setting = Effect.fnUntraced(function* (
  behave: ChatServer.Behaviour,
  options: Partial<EmbeddingEndpoint.Options> = {}
) {
  const server = yield* ChatServer.start(behave)
  const time = skippingClock()
  const endpoint = yield* EmbeddingEndpoint.make({ baseUrl: server.baseUrl, model: "m", timeout, ...options })
  const embed = (texts: ReadonlyArray<string>) =>
    endpoint.embed(texts).pipe(Effect.provideService(Clock.Clock, time.clock))
  return { server, endpoint, embed, time }
})

const rows = (embedded: ReadonlyArray<Float32Array>) => embedded.map((row) => [...row])

describe("a request", () => {
  it.effect("is one of OpenAI's, and rows come in the order of their texts", () =>
    run(
      Effect.gen(function* () {
        const options = { apiKey: Redacted.make("secret"), extra: { dimensions: 2 } }
        const { embed, endpoint, server } = yield* setting(lengths, options)
        assert.deepStrictEqual(rows(yield* embed(["a", "bbb", "cc"])), [
          [1, 1],
          [3, 1],
          [2, 1]
        ])
        assert.strictEqual(endpoint.name, `m at ${server.baseUrl}`)
        assert.strictEqual(server.requests[0]!.url, "POST /v1/embeddings")
        assert.strictEqual(server.requests[0]!.authorization, "Bearer secret")
        assert.deepStrictEqual<unknown>(server.requests[0]!.body, {
          model: "m",
          input: ["a", "bbb", "cc"],
          encoding_format: "float",
          dimensions: 2
        })
      })
    )
  )

  it.effect("holds so many texts, of which there may be none", () =>
    run(
      Effect.gen(function* () {
        const { embed, server } = yield* setting(lengths, { batchSize: 2 })
        const embedded = yield* embed(["a", "bb", "ccc", "dddd", "eeeee"])
        assert.deepStrictEqual(
          rows(embedded).map(([length]) => length),
          [1, 2, 3, 4, 5]
        )
        assert.deepStrictEqual(server.requests.map((seen) => inputOf(seen).length).sort(), [1, 2, 2])
        assert.deepStrictEqual(yield* embed([]), [])
        assert.lengthOf(server.requests, 3)
      })
    )
  )

  it.effect("keeps the query of the URL, behind the path", () =>
    run(
      Effect.gen(function* () {
        const server = yield* ChatServer.start(lengths)
        const baseUrl = `${server.baseUrl}/?api-version=1`
        const endpoint = yield* EmbeddingEndpoint.make({ baseUrl, model: "m" })
        yield* endpoint.embed(["a"])
        assert.strictEqual(server.requests[0]!.url, "POST /v1/embeddings?api-version=1")
      })
    )
  )

  it.effect("without indices keeps the order that the server states", () =>
    run(
      Effect.gen(function* () {
        const { embed } = yield* setting((response) => response.end('{"data":[{"embedding":[1]},{"embedding":[2]}]}'))
        assert.deepStrictEqual(rows(yield* embed(["a", "b"])), [[1], [2]])
      })
    )
  )

  it.live("is aborted when the fiber that asked is interrupted", () =>
    run(
      Effect.gen(function* () {
        const arrived = Promise.withResolvers<ChatServer.Seen>()
        const { endpoint } = yield* setting((_response, seen) => arrived.resolve(seen))
        const fiber = yield* Effect.forkChild(endpoint.embed(["a"]))
        const { aborted } = yield* Effect.promise(() => arrived.promise)
        yield* Fiber.interrupt(fiber)
        yield* Effect.promise(() => aborted)
      })
    )
  )
})

describe("a failure", () => {
  it.effect("in passing is tried again", () =>
    run(
      Effect.gen(function* () {
        const { embed, server, time } = yield* setting((response, seen, index) =>
          index < 2 ? ChatServer.refuse(response, 503) : lengths(response, seen, index)
        )
        assert.deepStrictEqual(rows(yield* embed(["a"])), [[1, 1]])
        assert.lengthOf(server.requests, 3)
        assert.lengthOf(time.pauses, 2)
      })
    )
  )

  it.effect("that stays names URL, texts, status, attempts and what the server says", () =>
    run(
      Effect.gen(function* () {
        const { embed, server } = yield* setting(
          (response, seen, index) =>
            inputOf(seen)[0] === "c"
              ? ChatServer.refuse(response, 500, { detail: "out of memory" })
              : lengths(response, seen, index),
          { retries: 1, batchSize: 2, concurrency: 1 }
        )
        const error = yield* Effect.flip(embed(["a", "b", "c", "d", "e"]))
        assert.strictEqual(
          error.message,
          `embeddings of m at ${server.baseUrl}: texts 2 to 3 of 5, status 500, 2 attempts: the server cannot answer now; ` +
            "try again later, or with less concurrency; it said: out of memory"
        )
        assert.include(error, { _tag: "EmbeddingEndpointError", status: 500, attempts: 2 })
      })
    )
  )

  it.effect("of the path or the model is not tried again", () =>
    run(
      Effect.gen(function* () {
        const { embed, server } = yield* setting((response) => ChatServer.refuse(response, 404))
        const error = yield* Effect.flip(embed(["a"]))
        assert.match(error.message, /text 0 of 1, status 404: the server knows no such path or model; check baseUrl/)
        assert.strictEqual(error.text, 0)
        assert.lengthOf(server.requests, 1)
      })
    )
  )

  const data = (...embeddings: ReadonlyArray<unknown>) => JSON.stringify({ data: embeddings })
  it.effect.each<readonly [string, string, RegExp]>([
    ["of another protocol", '{"embeddings":[[1],[2]]}', /the body holds no list of data/],
    ["with null for a number", data({ embedding: [1] }, { embedding: [null] }), /holds no list of data with finite/],
    ["as base64", data({ embedding: "AACAPw==" }, { embedding: "AACAPw==" }), /holds no list of data with finite/],
    ["with too few rows", data({ embedding: [1] }), /there are 1 embeddings for 2 texts/],
    ["with an index twice", data({ index: 0, embedding: [1] }, { index: 0, embedding: [2] }), /the index 0 twice/],
    ["with an index beyond", data({ index: 0, embedding: [1] }, { index: 2, embedding: [2] }), /the index 2 twice or/],
    ["of rows of different widths", data({ embedding: [1] }, { embedding: [1, 2] }), /have 1, 2 numbers; all need/],
    ["of empty rows", data({ embedding: [] }, { embedding: [] }), /have 0, 0 numbers; all need/]
  ])("is an answer %s", ([, body, expected]) =>
    run(
      Effect.gen(function* () {
        const { embed, server } = yield* setting((response) => response.end(body))
        const error = yield* Effect.flip(embed(["a", "b"]))
        assert.match(error.message, expected)
        assert.lengthOf(server.requests, 2)
      })
    )
  )

  it.effect("is an empty text, before anything is sent", () =>
    run(
      Effect.gen(function* () {
        const { embed, server } = yield* setting(lengths)
        const error = yield* Effect.flip(embed(["a", ""]))
        assert.match(error.message, /text 1 of 2 is empty; leave empty texts out/)
        assert.strictEqual(error.text, 1)
        assert.lengthOf(server.requests, 0)
      })
    )
  )

  it.effect.each<readonly [string, Partial<EmbeddingEndpoint.Options>]>([
    ["baseUrl", { baseUrl: "localhost:5000" }],
    ["user and password", { baseUrl: "http://me:pw@example.com/v1" }],
    ["model must", { model: "" }],
    ["batchSize", { batchSize: 0 }],
    ["concurrency", { concurrency: 0 }],
    ["timeout", { timeout: 0 }],
    ["apiKey", { apiKey: Redacted.make("a b") }],
    ["extra must not hold input", { extra: { input: "" } }]
  ])("is an option that makes no sense: %s", ([name, options]) =>
    run(
      Effect.gen(function* () {
        const error = yield* Effect.flip(EmbeddingEndpoint.make({ baseUrl: "http://h/v1", model: "m", ...options }))
        assert.include(error.reason, name)
        assert.notInclude(error.message, "pw@")
      })
    )
  )

  it.effect("never shows the key or the query of the URL", () =>
    run(
      Effect.gen(function* () {
        const secret = "QZ-0123456789abcdef"
        const server = yield* ChatServer.start((response, seen) =>
          ChatServer.refuse(response, 401, { error: `bad key ${seen.authorization}` })
        )
        const baseUrl = `${server.baseUrl}?token=TOKEN-42`
        const endpoint = yield* EmbeddingEndpoint.make({ baseUrl, model: "m", apiKey: Redacted.make(secret) })
        const error = yield* Effect.flip(endpoint.embed(["a"]))
        assert.include(error.message, "bad key Bearer <api key>")
        const everything = `${error.stack} ${inspect([error, endpoint], { depth: null, showHidden: true })}`
        assert.notInclude(everything, secret)
        assert.notInclude(everything, "TOKEN-42")
      })
    )
  )
})
