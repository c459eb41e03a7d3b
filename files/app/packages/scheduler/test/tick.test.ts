import { describe, expect, it, vi } from "vitest";
import { tick } from "../src/tick.ts";

type Arguments = Parameters<typeof tick>;
const poolOf = (ids: string[]) =>
  ({ query: () => Promise.resolve({ rows: ids.map((id) => ({ id })) }) }) as unknown as Arguments[0];

describe("tick", () => {
  it("enqueues one job a campaign, named after it", async () => {
    const addBulk = vi.fn().mockResolvedValue([]);
    await expect(tick(poolOf(["a", "b"]), { addBulk })).resolves.toBe(2);
    expect(addBulk.mock.calls).toMatchObject([
      [
        [
          { data: { campaignId: "a" }, opts: { jobId: "evaluate-a" } },
          { data: { campaignId: "b" }, opts: { jobId: "evaluate-b" } },
        ],
      ],
    ]);
  });

  it("leaves the queue alone when nothing is due", async () => {
    const addBulk = vi.fn();
    await expect(tick(poolOf([]), { addBulk })).resolves.toBe(0);
    expect(addBulk).not.toHaveBeenCalled();
  });
});
