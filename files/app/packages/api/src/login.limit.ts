import { isIPv6 } from "node:net";
import {
  type CallHandler,
  type ExecutionContext,
  HttpException,
  HttpStatus,
  Injectable,
  type NestInterceptor,
} from "@nestjs/common";
import type { FastifyReply, FastifyRequest } from "fastify";
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import { type Observable, tap } from "rxjs";

/** Failed sign-ins that one client has in a period. */
export const FAILURES = 10;
export const PERIOD_SECONDS = 300;

/** What counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that a provider hands to a customer. */
export function clientOf(address: string): string {
  if (!isIPv6(address)) return address;
  const [head = "", tail] = address.split("::");
  const left = head.split(":").filter((group) => group !== "");
  const right = tail?.split(":").filter((group) => group !== "") ?? [];
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length);
  const groups = [...left, ...Array<string>(zeros).fill("0"), ...right];
  return groups
    .slice(0, 4)
    .map((group) => parseInt(group, 16).toString(16))
    .join(":");
}

/**
 * Refuses a client that failed to sign in too often, right passwords included, or an answer would tell which one was right.
 * It counts in memory, so each process of the api has its own count; the frontend's nginx limits them all together.
 */
@Injectable()
export class LoginLimit implements NestInterceptor {
  readonly #attempts = new RateLimiterMemory({ points: FAILURES, duration: PERIOD_SECONDS });

  async intercept(context: ExecutionContext, next: CallHandler): Promise<Observable<unknown>> {
    const http = context.switchToHttp();
    const client = clientOf(http.getRequest<FastifyRequest>().ip);
    try {
      await this.#attempts.consume(client);
    } catch (error) {
      if (!(error instanceof RateLimiterRes)) throw error;
      const seconds = Math.ceil(error.msBeforeNext / 1000);
      http.getResponse<FastifyReply>().header("retry-after", seconds);
      throw new HttpException(
        `Too many attempts to sign in failed. Try again in ${seconds} s.`,
        HttpStatus.TOO_MANY_REQUESTS,
      );
    }
    // Who signs in gets the attempt back: only failures count, and they count before they are known.
    return next.handle().pipe(tap(() => void this.#attempts.reward(client)));
  }
}
