/**
 * How many tokens per second does the sampler draw, and how does that compare with a peer?
 */
import { execFile } from "node:child_process"
import { promisify } from "node:util"
import { Pretrained } from "@attune/core/hub"
import { OrtPolicy } from "@attune/core/ort"
import { Effect, Stream } from "effect"
import { type Bench, type Case, median, number } from "./Bench.ts"

// Prints `{ batch, tokens_per_s }` as JSON lines.
const peerRates = async (command: string): Promise<ReadonlyMap<number, number>> => {
  const { stdout } = await promisify(execFile)("/bin/sh", ["-c", command])
  const lines = stdout
    .trim()
    .split("\n")
    .filter((text) => text.startsWith("{"))
  return new Map(lines.map((text) => JSON.parse(text)).map(({ batch, tokens_per_s }) => [batch, tokens_per_s]))
}

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
  run: ({ flags }) => {
    const directory = flags.get("model") ?? "../shared/data/tinystories-656K"
    const batches = (flags.get("batches") ?? "1,32,128").split(",").map(Number)
    const maxNewTokens = number(flags, "tokens", 128)
    const rounds = number(flags, "rounds", 3)
    const repeats = number(flags, "repeats", 3)
    const command = flags.get("peer")
    return Stream.unwrap(
      Effect.gen(function* () {
        const policy = yield* OrtPolicy.make(yield* Pretrained.load(directory))
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
          if (command !== undefined) {
            for (const [batch, rate] of yield* Effect.promise(() => peerRates(command))) peers.get(batch)?.push(rate)
          }
        }
        return Stream.fromIterable(
          batches.flatMap((batch): ReadonlyArray<Case> => {
            const [own, other] = [rates.get(batch)!, peers.get(batch)!]
            const measured = { case: `batch ${batch}`, unit: "tokens/s", values: own }
            if (other.length === 0) return [measured]
            return [
              measured,
              { case: `batch ${batch}, peer`, unit: "tokens/s", values: other },
              { case: `batch ${batch}, ratio of medians`, unit: "x", values: [median(own) / median(other)] }
            ]
          })
        )
      })
    )
  }
}
