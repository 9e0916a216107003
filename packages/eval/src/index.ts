/**
 * Evaluation: samples and estimates, comparisons and judges, benchmarks, text metrics, diagnostics, reports. Loads no
 * native code.
 *
 * @since 0.1.0
 */
export * as Sample from "./Sample.ts"
export * as Estimate from "./Estimate.ts"
export * as Score from "./Score.ts"
export * as Judge from "./Judge.ts"
