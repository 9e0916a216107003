/**
 * The weight of the KL penalty over a run: fixed, or steered towards a divergence.
 *
 * A controller is a value: its settings and the present coefficient. {@link next} gives the one to use after a batch, and
 * the schema writes it to a checkpoint and reads it back.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"

const remedy = "the penalty is subtracted, so write the coefficient without a sign"

const Coefficient = Schema.Finite.check(
  Schema.isGreaterThanOrEqualTo(0, {
    message: `klCoef must be 0 (no penalty) or more: ${remedy}`
  })
)

const Steered = Schema.Finite.check(
  Schema.isGreaterThan(0, {
    message: `klCoef of an Adaptive controller must be above 0: ${remedy}; from 0 it could never rise (use Fixed for 0)`
  })
)

const above0 = (name: string, what: string) =>
  Schema.Finite.check(Schema.isGreaterThan(0, { message: `${name} must be above 0: it is ${what}` }))

/**
 * Schema of a controller; as a setting, `klCoef` is the coefficient to start with, in reward per nat.
 *
 * **Details**
 *
 * `Fixed`: the coefficient never changes; InstructGPT's is 0.02.
 *
 * `Adaptive`: raises the coefficient while the policy is further from its reference than `target`, in nats per answer
 * (summed over its tokens), and lowers it while it is nearer; `horizon`, in episodes, sets how slowly. Ziegler et al.
 * 2019 use 0.15, 6 and 10,000 for continuing texts in a style.
 *
 * @category schemas
 * @since 0.1.0
 */
export const KlController = Schema.TaggedUnion({
  Fixed: { klCoef: Coefficient },
  Adaptive: {
    klCoef: Steered,
    target: above0("target", "the divergence to hold, in nats summed over the tokens of an answer"),
    horizon: above0("horizon", "a number of episodes, 10000 in Ziegler et al. 2019")
  }
})

/**
 * A controller and its present coefficient.
 *
 * @category models
 * @since 0.1.0
 */
export type KlController = typeof KlController.Type

/**
 * The divergence that a controller is shown: the mean over answers of the sum over tokens, `objective/kl` in TRL.
 *
 * **Details**
 *
 * `klPerToken`: an array `[T]` for each answer, as `Kl.estimate` gives it. A mean over tokens instead would make a target
 * of 6 nats unreachable. `NaN` without answers.
 *
 * @category math
 * @since 0.1.0
 */
export const observed = (klPerToken: ReadonlyArray<ArrayLike<number>>): number => {
  let sum = 0
  for (const kl of klPerToken) for (let t = 0; t < kl.length; t++) sum += kl[t]!
  return sum / klPerToken.length
}

/**
 * The controller after a batch of `episodes` answers whose divergence was `kl` (see {@link observed}).
 *
 * **Details**
 *
 *     klCoef <- klCoef (1 + clip(kl / target - 1, -0.2, 0.2) min(1, episodes / horizon))
 *
 * Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2, with the gain `episodes / horizon` of their code. Deviation: the
 * minimum with 1, without which a batch of more than five horizons could turn the coefficient negative; it changes nothing
 * in batches up to the horizon.
 *
 * **Gotchas**
 *
 * The coefficient that penalised the batch is the one from before. Throws on a divergence that is not a finite number.
 *
 * **Example** (Too far from the reference)
 *
 * ```ts
 * import { KlController } from "@attune/rlhf"
 *
 * const start = { _tag: "Adaptive", klCoef: 0.5, target: 6, horizon: 1000 } as const
 * KlController.next(start, 9, 500).klCoef // => 0.55
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const next = (controller: KlController, kl: number, episodes: number): KlController => {
  if (!Number.isFinite(kl)) throw new RangeError(`the divergence of a batch is ${kl}`)
  if (!(episodes >= 0)) throw new RangeError(`a batch has ${episodes} episodes`)
  if (controller._tag === "Fixed") return controller
  const error = Math.min(0.2, Math.max(-0.2, kl / controller.target - 1))
  const step = 1 + error * Math.min(1, episodes / controller.horizon)
  return { ...controller, klCoef: controller.klCoef * step }
}
