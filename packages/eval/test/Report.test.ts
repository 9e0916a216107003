import { assert, describe, it } from "@effect/vitest"
import { Effect, Result, Schema } from "effect"
import * as Estimate from "../src/Estimate.ts"
import * as Report from "../src/Report.ts"
import * as Sample from "../src/Sample.ts"
import type { Score } from "../src/Score.ts"
import { report } from "./ReportExample.ts"
import * as ReportInstances from "./report/ReportInstances.ts"

const sample = (values: ReadonlyArray<number>, name = "sample") => Result.getOrThrow(Sample.fromValues(name, values))

const between = (value: number, low: number, high: number): Estimate.Estimate => ({
  value,
  low,
  high,
  se: null,
  n: 12_345,
  confidence: 0.95,
  method: "bootstrap"
})

const alone = (value: number): Estimate.Estimate => ({ ...Estimate.mean(sample([1])), value })

/** The largest number below a positive one, and the smallest above a negative one. */
const below = (x: number): number => {
  const bits = new BigInt64Array(Float64Array.of(x).buffer)
  bits[0]! -= x === 0 ? 0n : 1n
  return new Float64Array(bits.buffer)[0]!
}

describe("Report.distribution", () => {
  it("counts by hand", () => {
    // Spread 1, four bins: steps of 0.5 would be two, 0.25 is no round number, so the step is 0.5.
    const { bins, series } = Report.distribution({
      xLabel: "reward",
      bins: 4,
      samples: [sample([0, 0.4999, 0.5, 1], "a"), sample([0.75], "b")]
    })
    assert.deepStrictEqual(bins, [
      { from: 0, to: 0.5 },
      { from: 0.5, to: 1 }
    ])
    assert.deepStrictEqual(series, [
      { name: "a", counts: [2, 2] },
      { name: "b", counts: [0, 1] }
    ])
  })

  it("puts every value into the bin whose borders hold it", () => {
    // Borders and the numbers just below them, which a division by the step moves across, upwards or downwards.
    const atBorders = (step: number, from: number) =>
      Array.from({ length: 21 }, (_, i) => Number(((from + i) * step).toPrecision(15))).flatMap((x) => [x, below(x)])
    for (const values of [
      atBorders(0.1, 0),
      atBorders(0.1, -10),
      atBorders(5e-9, 1_053),
      atBorders(2e-7, 0),
      // A number just above a border.
      [0, 2.0000000000000002e-7],
      [1e12, 1e12 + 0.25, 1e12 + 1],
      [1, below(1)],
      [1e9, 1e9 + 7, 1e9 + 100],
      [-3e-7, 4e-7, 1e-8],
      [5],
      [0, 0],
      [-2, -2, -2]
    ]) {
      const { bins, series } = Report.distribution({ xLabel: "x", samples: [sample(values)] })
      const counts = bins.map(
        ({ from, to }, i) =>
          values.filter((value) => value >= from && (value < to || (i === bins.length - 1 && value === to))).length
      )
      assert.deepStrictEqual(series[0]!.counts, counts)
      assert.strictEqual(
        counts.reduce((a, b) => a + b),
        values.length
      )
      assert.isAtMost(bins.length, 22)
    }
  })

  it("is empty without samples", () => {
    assert.deepStrictEqual(Report.distribution({ xLabel: "x", samples: [] }).bins, [])
  })
})

describe("Report in words", () => {
  it("shows the digits that the interval leaves", () => {
    assert.strictEqual(
      Report.sentence(between(0.7134, 0.6845, 0.7411)),
      "0.713 (95 % interval 0.684 to 0.741; n = 12,345)"
    )
    assert.strictEqual(Report.digitsFor([between(0, -0.02, 0.02)]), 3)
    assert.strictEqual(Report.digitsFor([between(0, -0.06, 0.06)]), 2)
    assert.strictEqual(Report.digitsFor([between(900, 850, 950)]), 0)
    assert.strictEqual(Report.digitsFor([between(12, 11, 13)]), 1)
    // The narrowest keeps one digit, however wide the others are.
    assert.strictEqual(Report.digitsFor([between(0, -3, 3), between(0, -2, 2), between(0, -0.004, 0.004)]), 3)
    // But no more than six for its sake.
    assert.strictEqual(Report.digitsFor([between(0, -0.1, 0.1), between(0, -0.1, 0.1), between(0, -1e-8, 1e-8)]), 6)
    assert.strictEqual(
      Report.sentence(between(2e-6, 1.9e-6, 2.1e-6)),
      "0.00000200 (95 % interval 0.00000190 to 0.00000210; n = 12,345)"
    )
    assert.strictEqual(Report.digitsFor([alone(12.3456)]), 2)
    assert.strictEqual(Report.digitsFor([]), 0)
  })

  it("writes numbers that can be read and that are none of another", () => {
    assert.strictEqual(Report.number(-0.25, 2), "−0.25")
    assert.strictEqual(Report.number(-0.0001, 2), "0.00")
    assert.strictEqual(Report.number(3e-9, 6), "3.00e−9")
    assert.strictEqual(Report.number(2.5e12, 0), "2.50e12")
    assert.strictEqual(Report.number(0, 1), "0.0")
    assert.strictEqual(Report.count(999), "999")
    assert.strictEqual(Report.count(1_000), "1,000")
    assert.strictEqual(Report.count(12_345_678), "12,345,678")
  })

  it("gives the reason where there is no interval, and the clusters where there are", () => {
    assert.strictEqual(Report.sentence(alone(0.5)), "0.5000 (no interval: one value; n = 1)")
    const clustered = Estimate.clustered(
      Result.getOrThrow(
        Sample.make(
          "s",
          [0, 1, 1, 1].map((value, i) => ({ id: String(i), value, cluster: String(i % 2) }))
        )
      )
    )
    assert.strictEqual(Report.words(clustered).n, "4 in 2 clusters")
  })
})

const scores: ReadonlyArray<Score> = [
  ["base", 271],
  ["a system with a name that is rather long", 284]
].map(([system, hits]) => ({
  system: String(system),
  task: "hellaswag",
  metric: "acc_norm",
  unit: "",
  higherIsBetter: true,
  estimate: Estimate.rate(Number(hits), 1_000),
  sample: sample([0, 1])
}))

describe("Report.lines", () => {
  it("prints scores as a table", () => {
    assert.deepStrictEqual(Report.lines(scores.slice(0, 1)), [
      "System  Task       Metric      Value  95 % interval       n  Method",
      "──────  ─────────  ──────────  ─────  ──────────────  ─────  ────────────",
      "base    hellaswag  acc_norm\u00a0↑  0.271  0.244 to 0.299  1,000  rate, Wilson"
    ])
  })

  it("moves the method below where the terminal is narrow, then cuts names, never numbers", () => {
    assert.deepStrictEqual(Report.lines(scores, { width: 72 }), [
      "System               Task       Metric      Value  95 % interval       n",
      "───────────────────  ─────────  ──────────  ─────  ──────────────  ─────",
      "base                 hellaswag  acc_norm\u00a0↑  0.271  0.244 to 0.299  1,000",
      "a system with a na…  hellaswag  acc_norm\u00a0↑  0.284  0.257 to 0.313  1,000",
      "Intervals: rate, Wilson"
    ])
    for (const line of Report.lines(scores, { width: 1 }).slice(2, 4))
      assert.match(line, /↑ {2}0\.2\d\d {2}0\.\d+ to 0\.\d+ {2}1,000$/)
  })

  it("names the confidence per row where it differs", () => {
    const [first, second] = scores
    const mixed = Report.lines([first!, { ...second!, estimate: Estimate.rate(284, 1_000, 0.9) }], { width: 200 })
    assert.include(mixed[0], "Interval")
    assert.include(mixed[2], "0.244 to 0.299 (95 %)")
    assert.include(mixed[3], "(90 %)")
  })

  it("says so where there are none", () => {
    assert.deepStrictEqual(Report.lines([]), ["no scores"])
  })

  it("lets no name move the cursor", () => {
    const [first] = scores
    assert.notInclude(Report.lines([{ ...first!, system: "\u001b[2Jgone\nline" }]).join(""), "\u001b")
    assert.strictEqual(Report.lines([{ ...first!, system: "a\nb" }]).length, 3)
  })
})

describe("Report as data", () => {
  it.effect("reads back from JSON what was written", () =>
    Effect.gen(function* () {
      const json = yield* Report.toJson(report)
      assert.deepStrictEqual(yield* Report.fromJson(json), report)
      assert.strictEqual(yield* Report.toJson(yield* Report.fromJson(json)), json)
      for (const choice of ReportInstances.choices) {
        const instance = ReportInstances.make((i) => `\u202e\u2028\u{e0041}\ud800"${i}`, choice)
        const text = yield* Report.toJson(instance)
        assert.notMatch(text, /[\u202e\u2028\u{e0041}\p{Cs}]/u)
        assert.deepStrictEqual(yield* Report.fromJson(text), instance)
      }
    })
  )

  it.effect("leaves the samples of scores out", () =>
    Effect.gen(function* () {
      const json = yield* Report.toJson({
        ...report,
        sections: [{ title: "s", blocks: [{ _tag: "Scores", scores }] }]
      })
      assert.notInclude(json, '"sample"')
      assert.include(json, "a system with a name that is rather long")
    })
  )

  const refused: ReadonlyArray<readonly [what: string, block: Report.Block, field: string, reason: RegExp]> = [
    [
      "a value that is not finite",
      { _tag: "Scores", scores: [{ ...scores[0]!, estimate: alone(Number.NaN) }] },
      "sections.0.blocks.0.scores.0.estimate.value",
      /NaN|finite/
    ],
    [
      "a row with a cell too few",
      { _tag: "Table", columns: ["a", "b"], rows: [["1", "2"], ["1"]] },
      "sections.0.blocks.0.rows.1",
      /has 1 cells for 2 columns/
    ],
    [
      "a band with one side",
      {
        _tag: "LearningCurves",
        xLabel: "x",
        yLabel: "y",
        band: "b",
        series: [{ name: "s", points: [{ x: 0, y: 0, low: 0 }] }]
      },
      "sections.0.blocks.0.series",
      /one bound/
    ],
    [
      "a band of which nobody knows what it is",
      {
        _tag: "LearningCurves",
        xLabel: "x",
        yLabel: "y",
        series: [{ name: "s", points: [{ x: 0, y: 0, low: 0, high: 1 }] }]
      },
      "sections.0.blocks.0.band",
      /say what the bands are/
    ],
    [
      "bins without width",
      { _tag: "Distribution", xLabel: "x", bins: [{ from: 1, to: 1 }], series: [] },
      "sections.0.blocks.0.bins.0",
      /must be less/
    ],
    [
      "more counts than bins",
      { _tag: "Distribution", xLabel: "x", bins: [{ from: 0, to: 1 }], series: [{ name: "s", counts: [1, 2] }] },
      "sections.0.blocks.0.series.0",
      /has 2 counts for 1 bins/
    ],
    [
      "a predicted probability above one",
      { _tag: "Calibration", series: [{ name: "s", bins: [{ predicted: 1.5, observed: alone(1) }] }] },
      "sections.0.blocks.0.series.0.bins.0.predicted",
      /1/
    ],
    [
      "a system without an answer",
      { _tag: "Samples", systems: ["a", "b"], rows: [{ prompt: "p", outputs: [{ text: "" }] }] },
      "sections.0.blocks.0.rows.0",
      /has 1 outputs for 2 systems/
    ]
  ]
  for (const [what, block, field, reason] of refused) {
    it.effect(`refuses ${what}`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Report.toJson({ ...report, sections: [{ title: "s", blocks: [block] }] }))
        assert.strictEqual(error._tag, "ReportError")
        assert.strictEqual(error.field, field)
        assert.match(error.reason, reason)
        assert.include(error.message, field)
      })
    )
  }

  it.effect("refuses text that is no report, and names the file", () =>
    Effect.gen(function* () {
      const broken = yield* Effect.flip(Report.fromJson("{", "out/report.json"))
      assert.match(broken.message, /^out\/report\.json: the report: is not JSON/)
      const other = yield* Effect.flip(Report.fromJson('{"title":"t"}', "out/report.json"))
      assert.strictEqual(other.field, "provenance")
    })
  )

  it("has no place for a measured number without what it rests on", () => {
    // @ts-expect-error: 0.5 of how many?
    const cell: Report.Cell = 0.5
    assert.isFalse(Schema.is(Report.Cell)(cell))
    assert.isFalse(Schema.is(Report.Cell)({ count: 0.5 }))
    assert.isTrue(Schema.is(Report.Cell)({ count: 5 }))
  })
})
