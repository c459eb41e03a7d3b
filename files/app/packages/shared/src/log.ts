import pino, { type Logger } from "pino";

export type { Logger };

/** Structured logs, one JSON object a line on standard output. */
export function createLogger(service: string, level: string): Logger {
  return pino({ level, base: { service }, timestamp: pino.stdTimeFunctions.isoTime });
}
