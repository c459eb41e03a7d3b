import type { IncomingMessage } from "node:http";
import { Logger } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { FastifyAdapter, type NestFastifyApplication } from "@nestjs/platform-fastify";
import type { FastifyRequest } from "fastify";
import { AppModule, type Resources } from "./app.module.ts";
import { ownNetworks } from "./proxies.ts";
import { MAXIMUM_ASSET_BYTES, readAsset } from "./upload.ts";

/** The api, ready to listen. */
export async function createApp(resources: Resources): Promise<NestFastifyApplication> {
  const { settings, log } = resources;
  const adapter = new FastifyAdapter({ bodyLimit: MAXIMUM_ASSET_BYTES, trustProxy: ownNetworks() });
  adapter
    .getInstance()
    .addContentTypeParser(/^image\//, (_request: FastifyRequest, body: IncomingMessage) => readAsset(body));
  adapter.getInstance().addHook("onResponse", async (request, reply) => {
    if (request.url.includes("/health/")) return;
    log.info(
      { method: request.method, url: request.url, status: reply.statusCode, ms: Math.round(reply.elapsedTime) },
      "request",
    );
  });
  Logger.overrideLogger(["error", "warn"]);
  const app = await NestFactory.create<NestFastifyApplication>(AppModule.with(resources), adapter);
  app.setGlobalPrefix("api", { exclude: ["internal/probe"] });
  if (settings.NODE_ENV === "development") {
    // A page that calls the api by its own port, as VITE_API_URL allows in development.
    app.enableCors({ origin: /^http:\/\/(localhost|127\.0\.0\.1)(:\d+)?$/ });
  }
  return app;
}
