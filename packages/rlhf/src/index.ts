/**
 * Reinforcement learning from human feedback: namespaces in the order in which data flows through them. Loads no native
 * code.
 *
 * @since 0.1.0
 */
export * as RankingSet from "./RankingSet.ts"
export * as PairwiseLoss from "./PairwiseLoss.ts"
export * as RewardModelling from "./RewardModelling.ts"
export * as RewardNormalization from "./RewardNormalization.ts"
export * as BestEpoch from "./BestEpoch.ts"
export * as PpoConfig from "./PpoConfig.ts"
export * as KlController from "./KlController.ts"
export * as TokenReward from "./TokenReward.ts"
export * as Advantage from "./Advantage.ts"
export * as ClippedSurrogate from "./ClippedSurrogate.ts"
export * as PpoLoss from "./PpoLoss.ts"
export * as PpoLearners from "./PpoLearners.ts"
export * as ScoreJournal from "./ScoreJournal.ts"
export * as PpoMetrics from "./PpoMetrics.ts"
export * as Ppo from "./Ppo.ts"
