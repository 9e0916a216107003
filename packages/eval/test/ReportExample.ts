/** A report as somebody might send it round, with every kind of block; the numbers are drawn from seeds. */
import { NextToken } from "@attune/core"
import { Result } from "effect"
import * as Estimate from "../src/Estimate.ts"
import * as Report from "../src/Report.ts"
import * as Sample from "../src/Sample.ts"

const normals = (seed: number, n: number): ReadonlyArray<number> => {
  const next = NextToken.uniforms(seed)
  // Sum of twelve uniforms: near enough to normal for a picture.
  return Array.from({ length: n }, () => Array.from({ length: 12 }, () => next()).reduce((a, b) => a + b, -6))
}

const sample = (name: string, values: ReadonlyArray<number>): Sample.Sample =>
  Result.getOrThrow(Sample.fromValues(name, values))

const rewards = {
  base: sample(
    "base",
    normals(1, 1_000).map((z) => -0.4 + 0.9 * z)
  ),
  sft: sample(
    "sft",
    normals(2, 1_000).map((z) => 0.3 + 0.7 * z)
  ),
  ppo: sample(
    "ppo-ptx, beta = 0.02",
    normals(3, 1_000).map((z) => 1.4 + 0.45 * z)
  )
}

const score = (system: string, task: string, metric: string, hits: number, n: number): Report.ScoreRow => ({
  system,
  task,
  metric,
  unit: "",
  higherIsBetter: true,
  estimate: Estimate.rate(hits, n)
})

const curve = (seed: number, from: number, to: number, speed: number) =>
  normals(seed, 101).map((z, i) => {
    const y = to + (from - to) * Math.exp((-speed * i) / 100) + 0.02 * z
    return { x: 20 * i, y, low: y - 0.09, high: y + 0.09 }
  })

const around = (value: number, half: number, n: number): Estimate.Estimate => ({
  value,
  low: value - half,
  high: value + half,
  se: half / 1.96,
  n,
  confidence: 0.95,
  method: "mean, Student t"
})

export const report: Report.Report = {
  title: "Does PPO beat supervised fine-tuning on the help desk?",
  subtitle: "tinystories-656K, 2,000 steps, three systems on the same 1,000 held-out tickets",
  created: "2026-11-22T10:00:00Z",
  provenance: {
    versions: { "@attune/eval": "0.1.0", "onnxruntime-node": "1.30.0", node: "24.21.0" },
    seeds: { sampling: 1, "bootstrap resamples": 20_260 },
    commands: ["pnpm example compare --model models/desk --prompts tickets.jsonl --out out/compare"],
    models: [
      {
        name: "base",
        source: "models/desk",
        sha256: "5f0c9a3d0e6a4b7c8d1e2f3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e"
      },
      { name: "ppo-ptx, beta = 0.02", source: "out/ppo/step-2000" }
    ],
    datasets: [
      {
        name: "tickets, test split",
        sha256: "9b74c9897bac770ffc029102a200c5de7f1e8d3f2b6a4c5d6e7f8091a2b3c4d5",
        items: 1_000
      }
    ]
  },
  sections: [
    {
      title: "Summary",
      text: "PPO wins against supervised fine-tuning on the gold score and loses a little on HellaSwag. Its answers are longer, and the length-controlled win rate is nearer to one half.\n\nAll systems answered the same prompts, and differences are paired.",
      blocks: [
        {
          _tag: "Warnings",
          items: [
            "The judge prefers the first answer in 9.2 % of the pairs more often than chance; both orders were asked.",
            "TruthfulQA was run on 40 questions only: its smallest detectable difference is 0.19."
          ]
        },
        {
          _tag: "Scores",
          title: "Benchmarks",
          caption: "Zero-shot, greedy; metrics as in the LM evaluation harness.",
          scores: [
            score("base", "hellaswag", "acc_norm", 271, 1_000),
            score("sft", "hellaswag", "acc_norm", 284, 1_000),
            score("ppo-ptx, beta = 0.02", "hellaswag", "acc_norm", 263, 1_000),
            score("base", "truthfulqa_mc1", "acc", 9, 40),
            score("sft", "truthfulqa_mc1", "acc", 11, 40),
            score("ppo-ptx, beta = 0.02", "truthfulqa_mc1", "acc", 12, 40),
            {
              system: "ppo-ptx, beta = 0.02",
              task: "tickets",
              metric: "word_perplexity",
              unit: "",
              higherIsBetter: false,
              estimate: {
                value: 12.41,
                low: null,
                high: null,
                se: null,
                n: 1,
                confidence: 0.95,
                method: "one value, no interval"
              }
            }
          ]
        },
        {
          _tag: "Table",
          title: "What was run",
          columns: ["System", "Answers", "Ends by itself", "Settings"],
          rows: [
            ["base", { count: 1_000 }, Estimate.rate(412, 1_000), "temperature 0.7"],
            ["sft", { count: 1_000 }, Estimate.rate(985, 1_000), "temperature 0.7, 3 epochs"],
            ["ppo-ptx, beta = 0.02", { count: 12_000 }, Estimate.rate(996, 1_000), "temperature 0.7, best step"]
          ]
        }
      ]
    },
    {
      title: "Win rates",
      blocks: [
        {
          _tag: "Forest",
          title: "Win rate of ppo-ptx",
          caption: "Both orders judged; a tie counts one half. Wilson intervals over prompts.",
          xLabel: "win rate",
          reference: 0.5,
          favours: { below: "the other system", above: "ppo-ptx" },
          rows: [
            { label: "against base", estimate: Estimate.rate(872, 1_000) },
            { label: "against sft", estimate: Estimate.rate(583, 1_000) },
            { label: "against sft, length-controlled", estimate: Estimate.rate(521, 1_000) },
            { label: "against human answers", estimate: Estimate.rate(17, 50) },
            {
              label: "against the one gold answer",
              estimate: { value: 0.55, low: null, high: null, se: null, n: 1, confidence: 0.95, method: "one prompt" }
            }
          ]
        },
        {
          _tag: "Calibration",
          title: "Is the reward model calibrated?",
          caption: "Held-out comparisons, by the predicted probability of the first answer.",
          series: [
            {
              name: "reward model",
              bins: [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95].map((predicted, i) => ({
                predicted,
                observed: Estimate.rate(Math.round((0.15 + 0.7 * predicted) * (40 + 10 * i)), 40 + 10 * i)
              }))
            },
            {
              name: "judge",
              bins: [0.1, 0.3, 0.5, 0.7, 0.9].map((predicted) => ({
                predicted,
                observed: Estimate.rate(Math.round(predicted * 120), 120)
              }))
            }
          ]
        }
      ]
    },
    {
      title: "Training",
      blocks: [
        {
          _tag: "LearningCurves",
          title: "Reward while training",
          caption: "Proxy reward per response on the training prompts, exponentially smoothed over 20 steps.",
          xLabel: "step",
          yLabel: "reward per response",
          band: "95 % interval over 256 rollouts",
          series: [
            { name: "ppo-ptx, beta = 0.02", points: curve(5, 0.3, 1.5, 4) },
            { name: "ppo, beta = 0.02", points: curve(6, 0.3, 1.7, 3) },
            { name: "ppo, beta = 0.2", points: curve(7, 0.3, 0.8, 5) }
          ]
        },
        {
          _tag: "Curve",
          title: "Over-optimisation",
          caption: "The gold score stops rising at about 6 nats, the proxy does not.",
          xLabel: "KL from the reference, nats per response",
          yLabel: "reward",
          series: [
            {
              name: "proxy reward",
              points: [0.2, 1, 2.5, 4, 6, 9, 13].map((kl) => ({
                x: around(kl, 0.05 + 0.04 * kl, 256),
                y: around(0.3 + 0.75 * Math.sqrt(kl), 0.08, 256)
              }))
            },
            {
              name: "gold score",
              points: [0.2, 1, 2.5, 4, 6, 9, 13].map((kl, i) => ({
                x: around(kl, 0.05 + 0.04 * kl, 256),
                y: around(0.3 + 0.68 * Math.sqrt(kl) - 0.105 * kl, 0.1, 256),
                ...(i % 3 === 1 ? { label: `step ${400 * i}` } : {})
              }))
            },
            {
              name: "best of n, gold score",
              points: [1, 2, 4, 16, 64].map((n) => ({
                x: Math.log(n) - (n - 1) / n,
                y: around(0.3 + 0.6 * Math.sqrt(Math.log(n) - (n - 1) / n), 0.09, 256)
              }))
            }
          ]
        },
        Report.distribution({
          title: "Gold score of the answers",
          caption: "One answer per held-out ticket.",
          xLabel: "gold score",
          samples: [rewards.base, rewards.sft, rewards.ppo]
        })
      ]
    },
    {
      title: "Answers",
      text: "The first tickets of the test split, not chosen by hand.",
      blocks: [
        {
          _tag: "Samples",
          systems: ["base", "sft", "ppo-ptx, beta = 0.02"],
          rows: [
            {
              id: "ticket-0412",
              prompt:
                "Ticket: Hello! My Orion 4 router drops the connection every evening around 8 pm. My neighbour likes it, the weather is fine. Please call me back before Friday.\nSummary:",
              outputs: [
                { text: " Orion Orion router router the the evening", scores: [{ metric: "gold", value: -0.61 }] },
                {
                  text: " Orion 4 router loses its connection at about 8 pm; call back before Friday.",
                  scores: [
                    { metric: "gold", value: 1.02 },
                    { metric: "words", value: 14 }
                  ]
                },
                {
                  text: " The customer's Orion 4 router drops the connection every evening around 8 pm. Call back before Friday.",
                  scores: [
                    { metric: "gold", value: 1.38 },
                    { metric: "words", value: 17 }
                  ],
                  note: "Names product, problem, time and request."
                }
              ]
            },
            {
              id: "ticket-0413",
              prompt:
                "Ticket: שלום, the mail from Sofía (café) shows <b>bold</b> and a \u202eright-to-left\u202c mark.\nSummary:",
              outputs: [
                { text: "", scores: [{ metric: "gold", value: -1.2 }] },
                { text: " Mail shows markup.\n\n\tfunction f() {\n\t  return `</pre><script>alert(1)</script>`\n\t}" },
                { text: " Mail of Sofía shows <b>bold</b> markup and \u0000a direction mark.", note: "Keeps the name." }
              ]
            }
          ]
        },
        { _tag: "Table", title: "Refused answers", columns: ["Ticket", "Reason"], rows: [] }
      ]
    }
  ]
}
