/**
 * A language model behind an OpenAI-compatible HTTP endpoint: `POST <baseUrl>/chat/completions`.
 *
 * Made for long evaluations: what fails in passing is tried again, what was answered is kept, what may be spent has a
 * limit. The API key goes into the header of the request and nowhere else.
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import { Effect, Exit, Result, Schema, type Scope } from "effect"
import { toCodecOpenAI } from "effect/ai/OpenAiStructuredOutput"
import type { HttpClient } from "effect/http"
import type * as Prompt from "../Prompt.ts"
import * as Budget from "./Budget.ts"
import * as ChatReply from "./ChatReply.ts"
import * as Exchange from "./Exchange.ts"
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
export interface Options extends Sampling, Exchange.Settings {
  /** `https://api.example.com/v1`, for instance. */
  readonly baseUrl: string
  readonly model: string
  /** Further fields of every request, such as `top_p`. */
  readonly extra?: Readonly<Record<string, Schema.Json>>
  /** The field that `maxTokens` is sent as; newer models of some providers want the second. `"max_tokens"` by default. */
  readonly maxTokensField?: "max_tokens" | "max_completion_tokens"
  /** How `askJson` asks for JSON: by a schema (default), for any JSON, or in the words of the prompt alone. */
  readonly jsonMode?: "json_schema" | "json_object" | "none"
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

const none: Budget.Tokens = { prompt: 0, completion: 0 }

/** Fields that `extra` may not overrule. */
const reserved = ["model", "messages", "stream", "n", "max_tokens", "max_completion_tokens"]

const problem = (options: Options): string | undefined => {
  const { baseUrl, extra, limit = {}, model, price } = options
  const inSettings = Exchange.problem("baseUrl", baseUrl, options)
  if (inSettings !== undefined) return inSettings
  if (model === "") return "model must be a name"
  const taken = reserved.find((field) => extra !== undefined && Object.hasOwn(extra, field))
  if (taken !== undefined) {
    return `extra must not hold ${taken}${taken.startsWith("max_") ? "; give maxTokens, by which spending is limited" : ""}`
  }
  const { requests = 0 } = limit
  if (!Number.isInteger(requests) || requests < 0) {
    return `limit.requests must be a whole number from 0, not ${requests}`
  }
  const amounts = { "limit.tokens": limit.tokens, "limit.cost": limit.cost }
  const prices = { "price.prompt": price?.prompt, "price.completion": price?.completion }
  for (const [name, value] of Object.entries({ ...amounts, ...prices })) {
    if (value !== undefined && !(value >= 0 && value < Infinity)) return `${name} must be a number from 0, not ${value}`
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

/** What a failed attempt used; nothing where that cannot be known. */
const usedOf = ({ isUnsent, json, reason }: Exchange.Fault): Budget.Tokens | undefined => {
  if (isUnsent === true) return none
  const stated = ChatReply.usageOf(json)
  return reason === "Network" || reason === "Timeout" || reason === "Reply" ? stated : (stated ?? none)
}

const advice: Exchange.Advice = {
  notFound: "the server knows no such path or model; check baseUrl and model",
  late: "raise timeout, or ask for fewer tokens",
  protocol: "check that baseUrl is that of an OpenAI-compatible server",
  later: ": answers so far are kept"
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
    const { model } = options
    const host = URL.parse(options.baseUrl)?.host ?? "?"
    const name = `${model} at ${host}`
    const { clean, excerpt: excerptOf } = Exchange.without(options.apiKey)
    const failure = (
      reason: Reason,
      detail: string,
      rest: Partial<Pick<ChatError, "attempts" | "status" | "excerpt" | "spent">> = {}
    ) =>
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
    const url = completionsUrl(options.baseUrl)
    const exchange = yield* Exchange.make({ ...options, name, url, advice })
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
    const usedBy = (exit: Exit.Exit<ChatReply.Answer, Exchange.Fault>): Budget.Tokens | undefined => {
      const used = Exit.isSuccess(exit)
        ? exit.value.usage
        : Exit.match(exit, {
            onSuccess: () => undefined,
            onFailure: (cause) => {
              const fault = cause.reasons.find((reason) => reason._tag === "Fail")?.error
              return fault === undefined ? undefined : usedOf(fault)
            }
          })
      if (used === undefined) unstated++
      return used
    }

    const read = (json: unknown) =>
      Result.mapError(ChatReply.decode(json), (why) => {
        const what = `the body is not a chat completion (${excerptOf(why)})`
        return `${what}; check that the server is OpenAI-compatible`
      })

    const converse = Effect.fnUntraced(function* (body: string, most: Budget.Tokens) {
      let sent = 0
      const withinBudget = (attempt: Effect.Effect<ChatReply.Answer, Exchange.Fault>) => {
        const counted = Effect.suspend(() => {
          sent++
          return attempt
        })
        return budget.spend(most, counted, usedBy)
      }
      return yield* exchange.post(body, read, withinBudget).pipe(
        Effect.mapError((error) => {
          if (error._tag === "Failure") {
            const { detail, reason, ...rest } = error
            return failure(reason, detail, rest)
          }
          return failure("SpendLimit", error.message, { attempts: sent, spent: error.spent })
        })
      )
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
      name,
      concurrency: options.concurrency ?? 8,
      ask,
      askJson,
      usage: Effect.map(budget.spent, (spent) => ({ ...spent, answers, cached, unstated }))
    }
  })

/** Models like to put JSON between the marks of a code block. */
const withoutFence = (text: string): string => /^\s*```(?:json)?\s*\n([\s\S]*?)\n?\s*```\s*$/.exec(text)?.[1] ?? text
