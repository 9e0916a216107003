/**
 * The next token from logits, as graph fragments: what reshapes the distribution, the draw, and the log-probs of the
 * token that was drawn.
 *
 * Log-probs are in nats. Processors run in the order of Hugging Face's `generate`: repetition penalty, temperature,
 * top-k, top-p.
 *
 * @since 0.1.0
 */
import type { Dim, Graph, Value } from "./Graph.ts"
import * as GraphOf from "./Graph.ts"
import * as Op from "./Op.ts"

/**
 * Which processors a graph contains. Their settings are values that are fed, so that another temperature needs no other
 * graph. `greedy` takes the most likely token, ties to the smallest id, and leaves no use for the last three.
 *
 * @category models
 * @since 0.1.0
 */
export interface Processors {
  readonly greedy: boolean
  readonly repetitionPenalty: boolean
  readonly temperature: boolean
  readonly topK: boolean
  readonly topP: boolean
}

/**
 * Settings of the processors: `temperature`, `topP` and `repetitionPenalty` are `float32` scalars, `topK` is an `int64`
 * vector of one element in `1 .. V`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly repetitionPenalty: Value
  readonly temperature: Value
  readonly topK: Value
  readonly topP: Value
}

/**
 * Declares the settings that `processors` read as inputs of `g`, and returns a record in which the others are left out.
 *
 * @category constructors
 * @since 0.1.0
 */
export const declare = (g: Graph, processors: Processors): Partial<Settings> => ({
  ...(processors.repetitionPenalty ? { repetitionPenalty: GraphOf.input(g, "repetitionPenalty", "float32", []) } : {}),
  ...(processors.temperature ? { temperature: GraphOf.input(g, "temperature", "float32", []) } : {}),
  ...(processors.topK ? { topK: GraphOf.input(g, "topK", "int64", [1]) } : {}),
  ...(processors.topP ? { topP: GraphOf.input(g, "topP", "float32", []) } : {})
})

/**
 * Logits `[B, V]` after the processors; tokens that cannot be drawn have `-Infinity`.
 *
 * **Details**
 *
 * `previous` `[B, S]` (`int64`) are the tokens that the repetition penalty counts, prompt included; one that stands
 * there twice is penalised once. Tokens that tie with the last one kept by top-k or top-p are kept too, so the result
 * does not depend on the order of ids.
 *
 * @category constructors
 * @since 0.1.0
 */
export const process = (g: Graph, logits: Value, settings: Partial<Settings>, previous?: Value): Value => {
  let x = logits
  if (settings.repetitionPenalty !== undefined) {
    if (previous === undefined) throw new Error(`graph ${g.name}: the repetition penalty needs the previous tokens`)
    const present = Op.GatherElements(g, x, previous, 1)
    const negative = Op.Less(g, present, GraphOf.scalar(g, 0))
    const penalised = Op.Where(
      g,
      negative,
      Op.Mul(g, present, settings.repetitionPenalty),
      Op.Div(g, present, settings.repetitionPenalty)
    )
    x = Op.ScatterElements(g, x, previous, penalised, 1)
  }
  if (settings.temperature !== undefined) x = Op.Div(g, x, settings.temperature)
  const impossible = GraphOf.scalar(g, Number.NEGATIVE_INFINITY)
  const count: Dim = settings.topK === undefined ? logits.shape[1]! : `${g.name}/k`
  if (settings.topK !== undefined) {
    const { values } = Op.TopK(g, x, settings.topK, count)
    const last = Op.Slice(g, values, GraphOf.ints(g, [-1]), GraphOf.ints(g, [Number.MAX_SAFE_INTEGER]), 1, 1)
    x = Op.Where(g, Op.Less(g, x, last), impossible, x)
  }
  if (settings.topP !== undefined) {
    const p = Op.Softmax(g, x)
    const { values: sorted } = Op.TopK(g, p, settings.topK ?? GraphOf.ints(g, [logits.shape[1] as number]), count)
    // A token is kept while those before it do not reach topP, so the first one always is.
    const before = Op.Sub(g, Op.CumSum(g, sorted, 1), sorted)
    const kept = Op.Cast(g, Op.Less(g, before, settings.topP), "int64")
    const lastKept = Op.Sub(g, Op.ReduceSum(g, kept, [1]), GraphOf.ints(g, [1]))
    const smallest = Op.GatherElements(g, sorted, lastKept, 1)
    x = Op.Where(g, Op.Less(g, p, smallest), impossible, x)
  }
  return x
}

/**
 * How {@link draw} cuts a vocabulary of `V` tokens: `blocks` blocks of `size`, the last one padded by `padding`
 * tokens of probability zero.
 *
 * @category models
 * @since 0.1.0
 */
export interface Blocks {
  readonly size: number
  readonly blocks: number
  readonly padding: number
}

/**
 * Blocks of about `√V` tokens, without padding where a power of two allows it.
 *
 * @category math
 * @since 0.1.0
 */
export const blocks = (vocabSize: number): Blocks => {
  const ideal = 2 ** Math.round(Math.log2(Math.sqrt(vocabSize)))
  let size = ideal
  while (size >= 16 && vocabSize % size !== 0) size /= 2
  if (vocabSize % size !== 0 || size < ideal / 8) size = ideal
  const count = Math.ceil(vocabSize / size)
  return { size, blocks: count, padding: count * size - vocabSize }
}

/**
 * What {@link draw} needs and no step changes: made once, outside of a loop. `firstBlocks` `[B, 1]` numbers the first
 * block of each row, `padding` `[B, padding]` is zero.
 *
 * @category models
 * @since 0.1.0
 */
export interface Cuts {
  readonly cut: Blocks
  readonly firstBlocks: Value
  readonly padding: Value | null
}

/**
 * Makes the {@link Cuts} of a batch of `batch` rows.
 *
 * @category constructors
 * @since 0.1.0
 */
export const cuts = (g: Graph, batch: Dim, vocabSize: number): Cuts => {
  const cut = blocks(vocabSize)
  const rows = Op.Reshape(g, Op.Range(g, batch), [batch, 1])
  return {
    cut,
    firstBlocks: Op.Mul(g, rows, GraphOf.ints(g, [cut.blocks])),
    padding: cut.padding === 0 ? null : Op.ConstantOfShape(g, [batch, cut.padding])
  }
}

// How many of the running sums along the last axis do not exceed `fraction` of the total.
const position = (g: Graph, x: Value, fraction: Value, keepDims: boolean): Value => {
  const axis = x.shape.length - 1
  const sums = Op.CumSum(g, x, axis)
  const total = Op.Gather(g, sums, GraphOf.ints(g, [(x.shape.at(-1) as number) - 1]), axis)
  const passed = Op.LessOrEqual(g, sums, Op.Mul(g, total, fraction))
  return Op.ReduceSum(g, Op.Cast(g, passed, "int64"), [axis], keepDims)
}

/**
 * A token `[B, 1]` (`int64`) for each row of probabilities `[B, V]`, by inverse cumulative sums: `first` `[B, 1]`
 * chooses a block of tokens, `second` `[B, 1, 1]` a token of that block.
 *
 * **Details**
 *
 * Both are uniform in `(0, 1 - 2⁻²⁴]`. In `float32` the product of a total and such a number is smaller than the
 * total, so a sum that exceeds it exists, and the first one that does has just grown: a token of probability zero is
 * never drawn. Two short sums in place of one over the vocabulary are exact to about `2√V` roundings and can be
 * computed side by side.
 *
 * @category constructors
 * @since 0.1.0
 */
export const draw = (
  g: Graph,
  probabilities: Value,
  first: Value,
  second: Value,
  { cut, firstBlocks, padding }: Cuts
): Value => {
  const { blocks, size } = cut
  const batch = probabilities.shape[0]!
  const rows: Dim = typeof batch === "number" ? batch * blocks : `${blocks}*${batch}`
  const whole = padding === null ? probabilities : Op.Concat(g, [probabilities, padding], 1)
  const flat = Op.Reshape(g, whole, [rows, size])
  const sums = Op.Reshape(g, Op.ReduceSum(g, flat, [1], false), [batch, blocks])
  const block = position(g, sums, first, true)
  const inside = Op.Gather(g, flat, Op.Add(g, block, firstBlocks)) // [B, 1, size]
  return Op.Add(g, Op.Mul(g, block, GraphOf.ints(g, [size])), position(g, inside, second, false))
}

/**
 * Random numbers of one step: see {@link draw}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Noise {
  readonly first: Value
  readonly second: Value
  readonly cuts: Cuts
}

/**
 * How the log-prob under the distribution that was drawn from follows from the settings: it is the model's own where
 * nothing changes the distribution, 0 where the choice is greedy, and computed otherwise.
 *
 * @category math
 * @since 0.1.0
 */
export const drawnLogprob = (processors: Processors): "model" | "zero" | "computed" => {
  if (processors.greedy) return "zero"
  const { repetitionPenalty, temperature, topK, topP } = processors
  return repetitionPenalty || temperature || topK || topP ? "computed" : "model"
}

/**
 * A token and its log-probs, all `[B, 1]`: `untempered` under the model (temperature 1, nothing cut), `logprob` under
 * the distribution that was drawn from, or null where {@link drawnLogprob} knows it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Next {
  readonly token: Value
  readonly logprob: Value | null
  readonly untempered: Value
}

// log softmax(x)[token], without writing a second [B, V] matrix.
const logprobOf = (g: Graph, x: Value, token: Value): Value => {
  const highest = Op.ReduceMax(g, x, [1])
  const sum = Op.ReduceSum(g, Op.Exp(g, Op.Sub(g, x, highest)), [1])
  return Op.Sub(g, Op.Sub(g, Op.GatherElements(g, x, token, 1), highest), Op.Log(g, sum))
}

/**
 * Draws the next token from logits `[B, V]`. Without `noise` the choice is greedy.
 *
 * @category constructors
 * @since 0.1.0
 */
export const next = (
  g: Graph,
  logits: Value,
  settings: Partial<Settings>,
  noise: Noise | null,
  previous?: Value
): Next => {
  const processed = process(g, logits, settings, previous)
  if (noise === null) {
    const token = Op.ArgMax(g, processed, 1)
    return { token, logprob: null, untempered: logprobOf(g, logits, token) }
  }
  const p = Op.Softmax(g, processed)
  const token = draw(g, p, noise.first, noise.second, noise.cuts)
  const logprob = Op.Log(g, Op.GatherElements(g, p, token, 1))
  return processed === logits
    ? { token, logprob: null, untempered: logprob }
    : { token, logprob, untempered: logprobOf(g, logits, token) }
}
