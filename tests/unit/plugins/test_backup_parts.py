# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a set: what is compared, what is told of an error, and what a request to S3 looks like."""

import contextlib
import io
import subprocess
from types import SimpleNamespace

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, docker, postgres, redis, s3, sets, wal
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


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (
            """pg_restore: error: could not execute query: ERROR:  could not create unique index "a_pkey"
DETAIL:  Key (id)=(row-of-somebody) is duplicated.
Command was: ALTER TABLE ONLY public."A b"
    ADD CONSTRAINT a_pkey PRIMARY KEY (id);
""",
            'ALTER TABLE ONLY public."A b"',
        ),
        ('pg_restore: error: COPY failed for table "a": ERROR:  row-of-somebody\nCONTEXT:  COPY a, line 1: "row-of-somebody"\n', 'table "a"'),
        ("pg_restore: error: could not execute query: ERROR:  x\nCommand was: COMMENT ON TABLE public.a IS 'row-of-somebody';\n", "COMMENT ON TABLE public.a"),
        ('pg_dump: error: Dumping the contents of table "a" failed: PQgetResult() failed.\npg_dump: detail: row-of-somebody', 'table "a"'),
        ("pg_dump: error: query failed: ERROR:  timeout\nquery was: LOCK TABLE public.a IN ACCESS SHARE MODE\n", "TABLE public.a"),
        (
            """pg_restore: error: could not execute query: ERROR:  function unaccent(text) does not exist
LINE 1:  SELECT lower(unaccent('row-of-somebody'))
CONTEXT:  SQL function "plain" during inlining
Command was: CREATE INDEX b_idx ON public.b USING btree (public.plain(name));
""",
            "CREATE INDEX b_idx, where a function is not found by its name (SQLSTATE 42883)",
        ),
        (
            'pg_restore: error: COPY failed for table "b": ERROR:  relation "colours" does not exist\nCONTEXT:  row-of-somebody',
            'table "b", where a relation is not found by its name (SQLSTATE 42P01)',
        ),
        ("ERROR: row-of-somebody", "see the size of the volume and of the memory"),
    ],
)
def test_an_error_of_a_dump_or_restore_names_objects_and_quotes_no_row(said, named):
    assert postgres.objects_of(said) == named


def test_not_more_than_some_objects_are_told():
    said = "".join(f"Command was: CREATE TABLE public.t{number} (\n" for number in range(7))
    assert postgres.objects_of(said) == f"{', '.join(f'CREATE TABLE public.t{number}' for number in range(5))} and 2 more"


VIEW = """pg_restore: error: could not execute query: ERROR:  program "getent hosts postgres" failed
DETAIL:  child process exited with exit code 2
Command was: REFRESH MATERIALIZED VIEW other."here Only";


"""
TABLE = """pg_restore: error: COPY failed for table "a": ERROR:  no space left
"""


def test_only_where_nothing_but_views_could_not_be_filled_a_restore_is_whole():
    assert postgres.unfilled(f"{VIEW}pg_restore: warning: errors ignored on restore: 1\n") == ['other."here Only"']
    assert postgres.unfilled(f"{VIEW}{TABLE}pg_restore: warning: errors ignored on restore: 2\n") is None
    assert postgres.unfilled(f"{VIEW}{TABLE}pg_restore: warning: errors ignored on restore: 1\n") is None
    # An end before all was read.
    assert postgres.unfilled(VIEW) is None
    assert postgres.unfilled("pg_restore: error: could not read from input file: end of file\n") is None


@pytest.mark.parametrize(("failing", "told"), [((), "that were empty are filled"), (("b",), "are still empty, because their queries fail: b. Fill them")])
def test_what_is_empty_is_filled_where_the_stack_runs(failing, told):
    asked = []

    def attempt(*command, seconds):
        assert seconds
        asked.append(command[-1])
        return int(command[-1].endswith(failing)) if failing else 0, "", ""

    assert told in postgres.fill(SimpleNamespace(attempt=attempt), "server", "user", "db", ["a", "b"])
    assert asked == ["REFRESH MATERIALIZED VIEW a", "REFRESH MATERIALIZED VIEW b"]


class OnePsql:
    """Docker whose psql ends in one way."""

    def __init__(self, status: int, said: str):
        self.process = SimpleNamespace(wait=lambda: status, error=lambda _size: said, kill=lambda: None)

        self.steps: list[tuple[str, ...]] = []

    def ask(self, *command, stdin: bytes) -> None:
        self.steps.append((*command, stdin.decode()))

    def start(self, *command, **_options) -> SimpleNamespace:
        self.steps.append(command)
        return self.process


def test_a_database_takes_the_place_of_one_that_the_server_itself_uses(tmp_path):
    """As what pg_cron runs, which is there as soon as the server is. Sessions may be read-only by a setting that came back with the roles."""
    (tmp_path / "a.sql").write_text("")
    dumped, plain = OnePsql(0, ""), OnePsql(0, "")
    postgres.Restore(dumped, "server", "user", "a")
    with (tmp_path / "a.sql").open("rb") as text:
        postgres.restore_sql(plain, "server", "user", "a", text)
    for steps, program in ((dumped.steps, "pg_restore"), (plain.steps, "psql")):
        (*dropping, statement), (*loading, _last) = steps
        assert statement == 'DROP DATABASE IF EXISTS "a" WITH (FORCE);'
        assert set(postgres.WRITABLE) <= set(dropping)
        assert program in loading


@pytest.mark.parametrize(
    ("status", "said", "views"),
    [
        (0, "", []),
        (0, "psql:<stdin>:2: ERROR:  42P01\n", ['other."here Only"']),
        (0, "psql:<stdin>:1: ERROR:  42P01\npsql:<stdin>:2: ERROR:  42P01\n", None),
        (0, "psql:<stdin>:1: error: invalid command \\restrict\n", None),
        (0, "psql:<stdin>:2: ERROR:  42P01\nERROR:  42P01\n", None),
        (0, "psql:<stdin>:1: NOTICE:  42P06\npsql:<stdin>:2: WARNING:  01000\n", []),
        (2, "psql:<stdin>:2: ERROR:  42P01\npsql: error: connection to server was lost\n", None),
    ],
)
def test_the_same_is_so_for_sql(tmp_path, status, said, views):
    (tmp_path / "a.sql").write_text('CREATE TABLE t ();\nREFRESH MATERIALIZED VIEW other."here Only";\n')
    with (tmp_path / "a.sql").open("rb") as text:
        if views is None:
            with pytest.raises(BackupError, match="cannot be loaded"):
                postgres.restore_sql(OnePsql(status, said), "server", "user", "a", text)
        else:
            assert postgres.restore_sql(OnePsql(status, said), "server", "user", "a", text) == views


def test_a_role_that_is_there_is_no_error_and_its_name_may_be_anything():
    lines = list(postgres.role_statements('CREATE ROLE "a ""b"" $$;";\nALTER ROLE "a ""b"" $$;" WITH LOGIN;\nSET x = 1;'))
    assert lines[0] == ('DO $campaign_role$ BEGIN CREATE ROLE "a ""b"" $$;"; EXCEPTION WHEN duplicate_object THEN NULL; END $campaign_role$;')
    assert lines[1:] == ['ALTER ROLE "a ""b"" $$;" WITH LOGIN;', "SET x = 1;"]
    # What ends a line elsewhere stands in a comment.
    assert "\n".join(postgres.role_statements("COMMENT ON ROLE a IS 'x\u2028y\x0bz';\n")) == "COMMENT ON ROLE a IS 'x\u2028y\x0bz';\n"


@pytest.mark.parametrize(("user", "spelled"), [("campaign_user", "campaign_user"), ("Ada L", '"Ada L"'), ('a"b', '"a""b"')])
def test_the_superuser_of_a_server_stays_what_it_is_whatever_another_cluster_says(user, spelled):
    """With its password a stack with other secrets would be locked out, and without SUPERUSER a server of 16 or later refuses it (0A000)."""
    given = []

    def attempt(*words, stdin):
        given.append((words, stdin.decode().split("\n")))
        return 0, "", ""

    dumped = [
        f"CREATE ROLE {spelled};",
        f"ALTER ROLE {spelled} WITH NOSUPERUSER INHERIT LOGIN PASSWORD 'SCRAM-SHA-256$4096:secret';",
        f"ALTER ROLE {spelled} SET work_mem TO '8MB';",
        "CREATE ROLE another;",
        "ALTER ROLE another WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:other';",
        f"GRANT another TO {spelled};",
    ]
    postgres.restore_roles(SimpleNamespace(attempt=attempt), "server", user, "\n".join(dumped).encode())
    ((words, lines),) = given
    assert [line for line in lines if line in dumped] == [dumped[2], dumped[4], dumped[5]]
    assert len(lines) == 5
    # Or psql does not say at which line it fails.
    assert words[-1] == "--file=-"


def test_a_role_that_cannot_be_created_is_told_without_its_password():
    text = b"CREATE ROLE ada;\nALTER ROLE ada WITH LOGIN PASSWORD 'SCRAM-SHA-256$4096:secret';\n"
    engine = SimpleNamespace(attempt=lambda *_words, **_options: (3, "", "psql:<stdin>:2: ERROR:  22023\n"))
    with pytest.raises(BackupError, match=r"cannot be created: psql ended with exit code 3 at `ALTER ROLE ada WITH \.\.\.` \(SQLSTATE 22023\)\.$"):
        postgres.restore_roles(engine, "server", "campaign_user", text)


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
        (
            ["-c", "shared_preload_libraries=pg_cron", "-c", "cron.database_name=db", "-c", "cron.launch_active_jobs=on"],
            ["-c", "shared_preload_libraries=pg_cron", "-c", "cron.database_name=db", "-c", "cron.launch_active_jobs=off"],
        ),
        (["-c", "app.jwt_secret=secret", "-c", "max_prepared_transactions=5"], ["-c", "max_prepared_transactions=5"]),
    ],
)
def test_a_copy_loads_what_extensions_need_and_runs_no_jobs(command, passed):
    assert copies.passed_on(command) == passed


def test_grants_of_the_founder_are_for_any_cluster():
    """A server refuses them where another one made the cluster, since PostgreSQL 16."""
    text = 'GRANT a TO b WITH INHERIT TRUE GRANTED BY "the founder";\nGRANT a TO c GRANTED BY d;\nCREATE ROLE x;'
    opened = SimpleNamespace(version=160001, ask=lambda statement: ['"the founder"'] if "oid = 10" in statement else ["ALTER ROLE ALL SET a TO 'b';"])
    assert postgres.whole_roles(opened, text).split("\n") == [
        "GRANT a TO b WITH INHERIT TRUE;",
        "GRANT a TO c GRANTED BY d;",
        "CREATE ROLE x;",
        "ALTER ROLE ALL SET a TO 'b';",
        "",
    ]
    # Of an older one, which let everybody grant, those of everybody are.
    opened.version = 150010
    assert postgres.whole_roles(opened, text).split("\n")[:3] == ["GRANT a TO b WITH INHERIT TRUE;", "GRANT a TO c;", "CREATE ROLE x;"]


def test_the_rights_of_the_database_that_every_cluster_has_come_with_the_roles(monkeypatch):
    """A dump has a database's rights for where it is created, and that one is there already."""
    grant = "GRANT CONNECT ON DATABASE postgres TO monitor;"
    asked = []

    def ask(statement):
        asked.append(statement)
        return ["ada"] if "oid = 10" in statement else [grant] if "aclexplode" in statement else []

    opened = SimpleNamespace(version=180000, ask=ask)
    monkeypatch.setattr(postgres, "session", lambda *_given: contextlib.nullcontext(opened))
    text = postgres.roles(SimpleNamespace(attempt=lambda *_words, **_options: (0, "CREATE ROLE monitor;\n", "")), "server", "ada", "db").decode()
    assert text.index("CREATE ROLE monitor;") < text.index(f"{grant}\n")
    # A cluster of others, which they may be read into, stays open to whom it was.
    assert "FROM PUBLIC" not in "".join(asked)
    postgres.administration(opened, everybody=True)
    assert "FROM PUBLIC" in asked[-1]


def test_a_bucket_that_came_while_the_set_was_made_is_created():
    done = []
    client = SimpleNamespace(create_bucket=lambda name: done.append(name), put=lambda bucket, key, *_rest: done.append(f"{bucket}/{key}"))
    copy = copies.Copy(None, copies.Servers(None, None, None), {}, "", None, print)
    copy._client = client
    copy.bucket("first", {})
    for bucket in ("first", "late", "late"):
        copy.object({"bucket": bucket, "key": "k", "headers": {}}, 0, io.BytesIO())
    assert done == ["first", "first/k", "late", "late/k", "late/k"]


OPEN = """/proc/1/fd:
lrwx------ 1 redis redis 64 Sep 24 20:34 5 -> anon_inode:[eventpoll]
lrwx------ 1 redis redis 64 Sep 24 20:34 6 -> socket:[9640080]
"""
LOG = "l-wx------ 1 redis redis 64 Sep 24 20:34 7 -> /data/appendonlydir/appendonly.aof.1.incr.aof\n"


@pytest.mark.parametrize(
    ("looks", "is_refused"),
    [
        ([OPEN + LOG], False),
        # Files of an earlier time may lie in the volume all the same.
        ([OPEN], True),
        # It has only just read them.
        ([OPEN, OPEN + LOG], False),
        # Of another user, or without a shell: nobody knows.
        (["/proc/1/fd:\n/proc/31/fd:\nlrwx------ 1 redis redis 64 Sep 24 20:34 1 -> pipe:[1]\n"], False),
        ([""], False),
    ],
)
def test_a_redis_that_writes_no_append_only_file_is_refused(monkeypatch, looks, is_refused):
    left = list(looks)
    monkeypatch.setattr(redis.time, "sleep", lambda _seconds: None)
    engine = SimpleNamespace(attempt=lambda *_words: (2, left.pop(0) if len(left) > 1 else left[0], ""))
    told = r"^Redis writes no append-only file \(`appendonly no`\), .* earlier sets stay\. Turn it on"
    with pytest.raises(redis.NoLogError, match=told) if is_refused else contextlib.nullcontext():
        redis.check_log(engine, "c")


class Shell:
    """Docker that runs the program of a container here, over two directories."""

    def __init__(self, root):
        self.root = root
        for name in ("from", "to"):
            (root / name).mkdir()

    def confined(self):
        return []

    def remove_container(self, _name):
        pass

    def attempt(self, *words):
        program = words[-1].replace("/from", f"{self.root}/from").replace("/to", f"{self.root}/to")
        done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


def test_only_append_only_files_are_what_is_stored_of_redis(tmp_path):
    """A server that keeps some starts empty over an RDB file, and a set of that was compared with itself: 0 keys and 0 keys."""
    engine, server = Shell(tmp_path), service("redis", {"/data": "v"})
    (tmp_path / "from/dump.rdb").write_bytes(b"REDIS")
    with pytest.raises(redis.NoLogError, match=r"^Redis writes no append-only file \(the volume v has no appendonlydir\)"):
        redis.copy(engine, server, "v", "w", "n")
    assert list((tmp_path / "to").iterdir()) == []
    log = tmp_path / "from/appendonlydir"
    log.mkdir()
    (log / "appendonly.aof.manifest").write_text("file appendonly.aof.1.incr.aof seq 1 type i\n")
    (log / "appendonly.aof.1.incr.aof").write_bytes(b"aof")
    redis.copy(engine, server, "v", "w", "n")
    assert {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*") if path.is_file()} == {
        "appendonlydir/appendonly.aof.manifest",
        "appendonlydir/appendonly.aof.1.incr.aof",
    }


def test_a_set_without_append_only_files_is_not_whole(monkeypatch):
    """One of an earlier version says 0 keys, and so does a server over it."""
    server = service("redis", {"/data": "v"})
    engine = SimpleNamespace(run="r", create_volume=lambda _name: "w", remove_volume=lambda _name: None)

    def copy_files(*_given):
        raise redis.NoLogError("it is not there")

    monkeypatch.setattr(redis, "copy", copy_files)
    monkeypatch.setattr(redis, "facts", lambda *_given: {"keys": 0, "digest": "0" * 40})
    copy = copies.Copy(engine, copies.Servers(None, server, None), {"redis": "v"}, "", None, print)
    found = sets.Read()
    found.manifest = {"parts": ["redis"], "redis": {"keys": 0, "digest": "0" * 40}}
    assert copy._compare(found) == ["Redis: the set has no append-only files, so nobody knows which keys there were"]
    monkeypatch.setattr(redis, "copy", lambda *_given: None)
    assert copy._compare(found) == []


class Refusing:
    """A MinIO that knows no tier, and answers so, or in another way."""

    def __init__(self, status: int = 400, refused: str = "lifecycle"):
        self.status, self.refused, self.kept, self.stored = status, refused, {}, []

    def create_bucket(self, bucket):
        self.kept[bucket] = {}

    def put_setting(self, bucket, name, text):
        if name == self.refused:
            raise s3.S3Error(f"setting the {name} of the bucket {bucket}", self.status, "InvalidStorageClass")
        self.kept[bucket][name] = text

    def setting(self, bucket, name):
        return self.kept[bucket].get(name)

    def put(self, bucket, key, *_rest):
        self.stored.append(f"{bucket}/{key}")

    def buckets(self):
        return list(self.kept)

    def objects(self, _bucket):
        return []


SETTINGS = {"lifecycle": "<Tier/>", "policy": "{}", "versioning": "<Status>Enabled</Status>"}


@pytest.mark.parametrize("refused", SETTINGS)
def test_a_setting_that_minio_refuses_takes_nothing_else_along(refused):
    """A tier is known to the live MinIO only: no set of such a bucket came back, in a drill, a restore or a move-in."""
    copy = copies.Copy(None, copies.Servers(None, None, None), {}, "", None, print, where="objects/buckets.json of the set a")
    copy._client = client = Refusing(refused=refused)
    copy.bucket("b", SETTINGS)
    copy.object({"bucket": "b", "key": "k", "headers": {}}, 0, io.BytesIO())
    assert client.stored == ["b/k"]
    assert client.kept == {"b": {name: text for name, text in SETTINGS.items() if name != refused}}
    (told,) = copy.refused.values()
    assert told.startswith(f"The {refused} of the bucket b was not brought back, because MinIO refuses it: InvalidStorageClass (HTTP 400). It lies in ")
    assert "objects/buckets.json of the set a" in told
    # It is no damage, and what got lost is.
    found = sets.Read()
    found.manifest = {"objects": {"buckets": {"b": SETTINGS}}}
    assert copy._compare_objects(found, client) == []
    lost = next(name for name in SETTINGS if name != refused)
    del client.kept["b"][lost]
    assert copy._compare_objects(found, client) == [f"b: its {lost} is missing"]


@pytest.mark.parametrize("status", [0, 500, 503])
def test_a_minio_that_fails_has_refused_nothing(status):
    copy = copies.Copy(None, copies.Servers(None, None, None), {}, "", None, print)
    copy._client = Refusing(status)
    with pytest.raises(s3.S3Error, match="setting the lifecycle of the bucket b"):
        copy.bucket("b", SETTINGS)
    assert copy.refused == {}


def service(name: str, volumes: dict[str, str], **environment: str) -> docker.Service:
    return docker.Service(name, "image", "", environment, [], [], "", volumes, {})


@pytest.mark.parametrize(
    ("name", "volumes", "environment", "expected"),
    [
        ("postgres", {"/var/lib/postgresql": "data"}, {}, "data"),
        ("postgres", {"/elsewhere": "data"}, {}, "data"),
        # A second one for logs or an archive.
        ("postgres", {"/var/log/postgresql": "log", "/var/lib/postgresql": "data"}, {}, "data"),
        ("postgres", {"/var/lib/postgresql-old": "old", "/var/lib/postgresql": "data"}, {}, "data"),
        ("postgres", {"/srv": "other", "/srv/cluster": "data"}, {"PGDATA": "/srv/cluster/18"}, "data"),
        ("minio", {"/data": "data", "/certs": "certs"}, {}, "data"),
        # Which of them has the cluster is the image's to say.
        ("postgres", {"/var/lib/postgresql": "data", "/var/lib/postgresql/18": "more"}, {}, None),
        ("postgres", {"/a": "a", "/b": "b"}, {}, None),
        ("wal", {"/a": "a", "/b": "b"}, {}, None),
        ("redis", {}, {}, None),
    ],
)
def test_of_several_volumes_the_one_with_the_data_is_taken(name, volumes, environment, expected):
    if expected:
        assert copies.volume_of(service(name, volumes, **environment))[1] == expected
    else:
        with pytest.raises(BackupError, match=rf"{name} has {len(volumes)} volumes, and one with its data is expected.*Mount the others outside"):
            copies.volume_of(service(name, volumes, **environment))


@pytest.mark.parametrize(
    ("error", "is_unknown"),
    [
        ('ERROR:  42P01: relation "t" does not exist', True),
        ("ERROR:  42703", True),
        ("ERROR:  3F000", True),
        ("ERROR:  57014", False),
        ("FATAL:  57P01", False),
        ("psql: error: connection to server failed", False),
    ],
)
def test_a_name_that_a_database_does_not_have_is_told_from_a_failure(error, is_unknown):
    session = object.__new__(postgres.Session)
    session.where, session.process = "The database d", SimpleNamespace(wait=lambda _seconds: 3, error=lambda: error)
    assert isinstance(session._failed(), postgres.UnknownNameError) == is_unknown


# --- A trigger on login


OFF = "-c event_triggers=off"


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("postgres (PostgreSQL) 18.1 (Debian 18.1-1.pgdg13+2)", OFF),
        ("postgres (PostgreSQL) 17.0", OFF),
        ("postgres (PostgreSQL) 19beta1", OFF),
        ("postgres (PostgreSQL) 100.1", OFF),
        # A server without the setting refuses the session.
        ("postgres (PostgreSQL) 16.17 (Debian 16.17-1)", ""),
        ("postgres (PostgreSQL) 9.6.24", ""),
        ("", ""),
    ],
)
def test_a_session_fires_no_event_trigger_where_its_server_can_be_told_so(tmp_path, version, options):
    for name, text in (("postgres", f"[ \"$1\" = --version ] && echo '{version}'"), ("psql", 'printf "%s|" "$PGOPTIONS" "$@"; cat')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    container, *command = postgres.client("server", "psql", "a b", "$x")
    assert container == "server"
    for given in ("", "-c lock_timeout=0"):
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", **({"PGOPTIONS": given} if given else {})}
        done = subprocess.run(command, env=env, input=b"SELECT 1", capture_output=True, check=True)
        told, *rest = done.stdout.decode().split("|")
        assert told.split() == [*given.split(), *options.split()]
        # Its arguments and what it reads are as they were.
        assert (rest, done.stderr) == (["a b", "$x", "SELECT 1"], b"")


class Recorder:
    """A Docker that remembers what it was asked for, and does none of it."""

    def __init__(self):
        self.asked = []

    def ask(self, *words, **_options):
        self.asked.append(words)
        raise BackupError("enough")

    attempt = start = ask


@pytest.mark.parametrize(
    "work",
    [
        lambda engine: postgres.Session(engine, "server", "user", "db"),
        lambda engine: postgres.roles(engine, "server", "user", "db"),
        lambda engine: postgres.dump(engine, "server", "user", "db", "1-1"),
        lambda engine: postgres.fill(engine, "server", "user", "db", ["view"]),
        lambda engine: wal.Server(engine, "server", "wal", "user", "/volume").ask(),
        lambda engine: wal.drop_slot_of(engine, "server", "user"),
    ],
    ids=["session", "roles", "dump", "fill", "log", "slot"],
)
def test_who_asks_the_stack_s_server_fires_no_event_trigger(work):
    engine = Recorder()
    with pytest.raises(BackupError, match="enough"):
        work(engine)
    ((*words,),) = engine.asked
    place = words.index("server")
    assert words[place : place + 5] == postgres.client("server")
    assert words[place + 5] in ("psql", "pg_dump", "pg_dumpall")


@pytest.mark.parametrize(("major", "options"), [("16", []), ("17", ["-c", "event_triggers=off"]), ("18", ["-c", "event_triggers=off"])])
def test_a_throw_away_server_fires_no_event_trigger(monkeypatch, major, options):
    """A set brings the trigger along, and the first session after that would add a row."""
    commands = []
    monkeypatch.setattr(copies, "running", lambda *given, **_options: commands.append(given[4]) or contextlib.nullcontext())
    monkeypatch.setattr(copies, "await_answer", lambda *_given: None)
    engine = SimpleNamespace(run="r", confined=list, ask=lambda *_words: f"postgres (PostgreSQL) {major}.4 (Debian)\n")
    server = service("postgres", {"/var/lib/postgresql": "data"}, POSTGRES_USER="ada")
    copy = copies.Copy(engine, copies.Servers(server, None, None), {"postgres": "new"}, "", None, print)
    with copy.postgres(server):
        pass
    ((name, *words),) = commands
    assert name == "postgres"
    assert [word for pair in zip(words[::2], words[1::2], strict=True) if "event_triggers" in pair[1] for word in pair] == options
