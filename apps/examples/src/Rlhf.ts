/**
 * Reinforcement learning from human feedback as InstructGPT has it: supervised fine-tuning, a reward model from rankings, PPO
 * and PPO-ptx against it, and the paper's evaluation in small.
 *
 * @since 0.1.0
 */
import { join } from "node:path"
import { Epochs, Policy, type Prompt, RewardModel, Sft } from "@attune/core"
import { Pretrained, ScalarHead } from "@attune/core/hub"
import { LearningRate, Optimizer } from "@attune/core/onnx"
import { OrtLearner, OrtPolicy, OrtScalarModel } from "@attune/core/ort"
import { RankingAccuracy, type Report, type Score } from "@attune/eval"
import { ReportFile } from "@attune/eval/report"
import { Ppo, PpoConfig, PpoLearners, RankingSet, RewardModelling } from "@attune/rlhf"
import { Clock, Console, Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import * as CommonFlags from "./CommonFlags.ts"
import * as Comparison from "./Comparison.ts"
import * as DeskScores from "./DeskScores.ts"
import * as Provenance from "./Provenance.ts"
import * as RlhfMaterial from "./RlhfMaterial.ts"
import * as RlhfScores from "./RlhfScores.ts"
import * as SummaryFile from "./SummaryFile.ts"
import { versions } from "./Versions.ts"

const flags = {
  ...CommonFlags.flags,
  model: DeskScores.modelFlag,
  ...RlhfMaterial.flags,
  until: Flag.Literals("until", ["sft", "reward-model", "ppo"]).pipe(
    Flag.withDescription("The last stage to run. Default ppo"),
    Flag.withDefault("ppo")
  ),
  iterations: CommonFlags.count("iterations").pipe(
    Flag.withDescription("Iterations of PPO, and of PPO-ptx. Default 60, with --quick 2"),
    Flag.optional
  ),
  rows: CommonFlags.count("rows").pipe(
    Flag.withDescription(
      "Most rankings to take, a fifth of which is held out to measure on. Default 1500 on the help desk, all of a file"
    ),
    Flag.optional
  ),
  maxNewTokens: CommonFlags.count("max-new-tokens").pipe(
    Flag.withDescription("Longest answer. Default 40"),
    Flag.withDefault(40)
  ),
  learningRate: CommonFlags.learningRate("Peak learning rate of the policy in PPO", 1e-4),
  ptxCoef: Flag.Finite("ptx-coef").pipe(
    Flag.withDescription("Weight of the pretraining loss in PPO-ptx. Default 0.2"),
    Flag.filter(
      (value) => value > 0,
      () => "a number above 0"
    ),
    Flag.withDefault(0.2)
  )
}

// Of a model of a million parameters; larger ones want lower rates.
const supervised = { epochs: 2, batchSize: 16, learningRate: 3e-4, pretrainingShare: 0.1 }
const ranking = { epochs: 1, batchSize: 16, learningRate: 5e-4, heldOut: 0.2 }

const deskSizes: RlhfMaterial.Sizes = { demonstrations: 64, rankings: 1500, completions: 6, prompts: 800, test: 300 }
const quickSizes: RlhfMaterial.Sizes = { demonstrations: 16, rankings: 12, completions: 4, prompts: 16, test: 12 }

const bestOf = 4

// Answers that are shown beside each other.
const shown = 6

const settings = (
  {
    learningRate,
    maxNewTokens,
    quick,
    seed,
    ...chosen
  }: {
    readonly iterations: Option.Option<number>
    readonly learningRate: number
    readonly maxNewTokens: number
    readonly quick: boolean
    readonly seed: number
  },
  ptx: PpoConfig.Ptx | null
) => {
  const iterations = Option.getOrElse(chosen.iterations, () => (quick ? 2 : 60))
  const batchSize = quick ? 8 : 64
  return PpoConfig.make("instructgpt", {
    episodes: batchSize * iterations,
    batchSize,
    minibatchSize: quick ? 8 : 32,
    innerEpochs: 2,
    samplesPerPrompt: 4,
    maxNewTokens,
    kl: { _tag: "Fixed", klCoef: 0.05 },
    score: { missingEos: { _tag: "Penalty", penalty: 1 } },
    ptx,
    policyLearningRate: learningRate,
    valueLearningRate: 3 * learningRate,
    warmUpIterations: quick ? 0 : Math.min(2, iterations - 1),
    // A policy that still moves in large steps at the end is worth less than the way there.
    schedule: { _tag: "Linear", floor: 0.1 },
    maxGradNorm: 1,
    ema: null,
    seed
  })
}

/**
 * `pnpm example rlhf`.
 *
 * @category running
 * @since 0.1.0
 */
export const command = Command.make(
  "rlhf",
  flags,
  Effect.fn("Rlhf")(function* (chosen) {
    const started = yield* Clock.currentTimeMillis
    const out = CommonFlags.directory("rlhf", chosen)
    const { maxNewTokens, resume, seed } = chosen
    const kept = (stage: string) => ({ directory: join(out, stage), resume })
    const saved = (stage: string) => join(out, stage, "model")

    const program = Effect.gen(function* () {
      const base = yield* Pretrained.load(yield* Pretrained.resolve(chosen.model))
      const { tokenizer } = base
      const isDesk = Option.isNone(chosen.rankings)
      if (isDesk && [chosen.demonstrations, chosen.prompts, chosen.pretraining].some(Option.isSome)) {
        const message =
          "demonstrations, prompts and pretraining text need --rankings too: without them all is of the help desk"
        return yield* new CommonFlags.ExampleError({ message })
      }
      const sizes = chosen.quick ? quickSizes : deskSizes
      const everything = { ...sizes, rankings: Infinity, demonstrations: Infinity, prompts: Infinity }
      const most = isDesk || chosen.quick ? sizes : everything
      const rows = Option.getOrElse(chosen.rows, () => most.rankings)
      const limits = { ...most, rankings: chosen.quick ? Math.min(rows, most.rankings) : rows }
      const material: RlhfMaterial.Material = isDesk
        ? RlhfMaterial.ofDesk(base, limits, maxNewTokens, seed)
        : yield* RlhfMaterial.ofFiles(base, chosen, limits)
      if (chosen.until === "sft" && material.demonstrations.length === 0) {
        const message = "there is nothing to do until sft: give --demonstrations to fine-tune on, or a later stage"
        return yield* new CommonFlags.ExampleError({ message })
      }
      const room = base.decoder.contextLength - maxNewTokens
      const prompted = Effect.fnUntraced(function* (flag: string, contents: ReadonlyArray<Prompt.Content> | undefined) {
        if (contents === undefined || chosen.until !== "ppo") return undefined
        const prompts = yield* Effect.forEach(contents, (content) => Effect.fromResult(tokenizer.prompt(content)))
        return yield* RlhfMaterial.answerable(flag, prompts, room)
      })
      // Before anything is trained, so that what is wrong with them is not said after minutes.
      const ownPrompts = yield* prompted("--prompts", material.prompts)
      const ownTests = yield* prompted("test prompts", material.test.prompts)
      if (ownTests !== undefined && ownTests.length < material.test.prompts!.length) {
        const message = `the help desk's prompts need a longer context than the model's: ${room} tokens are left for them`
        return yield* new CommonFlags.ExampleError({ message })
      }

      // 1. Supervised fine-tuning, with a little pretraining text mixed in: where PPO starts, and what it is held to.
      const fineTune = Effect.fn("Rlhf.fineTune")(function* () {
        if (material.demonstrations.length === 0) return base
        const policy = yield* OrtPolicy.make(base)
        const own = yield* Effect.fromResult(Sft.examples(tokenizer, material.demonstrations))
        const examples =
          material.pretraining.length === 0
            ? own
            : yield* Effect.fromResult(
                Sft.mix(own, material.pretraining, { fraction: supervised.pretrainingShare, seed })
              )
        const { learningRate } = supervised
        const rate = LearningRate.cosine(learningRate, Epochs.steps(examples.length, supervised), learningRate / 10)
        const optimizer = Optimizer.adamW({ learningRate: rate, maxGradNorm: 1 })
        const learner = yield* OrtLearner.make({ model: policy, loss: Sft.loss, optimizer })
        yield* Sft.train(learner, examples, { ...supervised, seed, ...kept("sft") })
        const tuned = yield* policy.snapshot
        yield* Pretrained.save(tuned, saved("sft"))
        return tuned
      })
      const sft = yield* Effect.scoped(fineTune())
      const reference = yield* OrtPolicy.make(sft)
      if (chosen.until === "sft") return yield* Console.log(`model: ${saved("sft")}`)

      // 2. A reward model from rankings, whose scores of demonstrations are 0 on average.
      const rankings = yield* material.rankings(reference)
      const set = yield* RankingSet.make(reference, rankings, { copies: "remove", tooLong: "skip" })
      const { heldOut, train } = yield* Effect.fromResult(
        RankingSet.split(set.rankings, { share: ranking.heldOut, seed })
      )
      const counted = RlhfScores.counted(set.summary, heldOut.length)
      yield* Console.log(`rankings: ${counted}`)
      // Each once, since a prompt may have several rankings.
      const promptsOf = (what: string, of: typeof train) =>
        chosen.until === "reward-model"
          ? Effect.succeed([])
          : RlhfMaterial.answerable(what, [...new Map(of.map(({ prompt }) => [prompt.text, prompt])).values()], room)
      // Whole dialogues that do not begin alike are rankings without a prompt: then prompts are held out of those to answer.
      const canAnswer = heldOut.some(({ prompt }) => RlhfMaterial.canAnswer(prompt, room))
      const tests =
        ownTests ??
        (!canAnswer && ownPrompts !== undefined
          ? (yield* Effect.fromResult(
              RankingSet.split(
                ownPrompts.map((prompt) => ({ prompt })),
                { share: ranking.heldOut, seed }
              )
            )).heldOut.map(({ prompt }) => prompt)
          : yield* promptsOf("prompts of rankings held out (without --prompts)", heldOut))
      const isTest = new Set(tests.map(({ text }) => text))
      const asked = ownPrompts ?? (yield* promptsOf("prompts of rankings to learn from (without --prompts)", train))
      const answered = asked.filter(({ text }) => !isTest.has(text))
      if (answered.length < asked.length) {
        const left = `${asked.length - answered.length} of ${asked.length}`
        yield* Effect.logWarning(`--prompts: ${left} are held out to measure on`)
      }
      const scorer = yield* OrtScalarModel.make(ScalarHead.initial(sft, { seed }))
      const rate = LearningRate.cosine(
        ranking.learningRate,
        Epochs.steps(train.length, ranking),
        ranking.learningRate / 10
      )
      const rewardLearner = yield* OrtLearner.make({
        model: scorer,
        loss: RewardModelling.loss(),
        optimizer: Optimizer.adamW({ learningRate: rate, maxGradNorm: 1 })
      })
      yield* RewardModelling.train(rewardLearner, train, { ...ranking, seed, ...kept("reward-model") })
      if (material.demonstrations.length > 0) yield* RewardModelling.centre(scorer, material.demonstrations)
      yield* Pretrained.save(scorer, saved("reward-model"))
      const accuracy = yield* RlhfScores.heldOutAccuracy(scorer, heldOut)
      const rewardScores = RankingAccuracy.scores(accuracy, { system: "reward model" })
      for (const line of Comparison.table(rewardScores)) yield* Console.log(line)

      const finish = Effect.fn("Rlhf.finish")(function* (
        scores: ReadonlyArray<Score.Score>,
        sections: ReadonlyArray<Report.Section>
      ) {
        const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
        const summary = yield* SummaryFile.write(out, { example: "rlhf", scores, versions, seed, seconds })
        const report = yield* ReportFile.write(out, {
          title: "Reinforcement learning from human feedback",
          provenance: Provenance.make({
            seeds: { everything: seed },
            models: [{ name: "base", source: chosen.model }],
            datasets: material.datasets
          }),
          sections: [...sections, RlhfScores.rewardModel(accuracy, counted, seed)]
        })
        yield* Console.log(
          `models: ${join(out, "*/model")}   report: ${report.html}   summary: ${summary}   ${seconds.toFixed(0)} s`
        )
      })
      if (chosen.until === "reward-model") return yield* finish(rewardScores, [])

      // 3. PPO against the reward model, and where there is pretraining text, PPO-ptx.
      const reward = OrtScalarModel.rewardModel(scorer)
      const start = yield* scorer.snapshot
      const optimise = Effect.fn("Rlhf.optimise")(function* (name: string, ptx: PpoConfig.Ptx | null) {
        const config = yield* Effect.fromResult(settings(chosen, ptx))
        const policy = yield* OrtPolicy.make(sft)
        const values = yield* OrtScalarModel.make(start)
        const learners = PpoLearners.separate(
          yield* OrtLearner.make({ model: policy, ...PpoLearners.policyOptions(config) }),
          yield* OrtLearner.make({ model: values, ...PpoLearners.valueOptions(config) })
        )
        yield* Ppo.train(learners, config, {
          prompts: answered,
          ...(ptx === null ? {} : { pretraining: material.pretraining }),
          ...kept(name)
        }).pipe(
          Effect.provideService(Policy.Reference, reference),
          Effect.provideService(RewardModel.RewardModel, reward)
        )
        yield* Pretrained.save(policy, saved(name))
        return policy
      })
      const mix = { coef: chosen.ptxCoef, examplesPerEpisode: 1 }
      const systems = [
        { name: "PPO", policy: yield* optimise("ppo", null) },
        ...(material.pretraining.length === 0 ? [] : [{ name: "PPO-ptx", policy: yield* optimise("ppo-ptx", mix) }])
      ]

      // 4. The paper's evaluation in small: preferred to the supervised model, by whom, and at what price.
      const measured = yield* RlhfScores.measure({
        reference: { name: "SFT", policy: reference },
        systems,
        reward,
        prompts: tests,
        gold: material.test.gold,
        documents: material.test.documents,
        bestOf,
        maxNewTokens,
        seed,
        shown
      })
      for (const line of Comparison.table(measured.scores)) yield* Console.log(line)
      yield* finish(
        [...measured.scores, ...rewardScores],
        [
          ...measured.sections,
          yield* RlhfScores.training(systems.map(({ name }) => ({ name, directory: join(out, name.toLowerCase()) })))
        ]
      )
    })
    yield* CommonFlags.run(program, chosen, out)
  })
).pipe(
  Command.withDescription(
    "Supervised fine-tuning, a reward model from rankings, then PPO and PPO-ptx, compared with each other and with best-of-n"
  )
)
