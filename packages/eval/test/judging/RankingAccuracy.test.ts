import { NextToken, type Prompt, type Ranking, RewardModel, Tokenizer } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Estimate from "../../src/Estimate.ts"
import * as RankingAccuracy from "../../src/judging/RankingAccuracy.ts"
import * as Report from "../../src/Report.ts"
import * as BlockTable from "../../src/report/BlockTable.ts"
import * as Sample from "../../src/Sample.ts"
import { tokenizer } from "../scripted.ts"
import { close, noInterval } from "../statistics.ts"

const ranking = (prompt: Prompt.Content, ranks: ReadonlyArray<number>): Ranking.Ranking => ({
  prompt,
  completions: ranks.map((_, i) => `answer ${i}`),
  ranks
})

const fromScores = (
  model: string,
  rankings: ReadonlyArray<Ranking.Ranking>,
  scores: ReadonlyArray<ArrayLike<number>>
): RankingAccuracy.Scored => Result.getOrThrow(RankingAccuracy.fromScores(model, rankings, scores))

const ranked = (ranks: ReadonlyArray<number>, scores: ReadonlyArray<number>) =>
  fromScores("model", [ranking("prompt", ranks)], [scores])

const metric = (scored: RankingAccuracy.Scored, name: string): Estimate.Estimate => {
  const score = RankingAccuracy.scores(scored).find(({ metric }) => metric === name)
  assert.isDefined(score, name)
  return score!.estimate
}

const failure = <A>(result: Result.Result<A, RankingAccuracy.RankingError>): RankingAccuracy.RankingError =>
  Result.getOrThrow(Result.flip(result))

// Pairs of the first: right, right and equal. The second and the third share a prompt: one wrong, one right.
const rankings = [ranking("a", [2, 1, 3]), ranking("b", [1, 2]), ranking("b", [2, 1]), ranking("c", [1, 1])]
const hand = fromScores("hand", rankings, [
  [0, 1, 0],
  [1, 2],
  [0, 3],
  [5, 6]
])

/** Rankings drawn from scores that are known, by Plackett and Luce: each pair of them is one of Bradley and Terry's. */
const generated = (seed: number, sizes: ReadonlyArray<number>, spread: number) => {
  const next = NextToken.uniforms(seed)
  const exponential = () => -Math.log(1 - next())
  const scores = sizes.map((k) =>
    Array.from({ length: k }, () => spread * (Math.log(exponential()) - Math.log(exponential())))
  )
  const rankings = scores.map((row, i) => {
    const noisy = row.map((score) => score - Math.log(exponential()))
    return ranking(
      `prompt ${i}`,
      noisy.map((value) => 1 + noisy.filter((other) => other > value).length)
    )
  })
  return { rankings, scores }
}

describe("RankingAccuracy", () => {
  it("counts pairs that are scored in their order, and equal scores as half of one", () => {
    // 1 + 1 + ½, 0 and 1 of 5 pairs, in two prompts: 2.5 of 3 and 1 of 2.
    const { rankings, tied } = hand
    assert.deepStrictEqual([rankings.length, tied], [3, 1])
    const accuracy = metric(hand, "pairwise_accuracy")
    assert.closeTo(accuracy.value, 3.5 / 5, 1e-15)
    assert.deepStrictEqual([accuracy.n, accuracy.clusters], [5, 2])
    // se² = 2 (0.4² + 0.4²) / 5²
    assert.closeTo(accuracy.se!, 0.16, 1e-12)
    // t with one degree of freedom is Cauchy's; the interval is cut.
    assert.deepStrictEqual([accuracy.low, accuracy.high], [0, 1])
    assert.closeTo(metric(hand, "best_first").value, 2 / 3, 1e-15)
    assert.closeTo(metric(hand, "kendall_tau_b").value, (2 / Math.sqrt(6) - 1 + 1) / 3, 1e-15)
    assert.closeTo(metric(hand, "margin").value, (1 + 1 + 0 - 1 + 3) / 5, 1e-15)
  })

  it("takes rankings without a prompt for rankings of different ones", () => {
    const bare = [ranking("", [2, 1]), ranking("", [1, 2])]
    const scored = fromScores("bare", bare, [
      [0, 1],
      [0, 1]
    ])
    assert.deepStrictEqual(
      scored.rankings.map(({ cluster }) => cluster),
      ["0", "1"]
    )
  })

  it("leaves ties of the ranks out of the pairs", () => {
    const scored = ranked([1, 2, 2, 3], [3, 1, 2, 0])
    assert.deepStrictEqual(
      scored.rankings[0]!.pairs.map(({ better, worse, margin }) => [better, worse, margin]),
      [
        [0, 1, 2],
        [0, 2, 1],
        [0, 3, 3],
        [1, 3, 1],
        [2, 3, 2]
      ]
    )
    assert.strictEqual(metric(scored, "pairwise_accuracy").value, 1)
    // All 5 kept pairs are concordant, and the scores tell 6 pairs apart.
    assert.closeTo(metric(scored, "kendall_tau_b").value, 5 / Math.sqrt(5 * 6), 1e-15)
  })

  it("says of equal scores what they say: nothing", () => {
    const scored = ranked([1, 2, 3], [7, 7, 7])
    const values = ["pairwise_accuracy", "best_first", "kendall_tau_b", "margin", "log_loss"].map(
      (name) => metric(scored, name).value
    )
    assert.deepStrictEqual(values, [0.5, 1 / 3, 0, 0, Math.LN2])
    noInterval(metric(scored, "pairwise_accuracy"), 0.5, "one cluster")
    // Two of three share the highest score, and one of them is the best.
    assert.strictEqual(metric(ranked([2, 1, 3], [7, 7, 0]), "best_first").value, 0.5)
    assert.strictEqual(metric(ranked([1, 1, 3], [7, 7, 0]), "best_first").value, 1)
  })

  it("R2, R3, R4: has the losses of pairs, over pairs and over prompts", () => {
    const four = [2, 1, 0.5, -1]
    assert.closeTo(metric(ranked([1, 2, 3, 4], four), "log_loss").value, 0.22761343, 1e-8)
    assert.closeTo(
      metric(
        ranked(
          [1, 2, 3, 4],
          four.map((score) => score + 100)
        ),
        "log_loss"
      ).value,
      0.22761343,
      1e-8
    )
    assert.closeTo(metric(ranked([1, 2, 2, 3], four), "log_loss").value, 0.17832072, 1e-8)
    const two = fromScores(
      "model",
      [ranking("a", [1, 2]), ranking("b", [1, 2, 3])],
      [
        [2, 1],
        [0, 0.5, -1]
      ]
    )
    assert.closeTo(metric(two, "ranking_loss").value, 0.40475617, 1e-8)
    assert.closeTo(metric(two, "log_loss").value, 0.45050341, 1e-8)
    assert.strictEqual(RankingAccuracy.pairLoss(-2000), 2000)
    assert.strictEqual(RankingAccuracy.pairLoss(2000), 0)
  })

  it("takes prompts, not pairs, as the independent draws", () => {
    // Six pairs each, all right or all wrong: a prompt is worth one pair.
    const many = Array.from({ length: 20 }, (_, i) => ranking(`prompt ${i}`, [1, 2, 3, 4]))
    const scored = fromScores(
      "model",
      many,
      many.map((_, i) => (i % 2 === 0 ? [4, 3, 2, 1] : [1, 2, 3, 4]))
    )
    const [{ estimate, sample }] = RankingAccuracy.scores(scored) as [ReturnType<typeof RankingAccuracy.scores>[number]]
    const alone = Estimate.mean(Result.getOrThrow(Sample.fromValues("pairs", sample.values)))
    assert.strictEqual(estimate.n, alone.n)
    assert.closeTo(estimate.se!, Math.sqrt((20 / 19) * 20 * 9) / 120, 1e-12)
    assert.closeTo(estimate.se! / alone.se!, Math.sqrt(((20 / 19) * 119) / 20), 1e-12)
    assert.isAbove(estimate.high! - estimate.low!, 2 * (alone.high! - alone.low!))
    // The same rankings as several of ten prompts.
    const shared = fromScores(
      "model",
      many.map((one, i) => ({ ...one, prompt: `prompt ${Math.floor(i / 2)}` })),
      scored.rankings.map(({ scores }) => scores)
    )
    assert.strictEqual(metric(shared, "pairwise_accuracy").clusters, 10)
  })

  it("has rows by K that add up to all", () => {
    const { rankings, scores } = generated(
      1,
      Array.from({ length: 120 }, (_, i) => 2 + (i % 8)),
      1
    )
    const scored = fromScores("truth", rankings, scores)
    const [all, ...byK] = RankingAccuracy.rows(scored, { task: "held-out" })
    assert.deepStrictEqual(
      byK.map(({ completions, pairs }) => [completions, pairs]),
      [2, 3, 4, 5, 6, 7, 8, 9].map((k) => [k, (15 * k * (k - 1)) / 2])
    )
    const sum = (of: (row: RankingAccuracy.Row) => number) => byK.reduce((sum, row) => sum + of(row), 0)
    for (const count of ["rankings", "prompts", "pairs"] as const)
      assert.strictEqual(
        sum((row) => row[count]),
        all![count]
      )
    assert.strictEqual(all!.rankings, 120)
    const right = ({ accuracy: { estimate } }: RankingAccuracy.Row) => estimate.value * estimate.n
    assert.closeTo(sum(right), right(all!), 1e-9)
    assert.strictEqual(byK[2]!.accuracy.task, "held-out, K = 4")
    assert.deepStrictEqual(all!.accuracy, RankingAccuracy.scores(scored, { task: "held-out" })[0])
  })
})

describe("RankingAccuracy's intervals", () => {
  it("hold the truth in 95 % of the cases, where pairs taken as independent do not", () => {
    // Of scores that are logistic: the mean of sigmoid(|d|) over differences d of two of them.
    const truth = 1.5 - Math.LN2
    const sizes = Array.from({ length: 80 }, (_, i) => 2 + (i % 8))
    const holds = ({ high, low }: Estimate.Estimate) => low! <= truth && truth <= high!
    const runs = 500
    let [clustered, independent] = [0, 0]
    for (let seed = 0; seed < runs; seed++) {
      const { rankings, scores } = generated(seed, sizes, 1)
      const [accuracy] = RankingAccuracy.scores(fromScores("truth", rankings, scores))
      const { estimate, sample } = accuracy!
      if (holds(estimate)) clustered++
      if (holds(Estimate.mean({ ...sample, clusters: undefined }))) independent++
    }
    // Three standard deviations of a share of 95 % of so many runs.
    assert.closeTo(clustered / runs, 0.95, 3 * Math.sqrt((0.95 * 0.05) / runs))
    assert.isBelow(independent / runs, 0.9)
  })
})

describe("RankingAccuracy.calibration", () => {
  const { rankings, scores } = generated(
    2,
    Array.from({ length: 6_000 }, () => 2),
    0.8
  )
  const truth = fromScores("truth", rankings, scores)
  const options = { seed: 3, resamples: 100 }

  it("holds both orders of every pair", () => {
    const { outcomes, probabilities } = RankingAccuracy.predictions(hand)
    assert.deepStrictEqual(Array.from(outcomes.values), [1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
    for (const [i, margin] of [1, 0, 1, -1, 3].entries()) {
      // In the order of the ranks' places: 1 > 0, 0 > 2 and 1 > 2 of the first.
      assert.closeTo(probabilities.values[2 * i]!, sigmoid(margin), 1e-15)
      assert.closeTo(probabilities.values[2 * i + 1]!, sigmoid(-margin), 1e-15)
    }
    assert.deepStrictEqual([...new Set(outcomes.clusters)], ["0", "1"])
    const { brierScore, expectedError } = RankingAccuracy.calibration(hand, options)
    assert.deepStrictEqual([expectedError.n, brierScore.n, brierScore.clusters], [5, 5, 2])
    const squares = [1, 1, 0, -1, 3].map((margin) => sigmoid(-margin) ** 2)
    assert.closeTo(brierScore.value, squares.reduce((sum, square) => sum + square) / 5, 1e-12)
  })

  it("is near 0 for the scores that a Bradley-Terry model drew the rankings from", () => {
    const { bins, expectedError } = RankingAccuracy.calibration(truth, options)
    // The lower five bins mirror the upper ones, in which each pair stands once.
    assert.strictEqual(bins.length, 10)
    for (const [b, { n, observed, predicted }] of bins.entries()) {
      const other = bins[9 - b]!
      assert.strictEqual(n, other.n)
      assert.closeTo(predicted + other.predicted, 1, 1e-9)
      assert.closeTo(observed.value + other.observed.value, 1, 1e-9)
    }
    // Error of a bin: normal with variance p (1 - p) / n, of which the mean of the absolute value is known.
    const total = rankings.length
    let [mean, variance] = [0, 0]
    for (const { n, predicted } of bins.slice(5)) {
      const spread = (n / total) ** 2 * ((predicted * (1 - predicted)) / n)
      mean += Math.sqrt((2 / Math.PI) * spread)
      variance += (1 - 2 / Math.PI) * spread
    }
    assert.isBelow(Math.abs(expectedError.value - mean), 4 * Math.sqrt(variance))
    assert.strictEqual(expectedError.clusters, total)
  })

  it("tells a model that is too sure of itself", () => {
    const sure = fromScores(
      "sure",
      rankings,
      scores.map((row) => row.map((score) => 3 * score))
    )
    assert.isAbove(RankingAccuracy.calibration(sure, options).expectedError.low!, 0.05)
    // The order is the same, the claim is not.
    const accuracy = metric(sure, "pairwise_accuracy")
    assert.strictEqual(accuracy.value, metric(truth, "pairwise_accuracy").value)
    assert.isAbove(RankingAccuracy.expectedAccuracy(sure).low!, accuracy.high!)
    const expected = RankingAccuracy.expectedAccuracy(truth)
    assert.isBelow(Math.abs(expected.value - accuracy.value), 4 * Math.hypot(expected.se!, accuracy.se!))
  })

  it("bins as it is told", () => {
    const { bins } = RankingAccuracy.calibration(truth, {
      seed: 3,
      resamples: 10,
      by: "count",
      bins: 4,
      confidence: 0.9
    })
    assert.deepStrictEqual(
      bins.map(({ n, observed }) => [n, observed.confidence]),
      Array.from({ length: 4 }, () => [3_000, 0.9])
    )
  })
})

describe("RankingAccuracy.compare", () => {
  const { rankings, scores } = generated(
    4,
    Array.from({ length: 300 }, () => 4),
    1
  )
  const bayes = fromScores("Bayes", rankings, scores)
  const next = NextToken.uniforms(5)
  const noisy = fromScores(
    "noisy",
    rankings,
    scores.map((row) => row.map((score) => score + 4 * (next() - 0.5)))
  )
  const options = { seed: 6, resamples: 1_000 }

  it("finds what a model lacks of the Bayes accuracy, by paired prompts", () => {
    const { difference, firstHigher } = Result.getOrThrow(RankingAccuracy.compare(noisy, bayes, options))
    const [ours, theirs] = [noisy, bayes].map((scored) => metric(scored, "pairwise_accuracy"))
    assert.closeTo(difference.value, ours!.value - theirs!.value, 1e-12)
    assert.isBelow(difference.high!, 0)
    assert.strictEqual(firstHigher, 0)
    assert.deepStrictEqual([difference.n, difference.clusters], [1_800, 300])
    assert.isBelow(difference.se!, 0.8 * Math.hypot(ours!.se!, theirs!.se!))
  })

  it("finds no difference between scores of one order", () => {
    const squeezed = fromScores(
      "squeezed",
      // As if read from the file again.
      JSON.parse(JSON.stringify(rankings)),
      scores.map((row) => row.map((score) => Math.tanh(score / 10)))
    )
    const { difference } = Result.getOrThrow(RankingAccuracy.compare(squeezed, bayes, options))
    noInterval(difference, 0, "all equal")
    assert.strictEqual(Result.getOrThrow(RankingAccuracy.agreement(squeezed, bayes)).value, 1)
  })

  it("says how often two models prefer the same completion", () => {
    const other = fromScores(
      "other",
      hand.rankings.map(({ ranking }) => ranking),
      [
        // With the first: 1 over 0 yes, 0 over 2 against equal, 1 over 2 yes.
        [1, 2, 0],
        [5, 1],
        [0, 0]
      ]
    )
    const agreement = Result.getOrThrow(RankingAccuracy.agreement({ ...hand, tied: 0 }, other))
    close(agreement, { value: (1 + 0.5 + 1 + 0 + 0.5) / 5, low: 0, high: 1 }, 1e-12)
    assert.deepStrictEqual([agreement.n, agreement.clusters], [5, 2])
  })

  it("needs the same rankings", () => {
    const message = (second: RankingAccuracy.Scored) =>
      Result.getOrThrow(Result.flip(RankingAccuracy.compare(bayes, second, options))).message
    const changed = rankings.map((one, i) => (i === 7 ? { ...one, prompt: "another" } : one))
    assert.strictEqual(
      message(fromScores("other", changed, scores)),
      'sample "other", item "7": its ranking is another than that of "Bayes"; score the same rankings with both models'
    )
    assert.include(message(fromScores("other", rankings.slice(1), scores.slice(1))), 'sample "other", item')
    const reversed = rankings.map(({ ranks, ...one }) => ({ ...one, ranks: ranks.map((rank) => -rank) }))
    assert.include(message(fromScores("other", reversed, scores)), 'only "Bayes" has it')
  })
})

describe("RankingAccuracy.score", () => {
  it.effect("asks the model once, for the completions of rankings with a pair", () =>
    Effect.gen(function* () {
      const calls: Array<ReadonlyArray<RewardModel.Answer>> = []
      const model = RewardModel.fromBatchFunction("recorder", (answers) => {
        calls.push(answers)
        return answers.map((_, i) => i)
      })
      const conversation: Prompt.Content = [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hello" }
      ]
      const scored = yield* RankingAccuracy.score(model, [
        ranking("a", [1, 1]),
        ranking("b", [2, 1, 3]),
        ranking(conversation, [1, 2])
      ])
      assert.strictEqual(calls.length, 1)
      assert.deepStrictEqual(
        calls[0]!.map(({ completion, prompt }) => [prompt.text, completion.text, prompt.tokens.length]),
        [
          ["b", "answer 0", 0],
          ["b", "answer 1", 0],
          ["b", "answer 2", 0],
          ["system: Be brief.\n\nuser: Hello", "answer 0", 0],
          ["system: Be brief.\n\nuser: Hello", "answer 1", 0]
        ]
      )
      assert.deepStrictEqual(calls[0]![4]!.prompt.messages, conversation)
      assert.deepStrictEqual(
        scored.rankings.map(({ id, scores }) => [id, ...scores]),
        [
          ["1", 0, 1, 2],
          ["2", 3, 4]
        ]
      )
      assert.deepStrictEqual([scored.model, scored.tied], ["recorder", 1])
    })
  )

  it.effect("gives tokens to a model that reads them, with the end of the text where it is asked for", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const model = RewardModel.fromFunction("reader", ({ completion, prompt }) => {
        seen.push(`${prompt.tokens.join(" ")} | ${completion.tokens.join(" ")}`)
        return 0
      })
      const scripted = {
        ...tokenizer,
        // One text ends with the token itself.
        encode: (text: string, options?: { readonly addSpecialTokens?: boolean }) =>
          text === "!" ? Int32Array.of(35, 1) : tokenizer.encode(text, options),
        prompt: () => Result.succeed({ text: "<u>Q", tokens: Int32Array.of(9, 8) })
      }
      const items: ReadonlyArray<Ranking.Ranking> = [
        { prompt: "AB", completions: ["a", "!"], ranks: [1, 2] },
        { prompt: [{ role: "user", content: "Q" }], completions: ["a", "b"], ranks: [1, 2] }
      ]
      yield* RankingAccuracy.score(model, items, { tokenizer: scripted })
      assert.deepStrictEqual(seen.splice(0), ["0 67 68 | 99", "0 67 68 | 35 1", "9 8 | 99", "9 8 | 100"])
      yield* RankingAccuracy.score(model, items, { tokenizer: scripted, endOfText: true })
      assert.deepStrictEqual(seen.splice(0), ["0 67 68 | 99 1", "0 67 68 | 35 1", "9 8 | 99 1", "9 8 | 100 1"])
      const { eosId: _, ...endless } = scripted
      yield* RankingAccuracy.score(model, items, { tokenizer: endless, endOfText: true })
      assert.deepStrictEqual(seen.splice(0)[0], "0 67 68 | 99")
      yield* RankingAccuracy.score({ ...model, tokenizer: { ...Tokenizer.numeric(10), ...scripted } }, items)
      assert.deepStrictEqual(seen, ["0 67 68 | 99 1", "0 67 68 | 35 1", "9 8 | 99 1", "9 8 | 100 1"])
    })
  )

  it.effect("tells no text from itself", () =>
    Effect.gen(function* () {
      let asked = 0
      const drifting = RewardModel.fromFunction("drifting", () => asked++ * 1e-3)
      const twice = { prompt: "p", completions: ["yes", "no", "yes"], ranks: [3, 2, 1] }
      const scored = yield* RankingAccuracy.score(drifting, [twice])
      assert.deepStrictEqual(
        scored.rankings[0]!.pairs.map(({ margin }) => Math.sign(margin)),
        [1, 0, -1]
      )
    })
  )

  it.effect("names the ranking, the prompt and the completion that the model failed at", () =>
    Effect.gen(function* () {
      const items = [ranking("first", [1, 1]), ranking("second", [1, 2]), ranking("third\nline", [1, 2])]
      let asked = 0
      const failing = RewardModel.fromFunction("failing", () => {
        if (asked++ === 3) throw new Error("out of memory")
        return 0
      })
      const error = yield* Effect.flip(RankingAccuracy.score(failing, items))
      assert.match(error.message, /^reward model failing, ranking 2 \("third line"\), completion 1: .*out of memory/)
      assert.deepStrictEqual([error.ranking, error.completion], [2, 1])
      assert.strictEqual(error.prompt, "third\nline")
      assert.instanceOf(error.cause, RewardModel.RewardModelError)
      const batch = RewardModel.fromBatchFunction("batch", () => [1])
      const short = yield* Effect.flip(RankingAccuracy.score(batch, items))
      assert.match(short.message, /^reward model batch: returned 1 scores for 4 answers/)
      const made = (scores: ReadonlyArray<number>): RewardModel.RewardModelShape => ({
        name: "made",
        score: () => Effect.succeed(Float32Array.from(scores))
      })
      assert.strictEqual(
        (yield* Effect.flip(RankingAccuracy.score(made([1, 2, 3]), items))).message,
        "reward model made: gave 3 scores for 4 completions"
      )
      assert.strictEqual(
        (yield* Effect.flip(RankingAccuracy.score(made([1, 2, 3, Number.NaN]), items))).message,
        'reward model made, ranking 2 ("third line"), completion 1: scored as NaN; a score must be a finite number'
      )
    })
  )

  it.effect("refuses rankings that do not hold, before the model is asked", () =>
    Effect.gen(function* () {
      const never = RewardModel.fromFunction("never", () => assert.fail("was asked"))
      const refused = (items: ReadonlyArray<Ranking.Ranking>, options?: RankingAccuracy.Options) =>
        Effect.map(Effect.flip(RankingAccuracy.score(never, items, options)), ({ message }) => message)
      const good = ranking("good", [1, 2])
      assert.strictEqual(yield* refused([]), "reward model never: no rankings; there is nothing to evaluate")
      assert.strictEqual(
        yield* refused([ranking("a", [1, 1]), ranking("b", [2, 2, 2])]),
        "reward model never: all completions are tied in each of the 2 rankings; no pair is left to compare"
      )
      assert.strictEqual(
        yield* refused([good, ranking("lonely", [1])]),
        'reward model never, ranking 1 ("lonely"): has 1 completions; a ranking compares at least 2'
      )
      assert.strictEqual(
        yield* refused([good, { ...good, ranks: [1, 2, 3] }]),
        'reward model never, ranking 1 ("good"): has 3 ranks for 2 completions; give one for each'
      )
      assert.strictEqual(
        yield* refused([ranking("odd", [1, Number.NaN])]),
        'reward model never, ranking 0 ("odd"): has the rank NaN; a rank is a whole number, smaller is better'
      )
      const refusal = new Tokenizer.TokenizerError({ file: "chat_template.jinja", reason: "no roles" })
      const strict = { ...tokenizer, prompt: () => Result.fail(refusal) }
      assert.strictEqual(
        yield* refused([good, ranking([{ role: "x", content: "y" }], [1, 2])], { tokenizer: strict }),
        'reward model never, ranking 1 ("x: y"): chat_template.jinja: no roles'
      )
    })
  )

  it("refuses scores that are not those of the rankings", () => {
    const items = [ranking("a", [1, 2]), ranking("b", [1, 2])]
    assert.strictEqual(
      failure(RankingAccuracy.fromScores("known", items, [[1, 2]])).message,
      "reward model known: 1 lists of scores for 2 rankings; give one for each"
    )
    assert.strictEqual(
      failure(RankingAccuracy.fromScores("known", items, [[1, 2], [1]])).message,
      'reward model known, ranking 1 ("b"): 1 scores for 2 completions; give one for each'
    )
  })
})

describe("RankingAccuracy in a report", () => {
  it.effect("is a table of K and a reliability diagram", () =>
    Effect.gen(function* () {
      const table = RankingAccuracy.table([hand, { ...hand, model: "again", tied: 0 }], { task: "held-out" })
      assert.strictEqual(table.title, "Accuracy on held-out")
      assert.include(table.caption!, "left out: 1 (hand), 0 (again)")
      assert.deepStrictEqual(
        table.rows.map((row) => row.slice(0, 5)),
        ["hand", "again"].flatMap((model) => [
          [model, "all", { count: 3 }, { count: 2 }, { count: 5 }],
          [model, "2", { count: 2 }, { count: 1 }, { count: 2 }],
          [model, "3", { count: 1 }, { count: 1 }, { count: 3 }]
        ])
      )
      assert.deepStrictEqual(table.rows[0]![5], metric(hand, "pairwise_accuracy"))
      const plot = RankingAccuracy.reliability([RankingAccuracy.calibration(hand, { seed: 1, resamples: 10 })])
      assert.deepStrictEqual(BlockTable.make(table).rows[1]!.slice(0, 5), ["hand", "2", "2", "1", "2"])
      yield* Report.toJson({
        title: "Reward model",
        provenance: { versions: {}, seeds: {}, commands: [], models: [], datasets: [] },
        sections: [{ title: "Accuracy", blocks: [table, plot] }]
      })
      assert.deepStrictEqual(
        plot.series.map(({ bins, name }) => [
          name,
          ...bins.map(({ observed, predicted }) => [predicted.toFixed(4), observed.value.toFixed(4), observed.n])
        ]),
        // Margins 3, 1, 1, 0 and -1 in both orders.
        [
          [
            "hand",
            ["0.0474", "0.0000", 1],
            ["0.2689", "0.3333", 3],
            ["0.5000", "0.5000", 2],
            ["0.7311", "0.6667", 3],
            ["0.9526", "1.0000", 1]
          ]
        ]
      )
    })
  )
})
