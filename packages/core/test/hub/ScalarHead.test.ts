import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node"
import { afterAll } from "vitest"
import * as Config from "../../src/hub/Config.ts"
import * as OnnxExport from "../../src/hub/OnnxExport.ts"
import * as Pretrained from "../../src/hub/Pretrained.ts"
import * as Safetensors from "../../src/hub/Safetensors.ts"
import * as ScalarHead from "../../src/hub/ScalarHead.ts"
import * as Graph from "../../src/onnx/Graph.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as TinyModel from "./TinyModel.ts"

const directory = fs.mkdtempSync(join(tmpdir(), "attune-scalar-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))

let serial = 0
const freshPath = () => join(directory, `model-${serial++}`)

/** Writes a model's directory: the tiny GPT-2's files, these instead where given. */
const write = (config: Config.Config, tensors: ReadonlyMap<string, Tensor.Tensor>): string => {
  const path = freshPath()
  fs.mkdirSync(path)
  const files = TinyModel.files().set("config.json", TinyModel.json(config))
  for (const [name, bytes] of files.set("model.safetensors", TinyModel.safetensors(tensors))) {
    fs.writeFileSync(join(path, name), bytes)
  }
  return path
}

const untied = { ...TinyModel.llamaConfig, tie_word_embeddings: false, architectures: ["LlamaForCausalLM"] }

const language = (config: Config.Config = untied) => Pretrained.load(write(config, TinyModel.weights(config)))

const bits = (tensors: ReadonlyMap<string, Tensor.Tensor>) =>
  Object.fromEntries(
    [...tensors].map(([name, tensor]) => [
      name,
      [[...tensor.shape], Buffer.from(Tensor.toBytes(tensor)).toString("hex")]
    ])
  )

const assertSame = (actual: ReadonlyMap<string, Tensor.Tensor>, expected: ReadonlyMap<string, Tensor.Tensor>) =>
  assert.deepStrictEqual(bits(actual), bits(expected))

describe("initial", () => {
  it.effect("takes all but the language model's own head, and adds a head that depends on the seed", () =>
    Effect.gen(function* () {
      const base = yield* language()
      const model = ScalarHead.initial(base, { seed: 7 })
      const expected = new Map(base.weights)
      expected.delete("lm_head.weight")
      const names = [...expected.keys(), "score.weight", "score.bias"]
      assert.deepStrictEqual([...model.weights.keys()], names)
      assert.deepStrictEqual(
        model.decoder.parameters.map(({ name }) => name),
        names
      )
      for (const [name, tensor] of expected) assert.strictEqual(model.weights.get(name), tensor)
      assert.deepStrictEqual([...model.weights.get("score.bias")!.data], [0])
      assert.deepStrictEqual(model.weights.get("score.weight")!.shape, [1, 8])
      assertSame(ScalarHead.initial(base, { seed: 7 }).weights, model.weights)
      const other = ScalarHead.initial(base, { seed: 8 }).weights.get("score.weight")!.data
      assert.isTrue(other.every((value, i) => value !== model.weights.get("score.weight")!.data[i]))
      assert.include(model.config, { model_type: "llama", hidden_size: 8 })
      assert.deepInclude(model.config, {
        architectures: ["LlamaForSequenceClassification"],
        id2label: { 0: "LABEL_0" },
        label2id: { LABEL_0: 0 }
      })
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it.effect("keeps the embedding where the language model's head is tied to it", () =>
    Effect.gen(function* () {
      const base = yield* language(TinyModel.config)
      const names = [...base.weights.keys(), "score.weight", "score.bias"]
      for (const keepLanguage of [false, true]) {
        const model = ScalarHead.initial(base, { seed: 1, keepLanguage })
        assert.deepStrictEqual([...model.weights.keys()], names)
        const [name] = model.config["architectures"] as ReadonlyArray<string>
        assert.strictEqual(name, keepLanguage ? "GPT2LMHeadModel" : "GPT2ForSequenceClassification")
      }
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it.effect("gives a reward model a new head, and has no language to keep in one", () =>
    Effect.gen(function* () {
      const base = yield* language()
      const first = ScalarHead.initial(base, { seed: 1 })
      const second = ScalarHead.initial(first, { seed: 2 })
      assertSame(second.weights, ScalarHead.initial(base, { seed: 2 }).weights)
      assert.deepStrictEqual(second.decoder.parameters, first.decoder.parameters)
      assert.throws(
        () => ScalarHead.initial(first, { seed: 2, keepLanguage: true }),
        RangeError,
        "begin with the language"
      )
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it.effect("names the padding token of the tokenizer unless it ends answers or the model has one", () =>
    Effect.gen(function* () {
      const base = yield* language()
      const padOf = (padId: number | undefined, config = base.config) => {
        const tokenizer = { ...base.tokenizer, padId, stopIds: [0, 2] }
        return ScalarHead.initial({ ...base, config, tokenizer }, { seed: 1 }).config["pad_token_id"]
      }
      assert.strictEqual(padOf(5), 5)
      assert.strictEqual(padOf(5, { ...base.config, pad_token_id: null }), 5)
      assert.strictEqual(padOf(5, { ...base.config, pad_token_id: 3 }), 3)
      assert.isUndefined(padOf(2))
      assert.isUndefined(padOf(undefined))
    }).pipe(Effect.provide(NodeServices.layer))
  )
})

describe("a directory", () => {
  it.effect.each([TinyModel.config, untied])("gives back what was saved, bit for bit: %j", (config) =>
    Effect.gen(function* () {
      const initial = ScalarHead.initial(yield* language(config), { seed: 3 })
      const model = { ...initial, weights: new Map(initial.weights).set("score.bias", Tensor.float32([0.1])) }
      const out = freshPath()
      yield* Pretrained.save(model, out)
      const again = yield* Pretrained.load(out)
      assertSame(again.weights, model.weights)
      assert.deepStrictEqual(again.config, JSON.parse(JSON.stringify(model.config)))
      assert.deepStrictEqual(again.decoder.parameters, model.decoder.parameters)
      assert.isUndefined(again.extras)
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it.effect("of transformers has no bias: it is 0", () =>
    Effect.gen(function* () {
      const { config, weights } = ScalarHead.initial(yield* language(), { seed: 3 })
      const tensors = new Map(weights)
      tensors.delete("score.bias")
      assertSame((yield* Pretrained.load(write(config, tensors))).weights, weights)
      tensors.delete("score.weight")
      const error = yield* Effect.flip(Pretrained.load(write(config, tensors)))
      assert.include(error, { reason: "MissingTensor", tensor: "score.weight" })
      assert.include(error.message, "a model for sequence classification")
      const head = Tensor.zeros([20, 8])
      const extra = yield* Effect.flip(Pretrained.load(write(config, new Map(weights).set("lm_head.weight", head))))
      assert.include(extra, { reason: "ExtraTensor", tensor: "lm_head.weight" })
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it.effect("of policy and value model is that of a language model, with a head beside it", () =>
    Effect.gen(function* () {
      for (const config of [TinyModel.config, untied]) {
        const base = yield* language(config)
        const model = ScalarHead.initial(base, { seed: 3, keepLanguage: true })
        assert.strictEqual(model.config, base.config)
        const out = freshPath()
        yield* Pretrained.save(model, out)
        assert.include(yield* Effect.flip(Pretrained.load(out)), { reason: "ExtraTensor", tensor: "score.bias" })
        const kept = yield* Pretrained.load(out, { extras: "keep" })
        assertSame(kept.weights, base.weights)
        const again = yield* Effect.fromResult(ScalarHead.fromExtras(kept))
        assertSame(again.weights, model.weights)
        assert.isUndefined(again.extras)
        assert.deepStrictEqual(again.decoder.parameters, model.decoder.parameters)
        const missing = yield* Effect.flip(Effect.fromResult(ScalarHead.fromExtras(base)))
        assert.include(missing, { reason: "MissingTensor", tensor: "score.weight" })
        const wide = { ...base, extras: new Map([["score.weight", Tensor.zeros([2, 8])]]) }
        const wrong = yield* Effect.flip(Effect.fromResult(ScalarHead.fromExtras(wide)))
        assert.include(wrong, { reason: "WrongShape", tensor: "score.weight" })
      }
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it("is refused where it has other labels than one, naming the field", () => {
    const classifier = { ...TinyModel.config, architectures: ["GPT2ForSequenceClassification"] }
    const refused = (fields: Config.Config) => {
      const error = Result.getOrThrow(Result.flip(Config.decoder({ ...classifier, ...fields })))
      assert.strictEqual(error.reason, "ConfigField")
      return [error.field, error.message]
    }
    const three = { 0: "no", 1: "maybe", 2: "yes" }
    for (const [field, fields] of [
      ["id2label", {}],
      ["id2label", { id2label: three }],
      ["id2label", { id2label: "one" }],
      ["id2label", { id2label: three, num_labels: 1 }],
      ["num_labels", { num_labels: 2 }],
      ["num_labels", { id2label: { 0: "score" }, num_labels: 3 }]
    ] as const) {
      const [named, message] = refused(fields)
      assert.strictEqual(named, field, JSON.stringify(fields))
      assert.include(message, "only models with one label are supported")
    }
    for (const fields of [
      { num_labels: 1 },
      { id2label: { 0: "score" } },
      { id2label: { 0: "score" }, num_labels: 1 }
    ]) {
      const { parameters } = Result.getOrThrow(Config.decoder({ ...classifier, ...fields }))
      assert.deepStrictEqual(
        parameters.slice(-2).map(({ name, shape }) => [name, shape]),
        [
          ["score.weight", [1, 8]],
          ["score.bias", [1]]
        ]
      )
    }
  })
})

const checkpoints = ["scalar-gpt2", "scalar-llama"]
const fixture = (name: string) => join(import.meta.dirname, "../fixtures", name)

describe("a checkpoint of transformers", () => {
  it.effect.each(checkpoints)("is scored as PyTorch scores it, padded on either side: %s", (name) =>
    Effect.gen(function* () {
      const path = fixture(name)
      const model = yield* Pretrained.loadWeights(path)
      const { tensors } = yield* Safetensors.read(join(path, "golden.safetensors"))
      const graph = Graph.prune(OnnxExport.scorer(model))
      for (const side of ["", "left_"]) {
        const { logits } = yield* Run.once(graph, {
          input_ids: tensors.get(`${side}input_ids`)!,
          attention_mask: tensors.get(`${side}attention_mask`)!
        })
        assert.deepStrictEqual(logits!.shape, [4, 1])
        const close = { absolute: 1e-5, relative: 0 }
        Run.close(Run.numbers(logits), Run.numbers(tensors.get("scores")), `${side}scores`, close)
      }
    })
  )

  it.effect.each(checkpoints)("is saved as one, and as an ONNX file that says the same with its bias: %s", (name) =>
    Effect.gen(function* () {
      const path = fixture(name)
      const loaded = yield* Pretrained.loadWeights(path)
      const file = yield* Safetensors.read(join(path, "model.safetensors"))
      assertSame(loaded.weights, new Map(file.tensors).set("score.bias", Tensor.zeros([1])))
      const out = freshPath()
      const weights = new Map(loaded.weights).set("score.bias", Tensor.float32([2]))
      yield* Pretrained.save({ ...loaded, weights }, out)
      const config = JSON.parse(fs.readFileSync(join(path, "config.json"), "utf8"))
      assert.deepStrictEqual(JSON.parse(fs.readFileSync(join(out, "config.json"), "utf8")), config)
      const saved = yield* Safetensors.read(join(out, "model.safetensors"))
      assertSame(saved.tensors, new Map(file.tensors).set("score.bias", Tensor.float32([2])))

      const { tensors } = yield* Safetensors.read(join(path, "golden.safetensors"))
      const feed = (name: string) => {
        const { data, shape } = tensors.get(name)!
        return new OrtTensor("int64", data as BigInt64Array, shape)
      }
      const { inputNames, logits, outputNames } = yield* Effect.promise(async () => {
        const session = await InferenceSession.create(join(out, "onnx/model.onnx"))
        const feeds = { input_ids: feed("input_ids"), attention_mask: feed("attention_mask") }
        const { logits } = await session.run(feeds)
        await session.release()
        return {
          inputNames: session.inputNames,
          logits: logits!.data as Float32Array,
          outputNames: session.outputNames
        }
      })
      assert.deepStrictEqual([[...inputNames].sort(), outputNames], [["attention_mask", "input_ids"], ["logits"]])
      const expected = Run.numbers(tensors.get("scores")).map((score) => score + 2)
      Run.close(logits, expected, "scores", { absolute: 1e-5, relative: 0 })
    })
  )
})
