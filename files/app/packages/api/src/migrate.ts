import { commonSettings, createLogger, createPool, loadConfig } from "@campaign/shared";
import { Kysely, PostgresDialect, sql } from "kysely";
import { Migrator } from "kysely/migration";
import { grants } from "./grants.ts";
import { migrations } from "./migrations.ts";

const { DATABASE_URL, LOG_LEVEL } = await loadConfig({
  DATABASE_URL: commonSettings.DATABASE_URL,
  LOG_LEVEL: commonSettings.LOG_LEVEL,
});
const log = createLogger("migrate", LOG_LEVEL);
const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: createPool(DATABASE_URL, log, "migrate") }) });
try {
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
    process.exitCode = 1;
  } else {
    // In one transaction, so that a service that runs meanwhile never lacks what it needs.
    await db.transaction().execute(async (transaction) => {
      for (const statement of grants) await sql.raw(statement).execute(transaction);
    });
    log.info({ applied: results.length }, "the schema is up to date");
  }
} finally {
  await db.destroy();
}
