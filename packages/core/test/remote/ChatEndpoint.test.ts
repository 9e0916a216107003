import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { FetchHttpClient } from "effect/http"
import * as ChatEndpoint from "../../src/remote/ChatEndpoint.ts"
import * as ChatServer from "./ChatServer.ts"

const user = (content: string): ReadonlyArray<ChatEndpoint.Message> => [{ role: "user", content }]

describe("ask", () => {
  it.effect("sends what was asked and hands on the answer", () =>
    Effect.gen(function* () {
      const server = yield* ChatServer.start()
      const endpoint = yield* ChatEndpoint.make({ baseUrl: server.baseUrl, model: "m" })
      const answer = yield* endpoint.ask(user("hi"))
      assert.deepStrictEqual(answer, { content: "echo hi", finishReason: "stop", cached: false })
      assert.strictEqual(server.requests[0]!.url, "POST /v1/chat/completions")
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))
  )
})
