/**
 * A reward model behind HTTP: answers go out as JSON, some at a time, and their scores come back.
 *
 * @since 0.1.0
 */
import { Effect, Layer, Result, Schema } from "effect"
import type { HttpClient } from "effect/http"
import * as RewardModel from "../RewardModel.ts"
import type { Tokenizer } from "../Tokenizer.ts"
import * as Exchange from "./Exchange.ts"

/**
 * Where the reward model is and how to ask it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Exchange.Settings {
  /** All of it, path included: `http://localhost:8000/score`, for instance. */
  readonly url: string
  /** For messages and reports, beside the URL. */
  readonly name?: string
  /** What the server speaks; `make` says what goes over the line. `"attune"` by default. */
  readonly protocol?: "attune" | "openrlhf"
  /** Answers per request. 16 by default. */
  readonly batchSize?: number
  /**
   * The policy's tokenizer. With it, prompts and completions are sent as all that their tokens spell, special ones such as
   * the end of the text included; without it, as their texts.
   */
  readonly tokenizer?: Tokenizer
  /** Further fields of every request. */
  readonly extra?: Readonly<Record<string, Schema.Json>>
}

interface Texts {
  readonly prompt: string
  readonly completion: string
  readonly messages?: RewardModel.Answer["prompt"]["messages"]
}

// What is asked, and the field that the scores are in.
interface Protocol {
  readonly body: (answers: ReadonlyArray<Texts>) => Readonly<Record<string, unknown>>
  readonly scores: string
}

const protocols: Readonly<Record<NonNullable<Options["protocol"]>, Protocol>> = {
  attune: { body: (answers) => ({ answers }), scores: "scores" },
  openrlhf: {
    body: (answers) => ({
      query: answers.map(({ completion, prompt }) => prompt + completion),
      prompts: answers.map(({ prompt }) => prompt),
      labels: answers.map(() => "")
    }),
    scores: "rewards"
  }
}

const problem = (options: Options, protocol: Protocol): string | undefined => {
  const { batchSize = 1, extra, url } = options
  const inSettings = Exchange.problem("url", url, options)
  if (inSettings !== undefined) return inSettings
  if (!Number.isInteger(batchSize) || batchSize < 1) return `batchSize must be a whole number from 1, not ${batchSize}`
  const taken = Object.keys(protocol.body([])).find((field) => extra !== undefined && Object.hasOwn(extra, field))
  return taken === undefined ? undefined : `extra must not hold ${taken}, which the protocol needs`
}

const advice: Exchange.Advice = {
  notFound: "the server knows no such path; check url, which must hold the whole path",
  late: "raise timeout, or lower batchSize",
  protocol: "check that url is that of a reward model, and protocol",
  later: ""
}

/** What to call the server: its URL without query and fragment, which may hold a key. */
const place = (url: string): string => {
  const parsed = URL.parse(url)
  return parsed === null ? "?" : `${parsed.origin}${parsed.pathname}`
}

/**
 * Makes a reward model of a server. Settings that make no sense fail before anything is sent.
 *
 * **Details**
 *
 * With the protocol `"attune"`, `POST url` with
 *
 *     {"answers": [{"prompt": "...", "completion": "...", "messages": [{"role": "...", "content": "..."}]}]}
 *
 * is answered with one finite number per answer, in their order, larger being better:
 *
 *     {"scores": [0.5]}
 *
 * `prompt` is the text that the policy read, special tokens of its chat template included, and `completion` what it added
 * to it, without special tokens; `messages` is there where the prompt is a conversation, for a server with a chat template
 * of its own. A completion may be empty.
 *
 * `"openrlhf"` is what OpenRLHF asks its remote reward models and what `openrlhf.cli.serve_rm` answers:
 *
 *     {"query": ["prompt and completion"], "prompts": ["prompt"], "labels": [""]}
 *     {"rewards": [0.5]}
 *
 * OpenRLHF sends all that the tokens spell, and a server of it that adds no end of text itself scores at the last token
 * it is sent: give the `tokenizer` for it to see what it was trained on.
 *
 * Further fields of an answer are not read. What is tried again, and when, is as with `ChatEndpoint`; a number of scores
 * that is wrong, or a score that is not finite, is not. Interrupting aborts the requests under way. Where a request is
 * given up, the whole call fails with a `RewardModelError` that names the URL without its query, the answers that were
 * asked about, the status, the attempts, and what to do.
 *
 * **Example** (Asking a server on this machine)
 *
 * ```ts
 * import { RewardEndpoint } from "@attune/core/remote"
 * import { Effect } from "effect"
 * import { FetchHttpClient } from "effect/http"
 *
 * const program = Effect.gen(function* () {
 *   const model = yield* RewardEndpoint.make({ url: "http://localhost:5000/get_reward", protocol: "openrlhf" })
 *   return model.name
 * }).pipe(Effect.provide(FetchHttpClient.layer))
 * ```
 *
 * Source of the second protocol: OpenRLHF, `openrlhf/utils/remote_rm_utils.py` and `openrlhf/cli/serve_rm.py`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  options: Options
) => Effect.Effect<RewardModel.RewardModelShape, RewardModel.RewardModelError, HttpClient.HttpClient> = Effect.fn(
  "RewardEndpoint.make"
)(function* (options) {
  const { batchSize = 16, concurrency = 8, extra, tokenizer } = options
  const protocol = protocols[options.protocol ?? "attune"]
  const where = place(options.url)
  const name = options.name === undefined ? where : `${options.name} at ${where}`
  const { clean } = Exchange.without(options.apiKey)
  const wrong = problem(options, protocol)
  if (wrong !== undefined) return yield* new RewardModel.RewardModelError({ model: clean(name), reason: wrong })
  const exchange = yield* Exchange.make({ ...options, name, advice })

  const textsOf = ({ completion, prompt }: RewardModel.Answer): Texts => {
    const texts =
      tokenizer === undefined
        ? { prompt: prompt.text, completion: completion.text }
        : {
            prompt: tokenizer.decode(prompt.tokens, { skipSpecialTokens: false }),
            completion: tokenizer.decode(completion.tokens, { skipSpecialTokens: false })
          }
    return prompt.messages === undefined ? texts : { ...texts, messages: prompt.messages }
  }

  const decode = Schema.decodeUnknownResult(Schema.Struct({ [protocol.scores]: Schema.Array(Schema.Unknown) }))
  const read = (json: unknown): Result.Result<ReadonlyArray<unknown>, string> =>
    Result.mapBoth(decode(json), {
      onSuccess: (body) => body[protocol.scores]!,
      onFailure: () => `the body holds no list of ${protocol.scores}; ${advice.protocol}`
    })

  const scoreBatch = (batch: ReadonlyArray<RewardModel.Answer>, first: number, total: number) => {
    const last = first + batch.length - 1
    const which = first === last ? `answer ${first} of ${total}` : `answers ${first} to ${last} of ${total}`
    return exchange.post(JSON.stringify({ ...extra, ...protocol.body(batch.map(textsOf)) }), read).pipe(
      Effect.mapError(({ attempts, detail, excerpt, status }) => {
        const answered = status === undefined ? "" : `, status ${status}`
        const tries = attempts > 1 ? `, ${attempts} attempts` : ""
        const said = excerpt === undefined ? "" : `; it said: ${excerpt}`
        return new RewardModel.RewardModelError({
          model: name,
          ...(first === last ? { answer: first } : {}),
          ...(attempts > 1 ? { attempts } : {}),
          ...(status === undefined ? {} : { status }),
          reason: `${which}${answered}${tries}: ${detail}${said}`
        })
      }),
      Effect.flatMap((scores) => RewardModel.checked(name, scores, batch.length, { first, total }))
    )
  }

  return {
    name,
    ...(tokenizer === undefined ? {} : { tokenizer }),
    score: Effect.fn("RewardEndpoint.score")(function* (answers) {
      const firsts = Array.from({ length: Math.ceil(answers.length / batchSize) }, (_, i) => i * batchSize)
      const batches = yield* Effect.forEach(
        firsts,
        (first) => scoreBatch(answers.slice(first, first + batchSize), first, answers.length),
        { concurrency }
      )
      return Float32Array.from(batches.flatMap((scores) => [...scores]))
    })
  }
})

/**
 * Layer with the reward model of a server.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options
): Layer.Layer<RewardModel.RewardModel, RewardModel.RewardModelError, HttpClient.HttpClient> =>
  Layer.effect(RewardModel.RewardModel, make(options))
