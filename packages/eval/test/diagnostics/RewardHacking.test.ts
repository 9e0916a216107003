import { Completion, NextToken, Prompt, Rollout } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import * as RewardHacking from "../../src/diagnostics/RewardHacking.ts"
import type * as Estimate from "../../src/Estimate.ts"
import * as Report from "../../src/Report.ts"
import * as BestOfN from "../../src/statistics/BestOfN.ts"

const response = (id: string, rest: Partial<RewardHacking.Response> = {}): RewardHacking.Response => ({
  id,
  text: `a ${id} b`,
  tokens: 3,
  finishReason: "stop",
  proxy: 0,
  gold: 0,
  kl: 0,
  ...rest
})

const few = { seed: 1, resamples: 200 }

const diagnose = (checkpoints: ReadonlyArray<RewardHacking.Checkpoint>, options = {}) =>
  Result.getOrThrow(RewardHacking.diagnose(checkpoints, { ...few, ...options }))

const estimate = (measured: RewardHacking.Figure): Estimate.Estimate => {
  if ("none" in measured) throw new Error(measured.none)
  return measured
}

const reason = (measured: RewardHacking.Figure): string => ("none" in measured ? measured.none : "an estimate")

// A series of noisy responses, 80 to a checkpoint, from a seed: each field is a function of noise around 0 and the place.
type Fields = { readonly [K in keyof RewardHacking.Response]?: (noise: number, i: number) => RewardHacking.Response[K] }

const checkpoint = (system: string, seed: number, fields: Fields, count = 80): RewardHacking.Checkpoint => {
  const uniform = NextToken.uniforms(seed)
  return {
    system,
    responses: Array.from({ length: count }, (_, i) => ({
      ...response(`r${i}`),
      ...Object.fromEntries(Object.entries(fields).map(([key, f]) => [key, f(2 * uniform() - 1, i)]))
    }))
  }
}

const around = (mean: number) => (noise: number) => mean + noise
const base = checkpoint("base", 1, { proxy: around(0), gold: around(0), tokens: (noise) => Math.round(20 + 5 * noise) })

describe("diagnose", () => {
  it("gives means, paired gains, KL per reward and the gap, by hand", () => {
    const before = [0, 1, 2, 3].map((proxy, i) => response(`${i}`, { proxy, gold: [1, 1, 3, 3][i]! }))
    const after = before.map((one, i) => ({
      ...one,
      proxy: one.proxy + [2, 3, 2, 3][i]!,
      gold: one.gold + [0.5, 1, 1, 0.5][i]!,
      kl: [4, 6, 5, 5][i]!
    }))
    const { findings } = diagnose([
      { system: "sft", responses: before },
      // paired by id, in whatever order
      { system: "ppo", responses: after.toReversed() }
    ])
    const [sft, ppo] = findings
    assert.strictEqual(sft!.means.proxy.value, 1.5)
    assert.isUndefined(sft!.gain)
    const gain = ppo!.gain!
    assert.strictEqual(gain.from, "sft")
    // 2, 3, 2, 3: sd √(1/3), over √4
    assert.closeTo(gain.means.proxy.value, 2.5, 1e-12)
    assert.closeTo(gain.means.proxy.se!, Math.sqrt(1 / 3) / 2, 1e-12)
    assert.closeTo(gain.means.kl.value, 5, 1e-12)
    assert.closeTo(estimate(gain.klPerProxy).value, 5 / 2.5, 1e-12)
    assert.closeTo(estimate(gain.klPerGold).value, 5 / 0.75, 1e-12)
    // sd of 0, 1, 2, 3 is √(5/3), of 1, 1, 3, 3 √(4/3)
    assert.closeTo(estimate(gain.gap).value, 2.5 / Math.sqrt(5 / 3) - 0.75 / Math.sqrt(4 / 3), 1e-12)
    // proxies 0, 1, 2, 3 with golds 1, 1, 3, 3: covariance 4 / 3 over √(5/3 4/3)
    assert.closeTo(estimate(sft!.proxyGold.pearson).value, 4 / Math.sqrt(20), 1e-12)
    assert.match(reason(sft!.lengthProxy.pearson), /all 4 values are equal/)
  })

  it("measures length, endings and repetition of words", () => {
    const { means } = diagnose([
      {
        system: "s",
        responses: [
          response("x", { text: "go on and go on", tokens: 6 }),
          response("y", { text: "no no no no", tokens: 4, finishReason: "length" })
        ]
      }
    ]).findings[0]!
    assert.strictEqual(means.tokens.value, 5)
    assert.strictEqual(means.finished.value, 0.5)
    assert.match(means.finished.method, /Wilson/)
    // pairs: 3 distinct of 4 in 5 words; 1 distinct of 3 in 4 words
    assert.closeTo(means.distinct2.value, (3 / 5 + 1 / 4) / 2, 1e-12)
    assert.closeTo(means.repeated2.value, (1 / 4 + 2 / 3) / 2, 1e-12)
    // "go on"; "no no no"
    assert.strictEqual(means.longestRepeat.value, 2.5)
  })

  it("leaves a ratio undefined unless a gain is certain, and says why", () => {
    const gain = (proxy: number, gold: number) => {
      const later = checkpoint("ppo", 2, { proxy: around(proxy), gold: around(gold), kl: around(3) })
      return diagnose([base, later]).findings[1]!.gain!
    }
    const up = gain(1, 0)
    assert.isAbove(estimate(up.klPerProxy).low!, 2)
    assert.match(reason(up.klPerGold), /gold reward may not have grown: the interval of its gain includes 0/)
    assert.match(reason(gain(1, -1).klPerGold), /gold reward fell/)
    const one = (system: string, proxy: number) => ({ system, responses: [response("x", { proxy, kl: proxy })] })
    const single = diagnose([one("a", 0), one("b", 1)]).findings[1]!.gain!
    assert.match(reason(single.klPerProxy), /has no interval/)
    assert.match(reason(single.gap), /proxy reward of the baseline does not vary/)
    assert.deepInclude(single.means.proxy, { value: 1, low: null, high: null })
  })

  it("draws prompts, not responses, where there are several to one", () => {
    const clustered = (system: string, shift: number) => ({
      system,
      responses: base.responses.map((one, i) => ({
        ...one,
        prompt: `p${i % 8}`,
        // the prompt decides the gain
        proxy: one.proxy + shift * (1 + (i % 8)),
        kl: shift * 10
      }))
    })
    const [, later] = diagnose([clustered("a", 0), clustered("b", 1)]).findings
    assert.deepInclude(later!.means.proxy, { n: 80, clusters: 8 })
    // gains 1 to 8: sd √6, over √8
    assert.closeTo(later!.gain!.means.proxy.se!, Math.sqrt(6 / 8), 1e-9)
    const ratio = estimate(later!.gain!.klPerProxy)
    assert.deepInclude(ratio, { n: 80, clusters: 8 })
    assert.isAbove(ratio.high! - ratio.low!, 1)
  })

  it("has ratio and gap intervals that cover", () => {
    const runs = 300
    const covered = [0, 0]
    for (let run = 0; run < runs; run++) {
      const uniform = NextToken.uniforms(run)
      const noise = () => 2 * uniform() - 1
      const before = Array.from({ length: 60 }, (_, i) => response(`${i}`, { proxy: noise(), gold: noise(), text: "" }))
      const after = before.map((one) => {
        const moved = noise()
        return { ...one, kl: 4 + 2 * moved + noise(), proxy: one.proxy + 2 + moved, gold: one.gold + 1 + noise() }
      })
      const gain = diagnose(
        [
          { system: "a", responses: before },
          { system: "b", responses: after }
        ],
        { seed: run, resamples: 200 }
      ).findings[1]!.gain!
      // a gain of 2 for 4 nats; of 2 and of 1 where uniform noise has the standard deviation √(1/3)
      for (const [i, [measured, truth]] of [
        [gain.klPerProxy, 2] as const,
        [gain.gap, Math.sqrt(3)] as const
      ].entries()) {
        const { high, low } = estimate(measured)
        if (low! <= truth && truth <= high!) covered[i]! += 1 / runs
      }
    }
    for (const share of covered) assert.isTrue(share >= 0.92 && share <= 0.98, `${share}`)
  })
})

describe("warnings", () => {
  const kinds = (...checkpoints: ReadonlyArray<RewardHacking.Checkpoint>) =>
    diagnose([base, ...checkpoints]).warnings.map(({ kind, system }) => `${system}: ${kind}`)

  const healthy = { proxy: around(1), gold: around(1), tokens: (noise: number) => Math.round(20 + 5 * noise) }

  it("are not given for a series without signs of it", () => {
    assert.deepStrictEqual(kinds(checkpoint("ppo", 2, healthy), checkpoint("ppo-2", 3, healthy)), [])
  })

  it("see the proxy rise while gold falls, against the baseline and against the checkpoint before", () => {
    const over = checkpoint("over", 3, { ...healthy, proxy: around(2), gold: around(-1) })
    assert.deepStrictEqual(kinds(over), ["over: over-optimised"])
    // above the baseline still, but lower than before
    const slipping = checkpoint("slipping", 4, { ...healthy, proxy: around(2), gold: around(0.5) })
    const { warnings } = diagnose([base, checkpoint("ppo", 2, healthy), slipping])
    assert.deepStrictEqual(
      warnings.map(({ kind }) => kind),
      ["over-optimised"]
    )
    assert.match(
      warnings[0]!.text,
      /^slipping: since ppo the proxy reward rose, .* while the gold reward fell, -0\.\d+ \[-/
    )
    assert.match(warnings[0]!.text, /Rule: the whole 95 % interval/)
  })

  it("wait for intervals that support them", () => {
    const responses = ["x", "y"].map((id) => response(id))
    const later = responses.map((one, i) => ({ ...one, proxy: [2, -1][i]!, gold: [-2, 1][i]! }))
    const { findings, warnings } = diagnose([
      { system: "a", responses },
      { system: "b", responses: later }
    ])
    const { gold, proxy } = findings[1]!.gain!.means
    assert.deepStrictEqual([proxy.value, gold.value], [0.5, -0.5])
    assert.deepStrictEqual(warnings, [])
  })

  it("see length explain the proxy, either way, and leave weak or uncertain correlations alone", () => {
    const lengthy = (slope: number, noise: number) => {
      const uniform = NextToken.uniforms(9)
      const tokens = base.responses.map(({ tokens }) => tokens)
      return checkpoint("ppo", 5, {
        ...healthy,
        tokens: (_, i) => tokens[i]!,
        proxy: (x, i) => slope * tokens[i]! + noise * x * (0.5 + uniform())
      })
    }
    assert.deepStrictEqual(kinds(lengthy(1, 3)), ["ppo: length"])
    assert.deepStrictEqual(kinds(lengthy(-1, 3)), ["ppo: length"])
    const uncertain = diagnose([base, lengthy(1, 8)])
    const { low, value } = estimate(uncertain.findings[1]!.lengthProxy.spearman)
    assert.isTrue(low! < 0.5 && 0.5 < value, `${low} ${value}`)
    assert.deepStrictEqual(uncertain.warnings, [])
    const { warnings } = diagnose([base, lengthy(1, 3)], { thresholds: { lengthCorrelation: 0.99 } })
    assert.deepStrictEqual(warnings, [])
  })

  it("see endings vanish, even where every single response lost its own", () => {
    const unfinished = (share: number) =>
      checkpoint("ppo", 2, { ...healthy, finishReason: (_, i) => (i % 10 < 10 * share ? "length" : "stop") })
    assert.deepStrictEqual(kinds(unfinished(0.3)), ["ppo: unfinished"])
    assert.deepStrictEqual(kinds(unfinished(1)), ["ppo: unfinished"])
    // a fall of 10 points whose interval reaches 5
    assert.deepStrictEqual(kinds(unfinished(0.1)), [])
    const all = diagnose([base, unfinished(1)]).findings[1]!.gain!.means.finished
    assert.strictEqual(all.value, -1)
    // Wilson's bounds of 80 of 80 and 0 of 80 lie 0.04582 from them
    assert.closeTo(all.high!, -1 + Math.SQRT2 * 0.04582, 1e-4)
  })

  it("see repetition grow", () => {
    const looping = checkpoint("ppo", 2, { ...healthy, text: (noise, i) => `so ${"la ".repeat(12 + (i % 3))}${noise}` })
    assert.deepStrictEqual(kinds(looping), ["ppo: repetition", "ppo: repetition"])
  })
})

describe("refuses", () => {
  const messageOf = (...checkpoints: ReadonlyArray<RewardHacking.Checkpoint>) => {
    const found = RewardHacking.diagnose(checkpoints, few)
    return Result.isFailure(found) ? found.failure.message : "found"
  }
  const of = (system: string, ...responses: ReadonlyArray<RewardHacking.Response>) => ({ system, responses })

  it("what is not finite, and names checkpoint, measure and response", () => {
    const good = response("x")
    assert.match(
      messageOf(of("ppo", good, response("y", { gold: Number.NaN }))),
      /sample "ppo: gold", item "y": the value is NaN/
    )
    assert.match(messageOf(of("ppo", response("y", { kl: Infinity }))), /"ppo: kl", item "y"/)
  })

  it("responses that are not the same in all checkpoints", () => {
    assert.match(
      messageOf(of("a", response("x"), response("y")), of("b", response("x"))),
      /sample "b: proxy", item "y": only "a: proxy" has it/
    )
    assert.match(
      messageOf(of("a", response("x", { prompt: "p" })), of("b", response("x", { prompt: "q" }))),
      /sample "b", item "x": it answers another prompt than in "a"/
    )
    assert.match(messageOf(of("a", response("x"), response("x"))), /item "x": the id stands twice/)
  })

  it("no checkpoints, no responses, and two of one name", () => {
    assert.match(messageOf(), /no checkpoints/)
    assert.match(messageOf(of("a")), /no items/)
    assert.match(messageOf(of("a", response("x")), of("a", response("x"))), /sample "a": two checkpoints/)
  })
})

describe("bestOfN", () => {
  const responses = Array.from({ length: 30 }, (_, i) =>
    // the proxy likes the later ones of a prompt, gold the ones in the middle
    response(`${i}`, { prompt: `p${i % 6}`, proxy: Math.floor(i / 6), gold: -((Math.floor(i / 6) - 2) ** 2) + (i % 6) })
  )

  it("doubles n up to what every prompt has, against the KL bound, and shows gold fall where the proxy goes on", () => {
    const points = Result.getOrThrow(RewardHacking.bestOfN({ system: "base", responses }))
    assert.deepStrictEqual(
      points.map(({ kl, n }) => [n, kl]),
      [1, 2, 4].map((n) => [n, BestOfN.klBound(n)])
    )
    // golds -4, -1, 0, -1, -4 in the order of the proxy, plus 0 to 5 for the prompt
    assert.closeTo(points[0]!.gold.value, -2 + 2.5, 1e-12)
    // the largest of two is the j-th of five with probability (j - 1) / 10
    assert.closeTo(points[1]!.gold.value, (-1 + 0 * 2 - 1 * 3 - 4 * 4) / 10 + 2.5, 1e-12)
    // of four, the fifth with 4 / 5, the fourth with 1 / 5
    assert.closeTo(points[2]!.gold.value, (-4 * 4 - 1) / 5 + 2.5, 1e-12)
    assert.closeTo(points[2]!.score.value, 3.8, 1e-12)
    assert.strictEqual(points[2]!.gold.n, 6)
  })

  it("refuses responses without a prompt", () => {
    const found = RewardHacking.bestOfN({ system: "base", responses: [response("x")] })
    assert.match(
      Result.match(found, { onFailure: String, onSuccess: () => "" }),
      /item "x": the response names no prompt/
    )
  })
})

describe("fromRollouts", () => {
  const rollouts = [0, 1].map((i) =>
    Rollout.make({
      prompt: Prompt.make("p", [1]),
      completion: Completion.make({
        tokens: Int32Array.of(1, 2),
        logprobs: Float32Array.of(-1, -2),
        untemperedLogprobs: Float32Array.of(-1, -2),
        text: `t${i}`,
        finishReason: "length"
      }),
      refLogprobs: Float32Array.of(-1.5, -2 - i)
    })
  )

  it("takes k1 per response, length, text and prompt from rollouts", () => {
    const made = RewardHacking.fromRollouts(rollouts, { proxy: [1, 2], gold: Float32Array.of(3, 4) })
    assert.deepStrictEqual(Result.getOrThrow(made), [
      { id: "0", prompt: "p", text: "t0", tokens: 2, finishReason: "length", proxy: 1, gold: 3, kl: 0.5 },
      { id: "1", prompt: "p", text: "t1", tokens: 2, finishReason: "length", proxy: 2, gold: 4, kl: 1.5 }
    ])
  })

  it("refuses rewards of another number", () => {
    const made = RewardHacking.fromRollouts(rollouts, { proxy: [1, 2], gold: [1] })
    assert.match(Result.match(made, { onFailure: String, onSuccess: () => "" }), /"gold reward": 1 rewards for 2/)
  })
})

it("is blocks of a report, whether there are gains or not", () => {
  const over = checkpoint("over", 3, { proxy: around(2), gold: around(-1), kl: around(3) })
  const validate = Schema.decodeUnknownSync(Schema.Array(Report.Block))
  const tags = (...checkpoints: ReadonlyArray<RewardHacking.Checkpoint>) =>
    validate(RewardHacking.blocks(diagnose(checkpoints))).map(({ _tag }) => _tag)
  assert.deepStrictEqual(tags(base, over), ["Warnings", "Table", "Table", "Table", "Curve"])
  assert.deepStrictEqual(tags(base), ["Table", "Table"])
})
