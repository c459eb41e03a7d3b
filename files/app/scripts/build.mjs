// Bundles Node services: `node scripts/build.mjs api rules-engine` writes packages/<service>/dist/*.mjs.
import { build } from "esbuild";
import { options } from "./bundle.mjs";

await Promise.all(process.argv.slice(2).map((service) => build(options(service, `packages/${service}/dist`))));
