# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock that a backup holds: waited for, given back, and not left to who was killed."""

import contextlib
import dataclasses
import fcntl
import functools
import io
import json
import os
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import host, lock
from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, moments, program, repository, state
from ansible_collections.campaign.platform.plugins.module_utils.backup import making as parts
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, DamagedSetError, Service, UnknownSetError
from ansible_collections.campaign.platform.plugins.module_utils.backup.repository import NoRepositoryError

NOTHING = copies.Servers(None, None, None)
CONFIG = {"project": "p", "image": "i", "repository": "/srv/backup", "socket": "/s", "memory": "1g", "cpus": "1.0", "lock_wait": 0, "keep": {}}


@pytest.fixture
def backups(tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup/config.json").write_text(json.dumps(CONFIG))
    return program.Backups(str(tmp_path), quiet=True)


def held(backups, **holder) -> None:
    row = {"user": "ada", "controller": "desk", "machine": "another", "pid": 1, "run": "another-1-1", "since": "now", **holder}
    with open(os.path.join(backups.directory, lock.LOCK), "w", encoding="utf-8") as file:
        json.dump(row, file)


def test_the_lock_is_held_and_given_back(backups):
    with backups.locked():
        found = lock.read(backups.directory)
        assert found["pid"] == os.getpid()
        # A deploy of this machine knows whether this process has ended.
        assert found["run"] == f"{host.machine()}-{os.getpid()}-{host.started(os.getpid())}"
        with pytest.raises(lock.LockedError, match="Another run works on this stack"):
            lock.Lock(backups.directory, {**found, "run": "a deploy"}).acquire()
    assert lock.read(backups.directory) is None
    with pytest.raises(RuntimeError), backups.locked():
        raise RuntimeError
    assert lock.read(backups.directory) is None


def test_a_deploy_is_waited_for_as_long_as_is_said(backups):
    held(backups)
    with pytest.raises(BackupError, match="Another run works on this stack: ada@desk"), backups.locked():
        pass
    with pytest.raises(BackupError) as told, backups.locked():
        pass
    assert "process 1, since now. It was waited for 0 s and still gives signs of life. Nothing was changed. Wait until it has ended, or" in str(told.value)
    assert "end it where it runs (desk, process 1), and run this again" in str(told.value)
    # That is for deploys.
    assert "takeover" not in str(told.value)
    os.utime(os.path.join(backups.directory, lock.LOCK), (time.time() - 40,) * 2)
    with pytest.raises(BackupError, match=r"gave its last sign of life 40 s ago\. Nothing was changed\. Run this again in 60 s"), backups.locked():
        pass
    held(backups)
    backups.config["lock_wait"] = 30
    subprocess.Popen(["sh", "-c", f"sleep 1; : > {backups.directory}/lock.json"])
    started = time.monotonic()
    with backups.locked():
        assert time.monotonic() - started < 10


def test_who_was_killed_on_this_machine_is_not_waited_for(backups):
    ended = subprocess.Popen(["true"])
    ended.wait()
    held(backups, machine=host.machine(), pid=ended.pid, run=f"{host.machine()}-{ended.pid}-1")
    with backups.locked():
        pass
    # One that works is.
    alive = os.getppid()
    held(backups, machine=host.machine(), pid=alive, run=f"{host.machine()}-{alive}-{host.started(alive)}")
    with pytest.raises(BackupError), backups.locked():
        pass


def test_a_first_base_backup_is_waited_for_and_told(backups, monkeypatch, capsys):
    """It takes as long as the cluster is large, and a restore that has written all of it by then would be lost."""
    backups.quiet = False
    monkeypatch.setattr(program, "WAITING_SECONDS", 0)
    given = []
    with open(os.path.join(backups.directory, "backup", program.SHIPPING), "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(program.ShippingError, match=r"for longer than 0.5 s, .* Nothing of the stack was changed"), backups.not_shipping(0.5):
            given.append("too early")
        assert capsys.readouterr().out.count("that is waited for") == 1
        threading.Timer(0.5, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with backups.not_shipping():
            given.append("in time")
    assert given == ["in time"]


def test_nothing_is_backed_up_in_the_middle_of_an_exchange(backups):
    with open(os.path.join(backups.directory, lock.SWAP), "w", encoding="utf-8") as file:
        file.write("{}")
    with pytest.raises(lock.MixedVolumesError), backups.locked():
        pass
    # And nothing is cleaned up, which would take the data for a leftover.
    backups.docker.sweep = None
    backups.clean()
    with backups.locked(repairs=True):
        pass


def test_two_of_a_stack_are_not_at_work_at_once(backups, monkeypatch):
    monkeypatch.setattr(program.Backups, "clean", lambda _self: None)
    backups.command = "drill"
    other = program.Backups(backups.directory, quiet=True, command="restore")
    who = (
        rf"of p is at work: `drill`, process {os.getpid()}, since 20\d\d-.*Z\. Nothing was changed\. Wait, or end it on the host, as root: `kill {os.getpid()}`"
    )
    with backups.alone(), pytest.raises(program.BusyError, match=who), other.alone():
        pass
    with other.alone(), pytest.raises(program.BusyError, match=r"`restore`, process .* An unfinished set is never used"), backups.alone():
        pass
    # One on schedule is a unit's.
    monkeypatch.setattr(program, "unit_of", lambda project: f"{project}-backup.service")
    with backups.alone(), pytest.raises(program.BusyError, match=r"as root: `systemctl stop p-backup\.service`, and run"), other.alone():
        pass
    # Of an earlier version, which says nothing.
    with backups.alone():
        open(os.path.join(backups.own, program.RUNNING), "w").close()
        with pytest.raises(program.BusyError, match="Nothing was changed"), other.alone():
            pass


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/p-backup.service\n", "p-backup.service"),
        ("3:cpu:/\n1:name=systemd:/system.slice/p-backup-drill.service\n", "p-backup-drill.service"),
        ("0::/system.slice/cron.service\n", None),
        ("0::/user.slice/session-1.scope\n", None),
    ],
)
def test_a_run_on_schedule_knows_its_unit(monkeypatch, text, unit):
    monkeypatch.setattr(program, "open", lambda *_given, **_options: io.StringIO(text), raising=False)
    assert program.unit_of("p") == unit


def test_the_sets_are_listed_while_others_work(backups, monkeypatch, capsys):
    cleaned, asked = [], []
    monkeypatch.setattr(program.Backups, "clean", lambda _self: cleaned.append(1))
    other = program.Backups(backups.directory, quiet=True)

    def attempt(_self, what, *arguments, **_options):
        asked.append((other.repository.arguments(), arguments))
        return 0, "[]" if what == "snapshots" else "", ""

    monkeypatch.setattr(repository.Repository, "attempt", attempt)
    monkeypatch.setattr(repository.Repository, "_look", lambda _self: (0, ""))
    monkeypatch.setattr(program.os.path, "isdir", lambda _path: True)
    with backups.one_at_a_time():
        assert other.list() == program.DONE
    assert "There is no set." in capsys.readouterr().out
    assert cleaned == []
    # Of these, restic locks nothing and removes nobody's lock.
    assert {arguments[0] for _options, arguments in asked} == {"snapshots"}
    assert all("--no-lock" in options for options, _arguments in asked)
    # Where nobody works, locks that were left behind are removed.
    asked.clear()
    other.repository.is_watching = False
    assert other.list() == program.DONE
    assert cleaned
    assert "list" in {word for _options, arguments in asked for word in arguments}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, (False, False)),
        ({"Status": "running", "Running": True, "ExitCode": 0, "Health": {"Status": "healthy"}}, (False, True)),
        ({"Status": "running", "Running": True, "ExitCode": 0, "Health": {"Status": "starting"}}, (False, False)),
        ({"Status": "running", "Running": True, "ExitCode": 0}, (False, True)),
        ({"Status": "exited", "Running": False, "ExitCode": 0}, (True, False)),
        ({"Status": "exited", "Running": False, "ExitCode": 1}, (None, False)),
    ],
)
def test_what_has_come_up_is_known(backups, state, expected):
    assert (backups._has_ended(state), backups._is_healthy(state)) == expected


def test_a_configuration_that_cannot_be_read_says_what_to_do(tmp_path):
    with pytest.raises(BackupError, match="Set backups up again with the playbook backup"):
        program.Backups(str(tmp_path))


class Place:
    """A repository that is not there."""

    place, begun = "/srv/backup", False

    def open(self, *, create: bool) -> None:
        if not create:
            raise NoRepositoryError("There is no repository at /srv/backup.")
        self.begun = True


def one_set(**more) -> SimpleNamespace:
    """Return a repository with a set of seven bytes, and damaged ones after it."""
    found = repository.Snapshot("1", "a", "t", "complete", 7)
    after = {found: ["b", "c"]}
    return SimpleNamespace(find=lambda _wanted: found, newest_until=lambda _seconds: found, damaged_after=after.get, sets=lambda: [found], **more)


@pytest.mark.parametrize("last", [None, {"set": "a"}, {"set": "a", "place": "/srv/another"}])
def test_a_repository_is_begun_where_none_has_been(backups, last):
    state.update(backups.directory, last_success=last)
    backups.repository = Place()
    backups._open_or_begin()
    assert backups.repository.begun


def test_a_mount_that_is_missing_is_not_taken_for_a_new_place(backups):
    """https://github.com/kiwix/operations/issues/405"""
    state.update(backups.directory, last_success={"set": "20261127T023000Z-ab12", "place": "/srv/backup"})
    backups.repository = Place()
    with pytest.raises(BackupError, match="any more, and the set 20261127T023000Z-ab12 was made there"):
        backups._open_or_begin()
    assert not backups.repository.begun


def test_what_does_not_fit_beside_itself_is_not_written_there(backups, monkeypatch):
    service = Service("postgres", "image", "", {}, [], [], "", {"/data": "volume"}, {})
    servers = copies.Servers(service, None, None)
    monkeypatch.setattr(program.swap, "path_of", lambda _docker, _volume: backups.directory)
    free = os.statvfs(backups.directory)
    monkeypatch.setattr(program.Backups, "_sizes", lambda _self, _servers: {"minio": free.f_bavail * free.f_frsize})
    with pytest.raises(BackupError, match=r"MiB left, and about \d+ MiB are needed"):
        backups._check_room(servers)
    monkeypatch.setattr(program.Backups, "_sizes", lambda _self, _servers: {"minio": 0})
    backups._check_room(servers)

    def nobody(_self, _servers):
        raise BackupError("postgres has 0 containers that run, and one is needed.")

    monkeypatch.setattr(program.Backups, "_sizes", nobody)
    backups._check_room(servers)


def test_the_logs_of_a_restore_have_to_fit_too(backups, monkeypatch):
    """The one that the throw-away server writes and, for a moment, the one that the moment is made from."""
    mib, asked, sizes = 1024**2, [], {"postgres": 10 * 1024**2, "minio": 5 * 1024**2}
    monkeypatch.setattr(program.Backups, "_sizes", lambda _self, _servers: sizes)
    monkeypatch.setattr(program.Backups, "_check_space", lambda _self, _servers, needed: asked.append(needed))
    backups._check_room(None)
    # That of a large one is bounded.
    sizes["postgres"] = 100 * 1024 * mib
    backups._check_room(None)
    del sizes["postgres"]
    piece = moments.Piece("s", "p", "l", "0000000100000000000000FE", "000000010000000100000001", 16 * mib, 0, is_sealed=True)
    way = moments.Way(dataclasses.replace(BASE, bytes=7 * mib), (piece, piece), 0)
    backups._check_room(None, way)
    assert asked == [(15 + 10 + 256) * mib, (5 + 103 * 1024) * mib, (7 + 2 * 4 * 16) * mib]
    asked.clear()
    # What was removed by mistake takes the room that it took.
    backups._check_room(None, size=80 * mib)
    backups._check_room(None, way, size=80 * mib)

    def fail(*_given):
        raise BackupError("postgres does not run")

    # Nobody can say then what is stored now.
    monkeypatch.setattr(program.Backups, "_sizes", fail)
    backups._check_room(None, size=80 * mib)
    backups._check_room(None)
    assert asked == [80 * mib, (80 + 2 * 4 * 16) * mib, 80 * mib]


@pytest.mark.parametrize("work", ["backup", "export"])
@pytest.mark.parametrize("redis", ["writes no log", "writes its log", "does not run"])
def test_before_anything_is_written_redis_is_looked_at(backups, monkeypatch, tmp_path_factory, work, redis):
    """What lies in its volume may be of long ago, or nothing, and would be called good."""

    def container(_self, _service):
        if redis == "does not run":
            raise BackupError("redis has 0 containers that run")
        return "c"

    def begun(*_given):
        raise BackupError("It has begun.")

    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "release": lambda _self: ({}, {}),
        "servers": lambda _self, _configuration: copies.Servers(None, Service("redis", "image", "", {}, [], [], "", {"/data": "v"}, {}), None),
        "container": container,
        "_open_or_begin": begun,
        "_sizes": begun,
        "_tell": lambda *_given: None,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    monkeypatch.setattr(program.redis.time, "sleep", lambda _seconds: None)
    seen = "5 -> anon_inode:[eventpoll]\n" + "6 -> /data/appendonlydir/appendonly.aof.1.incr.aof\n" * (redis == "writes its log")
    monkeypatch.setattr(program.Docker, "attempt", lambda *_given: (0, seen, ""))
    target = tmp_path_factory.mktemp("srv")
    with pytest.raises(BackupError, match="^Redis writes no append-only file" if redis == "writes no log" else r"^It has begun\.$"):
        backups.backup() if work == "backup" else backups.export(str(target / "export"), passwords=False)
    assert list(target.iterdir()) == []


def test_a_redis_that_was_only_starting_is_looked_at_when_the_others_are_there(backups, monkeypatch):
    looks = []
    instead = {
        "release": lambda _self: ({}, {}),
        "servers": lambda _self, _configuration: copies.Servers(None, Service("redis", "image", "", {}, [], [], "", {"/data": "v"}, {}), None),
        "container": failing("redis has 0 containers that run"),
        "_open_or_begin": lambda _self: None,
        "_await_servers": lambda _self, _servers: monkeypatch.setattr(program.Backups, "container", lambda _self, _service: "c"),
        "_make_room": lambda _self: None,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)

    def check_log(_docker, container):
        looks.append(container)
        raise program.redis.NoLogError("x")

    monkeypatch.setattr(program.redis, "check_log", check_log)
    backups.repository = SimpleNamespace(place="/srv/backup")
    with pytest.raises(program.redis.NoLogError):
        backups._make("a", {"started": "now"})
    assert looks == ["c"]


def test_an_export_needs_more_than_the_database_takes(backups, monkeypatch, tmp_path_factory):
    asked = []
    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "release": lambda _self: ({}, {}),
        "servers": lambda _self, _configuration: copies.Servers(Service("postgres", "image", "", {}, [], [], "", {}, {}), None, None),
        "_sizes": lambda _self, _servers: {"postgres": 100, "minio": 5},
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)

    def check_space(_place, needed):
        asked.append(needed)
        raise BackupError("there is no room")

    monkeypatch.setattr(program.plain, "check_space", check_space)
    with pytest.raises(BackupError, match="there is no room"):
        backups.export(str(tmp_path_factory.mktemp("srv") / "export"), passwords=False)
    assert asked == [205]


@pytest.mark.parametrize(
    ("work", "arguments"), [("drill", ("latest",)), ("restore", ("latest", "p")), ("drill_moment", ("latest",)), ("restore_moment", ("latest", "p"))]
)
def test_room_is_looked_for_before_a_set_is_read(backups, monkeypatch, work, arguments):
    def full(_self, _servers, _way=None, *, size=0):
        assert size == (0 if work == "drill_moment" else 7)
        raise BackupError("there is no room")

    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "_undo": lambda _self: None,
        "release": lambda _self: ({"release": "r"}, {}),
        "servers": lambda _self, _configuration: copies.Servers(
            Service("postgres", "image", "", {}, [], [], "", {}, {}), Service("redis", "image", "", {}, [], [], "", {}, {}), None
        ),
        "open": lambda _self, **_create: None,
        "_index": lambda _self: ([], []),
        "_bring": lambda _self, *given: given[5](None),
        "_check_room": full,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    monkeypatch.setattr(program.moments, "choose", lambda *_rows: (SimpleNamespace(until=0.0, base=SimpleNamespace(name="b", bytes=0)), None))
    monkeypatch.setattr(program.moments, "choice", lambda *_rows: "")
    backups.repository = one_set()
    with pytest.raises(BackupError, match="there is no room"):
        getattr(backups, work)(*arguments)


# --- A clock that was wrong once


@pytest.fixture
def making(backups, monkeypatch):
    """A stack whose backups make an empty set beside one of another time; what is told, drilled and kept is remembered."""
    backups.told, backups.drilled, backups.kept, backups.newest = [], [], [], "20991231T235959Z-ab12"
    found = {"missing": [], "moments": {"database": "2026-11-27T02:30:00Z"}, "bytes": 1}
    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "exclusively": lambda _self: contextlib.nullcontext(),
        "_make": lambda _self, _identifier, _about: dict(found),
        "_tell": lambda self, event, message: self.told.append((event, message)),
        "drill": lambda self, wanted: self.drilled.append(wanted) or program.DONE,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    backups.repository = SimpleNamespace(
        place="/srv/backup",
        all_snapshots=list,
        forget=lambda _policy, _also, made: backups.kept.append(made) or [],
        check=lambda: None,
        sets=lambda: [repository.Snapshot("1", backups.newest, "t", "verified"), repository.Snapshot("2", "20991231T235959Z-ff12", "t", "damaged")],
    )
    monkeypatch.setattr(program, "Backups", lambda *_given, **_options: backups)
    return backups


def test_after_a_backup_the_set_that_was_made_is_kept_and_drilled(making, capsys):
    assert program.main(["--directory", making.directory, "--quiet", "backup", "--drill"]) == program.DONE
    made = state.read(making.directory)["last_success"]["set"]
    assert made.startswith("20")
    assert (making.kept, making.drilled) == ([made], [made])
    # Another one counts as the latest, and that is told.
    assert [event for event, _message in making.told] == ["clock_wrong"]
    assert "The set 20991231T235959Z-ab12 counts as the latest one, and its time is" in capsys.readouterr().err
    assert state.read(making.directory)["newest_set"] == "20991231T235959Z-ab12"
    assert [row["name"] for row in state.findings(state.read(making.directory), making.config, time.time())] == ["backup late", "never restored", "clock wrong"]
    # A drill by itself has no other.
    making.made = None
    program.main(["--directory", making.directory, "drill"])
    assert making.drilled[1:] == ["latest"]


def test_a_clock_that_is_right_is_not_told(making):
    making.newest = "20201231T235959Z-ab12"
    assert making.backup() == program.DONE
    assert making.told == []


# --- Servers that are starting


EXITED, STARTING = {"Running": False}, {"Running": True, "Health": {"Status": "starting"}}
HEALTHY = {"Running": True, "Health": {"Status": "healthy"}}


@pytest.fixture
def starting(backups, monkeypatch):
    """A stack whose servers have the ``states`` one after the other, the last one for good; what is said is remembered, and how many seconds passed."""
    backups.config["health_timeout"] = 180
    backups.states, backups.said, backups.seconds = [], [], 0

    def sleep(seconds):
        backups.seconds += seconds

    def states(_self):
        found = backups.states.pop(0) if len(backups.states) > 1 else backups.states[0]
        if isinstance(found, BackupError):
            raise found
        return found

    def container(_self, service):
        if not backups.states[0].get(service.name, EXITED)["Running"]:
            raise BackupError(f"{service.name} has 0 containers that run")
        return "id"

    instead = {
        "release": lambda _self: ({"release": "r"}, {}),
        "servers": lambda _self, _configuration: copies.Servers(*(Service(name, "i", "", {}, [], [], "", {}, {}) for name in ("postgres", "redis", "minio"))),
        "_open_or_begin": lambda _self: None,
        "_make_room": lambda _self: None,
        "_states": states,
        "container": container,
        "say": lambda self, text: self.said.append(text),
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    monkeypatch.setattr(program, "time", SimpleNamespace(monotonic=lambda: backups.seconds, sleep=sleep))

    def write(_identifier):
        raise BackupError("it is being written")

    backups.repository = SimpleNamespace(place="/srv/backup", write=write)
    return backups


def test_a_backup_waits_for_servers_that_are_starting(starting):
    """As after a start of the machine, when a backup that was missed is made at once."""
    starting.states = [
        {"postgres": EXITED, "minio": EXITED, "redis": EXITED},
        # A container was replaced while it was looked at.
        BackupError("No such container"),
        {"postgres": STARTING, "minio": HEALTHY, "redis": EXITED},
        {"postgres": HEALTHY, "minio": HEALTHY, "redis": EXITED},
    ]
    with pytest.raises(BackupError, match="it is being written"):
        starting._make("a", {"started": "now"})
    assert starting.seconds == 3
    assert [text for text in starting.said if "waiting" in text] == ["waiting for postgres and minio to become healthy, 60 s at most"]
    # One that is ready is not waited for.
    with pytest.raises(BackupError, match="it is being written"):
        starting._make("a", {"started": "now"})
    assert starting.seconds == 3


@pytest.mark.parametrize(
    ("state", "seconds", "told"),
    [
        # A stack that was stopped on purpose.
        (EXITED, 60, "postgres has 0 containers that run"),
        # What is wrong with it is told by what asks it.
        (STARTING, 180, "it is being written"),
    ],
)
def test_a_server_that_does_not_come_is_not_waited_for_for_ever(starting, state, seconds, told):
    starting.states = [{"postgres": state, "minio": HEALTHY}]
    with pytest.raises(BackupError, match=told):
        starting._make("a", {"started": "now"})
    assert starting.seconds == seconds


# --- What restic finds in the repository


@pytest.mark.parametrize("fails", ["check", "_base"])
def test_what_fails_after_a_set_is_stored_is_told_and_takes_no_set_away(making, monkeypatch, fails):
    """What restic finds may be of an older set only, and a moment is no part of a set: a new set that waited for either might never count."""
    steps = []

    def fail(*_given):
        steps.append(fails)
        raise BackupError("the check finds something")

    def make(self, identifier, _about):
        self.mark(identifier, "complete")
        return {"missing": [], "moments": {"database": "2026-11-27T02:30:00Z"}, "bytes": 1}

    monkeypatch.setattr(type(making), "_make", make)
    making.repository.mark = lambda _identifier, word: steps.append(word)
    if fails == "check":
        making.repository.check = fail
    else:
        making.config["point_in_time"] = True
        monkeypatch.setattr(type(making), "_base", fail)
    with pytest.raises(BackupError, match="the check finds something"):
        making.backup()
    assert steps == ["complete", fails]
    found = state.read(making.directory)
    assert (found["last_run"]["result"], found["last_success"]["set"]) == ("failed", found["last_run"]["set"])
    assert making.told[-1] == ("failed", "the check finds something")


# --- What a drill finds


@pytest.mark.parametrize("finds", ["an end before the end", "a row that is wrong"])
@pytest.mark.parametrize("is_marked", [True, False])
def test_what_a_drill_has_found_is_told_also_where_the_set_cannot_be_marked(backups, monkeypatch, finds, is_marked):
    marked, told = [], []

    def mark(_identifier, word):
        if not is_marked:
            raise BackupError("The repository is locked.")
        marked.append(word)

    def load(_self, _repository, _snapshot):
        if finds == "an end before the end":
            raise program.DamagedSetError(f"There is {finds}.")
        return {"missing": ["b/0"], "missing_count": 5000}, [f"There is {finds}."]

    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "release": lambda _self: ({"release": "r"}, {}),
        "servers": lambda _self, _configuration: copies.Servers(None, None, None),
        "open": lambda _self, **_create: None,
        "_check_room": lambda *_given, **_size: None,
        "_tell": lambda _self, event, message: told.append((event, message)),
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    monkeypatch.setattr(copies.Copy, "load", load)
    backups.repository = one_set(mark=mark)
    more = "" if is_marked else r" The set could not be marked as damaged, and may be taken for a good one: The repository is locked\."
    with pytest.raises(BackupError, match=rf"There is {finds}\.{more}$"):
        backups.drill("latest")
    assert marked == (["damaged"] if is_marked else [])
    found = state.read(backups.directory)["last_drill"]
    assert f"There is {finds}." in found["error"]
    assert told == [("drill_failed", found["error"])]


REMARK = "The lifecycle of the bucket b was not brought back, because MinIO refuses it: InvalidStorageClass (HTTP 400)."


@pytest.mark.parametrize("problems", [[], ["b: k is missing"]])
def test_a_setting_that_was_refused_is_a_remark_of_a_drill_and_no_damage(backups, monkeypatch, capsys, problems):
    marked = []

    def load(self, _repository, _snapshot):
        self.refused["b", "lifecycle"] = REMARK
        return {"missing": []}, list(problems)

    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "release": lambda _self: ({"release": "r"}, {}),
        "open": lambda _self, **_create: None,
        "_tell": lambda *_given: None,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    monkeypatch.setattr(copies.Copy, "load", load)
    backups.repository = one_set(mark=lambda _identifier, word: marked.append(word))
    with pytest.raises(BackupError, match=r"^1 things .*: b: k is missing$") if problems else contextlib.nullcontext():
        backups.drill("latest")
    assert marked == (["damaged"] if problems else ["verified"])
    found = state.read(backups.directory)["last_drill"]
    assert (found["result"], found["problems"], found["remarks"]) == ("failed" if problems else "ok", problems, [REMARK])
    # On schedule, nothing is said but what is wrong.
    assert capsys.readouterr().out == f"{REMARK}\n"


@pytest.mark.parametrize("is_moment", [False, True])
def test_a_setting_that_was_refused_is_told_at_the_end_of_a_restore(recovering, monkeypatch, capsys, is_moment):
    def load(self, *_given):
        self.refused["b", "lifecycle"] = REMARK
        return {"databases": {}, "parts": []}, []

    monkeypatch.setattr(copies.Copy, "load", load)
    monkeypatch.setattr(program.Backups, "_undo", lambda _self: None)
    monkeypatch.setattr(program.Backups, "_exchange", lambda *_given: print("exchanged"))

    def bring(copy):
        return recovering._load_moment(copy, [BASE], PIECES, "latest", NOTHING, SimpleNamespace(set="a")) if is_moment else copy.load(None, None)

    assert recovering._bring("The set a", "a", NOTHING, {"release": "r"}, "p", bring, {}) == program.DONE
    assert capsys.readouterr().out.splitlines()[-2:] == ["exchanged", REMARK]


def test_a_set_of_a_stack_that_misses_objects_is_drilled_like_any_other(backups, monkeypatch, capsys):
    """It came back as it is, the moment is tried too, and what is missing stays told."""
    marked, tried = [], []
    monkeypatch.setattr(program.Backups, "alone", lambda _self: contextlib.nullcontext())
    monkeypatch.setattr(program.Backups, "release", lambda _self: ({"release": "r"}, {}))
    monkeypatch.setattr(program.Backups, "open", lambda _self, **_create: None)
    monkeypatch.setattr(program.Backups, "drill_moment", lambda _self, wanted: tried.append(wanted) or program.DONE)
    monkeypatch.setattr(copies.Copy, "load", lambda *_given: ({"missing": ["b/0", "b/1"], "missing_count": 5000}, []))
    backups.repository = one_set(mark=lambda _identifier, word: marked.append(word), unlock=lambda *_workers: None)
    backups.config["point_in_time"] = True
    assert backups.drill_newest() == program.MISSING
    assert (marked, tried) == (["verified"], ["latest"])
    assert capsys.readouterr().err == "5000 objects that its database names were not in the bucket, such as b/0.\n"
    found = state.read(backups.directory)
    assert (found["last_drill"]["result"], found["last_good_drill"]["set"]) == ("ok", "a")


# --- Objects that are missing


def test_all_objects_that_are_missing_are_counted_and_some_are_named(making, monkeypatch, capsys):
    monkeypatch.setattr(parts.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(parts.Making, "_missing", lambda *_given: [f"b/{number}" for number in range(5000)])
    made = object.__new__(parts.Making)
    made.backups, made.servers, made.writer = SimpleNamespace(docker=None, say=lambda _text: None), copies.Servers(None, None, None), None
    found = {"moments": {"database": "2026-11-27T02:30:00Z"}, "bytes": 1}
    made._in_one_moment(found, SimpleNamespace(copy=lambda *_given: 0), object())
    assert (len(found["missing"]), found["missing_count"]) == (100, 5000)

    monkeypatch.setattr(type(making), "_make", lambda _self, _identifier, _about: dict(found))
    assert making.backup() == program.MISSING
    told = "5000 objects that the database names are not in the bucket, such as b/0."
    assert capsys.readouterr().err.splitlines()[-1] == told
    assert state.read(making.directory)["last_run"]["error"] == told
    assert ("missing", told) in making.told
    # Of a set of an earlier version.
    assert parts.missing({"missing": ["b/0"]}) == 1


# --- A piece of the log that cannot be used


SEGMENT = 16 * 1024**2
BASE = moments.Base("base", "b", "a", f"{1:08X}{0:08X}{10:08X}", SEGMENT, 100.0)


def open_piece(name: str, until: float) -> moments.Piece:
    return moments.Piece(f"s-{name}", name, "a", BASE.first, BASE.first, SEGMENT, until, is_sealed=False)


@pytest.fixture
def recovering(backups, monkeypatch):
    """A log with two open pieces, of which those in ``wrong`` cannot be used; the pieces that were taken, and the moment, are remembered."""
    backups.wrong, backups.taken, backups.bases, backups.looks = {}, [], [], 0

    class Recovery:
        def __init__(self, _copy, _repository, way, moment):
            self.way, self.moment = way, moment

        def run(self, _look):
            for part in (*self.way.pieces, self.way.base):
                if part.name in backups.wrong:
                    raise backups.wrong[part.name](part.snapshot, f"{part.name} is wrong.")
            backups.bases.append(self.way.base.name)
            backups.taken.append((self.way.pieces[-1].name, self.moment))
            return {"d": {"tables": {}}}

    def look():
        backups.looks += 1

    monkeypatch.setattr(program.wal, "Recovery", Recovery)
    backups.repository = SimpleNamespace(look=look)
    return backups


PIECES = [open_piece("p1", 290.0), open_piece("p2", 300.0)]
SINCE_1970 = "1970-01-01T00:0{}Z"


@pytest.mark.parametrize("error", [program.wal.DamagedPieceError, program.wal.UnreadPieceError])
def test_no_earlier_moment_is_brought_back_than_the_one_that_was_announced(recovering, error):
    recovering.wrong = {"p2": error}
    others = copies.Servers(None, None, None)
    with pytest.raises(BackupError, match=r"p2 is wrong\. Nothing else leads to 1970-01-01T00:05:00Z\. Nothing was changed.*1970-01-01T00:04:50Z: ask for one"):
        recovering._load_moment(None, [BASE], PIECES, "latest", others, None)
    assert recovering.taken == []
    # One before is reached by another way.
    found = {"databases": {"d": {"tables": {}}}, "parts": ["postgres"]}
    assert recovering._load_moment(None, [BASE], PIECES, SINCE_1970.format("4:50"), others, None) == (found, [])
    assert recovering.taken[0][0] == "p1"
    # What restic failed at is told, and not that there would be such a moment.
    with pytest.raises(BackupError, match=r"^p2 is wrong\. Nothing else leads to 1970-01-01T00:04:55Z"):
        recovering._load_moment(None, [BASE], PIECES, SINCE_1970.format("4:55"), others, None)


def test_an_earlier_base_backup_leads_to_the_same_moment_where_one_is_damaged(recovering):
    later = dataclasses.replace(BASE, snapshot="later", name="later", end=200.0)
    others = copies.Servers(None, None, None)
    for wanted in ("latest", SINCE_1970.format("4:50")):
        recovering._load_moment(None, [BASE, later], PIECES, wanted, others, None)
        recovering.wrong = {"later": program.wal.BaseError}
        recovering._load_moment(None, [BASE, later], PIECES, wanted, others, None)
        recovering.wrong = {}
    assert recovering.bases == ["later", "b"] * 2
    assert recovering.looks == 2
    recovering.wrong = {"later": program.wal.BaseError, "b": program.wal.BaseError}
    with pytest.raises(BackupError, match=r"^b is wrong\. Nothing else leads to 1970-01-01T00:05:00Z.* there is no moment of this log\.$"):
        recovering._load_moment(None, [BASE, later], PIECES, "latest", others, None)


def test_no_other_way_is_looked_for_in_a_repository_that_is_away(recovering):
    recovering.wrong = {"p2": program.wal.UnreadPieceError}

    def away():
        raise BackupError("The repository cannot be used.")

    recovering.repository.look = away
    with pytest.raises(BackupError, match=r"^The repository cannot be used\.$"):
        recovering._load_moment(None, [BASE], PIECES, SINCE_1970.format("4:50"), copies.Servers(None, None, None), None)
    recovering.wrong = {"p2": program.wal.DamagedPieceError}
    recovering._load_moment(None, [BASE], PIECES, SINCE_1970.format("4:50"), copies.Servers(None, None, None), None)
    assert [name for name, _moment in recovering.taken] == ["p1"]


def test_no_set_of_another_version_is_marked_as_damaged_for_a_moment(recovering, monkeypatch):
    def load(*_given):
        raise UnknownSetError("The set has the schema 9.")

    monkeypatch.setattr(copies.Copy, "load", load)
    copy = copies.Copy(None, NOTHING, {}, "", {}, lambda _text: None)
    with pytest.raises(UnknownSetError, match=r"^The set has the schema 9\.$"):
        recovering._load_moment(copy, [BASE], PIECES, "latest", NOTHING, repository.Snapshot("1", "a", "t", "complete"))


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_a_moment_whose_set_is_damaged_says_how_an_older_one_is_taken(recovering, monkeypatch, is_cut_off):
    def load(*_given):
        if is_cut_off:
            raise DamagedSetError("The set is damaged.")
        return {"parts": []}, [f"problem {number}" for number in range(9)]

    monkeypatch.setattr(copies.Copy, "load", load)
    copy = copies.Copy(None, NOTHING, {}, "", {}, lambda _text: None)
    given = (copy, [BASE], PIECES, "latest", NOTHING, repository.Snapshot("1", "a", "t", "complete"))
    told = rf"A drill marks it, and then an older one is taken: {recovering.directory}/backup/run drill --set a"
    if is_cut_off:
        with pytest.raises(BackupError, match=rf"^The set is damaged\. {told}$"):
            recovering._load_moment(*given)
    else:
        _found, problems = recovering._load_moment(*given)
        # As many as a restore says.
        assert problems[4] == told


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "There is no whole set of p in /srv: the database alone can be brought back.\n"),
        (repository.Snapshot("1", "20261128T000000Z-a", "t", "complete"), "Every whole set is younger than that moment"),
        (repository.Snapshot("1", "19691128T000000Z-a", "t", "complete"), "What came into redis after that set was made is not in it."),
    ],
)
def test_a_moment_says_what_is_known_of_the_rest(drilling, monkeypatch, capsys, found, said):
    servers = drilling.servers({})
    redis = Service("redis", "i", "", {}, [], [], "", {"/data": "r"}, {})
    monkeypatch.setattr(program.Backups, "servers", lambda _self, _configuration: dataclasses.replace(servers, redis=redis))
    drilling.repository.newest_until, drilling.repository.place = lambda _seconds: found, "/srv"
    assert drilling.restore_moment("latest", None) == program.NOT_CONFIRMED
    assert said in capsys.readouterr().out


@pytest.fixture
def drilling(recovering, monkeypatch):
    """The same log, for a drill; what the hook is told is remembered."""
    recovering.told = []
    postgres = Service("postgres", "image", "", {}, [], [], "", {"/data": "volume"}, {})
    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "release": lambda _self: ({"release": "r"}, {}),
        "servers": lambda _self, _configuration: copies.Servers(postgres, None, None),
        "open": lambda _self, **_create: None,
        "_index": lambda _self: ([BASE], PIECES),
        "_check_room": lambda *_given, **_size: None,
        "_tell": lambda self, event, message: self.told.append((event, message)),
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    monkeypatch.setattr(program.Docker, "create_volume", lambda _self, name: name)
    return recovering


def test_a_drill_takes_another_way_around_a_piece_of_a_shipping_that_was_killed(drilling):
    drilling.wrong = {"p2": program.wal.DamagedPieceError}
    for wanted in ("latest", SINCE_1970.format("4:50")):
        assert drilling.drill_moment(wanted) == program.DONE
        # The moment that was tried, and no other one.
        tried = state.read(drilling.directory)["last_moment_drill"]
        assert (tried["moment"], tried["result"]) == ("1970-01-01T00:04:50Z", "ok")
    assert [name for name, _moment in drilling.taken] == ["p1", "p1"]
    assert drilling.told == []


def test_a_drill_tells_of_a_base_backup_that_is_damaged(drilling, monkeypatch):
    monkeypatch.setattr(program.Backups, "_index", lambda _self: ([BASE, dataclasses.replace(BASE, snapshot="later", name="later", end=200.0)], PIECES))
    drilling.wrong = {"later": program.wal.BaseError}
    with pytest.raises(BackupError, match=r"^later is wrong\.$"):
        drilling.drill_moment("latest")
    assert (drilling.told, drilling.bases) == ([("drill_failed", "later is wrong.")], [])


def test_a_drill_hides_nothing_that_restic_failed_at(drilling):
    drilling.wrong = {"p2": program.wal.UnreadPieceError}
    with pytest.raises(BackupError, match=r"^p2 is wrong\.$"):
        drilling.drill_moment("latest")
    assert drilling.told == [("drill_failed", "p2 is wrong.")]
    assert drilling.taken == []
    # Nor a moment that nothing leads to any more.
    drilling.wrong = {"p2": program.wal.DamagedPieceError}
    with pytest.raises(BackupError, match=r"^p2 is wrong\. Nothing else leads to 1970-01-01T00:04:55Z"):
        drilling.drill_moment(SINCE_1970.format("4:55"))
    assert state.read(drilling.directory)["last_moment_drill"]["result"] == "failed"


def test_another_repository_is_read_with_a_configuration_of_its_own(backups):
    """Nothing of what is found there is taken for the stack's own."""
    other = os.path.join(backups.own, state.OTHER)
    os.mkdir(other)
    with open(os.path.join(other, state.CONFIG), "w", encoding="utf-8") as file:
        json.dump({**CONFIG, "repository": "/srv/copy"}, file)
    reading = program.Backups(backups.directory, quiet=True, is_other=True)
    assert (reading.repository.place, reading.repository.directory, reading.own) == ("/srv/copy", other, backups.own)
    reading._write_down(last_drill={"result": "failed"}, last_restore={"set": "a"})
    found = state.read(backups.directory)
    assert (found["last_drill"], found["last_restore"]) == (None, {"set": "a"})
    # One at a time all the same.
    with backups.one_at_a_time(), pytest.raises(program.BusyError), reading.one_at_a_time():
        pass
    assert backups.repository.place == "/srv/backup"


# --- What follows a set


@pytest.fixture
def nightly(backups, monkeypatch):
    """A backup on schedule whose set is whole, and which says what it does afterwards."""
    backups.steps = []
    backups.config["point_in_time"] = True
    made = {"missing": [], "moments": {"database": "then"}, "bytes": 1}
    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "_make": lambda _self, _identifier, _about: made,
        "_tell": lambda self, event, _message: self.steps.append(event),
        "_base": lambda self: self.steps.append("base"),
        "_keep": lambda self, _made: self.steps.append("keep"),
        "drill_newest": lambda self: self.steps.append("drill") or program.DONE,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    backups.repository = Place()
    return backups


def failing(text: str):
    def fail(_self, *_given):
        raise BackupError(text)

    return fail


def test_a_base_backup_that_fails_stops_neither_retention_nor_the_drill(nightly, monkeypatch, capsys):
    monkeypatch.setattr(program.Backups, "_base", failing("no base"))
    assert nightly.backup_and_drill() == program.FAILED
    assert nightly.steps == ["keep", "failed", "drill"]
    assert "no base" in capsys.readouterr().err
    assert state.read(nightly.directory)["last_run"]["error"] == "no base"
    monkeypatch.setattr(program.Backups, "_keep", failing("no room"))
    with pytest.raises(BackupError, match=r"^no base no room$"):
        nightly.backup()


def test_a_set_that_was_not_made_is_not_tried(nightly, monkeypatch):
    assert nightly.backup_and_drill() == program.DONE
    assert nightly.steps == ["base", "keep", "drill"]
    nightly.steps.clear()
    nightly.made = None
    monkeypatch.setattr(program.Backups, "_make", failing("no set"))
    with pytest.raises(BackupError, match="no set"):
        nightly.backup_and_drill()
    assert nightly.steps == ["failed"]


@pytest.mark.parametrize("room", ["is made", "cannot be made", "is out of reach"])
def test_what_is_not_to_be_kept_goes_also_where_no_set_was_made(backups, monkeypatch, capsys, room):
    """A repository that is full would stay full, and no later set would fit."""
    steps = []

    def write(_identifier):
        steps.append("write")
        raise BackupError("no space left on device")

    def forget(policy, also, made):
        steps.append((policy, also, made))
        if room != "is made":
            raise BackupError("The repository is locked.")
        return []

    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "release": lambda _self: ({"release": "r"}, {}),
        "servers": lambda _self, _configuration: copies.Servers(Service("postgres", "image", "", {}, [], [], "", {}, {}), None, None),
        "_open_or_begin": lambda _self: None,
        "_await_servers": lambda _self, _servers: None,
        "_tell": lambda _self, _event, message: steps.append(message),
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)

    def look():
        if room == "is out of reach":
            raise BackupError("The repository is locked.")

    unlock = functools.partial(steps.append, "unlock")
    backups.repository = SimpleNamespace(place="/srv/backup", write=write, look=look, unlock=unlock, forget=forget, all_snapshots=list)
    with pytest.raises(BackupError, match=r"^no space left on device$"):
        backups.backup()
    tried = ["unlock", (backups.config["keep"], [], None)] if room != "is out of reach" else []
    assert steps == ["write", *tried, "no space left on device"]
    assert ("was not removed either: The repository is locked." in capsys.readouterr().err) is (room != "is made")


# --- A restore after one that was cut off


@pytest.fixture
def cut_off(backups, monkeypatch):
    """A stack whose last restore was cut off in its exchange; what is stopped is remembered."""
    with open(os.path.join(backups.directory, lock.SWAP), "w", encoding="utf-8") as file:
        file.write('{"volumes": []}')
    backups.stopped = []
    redis = Service("redis", "image", "", {}, [], [], "", {"/data": "volume"}, {})
    instead = {
        "stop": lambda self: self.stopped.append("all"),
        "release": lambda _self: ({"release": "r"}, {}),
        "servers": lambda _self, _configuration: copies.Servers(None, redis, None),
        "open": lambda _self, **_create: None,
        "_check_space": lambda _self, _servers, _needed: None,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    for name in ("sweep", "create_volume", "remove_volume"):
        monkeypatch.setattr(program.Docker, name, lambda _self, *_given, **_options: "")
    backups.repository = one_set()
    return backups


def is_cut_off(backups) -> bool:
    return os.path.exists(os.path.join(backups.directory, lock.SWAP))


def test_a_restore_that_nobody_confirms_leaves_one_that_was_cut_off_alone(cut_off, capsys):
    assert cut_off.restore("latest", None) == program.NOT_CONFIRMED
    told = capsys.readouterr().out
    assert "A restore was cut off while it exchanged the volumes, so they may not belong together, and perhaps no service runs. Put the old ones back" in told
    assert f"`{cut_off.directory}/backup/run undo` on the host, as root, and deploy, which starts the services; or restore again with its confirm" in told
    assert "Nothing was changed" in told
    # Before it is confirmed, so that nobody takes an old set for the last one.
    assert told.startswith("2 newer sets are damaged and are not used, of which c is the last: ")
    assert is_cut_off(cut_off)
    assert cut_off.stopped == []
    cut_off.restore("a", None)
    assert "newer sets" not in capsys.readouterr().out


def test_a_set_that_is_refused_leaves_one_that_was_cut_off_alone(cut_off):
    def find(_wanted):
        raise BackupError("There is no set b.")

    cut_off.repository.find = find
    with pytest.raises(BackupError, match=r"There is no set b\. A restore was cut off while .*backup/run undo"):
        cut_off.restore("b", "p")
    assert is_cut_off(cut_off)
    assert cut_off.stopped == []


def test_what_is_refused_after_the_old_data_was_put_back_says_that_nothing_runs(cut_off, monkeypatch):
    def full(_self, _servers, **_size):
        raise BackupError("There is no room.")

    monkeypatch.setattr(program.Backups, "_check_room", full)
    with pytest.raises(BackupError, match=r"There is no room\. The data from before .* is in its place again, and no service runs: deploy"):
        cut_off.restore("a", "p")
    assert not is_cut_off(cut_off)
    assert cut_off.stopped == ["all"]
    # Where none was cut off, nothing is said of it.
    cut_off.is_down = False
    with pytest.raises(BackupError, match=r"There is no room\.$"):
        cut_off.restore("a", "p")


def test_no_restore_puts_anything_back_before_it_is_confirmed(cut_off, monkeypatch):
    seen = []
    monkeypatch.setattr(program.Backups, "_bring", lambda self, *given: seen.append((given[4], is_cut_off(self))) or program.NOT_CONFIRMED)
    monkeypatch.setattr(program.plain, "manifest_of", lambda _directory: {"parts": ["redis"], "project": "o", "moments": {"ended": "then"}})
    monkeypatch.setattr(program.moving, "names_of", lambda *_given: {"redis": "other"})
    monkeypatch.setattr(program.moving, "check", lambda *_given: {})
    monkeypatch.setattr(program.moving, "look", lambda *_given: None)
    cut_off.take_export(cut_off.directory, None)
    cut_off.move_in("other", {}, None)
    postgres = Service("postgres", "image", "", {}, [], [], "", {"/data": "volume"}, {})
    monkeypatch.setattr(program.Backups, "servers", lambda _self, _configuration: copies.Servers(postgres, None, None))
    monkeypatch.setattr(program.Backups, "_index", lambda _self: ([], []))
    monkeypatch.setattr(program.Backups, "_choose", lambda _self, *_rows: (SimpleNamespace(until=0.0, base=SimpleNamespace(name="b", bytes=0)), None))
    cut_off.restore_moment("latest", None)
    assert seen == [(None, True)] * 3
    assert cut_off.stopped == []


@pytest.mark.parametrize(("moved", "begins_again"), [({"redis": "other"}, {}), ({"redis": "other", "postgres": "db"}, {"wal": "wal-data"})])
def test_a_log_begins_again_only_where_another_cluster_takes_the_place_of_its_own(backups, monkeypatch, moved, begins_again):
    """What is not shipped yet is in the volume alone."""
    seen = []
    every = {name: Service(name, "image", "", {}, [], [], "", {"/data": f"{name}-data"}, {}) for name in ("postgres", "redis")}
    log = {"services": {"wal": {"image": "image", "volumes": [{"type": "volume", "source": "wal-data", "target": "/var/lib/postgresql"}]}}}
    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "release": lambda _self: ({"release": "r"}, log),
        "servers": lambda _self, _configuration: copies.Servers(every["postgres"], every["redis"], None),
        "_check_space": lambda _self, _servers, _needed: None,
        "_bring": lambda _self, *given: seen.append(given[6]) or program.DONE,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    monkeypatch.setattr(program.moving, "check", lambda *_given: {})
    monkeypatch.setattr(program.moving, "look", lambda *_given: None)
    backups.move_in("other", {"postgres": "", **moved}, "p")
    assert seen == [begins_again]


def test_what_was_restored_is_on_the_disk_before_it_counts(backups, monkeypatch):
    """What Docker has copied into a volume survives a power cut only then. Nothing is stopped while the disk writes, or before it is written down why."""
    steps = []
    monkeypatch.setattr(program.Backups, "release", lambda _self: ({"release": "r"}, {}))
    for name in ("plan", "announce", "swap", "commit"):
        monkeypatch.setattr(program.swap, name, lambda *_given, step=name: steps.append(step) or [])
    monkeypatch.setattr(program.swap, "start", lambda _directory: steps.append("services use it"))
    monkeypatch.setattr(program.os, "sync", lambda: steps.append("sync"))
    monkeypatch.setattr(program.Backups, "stop", lambda _self: steps.append("stop"))
    monkeypatch.setattr(program.Backups, "start", lambda _self, _written: steps.append("start"))
    backups._exchange("a set", "a", {"live": "new"}, {"release": "r"}, NOTHING)
    assert steps == ["plan", "sync", "announce", "stop", "swap", "services use it", "start", "commit"]


@pytest.fixture
def late(backups, monkeypatch, tmp_path):
    """A stack with a volume, and a restore of it into another one; each volume that is removed is remembered."""
    for name in ("live", "new"):
        (tmp_path / "volumes" / name).mkdir(parents=True)
        (tmp_path / "volumes" / name / "what").write_text(name)
    backups.removed = []
    monkeypatch.setattr(program.swap, "path_of", lambda _docker, volume: str(tmp_path / "volumes" / volume))
    monkeypatch.setattr(program.Backups, "release", lambda _self: ({"release": "r"}, {}))
    monkeypatch.setattr(program.Docker, "sweep", lambda _self: None)
    monkeypatch.setattr(program.Docker, "remove_volume", lambda _self, name: backups.removed.append(name))
    monkeypatch.setattr(program.Backups, "stop", lambda _self: None)
    program.swap.begin(backups.directory, ["new"])
    return backups


def holds(backups, volume: str) -> str:
    with open(os.path.join(backups.directory, "volumes", volume, "what"), encoding="utf-8") as file:
        return file.read()


def test_what_was_written_after_a_restore_that_was_cut_off_late_outlives_undo(late, monkeypatch, capsys):
    """The machine ends while the services are waited for, and starts them again: users work with what was restored."""

    class Killed(BaseException):
        pass

    def kill(_directory):
        raise Killed

    # Who is killed puts nothing back.
    with monkeypatch.context() as context:
        context.setattr(program.Backups, "start", lambda _self, _written: kill(""))
        context.setattr(program.swap, "undo", kill)
        with pytest.raises(Killed):
            late._exchange("a set", "a", {"live": "new"}, {"release": "r"}, NOTHING)
    assert holds(late, "live") == "new"
    late.quiet = False
    assert late.undo() == program.DONE
    assert (holds(late, "live"), holds(late, "new"), late.removed) == ("live", "new", [])
    said = capsys.readouterr().out
    assert "What was restored, with what was written since the services were started over it, is in new." in said
    # Until somebody asks for it.
    assert late.remove_old() == program.DONE
    assert late.removed == ["new"]


@pytest.mark.parametrize("again", [False, True])
def test_what_was_tried_is_kept_where_services_do_not_come_up(late, monkeypatch, again):
    tries = []

    def fail(_self, _written):
        tries.append(1)
        if again or len(tries) == 1:
            raise BackupError("api did not come up.")

    monkeypatch.setattr(program.Backups, "start", fail)
    expected = "do not come up over it either" if again else r"What was there before runs again\."
    with pytest.raises(BackupError, match=rf"{expected}.* is in new\. The playbook restore removes it, with -e backup_old_volumes=remove"):
        late._exchange("a set", "a", {"live": "new"}, {"release": "r"}, NOTHING)
    assert (holds(late, "live"), holds(late, "new")) == ("live", "new")
    late.clean()
    assert late.removed == []


@pytest.mark.parametrize("is_same", [True, False])
def test_a_release_that_was_deployed_while_the_volumes_were_written_is_the_one_that_is_started(late, monkeypatch, is_same):
    """A deploy, or a rollback because of what is being restored, goes on until the volumes are exchanged."""
    started, stopped = [], []
    server = Service("postgres", "image", "", {}, [], [], "", {"/data": "live"}, {})
    servers = copies.Servers(server, None, None)
    there = copies.Servers(server if is_same else dataclasses.replace(server, image="another"), Service("redis", "i", "", {}, [], [], "", {}, {}), None)
    monkeypatch.setattr(program.Backups, "release", lambda _self: ({"release": "later"}, {}))
    monkeypatch.setattr(program.Backups, "servers", lambda _self, _configuration: there)
    monkeypatch.setattr(program.Backups, "start", lambda _self, written: started.append(written["release"]))
    monkeypatch.setattr(program.Backups, "stop", lambda _self: stopped.append(1))
    refused = pytest.raises(BackupError, match=r"^The release later was taken into use .*, for r, and its servers are other ones\. Nothing was changed\.")
    with contextlib.nullcontext() if is_same else refused:
        late._exchange("a set", "a", {"live": "new"}, {"release": "r"}, servers)
    assert (started, bool(stopped), holds(late, "live")) == ((["later"], True, "new") if is_same else ([], False, "live"))
    history = os.path.join(late.directory, "history.jsonl")
    assert os.path.exists(history) is is_same
    if is_same:
        with open(history, encoding="utf-8") as file:
            assert [json.loads(line)["release"] for line in file] == ["later"]


def test_what_cannot_be_written_down_after_it_counts_does_not_fail_a_restore(late, monkeypatch, capsys):
    def full(*_given, **_named):
        raise OSError(28, "No space left on device", "history.jsonl")

    monkeypatch.setattr(program.Backups, "start", lambda _self, _written: None)
    monkeypatch.setattr(program.lock.Lock, "record", full)
    late._exchange("a set", "a", {"live": "new"}, {"release": "r"}, NOTHING)
    assert holds(late, "live") == "new"
    assert capsys.readouterr().err == "The restore is not written down, but it is in use: No space left on device: history.jsonl\n"


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_service_that_cannot_be_stopped_keeps_nobody_from_what_nothing_has_touched(late, monkeypatch, is_begun):
    """Where a volume was exchanged, it would write into the data from before."""
    calls = []

    def stop(_self):
        calls.append("stop")
        if not is_begun or len(calls) > 1:
            raise BackupError("The container of api does not end.")

    def fail(_self, _written):
        raise BackupError("api did not come up.")

    monkeypatch.setattr(program.Backups, "stop", stop)
    monkeypatch.setattr(program.Backups, "start", fail if is_begun else lambda _self, _written: calls.append("start"))
    told = r"^The container of api does not end\.$" if is_begun else r"^a set was not put in the place of .* does not end\. What was there before runs again\."
    with pytest.raises(BackupError, match=told):
        late._exchange("a set", "a", {"live": "new"}, {"release": "r"}, NOTHING)
    assert os.path.exists(os.path.join(late.directory, lock.SWAP)) is is_begun
    assert holds(late, "live") == ("new" if is_begun else "live")
    assert calls == (["stop"] * 2 if is_begun else ["stop", "stop", "start"])


def test_services_are_stopped_only_where_what_is_done_can_be_written_down(late, monkeypatch):
    stopped = []

    def full(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program.Backups, "stop", lambda _self: stopped.append(1))
    monkeypatch.setattr(program.swap, "announce", full)
    with pytest.raises(OSError, match="No space left"):
        late._exchange("a set", "a", {"live": "new"}, {"release": "r"}, NOTHING)
    assert stopped == []


def test_a_stack_whose_services_are_being_stopped_says_why_they_are(late, monkeypatch):
    """After a power cut: Docker does not start again what was stopped."""

    class Killed(BaseException):
        pass

    def kill(*_given):
        raise Killed

    monkeypatch.setattr(program.Backups, "stop", kill)
    with pytest.raises(Killed):
        late._exchange("a set", "a", {"live": "new"}, {"release": "r"}, NOTHING)
    assert holds(late, "live") == "live"
    with pytest.raises(lock.MixedVolumesError, match="deploy, which starts the services"):
        lock.Lock(late.directory, late.holder()).acquire()
    monkeypatch.setattr(program.Backups, "stop", lambda _self: None)
    assert late.undo() == program.DONE
    assert holds(late, "live") == "live"


def test_what_nothing_was_started_over_goes_with_a_restore_that_fails(late, monkeypatch):
    def stay(_self):
        raise BackupError("The Engine is away.")

    monkeypatch.setattr(program.Backups, "start", lambda _self, _written: None)
    monkeypatch.setattr(program.swap, "start", lambda _directory: stay(None))
    with pytest.raises(BackupError, match=r"What was there before runs again\.$"):
        late._exchange("a set", "a", {"live": "new"}, {"release": "r"}, NOTHING)
    late.clean()
    assert late.removed == ["new"]


# --- What does not come up


def test_the_log_of_what_did_not_come_up_is_in_the_message(backups, monkeypatch):
    """Whoever puts the old data back removes the job's container."""
    backups.config["health_timeout"] = 1

    def attempt(_self, *_arguments, **_options):
        return 0, "\n".join(f"line {number}" for number in range(30)) + "\n", "the end\n"

    def ask(_self, *arguments, **_options):
        if "--quiet" in arguments:
            return "c1\n" if "label=com.docker.compose.service=away" not in arguments else ""
        return json.dumps([{"Config": {"Labels": {"com.docker.compose.service": "api-migrate"}}, "State": {"Status": "exited", "ExitCode": 1}}])

    monkeypatch.setattr(program.Docker, "attempt", attempt)
    monkeypatch.setattr(program.Docker, "ask", ask)
    with pytest.raises(BackupError, match=r"api-migrate did not come up\.\nThe last lines of the log of api-migrate:\n") as raised:
        backups._await(["api-migrate"], backups._has_ended)
    told = str(raised.value).splitlines()
    assert told[2:-1] == [f"    line {number}" for number in range(11, 30)] + ["    the end"]
    assert told[-1].startswith("`docker compose -p p logs api-migrate` shows more")
    assert backups._last_lines("away") == "The last lines of the log of away:\n    (there is no container)"


def test_a_container_that_somebody_has_run_by_hand_stands_for_no_job(backups, monkeypatch):
    asked = []
    monkeypatch.setattr(program.Docker, "ask", lambda _self, *arguments, **_options: asked.append(arguments) or "")
    backups._states()
    assert "label=com.docker.compose.oneoff=False" in asked[0]


def test_a_release_is_started_with_its_own_secrets_after_a_deploy_that_was_killed(backups, monkeypatch):
    stable = os.path.join(backups.directory, "secrets/stable")
    os.makedirs(stable)
    os.symlink("../redis_acl_new", os.path.join(stable, "redis_acl"))
    seen = []

    def compose(_command, **_options):
        seen.append(os.readlink(os.path.join(stable, "redis_acl")))
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    monkeypatch.setattr(program.image_names, "lending", lambda *_given: contextlib.nullcontext())
    monkeypatch.setattr(program.subprocess, "run", compose)
    monkeypatch.setattr(program.Backups, "_await", lambda *_given: None)
    written = {"env_file": ".env", "compose_files": ["c"], "jobs": ["j"], "first_jobs": ["f"], "foundations": [], "services": []}
    backups.start({**written, "stable": {"secrets/stable/redis_acl": "secrets/redis_acl_old"}})
    assert set(seen) == {"../redis_acl_old"}
    assert len(seen) == 4


@pytest.mark.parametrize("code", [0, 1])
def test_a_release_is_started_with_the_images_that_it_ran_with(backups, monkeypatch, code):
    """Their names may mean others by now, and are given back whatever comes of it."""
    done = []
    monkeypatch.setattr(program.image_names, "others", lambda _engine, release: {"i": ("before", release)})
    monkeypatch.setattr(program.image_names, "present", lambda _engine, wanted: {reference: before for reference, (before, _now) in wanted.items()})
    monkeypatch.setattr(program.image_names, "lend", lambda _engine, _root, wanted: done.append(wanted))
    monkeypatch.setattr(program.image_names, "give_back", lambda _engine, _root: done.append("given back"))

    def compose(command, **_options):
        done.append(command[-1])
        return SimpleNamespace(returncode=code, stderr="", stdout="")

    monkeypatch.setattr(program.subprocess, "run", compose)
    monkeypatch.setattr(program.Backups, "_await", lambda *_given: None)
    written = {"env_file": ".env", "compose_files": ["c"], "jobs": [], "first_jobs": [], "foundations": [], "services": []}
    with contextlib.nullcontext() if code == 0 else pytest.raises(BackupError, match="failed with exit code 1"):
        backups.start(written)
    assert done[0] == {"i": "before"}
    assert done[-1] == "given back"
    assert done[1:-1] == (["--no-build", "--remove-orphans"] if code == 0 else ["--no-build"])


def test_a_moment_of_a_stack_without_objects_needs_no_bucket(backups, monkeypatch):
    """Its releases have none, which the query of the objects would name."""
    backups.config["objects_query"] = "SELECT '{bucket}', key FROM t"
    monkeypatch.setattr(program.Backups, "release", lambda _self: ({"release": "r", "env_file": ""}, {}))
    backups._fill(SimpleNamespace(servers=copies.Servers(None, None, None)), "container", "ada")
    with pytest.raises(BackupError, match="has no S3_BUCKET"):
        backups._fill(SimpleNamespace(servers=copies.Servers(None, None, object())), "container", "ada")


def test_a_moment_of_before_the_tables_that_name_objects_comes_back(backups, monkeypatch, capsys):
    """As one from before a migration. Another failure of the query ends the restore: which objects are lost is not known then."""
    backups.quiet = False
    backups.config["objects_query"] = "SELECT 'b', key FROM t"
    monkeypatch.setattr(program.Backups, "release", lambda _self: ({"release": "r", "env_file": ""}, {}))
    wrong = [program.postgres.UnknownNameError("SQLSTATE 42P01."), BackupError("SQLSTATE 57014.")]

    class Session:
        def ask(self, _statement):
            raise wrong.pop(0)

    monkeypatch.setattr(program.postgres, "session", lambda *_given: contextlib.nullcontext(Session()))
    copy = SimpleNamespace(servers=copies.Servers(None, None, object()))
    backups._fill(copy, "container", "ada")
    assert "so no objects were taken from the bucket as it is" in capsys.readouterr().out
    with pytest.raises(BackupError, match=r"The query of backup_objects_query, which says .* 57014"):
        backups._fill(copy, "container", "ada")


@pytest.mark.parametrize("ends_early", [False, True])
def test_objects_of_a_bucket_that_came_after_the_set_are_taken(backups, monkeypatch, capsys, ends_early):
    """One that cannot be had, or a listing that breaks off, is no reason to lose the others."""
    backups.quiet = False
    wanted = {("later", "a"), ("later", "broken"), ("later", "b"), ("old", "c")}

    class Client:
        def __init__(self, *buckets):
            self.held = {bucket: [] for bucket in buckets}

        def buckets(self):
            return list(self.held)

        def create_bucket(self, bucket):
            self.held[bucket] = []

        def put(self, bucket, key, *_given):
            self.held[bucket].append(key)

        def objects(self, bucket):
            yield from (SimpleNamespace(bucket=bucket, key=key) for key in self.held[bucket])

        def close(self):
            pass

    class Live(Client):
        @contextlib.contextmanager
        def opened(self, listed):
            if listed.key == "broken":
                raise BackupError("HTTP 500")
            yield None, {"size": 0, "headers": {}, "tagged": False}

        def objects(self, bucket):
            yield from super().objects(bucket)
            if ends_early and bucket == "later":
                raise BackupError("HTTP 503")

    live, client = Live("later", "old"), Client("old")
    live.held = {"later": ["a", "broken", "b", "unnamed"], "old": ["c"]}
    monkeypatch.setattr(program.Backups, "release", lambda _self: ({"release": "r"}, {}))
    monkeypatch.setattr(program.Backups, "container", lambda _self, _service: "c")
    monkeypatch.setattr(program.making, "objects_query", lambda *_given: "query")
    monkeypatch.setattr(program.making, "named_objects", lambda *_given: wanted)
    monkeypatch.setattr(program.postgres, "session", lambda *_given: contextlib.nullcontext())
    monkeypatch.setattr(copies, "s3_client", lambda *_given: live)
    minio = Service("minio", "i", "", {}, [], [], "", {}, {})
    backups._fill(SimpleNamespace(servers=copies.Servers(None, None, minio), minio=lambda _service: contextlib.nullcontext(client)), "container", "ada")
    assert client.held == {"old": ["c"], "later": ["a", "b"]}
    assert "of 4 objects that the database names, 3 came from the bucket as it is, and 1 are lost" in capsys.readouterr().out


def test_nothing_is_shipped_while_postgresql_is_upgraded(backups, monkeypatch):
    """The log of the new cluster would begin anew by a stop of a service that is just being verified, and the upgrade be withdrawn for it."""
    backups.config["point_in_time"] = True
    shipped = []
    monkeypatch.setattr(program.Backups, "_ship", lambda _self: shipped.append(1) or program.DONE)
    journal = os.path.join(backups.directory, lock.UPGRADE)
    with open(journal, "w", encoding="utf-8") as file:
        file.write("{}")
    assert (backups.ship(), shipped) == (program.DONE, [])
    os.unlink(journal)
    assert (backups.ship(), shipped) == (program.DONE, [1])


@pytest.mark.parametrize("is_told", [False, True])
def test_a_log_that_nobody_ships_is_told_by_who_watches(backups, monkeypatch, is_told):
    """Who ships tells of it himself, where the timer calls him."""
    told = []
    row = {"name": "log late", "severity": "failure", "seen": "It is late."}
    monkeypatch.setattr(program.state, "findings", lambda *_given: [row])
    monkeypatch.setattr(program.state, "publish", lambda *_given: None)
    monkeypatch.setattr(program.Backups, "_tell", lambda _self, event, message: told.append((event, message)))
    program.wal.write_state(backups.directory, {"told": is_told})
    assert backups.watch() == program.FAILED
    assert told == ([] if is_told else [("log_late", "It is late.")])


# --- A set of before a part was kept here


@pytest.mark.parametrize(
    ("parts", "exchanged"),
    [
        (["minio", "postgres"], {"m", "p", "w"}),
        # Its new volume is empty, and would take the place of what was stored since.
        (["postgres"], {"p", "w"}),
        # The log is that of the cluster that stays.
        (["minio"], {"m"}),
        ([], None),
    ],
)
def test_what_a_set_has_nothing_of_stays_as_it_is(cut_off, monkeypatch, tmp_path_factory, parts, exchanged):
    os.unlink(os.path.join(cut_off.directory, lock.SWAP))
    there = tmp_path_factory.mktemp("volume")
    services = [Service(name, "image", "", {}, [], [], "", {"/data": name[0]}, {}) for name in ("postgres", "minio")]
    given = []
    monkeypatch.setattr(program.swap, "path_of", lambda _docker, _volume: str(there))
    monkeypatch.setattr(program.Backups, "_exchange", lambda _self, _what, _identifier, volumes, *_given: given.append(set(volumes)))
    arguments = ("The set a", "a", copies.Servers(services[0], None, services[1]), {}, cut_off.project, lambda _copy: ({"parts": parts, "databases": {}}, []))
    if exchanged is None:
        with pytest.raises(BackupError, match=r"^The set a has nothing of what the present release keeps\. Nothing was changed\.$"):
            cut_off._bring(*arguments, {"wal": "w"})
    else:
        assert cut_off._bring(*arguments, {"wal": "w"}) == program.DONE
        assert given == [exchanged]
