// The published tables of Scheurer et al. 2023 (arXiv:2303.16755), from the counts behind them to the printed digits.
//
// A win rate with its standard error says how many screens were wins and ties, since ties make the error smaller than
// √(p (1 - p) / (n - 1)). Where the notebook in the authors' repository prints six digits
// (JeremyAlain/imitation_learning_from_language_feedback, 174c308), one triple of counts alone gives both numbers:
// those are the counts of the study. Where one decimal of a percentage is all there is, many do, and the cell has the
// fewest ties.
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import type * as Estimate from "../../src/Estimate.ts"
import * as WinRate from "../../src/judging/WinRate.ts"

type Cell = readonly [
  system: string,
  printed: string,
  wins: number,
  ties: number,
  losses: number,
  /** Mean and standard error as the notebook has them. */
  notebook?: string
]

interface Table {
  readonly session: string
  readonly opponent: string
  readonly n: number
  readonly cells: ReadonlyArray<Cell>
}

const tables: ReadonlyArray<Table> = [
  {
    session: "fine-tuned models",
    opponent: "human summaries",
    n: 698,
    cells: [
      ["refinements, 100", "19.6 ± 1.5", 136, 2, 560, "0.196275 0.015010"],
      ["refinements, 1K", "29.2 ± 1.7", 199, 9, 490, "0.291547 0.017080"],
      ["refinements, 5K", "31.3 ± 1.7", 215, 7, 476, "0.313037 0.017462"],
      ["human summaries fine-tuned, 100", "16.8 ± 1.4", 116, 3, 579, "0.168338 0.014118"],
      ["human summaries fine-tuned, 1K", "26.3 ± 1.7", 182, 3, 513, "0.262894 0.016628"],
      ["human summaries fine-tuned, 5K", "28.9 ± 1.7", 200, 4, 494, "0.289398 0.017117"],
      ["drafts, 100", "19.6 ± 1.5", 137, 0, 561, "0.196275 0.015044"],
      ["drafts, 1K", "25.1 ± 1.6", 172, 6, 520, "0.250716 0.016323"],
      ["drafts, 5K", "27.3 ± 1.7", 186, 9, 503, "0.272923 0.016735"],
      ["OPT-RM best of 64, 100", "25.5 ± 1.6", 177, 2, 519, "0.255014 0.016479"],
      ["OPT-RM best of 64, 1K", "42.0 ± 1.9", 290, 6, 402, "0.419771 0.018611"],
      ["OPT-RM best of 64, 5K", "43.7 ± 1.9", 303, 4, 391, "0.436963 0.018733"],
      ["FeedME, 100", "20.8 ± 1.5", 145, 0, 553, "0.207736 0.015366"],
      ["FeedME, 1K", "23.9 ± 1.6", 165, 4, 529, "0.239255 0.016096"],
      ["FeedME, 5K", "22.5 ± 1.6", 155, 4, 539, "0.224928 0.015750"]
    ]
  },
  {
    session: "fine-tuned models",
    opponent: "FeedME",
    n: 698,
    cells: [
      ["refinements, 100", "44.3 ± 1.9", 309, 0, 389],
      ["refinements, 1K", "53.9 ± 1.9", 376, 0, 322],
      ["refinements, 5K", "56.3 ± 1.9", 393, 0, 305],
      ["human summaries fine-tuned, 100", "41.2 ± 1.9", 287, 1, 410],
      ["human summaries fine-tuned, 1K", "49.9 ± 1.9", 348, 0, 350],
      ["human summaries fine-tuned, 5K", "52.1 ± 1.9", 364, 0, 334],
      ["drafts, 100", "48.8 ± 1.9", 340, 1, 357],
      ["drafts, 1K", "52.8 ± 1.9", 368, 1, 329],
      ["drafts, 5K", "55.9 ± 1.9", 390, 0, 308],
      ["OPT-RM best of 64, 100", "57.2 ± 1.8", 390, 18, 290],
      ["OPT-RM best of 64, 1K", "73.0 ± 1.6", 499, 21, 178],
      ["OPT-RM best of 64, 5K", "73.2 ± 1.6", 502, 18, 178],
      // the last three rows of the table above, seen from the other side
      ["human summaries, 100", "79.2 ± 1.5", 553, 0, 145],
      ["human summaries, 1K", "76.1 ± 1.6", 529, 4, 165],
      ["human summaries, 5K", "77.5 ± 1.6", 539, 4, 155]
    ]
  },
  {
    session: "fine-tuned models",
    opponent: "OPT-RM best of 64",
    n: 698,
    cells: [
      ["refinements, 1K", "32.7 ± 1.8", 223, 10, 465, "0.326648 0.017619"],
      ["refinements, 5K", "36.6 ± 1.8", 251, 9, 438, "0.366046 0.018119"]
    ]
  },
  {
    session: "additional, 5K",
    opponent: "human summaries",
    n: 698,
    cells: [
      ["ILF + OPT-RM best of 64", "50.8 ± 1.9", 354, 1, 343, "0.507880 0.018923"],
      ["OPT-RM best of 64", "45.1 ± 1.9", 315, 0, 383],
      ["refinements", "36.0 ± 1.8", 251, 0, 447],
      ["human summaries fine-tuned", "35.4 ± 1.8", 247, 0, 451],
      ["feedback and refinements", "26.1 ± 1.7", 182, 0, 516]
    ]
  },
  {
    session: "refinements, validation",
    opponent: "drafts",
    n: 500,
    cells: [
      ["human summaries", "83.2 ± 1.7", 415, 2, 83, "0.832000 0.016677"],
      ["best of 5 refinements", "69.1 ± 1.9", 321, 49, 130, "0.691000 0.019463"],
      ["one random refinement", "63.9 ± 2.0", 292, 55, 153, "0.639000 0.020179"],
      ["refinement without feedback", "59.4 ± 2.1", 269, 56, 175, "0.594000 0.020668"]
    ]
  },
  {
    session: "refinements, validation",
    opponent: "human summaries",
    n: 500,
    cells: [
      // The fourth cell is human summaries against themselves, printed as 50: no comparison, so no counts.
      ["best of 5 refinements", "30.3 ± 2.1", 151, 1, 348, "0.303000 0.020548"],
      ["one random refinement", "30.6 ± 2.0", 150, 6, 344, "0.306000 0.020483"],
      ["refinement without feedback", "26.6 ± 2.0", 132, 2, 366, "0.266000 0.019730"]
    ]
  },
  {
    session: "refinements, validation",
    opponent: "the most important point left out",
    n: 500,
    cells: [
      ["human summaries", "74.0 ± 2.0", 370, 0, 130, "0.740000 0.019636"],
      ["best of 5 refinements", "57.4 ± 2.2", 287, 0, 213, "0.574000 0.022137"],
      ["one random refinement", "49.6 ± 2.2", 248, 0, 252, "0.496000 0.022382"],
      ["refinement without feedback", "30.8 ± 2.1", 154, 0, 346, "0.308000 0.020667"]
    ]
  },
  {
    session: "iterated ILF",
    opponent: "one-shot fine-tuning",
    n: 698,
    cells: [
      ["round 1, pairwise, 100 + 100", "53.2 ± 1.9", 371, 0, 327],
      ["round 1, retrained on 200", "48.9 ± 1.9", 341, 0, 357],
      ["round 1, continued on 100 more", "49.4 ± 1.9", 345, 0, 353],
      ["round 2, retrained on 300", "55.6 ± 1.9", 388, 0, 310],
      ["round 2, continued on 100 more", "50.9 ± 1.9", 355, 0, 343]
    ]
  },
  {
    session: "reward models computed in the notebook",
    opponent: "wrong",
    n: 500,
    cells: [
      ["GPT-3 comparison", "71.2 ± 2.0", 356, 0, 144, "0.712000 0.020272"],
      ["GPT-3 classification", "74.2 ± 2.0", 371, 0, 129, "0.742000 0.019587"]
    ]
  },
  {
    session: "targeted word removal",
    opponent: "wrong",
    n: 1350,
    cells: [
      ["ada", "1.2 ± 0.3", 16, 0, 1334],
      ["babbage", "1.7 ± 0.4", 23, 0, 1327],
      ["curie", "8.2 ± 0.7", 111, 0, 1239],
      ["davinci", "38.5 ± 1.3", 520, 0, 830],
      ["text-ada-001", "1.6 ± 0.3", 21, 0, 1329],
      ["text-babbage-001", "2.2 ± 0.4", 30, 0, 1320],
      ["text-curie-001", "6.0 ± 0.6", 81, 0, 1269],
      ["text-davinci-001", "35.8 ± 1.3", 483, 0, 867]
    ]
  }
]

// The accuracies of these reward models reached the notebook from a spreadsheet, with one digit and their standard
// errors cut, not rounded: no number of right answers among 500 rounds to all of them. 69.6 is of the model card.
const cut: Table = {
  session: "reward models of the spreadsheet",
  opponent: "wrong",
  n: 500,
  cells: [
    ["OPT-13B classification, 100", "53.4 ± 2.2", 267, 0, 233],
    ["OPT-13B classification, 1K", "67.2 ± 2.1", 336, 0, 164],
    ["OPT-13B classification, 5K", "73.4 ± 1.9", 367, 0, 133],
    ["OPT-1.3B classification, 5K", "69.6 ± 2.0", 348, 0, 152],
    ["OPT-13B comparison, 5K", "72.6 ± 1.9", 363, 0, 137],
    ["OPT-13B scalar head, 5K", "71.8 ± 2.0", 359, 0, 141],
    ["OPT-13B classification on 90K of OpenAI", "68.0 ± 2.0", 340, 0, 160],
    ["OpenAI", "63.8 ± 2.1", 319, 0, 181]
  ]
}

/** The cell by our own path: screens with ranks, wins, estimate. */
const estimateOf = ({ opponent, session }: Table, [system, , wins, ties, losses]: Cell) => {
  const ranks = [
    ...Array<readonly [number, number]>(wins).fill([1, 2]),
    ...Array<readonly [number, number]>(ties).fill([1, 1]),
    ...Array<readonly [number, number]>(losses).fill([2, 1])
  ]
  const screens = ranks.map(
    ([ours, theirs], i): WinRate.Screen => ({ session, id: `post${i}`, ranks: { [system]: ours, [opponent]: theirs } })
  )
  const rates = WinRate.against(Result.getOrThrow(WinRate.session(screens)), opponent)
  return Result.getOrThrow(rates)[0]!.score.estimate
}

const rounded = ({ se, value }: Estimate.Estimate) => `${(100 * value).toFixed(1)} ± ${(100 * se!).toFixed(1)}`
const truncated = ({ se, value }: Estimate.Estimate) =>
  `${(100 * value).toFixed(1)} ± ${(Math.floor(1000 * se!) / 10).toFixed(1)}`

describe("the tables of ILF", () => {
  for (const table of tables) {
    it(`${table.session}, against ${table.opponent}, come out to the printed digit`, () => {
      for (const cell of table.cells) {
        const estimate = estimateOf(table, cell)
        assert.strictEqual(estimate.n, table.n)
        assert.strictEqual(rounded(estimate), cell[1], cell[0])
        if (cell[5] !== undefined) {
          assert.strictEqual(`${estimate.value.toFixed(6)} ${estimate.se!.toFixed(6)}`, cell[5], cell[0])
        }
      }
    })
  }

  it("have all their cells here", () => {
    const count = [...tables, cut].reduce((sum, { cells }) => sum + cells.length, 0)
    // 15 + 15 + 2 + 5 win rates, 4 + 3 of refinements, 4 of feedback, 5 iterated, 10 accuracies, 8 of the toy task
    assert.strictEqual(count, 71)
  })

  it("come out from no counts but these where six digits are known", () => {
    const same = (n: number, wins: number, ties: number, notebook: string) => {
      const mean = (wins + ties / 2) / n
      const squares = wins * (1 - mean) ** 2 + ties * (0.5 - mean) ** 2 + (n - wins - ties) * mean ** 2
      return `${mean.toFixed(6)} ${Math.sqrt(squares / (n - 1) / n).toFixed(6)}` === notebook
    }
    let cells = 0
    for (const { n, cells: all } of tables) {
      for (const [system, , wins, ties, , notebook] of all) {
        if (notebook === undefined) continue
        const found: Array<readonly [number, number]> = []
        for (let t = 0; t <= n; t++) {
          const w = wins + (ties - t) / 2
          if (Number.isInteger(w) && w >= 0 && w + t <= n && same(n, w, t, notebook)) found.push([w, t])
        }
        assert.deepStrictEqual(found, [[wins, ties]], system)
        cells++
      }
    }
    assert.strictEqual(cells, 31)
  })

  it("print the standard errors of the spreadsheet's accuracies cut, which rounding gets wrong in five cells", () => {
    const estimates = cut.cells.map((cell) => [cell[0], cell[1], estimateOf(cut, cell)] as const)
    for (const [system, printed, estimate] of estimates) assert.strictEqual(truncated(estimate), printed, system)
    const wrong = estimates.filter(([, printed, estimate]) => rounded(estimate) !== printed)
    assert.deepStrictEqual(
      wrong.map(([, printed]) => printed),
      ["73.4 ± 1.9", "69.6 ± 2.0", "72.6 ± 1.9", "68.0 ± 2.0", "63.8 ± 2.1"]
    )
  })

  it("cannot mix the two sessions in which one model won 28.9 and 35.4 %", () => {
    const rate = (table: Table, cell: Cell): WinRate.WinRate => {
      const screens = [{ session: table.session, id: "post", ranks: { [cell[0]]: 1, [table.opponent]: 2 } }]
      return Result.getOrThrow(WinRate.against(Result.getOrThrow(WinRate.session(screens)), table.opponent))[0]!
    }
    const [main, , , additional] = tables
    const mixed = WinRate.table([rate(main!, main!.cells[5]!), rate(additional!, additional!.cells[3]!)])
    assert.match(
      Result.getOrThrow(Result.flip(mixed)).message,
      /"human summaries fine-tuned, 5K".*session "fine-tuned models".*session "additional, 5K"/
    )
  })
})
