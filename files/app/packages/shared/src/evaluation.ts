import { z } from "zod";

/** What the scheduler puts on the queue and the rules-engine takes from it. */
export const QUEUE = "evaluation";
export const QUEUE_PREFIX = "campaign:queue";
export const evaluationJob = z.object({ campaignId: z.uuid() });
export type EvaluationJob = z.infer<typeof evaluationJob>;

const position = z.tuple([z.number().min(-180).max(180), z.number().min(-90).max(90)]);

/** A campaign is active while its place lies within a radius of the rule's center. */
export const rule = z.object({
  type: z.literal("within_radius"),
  center: position,
  radiusMeters: z.number().positive().max(20_100_000),
});
export type Rule = z.infer<typeof rule>;

/** What a person sends to create a campaign. */
export const newCampaign = z.object({
  name: z.string().trim().min(1).max(200),
  place: z.object({ type: z.literal("Point"), coordinates: position }),
  rule,
});
export type NewCampaign = z.infer<typeof newCampaign>;
