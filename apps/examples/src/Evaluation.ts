/**
 * Measures a model, alone or against another, on the help desk or on benchmarks of which the user has the files.
 *
 * @since 0.1.0
 */

import { basename } from "node:path"
import { Pretrained } from "@attune/core/hub"
import { OrtPolicy } from "@attune/core/ort"
import { KlFromReference, type Report, type Score } from "@attune/eval"
import { ReportFile } from "@attune/eval/report"
import { Clock, Console, Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import * as BenchmarkFiles from "./BenchmarkFiles.ts"
import * as CommonFlags from "./CommonFlags.ts"
import * as Comparison from "./Comparison.ts"
import * as DeskScores from "./DeskScores.ts"
import * as Format from "./desk/Format.ts"
import * as Provenance from "./Provenance.ts"
import * as SummaryFile from "./SummaryFile.ts"
import { versions } from "./Versions.ts"

// Nothing here takes so long that it has checkpoints.
const { resume: _, ...common } = CommonFlags.flags

const flags = {
  ...common,
  model: DeskScores.modelFlag,
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

// What the systems are called: by the end of their paths, or by the whole where that is the same.
const systems = Effect.fnUntraced(function* (model: string, against: Option.Option<string>) {
  const other = Option.getOrElse(against, () => "")
  if (model === other) {
    const message = `--model and --against are both ${model}; name another model to compare it with, or leave --against out`
    return yield* new CommonFlags.ExampleError({ message })
  }
  const short = { model: basename(model), against: basename(other) }
  return short.model === short.against ? { model, against: other } : short
})

const divergence = (
  { against, model }: { readonly model: string; readonly against: string },
  { perResponse, perToken }: KlFromReference.KlFromReference
): Report.Section => ({
  title: `KL divergence of ${model} from ${against}`,
  text: `Estimated on summaries that ${model} draws at temperature 1, in nats.`,
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
    const tickets = Option.getOrElse(chosen.rows, () => (chosen.quick ? 20 : 300))

    const program = Effect.gen(function* () {
      const names = yield* systems(chosen.model, chosen.against)
      const benchmarks = yield* BenchmarkFiles.read(chosen)

      const measure = Effect.fn("Evaluation.measure")(function* (system: string, policy: OrtPolicy.OrtPolicy) {
        if (benchmarks.length === 0) {
          const desk = yield* DeskScores.desk(system, policy, chosen.seed + 100, tickets)
          return { scores: desk.scores, warnings: [], desk }
        }
        const measured = yield* Effect.forEach(benchmarks, (benchmark) => benchmark.measure(system, policy))
        return {
          scores: measured.flatMap(({ scores }) => scores),
          warnings: measured.flatMap(({ warnings }) => warnings)
        }
      })
      const load = Effect.fnUntraced(function* (source: string) {
        return yield* OrtPolicy.make(yield* Pretrained.load(yield* Pretrained.resolve(source)))
      })

      const alone = Effect.fn("Evaluation.alone")(function* () {
        const { scores, warnings } = yield* measure(names.model, yield* load(chosen.model))
        const section: Report.Section = { title: "Scores", blocks: [{ _tag: "Scores", scores }] }
        return { scores, warnings, sections: [section] }
      })

      const compared = Effect.fn("Evaluation.compared")(function* (source: string) {
        const model = yield* load(chosen.model)
        const against = yield* load(source)
        const before = yield* measure(names.against, against)
        const after = yield* measure(names.model, model)
        const scores: ReadonlyArray<Score.Score> = [...before.scores, ...after.scores]
        const warnings = [...before.warnings, ...after.warnings]
        const sections: Array<Report.Section> = [
          yield* Effect.fromResult(Comparison.scores(before.scores, after.scores, chosen.seed))
        ]
        if (before.desk === undefined || after.desk === undefined) return { scores, warnings, sections }
        const prompts = after.desk.tickets.map(Format.summary)
        const judged = yield* DeskScores.winRate(after.desk.tickets, after.desk.gold, before.desk.gold)
        sections.push(Comparison.winRate(judged))
        if (sameIds(model, against)) {
          const kl = yield* KlFromReference.measure(model, against, prompts, { maxNewTokens: 40, seed: chosen.seed })
          sections.push(divergence(names, kl))
        }
        const texts = ({ greedy }: DeskScores.Gold) => greedy.slice(0, shown).map((text) => ({ text }))
        sections.push(
          Comparison.samples({
            systems: [names.against, names.model],
            prompts: prompts.slice(0, shown),
            before: texts(before.desk.gold),
            after: texts(after.desk.gold)
          })
        )
        return { scores: [...scores, judged.score], warnings, sections }
      })

      const { scores, sections, warnings } = yield* Option.match(chosen.against, { onNone: alone, onSome: compared })
      const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
      const path = yield* SummaryFile.write(out, { example: "evaluate", scores, versions, seed: chosen.seed, seconds })
      const report = yield* ReportFile.write(out, {
        title: "Evaluation",
        provenance: Provenance.make({
          seeds: { evaluation: chosen.seed },
          models: [
            { name: names.model, source: chosen.model },
            ...Option.toArray(chosen.against).map((source) => ({ name: names.against, source }))
          ],
          datasets: benchmarks.map(({ dataset }) => dataset)
        }),
        sections: [
          ...(warnings.length === 0
            ? []
            : [{ title: "What was cut", blocks: [{ _tag: "Warnings" as const, items: warnings }] }]),
          ...sections
        ]
      })
      for (const line of Comparison.table(scores)) yield* Console.log(line)
      for (const warning of warnings) yield* Console.log(`warning: ${warning}`)
      yield* Console.log(`report: ${report.html}   summary: ${path}   ${seconds.toFixed(0)} s`)
    })
    yield* CommonFlags.run(program, chosen, out)
  })
).pipe(
  Command.withDescription(
    "Measures a model, or two against each other, and writes a report: on the help desk, or on benchmark files you give"
  )
)
