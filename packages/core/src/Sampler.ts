/**
 * Drawing completions from a model, whatever it runs on.
 *
 * @since 0.1.0
 */
import { Context, Effect, Schema, type Stream } from "effect"
import type { Completion } from "./Completion.ts"
import type { ModelError } from "./ModelError.ts"
import type { Prompt } from "./Prompt.ts"

const Positive = Schema.Finite.check(Schema.isGreaterThan(0))
const Count = Schema.Int.check(Schema.isGreaterThan(0))

/**
 * Settings of a sampling run; processors apply in the order repetition penalty, temperature, top-k, top-p, as in
 * Hugging Face's `generate`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const SampleOptions = Schema.Struct({
  /** Most tokens to draw for each prompt. */
  maxNewTokens: Count,
  /** Divides the logits, `> 0`; `0` means greedy: the most likely token, ties to the smallest id. Default 1. */
  temperature: Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0)).pipe(
    Schema.withDecodingDefaultKey(Effect.succeed(1))
  ),
  /** Keeps the `k` most likely tokens; `0`, the default, keeps all. */
  topK: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)).pipe(Schema.withDecodingDefaultKey(Effect.succeed(0))),
  /** Keeps the smallest set of most likely tokens whose probability reaches `topP`, in `(0, 1]`. Default 1. */
  topP: Positive.check(Schema.isLessThanOrEqualTo(1)).pipe(Schema.withDecodingDefaultKey(Effect.succeed(1))),
  /** Divides positive and multiplies negative logits of tokens already present, `> 0`; 1, the default, changes none. */
  repetitionPenalty: Positive.pipe(Schema.withDecodingDefaultKey(Effect.succeed(1))),
  /** Each row draws from its own stream, seeded by this and the prompt's place unless `rowSeeds` says otherwise. */
  seed: Schema.Int.pipe(Schema.withDecodingDefaultKey(Effect.succeed(0))),
  /** A seed for each prompt: the same prompt and seed give the same tokens whatever the batch around them. */
  rowSeeds: Schema.optionalKey(Schema.Array(Schema.Int)),
  /** Ids that end a completion, kept as its last token; default the tokenizer's `stopIds`. */
  stopTokens: Schema.optionalKey(Schema.Array(Schema.Int)),
  /** Texts that end a completion; the completion is cut before them. Default none. */
  stopStrings: Schema.Array(Schema.NonEmptyString).pipe(
    Schema.withDecodingDefaultKey(Effect.succeed([] as ReadonlyArray<string>))
  ),
  /** Most prompts in one batch; more are taken in turn. Default 128. */
  batchSize: Count.pipe(Schema.withDecodingDefaultKey(Effect.succeed(128)))
})

/**
 * Settings with every default filled in.
 *
 * @category models
 * @since 0.1.0
 */
export type SampleOptions = typeof SampleOptions.Type

/**
 * Settings as a caller writes them.
 *
 * @category models
 * @since 0.1.0
 */
export type SampleOptionsInput = typeof SampleOptions.Encoded

/**
 * A completion that has ended, and the index of its prompt.
 *
 * @category models
 * @since 0.1.0
 */
export interface Finished {
  readonly index: number
  readonly completion: Completion
}

/**
 * What draws completions. Prompts are texts, which are tokenized with the model's special tokens, or prompts already
 * tokenized. `sample` returns completions in the order of the prompts; `stream` emits each as its row finishes.
 *
 * @category models
 * @since 0.1.0
 */
export interface SamplerShape {
  readonly sample: (
    prompts: ReadonlyArray<string | Prompt>,
    options: SampleOptionsInput
  ) => Effect.Effect<ReadonlyArray<Completion>, ModelError>
  readonly stream: (
    prompts: ReadonlyArray<string | Prompt>,
    options: SampleOptionsInput
  ) => Stream.Stream<Finished, ModelError>
}

/**
 * Service for the model that completions are drawn from.
 *
 * @category services
 * @since 0.1.0
 */
export class Sampler extends Context.Service<Sampler, SamplerShape>()("@attune/core/Sampler") {}
