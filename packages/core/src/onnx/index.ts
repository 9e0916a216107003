export * as Graph from "./Graph.ts"
export * as Model from "./Model.ts"
