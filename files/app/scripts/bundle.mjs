import { cpSync, readdirSync, readFileSync } from "node:fs";

// Optional peers that NestJS and others look for at run time and do without.
const ABSENT = [
  "@fastify/multipart",
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

/** What can be run of a service, such as main and migrate: the modules that have nothing for another one to import. */
export function entries(service) {
  const directory = `packages/${service}/src`;
  return readdirSync(directory)
    .filter((name) => /^[a-z]+\.ts$/.test(name) && !/^export /m.test(readFileSync(`${directory}/${name}`, "utf8")))
    .map((name) => name.slice(0, -".ts".length));
}

/** esbuild's options for one service: each entry becomes one file that needs Node.js and nothing else. */
export function options(service, outdir, names = entries(service)) {
  return {
    entryPoints: names.map((name) => `packages/${service}/src/${name}.ts`),
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

// What the page of the api's document is made of. Nest looks for the package where it runs, and a browser for the files.
const PAGE = [
  "package.json",
  "absolute-path.js",
  "favicon-16x16.png",
  "favicon-32x32.png",
  "swagger-ui-bundle.js",
  "swagger-ui-standalone-preset.js",
  "swagger-ui.css",
];

/** Write beside a service's bundle the files that it reads when it runs. */
export function copyFiles(service, outdir) {
  if (service !== "api") return;
  for (const name of PAGE) {
    cpSync(`node_modules/swagger-ui-dist/${name}`, `${outdir}/node_modules/swagger-ui-dist/${name}`);
  }
}
