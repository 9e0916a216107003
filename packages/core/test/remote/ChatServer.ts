/** A chat server on this machine that answers as it is told, and remembers what it really saw. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { Effect, type Scope } from "effect"

export interface Seen {
  readonly authorization: string | undefined
  readonly url: string
  readonly body: {
    readonly model: string
    readonly messages: ReadonlyArray<{ readonly role: string; readonly content: string }>
    readonly [field: string]: unknown
  }
  /** Settled when the client has gone away before the response was finished. */
  readonly aborted: Promise<void>
}

/** Answers the request that is the `index`-th since the start, from 0. */
export type Behaviour = (response: ServerResponse, seen: Seen, index: number) => unknown

export interface ChatServer {
  readonly baseUrl: string
  readonly requests: Array<Seen>
  /** The most requests that were under way at a time. */
  readonly mostAtOnce: () => number
  behave: Behaviour
}

export interface Reply {
  readonly usage?: { readonly prompt_tokens: number; readonly completion_tokens: number }
  readonly first?: Readonly<Record<string, number>>
  readonly finish?: string
}

/** A chat completion. */
export const completion = (content: string, { finish = "stop", first, usage }: Reply = {}): string =>
  JSON.stringify({
    id: "x",
    object: "chat.completion",
    choices: [
      {
        index: 0,
        message: { role: "assistant", content },
        finish_reason: finish,
        ...(first === undefined
          ? {}
          : {
              logprobs: {
                content: [
                  {
                    token: content,
                    logprob: 0,
                    top_logprobs: Object.entries(first).map(([token, p]) => ({
                      token,
                      logprob: Math.log(p),
                      bytes: null
                    }))
                  }
                ]
              }
            })
      }
    ],
    ...(usage === undefined ? {} : { usage: { ...usage, total_tokens: 0 } })
  })

export const answer = (response: ServerResponse, content: string, reply?: Reply) =>
  response.setHeader("content-type", "application/json").end(completion(content, reply))

export const refuse = (response: ServerResponse, status: number, body: unknown = {}, headers = {}) =>
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body))

/** Echoes the last message. */
export const echo: Behaviour = (response, { body }) => answer(response, `echo ${body.messages.at(-1)!.content}`)

const textOf = async (request: IncomingMessage) => {
  const chunks: Array<Buffer> = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString("utf8")
}

export const start = (behave: Behaviour = echo): Effect.Effect<ChatServer, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<{ readonly state: ChatServer; readonly close: () => void }>((done) => {
          let underWay = 0
          let most = 0
          const requests: Array<Seen> = []
          const server = createServer(async (request, response) => {
            most = Math.max(most, ++underWay)
            const aborted = new Promise<void>((resolve) => {
              response.on("close", () => {
                underWay--
                if (!response.writableFinished) resolve()
              })
            })
            // A client may leave before it has sent everything.
            const text = await textOf(request).catch(() => undefined)
            if (text === undefined) return
            const seen = {
              authorization: request.headers.authorization,
              url: `${request.method} ${request.url}`,
              body: JSON.parse(text),
              aborted
            }
            state.behave(response, seen, requests.push(seen) - 1)
          })
          const state: ChatServer = { baseUrl: "", requests, mostAtOnce: () => most, behave }
          server.listen(0, "127.0.0.1", () => {
            const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
            const close = () => {
              server.closeAllConnections()
              server.close()
            }
            done({ state: Object.assign(state, { baseUrl }), close })
          })
        })
    ),
    ({ close }) => Effect.sync(close)
  ).pipe(Effect.map(({ state }) => state))
