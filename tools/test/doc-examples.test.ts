import { assert, describe, it } from "@effect/vitest"
import { inMarkdown, inSource, toTest } from "../doc-examples.ts"

describe("inSource", () => {
  it("takes the fences of doc comments and says where they start", () => {
    const text = [
      "/**",
      " * Adds.",
      " *",
      " * ```ts",
      ' * import { Kl } from "@attune/core"',
      " *",
      " * Kl.add(1, 2) // => 3",
      " * ```",
      " */",
      "export const add = 1 // ```ts is not a fence here"
    ].join("\n")
    assert.deepStrictEqual(inSource(text), [
      { line: 5, code: 'import { Kl } from "@attune/core"\n\nKl.add(1, 2) // => 3\n' }
    ])
  })
})

describe("inMarkdown", () => {
  it("takes only the fences that ask to be checked", () => {
    assert.deepStrictEqual(inMarkdown("# A\n```ts\nno\n```\n```ts check\nyes\n```\n"), [{ line: 6, code: "yes\n" }])
  })
})

describe("toTest", () => {
  it("hoists imports, on several lines too, and turns arrows into assertions", () => {
    const code = [
      "import {",
      "  a",
      '} from "a"',
      'import "b"',
      "const x = a(1) // => 2",
      "x + 1 // => [3]",
      "x // plain"
    ].join("\n")
    assert.strictEqual(
      toTest("docs/a.md", { line: 7, code }),
      [
        'import { assert as __assert, it as __it } from "@effect/vitest"',
        "import {",
        "  a",
        '} from "a"',
        'import "b"',
        '__it("docs/a.md:7", async () => {',
        "const x = a(1); __assert.deepStrictEqual(x, 2)",
        "__assert.deepStrictEqual(x + 1, [3])",
        "x // plain",
        "})",
        ""
      ].join("\n")
    )
  })
})
