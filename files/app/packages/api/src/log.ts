import { randomUUID } from "node:crypto";
import type { Logger } from "@campaign/shared";
import type { LoggerService } from "@nestjs/common";
import type { FastifyRequest } from "fastify";

/** Hands on what Nest says, so that there is one log in one format. What it says of its own start is for who looks for it. */
export class NestLogger implements LoggerService {
  constructor(private readonly logger: Logger) {}

  log(message: unknown, ...rest: unknown[]): void {
    this.write("debug", message, rest);
  }

  error(message: unknown, ...rest: unknown[]): void {
    this.write("error", message, rest);
  }

  warn(message: unknown, ...rest: unknown[]): void {
    this.write("warn", message, rest);
  }

  private write(level: "debug" | "warn" | "error", message: unknown, rest: unknown[]): void {
    // Nest's own convention: the context comes last, and a stack before it.
    const [context, stack] = rest.filter((part) => typeof part === "string").toReversed();
    const error = message instanceof Error ? describeError(message) : { ...(stack !== undefined && { stack }) };
    this.logger[level]({ context, ...error }, message instanceof Error ? message.message : String(message));
  }
}

/** Of an error what the log may hold: clients of servers hang requests, credentials included, on theirs. */
export function describeError(error: unknown): { error: string; stack?: string | undefined } {
  return error instanceof Error ? { error: error.message, stack: error.stack } : { error: String(error) };
}

/** The id that the frontend's nginx gave a request, or one of our own: what else a client sends does not get into the log. */
export function requestIdOf({ headers }: Pick<FastifyRequest, "headers">): string {
  const given = headers["x-request-id"];
  return typeof given === "string" && /^[A-Za-z0-9._-]{8,64}$/.test(given) ? given : randomUUID();
}
