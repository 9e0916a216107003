/**
 * A report as one HTML file without scripts, pictures or fonts from elsewhere: it looks the same from a disk, a mail or a
 * server, in light and dark, on a phone and on paper.
 *
 * @since 0.1.0
 */
import { VisibleText } from "@attune/core"

import * as Report from "../Report.ts"
import * as BlockTable from "./BlockTable.ts"
import { html, type Markup, nothing, type Part, trusted } from "./Markup.ts"
import * as Plot from "./Plot.ts"

const light = `
  --surface: #ffffff; --page: #f6f7f9; --ink: #16191d; --muted: #555d68; --rule: #d5dae0; --grid: #e4e8ec;
  --link: #0b57c0; --quiet: #f1f3f6; --alert: #8a4b00; --alert-surface: #fff6e5; --alert-rule: #d98e1f;
  --series-1: #1b62c4; --series-2: #b45309; --series-3: #00796b; --series-4: #a3267b;
  --series-5: #6a3fb5; --series-6: #7a6200; --series-7: #b3261e; --series-8: #5b6673;`

const dark = `
  --surface: #181b20; --page: #101216; --ink: #e7eaee; --muted: #a5aeb9; --rule: #343b45; --grid: #2b313a;
  --link: #8ab8ff; --quiet: #20242b; --alert: #ffd28a; --alert-surface: #2a2213; --alert-rule: #b97a1b;
  --series-1: #7db2ff; --series-2: #ffab4d; --series-3: #4fd1b5; --series-4: #f58fc7;
  --series-5: #c3a6ff; --series-6: #e3c84b; --series-7: #ff8a80; --series-8: #b5bfca;`

const style = `
:root {${light}
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {${dark}
  }
}
@media print {
  :root {${light}
    color-scheme: light;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { margin-bottom: 1.75rem; }
h1, h2, h3, h4 { line-height: 1.25; margin: 0; text-wrap: balance; }
h1 { font-size: 1.9rem; letter-spacing: -0.01em; }
h2 { font-size: 1.4rem; margin: 3rem 0 0.75rem; padding-bottom: 0.4rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1.05rem; }
h4 { font-size: 0.9rem; }
p { margin: 0.5rem 0; max-width: 46rem; }
a { color: var(--link); text-underline-offset: 0.15em; }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.subtitle { font-size: 1.1rem; color: var(--muted); }
.muted, .caption, .notes { color: var(--muted); }
.caption { margin: 0.2rem 0 0; font-size: 0.95rem; }
.notes { margin: 0.5rem 0 0; font-size: 0.85rem; max-width: none; }
nav { background: var(--surface); border: 1px solid var(--rule); border-radius: 8px; padding: 0.9rem 1.25rem; }
nav h2 { font-size: 1rem; margin: 0 0 0.4rem; padding: 0; border: 0; }
nav ol { margin: 0; padding-left: 1.4rem; columns: 17rem auto; column-gap: 2rem; }
nav ul { margin: 0 0 0.3rem; padding-left: 1rem; list-style: none; font-size: 0.92rem; }
nav li { margin: 0.15rem 0; }
nav ol > li { break-inside: avoid; }
figure, .block {
  margin: 1.25rem 0; padding: 1.1rem 1.25rem; background: var(--surface); border: 1px solid var(--rule);
  border-radius: 8px; min-width: 0;
}
figcaption { margin-bottom: 0.8rem; }
.prose { background: none; border: 0; padding: 0; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.92rem; min-width: 100%; overflow-wrap: normal; }
th, td { padding: 0.42rem 0.75rem; text-align: left; vertical-align: top; unicode-bidi: isolate; max-width: 26rem; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { border-bottom: 1.5px solid var(--muted); font-weight: 600; vertical-align: bottom; }
thead .number, thead .estimate { white-space: normal; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tbody th { font-weight: 600; }
tbody th { min-width: 9rem; }
td.text, td.mono { min-width: 7.5rem; }
td.mono { overflow-wrap: anywhere; max-width: none; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.estimate { font-variant-numeric: tabular-nums; min-width: 6rem; }
.estimate span { white-space: nowrap; }
td.none { color: var(--muted); font-style: italic; white-space: normal; min-width: 9rem; }
.empty { color: var(--muted); font-style: italic; }
.plot { display: block; width: 100%; height: auto; color: var(--muted); font-family: inherit; }
.plot text { white-space: pre; }
.picture { max-width: 860px; }
.picture .narrow { display: none; }
.square .plot { max-width: 420px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0.3rem 1.25rem; margin: 0 0 0.6rem; padding: 0; font-size: 0.9rem; }
.legend li { display: flex; align-items: center; gap: 0.5rem; min-width: 0; }
.legend .plot { width: 40px; flex: none; }
details { margin-top: 0.8rem; font-size: 0.92rem; }
summary { cursor: pointer; color: var(--link); width: fit-content; }
details[open] summary { margin-bottom: 0.6rem; }
.alert { background: var(--alert-surface); border-color: var(--alert-rule); border-left-width: 5px; }
.alert h3 { color: var(--alert); }
.alert ul { margin: 0.4rem 0 0; padding-left: 1.2rem; }
.sample { border-top: 1px solid var(--rule); padding: 1.1rem 0; }
.sample:first-of-type { border-top: 0; padding-top: 0; }
.sample:last-of-type { padding-bottom: 0; }
.block > h3 { margin-bottom: 0.5rem; }
.outputs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 0.75rem; margin-top: 0.75rem; }
.output { border: 1px solid var(--rule); border-radius: 6px; padding: 0.7rem 0.8rem; min-width: 0; }
pre, code, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.85rem; }
pre { margin: 0.4rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; tab-size: 4; unicode-bidi: plaintext; }
.prompt { background: var(--quiet); border-radius: 6px; padding: 0.6rem 0.8rem; }
.scores { margin: 0.6rem 0 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.note { margin: 0.5rem 0 0; font-size: 0.88rem; color: var(--muted); }
.label { font-size: 0.8rem; color: var(--muted); }
footer { margin-top: 3rem; color: var(--muted); font-size: 0.85rem; }
@media (max-width: 640px) {
  main { padding: 1.25rem 0.9rem 3rem; }
  h1 { font-size: 1.5rem; }
  h2 { font-size: 1.25rem; margin-top: 2.25rem; }
  figure, .block { padding: 0.9rem; }
  .prose { padding: 0; }
  tbody th { min-width: 7.5rem; }
  .picture .wide { display: none; }
  .picture .narrow { display: block; }
}
@media print {
  body { background: none; font-size: 11pt; }
  main { max-width: none; padding: 0; }
  figure, .block, .sample, tr { break-inside: avoid; }
  h2, h3, figcaption { break-after: avoid; }
  nav, details:not([open]) { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td, tbody th, td.text, td.mono, td.none { padding: 0.25rem 0.4rem; min-width: 0; white-space: normal; }
  td.mono { min-width: 4rem; font-size: 8pt; }
  .outputs { grid-template-columns: repeat(auto-fit, minmax(min(100%, 12rem), 1fr)); }
  a { color: inherit; text-decoration: none; }
}
`

const paragraphs = (text: string): ReadonlyArray<Markup> =>
  VisibleText.show(text)
    .split(/\n\s*\n/)
    .filter((paragraph) => paragraph.trim() !== "")
    .map((paragraph) => html`<p>${paragraph.trim()}</p>\n`)

const noData = html`<p class="empty">no data</p>`

/** `ids` end up in links and attributes, hence letters, digits and hyphens only. */
const slug = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 40)
    .replace(/^-+|-+$/g, "")

const sectionId = (title: string, s: number): string => `s${s + 1}${slug(title) === "" ? "" : `-${slug(title)}`}`
const blockId = (s: number, b: number): string => `s${s + 1}-b${b + 1}`

const kinds: Readonly<Record<Report.Block["_tag"], string>> = {
  Scores: "Scores",
  Table: "Table",
  LearningCurves: "Learning curves",
  Distribution: "Distribution",
  Forest: "Forest plot",
  Calibration: "Calibration",
  Curve: "Curve",
  Samples: "Samples",
  Warnings: "Warnings",
  Text: "Text"
}

/** Names of tasks and metrics are long, and have no spaces at which a narrow column could break them. */
const breakable = (text: string): Part =>
  text
    .split(/(?<=[_,/])(?=[a-z])/i)
    .flatMap((piece, i): ReadonlyArray<Part> => (i === 0 ? [piece] : [wordBreak, piece]))

const wordBreak = html`<wbr>`

/** The interval stays in one piece, below its value where there is no room beside it. */
const estimate = (text: string): Part => {
  const at = text.indexOf(" (")
  return at < 0 || text.includes("no interval") ? text : html`${text.slice(0, at)} <span>${text.slice(at + 1)}</span>`
}

const table = ({ columns, notes, rows }: BlockTable.BlockTable, name: string): Markup => {
  if (rows.length === 0) return noData
  const cell = (text: string, c: number): Markup => {
    const kind = text.startsWith("no interval") ? "none" : columns[c]!.kind
    const part = kind === "estimate" ? estimate(text) : kind === "text" ? breakable(text) : text
    return c === 0 && kind === "text" ? html`<th scope="row">${part}</th>` : html`<td class="${kind}">${part}</td>`
  }
  const heads = columns.map(({ kind, name }) => html`<th scope="col" class="${kind}">${name}</th>`)
  return html`<div class="scroll" role="region" aria-label="${name}" tabindex="0"><table>
<thead><tr>${heads}</tr></thead>
<tbody>
${rows.map((row) => html`<tr>${row.map(cell)}</tr>\n`)}</tbody>
</table></div>${notes.length === 0 ? nothing : html`<p class="notes">${notes.join(" ")}</p>`}`
}

const wide = 720
const narrow = 330

const plot = (block: Plot.Plotted): Markup => {
  if (Plot.isEmpty(block)) return noData
  const data = BlockTable.make(block)
  const names = Plot.legend(block)
  const picture = (width: number): Markup => trusted(Plot.svg(block, width))
  const pictures = html`<div class="wide">${picture(wide)}</div><div class="narrow">${picture(narrow)}</div>`
  const entries = names.map((name, i) => html`<li>${trusted(Plot.swatch(i))}<span>${name}</span></li>`)
  return html`${names.length === 0 ? nothing : html`<ul class="legend">${entries}</ul>\n`}<div class="picture${block._tag === "Calibration" ? " square" : ""}" role="img" aria-label="${Plot.description(block)}">${pictures}</div>
${block._tag === "LearningCurves" && block.band !== undefined ? html`<p class="notes">Band: ${block.band}</p>\n` : nothing}<details><summary>Data</summary>${table(data, "Data of the plot")}</details>`
}

const samples = ({ rows, systems }: Extract<Report.Block, { _tag: "Samples" }>): Markup => {
  if (rows.length === 0) return noData
  const shown = (value: number): string => String(Number(value.toPrecision(6))).replace("-", "−")
  return html`${rows.map(
    ({ id, outputs, prompt }) => html`<article class="sample">
<div class="prompt"><div class="label">Prompt${id === undefined ? nothing : html` <span class="mono">${id}</span>`}</div><pre dir="auto">${prompt}</pre></div>
<div class="outputs">${outputs.map(
      ({ note, scores, text }, i) =>
        html`<section class="output"><h4>${systems[i]!}</h4>${
          text === "" ? html`<p class="empty">empty answer</p>` : html`<pre dir="auto">${text}</pre>`
        }${
          scores === undefined || scores.length === 0
            ? nothing
            : html`<ul class="scores">${scores.map(
                ({ metric, value }) => html`<li><span class="muted">${metric}</span> ${shown(value)}</li>`
              )}</ul>`
        }${note === undefined ? nothing : html`<p class="note">${note}</p>`}</section>`
    )}</div>
</article>\n`
  )}`
}

const content = (block: Report.Block): Part => {
  switch (block._tag) {
    case "Scores":
    case "Table":
      return table(BlockTable.make(block), block.title ?? kinds[block._tag])
    case "Samples":
      return samples(block)
    case "Warnings":
      return block.items.length === 0 ? noData : html`<ul>${block.items.map((item) => html`<li>${item}</li>`)}</ul>`
    case "Text":
      return block.text.trim() === "" ? noData : paragraphs(block.text)
    default:
      return plot(block)
  }
}

const block = (block: Report.Block, id: string): Markup => {
  const title = block._tag === "Warnings" ? (block.title ?? "Warnings") : block.title
  const caption = block.caption === undefined ? nothing : html`<p class="caption">${block.caption}</p>`
  const heading = title === undefined ? nothing : html`<h3>${title}</h3>`
  const head = html`${heading}${caption}`
  if (block._tag === "Text") return html`<div class="block prose" id="${id}">${head}${content(block)}</div>\n`
  if (block._tag === "Warnings") {
    return html`<div class="block alert" id="${id}" role="note">${head}${content(block)}</div>\n`
  }
  return html`<figure id="${id}">${head.html === "" ? nothing : html`<figcaption>${head}</figcaption>\n`}${content(block)}</figure>\n`
}

const section = (
  { blocks, text, title }: typeof Report.Section.Type,
  s: number
): Markup => html`<section aria-labelledby="${sectionId(title, s)}">
<h2 id="${sectionId(title, s)}">${title}</h2>
${text === undefined ? nothing : paragraphs(text)}${
  blocks.length === 0 && (text ?? "").trim() === "" ? noData : blocks.map((each, b) => block(each, blockId(s, b)))
}</section>
`

const provenance = ({ commands, datasets, models, seeds, versions }: typeof Report.Provenance.Type): Markup => {
  const grid = (title: string, columns: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): Markup =>
    rows.length === 0
      ? html`<div class="block"><h3>${title}</h3>${noData}</div>\n`
      : html`<div class="block"><h3>${title}</h3><div class="scroll" role="region" aria-label="${title}" tabindex="0"><table>
<thead><tr>${columns.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
<tbody>${rows.map(
          ([first, ...rest]) =>
            html`<tr><th scope="row">${first!}</th>${rest.map((cell) => html`<td class="mono">${cell}</td>`)}</tr>\n`
        )}</tbody></table></div></div>\n`
  return html`<section aria-labelledby="provenance">
<h2 id="provenance">Provenance</h2>
${grid(
  "Models",
  ["Model", "Source", "SHA-256"],
  models.map(({ name, sha256, source }) => [name, source, sha256 ?? "not given"])
)}${grid(
  "Data sets",
  ["Data set", "Items", "SHA-256"],
  datasets.map(({ items, name, sha256 }) => [name, items === undefined ? "not given" : Report.count(items), sha256])
)}${grid(
  "Seeds",
  ["What", "Seed"],
  Object.entries(seeds).map(([name, seed]) => [name, String(seed)])
)}${grid("Versions", ["Program", "Version"], Object.entries(versions))}<div class="block"><h3>Commands</h3>${
    commands.length === 0 ? noData : commands.map((command) => html`<pre>${command}</pre>`)
  }</div>
</section>
`
}

const contents = (sections: Report.Report["sections"]): Markup => html`<nav aria-labelledby="contents">
<h2 id="contents">Contents</h2>
<ol>
${sections.map(({ blocks, title }, s) => {
  const titled = blocks.flatMap(({ title }, b) =>
    title === undefined ? [] : [html`<li><a href="#${blockId(s, b)}">${title}</a></li>`]
  )
  return html`<li><a href="#${sectionId(title, s)}">${title}</a>${titled.length === 0 ? nothing : html`<ul>${titled}</ul>`}</li>\n`
})}<li><a href="#provenance">Provenance</a></li>
</ol>
</nav>
`

/**
 * The report as the text of an HTML file.
 *
 * **Details**
 *
 * Every text of the report is escaped, invisible characters are spelled out, and the page forbids itself scripts and the
 * network by its content security policy. Plots are drawn twice, for wide and for narrow screens. The same report gives the
 * same bytes.
 *
 * @category encoding
 * @since 0.1.0
 */
export const render = (report: Report.Report): string =>
  html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${report.title}</title>
<style>${trusted(style)}</style>
</head>
<body>
<main>
<header>
<h1>${report.title}</h1>
${report.subtitle === undefined ? nothing : html`<p class="subtitle">${report.subtitle}</p>\n`}${
  report.created === undefined ? nothing : html`<p class="muted">${report.created}</p>\n`
}</header>
${contents(report.sections)}${report.sections.length === 0 ? noData : report.sections.map(section)}${provenance(report.provenance)}<footer>Intervals are those named beside the numbers; where there is none, the reason stands in its place. The same data: report.md, report.json.</footer>
</main>
</body>
</html>
`.html
