# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack whose PostgreSQL, Redis and S3 stand outside it, and what those servers say of it.

LIVE_SERVERS        the Compose project of the servers, whose Redis has a user admin; LIVE_SECRETS is what the servers know
LIVE_DATABASE       the database at the PostgreSQL of the servers
LIVE_ADMINISTRATOR  its owner, as whom the stack creates its roles
LIVE_REDIS_USERS    the users of the services at the Redis of the servers, as JSON
"""

import json
import os
import time

import pytest

CONSUMERS = {"api", "rules-engine", "scheduler"}
LOGINS = {"campaign_api_login", "campaign_rules_engine_login", "campaign_scheduler_login"}
DATABASE, ADMINISTRATOR = os.environ.get("LIVE_DATABASE", ""), os.environ.get("LIVE_ADMINISTRATOR", "")
REDIS_USERS = set(json.loads(os.environ.get("LIVE_REDIS_USERS", "[]")))


@pytest.fixture(scope="module")
def servers(host) -> dict[str, str]:
    """The identifiers of the servers' containers."""
    project = os.environ["LIVE_SERVERS"]
    listed = host.text("docker", "ps", "--filter", f"label=com.docker.compose.project={project}", "--format", '{{.Label "com.docker.compose.service"}} {{.ID}}')
    return dict(line.split() for line in listed.splitlines())


@pytest.fixture(scope="module")
def sql(host, servers):
    def run(statement: str) -> list[str]:
        return host.text("docker", "exec", servers["postgres"], "psql", "-XqAtU", "postgres", "-d", DATABASE, "-c", statement).splitlines()

    return run


@pytest.fixture(scope="module")
def redis(host, servers, stack_secrets):
    def ask(command: str) -> str:
        text = f"AUTH admin {stack_secrets['redis_admin_password']}\n{command}\n"
        done = host.run("docker", "exec", "--interactive", servers["redis"], "redis-cli", "--tls", "--insecure", stdin=text.encode())
        return done.stdout.decode().removeprefix("OK\n").strip()

    return ask


def test_nothing_of_the_bundled_services_is_there(host):
    assert set(host.services) == {"api", "rules-engine", "scheduler", "frontend", "page"}
    # The jobs that have ended.
    assert set(host.containers) - set(host.services) == {"api-migrate", "postgres-bootstrap"}
    label = f"label=com.docker.compose.project={host.project}"
    assert host.text("docker", "volume", "ls", "--format={{.Name}}", "--filter", label).split() == [f"{host.project}_page-assets"]


def test_a_second_network_leads_the_consumers_out(host):
    for service in CONSUMERS:
        assert f"{host.project}_egress-network" in host.containers[service]["NetworkSettings"]["Networks"], service
    assert set(host.containers["frontend"]["NetworkSettings"]["Networks"]) == {f"{host.project}_frontend-network"}


def test_every_service_is_signed_in_to_postgresql_as_itself_over_tls(sql):
    sessions = sql(
        f"SELECT DISTINCT usename, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE client_addr IS NOT NULL AND usename <> '{ADMINISTRATOR}'"
    )
    assert set(sessions) == {f"{login}|t" for login in LOGINS}


def test_the_roles_were_made_by_an_administrator_who_is_not_a_superuser(sql):
    assert sql(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{ADMINISTRATOR}'") == ["f"]
    roles = sql(
        "SELECT rolname, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname LIKE 'campaign\\_%\\_login'"
    )
    assert set(roles) == {f"{login}|f" for login in LOGINS}


def test_every_service_is_signed_in_to_redis_as_itself(redis):
    users = {part.removeprefix("user=") for part in redis("CLIENT LIST").split() if part.startswith("user=")}
    assert len(REDIS_USERS) == len(CONSUMERS)
    assert users >= REDIS_USERS


def refused_commands(redis) -> list[dict]:
    """The commands and keys that the server refused to a service of the stack; a wrong password is what the verification asks about."""
    answer = redis("ACL LOG").splitlines()
    entries, entry = [], {}
    for name, value in zip(answer[::2], answer[1::2], strict=False):
        if name == "count":
            entry = {}
            entries.append(entry)
        entry[name] = value
    return [entry for entry in entries if entry.get("reason") != "auth" and entry.get("username") in REDIS_USERS]


def evaluated(sql, name: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if sql(f"SELECT count(*) FROM campaign.campaigns WHERE name = '{name}' AND state = 'pending'") == ["0"]:
            return True
        time.sleep(1)
    return False


def insert(sql, name: str, count: int, radius: str = "10") -> None:
    sql(
        f"INSERT INTO campaign.campaigns (name, place, rule) SELECT '{name}', 'SRID=4326;POINT(1 1)', "
        f'\'{{"center":[1,1],"radiusMeters":"{radius}"}}\' FROM generate_series(1, {count})'
    )


@pytest.fixture(autouse=True, scope="module")
def tidy(sql):
    yield
    sql("DELETE FROM campaign.campaigns WHERE name LIKE 'live-%'")


def test_many_campaigns_are_evaluated(sql):
    insert(sql, "live-many", 30)
    assert evaluated(sql, "live-many", 30)


def test_a_job_that_fails_is_tried_again_and_given_up(host, sql, redis):
    insert(sql, "live-bad", 1, radius="x")
    worker = host.containers["rules-engine"]["Id"]
    (identifier,) = sql("SELECT id FROM campaign.campaigns WHERE name = 'live-bad'")

    def failures() -> int:
        logs = host.run("docker", "logs", worker)
        return (logs.stdout + logs.stderr).decode().count(f'"job":"evaluate-{identifier}"')

    deadline = time.monotonic() + 40
    # Three attempts a job; a fourth failure is of the next job, so the first one was given up and removed.
    while failures() < 4:
        assert time.monotonic() < deadline, "the job was not tried again"
        time.sleep(1)
    sql("DELETE FROM campaign.campaigns WHERE name = 'live-bad'")
    assert refused_commands(redis) == []


def test_a_job_whose_worker_was_killed_is_taken_up_again(host, servers, sql, redis):
    worker = host.containers["rules-engine"]["Id"]
    scheduler = host.containers["scheduler"]["Id"]
    # The evaluation waits for the lock on its row, so that the worker is killed with the job in its hands.
    host.run("docker", "pause", scheduler)
    insert(sql, "live-stalled", 1)
    lock = "BEGIN; SELECT FROM campaign.campaigns WHERE name = 'live-stalled' FOR UPDATE; SELECT pg_sleep(10); COMMIT"
    host.run("docker", "exec", "--detach", servers["postgres"], "psql", "-XqU", "postgres", "-d", DATABASE, "-c", lock)
    while sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(10)%' AND wait_event = 'PgSleep'") != ["1"]:
        time.sleep(0.1)
    host.run("docker", "unpause", scheduler)
    deadline = time.monotonic() + 7
    while "evaluate-" not in redis("LRANGE campaign:queue:evaluation:active 0 -1"):
        assert time.monotonic() < deadline, "no job became active"
        time.sleep(0.2)
    host.run("docker", "kill", worker)
    assert "evaluate-" in redis("LRANGE campaign:queue:evaluation:active 0 -1")
    host.run("docker", "start", worker)
    deadline = time.monotonic() + 120
    # The lock of a job lasts 10 s, and the worker looks for such jobs every 5 s.
    while redis("LRANGE campaign:queue:evaluation:active 0 -1"):
        assert time.monotonic() < deadline, "the job was not taken up again"
        time.sleep(2)
    assert evaluated(sql, "live-stalled", 10)
    assert refused_commands(redis) == []


def test_the_stack_lives_through_a_restart_of_redis(host, servers, sql, redis):
    host.run("docker", "restart", servers["redis"], timeout=60)
    insert(sql, "live-after-restart", 20)
    assert evaluated(sql, "live-after-restart", 60)
    assert refused_commands(redis) == []
