import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Prompt, RewardModel } from "@attune/core"
import { assert, it } from "@effect/vitest"
import { Effect, Logger } from "effect"
import * as ScoreJournal from "../src/ScoreJournal.ts"

const answer = (text: string, tokens: ReadonlyArray<number>): RewardModel.Answer => ({
  prompt: Prompt.make("ask", [1, 2]),
  completion: { text, tokens: Int32Array.from(tokens) }
})

const answers = ["a", "b", "c", "d", "e"].map((text, i) => answer(text, [i]))

/** A reward that counts: its n-th score is n / 8. `asked`: the texts of each call. */
const counting = (name = "person") => {
  const asked: Array<string> = []
  let scores = 0
  const reward = RewardModel.fromBatchFunction(name, (answers) => {
    asked.push(answers.map(({ completion }) => completion.text).join(""))
    return answers.map(() => ++scores / 8)
  })
  return { reward, asked }
}

const inTemporary = <A, E, R>(body: (directory: string, file: string) => Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-scores-"))),
    (directory) => body(directory, join(directory, "scores.jsonl")),
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )

const score = (
  { reward }: { readonly reward: RewardModel.RewardModelShape },
  options: ScoreJournal.Options,
  of: { readonly iteration?: number; readonly answers?: ReadonlyArray<RewardModel.Answer> } = {}
) =>
  Effect.scoped(
    Effect.flatMap(ScoreJournal.open(reward, options), (journal) =>
      journal.score(of.iteration ?? 0, of.answers ?? answers)
    )
  ).pipe(Effect.map((scores) => Array.from(scores)))

const warningsOf = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make(({ message }) => lines.push(String(message)))
    return Effect.map(Effect.provide(effect, Logger.layer([logger])), (value) => ({ value, lines }))
  })

const lines = (file: string) => readFileSync(file, "utf8").trimEnd().split("\n")

const all = [0.125, 0.25, 0.375, 0.5, 0.625]

it.effect("asks about every answer once, a slice at a time, and not at all when a run is resumed", () =>
  inTemporary((directory, file) =>
    Effect.gen(function* () {
      const person = counting()
      const options = { directory, scoreBatch: 2, resume: true }
      assert.deepStrictEqual(yield* score(person, options), all)
      assert.deepStrictEqual(person.asked, ["ab", "cd", "e"])
      assert.strictEqual(lines(file).length, 3)
      assert.deepStrictEqual(yield* score(person, options), all)
      assert.strictEqual(person.asked.length, 3)
      // The same answers are others in another iteration.
      yield* score(person, options, { iteration: 1 })
      assert.deepStrictEqual(person.asked.slice(3), ["ab", "cd", "e"])
    })
  )
)

it.effect("asks about all answers together unless told otherwise, and keeps nothing without a directory", () =>
  Effect.gen(function* () {
    const person = counting()
    assert.deepStrictEqual(yield* score(person, {}), all)
    assert.deepStrictEqual(yield* score(person, { resume: true }), [0.75, 0.875, 1, 1.125, 1.25])
    assert.deepStrictEqual(person.asked, ["abcde", "abcde"])
  })
)

it.effect("has what was scored before a slice that failed", () =>
  inTemporary((directory) =>
    Effect.gen(function* () {
      const person = counting()
      const failing = {
        name: "person",
        score: (asked: ReadonlyArray<RewardModel.Answer>) =>
          person.asked.length === 2
            ? Effect.fail(new RewardModel.RewardModelError({ model: "person", reason: "went home" }))
            : person.reward.score(asked)
      }
      const options = { directory, scoreBatch: 2 }
      const error = yield* Effect.flip(score({ reward: failing }, options))
      assert.match(error.message, /went home/)
      assert.deepStrictEqual(yield* score(person, { ...options, resume: true }), all)
      assert.deepStrictEqual(person.asked, ["ab", "cd", "e"])
    })
  )
)

it.effect("says which answer of which iteration a score that is none was given for, and to which prompt", () =>
  Effect.gen(function* () {
    const asked = answers.map((answer, i) => ({ ...answer, prompt: Prompt.make(`ask ${i}`, [i]) }))
    const errorOf = (own: RewardModel.RewardModelShape["score"]) =>
      Effect.flip(score({ reward: { name: "own", score: own } }, { scoreBatch: 2 }, { iteration: 6, answers: asked }))
    const bad = yield* errorOf((some) =>
      Effect.succeed(Float32Array.from(some, ({ prompt }) => (prompt.text === "ask 3" ? Number.NaN : 1)))
    )
    assert.match(
      bad.message,
      /scored answer 1 of 2 as NaN; .* \(answer 3 of 5 in iteration 7, to the prompt "ask 3"\)$/
    )
    assert.strictEqual(bad._tag === "RewardModelError" ? bad.answer : undefined, 3)
    const few = yield* errorOf((some) => Effect.succeed(new Float32Array(some[0]!.prompt.text === "ask 2" ? 1 : 2)))
    assert.match(few.message, /returned 1 scores for 2 answers; .* \(answers 2 to 3 of 5 in iteration 7\)$/)
  })
)

it.effect("drops a line that was cut short, wherever, and asks about its answers together again", () =>
  inTemporary((directory, file) =>
    Effect.gen(function* () {
      const options = { directory, scoreBatch: 2, resume: true }
      yield* score(counting(), options)
      const whole = readFileSync(file)
      const last = whole.lastIndexOf("\n", whole.length - 2) + 1
      const middle = whole.lastIndexOf("\n", last - 2) + 1
      for (let size = middle; size < last; size += 7) {
        writeFileSync(file, whole)
        truncateSync(file, size)
        const person = counting()
        const { lines: warned, value } = yield* warningsOf(score(person, options))
        assert.deepStrictEqual(person.asked, ["cd", "e"])
        assert.deepStrictEqual(value, [0.125, 0.25, 0.125, 0.25, 0.375])
        assert.deepStrictEqual(warned, [])
        // What was asked about again is found from then on.
        assert.deepStrictEqual(yield* score(person, options), value)
      }
    })
  )
)

it.effect("ignores the scores of other answers and of another reward, and says so", () =>
  inTemporary((directory) =>
    Effect.gen(function* () {
      const options = { directory, resume: true, scoreBatch: 1 }
      yield* score(counting(), options)
      const person = counting()
      const changed = answers.with(1, answer("b", [9])).with(3, answer("D", [3]))
      const first = yield* warningsOf(score(person, options, { answers: changed }))
      assert.deepStrictEqual(first.value, [0.125, 0.125, 0.375, 0.25, 0.625])
      assert.deepStrictEqual(person.asked, ["b", "D"])
      assert.strictEqual(first.lines.length, 1)
      assert.match(
        first.lines[0]!,
        /scores\.jsonl holds scores of 2 other answers, .* for iteration 1; person is asked/
      )
      const other = counting("other")
      assert.match(
        (yield* warningsOf(score(other, options))).lines[0]!,
        /scores of 5 other answers, .*; other is asked/
      )
      assert.strictEqual(other.asked.join(""), "abcde")
    })
  )
)

it.effect("says how many lines cannot be read, and uses the others", () =>
  inTemporary((directory, file) =>
    Effect.gen(function* () {
      const options = { directory, resume: true, scoreBatch: 2 }
      yield* score(counting(), options)
      const [first, , third] = lines(file)
      writeFileSync(file, `${first}\n{"iteration":0}\n${third}\n`)
      const person = counting()
      const { lines: warned } = yield* warningsOf(score(person, options))
      assert.match(warned[0]!, /^1 lines of .*scores\.jsonl cannot be read/)
      assert.deepStrictEqual(person.asked, ["cd"])
    })
  )
)

it.effect("is begun anew by a run that is", () =>
  inTemporary((directory, file) =>
    Effect.gen(function* () {
      appendFileSync(file, "of another run\n")
      const person = counting()
      yield* score(person, { directory })
      assert.strictEqual(lines(file).length, 1)
      assert.deepStrictEqual(person.asked, ["abcde"])
    })
  )
)

it.effect("fails with the file that it cannot write", () =>
  inTemporary((directory, file) =>
    Effect.gen(function* () {
      mkdirSync(file)
      const error = yield* Effect.flip(score(counting(), { directory }))
      assert.strictEqual(error._tag, "RunLogError")
      assert.match(error.message, /scores\.jsonl: cannot be read or written: a directory of that name is in the way/)
      assert.isTrue(existsSync(file))
    })
  )
)
