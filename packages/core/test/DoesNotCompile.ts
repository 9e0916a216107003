/**
 * Programs that must not compile: `tsc -b` fails where one of them does.
 */
// The checker of effects sees what the compiler is told to expect.
// @effect-diagnostics missingEffectContext:off
import { Effect } from "effect"
import type { Example } from "../src/Loss.ts"
import * as Loss from "../src/Loss.ts"
import type { GradientRule } from "../src/onnx/GradientRules.ts"
import * as Op from "../src/onnx/Op.ts"
import * as Optimizer from "../src/onnx/Optimizer.ts"
import * as OrtLearner from "../src/ort/OrtLearner.ts"
import type { OrtPolicy } from "../src/ort/OrtPolicy.ts"
import type { OrtActorCritic, OrtScalarModel } from "../src/ort/OrtScalarModel.ts"
import * as Policy from "../src/Policy.ts"

declare const policy: OrtPolicy
const optimizer = Optimizer.adamW({ learningRate: 1e-3 })

// An operator without a gradient rule.
export const withoutScan = {} as Record<Exclude<Op.OpName, "Scan">, GradientRule>
// @ts-expect-error Scan has no row
export const table: Record<Op.OpName, GradientRule> = withoutScan

const weighted = Loss.make({
  name: "weighted",
  fields: { advantages: ["N"] },
  metrics: ["mean_advantage"],
  build: ({ fields, g, logprobs, weights }) => ({
    loss: Loss.mean(g, Op.Mul(g, logprobs(), fields.advantages), weights),
    metrics: { mean_advantage: Loss.mean(g, fields.advantages, weights) }
  })
})

// A field that the loss has not declared.
Loss.make({
  name: "undeclared",
  fields: { advantages: ["N"] },
  metrics: [],
  build: ({ fields, g, weights }) => ({
    // @ts-expect-error the field is called advantages
    loss: Loss.mean(g, fields.rewards, weights),
    metrics: {}
  })
})

// A metric that was promised and is not computed.
Loss.make({
  name: "silent",
  fields: {},
  metrics: ["entropy"],
  // @ts-expect-error entropy is missing
  build: ({ g, logprobs, weights }) => ({ loss: Loss.mean(g, logprobs(), weights), metrics: {} })
})

// Losses on what the model does not say, and on what a model with both heads does.
declare const scalarModel: OrtScalarModel
declare const actorCritic: OrtActorCritic
const regression = Loss.makeScalar({
  name: "regression",
  fields: {},
  metrics: ["value"],
  build: ({ g, values, weights }) => {
    const value = Loss.mean(g, values(), weights)
    return { loss: value, metrics: { value } }
  }
})
export const headless = [
  // @ts-expect-error a policy has no values
  OrtLearner.make({ model: policy, loss: regression, optimizer }),
  // @ts-expect-error a scalar model has no log-probs
  OrtLearner.make({ model: scalarModel, loss: weighted, optimizer }),
  OrtLearner.make({ model: actorCritic, loss: regression, optimizer }),
  OrtLearner.make({ model: actorCritic, loss: weighted, optimizer })
]
Loss.makeScalar({
  name: "language",
  fields: {},
  metrics: [],
  // @ts-expect-error log-probs are not what a scalar head says
  build: ({ g, logprobs, weights }) => ({ loss: Loss.mean(g, logprobs(), weights), metrics: {} })
})

// A stop at what is no metric of the loss.
const stop = { metric: "values", above: 1 } as const
// @ts-expect-error the metric is called value
export const endless = OrtLearner.make({ model: scalarModel, loss: regression, optimizer, stop })

// Batches without the fields of the loss.
declare const plain: ReadonlyArray<ReadonlyArray<Example<Record<never, never>>>>
export const fedWrong = Effect.flatMap(OrtLearner.make({ model: policy, loss: weighted, optimizer }), (learner) =>
  // @ts-expect-error examples of this loss carry advantages
  learner.update(plain)
)

// The policy where the frozen reference is needed, and a program without either.
const needsReference = Effect.map(Policy.Reference, ({ name }) => name)
declare const shape: Policy.PolicyShape
// @ts-expect-error a policy is not a reference
export const wrongModel: Effect.Effect<string> = Effect.provideService(needsReference, Policy.Policy, shape)
// @ts-expect-error the reference is missing
Effect.runSync(needsReference)
