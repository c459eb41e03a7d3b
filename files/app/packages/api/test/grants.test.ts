import { describe, expect, it } from "vitest";
import { grants } from "../src/grants.ts";

describe("grants", () => {
  it("takes everything away before it gives, so that what is no longer listed is gone", () => {
    const firstGrant = grants.findIndex((statement) => statement.startsWith("GRANT"));
    expect(grants.slice(0, firstGrant).every((statement) => statement.startsWith("REVOKE ALL"))).toBe(true);
    expect(grants.slice(firstGrant).every((statement) => statement.startsWith("GRANT"))).toBe(true);
    expect(firstGrant).toBeGreaterThan(0);
  });
});
