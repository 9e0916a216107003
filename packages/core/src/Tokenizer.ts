/**
 * Text to token ids and back, from the tokenizer files of a Hugging Face checkpoint.
 *
 * The only module that imports `@huggingface/tokenizers` and `@huggingface/jinja`. Ids follow `transformers` 5.
 *
 * @since 0.1.0
 */
import { Template } from "@huggingface/jinja"
import * as HuggingFace from "@huggingface/tokenizers"
import { Effect, FileSystem, Path, Result, Schema } from "effect"
import * as Prompt from "./Prompt.ts"

/**
 * Reports tokenizer files that are missing or cannot be used, or a conversation that the chat template refuses.
 *
 * Whoever prepared the model directory can fix the first, whoever wrote the messages the second.
 *
 * @category errors
 * @since 0.1.0
 */
export class TokenizerError extends Schema.TaggedError<TokenizerError>()("TokenizerError", {
  file: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.file}: ${this.reason}`
  }
}

/**
 * A loaded tokenizer. Encoding and decoding are pure and cannot fail.
 *
 * @category models
 * @since 0.1.0
 */
export interface Tokenizer {
  /** One more than the largest id, added tokens included. A model's embedding may have more rows, never fewer. */
  readonly vocabSize: number
  readonly bosId: number | undefined
  readonly eosId: number | undefined
  /** Ids that end an answer: those that `generation_config.json` lists, else those of `config.json`, and `eosId`. */
  readonly stopIds: ReadonlyArray<number>
  /** The padding id; the end-of-text id where the files name none. Masks never come from it: see `Tokens`. */
  readonly padId: number | undefined
  readonly unkId: number | undefined
  readonly specialIds: ReadonlySet<number>
  /** The files that the tokenizer was read from, byte for byte, so that a saved checkpoint carries the same ones. */
  readonly files: ReadonlyMap<string, Uint8Array>
  /** Ids of `text` `[T]`, with the tokens that the model expects around a text unless `addSpecialTokens` is false. */
  readonly encode: (text: string, options?: { readonly addSpecialTokens?: boolean }) => Int32Array
  /** Text of `ids`. Ids outside the vocabulary have no text. Special tokens are left out unless told otherwise. */
  readonly decode: (ids: ArrayLike<number>, options?: { readonly skipSpecialTokens?: boolean }) => string
  /** The token with this id as the vocabulary spells it. */
  readonly token: (id: number) => string | undefined
  /** Renders a conversation as the model was trained to read it. Fails without a template, or where it refuses. */
  readonly applyChatTemplate: (
    messages: ReadonlyArray<Prompt.Message>,
    options?: { readonly addGenerationPrompt?: boolean }
  ) => Result.Result<string, TokenizerError>
  /** Tokenizes text, or a conversation ready for the assistant's answer. */
  readonly prompt: (content: Prompt.Content) => Result.Result<Prompt.Prompt, TokenizerError>
}

/**
 * What tells two tokenizers' ids apart, in words, or nothing where every id stands for the same token in both.
 *
 * @category comparing
 * @since 0.1.0
 */
export const difference = (
  a: Pick<Tokenizer, "vocabSize" | "token" | "eosId">,
  b: Pick<Tokenizer, "vocabSize" | "token" | "eosId">
): string | undefined => {
  if (a === b) return undefined
  if (a.vocabSize !== b.vocabSize) return `${a.vocabSize} ids against ${b.vocabSize}`
  if (a.eosId !== b.eosId) return `the end-of-text id is ${a.eosId} against ${b.eosId}`
  for (let id = 0; id < a.vocabSize; id++) {
    if (a.token(id) !== b.token(id))
      return `id ${id} is ${JSON.stringify(a.token(id))} against ${JSON.stringify(b.token(id))}`
  }
  return undefined
}

/** A token that may merge with the next; the lowest score merges first. */
interface MergeNode {
  readonly token: string
  readonly bias: number
  readonly next: MergeNode
  score?: number
}

/** What is used of the tokenizer; the library's declarations import without extensions and so resolve to nothing. */
interface Engine {
  readonly model: {
    readonly tokens_to_ids: ReadonlyMap<string, number>
    readonly merges?: ReadonlyArray<readonly [left: string, right: string]>
    encode: (pieces: ReadonlyArray<string>) => Array<string>
    add_node?: (queue: { readonly push: (node: MergeNode) => void }, node: MergeNode) => void
  }
  readonly encode: (text: string, options: { readonly add_special_tokens: boolean }) => { readonly ids: Array<number> }
  readonly decode: (ids: ReadonlyArray<number>) => string
  readonly token_to_id: (token: string) => number | undefined
  readonly id_to_token: (id: number) => string | undefined
  readonly get_vocab: () => ReadonlyMap<string, number>
}

/**
 * Names of the files that a tokenizer may consist of.
 *
 * @category constants
 * @since 0.1.0
 */
export const fileNames: ReadonlyArray<string> = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "vocab.txt",
  "tokenizer.model",
  "spiece.model"
]

const TokenName = Schema.Union([Schema.String, Schema.Struct({ content: Schema.String })])

const SpecialTokens = {
  bos_token: Schema.optionalKey(Schema.NullOr(TokenName)),
  eos_token: Schema.optionalKey(Schema.NullOr(TokenName)),
  pad_token: Schema.optionalKey(Schema.NullOr(TokenName)),
  unk_token: Schema.optionalKey(Schema.NullOr(TokenName))
}

const SpecialTokensMap = Schema.Struct(SpecialTokens)

const TokenizerConfig = Schema.Struct({
  ...SpecialTokens,
  tokenizer_class: Schema.optionalKey(Schema.NullOr(Schema.String)),
  legacy: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  add_prefix_space: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  clean_up_tokenization_spaces: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  chat_template: Schema.optionalKey(
    Schema.NullOr(
      Schema.Union([Schema.String, Schema.Array(Schema.Struct({ name: Schema.String, template: Schema.String }))])
    )
  )
})

const Id = Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Int, Schema.Array(Schema.Int)])))

const ModelConfig = Schema.Struct({ bos_token_id: Id, eos_token_id: Id, pad_token_id: Id })

const GenerationConfig = Schema.Struct({ eos_token_id: Id })

const Json = Schema.Record(Schema.String, Schema.Unknown)

const TokenizerJson = Schema.StructWithRest(
  Schema.Struct({
    model: Schema.StructWithRest(
      Schema.Struct({
        type: Schema.optionalKey(Schema.Literals(["BPE", "WordPiece", "Unigram"])),
        vocab: Schema.Unknown
      }),
      [Json]
    ),
    added_tokens: Schema.optionalKey(
      Schema.Array(
        Schema.StructWithRest(
          Schema.Struct({ id: Schema.Int, content: Schema.String, special: Schema.optionalKey(Schema.Boolean) }),
          [Json]
        )
      )
    )
  }),
  [Json]
)

type TokenizerJson = typeof TokenizerJson.Type

const TemplateItems = Schema.Array(
  Schema.StructWithRest(
    Schema.Struct({
      SpecialToken: Schema.optionalKey(Schema.StructWithRest(Schema.Struct({ id: Schema.String }), [Json]))
    }),
    [Json]
  )
)

const TemplateProcessing = Schema.Struct({
  type: Schema.Literal("TemplateProcessing"),
  single: TemplateItems,
  pair: TemplateItems,
  special_tokens: Schema.Record(Schema.String, Schema.Struct({ ids: Schema.Array(Schema.Int) }))
})

const spaceMark = "▁"

/**
 * Rebuilds the parts that `transformers` 5 rebuilds for `LlamaTokenizer`, whatever `tokenizer.json` says.
 *
 * Two things differ from the file: a space is prepended before tokenization instead of by a normalizer, and the BPE
 * model has no unknown token, so a character without a token or byte tokens vanishes instead of becoming `<unk>`.
 */
const asLlama = (json: TokenizerJson, config: typeof TokenizerConfig.Type): TokenizerJson => {
  const prefixed = config.add_prefix_space ?? true
  const strip = { type: "Strip", content: " ", start: 1, stop: 0 }
  return {
    ...json,
    model: { ...json.model, unk_token: null, fuse_unk: true, byte_fallback: true },
    normalizer: null,
    pre_tokenizer: {
      type: "Metaspace",
      replacement: spaceMark,
      prepend_scheme: prefixed ? ((config.legacy ?? false) ? "always" : "first") : "never",
      split: false
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: spaceMark }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prefixed ? [strip] : [])
      ]
    }
  }
}

const isLlama = (json: TokenizerJson, config: typeof TokenizerConfig.Type): boolean =>
  ["LlamaTokenizer", "LlamaTokenizerFast"].includes(config.tokenizer_class ?? "") &&
  json.model.type === "BPE" &&
  json.model["byte_fallback"] === true // byte-level files that misname their class stay as they are

/** The `tokenizer.json` that stands for GPT-2's older pair of files, `vocab.json` and `merges.txt`. */
const byteLevelBpe = (vocab: Readonly<Record<string, number>>, merges: string): Record<string, unknown> => ({
  version: "1.0",
  added_tokens: Object.entries(vocab)
    .filter(([content]) => content === "<|endoftext|>")
    .map(([content, id]) => ({
      id,
      content,
      special: true,
      normalized: false,
      single_word: false,
      lstrip: false,
      rstrip: false
    })),
  normalizer: null,
  pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
  decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: "BPE",
    vocab,
    merges: merges.split(/\r?\n/).filter((line, i) => line !== "" && !(i === 0 && line.startsWith("#version")))
  }
})

/**
 * Makes a tokenizer from the contents of its files, by name; `load` reads them. `directory` stands in messages.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromFiles = (
  contents: ReadonlyMap<string, Uint8Array>,
  directory = "tokenizer"
): Result.Result<Tokenizer, TokenizerError> =>
  Result.gen(function* () {
    const at = (file: string) => `${directory}/${file}`
    const read = <A>(file: string, schema: Schema.Codec<A, unknown>): Result.Result<A | undefined, TokenizerError> => {
      const bytes = contents.get(file)
      return bytes === undefined ? Result.succeed(undefined) : decodeJson(at(file), "cannot be used", schema, bytes)
    }

    const config = (yield* read("tokenizer_config.json", TokenizerConfig)) ?? {}
    const specialTokens = (yield* read("special_tokens_map.json", SpecialTokensMap)) ?? {}
    const modelConfig = (yield* read("config.json", ModelConfig)) ?? {}
    const generation = (yield* read("generation_config.json", GenerationConfig)) ?? {}
    const json = yield* tokenizerJson(contents, at)
    const llama = isLlama(json, config)

    const inner = yield* Result.try({
      try: () => {
        const { chat_template: _, ...settings } = config
        const inner: Engine = new HuggingFace.Tokenizer(withDefaults(llama ? asLlama(json, config) : json), {
          ...settings,
          clean_up_tokenization_spaces: config.clean_up_tokenization_spaces ?? false // the default of transformers 5
        })
        rankByTokens(inner)
        cutLongPieces(inner, json)
        if (llama) dropUnknown(inner)
        return inner
      },
      catch: (cause) =>
        new TokenizerError({
          file: at("tokenizer.json"),
          reason: `is not a tokenizer that can be run (${reasonOf(cause)}); save it again with transformers 5`
        })
    })
    const vocab = inner.get_vocab()
    const vocabSize = [...vocab.values()].reduce((most, id) => Math.max(most, id + 1), 0)
    const specialIds = new Set((json.added_tokens ?? []).filter(({ special }) => special === true).map(({ id }) => id))

    const named = (role: "bos" | "eos" | "pad" | "unk"): Result.Result<number | undefined, TokenizerError> => {
      for (const [file, source] of [
        ["tokenizer_config.json", config],
        ["special_tokens_map.json", specialTokens]
      ] as const) {
        const name = source[`${role}_token`]
        if (name === undefined || name === null) continue
        const content = typeof name === "string" ? name : name.content
        const id = inner.token_to_id(content)
        if (id !== undefined) return Result.succeed(id)
        return Result.fail(
          new TokenizerError({
            file: at(file),
            reason: `${role}_token ${JSON.stringify(content)} is not in the vocabulary of tokenizer.json; add or rename it`
          })
        )
      }
      if (role === "unk") return Result.succeed(undefined)
      const id = modelConfig[`${role}_token_id`]
      return Result.succeed((typeof id === "number" ? id : id?.[0]) ?? undefined)
    }
    const bosId = yield* named("bos")
    const eosId = yield* named("eos")
    const padId = (yield* named("pad")) ?? eosId
    const unkId = yield* named("unk")
    // A model without generation settings has those of its config.json, as in transformers.
    const { eos_token_id: ofModel } = modelConfig
    const listed = [generation.eos_token_id ?? (Array.isArray(ofModel) ? ofModel : [])].flat()
    // The end-of-text token is one in any case: it is what fine-tuning ends answers with.
    const stopIds = [...new Set(eosId === undefined ? listed : [...listed, eosId])]
    for (const id of [bosId, eosId, padId, ...stopIds]) {
      if (id !== undefined) specialIds.add(id)
    }
    const special = (id: number | undefined): string => (id === undefined ? "" : (inner.id_to_token(id) ?? ""))

    const encode: Tokenizer["encode"] = (text, options) =>
      Int32Array.from(inner.encode(text, { add_special_tokens: options?.addSpecialTokens ?? true }).ids)

    const decode: Tokenizer["decode"] = (ids, options) => {
      const skip = options?.skipSpecialTokens ?? true
      const known = Array.from(ids).filter((id) => inner.id_to_token(id) !== undefined && !(skip && specialIds.has(id)))
      return known.length === 0 ? "" : inner.decode(known)
    }

    const chatTemplate = yield* chatTemplateOf(contents, config, at)
    const applyChatTemplate: Tokenizer["applyChatTemplate"] = (messages, options) => {
      if (chatTemplate === undefined) {
        return Result.fail(
          new TokenizerError({
            file: at("tokenizer_config.json"),
            reason:
              "has no chat_template, so it cannot render messages; give plain-text prompts, or add chat_template.jinja"
          })
        )
      }
      return Result.try({
        try: () =>
          chatTemplate.template.render({
            messages,
            add_generation_prompt: options?.addGenerationPrompt ?? false,
            bos_token: special(bosId),
            eos_token: special(eosId),
            pad_token: special(padId),
            unk_token: special(unkId)
          }),
        catch: (cause) =>
          new TokenizerError({
            file: at(chatTemplate.file),
            reason: `the chat template refuses these messages: ${reasonOf(cause)}`
          })
      })
    }

    return {
      vocabSize,
      bosId,
      eosId,
      stopIds,
      padId,
      unkId,
      specialIds,
      files: new Map([...contents].filter(([name]) => fileNames.includes(name))),
      encode,
      decode,
      token: (id) => inner.id_to_token(id),
      applyChatTemplate,
      prompt: (content) =>
        typeof content === "string"
          ? Result.succeed(Prompt.make(content, encode(content)))
          : Result.map(applyChatTemplate(content, { addGenerationPrompt: true }), (text) =>
              // the template already wrote the special tokens
              Prompt.make(text, encode(text, { addSpecialTokens: false }), content)
            )
    }
  })

/**
 * A tokenizer for models whose data are ids already: a text is its ids with spaces between them. It has no special
 * tokens. Parts of a text that are no id of the vocabulary are left out.
 *
 * @category constructors
 * @since 0.1.0
 */
export const numeric = (vocabSize: number): Tokenizer => {
  const isId = (id: number) => Number.isInteger(id) && id >= 0 && id < vocabSize
  const numbers = (text: string) => text.split(/\s+/).filter((part) => /^\d+$/.test(part))
  const encode = (text: string) => Int32Array.from(numbers(text).map(Number).filter(isId))
  return {
    vocabSize,
    bosId: undefined,
    eosId: undefined,
    stopIds: [],
    padId: undefined,
    unkId: undefined,
    specialIds: new Set(),
    files: new Map(),
    encode,
    decode: (ids) => Array.from(ids).filter(isId).join(" "),
    token: (id) => (isId(id) ? String(id) : undefined),
    applyChatTemplate: () =>
      Result.fail(new TokenizerError({ file: "tokenizer", reason: "is numeric, so it has no chat template" })),
    prompt: (content) =>
      typeof content === "string"
        ? Result.succeed(Prompt.make(content, encode(content)))
        : Result.fail(new TokenizerError({ file: "tokenizer", reason: "is numeric, so it cannot read messages" }))
  }
}

/**
 * Reads the tokenizer of a checkpoint directory: `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`, with
 * `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` where they exist.
 *
 * **Details**
 *
 * Special tokens are the ones that `tokenizer_config.json` names, then `special_tokens_map.json`, then the ids in the
 * model's own `config.json`. Several ids that end an answer are those that `generation_config.json` lists, or
 * `config.json` where it does not.
 *
 * @category constructors
 * @since 0.1.0
 */
export const load: (directory: string) => Effect.Effect<Tokenizer, TokenizerError, FileSystem.FileSystem | Path.Path> =
  Effect.fn("Tokenizer.load")(function* (directory) {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const contents = new Map<string, Uint8Array>()
    for (const name of [...fileNames, "config.json", "generation_config.json"]) {
      const file = path.join(directory, name)
      const bytes = yield* fs
        .readFile(file)
        .pipe(
          Effect.catch((error) =>
            error.reason._tag === "NotFound"
              ? Effect.undefined
              : Effect.fail(new TokenizerError({ file, reason: `cannot be read: ${error.message}` }))
          )
        )
      if (bytes !== undefined) contents.set(name, bytes)
    }
    return yield* Effect.fromResult(fromFiles(contents, directory))
  })

/**
 * Decodes one id at a time, for showing an answer while it is sampled.
 *
 * **Details**
 *
 * The returned function takes the next id and returns the text that it completes: nothing while a character still lacks
 * bytes. The pieces joined are `decode` of all ids, up to an unfinished character at the end.
 *
 * @category decoding
 * @since 0.1.0
 */
export const incremental = (tokenizer: Pick<Tokenizer, "decode">): ((id: number) => string) => {
  const ids: Array<number> = []
  // decoding restarts at the previous piece, since decoders treat the first token of a text differently
  let context = 0
  let shown = 0
  return (id) => {
    ids.push(id)
    const before = tokenizer.decode(ids.slice(context, shown))
    const now = tokenizer.decode(ids.slice(context))
    if (now.length <= before.length || now.endsWith("\uFFFD")) return ""
    context = shown
    shown = ids.length
    return now.slice(before.length)
  }
}

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

const reasonOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

const decodeJson = <A>(
  file: string,
  complaint: string,
  schema: Schema.Codec<A, unknown>,
  bytes: Uint8Array
): Result.Result<A, TokenizerError> =>
  Schema.decodeUnknownResult(Schema.fromJsonString(schema))(text(bytes)).pipe(
    Result.mapError((error) => new TokenizerError({ file, reason: `${complaint}: ${error.message}` }))
  )

const tokenizerJson = (
  contents: ReadonlyMap<string, Uint8Array>,
  at: (file: string) => string
): Result.Result<TokenizerJson, TokenizerError> => {
  const decode = <A>(file: string, schema: Schema.Codec<A, unknown>, bytes: Uint8Array) =>
    decodeJson(at(file), "is not a tokenizer file", schema, bytes)
  const bytes = contents.get("tokenizer.json")
  if (bytes !== undefined) return decode("tokenizer.json", TokenizerJson, bytes)
  const vocab = contents.get("vocab.json")
  const merges = contents.get("merges.txt")
  if (vocab === undefined || merges === undefined) {
    return Result.fail(
      new TokenizerError({
        file: at("tokenizer.json"),
        reason:
          "is missing, and there is no vocab.json with merges.txt; save the tokenizer with " +
          "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
      })
    )
  }
  return Result.map(
    decode("vocab.json", Schema.Record(Schema.String, Schema.Int), vocab),
    (vocab) => byteLevelBpe(vocab, text(merges)) as TokenizerJson
  )
}

// the library insists on every key, while files may leave empty ones out
const withDefaults = (json: TokenizerJson): TokenizerJson => ({
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: null,
  decoder: null,
  ...json,
  post_processor: withTemplateIds(json)
})

/**
 * The post-processor with its special tokens spelled as the vocabulary spells their ids.
 *
 * A template gives ids beside names, and the ids decide; the library looks up the names. They differ in files whose
 * vocabulary was replaced after the template was written.
 */
const withTemplateIds = (json: TokenizerJson): unknown => {
  const processor = Schema.decodeUnknownResult(TemplateProcessing)(json["post_processor"])
  if (Result.isFailure(processor)) return json["post_processor"] ?? null
  const spelling = new Map((json.added_tokens ?? []).map(({ content, id }) => [id, content] as const))
  const { vocab } = json.model
  if (typeof vocab === "object" && vocab !== null && !Array.isArray(vocab)) {
    for (const [content, id] of Object.entries(vocab)) if (!spelling.has(id)) spelling.set(id, content)
  }
  const { special_tokens, ...rest } = processor.success
  const spelled = (items: (typeof rest)["single"]) =>
    items.flatMap((item) => {
      if (item.SpecialToken === undefined) return [item]
      const { id, ...place } = item.SpecialToken
      const ids = special_tokens[id]?.ids ?? []
      if (ids.length === 0) return [item]
      return ids.map((number) => ({ SpecialToken: { ...place, id: spelling.get(number) ?? id } }))
    })
  return { ...rest, special_tokens, single: spelled(rest.single), pair: spelled(rest.pair) }
}

/**
 * Finds the rank of a merge by its two tokens. The library writes each pair of neighbours as JSON to look it up, which
 * takes more than half of its time.
 */
const rankByTokens = ({ model }: Engine): void => {
  if (model.merges === undefined) return
  const ranks = new Map<string, Map<string, number>>()
  for (const [rank, [left, right]] of model.merges.entries()) {
    ranks.set(left, (ranks.get(left) ?? new Map<string, number>()).set(right, rank))
  }
  model.add_node = (queue, node) => {
    const rank = ranks.get(node.token)?.get(node.next.token)
    if (rank === undefined) return
    node.score = rank + node.bias
    queue.push(node)
  }
}

// Pieces of no more UTF-16 units stay whole. Words, into which other tokenizers cut their texts, are seldom longer.
const longestPiece = 32

const insideCharacter = (text: string, at: number): boolean => (text.charCodeAt(at) & 0xfc00) === 0xdc00

/**
 * Cuts long pieces where no merge can reach across, which leaves their tokens as they are. The library remembers only short
 * pieces, and to some tokenizers, as that of Llama 2, a whole text is one.
 */
const cutLongPieces = ({ model }: Engine, json: TokenizerJson): void => {
  const { continuing_subword_prefix, end_of_word_suffix, ignore_merges } = json.model
  // Where a piece is more than its merged characters, it stays whole.
  if (model.merges === undefined || continuing_subword_prefix || end_of_word_suffix || ignore_merges) return
  // Neighbouring UTF-16 units that some merge brings together.
  const joined = new Set(model.merges.map(([left, right]) => left.at(-1)! + right[0]!))
  const cut = (piece: string): ReadonlyArray<string> => {
    if (piece.length <= longestPiece) return [piece]
    const parts: Array<string> = []
    let start = 0
    for (let end = longestPiece; end < piece.length; end++) {
      if (!joined.has(piece[end - 1]! + piece[end]!) && !insideCharacter(piece, end)) {
        parts.push(piece.slice(start, end))
        start = end
        end += longestPiece
      }
    }
    return [...parts, piece.slice(start)]
  }
  const encode = model.encode.bind(model)
  model.encode = (pieces) => encode(pieces.flatMap(cut))
}

/**
 * Removes characters that have neither a token nor byte tokens before merging, as the Rust tokenizer does in a BPE
 * model without unknown token. The library would keep them through merging and thereby keep their neighbours apart.
 */
const dropUnknown = ({ model }: Engine): void => {
  const encoder = new TextEncoder()
  const known = new Map<string, boolean>()
  const isKnown = (character: string): boolean => {
    let answer = known.get(character)
    if (answer === undefined) {
      answer =
        model.tokens_to_ids.has(character) ||
        encoder
          .encode(character)
          .every((byte) => model.tokens_to_ids.has(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`))
      known.set(character, answer)
    }
    return answer
  }
  const withoutUnknown = (piece: string): string => {
    for (const character of piece) if (!isKnown(character)) return [...piece].filter(isKnown).join("")
    return piece
  }
  const encode = model.encode.bind(model)
  model.encode = (pieces) => encode(pieces.map(withoutUnknown))
}

const chatTemplateOf = (
  contents: ReadonlyMap<string, Uint8Array>,
  config: typeof TokenizerConfig.Type,
  at: (file: string) => string
): Result.Result<{ readonly file: string; readonly template: Template } | undefined, TokenizerError> => {
  const bytes = contents.get("chat_template.jinja")
  const inline = config.chat_template
  const source =
    bytes !== undefined
      ? text(bytes)
      : typeof inline === "string"
        ? inline
        : inline?.find(({ name }) => name === "default")?.template
  if (source === undefined) return Result.succeed(undefined)
  const file = bytes === undefined ? "tokenizer_config.json" : "chat_template.jinja"
  return Result.try({
    try: () => ({ file, template: new Template(source) }),
    catch: (cause) =>
      new TokenizerError({ file: at(file), reason: `the chat template cannot be parsed: ${reasonOf(cause)}` })
  })
}
