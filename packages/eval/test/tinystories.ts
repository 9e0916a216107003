/**
 * The real data beside the repository, and a policy on the real model there, for tests that skip where it is absent.
 */
import { existsSync } from "node:fs"
import { join, resolve } from "node:path"
import { Progress } from "@attune/core"
import { Pretrained } from "@attune/core/hub"
import { Device, OrtPolicy } from "@attune/core/ort"
import { NodeServices } from "@effect/platform-node"
import { Effect, Layer } from "effect"

const data = resolve(import.meta.dirname, "../../../../shared/data")

/** Whether all of the paths are there; says which is not. */
export const present = (...paths: ReadonlyArray<string>): boolean => {
  const missing = paths.find((path) => !existsSync(join(data, path)))
  if (missing !== undefined) process.stderr.write(`skipped: ../shared/data/${missing} is absent\n`)
  return missing === undefined
}

export const path = (name: string): string => join(data, name)

export const model = "tinystories-656K"

/** A policy on the real model, as long as the scope is open. */
export const policy = Effect.flatMap(Pretrained.load(path(model)), OrtPolicy.make).pipe(Effect.orDie)

export const layer = Layer.mergeAll(
  Device.layerInProcess({ provider: "cpu", threads: 1 }),
  NodeServices.layer,
  Progress.layer({ mode: "quiet" })
)
