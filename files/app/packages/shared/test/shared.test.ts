import { describe, expect, it } from "vitest";
import { newCampaign } from "../src/api.ts";
import { evaluationJob } from "../src/queues.ts";
import { errorName, runProbe } from "../src/probe.ts";
import { redisConnection } from "../src/redis.ts";

const request = { nonce: "0123456789abcdef", lng: 1, lat: 2 };

describe("runProbe", () => {
  it("reports what each check got, failures included", async () => {
    const answers = await runProbe(
      {
        good: ({ nonce }) => Promise.resolve(nonce),
        bad: () => Promise.reject(Object.assign(new Error("x"), { code: "28P01" })),
      },
      request,
    );
    expect(answers).toMatchObject([
      { name: "good", ok: true, got: request.nonce },
      { name: "bad", ok: false, got: "28P01" },
    ]);
  });
});

describe("errorName", () => {
  it("is the first word of a Redis reply", () => {
    const error = Object.assign(new Error("WRONGPASS invalid username-password pair"), { name: "ReplyError" });
    expect(errorName(error)).toBe("WRONGPASS");
  });

  it("is the name of an S3 error", () => {
    expect(errorName(Object.assign(new Error("no"), { name: "SignatureDoesNotMatch" }))).toBe("SignatureDoesNotMatch");
  });
});

describe("redisConnection", () => {
  it("speaks TLS for rediss, and names the server unless it is an address", () => {
    expect(redisConnection("rediss://a:b@cache.example.com")).toMatchObject({
      tls: { servername: "cache.example.com" },
    });
    expect(redisConnection("rediss://a:b@10.0.0.5:6380")).toMatchObject({ host: "10.0.0.5", port: 6380, tls: {} });
  });

  it("decodes user and password", () => {
    expect(redisConnection("redis://a%2Fb:c%40d@redis:7000")).toEqual({
      host: "redis",
      port: 7000,
      username: "a/b",
      password: "c@d",
    });
  });
});

describe("newCampaign", () => {
  const campaign = {
    name: " Rome ",
    place: { type: "Point", coordinates: [12.5, 41.9] },
    rule: { type: "within_radius", center: [12.5, 41.9], radiusMeters: 1000 },
  };

  it("trims the name", () => {
    expect(newCampaign.parse(campaign).name).toBe("Rome");
  });

  it.each([
    ["an empty name", { ...campaign, name: " " }],
    ["a name that is too long", { ...campaign, name: "x".repeat(201) }],
    ["a longitude out of range", { ...campaign, place: { type: "Point", coordinates: [181, 0] } }],
    ["a latitude out of range", { ...campaign, place: { type: "Point", coordinates: [0, -91] } }],
    ["a radius of nothing", { ...campaign, rule: { ...campaign.rule, radiusMeters: 0 } }],
    ["an unknown rule", { ...campaign, rule: { ...campaign.rule, type: "always" } }],
  ])("refuses %s", (_name, value) => {
    expect(newCampaign.safeParse(value).success).toBe(false);
  });
});

describe("evaluationJob", () => {
  it("refuses what is no campaign's id", () => {
    expect(evaluationJob.safeParse({ campaignId: "1; DROP TABLE" }).success).toBe(false);
  });

  it.each([undefined, null, "2026-11-26T19:00:00.123456Z"])(
    "takes %s for when it was evaluated last",
    (evaluatedAt) => {
      const job = { campaignId: "3f2504e0-4f89-41d3-9a0c-0305e82c3301", evaluatedAt };
      expect(evaluationJob.parse(job)).toStrictEqual(job);
    },
  );
});
