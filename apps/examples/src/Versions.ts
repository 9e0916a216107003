/**
 * Versions that a report states.
 *
 * @since 0.1.0
 */
import { createRequire } from "node:module"

const require = createRequire(import.meta.url)
// The runtime is a dependency of the core, not of the programs.
const core = createRequire(import.meta.resolve("@attune/core/package.json"))
const versionOf = (file: string, from = require): string => (from(file) as { readonly version: string }).version

/**
 * Attune, Node, Effect and ONNX Runtime, as they run here.
 *
 * @category constants
 * @since 0.1.0
 */
export const versions: Readonly<Record<string, string>> = {
  attune: versionOf("../package.json"),
  node: process.versions.node,
  effect: versionOf("effect/package.json"),
  "onnxruntime-node": versionOf("onnxruntime-node/package.json", core)
}
