/**
 * Reports as data: sections of tables, plots and samples, each number with what is needed to believe it.
 *
 * A report is a value that its Schema checks; `HtmlReport` and `MarkdownReport` show the same value, `ReportFile` writes
 * all forms. Texts are plain text: whatever they hold, no renderer takes it for markup. There is no clock in it, so the
 * same measurements give the same bytes.
 *
 * @since 0.1.0
 */
import { VisibleText } from "@attune/core"
import { Effect, Schema, SchemaIssue } from "effect"
import { Estimate } from "./Estimate.ts"
import type { Sample } from "./Sample.ts"

const titled = {
  title: Schema.optionalKey(Schema.String),
  /** A sentence under the title: what is shown and how to read it. */
  caption: Schema.optionalKey(Schema.String)
}

/**
 * A score as it stands in a report: a `Score` without the values that it was made of.
 *
 * @category schemas
 * @since 0.1.0
 */
export const ScoreRow = Schema.Struct({
  system: Schema.String,
  task: Schema.String,
  metric: Schema.String,
  unit: Schema.String,
  higherIsBetter: Schema.Boolean,
  estimate: Estimate
})

/**
 * @see {@link ScoreRow}
 * @category models
 * @since 0.1.0
 */
export type ScoreRow = typeof ScoreRow.Type

/**
 * Scores, one per row.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Scores = Schema.TaggedStruct("Scores", { ...titled, scores: Schema.Array(ScoreRow) })

/**
 * A cell of a table: text, an estimate, or how many of something there are. A measured number without the number of values
 * that it rests on has no place in a table.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Cell = Schema.Union([Schema.String, Estimate, Schema.Struct({ count: Schema.Int })])

/**
 * @see {@link Cell}
 * @category models
 * @since 0.1.0
 */
export type Cell = typeof Cell.Type

/**
 * A table with columns of any kind.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Table = Schema.TaggedStruct("Table", {
  ...titled,
  columns: Schema.Array(Schema.String),
  rows: Schema.Array(Schema.Array(Cell))
}).check(
  Schema.makeFilter(({ columns, rows }) => {
    const at = rows.findIndex((row) => row.length !== columns.length)
    return at === -1 || { path: ["rows", at], issue: `has ${rows[at]!.length} cells for ${columns.length} columns` }
  })
)

/**
 * A point of a learning curve; `low` and `high` bound a band around `y`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const CurvePoint = Schema.Struct({
  x: Schema.Finite,
  y: Schema.Finite,
  low: Schema.optionalKey(Schema.Finite),
  high: Schema.optionalKey(Schema.Finite)
})

/**
 * Lines over training: a loss, a reward, the KL. `band` says what the bands are ("95 % interval, n = 256"), and has to
 * where there are any.
 *
 * @category schemas
 * @since 0.1.0
 */
export const LearningCurves = Schema.TaggedStruct("LearningCurves", {
  ...titled,
  xLabel: Schema.String,
  yLabel: Schema.String,
  band: Schema.optionalKey(Schema.String),
  series: Schema.Array(Schema.Struct({ name: Schema.String, points: Schema.Array(CurvePoint) }))
}).check(
  Schema.makeFilter(({ band, series }) => {
    const points = series.flatMap(({ points }) => points)
    if (points.some(({ high, low }) => (low === undefined) !== (high === undefined))) {
      return { path: ["series"], issue: "a point has one bound of its band; give both or none" }
    }
    return (
      band !== undefined ||
      points.every(({ low }) => low === undefined) || { path: ["band"], issue: "is missing; say what the bands are" }
    )
  })
)

/**
 * How values of several systems spread, counted in the same bins: `from <= value < to`, the last bin with its end.
 *
 * @see {@link distribution} for counting them
 * @category schemas
 * @since 0.1.0
 */
export const Distribution = Schema.TaggedStruct("Distribution", {
  ...titled,
  xLabel: Schema.String,
  bins: Schema.Array(Schema.Struct({ from: Schema.Finite, to: Schema.Finite })),
  /** `counts` has one entry per bin. */
  series: Schema.Array(Schema.Struct({ name: Schema.String, counts: Schema.Array(Schema.Int) }))
}).check(
  Schema.makeFilter(({ bins, series }) => {
    const at = series.findIndex(({ counts }) => counts.length !== bins.length)
    const wrong = bins.findIndex(({ from, to }) => !(from < to))
    if (wrong !== -1) return { path: ["bins", wrong], issue: "has no width; `from` must be less than `to`" }
    return (
      at === -1 || { path: ["series", at], issue: `has ${series[at]!.counts.length} counts for ${bins.length} bins` }
    )
  })
)

/**
 * Estimates below each other with their intervals and the value of no difference: 0.5 for win rates, 0 for differences.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Forest = Schema.TaggedStruct("Forest", {
  ...titled,
  xLabel: Schema.String,
  reference: Schema.Finite,
  /** What values below and above the reference speak for. */
  favours: Schema.optionalKey(Schema.Struct({ below: Schema.String, above: Schema.String })),
  rows: Schema.Array(Schema.Struct({ label: Schema.String, estimate: Estimate }))
})

/**
 * How often what was predicted with a probability came true, per bin; perfect calibration is the diagonal.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Calibration = Schema.TaggedStruct("Calibration", {
  ...titled,
  series: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      /** `predicted` is the mean predicted probability of the bin. */
      bins: Schema.Array(
        Schema.Struct({
          predicted: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })),
          observed: Estimate
        })
      )
    })
  )
})

/**
 * One quantity against another, joined in the order given: reward against KL, for instance, which bends down where a
 * reward model is over-optimised. A plain `x` is a number that is known exactly (a step, the KL of best-of-n).
 *
 * @category schemas
 * @since 0.1.0
 */
export const Curve = Schema.TaggedStruct("Curve", {
  ...titled,
  xLabel: Schema.String,
  yLabel: Schema.String,
  series: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      points: Schema.Array(
        Schema.Struct({
          x: Schema.Union([Schema.Finite, Estimate]),
          y: Estimate,
          label: Schema.optionalKey(Schema.String)
        })
      )
    })
  )
})

/**
 * Prompts with what each system answered. `scores` are the values of this one answer; they estimate nothing.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Samples = Schema.TaggedStruct("Samples", {
  ...titled,
  systems: Schema.Array(Schema.String),
  rows: Schema.Array(
    Schema.Struct({
      id: Schema.optionalKey(Schema.String),
      prompt: Schema.String,
      /** One per system, in their order. */
      outputs: Schema.Array(
        Schema.Struct({
          text: Schema.String,
          scores: Schema.optionalKey(Schema.Array(Schema.Struct({ metric: Schema.String, value: Schema.Finite }))),
          note: Schema.optionalKey(Schema.String)
        })
      )
    })
  )
}).check(
  Schema.makeFilter(({ rows, systems }) => {
    const at = rows.findIndex(({ outputs }) => outputs.length !== systems.length)
    return (
      at === -1 || {
        path: ["rows", at],
        issue: `has ${rows[at]!.outputs.length} outputs for ${systems.length} systems`
      }
    )
  })
)

/**
 * What a reader has to know before believing the rest.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Warnings = Schema.TaggedStruct("Warnings", { ...titled, items: Schema.Array(Schema.String) })

/**
 * Prose; an empty line parts paragraphs.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Text = Schema.TaggedStruct("Text", { ...titled, text: Schema.String })

/**
 * What a section is made of.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Block = Schema.Union([
  Scores,
  Table,
  LearningCurves,
  Distribution,
  Forest,
  Calibration,
  Curve,
  Samples,
  Warnings,
  Text
])

/**
 * @see {@link Block}
 * @category models
 * @since 0.1.0
 */
export type Block = typeof Block.Type

/**
 * What is needed to make the numbers again. `sha256` is hexadecimal, of the file that was read.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Provenance = Schema.Struct({
  /** Name of a program or library to its version. */
  versions: Schema.Record(Schema.String, Schema.String),
  /** What was drawn to the seed that it was drawn with. */
  seeds: Schema.Record(Schema.String, Schema.Int),
  commands: Schema.Array(Schema.String),
  models: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      /** Directory or hub id with revision. */
      source: Schema.String,
      sha256: Schema.optionalKey(Schema.String)
    })
  ),
  datasets: Schema.Array(
    Schema.Struct({ name: Schema.String, sha256: Schema.String, items: Schema.optionalKey(Schema.Int) })
  )
})

/**
 * A part of a report.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Section = Schema.Struct({
  title: Schema.String,
  text: Schema.optionalKey(Schema.String),
  blocks: Schema.Array(Block)
})

/**
 * @see {@link Section}
 * @category models
 * @since 0.1.0
 */
export type Section = typeof Section.Type

/**
 * A report. `created` is shown as given (ISO 8601 reads well everywhere).
 *
 * @category schemas
 * @since 0.1.0
 */
export const Report = Schema.Struct({
  title: Schema.String,
  subtitle: Schema.optionalKey(Schema.String),
  created: Schema.optionalKey(Schema.String),
  provenance: Provenance,
  sections: Schema.Array(Section)
})

/**
 * @see {@link Report}
 * @category models
 * @since 0.1.0
 */
export type Report = typeof Report.Type

/**
 * Reports which part of a report does not hold, as `sections.2.blocks.0.rows.1`.
 *
 * @category errors
 * @since 0.1.0
 */
export class ReportError extends Schema.TaggedError<ReportError>()("ReportError", {
  /** The file that it was read from. */
  file: Schema.optionalKey(Schema.String),
  field: Schema.optionalKey(Schema.String),
  reason: Schema.String
}) {
  override get message(): string {
    const place = this.field === undefined ? "" : ` at ${this.field}`
    return `${this.file === undefined ? "" : `${this.file}: `}the report${place}: ${this.reason}`
  }
}

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

const fromIssue =
  (file?: string) =>
  ({ issue }: { readonly issue: SchemaIssue.Issue }): ReportError => {
    const { issues } = formatIssue(issue)
    const first = issues[0]
    const field = (first?.path ?? []).map((key) => String(typeof key === "object" ? key.key : key)).join(".")
    return new ReportError({
      ...(file === undefined ? {} : { file }),
      ...(field === "" ? {} : { field }),
      reason: first?.message ?? "does not have the form of a report"
    })
  }

/**
 * The report as JSON text that {@link fromJson} reads back. Characters that would disturb an editor are escaped. Fails
 * where the data breaks the Schema: a number that is not finite, a row with a cell too few.
 *
 * @category encoding
 * @since 0.1.0
 */
export const toJson: (report: Report) => Effect.Effect<string, ReportError> = Effect.fn("Report.toJson")(
  function* (report) {
    const encoded = yield* Schema.encodeEffect(Report)(report).pipe(Effect.mapError(fromIssue()))
    const escaped = JSON.stringify(encoded, null, 2).replace(
      /[\p{Cf}\p{Zl}\p{Zp}\u0080-\u009f]/gu,
      // By code unit, as JSON has it.
      (character) => character.replace(/./gs, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
    )
    return `${escaped}\n`
  }
)

/**
 * Reads what {@link toJson} wrote; `file` is named in errors.
 *
 * @category decoding
 * @since 0.1.0
 */
export const fromJson: (text: string, file?: string) => Effect.Effect<Report, ReportError> = Effect.fn(
  "Report.fromJson"
)(function* (text, file) {
  const json = yield* Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: (cause) =>
      new ReportError({ ...(file === undefined ? {} : { file }), reason: `is not JSON (${String(cause)})` })
  })
  return yield* Schema.decodeUnknownEffect(Report)(json).pipe(Effect.mapError(fromIssue(file)))
})

/** A step of 1, 2 or 5 times a power of ten, at least as long as asked for. */
const niceStep = (least: number): number => {
  const power = 10 ** Math.floor(Math.log10(least))
  return power * ([1, 2, 5].find((factor) => factor * power >= least * (1 - 1e-9)) ?? 10)
}

/**
 * Counts the values of each sample in about `bins` bins (20 where nothing is said) of one width, whose borders are round
 * numbers.
 *
 * @category constructors
 * @since 0.1.0
 */
export const distribution = ({
  bins = 20,
  samples,
  ...rest
}: {
  readonly title?: string
  readonly caption?: string
  readonly xLabel: string
  readonly samples: ReadonlyArray<Sample>
  readonly bins?: number
}): typeof Distribution.Type => {
  let least = Number.POSITIVE_INFINITY
  let most = Number.NEGATIVE_INFINITY
  for (const { values } of samples) {
    for (const value of values) {
      least = Math.min(least, value)
      most = Math.max(most, value)
    }
  }
  if (samples.length === 0) return { _tag: "Distribution", ...rest, bins: [], series: [] }
  // Values that are all the same get one bin around them; those that only rounding tells apart, one or two.
  const size = Math.max(Math.abs(least), Math.abs(most))
  const spread = least === most ? size || 1 : Math.max(most - least, size * 1e-12)
  const step = niceStep(spread / Math.max(1, bins))
  // 3 * 0.1 is 0.30000000000000004; a border is 0.3.
  const border = (i: number): number => Number((i * step).toPrecision(15))
  let first = Math.floor(least / step)
  if (border(first) > least) first--
  let last = Math.ceil(most / step)
  if (border(last) < most) last++
  const count = Math.max(1, last - first)
  const edges = Array.from({ length: count + 1 }, (_, i) => border(first + i))
  return {
    _tag: "Distribution",
    ...rest,
    bins: Array.from({ length: count }, (_, i) => ({ from: edges[i]!, to: edges[i + 1]! })),
    series: samples.map(({ name, values }) => {
      const counts = new Array<number>(count).fill(0)
      for (const value of values) {
        let at = Math.min(count - 1, Math.max(0, Math.floor(value / step) - first))
        // Division may round across a border.
        if (at > 0 && value < edges[at]!) at--
        else if (at < count - 1 && value >= edges[at + 1]!) at++
        counts[at]!++
      }
      return { name, counts }
    })
  }
}

/**
 * Digits after the point at which the estimates of one column are shown: as many as leave one or two significant ones of
 * the middle interval's half width and at least one of the narrowest's; four significant ones of the values where no
 * estimate has an interval.
 *
 * @category formatting
 * @since 0.1.0
 */
export const digitsFor = (estimates: ReadonlyArray<Estimate>): number => {
  const halves = estimates
    .flatMap(({ high, low }) => (low === null || high === null || low === high ? [] : [Math.abs(high - low) / 2]))
    .sort((a, b) => a - b)
  const sizes = estimates.map(({ value }) => Math.abs(value)).filter((size) => size > 0)
  // To one digit where the half width begins with 5 or more, else to two: 0.284 ± 0.028, 0.583 ± 0.007.
  const digits =
    halves.length > 0
      ? Math.max(
          Math.min(9, Math.ceil(-Math.log10(halves[Math.floor(halves.length / 2)]! / 5))),
          // One very narrow interval does not fill the others' column with digits.
          Math.min(6, Math.ceil(-Math.log10(halves[0]!)))
        )
      : sizes.length > 0
        ? 3 - Math.floor(Math.log10(Math.max(...sizes)))
        : 0
  return Math.min(9, Math.max(0, digits))
}

/**
 * A number with so many digits after the point, in powers of ten where that would show none of its digits or too many, with
 * a minus sign that is one.
 *
 * @category formatting
 * @since 0.1.0
 */
export const number = (value: number, digits: number): string => {
  const size = Math.abs(value)
  const text =
    size >= 1e9 || (size > 0 && size < 0.5e-6) ? value.toExponential(2).replace("+", "") : value.toFixed(digits)
  // A rounded -0.0001 is no negative number.
  return Number(text) === 0 ? text.replace("-", "") : text.replaceAll("-", "−")
}

/**
 * A count with its thousands parted: `12,000`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const count = (value: number): string => String(value).replace(/\B(?=(\d{3})+$)/g, ",")

/**
 * An estimate in words: its value, its interval (or `no interval: …` with the reason), what `n` is, and how it was made.
 *
 * @category formatting
 * @since 0.1.0
 */
export const words = (
  estimate: Estimate,
  digits: number = digitsFor([estimate])
): {
  readonly value: string
  readonly interval: string
  readonly hasInterval: boolean
  readonly n: string
  readonly method: string
} => {
  const { clusters, high, low, method, n, value } = estimate
  const hasInterval = low !== null && high !== null
  return {
    value: number(value, digits),
    interval: hasInterval
      ? `${number(low, digits)} to ${number(high, digits)}`
      : `no interval: ${VisibleText.line(method).replace(/[,;]? no interval$/, "")}`,
    hasInterval,
    n: clusters === undefined ? count(n) : `${count(n)} in ${count(clusters)} clusters`,
    method: VisibleText.line(method)
  }
}

/**
 * A confidence as `95 %`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const percent = (confidence: number): string => `${Number((confidence * 100).toPrecision(6))} %`

/**
 * An estimate in one line: `0.713 (95 % interval 0.684 to 0.741; n = 1,000)`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const sentence = (estimate: Estimate, digits?: number): string => {
  const { hasInterval, interval, n, value } = words(estimate, digits)
  return `${value} (${hasInterval ? `${percent(estimate.confidence)} interval ` : ""}${interval}; n = ${n})`
}

/**
 * The rows of a table of scores in words. Scores of one metric are shown with the same number of digits.
 *
 * @category formatting
 * @since 0.1.0
 */
export const scoreTable = (
  scores: ReadonlyArray<ScoreRow>
): { readonly columns: ReadonlyArray<string>; readonly rows: ReadonlyArray<ReadonlyArray<string>> } => {
  const confidences = new Set(scores.filter(({ estimate }) => estimate.low !== null).map((s) => s.estimate.confidence))
  const [only] = confidences
  const shared = confidences.size === 1
  const groups = Map.groupBy(scores, ({ metric, task, unit }) => JSON.stringify([metric, task, unit]))
  const digits = new Map(Array.from(groups, ([key, group]) => [key, digitsFor(group.map((score) => score.estimate))]))
  return {
    columns: ["System", "Task", "Metric", "Value", shared ? `${percent(only!)} interval` : "Interval", "n", "Method"],
    rows: scores.map(({ estimate, higherIsBetter, metric, system, task, unit }) => {
      const { hasInterval, interval, method, n, value } = words(
        estimate,
        digits.get(JSON.stringify([metric, task, unit]))
      )
      const shown = hasInterval && !shared ? `${interval} (${percent(estimate.confidence)})` : interval
      const named = VisibleText.line(`${metric}${unit === "" ? "" : ` (${unit})`}`)
      // A no-break space: an arrow alone on a line says nothing.
      const directed = `${named}\u00a0${higherIsBetter ? "↑" : "↓"}`
      return [VisibleText.line(system), VisibleText.line(task), directed, value, shown, n, method]
    })
  }
}

/** A name shortened to the room that it has; the arrow behind a metric stays. */
const cut = (text: string, room: number): string => {
  const arrow = /\u00a0[↑↓]$/.exec(text)?.[0] ?? ""
  return VisibleText.elide(text.slice(0, text.length - arrow.length), room - arrow.length) + arrow
}

/** Narrows the widest columns that may be cut until the row fits. */
const fit = (widths: ReadonlyArray<number>, cuttable: ReadonlyArray<number>, room: number): ReadonlyArray<number> => {
  const fitted = [...widths]
  const least = 6
  let over = fitted.reduce((sum, width) => sum + width, 0) + 2 * (fitted.length - 1) - room
  while (over > 0) {
    const widest = cuttable.reduce((a, b) => (fitted[b]! > fitted[a]! ? b : a), cuttable[0]!)
    if (fitted[widest]! <= least) break
    fitted[widest]!--
    over--
  }
  return fitted
}

/**
 * Scores as the lines of a table for a terminal, `width` columns wide (100 where nothing is said). Where it is too narrow,
 * methods go below the table, then names are cut with `…`; numbers never are. An arrow behind a metric says which direction
 * is better.
 *
 * @category formatting
 * @since 0.1.0
 */
export const lines = (
  scores: ReadonlyArray<ScoreRow>,
  { width = 100 }: { readonly width?: number } = {}
): ReadonlyArray<string> => {
  if (scores.length === 0) return ["no scores"]
  const { columns, rows } = scoreTable(scores)
  const all = [columns, ...rows]
  const natural = columns.map((_, c) => Math.max(...all.map((row) => VisibleText.width(row[c]!))))
  const total = natural.reduce((sum, w) => sum + w, 0) + 2 * (columns.length - 1)
  const method = columns.length - 1
  const shown = total <= width ? columns.length : method
  const widths = fit(natural.slice(0, shown), [0, 1, 2], width)
  const numeric = new Set([3, 5])
  const print = (row: ReadonlyArray<string>): string =>
    widths
      .map((room, c) => {
        const text = cut(row[c]!, room)
        const blank = " ".repeat(Math.max(0, room - VisibleText.width(text)))
        return numeric.has(c) ? blank + text : text + blank
      })
      .join("  ")
      .trimEnd()
  const rule = widths.map((room) => "─".repeat(room)).join("  ")
  const methods = [...new Set(scores.flatMap(({ estimate }, i) => (estimate.low === null ? [] : [rows[i]![method]!])))]
  const isBelow = shown < columns.length && methods.length > 0
  return [print(columns), rule, ...rows.map(print), ...(isBelow ? [`Intervals: ${methods.join("; ")}`] : [])]
}
