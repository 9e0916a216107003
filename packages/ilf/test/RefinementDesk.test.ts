import { existsSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { type Critique, Progress } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { Device, OrtPolicy } from "@attune/core/ort"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path, PlatformError } from "effect"
import * as Refinement from "../src/Refinement.ts"
import type * as Templates from "../src/Templates.ts"

const model = join(import.meta.dirname, "../../../apps/examples/models/desk-base")
if (!existsSync(model)) process.stderr.write("skipped: apps/examples/models/desk-base is absent\n")

/** The form in which the model of the examples has seen refinements. */
const template: Templates.Template = {
  content: "Ticket: {context}\nDraft: {draft}\nCritique: {critique}\nRefinement:",
  completion: " {refinement}",
  stopStrings: ["\n"]
}

const critiques: ReadonlyArray<Critique.Critique> = [
  {
    prompt:
      "Ticket: Hello, I bought a kettle last week and it leaks. It rained all day. Please send me a new one.\nSummary:",
    completion: " Leaks; wants a new one. It rained.",
    critique: "Say which product it is."
  },
  {
    prompt: "Ticket: Hi, my lamp flickers since Monday. I want my money back. Thanks.\nSummary:",
    completion: " Lamp flickers. Hi.",
    critique: "Say what the customer wants."
  }
]
const context = (prompt: Critique.Critique["prompt"]) =>
  (prompt as string).slice("Ticket: ".length, -"\nSummary:".length)

// All that loading reads through the service are the tokenizer's files.
const files = FileSystem.layerNoop({
  readFile: (file) =>
    Effect.tryPromise({
      try: () => readFile(file),
      catch: () =>
        PlatformError.systemError({
          _tag: "NotFound",
          module: "FileSystem",
          method: "readFile",
          pathOrDescriptor: file
        })
    })
})

describe.runIf(existsSync(model))("the help-desk model", () => {
  it.effect("draws refinements that differ and follow the critique, the same ones whatever the batch", () =>
    Effect.gen(function* () {
      const policy = yield* OrtPolicy.make(yield* Pretrained.load(model))
      const options = { template, context, seed: 3, count: 4 }
      const all = yield* Refinement.sample(policy, critiques, options)
      // What each critique asked for is there: the product, and what the customer wants.
      for (const { text } of all[0]!) assert.include(text, "kettle")
      for (const { text } of all[1]!) assert.include(text, "wants")
      for (const candidates of all) {
        const texts = candidates.map(({ text }) => text)
        assert.strictEqual(new Set(texts).size, 4, texts.join(" | "))
        for (const { completion, logprob, text } of candidates) {
          assert.match(text, /^[\p{L}\p{N}].*[.?!]$/u)
          assert.isBelow(logprob, 0)
          assert.isAtMost(completion.tokens.length, 48)
        }
      }
      const alone = yield* Refinement.sample(policy, [critiques[1]!], { ...options, items: [1] })
      const told = (drawn: ReadonlyArray<Refinement.Candidate>) =>
        drawn.map(({ completion, seed, text }) => ({ seed, text, tokens: Array.from(completion.tokens) }))
      assert.deepStrictEqual(told(alone[0]!), told(all[1]!))
      const [[first] = []] = yield* Refinement.draft(policy, [critiques[0]!.prompt])
      assert.match(first!.text, /^[\p{L}\p{N}]/u)
    }).pipe(
      Effect.provide(
        Layer.mergeAll(
          Device.layerInProcess({ provider: "cpu", threads: 1 }),
          Progress.layer({ mode: "quiet" }),
          files,
          Path.layer
        )
      )
    )
  )
})
