import type { Logger } from "./log.ts";

const LIMIT_MILLISECONDS = 10_000;

/** On SIGTERM and SIGINT run the steps in order, then exit: 0 when all went well in time, else 1. */
export function onShutdown(log: Logger, steps: (() => unknown)[]): void {
  let stopping = false;
  const stop = async (signal: string) => {
    if (stopping) return;
    stopping = true;
    log.info({ signal }, "draining");
    const timer = setTimeout(() => {
      log.error("draining took too long");
      process.exit(1);
    }, LIMIT_MILLISECONDS);
    timer.unref();
    let code = 0;
    for (const step of steps) {
      try {
        await step();
      } catch (error) {
        log.error({ error: (error as Error).message }, "a step of the shutdown failed");
        code = 1;
      }
    }
    log.info("stopped");
    process.exit(code);
  };
  process.once("SIGTERM", (signal) => void stop(signal));
  process.once("SIGINT", (signal) => void stop(signal));
}
