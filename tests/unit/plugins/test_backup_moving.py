# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the volumes of another Compose project can be taken is known before anything is touched."""

import contextlib
import json
import os

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import docker, moving, postgres
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError

LIVE = {"postgres": "p_postgres-data", "redis": "p_redis-data", "minio": "p_minio-data"}


def test_volumes_are_called_as_the_stack_s_own_or_as_it_is_said():
    assert moving.names_of("p", "other", LIVE, {}) == {name: f"other_{name}-data" for name in LIVE}
    given = {"postgres": "db", "redis": "", "minio": None}
    assert moving.names_of("p", "other", LIVE, given) == {"postgres": "db"}


@pytest.mark.parametrize(
    ("other", "given", "told"),
    [("p", {}, "this stack itself"), ("o", {"mysql": "x"}, "no mysql in this stack"), ("o", dict.fromkeys(LIVE, ""), "All volumes were left out")],
)
def test_names_that_make_no_sense_are_refused(other, given, told):
    with pytest.raises(BackupError, match=told):
        moving.names_of("p", other, LIVE, given)


class Engine:
    """An Engine with the volumes of a stopped project."""

    def __init__(self, root, **volumes):
        self.volumes = {f"other_{name}-data": {"Driver": "local", "Options": None, "Mountpoint": str(root / name)} for name in LIVE}
        for name in LIVE:
            (root / name).mkdir()
        self.volumes |= volumes
        self.running, self.users = [], {}

    def ask(self, *arguments):
        label = next(word for word in arguments if word.startswith(("label=", "volume=")))
        return "\n".join(self.running if label.startswith("label=") else self.users.get(label.removeprefix("volume="), []))

    def attempt(self, *arguments):
        found = self.volumes.get(arguments[-1])
        return (0, json.dumps([found]), "") if found else (1, "", "no such volume")


def check(engine, **names):
    return moving.check(engine, "other", {**{name: f"other_{name}-data" for name in LIVE}, **names}, LIVE)


def test_a_project_that_is_stopped_is_taken(tmp_path):
    assert check(Engine(tmp_path)) == {name: str(tmp_path / name) for name in LIVE}


def test_what_cannot_be_read_as_it_is_is_refused(tmp_path):
    engine = Engine(tmp_path, odd={"Driver": "nfs", "Mountpoint": "/"}, bound={"Driver": "local", "Options": {"o": "bind"}, "Mountpoint": "/"})
    for names, told in (
        ({"redis": "nowhere"}, "There is no volume nowhere, which should have the data of redis"),
        ({"redis": "odd"}, r"not a directory of the Engine on this host \(driver nfs\)"),
        ({"redis": "bound"}, "not a directory of the Engine"),
        ({"redis": "p_redis-data"}, "a volume of this stack itself"),
    ):
        with pytest.raises(BackupError, match=told) as caught:
            check(engine, **names)
        assert "Nothing was changed." in str(caught.value)
    engine.users = {"other_minio-data": ["somebody-1"]}
    with pytest.raises(BackupError, match="in use by somebody-1"):
        check(engine)
    engine.running = ["other-api-1"]
    with pytest.raises(BackupError, match=r"The project other runs \(other-api-1\).*docker compose -p other stop"):
        check(engine)


def cluster(root, place: str, version: str) -> None:
    (root / place / "base/1").mkdir(parents=True)
    (root / place / "global").mkdir()
    for name in ("PG_VERSION", "base/1/PG_VERSION"):
        (root / place / name).write_text(f"{version}\n")


@pytest.mark.parametrize("place", [".", "data", "pgdata", "18/docker", "18/main"])
def test_a_cluster_is_found_wherever_it_lies(tmp_path, place):
    cluster(tmp_path, place, "18")
    assert moving.cluster_in(str(tmp_path), "v", "18") == place


def test_a_cluster_that_cannot_be_taken_is_refused(tmp_path):
    with pytest.raises(BackupError, match="no data of PostgreSQL"):
        moving.cluster_in(str(tmp_path), "v", "18")
    cluster(tmp_path, "17/docker", "17")
    with pytest.raises(BackupError, match="has data of PostgreSQL 17, and this stack's is 18"):
        moving.cluster_in(str(tmp_path), "v", "18")
    cluster(tmp_path, "18/docker", "18")
    with pytest.raises(BackupError, match="several PostgreSQL servers"):
        moving.cluster_in(str(tmp_path), "v", "18")


@pytest.mark.parametrize(("text", "told"), [(None, "no objects of MinIO"), ("x", "no objects of MinIO"), ('{"format": "fs"}', "before 2022")])
def test_objects_that_cannot_be_taken_are_refused(tmp_path, text, told):
    (tmp_path / ".minio.sys").mkdir()
    if text:
        (tmp_path / ".minio.sys/format.json").write_text(text)
    with pytest.raises(BackupError, match=told):
        moving.check_objects(str(tmp_path), "v")
    (tmp_path / ".minio.sys/format.json").write_text('{"format": "xl-single"}')
    moving.check_objects(str(tmp_path), "v")


def test_what_redis_has_its_keys_in_is_found(tmp_path):
    with pytest.raises(BackupError, match="no keys of Redis"):
        moving.kind_of_redis(str(tmp_path), "v")
    for name in ("dump.rdb", "appendonly.aof", "appendonlydir"):
        (tmp_path / name).write_text("")
        assert moving.kind_of_redis(str(tmp_path), "v") == name


class Answers:
    """A Docker that answers the same."""

    run = "r"

    def __init__(self, text):
        self.text = text

    def confined(self):
        return []

    def ask(self, *_arguments):
        return self.text


def test_the_major_of_an_image_is_asked_of_it():
    assert postgres.major_in(Answers("postgres (PostgreSQL) 18.1 (Debian 18.1-1)\n"), "i", "n") == "18"
    with pytest.raises(BackupError, match="does not say"):
        postgres.major_in(Answers("x"), "i", "n")


@pytest.mark.parametrize(("major", "is_off"), [("16", False), ("17", True), ("18", True)])
def test_the_server_over_another_project_s_data_fires_no_event_trigger(tmp_path, monkeypatch, major, is_off):
    cluster(tmp_path, "data", major)
    started = []

    class Server(Answers):
        def ask(self, *words, **_options):
            if words[0] == "ps":
                return ""
            if "--single" in words:
                started.append(words)
                return '1: rolname = "ada"\t(typeid = 19)'
            return self.text

    monkeypatch.setattr(moving, "running", lambda *given: started.append(given[-1]) or contextlib.nullcontext())
    monkeypatch.setattr(moving, "await_answer", lambda *_given: None)
    server = docker.Service("postgres", "i", "", {}, [], [], "", {"/var/lib/postgresql": "copy"}, {})
    source = moving.Source(Server(f"postgres (PostgreSQL) {major}.4 (Debian)\n"), "/", "other", print, None, {"postgres": "v"}, {"postgres": str(tmp_path)})
    moving.look(source, "i")
    with contextlib.ExitStack() as stack:
        source._start_postgres(stack, server, str(tmp_path))
    assert ["event_triggers=off" in words for words in started] == [is_off, is_off]


def test_a_source_that_fails_says_so_and_not_that_a_set_was_cut_off():
    class Failing:
        def __init__(self, *_arguments):
            pass

        def write(self):
            raise BackupError("pg_dump failed")

    source = moving.Source(Answers(""), "/", "other", print, None, {}, {})
    with pytest.raises(BackupError, match="pg_dump failed"):
        source._pass_on(Failing, None, {}, None)


def test_an_rdb_file_of_later_than_the_log_is_seen(tmp_path):
    (tmp_path / "appendonlydir").mkdir()
    log, rdb = tmp_path / "appendonlydir/appendonly.aof.1.incr.aof", tmp_path / "dump.rdb"
    log.touch()
    assert not moving.has_newer_rdb(str(tmp_path), "appendonlydir")
    rdb.touch()
    for later, is_newer in ((-10, False), (10, True)):
        os.utime(rdb, (log.stat().st_mtime + later,) * 2)
        assert moving.has_newer_rdb(str(tmp_path), "appendonlydir") is is_newer
    assert not moving.has_newer_rdb(str(tmp_path), "dump.rdb")
    (tmp_path / "appendonly.aof").touch()
    os.utime(tmp_path / "appendonly.aof", (1, 1))
    assert moving.has_newer_rdb(str(tmp_path), "appendonly.aof")
