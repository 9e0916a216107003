import { NextToken } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import * as AlignmentTax from "../../src/diagnostics/AlignmentTax.ts"
import * as MarkdownReport from "../../src/report/MarkdownReport.ts"
import * as Sample from "../../src/Sample.ts"
import * as Score from "../../src/Score.ts"

const measured = (system: string, task: string, metric = "acc"): Score.Measured => ({
  system,
  task,
  metric,
  unit: "share",
  higherIsBetter: metric === "acc"
})

const score = (
  system: string,
  task: string,
  values: ReadonlyArray<number>,
  { clusters, metric = "acc" }: { readonly clusters?: ReadonlyArray<string>; readonly metric?: string } = {}
): Score.Score =>
  Score.mean(
    measured(system, task, metric),
    Result.getOrThrow(
      Sample.make(
        task,
        values.map((value, i) => ({ id: `i${i}`, value, cluster: clusters?.[i] }))
      )
    )
  )

const repeat = (value: number, count: number) => Array.from({ length: count }, () => value)
const few = { seed: 1, resamples: 100 }

const compare = (before: ReadonlyArray<Score.Score>, after: ReadonlyArray<Score.Score>, options = {}) =>
  Result.getOrThrow(AlignmentTax.compare(before, after, { ...few, ...options }))

describe("holm", () => {
  it("multiplies the smallest by all, the next by one less, and never falls", () => {
    const adjusted = AlignmentTax.holm([0.04, 0.01, 0.03, 0.5])
    for (const [i, value] of [0.09, 0.04, 0.09, 0.5].entries()) assert.closeTo(adjusted[i]!, value, 1e-15)
    assert.deepStrictEqual(AlignmentTax.holm([0.6, 0.7]), [1, 1])
    assert.deepStrictEqual(AlignmentTax.holm([]), [])
  })

  const p = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))

  it.prop(
    "lies between the p-value and Bonferroni's, and keeps the order",
    [Arbitrary.array(Arbitrary.schema(p), { minLength: 1, maxLength: 12 })],
    ([ps]) => {
      const adjusted = AlignmentTax.holm(ps)
      for (const [i, p] of ps.entries()) {
        assert.isTrue(p <= adjusted[i]! && adjusted[i]! <= Math.min(1, ps.length * p))
        for (const [j, q] of ps.entries()) if (p < q) assert.isAtMost(adjusted[i]!, adjusted[j]!)
      }
    }
  )
})

describe("compare", () => {
  const before = [
    score("sft", "boolq", repeat(1, 12)),
    score("sft", "bias", repeat(1, 12), { metric: "likelihood_diff" }),
    score("sft", "arc", [1, 0, 1, 0])
  ]
  const after = [
    score("ppo", "arc", [1, 0, 0, 1]),
    score("ppo", "boolq", [...repeat(0, 10), 1, 1]),
    score("ppo", "bias", [...repeat(0, 9), 1, 1, 1], { metric: "likelihood_diff" })
  ]

  it("tests each metric on paired items, in its direction, corrected for all", () => {
    const { correction, rows, ...rest } = compare(before, after)
    assert.deepInclude(rest, { before: "sft", after: "ppo", alpha: 0.05 })
    assert.match(correction, /Holm over 3 rows/)
    const [boolq, bias, arc] = rows
    // ten fell, none rose: 2 of 2^10 sign patterns are as extreme
    assert.closeTo(boolq!.pValue, 2 / 2 ** 10, 1e-12)
    assert.closeTo(boolq!.adjustedPValue, 6 / 2 ** 10, 1e-12)
    assert.closeTo(boolq!.difference.value, -10 / 12, 1e-12)
    assert.strictEqual(boolq!.verdict, "worse")
    // nine fell where lower is better
    assert.closeTo(bias!.adjustedPValue, (2 * 2) / 2 ** 9, 1e-12)
    assert.strictEqual(bias!.verdict, "better")
    // one rose and one fell
    assert.deepInclude(arc!, { task: "arc", pValue: 1, adjustedPValue: 1, verdict: "no difference detected" })
    assert.deepStrictEqual([boolq!.before, boolq!.after], [before[0]!.estimate, after[1]!.estimate])
  })

  it("says what it could have found, at the strictest step of the correction", () => {
    const arc = compare(before, after).rows[2]!
    // differences 0, 0, -1, 1: sd √(2/3), se that over 2; z(1 - 0.05 / 6) = 2.393980, z(0.8) = 0.841621
    assert.closeTo(arc.minimumDetectableEffect!.value, (2.39398 + 0.841621) * (Math.sqrt(2 / 3) / 2), 1e-5)
    const alone = compare([before[2]!], [after[0]!])
    assert.match(alone.correction, /none/)
    assert.closeTo(alone.rows[0]!.minimumDetectableEffect!.value, (1.959964 + 0.841621) * (Math.sqrt(2 / 3) / 2), 1e-5)
  })

  it("calls a difference what one test would, but not all", () => {
    const six = [...repeat(0, 6), ...repeat(1, 6)]
    const alone = compare([score("a", "t", repeat(1, 12))], [score("b", "t", six)])
    assert.deepInclude(alone.rows[0]!, { pValue: 2 / 2 ** 6, verdict: "worse" })
    const others = (system: string) => ["u", "v"].map((task) => score(system, task, [0, 1]))
    const among = compare([score("a", "t", repeat(1, 12)), ...others("a")], [score("b", "t", six), ...others("b")])
    assert.deepInclude(among.rows[0]!, { pValue: 2 / 2 ** 6, verdict: "no difference detected" })
    assert.isBelow(among.rows[0]!.difference.high!, 0)
  })

  const values = Arbitrary.array(Arbitrary.schema(Schema.Finite.check(Schema.isBetween({ minimum: -9, maximum: 9 }))), {
    minLength: 8,
    maxLength: 8
  })

  it.prop("finds the opposite with the systems exchanged, and nothing against itself", [values, values], ([a, b]) => {
    const forth = compare([score("a", "t", a)], [score("b", "t", b)]).rows[0]!
    const back = compare([score("b", "t", b)], [score("a", "t", a)]).rows[0]!
    assert.closeTo(forth.difference.value, -back.difference.value, 1e-12)
    assert.strictEqual(forth.pValue, back.pValue)
    const opposite = { better: "worse", worse: "better", "no difference detected": "no difference detected" } as const
    assert.strictEqual(forth.verdict, opposite[back.verdict])
    const same = compare([score("a", "t", a)], [score("b", "t", a)]).rows[0]!
    assert.deepInclude(same, { pValue: 1, verdict: "no difference detected", minimumDetectableEffect: null })
  })

  it("flips whole clusters", () => {
    const clusters = ["p", "p", "p", "q", "q", "q"]
    const [row] = compare(
      [score("a", "t", repeat(0, 6), { clusters })],
      [score("b", "t", [1, 1, 1, 1, 1, 0], { clusters })]
    ).rows
    assert.strictEqual(row!.pValue, 0.5)
    assert.strictEqual(row!.difference.clusters, 2)
  })

  it("has no interval and no detectable effect from one item", () => {
    const [row] = compare([score("a", "t", [0])], [score("b", "t", [1])]).rows
    assert.deepInclude(row!, { pValue: 1, verdict: "no difference detected", minimumDetectableEffect: null })
    assert.deepInclude(row!.difference, { value: 1, low: null, high: null, n: 1 })
  })

  it("says where a score is not the mean of its items", () => {
    const perplexity = (system: string, values: ReadonlyArray<number>) => {
      const made = score(system, "lambada", values, { metric: "perplexity" })
      return { ...made, estimate: { ...made.estimate, value: Math.exp(made.estimate.value) } }
    }
    const [row] = compare([perplexity("a", [1, 2, 3])], [perplexity("b", [2, 3, 5])]).rows
    assert.match(row!.difference.method, /of the items' values, whose mean the score is not/)
    assert.closeTo(row!.difference.value, 4 / 3, 1e-12)
    assert.notMatch(compare(before, after).rows[0]!.difference.method, /whose mean/)
  })

  it("calls any difference one in no more than 5 % of comparisons where there are none", () => {
    const runs = 400
    let wrong = 0
    for (let run = 0; run < runs; run++) {
      const uniform = NextToken.uniforms(run)
      const draw = (system: string) =>
        ["t", "u", "v", "w"].map((task) =>
          score(
            system,
            task,
            Array.from({ length: 40 }, () => Math.round(uniform()))
          )
        )
      const { rows } = compare(draw("a"), draw("b"), { resamples: 2 })
      if (rows.some(({ verdict }) => verdict !== "no difference detected")) wrong++
    }
    assert.isAtMost(wrong / runs, 0.05)
    // and not because nothing is ever found
    assert.isAbove(wrong, 0)
  })
})

describe("refuses", () => {
  const one = score("a", "hellaswag", [1, 0, 1])
  const two = score("b", "hellaswag", [1, 1, 1])
  const messageOf = (before: ReadonlyArray<Score.Score>, after: ReadonlyArray<Score.Score>) => {
    const compared = AlignmentTax.compare(before, after, few)
    return Result.isFailure(compared) ? `${compared.failure._tag} ${compared.failure.message}` : "compared"
  }

  it("a metric that one side has alone, and names it", () => {
    assert.match(
      messageOf([one, score("a", "arc", [1])], [two]),
      /AlignmentTaxError alignment tax: arc, acc: only "a" has it, not "b"/
    )
    assert.match(messageOf([one], [two, score("b", "arc", [1])]), /arc, acc: only "b" has it, not "a"/)
  })

  it("different items, and names the first", () => {
    assert.match(
      messageOf([one], [score("b", "hellaswag", [1, 0])]),
      /SampleError sample "b: hellaswag acc", item "i2": only "a: hellaswag acc" has it/
    )
  })

  it("items that are in one cluster before and in another, or in none, after", () => {
    const clustered = score("b", "hellaswag", [1, 1, 1], { clusters: ["p", "p", "q"] })
    assert.match(messageOf([one], [clustered]), /hellaswag, acc: item "i0" is not in the same cluster/)
  })

  it("two systems on one side, a metric twice, another unit or direction, nothing", () => {
    assert.match(messageOf([one, score("c", "arc", [1])], [two]), /scores before are of "a" and of "c"/)
    assert.match(messageOf([one, one], [two]), /hellaswag, acc: "a" has it twice before/)
    assert.match(
      messageOf([one], [{ ...two, unit: "%" }]),
      /"a" has it in share, higher is better; "b" in %, higher is better/
    )
    assert.match(messageOf([one], [{ ...two, higherIsBetter: false }]), /"b" in share, lower is better/)
    assert.match(messageOf([], [two]), /no scores before/)
  })
})

it("is a table of a report, which states the correction", () => {
  const tax = compare(
    [score("sft", "boolq", repeat(1, 12)), score("sft", "arc", [1])],
    [score("ppo", "boolq", repeat(0, 12)), score("ppo", "arc", [0])]
  )
  const text = MarkdownReport.render({
    title: "Tax",
    provenance: { versions: {}, seeds: {}, commands: [], models: [], datasets: [] },
    sections: [{ title: "Benchmarks", blocks: [AlignmentTax.table(tax)] }]
  })
  assert.match(text, /Holm over 2 rows, family-wise error rate 0.05/)
  assert.match(text, /boolq, acc.*worse/)
  assert.match(text, /arc, acc.*no difference detected.*the items show no spread/)
})
