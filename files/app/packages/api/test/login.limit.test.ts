import { describe, expect, it } from "vitest";
import { clientOf } from "../src/login.limit.ts";

describe("clientOf", () => {
  it.each([
    ["203.0.113.9", "203.0.113.9"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2"],
    ["2001:db8:1:2::9", "2001:db8:1:2"],
    ["2001:0db8:0001:2::", "2001:db8:1:2"],
    ["2001:db8::9", "2001:db8:0:0"],
    ["::1", "0:0:0:0"],
  ])("takes %s for %s", (address, client) => {
    expect(clientOf(address)).toBe(client);
  });
});
