/**
 * Bootstrap of several statistics of items that may come in clusters.
 *
 * @since 0.1.0
 */
import * as Bootstrap from "./Bootstrap.ts"
import type { Estimate } from "./Estimate.ts"

/**
 * Percentile intervals of several statistics from the same resamples, {@link Bootstrap.joint}. Where items have clusters,
 * whole clusters are drawn, since the items of one depend on each other.
 *
 * @category constructors
 * @since 0.1.0
 */
export const joint = <A extends { readonly cluster?: string | undefined }>(
  items: ReadonlyArray<A>,
  statistics: (draw: ReadonlyArray<A>) => ReadonlyArray<number>,
  options: Bootstrap.Options
): ReadonlyArray<Estimate> => {
  if (items.every(({ cluster }) => cluster === undefined)) return Bootstrap.joint(items, statistics, options)
  const clusters = [...Map.groupBy(items, ({ cluster }) => cluster).values()]
  return Bootstrap.joint(clusters, (draw) => statistics(draw.flat()), options).map((estimate) => ({
    ...estimate,
    n: items.length,
    clusters: clusters.length,
    method: clusters.length === 1 ? "one cluster, no interval" : `${estimate.method}, of clusters`
  }))
}
