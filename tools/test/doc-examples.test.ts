import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { inMarkdown, inSource, toTest, writeTests } from "../doc-examples.ts"

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

describe("writeTests", () => {
  it("finds the examples of packages, programs and pages, and imports a program's module for its own", () => {
    const root = mkdtempSync(join(tmpdir(), "doc-examples-"))
    const write = (file: string, text: string) => {
      mkdirSync(dirname(join(root, file)), { recursive: true })
      writeFileSync(join(root, file), text)
    }
    const comment = "/**\n * ```ts\n * 1 // => 1\n * ```\n */\n"
    write("packages/core/src/Kl.ts", comment)
    write("packages/core/src/generated/Pb.ts", comment)
    write("apps/desk/src/world/Ticket.ts", comment)
    write("docs/page.md", "```ts check\n2 // => 2\n```\n")
    const target = join(root, "tools/.doc-examples")
    write("tools/.doc-examples/old.test.ts", "")
    assert.strictEqual(writeTests(root, target), 3)
    const [program, page, source] = readdirSync(target).sort()
    assert.deepStrictEqual(
      [program, page, source],
      ["apps.desk.src.world.Ticket.ts.3.test.ts", "docs.page.md.2.test.ts", "packages.core.src.Kl.ts.3.test.ts"]
    )
    const text = (file: string | undefined) => readFileSync(join(target, file!), "utf8")
    assert.include(text(program), 'import * as Ticket from "../../apps/desk/src/world/Ticket.ts"')
    assert.notInclude(text(source), "import * as")
    assert.include(text(page), "__assert.deepStrictEqual(2, 2)")
    rmSync(root, { recursive: true })
  })
})
