/**
 * Generated puzzles of the BIG-bench kind, in the layout of its files: `{ examples: [{ input, target }] }`, options
 * inside the input, targets such as `(A)`.
 *
 * @since 0.1.0
 */
import * as Dice from "./Dice.ts"

/**
 * A question and its only right answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Example {
  readonly input: string
  readonly target: string
}

/**
 * Names of the tasks, as BIG-bench spells them; `arithmetic` is one line of sums.
 *
 * @category constants
 * @since 0.1.0
 */
export const tasks = [
  "object_counting",
  "tracking_shuffled_objects_three_objects",
  "logical_deduction_three_objects",
  "word_sorting",
  "date_understanding",
  "arithmetic"
] as const

/**
 * @see {@link tasks}
 * @category models
 * @since 0.1.0
 */
export type Task = (typeof tasks)[number]

/**
 * `full` is as long as the published tasks; `short` fits a model with 128 positions.
 *
 * @category models
 * @since 0.1.0
 */
export type Size = "full" | "short"

const letters = "ABCDEFGH"

const withOptions = (question: string, options: ReadonlyArray<string>, right: number): Example => ({
  input: `${question}\nOptions:\n${options.map((option, i) => `(${letters[i]}) ${option}`).join("\n")}`,
  target: `(${letters[right]})`
})

const listOf = (items: ReadonlyArray<string>): string =>
  items.length < 2
    ? items.join("")
    : `${items.slice(0, -1).join(", ")}${items.length > 2 ? "," : ""} and ${items[items.length - 1]}`

const numberWords = ["no", "a", "two", "three", "four", "five"]

const collections: Readonly<Record<string, ReadonlyArray<string>>> = {
  animals: ["goat", "horse", "parrot", "turtle", "lion", "camel", "panda", "tiger"],
  fruits: ["mango", "lemon", "melon", "kiwi", "pear", "lime", "papaya", "fig"],
  tools: ["hammer", "wrench", "saw", "chisel", "spade", "rake", "ladder", "shovel"],
  instruments: ["harp", "cello", "banjo", "flute", "tuba", "guitar", "bugle", "gong"]
}

const objectCounting = (dice: Dice.Dice, size: Size): Example => {
  const kinds = dice.shuffle(Object.keys(collections))
  const asked = kinds[0]!
  const other = kinds[1]!
  const count = size === "short" ? 2 : 4 + dice.below(5)
  const strangers = dice.below(size === "short" ? 2 : 3)
  const items = [
    ...dice
      .shuffle(collections[asked]!)
      .slice(0, count)
      .map((noun) => ({ noun, counts: true })),
    ...dice
      .shuffle(collections[other]!)
      .slice(0, strangers)
      .map((noun) => ({ noun, counts: false }))
  ].map((item) => ({ ...item, n: dice.chance(0.5) ? 1 : 2 + dice.below(4) }))
  const phrases = dice.shuffle(items).map(({ noun, n }) => (n === 1 ? `a ${noun}` : `${numberWords[n]} ${noun}s`))
  const total = items.reduce((sum, item) => sum + (item.counts ? item.n : 0), 0)
  return { input: `I have ${listOf(phrases)}. How many ${asked} do I have?`, target: String(total) }
}

const people = ["Ann", "Ben", "Cora", "Dan", "Eva", "Finn"]
const colors = ["red", "blue", "green", "black", "white", "pink"]

const trackingShuffledObjects = (dice: Dice.Dice, size: Size): Example => {
  const names = dice.shuffle(people).slice(0, 3)
  const thing = dice.pick(["ball", "hat", "card"])
  const held = dice
    .shuffle(colors)
    .slice(0, 3)
    .map((color) => `${color} ${thing}`)
  const options = [...held]
  const swaps = Array.from({ length: size === "short" ? 2 : 3 }, () => dice.shuffle([0, 1, 2]).slice(0, 2))
  for (const [a, b] of swaps) [held[a!], held[b!]] = [held[b!]!, held[a!]!]
  const order = size === "short" ? ["First", "Then"] : ["First", "Then", "Finally"]
  const story = swaps.map(([a, b], i) => `${order[i]}, ${names[a!]} and ${names[b!]} swap.`).join(" ")
  const start = listOf(names.map((name, i) => `${name} has a ${options[i]}`))
  const setting = size === "short" ? "" : `${listOf(names)} play a game in which each of them holds one ${thing}. `
  const asked = dice.below(3)
  const question = `${setting}At first ${start}. ${story} At the end ${names[asked]} has`
  return withOptions(question, options, options.indexOf(held[asked]!))
}

const places = ["leftmost", "second from the left", "rightmost"]
const orders = [
  [0, 1, 2],
  [0, 2, 1],
  [1, 0, 2],
  [1, 2, 0],
  [2, 0, 1],
  [2, 1, 0]
] as const

interface Clue {
  readonly text: string
  /** Whether it holds when object `i` stands at place `at[i]`. */
  readonly holds: (at: ReadonlyArray<number>) => boolean
}

const clues = (names: ReadonlyArray<string>): ReadonlyArray<Clue> =>
  names.flatMap((name, i) => [
    ...places.map((place, p) => ({
      text: `The ${name} is the ${place}.`,
      holds: (at: ReadonlyArray<number>) => at[i] === p
    })),
    ...names.flatMap((other, j) =>
      i === j
        ? []
        : [
            {
              text: `The ${name} is to the left of the ${other}.`,
              holds: (at: ReadonlyArray<number>) => at[i]! < at[j]!
            },
            {
              text: `The ${name} is to the right of the ${other}.`,
              holds: (at: ReadonlyArray<number>) => at[i]! > at[j]!
            }
          ]
    )
  ])

const logicalDeduction = (dice: Dice.Dice, size: Size): Example => {
  const thing = dice.pick(["cup", "book", "box"])
  const names = dice
    .shuffle(colors)
    .slice(0, 3)
    .map((color) => `${color} ${thing}`)
  const truth = dice.pick(orders)
  const holding = dice.shuffle(clues(names).filter((clue) => clue.holds(truth)))
  // Clues are added until they leave one order.
  const given: Array<Clue> = []
  while (orders.filter((at) => given.every((clue) => clue.holds(at))).length > 1) given.push(holding[given.length]!)
  const place = dice.below(3)
  const right = truth.indexOf(place as 0 | 1 | 2)
  const story = given.map((clue) => clue.text).join(" ")
  if (size === "short") return withOptions(`${story} Which one is the ${places[place]}?`, names, right)
  const plural = thing === "box" ? "boxes" : `${thing}s`
  return withOptions(
    "Each of the following texts describes three objects in a fixed order, without contradiction. Someone has put " +
      `three ${plural} in a row: ${listOf(names.map((name) => `a ${name}`))}. ${story}`,
    names.map((name) => `The ${name} is the ${places[place]}`),
    right
  )
}

const sortable = (
  "acorn amber anchor apron arrow badge barley basin beacon birch bonnet bottle bridge bucket cactus candle canyon " +
  "carpet cedar chalk cinder cliff clover cobweb copper coral cradle dagger daisy desert dragon eagle ember engine " +
  "falcon feather ferry flint forest fossil galaxy ginger glacier goblet granite harbor hazel helmet iceberg island " +
  "ivory jacket jigsaw jungle kernel kitten lagoon lantern lattice magnet marble meadow mirror needle nickel oasis " +
  "orchard oyster pebble pepper pillow planet quarry quiver raven ribbon river saddle saffron silver spider temple " +
  "thistle thunder timber tunnel umbrella valley velvet violin walnut whisper willow window yarrow zephyr zipper"
).split(" ")

const wordSorting = (dice: Dice.Dice, size: Size): Example => {
  const words = dice.shuffle(sortable).slice(0, size === "short" ? 2 + dice.below(2) : 3 + dice.below(12))
  // Code-unit order: the words are lower-case ASCII.
  return { input: `Sort these words alphabetically: List: ${words.join(" ")}`, target: [...words].sort().join(" ") }
}

const day = 86_400_000

const slashed = (time: number): string => {
  const date = new Date(time)
  const two = (n: number) => String(n).padStart(2, "0")
  return `${two(date.getUTCMonth() + 1)}/${two(date.getUTCDate())}/${date.getUTCFullYear()}`
}

const dateUnderstanding = (dice: Dice.Dice, size: Size): Example => {
  const today = Date.UTC(1950 + dice.below(80), dice.below(12), 1 + dice.below(28))
  const [phrase, days] = dice.pick([
    ["tomorrow", 1],
    ["yesterday", -1],
    ["one week from today", 7],
    ["one week ago from today", -7],
    ["ten days from today", 10],
    ["two days ago", -2]
  ] as const)
  const [opening, offset] =
    size === "short"
      ? (["Today is", 0] as const)
      : dice.pick([
          ["Today is", 0],
          ["The meeting that was planned for today takes place tomorrow, on", -1],
          ["Yesterday, the deadline of the project, was", 1],
          ["Exactly one week ago Ann moved house; that day was", 7]
        ] as const)
  const right = slashed(today + (offset + days) * day)
  const wrong = new Set<string>()
  while (wrong.size < (size === "short" ? 2 : 5)) {
    const other = slashed(today + dice.pick([1, -1, 7, -7, 10, -2, 30, -30, 365, -365, 61, 14]) * day + offset * day)
    if (other !== right) wrong.add(other)
  }
  const options = dice.shuffle([right, ...wrong])
  const question = `${opening} ${slashed(today)}. What is the date ${phrase} in MM/DD/YYYY?`
  return withOptions(question, options, options.indexOf(right))
}

const arithmetic = (dice: Dice.Dice, size: Size): Example => {
  const terms = Array.from({ length: size === "short" ? 2 : 4 }, () => dice.below(10))
  return {
    input: `What is ${terms.join(" + ")}?`,
    target: String(terms.reduce((sum, term) => sum + term, 0))
  }
}

const makers: Readonly<Record<Task, (dice: Dice.Dice, size: Size) => Example>> = {
  object_counting: objectCounting,
  tracking_shuffled_objects_three_objects: trackingShuffledObjects,
  logical_deduction_three_objects: logicalDeduction,
  word_sorting: wordSorting,
  date_understanding: dateUnderstanding,
  arithmetic
}

/**
 * Draws one example of a task.
 *
 * @category constructors
 * @since 0.1.0
 */
export const draw = (dice: Dice.Dice, task: Task, size: Size = "full"): Example => makers[task](dice, size)

/**
 * A task file: the first `n` examples of the stream that `seed` fixes.
 *
 * **Example** (One sum)
 *
 * ```ts
 * Puzzle.generate({ task: "arithmetic", size: "short", seed: 1, n: 1 }).examples.length // => 1
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const generate = (options: {
  readonly task: Task
  readonly size?: Size
  readonly seed: number
  readonly n: number
}): { readonly examples: ReadonlyArray<Example> } => {
  const dice = Dice.make(options.seed)
  return { examples: Array.from({ length: options.n }, () => draw(dice, options.task, options.size)) }
}
