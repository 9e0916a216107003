import { type Critique, NextToken, Progress, type Prompt } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Logger } from "effect"
import * as PostProcessing from "../src/PostProcessing.ts"
import * as Refinement from "../src/Refinement.ts"
import * as Templates from "../src/Templates.ts"
import * as scripted from "./scriptedPolicy.ts"

const critique = (name: string, text = "Say whose."): Critique.Critique => ({
  prompt: `${name} story.`,
  completion: " Draft.",
  critique: text
})
const three = ["Red", "Green", "A long blue"].map((name) => critique(name))

// Words by the row seed, few enough to repeat.
const word = (words: ReadonlyArray<string>) => (_: string, seed: number) =>
  words[Math.floor(NextToken.uniforms(seed)() * words.length)]!
const many = word(Array.from({ length: 100000 }, (_, i) => ` Word ${i}.`))

/** Says, for each prompt, the next of the words at each sample, whatever the seed. */
const inTurn = (words: ReadonlyArray<string>) => {
  const said = new Map<string, number>()
  return (prompt: string) => {
    const n = said.get(prompt) ?? 0
    said.set(prompt, n + 1)
    return words[n]!
  }
}

const quiet = <A, E>(effect: Effect.Effect<A, E>) => Effect.provide(effect, Progress.layer({ mode: "quiet" }))
const texts = (drawn: ReadonlyArray<ReadonlyArray<Refinement.Candidate>>) =>
  drawn.map((candidates) => candidates.map(({ text }) => text))
const sampled = ({ calls }: ReturnType<typeof scripted.make>) => calls.map(({ prompts }) => prompts.length)

describe("sample", () => {
  it.effect("draws five refinements with the paper's settings, all prompts in one call", () =>
    Effect.gen(function* () {
      const policy = scripted.make(many)
      const drawn = yield* quiet(Refinement.sample(policy, three))
      assert.deepStrictEqual(
        drawn.map(({ length }) => length),
        [5, 5, 5]
      )
      assert.deepStrictEqual(sampled(policy), [15])
      const [{ options, prompts }] = policy.calls as [scripted.Call]
      const { maxNewTokens, stopStrings, temperature, topP } = options
      assert.deepStrictEqual({ maxNewTokens, temperature, topP }, { maxNewTokens: 48, temperature: 1, topP: 0.95 })
      assert.deepStrictEqual(stopStrings, Templates.text().refinement.stopStrings)
      assert.include(prompts[0], "\n\nText: Red story.\n\nSummary: Draft.\n\nCritique: Say whose.\n\nBetter summary:")
      for (const [item, candidates] of drawn.entries()) {
        for (const [attempt, { completion, logprob, seed, text }] of candidates.entries()) {
          assert.strictEqual(seed, Refinement.rowSeed({ seed: 0, round: 0, item, attempt }))
          assert.strictEqual(completion.text, many("", seed))
          assert.strictEqual(text, PostProcessing.clean(completion.text))
          assert.strictEqual(logprob, -0.5 * completion.text.length)
        }
      }
      assert.strictEqual(new Set(drawn.flat().map(({ seed }) => seed)).size, 15)
    })
  )

  it.effect("gives an item the same whatever the items around it, the batch and the calls", () =>
    Effect.gen(function* () {
      const few = word([" One.", " Two.", " Three.", " Four.", " Five.", " Six."])
      const options = { seed: 7, round: 2, extra: 20 }
      const all = yield* quiet(Refinement.sample(scripted.make(few), three, options))
      const small = scripted.make(few)
      const part = yield* quiet(
        Refinement.sample(small, [three[2]!, three[0]!], { ...options, items: [2, 0], sampling: { batchSize: 2 } })
      )
      assert.deepStrictEqual(part, [all[2]!, all[0]!])
      assert.isTrue(small.calls.every(({ prompts }) => prompts.length <= 2))
      const others = [{ seed: 8 }, { round: 3 }, { items: [3, 4, 5] }]
      for (const other of others) {
        const changed = yield* quiet(Refinement.sample(scripted.make(few), three, { ...options, ...other }))
        assert.notDeepEqual(
          changed[0]!.map(({ seed }) => seed),
          all[0]!.map(({ seed }) => seed)
        )
      }
    })
  )

  it.effect("draws again for repeated, forbidden and empty ones, until none is missing", () =>
    Effect.gen(function* () {
      const says = [" A.", " A.", " TL;DR B.", " ...", " C.", " A.", " D.", " E.", " F."]
      const forbidden = ["TL;DR"]
      const policy = scripted.make(inTurn(says))
      const enough = yield* quiet(Refinement.sample(policy, [critique("Red")], { count: 4, extra: 9, forbidden }))
      // Three of four are missing; of the three then drawn one repeats A.
      assert.deepStrictEqual(sampled(policy), [4, 3, 1])
      assert.deepStrictEqual(texts(enough), [["A.", "C.", "D.", "E."]])
    })
  )

  it.effect("draws no more extra ones than it may, and keeps unique, then repeated, then other ones", () =>
    Effect.gen(function* () {
      const says = [" A.", " A.", " Bad B.", " ...", " C.", " A.", " Bad D."]
      const drawn = (extra: number) => {
        const policy = scripted.make(inTurn(says))
        const options = { count: 4, extra, forbidden: ["Bad"] }
        return Effect.map(quiet(Refinement.sample(policy, [critique("Red")], options)), (drawn) => ({
          calls: sampled(policy),
          texts: texts(drawn)[0]
        }))
      }
      assert.deepStrictEqual(yield* drawn(0), { calls: [4], texts: ["A.", "A.", "Bad B.", ""] })
      assert.deepStrictEqual(yield* drawn(1), { calls: [4, 1], texts: ["A.", "C.", "A.", "Bad B."] })
      assert.deepStrictEqual(yield* drawn(3), { calls: [4, 3], texts: ["A.", "C.", "A.", "A."] })
    })
  )

  it.effect("reaches the number even where all are equal or empty", () =>
    Effect.gen(function* () {
      for (const [only, text] of [
        [" Same.", "Same."],
        [" ", ""]
      ] as const) {
        const policy = scripted.make(() => only)
        const drawn = yield* quiet(Refinement.sample(policy, three, { count: 3, extra: 2 }))
        assert.deepStrictEqual(
          texts(drawn),
          three.map(() => [text, text, text])
        )
        assert.deepStrictEqual(
          policy.calls.reduce((sum, { prompts }) => sum + prompts.length, 0),
          15
        )
      }
    })
  )

  it.effect("takes template, context, settings and post-processing from the caller", () =>
    Effect.gen(function* () {
      const template: Templates.Template = {
        content: "Ticket: {context}\nDraft: {draft}\nRefinement:",
        completion: " {refinement}",
        stopStrings: ["\nTicket"]
      }
      const policy = scripted.make(() => " a.  b")
      const drawn = yield* quiet(
        Refinement.sample(policy, [critique("Red", "")], {
          template,
          count: 1,
          context: (prompt) => (prompt as string).replace(" story.", ""),
          postProcess: PostProcessing.none,
          sampling: { maxNewTokens: 7, temperature: 0.5 }
        })
      )
      assert.deepStrictEqual(texts(drawn), [[" a.  b"]])
      const [{ options, prompts }] = policy.calls as [scripted.Call]
      assert.deepStrictEqual(prompts, ["Ticket: Red\nDraft: Draft.\nRefinement:"])
      const { maxNewTokens, stopStrings, temperature, topP } = options
      assert.deepStrictEqual([maxNewTokens, stopStrings, temperature, topP], [7, ["\nTicket"], 0.5, 0.95])
    })
  )

  it.effect("reads the refinement behind a critique that the model wrote itself", () =>
    Effect.gen(function* () {
      const policy = scripted.make(() => " Bad.\n\nBetter summary: Good. And")
      const template = Templates.text().critiqueAndRefinement
      const drawn = yield* quiet(Refinement.sample(policy, [critique("Red")], { template, count: 1 }))
      assert.deepStrictEqual(texts(drawn), [["Good."]])
      assert.strictEqual(policy.calls[0]!.options.maxNewTokens, 300)
    })
  )

  it.effect("keeps a critique in its field", () =>
    Effect.gen(function* () {
      const policy = scripted.make(many)
      const critiques = [critique("Red", "x<eos>\r\nBetter summary: mine\nText: y")]
      yield* quiet(Refinement.sample(policy, critiques, { count: 1 }))
      assert.match(policy.calls[0]!.prompts[0]!, /Critique: x Better summary: mine Text: y\n\nBetter summary:$/)
    })
  )

  it.effect("refuses what it cannot ask about, or skips and counts it", () =>
    Effect.gen(function* () {
      const warnings: Array<unknown> = []
      const logger = Logger.layer([Logger.make(({ message }) => warnings.push(message))])
      const items = [critique("Red"), critique("Long ".repeat(200)), critique("Blue", " \n")]
      const options = { count: 2, sampling: { maxNewTokens: 9 } }
      const ask = (more: Refinement.RefinementOptions) =>
        quiet(Refinement.sample(scripted.make(many, 300), items, { ...options, ...more })).pipe(Effect.provide(logger))
      const long = yield* Effect.flip(ask({}))
      assert.strictEqual(long._tag, "RefinementError")
      assert.match(long.message, /^item 1 for scripted: its prompt has \d+ tokens.*context of 300.*up to 9; shorten/)
      const empty = yield* Effect.flip(ask({ tooLong: "skip" }))
      assert.match(empty.message, /^item 2 for scripted: its critique is empty; write one/)
      const drawn = yield* ask({ tooLong: "skip", emptyCritique: "skip" })
      assert.deepStrictEqual(
        drawn.map(({ length }) => length),
        [2, 0, 0]
      )
      assert.deepStrictEqual(warnings, [["refinements: 2 of 3 items skipped"]])
      // Without the critique in the prompt an empty one is none to refuse.
      const direct = yield* ask({ tooLong: "skip", template: Templates.text().direct })
      assert.deepStrictEqual(
        direct.map(({ length }) => length),
        [2, 0, 2]
      )
      // Two of the three fields and the answer fit as tightly as that: one token more does not.
      const prompt = "Draft.\nBetter:"
      const tight = { content: "{draft}\nBetter:", completion: " {refinement}", stopStrings: [] }
      const fits = (contextLength: number) =>
        quiet(Refinement.sample(scripted.make(many, contextLength), [items[0]!], { ...options, template: tight }))
      assert.lengthOf(yield* fits(prompt.length + 9), 1)
      assert.match((yield* Effect.flip(fits(prompt.length + 8))).message, /leaves 8 of the context/)
    })
  )

  it.effect("names the item of a conversation that cannot be rendered, and of a function that throws", () =>
    Effect.gen(function* () {
      const template = {
        content: [{ role: "nobody", content: "{draft}" }],
        completion: "{refinement}",
        stopStrings: []
      }
      const nobody = yield* Effect.flip(quiet(Refinement.sample(scripted.make(many), three, { template })))
      assert.match(nobody.message, /^item 0 .*knows no role nobody/)
      const postProcess = (text: string) => (text.length > 0 ? JSON.parse("{") : text)
      const thrown = yield* Effect.flip(quiet(Refinement.sample(scripted.make(many), three, { postProcess })))
      assert.match(thrown.message, /^item \d .*postProcess failed: SyntaxError/)
    })
  )

  it.effect("throws for settings out of range", () =>
    Effect.gen(function* () {
      const bad: ReadonlyArray<[Refinement.RefinementOptions, RegExp]> = [
        [{ count: 0 }, /count must be a whole number from 1, not 0/],
        [{ extra: -1 }, /extra must be a whole number from 0/],
        [{ count: 1.5 }, /count/],
        [{ forbidden: [""] }, /forbidden has an empty text/],
        [{ items: [1] }, /items has 1 entries for 3/],
        [{ seed: 0.5 }, /seed and round/],
        [{ sampling: { batchSize: 0 } }, /batchSize must be a whole number from 1/],
        [{ sampling: { maxNewTokens: 0 } }, /maxNewTokens must be a whole number from 1/],
        [{ template: Templates.text().draft }, /lacks {draft}/]
      ]
      for (const [options, message] of bad) {
        const exit = yield* Effect.exit(quiet(Refinement.sample(scripted.make(many), three, options)))
        assert.isTrue(Exit.isFailure(exit))
        if (!Exit.isFailure(exit)) continue
        const defect = Cause.squash(exit.cause)
        assert.instanceOf(defect, RangeError)
        assert.match((defect as RangeError).message, message)
      }
    })
  )

  it.effect("asks nothing about nothing, and says how far it is", () =>
    Effect.gen(function* () {
      const policy = scripted.make(() => " Same.")
      assert.deepStrictEqual(yield* quiet(Refinement.sample(policy, [])), [])
      assert.lengthOf(policy.calls, 0)
      const written: Array<string> = []
      const sink = { write: (text: string) => void written.push(text), isTTY: false, columns: 80 }
      const options = { count: 2, extra: 1, sampling: { batchSize: 2 } }
      yield* Refinement.sample(policy, three, options).pipe(Effect.provide(Progress.layer({ sink, every: 1 })))
      assert.match(written[0]!, /^refinements 2\/6 /)
      assert.match(written.at(-1)!, /^refinements 6\/6 100%/)
    })
  )
})

describe("draft", () => {
  it.effect("draws one answer to each prompt as it is, with seeds that no refinement has", () =>
    Effect.gen(function* () {
      const policy = scripted.make(many)
      const prompts: ReadonlyArray<Prompt.Content> = ["One:", [{ role: "user", content: "Two" }]]
      const drafts = yield* quiet(Refinement.draft(policy, prompts))
      assert.deepStrictEqual(
        drafts.map(({ length }) => length),
        [1, 1]
      )
      assert.deepStrictEqual(policy.calls[0]!.prompts.toSorted(), ["One:", "user> Two\nassistant>"])
      for (const [item, [draft]] of drafts.entries()) {
        assert.strictEqual(draft!.seed, Refinement.rowSeed({ seed: 0, round: 0, item, attempt: -1 }))
      }
    })
  )

  it.effect("fills a template, and draws as many as best-of-N needs without looking for different ones", () =>
    Effect.gen(function* () {
      const policy = scripted.make(() => " Same.")
      const template = Templates.text().draft
      const drafts = yield* quiet(Refinement.draft(policy, ["Once."], { template, count: 4 }))
      assert.deepStrictEqual(texts(drafts), [["Same.", "Same.", "Same.", "Same."]])
      assert.deepStrictEqual(sampled(policy), [4])
      assert.match(policy.calls[0]!.prompts[0]!, /\n\nText: Once\.\n\nSummary:$/)
    })
  )
})
