/**
 * Imitation learning from critiques that somebody wrote about drafts, in a file.
 *
 * @since 0.1.0
 */
import { join } from "node:path"
import {
  Critique,
  type Demonstration,
  FeedbackSource,
  type Learner,
  type Policy,
  Prompt,
  PromptTemplate,
  Sft,
  type Tokenizer
} from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import type { OrtPolicy } from "@attune/core/ort"
import type { Report, Score } from "@attune/eval"
import { Ilf, type InstructRm, type PromptLoss, Selection, Templates } from "@attune/ilf"
import { Effect, Result } from "effect"
import * as CommonFlags from "./CommonFlags.ts"
import * as DeskScores from "./DeskScores.ts"

/**
 * What {@link imitate} is given: the `reference` refines and judges, the `learner` begins as the same model. `rows`: most
 * critiques to take, `refinements`: how many are written of each, of `maxNewTokens` at most.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly file: string
  readonly rows: number
  readonly reference: Policy.PolicyShape
  readonly learner: Learner.Learner<PromptLoss.Fields, OrtPolicy.OrtPolicy>
  readonly selector: Selection.SelectorShape
  /** Prompts in which the selector asks the reference, which must have room for them. */
  readonly judging: ReadonlyArray<InstructRm.Template>
  readonly refinements: number
  readonly maxNewTokens: number
  readonly epochs: number
  readonly batchSize: number
  readonly seed: number
  readonly directory: string
  readonly resume: boolean
}

// Of five, the last is not imitated, to see whether the model comes closer to what people made of such drafts.
const heldOut = 5

const trimmedEnd = (text: string): string => text.trimEnd()

const hasChatTemplate = (tokenizer: Tokenizer.Tokenizer): boolean =>
  Result.isSuccess(tokenizer.applyChatTemplate([{ role: "user", content: "-" }], { addGenerationPrompt: true }))

// Whether refiner and judge can read a critique and have room for a refinement.
const roomFor = (
  { contextLength, tokenizer }: Policy.PolicyShape,
  refining: Templates.Template,
  judging: ReadonlyArray<InstructRm.Template>,
  maxNewTokens: number
) => {
  const fillers = [refining.content, ...judging.map(({ content }) => content)].map((content) =>
    PromptTemplate.filler(content, tokenizer)
  )
  return ({ completion, critique, prompt }: Critique.Critique): boolean => {
    const fields = { context: Prompt.transcript(prompt), draft: completion, critique, refinement: "" }
    return fillers.every((fill) => {
      const tokens = Result.map(tokenizer.prompt(fill(fields)), (filled) => filled.tokens.length)
      return Result.isSuccess(tokens) && tokens.success + maxNewTokens + replyRoom <= contextLength
    })
  }
}

// What a reply such as " Yes" takes, in any tokenizer.
const replyRoom = 8

/**
 * Refines the drafts of a file as their critiques ask, selects and imitates, and says what became of the losses: of what was
 * imitated and, where the file has refinements by people, of those of critiques that were held out.
 *
 * **Details**
 *
 * Critiques that leave no room in the model's context are left out, with a warning; nothing is cut. The model's chat template is
 * used where it has one.
 *
 * @category running
 * @since 0.1.0
 */
export const imitate = Effect.fn("IlfFiles.imitate")(function* (options: Options) {
  const {
    batchSize,
    directory,
    epochs,
    file,
    judging,
    learner,
    maxNewTokens,
    reference,
    refinements,
    resume,
    rows,
    seed,
    selector
  } = options
  const { tokenizer } = reference
  const { critiques: all, skipped } = yield* Critique.read(file, { empty: "skip" })
  if (skipped.length > 0) {
    yield* Effect.logWarning(
      `${file}: ${skipped.length} lines have an empty critique (${skipped.join(", ")}); left out`
    )
  }
  const chats = hasChatTemplate(tokenizer)
  const forms = chats ? Templates.conversation(Templates.answers) : Templates.text(Templates.answers)
  const taken = all.slice(0, rows)
  for (const [i, { prompt }] of taken.entries()) {
    const asked = tokenizer.prompt(prompt)
    if (Result.isSuccess(asked)) continue
    return yield* new CommonFlags.ExampleError({ message: `${file}: critique ${i + 1}: ${asked.failure.message}` })
  }
  const fits = roomFor(reference, forms.refinement, judging, maxNewTokens)
  const fitting = taken.filter(fits)
  if (fitting.length < taken.length) {
    const left = `${taken.length - fitting.length} of ${taken.length} critiques`
    const asked = judging.length > 0 ? ", or as its judge (another --selector needs less)" : ""
    const why = `they leave no room in the context of ${reference.contextLength} tokens for the model as refiner${asked}`
    yield* Effect.logWarning(`${file}: ${left} are left out, since ${why}`)
  }
  const learned = fitting.filter((_, i) => i % heldOut !== heldOut - 1)
  if (learned.length === 0) {
    return yield* new CommonFlags.ExampleError({ message: `${file}: has no critique that the model has room for` })
  }
  const [round] = yield* Ilf.train(
    { draft: reference, refine: reference, learner },
    {
      prompts: [learned],
      // The paper's post-processing is for one sentence; answers may be code, or have lines.
      refinements: { template: forms.refinement, sampling: { maxNewTokens }, postProcess: trimmedEnd },
      samples: refinements,
      examples: chats ? {} : { lead: " " },
      epochs,
      batchSize,
      seed,
      directory,
      resume
    }
  ).pipe(
    Effect.provideService(FeedbackSource.FeedbackSource, FeedbackSource.fromLabeller(file, {})),
    Effect.provideService(Selection.Selector, selector)
  )
  yield* Pretrained.save(learner.model, join(directory, "model"))

  const lead = chats ? "" : " "
  const examples = (of: ReadonlyArray<Demonstration.Demonstration>) =>
    Effect.fromResult(
      Sft.examples(
        tokenizer,
        of.map(({ completion, prompt }) => ({
          prompt,
          completion: /^\s/.test(completion) ? completion : lead + completion
        }))
      )
    )
  const imitated = round!.questions.flatMap(({ critique, refinements }, i) => {
    const choice = round!.selected[i]
    return choice === undefined ? [] : [{ prompt: critique.prompt, completion: refinements[choice.index]! }]
  })
  const byPeople = fitting.flatMap(({ prompt, refinement }, i) =>
    i % heldOut === heldOut - 1 && refinement !== undefined ? [{ prompt, completion: refinement }] : []
  )
  const sets = [
    { task: "selected refinements", of: yield* examples(imitated) },
    { task: "people's refinements, held out", of: yield* examples(byPeople) }
  ]
  const scores: Array<Score.Score> = []
  for (const { of, task } of sets) {
    const readable = of.filter(({ tokens }) => tokens.length <= reference.contextLength)
    if (readable.length < of.length) {
      yield* Effect.logWarning(`${task}: ${of.length - readable.length} of ${of.length} are longer than the context`)
    }
    if (readable.length === 0) continue
    for (const [system, policy] of [
      ["before", reference],
      ["after", learner.model]
    ] as const) {
      scores.push({ ...(yield* DeskScores.heldOut(system, policy, readable)), task, metric: "loss" })
    }
  }
  const counts = `${learned.length} critiques learned from, of ${all.length} read; ${round!.questions.length} have refinements`
  const sections: ReadonlyArray<Report.Section> = [
    { title: "Losses", text: `${counts}.`, blocks: [{ _tag: "Scores", scores }] },
    {
      title: "Refinements that were selected",
      blocks: [
        {
          _tag: "Samples",
          systems: ["draft", "critique", "selected refinement"],
          rows: round!.questions.slice(0, 8).flatMap(({ critique, refinements }, i) => {
            const choice = round!.selected[i]
            const outputs = [critique.completion, critique.critique, choice && refinements[choice.index]!]
            return [
              { prompt: Prompt.transcript(critique.prompt), outputs: outputs.map((text) => ({ text: text ?? "" })) }
            ]
          })
        }
      ]
    }
  ]
  return { counts, count: taken.length, scores, sections }
}, CommonFlags.failing)
