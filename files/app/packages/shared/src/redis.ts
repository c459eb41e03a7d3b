import { isIP } from "node:net";
import { Redis } from "ioredis";
import type { Logger } from "./log.ts";

export { Redis };

/** Everything the platform keeps in Redis stands below this prefix; the ACL allows no other key. */
export const KEY_PREFIX = "campaign:";

export interface RedisConnection {
  host: string;
  port: number;
  username: string;
  password: string;
  /** Present means TLS; the server's certificate and name are checked. */
  tls?: { servername?: string };
}

/** Take a Redis URL apart, for clients that want the parts. */
export function redisConnection(url: string): RedisConnection {
  const { protocol, hostname, port, username, password } = new URL(url);
  // An IPv6 address stands in brackets in a URL only: https://github.com/redis/node-redis/issues/2734
  const host = hostname.replace(/^\[(.+)\]$/, "$1");
  return {
    host,
    port: Number(port || 6379),
    username: decodeURIComponent(username),
    password: decodeURIComponent(password),
    // The name of a server is sent to it; an address must not be, see RFC 6066.
    ...(protocol === "rediss:" && { tls: isIP(host) ? {} : { servername: host } }),
  };
}

/** A client that reconnects for ever and logs a broken connection once. */
export function createRedis(url: string, log: Logger): Redis {
  const redis = new Redis({ ...redisConnection(url), maxRetriesPerRequest: 3 });
  let broken = false;
  redis.on("error", (error: Error) => {
    if (!broken) log.warn({ error: error.message }, "the Redis connection broke");
    broken = true;
  });
  redis.on("ready", () => {
    broken = false;
  });
  return redis;
}

const heartbeatKey = (service: string) => `${KEY_PREFIX}heartbeat:${service}`;
const HEARTBEAT_SECONDS = 5;
const HEARTBEAT_LIFE_SECONDS = 15;

/** Tell every few seconds that a worker lives; return what stops it. */
export function startHeartbeat(redis: Redis, service: string, log: Logger): () => void {
  const beat = async () => {
    try {
      await redis.set(heartbeatKey(service), new Date().toISOString(), "EX", HEARTBEAT_LIFE_SECONDS);
    } catch (error) {
      log.warn({ error: (error as Error).message }, "the heartbeat could not be written");
    }
  };
  void beat();
  const timer = setInterval(() => void beat(), HEARTBEAT_SECONDS * 1000);
  return () => clearInterval(timer);
}

/** When a worker last told that it lives, null when that is too long ago. */
export async function readHeartbeat(redis: Redis, service: string): Promise<string | null> {
  return await redis.get(heartbeatKey(service));
}
