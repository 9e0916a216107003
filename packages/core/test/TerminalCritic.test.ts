import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, PlatformError, Terminal } from "effect"
import * as Critique from "../src/Critique.ts"
import * as FeedbackSource from "../src/FeedbackSource.ts"
import * as TerminalCritic from "../src/TerminalCritic.ts"

const draft = (name: string): TerminalCritic.Draft => ({ prompt: `prompt of ${name}`, completion: `draft ${name}` })
const [a, b, c] = [draft("a"), draft("b"), draft("c")]
const all = [a, b, c]

/** A person who gives these replies and then leaves; `before` is run before each. */
const person = (replies: ReadonlyArray<string>, before: (place: number) => void = () => undefined) => {
  const left = [...replies]
  const shown: Array<string> = []
  const terminal = Terminal.make({
    columns: Effect.succeed(80),
    rows: Effect.succeed(24),
    size: Effect.die("unused"),
    readInput: Effect.die("unused"),
    readLine: Effect.suspend(() => {
      before(replies.length - left.length)
      const reply = left.shift()
      return reply === undefined ? Effect.fail(new Terminal.QuitError({})) : Effect.succeed(reply)
    }),
    display: (text) => Effect.sync(() => void shown.push(text))
  })
  const at = Effect.provideService(Terminal.Terminal, terminal)
  const collect = (drafts: ReadonlyArray<TerminalCritic.Draft>, file?: string) =>
    at(TerminalCritic.collect(drafts, { file }))
  return { collect, left, shown }
}

/** Which drafts were shown, in their order. */
const seen = (shown: ReadonlyArray<string>) =>
  shown.flatMap((text) => /\[Draft\]\ndraft (\w+)/.exec(text)?.slice(1) ?? [])

const fresh = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-terminal-critic-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true }))
  ),
  (path) => join(path, "critiques.jsonl")
)
const lines = (file: string) =>
  readFileSync(file, "utf8")
    .split("\n")
    .slice(0, -1)
    .map((line): unknown => JSON.parse(line))
const message = <A, R>(effect: Effect.Effect<A, TerminalCritic.TerminalCriticError, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)

describe("the person at the terminal as a critic", () => {
  it.layer(NodeServices.layer)((it) => {
    it.effect("sees prompt, draft and place, and types critiques", () =>
      Effect.gen(function* () {
        const { collect, shown } = person(["  Be kind. ", "", "/what", "Shorter.", "OK / fine"])
        assert.deepStrictEqual(yield* collect(all), {
          critiques: [
            { ...a, critique: "Be kind." },
            { ...b, critique: "Shorter." },
            { ...c, critique: "OK / fine" }
          ],
          skipped: [],
          left: 0
        })
        assert.strictEqual(shown[0], "Draft 1 of 3\n\nprompt of a\n\n[Draft]\ndraft a\n\n")
        assert.match(shown[1]!, /^What should be better\? .*\/skip.*\/undo.*\/quit\n> $/)
        assert.match(shown[2]!, /^Draft 2 of 3\n/)
        // An empty line is asked again, and so is a command that there is not.
        assert.deepStrictEqual(shown.slice(3, 7), [
          shown[1],
          shown[1],
          "There is no /what; a critique cannot begin with a slash.\n",
          shown[1]
        ])
      })
    )

    it.effect("is shown conversations, and no text that acts on the terminal", () =>
      Effect.gen(function* () {
        const { collect, shown } = person(["x", "/skip x", "/\u001b[2J"])
        const prompt = [
          { role: "user", content: "Hi\u001b[2J" },
          { role: "assistant", content: "Ho" }
        ]
        yield* collect([{ prompt, completion: "\u009b1mred\r" }, { prompt: "q", completion: " \n" }, a])
        assert.strictEqual(
          shown[0],
          "Draft 1 of 3\n\nuser: Hi⟨U+001B⟩[2J\n\nassistant: Ho\n\n[Draft]\n⟨U+009B⟩1mred⟨U+000D⟩\n\n"
        )
        assert.strictEqual(shown[2], "Draft 2 of 3\n\nq\n\n[Draft]\n(an empty answer)\n\n")
        for (const control of ["\u001b", "\u009b", "\r"]) assert.notInclude(shown.join(""), control)
      })
    )

    it.effect("may skip with a reason, which is counted and kept", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        const { collect } = person(["/skip", "/skip  cut  off", "Shorter.", "/skip no idea"])
        const session = yield* collect(all, file)
        assert.deepStrictEqual(session, {
          critiques: [{ ...b, critique: "Shorter." }],
          skipped: [
            { index: 0, reason: "cut off" },
            { index: 2, reason: "no idea" }
          ],
          left: 0
        })
        assert.deepStrictEqual(yield* person([]).collect(all, file), session)
        assert.deepStrictEqual(yield* Critique.read(file, { empty: "skip" }), {
          critiques: session.critiques,
          skipped: [1, 3]
        })
      })
    )

    it.effect.each([
      ["/quit", ["/quit"]],
      ["ending the input", []]
    ] as const)("may leave by %s and go on: nothing is lost, nothing is asked twice", ([_how, quit]) =>
      Effect.gen(function* () {
        const file = yield* fresh
        const first = person(["Be kind.", ...quit])
        const { critiques, left } = yield* first.collect(all, file)
        assert.deepStrictEqual([critiques, left], [[{ ...a, critique: "Be kind." }], 2])
        const second = person(["Shorter."])
        assert.strictEqual((yield* second.collect(all.toReversed(), file)).left, 1)
        assert.deepStrictEqual(seen(second.shown), ["c", "b"])
        assert.match(second.shown[0]!, /^Draft 1 of 3/)
        const third = person(["Longer."])
        assert.deepStrictEqual((yield* third.collect(all, file)).critiques, [
          { ...a, critique: "Be kind." },
          { ...b, critique: "Longer." },
          { ...c, critique: "Shorter." }
        ])
        assert.match(third.shown[0]!, /^Draft 2 of 3/)
        assert.lengthOf((yield* Critique.read(file)).critiques, 3)
        // Another draft of the same prompt is another question.
        const other = person([])
        assert.strictEqual((yield* other.collect([a, { ...a, completion: "draft new" }], file)).left, 1)
        assert.deepStrictEqual(seen(other.shown), ["new"])
      })
    )

    it.effect.each([true, false])("takes back what was said last, and asks again (with a file: %s)", (hasFile) =>
      Effect.gen(function* () {
        const file = hasFile ? yield* fresh : undefined
        const { collect, left, shown } = person([
          "/undo", // nothing yet
          "one",
          "/skip two",
          "/undo",
          "/undo",
          "One.",
          "Two.",
          "/undo",
          "/undo",
          "/undo",
          "ONE",
          "/skip TWO",
          "three"
        ])
        assert.deepStrictEqual(yield* collect(all, file), {
          critiques: [
            { ...a, critique: "ONE" },
            { ...c, critique: "three" }
          ],
          skipped: [{ index: 1, reason: "TWO" }],
          left: 0
        })
        assert.deepStrictEqual(left, [])
        assert.deepStrictEqual(seen(shown).join(""), "abcbabcbabc")
        assert.lengthOf(
          shown.filter((text) => text === "There is nothing to take back.\n"),
          2
        )
        if (file !== undefined) {
          assert.deepStrictEqual(lines(file), [
            { ...a, critique: "ONE" },
            { ...b, critique: "", skipped: "TWO" },
            { ...c, critique: "three" }
          ])
        }
      })
    )

    it.effect("takes back what was said before the program was started again, and keeps other lines as they are", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        const other = '{ "prompt": "other", "completion": "x", "critique": "y", "worker": 7 }\n'
        writeFileSync(file, `\uFEFF${JSON.stringify({ ...a, critique: "old" })}\n${other}`)
        const before = person(["two"])
        yield* before.collect(all, file)
        const { collect, shown } = person(["/undo", "/undo", "/undo", "new", "/quit"])
        const { critiques, left } = yield* collect(all, file)
        assert.deepStrictEqual([critiques, left], [[{ ...a, critique: "new" }], 2])
        assert.strictEqual(seen(shown).join(""), "cbab")
        assert.strictEqual(readFileSync(file, "utf8"), `${other}${JSON.stringify({ ...a, critique: "new" })}\n`)
      })
    )

    it.effect("asks next about what was taken back, wherever it stands in the list", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        yield* person(["three"]).collect([c], file)
        const { collect, shown } = person(["/undo", "/skip", "THREE", "one", "two"])
        assert.strictEqual((yield* collect(all, file)).left, 0)
        assert.strictEqual(seen(shown).join(""), "acab")
        assert.match(shown[2]!, /^Draft 3 of 3/)
      })
    )

    it.effect("takes the last line of a draft that the file has twice, and takes back both", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        const said = [a, b, a].map((draft, i) => JSON.stringify({ ...draft, critique: `${i}` }))
        writeFileSync(file, said.join("\n"))
        assert.deepStrictEqual(
          (yield* person([]).collect([a, b], file)).critiques.map(({ critique }) => critique),
          ["2", "1"]
        )
        const { collect, shown } = person(["three", "/quit"])
        yield* collect([a, b, c], file)
        assert.strictEqual(seen(shown).join(""), "c")
        const back = person(["/undo", "/undo", "/quit"])
        assert.strictEqual((yield* back.collect([a, b, c, draft("d")], file)).left, 3)
        assert.strictEqual(seen(back.shown).join(""), "dca")
        assert.deepStrictEqual(lines(file), [{ ...b, critique: "1" }])
      })
    )

    it.effect("knows a conversation again, in whatever order its messages have their fields", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        yield* person(["one"]).collect([{ prompt: [{ content: "q", role: "user" }], completion: "x" }], file)
        const again = { prompt: [{ role: "user", content: "q" }], completion: "x" }
        assert.deepStrictEqual((yield* person([]).collect([again], file)).critiques, [{ ...again, critique: "one" }])
        const recorded = yield* FeedbackSource.fromJsonLines({ critiques: file })
        assert.strictEqual(
          (yield* recorded.critique({ ...again, prompt: [{ content: "q", role: "user" }] })).critique,
          "one"
        )
        const other = { prompt: [{ role: "q", content: "user" }], completion: "x" }
        assert.strictEqual((yield* person([]).collect([other], file)).left, 1)
      })
    )

    it.effect("asks once about a draft that stands twice", () =>
      Effect.gen(function* () {
        const { collect, shown } = person(["One.", "/skip two"])
        assert.deepStrictEqual(yield* collect([a, b, a, b, c]), {
          critiques: [
            { ...a, critique: "One." },
            { ...a, critique: "One." }
          ],
          skipped: [
            { index: 1, reason: "two" },
            { index: 3, reason: "two" }
          ],
          left: 1
        })
        assert.strictEqual(seen(shown).join(""), "abc")
      })
    )

    it.effect("goes on with any file of critiques, refinements and all, and asks where one says nothing", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        const refined = { ...a, critique: "Be kind.", refinement: "Hello." }
        writeFileSync(file, `${JSON.stringify(refined)}\n${JSON.stringify({ ...b, critique: " " })}\n`)
        const { collect, shown } = person(["two", "three"])
        assert.deepStrictEqual((yield* collect(all, file)).critiques, [
          refined,
          { ...b, critique: "two" },
          { ...c, critique: "three" }
        ])
        assert.strictEqual(seen(shown).join(""), "bc")
      })
    )

    it.effect("has every critique in the file before the next draft is shown, a taken back one no longer", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        const counts: Array<number> = []
        const { collect } = person(["one", "two", "/undo", "two", "three"], () => {
          counts.push(existsSync(file) ? lines(file).length : -1)
        })
        yield* collect(all, file)
        assert.deepStrictEqual(counts, [0, 1, 2, 1, 2])
      })
    )

    it.effect("asks again what a crash cut off", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        yield* person(["één", "twee"]).collect([a, b], file)
        const whole = readFileSync(file)
        const start = whole.indexOf(10) + 1
        for (const end of [start + 1, whole.length - 9, whole.length - 2]) {
          writeFileSync(file, whole.subarray(0, end))
          const { collect, shown } = person(["twee"])
          assert.strictEqual((yield* collect([a, b], file)).left, 0)
          assert.strictEqual(seen(shown).join(""), "b")
          assert.isTrue(readFileSync(file).equals(whole))
        }
      })
    )

    it.effect("fails before the first question where the file is of another kind, absent or cannot be made", () =>
      Effect.gen(function* () {
        const file = yield* fresh
        yield* person(["one"]).collect([a], file)
        appendFileSync(file, '{"prompt":"q","critique":"no draft"}\n')
        const content = readFileSync(file, "utf8")
        const { collect, shown } = person(["x"])
        assert.match(
          yield* message(collect(all, file)),
          /^the person at the terminal cannot go on: .*critiques\.jsonl, line 2: field "completion": Missing key/
        )
        assert.strictEqual(readFileSync(file, "utf8"), content)
        assert.match(yield* message(collect(all, join(file, "..", "absent", "x.jsonl"))), /directory does not exist/)
        assert.deepStrictEqual(shown, [])
      })
    )

    it.effect("asks nobody about no drafts, and says where nothing can be shown", () =>
      Effect.gen(function* () {
        const nobody = person([])
        assert.deepStrictEqual(yield* nobody.collect([]), { critiques: [], skipped: [], left: 0 })
        assert.deepStrictEqual(nobody.shown, [])
        const broken = Terminal.make({
          columns: Effect.succeed(80),
          rows: Effect.succeed(24),
          size: Effect.die("unused"),
          readInput: Effect.die("unused"),
          readLine: Effect.succeed("x"),
          display: () =>
            Effect.fail(
              PlatformError.systemError({
                _tag: "BadResource",
                module: "Terminal",
                method: "display",
                description: "no terminal"
              })
            )
        })
        assert.match(
          yield* message(TerminalCritic.collect(all).pipe(Effect.provideService(Terminal.Terminal, broken))),
          /cannot be asked: .*no terminal/
        )
      })
    )
  })
})
