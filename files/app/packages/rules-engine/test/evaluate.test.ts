import { describe, expect, it, vi } from "vitest";
import { evaluate } from "../src/evaluate.ts";

const ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

describe("evaluate", () => {
  it("compares metres on the globe with the rule's metres", async () => {
    const query = vi.fn().mockResolvedValue({ rows: [{ state: "active" }] });
    await expect(evaluate({ query }, ID)).resolves.toBe("active");
    const [sql, values] = query.mock.calls[0] as [string, unknown[]];
    expect(values).toEqual([ID]);
    // Of two geographies ST_DWithin takes metres, of two geometries degrees: https://postgis.net/docs/ST_DWithin.html
    expect(sql.replace(/\s+/g, "")).toContain(
      "ST_DWithin(place::geography," +
        "ST_SetSRID(ST_MakePoint((rule->'center'->>0)::float8,(rule->'center'->>1)::float8),4326)::geography," +
        "(rule->>'radiusMeters')::float8)THEN'active'ELSE'inactive'END",
    );
  });

  it("is null for a campaign that is gone", async () => {
    await expect(evaluate({ query: vi.fn().mockResolvedValue({ rows: [] }) }, ID)).resolves.toBeNull();
  });
});
