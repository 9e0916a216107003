// Two rounds that a test kills and starts again: node resume-child.ts DIRECTORY CALLS. Whoever is asked writes to the
// file CALLS what about.
import { appendFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { FeedbackSource, type Policy } from "@attune/core"
import { Effect, Layer } from "effect"
import * as Ilf from "../src/Ilf.ts"
import * as Selection from "../src/Selection.ts"
import * as scripted from "./scriptedPolicy.ts"
import { layer, learnerOf } from "./tinyLearner.ts"

const [directory, calls] = process.argv.slice(2) as [string, string]

const log = (kind: string, about: ReadonlyArray<string>) =>
  appendFileSync(calls, about.map((text) => `${kind} ${text}\n`).join(""))

// Slow enough to be killed while it answers.
const slow = (policy: Policy.PolicyShape, kind: string, about: (prompt: string) => string): Policy.PolicyShape => ({
  ...policy,
  sample: (prompts, options) =>
    Effect.suspend(() => {
      const asked = prompts.map((prompt) => about(typeof prompt === "string" ? prompt : prompt.text))
      log(kind, kind === "refinements" ? [...new Set(asked)] : asked)
      return Effect.delay(policy.sample(prompts, options), 40)
    })
})

const number = (prompt: string) => /Text: (\d+ \d+ \d+)/.exec(prompt)![1]!
const drafter = scripted.make((prompt) => `${prompt} 9`)
const refiner = scripted.make((prompt, seed) => `${number(prompt).split(" ")[0]} ${seed % 2 === 0 ? 7 : 8}`)
// Numbers up to 10, as the tokenizer has them.
const prompts = (of: number) =>
  Array.from({ length: 80 }, (_, i) => `${of + (i % 5)} ${1 + (Math.floor(i / 5) % 4)} ${1 + Math.floor(i / 20)}`)

const critic = FeedbackSource.fromLabeller("critic", {
  critique: ({ completion, prompt }) => {
    log("critique", [prompt as string])
    return Effect.as(Effect.sleep(1), `No 9 in ${completion}.`)
  }
})
const sevens = Selection.make("sevens", (questions) => {
  log(
    "scores",
    questions.map(({ critique }) => critique.prompt as string)
  )
  return questions.map(({ refinements }) => refinements.map((text) => (text.endsWith("7") ? 1 : 0)))
})

const program = Effect.gen(function* () {
  const learner = yield* learnerOf(0.01)
  yield* Ilf.train(
    { draft: slow(drafter, "draft", (prompt) => prompt), refine: slow(refiner, "refinements", number), learner },
    {
      prompts: [prompts(1), prompts(6)],
      refinements: { postProcess: (text) => text },
      drafts: { postProcess: (text) => text },
      epochs: 2,
      batchSize: 4,
      seed: 3,
      directory,
      resume: true,
      checkpointEvery: 3
    }
  ).pipe(Effect.provide(Layer.merge(Layer.succeed(FeedbackSource.FeedbackSource, critic), Selection.layer(sevens))))
  const { tensors } = yield* learner.state
  const weights = [...tensors["weights"]!].map(([name, { data }]) => [name, Array.from(data as Float32Array)])
  writeFileSync(join(directory, "weights.json"), JSON.stringify(weights))
}).pipe(Effect.scoped, Effect.provide(layer))

await Effect.runPromise(program)
