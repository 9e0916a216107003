import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import * as Progress from "../src/Progress.ts"

const memory = (isTTY: boolean, columns = 100) => {
  const written: Array<string> = []
  const sink: Progress.Sink = { write: (text) => written.push(text), isTTY, columns }
  return { sink, written, text: () => written.join("") }
}

/** Two seconds per step. */
const run = (from: number, total: number, by = 1) =>
  Effect.scoped(
    Effect.gen(function* () {
      const task = yield* Progress.start({ label: "sft", total, from })
      for (let done = from + by; done <= total; done += by) {
        yield* TestClock.adjust(`${2 * by} seconds`)
        yield* task.update(done, { loss: 10 / done, tokens: 100 * done })
      }
    })
  )

describe("plain lines", () => {
  it.effect("come every k steps and at the end, with the time left", () =>
    Effect.gen(function* () {
      const { sink, text } = memory(false)
      yield* Effect.provide(run(0, 10), Progress.layer({ sink, every: 4 }))
      assert.strictEqual(
        text(),
        "sft 4/10 40% eta 0:12 loss 2.5 tokens 400\n" +
          "sft 8/10 80% eta 0:04 loss 1.25 tokens 800\n" +
          "sft 10/10 100% in 0:20 loss 1 tokens 1000\n"
      )
    })
  )

  it.effect("count the pace of this process only, when a run is resumed", () =>
    Effect.gen(function* () {
      const { sink, written } = memory(false)
      yield* Effect.provide(run(90, 100), Progress.layer({ sink, every: 5 }))
      assert.match(written[0]!, /^sft 95\/100 95% eta 0:10 /)
      assert.match(written[1]!, /^sft 100\/100 100% in 0:20 /)
    })
  )

  it.effect("are about 20 by default, also when one update stands for several steps", () =>
    Effect.gen(function* () {
      const { sink, written } = memory(false)
      yield* Effect.provide(run(0, 4000, 8), Progress.layer({ sink }))
      assert.strictEqual(written.length, 20)
    })
  )
})

describe("the bar", () => {
  it.effect("is redrawn in place and left on a line of its own", () =>
    Effect.gen(function* () {
      const { sink, written } = memory(true)
      yield* Effect.provide(run(0, 4), Progress.layer({ sink }))
      assert.strictEqual(written[0], "\rsft [........................] 0/4 eta -:--\x1b[K")
      assert.strictEqual(written[1], "\rsft [######..................] 1/4 eta 0:06 loss 10 tokens 100\x1b[K")
      assert.strictEqual(written[4], "\rsft [########################] 4/4 in 0:08 loss 2.5 tokens 400\x1b[K")
      assert.strictEqual(written.at(-1), "\n")
    })
  )

  it.effect("is drawn at most ten times a second, and never wider than the terminal", () =>
    Effect.gen(function* () {
      const { sink, written } = memory(true, 30)
      const fast = Effect.scoped(
        Effect.gen(function* () {
          const task = yield* Progress.start({ label: "sample", total: 1000 })
          for (let done = 1; done <= 1000; done++) {
            yield* TestClock.adjust("1 millis")
            yield* task.update(done)
          }
        })
      )
      yield* Effect.provide(fast, Progress.layer({ sink }))
      assert.isAtMost(written.length, 1 + 11 + 2)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape that clears the rest of the line
      for (const text of written) assert.isAtMost(text.replace(/\r|\x1b\[K/g, "").length, 29)
    })
  )

  it.effect("ends its line when the work is interrupted", () =>
    Effect.gen(function* () {
      const { sink, text } = memory(true)
      const stopped = Effect.scoped(
        Effect.gen(function* () {
          const task = yield* Progress.start({ label: "sft", total: 4 })
          yield* task.update(1)
          return yield* Effect.interrupt
        })
      )
      yield* Effect.exit(Effect.provide(stopped, Progress.layer({ sink })))
      assert.isTrue(text().endsWith("\x1b[K\n"))
    })
  )
})

it.effect("quiet writes nothing", () =>
  Effect.gen(function* () {
    const { sink, written } = memory(true)
    yield* Effect.provide(run(0, 4), Progress.layer({ sink, mode: "quiet" }))
    assert.deepStrictEqual(written, [])
  })
)

it.each([
  [0, "0:00"],
  [59_400, "0:59"],
  [59_600, "1:00"],
  [3_599_000, "59:59"],
  [3_600_000, "1:00:00"],
  [90_061_000, "25:01:01"]
])("%i ms is written %s", (millis, expected) => assert.strictEqual(Progress.formatDuration(millis), expected))
