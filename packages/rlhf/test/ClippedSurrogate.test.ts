import { Kl } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Advantage from "../src/Advantage.ts"
import * as ClippedSurrogate from "../src/ClippedSurrogate.ts"
import * as TokenReward from "../src/TokenReward.ts"

const closeTo = (actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-8) => {
  assert.strictEqual(actual.length, expected.length)
  for (let i = 0; i < expected.length; i++) assert.closeTo(actual[i]!, expected[i]!, tolerance, `index ${i}`)
}

const tokens = {
  ratios: [1.5, 0.5, 1.1, 0.7, 1.3],
  advantages: [1, 1, -2, -1, -1]
}

describe("the policy", () => {
  it("R10: loses the larger of both surrogates, token by token", () => {
    const losses = ClippedSurrogate.policyLosses(tokens.ratios, tokens.advantages, 0.2)
    closeTo(losses, [-1.2, -0.5, 2.2, 0.8, 1.3])
    assert.closeTo(ClippedSurrogate.tokenMean([losses]), 0.52, 1e-8)
  })

  it("R10: is clipped at the first and the fourth token", () => {
    const clipped = ClippedSurrogate.policyClipped(tokens.ratios, tokens.advantages, 0.2)
    assert.deepStrictEqual(clipped, Float64Array.of(1, 0, 0, 1, 0))
    assert.closeTo(ClippedSurrogate.tokenMean([clipped]), 0.4, 1e-15)
  })

  it("R10b: has moved by as much as k2 and k3 say", () => {
    const logprobs = [-1, -2, -0.5, -3, -0.1]
    const newLogprobs = logprobs.map((logprob, n) => logprob + Math.log(tokens.ratios[n]!))
    closeTo(ClippedSurrogate.ratios(newLogprobs, logprobs), tokens.ratios, 1e-12)
    const mean = (estimator: "k2" | "k3") =>
      ClippedSurrogate.tokenMean([ClippedSurrogate.approxKl(newLogprobs, logprobs, estimator)])
    assert.closeTo(mean("k2"), 0.0849991, 1e-8)
    assert.closeTo(mean("k3"), 0.07733651, 1e-8)
  })

  it("measures the divergence of the sampling policy from the updated one, as Kl does", () => {
    const [logprobs, newLogprobs] = [Float32Array.of(-1, -2, -0.5), Float32Array.of(-1.25, -1.5, -0.5)]
    for (const estimator of ["k2", "k3"] as const) {
      closeTo(
        ClippedSurrogate.approxKl(newLogprobs, logprobs, estimator),
        Kl.estimate(logprobs, newLogprobs, estimator),
        1e-7
      )
    }
  })
})

describe("the critic", () => {
  const newValues = [0.9, 0.2, 0.6, 0.55]
  const values = [0.5, 0.5, 0.5, 0.5]
  const returns = [1, 1, 0, 1]

  it("R11: loses half the larger of both errors", () => {
    const losses = ClippedSurrogate.valueLosses(newValues, values, returns, 0.2)
    closeTo(
      losses.map((loss) => 2 * loss),
      [0.09, 0.64, 0.36, 0.2025]
    )
    assert.closeTo(ClippedSurrogate.tokenMean([losses]), 0.1615625, 1e-8)
    assert.deepStrictEqual(ClippedSurrogate.valueClipped(newValues, values, returns, 0.2), Float64Array.of(1, 0, 0, 0))
  })

  it("loses half the squared error where nothing is clipped", () => {
    closeTo(ClippedSurrogate.valueLosses(newValues, values, returns), [0.005, 0.32, 0.18, 0.10125], 1e-15)
  })
})

describe("the batch", () => {
  it("R12: adds the critic and the pretraining text to the policy", () => {
    const valueLoss = 0.1615625
    assert.closeTo(ClippedSurrogate.total({ policyLoss: 0.52, valueLoss, valueCoef: 0.1 }), 0.53615625, 1e-12)
    assert.closeTo(ClippedSurrogate.total({ policyLoss: 0.52, lmLoss: 0.03, ptxCoef: 27.8 }), 1.354, 1e-12)
    assert.closeTo(
      ClippedSurrogate.total({ policyLoss: 0.52, valueLoss, valueCoef: 0.1, lmLoss: 0.03, ptxCoef: 27.8 }),
      1.37015625,
      1e-12
    )
  })

  it("R22: means over tokens, or over answers", () => {
    const losses = [
      [0.2, 0.4],
      [1, 1, 1, 1]
    ]
    assert.closeTo(ClippedSurrogate.tokenMean(losses), 0.76666667, 1e-8)
    assert.closeTo(ClippedSurrogate.sequenceMean(losses), 0.65, 1e-12)
  })

  it("leaves out answers without tokens, and has no mean without any", () => {
    assert.strictEqual(ClippedSurrogate.sequenceMean([[], [1, 2]]), 1.5)
    assert.strictEqual(ClippedSurrogate.tokenMean([[], [1, 2]]), 1.5)
    for (const mean of [ClippedSurrogate.tokenMean, ClippedSurrogate.sequenceMean]) assert.isNaN(mean([[]]))
  })

  it("throws on lengths that differ", () => {
    assert.throws(() => ClippedSurrogate.ratios([1, 2], [1]), /1 logprobs for 2 tokens/)
    assert.throws(() => ClippedSurrogate.policyLosses([1], [1, 2], 0.2), /2 advantages for 1 tokens/)
    assert.throws(() => ClippedSurrogate.valueLosses([1], [1], [1, 2], 0.2), /2 returns for 1 tokens/)
    assert.throws(() => ClippedSurrogate.tokenMean([[1]], []), /0 masks for 1 answers/)
    assert.throws(() => ClippedSurrogate.tokenMean([[1, 2]], [[1]]), RangeError)
  })
})

const within = (minimum: number, maximum: number) => Schema.Finite.check(Schema.isBetween({ minimum, maximum }))

const token = Schema.Struct({
  logprob: within(-8, 0),
  newLogprob: within(-8, 0),
  refLogprob: within(-8, 0),
  value: within(-2, 2),
  newValue: within(-2, 2)
})

type Token = typeof token.Type

interface Answer {
  readonly tokens: ReadonlyArray<Token>
  readonly score: number
}

const answer: Arbitrary.Arbitrary<Answer> = Arbitrary.all({
  tokens: Arbitrary.array(Arbitrary.schema(token), { minLength: 1, maxLength: 6 }),
  score: Arbitrary.schema(within(-3, 3))
})

// An answer that stands apart from all others, so that advantages and returns vary.
const apart: Answer = {
  tokens: [{ logprob: -1, newLogprob: -1.5, refLogprob: -2, value: 1, newValue: 2 }],
  score: 30
}

const batch = Arbitrary.array(answer, { minLength: 1, maxLength: 5 }).pipe(
  Arbitrary.map((answers) => [...answers, apart])
)

const column = ({ tokens }: Answer, name: keyof Token) => Float32Array.from(tokens, (token) => token[name])

/** The columns of a batch that a learner is given, with as many cells of padding behind every answer. */
const prepare = (answers: ReadonlyArray<Answer>, padding: number) => {
  const pad = (row: ArrayLike<number>) => [...Array.from(row), ...Array<number>(padding).fill(Number.NaN)]
  const credits = answers.map((answer) => {
    const [logprobs, refLogprobs] = [column(answer, "logprob"), column(answer, "refLogprob")]
    const rewards = TokenReward.tokenRewards(logprobs, refLogprobs, answer.score, { klCoef: 0.05 })
    return Advantage.gae(rewards, column(answer, "value"))
  })
  const masks = answers.map(({ tokens }) => [...tokens.map(() => 1), ...Array<number>(padding).fill(0)])
  const raw = credits.flatMap(({ advantages }) => pad(advantages))
  const whitened = [...Advantage.whiten(raw, { mask: masks.flat() })]
  return {
    masks,
    advantages: masks.map(({ length }) => whitened.splice(0, length)),
    returns: credits.map(({ returns }) => pad(returns)),
    of: (name: keyof Token) => answers.map((answer) => pad(column(answer, name)))
  }
}

/** Everything that is computed of a batch. */
const quantities = (answers: ReadonlyArray<Answer>, padding = 0) => {
  const { advantages, masks, of, returns } = prepare(answers, padding)
  const [logprobs, newLogprobs, values, newValues] = [of("logprob"), of("newLogprob"), of("value"), of("newValue")]
  const ratios = newLogprobs.map((row, b) => ClippedSurrogate.ratios(row, logprobs[b]!))
  const perToken = {
    policy: ratios.map((row, b) => ClippedSurrogate.policyLosses(row, advantages[b]!, 0.2)),
    clipped: ratios.map((row, b) => ClippedSurrogate.policyClipped(row, advantages[b]!, 0.2)),
    value: newValues.map((row, b) => ClippedSurrogate.valueLosses(row, values[b]!, returns[b]!, 0.2)),
    valueClipped: newValues.map((row, b) => ClippedSurrogate.valueClipped(row, values[b]!, returns[b]!, 0.2)),
    k2: newLogprobs.map((row, b) => ClippedSurrogate.approxKl(row, logprobs[b]!, "k2")),
    k3: newLogprobs.map((row, b) => ClippedSurrogate.approxKl(row, logprobs[b]!, "k3"))
  }
  return [
    ...Object.values(perToken).flatMap((rows) => [
      ClippedSurrogate.tokenMean(rows, masks),
      ClippedSurrogate.sequenceMean(rows, masks)
    ]),
    Advantage.explainedVariance(values.flat(), returns.flat(), masks.flat())
  ]
}

const relative = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>) => {
  for (const [i, value] of expected.entries()) {
    assert.isFalse(Number.isNaN(value), `quantity ${i}`)
    assert.closeTo(actual[i]!, value, 1e-9 * (1 + Math.abs(value)), `quantity ${i}`)
  }
}

describe("laws", () => {
  it.prop("before the first update the loss is 0 after whitening, and nothing is clipped", [batch], ([answers]) => {
    const { advantages, of } = prepare(answers, 0)
    const ratios = of("logprob").map((row) => ClippedSurrogate.ratios(row, row))
    const losses = ratios.map((row, b) => ClippedSurrogate.policyLosses(row, advantages[b]!, 0.2))
    for (const [b, row] of losses.entries())
      closeTo(
        row,
        advantages[b]!.map((advantage) => -advantage),
        0
      )
    assert.closeTo(ClippedSurrogate.tokenMean(losses), 0, 1e-9)
    for (const [b, row] of ratios.entries()) {
      assert.isTrue(ClippedSurrogate.policyClipped(row, advantages[b]!, 0.2).every((clipped) => clipped === 0))
    }
  })

  it.prop("the order of the answers changes nothing", [batch], ([answers]) => {
    const [first, ...rest] = answers
    relative(quantities([...rest, first!]), quantities(answers))
    relative(quantities(answers.toReversed()), quantities(answers))
  })

  it.prop("padding on the right changes nothing", [batch], ([answers]) => {
    relative(quantities(answers, 1), quantities(answers))
    relative(quantities(answers, 7), quantities(answers))
  })
})
