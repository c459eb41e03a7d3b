# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what in PostgreSQL, Redis and MinIO: each service with its own credentials, from within the stack's network.

The clients are those of the servers' images. Credentials go through standard input, so that no process list shows them.
"""

import json
import secrets
import time

import pytest

LOGINS = {"api": "campaign_api_login", "rules-engine": "campaign_rules_engine_login", "scheduler": "campaign_scheduler_login"}
REDIS_USERS = {"api": "api", "rules-engine": "rules_engine", "scheduler": "scheduler"}
TABLE = "campaign.campaigns"
ROW = '\'{"center":[0,0],"radiusMeters":1}\''


def secret_of(stack_secrets: dict[str, str], kind: str, service: str) -> str:
    return stack_secrets[f"{kind}_{service.replace('-', '_')}_password"]


@pytest.fixture(scope="module")
def database(host) -> str:
    settings = (host.text("cat", f"{host.directory}/current/.env")).splitlines()
    (name,) = [line.partition("=")[2].strip('"') for line in settings if line.startswith("POSTGRES_DB=")]
    return name


@pytest.fixture(scope="module")
def psql(host, stack_secrets, database):
    """Run SQL as a service; every statement is rolled back. Return what psql printed and whether it succeeded."""

    def run(service: str, sql: str, *, of: str | None = None, password: str | None = None) -> tuple[bool, str]:
        script = f'read -r PGPASSWORD; export PGPASSWORD; exec psql -X -q -A -t -v ON_ERROR_STOP=1 -h postgres -U {LOGINS[service]} -d "$0" -f -'
        given = password or secret_of(stack_secrets, "postgres", service)
        # Not every statement may run in a transaction that is rolled back; those that may not are refused in any case.
        text = (
            f"{given}\n{sql};\n" if sql.startswith(("VACUUM", "CREATE DATABASE", "DROP DATABASE", "ALTER SYSTEM")) else f"{given}\nBEGIN;\n{sql};\nROLLBACK;\n"
        )
        done = host.run(
            "docker", "exec", "--interactive", host.containers["postgres"]["Id"], "sh", "-c", script, of or database, stdin=text.encode(), check=False
        )
        return done.returncode == 0, (done.stdout + done.stderr).decode()

    return run


@pytest.fixture(scope="module")
def superuser(host) -> str:
    return host.execute("postgres", "printenv", "POSTGRES_USER").stdout.decode().strip()


@pytest.fixture(scope="module")
def campaign(host, database, superuser):
    """A campaign that the statements may be about, made by the superuser over the server's own socket."""
    identifier = "00000000-0000-4000-8000-0000000c0de5"

    def run(sql: str) -> None:
        host.execute("postgres", "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", superuser, "-d", database, "-c", sql)

    run(f"INSERT INTO {TABLE} (id, name, place, rule) VALUES ('{identifier}', 'privileges', 'SRID=4326;POINT(0 0)', {ROW}) ON CONFLICT DO NOTHING")
    yield identifier
    run(f"DELETE FROM {TABLE} WHERE id = '{identifier}'")


# As the rules-engine spells it.
EVALUATION = f"""UPDATE {TABLE} SET evaluated_at = now(), state = CASE
  WHEN ST_DWithin(place::geography, ST_SetSRID(ST_MakePoint(0, 0), 4326)::geography, (rule->>'radiusMeters')::float8)
  THEN 'active' ELSE 'inactive' END WHERE id = '{{id}}' AND evaluated_at IS NOT DISTINCT FROM NULL RETURNING state"""
ALLOWED_SQL = [
    ("api", "SELECT id, name, ST_AsGeoJSON(place)::json, rule, state, evaluated_at, asset_type, asset_size, created_at FROM campaign.campaigns"),
    ("api", f"INSERT INTO {TABLE} (name, place, rule) VALUES ('x', ST_SetSRID(ST_MakePoint(1, 2), 4326), {ROW}) RETURNING id, state"),
    ("api", f"UPDATE {TABLE} SET asset_type = 'image/png', asset_size = 1 WHERE id = '{{id}}' RETURNING id"),
    ("api", f"DELETE FROM {TABLE} WHERE id = '{{id}}'"),
    ("rules-engine", EVALUATION),
    ("scheduler", f"SELECT id FROM {TABLE} WHERE evaluated_at IS NULL ORDER BY evaluated_at NULLS FIRST LIMIT 10"),
    ("scheduler", "INSERT INTO campaign.ticks (start, seconds) VALUES ('2000-01-01', 5) ON CONFLICT (start) DO NOTHING"),
    ("scheduler", "SELECT start, seconds FROM campaign.ticks ORDER BY start DESC LIMIT 1"),
    ("scheduler", "DELETE FROM campaign.ticks WHERE start < '2000-01-02'"),
    ("scheduler", "SET LOCAL idle_in_transaction_session_timeout = '10s'"),
    *[(service, "SELECT ST_AsText(ST_MakePoint(1, 2))") for service in LOGINS],
]


@pytest.mark.parametrize(("service", "sql"), ALLOWED_SQL)
def test_a_service_may_do_its_work_in_postgresql(psql, campaign, service, sql):
    succeeded, output = psql(service, sql.replace("{id}", campaign))
    assert succeeded, output


# What nobody may, and what one service may and another may not.
REFUSED_SQL = [
    (service, sql)
    for service in LOGINS
    for sql in (
        f"DROP TABLE {TABLE}",
        f"TRUNCATE {TABLE}",
        f"ALTER TABLE {TABLE} ADD COLUMN x text",
        f"CREATE INDEX ON {TABLE} (name)",
        f"CREATE TRIGGER x BEFORE UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TABLE campaign.x (y int)",
        "CREATE TABLE public.x (y int)",
        "CREATE TEMPORARY TABLE x (y int)",
        "CREATE FUNCTION public.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA x",
        "CREATE EXTENSION dblink",
        "DROP EXTENSION postgis CASCADE",
        "CREATE ROLE x",
        "CREATE DATABASE x",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "ALTER ROLE CURRENT_USER CREATEROLE",
        "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1",
        "ALTER SYSTEM SET log_statement = 'all'",
        "SET log_statement = 'all'",
        "SET SESSION AUTHORIZATION {superuser}",
        "SELECT rolpassword FROM pg_authid",
        "SELECT passwd FROM pg_shadow",
        "SELECT * FROM campaign.kysely_migration",
        "UPDATE spatial_ref_sys SET srtext = ''",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT pg_reload_conf()",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> current_user",
        "SELECT lo_create(0)",
        "SELECT lo_import('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/x'",
        "DO LANGUAGE plpython3u 'pass'",
        f"GRANT SELECT ON {TABLE} TO PUBLIC; SELECT 1 / (has_table_privilege('campaign_scheduler', '{TABLE}', 'SELECT')::int)",
    )
] + [
    ("api", f"UPDATE {TABLE} SET state = 'active'"),
    ("api", f"UPDATE {TABLE} SET name = 'x'"),
    ("api", f"INSERT INTO {TABLE} (name, place, rule, state) VALUES ('x', 'SRID=4326;POINT(0 0)', {ROW}, 'active')"),
    ("api", "SET ROLE campaign_rules_engine"),
    # The api may, as it may delete; the limit on idle transactions ends it.
    ("rules-engine", f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE"),
    ("scheduler", f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE"),
    ("rules-engine", f"SELECT name FROM {TABLE}"),
    ("rules-engine", f"INSERT INTO {TABLE} (name, place, rule) VALUES ('x', 'SRID=4326;POINT(0 0)', {ROW})"),
    ("rules-engine", f"DELETE FROM {TABLE}"),
    ("rules-engine", f"UPDATE {TABLE} SET rule = '{{}}'"),
    ("rules-engine", "SET ROLE campaign_api"),
    ("scheduler", f"SELECT name FROM {TABLE}"),
    ("scheduler", f"SELECT state FROM {TABLE}"),
    ("scheduler", f"UPDATE {TABLE} SET evaluated_at = now()"),
    ("scheduler", f"SELECT id FROM {TABLE} FOR UPDATE"),
    ("scheduler", f"INSERT INTO {TABLE} (name, place, rule) VALUES ('x', 'SRID=4326;POINT(0 0)', {ROW})"),
    ("scheduler", f"DELETE FROM {TABLE}"),
    ("scheduler", "SET ROLE campaign_api"),
    # Done once means that nobody writes it down for somebody else, or at another time than it was.
    ("scheduler", "UPDATE campaign.ticks SET done_at = now()"),
    ("scheduler", "INSERT INTO campaign.ticks (start, seconds, done_at) VALUES ('2000-01-01', 5, now())"),
    ("scheduler", "SELECT done_at FROM campaign.ticks"),
    *[(service, "SELECT start FROM campaign.ticks") for service in ("api", "rules-engine")],
    *[(service, "INSERT INTO campaign.ticks (start, seconds) VALUES ('2000-01-01', 5)") for service in ("api", "rules-engine")],
    *[(service, "DELETE FROM campaign.ticks") for service in ("api", "rules-engine")],
]
REFUSALS = (
    "permission denied",
    "must be owner",
    "must be superuser",
    "must have",
    "Only roles with",
    "division by zero",
    'language "plpython3u" does not exist',
)


@pytest.mark.usefixtures("campaign")
@pytest.mark.parametrize(("service", "sql"), REFUSED_SQL)
def test_a_service_may_do_no_more_in_postgresql(psql, superuser, service, sql):
    succeeded, output = psql(service, sql.replace("{superuser}", superuser))
    assert not succeeded
    # Another error would prove nothing.
    assert any(refusal in output for refusal in REFUSALS), output


@pytest.mark.parametrize("service", LOGINS)
@pytest.mark.parametrize("other", ["postgres", "template1"])
def test_a_service_gets_into_its_own_database_only(psql, service, other):
    succeeded, output = psql(service, "SELECT 1", of=other)
    assert not succeeded
    assert "User does not have CONNECT privilege" in output, output


@pytest.mark.parametrize("service", LOGINS)
def test_a_service_needs_its_own_password(psql, stack_secrets, service):
    others = [secret_of(stack_secrets, "postgres", other) for other in LOGINS if other != service]
    for password in [*others, stack_secrets["postgres_password"]]:
        succeeded, output = psql(service, "SELECT 1", password=password)
        assert not succeeded
        assert "password authentication failed" in output


@pytest.mark.parametrize("service", LOGINS)
def test_a_service_has_limits_in_postgresql(psql, service):
    succeeded, output = psql(service, "SELECT rolconnlimit, rolsuper, current_setting('statement_timeout') FROM pg_roles WHERE rolname = current_user")
    assert succeeded
    assert output.strip() == "20|f|30s"


@pytest.fixture(scope="module")
def redis(host, stack_secrets):
    """Send one command to Redis as a service and return the answer."""

    def ask(service: str | None, command: str, password: str | None = None) -> str:
        sign_in = f"AUTH {REDIS_USERS[service]} {password or secret_of(stack_secrets, 'redis', service)}\n" if service else ""
        done = host.run(
            "docker", "exec", "--interactive", host.containers["redis"]["Id"], "redis-cli", "-h", "redis", stdin=f"{sign_in}{command}\n".encode(), check=False
        )
        answer = done.stdout.decode()
        if service and password is None:
            assert answer.startswith("OK\n"), f"{service} cannot sign in"
            answer = answer.removeprefix("OK\n")
        return answer.strip()

    return ask


QUEUE = "campaign:queue:evaluation"
TICKS = "campaign:queue:ticks"
ALLOWED_REDIS = [
    ("api", "GET campaign:heartbeat:scheduler"),
    ("api", "SET campaign:probe:api:privileges 1 EX 5"),
    ("rules-engine", "SET campaign:probe:rules-engine:privileges 1 EX 5"),
    ("rules-engine", f"EVAL \"return redis.call('HGETALL', KEYS[1])\" 1 {QUEUE}:meta"),
    ("scheduler", "SET campaign:probe:scheduler:privileges 1 EX 5"),
    ("scheduler", f"EVAL \"return redis.call('HGET', KEYS[1], 'version')\" 1 {QUEUE}:meta"),
    ("scheduler", f"EVAL \"return redis.call('HGETALL', KEYS[1])\" 1 {TICKS}:repeat:tick"),
    ("scheduler", f"EVAL \"return redis.call('RPOPLPUSH', KEYS[1], KEYS[1])\" 1 {TICKS}:privileges"),
    *[(service, "PING") for service in REDIS_USERS],
]


@pytest.mark.parametrize(("service", "command"), ALLOWED_REDIS)
def test_a_service_may_do_its_work_in_redis(redis, service, command):
    answer = redis(service, command)
    assert "NOPERM" not in answer
    assert "ERR" not in answer, answer


REFUSED_REDIS = [
    (service, command)
    for service in REDIS_USERS
    for command in (
        "FLUSHALL",
        "FLUSHDB",
        "CONFIG GET *",
        "CONFIG SET maxmemory 1",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "DBSIZE",
        "ACL LIST",
        "ACL WHOAMI",
        "ACL SETUSER x on nopass +@all",
        "SHUTDOWN NOSAVE",
        "REPLICAOF 127.0.0.1 1",
        "MONITOR",
        "SAVE",
        "BGREWRITEAOF",
        "MODULE LIST",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "SCRIPT FLUSH",
        "FUNCTION LOAD x",
        "SWAPDB 0 1",
        "SELECT 1",
        "SLOWLOG GET",
        "LATENCY DOCTOR",
        "SUBSCRIBE campaign:x",
        "PUBLISH campaign:x 1",
        "MIGRATE 127.0.0.1 1 x 0 1",
        "SORT campaign:x",
        "GET other:key",
        "SET other:key 1",
        "SET campaign:key 1",
    )
] + [
    # A heartbeat is written by its worker alone and read by the api alone, and a probe's key is its service's own.
    ("api", "SET campaign:heartbeat:scheduler 1"),
    ("api", "DEL campaign:heartbeat:scheduler"),
    ("api", f"GET {QUEUE}:meta"),
    ("api", f"LPUSH {QUEUE}:wait x"),
    ("api", "EVAL \"return redis.call('GET', KEYS[1])\" 1 campaign:heartbeat:scheduler"),
    ("api", "GET campaign:probe:scheduler:x"),
    ("rules-engine", "SET campaign:heartbeat:scheduler 1"),
    ("rules-engine", "GET campaign:heartbeat:rules-engine"),
    ("rules-engine", "SET campaign:probe:api:x 1"),
    ("rules-engine", "SET campaign:queue:other:wait 1"),
    ("rules-engine", "EVAL \"return redis.call('SET', KEYS[1], 'x')\" 1 campaign:heartbeat:scheduler"),
    # A script cannot do what its caller may not, not even with a key that it does not declare.
    ("rules-engine", "EVAL \"return redis.call('SET', 'campaign:heartbeat:scheduler', 'x')\" 0"),
    ("rules-engine", "EVAL \"return redis.call('FLUSHALL')\" 0"),
    ("scheduler", "SET campaign:heartbeat:rules-engine 1"),
    ("scheduler", "SET campaign:probe:api:x 1"),
    ("scheduler", f"RPOPLPUSH {QUEUE}:wait {QUEUE}:active"),
    ("scheduler", f"BZPOPMIN {QUEUE}:marker 1"),
    ("scheduler", f"LREM {QUEUE}:wait 0 x"),
    # What it may do with its own queue, it may not with another one, and within a script neither.
    ("scheduler", f"EVAL \"return redis.call('RPOPLPUSH', KEYS[1], KEYS[1])\" 1 {QUEUE}:wait"),
    ("scheduler", f"EVAL \"return redis.call('HGETALL', '{QUEUE}:meta')\" 1 {TICKS}:meta"),
    ("scheduler", f"LPOS {TICKS}:wait x"),
    ("scheduler", f"RENAME {TICKS}:wait {TICKS}:paused"),
    *[(service, f"HGETALL {TICKS}:meta") for service in ("api", "rules-engine")],
    *[(service, f"LPUSH {TICKS}:wait x") for service in ("api", "rules-engine")],
    ("rules-engine", f"EVAL \"return redis.call('ZADD', KEYS[1], 0, 'tick')\" 1 {TICKS}:repeat"),
    ("scheduler", "EVAL \"return redis.call('GET', 'campaign:probe:api:x')\" 0"),
    ("scheduler", f"EVAL \"return redis.call('RPOP', KEYS[1])\" 1 {QUEUE}:wait"),
]


@pytest.mark.parametrize(("service", "command"), REFUSED_REDIS)
def test_a_service_may_do_no_more_in_redis(redis, service, command):
    answer = redis(service, command)
    # Within a script the refusal is worded as the script's error.
    assert answer.startswith("NOPERM") or "ACL failure in script" in answer, answer


def test_nobody_gets_into_redis_without_a_password(redis, stack_secrets):
    assert redis(None, "GET x").startswith("NOAUTH")
    assert redis(None, "AUTH default x").startswith("WRONGPASS")
    for service in REDIS_USERS:
        for other in REDIS_USERS:
            if other != service:
                assert redis(service, "PING", password=secret_of(stack_secrets, "redis", other)).startswith("WRONGPASS")


def test_the_health_user_of_redis_may_ping_only(redis):
    assert "PONG" in redis(None, "AUTH health x\nPING")
    for command in ("GET x", "INFO", "KEYS *", "CLIENT LIST"):
        assert "NOPERM" in redis(None, f"AUTH health x\n{command}"), command


def test_what_a_script_wrote_survives_a_restart_of_redis(host, redis):
    key = f"{QUEUE}:privileges-{secrets.token_hex(4)}"
    # Two writes, because Redis logs those of one script as a transaction, and a transaction is replayed under the rules of the user default.
    assert redis("rules-engine", f"EVAL \"redis.call('HSET', KEYS[1], 'a', '1') redis.call('HSET', KEYS[1], 'b', '2')\" 1 {key}") == ""
    host.run("docker", "restart", host.containers["redis"]["Id"], timeout=120)
    deadline = time.monotonic() + 60
    while host.text("docker", "inspect", "--format", "{{.State.Health.Status}}", host.containers["redis"]["Id"]).strip() != "healthy":
        assert time.monotonic() < deadline, "Redis did not become healthy again"
        time.sleep(1)
    try:
        assert redis("rules-engine", f"HGETALL {key}").split() == ["a", "1", "b", "2"]
    finally:
        redis("rules-engine", f"EVAL \"return redis.call('DEL', KEYS[1])\" 1 {key}")


@pytest.fixture(scope="module")
def mc(host, stack_secrets):
    """Run mc in MinIO's container with the api's key; the server is called `own`."""
    directory = f"/tmp/privileges-{secrets.token_hex(4)}"

    def run(*argv: str, stdin: bytes = b"") -> tuple[bool, str]:
        command = ["docker", "exec", "--interactive", host.containers["minio"]["Id"], "mc", "--config-dir", directory, "--quiet", *argv]
        done = host.run(*command, stdin=stdin, check=False)
        return done.returncode == 0, (done.stdout + done.stderr).decode()

    sign_in = f"{stack_secrets['s3_access_key']}\n{stack_secrets['s3_secret_key']}\n"
    succeeded, output = run("alias", "set", "own", "http://minio:9000", "--api", "S3v4", stdin=sign_in.encode())
    assert succeeded, output
    yield run
    host.execute("minio", "rm", "-rf", directory)


@pytest.fixture(scope="module")
def bucket(host) -> str:
    environment = dict(entry.partition("=")[::2] for entry in host.containers["api"]["Config"]["Env"])
    return environment["S3_BUCKET"]


def test_the_api_may_do_its_work_in_its_bucket(mc, bucket):
    for argv, stdin in (
        (("pipe", f"own/{bucket}/privileges"), b"x"),
        (("cat", f"own/{bucket}/privileges"), b""),
        (("rm", f"own/{bucket}/privileges"), b""),
        (("ls", f"own/{bucket}"), b""),
    ):
        succeeded, output = mc(*argv, stdin=stdin)
        assert succeeded, output


def test_the_api_sees_its_own_bucket_only(mc, bucket):
    succeeded, output = mc("ls", "own")
    assert succeeded
    assert [line.split()[-1] for line in output.splitlines()] == [f"{bucket}/"]


REFUSED_S3 = [
    ("mb", "own/another-bucket"),
    ("ls", "own/another-bucket"),
    ("cat", "own/another-bucket/x"),
    ("rb", "--force", "own/BUCKET"),
    ("anonymous", "set", "public", "own/BUCKET"),
    ("anonymous", "get", "own/BUCKET"),
    ("version", "enable", "own/BUCKET"),
    ("encrypt", "set", "sse-s3", "own/BUCKET"),
    ("tag", "set", "own/BUCKET", "a=b"),
    ("ilm", "rule", "add", "--expire-days", "1", "own/BUCKET"),
    ("admin", "info", "own"),
    ("admin", "user", "list", "own"),
    ("admin", "user", "add", "own", "another", "another-secret"),
    ("admin", "policy", "list", "own"),
    ("admin", "policy", "attach", "own", "consoleAdmin", "--user", "KEY"),
    ("admin", "config", "get", "own", "region"),
    ("admin", "service", "restart", "own", "--json"),
    # MinIO lets a user make more keys for itself unless its policy denies that, and those would outlive a rotation.
    ("admin", "accesskey", "create", "own"),
    ("admin", "user", "svcacct", "add", "own", "KEY"),
]


@pytest.mark.parametrize("argv", REFUSED_S3, ids=" ".join)
def test_the_api_may_do_no_more_in_minio(mc, bucket, stack_secrets, argv):
    named = [part.replace("BUCKET", bucket).replace("KEY", stack_secrets["s3_access_key"]) for part in argv]
    succeeded, output = mc(*named)
    assert not succeeded, output
    assert any(refusal in output for refusal in ("Access Denied", "AccessDenied", "Insufficient permissions")), output


# The files below /run/secrets of each container that keeps running.
SECRET_FILES = {
    "postgres": {"postgres_password"},
    "redis": {"redis_acl"},
    "minio": {"minio_root_user", "minio_root_password"},
    "api": {"database_url", "redis_url", "s3_access_key", "s3_secret_key", "jwt_secret", "jwt_secret_previous", "operator_password"},
    "rules-engine": {"database_url", "redis_url"},
    "scheduler": {"database_url", "redis_url"},
}


def mounted_secrets(container: dict) -> dict[str, str]:
    return {
        mount["Destination"].removeprefix("/run/secrets/"): mount["Source"] for mount in container["Mounts"] if mount["Destination"].startswith("/run/secrets/")
    }


@pytest.mark.parametrize("service", SECRET_FILES)
def test_a_container_has_its_own_secrets_only(host, service):
    assert set(mounted_secrets(host.containers[service])) == SECRET_FILES[service]


def test_root_credentials_stand_with_their_server_only(host, stack_secrets):
    roots = {"postgres_password": "postgres", "minio_root_user": "minio", "minio_root_password": "minio"}
    # The containers of the jobs hold them too, and have ended.
    running = {service: container for service, container in host.containers.items() if container["State"]["Running"]}
    for service, container in running.items():
        held = {name: host.text("cat", source) for name, source in mounted_secrets(container).items()}
        for secret, server in roots.items():
            holds = any(stack_secrets[secret] in content for content in held.values())
            assert holds == (service == server), f"{service} {'holds' if holds else 'lacks'} {secret}"


def test_nothing_of_the_jobs_keeps_running(host):
    names = ("postgres-bootstrap", "minio-bootstrap", "redis-bootstrap", "api-migrate", "minio-retire", "redis-retire")
    jobs = {service: host.containers[service] for service in names if service in host.containers}
    assert {service: container["State"]["Status"] for service, container in jobs.items() if container["State"]["Running"]} == {}


def test_the_workers_have_no_way_to_the_outside(host):
    networks = {
        name: json.loads(host.text("docker", "network", "inspect", name))[0] for name in set(host.containers["scheduler"]["NetworkSettings"]["Networks"])
    }
    assert all(network["Internal"] for network in networks.values())
