import type { Redis } from "ioredis";
import pg from "pg";
import { z } from "zod";
import { KEY_PREFIX, redisConnection, Redis as RedisClient } from "./redis.ts";

/** The values that the asker chose, so that an answer cannot be made up. */
export const probeRequest = z.object({
  nonce: z.string().regex(/^[0-9a-f]{16,64}$/),
  lng: z.number().min(-180).max(180),
  lat: z.number().min(-90).max(90),
});
export type ProbeRequest = z.infer<typeof probeRequest>;
export type ProbeCheck = (request: ProbeRequest) => Promise<string>;
export interface ProbeAnswer {
  name: string;
  ok: boolean;
  got: string;
  ms: number;
}

// Less than the ten seconds after which the deploy gives the whole answer up, and enough for a first connection on a busy machine.
const LIMIT_MILLISECONDS = 8000;

/** What an error is called by the service that raised it. */
export function errorName(error: unknown): string {
  const { code, name, message } = error as { code?: string; name?: string; message?: string };
  return code ?? (name && name !== "Error" && name !== "ReplyError" ? name : (message ?? String(error)).split(" ")[0]!);
}

/** Run all checks at once; none can fail the others, and none lasts longer than the limit. */
export async function runProbe(checks: Record<string, ProbeCheck>, request: ProbeRequest): Promise<ProbeAnswer[]> {
  return await Promise.all(
    Object.entries(checks).map(async ([name, check]) => {
      const start = performance.now();
      let timer: NodeJS.Timeout | undefined;
      const limit = new Promise<never>((_resolve, reject) => {
        timer = setTimeout(() => reject(new Error("timeout")), LIMIT_MILLISECONDS);
      });
      const [ok, got] = await Promise.race([check(request), limit]).then(
        (value): [boolean, string] => [true, value],
        (error: unknown): [boolean, string] => [false, errorName(error)],
      );
      clearTimeout(timer);
      return { name, ok, got, ms: Math.round(performance.now() - start) };
    }),
  );
}

/** The questions that every Node service can ask of PostGIS and Redis. */
export function commonChecks(service: string, pool: pg.Pool, redis: Redis): Record<string, ProbeCheck> {
  return {
    postgis: async ({ lng, lat }) => {
      const result = await pool.query<{ point: string }>("SELECT ST_AsText(ST_MakePoint($1, $2)) AS point", [lng, lat]);
      return result.rows[0]!.point;
    },
    redis: async ({ nonce }) => {
      const key = `${KEY_PREFIX}probe:${service}:${nonce}`;
      await redis.set(key, nonce, "EX", 60);
      const got = await redis.get(key);
      await redis.del(key);
      return String(got);
    },
  };
}

/** Questions whose right answer is a refusal. */
export function wrongPasswordChecks(databaseUrl: string, redisUrl: string): Record<string, ProbeCheck> {
  return {
    postgres_wrong_password: async ({ nonce }) => {
      const url = new URL(databaseUrl);
      url.password = nonce;
      const client = new pg.Client({ connectionString: url.href, connectionTimeoutMillis: LIMIT_MILLISECONDS });
      try {
        await client.connect();
        return "accepted";
      } finally {
        await client.end();
      }
    },
    redis_wrong_password: async ({ nonce }) => {
      const client = new RedisClient({
        ...redisConnection(redisUrl),
        password: nonce,
        lazyConnect: true,
        retryStrategy: null,
        maxRetriesPerRequest: 0,
      });
      const refused = new Promise<never>((_resolve, reject) => {
        client.on("error", reject);
      });
      try {
        await Promise.race([client.connect().then(() => client.ping()), refused]);
        return "accepted";
      } finally {
        client.disconnect();
      }
    },
  };
}
