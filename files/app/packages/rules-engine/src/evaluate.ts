import type { Pool } from "@campaign/shared";

/**
 * Evaluate one campaign's rule where its place is, in PostGIS.
 *
 * @returns the new state, or null when the campaign is gone.
 */
export async function evaluate(pool: Pick<Pool, "query">, campaignId: string): Promise<string | null> {
  const { rows } = await pool.query<{ state: string }>(
    `UPDATE campaign.campaigns SET evaluated_at = now(), state = CASE
       WHEN ST_DWithin(
         place::geography,
         ST_SetSRID(ST_MakePoint((rule->'center'->>0)::float8, (rule->'center'->>1)::float8), 4326)::geography,
         (rule->>'radiusMeters')::float8
       ) THEN 'active' ELSE 'inactive' END
     WHERE id = $1
     RETURNING state`,
    [campaignId],
  );
  return rows[0]?.state ?? null;
}
