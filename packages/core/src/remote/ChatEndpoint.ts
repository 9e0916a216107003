/**
 * A language model behind an OpenAI-compatible HTTP endpoint: `POST <baseUrl>/chat/completions`.
 *
 * Made for long evaluations: what fails in passing is tried again, what was answered is kept, what may be spent has a
 * limit. The API key goes into the header of the request and nowhere else.
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import { Clock, Duration, Effect, Exit, Random, Redacted, Result, Schema, type Scope, Semaphore, Stream } from "effect"
import { toCodecOpenAI } from "effect/ai/OpenAiStructuredOutput"
import { HttpClient, type HttpClientError, HttpClientRequest, type HttpClientResponse } from "effect/http"
import type * as Prompt from "../Prompt.ts"
import * as Budget from "./Budget.ts"
import * as ChatReply from "./ChatReply.ts"
import * as ResponseCache from "./ResponseCache.ts"

/**
 * Reports that a remote model gave no usable answer. `reason` is for programs, the message for people.
 *
 * **Details**
 *
 * | reason | what happened |
 * | --- | --- |
 * | `Options` | an option makes no sense; nothing was sent |
 * | `Unauthorised` | 401 or 403 |
 * | `NotFound` | 404: no such path or model |
 * | `Rejected` | 400, 422 and other 4xx, or the quota is used up |
 * | `Unavailable` | 408, 409, 425, 429 or 5xx on every attempt, or a `Retry-After` longer than `longestWait` |
 * | `Network` | no connection, or it broke, on every attempt |
 * | `Timeout` | no whole answer in time, on every attempt |
 * | `Reply` | an answer with status 200 that is not that of this protocol |
 * | `Undecodable` | `askJson`: the model's answer does not fit the caller's schema |
 * | `SpendLimit` | one more request could go over the limit; `spent` says what was |
 * | `Cache` | the cache file cannot be read or written |
 *
 * @category errors
 * @since 0.1.0
 */
export class ChatError extends Schema.TaggedError<ChatError>()("ChatError", {
  /** Host and port. */
  endpoint: Schema.String,
  model: Schema.String,
  reason: Schema.Literals([
    "Options",
    "Unauthorised",
    "NotFound",
    "Rejected",
    "Unavailable",
    "Network",
    "Timeout",
    "Reply",
    "Undecodable",
    "SpendLimit",
    "Cache"
  ]),
  /** What happened and what to do. */
  detail: Schema.String,
  /** Requests sent for this question. */
  attempts: Schema.Int,
  /** HTTP status of the last attempt, where it got one. */
  status: Schema.optionalKey(Schema.Int),
  /** The beginning of what the server or the model said, without the API key. */
  excerpt: Schema.optionalKey(Schema.String),
  spent: Schema.optionalKey(Budget.Spent)
}) {
  override get message(): string {
    const status = this.status === undefined ? "" : `, status ${this.status}`
    const tries = this.attempts > 1 ? `, ${this.attempts} attempts` : ""
    const said = this.excerpt === undefined ? "" : `; it said: ${this.excerpt}`
    return `${this.model} at ${this.endpoint}${status}${tries}: ${this.detail}${said}`
  }
}

/**
 * What a request says beside the messages. What is not given is not sent, and the server's default holds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sampling {
  readonly temperature?: number
  /** The most tokens of an answer. */
  readonly maxTokens?: number
  readonly seed?: number
  /** Ask for this many of the likeliest first tokens and their log-probabilities, 1 to 20. */
  readonly topLogprobs?: number
}

/**
 * One request's own settings, over those of the endpoint.
 *
 * @category models
 * @since 0.1.0
 */
export interface AskOptions extends Sampling {
  /** Which of several answers to the same request; the same number gives the same, kept answer. 0 by default. */
  readonly draw?: number
}

/**
 * Where the model is and how to ask it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Sampling {
  /** `https://api.example.com/v1`, for instance. */
  readonly baseUrl: string
  readonly model: string
  readonly apiKey?: Redacted.Redacted<string>
  /** Further fields of every request, such as `top_p`. */
  readonly extra?: Readonly<Record<string, Schema.Json>>
  /** The field that `maxTokens` is sent as; newer models of some providers want the second. `"max_tokens"` by default. */
  readonly maxTokensField?: "max_tokens" | "max_completion_tokens"
  /** How `askJson` asks for JSON: by a schema (default), for any JSON, or in the words of the prompt alone. */
  readonly jsonMode?: "json_schema" | "json_object" | "none"
  /** For one attempt, from sending it to the last byte. 60 seconds by default. */
  readonly timeout?: Duration.Input
  /** Attempts after the first. 6 by default. */
  readonly retries?: number
  /** Pause before the first retry; doubled before each further one. Half a second by default. */
  readonly pause?: Duration.Input
  /** The longest of these pauses. 30 seconds by default. */
  readonly longestPause?: Duration.Input
  /** The longest `Retry-After` that is waited for. 5 minutes by default. */
  readonly longestWait?: Duration.Input
  /** Requests under way at a time. 8 by default. */
  readonly concurrency?: number
  /** The most that may be spent as long as this endpoint is open. A limit of tokens or cost needs `maxTokens`. */
  readonly limit?: Budget.Limit
  /** Needed for `usage` to state a cost. */
  readonly price?: Budget.Price
  /** File that keeps the answers. Without it they are kept in memory. */
  readonly cache?: string
}

/**
 * What an endpoint was used for since it was opened.
 *
 * @category models
 * @since 0.1.0
 */
export interface Usage extends Budget.Spent {
  /** Answers given, from the cache too. */
  readonly answers: number
  /** Those of them that cost no request. */
  readonly cached: number
  /** Requests whose usage the server did not state, for which the most they may have used was counted. */
  readonly unstated: number
}

/**
 * An answer, and whether it was kept from before.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer extends ChatReply.Answer {
  readonly cached: boolean
}

/**
 * An open endpoint.
 *
 * @category models
 * @since 0.1.0
 */
export interface ChatEndpoint {
  /** Model and host, for messages and reports. */
  readonly name: string
  /** The most requests under way at a time; fibers beyond that only wait. */
  readonly concurrency: number
  /** The model's answer to a conversation. */
  readonly ask: (messages: ReadonlyArray<Prompt.Message>, options?: AskOptions) => Effect.Effect<Answer, ChatError>
  /**
   * The model's answer as JSON, decoded. An answer that does not fit the schema is shown to the model with what is wrong
   * and asked for once more; the second time it is an error. With `jsonMode` `"json_schema"` the schema is one of an
   * object; optional keys and the like are sent as such servers want them.
   */
  readonly askJson: <A>(
    messages: ReadonlyArray<Prompt.Message>,
    schema: Schema.Codec<A, unknown>,
    options?: AskOptions & {
      /** Name of the schema in the request. */
      readonly name?: string
    }
  ) => Effect.Effect<A, ChatError>
  readonly usage: Effect.Effect<Usage>
}

type Reason = ChatError["reason"]

// Why an attempt gave no answer, and what comes of it.
interface Fault {
  readonly reason: Reason
  readonly detail: string
  readonly status?: number
  readonly excerpt?: string
  /** Attempts that may end like this before the question is given up. */
  readonly allowed: "none" | "one" | "all"
  /** Milliseconds that the server asks to wait. */
  readonly wait?: number | undefined
  /** What it used; where that cannot be known, nothing is stated here. */
  readonly used?: Budget.Tokens | undefined
}

const none: Budget.Tokens = { prompt: 0, completion: 0 }
const excerptLength = 300
const longestBody = 16 * 1024 * 1024

/** Statuses that come and go. 409 is a lock held by another request, 425 a replay that the server puts off. */
const isPassing = (status: number): boolean =>
  status === 408 || status === 409 || status === 425 || status === 429 || status >= 500

/** Fields that `extra` may not overrule. */
const reserved = ["model", "messages", "stream", "n", "max_tokens", "max_completion_tokens"]

const problem = (options: Options): string | undefined => {
  const { apiKey, baseUrl, extra, limit = {}, longestPause, longestWait, model, pause, price, timeout } = options
  const url = URL.parse(baseUrl)
  if (url === null || !/^https?:$/.test(url.protocol)) return "baseUrl must be an http or https URL"
  if (url.username !== "" || url.password !== "") return "baseUrl must hold no user and password; give an apiKey"
  if (model === "") return "model must be a name"
  if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(Redacted.value(apiKey))) {
    return "apiKey is empty or holds a blank, a line break or a letter outside ASCII; remove it"
  }
  const taken = reserved.find((field) => extra !== undefined && Object.hasOwn(extra, field))
  if (taken !== undefined) {
    return `extra must not hold ${taken}${taken.startsWith("max_") ? "; give maxTokens, by which spending is limited" : ""}`
  }
  const natural = { retries: options.retries ?? 0, concurrency: options.concurrency ?? 1 }
  for (const [name, value] of Object.entries({ ...natural, "limit.requests": limit.requests ?? 0 })) {
    if (!Number.isInteger(value) || value < 0) return `${name} must be a whole number from 0, not ${value}`
  }
  if (options.concurrency === 0) return "concurrency must be at least 1"
  const amounts = { "limit.tokens": limit.tokens, "limit.cost": limit.cost }
  const prices = { "price.prompt": price?.prompt, "price.completion": price?.completion }
  for (const [name, value] of Object.entries({ ...amounts, ...prices })) {
    if (value !== undefined && !(value >= 0 && value < Infinity)) return `${name} must be a number from 0, not ${value}`
  }
  if (timeout !== undefined && !(Duration.toMillis(timeout) > 0)) return "timeout must be above 0"
  for (const [name, value] of Object.entries({ pause, longestPause, longestWait })) {
    if (value !== undefined && !(Duration.toMillis(value) >= 0)) return `${name} must be a duration from 0`
  }
  if (limit.cost !== undefined && price === undefined) return "a limit of cost needs a price"
  return samplingProblem(options)
}

const samplingProblem = ({ maxTokens, seed, temperature, topLogprobs }: Sampling): string | undefined => {
  if (temperature !== undefined && !(temperature >= 0 && temperature < Infinity)) {
    return `temperature must be a number from 0, not ${temperature}`
  }
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens >= 1)) {
    return `maxTokens must be a whole number from 1, not ${maxTokens}`
  }
  if (seed !== undefined && !Number.isSafeInteger(seed)) return `seed must be a whole number, not ${seed}`
  if (topLogprobs !== undefined && !(Number.isInteger(topLogprobs) && topLogprobs >= 1 && topLogprobs <= 20)) {
    return `topLogprobs must be a whole number from 1 to 20, not ${topLogprobs}`
  }
  return undefined
}

const completionsUrl = (baseUrl: string): string => {
  const url = new URL(baseUrl)
  const path = url.pathname.replace(/\/+$/, "")
  url.pathname = path.endsWith("/chat/completions") ? path : `${path}/chat/completions`
  return url.href
}

/**
 * The most tokens that a prompt can be: one per byte, which no byte-level vocabulary exceeds, and what chat templates put
 * around messages. A schema, or tools among the further fields, may become part of the prompt as well.
 */
const promptBound = (messages: ReadonlyArray<Prompt.Message>, further: Readonly<Record<string, unknown>>): number =>
  messages.reduce((sum, { content }) => sum + Buffer.byteLength(content) + 16, 64) +
  (Object.keys(further).length === 0 ? 0 : Buffer.byteLength(JSON.stringify(further)))

/** The bytes of a body as text; one that never ends is cut off. */
const readText = (response: HttpClientResponse.HttpClientResponse) =>
  Effect.suspend(() => {
    const chunks: Array<Uint8Array> = []
    let size = 0
    return response.stream.pipe(
      Stream.takeWhile((chunk) => {
        chunks.push(chunk)
        size += chunk.byteLength
        return size <= longestBody
      }),
      Stream.runDrain,
      Effect.map(() => Buffer.concat(chunks).toString("utf8"))
    )
  })

const parseJson = (text: string): Result.Result<unknown, unknown> =>
  Result.try({ try: (): unknown => JSON.parse(text), catch: (cause) => cause })

// Codes of connections that never came to be, so that nothing was sent.
const unconnected = /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT_TIMEOUT)$/

// What fetch says is "fetch failed"; why is in the cause, sometimes further down.
const networkFault = (error: HttpClientError.HttpClientError): Fault => {
  const said: Array<string> = []
  let wasSent = true
  for (let cause: unknown = error.reason.cause; cause instanceof Error && said.length < 4; cause = cause.cause) {
    const code = "code" in cause && typeof cause.code === "string" ? cause.code : ""
    if (unconnected.test(code)) wasSent = false
    said.push(code === "" ? cause.message : `${cause.message} (${code})`.trim())
  }
  return {
    reason: "Network",
    detail: `the connection failed: ${said.join(": ") || error.reason._tag}; check that the server runs and can be reached`,
    allowed: "all",
    used: wasSent ? undefined : none
  }
}

const refusalFault = (status: number, json: unknown, wait: number | undefined): Fault => {
  const said = ChatReply.refusal(json)
  const used = ChatReply.usageOf(json) ?? none
  const fault = (reason: Reason, detail: string, allowed: Fault["allowed"] = "none"): Fault => ({
    reason,
    detail,
    status,
    allowed,
    wait,
    used
  })
  if (said?.code === "insufficient_quota") return fault("Rejected", "the quota of this key is used up; raise it")
  if (isPassing(status)) {
    const what = status === 429 ? "the server is asked too much" : "the server cannot answer now"
    return fault("Unavailable", `${what}; try again later, or with less concurrency: answers so far are kept`, "all")
  }
  if (status === 401 || status === 403) return fault("Unauthorised", "the server does not accept the key; check apiKey")
  if (status === 404) return fault("NotFound", "the server knows no such path or model; check baseUrl and model")
  return fault("Rejected", "the server rejects the request; change what it names")
}

/**
 * Opens an endpoint; its cache is closed with the scope.
 *
 * **Details**
 *
 * Tried again, `retries` times: statuses 408, 409, 425, 429 and 5xx, connections that fail or break, attempts that take
 * longer than `timeout`, and bodies that are not JSON (cut short, a proxy's error page). JSON that is not an answer (no
 * choices, no content) is tried again once only, since a server of another protocol does not learn. Everything else fails
 * at once. The pause before retry `i` is `pause * 2^i`, at most `longestPause`, times a random number in `[1/2, 1]`; where
 * the server states a `Retry-After` (seconds or date), no request of this endpoint is sent before, plus a random part of
 * `pause`.
 *
 * The same conversation with the same settings and `draw` is asked once: answers are kept in memory and, with `cache`, in
 * a file, under the SHA-256 of URL, body and draw. So a run that was killed goes on where it stopped, and a second run
 * costs nothing. Failures are not kept.
 *
 * Before a request is sent, the most that it can use is put aside: one token per byte of the messages, of `extra` and of a
 * schema, a few for the template, and `maxTokens`. When its usage is known, the rest is given back; when it is not (no `usage` in the answer, a
 * timeout, a broken connection, an interrupted fiber), the whole is counted, as the server may charge for it. An error
 * status without usage counts as a request of no tokens.
 *
 * Interrupting `ask` aborts its request. Retries are logged at debug level, waits of 10 seconds and more at info level. For
 * further headers, give an `HttpClient` that adds them (`HttpClient.mapRequest`).
 *
 * **Example** (Asking a model within a budget)
 *
 * ```ts
 * import { ChatEndpoint } from "@attune/core/remote"
 * import { Config, Effect } from "effect"
 * import { FetchHttpClient } from "effect/http"
 *
 * const program = Effect.gen(function* () {
 *   const endpoint = yield* ChatEndpoint.make({
 *     baseUrl: "https://api.example.com/v1",
 *     model: "some-model",
 *     apiKey: yield* Config.Redacted("API_KEY"),
 *     temperature: 0,
 *     maxTokens: 256,
 *     cache: "runs/answers.jsonl",
 *     price: { prompt: 0.5, completion: 1.5 },
 *     limit: { cost: 2 }
 *   })
 *   const { content } = yield* endpoint.ask([{ role: "user", content: "Name a prime." }])
 *   return content
 * }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (options: Options) => Effect.Effect<ChatEndpoint, ChatError, HttpClient.HttpClient | Scope.Scope> =
  Effect.fn("ChatEndpoint.make")(function* (options) {
    const { model, retries = 6 } = options
    const host = URL.parse(options.baseUrl)?.host ?? "?"
    const key = options.apiKey === undefined ? undefined : Redacted.value(options.apiKey)
    // A server may repeat the key in what it says.
    const clean = (text: string) => (key === undefined || key === "" ? text : text.replaceAll(key, "<api key>"))
    const excerptOf = (text: string): string => {
      const plain = clean(text)
        .replace(/[\s\p{Cc}]+/gu, " ")
        .trim()
      return plain.length > excerptLength ? `${plain.slice(0, excerptLength)}...` : plain
    }
    const failure = (reason: Reason, detail: string, rest: Partial<ChatError> = {}) =>
      new ChatError({
        endpoint: host,
        model,
        reason,
        detail: clean(detail),
        attempts: rest.attempts ?? 0,
        ...(rest.status === undefined ? {} : { status: rest.status }),
        ...(rest.excerpt === undefined || rest.excerpt === "" ? {} : { excerpt: excerptOf(rest.excerpt) }),
        ...(rest.spent === undefined ? {} : { spent: rest.spent })
      })

    const wrong = problem(options)
    if (wrong !== undefined) return yield* failure("Options", wrong)
    const client = yield* HttpClient.HttpClient
    const url = completionsUrl(options.baseUrl)
    const timeout = Duration.fromInputUnsafe(options.timeout ?? "60 seconds")
    const pause = Duration.toMillis(options.pause ?? "500 millis")
    const longestPause = Duration.toMillis(options.longestPause ?? "30 seconds")
    const longestWait = Duration.toMillis(options.longestWait ?? "5 minutes")
    const concurrency = options.concurrency ?? 8
    const permits = yield* Semaphore.make(concurrency)
    const budget = Budget.make({
      ...(options.limit === undefined ? {} : { limit: options.limit }),
      ...(options.price === undefined ? {} : { price: options.price })
    })
    const cache = yield* ResponseCache.open(options.cache, ChatReply.Answer).pipe(
      Effect.mapError((error) => failure("Cache", error.message))
    )
    let answers = 0
    let cached = 0
    let unstated = 0
    // No request is sent before this time, in milliseconds.
    let notBefore = 0

    const request = HttpClientRequest.post(url).pipe(
      HttpClientRequest.acceptJson,
      key === undefined ? (self) => self : HttpClientRequest.bearerToken(key)
    )

    // One request, to its last byte.
    const exchange = Effect.fnUntraced(
      function* (body: string) {
        const response = yield* client.execute(HttpClientRequest.bodyText(request, body, "application/json"))
        const text = yield* readText(response).pipe(
          Effect.catchIf(
            (error) => error.reason._tag === "EmptyBodyError",
            () => Effect.succeed("")
          )
        )
        const now = yield* Clock.currentTimeMillis
        return { status: response.status, wait: ChatReply.retryAfter(response.headers["retry-after"], now), text }
      },
      Effect.mapError(networkFault),
      Effect.timeoutOrElse({
        duration: timeout,
        orElse: () =>
          Effect.fail<Fault>({
            reason: "Timeout",
            detail: `no whole answer within ${Duration.format(timeout)}; raise timeout, or ask for fewer tokens`,
            allowed: "all"
          })
      })
    )

    const attempt = (body: string): Effect.Effect<ChatReply.Answer, Fault> =>
      Effect.flatMap(exchange(body), ({ status, text, wait }) => {
        const json = parseJson(text)
        if (status < 200 || status > 299) {
          const value = Result.getOrUndefined(json)
          const said = ChatReply.refusal(value)?.message ?? text
          return Effect.fail<Fault>({ ...refusalFault(status, value, wait), excerpt: said })
        }
        const unusable = (detail: string, allowed: Fault["allowed"], used?: Budget.Tokens) =>
          Effect.fail<Fault>({ reason: "Reply", detail, status, excerpt: text, allowed, used })
        if (Result.isFailure(json)) {
          return unusable("the body is not JSON; check that baseUrl is that of an OpenAI-compatible server", "all")
        }
        const answer = ChatReply.decode(json.success)
        if (Result.isSuccess(answer)) return Effect.succeed(answer.success)
        // Some gateways put an error status into a body of status 200.
        const inside = Number(ChatReply.refusal(json.success)?.code)
        if (inside >= 400 && inside <= 599) {
          return Effect.fail<Fault>({ ...refusalFault(inside, json.success, wait), excerpt: text })
        }
        const what = `the body is not a chat completion (${excerptOf(answer.failure)})`
        return unusable(`${what}; check that the server is OpenAI-compatible`, "one", ChatReply.usageOf(json.success))
      })

    const usedBy = (exit: Exit.Exit<ChatReply.Answer, Fault>): Budget.Tokens | undefined => {
      const used = Exit.isSuccess(exit)
        ? exit.value.usage
        : Exit.match(exit, {
            onSuccess: () => undefined,
            onFailure: (cause) => cause.reasons.find((reason) => reason._tag === "Fail")?.error.used
          })
      if (used === undefined) unstated++
      return used
    }

    const waitForServer: Effect.Effect<void> = Effect.flatMap(Clock.currentTimeMillis, (now) =>
      now >= notBefore
        ? Effect.void
        : Effect.flatMap(Random.nextBetween(0, pause), (extra) =>
            Effect.andThen(Effect.sleep(notBefore - now + extra), waitForServer)
          )
    )

    const send = (body: string, most: Budget.Tokens) =>
      permits.withPermit(Effect.andThen(waitForServer, budget.spend(most, attempt(body), usedBy)))

    const converse = Effect.fnUntraced(function* (body: string, most: Budget.Tokens) {
      let malformed = 0
      for (let attempts = 1; ; attempts++) {
        const result = yield* Effect.result(send(body, most))
        if (Result.isSuccess(result)) return result.success
        const fault = result.failure
        if (fault instanceof Budget.SpendLimitError) {
          return yield* failure("SpendLimit", fault.message, { attempts: attempts - 1, spent: fault.spent })
        }
        const { allowed, detail, reason, wait, ...rest } = fault
        if (allowed === "one") malformed++
        const isLast = allowed === "none" || malformed > 1 || attempts > retries
        if (isLast) return yield* failure(reason, detail, { ...rest, attempts })
        if (wait !== undefined && wait > longestWait) {
          const asked = `the server asks to wait ${Math.ceil(wait / 1000)} s, longer than longestWait`
          return yield* failure("Unavailable", `${asked}; run again then: answers so far are kept`, {
            ...rest,
            attempts
          })
        }
        if (wait !== undefined) notBefore = Math.max(notBefore, (yield* Clock.currentTimeMillis) + wait)
        const full = Math.min(longestPause, pause * 2 ** (attempts - 1))
        // A long wait would look like a program that hangs.
        const waiting = wait === undefined ? "" : `; the server asks to wait ${Math.ceil(wait / 1000)} s`
        const log = wait !== undefined && wait >= 10_000 ? Effect.logInfo : Effect.logDebug
        yield* log(`${model} at ${host}: ${clean(detail)}${waiting}`).pipe(Effect.annotateLogs({ attempts, reason }))
        yield* Effect.sleep(full * (0.5 + 0.5 * (yield* Random.next)))
      }
    })

    const answerTo = Effect.fnUntraced(function* (
      messages: ReadonlyArray<Prompt.Message>,
      asked: AskOptions,
      format: Readonly<Record<string, unknown>>
    ) {
      const { draw = 0, ...own } = asked
      const { maxTokens, seed, temperature, topLogprobs } = { ...options, ...own }
      const invalid = samplingProblem(own)
      if (invalid !== undefined) return yield* failure("Options", invalid)
      const isBounded = options.limit?.tokens !== undefined || options.limit?.cost !== undefined
      if (isBounded && maxTokens === undefined) {
        return yield* failure("Options", "a limit of tokens or cost needs maxTokens, to know what a request can use")
      }
      const body = JSON.stringify({
        model,
        messages: messages.map(({ content, role }) => ({ role, content })),
        temperature,
        [options.maxTokensField ?? "max_tokens"]: maxTokens,
        seed,
        ...(topLogprobs === undefined ? {} : { logprobs: true, top_logprobs: topLogprobs }),
        ...options.extra,
        ...format
      })
      const id = createHash("sha256")
        .update(JSON.stringify([url, body, draw]))
        .digest("hex")
      const most = { prompt: promptBound(messages, { ...options.extra, ...format }), completion: maxTokens ?? 0 }
      const found = yield* cache
        .once(id, converse(body, most))
        .pipe(Effect.catchTag("ResponseCacheError", (error) => Effect.fail(failure("Cache", error.message))))
      answers++
      if (found.cached) cached++
      return { ...found.value, cached: found.cached }
    })

    const ask: ChatEndpoint["ask"] = (messages, asked = {}) => answerTo(messages, asked, {})

    const askJson: ChatEndpoint["askJson"] = Effect.fnUntraced(function* (messages, schema, asked = {}) {
      const { name = "answer", ...own } = asked
      const mode = options.jsonMode ?? "json_schema"
      const { codec, jsonSchema } =
        mode === "json_schema" ? toCodecOpenAI(schema) : { codec: Schema.toCodecJson(schema), jsonSchema: {} }
      const format =
        mode === "json_schema"
          ? { response_format: { type: mode, json_schema: { name, strict: true, schema: jsonSchema } } }
          : mode === "json_object"
            ? { response_format: { type: mode } }
            : {}
      const decode = Schema.decodeUnknownResult(Schema.fromJsonString(codec))
      let conversation = messages
      for (let asks = 1; ; asks++) {
        const answer = yield* answerTo(conversation, own, format)
        const decoded = decode(withoutFence(answer.content))
        if (Result.isSuccess(decoded)) return decoded.success
        const issue = excerptOf(decoded.failure.message)
        if (asks === 2) {
          const cut = answer.finishReason === "length" ? "; it was cut off, so raise maxTokens" : ""
          const detail = `the model's answer does not fit the schema, asked twice (${issue})${cut}`
          return yield* failure("Undecodable", detail, { attempts: asks, excerpt: answer.content })
        }
        conversation = [
          ...messages,
          { role: "assistant", content: answer.content },
          { role: "user", content: `This does not fit: ${issue}. Answer again, with the JSON only.` }
        ]
      }
    })

    return {
      name: `${model} at ${host}`,
      concurrency,
      ask,
      askJson,
      usage: Effect.map(budget.spent, (spent) => ({ ...spent, answers, cached, unstated }))
    }
  })

/** Models like to put JSON between the marks of a code block. */
const withoutFence = (text: string): string => /^\s*```(?:json)?\s*\n([\s\S]*?)\n?\s*```\s*$/.exec(text)?.[1] ?? text
