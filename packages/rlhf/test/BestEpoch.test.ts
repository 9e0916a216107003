import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import {
  Checkpoint,
  type Completion,
  NextToken,
  type Policy,
  Progress,
  RewardModel,
  RunLog,
  Sft,
  Tokenizer
} from "@attune/core"
import { Device } from "@attune/core/ort"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as BestEpoch from "../src/BestEpoch.ts"
import * as Fixture from "./best-epoch.ts"
import * as Tiny from "./tiny.ts"

const layer = Layer.merge(Device.layerInProcess({ provider: "cpu", threads: 1 }), Progress.layer({ mode: "quiet" }))

const inTemporary = <A, E, R>(body: (directory: string) => Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-best-epoch-"))),
    body,
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )

// A reward for each epoch, whatever the answers: the answers of an epoch differ by what is in `spread`.
const scripted = (rewards: ReadonlyArray<number>, spread = [-2, 0, 2, 1, -1]) => {
  let calls = 0
  const asked: Array<ReadonlyArray<RewardModel.Answer>> = []
  const model = RewardModel.fromBatchFunction("scripted", (answers) => {
    asked.push(answers)
    const reward = rewards[calls++]!
    return answers.map((_, i) => reward + spread[i]!)
  })
  return { asked, layer: Layer.succeed(RewardModel.RewardModel, model) }
}

const epochOf = (epoch: number, mean: number): BestEpoch.Epoch => ({
  epoch,
  step: epoch,
  validationLoss: null,
  reward: { mean, n: 1, se: null },
  length: 1,
  missingEos: 0
})

describe("best", () => {
  it("is the epoch of the highest reward, the earliest of equal ones", () => {
    const epochs = [-3, -1, -2, -1].map((mean, i) => epochOf(i + 1, mean))
    assert.strictEqual(BestEpoch.best(epochs).epoch, 2)
    assert.strictEqual(BestEpoch.best(epochs.slice(0, 1)).epoch, 1)
    assert.throws(() => BestEpoch.best([]), /no epoch/)
  })
})

describe("validationLoss", () => {
  it.effect("is the mean over all target tokens by their weights, and asks of no other", () =>
    Effect.gen(function* () {
      const asked: Array<Policy.Continuation> = []
      const policy: Pick<Policy.PolicyShape, "logprobs"> = {
        logprobs: (continuations) =>
          Effect.sync(() => {
            asked.push(...continuations)
            return continuations.map(({ completion }) => Float32Array.from(completion, (id) => -id))
          })
      }
      const examples = [
        { ...Sft.example([1, 2], [3, 4, 5, 6]), weights: Float32Array.of(0, 0, 1, 0, 0.5, 0) },
        Sft.example([7], [8])
      ]
      const loss = yield* BestEpoch.validationLoss(policy, examples)
      assert.closeTo(loss, (3 + 0.5 * 5 + 8) / 2.5, 1e-12)
      assert.deepStrictEqual(
        asked.map(({ completion, prompt }) => [Array.from(prompt), Array.from(completion)]),
        [
          [
            [1, 2],
            [3, 4, 5]
          ],
          [[7], [8]]
        ]
      )
    })
  )
})

describe("train", () => {
  it.effect("leaves the model with the weights of the best epoch, and says how each did", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const { asked, layer: reward } = scripted([0.5, 3, 1, 3])
        const own = yield* Fixture.learner
        const settings = { ...Fixture.options, epochs: 4, directory }
        const { best, epochs, steps } = yield* BestEpoch.train(own, Fixture.examples, settings).pipe(
          Effect.provide(reward)
        )
        assert.strictEqual(steps.length, 32)
        assert.strictEqual(best, epochs[1])
        assert.deepStrictEqual(
          epochs.map(({ epoch, step, reward }) => ({ epoch, step, mean: reward.mean, n: reward.n })),
          [0.5, 3, 1, 3].map((mean, i) => ({ epoch: i + 1, step: 8 * (i + 1), mean, n: 5 }))
        )
        // Scores -2 .. 2 around the mean: variance 10 / 4, over five.
        for (const { reward } of epochs) assert.closeTo(reward.se!, Math.sqrt(0.5), 1e-12)

        // The same run, and what it was after two epochs: rates do not depend on the end.
        const other = yield* Fixture.learner
        const answers: Array<ReadonlyArray<Completion.Completion>> = []
        const losses: Array<number> = []
        yield* Sft.train(other, Fixture.examples, {
          ...settings,
          directory: undefined,
          epochEnd: (epoch) =>
            Effect.gen(function* () {
              answers.push(yield* other.model.sample(Tiny.prompts, Fixture.options.sampling))
              losses.push(yield* BestEpoch.validationLoss(other.model, Fixture.heldOut))
              if (epoch === 2) {
                const { tensors } = yield* other.state
                const state = yield* own.state
                assert.deepStrictEqual(Fixture.bits(state.tensors["weights"]!), Fixture.bits(tensors["weights"]!))
              }
              return null
            }).pipe(Effect.orDie)
        })
        assert.deepStrictEqual(
          asked.map((all) => all.map(({ completion }) => [...completion.tokens])),
          answers.map((all) => all.map(({ tokens }) => [...tokens]))
        )
        assert.deepStrictEqual(
          epochs.map(({ validationLoss }) => validationLoss),
          losses
        )
        assert.strictEqual(new Set(losses).size, 4)
        // The optimizer is where the last epoch left it.
        const [state, last] = [yield* own.state, yield* other.state]
        assert.deepStrictEqual(Fixture.bits(state.tensors["first"]!), Fixture.bits(last.tensors["first"]!))
        assert.strictEqual(state.step, 32)

        const events = (yield* RunLog.read(directory)).flatMap((line) => (line.type === "event" ? [line] : []))
        assert.deepStrictEqual(
          events.map(({ name, step }) => [name, step]),
          epochs.map(({ step }) => ["epoch", step])
        )
        const { samples, ...logged } = events[1]!.data as unknown as BestEpoch.Epoch & {
          samples: ReadonlyArray<unknown>
        }
        assert.deepStrictEqual(logged, epochs[1])
        const [first] = asked[1]!
        assert.strictEqual(samples.length, 4)
        assert.deepStrictEqual(samples[0], { prompt: "1", completion: first!.completion.text, score: 1 })
      }).pipe(Effect.scoped, Effect.provide(layer))
    )
  )

  it.effect("keeps the last epoch where it is the best, and needs nothing held out nor a second answer", () =>
    Effect.gen(function* () {
      const own = yield* Fixture.learner
      const { heldOut: _heldOut, ...rest } = Fixture.options
      const settings = { ...rest, epochs: 2, prompts: Tiny.prompts.slice(0, 1) }
      const { best, epochs } = yield* BestEpoch.train(own, Fixture.examples, settings).pipe(
        Effect.provide(scripted([1, 2]).layer)
      )
      assert.strictEqual(best.epoch, 2)
      assert.deepStrictEqual(
        epochs.map(({ reward, validationLoss }) => [reward.n, reward.se, validationLoss]),
        [
          [1, null, null],
          [1, null, null]
        ]
      )
      const plain = yield* Fixture.learner
      yield* Sft.train(plain, Fixture.examples, { epochs: 2, batchSize: 4, seed: 3 })
      const weights = (learner: typeof own) =>
        Effect.map(learner.state, ({ tensors }) => Fixture.bits(tensors["weights"]!))
      assert.deepStrictEqual(yield* weights(own), yield* weights(plain))
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.effect("goes on after its reward model failed, and chooses as if it had not", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const whole = yield* Fixture.trained({ directory: join(directory, "whole") })
        assert.isTrue(whole.best.epoch < 6, "the best epoch must not be the last, or nothing is put back")
        const attempt = (failsAt: number, resume: boolean) => {
          let calls = 0
          const reward = RewardModel.fromBatchFunction("worth", (answers) => {
            if (++calls === failsAt) throw new Error("no reward today")
            return answers.map(({ completion }) => Fixture.score(completion.tokens))
          })
          return Effect.gen(function* () {
            const own = yield* Fixture.learner
            const { best, epochs } = yield* BestEpoch.train(own, Fixture.examples, {
              ...Fixture.options,
              directory: join(directory, "parts"),
              resume,
              checkpointEvery: 5
            }).pipe(Effect.provideService(RewardModel.RewardModel, reward))
            return { best, epochs, weights: Fixture.bits((yield* own.state).tensors["weights"]!) }
          }).pipe(Effect.scoped)
        }
        // A resumed run begins to count anew.
        for (const [failsAt, resume] of [
          [1, false],
          [3, true],
          [2, true]
        ] as const) {
          const error = yield* Effect.flip(attempt(failsAt, resume))
          assert.include(error.message, "no reward today")
        }
        assert.deepStrictEqual(yield* attempt(0, true), whole)
        // Once more: nothing is left to train, and the choice stands.
        assert.deepStrictEqual(yield* attempt(0, true), whole)
        const lines = (name: string) =>
          Effect.map(RunLog.read(join(directory, name)), (read) => read.slice(1).map((line) => ({ ...line, time: "" })))
        assert.deepStrictEqual(yield* lines("parts"), yield* lines("whole"))
      }).pipe(Effect.scoped, Effect.provide(layer))
    )
  )

  it.effect("refuses what it could not choose by, before the first step", () =>
    Effect.gen(function* () {
      const own = yield* Fixture.learner
      const message = (given: Partial<BestEpoch.Options>, reward = scripted([]).layer) =>
        BestEpoch.train(own, Fixture.examples, { ...Fixture.options, ...given }).pipe(
          Effect.provide(reward),
          Effect.flip,
          Effect.map((error) => error.message)
        )
      assert.match(yield* message({ prompts: [] }), /no validation prompt/)
      assert.match(yield* message({ heldOut: [Fixture.heldOut[0]!, Sft.example([1, 2], [])] }), /example 1 .* held out/)
      const long = new Int32Array(Tiny.contextLength).fill(1)
      assert.match(
        yield* message({ prompts: [Tiny.prompts[0]!, Tiny.prompt(...long)] }),
        /^validation prompt 1 has 16 tokens, which leaves no room for an answer in the model's context of 16/
      )
      assert.match(
        yield* message({ heldOut: [Sft.example(long, [1])] }),
        /^example 0 of those held out has 17 tokens, more than the model's context of 16/
      )
      const foreign = RewardModel.layerFunction("foreign", () => 0, {
        tokenizer: Tokenizer.numeric(Tiny.vocabSize + 1)
      })
      assert.match(yield* message({}, foreign), /reward model foreign reads tokens of another tokenizer/)
      assert.strictEqual((yield* own.state).step, 0)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.effect("names a score that is none, whoever made the reward model", () =>
    Effect.gen(function* () {
      const own = yield* Fixture.learner
      const score = (answers: ReadonlyArray<RewardModel.Answer>) =>
        Effect.succeed(Float32Array.from(answers, (_, i) => (i === 2 ? Number.NaN : 1)))
      const error = yield* BestEpoch.train(own, Fixture.examples, { ...Fixture.options, epochs: 1 }).pipe(
        Effect.provideService(RewardModel.RewardModel, { name: "own", score }),
        Effect.flip
      )
      assert.match(error.message, /^reward model own: scored answer 2 of 5 as NaN/)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.effect("is not resumed with other validation prompts, another way to sample or another reward", () =>
    inTemporary((directory) =>
      Effect.gen(function* () {
        const run = (given: Partial<BestEpoch.Options>, name: string) =>
          Effect.gen(function* () {
            return yield* BestEpoch.train(yield* Fixture.learner, Fixture.examples, {
              ...Fixture.options,
              epochs: 1,
              directory,
              ...given
            }).pipe(Effect.provide(RewardModel.layerFunction(name, () => 1)))
          })
        yield* run({}, "one")
        const others = [
          [{ prompts: Tiny.prompts.slice(1) }, "one"],
          [{ sampling: { maxNewTokens: 4 } }, "one"],
          [{ heldOut: [] }, "one"],
          [{}, "two"]
        ] as const
        for (const [given, name] of others) {
          const error = yield* Effect.flip(run({ ...given, resume: true }, name))
          assert.strictEqual(error._tag, "CheckpointError")
        }
        yield* run({ resume: true }, "one")
      }).pipe(Effect.scoped, Effect.provide(layer))
    )
  )
})

const script = fileURLToPath(new URL("./best-epoch-child.ts", import.meta.url))

/** Runs the child to its end, or until it kills itself. What it printed, where it came to the end. */
const live = (directory: string, millis?: number): Promise<{ chosen: unknown; millis: number } | undefined> =>
  new Promise((resolve, reject) => {
    const rest = millis === undefined ? [] : [String(millis)]
    const child = spawn(process.execPath, ["--conditions=@attune/source", script, directory, ...rest], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    const printed: Array<string> = []
    const errors: Array<string> = []
    child.stdout.on("data", (data) => printed.push(String(data)))
    child.stderr.on("data", (data) => errors.push(String(data)))
    child.on("error", reject)
    child.on("close", (code, signal) => {
      if (signal === "SIGKILL") resolve(undefined)
      else if (code === 0) resolve(JSON.parse(printed.join("")))
      else reject(new Error(`the run ended with ${code ?? signal}: ${errors.join("")}`))
    })
  })

// Ten is what the project promises; CI kills fewer times, since each life costs seconds of start-up.
const kills = Number(process.env["ATTUNE_TEST_KILLS"] ?? 2)

describe("a run that is killed", () => {
  it.live(
    `chooses the epoch and has the weights of one that was not, bit for bit, after ${kills} kills`,
    () =>
      inTemporary((root) =>
        Effect.gen(function* () {
          const whole = (yield* Effect.promise(() => live(join(root, "whole"))))!
          const uniform = NextToken.uniforms(20261122)
          let killed = 0
          let resumable = 0
          for (let chain = 0; killed < kills; chain++) {
            const directory = join(root, `chain-${chain}`)
            for (let ended: typeof whole | undefined; ended === undefined; ) {
              const millis = killed < kills ? whole.millis * (0.2 + 0.8 * uniform()) : undefined
              ended = yield* Effect.promise(() => live(directory, millis))
              if (ended !== undefined) {
                assert.deepStrictEqual(ended.chosen, whole.chosen)
                continue
              }
              killed++
              if ((yield* Checkpoint.steps(join(directory, "checkpoints"))).length > 0) resumable++
            }
          }
          assert.isAbove(resumable, 0, "every kill came before the first checkpoint")
        })
      ),
    600_000
  )
})
