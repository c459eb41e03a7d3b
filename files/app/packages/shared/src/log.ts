import pino, { type DestinationStream, type Logger } from "pino";

export type { Logger };

/** Structured logs, one JSON object a line on standard output. */
export function createLogger(service: string, level: string, stream?: DestinationStream): Logger {
  const formatters = { level: (label: string) => ({ level: label }) };
  return pino({ level, formatters, base: { service }, timestamp: pino.stdTimeFunctions.isoTime }, stream);
}
