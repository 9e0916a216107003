import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Terminal } from "effect"
import { vi } from "vitest"
import * as Judge from "../../src/judging/Judge.ts"
import * as TerminalJudge from "../../src/judging/TerminalJudge.ts"

/** What replies, writes and flushes there were, in their order. */
const events: Array<string> = []

vi.mock("node:fs", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs")>()
  return {
    ...actual,
    writeFileSync: (...args: Parameters<typeof actual.writeFileSync>) => {
      events.push("write")
      actual.writeFileSync(...args)
    },
    fsync: (...args: Parameters<typeof actual.fsync>) => {
      events.push("flush")
      actual.fsync(...args)
    }
  }
})

const comparison = (id: string, first = `one of ${id}`, second = `two of ${id}`): Judge.Comparison => ({
  id,
  prompt: `prompt of ${id}`,
  first,
  second
})
const question = (id: string): Judge.Question => ({
  id,
  prompt: `prompt of ${id}`,
  completion: `answer of ${id}`,
  question: "Is it kind?"
})
const message = <A, R>(effect: Effect.Effect<A, Judge.JudgeError, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)

/** A terminal with a person who gives these replies and then leaves. */
const person = (...replies: ReadonlyArray<string>) => {
  const left = [...replies]
  const shown: Array<string> = []
  const terminal = Terminal.make({
    columns: Effect.succeed(80),
    rows: Effect.succeed(24),
    size: Effect.die("unused"),
    readInput: Effect.die("unused"),
    readLine: Effect.suspend(() => {
      const reply = left.shift()
      return reply === undefined ? Effect.fail(new Terminal.QuitError({})) : Effect.succeed(reply)
    }),
    display: (text) => Effect.sync(() => void shown.push(text))
  })
  return { left, shown, at: Effect.provideService(Terminal.Terminal, terminal) }
}

/** Which answer of each comparison was shown as [1]. */
const above = (shown: ReadonlyArray<string>) =>
  shown.filter((text) => text.startsWith("Comparison")).map((text) => /\[1\]\n(\w+) of/.exec(text)![1])

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-judge-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true }))
)
const lines = (file: string) =>
  readFileSync(file, "utf8")
    .split("\n")
    .slice(0, -1)
    .map((line): unknown => JSON.parse(line))

describe("the person at the terminal as a judge", () => {
  it.effect("sees prompt and both answers, and is asked until the reply can be used", () =>
    Effect.gen(function* () {
      const { at, left, shown } = person("", "3", "first", "1", " T ")
      const judge = yield* at(TerminalJudge.judge({ seed: 1 }))
      const [first, second] = yield* judge.compare([comparison("a"), comparison("b")])
      assert.strictEqual(first, above(shown)[0] === "one" ? "first" : "second")
      assert.strictEqual(second, "tie")
      assert.deepStrictEqual(left, [])
      const [one, two] = above(shown)[0] === "one" ? ["one", "two"] : ["two", "one"]
      assert.strictEqual(shown[0], `Comparison 1 of 2\n\nprompt of a\n\n[1]\n${one} of a\n\n[2]\n${two} of a\n\n`)
      assert.deepStrictEqual(
        shown.slice(1, 5),
        Array(4).fill("Which answer is better? Reply 1, 2, or t for a tie.\n> ")
      )
      assert.match(shown[5]!, /^Comparison 2 of 2/)
    })
  )

  it.effect("is shown the answers in an order that depends on seed and comparison alone, and is mapped back", () =>
    Effect.gen(function* () {
      const all = Array.from({ length: 40 }, (_, i) => comparison(`c${i}`))
      const order = Effect.fnUntraced(function* (seed: number, comparisons: ReadonlyArray<Judge.Comparison>) {
        const { at, shown } = person(...comparisons.map(() => "1"))
        const judge = yield* at(TerminalJudge.judge({ seed }))
        const preferences = yield* judge.compare(comparisons)
        assert.deepStrictEqual(
          preferences,
          above(shown).map((word) => (word === "one" ? "first" : "second"))
        )
        return preferences
      })
      const once = yield* order(7, all)
      assert.deepStrictEqual(yield* order(7, all), once)
      assert.deepStrictEqual(yield* order(7, all.toReversed()), once.toReversed())
      assert.notDeepEqual(yield* order(8, all), once)
      const firsts = once.filter((preference) => preference === "first").length
      assert.isAbove(firsts, 8)
      assert.isBelow(firsts, 32)
      const { at, shown } = person(...all.map(() => "2"))
      const judge = yield* at(TerminalJudge.judge({ seed: 7 }))
      assert.deepStrictEqual(
        yield* judge.compare(all),
        above(shown).map((word) => (word === "one" ? "second" : "first"))
      )
    })
  )

  it.effect("is shown the answers the other way round when they are exchanged", () =>
    Effect.gen(function* () {
      const all = Array.from({ length: 10 }, (_, i) => comparison(`c${i}`))
      const { at, shown } = person(...all.map(() => "1"), ...all.map(() => "1"))
      const judge = yield* at(TerminalJudge.judge({ seed: 7 }))
      const preferences = yield* judge.compare(all)
      const exchanged = all.map(({ first, second, ...rest }) => ({ ...rest, first: second, second: first }))
      // Whoever always takes what stands above contradicts himself.
      assert.deepStrictEqual(yield* judge.compare(exchanged), preferences)
      const words = above(shown)
      assert.deepStrictEqual(
        words.slice(10),
        words.slice(0, 10).map((word) => (word === "one" ? "two" : "one"))
      )
    })
  )

  it.effect("is not shown ids, nor texts that move the cursor", () =>
    Effect.gen(function* () {
      const { at, shown } = person("1")
      const judge = yield* at(TerminalJudge.judge({ seed: 1 }))
      yield* judge.compare([
        { id: "of-system-x", prompt: "tab\t\nline", first: "\u001b[2Jred\r", second: "del\u007f\u009b1m é😀" }
      ])
      const all = shown.join("")
      assert.notInclude(all, "system-x")
      assert.include(all, "tab\t\nline")
      assert.include(all, "⟨U+001B⟩[2Jred⟨U+000D⟩\n")
      assert.include(all, "del⟨U+007F⟩⟨U+009B⟩1m é😀\n")
    })
  )

  it.effect("may leave, at a comparison that is named", () =>
    Effect.gen(function* () {
      const { at } = person("1", "x")
      const judge = yield* at(TerminalJudge.judge({ seed: 1 }))
      const error = yield* Effect.flip(judge.compare([comparison("a"), comparison("b")]))
      assert.strictEqual(error.message, 'judge the person at the terminal, item "b": left before answering')
      assert.instanceOf(error.cause, Terminal.QuitError)
    })
  )

  it.effect("is not asked again what the file has", () =>
    Effect.gen(function* () {
      const file = join(yield* folder, "judgements.jsonl")
      const all = [comparison("a"), comparison("b"), comparison("c")]
      const first = person("t", "2")
      const interrupted = yield* first.at(TerminalJudge.judge({ seed: 3, file }))
      assert.match(
        yield* message(interrupted.compare(all)),
        /item "c": left before answering; what was answered is in .*judgements\.jsonl and is not asked again$/
      )
      const saved = lines(file)
      assert.deepStrictEqual(
        saved,
        [...all.slice(0, 2).entries()].map(([i, asked]) => {
          const shown = above(first.shown)[i] === "one" ? "first" : "second"
          return { ...asked, above: shown, preference: i === 0 ? "tie" : shown === "first" ? "second" : "first" }
        })
      )

      const next = person("1")
      const resumed = yield* next.at(TerminalJudge.judge({ seed: 3, file }))
      const preferences = yield* resumed.compare(all.toReversed())
      assert.strictEqual(preferences[2], "tie")
      assert.strictEqual(next.shown.length, 2)
      assert.match(next.shown[0]!, /^Comparison 1 of 3\n\nprompt of c/)
      assert.strictEqual(lines(file).length, 3)
      // Nothing is left to ask, in this start or another.
      assert.deepStrictEqual(yield* resumed.compare(all), preferences.toReversed())
      const last = yield* person().at(TerminalJudge.judge({ seed: 99, file }))
      assert.deepStrictEqual(yield* last.compare(all), preferences.toReversed())
      // Other texts, or the same in the other order, are another comparison.
      assert.match(yield* message(last.compare([{ ...all[0]!, first: "new" }])), /left before answering/)
      const { first: one, second: two } = all[0]!
      assert.match(yield* message(last.compare([comparison("a", two, one)])), /left before answering/)
    })
  )

  it.effect("asks a comparison that stands twice once", () =>
    Effect.gen(function* () {
      const { at, left } = person("t", "1")
      const judge = yield* at(TerminalJudge.judge({ seed: 1 }))
      assert.deepStrictEqual(yield* judge.compare([comparison("a"), comparison("a")]), ["tie", "tie"])
      assert.deepStrictEqual(left, ["1"])
    })
  )

  it.effect("goes on after a line that a crash cut off", () =>
    Effect.gen(function* () {
      const file = join(yield* folder, "judgements.jsonl")
      const all = [comparison("a"), comparison("b", "één", "twee")]
      const before = yield* person("t", "t").at(TerminalJudge.judge({ seed: 1, file }))
      yield* before.compare(all)
      const whole = readFileSync(file)
      const start = whole.indexOf(10) + 1
      // Cut anywhere, within a character too.
      for (const end of [start + 1, whole.indexOf("één") + 1, whole.length - 2]) {
        writeFileSync(file, whole.subarray(0, end))
        const { at, shown } = person("t")
        const judge = yield* at(TerminalJudge.judge({ seed: 1, file }))
        assert.deepStrictEqual(yield* judge.compare(all), ["tie", "tie"])
        assert.strictEqual(shown.length, 2)
        assert.isTrue(readFileSync(file).equals(whole))
      }
      // A whole record without its end of line is kept.
      writeFileSync(file, whole.subarray(0, -1))
      const judge = yield* person().at(TerminalJudge.judge({ seed: 1, file }))
      assert.deepStrictEqual(yield* judge.compare(all), ["tie", "tie"])
      assert.isTrue(readFileSync(file).equals(whole))
    })
  )

  it.effect("leaves a file of another kind as it is, whatever its last line", () =>
    Effect.gen(function* () {
      const file = join(yield* folder, "other.jsonl")
      const { at } = person("t")
      yield* (yield* at(TerminalJudge.judge({ seed: 1, file }))).compare([comparison("a")])
      const record = readFileSync(file, "utf8")
      const contents = ["notes to keep", '{"id":"a","name":"x"}', '{"name":"x', `${record}notes`, 'notes\n{"id":"a']
      for (const content of contents) {
        writeFileSync(file, content)
        assert.match(yield* message(at(TerminalJudge.judge({ seed: 1, file }))), /other\.jsonl, line \d/)
        assert.strictEqual(readFileSync(file, "utf8"), content)
      }
    })
  )

  it.effect("says which line of the file is none, and fails before the first question", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const file = join(directory, "judgements.jsonl")
      const before = yield* person("t").at(TerminalJudge.judge({ seed: 1, file }))
      yield* before.compare([comparison("a")])
      appendFileSync(file, '{"id":"b"}\n')
      const make = (path: string) => {
        const { at } = person()
        return message(at(TerminalJudge.judge({ seed: 1, file: path })))
      }
      assert.match(yield* make(file), /judgements\.jsonl, line 2: field "prompt": Missing key/)
      assert.match(yield* make(directory), /cannot write .*attune-judge-/)
      assert.match(yield* make(join(directory, "absent", "x.jsonl")), /cannot write .*x\.jsonl/)
    })
  )

  it.effect("flushes each judgement before it asks for the next", () =>
    Effect.gen(function* () {
      const file = join(yield* folder, "judgements.jsonl")
      const terminal = Terminal.make({
        columns: Effect.succeed(80),
        rows: Effect.succeed(24),
        size: Effect.die("unused"),
        readInput: Effect.die("unused"),
        readLine: Effect.sync(() => {
          events.push("reply")
          return "t"
        }),
        display: () => Effect.void
      })
      const judge = yield* TerminalJudge.judge({ seed: 1, file }).pipe(
        Effect.provideService(Terminal.Terminal, terminal)
      )
      events.length = 0
      yield* judge.compare([comparison("a"), comparison("b")])
      assert.deepStrictEqual(events, ["reply", "write", "flush", "reply", "write", "flush"])
    })
  )

  it.effect("is a layer", () =>
    Effect.gen(function* () {
      const file = join(yield* folder, "judgements.jsonl")
      const { at } = person("t")
      const compare = Effect.flatMap(Judge.Judge, (judge) => judge.compare([comparison("a")]))
      const layer = TerminalJudge.layerJudge({ seed: 1, file })
      assert.deepStrictEqual(yield* at(Effect.provide(compare, layer)), ["tie"])
    })
  )
})

describe("the person at the terminal as a grader", () => {
  it.effect("answers y or n, and is not asked again what the file has", () =>
    Effect.gen(function* () {
      const file = join(yield* folder, "verdicts.jsonl")
      const questions = [question("a"), question("b"), question("c")]
      const { at, shown } = person("maybe", "Y", "no")
      const grader = yield* at(TerminalJudge.grader({ file }))
      assert.match(yield* message(grader.grade(questions)), /item "c": left before answering/)
      assert.strictEqual(shown[0], "Question 1 of 3\n\nprompt of a\n\n[Answer]\nanswer of a\n\n")
      assert.strictEqual(shown[1], "Is it kind? Reply y or n.\n> ")
      assert.deepStrictEqual(lines(file), [
        { ...question("a"), yes: true },
        { ...question("b"), yes: false }
      ])
      const grade = Effect.flatMap(Judge.Grader, (service) => service.grade(questions))
      const resumed = Effect.provide(grade, TerminalJudge.layerGrader({ file }))
      assert.deepStrictEqual(yield* person("yes").at(resumed), [1, 0, 1])
    })
  )
})
