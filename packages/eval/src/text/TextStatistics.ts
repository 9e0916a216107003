/**
 * How long a text is and how much it repeats itself.
 *
 * Repetition is counted over tokens of any kind: words, or the ids of a tokenizer.
 *
 * @since 0.1.0
 */
import type { Tokenizer } from "@attune/core"
import { Result } from "effect"
import type { Estimate } from "../Estimate.ts"
import * as Sample from "../Sample.ts"
import * as Score from "../Score.ts"

/**
 * A text as words or token ids.
 *
 * @category models
 * @since 0.1.0
 */
export type Tokens = ReadonlyArray<string> | ReadonlyArray<number> | Int32Array

/**
 * Number of characters: Unicode code points, so that a letter outside the basic plane is one. A lone surrogate is one
 * too.
 *
 * @category math
 * @since 0.1.0
 */
export const characters = (text: string): number => {
  let count = 0
  for (const _ of text) count++
  return count
}

// Making one takes longer than using it on a short text.
const segmenters = new Map<string, Intl.Segmenter>()

const segmenterOf = (locale: string): Intl.Segmenter => {
  const made = segmenters.get(locale) ?? new Intl.Segmenter(locale, { granularity: "word" })
  segmenters.set(locale, made)
  return made
}

/**
 * The words of a text as `Intl.Segmenter` finds them (Unicode Standard Annex 29): without spaces and punctuation, case
 * kept, and in languages written without spaces too. `locale` names the language, `en` unless given.
 *
 * @category transforming
 * @since 0.1.0
 */
export const words = (text: string, locale = "en"): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (const { isWordLike, segment } of segmenterOf(locale).segment(text)) if (isWordLike === true) found.push(segment)
  return found
}

const checkOrder = (n: number): void => {
  if (!Number.isInteger(n) || n < 1) throw new RangeError(`n-grams have at least one token, got ${n}`)
}

// Numbers for tokens: equal ones where tokens are equal, counted from 0.
const numbered = (tokens: Tokens): Int32Array => {
  const known = new Map<string | number, number>()
  return Int32Array.from<string | number>(tokens, (token) => {
    const id = known.get(token) ?? known.size
    known.set(token, id)
    return id
  })
}

/**
 * Numbers for the runs of `length + step` tokens, from those of the runs of `length` that they begin and end with.
 * `base` is above all of those.
 */
const joined = (
  runs: Int32Array,
  step: number,
  base: number
): { readonly runs: Int32Array; readonly distinct: number } => {
  const known = new Map<number, number>()
  const next = new Int32Array(Math.max(0, runs.length - step))
  for (let i = 0; i < next.length; i++) {
    const key = runs[i]! * base + runs[i + step]!
    const id = known.get(key) ?? known.size
    known.set(key, id)
    next[i] = id
  }
  return { runs: next, distinct: known.size }
}

// Distinct n-grams of several texts, none of which spans two texts, and how many n-grams there are.
const grams = (texts: ReadonlyArray<Tokens>, n: number): { readonly distinct: number; readonly total: number } => {
  checkOrder(n)
  const seen = new Set<string | number>()
  let total = 0
  for (const tokens of texts) {
    for (let i = 0; i + n <= tokens.length; i++) {
      seen.add(n === 1 ? tokens[i]! : JSON.stringify(Array.from<string | number>(tokens.slice(i, i + n))))
      total++
    }
  }
  return { distinct: seen.size, total }
}

/**
 * Distinct-n of texts taken together: distinct n-grams over all tokens, in `[0, 1]`; 0 where there are no tokens.
 *
 * **Details**
 *
 * Source: Li et al. 2016, arXiv:1510.03055, section 5, which scales by the number of tokens. Others divide by the
 * number of n-grams; for one text that is `1 - repeated(text, n)`.
 *
 * **Gotchas**
 *
 * Falls as texts grow in number and in length: compare systems on the same prompts and at similar length.
 *
 * @category math
 * @since 0.1.0
 */
export const distinct = (texts: ReadonlyArray<Tokens>, n: number): number => {
  const tokens = texts.reduce((sum, { length }) => sum + length, 0)
  return grams(texts, n).distinct / Math.max(tokens, 1)
}

/**
 * {@link distinct} as an estimate, which has no interval: a resample repeats texts, so the bootstrap's values are too
 * low.
 *
 * @category math
 * @since 0.1.0
 */
export const distinctEstimate = (texts: ReadonlyArray<Tokens>, n: number, confidence = 0.95): Estimate => ({
  value: distinct(texts, n),
  low: null,
  high: null,
  se: null,
  n: texts.length,
  confidence,
  method: "distinct n-grams over tokens of all texts, and resampling would repeat texts; no interval"
})

/**
 * Share of the n-grams of a text that stood in it before, in `[0, 1)`; 0 where it has none.
 *
 *     1 - distinct n-grams / n-grams
 *
 * Source: Welleck et al. 2020, arXiv:1908.04319, seq-rep-n.
 *
 * @category math
 * @since 0.1.0
 */
export const repeated = (tokens: Tokens, n: number): number => {
  const { distinct, total } = grams([tokens], n)
  return total === 0 ? 0 : 1 - distinct / total
}

/**
 * A run of tokens that a text has at two places, which may overlap: `length` tokens from the first and from the second
 * place on.
 *
 * @category models
 * @since 0.1.0
 */
export interface Repeat {
  readonly length: number
  readonly first: number
  readonly second: number
}

// The first run that occurred before, and where.
const firstRepeat = (runs: Int32Array): readonly [first: number, second: number] | undefined => {
  const places = new Int32Array(runs.length).fill(-1)
  for (let i = 0; i < runs.length; i++) {
    const place = places[runs[i]!]!
    if (place >= 0) return [place, i]
    places[runs[i]!] = i
  }
  return undefined
}

/**
 * The longest run of tokens that stands in a text twice: `length` 0 where no token does.
 *
 * **Details**
 *
 * Runs of 1, 2, 4, … tokens are numbered until all are distinct (Karp, Miller & Rosenberg 1972), then the length is
 * found by halving the interval. Time and memory `O(T log T)` and `O(T)` for `T` tokens.
 *
 * **Gotchas**
 *
 * Places may overlap: `ha ha ha ha` has a longest repeat of three.
 *
 * @category math
 * @since 0.1.0
 */
export const longestRepeat = (tokens: Tokens): Repeat => {
  const base = tokens.length + 1
  let runs = numbered(tokens)
  let length = 1
  let at = firstRepeat(runs)
  if (at === undefined) return { length: 0, first: 0, second: 0 }
  // Runs of `length` tokens repeat; those of twice as many may.
  while (true) {
    const { distinct, runs: next } = joined(runs, length, base)
    if (distinct === next.length) break
    runs = next
    length *= 2
    at = firstRepeat(runs)
  }
  // Repeats of `low` tokens exist, of `high` none; two runs of `length` tokens cover any run between.
  let [low, high] = [length, 2 * length]
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    const { distinct, runs: next } = joined(runs, middle - length, base)
    if (distinct === next.length) high = middle
    else {
      low = middle
      at = firstRepeat(next)
    }
  }
  return { length: low, first: at![0], second: at![1] }
}

/**
 * A text to measure.
 *
 * @category models
 * @since 0.1.0
 */
export interface Item {
  readonly id: string
  readonly text: string
  /** Group of texts that depend on each other, such as the samples of one prompt. */
  readonly cluster?: string | undefined
}

/**
 * Settings of measuring.
 *
 * **Details**
 *
 * `tokenizer`: adds the length in tokens, special ones not counted, and its ids are what repetition is counted over;
 * without one it is counted over words. `locale`: the language of words, `en` unless given. `orders`: the n of n-grams,
 * 1 to 4 unless given.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly tokenizer?: Pick<Tokenizer.Tokenizer, "encode">
  readonly locale?: string
  readonly orders?: ReadonlyArray<number>
  readonly confidence?: number
}

/**
 * Means over texts of their length (`characters`, `words`, `tokens`), of distinct-n (`distinct_1`, …) and of repeated
 * n-grams (`repeated_1`, …) within each text, and of the longest repeat (`longest_repeat`), with intervals.
 *
 * **Gotchas**
 *
 * `higherIsBetter` is false for lengths, for want of a third value: between equally good answers the shorter one is
 * better. An empty text has distinct-n 0 and repeats nothing.
 *
 * @category combining
 * @since 0.1.0
 */
export const scores = (
  items: ReadonlyArray<Item>,
  { system, task, ...options }: Options & { readonly system: string; readonly task: string }
): Result.Result<ReadonlyArray<Score.Score>, Sample.SampleError> => {
  const encode = options.tokenizer?.encode
  const texts = items.map(({ text }) => {
    const found = words(text, options.locale)
    return {
      characters: characters(text),
      words: found.length,
      tokens: encode?.(text, { addSpecialTokens: false }) ?? found
    }
  })
  const unit = encode === undefined ? "words" : "tokens"
  const score = (
    metric: string,
    unit: string,
    higherIsBetter: boolean,
    value: (text: (typeof texts)[number]) => number
  ) =>
    Result.map(
      Sample.make(
        `${system}: ${task} ${metric}`,
        items.map(({ cluster, id }, i) => ({ id, cluster, value: value(texts[i]!) }))
      ),
      (sample) =>
        (unit === "share" ? Score.share : Score.mean)(
          { system, task, metric, unit, higherIsBetter },
          sample,
          options.confidence
        )
    )
  const orders = options.orders ?? [1, 2, 3, 4]
  return Result.all([
    score("characters", "characters", false, (text) => text.characters),
    score("words", "words", false, (text) => text.words),
    ...(encode === undefined ? [] : [score("tokens", "tokens", false, ({ tokens }) => tokens.length)]),
    ...orders.map((n) => score(`distinct_${n}`, "share", true, ({ tokens }) => distinct([tokens], n))),
    ...orders.map((n) => score(`repeated_${n}`, "share", false, ({ tokens }) => repeated(tokens, n))),
    score("longest_repeat", unit, false, ({ tokens }) => longestRepeat(tokens).length)
  ])
}
