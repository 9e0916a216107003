/**
 * A model whose weights lie on the device, where graphs read them and a learner replaces them.
 *
 * @since 0.1.0
 */
import { Effect, type Scope } from "effect"
import type { Pretrained } from "../hub/Pretrained.ts"
import { ModelError } from "../ModelError.ts"
import type { States } from "../nn/Heads.ts"
import type * as Tensor from "../Tensor.ts"
import * as Device from "./Device.ts"

/**
 * A model that a learner can train with a loss on `O`.
 *
 * **Details**
 *
 * `outputs` says what losses read, on top of the final hidden states. `parameters`: the current weights by name, valid until
 * they are replaced or the scope closes. `replaceParameters` takes over the handles given, any of the same names and
 * shapes, and releases those that they replace.
 *
 * @category models
 * @since 0.1.0
 */
export interface Trainable<O> {
  readonly base: Pretrained
  readonly outputs: (states: States) => O
  readonly parameters: Effect.Effect<ReadonlyMap<string, Device.DeviceTensor>>
  readonly replaceParameters: (next: ReadonlyMap<string, Device.DeviceTensor>) => Effect.Effect<void>
}

/**
 * Weights on the device. `base`: the model as it was loaded. `snapshot` downloads the current weights.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResidentModel extends Omit<Trainable<unknown>, "outputs"> {
  readonly snapshot: Effect.Effect<Pretrained, ModelError>
}

/**
 * Uploads a model's weights; they are freed when the scope closes.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  base: Pretrained
) => Effect.Effect<ResidentModel, ModelError | Device.OrtError, Device.Device | Scope.Scope> = Effect.fn(
  "ResidentModel.make"
)(function* (base) {
  const device = yield* Device.Device
  const { decoder, name, tokenizer } = base
  if (tokenizer.vocabSize > decoder.vocabSize) {
    return yield* new ModelError({
      model: name,
      operation: "load",
      message:
        `the tokenizer has ${tokenizer.vocabSize} ids, but the model's vocabulary ${decoder.vocabSize}: ` +
        "they do not belong together"
    })
  }
  let current: ReadonlyMap<string, Device.DeviceTensor> = new Map()
  yield* Effect.addFinalizer(() => Effect.suspend(() => device.release(current.values())))
  for (const { name: parameter } of decoder.parameters) {
    const tensor = base.weights.get(parameter)
    if (tensor === undefined) {
      return yield* new ModelError({ model: name, operation: "load", message: `weights lack the tensor ${parameter}` })
    }
    yield* Effect.uninterruptible(
      Effect.map(device.upload(tensor), (handle) => {
        current = new Map([...current, [parameter, handle]])
      })
    )
  }
  const parameters = Effect.sync(() => current)
  const snapshot = Effect.gen(function* () {
    const weights = new Map<string, Tensor.Tensor<"float32">>()
    for (const [parameter, handle] of yield* parameters) {
      weights.set(parameter, (yield* device.download(handle)) as Tensor.Tensor<"float32">)
    }
    return { ...base, weights }
  }).pipe(Effect.mapError((cause) => new ModelError({ model: name, operation: "save", message: cause.message, cause })))
  return {
    base,
    parameters,
    replaceParameters: (next) =>
      Effect.suspend(() => {
        const before = current
        current = new Map([...before, ...next])
        const kept = new Set(current.values())
        return device.release([...before.values()].filter((handle) => !kept.has(handle)))
      }),
    snapshot
  }
})
