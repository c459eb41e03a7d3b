import { beforeEach, describe, expect, it, vi } from "vitest";
import { dueAt, scheduleKeeper } from "../src/schedule.ts";

const NOW = 1_800_000_000_000;
let now: number;
beforeEach(() => {
  now = NOW;
});

/** A stand-in for the queue, with the schedule that it holds. */
function standIn() {
  const queue = {
    schedule: undefined as { every: number; next: number } | undefined,
    calls: [] as string[],
    getJobScheduler: () => Promise.resolve(queue.schedule),
    removeJobScheduler: (id: string) => {
      queue.calls.push(`remove ${id}`);
      queue.schedule = undefined;
      return Promise.resolve(true);
    },
    upsertJobScheduler: vi.fn((id: string, { every }: { every: number }) => {
      queue.calls.push(`make ${id} ${String(every)}`);
      queue.schedule = { every, next: now };
      return Promise.resolve();
    }),
  };
  return queue;
}

/** A queue whose schedule its keeper has made. */
async function kept(seconds = 5) {
  const queue = standIn();
  const keep = scheduleKeeper(queue, seconds, () => now);
  await keep();
  queue.calls.length = 0;
  return { queue, keep };
}

describe("the schedule", () => {
  it("is made when the scheduler starts, whatever was there, and says its length to who does its jobs", async () => {
    const queue = standIn();
    queue.schedule = { every: 7000, next: NOW };
    await scheduleKeeper(queue, 5, () => now)();
    expect(queue.calls).toEqual(["make tick 5000"]);
    expect(queue.upsertJobScheduler.mock.calls[0]).toMatchObject(["tick", {}, { data: { seconds: 5 } }]);
  });

  it("is made as soon as Redis answers", async () => {
    const queue = standIn();
    const keep = scheduleKeeper(queue, 5, () => now);
    queue.upsertJobScheduler.mockRejectedValueOnce(new Error("no Redis"));
    await expect(keep()).rejects.toThrow("no Redis");
    await keep();
    expect(queue.calls).toEqual(["make tick 5000"]);
  });

  it.each([
    ["soon", 1000],
    ["late, as after a restart of the machine", -30_000],
  ])("is left alone while its next iteration is due %s", async (_name, away) => {
    const { queue, keep } = await kept();
    queue.schedule = { every: 5000, next: now + away };
    await expect(keep()).resolves.toBeNull();
    expect(queue.calls).toEqual([]);
  });

  it("is made again when it is gone", async () => {
    const { queue, keep } = await kept();
    queue.schedule = undefined;
    await expect(keep()).resolves.toBe("it was gone");
    expect(queue.calls).toEqual(["make tick 5000"]);
  });

  it.each([
    ["far ahead, because the clock was set back", 3_600_000],
    ["long ago, because it broke off", -60_000],
  ])("is removed and made again when its next iteration was due %s", async (_name, away) => {
    const { queue, keep } = await kept();
    queue.schedule = { every: 5000, next: now + away };
    await keep();
    expect(queue.calls).toEqual(["remove tick", "make tick 5000"]);
  });

  it("is left to a newer scheduler, and made ours again when that is gone for long", async () => {
    const { queue, keep } = await kept();
    queue.schedule = { every: 7000, next: now };
    await keep();
    now += 119_000;
    queue.schedule = { every: 7000, next: now };
    await keep();
    expect(queue.calls).toEqual([]);
    now += 1000;
    await expect(keep()).resolves.toBe("its interval was 7000 ms");
    expect(queue.calls).toEqual(["make tick 5000"]);
  });

  it("is left to a newer scheduler for as long, each time", async () => {
    const { queue, keep } = await kept();
    queue.schedule = { every: 7000, next: now };
    await keep();
    queue.schedule = { every: 5000, next: now };
    await keep();
    now += 120_000;
    queue.schedule = { every: 7000, next: now };
    await keep();
    expect(queue.calls).toEqual([]);
  });
});

describe("dueAt", () => {
  it("is the moment in the job's id, which a late iteration keeps", () => {
    expect(dueAt("repeat:tick:1800000000000")).toBe(1_800_000_000_000);
  });

  it("refuses a job that is not of the schedule", () => {
    expect(() => dueAt("17")).toThrow("the job 17 is not of the schedule");
  });
});
