import { existsSync } from "node:fs";

// Optional peers that NestJS and others look for at run time and do without.
const ABSENT = [
  "@fastify/multipart",
  "@fastify/static",
  "@fastify/view",
  "@mikro-orm/core",
  "@nestjs/axios",
  "@nestjs/microservices",
  "@nestjs/mongoose",
  "@nestjs/platform-express",
  "@nestjs/sequelize",
  "@nestjs/typeorm",
  "@nestjs/websockets",
  "class-transformer",
  "class-validator",
  "mongoose",
  "pg-native",
  "sequelize",
  "typeorm",
];

/** esbuild's options for one service: each entry becomes one file that needs Node.js and nothing else. */
export function options(service, outdir) {
  const entries = ["main", "migrate"].map((name) => `packages/${service}/src/${name}.ts`);
  return {
    entryPoints: entries.filter((entry) => existsSync(entry)),
    outdir,
    bundle: true,
    platform: "node",
    format: "esm",
    outExtension: { ".js": ".mjs" },
    target: "node26",
    external: ABSENT,
    logLevel: "warning",
    // CommonJS packages in an ES module ask for these.
    banner: {
      js: [
        'import { createRequire as __createRequire } from "node:module";',
        "const require = __createRequire(import.meta.url);",
        "const __filename = import.meta.filename;",
        "const __dirname = import.meta.dirname;",
      ].join("\n"),
    },
  };
}
