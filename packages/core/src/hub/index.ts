/**
 * Hugging Face models in and out of directories, and down from the Hub.
 *
 * @since 0.1.0
 */
export * as Safetensors from "./Safetensors.ts"
export * as Config from "./Config.ts"
export * as Pretrained from "./Pretrained.ts"
export * as ScalarHead from "./ScalarHead.ts"
export * as OnnxExport from "./OnnxExport.ts"
export * as Download from "./Download.ts"
