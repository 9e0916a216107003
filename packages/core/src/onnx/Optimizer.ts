/**
 * AdamW and gradient clipping as graph fragments.
 *
 * @since 0.1.0
 */

import type { Value } from "./Graph.ts"
import * as Graph from "./Graph.ts"
import * as LearningRate from "./LearningRate.ts"
import * as Op from "./Op.ts"

/**
 * Settings of AdamW, with PyTorch's defaults except that no weight decays unless asked.
 *
 * **Details**
 *
 * `learningRate`: a rate or a schedule. `weightDecay`: per step, times the learning rate, on the parameters that decay
 * (matrices by default). `maxGradNorm`: the global norm above which gradients are scaled down; none by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface AdamWOptions {
  readonly learningRate: number | LearningRate.LearningRate
  readonly beta1?: number | undefined
  readonly beta2?: number | undefined
  readonly epsilon?: number | undefined
  readonly weightDecay?: number | undefined
  readonly maxGradNorm?: number | undefined
  /** Chooses the parameters that decay by name; default: matrices do, norms and biases do not. */
  readonly decays?: ((parameter: string) => boolean) | undefined
}

/**
 * An optimizer with every setting filled in.
 *
 * @category models
 * @since 0.1.0
 */
export interface AdamW {
  readonly learningRate: LearningRate.LearningRate
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly weightDecay: number
  readonly maxGradNorm: number | undefined
  readonly decays: ((parameter: string) => boolean) | undefined
}

/**
 * AdamW: Adam with decoupled weight decay. Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; `epsilon` is
 * added to the bias-corrected root, as in PyTorch.
 *
 * @category constructors
 * @since 0.1.0
 */
export const adamW = (options: AdamWOptions): AdamW => ({
  learningRate:
    typeof options.learningRate === "number" ? LearningRate.constant(options.learningRate) : options.learningRate,
  beta1: options.beta1 ?? 0.9,
  beta2: options.beta2 ?? 0.999,
  epsilon: options.epsilon ?? 1e-8,
  weightDecay: options.weightDecay ?? 0,
  maxGradNorm: options.maxGradNorm,
  decays: options.decays
})

/**
 * Numbers of one step that do not depend on the gradient: `[keep, stepSize, epsilon]`.
 *
 * **Details**
 *
 * The moments are stored without their factors, `M = m / (1 - β1)` and `V = v / (1 - β2)`, which saves two passes over
 * each parameter. With `c1 = 1 - β1^t`, `c2 = 1 - β2^t` and `r = √((1 - β2) / c2)`,
 *
 *     M ← β1 M + g        V ← β2 V + g²
 *     w ← keep w - stepSize M / (√V + epsilon)
 *
 * is PyTorch's update when `keep = 1 - lr λ`, `stepSize = lr (1 - β1) / (c1 r)` and `epsilon = eps / r`.
 *
 * @category math
 * @since 0.1.0
 */
export const coefficients = (
  optimizer: AdamW,
  step: number
): readonly [keep: number, stepSize: number, epsilon: number] => {
  const { beta1, beta2, epsilon, weightDecay } = optimizer
  const rate = optimizer.learningRate(step)
  const t = step + 1
  const root = Math.sqrt((1 - beta2) / (1 - beta2 ** t))
  return [1 - rate * weightDecay, (rate * (1 - beta1)) / ((1 - beta1 ** t) * root), epsilon / root]
}

/**
 * A parameter with the optimizer's state for it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Slot {
  readonly weight: Value
  /** First moment over `1 - β1`. */
  readonly first: Value
  /** Second moment over `1 - β2`. */
  readonly second: Value
}

/**
 * Scalars of an update. `keep` is `null` where the parameter does not decay, `clip` where gradients are not clipped.
 *
 * @category models
 * @since 0.1.0
 */
export interface UpdateScalars {
  readonly keep: Value | null
  readonly stepSize: Value
  readonly epsilon: Value
  readonly clip: Value | null
}

// Each operator is a pass over memory; over a piece of this many numbers, all of them stay in the caches.
const pieceSize = 1 << 18

/**
 * Shape `[pieces, n]` in which a large parameter is best carried on a CPU, for {@link updatePieces}; its own shape where it
 * is small, or cannot be cut evenly.
 *
 * @category math
 * @since 0.1.0
 */
export const pieces = (shape: ReadonlyArray<number>): ReadonlyArray<number> => {
  const total = shape.reduce((a, b) => a * b, 1)
  if (total < 2 * pieceSize) return shape
  const fewest = Math.ceil(total / pieceSize)
  const counts = Array.from({ length: 3 * fewest + 1 }, (_, i) => fewest + i)
  const count = counts.find((count) => total % count === 0)
  return count === undefined ? shape : [count, total / count]
}

/**
 * {@link update} of a parameter, state and gradient of shape `[pieces, n]`, one piece after the other.
 *
 * @category constructors
 * @since 0.1.0
 */
export const updatePieces = (
  g: Graph.Graph,
  optimizer: AdamW,
  slot: Slot,
  gradient: Value,
  scalars: UpdateScalars
): Slot => {
  const body = Graph.make(`${g.name}.${slot.weight.name}`, g)
  const piece = (part: string, { shape }: Value) => Graph.input(body, `${body.name}/${part}`, "float32", shape.slice(1))
  const own = {
    weight: piece("weight", slot.weight),
    first: piece("first", slot.first),
    second: piece("second", slot.second)
  }
  const next = update(body, optimizer, own, piece("gradient", gradient), scalars)
  // Under their own names: an output of another name is a copy where the body reads the value too.
  for (const value of [next.weight, next.first, next.second]) Graph.output(body, value.name, value)
  const [weight, first, second] = Op.Scan(g, [slot.weight, slot.first, slot.second, gradient], body)
  return { weight: weight!, first: first!, second: second! }
}

/**
 * One AdamW update of one parameter.
 *
 * @category constructors
 * @since 0.1.0
 */
export const update = (
  g: Graph.Graph,
  { beta1, beta2 }: AdamW,
  { first, second, weight }: Slot,
  unclipped: Value,
  { clip, epsilon, keep, stepSize }: UpdateScalars
): Slot => {
  const gradient = clip === null ? unclipped : Op.Mul(g, unclipped, clip)
  const nextFirst = Op.Add(g, Op.Mul(g, first, Graph.scalar(g, beta1)), gradient)
  const nextSecond = Op.Add(g, Op.Mul(g, second, Graph.scalar(g, beta2)), Op.Mul(g, gradient, gradient))
  const direction = Op.Div(g, nextFirst, Op.Add(g, Op.Sqrt(g, nextSecond), epsilon))
  const kept = keep === null ? weight : Op.Mul(g, weight, keep)
  return {
    weight: Op.Sub(g, kept, Op.Mul(g, direction, stepSize)),
    first: nextFirst,
    second: nextSecond
  }
}

/**
 * Norm of all gradients together, a scalar.
 *
 * @category constructors
 * @since 0.1.0
 */
export const globalNorm = (g: Graph.Graph, gradients: ReadonlyArray<Value>): Value =>
  Op.Sqrt(
    g,
    gradients
      .map((dy) =>
        Op.ReduceSumSquare(
          g,
          dy,
          dy.shape.map((_, i) => i),
          false
        )
      )
      .reduce((a, b) => Op.Add(g, a, b))
  )

/**
 * The factor that brings gradients of norm `norm` down to `maxGradNorm`: `min(1, max / (norm + 1e-6))`, as in PyTorch's
 * `clip_grad_norm_`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const clipFactor = (g: Graph.Graph, norm: Value, maxGradNorm: number): Value =>
  Op.Min(g, Graph.scalar(g, 1), Op.Div(g, Graph.scalar(g, maxGradNorm), Op.Add(g, norm, Graph.scalar(g, 1e-6))))
