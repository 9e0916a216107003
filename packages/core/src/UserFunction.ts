/**
 * Functions that a user brings: plain, asynchronous or effectful.
 *
 * @since 0.1.0
 */
import { Effect, Predicate } from "effect"

// What a user's function fails with is not ours to type: callers make it the cause of their own error.
// @effect-diagnostics unknownInEffectCatch:off

/**
 * What such a function may return.
 *
 * @category models
 * @since 0.1.0
 */
export type Returned<A> = A | PromiseLike<A> | Effect.Effect<A, unknown>

/**
 * Calls the function. Whatever it throws, rejects with or fails with is the error.
 *
 * @category running
 * @since 0.1.0
 */
export const call = <A>(f: () => Returned<A>): Effect.Effect<A, unknown> =>
  Effect.try({ try: f, catch: (cause) => cause }).pipe(
    Effect.flatMap((returned): Effect.Effect<A, unknown> => {
      if (Effect.isEffect(returned)) return returned as Effect.Effect<A, unknown>
      if (Predicate.isPromiseLike(returned)) {
        return Effect.tryPromise({ try: () => Promise.resolve(returned), catch: (cause) => cause })
      }
      return Effect.succeed(returned)
    })
  )
