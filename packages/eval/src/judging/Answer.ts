/**
 * Texts as the answers that a reward model scores.
 *
 * @since 0.1.0
 */
import { Prompt, type RewardModel, type Tokenizer } from "@attune/core"

/**
 * What a reward model is given besides texts.
 *
 * **Details**
 *
 * `tokenizer`: that of a model which reads tokens, by default the one that the model names. Without one the model is given
 * texts, and no tokens. `endOfText`: the tokens of a completion end with the tokenizer's end-of-text token, where it has one:
 * models that were trained to score at that token read nothing meaningful elsewhere. Texts stay as they are. By default so
 * with the tokenizer that the model names, and not with one that is given.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly tokenizer?: Pick<Tokenizer.Tokenizer, "encode"> & Partial<Pick<Tokenizer.Tokenizer, "eosId">>
  readonly endOfText?: boolean
}

/**
 * The options, with the model's own tokenizer and ends of text where no tokenizer is given.
 *
 * @category constructors
 * @since 0.1.0
 */
export const given = <O extends Options>(
  { tokenizer }: Pick<RewardModel.RewardModelShape, "tokenizer">,
  options: O
): O | (O & { readonly tokenizer: Tokenizer.Tokenizer; readonly endOfText: boolean }) =>
  options.tokenizer !== undefined || tokenizer === undefined
    ? options
    : { ...options, tokenizer, endOfText: options.endOfText ?? true }

/**
 * Makes prompts and answers of texts.
 *
 * @category models
 * @since 0.1.0
 */
export interface Maker {
  readonly prompt: (text: string) => Prompt.Prompt
  readonly answer: (prompt: Prompt.Prompt, text: string) => RewardModel.Answer
}

/**
 * Tokens: of the prompt with the tokenizer's special tokens, of the completion without them, as a policy's rollout has
 * them, before its stop token unless `endOfText` is asked for. A completion that ends with that token gets no second one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const maker = ({ endOfText = false, tokenizer }: Options = {}): Maker => {
  const encode = tokenizer?.encode ?? (() => new Int32Array())
  const eosId = endOfText ? tokenizer?.eosId : undefined
  const completed = (tokens: Int32Array): Int32Array =>
    eosId === undefined || tokens.at(-1) === eosId ? tokens : Int32Array.from([...tokens, eosId])
  return {
    prompt: (text) => Prompt.make(text, encode(text)),
    answer: (prompt, text) => ({
      prompt,
      completion: { text, tokens: completed(encode(text, { addSpecialTokens: false })) }
    })
  }
}
