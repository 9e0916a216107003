import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  Checkpoint,
  Completion,
  Kl,
  Learner,
  Prompt,
  RewardModel,
  RunLog,
  Sft,
  type Tensor,
  Tokenizer
} from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Option, Result } from "effect"
import * as Ppo from "../src/Ppo.ts"
import * as PpoConfig from "../src/PpoConfig.ts"
import type { PpoLearners, Reports } from "../src/PpoLearners.ts"
import * as Scripted from "./scripted.ts"
import * as Tiny from "./tiny.ts"

const inTemporary = <A, E, R>(body: (directory: string) => Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-ppo-"))),
    body,
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )

// A log without what two equal runs may differ in.
const log = (directory: string) =>
  Effect.map(RunLog.read(directory), (lines) => lines.map((line) => ({ ...line, time: "", commit: null })))

const events = (directory: string, name: string) =>
  Effect.map(RunLog.read(directory), (lines) =>
    lines.flatMap((line) => (line.type === "event" && line.name === name ? [line] : []))
  )

const kept = (directory: string) =>
  Effect.map(Checkpoint.latest(join(directory, "checkpoints")), (found) => Option.getOrThrow(found).step)

describe("what cannot work is refused before anything is sampled", () => {
  const refused = Effect.fnUntraced(function* (
    options: Scripted.TrainOptions,
    settings: PpoConfig.PpoConfigInput = {}
  ) {
    const hooks = { sampling: () => Effect.sync(() => assert.fail("sampled")) }
    const error = yield* Effect.flip(Scripted.train(Scripted.learners(hooks), Scripted.config(settings), options))
    assert.strictEqual(error._tag, "PpoError")
    return error as Ppo.PpoError
  })

  const cases: ReadonlyArray<{
    readonly name: string
    readonly options: Scripted.TrainOptions
    readonly settings?: PpoConfig.PpoConfigInput
    readonly message: RegExp
    readonly prompt?: number
  }> = [
    {
      name: "a reference with another tokenizer",
      options: { reference: { ...Scripted.policy(), name: "other", tokenizer: Tokenizer.numeric(9) } },
      message: /^PPO: the policy scripted and the reference other have different tokenizers \(8 ids against 9\)/
    },
    {
      name: "a reference with the same number of other tokens",
      options: {
        reference: {
          ...Scripted.policy(),
          tokenizer: { ...Scripted.tokenizer, token: (id) => (id === 5 ? "V" : `${id}`) }
        }
      },
      message: /id 5 is "5" against "V"/
    },
    {
      name: "a reward model with another tokenizer",
      options: { reward: { ...Scripted.reward, tokenizer: Tokenizer.numeric(9) } },
      message: /^PPO: the reward model scripted reads tokens of another tokenizer/
    },
    {
      name: "a prompt as long as the context",
      options: { prompts: [...Scripted.prompts, Prompt.make("", new Int32Array(8).fill(1))] },
      message: /^PPO: prompt 3 has 8 tokens; the policy's context of 8 leaves room for an answer after at most 7/,
      prompt: 3
    },
    { name: "no prompts", options: { prompts: [] }, message: /^PPO: there is no prompt/ },
    {
      name: "a prompt without tokens",
      options: { prompts: [Scripted.prompts[0]!, Prompt.make("", [])] },
      message: /^PPO: prompt 1 has no tokens/,
      prompt: 1
    },
    {
      name: "ptx without pretraining text",
      options: {},
      settings: { ptx: { coef: 1, examplesPerEpisode: 1 } },
      message: /^PPO: ptx mixes in pretraining text, but there is none/
    },
    {
      name: "pretraining text without ptx",
      options: { pretraining: [Sft.example([], [1, 2])] },
      message: /^PPO: there are pretraining examples, but ptx is null/
    },
    {
      name: "no answer at a time",
      options: { scoreBatch: 0 },
      message: /^PPO: scoreBatch must be a whole number from 1/
    },
    {
      name: "pretraining text longer than the context",
      options: {
        pretraining: [Sft.example([], new Int32Array(9).fill(1)), Sft.example([], new Int32Array(10).fill(1))]
      },
      settings: { ptx: { coef: 1, examplesPerEpisode: 1 } },
      message:
        /^PPO: pretraining example 1 has 10 tokens, more than the policy's context of 8: cut it with Sft\.windows/
    },
    {
      name: "pretraining text without a target",
      options: { pretraining: [Sft.example([], [1])] },
      settings: { ptx: { coef: 1, examplesPerEpisode: 1 } },
      message: /^PPO: no pretraining example has a target token/
    },
    { name: "half a sample", options: { samplesEvery: 0.5 }, message: /^PPO: samplesEvery must be .* got 0\.5$/ }
  ]
  for (const { message, name, options, prompt, settings } of cases) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const error = yield* refused(options, settings)
        assert.match(error.message, message)
        assert.strictEqual(error.prompt, prompt)
      })
    )
  }

  it.effect("a reference that is the policy itself", () =>
    Effect.gen(function* () {
      const own = Scripted.learners()
      const error = yield* Effect.flip(Scripted.train(own, Scripted.config(), { reference: own.policy }))
      assert.match(error.message, /^PPO: the reference is the policy scripted itself/)
    })
  )

  it.effect("a prompt that leaves room for one token is taken", () => {
    const prompts = [Prompt.make("", new Int32Array(7).fill(1))]
    return Scripted.train(Scripted.learners(), Scripted.config(), { prompts })
  })

  it("a negative KL coefficient", () => {
    const error = Result.getOrThrow(Result.flip(PpoConfig.make("instructgpt", { kl: { _tag: "Fixed", klCoef: -0.1 } })))
    assert.match(error.message, /^PPO setting kl\.klCoef: klCoef must be 0 \(no penalty\) or more/)
  })
})

describe("credit", () => {
  // Log-probs, those of the reference and the score of R6; values of R1.
  const answer = (finishReason: Completion.FinishReason = "stop"): Ppo.Measured => {
    const [tokens, logprobs] = [Int32Array.of(5, 6, 0), Float32Array.of(-1, -2, -0.5)]
    return {
      prompt: Scripted.prompts[1]!,
      completion: Completion.make({ tokens, logprobs, untemperedLogprobs: logprobs, text: "5 6", finishReason }),
      refLogprobs: Float32Array.of(-1.2, -1.5, -0.5),
      values: Float32Array.of(0.5, 0.4, 0.3),
      score: 0.8
    }
  }
  const none = new Float32Array()
  const empty: Ppo.Measured = {
    ...answer(),
    completion: { ...answer().completion, tokens: new Int32Array(), logprobs: none, untemperedLogprobs: none },
    refLogprobs: none,
    values: none
  }
  const closeTo = (actual: ArrayLike<number>, expected: ReadonlyArray<number>) => {
    assert.strictEqual(actual.length, expected.length)
    for (const [t, value] of expected.entries()) assert.closeTo(actual[t]!, value, 1e-6, `token ${t}`)
  }
  // R6 has the rewards -0.004, 0.01 and 0.8.
  const plain = Scripted.config({ whitenAdvantages: null, lambda: 1 })

  it("R6: is what the rewards add up to, less the values, and the answer's own tokens with it", () => {
    const [episode] = Ppo.credit([answer()], 0.02, plain)
    closeTo(episode!.returns, [0.806, 0.81, 0.8])
    closeTo(episode!.advantages, [0.306, 0.41, 0.5])
    assert.deepStrictEqual(episode!.tokens, Int32Array.of(2, 3, 5, 6, 0))
    assert.deepStrictEqual([episode!.logprobs, episode!.values], [answer().completion.logprobs, answer().values])
  })

  it("obeys the settings: estimator, rule of scores, discount, and whitening over all answers", () => {
    const returns = (settings: PpoConfig.PpoConfigInput, ...args: Parameters<typeof answer>) =>
      Ppo.credit([answer(...args)], 0.02, Scripted.config({ whitenAdvantages: null, lambda: 1, ...settings }))[0]!
        .returns
    // R7: k3 is 0.01873075, 0.14872127 and 0.
    closeTo(returns({ klEstimator: "k3" }), [0.8 - 0.02 * 0.16745202, 0.8 - 0.02 * 0.14872127, 0.8])
    closeTo(returns({ score: { gain: 2, bias: 1, clip: [-2, 2] } }), [2.006, 2.01, 2])
    closeTo(returns({ score: { missingEos: { _tag: "Replace", score: -1 } } }, "length"), [-0.994, -0.99, -1])
    closeTo(returns({ gamma: 0.5 }), [-0.004 + 0.5 * 0.41, 0.41, 0.8])
    // Mean 0.806 / 3 stays, and the rest is brought to variance 1.
    const rewards = [-0.004, 0.01, 0.8]
    const mean = 0.806 / 3
    const std = Math.sqrt(rewards.reduce((sum, reward) => sum + (reward - mean) ** 2, 0) / 3)
    const [a, b, c] = rewards.map((reward) => (reward - mean) / std + mean) as [number, number, number]
    closeTo(returns({ whitenRewards: "biased" }), [a + b + c, b + c, c])

    const two = [answer(), { ...answer(), score: -2 }]
    const raw = Ppo.credit(two, 0.02, plain).flatMap(({ advantages }) => [...advantages])
    const centre = raw.reduce((sum, x) => sum + x, 0) / 6
    const spread = Math.sqrt(raw.reduce((sum, x) => sum + (x - centre) ** 2, 0) / 5)
    const whitened = Ppo.credit(two, 0.02, Scripted.config({ whitenAdvantages: "unbiased", lambda: 1 }))
    closeTo(
      whitened.flatMap(({ advantages }) => [...advantages]),
      raw.map((x) => (x - centre) / spread)
    )
    closeTo(whitened[0]!.returns, [0.806, 0.81, 0.8])
  })

  it("is none for an answer without tokens, and changes no other's", () => {
    const whitening = Scripted.config({ whitenRewards: "biased" })
    const [first, nothing, last] = Ppo.credit([answer(), empty, answer("length")], 0.02, whitening)
    assert.deepStrictEqual([nothing!.advantages, nothing!.returns], [none, none])
    assert.deepStrictEqual([first, last], [...Ppo.credit([answer(), answer("length")], 0.02, whitening)])
  })
})

describe("an iteration", () => {
  it.effect("answers every prompt samplesPerPrompt times, in a shuffled order that goes through all of them", () =>
    Effect.gen(function* () {
      const sampled: Array<ReadonlyArray<string>> = []
      const seeds = new Set<number>()
      const own = Scripted.learners()
      const spied: PpoLearners = {
        ...own,
        policy: {
          ...own.policy,
          sample: (prompts, options) => {
            sampled.push(prompts.map((prompt) => (prompt as Prompt.Prompt).text))
            for (const seed of options.rowSeeds!) seeds.add(seed)
            return own.policy.sample(prompts, options)
          }
        }
      }
      yield* Scripted.train(spied, Scripted.config({ samplesPerPrompt: 2 }))
      assert.strictEqual(sampled.length, 6)
      for (const [a, b, c, d] of sampled) assert.deepStrictEqual([a, c], [b, d])
      const asked = sampled.flat().filter((_, i) => i % 2 === 0)
      for (let pass = 0; pass < 12; pass += 3) {
        assert.sameMembers(asked.slice(pass, pass + 3), ["1", "2 3", "4"])
      }
      assert.notStrictEqual(String(asked.slice(0, 3)), String(asked.slice(3, 6)))
      assert.strictEqual(seeds.size, 24, "two answers were drawn with the same seed")
    })
  )

  it.effect("learns from all answers that have tokens once in every inner epoch, those to one prompt together", () =>
    Effect.gen(function* () {
      const own = Scripted.learners()
      const taken: Array<ReadonlyArray<number>> = []
      // The second of 12 answers is empty, as a stop string leaves it.
      const spied: PpoLearners = {
        ...own,
        policy: {
          ...own.policy,
          sample: (prompts, options) =>
            Effect.map(own.policy.sample(prompts, options), (completions) =>
              completions.map((completion, i) => {
                const count = i === 1 ? 0 : undefined
                return {
                  ...completion,
                  tokens: completion.tokens.subarray(0, count),
                  logprobs: completion.logprobs.subarray(0, count)
                }
              })
            )
        },
        update: (minibatches) => {
          taken.push(...minibatches.map(({ episodes }) => episodes.map(({ tokens }) => tokens[0]!)))
          return own.update(minibatches)
        }
      }
      const prompts = [1, 2, 3, 4].map((id) => Prompt.make(String(id), [id]))
      const settings = { episodes: 12, batchSize: 12, minibatchSize: 4, samplesPerPrompt: 3, innerEpochs: 2 }
      const reward = RewardModel.fromFunction("constant", () => 1)
      const { reports } = yield* Scripted.train(spied, Scripted.config(settings), { prompts, reward })
      assert.deepStrictEqual(
        taken.map(({ length }) => length),
        [4, 4, 3, 4, 4, 3]
      )
      const epochs = [taken.slice(0, 3).flat(), taken.slice(3).flat()]
      for (const epoch of epochs) {
        const runs = epoch.filter((prompt, i) => prompt !== epoch[i - 1])
        assert.sameMembers(runs, [1, 2, 3, 4], "the answers to a prompt were torn apart")
        const counts = runs.map((prompt) => epoch.filter((other) => other === prompt).length)
        assert.sameMembers(counts, [2, 3, 3, 3])
      }
      assert.notDeepEqual(epochs[0], epochs[1])
      assert.closeTo(reports[0]!["rollout/empty"]!, 1 / 12, 1e-12)
    })
  )

  it.effect("without any token takes no step, and says so", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const own = Scripted.learners()
        const none = new Float32Array()
        const silent: PpoLearners = {
          ...own,
          policy: {
            ...own.policy,
            sample: (prompts) =>
              Effect.succeed(
                prompts.map(() =>
                  Completion.make({
                    tokens: new Int32Array(),
                    logprobs: none,
                    untemperedLogprobs: none,
                    text: "",
                    finishReason: "stop"
                  })
                )
              )
          }
        }
        const reward = RewardModel.fromFunction("constant", () => 1)
        const { reports } = yield* Scripted.train(silent, Scripted.config(), { directory, reward })
        assert.strictEqual(own.weight(), 1)
        assert.deepStrictEqual(
          reports.map((report) => [report["policy/updates"], report["rollout/empty"]]),
          Array.from({ length: 6 }, () => [0, 1])
        )
        const [warning] = yield* events(directory, "warning")
        assert.match(JSON.stringify(warning!.data), /no_update.*every answer was empty/)
      })
    )
  )

  it.effect("shows samples where they are due and after the last, and a warning once", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const reward = RewardModel.fromFunction("constant", () => 2)
        yield* Scripted.train(Scripted.learners(), Scripted.config(), { directory, samplesEvery: 4, reward })
        const samples = yield* events(directory, "samples")
        assert.deepStrictEqual(
          samples.map(({ step }) => step),
          [4, 6]
        )
        const [first] = samples[0]!.data as ReadonlyArray<Readonly<Record<string, unknown>>>
        assert.deepStrictEqual(Object.keys(first!), ["prompt", "completion", "score", "kl", "finishReason"])
        assert.strictEqual(first!["score"], 2)
        const warnings = yield* events(directory, "warning")
        assert.deepStrictEqual(
          warnings.map(({ data, step }) => [step, (data as { readonly name: string }).name]),
          [[3, "equal_scores"]]
        )
      })
    )
  )

  it.effect("shows samples of different prompts", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const prompts = [1, 2, 3, 4].map((id) => Prompt.make(String(id), [id]))
        const settings = Scripted.config({ episodes: 24, batchSize: 12, minibatchSize: 4, samplesPerPrompt: 3 })
        yield* Scripted.train(Scripted.learners(), settings, { directory, prompts })
        const [last] = yield* events(directory, "samples")
        const shown = (last!.data as ReadonlyArray<{ readonly prompt: string }>).map(({ prompt }) => prompt)
        assert.sameMembers(shown, ["1", "2", "3", "4"])
      })
    )
  )

  it.effect("is not begun with a score that is none, whoever made the reward model", () =>
    Effect.gen(function* () {
      const score = () => Effect.succeed(Float32Array.of(1, Number.NaN, 0, 0))
      const error = yield* Effect.flip(
        Scripted.train(Scripted.learners(), Scripted.config(), { reward: { name: "own", score } })
      )
      assert.match(error.message, /^reward model own: scored answer 1 of 4 as NaN/)
    })
  )
})

/** A run that is left alone: its log, its reports and the weight that it ends with. */
const alone = Effect.fnUntraced(function* (directory: string, options: Scripted.TrainOptions = {}) {
  const own = Scripted.learners()
  const trained = yield* Scripted.train(own, Scripted.config(), { directory, samplesEvery: 2, ...options })
  return { trained, weight: own.weight(), log: yield* log(directory) }
})

/** Resumes a run, and holds it against one that was left alone. */
const resumes = Effect.fnUntraced(function* (
  root: string,
  directory: string,
  options: Scripted.TrainOptions = {},
  optionsAlone: Scripted.TrainOptions = {}
) {
  const own = Scripted.learners()
  const settings = { directory, resume: true, samplesEvery: 2, ...options }
  const trained = yield* Scripted.train(own, Scripted.config(), settings)
  const reference = yield* alone(join(root, "alone"), optionsAlone)
  assert.strictEqual(own.weight(), reference.weight)
  assert.deepStrictEqual(trained, reference.trained)
  assert.deepStrictEqual(yield* log(directory), reference.log)
  assert.strictEqual(reference.trained.reports.length, 6)
})

describe("a reward that fails is named, and what came before is kept", () => {
  // The first answer that is asked about after `good` others.
  const failing = (good: number, fail: () => number | Promise<number>, options: RewardModel.FunctionOptions = {}) => {
    let asked = 0
    return RewardModel.fromFunction(
      "scripted",
      ({ completion }) => (asked++ < good ? completion.tokens[0]! / 4 : fail()),
      {
        ...options
      }
    )
  }
  const cases: ReadonlyArray<readonly [string, RewardModel.RewardModelShape, RegExp]> = [
    [
      "throws",
      failing(9, () => {
        throw new Error("out of paper")
      }),
      /^reward model scripted: failed on answer 1 of 4: out of paper/
    ],
    ["is not a number", failing(9, () => Number.NaN), /^reward model scripted: scored answer 1 of 4 as NaN/],
    [
      "never comes",
      failing(9, () => new Promise(() => {}), { timeout: "20 millis" }),
      /^reward model scripted: gave no score for answer 1 of 4 within 20ms/
    ],
    [
      "comes in another number",
      (() => {
        let calls = 0
        return RewardModel.fromBatchFunction("scripted", (answers) =>
          calls++ < 2 ? answers.map(({ completion }) => completion.tokens[0]! / 4) : [1]
        )
      })(),
      /^reward model scripted: returned 1 scores for 4 answers/
    ]
  ]
  for (const [name, reward, message] of cases) {
    it.live(name, () =>
      inTemporary((root) =>
        Effect.gen(function* () {
          const directory = join(root, "run")
          const settings = { directory, samplesEvery: 2, reward }
          const error = yield* Effect.flip(Scripted.train(Scripted.learners(), Scripted.config(), settings))
          assert.strictEqual(error._tag, "RewardModelError")
          assert.match(error.message, message)
          assert.strictEqual(yield* kept(directory), 2)
          yield* resumes(root, directory)
        })
      )
    )
  }
})

describe("an interruption", () => {
  /** Trains until the effect that is given `reached` has been reached, interrupts, and lets it go on meanwhile. */
  const interrupted = Effect.fnUntraced(function* (
    training: (stop: Effect.Effect<void>) => Effect.Effect<unknown, unknown>
  ) {
    const reached = yield* Deferred.make<void>()
    const gate = yield* Deferred.make<void>()
    const stop = Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(gate))
    const fiber = yield* Effect.forkChild(training(stop))
    yield* Deferred.await(reached)
    const stopping = yield* Effect.forkChild(Fiber.interrupt(fiber))
    yield* Effect.yieldNow
    yield* Deferred.succeed(gate, undefined)
    yield* Fiber.join(stopping)
    assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
  })
  const at = (iteration: number, stop: Effect.Effect<void>) => (now: number) => (now === iteration ? stop : Effect.void)

  it.live("while answers are sampled keeps the iterations before", () =>
    inTemporary((root) =>
      Effect.gen(function* () {
        const directory = join(root, "run")
        yield* interrupted((stop) =>
          Scripted.train(Scripted.learners({ sampling: at(3, stop) }), Scripted.config(), {
            directory,
            samplesEvery: 2
          })
        )
        assert.strictEqual(yield* kept(directory), 3)
        yield* resumes(root, directory)
      })
    )
  )

  it.live("of an update waits for its end", () =>
    inTemporary((root) =>
      Effect.gen(function* () {
        const directory = join(root, "run")
        yield* interrupted((stop) =>
          Scripted.train(Scripted.learners({ updating: at(3, stop) }), Scripted.config(), {
            directory,
            samplesEvery: 2
          })
        )
        assert.strictEqual(yield* kept(directory), 4)
        yield* resumes(root, directory)
      })
    )
  )

  it.live("while answers are scored loses no score, and no answer is scored twice", () =>
    inTemporary((root) =>
      Effect.gen(function* () {
        const directory = join(root, "run")
        const settings = { directory, samplesEvery: 2, scoreBatch: 1 }
        const asked: Array<string> = []
        const paid = (stop: Effect.Effect<void>) =>
          RewardModel.fromFunction("scripted", ({ completion }) =>
            Effect.gen(function* () {
              // Two iterations of four, one more, and the next is never answered.
              if (asked.length === 9) yield* stop
              asked.push(completion.text)
              return completion.tokens[0]! / 4
            })
          )
        yield* interrupted((stop) =>
          Scripted.train(Scripted.learners(), Scripted.config(), { ...settings, reward: paid(stop) })
        )
        assert.strictEqual(yield* kept(directory), 2)
        assert.strictEqual(asked.length, 9)
        yield* resumes(root, directory, { scoreBatch: 1, reward: paid(Effect.void) })
        assert.strictEqual(asked.length, 24)
      })
    )
  )
})

describe("an update that fails", () => {
  // A reward that never says the same twice, as people do.
  const moody = () => {
    let asked = 0
    const reward = RewardModel.fromFunction("moody", ({ completion }) => completion.tokens[0]! + ++asked / 8)
    return { reward, asked: () => asked }
  }

  it.effect("leaves the checkpoint before it, from which the run goes on with the scores that it had", () =>
    inTemporary((root) =>
      Effect.gen(function* () {
        const directory = join(root, "run")
        const own = Scripted.learners({ updating: (i) => (i === 3 ? Effect.die("power") : Effect.void) })
        const { asked, reward } = moody()
        const exit = yield* Effect.exit(
          Scripted.train(own, Scripted.config(), { directory, samplesEvery: 2, checkpointEvery: 2, reward })
        )
        assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual(yield* kept(directory), 2)
        assert.strictEqual(asked(), 16)
        yield* resumes(root, directory, { checkpointEvery: 2, reward }, { reward: moody().reward })
        assert.strictEqual(asked(), 24)
      })
    )
  )

  it.effect("is not kept half, however it fails", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const error = new Learner.LearnerError({ reason: "finite", step: 7, message: "loss NaN" })
        const own = Scripted.learners({ updating: (i) => (i === 3 ? Effect.fail(error) : Effect.void) })
        const failed = yield* Effect.flip(Scripted.train(own, Scripted.config(), { directory, checkpointEvery: 2 }))
        assert.strictEqual(failed.message, "loss NaN")
        assert.deepStrictEqual(yield* Checkpoint.steps(join(directory, "checkpoints")), [2])
      })
    )
  )
})

describe("with models", () => {
  it.live("PPO-ptx makes pretraining text likelier, and the weights that it averages lag behind", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const ptx = { coef: 2, examplesPerEpisode: 1 }
        const settings = Tiny.config({ episodes: 96, minibatchSize: 8, ptx, ema: 0.9, policyLearningRate: 1e-2 })
        const own = yield* Tiny.learners(settings, "separate")
        const { reports } = yield* Tiny.train(own, settings, { directory, checkpointEvery: 1, keepLast: 2 })
        assert.isBelow(reports.at(-1)!["loss/ptx"]!, 0.8 * reports[0]!["loss/ptx"]!)

        // One optimizer step lies between the two checkpoints.
        const [before, after] = yield* Effect.forEach([11, 12], (step) =>
          Checkpoint.load(join(directory, "checkpoints", `step-${String(step).padStart(8, "0")}`))
        )
        const name = "transformer.wte.weight"
        const values = (checkpoint: Checkpoint.Checkpoint, part: string) =>
          (checkpoint.tensors[part]!.get(name) as Tensor.Tensor<"float32">).data
        const [old, now, weights] = [
          values(before!, "policy.ema"),
          values(after!, "policy.ema"),
          values(after!, "policy.weights")
        ]
        for (const [i, value] of now.entries()) assert.closeTo(value, 0.9 * old[i]! + 0.1 * weights[i]!, 1e-6)
        assert.notDeepEqual(now, weights)
      }).pipe(Effect.scoped, Effect.provide(Tiny.layer))
    )
  )

  it.live("a shared trunk learns to answer and what answers are worth", () =>
    Effect.gen(function* () {
      const settings = Tiny.config({
        episodes: 30 * 16,
        batchSize: 16,
        minibatchSize: 8,
        policyLearningRate: 1e-2,
        valueClipRange: null
      })
      const { reports } = yield* Tiny.train(yield* Tiny.learners(settings, "shared"), settings)
      const mean = (name: string, from: number) =>
        reports.slice(from, from + 5).reduce((sum, report) => sum + report[name]!, 0) / 5
      assert.isAbove(mean("objective/scores", 25), mean("objective/scores", 0) + 1)
      // Values that stayed where they were would be off by ever more.
      assert.isBelow(mean("loss/value", 25), 0.5 * mean("loss/value", 0))
      assert.isBelow(reports[0]!["rollout/max_logprob_difference"]!, 1e-5)
    }).pipe(Effect.scoped, Effect.provide(Tiny.layer))
  )

  it.live("targetKl ends the updates of the policy, not those of the values", () =>
    Effect.gen(function* () {
      const targetKl = 1e-3
      const settings = Tiny.config({ innerEpochs: 6, policyLearningRate: 2e-2, targetKl })
      const own = yield* Tiny.learners(settings, "separate")
      const steps: Array<Reports> = []
      const update: PpoLearners["update"] = (minibatches) =>
        Effect.tap(own.update(minibatches), (reports) => Effect.sync(() => steps.push(reports)))
      const { reports } = yield* Tiny.train({ ...own, update }, settings)
      assert.isBelow(reports[0]!["policy/updates"]!, 12)
      assert.isAtLeast(reports[0]!["policy/updates"]!, 1)
      for (const [i, { policy, value }] of steps.entries()) {
        assert.strictEqual(policy.length, reports[i]!["policy/updates"])
        assert.strictEqual(value.length, 12)
        for (const { approxkl } of policy) assert.isAtMost(approxkl!, targetKl)
      }
    }).pipe(Effect.scoped, Effect.provide(Tiny.layer))
  )
})

// Five is what the project promises; two show that it learns.
const seeds = Number(process.env["ATTUNE_TEST_SEEDS"] ?? 2)

describe("one token, where the best policy is known", () => {
  // Prompt `p` likes other tokens than prompt `p + 1`; with `offset` it is also worth more whatever the answer.
  const table = [0.3, -0.8, 1, 0, -0.4, 0.7, -1, 0.5, -0.2, 0.9, -0.6, 0.1]
  const beta = 0.5
  const prompts = [1, 2, 3]
  for (const { offset, values } of [
    { values: "none", offset: 0 },
    { values: "separate", offset: 2 }
  ] as const) {
    const worth = (prompt: number, token: number) => table[(token + 5 * prompt) % Tiny.vocabSize]! + offset * prompt
    const reward = RewardModel.fromFunction("table", ({ completion, prompt }) =>
      worth(prompt.tokens[0]!, completion.tokens[0]!)
    )
    for (let seed = 1; seed <= seeds; seed++) {
      it.live(`is found to 0.02 nats, with ${values === "none" ? "the policy alone" : "values"}, seed ${seed}`, () =>
        Effect.gen(function* () {
          const settings = Tiny.config({
            episodes: 40 * 128,
            batchSize: 128,
            minibatchSize: 32,
            innerEpochs: 2,
            maxNewTokens: 1,
            policyLearningRate: 2e-2,
            valueLearningRate: 2e-2,
            schedule: { _tag: "Linear", floor: 0 },
            kl: { _tag: "Fixed", klCoef: beta },
            valueClipRange: null,
            seed
          })
          const own = yield* Tiny.learners(settings, values)
          const distribution = (prompt: number) => {
            const all = Array.from({ length: Tiny.vocabSize }, (_, token) => ({
              prompt: [prompt],
              completion: [token]
            }))
            return Effect.map(own.policy.logprobs(all), (logprobs) => logprobs.map(([logprob]) => logprob!))
          }
          const best = yield* Effect.forEach(prompts, (prompt) =>
            Effect.map(distribution(prompt), (reference) => {
              const tilted = reference.map((logprob, token) => logprob + worth(prompt, token) / beta)
              const logZ = Math.log(tilted.reduce((sum, x) => sum + Math.exp(x), 0))
              return tilted.map((x) => x - logZ)
            })
          )
          const distances = Effect.forEach(prompts, (prompt, i) =>
            Effect.map(distribution(prompt), (logprobs) => Kl.exact(best[i]!, logprobs))
          )
          for (const kl of yield* distances) assert.isAbove(kl, 0.2)
          yield* Tiny.train(own, settings, { prompts: prompts.map((token) => Tiny.prompt(token)), reward })
          for (const kl of yield* distances) assert.isAtMost(kl, 0.02)
        }).pipe(Effect.scoped, Effect.provide(Tiny.layer))
      )
    }
  }
})
