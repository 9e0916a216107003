/**
 * Judges made of reward models: the answer with the higher score wins.
 *
 * @since 0.1.0
 */
import { RewardModel } from "@attune/core"
import { Effect, Layer } from "effect"
import * as Answer from "./Answer.ts"
import * as Judge from "./Judge.ts"

/**
 * Settings of a judge by reward.
 *
 * **Details**
 *
 * `margin`: scores that differ by no more than this are a tie; 0, the default, leaves equal scores as ties.
 * `tokenizer`: that of a reward model which reads tokens, by default the one that the model names. Without one the model is
 * given texts, and no tokens. `endOfText`: answers' tokens end with the tokenizer's end-of-text token, where trained reward
 * models read the score; by default so with the tokenizer that the model names.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Answer.Options {
  readonly margin?: number
}

/**
 * Makes a judge of a reward model. Both answers of all comparisons are scored in one call. Throws where the margin is
 * negative or not finite.
 *
 * **Details**
 *
 * Tokens: of the prompt with the tokenizer's special tokens, of the answer without them, as a policy's rollout has them
 * before its stop token; with that token where `endOfText` says so.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (model: RewardModel.RewardModelShape, options: Options = {}): Judge.JudgeShape => {
  const margin = Judge.checkedMargin(options.margin)
  const { answer, prompt: promptOf } = Answer.maker(Answer.given(model, options))
  const { name } = model
  return {
    name,
    compare: Effect.fn("RewardJudge.compare")(function* (comparisons) {
      const answers = comparisons.flatMap(({ first, prompt: text, second }) => {
        const prompt = promptOf(text)
        return [answer(prompt, first), answer(prompt, second)]
      })
      const scores = yield* model.score(answers).pipe(
        Effect.mapError((cause) => {
          // Two answers to a comparison.
          const item = cause.answer === undefined ? undefined : comparisons[Math.floor(cause.answer / 2)]?.id
          return new Judge.JudgeError({
            judge: name,
            reason: cause.reason,
            cause,
            ...(item === undefined ? {} : { item })
          })
        })
      )
      return yield* Effect.fromResult(Judge.byScore(name, comparisons, scores, margin))
    })
  }
}

/**
 * Layer with a judge made of the reward model.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Judge.Judge, never, RewardModel.RewardModel> =>
  Layer.effect(
    Judge.Judge,
    Effect.map(RewardModel.RewardModel, (model) => make(model, options))
  )
