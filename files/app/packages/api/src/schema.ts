import type { Logger } from "@campaign/shared";
import { type Kysely, sql } from "kysely";
import { Migrator } from "kysely/migration";
import { grants } from "./grants.ts";
import { migrations } from "./migrations.ts";

/**
 * Bring the schema to the newest version and the grants to what is listed.
 *
 * @returns whether that worked; what did not is in the log, and nothing of it was kept.
 */
export async function updateSchema(db: Kysely<unknown>, log: Logger): Promise<boolean> {
  await sql`CREATE SCHEMA IF NOT EXISTS campaign`.execute(db);
  // Kysely takes an advisory lock, so that two runs at once do the work once.
  const migrator = new Migrator({
    db,
    provider: { getMigrations: () => Promise.resolve(migrations) },
    migrationTableSchema: "campaign",
  });
  const { error, results = [] } = await migrator.migrateToLatest();
  for (const { migrationName, status } of results) log.info({ migration: migrationName, status }, "migration");
  if (error) {
    log.error(
      { error: error instanceof Error ? error.message : "unknown" },
      "a migration failed; nothing of it was kept",
    );
    return false;
  }
  // In one transaction, so that a service that runs meanwhile never lacks what it needs.
  await db.transaction().execute(async (transaction) => {
    for (const statement of grants) await sql.raw(statement).execute(transaction);
  });
  log.info({ applied: results.length }, "the schema is up to date");
  return true;
}
