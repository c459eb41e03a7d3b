import { type Server, createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createLogger } from "../src/log.ts";
import { createPool } from "../src/postgres.ts";

let server: Server;
let startup: Promise<Record<string, string>>;

/** The names and values that a client begins a session with: https://www.postgresql.org/docs/18/protocol-message-formats.html */
function startupOf(message: Buffer): Record<string, string> {
  const texts = message.subarray(8, message.readInt32BE(0)).toString().split("\0");
  const found: Record<string, string> = {};
  for (let index = 0; texts[index]; index += 2) found[texts[index]!] = texts[index + 1]!;
  return found;
}

beforeEach(async () => {
  startup = new Promise((resolve) => {
    server = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.once("data", (data: Buffer) => {
        resolve(startupOf(data));
        socket.destroy();
      });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "::", resolve));
});
afterEach(() => {
  server.close();
});

describe("a PostgreSQL URL", () => {
  it.each([
    ["app-user", "campaign-prod", "app-user:p@127.0.0.1", "campaign-prod"],
    ["postgres.abcdef", "campaign_db", "postgres.abcdef:p@[::1]", "campaign_db"],
    ["App@server", "Kampagne é", "App%40server:p@127.0.0.1", "Kampagne%20%C3%A9"],
    ["50%", "100%/2 @home:$HOME;x=1&y+z,", "50%25:p@127.0.0.1", "100%25/2%20@home:$HOME;x=1&y+z,"],
  ])("signs in as %s to the database %s", async (user, database, authority, path) => {
    const { port } = server.address() as AddressInfo;
    const pool = createPool(`postgres://${authority}:${port}/${path}`, createLogger("test", "silent"), "test");
    await expect(pool.query("SELECT 1")).rejects.toThrow();
    await pool.end();
    expect(await startup).toMatchObject({ user, database });
  });
});
