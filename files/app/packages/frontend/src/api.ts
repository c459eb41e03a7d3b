import "./zod.ts";
import {
  campaign,
  type Campaign,
  type NewCampaign,
  problem,
  type Service,
  session,
  status,
} from "@campaign/shared/api";
import { z } from "zod";

export type { Campaign, NewCampaign, Service };

const BASE = String(import.meta.env["VITE_API_URL"] ?? "");

/** The token that was sent is no longer valid. */
export class SessionEnded extends Error {
  constructor() {
    super("Your session has ended. Sign in again: what you have entered stays here.");
  }
}

/** Ask the api; what it refuses becomes an error that a person can read. */
async function ask(path: string, init: RequestInit = {}, token?: string): Promise<Response> {
  const headers = new Headers(init.headers);
  if (token !== undefined) headers.set("authorization", `Bearer ${token}`);
  let response: Response;
  try {
    response = await fetch(`${BASE}${path}`, { ...init, headers });
  } catch {
    throw new Error("The api cannot be reached. Is the stack running?");
  }
  if (response.ok) return response;
  if (response.status === 401 && token !== undefined) throw new SessionEnded();
  const said = problem.safeParse(await response.json().catch(() => undefined));
  const errors = said.data?.errors?.map(({ pointer, detail }) => `${pointer.slice("#/".length)}: ${detail}`);
  throw new Error(errors?.join("; ") ?? said.data?.detail ?? `The api answered ${response.status}.`);
}

const read = async <Schema extends z.ZodType>(schema: Schema, response: Response): Promise<z.infer<Schema>> =>
  schema.parse(await response.json());

const json = (body: unknown): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

/** The first pages of the list, and whether there are more. */
export async function listCampaigns(pages: number): Promise<{ campaigns: Campaign[]; hasMore: boolean }> {
  const campaigns: Campaign[] = [];
  let path: string | undefined = "/api/campaigns";
  for (let page = 0; path !== undefined && page < pages; page++) {
    const response: Response = await ask(path);
    campaigns.push(...(await read(z.array(campaign), response)));
    path = /<([^>]+)>; rel="next"/.exec(response.headers.get("link") ?? "")?.[1];
  }
  return { campaigns, hasMore: path !== undefined };
}

/** What runs; who signed in learns why something does not. */
export const getStatus = async (token?: string): Promise<Service[]> =>
  (await read(status, await ask("/api/status", {}, token))).services;

export const signIn = async (username: string, password: string): Promise<string> =>
  (await read(session, await ask("/api/auth/login", json({ username, password })))).accessToken;

export const createCampaign = async (what: NewCampaign, token: string): Promise<Campaign> =>
  read(campaign, await ask("/api/campaigns", json(what), token));

export const deleteCampaign = async (id: string, token: string): Promise<void> => {
  await ask(`/api/campaigns/${id}`, { method: "DELETE" }, token);
};

export const setAsset = async (id: string, file: File, token: string): Promise<Campaign> => {
  const init = { method: "PUT", headers: { "content-type": file.type }, body: file };
  return read(campaign, await ask(`/api/campaigns/${id}/asset`, init, token));
};

export const assetUrl = (id: string) => `${BASE}/api/campaigns/${id}/asset`;
