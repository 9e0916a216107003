/**
 * Turns the examples of the documentation into tests, so that they compile and stay true.
 *
 * Read are the `ts` fences of doc comments in the `src` of packages and programs, and the fences marked `ts check` of the
 * README files and `docs/`. In them `expression // => value` is an assertion of deep equality; it stands on one line. A
 * program's module has no public name, so its examples find it imported under the name of its file.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { basename, dirname, join, relative, sep } from "node:path"
import { fileURLToPath } from "node:url"

/** A fence and where its first line is, counted from 1. */
export interface Example {
  readonly line: number
  readonly code: string
}

const numbered = (text: string, fence: RegExp, strip: (code: string) => string): ReadonlyArray<Example> =>
  [...text.matchAll(fence)].map((match) => ({
    line: text.slice(0, match.index).split("\n").length + 1,
    code: strip(match[1]!)
  }))

/** Examples of the doc comments of a TypeScript file. */
export const inSource = (text: string): ReadonlyArray<Example> =>
  numbered(text, /^ *\* ```ts\r?\n([\s\S]*?)^ *\* ```$/gm, (code) => code.replace(/^ *\* ?/gm, ""))

/** Examples of a Markdown file that ask to be checked. */
export const inMarkdown = (text: string): ReadonlyArray<Example> =>
  numbered(text, /^```ts check\r?\n([\s\S]*?)^```$/gm, (code) => code)

const assertion = /^(\s*)(?:(const|let) (\w+) = )?(.*\S)\s+\/\/ => (.*\S)\s*$/gm

/** A test file that runs one example. Imports may span lines; they end with a line that holds a string. */
export const toTest = (name: string, { code, line }: Example): string => {
  const imports: Array<string> = []
  const body = code.replace(/^import\b\s*(?:[^"']*?\bfrom\s*)?["'][^"']+["'];?$\n?/gm, (statement) => {
    imports.push(statement.trimEnd())
    return ""
  })
  const checked = body.replace(assertion, (_all, indent, keyword, variable, expression, expected) =>
    keyword === undefined
      ? `${indent}__assert.deepStrictEqual(${expression}, ${expected})`
      : `${indent}${keyword} ${variable} = ${expression}; __assert.deepStrictEqual(${variable}, ${expected})`
  )
  return [
    'import { assert as __assert, it as __it } from "@effect/vitest"',
    ...imports,
    `__it(${JSON.stringify(`${name}:${line}`)}, async () => {`,
    `${checked.trimEnd()}\n})\n`
  ].join("\n")
}

const files = (dir: string, ending: string): ReadonlyArray<string> =>
  existsSync(dir)
    ? readdirSync(dir, { recursive: true, encoding: "utf8" })
        .filter((file) => file.endsWith(ending) && !/(^|[\\/])(node_modules|dist|generated)[\\/]/.test(file))
        .sort()
        .map((file) => join(dir, file))
    : []

const foldersIn = (root: string, name: string): ReadonlyArray<string> =>
  existsSync(join(root, name)) ? readdirSync(join(root, name)).sort() : []

/** Writes one test file per example found below `root` into `target`, which is emptied first; returns their number. */
export const writeTests = (root: string, target: string): number => {
  const packages = foldersIn(root, "packages")
  const programs = foldersIn(root, "apps").flatMap((name) => files(join(root, "apps", name, "src"), ".ts"))
  const sources = [...packages.flatMap((name) => files(join(root, "packages", name, "src"), ".ts")), ...programs]
  const readmes = ["README.md", ...packages.map((name) => `packages/${name}/README.md`), "apps/examples/README.md"]
  const pages = [...readmes.map((file) => join(root, file)).filter(existsSync), ...files(join(root, "docs"), ".md")]

  rmSync(target, { recursive: true, force: true })
  mkdirSync(target, { recursive: true })
  let count = 0
  for (const path of [...sources, ...pages]) {
    const name = relative(root, path).split(sep).join("/")
    const text = readFileSync(path, "utf8")
    const module = relative(target, path).split(sep).join("/")
    const given = programs.includes(path) ? `import * as ${basename(path, ".ts")} from "${module}"\n` : ""
    for (const { code, line } of name.endsWith(".md") ? inMarkdown(text) : inSource(text)) {
      const test = toTest(name, { line, code: given + code })
      writeFileSync(join(target, `${name.replaceAll("/", ".")}.${line}.test.ts`), test)
      count++
    }
  }
  return count
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const here = dirname(fileURLToPath(import.meta.url))
  const count = writeTests(dirname(here), join(here, ".doc-examples"))
  process.stdout.write(`doc-examples: ${count} examples\n`)
}
