import { execFile } from "node:child_process";
import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { mkdtemp, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { newCampaign } from "@campaign/shared";
import { afterEach, describe, expect, it } from "vitest";
import { Unexpected, verify } from "../src/verification.ts";

const login = { username: "operator", password: "right-password" };
const limits = { request: 2000, evaluation: 200, pause: 5 };

interface Row {
  place: number[];
  center: number[];
  radius: number;
  asset?: Buffer;
  asked: number;
}

/** What the stand-in gets wrong, one thing a test. */
interface Faults {
  signIn?: [number, string];
  createForAnyone?: boolean;
  deleteForAnyone?: boolean;
  storeForAnyone?: boolean;
  create?: [number, string];
  store?: number;
  change?: (asset: Buffer) => Buffer;
  contentType?: string;
  noLimit?: boolean;
  metresPerUnit?: number;
  swapped?: boolean;
  always?: string;
  undeleted?: boolean;
  silent?: boolean;
  /** The state of every campaign once its radius was looked at. */
  inverted?: boolean;
}

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.close();
    server.closeAllConnections();
  }
});

function metres([lng = 0, lat = 0]: number[], [toLng = 0, toLat = 0]: number[]): number {
  const degree = 111_320;
  return Math.hypot((toLng - lng) * degree * Math.cos((lat * Math.PI) / 180), (toLat - lat) * degree);
}

/** A stand-in for the api; it keeps what it was given in `rows`. */
async function standIn(faults: Faults = {}, tls?: { key: string; cert: string }) {
  const rows = new Map<string, Row>();
  const hosts = new Set<string | undefined>();
  const stateOf = (row: Row): string => {
    if (faults.always) return faults.always;
    // The second question finds the answer.
    if (row.asked++ === 0) return "pending";
    const turn = (point: number[]) => (faults.swapped ? point.toReversed() : point);
    const near = metres(turn(row.place), turn(row.center)) <= row.radius * (faults.metresPerUnit ?? 1);
    return near !== (faults.inverted ?? false) ? "active" : "inactive";
  };
  const answer = (request: IncomingMessage, body: Buffer): [number, string | Buffer, string?] => {
    const { method, url = "" } = request;
    const signedIn = request.headers.authorization === "Bearer the-token";
    const [, id = "", part] = /^\/api\/campaigns\/([^/]+)(\/asset)?$/.exec(url) ?? [];
    const row = rows.get(id);
    if (url === "/api/auth/login") {
      expect(JSON.parse(body.toString())).toEqual(login);
      return faults.signIn ?? [200, '{"accessToken":"the-token"}'];
    }
    if (method === "POST") {
      if (!signedIn && !faults.createForAnyone) return [401, "{}"];
      if (faults.create) return faults.create;
      const { place, rule } = newCampaign.parse(JSON.parse(body.toString()));
      const made = crypto.randomUUID();
      rows.set(made, { place: place.coordinates, center: rule.center, radius: rule.radiusMeters, asked: 0 });
      return [201, JSON.stringify({ id: made })];
    }
    if (!row) return [404, "{}"];
    if (method === "DELETE") {
      if (!signedIn && !faults.deleteForAnyone) return [401, "{}"];
      if (!faults.undeleted) rows.delete(id);
      return [204, ""];
    }
    if (method === "PUT") {
      if (!signedIn && !faults.storeForAnyone) return [401, "{}"];
      if (body.length > 5 * 1024 * 1024 && !faults.noLimit) return [413, "{}"];
      row.asset = body;
      return [faults.store ?? 200, "{}"];
    }
    if (part) return [200, faults.change?.(row.asset!) ?? row.asset!, faults.contentType ?? "image/png"];
    return [200, JSON.stringify({ state: stateOf(row) })];
  };
  const listener: Parameters<typeof createServer>[1] = (request, response) => {
    hosts.add(request.headers.host);
    if (faults.silent) return;
    void buffer(request).then((body) => {
      const [status, text, type = "application/json"] = answer(request, body);
      response.writeHead(status, { "content-type": type }).end(text);
    });
  };
  const server = tls ? createTlsServer(tls, listener) : createServer(listener);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { origin: `${tls ? "https" : "http"}://127.0.0.1:${port}`, rows, hosts };
}

describe("the verification", () => {
  it("passes against an application that works, and leaves nothing behind", async () => {
    const { origin, rows } = await standIn();
    await expect(verify({ origin }, login, limits)).resolves.toBeUndefined();
    expect(rows.size).toBe(0);
  });

  it.each<[string, Faults, RegExp]>([
    ["a refused sign-in", { signIn: [401, "{}"] }, /^expected signing in .* to answer 200; got 401$/],
    ["a sign-in without a token", { signIn: [200, '{"token":"s3cret"}'] }, /JSON of the api; got 18 other bytes/],
    ["a campaign created without a token", { createForAnyone: true }, /creating .* without a token .* 401; got 201/],
    ["a campaign deleted without a token", { deleteForAnyone: true }, /deleting .* without a token .* 401; got 204/],
    ["an asset stored without a token", { storeForAnyone: true }, /storing .* without a token .* 401; got 200/],
    ["a campaign that is not created", { create: [500, "{}"] }, /creating a campaign .* 201; got 500 \{\}/],
    ["an asset that is not stored", { store: 503 }, /storing an asset .* 200; got 503/],
    ["an asset changed in transit", { change: (a) => Buffer.from(a.with(-1, a.at(-1)! ^ 1)) }, /got 65536 other bytes/],
    ["an asset cut short", { change: (a) => a.subarray(1) }, /got 65535 other bytes of image\/png/],
    ["an asset of another type", { contentType: "text/html" }, /got 65536 bytes of text\/html/],
    ["an upload without a limit", { noLimit: true }, /an asset of 5242881 bytes .* 413; got 200/],
    ["states the wrong way round", { inverted: true }, /inside its radius .* become active; got inactive/],
    ["a radius in kilometres", { metresPerUnit: 1000 }, /outside its radius .* become inactive; got active/],
    ["a radius in feet", { metresPerUnit: 0.3048 }, /inside its radius .* become active; got inactive/],
    ["longitude and latitude swapped", { swapped: true }, /inside its radius .* become active; got inactive/],
    ["campaigns that are never evaluated", { always: "pending" }, /within 0.2 s; got still pending/],
    ["campaigns that are always active", { always: "active" }, /outside its radius .* inactive; got active/],
    ["campaigns that are always inactive", { always: "inactive" }, /inside its radius .* active; got inactive/],
  ])("sees %s, and cleans up", async (_name, faults, message) => {
    const { origin, rows } = await standIn(faults);
    const error = await verify({ origin }, login, limits).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(Unexpected);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).not.toMatch(/s3cret|right-password|\n/);
    expect(rows.size).toBe(0);
  });

  it("sees a campaign that is still there after it was deleted", async () => {
    const { origin } = await standIn({ undeleted: true });
    await expect(verify({ origin }, login, limits)).rejects.toThrow(/a deleted campaign .* 404; got 200/);
  });

  it("names a server that does not answer", async () => {
    const { origin } = await standIn({ silent: true });
    await expect(verify({ origin }, login, { ...limits, request: 50 })).rejects.toThrow("got none within 0.05 s");
    await expect(verify({ origin: "http://127.0.0.1:1" }, login, limits)).rejects.toThrow("ECONNREFUSED");
  });

  it.each(["", "frontend:8080", "http://frontend:8080/api", "http://a b"])(
    "refuses %j as an origin",
    async (origin) => {
      await expect(verify({ origin }, login, limits)).rejects.toThrow(
        "expected an origin such as http://frontend:8080",
      );
    },
  );
});

/** DER: a tag, a length, and what is inside. */
function der(tag: number, ...parts: Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}
const sequence = (...parts: Buffer[]) => der(0x30, ...parts);
const oid = (hex: string) => der(0x06, Buffer.from(hex, "hex"));
const ECDSA_WITH_SHA256 = sequence(oid("2a8648ce3d040302"));
const COMMON_NAME = "550403";
const SUBJECT_ALT_NAME = "551d11";

/** A certificate for a DNS name that signs itself, and its key, so that a test keeps no private key. */
function selfSigned(name: string): { key: string; cert: string } {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const subject = sequence(der(0x31, sequence(oid(COMMON_NAME), der(0x0c, Buffer.from(name)))));
  const alternatives = sequence(der(0x82, Buffer.from(name)));
  const content = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    ECDSA_WITH_SHA256,
    subject,
    sequence(der(0x17, Buffer.from("200101000000Z")), der(0x18, Buffer.from("21200101000000Z"))),
    subject,
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(sequence(oid(SUBJECT_ALT_NAME), der(0x04, alternatives)))),
  );
  const signature = der(0x03, Buffer.from([0]), sign("sha256", content, privateKey));
  const encoded = sequence(content, ECDSA_WITH_SHA256, signature).toString("base64");
  return {
    key: privateKey.export({ type: "pkcs8", format: "pem" }),
    cert: `-----BEGIN CERTIFICATE-----\n${encoded.replace(/.{64}/g, "$&\n")}\n-----END CERTIFICATE-----\n`,
  };
}

describe("the verification over TLS", () => {
  const mine = selfSigned("campaign.example.com");
  const other = selfSigned("campaign.example.com");

  it("accepts the very certificate, and asks for the name", async () => {
    const { origin, hosts } = await standIn({}, mine);
    const certificate = `tools write this\n${mine.cert}and this\n`;
    await verify({ origin, certificate, serverName: "campaign.example.com" }, login, limits);
    expect([...hosts]).toEqual(["campaign.example.com"]);
  });

  it.each([
    ["a certificate that was not given", other.cert, "campaign.example.com", /self-signed|SIGNATURE|VERIFY/i],
    ["one of the chain in place of the leaf", other.cert + mine.cert, "campaign.example.com", /another certificate/],
    ["another name", mine.cert, "other.example.com", /altname/i],
    ["no certificate in VERIFY_CERTIFICATE", "none", "campaign.example.com", /a certificate in PEM/],
    ["no certificate to trust", undefined, "campaign.example.com", /self-signed/i],
  ])("refuses %s", async (_name, certificate, serverName, message) => {
    const { origin, hosts } = await standIn({}, mine);
    await expect(verify({ origin, certificate, serverName }, login, limits)).rejects.toThrow(message);
    expect(hosts.size).toBe(0);
  });
});

describe("verify, the program", { timeout: 30_000 }, () => {
  async function run(origin: string, env: Record<string, string> = {}): Promise<[number, string, string]> {
    const secrets = await mkdtemp(join(tmpdir(), "secrets-"));
    await writeFile(join(secrets, "operator_password"), login.password);
    return new Promise((resolve) => {
      execFile(
        process.execPath,
        ["scripts/dev.mjs", "api", "verify", origin],
        { cwd: join(import.meta.dirname, "../../.."), env: { SECRETS_DIR: secrets, ...env } },
        (error, stdout, stderr) => resolve([Number(error?.code ?? 0), stdout, stderr]),
      );
    });
  }

  it("ends with 0 and one line, also over TLS", async () => {
    const { origin } = await standIn();
    const [code, stdout, stderr] = await run(origin);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^verified: campaigns were created, evaluated and removed at \S+ in [0-9.]+ s\n$/);
    const tls = selfSigned("campaign.example.com");
    const secure = await standIn({}, tls);
    const env = { VERIFY_CERTIFICATE: tls.cert, VERIFY_SERVER_NAME: "campaign.example.com" };
    expect((await run(secure.origin, env))[0]).toBe(0);
  });

  it("ends with 1 and one line that says what is wrong", async () => {
    const { origin } = await standIn({ createForAnyone: true });
    const [code, stdout, stderr] = await run(origin, { VERIFY_CERTIFICATE: "", VERIFY_SERVER_NAME: "" });
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^expected creating a campaign without a token .*; got 201\n$/);
  });
});
