/**
 * How long does it take to score the endings of HellaSwag, and how does that compare with a peer?
 */
import { Progress, Tokenizer } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { OrtPolicy } from "@attune/core/ort"
import { HellaSwag } from "@attune/eval"
import { Effect, Stream } from "effect"
import { type Bench, count } from "./Bench.ts"
import * as Peer from "./Peer.ts"

export const bench: Bench = {
  question: "seconds to tokenize and score four endings of every row of HellaSwag; loading the model is not timed",
  flags: {
    model: "model directory (default ../shared/data/tinystories-656K)",
    rows: "JSON Lines file (default ../shared/data/hellaswag/validation.jsonl)",
    rounds: "times that all rows are scored (default 5)",
    peer: "shell command whose last JSON line has seconds, such as hf_hellaswag.py; run after each round, and compared"
  },
  run: ({ flags }) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const base = yield* Pretrained.load(flags.get("model") ?? "../shared/data/tinystories-656K")
        const items = yield* HellaSwag.read(flags.get("rows") ?? "../shared/data/hellaswag/validation.jsonl")
        const rounds = yield* count(flags, "rounds", 5)
        const command = flags.get("peer")
        const policy = yield* OrtPolicy.make(base)
        // A tokenizer remembers pieces of text: each round has a new one, as who evaluates once has.
        const timed = Effect.gen(function* () {
          const tokenizer = yield* Effect.fromResult(Tokenizer.fromFiles(base.tokenizer.files))
          const begun = performance.now()
          const answers = yield* HellaSwag.score({ ...policy, tokenizer }, items)
          return { answers, seconds: (performance.now() - begun) / 1000 }
        }).pipe(Effect.provide(Progress.layer({ mode: "quiet" })))
        yield* timed
        const own: Array<number> = []
        const peer: Array<number> = []
        let accuracy = 0
        for (let round = 0; round < rounds; round++) {
          const { answers, seconds } = yield* timed
          own.push(seconds)
          accuracy = HellaSwag.scores(answers, { system: base.name })[0]!.estimate.value
          if (command !== undefined) peer.push(yield* Peer.measure(command, "seconds"))
        }
        const name = `${items.length} rows, acc ${accuracy}`
        return Stream.fromIterable(Peer.compared({ case: name, unit: "s", values: own }, peer, "less"))
      })
    )
}
