/**
 * Trains the byte-level BPE tokenizer of the help desk and writes it in the Hugging Face layout:
 *
 *     node --conditions=@attune/source apps/examples/src/desk/TrainTokenizer.ts [DIRECTORY]
 *
 * The binding's trainer takes no options, so its result is cut to size: special tokens, the 256 byte letters, then the
 * pieces of the first merges. Every text round-trips, because every byte has a letter.
 *
 * @since 0.1.0
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { argv } from "node:process"
import { BPE, byteLevelAlphabet, byteLevelPreTokenizer, Tokenizer } from "tokenizers"
import * as Corpus from "./Corpus.ts"
import * as Format from "./Format.ts"

/**
 * Size of the vocabulary, special tokens included.
 *
 * @category constants
 * @since 0.1.0
 */
export const vocabularySize = 1024

/**
 * Special tokens, by id from 0. Padding, beginning and end are three tokens; documents have no beginning token.
 *
 * @category constants
 * @since 0.1.0
 */
export const specialTokens = ["<pad>", "<bos>", Format.endOfText] as const

// The rows that the committed tokenizer was trained on.
const corpus = { seed: 1, n: 20_000 }

interface Trained {
  readonly model: { readonly merges: ReadonlyArray<readonly [string, string]> }
}

/**
 * Trains on texts and gives the content of `tokenizer.json`.
 *
 * @category running
 * @since 0.1.0
 */
export const train = (texts: Iterable<string>, size: number): object => {
  const directory = mkdtempSync(join(tmpdir(), "desk-tokenizer-"))
  try {
    const file = join(directory, "corpus.txt")
    writeFileSync(file, [...texts].join("\n"))
    const tokenizer = new Tokenizer(BPE.empty())
    tokenizer.setPreTokenizer(byteLevelPreTokenizer(false))
    tokenizer.train([file])
    const saved = join(directory, "trained.json")
    tokenizer.save(saved)
    return cut(JSON.parse(readFileSync(saved, "utf8")) as Trained, size)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

const cut = (trained: Trained, size: number): object => {
  const pieces = [...specialTokens, ...[...byteLevelAlphabet()].sort()]
  const known = new Set(pieces)
  const merges: Array<readonly [string, string]> = []
  for (const [left, right] of trained.model.merges) {
    if (pieces.length === size) break
    merges.push([left, right])
    // Two merges may give one piece; the second needs no new id.
    if (!known.has(left + right)) pieces.push(left + right)
    known.add(left + right)
  }
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges
    }
  }
}

const texts = function* () {
  for (const row of Corpus.rows(corpus)) yield `${row.prompt}${row.completion}`
}

/**
 * Trains on the mixture and gives the contents of the tokenizer's files by name.
 *
 * @category running
 * @since 0.1.0
 */
export const files = (): Readonly<Record<string, object>> => {
  const [pad_token, bos_token, eos_token] = specialTokens
  return {
    "tokenizer.json": train(texts(), vocabularySize),
    "tokenizer_config.json": {
      tokenizer_class: "PreTrainedTokenizerFast",
      model_max_length: 256,
      add_bos_token: false,
      add_eos_token: false,
      clean_up_tokenization_spaces: false,
      pad_token,
      bos_token,
      eos_token
    },
    "special_tokens_map.json": { pad_token, bos_token, eos_token }
  }
}

const write = (directory: string): void => {
  mkdirSync(directory, { recursive: true })
  for (const [name, content] of Object.entries(files())) {
    writeFileSync(join(directory, name), `${JSON.stringify(content, null, 1)}\n`)
  }
}

if (argv[1] === import.meta.filename) write(argv[2] ?? join(import.meta.dirname, "../../models/desk-base"))
