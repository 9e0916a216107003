import { execFileSync, spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { check, importsOf } from "../boundaries.ts"

/** A tree that keeps every rule; each test adds to it. */
const sound: Readonly<Record<string, string>> = {
  "packages/core/src/Tensor.ts": "export const x = 1\n",
  "packages/core/src/Loss.ts": 'import * as Graph from "./onnx/Graph.ts"\nexport const y = Graph\n',
  "packages/core/src/index.ts": 'export * as Tensor from "./Tensor.ts"\nexport * as Loss from "./Loss.ts"\n',
  "packages/core/src/onnx/Graph.ts": 'import type { x } from "../Tensor.ts"\nimport { p } from "./generated/onnx.js"\n',
  "packages/core/src/onnx/index.ts": 'export * as Graph from "./Graph.ts"\n',
  "packages/core/src/nn/Linear.ts": 'import * as Graph from "../onnx/Graph.ts"\n',
  "packages/core/src/hub/Pretrained.ts": 'import * as Linear from "../nn/Linear.ts"\nimport "../Tensor.ts"\n',
  "packages/core/src/ort/Device.ts": 'import * as Ort from "onnxruntime-node"\nimport "../hub/Pretrained.ts"\n',
  "packages/core/src/ort/index.ts": 'export * as Device from "./Device.ts"\n',
  "packages/core/test/onnx/Graph.test.ts":
    'import * as Ort from "onnxruntime-node"\nimport "../../src/ort/Device.ts"\n',
  "packages/rlhf/src/index.ts": 'import { Loss } from "@attune/core"\nimport { Graph } from "@attune/core/onnx"\n',
  "packages/ilf/src/index.ts": 'import { Loss } from "@attune/core"\n',
  "packages/eval/src/index.ts": 'import { Loss } from "@attune/core"\n',
  "apps/examples/src/main.ts":
    'import "@attune/rlhf"\nimport "@attune/eval"\nimport { Device } from "@attune/core/ort"\n'
}

const report = (added: Readonly<Record<string, string>>): ReadonlyArray<string> =>
  check(new Map(Object.entries({ ...sound, ...added }))).map(({ file, line, message }) => `${file}:${line} ${message}`)

describe("check", () => {
  it("accepts a tree that keeps the rules", () => {
    assert.deepStrictEqual(report({}), [])
  })

  it.each<readonly [string, string, string, string]>([
    [
      "a foreign import of the runtime",
      "packages/rlhf/src/Ppo.ts",
      '\nimport * as Ort from "onnxruntime-node"\n',
      ":2 imports onnxruntime-node"
    ],
    [
      "the runtime in the core's root",
      "packages/core/src/Kl.ts",
      'import type { T } from "onnxruntime-common"\n',
      ":1 imports onnxruntime-common"
    ],
    [
      "the core importing a method",
      "packages/core/src/Kl.ts",
      'import "@attune/rlhf"\n',
      ":1 imports @attune/rlhf; the core"
    ],
    [
      "a method importing another",
      "packages/rlhf/src/Ppo.ts",
      'export * from "@attune/ilf"\n',
      ":1 imports @attune/ilf; methods never import each other"
    ],
    [
      "a method importing evaluation",
      "packages/rlhf/src/Ppo.ts",
      'import {\n  a\n} from "@attune/eval"\n',
      ":3 imports @attune/eval"
    ],
    [
      "a method importing the runtime",
      "packages/rlhf/src/Ppo.ts",
      'import { Device } from "@attune/core/ort"\n',
      ":1 imports @attune/core/ort"
    ],
    [
      "evaluation importing the runtime",
      "packages/eval/src/Judge.ts",
      'const d = await import("@attune/core/ort")\n',
      ":1 imports @attune/core/ort"
    ],
    [
      "evaluation importing a method",
      "packages/eval/src/Judge.ts",
      'import "@attune/rlhf"\n',
      ":1 imports @attune/rlhf; evaluation"
    ],
    [
      "a package importing a program",
      "packages/eval/src/Judge.ts",
      'import "@attune/examples"\n',
      ":1 imports apps/examples"
    ],
    [
      "another package by path",
      "packages/eval/src/Judge.ts",
      'import "../../core/src/Tensor.ts"\n',
      ":1 reaches into packages/core by path"
    ],
    [
      "onnx importing the core's root",
      "packages/core/src/onnx/Op.ts",
      'import type { y } from "../Loss.ts"\n',
      ":1 imports Loss.ts; core/src/onnx"
    ],
    [
      "onnx importing nn",
      "packages/core/src/onnx/Op.ts",
      'import "../nn/Linear.ts"\n',
      ":1 imports nn/Linear.ts; core/src/onnx is below nn"
    ],
    [
      "onnx reading files",
      "packages/core/src/onnx/Op.ts",
      'import { readFileSync } from "node:fs"\n',
      ":1 imports node:fs"
    ],
    [
      "nn importing hub",
      "packages/core/src/nn/Gpt2.ts",
      'import "../hub/Pretrained.ts"\n',
      ":1 imports hub/Pretrained.ts; core/src/nn is below hub"
    ],
    [
      "nn importing a service",
      "packages/core/src/nn/Gpt2.ts",
      'import "../Loss.ts"\n',
      ":1 imports Loss.ts; core/src/nn"
    ],
    [
      "remote importing hub",
      "packages/core/src/remote/ChatEndpoint.ts",
      'import "../AtomicFile.ts"\nimport "../hub/Download.ts"\n',
      ":2 imports hub/Download.ts; core/src/remote is below hub"
    ],
    [
      "the core's root importing remote",
      "packages/core/src/Policy.ts",
      'import "./remote/ChatEndpoint.ts"\n',
      ":1 imports remote/ChatEndpoint.ts; core/src/root is below remote"
    ],
    [
      "statistics importing a judge",
      "packages/eval/src/statistics/Bootstrap.ts",
      'import "../Sample.ts"\nimport "../judging/Judge.ts"\n',
      ":2 imports judging/Judge.ts; eval/src/statistics is below judging"
    ],
    [
      "a report importing diagnostics",
      "packages/eval/src/report/HtmlReport.ts",
      'import "../diagnostics/AlignmentTax.ts"\n',
      ":1 imports diagnostics/AlignmentTax.ts; eval/src/report is below diagnostics"
    ],
    [
      "a folder of evaluation without a place",
      "packages/eval/src/other/Thing.ts",
      'import "../Sample.ts"\n',
      ":1 stands in eval/src/other"
    ],
    [
      "hub importing ort",
      "packages/core/src/hub/Config.ts",
      'import "../ort/Device.ts"\n',
      ":1 imports ort/Device.ts; core/src/hub is below ort"
    ],
    [
      "src importing test",
      "packages/core/src/Kl.ts",
      'import "../test/onnx/Graph.test.ts"\n',
      ":1 imports packages/core/test"
    ],
    [
      "the own package by name",
      "packages/core/src/Kl.ts",
      'import { Tensor } from "@attune/core"\n',
      ":1 imports its own package"
    ],
    [
      "the own index",
      "packages/core/src/Kl.ts",
      'import * as Onnx from "./onnx/index.ts"\n',
      ":1 imports ./onnx/index.ts; import the module file"
    ],
    ["a default export", "packages/core/src/Kl.ts", "\n\nexport default 1\n", ":3 has a default export"],
    [
      "a renamed default export",
      "packages/core/src/Kl.ts",
      "const a = 1\nexport { a as default }\n",
      ":2 has a default export"
    ],
    ["a file named utils", "packages/core/src/utils.ts", "", ':1 is named "utils"'],
    ["a file named for helpers", "packages/core/src/graphHelpers.ts", "", ':1 is named "helpers"'],
    ["a manager", "packages/core/src/DeviceManager.ts", "", ':1 is named "manager"'],
    ["a folder named types", "packages/core/src/types/Kl.ts", "", ':1 is named "types"']
  ])("reports %s", (_what, file, text, expected) => {
    const found = report({ [file]: text })
    assert.strictEqual(found.length, 1, found.join("\n"))
    assert.isTrue(found[0]!.startsWith(`${file}${expected}`), found[0])
  })

  it("reports a cycle of type imports once, with its way", () => {
    const found = report({
      "packages/eval/src/A.ts": 'import type { B } from "./B.ts"\n',
      "packages/eval/src/B.ts": 'import type { C } from "./C.ts"\n',
      "packages/eval/src/C.ts": '// back to the start\nimport type { A } from "./A.ts"\n'
    })
    const way = ["A", "B", "C", "A"].map((name) => `packages/eval/src/${name}.ts`).join(" -> ")
    assert.deepStrictEqual(found, [`packages/eval/src/C.ts:2 closes a cycle: ${way}`])
  })

  it("reports how the root entry reaches the runtime", () => {
    const found = report({
      "packages/core/src/index.ts": 'export * as Tensor from "./Tensor.ts"\nexport * as Policy from "./Policy.ts"\n',
      "packages/core/src/Policy.ts": 'export * as Device from "./ort/Device.ts"\n'
    })
    assert.include(
      found.join("\n"),
      "packages/core/src/index.ts:2 reaches the runtime: packages/core/src/index.ts -> packages/core/src/Policy.ts"
    )
    assert.include(found.join("\n"), "packages/core/src/Policy.ts:1 imports ort/Device.ts; core/src/root is below ort")
  })
})

describe("importsOf", () => {
  it("sees every form, on several lines too", () => {
    const text = [
      'import a from "a"',
      "import type {",
      "  B",
      '} from "b"',
      'import "c"',
      "export * from 'd'",
      'const e = await import("e")',
      'const worker = new URL("./Worker.ts", import.meta.url)'
    ].join("\n")
    assert.deepStrictEqual(
      importsOf(text).map(({ line, specifier }) => `${line} ${specifier}`),
      ["1 a", "4 b", "5 c", "6 d", "7 e", "8 ./Worker.ts"]
    )
  })

  it("leaves out comments, strings, templates and regular expressions", () => {
    const text = [
      '// import "a"',
      "/* import 'b'",
      ' * import "c" */',
      "const s = 'import \"d\"'",
      'const t = `import "e"`',
      "const r = /[\"'`/]/g",
      'const quotient = 4 / 2 // from "f"',
      'const url = new URL("./data.json", import.meta.url)',
      'import "g"'
    ].join("\n")
    assert.deepStrictEqual(importsOf(text), [{ specifier: "g", line: 9 }])
  })
})

describe("the command", () => {
  const script = fileURLToPath(new URL("../boundaries.ts", import.meta.url))

  const inFolder = <A>(files: Readonly<Record<string, string>>, use: (root: string) => A): A => {
    const root = mkdtempSync(join(tmpdir(), "boundaries-"))
    try {
      for (const [file, text] of Object.entries(files)) {
        mkdirSync(dirname(join(root, file)), { recursive: true })
        writeFileSync(join(root, file), text)
      }
      return use(root)
    } finally {
      rmSync(root, { recursive: true })
    }
  }

  it("prints file and line and exits 1", () => {
    const files = { ...sound, "packages/core/src/Kl.ts": '\nimport "./ort/Device.ts"\n' }
    const { status, stdout } = inFolder(files, (root) =>
      spawnSync(process.execPath, [script, root], { encoding: "utf8" })
    )
    assert.strictEqual(status, 1)
    assert.include(stdout, "packages/core/src/Kl.ts:2 imports ort/Device.ts")
  })

  it("exits 0 without violations and ignores generated code", () => {
    const files = { ...sound, "packages/core/src/onnx/generated/types.ts": "export default 1\n" }
    const stdout = inFolder(files, (root) => execFileSync(process.execPath, [script, root], { encoding: "utf8" }))
    assert.include(stdout, "0 violations")
  })
})
