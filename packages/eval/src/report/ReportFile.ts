/**
 * Reports on the disk: HTML to read, Markdown to paste, JSON to compute with.
 *
 * @since 0.1.0
 */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { AtomicFile } from "@attune/core"
import { Effect } from "effect"
import * as Report from "../Report.ts"
import * as HtmlReport from "./HtmlReport.ts"
import * as MarkdownReport from "./MarkdownReport.ts"

/**
 * Where the forms of a report lie.
 *
 * @category models
 * @since 0.1.0
 */
export interface Written {
  readonly html: string
  readonly markdown: string
  readonly json: string
}

/**
 * Writes `report.html`, `report.md` and `report.json` into `directory`, which is made where it is missing. Each file is
 * either complete or as it was; a report whose data breaks its Schema writes none.
 *
 * @category encoding
 * @since 0.1.0
 */
export const write: (
  directory: string,
  report: Report.Report
) => Effect.Effect<Written, Report.ReportError | AtomicFile.FileWriteError> = Effect.fn("ReportFile.write")(
  function* (directory, report) {
    const json = yield* Report.toJson(report)
    const forms = [
      ["report.html", HtmlReport.render(report)],
      ["report.md", MarkdownReport.render(report)],
      ["report.json", json]
    ] as const
    for (const [name, text] of forms) yield* AtomicFile.write(join(directory, name), [Buffer.from(text)])
    const [html, markdown, data] = forms.map(([name]) => join(directory, name))
    return { html: html!, markdown: markdown!, json: data! }
  }
)

/**
 * Reads a `report.json`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (path: string) => Effect.Effect<Report.Report, Report.ReportError> = Effect.fn("ReportFile.read")(
  function* (path) {
    const text = yield* Effect.tryPromise({
      try: () => readFile(path, "utf8"),
      catch: (cause) => {
        const isMissing = cause instanceof Error && "code" in cause && cause.code === "ENOENT"
        return new Report.ReportError({
          file: path,
          reason: `cannot be read: ${isMissing ? "no such file" : String(cause)}`
        })
      }
    })
    return yield* Report.fromJson(text, path)
  }
)
