/** Files of the folder beside the checkout, for tests against real models and what PyTorch made of them. */
import { existsSync } from "node:fs"
import { join } from "node:path"

const folder = join(import.meta.dirname, "../../../../../shared")

export const pathOf = (name: string): string => join(folder, name)

/** Path of a file, or undefined where this checkout has none. */
export const find = (name: string): string | undefined => (existsSync(pathOf(name)) ? pathOf(name) : undefined)

/** Whether a file is there; says so where a test is skipped because it is not. */
export const readable = (name: string): boolean => {
  const there = find(name) !== undefined
  if (!there) process.stderr.write(`skipped: ../shared/${name} is absent\n`)
  return there
}
