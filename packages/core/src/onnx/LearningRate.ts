/**
 * Learning-rate schedules: plain functions of the optimizer step.
 *
 * Steps count from 0, and the value at step `s` is the one that the update number `s + 1` uses, as in PyTorch's
 * schedulers.
 *
 * @since 0.1.0
 */

/**
 * Learning rate at a step.
 *
 * @category models
 * @since 0.1.0
 */
export type LearningRate = (step: number) => number

/**
 * The same rate at every step.
 *
 * @category constructors
 * @since 0.1.0
 */
export const constant =
  (rate: number): LearningRate =>
  () =>
    rate

/**
 * Straight line from `rate` at step 0 to `floor` at step `steps`, which counts as 1 below that. The floor is a rate, not a share.
 *
 * @category constructors
 * @since 0.1.0
 */
export const linear =
  (rate: number, steps: number, floor = 0): LearningRate =>
  (step) =>
    floor + (rate - floor) * Math.max(0, 1 - step / Math.max(1, steps))

/**
 * Half a cosine from `rate` at step 0 to `floor` at step `steps`: `floor + (rate - floor) (1 + cos(π s / S)) / 2`.
 * `steps` counts as 1 below that; the floor is a rate, not a share.
 *
 * @category constructors
 * @since 0.1.0
 */
export const cosine =
  (rate: number, steps: number, floor = 0): LearningRate =>
  (step) =>
    floor + (rate - floor) * 0.5 * (1 + Math.cos(Math.PI * Math.min(1, step / Math.max(1, steps))))

/**
 * Rises in a straight line over `steps` steps from the fraction `from` of the full rate, 0 by default, then follows
 * `after`, whose step 0 is the first step at full rate.
 *
 * @category constructors
 * @since 0.1.0
 */
export const warmUp =
  (steps: number, after: LearningRate, from = 0): LearningRate =>
  (step) =>
    step < steps ? after(0) * (from + (1 - from) * (step / steps)) : after(step - steps)
