/**
 * Values measured on named items: what every statistic of this package starts from.
 *
 * A sample is checked once, when it is made: not empty, every value finite, no item twice. The statistics are then total
 * functions of it.
 *
 * @since 0.1.0
 */
import { Result, Schema } from "effect"

/**
 * A sample cannot be made, or two samples do not belong together.
 *
 * @category errors
 * @since 0.1.0
 */
export class SampleError extends Schema.TaggedError<SampleError>()("SampleError", {
  sample: Schema.String,
  /** The first item at fault, where it is an item's. */
  item: Schema.optionalKey(Schema.String),
  reason: Schema.String
}) {
  override get message(): string {
    const place = this.item === undefined ? "" : `, item ${JSON.stringify(this.item)}`
    return `sample "${this.sample}"${place}: ${this.reason}`
  }
}

/**
 * One value. `id` names what was measured (a prompt, a question), the same in every system that is compared. `cluster`
 * names the group whose values are not independent, such as the samples of one prompt.
 *
 * @category models
 * @since 0.1.0
 */
export interface Item {
  readonly id: string
  readonly value: number
  readonly cluster?: string | undefined
}

/**
 * Checked values: at least one, all finite, ids distinct, and clusters on all of them or on none.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sample {
  /** For messages and tables. */
  readonly name: string
  readonly ids: ReadonlyArray<string>
  /** `[n]`, in the order of `ids`. */
  readonly values: Float64Array
  /** `[n]`, in the order of `ids`. */
  readonly clusters?: ReadonlyArray<string> | undefined
}

const firstTwice = (ids: ReadonlyArray<string>): string | undefined => {
  const seen = new Set<string>()
  return ids.find((id) => seen.size === seen.add(id).size)
}

/**
 * A sample of the items, in their order.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (name: string, items: Iterable<Item>): Result.Result<Sample, SampleError> => {
  const all = Array.from(items)
  const fail = (reason: string, item?: string) =>
    Result.fail(new SampleError({ sample: name, reason, ...(item === undefined ? {} : { item }) }))
  if (all.length === 0) return fail("no items; there is nothing to estimate")
  const ids = all.map(({ id }) => id)
  const bad = all.find(({ value }) => !Number.isFinite(value))
  if (bad !== undefined) return fail(`the value is ${bad.value}; a value must be a finite number`, bad.id)
  const twice = firstTwice(ids)
  if (twice !== undefined) {
    return fail("the id stands twice; give each item its own id, and items of one prompt a common cluster", twice)
  }
  const clustered = all.filter(({ cluster }) => cluster !== undefined)
  if (clustered.length > 0 && clustered.length < all.length) {
    return fail("the item has no cluster, others have", all.find(({ cluster }) => cluster === undefined)!.id)
  }
  return Result.succeed({
    name,
    ids,
    values: Float64Array.from(all, ({ value }) => value),
    ...(clustered.length > 0 ? { clusters: all.map(({ cluster }) => cluster!) } : {})
  })
}

/**
 * A sample of values whose ids are their places: `0`, `1`, …
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromValues = (name: string, values: ArrayLike<number>): Result.Result<Sample, SampleError> =>
  make(
    name,
    Array.from(values, (value, i) => ({ id: String(i), value }))
  )

/**
 * Two samples of the same items, in one order.
 *
 * @category models
 * @since 0.1.0
 */
export interface Paired {
  readonly names: readonly [first: string, second: string]
  readonly ids: ReadonlyArray<string>
  readonly first: Float64Array
  readonly second: Float64Array
  readonly clusters?: ReadonlyArray<string> | undefined
}

/**
 * Pairs two samples by id, in the order of the first. Fails where their items differ, or where an item has one cluster
 * in the first and another in the second. Where one of the two has clusters, they are those of both.
 *
 * @category combining
 * @since 0.1.0
 */
export const pair = (first: Sample, second: Sample): Result.Result<Paired, SampleError> => {
  const place = new Map(second.ids.map((id, i) => [id, i] as const))
  const lacking = first.ids.find((id) => !place.has(id))
  const known = new Set(first.ids)
  const extra = second.ids.find((id) => !known.has(id))
  const missing = lacking ?? extra
  if (missing !== undefined) {
    const [has, hasNot] = lacking === undefined ? [second, first] : [first, second]
    return Result.fail(
      new SampleError({
        sample: hasNot.name,
        item: missing,
        reason: `only "${has.name}" has it; a paired comparison needs the same items in both (${first.ids.length} and ${second.ids.length})`
      })
    )
  }
  const places = first.ids.map((id) => place.get(id)!)
  const theirs = second.clusters === undefined ? undefined : places.map((at) => second.clusters![at]!)
  const moved = theirs?.findIndex((cluster, i) => first.clusters !== undefined && first.clusters[i] !== cluster) ?? -1
  if (moved >= 0) {
    const [one, other] = [first.clusters![moved], theirs![moved]].map((cluster) => JSON.stringify(cluster))
    return Result.fail(
      new SampleError({
        sample: second.name,
        item: first.ids[moved]!,
        reason: `its cluster is ${other}, in "${first.name}" it is ${one}; name clusters alike`
      })
    )
  }
  const clusters = first.clusters ?? theirs
  return Result.succeed({
    names: [first.name, second.name],
    ids: first.ids,
    first: first.values,
    second: Float64Array.from(places, (at) => second.values[at]!),
    ...(clusters === undefined ? {} : { clusters })
  })
}

/**
 * Differences `first - second` of a pair, as a sample.
 *
 * @category combining
 * @since 0.1.0
 */
export const difference = ({ clusters, first, ids, names, second }: Paired): Sample => ({
  name: `${names[0]} - ${names[1]}`,
  ids,
  values: first.map((value, i) => value - second[i]!),
  ...(clusters === undefined ? {} : { clusters })
})
