/**
 * What may be spent on a remote model: counted before a request is sent and settled when its answer says what it used.
 *
 * Prices and costs are in whatever currency the price list is in.
 *
 * @since 0.1.0
 */
import { Deferred, Effect, type Exit, Schema } from "effect"

/**
 * Tokens of one request, or of several.
 *
 * @category models
 * @since 0.1.0
 */
export interface Tokens {
  readonly prompt: number
  readonly completion: number
}

/**
 * Prices per million tokens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Price {
  readonly prompt: number
  readonly completion: number
}

/**
 * The most that may be spent. Each is optional; those that are given hold together.
 *
 * @category models
 * @since 0.1.0
 */
export interface Limit {
  /** HTTP requests, failed and repeated ones too. */
  readonly requests?: number
  /** Tokens, of prompts and completions together. */
  readonly tokens?: number
  /** Needs a price. */
  readonly cost?: number
}

/**
 * Schema of what was spent.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Spent = Schema.Struct({
  requests: Schema.Int,
  promptTokens: Schema.Number,
  completionTokens: Schema.Number,
  /** Absent where no price was given. */
  cost: Schema.optionalKey(Schema.Number)
})

/**
 * What was spent.
 *
 * @category models
 * @since 0.1.0
 */
export type Spent = typeof Spent.Type

/**
 * Reports that one more request could go over the limit. Raise the limit, or ask for less.
 *
 * @category errors
 * @since 0.1.0
 */
export class SpendLimitError extends Schema.TaggedError<SpendLimitError>()("SpendLimitError", {
  /** Which limit, and its value. */
  limit: Schema.String,
  spent: Spent
}) {
  override get message(): string {
    const { completionTokens, cost, promptTokens, requests } = this.spent
    const money = cost === undefined ? "" : `, cost ${Number(cost.toPrecision(6))}`
    return (
      `one more request could go over the limit of ${this.limit}; spent: ${requests} requests, ` +
      `${promptTokens} + ${completionTokens} tokens${money}; raise the limit to go on`
    )
  }
}

/**
 * A budget, shared by whoever spends from it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Budget {
  /** What was spent; requests under way count as requests and not yet as tokens. */
  readonly spent: Effect.Effect<Spent>
  /**
   * Sends one request that uses at most `most`, and then counts what `used` makes of its outcome; without an answer to
   * that, `most` is counted. Waits while requests under way may leave room; fails, sending nothing, where there is none.
   */
  readonly spend: <A, E, R>(
    most: Tokens,
    request: Effect.Effect<A, E, R>,
    used: (exit: Exit.Exit<A, E>) => Tokens | undefined
  ) => Effect.Effect<A, E | SpendLimitError, R>
}

/**
 * A budget with nothing spent. Throws a `RangeError` for a limit of cost without a price.
 *
 * **Details**
 *
 * The sum of what was used and of the most that the requests under way may use never exceeds the limit, however many
 * fibers spend from it; it can be exceeded only by a server that uses more than the `most` it was allowed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: { readonly limit?: Limit; readonly price?: Price } = {}): Budget => {
  const { limit = {}, price } = options
  if (limit.cost !== undefined && price === undefined) throw new RangeError("a limit of cost needs a price")
  let requests = 0
  let used: Tokens = { prompt: 0, completion: 0 }
  let reserved: Tokens = { prompt: 0, completion: 0 }
  let underWay = 0
  let settled = Deferred.makeUnsafe<void>()

  const plus = (a: Tokens, b: Tokens): Tokens => ({
    prompt: a.prompt + b.prompt,
    completion: a.completion + b.completion
  })
  const costOf = ({ completion, prompt }: Tokens) =>
    price === undefined ? 0 : (prompt * price.prompt + completion * price.completion) / 1e6
  const spent = (): Spent => ({
    requests,
    promptTokens: used.prompt,
    completionTokens: used.completion,
    ...(price === undefined ? {} : { cost: costOf(used) })
  })
  // Which limit `tokens` would go over, if any.
  const exceeded = (tokens: Tokens): string | undefined => {
    if (limit.tokens !== undefined && tokens.prompt + tokens.completion > limit.tokens) return `${limit.tokens} tokens`
    if (limit.cost !== undefined && costOf(tokens) > limit.cost) return `cost ${limit.cost}`
    return undefined
  }

  const spend: Budget["spend"] = (most, request, usedBy) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.suspend(() => {
        const fail = (over: string) => Effect.fail(new SpendLimitError({ limit: over, spent: spent() }))
        if (limit.requests !== undefined && requests + 1 > limit.requests) return fail(`${limit.requests} requests`)
        const alone = exceeded(plus(used, most))
        if (alone !== undefined) return fail(alone)
        if (exceeded(plus(plus(used, reserved), most)) !== undefined) {
          return restore(Effect.flatMap(Deferred.await(settled), () => spend(most, request, usedBy)))
        }
        requests++
        underWay++
        reserved = plus(reserved, most)
        return Effect.onExit(restore(request), (exit) =>
          Effect.sync(() => {
            underWay--
            // Exactly nothing when nothing is under way, whatever rounding there was.
            reserved =
              underWay === 0
                ? { prompt: 0, completion: 0 }
                : plus(reserved, { prompt: -most.prompt, completion: -most.completion })
            used = plus(used, usedBy(exit) ?? most)
            const waiting = settled
            settled = Deferred.makeUnsafe()
            Deferred.doneUnsafe(waiting, Effect.void)
          })
        )
      })
    )
  return { spent: Effect.sync(spent), spend }
}
