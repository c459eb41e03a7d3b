import { createLogger } from "@campaign/shared";
import { Kysely, PostgresDialect, type PostgresPool } from "kysely";
import { describe, expect, it, vi } from "vitest";
import { updateSchema } from "../src/schema.ts";

/** Run against a stand-in for PostgreSQL, which has no tables yet or a schema of these versions, and return what it was told. */
async function run(
  fails?: string,
  versions?: { name: string; removes: string | null; told: boolean }[],
): Promise<{ statements: string[]; done: boolean | Error; logged: string }> {
  const logged: string[] = [];
  const statements: string[] = [];
  const client = {
    query: (statement: string) => {
      const text = statement.replace(/\s+/g, " ").trim();
      statements.push(text);
      if (fails && text.includes(fails)) return Promise.reject(new Error("the server refuses"));
      let rows: unknown[] = [];
      if (versions && text.includes("to_regclass")) rows = [{ there: true }];
      if (versions && text.includes("JOIN campaign.schema_versions")) rows = versions;
      return Promise.resolve({ command: "SELECT" as const, rowCount: rows.length, rows });
    },
    release: () => undefined,
  };
  const pool = { connect: () => Promise.resolve(client), end: () => Promise.resolve() };
  const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: pool as unknown as PostgresPool }) });
  const log = createLogger("test", "silent");
  vi.spyOn(log, "warn").mockImplementation(
    (_fields: unknown, text?: string) => void logged.push(`warn: ${text ?? ""}`),
  );
  vi.spyOn(log, "error").mockImplementation(
    (_fields: unknown, text?: string) => void logged.push(`error: ${text ?? ""}`),
  );
  const done = await updateSchema(db, log).catch((error: unknown) => error as Error);
  return { statements, done, logged: logged.join("\n") };
}

/** The transaction's part of the statements that holds one: from its begin to its end. */
function around(statements: string[], part: string): string[] {
  const at = statements.findIndex((statement) => statement.includes(part));
  expect(at).toBeGreaterThan(0);
  const begin = statements.lastIndexOf("begin", at);
  const end = statements.findIndex((statement, index) => index > at && /^(commit|rollback|begin)$/.test(statement));
  // No other transaction ended between its begin and the statement.
  expect(statements.slice(begin, at).filter((statement) => /^(commit|rollback)$/.test(statement))).toEqual([]);
  return [statements[begin] ?? "none", statements[end] ?? "none"];
}

describe("updateSchema", () => {
  it("runs the migrations in one transaction, and the grants in one", async () => {
    const { statements, done } = await run();
    expect(done).toBe(true);
    for (const part of ["CREATE EXTENSION", "CREATE TABLE campaign.campaigns", "CREATE INDEX campaigns_evaluated_at"]) {
      expect(around(statements, part)).toEqual(["begin", "commit"]);
    }
    for (const part of ["REVOKE ALL ON ALL TABLES", "GRANT SELECT (id, evaluated_at)"]) {
      expect(around(statements, part)).toEqual(["begin", "commit"]);
    }
  });

  it("keeps nothing of a migration that fails, gives no grants and says so", async () => {
    const { statements, done } = await run("CREATE INDEX campaigns_evaluated_at");
    expect(done).toBe(false);
    expect(around(statements, "CREATE TABLE campaign.campaigns")).toEqual(["begin", "rollback"]);
    expect(statements.some((statement) => statement.startsWith("REVOKE"))).toBe(false);
  });

  it("takes the grants back in the transaction that gives them", async () => {
    const { statements, done } = await run("GRANT SELECT (id, evaluated_at) ON");
    expect(done).toBeInstanceOf(Error);
    expect(around(statements, "REVOKE ALL ON SCHEMA")).toEqual(["begin", "rollback"]);
  });

  const known = { name: "0001_campaigns", removes: null, told: true };

  it("writes down what each version removes, for older versions to read", async () => {
    const { statements } = await run();
    expect(around(statements, "INSERT INTO campaign.schema_versions")).toEqual(["begin", "commit"]);
  });

  it("runs on a newer schema that only adds things, and changes nothing of it", async () => {
    const { statements, done, logged } = await run(undefined, [
      known,
      { name: "0009_colours", removes: null, told: true },
    ]);
    expect(done).toBe(true);
    expect(logged).toContain("warn: the schema is newer than this version, which runs on it");
    expect(statements.filter((statement) => /^(create table|insert|grant|revoke|begin)/i.test(statement))).toEqual([]);
  });

  it.each([
    [
      { name: "0009_colours", removes: "the column campaigns.place", told: true },
      "it lacks the column campaigns.place",
    ],
    [{ name: "0009_colours", removes: null, told: false }, "nothing is known of 0009_colours"],
  ])("refuses a newer schema that lacks what it needs, and changes nothing of it", async (version, why) => {
    const { statements, done, logged } = await run(undefined, [known, version]);
    expect(done).toBe(false);
    expect(logged).toContain(`error: the schema is newer than this version, which does not run on it: ${why}.`);
    expect(statements.filter((statement) => /^(create table|insert|grant|revoke|begin)/i.test(statement))).toEqual([]);
  });
});
