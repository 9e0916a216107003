/**
 * Models behind HTTP endpoints. Loads no native code.
 *
 * @since 0.1.0
 */
export * as Budget from "./Budget.ts"
export * as ResponseCache from "./ResponseCache.ts"
export * as ChatReply from "./ChatReply.ts"
export * as Exchange from "./Exchange.ts"
export * as ChatEndpoint from "./ChatEndpoint.ts"
export * as ChatCritic from "./ChatCritic.ts"
export * as RewardEndpoint from "./RewardEndpoint.ts"
export * as EmbeddingEndpoint from "./EmbeddingEndpoint.ts"
