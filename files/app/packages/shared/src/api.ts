// What the api and the page say to each other: one definition for both. It needs zod and nothing of a server.
import { z } from "zod";

const position = z.tuple([z.number().min(-180).max(180), z.number().min(-90).max(90)]);
const point = z.object({ type: z.literal("Point"), coordinates: position });

/** A campaign is active while its place lies within a radius of the rule's center. */
export const rule = z.object({
  type: z.literal("within_radius"),
  center: position,
  radiusMeters: z.number().positive().max(20_100_000),
});
export type Rule = z.infer<typeof rule>;

/** What a person sends to create a campaign. */
export const newCampaign = z.object({ name: z.string().trim().min(1).max(200), place: point, rule });
export type NewCampaign = z.infer<typeof newCampaign>;

export const campaign = z.object({
  id: z.uuid(),
  name: z.string(),
  place: point,
  rule,
  state: z.enum(["pending", "active", "inactive"]),
  evaluatedAt: z.iso.datetime().nullable(),
  asset: z.object({ contentType: z.string(), size: z.int() }).nullable(),
  createdAt: z.iso.datetime(),
});
export type Campaign = z.infer<typeof campaign>;

export const credentials = z.object({ username: z.string().max(256), password: z.string().max(4096) });
export type Credentials = z.infer<typeof credentials>;

export const session = z.object({ accessToken: z.string().min(1), expiresIn: z.string() });
export type Session = z.infer<typeof session>;

export const service = z.object({
  name: z.string(),
  status: z.enum(["up", "down"]),
  /** Why it is down is for who signed in. */
  detail: z.string(),
  checkedAt: z.iso.datetime(),
});
export type Service = z.infer<typeof service>;
export const status = z.object({ services: z.array(service) });
export type Status = z.infer<typeof status>;

/** Every error of the api, see RFC 9457. */
export const problem = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  /** Finds the request in the logs. */
  requestId: z.string(),
  /** Everything that is wrong with what was sent. */
  errors: z.array(z.object({ pointer: z.string(), detail: z.string() })).optional(),
});
export type Problem = z.infer<typeof problem>;
