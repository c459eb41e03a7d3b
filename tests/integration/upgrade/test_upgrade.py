# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack whose data PostgreSQL 17 with PostGIS 3.5 made comes to 18 with 3.6 and back, and whoever is killed in between has lost nothing.

Both servers are built from Debian. The tests are one story, and each leaves a stack that the next one goes on with. With `--full`, as in `make prove`, it is
killed at each step, and upgraded and reverted three times; otherwise once.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deployed
import pytest
from deployed import docker

ROOT = Path(__file__).resolve().parents[3]
PROJECT = "campaign-upgrade"
DIRECTORY = Path("/opt") / PROJECT
VOLUME = f"{PROJECT}_postgres-data"
JOURNAL = DIRECTORY / "backup/upgrade.json"
# What the collection had before: the same image by its Dockerfile, from the suite before.
OLD = {
    "images_definitions": {
        "postgis": {"replaces": True, "context": str(ROOT / "files/images/postgis"), "parents": {"BASE_IMAGE": "base-trixie"}, "args": {"PG_MAJOR": "17"}}
    },
}
# Only the database and its jobs.
LEFT_OUT = ("api", "frontend", "minio", "page", "redis", "rules-engine", "scheduler")
SCHEMA = """
CREATE EXTENSION postgis_raster; CREATE EXTENSION postgis_topology; CREATE EXTENSION hstore;
CREATE TABLE public.empty (n int, "we""ird" text);
CREATE TABLE public."Odd Name" (t text COLLATE "C.utf8", f float8, at timestamptz, b bytea, h hstore, twice int GENERATED ALWAYS AS (2) STORED, UNIQUE (t));
CREATE TABLE public.shapes (n serial PRIMARY KEY, shape geometry(Geometry, 4326) NOT NULL, r raster);
CREATE INDEX ON public.shapes USING gist (shape);
CREATE TABLE public.part (n int) PARTITION BY RANGE (n);
CREATE TABLE public.part_1 PARTITION OF public.part FOR VALUES FROM (0) TO (1000000);
CREATE VIEW public.near AS SELECT n FROM public.shapes WHERE ST_DWithin(shape, ST_SetSRID(ST_MakePoint(0, 0), 4326), 90);
CREATE EXTENSION file_fdw; CREATE SERVER stack FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE public.hosts (line text) SERVER stack OPTIONS (program 'getent hosts postgres');
CREATE MATERIALIZED VIEW public.here AS SELECT * FROM public.hosts;
CREATE FUNCTION public.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE SEQUENCE public.invoices START 1000 INCREMENT 7; SELECT nextval('public.invoices'), nextval('public.invoices');
CREATE ROLE reader LOGIN PASSWORD 'a password of the reader' CONNECTION LIMIT 3; CREATE ROLE readers; GRANT readers TO reader;
GRANT CONNECT ON DATABASE campaign_db TO reader; GRANT CONNECT ON DATABASE postgres TO reader; ALTER DATABASE postgres CONNECTION LIMIT 50;
COMMENT ON ROLE readers IS E'two\\nlines'; ALTER ROLE reader SET work_mem = '8MB';
ALTER DATABASE postgres SET work_mem = '5MB'; ALTER ROLE reader IN DATABASE postgres SET search_path = 'a "b, c', public;
ALTER TABLE public.empty OWNER TO reader; GRANT SELECT ON public.shapes TO readers WITH GRANT OPTION;
INSERT INTO spatial_ref_sys (srid, auth_name, auth_srid, srtext, proj4text) VALUES (990001, 'own', 1, '', '+proj=longlat');
SELECT topology.CreateTopology('streets', 4326);
SELECT topology.AddEdge('streets', ST_GeomFromText('LINESTRING(0 0, 1 1)', 4326));
CREATE DATABASE "other data" TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'; ALTER DATABASE "other data" SET work_mem = '6MB';
"""
OTHER = "CREATE TABLE kept (t text); INSERT INTO kept VALUES (E'caf\\u00e9')"
ROW = "canary-row-91c2"
IN_POSTGRES = "CREATE TABLE beside (n int); INSERT INTO beside VALUES (1)"
CHANGE = """
INSERT INTO public."Odd Name" (t, f, at, b, h)
  SELECT E'tab\\tnew\\nline \\\\N ' || i || random(), random() / 3, now(), decode(md5(random()::text), 'hex'), hstore('k', i::text)
  FROM generate_series(1, 50) i;
INSERT INTO public.shapes (shape, r) SELECT ST_Buffer(ST_SetSRID(ST_MakePoint(random() * 180, random() * 90), 4326), random()),
  ST_AddBand(ST_MakeEmptyRaster(5, 5, 0, 0, 1), '8BUI'::text, 1, 0) FROM generate_series(1, 20);
INSERT INTO public.part SELECT (random() * 999999)::int FROM generate_series(1, 100);
SELECT lo_from_bytea(0, decode(repeat(md5(random()::text) || '00', 1000), 'hex')); SELECT nextval('public.invoices');
"""


class Stack:
    """The stack, deployed as before or as now."""

    def __init__(self, directory: Path):
        self.inventory = directory / "hosts.yml"
        deployed.write_inventory(self.inventory, PROJECT, {"postgres": 25480}, stack_health_timeout=90, stack_services=dict.fromkeys(LEFT_OUT))

    def start(self, playbook: str, **variables: Any) -> subprocess.Popen:
        command = ["ansible-playbook", "-i", str(self.inventory), f"playbooks/{playbook}.yml", "-e", json.dumps(variables)]
        env = {**os.environ, "ANSIBLE_NOCOLOR": "1", "UPGRADE_TEST": str(self.inventory)}
        return subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def play(self, playbook: str, **variables: Any) -> deployed.Result:
        process = self.start(playbook, **variables)
        output, _error = process.communicate(timeout=600)
        return deployed.Result(process.returncode, " ".join(output.split()))

    def well(self, playbook: str, **variables: Any) -> str:
        result = self.play(playbook, **variables)
        assert result.status == 0, result.text[-4000:]
        return result.text

    def kill(self, process: subprocess.Popen) -> None:
        """Kill a run with all that it started on this machine, at once."""
        marker = f"UPGRADE_TEST={self.inventory}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if marker in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        process.wait(60)
        process.stdout.close()

    def sql(self, statement: str, database: str = "campaign_db") -> str:
        options = ["-v", "ON_ERROR_STOP=1", "-qtA", "-U", "campaign_user", "-d", database]
        return docker("exec", "--interactive", f"{PROJECT}-postgres-1", "psql", *options, stdin=statement)

    def version(self) -> str:
        return self.sql("SELECT split_part(current_setting('server_version'), '.', 1) || ' ' || postgis_lib_version()")

    def fingerprint(self) -> dict[str, str]:
        """Return what is stored, asked in other ways than the program does."""
        found = {}
        tables = "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables WHERE schemaname IN ('public', 'streets') ORDER BY 1"
        for name in self.sql(tables).splitlines():
            own = " WHERE srid > 910000" if name.endswith("spatial_ref_sys") else ""
            found[name] = self.sql(f"SELECT count(*), md5(string_agg(row, '|' ORDER BY row)) FROM (SELECT to_jsonb((t.*))::text AS row FROM {name} t{own}) r")
        found["topologies"] = self.sql("SELECT id, name, srid, precision, hasz FROM topology.topology")
        found["large objects"] = self.sql("SELECT count(*), md5(string_agg(md5(lo_get(oid)), '|' ORDER BY oid)) FROM pg_largeobject_metadata")
        # Each deploy sets the administrator's password, which gives it another salt. That it opens is seen by whoever signs in.
        password = "CASE a.rolname WHEN 'campaign_user' THEN left(a.rolpassword, 5) ELSE a.rolpassword END"
        found["roles"] = self.sql(
            f"SELECT a.rolname, {password}, a.rolconnlimit, r.rolconfig FROM pg_authid a JOIN pg_roles r USING (oid) WHERE a.rolname !~ '^pg_' ORDER BY 1"
        )
        found["sequences"] = self.sql("SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1")
        found["owners"] = self.sql("SELECT relname, relowner::regrole, relacl FROM pg_class WHERE relname IN ('empty', 'shapes') ORDER BY 1")
        found["spatial"] = self.sql("SELECT count(*) FROM public.near")
        found["databases"] = self.sql("SELECT datname, pg_encoding_to_char(encoding), datlocprovider, datcollate, datlocale FROM pg_database ORDER BY 1")
        found["rights"] = self.sql("SELECT datconnlimit, has_database_privilege('reader', oid, 'CONNECT') FROM pg_database WHERE datname = 'postgres'")
        found["other"] = self.sql("SET client_encoding = 'UTF8'; SELECT * FROM kept; SHOW work_mem", "other data")
        found["in postgres"] = self.sql("SELECT * FROM beside", "postgres")
        return found

    def secrets(self) -> dict[str, str]:
        """Return what nobody may see: the passwords, and the hash of one that only the cluster has."""
        (reader,) = self.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'reader'").splitlines()
        return {**json.loads((self.inventory.parent / "secrets.json").read_text()), "the reader's hash": reader}

    def told(self) -> list[Path]:
        """Return the files that upgrades leave on the host for people to read."""
        private = {DIRECTORY / "secrets", DIRECTORY / "backup/secrets"}
        return [path for path in DIRECTORY.rglob("*") if path.is_file() and not private & set(path.parents)]

    def volumes(self) -> list[str]:
        return sorted(name for name in docker("volume", "ls", "--quiet").split() if name.startswith((f"{PROJECT}_", f"{PROJECT}-")))

    def files(self) -> list[str]:
        """Return where in the volume there is data."""
        return sorted(path.name for path in Path(json.loads(docker("volume", "inspect", VOLUME))[0]["Mountpoint"]).iterdir())

    def own(self) -> list[str]:
        """Return what upgrades have of containers and throw-away volumes at the moment."""
        label = f"label=campaign.platform.backup={PROJECT}"
        return docker("ps", "-aq", "--filter", label).split() + docker("volume", "ls", "-q", "--filter", label).split()

    def container(self) -> str:
        return docker("ps", "-q", "--no-trunc", "--filter", f"name={PROJECT}-postgres-1")


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    deployed.sweep(PROJECT)
    found = Stack(tmp_path_factory.mktemp("upgrade"))
    found.well("site", **OLD)
    found.sql(SCHEMA)
    found.sql(OTHER, "other data")
    # Nobody is to write to it any more, and extensions are brought to the versions of the new image all the same.
    found.sql('CREATE EXTENSION postgis; ALTER DATABASE "other data" SET default_transaction_read_only = on', "other data")
    found.sql(IN_POSTGRES, "postgres")
    found.sql(CHANGE)
    assert found.version().startswith("17 3.5")
    yield found
    deployed.sweep(PROJECT)


def test_a_bare_change_of_the_image_is_refused(stack):
    before, container = stack.fingerprint(), stack.container()
    result = stack.play("site")
    assert result.status != 0
    assert "holds data of PostgreSQL 17 (17/docker), and this release has PostgreSQL 18" in result.text
    assert "campaign.platform.upgrade_postgres" in result.text
    assert (stack.container(), stack.fingerprint()) == (container, before)


def test_what_a_dump_would_lose_is_refused_and_a_rehearsal_touches_nothing(stack):
    before, container = stack.fingerprint(), stack.container()
    # The second is the stack's own, which nobody has to do anything about.
    stack.sql("SELECT pg_create_physical_replication_slot(name) FROM unnest(ARRAY['standby', 'campaign_wal']) AS name")
    stack.sql("SET password_encryption = md5; CREATE ROLE old_one LOGIN PASSWORD 'a password of years ago'")
    result = stack.play("upgrade_postgres", upgrade_postgres_rehearsal_only=True)
    assert result.status != 0
    assert "a replication slot, whose position is of the old cluster: standby." in result.text
    assert "a password that is kept as md5, which a new cluster does not take, of: old_one." in result.text
    stack.sql("SELECT pg_drop_replication_slot('standby'); DROP ROLE old_one")
    assert stack.fingerprint() == before
    # People go on working meanwhile.
    process, written, rows = stack.start("upgrade_postgres", upgrade_postgres_rehearsal_only=True), 0, int(stack.sql("SELECT count(*) FROM public.part"))
    while process.poll() is None:
        stack.sql("SELECT nextval('public.invoices'); INSERT INTO public.part VALUES (1)")
        written += 1
    text = " ".join(process.stdout.read().split())
    assert process.returncode == 0, text[-4000:]
    assert int(stack.sql("SELECT count(*) FROM public.part")) == rows + written
    assert "the extension postgis goes from 3.5" in text
    assert "are equal, by hash" in text
    print(text[text.index("rehearse | Say what was found") :].partition("TASK")[0])
    assert (stack.container(), stack.own(), stack.volumes()) == (container, [], [VOLUME])
    assert not JOURNAL.exists()


# What is there on the host in the moment in which a run is killed, in the order in which it comes.
def _is_published() -> bool:
    try:
        return json.loads(JOURNAL.read_text())["published"]
    except (FileNotFoundError, ValueError):
        return False


def _is_running(name: str) -> bool:
    return bool(docker("ps", "-q", "--filter", f"label=campaign.platform.backup={PROJECT}", "--filter", f"name={name}"))


MOMENTS: dict[str, Callable[[], bool]] = {
    "restoring": lambda: JOURNAL.exists() and _is_running("-postgres"),
    "rehearsing": lambda: _is_running("-postgres") and not JOURNAL.exists(),
    "stopping": JOURNAL.exists,
    "dumping": lambda: JOURNAL.exists() and _is_running("-old"),
    "published": _is_published,
    "deploying": lambda: (DIRECTORY / "attempted").is_symlink(),
}


def pytest_generate_tests(metafunc):
    if "moment" in metafunc.fixturenames:
        metafunc.parametrize("moment", list(MOMENTS) if metafunc.config.getoption("--full") else list(MOMENTS)[:1])


def test_who_is_killed_has_lost_nothing(stack, moment):
    stack.sql(CHANGE)
    before = stack.fingerprint()
    process = stack.start("upgrade_postgres")
    while not MOMENTS[moment]():
        assert process.poll() is None, process.stdout.read()[-4000:]
        time.sleep(0.05)
    stack.kill(process)
    if moment != "rehearsing":
        refused = stack.play("rollback")
        assert refused.status != 0
        assert "An upgrade of the PostgreSQL of" in refused.text
    # The one command back. Nothing is asked, because nothing is lost.
    stack.well("upgrade_postgres", **({"revert": True} if moment != "rehearsing" else {"upgrade_postgres_rehearsal_only": True}))
    assert stack.version().startswith("17 3.5")
    assert stack.fingerprint() == before
    kept = [name for name in stack.volumes() if "-18-tried-" in name]
    assert stack.own() == []
    assert stack.files() == ["17"]
    assert len(kept) == (moment == "deploying")
    assert not JOURNAL.exists()


def test_it_is_upgraded_and_reverted_with_equal_hashes(stack, full):
    for _round in range(3 if full else 1):
        stack.sql(CHANGE)
        stack.sql(f"INSERT INTO public.empty VALUES (1, '{ROW}')")
        before, volumes = stack.fingerprint(), stack.volumes()
        private = {"row": ROW, **stack.secrets()}
        with deployed.seen_in_processes(private) as seen:
            text = stack.well("upgrade_postgres")
        assert seen == {}
        written = text + "".join(path.read_text(errors="replace") for path in stack.told())
        assert [name for name, value in private.items() if value in written] == []
        assert "the extension postgis goes from 3.5" in text
        assert "campaign_db: materialized views whose queries fail here" in text
        assert stack.version().startswith("18 3.6")
        assert stack.fingerprint() == before
        (old,) = set(stack.volumes()) - set(volumes)
        assert old.startswith(f"{VOLUME}-17-")
        assert (stack.files(), stack.own()) == (["18"], [])
        # The password is the reader's, and asked for from elsewhere than the server itself.
        network = next(iter(json.loads(docker("inspect", stack.container()))[0]["NetworkSettings"]["Networks"]))
        image = json.loads(docker("inspect", stack.container()))[0]["Config"]["Image"]
        address = "host=postgres user=reader dbname=campaign_db password='a password of the reader'"
        assert docker("run", "--rm", "--network", network, "--entrypoint", "psql", image, "-tAc", "SELECT public.one()", address) == "1"
        # A second run and a deploy have nothing to do, and the release that cannot read the data is not gone back to.
        assert "There is nothing to upgrade" in stack.well("upgrade_postgres")
        refused = stack.play("rollback")
        assert refused.status != 0
        assert "It has PostgreSQL 17, and the data is of 18" in refused.text

        stack.sql("DROP TABLE public.part; INSERT INTO public.empty VALUES (1)")
        asked = stack.play("upgrade_postgres", revert=True)
        assert asked.status != 0
        assert f"upgrade_postgres_confirm={PROJECT}" in asked.text
        assert stack.version().startswith("18")
        stack.well("upgrade_postgres", revert=True, upgrade_postgres_confirm=PROJECT)
        assert stack.version().startswith("17 3.5")
        assert stack.fingerprint() == before
        assert (stack.files(), stack.own()) == (["17"], [])
        (newer,) = set(stack.volumes()) - set(volumes)
        assert newer.startswith(f"{VOLUME}-18-")
        stack.well("upgrade_postgres", upgrade_postgres_old_volumes="remove")
        assert stack.volumes() == [VOLUME]


@deployed.full_only
def test_data_at_the_top_of_its_volume_is_upgraded_too(stack):
    before = stack.fingerprint()
    docker("stop", f"{PROJECT}-postgres-1")
    top = Path(json.loads(docker("volume", "inspect", VOLUME))[0]["Mountpoint"])
    cluster = top / "17/docker"
    for path in cluster.iterdir():
        path.rename(top / path.name)
    top.chmod(0o700)
    cluster.rmdir()
    cluster.parent.rmdir()
    refused = stack.play("site")
    assert refused.status != 0
    assert "holds data of PostgreSQL 17 (at its top), and this release has PostgreSQL 18" in refused.text
    stack.well("upgrade_postgres")
    assert stack.version().startswith("18 3.6")
    assert stack.fingerprint() == before
    assert stack.files() == ["18"]


@deployed.full_only
def test_the_log_of_the_new_server_is_received_where_points_in_time_are_on(stack):
    """What the volume has of the old server's log is of no use to the new one, and no backup may be set up that would empty it."""
    deployed.sweep(PROJECT)
    on = {"stack_point_in_time": True}
    stack.well("site", **OLD, **on)
    stack.sql("CREATE TABLE kept (n int); SELECT pg_switch_wal(); INSERT INTO kept SELECT generate_series(1, 1000); SELECT pg_switch_wal()")
    stack.well("upgrade_postgres", **on)
    assert stack.version().startswith("18 3.6")
    deployed.await_receiver(PROJECT, stack.sql)
    assert stack.sql("SELECT count(*) FROM kept") == "1000"
    stack.well("upgrade_postgres", revert=True, upgrade_postgres_confirm=PROJECT, **on)
    assert stack.version().startswith("17 3.5")
    deployed.await_receiver(PROJECT, stack.sql)
