import { type ExecutionContext, UnauthorizedException } from "@nestjs/common";
import { Reflector } from "@nestjs/core";
import { JwtService } from "@nestjs/jwt";
import type { FastifyRequest } from "fastify";
import { describe, expect, it } from "vitest";
import { AuthController, Public, SignedIn } from "../src/auth.ts";
import type { Settings } from "../src/config.ts";

const settings = { OPERATOR_USER: "operator", OPERATOR_PASSWORD: "right-password", JWT_EXPIRATION: "7d" } as Settings;
const jwt = new JwtService({ secret: "a-secret-of-the-test", signOptions: { algorithm: "HS256", expiresIn: "7d" } });
const previous = {
  JWT_SECRET_PREVIOUS: [
    { key: "a-secret-that-was-replaced", until: Date.now() / 1000 + 60 },
    { key: "a-secret-of-long-ago", until: Date.now() / 1000 - 1 },
  ],
};
const guard = new SignedIn(jwt, new Reflector(), previous);

class Routes {
  guarded() {
    return "for who signed in";
  }

  @Public()
  open() {
    return "for everybody";
  }
}

async function ask(route: keyof Routes, authorization?: string): Promise<[boolean, boolean | undefined]> {
  const request = { headers: { authorization } } as FastifyRequest;
  const context = {
    switchToHttp: () => ({ getRequest: () => request }),
    getHandler: () => Object.getOwnPropertyDescriptor(Routes.prototype, route)!.value as unknown,
    getClass: () => Routes,
  } as unknown as ExecutionContext;
  return [await guard.canActivate(context), request.signedIn];
}

describe("signing in", () => {
  const auth = new AuthController(settings, jwt);

  it("gives a token that opens what is guarded", async () => {
    const { accessToken, expiresIn } = await auth.login({ username: "operator", password: "right-password" });
    expect(expiresIn).toBe("7d");
    expect(await ask("guarded", `Bearer ${accessToken}`)).toEqual([true, true]);
  });

  it.each([
    ["operator", "wrong"],
    ["stranger", "right-password"],
    ["operator", ""],
  ])("refuses %s with %j", async (username, password) => {
    await expect(auth.login({ username, password })).rejects.toThrow(UnauthorizedException);
  });
});

describe("the guard", () => {
  const stranger = new JwtService({ secret: "another-secret-altogether" });
  const before = new JwtService({ secret: "a-secret-that-was-replaced" });
  const longAgo = new JwtService({ secret: "a-secret-of-long-ago" });

  it("believes a token of a key that was replaced, until that key's time is over", async () => {
    expect(await ask("guarded", `Bearer ${before.sign({ sub: "operator" })}`)).toEqual([true, true]);
  });

  it.each([
    ["no token", undefined],
    ["no bearer", "Basic abc"],
    ["a foreign token", `Bearer ${stranger.sign({ sub: "operator" })}`],
    ["a token of a key whose time is over", `Bearer ${longAgo.sign({ sub: "operator" })}`],
    ["an expired token of a key that was replaced", `Bearer ${before.sign({ sub: "operator" }, { expiresIn: -1 })}`],
    ["an expired token", `Bearer ${jwt.sign({ sub: "operator" }, { expiresIn: -1 })}`],
    ["a token without a signature", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJvcGVyYXRvciJ9."],
  ])("refuses %s, but for what is public", async (_name, authorization) => {
    await expect(ask("guarded", authorization)).rejects.toThrow(UnauthorizedException);
    expect(await ask("open", authorization)).toEqual([true, false]);
  });
});
