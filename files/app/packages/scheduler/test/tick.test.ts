import { EventEmitter } from "node:events";
import { describe, expect, it, vi } from "vitest";
import { intervalAt, tick } from "../src/tick.ts";

type Arguments = Parameters<typeof tick>;

/** A stand-in for PostgreSQL that gives as many rows as it is told, and the statements that it was given. */
function poolOf(ids: string[], written = 1) {
  const statements: string[] = [];
  const client = Object.assign(new EventEmitter(), {
    query: (statement: string) => {
      statements.push(statement.trim().split(/\s+/, 2).join(" "));
      if (statement.includes("INSERT")) return Promise.resolve({ rowCount: written });
      return Promise.resolve({ rows: ids.map((id) => ({ id, evaluatedAt: null })) });
    },
    release: (broken?: Error) => statements.push(broken ? "broken" : "released"),
  });
  return { client, statements, pool: { connect: () => Promise.resolve(client) } as unknown as Arguments[0] };
}

describe("tick", () => {
  it("enqueues one job a campaign, named after it, before the interval is written down for good", async () => {
    const { pool, statements } = poolOf(["a", "b"]);
    const addBulk = vi.fn(() => Promise.resolve(statements.push("enqueued")));
    await expect(tick(pool, { addBulk }, 100, 5)).resolves.toEqual({ intervals: 1, campaigns: 2 });
    expect(addBulk.mock.calls).toMatchObject([
      [
        [
          { data: { campaignId: "a", evaluatedAt: null }, opts: { jobId: "evaluate-a" } },
          { data: { campaignId: "b", evaluatedAt: null }, opts: { jobId: "evaluate-b" } },
        ],
      ],
    ]);
    expect(statements).toEqual([
      "BEGIN",
      "SET LOCAL",
      "DELETE FROM",
      "INSERT INTO",
      "SELECT id,",
      "enqueued",
      "COMMIT",
      "released",
    ]);
  });

  it("leaves the queue alone when nothing is due", async () => {
    const addBulk = vi.fn();
    await expect(tick(poolOf([]).pool, { addBulk }, 100, 5)).resolves.toEqual({ intervals: 1, campaigns: 0 });
    expect(addBulk).not.toHaveBeenCalled();
  });

  it("does nothing for an interval that was done", async () => {
    const addBulk = vi.fn();
    await expect(tick(poolOf(["a"], 0).pool, { addBulk }, 100, 5)).resolves.toBeNull();
    expect(addBulk).not.toHaveBeenCalled();
  });

  it("writes nothing down when the queue does not take the jobs", async () => {
    const { pool, statements } = poolOf(["a"]);
    const addBulk = () => Promise.reject(new Error("no Redis"));
    await expect(tick(pool, { addBulk }, 100, 5)).rejects.toThrow("no Redis");
    expect(statements).not.toContain("COMMIT");
    expect(statements.slice(-2)).toEqual(["ROLLBACK", "released"]);
  });

  it("lives through a connection that ends between two queries, and does not use it again", async () => {
    const { client, pool, statements } = poolOf(["a"]);
    const addBulk = () => Promise.resolve(client.emit("error", new Error("the server ends")));
    await tick(pool, { addBulk }, 100, 5);
    expect(statements.at(-1)).toBe("broken");
    expect(client.listenerCount("error")).toBe(0);
  });
});

describe("intervalAt", () => {
  it.each([
    [0, 5, 0],
    [4_999, 5, 0],
    [5_000, 5, 5],
    [1_795_723_199_999, 3600, 1_795_719_600],
    [1_795_723_200_000, 3600, 1_795_723_200],
  ])("of %i ms with %i s is %i", (milliseconds, seconds, start) => {
    expect(intervalAt(milliseconds, seconds)).toBe(start);
  });
});
