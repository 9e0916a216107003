/**
 * Questions with given answers: which answer does the model find most likely?
 *
 * @since 0.1.0
 */
import type { ModelError, Policy } from "@attune/core"
import { Effect, Result, Schema } from "effect"
import * as Sample from "../Sample.ts"
import * as Score from "../Score.ts"
import * as Loglikelihood from "../text/Loglikelihood.ts"

/**
 * An item that cannot be scored.
 *
 * @category errors
 * @since 0.1.0
 */
export class MultipleChoiceError extends Schema.TaggedError<MultipleChoiceError>()("MultipleChoiceError", {
  task: Schema.String,
  /** Id of the item at fault, where it is one's. */
  item: Schema.optionalKey(Schema.String),
  reason: Schema.String
}) {
  override get message(): string {
    const place = this.item === undefined ? "" : `, item ${JSON.stringify(this.item)}`
    return `${this.task}${place}: ${this.reason}`
  }
}

/**
 * A question. What is scored is `delimiter + choice` after `context`; the delimiter does not count towards the length of
 * a choice.
 *
 * @category models
 * @since 0.1.0
 */
export interface Item {
  readonly id: string
  /** May be empty: then the choices stand alone. */
  readonly context: string
  /** At least two. An empty one, as TruthfulQA has, is scored by its delimiter, and never chosen by length. */
  readonly choices: ReadonlyArray<string>
  /** Index of the right choice, or of all that are right. */
  readonly gold: number | ReadonlyArray<number>
  /** Default one space. */
  readonly delimiter?: string | undefined
  /** Group of items that depend on each other, such as the questions about one text. */
  readonly cluster?: string | undefined
}

/**
 * What the model made of an item, all arrays in the order of its choices.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer {
  readonly id: string
  readonly cluster?: string | undefined
  /** Indices of the right choices. */
  readonly gold: ReadonlyArray<number>
  /** Log-probs of the choices `[C]` given the context, summed over their tokens, in nats. */
  readonly logprobs: Float64Array
  /** Tokens that were scored `[C]`. */
  readonly tokens: ReadonlyArray<number>
  /** Length of the choices without delimiter `[C]`, in Unicode code points and in UTF-8 bytes. */
  readonly characters: ReadonlyArray<number>
  readonly bytes: ReadonlyArray<number>
  /** Most tokens that were cut from the left of the context so that a choice fits the model; 0 where all did. */
  readonly truncated: number
  /** Whether the tokenizer merges across the end of the context: see {@link Loglikelihood.encoder}. */
  readonly crosses: boolean
}

/**
 * Settings of scoring.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Name of the task, for messages and progress. Default `multiple choice`. */
  readonly task?: string | undefined
}

const bytes = new TextEncoder()

const goldOf = ({ gold }: Item): ReadonlyArray<number> => (typeof gold === "number" ? [gold] : gold)

// Why an item cannot be scored, if it cannot.
const fault = (item: Item): string | undefined => {
  const { choices, id } = item
  if (id === "") return "the id is empty"
  if (choices.length < 2) return `there are ${choices.length} choices; a question needs two or more`
  const gold = goldOf(item)
  if (gold.length === 0) return "no choice is marked as right"
  const outside = gold.find((index) => !Number.isInteger(index) || index < 0 || index >= choices.length)
  return outside === undefined
    ? undefined
    : `the right choice is ${outside}; the choices are numbered from 0 to ${choices.length - 1}`
}

/**
 * Scores every choice of every item; answers come in the order of the items.
 *
 * **Details**
 *
 * Texts become tokens as in the LM evaluation harness: {@link Loglikelihood.encoder}. Fails where there are no items, an id
 * stands twice, an item is out of shape, a choice does not fit the model, or a log-prob is not finite.
 *
 * @category running
 * @since 0.1.0
 */
export const score: (
  policy: Policy.PolicyShape,
  items: ReadonlyArray<Item>,
  options?: Options
) => Effect.Effect<ReadonlyArray<Answer>, MultipleChoiceError | ModelError.ModelError> = Effect.fn(
  "MultipleChoice.score"
)(function* (policy, items, options = {}) {
  const { task = "multiple choice" } = options
  const fail = (reason: string, item?: string) =>
    new MultipleChoiceError({ task, reason, ...(item === undefined ? {} : { item }) })
  if (items.length === 0) return yield* fail("there are no items")
  const seen = new Set<string>()
  for (const item of items) {
    const reason = seen.has(item.id) ? "the id stands twice; give each item its own" : fault(item)
    if (reason !== undefined) return yield* fail(reason, item.id)
    seen.add(item.id)
  }

  const encode = Loglikelihood.encoder(policy)
  const encoded: Array<ReadonlyArray<Loglikelihood.Encoded>> = []
  const read = ({ choices, context, delimiter = " ", id }: Item) =>
    Result.all(
      choices.map((choice, c) =>
        Result.mapError(encode({ context, continuation: delimiter + choice }), (reason) =>
          fail(`choice ${c} cannot be scored: ${reason}`, id)
        )
      )
    )
  // A token is a byte or more: of short choices it is known that they fit, of others before anything is scored.
  const room = policy.contextLength - 1
  for (const item of items) {
    const { choices, delimiter = " " } = item
    if (choices.some((choice) => bytes.encode(delimiter + choice).length > room)) yield* Effect.fromResult(read(item))
  }
  const scored = yield* Loglikelihood.logprobs(
    policy,
    items.length,
    (i) => Result.map(read(items[i]!), (continuations) => (encoded[i] = continuations)),
    { label: task }
  )
  const answers: Array<Answer> = []
  for (const [i, item] of items.entries()) {
    const { choices, cluster, id } = item
    const logprobs = Float64Array.from(scored[i]!, (ofTokens) => ofTokens.reduce((sum, x) => sum + x, 0))
    const bad = logprobs.findIndex((x) => !Number.isFinite(x))
    if (bad >= 0) {
      return yield* fail(`the log-prob of choice ${bad} is ${logprobs[bad]}; check the weights of ${policy.name}`, id)
    }
    answers.push({
      id,
      gold: goldOf(item),
      logprobs,
      tokens: encoded[i]!.map(({ completion }) => completion.length),
      characters: choices.map((choice) => Array.from(choice).length),
      bytes: choices.map((choice) => bytes.encode(choice).length),
      truncated: encoded[i]!.reduce((most, { truncated }) => Math.max(most, truncated), 0),
      crosses: encoded[i]!.some(({ crosses }) => crosses),
      ...(cluster === undefined ? {} : { cluster })
    })
  }
  return answers
})

/**
 * Ways to choose the answer, named as in the LM evaluation harness where it has them: by the largest log-prob (`acc`),
 * log-prob per character (`acc_norm`), per UTF-8 byte (`acc_bytes`), or per token (`acc_token_norm`; InstructGPT,
 * arXiv:2203.02155, appendix D, not in the harness).
 *
 * @category models
 * @since 0.1.0
 */
export type Metric = "acc" | "acc_norm" | "acc_bytes" | "acc_token_norm"

const largest = (values: ArrayLike<number>): number => {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}

/**
 * Index of the choice that the model takes; of equally good ones the first.
 *
 * @category math
 * @since 0.1.0
 */
export const chosen = ({ bytes, characters, logprobs, tokens }: Answer, metric: Metric): number => {
  if (metric === "acc") return largest(logprobs)
  const lengths = metric === "acc_norm" ? characters : metric === "acc_bytes" ? bytes : tokens
  // 0 / 0 is no number and would hide the choices behind it.
  return largest(logprobs.map((logprob, c) => (lengths[c] === 0 ? -Infinity : logprob / lengths[c]!)))
}

/**
 * Probability of the right choices when the probabilities of all choices are made to sum to 1: `acc` of the harness's
 * `truthfulqa_mc2`.
 *
 * @category math
 * @since 0.1.0
 */
export const rightMass = ({ gold, logprobs }: Answer): number => {
  const most = logprobs[largest(logprobs)]!
  const weights = logprobs.map((logprob) => Math.exp(logprob - most))
  const right = new Set(gold)
  const sum = (keep: (c: number) => boolean) => weights.reduce((total, w, c) => (keep(c) ? total + w : total), 0)
  return sum((c) => right.has(c)) / sum(() => true)
}

/**
 * How many items were cut to fit the model, and how many have a tokenizer's merge across the end of their context.
 *
 * @category math
 * @since 0.1.0
 */
export const notes = (answers: ReadonlyArray<Answer>): { readonly truncated: number; readonly crossing: number } => ({
  truncated: answers.filter(({ truncated }) => truncated > 0).length,
  crossing: answers.filter(({ crosses }) => crosses).length
})

/**
 * One value per answer as a sample, for estimates and for pairing with another system's. Throws where there are none.
 *
 * @category constructors
 * @since 0.1.0
 */
export const sample = <A extends { readonly id: string; readonly cluster?: string | undefined }>(
  name: string,
  answers: ReadonlyArray<A>,
  value: (answer: A) => number
): Sample.Sample =>
  Result.getOrThrow(
    Sample.make(
      name,
      answers.map((answer) => ({
        id: answer.id,
        value: value(answer),
        ...(answer.cluster === undefined ? {} : { cluster: answer.cluster })
      }))
    )
  )

/**
 * Accuracies: the share of items whose chosen answer is right.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scores = (
  answers: ReadonlyArray<Answer>,
  options: {
    readonly system: string
    readonly task: string
    /** Default `acc` and `acc_norm`. */
    readonly metrics?: ReadonlyArray<Metric> | undefined
  }
): ReadonlyArray<Score.Score> => {
  const { metrics = ["acc", "acc_norm"], system, task } = options
  return metrics.map((metric) =>
    Score.rate(
      { system, task, metric, unit: "share", higherIsBetter: true },
      sample(system, answers, (answer) => (answer.gold.includes(chosen(answer, metric)) ? 1 : 0))
    )
  )
}
