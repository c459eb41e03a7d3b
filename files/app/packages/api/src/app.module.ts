import { createLogger, createPool, createRedis, type Logger, loadConfig } from "@campaign/shared";
import { type DynamicModule, Module } from "@nestjs/common";
import { APP_FILTER, APP_GUARD } from "@nestjs/core";
import { JwtModule } from "@nestjs/jwt";
import { TerminusModule } from "@nestjs/terminus";
import { Assets } from "./assets.ts";
import { AuthController, SignedIn } from "./auth.ts";
import { CampaignsController } from "./campaigns.controller.ts";
import { Campaigns } from "./campaigns.ts";
import { ASSETS, LOG, POOL, REDIS, SETTINGS, type Settings, settings } from "./config.ts";
import { Connections } from "./connections.ts";
import { HealthController, ProbeController } from "./health.controller.ts";
import { LoginLimit } from "./login.limit.ts";
import { ProblemFilter } from "./problem.filter.ts";

/** What is opened once, at start, and closed by Connections. */
export interface Resources {
  settings: Settings;
  log: Logger;
  pool: ReturnType<typeof createPool>;
  redis: ReturnType<typeof createRedis>;
  assets: Assets;
}

export async function openResources(): Promise<Resources> {
  const loaded = await loadConfig(settings);
  const log = createLogger("api", loaded.LOG_LEVEL);
  return {
    settings: loaded,
    log,
    pool: createPool(loaded.DATABASE_URL, log, "api"),
    redis: createRedis(loaded.REDIS_URL, log),
    assets: new Assets(loaded),
  };
}

@Module({})
export class AppModule {
  static with({ settings: values, log, pool, redis, assets }: Resources): DynamicModule {
    const expiresIn = values.JWT_EXPIRATION as `${number}d`;
    return {
      module: AppModule,
      imports: [
        TerminusModule.forRoot({ logger: false }),
        JwtModule.register({ secret: values.JWT_SECRET, signOptions: { algorithm: "HS256", expiresIn } }),
      ],
      controllers: [AuthController, CampaignsController, HealthController, ProbeController],
      providers: [
        Campaigns,
        Connections,
        LoginLimit,
        { provide: APP_FILTER, useClass: ProblemFilter },
        { provide: APP_GUARD, useClass: SignedIn },
        { provide: SETTINGS, useValue: values },
        { provide: LOG, useValue: log },
        { provide: POOL, useValue: pool },
        { provide: REDIS, useValue: redis },
        { provide: ASSETS, useValue: assets },
      ],
    };
  }
}
