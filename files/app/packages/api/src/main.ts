import "reflect-metadata";
import { ShutdownSignal } from "@nestjs/common";
import { createApp } from "./app.ts";
import { openResources } from "./app.module.ts";

const resources = await openResources();
const app = await createApp(resources);
// An exit code of 0, and not the signal's, says that everything was finished.
app.enableShutdownHooks([ShutdownSignal.SIGTERM, ShutdownSignal.SIGINT], { useProcessExit: true });
const { API_PORT } = resources.settings;
await app.listen(API_PORT, "0.0.0.0");
resources.log.info({ port: API_PORT }, "listening");
