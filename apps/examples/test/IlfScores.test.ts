import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import * as IlfScores from "../src/IlfScores.ts"

// A text is worth its length, and follows a critique that it ends with.
const gold = (_: unknown, text: string) => text.length
const follows = ({ critique }: { readonly critique: string }, refinement: string) => refinement.endsWith(critique)

const question = (critique: string, ...refinements: ReadonlyArray<string>) => ({
  critique: { prompt: critique, completion: "draft", critique },
  refinements
})

const values = (
  scores: ReadonlyArray<{ system: string; metric: string; estimate: { value: number } }>,
  metric: string
) => Object.fromEntries(scores.flatMap((of) => (of.metric === metric ? [[of.system, of.estimate.value]] : [])))

it.effect("answers of one prompt are ranked together, and ties count half", () =>
  Effect.gen(function* () {
    const systems = [
      { name: "a", texts: ["xxx", "x", "xx"] },
      { name: "b", texts: ["x", "x", "x"] },
      { name: "c", texts: ["xx", "xx", "xx"] }
    ]
    const duels = [
      ["a", "b"],
      ["b", "c"],
      ["a", "c"]
    ] as const
    const { scores, sections } = yield* IlfScores.session(systems, { prompts: ["1", "2", "3"], gold, duels, shown: 2 })
    assert.deepStrictEqual(
      scores.filter(({ metric }) => metric === "win_rate").map(({ estimate, system }) => [system, estimate.value]),
      [
        ["a", 2.5 / 3],
        ["b", 0],
        ["a", 0.5]
      ]
    )
    assert.deepStrictEqual(values(scores, "gold score"), { a: 2, b: 1, c: 2 })
    assert.lengthOf(sections, 2)
  })
)

it.effect("selectors are set against a pick at random, which counts with its expectation", () =>
  Effect.gen(function* () {
    const questions = [question("p", "ap", "b", "c", "d"), question("q", "a", "bbq"), question("r", "a", "bb")]
    const scored = [
      {
        name: "right",
        scores: [
          [1, 0, 0, 0],
          [0, 1],
          [0, 1]
        ]
      },
      {
        name: "wrong",
        scores: [
          [0, 0, 0, 1],
          [1, 0],
          [1, 0]
        ]
      }
    ]
    const { scores } = yield* IlfScores.selectors("some", questions, scored, { follows, gold, seed: 1 })
    assert.deepStrictEqual(values(scores, "critique followed"), {
      right: 2 / 3,
      wrong: 0,
      random: 0.25,
      "best possible": 2 / 3
    })
    const gains = values(scores, "critique followed, minus random")
    assert.closeTo(gains["right"]!, 2 / 3 - 0.25, 1e-12)
    assert.closeTo(gains["wrong"]!, -0.25, 1e-12)
  })
)

it.effect("a critique is worth what refinements with it follow more often than those without", () =>
  Effect.gen(function* () {
    const critiques = ["p", "q", "r"].map((critique) => question(critique).critique)
    const refined = { best: ["ap", "bq", "c"], one: ["ap", "b", "cr"], unguided: ["zp", "b", ""] }
    const { scores } = yield* IlfScores.incorporated(critiques, refined, follows)
    assert.deepStrictEqual(
      scores.map(({ estimate }) => estimate.value),
      [2 / 3, 2 / 3, 1 / 3, 1 / 3]
    )
  })
)
