import { assert, describe, it } from "@effect/vitest"
import * as Puzzle from "../../src/desk/Puzzle.ts"

// Each solver reads nothing but the text of the input.
const options = (input: string): ReadonlyMap<string, string> =>
  new Map([...input.matchAll(/^(\([A-H]\)) (.+)$/gm)].map(([, letter, text]) => [text!, letter!]))

const counts: Record<string, number> = { a: 1, two: 2, three: 3, four: 4, five: 5 }
const categories: Record<string, string> = {
  animals: "goat horse parrot turtle lion camel panda tiger",
  fruits: "mango lemon melon kiwi pear lime papaya fig",
  tools: "hammer wrench saw chisel spade rake ladder shovel",
  instruments: "harp cello banjo flute tuba guitar bugle gong"
}

const solvers: Record<Puzzle.Task, (input: string) => string> = {
  object_counting: (input) => {
    const nouns = categories[/How many (\w+) do I have/.exec(input)![1]!]!.split(" ")
    let total = 0
    for (const [, count, noun] of input.matchAll(/\b(a|two|three|four|five) (\w+)/g)) {
      if (nouns.includes(noun!) || nouns.includes(noun!.slice(0, -1))) total += counts[count!]!
    }
    return String(total)
  },
  tracking_shuffled_objects_three_objects: (input) => {
    const holds = new Map([...input.matchAll(/(\w+) has a (\w+ \w+)/g)].map(([, who, what]) => [who!, what!]))
    for (const [, a, b] of input.matchAll(/(\w+) and (\w+) swap/g)) {
      const first = holds.get(a!)!
      holds.set(a!, holds.get(b!)!)
      holds.set(b!, first)
    }
    return options(input).get(holds.get(/At the end (\w+) has/.exec(input)![1]!)!)!
  },
  logical_deduction_three_objects: (input) => {
    const story = input.split("\nOptions:")[0]!
    const found = [...options(input).keys()]
    const asked = /Which one is the (.+)\?/.exec(story)?.[1] ?? /is the (.+)$/.exec(found[0]!)![1]!
    const names = found.map((text) => text.replace(/^The /, "").replace(/ is the .*/, ""))
    const rank = ["leftmost", "second from the left", "rightmost"]
    const perms = [
      [0, 1, 2],
      [0, 2, 1],
      [1, 0, 2],
      [1, 2, 0],
      [2, 0, 1],
      [2, 1, 0]
    ].map((order) => order.map((i) => names[i]!))
    const fits = perms.filter((row) =>
      [
        ...story.matchAll(
          /The (\w+ \w+) is (?:the (leftmost|second from the left|rightmost)|to the (left|right) of the (\w+ \w+))\./g
        )
      ].every(([, name, place, side, other]) =>
        place !== undefined
          ? row[rank.indexOf(place)] === name
          : side === "left"
            ? row.indexOf(name!) < row.indexOf(other!)
            : row.indexOf(name!) > row.indexOf(other!)
      )
    )
    assert.strictEqual(fits.length, 1, input)
    const answer = fits[0]![rank.indexOf(asked)]!
    return [...options(input)].find(([text]) => text.includes(answer))![1]
  },
  word_sorting: (input) =>
    input
      .split("List: ")[1]!
      .split(" ")
      .sort((a, b) => a.localeCompare(b, "en"))
      .join(" "),
  date_understanding: (input) => {
    const shift: Record<string, number> = {
      tomorrow: 1,
      yesterday: -1,
      "one week from today": 7,
      "one week ago from today": -7,
      "ten days from today": 10,
      "two days ago": -2
    }
    const [, month, date, year] = /(\d\d)\/(\d\d)\/(\d{4})\. What/.exec(input)!
    const opening = input.startsWith("The meeting")
      ? -1
      : input.startsWith("Yesterday")
        ? 1
        : input.startsWith("Exactly")
          ? 7
          : 0
    const days = opening + shift[/What is the date (.+) in MM/.exec(input)![1]!]!
    // Days are counted off one by one on a calendar of our own.
    const length = (y: number, m: number) =>
      m === 2 ? (y % 4 === 0 && (y % 100 !== 0 || y % 400 === 0) ? 29 : 28) : [4, 6, 9, 11].includes(m) ? 30 : 31
    let [y, m, d] = [Number(year), Number(month), Number(date)]
    for (let i = 0; i < Math.abs(days); i++) {
      d += Math.sign(days)
      if (d > length(y, m)) [d, m] = [1, m + 1]
      if (m > 12) [m, y] = [1, y + 1]
      if (d < 1) {
        if (--m < 1) [m, y] = [12, y - 1]
        d = length(y, m)
      }
    }
    const two = (n: number) => String(n).padStart(2, "0")
    return options(input).get(`${two(m)}/${two(d)}/${y}`)!
  },
  arithmetic: (input) => String([...input.matchAll(/\d+/g)].reduce((sum, [n]) => sum + Number(n), 0))
}

describe("Puzzle", () => {
  for (const task of Puzzle.tasks) {
    for (const size of ["short", "full"] as const) {
      it(`${task} (${size}) has the target that an independent solver finds`, () => {
        const { examples } = Puzzle.generate({ task, size, seed: 11, n: 400 })
        for (const { input, target } of examples) {
          assert.strictEqual(solvers[task](input), target, input)
          const letters = [...options(input).values()]
          assert.strictEqual(new Set(options(input).keys()).size, letters.length)
        }
        assert.isAbove(new Set(examples.map(({ input }) => input)).size, size === "full" ? 350 : 90)
      })
    }
  }

  it("spreads the right option over the letters", () => {
    const { examples } = Puzzle.generate({ task: "tracking_shuffled_objects_three_objects", seed: 1, n: 3000 })
    for (const letter of ["(A)", "(B)", "(C)"]) {
      assert.closeTo(examples.filter(({ target }) => target === letter).length / 3000, 1 / 3, 0.04)
    }
  })

  it("repeats for one seed, and a longer run begins with the shorter one", () => {
    for (const task of Puzzle.tasks) {
      const short = Puzzle.generate({ task, seed: 4, n: 10 }).examples
      assert.deepStrictEqual(Puzzle.generate({ task, seed: 4, n: 30 }).examples.slice(0, 10), short)
    }
  })
})
