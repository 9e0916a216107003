import { assert, describe, it } from "@effect/vitest"
import * as VisibleText from "../src/VisibleText.ts"

describe("VisibleText", () => {
  it("spells out what hides, reverses or erases text", () => {
    assert.strictEqual(VisibleText.show("a\u202eb\u0000c\u001b[31md"), "a⟨U+202E⟩b⟨U+0000⟩c⟨U+001B⟩[31md")
    assert.strictEqual(
      VisibleText.show("x\ufeff\u200b\u2066\u2028\u00ad\u{e0041}y"),
      "x⟨U+FEFF⟩⟨U+200B⟩⟨U+2066⟩⟨U+2028⟩⟨U+00AD⟩⟨U+E0041⟩y"
    )
    assert.strictEqual(VisibleText.show("a\u034fb\u3164c\u115f\u{e0101}"), "a⟨U+034F⟩b⟨U+3164⟩c⟨U+115F⟩⟨U+E0101⟩")
    assert.strictEqual(VisibleText.show("☺\ufe0f\ufe01\ufe02 \ufe03"), "☺\ufe0f⟨U+FE01⟩⟨U+FE02⟩ ⟨U+FE03⟩")
    assert.strictEqual(VisibleText.show("\ud800 and \u0085"), "⟨U+D800⟩ and ⟨U+0085⟩")
    assert.strictEqual(VisibleText.show("old\rnew"), "old⟨U+000D⟩new")
  })

  it("leaves text as it is, of whatever script", () => {
    for (const text of ["tab\tand\nline", "שלום", "Sofía, naïve", "日本語", "👩‍🔬 👍🏽", "❤️ 1️⃣", "한국어", "می‌خواهم"]) {
      assert.strictEqual(VisibleText.show(text), text)
    }
    assert.strictEqual(VisibleText.show("a\r\nb"), "a\nb")
    assert.strictEqual(VisibleText.line("  a\r\n\t b "), "a b")
  })

  it("counts the columns of a terminal", () => {
    assert.strictEqual(VisibleText.width("abc"), 3)
    assert.strictEqual(VisibleText.width("日本"), 4)
    assert.strictEqual(VisibleText.width("e\u0301"), 1)
    assert.strictEqual(VisibleText.width("👍"), 2)
  })

  it("cuts text at the columns that there are", () => {
    assert.strictEqual(VisibleText.elide("truthfulqa", 10), "truthfulqa")
    assert.strictEqual(VisibleText.elide("truthfulqa", 9), "truthful…")
    assert.strictEqual(VisibleText.elide("日本語の", 6), "日本…")
    assert.strictEqual(VisibleText.elideMiddle("task: acc", 9), "task: acc")
    assert.strictEqual(VisibleText.elideMiddle("word_sorting: exact_match", 12), "word_s…match")
    assert.strictEqual(VisibleText.elideMiddle("日本語の日本語の", 8), "日本…の")
    for (let columns = 4; columns < 30; columns++) {
      const cut = VisibleText.elideMiddle("日本語 word_sorting: 日 acc", columns)
      assert.isAtMost(VisibleText.width(cut), columns)
    }
  })
})
