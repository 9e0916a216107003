import { NextToken } from "@attune/core"
import { Device } from "@attune/core/ort"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as ClippedSurrogate from "../src/ClippedSurrogate.ts"
import * as PpoLoss from "../src/PpoLoss.ts"
import * as LossGraph from "./LossGraph.ts"

const oneThread = Device.layerInProcess({ provider: "cpu", threads: 1 })

const settings = { clipRange: 0.2, temperature: 1, ptx: null, valueClipRange: 0.2, valueCoef: 0.1 }

// Relative to numbers of order 1, single precision.
const precision = 2e-6

const close = (actual: number, expected: number, what: string, tolerance = precision) =>
  assert.closeTo(actual, expected, tolerance * Math.max(1, Math.abs(expected)), what)
const closeAll = (actual: ArrayLike<number>, expected: ArrayLike<number>, what: string, tolerance = precision) => {
  assert.strictEqual(actual.length, expected.length, what)
  for (let i = 0; i < expected.length; i++) close(actual[i]!, expected[i]!, `${what}, token ${i}`, tolerance)
}

const ones = (count: number, value = 1) => new Float64Array(count).fill(value)

interface Tokens {
  readonly newLogprobs: ReadonlyArray<number>
  readonly logprobs: ReadonlyArray<number>
  readonly advantages: ReadonlyArray<number>
  readonly newValues: ReadonlyArray<number>
  readonly values: ReadonlyArray<number>
  readonly returns: ReadonlyArray<number>
}

// What single precision makes of a number: what the graph is fed.
const single = (values: ReadonlyArray<number>) => values.map(Math.fround)

const sampled = (count: number, seed: number): Tokens => {
  const next = NextToken.uniforms(seed)
  const list = (low: number, high: number) => single(Array.from({ length: count }, () => low + (high - low) * next()))
  const logprobs = list(-5, -0.01)
  const values = list(-2, 2)
  const moved = (from: ReadonlyArray<number>, by: number) => single(list(-by, by).map((shift, i) => from[i]! + shift))
  return {
    newLogprobs: moved(logprobs, 0.6),
    logprobs,
    advantages: list(-2, 2),
    newValues: moved(values, 0.6),
    values,
    returns: list(-2, 2)
  }
}

const policyFields = ({ advantages, logprobs }: Tokens) => ({
  sampled: ones(logprobs.length, 1 / logprobs.length),
  pretraining: ones(logprobs.length, 0),
  logprobs,
  advantages
})

const valueFields = ({ returns, values }: Tokens) => ({
  sampled: ones(values.length, 1 / values.length),
  values,
  returns
})

// The entropies are passed on, so any numbers do.
const entropies = (count: number) => Float64Array.from({ length: count }, (_, i) => 1 + i / count)

const said = ({ newLogprobs, newValues }: Tokens, temperature = 1): LossGraph.Said => ({
  [`logprobs at ${temperature}`]: newLogprobs,
  [`entropy at ${temperature}`]: entropies(newLogprobs.length),
  values: newValues
})

const mean = (values: ArrayLike<number>) => ClippedSurrogate.tokenMean([values])

const policyOf = (tokens: Tokens, clipRange = 0.2) => {
  const ratios = ClippedSurrogate.ratios(tokens.newLogprobs, tokens.logprobs)
  const clipped = ClippedSurrogate.policyClipped(ratios, tokens.advantages, clipRange)
  return {
    loss: mean(ClippedSurrogate.policyLosses(ratios, tokens.advantages, clipRange)),
    approxkl: mean(ClippedSurrogate.approxKl(tokens.newLogprobs, tokens.logprobs, "k2")),
    clipfrac: mean(clipped),
    entropy: mean(entropies(ratios.length)),
    ratio: mean(ratios),
    max_logprob_difference: Math.max(...ratios.map((ratio) => Math.abs(Math.log(ratio)))),
    // A token that is clipped does not pull.
    gradient: ratios.map((ratio, n) => (clipped[n] === 1 ? 0 : (-tokens.advantages[n]! * ratio) / ratios.length))
  }
}

const valueOf = ({ newValues, returns, values }: Tokens, clipRange = Infinity) => {
  const clipped = ClippedSurrogate.valueClipped(newValues, values, returns, clipRange)
  return {
    loss: mean(ClippedSurrogate.valueLosses(newValues, values, returns, clipRange)),
    clipfrac: mean(clipped),
    gradient: newValues.map((value, n) => (clipped[n] === 1 ? 0 : (value - returns[n]!) / newValues.length))
  }
}

const r10 = { ratios: [1.5, 0.5, 1.1, 0.7, 1.3], logprobs: [-1, -2, -0.5, -3, -0.1] }
const r11 = { newValues: [0.9, 0.2, 0.6, 0.55], values: [0.5, 0.5, 0.5, 0.5], returns: [1, 1, 0, 1] }

describe("the policy", () => {
  it.effect("R10, R10b: loses the larger of both surrogates, and says how often and how far it went", () =>
    Effect.gen(function* () {
      const { logprobs, ratios } = r10
      const { gradients, loss, metrics } = yield* LossGraph.evaluate(
        PpoLoss.policy(settings),
        {
          "logprobs at 1": logprobs.map((logprob, n) => logprob + Math.log(ratios[n]!)),
          "entropy at 1": ones(5)
        },
        { sampled: ones(5, 0.2), pretraining: ones(5, 0), logprobs, advantages: [1, 1, -2, -1, -1] }
      )
      close(loss, 0.52, "loss")
      close(metrics.policy_loss, 0.52, "policy_loss")
      close(metrics.clipfrac, 0.4, "clipfrac")
      close(metrics.approxkl, 0.0849991, "approxkl")
      close(metrics.ratio, (1.5 + 0.5 + 1.1 + 0.7 + 1.3) / 5, "ratio")
      close(metrics.max_logprob_difference, Math.LN2, "max_logprob_difference")
      assert.strictEqual(metrics.ptx_loss, 0)
      // The first and the fourth token are clipped.
      closeAll(gradients["logprobs at 1"]!, [0, -0.1, 0.44, 0, 0.26], "gradient")
    }).pipe(Effect.provide(oneThread))
  )

  for (const [seed, clipRange, temperature] of [
    [1, 0.2, 1],
    [2, 0.35, 0.7],
    [3, 0.05, 2]
  ] as const) {
    it.effect(`is the surrogate of double precision, gradient and metrics too: ${clipRange}, ${temperature}`, () =>
      Effect.gen(function* () {
        const tokens = sampled(400, seed)
        const evaluated = yield* LossGraph.evaluate(
          PpoLoss.policy({ ...settings, clipRange, temperature }),
          said(tokens, temperature),
          policyFields(tokens)
        )
        const { gradient, loss, ...metrics } = policyOf(tokens, clipRange)
        assert.isTrue(metrics.clipfrac > 0.1 && metrics.clipfrac < 0.9)
        close(evaluated.loss, loss, "loss")
        for (const [name, value] of Object.entries({ ...metrics, policy_loss: loss, ptx_loss: 0 })) {
          close(evaluated.metrics[name as "ratio"], value, name)
        }
        closeAll(evaluated.gradients[`logprobs at ${temperature}`]!, gradient, "gradient", 1e-7)
      }).pipe(Effect.provide(oneThread))
    )
  }

  it.effect("that has not moved loses minus the mean advantage, and is clipped nowhere", () =>
    Effect.gen(function* () {
      const drawn = sampled(64, 4)
      const tokens = { ...drawn, newLogprobs: drawn.logprobs }
      const { gradients, loss, metrics } = yield* LossGraph.evaluate(
        PpoLoss.policy(settings),
        said(tokens),
        policyFields(tokens)
      )
      close(loss, -mean(tokens.advantages), "loss")
      assert.deepStrictEqual([metrics.clipfrac, metrics.approxkl, metrics.max_logprob_difference], [0, 0, 0])
      close(metrics.ratio, 1, "ratio", 1e-6)
      closeAll(
        gradients["logprobs at 1"]!,
        tokens.advantages.map((advantage) => -advantage / 64),
        "gradient",
        1e-8
      )
    }).pipe(Effect.provide(oneThread))
  )
})

describe("the values", () => {
  it.effect("R11: lose half the larger of both squared errors", () =>
    Effect.gen(function* () {
      const fields = { sampled: ones(4, 0.25), values: r11.values, returns: r11.returns }
      const evaluated = yield* LossGraph.evaluate(PpoLoss.value(settings), { values: r11.newValues }, fields)
      close(evaluated.loss, 0.1615625, "loss")
      close(evaluated.metrics.value_loss, 0.1615625, "value_loss")
      close(evaluated.metrics.value_clipfrac, 0.25, "value_clipfrac")
      closeAll(evaluated.gradients["values"]!, [0, -0.2, 0.15, -0.1125], "gradient")
    }).pipe(Effect.provide(oneThread))
  )

  for (const [seed, valueClipRange] of [
    [5, 0.2],
    [6, 0.5],
    [7, null]
  ] as const) {
    it.effect(`have the loss of double precision, gradient and clipped share too: ${valueClipRange}`, () =>
      Effect.gen(function* () {
        const tokens = sampled(400, seed)
        const evaluated = yield* LossGraph.evaluate(
          PpoLoss.value({ valueClipRange }),
          { values: tokens.newValues },
          valueFields(tokens)
        )
        const expected = valueOf(tokens, valueClipRange ?? Infinity)
        assert.strictEqual(expected.clipfrac > 0, valueClipRange !== null)
        close(evaluated.loss, expected.loss, "loss")
        close(evaluated.metrics.value_loss, expected.loss, "value_loss")
        close(evaluated.metrics.value_clipfrac, expected.clipfrac, "value_clipfrac")
        closeAll(evaluated.gradients["values"]!, expected.gradient, "gradient", 1e-7)
      }).pipe(Effect.provide(oneThread))
    )
  }

  it.effect("that moved less than they may are clipped nowhere, whatever rounding does", () =>
    Effect.gen(function* () {
      const drawn = sampled(400, 8)
      const small = (values: ReadonlyArray<number>) => single(values.map((value) => value / 10))
      const tokens = { ...drawn, newValues: small(drawn.advantages), values: small(drawn.values) }
      const { metrics } = yield* LossGraph.evaluate(
        PpoLoss.value({ valueClipRange: 0.5 }),
        { values: tokens.newValues },
        valueFields({ ...tokens, returns: small(drawn.returns) })
      )
      assert.strictEqual(metrics.value_clipfrac, 0)
    }).pipe(Effect.provide(oneThread))
  )
})

describe("pretraining text", () => {
  const ptx = { coef: 27.8, examplesPerEpisode: 8 }
  const drawn = sampled(60, 9)
  // Every third token is of pretraining text, which has no log-prob at sampling, no advantage, and no value.
  const isText = (_: unknown, n: number) => n % 3 === 2
  const blank = (values: ReadonlyArray<number>) => values.map((value, n) => (isText(value, n) ? 0 : value))
  const mixed = {
    ...drawn,
    logprobs: blank(drawn.logprobs),
    advantages: blank(drawn.advantages),
    values: blank(drawn.values),
    returns: blank(drawn.returns)
  }
  const answers = Object.fromEntries(
    Object.entries(drawn).map(([name, values]) => [
      name,
      (values as ReadonlyArray<number>).filter((v, n) => !isText(v, n))
    ])
  ) as unknown as Tokens
  const share = (of: boolean) => drawn.logprobs.map((value, n) => (isText(value, n) === of ? 1 / (of ? 20 : 40) : 0))
  const fields = {
    ...valueFields(mixed),
    ...policyFields(mixed),
    sampled: share(false),
    pretraining: share(true)
  }
  const entropy = entropies(60)
  const answerEntropy = mean(entropy.filter((value, n) => !isText(value, n)))
  // At temperature 1, where the text is read, its log-probs are others than at that of sampling.
  const untempered = single(drawn.newLogprobs.map((logprob) => logprob / 2))

  for (const temperature of [1, 0.7]) {
    it.effect(
      `counts with its own weights, at temperature 1, and changes no metric of the answers: ${temperature}`,
      () =>
        Effect.gen(function* () {
          const { gradients, loss, metrics } = yield* LossGraph.evaluate(
            PpoLoss.policy({ ...settings, temperature, ptx }),
            { ...(temperature === 1 ? {} : { "logprobs at 1": untempered }), ...said(mixed, temperature) },
            fields
          )
          const expected = policyOf(answers)
          const text = (temperature === 1 ? drawn.newLogprobs : untempered).filter(isText)
          const { gradient, loss: policyLoss, ...rest } = expected
          close(metrics.ptx_loss, -mean(text), "ptx_loss")
          close(loss, policyLoss - 27.8 * mean(text), "loss")
          for (const [name, value] of Object.entries({ ...rest, entropy: answerEntropy, policy_loss: policyLoss })) {
            close(metrics[name as "ratio"], value, name)
          }
          const tempered = gradients[`logprobs at ${temperature}`]!
          closeAll(
            tempered.filter((v, n) => !isText(v, n)),
            gradient,
            "gradient of the answers",
            1e-7
          )
          const ofText = gradients["logprobs at 1"]!.filter(isText)
          closeAll(ofText, ones(20, -27.8 / 20), "gradient of the text")
          if (temperature === 1) return
          assert.deepStrictEqual(tempered.filter(isText), Array.from(ones(20, 0)))
          assert.isTrue(gradients["logprobs at 1"]!.every((slope, n) => isText(slope, n) || slope === 0))
        }).pipe(Effect.provide(oneThread))
    )
  }

  it.effect("without ptx is not read", () =>
    Effect.gen(function* () {
      const { loss, metrics } = yield* LossGraph.evaluate(PpoLoss.policy(settings), said(mixed), fields)
      close(loss, policyOf(answers).loss, "loss")
      assert.strictEqual(metrics.ptx_loss, 0)
    }).pipe(Effect.provide(oneThread))
  )

  it.effect("and values add up with a policy that shares their trunk", () =>
    Effect.gen(function* () {
      const shared = PpoLoss.shared({ ...settings, ptx, valueCoef: 0.4 })
      const both = yield* LossGraph.evaluate(shared, said(mixed), fields)
      const policy = yield* LossGraph.evaluate(PpoLoss.policy({ ...settings, ptx }), said(mixed), fields)
      const value = yield* LossGraph.evaluate(PpoLoss.value(settings), said(mixed), fields)
      close(value.loss, valueOf(answers, 0.2).loss, "value loss of the answers alone")
      close(both.loss, policy.loss + 0.4 * value.loss, "loss")
      assert.deepStrictEqual(both.metrics, { ...policy.metrics, ...value.metrics })
      closeAll(both.gradients["logprobs at 1"]!, policy.gradients["logprobs at 1"]!, "policy's gradient")
      closeAll(
        both.gradients["values"]!,
        value.gradients["values"]!.map((slope) => 0.4 * slope),
        "values' gradient",
        1e-8
      )
    }).pipe(Effect.provide(oneThread))
  )
})

describe("the total", () => {
  it.effect("R12: adds values, and pretraining text, to the policy", () =>
    Effect.gen(function* () {
      // The tokens of R10, whose values are those of R11 and one without an error; then a token of text.
      const { logprobs, ratios } = r10
      const said = {
        "logprobs at 1": [...logprobs.map((logprob, n) => logprob + Math.log(ratios[n]!)), -0.03],
        "entropy at 1": ones(6),
        values: [...r11.newValues, 0, 0]
      }
      const fields = {
        sampled: [...ones(5, 0.2), 0],
        pretraining: [...ones(5, 0), 1],
        logprobs: [...logprobs, 0],
        advantages: [1, 1, -2, -1, -1, 0],
        values: [...r11.values, 0, 0],
        returns: [...r11.returns, 0, 0]
      }
      // The fifth token makes the mean of R11 four fifths of it.
      const withValues = { ...settings, valueCoef: 0.1 / 0.8 }
      const withText = { ...settings, ptx: { coef: 27.8, examplesPerEpisode: 8 } }
      const plain = yield* LossGraph.evaluate(PpoLoss.shared(withValues), said, fields)
      close(plain.loss, 0.53615625, "policy and values")
      const text = yield* LossGraph.evaluate(PpoLoss.policy(withText), said, fields)
      close(text.loss, 1.354, "policy and text")
      const all = yield* LossGraph.evaluate(
        PpoLoss.shared({ ...withText, valueCoef: withValues.valueCoef }),
        said,
        fields
      )
      close(all.loss, 1.37015625, "all")
    }).pipe(Effect.provide(oneThread))
  )
})
