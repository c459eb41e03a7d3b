import { STATUS_CODES } from "node:http";
import type { Problem } from "@campaign/shared";
import { type ArgumentsHost, BadRequestException, Catch, type ExceptionFilter, HttpException } from "@nestjs/common";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { z } from "zod";
import { describeError } from "./log.ts";

/** What a client sent is not of the shape that was asked for. */
export class InvalidRequest extends BadRequestException {
  constructor(readonly errors: NonNullable<Problem["errors"]>) {
    super("The request is not valid.");
  }

  static of(issues: readonly Pick<z.core.$ZodIssue, "message" | "path">[]): InvalidRequest {
    return new InvalidRequest(
      issues.map(({ path, message }) => ({ pointer: `#/${path.map(String).join("/")}`, detail: message })),
    );
  }
}

/** The status of an error and what may be said about it: Nest's own and Fastify's refusals speak, nothing else does. */
function refusalOf(error: unknown): { status: number; detail: string } {
  const { statusCode, code, message } = error as { statusCode?: unknown; code?: unknown; message: string };
  if (error instanceof HttpException) return { status: error.getStatus(), detail: message };
  if (typeof statusCode === "number" && statusCode < 500 && typeof code === "string" && code.startsWith("FST_")) {
    return { status: statusCode, detail: message };
  }
  return { status: 500, detail: "Something went wrong. The log says what, under the id of this request." };
}

/** Answers every error as RFC 9457 asks, and logs what the client is not told. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  catch(error: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const reply = http.getResponse<FastifyReply>();
    const { status, detail } = refusalOf(error);
    if (status >= 500) request.log.error(describeError(error), "a request failed");
    if (reply.sent) return;
    if (status === 401) reply.header("www-authenticate", "Bearer");
    const problem: Problem = {
      type: "about:blank",
      title: STATUS_CODES[status] ?? "Error",
      status,
      detail,
      requestId: request.id,
      ...(error instanceof InvalidRequest && { errors: error.errors }),
    };
    void reply.status(status).type("application/problem+json").send(problem);
  }
}
