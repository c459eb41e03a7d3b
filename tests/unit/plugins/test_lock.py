# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time works on a stack, and a run that was killed stops nobody for long."""

import datetime
import fcntl
import getpass
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.campaign.platform.plugins.module_utils import lock as module
from ansible_collections.campaign.platform.plugins.plugin_utils import holder as controller


def who(run="one", **more):
    return {"user": "ada", "controller": "desk", "machine": "m", "pid": 7, "run": run, "commit": None, **more}


@pytest.fixture
def lock(tmp_path):
    def of(run="one", **more):
        return module.Lock(str(tmp_path), who(run, **more))

    return of


def age(tmp_path, seconds):
    os.utime(tmp_path / "lock.json", (time.time() - seconds,) * 2)


def history(tmp_path):
    return [json.loads(line) for line in (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_another_run_is_refused_and_told_who_holds_it(lock, tmp_path):
    lock().acquire()
    began = time.monotonic()
    with pytest.raises(module.LockedError, match=r"ada@desk, process 7, since 20.*stack_lock_takeover") as refused:
        lock("two").acquire()
    assert time.monotonic() - began < 1
    assert refused.value.holder["run"] == "one"
    assert module.read(str(tmp_path))["user"] == "ada"


def test_the_same_run_holds_it_through_all_its_steps(lock, tmp_path):
    lock().acquire()
    since = module.read(str(tmp_path))["since"]
    age(tmp_path, 50)
    lock().acquire()
    found = module.read(str(tmp_path))
    assert found["age"] < 10
    assert found["since"] == since


def test_what_was_given_back_is_free(lock, tmp_path):
    lock().acquire()
    lock().release()
    assert module.read(str(tmp_path)) is None
    lock("two").acquire()
    # Not by a run that has lost it.
    lock().release()
    assert module.read(str(tmp_path))["run"] == "two"


def test_nobody_holds_what_is_not_there(tmp_path):
    assert module.read(str(tmp_path)) is None
    module.Lock(str(tmp_path / "nowhere"), who()).release()


@pytest.mark.parametrize("content", ["", "{}", "[]", "no JSON"])
def test_a_damaged_lock_is_none(lock, tmp_path, content):
    (tmp_path / "lock.json").write_text(content)
    lock().acquire()
    assert module.read(str(tmp_path))["run"] == "one"


@pytest.mark.parametrize(("seconds", "is_held"), [(module.LEASE - 5, True), (module.LEASE + 5, False)])
def test_it_ends_by_itself_after_the_last_sign_of_life(lock, tmp_path, seconds, is_held):
    lock().acquire()
    lock().note("0123456789ab")
    age(tmp_path, seconds)
    if is_held:
        with pytest.raises(module.LockedError):
            lock("two").acquire()
        return
    lock("two").acquire()
    assert module.read(str(tmp_path))["run"] == "two"
    # Who disappeared is written down.
    assert [(line["event"], line["release"], line["user"]) for line in history(tmp_path)] == [("aborted", "0123456789ab", "ada")]


@pytest.mark.parametrize("options", [{"takeover": True}, {"dead": "one"}])
def test_it_is_taken_over_at_once_from_a_run_that_has_ended(lock, tmp_path, options):
    lock().acquire()
    lock("two").acquire(**options)
    assert module.read(str(tmp_path))["run"] == "two"


def test_it_is_not_taken_from_another_run_than_the_one_that_ended(lock):
    lock().acquire()
    with pytest.raises(module.LockedError):
        lock("three").acquire(dead="two")


@pytest.fixture
def client(tmp_path):
    """A Docker Compose of the stack's client that still works, which ends after the given seconds."""
    (tmp_path / "client").mkdir()
    path = tmp_path / module.RUNNING
    path.touch()

    def work(seconds):
        file = path.open("rb")
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(seconds, file.close).start()

    return work


def test_a_client_that_still_works_holds_it(lock, tmp_path, client, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1)
    lock().acquire()
    age(tmp_path, module.LEASE + 5)
    client(4)
    # Only who takes it over waits.
    for options, waits in (({}, False), ({"takeover": True}, True), ({"dead": "one"}, True)):
        began = time.monotonic()
        with pytest.raises(module.LockedError):
            lock("two").acquire(**options)
        assert (time.monotonic() - began > 0.8) is waits


def test_a_client_that_ends_is_waited_for(lock, tmp_path, client):
    lock().acquire()
    client(0.5)
    began = time.monotonic()
    lock("two").acquire(dead="one")
    assert 0.3 < time.monotonic() - began < 5
    assert module.read(str(tmp_path))["run"] == "two"


def test_while_one_takes_it_over_a_third_is_told_soon(lock, client, monkeypatch):
    monkeypatch.setattr(module, "SOON", 0.3)
    lock().acquire()
    client(3)
    taking = threading.Thread(target=lambda: lock("two").acquire(dead="one"))
    taking.start()
    time.sleep(0.1)
    with pytest.raises(module.LockedError):
        lock("three").acquire()
    taking.join()


def test_of_many_at_once_one_wins(tmp_path):
    code = (
        "import importlib.util as of, sys; spec = of.spec_from_file_location('lock', sys.argv[1]); lock = of.module_from_spec(spec)\n"
        "spec.loader.exec_module(lock)\n"
        "try:\n    lock.Lock(sys.argv[2], {'run': sys.argv[3]}).acquire()\nexcept lock.LockedError:\n    sys.exit(3)\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, module.__file__, str(tmp_path), str(number)]) for number in range(8)]
    assert sorted(run.wait() for run in runs) == [0] + [3] * 7


def test_the_history_is_appended_to_and_says_who(lock, tmp_path):
    lock(commit="abc").record("started", release="r1", previous=None)
    lock().record("succeeded", release="r1")
    first, second = history(tmp_path)
    assert list(first) == ["time", "event", "release", "user", "controller", "pid", "commit"]
    assert (first["event"], second["event"], "commit" in second) == ("started", "succeeded", False)


def test_what_is_no_line_of_the_history_is_left_out(lock, tmp_path):
    lock().record("started", release="r1")
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'no JSON\n[1]\n{"event": 5}\n{"time": "t", "event": "succeeded", "release": ["x"]}\n\xff\n{"event": "succeeded"}\n')
    lock().record("succeeded", release="r1")
    assert [line["event"] for line in module.history(str(tmp_path))] == ["started", "succeeded"]
    assert module.history(str(tmp_path / "nowhere")) == []


def test_a_sign_of_life_is_given_while_something_is_waited_for(lock, tmp_path):
    lock().acquire()
    age(tmp_path, 50)
    pulse = module.Pulse(str(tmp_path))
    pulse()
    assert module.read(str(tmp_path))["age"] < 10
    age(tmp_path, 50)
    pulse()
    assert module.read(str(tmp_path))["age"] > 40
    module.Pulse(None)()
    module.Pulse(str(tmp_path / "nowhere"))()


def test_a_run_of_this_machine_is_known_to_have_ended():
    process = subprocess.Popen(["sleep", "60"])
    mine = controller.holder(process.pid, "/")
    assert not controller.has_ended(mine)
    # A later process of the same number.
    assert controller.has_ended({**mine, "run": f"{mine['machine']}-{process.pid}-1"})
    process.kill()
    process.wait()
    assert controller.has_ended(mine)
    # Of another machine nobody knows.
    assert not controller.has_ended({**mine, "machine": "another"})
    assert not controller.has_ended({})
    held = {**mine, "is_alive": True}
    assert controller.looked_at({"lock": held})["lock"]["is_alive"] is False
    assert controller.looked_at({"lock": {**held, "machine": "another"}})["lock"]["is_alive"] is True
    assert controller.looked_at({"lock": None}) == {"lock": None}


def test_the_commit_is_that_of_the_inventory(tmp_path):
    assert controller.commit_of(str(tmp_path)) is None
    for command in (["init", "--quiet"], ["-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "--quiet", "--allow-empty", "--message=x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert len(controller.holder(1, str(tmp_path))["commit"]) == 40
    assert controller.commit_of("/nowhere") is None


@pytest.fixture
def far_from_greenwich(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Etc/GMT-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
def test_the_time_of_a_holder_is_that_of_the_world():
    said = datetime.datetime.strptime(module.now(), "%Y-%m-%dT%H:%M:%S%z")
    assert abs(said - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_task_that_outlives_its_run_does_not_work_for_whoever_adopts_it(tmp_path, is_killed):
    processes = multiprocessing.get_context("fork")
    answers, said = processes.Pipe(duplex=False)

    def task(run):
        while is_killed and os.getppid() == run:
            time.sleep(0.01)
        try:
            said.send(controller.of_this_run({"inventory_dir": str(tmp_path)})["pid"])
        except AnsibleActionFail as error:
            said.send(str(error))

    def run():
        child = processes.Process(target=task, args=(os.getpid(),))
        child.start()
        if is_killed:
            os.kill(os.getpid(), signal.SIGKILL)
        child.join()

    process = processes.Process(target=run)
    process.start()
    assert answers.poll(20)
    assert answers.recv() == ("Nothing was changed. The run that this task belongs to was killed." if is_killed else process.pid)
    process.join()


def test_a_holder_says_who_works_and_where():
    mine = controller.holder(os.getpid(), "/")
    machine = mine.pop("machine")
    run = mine.pop("run")
    assert mine == {"user": getpass.getuser(), "controller": socket.gethostname(), "pid": os.getpid(), "commit": None}
    assert re.fullmatch(r"[0-9a-f]{12}", machine)
    assert re.fullmatch(rf"{machine}-{os.getpid()}-[0-9]+", run)


def test_a_clock_that_was_set_back_holds_nobody_longer_than_a_lease(lock, tmp_path):
    lock().acquire()
    age(tmp_path, -module.LEASE - 5)
    lock("two").acquire()
    assert module.read(str(tmp_path))["run"] == "two"


def test_signs_of_life_are_given_while_one_step_takes_long_and_only_of_ones_own(lock, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.05)
    lock().acquire()
    for run, is_alive in (("one", True), ("two", False)):
        age(tmp_path, 30)
        with lock(run).beating():
            time.sleep(0.3)
        assert (module.read(str(tmp_path))["age"] < 10) is is_alive


def test_a_full_disk_does_not_take_the_lock_away(lock, tmp_path, monkeypatch):
    """Who holds it is written over, and never truncated first."""
    lock().acquire()

    def full(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        lock().note("0123456789ab")
    assert module.read(str(tmp_path))["run"] == "one"


def test_a_user_without_a_name_is_told_by_number(monkeypatch):
    monkeypatch.setattr(module.os, "getuid", lambda: 4711)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert controller.holder(os.getpid(), ".")["user"] == "uid 4711"


def test_no_client_begins_until_it_is_written_who_holds_the_lock(lock, tmp_path, monkeypatch):
    (tmp_path / "client").mkdir()
    (tmp_path / module.RUNNING).touch()
    lock().acquire()
    age(tmp_path, module.LEASE + 5)
    seen = []

    def record(_lock, event, *_given, **_more):
        with (tmp_path / module.RUNNING).open("rb") as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            seen.append(event)

    monkeypatch.setattr(module.Lock, "record", record)
    lock("two").acquire()
    assert seen == ["aborted"]
    with (tmp_path / module.RUNNING).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.parametrize(("run", "is_given"), [(None, True), ("one", True), ("two", False)])
def test_a_step_gives_no_sign_of_life_of_another_run(lock, tmp_path, monkeypatch, run, is_given):
    lock().acquire()
    age(tmp_path, 30)
    if run:
        monkeypatch.setenv(module.RUN, run)
    module.Pulse(str(tmp_path))()
    assert (module.read(str(tmp_path))["age"] < 10) is is_given


def test_something_else_in_the_place_of_the_lock_is_no_holder(tmp_path):
    (tmp_path / "lock.json").mkdir()
    assert module.read(str(tmp_path)) is None
