/**
 * The facts that a ticket can state. A fact is a pair of words drawn from two lists; the pairs, not the words, are
 * divided between the splits, so a model meets every word in training and no test pair.
 *
 * @since 0.1.0
 */

/**
 * The kinds of fact, in the order in which critiques ask for them.
 *
 * @category constants
 * @since 0.1.0
 */
export const slots = ["product", "problem", "time", "request"] as const

/**
 * A kind of fact.
 *
 * @category models
 * @since 0.1.0
 */
export type Slot = (typeof slots)[number]

/**
 * Which half of the world a text is drawn from.
 *
 * @category models
 * @since 0.1.0
 */
export type Split = "train" | "test"

/**
 * One value for every kind of fact, for example `{ product: "Corvo kettle", time: "Monday morning", ... }`.
 *
 * @category models
 * @since 0.1.0
 */
export type Facts = Readonly<Record<Slot, string>>

const list = (text: string): ReadonlyArray<string> => text.split(" ")

/**
 * First and second words of each kind of fact. No word belongs to two lists.
 *
 * @category constants
 * @since 0.1.0
 */
export const words: Readonly<Record<Slot, readonly [ReadonlyArray<string>, ReadonlyArray<string>]>> = {
  product: [
    list(
      "Corvo Luma Nova Zeno Vento Pico Terra Mira Kora Largo Rondo Selva Brio Cleo Dax Tivo Arca Beno Calo Deva Elmo " +
        "Fora Gala Hexa Juno Koda Lyra Moro Nilo Orla Pavo Rigo Sola Tora Ulmo Vela Wiro Yaro"
    ),
    list(
      "kettle toaster printer router heater blender lamp camera phone tablet scooter drill mixer fridge radio watch oven " +
        "freezer vacuum speaker keyboard monitor charger razor grill juicer dryer washer projector stroller piano guitar"
    )
  ],
  problem: [
    list(
      "lid button handle cable light switch door seal wheel filter plug timer fan dial hinge motor knob strap lens " +
        "spring pedal gear valve clip"
    ),
    list(
      "cracked jammed leaks overheats broke rattles smells sticks squeaks failed melted hums drips flickers wobbles sags"
    )
  ],
  time: [
    list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    list("morning noon afternoon evening night")
  ],
  request: [
    list("full free quick fair prompt simple"),
    list("refund repair replacement exchange discount voucher callback manual")
  ]
}

// Products and problems are what a model has to copy without having met them: one pair in eight is kept for testing, as a
// hash of its place in the table says, so that no rule about words tells which. Days and requests are closed lists.
const splitOf = (slot: Slot, i: number, j: number): ReadonlySet<Split> => {
  if (slot === "time" || slot === "request") return new Set(["train", "test"])
  const hash = Math.imul(Math.imul(i + 1, 0x9e3779b1) ^ (j + 1), 0x85ebca6b) >>> 16
  return new Set([hash % 8 === 0 ? "test" : "train"])
}

const table = (slot: Slot, split: Split): ReadonlyArray<string> =>
  words[slot][0].flatMap((first, i) =>
    words[slot][1].flatMap((second, j) => (splitOf(slot, i, j).has(split) ? [`${first} ${second}`] : []))
  )

/**
 * Every value of each kind of fact, by split; the two splits share no product and no problem.
 *
 * @category constants
 * @since 0.1.0
 */
export const values: Readonly<Record<Split, Readonly<Record<Slot, ReadonlyArray<string>>>>> = {
  train: {
    product: table("product", "train"),
    problem: table("problem", "train"),
    time: table("time", "train"),
    request: table("request", "train")
  },
  test: {
    product: table("product", "test"),
    problem: table("problem", "test"),
    time: table("time", "test"),
    request: table("request", "test")
  }
}

const slotOfWord: ReadonlyMap<string, Slot> = new Map(
  slots.flatMap((slot) => words[slot].flat().map((word) => [word.toLowerCase(), slot] as const))
)

/**
 * The kind of fact that a lower-case word belongs to, if any.
 *
 * @category decoding
 * @since 0.1.0
 */
export const slotOf = (word: string): Slot | undefined => slotOfWord.get(word)
