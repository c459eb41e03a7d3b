import type { Logger, Pool, Redis } from "@campaign/shared";
import { type BeforeApplicationShutdown, Inject, Injectable, type OnApplicationShutdown } from "@nestjs/common";
import type { Assets } from "./assets.ts";
import { ASSETS, LOG, POOL, REDIS } from "./config.ts";

const LIMIT_MILLISECONDS = 10_000;

/** Closes what is open once Nest has answered the last request, and ends a process that does not get that far. */
@Injectable()
export class Connections implements BeforeApplicationShutdown, OnApplicationShutdown {
  #timer: NodeJS.Timeout | undefined;

  constructor(
    @Inject(LOG) private readonly log: Logger,
    @Inject(POOL) private readonly pool: Pool,
    @Inject(REDIS) private readonly redis: Redis,
    @Inject(ASSETS) private readonly assets: Assets,
  ) {}

  beforeApplicationShutdown(signal?: string): void {
    this.log.info({ signal }, "draining");
    this.#timer = setTimeout(() => {
      this.log.error("draining took too long");
      process.exit(1);
    }, LIMIT_MILLISECONDS);
    this.#timer.unref();
  }

  async onApplicationShutdown(): Promise<void> {
    this.assets.close();
    await Promise.all([this.redis.quit(), this.pool.end()]);
    clearTimeout(this.#timer);
    this.log.info("stopped");
  }
}
