/**
 * Language models, and the two roles that they play during alignment. No model runs here: see `ort/OrtPolicy.ts`.
 *
 * @since 0.1.0
 */
import { Context, type Effect } from "effect"
import type { ModelError } from "./ModelError.ts"
import type { SamplerShape } from "./Sampler.ts"
import type { Tokenizer } from "./Tokenizer.ts"

// What policies fail with; here too, so that inferred types of programs can name it.
export { ModelError } from "./ModelError.ts"

/**
 * A prompt and what followed it, as token ids.
 *
 * @category models
 * @since 0.1.0
 */
export interface Continuation {
  readonly prompt: ArrayLike<number>
  readonly completion: ArrayLike<number>
}

/**
 * How log-probs are asked for. `temperature`, above 0, divides the logits before the softmax, default 1.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogprobsOptions {
  readonly temperature?: number | undefined
}

/**
 * A language model that can be sampled and scored.
 *
 * **Details**
 *
 * `logprobs` returns for each continuation the log-probs `[T]`, in nats, of its completion's tokens given everything
 * before them. A prompt has at least one token. Fails when a sequence is longer than `contextLength`.
 *
 * @category models
 * @since 0.1.0
 */
export interface PolicyShape extends SamplerShape {
  /** For messages and reports: a directory or a repository. */
  readonly name: string
  readonly tokenizer: Tokenizer
  /** Number of token ids, `V`. */
  readonly vocabSize: number
  /** Longest sequence, in tokens. */
  readonly contextLength: number
  readonly logprobs: (
    continuations: ReadonlyArray<Continuation>,
    options?: LogprobsOptions
  ) => Effect.Effect<ReadonlyArray<Float32Array>, ModelError>
}

/**
 * Service for the model being trained.
 *
 * @category services
 * @since 0.1.0
 */
export class Policy extends Context.Service<Policy, PolicyShape>()("@attune/core/Policy") {}

/**
 * Service for the frozen model that the KL penalty is measured against.
 *
 * **Details**
 *
 * It has the shape of `Policy` and a key of its own, so a program that forgets the reference does not compile.
 *
 * @category services
 * @since 0.1.0
 */
export class Reference extends Context.Service<Reference, PolicyShape>()("@attune/core/Reference") {}
