// Bundles Node services: `node scripts/build.mjs api rules-engine` writes packages/<service>/dist/*.mjs.
import { build } from "esbuild";
import { copyFiles, options } from "./bundle.mjs";

await Promise.all(
  process.argv.slice(2).map(async (service) => {
    const outdir = `packages/${service}/dist`;
    await build(options(service, outdir));
    copyFiles(service, outdir);
  }),
);
