/**
 * Supervised fine-tuning, from a model directory and demonstrations to an aligned model directory.
 *
 * @since 0.1.0
 */

import { join } from "node:path"
import { Demonstration, Epochs, JsonLines, Sft } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { LearningRate, Optimizer } from "@attune/core/onnx"
import { OrtLearner, OrtPolicy } from "@attune/core/ort"
import { ReportFile } from "@attune/eval/report"
import { Clock, Console, Effect, Option, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import * as CommonFlags from "./CommonFlags.ts"
import * as Comparison from "./Comparison.ts"
import * as DeskScores from "./DeskScores.ts"
import * as Dice from "./desk/Dice.ts"
import * as Feedback from "./desk/Feedback.ts"
import * as Format from "./desk/Format.ts"
import * as Ticket from "./desk/Ticket.ts"
import * as Provenance from "./Provenance.ts"
import * as SummaryFile from "./SummaryFile.ts"
import { versions } from "./Versions.ts"

const flags = {
  ...CommonFlags.flags,
  model: DeskScores.modelFlag,
  demonstrations: Flag.String("demonstrations").pipe(
    Flag.withMetavar("FILE.jsonl"),
    Flag.withDescription("Prompts with good completions, one JSON object a line. Default generated help-desk ones"),
    Flag.optional
  ),
  text: Flag.String("text").pipe(
    Flag.withMetavar("FILE.txt"),
    Flag.withDescription("Plain documents separated by <|endoftext|>, instead of demonstrations"),
    Flag.optional
  ),
  prompts: Flag.String("prompts").pipe(
    Flag.withMetavar("FILE.txt"),
    Flag.withDescription("Prompts to sample before and after, one a line. Default taken from the held-out data"),
    Flag.optional
  ),
  rows: CommonFlags.count("rows").pipe(
    Flag.withDescription("Most examples to train on. Default 1500"),
    Flag.withDefault(1500)
  ),
  epochs: CommonFlags.count("epochs").pipe(
    Flag.withDescription("Passes over the examples. Default 1"),
    Flag.withDefault(1)
  ),
  batch: CommonFlags.count("batch").pipe(Flag.withDescription("Examples per step. Default 16"), Flag.withDefault(16)),
  length: CommonFlags.count("length").pipe(
    Flag.withDescription(
      "Longest example in tokens, at most the model's context; longer ones are cut at their end. " +
        "Default 256 for --text; demonstrations are not cut, and longer ones than the context refused"
    ),
    Flag.optional
  ),
  learningRate: CommonFlags.learningRate("Peak learning rate, falling along a cosine", 0.0005),
  maxNewTokens: CommonFlags.count("max-new-tokens").pipe(
    Flag.withDescription("Length of the samples that are shown. Default 64"),
    Flag.withDefault(64)
  )
}

// Examples to train on, examples held out, and prompts to show; `tickets` where the labeller can score the answers.
interface Material {
  readonly train: ReadonlyArray<Sft.Example>
  readonly heldOut: ReadonlyArray<Sft.Example>
  readonly prompts: ReadonlyArray<string>
  readonly tickets: ReadonlyArray<Ticket.Ticket>
  readonly datasets: ReadonlyArray<Provenance.Dataset>
}

const heldOutShare = 0.05

// What is held out stands first, and so do the prompts that are shown.
const mostShown = 4

/**
 * `pnpm example sft`.
 *
 * @category running
 * @since 0.1.0
 */
export const command = Command.make(
  "sft",
  flags,
  Effect.fn("SupervisedFineTuning")(function* (chosen) {
    const started = yield* Clock.currentTimeMillis
    const out = CommonFlags.directory("sft", chosen)
    const rows = chosen.quick ? Math.min(64, chosen.rows) : chosen.rows
    const scored = chosen.quick ? 20 : 300

    const splitOff = Effect.fnUntraced(function* (examples: ReadonlyArray<Sft.Example>, file: string, what: string) {
      if (examples.length < 2) {
        const message = `${file}: has ${examples.length} ${what}; give at least 2, since some are held out to measure on`
        return yield* new CommonFlags.ExampleError({ message })
      }
      const kept = Math.max(1, Math.ceil(Math.min(rows, examples.length) * heldOutShare))
      return { train: examples.slice(kept, kept + rows), heldOut: examples.slice(0, kept) }
    })

    const fromText = Effect.fn(function* (file: string, base: Pretrained.Pretrained) {
      const documents = Demonstration.fromText(yield* CommonFlags.readText(file)).map(({ completion }) => completion)
      const longest = Math.min(
        Option.getOrElse(chosen.length, () => 256),
        base.decoder.contextLength
      )
      const examples = documents
        .map((text) => Sft.example([], base.tokenizer.encode(text).subarray(0, longest)))
        // Nothing predicts the first token, so a document of one teaches nothing.
        .filter(({ tokens }) => tokens.length > 1)
      const opening = (text: string) => text.split(/\s+/).slice(0, 6).join(" ")
      const split = yield* splitOff(examples, file, "documents of two tokens or more, separated by <|endoftext|>")
      return {
        ...split,
        prompts: documents.slice(0, Math.min(mostShown, split.heldOut.length)).map(opening),
        tickets: [],
        datasets: [yield* Provenance.dataset(file, split.train.length + split.heldOut.length)]
      } satisfies Material
    })

    // An example from the demonstration on a line, no longer than the model and --length allow.
    const fitted = Effect.fnUntraced(function* (
      file: string,
      { line, value }: JsonLines.Numbered<Demonstration.Demonstration>,
      { decoder: { contextLength }, tokenizer }: Pretrained.Pretrained
    ) {
      const refuse = (reason: string) => new JsonLines.FeedbackLineError({ file, line, reason })
      const [example] = yield* Effect.fromResult(Sft.examples(tokenizer, [value])).pipe(
        Effect.mapError(({ message }) => refuse(message))
      )
      const { fields, tokens, weights } = example!
      if (tokens.length > contextLength && Option.isNone(chosen.length)) {
        return yield* refuse(
          `has ${tokens.length} tokens, more than the model's context of ${contextLength}; ` +
            `shorten it, or cut such examples at their end with --length ${contextLength}`
        )
      }
      const longest = Math.min(
        Option.getOrElse(chosen.length, () => contextLength),
        contextLength
      )
      const cut: Sft.Example = { fields, tokens: tokens.subarray(0, longest), weights: weights.subarray(0, longest) }
      if (!cut.weights.some((weight) => weight > 0)) {
        return yield* refuse(`its prompt leaves no room for a completion within ${longest} tokens; shorten the prompt`)
      }
      return cut
    })

    const fromDemonstrations = Effect.fn(function* (file: string, base: Pretrained.Pretrained) {
      const lines = yield* Stream.runCollect(JsonLines.numbered(file, Demonstration.Demonstration))
      const examples = yield* Effect.forEach(lines, (line) => fitted(file, line, base))
      const split = yield* splitOff(examples, file, "demonstrations")
      const prompts = lines
        .slice(0, Math.min(mostShown, split.heldOut.length))
        .flatMap(({ value: { prompt } }) => (typeof prompt === "string" ? [prompt] : []))
      const datasets = [yield* Provenance.dataset(file, split.train.length + split.heldOut.length)]
      return { ...split, prompts, tickets: [], datasets } satisfies Material
    })

    const fromDesk = Effect.fn(function* (base: Pretrained.Pretrained) {
      const make = (split: "train" | "test", seed: number, n: number) => {
        const tickets = Ticket.generate({ seed, split, n })
        return { tickets, demonstrations: Feedback.demonstrations(tickets, Dice.make(seed)) }
      }
      const train = make("train", chosen.seed + 1, rows)
      const test = make("test", chosen.seed + 2, scored)
      return {
        train: yield* Effect.fromResult(Sft.examples(base.tokenizer, train.demonstrations)),
        heldOut: yield* Effect.fromResult(Sft.examples(base.tokenizer, test.demonstrations)),
        prompts: test.tickets.slice(0, mostShown).map(Format.summary),
        tickets: test.tickets,
        // Made from the seed.
        datasets: []
      } satisfies Material
    })

    const program = Effect.gen(function* () {
      if (Option.isSome(chosen.text) && Option.isSome(chosen.demonstrations)) {
        const message = "--text and --demonstrations are two kinds of material: give one of them"
        return yield* new CommonFlags.ExampleError({ message })
      }
      const base = yield* Pretrained.load(yield* Pretrained.resolve(chosen.model))
      const material = yield* Option.match(chosen.text, {
        onSome: (file) => fromText(file, base),
        onNone: () =>
          Option.match(chosen.demonstrations, {
            onSome: (file) => fromDemonstrations(file, base),
            onNone: () => fromDesk(base)
          })
      })
      const prompts = yield* Option.match(chosen.prompts, {
        onSome: Effect.fnUntraced(function* (file) {
          const lines = (yield* CommonFlags.readText(file)).split(/\r?\n/).filter((line) => line.trim() !== "")
          if (lines.length > 0) return lines
          return yield* new CommonFlags.ExampleError({ message: `${file}: has no prompts; write one a line` })
        }),
        onNone: () => Effect.succeed(material.prompts)
      })

      const policy = yield* OrtPolicy.make(base)
      const measure = Effect.fn(function* (system: string) {
        const loss = yield* DeskScores.heldOut(system, policy, material.heldOut)
        if (material.tickets.length === 0) return { scores: [loss] }
        const gold = yield* DeskScores.gold(system, policy, material.tickets, chosen.seed)
        return { scores: [loss, ...gold.scores], gold }
      })
      const show = policy.sample(prompts, { maxNewTokens: chosen.maxNewTokens, temperature: 0.8, seed: chosen.seed })

      const before = yield* measure("before")
      const samplesBefore = yield* show
      const steps = Epochs.steps(material.train.length, { batchSize: chosen.batch, epochs: chosen.epochs })
      const learner = yield* OrtLearner.make({
        model: policy,
        loss: Sft.loss,
        optimizer: Optimizer.adamW({
          learningRate: LearningRate.cosine(chosen.learningRate, steps, chosen.learningRate / 10),
          maxGradNorm: 1
        })
      })
      yield* Sft.train(learner, material.train, {
        epochs: chosen.epochs,
        batchSize: chosen.batch,
        seed: chosen.seed,
        directory: out,
        resume: chosen.resume
      })
      const after = yield* measure("after")
      const samplesAfter = yield* show

      yield* Pretrained.save(yield* policy.snapshot, join(out, "model"))
      const said = { systems: ["before", "after"], prompts, before: samplesBefore, after: samplesAfter } as const
      const judged =
        before.gold && after.gold ? [yield* DeskScores.winRate(material.tickets, after.gold, before.gold)] : []
      const scores = [...before.scores, ...after.scores, ...judged.map(({ score }) => score)]
      const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
      const path = yield* SummaryFile.write(out, { example: "sft", scores, versions, seed: chosen.seed, seconds })
      const report = yield* ReportFile.write(out, {
        title: "Supervised fine-tuning",
        provenance: Provenance.make({
          seeds: { "order of examples, samples": chosen.seed },
          models: [{ name: "before", source: chosen.model }],
          datasets: material.datasets
        }),
        sections: [
          yield* Effect.fromResult(Comparison.scores(before.scores, after.scores, chosen.seed)),
          ...judged.map(Comparison.winRate),
          yield* Comparison.training(out),
          Comparison.samples(said)
        ]
      })
      for (const line of Comparison.lines(said)) yield* Console.log(line)
      for (const line of Comparison.table(scores)) yield* Console.log(line)
      yield* Console.log(
        `model: ${join(out, "model")}   report: ${report.html}   summary: ${path}   ${seconds.toFixed(0)} s`
      )
    })
    yield* CommonFlags.run(program, chosen, out)
  })
).pipe(
  Command.withDescription(
    "Supervised fine-tuning of any model directory on demonstrations or plain text, measured before and after on held-out data"
  )
)
