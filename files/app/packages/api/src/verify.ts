// Verifies the application from end to end, where its users stand: `node verify.mjs http://frontend:8080`.
import { loadConfig } from "@campaign/shared";
import { z } from "zod";
import { settings } from "./config.ts";
import { Unexpected, verify } from "./verification.ts";

// A variable that Compose hands on without a value is empty.
const given = z
  .string()
  .transform((text) => (text === "" ? undefined : text))
  .optional();
const { OPERATOR_USER, OPERATOR_PASSWORD, VERIFY_CERTIFICATE, VERIFY_SERVER_NAME } = await loadConfig({
  OPERATOR_USER: settings.OPERATOR_USER,
  OPERATOR_PASSWORD: settings.OPERATOR_PASSWORD,
  VERIFY_CERTIFICATE: given,
  VERIFY_SERVER_NAME: given,
});
const origin = process.argv[2] ?? "";
const start = performance.now();
try {
  await verify(
    { origin, certificate: VERIFY_CERTIFICATE, serverName: VERIFY_SERVER_NAME },
    { username: OPERATOR_USER, password: OPERATOR_PASSWORD },
  );
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  process.stdout.write(`verified: campaigns were created, evaluated and removed at ${origin} in ${seconds} s\n`);
} catch (error) {
  if (!(error instanceof Unexpected)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
