/**
 * How many tokens per second does the sampler draw, and how does that compare with a peer?
 */
import { Pretrained } from "@attune/core/hub"
import { OrtPolicy } from "@attune/core/ort"
import { Effect, Stream } from "effect"
import { type Bench, BenchError, count } from "./Bench.ts"
import * as Peer from "./Peer.ts"

export const bench: Bench = {
  question: "tokens per second of plain sampling without stops, all rows from one prompt",
  flags: {
    model: "model directory (default ../shared/data/tinystories-656K)",
    batches: "batch sizes, separated by commas (default 1,32,128)",
    tokens: "new tokens per row (default 128)",
    rounds: "rounds over all batch sizes (default 3)",
    repeats: "samplings per batch size and round, of which the fastest counts (default 3)",
    peer: "shell command that prints {batch, tokens_per_s} lines; run after each round, and compared"
  },
  run: ({ flags }) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const batches = (flags.get("batches") ?? "1,32,128").split(",").map(Number)
        if (batches.some((batch) => !(Number.isSafeInteger(batch) && batch >= 1))) {
          return yield* new BenchError({ message: `--batches takes whole numbers from 1, separated by commas` })
        }
        const maxNewTokens = yield* count(flags, "tokens", 128)
        const rounds = yield* count(flags, "rounds", 3)
        const repeats = yield* count(flags, "repeats", 3)
        const command = flags.get("peer")
        const base = yield* Pretrained.load(flags.get("model") ?? "../shared/data/tinystories-656K")
        const policy = yield* OrtPolicy.make(base)
        const rates = new Map(batches.map((batch) => [batch, [] as Array<number>]))
        const peers = new Map(batches.map((batch) => [batch, [] as Array<number>]))
        const sample = (batch: number, tokens: number, seed: number) =>
          policy.sample(new Array<string>(batch).fill("Once upon a time"), {
            maxNewTokens: tokens,
            stopTokens: [],
            batchSize: batch,
            seed
          })
        for (const batch of batches) yield* sample(batch, 8, 0)
        for (let round = 0; round < rounds; round++) {
          for (const batch of batches) {
            let best = 0
            for (let i = 0; i < repeats; i++) {
              const start = performance.now()
              yield* sample(batch, maxNewTokens, round * repeats + i)
              best = Math.max(best, (1000 * batch * maxNewTokens) / (performance.now() - start))
            }
            rates.get(batch)!.push(best)
          }
          if (command === undefined) continue
          const rated = yield* Peer.measureEach(command, "batch", "tokens_per_s")
          for (const [batch, rate] of rated) peers.get(batch)?.push(rate)
        }
        return Stream.fromIterable(
          batches.flatMap((batch) => {
            const own = { case: `batch ${batch}`, unit: "tokens/s", values: rates.get(batch)! }
            return Peer.compared(own, peers.get(batch)!, "more")
          })
        )
      })
    )
}
