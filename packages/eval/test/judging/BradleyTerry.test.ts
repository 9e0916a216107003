import { readFileSync } from "node:fs"
import { NextToken } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as BradleyTerry from "../../src/judging/BradleyTerry.ts"
import type { Preference } from "../../src/judging/Judge.ts"
import * as WinRate from "../../src/judging/WinRate.ts"

const golden: {
  readonly strengths: ReadonlyArray<{
    readonly wins: ReadonlyArray<ReadonlyArray<number>>
    readonly strengths: ReadonlyArray<number>
  }>
} = JSON.parse(readFileSync(new URL("./Comparison.golden.json", import.meta.url), "utf8"))

const few = { seed: 1, resamples: 200 }
const matches = (first: string, second: string, results: string): ReadonlyArray<BradleyTerry.Match> =>
  [...results].map((letter) => {
    const preference: Preference = letter === "w" ? "first" : letter === "l" ? "second" : "tie"
    return { first, second, preference }
  })
const fitted = (data: ReadonlyArray<BradleyTerry.Match>, options: BradleyTerry.Options = few) =>
  Result.getOrThrow(BradleyTerry.fit(data, options))
const refused = (data: ReadonlyArray<BradleyTerry.Match>) => Result.getOrThrow(Result.flip(BradleyTerry.fit(data, few)))
const screen = (id: string, ranks: Record<string, number>): WinRate.Screen => ({ session: "main", id, ranks })

describe("strengths", () => {
  it("are those of statsmodels and of the MM algorithm", () => {
    assert.isAtLeast(golden.strengths.length, 3)
    for (const { strengths, wins } of golden.strengths) {
      const own = BradleyTerry.strengths(wins)!
      for (const [i, strength] of strengths.entries()) assert.closeTo(own[i]!, strength, 1e-10)
    }
  })

  it("of two systems are half the log odds", () => {
    const [one, other] = BradleyTerry.strengths([
      [0, 7],
      [3, 0]
    ])!
    assert.closeTo(one!, Math.log(7 / 3) / 2, 1e-12)
    assert.closeTo(other!, -Math.log(7 / 3) / 2, 1e-12)
  })

  const chain = [
    [0, 999, 0, 0],
    [1, 0, 999, 0],
    [0, 1, 0, 9999],
    [0, 0, 1, 0]
  ]

  it("make the expected wins of each system those it has, however far apart they are", () => {
    // On the second, Newton's full steps run away.
    const runaway = [
      [0, 0, 2, 0, 23],
      [0, 0, 4, 26458, 0],
      [483, 16539, 0, 0, 69670],
      [16058, 0, 0, 0, 8],
      [2, 0, 0, 3, 0]
    ]
    for (const wins of [chain, runaway]) {
      const strengths = BradleyTerry.strengths(wins)!
      for (const [i, row] of wins.entries()) {
        const expected = row.reduce((sum, won, j) => {
          return sum + (won + wins[j]![i]!) / (1 + Math.exp(strengths[j]! - strengths[i]!))
        }, 0)
        const own = row.reduce((sum, won) => sum + won, 0)
        assert.closeTo(expected / own, 1, 1e-9)
      }
    }
    const strengths = BradleyTerry.strengths(chain)!
    assert.closeTo(strengths[0]! - strengths[3]!, Math.log(999 * 999 * 9999), 1e-6)
  })

  it("do not exist where a group never won against the others", () => {
    assert.isUndefined(
      BradleyTerry.strengths([
        [0, 2],
        [0, 0]
      ])
    )
    const disconnected = [
      [0, 1, 0, 0],
      [1, 0, 0, 0],
      [0, 0, 0, 1],
      [0, 0, 1, 0]
    ]
    assert.isUndefined(BradleyTerry.strengths(disconnected))
  })
})

describe("fit", () => {
  it("counts ties as half a win for each", () => {
    const { strengths, systems } = fitted(matches("a", "b", "wwwt"))
    assert.deepStrictEqual(systems, ["a", "b"])
    assert.closeTo(strengths[0]!.value, Math.log(3.5 / 0.5) / 2, 1e-9)
    assert.strictEqual(strengths[0]!.n, 4)
  })

  it("finds the strengths that comparisons were drawn from, inside its intervals", () => {
    const truth = [0.9, 0.2, -0.3, -0.8]
    const uniforms = NextToken.uniforms(11)
    const data = Array.from({ length: 1200 }, (): BradleyTerry.Match => {
      const [i, shift] = [Math.floor(uniforms() * 4), 1 + Math.floor(uniforms() * 3)]
      const j = (i + shift) % 4
      const won = uniforms() < 1 / (1 + Math.exp(truth[j]! - truth[i]!))
      return { first: `s${i}`, second: `s${j}`, preference: won ? "first" : "second" }
    })
    const { strengths, systems } = fitted(data, { seed: 3, resamples: 500, confidence: 0.99 })
    for (const [i, estimate] of strengths.entries()) {
      const expected = truth[Number(systems[i]!.slice(1))]!
      assert.isBelow(estimate.low!, expected)
      assert.isAbove(estimate.high!, expected)
      assert.isBelow(estimate.high! - estimate.low!, 0.6)
    }
  })

  it("gives differences of strengths, each the mirror of the other way round", () => {
    const data = [...matches("a", "b", "wwwlwwtl"), ...matches("b", "c", "wlwwtwll"), ...matches("c", "a", "lwltlllw")]
    const { differences, strengths } = fitted(data)
    assert.closeTo(differences[0]![1]!.value, strengths[0]!.value - strengths[1]!.value, 1e-12)
    assert.strictEqual(differences[1]![0]!.value, -differences[0]![1]!.value)
    assert.strictEqual(differences[1]![0]!.low, -differences[0]![1]!.high!)
    assert.strictEqual(differences[2]![2]!.high, 0)
    assert.closeTo(
      strengths.reduce((sum, { value }) => sum + value, 0),
      0,
      1e-12
    )
  })

  it("draws whole clusters, so that copies of a comparison do not narrow the interval", () => {
    const single = matches("a", "b", "wwlwltwlww".repeat(2)).map((match, i) => ({ ...match, cluster: `p${i}` }))
    const copies = single.flatMap((match) => [match, match, match, match])
    const width = (data: ReadonlyArray<BradleyTerry.Match>) => {
      const { high, low } = fitted(data, { seed: 2, resamples: 1000 }).strengths[0]!
      return high! - low!
    }
    assert.closeTo(width(copies), width(single), 1e-9)
    const [copied] = fitted(copies).strengths
    assert.strictEqual(copied!.n, 80)
    assert.strictEqual(copied!.clusters, 20)
    assert.isBelow(width(copies.map(({ cluster: _, ...match }) => match)), 0.7 * width(single))
  })

  it("leaves out resamples without strengths and says how many", () => {
    const { strengths } = fitted(matches("a", "b", "wwwwwwwwl"))
    assert.match(strengths[0]!.method, /\d+ left out where the statistic is not finite/)
    assert.match(fitted(matches("a", "b", "wwww"), { ...few, prior: 1 }).strengths[0]!.method, /no interval/)
    const kept = fitted(matches("a", "b", "wwwwwwwwl"), { ...few, prior: 1 }).strengths[0]!
    assert.notMatch(kept.method, /left out/)
  })

  it("takes a prior of ties, with which strengths always exist", () => {
    const { strengths } = fitted(matches("a", "b", "www"), { ...few, prior: 1 })
    assert.closeTo(strengths[0]!.value, Math.log(3.5 / 0.5) / 2, 1e-9)
    assert.throws(() => fitted(matches("a", "b", "w"), { ...few, prior: -1 }), /a prior is a finite number from 0/)
  })

  it("has no interval of one comparison or one cluster", () => {
    const one = fitted(matches("a", "b", "t")).strengths[0]!
    assert.strictEqual(one.value, 0)
    assert.isNull(one.low)
    const cluster = fitted(matches("a", "b", "wwl").map((match) => ({ ...match, cluster: "p" }))).strengths[0]!
    assert.isNull(cluster.low)
    assert.strictEqual(cluster.method, "one cluster, no interval")
    assert.strictEqual(cluster.n, 3)
  })

  it("names the systems that never won, and what is no comparison", () => {
    const lost = refused([...matches("a", "b", "wl"), ...matches("a", "c", "ww"), ...matches("b", "c", "w")])
    assert.deepStrictEqual(lost.systems, ["c"])
    assert.match(lost.message, /"c" never won or tied against "a", "b".*give a prior/)
    const best = refused([...matches("a", "b", "ww"), ...matches("b", "c", "wl")])
    assert.deepStrictEqual(best.systems, ["b", "c"])
    const apart = refused([...matches("a", "b", "wl"), ...matches("c", "d", "wl")])
    assert.deepStrictEqual(apart.systems, ["a", "b"])
    assert.match(apart.message, /"a", "b" never won or tied against "c", "d"/)
    assert.match(refused([]).message, /no comparisons/)
    assert.match(refused(matches("a", "a", "w")).message, /"a" is compared with itself/)
    assert.match(
      refused([...matches("a", "b", "w"), { first: "a", second: "c", preference: "tie", cluster: "p" }]).message,
      /comparison of "a" with "b" has no cluster/
    )
  })
})

describe("sessions", () => {
  const of = (session: string) => matches("a", "b", "wl").map((match) => ({ ...match, session }))

  it("are on the fit, and two of them in none", () => {
    assert.strictEqual(fitted(of("main")).session, "main")
    assert.notProperty(fitted(matches("a", "b", "wl")), "session")
    const mixed = refused([...of("main"), ...of("later")])
    assert.instanceOf(mixed, WinRate.SessionError)
    assert.match(mixed.message, /"a" against "b" was judged in session "main", "a" against "b" in session "later"/)
    assert.match(refused([...of("main"), ...matches("a", "c", "w")]).message, /"a" against "c" has no session/)
  })
})

describe("matches", () => {
  it("are all pairs of a screen, which is one cluster", () => {
    const session = Result.getOrThrow(
      WinRate.session([screen("s1", { a: 1, b: 2, c: 2 }), screen("s2", { c: 1, a: 3, b: 2 })])
    )
    assert.deepStrictEqual(BradleyTerry.matchesOfScreens(session), [
      { first: "a", second: "b", preference: "first", cluster: "s1", session: "main" },
      { first: "a", second: "c", preference: "first", cluster: "s1", session: "main" },
      { first: "b", second: "c", preference: "tie", cluster: "s1", session: "main" },
      { first: "a", second: "b", preference: "second", cluster: "s2", session: "main" },
      { first: "a", second: "c", preference: "second", cluster: "s2", session: "main" },
      { first: "b", second: "c", preference: "second", cluster: "s2", session: "main" }
    ])
  })

  it("of screens that show one prompt are one cluster", () => {
    const screens = ["s1", "s2"].map((id) => ({ ...screen(id, { a: 1, b: 2 }), cluster: "p" }))
    const matches = BradleyTerry.matchesOfScreens(Result.getOrThrow(WinRate.session(screens)))
    assert.deepStrictEqual(
      matches.map(({ cluster }) => cluster),
      ["p", "p"]
    )
  })

  it("of win rates are their verdicts, each pair once and of one session", () => {
    const screens = [screen("s1", { a: 1, b: 2 }), screen("s2", { a: 1, b: 1 })]
    const rates = Result.getOrThrow(WinRate.against(Result.getOrThrow(WinRate.session(screens)), "b"))
    assert.deepStrictEqual(Result.getOrThrow(BradleyTerry.matchesOfRates(rates)), [
      { first: "a", second: "b", preference: "first", cluster: "s1", session: "main" },
      { first: "a", second: "b", preference: "tie", cluster: "s2", session: "main" }
    ])
    const turned = WinRate.matrix(Result.getOrThrow(WinRate.session(screens)))
      .flat()
      .filter((rate) => rate !== null)
    const twice = Result.getOrThrow(Result.flip(BradleyTerry.matchesOfRates(turned)))
    assert.strictEqual(twice._tag, "BradleyTerryError")
    assert.match(twice.message, /\["a","b"\] stands twice/)
    const other = rates.map((rate) => ({ ...rate, session: "later", opponent: "c" }))
    assert.strictEqual(
      Result.getOrThrow(Result.flip(BradleyTerry.matchesOfRates([...rates, ...other])))._tag,
      "SessionError"
    )
  })
})

describe("display", () => {
  const data = [...matches("a", "b", "wwwlwwtl"), ...matches("b", "c", "wlwwtwll"), ...matches("c", "a", "lwltlllw")]
  const fit = fitted(data)

  it("predicts the share of wins, which sums to 1 over both sides", () => {
    const one = Result.getOrThrow(BradleyTerry.winProbability(fit, "a", "b"))
    const other = Result.getOrThrow(BradleyTerry.winProbability(fit, "b", "a"))
    assert.closeTo(one.value, 1 / (1 + Math.exp(fit.strengths[1]!.value - fit.strengths[0]!.value)), 1e-12)
    assert.closeTo(one.value + other.value, 1, 1e-12)
    assert.closeTo(one.low! + other.high!, 1, 1e-12)
    assert.isNull(one.se)
    assert.strictEqual(Result.getOrThrow(BradleyTerry.winProbability(fit, "c", "c")).value, 0.5)
    // two systems alone: the model is the share itself
    const alone = fitted(matches("a", "b", "wwwlwwtl"))
    assert.closeTo(Result.getOrThrow(BradleyTerry.winProbability(alone, "a", "b")).value, 5.5 / 8, 1e-9)
  })

  it("shows 400 points as odds of 10 to 1, around 1000 or from an anchor", () => {
    const [ten, one] = Result.getOrThrow(BradleyTerry.elo(fitted(matches("a", "b", "wwwwwwwwwwl"))))
    assert.closeTo(ten!.value, 1200, 1e-6)
    assert.closeTo(one!.value, 800, 1e-6)
    const mean = Result.getOrThrow(BradleyTerry.elo(fit))
    assert.closeTo(
      mean.reduce((sum, { value }) => sum + value, 0),
      3000,
      1e-9
    )
    assert.closeTo(mean[0]!.se!, (fit.strengths[0]!.se! * 400) / Math.LN10, 1e-9)
    const anchored = Result.getOrThrow(BradleyTerry.elo(fit, { anchor: "c" }))
    assert.strictEqual(anchored[2]!.value, 1000)
    assert.strictEqual(anchored[2]!.low, 1000)
    assert.closeTo(anchored[0]!.value, 1000 + mean[0]!.value - mean[2]!.value, 1e-9)
    assert.closeTo(anchored[0]!.low!, 1000 + (fit.differences[0]![2]!.low! * 400) / Math.LN10, 1e-9)
  })

  it("names a system that was in no comparison", () => {
    const error = Result.getOrThrow(Result.flip(BradleyTerry.elo(fit, { anchor: "d" })))
    assert.match(error.message, /no comparison has the system "d"/)
    assert.isTrue(Result.isFailure(BradleyTerry.winProbability(fit, "a", "d")))
  })
})
