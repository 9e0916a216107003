import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as DataFile from "../../src/benchmarks/DataFile.ts"
import { file } from "../file.ts"

const scoped = <A, E>(effect: Effect.Effect<A, E, NodeServices.NodeServices | import("effect").Scope.Scope>) =>
  effect.pipe(Effect.scoped, Effect.provide(NodeServices.layer))

describe("DataFile.csv", () => {
  it.effect("reads quoted cells with commas, line breaks and quotes, and ignores a byte order mark", () =>
    scoped(
      Effect.gen(function* () {
        const path = yield* file("a.csv", '\uFEFFa,b\r\n"one, two","say ""hi""\nthere"\r\n\r\n3,\r\n')
        assert.deepStrictEqual(yield* DataFile.csv(path, ["a", "b"]), [
          { row: 2, cells: { a: "one, two", b: 'say "hi"\nthere' } },
          { row: 4, cells: { a: "3", b: "" } }
        ])
      })
    )
  )

  const bad: ReadonlyArray<readonly [name: string, content: string, place: string]> = [
    ["a column that stands twice", "a,b,a\n1,2,3\n", ', row 1: field "a": stands twice; name each column once'],
    ["a missing column", "a,c\n1,2\n", ', row 1: field "b": no such column; the header has a, c'],
    ["a row of another width", "a,b\n1,2\n1,2,3\n", ", row 3: has 3 cells, the header 2"],
    ["an open quote", 'a,b\n1,2\n"1,2\n', ", row 3: Unterminated quoted field"],
    ["no rows", "a,b\n\n", ": has a header and no rows; there is nothing to measure"],
    ["an empty file", "", ": is empty; give a table with a header"]
  ]
  for (const [name, content, place] of bad) {
    it.effect(`says where there is ${name}`, () =>
      scoped(
        Effect.gen(function* () {
          const path = yield* file("bad.csv", content)
          const error = yield* Effect.flip(DataFile.csv(path, ["a", "b"]))
          assert.strictEqual(error._tag, "DataFileError")
          assert.strictEqual(error.message, path + place)
        })
      )
    )
  }

  it.effect("says that there is no such file", () =>
    scoped(
      Effect.gen(function* () {
        const error = yield* Effect.flip(DataFile.csv("/nowhere/a.csv", []))
        assert.strictEqual(error.message, "/nowhere/a.csv: cannot be read: no such file")
      })
    )
  )
})

describe("DataFile.tsv", () => {
  it.effect("gives quotes no meaning", () =>
    scoped(
      Effect.gen(function* () {
        const path = yield* file("a.tsv", 'a\tb\n1\ta "quoted" word\n')
        assert.deepStrictEqual(yield* DataFile.tsv(path, ["b"]), [{ row: 2, cells: { a: "1", b: 'a "quoted" word' } }])
      })
    )
  )
})

describe("DataFile.json", () => {
  const schema = Schema.Struct({ examples: Schema.Array(Schema.Struct({ target: Schema.String })) })

  it.effect("names the path of what does not fit", () =>
    scoped(
      Effect.gen(function* () {
        const path = yield* file("a.json", '{"examples":[{"target":"x"},{"target":3}]}')
        const error = yield* Effect.flip(DataFile.json(path, schema))
        assert.strictEqual(error.field, "examples.1.target")
      })
    )
  )

  it.effect("says that a torn file is not JSON", () =>
    scoped(
      Effect.gen(function* () {
        const path = yield* file("a.json", '{"examples":[')
        const error = yield* Effect.flip(DataFile.json(path, schema))
        assert.include(error.message, `${path}: is not JSON`)
      })
    )
  )
})

describe("DataFile.jsonLines", () => {
  it.effect("gives rows their lines and names the field at fault", () =>
    scoped(
      Effect.gen(function* () {
        const schema = Schema.Struct({ a: Schema.Number })
        const good = yield* file("good.jsonl", '{"a":1}\n\n{"a":2}\n')
        assert.deepStrictEqual(yield* DataFile.jsonLines(good, schema), [
          { line: 1, value: { a: 1 } },
          { line: 3, value: { a: 2 } }
        ])
        const bad = yield* file("bad.jsonl", '{"a":1}\n{"a":"2"}\n')
        const { field, row } = yield* Effect.flip(DataFile.jsonLines(bad, schema))
        assert.deepStrictEqual({ field, row }, { field: "a", row: 2 })
        const empty = yield* file("empty.jsonl", "\n")
        const error = yield* Effect.flip(DataFile.jsonLines(empty, schema))
        assert.include(error.message, "has no lines")
      })
    )
  )
})
