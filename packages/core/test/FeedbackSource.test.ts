import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Terminal } from "effect"
import * as FeedbackSource from "../src/FeedbackSource.ts"

const comparison = { prompt: "q", completions: ["long answer", "short"] }
const attempt = { prompt: "q", completion: "a" }
const message = <A, E extends Error, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)

describe("a scripted labeller", () => {
  it.effect("gives checked feedback of each kind", () =>
    Effect.gen(function* () {
      const source = yield* FeedbackSource.FeedbackSource
      assert.deepStrictEqual(yield* source.rank(comparison), { ...comparison, ranks: [11, 5] })
      assert.deepStrictEqual(yield* source.critique(attempt), { ...attempt, critique: "Too short." })
      assert.deepStrictEqual(yield* source.verify(attempt), { ...attempt, satisfied: true })
      assert.deepStrictEqual(yield* source.demonstrate("q"), { prompt: "q", completion: "a" })
    }).pipe(
      Effect.provide(
        FeedbackSource.layerLabeller("script", {
          rank: ({ completions }) => completions.map((text) => text.length),
          critique: async () => "Too short.",
          verify: ({ completion }) => Effect.succeed(completion === "a"),
          demonstrate: () => "a"
        })
      )
    )
  )

  it.effect("keeps a refinement, and refuses what it cannot judge or judged badly", () =>
    Effect.gen(function* () {
      const source = FeedbackSource.fromLabeller("script", {
        critique: () => ({ critique: "Better.", refinement: "b" }),
        rank: () => [1]
      })
      assert.deepStrictEqual(yield* source.critique(attempt), { ...attempt, critique: "Better.", refinement: "b" })
      assert.match(yield* message(source.verify(attempt)), /script: has no verdicts/)
      assert.match(yield* message(source.rank(comparison)), /script: Expected one rank per completion/)
    })
  )

  it.effect("may have nothing to say of an answer, which is no other failure", () =>
    Effect.gen(function* () {
      const pleased = FeedbackSource.fromLabeller("pleased", {
        critique: ({ completion }) => (completion === "good" ? undefined : "Be good.")
      })
      const error = yield* Effect.flip(pleased.critique({ prompt: "p", completion: "good" }))
      assert.deepStrictEqual(
        [error.nothing, error.message],
        [true, "feedback from pleased: has no critique of this answer"]
      )
      assert.strictEqual((yield* pleased.critique({ prompt: "p", completion: "bad" })).critique, "Be good.")
      const none = yield* Effect.flip(
        FeedbackSource.fromLabeller("mute", {}).critique({ prompt: "p", completion: "good" })
      )
      assert.isUndefined(none.nothing)
    })
  )

  it.effect("judges an answer of no text, and demonstrates none", () =>
    Effect.gen(function* () {
      const source = FeedbackSource.fromLabeller("script", {
        rank: ({ completions }) => completions.map((text) => (text === "" ? 2 : 1)),
        critique: ({ completion }) => (completion === "" ? "Say something." : "Good."),
        verify: ({ completion }) => completion !== "",
        demonstrate: () => ""
      })
      const nothing = { prompt: "q", completion: "" }
      assert.deepStrictEqual((yield* source.rank({ prompt: "q", completions: ["", "a"] })).ranks, [2, 1])
      assert.deepStrictEqual(yield* source.critique(nothing), { ...nothing, critique: "Say something." })
      assert.deepStrictEqual(yield* source.verify(nothing), { ...nothing, satisfied: false })
      assert.match(yield* message(source.demonstrate("q")), /is empty: nothing to imitate/)
    })
  )

  it.effect("sees an answer that was sampled twice once, and its copies tie", () =>
    Effect.gen(function* () {
      const seen: Array<ReadonlyArray<string>> = []
      // In the order of the answers, whatever they are.
      const source = FeedbackSource.fromLabeller("script", {
        rank: ({ completions }) => {
          seen.push(completions)
          return completions.map((_, i) => i + 1)
        }
      })
      const completions = ["a", "b", "a", "", "b"]
      assert.deepStrictEqual(yield* source.rank({ prompt: "q", completions }), {
        prompt: "q",
        completions,
        ranks: [1, 2, 1, 3, 2]
      })
      assert.deepStrictEqual((yield* source.rank({ prompt: "q", completions: ["a", "a"] })).ranks, [1, 1])
      assert.match(yield* message(source.rank({ prompt: "q", completions: ["a"] })), /at least 2 completions/)
      assert.deepStrictEqual(seen, [["a", "b", ""], ["a"]])
    })
  )
})

describe("recorded lines", () => {
  it.layer(NodeServices.layer)((it) => {
    it.effect("answer the questions that were recorded, completions in any order", () =>
      Effect.gen(function* () {
        const directory = mkdtempSync(join(tmpdir(), "attune-source-"))
        const file = (name: string, ...records: ReadonlyArray<unknown>) => {
          writeFileSync(join(directory, name), records.map((record) => JSON.stringify(record)).join("\n"))
          return join(directory, name)
        }
        const source = yield* FeedbackSource.fromJsonLines({
          rankings: file(
            "rankings.jsonl",
            { prompt: "p", chosen: "x", rejected: "y" },
            {
              prompt: "q",
              completions: ["short", "other", "long answer"],
              ranks: [1, 2, 3]
            }
          ),
          critiques: file(
            "critiques.jsonl",
            { ...attempt, completion: "z", critique: "no" },
            { ...attempt, critique: "yes" }
          )
        })
        assert.deepStrictEqual(yield* source.rank(comparison), { ...comparison, ranks: [3, 1] })
        assert.deepStrictEqual(yield* source.critique(attempt), { ...attempt, critique: "yes" })
        assert.match(
          yield* message(source.rank({ prompt: "q", completions: ["short", "new"] })),
          /rankings\.jsonl: has nothing on these answers to the prompt "q"/
        )
        assert.match(yield* message(source.verify(attempt)), /no file was given/)
        const copies = { prompt: "q", completions: ["short", "long answer", "short"] }
        assert.deepStrictEqual((yield* source.rank(copies)).ranks, [1, 3, 1])
        assert.match(
          yield* message(FeedbackSource.fromJsonLines({ critiques: file("bad.jsonl", attempt) })),
          /bad\.jsonl, line 1: field "critique": Missing key/
        )
        const silent = file(
          "silent.jsonl",
          { ...attempt, completion: "b", critique: " " },
          { ...attempt, critique: "c" }
        )
        assert.match(
          yield* message(FeedbackSource.fromJsonLines({ critiques: silent })),
          /silent\.jsonl, line 1: field "critique": is empty/
        )
        const spoken = yield* FeedbackSource.fromJsonLines({ critiques: silent }, { empty: "skip" })
        assert.deepStrictEqual(yield* spoken.critique(attempt), { ...attempt, critique: "c" })
        assert.match(yield* message(spoken.critique({ ...attempt, completion: "b" })), /has nothing on these answers/)
      })
    )
  })
})

describe("a person at a terminal", () => {
  const terminal = (replies: ReadonlyArray<string>) => {
    const left = [...replies]
    const shown: Array<string> = []
    const layer = Effect.provideService(
      Terminal.Terminal,
      Terminal.make({
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
    )
    return { shown, source: layer(FeedbackSource.fromTerminal) }
  }

  it.effect("is asked again until the reply can be used", () =>
    Effect.gen(function* () {
      const { shown, source } = terminal(["2", "2 x", "0 1", " 2, 1 ", "", "Be brief.", "maybe", "Y"])
      const person = yield* source
      assert.deepStrictEqual(yield* person.rank(comparison), { ...comparison, ranks: [2, 1] })
      assert.deepStrictEqual(yield* person.critique(attempt), { ...attempt, critique: "Be brief." })
      assert.deepStrictEqual(yield* person.verify(attempt), { ...attempt, satisfied: true })
      assert.strictEqual(shown.length, 9)
      assert.match(shown[0]!, /\[1\] long answer\n\[2\] short/)
    })
  )

  it.effect("is told of an answer that is empty", () =>
    Effect.gen(function* () {
      const { shown, source } = terminal(["2 1", "Speak.", "n"])
      const person = yield* source
      const nothing = { prompt: "q", completion: "" }
      assert.deepStrictEqual((yield* person.rank({ prompt: "q", completions: ["", "a"] })).ranks, [2, 1])
      assert.strictEqual((yield* person.critique(nothing)).critique, "Speak.")
      assert.isFalse((yield* person.verify(nothing)).satisfied)
      assert.lengthOf(
        shown.filter((text) => text.includes("(an empty answer)")),
        3
      )
    })
  )

  it.effect("may leave, and may have nothing to say of a draft", () =>
    Effect.gen(function* () {
      const person = yield* terminal(["/skip it is cut off", "/quit"]).source
      assert.strictEqual(
        yield* message(person.critique(attempt)),
        "feedback from the person at the terminal: has no critique of this answer: it is cut off"
      )
      const leaving = "feedback from the person at the terminal: gave up before answering"
      assert.strictEqual(yield* message(person.critique(attempt)), leaving)
      assert.strictEqual(yield* message(person.critique(attempt)), leaving)
      assert.strictEqual(yield* message(person.verify(attempt)), leaving)
    })
  )

  it.effect("is shown no text that acts on the terminal", () =>
    Effect.gen(function* () {
      const { shown, source } = terminal(["1 2", "x", "y", "x"])
      const person = yield* source
      const evil = "\u001b[2J"
      yield* person.rank({ prompt: evil, completions: [evil, "b"] })
      yield* person.critique({ prompt: evil, completion: evil })
      yield* person.verify({ prompt: evil, completion: evil, instruction: evil })
      yield* person.demonstrate([
        { role: evil, content: evil },
        { role: "user", content: "" }
      ])
      assert.strictEqual(shown.join("").split("⟨U+001B⟩[2J").length - 1, 9)
      assert.notInclude(shown.join(""), "\u001b")
    })
  )
})
