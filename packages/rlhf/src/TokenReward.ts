/**
 * What PPO rewards: a penalty on every token for leaving the reference, and the score of the whole answer on its last
 * token.
 *
 * Rewards are in the unit of the score, `klCoef` in reward per nat; larger is better, so the penalty is `- klCoef kl`.
 *
 * @since 0.1.0
 */
import { type Completion, Kl } from "@attune/core"
import { Effect, Schema } from "effect"

/**
 * What an answer that did not end by itself (`finishReason` other than `"stop"`) scores.
 *
 * **Details**
 *
 * `Keep`: what the reward model says. `Penalty`: that, less a fixed amount, as in TRL (`missing_eos_penalty`). `Replace`:
 * a fixed score, `-1` in Ziegler et al. 2019 and in the reproduction of Huang et al. 2024, arXiv:2403.17031.
 *
 * @category schemas
 * @since 0.1.0
 */
export const MissingEos = Schema.TaggedUnion({
  Keep: {},
  Penalty: {
    penalty: Schema.Finite.check(
      Schema.isGreaterThanOrEqualTo(0, {
        message: "penalty is subtracted from the score: give a number of 0 or more"
      })
    )
  },
  Replace: { score: Schema.Finite }
})

/**
 * Rule for answers that did not end by themselves.
 *
 * @category models
 * @since 0.1.0
 */
export type MissingEos = typeof MissingEos.Type

const unordered = { message: "clip is [lowest, highest]: give the smaller number first" }

/**
 * How a reward model's score becomes the one that PPO sees: scaled, clipped, and replaced where the answer did not end.
 *
 * @category schemas
 * @since 0.1.0
 */
export const ScoreRule = Schema.Struct({
  /** Multiplies the score, above 0. Default 1; see `RewardNormalization`. */
  gain: Schema.Finite.check(
    Schema.isGreaterThan(0, { message: "gain must be above 0: to prefer low scores, negate them in the reward model" })
  ).pipe(Schema.withDecodingDefaultKey(Effect.succeed(1))),
  /** Added after `gain`. Default 0. */
  bias: Schema.Finite.pipe(Schema.withDecodingDefaultKey(Effect.succeed(0))),
  /** Lowest and highest score, after gain and bias. Default: none. */
  clip: Schema.optionalKey(
    Schema.Tuple([Schema.Finite, Schema.Finite]).check(Schema.makeFilter(([low, high]) => low < high, unordered))
  ),
  /** Default `Keep`. */
  missingEos: MissingEos.pipe(Schema.withDecodingDefaultKey(Effect.succeed(MissingEos.make({ _tag: "Keep" }))))
})

/**
 * A score rule with every default filled in.
 *
 * @category models
 * @since 0.1.0
 */
export type ScoreRule = typeof ScoreRule.Type

/**
 * The score that an answer is trained on: `clip(gain score + bias)`, then the rule for answers that did not end.
 *
 * **Details**
 *
 * The penalty, or the score that replaces, is therefore in the unit of the normalised score, and is not clipped.
 *
 * @category math
 * @since 0.1.0
 */
export const scoreOf = (score: number, finishReason: Completion.FinishReason, rule: ScoreRule): number => {
  const scaled = rule.gain * score + rule.bias
  const [low, high] = rule.clip ?? [-Infinity, Infinity]
  const clipped = Math.min(high, Math.max(low, scaled))
  if (finishReason === "stop") return clipped
  return MissingEos.match(rule.missingEos, {
    Keep: () => clipped,
    Penalty: ({ penalty }) => clipped - penalty,
    Replace: ({ score }) => score
  })
}

/**
 * Settings of {@link tokenRewards}: the weight of the penalty, 0 or more, and the estimator of the divergence.
 *
 * @category models
 * @since 0.1.0
 */
export interface TokenRewardOptions {
  readonly klCoef: number
  /** Default `k1`, the one whose gradient as a reward is that of the divergence. */
  readonly estimator?: "k1" | "k3" | undefined
}

/**
 * Rewards of the tokens of one answer.
 *
 * **Details**
 *
 * Shapes: `logprobs`, `refLogprobs`, result `[T]`, where `T` counts the sampled tokens, the stop token among them.
 *
 *     r_t = - klCoef kl_t + (score if t = T - 1 else 0)
 *
 * Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 2, without its pretraining term. The score lands on the stop token
 * itself: code that puts it on the padding behind (as TRL does) makes it reach the stop token through a value that no
 * token has, shrunk by `lambda`.
 *
 * **Gotchas**
 *
 * Both log-probs must be taken at one temperature, that of sampling where `k1` shall be unbiased. An answer without
 * tokens (its first text was a stop string) has no token to reward: the result is empty and the score is lost. Throws
 * where lengths differ.
 *
 * **Example** (Rewarding three tokens)
 *
 * ```ts
 * import { TokenReward } from "@attune/rlhf"
 *
 * const same = Float32Array.of(-1, -2, -0.5)
 * TokenReward.tokenRewards(same, same, 0.75, { klCoef: 0.02 }) // => Float64Array.of(0, 0, 0.75)
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const tokenRewards = (
  logprobs: Float32Array,
  refLogprobs: Float32Array,
  score: number,
  { estimator = "k1", klCoef }: TokenRewardOptions
): Float64Array => {
  // 0 - x, not -x: a token without divergence is rewarded 0, and not -0
  const rewards = Float64Array.from(Kl.estimate(logprobs, refLogprobs, estimator), (kl) => 0 - klCoef * kl)
  if (rewards.length > 0) rewards[rewards.length - 1]! += score
  return rewards
}
