# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a set: what is compared, what is told of an error, and what a request to S3 looks like."""

import io
from types import SimpleNamespace

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, docker, postgres, redis, s3
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError


def facts(**more) -> dict:
    found = {"tables": {"public.a": {"rows": 2, "hash": "1"}}, "large_objects": {"count": 1, "hash": "5"}, "extensions": {"postgis": "3.6"}, "spatial": 111195}
    return {**found, **more}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (facts(), []),
        # A newer version of an extension is what an upgrade brings.
        (facts(extensions={"postgis": "3.7", "pg_trgm": "1"}), []),
        (facts(tables={}), ["db: the table public.a is missing"]),
        (facts(tables={**facts()["tables"], "b": {"rows": 0, "hash": "0"}}), ["db: the table b is surplus"]),
        (facts(tables={"public.a": {"rows": 1, "hash": "1"}}), ["db: public.a has 1 rows, not 2"]),
        (facts(tables={"public.a": {"rows": 2, "hash": "2"}}), ["db: of the 2 rows of public.a, some are not those of the set"]),
        (facts(large_objects={"count": 1, "hash": "6"}), ["db: the large objects differ (1 of 1)"]),
        (facts(extensions={}), ["db: the extension postgis is missing"]),
        (facts(spatial=111), ["db: a spatial query answers 111, not 111195"]),
    ],
)
def test_what_differs_is_told_by_name(found, told):
    assert postgres.differences(facts(), found, "db") == told


def test_what_differs_in_redis_is_told():
    wanted = {"keys": 2, "digest": "a"}
    assert redis.differences(wanted, wanted) == []
    assert redis.differences(wanted, {"keys": 1, "digest": "b"}) == ["Redis: 1 keys, not 2"]
    assert redis.differences(wanted, {"keys": 2, "digest": "b"}) == ["Redis: some of the keys are not those of the set"]


def test_an_error_of_a_restore_names_objects_and_quotes_no_row():
    said = """pg_restore: error: could not execute query: ERROR:  duplicate key value violates unique constraint "a_pkey"
DETAIL:  Key (id)=(row-of-somebody) already exists.
CONTEXT:  COPY a, line 1: "row-of-somebody"
pg_restore: from TOC entry 4242; 0 16500 TABLE DATA campaigns campaign_user
"""
    assert postgres.objects_of(said) == "TABLE DATA campaigns campaign_user"
    assert "row-of-somebody" not in postgres.objects_of("ERROR: row-of-somebody")


def test_a_role_that_is_there_is_no_error_and_its_name_may_be_anything():
    lines = list(postgres.role_statements('CREATE ROLE "a ""b"" $$;";\nALTER ROLE "a ""b"" $$;" WITH LOGIN;\nSET x = 1;'))
    assert lines[0] == ('DO $campaign_role$ BEGIN CREATE ROLE "a ""b"" $$;"; EXCEPTION WHEN duplicate_object THEN NULL; END $campaign_role$;')
    assert lines[1:] == ['ALTER ROLE "a ""b"" $$;" WITH LOGIN;', "SET x = 1;"]
    # What ends a line elsewhere stands in a comment.
    assert "\n".join(postgres.role_statements("COMMENT ON ROLE a IS 'x\u2028y\x0bz';\n")) == "COMMENT ON ROLE a IS 'x\u2028y\x0bz';\n"


@pytest.mark.parametrize(("length", "sizes"), [(0, []), (9, [9]), (10, [10]), (25, [10, 10, 5])])
def test_a_dump_is_cut_whatever_its_pipe_gives_at_once(length, sizes):
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 3))

    assert [len(part) for part in postgres.copy_chunks(Slow(bytes(length)), 10)] == sizes


@pytest.mark.parametrize("path", ["../etc/passwd", "/etc/passwd", "a/../b", "a/b/c", "a b", ""])
def test_a_file_of_redis_leads_nowhere_else(path):
    writer = redis.Writer.__new__(redis.Writer)
    with pytest.raises(BackupError, match="a name that Redis does not use"):
        writer.add(path, 0, io.BytesIO())


def test_a_service_is_read_as_compose_says_it():
    configuration = {
        "services": {
            "postgres": {
                "image": "postgis:18",
                "user": "999:999",
                "environment": {"A": "a$$b", "EMPTY": None},
                "tmpfs": ["/tmp:size=1m", "/run:size=1m"],
                "volumes": [{"type": "volume", "source": "data", "target": "/var/lib"}, {"type": "bind", "source": "/x", "target": "/y"}],
                "secrets": [{"source": "postgres_1", "target": "password"}],
            }
        },
        "secrets": {"postgres_1": {"name": "p_postgres_1", "file": "/opt/p/secrets/postgres_1"}},
        "volumes": {"data": {"name": "p_data"}},
    }
    found = docker.service_of("postgres", configuration)
    assert found is not None
    assert (found.environment, found.secrets) == ({"A": "a$b", "EMPTY": ""}, {"password": "/opt/p/secrets/postgres_1"})
    assert copies.volume_of(found) == ("/var/lib", "p_data")
    # The throw-away container has a /tmp of its own.
    assert found.options() == ["--user", "999:999", "--env", "A=a$b", "--env", "EMPTY=", "--tmpfs", "/run:size=1m"]
    assert docker.service_of("redis", configuration) is None


def test_what_belongs_to_a_backup_is_confined():
    words = docker.Docker("p", "/x", "p-backup-1").confined()
    for option in ("--read-only", "no-new-privileges", "ALL"):
        assert option in words
    assert words[words.index("--log-driver") + 1] == "none"
    assert words[words.index("--memory") + 1] == words[words.index("--memory-swap") + 1] == "1g"


def test_the_client_takes_nothing_from_who_calls_it(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere")
    command = docker.Docker("p", "/x", "r").command("ps")
    assert command[:2] == ["env", "-i"]
    assert "DOCKER_HOST=unix:///var/run/docker.sock" in command


def test_a_request_is_signed_and_its_key_stays_out_of_it():
    client = s3.Client(lambda: ("127.0.0.1", 9000), "access", "secret-of-mine")
    signed = client._signed("GET", "/b/a%20b", "list-type=2", {}, "127.0.0.1:9000")
    assert signed["authorization"].startswith("AWS4-HMAC-SHA256 Credential=access/")
    assert not any("secret-of-mine" in value for value in signed.values())
    assert "secret-of-mine" not in repr(client)


@pytest.mark.parametrize(("key", "path"), [("a b/ü", "/b/a%20b/%C3%BC"), ("a+b?c#d&e", "/b/a%2Bb%3Fc%23d%26e"), ("%41", "/b/%2541")])
def test_any_key_is_a_path(key, path):
    assert s3._path("b", key) == path


@pytest.mark.parametrize(
    ("command", "passed"),
    [
        ([], []),
        (["postgres", "-c", "max_wal_size=2GB"], []),
        (["postgres", "-c", "shared_preload_libraries=pgaudit"], ["-c", "shared_preload_libraries=pgaudit"]),
        (["postgres", "-cmax_locks_per_transaction=256"], ["-c", "max_locks_per_transaction=256"]),
        (["--shared-preload-libraries=pg_cron"], ["-c", "shared_preload_libraries=pg_cron", "-c", "cron.launch_active_jobs=off"]),
    ],
)
def test_a_copy_loads_what_extensions_need_and_runs_no_jobs(command, passed):
    assert copies.passed_on(command) == passed


def test_grants_of_the_founder_are_for_any_cluster():
    """A server refuses them where another one made the cluster, since PostgreSQL 16."""
    text = 'GRANT a TO b WITH INHERIT TRUE GRANTED BY "the founder";\nGRANT a TO c GRANTED BY d;\nCREATE ROLE x;'
    opened = SimpleNamespace(ask=lambda statement: ['"the founder"'] if "oid = 10" in statement else ["ALTER ROLE ALL SET a TO 'b';"])
    assert postgres.whole_roles(opened, text).split("\n") == [
        "GRANT a TO b WITH INHERIT TRUE;",
        "GRANT a TO c GRANTED BY d;",
        "CREATE ROLE x;",
        "ALTER ROLE ALL SET a TO 'b';",
        "",
    ]


def test_a_bucket_that_came_while_the_set_was_made_is_created():
    done = []
    client = SimpleNamespace(create_bucket=lambda name: done.append(name), put=lambda bucket, key, *_rest: done.append(f"{bucket}/{key}"))
    copy = copies.Copy(None, copies.Servers(None, None, None), {}, "", None, print)
    copy._client = client
    copy.bucket("first", {})
    for bucket in ("first", "late", "late"):
        copy.object({"bucket": bucket, "key": "k", "headers": {}}, 0, io.BytesIO())
    assert done == ["first", "first/k", "late", "late/k", "late/k"]
