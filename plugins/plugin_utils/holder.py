# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who works on a stack: the person, the controller and the run, as the lock on the host names them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.campaign.platform.plugins.module_utils import host

_GIT_SECONDS = 5


def _started(pid: int) -> str | None:
    """Return when a process was started, None where there is none of that number."""
    if (found := host.started(pid)) is not None:
        return str(found)
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def commit_of(directory: str) -> str | None:
    """Return the commit that is checked out in a directory, None where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", directory, "rev-parse", "--verify", "--quiet", "HEAD"], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def holder(pid: int, directory: str) -> dict[str, Any]:
    """Return who works: the run of process ``pid`` of this machine, started for the inventory in a directory."""
    machine = str(host.machine())
    return {
        "user": host.user(),
        "controller": socket.gethostname(),
        "machine": machine,
        "pid": pid,
        "run": f"{machine}-{pid}-{_started(pid)}",
        "commit": commit_of(directory),
    }


def of_this_run(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return who works, from within a task of the run; raise AnsibleActionFail where the run was killed meanwhile.

    A task is a process of its own, whose parent is the run, and it outlives a run that is killed. Whoever adopts it then must not be taken for the run: the
    lock would be held as long as the machine is up.
    """
    run = multiprocessing.parent_process()
    if run and run.pid != os.getppid():
        raise AnsibleActionFail("Nothing was changed. The run that this task belongs to was killed.")
    return holder(os.getppid(), str(variables.get("inventory_dir") or os.getcwd()))


def has_ended(other: Mapping[str, Any]) -> bool:
    """Return whether a run is known to have ended, which only its own machine can know."""
    machine, pid = str(host.machine()), other.get("pid")
    if other.get("machine") != machine or not isinstance(pid, int):
        return False
    return other.get("run") != f"{machine}-{pid}-{_started(pid)}"


def looked_at(status: dict[str, Any]) -> dict[str, Any]:
    """Return a stack's status in which the holder of the lock is not alive where this machine knows that its run has ended."""
    held = status["lock"]
    return {**status, "lock": {**held, "is_alive": False}} if held and has_ended(held) else status
