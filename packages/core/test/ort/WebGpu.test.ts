/**
 * Training with the parameters resident on a GPU. Runs when `ATTUNE_TEST_WEBGPU=1`; without a GPU, Chromium's software
 * Vulkan driver will do:
 *
 *     ATTUNE_TEST_WEBGPU=1 VK_ICD_FILENAMES=/usr/lib/chromium/vk_swiftshader_icd.json LD_LIBRARY_PATH=/usr/lib/chromium \
 *       vitest run --project core test/ort/WebGpu.test.ts
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Layer } from "effect"
import type { Decoder } from "../../src/nn/Decoder.ts"
import * as Optimizer from "../../src/onnx/Optimizer.ts"
import * as Device from "../../src/ort/Device.ts"
import * as OrtLearner from "../../src/ort/OrtLearner.ts"
import * as Sft from "../../src/Sft.ts"
import * as Tiny from "./tiny.ts"

const decoders = { gpt2: Tiny.gpt2(), llama: Tiny.llama(), qwen3: Tiny.qwen3() }
const optimizer = Optimizer.adamW({ learningRate: 0.01, weightDecay: 0.01, maxGradNorm: 1 })
const batches = Tiny.batches(10, 4)

const train = <E>(decoder: Decoder, layer: Layer.Layer<Device.Device, E>) =>
  Effect.gen(function* () {
    const device = yield* Device.Device
    const policy = yield* Tiny.policy(decoder)
    const learner = yield* OrtLearner.make({ model: policy, loss: Sft.loss, optimizer })
    const before = yield* device.stats
    const records = yield* learner.update(batches)
    const after = yield* device.stats
    return { losses: records.map((record) => record["loss"]!), before, after }
  }).pipe(Effect.scoped, Effect.provide(layer))

const wanted = process.env["ATTUNE_TEST_WEBGPU"] === "1"

describe.skipIf(!wanted)(wanted ? "on WebGPU" : "on WebGPU (skipped: ATTUNE_TEST_WEBGPU is not 1)", () => {
  for (const [name, decoder] of Object.entries(decoders)) {
    it.effect(
      `ten steps have the losses of the CPU, and the state stays on the device: ${name}`,
      () =>
        Effect.gen(function* () {
          const cpu = yield* train(decoder, Device.layer({ provider: "cpu", threads: 1 }))
          const gpu = yield* train(decoder, Device.layer({ provider: "webgpu" }))
          for (const [i, loss] of gpu.losses.entries()) assert.closeTo(loss, cpu.losses[i]!, 1e-3, `step ${i}`)
          assert.isBelow(gpu.losses[9]!, gpu.losses[0]!)
          // Weights and two moments: as many tensors, and as many bytes, as before the steps.
          assert.strictEqual(gpu.before.tensors, 3 * decoder.parameters.length)
          assert.strictEqual(gpu.after.tensors, gpu.before.tensors)
          assert.strictEqual(gpu.after.bytes, gpu.before.bytes)
        }),
      300_000
    )
  }
})
