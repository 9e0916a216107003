import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import * as Critique from "../src/Critique.ts"
import * as Demonstration from "../src/Demonstration.ts"
import * as Instruction from "../src/Instruction.ts"
import * as Prompt from "../src/Prompt.ts"
import * as Ranking from "../src/Ranking.ts"

const decode = <A>(schema: Schema.Codec<A, unknown>, input: unknown) => Schema.decodeUnknownSync(schema)(input)
const reason = <A>(schema: Schema.Codec<A, unknown>, input: unknown) => {
  const result = Schema.decodeUnknownResult(schema)(input)
  return Result.isFailure(result) ? result.failure.message : "decoded"
}

const user = (content: string) => ({ role: "user", content })
const assistant = (content: string) => ({ role: "assistant", content })

const words = Schema.NonEmptyString.check(Schema.makeFilter((text: string) => text.trim() !== ""))
const text = Arbitrary.schema(words)
const string = Arbitrary.schema(Schema.String)
const content = Arbitrary.schema(Schema.Union([Schema.String, Schema.Array(Prompt.Message)]))

describe("Demonstration", () => {
  const { Demonstration: schema } = Demonstration

  it.each([
    ["prompt and completion", { prompt: "Q:", completion: " A" }, { prompt: "Q:", completion: " A" }],
    [
      "prompt and completion as messages",
      { prompt: [user("hi")], completion: [assistant("hello")] },
      { prompt: [user("hi")], completion: "hello" }
    ],
    [
      "messages",
      { messages: [user("hi"), assistant("hello"), user("bye"), assistant("goodbye")] },
      { prompt: [user("hi"), assistant("hello"), user("bye")], completion: "goodbye" }
    ],
    [
      "messages made of parts, beside a prompt that only repeats them",
      {
        prompt: "hi",
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "h" },
              { type: "text", text: "i" }
            ]
          },
          assistant("x")
        ]
      },
      { prompt: [user("hi")], completion: "x" }
    ],
    [
      "ShareGPT conversations",
      {
        conversations: [
          { from: "system", value: "s" },
          { from: "human", value: "q" },
          { from: "gpt", value: "a" }
        ]
      },
      { prompt: [{ role: "system", content: "s" }, user("q")], completion: "a" }
    ],
    ["prompt and response", { prompt: "q", response: "a" }, { prompt: "q", completion: "a" }],
    ["Alpaca", { instruction: "Add.", input: "1 1", output: "2" }, { prompt: "Add.\n\n1 1", completion: "2" }],
    ["Alpaca without input", { instruction: "Add.", input: "", output: "2" }, { prompt: "Add.", completion: "2" }],
    ["text", { text: "Once upon a time" }, { prompt: "", completion: "Once upon a time" }]
  ])("decodes %s", (_, input, expected) => {
    assert.deepStrictEqual(decode<unknown>(schema, input), expected)
  })

  it("names the field that is missing, empty or of another type", () => {
    assert.match(reason(schema, { prompt: "q" }), /Missing key\s+at \["completion"\]/)
    assert.match(reason(schema, { prompt: "q", completion: "  " }), /is empty.*\s+at \["completion"\]/)
    assert.match(reason(schema, { text: "" }), /is empty/)
    assert.match(reason(schema, { prompt: "q", completion: 3 }), /at \["completion"\]/)
    assert.match(
      reason(schema, { messages: [assistant("a"), user("q")] }),
      /by the assistant, got "user"\s+at \["messages"\]/
    )
    assert.match(reason(schema, { messages: [{ role: "user" }] }), /Missing key\s+at \["messages"\]\[0\]\["content"\]/)
    assert.match(reason(schema, { prompt: "q", completion: [user("x")] }), /one assistant message, got \["user"\]/)
  })

  it("takes plain texts with end-of-text marks between them, in their order and without what surrounds them", () => {
    const plain =
      "\ufeffOnce upon\na  time.\r\n<|endoftext|>\n \t\n<|endoftext|><|endoftext|>The <end> \n\n of it.<|endoftext|>\n"
    const expected = ["Once upon\na  time.", "The <end> \n\n of it."].map((completion) => ({ prompt: "", completion }))
    assert.deepStrictEqual(Demonstration.fromText(plain), expected)
    // As the schema reads them.
    for (const one of expected) assert.deepStrictEqual(decode<unknown>(schema, { text: one.completion }), one)
    assert.deepStrictEqual(Demonstration.fromText(" \n<|endoftext|>\n"), [])
    assert.deepStrictEqual(Demonstration.fromText(""), [])
  })

  it("lists the forms to something that has none of their fields", () => {
    assert.match(reason(schema, { question: "q", a: 1 }), /\{ prompt, completion \}.*got \{ question, a \}/)
    assert.match(reason(schema, [1]), /Expected \{ messages \}/)
    assert.match(reason(schema, null), /Expected \{ messages \}/)
  })

  it.prop("comes back from its own encoding", [content, text], ([prompt, completion]) => {
    const demonstration = { prompt, completion }
    assert.deepStrictEqual(decode<unknown>(schema, Schema.encodeSync(schema)(demonstration)), demonstration)
  })
})

describe("Ranking", () => {
  const { Ranking: schema } = Ranking

  it("decodes K-way rankings with ties", () => {
    const ranking = { prompt: "q", completions: ["a", "b", "c"], ranks: [2, 1, 2] }
    assert.deepStrictEqual(decode<unknown>(schema, ranking), ranking)
  })

  it("takes answers that are empty or occur twice, and ranks that are all the same", () => {
    for (const ranking of [
      { prompt: "q", completions: ["", "a"], ranks: [2, 1] },
      { prompt: "q", completions: ["a", "b", "a"], ranks: [2, 1, 2] },
      { prompt: "q", completions: ["a", "b"], ranks: [3, 3] }
    ]) {
      assert.deepStrictEqual(decode<unknown>(schema, ranking), ranking)
    }
  })

  it("takes a blank answer of a pair, as HH-RLHF writes an empty one", () => {
    const start = "\n\nHuman: q\n\nAssistant:"
    const { completions } = decode(schema, { chosen: `${start} a`, rejected: `${start} ` })
    assert.deepStrictEqual(completions, [" a", " "])
  })

  it("decodes pairs with their prompt", () => {
    const pair = { prompt: "q", completions: ["good", "bad"], ranks: [1, 2] }
    assert.deepStrictEqual(decode<unknown>(schema, { prompt: "q", chosen: "good", rejected: "bad" }), pair)
    assert.deepStrictEqual(
      decode<unknown>(schema, { prompt: [user("q")], chosen: [assistant("good")], rejected: [assistant("bad")] }),
      { ...pair, prompt: [user("q")] }
    )
  })

  it("splits whole dialogues after the last cue that they share", () => {
    const start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"
    assert.deepStrictEqual<unknown>(
      decode(schema, { chosen: `${start} So long`, rejected: `${start} So what\n\nHuman: oh\n\nAssistant: yes` }),
      { prompt: start, completions: [" So long", " So what\n\nHuman: oh\n\nAssistant: yes"], ranks: [1, 2] }
    )
  })

  it("does not take a half-shared cue for a prompt", () => {
    const start = "\n\nHuman: hi\n\nAssistant:"
    assert.deepStrictEqual<unknown>(
      decode(schema, { chosen: `${start} a\n\nAssistant: b`, rejected: `${start} a\n\nAssist c` }),
      { prompt: start, completions: [" a\n\nAssistant: b", " a\n\nAssist c"], ranks: [1, 2] }
    )
  })

  it("splits other texts before the first word that differs", () => {
    assert.deepStrictEqual<unknown>(decode(schema, { chosen: "The sky is blue", rejected: "The sky is black" }), {
      prompt: "The sky is",
      completions: [" blue", " black"],
      ranks: [1, 2]
    })
    assert.deepStrictEqual<unknown>(decode(schema, { chosen: "yes", rejected: "no" }), {
      prompt: "",
      completions: ["yes", "no"],
      ranks: [1, 2]
    })
  })

  it("splits message lists after the last message that they share, whatever the prompt beside them", () => {
    const expected = { prompt: [user("q"), assistant("a"), user("r")], completions: ["good", "bad"], ranks: [1, 2] }
    const dialogue = (answer: string) => [user("q"), assistant("a"), user("r"), assistant(answer)]
    assert.deepStrictEqual<unknown>(decode(schema, { chosen: dialogue("good"), rejected: dialogue("bad") }), expected)
    assert.deepStrictEqual<unknown>(
      decode(schema, { prompt: "q", chosen: dialogue("good"), rejected: dialogue("bad") }),
      expected
    )
  })

  it("names what is wrong", () => {
    assert.match(reason(schema, { prompt: "q", chosen: "a" }), /Missing key\s+at \["rejected"\]/)
    assert.match(reason(schema, { prompt: "q", chosen: "", rejected: "b" }), /empty.*\s+at \["chosen"\]/)
    assert.match(
      reason(schema, { prompt: "q", chosen: [assistant("a")], rejected: [assistant("")] }),
      /is empty: leave .* write it as \{ prompt, completions, ranks \}\s+at \["rejected"\]/
    )
    assert.match(
      reason(schema, { chosen: "\n\nHuman: q\n\nAssistant:", rejected: "\n\nHuman: q\n\nAssistant: a" }),
      /empty.*\s+at \["chosen"\]/
    )
    assert.match(reason(schema, { prompt: "q", chosen: "a", rejected: "a" }), /same as chosen.*\s+at \["rejected"\]/)
    assert.match(
      reason(schema, { chosen: [user("q"), assistant("a")], rejected: [user("q"), assistant("a")] }),
      /same as chosen.*\s+at \["rejected"\]/
    )
    assert.match(reason(schema, { prompt: "q", completions: ["a"], ranks: [1] }), /at least 2.*\s+at \["completions"\]/)
    assert.match(reason(schema, { prompt: "q", completions: ["a", "b"], ranks: [1] }), /one rank.*\s+at \["ranks"\]/)
    assert.match(
      reason(schema, { prompt: "q", completions: ["a", "b", "c", "b"], ranks: [1, 2, 3, 4] }),
      /completions 1 and 3 are alike and are ranked 2 and 4.*\s+at \["ranks"\]/
    )
    assert.match(reason(schema, { prompt: "q", completions: ["a", "b"], ranks: [1, 1.5] }), /at \["ranks"\]\[1\]/)
    assert.match(
      reason(schema, {
        chosen: [user("q"), assistant("a"), user("r"), assistant("b")],
        rejected: [user("q"), assistant("c")]
      }),
      /one assistant message, got \["assistant","user","assistant"\].*\s+at \["chosen"\]/
    )
    assert.match(reason(schema, { chosen: "a", rejected: [assistant("b")] }), /both text or both messages/)
  })

  it("keeps five of six pairs where two of four answers tie", () => {
    // the ranks of oracle R3
    assert.deepStrictEqual(Ranking.pairs([1, 2, 2, 3]), [
      [0, 1],
      [0, 2],
      [0, 3],
      [1, 3],
      [2, 3]
    ])
    assert.deepStrictEqual(Ranking.pairs([2, 1]), [[1, 0]])
    assert.deepStrictEqual(Ranking.pairs([1, 1]), [])
  })

  const answers = Arbitrary.array(Arbitrary.schema(Schema.Tuple([Schema.String, Schema.Int])), {
    minLength: 2,
    maxLength: 5
  })
  it.prop("comes back from its own encoding", [content, answers], ([prompt, answers]) => {
    const completions = answers.map(([text]) => text)
    // Copies of a text have the rank of the first.
    const ranking = { prompt, completions, ranks: completions.map((text) => answers[completions.indexOf(text)]![1]) }
    assert.deepStrictEqual(decode<unknown>(schema, Schema.encodeSync(schema)(ranking)), ranking)
  })

  it.prop("pair texts joined to their prompt are the texts that came in", [text, text, text], ([start, a, b]) => {
    const chosen = `${start}\n\nAssistant:${a}`
    const rejected = `${start}\n\nAssistant:${b}${a === b ? "!" : ""}`
    const ranking = decode(schema, { chosen, rejected })
    assert.deepStrictEqual(
      ranking.completions.map((text) => `${ranking.prompt}${text}`),
      [chosen, rejected]
    )
  })
})

describe("Critique", () => {
  const { Critique: schema } = Critique
  const critique = { prompt: "q", completion: "a", critique: "Name the product.", refinement: "b" }

  it("decodes its own form, and feedback for critique", () => {
    assert.deepStrictEqual<unknown>(decode(schema, critique), critique)
    assert.deepStrictEqual<unknown>(decode(schema, { prompt: "q", completion: "a", feedback: critique.critique }), {
      prompt: "q",
      completion: "a",
      critique: critique.critique
    })
  })

  it("decodes critiques of code, whose original repeats the prompt", () => {
    assert.deepStrictEqual<unknown>(
      decode(schema, { prompt: "q", original_model_completion: "qa", Feedback: critique.critique, completion: "b" }),
      critique
    )
  })

  it("names what is wrong", () => {
    assert.match(reason(schema, { prompt: "q", completion: "a" }), /Missing key\s+at \["critique"\]/)
    assert.match(reason(schema, { ...critique, critique: "" }), /at \["critique"\]/)
    assert.match(reason(schema, { prompt: "q", critique: "c" }), /Missing key\s+at \["completion"\]/)
    assert.match(
      reason(schema, { prompt: "q", completion: "", feedback: "f" }),
      /is empty: .* write it as \{ prompt, completion, critique \}\s+at \["completion"\]/
    )
    assert.match(
      reason(schema, { prompt: "q", original_model_completion: "q", Feedback: "f" }),
      /is empty.*\s+at \["original_model_completion"\]/
    )
    assert.match(reason(schema, { ...critique, refinement: "" }), /at \["refinement"\]/)
  })

  it("takes an answer that is empty", () => {
    assert.strictEqual(decode(schema, { ...critique, completion: "" }).completion, "")
    assert.strictEqual(decode(schema, { ...critique, completion: [assistant("")] }).completion, "")
  })

  it.prop("comes back from its own encoding", [content, string, text], ([prompt, completion, critique]) => {
    for (const value of [
      { prompt, completion, critique },
      { prompt, completion, critique, refinement: critique }
    ]) {
      assert.deepStrictEqual<unknown>(decode(schema, Schema.encodeSync(schema)(value)), value)
    }
  })
})

describe("Instruction", () => {
  const { Instruction: schema } = Instruction

  it("decodes its own form and KTO's labels", () => {
    const told = { instruction: "Sort.", prompt: "b a", completion: "a b", satisfied: true }
    assert.deepStrictEqual<unknown>(decode(schema, told), told)
    assert.deepStrictEqual<unknown>(
      decode(schema, { prompt: [user("q")], completion: [assistant("a")], label: false }),
      { prompt: [user("q")], completion: "a", satisfied: false }
    )
  })

  it("names what is wrong", () => {
    assert.match(reason(schema, { prompt: "q", completion: "a" }), /Missing key\s+at \["satisfied"\]/)
    assert.match(
      reason(schema, { prompt: "q", completion: "", label: true }),
      /is empty: .* write it as \{ prompt, completion, satisfied \}\s+at \["completion"\]/
    )
  })

  it("takes an answer that is empty", () => {
    const silent = { prompt: "q", completion: "", satisfied: false }
    assert.deepStrictEqual<unknown>(decode(schema, silent), silent)
  })

  it.prop("comes back from its own encoding", [content, string, Schema.Boolean], ([prompt, completion, satisfied]) => {
    for (const value of [
      { prompt, completion, satisfied },
      { instruction: "Sort.", prompt, completion, satisfied }
    ]) {
      assert.deepStrictEqual<unknown>(decode(schema, Schema.encodeSync(schema)(value)), value)
    }
  })
})
