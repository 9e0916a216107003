/**
 * Targeted word removal: can a model rewrite a sentence as feedback says? The paper's toy task, with neutral words.
 *
 * A sentence lists `k` things and one more that always stays; the feedback names `m` of them, and the right answer is the
 * sentence without those, to the letter.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, and its published code. Deviation: its sentences are insults.
 *
 * @since 0.1.0
 */
import { type ModelError, NextToken, type Policy, PromptTemplate, type Sampler } from "@attune/core"
import { Effect } from "effect"

/**
 * A sentence, what is to be removed from it, and what the model is to write.
 *
 * **Details**
 *
 * `id` says cell and place: `k3 m2 #17`. `k`: things that may be named, 1 to 10. `m`: those that are, 1 to 3, in `removed`.
 * `prompt` ends with the first words of the right answer, and `target` is the rest of it, with the space before it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Item {
  readonly id: string
  readonly k: number
  readonly m: number
  readonly sentence: string
  readonly removed: ReadonlyArray<string>
  readonly critique: string
  readonly prompt: string
  readonly target: string
}

const opening = "This box"
const verb = " holds"
const kept = "a nice present"

// All of them begin with a consonant, so that the article is always "a".
const adjectives =
  "red blue green yellow purple white black brown small large heavy light round square flat soft hard warm cold plain".split(
    " "
  )
const nouns =
  "lamp cup hat book kite drum bell coat spoon chair basket pencil mirror button candle ladder ribbon teapot blanket wheel".split(
    " "
  )

/**
 * The prompt: the sentence, what to remove, and the beginning of the answer. Its places are `{sentence}`, `{critique}`, and
 * `{opening}`, with which text must end.
 *
 * @category constants
 * @since 0.1.0
 */
export const template = "Text: {sentence}\n\nFeedback: {critique}\n\nImproved text: {opening}"

/**
 * How answers are sampled: greedily, at most 200 tokens, up to the end of the line, as in the paper.
 *
 * @category constants
 * @since 0.1.0
 */
export const sampling = {
  temperature: 0,
  maxNewTokens: 200,
  stopStrings: ["\n"]
} as const satisfies Sampler.SampleOptionsInput

/**
 * All pairs of `k` and `m`: 27, since at most all things are named.
 *
 * @category constants
 * @since 0.1.0
 */
export const cells: ReadonlyArray<{ readonly k: number; readonly m: number }> = Array.from(
  { length: 10 },
  (_, i) => i + 1
).flatMap((k) => [1, 2, 3].filter((m) => m <= k).map((m) => ({ k, m })))

/**
 * Settings: `perCell` items of each cell, default 50, which makes 1350, at most 200; `seed`, default 0; the prompt's
 * `template`, default {@link template}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly perCell?: number | undefined
  readonly seed?: number | undefined
  readonly template?: string | undefined
}

const list = (things: ReadonlyArray<string>): string => `${verb} ${things.join(", and ")}.`

// The first `count` of a shuffle.
const draw = <A>(uniform: () => number, from: ReadonlyArray<A>, count: number): ReadonlyArray<A> => {
  const rest = [...from]
  return Array.from({ length: count }, () => rest.splice(Math.floor(uniform() * rest.length), 1)[0]!)
}

const quoted = (things: ReadonlyArray<string>): string => things.map((thing) => `"${thing}"`).join(" and ")

const itemOf = (uniform: () => number, k: number, m: number, form: string): Omit<Item, "id"> => {
  const owned = draw(uniform, nouns, k)
  const named = owned.map((noun) => `${draw(uniform, adjectives, 1)[0]} ${noun}`)
  const place = Math.floor(uniform() * (k + 1))
  const things = [
    ...named.slice(0, place).map((name) => `a ${name}`),
    kept,
    ...named.slice(place).map((name) => `a ${name}`)
  ]
  const removed = draw(uniform, named, m)
  const sentence = opening + list(things)
  const critique = `The ideal text does not mention ${quoted(removed)}, and is otherwise unchanged.`
  return {
    k,
    m,
    sentence,
    removed,
    critique,
    prompt: PromptTemplate.fill(form, { sentence, critique, opening }) as string,
    target: list(things.filter((thing) => !removed.some((name) => thing === `a ${name}`)))
  }
}

/**
 * Makes the items, cell by cell in the order of {@link cells}; within a cell no two are alike.
 *
 * **Details**
 *
 * Same seed, same items; a cell's first items are the same however many there are. No noun stands twice in a sentence. Throws
 * `RangeError` for counts out of range, and for a template with an unknown place, without a needed one, or with another end.
 *
 * **Example** (Counting the paper's items)
 *
 * ```ts
 * import { WordRemoval } from "@attune/ilf"
 *
 * WordRemoval.make().length // => 1350
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = ({ perCell = 50, seed = 0, template: form = template }: Options = {}): ReadonlyArray<Item> => {
  if (!(Number.isSafeInteger(perCell) && perCell >= 1 && perCell <= 200)) {
    throw new RangeError(`perCell must be a whole number from 1 to 200, not ${perCell}`)
  }
  const places = ["sentence", "critique", "opening"]
  PromptTemplate.check(form, { known: places, needed: places })
  if (!form.endsWith("{opening}")) throw new RangeError("a template must end with {opening}, which the model completes")
  return cells.flatMap(({ k, m }, cell) => {
    const uniform = NextToken.uniforms(NextToken.rowSeed(seed, cell))
    const found = new Map<string, Item>()
    while (found.size < perCell) {
      const item = itemOf(uniform, k, m, form)
      const key = `${item.sentence} ${[...item.removed].sort().join()}`
      if (!found.has(key)) found.set(key, { id: `k${k} m${m} #${found.size}`, ...item })
    }
    return [...found.values()]
  })
}

/**
 * Whether an answer is the item's target: 1 or 0.
 *
 * **Details**
 *
 * What follows the first line end does not count, nor does white space around what is left, since tokenizers differ in where
 * they put the space; every other character does.
 *
 * @category math
 * @since 0.1.0
 */
export const score = ({ target }: Pick<Item, "target">, text: string): 0 | 1 =>
  text.split("\n")[0]!.trim() === target.trim() ? 1 : 0

/**
 * What a policy answered to an item, and whether it was right: `value` 1 or 0. `cell` is `k3 m2`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Scored {
  readonly id: string
  readonly cell: string
  readonly k: number
  readonly m: number
  readonly text: string
  readonly value: 0 | 1
}

/**
 * How many items of a cell were right.
 *
 * @category models
 * @since 0.1.0
 */
export interface Cell {
  readonly k: number
  readonly m: number
  readonly items: number
  readonly correct: number
}

/**
 * Lets a policy answer all items and scores them: a result for each, in their order.
 *
 * **Details**
 *
 * `options` replace those of {@link sampling}. Each result has an `id` and a `value`, as samples of the evaluation package
 * take them: `Sample.make("word removal", results)`, then `Score.rate`.
 *
 * @see {@link byCell} for the table
 * @category running
 * @since 0.1.0
 */
export const evaluate: (
  policy: Pick<Policy.PolicyShape, "sample">,
  items: ReadonlyArray<Item>,
  options?: Partial<Sampler.SampleOptionsInput>
) => Effect.Effect<ReadonlyArray<Scored>, ModelError.ModelError> = Effect.fn("WordRemoval.evaluate")(function* (
  policy,
  items,
  options = {}
) {
  const completions = yield* policy.sample(
    items.map(({ prompt }) => prompt),
    { ...sampling, ...options }
  )
  return items.map((item, i): Scored => {
    const { id, k, m } = item
    const { text } = completions[i]!
    return { id, cell: `k${k} m${m}`, k, m, text, value: score(item, text) }
  })
})

/**
 * Results counted by cell, in the order in which cells come first.
 *
 * @category transforming
 * @since 0.1.0
 */
export const byCell = (results: ReadonlyArray<Scored>): ReadonlyArray<Cell> => {
  const counted = new Map<string, Cell>()
  for (const { cell, k, m, value } of results) {
    const { correct, items } = counted.get(cell) ?? { items: 0, correct: 0 }
    counted.set(cell, { k, m, items: items + 1, correct: correct + value })
  }
  return [...counted.values()]
}
