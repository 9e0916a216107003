/**
 * Plots of a report's blocks as SVG text, drawn by Observable Plot on a document of linkedom.
 *
 * Colours are CSS variables that the page defines for light and dark (`--series-1` … `--series-8`, `--ink`, `--muted`,
 * `--grid`, `--surface`). Series differ by dashes and markers as well as by colour. Texts of the data reach the SVG as text
 * nodes only, never as attributes, and are shortened; the table beside a plot has them in full.
 *
 * @since 0.1.0
 */
import { VisibleText } from "@attune/core"
import * as Observable from "@observablehq/plot"
import { parseHTML } from "linkedom"
import type { Estimate } from "../Estimate.ts"
import * as Report from "../Report.ts"
import type * as BlockTable from "./BlockTable.ts"

/**
 * Blocks that are drawn.
 *
 * @category models
 * @since 0.1.0
 */
export type Plotted = Exclude<BlockTable.Tabular, { readonly _tag: "Scores" | "Table" }>

type Of<Tag extends Plotted["_tag"]> = Extract<Plotted, { readonly _tag: Tag }>

/** What is used of an element; the compiler's DOM types are not loaded in a package for Node. */
interface Element {
  readonly tagName: string
  readonly outerHTML: string
  readonly attributes: Iterable<{ readonly name: string; value: string }>
  readonly setAttribute: (name: string, value: string) => void
  readonly removeAttribute: (name: string) => void
  readonly remove: () => void
  readonly querySelectorAll: (selector: string) => Iterable<Element>
}

const { document } = parseHTML("<!doctype html><html><body></body></html>")

const symbols = ["circle", "square", "triangle", "diamond", "cross", "star", "wye", "hexagon"] as const
const dashes = ["none", "7 4", "2 3", "9 3 2 3", "14 4", "4 2", "1 4", "11 2 2 2 2 2"] as const

/** How series number `i` looks; 64 of them differ. */
const look = (i: number) => {
  const round = Math.floor(i / 8)
  return {
    colour: `var(--series-${(i % 8) + 1})`,
    dash: dashes[(i + round) % 8]!,
    symbol: symbols[(i + round) % 8]!
  }
}

const fontSize = 12
/** Average width of a letter at {@link fontSize}. */
const letter = 6.6

// Coordinates to a hundredth of a pixel: smaller files, and no difference between machines in the last digit.
const rounded = (value: string): string =>
  value.replace(/-?\d+\.\d{3,}(?:e-?\d+)?/g, (digits) => String(Number(Number(digits).toFixed(2)) + 0))

const draw = (options: Observable.PlotOptions): string => {
  const svg = Observable.plot({
    document,
    className: "plot",
    ...options
  }) as unknown as Element
  for (const style of svg.querySelectorAll("style")) style.remove()
  for (const element of [svg, ...svg.querySelectorAll("*")]) {
    // English names of marks; the figure has a text alternative of its own.
    element.removeAttribute("aria-label")
    element.removeAttribute("aria-hidden")
    for (const attribute of element.attributes) attribute.value = rounded(attribute.value)
  }
  svg.removeAttribute("style")
  svg.setAttribute("font-size", String(fontSize))
  svg.removeAttribute("font-family")
  svg.setAttribute("aria-hidden", "true")
  svg.setAttribute("focusable", "false")
  return svg.outerHTML
}

/** Keeps text readable where it lies on lines. */
const halo = { stroke: "var(--surface)", strokeWidth: 4 }

const short = (text: string, pixels: number): string =>
  VisibleText.elide(VisibleText.line(text), Math.max(4, Math.floor(pixels / letter)))

const shortMiddle = (text: string, pixels: number): string =>
  VisibleText.elideMiddle(VisibleText.line(text), Math.max(4, Math.floor(pixels / letter)))

/** Numbers at the ticks of an axis. */
const tick = (value: number): string => {
  const size = Math.abs(value)
  const trim = (digits: number): string => String(Number(digits.toPrecision(6))).replace("-", "−")
  if (value === 0) return "0"
  if (size >= 1e9 || size < 1e-4) return value.toExponential().replaceAll("-", "−").replace("e+", "e")
  if (size >= 1e6) return `${trim(value / 1e6)}M`
  return size >= 1e4 ? `${trim(value / 1e3)}k` : trim(value)
}

const axes = (
  { x, y }: { readonly x: string; readonly y: string },
  width: number,
  options: { readonly xTicks?: number; readonly yTicks?: number } = {}
): ReadonlyArray<Observable.Markish> => [
  Observable.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: options.yTicks ?? 5 }),
  Observable.axisY({
    ticks: options.yTicks ?? 5,
    tickFormat: tick,
    tickSize: 0,
    label: short(y, width - 60),
    labelAnchor: "top",
    labelArrow: "none",
    labelOffset: 40,
    fill: "var(--muted)"
  }),
  Observable.axisX({
    ticks: options.xTicks ?? Math.max(3, Math.floor(width / 90)),
    tickFormat: tick,
    tickSize: 4,
    stroke: "var(--muted)",
    label: short(x, width - 60),
    labelAnchor: "center",
    labelArrow: "none",
    fill: "var(--muted)"
  })
]

const frame = { marginLeft: 52, marginRight: 16, marginTop: 28, marginBottom: 44 }

/** Places among `count` at which a long line shows its marker; each series has its own. */
const marked = (count: number, series: number): ((i: number) => boolean) => {
  if (count <= 24) return () => true
  const stride = Math.ceil(count / 6)
  const first = Math.floor(stride * (0.25 + (series % 4) * 0.2))
  return (i) => i % stride === first
}

const dots = <A>(
  points: ReadonlyArray<A>,
  i: number,
  channels: { readonly x: (point: A) => number; readonly y: (point: A) => number },
  hollow = false
): Observable.Markish => {
  const { colour, symbol } = look(i)
  return Observable.dot(points as Array<A>, {
    ...channels,
    symbol,
    r: 4.5,
    fill: hollow ? "var(--surface)" : colour,
    stroke: hollow ? colour : "var(--surface)",
    strokeWidth: hollow ? 1.75 : 1
  })
}

const line = <A>(
  points: ReadonlyArray<A>,
  i: number,
  channels: { readonly x: (point: A) => number; readonly y: (point: A) => number }
): Observable.Markish => {
  const { colour, dash } = look(i)
  return Observable.line(points as Array<A>, {
    ...channels,
    stroke: colour,
    strokeWidth: 2,
    ...(dash === "none" ? {} : { strokeDasharray: dash })
  })
}

const learningCurves = ({ series, xLabel, yLabel }: Of<"LearningCurves">, width: number): string => {
  const at = { x: ({ x }: { x: number }) => x, y: ({ y }: { y: number }) => y }
  return draw({
    width,
    height: width > 500 ? 320 : 280,
    ...frame,
    x: { nice: false },
    y: { nice: true },
    marks: [
      ...axes({ x: xLabel, y: yLabel }, width),
      ...series.map(({ points }, i) =>
        Observable.areaY(
          points.filter(({ low }) => low !== undefined),
          {
            x: ({ x }) => x,
            y1: ({ low }) => low,
            y2: ({ high }) => high,
            fill: look(i).colour,
            fillOpacity: 0.16
          }
        )
      ),
      ...series.map(({ points }, i) => line(points, i, at)),
      ...series.map(({ points }, i) => {
        const shows = marked(points.length, i)
        return dots(
          points.filter((_, j) => shows(j)),
          i,
          at
        )
      })
    ]
  })
}

const distribution = ({ bins, series, xLabel }: Of<"Distribution">, width: number): string => {
  const totals = series.map(({ counts }) => counts.reduce((sum, count) => sum + count, 0))
  const shares = series.map(({ counts }, s) =>
    counts.map((count, i) => ({ ...bins[i]!, share: count / Math.max(1, totals[s]!), s }))
  )
  const row = width > 500 ? 92 : 84
  const highest = Math.max(...shares.flat().map(({ share }) => share))
  return draw({
    width,
    height: series.length * row + frame.marginBottom + 12,
    ...frame,
    marginTop: 12,
    x: { nice: false, domain: [bins[0]!.from, bins.at(-1)!.to] },
    // Room for the name above the highest bar.
    y: { domain: [0, highest === 0 ? 1 : highest * 1.35] },
    fy: { domain: series.map((_, s) => s), axis: null, padding: 0.12 },
    marks: [
      Observable.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 2 }),
      Observable.axisY({
        ticks: 2,
        tickFormat: (share: number) => `${Number((share * 100).toPrecision(3))}%`,
        tickSize: 0,
        label: null,
        fill: "var(--muted)"
      }),
      Observable.axisX({
        ticks: Math.max(3, Math.floor(width / 90)),
        tickFormat: tick,
        tickSize: 4,
        stroke: "var(--muted)",
        label: short(xLabel, width - 60),
        labelAnchor: "center",
        labelArrow: "none",
        fill: "var(--muted)"
      }),
      ...series.map((_, s) =>
        Observable.rectY(shares[s]!, {
          fy: "s",
          x1: "from",
          x2: "to",
          y: "share",
          fill: look(s).colour,
          insetLeft: 0.5,
          insetRight: 0.5
        })
      ),
      Observable.ruleY([0], { stroke: "var(--muted)" }),
      Observable.text(
        series.map(({ name }, s) => ({ s, name: `${short(name, width - 160)} (n = ${Report.count(totals[s]!)})` })),
        { fy: "s", text: "name", frameAnchor: "top-left", dx: 6, dy: 2, fill: "var(--ink)", fontWeight: 600 }
      )
    ]
  })
}

const bounds = ({ high, low, value }: Estimate): readonly [number, number] => [low ?? value, high ?? value]
const hasInterval = ({ high, low }: Estimate): boolean => low !== null && high !== null

const forest = ({ favours, reference, rows, xLabel }: Of<"Forest">, width: number): string => {
  const isWide = width > 500
  const all = rows.map(({ estimate, label }, y) => ({ estimate, label, y }))
  const digits = Report.digitsFor(rows.map(({ estimate }) => estimate))
  const texts = all.map(({ estimate, label, y }) => {
    const { interval, value } = Report.words(estimate, digits)
    return { y, label, words: hasInterval(estimate) ? `${value} (${interval})` : `${value}, ${short(interval, 200)}` }
  })
  const longest = Math.max(...texts.map(({ words }) => VisibleText.width(words)))
  const longestLabel = Math.max(...texts.map(({ label }) => VisibleText.width(VisibleText.line(label))))
  const left = isWide ? Math.min(230, Math.max(70, longestLabel * letter + 30)) : 14
  const right = isWide ? Math.min(265, longest * letter + 22) : 14
  const step = isWide ? 36 : 62
  const extent = rows.flatMap(({ estimate }) => bounds(estimate)).concat(reference)
  const [least, most] = [Math.min(...extent), Math.max(...extent)]
  const margin = (most - least || Math.abs(most) || 1) * 0.06
  const intervals = all.filter(({ estimate }) => hasInterval(estimate))
  const inner = width - left - right
  return draw({
    width,
    height: rows.length * step + 44 + (favours === undefined ? 10 : 30),
    marginLeft: left,
    marginRight: right,
    marginTop: favours === undefined ? 10 : 30,
    marginBottom: 44,
    x: { domain: [least - margin, most + margin] },
    y: { domain: [rows.length - 0.5, isWide ? -0.5 : -0.75], axis: null },
    marks: [
      Observable.gridX({ stroke: "var(--grid)", strokeOpacity: 1, ticks: Math.max(3, Math.floor(inner / 80)) }),
      Observable.axisX({
        ticks: Math.max(3, Math.floor(inner / 80)),
        tickFormat: tick,
        tickSize: 4,
        stroke: "var(--muted)",
        label: short(xLabel, inner),
        labelAnchor: "center",
        labelArrow: "none",
        fill: "var(--muted)"
      }),
      Observable.ruleX([reference], { stroke: "var(--ink)", strokeWidth: 1.25, strokeDasharray: "4 3" }),
      Observable.ruleY(intervals, {
        x1: ({ estimate }) => estimate.low,
        x2: ({ estimate }) => estimate.high,
        y: "y",
        stroke: "var(--series-1)",
        strokeWidth: 2.25
      }),
      ...[0, 1].map((side) =>
        Observable.ruleX(intervals, {
          x: ({ estimate }) => bounds(estimate)[side],
          y1: ({ y }) => y - 4 / step,
          y2: ({ y }) => y + 4 / step,
          stroke: "var(--series-1)",
          strokeWidth: 2
        })
      ),
      dots(intervals, 0, { x: ({ estimate }) => estimate.value, y: ({ y }) => y }),
      dots(
        all.filter(({ estimate }) => !hasInterval(estimate)),
        0,
        { x: ({ estimate }) => estimate.value, y: ({ y }) => y },
        true
      ),
      ...(isWide
        ? [
            Observable.text(texts, {
              y: "y",
              text: ({ label }) => shortMiddle(label, left - 26),
              frameAnchor: "left",
              textAnchor: "end",
              dx: -12,
              fill: "var(--ink)"
            }),
            Observable.text(texts, {
              y: "y",
              text: "words",
              frameAnchor: "right",
              textAnchor: "start",
              dx: 12,
              fill: "var(--ink)",
              fontVariant: "tabular-nums"
            })
          ]
        : [
            Observable.text(texts, {
              y: "y",
              text: ({ label }) => shortMiddle(label, inner),
              frameAnchor: "left",
              textAnchor: "start",
              dy: -31,
              fill: "var(--ink)",
              ...halo
            }),
            Observable.text(texts, {
              y: "y",
              text: "words",
              frameAnchor: "left",
              textAnchor: "start",
              dy: -15,
              fill: "var(--muted)",
              fontVariant: "tabular-nums",
              ...halo
            })
          ]),
      ...(favours === undefined
        ? []
        : [
            Observable.text([`← ${short(favours.below, inner / 2 - 20)}`], {
              frameAnchor: "top-left",
              dy: -20,
              fill: "var(--muted)"
            }),
            Observable.text([`${short(favours.above, inner / 2 - 20)} →`], {
              frameAnchor: "top-right",
              dy: -20,
              fill: "var(--muted)"
            })
          ])
    ]
  })
}

const calibration = ({ series }: Of<"Calibration">, width: number): string => {
  const size = Math.min(width, 420)
  const at = {
    x: ({ predicted }: { predicted: number }) => predicted,
    y: ({ observed }: { observed: Estimate }) => observed.value
  }
  return draw({
    width: size,
    height: size,
    ...frame,
    x: { domain: [0, 1] },
    y: { domain: [0, 1] },
    marks: [
      ...axes({ x: "predicted probability", y: "observed rate" }, size, { xTicks: 5, yTicks: 5 }),
      Observable.link([0], { x1: 0, y1: 0, x2: 1, y2: 1, stroke: "var(--muted)", strokeDasharray: "4 3" }),
      ...series.flatMap(({ bins }, i) => [
        Observable.ruleX(
          bins.filter(({ observed }) => hasInterval(observed)),
          {
            x: "predicted",
            y1: ({ observed }) => observed.low,
            y2: ({ observed }) => observed.high,
            stroke: look(i).colour,
            strokeWidth: 1.5
          }
        ),
        line(bins, i, at),
        dots(bins, i, at)
      ])
    ]
  })
}

const exact = (x: number | Estimate): number => (typeof x === "number" ? x : x.value)

const curve = ({ series, xLabel, yLabel }: Of<"Curve">, width: number): string => {
  const isWide = width > 500
  return draw({
    width,
    height: isWide ? 340 : 290,
    ...frame,
    marginRight: 28,
    x: { nice: true },
    y: { nice: true },
    marks: [
      ...axes({ x: xLabel, y: yLabel }, width),
      ...series.flatMap(({ points }, i) => {
        const { colour } = look(i)
        const at = { x: ({ x }: { x: number | Estimate }) => exact(x), y: ({ y }: { y: Estimate }) => y.value }
        return [
          line(points, i, at),
          Observable.ruleX(
            points.filter(({ y }) => hasInterval(y)),
            {
              x: at.x,
              y1: ({ y }) => y.low,
              y2: ({ y }) => y.high,
              stroke: colour,
              strokeWidth: 1.25
            }
          ),
          Observable.ruleY(
            points.filter(({ x }) => typeof x !== "number" && hasInterval(x)),
            {
              y: at.y,
              x1: ({ x }) => (typeof x === "number" ? x : x.low),
              x2: ({ x }) => (typeof x === "number" ? x : x.high),
              stroke: colour,
              strokeWidth: 1.25
            }
          ),
          dots(points, i, at),
          Observable.text(
            points.filter(({ label }) => label !== undefined && isWide),
            {
              ...at,
              text: ({ label }) => short(label ?? "", 110),
              textAnchor: "start",
              lineAnchor: "bottom",
              dx: 7,
              dy: -6,
              fill: "var(--muted)",
              ...halo
            }
          )
        ]
      })
    ]
  })
}

/**
 * Whether there is anything to draw.
 *
 * @category transforming
 * @since 0.1.0
 */
export const isEmpty = (block: Plotted): boolean => {
  switch (block._tag) {
    case "LearningCurves":
    case "Curve":
      return block.series.every(({ points }) => points.length === 0)
    case "Distribution":
      return block.bins.length === 0 || block.series.length === 0
    case "Forest":
      return block.rows.length === 0
    case "Calibration":
      return block.series.every(({ bins }) => bins.length === 0)
  }
}

/**
 * The block as an SVG element `width` pixels wide (a calibration plot at most 420), which scales. It must not be empty.
 *
 * @category encoding
 * @since 0.1.0
 */
export const svg = (block: Plotted, width: number): string => {
  switch (block._tag) {
    case "LearningCurves":
      return learningCurves(block, width)
    case "Distribution":
      return distribution(block, width)
    case "Forest":
      return forest(block, width)
    case "Calibration":
      return calibration(block, width)
    case "Curve":
      return curve(block, width)
  }
}

/**
 * Names for the legend, in the order of the series; none where the plot names its rows itself.
 *
 * @category formatting
 * @since 0.1.0
 */
export const legend = (block: Plotted): ReadonlyArray<string> =>
  block._tag === "Forest" || block._tag === "Distribution" ? [] : block.series.map(({ name }) => VisibleText.line(name))

/**
 * Line and marker of series number `i`, for the legend.
 *
 * @category encoding
 * @since 0.1.0
 */
export const swatch = (i: number): string =>
  draw({
    width: 40,
    height: 14,
    margin: 0,
    axis: null,
    x: { domain: [0, 1] },
    y: { domain: [0, 1] },
    marks: [line([0.02, 0.98], i, { x: (x) => x, y: () => 0.5 }), dots([0.5], i, { x: (x) => x, y: () => 0.5 })]
  })

const several = (names: ReadonlyArray<string>): string =>
  names.length <= 6 ? names.join(", ") : `${names.slice(0, 6).join(", ")} and ${names.length - 6} more`

/**
 * What the plot shows, in words, for who cannot see it.
 *
 * @category formatting
 * @since 0.1.0
 */
export const description = (block: Plotted): string => {
  switch (block._tag) {
    case "LearningCurves": {
      const ends = block.series.flatMap(({ name, points }) => {
        const [first, last] = [points[0], points.at(-1)]
        return first === undefined || last === undefined
          ? []
          : [`${VisibleText.line(name)} goes from ${tick(first.y)} to ${tick(last.y)}`]
      })
      return `Lines of ${VisibleText.line(block.yLabel)} by ${VisibleText.line(block.xLabel)}: ${several(ends)}.`
    }
    case "Distribution": {
      const peaks = block.series.map(({ counts, name }) => {
        const { from, to } = block.bins[counts.indexOf(Math.max(...counts))]!
        return `${VisibleText.line(name)} has most values between ${tick(from)} and ${tick(to)}`
      })
      return `Histograms of ${VisibleText.line(block.xLabel)}: ${several(peaks)}.`
    }
    case "Forest": {
      const rows = block.rows.map(
        ({ estimate, label }) => `${VisibleText.line(label)} ${Report.sentence(estimate).replaceAll(",", "")}`
      )
      return `Forest plot of ${VisibleText.line(block.xLabel)}, reference ${tick(block.reference)}: ${several(rows)}.`
    }
    case "Calibration":
      return `Observed rate by predicted probability against the diagonal of perfect calibration: ${several(legend(block))}.`
    case "Curve":
      return `${VisibleText.line(block.yLabel)} against ${VisibleText.line(block.xLabel)}: ${several(legend(block))}.`
  }
}
