import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
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

/** A worker's own HTTP server: liveness, readiness and the probe. It is published nowhere. */
export function createHealthServer(service: string, pool: Pool, redis: Redis, checks: Record<string, ProbeCheck>) {
  const answer = (response: ServerResponse, status: number, body: unknown) => {
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  };
  const server = createServer(async (request, response) => {
    const route = `${request.method} ${request.url}`;
    if (route === "GET /health/live") return answer(response, 200, { status: "ok" });
    if (route === "GET /health/ready") {
      const problems = await dependencyProblems(pool, redis);
      return answer(response, problems.length ? 503 : 200, { status: problems.length ? "error" : "ok", problems });
    }
    if (route === "POST /internal/probe") {
      const parsed = probeRequest.safeParse(await readJson(request));
      if (!parsed.success)
        return answer(response, 400, { problems: parsed.error.issues.map(({ message }) => message) });
      return answer(response, 200, { service, checks: await runProbe(checks, parsed.data) });
    }
    return answer(response, 404, { problems: ["not found"] });
  });
  return {
    listen: (portNumber: number) => new Promise<void>((resolve) => server.listen(portNumber, "0.0.0.0", resolve)),
    close: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}
