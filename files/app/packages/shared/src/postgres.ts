import pg from "pg";
import type { Logger } from "./log.ts";

export type { Pool } from "pg";

/** A small pool; a connection that breaks while idle is logged, and the next query gets a new one. */
export function createPool(url: string, log: Logger, service: string): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    max: 10,
    application_name: service,
    connectionTimeoutMillis: 5000,
  });
  pool.on("error", (error) => log.warn({ error: error.message }, "an idle PostgreSQL connection broke"));
  return pool;
}
