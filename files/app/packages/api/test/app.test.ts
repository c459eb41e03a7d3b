import "reflect-metadata";
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import { setTimeout } from "node:timers/promises";
import {
  type Campaign,
  createLogger,
  type Logger,
  type Pool,
  problem,
  type Redis,
  type Status,
} from "@campaign/shared";
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
  JWT_SECRET_PREVIOUS: [] as Settings["JWT_SECRET_PREVIOUS"],
  JWT_EXPIRATION: "7d",
} as Settings;

const stored = {
  id: ID,
  name: "Berlin",
  createdAt: "2026-11-26T12:00:00.000001Z",
  asset: { contentType: "image/png", size: 1 },
} as Campaign;

const query = vi.fn();
const ping = vi.fn();
const check = vi.fn();
const put = vi.fn();
const get = vi.fn();
const remove = vi.fn();
const close = vi.fn();
const quit = vi.fn();
const end = vi.fn();
const mocks = [query, ping, check, get, put, remove, close, quit, end];
let lines: string[];
let app: NestFastifyApplication;
let token: string;

async function open(values: Settings): Promise<void> {
  lines = [];
  const log: Logger = createLogger("api", "info", { write: (line: string) => void lines.push(line) });
  app = await createApp({
    settings: values,
    log,
    pool: { query, end } as unknown as Pool,
    redis: { ping, quit, get: () => Promise.resolve(null) } as unknown as Redis,
    assets: { check, get, put, remove, close } as unknown as Assets,
  });
  await app.init();
}

beforeEach(async () => {
  for (const mock of mocks) mock.mockReset().mockResolvedValue(undefined);
  query.mockResolvedValue({ rows: [stored] });
  await open(settings);
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
    ask.mockRejectedValue(Object.assign(new Error("connect ECONNREFUSED 10.1.2.3:4"), { code: "ECONNREFUSED" }));
    const answer = await app.inject("/api/health/ready");
    expect(answer.statusCode).toBe(503);
    expect(answer.json()).toMatchObject({ error: { [name]: { status: "down", message: "ECONNREFUSED" } } });
    expect(answer.body).not.toContain("10.1.2.3");
    expect(lines.join("")).toContain("10.1.2.3");
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

describe("the status", () => {
  const ask = async (headers = {}) => {
    ping.mockRejectedValue(new Error("connect ECONNREFUSED 10.1.2.3:4"));
    const { services } = (await app.inject({ url: "/api/status", headers })).json<Status>();
    return Object.fromEntries(services.map(({ name, status, detail }) => [name, `${status}: ${detail}`]));
  };

  it("tells strangers what is down, and not why", async () => {
    expect(await ask({ authorization: "Bearer wrong" })).toMatchObject({
      postgres: "up: answers",
      redis: "down: does not answer",
      minio: "up: answers",
      scheduler: "down: does not answer",
    });
  });

  it("tells who signed in why", async () => {
    expect(await ask({ authorization: `Bearer ${token}` })).toMatchObject({
      redis: "down: connect ECONNREFUSED 10.1.2.3:4",
      scheduler: "down: no heartbeat for 15 s",
    });
  });
});

describe("a problem", () => {
  it.each<[number, string, object]>([
    [
      400,
      "a body that is no JSON",
      { method: "POST", url: "/api/auth/login", payload: "{", headers: { "content-type": "application/json" } },
    ],
    [400, "an id that is none", { url: "/api/campaigns/none" }],
    [401, "no token", { method: "POST", url: "/api/campaigns", payload: {} }],
    [404, "a route that is not there", { url: "/api/nowhere" }],
    [
      413,
      "a body that is too large",
      { method: "POST", url: "/api/auth/login", payload: { username: "x".repeat(6 * MEBIBYTE) } },
    ],
    [
      415,
      "a type that is not understood",
      { method: "POST", url: "/api/auth/login", payload: "x", headers: { "content-type": "text/csv" } },
    ],
  ])("of %i is told in one form: %s", async (status, _name, request) => {
    const answer = await app.inject(request);
    expect(answer.statusCode).toBe(status);
    expect(answer.headers["content-type"]).toMatch(/^application\/problem\+json/);
    const told = problem.parse(answer.json());
    expect(told).toMatchObject({ status, requestId: answer.headers["x-request-id"] });
    expect(answer.headers["www-authenticate"]).toBe(status === 401 ? "Bearer" : undefined);
  });

  it("names everything that is wrong with a request", async () => {
    const payload = { ...campaign, name: "", rule: { ...campaign.rule, radiusMeters: 0 } };
    const headers = { authorization: `Bearer ${token}` };
    const answer = await app.inject({ method: "POST", url: "/api/campaigns", payload, headers });
    const { errors = [] } = problem.parse(answer.json());
    expect(errors.map(({ pointer }) => pointer)).toEqual(["#/name", "#/rule/radiusMeters"]);
  });

  it("of the api itself stays in its log, under the id that the client was told", async () => {
    query.mockRejectedValue(new Error('relation "secret" is not there'));
    const answer = await app.inject({ url: "/api/campaigns", headers: { "x-request-id": "0123456789abcdef" } });
    expect(answer.statusCode).toBe(500);
    expect(answer.body).not.toContain("secret");
    expect(problem.parse(answer.json()).requestId).toBe("0123456789abcdef");
    const logged = lines.map((line) => JSON.parse(line) as object);
    expect(logged).toContainEqual(
      expect.objectContaining({ requestId: "0123456789abcdef", error: 'relation "secret" is not there' }),
    );
    expect(logged).toContainEqual(
      expect.objectContaining({ requestId: "0123456789abcdef", msg: "request", status: 500 }),
    );
  });
});

describe("a request's id", () => {
  it.each(["short", "x".repeat(65), 'a"b,{}\\n12345', "with a space"])(
    "is not taken from a client that says %j",
    async (given) => {
      const { headers } = await app.inject({ url: "/api/health/live", headers: { "x-request-id": given } });
      expect(headers["x-request-id"]).toMatch(/^[0-9a-f-]{36}$/);
    },
  );
});

describe("a list", () => {
  const rows = [3, 2, 1].map((number) => ({ ...stored, createdAt: `2026-11-26T12:00:00.00000${number}Z` }));

  it("says where the next ones are, and goes on from there", async () => {
    query.mockResolvedValue({ rows });
    const first = await app.inject("/api/campaigns?limit=2");
    expect(first.json<Campaign[]>()).toHaveLength(2);
    const [, next = ""] = /^<(\S+)>; rel="next"$/.exec(String(first.headers["link"])) ?? [];
    query.mockReset().mockResolvedValue({ rows: rows.slice(2) });
    const second = await app.inject(next);
    expect(query.mock.calls).toMatchObject([[expect.stringContaining("<"), [3, "2026-11-26T12:00:00.000002Z", ID]]]);
    expect(second.headers["link"]).toBeUndefined();
  });

  it.each(["limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=WyJ4IiwieSJd", "cursor="])(
    "refuses %s",
    async (asked) => {
      expect((await app.inject(`/api/campaigns?${asked}`)).statusCode).toBe(400);
    },
  );
});

describe("what a client has already", () => {
  it.each(["/api/campaigns", `/api/campaigns/${ID}`, `/api/campaigns/${ID}/asset`])(
    "is not sent again: %s",
    async (url) => {
      get.mockResolvedValue(Buffer.from("an image"));
      const { headers, body } = await app.inject(url);
      expect(body).not.toBe("");
      const etag = String(headers["etag"]);
      const ask = async (tags: string) => app.inject({ url, headers: { "if-none-match": tags } });
      for (const tags of [etag, etag.replace("W/", ""), `"another", ${etag}`]) {
        expect(await ask(tags)).toMatchObject({ statusCode: 304, body: "" });
      }
      expect((await ask('"another"')).statusCode).toBe(200);
      // What changed is sent.
      query.mockResolvedValue({ rows: [{ ...stored, name: "Rome" }] });
      get.mockResolvedValue(Buffer.from("another"));
      expect((await ask(etag)).statusCode).toBe(200);
    },
  );

  it("is found where a new campaign says", async () => {
    const headers = { authorization: `Bearer ${token}` };
    const created = await app.inject({ method: "POST", url: "/api/campaigns", payload: campaign, headers });
    expect(created.headers["location"]).toBe(`/api/campaigns/${ID}`);
  });
});

describe("the api's document", () => {
  interface Document {
    paths: Record<
      string,
      Record<string, { security?: object[]; requestBody?: object; responses: Record<string, object> }>
    >;
  }

  it("and its page are there in development", async () => {
    await app.close();
    await open({ ...settings, NODE_ENV: "development" });
    const { paths } = (await app.inject("/api/openapi.json")).json<Document>();
    const operations = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, { security }]) => `${security ? "signed in " : ""}${method} ${path}`),
    );
    expect(operations.toSorted()).toEqual(
      [
        "get /api/campaigns",
        "get /api/campaigns/{id}",
        "get /api/campaigns/{id}/asset",
        "get /api/health/live",
        "get /api/health/ready",
        "get /api/status",
        "post /api/auth/login",
        "signed in delete /api/campaigns/{id}",
        "signed in post /api/campaigns",
        "signed in put /api/campaigns/{id}/asset",
      ].toSorted(),
    );
    const create = paths["/api/campaigns"]!["post"]!;
    expect(JSON.stringify(create.requestBody)).toContain('"maximum":20100000');
    expect(JSON.stringify(create.responses["201"])).toContain('"evaluatedAt"');
    expect(JSON.stringify(create.responses["default"])).toContain("application/problem+json");
    const page = await app.inject("/api/docs");
    expect(page.body).toContain("swagger-ui");
    expect(page.body).not.toMatch(/(src|href)="(https?:)?\/\//);
    for (const [, file] of page.body.matchAll(/(?:src|href)="\.?\/?([^"]+)"/g)) {
      expect((await app.inject(`/api/${file!.replace(/^(docs\/)?/, "docs/")}`)).statusCode, file).toBe(200);
    }
  });

  it.each(["/api/openapi.json", "/api/docs"])("is not there otherwise: %s", async (url) => {
    expect((await app.inject(url)).statusCode).toBe(404);
  });
});

describe("the end", () => {
  it("closes every connection after the last answer", async () => {
    await app.close();
    for (const closed of [close, quit, end]) expect(closed).toHaveBeenCalledOnce();
    expect(lines.join("")).toMatch(/"draining"[^]*"stopped"/);
    await open(settings);
  });
});
