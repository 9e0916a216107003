/**
 * The paper's comparisons in small, of models that {@link IlfTraining} trained: who writes the better answers, who selects well,
 * what a critique is worth to the refiner, and the toy task.
 *
 * @since 0.1.0
 */
import { type Policy, Prompt, RewardModel } from "@attune/core"
import type { Report, Score } from "@attune/eval"
import { InstructRm, Refinement, Selection, type Templates, WordRemoval } from "@attune/ilf"
import { Effect } from "effect"
import * as CommonFlags from "./CommonFlags.ts"
import * as IlfDesk from "./IlfDesk.ts"
import * as IlfScores from "./IlfScores.ts"
import * as IlfTraining from "./IlfTraining.ts"

/**
 * What {@link measure} is given. `ranked`: critiques that selectors are compared on; `perCell`: items of word removal.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly desk: IlfDesk.Desk
  readonly reference: Policy.PolicyShape
  readonly judge: InstructRm.InstructRm
  readonly similarity: Selection.SelectorShape
  readonly trained: IlfTraining.Trained
  readonly ranked: number
  readonly perCell: number
  readonly seed: number
}

const bestOf = 4

// Of refinements that differ: those of the base model at temperature 1 are mostly alike.
const variedTemperature = 2

// Answers that are shown beside each other.
const shown = 6

const ensemble = `InstructRM, ${IlfDesk.judgements.length} prompts`

// Answers to held-out prompts, and the best of several by a reward model, ranked in one session.
const answers = Effect.fnUntraced(function* ({ desk, reference, seed, trained: { half, iterated, sizes } }: Options) {
  const drawn = (policy: Policy.PolicyShape, count: number, seed: number) =>
    Refinement.draft(policy, desk.test, { ...IlfTraining.drawing, count, seed })
  const once = (name: string, policy: Policy.PolicyShape) =>
    Effect.map(drawn(policy, 1, seed + 1), (rows) => ({ name, texts: rows.map(([row]) => row?.text ?? "") }))
  const best = Effect.fnUntraced(function* (
    name: string,
    rows: ReadonlyArray<ReadonlyArray<Refinement.Candidate>>,
    reward: RewardModel.RewardModelShape
  ) {
    // Each text of a prompt once: trained models repeat themselves.
    const texts = rows.map((candidates) => [...new Set(candidates.map(({ text }) => text))])
    const asked = texts.flatMap((own, i) =>
      own.map((text) => ({ prompt: Prompt.make(desk.test[i]!, []), completion: { text, tokens: new Int32Array() } }))
    )
    const rewards = yield* RewardModel.guarded(reward).score(asked)
    let at = 0
    const chosen = texts.map((own) => {
      at += own.length
      return own[Selection.choose(rewards.subarray(at - own.length, at))] ?? ""
    })
    return { name, texts: chosen }
  })
  const ofBase = yield* drawn(reference, bestOf, seed + 2)
  const systems = [yield* once("base", reference)]
  for (const { count, reward } of sizes) systems.push(yield* best(`best of ${bestOf}, ${count}`, ofBase, reward))
  for (const { count, demonstrations, drafts, ilf } of sizes) {
    systems.push(
      yield* once(`drafts, ${count}`, drafts),
      yield* once(`demonstrations, ${count}`, demonstrations),
      yield* once(`ILF, ${count}`, ilf)
    )
  }
  for (const { count, ilf, reward } of sizes) {
    systems.push(yield* best(`ILF + best of ${bestOf}, ${count}`, yield* drawn(ilf, bestOf, seed + 2), reward))
  }
  const twice = `ILF, 2 rounds of ${half}`
  systems.push(yield* once(twice, iterated))
  const duels = sizes.flatMap(({ count }): ReadonlyArray<readonly [string, string]> => {
    const [ilf, both] = [`ILF, ${count}`, `ILF + best of ${bestOf}, ${count}`]
    return [
      [ilf, `drafts, ${count}`],
      [ilf, `demonstrations, ${count}`],
      [ilf, `best of ${bestOf}, ${count}`],
      [both, ilf],
      [both, `demonstrations, ${count}`]
    ]
  })
  const top = `ILF, ${sizes.at(-1)!.count}`
  duels.push([top, "base"], [twice, top])
  return yield* IlfScores.session(systems, { prompts: desk.test, gold: desk.gold, duels, shown })
})

// Selectors on the refinements that the method had, and on ones that differ more.
const selectors = Effect.fnUntraced(function* (options: Options) {
  const { desk, judge, ranked, reference, seed, similarity, trained } = options
  const questions = trained.round.questions.slice(0, ranked)
  const varied = yield* Refinement.sample(
    reference,
    questions.map(({ critique }) => critique),
    {
      ...IlfTraining.refining,
      count: IlfTraining.refinementsOf,
      sampling: { temperature: variedTemperature },
      seed: seed + 5
    }
  )
  const differing = varied.flatMap((candidates, i) => {
    const refinements = candidates.map(({ text }) => text).filter((text) => text !== "")
    return refinements.length === 0 ? [] : [{ critique: questions[i]!.critique, refinements }]
  })
  const byReward = Selection.fromRewardModel(trained.sizes.at(-1)!.reward, { name: "reward model" })
  return yield* Effect.forEach(
    [
      { temperature: 1, among: questions },
      { temperature: variedTemperature, among: differing }
    ],
    Effect.fnUntraced(function* ({ among, temperature }) {
      const byTemplate = yield* judge.templateScores(among)
      const mean = among.map((_, i) => InstructRm.mean(byTemplate.map((scores) => scores[i]!)))
      const scored = [
        { name: ensemble, scores: mean },
        ...byTemplate.map((scores, i) => ({ name: `InstructRM, prompt ${i + 1}`, scores })),
        { name: "embedding similarity", scores: yield* similarity.score(among) },
        { name: "reward model", scores: yield* byReward.score(among) },
        { name: "longest", scores: yield* Selection.longest.score(among) }
      ]
      return yield* IlfScores.selectors(`refinements at temperature ${temperature}`, among, scored, { ...desk, seed })
    })
  )
})

// Refinements with the critique and without, drawn alike.
const incorporated = Effect.fnUntraced(function* ({ desk, reference, seed, trained: { round } }: Options) {
  const critiques = round.questions.map(({ critique }) => critique)
  const one = (template: Templates.Template) =>
    Effect.map(
      Refinement.sample(reference, critiques, {
        ...IlfTraining.refining,
        template,
        count: 1,
        extra: 0,
        seed: seed + 3
      }),
      (rows) => rows.map(([row]) => row?.text ?? "")
    )
  const refined = {
    best: round.questions.map(({ refinements }, i) => refinements[round.selected[i]!.index]!),
    one: yield* one(IlfDesk.refinement.template),
    unguided: yield* one(IlfDesk.refinement.direct)
  }
  return yield* IlfScores.incorporated(critiques, refined, desk.follows)
})

const wordRemoval = Effect.fnUntraced(function* ({ perCell, reference, seed, trained: { sizes } }: Options) {
  const items = WordRemoval.make({ perCell, seed })
  const top = sizes.at(-1)!
  return yield* IlfScores.wordRemoval([
    { system: "base", scored: yield* WordRemoval.evaluate(reference, items) },
    { system: `ILF, ${top.count}`, scored: yield* WordRemoval.evaluate(top.ilf, items) }
  ])
})

/**
 * Measures everything. `told` are the scores that the method is about, for a terminal; `scores` and `sections` are all of it.
 *
 * @category running
 * @since 0.1.0
 */
export const measure = Effect.fn("IlfEvaluation.measure")(function* (options: Options) {
  const session = yield* answers(options)
  const ranked = yield* selectors(options)
  const worth = yield* incorporated(options)
  const removal = yield* wordRemoval(options)
  const scores: ReadonlyArray<Score.Score> = [session, worth, ...ranked, removal].flatMap(({ scores }) => [...scores])
  const minor = ({ metric, system, task }: Score.Score) =>
    (task.includes("refinements at") && system !== ensemble) || metric === "length_controlled_win_rate"
  const sections: ReadonlyArray<Report.Section> = [
    session.sections[0]!,
    IlfScores.feedback(options.desk.prompts.length, options.trained.round),
    worth.section,
    ...ranked.map(({ section }) => section),
    removal.section,
    ...session.sections.slice(1)
  ]
  return { scores, told: scores.filter((score) => !minor(score)), sections }
}, CommonFlags.failing)
