# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack of its own on this machine's Engine with data of every kind, and a repository beside it.

`make prove` and `--full` run everything; otherwise, as in continuous integration, each test takes the sample that it names.
"""

import contextlib
import functools
import io
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deployed
import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import s3

ROOT = Path(__file__).resolve().parents[3]
PROJECT = "campaign-keep"
DIRECTORY = Path("/opt") / PROJECT
REPOSITORY = Path("/var/lib") / f"{PROJECT}-repository"
PORTS = {name: 23080 + number for number, name in enumerate(("frontend", "api", "minio", "minio_console", "postgres", "redis"))}
BUCKET = "campaign-assets"
# Beside the jobs that the workers take, a list that nobody takes anything from.
JOBS = "campaign:queue:evaluation:kept"
PASSWORD = secrets.token_hex(16)

# Of every kind: geometries, a table without rows, names that need quotes, values that a text would bend, partitions, large objects, a user's own
# reference system, which stands in a table of the extension.
SCHEMA = """
CREATE TABLE IF NOT EXISTS public.empty (n int, "we""ird" text);
CREATE TABLE IF NOT EXISTS public."Odd Name" (t text, f float8, at timestamptz, b bytea, twice int GENERATED ALWAYS AS (2) STORED);
CREATE TABLE IF NOT EXISTS public.shapes (n serial PRIMARY KEY, shape geometry(Geometry, 4326));
CREATE TABLE IF NOT EXISTS public.part (n int) PARTITION BY RANGE (n);
CREATE TABLE IF NOT EXISTS public.part_1 PARTITION OF public.part FOR VALUES FROM (0) TO (1000000);
INSERT INTO spatial_ref_sys (srid, auth_name, auth_srid, srtext, proj4text) VALUES (990001, 'own', 1, '', '') ON CONFLICT DO NOTHING;
"""
# Where people keep data too: in the database for administration; in one that has the name of a file of an export, and that nobody is to write to any more; in
# one whose bytes are of no encoding. What an interrupted DROP DATABASE left is no data. One writes down who signs in.
OTHER = {"postgres": "''", "roles": r"E'caf\u00e9'", "bytes": r"convert_from('\x636166e9', 'SQL_ASCII')"}
# What a dump has otherwise than the table: nothing of what is generated, here of what cannot even be read; columns in another order. And a setting of no role,
# and a view whose query needs the network of the stack.
BENT = """
CREATE SCHEMA other;
CREATE TABLE other.share (n int, share int GENERATED ALWAYS AS (1 / n)); INSERT INTO other.share VALUES (0);
CREATE TABLE other.parent (a int); CREATE TABLE other.child (b int) INHERITS (other.parent); ALTER TABLE other.parent ADD c int;
INSERT INTO other.child VALUES (1, 2, 3);
CREATE ROLE readers; CREATE ROLE reader; GRANT readers TO reader;
ALTER ROLE ALL SET idle_session_timeout = '7h'; ALTER ROLE ALL SET temp_tablespaces = '';
ALTER ROLE ALL SET search_path = "$user", public, 'a "b, c';
CREATE DATABASE closed ALLOW_CONNECTIONS false;
CREATE EXTENSION file_fdw; CREATE SERVER stack FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE other.hosts (line text) SERVER stack OPTIONS (program 'getent hosts postgres');
CREATE MATERIALIZED VIEW other."here Only" AS SELECT * FROM other.hosts;
CREATE MATERIALIZED VIEW other.everywhere AS SELECT count(*) FROM other.child;
"""
MEMBERS = """
SELECT string_agg(m.rolname || ' in ' || r.rolname, ',' ORDER BY m.rolname, r.rolname)
FROM pg_auth_members JOIN pg_roles r ON r.oid = roleid JOIN pg_roles m ON m.oid = member WHERE r.rolname !~ '^pg_';
"""
DATABASES = """
CREATE DATABASE roles; ALTER DATABASE roles SET default_transaction_read_only = on;
CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C';
CREATE DATABASE torn; UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'torn';
CREATE DATABASE audited;
\\connect audited
CREATE TABLE public.logins (at timestamptz DEFAULT now());
CREATE FUNCTION public.log_in() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN INSERT INTO public.logins VALUES (DEFAULT); END';
CREATE EVENT TRIGGER log_in ON login EXECUTE FUNCTION public.log_in();
ALTER EVENT TRIGGER log_in ENABLE ALWAYS;
"""
BESIDE = """
SET default_transaction_read_only = off;
CREATE TABLE IF NOT EXISTS public.beside (t text);
INSERT INTO public.beside VALUES (random() || %s);
"""
CHANGE = """
REFRESH MATERIALIZED VIEW other."here Only";
INSERT INTO public."Odd Name" (t, f, at, b)
  SELECT E'tab\\tnew\\nline \\\\N ' || i, random() / 3, now(), decode(md5(random()::text), 'hex') FROM generate_series(1, 50) i;
INSERT INTO public.shapes (shape)
  SELECT ST_Buffer(ST_SetSRID(ST_MakePoint(random() * 180, random() * 90), 4326), random()) FROM generate_series(1, 20);
INSERT INTO public.part SELECT (random() * 999999)::int FROM generate_series(1, 100);
INSERT INTO campaign.campaigns (name, place, rule, asset_type, asset_size)
  SELECT 'campaign ' || i, ST_SetSRID(ST_MakePoint(random() * 180, random() * 90), 4326), '{"always": true}', 'image/png', 100 FROM generate_series(1, 20) i;
SELECT lo_from_bytea(0, decode(repeat(md5(random()::text) || '00', 1000), 'hex'));
"""


# One of each kind, in less than five minutes; the rest takes the same ways with other data and at other moments.
SAMPLE = (
    "test_a_round_trip_brings_everything_back",
    "test_a_damaged_repository_gives_no_set",
    "test_a_full_target_ends_with_an_error_and_gives_no_set",
    "test_a_drill_finds_a_wrong_row_and_objects_that_are_missing_or_changed",
    "test_no_secret_and_no_row_is_seen_from_outside",
    "test_nobody_truncates_what_a_moment_holds",
    "test_what_ends_by_itself_is_not_compared",
    "test_an_export_comes_back",
    "test_a_moment_comes_back_and_the_receiver_was_away",
    "test_a_round_trip_over_the_network_brings_everything_back",
    "test_what_is_wrong_with_a_repository_elsewhere_is_said",
)


def pytest_collection_modifyitems(config, items) -> None:
    if not config.getoption("--full"):
        here = [item for item in items if item.path.parent == Path(__file__).parent]
        left_out = [item for item in here if item.originalname not in SAMPLE]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def full(request) -> bool:
    return request.config.getoption("--full")


docker = functools.partial(deployed.docker, seconds=200)


class Stack:
    """The stack, and the program of its backups."""

    project, directory, repository, bucket, ports = PROJECT, DIRECTORY, REPOSITORY, BUCKET, PORTS
    docker = staticmethod(docker)

    def __init__(self, directory: Path):
        self.private = directory
        self.inventory = directory / "hosts.yml"
        own = {"backup_repository": str(REPOSITORY), "backup_password": PASSWORD, "backup_scheduler": "cron"}
        deployed.write_inventory(self.inventory, PROJECT, PORTS, stack_health_timeout=90, **own)

    def play(self, playbook: str, **variables: Any) -> deployed.Result:
        command = ["ansible-playbook", "-i", str(self.inventory), f"playbooks/{playbook}.yml", "-e", json.dumps(variables)]
        env = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
        return deployed.Result(done.returncode, " ".join((done.stdout + done.stderr).split()))

    def start(self, *arguments: str) -> subprocess.Popen:
        run = [str(DIRECTORY / "backup/run"), *arguments]
        return subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments: str) -> deployed.Result:
        process = self.start(*arguments)
        output, _error = process.communicate(timeout=400)
        return deployed.Result(process.returncode, output)

    def well(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.status == 0, result.text
        return result.text

    def state(self) -> dict[str, Any]:
        return json.loads((DIRECTORY / "backup/status.json").read_text())

    def restic_command(self, *arguments: str, user: str = "10010:10010") -> list[str]:
        """Return the command of restic over the stack's repository."""
        config = json.loads((DIRECTORY / "backup/config.json").read_text())
        mounts = [f"{DIRECTORY}/backup/secrets/password:/password:ro", f"{REPOSITORY}:/repository"]
        options = [word for mount in mounts for word in ("--volume", mount)]
        ways = ["--no-cache", "-r", "/repository", "-p", "/password"]
        return ["docker", "run", "--rm", "--interactive", "--user", user, *options, config["image"], *ways, *arguments]

    def restic(self, *arguments: str, user: str = "10010:10010") -> str:
        return docker(*self.restic_command(*arguments, user=user)[1:])

    def stored(self, name: str, content: bytes, tags: str) -> str:
        """Store a stream in the repository by restic alone, and return its snapshot."""
        command = self.restic_command("backup", "--json", "--stdin", "--stdin-filename", name, "--host", self.project, "--tag", tags)
        done = subprocess.run(command, input=content, capture_output=True, check=True, timeout=100)
        return json.loads(done.stdout.splitlines()[-1])["snapshot_id"]

    def dumped(self, snapshot: str, name: str) -> bytes:
        """Return what was stored as a stream."""
        return subprocess.run(self.restic_command("dump", snapshot, f"/{name}"), capture_output=True, check=True, timeout=100).stdout

    def sets(self) -> list[tuple[str, str]]:
        """Return names and states of the sets, the oldest first."""
        rows = json.loads(self.restic("snapshots", "--json"))
        return sorted((next(tag for tag in row["tags"] if "=" in tag)[4:], next(tag for tag in row["tags"] if "=" not in tag)) for row in rows)

    # --- What is stored

    def sql(self, statement: str, database: str = "campaign_db") -> str:
        options = ["-v", "ON_ERROR_STOP=1", "-qtA", "-U", "campaign_user", "-d", database]
        return docker("exec", "--interactive", f"{PROJECT}-postgres-1", "psql", *options, stdin=statement)

    def files(self) -> dict[str, str]:
        found = {}
        for path in (DIRECTORY / "secrets").iterdir():
            if path.name.startswith("minio_"):
                found[path.name.removeprefix("minio_").rpartition("_")[0]] = path.read_text().strip()
        return found

    def s3(self) -> s3.Client:
        files = self.files()
        return s3.Client(lambda: ("127.0.0.1", PORTS["minio"]), files["minio_root_user"], files["minio_root_password"])

    def put(self, key: str, content: bytes, **headers: str) -> None:
        client = self.s3()
        client.put(BUCKET, key, io.BytesIO(content), len(content), {"content-type": "image/png", **headers})
        client.close()

    def change(self, objects: int = 20) -> None:
        """Store something of every kind."""
        self.sql(CHANGE)
        for database, text in OTHER.items():
            self.sql(BESIDE % text, database)
        for key in self.sql("SELECT 'campaigns/' || id FROM campaign.campaigns WHERE asset_type IS NOT NULL ORDER BY created_at DESC LIMIT 20").split():
            self.put(key, os.urandom(100))
        # As browsers and some libraries send the name of a file.
        self.put("other/named", b"x", **{"content-disposition": 'attachment; filename="Übersicht.pdf"'.encode().decode("latin-1")})
        self.queue("RPUSH", JOBS, secrets.token_hex(8))
        for number in range(objects):
            self.put(f"other/{secrets.token_hex(4)} ü&+#?%41 {number}", os.urandom(1000 * number), **{"x-amz-meta-owner": "ada", "cache-control": "no-cache"})

    def fingerprint(self) -> dict[str, Any]:
        """Return what is stored, asked in other ways than the program does."""
        tables = self.sql(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables "
            "WHERE schemaname IN ('public', 'campaign') AND tablename <> 'ticks' ORDER BY 1"
        )
        found: dict[str, Any] = {}
        for name in tables.splitlines():
            # What the workers write each moment is left out, as is their ledger.
            columns = "to_jsonb((t.*)) - 'evaluated_at' - 'state'"
            found[name] = self.sql(f"SELECT count(*), md5(string_agg(row, '|' ORDER BY row)) FROM (SELECT ({columns})::text AS row FROM {name} t) r")
        for database in OTHER:
            found[database] = self.sql("SELECT count(*), md5(string_agg(t, '|' ORDER BY t COLLATE \"C\")) FROM public.beside", database)
        found["large objects"] = self.sql("SELECT count(*), md5(string_agg(md5(lo_get(oid)), '|' ORDER BY oid)) FROM pg_largeobject_metadata")
        found["roles"] = self.sql("SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles")
        found["members"] = self.sql(MEMBERS)
        found["settings"] = self.sql("SELECT array_agg(one ORDER BY one) FROM pg_db_role_setting, unnest(setconfig) one WHERE setrole = 0 AND setdatabase = 0")
        found["jobs"] = self.queue("LRANGE", JOBS, "0", "-1")
        client = self.s3()
        for listed in client.objects(BUCKET):
            with client.opened(listed) as (answer, about):
                found[f"object {listed.key}"] = (answer.read(), about["headers"])
        client.close()
        return found

    def unfilled(self) -> str:
        """Return the materialized views without data."""
        return self.sql("SELECT string_agg(matviewname, ',') FROM pg_matviews WHERE NOT ispopulated")

    def nameless_volumes(self) -> set[str]:
        """Return the volumes without a name of its own that containers of the project have, jobs included."""
        listed = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
        mounts = [mount for item in json.loads(docker("inspect", *listed)) for mount in item["Mounts"]]
        return {mount["Name"] for mount in mounts if re.fullmatch(r"[0-9a-f]{64}", mount.get("Name", ""))}

    def volumes(self) -> list[str]:
        return sorted(name for name in docker("volume", "ls", "--quiet").split() if name.startswith((f"{PROJECT}_", f"{PROJECT}-")))

    @contextlib.contextmanager
    def configured(self, **settings: Any) -> Iterator[None]:
        """Have the program other settings for a while."""
        path = DIRECTORY / "backup/config.json"
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), **settings}))
        try:
            yield
        finally:
            path.write_text(before)

    def queue(self, *command: str) -> str:
        """Ask Redis as the scheduler, which puts jobs into the queue."""
        (path,) = (DIRECTORY / "secrets").glob("scheduler_redis_url_*")
        return docker("exec", f"{PROJECT}-redis-1", "redis-cli", "--no-auth-warning", "-u", path.read_text().strip(), *command)

    def own(self) -> list[str]:
        """Return what backups have of containers, networks and throw-away volumes at the moment."""
        label = f"label=campaign.platform.backup={PROJECT}"
        return [
            name
            for kind in ("container", "network", "volume")
            for name in docker(kind, "ls", *(["-a"] if kind == "container" else []), "-q", "--filter", label).split()
        ]

    def containers(self) -> dict[str, str]:
        """Return the ids of the containers that run, by service."""
        template = '{{.Label "com.docker.compose.service"}} {{.ID}}'
        return dict(line.split() for line in docker("ps", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format", template).splitlines())


def sweep() -> None:
    deployed.sweep(PROJECT)
    shutil.rmtree(REPOSITORY, ignore_errors=True)
    Path(f"/etc/cron.d/{PROJECT}-backup").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def stack(tmp_path_factory) -> Iterator[Stack]:
    sweep()
    found = Stack(tmp_path_factory.mktemp("keep"))
    deployed = found.play("site")
    assert deployed.status == 0, deployed.text[-4000:]
    found.sql(SCHEMA)
    found.sql(BENT)
    found.sql(DATABASES)
    found.change()
    made = found.play("backup")
    assert made.status == 0, made.text[-4000:]
    yield found
    sweep()
