import type { IncomingMessage } from "node:http";
import { Logger, StandardSchemaValidationPipe } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { FastifyAdapter, type NestFastifyApplication } from "@nestjs/platform-fastify";
import { type FastifyRequest, LogController } from "fastify";
import { AppModule, type Resources } from "./app.module.ts";
import { answerOnce } from "./etag.ts";
import { NestLogger, requestIdOf } from "./log.ts";
import { InvalidRequest } from "./problem.filter.ts";
import { ownNetworks } from "./proxies.ts";
import { MAXIMUM_ASSET_BYTES, readAsset } from "./upload.ts";

function createAdapter({ log }: Resources): FastifyAdapter {
  const adapter = new FastifyAdapter({
    bodyLimit: MAXIMUM_ASSET_BYTES,
    trustProxy: ownNetworks(),
    loggerInstance: log,
    // One line a request, below.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: "requestId" }),
    genReqId: requestIdOf,
  });
  const fastify = adapter.getInstance();
  fastify.addContentTypeParser(/^image\//, (_request: FastifyRequest, body: IncomingMessage) => readAsset(body));
  fastify.addHook("onRequest", async (request, reply) => void reply.header("x-request-id", request.id));
  fastify.addHook("onSend", answerOnce);
  fastify.addHook("onResponse", async (request, reply) => {
    if (request.url.includes("/health/")) return;
    const { method, url, ip: address } = request;
    const ms = Math.round(reply.elapsedTime);
    request.log.info({ address, method, url, status: reply.statusCode, ms }, "request");
  });
  return adapter;
}

/** The api, ready to listen. */
export async function createApp(resources: Resources): Promise<NestFastifyApplication> {
  const { settings, log } = resources;
  Logger.overrideLogger(new NestLogger(log));
  const app = await NestFactory.create<NestFastifyApplication>(AppModule.with(resources), createAdapter(resources));
  app.setGlobalPrefix("api", { exclude: ["internal/probe"] });
  app.useGlobalPipes(
    new StandardSchemaValidationPipe({
      exceptionFactory: (issues) =>
        InvalidRequest.of(
          issues.map(({ message, path = [] }) => ({
            message,
            path: path.map((part) => (typeof part === "object" ? part.key : part)),
          })),
        ),
    }),
  );
  if (settings.NODE_ENV === "development") {
    // A page that calls the api by its own port, as VITE_API_URL allows in development.
    app.enableCors({
      origin: /^http:\/\/(localhost|127\.0\.0\.1)(:\d+)?$/,
      methods: ["GET", "POST", "PUT", "DELETE"],
      exposedHeaders: ["etag", "link", "location", "retry-after", "x-request-id"],
    });
    const { serveDocument } = await import("./openapi.ts");
    serveDocument(app);
  }
  return app;
}
