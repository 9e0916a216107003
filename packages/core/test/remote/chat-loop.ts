/** Asks one question after the other until it is killed. Arguments: base URL, cache. Prints each that is answered. */
import { writeSync } from "node:fs"
import { Effect } from "effect"
import { FetchHttpClient } from "effect/http"
import * as ChatEndpoint from "../../src/remote/ChatEndpoint.ts"

const [baseUrl, cache] = process.argv.slice(2)

const loop = Effect.gen(function* () {
  const endpoint = yield* ChatEndpoint.make({ baseUrl: baseUrl!, model: "m", cache: cache!, concurrency: 4 })
  yield* Effect.forEach(
    Array.from({ length: 1000 }, (_, i) => `question ${i}`),
    (content) =>
      Effect.andThen(
        endpoint.ask([{ role: "user", content }]),
        Effect.sync(() => writeSync(1, `${content}\n`))
      ),
    { concurrency: 4, discard: true }
  )
})

await Effect.runPromise(loop.pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))
