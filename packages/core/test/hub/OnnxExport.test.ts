import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  AutoModelForCausalLM,
  AutoTokenizer,
  env,
  Tensor as HfTensor,
  type PreTrainedModel
} from "@huggingface/transformers"
import { Effect } from "effect"
import { afterAll } from "vitest"
import * as OnnxExport from "../../src/hub/OnnxExport.ts"
import * as Pretrained from "../../src/hub/Pretrained.ts"
import * as Safetensors from "../../src/hub/Safetensors.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Model from "../../src/onnx/Model.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as Shared from "./Shared.ts"
import * as TinyModel from "./TinyModel.ts"

const directory = fs.mkdtempSync(join(tmpdir(), "attune-export-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))

const committed = ["golden-gpt2", "golden-llama", "golden-qwen3"]
const fixtures = Shared.readable("fixtures") ? ["gpt2", "llama-gqa", "llama-tied-llama3rope", "qwen2", "qwen3"] : []
/** Checkpoints with what PyTorch computed on them: name and directory. */
const checkpoints: ReadonlyArray<readonly [string, string]> = [
  ...committed.map((name) => [name, join(import.meta.dirname, "../fixtures", name)] as const),
  ...fixtures.map((name) => [name, Shared.pathOf(`fixtures/${name}`)] as const)
]

env.allowRemoteModels = false
env.localModelPath = directory

/** Greedy token ids of each row, without the prompt, from `@huggingface/transformers`. */
const generate = async (
  name: string,
  prompts: ReadonlyArray<ReadonlyArray<bigint>>,
  masks: ReadonlyArray<ReadonlyArray<bigint>>,
  newTokens: number
): Promise<ReadonlyArray<ReadonlyArray<number>>> => {
  const options = { dtype: "fp32", device: "cpu", local_files_only: true } as const
  const model: PreTrainedModel = await AutoModelForCausalLM.from_pretrained(name, options)
  const dims = [prompts.length, prompts[0]!.length]
  const ids = new HfTensor("int64", BigInt64Array.from(prompts.flat()), dims)
  const mask = new HfTensor("int64", BigInt64Array.from(masks.flat()), dims)
  const settings = { do_sample: false, max_new_tokens: newTokens, min_new_tokens: newTokens }
  const out = (await model.generate({ inputs: ids, attention_mask: mask, ...settings })) as HfTensor
  await model.dispose()
  return (out.tolist() as Array<Array<bigint>>).map((row) => row.slice(dims[1]).map(Number))
}

const rows = (tensor: Tensor.Tensor): ReadonlyArray<ReadonlyArray<bigint>> => {
  const [count, width] = tensor.shape as [number, number]
  const data = [...(tensor.data as BigInt64Array)]
  return Array.from({ length: count }, (_, i) => data.slice(i * width, (i + 1) * width))
}

const int64 = (values: ReadonlyArray<ReadonlyArray<number>>) =>
  Tensor.int64(values.flat(), [values.length, values[0]!.length])

const emptyCache = ({ headDim, kvHeads, layers }: Pretrained.PretrainedWeights["decoder"], batch: number) =>
  Object.fromEntries(
    Array.from({ length: layers }, (_, i) =>
      ["key", "value"].map(
        (kind) => [`past_key_values.${i}.${kind}`, Tensor.zeros([batch, kvHeads, 0, headDim])] as const
      )
    ).flat()
  )

const asPast = (outputs: Run.Tensors): Run.Tensors =>
  Object.fromEntries(
    Object.entries(outputs).flatMap(([name, tensor]) =>
      name.startsWith("present") ? [[name.replace("present", "past_key_values"), tensor] as const] : []
    )
  )

const tiny = (config: typeof TinyModel.config | typeof TinyModel.llamaConfig) => ({
  decoder: TinyModel.decoder(config),
  weights: TinyModel.weights(config)
})

describe("graph", () => {
  it.each([
    ["gpt2", TinyModel.config, 2, 4],
    ["llama", TinyModel.llamaConfig, 1, 4]
  ] as const)("has the layout of Optimum: %s", (_, config, kvHeads, headDim) => {
    const g = Graph.prune(OnnxExport.graph(tiny(config)))
    assert.deepStrictEqual(Graph.check(g), [])
    assert.strictEqual(g.numerics, "quick")
    const slots = Object.fromEntries(
      [...g.inputs, ...g.outputs].map(({ dtype, name, shape }) => [name, [dtype, ...shape]])
    )
    assert.deepStrictEqual(slots["input_ids"], ["int64", "batch_size", "sequence_length"])
    assert.deepStrictEqual(slots["position_ids"], ["int64", "batch_size", "sequence_length"])
    assert.deepStrictEqual(slots["attention_mask"], ["int64", "batch_size", "total_sequence_length"])
    assert.deepStrictEqual(slots["logits"], ["float32", "batch_size", "sequence_length", 20])
    const past = ["float32", "batch_size", kvHeads, "past_sequence_length", headDim]
    assert.deepStrictEqual(slots["past_key_values.0.value"], past)
    assert.deepStrictEqual(slots["present.0.key"], past.with(3, "total_sequence_length"))
    // every parameter once, under its own name, a tied matrix too
    const { decoder } = tiny(config)
    const named = [...g.initializers.keys()].filter((name) => !name.startsWith("decoder/"))
    assert.deepStrictEqual(named.sort(), decoder.parameters.map(({ name }) => name).sort())
  })

  it.effect.each([TinyModel.config, TinyModel.llamaConfig])("says token by token what it says at once: %j", (config) =>
    Effect.gen(function* () {
      const source = tiny(config)
      const runner = yield* Run.open(Graph.prune(OnnxExport.graph(source)))
      const tokens = [
        [3, 17, 4, 9, 1, 12],
        [5, 5, 8, 2, 19, 0]
      ]
      const feeds = (from: number, to: number, past: Run.Tensors) => ({
        input_ids: int64(tokens.map((row) => row.slice(from, to))),
        attention_mask: int64(tokens.map(() => Array.from({ length: to }, () => 1))),
        position_ids: int64(tokens.map(() => Array.from({ length: to - from }, (_, i) => from + i))),
        ...past
      })
      const whole = Run.numbers((yield* runner.run(feeds(0, 6, emptyCache(source.decoder, 2))))["logits"])
      let past: Run.Tensors = emptyCache(source.decoder, 2)
      for (const [from, to] of [
        [0, 3],
        [3, 4],
        [4, 6]
      ] as const) {
        const outputs = yield* runner.run(feeds(from, to, past))
        past = asPast(outputs)
        const logits = Run.numbers(outputs["logits"])
        const length = (to - from) * 20
        for (const row of [0, 1]) {
          const expected = whole.slice(row * 120 + from * 20, row * 120 + to * 20)
          for (let i = 0; i < length; i++) assert.closeTo(logits[row * length + i]!, expected[i]!, 1e-5)
        }
      }
    }).pipe(Effect.scoped)
  )
})

describe("write", () => {
  it.effect("puts weights above 100 MB beside the graph, and save tells transformers.js", () =>
    Effect.gen(function* () {
      const config = { ...TinyModel.config, vocab_size: 3_300_000, n_layer: 1 }
      const decoder = TinyModel.decoder(config)
      const weights = new Map(decoder.parameters.map(({ name, shape }) => [name, Tensor.zeros(shape)] as const))
      const out = join(directory, "large")
      yield* Pretrained.save({ name: "large", config, decoder, weights }, out)
      assert.isAbove(fs.statSync(join(out, "onnx/model.onnx_data")).size, 100 * 1024 * 1024)
      assert.isBelow(fs.statSync(join(out, "onnx/model.onnx")).size, 1024 * 1024)
      const settings = { use_external_data_format: { "model.onnx": true } }
      const saved = JSON.parse(fs.readFileSync(join(out, "config.json"), "utf8"))
      assert.deepStrictEqual(saved["transformers.js_config"], settings)
      const { graph } = yield* Model.read(join(out, "onnx/model.onnx"))
      assert.strictEqual(
        graph!.initializer.find(({ name }) => name === "transformer.wte.weight")!.rawData.length,
        105_600_000
      )
      const [row] = yield* Effect.promise(() => generate("large", [[1n, 2n]], [[1n, 1n]], 2))
      assert.strictEqual(row!.length, 2)
      fs.rmSync(out, { recursive: true })

      // and takes it back where the weights are inside again
      yield* Pretrained.save({ ...tiny(TinyModel.config), name: "small", config: { ...config, ...saved } }, out)
      assert.notProperty(JSON.parse(fs.readFileSync(join(out, "config.json"), "utf8")), "transformers.js_config")
    })
  )
})

describe("in @huggingface/transformers", () => {
  it.effect.each(checkpoints)("%s, prompts padded on the left: the greedy tokens of PyTorch", ([name, path]) =>
    Effect.gen(function* () {
      const model = yield* Pretrained.loadWeights(path)
      yield* Pretrained.save(model, join(directory, name))
      const { tensors } = yield* Safetensors.read(join(path, "golden.safetensors"))
      const of = (key: string) => rows(tensors.get(key)!)
      const expected = of("greedy_ids").map((row) => row.map(Number))
      const ids = yield* Effect.promise(() => generate(name, of("prompt_ids"), of("prompt_mask"), expected[0]!.length))
      assert.deepStrictEqual(ids, expected)
    })
  )

  it.effect.each(checkpoints)("%s, padded on the left: the logits of PyTorch", ([, path]) =>
    Effect.gen(function* () {
      const model = yield* Pretrained.loadWeights(path)
      const { tensors } = yield* Safetensors.read(join(path, "golden.safetensors"))
      const mask = tensors.get("left_attention_mask")!
      const positions = rows(mask).map((row) => {
        let before = 0
        return row.map((kept) => (kept === 1n ? before++ : Math.max(0, before - 1)))
      })
      const { logits } = yield* Run.once(Graph.prune(OnnxExport.graph(model)), {
        input_ids: tensors.get("left_input_ids")!,
        attention_mask: mask,
        position_ids: int64(positions),
        ...emptyCache(model.decoder, mask.shape[0]!)
      })
      const expected = Run.numbers(tensors.get("left_logits"))
      const kept = rows(mask).flat()
      Run.numbers(logits).forEach((value, i) => {
        if (kept[Math.floor(i / model.decoder.vocabSize)] === 1n)
          assert.closeTo(value, expected[i]!, 1e-4, `element ${i}`)
      })
    })
  )
})

interface Golden {
  readonly greedy: ReadonlyArray<{
    readonly prompt: string
    readonly ids: ReadonlyArray<number>
    readonly text: string
  }>
}

describe.runIf(Shared.readable("data/tinystories-656K") && Shared.readable("fixtures/tinystories-656K.golden.json"))(
  "tinystories-656K",
  () => {
    it.effect("tells the same stories in @huggingface/transformers, with the tokenizer that was saved", () =>
      Effect.gen(function* () {
        const model = yield* Pretrained.load(Shared.pathOf("data/tinystories-656K"))
        yield* Pretrained.save(model, join(directory, "tinystories"))
        const golden: Golden = JSON.parse(
          fs.readFileSync(Shared.pathOf("fixtures/tinystories-656K.golden.json"), "utf8")
        )
        const tokenizer = yield* Effect.promise(() =>
          AutoTokenizer.from_pretrained("tinystories", { local_files_only: true })
        )
        assert.isAbove(golden.greedy.length, 0)
        for (const { ids, prompt, text } of golden.greedy) {
          const { attention_mask, input_ids } = tokenizer(prompt) as Record<"attention_mask" | "input_ids", HfTensor>
          const lists = [input_ids, attention_mask].map((tensor) => tensor.tolist() as Array<Array<bigint>>)
          const [row] = yield* Effect.promise(() => generate("tinystories", lists[0]!, lists[1]!, ids.length))
          assert.deepStrictEqual(row, ids)
          assert.strictEqual(tokenizer.decode([...row!], { skip_special_tokens: true }), text)
        }
      }).pipe(Effect.provide(NodeServices.layer))
    )
  }
)
