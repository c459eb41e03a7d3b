import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";

/** How a stand-in for Redis answers, in the server's own protocol. */
function reply(words: string[]): string {
  switch (words[0]?.toUpperCase()) {
    case "INFO": {
      const text = "redis_version:8.0.0\r\nmaxmemory_policy:noeviction\r\nloading:0\r\n";
      return `$${text.length}\r\n${text}\r\n`;
    }
    case "EVALSHA":
    case "EVAL":
      return "*0\r\n";
    case "BZPOPMIN":
      // What waits for work waits on.
      return "";
    default:
      return "+OK\r\n";
  }
}

const sockets = new Set<Socket>();
let redis: Server;
let child: ChildProcess | undefined;

beforeAll(async () => {
  redis = createServer((socket) => {
    sockets.add(socket);
    let rest = "";
    socket
      .on("error", () => undefined)
      .on("data", (data) => {
        rest += data.toString("latin1");
        for (;;) {
          const [head = "", count = "0"] = /^\*(\d+)\r\n/.exec(rest) ?? [];
          if (!head) return;
          const words: string[] = [];
          let at = head.length;
          while (words.length < Number(count)) {
            const [size = "", length = "0"] = /^\$(\d+)\r\n/.exec(rest.slice(at)) ?? [];
            const end = at + size.length + Number(length) + 2;
            if (!size || end > rest.length) return;
            words.push(rest.slice(at + size.length, end - 2));
            at = end;
          }
          rest = rest.slice(at);
          socket.write(reply(words));
        }
      });
  });
  redis.listen(0, "127.0.0.1");
  await once(redis, "listening");
});

afterEach(() => {
  child?.kill("SIGKILL");
});
afterAll(() => {
  for (const socket of sockets) socket.destroy();
  redis.close();
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

describe.each(["api", "rules-engine", "scheduler"])("the %s", (service) => {
  it.each(["SIGTERM", "SIGINT"] as const)(
    "drains and ends by itself on %s",
    async (signal) => {
      const port = String(await freePort());
      let output = "";
      child = spawn(process.execPath, ["scripts/dev.mjs", service], {
        cwd: join(import.meta.dirname, "../../.."),
        env: {
          // The Engine sets it too; without it the S3 client looks for a user of this number.
          HOME: "/",
          DATABASE_URL: "postgres://user:password@127.0.0.1:1/none",
          REDIS_URL: `redis://user:password@127.0.0.1:${(redis.address() as AddressInfo).port}`,
          API_PORT: port,
          HEALTH_PORT: port,
          S3_ENDPOINT: "http://127.0.0.1:1",
          S3_BUCKET: "bucket",
          S3_ACCESS_KEY: "access-key",
          S3_SECRET_KEY: "secret-key",
          JWT_SECRET: "jwt-secret",
          JWT_EXPIRATION: "7d",
          OPERATOR_PASSWORD: "operator-password",
        },
        stdio: ["ignore", "pipe", "pipe"],
      });
      const started = new Promise<void>((resolve) => {
        for (const stream of [child!.stdout!, child!.stderr!]) {
          stream.on("data", (data: Buffer) => {
            output += data.toString();
            if (/"msg":"(listening|evaluating|scheduling)"/.test(output)) resolve();
          });
        }
      });
      const ended = once(child, "exit");
      await Promise.race([started, ended]);
      child.kill(signal);
      const [code] = (await ended) as [number | null];
      expect(output).toContain('"msg":"draining"');
      expect(output).toContain('"msg":"stopped"');
      expect(output).not.toContain("took too long");
      expect(code).toBe(0);
    },
    20_000,
  );
});
