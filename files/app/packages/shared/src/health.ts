import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Redis } from "ioredis";
import type { Pool } from "pg";
import { probeRequest, runProbe, type ProbeCheck } from "./probe.ts";

/** Whether PostgreSQL and Redis answer; one line for each that does not. */
export async function dependencyProblems(pool: Pool, redis: Redis): Promise<string[]> {
  const asked = await Promise.allSettled([pool.query("SELECT 1"), redis.ping()]);
  return asked.flatMap((result, index) =>
    result.status === "rejected" ? [`${["postgres", "redis"][index]} is down`] : [],
  );
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  let text = "";
  for await (const chunk of request) {
    text += String(chunk);
    if (text.length > 1024) return undefined;
  }
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function answer(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}

/** A worker's own HTTP server: liveness, readiness and the probe. It is published nowhere. */
export function createHealthServer(service: string, pool: Pool, redis: Redis, checks: Record<string, ProbeCheck>) {
  const route = async (request: IncomingMessage): Promise<[number, unknown]> => {
    switch (`${String(request.method)} ${String(request.url)}`) {
      case "GET /health/live":
        return [200, { status: "ok" }];
      case "GET /health/ready": {
        const problems = await dependencyProblems(pool, redis);
        return [problems.length > 0 ? 503 : 200, { status: problems.length > 0 ? "error" : "ok", problems }];
      }
      case "POST /internal/probe": {
        const parsed = probeRequest.safeParse(await readJson(request));
        if (!parsed.success) return [400, { problems: parsed.error.issues.map(({ message }) => message) }];
        return [200, { service, checks: await runProbe(checks, parsed.data) }];
      }
      default:
        return [404, { problems: ["not found"] }];
    }
  };
  const server = createServer((request, response) => {
    route(request).then(
      ([status, body]) => answer(response, status, body),
      () => answer(response, 500, { problems: ["the request broke off"] }),
    );
  });
  return {
    /** Listen, and return the port, which the system chooses for 0. */
    listen: async (portNumber: number): Promise<number> => {
      await new Promise<void>((resolve) => server.listen(portNumber, "0.0.0.0", resolve));
      return (server.address() as AddressInfo).port;
    },
    close: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}
