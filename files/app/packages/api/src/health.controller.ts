import {
  commonChecks,
  errorName,
  type Logger,
  type Pool,
  probeRequest,
  type ProbeRequest,
  readHeartbeat,
  type Redis,
  runProbe,
  type Service,
  status,
  type Status,
  wrongPasswordChecks,
} from "@campaign/shared";
import {
  type ArgumentsHost,
  Body,
  Catch,
  Controller,
  type ExceptionFilter,
  Get,
  HttpCode,
  Inject,
  Post,
  Req,
  ServiceUnavailableException,
  UseFilters,
} from "@nestjs/common";
import { ApiExcludeController, ApiOkResponse } from "@nestjs/swagger";
import { HealthCheck, HealthCheckService, HealthIndicatorService } from "@nestjs/terminus";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Assets } from "./assets.ts";
import { Public } from "./auth.ts";
import { ASSETS, LOG, POOL, REDIS, SETTINGS, type Settings } from "./config.ts";
import { Documented } from "./openapi.ts";

const WORKERS = ["rules-engine", "scheduler"];

/** Readiness is answered in Terminus's form, which says what each dependency said. */
@Catch(ServiceUnavailableException)
class Unready implements ExceptionFilter<ServiceUnavailableException> {
  catch(error: ServiceUnavailableException, host: ArgumentsHost): void {
    void host.switchToHttp().getResponse<FastifyReply>().status(error.getStatus()).send(error.getResponse());
  }
}

@Documented()
@Public()
@Controller()
export class HealthController {
  readonly #dependencies: Record<"postgres" | "redis" | "s3", () => Promise<unknown>>;

  constructor(
    @Inject(POOL) pool: Pool,
    @Inject(REDIS) private readonly redis: Redis,
    @Inject(ASSETS) assets: Assets,
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(LOG) private readonly log: Logger,
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
  @UseFilters(Unready)
  ready() {
    return this.health.check(
      Object.entries(this.#dependencies).map(([name, ask]) => async () => {
        const indicator = this.indicators.check(name);
        return ask().then(
          () => indicator.up(),
          (error: unknown) => {
            this.log.warn({ dependency: name, error: (error as Error).message }, "not ready");
            // The message may hold addresses and names that are nobody's business: the frontend lets everybody ask.
            return indicator.down(errorName(error));
          },
        );
      }),
    );
  }

  @Get("status")
  @ApiOkResponse({ standardSchema: status })
  async status(@Req() { signedIn }: FastifyRequest): Promise<Status> {
    const checkedAt = new Date().toISOString();
    const describe = async (name: string, ask: () => Promise<unknown>, detail: string): Promise<Service> =>
      ask().then(
        () => ({ name, status: "up", detail: signedIn ? detail : "answers", checkedAt }),
        (error: unknown) => ({
          name,
          status: "down",
          detail: signedIn ? (error as Error).message : "does not answer",
          checkedAt,
        }),
      );
    const { postgres, redis, s3 } = this.#dependencies;
    const services = await Promise.all([
      describe("postgres", postgres, "answers"),
      describe("redis", redis, "answers"),
      describe("minio", s3, `the bucket ${this.settings.S3_BUCKET} answers`),
      describe("api", () => Promise.resolve(), "answers"),
      ...WORKERS.map((worker) => describe(worker, () => this.heartbeat(worker), "has a heartbeat")),
    ]);
    return { services };
  }

  private async heartbeat(worker: string): Promise<void> {
    if (!(await readHeartbeat(this.redis, worker))) throw new Error("no heartbeat for 15 s");
  }
}

/** Outside the api's prefix, so that the frontend does not proxy it. */
@ApiExcludeController()
@Public()
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
  async probe(@Body({ schema: probeRequest }) request: ProbeRequest) {
    const checks = {
      ...commonChecks("api", this.pool, this.redis),
      ...this.assets.checks(),
      ...wrongPasswordChecks(this.settings.DATABASE_URL, this.settings.REDIS_URL),
    };
    return { service: "api", checks: await runProbe(checks, request) };
  }
}
