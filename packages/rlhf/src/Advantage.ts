/**
 * Credit assignment: from rewards and values of tokens to advantages and returns, and their normalisation.
 *
 * Everything here is in double precision. Masks are 1 = keep; what a mask leaves out may be anything, NaN included.
 *
 * @since 0.1.0
 */

const requireSame = (length: number, other: ArrayLike<number>, what: string): void => {
  if (other.length !== length) throw new RangeError(`${other.length} ${what} where there should be ${length}`)
}

const requireShare = (name: string, value: number): void => {
  if (!(value >= 0 && value <= 1)) throw new RangeError(`${name} must lie between 0 and 1, got ${value}`)
}

/**
 * Settings of generalized advantage estimation.
 *
 * @category models
 * @since 0.1.0
 */
export interface GaeOptions {
  /** Discount per token, in `[0, 1]`. Default 1: an answer is one short episode. */
  readonly gamma?: number | undefined
  /** Bias against variance, in `[0, 1]`: `0` is one-step TD, `1` is Monte Carlo. Default 0.95. */
  readonly lambda?: number | undefined
  /** Value of the state after the last token. Default 0: the answer has ended, or was cut and is judged as it is. */
  readonly bootstrap?: number | undefined
}

/**
 * Computes generalized advantage estimates for one answer.
 *
 * **Details**
 *
 * Shapes: `rewards`, `values` `[T]`; results `[T]`. `values[t]` is the value of the state that token `t` is drawn in,
 * before it is known. Advantages are not normalised; see {@link whitenAll}, and take the returns from here, not from
 * whitened advantages.
 *
 *     delta_t = r_t + gamma V_{t+1} - V_t        with V_T = bootstrap
 *     A_t     = delta_t + gamma lambda A_{t+1}   with A_T = 0
 *     R_t     = A_t + V_t
 *
 * Source: Schulman et al. 2016, arXiv:1506.02438, section 3.
 *
 * **Gotchas**
 *
 * Give the tokens of one answer without padding. Throws where lengths differ or a setting is out of its range.
 *
 * **Example** (Assigning a score of 1 to two tokens)
 *
 * ```ts
 * import { Advantage } from "@attune/rlhf"
 *
 * const { advantages, returns } = Advantage.gae([0, 1], [0.5, 0.25], { lambda: 1 })
 * advantages // => Float64Array.of(0.5, 0.75)
 * returns // => Float64Array.of(1, 1)
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const gae = (
  rewards: ArrayLike<number>,
  values: ArrayLike<number>,
  { bootstrap = 0, gamma = 1, lambda = 0.95 }: GaeOptions = {}
): { readonly advantages: Float64Array; readonly returns: Float64Array } => {
  requireSame(rewards.length, values, "values")
  requireShare("gamma", gamma)
  requireShare("lambda", lambda)
  const advantages = new Float64Array(rewards.length)
  let nextAdvantage = 0
  let nextValue = bootstrap
  for (let t = rewards.length - 1; t >= 0; t--) {
    const delta = rewards[t]! + gamma * nextValue - values[t]!
    nextAdvantage = delta + gamma * lambda * nextAdvantage
    nextValue = values[t]!
    advantages[t] = nextAdvantage
  }
  return { advantages, returns: advantages.map((advantage, t) => advantage + values[t]!) }
}

/**
 * Divides the squared deviations by the number of values, or by one less.
 *
 * @category models
 * @since 0.1.0
 */
export type Variance = "biased" | "unbiased"

interface Moments {
  readonly count: number
  readonly mean: number
  readonly variance: number
}

const kept = (mask: ArrayLike<number> | undefined, i: number): boolean => mask === undefined || mask[i]! !== 0

const momentsOf = (values: ArrayLike<number>, mask: ArrayLike<number> | undefined, variance: Variance): Moments => {
  let count = 0
  let sum = 0
  for (let i = 0; i < values.length; i++) {
    if (!kept(mask, i)) continue
    count++
    sum += values[i]!
  }
  const mean = sum / count
  let squares = 0
  for (let i = 0; i < values.length; i++) if (kept(mask, i)) squares += (values[i]! - mean) ** 2
  // one value has no spread, by either convention: 0, and not the 0 / 0 of the unbiased one
  const divisor = Math.max(1, variance === "biased" ? count : count - 1)
  return { count, mean, variance: squares / divisor }
}

const standardise = (
  values: ArrayLike<number>,
  mask: ArrayLike<number> | undefined,
  variance: Variance,
  around: (moments: Moments) => number
): Float64Array => {
  if (mask !== undefined) requireSame(values.length, mask, "entries of a mask")
  const moments = momentsOf(values, mask, variance)
  const centre = around(moments)
  const factor = 1 / Math.sqrt(moments.variance + 1e-8) // as in TRL's masked_whiten
  return Float64Array.from({ length: values.length }, (_, i) =>
    kept(mask, i) ? (values[i]! - moments.mean) * factor + centre : 0
  )
}

/**
 * Settings of {@link whiten} and {@link scale}.
 *
 * **Details**
 *
 * `mask` `[N]`: 1 where a value counts; default: all do. `variance`: default `"unbiased"`, as in TRL today and torch;
 * `"biased"` is that of Ziegler et al. 2019 and of Huang et al. 2024.
 *
 * @category models
 * @since 0.1.0
 */
export interface WhitenOptions {
  readonly mask?: ArrayLike<number> | undefined
  readonly variance?: Variance | undefined
}

/**
 * Brings values to mean 0 and variance 1: what is done to advantages.
 *
 * **Details**
 *
 * Shapes: `values` `[N]`; result `[N]`, 0 where the mask is 0. Mean and variance are taken over the values that count.
 *
 *     (x - mean) / sqrt(variance + 1e-8)
 *
 * Called `whiten(shift_mean=True)` in TRL; in torchtune the same words add the mean back, hence two names here.
 *
 * **Gotchas**
 *
 * A single value, and values that are all equal, become 0: there is nothing to prefer. Without any value that counts the
 * result is all 0.
 *
 * **Example** (Leaving padding out)
 *
 * ```ts
 * import { Advantage } from "@attune/rlhf"
 *
 * Advantage.whiten([5, 5, NaN], { mask: [1, 1, 0] }) // => Float64Array.of(0, 0, 0)
 * ```
 *
 * @see {@link scale} for rewards, whose mean means something
 * @category math
 * @since 0.1.0
 */
export const whiten = (values: ArrayLike<number>, { mask, variance = "unbiased" }: WhitenOptions = {}): Float64Array =>
  standardise(values, mask, variance, () => 0)

/**
 * Brings values to variance 1 and keeps their mean: what may be done to rewards (`shift_mean=False` in TRL).
 *
 * **Details**
 *
 * Shapes: `values` `[N]`; result `[N]`, 0 where the mask is 0.
 *
 *     (x - mean) / sqrt(variance + 1e-8) + mean
 *
 * @category math
 * @since 0.1.0
 */
export const scale = (values: ArrayLike<number>, { mask, variance = "unbiased" }: WhitenOptions = {}): Float64Array =>
  standardise(values, mask, variance, ({ mean }) => mean)

/** Applies a function of one list to several lists as if they were one, and cuts the result as they were. */
const together = (
  lists: ReadonlyArray<ArrayLike<number>>,
  f: (values: Float64Array) => Float64Array
): ReadonlyArray<Float64Array> => {
  const starts = [0]
  for (const [i, list] of lists.entries()) starts.push(starts[i]! + list.length)
  const joined = new Float64Array(starts[lists.length]!)
  for (const [i, list] of lists.entries()) joined.set(list, starts[i]!)
  const result = f(joined)
  return lists.map((_, i) => result.slice(starts[i], starts[i + 1]))
}

/**
 * {@link whiten} over the tokens of several answers: one mean and one variance for all of them.
 *
 * @category math
 * @since 0.1.0
 */
export const whitenAll = (
  answers: ReadonlyArray<ArrayLike<number>>,
  variance: Variance = "unbiased"
): ReadonlyArray<Float64Array> => together(answers, (values) => whiten(values, { variance }))

/**
 * {@link scale} over the tokens of several answers: one mean and one variance for all of them.
 *
 * @category math
 * @since 0.1.0
 */
export const scaleAll = (
  answers: ReadonlyArray<ArrayLike<number>>,
  variance: Variance = "unbiased"
): ReadonlyArray<Float64Array> => together(answers, (values) => scale(values, { variance }))

/**
 * Share of the variance of the returns that the values explain: 1 is a perfect critic, 0 one that knows only the mean,
 * and below 0 one that is worse than that.
 *
 * **Details**
 *
 * Shapes: `values`, `returns`, `mask` `[N]`.
 *
 *     1 - mean((returns - values)^2) / variance(returns)        variance over N, not N - 1
 *
 * **Gotchas**
 *
 * A critic that is off by a constant is charged for it here, unlike where the variance of the error is taken (CleanRL,
 * Stable-Baselines). `NaN` where the returns do not vary (all equal, a single one, none): there is nothing to explain.
 *
 * @category math
 * @since 0.1.0
 */
export const explainedVariance = (
  values: ArrayLike<number>,
  returns: ArrayLike<number>,
  mask?: ArrayLike<number>
): number => {
  requireSame(returns.length, values, "values")
  if (mask !== undefined) requireSame(returns.length, mask, "entries of a mask")
  const { count, variance } = momentsOf(returns, mask, "biased")
  if (!(variance > 0)) return NaN
  let squares = 0
  for (let i = 0; i < returns.length; i++) if (kept(mask, i)) squares += (returns[i]! - values[i]!) ** 2
  return 1 - squares / count / variance
}
