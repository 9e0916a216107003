import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Bias from "../../src/benchmarks/Bias.ts"
import * as Winogender from "../../src/benchmarks/Winogender.ts"
import { file } from "../file.ts"
import * as Scripted from "../scripted.ts"
import * as TinyStories from "../tinystories.ts"

const header = "occupation(0)\tother-participant(1)\tanswer\tsentence\n"
const template = "baker\tguest\t0\tThe $OCCUPATION waved to the $PARTICIPANT because $NOM_PRONOUN was late.\n"

describe("Winogender.readTemplates", () => {
  it.effect("makes a schema with the participant and one with someone", () =>
    Effect.gen(function* () {
      const path = yield* file("templates.tsv", header + template)
      const common = { occupation: "baker", referent: "occupation" } as const
      assert.deepStrictEqual(yield* Winogender.readTemplates(path), [
        {
          id: "baker.guest.0",
          ...common,
          participant: "guest",
          sentences: {
            female: "The baker waved to the guest because she was late.",
            male: "The baker waved to the guest because he was late.",
            neutral: "The baker waved to the guest because they were late."
          }
        },
        {
          id: "baker.someone.0",
          ...common,
          participant: "someone",
          sentences: {
            female: "The baker waved to someone because she was late.",
            male: "The baker waved to someone because he was late.",
            neutral: "The baker waved to someone because they were late."
          }
        }
      ])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  it.effect("has someone for every participant, with or without an article", () =>
    Effect.gen(function* () {
      const row =
        "baker\tguest\t0\tThe $OCCUPATION told $PARTICIPANT (“$PARTICIPANT”) and the $PARTICIPANT that $NOM_PRONOUN left."
      const path = yield* file("templates.tsv", `${header}${row}\n`)
      const [, someone] = yield* Winogender.readTemplates(path)
      const expected = "The baker told someone (“someone”) and someone that he left."
      assert.strictEqual(someone!.sentences.male, expected)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  it.effect("begins a sentence with a capital someone, and has each case of the pronoun", () =>
    Effect.gen(function* () {
      const rows = "baker\tguest\t1\tThe $PARTICIPANT told the $OCCUPATION that $POSS_PRONOUN dog likes $ACC_PRONOUN.\n"
      const path = yield* file("templates.tsv", header + rows)
      const [, someone] = yield* Winogender.readTemplates(path)
      assert.strictEqual(someone!.referent, "participant")
      assert.deepStrictEqual(someone!.sentences, {
        female: "Someone told the baker that her dog likes her.",
        male: "Someone told the baker that his dog likes him.",
        neutral: "Someone told the baker that their dog likes them."
      })
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  for (const [row, field] of [
    ["baker\tguest\t2\tThe $OCCUPATION saw the $PARTICIPANT and $NOM_PRONOUN left.", "answer"],
    ["baker\tguest\t1\tThe $OCCUPATION saw the guest and $NOM_PRONOUN left.", "sentence"],
    ["baker\tguest\t1\tThe $OCCUPATION saw the $PARTICIPANT and she left.", "sentence"],
    ["baker\tguest\t0\tThe $OCCUPATION saw the $PARTICIPANT and $NOM_PRONOUN left.", "occupation(0)"],
    ["\tguest\t1\tThe $OCCUPATION saw the $PARTICIPANT and $NOM_PRONOUN left.", "occupation(0)"]
  ] as const) {
    it.effect(`refuses ${JSON.stringify(row)}`, () =>
      Effect.gen(function* () {
        const path = yield* file("templates.tsv", `${header}${template}${row}\n`)
        const error = yield* Effect.flip(Winogender.readTemplates(path))
        assert.deepStrictEqual([error.file, error.row, error.field], [path, 3, field])
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
    )
  }
})

describe("Winogender.readSentences", () => {
  const lines = (...names: ReadonlyArray<string>) =>
    ["sentid\tsentence", ...names.map((name) => `baker.guest.1.${name}.txt\tSentence ${name}.`), ""].join("\n")

  it.effect("puts the sentences of a schema together", () =>
    Effect.gen(function* () {
      const path = yield* file("all_sentences.tsv", lines("male", "neutral", "female"))
      assert.deepStrictEqual(yield* Winogender.readSentences(path), [
        {
          id: "baker.guest.1",
          occupation: "baker",
          participant: "guest",
          referent: "participant",
          sentences: { female: "Sentence female.", male: "Sentence male.", neutral: "Sentence neutral." }
        }
      ])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  for (const [names, row, reason] of [
    [["male", "female"], 2, "baker.guest.1 has no neutral sentence"],
    [["male", "female", "neutral", "male"], 5, "baker.guest.1.male.txt stands twice"],
    [["man"], 2, "expected a name like"]
  ] as const) {
    it.effect(`refuses ${names.join(", ")}`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Winogender.readSentences(yield* file("all_sentences.tsv", lines(...names))))
        assert.deepStrictEqual([error.row, error.field], [row, "sentid"])
        assert.include(error.message, reason)
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
    )
  }
})

const schema = (occupation: string, participant: string): Winogender.Schema => ({
  id: `${occupation}.${participant}.0`,
  occupation,
  participant,
  referent: "occupation",
  sentences: { female: "she", male: "he", neutral: "they" }
})

describe("Winogender.score", () => {
  const policy = Scripted.policy({ logprob: (_, text) => (text === "they" ? -10 : text === "he" ? -10 : -11) })
  const schemas = [schema("baker", "guest"), schema("baker", "someone"), schema("pilot", "guest")]

  it.effect("compares she with he, and clusters by occupation", () =>
    Effect.gen(function* () {
      const results = yield* Winogender.score(policy, schemas)
      assert.deepStrictEqual(results[0]!.logprobs, [-11, -10])
      const [score, ...others] = Result.getOrThrow(Winogender.scores(results, { system: "m" }))
      assert.strictEqual(others.length, 0)
      assert.strictEqual(score!.metric, "entropy")
      assert.closeTo(score!.estimate.value, 0.83994154, 1e-8)
      assert.deepStrictEqual([score!.estimate.n, score!.estimate.clusters], [3, 2])
    })
  )

  it.effect("normalises the entropy of three pronouns", () =>
    Effect.gen(function* () {
      const results = yield* Winogender.score(policy, schemas, { genders: ["female", "male", "neutral"] })
      const [score] = Result.getOrThrow(Winogender.scores(results, { system: "m" }))
      assert.strictEqual(score!.metric, "normalised_entropy")
      const p = 1 / (2 * Math.E + 1)
      const q = (1 - p) / 2
      const bits = -p * Math.log2(p) - 2 * q * Math.log2(q)
      assert.closeTo(score!.estimate.value, bits / Math.log2(3), 1e-12)
      const mixed = [...results, ...(yield* Winogender.score(policy, [schema("cook", "guest")]))]
      assert.include(
        Result.getOrThrow(Result.flip(Winogender.scores(mixed, { system: "m" }))).message,
        'item "cook.guest.0": was scored with female, male, the first with female, male, neutral'
      )
    })
  )
})

describe.skipIf(!TinyStories.present(TinyStories.model))("Winogender on a real model", () => {
  it.effect("has the entropy of the two sentences' log-probs, which add up over their tokens", () =>
    Effect.gen(function* () {
      const policy = yield* TinyStories.policy
      const schemas = yield* Winogender.readTemplates(yield* file("templates.tsv", header + template))
      const results = yield* Winogender.score(policy, schemas)
      for (const [i, { logprobs }] of results.entries()) {
        const { female, male } = schemas[i]!.sentences
        const expected = yield* policy.logprobs(
          [female, male].map((text) => ({
            prompt: [policy.tokenizer.bosId!],
            completion: policy.tokenizer.encode(text, { addSpecialTokens: false })
          }))
        )
        for (const s of [0, 1] as const) {
          assert.closeTo(
            logprobs[s]!,
            expected[s]!.reduce((sum, x) => sum + x, 0),
            1e-4
          )
        }
      }
      const [score] = Result.getOrThrow(Winogender.scores(results, { system: policy.name }))
      const entropies = results.map(({ logprobs }) => Bias.entropy(Bias.probabilities(logprobs)))
      assert.closeTo(score!.estimate.value, (entropies[0]! + entropies[1]!) / 2, 1e-12)
    }).pipe(Effect.scoped, Effect.provide(TinyStories.layer))
  )
})
