import { commonSettings, createLogger, createPool, loadConfig } from "@campaign/shared";
import { Kysely, PostgresDialect } from "kysely";
import { updateSchema } from "./schema.ts";

const { DATABASE_URL, LOG_LEVEL } = await loadConfig({
  DATABASE_URL: commonSettings.DATABASE_URL,
  LOG_LEVEL: commonSettings.LOG_LEVEL,
});
const log = createLogger("migrate", LOG_LEVEL);
const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: createPool(DATABASE_URL, log, "migrate") }) });
try {
  if (!(await updateSchema(db, log))) process.exitCode = 1;
} finally {
  await db.destroy();
}
