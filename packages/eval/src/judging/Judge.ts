/**
 * Judges: who says which of two answers is better, or whether an answer does what was asked.
 *
 * @since 0.1.0
 */
import { type PromptTemplate, UserFunction } from "@attune/core"
import { Context, Effect, Layer, Result, Schema } from "effect"

/**
 * A judge could not answer: its answer is outside its schema, a score is not finite, or it is out of reach.
 *
 * @category errors
 * @since 0.1.0
 */
export class JudgeError extends Schema.TaggedError<JudgeError>()("JudgeError", {
  judge: Schema.String,
  /** Id of the comparison or question at fault, where it is one's. */
  item: Schema.optionalKey(Schema.String),
  reason: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const place = this.item === undefined ? "" : `, item ${JSON.stringify(this.item)}`
    return `judge ${this.judge}${place}: ${this.reason}`
  }
}

/**
 * Two answers to one prompt, in the order in which the judge sees them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Comparison {
  readonly id: string
  readonly prompt: string
  readonly first: string
  readonly second: string
}

/**
 * Places of a prompt template where two answers are compared.
 *
 * @category constants
 * @since 0.1.0
 */
export const comparisonPlaces: PromptTemplate.Places = {
  known: ["prompt", "first", "second"],
  needed: ["first", "second"]
}

/**
 * Places of a prompt template where one answer is asked about.
 *
 * @category constants
 * @since 0.1.0
 */
export const questionPlaces: PromptTemplate.Places = {
  known: ["prompt", "completion", "question"],
  needed: ["completion"]
}

/**
 * Which answer of a comparison is better.
 *
 * @category models
 * @since 0.1.0
 */
export type Preference = "first" | "second" | "tie"

/**
 * Compares answers. Preferences come one per comparison and in their order.
 *
 * @category models
 * @since 0.1.0
 */
export interface JudgeShape {
  /** For messages and reports. */
  readonly name: string
  readonly compare: (comparisons: ReadonlyArray<Comparison>) => Effect.Effect<ReadonlyArray<Preference>, JudgeError>
}

/**
 * Compares answers.
 *
 * @category services
 * @since 0.1.0
 */
export class Judge extends Context.Service<Judge, JudgeShape>()("@attune/eval/Judge") {}

/**
 * A yes-or-no question about an answer: does it follow the instruction, is it harmful, is the point incorporated.
 *
 * @category models
 * @since 0.1.0
 */
export interface Question {
  readonly id: string
  readonly prompt: string
  readonly completion: string
  readonly question: string
}

/**
 * Answers yes-or-no questions with the probability of Yes in `[0, 1]`, `p(Yes) / (p(Yes) + p(No))`; 0 or 1 from graders
 * that are certain. One per question, in their order.
 *
 * @category models
 * @since 0.1.0
 */
export interface GraderShape {
  /** For messages and reports. */
  readonly name: string
  readonly grade: (questions: ReadonlyArray<Question>) => Effect.Effect<ReadonlyArray<number>, JudgeError>
}

/**
 * Answers yes-or-no questions.
 *
 * @category services
 * @since 0.1.0
 */
export class Grader extends Context.Service<Grader, GraderShape>()("@attune/eval/Grader") {}

// What a judge answered may come from a user's function or from a network: its type is a hope until it is checked.
const checkedAll = <I extends { readonly id: string }, A>(
  judge: string,
  items: ReadonlyArray<I>,
  answers: ArrayLike<unknown>,
  check: (judge: string, item: string, answer: unknown) => Result.Result<A, JudgeError>
): Result.Result<ReadonlyArray<A>, JudgeError> => {
  if (typeof answers?.length !== "number" || typeof answers === "string") {
    return Result.fail(new JudgeError({ judge, reason: `gave ${shown(answers)} instead of a list of answers` }))
  }
  return answers.length === items.length
    ? Result.all(items.map(({ id }, i) => check(judge, id, answers[i])))
    : Result.fail(
        new JudgeError({
          judge,
          reason: `gave ${answers.length} answers to ${items.length} questions`,
          // The first that has none.
          ...(answers.length < items.length ? { item: items[answers.length]!.id } : {})
        })
      )
}

const shown = (answer: unknown): string => {
  const text = typeof answer === "string" ? JSON.stringify(answer) : String(answer)
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}

/**
 * The answer to a comparison, if it is one.
 *
 * @category decoding
 * @since 0.1.0
 */
export const checkedPreference = (
  judge: string,
  item: string,
  answer: unknown
): Result.Result<Preference, JudgeError> =>
  answer === "first" || answer === "second" || answer === "tie"
    ? Result.succeed(answer)
    : Result.fail(
        new JudgeError({ judge, item, reason: `answered ${shown(answer)}; expected "first", "second" or "tie"` })
      )

/**
 * The answers to comparisons, if there is one for each and all are preferences.
 *
 * @category decoding
 * @since 0.1.0
 */
export const checkedPreferences = (
  judge: string,
  comparisons: ReadonlyArray<{ readonly id: string }>,
  answers: ArrayLike<unknown>
): Result.Result<ReadonlyArray<Preference>, JudgeError> => checkedAll(judge, comparisons, answers, checkedPreference)

/**
 * Asks a judge and checks what it answers: whoever uses a judge that another made asks through here.
 *
 * @category running
 * @since 0.1.0
 */
export const ask: (
  judge: JudgeShape,
  comparisons: ReadonlyArray<Comparison>
) => Effect.Effect<ReadonlyArray<Preference>, JudgeError> = Effect.fn("Judge.ask")(function* (judge, comparisons) {
  const answers = yield* judge.compare(comparisons)
  return yield* Effect.fromResult(checkedPreferences(judge.name, comparisons, answers))
})

/**
 * The probability of Yes, if it is one: a number in `[0, 1]`, where `true` is 1 and `false` is 0.
 *
 * @category decoding
 * @since 0.1.0
 */
export const checkedProbability = (judge: string, item: string, answer: unknown): Result.Result<number, JudgeError> => {
  if (typeof answer === "boolean") return Result.succeed(answer ? 1 : 0)
  return typeof answer === "number" && answer >= 0 && answer <= 1
    ? Result.succeed(answer)
    : Result.fail(
        new JudgeError({ judge, item, reason: `answered ${shown(answer)}; expected a probability between 0 and 1` })
      )
}

/**
 * The probabilities of Yes, if there is one for each question and all lie in `[0, 1]`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const checkedProbabilities = (
  judge: string,
  questions: ReadonlyArray<{ readonly id: string }>,
  answers: ArrayLike<unknown>
): Result.Result<ReadonlyArray<number>, JudgeError> => checkedAll(judge, questions, answers, checkedProbability)

/**
 * Asks a grader and checks what it answers, as {@link ask} does of a judge.
 *
 * @category running
 * @since 0.1.0
 */
export const grade: (
  grader: GraderShape,
  questions: ReadonlyArray<Question>
) => Effect.Effect<ReadonlyArray<number>, JudgeError> = Effect.fn("Judge.grade")(function* (grader, questions) {
  const answers = yield* grader.grade(questions)
  return yield* Effect.fromResult(checkedProbabilities(grader.name, questions, answers))
})

const checkedScore = (judge: string, item: string, answer: unknown): Result.Result<number, JudgeError> =>
  typeof answer === "number" && Number.isFinite(answer)
    ? Result.succeed(answer)
    : Result.fail(new JudgeError({ judge, item, reason: `scored ${shown(answer)}; a score must be a finite number` }))

/**
 * Preferences by scores, of which there are two per comparison: the higher one wins, and where they differ by no more
 * than `margin` it is a tie; so are two equal texts, whatever rounding made of their scores. Fails where a score is
 * missing or not finite.
 *
 * **Details**
 *
 * Shapes: `scores` `[2 B]`, first and second answer of each comparison in turn. Margin 0 leaves equal scores as ties.
 *
 * @category decoding
 * @since 0.1.0
 */
export const byScore = (
  judge: string,
  comparisons: ReadonlyArray<Comparison>,
  scores: ArrayLike<unknown>,
  margin = 0
): Result.Result<ReadonlyArray<Preference>, JudgeError> =>
  Result.map(
    checkedAll(
      judge,
      comparisons.flatMap((comparison) => [comparison, comparison]),
      scores,
      checkedScore
    ),
    (checked) =>
      comparisons.map(({ first, second }, i) => {
        const difference = checked[2 * i]! - checked[2 * i + 1]!
        return first === second || Math.abs(difference) <= margin ? "tie" : difference > 0 ? "first" : "second"
      })
  )

/**
 * The margin of a judge by scores, if it can be one. Throws otherwise.
 *
 * @category decoding
 * @since 0.1.0
 */
export const checkedMargin = (margin = 0): number => {
  if (Number.isFinite(margin) && margin >= 0) return margin
  throw new RangeError(`a margin is a finite number of at least 0, got ${margin}`)
}

const failed =
  (judge: string, item: string) =>
  (cause: unknown): JudgeError =>
    new JudgeError({ judge, item, reason: cause instanceof Error ? cause.message : String(cause), cause })

/**
 * How many items a function judges at a time, 1 unless given: raise it for one that waits for a network.
 *
 * @category models
 * @since 0.1.0
 */
export interface FunctionOptions {
  readonly concurrency?: number
}

/**
 * Makes a judge of a function of one comparison, which may return a preference, a promise or an effect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromFunction = (
  name: string,
  compare: (comparison: Comparison) => UserFunction.Returned<Preference>,
  options?: FunctionOptions
): JudgeShape => ({
  name,
  compare: Effect.fn("Judge.compare")(function* (comparisons) {
    const answers = yield* Effect.forEach(
      comparisons,
      (comparison) => UserFunction.call(() => compare(comparison)).pipe(Effect.mapError(failed(name, comparison.id))),
      { concurrency: options?.concurrency ?? 1 }
    )
    return yield* Effect.fromResult(checkedPreferences(name, comparisons, answers))
  })
})

/**
 * An answer to score.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer {
  /** Id of the comparison that it stands in. */
  readonly id: string
  readonly prompt: string
  readonly completion: string
}

/**
 * Makes a judge of a function that scores one answer: the higher score wins, and scores that differ by no more than
 * `margin`, 0 unless given, are a tie. Throws where the margin is negative or not finite.
 *
 * **Example** (Preferring short answers)
 *
 * ```ts
 * import { Judge } from "@attune/eval"
 *
 * const brevity = Judge.fromScore("brevity", ({ completion }) => -completion.length)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromScore = (
  name: string,
  score: (answer: Answer) => UserFunction.Returned<number>,
  options?: FunctionOptions & { readonly margin?: number }
): JudgeShape => {
  const margin = checkedMargin(options?.margin)
  return {
    name,
    compare: Effect.fn("Judge.compare")(function* (comparisons) {
      const scores = yield* Effect.forEach(
        comparisons.flatMap(({ first, id, prompt, second }) => [
          { id, prompt, completion: first },
          { id, prompt, completion: second }
        ]),
        (answer) => UserFunction.call(() => score(answer)).pipe(Effect.mapError(failed(name, answer.id))),
        { concurrency: options?.concurrency ?? 1 }
      )
      return yield* Effect.fromResult(byScore(name, comparisons, scores, margin))
    })
  }
}

/**
 * Makes a grader of a function of one question, which may return a probability or a boolean, a promise or an effect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const graderFromFunction = (
  name: string,
  grade: (question: Question) => UserFunction.Returned<number | boolean>,
  options?: FunctionOptions
): GraderShape => ({
  name,
  grade: Effect.fn("Grader.grade")(function* (questions) {
    const answers = yield* Effect.forEach(
      questions,
      (question) => UserFunction.call(() => grade(question)).pipe(Effect.mapError(failed(name, question.id))),
      { concurrency: options?.concurrency ?? 1 }
    )
    return yield* Effect.fromResult(checkedProbabilities(name, questions, answers))
  })
})

/**
 * Layer with a judge made of a function of one comparison.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFunction = (...args: Parameters<typeof fromFunction>): Layer.Layer<Judge> =>
  Layer.succeed(Judge, fromFunction(...args))

/**
 * Layer with a judge made of a function that scores one answer.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerScore = (...args: Parameters<typeof fromScore>): Layer.Layer<Judge> =>
  Layer.succeed(Judge, fromScore(...args))

/**
 * Layer with a grader made of a function of one question.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerGraderFunction = (...args: Parameters<typeof graderFromFunction>): Layer.Layer<Grader> =>
  Layer.succeed(Grader, graderFromFunction(...args))
