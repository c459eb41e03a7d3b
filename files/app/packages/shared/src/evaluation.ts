import { z } from "zod";

/** What the scheduler puts on the queue and the rules-engine takes from it. */
export const QUEUE = "evaluation";
export const QUEUE_PREFIX = "campaign:queue";
export const evaluationJob = z.object({ campaignId: z.uuid() });
export type EvaluationJob = z.infer<typeof evaluationJob>;
