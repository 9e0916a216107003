import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as ChatReply from "../../src/remote/ChatReply.ts"

describe("retryAfter", () => {
  const noon = Date.UTC(2026, 0, 2, 12)
  it.each([
    ["0", 0],
    ["120", 120_000],
    [" 1.5 ", 1500],
    ["Fri, 02 Jan 2026 12:00:30 GMT", 30_000],
    ["Friday, 02-Jan-26 12:00:30 GMT", 30_000],
    ["Fri, 02 Jan 2026 11:00:00 GMT", 0],
    ["-3", undefined],
    ["soon", undefined],
    ["Fri, soon", undefined],
    ["", undefined],
    [undefined, undefined]
  ])("of %s is %s ms", (header, millis) => {
    assert.strictEqual(ChatReply.retryAfter(header, noon), millis)
  })
})

describe("refusal", () => {
  it.each([
    [{ error: { message: "a", code: 429 } }, { message: "a", code: "429" }],
    [{ error: { message: "a", type: "t", code: null } }, { message: "a" }],
    [{ error: "a" }, { message: "a" }],
    [{ object: "error", message: "a" }, { message: "a" }],
    [{ detail: "a" }, { message: "a" }],
    [{ detail: [1] }, undefined],
    ["a", undefined],
    [null, undefined]
  ])("of %j is %j", (json, said) => {
    assert.deepStrictEqual(ChatReply.refusal(json), said)
  })
})

describe("decode", () => {
  const choice = { message: { content: "a" } }
  it.each([
    [{ choices: [choice] }, { content: "a" }],
    [{ choices: [choice, 3] }, undefined],
    [{ choices: [{ ...choice, finish_reason: "length" }] }, { content: "a", finishReason: "length" }],
    [{ choices: [{ ...choice, finish_reason: null, logprobs: null }], usage: null }, { content: "a" }],
    // The form of the older completions protocol says nothing about alternatives.
    [{ choices: [{ ...choice, logprobs: { tokens: ["a"], token_logprobs: [-1] } }] }, { content: "a" }],
    [{ choices: [{ ...choice, logprobs: { content: [] } }] }, { content: "a" }],
    [
      {
        choices: [
          { ...choice, logprobs: { content: [{ top_logprobs: [{ token: "a", logprob: -0.5, bytes: [97] }] }] } }
        ]
      },
      { content: "a", first: [{ token: "a", logprob: -0.5 }] }
    ],
    [
      { choices: [{ ...choice, logprobs: { content: [{ top_logprobs: [{ token: "a", logprob: "-1" }] }] } }] },
      undefined
    ],
    // A usage that states nothing is none, and no reason to throw a paid answer away.
    [{ choices: [choice], usage: {} }, { content: "a" }],
    [{ choices: [choice], usage: { prompt_tokens: null, completion_tokens: null } }, { content: "a" }],
    [{ choices: [choice], usage: { prompt_tokens: 3 } }, { content: "a" }],
    [
      { choices: [choice], usage: { prompt_tokens: 3, completion_tokens: 0 } },
      { content: "a", usage: { prompt: 3, completion: 0 } }
    ]
  ])("of %j is %j", (json, answer) => {
    assert.deepStrictEqual(Result.getOrUndefined(ChatReply.decode(json)), answer)
  })

  it("says what to do about a model that reasoned beyond its limit", () => {
    const reply = (finish_reason: string) => ({ choices: [{ message: { content: null }, finish_reason }] })
    assert.deepStrictEqual(
      ChatReply.decode(reply("length")),
      Result.fail("the content is null; it was cut off, so raise maxTokens")
    )
    assert.deepStrictEqual(ChatReply.decode(reply("tool_calls")), Result.fail("the content is null"))
  })
})
