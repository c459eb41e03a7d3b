import { mkdtemp, writeFile, chmod } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { commonSettings, ConfigError, port, readConfig, type Sources } from "./config.ts";

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

  it.each([
    [
      "a denied request",
      () => Promise.reject(Object.assign(new Error("value s3cret"), { name: "AccessDeniedException" })),
      "AccessDenied",
    ],
    ["text that is no JSON", () => Promise.resolve("s3cret"), "no JSON object"],
    ["JSON that is no object of strings", () => Promise.resolve('{"A": 1, "B": "s3cret"}'), "no JSON object"],
  ])("reports %s from AWS without a value", async (_name, fetchSecret, expected) => {
    const problems = await problemsOf(
      { ...complete, AWS_SECRETS_MANAGER_SECRET_ID: "id", AWS_REGION: "r" },
      fetchSecret,
    );
    expect(problems).toContain(expected);
    expect(problems).not.toContain("s3cret");
  });

  it.skipIf(process.getuid?.() === 0)("says which file it may not read", async () => {
    await writeFile(join(directory, "api_port"), "1");
    await chmod(join(directory, "api_port"), 0);
    expect(await problemsOf({ DATABASE_URL: complete.DATABASE_URL })).toContain("api_port cannot be read");
  });
});
