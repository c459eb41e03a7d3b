import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createLogger } from "../src/log.ts";
import { readHeartbeat, type Redis, redisConnection, startHeartbeat } from "../src/redis.ts";

const SECOND = 1000;
const log = createLogger("test", "silent");

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** A stand-in that forgets a key when its life is over, and can fail single writes. */
function standIn(failing: (write: number) => boolean = () => false) {
  const kept = new Map<string, { value: string; end: number }>();
  let writes = 0;
  return {
    set: (key: string, value: string, _unit: "EX", life: number) => {
      if (failing(writes++)) return Promise.reject(new Error("a failover"));
      kept.set(key, { value, end: Date.now() + life * SECOND });
      return Promise.resolve("OK");
    },
    get: (key: string) => {
      const found = kept.get(key);
      return Promise.resolve(found && Date.now() < found.end ? found.value : null);
    },
  } as unknown as Redis;
}

/** Whether the heartbeat was there in each of so many seconds. */
async function seen(redis: Redis, seconds: number): Promise<boolean[]> {
  const found: boolean[] = [];
  for (let second = 0; second < seconds; second++) {
    await vi.advanceTimersByTimeAsync(SECOND);
    found.push((await readHeartbeat(redis, "worker")) !== null);
  }
  return found;
}

describe("the heartbeat", () => {
  it("is there in every second of a minute", async () => {
    const redis = standIn();
    const stop = startHeartbeat(redis, "worker", log);
    expect(await seen(redis, 60)).not.toContain(false);
    stop();
  });

  it("outlives one write that fails", async () => {
    const redis = standIn((write) => write % 2 === 1);
    const stop = startHeartbeat(redis, "worker", log);
    expect(await seen(redis, 60)).not.toContain(false);
    stop();
  });

  it("ends within 15 s of the worker's end, which is what the status says", async () => {
    const redis = standIn();
    const stop = startHeartbeat(redis, "worker", log);
    await vi.advanceTimersByTimeAsync(7 * SECOND);
    stop();
    expect((await seen(redis, 16)).at(-1)).toBe(false);
  });
});

describe("a Redis URL", () => {
  it.each([
    ["redis://api:p@cache.example.com:7000", { host: "cache.example.com", port: 7000, username: "api", password: "p" }],
    [
      "redis://App%40server:a%2Fb%3A%25@cache",
      { host: "cache", port: 6379, username: "App@server", password: "a/b:%" },
    ],
    ["redis://default:p@[2001:db8::5]:6380", { host: "2001:db8::5", port: 6380, username: "default", password: "p" }],
    ["rediss://a:b@cache", { host: "cache", port: 6379, username: "a", password: "b", tls: { servername: "cache" } }],
    ["rediss://a:b@[2001:db8::5]", { host: "2001:db8::5", port: 6379, username: "a", password: "b", tls: {} }],
    ["rediss://a:b@10.0.0.5", { host: "10.0.0.5", port: 6379, username: "a", password: "b", tls: {} }],
  ])("%s is taken apart as the server's client wants it", (url, connection) => {
    expect(redisConnection(url)).toStrictEqual(connection);
  });
});
