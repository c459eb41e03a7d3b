# SPDX-License-Identifier: GPL-3.0-or-later
"""An install, an upgrade or a rollback that is killed leaves nothing that one more run does not put right, and loses nothing that was acknowledged.

Two ends are tried in turn. Either only the process that a person started is killed: its workers and the Docker Compose that one of them has called go on for a
while as orphans, beside the run that comes after. Or everything that it started on this machine ends with it, Docker Compose in the middle of its work too, as
when a terminal is closed or the kernel wants the memory.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, sweep
from ledger import NOTHING, Ledger

MOMENTS = 60
# Of these many some have to be in the middle of a run, or they say nothing.
AT_WORK = 2 / 3
EARLIEST = 0.5
IN_PLACE = ("postgres", "redis", "minio", "frontend")
# Docker Compose's name for a container that is about to take the place of another one.
TEMPORARY = re.compile(r"[0-9a-f]{12}_")
# Seconds that each kind of run takes at least, on a machine that does nothing else. A kill that came too late says how long it really took.
LONGEST = {"stateless": 14.0, "in place": 18.0, "rollback": 14.0, "first deploy": 20.0, "first deploy over data": 18.0}
KINDS = tuple(LONGEST)
SAMPLE = ("in place", "rollback", "stateless")


@pytest.fixture
def kinds(request) -> list[str]:
    return [KINDS[number % len(KINDS)] for number in range(MOMENTS)] if request.config.getoption("--full") else list(SAMPLE)


def variables_of(kind: str, number: int) -> dict[str, Any]:
    """Return the variables of the release that a run of a kind is to bring."""
    if kind == "stateless":
        return {"stack_log_level": ("debug", "warn", "error")[number % 3]}
    labelled = {service: {"base": {"services": {service: {"labels": {"edit": str(number)}}}}} for service in IN_PLACE}
    return {"stack_services": labelled} if kind == "in place" else {}


def descendants(root: int) -> list[int]:
    """Return the processes that a process has started, itself first."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name before them may hold anything, also a bracket.
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def kill_all(root: int) -> None:
    """Kill a process with all that it has started. They are stopped first, so that none of them starts another one meanwhile."""
    stopped: list[int] = []
    while left := [process for process in descendants(root) if process not in stopped]:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        stopped += left
    for process in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Killer:
    """Starts runs and kills them at a moment by chance."""

    def __init__(self, stack, chance, log: Path):
        self.stack, self.chance, self.log = stack, chance, log
        self.longest = dict(LONGEST)
        self.hits: Counter[str] = Counter()

    def kill(self, kind: str, playbook: str, variables: dict[str, Any], *, whole: bool) -> str:
        """Start a playbook and kill it, with all that it started on this machine where it is the ``whole``; return what became of it."""
        moment = self.chance.uniform(EARLIEST, self.longest[kind])
        began = time.monotonic()
        # Nobody waits for the end of what goes on without it, which holds a pipe open as well.
        with self.log.open("w") as log:
            process = subprocess.Popen(self.stack.command(playbook, **variables), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            status = process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            (kill_all if whole else lambda pid: os.kill(pid, signal.SIGKILL))(process.pid)
            process.wait()
            self.hits[kind] += 1
            return f"killed after {moment:.1f} s"
        assert status == 0, self.log.read_text()[-4000:]
        self.longest[kind] = time.monotonic() - began
        return f"had ended after {self.longest[kind]:.1f} s"


def ill(stack) -> list[str]:
    """Return what is wrong with the containers of the release in use, in words."""
    template = '{{.Names}}|{{.Label "com.docker.compose.service"}}|{{.State}}|{{.Status}}'
    lines = stack.docker("ps", "--all", "--filter", f"label=com.docker.compose.project={stack.project}", "--format", template).splitlines()
    rows = [line.split("|") for line in lines]
    hashes, services = stack.hashes(), json.loads(stack.read("current/manifest.json"))["services"]
    said = [f"{name} has a temporary name" for name, *_rest in rows if TEMPORARY.match(name)]
    said += [f"{service} has {count} containers" for service, count in Counter(service for _name, service, *_rest in rows).items() if count > 1]
    said += [f"{name} is {status}" for name, service, _state, status in rows if service in services and "(healthy)" not in status]
    said += [f"{service} has no container" for service in services if service not in {service for _name, service, *_rest in rows}]
    for service, container in stack.containers().items():
        # A job that a release shares with the one before it did not run again.
        if service in services and container["Config"]["Labels"]["com.docker.compose.config-hash"] != hashes[service]:
            said.append(f"{service} is not of the release in use")
    return said


def drift(stack, path: Path) -> list[Any]:
    """Return what the stack itself says that is not as it should be."""
    result = stack.play("status", stack_status_json=str(path))
    assert result.status == 0, result.text[-3000:]
    status = json.loads(path.read_text())
    return [*status["drift"], *(status[name] for name in ("attempted", "lock", "unfinished") if status[name])]


def forget(stack, *, data: bool) -> None:
    """Have the next deploy be the first one of this host, over what is stored or over nothing."""
    if data:
        sweep()
        return
    result = stack.play("down")
    assert result.status == 0, result.text[-3000:]
    shutil.rmtree(stack.directory)


def test_one_run_more_puts_it_right(stack, chance, kinds, tmp_path):
    stack.deploy()
    killer, ledger, lost = Killer(stack, chance, tmp_path / "killed.log"), Ledger(stack), []
    told: Counter[str] = Counter()
    for number, kind in enumerate(kinds):
        # Each kind with each end in turn.
        whole = (number + number // len(KINDS)) % 2 == 0
        playbook, variables = "rollback" if kind == "rollback" else "site", variables_of(kind, number)
        if kind.startswith("first deploy"):
            if kind == "first deploy":
                lost.append(ledger.lost())
            forget(stack, data=kind == "first deploy")
        # Who writes needs a table, and a new volume has none before the run has ended.
        with ledger if kind != "first deploy" else contextlib.nullcontext():
            said = killer.kill(kind, playbook, variables, whole=whole)
            began = time.monotonic()
            result = stack.play(playbook, **variables)
        what = f"{kind}, {'with all that it started' if whole else 'alone'}, {said}"
        print(f"{what}; one run more took {time.monotonic() - began:.0f} s")
        assert result.status == 0, f"{what}: {result.text[-3000:]}"
        assert ill(stack) == [], what
        assert drift(stack, tmp_path / "status.json") == [], what
        if kind == "first deploy":
            told.update({store: len(book.acknowledged) for store, book in ledger.books.items()})
            ledger = Ledger(stack)
        # Reading all of it takes a while, so not each time.
        if number % len(KINDS) == len(KINDS) - 1:
            assert ledger.lost() == NOTHING, what
        if kind == "stateless":
            assert f"LOG_LEVEL={variables['stack_log_level']}" in stack.containers()["api"]["Config"]["Env"], what
    lost.append(ledger.lost())
    told.update({store: len(book.acknowledged) for store, book in ledger.books.items()})
    hits = sum(killer.hits.values())
    print(f"{len(kinds)} moments, of which {hits} hit a run at work: {dict(killer.hits)}; acknowledged: {dict(told)}")
    assert all(item == NOTHING for item in lost), lost
    assert all(told[store] > len(kinds) for store in NOTHING)
    assert hits >= AT_WORK * len(kinds)
