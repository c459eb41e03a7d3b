import { createHash } from "node:crypto";
import type { FastifyReply, FastifyRequest } from "fastify";

/** What an answer is like, in a header's words; weak, as nginx may compress it. */
const tagOf = (body: string | Buffer) => `"${createHash("sha256").update(body).digest("base64url").slice(0, 27)}"`;

/** Say what an answer is like, and send nothing to a client that has it already. A hook of Fastify's, after the serialisation. */
export function answerOnce(
  request: FastifyRequest,
  reply: FastifyReply,
  payload: unknown,
  done: (error: null, payload?: unknown) => void,
): void {
  const isBody = typeof payload === "string" || Buffer.isBuffer(payload);
  const isCampaign = request.routeOptions.url?.startsWith("/api/campaigns");
  if (request.method !== "GET" || reply.statusCode !== 200 || !isBody || !isCampaign) {
    done(null, payload);
    return;
  }
  const tag = tagOf(payload);
  // A browser may keep it, and asks each time whether it still holds.
  reply.header("etag", `W/${tag}`).header("cache-control", "no-cache");
  const known = (request.headers["if-none-match"] ?? "").split(",").map((text) => text.trim().replace(/^W\//, ""));
  if (!known.includes(tag)) {
    done(null, payload);
    return;
  }
  reply.status(304).removeHeader("content-type").removeHeader("content-length");
  done(null, "");
}
