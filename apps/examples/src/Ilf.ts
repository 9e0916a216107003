/**
 * Imitation learning from language feedback (Scheurer et al. 2023, arXiv:2303.16755): the policy drafts, somebody says what is
 * wrong, a model refines, a judge selects, and the policy learns to say it at once; then the paper's comparisons in small.
 *
 * @since 0.1.0
 */
import { join } from "node:path"
import { FeedbackSource, type Policy, Prompt, RewardModel } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { LearningRate, Optimizer } from "@attune/core/onnx"
import { OrtEmbedding, OrtLearner, OrtPolicy } from "@attune/core/ort"
import type { Report, Score } from "@attune/eval"
import { ReportFile } from "@attune/eval/report"
import {
  BinaryReward,
  EmbeddingSimilarity,
  FineTuning,
  Ilf,
  InstructRm,
  PromptLoss,
  Refinement,
  Selection,
  type Templates,
  WordRemoval
} from "@attune/ilf"
import { Clock, Console, Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import * as CommonFlags from "./CommonFlags.ts"
import * as Comparison from "./Comparison.ts"
import * as DeskScores from "./DeskScores.ts"
import * as IlfDesk from "./IlfDesk.ts"
import * as IlfFiles from "./IlfFiles.ts"
import * as IlfScores from "./IlfScores.ts"
import * as Provenance from "./Provenance.ts"
import * as SummaryFile from "./SummaryFile.ts"
import { versions } from "./Versions.ts"

const flags = {
  ...CommonFlags.flags,
  model: DeskScores.modelFlag,
  learningRate: CommonFlags.learningRate("Learning rate of fine-tuning", 3e-4),
  epochs: CommonFlags.count("epochs").pipe(
    Flag.withDescription("Passes over what is imitated. Default 2"),
    Flag.withDefault(2)
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

const full = { training: [100, 300, 800], test: 400, rankings: 400, ranked: 400, perCell: 50 }
const quick = { training: [8, 16], test: 12, rankings: 32, ranked: 12, perCell: 1 }

const batchSize = 16
const refinementsOf = 5
const answersOf = 4
const bestOf = 8
// Of refinements that differ: those of the base model at temperature 1 are mostly alike.
const variedTemperature = 2
const reward = { epochs: 1, batchSize: 16, learningRate: 5e-4 }

// Answers that are shown beside each other.
const shown = 6

const ensemble = `InstructRM, ${IlfDesk.judgements.length} prompts`

const trimmed = (text: string): string => text.trim()
const drawing = { postProcess: trimmed }
const refining = { ...drawing, template: IlfDesk.refinement.template, context: IlfDesk.context }

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
    const kept = (stage: string) => ({ directory: join(out, stage), resume })

    const finish = Effect.fn("Ilf.finish")(function* (
      scores: ReadonlyArray<Score.Score>,
      sections: ReadonlyArray<Report.Section>,
      datasets: ReadonlyArray<Provenance.Dataset>
    ) {
      const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
      const summary = yield* SummaryFile.write(out, { example: "ilf", scores, versions, seed, seconds })
      const report = yield* ReportFile.write(out, {
        title: "Imitation learning from language feedback",
        provenance: Provenance.make({
          seeds: { everything: seed },
          models: [{ name: "base", source: chosen.model }],
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
      const { tokenizer } = base
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
          refinements: refinementsOf,
          maxNewTokens: chosen.maxNewTokens,
          epochs,
          batchSize,
          seed,
          ...kept("ilf")
        })
        yield* Console.log(`${file}: ${counts}`)
        for (const line of Comparison.table(scores)) yield* Console.log(line)
        return yield* finish(scores, sections, [yield* Provenance.dataset(file, count)])
      }
      const sizes = chosen.quick ? quick : full
      const desk = IlfDesk.make(sizes, seed)
      const most = sizes.training.at(-1)!
      const judge = InstructRm.make(reference, { templates: IlfDesk.judgements, context: IlfDesk.context })
      const lead = { lead: " " }

      // 1. The method, on all prompts at once, and in two rounds of half of them.
      const imitate = Effect.fnUntraced(function* (name: string, prompts: ReadonlyArray<ReadonlyArray<string>>) {
        const learner = yield* learnerOf(learningRate)
        const rounds = yield* Ilf.train(
          { draft: learner.model, refine: reference, learner },
          {
            prompts,
            drafts: drawing,
            refinements: refining,
            samples: refinementsOf,
            examples: lead,
            epochs,
            batchSize,
            between: "continue",
            seed,
            ...kept(name)
          }
        ).pipe(
          Effect.provideService(FeedbackSource.FeedbackSource, desk.critic),
          Effect.provideService(Selection.Selector, judge)
        )
        yield* Pretrained.save(learner.model, join(out, name, "model"))
        return { rounds, policy: learner.model }
      })
      const ilf = yield* imitate(`ilf-${most}`, [desk.prompts])
      const half = Math.ceil(most / 2)
      const iterated = yield* imitate("ilf-iterated", [desk.prompts.slice(0, half), desk.prompts.slice(half)])

      // 2. Less of it, and what else could be learned from as many prompts.
      const fineTune = Effect.fnUntraced(function* (name: string, targets: FineTuning.Targets) {
        const learner = yield* learnerOf(learningRate)
        const imitated = yield* Effect.fromResult(targets)
        const examples = yield* Effect.fromResult(FineTuning.examples(tokenizer, imitated, lead))
        yield* FineTuning.train(learner, examples, { epochs, batchSize, seed, ...kept(name) })
        yield* Pretrained.save(learner.model, join(out, name, "model"))
        return learner.model
      })
      const { questions, selected, summary, uncriticised } = ilf.rounds[0]!
      const untrained = yield* Refinement.draft(reference, desk.prompts, { ...drawing, seed })
      const policies: Array<{ readonly name: string; readonly policy: Policy.PolicyShape }> = []
      for (const count of sizes.training) {
        const among = new Set(desk.prompts.slice(0, count))
        const own = questions.flatMap((question, i) =>
          among.has(question.critique.prompt as string) ? [{ question, choice: selected[i] }] : []
        )
        const critiques = own.map(({ question }) => question)
        const choices = own.map(({ choice }) => choice)
        const drafts = FineTuning.drafts(
          untrained.slice(0, count).flatMap(([draft], i) => {
            const completion = draft?.text ?? ""
            return completion === "" ? [] : [{ prompt: desk.prompts[i]!, completion }]
          })
        )
        const shownHow = FineTuning.demonstrations(desk.demonstrations.slice(0, count))
        policies.push(
          { name: `drafts, ${count}`, policy: yield* fineTune(`drafts-${count}`, drafts) },
          { name: `demonstrations, ${count}`, policy: yield* fineTune(`demonstrations-${count}`, shownHow) },
          {
            name: `ILF, ${count}`,
            policy:
              count === most ? ilf.policy : yield* fineTune(`ilf-${count}`, FineTuning.refinements(critiques, choices))
          }
        )
      }

      // 3. The paper's reward models, from comparisons of what the base model and the trained one say; fewer for smaller sizes.
      const answers = yield* Effect.forEach([reference, ilf.policy], (policy) =>
        Refinement.draft(policy, desk.compared, { ...drawing, count: answersOf, seed: seed + 4 })
      )
      const rankings = desk.rank(
        desk.compared.map((_, i) => answers.flatMap((drawn) => drawn[i]!.map(({ text }) => text)))
      )
      const rewardModelOf = Effect.fnUntraced(function* (count: number) {
        const learner = yield* learnerOf(reward.learningRate)
        const compared = rankings.slice(0, Math.ceil((rankings.length * count) / most))
        const pairs = BinaryReward.examples(reference, compared, { template: IlfDesk.excellent })
        const name = `reward-model-${count}`
        yield* BinaryReward.train(learner, yield* Effect.fromResult(pairs), { ...reward, seed, ...kept(name) })
        yield* Pretrained.save(learner.model, join(out, name, "model"))
        return BinaryReward.make(learner.model, { template: IlfDesk.excellent })
      })
      const scorers = new Map<number, RewardModel.RewardModelShape>()
      for (const count of sizes.training) scorers.set(count, yield* rewardModelOf(count))

      // 4. Who writes the better answers.
      const answering = (policy: Policy.PolicyShape, count: number, seed: number) =>
        Refinement.draft(policy, desk.test, { ...drawing, count, seed })
      const once = Effect.fnUntraced(function* (name: string, policy: Policy.PolicyShape) {
        const drawn = yield* answering(policy, 1, seed + 1)
        return { name, texts: drawn.map(([candidate]) => candidate?.text ?? "") }
      })
      // Of the same answers, by each reward model.
      const best = Effect.fnUntraced(function* (
        policy: Policy.PolicyShape,
        named: ReadonlyArray<readonly [string, number]>
      ) {
        const drawn = yield* answering(policy, bestOf, seed + 2)
        const answers = drawn.flatMap((candidates, i) =>
          candidates.map(({ completion, text }) => ({
            prompt: Prompt.make(desk.test[i]!, []),
            completion: { ...completion, text }
          }))
        )
        return yield* Effect.forEach(
          named,
          Effect.fnUntraced(function* ([name, count]) {
            const rewards = yield* RewardModel.guarded(scorers.get(count)!).score(answers)
            let at = 0
            const texts = drawn.map((candidates) => {
              const own = rewards.subarray(at, at + candidates.length)
              at += candidates.length
              return candidates[own.indexOf(Math.max(...own))]?.text ?? ""
            })
            return { name, texts }
          })
        )
      })
      const top = { name: `ILF, ${most}`, policy: ilf.policy }
      const twice = `ILF, 2 rounds of ${half}`
      const bestBase = (count: number) => `best of ${bestOf}, ${count}`
      const bestIlf = (count: number) => `ILF + best of ${bestOf}, ${count}`
      const answered = [
        yield* once("base", reference),
        ...(yield* best(
          reference,
          sizes.training.map((count) => [bestBase(count), count])
        )),
        ...(yield* Effect.forEach(policies, ({ name, policy }) => once(name, policy))),
        ...(yield* Effect.forEach(sizes.training, (count) =>
          best(policies.find(({ name }) => name === `ILF, ${count}`)!.policy, [[bestIlf(count), count]])
        )).flat(),
        yield* once(twice, iterated.policy)
      ]
      const duels = [
        ...sizes.training.flatMap(
          (count): ReadonlyArray<readonly [string, string]> => [
            [`ILF, ${count}`, `drafts, ${count}`],
            [`ILF, ${count}`, `demonstrations, ${count}`],
            [`ILF, ${count}`, bestBase(count)],
            [bestIlf(count), `ILF, ${count}`],
            [bestIlf(count), `demonstrations, ${count}`]
          ]
        ),
        [top.name, "base"],
        [twice, top.name]
      ] as const
      const session = yield* IlfScores.session(answered, { prompts: desk.test, gold: desk.gold, duels, shown })

      // 5. Who selects well: among what the method had, and among refinements that differ more; and what critiques are worth.
      const varied = yield* Refinement.sample(
        reference,
        questions.slice(0, sizes.ranked).map(({ critique }) => critique),
        { ...refining, count: refinementsOf, sampling: { temperature: variedTemperature }, seed: seed + 5 }
      )
      const rankedQuestions = [
        { task: "refinements at temperature 1", questions: questions.slice(0, sizes.ranked) },
        {
          task: `refinements at temperature ${variedTemperature}`,
          questions: varied.flatMap((candidates, i) => {
            const refinements = candidates.map(({ text }) => text).filter((text) => text !== "")
            return refinements.length === 0 ? [] : [{ critique: questions[i]!.critique, refinements }]
          })
        }
      ]
      const byReward = Selection.fromRewardModel(scorers.get(most)!, { name: "reward model" })
      const rankers = yield* Effect.forEach(
        rankedQuestions,
        Effect.fnUntraced(function* ({ questions, task }) {
          const byTemplate = yield* judge.templateScores(questions)
          const mean = questions.map((_, i) => InstructRm.mean(byTemplate.map((scores) => scores[i]!)))
          const scored = [
            { name: ensemble, scores: mean },
            ...byTemplate.map((scores, i) => ({ name: `InstructRM, prompt ${i + 1}`, scores })),
            { name: "embedding similarity", scores: yield* similarity.score(questions) },
            { name: "reward model", scores: yield* byReward.score(questions) },
            { name: "longest", scores: yield* Selection.longest.score(questions) }
          ]
          return yield* IlfScores.rankers(task, questions, scored, { ...desk, seed })
        })
      )
      const one = Effect.fnUntraced(function* (template: Templates.Template) {
        const critiques = questions.map(({ critique }) => critique)
        const drawn = yield* Refinement.sample(reference, critiques, {
          ...refining,
          template,
          count: 1,
          extra: 0,
          seed: seed + 3
        })
        return drawn.map(([candidate]) => candidate?.text ?? "")
      })
      const incorporated = yield* IlfScores.incorporated(
        questions.map(({ critique }) => critique),
        {
          best: questions.map(({ refinements }, i) => refinements[selected[i]!.index]!),
          one: yield* one(IlfDesk.refinement.template),
          unguided: yield* one(IlfDesk.refinement.direct)
        },
        desk.follows
      )

      // 6. The paper's toy task.
      const items = WordRemoval.make({ perCell: sizes.perCell, seed })
      const removal = yield* IlfScores.wordRemoval(
        yield* Effect.forEach([{ name: "base", policy: reference }, top], ({ name: system, policy }) =>
          Effect.map(WordRemoval.evaluate(policy, items), (scored) => ({ system, scored }))
        )
      )

      const scores = [session, incorporated, ...rankers, removal].flatMap(
        (part): ReadonlyArray<Score.Score> => part.scores
      )
      // All of it is in the report; the terminal has what the method is about.
      const ensembles = rankers.flatMap((part) =>
        part.scores.filter(({ metric, system }) => system === ensemble && metric.startsWith("critique followed"))
      )
      const told = [...session.scores, ...incorporated.scores, ...ensembles, ...removal.scores]
      for (const line of Comparison.table(told)) yield* Console.log(line)
      const sections = [
        session.sections[0]!,
        IlfScores.feedback(desk.prompts.length, { summary, uncriticised }),
        incorporated.section,
        ...rankers.map(({ section }) => section),
        removal.section,
        ...session.sections.slice(1)
      ]
      yield* finish(scores, sections, [])
    })
    yield* CommonFlags.run(program, chosen, out)
  })
).pipe(
  Command.withDescription(
    "Drafts, critiques in words, refinements and fine-tuning on the selected ones, compared with what else could be learned from"
  )
)
