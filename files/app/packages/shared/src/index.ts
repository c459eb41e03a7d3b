export * from "./config.ts";
export * from "./evaluation.ts";
export * from "./health.ts";
export * from "./log.ts";
export * from "./postgres.ts";
export * from "./probe.ts";
export * from "./redis.ts";
export * from "./shutdown.ts";
