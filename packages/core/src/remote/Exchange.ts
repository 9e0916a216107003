/**
 * A request of JSON over HTTP and its whole answer: in time, a few at once, again where it fails in passing, and not
 * before the server wants it. What chat and reward endpoints have in common.
 *
 * The API key goes into the header of the request and nowhere else.
 *
 * @since 0.1.0
 */
import { Clock, Duration, Effect, Random, Redacted, Result, Semaphore, Stream } from "effect"
import { HttpClient, type HttpClientError, HttpClientRequest, type HttpClientResponse } from "effect/http"
import * as ChatReply from "./ChatReply.ts"

/**
 * How requests are sent.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly apiKey?: Redacted.Redacted<string>
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
}

/**
 * What to tell the user to do, which depends on what the server is for.
 *
 * @category models
 * @since 0.1.0
 */
export interface Advice {
  /** For a path that the server does not know. */
  readonly notFound: string
  /** For an answer that takes too long. */
  readonly late: string
  /** For an answer that is not JSON. */
  readonly protocol: string
  /** What comes of asking later, after a colon. */
  readonly later: string
}

/**
 * Why there is no answer: `ChatError` says what each reason means.
 *
 * @category models
 * @since 0.1.0
 */
export type Reason = "Unauthorised" | "NotFound" | "Rejected" | "Unavailable" | "Network" | "Timeout" | "Reply"

/**
 * Why an attempt gave no answer, and what comes of it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Fault {
  readonly _tag: "Fault"
  readonly reason: Reason
  readonly detail: string
  readonly status?: number
  readonly excerpt?: string
  /** Attempts that may end like this before the request is given up. */
  readonly allowed: "none" | "one" | "all"
  /** Milliseconds that the server asks to wait. */
  readonly wait?: number | undefined
  /** What the server said, where it is JSON. */
  readonly json?: unknown
  /** Where the request never reached the server. */
  readonly isUnsent?: boolean
}

/**
 * Why the request was given up, in words without the API key.
 *
 * @category models
 * @since 0.1.0
 */
export interface Failure {
  readonly _tag: "Failure"
  readonly reason: Reason
  /** What happened and what to do. */
  readonly detail: string
  readonly attempts: number
  readonly status?: number
  /** The beginning of what the server said. */
  readonly excerpt?: string
}

/**
 * A way to a server. Its fibers share the limit of requests under way, and what the server asks to wait.
 *
 * @category models
 * @since 0.1.0
 */
export interface Exchange {
  /**
   * Posts the body until `read` can make something of an answer; what it fails with says what is wrong with the JSON.
   * Each attempt passes through `through`, whose own failures end the request.
   */
  readonly post: <A, E extends { readonly _tag: string } = never>(
    body: string,
    read: (json: unknown) => Result.Result<A, string>,
    through?: (attempt: Effect.Effect<A, Fault>) => Effect.Effect<A, Fault | E>
  ) => Effect.Effect<A, Failure | E>
}

const excerptLength = 300
const longestBody = 16 * 1024 * 1024

/**
 * Texts of others without the API key, which a server may repeat.
 *
 * @category transforming
 * @since 0.1.0
 */
export const without = (apiKey: Redacted.Redacted<string> | undefined) => {
  const key = apiKey === undefined ? "" : Redacted.value(apiKey)
  const clean = (text: string): string => (key === "" ? text : text.replaceAll(key, "<api key>"))
  const excerpt = (text: string): string => {
    const plain = clean(text)
      .replace(/[\s\p{Cc}]+/gu, " ")
      .trim()
    return plain.length > excerptLength ? `${plain.slice(0, excerptLength)}...` : plain
  }
  return { clean, excerpt }
}

/**
 * What makes no sense about the settings, if anything. `urlName` is what the user calls the URL.
 *
 * @category constructors
 * @since 0.1.0
 */
export const problem = (urlName: string, url: string, settings: Settings): string | undefined => {
  const { apiKey, longestPause, longestWait, pause, timeout } = settings
  const parsed = URL.parse(url)
  if (parsed === null || !/^https?:$/.test(parsed.protocol)) return `${urlName} must be an http or https URL`
  if (parsed.username !== "" || parsed.password !== "") {
    return `${urlName} must hold no user and password; give an apiKey`
  }
  if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(Redacted.value(apiKey))) {
    return "apiKey is empty or holds a blank, a line break or a letter outside ASCII; remove it"
  }
  for (const [name, value] of Object.entries({
    retries: settings.retries ?? 0,
    concurrency: settings.concurrency ?? 1
  })) {
    if (!Number.isInteger(value) || value < 0) return `${name} must be a whole number from 0, not ${value}`
  }
  if (settings.concurrency === 0) return "concurrency must be at least 1"
  if (timeout !== undefined && !(Duration.toMillis(timeout) > 0)) return "timeout must be above 0"
  for (const [name, value] of Object.entries({ pause, longestPause, longestWait })) {
    if (value !== undefined && !(Duration.toMillis(value) >= 0)) return `${name} must be a duration from 0`
  }
  return undefined
}

/** Statuses that come and go. 409 is a lock held by another request, 425 a replay that the server puts off. */
const isPassing = (status: number): boolean =>
  status === 408 || status === 409 || status === 425 || status === 429 || status >= 500

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
  let isUnsent = false
  for (let cause: unknown = error.reason.cause; cause instanceof Error && said.length < 4; cause = cause.cause) {
    const code = "code" in cause && typeof cause.code === "string" ? cause.code : ""
    if (unconnected.test(code)) isUnsent = true
    said.push(code === "" ? cause.message : `${cause.message} (${code})`.trim())
  }
  return {
    _tag: "Fault",
    reason: "Network",
    detail: `the connection failed: ${said.join(": ") || error.reason._tag}; check that the server runs and can be reached`,
    allowed: "all",
    isUnsent
  }
}

const refusalFault = (advice: Advice, status: number, json: unknown, wait: number | undefined): Fault => {
  const said = ChatReply.refusal(json)
  const fault = (reason: Reason, detail: string, allowed: Fault["allowed"] = "none"): Fault => ({
    _tag: "Fault",
    reason,
    detail,
    status,
    allowed,
    wait,
    json
  })
  if (said?.code === "insufficient_quota") return fault("Rejected", "the quota of this key is used up; raise it")
  if (isPassing(status)) {
    const what = status === 429 ? "the server is asked too much" : "the server cannot answer now"
    return fault("Unavailable", `${what}; try again later, or with less concurrency${advice.later}`, "all")
  }
  if (status === 401 || status === 403) return fault("Unauthorised", "the server does not accept the key; check apiKey")
  if (status === 404) return fault("NotFound", advice.notFound)
  return fault("Rejected", "the server rejects the request; change what it names")
}

/**
 * A way to the server at `url`; `name` is for log lines. The settings must be without a {@link problem}.
 *
 * **Details**
 *
 * Tried again, `retries` times: statuses 408, 409, 425, 429 and 5xx, connections that fail or break, attempts that take
 * longer than `timeout`, and bodies that are not JSON (cut short, a proxy's error page). JSON that cannot be read, and
 * `NaN` in what should be JSON, are tried again once only, since a server of another protocol does not learn. Everything
 * else fails at once. The pause before retry `i` is `pause * 2^i`, at most `longestPause`, times a random number in
 * `[1/2, 1]`; where the server states a `Retry-After` (seconds or date), no request of this way is sent before, plus a
 * random part of `pause`.
 *
 * Interrupting aborts the request. Retries are logged at debug level, waits of 10 seconds and more at info level.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (
  options: Settings & { readonly name: string; readonly url: string; readonly advice: Advice }
): Effect.fn.Return<Exchange, never, HttpClient.HttpClient> {
  const { advice, apiKey, name, retries = 6 } = options
  const client = yield* HttpClient.HttpClient
  const { clean, excerpt: excerptOf } = without(apiKey)
  const timeout = Duration.fromInputUnsafe(options.timeout ?? "60 seconds")
  const pause = Duration.toMillis(options.pause ?? "500 millis")
  const longestPause = Duration.toMillis(options.longestPause ?? "30 seconds")
  const longestWait = Duration.toMillis(options.longestWait ?? "5 minutes")
  const permits = yield* Semaphore.make(options.concurrency ?? 8)
  // No request is sent before this time, in milliseconds.
  let notBefore = 0

  const request = HttpClientRequest.post(options.url).pipe(
    HttpClientRequest.acceptJson,
    apiKey === undefined ? (self) => self : HttpClientRequest.bearerToken(Redacted.value(apiKey))
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
          _tag: "Fault",
          reason: "Timeout",
          detail: `no whole answer within ${Duration.format(timeout)}; ${advice.late}`,
          allowed: "all"
        })
    })
  )

  const attempt = <A>(body: string, read: (json: unknown) => Result.Result<A, string>): Effect.Effect<A, Fault> =>
    Effect.flatMap(exchange(body), ({ status, text, wait }) => {
      const json = parseJson(text)
      if (status < 200 || status > 299) {
        const value = Result.getOrUndefined(json)
        const excerpt = ChatReply.refusal(value)?.message ?? text
        return Effect.fail<Fault>({ ...refusalFault(advice, status, value, wait), excerpt })
      }
      const unusable = (detail: string, allowed: Fault["allowed"], json?: unknown) =>
        Effect.fail<Fault>({ _tag: "Fault", reason: "Reply", detail, status, excerpt: text, allowed, json })
      if (Result.isFailure(json)) {
        // As Python writes them unless it is told not to.
        return /[[:,\s]-?(NaN|Infinity)\b/.test(text)
          ? unusable("the body holds NaN or Infinity, which JSON does not know; let the server write numbers", "one")
          : unusable(`the body is not JSON; ${advice.protocol}`, "all")
      }
      const answer = read(json.success)
      if (Result.isSuccess(answer)) return Effect.succeed(answer.success)
      // Some gateways put an error status into a body of status 200.
      const inside = Number(ChatReply.refusal(json.success)?.code)
      return inside >= 400 && inside <= 599
        ? Effect.fail<Fault>({ ...refusalFault(advice, inside, json.success, wait), excerpt: text })
        : unusable(answer.failure, "one", json.success)
    })

  const waitForServer: Effect.Effect<void> = Effect.flatMap(Clock.currentTimeMillis, (now) =>
    now >= notBefore
      ? Effect.void
      : Effect.flatMap(Random.nextBetween(0, pause), (extra) =>
          Effect.andThen(Effect.sleep(notBefore - now + extra), waitForServer)
        )
  )

  const post: Exchange["post"] = Effect.fnUntraced(function* <A, E extends { readonly _tag: string } = never>(
    body: string,
    read: (json: unknown) => Result.Result<A, string>,
    through: (attempt: Effect.Effect<A, Fault>) => Effect.Effect<A, Fault | E> = (attempt) => attempt
  ) {
    const isFault = (error: Fault | E): error is Fault => error._tag === "Fault"
    const once = permits.withPermit(Effect.andThen(waitForServer, through(attempt(body, read))))
    let malformed = 0
    for (let attempts = 1; ; attempts++) {
      const result = yield* Effect.result(once)
      if (Result.isSuccess(result)) return result.success
      const fault = result.failure
      if (!isFault(fault)) return yield* Effect.fail(fault)
      const { allowed, detail, excerpt, reason, status, wait } = fault
      const failure = (reason: Reason, detail: string) =>
        Effect.fail<Failure>({
          _tag: "Failure",
          reason,
          detail: clean(detail),
          attempts,
          ...(status === undefined ? {} : { status }),
          ...(excerpt === undefined || excerpt === "" ? {} : { excerpt: excerptOf(excerpt) })
        })
      if (allowed === "one") malformed++
      if (allowed === "none" || malformed > 1 || attempts > retries) return yield* failure(reason, detail)
      if (wait !== undefined && wait > longestWait) {
        const asked = `the server asks to wait ${Math.ceil(wait / 1000)} s, longer than longestWait`
        return yield* failure("Unavailable", `${asked}; run again then${advice.later}`)
      }
      if (wait !== undefined) notBefore = Math.max(notBefore, (yield* Clock.currentTimeMillis) + wait)
      const full = Math.min(longestPause, pause * 2 ** (attempts - 1))
      // A long wait would look like a program that hangs.
      const waiting = wait === undefined ? "" : `; the server asks to wait ${Math.ceil(wait / 1000)} s`
      const log = wait !== undefined && wait >= 10_000 ? Effect.logInfo : Effect.logDebug
      yield* log(`${name}: ${clean(detail)}${waiting}`).pipe(Effect.annotateLogs({ attempts, reason }))
      yield* Effect.sleep(full * (0.5 + 0.5 * (yield* Random.next)))
    }
  })

  return { post }
})
