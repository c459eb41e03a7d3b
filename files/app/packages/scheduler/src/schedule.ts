import type { TickJob } from "@campaign/shared";

/** The one job scheduler of the queue, whoever keeps it: https://docs.bullmq.io/guide/job-schedulers */
const SCHEDULE = "tick";
/** How long a schedule of another length is left alone: longer than a scheduler runs beside the one that replaces it. */
const YIELD_MILLISECONDS = 120_000;
/** How late an iteration may be before the schedule counts as broken off. */
const LATE_MILLISECONDS = 30_000;

interface Schedules {
  getJobScheduler: (id: string) => Promise<{ every?: number; next?: number | null } | undefined>;
  removeJobScheduler: (id: string) => Promise<unknown>;
  upsertJobScheduler: (id: string, repeat: { every: number }, template: object) => Promise<unknown>;
}

/** When an iteration was due, in milliseconds since 1970: https://docs.bullmq.io/guide/job-schedulers says what the job's id is made of. */
export function dueAt(jobId: string): number {
  const found = /^repeat:tick:(\d+)$/.exec(jobId);
  if (!found) throw new Error(`the job ${jobId} is not of the schedule`);
  return Number(found[1]);
}

/**
 * Return what keeps the schedule, to be called when the scheduler starts and then every few seconds.
 *
 * The first call makes the schedule this scheduler's, so the newest of several has its way. Later calls put right what nobody else would: a schedule
 * that is gone with Redis' data or broke off, one that lies far ahead because the clock was set back, and one of a length that is not ours, when whoever
 * wanted it has had the time to end.
 *
 * @returns a function that returns why it made the schedule, or null when it left it alone.
 */
export function scheduleKeeper(queue: Schedules, seconds: number, clock: () => number = Date.now) {
  const every = seconds * 1000;
  const data: TickJob = { seconds };
  const template = {
    name: "tick",
    data,
    // A tick that fails for good is made up for by the next one.
    opts: {
      attempts: 3,
      backoff: { type: "fixed", delay: 1000 },
      removeOnComplete: true,
      removeOnFail: true,
    },
  };
  let started = false;
  let otherSince: number | null = null;
  return async (): Promise<string | null> => {
    const make = async (why: string): Promise<string> => {
      await queue.upsertJobScheduler(SCHEDULE, { every }, template);
      started = true;
      otherSince = null;
      return why;
    };
    if (!started) return await make("the scheduler starts");
    const found = await queue.getJobScheduler(SCHEDULE);
    if (!found?.next) return await make("it was gone");
    const now = clock();
    if (found.every !== every) {
      otherSince ??= now;
      return now - otherSince < YIELD_MILLISECONDS ? null : await make(`its interval was ${String(found.every)} ms`);
    }
    otherSince = null;
    if (found.next > now + 2 * every || found.next < now - every - LATE_MILLISECONDS) {
      // Made again as it is, it would keep its next iteration.
      await queue.removeJobScheduler(SCHEDULE);
      return await make(`its next iteration was due at ${new Date(found.next).toISOString()}`);
    }
    return null;
  };
}
