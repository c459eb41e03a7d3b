import type { Logger } from "@campaign/shared";
import { type Kysely, sql } from "kysely";
import { Migrator } from "kysely/migration";
import { grants } from "./grants.ts";
import { migrations } from "./migrations.ts";

/** A version of the schema that this version of the application does not know, because a newer one made it. */
interface Unknown {
  name: string;
  removes: string | null;
  /** Whether the newer version said what it removes. */
  told: boolean;
}

/** The schema's versions that only a newer version of the application knows, in order. */
async function unknownVersions(db: Kysely<unknown>): Promise<Unknown[]> {
  const exists = async (table: string): Promise<boolean> =>
    (await sql<{ there: boolean }>`SELECT to_regclass(${table}) IS NOT NULL AS there`.execute(db)).rows[0]?.there ??
    false;
  if (!(await exists("campaign.kysely_migration"))) return [];
  const { rows } = (await exists("campaign.schema_versions"))
    ? await sql<Unknown>`
        SELECT m.name, v.removes, v.name IS NOT NULL AS told
        FROM campaign.kysely_migration m LEFT JOIN campaign.schema_versions v USING (name) ORDER BY m.name`.execute(db)
    : await sql<Unknown>`SELECT name, NULL AS removes, false AS told FROM campaign.kysely_migration ORDER BY name`.execute(
        db,
      );
  return rows.filter(({ name }) => !(name in migrations));
}

/**
 * Whether this version runs on a schema that a newer one made, which is so where every version of it that this one does not know adds things only.
 */
function runsOn(newer: Unknown[], log: Logger): boolean {
  const names = newer.map(({ name }) => name);
  const removed = newer.flatMap(({ removes }) => removes ?? []);
  const silent = newer.filter(({ told }) => !told).map(({ name }) => name);
  if (removed.length === 0 && silent.length === 0) {
    log.warn({ migrations: names }, "the schema is newer than this version, which runs on it; no migration was run");
    return true;
  }
  const why = [
    ...removed.map((what) => `it lacks ${what}`),
    ...silent.map((name) => `nothing is known of ${name}`),
  ].join("; ");
  log.error(
    { migrations: names },
    `the schema is newer than this version, which does not run on it: ${why}. Deploy a newer version, or restore a backup`,
  );
  return false;
}

/** Write down what each version of the schema removes, for older versions of the application to read. */
async function tellOlderVersions(db: Kysely<unknown>): Promise<void> {
  await sql`CREATE TABLE IF NOT EXISTS campaign.schema_versions (name text PRIMARY KEY, removes text)`.execute(db);
  for (const [name, { removes }] of Object.entries(migrations)) {
    await sql`INSERT INTO campaign.schema_versions (name, removes) VALUES (${name}, ${removes}) ON CONFLICT (name) DO UPDATE SET removes = EXCLUDED.removes`.execute(
      db,
    );
  }
}

/**
 * Bring the schema to the newest version and the grants to what is listed.
 *
 * @returns whether that worked; what did not is in the log, and nothing of it was kept.
 */
export async function updateSchema(db: Kysely<unknown>, log: Logger): Promise<boolean> {
  await sql`CREATE SCHEMA IF NOT EXISTS campaign`.execute(db);
  const newer = await unknownVersions(db);
  if (newer.length > 0) return runsOn(newer, log);
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
    await tellOlderVersions(transaction);
    for (const statement of grants) await sql.raw(statement).execute(transaction);
  });
  log.info({ applied: results.length }, "the schema is up to date");
  return true;
}
