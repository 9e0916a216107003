/** Saves checkpoints until it is killed. Arguments: root, first step. Prints a dot before each save. */
import { Effect } from "effect"
import * as Checkpoint from "../src/Checkpoint.ts"
import * as Tensor from "../src/Tensor.ts"

const [root, first] = process.argv.slice(2)

const loop = Effect.gen(function* () {
  for (let step = Number(first); ; step++) {
    process.stdout.write(".")
    const values = new Float32Array(50_000).fill(step)
    yield* Checkpoint.save(
      root!,
      {
        step,
        fingerprint: "loop",
        tensors: {
          params: new Map([["w", Tensor.float32(values)]]),
          m: new Map([["w", Tensor.float32(values.map((x) => -x))]])
        },
        state: { step }
      },
      { keepLast: 2 }
    )
  }
})

await Effect.runPromise(loop)
