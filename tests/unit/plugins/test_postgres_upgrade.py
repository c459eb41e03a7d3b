# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade of PostgreSQL decides: which data is which, what is refused, what differs, and what is put back after who was killed."""

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from ansible_collections.campaign.platform.plugins.action import postgres_upgrade as action
from ansible_collections.campaign.platform.plugins.module_utils import host, image_names, lock, postgres_upgrade, replaced, resume
from ansible_collections.campaign.platform.plugins.module_utils.backup import postgres, program
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError
from ansible_collections.campaign.platform.plugins.modules import postgres_upgrade as module

HOLDER = {"user": "ada", "controller": "desk", "machine": "m", "pid": 1, "run": "m-1-1", "commit": None}
CONFIG = {"project": "p", "memory": "1g", "cpus": "1.0", "lock_wait": 0, "health_timeout": 1, "socket": "/s", "new_image": "new"}
ROW = {"datname": "template1", "encoding": "UTF8", "datcollate": "C.UTF-8", "datctype": "C.UTF-8"}
MIB = 1024 * 1024


def cluster(root: Path, place: str, major: str) -> Path:
    path = root / place
    path.mkdir(parents=True, exist_ok=True)
    (path / "PG_VERSION").write_text(f"{major}\n")
    (path / "global").mkdir()
    # Each database of a cluster has a file of that name too.
    (path / "base/1").mkdir(parents=True)
    (path / "base/1/PG_VERSION").write_text(f"{major}\n")
    return path


# --- Which data


@pytest.mark.parametrize("place", [".", "data", "pgdata", "17/docker", "17/main", "data/pgdata"])
def test_data_is_found_wherever_it_lies_in_the_volume(tmp_path, place):
    cluster(tmp_path, place, "17")
    found = postgres.clusters_in(str(tmp_path))
    assert found == {place: "17"}
    assert postgres_upgrade.place_of(found, "17", "image", "volume") == place
    with pytest.raises(BackupError, match=f"no data of PostgreSQL 16, which the server image image has; it has: 17 in {place}"):
        postgres_upgrade.place_of(found, "16", "image", "volume")


@pytest.mark.parametrize(
    ("place", "declared", "mount"),
    [
        (".", {"/var/lib/postgresql/data": {}}, "/var/lib/postgresql/data"),
        # The collection's own images, whatever their version, and upstream's from 18 on.
        (".", {}, "/var/lib/postgresql"),
        (".", {"/var/lib/postgresql": {}}, "/var/lib/postgresql"),
        ("data", {"/var/lib/postgresql/data": {}}, "/var/lib/postgresql"),
        ("pgdata", {}, "/var/lib/postgresql"),
        ("17/docker", {}, "/var/lib/postgresql"),
    ],
)
def test_a_volume_is_mounted_where_its_image_takes_it(place, declared, mount):
    assert postgres_upgrade.mount_of(place, declared) == mount


def test_several_clusters_of_a_major_are_nobodys_guess():
    with pytest.raises(BackupError, match=r"several places with data of PostgreSQL 17.* Move the others out"):
        postgres_upgrade.place_of({"data": "17", "17/docker": "17"}, "17", "image", "volume")


def test_what_is_moved_is_the_cluster_and_nothing_else(tmp_path):
    cluster(tmp_path, "17/docker", "17")
    (tmp_path / "18").mkdir()
    assert postgres_upgrade.entries_of(str(tmp_path), "17/docker", "18") == ["17"]
    cluster(tmp_path, ".", "17")
    assert postgres_upgrade.entries_of(str(tmp_path), ".", "18") == ["17", "PG_VERSION", "base", "global"]


@pytest.mark.parametrize(("text", "major"), [("postgres (PostgreSQL) 17.6 (Debian 17.6-0+deb13u1)\n", "17"), ("postgres (PostgreSQL) 18beta1", "18")])
def test_the_major_is_what_the_server_says(text, major):
    assert postgres_upgrade.major_of(text) == major


def test_what_is_no_server_is_refused():
    with pytest.raises(BackupError, match="is none: busybox"):
        postgres_upgrade.major_of("busybox")


# --- A cluster like the old one


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**ROW}, ["--locale-provider=libc", "--lc-collate=C.UTF-8", "--encoding=UTF8"]),
        ({**ROW, "datlocprovider": "b", "datlocale": "C.UTF-8"}, ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]),
        # By the name that the column has in 15 and 16.
        ({**ROW, "datlocprovider": "i", "daticulocale": "de-DE"}, ["--locale-provider=icu", "--icu-locale=de-DE"]),
        ({**ROW, "datcollate": "de_DE@euro", "encoding": "LATIN1"}, ["--lc-collate=de_DE@euro", "--lc-ctype=C.UTF-8", "--encoding=LATIN1"]),
    ],
)
def test_encoding_and_locale_are_the_old_ones(row, words):
    assert set(words) <= set(postgres_upgrade.initdb_arguments(row).split())


@pytest.mark.parametrize("more", [{"datcollate": "C; rm"}, {"daticurules": "&a < b", "datlocprovider": "i", "daticulocale": "de"}])
def test_a_locale_that_cannot_be_handed_on_is_refused(more):
    with pytest.raises(BackupError, match="Nothing was changed"):
        postgres_upgrade.initdb_arguments({**ROW, **more})


def test_a_locale_that_the_new_image_lacks_is_told_whatever_its_spelling():
    rows = [{"datcollate": "en_US.UTF-8", "datctype": "C"}, {"datcollate": "de_DE.utf8", "datctype": "C.UTF-8"}]
    assert postgres_upgrade.missing_locales(rows, "C\nen_US.utf8\nPOSIX\n") == ["de_DE.utf8"]
    assert postgres_upgrade.missing_locales(rows, "en_US.utf8\nde_DE.UTF-8\n") == []


@pytest.mark.parametrize(("free", "refused"), [(200 * MIB, False), (200 * MIB - 1, True)])
def test_twice_the_cluster_has_to_be_free(free, refused):
    problem = postgres_upgrade.room_problem(100 * MIB, free, "/volume")
    assert bool(problem) is refused
    assert not refused or "199 MiB free, and 200 MiB are needed" in problem
    # Each removes its own.
    assert not refused or ("restore with -e backup_old_volumes=remove" in problem and "this playbook with -e upgrade_postgres_old_volumes=remove" in problem)


def test_the_size_is_what_is_on_the_disk(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 10000)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(10**9)
    assert 10000 <= host.size_of(str(tmp_path)) < 10**6


# --- What differs, and what is told


def test_what_differs_is_told_by_name():
    old = {"sequence public.a": [5, 1], "relation public.b": ["r", "ada"], "function f()": ["ada", "1"]}
    assert postgres_upgrade.compared(old, dict(old), "db") == []
    new = {"sequence public.a": [4, 1], "function f()": ["ada", "1"], "schema x": ["ada"]}
    assert postgres_upgrade.compared(old, new, "db") == [
        "db: the relation public.b is missing",
        "db: the schema x is surplus",
        "db: the sequence public.a is not as it was",
    ]
    assert postgres_upgrade.described(['["a", 1, null]', ""]) == {"a": [1, None]}


def test_a_role_that_is_not_taken_is_told_without_its_password():
    text = "SET x = 1;\nALTER ROLE ada WITH PASSWORD 'SCRAM-SHA-256$4096:secret';\n"
    told = postgres.failed_statement(text, "psql:<stdin>:2: ERROR:  22023")
    assert told == "`ALTER ROLE ada WITH ...` (SQLSTATE 22023)"
    assert "secret" not in postgres.failed_statement(text, "ERROR: secret")


# --- The lock


def test_the_old_server_gets_its_options(tmp_path):
    (tmp_path / "docker-entrypoint.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$PLACE"\n')
    (tmp_path / "docker-entrypoint.sh").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PLACE": str(tmp_path / "told")}
    command = ["sh", "-c", postgres_upgrade.BOUND, "sh", "-c", "shared_preload_libraries=one, two"]
    # At the end of its input the server would be ended.
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE) as process:
        assert process.wait(20) == 0
    assert (tmp_path / "told").read_text().splitlines() == ["postgres", "-c", "shared_preload_libraries=one, two"]


def test_nobody_but_its_own_run_works_on_a_stack_that_is_upgraded(tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / lock.UPGRADE).write_text(json.dumps({"run": "m-1-1"}))
    lock.Lock(str(tmp_path), HOLDER).acquire()
    lock.Lock(str(tmp_path), HOLDER).release()
    other = lock.Lock(str(tmp_path), {**HOLDER, "run": "m-2-2"})
    with pytest.raises(lock.UpgradeError, match=r"upgrade_postgres again.*revert=true"):
        other.acquire(takeover=True)
    other.acquire(repairs=True)
    other.release()
    # What nobody can read is nobody's.
    (tmp_path / lock.UPGRADE).write_text("{")
    with pytest.raises(lock.UpgradeError):
        lock.Lock(str(tmp_path), HOLDER).acquire()


# --- What is exchanged, with directories for volumes


class Engine(postgres_upgrade.Upgrades):
    """Upgrades of a stack whose volumes are directories of the test's own, and whose services are not there."""

    def __init__(self, directory: Path):
        self.volumes = directory / "volumes"
        self.kept: set[str] = set()
        self.started: list[str] = []
        super().__init__(str(directory), HOLDER, {**CONFIG})
        engine = self

        class Docker:
            def create_volume(self, name: str, *, throw_away: bool = True) -> str:
                (engine.volumes / name).mkdir(parents=True, exist_ok=True)
                engine.kept |= set() if throw_away else {name}
                return name

            def remove_volume(self, name: str) -> None:
                assert name not in engine.kept or not os.listdir(engine.volumes / name)
                engine.started += [] if name in engine.kept else ["removed"]
                shutil.rmtree(engine.volumes / name, ignore_errors=True)

            def sweep(self) -> None:
                pass

        self.docker = self.stack.docker = Docker()
        self.stack.stop = lambda: self.started.append("stopped")
        self.stack.start = lambda written: self.started.append(written["release"])

    def root(self, volume: str) -> str:
        path = self.volumes / volume
        assert path.is_dir(), volume
        return str(path)

    def server(self):
        service = postgres_upgrade.Service("postgres", "i", "999:999", {}, [], [], "", {"/var/lib/postgresql": "live"}, {})
        return {"release": host.link_target(self.directory, "current")}, service


def use(directory: Path, release: str, link: str = "current") -> None:
    (directory / "releases" / release).mkdir(parents=True, exist_ok=True)
    (directory / "releases" / release / "manifest.json").write_text("{}")
    (directory / link).unlink(missing_ok=True)
    (directory / link).symlink_to(f"releases/{release}")


@pytest.fixture
def engine(tmp_path):
    found = Engine(tmp_path)
    use(tmp_path, "old")
    found.docker.create_volume("live")
    cluster(tmp_path / "volumes/live", "17/docker", "17")
    return found


def begun(engine, *, published: bool, **more) -> dict:
    """Leave behind what a run that was killed leaves behind."""
    journal = {
        "id": "1", "run": HOLDER["run"], "at": "2026-11-26T00:00:00Z", "live": "live", "published": published,
        "from": {"release": "old", "major": "17", "entries": ["17"], "volume": "live-17-1"},
        "to": {"major": "18", "entries": ["18"], "volume": "live-18-1", **more},
    }  # fmt: skip
    engine._write(journal)
    return journal


def inside(engine) -> dict[str, list[str]]:
    return {path.name: sorted(os.listdir(path)) for path in sorted(engine.volumes.iterdir())}


def test_what_a_restore_and_what_an_upgrade_replaced_are_removed_apart(engine):
    """The way back from an upgrade is nobody's to remove who only tidies up after restores."""
    for name in ("upgraded", "tried", "restored"):
        engine.docker.create_volume(name, throw_away=False)
    engine._record("1", "upgraded", {"release": "old", "major": "17", "at": "then"})
    engine._record("1-tried", "tried", {})
    (Path(engine.directory) / "backup/replaced/2.json").write_text(json.dumps({"set": "s", "at": "then", "volumes": [{"live": "live", "new": "restored"}]}))
    engine.stack.remove_old()
    assert set(inside(engine)) == {"live", "upgraded", "tried"}
    assert [row["id"] for row in replaced.records(engine.directory)] == ["1"]
    told = " ".join(engine.lines)
    assert "restored is removed" in told
    assert (
        "upgraded is left. An upgrade of PostgreSQL replaced its data, and -e revert=true needs it. The playbook upgrade_postgres removes it, with -e up"
        in told
    )
    engine.docker.create_volume("restored", throw_away=False)
    (Path(engine.directory) / "backup/replaced/2.json").write_text(json.dumps({"set": "s", "at": "then", "volumes": [{"live": "live", "new": "restored"}]}))
    engine.lines.clear()
    assert engine.remove()
    assert set(inside(engine)) == {"live", "restored"}
    assert "restored is left. A restore replaced its data. The playbook restore removes it, with -e backup_old_volumes=remove" in " ".join(engine.lines)
    engine.lines.clear()
    assert not engine.remove()
    assert "nothing is to be removed" in " ".join(engine.lines)


def test_where_nothing_was_begun_nothing_is_done(engine):
    assert engine.settle() is None
    assert (engine.started, inside(engine)) == ([], {"live": ["17"]})


def test_a_deploy_that_an_upgrade_takes_back_is_not_cut_off_any_more(engine, tmp_path):
    use(tmp_path, "new", "attempted")
    begun(engine, published=True)
    cluster(engine.volumes / "live", "18/docker", "18")
    lock.Lock(engine.directory, HOLDER).record("started", release="new")
    assert resume.is_cut_off(engine.directory)
    engine.settle()
    last = lock.history(engine.directory)[-1]
    assert (last["event"], last["release"]) == ("withdrawn", "old")
    assert not resume.is_cut_off(engine.directory)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_before_another_release_is_in_use_the_old_one_comes_back(engine, published, moved):
    begun(engine, published=published)
    if published and moved:
        cluster(engine.volumes / "live", "18/docker", "18")
    assert engine.settle() == "upgrade withdrawn"
    assert inside(engine)["live"] == ["17"]
    # A volume that is half written may fill the disk, so it goes first.
    assert engine.started == ["stopped", *([] if published else ["removed"]), "old"]
    assert not os.path.exists(os.path.join(engine.directory, lock.UPGRADE))
    assert replaced.records(engine.directory) == []


def test_what_a_tried_release_wrote_is_kept(engine, tmp_path):
    begun(engine, published=True)
    cluster(engine.volumes / "live", "18/docker", "18")
    use(tmp_path, "new", "attempted")
    assert engine.settle() == "upgrade withdrawn"
    assert inside(engine) == {"live": ["17"], "live-18-tried-1": ["18"]}
    assert engine.kept == {"live-18-tried-1"}
    # It is no data to go back to.
    assert replaced.records(engine.directory) == []
    with pytest.raises(BackupError, match="There is no upgrade to go back from"):
        engine.revert("p")


def test_once_another_release_is_in_use_it_counts_and_there_is_a_way_back(engine, tmp_path):
    use(tmp_path, "older")
    use(tmp_path, "old")
    begun(engine, published=True)
    cluster(engine.volumes / "live", "18/docker", "18")
    use(tmp_path, "new")
    assert engine.settle() == "settled"
    assert inside(engine) == {"live": ["18"], "live-17-1": ["17"]}
    assert (engine.started, engine.kept) == ([], {"live-17-1"})
    (row,) = replaced.records(engine.directory)
    assert (row["release"], row["major"], row["volume"], row["live"]) == ("old", "17", "live-17-1", "live")
    for name in ("old", "older"):
        assert "has PostgreSQL 17, and the data is of 18" in (tmp_path / "releases" / name / replaced.UNUSABLE).read_text()
    assert not (tmp_path / "releases/new" / replaced.UNUSABLE).exists()


def test_the_way_back_is_the_same_way(engine, tmp_path):
    test_once_another_release_is_in_use_it_counts_and_there_is_a_way_back(engine, tmp_path)
    for confirmed in (None, "another"):
        with pytest.raises(BackupError, match=r"would be lost to the stack.*Nothing was changed.*upgrade_postgres_confirm=p"):
            engine.revert(confirmed)
    assert inside(engine) == {"live": ["18"], "live-17-1": ["17"]}
    assert engine.revert("p") == "old"
    assert inside(engine)["live"] == ["17", "18"]
    assert not (tmp_path / "releases/old" / replaced.UNUSABLE).exists()
    # The release from before does not come up: the present one stays, and the way back is still there.
    assert engine.settle() == "revert withdrawn"
    assert inside(engine) == {"live": ["18"], "live-17-1": ["17"]}
    assert (tmp_path / "releases/old" / replaced.UNUSABLE).exists()
    assert engine.started == ["stopped", "new"]
    # And now it does.
    engine.revert("p")
    use(tmp_path, "old")
    assert engine.settle() == "revert settled"
    volumes = inside(engine)
    assert volumes.pop("live") == ["17"]
    ((name, content),) = volumes.items()
    assert name.startswith("live-18-")
    assert content == ["18"]
    assert [(row["release"], row["volume"]) for row in replaced.records(engine.directory)] == [("new", name)]
    assert (tmp_path / "releases/new" / replaced.UNUSABLE).exists()
    assert not (tmp_path / "releases/older" / replaced.UNUSABLE).exists()


def test_a_drill_that_is_at_work_is_waited_for_by_what_ends_an_exchange(engine, monkeypatch):
    begun(engine, published=True)
    other = program.Backups(engine.directory, quiet=True, command="drill", config=engine.stack.config)
    with other.one_at_a_time():
        with pytest.raises(program.BusyError, match="is at work: `drill`"):
            engine.settle()
        assert engine.started == []
    engine.config["lock_wait"] = 60
    drill = contextlib.ExitStack()
    drill.enter_context(other.one_at_a_time())
    monkeypatch.setattr(program.time, "sleep", lambda _seconds: drill.close())
    assert engine.settle() == "upgrade withdrawn"
    assert engine.started == ["stopped", "old"]
    assert sum("is at work and is waited for" in line for line in engine.lines) == 1


def test_what_another_run_has_ended_meanwhile_is_not_ended_again(engine, monkeypatch):
    begun(engine, published=True)
    engine.config["lock_wait"] = 60
    drill = contextlib.ExitStack()
    drill.enter_context(program.Backups(engine.directory, quiet=True, command="drill", config=engine.stack.config).one_at_a_time())

    def end(_seconds):
        drill.close()
        Path(engine.directory, lock.UPGRADE).unlink(missing_ok=True)

    monkeypatch.setattr(program.time, "sleep", end)
    assert engine.settle() is None
    assert engine.started == []


def test_a_release_that_is_gone_is_not_gone_back_to(engine, tmp_path):
    test_once_another_release_is_in_use_it_counts_and_there_is_a_way_back(engine, tmp_path)
    (tmp_path / "releases/old/manifest.json").unlink()
    with pytest.raises(BackupError, match="is not on the host any more"):
        engine.revert("p")


def test_a_cluster_at_the_top_is_moved_whole_even_when_that_was_cut_off(engine, tmp_path):
    live = engine.volumes / "live"
    subprocess.run(["rm", "-rf", str(live / "17")], check=True)
    cluster(live, ".", "17")
    live.chmod(0o700)
    journal = begun(engine, published=True)
    journal["from"]["entries"] = ["PG_VERSION", "base", "global"]
    engine._write(journal)
    cluster(live, "18/docker", "18")
    use(tmp_path, "new")
    (engine.volumes / "live-17-1").mkdir()
    (live / "base").rename(engine.volumes / "live-17-1/base")
    assert engine.settle() == "settled"
    assert inside(engine) == {"live": ["18"], "live-17-1": ["PG_VERSION", "base", "global"]}
    assert (engine.volumes / "live-17-1").stat().st_mode & 0o777 == 0o700
    assert engine.revert("p") == "old"
    assert inside(engine)["live"] == ["18", "PG_VERSION", "base", "global"]


def test_a_journal_that_cannot_be_read_is_nobodys_guess(engine):
    Path(engine.directory, lock.UPGRADE).write_text('{"run": "x"}')
    with pytest.raises(BackupError, match="Look at the volume by hand"):
        engine.settle()


def test_what_a_way_back_needs_is_not_removed_in_its_middle(engine, tmp_path):
    test_once_another_release_is_in_use_it_counts_and_there_is_a_way_back(engine, tmp_path)
    engine.revert("p")
    with pytest.raises(BackupError, match=r"was cut off, and needs the volume.*Nothing was removed"):
        engine.remove()
    assert "live-17-1" in inside(engine)
    use(tmp_path, "old")
    assert engine.settle() == "revert settled"
    engine.kept.clear()
    assert engine.remove()
    assert inside(engine) == {"live": ["17"]}


@pytest.fixture
def majors(engine, monkeypatch):
    """Have images be servers of major versions, by name or id; return those."""
    found = {"sha256:17": "17", "i": "18", "new": "18"}
    monkeypatch.setattr(engine, "major", found.__getitem__)
    engine.docker.ask = lambda *_words: "null"
    return found


def ran(engine, identifier: str) -> None:
    Path(engine.directory, "current", image_names.DEPLOYED).write_text(json.dumps({"images": {"i": identifier}}))


@pytest.mark.usefixtures("majors")
def test_the_server_that_wrote_the_data_is_found_whatever_its_name_means_by_now(engine):
    ran(engine, "sha256:17")
    source = engine.sources(None)
    assert (source.old, source.new, source.service.image) == ("17", "18", "sha256:17")


@pytest.mark.usefixtures("majors")
def test_where_nobody_wrote_down_which_image_it_was_its_container_says(engine, monkeypatch):
    monkeypatch.setattr(engine.stack, "container", lambda _service: "c")
    engine.docker.ask = lambda *words: "sha256:17\n" if words[:2] == ("container", "inspect") else "null"
    assert engine.sources(None).service.image == "sha256:17"


def test_two_servers_of_one_name_are_not_told_apart(engine, majors):
    """The release of the inventory would be the one in use, so that nobody could say whether an upgrade of it has succeeded."""
    ran(engine, "sha256:17")
    engine.config["new_image"] = "i"
    for given in (None, "sha256:17"):
        with pytest.raises(BackupError, match=r"the same name for its own.*Nothing was changed\. Give the new image a name of its own"):
            engine.sources(given)
    majors["i"] = "17"
    with pytest.raises(postgres_upgrade.UpgradedError, match="has PostgreSQL 17 already"):
        engine.sources(None)


@pytest.mark.usefixtures("majors")
def test_why_it_failed_is_told_also_where_nothing_comes_up_after_it(engine, monkeypatch):
    def fail(*_given, **_options):
        raise BackupError("The disk is full.")

    def stay_down(_written):
        raise BackupError("postgres did not come up.")

    ran(engine, "sha256:17")
    monkeypatch.setattr(engine, "check_room", lambda *_given: None)
    monkeypatch.setattr(engine.stack, "locked", lambda: contextlib.nullcontext(MagicMock()))
    monkeypatch.setattr(engine, "copy", fail)
    engine.stack.start = stay_down
    with pytest.raises(BackupError, match=r"^The disk is full\. After that, what ran before did not come up again: postgres did not come up\.$"):
        engine.upgrade(None)
    # Who comes next ends it.
    assert postgres_upgrade.journal_of(engine.directory)


@pytest.mark.usefixtures("majors")
@pytest.mark.parametrize("begin", ["rehearse", "upgrade"])
def test_data_on_a_disk_of_its_own_is_refused_before_anything_is_stopped(engine, monkeypatch, begin):
    """Nothing is renamed between two file systems, so all would be copied in vain, each time."""
    ran(engine, "sha256:17")
    ask, live = os.stat, engine.root("live")
    monkeypatch.setattr(os, "stat", lambda path, **more: SimpleNamespace(st_dev=-1) if path == live else ask(path, **more))
    with pytest.raises(BackupError, match=r"^The volumes live and \S+ are on two file systems, so they cannot be exchanged\. Nothing was changed\.$"):
        getattr(engine, begin)(None)
    assert engine.started == []
    assert not postgres_upgrade.journal_of(engine.directory)


@pytest.mark.usefixtures("majors")
def test_room_is_asked_of_the_disk_that_is_written_to(engine, monkeypatch):
    ran(engine, "sha256:17")
    asked = []
    monkeypatch.setattr(os, "statvfs", lambda path: asked.append(path) or SimpleNamespace(f_bavail=0, f_frsize=1))
    monkeypatch.setattr(host, "size_of", lambda _path: MIB)
    with pytest.raises(BackupError, match="has 0 MiB free"):
        engine.upgrade(None)
    assert [os.path.basename(path) for path in asked] == [f"live-18-{engine.identifier}"]
    assert engine.started == []


@pytest.mark.parametrize(("major", "is_off"), [("16", False), ("17", True)])
def test_the_old_server_by_itself_fires_no_event_trigger(engine, monkeypatch, major, is_off):
    """One on login would move a sequence between its copy and the comparison. In a server that is in use, the sessions say so themselves."""
    started = []
    engine.docker.confined = list
    engine.docker.start = lambda *words, **_options: started.append(words) or MagicMock(wait=lambda *_seconds: 0)
    engine.docker.remove_container = lambda _name: None
    engine._await_start = lambda *_given: None
    monkeypatch.setattr(postgres_upgrade, "await_answer", lambda *_given: None)
    service = postgres_upgrade.Service("postgres", "i", "", {"POSTGRES_USER": "ada"}, [], [], "", {"/var/lib/postgresql": "live"}, {})
    source = postgres_upgrade._Source({}, service, "live", "/", "data", major, "18")
    with engine.old_server(source, is_alone=True):
        pass
    assert ("event_triggers=off" in started[0]) is is_off


def test_the_roles_of_the_old_server_are_dumped_without_an_event_trigger(engine):
    asked = []
    engine.docker.attempt = lambda *words, **_options: asked.append(words) or (1, "", "")
    with pytest.raises(BackupError, match="The roles cannot be dumped"):
        postgres_upgrade._Copying(engine, "old", "new", "ada", "d", ["d"], is_live=True)._roles()
    assert list(asked[0][1:7]) == postgres.client("old", "pg_dumpall")


def clusters(engine, monkeypatch, old: dict, new: dict) -> postgres_upgrade._Copying:
    """Return a copying between two servers that give answers to queries, compared already."""
    usual = {"_ROLES": [], "_RIGHTS": [], "_FILE_SETTINGS": ["{}"], "pg_hba.conf": [], "pg_ident.conf": []}
    queries = {**vars(postgres_upgrade), **postgres_upgrade._LINES}
    answers = {name: {queries[query]: lines for query, lines in {**usual, **given}.items()} for name, given in (("old", old), ("new", new))}

    def session(_docker, container, *_given):
        return contextlib.nullcontext(SimpleNamespace(version=150000, ask=lambda query: answers[container].get(query, ["1"])))

    monkeypatch.setattr(postgres, "session", session)
    copying = postgres_upgrade._Copying(engine, "old", "new", "ada", "d", ["d", "postgres"], is_live=False)
    copying._compare_clusters()
    return copying


HBA = {"type": "host", "database": ["all"], "user_name": ["all"], "address": "all", "netmask": None, "auth_method": "scram-sha-256", "options": None}
OWN = {**HBA, "database": ["replication"], "user_name": ["campaign_wal_login"], "address": "samenet"}
CLOSED = {**HBA, "auth_method": "reject"}
LDAP = {**HBA, "auth_method": "ldap", "options": ["ldapserver=directory"]}
BY_HAND = "Put it right by hand after the upgrade"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ([HBA], [HBA], None),
        ([HBA, OWN], [HBA], None),
        ([HBA], [HBA, OWN], None),
        ([CLOSED, LDAP, HBA], [HBA], (2, 0)),
        ([], [HBA], (0, 1)),
        ([LDAP], [HBA], (1, 1)),
    ],
)
def test_who_may_connect_is_compared_and_told(old, new, told):
    counted = told and f"Lines of the old one that are not brought: {told[0]}; lines that the old one has not: {told[1]}. {BY_HAND}"
    wanted = [f"pg_hba.conf, which says who may connect, is that of a new cluster. {counted}"] if counted else []
    assert postgres_upgrade.changed_lines(old, new, "pg_hba.conf") == wanted


def test_both_files_of_who_may_connect_are_compared(engine, monkeypatch):
    lines = {"pg_hba.conf": [json.dumps(LDAP)], "pg_ident.conf": [json.dumps({"map_name": "m", "sys_name": "ada", "pg_username": "ada"})]}
    found = clusters(engine, monkeypatch, lines, {})
    assert [line.split(",")[0] for line in found.findings if line.endswith(BY_HAND)] == ["pg_hba.conf", "pg_ident.conf"]
    assert found.problems == []


def test_a_right_on_a_database_that_is_lost_is_found(engine, monkeypatch):
    old = ['["database postgres", "ada", -1, ["monitor CONNECT f"]]', '["database meanwhile", "ada", -1, null]']
    new = ['["database postgres", "ada", -1, null]', f'["database {postgres_upgrade.SCRATCH}", "ada", -1, null]']
    assert clusters(engine, monkeypatch, {"_RIGHTS": old}, {"_RIGHTS": new}).problems == ["the cluster: the database postgres is not as it was"]
    assert clusters(engine, monkeypatch, {"_RIGHTS": old}, {"_RIGHTS": old[:1]}).problems == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("pg_restore: error: could not read from input file: end of file\n", "pg_dump failed for the database d with exit code 1"),
        (
            "pg_restore: error: could not execute query: ERROR: ...\nCommand was: CREATE INDEX i ON public.t USING btree (f(n));\n",
            r"does not take the database d.*ALTER FUNCTION",
        ),
    ],
)
def test_a_copy_that_fails_is_the_fault_of_the_end_that_failed_first(engine, monkeypatch, error, told):
    """The other end fails too then: a dump whose reader is gone, and a restore without the rest of its file."""

    def process(code: int, text: str) -> MagicMock:
        return MagicMock(wait=lambda *_seconds: code, error=lambda: text)

    monkeypatch.setattr(postgres, "dump", lambda *_given: process(1, "connection lost"))
    engine.docker.start = lambda *_words, **_options: process(1, error)
    copying = postgres_upgrade._Copying(engine, "old", "new", "ada", "d", ["d"], is_live=False)
    copying._check_extensions = lambda *_given: None
    with pytest.raises(BackupError, match=told):
        copying._database("d", SimpleNamespace(ask=lambda _query: ["1"]))


@pytest.mark.parametrize(("typed", "removed"), [({}, False), ({"upgrade_postgres_old_volumes": "remove"}, True)])
def test_old_data_is_removed_for_who_types_it_and_not_for_a_setting_that_stays(monkeypatch, typed, removed):
    monkeypatch.setattr(action, "load_extra_vars", lambda _loader: typed)
    monkeypatch.setattr(action.holder, "of_this_run", lambda _variables: HOLDER)
    task = MagicMock(args={"state": "removed"}, check_mode=False, async_val=0)
    plugin = action.ActionModule(task, MagicMock(), MagicMock(), MagicMock(), MagicMock(), None)
    plugin._execute_module = lambda **_given: {"changed": True}
    found = plugin.run(task_vars={"upgrade_postgres_old_volumes": "remove"})
    assert found.get("changed", False) is removed
    assert removed or "take it out of the inventory" in found["msg"]


def test_the_module_says_what_it_did(tmp_path, run_module):
    given = {"directory": str(tmp_path), "project": "p", "holder": HOLDER}
    found = run_module(module, **given, state="settled")
    assert (found["changed"], found["done"], found["lines"]) == (False, None, [])
    refused = run_module(module, **given, state="reverted")
    assert refused["failed"]
    assert "There is no upgrade to go back from" in refused["msg"]
    nowhere = str(tmp_path / "nowhere")
    refused = run_module(module, **{**given, "directory": nowhere}, state="settled")
    assert "There is no stack in" in refused["msg"]
    assert not os.path.exists(nowhere)
