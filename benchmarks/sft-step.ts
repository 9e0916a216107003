/**
 * How long does one optimizer step of supervised fine-tuning take on full sequences, and how does that compare with a peer?
 */
import { Effect, Stream } from "effect"
import { type Bench, type Case, count } from "./Bench.ts"
import * as Peer from "./Peer.ts"
import * as RandomModel from "./RandomModel.ts"

const defaults = { batch: 8, length: 128, vocab: 16384, width: 512, heads: 8, layers: 6 }

export const bench: Bench = {
  question: "milliseconds per step of a GPT-2 shape: forward, backward, clipping and AdamW on full sequences",
  flags: {
    ...RandomModel.flagsFor(defaults),
    rounds: "rounds (default 3)",
    steps: "steps per round, in one run of the graph (default 8)",
    peer: "shell command that prints a JSON line with step_ms_median; run after each round, and compared"
  },
  run: ({ flags }) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const shape = yield* RandomModel.sizes(flags, defaults)
        const rounds = yield* count(flags, "rounds", 3)
        const steps = yield* count(flags, "steps", 8)
        const command = flags.get("peer")
        const learner = yield* RandomModel.learner(shape, steps)
        const batches = RandomModel.batches(shape, steps)
        yield* learner.update(batches.slice(0, 2))
        const own: Array<number> = []
        const peer: Array<number> = []
        for (let round = 0; round < rounds; round++) {
          const start = performance.now()
          yield* learner.update(batches)
          own.push((performance.now() - start) / steps)
          if (command !== undefined) peer.push(yield* Peer.measure(command, "step_ms_median"))
        }
        const tokens = shape.batch * shape.length
        const name = `${shape.layers}x${shape.width}, ${shape.batch}x${shape.length} tokens`
        const rate: Case = { case: `${name}, rate`, unit: "tokens/s", values: own.map((ms) => (1000 * tokens) / ms) }
        return Stream.fromIterable([...Peer.compared({ case: name, unit: "ms/step", values: own }, peer, "less"), rate])
      })
    )
}
