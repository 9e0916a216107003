/**
 * What an iteration of PPO reports, under the names that practitioners know, and what is probably wrong when the numbers look
 * as they should not.
 *
 * @since 0.1.0
 */
import { type Completion, Kl, type Learner } from "@attune/core"
import * as Advantage from "./Advantage.ts"
import type { PpoConfig } from "./PpoConfig.ts"
import type { Episode, Reports } from "./PpoLearners.ts"
import * as TokenReward from "./TokenReward.ts"

/**
 * The numbers of one iteration.
 *
 * **Details**
 *
 * Of the answers, before the update. Means over answers; sums over an answer's tokens, its stop token among them. An answer
 * without tokens counts as one whose sums are 0.
 *
 *     objective/kl                    sum of logprob - refLogprob (k1), in nats
 *     objective/kl_stderr             standard error of that mean; not there for a single answer
 *     objective/entropy               sum of -logprob, in nats: an estimate of the entropy of whole answers
 *     objective/scores                score after gain, bias, clip and the rule for answers without an end
 *     objective/scores_std            standard deviation of these scores (n - 1); not there for a single answer
 *     objective/non_score_reward      -klCoef times the sum of the KL estimate that is configured
 *     objective/rlhf_reward           objective/scores + objective/non_score_reward: what is made large
 *     objective/kl_coef               the coefficient that penalised these answers
 *     rollout/length                  tokens
 *     rollout/missing_eos             share of answers that were cut at the limit
 *     rollout/empty                   share of answers without a token
 *
 * Of the first optimizer step of the update, whose gradient is taken before any parameter has changed; over its tokens:
 *
 *     rollout/max_logprob_difference  largest |logprob of the learner - logprob of the sampler|, in nats
 *     policy/first_ratio              mean of exp(logprob of the learner - logprob of the sampler): 1 if they agree
 *
 * Of the whole update: means over its optimizer steps, of which each is a mean over the tokens of a minibatch.
 *
 *     loss/policy                     clipped surrogate, negated
 *     loss/ptx                        mean -logprob of the pretraining tokens, before its coefficient; 0 without ptx
 *     loss/value                      half the squared error, the larger of clipped and unclipped
 *     policy/approxkl                 half the squared log-ratio to the policy that sampled, in nats per token
 *     policy/clipfrac                 share of tokens whose clipped surrogate is the larger loss
 *     policy/entropy                  entropy of the next-token distribution, in nats per token, exact
 *     policy/ratio                    exp(logprob - logprob at sampling)
 *     policy/grad_norm                norm of the gradient before it is clipped
 *     policy/learning_rate            learning rate
 *     policy/updates                  not a mean: optimizer steps taken, fewer where targetKl ended the update
 *     value/clipfrac                  share of tokens whose clipped value has the larger error
 *     value/grad_norm                 as of the policy; of both together where they share a trunk
 *
 * Of the values at sampling, over all tokens:
 *
 *     value/explained_variance        1 - mean((return - value)^2) / variance(returns); 0 where returns do not vary
 *
 * Without values those of values are not there, and without a step of the policy those of its update. What TRL also has is
 * defined as there, except that its `objective/entropy`, `approxkl`, `ratio` and `policy/entropy` count padded tokens too.
 *
 * @category models
 * @since 0.1.0
 */
export type PpoMetrics = Learner.StepMetrics

const mean = (numbers: ReadonlyArray<number>): number =>
  numbers.reduce((sum, number) => sum + number, 0) / numbers.length

// Standard deviation, with `n - 1`; undefined for a single number.
const deviation = (numbers: ReadonlyArray<number>): number | undefined => {
  if (numbers.length < 2) return undefined
  const centre = mean(numbers)
  return Math.sqrt(numbers.reduce((sum, number) => sum + (number - centre) ** 2, 0) / (numbers.length - 1))
}

const sum = (numbers: ArrayLike<number>): number => {
  let total = 0
  for (let i = 0; i < numbers.length; i++) total += numbers[i]!
  return total
}

/**
 * The record of an iteration.
 *
 * @category math
 * @since 0.1.0
 */
export const ofIteration = ({
  answers,
  config,
  episodes,
  klCoef,
  steps
}: {
  readonly answers: ReadonlyArray<{
    readonly completion: Completion.Completion
    readonly refLogprobs: Float32Array
    readonly score: number
  }>
  readonly episodes: ReadonlyArray<Episode>
  readonly klCoef: number
  readonly steps: Reports
  readonly config: PpoConfig
}): PpoMetrics => {
  const kls = answers.map(({ completion, refLogprobs }) => Kl.sequence(completion.logprobs, refLogprobs, "k1"))
  const penalties = answers.map(
    ({ completion, refLogprobs }) => 0 - klCoef * Kl.sequence(completion.logprobs, refLogprobs, config.klEstimator)
  )
  const scores = answers.map(({ completion, score }) =>
    TokenReward.scoreOf(score, completion.finishReason, config.score)
  )
  const shareOf = (holds: (completion: Completion.Completion) => boolean) =>
    mean(answers.map(({ completion }) => Number(holds(completion))))
  const over = (reports: ReadonlyArray<Learner.StepMetrics>, name: string) => mean(reports.map((step) => step[name]!))
  const flat = (of: (episode: Episode) => Float32Array) => episodes.flatMap((episode) => Array.from(of(episode)))
  const explained = Advantage.explainedVariance(
    flat(({ values }) => values),
    flat(({ returns }) => returns)
  )
  const [first] = steps.policy
  const klDeviation = deviation(kls)
  const scoresDeviation = deviation(scores)
  return {
    "objective/kl": mean(kls),
    ...(klDeviation === undefined ? {} : { "objective/kl_stderr": klDeviation / Math.sqrt(kls.length) }),
    "objective/entropy": mean(answers.map(({ completion }) => 0 - sum(completion.logprobs))),
    "objective/scores": mean(scores),
    ...(scoresDeviation === undefined ? {} : { "objective/scores_std": scoresDeviation }),
    "objective/non_score_reward": mean(penalties),
    "objective/rlhf_reward": mean(scores) + mean(penalties),
    "objective/kl_coef": klCoef,
    "rollout/length": mean(answers.map(({ completion }) => completion.tokens.length)),
    "rollout/missing_eos": shareOf(({ finishReason }) => finishReason !== "stop"),
    "rollout/empty": shareOf(({ tokens }) => tokens.length === 0),
    ...(first === undefined
      ? {}
      : {
          "rollout/max_logprob_difference": first["max_logprob_difference"]!,
          "policy/first_ratio": first["ratio"]!,
          "loss/policy": over(steps.policy, "policy_loss"),
          "loss/ptx": over(steps.policy, "ptx_loss"),
          "policy/approxkl": over(steps.policy, "approxkl"),
          "policy/clipfrac": over(steps.policy, "clipfrac"),
          "policy/entropy": over(steps.policy, "entropy"),
          "policy/ratio": over(steps.policy, "ratio"),
          "policy/grad_norm": over(steps.policy, "grad_norm"),
          "policy/learning_rate": over(steps.policy, "learning_rate")
        }),
    "policy/updates": steps.policy.length,
    ...(steps.value.length === 0
      ? {}
      : {
          "loss/value": over(steps.value, "value_loss"),
          "value/clipfrac": over(steps.value, "value_clipfrac"),
          "value/grad_norm": over(steps.value, "grad_norm"),
          "value/explained_variance": Number.isNaN(explained) ? 0 : explained
        })
  }
}

/**
 * What is probably wrong: a short name, and a sentence with the number and what to look at.
 *
 * @category models
 * @since 0.1.0
 */
export interface Warning {
  readonly name: string
  readonly message: string
}

const shown = (value: number): string => String(Number(value.toPrecision(3)))

type Records = ReadonlyArray<PpoMetrics>

// A metric in the last `count` records: all of them, or none where there are fewer that have it.
const latest = (records: Records, name: string, count: number): ReadonlyArray<number> => {
  const values = records.slice(-count).flatMap((record) => record[name] ?? [])
  return values.length === count ? values : []
}

const all = (values: ReadonlyArray<number>, holds: (value: number) => boolean): boolean =>
  values.length > 0 && values.every(holds)

// A metric when the run began, and now: means over three iterations, which do not overlap.
const change = (records: Records, name: string): { readonly before: number; readonly now: number } | undefined => {
  const before = latest(records.slice(0, 3), name, 3)
  const now = latest(records.slice(3), name, 3)
  return before.length === 0 || now.length === 0 ? undefined : { before: mean(before), now: mean(now) }
}

// k1 of a batch may be negative by chance, and is of the order of rounding where policy and reference are the same.
const negativeKl = (records: Records): string | undefined => {
  const iterations = 5
  const kls = latest(records, "objective/kl", iterations)
  const errors = latest(records, "objective/kl_stderr", iterations)
  if (!all(kls, (kl) => kl < 0) || errors.length === 0) return undefined
  const error = Math.sqrt(sum(errors.map((error) => error ** 2))) / iterations
  if (!(mean(kls) < Math.min(-0.01, -3 * error))) return undefined
  return (
    `objective/kl was negative in ${iterations} iterations in a row, ${shown(mean(kls))} nats on average with a standard ` +
    `error of ${shown(error)}: the log-probs are not those of the distribution that the tokens were drawn from. Look for top-k, ` +
    "top-p or a least length in sampling, another temperature, dropout, and wrong padding or positions"
  )
}

// In single precision sampler and learner agree to 1e-5; a hundred times that is no rounding any more.
const disagreement = (records: Records): string | undefined => {
  const tolerance = 1e-3
  const { "policy/first_ratio": ratio = 1, "rollout/max_logprob_difference": most = 0 } = records.at(-1)!
  if (most <= tolerance && Math.abs(ratio - 1) <= tolerance) return undefined
  return (
    `rollout/max_logprob_difference is ${shown(most)} nats and policy/first_ratio ${shown(ratio)} before anything was ` +
    `updated; they should be below ${tolerance} and 1: sampler and learner disagree on the same tokens. Look for another ` +
    "temperature, weights that one of them did not get, dropout, and lower precision"
  )
}

const noUpdate = (records: Records): string | undefined => {
  const { "policy/updates": updates, "rollout/empty": empty } = records.at(-1)!
  if (updates !== 0) return undefined
  return empty === 1
    ? "every answer was empty, so there was nothing to learn from: a stop string that answers begin with is never learned; " +
        "use stop tokens"
    : "policy/updates is 0: targetKl ended the update before its first step. Raise it, or see why sampler and learner disagree"
}

const noEos = (records: Records): string | undefined => {
  const iterations = 5
  if (!all(latest(records, "rollout/missing_eos", iterations), (share) => share === 1)) return undefined
  return (
    `rollout/missing_eos was 1 in ${iterations} iterations in a row: no answer ended by itself, so scores are those of cut ` +
    "answers. Raise maxNewTokens, check stopTokens, or let score.missingEos make an end worth it"
  )
}

const lengthExplosion = (records: Records): string | undefined => {
  const length = change(records, "rollout/length")
  const missing = change(records, "rollout/missing_eos")
  if (length === undefined || missing === undefined) return undefined
  const isLonger = length.now >= 1.5 * length.before
  if (!(isLonger && missing.now >= 0.5 && missing.now >= missing.before + 0.25)) return undefined
  return (
    `rollout/length went from ${shown(length.before)} to ${shown(length.now)} tokens, and ${shown(100 * missing.now)} % of the ` +
    "answers are cut at maxNewTokens: the reward probably likes length. Read the samples, and use score.missingEos"
  )
}

const lengthCollapse = (records: Records): string | undefined => {
  const length = change(records, "rollout/length")
  if (length === undefined || !(length.before >= 3 && length.now <= 1.5)) return undefined
  return (
    `rollout/length went from ${shown(length.before)} to ${shown(length.now)} tokens: the policy ends at once. Read the samples; ` +
    "either the reward likes saying nothing, or every token costs more KL penalty than an answer earns"
  )
}

// Below Adam's epsilon a gradient moves nothing.
const zeroGradient = (records: Records): string | undefined => {
  const norm = records.at(-1)!["policy/grad_norm"]
  if (norm === undefined || norm > 1e-8) return undefined
  return (
    `policy/grad_norm is ${shown(norm)}: the policy does not learn. Either all advantages are 0, which is what whitening ` +
    "makes of equal ones, or nothing of the policy is trained"
  )
}

const entropyCollapse = (records: Records): string | undefined => {
  const entropy = change(records, "policy/entropy")
  if (entropy === undefined || !(entropy.now < 0.1 * entropy.before)) return undefined
  return (
    `policy/entropy went from ${shown(entropy.before)} to ${shown(entropy.now)} nats per token: answers hardly vary any more, so ` +
    "that there is little left to learn from. Raise kl.klCoef or lower policyLearningRate, unless there is one right answer"
  )
}

const unexplained = (records: Records): string | undefined => {
  const iterations = 20
  const shares = latest(records, "value/explained_variance", iterations)
  if (!all(shares, (share) => share < -0.5)) return undefined
  return (
    `value/explained_variance was below -0.5 in ${iterations} iterations in a row, last ${shown(shares.at(-1)!)}: the values are ` +
    "worse than none. Raise valueLearningRate, widen valueClipRange to the scale of the scores, or scale these with score.gain"
  )
}

const equalScores = (records: Records): string | undefined => {
  const iterations = 3
  const scores = latest(records, "objective/scores", 1)
  const deviations = latest(records, "objective/scores_std", iterations)
  const noise = 1e-9 * Math.max(1, ...scores.map(Math.abs))
  if (!all(deviations, (deviation) => deviation <= noise)) return undefined
  return (
    `all answers scored ${shown(scores[0]!)} in ${iterations} iterations in a row: advantages carry nothing but the KL ` +
    "penalty. Look at the reward, at score.clip, and at whether prompts are so hard or so easy that it never differs"
  )
}

const conditions: Readonly<Record<string, (records: Records) => string | undefined>> = {
  negative_kl: negativeKl,
  sampler_disagrees: disagreement,
  no_update: noUpdate,
  no_eos: noEos,
  length_explosion: lengthExplosion,
  length_collapse: lengthCollapse,
  zero_gradient: zeroGradient,
  entropy_collapse: entropyCollapse,
  unexplained_values: unexplained,
  equal_scores: equalScores
}

/**
 * What the latest of the records gives reason to warn about, and the one before it did not.
 *
 * **Details**
 *
 * `reports`: the records of all iterations, since some warnings compare with the beginning of the run. The conditions:
 *
 *     negative_kl         objective/kl below 0 five times in a row, and below -0.01 and 3 standard errors on average
 *     sampler_disagrees   rollout/max_logprob_difference, or policy/first_ratio - 1, beyond 1e-3
 *     no_update           no optimizer step was taken
 *     no_eos              rollout/missing_eos 1 five times in a row
 *     length_explosion    rollout/length 1.5 times that of the first three iterations, and half of the answers cut
 *     length_collapse     rollout/length from 3 or more to 1.5 or less
 *     zero_gradient       policy/grad_norm at most 1e-8
 *     entropy_collapse    policy/entropy below a tenth of that of the first three iterations
 *     unexplained_values  value/explained_variance below -0.5 twenty times in a row
 *     equal_scores        objective/scores_std 0 three times in a row
 *
 * @category math
 * @since 0.1.0
 */
export const warnings = (reports: ReadonlyArray<PpoMetrics>): ReadonlyArray<Warning> => {
  if (reports.length === 0) return []
  const earlier = reports.slice(0, -1)
  return Object.entries(conditions).flatMap(([name, condition]) => {
    const message = condition(reports)
    const isNew = message !== undefined && (earlier.length === 0 || condition(earlier) === undefined)
    return isNew ? [{ name, message }] : []
  })
}
