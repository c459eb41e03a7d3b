import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Assets } from "../src/assets.ts";
import type { Settings } from "../src/config.ts";

let server: Server;
let asked: { url: string; host: string; scope: string }[];

beforeEach(async () => {
  asked = [];
  server = createServer((request, answer) => {
    const scope = /Credential=([^,]+)/.exec(request.headers.authorization ?? "")?.[1] ?? "";
    asked.push({ url: request.url!, host: request.headers.host!, scope });
    answer.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "::", resolve));
});
afterEach(() => {
  server.close();
});

function assets(endpoint: string, bucket: string, more: Partial<Settings> = {}): Assets {
  const { port } = server.address() as AddressInfo;
  return new Assets({
    S3_ENDPOINT: endpoint.replace("PORT", String(port)),
    S3_BUCKET: bucket,
    S3_REGION: "us-east-1",
    S3_PATH_STYLE: true,
    S3_ACCESS_KEY: "access-key",
    S3_SECRET_KEY: "secret-key",
    ...more,
  } as Settings);
}

describe("the bucket", () => {
  it.each([
    ["a path", "http://127.0.0.1:PORT/minio", "assets.example.com", "/minio/assets.example.com/"],
    ["a path that ends with a slash", "http://127.0.0.1:PORT/a%20b/", "assets", "/a%20b/assets/"],
    ["an IPv6 address", "http://[::1]:PORT", "Legacy_Bucket", "/Legacy_Bucket/"],
    ["a tenant", "http://127.0.0.1:PORT", "tenant:bucket", "/tenant%3Abucket/"],
  ])("is asked for at an endpoint with %s", async (_what, endpoint, bucket, path) => {
    await assets(endpoint, bucket)
      .get("a key")
      .catch(() => undefined);
    await assets(endpoint, bucket).check();
    expect(asked.map(({ url }) => url)).toEqual([`${path}a%20key?x-id=GetObject`, path]);
  });

  it.each(["RegionOne", "auto", "GRA"])("is asked for in the region %s", async (region) => {
    await assets("http://127.0.0.1:PORT", "assets", { S3_REGION: region }).check();
    expect(asked[0]!.scope).toMatch(new RegExp(`^access-key/\\d{8}/${region}/s3/aws4_request$`));
  });

  // A wildcard certificate is for one label, so `assets.example.com` cannot stand before the host name.
  it("stands in the path with TLS where its name has dots, whatever the style", async () => {
    const dotted = assets("https://127.0.0.1.nip.invalid:PORT", "assets.example.com", { S3_PATH_STYLE: false });
    await expect(dotted.check()).rejects.toThrow(/(ENOTFOUND|EAI_AGAIN) 127\.0\.0\.1\.nip\.invalid$/);
    const plain = assets("https://127.0.0.1.nip.invalid:PORT", "assets", { S3_PATH_STYLE: false });
    await expect(plain.check()).rejects.toThrow(/(ENOTFOUND|EAI_AGAIN) assets\.127\.0\.0\.1\.nip\.invalid$/);
  });
});
