# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock that a backup holds: waited for, given back, and not left to who was killed."""

import contextlib
import json
import os
import subprocess
import time
from types import SimpleNamespace

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import host, lock
from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, program, state
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, Service
from ansible_collections.campaign.platform.plugins.module_utils.backup.repository import NoRepositoryError

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
    other = program.Backups(backups.directory, quiet=True)
    with backups.alone(), pytest.raises(program.BusyError, match="is at work"), other.alone():
        pass
    with other.alone():
        pass


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
    monkeypatch.setattr(program.Backups, "_size", lambda _self, _servers: free.f_bavail * free.f_frsize)
    with pytest.raises(BackupError, match=r"MiB left, and about \d+ MiB are needed"):
        backups._check_room(servers)
    monkeypatch.setattr(program.Backups, "_size", lambda _self, _servers: 0)
    backups._check_room(servers)

    def nobody(_self, _servers):
        raise BackupError("postgres has 0 containers that run, and one is needed.")

    monkeypatch.setattr(program.Backups, "_size", nobody)
    backups._check_room(servers)


@pytest.mark.parametrize(
    ("work", "arguments"), [("drill", ("latest",)), ("restore", ("latest", "p")), ("drill_moment", ("latest",)), ("restore_moment", ("latest", "p"))]
)
def test_room_is_looked_for_before_a_set_is_read(backups, monkeypatch, work, arguments):
    def full(_self, _servers):
        raise BackupError("there is no room")

    instead = {
        "alone": lambda _self: contextlib.nullcontext(),
        "_undo": lambda _self: None,
        "release": lambda _self: ({"release": "r"}, {}),
        "servers": lambda _self, _configuration: copies.Servers(Service("postgres", "image", "", {}, [], [], "", {}, {}), None, None),
        "open": lambda _self, **_create: None,
        "_index": lambda _self: ([], []),
        "_bring": lambda _self, *given: given[5](None),
        "_check_room": full,
    }
    for name, function in instead.items():
        monkeypatch.setattr(program.Backups, name, function)
    monkeypatch.setattr(program.moments, "choose", lambda *_rows: (SimpleNamespace(until=0.0, base=SimpleNamespace(name="b", bytes=0)), None))
    monkeypatch.setattr(program.moments, "choice", lambda *_rows: "")
    backups.repository = SimpleNamespace(find=lambda _wanted: SimpleNamespace(set="a", state="complete"))
    with pytest.raises(BackupError, match="there is no room"):
        getattr(backups, work)(*arguments)
