import {
  commonChecks,
  commonSettings,
  createHealthServer,
  createLogger,
  createPool,
  createRedis,
  type EvaluationJob,
  loadConfig,
  onShutdown,
  port,
  QUEUE,
  QUEUE_PREFIX,
  redisConnection,
  seconds,
  startHeartbeat,
} from "@campaign/shared";
import { Queue } from "bullmq";
import { tick } from "./tick.ts";

const SERVICE = "scheduler";
const config = await loadConfig({
  ...commonSettings,
  HEALTH_PORT: port.default(3002),
  SCHEDULER_TICK_SECONDS: seconds(1, 3600).default(5),
});
const log = createLogger(SERVICE, config.LOG_LEVEL);
const pool = createPool(config.DATABASE_URL, log, SERVICE);
const redis = createRedis(config.REDIS_URL, log);
const health = createHealthServer(SERVICE, pool, redis, commonChecks(SERVICE, pool, redis));
const queue = new Queue<EvaluationJob>(QUEUE, { connection: redisConnection(config.REDIS_URL), prefix: QUEUE_PREFIX });
queue.on("error", (error) => log.warn({ error: error.message }, "the queue's connection broke"));

let running: Promise<void> = Promise.resolve();
const run = () => {
  running = tick(pool, queue).then(
    (count) => log.debug({ count }, "tick"),
    (error: unknown) => log.error({ error: (error as Error).message }, "a tick failed; the next one tries again"),
  );
};
const timer = setInterval(run, config.SCHEDULER_TICK_SECONDS * 1000);
run();

const stopHeartbeat = startHeartbeat(redis, SERVICE, log);
await health.listen(config.HEALTH_PORT);
onShutdown(log, [
  () => clearInterval(timer),
  () => running,
  () => queue.close(),
  stopHeartbeat,
  () => health.close(),
  () => redis.quit(),
  () => pool.end(),
]);
log.info({ port: config.HEALTH_PORT, tickSeconds: config.SCHEDULER_TICK_SECONDS }, "scheduling");
