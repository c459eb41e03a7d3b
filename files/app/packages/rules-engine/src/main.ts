import {
  commonChecks,
  commonSettings,
  createHealthServer,
  createLogger,
  createPool,
  createRedis,
  evaluationJob,
  EVALUATIONS,
  loadConfig,
  onShutdown,
  port,
  QUEUE_PREFIX,
  redisConnection,
  STALLED,
  startHeartbeat,
} from "@campaign/shared";
import { Worker } from "bullmq";
import { evaluate } from "./evaluate.ts";

const SERVICE = "rules-engine";
const config = await loadConfig({ ...commonSettings, HEALTH_PORT: port.default(3001) });
const log = createLogger(SERVICE, config.LOG_LEVEL);
const pool = createPool(config.DATABASE_URL, log, SERVICE);
const redis = createRedis(config.REDIS_URL, log);
const health = createHealthServer(SERVICE, pool, redis, commonChecks(SERVICE, pool, redis));

const worker = new Worker(
  EVALUATIONS,
  async (job) => {
    const evaluation = evaluationJob.parse(job.data);
    const state = await evaluate(pool, evaluation);
    log.debug({ ...evaluation, state }, "evaluated");
  },
  {
    connection: { ...redisConnection(config.REDIS_URL), maxRetriesPerRequest: null },
    prefix: QUEUE_PREFIX,
    concurrency: 5,
    ...STALLED,
  },
);
worker.on("failed", (job, error) => log.error({ job: job?.id, error: error.message }, "an evaluation failed"));
worker.on("error", (error) => log.warn({ error: error.message }, "an error of the queue"));

const stopHeartbeat = startHeartbeat(redis, SERVICE, log);
await health.listen(config.HEALTH_PORT);
onShutdown(log, [() => worker.close(), stopHeartbeat, () => health.close(), () => redis.quit(), () => pool.end()]);
log.info({ port: config.HEALTH_PORT }, "evaluating");
