/**
 * How many real tokens per second does an epoch of supervised fine-tuning take in, padding not counted, and how does that
 * compare with a peer?
 */
import { readFile } from "node:fs/promises"
import { Demonstration, Epochs, Sft } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { Optimizer } from "@attune/core/onnx"
import { OrtLearner, OrtPolicy } from "@attune/core/ort"
import { Effect, Stream } from "effect"
import { type Bench, count } from "./Bench.ts"
import * as Peer from "./Peer.ts"

export const bench: Bench = {
  question: "real tokens per second of one epoch over texts, in an order that is drawn anew; tokenizing is not timed",
  flags: {
    model: "model directory (default ../shared/data/tinystories-656K)",
    text: "texts, separated by <|endoftext|> (default ../shared/data/tinystories/train.txt)",
    rows: "texts, from the start of the file (default 512)",
    batch: "sequences per step (default 16)",
    length: "most tokens of a text that are used (default 256)",
    rounds: "epochs that are measured (default 3)",
    peer: "shell command that prints a JSON line with tokens_per_s; run after each round, and compared"
  },
  run: ({ flags }) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const base = yield* Pretrained.load(flags.get("model") ?? "../shared/data/tinystories-656K")
        const path = flags.get("text") ?? "../shared/data/tinystories/train.txt"
        const text = yield* Effect.tryPromise(() => readFile(path, "utf8"))
        const rows = yield* count(flags, "rows", 512)
        const batch = yield* count(flags, "batch", 16)
        const length = yield* count(flags, "length", 256, 2)
        const rounds = yield* count(flags, "rounds", 3)
        const command = flags.get("peer")

        const examples = Demonstration.fromText(text)
          .slice(0, rows)
          .map(({ completion }) => Sft.example([], base.tokenizer.encode(completion).subarray(0, length)))
        const tokens = examples.reduce((sum, example) => sum + example.tokens.length, 0)
        const epoch = (round: number) => {
          const order = Epochs.order(examples.length, 0, round)
          return Array.from({ length: Math.ceil(examples.length / batch) }, (_, i) =>
            Array.from(order.subarray(i * batch, (i + 1) * batch), (index) => examples[index]!)
          )
        }

        const policy = yield* OrtPolicy.make(base)
        const optimizer = Optimizer.adamW({ learningRate: 5e-4, maxGradNorm: 1 })
        const learner = yield* OrtLearner.make({ model: policy, loss: Sft.loss, optimizer })
        const start = yield* learner.state
        yield* learner.update(epoch(0).slice(0, 2))
        const own: Array<number> = []
        const peer: Array<number> = []
        for (let round = 0; round < rounds; round++) {
          yield* learner.restore(start)
          const batches = epoch(round)
          const begun = performance.now()
          yield* learner.update(batches)
          own.push((1000 * tokens) / (performance.now() - begun))
          if (command !== undefined) peer.push(yield* Peer.measure(command, "tokens_per_s"))
        }
        const name = `${examples.length} texts, ${tokens} tokens`
        return Stream.fromIterable(Peer.compared({ case: name, unit: "tokens/s", values: own }, peer, "more"))
      })
    )
}
