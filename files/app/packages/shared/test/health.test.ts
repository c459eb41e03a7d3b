import type { Pool } from "pg";
import { describe, expect, it } from "vitest";
import { createHealthServer } from "../src/health.ts";
import type { Redis } from "../src/redis.ts";

const answer = (works: boolean) => () => (works ? Promise.resolve("ok") : Promise.reject(new Error("no answer")));

async function ask(path: string, postgres: boolean, redis: boolean): Promise<[number, unknown]> {
  const pool = { query: answer(postgres) } as unknown as Pool;
  const server = createHealthServer("worker", pool, { ping: answer(redis) } as unknown as Redis, {});
  // Any port that is free.
  const port = await server.listen(0);
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: "close" } });
  const body: unknown = await response.json();
  await server.close();
  return [response.status, body];
}

describe("a worker", () => {
  it.each([
    [true, true, 200, []],
    [false, true, 503, ["postgres is down"]],
    [true, false, 503, ["redis is down"]],
    [false, false, 503, ["postgres is down", "redis is down"]],
  ])("with PostgreSQL %s and Redis %s is ready with %i, and live", async (postgres, redis, status, problems) => {
    expect(await ask("/health/ready", postgres, redis)).toMatchObject([status, { problems }]);
    expect((await ask("/health/live", postgres, redis))[0]).toBe(200);
  });
});
