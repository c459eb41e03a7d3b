const ROLES = "campaign_api, campaign_rules_engine, campaign_scheduler";

/**
 * What each service may do in the schema, stated again as a whole after the migrations of every deploy. So a grant that is gone
 * from this list is gone from the database, and one that somebody made by hand too.
 */
export const grants: readonly string[] = [
  `REVOKE ALL ON SCHEMA campaign FROM PUBLIC, ${ROLES}`,
  `REVOKE ALL ON ALL TABLES IN SCHEMA campaign FROM PUBLIC, ${ROLES}`,
  `GRANT USAGE ON SCHEMA campaign TO ${ROLES}`,
  `GRANT SELECT, INSERT (name, place, rule), UPDATE (asset_type, asset_size), DELETE ON campaign.campaigns TO campaign_api`,
  // RETURNING state needs its SELECT, and so does the comparison of evaluated_at.
  `GRANT SELECT (id, place, rule, state, evaluated_at), UPDATE (state, evaluated_at) ON campaign.campaigns TO campaign_rules_engine`,
  `GRANT SELECT (id, evaluated_at) ON campaign.campaigns TO campaign_scheduler`,
  `GRANT SELECT (start, seconds), INSERT (start, seconds), DELETE ON campaign.ticks TO campaign_scheduler`,
];
