/**
 * Brings ONNX Runtime's CUDA libraries, which are too large for the npm registry. Run as `pnpm setup:cuda`.
 *
 * They are downloaded from NuGet by ONNX Runtime's own script, or copied from the folder that `ORT_CUDA_DIR` names. A
 * reinstall of `node_modules` drops them; run this again then. NVIDIA's driver, CUDA 12 and cuDNN 9 are the machine's.
 */
import { spawnSync } from "node:child_process"
import { copyFileSync, existsSync, readFileSync, renameSync, rmSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { Schema } from "effect"

/** The files that make the CUDA provider loadable. */
export const libraries = [
  "libonnxruntime_providers_cuda.so",
  "libonnxruntime_providers_shared.so",
  "libonnxruntime_providers_tensorrt.so"
] as const

/** Reports that ONNX Runtime has no CUDA libraries for this platform. */
export class UnsupportedPlatform extends Schema.TaggedError<UnsupportedPlatform>()("UnsupportedPlatform", {
  platform: Schema.String
}) {
  override get message(): string {
    return `onnxruntime-node offers CUDA on linux/x64 only, this is ${this.platform}; the cpu and webgpu providers need no set-up`
  }
}

/** Reports a folder in `ORT_CUDA_DIR` that lacks libraries. Nothing was copied. */
export class MissingLibraries extends Schema.TaggedError<MissingLibraries>()("MissingLibraries", {
  folder: Schema.String,
  missing: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `ORT_CUDA_DIR is ${this.folder}, which lacks ${this.missing.join(", ")}; point it at the folder that holds all of ${libraries.join(", ")}`
  }
}

/** Reports that a library could not be written beside ONNX Runtime. */
export class CopyFailed extends Schema.TaggedError<CopyFailed>()("CopyFailed", {
  file: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    const reason = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `could not write ${this.file}: ${reason}; check free space and permissions, then run this again`
  }
}

/** Reports that ONNX Runtime's own download script failed; its output is above the message. */
export class DownloadFailed extends Schema.TaggedError<DownloadFailed>()("DownloadFailed", {
  status: Schema.NullOr(Schema.Int),
  version: Schema.String
}) {
  override get message(): string {
    return (
      `the download from NuGet failed (exit status ${this.status}); behind a proxy set GLOBAL_AGENT_HTTPS_PROXY, or take ` +
      `${libraries.join(", ")} from the package Microsoft.ML.OnnxRuntime.Gpu.Linux ${this.version} ` +
      "(folder runtimes/linux-x64/native) and run again with ORT_CUDA_DIR set to the folder that holds them"
    )
  }
}

/** Copies the libraries from one folder to another; throws `MissingLibraries` or `CopyFailed`, leaving no partial file. */
export const copyLibraries = (from: string, to: string): void => {
  const missing = libraries.filter((name) => !existsSync(join(from, name)))
  if (missing.length > 0) throw new MissingLibraries({ folder: from, missing })
  for (const name of libraries) {
    const partial = join(to, `${name}.partial`)
    try {
      copyFileSync(join(from, name), partial)
      renameSync(partial, join(to, name))
    } catch (cause) {
      rmSync(partial, { force: true })
      throw new CopyFailed({ file: join(to, name), cause })
    }
  }
}

const run = (): string => {
  const platform = `${process.platform}/${process.arch}`
  if (platform !== "linux/x64") throw new UnsupportedPlatform({ platform })
  const here = dirname(fileURLToPath(import.meta.url))
  const manifest = createRequire(join(here, "../packages/core/package.json")).resolve("onnxruntime-node/package.json")
  const folder = join(dirname(manifest), "bin/napi-v6/linux/x64")
  const from = process.env.ORT_CUDA_DIR
  if (from !== undefined && from !== "") {
    copyLibraries(from, folder)
    return `copied ${libraries.length} libraries from ${from}`
  }
  const { status } = spawnSync(process.execPath, [join(dirname(manifest), "script/install.js")], {
    stdio: "inherit",
    // Under npx the script takes itself for an install of ONNX Runtime's own sources and ends, unless it is forced: version
    // 1.30 understands "true" (everything that belongs to the platform, which is CUDA 12) and loses the value "cuda12".
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: "true" }
  })
  if (status !== 0 || libraries.some((name) => !existsSync(join(folder, name)))) {
    const { version } = JSON.parse(readFileSync(manifest, "utf8")) as { readonly version: string }
    throw new DownloadFailed({ status, version })
  }
  return "downloaded the CUDA libraries"
}

const usage = "usage: setup:cuda, without options; ORT_CUDA_DIR=FOLDER copies the libraries from there, no download"

const main = ([option]: ReadonlyArray<string>): string => {
  if (option === "--help") return usage
  if (option !== undefined) throw new Error(`unknown option ${option}\n${usage}`)
  return `setup:cuda: ${run()}; \`pnpm run doctor\` says whether they load`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    process.stdout.write(`${main(process.argv.slice(2))}\n`)
  } catch (error) {
    process.stderr.write(`setup:cuda: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}\n`)
    process.exitCode = 1
  }
}
