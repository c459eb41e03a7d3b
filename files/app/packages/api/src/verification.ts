import { randomBytes, randomUUID, X509Certificate } from "node:crypto";
import { request as requestHttp, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import { request as requestHttps, type RequestOptions } from "node:https";
import { buffer } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { checkServerIdentity } from "node:tls";
import type { NewCampaign } from "@campaign/shared";
import { z } from "zod";

/** What was expected, and what came instead. */
export class Unexpected extends Error {
  constructor(expected: string, got: string) {
    super(`expected ${expected}; got ${got}`.replace(/\s+/g, " "));
  }
}

/** Where to ask, and by which name and certificate the server is known. */
export interface Target {
  /** Such as `http://frontend:8080`. */
  origin: string;
  /** The server's certificate and chain in PEM. Given, nothing else is trusted. */
  certificate?: string | undefined;
  /** The name to ask for and to find in the certificate, in place of the origin's. */
  serverName?: string | undefined;
}

export interface Limits {
  /** Milliseconds for one request. */
  request: number;
  /** Milliseconds until both campaigns must have been evaluated. */
  evaluation: number;
  /** Milliseconds between two questions for their state. */
  pause: number;
}

interface Question {
  token?: string;
  json?: unknown;
  image?: Buffer;
}

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

// A PNG of one pixel. What follows its end is no part of the picture, and makes each asset another one.
const PIXEL = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAIB+y7UpAAAAABJRU5ErkJggg==",
  "base64",
);
// What is promised, and not what the api says of itself, or the verification would follow an api that forgot its limit.
const MAXIMUM_ASSET_BYTES = 5 * 1024 * 1024;
const image = (bytes: number) => Buffer.concat([PIXEL, randomBytes(bytes - PIXEL.length)]);

const CENTER: [number, number] = [13.4, 52.5];
// 680 m and 2.7 km to the east of the center, of which the rule covers 1 km. Longitudes, so that a place whose coordinates are
// swapped, or a radius in another unit, changes one state or the other.
const PLACES = {
  active: [13.41, 52.5],
  inactive: [13.44, 52.5],
} satisfies Record<string, [number, number]>;
type Expected = keyof typeof PLACES;

function campaign(place: [number, number]): NewCampaign {
  return {
    name: `verification ${randomUUID()}`,
    place: { type: "Point", coordinates: place },
    rule: { type: "within_radius", center: CENTER, radiusMeters: 1000 },
  };
}

function shorten(text: string): string {
  return text.length > 200 ? `${text.slice(0, 197)}...` : text;
}

/** What the connection itself says about the server. */
function tlsOptions({ certificate, serverName }: Target): RequestOptions {
  const named = serverName === undefined ? {} : { servername: serverName };
  if (certificate === undefined) return { ...named, rejectUnauthorized: true };
  // What tools write around certificates is no part of them.
  const chain = certificate.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (!chain[0]) throw new Unexpected("a certificate in PEM in VERIFY_CERTIFICATE", "none");
  const { raw } = new X509Certificate(chain[0]);
  return {
    ...named,
    rejectUnauthorized: true,
    ca: chain,
    // A chain rarely holds its root, so each of its certificates may be the end of the way.
    allowPartialTrustChain: true,
    checkServerIdentity: (name, peer) =>
      peer.raw.equals(raw)
        ? checkServerIdentity(name, peer)
        : new Error("another certificate than the one that was given"),
  };
}

class Client {
  readonly #origin: URL;
  readonly #options: RequestOptions;

  constructor(
    private readonly target: Target,
    private readonly milliseconds: number,
  ) {
    if (!/^https?:\/\/[^/]+\/?$/.test(target.origin) || !URL.canParse(target.origin)) {
      throw new Unexpected("an origin such as http://frontend:8080", target.origin || "nothing");
    }
    this.#origin = new URL(target.origin);
    this.#options = this.#origin.protocol === "https:" ? tlsOptions(target) : {};
  }

  async ask(method: string, path: string, { token, json, image: picture }: Question = {}): Promise<Answer> {
    const body = picture ?? (json === undefined ? undefined : Buffer.from(JSON.stringify(json)));
    const headers = {
      ...(this.target.serverName !== undefined && { host: this.target.serverName }),
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...(body && { "content-type": picture ? "image/png" : "application/json", "content-length": body.length }),
    };
    const ask = this.#origin.protocol === "https:" ? requestHttps : requestHttp;
    const signal = AbortSignal.timeout(this.milliseconds);
    try {
      const response = await new Promise<IncomingMessage>((resolve, reject) => {
        // A connection for each question: a certificate is looked at each time.
        ask(new URL(path, this.#origin), { ...this.#options, method, headers, agent: false, signal })
          .on("response", resolve)
          .on("error", reject)
          .end(body);
      });
      return { status: response.statusCode ?? 0, headers: response.headers, body: await buffer(response) };
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const reason = signal.aborted ? `none within ${this.milliseconds / 1000} s` : (code ?? message);
      throw new Unexpected(
        `an HTTP answer to ${method} ${path}`,
        code && !signal.aborted ? `${reason} (${message})` : reason,
      );
    }
  }

  /** Ask and want one status. */
  async want(status: number, what: string, method: string, path: string, question: Question = {}): Promise<Answer> {
    const answer = await this.ask(method, path, question);
    if (answer.status !== status) {
      // The answer to a sign-in may hold a token.
      const text = path.endsWith("/login") ? "" : ` ${shorten(answer.body.toString())}`;
      throw new Unexpected(`${what} (${method} ${path}) to answer ${status}`, `${answer.status}${text}`.trim());
    }
    return answer;
  }

  /** Ask, want one status, and read what came as JSON of a shape. */
  async json<Schema extends z.ZodType>(
    schema: Schema,
    status: number,
    what: string,
    method: string,
    path: string,
    question: Question = {},
  ): Promise<z.infer<Schema>> {
    const { body } = await this.want(status, what, method, path, question);
    try {
      return schema.parse(JSON.parse(body.toString()));
    } catch {
      throw new Unexpected(`${what} (${method} ${path}) to answer with JSON of the api`, `${body.length} other bytes`);
    }
  }
}

const signedIn = z.object({ accessToken: z.string().min(1) });
const created = z.object({ id: z.uuid() });
const evaluated = z.object({ state: z.string() });

const pathOf = (id: string) => `/api/campaigns/${id}`;

/** Sign in, and see campaigns created, stored, evaluated and removed, and nothing of it done for a stranger. */
export async function verify(
  target: Target,
  login: { username: string; password: string },
  limits: Limits = { request: 10_000, evaluation: 90_000, pause: 500 },
): Promise<void> {
  const client = new Client(target, limits.request);
  const { accessToken: token } = await client.json(signedIn, 200, "signing in", "POST", "/api/auth/login", {
    json: login,
  });
  const ids: string[] = [];
  try {
    await refuseStranger(client, ids);
    const places = Object.entries(PLACES) as [Expected, [number, number]][];
    const campaigns: [Expected, string][] = [];
    for (const [expected, place] of places) {
      const question = { token, json: campaign(place) };
      const { id } = await client.json(created, 201, "creating a campaign", "POST", "/api/campaigns", question);
      ids.push(id);
      campaigns.push([expected, id]);
    }
    await verifyAsset(client, token, ids[0]!);
    await client.want(401, "deleting a campaign without a token", "DELETE", pathOf(ids[0]!));
    await awaitEvaluation(client, campaigns, limits);
    for (const id of [...ids]) {
      await client.want(204, "deleting a campaign", "DELETE", pathOf(id), { token });
      await client.want(404, "a deleted campaign", "GET", pathOf(id));
    }
  } catch (error) {
    // What failed first is what matters; a failure to clean up must not hide it.
    await Promise.allSettled(ids.map((id) => client.ask("DELETE", pathOf(id), { token })));
    throw error;
  }
}

async function refuseStranger(client: Client, ids: string[]): Promise<void> {
  const { status, body } = await client.ask("POST", "/api/campaigns", { json: campaign(CENTER) });
  if (status === 401) return;
  try {
    ids.push(created.parse(JSON.parse(body.toString())).id);
  } catch {
    // Whatever it was, it created nothing that could be removed.
  }
  throw new Unexpected("creating a campaign without a token (POST /api/campaigns) to answer 401", String(status));
}

async function verifyAsset(client: Client, token: string, id: string): Promise<void> {
  const path = `${pathOf(id)}/asset`;
  const asset = image(64 * 1024);
  await client.want(401, "storing an asset without a token", "PUT", path, { image: asset });
  await client.want(200, "storing an asset", "PUT", path, { token, image: asset });
  const { headers, body } = await client.want(200, "the asset", "GET", path);
  const same = body.equals(asset);
  if (!same || headers["content-type"] !== "image/png") {
    const got = `${body.length} ${same ? "" : "other "}bytes of ${headers["content-type"]}`;
    throw new Unexpected(`the asset (GET ${path}) to come back as its ${asset.length} bytes of image/png`, got);
  }
  const tooLarge = image(MAXIMUM_ASSET_BYTES + 1);
  await client.want(413, `an asset of ${tooLarge.length} bytes`, "PUT", path, { token, image: tooLarge });
}

async function awaitEvaluation(client: Client, campaigns: [Expected, string][], limits: Limits): Promise<void> {
  const end = performance.now() + limits.evaluation;
  for (const [expected, id] of campaigns) {
    for (;;) {
      const { state } = await client.json(evaluated, 200, "a campaign", "GET", pathOf(id));
      if (state === expected) break;
      if (state !== "pending") {
        const where = expected === "active" ? "inside" : "outside";
        throw new Unexpected(`a campaign ${where} its radius (GET ${pathOf(id)}) to become ${expected}`, state);
      }
      if (performance.now() >= end) {
        throw new Unexpected(
          `a campaign (GET ${pathOf(id)}) to be evaluated within ${limits.evaluation / 1000} s`,
          "still pending: look at the scheduler and the rules-engine too",
        );
      }
      await sleep(limits.pause);
    }
  }
}
