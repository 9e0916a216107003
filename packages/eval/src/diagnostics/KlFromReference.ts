/**
 * How far a policy has moved from its reference, measured on responses that were drawn from the policy. In nats.
 *
 * Sign: `logRatio = logprobs - refLogprobs`, both at temperature 1 with nothing cut, so that the estimates are of
 * `KL(policy || reference)`.
 *
 * @since 0.1.0
 */
import { Kl, NextToken, type Policy, Prompt, Rollout, type Sampler } from "@attune/core"
import { Effect, Result } from "effect"
import * as Estimate from "../Estimate.ts"
import * as Sample from "../Sample.ts"

/**
 * A response drawn from the policy, `T` tokens. `prompt` names what it answers: responses to one prompt are one cluster.
 * All responses have one or none has.
 *
 * @category models
 * @since 0.1.0
 */
export interface Response {
  readonly id: string
  readonly prompt?: string | undefined
  /** Log-probs `[T]` under the policy, temperature 1: a completion's `untemperedLogprobs`. */
  readonly logprobs: Float32Array
  /** Log-probs `[T]` of the same tokens under the reference. */
  readonly refLogprobs: Float32Array
}

/**
 * Estimates of the divergence: nats per token, and nats per response (the sum over its tokens).
 *
 * @category models
 * @since 0.1.0
 */
export interface KlFromReference {
  readonly perToken: Readonly<Record<Kl.Estimator, Estimate.Estimate>>
  readonly perResponse: Readonly<Record<Kl.Estimator, Estimate.Estimate>>
}

const sampleName = "KL from the reference"

const refuse = (item: string, reason: string) =>
  Result.fail(new Sample.SampleError({ sample: sampleName, item, reason }))

// Scored in 32 bits, a log-prob of a near-certain token may come out slightly above 0.
const rounding = 1e-3

const check = ({ id, logprobs, refLogprobs }: Response): Result.Result<void, Sample.SampleError> => {
  if (logprobs.length !== refLogprobs.length) {
    return refuse(
      id,
      `${logprobs.length} logprobs and ${refLogprobs.length} refLogprobs; score the same tokens with both models`
    )
  }
  for (const [name, values] of Object.entries({ logprobs, refLogprobs })) {
    const t = values.findIndex((value) => !(Number.isFinite(value) && value <= rounding))
    if (t < 0) continue
    return refuse(id, `${name} of token ${t} is ${values[t]}; a log-prob is a finite number, 0 or below`)
  }
  return Result.succeed(undefined)
}

const checkAll = (responses: ReadonlyArray<Response>): Result.Result<void, Sample.SampleError> => {
  for (const response of responses) {
    const checked = check(response)
    if (Result.isFailure(checked)) return checked
  }
  return Result.succeed(undefined)
}

/**
 * The estimator summed over the tokens of each response: one value per response, clustered by prompt where they have
 * one. Fails with the response at fault: arrays of two lengths, a log-prob that is not finite or above 0.
 *
 * @category constructors
 * @since 0.1.0
 */
export const perResponse = (
  responses: ReadonlyArray<Response>,
  estimator: Kl.Estimator
): Result.Result<Sample.Sample, Sample.SampleError> =>
  Result.flatMap(checkAll(responses), () =>
    Sample.make(
      `${sampleName}, ${estimator} per response`,
      responses.map(({ id, logprobs, prompt, refLogprobs }) => ({
        id,
        cluster: prompt,
        value: Kl.sequence(logprobs, refLogprobs, estimator)
      }))
    )
  )

/**
 * The estimator on each token, clustered by prompt, or by response where the responses name no prompt: tokens of one
 * response depend on each other. Fails as {@link perResponse} does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const perToken = (
  responses: ReadonlyArray<Response>,
  estimator: Kl.Estimator
): Result.Result<Sample.Sample, Sample.SampleError> =>
  Result.flatMap(checkAll(responses), () =>
    Sample.make(
      `${sampleName}, ${estimator} per token`,
      responses.flatMap(({ id, logprobs, prompt, refLogprobs }) =>
        Array.from(Kl.estimate(logprobs, refLogprobs, estimator), (value, t) => ({
          id: `${id}/${t}`,
          cluster: prompt ?? id,
          value
        }))
      )
    )
  )

/**
 * Estimates the KL divergence of the policy from the reference with k1, k2 and k3, per token and per response.
 *
 * **Details**
 *
 * With the sums `y_i` over the `T_i` tokens of response `i`:
 *
 *     per response   Σ y_i / B                  what an adaptive KL controller and a KL budget look at
 *     per token      Σ y_i / Σ T_i              long responses weigh more
 *
 * Per token is a ratio of two sums, both random, over independent prompts `c`. Its standard error is the delta method's,
 * `se² = C / (C - 1) Σ_c (y_c - ratio T_c)² / (Σ T_i)²`, which is that of `Estimate.clustered` on the tokens.
 *
 * Source of k1, k2 and k3: Schulman, "Approximating KL Divergence" (2020).
 *
 * **Gotchas**
 *
 * k1 and k3 are unbiased, k2 is not. k1 may be negative and is the noisier where the models are close; where they are far
 * apart k3 has a heavy tail, as `exp(-logRatio)` is rare and large, and its interval is then too narrow. If the two
 * disagree beyond their intervals, believe neither before there are more responses. Responses cut at a length limit
 * give the divergence up to that length. Two models that agree on every token have estimates of 0 without an interval.
 *
 * @category math
 * @since 0.1.0
 */
export const estimate = (
  responses: ReadonlyArray<Response>,
  options?: { readonly confidence?: number }
): Result.Result<KlFromReference, Sample.SampleError> => {
  const each = (sample: typeof perToken) => {
    const of = (estimator: Kl.Estimator) =>
      Result.map(sample(responses, estimator), (made) => Estimate.clustered(made, options?.confidence))
    return Result.all({ k1: of("k1"), k2: of("k2"), k3: of("k3") })
  }
  return Result.all({ perResponse: each(perResponse), perToken: each(perToken) })
}

// Both are of one distribution when nothing was tempered or cut; more than this apart is no rounding.
const tempered = 1e-3

/**
 * Responses of rollouts with reference log-probs: ids are their places, prompts their texts.
 *
 * Fails where a rollout has no `refLogprobs`, and where its tokens were not drawn at temperature 1 with nothing cut: the
 * average over such tokens is no divergence of the policy.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromRollouts = (
  rollouts: ReadonlyArray<Rollout.Rollout>
): Result.Result<ReadonlyArray<Response>, Sample.SampleError> => {
  const responses: Array<Response> = []
  for (const [i, { completion, prompt, refLogprobs }] of rollouts.entries()) {
    const id = String(i)
    if (refLogprobs === undefined) return refuse(id, "no refLogprobs; score the completion with the reference")
    const { logprobs, untemperedLogprobs } = completion
    const t = logprobs.findIndex((logprob, t) => Math.abs(logprob - untemperedLogprobs[t]!) > tempered)
    if (t >= 0) {
      return refuse(
        id,
        `token ${t} was drawn with log-prob ${logprobs[t]}, the model gives it ${untemperedLogprobs[t]}; ` +
          "draw at temperature 1 without top-k, top-p or repetition penalty"
      )
    }
    responses.push({ id, prompt: prompt.text, logprobs: untemperedLogprobs, refLogprobs })
  }
  return Result.succeed(responses)
}

/**
 * Settings of {@link draw}. What would temper or cut the distribution is not among them.
 *
 * @category models
 * @since 0.1.0
 */
export interface DrawOptions extends Pick<Sampler.SampleOptionsInput, "maxNewTokens" | "stopTokens"> {
  /** Responses to each prompt. Default 1. */
  readonly samplesPerPrompt?: number
  readonly seed: number
  /** Responses that are drawn and then scored at a time. Default 128. */
  readonly batchSize?: number
}

type Model = Pick<Policy.PolicyShape, "name" | "tokenizer">

// Log-probs of ids that mean different tokens to the two models would be compared without anyone noticing.
const checkVocabularies = (policy: Model, reference: Model, ids: Iterable<number>) => {
  if (policy.tokenizer === reference.tokenizer) return Result.succeed(undefined)
  for (const id of new Set(ids)) {
    const [own, other] = [policy.tokenizer.token(id), reference.tokenizer.token(id)]
    if (own === other) continue
    return refuse(
      `token ${id}`,
      `it is ${JSON.stringify(own)} to ${policy.name} and ${JSON.stringify(other)} to ${reference.name}; ` +
        "a KL divergence needs two models with one vocabulary"
    )
  }
  return Result.succeed(undefined)
}

/**
 * Draws responses from the policy at temperature 1, and scores them with the reference, a batch at a time. In the order
 * of the prompts, the responses to one prompt side by side.
 *
 * Fails as the models do, and where an id that was used is another token to the reference.
 *
 * @category running
 * @since 0.1.0
 */
export const draw: (
  policy: Policy.PolicyShape,
  reference: Policy.PolicyShape,
  prompts: ReadonlyArray<string | Prompt.Prompt>,
  options: DrawOptions
) => Effect.Effect<ReadonlyArray<Rollout.Rollout>, Policy.ModelError | Sample.SampleError> = Effect.fn(
  "KlFromReference.draw"
)(function* (policy, reference, prompts, { batchSize = 128, samplesPerPrompt = 1, seed, ...rest }) {
  for (const [name, count] of Object.entries({ batchSize, samplesPerPrompt })) {
    if (!Number.isInteger(count) || count < 1) throw new RangeError(`${name} is ${count}; it must be 1 or more`)
  }
  const rows = prompts.flatMap((content) => {
    const prompt = typeof content === "string" ? Prompt.make(content, policy.tokenizer.encode(content)) : content
    return Array.from({ length: samplesPerPrompt }, () => prompt)
  })
  const rollouts: Array<Rollout.Rollout> = []
  for (let start = 0; start < rows.length; start += batchSize) {
    const batch = rows.slice(start, start + batchSize)
    // A seed per row of the whole, so that the batch size changes no token.
    const rowSeeds = batch.map((_, i) => NextToken.rowSeed(seed, start + i))
    const completions = yield* policy.sample(batch, { ...rest, rowSeeds, batchSize })
    const continuations = batch.map(({ tokens }, i) => ({ prompt: tokens, completion: completions[i]!.tokens }))
    const ids = continuations.flatMap(({ completion, prompt }) => [...prompt, ...completion])
    yield* Effect.fromResult(checkVocabularies(policy, reference, ids))
    const scored = yield* reference.logprobs(continuations)
    for (const [i, prompt] of batch.entries()) {
      rollouts.push(Rollout.make({ prompt, completion: completions[i]!, refLogprobs: scored[i]! }))
    }
  }
  return rollouts
})

/**
 * {@link draw}, then {@link estimate}.
 *
 * @category running
 * @since 0.1.0
 */
export const measure: (
  policy: Policy.PolicyShape,
  reference: Policy.PolicyShape,
  prompts: ReadonlyArray<string | Prompt.Prompt>,
  options: DrawOptions & { readonly confidence?: number }
) => Effect.Effect<
  KlFromReference & { readonly rollouts: ReadonlyArray<Rollout.Rollout> },
  Policy.ModelError | Sample.SampleError
> = Effect.fn("KlFromReference.measure")(function* (policy, reference, prompts, { confidence, ...options }) {
  const rollouts = yield* draw(policy, reference, prompts, options)
  const responses = yield* Effect.fromResult(fromRollouts(rollouts))
  const kl = yield* Effect.fromResult(estimate(responses, confidence === undefined ? {} : { confidence }))
  return { ...kl, rollouts }
})
