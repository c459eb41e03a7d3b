import { createHash, timingSafeEqual } from "node:crypto";
import {
  Body,
  type CanActivate,
  Controller,
  type ExecutionContext,
  HttpCode,
  Inject,
  Injectable,
  Post,
  UnauthorizedException,
  UseInterceptors,
} from "@nestjs/common";
import { JwtService } from "@nestjs/jwt";
import type { FastifyRequest } from "fastify";
import { z } from "zod";
import { SETTINGS, type Settings } from "./config.ts";
import { LoginLimit } from "./login.limit.ts";
import { ZodPipe } from "./zod.pipe.ts";

const credentials = z.object({ username: z.string().max(256), password: z.string().max(4096) });

const digest = (text: string) => createHash("sha256").update(text).digest();

/** Compare in a time that tells nothing about where the texts differ. */
function equal(left: string, right: string): boolean {
  return timingSafeEqual(digest(left), digest(right));
}

/** Signs the operator in. */
@Controller("auth")
export class AuthController {
  constructor(
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(JwtService) private readonly jwt: JwtService,
  ) {}

  @Post("login")
  @HttpCode(200)
  @UseInterceptors(LoginLimit)
  async login(@Body(new ZodPipe(credentials)) { username, password }: z.infer<typeof credentials>) {
    const { OPERATOR_USER, OPERATOR_PASSWORD, JWT_EXPIRATION } = this.settings;
    // Both are compared whatever the first says.
    const known = [equal(username, OPERATOR_USER), equal(password, OPERATOR_PASSWORD)];
    if (known.includes(false)) throw new UnauthorizedException("The username or the password is wrong.");
    return { accessToken: await this.jwt.signAsync({ sub: username }), expiresIn: JWT_EXPIRATION };
  }
}

/** Lets requests with a valid bearer token pass. */
@Injectable()
export class SignedIn implements CanActivate {
  constructor(@Inject(JwtService) private readonly jwt: JwtService) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const { authorization = "" } = context.switchToHttp().getRequest<FastifyRequest>().headers;
    const [, token] = /^Bearer (\S+)$/.exec(authorization) ?? [];
    if (!token) throw new UnauthorizedException("Sign in first.");
    try {
      await this.jwt.verifyAsync(token, { algorithms: ["HS256"] });
    } catch {
      throw new UnauthorizedException("Your sign-in has expired. Sign in again.");
    }
    return true;
  }
}
