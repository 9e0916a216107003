/**
 * The wordings of a summary: each form states any subset of the facts, so that a draft, its refinement and a
 * demonstration can share one wording.
 *
 * @since 0.1.0
 */
import * as Entity from "./Entity.ts"
import * as Ticket from "./Ticket.ts"

/**
 * Name of a wording.
 *
 * @category models
 * @since 0.1.0
 */
export type Form = "list" | "want" | "when" | "note"

interface Wording {
  readonly segments: ReadonlyArray<readonly [Entity.Slot, string]>
  readonly separator: string
}

const wordings: Readonly<Record<Form, Wording>> = {
  list: {
    segments: [
      ["product", "{product}"],
      ["problem", "{problem}"],
      ["time", "on {time}"],
      ["request", "wants a {request}"]
    ],
    separator: ", "
  },
  want: {
    segments: [
      ["request", "Customer wants a {request}"],
      ["product", "{product}"],
      ["problem", "{problem}"],
      ["time", "since {time}"]
    ],
    separator: "; "
  },
  when: {
    segments: [
      ["time", "{time}"],
      ["product", "{product}"],
      ["problem", "{problem}"],
      ["request", "asks for a {request}"]
    ],
    separator: " / "
  },
  note: {
    segments: [
      ["product", "Product {product}"],
      ["problem", "Problem {problem}"],
      ["time", "Time {time}"],
      ["request", "Request {request}"]
    ],
    separator: ". "
  }
}

/**
 * Every form, the most usual first.
 *
 * @category constants
 * @since 0.1.0
 */
export const forms: ReadonlyArray<Form> = ["list", "want", "when", "note"]

/**
 * States the given facts in one form; the empty text if there are none.
 *
 * **Example** (Two facts)
 *
 * ```ts
 * Summary.render("list", { product: "Corvo kettle", time: "Monday noon" }) // => "Corvo kettle, on Monday noon."
 * ```
 *
 * @category encoding
 * @since 0.1.0
 */
export const render = (form: Form, facts: Partial<Entity.Facts>): string => {
  const { segments, separator } = wordings[form]
  const stated = segments.filter(([slot]) => facts[slot] !== undefined)
  return stated.length === 0 ? "" : `${stated.map(([, text]) => Ticket.fill(text, facts)).join(separator)}.`
}

/**
 * The form that a text is written in, by its marks; `list` if nothing tells.
 *
 * @category decoding
 * @since 0.1.0
 */
export const formOf = (text: string): Form => {
  if (/\b(Product|Problem|Time|Request) /.test(text)) return "note"
  if (text.includes(" / ") || text.includes("asks for")) return "when"
  if (text.includes(";") || text.startsWith("Customer")) return "want"
  return "list"
}

/**
 * Lower-case words of a text, in order; everything but letters, digits and apostrophes divides words.
 *
 * @category decoding
 * @since 0.1.0
 */
export const wordsOf = (text: string): ReadonlyArray<string> => text.toLowerCase().match(/[\p{L}\p{N}']+/gu) ?? []

/**
 * The fact values that a text states, right or wrong: the first word of a value followed by a second word of the same
 * kind with at most one word between. The first value of each kind counts.
 *
 * @category decoding
 * @since 0.1.0
 */
export const stated = (text: string): Partial<Record<Entity.Slot, string>> => {
  const found: Partial<Record<Entity.Slot, string>> = {}
  const words = wordsOf(text)
  for (const slot of Entity.slots) {
    const [first, second] = lookup[slot]
    for (let i = 0; i < words.length && found[slot] === undefined; i++) {
      const head = first.get(words[i]!)
      const tail = second.get(words[i + 1] ?? "") ?? second.get(words[i + 2] ?? "")
      if (head !== undefined && tail !== undefined) found[slot] = `${head} ${tail}`
    }
  }
  return found
}

const byLowerCase = (words: ReadonlyArray<string>): ReadonlyMap<string, string> =>
  new Map(words.map((word) => [word.toLowerCase(), word]))

const lookup: Readonly<Record<Entity.Slot, readonly [ReadonlyMap<string, string>, ReadonlyMap<string, string>]>> = {
  product: [byLowerCase(Entity.words.product[0]), byLowerCase(Entity.words.product[1])],
  problem: [byLowerCase(Entity.words.problem[0]), byLowerCase(Entity.words.problem[1])],
  time: [byLowerCase(Entity.words.time[0]), byLowerCase(Entity.words.time[1])],
  request: [byLowerCase(Entity.words.request[0]), byLowerCase(Entity.words.request[1])]
}
