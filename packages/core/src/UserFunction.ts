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
 * Calls the function. Whatever it throws, rejects with, fails with or dies of is the error.
 *
 * **Details**
 *
 * The function is given a signal that is aborted when the effect is interrupted, by a timeout for instance: an
 * asynchronous function hands it on (to `fetch`, say) to stop working on what nobody waits for.
 *
 * **Gotchas**
 *
 * A function that computes without returning cannot be interrupted, as nothing else runs meanwhile.
 *
 * @category running
 * @since 0.1.0
 */
export const call = <A>(f: (signal: AbortSignal) => Returned<A>): Effect.Effect<A, unknown> =>
  Effect.suspend(() => {
    const controller = new AbortController()
    return Effect.try({ try: () => f(controller.signal), catch: (cause) => cause }).pipe(
      Effect.flatMap((returned): Effect.Effect<A, unknown> => {
        if (Effect.isEffect(returned)) {
          return (returned as Effect.Effect<A, unknown>).pipe(Effect.catchDefect(Effect.fail))
        }
        if (Predicate.isPromiseLike(returned)) {
          return Effect.tryPromise({ try: () => Promise.resolve(returned), catch: (cause) => cause })
        }
        return Effect.succeed(returned)
      }),
      Effect.onInterrupt(() => Effect.sync(() => controller.abort()))
    )
  })
