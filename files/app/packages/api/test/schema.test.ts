import { createLogger } from "@campaign/shared";
import { Kysely, PostgresDialect, type PostgresPool } from "kysely";
import { describe, expect, it } from "vitest";
import { updateSchema } from "../src/schema.ts";

/** Run against a stand-in for PostgreSQL that has no tables yet, and return what it was told. */
async function run(fails?: string): Promise<{ statements: string[]; done: boolean | Error }> {
  const statements: string[] = [];
  const client = {
    query: (statement: string) => {
      const text = statement.replace(/\s+/g, " ").trim();
      statements.push(text);
      if (fails && text.includes(fails)) return Promise.reject(new Error("the server refuses"));
      return Promise.resolve({ command: "SELECT" as const, rowCount: 0, rows: [] });
    },
    release: () => undefined,
  };
  const pool = { connect: () => Promise.resolve(client), end: () => Promise.resolve() };
  const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: pool as unknown as PostgresPool }) });
  const done = await updateSchema(db, createLogger("test", "silent")).catch((error: unknown) => error as Error);
  return { statements, done };
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
});
