import { assert, describe, it } from "@effect/vitest"
import * as PostProcessing from "../src/PostProcessing.ts"

const { clean } = PostProcessing

describe("clean", () => {
  it("I8: keeps whole sentences of the first paragraph, and takes a decimal point for an end", () => {
    assert.strictEqual(clean("  \n- He left.  She  stay"), "He left.")
    assert.strictEqual(clean("No punctuation here"), "No punctuation here")
    assert.strictEqual(clean("One. Two!\nThree."), "One. Two!")
    assert.strictEqual(clean("I paid 3.50 to"), "I paid 3.")
  })

  it("works in the order of the paper's code", () => {
    // The break before the first letter is dropped, not cut at.
    assert.strictEqual(clean("\n\nfirst\nsecond."), "first")
    // Punctuation after the cut does not count, and trimming comes before it.
    assert.strictEqual(clean("no end  \nAn end."), "no end ")
    assert.strictEqual(clean("Why?  Because of"), "Why?")
    assert.strictEqual(clean('"Él vino. (ayer'), "Él vino.")
    assert.strictEqual(clean("a\t b"), "a\t b")
  })

  it("makes nothing of signs alone", () => {
    assert.strictEqual(clean(" ...!\n--"), "")
    assert.strictEqual(clean(""), "")
  })
})

describe("none", () => {
  it("leaves a text as it is", () => {
    assert.strictEqual(PostProcessing.none(" a\n  b. c"), " a\n  b. c")
  })
})
