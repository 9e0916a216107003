/**
 * Namespaces of Attune's core, in the order in which data flows through them. Loads no native code.
 *
 * @since 0.1.0
 */
export * as Tensor from "./Tensor.ts"
export * as Tokens from "./Tokens.ts"
export * as Prompt from "./Prompt.ts"
export * as Tokenizer from "./Tokenizer.ts"
export * as Completion from "./Completion.ts"
export * as Rollout from "./Rollout.ts"
export * as Form from "./Form.ts"
export * as Demonstration from "./Demonstration.ts"
export * as Ranking from "./Ranking.ts"
export * as Critique from "./Critique.ts"
export * as Instruction from "./Instruction.ts"
export * as JsonLines from "./JsonLines.ts"
export * as Logprobs from "./Logprobs.ts"
export * as Kl from "./Kl.ts"
export * as UserFunction from "./UserFunction.ts"
export * as RewardModel from "./RewardModel.ts"
export * as FeedbackSource from "./FeedbackSource.ts"
