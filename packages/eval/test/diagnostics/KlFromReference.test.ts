import { Completion, Kl, NextToken, type Policy, Prompt, Rollout } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { OrtPolicy } from "@attune/core/ort"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Result, Schema } from "effect"
import * as KlFromReference from "../../src/diagnostics/KlFromReference.ts"
import * as Estimate from "../../src/Estimate.ts"
import type * as Sample from "../../src/Sample.ts"
import * as TinyStories from "../tinystories.ts"

const response = (
  id: string,
  logprobs: ReadonlyArray<number>,
  refLogprobs: ReadonlyArray<number>,
  prompt?: string
): KlFromReference.Response => ({
  id,
  prompt,
  logprobs: Float32Array.from(logprobs),
  refLogprobs: Float32Array.from(refLogprobs)
})

const estimate = (responses: ReadonlyArray<KlFromReference.Response>) =>
  Result.getOrThrow(KlFromReference.estimate(responses))

const messageOf = <A>(result: Result.Result<A, Sample.SampleError>) => {
  assert.isTrue(Result.isFailure(result))
  return (result as Result.Failure<A, Sample.SampleError>).failure.message
}

describe("estimate", () => {
  // the tokens of oracles R6 and R7 of the specification, and a second response
  const first = [
    [-1, -2, -0.5],
    [-1.2, -1.5, -0.5]
  ] as const

  it("sums over tokens, and averages over responses", () => {
    const { perResponse } = estimate([response("a", ...first), response("b", [-1], [-1.4])])
    // k1: -0.3 and 0.4, standard deviation 0.7 / √2, over √2
    assert.closeTo(perResponse.k1.value, 0.05, 1e-6)
    assert.closeTo(perResponse.k1.se!, 0.35, 1e-6)
    assert.closeTo(perResponse.k2.value, (0.145 + 0.08) / 2, 1e-6)
    assert.closeTo(perResponse.k3.value, (0.16745202 + 0.07032005) / 2, 1e-6)
    assert.strictEqual(perResponse.k1.n, 2)
  })

  it("is a ratio of sums per token, with the delta method's standard error over responses", () => {
    const { perToken } = estimate([response("a", ...first), response("b", [-1], [-1.4])])
    // k1: (-0.3 + 0.4) / 4; residuals -0.3 - 3 * 0.025 and 0.4 - 0.025, so se² = 2 / 1 * 2 * 0.375² / 4²
    assert.closeTo(perToken.k1.value, 0.025, 1e-6)
    assert.closeTo(perToken.k1.se!, 0.1875, 1e-6)
    assert.closeTo(perToken.k3.value, (0.16745202 + 0.07032005) / 4, 1e-6)
    assert.deepInclude(perToken.k1, { n: 4, clusters: 2 })
  })

  it("takes responses to one prompt as one draw", () => {
    const { perResponse, perToken } = estimate([
      response("a", [-1], [-1.5], "p"),
      response("b", [-1, -1], [-1.5, -1.5], "p"),
      response("c", [-1], [-1], "q")
    ])
    // k1 per response 0.5, 1, 0: mean 0.5; prompts' residuals 0.5 and -0.5, se² = 2 / 1 * 0.5 / 9
    assert.closeTo(perResponse.k1.value, 0.5, 1e-6)
    assert.closeTo(perResponse.k1.se!, 1 / 3, 1e-6)
    // k1 per token 1.5 / 4; residuals 1.5 - 3 * 0.375 and -0.375, se² = 2 / 1 * 2 * 0.375² / 4²
    assert.closeTo(perToken.k1.value, 0.375, 1e-6)
    assert.closeTo(perToken.k1.se!, 0.1875, 1e-6)
    assert.deepInclude(perResponse.k1, { n: 3, clusters: 2 })
    assert.deepInclude(perToken.k1, { n: 4, clusters: 2 })
  })

  it("has no interval from one response", () => {
    const { perResponse, perToken } = estimate([response("a", ...first)])
    assert.deepInclude(perResponse.k1, { low: null, high: null, se: null })
    assert.deepInclude(perToken.k1, { low: null, high: null, se: null, n: 3 })
    assert.match(perToken.k1.method, /no interval/)
  })

  const logprob = Schema.Finite.check(Schema.isBetween({ minimum: -20, maximum: 0 }))
  const rows = Arbitrary.array(Arbitrary.array(Arbitrary.schema(logprob), { minLength: 1, maxLength: 8 }), {
    minLength: 2,
    maxLength: 8
  })

  it.prop("is 0 in every way where the two models agree", [rows], ([rows]) => {
    const kl = estimate(rows.map((row, i) => response(String(i), row, row)))
    for (const part of [kl.perToken, kl.perResponse]) {
      for (const { high, low, value } of [part.k1, part.k2, part.k3]) {
        assert.deepStrictEqual([value, low, high], [0, null, null])
      }
    }
  })

  it.prop("changes the sign of k1 with the roles of the models", [rows], ([rows]) => {
    const shifted = rows.map((row) => row.map((x, t) => x - t))
    const forth = estimate(rows.map((row, i) => response(String(i), row, shifted[i]!)))
    const back = estimate(rows.map((row, i) => response(String(i), shifted[i]!, row)))
    assert.closeTo(forth.perResponse.k1.value, -back.perResponse.k1.value, 1e-9)
    assert.isAtLeast(forth.perToken.k1.value, 0)
  })

  it("names the response whose numbers are no log-probs", () => {
    const of = (...responses: ReadonlyArray<KlFromReference.Response>) => messageOf(KlFromReference.estimate(responses))
    const good = response("good", [-1], [-1])
    assert.match(of(good, response("x", [-1, Number.NaN], [-1, -1])), /item "x": logprobs of token 1 is NaN/)
    assert.match(of(good, response("x", [-1], [-Infinity])), /item "x": refLogprobs of token 0 is -Infinity/)
    assert.match(of(good, response("x", [1.5], [-1])), /item "x": logprobs of token 0 is 1.5/)
    assert.match(of(good, response("x", [-1, -1], [-1])), /item "x": 2 logprobs and 1 refLogprobs/)
    assert.match(of(good, good), /item "good": the id stands twice/)
    assert.match(of(good, response("x", [-1], [-1], "p")), /item "good": the item has no cluster/)
    assert.match(of(), /no items/)
  })
})

describe("coverage", () => {
  // A response begins in one of two modes, equally likely to both models, and keeps it: tokens x, y or the end, until the
  // end or `longest` tokens. The models differ in one of the modes much more than in the other, so that the tokens of a
  // response resemble each other.
  const longest = 12
  const policy = [
    [0.44, 0.48, 0.08],
    [0.85, 0.09, 0.06]
  ] as const
  const reference = [
    [0.46, 0.46, 0.08],
    [0.6, 0.32, 0.08]
  ] as const

  // The exact divergence of a response and its expected length: one token for the mode, then while it goes on.
  const expected = policy.map((row, mode) => {
    const perStep = Kl.exact(row.map(Math.log), reference[mode]!.map(Math.log))
    const steps = Array.from({ length: longest - 1 }, (_, t) => (1 - row[2]) ** t).reduce((a, b) => a + b, 0)
    return { kl: steps * perStep, tokens: 1 + steps }
  })
  const truth = {
    perResponse: (expected[0]!.kl + expected[1]!.kl) / 2,
    perToken: (expected[0]!.kl + expected[1]!.kl) / (expected[0]!.tokens + expected[1]!.tokens)
  }

  const drawResponse = (id: string, uniform: () => number) => {
    const mode = uniform() < 0.5 ? 0 : 1
    const logprobs = [Math.log(0.5)]
    const refLogprobs = [Math.log(0.5)]
    for (let token = 0; token !== 2 && logprobs.length < longest; ) {
      const u = uniform()
      const [x, y] = policy[mode]
      token = u < x ? 0 : u < x + y ? 1 : 2
      logprobs.push(Math.log(policy[mode][token]!))
      refLogprobs.push(Math.log(reference[mode][token]!))
    }
    return response(id, logprobs, refLogprobs)
  }

  const runs = 2000
  const covers = ({ high, low }: Estimate.Estimate, value: number) => (low! <= value && value <= high! ? 1 / runs : 0)

  it("is 93 to 97 % for k1 and k3, per token and per response, and too low where tokens pass as independent", () => {
    const coverage = { k1: [0, 0, 0], k3: [0, 0, 0] }
    for (let run = 0; run < runs; run++) {
      const uniform = NextToken.uniforms(run)
      const responses = Array.from({ length: 60 }, (_, i) => drawResponse(String(i), uniform))
      for (const estimator of ["k1", "k3"] as const) {
        const perResponse = Result.getOrThrow(KlFromReference.perResponse(responses, estimator))
        const perToken = Result.getOrThrow(KlFromReference.perToken(responses, estimator))
        coverage[estimator][0]! += covers(Estimate.clustered(perResponse), truth.perResponse)
        coverage[estimator][1]! += covers(Estimate.clustered(perToken), truth.perToken)
        coverage[estimator][2]! += covers(Estimate.mean(perToken), truth.perToken)
      }
    }
    for (const [estimator, [perResponse, perToken, naive]] of Object.entries(coverage)) {
      assert.isTrue(perResponse! >= 0.93 && perResponse! <= 0.97, `${estimator} per response: ${perResponse}`)
      assert.isTrue(perToken! >= 0.93 && perToken! <= 0.97, `${estimator} per token: ${perToken}`)
      assert.isBelow(naive!, 0.9, `${estimator}, tokens as independent`)
    }
  })
})

// Tokens 0 and 1 and the end, 2; each token depends on nothing. Its tokenizer spells the ids as given.
const model = (
  name: string,
  probabilities: readonly [number, number, number],
  spelling: ReadonlyArray<string> = ["a", "b", "."]
) => {
  const calls: Array<number> = []
  const logprobs = Float32Array.from(probabilities, Math.log)
  const policy = {
    name,
    tokenizer: {
      encode: (text: string) => Int32Array.from(text, (letter) => spelling.indexOf(letter)),
      token: (id: number) => spelling[id]
    },
    sample: (prompts: ReadonlyArray<string | Prompt.Prompt>, options: Parameters<Policy.PolicyShape["sample"]>[1]) =>
      Effect.sync(() => {
        calls.push(prompts.length)
        return prompts.map((_, i) => {
          const uniform = NextToken.uniforms(options.rowSeeds![i]!)
          const tokens: Array<number> = []
          while (tokens.at(-1) !== 2 && tokens.length < options.maxNewTokens) {
            tokens.push(NextToken.choose(logprobs, uniform()))
          }
          const drawn = Float32Array.from(tokens, (id) => logprobs[id]!)
          return Completion.make({
            tokens: Int32Array.from(tokens),
            logprobs: drawn,
            untemperedLogprobs: drawn,
            text: tokens.map((id) => spelling[id]).join(""),
            finishReason: tokens.at(-1) === 2 ? "stop" : "length"
          })
        })
      }),
    logprobs: (continuations: ReadonlyArray<Policy.Continuation>) =>
      Effect.sync(() =>
        continuations.map(({ completion }) => Float32Array.from(Array.from(completion), (id) => logprobs[id]!))
      )
  }
  return { calls, policy: policy as unknown as Policy.PolicyShape }
}

describe("measure", () => {
  const own = model("own", [0.5, 0.3, 0.2])
  const other = model("other", [0.4, 0.4, 0.2])

  it.effect("draws from the policy, scores with the reference, and comes near the exact divergence", () =>
    Effect.gen(function* () {
      const prompts = Array.from({ length: 1000 }, (_, i) => "ab".repeat(i + 1))
      const { perToken, rollouts } = yield* KlFromReference.measure(own.policy, other.policy, prompts, {
        maxNewTokens: 8,
        samplesPerPrompt: 2,
        seed: 1
      })
      assert.strictEqual(rollouts.length, 2000)
      assert.strictEqual(perToken.k1.clusters, 1000)
      // oracle R7b
      for (const { high, low } of [perToken.k1, perToken.k3]) assert.isTrue(low! < 0.02526715 && 0.02526715 < high!)
      assert.isTrue(perToken.k3.high! - perToken.k3.low! < 0.002)
    })
  )

  it.effect("draws the same tokens whatever the batch, and different ones for each response", () =>
    Effect.gen(function* () {
      const draw = (batchSize: number) => {
        own.calls.length = 0
        return KlFromReference.draw(own.policy, other.policy, ["a", "b", "ab"], {
          maxNewTokens: 20,
          samplesPerPrompt: 3,
          seed: 5,
          batchSize
        })
      }
      const whole = yield* draw(9)
      const parts = yield* draw(2)
      assert.deepStrictEqual(own.calls, [2, 2, 2, 2, 1])
      assert.deepStrictEqual(parts, whole)
      assert.deepStrictEqual(
        whole.map(({ prompt }) => prompt.text),
        ["a", "a", "a", "b", "b", "b", "ab", "ab", "ab"]
      )
      assert.isAbove(new Set(whole.map(({ completion }) => completion.text)).size, 4)
    })
  )

  it.effect("refuses a reference to which the ids are other tokens", () =>
    Effect.gen(function* () {
      const foreign = model("foreign", [0.4, 0.4, 0.2], ["b", "a", "."])
      const options = { maxNewTokens: 4, seed: 1 }
      const error = yield* Effect.flip(KlFromReference.measure(own.policy, foreign.policy, ["a"], options))
      assert.match(error.message, /token 0.*it is "a" to own and "b" to foreign/)
    })
  )
})

describe("fromRollouts", () => {
  const rollout = (logprob: number, refLogprobs?: Float32Array) =>
    Rollout.make({
      prompt: Prompt.make("p", [1]),
      completion: Completion.make({
        tokens: Int32Array.of(1),
        logprobs: Float32Array.of(logprob),
        untemperedLogprobs: Float32Array.of(-1),
        text: "",
        finishReason: "length"
      }),
      ...(refLogprobs === undefined ? {} : { refLogprobs })
    })

  it("takes the untempered log-probs, and the prompt's text as the cluster", () => {
    assert.deepStrictEqual(Result.getOrThrow(KlFromReference.fromRollouts([rollout(-1.0001, Float32Array.of(-2))])), [
      response("0", [-1], [-2], "p")
    ])
  })

  it("refuses tokens that were not drawn at temperature 1, and rollouts that no reference scored", () => {
    assert.match(
      messageOf(KlFromReference.fromRollouts([rollout(-1, Float32Array.of(-2)), rollout(-0.5, Float32Array.of(-2))])),
      /item "1": token 0 was drawn with log-prob -0.5, the model gives it -1; draw at temperature 1/
    )
    assert.match(messageOf(KlFromReference.fromRollouts([rollout(-1)])), /item "0": no refLogprobs/)
  })
})

describe.skipIf(!TinyStories.present(TinyStories.model))("on a real model", () => {
  const prompts = ["Once upon a time", "Tom and Sue", "The dog was", "One day, a little girl"]
  const options = { maxNewTokens: 24, samplesPerPrompt: 4, seed: 3 }

  it.effect("is 0 between a model and itself, and positive to one with flatter logits", () =>
    Effect.gen(function* () {
      const base = yield* Pretrained.load(TinyStories.path(TinyStories.model))
      const policy = yield* OrtPolicy.make(base)
      const same = yield* KlFromReference.measure(policy, yield* OrtPolicy.make(base), prompts, options)
      // sampler and scorer are different graphs
      for (const { value } of Object.values(same.perToken)) assert.closeTo(value, 0, 1e-5)
      assert.isAtLeast(same.perToken.k1.n, 16)

      const norm = base.weights.get("model.norm.weight")!
      const scaled = { ...norm, data: (norm.data as Float32Array).map((weight) => 0.7 * weight) } as typeof norm
      const flat = yield* OrtPolicy.make({
        ...base,
        weights: new Map([...base.weights, ["model.norm.weight", scaled]])
      })
      const { perResponse } = yield* KlFromReference.measure(policy, flat, prompts, options)
      assert.isAbove(perResponse.k3.low!, 0)
      assert.isAbove(perResponse.k1.low!, 0)
      assert.isTrue(perResponse.k1.low! < perResponse.k3.high! && perResponse.k3.low! < perResponse.k1.high!)
    }).pipe(Effect.scoped, Effect.provide(TinyStories.layer))
  )

  it.effect("refuses what was drawn at another temperature", () =>
    Effect.gen(function* () {
      const policy = yield* TinyStories.policy
      const prompt = Prompt.make(prompts[0]!, policy.tokenizer.encode(prompts[0]!))
      const [completion] = yield* policy.sample([prompt], { maxNewTokens: 8, temperature: 0.5 })
      const [refLogprobs] = yield* policy.logprobs([{ prompt: prompt.tokens, completion: completion!.tokens }])
      const rollout = Rollout.make({ prompt, completion: completion!, refLogprobs: refLogprobs! })
      assert.match(messageOf(KlFromReference.fromRollouts([rollout])), /draw at temperature 1/)
    }).pipe(Effect.scoped, Effect.provide(TinyStories.layer))
  )
})
