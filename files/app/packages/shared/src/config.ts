import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { explainAwsError, fetchFromAws, LIMIT_MILLISECONDS, within } from "./aws.ts";

/** Everything that is wrong with the configuration, one line a problem, by name and never with a value. */
export class ConfigError extends Error {
  constructor(readonly problems: string[]) {
    super(`The configuration is wrong:\n${problems.map((problem) => `- ${problem}`).join("\n")}`);
  }
}

type Values = Record<string, string>;
export interface Sources {
  env: Record<string, string | undefined>;
  fetchSecret: (id: string, region: string) => Promise<string>;
  fetchLimitMilliseconds?: number;
}

const integer = (minimum: number, maximum: number) => z.coerce.number().int().min(minimum).max(maximum);

/** Settings of every service. */
export const commonSettings = {
  NODE_ENV: z.enum(["development", "production", "test"]).default("production"),
  LOG_LEVEL: z.enum(["debug", "info", "warn", "error"]).default("info"),
  DATABASE_URL: z.url({ protocol: /^postgres(ql)?$/ }),
  REDIS_URL: z.url({ protocol: /^rediss?$/ }),
};
export const port = integer(1, 65535);
export const seconds = (minimum: number, maximum: number) => integer(minimum, maximum);

async function readSecretFile(directory: string, key: string): Promise<string | undefined> {
  const path = join(directory, key.toLowerCase());
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new ConfigError([
      `${key}: ${path} cannot be read (${code}). Make it readable for uid ${process.getuid?.()}.`,
    ]);
  }
}

async function readAws(keys: string[], { env, fetchSecret, fetchLimitMilliseconds }: Sources): Promise<Values> {
  const id = env["AWS_SECRETS_MANAGER_SECRET_ID"];
  const region = env["AWS_REGION"];
  if (!id && !region) return {};
  if (!id || !region) {
    const [missing, given] = id
      ? ["AWS_REGION", "AWS_SECRETS_MANAGER_SECRET_ID"]
      : ["AWS_SECRETS_MANAGER_SECRET_ID", "AWS_REGION"];
    throw new ConfigError([`${missing} is missing although ${given} is set. Set both or neither.`]);
  }
  let text: string;
  try {
    text = await within(fetchLimitMilliseconds ?? LIMIT_MILLISECONDS, fetchSecret(id, region));
  } catch (error) {
    throw new ConfigError([`AWS Secrets Manager, secret ${id} in ${region}: ${explainAwsError(error)}.`]);
  }
  const parsed = z.record(z.string(), z.unknown()).safeParse(parseJson(text));
  if (!parsed.success) throw new ConfigError([`AWS Secrets Manager: the secret ${id} is no JSON object of strings.`]);
  // Other names may be there for other readers, such as what a rotation keeps for itself.
  const found = keys.flatMap((key): [string, unknown][] => {
    const value = parsed.data[key] ?? parsed.data[key.toLowerCase()];
    return value === undefined ? [] : [[key, value]];
  });
  const wrong = found.filter(([, value]) => typeof value !== "string").map(([key]) => key);
  if (wrong.length > 0) {
    throw new ConfigError(wrong.map((key) => `${key} is no string in the AWS secret ${id}. Put it in double quotes.`));
  }
  return Object.fromEntries(found) as Values;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * Load a service's configuration: for every key of the schema the environment, then the file of that name in
 * `/run/secrets`, then AWS Secrets Manager.
 *
 * @throws ConfigError naming every key that is missing or wrong.
 */
export async function readConfig<Shape extends z.ZodRawShape>(
  shape: Shape,
  sources: Sources = { env: process.env, fetchSecret: fetchFromAws },
): Promise<z.infer<z.ZodObject<Shape>>> {
  const directory = sources.env["SECRETS_DIR"] ?? "/run/secrets";
  const aws = await readAws(Object.keys(shape), sources);
  const values: Values = {};
  for (const key of Object.keys(shape)) {
    const value = sources.env[key] ?? (await readSecretFile(directory, key)) ?? aws[key];
    if (value !== undefined) values[key] = value;
  }
  const result = z.object(shape).safeParse(values);
  if (result.success) return result.data;
  throw new ConfigError(
    result.error.issues.map(({ path, message }) => {
      const key = String(path[0]);
      const where = `Set it in the environment, in ${join(directory, key.toLowerCase())} or in AWS Secrets Manager.`;
      return key in values ? `${key}: ${message}.` : `${key} is missing. ${where}`;
    }),
  );
}

/** Load the configuration or end the process with one line for each problem. */
export async function loadConfig<Shape extends z.ZodRawShape>(shape: Shape): Promise<z.infer<z.ZodObject<Shape>>> {
  try {
    return await readConfig(shape);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    for (const problem of error.problems) process.stderr.write(`configuration: ${problem}\n`);
    process.exit(1);
  }
}
