import { mkdtemp, writeFile, chmod } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { z } from "zod";
import { commonSettings, ConfigError, port, readConfig, type Sources } from "../src/config.ts";

const shape = { ...commonSettings, API_PORT: port };
const complete = { DATABASE_URL: "postgres://a:b@c:5432/d", REDIS_URL: "redis://e:f@g:6379", API_PORT: "3000" };
const noAws: Sources["fetchSecret"] = () => Promise.reject(new Error("must not be asked"));
const fetched = () =>
  Promise.resolve(
    JSON.stringify({ ...complete, DATABASE_URL: "postgres://aws@c/d", REDIS_URL: "redis://aws", API_PORT: "1" }),
  );
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "config-"));
});

const read = (env: Record<string, string>, fetchSecret = noAws) =>
  readConfig(shape, { env: { SECRETS_DIR: directory, ...env }, fetchSecret });
const problemsOf = async (env: Record<string, string>, fetchSecret = noAws): Promise<string> => {
  const error = await read(env, fetchSecret).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(ConfigError);
  return (error as ConfigError).problems.join("\n");
};

describe("readConfig", () => {
  it("converts numbers and fills in defaults", async () => {
    await expect(read(complete)).resolves.toMatchObject({ API_PORT: 3000, LOG_LEVEL: "info", NODE_ENV: "production" });
  });

  it("takes the environment before a file, and a file before AWS", async () => {
    const aws = { AWS_SECRETS_MANAGER_SECRET_ID: "id", AWS_REGION: "r" };
    await writeFile(join(directory, "database_url"), "postgres://file@c/d");
    await writeFile(join(directory, "redis_url"), "redis://file");
    await expect(read({ ...aws, REDIS_URL: "redis://env" }, fetched)).resolves.toMatchObject({
      REDIS_URL: "redis://env",
      DATABASE_URL: "postgres://file@c/d",
      API_PORT: 1,
    });
  });

  it("keeps every byte of a secret file", async () => {
    await writeFile(join(directory, "database_url"), "postgres://a:%20$x%27%22%0A@c:5432/d");
    const { DATABASE_URL } = await read({ REDIS_URL: "redis://x", API_PORT: "1" });
    expect(DATABASE_URL).toBe("postgres://a:%20$x%27%22%0A@c:5432/d");
  });

  it("takes blanks and newlines around a secret as part of it", async () => {
    const secret = " \t between blanks \r\n\n";
    await writeFile(join(directory, "jwt_secret"), secret);
    const { JWT_SECRET } = await readConfig(
      { JWT_SECRET: z.string() },
      { env: { SECRETS_DIR: directory }, fetchSecret: noAws },
    );
    expect(JWT_SECRET).toBe(secret);
  });

  it("names every missing and wrong key, and shows no value", async () => {
    const problems = await problemsOf({ REDIS_URL: "http://s3cret", API_PORT: "70000" });
    expect(problems).toContain("DATABASE_URL is missing");
    expect(problems).toContain("REDIS_URL:");
    expect(problems).toContain("API_PORT:");
    expect(problems).not.toContain("s3cret");
    expect(problems).not.toContain("70000");
  });

  it("refuses half an AWS setting", async () => {
    expect(await problemsOf({ ...complete, AWS_REGION: "eu" })).toContain("AWS_SECRETS_MANAGER_SECRET_ID is missing");
    expect(await problemsOf({ ...complete, AWS_SECRETS_MANAGER_SECRET_ID: "id" })).toContain("AWS_REGION is missing");
  });

  const ofAws = { AWS_SECRETS_MANAGER_SECRET_ID: "id", AWS_REGION: "r" };
  const answers = (value: unknown) => () => Promise.resolve(JSON.stringify(value));
  const failsAs = (properties: object) => () => Promise.reject(Object.assign(new Error("value s3cret"), properties));

  it("takes everything from AWS where there are no files, and leaves other names alone", async () => {
    const fetchSecret = answers({
      ...complete,
      REDIS_URL: undefined,
      redis_url: "redis://lower",
      rotation: { days: 3 },
    });
    await expect(read(ofAws, fetchSecret)).resolves.toMatchObject({
      DATABASE_URL: complete.DATABASE_URL,
      REDIS_URL: "redis://lower",
    });
  });

  it("names what is missing in AWS too", async () => {
    const problems = await problemsOf(
      ofAws,
      answers({ REDIS_URL: complete.REDIS_URL, API_PORT: "1", OTHER: "s3cret" }),
    );
    expect(problems).toContain("DATABASE_URL is missing");
    expect(problems).not.toContain("s3cret");
  });

  it.each([
    ["a secret that is not there", failsAs({ name: "ResourceNotFoundException" }), "there is no such secret"],
    ["a denied request", failsAs({ name: "AccessDeniedException" }), "secretsmanager:GetSecretValue"],
    ["a throttled request", failsAs({ name: "ThrottlingException" }), "throttled 4 times"],
    ["an expired token", failsAs({ name: "ExpiredTokenException" }), "credentials have expired"],
    ["refused credentials", failsAs({ name: "UnrecognizedClientException" }), "credentials were refused"],
    ["no credentials", failsAs({ name: "CredentialsProviderError" }), "hop limit of 2"],
    ["a secret marked for deletion", failsAs({ name: "InvalidRequestException" }), "restore it"],
    ["a key that does not decrypt", failsAs({ name: "DecryptionFailure" }), "KMS key"],
    ["a closed port", failsAs({ code: "ECONNREFUSED" }), "cannot be reached"],
    ["several closed ports", failsAs({ name: "AggregateError", errors: [{ code: "ENOTFOUND" }] }), "ENOTFOUND"],
    ["an answer that says nothing", failsAs({}), "an unusable answer"],
    ["a name that is none", failsAs({ name: "s3cret s3cret" }), "an unusable answer"],
    ["text that is no JSON", () => Promise.resolve("s3cret"), "no JSON object"],
    ["an empty text", () => Promise.resolve(""), "no JSON object"],
    ["a list", answers(["s3cret"]), "no JSON object"],
    ["a value that is no string", answers({ ...complete, DATABASE_URL: 4711 }), "DATABASE_URL is no string"],
  ])("reports %s from AWS in one line without a value", async (_name, fetchSecret, expected) => {
    const problems = await problemsOf(ofAws, fetchSecret);
    expect(problems).toContain(expected);
    expect(problems.split("\n")).toHaveLength(1);
    expect(problems).not.toContain("s3cret");
    expect(problems).not.toContain("4711");
  });

  it("waits no longer than its limit", async () => {
    const never = () => new Promise<string>(() => undefined);
    const sources = { env: { SECRETS_DIR: directory, ...ofAws }, fetchSecret: never, fetchLimitMilliseconds: 20 };
    await expect(readConfig(shape, sources)).rejects.toThrow("cannot be reached");
  });

  it.skipIf(process.getuid?.() === 0)("says which file it may not read", async () => {
    await writeFile(join(directory, "api_port"), "1");
    await chmod(join(directory, "api_port"), 0);
    expect(await problemsOf({ DATABASE_URL: complete.DATABASE_URL })).toContain("api_port cannot be read");
  });
});
