/**
 * Checks who may import whom. Run as `pnpm boundaries`; prints one line per violation and exits 1 if there is any.
 *
 * The rules are those of `docs/architecture.md`: programs use methods and evaluation, which use the core; inside the core
 * `ort` is above `hub` and `nn`, which are above `onnx`, which knows only the tensor type; `remote` knows only the root.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { dirname, join, posix, relative, sep } from "node:path"
import { fileURLToPath } from "node:url"

/** A place in a source file that breaks a rule. Lines count from 1. */
export interface Violation {
  readonly file: string
  readonly line: number
  readonly message: string
}

/** An `import`, `export ... from` or `import()` with a literal specifier. */
export interface Import {
  readonly specifier: string
  readonly line: number
}

/** Path from the repository root, with `/`, to the text of the file. */
export type Tree = ReadonlyMap<string, string>

const methods = new Set(["rlhf", "ilf", "hir"])
const layers = new Set(["ort", "hub", "nn", "onnx", "remote"])
const roots = ["packages", "apps", "tools", "benchmarks"]
const skipped = new Set(["node_modules", "dist", "generated", "fixtures", ".doc-examples"])
const vagueNames = new Set(["utils", "util", "helpers", "helper", "manager", "managers", "types"])

/**
 * Blanks comments, and the inside of strings unless `keepStrings`, keeping every other character at its position.
 *
 * A slash starts a regular expression where no value can precede it; otherwise it divides.
 */
const blank = (text: string, keepStrings: boolean): string => {
  const out = text.split("")
  const hide = (from: number, to: number) => {
    for (let i = from; i < to; i++) if (out[i] !== "\n") out[i] = " "
  }
  const endOf = (start: number, quote: string): number => {
    let inClass = false
    for (let i = start + 1; i < text.length; i++) {
      if (text[i] === "\\") i++
      else if (quote === "/" && text[i] === "[") inClass = true
      else if (quote === "/" && text[i] === "]") inClass = false
      else if (text[i] === quote && !inClass) return i
      else if (text[i] === "\n" && quote !== "`") return i
    }
    return text.length
  }
  let i = 0
  while (i < text.length) {
    const two = text.slice(i, i + 2)
    const one = text[i]!
    if (two === "//" || two === "/*") {
      const close = two === "//" ? text.indexOf("\n", i) : text.indexOf("*/", i + 2)
      const end = close === -1 ? text.length : two === "//" ? close : close + 2
      hide(i, end)
      i = end
    } else if (one === '"' || one === "'" || one === "`") {
      const end = endOf(i, one)
      if (!keepStrings || one === "`") hide(i + 1, end)
      i = end + 1
    } else if (
      one === "/" &&
      /(^|[(,=:[!&|?{};<>+\-*%~^]|\breturn|\n)\s*$/.test(out.slice(Math.max(0, i - 20), i).join(""))
    ) {
      const end = endOf(i, "/")
      hide(i + 1, end)
      i = end + 1
    } else i++
  }
  return out.join("")
}

const lineAt = (text: string, index: number): number => text.slice(0, index).split("\n").length

/** Lists what a TypeScript file imports, types included, leaving out comments and strings. */
export const importsOf = (text: string): ReadonlyArray<Import> => {
  const code = blank(text, true)
  const outside = blank(text, false)
  const patterns = [
    /\b(?:import|export)\b[^"'`;()]*?\bfrom\s*(["'])/g,
    /\bimport\s*(["'])/g,
    /\bimport\s*\(\s*(["'])/g,
    /\bnew\s+URL\s*\(\s*(["'])(?=[^"']*["']\s*,\s*import\.meta\.url)/g
  ]
  return patterns
    .flatMap((pattern, kind) =>
      [...code.matchAll(pattern)].flatMap((match) => {
        // The keyword itself must be code, not part of a string.
        if (outside[match.index] !== code[match.index]) return []
        const start = match.index + match[0].length
        const specifier = code.slice(start, code.indexOf(match[1]!, start))
        // A worker's URL is an import when it names a source file; anything else there is data.
        if (kind === 3 && !/\.[mc]?[tj]s$/.test(specifier)) return []
        return [{ specifier, line: lineAt(text, start) }]
      })
    )
    .sort((a, b) => a.line - b.line)
}

interface Place {
  /** `core`, `rlhf`, ..., `examples`, `tools`, `benchmarks`. */
  readonly owner: string
  readonly role: "core" | "method" | "eval" | "program" | "tool"
  /** Folder of the workspace package. */
  readonly base: string
  /** Path below `src`, or `null` outside `src`. */
  readonly source: string | null
  /** Layer of the core: `ort`, `hub`, `nn`, `onnx`, `remote`, or `root`. */
  readonly layer: string
  /** Folder below `src`, `root` for `src` itself. */
  readonly folder: string
}

const placeOf = (file: string): Place => {
  const [top = "", second = ""] = file.split("/")
  const base = top === "packages" || top === "apps" ? `${top}/${second}` : top
  const owner = top === "packages" || top === "apps" ? second : top
  const source = file.startsWith(`${base}/src/`) ? file.slice(base.length + 5) : null
  const role =
    top === "apps"
      ? "program"
      : top !== "packages"
        ? "tool"
        : owner === "core"
          ? "core"
          : methods.has(owner)
            ? "method"
            : "eval"
  const folder = source?.includes("/") ? source.split("/")[0]! : "root"
  return { owner, role, base, source, layer: layers.has(folder) ? folder : "root", folder }
}

/** File that a specifier names, `null` for a foreign package. */
const resolve = (tree: Tree, from: string, specifier: string): string | null => {
  if (specifier.startsWith(".")) return posix.join(posix.dirname(from), specifier)
  const match = /^@attune\/([^/]+)(?:\/(.+))?$/.exec(specifier)
  if (match === null) return null
  const [, name, entry] = match
  const base = [`packages/${name}`, `apps/${name}`, `${name}`].find((dir) =>
    [...tree.keys()].some((file) => file.startsWith(`${dir}/`))
  )
  return posix.join(base ?? `packages/${name}`, "src", entry ?? "", "index.ts")
}

/** Layers of the core that each layer may import. */
const below: Readonly<Record<string, ReadonlyArray<string>>> = {
  ort: ["ort", "hub", "nn", "onnx", "root"],
  root: ["root", "hub", "nn", "onnx"],
  hub: ["hub", "nn", "onnx", "root"],
  remote: ["remote", "root"],
  nn: ["nn", "onnx"],
  onnx: ["onnx"]
}

/** Folders of the evaluation package, each above those before it; reports show what the root's modules hold. */
const evaluation = ["root", "statistics", "text", "judging", "benchmarks", "diagnostics"]
const belowInEvaluation: Readonly<Record<string, ReadonlyArray<string>>> = {
  ...Object.fromEntries(evaluation.map((folder, i) => [folder, evaluation.slice(0, i + 1)])),
  report: ["root", "report"]
}

/** Why `from` may not import `specifier`, which is `to` when it is ours, or `null` when it may. */
const forbidden = (from: string, specifier: string, to: string | null): string | null => {
  const a = placeOf(from)
  const inSource = a.source !== null
  if (to === null) {
    if (/^onnxruntime-/.test(specifier) && !(a.role === "core" && (!inSource || a.layer === "ort"))) {
      return `imports ${specifier}; only packages/core/src/ort may`
    }
    // Model streams external data, which may be larger than memory; everything else there works on values.
    const pure = a.role === "core" && a.layer === "onnx" && inSource && a.source !== "onnx/Model.ts"
    if (pure && specifier.startsWith("node:")) {
      return `imports ${specifier}; only core/src/onnx/Model.ts touches files`
    }
    return null
  }
  const b = placeOf(to)
  if (a.base !== b.base) {
    if (specifier.startsWith(".")) return `reaches into ${b.base} by path; import @attune/${b.owner} instead`
    if (b.role === "tool" || b.role === "program") return `imports ${b.base}; nothing imports programs and tools`
    if (!inSource) return null
    if (a.role === "core") return `imports @attune/${b.owner}; the core imports no other package of ours`
    if (a.role === "method" && b.role === "method") return `imports @attune/${b.owner}; methods never import each other`
    if (a.role === "method" && b.role === "eval") return "imports @attune/eval; methods never import evaluation"
    if (a.role === "eval" && b.role === "method") return `imports @attune/${b.owner}; evaluation knows no method`
    if ((a.role === "method" || a.role === "eval") && b.layer === "ort") {
      return "imports @attune/core/ort; which runtime is used is decided by the program"
    }
    return null
  }
  if (!inSource) return null
  if (b.source === null) return `imports ${to}; src imports nothing outside src`
  if (specifier.startsWith("@attune/")) return `imports its own package as ${specifier}; import the module file`
  if (/(^|\/)index\.ts$/.test(to) && !/(^|\/)index\.ts$/.test(from))
    return `imports ${specifier}; import the module file`
  if (a.role === "eval" && !/(^|\/)index\.ts$/.test(from)) {
    const allowed = belowInEvaluation[a.folder]
    if (allowed === undefined) return `stands in eval/src/${a.folder}, which has no place in the order of its folders`
    return allowed.includes(b.folder) ? null : `imports ${b.source}; eval/src/${a.folder} is below ${b.folder}`
  }
  if (a.role !== "core") return null
  if ((a.layer === "onnx" || a.layer === "nn") && b.layer === "root") {
    return b.source === "Tensor.ts"
      ? null
      : `imports ${b.source}; core/src/${a.layer} imports only Tensor.ts from above`
  }
  return below[a.layer]!.includes(b.layer) ? null : `imports ${b.source}; core/src/${a.layer} is below ${b.layer}`
}

interface Edge {
  readonly to: string
  readonly line: number
}

/** One violation per cycle, at the import that closes it. */
const cycles = (edges: ReadonlyMap<string, ReadonlyArray<Edge>>): ReadonlyArray<Violation> => {
  const found: Array<Violation> = []
  const done = new Set<string>()
  const visit = (file: string, path: ReadonlyArray<string>): void => {
    if (done.has(file)) return
    const here = [...path, file]
    for (const { line, to } of edges.get(file) ?? []) {
      const start = here.indexOf(to)
      if (start === -1) visit(to, here)
      else found.push({ file, line, message: `closes a cycle: ${[...here.slice(start), to].join(" -> ")}` })
    }
    done.add(file)
  }
  for (const file of edges.keys()) visit(file, [])
  return found
}

/** How the core's root entry reaches the runtime, at the first import of the way, if it does. */
const nativeRoute = (edges: ReadonlyMap<string, ReadonlyArray<Edge>>): ReadonlyArray<Violation> => {
  const start = "packages/core/src/index.ts"
  const seen = new Set([start])
  const queue = (edges.get(start) ?? []).map((edge) => ({ ...edge, first: edge.line, path: [start, edge.to] }))
  for (const step of queue) {
    if (step.to.startsWith("packages/core/src/ort/")) {
      return [{ file: start, line: step.first, message: `reaches the runtime: ${step.path.join(" -> ")}` }]
    }
    if (seen.has(step.to)) continue
    seen.add(step.to)
    for (const edge of edges.get(step.to) ?? [])
      queue.push({ ...edge, first: step.first, path: [...step.path, edge.to] })
  }
  return []
}

const wordsOf = (name: string): ReadonlyArray<string> =>
  name
    .replace(/([a-z0-9])([A-Z])/g, "$1-$2")
    .toLowerCase()
    .split(/[^a-z0-9]+/)

/** Every rule that `tree` breaks, in the order of its files. */
export const check = (tree: Tree): ReadonlyArray<Violation> => {
  const violations: Array<Violation> = []
  const edges = new Map<string, ReadonlyArray<Edge>>()
  for (const [file, text] of tree) {
    const vague = file
      .split("/")
      .flatMap((part) => wordsOf(part.replace(/\..*$/, "")))
      .find((word) => vagueNames.has(word))
    if (vague !== undefined) violations.push({ file, line: 1, message: `is named "${vague}"; name the noun it holds` })
    const code = blank(text, false)
    for (const match of code.matchAll(/\bexport\s+default\b|\bexport\s*\{[^}]*\bas\s+default\b/g)) {
      violations.push({ file, line: lineAt(code, match.index), message: "has a default export; export a name" })
    }
    const own: Array<Edge> = []
    for (const { line, specifier } of importsOf(text)) {
      const to = resolve(tree, file, specifier)
      const message = forbidden(file, specifier, to)
      if (message !== null) violations.push({ file, line, message })
      if (to !== null && tree.has(to)) own.push({ to, line })
    }
    edges.set(file, own)
  }
  const order = [...tree.keys()]
  return [...violations, ...cycles(edges), ...nativeRoute(edges)].sort(
    (a, b) => order.indexOf(a.file) - order.indexOf(b.file) || a.line - b.line
  )
}

/** Reads the TypeScript files of the workspace below `root`; generated code and build output are left out. */
export const readTree = (root: string): Tree => {
  const tree = new Map<string, string>()
  const walk = (dir: string): void => {
    for (const entry of readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (skipped.has(entry.name)) continue
      const path = join(dir, entry.name)
      if (entry.isDirectory()) walk(path)
      else if (/\.m?ts$/.test(entry.name))
        tree.set(relative(root, path).split(sep).join("/"), readFileSync(path, "utf8"))
    }
  }
  for (const name of roots) if (existsSync(join(root, name))) walk(join(root, name))
  return tree
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = process.argv[2] ?? dirname(dirname(fileURLToPath(import.meta.url)))
  const tree = readTree(root)
  const violations = check(tree)
  for (const { file, line, message } of violations) process.stdout.write(`${file}:${line} ${message}\n`)
  process.stdout.write(`boundaries: ${tree.size} files, ${violations.length} violations\n`)
  if (violations.length > 0) process.exitCode = 1
}
