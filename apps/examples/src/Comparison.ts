/**
 * Two systems side by side: before and after training, or a model and the one that it is held against.
 *
 * @since 0.1.0
 */

import { type Completion, RunLog } from "@attune/core"
import { AlignmentTax, Report, type Sample, type Score, type WinRate } from "@attune/eval"
import { Effect, Result } from "effect"

/**
 * Prompts, and what two systems say to each.
 *
 * @category models
 * @since 0.1.0
 */
export interface Said {
  readonly systems: readonly [before: string, after: string]
  readonly prompts: ReadonlyArray<string>
  readonly before: ReadonlyArray<Pick<Completion.Completion, "text">>
  readonly after: ReadonlyArray<Pick<Completion.Completion, "text">>
}

/**
 * Scores for the terminal, in its width; a file that takes the output has room for all of it.
 *
 * @category formatting
 * @since 0.1.0
 */
export const table = (scores: ReadonlyArray<Score.Score>): ReadonlyArray<string> =>
  Report.lines(scores, { width: process.stdout.columns ?? 160 })

const oneLine = (text: string) => text.trim().replaceAll("\n", " | ")

/**
 * Lines for a terminal: each prompt with both answers below it.
 *
 * @category formatting
 * @since 0.1.0
 */
export const lines = ({ after, before, prompts, systems }: Said): ReadonlyArray<string> => {
  const width = Math.max("prompt".length, ...systems.map(({ length }) => length)) + 2
  return prompts.flatMap((prompt, i) => [
    `${"prompt".padEnd(width)}${prompt.replaceAll("\n", " | ")}`,
    `${systems[0].padEnd(width)}${oneLine(before[i]!.text)}`,
    `${systems[1].padEnd(width)}${oneLine(after[i]!.text)}`,
    ""
  ])
}

/**
 * The same for a report.
 *
 * @category formatting
 * @since 0.1.0
 */
export const samples = ({ after, before, prompts, systems }: Said): Report.Section => ({
  title: "Samples",
  blocks: [
    {
      _tag: "Samples",
      systems,
      rows: prompts.map((prompt, i) => ({ prompt, outputs: [{ text: before[i]!.text }, { text: after[i]!.text }] }))
    }
  ]
})

// Perplexities say what bits per byte say, on a scale on which one odd document outweighs the rest. Bias types are parts of
// what is tested as a whole, and each test more makes all of them stricter.
const isTested = ({ metric, task }: Score.Score) =>
  !metric.endsWith("_perplexity") && !task.startsWith("crows_pairs_english_")

/**
 * Every score of both, what the second gained or lost item by item, and how their values spread.
 *
 * @category formatting
 * @since 0.1.0
 */
export const scores = (
  before: ReadonlyArray<Score.Score>,
  after: ReadonlyArray<Score.Score>,
  seed: number
): Result.Result<Report.Section, AlignmentTax.AlignmentTaxError | Sample.SampleError> =>
  Result.map(AlignmentTax.compare(before.filter(isTested), after.filter(isTested), { seed }), (compared) => ({
    title: "Scores",
    blocks: [
      { _tag: "Scores", scores: [...before, ...after] },
      // Units have nothing in common, so each has an axis.
      ...Array.from(
        Map.groupBy(compared.rows, ({ unit }) => unit),
        ([unit, rows]): Report.Block => ({
          _tag: "Forest",
          title: `Differences, ${unit}`,
          caption: `${compared.after} minus ${compared.before}, on the same items.`,
          xLabel: `difference, ${unit}`,
          reference: 0,
          rows: rows.map(({ difference, metric, task }) => ({ label: `${task}: ${metric}`, estimate: difference }))
        })
      ),
      { ...AlignmentTax.table(compared), title: `${compared.after} against ${compared.before}` },
      ...before.flatMap((score, i) =>
        // A rate has two values; its table says all.
        !isTested(score) || score.sample.values.every((value) => value === 0 || value === 1)
          ? []
          : [
              Report.distribution({
                title: `${score.task}: ${score.metric}`,
                xLabel: score.unit,
                samples: [score, after[i]!].map(({ sample, system }) => ({ ...sample, name: system }))
              })
            ]
      )
    ]
  }))

/**
 * How often a judge prefers the first system.
 *
 * @category formatting
 * @since 0.1.0
 */
export const winRate = ({
  flipRate,
  judge,
  losses,
  opponent,
  score,
  session,
  ties,
  wins
}: WinRate.Judged): Report.Section => ({
  title: "Win rate",
  text: `Judge: ${judge}. Session: ${session}. Each pair was judged in both orders.`,
  blocks: [
    {
      _tag: "Forest",
      xLabel: "win rate",
      reference: 0.5,
      favours: { below: opponent, above: score.system },
      rows: [{ label: `${score.system} against ${opponent}`, estimate: score.estimate }]
    },
    {
      _tag: "Table",
      columns: ["", "wins", "ties", "losses", "orders that disagree"],
      rows: [
        [
          `${score.system} against ${opponent}`,
          { count: wins },
          { count: ties },
          { count: losses },
          flipRate ?? "all answers are identical"
        ]
      ]
    }
  ]
})

/**
 * What the log of the run in `directory` says of its loss.
 *
 * @category formatting
 * @since 0.1.0
 */
export const training = Effect.fn("Comparison.training")(function* (directory: string) {
  const log = yield* RunLog.read(directory)
  const points = log.flatMap((line) =>
    line.type === "step" ? [{ x: line.step, y: line.metrics["loss"] ?? Number.NaN }] : []
  )
  return {
    title: "Training",
    blocks: [
      {
        _tag: "LearningCurves",
        caption: "Loss of each step on its own batch.",
        xLabel: "step",
        yLabel: "loss, nats/token",
        series: [{ name: "loss", points: points.filter(({ y }) => Number.isFinite(y)) }]
      }
    ]
  } satisfies Report.Section
})
