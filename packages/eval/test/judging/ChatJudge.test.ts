import * as fs from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Progress } from "@attune/core"
import { ChatEndpoint } from "@attune/core/remote"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Layer, type Scope } from "effect"
import { FetchHttpClient, type HttpClient } from "effect/http"
import { afterAll } from "vitest"
import * as ChatJudge from "../../src/judging/ChatJudge.ts"
import * as Judge from "../../src/judging/Judge.ts"

const directory = fs.mkdtempSync(join(tmpdir(), "attune-chat-judge-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))

interface Body {
  readonly messages: ReadonlyArray<{ readonly role: string; readonly content: string }>
  readonly [field: string]: unknown
}

interface Reply {
  readonly content?: string
  readonly status?: number
  readonly finish?: string
  /** Probabilities of first tokens. */
  readonly first?: Readonly<Record<string, number>>
}

/** A chat server on this machine that replies as told and remembers what it was asked. */
const serve = (reply: (last: string, body: Body, index: number) => Reply) =>
  Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<{ readonly baseUrl: string; readonly asked: Array<Body>; readonly close: () => void }>((done) => {
          const asked: Array<Body> = []
          const server = createServer(async (request, response) => {
            const chunks: Array<Buffer> = []
            for await (const chunk of request) chunks.push(chunk as Buffer)
            const body: Body = JSON.parse(Buffer.concat(chunks).toString("utf8"))
            const said = reply(body.messages.at(-1)!.content, body, asked.push(body) - 1)
            const { content = "", finish = "stop", first, status = 200 } = said
            const alternatives = Object.entries(first ?? {}).map(([token, p]) => ({ token, logprob: Math.log(p) }))
            response.writeHead(status, { "content-type": "application/json" }).end(
              JSON.stringify({
                choices: [
                  {
                    message: { content },
                    finish_reason: finish,
                    ...(first === undefined ? {} : { logprobs: { content: [{ top_logprobs: alternatives }] } })
                  }
                ]
              })
            )
          })
          server.listen(0, "127.0.0.1", () => {
            const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
            const close = () => {
              server.closeAllConnections()
              server.close()
            }
            done({ baseUrl, asked, close })
          })
        })
    ),
    ({ close }) => Effect.sync(close)
  )

const run = <A, E>(effect: Effect.Effect<A, E, HttpClient.HttpClient | Scope.Scope>) =>
  effect.pipe(Effect.scoped, Effect.provide(Layer.merge(FetchHttpClient.layer, Progress.layer({ mode: "quiet" }))))

const setting = Effect.fnUntraced(function* (
  reply: Parameters<typeof serve>[0],
  options: Partial<ChatEndpoint.Options> = {}
) {
  const server = yield* serve(reply)
  const endpoint = yield* ChatEndpoint.make({ baseUrl: server.baseUrl, model: "m", retries: 0, ...options })
  return { asked: server.asked, baseUrl: server.baseUrl, endpoint }
})

const comparisons = (count: number): ReadonlyArray<Judge.Comparison> =>
  Array.from({ length: count }, (_, i) => ({ id: `c${i}`, prompt: `prompt ${i}`, first: "one", second: "two" }))

const question: Judge.Question = { id: "q0", prompt: "p", completion: "c", question: "Is it kind?" }

describe("a judge", () => {
  it.effect("is shown both answers and says which is better, in the order of the comparisons", () =>
    run(
      Effect.gen(function* () {
        const { asked, endpoint } = yield* setting((last) => ({
          content: last.includes("prompt 0") ? "A" : last.includes("prompt 1") ? "B" : "tie"
        }))
        const judge = ChatJudge.judge(endpoint)
        assert.strictEqual(judge.name, endpoint.name)
        assert.deepStrictEqual(yield* Judge.ask(judge, comparisons(3)), ["first", "second", "tie"])
        assert.lengthOf(asked, 3)
        const [system, user] = asked[0]!.messages
        assert.strictEqual(system!.role, "system")
        assert.include(user!.content, "[Answer A]\none\n[End of answer A]\n\n[Answer B]\ntwo\n[End of answer B]")
      })
    )
  )

  it.effect.each([
    ["A", "first"],
    ["b", "second"],
    [" **B.**\n", "second"],
    ["[[A]]", "first"],
    ['"Tie"', "tie"]
  ] as const)("reads %j as %s", ([content, preference]) =>
    run(
      Effect.gen(function* () {
        const { asked, endpoint } = yield* setting(() => ({ content }))
        assert.deepStrictEqual(yield* ChatJudge.judge(endpoint).compare(comparisons(1)), [preference])
        assert.lengthOf(asked, 1)
      })
    )
  )

  it.effect.each(["", "C", "A or B", "Answer A", "neither", "AB", "A\nB", "Both are good, so: tie"])(
    "does not take %j for an answer, asks once more, and then fails with the item",
    (content) =>
      run(
        Effect.gen(function* () {
          const { asked, endpoint } = yield* setting(() => ({ content }))
          const error = yield* Effect.flip(ChatJudge.judge(endpoint).compare(comparisons(1)))
          assert.instanceOf(error, Judge.JudgeError)
          assert.strictEqual(error.item, "c0")
          assert.include(error.reason, `${JSON.stringify(content)} and ${JSON.stringify(content)}`)
          assert.include(error.reason, "expected one of: A, B, tie")
          assert.lengthOf(asked, 2)
        })
      )
  )

  it.effect("shows the model its answer when it asks again, and takes the second", () =>
    run(
      Effect.gen(function* () {
        const { asked, endpoint } = yield* setting((_last, _body, index) => ({ content: index === 0 ? "Hm." : "B" }))
        assert.deepStrictEqual(yield* ChatJudge.judge(endpoint).compare(comparisons(1)), ["second"])
        assert.deepStrictEqual(asked[1]!.messages.slice(0, 2), asked[0]!.messages)
        assert.deepStrictEqual(asked[1]!.messages.slice(2), [
          { role: "assistant", content: "Hm." },
          { role: "user", content: "Reply with exactly one of: A, B, tie." }
        ])
      })
    )
  )

  it.effect("says that an answer was cut off", () =>
    run(
      Effect.gen(function* () {
        const { endpoint } = yield* setting(() => ({ content: "x".repeat(500), finish: "length" }))
        const error = yield* Effect.flip(ChatJudge.judge(endpoint).compare(comparisons(1)))
        assert.include(error.reason, "raise maxTokens")
        assert.isBelow(error.reason.length, 600)
      })
    )
  )

  it.effect("fills places once, whatever the texts hold", () =>
    run(
      Effect.gen(function* () {
        const { asked, endpoint } = yield* setting(() => ({ content: "A" }))
        const template: ChatJudge.Template = { content: "{prompt}|{first}|{second}", answers: ["A", "B"] }
        yield* ChatJudge.judge(endpoint, { template }).compare([
          { id: "x", prompt: "{first} $& $1", first: "{second}", second: "{prompt}" }
        ])
        assert.deepStrictEqual(asked[0]!.messages, [{ role: "user", content: "{first} $& $1|{second}|{prompt}" }])
      })
    )
  )

  it.effect("may reason before a marker, and a template may forbid ties", () =>
    run(
      Effect.gen(function* () {
        const { asked, endpoint } = yield* setting((last) => ({
          content: last.includes("prompt 0")
            ? "Verdict: A is tempting, but no.\nVerdict: **B**"
            : last.includes("prompt 1")
              ? "A"
              : "Verdict: tie"
        }))
        const template: ChatJudge.Template = {
          content: "{first} {second} {prompt}",
          answers: ["A", "B"],
          marker: "Verdict:"
        }
        const judge = ChatJudge.judge(endpoint, { template })
        const [first, second, third] = comparisons(3)
        assert.deepStrictEqual(yield* judge.compare([first!]), ["second"])
        // No marker, then an answer that is not allowed.
        assert.include((yield* Effect.flip(judge.compare([second!]))).reason, 'answered "A"')
        assert.strictEqual(
          asked.at(-1)!.messages.at(-1)!.content,
          "End your reply with Verdict: and exactly one of: A, B."
        )
        assert.include((yield* Effect.flip(judge.compare([third!]))).reason, 'answered "Verdict: tie"')
      })
    )
  )

  it.effect.each<readonly [string, ChatJudge.Template]>([
    ["its places are", { content: "{prompt} {completion}", answers: ["A", "B"] }],
    ["lacks {second}", { content: "{prompt} {first}", answers: ["A", "B"] }],
    ["different words", { content: "{first} {second}", answers: ["A", "a."] }],
    ["different words", { content: "{first} {second}", answers: ["A", "?"] }],
    ["marker", { content: "{first} {second}", answers: ["A", "B"], marker: " " }]
  ])("refuses a template: %s", ([reason, template]) =>
    run(
      Effect.gen(function* () {
        const { endpoint } = yield* setting(() => ({}))
        assert.throws(() => ChatJudge.judge(endpoint, { template }), RangeError, reason)
      })
    )
  )

  it.effect("names the comparison that the endpoint gave no answer to, and why", () =>
    run(
      Effect.gen(function* () {
        const { endpoint } = yield* setting((last) => (last.includes("prompt 1") ? { status: 404 } : { content: "A" }))
        const error = yield* Effect.flip(ChatJudge.judge(endpoint).compare(comparisons(3)))
        assert.strictEqual(error.item, "c1")
        assert.instanceOf(error.cause, ChatEndpoint.ChatError)
        assert.include(error.message, "status 404")
      })
    )
  )

  it.effect("goes on in a second run where the first was stopped by its limit", () =>
    run(
      Effect.gen(function* () {
        const cache = join(directory, "limit.jsonl")
        const server = yield* serve(() => ({ content: "A" }))
        const judged = (requests: number) =>
          Effect.gen(function* () {
            const endpoint = yield* ChatEndpoint.make({
              baseUrl: server.baseUrl,
              model: "m",
              cache,
              limit: { requests }
            })
            return yield* ChatJudge.judge(endpoint).compare(comparisons(30))
          }).pipe(Effect.scoped)
        const error = yield* Effect.flip(judged(17))
        assert.include(error.message, "limit of 17 requests")
        assert.lengthOf(server.asked, 17)
        assert.lengthOf(yield* judged(13), 30)
        assert.lengthOf(server.asked, 30)
      })
    )
  )

  it.effect("waits for what is under way before it fails, so that nothing paid for is lost", () =>
    run(
      Effect.gen(function* () {
        const cache = join(directory, "waits.jsonl")
        const { asked, endpoint } = yield* setting(
          (last) => (last.includes("prompt 0\n") ? { status: 400 } : { content: "A" }),
          { concurrency: 4, cache }
        )
        yield* Effect.flip(ChatJudge.judge(endpoint).compare(comparisons(30)))
        const kept = fs.readFileSync(cache, "utf8").split("\n").length - 1
        assert.strictEqual(kept, asked.length - 1)
        assert.isBelow(asked.length, 30)
      })
    )
  )

  it.effect("has as many comparisons under way as the endpoint allows", () =>
    run(
      Effect.gen(function* () {
        const { endpoint } = yield* setting(() => ({}), { concurrency: 3 })
        const gate = yield* Deferred.make<void>()
        let underWay = 0
        const judge = ChatJudge.judge({
          ...endpoint,
          // The third lets all of them go; a fourth at the same time would be one too many.
          ask: () =>
            Effect.gen(function* () {
              assert.isAtMost(++underWay, 3)
              if (underWay === 3) yield* Effect.andThen(Effect.yieldNow, Deferred.succeed(gate, undefined))
              yield* Deferred.await(gate)
              underWay--
              return { content: "A", cached: false }
            })
        })
        assert.lengthOf(yield* judge.compare(comparisons(12)), 12)
      })
    )
  )

  it.effect("shows its progress", () =>
    Effect.gen(function* () {
      let shown = ""
      const sink = { write: (text: string) => (shown += text), isTTY: false, columns: 80 }
      const { endpoint } = yield* setting(() => ({ content: "A" }))
      yield* ChatJudge.judge(endpoint)
        .compare(comparisons(4))
        .pipe(Effect.provide(Progress.layer({ mode: "lines", sink, every: 2 })))
      assert.match(shown, /^judge m at \S+ 2\/4 50% .*\njudge m at \S+ 4\/4 100% .* requests 4\n$/)
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))
  )

  it.effect("comes as a layer", () =>
    run(
      Effect.gen(function* () {
        const { baseUrl } = yield* serve(() => ({ content: "A" }))
        const preferences = yield* Judge.Judge.pipe(
          Effect.flatMap((judge) => judge.compare(comparisons(1))),
          Effect.provide(ChatJudge.layerJudge({ baseUrl, model: "m" }))
        )
        assert.deepStrictEqual(preferences, ["first"])
      })
    )
  )
})

describe("a grader", () => {
  const graded = (reply: Reply, options?: ChatJudge.GraderOptions) =>
    Effect.gen(function* () {
      const { asked, endpoint } = yield* setting(() => reply)
      return { grades: yield* ChatJudge.grader(endpoint, options).grade([question]), asked }
    })

  it.effect("normalises the probability of Yes over the two answers, in all their spellings", () =>
    run(
      Effect.gen(function* () {
        const first = { Yes: 0.3, " yes": 0.1, No: 0.05, "NO.": 0.05, Well: 0.4 }
        const { asked, grades } = yield* graded({ content: "Yes", first })
        // 0.4 / (0.4 + 0.1)
        assert.lengthOf(grades, 1)
        assert.closeTo(grades[0]!, 0.8, 1e-12)
        assert.deepInclude(asked[0]!, { logprobs: true, top_logprobs: 5 })
        assert.include(asked[0]!.messages.at(-1)!.content, "Question: Is it kind?")
      })
    )
  )

  it.effect.each<readonly [string, Reply, number]>([
    ["no log-probs", { content: "yes." }, 1],
    ["no log-probs", { content: "No" }, 0],
    ["log-probs of neither", { content: "Yes", first: { Well: 0.9 } }, 1],
    ["log-probs of Yes alone", { content: "Yes", first: { Yes: 0.9 } }, 1],
    ["log-probs of No alone", { content: "Yes", first: { No: 0.9 } }, 0]
  ])("with %s is certain (%j)", ([, reply, grade]) =>
    run(
      Effect.gen(function* () {
        assert.deepStrictEqual((yield* graded(reply)).grades, [grade])
      })
    )
  )

  it("counts a token for the answer that it begins, unless it begins both", () => {
    const tokens = (probabilities: Readonly<Record<string, number>>) =>
      Object.entries(probabilities).map(([token, p]) => ({ token, logprob: Math.log(p) }))
    const share = (probabilities: Readonly<Record<string, number>>, yes: string, no: string) =>
      ChatJudge.share(tokens(probabilities), [yes, no])
    // The other answer has two tokens: without its beginning the first would be certain.
    assert.closeTo(share({ In: 0.9, Correct: 0.06, Well: 0.02 }, "Correct", "Incorrect")!, 0.0625, 1e-12)
    assert.closeTo(share({ not: 0.1, " not ": 0.2, nothing: 0.3, no: 0.4 }, "no", "not")!, 4 / 7, 1e-12)
    assert.isUndefined(share({ Answer: 0.7, "**": 0.2, "": 0.1 }, "Answer 1", "Answer 2"))
  })

  it.effect("reads the reply strictly although there are log-probs", () =>
    run(
      Effect.gen(function* () {
        const error = yield* Effect.flip(graded({ content: "Maybe", first: { Yes: 0.5, No: 0.5 } }))
        assert.instanceOf(error, Judge.JudgeError)
        assert.strictEqual(error.item, "q0")
      })
    )
  )

  it.effect("asks for no log-probs where told so, or where the model reasons first", () =>
    run(
      Effect.gen(function* () {
        const first = { Yes: 0.5, No: 0.5 }
        const none = yield* graded({ content: "No", first }, { topLogprobs: 0 })
        assert.deepStrictEqual(none.grades, [0])
        assert.notProperty(none.asked[0]!, "logprobs")
        const template: ChatJudge.Template = { content: "{completion}", answers: ["Yes", "No"], marker: "So:" }
        const reasoned = yield* graded({ content: "Yes, yes. So: no", first }, { template })
        assert.deepStrictEqual(reasoned.grades, [0])
        assert.notProperty(reasoned.asked[0]!, "logprobs")
      })
    )
  )

  it.effect("has two answers, and a template that shows what is asked about", () =>
    run(
      Effect.gen(function* () {
        const { endpoint } = yield* setting(() => ({}))
        const template: ChatJudge.Template = { content: "{completion}", answers: ["Yes", "No", "Maybe"] }
        assert.throws(() => ChatJudge.grader(endpoint, { template }), RangeError, "two answers")
        const blind: ChatJudge.Template = { content: "{question}", answers: ["Yes", "No"] }
        assert.throws(() => ChatJudge.grader(endpoint, { template: blind }), RangeError, "lacks {completion}")
      })
    )
  )
})
