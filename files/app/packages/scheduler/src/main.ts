import {
  commonChecks,
  commonSettings,
  createHealthServer,
  createLogger,
  createPool,
  createRedis,
  type EvaluationJob,
  EVALUATIONS,
  loadConfig,
  onShutdown,
  port,
  QUEUE_PREFIX,
  redisConnection,
  seconds,
  STALLED,
  startHeartbeat,
  tickJob,
  type TickJob,
  TICKS,
} from "@campaign/shared";
import { Queue, Worker } from "bullmq";
import { dueAt, scheduleKeeper } from "./schedule.ts";
import { intervalAt, tick } from "./tick.ts";

const SERVICE = "scheduler";
const KEEP_MILLISECONDS = 5000;
const config = await loadConfig({
  ...commonSettings,
  HEALTH_PORT: port.default(3002),
  SCHEDULER_TICK_SECONDS: seconds(1, 3600).default(5),
});
const log = createLogger(SERVICE, config.LOG_LEVEL);
const pool = createPool(config.DATABASE_URL, log, SERVICE);
const redis = createRedis(config.REDIS_URL, log);
const health = createHealthServer(SERVICE, pool, redis, commonChecks(SERVICE, pool, redis));
const options = { connection: redisConnection(config.REDIS_URL), prefix: QUEUE_PREFIX };
const evaluations = new Queue<EvaluationJob>(EVALUATIONS, options);
const ticks = new Queue<TickJob>(TICKS, options);
const worker = new Worker<TickJob>(
  TICKS,
  async (job) => {
    // The schedule's own length, which is not this scheduler's while it runs beside a newer one.
    const { seconds: length } = tickJob.parse(job.data);
    const start = intervalAt(dueAt(job.id ?? ""), length);
    const ticked = await tick(pool, evaluations, start, length);
    log.debug(
      { start: new Date(start * 1000).toISOString(), seconds: length, ...ticked },
      ticked ? "tick" : "was done",
    );
  },
  {
    ...options,
    connection: { ...options.connection, maxRetriesPerRequest: null },
    concurrency: 1,
    ...STALLED,
    // Who waits for the next iteration may be killed; the others look this often, in seconds, when it is.
    drainDelay: 1,
  },
);
worker.on("failed", (job, error) =>
  log.error({ job: job?.id, error: error.message }, "a tick failed; it is tried again"),
);
const warn = (error: Error) => log.warn({ error: error.message }, "an error of the queue");
evaluations.on("error", warn);
ticks.on("error", warn);
worker.on("error", warn);

const keepSchedule = scheduleKeeper(ticks, config.SCHEDULER_TICK_SECONDS);
let keeping: Promise<void> | null = null;
const keep = () => {
  // Redis may be away for longer than the time between two calls.
  keeping ??= keepSchedule()
    .then(
      (why) => why && log.info({ why, tickSeconds: config.SCHEDULER_TICK_SECONDS }, "the schedule was made"),
      (error: unknown) => log.warn({ error: (error as Error).message }, "the schedule could not be looked at"),
    )
    .then(() => {
      keeping = null;
    });
};
const timer = setInterval(keep, KEEP_MILLISECONDS);
keep();

const stopHeartbeat = startHeartbeat(redis, SERVICE, log);
await health.listen(config.HEALTH_PORT);
onShutdown(log, [
  () => clearInterval(timer),
  () => worker.close(),
  () => ticks.close(),
  () => evaluations.close(),
  stopHeartbeat,
  () => health.close(),
  () => redis.quit(),
  () => pool.end(),
]);
log.info({ port: config.HEALTH_PORT, tickSeconds: config.SCHEDULER_TICK_SECONDS }, "scheduling");
