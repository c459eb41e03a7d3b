import "reflect-metadata";
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import { setTimeout } from "node:timers/promises";
import { createLogger, type Pool, type Redis } from "@campaign/shared";
import type { NestFastifyApplication } from "@nestjs/platform-fastify";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createApp } from "../src/app.ts";
import type { Assets } from "../src/assets.ts";
import type { Settings } from "../src/config.ts";

const ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
const MEBIBYTE = 1024 * 1024;
const settings = {
  NODE_ENV: "test",
  OPERATOR_USER: "operator",
  OPERATOR_PASSWORD: "right-password",
  JWT_SECRET: "a-secret-of-the-test",
  JWT_EXPIRATION: "7d",
} as Settings;

const query = vi.fn();
const ping = vi.fn();
const check = vi.fn();
const put = vi.fn();
const remove = vi.fn();
let app: NestFastifyApplication;
let token: string;

beforeEach(async () => {
  for (const mock of [query, ping, check, put, remove]) mock.mockReset().mockResolvedValue(undefined);
  query.mockResolvedValue({ rows: [{ id: ID, asset: { contentType: "image/png", size: 1 } }] });
  app = await createApp({
    settings,
    log: createLogger("test", "silent"),
    pool: { query } as unknown as Pool,
    redis: { ping } as unknown as Redis,
    assets: { check, put, remove } as unknown as Assets,
  });
  await app.init();
  const payload = { username: settings.OPERATOR_USER, password: settings.OPERATOR_PASSWORD };
  const signedIn = await app.inject({ method: "POST", url: "/api/auth/login", payload });
  token = signedIn.json<{ accessToken: string }>().accessToken;
});

afterEach(() => app.close());

describe("readiness", () => {
  it("holds while every dependency answers", async () => {
    const { statusCode } = await app.inject("/api/health/ready");
    expect(statusCode).toBe(200);
    for (const asked of [query, ping, check]) expect(asked).toHaveBeenCalledOnce();
  });

  it.each([
    ["postgres", query],
    ["redis", ping],
    ["s3", check],
  ])("ends when %s does not answer, and the process is live all the same", async (name, ask) => {
    ask.mockRejectedValue(new Error("no answer"));
    const answer = await app.inject("/api/health/ready");
    expect(answer.statusCode).toBe(503);
    expect(answer.json()).toMatchObject({ error: { [name]: { status: "down" } } });
    expect((await app.inject("/api/health/live")).statusCode).toBe(200);
  });
});

describe("signing in", () => {
  const PROXY = "127.0.0.1";
  const attempt = async (password: string, from: string, forwarded?: string) => {
    const payload = { username: settings.OPERATOR_USER, password };
    const headers = forwarded === undefined ? {} : { "x-forwarded-for": forwarded };
    return app.inject({ method: "POST", url: "/api/auth/login", payload, headers, remoteAddress: from });
  };
  const right = settings.OPERATOR_PASSWORD;

  it("is refused after ten failures from one address, also with the right password, and from no other", async () => {
    for (let failures = 0; failures < 10; failures++) {
      expect((await attempt("wrong", PROXY, "198.51.100.1")).statusCode).toBe(401);
    }
    for (const password of ["wrong", right]) {
      const refused = await attempt(password, PROXY, "198.51.100.1");
      expect(refused.statusCode).toBe(429);
      expect(Number(refused.headers["retry-after"])).toBeGreaterThan(0);
      expect(Number(refused.headers["retry-after"])).toBeLessThanOrEqual(300);
    }
    expect((await attempt(right, PROXY, "198.51.100.2")).statusCode).toBe(200);
  });

  it("can be done again and again", async () => {
    for (let times = 0; times < 25; times++) expect((await attempt(right, PROXY)).statusCode).toBe(200);
    for (let failures = 0; failures < 9; failures++) await attempt("wrong", PROXY);
    expect((await attempt(right, PROXY)).statusCode).toBe(200);
  });

  it("believes no address that a client claims by itself, or before its proxy's own words", async () => {
    for (let failures = 0; failures < 10; failures++) {
      await attempt("wrong", "203.0.113.9", `198.51.100.${failures}`);
      await attempt("wrong", PROXY, `198.51.100.${failures}, 203.0.113.10`);
    }
    expect((await attempt(right, "203.0.113.9", "198.51.100.99")).statusCode).toBe(429);
    expect((await attempt(right, PROXY, "198.51.100.99, 203.0.113.10")).statusCode).toBe(429);
  });
});

const place = [13.4, 52.5];
const campaign = {
  name: "Berlin",
  place: { type: "Point", coordinates: place },
  rule: { type: "within_radius", center: place, radiusMeters: 1000 },
};
const upload = (bytes: number) => ({
  method: "PUT" as const,
  url: `/api/campaigns/${ID}/asset`,
  headers: { "content-type": "image/png" },
  payload: Buffer.alloc(bytes),
});

describe("what changes something", () => {
  it.each([
    ["POST", { method: "POST" as const, url: "/api/campaigns", payload: campaign }, 201],
    ["DELETE", { method: "DELETE" as const, url: `/api/campaigns/${ID}` }, 204],
    ["PUT", upload(1), 200],
  ])("is for who signed in: %s", async (_method, request, done) => {
    expect((await app.inject(request)).statusCode).toBe(401);
    for (const asked of [query, put, remove]) expect(asked).not.toHaveBeenCalled();
    const headers = { ...("headers" in request && request.headers), authorization: `Bearer ${token}` };
    expect((await app.inject({ ...request, headers })).statusCode).toBe(done);
    expect(query).toHaveBeenCalled();
  });

  it("stores longitude before latitude, and the rule as it came", async () => {
    const headers = { authorization: `Bearer ${token}` };
    await app.inject({ method: "POST", url: "/api/campaigns", payload: campaign, headers });
    expect(query.mock.calls).toMatchObject([
      [expect.stringContaining("ST_SetSRID(ST_MakePoint($2, $3), 4326)"), ["Berlin", 13.4, 52.5, campaign.rule]],
    ]);
  });
});

describe("an asset", () => {
  it.each([
    [5 * MEBIBYTE, 200, 1],
    [5 * MEBIBYTE + 1, 413, 0],
  ])("of %i bytes is answered with %i", async (bytes, status, stored) => {
    const request = upload(bytes);
    const headers = { ...request.headers, authorization: `Bearer ${token}` };
    expect((await app.inject({ ...request, headers })).statusCode).toBe(status);
    expect(put).toHaveBeenCalledTimes(stored);
  });

  it("that is too large is read to its end, as a proxy sees no answer while it sends", async () => {
    await app.listen(0, "127.0.0.1");
    const asset = upload(5 * MEBIBYTE + 1);
    const headers = { ...asset.headers, authorization: `Bearer ${token}`, "content-length": asset.payload.length };
    const client = request(new URL(asset.url, await app.getUrl()), { method: asset.method, headers });
    const answered = once(client, "response") as Promise<[IncomingMessage]>;
    client.write(asset.payload.subarray(0, 1));
    // An answer would be here by then.
    await expect(Promise.race([answered, setTimeout(200, "none yet")])).resolves.toBe("none yet");
    client.end(asset.payload.subarray(1));
    const [{ statusCode }] = await answered;
    expect(statusCode).toBe(413);
  });
});
