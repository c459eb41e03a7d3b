import { createHash, timingSafeEqual } from "node:crypto";
import { type Credentials, credentials, session, type Session } from "@campaign/shared";
import {
  Body,
  type CanActivate,
  Controller,
  type ExecutionContext,
  HttpCode,
  Inject,
  Injectable,
  Post,
  SetMetadata,
  UnauthorizedException,
  UseInterceptors,
} from "@nestjs/common";
import { Reflector } from "@nestjs/core";
import { JwtService } from "@nestjs/jwt";
import { ApiOkResponse } from "@nestjs/swagger";
import type { FastifyRequest } from "fastify";
import { SETTINGS, type Settings } from "./config.ts";
import { LoginLimit } from "./login.limit.ts";
import { Documented } from "./openapi.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** Whether a valid token came with it. */
    signedIn?: boolean;
  }
}

const PUBLIC = "public";
/** For everybody. What does not say so is for who signed in. */
export const Public = () => SetMetadata(PUBLIC, true);

const digest = (text: string) => createHash("sha256").update(text).digest();

/** Compare in a time that tells nothing about where the texts differ. */
function equal(left: string, right: string): boolean {
  return timingSafeEqual(digest(left), digest(right));
}

/** Signs the operator in. */
@Documented()
@Controller("auth")
export class AuthController {
  constructor(
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(JwtService) private readonly jwt: JwtService,
  ) {}

  @Post("login")
  @HttpCode(200)
  @Public()
  @UseInterceptors(LoginLimit)
  @ApiOkResponse({ standardSchema: session })
  async login(@Body({ schema: credentials }) { username, password }: Credentials): Promise<Session> {
    const { OPERATOR_USER, OPERATOR_PASSWORD, JWT_EXPIRATION } = this.settings;
    // Both are compared whatever the first says.
    const known = [equal(username, OPERATOR_USER), equal(password, OPERATOR_PASSWORD)];
    if (known.includes(false)) throw new UnauthorizedException("The username or the password is wrong.");
    return { accessToken: await this.jwt.signAsync({ sub: username }), expiresIn: JWT_EXPIRATION };
  }
}

/** Lets requests with a valid bearer token pass, and every request to what is public. */
@Injectable()
export class SignedIn implements CanActivate {
  constructor(
    @Inject(JwtService) private readonly jwt: JwtService,
    @Inject(Reflector) private readonly reflector: Reflector,
    @Inject(SETTINGS) private readonly settings: Pick<Settings, "JWT_SECRET_PREVIOUS">,
  ) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    const [, token] = /^Bearer (\S+)$/.exec(request.headers.authorization ?? "") ?? [];
    request.signedIn = token !== undefined && (await this.isValid(token));
    const isPublic = this.reflector.getAllAndOverride<true | undefined>(PUBLIC, [
      context.getHandler(),
      context.getClass(),
    ]);
    if (isPublic || request.signedIn) return true;
    throw new UnauthorizedException(token ? "Your sign-in has expired. Sign in again." : "Sign in first.");
  }

  private async isValid(token: string): Promise<boolean> {
    if (await this.isSigned(token)) return true;
    const now = Date.now() / 1000;
    // A key that was replaced may be in the wrong hands, so it is believed until the last token that it signed has expired, and no longer.
    for (const { key, until } of this.settings.JWT_SECRET_PREVIOUS) {
      if (now < until && (await this.isSigned(token, key))) return true;
    }
    return false;
  }

  /** Whether a token is valid and was signed by a key, or by the present one. */
  private async isSigned(token: string, secret?: string): Promise<boolean> {
    return this.jwt.verifyAsync(token, { algorithms: ["HS256"], ...(secret === undefined ? {} : { secret }) }).then(
      () => true,
      () => false,
    );
  }
}
