import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { parseHTML } from "linkedom"
import type { Browser as Chromium } from "playwright-core"
import { afterAll, beforeAll } from "vitest"
import * as HtmlReport from "../../src/report/HtmlReport.ts"
import { report } from "../ReportExample.ts"
import * as Browser from "./Browser.ts"
import * as ReportInstances from "./ReportInstances.ts"

/** Leave text, attributes, comments, styles, titles and SVG in every way there is, then try to run. */
const attacks = [
  `<script>globalThis.ran=1</script><img src=x onerror=globalThis.ran=1>"'\`><svg onload=globalThis.ran=1>`,
  `</text></title></style></pre></svg></td></table>--><script>globalThis.ran=1</script>`,
  `" onmouseover="globalThis.ran=1" autofocus onfocus='globalThis.ran=1' x='`,
  `<a href="javascript:globalThis.ran=1">&lt;script&gt;globalThis.ran=1&lt;/script&gt;`
].map((attack) => attack.padEnd(110, "x"))

/** As long, since a plot has as many ticks as its labels leave room for. */
const harmless = "harmless".padEnd(110, "x")

interface Element {
  readonly tagName: string
  readonly attributes: Iterable<{ readonly name: string; readonly value: string }>
  readonly textContent: string
}

const elements = (html: string): ReadonlyArray<Element> =>
  Array.from(parseHTML(html).document.querySelectorAll("*") as Iterable<Element>)

/**
 * Every element with the names of its attributes: what a page is made of, whatever it says. Where a name may break depends
 * on the name, and no attack has a `<wbr>`.
 */
const structure = (html: string): ReadonlyArray<string> =>
  elements(html)
    .map(({ attributes, tagName }) => [tagName.toLowerCase(), ...Array.from(attributes, ({ name }) => name)].join(" "))
    .filter((element) => element !== "wbr")

const texts = (html: string): string =>
  elements(html)
    .flatMap(({ attributes, textContent }) => [textContent, ...Array.from(attributes, ({ value }) => value)])
    .join("\n")

describe("HtmlReport", () => {
  for (const choice of ReportInstances.choices) {
    it(`shows every text of a report (${choice})`, () => {
      const instance = ReportInstances.make((i) => `${"A text too long for a plot. ".repeat(20)}mark${i}end`, choice)
      const marks = ReportInstances.textsOf(instance).flatMap((text) => text.match(/mark\d+end/) ?? [])
      const shown = new Set(Array.from(texts(HtmlReport.render(instance)).matchAll(/mark\d+end/g), ([mark]) => mark))
      assert.isAbove(marks.length, 100)
      assert.deepStrictEqual(
        marks.filter((mark) => !shown.has(mark)),
        []
      )
    })

    it(`parses no text of a report as markup (${choice})`, () => {
      const expected = structure(HtmlReport.render(ReportInstances.make(() => harmless, choice)))
      assert.isAbove(expected.length, 800)
      assert.isFalse(expected.some((element) => /^(script|img|iframe|object|embed|form|link|base)\b| on/.test(element)))
      for (const attack of attacks) {
        assert.deepStrictEqual(structure(HtmlReport.render(ReportInstances.make(() => attack, choice))), expected)
      }
    })
  }

  it("gives the same bytes for the same data", () => {
    assert.strictEqual(HtmlReport.render(structuredClone(report)), HtmlReport.render(report))
  })

  it("has distinct ids, and links that lead to them", () => {
    const all = elements(HtmlReport.render(ReportInstances.make(() => "the same title", "first member")))
    const values = (attribute: string) =>
      all.flatMap(({ attributes }) =>
        Array.from(attributes).flatMap(({ name, value }) => (name === attribute ? [value] : []))
      )
    const ids = values("id")
    assert.strictEqual(new Set(ids).size, ids.length)
    const targets = values("href")
    assert.isAbove(targets.length, 5)
    for (const target of [...targets, ...values("aria-labelledby").map((id) => `#${id}`)]) {
      assert.include(ids, target.slice(1))
    }
  })

  it("spells out characters that hide or reverse text", () => {
    const html = HtmlReport.render(report)
    assert.include(html, "a ⟨U+202E⟩right-to-left⟨U+202C⟩ mark")
    assert.include(html, "and ⟨U+0000⟩a direction mark")
    assert.notMatch(html, /[\u202a-\u202e\0]/)
  })

  it("says the interval in words, and the reason where there is none", () => {
    const html = HtmlReport.render(report)
    // 271 of 1,000: Wilson's interval is 0.2443 to 0.2994.
    assert.include(
      html,
      '<td class="number">0.271</td><td class="number">0.244 to 0.299</td><td class="number">1,000</td>'
    )
    assert.include(html, '<td class="none">no interval: one value</td>')
  })

  it("says that there is no data where there is none", () => {
    const empty = {
      title: "empty",
      provenance: { versions: {}, seeds: {}, commands: [], models: [], datasets: [] }
    }
    const count = (html: string) => html.split('<p class="empty">no data</p>').length - 1
    assert.strictEqual(count(HtmlReport.render({ ...empty, sections: [] })), 6)
    assert.strictEqual(count(HtmlReport.render({ ...empty, sections: [{ title: "s", blocks: [] }] })), 6)
    const axes = { xLabel: "x", yLabel: "y" }
    const html = HtmlReport.render({
      ...empty,
      sections: [
        {
          title: "s",
          blocks: [
            { _tag: "Scores", scores: [] },
            { _tag: "Table", columns: ["a"], rows: [] },
            { _tag: "LearningCurves", ...axes, series: [] },
            { _tag: "LearningCurves", ...axes, series: [{ name: "a", points: [] }] },
            { _tag: "Distribution", xLabel: "x", bins: [], series: [] },
            { _tag: "Forest", xLabel: "x", reference: 0, rows: [] },
            { _tag: "Calibration", series: [] },
            { _tag: "Curve", ...axes, series: [] },
            { _tag: "Samples", systems: [], rows: [] },
            { _tag: "Warnings", items: [] },
            { _tag: "Text", text: " " }
          ]
        }
      ]
    })
    assert.strictEqual(count(html), 5 + 11)
  })

  it("draws a single point, equal values, and more series than there are colours", () => {
    const point = { x: 0, y: 0 }
    const html = HtmlReport.render({
      ...report,
      sections: [
        {
          title: "corners",
          blocks: [
            { _tag: "LearningCurves", xLabel: "x", yLabel: "y", series: [{ name: "one", points: [point] }] },
            {
              _tag: "LearningCurves",
              xLabel: "x",
              yLabel: "y",
              series: Array.from({ length: 20 }, (_, i) => ({ name: String(i), points: [point, { x: 1, y: 0 }] }))
            }
          ]
        }
      ]
    })
    assert.notMatch(html, /NaN|Infinity|undefined/)
    const swatches = Array.from(html.matchAll(/<li>(<svg.*?<\/svg>)<span>/g), ([, svg]) => svg)
    assert.strictEqual(swatches.length, 21)
    assert.strictEqual(new Set(swatches).size, 20)
  })
})

const shots = process.env["ATTUNE_SCREENSHOTS"]

describe.skipIf(Browser.path === undefined)("HtmlReport in a browser", () => {
  let browser: Chromium
  const directory = mkdtempSync(join(tmpdir(), "attune-report-"))
  beforeAll(async () => {
    browser = await Browser.launch()
  })
  afterAll(async () => {
    await browser.close()
    rmSync(directory, { recursive: true, force: true })
  })

  /** Opens the page as a file, without network, and says what it asked for and complained about. */
  const open = async (name: string, html: string, width: number, colorScheme: "light" | "dark") => {
    const path = join(directory, `${name}.html`)
    writeFileSync(path, html)
    const page = await browser.newPage({ viewport: { width, height: 800 }, colorScheme, offline: true })
    const requests: Array<string> = []
    const complaints: Array<string> = []
    page.on("request", (request) => requests.push(request.url()))
    page.on("console", (message) => complaints.push(message.text()))
    page.on("pageerror", (error) => complaints.push(error.message))
    page.on("dialog", (dialog) => complaints.push(dialog.message()))
    await page.goto(pathToFileURL(path).href)
    return { page, requests, complaints, address: pathToFileURL(path).href }
  }

  const contrast = readFileSync(join(import.meta.dirname, "fixtures/page-contrast.js"), "utf8")
  interface Contrast {
    readonly html: number
    readonly svg: number
    readonly faint: ReadonlyArray<string>
  }

  for (const colorScheme of ["light", "dark"] as const) {
    for (const width of [360, 1280]) {
      it(`reads well in ${colorScheme} at ${width} pixels, from the file alone`, async () => {
        const { address, complaints, page, requests } = await open(
          "report",
          HtmlReport.render(report),
          width,
          colorScheme
        )
        assert.deepStrictEqual(requests, [address])
        assert.deepStrictEqual(complaints, [])
        for (const heading of ["Win rates", "Benchmarks", "Gold score of the answers", "Provenance"]) {
          assert.isTrue(await page.getByRole("heading", { name: heading, exact: true }).isVisible(), heading)
        }
        assert.isTrue(await page.getByRole("region", { name: "Benchmarks" }).getByRole("table").isVisible())
        const figures = await page.getByRole("img").all()
        assert.strictEqual(figures.length, 5)
        for (const figure of figures) {
          const box = (await figure.boundingBox())!
          assert.isAbove(box.height, 150)
          assert.isBelow(box.x + box.width, width)
        }
        const isDark = await page.evaluate<boolean>(
          "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((c) => c < 60)"
        )
        assert.strictEqual(isDark, colorScheme === "dark")

        // Closed data tables are text as well.
        await page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        const overflow = await page.evaluate<number>("document.documentElement.scrollWidth - innerWidth")
        assert.isAtMost(overflow, 0)
        const { faint, html, svg } = await page.evaluate<Contrast>(contrast)
        assert.isAbove(html, 300)
        assert.isAbove(svg, 50)
        assert.deepStrictEqual(faint, [])

        await page.evaluate("for (const details of document.querySelectorAll('details')) details.open = false")
        if (shots !== undefined) mkdirSync(shots, { recursive: true })
        const picture = join(shots ?? directory, `report-${colorScheme}-${width}.png`)
        await page.screenshot({ path: picture, fullPage: true })
        await page.close()
      })
    }
  }

  it("prints in light colours within the width of a sheet", async () => {
    const { page } = await open("print", HtmlReport.render(report), 680, "dark")
    await page.emulateMedia({ media: "print", colorScheme: "dark" })
    assert.isAtMost(await page.evaluate<number>("document.documentElement.scrollWidth - innerWidth"), 0)
    const { faint, html } = await page.evaluate<Contrast>(contrast)
    assert.isAbove(html, 100)
    assert.deepStrictEqual(faint, [])
    assert.strictEqual(await page.evaluate<string>("getComputedStyle(document.body).color"), "rgb(22, 25, 29)")
    await page.close()
  })

  for (const [turn, choice] of ReportInstances.choices.entries()) {
    it(`runs nothing of what is in the texts of a report (${choice})`, async () => {
      const tags = "Array.from(document.querySelectorAll(':not(wbr)'), (element) => element.tagName)"
      const render = (text: (i: number) => string) => HtmlReport.render(ReportInstances.make(text, choice))
      const calm = await open(
        "calm",
        render(() => harmless),
        1280,
        "light"
      )
      const attacked = await open(
        "attacked",
        render((i) => attacks[(i + turn) % attacks.length]!),
        1280,
        "light"
      )
      assert.deepStrictEqual(attacked.requests, [attacked.address])
      assert.deepStrictEqual(attacked.complaints, [])
      assert.isTrue(await attacked.page.evaluate("globalThis.ran === undefined"))
      assert.deepStrictEqual(
        await attacked.page.evaluate<ReadonlyArray<string>>(tags),
        await calm.page.evaluate<ReadonlyArray<string>>(tags)
      )
      const active = "script, img, iframe, object, embed, base, link, form, [onerror], [onload], [href^=j i]"
      assert.strictEqual(await attacked.page.evaluate<number>(`document.querySelectorAll("${active}").length`), 0)
      await calm.page.close()
      await attacked.page.close()
    })
  }

  it("would be kept by its policy from running a script that got in", async () => {
    const html = HtmlReport.render(report)
    const script = "<script>globalThis.ran = 1</script><img src='https://example.org/x.png'>"
    const guarded = await open("guarded", html.replace("</body>", `${script}</body>`), 1280, "light")
    assert.isTrue(await guarded.page.evaluate("globalThis.ran === undefined"))
    const refused = guarded.complaints.filter((complaint) => complaint.includes("Content Security Policy"))
    assert.strictEqual(refused.length, 2)
    await guarded.page.close()
  })
})
