import { ModelError, Progress } from "@attune/core"
import type { OnnxEmbedding, OrtEmbedding } from "@attune/core/ort"
import type { EmbeddingEndpoint } from "@attune/core/remote"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Arbitrary, Effect, Layer, Schema } from "effect"
import * as EmbeddingSimilarity from "../src/EmbeddingSimilarity.ts"
import * as Selection from "../src/Selection.ts"

const question = (critique: string, ...refinements: ReadonlyArray<string>): Selection.Question => ({
  critique: { prompt: "p", completion: "d", critique },
  refinements
})

// Embeddings by text, and all calls.
const embedderOf = (vectors: Readonly<Record<string, ReadonlyArray<number>>>) => {
  const calls: Array<ReadonlyArray<string>> = []
  const embedder: EmbeddingSimilarity.EmbedderShape = {
    name: "table",
    embed: (texts) =>
      Effect.sync(() => {
        calls.push(texts)
        return texts.map((text) => Float32Array.from(vectors[text]!))
      })
  }
  return { calls, embedder }
}

const message = (effect: Effect.Effect<unknown, Selection.SelectorError>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.strictEqual(error._tag, "SelectorError")
    return error.message
  })

const quiet = Effect.provide(Progress.layer({ mode: "quiet" }))

const vector = Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: -9, maximum: 9 }))), {
  minLength: 3,
  maxLength: 3
})

describe("cosine", () => {
  it("I9: is that of the angle", () => {
    assert.closeTo(EmbeddingSimilarity.cosine([1, 2, 0], [2, 1, 1]), 0.73029674, 5e-9)
    assert.closeTo(EmbeddingSimilarity.cosine([1, 2, 0], [0, 1, 0]), 0.89442719, 5e-9)
  })

  it.prop("ignores lengths and order, and turns with a sign", [vector, vector], ([a, b]) => {
    if (a.every((x) => x === 0) || b.every((x) => x === 0)) return
    const value = EmbeddingSimilarity.cosine(a, b)
    assert.isAtMost(Math.abs(value), 1)
    assert.closeTo(EmbeddingSimilarity.cosine(b, a), value, 1e-12)
    assert.closeTo(
      EmbeddingSimilarity.cosine(
        a.map((x) => 7 * x),
        b.map((x) => -0.5 * x)
      ),
      -value,
      1e-12
    )
    assert.closeTo(EmbeddingSimilarity.cosine(a, a), 1, 1e-12)
  })

  it("holds where squares would overflow, and has no value without a direction", () => {
    assert.closeTo(EmbeddingSimilarity.cosine([1e150, 1e150], [1e150, 0]), Math.SQRT1_2, 1e-12)
    assert.isNaN(EmbeddingSimilarity.cosine([0, 0], [1, 0]))
    assert.throws(() => EmbeddingSimilarity.cosine([1], [1, 2]), /vectors of 1 and 2 numbers/)
  })
})

describe("embedding similarity", () => {
  it.effect("I9: compares the critique with each refinement, not with the draft", () =>
    Effect.gen(function* () {
      const { calls, embedder } = embedderOf({ f: [1, 2, 0], a: [2, 1, 1], b: [0, 1, 0] })
      const { selected } = yield* Selection.select(EmbeddingSimilarity.make(embedder), [question("f", "a", "b")])
      assert.closeTo(selected[0]!.scores[0]!, 0.73029674, 5e-9)
      assert.closeTo(selected[0]!.scores[1]!, 0.89442719, 5e-9)
      assert.strictEqual(selected[0]!.index, 1)
      assert.deepStrictEqual(calls, [["f", "a", "b"]])
    }).pipe(quiet)
  )

  it.effect("embeds each text once, so many at a time, and tells how far it is", () =>
    Effect.gen(function* () {
      const { calls, embedder } = embedderOf({ f: [1, 0], g: [0, 1], a: [1, 1], b: [3, 4] })
      const lines: Array<string> = []
      const sink = { write: (text: string) => void lines.push(text), isTTY: false, columns: 80 }
      const scores = yield* EmbeddingSimilarity.make(embedder, { batchSize: 3, name: "near" })
        .score([question("f", "a", "a", "f"), question("g", "b", "a")])
        .pipe(Effect.provide(Progress.layer({ mode: "lines", sink })))
      assert.deepStrictEqual(calls, [["f", "a", "g"], ["b"]])
      assert.closeTo(scores[0]![0]!, Math.SQRT1_2, 1e-15)
      assert.strictEqual(scores[0]![1], scores[0]![0])
      assert.strictEqual(scores[0]![2], 1)
      assert.closeTo(scores[1]![0]!, 0.8, 1e-15)
      assert.deepStrictEqual(
        lines.map((line) => line.split(" ")[1]),
        ["3/4", "4/4"]
      )
      assert.throws(() => EmbeddingSimilarity.make(embedder, { batchSize: 0 }), /batchSize must be/)
    })
  )

  it.effect("names question and refinement of a text without a direction", () =>
    Effect.gen(function* () {
      const { embedder } = embedderOf({
        f: [1, 0],
        a: [1, 1],
        zero: [0, 0],
        nan: [Number.NaN, 1],
        long: [1, 2, 3]
      })
      const selector = EmbeddingSimilarity.make(embedder, { name: "near" })
      const where = "selector near: question 1, refinement 1: the embedding of the refinement"
      const bad = (text: string) => message(selector.score([question("f", "a"), question("f", "a", text)]))
      assert.strictEqual(yield* bad("zero"), `${where} is all 0, which has no direction; leave it out`)
      assert.strictEqual(yield* bad("nan"), `${where} is not finite; see what is wrong with the model`)
      assert.strictEqual(yield* bad("long"), `${where} has 3 numbers, others have 2; use one model for all`)
      assert.match(yield* bad(""), /question 1, refinement 1: the refinement is empty/)
      assert.match(
        yield* message(selector.score([question("f", "a"), question("zero", "a")])),
        /^selector near: question 1: the embedding of the critique is all 0/
      )
      // Of a text that occurs more than once the first place is named.
      assert.match(
        yield* message(selector.score([question("f", "a", "zero"), question("f", "zero")])),
        /^selector near: question 0, refinement 1: /
      )
      const few: EmbeddingSimilarity.EmbedderShape = { name: "few", embed: () => Effect.succeed([]) }
      assert.match(
        yield* message(EmbeddingSimilarity.make(few).score([question("f", "a")])),
        /^selector embedding similarity \(few\): embedder few returned 0 embeddings for 2 texts/
      )
    }).pipe(quiet)
  )

  it.effect("takes any source of embeddings, whose error keeps the place of its text", () =>
    Effect.gen(function* () {
      const fine = EmbeddingSimilarity.embedder({
        name: "m",
        embed: (texts) => Effect.succeed(texts.map((text) => Float32Array.of(text.length, 1)))
      })
      const scored = Effect.flatMap(Selection.Selector, (selector) => selector.score([question("aa", "bb")]))
      const layer = EmbeddingSimilarity.layer().pipe(Layer.provide(Layer.succeed(EmbeddingSimilarity.Embedder, fine)))
      const [scores] = yield* Effect.provide(scored, layer)
      assert.closeTo(scores![0]!, 1, 1e-15)

      const failing = EmbeddingSimilarity.embedder({
        name: "m",
        embed: (texts) => {
          const reason = { model: "m", operation: "embed", message: "m: too long" } as const
          const text = texts.indexOf("b")
          return text < 0
            ? Effect.fail(new ModelError.ModelError(reason))
            : Effect.fail({ message: `text ${text}: too long`, text })
        }
      })
      const asked = (text: string) =>
        message(EmbeddingSimilarity.make(failing, { name: "near" }).score([question("a", "c"), question("a", text)]))
      assert.strictEqual(yield* asked("b"), "selector near: question 1, refinement 0: embedder m: text 2: too long")
      assert.strictEqual(yield* asked("d"), "selector near: embedder m: m: too long")
    }).pipe(quiet)
  )

  it("takes the embeddings of core as they are", () => {
    expectTypeOf<OnnxEmbedding.OnnxEmbedding>().toExtend<EmbeddingSimilarity.Source>()
    expectTypeOf<OrtEmbedding.OrtEmbedding>().toExtend<EmbeddingSimilarity.Source>()
    expectTypeOf<EmbeddingEndpoint.EmbeddingEndpoint>().toExtend<EmbeddingSimilarity.Source>()
    expectTypeOf<{ readonly name: string }>().not.toExtend<EmbeddingSimilarity.Source>()
  })
})
