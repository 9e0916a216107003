/**
 * ROUGE: what a text shares with a reference, in n-grams and in longest common subsequences.
 *
 * Definitions and default tokens are those of the Python package `rouge_score`, without its stemmer: lower case, runs
 * of `a-z` and `0-9`. Letters outside these, accented ones too, separate tokens; give a `tokenize` of your own for
 * languages other than English.
 *
 * Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries.
 *
 * @since 0.1.0
 */
import { Result } from "effect"
import * as Sample from "../Sample.ts"
import * as Score from "../Score.ts"
import * as LongestCommonSubsequence from "./LongestCommonSubsequence.ts"

/**
 * Shares in `[0, 1]`: of the candidate that is in the reference, of the reference that is in the candidate, and their
 * harmonic mean. All are 0 where nothing is shared, empty texts included.
 *
 * @category models
 * @since 0.1.0
 */
export interface Overlap {
  readonly precision: number
  readonly recall: number
  readonly f1: number
}

/**
 * Makes tokens of a text.
 *
 * @category models
 * @since 0.1.0
 */
export type Tokenize = (text: string) => ReadonlyArray<string>

/**
 * The default tokens: runs of `a-z` and `0-9` in the lower-cased text.
 *
 * @category transforming
 * @since 0.1.0
 */
export const tokenize: Tokenize = (text) => text.toLowerCase().match(/[a-z0-9]+/g) ?? []

const overlap = (shared: number, candidate: number, reference: number): Overlap => {
  if (shared === 0) return { precision: 0, recall: 0, f1: 0 }
  const precision = shared / candidate
  const recall = shared / reference
  return { precision, recall, f1: (2 * precision * recall) / (precision + recall) }
}

const counts = (tokens: ReadonlyArray<string>, n: number): ReadonlyMap<string, number> => {
  const grams = new Map<string, number>()
  for (let i = 0; i + n <= tokens.length; i++) {
    // Tokens of a caller's making may hold any separator.
    const gram = n === 1 ? tokens[i]! : JSON.stringify(tokens.slice(i, i + n))
    grams.set(gram, (grams.get(gram) ?? 0) + 1)
  }
  return grams
}

/**
 * ROUGE-N of a text: shared n-grams, each counted as often as it is in both.
 *
 * **Example** (Counting shared words)
 *
 * ```ts
 * import { Rouge } from "@attune/eval"
 *
 * Rouge.n("The cat sat.", "The cat sat on the mat.", 1) // => { precision: 1, recall: 0.5, f1: 2 / 3 }
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const n = (candidate: string, reference: string, order: number, tokens: Tokenize = tokenize): Overlap => {
  if (!Number.isInteger(order) || order < 1) throw new RangeError(`n-grams have at least one token, got ${order}`)
  const [ours, theirs] = [tokens(candidate), tokens(reference)]
  const [here, there] = [counts(ours, order), counts(theirs, order)]
  let shared = 0
  for (const [gram, count] of here) shared += Math.min(count, there.get(gram) ?? 0)
  return overlap(shared, ours.length - order + 1, theirs.length - order + 1)
}

/**
 * ROUGE-L of a text: its longest common subsequence with the reference, line breaks ignored.
 *
 * @category math
 * @since 0.1.0
 */
export const l = (candidate: string, reference: string, tokens: Tokenize = tokenize): Overlap => {
  const [ours, theirs] = [tokens(candidate), tokens(reference)]
  return overlap(LongestCommonSubsequence.length(theirs, ours), ours.length, theirs.length)
}

const tally = (sentences: ReadonlyArray<ReadonlyArray<string>>): Map<string, number> => {
  const all = new Map<string, number>()
  for (const tokens of sentences) for (const token of tokens) all.set(token, (all.get(token) ?? 0) + 1)
  return all
}

/**
 * ROUGE-Lsum of a text whose sentences stand on lines of their own: for each sentence of the reference, the union of
 * its longest common subsequences with all sentences of the candidate.
 *
 * **Details**
 *
 * As in `rouge_score` and ROUGE 1.5.5, a token counts no more often than it is in the candidate. Of several longest
 * common subsequences the one of {@link LongestCommonSubsequence.indices} is taken, as there. Texts without line breaks
 * have the value of {@link l}.
 *
 * @category math
 * @since 0.1.0
 */
export const lsum = (candidate: string, reference: string, tokens: Tokenize = tokenize): Overlap => {
  const sentences = (text: string) => text.split("\n").map((line) => tokens(line))
  const [ours, theirs] = [sentences(candidate), sentences(reference)]
  const left = tally(ours)
  let shared = 0
  for (const sentence of theirs) {
    const union = new Set(ours.flatMap(LongestCommonSubsequence.indices(sentence)))
    for (const i of union) {
      const token = sentence[i]!
      const count = left.get(token)!
      if (count === 0) continue
      shared++
      left.set(token, count - 1)
    }
  }
  return overlap(shared, ours.flat().length, theirs.flat().length)
}

/**
 * The overlap with the reference whose F1 is highest, the first of equal ones. Throws without a reference.
 *
 * @category combining
 * @since 0.1.0
 */
export const best = (overlaps: ReadonlyArray<Overlap>): Overlap => {
  if (overlaps.length === 0) throw new RangeError("ROUGE needs at least one reference")
  return overlaps.reduce((highest, other) => (other.f1 > highest.f1 ? other : highest))
}

/**
 * A text to measure, and the references, at least one, of which each metric takes the best.
 *
 * @category models
 * @since 0.1.0
 */
export interface Item {
  readonly id: string
  readonly candidate: string
  readonly references: ReadonlyArray<string>
  /** Group of items that depend on each other, such as the samples of one prompt. */
  readonly cluster?: string | undefined
}

const metrics = {
  rouge1: (candidate: string, reference: string, tokens?: Tokenize) => n(candidate, reference, 1, tokens),
  rouge2: (candidate: string, reference: string, tokens?: Tokenize) => n(candidate, reference, 2, tokens),
  rougeL: l,
  rougeLsum: lsum
}

/**
 * Names of the metrics, as in `rouge_score`.
 *
 * @category models
 * @since 0.1.0
 */
export type Metric = keyof typeof metrics

/**
 * What was measured of an item.
 *
 * @category models
 * @since 0.1.0
 */
export interface Measured extends Readonly<Record<Metric, Overlap>> {
  readonly id: string
  readonly cluster?: string | undefined
}

/**
 * ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of the items, in their order. An item without a reference is an error.
 *
 * @category math
 * @since 0.1.0
 */
export const measure = (
  items: ReadonlyArray<Item>,
  options?: { readonly tokenize?: Tokenize }
): Result.Result<ReadonlyArray<Measured>, Sample.SampleError> => {
  const bare = items.find(({ references }) => references.length === 0)
  if (bare !== undefined) {
    return Result.fail(
      new Sample.SampleError({
        sample: "rouge",
        item: bare.id,
        reason: "it has no reference; give one or leave it out"
      })
    )
  }
  return Result.succeed(
    items.map(({ candidate, cluster, id, references }) => {
      const of = (metric: Metric) =>
        best(references.map((reference) => metrics[metric](candidate, reference, options?.tokenize)))
      return {
        id,
        cluster,
        rouge1: of("rouge1"),
        rouge2: of("rouge2"),
        rougeL: of("rougeL"),
        rougeLsum: of("rougeLsum")
      }
    })
  )
}

/**
 * Mean F1 of each metric over the items, with its interval.
 *
 * @category combining
 * @since 0.1.0
 */
export const scores = (
  measured: ReadonlyArray<Measured>,
  {
    confidence = 0.95,
    system,
    task
  }: { readonly system: string; readonly task: string; readonly confidence?: number | undefined }
): Result.Result<ReadonlyArray<Score.Score>, Sample.SampleError> =>
  Result.all(
    (Object.keys(metrics) as Array<Metric>).map((metric) =>
      Result.map(
        Sample.make(
          `${system}: ${task} ${metric}`,
          measured.map((item) => ({ id: item.id, cluster: item.cluster, value: item[metric].f1 }))
        ),
        (sample) => Score.share({ system, task, metric, unit: "F1", higherIsBetter: true }, sample, confidence)
      )
    )
  )
