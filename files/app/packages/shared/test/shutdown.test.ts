import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createLogger } from "../src/log.ts";
import { onShutdown } from "../src/shutdown.ts";

const log = createLogger("test", "silent");
const exit = vi.spyOn(process, "exit");

beforeEach(() => {
  vi.useFakeTimers();
  exit.mockReset().mockImplementation(() => undefined as never);
});
afterEach(() => {
  vi.useRealTimers();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.removeAllListeners(signal);
});

describe.each(["SIGTERM", "SIGINT"] as const)("on %s", (signal) => {
  it("runs the steps one after the other, once, and ends with 0", async () => {
    const done: string[] = [];
    onShutdown(log, [
      async () => {
        await new Promise((resolve) => setTimeout(resolve, 50));
        done.push("first");
      },
      () => done.push("second"),
    ]);
    process.emit(signal, signal);
    process.emit("SIGTERM", "SIGTERM");
    await vi.advanceTimersByTimeAsync(49);
    expect(done).toEqual([]);
    await vi.advanceTimersByTimeAsync(10);
    expect(done).toEqual(["first", "second"]);
    expect(exit.mock.calls).toEqual([[0]]);
  });

  it("goes on after a step that fails, and ends with 1", async () => {
    const last = vi.fn();
    onShutdown(log, [() => Promise.reject(new Error("broken")), last]);
    process.emit(signal, signal);
    await vi.advanceTimersByTimeAsync(0);
    expect(last).toHaveBeenCalledOnce();
    expect(exit.mock.calls).toEqual([[1]]);
  });

  it("ends with 1 before the Engine would kill it, whatever hangs", async () => {
    onShutdown(log, [() => new Promise(() => undefined)]);
    process.emit(signal, signal);
    await vi.advanceTimersByTimeAsync(9_999);
    expect(exit).not.toHaveBeenCalled();
    // The stack's stop_grace_period is 15 s.
    await vi.advanceTimersByTimeAsync(3_000);
    expect(exit.mock.calls).toEqual([[1]]);
  });
});
