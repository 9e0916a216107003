export * as Device from "./Device.ts"
export * as OrtPolicy from "./OrtPolicy.ts"
export * as OrtSampler from "./OrtSampler.ts"
export * as OrtLearner from "./OrtLearner.ts"
