import { assert, describe, it } from "@effect/vitest"
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node"
import type { Attribute, Graph, Node, Value } from "../../src/onnx/Graph.ts"
import * as Model from "../../src/onnx/Model.ts"
import * as Tensor from "../../src/Tensor.ts"

const node = (
  op: string,
  inputs: ReadonlyArray<string>,
  outputs: ReadonlyArray<string>,
  attributes: Record<string, Attribute> = {},
  domain = ""
): Node => ({ op, domain, name: `${op}_${outputs[0]}`, inputs, outputs, attributes })

const graphOf = (
  name: string,
  inputs: Array<Value>,
  outputs: Array<Value>,
  initializers: Record<string, Tensor.Tensor>,
  nodes: Array<Node>
): Graph => ({
  name,
  nodes,
  inputs,
  outputs,
  initializers: new Map(Object.entries(initializers)),
  values: new Map([
    ...inputs.map((value) => [value.name, value] as const),
    ...outputs.map((value) => [value.name, value] as const),
    ...Object.entries(initializers).map(
      ([key, { dtype, shape }]) => [key, { name: key, dtype, shape }] as const
    )
  ])
})

const float32 = (name: string, ...shape: Array<number | string>): Value => ({ name, dtype: "float32", shape })

// state = x; three times: state = gelu(clip(state W, max: 100) + one); `one` is the body's own initializer,
// `W` belongs to the outer graph, the condition input of Loop and the lower bound of Clip are left out.
const loopGraph = (): Graph => {
  const body = graphOf(
    "body",
    [
      { name: "step", dtype: "int64", shape: [] },
      { name: "keep", dtype: "bool", shape: [] },
      float32("state", "B", 2)
    ],
    [{ name: "keepOn", dtype: "bool", shape: [] }, float32("next", "B", 2)],
    { one: Tensor.float32([1], [1]) },
    [
      node("Identity", ["keep"], ["keepOn"]),
      node("MatMul", ["state", "W"], ["product"]),
      node("Constant", [], ["most"], { value: { tensor: Tensor.scalar(100) } }),
      node("Clip", ["product", "", "most"], ["clipped"]),
      node("Add", ["clipped", "one"], ["sum"]),
      node("Identity", ["sum"], ["next"])
    ]
  )
  return graphOf(
    "main",
    [float32("x", "B", 2)],
    [float32("y", "B", 2), float32("z", "B", 2)],
    { W: Tensor.float32([1, 2, 3, 4], [2, 2]), trips: Tensor.int64([3], []) },
    [
      node("Loop", ["trips", "", "x"], ["y"], { body: { graph: body } }),
      node("FastGelu", ["y"], ["z"], {}, "com.microsoft")
    ]
  )
}

// by hand, x = [1, 0]: [2, 3], [12, 17], [64, 93]
const expectLoopResult = async (session: InferenceSession) => {
  const { y, z } = await session.run({ x: new OrtTensor("float32", Float32Array.of(1, 0), [1, 2]) })
  assert.deepStrictEqual(Array.from(y!.data as Float32Array), [64, 93])
  assert.deepStrictEqual(Array.from(z!.data as Float32Array), [64, 93])
}

describe("encode", () => {
  it("writes a model with a Loop, an omitted input and another domain that the runtime runs", async () => {
    await expectLoopResult(await InferenceSession.create(Model.encode(loopGraph())))
  })
})
