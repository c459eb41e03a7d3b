# SPDX-License-Identifier: GPL-3.0-or-later
"""The two workers beside the stack's own PostgreSQL and Redis, with the logins, grants and ACLs that the role renders, on a network of their own.

WORKERS_BUNDLES  a directory of bundles by service, to run in place of those of the images: for a mutant, which needs no image of its own
"""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from deployed import images

PROJECT = "campaign-workers"
LABEL = f"{PROJECT}.tests=1"
# What the role gives a container when it is to end.
GRACE_SECONDS = 15
USERS = {"scheduler": "10003:10003", "rules-engine": "10002:10002", "api": "10001:10001"}
STARTED = {"scheduler": '"msg":"scheduling"', "rules-engine": '"msg":"evaluating"'}
# Reads and administers Redis for the tests, and is no user of the stack.
OBSERVER = "user tests on >tests ~* &* +@all\n"


def docker(*arguments: str, check: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, input=stdin)
    assert not check or done.returncode == 0, f"{' '.join(arguments)[:300]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return (done.stdout + (done.stderr if arguments[0] == "logs" else "")).strip()


def image(name: str) -> str:
    return images()[name]


def wait_until(condition: Callable[[], object], seconds: float, what: str, pause: float = 0.1) -> float:
    """Wait until a condition holds; return the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, f"after {seconds:.0f} s not yet: {what}"
        time.sleep(pause)
    return time.monotonic() - started


@dataclass
class Worker:
    """A worker's container."""

    service: str
    name: str
    killed: bool = False

    def logs(self) -> str:
        return docker("logs", self.name)

    def told(self, message: str) -> list[dict]:
        """Return the lines of its log that say this."""
        lines = [json.loads(line) for line in self.logs().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("msg") == message]

    def is_started(self) -> bool:
        return STARTED[self.service] in self.logs()

    def kill(self) -> None:
        """End it as the kernel ends what runs out of memory."""
        self.killed = True
        docker("kill", "--signal=KILL", self.name)

    def freeze(self) -> None:
        docker("pause", self.name)

    def thaw(self) -> None:
        docker("unpause", self.name)

    def stop(self) -> float:
        """End it as a deploy does, see that it ends well, and return the seconds that it took."""
        started = time.monotonic()
        docker("stop", f"--time={GRACE_SECONDS}", self.name)
        status = docker("inspect", "--format={{.State.ExitCode}}", self.name)
        assert status == "0", f"{self.name} ended with {status}:\n{self.logs()[-3000:]}"
        return time.monotonic() - started


@dataclass
class Servers:
    """PostgreSQL and Redis, and the workers that were started beside them."""

    directory: Path
    workers: list[Worker] = field(default_factory=list)

    def sql(self, statement: str) -> list[str]:
        command = ["exec", "--interactive", f"{PROJECT}-postgres", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "campaign_user", "-d", "campaign_db"]
        return docker(*command, stdin=statement).splitlines()

    def redis(self, *command: str) -> str:
        return docker("exec", f"{PROJECT}-redis", "redis-cli", "--no-auth-warning", "--user", "tests", "--pass", "tests", *command)

    def mounts(self, service: str) -> list[str]:
        found = ["--volume", f"{self.directory}/{service}:/run/secrets:ro"]
        if bundles := os.environ.get("WORKERS_BUNDLES"):
            found += ["--volume", f"{bundles}/{service.removesuffix('-migrate')}:/app:ro", "--workdir", "/app"]
        return found

    def image(self, service: str) -> str:
        return image("node" if os.environ.get("WORKERS_BUNDLES") else service)

    def begin(self, service: str, **environment: str) -> Worker:
        """Start a worker and return it at once."""
        worker = Worker(service, f"{PROJECT}-{service}-{len(self.workers) + 1}")
        self.workers.append(worker)
        given = {"LOG_LEVEL": "debug", **environment}
        variables = [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
        limits = ["--init", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--user", USERS[service]]
        command = ["run", "--detach", "--name", worker.name, "--label", LABEL, "--network", PROJECT, *limits, *variables, *self.mounts(service)]
        docker(*command, self.image(service), "node", "main.mjs")
        return worker

    def start(self, service: str, **environment: str) -> Worker:
        """Start a worker and wait until it says that it works."""
        worker = self.begin(service, **environment)
        wait_until(worker.is_started, 30, f"{worker.name} works:\n{worker.logs()[-3000:]}")
        return worker

    def ticks(self) -> list[tuple[int, int, float]]:
        """Return each interval that was done: its start and length, and how late it was done, in seconds."""
        rows = self.sql("SELECT extract(epoch FROM start)::bigint, seconds, extract(epoch FROM done_at - start) FROM campaign.ticks ORDER BY start")
        return [(int(start), int(seconds), float(late)) for start, seconds, late in (row.split("|") for row in rows)]

    def evaluations(self, name: str) -> Counter[int]:
        """Return how many campaigns of a name were evaluated how often; what was evaluated once is due again after 60 s, which counts as its first time."""
        rows = self.sql(
            f"SELECT count(e.at) FILTER (WHERE e.at < e.first + interval '55 s') FROM campaign.campaigns c LEFT JOIN "
            f"(SELECT id, at, min(at) OVER (PARTITION BY id) AS first FROM public.evaluations) e USING (id) WHERE name = '{name}' GROUP BY c.id"
        )
        return Counter(int(row) for row in rows)

    def insert(self, name: str, count: int = 1) -> None:
        self.sql(
            f"INSERT INTO campaign.campaigns (name, place, rule) SELECT '{name}', 'SRID=4326;POINT(1 1)', "
            f'\'{{"center":[1,1],"radiusMeters":10}}\' FROM generate_series(1, {count})'
        )

    def hold(self, statement: str) -> "Hold":
        return Hold(self, statement)

    def waiting(self, login: str) -> int:
        """Return how many statements of a login wait for a lock."""
        (number,) = self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{login}' AND wait_event_type = 'Lock'")
        return int(number)

    def active(self, queue: str) -> str:
        """Return the jobs of a queue that are in a worker's hands."""
        return self.redis("LRANGE", f"campaign:queue:{queue}:active", "0", "-1")

    def refused(self) -> str:
        """Return what Redis refused since the beginning."""
        return self.redis("ACL", "LOG")


class Hold:
    """A transaction that holds what its statement locks until it is let go."""

    def __init__(self, servers: Servers, statement: str):
        self.servers = servers
        name = f"hold-{time.monotonic_ns()}"
        text = f"SET application_name = '{name}'; BEGIN; {statement}; SELECT pg_sleep(60); COMMIT"
        docker("exec", "--detach", f"{PROJECT}-postgres", "psql", "-Xq", "-U", "campaign_user", "-d", "campaign_db", *("-c", text))
        self.where = f"FROM pg_stat_activity WHERE application_name = '{name}'"
        wait_until(lambda: servers.sql(f"SELECT 1 {self.where} AND wait_event = 'PgSleep'") == ["1"], 10, statement)

    def let_go(self) -> None:
        self.servers.sql(f"SELECT pg_terminate_backend(pid) {self.where}")


def sweep() -> None:
    if found := docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}").split():
        docker("rm", "--force", "--volumes", *found)
    docker("network", "rm", PROJECT, check=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o444)


@pytest.fixture(scope="session")
def servers(golden, tmp_path_factory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("workers")
    # The directories of pytest are closed to others.
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)
    staged = golden["local"]
    for service in ("postgres", "redis", "scheduler", "rules-engine", "api-migrate", "postgres-bootstrap"):
        for name, text in staged.items():
            if name.startswith(f"secrets/{service}_"):
                secret = name.removeprefix(f"secrets/{service}_")
                write(directory / service / secret, text + OBSERVER if secret == "redis_acl" else text.removesuffix("\n"))
    write(directory / "redis.conf", staged["redis.conf"])
    sweep()
    docker("network", "create", "--internal", PROJECT)
    common = ["run", "--detach", "--label", LABEL, "--network", PROJECT]
    postgres = {"POSTGRES_USER": "campaign_user", "POSTGRES_DB": "campaign_db", "POSTGRES_PASSWORD_FILE": "/run/secrets/postgres_password"}
    postgres["POSTGRES_INITDB_ARGS"] = "--no-sync --locale-provider=builtin --builtin-locale=C.UTF-8 --encoding=UTF8"
    variables = [word for name, value in postgres.items() for word in ("--env", f"{name}={value}")]
    secrets = ["--volume", f"{directory}/postgres:/run/secrets:ro", "--volume", f"{directory}/postgres-bootstrap/bootstrap_sql:/bootstrap.sql:ro"]
    docker(*common, "--name", f"{PROJECT}-postgres", "--network-alias", "postgres", *variables, *secrets, image("postgis"))
    configured = ["--volume", f"{directory}/redis:/run/secrets:ro", "--volume", f"{directory}/redis.conf:/redis.conf:ro"]
    docker(*common, "--name", f"{PROJECT}-redis", "--network-alias", "redis", *configured, image("redis"), "redis-server", "/redis.conf")
    found = Servers(directory)
    ready = "until pg_isready --quiet --host=postgres && psql -U campaign_user -d campaign_db -c 'SELECT 1'; do sleep 0.2; done"
    docker("exec", f"{PROJECT}-postgres", "timeout", "60", "sh", "-c", ready)
    assert docker("inspect", "--format={{.State.Running}}", f"{PROJECT}-redis") == "true", docker("logs", f"{PROJECT}-redis")
    docker("exec", f"{PROJECT}-postgres", *("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-U", "campaign_user", "-d", "postgres", "-f", "/bootstrap.sql"))
    migrate = ["run", "--rm", "--label", LABEL, "--network", PROJECT, "--user", USERS["api"], *found.mounts("api-migrate")]
    docker(*migrate, found.image("api"), "node", "migrate.mjs")
    # How often each campaign was evaluated, seen by the server itself. It takes its time, so that the workers end with jobs in their hands.
    found.sql(
        "CREATE TABLE public.evaluations (id uuid, at timestamptz DEFAULT clock_timestamp());"
        "CREATE FUNCTION public.count_evaluation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "'BEGIN INSERT INTO public.evaluations (id) VALUES (NEW.id); PERFORM pg_sleep(0.1); RETURN NULL; END';"
        "CREATE TRIGGER count_evaluation AFTER UPDATE ON campaign.campaigns FOR EACH ROW EXECUTE FUNCTION public.count_evaluation();"
        # A tick can be held up in its middle.
        "CREATE FUNCTION public.hold_tick() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';"
        "CREATE TRIGGER hold_tick AFTER INSERT ON campaign.ticks FOR EACH STATEMENT EXECUTE FUNCTION public.hold_tick()"
    )
    yield found
    sweep()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., float]:
    return wait_until
