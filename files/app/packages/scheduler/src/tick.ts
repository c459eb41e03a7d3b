import type { EvaluationJob, Pool } from "@campaign/shared";

const REEVALUATE_AFTER = "60 seconds";
const BATCH = 1000;

interface Enqueue {
  addBulk: (jobs: { name: string; data: EvaluationJob; opts: object }[]) => Promise<unknown>;
}

/**
 * Put every campaign that was never evaluated, or not for a while, on the queue.
 *
 * @returns how many.
 */
export async function tick(pool: Pick<Pool, "query">, queue: Enqueue): Promise<number> {
  const { rows } = await pool.query<{ id: string }>(
    `SELECT id FROM campaign.campaigns
     WHERE evaluated_at IS NULL OR evaluated_at < now() - $1::interval
     ORDER BY evaluated_at NULLS FIRST LIMIT $2`,
    [REEVALUATE_AFTER, BATCH],
  );
  if (rows.length > 0) {
    await queue.addBulk(
      rows.map(({ id }) => ({
        name: "evaluate",
        data: { campaignId: id },
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
  return rows.length;
}
