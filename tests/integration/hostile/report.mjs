// What reached this container, in base64: the environment and the arguments as the kernel has them, and the files.
import { readdirSync, readFileSync } from "node:fs";

const split = (path) => {
  const bytes = readFileSync(path);
  const parts = [];
  for (let start = 0, end; start < bytes.length; start = end + 1) {
    end = bytes.indexOf(0, start);
    parts.push(bytes.subarray(start, end).toString("base64"));
  }
  return parts;
};
const files = (directory) =>
  Object.fromEntries(readdirSync(directory).map((name) => [name, readFileSync(`${directory}/${name}`).toString("base64")]));
const [environment, argumentList] = [split("/proc/self/environ"), split("/proc/self/cmdline")];
console.log(JSON.stringify({ environment, argumentList, secrets: files("/run/secrets"), configs: files("/etc/hostile") }));
