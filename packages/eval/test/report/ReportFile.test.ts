import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { afterAll } from "vitest"
import * as HtmlReport from "../../src/report/HtmlReport.ts"
import * as MarkdownReport from "../../src/report/MarkdownReport.ts"
import * as ReportFile from "../../src/report/ReportFile.ts"
import { report } from "../ReportExample.ts"

const root = mkdtempSync(join(tmpdir(), "attune-report-file-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

describe("ReportFile", () => {
  it.effect("writes three forms of one report into a new directory, and reads the data back", () =>
    Effect.gen(function* () {
      const directory = join(root, "new", "folder")
      const { html, json, markdown } = yield* ReportFile.write(directory, report)
      assert.deepStrictEqual(
        [html, markdown, json],
        ["report.html", "report.md", "report.json"].map((n) => join(directory, n))
      )
      assert.deepStrictEqual(readdirSync(directory).sort(), ["report.html", "report.json", "report.md"])
      assert.strictEqual(readFileSync(html, "utf8"), HtmlReport.render(report))
      assert.strictEqual(readFileSync(markdown, "utf8"), MarkdownReport.render(report))
      assert.deepStrictEqual(yield* ReportFile.read(json), report)
    })
  )

  it.effect("writes nothing of a report that does not hold", () =>
    Effect.gen(function* () {
      const directory = join(root, "none")
      const broken = {
        ...report,
        sections: [{ title: "s", blocks: [{ _tag: "Table" as const, columns: ["a"], rows: [[]] }] }]
      }
      const error = yield* Effect.flip(ReportFile.write(directory, broken))
      assert.strictEqual(error._tag, "ReportError")
      assert.notInclude(readdirSync(root), "none")
    })
  )

  it.effect("says what is wrong with a file or a directory", () =>
    Effect.gen(function* () {
      const missing = yield* Effect.flip(ReportFile.read(join(root, "missing.json")))
      assert.match(missing.message, /missing\.json: the report: cannot be read: no such file/)
      const inTheWay = join(root, "file")
      writeFileSync(inTheWay, "")
      const error = yield* Effect.flip(ReportFile.write(inTheWay, report))
      assert.strictEqual(error._tag, "FileWriteError")
    })
  )
})
