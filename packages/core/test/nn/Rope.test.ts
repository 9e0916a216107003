import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Rope from "../../src/nn/Rope.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Run from "../onnx/run.ts"
import * as Differences from "./differences.ts"

/**
 * From transformers 5.18.0 with PyTorch 2.13.0 (CPU):
 *
 *     from transformers import LlamaConfig
 *     from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
 *     for parameters in [
 *         dict(rope_type="default", rope_theta=10000.0),
 *         dict(rope_type="linear", rope_theta=10000.0, factor=4.0),
 *         dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
 *              original_max_position_embeddings=8192)]:
 *         config = LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=131072,
 *                              rope_parameters=parameters)
 *         print([float(f"{f:.9g}") for f in LlamaRotaryEmbedding(config).inv_freq.tolist()])
 */
const published: ReadonlyArray<readonly [string, Rope.RopeSettings, ReadonlyArray<number>]> = [
  [
    "default",
    { theta: 10000 },
    [
      1.0, 0.562341332, 0.316227764, 0.177827939, 0.100000001, 0.0562341288, 0.0316227786, 0.0177827943, 0.00999999978,
      0.00562341325, 0.00316227786, 0.00177827943, 0.00100000005, 0.000562341302, 0.000316227786, 0.00017782794
    ]
  ],
  [
    "linear",
    { theta: 10000, scaling: { factor: 4 } },
    [
      0.25, 0.140585333, 0.079056941, 0.0444569848, 0.0250000004, 0.0140585322, 0.00790569466, 0.00444569858,
      0.00249999994, 0.00140585331, 0.000790569466, 0.000444569858, 0.000250000012, 0.000140585325, 7.90569466e-5,
      4.44569851e-5
    ]
  ],
  [
    "llama3",
    { theta: 500000, scaling: { factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 } },
    [
      1.0, 0.440366626, 0.193922758, 0.0853971019, 0.0376060307, 0.0165604409, 0.00729266508, 0.00321144611,
      0.000524846022, 7.78465546e-5, 3.42810235e-5, 1.50962178e-5, 6.64786967e-6, 2.92749974e-6, 1.28917316e-6,
      5.6770881e-7
    ]
  ]
]

describe("frequencies", () => {
  for (const [name, settings, expected] of published) {
    it(`are those of transformers: ${name}`, () => {
      // float32 numbers: a rounding or two apart.
      Run.close(Rope.frequencies(32, settings), expected, name, { absolute: 0, relative: 2.5e-7 })
    })
  }
})

describe("rotate", () => {
  const [heads, headDim] = [2, 4]
  const perPosition = Rope.frequencies(headDim, { theta: 100 })
  const fragment: Differences.Fragment = {
    trains: { x: ["M", heads * headDim] },
    given: { positions: ["int64", ["M"]] },
    build: (g, x) => Rope.rotate(g, x("x"), Rope.angles(g, x("positions"), perPosition))
  }
  const feeds = (positions: ReadonlyArray<number>, seed: number) => ({
    x: Differences.real(Run.seeded(seed), [positions.length, heads * headDim]),
    positions: Tensor.int64(positions)
  })

  it.effect("turns x[i] and x[i + Dh / 2] of every head by position times frequency", () =>
    Effect.gen(function* () {
      const positions = [0, 3, 1, 50]
      const given = feeds(positions, 1)
      const half = headDim / 2
      const expected = Array.from(given.x.data, (value, at) => {
        const [row, i] = [Math.floor(at / (heads * headDim)), at % headDim]
        const angle = positions[row]! * perPosition[i % half]!
        const [other, sign] = i < half ? [given.x.data[at + half]!, -1] : [given.x.data[at - half]!, 1]
        return value * Math.cos(angle) + sign * other * Math.sin(angle)
      })
      const { y } = yield* Run.once(Differences.forward(fragment), given)
      Run.close(Run.numbers(y), expected, "turned", { absolute: 1e-5 })
    })
  )

  it.effect("has the gradients of differences", () =>
    Differences.check(fragment, [feeds([0, 1, 2], 2), feeds([7, 7, 0, 31], 3), feeds([5], 4)])
  )
})
