/**
 * Estimates of means of values between 0 and 1, which do not leave that range.
 *
 * @since 0.1.0
 */
import * as Estimate from "./Estimate.ts"
import type { Sample } from "./Sample.ts"

const refuse = ({ ids, name, values }: Sample, isWrong: (value: number) => boolean, reason: string): void => {
  const at = values.findIndex(isWrong)
  if (at >= 0) throw new RangeError(`sample "${name}", item ${JSON.stringify(ids[at])}: ${values[at]} ${reason}`)
}

const rounding = 1e-9

/**
 * Mean of values in `[0, 1]` with its Student t interval, clustered where the sample is, cut to `[0, 1]`. Where all
 * values are equal (or the means of all clusters), which leaves t without spread, there is still Wilson's interval for
 * all 0 and all 1, with clusters counted as single values. Throws on a value outside, but for rounding.
 *
 * @category constructors
 * @since 0.1.0
 */
export const mean = (sample: Sample, confidence = 0.95): Estimate.Estimate => {
  refuse(sample, (value) => value < -rounding || value > 1 + rounding, "does not lie in [0, 1]")
  const estimate = Estimate.clustered(sample, confidence)
  const { clusters, high, low, n, se, value } = estimate
  if (se === 0 && (value === 0 || value === 1)) {
    const independent = clusters ?? n
    const wilson = Estimate.rate(value * independent, independent, confidence)
    return { ...estimate, low: wilson.low, high: wilson.high, method: "all equal, Wilson" }
  }
  return low !== null && high !== null && (low < 0 || high > 1)
    ? { ...estimate, low: Math.max(0, low), high: Math.min(1, high), method: `${estimate.method}, cut to [0, 1]` }
    : estimate
}

/**
 * Share of values that are 1 among values that are 0 or 1, with Wilson's interval; {@link mean} where the sample has
 * clusters, since Wilson's takes values as independent. Throws on any other value.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rate = (sample: Sample, confidence = 0.95): Estimate.Estimate => {
  refuse(sample, (value) => value !== 0 && value !== 1, "is neither 0 nor 1")
  if (sample.clusters !== undefined) return mean(sample, confidence)
  const hits = sample.values.reduce((sum, value) => sum + value, 0)
  return Estimate.rate(hits, sample.values.length, confidence)
}
