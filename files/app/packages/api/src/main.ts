import "reflect-metadata";
import { onShutdown } from "@campaign/shared";
import { createApp } from "./app.ts";
import { openResources } from "./app.module.ts";

const resources = await openResources();
const { settings, log, pool, redis, assets } = resources;
const app = await createApp(resources);
await app.listen(settings.API_PORT, "0.0.0.0");
onShutdown(log, [() => app.close(), () => redis.quit(), () => pool.end(), () => assets.close()]);
log.info({ port: settings.API_PORT }, "listening");
