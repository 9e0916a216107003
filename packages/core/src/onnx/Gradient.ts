/**
 * Reverse-mode differentiation of a graph: appends the backward nodes to it.
 *
 * The walk visits the forward nodes in reverse. It accumulates gradients of values that are used several times, skips
 * paths that reach no parameter, and sums over broadcast axes; what an operator's derivative is, it reads from the table.
 *
 * @since 0.1.0
 */
import { Result, Schema } from "effect"
import type { ForwardNode, GradientRule, ScatterAdd } from "./GradientRules.ts"
import { gradientRules, NotDifferentiable } from "./GradientRules.ts"
import type { Derivative, Node, Value } from "./Graph.ts"
import * as Graph from "./Graph.ts"
import * as Op from "./Op.ts"
import * as Shape from "./Shape.ts"

/**
 * Reports that training reached an operator without a derivative. Write a row in the gradient table, state a derivative
 * with `Graph.derive`, or keep the operator off the path between parameters and loss.
 *
 * @category errors
 * @since 0.1.0
 */
export class MissingGradientRule extends Schema.TaggedError<MissingGradientRule>()("MissingGradientRule", {
  op: Schema.String,
  node: Schema.String
}) {
  override get message(): string {
    return (
      `no gradient rule for the ONNX operator ${this.op} (node ${this.node}): ` +
      "add a row to GradientRules, or keep it off the path between the parameters and the loss"
    )
  }
}

type Contribution = Value | ScatterAdd

const isScatter = (contribution: Contribution): contribution is ScatterAdd => "_tag" in contribution

// Sums dense parts, then adds the sparse ones into them.
const total = (g: Graph.Graph, of: Value, parts: ReadonlyArray<Contribution>): Value => {
  const dense = parts.filter((part): part is Value => !isScatter(part))
  const start = dense.length > 0 ? dense.reduce((a, b) => Op.Add(g, a, b)) : Op.ConstantOfShape(g, of.shape)
  return parts
    .filter(isScatter)
    .reduce((sum, { indices, updates, axis }) => Op.ScatterElements(g, sum, indices, updates, axis, "add"), start)
}

// Integers and booleans are constant almost everywhere: no gradient flows through them.
const isFloat = ({ dtype }: Value): boolean => dtype.includes("float")

const unbroadcast = (g: Graph.Graph, dy: Value, shape: Graph.Shape): Value => {
  const axes = Shape.broadcastAxes(dy.shape, shape)
  return axes.length === 0 ? dy : Op.Reshape(g, Op.ReduceSum(g, dy, axes), shape)
}

/**
 * Appends the nodes that compute d`loss`/d`parameter` to the graph, and returns the gradients by parameter name.
 *
 * **Details**
 *
 * `loss` is a scalar. A parameter that the loss does not depend on has no entry. Parameters are values of this graph or
 * of one around it.
 *
 * **Gotchas**
 *
 * Rules read the attributes that `Op` writes. A graph read from a file may carry others (a softmax over another axis,
 * `alpha` of a `Gemm`), and its gradient would be wrong. Throws where a derivative stated with `Graph.derive` leaves out
 * a parameter that its fragment reads.
 *
 * @category constructors
 * @since 0.1.0
 */
export const backward = (
  graph: Graph.Graph,
  loss: Value,
  parameters: ReadonlyArray<Value>
): Result.Result<ReadonlyMap<string, Value>, MissingGradientRule> => {
  const forward = [...graph.nodes]

  const trainable = new Set(parameters.filter(isFloat).map((parameter) => parameter.name))
  for (const node of forward) {
    // A fragment may read a parameter through nodes of the graph around this one; its stated derivative knows.
    const stated = node.outputs.flatMap((name) => graph.derivatives.get(name)?.inputs ?? [])
    const read = [...Graph.reads(node), ...stated.map(({ name }) => name)]
    if (!read.some((name) => trainable.has(name))) continue
    for (const name of node.outputs) if (isFloat(Graph.value(graph, name))) trainable.add(name)
  }

  const parts = new Map<string, Array<Contribution>>()
  const contribute = (input: Value, part: Value | ScatterAdd | null) => {
    if (part === null || !trainable.has(input.name)) return
    const known = parts.get(input.name) ?? []
    known.push(isScatter(part) ? part : unbroadcast(graph, part, input.shape))
    parts.set(input.name, known)
  }
  const gradient = (value: Value): Value | undefined => {
    const found = parts.get(value.name)
    if (found === undefined) return undefined
    const sum = total(graph, value, found)
    parts.set(value.name, [sum])
    return sum
  }

  const asked = new Set(parameters.map((parameter) => parameter.name))
  const producers = new Map(forward.flatMap((node) => node.outputs.map((name) => [name, node] as const)))
  // A parameter that the fragment of `node` reads beside its stated inputs: silence would leave it untrained.
  const overlooked = (node: Node, { inputs }: Derivative): string | undefined => {
    const seen = new Set(inputs.map((input) => input.name))
    const open = [...Graph.reads(node)]
    for (const name of open) {
      if (seen.has(name) || !trainable.has(name)) continue
      if (asked.has(name)) return name
      seen.add(name)
      open.push(...Graph.reads(producers.get(name)!))
    }
    return undefined
  }

  parts.set(loss.name, [Graph.scalar(graph, 1)])
  for (const node of forward.toReversed()) {
    if (!node.outputs.some((name) => trainable.has(name) && parts.has(name))) continue
    const outputs = node.outputs.map((name) => Graph.value(graph, name))
    const gradients = outputs.map(gradient)
    for (const [i, { name }] of outputs.entries()) {
      const stated = graph.derivatives.get(name)
      const dy = gradients[i]
      if (stated === undefined || dy === undefined) continue
      const forgotten = overlooked(node, stated)
      if (forgotten !== undefined) throw new Error(`the derivative stated for ${name} leaves out ${forgotten}`)
      const dxs = stated.rule(dy)
      for (const [j, input] of stated.inputs.entries()) contribute(input, dxs[j]!)
      gradients[i] = undefined
    }
    if (gradients.every((dy) => dy === undefined)) continue
    const inputs = node.inputs.map((name) => (name === "" ? undefined : Graph.value(graph, name)))
    const rule = (gradientRules as Readonly<Record<string, GradientRule | undefined>>)[node.op]
    const missing = () => Result.fail(new MissingGradientRule({ op: node.op, node: node.name }))
    if (rule === undefined) return missing()
    const seen: ForwardNode = { inputs, outputs, attributes: node.attributes, gradients }
    try {
      const dxs = rule(graph, seen, gradients[0] ?? gradients.find((dy) => dy !== undefined)!)
      for (const [i, input] of inputs.entries()) {
        if (input === undefined) continue
        // An exponent, a bound or a table of angles: silence would leave it untrained.
        if ((dxs[i] ?? null) === null && trainable.has(input.name)) return missing()
        contribute(input, dxs[i] ?? null)
      }
    } catch (error) {
      if (error instanceof NotDifferentiable) return missing()
      throw error
    }
  }

  return Result.succeed(
    new Map(
      parameters.flatMap((parameter): ReadonlyArray<[string, Value]> => {
        const dy = gradient(parameter)
        return dy === undefined ? [] : [[parameter.name, dy]]
      })
    )
  )
}
