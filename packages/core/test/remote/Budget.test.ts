import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Deferred, Effect, Exit, Fiber, Schema } from "effect"
import * as Budget from "../../src/remote/Budget.ts"

const completion = (tokens: number): Budget.Tokens => ({ prompt: 0, completion: tokens })
const nothingKnown = () => undefined

describe("spend", () => {
  it.effect("counts what was used and gives back the rest", () =>
    Effect.gen(function* () {
      const budget = Budget.make({ limit: { tokens: 10 } })
      yield* budget.spend(completion(10), Effect.void, () => ({ prompt: 2, completion: 1 }))
      assert.deepStrictEqual(yield* budget.spent, { requests: 1, promptTokens: 2, completionTokens: 1 })
      yield* budget.spend(completion(7), Effect.void, nothingKnown)
      const error = yield* Effect.flip(budget.spend(completion(1), Effect.die("sent"), nothingKnown))
      assert.instanceOf(error, Budget.SpendLimitError)
      assert.strictEqual(
        error.message,
        "one more request could go over the limit of 10 tokens; spent: 2 requests, 2 + 8 tokens; raise the limit to go on"
      )
    })
  )

  it.effect("waits for requests under way where they may leave room", () =>
    Effect.gen(function* () {
      const budget = Budget.make({ limit: { tokens: 10 } })
      const gate = yield* Deferred.make<void>()
      const first = yield* Effect.forkChild(budget.spend(completion(6), Deferred.await(gate), () => completion(1)))
      yield* Effect.yieldNow
      let sent = false
      const second = yield* Effect.forkChild(
        budget.spend(
          completion(6),
          Effect.sync(() => (sent = true)),
          () => completion(1)
        )
      )
      yield* Effect.yieldNow
      assert.isFalse(sent)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      assert.isTrue(sent)
    })
  )

  it.effect("fails those that wait when no room is left", () =>
    Effect.gen(function* () {
      const budget = Budget.make({ limit: { tokens: 10 } })
      const gate = yield* Deferred.make<void>()
      yield* Effect.forkChild(budget.spend(completion(6), Deferred.await(gate), nothingKnown))
      yield* Effect.yieldNow
      const second = yield* Effect.forkChild(budget.spend(completion(6), Effect.die("sent"), nothingKnown))
      yield* Effect.yieldNow
      yield* Deferred.succeed(gate, undefined)
      assert.instanceOf(yield* Effect.flip(Fiber.join(second)), Budget.SpendLimitError)
    })
  )

  it.effect("counts the most for a request that was interrupted, and lets the others go on", () =>
    Effect.gen(function* () {
      const budget = Budget.make({ limit: { tokens: 10 } })
      const first = yield* Effect.forkChild(budget.spend(completion(4), Effect.never, nothingKnown))
      yield* Effect.yieldNow
      const second = yield* Effect.forkChild(budget.spend(completion(7), Effect.never, nothingKnown))
      const third = yield* Effect.forkChild(budget.spend(completion(6), Effect.void, nothingKnown))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(second)
      yield* Fiber.interrupt(first)
      yield* Fiber.join(third)
      assert.deepStrictEqual(yield* budget.spent, { requests: 2, promptTokens: 0, completionTokens: 10 })
    })
  )

  it("needs a price for a limit of cost", () => {
    assert.throws(() => Budget.make({ limit: { cost: 1 } }), RangeError)
  })

  const small = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 }))
  const requests = Arbitrary.array(Arbitrary.schema(Schema.Tuple([small, small, small])), { maxLength: 30 })

  it.effect.prop(
    "never lets what was used and may be used exceed the limit, and stops only where it must",
    [requests],
    ([sizes]) =>
      Effect.gen(function* () {
        const limit = 40
        const budget = Budget.make({ limit: { tokens: limit } })
        let used = 0
        let allowed = 0
        const exits = yield* Effect.forEach(
          sizes,
          ([most, less, yields]) => {
            const uses = Math.max(0, most - less)
            const request = Effect.gen(function* () {
              allowed += most
              assert.isAtMost(used + allowed, limit)
              for (let i = 0; i < yields; i++) yield* Effect.yieldNow
              allowed -= most
              used += uses
            })
            const spending = budget.spend(completion(most), request, () => completion(uses))
            // Judged by what was used by then, which can only grow.
            return Effect.exit(Effect.tapError(spending, () => Effect.sync(() => assert.isAbove(used + most, limit))))
          },
          { concurrency: 4 }
        )
        for (const exit of exits)
          if (Exit.isFailure(exit)) assert.isFalse(exit.cause.reasons.some(({ _tag }) => _tag === "Die"))
        assert.strictEqual((yield* budget.spent).completionTokens, used)
      })
  )
})
