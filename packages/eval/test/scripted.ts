/**
 * A policy that says what a test tells it to: one token per character, log-probs and answers from functions of text.
 */
import { Completion, type Policy, Prompt, type Tokenizer } from "@attune/core"
import { Effect, Result, Stream } from "effect"

/** Ids 0 and 1 begin and end a text; the others are UTF-16 code units plus 2. */
export const tokenizer: Tokenizer.Tokenizer = {
  vocabSize: 65538,
  bosId: 0,
  eosId: 1,
  stopIds: [1],
  padId: 1,
  unkId: undefined,
  specialIds: new Set([0, 1]),
  files: new Map(),
  encode: (text, options) => {
    const ids = Array.from({ length: text.length }, (_, i) => text.charCodeAt(i) + 2)
    return Int32Array.from(options?.addSpecialTokens === false ? ids : [0, ...ids])
  },
  decode: (ids) =>
    Array.from(ids)
      .filter((id) => id > 1)
      .map((id) => String.fromCharCode(id - 2))
      .join(""),
  token: (id) => (id === 0 ? "<s>" : id === 1 ? "</s>" : String.fromCharCode(id - 2)),
  applyChatTemplate: (messages) => Result.succeed(messages.map(({ content }) => content).join("")),
  prompt: (content) => Result.succeed(Prompt.make(String(content), []))
}

export interface Script {
  /** Log-prob of the whole text after its context; default one nat per character. */
  readonly logprob?: (context: string, text: string) => number
  /** The answer to a prompt and its seed; default none. */
  readonly answer?: (prompt: string, seed: number) => string
  readonly contextLength?: number
}

export interface Asked {
  readonly prompts: ReadonlyArray<string>
  readonly options: Parameters<Policy.PolicyShape["sample"]>[1]
}

/** The policy, and what it was asked to sample. */
export const policy = ({
  answer = () => "",
  contextLength = 4096,
  logprob = (_, text) => -text.length
}: Script = {}): Policy.PolicyShape & { readonly asked: Array<Asked> } => {
  const asked: Array<Asked> = []
  return {
    name: "scripted",
    tokenizer,
    vocabSize: tokenizer.vocabSize,
    contextLength,
    asked,
    logprobs: (continuations) =>
      Effect.succeed(
        continuations.map(({ completion, prompt }) => {
          const result = new Float32Array(completion.length)
          result[0] = logprob(tokenizer.decode(prompt), tokenizer.decode(completion))
          return result
        })
      ),
    sample: (prompts, options) =>
      Effect.sync(() => {
        const texts = prompts.map((prompt) => (typeof prompt === "string" ? prompt : tokenizer.decode(prompt.tokens)))
        asked.push({ prompts: texts, options })
        return texts.map((text, i) => {
          const said = answer(text, options.rowSeeds?.[i] ?? 0).slice(0, options.maxNewTokens)
          const ends = (options.stopStrings ?? []).map((stop) => said.indexOf(stop)).filter((at) => at >= 0)
          const cut = ends.length === 0 ? said : said.slice(0, Math.min(...ends))
          const tokens = tokenizer.encode(cut, { addSpecialTokens: false })
          const logprobs = new Float32Array(tokens.length)
          return Completion.make({ text: cut, tokens, logprobs, untemperedLogprobs: logprobs, finishReason: "stop" })
        })
      }),
    stream: () => Stream.empty
  }
}
