/**
 * Every setting of PPO and PPO-ptx, what it means, and where its usual values come from.
 *
 * A configuration is plain JSON: {@link decode} reads it from a file, {@link make} takes a preset and what differs, and a
 * checkpoint keeps it. Settings that can be off are `null` when they are.
 *
 * Sources, by the name that is used below:
 *
 *     InstructGPT   Ouyang et al. 2022, arXiv:2203.02155, appendices C and E
 *     Ziegler       Ziegler et al. 2019, arXiv:1909.08593, and its code, openai/lm-human-preferences
 *     Huang         Huang et al. 2024, arXiv:2403.17031
 *     TRL           huggingface/trl: trl/experimental/ppo/ppo_config.py at 496cb7f, ppo_trainer.py beside it at d6196b6,
 *                   examples/scripts/ppo/ppo_tldr.py at f105178
 *     OpenRLHF      OpenRLHF/OpenRLHF: openrlhf/cli/train_ppo_ray.py and openrlhf/models/loss.py at f5b3f08,
 *                   openrlhf/trainer/ppo_utils/experience_maker.py at 89308a0, openrlhf/trainer/ray/ppo_actor.py at
 *                   c250c21, examples/scripts/train_ppo_llama_ray.sh at 473f61b
 *
 * @since 0.1.0
 */
import { LearningRate, Optimizer } from "@attune/core/onnx"
import { Effect, Result, Schema, SchemaIssue } from "effect"
import * as KlController from "./KlController.ts"
import * as TokenReward from "./TokenReward.ts"

const number = (accepts: (value: number) => boolean, expected: string) =>
  Schema.Finite.check(Schema.makeFilter((value: number) => accepts(value) || expected))

const whole = (least: number, expected = `must be a whole number from ${least}`) =>
  number((value) => Number.isSafeInteger(value) && value >= least, expected)

const positive = (hint = "") => number((value) => value > 0, `must be above 0${hint}`)

const share = number((value) => value >= 0 && value <= 1, "must lie between 0 and 1")

const below1 = number((value) => value >= 0 && value < 1, "must be 0 or more and below 1")

const usually = <S extends Schema.Top>(schema: S, value: S["Encoded"]) =>
  schema.pipe(Schema.withDecodingDefaultKey(Effect.succeed(value)))

/**
 * Schema of what the learning rate does after its warm-up: keep its peak, or go down to `floor` times the peak, reached
 * at the end of the run, in a straight line or along half a cosine.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Schedule = Schema.TaggedUnion({
  Constant: {},
  Linear: { floor: below1 },
  Cosine: { floor: below1 }
})

/**
 * What the learning rate does after its warm-up.
 *
 * @category models
 * @since 0.1.0
 */
export type Schedule = typeof Schedule.Type

/**
 * Schema of the pretraining mix that makes PPO into PPO-ptx.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Ptx = Schema.Struct({
  /**
   * Weight γ of the mean negative log-likelihood of pretraining tokens, added to the policy's loss in every optimizer
   * step. InstructGPT: 27.8; on its 1.3B model 20 or more undid the regressions (appendix E.6).
   */
  coef: positive("; write ptx: null to train without pretraining text"),
  /** Pretraining sequences for each episode of a minibatch. InstructGPT: 8; 4 let the pretraining loss rise. */
  examplesPerEpisode: whole(1)
})

/**
 * The pretraining mix of PPO-ptx.
 *
 * @category models
 * @since 0.1.0
 */
export type Ptx = typeof Ptx.Type

const Whitening = Schema.NullOr(Schema.Literals(["biased", "unbiased"]))

const fields = {
  /** Completions sampled in the whole run; the last iteration is filled up to a batch. InstructGPT: 256,000. */
  episodes: usually(whole(1), 256_000),
  /** Episodes that are sampled, then learned from, in one iteration. InstructGPT: 512. */
  batchSize: usually(whole(1), 512),
  /** Episodes of one optimizer step; divides `batchSize`. InstructGPT: 64, where 32 was slightly better and slower. */
  minibatchSize: usually(whole(1), 64),
  /** Passes over the episodes of an iteration, each in a fresh order. InstructGPT: 1; Ziegler, Huang, TRL: 4. */
  innerEpochs: usually(whole(1), 1),
  /** Episodes with the same prompt; divides `batchSize`. InstructGPT and TRL: 1. */
  samplesPerPrompt: usually(whole(1), 1),
  /** Most tokens of a completion. InstructGPT: 1,024 ("1k"), in a context of 2,048. */
  maxNewTokens: usually(whole(1), 1024),
  /**
   * Divides the logits, above 0, in sampling and in every log-prob: policy, reference and update. InstructGPT: 1. There
   * is no top-k or top-p: log-probs of a cut distribution are those of another policy.
   */
  temperature: usually(
    positive(": greedy decoding gives every token probability 1, which leaves nothing to learn from"),
    1
  ),
  /** Weight of the KL penalty, in reward per nat, and how it is steered. InstructGPT: 0.02, fixed; 0 and 2 were bad (E.7). */
  kl: usually(KlController.KlController, { _tag: "Fixed", klCoef: 0.02 }),
  /** Estimator of the KL penalty per token. `k1` is the log-ratio of InstructGPT's equation 2; `k3` is never negative. */
  klEstimator: usually(Schema.Literals(["k1", "k3"]), "k1"),
  /** From the reward model's score to the one that is trained on: gain, bias, clip, answers without an end. */
  score: usually(TokenReward.ScoreRule, {}),
  /** Discount per token, in `[0, 1]`. InstructGPT: none, which is 1. */
  gamma: usually(share, 1),
  /** λ of generalized advantage estimation, in `[0, 1]`. InstructGPT does not print it; Ziegler, Huang, TRL: 0.95. */
  lambda: usually(share, 0.95),
  /**
   * Brings the rewards of an iteration to variance 1 and keeps their mean, dividing by `n` (`biased`) or `n - 1`. Default
   * `null`, off: Huang found it harmful. Ziegler has it on, in each minibatch.
   */
  whitenRewards: usually(Whitening, null),
  /**
   * Brings the advantages of an iteration's tokens to mean 0 and variance 1, dividing by `n` (`biased`) or `n - 1`.
   * InstructGPT does not say; Ziegler and OpenRLHF: `biased`, TRL: `unbiased`.
   */
  whitenAdvantages: usually(Whitening, "biased"),
  /** ε: the ratio of new to sampling probability counts within `[1 - ε, 1 + ε]`. InstructGPT and all others: 0.2. */
  clipRange: usually(
    number((value) => value > 0 && value < 1, "must lie between 0 and 1, without either: 0.2 is usual"),
    0.2
  ),
  /** Furthest a value may move from the one at sampling and still lower its loss; `null`: no clipping. Ziegler, TRL: 0.2. */
  valueClipRange: usually(Schema.NullOr(positive("; write null for no clipping")), 0.2),
  /**
   * Weight of the value loss, itself half a mean square, where policy and values share a trunk. A value model of its own
   * learns without it: Adam's steps hardly depend on a factor. Default 1; Ziegler, TRL: 0.1.
   */
  valueCoef: usually(positive(", or the values are never learned"), 1),
  /**
   * Divergence of the updated from the sampling policy, `approxkl` in nats per token, above which the rest of an
   * iteration's updates is skipped; `null`: never. None of the sources stops early.
   */
  targetKl: usually(Schema.NullOr(positive("; write null not to stop early")), null),
  /** Pretraining mix; `null` is plain PPO. InstructGPT: γ 27.8, 8 examples for each episode. */
  ptx: usually(Schema.NullOr(Ptx), { coef: 27.8, examplesPerEpisode: 8 }),
  /**
   * Peak learning rate of the policy, and of everything where the trunk is shared. InstructGPT does not print its own:
   * 8.05e-6 is the middle of the range that it scanned, and the most at which PPO without ptx did not diverge (E.9).
   */
  policyLearningRate: usually(positive(), 8.05e-6),
  /** Peak learning rate of a value model of its own. InstructGPT: 9e-6 for 1.3B and 6B, 5e-6 for 175B. */
  valueLearningRate: usually(positive(), 9e-6),
  /** Iterations over which both rates rise in a straight line to their peak; 0: none. InstructGPT: 10. */
  warmUpIterations: usually(whole(0), 10),
  /** Share of the peak that the rise begins at. InstructGPT: 0.1. */
  warmUpFrom: usually(share, 0.1),
  /** What both rates do then. InstructGPT: constant; Ziegler, Huang, TRL: a line to 0. */
  schedule: usually(Schedule, { _tag: "Constant" }),
  /** Decay of Adam's mean of gradients. InstructGPT: 0.9. */
  adamBeta1: usually(below1, 0.9),
  /** Decay of Adam's mean of squared gradients. InstructGPT: 0.95. */
  adamBeta2: usually(below1, 0.95),
  /**
   * Added to the root of Adam's second moment, as in PyTorch. InstructGPT does not print it; 1e-8 is PyTorch's. The 1e-5
   * of Ziegler stands in TensorFlow's formula, where it shortens the first steps far more.
   */
  adamEpsilon: usually(positive(), 1e-8),
  /** Decoupled weight decay of matrices, times the learning rate. InstructGPT does not print one; TRL, OpenRLHF: 0. */
  weightDecay: usually(
    number((value) => value >= 0, "must be 0 or more"),
    0
  ),
  /** Largest norm of a step's gradient; `null`: not clipped. InstructGPT does not print one, TRL has none, OpenRLHF: 1. */
  maxGradNorm: usually(Schema.NullOr(positive("; write null for no clipping")), null),
  /** Decay per optimizer step of an average of the policy's weights, the one to evaluate; `null`: none. InstructGPT: 0.992. */
  ema: usually(
    Schema.NullOr(number((value) => value > 0 && value < 1, "must lie between 0 and 1, without either; null for none")),
    0.992
  ),
  /** Of the sampler, and of the order of prompts and minibatches. */
  seed: usually(Schema.Int, 0)
}

const divides = (size: number, total: number) => total % size === 0

// The divisors of `total` next to `size`, the greater first.
const nearest = (size: number, total: number): string => {
  let under = 1
  let over = total
  for (let i = 1; i * i <= total; i++) {
    if (!divides(i, total)) continue
    for (const divisor of [i, total / i]) {
      if (divisor < size) under = Math.max(under, divisor)
      else over = Math.min(over, divisor)
    }
  }
  return over > size ? `${over} or ${under}` : String(total)
}

// What single settings cannot show: how they fit together.
const complaint = (
  config: {
    readonly [K in "episodes" | "batchSize" | "minibatchSize" | "samplesPerPrompt" | "warmUpIterations"]: number
  }
): Schema.FilterOutput => {
  const { batchSize, episodes, warmUpIterations } = config
  if (episodes < batchSize) {
    return {
      path: ["episodes"],
      issue: `must be at least one batch of ${batchSize}: raise it, or lower batchSize, got ${episodes}`
    }
  }
  for (const name of ["minibatchSize", "samplesPerPrompt"] as const) {
    const size = config[name]
    if (!divides(size, batchSize)) {
      return {
        path: [name],
        issue: `must divide the batch of ${batchSize} episodes: use ${nearest(size, batchSize)}, got ${size}`
      }
    }
  }
  const iterations = Math.ceil(episodes / batchSize)
  return (
    warmUpIterations === 0 ||
    warmUpIterations < iterations || {
      path: ["warmUpIterations"],
      issue:
        `must be below the run's ${iterations} iterations, or the rate never comes to its peak: ` +
        `lower it (0 for no warm-up) or raise episodes, got ${warmUpIterations}`
    }
  )
}

/**
 * Schema of every setting; its defaults are the preset `instructgpt`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const PpoConfig = Schema.Struct(fields).check(Schema.makeFilter(complaint))

/**
 * Settings with every default filled in.
 *
 * @category models
 * @since 0.1.0
 */
export type PpoConfig = typeof PpoConfig.Type

/**
 * Settings as a caller writes them: what is left out keeps its default.
 *
 * @category models
 * @since 0.1.0
 */
export type PpoConfigInput = typeof PpoConfig.Encoded

/**
 * Reports a setting that cannot be used, by its path (`kl.klCoef`), and what to write instead.
 *
 * @category errors
 * @since 0.1.0
 */
export class PpoConfigError extends Schema.TaggedError<PpoConfigError>()("PpoConfigError", {
  field: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return this.field === "" ? `PPO settings: ${this.reason}` : `PPO setting ${this.field}: ${this.reason}`
  }
}

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

const errorOf = (issue: SchemaIssue.Issue, input: unknown): PpoConfigError => {
  const { message, path = [] } = formatIssue(issue).issues[0]!
  const keys = path.map((part) => String(typeof part === "object" ? part.key : part))
  const field = keys.join(".")
  if (message.startsWith("Unexpected key")) return new PpoConfigError({ field, reason: "there is no such setting" })
  if (message === "Missing key") return new PpoConfigError({ field, reason: "is missing" })
  const value = keys.reduce<unknown>((at, key) => (at as Readonly<Record<string, unknown>>)[key], input)
  const shown = typeof value === "number" ? String(value) : JSON.stringify(value)
  return new PpoConfigError({ field, reason: message.includes(", got ") ? message : `${message}, got ${shown}` })
}

const decoding = Schema.decodeUnknownResult(PpoConfig)

/**
 * Reads settings, such as those of a JSON file; what is left out is as in the preset `instructgpt`.
 *
 * **Details**
 *
 * Fails on the first setting that is unknown, of the wrong type, out of its range, or does not fit the others.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (input: unknown): Result.Result<PpoConfig, PpoConfigError> =>
  Result.mapError(decoding(input, { onExcessProperty: "error", reportInput: true }), ({ issue }) =>
    errorOf(issue, input)
  )

const preset = (settings: PpoConfigInput): PpoConfig => Result.getOrThrow(decode(settings))

/**
 * Settings of three well-known PPO programs.
 *
 * **Details**
 *
 * `instructgpt`: PPO-ptx as the paper has it, with Ziegler's choice or the plainest where it says nothing (see the
 * fields). The value model starts from the reward model.
 *
 * `trl`: the defaults of its configuration; episodes, batch and learning rate, which have none or are left to a general
 * default of 5e-5, from its TL;DR script. It has one optimizer for policy and values, and its loop clips no gradient,
 * whatever `max_grad_norm` says.
 *
 * `openrlhf`: the defaults of its command line with GAE; episodes from its Llama script. It has a coefficient for ptx, but
 * trains without unless pretraining data is given. Its warm-up is 3 % of the steps: 3 of 98 iterations.
 *
 * **Gotchas**
 *
 * Rates and sizes are those of models of a billion parameters and more. What TRL and OpenRLHF do otherwise than here,
 * whatever the settings: TRL puts the score behind the stop token; OpenRLHF steers an adaptive coefficient by the
 * divergence per token, not per answer.
 *
 * @category constants
 * @since 0.1.0
 */
export const presets = {
  instructgpt: preset({}),
  trl: preset({
    episodes: 30_000,
    batchSize: 64,
    minibatchSize: 64,
    innerEpochs: 4,
    maxNewTokens: 53,
    temperature: 0.7,
    kl: { _tag: "Fixed", klCoef: 0.05 },
    whitenAdvantages: "unbiased",
    valueCoef: 0.1,
    ptx: null,
    policyLearningRate: 3e-6,
    valueLearningRate: 3e-6,
    warmUpIterations: 0,
    warmUpFrom: 0,
    schedule: { _tag: "Linear", floor: 0 },
    adamBeta2: 0.999,
    ema: null
  }),
  openrlhf: preset({
    episodes: 100_000,
    batchSize: 1024,
    minibatchSize: 128,
    kl: { _tag: "Fixed", klCoef: 0.01 },
    score: { clip: [-10, 10] },
    lambda: 1,
    valueClipRange: 0.5,
    ptx: null,
    policyLearningRate: 1e-6,
    warmUpIterations: 3,
    warmUpFrom: 0,
    schedule: { _tag: "Cosine", floor: 0.1 },
    maxGradNorm: 1,
    ema: null
  })
} as const

/**
 * Name of a preset.
 *
 * @category models
 * @since 0.1.0
 */
export type Preset = keyof typeof presets

/**
 * A preset, with the settings that differ from it.
 *
 * **Details**
 *
 * A setting with parts (`kl`, `score`, `ptx`, `schedule`) is replaced as a whole. Where `batchSize` is given without
 * `minibatchSize`, the preset's number of minibatches is kept. Fails as {@link decode} does.
 *
 * **Example** (A smaller InstructGPT without pretraining mix)
 *
 * ```ts
 * import { PpoConfig } from "@attune/rlhf"
 * import { Result } from "effect"
 *
 * const settings = { episodes: 2048, batchSize: 64, policyLearningRate: 3e-4, ptx: null }
 * const config = Result.getOrThrow(PpoConfig.make("instructgpt", settings))
 * config.minibatchSize // => 8
 * PpoConfig.counts(config).iterations // => 32
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (name: Preset, settings: PpoConfigInput = {}): Result.Result<PpoConfig, PpoConfigError> => {
  const base: PpoConfig = presets[name]
  const { batchSize, minibatchSize } = settings
  const perBatch = base.batchSize / base.minibatchSize
  const scaled =
    batchSize !== undefined && minibatchSize === undefined && divides(perBatch, batchSize)
      ? { minibatchSize: batchSize / perBatch }
      : {}
  return decode({ ...base, ...scaled, ...settings })
}

/**
 * What follows from the settings: how often things happen in a run.
 *
 * @category models
 * @since 0.1.0
 */
export interface Counts {
  /** Rounds of sampling and learning. */
  readonly iterations: number
  /** Completions in all: `episodes`, filled up to whole iterations. */
  readonly episodes: number
  /** Prompts that an iteration draws. */
  readonly promptsPerIteration: number
  /** Minibatches of one inner epoch. */
  readonly minibatches: number
  /** Optimizer steps of one iteration, where `targetKl` skips none. */
  readonly stepsPerIteration: number
  /** Optimizer steps of the run, where `targetKl` skips none. */
  readonly steps: number
  /** Pretraining examples of one optimizer step, 0 without ptx. */
  readonly ptxExamplesPerStep: number
  /** Pretraining examples of the run: every optimizer step draws its own. */
  readonly ptxExamples: number
}

/**
 * How often things happen in a run with these settings.
 *
 * **Example** (The counts of InstructGPT)
 *
 * ```ts
 * import { PpoConfig } from "@attune/rlhf"
 *
 * const { iterations, ptxExamples, steps } = PpoConfig.counts(PpoConfig.presets.instructgpt)
 * const counts = [iterations, steps, ptxExamples]
 * counts // => [500, 4000, 2_048_000]
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const counts = (config: PpoConfig): Counts => {
  const { batchSize, episodes, innerEpochs, minibatchSize, ptx, samplesPerPrompt } = config
  const iterations = Math.ceil(episodes / batchSize)
  const minibatches = batchSize / minibatchSize
  const stepsPerIteration = minibatches * innerEpochs
  const steps = iterations * stepsPerIteration
  const ptxExamplesPerStep = ptx === null ? 0 : ptx.examplesPerEpisode * minibatchSize
  return {
    iterations,
    episodes: iterations * batchSize,
    promptsPerIteration: batchSize / samplesPerPrompt,
    minibatches,
    stepsPerIteration,
    steps,
    ptxExamplesPerStep,
    ptxExamples: ptxExamplesPerStep * steps
  }
}

/**
 * The share of its peak that a learning rate has at each optimizer step: warm-up, then schedule.
 *
 * **Details**
 *
 * The rate moves with every step. TRL's moves once per iteration: the two agree at the first step of each.
 *
 * @category constructors
 * @since 0.1.0
 */
export const learningRateShare = (config: PpoConfig): LearningRate.LearningRate => {
  const { steps, stepsPerIteration } = counts(config)
  const rising = config.warmUpIterations * stepsPerIteration
  const after = Schedule.match(config.schedule, {
    Constant: () => LearningRate.constant(1),
    Linear: ({ floor }) => LearningRate.linear(1, steps - rising, floor),
    Cosine: ({ floor }) => LearningRate.cosine(1, steps - rising, floor)
  })
  return LearningRate.warmUp(rising, after, config.warmUpFrom)
}

const optimizer = (config: PpoConfig, peak: number): Optimizer.AdamW => {
  const share = learningRateShare(config)
  return Optimizer.adamW({
    learningRate: (step) => peak * share(step),
    beta1: config.adamBeta1,
    beta2: config.adamBeta2,
    epsilon: config.adamEpsilon,
    weightDecay: config.weightDecay,
    maxGradNorm: config.maxGradNorm ?? undefined
  })
}

/**
 * The optimizer of the policy, and of the values too where they share its trunk.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policyOptimizer = (config: PpoConfig): Optimizer.AdamW => optimizer(config, config.policyLearningRate)

/**
 * The optimizer of a value model of its own: the policy's, with `valueLearningRate`. InstructGPT states its schedule for
 * the policy only.
 *
 * @category constructors
 * @since 0.1.0
 */
export const valueOptimizer = (config: PpoConfig): Optimizer.AdamW => optimizer(config, config.valueLearningRate)
