import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { NextToken } from "@attune/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"

const script = fileURLToPath(new URL("./resume-child.ts", import.meta.url))

/** Runs the child to its end, or kills it with SIGKILL after some time. Says whether it ended by itself. */
const live = (directory: string, calls: string, millis?: number): Promise<boolean> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--conditions=@attune/source", script, directory, calls], {
      stdio: ["ignore", "ignore", "pipe"]
    })
    const errors: Array<string> = []
    child.stderr.on("data", (data) => errors.push(String(data)))
    const timer = millis === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), millis)
    child.on("error", reject)
    child.on("exit", (code, signal) => {
      clearTimeout(timer)
      if (signal === "SIGKILL") resolve(false)
      else if (code === 0) resolve(true)
      else reject(new Error(`the run ended with ${code ?? signal}: ${errors.join("")}`))
    })
  })

interface Entry {
  readonly kind: string
  readonly round: number
  readonly item: number
}

// The last line may be torn.
const journal = (directory: string): ReadonlyArray<Entry> => {
  const file = join(directory, "feedback.jsonl")
  const lines = existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : []
  return lines.map((line) => JSON.parse(line) as Entry)
}

// What the child was asked about, as it stands in the calls.
const question = ({ item, kind, round }: Entry): string =>
  `${kind} ${(round === 0 ? 1 : 6) + (item % 5)} ${1 + (Math.floor(item / 5) % 4)} ${1 + Math.floor(item / 20)}`

const asked = (calls: string): ReadonlyArray<string> =>
  existsSync(calls) ? readFileSync(calls, "utf8").trimEnd().split("\n") : []

// Ten is what the project promises; CI kills fewer times, since each life costs a second of start-up.
const kills = Number(process.env["ATTUNE_TEST_KILLS"] ?? 4)

describe("a run that is killed", () => {
  it.live(
    `asks nobody again what is in its journal, loses nothing and ends with the same bits, after ${kills} kills`,
    () =>
      Effect.gen(function* () {
        const root = mkdtempSync(join(tmpdir(), "attune-ilf-kill-"))
        const started = performance.now()
        assert.isTrue(yield* Effect.promise(() => live(join(root, "whole"), join(root, "calls"))))
        const duration = performance.now() - started
        const weights = readFileSync(join(root, "whole", "weights.json"), "utf8")
        const whole = readFileSync(join(root, "whole", "feedback.jsonl"), "utf8")
        assert.lengthOf(journal(join(root, "whole")), 2 * 80 * 4)

        const uniform = NextToken.uniforms(20261123)
        let killed = 0
        let inside = 0
        for (let chain = 0; killed < kills; chain++) {
          const directory = join(root, `chain-${chain}`)
          for (let life = 0, ended = false; !ended; life++) {
            const before = journal(directory).map(question)
            const calls = join(root, `calls-${chain}-${life}`)
            const millis = killed < kills ? uniform() * duration : undefined
            ended = yield* Effect.promise(() => live(directory, calls, millis))
            const again = new Set(asked(calls))
            assert.deepStrictEqual(
              before.filter((known) => again.has(known)),
              [],
              "asked again"
            )
            if (!ended) killed++
            if (!ended && again.size > 0) inside++
          }
          assert.strictEqual(readFileSync(join(directory, "weights.json"), "utf8"), weights)
          assert.deepStrictEqual(
            readFileSync(join(directory, "feedback.jsonl"), "utf8").split("\n").sort(),
            whole.split("\n").sort()
          )
        }
        assert.isAbove(inside, 0, "no kill came while somebody was asked")
        rmSync(root, { recursive: true })
      }),
    600_000
  )
})
