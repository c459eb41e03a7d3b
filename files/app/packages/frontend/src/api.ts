import { z } from "zod";

// The page's Content-Security-Policy allows no eval, and zod would try it.
z.config({ jitless: true });

const state = z.enum(["pending", "active", "inactive"]);
const position = z.tuple([z.number(), z.number()]);
const campaign = z.object({
  id: z.string(),
  name: z.string(),
  place: z.object({ type: z.literal("Point"), coordinates: position }),
  state,
  evaluatedAt: z.string().nullable(),
  asset: z.object({ contentType: z.string(), size: z.number() }).nullable(),
});
export type Campaign = z.infer<typeof campaign>;

const service = z.object({ name: z.string(), status: z.enum(["up", "down"]), detail: z.string() });
export type Service = z.infer<typeof service>;

export interface NewCampaign {
  name: string;
  longitude: number;
  latitude: number;
  radiusMeters: number;
}

const refusal = z.object({ message: z.string(), problems: z.array(z.string()).optional() });
const BASE = String(import.meta.env["VITE_API_URL"] ?? "");

/** Ask the api; what it refuses becomes an error that a person can read. */
async function ask<Schema extends z.ZodType>(
  schema: Schema,
  path: string,
  init: RequestInit = {},
): Promise<z.infer<Schema>> {
  let response: Response;
  try {
    response = await fetch(`${BASE}/api${path}`, init);
  } catch {
    throw new Error("The api cannot be reached. Is the stack running?");
  }
  const body: unknown = await response.json().catch(() => undefined);
  if (!response.ok) {
    const said = refusal.safeParse(body);
    const problems = said.data?.problems?.join("; ");
    throw new Error(problems ?? said.data?.message ?? `The api answered ${response.status}.`);
  }
  return schema.parse(body);
}

const json = (body: unknown, token?: string): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) },
  body: JSON.stringify(body),
});

export const listCampaigns = () => ask(z.array(campaign), "/campaigns");
export const getStatus = async () => (await ask(z.object({ services: z.array(service) }), "/status")).services;
export const signIn = async (username: string, password: string) =>
  (await ask(z.object({ accessToken: z.string() }), "/auth/login", json({ username, password }))).accessToken;

export const createCampaign = ({ name, longitude, latitude, radiusMeters }: NewCampaign, token: string) => {
  const coordinates = [longitude, latitude];
  const rule = { type: "within_radius", center: coordinates, radiusMeters };
  return ask(campaign, "/campaigns", json({ name, place: { type: "Point", coordinates }, rule }, token));
};

export const setAsset = (id: string, file: File, token: string) =>
  ask(campaign, `/campaigns/${id}/asset`, {
    method: "PUT",
    headers: { "content-type": file.type, authorization: `Bearer ${token}` },
    body: file,
  });

export const assetUrl = (id: string) => `${BASE}/api/campaigns/${id}/asset`;
