# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time works on a stack: a lock in its directory on the host, with who holds it, and a trail of what was done.

The lock is a file whose content names the holder and whose time of change is the holder's last sign of life. It is held while the sign is younger than the
lease, or while a Docker Compose of the stack's own client still works, which it does after its run was killed, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

LOCK, RUNNING, HISTORY = "lock.json", "client/running", "history.jsonl"
# A variable of the environment that says which run a step is of.
RUN = "CAMPAIGN_RUN"
# There while a restore exchanges the volumes, and after one that was cut off in its middle: then they do not belong together.
SWAP = "backup/swap.json"
# There while PostgreSQL is exchanged for another major version, and after an exchange that was cut off: then only its own run may go on.
UPGRADE = "backup/upgrade.json"
# Seconds. A holder gives a sign of life with each step, and every BEAT seconds while it waits.
LEASE = 60.0
BEAT = 5.0
# How long an orphaned Docker Compose is waited for, and how long anything else is.
PATIENCE = 120.0
SOON = 3.0
INTERVAL = 0.2

OPTIONS = {
    "user": {"type": "str", "required": True},
    "controller": {"type": "str", "required": True},
    "machine": {"type": "str", "required": True},
    "pid": {"type": "int", "required": True},
    "run": {"type": "str", "required": True},
    "commit": {"type": "str"},
}


class LockedError(Exception):
    """Another run holds the lock; ``holder`` says which."""

    def __init__(self, holder: Mapping[str, Any], age: float):
        self.holder = dict(holder)
        name = f"{holder.get('user')}@{holder.get('controller')}, process {holder.get('pid')}"
        super().__init__(
            f"Another run works on this stack: {name}, since {holder.get('since')} (last sign of life {age:.0f} s ago). Nothing was changed. "
            "Wait until it has ended. If it was killed, its lock ends by itself a minute after its last sign of life, or with -e stack_lock_takeover=true."
        )


def now() -> str:
    """Return the time as the history has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# What ends an exchange of PostgreSQL that was cut off.
UPGRADING = "run the playbook upgrade_postgres again, which first starts what ran before, or go back to that with -e revert=true."


def undoing(directory: str) -> str:
    """Return what ends an exchange of volumes that was cut off."""
    return (
        f"Put the old ones back with `{directory}/backup/run undo` on the host, as root, and deploy, which starts the services; "
        "or restore again with its confirmation."
    )


def unfinished(directory: str) -> dict[str, str] | None:
    """Return an exchange of data that is at work or was cut off, as ``what`` and ``remedy``, None where there is none: meanwhile nobody else may start."""
    if os.path.exists(os.path.join(directory, SWAP)):
        return {"what": "A restore was cut off while it exchanged the volumes, so they may not belong together.", "remedy": undoing(directory)}
    if os.path.exists(os.path.join(directory, UPGRADE)):
        return {"what": "An upgrade of PostgreSQL was cut off.", "remedy": UPGRADING[0].upper() + UPGRADING[1:]}
    return None


class MixedVolumesError(LockedError):
    """A restore was cut off while it exchanged the volumes, so nobody may start anything over them."""

    def __init__(self, directory: str):
        Exception.__init__(
            self,
            f"A restore was cut off while it exchanged the volumes of {directory}, so they may not belong together. Nothing was changed. {undoing(directory)}",
        )
        self.holder: dict[str, Any] = {}


class UpgradeError(MixedVolumesError):
    """PostgreSQL is being exchanged for another major version, so nobody else may start anything over its volume."""

    def __init__(self, directory: str):
        Exception.__init__(
            self,
            f"An upgrade of the PostgreSQL of {directory} is at work, or was cut off. Nothing was changed. If it was cut off, {UPGRADING}",
        )
        self.holder: dict[str, Any] = {}


class LostLockError(LockedError):
    """A run has lost the lock, so that another one works, or has worked meanwhile. It must not go on, and not put anything back either."""

    def __init__(self, holder: Mapping[str, Any] | None):
        who = f"{holder.get('user')}@{holder.get('controller')}, process {holder.get('pid')}, works on it" if holder else "Another run has worked on it"
        Exception.__init__(
            self,
            f"This run had given no sign of life for more than a minute and lost the lock of the stack. {who} since then, so this run changes nothing more. "
            "Look at what is there (the playbook status), and run this again.",
        )
        # It is not to be taken over by asking again.
        self.holder: dict[str, Any] = {}


class Lock:
    """The lock of the stack in a directory; ``holder`` is who asks for it."""

    def __init__(self, directory: str, holder: Mapping[str, Any]):
        self.directory, self.holder = directory, dict(holder)
        self.path = os.path.join(directory, LOCK)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file, for this process alone; raise LockedError where another one is taking the lock over, which may take a while."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + SOON
            while not _is_locked(descriptor):
                if time.monotonic() >= deadline:
                    raise LockedError(_read(descriptor) or {}, time.time() - os.fstat(descriptor).st_mtime)
                time.sleep(INTERVAL)
            yield descriptor
        finally:
            os.close(descriptor)

    def acquire(self, *, takeover: bool = False, dead: str | None = None, repairs: bool = False, goes_on: bool = False) -> None:
        """Hold the lock from now on, or raise LockedError.

        ``dead`` is the run of a holder that is known to have ended, ``takeover`` means whoever holds it. Who ``repairs`` may hold it after a restore that was
        cut off. A run that ``goes_on`` has held it since before it changed anything, and must hold it still.
        """
        if not repairs and os.path.exists(os.path.join(self.directory, SWAP)):
            raise MixedVolumesError(self.directory)
        if not repairs and self._upgrading() not in (None, self.holder["run"]):
            raise UpgradeError(self.directory)
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        with self._opened() as descriptor:
            held = _read(descriptor)
            age = time.time() - os.fstat(descriptor).st_mtime
            another = held if held and held.get("run") != self.holder["run"] else None
            if goes_on and (another or not held):
                raise LostLockError(another)
            is_over = takeover or (another or {}).get("run") == dead
            with contextlib.ExitStack() as until_written:
                # A sign of life from the future is one of before the clock was set back.
                if another and not is_over and (abs(age) < LEASE or not self._stops_client(until_written)):
                    raise LockedError(another, age)
                if another and is_over:
                    self._await_client(another, age, until_written)
                if another:
                    self.record("aborted", another, release=another.get("release"))
                _write(descriptor, {**self.holder, "since": held["since"] if held and not another else now()})

    def _upgrading(self) -> str | None:
        """Return the run that exchanges PostgreSQL, an empty text where that cannot be read, None where nobody does."""
        try:
            with open(os.path.join(self.directory, UPGRADE), encoding="utf-8") as file:
                return str(json.load(file)["run"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _stops_client(self, until_written: contextlib.ExitStack) -> bool:
        """Return whether no client works, and have none begin until it is written down who holds the lock: it looks at that first."""
        try:
            descriptor = os.open(os.path.join(self.directory, RUNNING), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # The client has never been used here.
            return True
        if _is_locked(descriptor):
            until_written.callback(os.close, descriptor)
            return True
        os.close(descriptor)
        return False

    def _await_client(self, another: Mapping[str, Any], age: float, until_written: contextlib.ExitStack) -> None:
        """Wait until what an ended run left working has ended too."""
        deadline = time.monotonic() + PATIENCE
        while not self._stops_client(until_written):
            if time.monotonic() >= deadline:
                raise LockedError(another, age)
            time.sleep(INTERVAL)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Give signs of life as long as something is at work, however long one step of it takes."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT):
                with contextlib.suppress(OSError):
                    self._beat()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _beat(self) -> None:
        with open(self.path, "rb") as file:
            held = _read(file.fileno())
            if held and held.get("run") == self.holder["run"]:
                os.utime(file.fileno())

    def note(self, release: str) -> None:
        """Write down which release is being worked on."""
        with self._opened() as descriptor:
            held = _read(descriptor)
            if held and held.get("run") == self.holder["run"]:
                _write(descriptor, {**held, "release": release})

    def release(self) -> None:
        """Hold it no longer; that of another run stays."""
        if not os.path.exists(self.path):
            return
        with self._opened() as descriptor:
            held = _read(descriptor)
            if held and held.get("run") == self.holder["run"]:
                _write(descriptor, {})

    def record(self, event: str, holder: Mapping[str, Any] | None = None, **details: Any) -> None:
        """Append one line to the stack's history; ``details`` must hold no secret."""
        who = holder or self.holder
        line = {"time": now(), "event": event, **{key: value for key, value in details.items() if value is not None}}
        line |= {key: who[key] for key in ("user", "controller", "pid", "commit") if who.get(key) is not None}
        descriptor = os.open(os.path.join(self.directory, HISTORY), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Lock an open file for this process, and return whether nobody else had."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> dict[str, Any] | None:
    """Return who holds the lock, None where nobody does."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        found = json.loads(os.read(descriptor, 65536) or b"{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) and found else None


def _write(descriptor: int, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, sort_keys=True).encode() if content else b""
    # Over what is there: on a full disk there would be no room for it once that is given away.
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def history(directory: str) -> list[dict[str, Any]]:
    """Return the lines of a stack's history, the oldest first; what cannot be read is left out."""
    lines = []
    with contextlib.suppress(OSError), open(os.path.join(directory, HISTORY), encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and {type(line.get(name)) for name in ("time", "event")} == {str} and _is_text(line)]


def _is_text(line: Mapping[str, Any]) -> bool:
    return all(value is None or isinstance(value, str) for name, value in line.items() if name != "pid")


def read(directory: str) -> dict[str, Any] | None:
    """Return who holds the lock of a stack's directory with the age of the last sign of life in seconds, None where nobody does."""
    try:
        descriptor = os.open(os.path.join(directory, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        held = _read(descriptor)
        return {**held, "age": time.time() - os.fstat(descriptor).st_mtime} if held else None
    except OSError:
        # Something else is in its place, which whoever wants it is told.
        return None
    finally:
        os.close(descriptor)


class Pulse:
    """Gives a sign of life of whoever holds the lock, not more often than is needed. Called while something is waited for."""

    def __init__(self, directory: str | None):
        self.path = os.path.join(directory, LOCK) if directory else None
        self.last = 0.0

    def __call__(self) -> None:
        """Give the sign if it is time."""
        if self.path and time.monotonic() - self.last >= BEAT:
            self.last = time.monotonic()
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                # The tasks of a deploy know its run.
                if os.environ.get(RUN) in (None, "", (_read(file.fileno()) or {}).get("run")):
                    os.utime(file.fileno())
