import { describe, expect, it, vi } from "vitest";
import { evaluate } from "../src/evaluate.ts";

const ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

describe("evaluate", () => {
  it("compares metres on the globe with the rule's metres", async () => {
    const query = vi.fn().mockResolvedValue({ rows: [{ state: "active" }] });
    await expect(evaluate({ query }, { campaignId: ID, evaluatedAt: null })).resolves.toBe("active");
    const [sql] = query.mock.calls[0] as [string, unknown[]];
    // Of two geographies ST_DWithin takes metres, of two geometries degrees: https://postgis.net/docs/ST_DWithin.html
    expect(sql.replace(/\s+/g, "")).toContain(
      "ST_DWithin(place::geography," +
        "ST_SetSRID(ST_MakePoint((rule->'center'->>0)::float8,(rule->'center'->>1)::float8),4326)::geography," +
        "(rule->>'radiusMeters')::float8)THEN'active'ELSE'inactive'END",
    );
  });

  it.each([
    ["was never evaluated", { evaluatedAt: null }, [ID, false, null]],
    ["was evaluated then", { evaluatedAt: "2026-11-26T19:00:00.123456Z" }, [ID, false, "2026-11-26T19:00:00.123456Z"]],
    ["is of a scheduler that does not say when", {}, [ID, true, null]],
  ])("asks whether the campaign of a job that %s still is as the job says", async (_name, job, values) => {
    const query = vi.fn().mockResolvedValue({ rows: [] });
    await evaluate({ query }, { campaignId: ID, ...job });
    const [sql, given] = query.mock.calls[0] as [string, unknown[]];
    expect(sql.replace(/\s+/g, " ")).toContain(
      "WHERE id = $1 AND ($2 OR evaluated_at IS NOT DISTINCT FROM $3::timestamptz)",
    );
    expect(given).toEqual(values);
  });

  it("is null for a campaign that is gone, or a job that was done", async () => {
    await expect(
      evaluate({ query: vi.fn().mockResolvedValue({ rows: [] }) }, { campaignId: ID, evaluatedAt: null }),
    ).resolves.toBeNull();
  });
});
