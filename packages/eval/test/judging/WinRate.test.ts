import { mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NextToken } from "@attune/core"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Judge from "../../src/judging/Judge.ts"
import * as WinRate from "../../src/judging/WinRate.ts"

const golden: {
  readonly logistic: ReadonlyArray<{
    readonly lengths: ReadonlyArray<readonly [number, number]>
    readonly wins: ReadonlyArray<number>
    readonly ridge: number
    readonly intercept: number
    readonly slope: number
    readonly rate: number
  }>
} = JSON.parse(readFileSync(new URL("./Comparison.golden.json", import.meta.url), "utf8"))

const item = (id: string, first: string, second: string, cluster?: string): WinRate.Item => ({
  id,
  prompt: `prompt of ${id}`,
  first,
  second,
  ...(cluster === undefined ? {} : { cluster })
})
const options = { first: "ours", second: "theirs", session: "main" }
const screen = (id: string, ranks: Record<string, number>, session = "main"): WinRate.Screen => ({ session, id, ranks })
const failure = <E>(result: Result.Result<unknown, E>): E => Result.getOrThrow(Result.flip(result))
const brevity = Judge.fromScore("brevity", ({ completion }) => -completion.length)
/** Prefers the better text where it holds a digit, else whatever is shown first. */
const lazy = Judge.fromFunction("lazy", ({ first, second }) => {
  const digit = (text: string) => Number(/\d/.exec(text)?.[0] ?? 0)
  if (first.includes("?") || second.includes("?")) return "tie"
  return digit(first) === digit(second) || digit(first) > digit(second) ? "first" : "second"
})

describe("compare", () => {
  it.effect("wins where the judge prefers the system in both orders, ties where the orders do not agree", () =>
    Effect.gen(function* () {
      const result = yield* WinRate.compare(
        lazy,
        [item("won", "9", "1"), item("lost", "1", "2"), item("flips", "a", "b"), item("tied", "a?", "b")],
        options
      )
      assert.deepStrictEqual([...result.score.sample.values], [1, 0, 0.5, 0.5])
      assert.deepStrictEqual([result.wins, result.ties, result.losses], [1, 2, 1])
      assert.deepStrictEqual(
        result.verdicts.map(({ orders }) => orders),
        [
          ["first", "first"],
          ["second", "second"],
          ["first", "second"],
          ["tie", "tie"]
        ]
      )
      assert.strictEqual(result.flipRate?.value, 1 / 4)
      assert.strictEqual(result.flipRate?.method, "rate, Wilson")
      // per pair: ½ where the judge does not flip or tie, 1 where it takes the first place twice
      assert.strictEqual(result.firstPosition?.value, (0.5 + 0.5 + 1 + 0.5) / 4)
      const { estimate, higherIsBetter, metric, system, task } = result.score
      assert.strictEqual(estimate.value, 0.5)
      assert.closeTo(estimate.se!, Math.sqrt(0.5 / 3 / 4), 1e-12)
      assert.deepStrictEqual([system, metric, higherIsBetter], ["ours", "win_rate", true])
      assert.strictEqual(task, "against theirs, session main")
      assert.deepStrictEqual([result.judge, result.session, result.opponent], ["lazy", "main", "theirs"])
    })
  )

  it.effect("gives 1 minus the rate when the systems change places", () =>
    Effect.gen(function* () {
      const items = [item("a", "9", "1"), item("b", "7", "2"), item("c", "a", "b"), item("d", "1", "3")]
      const turned = items.map(({ first, second, ...rest }) => ({ ...rest, first: second, second: first }))
      const one = yield* WinRate.compare(lazy, items, options)
      const other = yield* WinRate.compare(lazy, turned, { ...options, first: "theirs", second: "ours" })
      assert.strictEqual(one.score.estimate.value, 0.625)
      assert.strictEqual(other.score.estimate.value, 0.375)
      assert.strictEqual(one.flipRate?.value, other.flipRate?.value)
      assert.strictEqual(one.firstPosition?.value, other.firstPosition?.value)
    })
  )

  it.effect("scores 1 for first place with a judge that always takes it, and 0 with one that never does", () =>
    Effect.gen(function* () {
      const items = [item("a", "x", "y"), item("b", "x", "z")]
      const always = yield* WinRate.compare(
        Judge.fromFunction("always", () => "first"),
        items,
        options
      )
      assert.strictEqual(always.firstPosition?.value, 1)
      assert.strictEqual(always.flipRate?.value, 1)
      assert.deepStrictEqual([always.wins, always.ties, always.losses], [0, 2, 0])
      // Wilson, 2 of 2 (statsmodels)
      assert.closeTo(always.firstPosition!.low!, 0.342380227506653, 1e-9)
      const never = yield* WinRate.compare(
        Judge.fromFunction("never", () => "second"),
        items,
        options
      )
      assert.strictEqual(never.firstPosition?.value, 0)
    })
  )

  it.effect("does not ask about identical answers, which tie", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const judge = Judge.fromFunction("noting", ({ first, id, second }) => {
        seen.push(`${id} ${first}${second}`)
        return first < second ? "first" : "second"
      })
      const result = yield* WinRate.compare(judge, [item("same", "x", "x"), item("differ", "x", "y")], options)
      assert.deepStrictEqual(seen, ["differ xy", "differ yx"])
      assert.strictEqual(result.identical, 1)
      assert.deepStrictEqual([...result.score.sample.values], [0.5, 1])
      assert.strictEqual(result.flipRate?.n, 1)
      assert.deepStrictEqual(result.verdicts[0], { id: "same", orders: ["tie", "tie"], asked: false })

      const all = yield* WinRate.compare(
        Judge.fromFunction("silent", () => {
          throw new Error("was asked")
        }),
        [item("a", "x", "x"), item("b", "", "")],
        options
      )
      assert.isNull(all.flipRate)
      assert.isNull(all.firstPosition)
      assert.deepStrictEqual(
        [all.score.estimate.value, all.score.estimate.low, all.score.estimate.method],
        [0.5, null, "all values equal, no interval"]
      )
    })
  )

  it.effect("takes the samples of a prompt as one cluster", () =>
    Effect.gen(function* () {
      const items = ["p", "p", "q", "q", "r", "r"].map((prompt, i) =>
        item(`${prompt}${i}`, prompt === "r" ? "long" : "a", "bb", prompt)
      )
      const { estimate } = (yield* WinRate.compare(brevity, items, options)).score
      assert.strictEqual(estimate.value, 4 / 6)
      assert.strictEqual(estimate.clusters, 3)
      // cluster sums of x - 2/3: 2/3, 2/3, -4/3
      assert.closeTo(estimate.se!, Math.sqrt((3 / 2) * (24 / 9)) / 6, 1e-12)
    })
  )

  it.effect("says what interval there is where all verdicts are alike, and none of a single one", () =>
    Effect.gen(function* () {
      const items = ["a", "b", "c", "d"].map((id) => item(id, "x", "long"))
      const won = (yield* WinRate.compare(brevity, items, options)).score.estimate
      assert.strictEqual(won.value, 1)
      assert.strictEqual(won.high, 1)
      // Wilson, 4 of 4 (statsmodels)
      assert.closeTo(won.low!, 0.5101091634545425, 1e-9)
      assert.strictEqual(won.method, "all equal, Wilson")
      const clustered = items.map((one, i) => ({ ...one, cluster: i < 2 ? "p" : "q" }))
      const two = (yield* WinRate.compare(brevity, clustered, options)).score.estimate
      assert.closeTo(two.low!, 0.342380227506653, 1e-9)
      const one = (yield* WinRate.compare(brevity, items.slice(0, 1), options)).score.estimate
      assert.deepStrictEqual([one.low, one.high, one.method], [null, null, "one value, no interval"])
    })
  )

  it.effect("refuses items before it asks: none, ids that stand twice, one name for both systems", () =>
    Effect.gen(function* () {
      const silent = Judge.fromFunction("silent", () => {
        throw new Error("was asked")
      })
      const refused = (items: ReadonlyArray<WinRate.Item>, more = {}) =>
        Effect.flip(WinRate.compare(silent, items, { ...options, ...more }))
      assert.match((yield* refused([])).message, /sample "ours against theirs": no items/)
      const twice = yield* refused([item("a", "x", "y"), item("a", "x", "z")])
      assert.match(twice.message, /item "a": the id stands twice/)
      assert.match((yield* refused([item("a", "x", "y")], { second: "ours" })).message, /both systems have this name/)
      const half = yield* refused([item("a", "x", "y", "p"), item("b", "x", "y")])
      assert.match(half.message, /item "b": the item has no cluster/)
    })
  )

  it.effect("fails with the item that a judge left out or answered with something else", () =>
    Effect.gen(function* () {
      const items = [item("a", "x", "y"), item("b", "x", "z")]
      const short: Judge.JudgeShape = { name: "short", compare: () => Effect.succeed(["first"]) }
      const left = yield* Effect.flip(WinRate.compare(short, items, options))
      assert.instanceOf(left, Judge.JudgeError)
      assert.match(left.message, /judge short, item "b": gave 1 answers to 2 questions/)
      const long: Judge.JudgeShape = { name: "long", compare: () => Effect.succeed(["tie", "tie", "tie"]) }
      const many = yield* Effect.flip(WinRate.compare(long, items, options))
      assert.match(many.message, /^judge long: gave 3 answers to 2 questions/)
      // A judge of JavaScript, or one that passes on what a model wrote.
      const odd: Judge.JudgeShape = {
        name: "odd",
        compare: (comparisons) => Effect.succeed(comparisons.map(({ id }) => (id === "b" ? "A" : "tie") as "tie"))
      }
      const outside = yield* Effect.flip(WinRate.compare(odd, items, options))
      assert.match(outside.message, /judge odd, item "b": answered "A"/)
    })
  )
})

describe("pair", () => {
  const answers = (...pairs: ReadonlyArray<readonly [string, string, string]>) =>
    pairs.map(([id, prompt, completion]) => ({ id, prompt, completion }))

  it("lays answers side by side by id, in the order of the first", () => {
    const items = Result.getOrThrow(
      WinRate.pair(
        { system: "ours", answers: answers(["a", "p", "1"], ["b", "q", "2"]) },
        { system: "theirs", answers: answers(["b", "q", "3"], ["a", "p", "4"]) }
      )
    )
    assert.deepStrictEqual(items, [
      { id: "a", prompt: "p", first: "1", second: "4" },
      { id: "b", prompt: "q", first: "2", second: "3" }
    ])
  })

  it("keeps clusters, whichever system's answers name them", () => {
    const [plain] = answers(["a", "p", "1"])
    const [one, other] = [
      { system: "ours", answers: [plain!] },
      { system: "theirs", answers: [{ ...plain!, cluster: "p" }] }
    ]
    for (const items of [WinRate.pair(one, other), WinRate.pair(other, one)]) {
      assert.strictEqual(Result.getOrThrow(items)[0]!.cluster, "p")
    }
  })

  it("refuses different prompt sets, and different prompts under one id", () => {
    const ours = { system: "ours", answers: answers(["a", "p", "1"], ["b", "q", "2"]) }
    const fewer = failure(WinRate.pair(ours, { system: "theirs", answers: answers(["a", "p", "3"]) }))
    assert.match(fewer.message, /sample "theirs", item "b": only "ours" has it/)
    const more = failure(WinRate.pair({ system: "theirs", answers: answers(["a", "p", "3"]) }, ours))
    assert.match(more.message, /sample "theirs", item "b": only "ours" has it/)
    const other = answers(["a", "p", "3"], ["b", "another", "4"])
    assert.match(
      failure(WinRate.pair(ours, { system: "theirs", answers: other })).message,
      /sample "theirs", item "b": its prompt is another than that of "ours"/
    )
    assert.match(failure(WinRate.pair(ours, { system: "theirs", answers: [] })).message, /sample "theirs": no items/)
  })
})

describe("screens", () => {
  const ours = [1, 2, 3, 1, 2]
  const theirs = [2, 2, 1, 3, 4]
  const screens = ours.map((rank, i) => screen(`post${i}`, { ours: rank, theirs: theirs[i]!, third: 5 }))
  const session = Result.getOrThrow(WinRate.session(screens))

  it("count a better rank 1, an equal one ½", () => {
    assert.deepStrictEqual(WinRate.wins(ours, theirs), [1, 0.5, 0, 1, 1])
    assert.throws(() => WinRate.wins([1], [1, 2]), /1 of our ranks cannot be compared with 2 of theirs/)
  })

  it("give the win rate against one system", () => {
    const [first, third] = Result.getOrThrow(WinRate.against(session, "theirs"))
    const { estimate } = first!.score
    assert.closeTo(estimate.value, 0.7, 1e-12)
    assert.closeTo(estimate.se!, 0.2, 1e-12)
    assert.strictEqual(estimate.n, 5)
    assert.deepStrictEqual([first!.wins, first!.ties, first!.losses], [3, 1, 1])
    // t(4) · 0.2 = 0.5553 (scipy) reaches beyond 1
    assert.closeTo(estimate.low!, 0.7 - 0.5552890210395587, 1e-8)
    assert.strictEqual(estimate.high, 1)
    assert.strictEqual(estimate.method, "mean, Student t, cut to [0, 1]")
    assert.strictEqual(third!.score.system, "third")
    assert.strictEqual(third!.score.estimate.value, 0)
  })

  it("give all win rates as a matrix that sums to 1 with its mirror", () => {
    const rates = WinRate.matrix(session, { task: "tldr" })
    assert.deepStrictEqual(session.systems, ["ours", "theirs", "third"])
    for (const [i, row] of rates.entries()) {
      for (const [j, rate] of row.entries()) {
        if (i === j) assert.isNull(rate)
        else assert.closeTo(rate!.score.estimate.value + rates[j]![i]!.score.estimate.value, 1, 1e-12)
      }
    }
    assert.strictEqual(rates[1]![0]!.score.system, "theirs")
    assert.strictEqual(rates[1]![0]!.score.task, "tldr, against ours, session main")
  })

  it("give mean ranks that do not depend on how ties are numbered", () => {
    const of = (ranks: ReadonlyArray<Record<string, number>>) => {
      const all = ranks.map((one, i) => screen(`s${i}`, one))
      return WinRate.meanRanks(Result.getOrThrow(WinRate.session(all))).map(({ score }) => score.estimate.value)
    }
    assert.deepStrictEqual(
      of([
        { a: 1, b: 1, c: 2 },
        { a: 1, b: 2, c: 3 }
      ]),
      [1.25, 1.75, 3]
    )
    assert.deepStrictEqual(
      of([
        { a: 1, b: 1, c: 3 },
        { a: 10, b: 20, c: 30 }
      ]),
      [1.25, 1.75, 3]
    )
    const [first] = WinRate.meanRanks(session)
    assert.deepStrictEqual([first!.session, first!.score.higherIsBetter], ["main", false])
  })

  it("refuse a system that is missing, ids that stand twice, no screens and unknown systems", () => {
    const missing = failure(WinRate.session([screens[0]!, screen("x", { ours: 1, theirs: 2 })]))
    assert.match(missing.message, /sample "session main", item "x": has no rank of "third"/)
    const extra = failure(WinRate.session([screen("x", { ours: 1, theirs: 2 }), screens[0]!]))
    assert.match(extra.message, /item "x": has no rank of "third"/)
    assert.match(failure(WinRate.session([screens[0]!, screens[0]!])).message, /item "post0": the id stands twice/)
    assert.match(failure(WinRate.session([])).message, /no items/)
    assert.match(
      failure(WinRate.against(session, "fourth")).message,
      /no screen has the system "fourth"; there are "ours", "theirs", "third"/
    )
    const unranked = failure(WinRate.session([screen("x", { a: 1, b: 2 }), screen("y", { a: 1, b: Number.NaN })]))
    assert.match(unranked.message, /item "y": the rank of "b" is NaN/)
    assert.match(failure(WinRate.session([screen("x", { a: 1 })])).message, /item "x": has the ranks of 1 systems/)
    // A name that every object has is no system either.
    const inherited = failure(WinRate.session([screen("x", { toString: 1, a: 1, b: 2 }), screen("y", { a: 1, b: 2 })]))
    assert.match(inherited.message, /item "y": has no rank of "toString"/)
  })

  it("take several screens of a prompt as one cluster", () => {
    const clustered = screens.map((one, i) => ({ ...one, cluster: i < 3 ? "p" : "q" }))
    const [rate] = Result.getOrThrow(WinRate.against(Result.getOrThrow(WinRate.session(clustered)), "theirs"))
    assert.strictEqual(rate!.score.estimate.clusters, 2)
  })

  it("refuse two sessions", () => {
    const error = failure(WinRate.session([...screens, screen("x", { a: 1, b: 2 }, "later")]))
    assert.instanceOf(error, WinRate.SessionError)
    assert.match(error.message, /"ours", "theirs", "third" was judged in session "main", "a", "b" in session "later"/)
  })
})

describe("table", () => {
  const rates = (session: string) =>
    Result.getOrThrow(
      WinRate.against(
        Result.getOrThrow(
          WinRate.session([
            screen("s1", { a: 1, b: 2, human: 3 }, session),
            screen("s2", { a: 1, b: 2, human: 1 }, session)
          ])
        ),
        "human"
      )
    )

  it("holds the scores of one session", () => {
    assert.deepStrictEqual(
      Result.getOrThrow(WinRate.table(rates("main"))).map(({ estimate, system }) => [system, estimate.value]),
      [
        ["a", 0.75],
        ["b", 0.5]
      ]
    )
    assert.deepStrictEqual(Result.getOrThrow(WinRate.table([])), [])
  })

  it("holds mean ranks too, of one session", () => {
    const ranks = (name: string) =>
      WinRate.meanRanks(Result.getOrThrow(WinRate.session([screen("s1", { a: 1, b: 2 }, name)])))
    assert.lengthOf(Result.getOrThrow(WinRate.table(ranks("main"))), 2)
    const error = failure(WinRate.table([...rates("main"), ...ranks("later")]))
    assert.deepStrictEqual(
      [error.sessions, error.systems],
      [
        ["main", "later"],
        ['"a" against "human"', '"a"']
      ]
    )
  })

  it("names both sessions and systems where two are mixed", () => {
    const error = failure(WinRate.table([...rates("main"), rates("additional")[1]!]))
    assert.strictEqual(error._tag, "SessionError")
    assert.deepStrictEqual(error.sessions, ["main", "additional"])
    assert.deepStrictEqual(error.systems, ['"a" against "human"', '"b" against "human"'])
    assert.match(error.message, /session "main".*session "additional".*within one session only/)
  })
})

it.layer(NodeServices.layer)("read", (it) => {
  const file = (...lines: ReadonlyArray<unknown>) => {
    const path = join(mkdtempSync(join(tmpdir(), "attune-screens-")), "screens.jsonl")
    writeFileSync(path, lines.map((line) => JSON.stringify(line)).join("\n"))
    return path
  }

  it.effect("decodes screens of several sessions", () =>
    Effect.gen(function* () {
      const screens = [screen("a", { x: 1, y: 1.5 }), screen("a", { x: 1, y: 2 }, "later")]
      assert.deepStrictEqual(yield* WinRate.read(file(...screens)), screens)
    })
  )

  it.effect("names file, line and field of what is no screen", () =>
    Effect.gen(function* () {
      const good = screen("a", { x: 1, y: 2 })
      const refused = (...lines: ReadonlyArray<unknown>) =>
        Effect.map(Effect.flip(WinRate.read(file(...lines))), ({ message }) => message)
      assert.match(yield* refused(good, good), /screens\.jsonl, line 2: field "id": line 1 has "a" in session "main"/)
      assert.match(yield* refused(good, { session: "main", id: "b" }), /line 2: field "ranks": Missing key/)
      assert.match(
        yield* refused(screen("b", { x: 1 })),
        /line 1: field "ranks": Expected the ranks of at least 2 systems, got 1/
      )
      assert.match(yield* refused({ ...good, ranks: { x: 1, y: "2" } }), /line 1: field "ranks\.y": Expected number/)
      assert.match(yield* refused({ ...good, ranks: { x: 1, y: null } }), /line 1: field "ranks\.y"/)
      assert.match(yield* refused({ ...good, session: "" }), /line 1: field "session"/)
    })
  )
})

describe("lengthControlled", () => {
  const few = { seed: 5, resamples: 300 }
  const texts = (lengths: ReadonlyArray<readonly [number, number]>) =>
    lengths.map(([one, other], i) => ({ id: `q${i}`, first: "x".repeat(one), second: "y".repeat(other) }))
  /** A win rate with these verdicts. */
  const rateOf = (verdicts: ReadonlyArray<number>, clusters?: ReadonlyArray<string>) => {
    const screens = verdicts.map((verdict, i) => ({
      ...screen(`q${i}`, { ours: 2 - 2 * verdict, theirs: 1 }),
      ...(clusters === undefined ? {} : { cluster: clusters[i]! })
    }))
    return Result.getOrThrow(WinRate.against(Result.getOrThrow(WinRate.session(screens)), "theirs"))[0]!
  }

  it("fits the regressions of scikit-learn and statsmodels", () => {
    assert.isAtLeast(golden.logistic.length, 4)
    for (const { intercept, lengths, rate, ridge, slope, wins } of golden.logistic) {
      const result = Result.getOrThrow(
        WinRate.lengthControlled(rateOf(wins), texts(lengths), { ...few, resamples: 2, ridge: ridge || 1e-12 })
      )
      assert.closeTo(result.lengthEffect.value, slope, 1e-7)
      assert.closeTo(Math.log(result.score.estimate.value / (1 - result.score.estimate.value)), intercept, 1e-7)
      assert.closeTo(result.score.estimate.value, rate, 1e-7)
      assert.closeTo(result.raw.value, wins.reduce((sum, win) => sum + win, 0) / wins.length, 1e-12)
    }
  })

  it("comes to the same fit from afar, where a full step of Newton's method runs away", () => {
    const { intercept, lengths, ridge, slope, wins } = golden.logistic[0]!
    const differences = lengths.map(([one, other]) => one - other)
    const mean = differences.reduce((sum, difference) => sum + difference, 0) / differences.length
    const squares = differences.reduce((sum, difference) => sum + (difference - mean) ** 2, 0)
    const x = differences.map((difference) => Math.tanh(difference / Math.sqrt(squares / (differences.length - 1))))
    for (const start of [undefined, { intercept: 6, slope: -9 }, { intercept: -3, slope: 20 }]) {
      const fit = WinRate.logistic(x, wins, ridge, start)
      assert.closeTo(fit.intercept, intercept, 1e-7)
      assert.closeTo(fit.slope, slope, 1e-7)
    }
  })

  it("finds equal systems equal where the judge only likes length, and mirrors when they change places", () => {
    const uniforms = NextToken.uniforms(3)
    const lengths = Array.from({ length: 300 }, () => {
      return [60 + Math.floor(uniforms() * 60), 40 + Math.floor(uniforms() * 60)] as const
    })
    const sd = 24.5
    const wins = lengths.map(([one, other]) => {
      return uniforms() < 1 / (1 + Math.exp(-2 * Math.tanh((one - other) / sd))) ? 1 : 0
    })
    const result = Result.getOrThrow(WinRate.lengthControlled(rateOf(wins), texts(lengths), few))
    assert.isAbove(result.raw.low!, 0.58)
    assert.isBelow(result.score.estimate.low!, 0.5)
    assert.isAbove(result.score.estimate.high!, 0.5)
    assert.isAbove(result.lengthEffect.low!, 1)
    assert.strictEqual(result.score.metric, "length_controlled_win_rate")
    assert.deepStrictEqual([result.session, result.opponent, result.score.system], ["main", "theirs", "ours"])
    const turned = Result.getOrThrow(
      WinRate.lengthControlled(
        rateOf(wins.map((win) => 1 - win)),
        texts(lengths.map(([one, other]) => [other, one] as const)),
        few
      )
    )
    assert.closeTo(turned.score.estimate.value, 1 - result.score.estimate.value, 1e-9)
    assert.closeTo(turned.score.estimate.low!, 1 - result.score.estimate.high!, 1e-9)
  })

  it("is the win rate itself, but for the ridge, where lengths do not differ", () => {
    const result = Result.getOrThrow(
      WinRate.lengthControlled(rateOf([1, 1, 0.5, 0]), texts(Array(4).fill([7, 7])), { ...few, ridge: 1e-9 })
    )
    assert.closeTo(result.score.estimate.value, 0.625, 1e-9)
    assert.strictEqual(result.lengthEffect.value, 0)
  })

  it("measures length in characters, or as told", () => {
    const answers = [
      { id: "q0", first: "🙂🙂", second: "a" },
      { id: "q1", first: "a", second: "bb cc" },
      { id: "q2", first: "abc", second: "🙂" }
    ]
    const slope = (length?: (answer: string) => number) =>
      Result.getOrThrow(
        WinRate.lengthControlled(rateOf([1, 0, 1]), answers, { ...few, ...(length === undefined ? {} : { length }) })
      ).lengthEffect.value
    assert.strictEqual(
      slope(),
      slope((answer) => [...answer].length)
    )
    assert.notStrictEqual(
      slope(),
      slope((answer) => answer.length)
    )
    assert.notStrictEqual(
      slope(),
      slope((answer) => answer.split(" ").length)
    )
  })

  it("stays finite where all won or length separates wins from losses, and says that there is no interval", () => {
    const lengths = [
      [5, 1],
      [9, 2],
      [3, 8],
      [1, 6]
    ] as const
    const won = Result.getOrThrow(WinRate.lengthControlled(rateOf([1, 1, 1, 1]), texts(lengths), few))
    assert.isAbove(won.score.estimate.value, 0.9)
    assert.isBelow(won.score.estimate.value, 1)
    assert.deepStrictEqual(
      [won.score.estimate.low, won.score.estimate.method],
      [null, "all verdicts equal, no interval"]
    )
    const separated = Result.getOrThrow(WinRate.lengthControlled(rateOf([1, 1, 0, 0]), texts(lengths), few))
    assert.isTrue(Number.isFinite(separated.lengthEffect.value))
    assert.closeTo(separated.score.estimate.value, 0.5, 0.2)
  })

  it("draws whole clusters", () => {
    const { lengths, wins } = golden.logistic[0]!
    const clusters = wins.map((_, i) => `p${i % 8}`)
    const { score } = Result.getOrThrow(WinRate.lengthControlled(rateOf(wins, clusters), texts(lengths), few))
    assert.deepStrictEqual([score.estimate.n, score.estimate.clusters], [80, 8])
  })

  it("refuses other answers, lengths that all differ alike and lengths that are no numbers", () => {
    const rate = rateOf([1, 0, 1])
    const of = (lengths: ReadonlyArray<readonly [number, number]>, more = {}) =>
      failure(WinRate.lengthControlled(rate, texts(lengths), { ...few, ...more })).message
    assert.match(
      of([
        [1, 2],
        [3, 4]
      ]),
      /item "q2": only "ours against theirs" has it/
    )
    const alike = [
      [3, 1],
      [5, 3],
      [9, 7]
    ] as const
    assert.match(of(alike), /all answers differ in length from their opponents by 2; length cannot be told/)
    assert.match(of(alike, { length: () => Number.NaN }), /item "q0": the value is NaN/)
    assert.throws(() => of([...alike.slice(1), [1, 9]], { ridge: 0 }), /a ridge is a finite number above 0/)
    assert.match(
      failure(WinRate.lengthControlled(rateOf([1]), texts([[3, 1]]), few)).message,
      /length cannot be told from quality/
    )
    const one = Result.getOrThrow(WinRate.lengthControlled(rateOf([1]), texts([[3, 3]]), few))
    assert.deepStrictEqual([one.score.estimate.low, one.score.estimate.method], [null, "one value, no interval"])
  })
})
