/**
 * Measures a model, alone or against another, on the help desk or on benchmarks of which the user has the files.
 *
 * @since 0.1.0
 */

import { Pretrained } from "@attune/core/hub"
import { OrtPolicy } from "@attune/core/ort"
import { KlFromReference, Report, type Score } from "@attune/eval"
import { ReportFile } from "@attune/eval/report"
import { Clock, Console, Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import * as BenchmarkFiles from "./BenchmarkFiles.ts"
import * as CommonFlags from "./CommonFlags.ts"
import * as Comparison from "./Comparison.ts"
import * as DeskScores from "./DeskScores.ts"
import * as Format from "./desk/Format.ts"
import * as SummaryFile from "./SummaryFile.ts"
import { versions } from "./Versions.ts"

const flags = {
  ...CommonFlags.flags,
  model: Flag.String("model").pipe(
    Flag.withMetavar("DIR|REPO"),
    Flag.withDescription("Model directory or Hugging Face repository. Default the shipped help-desk model"),
    Flag.withDefault(DeskScores.deskModel)
  ),
  against: Flag.String("against").pipe(
    Flag.withMetavar("DIR|REPO"),
    Flag.withDescription(
      "A second model, such as the one before alignment: both are measured, and compared item by item"
    ),
    Flag.optional
  ),
  ...BenchmarkFiles.flags
}

// Tickets that are shown with their summaries.
const shown = 8

// Divergences compare distributions over the same ids.
const sameIds = (a: OrtPolicy.OrtPolicy, b: OrtPolicy.OrtPolicy): boolean => {
  const file = ({ tokenizer }: OrtPolicy.OrtPolicy) => Buffer.from(tokenizer.files.get("tokenizer.json") ?? [])
  return a.vocabSize === b.vocabSize && file(a).equals(file(b))
}

const divergence = ({ perResponse, perToken }: KlFromReference.KlFromReference): Report.Section => ({
  title: "KL divergence of the model from the other",
  text: "Estimated on summaries that the model draws at temperature 1, in nats.",
  blocks: [
    {
      _tag: "Table",
      columns: ["", "k1", "k3"],
      rows: [
        ["per token", perToken.k1, perToken.k3],
        ["per response", perResponse.k1, perResponse.k3]
      ]
    }
  ]
})

/**
 * `pnpm example evaluate`.
 *
 * @category running
 * @since 0.1.0
 */
export const command = Command.make(
  "evaluate",
  flags,
  Effect.fn("Evaluation")(function* (chosen) {
    const started = yield* Clock.currentTimeMillis
    const out = CommonFlags.directory("evaluate", chosen)
    const tickets = chosen.quick ? 20 : 300
    const onFiles = BenchmarkFiles.isAnyChosen(chosen)

    const measure = Effect.fn("Evaluation.measure")(function* (system: string, policy: OrtPolicy.OrtPolicy) {
      if (onFiles) return { scores: yield* BenchmarkFiles.scores(system, policy, chosen) }
      const desk = yield* DeskScores.desk(system, policy, chosen.seed + 100, tickets)
      return { scores: desk.scores, desk }
    })
    const load = Effect.fnUntraced(function* (source: string) {
      return yield* OrtPolicy.make(yield* Pretrained.load(yield* Pretrained.resolve(source)))
    })

    const alone = Effect.fn("Evaluation.alone")(function* () {
      const { scores } = yield* measure("model", yield* load(chosen.model))
      const section: Report.Section = { title: "Scores", blocks: [{ _tag: "Scores", scores }] }
      return { scores, sections: [section] }
    })

    const compared = Effect.fn("Evaluation.compared")(function* (source: string) {
      const model = yield* load(chosen.model)
      const against = yield* load(source)
      const before = yield* measure("against", against)
      const after = yield* measure("model", model)
      const scores: ReadonlyArray<Score.Score> = [...before.scores, ...after.scores]
      const sections: Array<Report.Section> = [
        yield* Effect.fromResult(Comparison.scores(before.scores, after.scores, chosen.seed))
      ]
      if (before.desk === undefined || after.desk === undefined) return { scores, sections }
      const prompts = after.desk.tickets.map(Format.summary)
      const judged = yield* DeskScores.winRate(after.desk.tickets, after.desk.gold, before.desk.gold)
      sections.push(Comparison.winRate(judged))
      if (sameIds(model, against)) {
        const kl = yield* KlFromReference.measure(model, against, prompts, { maxNewTokens: 40, seed: chosen.seed })
        sections.push(divergence(kl))
      }
      const texts = ({ greedy }: DeskScores.Gold) => greedy.slice(0, shown).map((text) => ({ text }))
      sections.push(
        Comparison.samples({
          systems: ["against", "model"],
          prompts: prompts.slice(0, shown),
          before: texts(before.desk.gold),
          after: texts(after.desk.gold)
        })
      )
      return { scores: [...scores, judged.score], sections }
    })

    const program = Effect.gen(function* () {
      const { scores, sections } = yield* Option.match(chosen.against, { onNone: alone, onSome: compared })
      const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
      const path = yield* SummaryFile.write(out, { example: "evaluate", scores, versions, seed: chosen.seed, seconds })
      const report = yield* ReportFile.write(out, {
        title: "Evaluation",
        provenance: {
          versions,
          seeds: { evaluation: chosen.seed },
          commands: [`pnpm example ${process.argv.slice(2).join(" ")}`],
          models: [
            { name: "model", source: chosen.model },
            ...Option.match(chosen.against, { onNone: () => [], onSome: (source) => [{ name: "against", source }] })
          ],
          datasets: []
        },
        sections
      })
      for (const line of Report.lines(scores)) yield* Console.log(line)
      yield* Console.log(`report: ${report.html}   summary: ${path}   ${seconds.toFixed(0)} s`)
    })
    yield* CommonFlags.run(program, chosen, out)
  })
).pipe(
  Command.withDescription(
    "Measures a model, or two against each other, and writes a report: on the help desk, or on benchmark files you give"
  )
)
