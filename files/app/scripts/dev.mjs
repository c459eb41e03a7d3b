// Runs a Node service from its sources and starts it again when they change: `node scripts/dev.mjs api`.
// With a second name it runs that entry once, with the arguments that follow: `node scripts/dev.mjs api verify http://frontend:8080`.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, symlinkSync, watch } from "node:fs";
import { context } from "esbuild";
import { options } from "./bundle.mjs";

const [service, once] = process.argv.slice(2);
// What runs once may run beside the service in its container, and must not write over what that has loaded.
const outdir = `/tmp/${once ? `${service}-${once}` : service}`;

// What cannot change without a new image stays out of the bundle: 15 ms for a rebuild instead of half a second.
const dependencies = ["shared", service]
  .flatMap((name) => Object.keys(JSON.parse(readFileSync(`packages/${name}/package.json`, "utf8")).dependencies ?? {}))
  .filter((name) => !name.startsWith("@campaign/"))
  // Of a version of its own, which is not the one that the service's file would find.
  .filter((name) => !existsSync(`packages/shared/node_modules/${name}`));
const settings = options(service, outdir, once ? [once] : ["main"]);
const bundle = await context({ ...settings, external: [...settings.external, ...dependencies] });
// Node looks for packages beside the importing file and in every directory above.
mkdirSync(outdir, { recursive: true });
link(`packages/${service}/node_modules`, `${outdir}/node_modules`);
link("node_modules", "/tmp/node_modules");

function link(target, path) {
  try {
    symlinkSync(`${process.cwd()}/${target}`, path);
  } catch (error) {
    // A second process in the same container finds the links of the first.
    if (error.code !== "EEXIST") throw error;
  }
}

let child;
let stopping = false;

const stopChild = () =>
  new Promise((resolve) => {
    if (!child || child.exitCode !== null || child.signalCode !== null) return resolve();
    child.once("exit", resolve);
    child.kill("SIGTERM");
  });

async function restart() {
  try {
    await bundle.rebuild();
  } catch {
    // esbuild has printed what is wrong. What ran goes on running until the next edit compiles.
    return;
  }
  await stopChild();
  if (stopping) return;
  child = spawn(process.execPath, [`${outdir}/main.mjs`], {
    stdio: "inherit",
    env: { ...process.env, NODE_COMPILE_CACHE: "/tmp/compile-cache" },
  });
}

function watchAndRun() {
  // An editor writes in several steps; one restart is enough for all of them.
  let timer;
  let work = restart();
  const schedule = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      work = work.then(restart);
    }, 50);
  };
  for (const name of ["shared", service]) watch(`packages/${name}/src`, { recursive: true }, schedule);

  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.once(signal, async () => {
      stopping = true;
      clearTimeout(timer);
      await work;
      await stopChild();
      await bundle.dispose();
      process.exit(child?.exitCode ?? 0);
    });
  }
}

if (once) {
  await bundle.rebuild();
  await bundle.dispose();
  // The entry finds its own arguments where it would find them without this script.
  process.argv.splice(1, 3, `${outdir}/${once}.mjs`);
  await import(process.argv[1]);
} else {
  watchAndRun();
}
