import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import type * as KlController from "../src/KlController.ts"
import * as PpoConfig from "../src/PpoConfig.ts"

const { instructgpt, openrlhf, trl } = PpoConfig.presets

const presetNames = ["instructgpt", "trl", "openrlhf"] as const

const refusal = (input: unknown): PpoConfig.PpoConfigError => Result.getOrThrow(Result.flip(PpoConfig.decode(input)))

const closeTo = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>) => {
  assert.strictEqual(actual.length, expected.length)
  expected.forEach((value, i) => {
    assert.closeTo(actual[i]!, value, 1e-12, `entry ${i}`)
  })
}

describe("counts", () => {
  it("R23: 256,000 episodes in batches of 512 are 500 iterations, 4,000 steps and 2,048,000 pretraining examples", () => {
    assert.deepStrictEqual(PpoConfig.counts(instructgpt), {
      iterations: 500,
      episodes: 256_000,
      promptsPerIteration: 512,
      minibatches: 8,
      stepsPerIteration: 8,
      steps: 4000,
      ptxExamplesPerStep: 512,
      ptxExamples: 2_048_000
    })
  })

  it("fills the last iteration up, and counts inner epochs and answers to the same prompt", () => {
    const config = Result.getOrThrow(
      PpoConfig.make("trl", { episodes: 100, batchSize: 24, minibatchSize: 6, samplesPerPrompt: 3, innerEpochs: 2 })
    )
    assert.deepStrictEqual(PpoConfig.counts(config), {
      iterations: 5,
      episodes: 120,
      promptsPerIteration: 8,
      minibatches: 4,
      stepsPerIteration: 8,
      steps: 40,
      ptxExamplesPerStep: 0,
      ptxExamples: 0
    })
  })

  it("draws pretraining examples anew in every inner epoch", () => {
    const config = Result.getOrThrow(PpoConfig.make("instructgpt", { innerEpochs: 3 }))
    assert.strictEqual(PpoConfig.counts(config).ptxExamples, 3 * 2_048_000)
  })
})

describe("presets", () => {
  it("instructgpt is what the paper prints, and the default of every setting", () => {
    assert.deepStrictEqual(Result.getOrThrow(PpoConfig.decode({})), instructgpt)
    const { adamBeta1, adamBeta2, clipRange, ema, gamma, kl, lambda, ptx, temperature, valueLearningRate } = instructgpt
    assert.deepStrictEqual(kl, { _tag: "Fixed", klCoef: 0.02 })
    assert.deepStrictEqual(ptx, { coef: 27.8, examplesPerEpisode: 8 })
    assert.deepStrictEqual([adamBeta1, adamBeta2, ema, valueLearningRate], [0.9, 0.95, 0.992, 9e-6])
    assert.deepStrictEqual([clipRange, gamma, lambda, temperature], [0.2, 1, 0.95, 1])
    assert.deepStrictEqual(instructgpt.score, { gain: 1, bias: 0, missingEos: { _tag: "Keep" } })
  })

  it("trl is the configuration of its trainer", () => {
    const { adamBeta1, adamBeta2, adamEpsilon, innerEpochs, maxNewTokens, policyLearningRate, temperature } = trl
    assert.deepStrictEqual(trl.kl, { _tag: "Fixed", klCoef: 0.05 })
    assert.deepStrictEqual([innerEpochs, maxNewTokens, temperature, policyLearningRate], [4, 53, 0.7, 3e-6])
    assert.deepStrictEqual([adamBeta1, adamBeta2, adamEpsilon], [0.9, 0.999, 1e-8])
    assert.deepStrictEqual([trl.clipRange, trl.valueClipRange, trl.valueCoef, trl.lambda], [0.2, 0.2, 0.1, 0.95])
    assert.deepStrictEqual([trl.whitenRewards, trl.whitenAdvantages], [null, "unbiased"])
    assert.deepStrictEqual([trl.ptx, trl.ema, trl.maxGradNorm, trl.valueLearningRate], [null, null, null, 3e-6])
  })

  it("openrlhf is the command line of its trainer", () => {
    const { batchSize, lambda, maxGradNorm, minibatchSize, policyLearningRate, valueClipRange } = openrlhf
    assert.deepStrictEqual(openrlhf.kl, { _tag: "Fixed", klCoef: 0.01 })
    assert.deepStrictEqual([batchSize, minibatchSize, lambda, valueClipRange], [1024, 128, 1, 0.5])
    assert.deepStrictEqual([policyLearningRate, openrlhf.valueLearningRate, maxGradNorm], [1e-6, 9e-6, 1])
    assert.deepStrictEqual(openrlhf.score.clip, [-10, 10])
    assert.deepStrictEqual([openrlhf.ptx, openrlhf.ema, openrlhf.whitenAdvantages], [null, null, "biased"])
  })

  it.each(presetNames)("%s is the same after a way through JSON", (name) => {
    const config = PpoConfig.presets[name]
    assert.deepStrictEqual(Result.getOrThrow(PpoConfig.decode(JSON.parse(JSON.stringify(config)))), config)
    assert.deepStrictEqual(Schema.encodeSync(PpoConfig.PpoConfig)(config), config)
  })
})

describe("make", () => {
  it("changes the settings that are given and no other", () => {
    const adaptive = { _tag: "Adaptive", klCoef: 0.15, target: 6, horizon: 10_000 } as const
    const config = Result.getOrThrow(PpoConfig.make("instructgpt", { kl: adaptive, ptx: null, targetKl: 0.03 }))
    assert.deepStrictEqual(config, { ...instructgpt, kl: adaptive, ptx: null, targetKl: 0.03 })
  })

  it("keeps the preset's number of minibatches where only the batch is given", () => {
    assert.strictEqual(Result.getOrThrow(PpoConfig.make("instructgpt", { batchSize: 32 })).minibatchSize, 4)
    assert.strictEqual(Result.getOrThrow(PpoConfig.make("trl", { batchSize: 24 })).minibatchSize, 24)
    const both = PpoConfig.make("openrlhf", { batchSize: 64, minibatchSize: 32 })
    assert.strictEqual(Result.getOrThrow(both).minibatchSize, 32)
  })

  it("refuses a batch too small for the preset's minibatches", () => {
    const { field, reason } = Result.getOrThrow(Result.flip(PpoConfig.make("instructgpt", { batchSize: 4 })))
    assert.deepStrictEqual([field, reason], ["minibatchSize", "must divide the batch of 4 episodes: use 4, got 64"])
  })

  it("is typed by setting", () => {
    expectTypeOf(PpoConfig.make("trl", {})).toEqualTypeOf<
      Result.Result<PpoConfig.PpoConfig, PpoConfig.PpoConfigError>
    >()
    expectTypeOf<PpoConfig.PpoConfig["valueClipRange"]>().toEqualTypeOf<number | null>()
    expectTypeOf<PpoConfig.PpoConfig["kl"]>().toEqualTypeOf<KlController.KlController>()
    // @ts-expect-error: there is no such preset
    const unknownPreset = () => PpoConfig.make("ppo")
    // @ts-expect-error: there is no such setting
    const unknownSetting = () => PpoConfig.make("trl", { klCoef: 0.1 })
    // @ts-expect-error: not one of the estimators
    const unknownEstimator = () => PpoConfig.make("trl", { klEstimator: "k2" })
    assert.throws(unknownPreset)
    assert.isTrue(Result.isFailure(unknownSetting()))
    assert.isTrue(Result.isFailure(unknownEstimator()))
  })
})

describe("decode", () => {
  it.each<[string, unknown, string, string]>([
    [
      "a negative coefficient",
      { kl: { _tag: "Fixed", klCoef: -0.02 } },
      "kl.klCoef",
      "klCoef must be 0 (no penalty) or more: the penalty is subtracted, so write the coefficient without a sign, got -0.02"
    ],
    [
      "a target of nothing",
      { kl: { _tag: "Adaptive", klCoef: 0.15, target: 0, horizon: 10_000 } },
      "kl.target",
      "target must be above 0: it is the divergence to hold, in nats summed over the tokens of an answer, got 0"
    ],
    [
      "greedy decoding",
      { temperature: 0 },
      "temperature",
      "must be above 0: greedy decoding gives every token probability 1, which leaves nothing to learn from, got 0"
    ],
    [
      "minibatches that do not divide the batch",
      { minibatchSize: 60 },
      "minibatchSize",
      "must divide the batch of 512 episodes: use 64 or 32, got 60"
    ],
    [
      "minibatches larger than the batch",
      { batchSize: 48, minibatchSize: 64 },
      "minibatchSize",
      "must divide the batch of 48 episodes: use 48, got 64"
    ],
    [
      "minibatches of a prime batch",
      { batchSize: 13, minibatchSize: 4 },
      "minibatchSize",
      "must divide the batch of 13 episodes: use 13 or 1, got 4"
    ],
    [
      "answers to one prompt that do not fill the batch",
      { samplesPerPrompt: 5 },
      "samplesPerPrompt",
      "must divide the batch of 512 episodes: use 8 or 4, got 5"
    ],
    [
      "a run shorter than a batch",
      { episodes: 100 },
      "episodes",
      "must be at least one batch of 512: raise it, or lower batchSize, got 100"
    ],
    [
      "a warm-up as long as the run",
      { episodes: 5120 },
      "warmUpIterations",
      "must be below the run's 10 iterations, or the rate never comes to its peak: lower it (0 for no warm-up) or " +
        "raise episodes, got 10"
    ],
    [
      "a clip range of 1",
      { clipRange: 1 },
      "clipRange",
      "must lie between 0 and 1, without either: 0.2 is usual, got 1"
    ],
    [
      "a clip range of 0",
      { clipRange: 0 },
      "clipRange",
      "must lie between 0 and 1, without either: 0.2 is usual, got 0"
    ],
    ["lambda above 1", { lambda: 1.01 }, "lambda", "must lie between 0 and 1, got 1.01"],
    ["gamma below 0", { gamma: -0.5 }, "gamma", "must lie between 0 and 1, got -0.5"],
    ["half an epoch", { innerEpochs: 0.5 }, "innerEpochs", "must be a whole number from 1, got 0.5"],
    ["no new token", { maxNewTokens: 0 }, "maxNewTokens", "must be a whole number from 1, got 0"],
    [
      "values clipped to 0",
      { valueClipRange: 0 },
      "valueClipRange",
      "must be above 0; write null for no clipping, got 0"
    ],
    ["an average without memory", { ema: 0 }, "ema", "must lie between 0 and 1, without either; null for none, got 0"],
    [
      "an average that never moves",
      { ema: 1 },
      "ema",
      "must lie between 0 and 1, without either; null for none, got 1"
    ],
    [
      "pretraining without weight",
      { ptx: { coef: 0, examplesPerEpisode: 8 } },
      "ptx.coef",
      "must be above 0; write ptx: null to train without pretraining text, got 0"
    ],
    ["a missing part", { ptx: { coef: 1 } }, "ptx.examplesPerEpisode", "is missing"],
    ["a rate of 0", { policyLearningRate: 0 }, "policyLearningRate", "must be above 0, got 0"],
    ["a second moment that never moves", { adamBeta2: 1 }, "adamBeta2", "must be 0 or more and below 1, got 1"],
    [
      "a floor at the peak",
      { schedule: { _tag: "Linear", floor: 1 } },
      "schedule.floor",
      "must be 0 or more and below 1, got 1"
    ],
    ["a negative decay", { weightDecay: -0.1 }, "weightDecay", "must be 0 or more, got -0.1"],
    [
      "clips the wrong way round",
      { score: { clip: [1, -1] } },
      "score.clip",
      "clip is [lowest, highest]: give the smaller number first, got [1,-1]"
    ],
    ["a number that is none", { lambda: Number.NaN }, "lambda", "Expected a finite number, got NaN"],
    ["text for a number", { batchSize: "512" }, "batchSize", 'Expected number, got "512"'],
    ["an estimator that is no reward", { klEstimator: "k2" }, "klEstimator", 'Expected "k1" | "k3", got "k2"'],
    ["an unknown setting", { klCoef: 0.1 }, "klCoef", "there is no such setting"],
    ["an unknown part", { ptx: { coef: 1, examplesPerEpisode: 1, gamma: 2 } }, "ptx.gamma", "there is no such setting"]
  ])("refuses %s", (_, input, field, reason) => {
    const error = refusal(input)
    assert.deepStrictEqual([error.field, error.reason], [field, reason])
    assert.strictEqual(error.message, `PPO setting ${field}: ${reason}`)
  })

  it("refuses what is not an object", () => {
    assert.strictEqual(refusal(3).message, "PPO settings: Expected object, got 3")
  })

  it("names the kinds of a setting where the tag is none of them", () => {
    const { field, reason } = refusal({ kl: { _tag: "Steered", klCoef: 0.1 } })
    assert.strictEqual(field, "kl")
    assert.include(reason, "Fixed")
    assert.include(reason, "Adaptive")
    assert.include(reason, "Steered")
  })

  it("takes no penalty, no clipping and no whitening", () => {
    const off = {
      kl: { _tag: "Fixed", klCoef: 0 },
      valueClipRange: null,
      whitenAdvantages: null,
      maxGradNorm: null,
      ema: null,
      ptx: null,
      warmUpIterations: 0
    }
    assert.deepStrictEqual(Result.getOrThrow(PpoConfig.decode(off)), { ...instructgpt, ...off } as PpoConfig.PpoConfig)
  })
})

describe("learning rates", () => {
  it("R13: instructgpt rises over ten iterations of eight steps from a tenth, then stays", () => {
    const share = PpoConfig.learningRateShare(instructgpt)
    closeTo(
      [0, 1, 5, 10, 499].map((iteration) => share(iteration * 8)),
      [0.1, 0.19, 0.55, 1, 1]
    )
    closeTo([share(4)], [0.145])
  })

  it("trl falls in a line to 0, with the rate of TRL's scheduler at the first step of each iteration", () => {
    const share = PpoConfig.learningRateShare(trl)
    assert.strictEqual(PpoConfig.counts(trl).steps, 4 * 469)
    closeTo(
      [0, 1, 200, 468].map((iteration) => share(iteration * 4)),
      [1, 468 / 469, 269 / 469, 1 / 469]
    )
    closeTo([share(4 * 469)], [0])
  })

  it("a line after a warm-up comes to its floor at the end of the run", () => {
    const schedule = { _tag: "Linear", floor: 0.5 } as const
    const share = PpoConfig.learningRateShare({ ...trl, warmUpIterations: 69, schedule })
    closeTo(
      [0, 69, 269, 469].map((iteration) => share(iteration * 4)),
      [0, 1, 0.75, 0.5]
    )
  })

  it("openrlhf rises from 0 over 3 % of its steps, then follows half a cosine to a tenth", () => {
    const { steps } = PpoConfig.counts(openrlhf)
    assert.strictEqual(Math.ceil(0.03 * steps), 24)
    const share = PpoConfig.learningRateShare(openrlhf)
    closeTo([0, 12, 24, 24 + (steps - 24) / 2, steps].map(share), [0, 0.5, 1, 0.55, 0.1])
  })

  it("are those of the optimizers, each with its own peak", () => {
    const policy = PpoConfig.policyOptimizer(instructgpt)
    const value = PpoConfig.valueOptimizer(instructgpt)
    closeTo([policy.learningRate(0), policy.learningRate(80)], [8.05e-7, 8.05e-6])
    closeTo([value.learningRate(0), value.learningRate(80)], [9e-7, 9e-6])
  })
})

describe("optimizers", () => {
  it("carry every setting of Adam", () => {
    const settings = { adamBeta1: 0.8, adamBeta2: 0.7, adamEpsilon: 1e-5, weightDecay: 0.01, maxGradNorm: 2 }
    const config = Result.getOrThrow(PpoConfig.make("openrlhf", settings))
    for (const { learningRate, ...optimizer } of [
      PpoConfig.policyOptimizer(config),
      PpoConfig.valueOptimizer(config)
    ]) {
      assert.deepStrictEqual(optimizer, {
        beta1: 0.8,
        beta2: 0.7,
        epsilon: 1e-5,
        weightDecay: 0.01,
        maxGradNorm: 2,
        decays: undefined
      })
    }
  })

  it("clip no gradient where maxGradNorm is null", () => {
    assert.isUndefined(PpoConfig.policyOptimizer(trl).maxGradNorm)
  })
})
