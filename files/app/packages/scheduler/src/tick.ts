import { type EvaluationJob, type Pool, transaction } from "@campaign/shared";

const REEVALUATE_AFTER = "60 seconds";
const BATCH = 1000;
/** For how long it is known which intervals were done, and how far back those are made up for that were not. */
const KEPT = "1 day";

interface Enqueue {
  addBulk: (jobs: { name: string; data: EvaluationJob; opts: object }[]) => Promise<unknown>;
}

/** What came of a tick. */
export interface Ticked {
  /** How many intervals it was for: its own, and those before it that nobody has done. */
  intervals: number;
  campaigns: number;
}

/** The start of the interval that a moment is in, both in seconds since 1970: intervals have the same borders whoever counts them, and whenever. */
export function intervalAt(milliseconds: number, seconds: number): number {
  return Math.floor(milliseconds / 1000 / seconds) * seconds;
}

/**
 * Do what is due in an interval, once: put every campaign that was never evaluated, or not for a while, on the queue.
 *
 * One transaction writes the interval down, does the work and commits. A second scheduler at the same interval waits at the key of its row, and then finds
 * it done or, when the first was killed, free. Intervals that nobody came to are written down with it, as the work for them is the same; also those since a
 * change of the interval's length, from the first border of the new one after the last interval that was done.
 *
 * @param start - the interval's start, in seconds since 1970.
 * @param seconds - the interval's length.
 * @returns null when the interval was done before.
 */
export async function tick(
  pool: Pick<Pool, "connect">,
  queue: Enqueue,
  start: number,
  seconds: number,
): Promise<Ticked | null> {
  return await transaction(pool, async (client) => {
    // Whoever is frozen in the middle holds the others up for this long and no longer.
    await client.query("SET LOCAL idle_in_transaction_session_timeout = '10s'");
    // Rows that lie ahead are left of a clock that was set back: their time comes again.
    await client.query(
      `DELETE FROM campaign.ticks
       WHERE start < to_timestamp($1::float8) - $2::interval OR start > to_timestamp($1::float8) + interval '1 minute'`,
      [Date.now() / 1000, KEPT],
    );
    const { rowCount: intervals } = await client.query(
      `INSERT INTO campaign.ticks (start, seconds)
       SELECT to_timestamp(second), $2::int FROM generate_series(
         coalesce((
           SELECT least($1::bigint, ceil((extract(epoch FROM start) + seconds) / $2::bigint)::bigint * $2::bigint)
           FROM campaign.ticks
           WHERE start < to_timestamp($1::bigint) AND start >= to_timestamp($1::bigint) - $3::interval
           ORDER BY start DESC LIMIT 1
         ), $1::bigint),
         $1::bigint, $2::bigint
       ) AS second
       ON CONFLICT (start) DO NOTHING`,
      [start, seconds, KEPT],
    );
    if (!intervals) return null;
    const { rows } = await client.query<{ id: string; evaluatedAt: string | null }>(
      `SELECT id, to_char(evaluated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "evaluatedAt"
       FROM campaign.campaigns
       WHERE evaluated_at IS NULL OR evaluated_at < now() - $1::interval
       ORDER BY evaluated_at NULLS FIRST LIMIT $2`,
      [REEVALUATE_AFTER, BATCH],
    );
    if (rows.length > 0) {
      await queue.addBulk(
        rows.map(({ id, evaluatedAt }) => ({
          name: "evaluate",
          data: { campaignId: id, evaluatedAt },
          // One job a campaign at a time: a second one of the same id is dropped by the queue until the first is done.
          opts: {
            jobId: `evaluate-${id}`,
            attempts: 3,
            backoff: { type: "exponential", delay: 1000 },
            removeOnComplete: true,
            removeOnFail: true,
          },
        })),
      );
    }
    return { intervals, campaigns: rows.length };
  });
}
