// SPDX-License-Identifier: GPL-3.0-or-later
// Keeps messages in PostgreSQL and counts them in Redis: `node mailer.mjs` serves, `migrate` makes its table, `check` sends one message and finds it.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { Redis } from "ioredis";
import pg from "pg";

const secret = (name) => readFileSync(`/run/secrets/${name}`, "utf8");
const pool = new pg.Pool({ connectionString: secret("database_url"), max: 2 });

async function migrate() {
  await pool.query("CREATE TABLE IF NOT EXISTS mailer.outbox (id uuid PRIMARY KEY, sender text NOT NULL, body text NOT NULL)");
  await pool.end();
}

async function serve() {
  const redis = new Redis(secret("redis_url"));
  redis.on("error", (error) => console.error(JSON.stringify({ level: "error", message: error.message })));
  const token = secret("mailer_token");
  const { greeting } = JSON.parse(readFileSync("/etc/mailer/mailer.json", "utf8"));

  async function answer(request) {
    if (request.method === "GET" && request.url === "/health") {
      const campaigns = await pool.query("SELECT count(*)::int AS count FROM campaign.campaigns");
      return [200, { redis: await redis.ping(), campaigns: campaigns.rows[0].count, sender: process.env.MAILER_FROM, greeting }];
    }
    if (request.headers.authorization !== `Bearer ${token}`) return [401, { error: "a token is needed" }];
    if (request.method === "POST" && request.url === "/messages") {
      const id = randomUUID();
      await pool.query("INSERT INTO mailer.outbox (id, sender, body) VALUES ($1, $2, $3)", [id, process.env.MAILER_FROM, greeting]);
      await redis.set("mailer:last", id);
      return [201, { id, last: await redis.get("mailer:last") }];
    }
    return [404, { error: "not found" }];
  }

  const server = createServer((request, response) => {
    answer(request).then(
      ([status, body]) => response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body)),
      (error) => {
        console.error(JSON.stringify({ level: "error", message: error.message }));
        response.writeHead(503).end();
      },
    );
  });
  server.listen(8025, () => console.log(JSON.stringify({ level: "info", message: "listening on 8025" })));
  process.once("SIGTERM", () => server.close(() => Promise.all([pool.end(), redis.quit()]).then(() => process.exit(0))));
}

async function check() {
  const ask = (headers) => fetch("http://127.0.0.1:8025/messages", { method: "POST", headers });
  const refused = await ask({});
  if (refused.status !== 401) throw new Error(`expected 401 without a token; got ${refused.status}`);
  const sent = await ask({ authorization: `Bearer ${secret("mailer_token")}` });
  const { id, last } = await sent.json();
  if (sent.status !== 201 || id !== last) throw new Error(`expected the message that was sent; got ${sent.status}`);
  const found = await pool.query("DELETE FROM mailer.outbox WHERE id = $1 RETURNING sender", [id]);
  await pool.end();
  if (found.rowCount !== 1) throw new Error("expected one row of the message");
  console.log(`delivered as ${found.rows[0].sender}`);
}

await { migrate, check, serve }[process.argv[2] ?? "serve"]();
