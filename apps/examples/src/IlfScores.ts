/**
 * What became of models that learned from critiques: who writes the better answers, which selector picks refinements that do
 * what the critique asks for, and what a critique is worth to the one who refines.
 *
 * @since 0.1.0
 */
import type { Critique, Prompt } from "@attune/core"
import { type Report, Sample, Score, WinRate } from "@attune/eval"
import { type Ilf, Selection, WordRemoval } from "@attune/ilf"
import { Effect, Result } from "effect"
import * as ItemScores from "./ItemScores.ts"

/**
 * What a system answered to each prompt.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answered {
  readonly name: string
  readonly texts: ReadonlyArray<string>
}

const sampleOf = (name: string, values: ReadonlyArray<number>) => Effect.fromResult(Sample.fromValues(name, values))

// Everything that was written to a prompt on one screen, ranked by points: equal points are ties.
const rank = (
  session: string,
  systems: ReadonlyArray<Answered>,
  prompts: ReadonlyArray<Prompt.Content>,
  gold: (prompt: Prompt.Content, text: string) => number
): Result.Result<WinRate.Session, Sample.SampleError | WinRate.SessionError> =>
  WinRate.session(
    prompts.map((prompt, i) => ({
      session,
      id: String(i),
      ranks: Object.fromEntries(systems.map(({ name, texts }) => [name, -gold(prompt, texts[i]!)]))
    }))
  )

/**
 * Points of answers to held-out prompts, and how often the labeller prefers one system's to another's.
 *
 * **Details**
 *
 * One session: on each screen the answers of all systems to one prompt are ranked. `duels`: whose win rate against whom is
 * among the scores; the report has all of them.
 *
 * @category running
 * @since 0.1.0
 */
export const session = Effect.fn("IlfScores.session")(function* (
  systems: ReadonlyArray<Answered>,
  options: {
    readonly prompts: ReadonlyArray<string>
    readonly gold: (prompt: Prompt.Content, text: string) => number
    readonly duels: ReadonlyArray<readonly [system: string, opponent: string]>
    readonly shown: number
  }
) {
  const { duels, gold, prompts } = options
  const points = yield* Effect.forEach(systems, ({ name: system, texts }) =>
    ItemScores.score(
      { system, task: "held-out prompts", metric: "gold score", unit: "of 4", higherIsBetter: true },
      texts.map((text, i) => gold(prompts[i]!, text))
    )
  )
  const ranked = yield* Effect.fromResult(rank("gold labeller", systems, prompts, gold))
  const matrix = WinRate.matrix(ranked)
  const rate = (system: string, opponent: string): WinRate.WinRate =>
    matrix[ranked.systems.indexOf(system)]![ranked.systems.indexOf(opponent)]!
  const fought = duels.map(([system, opponent]) => rate(system, opponent))
  const sections: ReadonlyArray<Report.Section> = [
    {
      title: "Answers to held-out prompts",
      text:
        "Every system answers each prompt once. The labeller ranks the answers of all systems to a prompt together, in one " +
        "session; ties count half.",
      blocks: [
        {
          _tag: "Forest",
          title: "Win rates",
          xLabel: "win rate",
          reference: 0.5,
          rows: fought.map(({ opponent, score }) => ({
            label: `${score.system} against ${opponent}`,
            estimate: score.estimate
          }))
        },
        { _tag: "Scores", scores: points },
        {
          _tag: "Table",
          title: "Everyone against everyone",
          caption: "Win rate of the row against the column.",
          columns: ["", ...ranked.systems],
          rows: ranked.systems.map((system, i) => [
            system,
            ...matrix[i]!.map((won): Report.Cell => won?.score.estimate ?? "")
          ])
        }
      ]
    },
    {
      title: "Samples",
      blocks: [
        {
          _tag: "Samples",
          systems: systems.map(({ name }) => name),
          rows: prompts.slice(0, options.shown).map((prompt, i) => ({
            prompt,
            outputs: systems.map(({ texts }, s) => ({ text: texts[i]!, score: points[s]!.sample.values[i]! }))
          }))
        }
      ]
    }
  ]
  const fights = yield* Effect.fromResult(WinRate.table(fought))
  return { scores: [...fights, ...points], sections }
})

/**
 * Selectors side by side, on the same refinements: how often what they pick does what the critique asks for, beside a pick at
 * random, and how often the labeller prefers it to a random one, also as if both were equally long.
 *
 * **Details**
 *
 * A random pick counts with its expectation, the mean over the refinements. The last row is the best pick there is.
 *
 * Source: the table of ranking methods of Scheurer et al. 2023, arXiv:2303.16755; length control as `WinRate.lengthControlled`.
 *
 * @category running
 * @since 0.1.0
 */
export const selectors = Effect.fn("IlfScores.selectors")(function* (
  task: string,
  questions: ReadonlyArray<Selection.Question>,
  scored: ReadonlyArray<{ readonly name: string; readonly scores: ReadonlyArray<ArrayLike<number>> }>,
  options: {
    readonly follows: (critique: Critique.Critique, refinement: string) => boolean
    readonly gold: (prompt: Prompt.Content, text: string) => number
    readonly seed: number
  }
) {
  const { follows, gold, seed } = options
  const satisfied = questions.map(({ critique, refinements }) =>
    refinements.map((text) => Number(follows(critique, text)))
  )
  const mean = (values: ReadonlyArray<number>) => values.reduce((a, b) => a + b, 0) / values.length
  const byChance = satisfied.map(mean)
  const share = { task, unit: "share", higherIsBetter: true }
  const followed = (system: string, values: ReadonlyArray<number>) =>
    ItemScores.score({ ...share, system, metric: "critique followed" }, values, Score.share)
  const gain = Effect.fnUntraced(function* (system: string, values: ReadonlyArray<number>) {
    const pair = Sample.pair(yield* sampleOf(system, values), yield* sampleOf("random", byChance))
    const difference = Sample.difference(yield* Effect.fromResult(pair))
    return Score.mean({ ...share, system, metric: "critique followed, minus random" }, difference)
  })
  const random = yield* Selection.random(seed).score(questions)
  const picked = [...scored, { name: "random", scores: random }].map(({ name, scores }) => {
    const at = scores.map((own) => Selection.choose(own))
    return { name, at, texts: at.map((r, i) => questions[i]!.refinements[r]!) }
  })
  const ranked = yield* Effect.fromResult(
    rank(
      `gold labeller, ${task}`,
      picked,
      questions.map(({ critique }) => critique.prompt),
      gold
    )
  )
  const chosenAtRandom = picked.at(-1)!.texts
  const wins = yield* Effect.fromResult(WinRate.against(ranked, "random"))
  const rows = yield* Effect.forEach(
    picked.slice(0, -1),
    Effect.fnUntraced(function* ({ at, name, texts }, k) {
      const values = at.map((r, i) => satisfied[i]![r]!)
      const win = wins[k]!
      const duels = texts.map((first, i) => ({ id: String(i), first, second: chosenAtRandom[i]! }))
      // All of one length: nothing to control for.
      const controlled = WinRate.lengthControlled(win, duels, { seed, resamples: 1000 })
      return {
        followed: yield* followed(name, values),
        gain: yield* gain(name, values),
        win,
        controlled: Result.isSuccess(controlled) ? controlled.success : undefined
      }
    })
  )
  const chance = yield* followed("random", byChance)
  const best = yield* followed(
    "best possible",
    satisfied.map((own) => Math.max(...own))
  )
  const section: Report.Section = {
    title: `Selectors: ${task}`,
    text: `${questions.length} critiques with their refinements; every selector picks among the same ones.`,
    blocks: [
      {
        _tag: "Table",
        columns: [
          "selector",
          "critique followed",
          "minus random",
          "preferred to a random one",
          "... at equal length",
          "nats of odds per character"
        ],
        rows: [
          ...rows.map(
            ({ controlled, followed, gain, win }): ReadonlyArray<Report.Cell> => [
              followed.system,
              followed.estimate,
              gain.estimate,
              win.score.estimate,
              controlled?.score.estimate ?? "",
              controlled?.lengthEffect ?? ""
            ]
          ),
          ["random", chance.estimate, "", "", "", ""],
          ["best possible", best.estimate, "", "", "", ""]
        ]
      }
    ]
  }
  const scores = [
    ...rows.flatMap(({ controlled, followed, gain, win }) => [
      followed,
      gain,
      win.score,
      ...(controlled === undefined ? [] : [controlled.score])
    ]),
    chance,
    best
  ]
  return { scores, section }
})

/**
 * What became of the prompts of a round, in a table.
 *
 * @category formatting
 * @since 0.1.0
 */
export const feedback = (
  prompts: number,
  {
    summary,
    uncriticised,
    undrafted,
    unrefined
  }: Pick<Ilf.Round, "summary" | "uncriticised" | "undrafted" | "unrefined">
): Report.Section => ({
  title: "Feedback",
  blocks: [
    {
      _tag: "Table",
      columns: [
        "prompts",
        "without a draft",
        "drafts without a fault",
        "critiques without a refinement",
        "refinements selected",
        "... all alike",
        "... tied"
      ],
      rows: [
        [prompts, undrafted, uncriticised, unrefined, summary.chosen, summary.identical, summary.tied].map((count) => ({
          count
        }))
      ]
    }
  ]
})

/**
 * How often refinements do what the critique asks for: the one that a selector picked of several, one that was written with the
 * critique and one without, both drawn alike; and what the critique gains.
 *
 * Source: the share of summaries that incorporate the most important point of feedback, Scheurer et al. 2023,
 * arXiv:2303.16755.
 *
 * @category running
 * @since 0.1.0
 */
export const incorporated = Effect.fn("IlfScores.incorporated")(function* (
  critiques: ReadonlyArray<Critique.Critique>,
  refined: Readonly<Record<"best" | "one" | "unguided", ReadonlyArray<string>>>,
  follows: (critique: Critique.Critique, refinement: string) => boolean
) {
  const metric = "most important point incorporated"
  const share = { task: "refinements", metric, unit: "share", higherIsBetter: true }
  const rate = (system: string, texts: ReadonlyArray<string>) =>
    ItemScores.score(
      { ...share, system },
      critiques.map((critique, i) => Number(follows(critique, texts[i]!))),
      Score.rate
    )
  const best = yield* rate("with the critique, best of several", refined.best)
  const one = yield* rate("with the critique", refined.one)
  const unguided = yield* rate("without the critique", refined.unguided)
  const pair = yield* Effect.fromResult(Sample.pair(one.sample, unguided.sample))
  const gain = Score.mean(
    { ...share, system: "with the critique", metric: `${metric}, minus without` },
    Sample.difference(pair)
  )
  const scores = [best, one, unguided, gain]
  const section: Report.Section = {
    title: "What a critique is worth to the refiner",
    text: "Shares of refinements that do what the critique asks for, keep every fact and bring in no new fault.",
    blocks: [{ _tag: "Scores", scores }]
  }
  return { scores, section }
})

/**
 * Exact matches in word removal, overall and by the numbers of things.
 *
 * @category running
 * @since 0.1.0
 */
export const wordRemoval = Effect.fn("IlfScores.wordRemoval")(function* (
  results: ReadonlyArray<{ readonly system: string; readonly scored: ReadonlyArray<WordRemoval.Scored> }>
) {
  const named = { task: "word removal", metric: "exact match", unit: "share", higherIsBetter: true }
  const scores = yield* Effect.forEach(results, ({ scored, system }) =>
    ItemScores.score(
      { ...named, system },
      scored.map(({ value }) => value),
      Score.rate
    )
  )
  const section: Report.Section = {
    title: "Word removal",
    text:
      "A task that neither model was trained for: take one to three of up to ten things out of a sentence. What does not fit " +
      "a model's context cannot be right.",
    blocks: [
      { _tag: "Scores", scores },
      {
        _tag: "Table",
        columns: ["things", "things to remove", ...results.map(({ system }) => `${system}: right`), "of"],
        rows: WordRemoval.byCell(results[0]!.scored).map(({ items, k, m }, cell) => [
          String(k),
          String(m),
          ...results.map(({ scored }) => ({ count: WordRemoval.byCell(scored)[cell]!.correct })),
          { count: items }
        ])
      }
    ]
  }
  return { scores, section }
})
