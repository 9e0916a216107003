import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, Option, Schema, Stream } from "effect"
import { Critique } from "../src/Critique.ts"
import { Demonstration } from "../src/Demonstration.ts"
import * as JsonLines from "../src/JsonLines.ts"
import { Ranking } from "../src/Ranking.ts"

const shared = resolve(import.meta.dirname, "../../../../shared")
const present = (path: string) => {
  const found = existsSync(join(shared, path))
  if (!found) process.stderr.write(`skipped: ../shared/${path} is absent\n`)
  return found
}

const directory = () => mkdtempSync(join(tmpdir(), "attune-lines-"))
const file = (contents: string | Uint8Array) => {
  const path = join(directory(), "feedback.jsonl")
  writeFileSync(path, contents)
  return path
}
const good = (completion: string) => `{"prompt":"q","completion":"${completion}"}`
const readError = (contents: string) => Effect.flip(JsonLines.read(file(contents), Demonstration))

it.layer(NodeServices.layer)((it) => {
  it.effect("reads past a byte order mark, blank lines, both line endings and a missing last one", () =>
    Effect.gen(function* () {
      const path = file(`\uFEFF${good("a")}\r\n\r\n   \n${good("b")}\n${good("é")}`)
      const completions = (yield* JsonLines.read(path, Demonstration)).map(({ completion }) => completion)
      assert.deepStrictEqual(completions, ["a", "b", "é"])
    })
  )

  it.effect("reads nothing from an empty file", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* JsonLines.read(file(""), Demonstration), [])
    })
  )

  it.effect("names the file, line 17 and what is malformed, missing or empty on it", () =>
    Effect.gen(function* () {
      const bad = (line: string, blank = "") => [...Array(16).fill(good("a")), line, good("b")].join(`\n${blank}`)
      const malformed = yield* readError(bad(`{"prompt": "q", `))
      assert.strictEqual(malformed.line, 17)
      assert.match(
        malformed.message,
        /feedback\.jsonl, line 17: is not JSON \([^()]+\); write one JSON value per line$/
      )
      const missing = yield* readError(bad(`{"prompt":"q"}`))
      assert.match(missing.message, /feedback\.jsonl, line 17: field "completion": Missing key/)
      const empty = yield* readError(bad(good("")))
      assert.match(empty.message, /line 17: field "completion": is empty/)
      const nested = yield* readError(
        bad(`{"messages":[{"role":"user","content":1},{"role":"assistant","content":"a"}]}`)
      )
      assert.strictEqual(nested.field, "messages.0.content")
      assert.strictEqual((yield* readError(bad("x", "\n"))).line, 33)
    })
  )

  it.effect("names a file that cannot be read, without a line", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(JsonLines.read(join(directory(), "absent.jsonl"), Demonstration))
      assert.match(error.message, /absent\.jsonl: cannot be read/)
      assert.isUndefined(error.line)
    })
  )

  it.effect("streams: the first record of a long file arrives before a bad line far behind it", () =>
    Effect.gen(function* () {
      const path = file(`${Array(50_000).fill(good("a")).join("\n")}\nbad`)
      const first = yield* Stream.runHead(JsonLines.stream(path, Demonstration))
      assert.isTrue(Option.isSome(first))
      assert.strictEqual((yield* Effect.flip(Stream.runDrain(JsonLines.stream(path, Demonstration)))).line, 50_001)
    })
  )

  it.effect("a character cut in two by a block of the file is read whole", () =>
    Effect.gen(function* () {
      const long = "é".repeat(100_000)
      const [demonstration] = yield* JsonLines.read(file(good(`x${long}`)), Demonstration)
      assert.strictEqual(demonstration?.completion, `x${long}`)
    })
  )

  it.effect("writes what it reads, one value per line, and leaves no temporary file", () =>
    Effect.gen(function* () {
      const path = join(directory(), "out.jsonl")
      const values = Array.from({ length: 3000 }, (_, i) => ({ prompt: `line\nbreak ${i}`, completion: " \u2028é" }))
      yield* JsonLines.write(path, Demonstration, values)
      assert.deepStrictEqual(yield* JsonLines.read(path, Demonstration), values)
      assert.strictEqual(readFileSync(path, "utf8").split("\n").length, 3001)
      assert.deepStrictEqual(readdirSync(resolve(path, "..")), ["out.jsonl"])
    })
  )

  it.effect("keeps the old file and nothing else where a value cannot be written", () =>
    Effect.gen(function* () {
      const path = file("old")
      const error = yield* Effect.flip(
        JsonLines.write(path, Demonstration, [
          { prompt: "q", completion: "a" },
          { prompt: "q", completion: "" }
        ])
      )
      assert.match(error.message, /line 2: field "completion"/)
      assert.strictEqual(readFileSync(path, "utf8"), "old")
      assert.deepStrictEqual(readdirSync(resolve(path, "..")), ["feedback.jsonl"])
    })
  )

  it.effect("names an output that cannot be written and says why", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(JsonLines.write(join(file("x"), "out.jsonl"), Demonstration, []))
      assert.match(error.message, /out\.jsonl: cannot be written: .*file/)
    })
  )

  it.effect.skipIf(!present("data/hh-rlhf-harmless"))("reads 1500 pairs of real preferences", () =>
    Effect.gen(function* () {
      const path = join(shared, "data/hh-rlhf-harmless/pairs.jsonl")
      const rankings = yield* JsonLines.read(path, Ranking)
      const raw = yield* JsonLines.read(path, Schema.Struct({ chosen: Schema.String, rejected: Schema.String }))
      assert.strictEqual(rankings.length, 1500)
      rankings.forEach(({ completions, prompt, ranks }, i) => {
        assert.isTrue(typeof prompt === "string" && prompt.endsWith("\n\nAssistant:"), `pair ${i}`)
        assert.isTrue(
          completions.every((text) => !text.includes("\n\nHuman:")),
          `pair ${i}`
        )
        assert.deepStrictEqual(
          [`${prompt}${completions[0]}`, `${prompt}${completions[1]}`],
          [raw[i]!.chosen, raw[i]!.rejected]
        )
        assert.deepStrictEqual([...ranks], [1, 2])
      })
    })
  )

  it.effect.skipIf(!present("data/ilf-code"))("reads 100 real critiques of code with their refinements", () =>
    Effect.gen(function* () {
      const critiques = yield* JsonLines.read(join(shared, "data/ilf-code/feedback.jsonl"), Critique)
      assert.strictEqual(critiques.length, 100)
      assert.match(critiques[0]!.critique, /^There are two crucial mistakes/)
      assert.isTrue(
        critiques.every(({ completion, prompt }) => typeof prompt === "string" && !completion.startsWith(prompt))
      )
      assert.isTrue(critiques.every(({ refinement }) => refinement !== undefined))
    })
  )
})
