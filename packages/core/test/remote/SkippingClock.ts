import { type Clock, Duration, Effect } from "effect"

/** A timeout that never comes on such a clock. */
export const timeout = Duration.hours(1)
/** A clock on which pauses pass at once and are written down. */
export interface SkippingClock {
  readonly clock: Clock.Clock
  readonly pauses: Array<number>
  readonly now: () => number
}
export const skippingClock = (start = 0): SkippingClock => {
  let now = start
  const pauses: Array<number> = []
  const clock: Clock.Clock = {
    currentTimeMillisUnsafe: () => now,
    currentTimeMillis: Effect.sync(() => now),
    currentTimeNanosUnsafe: () => BigInt(Math.round(now)) * 1_000_000n,
    currentTimeNanos: Effect.sync(() => BigInt(Math.round(now)) * 1_000_000n),
    monotonicTimeNanosUnsafe: () => BigInt(Math.round(now)) * 1_000_000n,
    monotonicTimeNanos: Effect.sync(() => BigInt(Math.round(now)) * 1_000_000n),
    sleep: (duration) => {
      const millis = Duration.toMillis(duration)
      if (millis === Duration.toMillis(timeout)) return Effect.never
      return Effect.andThen(
        Effect.sync(() => {
          pauses.push(millis)
          now += millis
        }),
        Effect.yieldNow
      )
    }
  }
  return { clock, pauses, now: () => now }
}
