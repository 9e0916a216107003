/**
 * Prints what this machine can run: Node, pnpm, ONNX Runtime, and for each provider whether a session really runs on it.
 *
 * Run as `pnpm run doctor` (`pnpm doctor` is pnpm's own command); `--json` prints one JSON object. Exits 1 when Node is
 * too old or the CPU provider does not run, the two things that nothing works without.
 */
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { availableParallelism, cpus, freemem, totalmem } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { Device } from "@attune/core/ort"
import { Effect } from "effect"

const oldestNode = [22, 19] as const

const advice: Readonly<Record<string, string>> = {
  cpu: "reinstall with `npx -y pnpm@12.21.0 install`",
  webgpu: "needs a Vulkan driver on Linux, a current graphics driver elsewhere",
  cuda: "`pnpm setup:cuda` brings the libraries (linux/x64; NVIDIA driver, CUDA 12 and cuDNN 9 are needed too)"
}

const versionOf = (manifest: string): string => JSON.parse(readFileSync(manifest, "utf8")).version

const report = Effect.gen(function* () {
  const root = dirname(dirname(fileURLToPath(import.meta.url)))
  const inCore = createRequire(join(root, "packages/core/package.json"))
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number)
  return {
    node: {
      version: process.versions.node,
      binary: process.execPath,
      supported: major > oldestNode[0] || (major === oldestNode[0] && minor >= oldestNode[1])
    },
    pnpm: /\bpnpm\/(\S+)/.exec(process.env.npm_config_user_agent ?? "")?.[1] ?? null,
    onnxruntime: versionOf(inCore.resolve("onnxruntime-node/package.json")),
    providers: yield* Device.probe,
    platform: `${process.platform}/${process.arch}`,
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memory: { total: totalmem(), free: freemem() }
  }
})

type Report = Effect.Success<typeof report>

const lines = (found: Report): ReadonlyArray<string> => {
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`
  const node = found.node.supported ? "" : `  too old: Attune needs ${oldestNode.join(".")} or newer`
  return [
    `node         ${found.node.version}  ${found.node.binary}${node}`,
    `pnpm         ${found.pnpm ?? "not started by pnpm"}`,
    `onnxruntime  ${found.onnxruntime}`,
    ...found.providers.map(
      ({ available, provider, reason }) =>
        `${provider.padEnd(12)} ${available ? "ok" : "no"}: ${reason}${available ? "" : `; ${advice[provider]}`}`
    ),
    `machine      ${found.platform}, ${found.cores} cores (${found.cpu}), ${gib(found.memory.total)} memory, ${gib(found.memory.free)} free`
  ]
}

const [flag, ...rest] = process.argv.slice(2)
if (rest.length > 0 || (flag !== undefined && flag !== "--json")) {
  process.stderr.write(`doctor: unknown argument ${[flag, ...rest].join(" ")}; the only option is --json\n`)
  process.exitCode = 1
} else {
  const found = await Effect.runPromise(report)
  process.stdout.write(flag === "--json" ? `${JSON.stringify(found)}\n` : `${lines(found).join("\n")}\n`)
  const works =
    found.node.supported && found.providers.some(({ available, provider }) => provider === "cpu" && available)
  if (!works) process.exitCode = 1
}
