/**
 * What the LM evaluation harness made of the real data with the real model; `tools/golden/evaluation.py` wrote it.
 */
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as TinyStories from "../tinystories.ts"

interface Golden {
  readonly sha256: Readonly<Record<string, string>>
  readonly hellaswag: {
    readonly logprobs: ReadonlyArray<ReadonlyArray<number>>
    readonly acc: number
    readonly acc_norm: number
  }
  readonly truthfulqa: {
    readonly prompt: string
    readonly logprobs: ReadonlyArray<ReadonlyArray<number>>
    readonly mc1: number
    readonly mc2: number
  }
  readonly perplexity: {
    readonly documents: ReadonlyArray<{
      readonly stories: readonly [first: number, end: number]
      readonly logprob: number
      readonly given: number
      readonly tokens: number
      readonly words: number
      readonly bytes: number
    }>
    readonly word_perplexity: number
    readonly byte_perplexity: number
    readonly bits_per_byte: number
  }
}

export const golden: Golden = JSON.parse(readFileSync(join(import.meta.dirname, "evaluation.golden.json"), "utf8"))

export const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex")

/** Whether the model and the file are there, and are those that the golden values were made from. */
export const same = (file: string): boolean => {
  const files = [`${TinyStories.model}/model.safetensors`, file]
  if (!TinyStories.present(TinyStories.model, file)) return false
  const other = files.find((name) => sha256(readFileSync(TinyStories.path(name))) !== golden.sha256[name])
  if (other !== undefined)
    process.stderr.write(`skipped: ../shared/data/${other} is another one than in the golden file\n`)
  return other === undefined
}

/** The largest difference between two tables of numbers of one shape. */
export const distance = (a: ReadonlyArray<ArrayLike<number>>, b: ReadonlyArray<ArrayLike<number>>): number => {
  let most = a.length === b.length ? 0 : Number.NaN
  for (const [i, row] of a.entries()) {
    if (row.length !== b[i]!.length) return Number.NaN
    for (let j = 0; j < row.length; j++) most = Math.max(most, Math.abs(row[j]! - b[i]![j]!))
  }
  return most
}
