import { UnauthorizedException, type ExecutionContext } from "@nestjs/common";
import { JwtService } from "@nestjs/jwt";
import { describe, expect, it } from "vitest";
import { AuthController, SignedIn } from "../src/auth.ts";
import type { Settings } from "../src/config.ts";

const settings = { OPERATOR_USER: "operator", OPERATOR_PASSWORD: "right-password", JWT_EXPIRATION: "7d" } as Settings;
const jwt = new JwtService({ secret: "a-secret-of-the-test", signOptions: { algorithm: "HS256", expiresIn: "7d" } });
const contextOf = (authorization?: string) =>
  ({ switchToHttp: () => ({ getRequest: () => ({ headers: { authorization } }) }) }) as unknown as ExecutionContext;

describe("signing in", () => {
  const auth = new AuthController(settings, jwt);

  it("gives a token that opens what is guarded", async () => {
    const { accessToken, expiresIn } = await auth.login({ username: "operator", password: "right-password" });
    expect(expiresIn).toBe("7d");
    await expect(new SignedIn(jwt).canActivate(contextOf(`Bearer ${accessToken}`))).resolves.toBe(true);
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
  const guard = new SignedIn(jwt);
  const stranger = new JwtService({ secret: "another-secret-altogether" });

  it("refuses no token, no bearer, a foreign token and an expired one", async () => {
    await expect(guard.canActivate(contextOf())).rejects.toThrow(UnauthorizedException);
    await expect(guard.canActivate(contextOf("Basic abc"))).rejects.toThrow(UnauthorizedException);
    await expect(guard.canActivate(contextOf(`Bearer ${stranger.sign({ sub: "operator" })}`))).rejects.toThrow(
      UnauthorizedException,
    );
    const expired = jwt.sign({ sub: "operator" }, { expiresIn: -1 });
    await expect(guard.canActivate(contextOf(`Bearer ${expired}`))).rejects.toThrow(UnauthorizedException);
  });
});
