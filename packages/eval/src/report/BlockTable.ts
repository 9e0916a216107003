/**
 * The data of a block as a table of words: what Markdown shows, and what stands behind a plot in HTML.
 *
 * @since 0.1.0
 */
import { VisibleText } from "@attune/core"
import type { Estimate } from "../Estimate.ts"
import * as Report from "../Report.ts"

/**
 * Blocks whose data is a table.
 *
 * @category models
 * @since 0.1.0
 */
export type Tabular = Exclude<Report.Block, { readonly _tag: "Samples" | "Warnings" | "Text" }>

/**
 * A table in words. Columns of numbers are set to the right, those of estimates hold whole ones; `notes` stand below.
 *
 * @category models
 * @since 0.1.0
 */
export interface BlockTable {
  readonly columns: ReadonlyArray<Column>
  readonly rows: ReadonlyArray<ReadonlyArray<string>>
  readonly notes: ReadonlyArray<string>
}

/**
 * What a column holds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Column {
  readonly name: string
  readonly kind: "text" | "number" | "estimate"
}

/** Every k-th point and the last, so that at most `limit` are left. */
const thinned = <A>(points: ReadonlyArray<A>, limit: number): ReadonlyArray<A> => {
  const stride = Math.ceil(points.length / Math.max(1, limit - 1))
  return stride <= 1 ? points : points.filter((_, i) => i % stride === 0 || i === points.length - 1)
}

const column = (name: string, kind: Column["kind"] = "text"): Column => ({ name: VisibleText.line(name), kind })

/** A measured number of a log, with six significant digits. */
const plain = (value: number): string => String(Number(value.toPrecision(6))).replaceAll("-", "−")

const methods = (estimates: ReadonlyArray<Estimate>): ReadonlyArray<string> => {
  const named = new Set(estimates.filter(({ low }) => low !== null).map(({ method }) => VisibleText.line(method)))
  return named.size === 0 ? [] : [`Intervals: ${[...named].join("; ")}.`]
}

/** The one confidence of all intervals, if it is one. */
const sharedConfidence = (estimates: ReadonlyArray<Estimate>): number | undefined => {
  const confidences = new Set(estimates.filter(({ low }) => low !== null).map(({ confidence }) => confidence))
  const [only] = confidences
  return confidences.size === 1 ? only : undefined
}

/** Columns "what", "95 % interval", "n" of estimates, with the same digits in all rows. */
const estimated = (name: string, estimates: ReadonlyArray<Estimate>) => {
  const digits = Report.digitsFor(estimates)
  const shared = sharedConfidence(estimates)
  return {
    columns: [
      column(name, "number"),
      column(shared === undefined ? "Interval" : `${Report.percent(shared)} interval`, "number"),
      column("n", "number")
    ],
    cells: (estimate: Estimate): ReadonlyArray<string> => {
      const { hasInterval, interval, n, value } = Report.words(estimate, digits)
      return [
        value,
        hasInterval && shared === undefined ? `${interval} (${Report.percent(estimate.confidence)})` : interval,
        n
      ]
    }
  }
}

const isEstimate = (cell: Report.Cell): cell is Estimate => typeof cell === "object" && "value" in cell

const table = ({ columns, rows }: Extract<Tabular, { _tag: "Table" }>): BlockTable => {
  const cells = (c: number) => rows.map((row) => row[c]!)
  const digits = columns.map((_, c) => Report.digitsFor(cells(c).filter(isEstimate)))
  const estimates = rows.flat().filter(isEstimate)
  const shared = sharedConfidence(estimates)
  // A confidence that all intervals share stands below the table, for what is said in every cell is read in none.
  const shown = (estimate: Estimate, digits: number): string => {
    if (shared === undefined) return Report.sentence(estimate, digits)
    const { interval, n, value } = Report.words(estimate, digits)
    return `${value} (${interval}; n = ${n})`
  }
  const isCount = (cell: Report.Cell): boolean => typeof cell === "object" && !isEstimate(cell)
  return {
    columns: columns.map((name, c) =>
      column(
        name,
        cells(c).some(isEstimate) ? "estimate" : rows.length > 0 && cells(c).every(isCount) ? "number" : "text"
      )
    ),
    rows: rows.map((row) =>
      row.map((cell, c) =>
        typeof cell === "string"
          ? VisibleText.line(cell)
          : isEstimate(cell)
            ? shown(cell, digits[c]!)
            : Report.count(cell.count)
      )
    ),
    notes: [
      ...(shared === undefined ? [] : [`In brackets: ${Report.percent(shared)} intervals, n.`]),
      ...methods(estimates)
    ]
  }
}

const learningCurves = (
  { band, series, xLabel, yLabel }: Extract<Tabular, { _tag: "LearningCurves" }>,
  most: number
): BlockTable => {
  const hasBand = series.some(({ points }) => points.some(({ low }) => low !== undefined))
  const limit = Math.max(2, Math.floor(most / Math.max(1, series.length)))
  const isThinned = series.some(({ points }) => points.length > limit)
  return {
    columns: [
      column("Series"),
      column(xLabel, "number"),
      column(yLabel, "number"),
      ...(hasBand ? [column("Band", "number")] : [])
    ],
    rows: series.flatMap(({ name, points }) =>
      (isThinned ? thinned(points, limit) : points).map(({ high, low, x, y }) => [
        VisibleText.line(name),
        plain(x),
        plain(y),
        ...(hasBand ? [low === undefined || high === undefined ? "none" : `${plain(low)} to ${plain(high)}`] : [])
      ])
    ),
    notes: [
      ...(band === undefined ? [] : [`Band: ${VisibleText.line(band)}.`]),
      ...(isThinned ? ["Points at equal distances; report.json holds all of them."] : [])
    ]
  }
}

const distribution = ({ bins, series, xLabel }: Extract<Tabular, { _tag: "Distribution" }>): BlockTable => ({
  columns: [column(xLabel), ...series.map(({ name }) => column(name, "number"))],
  rows:
    series.length === 0
      ? []
      : [
          ...bins.map(({ from, to }, i) => [
            `${plain(from)} to ${plain(to)}`,
            ...series.map(({ counts }) => Report.count(counts[i]!))
          ]),
          ...(bins.length === 0
            ? []
            : [["all", ...series.map(({ counts }) => Report.count(counts.reduce((sum, c) => sum + c, 0)))]])
        ],
  notes: ["Counts per bin; a bin holds its lower border, the last one both."]
})

const forest = ({ favours, reference, rows, xLabel }: Extract<Tabular, { _tag: "Forest" }>): BlockTable => {
  const { cells, columns } = estimated(
    xLabel,
    rows.map(({ estimate }) => estimate)
  )
  const sides =
    favours === undefined
      ? ""
      : ` Below it: ${VisibleText.line(favours.below)}. Above it: ${VisibleText.line(favours.above)}.`
  return {
    columns: [column("Comparison"), ...columns],
    rows: rows.map(({ estimate, label }) => [VisibleText.line(label), ...cells(estimate)]),
    notes: [`Reference: ${plain(reference)}.${sides}`, ...methods(rows.map(({ estimate }) => estimate))]
  }
}

const calibration = ({ series }: Extract<Tabular, { _tag: "Calibration" }>): BlockTable => {
  const all = series.flatMap(({ bins }) => bins.map(({ observed }) => observed))
  const { cells, columns } = estimated("Observed", all)
  return {
    columns: [column("System"), column("Predicted", "number"), ...columns],
    rows: series.flatMap(({ bins, name }) =>
      bins.map(({ observed, predicted }) => [VisibleText.line(name), predicted.toFixed(3), ...cells(observed)])
    ),
    notes: methods(all)
  }
}

const curve = ({ series, xLabel, yLabel }: Extract<Tabular, { _tag: "Curve" }>): BlockTable => {
  const points = series.flatMap(({ points }) => points)
  const xs = points.flatMap(({ x }) => (typeof x === "number" ? [] : [x]))
  const ys = points.map(({ y }) => y)
  const ofX = estimated(xLabel, xs)
  const ofY = estimated(yLabel, ys)
  const hasLabels = points.some(({ label }) => label !== undefined)
  return {
    columns: [
      column("Series"),
      ...(hasLabels ? [column("Point")] : []),
      ...(xs.length > 0 ? ofX.columns : [column(xLabel, "number")]),
      ...ofY.columns
    ],
    rows: series.flatMap(({ name, points }) =>
      points.map(({ label, x, y }) => [
        VisibleText.line(name),
        ...(hasLabels ? [VisibleText.line(label ?? "")] : []),
        ...(typeof x === "number" ? (xs.length > 0 ? [plain(x), "exact", ""] : [plain(x)]) : ofX.cells(x)),
        ...ofY.cells(y)
      ])
    ),
    notes: methods([...xs, ...ys])
  }
}

/**
 * The data of the block in words. Of learning curves about `most` points are shown, at equal distances: a run of a million
 * steps is a picture and a file, not a table.
 *
 * @category formatting
 * @since 0.1.0
 */
export const make = (block: Tabular, most = 200): BlockTable => {
  switch (block._tag) {
    case "Scores": {
      const { columns, rows } = Report.scoreTable(block.scores)
      return {
        columns: columns.map((name) =>
          column(name, ["Value", "n"].includes(name) || name.endsWith("nterval") ? "number" : "text")
        ),
        rows,
        notes: rows.length === 0 ? [] : ["↑ higher is better, ↓ lower is better."]
      }
    }
    case "Table":
      return table(block)
    case "LearningCurves":
      return learningCurves(block, most)
    case "Distribution":
      return distribution(block)
    case "Forest":
      return forest(block)
    case "Calibration":
      return calibration(block)
    case "Curve":
      return curve(block)
  }
}
