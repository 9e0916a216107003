/**
 * A policy that says what a script tells it, with a tokenizer of characters, for tests of what happens around sampling.
 */
import { Completion, type Policy, Prompt, type Sampler, Tokenizer } from "@attune/core"
import { Effect, Result, Stream } from "effect"

const endOfText = "<eos>"

/** One id for each UTF-16 unit, and 65536 for the end of a text. Messages are rendered as `role> content`. */
export const tokenizer: Tokenizer.Tokenizer = {
  ...Tokenizer.numeric(65537),
  eosId: 65536,
  stopIds: [65536],
  specialIds: new Set([65536]),
  encode: (text) => Int32Array.from({ length: text.length }, (_, i) => text.charCodeAt(i)),
  decode: (ids) => Array.from(ids, (id) => (id === 65536 ? "" : String.fromCharCode(id))).join(""),
  token: (id) => (id === 65536 ? endOfText : String.fromCharCode(id)),
  applyChatTemplate: (messages) =>
    messages.some(({ role }) => role === "nobody")
      ? Result.fail(new Tokenizer.TokenizerError({ file: "chat_template.jinja", reason: "knows no role nobody" }))
      : Result.succeed(`${messages.map(({ content, role }) => `${role}> ${content}\n`).join("")}assistant>`),
  prompt: (content) =>
    Result.map(typeof content === "string" ? Result.succeed(content) : tokenizer.applyChatTemplate(content), (text) =>
      Prompt.make(text, tokenizer.encode(text))
    )
}

/** One call of `sample`. */
export interface Call {
  readonly prompts: ReadonlyArray<string>
  readonly options: Sampler.SampleOptionsInput
}

/** Says what the script answers to a prompt and a row seed; each token has the log-prob -1/2. */
export const make = (
  says: (prompt: string, rowSeed: number) => string,
  contextLength = 1000
): Policy.PolicyShape & { readonly calls: ReadonlyArray<Call> } => {
  const calls: Array<Call> = []
  return {
    name: "scripted",
    tokenizer,
    vocabSize: 65537,
    contextLength,
    calls,
    stream: () => Stream.empty,
    logprobs: () => Effect.succeed([]),
    sample: (asked, options) =>
      Effect.sync(() => {
        const prompts = asked.map((prompt) => (typeof prompt === "string" ? prompt : prompt.text))
        calls.push({ prompts, options })
        return prompts.map((prompt, i) => {
          const text = says(prompt, options.rowSeeds![i]!)
          const tokens = tokenizer.encode(text)
          const logprobs = new Float32Array(tokens.length).fill(-0.5)
          return Completion.make({ tokens, logprobs, untemperedLogprobs: logprobs, text, finishReason: "stop" })
        })
      })
  }
}
