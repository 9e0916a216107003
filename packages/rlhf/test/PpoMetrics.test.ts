import { Completion } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import type { Episode } from "../src/PpoLearners.ts"
import * as PpoMetrics from "../src/PpoMetrics.ts"
import * as Scripted from "./scripted.ts"

const completion = (
  logprobs: ReadonlyArray<number>,
  finishReason: Completion.FinishReason = "stop"
): Completion.Completion =>
  Completion.make({
    tokens: Int32Array.from(logprobs, (_, i) => i + 1),
    logprobs: Float32Array.from(logprobs),
    untemperedLogprobs: Float32Array.from(logprobs),
    text: "",
    finishReason
  })

const episode = (values: ReadonlyArray<number>, returns: ReadonlyArray<number>): Episode => ({
  tokens: new Int32Array(values.length + 1),
  logprobs: new Float32Array(values.length),
  values: Float32Array.from(values),
  advantages: new Float32Array(values.length),
  returns: Float32Array.from(returns)
})

// Three answers of 3, 1 and 0 tokens; the log-probs of the first are those of oracle R6.
const answers = [
  { completion: completion([-1, -2, -0.5]), refLogprobs: Float32Array.of(-1.25, -1.5, -0.5), score: 3 },
  { completion: completion([-0.5], "length"), refLogprobs: Float32Array.of(-2), score: 1 },
  { completion: completion([]), refLogprobs: new Float32Array(), score: -1 }
]

const policyStep = {
  policy_loss: 1,
  ptx_loss: 2,
  approxkl: 0.25,
  clipfrac: 0.5,
  entropy: 1.5,
  ratio: 1.25,
  max_logprob_difference: 0.125,
  grad_norm: 4,
  learning_rate: 0.5
}
const steps = {
  policy: [policyStep, { ...policyStep, policy_loss: 3, ratio: 0.75, max_logprob_difference: 9, learning_rate: 0.25 }],
  value: [
    { value_loss: 1, value_clipfrac: 0.5, grad_norm: 8 },
    { value_loss: 2, value_clipfrac: 0, grad_norm: 6 }
  ]
}

const ofIteration = (given: Partial<Parameters<typeof PpoMetrics.ofIteration>[0]> = {}) =>
  PpoMetrics.ofIteration({
    answers,
    episodes: [episode([1, 2, 3], [2, 2, 4]), episode([2], [4])],
    klCoef: 0.5,
    steps,
    config: Scripted.config({ score: { gain: 2, missingEos: { _tag: "Penalty", penalty: 1 } } }),
    ...given
  })

describe("the record of an iteration", () => {
  it("has sums over an answer's tokens, averaged over answers", () => {
    const metrics = ofIteration()
    // Log-ratios .25, -.5, 0 and 1.5 and none: sums -.25, 1.5, 0.
    assert.strictEqual(metrics["objective/kl"], 1.25 / 3)
    const around = [-0.25, 1.5, 0].map((kl) => (kl - 1.25 / 3) ** 2)
    assert.closeTo(metrics["objective/kl_stderr"]!, Math.sqrt((around[0]! + around[1]! + around[2]!) / 2 / 3), 1e-15)
    assert.strictEqual(metrics["objective/entropy"], 4 / 3)
    assert.closeTo(metrics["objective/non_score_reward"]!, (-0.5 * 1.25) / 3, 1e-15)
    assert.strictEqual(metrics["objective/kl_coef"], 0.5)
    assert.strictEqual(metrics["rollout/length"], 4 / 3)
    assert.strictEqual(metrics["rollout/missing_eos"], 1 / 3)
    assert.strictEqual(metrics["rollout/empty"], 1 / 3)
    assert.strictEqual(ofIteration({ answers: answers.slice(0, 2) })["rollout/empty"], 0)
  })

  it("has the scores that are trained on: with gain, and less the penalty for an answer that did not end", () => {
    const metrics = ofIteration()
    // 2 * 3, 2 * 1 - 1, 2 * -1
    assert.closeTo(metrics["objective/scores"]!, 5 / 3, 1e-15)
    assert.closeTo(metrics["objective/scores_std"]!, Math.sqrt((36 + 1 + 4 - 25 / 3) / 2), 1e-15)
    assert.closeTo(metrics["objective/rlhf_reward"]!, 5 / 3 - (0.5 * 1.25) / 3, 1e-15)
  })

  it("penalises with the estimator that is configured, and reports k1 all the same", () => {
    const metrics = ofIteration({ config: Scripted.config({ klEstimator: "k3" }) })
    const k3 = (r: number) => Math.exp(-r) - 1 + r
    assert.closeTo(metrics["objective/non_score_reward"]!, (-0.5 * (k3(0.25) + k3(-0.5) + k3(1.5))) / 3, 1e-7)
    assert.strictEqual(metrics["objective/kl"], 1.25 / 3)
  })

  it("averages over the steps of the update, and takes the agreement with the sampler from the first alone", () => {
    const metrics = ofIteration()
    assert.deepInclude(metrics, {
      "rollout/max_logprob_difference": 0.125,
      "policy/first_ratio": 1.25,
      "loss/policy": 2,
      "loss/ptx": 2,
      "loss/value": 1.5,
      "policy/approxkl": 0.25,
      "policy/clipfrac": 0.5,
      "policy/entropy": 1.5,
      "policy/ratio": 1,
      "policy/grad_norm": 4,
      "policy/learning_rate": 0.375,
      "policy/updates": 2,
      "value/clipfrac": 0.25,
      "value/grad_norm": 7
    })
  })

  it("explains the variance of returns over all tokens, however long the answers", () => {
    // Errors 1, 0, 1, 2: mean square 1.5. Returns 2, 2, 4, 4: variance 1.
    assert.strictEqual(ofIteration()["value/explained_variance"], -0.5)
    const same = [episode([1, 2], [3, 3])]
    assert.strictEqual(ofIteration({ episodes: same })["value/explained_variance"], 0)
  })

  it("lacks what was not there: values, steps, the spread of a single answer", () => {
    const none = Object.keys(ofIteration({ steps: { policy: [], value: [] } }))
    assert.deepStrictEqual(
      none.filter((name) => /^(value|loss)|ratio|difference|grad_norm/.test(name)),
      []
    )
    assert.strictEqual(ofIteration({ steps: { ...steps, policy: [] } })["policy/updates"], 0)
    const single = ofIteration({ answers: answers.slice(0, 1) })
    assert.notProperty(single, "objective/kl_stderr")
    assert.notProperty(single, "objective/scores_std")
  })
})

// Nothing to warn about.
const well: PpoMetrics.PpoMetrics = {
  "objective/kl": 1,
  "objective/kl_stderr": 0.1,
  "objective/scores": 0.5,
  "objective/scores_std": 1,
  "rollout/length": 10,
  "rollout/missing_eos": 0.1,
  "rollout/empty": 0,
  "rollout/max_logprob_difference": 1e-6,
  "policy/first_ratio": 1,
  "policy/entropy": 1,
  "policy/grad_norm": 1,
  "policy/updates": 2,
  "value/explained_variance": 0.5
}

type Change = PpoMetrics.PpoMetrics

const records = (count: number, change: Change | ((i: number) => Change) = {}) =>
  Array.from({ length: count }, (_, i) => ({ ...well, ...(typeof change === "function" ? change(i) : change) }))

/** Warnings by the iteration, from 1, that they are given after. */
const warned = (reports: ReadonlyArray<PpoMetrics.PpoMetrics>): ReadonlyArray<string> =>
  reports.flatMap((_, i) => PpoMetrics.warnings(reports.slice(0, i + 1)).map(({ name }) => `${i + 1} ${name}`))

const message = (reports: ReadonlyArray<PpoMetrics.PpoMetrics>): string =>
  PpoMetrics.warnings(reports)
    .map(({ message }) => message)
    .join("\n")

describe("warnings", () => {
  it("are not given while all is well", () => {
    assert.deepStrictEqual(warned(records(30)), [])
    assert.deepStrictEqual(PpoMetrics.warnings([]), [])
  })

  it("come when something begins to be wrong, and again only after it was right", () => {
    const off = { "policy/grad_norm": 0 }
    const reports = [...records(2), ...records(3, off), ...records(1), ...records(2, off)]
    assert.deepStrictEqual(warned(reports), ["3 zero_gradient", "7 zero_gradient"])
    assert.deepStrictEqual(warned(records(2, off)), ["1 zero_gradient"])
  })

  it("negative_kl: below 0 for five iterations, beyond noise", () => {
    const negative = { "objective/kl": -0.5 }
    assert.deepStrictEqual(warned([...records(3), ...records(7, negative)]), ["8 negative_kl"])
    assert.match(message(records(5, negative)), /objective\/kl was negative in 5 .* -0\.5 nats .* error of 0\.0447/)
    // One that is positive in between, more noise, rounding.
    assert.deepStrictEqual(warned(records(20, (i) => (i % 5 === 4 ? {} : negative))), [])
    assert.deepStrictEqual(warned(records(9, { ...negative, "objective/kl_stderr": 0.38 })), [])
    assert.deepStrictEqual(warned(records(9, { "objective/kl": -0.009, "objective/kl_stderr": 1e-7 })), [])
  })

  it("sampler_disagrees: a log-prob or the mean ratio off by more than 1e-3 before the update", () => {
    const off = { "rollout/max_logprob_difference": 0.0021 }
    assert.deepStrictEqual(warned(records(3, off)), ["1 sampler_disagrees"])
    assert.match(message(records(1, off)), /max_logprob_difference is 0\.0021 nats and policy\/first_ratio 1 /)
    assert.deepStrictEqual(warned(records(3, { "policy/first_ratio": 0.98 })), ["1 sampler_disagrees"])
    assert.deepStrictEqual(
      warned(records(3, { "rollout/max_logprob_difference": 9e-4, "policy/first_ratio": 0.9995 })),
      []
    )
  })

  it("no_update: the update took no step, for whichever reason", () => {
    const none = { "policy/updates": 0 }
    assert.deepStrictEqual(warned(records(2, none)), ["1 no_update"])
    assert.match(message(records(1, none)), /policy\/updates is 0: targetKl/)
    assert.match(message(records(1, { ...none, "rollout/empty": 1 })), /every answer was empty/)
  })

  it("no_eos: not one answer ended by itself for five iterations", () => {
    const cut = { "rollout/missing_eos": 1 }
    assert.deepStrictEqual(warned(records(8, cut)), ["5 no_eos"])
    assert.deepStrictEqual(warned(records(8, (i) => ({ "rollout/missing_eos": i === 4 ? 0.99 : 1 }))), [])
  })

  it("length_explosion: answers grow up to the limit", () => {
    const longer = (length: number, missing: number) => (i: number) =>
      i < 4 ? {} : { "rollout/length": length, "rollout/missing_eos": missing }
    assert.deepStrictEqual(warned(records(9, longer(16, 0.6))), ["7 length_explosion"])
    assert.match(message(records(7, longer(16, 0.6))), /length went from 10 to 16 tokens, and 60 % of the answers/)
    assert.deepStrictEqual(warned(records(9, longer(14, 0.6))), [])
    assert.deepStrictEqual(warned(records(9, longer(16, 0.4))), [])
    const cutFromTheStart = (i: number) => ({ "rollout/length": i < 4 ? 10 : 16, "rollout/missing_eos": 0.6 })
    assert.deepStrictEqual(warned(records(9, cutFromTheStart)), [])
  })

  it("length_collapse: answers shrink to the end-of-text token, unless they always were so short", () => {
    const shrinking = (i: number) => (i < 4 ? {} : { "rollout/length": 1 })
    assert.deepStrictEqual(warned(records(9, shrinking)), ["7 length_collapse"])
    assert.match(message(records(7, shrinking)), /rollout\/length went from 10 to 1 tokens/)
    assert.deepStrictEqual(warned(records(9, { "rollout/length": 1 })), [])
  })

  it("zero_gradient: nothing that Adam could see", () => {
    assert.match(message(records(1, { "policy/grad_norm": 1e-9 })), /policy\/grad_norm is 1e-9/)
    assert.deepStrictEqual(warned(records(1, { "policy/grad_norm": 1e-7 })), [])
  })

  it("entropy_collapse: a tenth of what it was", () => {
    const falling = (to: number) => (i: number) => (i < 4 ? {} : { "policy/entropy": to })
    assert.deepStrictEqual(warned(records(9, falling(0.05))), ["7 entropy_collapse"])
    assert.match(message(records(7, falling(0.05))), /policy\/entropy went from 1 to 0\.05 nats per token/)
    assert.deepStrictEqual(warned(records(9, falling(0.11))), [])
  })

  it("unexplained_values: values worse than none for twenty iterations", () => {
    const bad = { "value/explained_variance": -2 }
    assert.deepStrictEqual(warned([...records(2), ...records(25, bad)]), ["22 unexplained_values"])
    assert.match(message(records(20, bad)), /in a row, last -2: /)
    assert.deepStrictEqual(warned(records(25, { "value/explained_variance": -0.4 })), [])
  })

  it("equal_scores: one score for all answers of three iterations", () => {
    const same = { "objective/scores_std": 0 }
    assert.deepStrictEqual(warned(records(6, same)), ["3 equal_scores"])
    assert.match(message(records(3, same)), /all answers scored 0\.5 in 3 iterations/)
    assert.deepStrictEqual(warned(records(6, (i) => (i % 3 === 2 ? {} : same))), [])
    const { "objective/scores_std": _, ...single } = well
    assert.deepStrictEqual(warned([single, single, single, single]), [])
  })
})
