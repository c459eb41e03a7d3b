# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that backs a stack up, tries its sets, and restores one. The playbooks and the timer call it on the host, and a person may.

It needs Python and Docker's client, and nothing else. Its exit codes: 0 it was done; 1 it was not; 3 a restore was not confirmed; 4 a set was made, and
something that the database names is missing in it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils import host, image_names, links, lock, manifest
from ansible_collections.campaign.platform.plugins.module_utils.backup import (
    copies,
    making,
    moments,
    moving,
    password,
    plain,
    postgres,
    redis,
    s3,
    sets,
    state,
    swap,
    wal,
)
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import (
    BackupError,
    DamagedSetError,
    Docker,
    Limits,
    Service,
    UnknownSetError,
    service_of,
    told,
)
from ansible_collections.campaign.platform.plugins.module_utils.backup.repository import (
    COMPLETE,
    DAMAGED,
    GOOD,
    PATIENCE_SECONDS,
    VERIFIED,
    NoRepositoryError,
    Repository,
    Snapshot,
    whole,
    words,
)
from ansible_collections.campaign.platform.plugins.module_utils.compose import config_command
from ansible_collections.campaign.platform.plugins.module_utils.engine import Engine, EngineError

DONE, FAILED, NOT_CONFIRMED, MISSING = 0, 1, 3, 4
RUNNING, SHIPPING = "running", "shipping"
STOP_SECONDS = 150
# The Engine may be busy with what was just stopped.
ENGINE_SECONDS = 60.0
PULSE_SECONDS = 5
LOG_LINES = 20
# Who holds the lock gives a sign of life more often.
ALIVE_SECONDS = 20
# Of what each way of removing old data leaves.
_LEFT = {
    swap.RESTORE: "An upgrade of PostgreSQL replaced its data, and -e revert=true needs it. "
    "The playbook upgrade_postgres removes it, with -e upgrade_postgres_old_volumes=remove",
    swap.UPGRADE: "A restore replaced its data. The playbook restore removes it, with -e backup_old_volumes=remove",
}
# A server that no container runs of is waited for as long, because a deploy may be replacing it. One that was stopped on purpose is told of soon enough.
GONE_SECONDS = 60.0
# After this time, a first base backup that failed is tried again.
AGAIN_SECONDS = 600
# How long who ships the log is waited for: it makes the first base backup of a cluster, which takes as long as that is large.
BASE_SECONDS = 12 * 3600
# After this time somebody who waits is told so.
WAITING_SECONDS = 10.0
# What the log of a throw-away PostgreSQL takes at most, whose max_wal_size is 2 GB and is no hard limit; that of a small database is about as large as that.
LOG_BYTES, LEAST_LOG_BYTES = 3 * 1024**3, 256 * 1024**2
# How much larger a database may be as SQL, where bytes are written as two digits each and nothing is compressed.
SQL_FACTOR = 2


class BusyError(BackupError):
    """Another backup, drill or restore of this stack is at work."""


class ShippingError(BackupError):
    """The log is being shipped, for longer than somebody waits for it."""


def has_ended(other: dict[str, Any]) -> bool:
    """Return whether the holder of a lock is a process of this machine that is gone."""
    machine, pid = host.machine(), other.get("pid")
    return other.get("machine") == machine and isinstance(pid, int) and other.get("run") != f"{machine}-{pid}-{host.started(pid)}"


def unit_of(project: str) -> str | None:
    """Return the unit of systemd's that this process was started by on schedule, None for none."""
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            name = line.strip().rpartition("/")[2]
            if name.startswith(f"{project}-backup") and name.endswith(".service"):
                return name
    return None


@dataclass
class Backups:
    """The backups of the stack in a directory of the host."""

    directory: str
    quiet: bool = False
    # What was asked for, to be told to others who find it at work.
    command: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    # The data from before a restore that was cut off is in its place again, and nothing was started over it.
    is_down: bool = False
    # The set that this run has made. Where the clock was wrong once, it is not the one that counts as the latest.
    made: str | None = None
    # Another repository than the one that backups are made in is read, with a configuration and secrets of its own.
    is_other: bool = False

    def __post_init__(self) -> None:
        self.own = os.path.join(self.directory, state.DIRECTORY)
        self.kept = os.path.join(self.own, state.OTHER) if self.is_other else self.own
        if not self.config:
            self.config = self._configuration()
        self.project = self.config["project"]
        self.run = f"{self.project}-backup-{secrets.token_hex(4)}"
        limits = Limits(self.config["memory"], str(self.config["cpus"]))
        self.docker = Docker(self.project, os.path.join(self.directory, "client"), self.run, self.config["socket"], limits)
        self.repository = Repository(
            self.docker,
            self.config["image"],
            self.config["repository"],
            self.project,
            self.kept,
            self.config.get("network") or "bridge",
            patience=float(self.config.get("patience") or PATIENCE_SECONDS),
        )
        self.started = time.monotonic()

    def _configuration(self) -> dict[str, Any]:
        path = os.path.join(self.kept, state.CONFIG)
        try:
            with open(path, encoding="utf-8") as file:
                found: dict[str, Any] = json.load(file)
                return found
        except (OSError, ValueError) as error:
            raise BackupError(f"{path} cannot be read ({type(error).__name__}). Set backups up again with the playbook backup.") from None

    def say(self, text: str) -> None:
        """Tell who waits what is being done."""
        if not self.quiet:
            print(f"{time.monotonic() - self.started:7.1f} s  {text}", flush=True)

    # --- One at a time, and not in the middle of a deploy

    @contextlib.contextmanager
    def one_at_a_time(self, seconds: float = 0) -> Iterator[None]:
        """Work while no other backup, drill or restore of this stack does; raise BusyError where one does for longer than some seconds."""
        with open(os.path.join(self.own, RUNNING), "a", encoding="ascii") as file:
            began = time.monotonic()
            waits = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() - began >= seconds:
                        raise BusyError(self._at_work()) from None
                if not waits:
                    self.say(f"another backup, drill or restore of {self.project} is at work and is waited for")
                waits = True
                time.sleep(0.2)
            row = {"command": self.command, "pid": os.getpid(), "since": sets.moment(), "unit": unit_of(self.project)}
            with contextlib.suppress(OSError):
                # Not needed by anybody but who is refused, so a full disk is no reason to end.
                file.truncate(0)
                file.write(json.dumps(row))
                file.flush()
            yield

    def _at_work(self) -> str:
        """Return who is at work, and what to do about it."""
        row: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError), open(os.path.join(self.own, RUNNING), encoding="ascii") as file:
            row = dict(json.load(file))
        who = f"`{row.get('command') or '?'}`, process {row.get('pid', '?')}, since {row.get('since', '?')}"
        way = f"systemctl stop {row['unit']}" if row.get("unit") else f"kill {row.get('pid', 'PID')}"
        return (
            f"Another backup, drill or restore of {self.project} is at work: {who}. Nothing was changed. Wait, or end it on the host, as root: `{way}`, and "
            "run this again. An unfinished set is never used."
        )

    @contextlib.contextmanager
    def not_shipping(self, seconds: float = BASE_SECONDS) -> Iterator[None]:
        """Work while nobody ships the log, which may otherwise go on beside everything else; raise ShippingError where that takes longer than some seconds."""
        with open(os.path.join(self.own, SHIPPING), "a", encoding="ascii") as file:
            began, waits = time.monotonic(), False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waits and time.monotonic() - began >= WAITING_SECONDS:
                        self.say("the log of PostgreSQL is being shipped, perhaps with its first base backup; that is waited for")
                        waits = True
                    if time.monotonic() - began >= seconds:
                        raise ShippingError(
                            f"The log of {self.project} has been shipped for longer than {seconds:g} s, and was not waited for any more. "
                            "Nothing of the stack was changed. Do it again when that has ended."
                        ) from None
                    time.sleep(0.2)
            yield

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Have the repository for this run alone, which restic wants where it changes what is there."""
        if not self.config.get("point_in_time"):
            yield
            return
        with self.not_shipping():
            # Of runs that were killed; none is at work.
            self.repository.unlock("backup", "wal")
            yield

    def mark(self, identifier: str, word: str) -> None:
        """Say of a set what is known of it."""
        with self.exclusively():
            self.repository.mark(identifier, word)

    @contextlib.contextmanager
    def alone(self, seconds: float = 0) -> Iterator[None]:
        """Work while no other backup, drill or restore of this stack does, and clean up what one that was killed left behind."""
        with self.one_at_a_time(seconds):
            self.clean()
            try:
                yield
            finally:
                self.clean()

    def clean(self) -> None:
        """Remove what only a run needed. Old data that a restore replaced stays."""
        if os.path.exists(os.path.join(self.directory, lock.SWAP)):
            # What lies in which volume is not known yet.
            return
        self.docker.sweep()
        for volume in swap.unfinished(self.directory):
            self.docker.remove_volume(volume)
        swap.end(self.directory)
        for name in os.listdir(self.own):
            if name.startswith("private-"):
                copies.empty(os.path.join(self.own, name))

    def holder(self) -> dict[str, Any]:
        """Return who works, for the stack's lock."""
        machine, pid = host.machine(), os.getpid()
        return {
            "user": host.user(),
            "controller": socket.gethostname(),
            "machine": machine,
            "pid": pid,
            "run": f"{machine}-{pid}-{host.started(pid)}",
            "commit": None,
        }

    @contextlib.contextmanager
    def locked(self, *, repairs: bool = False) -> Iterator[lock.Lock]:
        """Hold the stack's lock: no deploy starts meanwhile, and one that runs is waited for. Raises BackupError where that takes too long."""
        wanted = lock.Lock(self.directory, self.holder())
        began = time.monotonic()
        deadline = began + float(self.config["lock_wait"])
        dead, waits = None, False
        while True:
            try:
                wanted.acquire(dead=dead, repairs=repairs)
                break
            except lock.MixedVolumesError:
                raise
            except lock.LockedError as error:
                if dead is None and has_ended(error.holder):
                    dead = error.holder["run"]
                    continue
                if time.monotonic() >= deadline:
                    raise BackupError(self._waited(error.holder, time.monotonic() - began)) from None
                if not waits:
                    self.say(f"{error.holder.get('user')}@{error.holder.get('controller')} works on the stack and is waited for")
                waits = True
                time.sleep(2)
        ended = threading.Event()

        def beat() -> None:
            pulse = lock.Pulse(self.directory)
            while not ended.wait(PULSE_SECONDS):
                pulse()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield wanted
        finally:
            ended.set()
            thread.join()
            wanted.release()

    def _waited(self, holder: Mapping[str, Any], seconds: float) -> str:
        """Return what to do about another run that did not end in some seconds. Unlike a deploy, nothing here takes its lock over."""
        pid, controller = holder.get("pid"), holder.get("controller")
        age = (lock.read(self.directory) or {}).get("age", 0)
        if abs(age) < ALIVE_SECONDS:
            seen, way = "still gives signs of life", f"Wait until it has ended, or end it where it runs ({controller}, process {pid}), and run this again."
        else:
            seen, way = f"gave its last sign of life {age:.0f} s ago", f"Run this again in {lock.LEASE:.0f} s: if it was killed, its lock has ended by then."
        return (
            f"Another run works on this stack: {holder.get('user')}@{controller}, process {pid}, since {holder.get('since')}. "
            f"It was waited for {seconds:.0f} s and {seen}. Nothing was changed. {way}"
        )

    # --- The repository

    def open(self, *, create: bool) -> None:
        """Open the repository, after a change of its password that did not end has; raise BackupError."""
        if not self.config.get("repository"):
            raise BackupError("No backups were set up for this stack. Say where they are kept, and run the playbook backup. Nothing was changed.")
        if self.is_other:
            self.say(f"reading {self.config['repository']}; backups go on being made where they were set up")
        secret_files = os.path.join(self.kept, "secrets")
        if password.is_changing(secret_files):
            password.change(secret_files, self.repository)
        self.repository.open(create=create)
        if password.is_changing(secret_files):
            # It was just made, and has one key.
            password.change(secret_files, self.repository)

    def change_password(self) -> int:
        """Have the repository open with the password that was written down last, and with no earlier one; return an exit code."""
        with self.one_at_a_time():
            done = password.change(os.path.join(self.own, "secrets"), self.repository)
        self.say("the new password is in force" + ("" if done else "; there is no repository yet"))
        return DONE

    # --- The stack as it is

    def release(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the manifest of the current release, and its configuration as Docker Compose reads it; raise BackupError."""
        path = os.path.join(self.directory, "current", manifest.NAME)
        try:
            written = manifest.read(path)
        except manifest.ManifestError as error:
            raise BackupError(str(error)) from None
        command = config_command(
            self.config["socket"], self.directory, written["project"], written["compose_files"], written["env_file"] or "/dev/null", "--format", "json"
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise BackupError(f"Docker Compose does not read the release {written['release']}: {told(done.stderr)}")
        return written, copies.loaded(done.stdout)

    def servers(self, configuration: dict[str, Any]) -> copies.Servers:
        """Return the servers of the stack that keep data."""
        return copies.Servers(*(service_of(name, configuration) for name in ("postgres", "redis", "minio")))

    def container(self, service: Service) -> str:
        """Return the id of a service's container that runs; raise BackupError."""
        found = self.docker.ask(
            "ps", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}", "--filter", f"label=com.docker.compose.service={service.name}",
            "--filter", "label=com.docker.compose.oneoff=False", "--filter", "status=running",
        ).split()  # fmt: skip
        if len(found) != 1:
            raise BackupError(f"{service.name} has {len(found)} containers that run, and one is needed. Deploy, or see the playbook doctor.")
        return found[0]

    def check_redis(self, servers: copies.Servers) -> None:
        """Raise BackupError where the Redis that runs does not write the files that its keys are read from."""
        if servers.redis:
            try:
                container = self.container(servers.redis)
            except BackupError:
                # Of one that does not run, what lies in its volume is all there is.
                return
            redis.check_log(self.docker, container)

    # --- Backup

    def backup(self) -> int:
        """Make a set; return an exit code."""
        identifier = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
        about: dict[str, Any] = {"set": identifier, "started": sets.moment(), "result": "failed", "error": None}
        try:
            with self.alone():
                found = self._make(identifier, about)
                missing = making.missing(found)
                self.made = identifier
                about |= {"result": "ok", "ended": sets.moment()}
                if missing:
                    about |= {"result": "missing", "error": f"{missing} objects that the database names are not in the bucket, such as {found['missing'][0]}."}
                success = {name: about[name] for name in ("set", "ended")} | {"moment": found["moments"]["database"]}
                success |= {"seconds": round(time.monotonic() - self.started, 1), "bytes": found["bytes"], "place": self.repository.place}
                # It holds all that there was to be had, and what is missing is told each time.
                self._write_down(last_run=about, last_success=success)
                self._go_on(identifier)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            why = str(error) if isinstance(error, BackupError | lock.LockedError | EngineError) else f"{type(error).__name__}"
            if isinstance(error, BusyError):
                raise
            about |= {"result": "failed", "ended": sets.moment(), "error": why or type(error).__name__}
            self._write_down(last_run=about)
            self._tell("failed", about["error"])
            raise
        if about["error"]:
            self._tell("missing", about["error"])
            print(about["error"], file=sys.stderr)
            return MISSING
        return DONE

    def _go_on(self, made: str) -> None:
        """Do what follows a set that is whole: a base backup that fails each night is no reason to keep everything and to check nothing."""
        errors: list[Exception] = []
        for step in (self._follow_log, lambda: self._keep(made)):
            try:
                step()
            except (BackupError, EngineError, lock.LockedError, OSError) as error:
                errors.append(error)
        if len(errors) > 1:
            raise BackupError(" ".join(map(str, errors)))
        if errors:
            raise errors[0]

    def _follow_log(self) -> None:
        if self.config.get("point_in_time"):
            self._base()
        elif wal.read_state(self.directory):
            self._end_log()

    def backup_and_drill(self) -> int:
        """Make a set and try it, also where something failed after it was made; return an exit code."""
        try:
            code = self.backup()
        except (BackupError, EngineError, lock.LockedError, OSError) as error:
            if not self.made:
                raise
            print(str(error), file=sys.stderr)
            code = FAILED
        drilled = self.drill_newest()
        return code or drilled

    def _write_down(self, **rows: Any) -> None:
        if self.is_other:
            # What is known of another repository's sets is not known of the stack's.
            rows = {name: row for name, row in rows.items() if name == "last_restore"}
        with contextlib.suppress(OSError):
            state.publish(self.config, state.update(self.directory, **rows))

    def _tell(self, event: str, message: str) -> None:
        if wrong := state.tell(self.config, event, message):
            print(f"Nobody was told of it: {wrong}.", file=sys.stderr)

    def _forget(self, made: str | None) -> list[str]:
        """Remove what is not to be kept, and return the sets that are gone; only within `exclusively`."""
        rows = self.repository.all_snapshots()
        bases, pieces = moments.index(rows)
        days, is_on = int(self.config.get("point_in_time_days") or 7), bool(self.config.get("point_in_time"))
        also = moments.doomed(bases, pieces, time.time(), days, is_on=is_on) + moments.unfinished(rows)
        return self.repository.forget(self.config["keep"], also, made)

    def _make_room(self) -> None:
        """Remove what is not to be kept, and what the run left behind, also where no set was made: what is full would stay so, and no later set would fit."""
        try:
            # Of one that is away, restic waits for each answer a quarter of an hour, and nobody is told meanwhile.
            self.repository.look()
            with self.exclusively():
                # What wrote the set was ended, and has left its lock, which would be waited for.
                self.repository.unlock()
                self._forget(None)
        except (BackupError, EngineError, lock.LockedError, OSError) as error:
            print(f"What is not to be kept was not removed either: {error}", file=sys.stderr)

    def _keep(self, made: str) -> None:
        with self.exclusively():
            removed = self._forget(made)
            self.repository.check()
        known = self.repository.sets()
        self._write_down(**self._facts(known))
        if wrong := state.ahead(state.read(self.directory)["newest_set"], time.time()):
            print(wrong, file=sys.stderr)
            self._tell("clock_wrong", wrong)
        self.say(f"{len(known)} sets are kept" + (f", {len(removed)} were removed" if removed else ""))

    def _facts(self, known: list[Snapshot]) -> dict[str, Any]:
        """Return what the status says of sets, of which the newest one stands last."""
        newest = [one.set for one in known if one.state in GOOD][-1:]
        return {"sets": {"count": len(known), "verified": sum(one.state == VERIFIED for one in known)}, "newest_set": newest[0] if newest else None}

    def _make(self, identifier: str, about: dict[str, Any]) -> dict[str, Any]:
        written, configuration = self.release()
        servers = self.servers(configuration)
        if not servers.present():
            raise BackupError("The release has none of the servers that keep data: they stand outside the stack, whose provider backs them up.")
        self.check_redis(servers)
        self.say(f"opening the repository {self.repository.place}")
        self._open_or_begin()
        try:
            self._await_servers(servers)
            # Again, because it may have run only since.
            self.check_redis(servers)
            writing = self.repository.write(identifier)
            with whole(writing):
                made = making.Making(self, servers, written, sets.Writer(writing.process.stdin), identifier, about["started"])
                found = made.write()
                summary = writing.finish()
            self.mark(identifier, COMPLETE)
        except (BackupError, EngineError, lock.LockedError, OSError):
            self._make_room()
            raise
        self.say(f"the set {identifier} is stored: {found['bytes']} bytes, of which {summary.get('data_added_packed', 0)} are new in the repository")
        return found

    def _await_servers(self, servers: copies.Servers) -> None:
        """Wait for the servers that a set is asked of, which need their time after a start of the machine; raise BackupError where one does not run.

        One that runs and does not become healthy in time is asked all the same, and what is wrong with it is told then. Of Redis, only the files are read.
        """
        asked = [service for service in (servers.postgres, servers.minio) if service]
        began, waits = time.monotonic(), False
        while True:
            states: dict[str, dict[str, Any]] = {}
            # A container that is being replaced may be gone before it can be looked at.
            with contextlib.suppress(BackupError):
                states = self._states()
            late = [service.name for service in asked if not self._is_healthy(states.get(service.name))]
            limit = float(self.config["health_timeout"])
            if not all((states.get(name) or {}).get("Running") for name in late):
                limit = min(limit, GONE_SECONDS)
            if not late or time.monotonic() - began >= limit:
                break
            if not waits:
                self.say(f"waiting for {' and '.join(late)} to become healthy, {limit:g} s at most")
            waits = True
            time.sleep(1)
        for service in asked:
            self.container(service)

    def _open_or_begin(self) -> None:
        """Open the repository, and begin a new one where none has been; raise BackupError.

        Where a set was made there before, an empty place is a mount that is missing: a new repository would lie on this host's own disk, and nobody would know.
        """
        place, last = self.repository.place, state.read(self.directory)["last_success"] or {}
        if last.get("place") != place:
            self.open(create=True)
            return
        try:
            self.open(create=False)
        except NoRepositoryError:
            path = state.path_of(self.directory, state.STATUS)
            raise BackupError(
                f"There is no repository at {place} any more, and the set {last.get('set')} was made there. Mount what it lies on. If it was removed on "
                f"purpose, remove {path}: the next backup begins a new one."
            ) from None

    # --- The log of PostgreSQL

    def _shipping(self) -> wal.Shipping:
        """Return who ships the log, with a repository of its own whose locks are told from those of a backup."""
        # Nobody who cleans up after a backup takes what ships the log for a backup's.
        docker = dataclasses.replace(self.docker, project=f"{self.project}/wal", run=f"{self.project}-wal-{secrets.token_hex(4)}")
        repository = dataclasses.replace(self.repository, docker=docker, worker="wal")
        return wal.Shipping(self.directory, repository, wal.server_of(docker, self.project), self.say)

    def ship(self) -> int:
        """Bring what PostgreSQL has written since into the repository; return an exit code. It goes on beside a backup, a drill and a deploy."""
        if not self.config.get("point_in_time"):
            raise BackupError("Points in time are not set up for this stack. Set stack_point_in_time, deploy, and run the playbook backup.")
        if os.path.exists(os.path.join(self.directory, lock.UPGRADE)):
            # Another cluster may come and go again, and what begins its log anew would stop a service that is being verified.
            return DONE
        try:
            with self.not_shipping(20):
                return self._ship()
        except ShippingError:
            # The one that is at work ships it.
            return DONE

    def _ship(self) -> int:
        before, error = wal.read_state(self.directory), None
        shipping = None
        try:
            shipping = self._shipping()
            shipping.repository.docker.sweep()
            self._ship_now(shipping)
        except (BackupError, EngineError, OSError, KeyError, ValueError) as caught:
            error = str(caught) if isinstance(caught, BackupError | EngineError) else type(caught).__name__
            if shipping and not isinstance(caught, wal.BehindError) and shipping.spare():
                error += " The volume of the service wal has grown too large, so the log in it was given up; a new base backup follows once it can be shipped."
        known = {**wal.read_state(self.directory), "at": sets.moment(), "error": error}
        if error:
            known["failing_since"] = before.get("failing_since") or sets.moment()
            print(error, file=sys.stderr)
        else:
            known.pop("failing_since", None)
        wal.write_state(self.directory, known)
        # Told once, and not twice a minute. A deploy stops the server for a moment, which is nothing to tell.
        if error and not before.get("told") and state.seconds_since(known["failing_since"], time.time()) >= state.LOG_SECONDS:
            self._tell("log_late", error)
            wal.write_state(self.directory, {**known, "told": True})
        elif not error and before.get("told"):
            wal.write_state(self.directory, {**known, "told": False})
        return FAILED if error else DONE

    def _ship_now(self, shipping: wal.Shipping) -> None:
        try:
            shipping.ship()
        except BackupError as caught:
            if isinstance(caught, wal.BehindError) or "locked" not in str(caught):
                raise
            with self.one_at_a_time():
                # Of a backup that was killed.
                shipping.repository.unlock("backup", "wal")
            shipping.ship()
        shipping.forget()
        if (shipping.known.get("base") or {}).get("line") == shipping.known.get("line"):
            return
        # The first one of a log that has just begun, also after a restore.
        tried = shipping.known.get("base_tried")
        if tried is None or abs(time.time() - tried) >= AGAIN_SECONDS:
            shipping.note(base_tried=time.time())
            shipping.note_base(shipping.base())
            shipping.ship(seal=True)

    def _base(self) -> None:
        """Make a base backup, and have the log follow it."""
        with self.not_shipping():
            shipping = self._shipping()
            self._ship_until_it_is_there(shipping)
        # It goes on beside who ships the log, as a part of this backup.
        base = wal.Shipping(self.directory, self.repository, shipping.server, self.say).base()
        with self.not_shipping():
            # With what the timer has shipped meanwhile.
            shipping.note_base(base)
            shipping.ship(seal=True)

    def _end_log(self) -> None:
        """Have the server keep nothing any more for a service that is gone."""
        _written, configuration = self.release()
        if (service := service_of("postgres", configuration)) and not service_of(wal.SERVICE, configuration):
            user = service.environment["POSTGRES_USER"]
            with self.not_shipping():
                wal.drop_slot_of(self.docker, self.container(service), user)
                os.unlink(state.path_of(self.directory, state.LOG))

    def _ship_until_it_is_there(self, shipping: wal.Shipping) -> None:
        """Ship the log, and wait for a service that has only just been started."""
        deadline = time.monotonic() + float(self.config["health_timeout"])
        while True:
            try:
                shipping.ship()
                return
            except wal.BehindError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(2)

    # --- Drill

    @contextlib.contextmanager
    def _drilled(self, about: dict[str, Any], name: str) -> Iterator[None]:
        """Work alone on a drill; where it fails, that is written down under a name of the status, and told."""
        try:
            with self.alone():
                yield
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, BusyError):
                raise
            about |= {"result": "failed", "error": str(error) if isinstance(error, BackupError | EngineError) else type(error).__name__}
            self._write_down(**{name: about})
            self._tell("drill_failed", about["error"])
            raise

    def drill(self, wanted: str) -> int:
        """Bring a set back into throw-away servers and compare it; return an exit code."""
        about: dict[str, Any] = {"set": wanted, "at": sets.moment(), "result": "failed", "error": None, "problems": [], "seconds": None}
        with self._drilled(about, "last_drill"):
            written, configuration = self.release()
            self.open(create=False)
            snapshot = self.repository.find(wanted)
            about["set"] = snapshot.set
            servers = self.servers(configuration)
            self._check_room(servers, size=snapshot.bytes)
            started = time.monotonic()
            names = {name: f"{self.run}_{name}" for name in servers.present()}
            with copies.private_directory(self.own) as private:
                for name in names.values():
                    self.docker.create_volume(name)
                copy = copies.Copy(self.docker, servers, names, private, None, self.say)
                try:
                    found, problems = copy.load(self.repository, snapshot)
                except DamagedSetError as error:
                    raise DamagedSetError(f"{error}{self._marked(snapshot.set, DAMAGED)}") from None
            remarks = self._remarks(copy)
            about |= {"seconds": round(time.monotonic() - started, 1), "release": written["release"], "problems": problems[:20], "remarks": remarks[:20]}
            if problems:
                unmarked = self._marked(snapshot.set, DAMAGED)
                raise BackupError(f"{len(problems)} things are not as the set {snapshot.set} says: {'; '.join(problems[:5])}{unmarked}")
            self.mark(snapshot.set, VERIFIED)
            about |= {"result": "ok", "error": None}
            self._write_down(last_drill=about, last_good_drill=about, **self._facts(self.repository.sets()))
            self.say(f"the set {snapshot.set} came back whole in {about['seconds']:g} s")
            if missing := making.missing(found):
                # They were not there when it was made, as the backup has told.
                print(f"{missing} objects that its database names were not in the bucket, such as {found['missing'][0]}.", file=sys.stderr)
                return MISSING
        return DONE

    @staticmethod
    def _remarks(copy: copies.Copy) -> list[str]:
        """Tell, also who wants to hear of nothing else than what is wrong, what was not brought back and is no damage, and return it."""
        remarks = [copy.refused[key] for key in sorted(copy.refused)]
        for text in remarks:
            print(text, flush=True)
        return remarks

    def _marked(self, identifier: str, word: str) -> str:
        """Say of a set what a drill has found, and return why that was not possible, an empty text where it was: what was found comes first."""
        try:
            self.mark(identifier, word)
        except (BackupError, OSError) as error:
            return f" The set could not be marked as {word}, and may be taken for a good one: {error}"
        return ""

    def drill_newest(self) -> int:
        """Try the set that was just made, or else the newest one, and, where every moment is kept, the last moment; return an exit code."""
        code = self.drill(self.made or "latest")
        return (self.drill_moment("latest") if self.config.get("point_in_time") else DONE) or code

    def drill_moment(self, wanted: str) -> int:
        """Bring the database of a moment back into a throw-away server, and read all of it; return an exit code."""
        about: dict[str, Any] = {"moment": wanted, "at": sets.moment(), "result": "failed", "error": None, "seconds": None}
        with self._drilled(about, "last_moment_drill"):
            _written, configuration = self.release()
            servers = copies.Servers(self.servers(configuration).postgres, None, None)
            self.open(create=False)
            bases, pieces = self._index()
            way, moment = self._choose(bases, pieces, wanted)
            about["moment"] = moments.words(moment.timestamp() if moment else way.until)
            self._check_room(servers, way)
            started = time.monotonic()
            with copies.private_directory(self.own) as private:
                name = self.docker.create_volume(f"{self.run}_postgres")
                copy = copies.Copy(self.docker, servers, {"postgres": name}, private, None, self.say)
                found, reached = self._recovered(copy, bases, pieces, wanted, is_drill=True)
            about["moment"] = moments.words(reached)
            rows = sum(table["rows"] for database in found.values() for table in database["tables"].values())
            about |= {"seconds": round(time.monotonic() - started, 1), "result": "ok"}
            self._write_down(last_moment_drill=about, last_good_moment_drill=about)
            self.say(f"the database of {about['moment']} came back in {about['seconds']:g} s, with {rows} rows")
        return DONE

    # --- Restore

    def _cut_off(self) -> str:
        """Return what is the case where a restore was cut off while it exchanged the volumes, an empty text where none was."""
        if not os.path.exists(os.path.join(self.directory, lock.SWAP)):
            return ""
        what = "A restore was cut off while it exchanged the volumes, so they may not belong together, and perhaps no service runs."
        return f"{what} {lock.undoing(self.directory)}"

    @contextlib.contextmanager
    def _restoring(self) -> Iterator[None]:
        """Work alone on a restore; where it is refused, say also what one that was cut off before has left."""
        try:
            with self.alone():
                yield
        except (BackupError, EngineError, lock.LockedError, OSError) as error:
            left = "The data from before the restore that was cut off is in its place again, and no service runs: deploy." if self.is_down else self._cut_off()
            if not left or isinstance(error, lock.MixedVolumesError | BusyError):
                raise
            why = f"{error.strerror}: {error.filename or ''}." if isinstance(error, OSError) else error
            raise BackupError(f"{why} {left}") from None

    def restore_moment(self, wanted: str, confirmed: str | None) -> int:
        """Bring a moment back into the stack; return an exit code. Until the volumes are exchanged, nothing of the stack is touched."""
        with self._restoring():
            written, configuration = self.release()
            servers = self.servers(configuration)
            if not servers.postgres:
                raise BackupError("The release has no PostgreSQL of its own: it stands outside the stack, whose provider brings moments of it back.")
            self.open(create=False)
            bases, pieces = self._index()
            way, moment = self._choose(bases, pieces, wanted)
            until = moment.timestamp() if moment else way.until
            others = copies.Servers(None, servers.redis, servers.minio)
            # Redis and the objects are not written down moment by moment.
            snapshot = self.repository.newest_until(until) if others.present() else None
            if others.present() and not snapshot:
                print(f"There is no whole set of {self.project} in {self.repository.place}: the database alone can be brought back.", flush=True)
            what = f"The database as it was at {moments.words(until)}"
            if snapshot:
                what += f", with {' and '.join(others.present())} of the set {snapshot.set}"
            print(f"The base backup {way.base.name} ({way.base.bytes // 1024**2} MiB) is taken for it, and the log that follows it.", flush=True)
            if snapshot:
                if snapshot.is_younger(until):
                    print("Every whole set is younger than that moment, and so what it has may be younger too.", flush=True)
                print(f"What came into {' and '.join(others.present())} after that set was made is not in it.", flush=True)
                print("Objects that the database names and the set does not have are taken from the bucket as it is.", flush=True)

            def load(copy: copies.Copy) -> tuple[dict[str, Any], list[str]]:
                self._check_room(servers, way, size=snapshot.bytes if snapshot else 0)
                return self._load_moment(copy, bases, pieces, wanted, others, snapshot)

            lost = f"All that was stored here after {moments.words(until)} would be lost to the stack; it stays in volumes of other names."
            return self._bring(what, f"moment {moments.words(until)}", servers, written, confirmed, load, self._log_volume(configuration, servers), lost)

    def _index(self) -> tuple[list[moments.Base], list[moments.Piece]]:
        """Return bases and pieces of the repository, with what this host knows better of them."""
        bases, pieces = moments.index(self.repository.all_snapshots())
        known = wal.read_state(self.directory)
        if not self.is_other and known.get("line") and known.get("open") and known.get("covered"):
            pieces = moments.known_later(pieces, known["line"], known["open"], float(known["covered"]))
        return bases, pieces

    def _choose(self, bases: list[moments.Base], pieces: list[moments.Piece], wanted: str) -> tuple[moments.Way, datetime.datetime | None]:
        """Return the way to a moment, and the moment, and say whose it is where the log of another cluster could be meant; raise BackupError."""
        way, moment = moments.choose(bases, pieces, wanted)
        if text := moments.choice(bases, pieces, way, wal.read_state(self.directory).get("line")):
            print(text, flush=True)
        return way, moment

    def _log_volume(self, configuration: dict[str, Any], servers: copies.Servers) -> dict[str, str]:
        """Return the volume of the log, which is of another cluster after a restore and so begins anew; none where PostgreSQL is not restored and stays."""
        service = service_of(wal.SERVICE, configuration) if servers.postgres else None
        return {wal.SERVICE: copies.volume_of(service)[1]} if service else {}

    def _load_moment(
        self,
        copy: copies.Copy,
        bases: list[moments.Base],
        pieces: list[moments.Piece],
        wanted: str,
        others: copies.Servers,
        snapshot: Snapshot | None,
    ) -> tuple[dict[str, Any], list[str]]:
        problems: list[str] = []
        parts = {"postgres"}
        if snapshot:
            rest = dataclasses.replace(copy, servers=others, without=frozenset(["postgres"]))
            mark = f"A drill marks it, and then an older one is taken: {self.directory}/backup/run drill --set {snapshot.set}"
            try:
                of_the_set, problems = rest.load(self.repository, snapshot)
            except UnknownSetError:
                raise
            except DamagedSetError as error:
                raise BackupError(f"{error} {mark}") from None
            if problems:
                problems = [*problems[:4], mark]
            parts |= set(of_the_set["parts"])
        found, _moment = self._recovered(copy, bases, pieces, wanted, look=self._fill if "minio" in parts else None)
        return {"databases": found, "parts": sorted(parts)}, problems

    def _recovered(
        self,
        copy: copies.Copy,
        bases: list[moments.Base],
        pieces: list[moments.Piece],
        wanted: str,
        *,
        look: Callable[[copies.Copy, str, str], None] | None = None,
        is_drill: bool = False,
    ) -> tuple[dict[str, Any], float]:
        """Bring a database to a moment, around what is not whole; return what it has, and the moment in seconds since 1970. Raises BackupError.

        It is the moment that these bases and pieces lead to. For a drill, nobody has confirmed the latest one, and the one before shows as much; a base
        backup that is damaged and what restic fails at end a drill, which is there to find them. ``look`` is called as by a recovery.
        """
        way, moment = moments.choose(bases, pieces, wanted)
        target = moment.timestamp() if moment else None if is_drill else way.until
        while True:
            try:
                found = wal.Recovery(copy, self.repository, way, moment).run(look)
            except wal.WayError as error:
                if not isinstance(error, wal.DamagedPieceError):
                    if is_drill:
                        raise
                    # Where it is the repository that cannot be reached, no other way leads anywhere.
                    self.repository.look()
                bases = [base for base in bases if base.snapshot != error.snapshot]
                pieces = [piece for piece in pieces if piece.snapshot != error.snapshot]
                way = moments.around(bases, pieces, way.base.line, target, str(error))
                self.say(f"{error} Another way is taken")
                continue
            return found, moment.timestamp() if moment else way.until

    def _fill(self, copy: copies.Copy, container: str, user: str) -> None:
        """Take objects that the recovered database names and that are not in the set from the bucket as it is, and tell of those that are not there either."""
        service = copy.servers.minio
        if not service:
            return
        query = making.objects_query(self.config, self.release()[0])
        database = copy.servers.postgres.environment.get("POSTGRES_DB") or user if copy.servers.postgres else user
        if not query:
            return
        try:
            with postgres.session(self.docker, container, user, database) as opened:
                wanted = set(making.named_objects(opened, query))
        except postgres.UnknownNameError:
            # As it was before a migration.
            self.say(
                "the database of that moment does not have the tables or columns that backup_objects_query asks for, so no objects were taken from the bucket "
                "as it is: those of the set are there, and what came later stays in the old volume"
            )
            return
        with copy.minio(service) as client:
            there = {(one.bucket, one.key) for bucket in client.buckets() for one in client.objects(bucket)}
            missing, found = wanted - there, 0
            if missing:
                with contextlib.suppress(BackupError):
                    live = copies.s3_client(self.docker, self.container(service), service, service.secrets)
                    with contextlib.closing(live):
                        for bucket in sorted({bucket for bucket, _key in missing} & set(live.buckets())):
                            # What cannot be listed to its end, or made, is no reason to lose the others.
                            with contextlib.suppress(BackupError):
                                if bucket not in client.buckets():
                                    # It is of after the set.
                                    client.create_bucket(bucket)
                                for listed in live.objects(bucket):
                                    found += (listed.bucket, listed.key) in missing and self._take_object(live, client, listed)
        lost = len(missing) - found
        self.say(f"of {len(wanted)} objects that the database names, {found} came from the bucket as it is, and {lost} are lost")

    def _take_object(self, live: s3.Client, client: s3.Client, listed: s3.Listed) -> bool:
        """Take an object as it is; return whether it could be had."""
        with contextlib.suppress(BackupError):
            with live.opened(listed) as (answer, about):
                client.put(listed.bucket, listed.key, answer, about["size"], about["headers"])
            if about["tagged"]:
                client.put_tags(listed.bucket, listed.key, live.tags(listed.bucket, listed.key))
            return True
        return False

    def restore(self, wanted: str, confirmed: str | None) -> int:
        """Bring a set back into the stack; return an exit code. Until the volumes are exchanged, nothing of the stack is touched."""
        with self._restoring():
            written, configuration = self.release()
            servers = self.servers(configuration)
            self.open(create=False)
            snapshot = self.repository.find(wanted)
            if wanted == "latest" and (damaged := self.repository.damaged_after(snapshot)):
                print(
                    f"{len(damaged)} newer sets are damaged and are not used, of which {damaged[-1]} is the last: a drill has found something in each that is "
                    "not as it says. Much of it may be right, and restic alone brings it out of the repository.", flush=True,
                )  # fmt: skip
            what = f"The set {snapshot.set} (state: {snapshot.state})"

            def load(copy: copies.Copy) -> tuple[dict[str, Any], list[str]]:
                self._check_room(servers, size=snapshot.bytes)
                return copy.load(self.repository, snapshot)

            return self._bring(what, snapshot.set, servers, written, confirmed, load, self._log_volume(configuration, servers))

    def _bring(
        self,
        what: str,
        identifier: str,
        servers: copies.Servers,
        written: dict[str, Any],
        confirmed: str | None,
        load: Callable[[copies.Copy], tuple[dict[str, Any], list[str]]],
        empty: Mapping[str, str],
        lost: str = "All that was stored here after it was made would be lost to the stack; it stays in volumes of other names.",
    ) -> int:
        """Load what was stored elsewhere into new volumes, compare it, and exchange these for the stack's; return an exit code.

        ``empty`` are volumes by name that begin anew, ``lost`` says what would be lost.
        """
        print(f"{what} would take the place of what is stored in {self.project} now.", flush=True)
        print(lost, flush=True)
        if confirmed != self.project:
            if left := self._cut_off():
                print(left, flush=True)
            print(f"Nothing was changed. To do it, say so: -e backup_restore_confirm={self.project} (on the host: --confirm {self.project})", flush=True)
            return NOT_CONFIRMED
        self._undo()
        live = {name: copies.volume_of(service)[1] for name, service in servers.present().items()} | dict(empty)
        names = {name: f"{volume}-{self.run.rpartition('-')[2]}" for name, volume in live.items()}
        secret_files = {name: dict(service.secrets) for name, service in servers.present().items()}
        with copies.private_directory(self.own) as private:
            swap.begin(self.directory, sorted(names.values()))
            for name in names.values():
                self.docker.create_volume(name, throw_away=False)
            for name, volume in empty.items():
                # Docker gives a new volume its owner for a new container only.
                before, new = os.stat(swap.path_of(self.docker, volume)), swap.path_of(self.docker, names[name])
                os.chown(new, before.st_uid, before.st_gid)
                os.chmod(new, stat.S_IMODE(before.st_mode))
            copy = copies.Copy(self.docker, servers, names, private, secret_files, self.say)
            found, problems = load(copy)
        if left := [name for name in servers.present() if name not in found["parts"]]:
            # The new volume of each is empty, and goes.
            self.say(f"it has nothing of {' and '.join(left)}, as where that stood outside the stack: what is stored there stays as it is")
            servers = dataclasses.replace(servers, **dict.fromkeys(left))
            live = {name: volume for name, volume in live.items() if name in servers.present() or (servers.postgres and name in empty)}
            if not live:
                raise BackupError(f"{what} has nothing of what the present release keeps. Nothing was changed.")
        database = servers.postgres.environment.get("POSTGRES_DB") if servers.postgres else None
        if database and database not in found["databases"]:
            problems.append(f"there is no database {database}, which the present release uses, among {', '.join(found['databases']) or 'none'}")
        if problems:
            raise BackupError(f"{what} did not come back whole. Nothing was changed. {'; '.join(problems[:5])}")
        self._exchange(what, identifier, {live[name]: names[name] for name in live}, written, servers)
        for database, views in copy.empty_views.items() if servers.postgres else ():
            # What was restored is in use, whatever comes of it.
            try:
                told_of = postgres.fill(self.docker, self.container(servers.postgres), servers.postgres.environment["POSTGRES_USER"], database, views)
            except BackupError as error:
                told_of = f"{database}: the materialized views {', '.join(views)} are empty: {error} Fill them by REFRESH MATERIALIZED VIEW"
            self.say(told_of)
        self._remarks(copy)
        return DONE

    # --- Out and in

    def export(self, target: str, *, passwords: bool) -> int:
        """Write all that is stored into a directory that needs none of this; return an exit code."""
        with self.alone():
            written, configuration = self.release()
            servers = self.servers(configuration)
            if not servers.present():
                raise BackupError("The release has none of the servers that keep data: they stand outside the stack. Nothing was written.")
            self.check_redis(servers)
            plain.check_target(target, self.directory)
            with plain.written_whole(target) as made:
                sizes = self._sizes(servers)
                plain.check_space(made, sum(sizes.values()) + sizes.get("postgres", 0) * (SQL_FACTOR - 1))
                found = making.Exporting(self, servers, written, plain.Directory(made), self.run, sets.moment(), passwords).write()
            self.say(f"{target} has the export: {found['bytes']} bytes. README.md in it says how to load it")
        if missing := making.missing(found):
            print(f"{missing} objects that the database names are not in the bucket, such as {found['missing'][0]}. The rest is there.", file=sys.stderr)
            return MISSING
        return DONE

    def _sizes(self, servers: copies.Servers) -> dict[str, int]:
        """Return about how many bytes are stored, by server."""
        sizes = {}
        if service := servers.postgres:
            user = service.environment["POSTGRES_USER"]
            with postgres.session(self.docker, self.container(service), user, service.environment.get("POSTGRES_DB") or user) as opened:
                sizes["postgres"] = postgres.size(opened)
        if service := servers.minio:
            container = self.container(service)
            with contextlib.closing(copies.s3_client(self.docker, container, service, service.secrets)) as client:
                sizes["minio"] = sum(listed.size for bucket in client.buckets() for listed in client.objects(bucket))
        if service := servers.redis:
            with contextlib.suppress(BackupError):
                sizes["redis"] = host.size_of(swap.path_of(self.docker, copies.volume_of(service)[1]))
        return sizes

    def take_export(self, directory: str, confirmed: str | None) -> int:
        """Bring an export into the stack; return an exit code. Until the volumes are exchanged, nothing of the stack is touched."""
        with self._restoring():
            written, configuration = self.release()
            servers = self.servers(configuration)
            found = plain.manifest_of(directory)
            if missing := sorted(set(servers.present()) - set(found["parts"])):
                raise BackupError(f"The export {directory} has no part of {', '.join(missing)}, which this stack keeps data in. Nothing was changed.")
            if servers.postgres:
                theirs = found["versions"]["postgres"].partition(".")[0]
                ours = postgres.major_in(self.docker, servers.postgres.image, f"{self.run}-version")
                if int(theirs) > int(ours):
                    raise BackupError(f"The export is of PostgreSQL {theirs}, and this stack's is {ours}, which is older. Nothing was changed.")
            self._check_space(servers, 2 * host.size_of(directory))
            what = f"The export {directory} of {found['project']}, made {found['moments']['ended']},"
            return self._bring(
                what,
                self.run,
                servers,
                written,
                confirmed,
                lambda copy: copy.take(lambda one: plain.read(directory, found, one)),
                self._log_volume(configuration, servers),
            )

    def move_in(self, other: str, given: dict[str, str | None], confirmed: str | None) -> int:
        """Bring the data of another Compose project into the stack; return an exit code. Its volumes are only read."""
        with self._restoring():
            written, configuration = self.release()
            every = self.servers(configuration).present()
            live = {name: copies.volume_of(service)[1] for name, service in every.items()}
            volumes = moving.names_of(self.project, other, live, given)
            servers = copies.Servers(*(every.get(name) if name in volumes else None for name in ("postgres", "redis", "minio")))
            docker = dataclasses.replace(self.docker, run=f"{self.run}-other")

            def check() -> dict[str, str]:
                return moving.check(docker, other, volumes, live)

            source = moving.Source(docker, self.directory, other, self.say, servers, volumes, check())
            moving.look(source, servers.postgres.image if servers.postgres else "")
            # The copies that are read, and what is made of them.
            self._check_space(servers, 2 * sum(map(host.size_of, source.paths.values())))
            what = f"What the project {other} stores in {', '.join(volumes.values())}"

            def load(copy: copies.Copy) -> tuple[dict[str, Any], list[str]]:
                with copies.private_directory(self.own) as private:
                    return copy.take(lambda one: source.read(written, private, check, one))

            return self._bring(what, self.run, servers, written, confirmed, load, self._log_volume(configuration, servers))

    def _check_room(self, servers: copies.Servers, way: moments.Way | None = None, *, size: int = 0) -> None:
        """Raise BackupError where all that is stored would not fit beside itself: a full disk ends those who work on it, and nobody would look at night.

        ``size`` is that of the set, in bytes: what is brought back after a mistake may be much more than what is there now. The server that it is written
        into has a log of its own, and a way to a moment brings the one that it is made from, after its base backup.
        """
        try:
            sizes = self._sizes(servers)
        except BackupError:
            # What does not run cannot be asked.
            sizes = {}
        log = min(LOG_BYTES, sizes["postgres"] + LEAST_LOG_BYTES) if "postgres" in sizes else 0
        for one in way.pieces if way else ():
            log += (moments.number(one.last, one.segment) - moments.number(one.first, one.segment) + 1) * one.segment
        stored = max(sum(sizes.values()), size, way.base.bytes if way else 0)
        if stored:
            self._check_space(servers, stored + log)

    def _check_space(self, servers: copies.Servers, needed: int) -> None:
        """Raise BackupError where the Engine's volumes have not as many bytes left."""
        for service in servers.present().values():
            plain.check_space(swap.path_of(self.docker, copies.volume_of(service)[1]), needed)
            return

    def _as_deployed(self, written: dict[str, Any], servers: copies.Servers) -> dict[str, Any]:
        """Return the manifest of the release that is current by now: deploys went on while the volumes were written, for the servers of the one given.

        Raise BackupError where what keeps the data is not what it was then.
        """
        found, configuration = self.release()
        if found["release"] == written["release"]:
            return written
        deployed = f"The release {found['release']} was taken into use while the data was written, for {written['release']}"
        there = self.servers(configuration).present()
        if any(there.get(name) != service for name, service in servers.present().items()):
            raise BackupError(f"{deployed}, and its servers are other ones. Nothing was changed. Do it again, and deploy nothing meanwhile.")
        self.say(f"{deployed}; it is the one that is started again")
        return found

    def _exchange(self, what: str, identifier: str, volumes: dict[str, str], written: dict[str, Any], servers: copies.Servers) -> None:
        """Stop the services, exchange the volumes and start the services over the new ones; put the old ones back where they do not come up.

        The volumes were made for ``servers`` of the release ``written``.
        """
        with self.not_shipping(), self.locked() as held:
            written = self._as_deployed(written, servers)
            rows = swap.plan(self.docker, volumes)
            # Not all of it was written by a server that sees to it. It takes its time before anything is stopped.
            os.sync()
            swap.announce(self.directory, rows, {"set": identifier, "at": sets.moment(), "run": self.run})
            why = f"{what} was not put in the place of what is there."
            try:
                self.is_down = False
                self.say("stopping the services")
                self.stop()
                self.say("exchanging the volumes")
                swap.swap(rows)
                self.say("starting the services over the restored data")
                swap.start(self.directory)
                why = f"The stack does not come up over this: {what}."
                self.start(written)
            except BaseException as error:
                self.say("that failed; the data from before is put back")
                self._stop_for_undo()
                _done, kept = swap.undo(self.directory)
                why += f" {error if isinstance(error, BackupError | OSError) else type(error).__name__}"
                try:
                    self.start(written)
                except BackupError as other:
                    before = "The data from before is in its place again, and the services do not come up over it either"
                    raise BackupError(f"{why} {before}: {other} {_tried(kept)}".rstrip()) from None
                raise BackupError(f"{why} What was there before runs again. {_tried(kept)}".rstrip()) from error
            swap.commit(self.directory, self.run)
            # From here on it is in use, and nothing that goes wrong is a reason to say that it is not.
            try:
                held.record("restored", release=written["release"])
                self._write_down(last_restore={"set": identifier, "at": sets.moment(), "old_volumes": sorted(volumes.values())})
            except OSError as error:
                print(f"The restore is not written down, but it is in use: {error.strerror}: {error.filename or self.directory}", file=sys.stderr)
        self.say(f"{what} is in use. The data from before is in {', '.join(sorted(volumes.values()))}")

    def _stop_for_undo(self) -> None:
        """Stop all containers of the project; where nothing was exchanged yet, one that cannot be stopped keeps nobody from going back."""
        try:
            self.stop()
        except BackupError as error:
            if swap.is_begun(self.directory):
                raise
            self.say(f"nothing was exchanged yet, so it does not matter that {error}")

    def stop(self) -> None:
        """Stop all containers of the project, those that others need last."""
        servers = {"postgres", "redis", "minio"}
        template = '{{.ID}} {{.Label "com.docker.compose.service"}}'
        listed = self.docker.ask("ps", "--filter", f"label=com.docker.compose.project={self.project}", "--format", template).splitlines()
        rows = [line.split(" ", 1) for line in listed]
        for last in (False, True):
            doomed = [identifier for identifier, service in rows if (service in servers) is last]
            if doomed:
                self.docker.ask("stop", "--time", "90", *doomed, seconds=STOP_SECONDS)

    def start(self, written: dict[str, Any]) -> None:
        """Run the jobs of the current release and start its services; raise BackupError where one does not get healthy."""
        # A deploy that was killed may have left the names of secrets with those of its own release.
        links.renew(self.directory, written)
        # The stack's own client: while it works, nobody takes the lock, even if this process is killed.
        command = [os.path.join(self.directory, "client/docker"), "compose", "--project-directory", self.directory, "--project-name", self.project]
        command += ["--env-file", written["env_file"], *(word for path in written["compose_files"] for word in ("--file", path))]

        engine = Engine(self.config["socket"], timeout=ENGINE_SECONDS)

        def ask(*arguments: str) -> None:
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode != 0:
                raise BackupError(f"`docker compose {' '.join(arguments[:3])}` failed with exit code {done.returncode}: {told(done.stderr)}")

        # With the images that it ran with, whatever their names mean by now.
        with image_names.lending(engine, self.directory, os.path.join(self.directory, "current")):
            # What their last run left behind would count as done.
            if written["jobs"]:
                ask("--profile", "job", "rm", "--force", "--stop", "--volumes", *written["jobs"])
            for job in written["first_jobs"]:
                ask("--profile", "job", "run", "--rm", "--no-deps", "-T", job)
            ask("--profile", "job", "up", "--detach", "--no-build", *written["foundations"], *written["jobs"])
            self._await(written["jobs"], self._has_ended)
            ask("up", "--detach", "--no-build", "--remove-orphans")
        self._await(written["services"], self._is_healthy)

    def _states(self) -> dict[str, dict[str, Any]]:
        # Not those that somebody has run by hand, which nothing here removes.
        labels = (f"com.docker.compose.project={self.project}", "com.docker.compose.oneoff=False")
        listed = self.docker.ask("ps", "--all", "--quiet", *(word for label in labels for word in ("--filter", f"label={label}"))).split()
        found = json.loads(self.docker.ask("container", "inspect", *listed)) if listed else []
        return {item["Config"]["Labels"].get("com.docker.compose.service", ""): item["State"] for item in found}

    def _await(self, names: list[str], is_done: Callable[[dict[str, Any] | None], bool | None]) -> None:
        deadline = time.monotonic() + float(self.config["health_timeout"])
        while True:
            states = self._states()
            found = {name: is_done(states.get(name)) for name in names}
            if all(found.values()):
                return
            failed = [name for name, done in found.items() if done is None]
            if failed or time.monotonic() >= deadline:
                culprits = failed or [name for name, done in found.items() if not done]
                # What is put back removes the containers of jobs, and their logs with them.
                logs = "\n".join(self._last_lines(name) for name in culprits)
                more = f"`docker compose -p {self.project} logs {' '.join(culprits)}` shows more, as long as the container is there."
                raise BackupError(f"{', '.join(culprits)} did not come up.\n{logs}\n{more}")
            time.sleep(0.5)

    def _last_lines(self, name: str) -> str:
        """Return the end of the log of a service's newest container."""
        labels = (f"com.docker.compose.project={self.project}", f"com.docker.compose.service={name}")
        found = self.docker.ask("ps", "--all", "--quiet", *(word for label in labels for word in ("--filter", f"label={label}"))).split()
        _status, output, error = self.docker.attempt("logs", "--tail", str(LOG_LINES), found[0]) if found else (0, "", "")
        lines = f"{output}{error}".rstrip().splitlines()[-LOG_LINES:] or ["(nothing)" if found else "(there is no container)"]
        return "\n".join([f"The last lines of the log of {name}:", *(f"    {line}" for line in lines)])

    def _has_ended(self, found: dict[str, Any] | None) -> bool | None:
        """Return whether a job has ended well, None where it has not."""
        if not found or found["Status"] != "exited":
            return False
        return True if found["ExitCode"] == 0 else None

    def _is_healthy(self, found: dict[str, Any] | None) -> bool | None:
        if not found or not found["Running"]:
            return False
        return (found.get("Health") or {"Status": "healthy"})["Status"] == "healthy"

    def _undo(self) -> list[str]:
        """Put back what a restore that was cut off had exchanged."""
        if not os.path.exists(os.path.join(self.directory, lock.SWAP)):
            return []
        with self.locked(repairs=True):
            self._stop_for_undo()
            done, kept = swap.undo(self.directory)
        self.is_down = True
        self.clean()
        self.say(f"a restore was cut off; the data from before lies in its place again ({', '.join(done) or 'none was exchanged'})")
        if kept:
            self.say(_tried(kept))
        return done

    def undo(self) -> int:
        """Put back what a restore that was cut off had exchanged; return an exit code."""
        with self.alone():
            self._undo()
            self.say("nothing of a restore is left. Deploy, which starts the services")
        return DONE

    def remove_old(self, kind: str = swap.RESTORE) -> int:
        """Remove the volumes with the data that restores replaced, or upgrades of PostgreSQL, and say which are left; return an exit code."""
        with self.alone():
            doomed = swap.replaced(self.directory, kind)
            left = [volume for identifier, volumes in swap.replaced(self.directory).items() if identifier not in doomed for volume in volumes]
            for identifier, volumes in doomed.items():
                for volume in volumes:
                    self.docker.remove_volume(volume)
                    self.say(f"{volume} is removed")
                swap.forget(self.directory, identifier)
            if not doomed:
                self.say("nothing is to be removed")
            for volume in left:
                self.say(f"{volume} is left. {_LEFT[kind]}")
        return DONE

    # --- Questions

    def list(self) -> int:
        """Show the sets, also while others work; return an exit code."""
        try:
            with self.alone():
                self.open(create=False)
                self._show()
        except BusyError:
            # It takes no lock of restic's and cleans nothing up, so whoever works does not notice it.
            self.repository.is_watching = True
            self.repository.look()
            self._show()
        return DONE

    def _show(self) -> None:
        print("\n".join(words(self.repository.sets())) or "There is no set.")
        for since, until in moments.ranges(*self._index()):
            print(f"Every moment from {moments.words(since + 1)} to {moments.words(until)}")

    def check(self, *, read_all: bool) -> int:
        """Have restic check the repository, with all data on demand; return an exit code."""
        with self.alone():
            self.open(create=False)
            self.repository.check(*(["--read-data"] if read_all else []))
            self.say("the repository is whole" + (", all of its data was read" if read_all else ""))
        return DONE

    def watch(self) -> int:
        """Tell who has to know that something is wrong; return an exit code."""
        found = state.findings(state.read(self.directory), self.config, time.time())
        state.publish(self.config, state.read(self.directory))
        for row in found:
            print(f"{row['name']}: {row['seen']}")
            # Who ships the log tells of it himself, where he gets to it.
            is_told = row["name"] == "log late" and wal.read_state(self.directory).get("told")
            if row["name"] in ("backup late", "drill late", "log late") and not is_told:
                self._tell(row["name"].replace(" ", "_"), row["seen"])
        return FAILED if any(row["severity"] == "failure" for row in found) else DONE


def _tried(kept: list[str]) -> str:
    """Return where data is kept that services had been started over before the data from before was put back; an empty text for none."""
    if not kept:
        return ""
    removal = "The playbook restore removes it, with -e backup_old_volumes=remove"
    return f"What was restored, with what was written since the services were started over it, is in {', '.join(sorted(kept))}. {removal}."


def volumes_of(text: str) -> dict[str, str | None]:
    """Return volumes by server from JSON; raise ValueError."""
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(name, str | None) for name in found.values()):
        raise ValueError(text)
    return found


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    """Entry point; return the exit code."""
    parser = argparse.ArgumentParser(prog="run", description="Backups of one stack: make one, try one, restore one.")
    parser.add_argument("--directory", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--other", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quiet", action="store_true", help="say nothing but what is wrong")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("backup", help="make a set")
    one.add_argument("--drill", action="store_true", help="and try it")
    one = commands.add_parser("drill", help="bring a set back into throw-away servers and compare it, and the last moment where every one is kept")
    which = one.add_mutually_exclusive_group()
    which.add_argument("--set", help="a set, and nothing else")
    which.add_argument("--moment", metavar="MOMENT", help="the database of a moment, which is read as a whole, and nothing else")
    one = commands.add_parser("export", help="write all that is stored into a directory that needs none of this")
    one.add_argument("--to", metavar="DIRECTORY", required=True, help="a new or empty one")
    one.add_argument("--passwords", action="store_true", help="with the hashes of the roles' passwords")
    one = commands.add_parser("move-in", help="bring the data of an export, or of another Compose project, into the stack")
    where = one.add_mutually_exclusive_group(required=True)
    where.add_argument("--export", metavar="DIRECTORY", help="what `export` has written")
    where.add_argument("--project", metavar="OTHER", help="a Compose project of this host that is stopped")
    one.add_argument("--volumes", metavar="JSON", type=volumes_of, default={}, help='volumes of it with other names, or none: {"redis": ""}')
    one.add_argument("--confirm", metavar="PROJECT", help="the stack's project, typed by a person")
    one = commands.add_parser("restore", help="bring a set or a moment back into the stack")
    one.add_argument("--set", default="latest")
    one.add_argument("--moment", metavar="MOMENT", help="with its time zone, such as 2026-11-27T05:00:00Z; latest for the last one that was shipped")
    one.add_argument("--confirm", metavar="PROJECT", help="the stack's project, typed by a person")
    commands.add_parser("ship", help="bring what PostgreSQL has written since into the repository")
    commands.add_parser("list", help="show the sets, and which moments can be brought back")
    commands.add_parser("change-password", help="end a change of the repository's password, which the playbook begins")
    one = commands.add_parser("check", help="have restic check the repository")
    one.add_argument("--read-data", action="store_true", help="and read all of its data")
    commands.add_parser("watch", help="tell what is wrong with the backups")
    commands.add_parser("undo", help="put the old data back after a restore that was cut off")
    commands.add_parser("remove-old", help="remove the volumes with the data that restores replaced")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    os.umask(0o077)
    try:
        backups = Backups(given.directory, given.quiet, given.command, is_other=given.other)
        if given.command == "backup":
            return backups.backup_and_drill() if given.drill else backups.backup()
        if given.command == "drill":
            if given.moment:
                return backups.drill_moment(given.moment)
            return backups.drill(given.set) if given.set else backups.drill_newest()
        if given.command == "restore":
            return backups.restore_moment(given.moment, given.confirm) if given.moment else backups.restore(given.set, given.confirm)
        if given.command == "export":
            return backups.export(given.to, passwords=given.passwords)
        if given.command == "move-in" and given.export:
            return backups.take_export(given.export, given.confirm)
        if given.command == "move-in":
            return backups.move_in(given.project, given.volumes, given.confirm)
        if given.command == "check":
            return backups.check(read_all=given.read_data)
        if given.command == "change-password":
            return backups.change_password()
        return int(
            {"list": backups.list, "ship": backups.ship, "watch": backups.watch, "undo": backups.undo, "remove-old": backups.remove_old}[given.command]()
        )
    except (BackupError, EngineError, lock.LockedError) as error:
        print(str(error), file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"{error.strerror}: {error.filename or ''}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
