/**
 * The loss of reward models over the rankings of `K` answers to a prompt, in double precision and without a model.
 *
 * Scores are larger for better answers, ranks smaller; equal ranks are ties, which give no pair. All pairs of a prompt
 * make one number, so every prompt counts alike whatever its `K`.
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.
 *
 * @since 0.1.0
 */
import { Ranking } from "@attune/core"

/**
 * Settings of the loss.
 *
 * **Details**
 *
 * `margin`: how much higher the better answer must score, in units of the score; a number for all pairs, or for each
 * from the ranks of its two answers, such as `(better, worse) => worse - better`. Default 0. Source: Touvron et al.
 * 2023, arXiv:2307.09288 (Llama 2), section 3.2.2.
 *
 * `centering`: weight of the mean of `(r_w + r_l)^2` over the pairs, which draws scores towards 0; 0.01 is usual.
 * Default 0: off. Source: Eisenstein et al. 2023, arXiv:2312.09244; TRL 1.13 `RewardTrainer`,
 * `center_rewards_coefficient`.
 *
 * `denominator`: sums over pairs are divided by the pairs that are `kept`, the default, or by `all` of the
 * `K * (K - 1) / 2`, ties included, so that a prompt with ties counts less. The paper does not say which.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly margin?: number | ((better: number, worse: number) => number) | undefined
  readonly centering?: number | undefined
  readonly denominator?: "kept" | "all" | undefined
}

/**
 * The scores `[K]` of the answers to one prompt and their ranks `[K]`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Scored {
  readonly scores: ArrayLike<number>
  readonly ranks: ReadonlyArray<number>
}

/**
 * Computes `-log sigmoid(x)` in nats, exact where the exponential would overflow.
 *
 * @category math
 * @since 0.1.0
 */
export const negLogSigmoid = (x: number): number => Math.max(-x, 0) + Math.log1p(Math.exp(-Math.abs(x)))

const pairsOf = (scores: ArrayLike<number>, ranks: ReadonlyArray<number>) => {
  if (scores.length !== ranks.length) throw new RangeError(`${scores.length} scores for ${ranks.length} ranks`)
  return Ranking.pairs(ranks)
}

const marginOf = ({ margin = 0 }: Options, better: number, worse: number): number =>
  typeof margin === "number" ? margin : margin(better, worse)

const divisor = (kept: number, K: number, { denominator = "kept" }: Options): number =>
  denominator === "kept" ? kept : (K * (K - 1)) / 2

/**
 * Computes the loss of each kept pair, in nats, in the order of `Ranking.pairs`: neither centred nor divided.
 *
 *     -log sigmoid(r_w - r_l - margin)
 *
 * Shapes: `scores` and `ranks` `[K]`.
 *
 * @category math
 * @since 0.1.0
 */
export const pairLosses = (
  scores: ArrayLike<number>,
  ranks: ReadonlyArray<number>,
  options: Options = {}
): Float64Array =>
  Float64Array.from(pairsOf(scores, ranks), ([w, l]) =>
    negLogSigmoid(scores[w]! - scores[l]! - marginOf(options, ranks[w]!, ranks[l]!))
  )

/**
 * Computes the loss of one prompt, in nats: the mean over its pairs. `NaN` where every answer is tied, so that a prompt
 * that teaches nothing cannot pass for a perfect one.
 *
 * **Details**
 *
 * Shapes: `scores` and `ranks` `[K]`.
 *
 *     loss = 1/n * sum_pairs -log sigmoid(r_w - r_l - margin) + centering * 1/n * sum_pairs (r_w + r_l)^2
 *
 * `n`: the kept pairs, or all of them (`denominator`), for both sums.
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.
 *
 * **Gotchas**
 *
 * Without `centering` only differences of scores count: a constant added to all changes nothing.
 *
 * **Example** (Three answers, the last two equally good)
 *
 * ```ts
 * import { PairwiseLoss } from "@attune/rlhf"
 *
 * PairwiseLoss.loss([0, 0, 1], [1, 2, 2], { margin: 1 }).toFixed(4) // => "1.7201"
 * ```
 *
 * @see {@link mean} for a batch
 * @category math
 * @since 0.1.0
 */
export const loss = (scores: ArrayLike<number>, ranks: ReadonlyArray<number>, options: Options = {}): number => {
  const { centering = 0 } = options
  const pairs = pairsOf(scores, ranks)
  if (pairs.length === 0) return Number.NaN
  let sum = pairLosses(scores, ranks, options).reduce((sum, loss) => sum + loss, 0)
  for (const [w, l] of pairs) sum += centering * (scores[w]! + scores[l]!) ** 2
  return sum / divisor(pairs.length, ranks.length, options)
}

/**
 * Computes the gradient of {@link loss} with respect to the scores, `[K]`: zero where every answer is tied.
 *
 * **Details**
 *
 *     d loss / d r_w = 1/n * sum_l [ sigmoid(r_w - r_l - margin) - 1 + 2 * centering * (r_w + r_l) ]
 *
 * and for the worse answer `1 - sigmoid` instead. Without `centering` it adds up to 0.
 *
 * @category math
 * @since 0.1.0
 */
export const gradient = (
  scores: ArrayLike<number>,
  ranks: ReadonlyArray<number>,
  options: Options = {}
): Float64Array => {
  const { centering = 0 } = options
  const pairs = pairsOf(scores, ranks)
  const n = divisor(pairs.length, ranks.length, options)
  const result = new Float64Array(ranks.length)
  for (const [w, l] of pairs) {
    const pull = 1 / (1 + Math.exp(scores[w]! - scores[l]! - marginOf(options, ranks[w]!, ranks[l]!)))
    const centre = 2 * centering * (scores[w]! + scores[l]!)
    result[w]! += (centre - pull) / n
    result[l]! += (centre + pull) / n
  }
  return result
}

const keepsPair = ({ ranks }: Scored): boolean => ranks.some((rank) => rank !== ranks[0])

/**
 * Computes the loss of a batch, in nats: the mean over the prompts that keep a pair. `NaN` where none does.
 *
 * **Gotchas**
 *
 * The pairs of all prompts must not be pooled: a prompt with 9 answers would count six times as much as one with 4.
 *
 * @category math
 * @since 0.1.0
 */
export const mean = (prompts: ReadonlyArray<Scored>, options: Options = {}): number => {
  const kept = prompts.filter(keepsPair)
  return kept.reduce((sum, { ranks, scores }) => sum + loss(scores, ranks, options), 0) / kept.length
}

/**
 * Computes the gradients of {@link mean} with respect to the scores of each prompt, `[K]` each.
 *
 * @category math
 * @since 0.1.0
 */
export const meanGradients = (prompts: ReadonlyArray<Scored>, options: Options = {}): ReadonlyArray<Float64Array> => {
  const n = Math.max(1, prompts.filter(keepsPair).length)
  return prompts.map(({ ranks, scores }) => gradient(scores, ranks, options).map((slope) => slope / n))
}

/**
 * Computes the loss of a prompt of which only the best answer is known, in nats: a softmax over the `K` scores.
 *
 *     loss = -log( exp(r_best) / sum_k exp(r_k) )
 *
 * Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.
 *
 * **Gotchas**
 *
 * Not the mean over the pairs of `[1, 2, 2, ...]`, which says the same about the answers but weighs them otherwise.
 *
 * @category math
 * @since 0.1.0
 */
export const bestOfK = (scores: ArrayLike<number>, best: number): number => {
  const differences = Array.from(scores, (score) => score - scores[best]!)
  const most = Math.max(...differences)
  return most + Math.log(differences.reduce((sum, difference) => sum + Math.exp(difference - most), 0))
}
