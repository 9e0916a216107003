/**
 * Entry of a short-lived child process: runs one tiny graph on the provider named by the first argument and prints the
 * outcome as JSON. A provider whose native library crashes takes this process with it, and no other.
 *
 * @since 0.1.0
 */
import * as Ort from "onnxruntime-node"
import * as IdentityModel from "./IdentityModel.ts"

const report = (outcome: { readonly available: boolean; readonly reason: string }): void => {
  process.stdout.write(`${JSON.stringify(outcome)}\n`)
}

try {
  const session = await Ort.InferenceSession.create(IdentityModel.encode("float32"), {
    executionProviders: [process.argv[2]!],
    logSeverityLevel: 4
  })
  const { y } = await session.run({ x: new Ort.Tensor("float32", Float32Array.of(1, 2), [2]) })
  const right = y !== undefined && y.data[0] === 1 && y.data[1] === 2
  report({ available: right, reason: right ? "a test graph ran" : "a test graph gave wrong values" })
  await session.release()
} catch (error) {
  report({ available: false, reason: error instanceof Error ? error.message : String(error) })
}
