/**
 * Bootstrap of several statistics of items that may come in clusters.
 *
 * @since 0.1.0
 */

import type { Estimate } from "../Estimate.ts"
import * as Bootstrap from "./Bootstrap.ts"

type Clustered = { readonly cluster?: string | undefined }

/**
 * Percentile intervals of several statistics from the same resamples, {@link Bootstrap.joint}. Where items have
 * clusters, whole clusters are drawn, since the items of one depend on each other.
 *
 * @category constructors
 * @since 0.1.0
 */
export const joint = <A extends Clustered>(
  items: ReadonlyArray<A>,
  statistics: (draw: ReadonlyArray<A>) => ReadonlyArray<number>,
  options: Bootstrap.Options
): ReadonlyArray<Estimate> =>
  items.every(({ cluster }) => cluster === undefined)
    ? Bootstrap.joint(items, statistics, options)
    : summarised(
        items,
        (cluster) => cluster,
        (draw) => statistics(draw.flat()),
        options
      )

/**
 * Like {@link joint}, for statistics that need of a cluster no more than a summary, which is made once. An item without
 * a cluster is its own.
 *
 * @category constructors
 * @since 0.1.0
 */
export const summarised = <A extends Clustered, S>(
  items: ReadonlyArray<A>,
  summary: (cluster: ReadonlyArray<A>) => S,
  statistics: (draw: ReadonlyArray<S>) => ReadonlyArray<number>,
  options: Bootstrap.Options
): ReadonlyArray<Estimate> => {
  if (items.every(({ cluster }) => cluster === undefined)) {
    return Bootstrap.joint(
      items.map((item) => summary([item])),
      statistics,
      options
    )
  }
  const clusters = [...Map.groupBy<string | A, A>(items, (item) => item.cluster ?? item).values()]
  return Bootstrap.joint(clusters.map(summary), statistics, options).map((estimate) => ({
    ...estimate,
    n: items.length,
    clusters: clusters.length,
    method: clusters.length === 1 ? "one cluster, no interval" : `${estimate.method}, of clusters`
  }))
}
