import type { Campaign, NewCampaign, Pool } from "@campaign/shared";
import { Inject, Injectable, NotFoundException } from "@nestjs/common";
import type { Asset, Assets } from "./assets.ts";
import { ASSETS, POOL } from "./config.ts";
import type { Cursor } from "./cursor.ts";

// PostgreSQL's own precision, so that a place in the list can be found again.
const iso = (column: string) => `to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;
const COLUMNS = `id, name, ST_AsGeoJSON(place)::json AS place, rule, state, ${iso("evaluated_at")} AS "evaluatedAt",
  CASE WHEN asset_type IS NULL THEN NULL ELSE json_build_object('contentType', asset_type, 'size', asset_size) END AS asset,
  ${iso("created_at")} AS "createdAt"`;
const key = (id: string) => `campaigns/${id}`;

/** Campaigns in PostGIS, their assets in the bucket. */
@Injectable()
export class Campaigns {
  constructor(
    @Inject(POOL) private readonly pool: Pool,
    @Inject(ASSETS) private readonly assets: Assets,
  ) {}

  /** The newest first; those that came in the same moment have an order too. */
  async list(limit: number, after?: Cursor): Promise<Campaign[]> {
    const where = after ? "WHERE (created_at, id) < ($2::timestamptz, $3::uuid)" : "";
    const sql = `SELECT ${COLUMNS} FROM campaign.campaigns ${where} ORDER BY created_at DESC, id DESC LIMIT $1`;
    return (await this.pool.query<Campaign>(sql, after ? [limit, after.createdAt, after.id] : [limit])).rows;
  }

  async get(id: string): Promise<Campaign> {
    return this.one(`SELECT ${COLUMNS} FROM campaign.campaigns WHERE id = $1`, [id]);
  }

  async create({ name, place, rule }: NewCampaign): Promise<Campaign> {
    const sql = `INSERT INTO campaign.campaigns (name, place, rule)
      VALUES ($1, ST_SetSRID(ST_MakePoint($2, $3), 4326), $4) RETURNING ${COLUMNS}`;
    return this.one(sql, [name, ...place.coordinates, rule]);
  }

  /** Remove the object first: an object without a campaign would stay for ever, the other way round a second try removes it. */
  async remove(id: string): Promise<void> {
    const { asset } = await this.get(id);
    if (asset) await this.assets.remove(key(id));
    await this.pool.query("DELETE FROM campaign.campaigns WHERE id = $1", [id]);
  }

  async setAsset(id: string, asset: Asset): Promise<Campaign> {
    await this.get(id);
    await this.assets.put(key(id), asset);
    const sql = `UPDATE campaign.campaigns SET asset_type = $2, asset_size = $3 WHERE id = $1 RETURNING ${COLUMNS}`;
    return this.one(sql, [id, asset.contentType, asset.body.length]);
  }

  async getAsset(id: string): Promise<Asset> {
    const { asset } = await this.get(id);
    if (!asset) throw new NotFoundException("This campaign has no asset.");
    return { body: await this.assets.get(key(id)), contentType: asset.contentType };
  }

  private async one(sql: string, values: unknown[]): Promise<Campaign> {
    const { rows } = await this.pool.query<Campaign>(sql, values);
    if (!rows[0]) throw new NotFoundException("There is no such campaign.");
    return rows[0];
  }
}
