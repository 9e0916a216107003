/**
 * Versions that a report states.
 *
 * @since 0.1.0
 */
import { createRequire } from "node:module"

const require = createRequire(import.meta.url)
const versionOf = (file: string): string => (require(file) as { readonly version: string }).version

/**
 * Attune, Node and Effect, as they run here.
 *
 * @category constants
 * @since 0.1.0
 */
export const versions: Readonly<Record<string, string>> = {
  attune: versionOf("../package.json"),
  node: process.versions.node,
  effect: versionOf("effect/package.json")
}
