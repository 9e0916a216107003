/**
 * Trains the help desk's base model from nothing, on the mixture of `desk/Corpus`, and measures what it can do.
 *
 * @since 0.1.0
 */

import { join } from "node:path"
import { Sft, Tokenizer } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { Initial, Llama } from "@attune/core/nn"
import { LearningRate, Optimizer } from "@attune/core/onnx"
import { OrtLearner, OrtPolicy } from "@attune/core/ort"
import { Clock, Console, Effect, Option, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import * as CommonFlags from "./CommonFlags.ts"
import * as Comparison from "./Comparison.ts"
import * as DeskScores from "./DeskScores.ts"
import * as Corpus from "./desk/Corpus.ts"
import * as Format from "./desk/Format.ts"
import * as SummaryFile from "./SummaryFile.ts"
import { versions } from "./Versions.ts"

/**
 * Shape of the base model: about a million parameters.
 *
 * @category constants
 * @since 0.1.0
 */
export const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 1024,
  hidden_size: 128,
  intermediate_size: 384,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  hidden_act: "silu",
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
  torch_dtype: "float16"
} as const

// A ticket is worth reading but hardly worth learning to write. What follows it in a prompt repeats parts of it, and teaches
// to copy as much as the completion does.
const ticketWeight = 0.1

/**
 * A row of the mixture as it is pretrained on: the whole document counts, the ticket little.
 *
 * @category constructors
 * @since 0.1.0
 */
export const document = (tokenizer: Tokenizer.Tokenizer, { completion, prompt }: Corpus.Row): Sft.Example => {
  const end = tokenizer.eosId === undefined ? [] : [tokenizer.eosId]
  const answer = [...tokenizer.encode(completion, { addSpecialTokens: false }), ...end]
  const example = Sft.example(tokenizer.encode(prompt), answer, 1)
  const ticket = prompt.startsWith("Ticket:") ? tokenizer.encode(prompt.slice(0, prompt.indexOf("\n"))).length : 0
  return { ...example, weights: example.weights.map((weight, t) => (t < ticket ? weight * ticketWeight : weight)) }
}

const fresh = Effect.fnUntraced(function* (tokenizerDirectory: string, seed: number) {
  const decoder = Llama.make(yield* Schema.decodeUnknownEffect(Llama.LlamaConfig)(config))
  const tokenizer = yield* Tokenizer.load(tokenizerDirectory)
  const weights = Initial.weights(decoder, seed)
  return { name: "desk-base", config, decoder, tokenizer, weights } satisfies Pretrained.Pretrained
})

const flags = {
  ...CommonFlags.flags,
  steps: CommonFlags.count("steps").pipe(Flag.withDescription("Optimizer steps. Default 2000"), Flag.withDefault(2000)),
  batch: CommonFlags.count("batch").pipe(Flag.withDescription("Documents per step. Default 64"), Flag.withDefault(64)),
  learningRate: CommonFlags.learningRate("Peak learning rate, after a warm-up and before a cosine", 0.003),
  from: Flag.String("from").pipe(
    Flag.withMetavar("DIR"),
    Flag.withDescription("Model to go on from, with another --seed for fresh text. Default none: random weights"),
    Flag.optional
  ),
  tokenizer: Flag.String("tokenizer").pipe(
    Flag.withMetavar("DIR"),
    Flag.withDescription("Folder with tokenizer.json, for random weights. Default the shipped one"),
    Flag.withDefault(DeskScores.deskModel)
  )
}

/**
 * `pnpm example pretrain`.
 *
 * @category running
 * @since 0.1.0
 */
export const command = Command.make(
  "pretrain",
  flags,
  Effect.fn("Pretrain")(function* (chosen) {
    const started = yield* Clock.currentTimeMillis
    const out = CommonFlags.directory("pretrain", chosen)
    const steps = chosen.quick ? Math.min(20, chosen.steps) : chosen.steps
    const program = Effect.gen(function* () {
      const base = yield* Option.match(chosen.from, {
        onSome: (directory) => Pretrained.load(directory),
        onNone: () => fresh(chosen.tokenizer, chosen.seed)
      })
      const { tokenizer } = base
      const examples = Array.from(Corpus.rows({ seed: chosen.seed + 1, n: steps * chosen.batch }), (row) =>
        document(tokenizer, row)
      )
      const policy = yield* OrtPolicy.make(base)
      const rate = LearningRate.warmUp(
        Math.ceil(steps / 30),
        LearningRate.cosine(chosen.learningRate, steps, chosen.learningRate / 30)
      )
      const learner = yield* OrtLearner.make({
        model: policy,
        loss: Sft.loss,
        optimizer: Optimizer.adamW({ learningRate: rate, beta2: 0.98, weightDecay: 0.05, maxGradNorm: 1 })
      })
      yield* Sft.train(learner, examples, {
        batchSize: chosen.batch,
        seed: chosen.seed,
        directory: out,
        resume: chosen.resume,
        checkpointEvery: 250
      })

      const { scores } = yield* DeskScores.desk("base", policy, chosen.seed + 100, chosen.quick ? 20 : 300)
      yield* Pretrained.save(yield* policy.snapshot, join(out, "model"), { dtype: "float16", onnx: false })
      const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
      const path = yield* SummaryFile.write(out, { example: "pretrain", scores, versions, seed: chosen.seed, seconds })
      for (const line of Comparison.table(scores)) yield* Console.log(line)
      yield* Console.log(`model: ${join(out, "model")}   summary: ${path}`)
    })
    yield* CommonFlags.run(program, chosen, out)
  })
).pipe(
  Command.withDescription(
    `Trains the help desk's base model on generated text: summaries (mostly bad), refinements, judgements, puzzles. ` +
      `Documents end with ${Format.endOfText}`
  )
)
