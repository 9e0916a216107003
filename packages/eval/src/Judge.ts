/**
 * Judges: who says which of two answers is better, or whether an answer does what was asked.
 *
 * @since 0.1.0
 */
import { Context, type Effect, Schema } from "effect"

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
