import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { afterAll, vi } from "vitest"
import * as Pretrained from "../../src/hub/Pretrained.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as TinyModel from "./TinyModel.ts"

/** Makes the file operation number `at` fail; after a crash every later one fails too, as if the process were gone. */
const fault = { at: Number.POSITIVE_INFINITY, count: 0, crash: false }

vi.mock("node:fs/promises", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs/promises")>()
  const guarded =
    <Args extends ReadonlyArray<unknown>, A>(operation: (...args: Args) => Promise<A>) =>
    async (...args: Args): Promise<A> => {
      const number = fault.count++
      if (fault.crash ? number >= fault.at : number === fault.at) {
        throw Object.assign(new Error("no space left"), { code: "ENOSPC" })
      }
      return operation(...args)
    }
  return {
    ...actual,
    mkdir: guarded(actual.mkdir),
    rename: guarded(actual.rename),
    rm: guarded(actual.rm),
    open: guarded(async (path: string, flags: string) => {
      const handle = await actual.open(path, flags)
      if (flags === "r") return handle
      return Object.assign(handle, {
        write: guarded(handle.write.bind(handle)),
        sync: guarded(handle.sync.bind(handle))
      })
    })
  }
})

const directory = fs.mkdtempSync(join(tmpdir(), "attune-pretrained-fault-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))
let serial = 0

const bytesOf = (weights: ReadonlyMap<string, Tensor.Tensor>): string =>
  [...weights].map(([name, tensor]) => `${name} ${Buffer.from(Tensor.toBytes(tensor)).toString("base64")}`).join()

const scaled = (model: Pretrained.PretrainedWeights, factor: number): Pretrained.PretrainedWeights => ({
  ...model,
  weights: new Map(
    [...model.weights].map(([name, { data, shape }]) => [
      name,
      Tensor.float32(
        data.map((x) => factor * x),
        shape
      )
    ])
  )
})

const base: Pretrained.PretrainedWeights = {
  name: "tiny",
  config: TinyModel.config,
  decoder: TinyModel.decoder(),
  weights: TinyModel.weights()
}
const next = scaled(base, 2)

/** Saves with a fault at every operation in turn, and hands what is left on the disk to `check`. */
const atEvery = (
  crash: boolean,
  before: Pretrained.PretrainedWeights | undefined,
  check: (left: Pretrained.PretrainedWeights | undefined, root: string, at: number) => void
) =>
  Effect.gen(function* () {
    for (let at = 0, failed = true; failed; at++) {
      const root = join(directory, `${serial++}`)
      const path = join(root, "model")
      if (before !== undefined) yield* Pretrained.save(before, path)
      Object.assign(fault, { at, count: 0, crash })
      const result = yield* Effect.result(Pretrained.save(next, path))
      failed = fault.count > at
      fault.at = Number.POSITIVE_INFINITY
      if (result._tag === "Failure") {
        assert.strictEqual(result.failure.reason, "Write")
        assert.match(result.failure.message, /the disk is full/)
      }
      check(fs.existsSync(path) ? yield* Pretrained.loadWeights(path) : undefined, root, at)
      if (!failed) assert.isAbove(at, 20, "operations that were tried")
    }
  })

describe("a fault at any file operation of save", () => {
  it.effect.each(["full disk", "crash"])("leaves the old model or the new one: %s", (kind) => {
    const unfinished: Array<number> = []
    return atEvery(kind === "crash", base, (left, root, at) => {
      assert.include([bytesOf(base.weights), bytesOf(next.weights)], bytesOf(left!.weights), `operation ${at}`)
      if (fs.readdirSync(root).length > 1) unfinished.push(at)
    }).pipe(
      // A process that goes on removes what it began, unless removing is what fails.
      Effect.tap(() => Effect.sync(() => kind === "crash" || assert.isAtMost(unfinished.length, 1, `${unfinished}`)))
    )
  })

  it.effect.each(["full disk", "crash"])("leaves no model or a whole one where there was none: %s", (kind) =>
    atEvery(kind === "crash", undefined, (left, _, at) => {
      if (left !== undefined) assert.strictEqual(bytesOf(left.weights), bytesOf(next.weights), `operation ${at}`)
    })
  )
})
