import type { EvaluationJob, Pool } from "@campaign/shared";

/**
 * Evaluate one campaign's rule where its place is, in PostGIS, unless that has happened since the job was made: a job whose worker was killed or frozen
 * is given to another one, and may have been done.
 *
 * @returns the new state, or null when the campaign is gone or the job was done.
 */
export async function evaluate(
  pool: Pick<Pool, "query">,
  { campaignId, evaluatedAt }: EvaluationJob,
): Promise<string | null> {
  const { rows } = await pool.query<{ state: string }>(
    `UPDATE campaign.campaigns SET evaluated_at = now(), state = CASE
       WHEN ST_DWithin(
         place::geography,
         ST_SetSRID(ST_MakePoint((rule->'center'->>0)::float8, (rule->'center'->>1)::float8), 4326)::geography,
         (rule->>'radiusMeters')::float8
       ) THEN 'active' ELSE 'inactive' END
     WHERE id = $1 AND ($2 OR evaluated_at IS NOT DISTINCT FROM $3::timestamptz)
     RETURNING state`,
    [campaignId, evaluatedAt === undefined, evaluatedAt ?? null],
  );
  return rows[0]?.state ?? null;
}
