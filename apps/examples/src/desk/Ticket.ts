/**
 * Generated support tickets: four facts (product, problem, time, request) among sentences that do not matter, in varied
 * wording. Training and test tickets share no sentence template, no layout, no product and no problem; days and requests
 * are closed lists that both draw from.
 *
 * @since 0.1.0
 */
import * as Dice from "./Dice.ts"
import * as Entity from "./Entity.ts"

/**
 * What a sentence that does not matter is about.
 *
 * @category models
 * @since 0.1.0
 */
export type Topic = "weather" | "greeting" | "chat" | "history"

/**
 * A ticket with the truth about it. `distractors` are the sentences that a summary has no use for; `layout` and
 * `templates` name the wording, for checks that the splits are disjoint.
 *
 * @category models
 * @since 0.1.0
 */
export interface Ticket {
  readonly id: string
  readonly text: string
  readonly facts: Entity.Facts
  readonly distractors: ReadonlyArray<{ readonly topic: Topic; readonly text: string }>
  readonly sentences: ReadonlyArray<string>
  readonly layout: string
  readonly templates: ReadonlyArray<string>
}

type Templates = Readonly<Record<Entity.Split, ReadonlyArray<string>>>

/**
 * Words by which each topic is recognised in any text, lower case.
 *
 * @category constants
 * @since 0.1.0
 */
export const topicWords: Readonly<Record<Topic, ReadonlyArray<string>>> = {
  weather: ["weather", "sunny", "rain", "rains", "snow", "cold", "windy", "storm", "cloudy", "fog"],
  greeting: ["hello", "hi", "dear", "greetings"],
  chat: ["cat", "dog", "lunch", "holiday", "football", "garden", "kids", "weekend"],
  history: ["years", "loyal", "shopped", "before", "helped", "again"]
}

/**
 * Sentence templates. `PQ` states product and problem, `PQT` also the time, `P` and `Q` one of them, `T` the time, `R`
 * the request.
 *
 * @category constants
 * @since 0.1.0
 */
export const templates: Readonly<Record<"PQ" | "PQT" | "P" | "Q" | "T" | "R" | "TR" | Topic, Templates>> = {
  PQ: {
    train: [
      "The {problem} on my {product}.",
      "My {product} let me down: the {problem}.",
      "I got a {product} and now the {problem}.",
      "There is trouble with my {product}, its {problem}.",
      "The {product} is no good, the {problem}.",
      "I write about a {product}: the {problem}.",
      "Sadly the {problem} on our {product}.",
      "With this {product} the {problem}.",
      "My {product} has a fault, the {problem}.",
      "I use the {product} at home and its {problem}.",
      "Our new {product} is not right: its {problem}.",
      "The {problem}, so my {product} is no use."
    ],
    test: [
      "I have trouble with our {product}: its {problem}.",
      "Now the {problem} on the {product}.",
      "Sadly my new {product} has a fault: its {problem}.",
      "The {product} let us down, the {problem}."
    ]
  },
  PQT: {
    train: [
      "On {time} the {problem} on my {product}.",
      "My {product} let me down on {time}: the {problem}.",
      "Since {time} I see a fault on our {product}: the {problem}.",
      "The {problem} on {time} and my {product} is no use.",
      "It was {time} when the {problem} on the {product}."
    ],
    test: [
      "On {time} my {product} let me down, its {problem}.",
      "Since {time} the {product} is no good: the {problem}."
    ]
  },
  P: {
    train: [
      "I own a {product}.",
      "This is about my {product}.",
      "I use a {product} at home.",
      "We have a new {product}."
    ],
    test: ["I write about our {product}.", "I have a {product} at home."]
  },
  Q: {
    train: ["Now the {problem}.", "Sadly its {problem}.", "The {problem}, you see.", "I found that the {problem}."],
    test: ["I see that its {problem}.", "Sadly the {problem} now."]
  },
  T: {
    train: [
      "It began on {time}.",
      "This was on {time}.",
      "I saw it on {time}.",
      "It came up on {time}.",
      "I found out on {time}.",
      "It has been so since {time}.",
      "The day was {time}."
    ],
    test: ["I saw this on {time}.", "It was so on {time}.", "It has been on since {time}."]
  },
  R: {
    train: [
      "I would like a {request}.",
      "Please send me a {request}.",
      "Can I get a {request}?",
      "I hope for a {request}.",
      "I want a {request}.",
      "Please give us a {request}.",
      "A {request} would be good.",
      "We ask for a {request}.",
      "I need a {request} now."
    ],
    test: ["Can you send us a {request}?", "I ask for a {request}.", "Please, I need a {request}."]
  },
  TR: {
    train: [
      "It began on {time} and I want a {request}.",
      "Since {time} I need a {request}.",
      "It was {time}, so please send a {request}."
    ],
    test: ["This was on {time} and I need a {request}.", "I saw it on {time}, so I ask for a {request}."]
  },
  weather: {
    train: [
      "It is sunny here.",
      "What a cold day.",
      "We have rain now.",
      "The weather is good.",
      "It is so windy.",
      "There is snow at home.",
      "It was a cloudy day.",
      "We had a storm here."
    ],
    test: ["The day is sunny.", "We have snow here.", "It is cold and windy."]
  },
  greeting: {
    train: ["Hello.", "Hi there.", "Dear team.", "Hello there.", "Hi to you.", "Greetings."],
    test: ["Hi team.", "Hello to you.", "Dear you."]
  },
  chat: {
    train: [
      "My cat is well.",
      "We had lunch.",
      "The kids like football.",
      "I was on holiday.",
      "My garden is new.",
      "The dog is here.",
      "We had a good weekend."
    ],
    test: ["My dog is well.", "The kids had lunch.", "I like my garden."]
  },
  history: {
    train: [
      "You helped me before.",
      "I shopped here for years.",
      "I am a loyal one.",
      "I write to you again.",
      "We shopped here before."
    ],
    test: ["You helped us for years.", "I shopped here again."]
  }
}

/**
 * Orders of sentences; `x` stands for a sentence that does not matter (of any topic but the greeting), `g` for a
 * greeting.
 *
 * @category constants
 * @since 0.1.0
 */
export const layouts: Templates = {
  train: [
    "g PQ T R",
    "g PQ x T R",
    "PQ T x R",
    "PQT R x",
    "g PQT x R",
    "x PQT R",
    "PQ x TR",
    "g P Q T R",
    "R PQ T x",
    "x PQ TR",
    "P x Q T R",
    "R x PQT"
  ],
  test: ["g x PQ T R", "PQT x R", "g PQ TR x", "x R PQ T"]
}

const otherTopics: ReadonlyArray<Topic> = ["weather", "chat", "history"]

const topicOfMark = (dice: Dice.Dice, mark: string): Topic | undefined =>
  mark === "g" ? "greeting" : mark === "x" ? dice.pick(otherTopics) : undefined

/**
 * Puts values in the places of a template; places without a value stay.
 *
 * @category transforming
 * @since 0.1.0
 */
export const fill = (template: string, facts: Partial<Entity.Facts>): string =>
  template.replace(/\{(\w+)\}/g, (place, slot: Entity.Slot) => facts[slot] ?? place)

/**
 * Draws one set of facts.
 *
 * @category constructors
 * @since 0.1.0
 */
export const facts = (dice: Dice.Dice, split: Entity.Split): Entity.Facts => ({
  product: dice.pick(Entity.values[split].product),
  problem: dice.pick(Entity.values[split].problem),
  time: dice.pick(Entity.values[split].time),
  request: dice.pick(Entity.values[split].request)
})

/**
 * Draws one ticket.
 *
 * @category constructors
 * @since 0.1.0
 */
export const draw = (dice: Dice.Dice, split: Entity.Split, id: string): Ticket => {
  const values = facts(dice, split)
  const layout = dice.pick(layouts[split])
  const used: Array<string> = []
  const distractors: Array<{ topic: Topic; text: string }> = []
  const sentences = layout.split(" ").map((mark) => {
    const topic = topicOfMark(dice, mark)
    const kind = topic ?? (mark as keyof typeof templates)
    const template = dice.pick(templates[kind][split])
    used.push(template)
    const text = fill(template, values)
    if (topic !== undefined) distractors.push({ topic, text })
    return text
  })
  return { id, text: sentences.join(" "), facts: values, distractors, sentences, layout, templates: used }
}

/**
 * The first `n` tickets of the stream that `seed` and `split` fix; a longer run begins with the shorter one.
 *
 * **Example** (Two held-out tickets)
 *
 * ```ts
 * const tickets = Ticket.generate({ seed: 7, split: "test", n: 2 })
 *
 * tickets.map((ticket) => ticket.id) // => ["test-7-0", "test-7-1"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const generate = (options: {
  readonly seed: number
  readonly split: Entity.Split
  readonly n: number
}): ReadonlyArray<Ticket> => {
  const dice = Dice.make(options.seed)
  return Array.from({ length: options.n }, (_, i) => draw(dice, options.split, `${options.split}-${options.seed}-${i}`))
}
