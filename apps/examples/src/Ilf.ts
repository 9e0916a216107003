/**
 * Imitation learning from language feedback (Scheurer et al. 2023, arXiv:2303.16755): the policy drafts, somebody says what is
 * wrong, a model refines, a judge selects, and the policy learns to say it at once; then the paper's comparisons in small.
 *
 * @since 0.1.0
 */
import { join } from "node:path"
import { Pretrained } from "@attune/core/hub"
import { LearningRate, Optimizer } from "@attune/core/onnx"
import { OrtEmbedding, OrtLearner, OrtPolicy } from "@attune/core/ort"
import type { Report, Score } from "@attune/eval"
import { ReportFile } from "@attune/eval/report"
import { EmbeddingSimilarity, InstructRm, PromptLoss, Selection } from "@attune/ilf"
import { Clock, Console, Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import * as CommonFlags from "./CommonFlags.ts"
import * as Comparison from "./Comparison.ts"
import * as DeskScores from "./DeskScores.ts"
import * as IlfDesk from "./IlfDesk.ts"
import * as IlfEvaluation from "./IlfEvaluation.ts"
import * as IlfFiles from "./IlfFiles.ts"
import * as IlfTraining from "./IlfTraining.ts"
import * as Provenance from "./Provenance.ts"
import * as SummaryFile from "./SummaryFile.ts"
import { versions } from "./Versions.ts"

const flags = {
  ...CommonFlags.flags,
  model: DeskScores.modelFlag,
  learningRate: CommonFlags.learningRate("Learning rate of fine-tuning", 3e-4),
  epochs: CommonFlags.count("epochs").pipe(
    Flag.withDescription("Passes over what is imitated. Default 1, as in the paper, where more were worse"),
    Flag.withDefault(1)
  ),
  critiques: Flag.String("critiques").pipe(
    Flag.withMetavar("FILE.jsonl"),
    Flag.withDescription(
      "Drafts with critiques, {prompt, completion, critique, refinement?} a line. Default: all is of the help desk"
    ),
    Flag.optional
  ),
  rows: CommonFlags.count("rows").pipe(
    Flag.withDescription("Most critiques to take of the file. Default all, with --quick 8"),
    Flag.optional
  ),
  selector: Flag.Literals("selector", ["instruct-rm", "embedding", "longest", "random"]).pipe(
    Flag.withDescription("Who selects among the refinements of a file's drafts. Default instruct-rm, the model itself"),
    Flag.withDefault("instruct-rm")
  ),
  maxNewTokens: CommonFlags.count("max-new-tokens").pipe(
    Flag.withDescription("Longest refinement of a draft of the file. Default 48"),
    Flag.withDefault(48)
  )
}

const full = { training: [100, 300, 800], test: 300, rankings: 400, ranked: 600, perCell: 50 }
const quick = { training: [8, 16], test: 12, rankings: 32, ranked: 12, perCell: 1 }

const batchSize = 16

/**
 * `pnpm example ilf`.
 *
 * @category running
 * @since 0.1.0
 */
export const command = Command.make(
  "ilf",
  flags,
  Effect.fn("Ilf")(function* (chosen) {
    const started = yield* Clock.currentTimeMillis
    const out = CommonFlags.directory("ilf", chosen)
    const { epochs, learningRate, resume, seed } = chosen

    const finish = Effect.fn("Ilf.finish")(function* (
      scores: ReadonlyArray<Score.Score>,
      sections: ReadonlyArray<Report.Section>,
      datasets: ReadonlyArray<Provenance.Dataset>,
      judges: ReadonlyArray<{ readonly name: string; readonly source: string }> = []
    ) {
      const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
      const summary = yield* SummaryFile.write(out, { example: "ilf", scores, versions, seed, seconds })
      const report = yield* ReportFile.write(out, {
        title: "Imitation learning from language feedback",
        provenance: Provenance.make({
          seeds: { everything: seed },
          models: [{ name: "base", source: chosen.model }, ...judges],
          datasets
        }),
        sections
      })
      yield* Console.log(
        `models: ${join(out, "*/model")}   report: ${report.html}   summary: ${summary}   ${seconds.toFixed(0)} s`
      )
    })

    const program = Effect.gen(function* () {
      const base = yield* Pretrained.load(yield* Pretrained.resolve(chosen.model))
      const reference = yield* OrtPolicy.make(base)
      const learnerOf = Effect.fnUntraced(function* (rate: number) {
        return yield* OrtLearner.make({
          model: yield* OrtPolicy.make(base),
          loss: PromptLoss.loss,
          optimizer: Optimizer.adamW({ learningRate: LearningRate.constant(rate), maxGradNorm: 1 })
        })
      })
      const similarity = EmbeddingSimilarity.make(EmbeddingSimilarity.embedder(yield* OrtEmbedding.make(reference)))
      if (Option.isSome(chosen.critiques)) {
        const file = chosen.critiques.value
        const selector = {
          "instruct-rm": InstructRm.make(reference),
          embedding: similarity,
          longest: Selection.longest,
          random: Selection.random(seed)
        }[chosen.selector]
        const { count, counts, scores, sections } = yield* IlfFiles.imitate({
          file,
          rows: Option.getOrElse(chosen.rows, () => (chosen.quick ? 8 : Infinity)),
          reference,
          selector,
          judging: chosen.selector === "instruct-rm" ? InstructRm.templates : [],
          learner: yield* learnerOf(learningRate),
          refinements: IlfTraining.refinementsOf,
          maxNewTokens: chosen.maxNewTokens,
          epochs,
          batchSize,
          seed,
          directory: join(out, "ilf"),
          resume
        })
        yield* Console.log(`${file}: ${counts}`)
        for (const line of Comparison.table(scores)) yield* Console.log(line)
        return yield* finish(scores, sections, [yield* Provenance.dataset(file, count)])
      }
      const sizes = chosen.quick ? quick : full
      const desk = IlfDesk.make(sizes, seed)
      const judging = yield* OrtPolicy.make(yield* Pretrained.load(IlfDesk.judgeModel))
      const judge = InstructRm.make(judging, { templates: IlfDesk.judgements, context: IlfDesk.context })
      const trained = yield* IlfTraining.train({
        desk,
        sizes: sizes.training,
        reference,
        judge,
        learnerOf,
        learningRate,
        epochs,
        batchSize,
        seed,
        directory: out,
        resume
      })
      const { ranked, perCell } = sizes
      const measured = yield* IlfEvaluation.measure({
        desk,
        reference,
        judge,
        similarity,
        trained,
        ranked,
        perCell,
        seed
      })
      for (const line of Comparison.table(measured.told)) yield* Console.log(line)
      yield* finish(measured.scores, measured.sections, [], [{ name: "judge", source: IlfDesk.judgeModel }])
    })
    yield* CommonFlags.run(program, chosen, out)
  })
).pipe(
  Command.withDescription(
    "Drafts, critiques in words, refinements and fine-tuning on the selected ones, compared with what else could be learned from"
  )
)
