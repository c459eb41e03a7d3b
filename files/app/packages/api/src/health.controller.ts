import {
  commonChecks,
  type Pool,
  probeRequest,
  type ProbeRequest,
  readHeartbeat,
  type Redis,
  runProbe,
  wrongPasswordChecks,
} from "@campaign/shared";
import { Body, Controller, Get, HttpCode, Inject, Post } from "@nestjs/common";
import { HealthCheck, HealthCheckService, HealthIndicatorService } from "@nestjs/terminus";
import type { Assets } from "./assets.ts";
import { ASSETS, POOL, REDIS, SETTINGS, type Settings } from "./config.ts";
import { ZodPipe } from "./zod.pipe.ts";

const WORKERS = ["rules-engine", "scheduler"];

@Controller()
export class HealthController {
  readonly #dependencies: Record<"postgres" | "redis" | "s3", () => Promise<unknown>>;

  constructor(
    @Inject(POOL) pool: Pool,
    @Inject(REDIS) private readonly redis: Redis,
    @Inject(ASSETS) assets: Assets,
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(HealthCheckService) private readonly health: HealthCheckService,
    @Inject(HealthIndicatorService) private readonly indicators: HealthIndicatorService,
  ) {
    this.#dependencies = {
      postgres: () => pool.query("SELECT 1"),
      redis: () => redis.ping(),
      s3: () => assets.check(),
    };
  }

  @Get("health/live")
  live() {
    return { status: "ok" };
  }

  @Get("health/ready")
  @HealthCheck()
  ready() {
    return this.health.check(
      Object.entries(this.#dependencies).map(([name, ask]) => async () => {
        const indicator = this.indicators.check(name);
        return ask().then(
          () => indicator.up(),
          (error: unknown) => indicator.down((error as Error).message),
        );
      }),
    );
  }

  @Get("status")
  async status() {
    const checkedAt = new Date().toISOString();
    const describe = async (name: string, ask: () => Promise<unknown>, detail = "answers") =>
      ask().then(
        () => ({ name, status: "up", detail, checkedAt }),
        (error: unknown) => ({ name, status: "down", detail: (error as Error).message, checkedAt }),
      );
    const { postgres, redis, s3 } = this.#dependencies;
    const services = await Promise.all([
      describe("postgres", postgres),
      describe("redis", redis),
      describe("minio", s3, `the bucket ${this.settings.S3_BUCKET} answers`),
      describe("api", () => Promise.resolve()),
      ...WORKERS.map((worker) =>
        describe(
          worker,
          async () => {
            if (!(await readHeartbeat(this.redis, worker))) throw new Error("no heartbeat for 15 s");
          },
          "has a heartbeat",
        ),
      ),
    ]);
    return { services };
  }
}

/** Outside the api's prefix, so that the frontend does not proxy it. */
@Controller("internal")
export class ProbeController {
  constructor(
    @Inject(POOL) private readonly pool: Pool,
    @Inject(REDIS) private readonly redis: Redis,
    @Inject(ASSETS) private readonly assets: Assets,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  @Post("probe")
  @HttpCode(200)
  async probe(@Body(new ZodPipe(probeRequest)) request: ProbeRequest) {
    const checks = {
      ...commonChecks("api", this.pool, this.redis),
      ...this.assets.checks(),
      ...wrongPasswordChecks(this.settings.DATABASE_URL, this.settings.REDIS_URL),
    };
    return { service: "api", checks: await runProbe(checks, request) };
  }
}
