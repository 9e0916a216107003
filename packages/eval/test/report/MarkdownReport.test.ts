import { assert, describe, it } from "@effect/vitest"
import * as MarkdownReport from "../../src/report/MarkdownReport.ts"
import { report } from "../ReportExample.ts"
import * as ReportInstances from "./ReportInstances.ts"

/** Lines outside fences, with what a backslash escapes taken out: what is left in them could be markup. */
const outside = (markdown: string): ReadonlyArray<string> => {
  let fence: string | undefined
  return markdown.split("\n").flatMap((line) => {
    const mark = /^(`{3,})/.exec(line)?.[1]
    if (fence === undefined && mark !== undefined) fence = mark
    else if (fence !== undefined && line === fence) fence = undefined
    else if (fence === undefined) return [line.replace(/\\[!-/:-@[-`{-~]/g, "")]
    return []
  })
}

const attack =
  "| a `b` ``` ````` *c* __d__ [e](javascript:f) ![g](h) <script>i</script> <img src=x onerror=j> ~~k~~ $l$ &lt; https://m.example www.n.example o@p.example\n# q\n\n- r\n1. s\n---\n===\n    t"

describe("MarkdownReport", () => {
  it("escapes what would be markup", () => {
    assert.strictEqual(
      MarkdownReport.escape("a|b `c` *d* [e](f) <b> & \\ ~g~ $h$\ni"),
      "a\\|b \\`c\\` \\*d\\* \\[e\\](f) &lt;b&gt; &amp; \\\\ \\~g\\~ \\$h\\$ i"
    )
    assert.strictEqual(MarkdownReport.escape("https://x.y www.z a@b c: d"), "https\\://x.y www\\.z a\\@b c: d")
    assert.strictEqual(MarkdownReport.escape("0.271, −0.5"), "0.271, −0.5")
  })

  for (const choice of ReportInstances.choices) {
    it(`shows every text of a report (${choice})`, () => {
      const instance = ReportInstances.make((i) => `mark${i}end`, choice)
      const marks = ReportInstances.textsOf(instance).filter((text) => text.startsWith("mark"))
      const shown = new Set(Array.from(MarkdownReport.render(instance).matchAll(/mark\d+end/g), ([mark]) => mark))
      assert.isAbove(marks.length, 100)
      assert.deepStrictEqual(
        marks.filter((mark) => !shown.has(mark)),
        []
      )
    })

    it(`takes no text of a report for markup (${choice})`, () => {
      const harmless = outside(MarkdownReport.render(ReportInstances.make(() => "harmless", choice)))
      const attacked = outside(MarkdownReport.render(ReportInstances.make(() => attack, choice)))
      // The same headings, tables and fences, whatever the texts.
      const skeleton = (lines: ReadonlyArray<string>) =>
        lines.map((line) => [/^[#>|-]*/.exec(line)![0], line.split("|").length])
      const paragraphs = (lines: ReadonlyArray<string>) => lines.filter((line) => line !== "" && !/^[#>|]/.test(line))
      assert.deepStrictEqual(
        skeleton(attacked.filter((line) => /^[#>|]/.test(line))),
        skeleton(harmless.filter((line) => /^[#>|]/.test(line)))
      )
      for (const line of attacked) {
        assert.notMatch(line, /[<[\]`$~]/)
        assert.notMatch(line, /&(?!amp;|lt;|gt;)/)
        assert.notMatch(line, /:\/\/|www\.|@/)
      }
      for (const line of paragraphs(attacked)) assert.notMatch(line, /^(#|- |\d+[.)] |---|===| {4}|\t)/)
    })
  }

  it("keeps answers apart from the page, whatever fences they hold", () => {
    const markdown = MarkdownReport.render({
      ...report,
      sections: [
        {
          title: "s",
          blocks: [
            { _tag: "Samples", systems: ["a"], rows: [{ prompt: "p", outputs: [{ text: "x\n````\n# no heading" }] }] }
          ]
        }
      ]
    })
    assert.include(markdown, "`````text\nx\n````\n# no heading\n`````")
    assert.notInclude(outside(markdown), "# no heading")
  })

  it("holds the table with intervals and reasons", () => {
    const markdown = MarkdownReport.render(report)
    assert.include(markdown, "| base | hellaswag | acc\\_norm ↑ | 0.271 | 0.244 to 0.299 | 1,000 | rate, Wilson |")
    assert.include(markdown, "| 12.41 | no interval: one value | 1 |")
    assert.include(markdown, "### Refused answers\n\n*no data*")
    assert.include(markdown, "Band: 95 % interval over 256 rollouts.")
    assert.notMatch(markdown, /NaN|undefined|[\u202a-\u202e\0]/)
  })

  it("gives the same bytes for the same data", () => {
    assert.strictEqual(MarkdownReport.render(structuredClone(report)), MarkdownReport.render(report))
  })
})
