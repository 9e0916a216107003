/**
 * Seeded draws for the help desk: one mutable generator, so that a seed and an order of calls fix every text.
 *
 * @since 0.1.0
 */
import { uniformInt } from "pure-rand/distribution/uniformInt"
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus"

/**
 * A stream of random draws. Every call advances it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Dice {
  /** Uniform whole number in `[0, n)`. */
  readonly below: (n: number) => number
  /** True with probability `p`. */
  readonly chance: (p: number) => boolean
  /** Uniform element; throws on an empty list. */
  readonly pick: <A>(items: ReadonlyArray<A>) => A
  /** Element drawn with probability proportional to its weight. */
  readonly weighted: <A>(items: ReadonlyArray<readonly [weight: number, item: A]>) => A
  /** A shuffled copy. */
  readonly shuffle: <A>(items: ReadonlyArray<A>) => Array<A>
}

const resolution = 1 << 24

/**
 * A stream fixed by `seed` (a whole number).
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (seed: number): Dice => {
  const generator = xoroshiro128plus(seed)
  // The first outputs of neighbouring seeds resemble each other: the state starts mostly zero.
  for (let i = 0; i < 32; i++) generator.next()
  const below = (n: number) => uniformInt(generator, 0, n - 1)
  const pick = <A>(items: ReadonlyArray<A>): A => {
    const item = items[below(items.length)]
    if (item === undefined) throw new Error("Dice.pick: the list is empty")
    return item
  }
  return {
    below,
    chance: (p) => below(resolution) < p * resolution,
    pick,
    weighted: (items) => {
      const total = items.reduce((sum, [weight]) => sum + weight, 0)
      let left = (below(resolution) / resolution) * total
      for (const [weight, item] of items) {
        left -= weight
        if (left < 0) return item
      }
      return pick(items)[1]
    },
    shuffle: (items) => {
      const copy = [...items]
      for (let i = copy.length - 1; i > 0; i--) {
        const j = below(i + 1)
        const a = copy[i]!
        copy[i] = copy[j]!
        copy[j] = a
      }
      return copy
    }
  }
}
