// Logs in with every URL and key below /hostile, as the services do: their way from a URL to a connection, their clients.
// Prints a JSON object: directory to path to "ok", or what went wrong.
import { readdirSync, readFileSync } from "node:fs";
import { HeadBucketCommand, S3Client } from "@aws-sdk/client-s3";
import { Redis } from "ioredis";
import pg from "pg";
import { redisConnection } from "./packages/shared/src/redis.ts";

const read = (key, name) => readFileSync(`/hostile/${key}/${name}`, "utf8");

async function postgres(key, url) {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 20000 });
  try {
    await client.connect();
    const { rows } = await client.query("SELECT session_user AS name");
    return rows[0].name === read(key, "login") ? "ok" : `signed in as ${rows[0].name}`;
  } finally {
    await client.end().catch(() => {});
  }
}

async function redis(_key, url) {
  const client = new Redis({ ...redisConnection(url), lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0 });
  let reason;
  client.on("error", (error) => (reason = error));
  try {
    await client.connect().catch((error) => Promise.reject(reason ?? error));
    return (await client.get("campaign:probe:api:none")) === null ? "ok" : "no answer";
  } finally {
    client.disconnect();
  }
}

async function s3(key, secretAccessKey) {
  const client = new S3Client({
    endpoint: "http://minio:9000",
    region: "us-east-1",
    credentials: { accessKeyId: read(key, "s3_access_key"), secretAccessKey },
    forcePathStyle: true,
    maxAttempts: 1,
  });
  try {
    await client.send(new HeadBucketCommand({ Bucket: "campaign-assets" }));
    return "ok";
  } finally {
    client.destroy();
  }
}

const told = (promise) => promise.catch((error) => `${error.name}: ${error.message} ${error.code ?? error.$metadata?.httpStatusCode ?? ""}`);
// A wrong password is the right one with a letter more, so that nothing but the password can be the reason.
const logins = async (key) => ({
  url: await told(Promise.try(() => new URL(read(key, "database_url")).password)),
  postgres: await told(postgres(key, read(key, "database_url"))),
  postgres_wrong: await told(postgres(key, read(key, "database_url").replace("@postgres:", "x@postgres:"))),
  redis: await told(redis(key, read(key, "redis_url"))),
  redis_wrong: await told(redis(key, read(key, "redis_url").replace("@redis:", "x@redis:"))),
  s3: await told(s3(key, read(key, "s3_secret_key"))),
  s3_wrong: await told(s3(key, `${read(key, "s3_secret_key")}x`)),
});
const found = {};
for (const key of readdirSync("/hostile")) found[key] = await logins(key);
console.log(JSON.stringify(found));
