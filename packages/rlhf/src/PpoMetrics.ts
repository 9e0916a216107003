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
 * Of the answers, before the update; means over answers unless said otherwise:
 *
 *     objective/kl                    log-ratio to the reference (k1), summed over tokens, nats
 *     objective/entropy               -log-prob, summed over tokens, nats
 *     objective/scores                score after gain, bias, clip and the missing-EOS rule
 *     objective/non_score_reward      -klCoef times the KL estimate, summed over tokens
 *     objective/rlhf_reward           the two together: what is made large
 *     objective/kl_coef               coefficient that penalised these answers
 *     rollout/length                  tokens, the stop token among them
 *     rollout/missing_eos             share that did not end by itself
 *     rollout/empty                   share without any token
 *     rollout/max_logprob_difference  largest difference of a log-prob between sampler and learner, in the first minibatch
 *     value/explained_variance        1 - MSE / variance of the returns, over tokens; 0 where returns do not vary
 *
 * Of the update; means over its optimizer steps:
 *
 *     loss/policy, loss/value, loss/ptx, policy/approxkl, policy/clipfrac, policy/entropy (per token), policy/ratio,
 *     policy/grad_norm, value/clipfrac, value/grad_norm, policy/learning_rate, policy/updates (steps taken)
 *     policy/first_ratio              mean ratio of the first minibatch: 1 where sampler and learner agree
 *
 * @category models
 * @since 0.1.0
 */
export type PpoMetrics = Learner.StepMetrics

const mean = (numbers: ReadonlyArray<number>): number =>
  numbers.reduce((sum, number) => sum + number, 0) / numbers.length

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
  return {
    "objective/kl": mean(kls),
    "objective/entropy": mean(answers.map(({ completion }) => 0 - sum(completion.logprobs))),
    "objective/scores": mean(scores),
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

/**
 * The warnings that the latest of the records gives reason for.
 *
 * @category math
 * @since 0.1.0
 */
export const warnings = (_reports: ReadonlyArray<PpoMetrics>): ReadonlyArray<Warning> => []
