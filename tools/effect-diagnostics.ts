/**
 * Runs the Effect checker (floating effects, missing requirements, ...) over every project. Exits 1 on the first kind of
 * finding that `tsc` cannot see: any error or warning.
 */
import { spawnSync } from "node:child_process"
import { existsSync, readdirSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const checker = join(root, "node_modules", ".bin", "effect-tsgo")

const projects = ["packages", "apps"]
  .flatMap((group) => readdirSync(join(root, group)).map((name) => `${group}/${name}/tsconfig.src.json`))
  .concat("tools/tsconfig.json", "benchmarks/tsconfig.json")
  .filter((project) => existsSync(join(root, project)))

let failed = 0
for (const project of projects) {
  const { status, stderr, stdout } = spawnSync(
    checker,
    ["diagnostics", "--project", project, "--format", "text", "--severity", "error,warning", "--strict"],
    { cwd: root, encoding: "utf8", shell: process.platform === "win32" }
  )
  process.stdout.write(`${project}: ${stdout.trim().split("\n").at(-1)}\n`)
  if (status === 0) continue
  failed++
  process.stdout.write(`${stdout}${stderr}`)
}
process.stdout.write(`effect diagnostics: ${projects.length} projects, ${failed} with findings\n`)
if (failed > 0) process.exitCode = 1
