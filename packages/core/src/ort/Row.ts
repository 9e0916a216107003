/**
 * One prompt on its way to a completion, as the samplers here keep it: what it has drawn, and where it ends.
 *
 * Not part of the public interface: programs see completions.
 *
 * @since 0.1.0
 */
import * as Completion from "../Completion.ts"
import * as NextToken from "../NextToken.ts"
import type { SampleOptions } from "../Sampler.ts"
import type { Tokenizer } from "../Tokenizer.ts"

/**
 * A row of a batch. `logprobs` and `untempered` go with `tokens`, which may run past the end of the completion.
 *
 * @category models
 * @since 0.1.0
 */
export interface Row {
  /** Place of the prompt among those of the call. */
  readonly index: number
  readonly prompt: Int32Array
  /** Most tokens to draw: what was asked for, or what is left of the context. */
  readonly limit: number
  /** Numbers in `[0, 1)` that depend on the row's seed alone. */
  readonly uniform: () => number
  readonly tokens: Array<number>
  readonly logprobs: Array<number>
  readonly untempered: Array<number>
  finished: Completion.Completion | undefined
}

/**
 * A row that has drawn nothing yet.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (index: number, prompt: Int32Array, contextLength: number, options: SampleOptions): Row => ({
  index,
  prompt,
  limit: Math.min(options.maxNewTokens, contextLength - prompt.length),
  uniform: NextToken.uniforms(options.rowSeeds?.[index] ?? NextToken.rowSeed(options.seed, index)),
  tokens: [],
  logprobs: [],
  untempered: [],
  finished: undefined
})

/**
 * Finishes a row where it ends: before the first stop string in its text, else after its first stop token, else at its
 * limit.
 *
 * **Details**
 *
 * The text ends exactly where the stop string begins; the tokens are those that lie before it as a whole, so that they
 * never say more than the text.
 *
 * @category running
 * @since 0.1.0
 */
export const settle = (
  row: Row,
  tokenizer: Tokenizer,
  { stopStrings, stopTokens = tokenizer.stopIds }: Pick<SampleOptions, "stopStrings" | "stopTokens">
): void => {
  const { limit, logprobs, tokens, untempered } = row
  const stop = tokens.findIndex((id) => stopTokens.includes(id))
  const stopped = stop >= 0 && stop < limit
  const over = stopped || tokens.length >= limit
  if (!over && stopStrings.length === 0) return
  const drawn = tokens.slice(0, stopped ? stop + 1 : limit)
  const text = tokenizer.decode(drawn)
  const starts = stopStrings.map((string) => text.indexOf(string)).filter((start) => start >= 0)
  const cut = starts.length === 0 ? undefined : text.slice(0, Math.min(...starts))
  if (cut === undefined && !over) return
  const count = cut === undefined ? drawn.length : countWithin(tokenizer, drawn, cut)
  row.finished = Completion.make({
    tokens: Int32Array.from(drawn.slice(0, count)),
    logprobs: Float32Array.from(logprobs.slice(0, count)),
    untemperedLogprobs: Float32Array.from(untempered.slice(0, count)),
    text: cut ?? text,
    finishReason: cut !== undefined || stopped ? "stop" : "length"
  })
}

/** How many of the tokens say no more than `text`, those at the end that say nothing left out. */
const countWithin = (tokenizer: Tokenizer, tokens: ReadonlyArray<number>, text: string): number => {
  const textOf = (count: number) => tokenizer.decode(tokens.slice(0, count))
  let count = tokens.length
  // Not by length: the first bytes of a character are shown as characters of their own until the last one comes.
  while (count > 0 && !text.startsWith(textOf(count))) count--
  while (count > 0 && textOf(count - 1) === textOf(count)) count--
  return count
}
