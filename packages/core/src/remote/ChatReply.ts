/**
 * What an OpenAI-compatible server answers: the parts of its JSON that are used, and what its refusals say.
 *
 * @since 0.1.0
 */
import { Option, Result, Schema } from "effect"
import type { Tokens } from "./Budget.ts"

/**
 * Schema of one alternative for the first token of an answer; `logprob` in nats.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Alternative = Schema.Struct({ token: Schema.String, logprob: Schema.Finite })

/**
 * Schema of an answer, as it is kept.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Answer = Schema.Struct({
  content: Schema.String,
  /** `"stop"`, `"length"` where the answer was cut off at `maxTokens`, or what else the server says. */
  finishReason: Schema.optionalKey(Schema.String),
  usage: Schema.optionalKey(Schema.Struct({ prompt: Schema.Number, completion: Schema.Number })),
  /** The likeliest first tokens, where they were asked for and the server states them. */
  first: Schema.optionalKey(Schema.Array(Alternative))
})

/**
 * An answer.
 *
 * @category models
 * @since 0.1.0
 */
export type Answer = typeof Answer.Type

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

const Usage = Schema.Struct({
  prompt_tokens: Schema.optionalKey(Schema.NullOr(Count)),
  completion_tokens: Schema.optionalKey(Schema.NullOr(Count))
})

/** Some servers send a usage that states nothing, or half of it; nothing may count as free that was not said to be. */
const tokensOf = (usage: typeof Usage.Type | null | undefined): Tokens | undefined =>
  usage?.prompt_tokens == null || usage.completion_tokens == null
    ? undefined
    : { prompt: usage.prompt_tokens, completion: usage.completion_tokens }

const TokenLogprobs = Schema.Struct({
  top_logprobs: Schema.optionalKey(Schema.NullOr(Schema.Array(Alternative)))
})

const Reply = Schema.Struct({
  choices: Schema.NonEmptyArray(
    Schema.Struct({
      message: Schema.Struct({ content: Schema.NullOr(Schema.String) }),
      finish_reason: Schema.optionalKey(Schema.NullOr(Schema.String)),
      logprobs: Schema.optionalKey(
        Schema.NullOr(Schema.Struct({ content: Schema.optionalKey(Schema.NullOr(Schema.Array(TokenLogprobs))) }))
      )
    })
  ),
  usage: Schema.optionalKey(Schema.NullOr(Usage))
})

const decodeReply = Schema.decodeUnknownResult(Reply)

/**
 * The answer in a reply, or what is wrong with the reply.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (json: unknown): Result.Result<Answer, string> =>
  Result.match(decodeReply(json), {
    onFailure: (error) => Result.fail(error.message),
    onSuccess: ({ choices: [choice], usage }): Result.Result<Answer, string> => {
      const { finish_reason: finishReason, logprobs, message } = choice
      if (message.content === null) {
        // So ends a model that reasons beyond its limit; others call a tool, or refuse.
        const cut = finishReason === "length" ? "; it was cut off, so raise maxTokens" : ""
        return Result.fail(`the content is null${cut}`)
      }
      const first = logprobs?.content?.[0]?.top_logprobs
      const used = tokensOf(usage)
      return Result.succeed({
        content: message.content,
        ...(finishReason == null ? {} : { finishReason }),
        ...(used === undefined ? {} : { usage: used }),
        ...(first == null ? {} : { first: first.map(({ logprob, token }) => ({ token, logprob })) })
      })
    }
  })

const decodeUsage = Schema.decodeUnknownOption(Schema.Struct({ usage: Usage }))

/**
 * The usage that any JSON of the server states, also that of an error.
 *
 * @category decoding
 * @since 0.1.0
 */
export const usageOf = (json: unknown): Tokens | undefined =>
  Option.match(decodeUsage(json), {
    onNone: () => undefined,
    onSome: ({ usage }) => tokensOf(usage)
  })

const Refusal = Schema.Union([
  Schema.Struct({
    error: Schema.Struct({
      message: Schema.String,
      code: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.String, Schema.Number])))
    })
  }),
  Schema.Struct({ error: Schema.String }),
  Schema.Struct({ message: Schema.String }),
  Schema.Struct({ detail: Schema.String })
])

const decodeRefusal = Schema.decodeUnknownOption(Refusal)

/**
 * What the server says is wrong, in the forms that servers use, with its code where there is one.
 *
 * @category decoding
 * @since 0.1.0
 */
export const refusal = (json: unknown): { readonly message: string; readonly code?: string } | undefined =>
  Option.match(decodeRefusal(json), {
    onNone: () => undefined,
    onSome: (said) => {
      if ("message" in said) return { message: said.message }
      if ("detail" in said) return { message: said.detail }
      if (typeof said.error === "string") return { message: said.error }
      return { message: said.error.message, ...(said.error.code == null ? {} : { code: String(said.error.code) }) }
    }
  })

/**
 * Milliseconds from `now` that a `Retry-After` header asks to wait: seconds or an HTTP date. Nothing for one that is
 * neither; 0 for a date that has passed.
 *
 * @category decoding
 * @since 0.1.0
 */
export const retryAfter = (header: string | undefined, now: number): number | undefined => {
  const text = header?.trim() ?? ""
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * 1000
  // `Date.parse` takes much that is no date, a bare negative number for instance.
  if (!/^[A-Za-z]{3,9}, /.test(text)) return undefined
  const date = Date.parse(text)
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}
