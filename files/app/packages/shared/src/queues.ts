import { z } from "zod";

/** Everything that BullMQ keeps stands below this prefix. */
export const QUEUE_PREFIX = "campaign:queue";

/** What the scheduler puts on the queue and the rules-engine takes from it. */
export const EVALUATIONS = "evaluation";
export const evaluationJob = z.object({
  campaignId: z.uuid(),
  /** When the campaign had been evaluated last, null for never. A scheduler of 0.2.0 does not say it. */
  evaluatedAt: z.iso.datetime({ precision: 6 }).nullable().optional(),
});
export type EvaluationJob = z.infer<typeof evaluationJob>;

/** The scheduler's own: one job for each of its intervals. */
export const TICKS = "ticks";
export const tickJob = z.object({ seconds: z.int().positive() });
export type TickJob = z.infer<typeof tickJob>;

/**
 * How soon another worker takes up the job of one that was killed: once its lock has ended and two looks for such jobs have passed, 20 s at most.
 * BullMQ's own values make it 90 s. A worker renews its locks every 5 s, so one that is slow keeps its jobs; one that was frozen for longer loses
 * them, and what both do is done once all the same.
 */
export const STALLED = {
  lockDuration: 10_000,
  stalledInterval: 5_000,
  // Workers are replaced and killed without the job being to blame; one that kills its worker is given up after as many.
  maxStalledCount: 10,
};
