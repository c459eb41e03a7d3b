import { problem } from "@campaign/shared";
import type { NestFastifyApplication } from "@nestjs/platform-fastify";
import { ApiDefaultResponse, DocumentBuilder, type OpenAPIObject, SwaggerModule } from "@nestjs/swagger";
import { z } from "zod";

type Options = Exclude<Parameters<typeof ApiDefaultResponse>[0], undefined>;

const everyError: Options = {
  description: "A problem, see RFC 9457",
  content: { "application/problem+json": { schema: z.toJSONSchema(problem, { target: "openapi-3.0" }) as object } },
};

/** What the document needs of a controller beside its routes' own decorators. */
export const Documented = (): ClassDecorator => (controller) => {
  ApiDefaultResponse(everyError)(controller);
  // Which parameters a method has. TypeScript's compiler would say it, esbuild does not; their types come from the schemas.
  const prototype = controller.prototype as Record<string, unknown>;
  for (const name of Object.getOwnPropertyNames(prototype)) {
    const method = prototype[name];
    if (name === "constructor" || typeof method !== "function") continue;
    Reflect.defineMetadata("design:paramtypes", Array(method.length).fill(Object), prototype, name);
  }
};

/** The api in OpenAPI, from the schemas that it checks requests by. */
export function describeApi(app: NestFastifyApplication): OpenAPIObject {
  const description =
    "What an operator and the page ask of the platform. Sign in for a token: what changes something needs it.";
  const config = new DocumentBuilder()
    .setTitle("Campaign api")
    .setDescription(description)
    .setVersion("1")
    .addBearerAuth();
  return SwaggerModule.createDocument(app, config.build());
}

/** Serve the document at /api/openapi.json and a page of it at /api/docs, without a server of anybody else. */
export function serveDocument(app: NestFastifyApplication): void {
  SwaggerModule.setup("api/docs", app, () => describeApi(app), { raw: ["json"], jsonDocumentUrl: "api/openapi.json" });
}
