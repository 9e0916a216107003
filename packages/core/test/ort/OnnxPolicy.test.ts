import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, relative } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Result, Stream } from "effect"
import * as Pretrained from "../../src/hub/Pretrained.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Model from "../../src/onnx/Model.ts"
import * as Device from "../../src/ort/Device.ts"
import * as ExportedModel from "../../src/ort/ExportedModel.ts"
import * as OnnxPolicy from "../../src/ort/OnnxPolicy.ts"
import * as OrtPolicy from "../../src/ort/OrtPolicy.ts"
import * as Prompt from "../../src/Prompt.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Tokenizer from "../../src/Tokenizer.ts"
import * as TinyModel from "../hub/TinyModel.ts"

interface Golden {
  readonly prompts: ReadonlyArray<{ readonly text: string; readonly tokens: ReadonlyArray<number> }>
  readonly completions: ReadonlyArray<ReadonlyArray<number>>
  readonly files: Readonly<
    Record<
      string,
      {
        readonly greedy: ReadonlyArray<ReadonlyArray<number>>
        readonly logprobs: ReadonlyArray<ReadonlyArray<number>> | null
        readonly runtimeLogprobs: ReadonlyArray<ReadonlyArray<number>>
      }
    >
  >
}

const exported = join(import.meta.dirname, "../fixtures/exported")
const goldenOf = (name: string): Golden => JSON.parse(readFileSync(join(exported, name, "golden.json"), "utf8"))
const layer = Layer.merge(NodeServices.layer, Device.layerInProcess({ provider: "cpu", threads: 1 }))

const promptsOf = ({ prompts }: Golden) => prompts.map(({ text, tokens }) => Prompt.make(text, tokens))
const continuationsOf = ({ completions, prompts }: Golden) =>
  completions.map((completion, i) => ({ prompt: prompts[i]!.tokens, completion }))

const close = (own: ReadonlyArray<Float32Array>, expected: ReadonlyArray<ReadonlyArray<number>>, tolerance: number) => {
  assert.deepStrictEqual(
    own.map(({ length }) => length),
    expected.map(({ length }) => length)
  )
  for (const [i, row] of own.entries()) {
    for (const [t, value] of row.entries()) {
      assert.closeTo(value, expected[i]![t]!, tolerance, `row ${i}, token ${t}`)
    }
  }
}

const files = [
  ["llama", "model.onnx"],
  ["llama", "model_fp16.onnx"],
  ["llama", "model_q4.onnx"],
  ["llama-dynamo", "model.onnx"],
  ["gpt2", "model.onnx"],
  ["gpt2", "decoder_model_merged.onnx"],
  ["gpt2-no-cache", "model.onnx"]
] as const

describe("OnnxPolicy", () => {
  for (const [name, file] of files) {
    const directory = join(exported, name)
    const golden = goldenOf(name)
    const expected = golden.files[file]!

    it.layer(layer)(`${name}/${file}`, (it) => {
      it.effect("decodes greedily what Python decodes", () =>
        Effect.gen(function* () {
          const policy = yield* OnnxPolicy.load({ directory, file })
          const completions = yield* policy.sample(promptsOf(golden), {
            maxNewTokens: 12,
            temperature: 0,
            stopTokens: []
          })
          assert.deepStrictEqual(
            completions.map(({ tokens }) => [...tokens]),
            expected.greedy
          )
          assert.deepStrictEqual(
            completions.map(({ finishReason }) => finishReason),
            ["length", "length", "length"]
          )
        })
      )

      it.effect("scores continuations as ONNX Runtime in Python does, and transformers", () =>
        Effect.gen(function* () {
          const policy = yield* OnnxPolicy.load({ directory, file })
          const own = yield* policy.logprobs(continuationsOf(golden))
          close(own, expected.runtimeLogprobs, 1e-5)
          if (expected.logprobs !== null) close(own, expected.logprobs, 1e-5)
        })
      )

      it.effect("samples with the log-probs that scoring gives, whatever batch is around a prompt", () =>
        Effect.gen(function* () {
          const policy = yield* OnnxPolicy.load({ directory, file })
          const prompts = promptsOf(golden)
          const options = { maxNewTokens: 8, temperature: 0.9, stopTokens: [] }
          const together = yield* policy.sample(prompts, { ...options, rowSeeds: [1, 2, 3] })
          const alone = yield* policy.sample([prompts[1]!], { ...options, rowSeeds: [2] })
          assert.deepStrictEqual([...alone[0]!.tokens], [...together[1]!.tokens])
          const scored = yield* policy.logprobs(
            together.map(({ tokens }, i) => ({ prompt: prompts[i]!.tokens, completion: tokens }))
          )
          close(
            together.map(({ untemperedLogprobs }) => untemperedLogprobs),
            scored.map((row) => [...row]),
            1e-5
          )
        })
      )

      it.effect("scores at a temperature as the logits divided by it say, and as what was sampled at it says", () =>
        Effect.gen(function* () {
          const policy = yield* OnnxPolicy.load({ directory, file })
          const prompt = promptsOf(golden)[0]!
          const temperature = 0.7
          const settings = { maxNewTokens: 4, temperature, seed: 3, stopTokens: [] }
          const [sampled] = yield* policy.sample([prompt], settings)
          const continuation = { prompt: prompt.tokens, completion: sampled!.tokens }
          const [own] = yield* policy.logprobs([continuation], { temperature })
          close([own!], [[...sampled!.logprobs]], 1e-5)

          // the log-probs of every token in the first place are logits, up to a number that no softmax sees
          const tokens = Array.from({ length: policy.vocabSize }, (_, id) => id)
          const each = tokens.map((id) => ({ prompt: prompt.tokens, completion: [id] }))
          const logits = (yield* policy.logprobs(each)).map(([logprob]) => logprob! / temperature)
          const total = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0))
          const tempered = yield* policy.logprobs(each, { temperature })
          close(
            tempered,
            logits.map((x) => [x - total]),
            1e-5
          )
          for (const refused of [0, -1]) {
            const error = yield* Effect.flip(policy.logprobs(each, { temperature: refused }))
            assert.include(error.message, `the temperature of log-probs must be above 0, got ${refused}`)
          }
        })
      )

      it.effect("leaves nothing on the device", () =>
        Effect.gen(function* () {
          const device = yield* Device.Device
          const before = yield* device.stats
          yield* Effect.scoped(
            Effect.gen(function* () {
              const policy = yield* OnnxPolicy.load({ directory, file })
              yield* policy.sample(promptsOf(golden), { maxNewTokens: 3 })
              yield* Stream.runDrain(
                Stream.take(policy.stream(promptsOf(golden), { maxNewTokens: 30, stopTokens: [] }), 1)
              )
              yield* policy.logprobs(continuationsOf(golden))
              assert.strictEqual((yield* device.stats).tensors, before.tensors)
            })
          )
          assert.deepStrictEqual(yield* device.stats, before)
        })
      )
    })
  }

  it.layer(layer)("the file that Pretrained.save writes", (it) => {
    it.effect.each(["gpt2", "llama"] as const)("says what the model itself says: %s", (name) =>
      Effect.gen(function* () {
        const config = name === "gpt2" ? TinyModel.config : TinyModel.llamaConfig
        const model = {
          name,
          config,
          decoder: TinyModel.decoder(config),
          tokenizer: Result.getOrThrow(Tokenizer.fromFiles(TinyModel.tokenizerFiles())),
          weights: TinyModel.weights(config)
        }
        const directory = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "attune-onnx-"))),
          (path) => Effect.sync(() => rmSync(path, { recursive: true }))
        )
        yield* Pretrained.save(model, directory)
        const own = yield* OnnxPolicy.load(directory)
        const original = yield* OrtPolicy.make(model)
        assert.deepStrictEqual([own.vocabSize, own.contextLength], [original.vocabSize, original.contextLength])
        const prompts = [[3], [1, 17, 4, 9], [5, 2]].map((tokens) => Prompt.make("", tokens))
        const options = { maxNewTokens: 8, temperature: 0, stopTokens: [] }
        const completions = yield* original.sample(prompts, options)
        assert.deepStrictEqual(
          (yield* own.sample(prompts, options)).map(({ tokens }) => [...tokens]),
          completions.map(({ tokens }) => [...tokens])
        )
        const continuations = completions.map(({ tokens }, i) => ({ prompt: prompts[i]!.tokens, completion: tokens }))
        const expected = yield* original.logprobs(continuations)
        close(
          yield* own.logprobs(continuations),
          expected.map((row) => [...row]),
          1e-5
        )
      }).pipe(Effect.scoped)
    )
  })

  it.layer(layer)("sampling", (it) => {
    const golden = goldenOf("llama")
    const greedy = golden.files["model.onnx"]!.greedy
    const policy = OnnxPolicy.load(join(exported, "llama"))
    const options = { maxNewTokens: 12, temperature: 0 }

    it.effect("ends at a stop token, which is kept", () =>
      Effect.gen(function* () {
        const stop = greedy[1]![3]!
        const completions = yield* (yield* policy).sample(promptsOf(golden), { ...options, stopTokens: [stop] })
        for (const [i, { finishReason, tokens }] of completions.entries()) {
          const end = greedy[i]!.indexOf(stop)
          assert.deepStrictEqual([...tokens], end < 0 ? greedy[i] : greedy[i]!.slice(0, end + 1))
          assert.strictEqual(finishReason, end < 0 ? "length" : "stop")
        }
      })
    )

    it.effect("ends at the tokenizer's end-of-sequence token unless told otherwise", () =>
      Effect.gen(function* () {
        const loaded = yield* policy
        assert.strictEqual(loaded.tokenizer.eosId, 2)
        const [, second] = yield* loaded.sample(promptsOf(golden), options)
        assert.deepStrictEqual([...second!.tokens], greedy[1]!.slice(0, greedy[1]!.indexOf(2) + 1))
        assert.strictEqual(second!.finishReason, "stop")
      })
    )

    it.effect("cuts a completion before a stop string", () =>
      Effect.gen(function* () {
        const loaded = yield* policy
        const text = loaded.tokenizer.decode(greedy[0]!)
        const stop = loaded.tokenizer.decode(greedy[0]!.slice(0, 6)).slice(-3)
        const [completion] = yield* loaded.sample([promptsOf(golden)[0]!], {
          ...options,
          stopStrings: ["never there", stop]
        })
        assert.strictEqual(completion!.text, text.slice(0, text.indexOf(stop)))
        assert.strictEqual(completion!.finishReason, "stop")
        const { tokens } = completion!
        assert.deepStrictEqual([...tokens], greedy[0]!.slice(0, tokens.length))
        assert.isTrue(completion!.text.startsWith(loaded.tokenizer.decode(tokens)))
        assert.isBelow(tokens.length, 6)
      })
    )

    it.effect("takes plain text, and streams each completion as its row ends", () =>
      Effect.gen(function* () {
        const loaded = yield* policy
        const texts = golden.prompts.map(({ text }) => text)
        const stopTokens = [greedy[2]![1]!]
        const finished = yield* Stream.runCollect(loaded.stream(texts, { ...options, stopTokens }))
        assert.strictEqual(finished[0]!.index, 2)
        assert.deepStrictEqual(finished.map(({ index }) => index).sort(), [0, 1, 2])
        assert.deepStrictEqual(
          finished.toSorted((a, b) => a.index - b.index).map(({ completion }) => completion),
          yield* loaded.sample(texts, { ...options, stopTokens })
        )
      })
    )

    it.effect("gives the distribution that was sampled from and the model's own", () =>
      Effect.gen(function* () {
        const loaded = yield* policy
        const [only] = yield* loaded.sample([promptsOf(golden)[0]!], { maxNewTokens: 6, topK: 1, stopTokens: [] })
        assert.deepStrictEqual([...only!.tokens], greedy[0]!.slice(0, 6))
        assert.deepStrictEqual([...only!.logprobs], [0, 0, 0, 0, 0, 0])
        assert.isTrue(only!.untemperedLogprobs.every((value) => value < -0.1))
      })
    )

    it.effect("draws the same tokens from one seed, others from another", () =>
      Effect.gen(function* () {
        const loaded = yield* policy
        const draw = (seed: number) =>
          loaded
            .sample(promptsOf(golden), { maxNewTokens: 12, seed, stopTokens: [] })
            .pipe(Effect.map((all) => all.map(({ tokens }) => [...tokens])))
        assert.deepStrictEqual(yield* draw(1), yield* draw(1))
        assert.notDeepEqual(yield* draw(1), yield* draw(2))
      })
    )

    it.effect("ends completions at the end of the context, and lets shorter rows go on", () =>
      Effect.gen(function* () {
        // GPT-2 has no position 64
        const loaded = yield* OnnxPolicy.load(join(exported, "gpt2"))
        const lengths = [4, 60, 30, 60, 61]
        const prompts = lengths.map((length, i) =>
          Prompt.make(
            "",
            Array.from({ length }, (_, t) => 3 + ((7 * t + i) % 90))
          )
        )
        const all = { maxNewTokens: 20, temperature: 0, stopTokens: [] }
        const completions = yield* loaded.sample(prompts, all)
        assert.deepStrictEqual(
          completions.map(({ tokens }) => tokens.length),
          [20, 4, 20, 4, 3]
        )
        assert.isTrue(completions.every(({ finishReason }) => finishReason === "length"))
        for (const [i, prompt] of prompts.entries()) {
          const [alone] = yield* loaded.sample([prompt], all)
          assert.deepStrictEqual(completions[i]!.tokens, alone!.tokens)
        }
      })
    )

    it.effect("splits prompts into batches without changing the answers", () =>
      Effect.gen(function* () {
        const completions = yield* (yield* policy).sample(promptsOf(golden), {
          ...options,
          stopTokens: [],
          batchSize: 2
        })
        assert.deepStrictEqual(
          completions.map(({ tokens }) => [...tokens]),
          greedy
        )
      })
    )
  })

  it.layer(layer)("bad input", (it) => {
    const golden = goldenOf("llama")
    const llama = join(exported, "llama")
    const message = <A, R>(effect: Effect.Effect<A, { readonly _tag: string; readonly message: string }, R>) =>
      effect.pipe(
        Effect.flip,
        Effect.map((error) => {
          assert.strictEqual(error._tag, "ModelError")
          return error.message
        })
      )
    const copy = (name: string) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          const directory = mkdtempSync(join(tmpdir(), "attune-onnx-"))
          cpSync(join(exported, name), directory, { recursive: true })
          return directory
        }),
        (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
      )

    it.effect("lists the graphs that there are when the one asked for is missing", () =>
      Effect.gen(function* () {
        const missing = yield* message(OnnxPolicy.load({ directory: llama, file: "model_q8.onnx" }))
        assert.match(missing, /model_q8\.onnx does not exist; there are .*onnx\/model_q4\.onnx/)
        assert.match(yield* message(OnnxPolicy.load(join(exported, "nowhere"))), /holds no \.onnx file/)
      })
    )

    it.effect("finds the directory of a file given by path", () =>
      Effect.gen(function* () {
        const policy = yield* OnnxPolicy.load(join(llama, "onnx/model_q4.onnx"))
        assert.strictEqual(policy.vocabSize, 96)
        assert.strictEqual(policy.contextLength, 128)
      })
    )

    it.effect("says what an encoder has instead of logits", () =>
      Effect.gen(function* () {
        const error = yield* message(OnnxPolicy.load(join(exported, "bert")))
        assert.match(
          error,
          /not a decoder: it has no output logits; its inputs are input_ids, attention_mask, token_type_ids/
        )
      })
    )

    it.effect("refuses a file that is no graph", () =>
      Effect.gen(function* () {
        const directory = yield* copy("llama")
        writeFileSync(join(directory, "onnx/model.onnx"), "version https://git-lfs.github.com/spec/v1")
        assert.match(yield* message(OnnxPolicy.load(directory)), /model\.onnx/)
      })
    )

    it.effect("reads the names of a graph's outputs without loading it, and none from a file that ends too early", () =>
      Effect.gen(function* () {
        const directory = yield* copy("gpt2")
        const path = join(directory, "onnx/model.onnx")
        const names = ["logits", "present.0.key", "present.0.value", "present.1.key", "present.1.value"]
        assert.deepStrictEqual(yield* ExportedModel.outputNames(path), names)
        const bytes = readFileSync(path)
        writeFileSync(path, bytes.subarray(0, -60))
        assert.deepStrictEqual(yield* ExportedModel.outputNames(path), [])
        assert.match(yield* message(OnnxPolicy.load(directory)), /model\.onnx/)
      })
    )

    it.effect("takes the links of a Hub cache, and no path or link that leads out of it or of a plain directory", () =>
      Effect.gen(function* () {
        const elsewhere = yield* copy("llama")
        const repository = join(yield* copy("bert"), "models--owner--judge")
        const snapshot = join(repository, "snapshots", "0".repeat(40))
        mkdirSync(join(snapshot, "onnx"), { recursive: true })
        mkdirSync(join(repository, "blobs"))
        const place = (name: string, target: string) => {
          rmSync(join(snapshot, name), { force: true })
          symlinkSync(target, join(snapshot, name))
        }
        const names = ["config.json", "tokenizer.json", "onnx/model.onnx"]
        for (const [i, name] of names.entries()) {
          cpSync(join(elsewhere, name), join(repository, "blobs", `${i}`))
          place(name, join(repository, "blobs", `${i}`))
        }
        assert.strictEqual((yield* OnnxPolicy.load(snapshot)).vocabSize, 96)
        const root = join(elsewhere, "..")
        for (const [i, name] of names.entries()) {
          place(name, join(elsewhere, name))
          const error = yield* message(OnnxPolicy.load(snapshot))
          assert.include(error, `${join(snapshot, name)} leads out of ${realpathSync(repository)}, refused`)
          yield* OnnxPolicy.load({ directory: snapshot, root })
          place(name, join(repository, "blobs", `${i}`))
        }
        writeFileSync(join(elsewhere, "weights"), "")
        place("onnx/model.onnx_data", join(elsewhere, "weights"))
        assert.match(yield* message(OnnxPolicy.load(snapshot)), /onnx\/model\.onnx_data leads out of/)
        const directory = yield* copy("llama")
        const climbing = { directory, file: relative(directory, join(elsewhere, "onnx/model.onnx")) }
        assert.match(yield* message(OnnxPolicy.load(climbing)), /model\.onnx leads out of .*refused; name a directory/)
      })
    )

    it.effect("refuses a tokenizer with more ids than the model", () =>
      Effect.gen(function* () {
        const directory = yield* copy("llama")
        const file = join(directory, "tokenizer.json")
        const json = JSON.parse(readFileSync(file, "utf8"))
        json.added_tokens.push({ ...json.added_tokens[0], id: 99, content: "<extra>" })
        writeFileSync(file, JSON.stringify(json))
        assert.match(
          yield* message(OnnxPolicy.load(directory)),
          /knows 96 token ids, but the tokenizer beside it has 100/
        )
      })
    )

    it.effect("refuses a config.json that is not one", () =>
      Effect.gen(function* () {
        const directory = yield* copy("llama")
        writeFileSync(join(directory, "config.json"), '{ "vocab_size": "many" }')
        assert.match(yield* message(OnnxPolicy.load(directory)), /config\.json cannot be read/)
      })
    )

    // logits = table[input_ids]: the smallest decoder there is, without mask, positions or cache
    const bigram = (directory: string, table: Float32Array) => {
      const g = Graph.make("bigram")
      const ids = Graph.input(g, "input_ids", "int32", ["B", "T"])
      const rows = Graph.initializer(g, "table", Tensor.float32(table, [96, 96]))
      const [logits] = Graph.append(g, "Gather", [rows, ids], [{ dtype: "float32", shape: ["B", "T", 96] }])
      Graph.output(g, "logits", logits!)
      writeFileSync(join(directory, "onnx/model.onnx"), Model.encode(g))
    }

    it.effect("runs a graph of nothing but 32-bit ids and logits", () =>
      Effect.gen(function* () {
        const directory = yield* copy("llama")
        // after token v comes v + 1
        bigram(
          directory,
          Float32Array.from({ length: 96 * 96 }, (_, i) => (i % 96 === Math.floor(i / 96) + 1 ? 9 : 0))
        )
        const policy = yield* OnnxPolicy.load(directory)
        const completions = yield* policy.sample([Prompt.make("", [7]), Prompt.make("", [3, 20])], {
          maxNewTokens: 3,
          temperature: 0
        })
        assert.deepStrictEqual(
          completions.map(({ tokens }) => [...tokens]),
          [
            [8, 9, 10],
            [21, 22, 23]
          ]
        )
        const [row] = yield* policy.logprobs([{ prompt: [7], completion: [8, 8] }])
        const total = Math.log(Math.exp(9) + 95)
        close([row!], [[9 - total, -total]], 1e-6)
      })
    )

    it.effect("refuses logits that are not finite, and names the prompt", () =>
      Effect.gen(function* () {
        const directory = yield* copy("llama")
        bigram(directory, new Float32Array(96 * 96).fill(NaN, 96 * 5, 96 * 6))
        const policy = yield* OnnxPolicy.load(directory)
        const prompts = [Prompt.make("", [4]), Prompt.make("", [5])]
        const refused = yield* message(policy.sample(prompts, { maxNewTokens: 1 }))
        assert.match(refused, /logits for prompt 1 are not finite/)
        const scored = policy.logprobs([
          { prompt: [4], completion: [6] },
          { prompt: [5], completion: [6] }
        ])
        assert.match(yield* message(scored), /logits for continuation 1 are not finite/)
      })
    )

    it.effect("scores an empty completion as nothing", () =>
      Effect.gen(function* () {
        const policy = yield* OnnxPolicy.load(llama)
        const [first, second] = yield* policy.logprobs([
          { prompt: [3, 4], completion: [] },
          continuationsOf(golden)[0]!
        ])
        assert.strictEqual(first!.length, 0)
        assert.strictEqual(second!.length, 5)
      })
    )
  })

  describe("signature", () => {
    const slot = (name: string, shape: ReadonlyArray<number | string>, dtype: Device.Slot["dtype"] = "int64") => ({
      name,
      shape,
      dtype
    })
    const ids = slot("input_ids", ["B", "T"])
    const logits = slot("logits", ["B", "T", 96], "float32")
    const cached = (input: string, output: string, shape: ReadonlyArray<number | string>) =>
      OnnxPolicy.signature(
        "m",
        {
          inputs: [ids, slot(input, shape, "float16")],
          outputs: [logits, slot(output, shape, "float16")]
        },
        { num_attention_heads: 4, num_key_value_heads: 2, hidden_size: 32 }
      )

    it("knows the names that exporters give a cache", () => {
      for (const [input, output] of [
        ["past_key_values.0.key", "present.0.key"],
        ["past_key_values.11.value", "present_key_values.11.value"],
        ["past_key_values.0.decoder.key", "present.0.decoder.key"],
        ["past_key_3", "present_key_3"],
        ["past.2.values", "present.2.values"]
      ] as const) {
        const { cache } = Result.getOrThrow(cached(input, output, ["B", 2, "P", 8]))
        assert.deepStrictEqual(cache, [{ input, output, dtype: "float16", shape: [1, 2, 0, 8], batchAxis: 0 }])
      }
      const { cache } = Result.getOrThrow(cached("past_0", "present_0", [2, "B", 2, "P", 8]))
      assert.deepStrictEqual(cache, [
        { input: "past_0", output: "present_0", dtype: "float16", shape: [2, 1, 2, 0, 8], batchAxis: 1 }
      ])
    })

    it("takes sizes that the graph leaves open from config.json", () => {
      const { cache } = Result.getOrThrow(cached("past_key_values.0.key", "present.0.key", ["B", "heads", "P", ""]))
      assert.deepStrictEqual(cache[0]!.shape, [1, 2, 0, 8])
    })

    it("names the input that it cannot fill, and the cache that nothing continues", () => {
      const message = (result: ReturnType<typeof cached>) => Result.getOrThrow(Result.flip(result)).message
      assert.match(
        message(cached("encoder_hidden_states", "present.0.key", ["B", 2, "P", 8])),
        /takes "encoder_hidden_states"/
      )
      assert.match(
        message(cached("past_key_values.0.key", "present.1.key", ["B", 2, "P", 8])),
        /no tensor that continues it/
      )
      assert.match(message(cached("past_key_values.0.key", "present.0.key", ["B", "P", 8])), /of rank 3, not 4/)
    })
  })
})
