import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createLogger } from "../src/log.ts";
import { readHeartbeat, type Redis, startHeartbeat } from "../src/redis.ts";

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
