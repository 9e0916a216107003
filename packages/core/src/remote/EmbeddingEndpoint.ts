/**
 * Embeddings of texts from an OpenAI-compatible `/embeddings` endpoint.
 *
 * @since 0.1.0
 */
import { Effect, Result, Schema } from "effect"
import type { HttpClient } from "effect/http"
import * as Exchange from "./Exchange.ts"

/**
 * Reports texts that an endpoint did not embed, or settings that make no sense. `text`: place of the text at fault among
 * those that were asked about, from 0, where it is one's.
 *
 * @category errors
 * @since 0.1.0
 */
export class EmbeddingEndpointError extends Schema.TaggedError<EmbeddingEndpointError>()("EmbeddingEndpointError", {
  endpoint: Schema.String,
  text: Schema.optionalKey(Schema.Int),
  /** How often it was tried, where there was more than one attempt. */
  attempts: Schema.optionalKey(Schema.Int),
  /** HTTP status of the last attempt, where it got one. */
  status: Schema.optionalKey(Schema.Int),
  reason: Schema.String
}) {
  override get message(): string {
    return `embeddings of ${this.endpoint}: ${this.reason}`
  }
}

/**
 * Where the model is and how to ask it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Exchange.Settings {
  /** Up to and including the version, such as `http://localhost:11434/v1`; `/embeddings` is added. */
  readonly baseUrl: string
  /** As the server calls it. */
  readonly model: string
  /** Texts per request. 32 by default. */
  readonly batchSize?: number
  /** Further fields of every request, such as `dimensions`. */
  readonly extra?: Readonly<Record<string, Schema.Json>>
}

/**
 * A model behind HTTP that places texts in a space where direction is meaning: one row `[D]` per text, of whatever length
 * the server gives.
 *
 * @category models
 * @since 0.1.0
 */
export interface EmbeddingEndpoint {
  readonly name: string
  readonly embed: (texts: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Float32Array>, EmbeddingEndpointError>
}

const advice: Exchange.Advice = {
  notFound: "the server knows no such path or model; check baseUrl, which must not hold /embeddings, and model",
  late: "raise timeout, or lower batchSize",
  protocol: "check that baseUrl is that of an OpenAI-compatible server",
  later: ""
}

const taken = ["model", "input", "encoding_format"]

const problem = (options: Options): string | undefined => {
  const { baseUrl, batchSize = 1, extra = {}, model } = options
  const inSettings = Exchange.problem("baseUrl", baseUrl, options)
  if (inSettings !== undefined) return inSettings
  if (model === "") return "model must not be empty"
  if (!Number.isInteger(batchSize) || batchSize < 1) return `batchSize must be a whole number from 1, not ${batchSize}`
  const field = taken.find((name) => Object.hasOwn(extra, name))
  return field === undefined ? undefined : `extra must not hold ${field}, which is set already`
}

/** The URL without query and fragment, which may hold a key. */
const place = (url: string): string => {
  const parsed = URL.parse(url)
  return parsed === null ? "?" : `${parsed.origin}${parsed.pathname}`
}

/** The same with the path of embeddings; a query stays behind it. */
const urlOf = (baseUrl: string): string => {
  const url = new URL(baseUrl)
  url.pathname = `${url.pathname.replace(/\/+$/, "")}/embeddings`
  return url.href
}

const Body = Schema.Struct({
  data: Schema.Array(Schema.Struct({ index: Schema.optionalKey(Schema.Int), embedding: Schema.Array(Schema.Finite) }))
})
const decodeBody = Schema.decodeUnknownResult(Body)

// The rows of `count` texts in their order, which the server states with an index or keeps.
const rowsOf = (json: unknown, count: number): Result.Result<ReadonlyArray<Float32Array>, string> =>
  Result.gen(function* () {
    const { data } = yield* Result.mapError(
      decodeBody(json),
      () => `the body holds no list of data with finite numbers as embedding; ${advice.protocol}`
    )
    if (data.length !== count) return yield* Result.fail(`there are ${data.length} embeddings for ${count} texts`)
    const rows: Array<Float32Array> = []
    for (const [i, { embedding, index = i }] of data.entries()) {
      if (index < 0 || index >= count || rows[index] !== undefined) {
        return yield* Result.fail(`the embeddings of ${count} texts have the index ${index} twice or beyond them`)
      }
      rows[index] = Float32Array.from(embedding)
    }
    const width = rows[0]?.length ?? 0
    if (width === 0 || rows.some((row) => row.length !== width)) {
      return yield* Result.fail(`embeddings have ${rows.map((row) => row.length).join(", ")} numbers; all need as many`)
    }
    return rows
  })

/**
 * Makes a way to a model that embeds. Settings that make no sense fail before anything is sent.
 *
 * **Details**
 *
 * `POST baseUrl/embeddings` with `{"model": "...", "input": ["..."], "encoding_format": "float"}` is answered with
 * `{"data": [{"index": 0, "embedding": [0.5]}]}`. What is tried again, and when, is as with `ChatEndpoint`; an answer with
 * another number of rows, or rows of different widths, is tried again once. Interrupting aborts the requests under way.
 * Empty texts fail at once, as servers refuse them with a whole batch. Where a request is given up, the whole call fails
 * with an error that names the URL without its query, the texts that were asked about, the status, and what to do.
 *
 * **Example** (Asking a server on this machine)
 *
 * ```ts
 * import { EmbeddingEndpoint } from "@attune/core/remote"
 * import { Effect } from "effect"
 * import { FetchHttpClient } from "effect/http"
 *
 * const program = Effect.gen(function* () {
 *   const endpoint = yield* EmbeddingEndpoint.make({ baseUrl: "http://localhost:11434/v1", model: "nomic-embed-text" })
 *   return yield* endpoint.embed(["It names the product.", "The product is named."])
 * }).pipe(Effect.provide(FetchHttpClient.layer))
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  options: Options
) => Effect.Effect<EmbeddingEndpoint, EmbeddingEndpointError, HttpClient.HttpClient> = Effect.fn(
  "EmbeddingEndpoint.make"
)(function* (options) {
  const { batchSize = 32, concurrency = 8, extra, model } = options
  const { clean } = Exchange.without(options.apiKey)
  const name = clean(`${model} at ${place(options.baseUrl)}`)
  const wrong = problem(options)
  if (wrong !== undefined) return yield* new EmbeddingEndpointError({ endpoint: name, reason: wrong })
  const exchange = yield* Exchange.make({ ...options, name, url: urlOf(options.baseUrl), advice })

  const embedBatch = (batch: ReadonlyArray<string>, first: number, total: number) => {
    const last = first + batch.length - 1
    const which = first === last ? `text ${first} of ${total}` : `texts ${first} to ${last} of ${total}`
    const body = JSON.stringify({ ...extra, model, input: batch, encoding_format: "float" })
    return exchange
      .post(body, (json) => rowsOf(json, batch.length))
      .pipe(
        Effect.mapError(({ attempts, detail, excerpt, status }) => {
          const answered = status === undefined ? "" : `, status ${status}`
          const tries = attempts > 1 ? `, ${attempts} attempts` : ""
          const said = excerpt === undefined ? "" : `; it said: ${excerpt}`
          return new EmbeddingEndpointError({
            endpoint: name,
            ...(first === last ? { text: first } : {}),
            ...(attempts > 1 ? { attempts } : {}),
            ...(status === undefined ? {} : { status }),
            reason: `${which}${answered}${tries}: ${detail}${said}`
          })
        })
      )
  }

  return {
    name,
    embed: Effect.fn("EmbeddingEndpoint.embed")(function* (texts) {
      const text = texts.indexOf("")
      if (text >= 0) {
        return yield* new EmbeddingEndpointError({
          endpoint: name,
          text,
          reason: `text ${text} of ${texts.length} is empty; leave empty texts out`
        })
      }
      const firsts = Array.from({ length: Math.ceil(texts.length / batchSize) }, (_, i) => i * batchSize)
      const batches = yield* Effect.forEach(
        firsts,
        (first) => embedBatch(texts.slice(first, first + batchSize), first, texts.length),
        { concurrency }
      )
      return batches.flat()
    })
  }
})
