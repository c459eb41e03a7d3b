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

/**
 * Do work in one transaction.
 *
 * @returns what the work returns, once it is committed.
 * @throws what the work or the server throws; nothing of the work in the database was kept then.
 */
export async function transaction<Result>(
  pool: Pick<pg.Pool, "connect">,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  const client = await pool.connect();
  let broken: Error | undefined;
  // A connection that ends between two queries would end the process: https://github.com/brianc/node-postgres/issues/2439
  const remember = (error: Error) => {
    broken = error;
  };
  client.on("error", remember);
  try {
    await client.query("BEGIN");
    const result = await work(client);
    await client.query("COMMIT");
    return result;
  } catch (error) {
    await client.query("ROLLBACK").catch(remember);
    throw error;
  } finally {
    client.off("error", remember);
    client.release(broken);
  }
}
