// Runs the services' own loader once for every case, at the same time, in processes that differ in their environment:
// CASES is a JSON object of names to environments. Prints a JSON object of names to status, output and seconds.
import { execFile } from "node:child_process";
import { build } from "esbuild";
import { options } from "./scripts/bundle.mjs";

// A digest, so that values can be compared without being shown.
const contents = `
  import { createHash } from "node:crypto";
  import { commonSettings, loadConfig } from "@campaign/shared";
  const { DATABASE_URL, REDIS_URL } = await loadConfig(commonSettings);
  console.log(createHash("sha256").update(DATABASE_URL + REDIS_URL).digest("hex"));
`;
const { entryPoints, ...shared } = options("shared", "/tmp/probe");
await build({ ...shared, stdin: { contents, resolveDir: "/app" }, outdir: undefined, outfile: "/tmp/probe.mjs" });

const run = ([name, env]) =>
  new Promise((resolve) => {
    const started = Date.now();
    execFile(process.execPath, ["/tmp/probe.mjs"], { env: { PATH: process.env.PATH, HOME: "/tmp", ...env } }, (error, stdout, stderr) => {
      resolve([name, { status: error ? error.code : 0, output: stdout + stderr, seconds: (Date.now() - started) / 1000 }]);
    });
  });
console.log(JSON.stringify(Object.fromEntries(await Promise.all(Object.entries(JSON.parse(process.env.CASES)).map(run)))));
