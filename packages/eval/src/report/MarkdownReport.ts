/**
 * A report as GitHub-flavoured Markdown. Plots are shown as the tables of their data.
 *
 * @since 0.1.0
 */
import { VisibleText } from "@attune/core"

import * as Report from "../Report.ts"
import * as BlockTable from "./BlockTable.ts"

const entities: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;" }

/**
 * Text for one line of Markdown in which nothing of it is markup: no emphasis, code, link, table border, mathematics,
 * HTML or automatic link. Line feeds become spaces.
 *
 * @category encoding
 * @since 0.1.0
 */
export const escape = (text: string): string =>
  VisibleText.line(text)
    .replace(/[\\`*_[\]|~$]/g, "\\$&")
    .replace(/[&<>]/g, (character) => entities[character]!)
    .replace(/:(?=\/\/)|(?<=\bwww)\.|@/gi, "\\$&")

/** {@link escape} where a line starts: nothing of it begins a heading, a list, a rule or an underline. */
const paragraph = (text: string): string =>
  escape(text).replace(/^(\d+)([.)])|^[#+\-=]/, (all, digits?: string, mark?: string) =>
    digits === undefined ? `\\${all}` : `${digits}\\${mark}`
  )

/** A fence longer than any run of its character inside keeps everything inside it. */
const fenced = (text: string): string => {
  const shown = VisibleText.show(text)
  const longest = Math.max(2, ...Array.from(shown.matchAll(/`+/g), ([run]) => run.length))
  const fence = "`".repeat(longest + 1)
  return `${fence}text\n${shown}\n${fence}`
}

const noData = "*no data*"

const table = (columns: BlockTable.BlockTable["columns"], rows: BlockTable.BlockTable["rows"]): string => {
  if (rows.length === 0) return noData
  const row = (cells: ReadonlyArray<string>): string => `| ${cells.map(escape).join(" | ")} |`
  return [
    row(columns.map(({ name }) => name)),
    `| ${columns.map(({ kind }) => (kind === "number" ? "---:" : "---")).join(" | ")} |`,
    ...rows.map(row)
  ].join("\n")
}

const paragraphs = (text: string): ReadonlyArray<string> =>
  VisibleText.show(text)
    .split(/\n\s*\n/)
    .map(paragraph)
    .filter((text) => text !== "")

const data = (block: BlockTable.Tabular): ReadonlyArray<string> => {
  const { columns, notes, rows } = BlockTable.make(block, 60)
  return [table(columns, rows), ...(rows.length === 0 || notes.length === 0 ? [] : [paragraph(notes.join(" "))])]
}

const samples = ({ rows, systems }: Extract<Report.Block, { _tag: "Samples" }>): ReadonlyArray<string> =>
  rows.flatMap(({ id, outputs, prompt }, i) => [
    `#### Sample ${i + 1}${id === undefined ? "" : `: ${escape(id)}`}`,
    "Prompt:",
    fenced(prompt),
    ...outputs.flatMap(({ note, scores, text }, s) => [
      `**${escape(systems[s]!)}**${(scores ?? [])
        .map(({ metric, value }) => `, ${escape(metric)} ${escape(String(Number(value.toPrecision(6))))}`)
        .join("")}:`,
      text === "" ? "*empty answer*" : fenced(text),
      ...(note === undefined ? [] : [paragraph(note)])
    ])
  ])

const content = (block: Report.Block): ReadonlyArray<string> => {
  switch (block._tag) {
    case "Samples":
      return samples(block)
    case "Warnings":
      return block.items.length === 0 ? [] : [block.items.map((item) => `> - ${paragraph(item)}`).join("\n")]
    case "Text":
      return paragraphs(block.text)
    default:
      return data(block)
  }
}

const block = (block: Report.Block): ReadonlyArray<string> => {
  const title = block.title ?? (block._tag === "Warnings" ? "Warnings" : undefined)
  const parts = content(block)
  return [
    ...(title === undefined ? [] : [`### ${escape(title)}`]),
    ...(block.caption === undefined ? [] : [paragraph(block.caption)]),
    ...(parts.length === 0 ? [noData] : parts)
  ]
}

const section = ({ blocks, text, title }: typeof Report.Section.Type): ReadonlyArray<string> => {
  const parts = [...(text === undefined ? [] : paragraphs(text)), ...blocks.flatMap(block)]
  return [`## ${escape(title)}`, ...(parts.length === 0 ? [noData] : parts)]
}

const provenance = ({ commands, datasets, models, seeds, versions }: typeof Report.Provenance.Type) => {
  const grid = (names: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
    table(
      names.map((name) => ({ name, kind: "text" })),
      rows
    )
  return [
    "## Provenance",
    "### Models",
    grid(
      ["Model", "Source", "SHA-256"],
      models.map(({ name, sha256, source }) => [name, source, sha256 ?? "not given"])
    ),
    "### Data sets",
    grid(
      ["Data set", "Items", "SHA-256"],
      datasets.map(({ items, name, sha256 }) => [name, items === undefined ? "not given" : Report.count(items), sha256])
    ),
    "### Seeds",
    grid(
      ["What", "Seed"],
      Object.entries(seeds).map(([name, seed]) => [name, String(seed)])
    ),
    "### Versions",
    grid(["Program", "Version"], Object.entries(versions)),
    "### Commands",
    commands.length === 0 ? noData : fenced(commands.join("\n"))
  ]
}

/**
 * The report as the text of a Markdown file. The same report gives the same bytes.
 *
 * @category encoding
 * @since 0.1.0
 */
export const render = (report: Report.Report): string => {
  const parts = [
    `# ${escape(report.title)}`,
    ...(report.subtitle === undefined ? [] : [paragraph(report.subtitle)]),
    ...(report.created === undefined ? [] : [paragraph(report.created)]),
    ...(report.sections.length === 0 ? [noData] : report.sections.flatMap(section)),
    ...provenance(report.provenance)
  ]
  return `${parts.join("\n\n")}\n`
}
