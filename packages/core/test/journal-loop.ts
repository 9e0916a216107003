/** Adds numbered records to a journal until it is killed. Argument: path. Prints a number once its record is kept. */
import { writeSync } from "node:fs"
import { Effect, Schema } from "effect"
import * as Journal from "../src/Journal.ts"

const Numbered = Schema.Struct({ n: Schema.Int, text: Schema.String })

const loop = Effect.gen(function* () {
  const keyOf = ({ n }: typeof Numbered.Type) => String(n)
  const journal = yield* Journal.open({ path: process.argv[2], schema: Numbered, keyOf, resume: true })
  for (let n = 0; ; n++) {
    if (journal.get(String(n)) !== undefined) continue
    yield* journal.append([{ n, text: "é".repeat(50_000) }])
    writeSync(1, `${n}\n`)
  }
})

await Effect.runPromise(loop)
