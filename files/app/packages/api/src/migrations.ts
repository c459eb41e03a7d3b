import { type Kysely, sql } from "kysely";
import type { Migration } from "kysely/migration";

/** A version of the schema, and what an older version of the application no longer finds in it, in words for the person who wants to go back. */
export interface Version extends Migration {
  /**
   * `null` where older versions run on it: it adds what may be null or has a default, and nothing that they use is gone. What takes something away waits
   * for a later release, when no version that needs it is among those to go back to (expand, then contract).
   */
  readonly removes: string | null;
}

/** The schema's versions, in order. A released migration is never edited; a new one is added. */
export const migrations: Record<string, Version> = {
  "0001_campaigns": {
    removes: null,
    async up(db: Kysely<unknown>): Promise<void> {
      await sql`CREATE EXTENSION IF NOT EXISTS postgis`.execute(db);
      await sql`
        CREATE TABLE campaign.campaigns (
          id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
          name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
          place geometry(Point, 4326) NOT NULL,
          rule jsonb NOT NULL,
          state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'active', 'inactive')),
          evaluated_at timestamptz,
          asset_type text,
          asset_size integer,
          created_at timestamptz NOT NULL DEFAULT now()
        )`.execute(db);
      await sql`CREATE INDEX campaigns_place ON campaign.campaigns USING gist (place)`.execute(db);
      await sql`CREATE INDEX campaigns_evaluated_at ON campaign.campaigns (evaluated_at NULLS FIRST)`.execute(db);
      await sql`GRANT USAGE ON SCHEMA campaign TO campaign_api, campaign_rules_engine, campaign_scheduler`.execute(db);
      await sql`GRANT SELECT, INSERT, DELETE, UPDATE (asset_type, asset_size) ON campaign.campaigns TO campaign_api`.execute(
        db,
      );
      await sql`GRANT SELECT (id, place, rule, state), UPDATE (state, evaluated_at) ON campaign.campaigns TO campaign_rules_engine`.execute(
        db,
      );
      await sql`GRANT SELECT (id, state, evaluated_at) ON campaign.campaigns TO campaign_scheduler`.execute(db);
    },
  },
  "0002_list_order": {
    removes: null,
    async up(db: Kysely<unknown>): Promise<void> {
      await sql`CREATE INDEX campaigns_created_at ON campaign.campaigns (created_at DESC, id DESC)`.execute(db);
    },
  },
  "0003_ticks": {
    removes: null,
    async up(db: Kysely<unknown>): Promise<void> {
      // The scheduler's intervals that were done: the key lets each be done once, whoever does it.
      await sql`
        CREATE TABLE campaign.ticks (
          start timestamptz PRIMARY KEY,
          seconds integer NOT NULL CHECK (seconds > 0),
          done_at timestamptz NOT NULL DEFAULT now()
        )`.execute(db);
    },
  },
};
