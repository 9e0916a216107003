/** Input that a training run refuses before its first step, and a padding id that means something else as well. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import { afterAll } from "vitest"
import * as Checkpoint from "../src/Checkpoint.ts"
import * as Epochs from "../src/Epochs.ts"
import { type Learner, LearnerError, type LearnerState } from "../src/Learner.ts"
import type { Example } from "../src/Loss.ts"
import * as Optimizer from "../src/onnx/Optimizer.ts"
import * as Device from "../src/ort/Device.ts"
import * as OrtLearner from "../src/ort/OrtLearner.ts"
import * as OrtPolicy from "../src/ort/OrtPolicy.ts"
import * as Progress from "../src/Progress.ts"
import * as Prompt from "../src/Prompt.ts"
import * as RunLog from "../src/RunLog.ts"
import * as Sft from "../src/Sft.ts"
import * as Tensor from "../src/Tensor.ts"
import * as TestModel from "./ort/model.ts"

const root = mkdtempSync(join(tmpdir(), "attune-bad-input-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let serial = 0
const fresh = () => join(root, String(serial++))

type Plain = Example<Record<never, never>>
type PlainLearner = Learner<Record<never, never>, { readonly contextLength: number }>

/** A learner without a model: it counts, and keeps the batches that it was given. */
const counting = () => {
  const batches: Array<ReadonlyArray<Plain>> = []
  let step = 0
  const state = (): LearnerState => ({
    step,
    tensors: { weights: new Map([["w", Tensor.float32([step])]]) }
  })
  const learner = {
    model: { contextLength: 8 },
    fingerprint: "counting",
    stepsPerRun: 2,
    update: (given: ReadonlyArray<ReadonlyArray<Plain>>) =>
      Effect.sync(() => {
        batches.push(...given)
        return given.map(() => ({ loss: 1 / ++step, learning_rate: 0.1 }))
      }),
    state: Effect.sync(state),
    restore: (saved: LearnerState) =>
      Effect.sync(() => {
        step = saved.step
      })
  } as unknown as PlainLearner
  return { learner, batches }
}

const example = Sft.example([1, 2], [3, 4])
const examples = (n: number) => Array.from({ length: n }, (_, i) => Sft.example([1, 2], [3, 4 + i]))
const quiet = Progress.layer({ mode: "quiet" })

const train = (learner: PlainLearner, given: ReadonlyArray<Plain>, options: Sft.TrainOptions = {}) =>
  Sft.train(learner, given, options).pipe(Effect.provide(quiet))

describe("Sft.train refuses before the first step", () => {
  const long = Sft.example([1], [1, 2, 3, 4, 5, 6, 7, 8])
  const cases: ReadonlyArray<readonly [string, ReadonlyArray<Plain>, Sft.TrainOptions, RegExp]> = [
    ["no examples", [], {}, /^there is no example to train on/],
    ["an example longer than the context", [example, long], {}, /^example 1 has 9 tokens.*context of 8: shorten/],
    ["an example without a target", [example, example, Sft.example([1, 2], [])], {}, /^example 2 has no target token/],
    ["an example without tokens", [Sft.example([], [])], {}, /^example 0 has no target token/],
    ["no epochs", [example], { epochs: 0 }, /^epochs must be a whole number from 1, got 0/],
    ["half an epoch", [example], { epochs: 0.5 }, /^epochs must be a whole number from 1, got 0.5/],
    ["endless epochs", [example], { epochs: Infinity }, /^epochs must be a whole number from 1, got Infinity/],
    ["batches of nothing", [example], { batchSize: 0 }, /^batchSize must be a whole number from 1, got 0/],
    ["batches of NaN", [example], { batchSize: Number.NaN }, /^batchSize must be a whole number from 1, got NaN/],
    ["checkpoints at every 0th step", [example], { checkpointEvery: 0 }, /^checkpointEvery must be a whole number/],
    ["keeping no checkpoint", [example], { keepLast: 0 }, /^keepLast must be a whole number from 1, got 0/]
  ]
  for (const [name, given, options, message] of cases) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const directory = fresh()
        const { batches, learner } = counting()
        const error = yield* Effect.flip(train(learner, given, { ...options, directory }))
        assert.strictEqual(error._tag, "LearnerError")
        assert.include(error, { reason: "input", step: 0 })
        assert.match(error.message, message)
        assert.strictEqual(batches.length, 0)
        assert.isFalse(existsSync(directory))
      })
    )
  }

  it.effect("but takes batches larger than the data, which hold all of it", () =>
    Effect.gen(function* () {
      const { batches, learner } = counting()
      const reports = yield* train(learner, examples(3), { batchSize: 16, epochs: 2 })
      assert.strictEqual(reports.length, 2)
      const last = (batch: ReadonlyArray<Plain>) => batch.map(({ tokens }) => tokens[3]).sort()
      assert.deepStrictEqual(batches.map(last), [
        [4, 5, 6],
        [4, 5, 6]
      ])
    })
  )
})

it.effect("Sft.train takes every example once in each epoch, the last batch of it smaller", () =>
  Effect.gen(function* () {
    const { batches, learner } = counting()
    yield* train(learner, examples(10), { batchSize: 4, epochs: 2, seed: 3 })
    assert.deepStrictEqual(
      batches.map(({ length }) => length),
      [4, 4, 2, 4, 4, 2]
    )
    const taken = batches.flat().map(({ tokens }) => tokens[3]! - 4)
    assert.deepStrictEqual(taken.slice(0, 10), [...Epochs.order(10, 3, 0)])
    assert.deepStrictEqual(taken.slice(10), [...Epochs.order(10, 3, 1)])
  })
)

const settings = { batchSize: 1, checkpointEvery: 2 } as const
const checkpoints = (directory: string) => readdirSync(join(directory, "checkpoints")).sort()
const damage = (directory: string, name: string) =>
  truncateSync(join(directory, "checkpoints", name, "weights.safetensors"), 5)

describe("a run on disk", () => {
  it.effect("that is resumed where nothing is begins at the start", () =>
    Effect.gen(function* () {
      const directory = fresh()
      const reports = yield* train(counting().learner, examples(4), { ...settings, directory, resume: true })
      assert.strictEqual(reports.length, 4)
      assert.deepStrictEqual(checkpoints(directory), ["step-00000002", "step-00000004"])
    })
  )

  it.effect("that stopped before its first checkpoint begins at the start, in a log of its own", () =>
    Effect.gen(function* () {
      const directory = fresh()
      yield* train(counting().learner, examples(4), { ...settings, directory })
      rmSync(join(directory, "checkpoints"), { recursive: true })
      const reports = yield* train(counting().learner, examples(4), { ...settings, directory, resume: true })
      assert.strictEqual(reports.length, 4)
      assert.deepStrictEqual(
        (yield* RunLog.read(directory)).map((line) => (line.type === "run" ? "run" : line.step)),
        ["run", 1, 2, 3, 4]
      )
    })
  )

  it.effect("goes on from the checkpoint before a damaged one", () =>
    Effect.gen(function* () {
      const directory = fresh()
      yield* train(counting().learner, examples(4), { ...settings, directory })
      damage(directory, "step-00000004")
      const reports = yield* train(counting().learner, examples(4), { ...settings, directory, resume: true })
      assert.deepStrictEqual(
        reports.map(({ loss }) => loss),
        [1 / 3, 1 / 4]
      )
    })
  )

  it.effect("is not begun again where every checkpoint is damaged", () =>
    Effect.gen(function* () {
      const directory = fresh()
      yield* train(counting().learner, examples(4), { ...settings, directory })
      for (const name of checkpoints(directory)) damage(directory, name)
      const log = readFileSync(join(directory, "run.jsonl"), "utf8")
      const { batches, learner } = counting()
      const error = yield* Effect.flip(train(learner, examples(4), { ...settings, directory, resume: true }))
      assert.strictEqual(error._tag, "CheckpointError")
      assert.include(error, { reason: "Corrupt", path: join(directory, "checkpoints") })
      assert.match(error.message, /no checkpoint in it is whole \(of steps 4, 2\)/)
      assert.strictEqual(batches.length, 0)
      assert.strictEqual(readFileSync(join(directory, "run.jsonl"), "utf8"), log)
    })
  )

  it.effect("says which code wrote its checkpoints", () =>
    Effect.gen(function* () {
      const directory = fresh()
      yield* train(counting().learner, examples(2), { ...settings, directory })
      const { manifest } = yield* Checkpoint.load(join(directory, "checkpoints", "step-00000002"))
      const [header] = yield* RunLog.read(directory)
      assert.hasAllKeys(manifest.versions, ["attune", "node", "onnxruntime-node"])
      assert.deepStrictEqual(header?.type === "run" ? header.versions : undefined, manifest.versions)
    })
  )

  it.effect("fails with what went wrong first, where the steps before it cannot be recorded either", () =>
    Effect.gen(function* () {
      const { learner } = counting()
      const completed = [{ loss: 1 }, { loss: 2 }]
      const failing: PlainLearner = {
        ...learner,
        update: () => Effect.fail(new LearnerError({ reason: "finite", step: 2, message: "first", completed })),
        state: Effect.fail(new LearnerError({ reason: "runtime", step: -1, message: "second" }))
      }
      const error = yield* Effect.flip(train(failing, examples(4), { ...settings, directory: fresh() }))
      assert.strictEqual(error.message, "first")
    })
  )

  it.effect("names a file that lies where its directories should be", () =>
    Effect.gen(function* () {
      const directory = fresh()
      writeFileSync(directory, "")
      const blocked = yield* Effect.flip(train(counting().learner, examples(1), { directory }))
      assert.strictEqual(blocked._tag, "RunLogError")
      assert.include(blocked.message, join(directory, "run.jsonl"))
      const inside = fresh()
      mkdirSync(inside)
      writeFileSync(join(inside, "checkpoints"), "")
      const options = { ...settings, directory: inside, resume: true }
      const unread = yield* Effect.flip(train(counting().learner, examples(2), options))
      assert.include(unread, { _tag: "CheckpointError", reason: "Read" })
      const unsaved = yield* Effect.flip(train(counting().learner, examples(2), { ...options, resume: false }))
      assert.include(unsaved, { _tag: "CheckpointError", reason: "Write" })
      assert.strictEqual((yield* RunLog.read(inside)).length, 3)
    })
  )
})

describe("a padding id that is the end-of-text id too", () => {
  const device = Device.layerInProcess({ provider: "cpu", threads: 1 })
  const demonstrations = [
    { prompt: "xy", completion: "c" },
    { prompt: "m", completion: "bdfgikq" },
    { prompt: "", completion: "hello you" }
  ]

  it.effect("ends every example, is learned and scored, and pads nothing that counts", () =>
    Effect.gen(function* () {
      const learned = yield* Effect.forEach([0, undefined, 5], (padId) =>
        Effect.gen(function* () {
          const { tokenizer: letters, ...model } = TestModel.llama(1, padId)
          const prompt = (content: Prompt.Content) =>
            Result.succeed(Prompt.make(String(content), letters.encode(String(content))))
          const base = { ...model, tokenizer: { ...letters, prompt } }
          const given = Result.getOrThrow(Sft.examples(base.tokenizer, demonstrations))
          for (const { tokens, weights } of given) {
            assert.strictEqual(tokens.at(-1), base.tokenizer.eosId)
            assert.strictEqual(weights.at(-1), 1)
          }
          const policy = yield* OrtPolicy.make(base)
          const continuations = given.map(({ tokens, weights }) => {
            const start = weights.findIndex((weight) => weight > 0)
            return { prompt: tokens.subarray(0, start), completion: tokens.subarray(start) }
          })
          const scores = yield* policy.logprobs(continuations)
          const alone = yield* Effect.forEach(continuations, (one) => policy.logprobs([one]))
          scores.forEach((logprobs, i) => {
            assert.strictEqual(logprobs.length, continuations[i]!.completion.length)
            for (const [t, logprob] of logprobs.entries()) assert.closeTo(logprob, alone[i]![0]![t]!, 1e-6)
          })
          const learner = yield* OrtLearner.make({
            model: policy,
            loss: Sft.loss,
            optimizer: Optimizer.adamW({ learningRate: 0.02 })
          })
          const first = (yield* learner.update([given]))[0]!
          const all = scores.flatMap((logprobs) => [...logprobs])
          assert.strictEqual(first["tokens"], all.length)
          assert.closeTo(first["loss"]!, -all.reduce((a, b) => a + b, 0) / all.length, 1e-5)
          yield* learner.update(Array.from({ length: 300 }, () => given))
          // What was learned includes when to stop, and a ragged batch of prompts is continued like each by itself.
          const prompts = demonstrations.slice(0, 2).map(({ prompt }) => prompt)
          const sampled = yield* policy.sample(prompts, { maxNewTokens: 12, temperature: 0 })
          assert.deepStrictEqual(
            sampled.map(({ finishReason, text }) => [text, finishReason]),
            [
              ["c", "stop"],
              ["bdfgikq", "stop"]
            ]
          )
          return sampled.map(({ tokens }) => [...tokens])
        }).pipe(Effect.scoped)
      )
      assert.deepStrictEqual(learned[1], learned[0])
      assert.deepStrictEqual(learned[2], learned[0])
    }).pipe(Effect.provide(device))
  )
})
