/**
 * The losses of PPO and PPO-ptx as graphs: the clipped surrogate of the policy, the clipped error of the values, and the
 * likelihood of pretraining text. `ClippedSurrogate` says the same in double precision.
 *
 * Shapes: `N` counts the target tokens of an optimizer step, first those that were sampled, then those of pretraining text,
 * none padded. Each of the two kinds has weights that add up to one over the step, 0 for tokens of the other kind.
 *
 * @since 0.1.0
 */
import { Loss } from "@attune/core"
import { Graph, Op } from "@attune/core/onnx"
import type { PpoConfig } from "./PpoConfig.ts"

/**
 * What the policy's loss needs: of each target token its weight among those `sampled`, its weight in the `pretraining`
 * text, and for sampled ones the log-prob at sampling, at the temperature of sampling, and the advantage.
 *
 * @category models
 * @since 0.1.0
 */
export const policyFields = {
  sampled: ["N"],
  pretraining: ["N"],
  logprobs: ["N"],
  advantages: ["N"]
} as const satisfies Loss.Fields

/**
 * What the value loss needs: weights, the values at sampling, and the returns.
 *
 * @category models
 * @since 0.1.0
 */
export const valueFields = { sampled: ["N"], values: ["N"], returns: ["N"] } as const satisfies Loss.Fields

/**
 * What both need, where policy and values share a trunk.
 *
 * @category models
 * @since 0.1.0
 */
export const sharedFields = { ...policyFields, ...valueFields } as const satisfies Loss.Fields

/**
 * Fields of {@link policy}.
 *
 * @category models
 * @since 0.1.0
 */
export type PolicyFields = typeof policyFields

/**
 * Fields of {@link value}.
 *
 * @category models
 * @since 0.1.0
 */
export type ValueFields = typeof valueFields

/**
 * Fields of {@link shared}.
 *
 * @category models
 * @since 0.1.0
 */
export type SharedFields = typeof sharedFields

const policyMetrics = [
  "policy_loss",
  "ptx_loss",
  "approxkl",
  "clipfrac",
  "entropy",
  "ratio",
  "max_logprob_difference"
] as const
const maxima = ["max_logprob_difference"] as const
const valueMetrics = ["value_loss", "value_clipfrac"] as const

type PolicySettings = Pick<PpoConfig, "clipRange" | "temperature" | "ptx">
type ValueSettings = Pick<PpoConfig, "valueClipRange">

// 1 where the condition holds, else 0.
const indicator = (g: Graph.Graph, condition: Graph.Value) => Op.Cast(g, condition, "float32")

const policyTerms = (
  { entropy, fields, g, logprobs }: Loss.Inputs<PolicyFields>,
  { clipRange, ptx, temperature }: PolicySettings
) => {
  const { advantages, pretraining, sampled } = fields
  const mean = (perToken: Graph.Value) => Loss.mean(g, perToken, sampled)
  const isSampled = Op.Greater(g, sampled, Graph.scalar(g, 0))
  // Log-ratio of pretraining tokens, which nothing was sampled for: 0.
  const atSampling = logprobs(temperature)
  const logRatio = Op.Where(g, isSampled, Op.Sub(g, atSampling, fields.logprobs), Graph.scalar(g, 0))
  const ratio = Op.Exp(g, logRatio)
  const surrogate = (ratio: Graph.Value) => Op.Neg(g, Op.Mul(g, advantages, ratio))
  const unclipped = surrogate(ratio)
  const clipped = surrogate(Op.Clip(g, ratio, Graph.scalar(g, 1 - clipRange), Graph.scalar(g, 1 + clipRange)))
  const policyLoss = mean(Op.Max(g, unclipped, clipped))
  // At temperature 1 both kinds share one head, and one derivative of it.
  const untempered = () => (temperature === 1 ? atSampling : logprobs())
  const ptxLoss = ptx === null ? Graph.scalar(g, 0) : Op.Neg(g, Loss.mean(g, untempered(), pretraining))
  return {
    loss: ptx === null ? policyLoss : Op.Add(g, policyLoss, Op.Mul(g, ptxLoss, Graph.scalar(g, ptx.coef))),
    metrics: {
      policy_loss: policyLoss,
      ptx_loss: ptxLoss,
      approxkl: Op.Mul(g, mean(Op.Mul(g, logRatio, logRatio)), Graph.scalar(g, 0.5)),
      clipfrac: mean(indicator(g, Op.Greater(g, clipped, unclipped))),
      entropy: mean(entropy(temperature)),
      ratio: mean(ratio),
      max_logprob_difference: Op.ReduceMax(g, Op.Abs(g, logRatio), [0], false)
    }
  }
}

const valueTerms = (
  { fields, g, values }: Loss.Inputs<ValueFields, Loss.ScalarOutputs>,
  { valueClipRange }: ValueSettings
) => {
  const mean = (perToken: Graph.Value) => Loss.mean(g, perToken, fields.sampled)
  const predicted = values()
  const squaredError = (value: Graph.Value) => {
    const error = Op.Sub(g, value, fields.returns)
    return Op.Mul(g, error, error)
  }
  const unclipped = squaredError(predicted)
  const half = Graph.scalar(g, 0.5)
  if (valueClipRange === null) {
    const loss = Op.Mul(g, mean(unclipped), half)
    return { loss, metrics: { value_loss: loss, value_clipfrac: Graph.scalar(g, 0) } }
  }
  // Between two bounds: the old value plus a clipped difference is not the new value, to the last bit, where nothing is
  // clipped, and half of such differences would count as clipped.
  const range = Graph.scalar(g, valueClipRange)
  const [low, high] = [Op.Sub(g, fields.values, range), Op.Add(g, fields.values, range)]
  const clipped = squaredError(Op.Min(g, Op.Max(g, predicted, low), high))
  const loss = Op.Mul(g, mean(Op.Max(g, unclipped, clipped)), half)
  return { loss, metrics: { value_loss: loss, value_clipfrac: mean(indicator(g, Op.Greater(g, clipped, unclipped))) } }
}

/**
 * The loss of the policy, and its metrics.
 *
 * **Details**
 *
 *     policy_loss = mean of max(-A ratio, -A clip(ratio, 1 - clipRange, 1 + clipRange))    over sampled tokens
 *     ptx_loss    = mean of -logprob                                                       over pretraining tokens
 *     loss        = policy_loss + ptx.coef ptx_loss
 *
 * with `ratio = exp(logprob - logprob at sampling)`. The other metrics are means over the sampled tokens: `approxkl`
 * (half the squared log-ratio), `clipfrac`, `entropy`, `ratio`; `max_logprob_difference` is the largest absolute log-ratio,
 * in nats. Log-probs of sampled tokens are those at the temperature of sampling, of pretraining text at 1.
 *
 * Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; Ouyang et al. 2022, arXiv:2203.02155, eq. 2.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (settings: PolicySettings) =>
  Loss.make({
    name: settings.ptx === null ? "ppo" : "ppo-ptx",
    fields: policyFields,
    metrics: policyMetrics,
    maxima,
    build: (inputs) => policyTerms(inputs, settings)
  })

/**
 * The loss of a value model of its own.
 *
 * **Details**
 *
 *     value_loss = mean of max((V - R)^2, (clip(V, Vold - valueClipRange, Vold + valueClipRange) - R)^2) / 2
 *
 * @category constructors
 * @since 0.1.0
 */
export const value = (settings: ValueSettings) =>
  Loss.makeScalar({
    name: "ppo-value",
    fields: valueFields,
    metrics: valueMetrics,
    build: (inputs) => valueTerms(inputs, settings)
  })

/**
 * The loss of a policy and values that share a trunk: that of {@link policy} plus `valueCoef` times that of {@link value}.
 *
 * @category constructors
 * @since 0.1.0
 */
export const shared = (settings: PolicySettings & ValueSettings & Pick<PpoConfig, "valueCoef">) =>
  Loss.makeShared({
    name: settings.ptx === null ? "ppo-shared" : "ppo-ptx-shared",
    fields: sharedFields,
    metrics: [...policyMetrics, ...valueMetrics],
    maxima,
    build: (inputs) => {
      const own = policyTerms(inputs, settings)
      const { g } = inputs
      const ofValues = valueTerms(inputs, settings)
      return {
        loss: Op.Add(g, own.loss, Op.Mul(g, ofValues.loss, Graph.scalar(g, settings.valueCoef))),
        metrics: { ...own.metrics, ...ofValues.metrics }
      }
    }
  })
