import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import * as HuggingFace from "@huggingface/tokenizers"
import { Effect, Result, Schema } from "effect"
import * as Tokenizer from "../src/Tokenizer.ts"
import * as Run from "./onnx/run.ts"

const shared = resolve(import.meta.dirname, "../../../../shared")
const present = (path: string) => {
  const found = existsSync(join(shared, path))
  if (!found) process.stderr.write(`skipped: ../shared/${path} is absent\n`)
  return found
}
const fromJson = (file: string) => JSON.parse(readFileSync(join(shared, file), "utf8"))
const bytes = (value: unknown) => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value))

const make = (contents: Readonly<Record<string, unknown>>) =>
  Tokenizer.fromFiles(new Map(Object.entries(contents).map(([name, value]) => [name, bytes(value)])), "dir")

const added = (id: number, content: string) => ({
  id,
  content,
  special: true,
  normalized: false,
  single_word: false,
  lstrip: false,
  rstrip: false
})

// characters, one merge (a b), byte tokens of é, end of text
const vocab = { "<unk>": 0, "<s>": 1, "</s>": 2, a: 3, b: 4, ab: 5, "▁": 6, "<0xC3>": 7, "<0xA9>": 8 }
const tiny = {
  version: "1.0",
  added_tokens: [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
    special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } }
  },
  decoder: { type: "Sequence", decoders: [{ type: "ByteFallback" }, { type: "Fuse" }] },
  model: { type: "BPE", vocab, merges: [["a", "b"]], unk_token: "<unk>", byte_fallback: true, fuse_unk: true }
}
const config = { bos_token: "<s>", eos_token: { content: "</s>" }, unk_token: "<unk>" }
const tokenizer = () => Result.getOrThrow(make({ "tokenizer.json": tiny, "tokenizer_config.json": config }))

describe("Tokenizer", () => {
  it("has the library's tokens of long texts without words, also where it cuts them", () => {
    const random = Run.seeded(7)
    const characters = [..."abcdeé ▁😀🎉"]
    const text = (length: number) => Array.from({ length }, () => characters[random.below(characters.length)]!).join("")
    const known = [...characters]
    const merges: Array<[string, string]> = []
    while (merges.length < 40) {
      const [left, right] = [known[random.below(known.length)]!, known[random.below(known.length)]!]
      if (known.includes(left + right)) continue
      merges.push([left, right])
      known.push(left + right)
    }
    const model = {
      type: "BPE",
      vocab: Object.fromEntries(["<unk>", ...known].map((token, id) => [token, id])),
      merges
    }
    const json = { ...tiny, added_tokens: [], post_processor: null, model: { ...model, unk_token: "<unk>" } }
    const own = Result.getOrThrow(make({ "tokenizer.json": json }))
    const library = new HuggingFace.Tokenizer(json, {})
    for (let i = 0; i < 200; i++) {
      // Some text is seen twice, and some continues another.
      const context = text(random.below(120))
      for (const whole of [context, context + text(random.below(40)), context + text(random.below(40))]) {
        assert.deepStrictEqual([...own.encode(whole)], [...library.encode(whole).ids], whole)
      }
    }
  })

  it("encodes with and without special tokens", () => {
    assert.deepStrictEqual([...tokenizer().encode("aba")], [1, 5, 3])
    assert.deepStrictEqual([...tokenizer().encode("aba", { addSpecialTokens: false })], [5, 3])
    assert.deepStrictEqual([...tokenizer().encode("")], [1])
  })

  it("decodes bytes into characters, leaves special and unknown ids out", () => {
    assert.strictEqual(tokenizer().decode([1, 5, 7, 8, 2, 999]), "abé")
    assert.strictEqual(tokenizer().decode([1, 5], { skipSpecialTokens: false }), "<s>ab")
    assert.strictEqual(tokenizer().decode([]), "")
  })

  it("knows its special tokens, and pads with the end-of-text id where no padding token is named", () => {
    const { bosId, eosId, padId, unkId, vocabSize } = tokenizer()
    assert.deepStrictEqual(
      { bosId, eosId, padId, unkId, vocabSize },
      { bosId: 1, eosId: 2, padId: 2, unkId: 0, vocabSize: 9 }
    )
  })

  it("takes special tokens from special_tokens_map.json, then ids from config.json", () => {
    const tokenizer = Result.getOrThrow(
      make({
        "tokenizer.json": tiny,
        "special_tokens_map.json": { bos_token: "<s>" },
        "config.json": { bos_token_id: 0, eos_token_id: [2, 1], pad_token_id: null }
      })
    )
    assert.deepStrictEqual([tokenizer.bosId, tokenizer.eosId, tokenizer.unkId], [1, 2, undefined])
  })

  it("ends answers at every id that generation_config.json lists, else config.json, and at its end-of-text token", () => {
    const stopIds = (files: Record<string, unknown>) =>
      Result.getOrThrow(make({ "tokenizer.json": tiny, "tokenizer_config.json": config, ...files })).stopIds
    const several = { "generation_config.json": { eos_token_id: [4, 2] }, "config.json": { eos_token_id: [1] } }
    assert.deepStrictEqual(stopIds(several), [4, 2])
    assert.deepStrictEqual(stopIds({ "generation_config.json": { eos_token_id: 4 } }), [4, 2])
    assert.deepStrictEqual(stopIds({ "generation_config.json": { eos_token_id: null } }), [2])
    assert.deepStrictEqual(stopIds({ "config.json": { eos_token_id: [3, 4] } }), [3, 4, 2])
    assert.deepStrictEqual(stopIds({}), [2])
    assert.deepStrictEqual(Result.getOrThrow(make({ "tokenizer.json": tiny })).stopIds, [])
    const wrong = make({ "tokenizer.json": tiny, "generation_config.json": { eos_token_id: "</s>" } })
    assert.include(Result.getOrThrow(Result.flip(wrong)).message, "generation_config.json")
  })

  it("leaves every id that ends an answer out of the text", () => {
    const files = { "tokenizer.json": tiny, "generation_config.json": { eos_token_id: [4] } }
    assert.strictEqual(Result.getOrThrow(make(files)).decode([3, 4]), "a")
  })

  it("reads numbers as ids where a model has no text", () => {
    const numeric = Tokenizer.numeric(20)
    assert.deepStrictEqual([...numeric.encode(" 3 19\n7 20 -1 x 2.5 0x3 1e1")], [3, 19, 7])
    assert.strictEqual(numeric.decode([3, 19, 20]), "3 19")
    assert.deepStrictEqual([numeric.token(4), numeric.token(20), numeric.stopIds.length], ["4", undefined, 0])
    assert.deepStrictEqual([...Result.getOrThrow(numeric.prompt("5 6")).tokens], [5, 6])
    const messages = numeric.prompt([{ role: "user", content: "1" }])
    assert.include(Result.getOrThrow(Result.flip(messages)).message, "numeric")
    assert.include(Result.getOrThrow(Result.flip(numeric.applyChatTemplate([]))).message, "numeric")
  })

  it("keeps its neighbours apart from a character that only becomes <unk>", () => {
    assert.deepStrictEqual([...tokenizer().encode("a日本b", { addSpecialTokens: false })], [3, 0, 4])
  })

  it("as a LlamaTokenizer prepends a space and drops what it cannot spell before merging", () => {
    const llama = Result.getOrThrow(
      make({
        "tokenizer.json": tiny,
        "tokenizer_config.json": { ...config, tokenizer_class: "LlamaTokenizer", legacy: false }
      })
    )
    assert.deepStrictEqual([...llama.encode("a日b é")], [1, 6, 5, 6, 7, 8])
    assert.strictEqual(llama.decode([1, 6, 5, 6, 7, 8]), "ab é")
  })

  it("follows the ids of the post-processor's template where its names mean other ids", () => {
    const post_processor = {
      ...tiny.post_processor,
      special_tokens: { "<s>": { id: "<s>", ids: [2], tokens: ["<s>"] } }
    }
    const tokenizer = Result.getOrThrow(make({ "tokenizer.json": { ...tiny, post_processor } }))
    assert.deepStrictEqual([...tokenizer.encode("a")], [2, 3])
  })

  it("reads GPT-2's vocab.json and merges.txt", () => {
    const tokenizer = Result.getOrThrow(
      make({
        "vocab.json": { "<|endoftext|>": 0, a: 1, b: 2, Ġ: 3, Ġa: 4 },
        "merges.txt": "#version: 0.2\nĠ a\n"
      })
    )
    assert.deepStrictEqual([...tokenizer.encode("a ab<|endoftext|>")], [1, 4, 2, 0])
    assert.strictEqual(tokenizer.decode([1, 4, 2, 0]), "a ab")
  })

  it("decodes one id at a time into pieces that make up the whole", () => {
    const next = Tokenizer.incremental(tokenizer())
    assert.deepStrictEqual([5, 7, 8, 2, 3].map(next), ["ab", "", "é", "", "a"])
  })
})

describe("chat templates", () => {
  const chat_template =
    "{{ bos_token }}{% for m in messages %}" +
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}" +
    "{% if add_generation_prompt %}[assistant]{% endif %}"
  const chat = (contents: Readonly<Record<string, unknown>>) =>
    Result.getOrThrow(make({ "tokenizer.json": tiny, "tokenizer_config.json": config, ...contents }))
  const messages = [{ role: "user", content: "ab" }]

  it("render messages", () => {
    const tokenizer = chat({ "tokenizer_config.json": { ...config, chat_template } })
    assert.deepStrictEqual(tokenizer.applyChatTemplate(messages), Result.succeed("<s>[user]ab"))
    assert.deepStrictEqual(
      tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true }),
      Result.succeed("<s>[user]ab[assistant]")
    )
  })

  it("come from chat_template.jinja first, or from the list's default", () => {
    const list = [
      { name: "tool_use", template: "T" },
      { name: "default", template: "D" }
    ]
    const inline = chat({ "tokenizer_config.json": { ...config, chat_template: list } })
    assert.deepStrictEqual(inline.applyChatTemplate(messages), Result.succeed("D"))
    const file = chat({ "tokenizer_config.json": { ...config, chat_template }, "chat_template.jinja": "J" })
    assert.deepStrictEqual(file.applyChatTemplate(messages), Result.succeed("J"))
  })

  it("write the special tokens of a prompt once", () => {
    const tokenizer = chat({ "chat_template.jinja": "{{ bos_token }}{{ messages[0].content }}" })
    const prompt = Result.getOrThrow(tokenizer.prompt(messages))
    assert.deepStrictEqual([prompt.text, [...prompt.tokens], prompt.messages], ["<s>ab", [1, 5], messages])
    assert.deepStrictEqual([...Result.getOrThrow(tokenizer.prompt("ab")).tokens], [1, 5])
  })

  it("that refuse, do not parse or are absent are named", () => {
    const failure = (tokenizer: Tokenizer.Tokenizer, role: string) => {
      const result = tokenizer.applyChatTemplate([{ role, content: "" }])
      return Result.isFailure(result) ? result.failure.message : "rendered"
    }
    assert.match(
      failure(chat({ "chat_template.jinja": chat_template }), "system"),
      /chat_template.jinja.*no system role/
    )
    assert.match(failure(chat({}), "user"), /has no chat_template/)
    const broken = make({ "tokenizer.json": tiny, "chat_template.jinja": "{% for %}" })
    assert.isTrue(Result.isFailure(broken) && /chat_template.jinja.*cannot be parsed/.test(broken.failure.message))
  })
})

describe("load", () => {
  const directory = (contents: Readonly<Record<string, string>>) => {
    const directory = mkdtempSync(join(tmpdir(), "attune-tokenizer-"))
    for (const [name, value] of Object.entries(contents)) writeFileSync(join(directory, name), value)
    return directory
  }
  const loadError = (contents: Readonly<Record<string, string>>) =>
    Effect.flip(Tokenizer.load(directory(contents))).pipe(Effect.map((error) => error.message))

  it.layer(NodeServices.layer)((it) => {
    it.effect("keeps the files as they were, byte for byte", () =>
      Effect.gen(function* () {
        const spaced = `${JSON.stringify(tiny, null, 3)}\n\n`
        const tokenizer = yield* Tokenizer.load(
          directory({ "tokenizer.json": spaced, "config.json": "{}", other: "x" })
        )
        assert.deepStrictEqual([...tokenizer.files.keys()], ["tokenizer.json"])
        assert.strictEqual(new TextDecoder().decode(tokenizer.files.get("tokenizer.json")), spaced)
      })
    )

    it.effect("names the file that is missing, broken, or names a token that is not there", () =>
      Effect.gen(function* () {
        assert.match(yield* loadError({}), /tokenizer\.json: is missing/)
        assert.match(yield* loadError({ "tokenizer.json": "{" }), /tokenizer\.json: is not a tokenizer file/)
        assert.match(
          yield* loadError({ "tokenizer.json": `{"model":{"type":"Nonsense","vocab":{}}}` }),
          /tokenizer\.json: /
        )
        const json = JSON.stringify(tiny)
        assert.match(
          yield* loadError({ "tokenizer.json": json, "tokenizer_config.json": `{"eos_token":"<end>"}` }),
          /tokenizer_config\.json: eos_token "<end>" is not in the vocabulary/
        )
        assert.match(
          yield* loadError({ "tokenizer.json": json, "tokenizer_config.json": `{"eos_token":3}` }),
          /tokenizer_config\.json: cannot be used: .*eos_token/s
        )
      })
    )

    it.effect.skipIf(!present("data/tinystories-656K") || !present("fixtures/tinystories-656K.golden.json"))(
      "gives the ids of transformers 5 on real stories",
      () =>
        Effect.gen(function* () {
          const tokenizer = yield* Tokenizer.load(join(shared, "data/tinystories-656K"))
          const Golden = Schema.Struct({
            stories: Schema.Array(Schema.Struct({ index: Schema.Int, ids: Schema.Array(Schema.Int) })),
            greedy: Schema.Array(
              Schema.Struct({
                prompt: Schema.String,
                prompt_ids: Schema.Array(Schema.Int),
                ids: Schema.Array(Schema.Int),
                text: Schema.String
              })
            )
          })
          const golden = Schema.decodeUnknownSync(Golden)(fromJson("fixtures/tinystories-656K.golden.json"))
          const stories = readFileSync(join(shared, "data/tinystories/valid.txt"), "utf8").split("<|endoftext|>")
          for (const { ids, index } of golden.stories) {
            assert.deepStrictEqual(
              [...tokenizer.encode(stories[index]!.trim()).subarray(0, 256)],
              [...ids],
              `story ${index}`
            )
          }
          for (const { ids, prompt, prompt_ids, text } of golden.greedy) {
            assert.deepStrictEqual([...tokenizer.encode(prompt)], [...prompt_ids])
            const whole = tokenizer.decode([...prompt_ids, ...ids])
            assert.isTrue(
              whole.endsWith(text) || whole === text,
              `${JSON.stringify(whole)} ends with ${JSON.stringify(text)}`
            )
            const next = Tokenizer.incremental(tokenizer)
            assert.strictEqual([...prompt_ids, ...ids].map(next).join(""), whole)
          }
          assert.deepStrictEqual(
            [tokenizer.bosId, tokenizer.eosId, tokenizer.padId, tokenizer.vocabSize],
            [1, 2, 0, 2048]
          )
        })
    )
  })

  // expectations recorded from the Rust library, tokenizers 0.23.2
  it.skipIf(!present("data/tokenizers"))("gives the ids of the Rust library for GPT-2 and BERT", () => {
    const gpt2 = Result.getOrThrow(
      Tokenizer.fromFiles(
        new Map([
          ["vocab.json", readFileSync(join(shared, "data/tokenizers/gpt2_vocab.json"))],
          ["merges.txt", readFileSync(join(shared, "data/tokenizers/gpt2_merges.txt"))]
        ])
      )
    )
    assert.deepStrictEqual([...gpt2.encode(text)], GPT2)
    assert.strictEqual(gpt2.decode(GPT2), text)
    const bert = Result.getOrThrow(
      Tokenizer.fromFiles(
        new Map([["tokenizer.json", readFileSync(join(shared, "data/tokenizers/bert-wordpiece-tokenizer.json"))]])
      )
    )
    assert.deepStrictEqual([...bert.encode(text)], BERT)
  })
})

const text = "Hello, I'm a language model;  it's 2026\n\nna\u00efve caf\u00e9 \u65e5\u672c \ud83d\ude42"
const GPT2: Array<number> = [
  15496, 11, 314, 1101, 257, 3303, 2746, 26, 220, 340, 338, 1160, 2075, 198, 198, 2616, 38776, 40304, 10545, 245, 98,
  17312, 105, 32485
]
const BERT: Array<number> = [
  101, 6598, 16, 51, 11, 55, 43, 1659, 1950, 31, 1015, 11, 61, 15804, 1581, 14749, 6674, 870, 882, 1, 102
]
