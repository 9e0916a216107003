/**
 * What became of a model that was trained on feedback: whether its answers are preferred, how far it went for that, and what
 * it lost on the way.
 *
 * @since 0.1.0
 */
import {
  type Policy,
  Progress,
  type Prompt,
  type RewardModel,
  Rollout,
  RunLog,
  type ScalarModel,
  type Sft
} from "@attune/core"
import {
  AlignmentTax,
  Judge,
  KlFromReference,
  RankingAccuracy,
  type Report,
  Sample,
  Score,
  WinRate
} from "@attune/eval"
import type { RankingSet } from "@attune/rlhf"
import { Effect, Result } from "effect"
import * as ItemScores from "./ItemScores.ts"

/**
 * A policy, and what it is called.
 *
 * @category models
 * @since 0.1.0
 */
export interface System {
  readonly name: string
  readonly policy: Policy.PolicyShape
}

/**
 * What {@link measure} is given.
 *
 * **Details**
 *
 * Every system answers the prompts once at temperature 1; of the reference, also the best of `bestOf` answers by the
 * reward. `gold` scores an answer to prompt `i` where there is somebody who knows.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly reference: System
  readonly systems: ReadonlyArray<System>
  readonly reward: RewardModel.RewardModelShape
  readonly prompts: ReadonlyArray<Prompt.Prompt>
  readonly gold: ((i: number, text: string) => number) | undefined
  readonly documents: Readonly<Record<string, ReadonlyArray<Sft.Example>>>
  readonly bestOf: number
  readonly maxNewTokens: number
  readonly seed: number
  readonly shown: number
}

interface Answered {
  readonly system: string
  readonly texts: ReadonlyArray<string>
  readonly rewards: ReadonlyArray<number>
}

// Mean negative log-likelihood per token of documents, each token as much as its weight says.
const losses = Effect.fnUntraced(function* (
  { name: system, policy }: System,
  task: string,
  documents: ReadonlyArray<Sft.Example>
) {
  const logprobs = yield* policy.logprobs(
    documents.map(({ tokens }) => ({ prompt: tokens.subarray(0, 1), completion: tokens.subarray(1) }))
  )
  const values = documents.map(({ weights }, i) => {
    let [sum, total] = [0, 0]
    for (const [t, logprob] of logprobs[i]!.entries()) {
      sum -= weights[t + 1]! * logprob
      total += weights[t + 1]!
    }
    return sum / total
  })
  return yield* ItemScores.score({ system, task, metric: "loss", unit: "nats/token", higherIsBetter: false }, values)
})

// What a system has more or less of than another, each item against the same item.
const gaps = (
  of: ReadonlyArray<Score.Score>,
  than: ReadonlyArray<Score.Score>
): Result.Result<ReadonlyArray<Score.Score>, Sample.SampleError> =>
  Result.all(
    of.map(({ sample, estimate: _, task, ...measured }, i) =>
      Result.map(Sample.pair(sample, than[i]!.sample), (pair) =>
        Score.mean({ ...measured, task: `${task}, minus ${than[i]!.system}` }, Sample.difference(pair))
      )
    )
  )

/**
 * Measures systems against the reference that they started from, and each later one against the first.
 *
 * @category running
 * @since 0.1.0
 */
export const measure = Effect.fn("RlhfScores.measure")(function* (options: Options) {
  const { bestOf, documents, gold, maxNewTokens, prompts, reference, reward, seed, systems } = options
  const task = "held-out prompts"
  const progress = yield* Progress.start({ label: "evaluation", total: 3 + 3 * systems.length })
  let done = 0
  const counting = <A, E, R>(part: Effect.Effect<A, E, R>) => Effect.tap(part, () => progress.update(++done))

  const answer = Effect.fnUntraced(function* ({ name, policy }: System) {
    const completions = yield* policy.sample(prompts, { maxNewTokens, seed })
    const rollouts = completions.map((completion, i) => ({ prompt: prompts[i]!, completion }))
    const rewards = yield* reward.score(rollouts)
    return { system: name, texts: completions.map(({ text }) => text), rewards: Array.from(rewards), rollouts }
  })
  const chosen = Effect.fnUntraced(function* () {
    const repeated = prompts.flatMap((prompt) => Array.from({ length: bestOf }, () => prompt))
    const completions = yield* reference.policy.sample(repeated, { maxNewTokens, seed: seed + 1 })
    const scores = yield* reward.score(completions.map((completion, i) => ({ prompt: repeated[i]!, completion })))
    const best = prompts.map((_, i) => {
      const own = scores.subarray(i * bestOf, (i + 1) * bestOf)
      return i * bestOf + own.indexOf(Math.max(...own))
    })
    return {
      system: `${reference.name}, best of ${bestOf}`,
      texts: best.map((at) => completions[at]!.text),
      rewards: best.map((at) => scores[at]!)
    }
  })

  const before = yield* counting(answer(reference))
  const trained = yield* Effect.forEach(systems, (system) => counting(answer(system)))
  const all: ReadonlyArray<Answered> = [before, ...trained, yield* counting(chosen())]
  const answerScores = yield* Effect.forEach(all, ({ rewards, system, texts }) =>
    Effect.all([
      ...(gold === undefined
        ? []
        : [
            ItemScores.score(
              { system, task, metric: "gold score", unit: "points", higherIsBetter: true },
              texts.map((text, i) => gold(i, text))
            )
          ]),
      ItemScores.score({ system, task, metric: "learned reward", unit: "points", higherIsBetter: true }, rewards)
    ])
  )

  const divergences = yield* Effect.forEach(
    trained,
    Effect.fnUntraced(function* ({ rollouts, system }) {
      const refLogprobs = yield* reference.policy.logprobs(
        rollouts.map(({ completion, prompt }) => ({ prompt: prompt.tokens, completion: completion.tokens }))
      )
      const measured = rollouts.map((rollout, i) => Rollout.make({ ...rollout, refLogprobs: refLogprobs[i]! }))
      const responses = yield* Effect.fromResult(KlFromReference.fromRollouts(measured))
      const sample = yield* Effect.fromResult(KlFromReference.perResponse(responses, "k1"))
      const named = { system, task, metric: `KL from ${reference.name}`, unit: "nats/response", higherIsBetter: false }
      return Score.mean(named, sample)
    }, counting)
  )

  const documentScores = (system: System) =>
    counting(Effect.forEach(Object.entries(documents), ([task, of]) => losses(system, task, of)))
  const documentsBefore = yield* documentScores(reference)
  const documentsAfter = yield* Effect.forEach(systems, documentScores)

  // Answers of one text may be worth different rewards, as one that ended and one that was cut: a judge for each system.
  const byReward = ({ rewards, texts }: Answered) =>
    Judge.fromScore("learned reward", ({ completion, id }) => {
      const i = Number(id)
      return completion === texts[i] ? rewards[i]! : before.rewards[i]!
    })
  const judges = [
    ...(gold === undefined
      ? []
      : [() => Judge.fromScore("gold labeller", ({ completion, id }) => gold(Number(id), completion))]),
    byReward
  ]
  const judged = yield* Effect.forEach(judges, (judgeOf) =>
    Effect.forEach(all.slice(1), (answered) => {
      const { system, texts } = answered
      const judge = judgeOf(answered)
      return WinRate.compare(
        judge,
        texts.map((first, i) => ({ id: String(i), prompt: prompts[i]!.text, first, second: before.texts[i]! })),
        { session: judge.name, first: system, second: reference.name }
      )
    })
  )
  const winRates = judged.flat().map(({ score }) => score)

  const taxes = documentsBefore.length === 0 ? [] : documentsAfter
  const [first, ...later] = systems.map((_, i) => [...answerScores[i + 1]!, ...documentsAfter[i]!])
  const differences = yield* Effect.forEach(later, (own) => Effect.fromResult(gaps(own, first!)))
  const scores = [
    ...winRates,
    ...answerScores.flat(),
    ...divergences,
    ...documentsBefore,
    ...documentsAfter.flat(),
    ...differences.flat()
  ]
  const sections: ReadonlyArray<Report.Section> = [
    {
      title: `Preferred to ${reference.name}`,
      text: "Every system answers each held-out prompt once, at temperature 1; ties count half.",
      blocks: judged.flatMap((of): ReadonlyArray<Report.Block> => {
        const name = of[0]!.judge
        return [
          {
            _tag: "Forest",
            title: name,
            xLabel: "win rate",
            reference: 0.5,
            favours: { below: reference.name, above: "the other" },
            rows: of.map(({ score }) => ({ label: score.system, estimate: score.estimate }))
          },
          {
            _tag: "Table",
            columns: [name, "win rate", "wins", "ties", "losses"],
            rows: of.map(({ losses, score, ties, wins }) => [
              score.system,
              score.estimate,
              { count: wins },
              { count: ties },
              { count: losses }
            ])
          }
        ]
      })
    },
    { title: "Scores", blocks: [{ _tag: "Scores", scores: [...answerScores.flat(), ...divergences] }] },
    ...(taxes.length === 0
      ? []
      : [
          {
            title: "Alignment tax",
            text: "What else the model knew before: log-likelihood of documents that no reward speaks of.",
            blocks: yield* Effect.forEach(taxes, (after) =>
              Effect.fromResult(Result.map(AlignmentTax.compare(documentsBefore, after, { seed }), AlignmentTax.table))
            )
          }
        ]),
    ...(differences.length === 0
      ? []
      : [
          {
            title: `Beside ${systems[0]!.name}`,
            text: `Differences from ${systems[0]!.name}, paired by prompt and by document.`,
            blocks: [{ _tag: "Scores" as const, scores: differences.flat() }]
          }
        ]),
    {
      title: "Samples",
      blocks: [
        {
          _tag: "Samples",
          systems: all.map(({ system }) => system),
          rows: prompts.slice(0, options.shown).map((prompt, i) => ({
            prompt: prompt.text,
            outputs: all.map(({ rewards, texts }) => ({ text: texts[i]!, score: rewards[i]! }))
          }))
        }
      ]
    }
  ]
  return { scores, sections }
}, Effect.scoped)

/**
 * How a reward model ranks answers that it was not trained on.
 *
 * @category running
 * @since 0.1.0
 */
export const heldOutAccuracy = Effect.fn("RlhfScores.heldOutAccuracy")(function* (
  model: ScalarModel.ScalarModelShape,
  rankings: ReadonlyArray<RankingSet.TokenizedRanking>
) {
  const scores = yield* model.scores(
    rankings.flatMap(({ completions, prompt }) =>
      completions.map(({ tokens }) => ({ prompt: prompt.tokens, completion: tokens }))
    )
  )
  let at = 0
  const own = rankings.map(({ completions }) => {
    at += completions.length
    return scores.subarray(at - completions.length, at)
  })
  const texts = rankings.map(({ completions, prompt, ranks }) => ({
    prompt: prompt.messages ?? prompt.text,
    completions: completions.map(({ text }) => text),
    ranks
  }))
  return yield* Effect.fromResult(RankingAccuracy.fromScores("reward model", texts, own))
})

/**
 * What became of the rankings, in a sentence.
 *
 * @category formatting
 * @since 0.1.0
 */
export const counted = ({ copies, given, kept, pairs, tied, tooLong }: RankingSet.Summary, heldOut: number): string => {
  const left = [
    ...(tied > 0 ? [`${tied} all tied`] : []),
    ...(tooLong > 0 ? [`${tooLong} too long for the model's context`] : [])
  ]
  const without = left.length === 0 ? "" : ` of ${given} (without ${left.join(", ")})`
  const twice = copies === 0 ? "" : `; ${copies} answers that stood twice in their ranking are removed`
  return `${kept}${without}, ${pairs} pairs; ${kept - heldOut} to learn from, ${heldOut} held out${twice}`
}

/**
 * The reward model's part of the report.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rewardModel = (accuracy: RankingAccuracy.Scored, counted: string, seed: number): Report.Section => ({
  title: "Reward model",
  text: `On rankings of prompts that it was not trained on. Rankings: ${counted}.`,
  blocks: [
    RankingAccuracy.table([accuracy]),
    RankingAccuracy.reliability([RankingAccuracy.calibration(accuracy, { seed, resamples: 1000 })])
  ]
})

/**
 * Score and divergence over the iterations of PPO, from the logs of runs.
 *
 * @category running
 * @since 0.1.0
 */
export const training = Effect.fn("RlhfScores.training")(function* (
  runs: ReadonlyArray<{ readonly name: string; readonly directory: string }>
) {
  const logs = yield* Effect.forEach(runs, ({ directory }) => RunLog.read(directory))
  const curve = (metric: string, yLabel: string): Report.Block => ({
    _tag: "LearningCurves",
    title: metric,
    xLabel: "iteration",
    yLabel,
    series: runs.map(({ name }, i) => ({
      name,
      points: logs[i]!.flatMap((line) => {
        const y = line.type === "step" ? line.metrics[metric] : undefined
        return line.type === "step" && y !== undefined ? [{ x: line.step, y }] : []
      })
    }))
  })
  const blocks = [
    curve("objective/scores", "score"),
    curve("objective/kl", "nats per answer"),
    curve("policy/entropy", "nats per token")
  ]
  return { title: "Training", blocks } satisfies Report.Section
})
