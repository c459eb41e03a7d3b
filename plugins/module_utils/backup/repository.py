# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository: restic in a throw-away container, with its password and its credentials in files that are mounted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils import host
from ansible_collections.campaign.platform.plugins.module_utils.backup import remote
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, Docker, Process, told

USER = "10010:10010"
FILE = "set.tar"
# A snapshot has one of these words among its tags. What is being written is incomplete until its run says otherwise.
INCOMPLETE, COMPLETE, VERIFIED, DAMAGED = "incomplete", "complete", "verified", "damaged"
STATES = (INCOMPLETE, COMPLETE, VERIFIED, DAMAGED)
GOOD = (COMPLETE, VERIFIED)
# A server that is gone is noticed within two minutes, also where nothing says so: https://github.com/restic/restic/issues/4876
_SSH = (
    *("-i", "/run/secrets/ssh_key", "-o", "UserKnownHostsFile=/run/secrets/known_hosts", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=4"),
)
# How long a server may take for its first answer.
PATIENCE_SECONDS = 120
_NO_SESSION = "unable to start the sftp session"
_ID = re.compile(r"set=([0-9A-Za-z-]+)\Z")
# https://restic.readthedocs.io/en/stable/075_scripting.html#exit-codes
# Linux takes 64 characters for the name of a host.
LONGEST_PROJECT = 40
_NO_REPOSITORY, _LOCKED, _WRONG_PASSWORD = 10, 11, 12


def _is_refused(status: int, error: str) -> bool:
    """Return whether restic ended because no key opens with the password; before 0.17 only its words say so."""
    return status == _WRONG_PASSWORD or "wrong password or no key found" in error


class NoRepositoryError(BackupError):
    """There is no repository at the place."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of this stack: restic's id, the set's, when it was made (as restic writes it), what is known of it and its size in bytes.

    The size is 0 where restic does not know it, which it writes down since 0.17.
    """

    id: str
    set: str
    time: str
    state: str
    bytes: int = 0

    def is_younger(self, seconds: float) -> bool:
        """Return whether the set was begun after a moment, in seconds since 1970."""
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))
        return self.set[: len(name)] > name


@dataclass
class Repository:
    """The repository of one stack. ``place`` is a path of the host, or restic's address of one at SFTP or S3."""

    docker: Docker
    image: str
    place: str
    project: str
    # Of the backup's own files on the host: secrets, cache, passwd.
    directory: str
    network: str = "bridge"
    compression: str = "auto"
    # Whose locks are this run's: of backups, or of what ships the log beside them.
    worker: str = "backup"
    patience: float = PATIENCE_SECONDS
    # Whether nothing is locked, by somebody who only looks while others work.
    is_watching: bool = False

    @property
    def is_local(self) -> bool:
        """Return whether the repository is a directory of the host."""
        return self.place.startswith("/")

    def host_of(self, worker: str) -> str:
        """Return the name of the host in locks. It tells this machine from another one that works for the same stack, as where a restore was tried on it."""
        return f"{self.project[:LONGEST_PROJECT]}-{worker}-{host.installation()[:8]}"

    def _secret(self, name: str) -> str | None:
        path = os.path.join(self.directory, "secrets", name)
        return path if os.path.isfile(path) else None

    def options(self, name: str, password: str = "password", new: str | None = None) -> list[str]:
        """Return the options of `docker run` for one call of restic. ``password`` is the file with it, ``new`` one with another that is to be made known."""
        mounts = {os.path.join(self.directory, "secrets", password): "/run/secrets/password", os.path.join(self.directory, "passwd"): "/etc/passwd"}
        if new:
            mounts[os.path.join(self.directory, "secrets", new)] = "/run/secrets/new_password"
        environment = {"HOME": "/tmp", "TMPDIR": "/tmp"}
        if path := self._secret("aws_credentials"):
            mounts[path] = "/run/secrets/aws_credentials"
            environment["AWS_SHARED_CREDENTIALS_FILE"] = "/run/secrets/aws_credentials"
        for name_of in ("ssh_key", "known_hosts"):
            if path := self._secret(name_of):
                mounts[path] = f"/run/secrets/{name_of}"
        if path := self._secret("ca"):
            mounts[path] = "/run/secrets/ca"
        found = ["run", "--rm", "--name", name, "--hostname", self.host_of(self.worker), *self.docker.confined(tmp="256m"), "--user", USER]
        found += ["--network", "none" if self.is_local else self.network]
        for source, target in mounts.items():
            found += ["--mount", f"type=bind,source={source},target={target},readonly"]
        if self.is_local:
            found += ["--mount", f"type=bind,source={self.place},target=/repository"]
        else:
            found += ["--mount", f"type=bind,source={os.path.join(self.directory, 'cache')},target=/cache"]
        for key, value in environment.items():
            found += ["--env", f"{key}={value}"]
        return found

    def arguments(self) -> list[str]:
        """Return the options of restic itself."""
        found = ["--password-file", "/run/secrets/password", "--repo", "/repository" if self.is_local else self.place, "--retry-lock", "5m"]
        found += ["--no-cache"] if self.is_local else ["--cache-dir", "/cache", "--cleanup-cache"]
        found += ["--no-lock"] if self.is_watching else []
        found += ["--compression", self.compression]
        if self._secret("ca"):
            found += ["--cacert", "/run/secrets/ca"]
        if self._secret("ssh_key"):
            found += ["--option", f"sftp.args={' '.join(_SSH)}"]
        return found

    def _name(self, what: str) -> str:
        return f"{self.docker.run}-{what}"

    def attempt(self, what: str, *arguments: str, password: str = "password", new: str | None = None) -> tuple[int, str, str]:
        """Return exit status, output and error of one call of restic."""
        name = self._name(what)
        try:
            return self.docker.attempt(*self.options(name, password, new), self.image, *self.arguments(), *arguments)
        finally:
            self.docker.remove_container(name)

    def ask(self, what: str, *arguments: str, password: str = "password", new: str | None = None) -> str:
        """Return the output of one call of restic; raise BackupError."""
        status, output, error = self.attempt(what, *arguments, password=password, new=new)
        if status != 0:
            raise self.failure(what, status, error)
        return output

    def failure(self, what: str, status: int, error: str) -> BackupError:
        """Return why a call of restic failed."""
        said = remote.said(error)
        if status == _NO_REPOSITORY:
            return self._missing()
        if _is_refused(status, error):
            return BackupError(f"The repository {self.place} does not open with this password. Give the one that it was made with in backup_password.")
        if status == _LOCKED:
            return BackupError(
                f"The repository {self.place} is locked by another host for longer than five minutes. Where a run was killed there, its lock goes by itself: "
                f"run this again half an hour after that. ({told(said, 200)})"
            )
        if self.is_local and "no space left on device" in said:
            return BackupError(
                f"There is no room left for the repository {self.place}. Give it more (`df {self.place}`), or keep fewer sets (backup_keep): what is not to be "
                f"kept is removed by each run, also by one whose set does not fit. ({what}: {told(said, 200)})"
            )
        if not self.is_local and (meaning := remote.meaning(said)):
            return BackupError(f"The repository {self.place} cannot be used. {meaning} ({what}: {told(said, 200)})")
        return BackupError(f"restic failed ({what}, exit code {status}): {told(said) or 'it printed nothing'}")

    def _missing(self) -> NoRepositoryError:
        way = f"Mount what it lies on (`findmnt {self.place}`), or correct" if self.is_local else "Correct"
        return NoRepositoryError(f"There is no repository at {self.place}. Nothing was changed. {way} backup_repository.")

    def _look(self, password: str = "password") -> tuple[int, str]:
        """Return exit status and error of the first call of restic. It takes no lock, which would wait for one that a killed run left.

        It is ended where another attempt cannot go otherwise, or where there is no answer for too long, and the error is that of the last attempt then.
        """
        name = self._name("open")
        process = self.docker.start(*self.options(name, password), self.image, *self.arguments(), "--no-lock", "cat", "config")
        deadline = time.monotonic() + self.patience
        try:
            while (status := process.popen.poll()) is None:
                tried = remote.last_attempt(process.error())
                if remote.is_for_good(tried):
                    return 1, tried
                if time.monotonic() >= deadline:
                    return 1, tried or f"timeout: no answer within {self.patience:g} s"
                time.sleep(0.1)
            error = process.error()
        finally:
            process.kill()
            self.docker.remove_container(name)
        if status != 0 and _NO_SESSION in error:
            # restic may end before it has passed on what ssh said.
            error = self._ssh_error() or error
        return status, error

    def _ssh_error(self) -> str:
        """Return what ssh says where it does not come to a session, an empty text where it does."""
        name = self._name("ssh")
        command = ["--entrypoint", "ssh", self.image, *_SSH, "-s", remote.ssh_target(self.place), "sftp"]
        try:
            status, _output, error = self.docker.attempt(*self.options(name), *command, seconds=PATIENCE_SECONDS)
        finally:
            self.docker.remove_container(name)
        return error if status != 0 else ""

    def opens(self, name: str) -> bool | None:
        """Return whether the password in a file opens the repository, None where there is no repository; raise BackupError where that cannot be known."""
        if self.is_local and not os.path.exists(os.path.join(self.place, "config")):
            return None
        # What it decrypts is the proof: a key may be there and hold another repository's.
        status, error = self._look(name)
        if status == _NO_REPOSITORY:
            return None
        if status != 0 and not _is_refused(status, error):
            raise self.failure("open", status, error)
        return status == 0

    def add_key(self, name: str, new: str) -> None:
        """Add a key for the password in the file ``new``, with the one in the file ``name``; raise BackupError."""
        self._unlock(name)
        self.ask("key", "key", "add", "--new-password-file", "/run/secrets/new_password", password=name, new=new)

    def remove_key_of(self, name: str, old: str) -> None:
        """Remove the key that the password in the file ``old`` opens, with the one in the file ``name``; raise BackupError."""
        self._unlock(name)
        rows = json.loads(self.ask("keys", "--no-lock", "key", "list", "--json", password=old))
        for row in rows:
            if row.get("current"):
                self.ask("key", "key", "remove", row["id"], password=name)
                return
        raise BackupError(f"restic does not say which key of {self.place} an old password opens.")

    def open(self, *, create: bool) -> None:
        """Check that the repository opens; make a new one with ``create`` where there is none, never over one that is there."""
        try:
            self.look(is_new=create)
        except NoRepositoryError:
            if not create:
                raise
            self.ask("init", "init")
        try:
            self._unlock()
        except BackupError:
            # Where nothing can be removed, nothing is written either, and who only reads needs no lock.
            if create:
                raise

    def look(self, *, is_new: bool = False) -> None:
        """Check that the repository opens, and take or remove no lock; raise BackupError. Where it may be a new one, Docker says whether its place is there."""
        if self.is_local and not is_new and not os.path.isdir(self.place):
            # Docker would not even start restic.
            raise self._missing()
        status, error = self._look()
        if status != 0:
            raise self.failure("open", status, error)

    def unlock(self, *workers: str) -> None:
        """Remove the locks that killed runs of some workers of this stack left, none of which is at work."""
        self._unlock(workers=workers)

    def _unlock(self, password: str = "password", workers: Sequence[str] = ()) -> None:
        """Remove the locks that killed runs of this stack left; those of other hosts stay as long as restic takes them for alive."""
        listed = self.ask("locks", "--no-lock", "list", "locks", password=password).split()
        if not listed:
            return
        owners = set()
        for lock in listed:
            status, output, _error = self.attempt("lock", "--no-lock", "cat", "lock", lock, password=password)
            with contextlib.suppress(ValueError):
                owners.add(json.loads(output)["hostname"] if status == 0 else None)
        # One run at a time works for this stack, and it is this one.
        own = {self.host_of(worker) for worker in workers or [self.worker]}
        self.ask("unlock", "unlock", *(["--remove-all"] if owners <= own else []), password=password)

    def all_snapshots(self) -> list[dict[str, Any]]:
        """Return all snapshots of this stack as restic lists them."""
        # A repository that is full, or mounted to be read only, takes no lock, and can be restored from.
        return json.loads(self.ask("snapshots", "snapshots", "--no-lock", "--json", "--host", self.project)) or []

    def snapshots(self) -> list[Snapshot]:
        """Return the sets of this stack, the oldest first."""
        found = []
        for row in self.all_snapshots():
            tags = row.get("tags") or []
            named = [match[1] for tag in tags if (match := _ID.match(tag))]
            states = [state for state in STATES if state in tags]
            if named:
                # What nobody vouches for is not whole.
                size = int((row.get("summary") or {}).get("total_bytes_processed") or 0)
                found.append(Snapshot(row["id"], named[0], row["time"], states[0] if len(states) == 1 else INCOMPLETE, size))
        return sorted(found, key=lambda snapshot: (snapshot.set, snapshot.time))

    def sets(self) -> list[Snapshot]:
        """Return the sets, each once: a run that was killed while it marked one leaves two snapshots of it, and the later word counts."""
        order = [INCOMPLETE, COMPLETE, VERIFIED, DAMAGED]
        found: dict[str, Snapshot] = {}
        for snapshot in sorted(self.snapshots(), key=lambda one: order.index(one.state)):
            found[snapshot.set] = snapshot
        return [found[name] for name in sorted(found)]

    def find(self, wanted: str) -> Snapshot:
        """Return a set by its id or its snapshot's, or the newest good one for `latest`; raise BackupError."""
        known = self.sets()
        good = [snapshot for snapshot in known if snapshot.state in GOOD]
        if wanted == "latest":
            if not good:
                raise BackupError(f"There is no whole set of {self.project} in {self.place}. It has {len(known)} that are not whole. Make a backup first.")
            return good[-1]
        found = [snapshot for snapshot in known if snapshot.set == wanted or (len(wanted) >= 8 and snapshot.id.startswith(wanted))]
        if len(found) != 1:
            names = ", ".join(snapshot.set for snapshot in good[-10:]) or "none"
            raise BackupError(f"There is no set {wanted} of {self.project} in {self.place}. The last whole ones are: {names}.")
        if found[0].state not in GOOD:
            raise BackupError(f"The set {found[0].set} is {found[0].state}, and is not used. Choose another one.")
        return found[0]

    def damaged_after(self, snapshot: Snapshot) -> list[str]:
        """Return the damaged sets that are newer than one, the oldest first."""
        return [one.set for one in self.sets() if one.state == DAMAGED and one.set > snapshot.set]

    def newest_until(self, seconds: float) -> Snapshot | None:
        """Return the newest good set that was begun by then (seconds since 1970), the oldest good one where all are younger, or None without any."""
        good = [snapshot for snapshot in self.sets() if snapshot.state in GOOD]
        earlier = [snapshot for snapshot in good if not snapshot.is_younger(seconds)]
        return next(iter(earlier[-1:] or good), None)

    def write(self, identifier: str) -> Writing:
        """Start writing a set."""
        return self.stream("write", FILE, f"set={identifier},{INCOMPLETE}")

    def stream(self, what: str, file: str, tags: str) -> Writing:
        """Start writing a snapshot of one file with tags."""
        name = self._name(what)
        process = self.docker.start(
            *("run", "--interactive", *self.options(name)[1:]), self.image, *self.arguments(), "backup", "--stdin", "--stdin-filename", file,
            "--json", "--quiet", "--host", self.project, "--tag", tags, stdin=-1,
        )  # fmt: skip
        return Writing(self, name, process)

    def mark(self, identifier: str, state: str) -> None:
        """Say of a set what is known of it, in place of what was; raise BackupError where there is no such set."""
        found = [snapshot for snapshot in self.snapshots() if snapshot.set == identifier]
        if not found:
            raise BackupError(
                f"The set {identifier} is not in {self.place} any more, so it was not marked as {state}: somebody has removed it meanwhile, or another "
                "repository was put in its place. Find out which, and make a backup."
            )
        for snapshot in found:
            self.ask("mark", "tag", "--set", f"set={identifier},{state}", snapshot.id)

    @contextlib.contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[Process]:
        """Yield the process that prints a set, whose end has to be waited for: restic says only then that all of it was right."""
        with self.dumping(snapshot.id, FILE) as process:
            yield process

    @contextlib.contextmanager
    def dumping(self, identifier: str, file: str) -> Iterator[Process]:
        """Yield the process that prints the file of a snapshot, whose end has to be waited for."""
        name = self._name("read")
        process = self.docker.start(*self.options(name), self.image, *self.arguments(), "--no-lock", "dump", identifier, f"/{file}")
        try:
            yield process
        finally:
            process.kill()
            self.docker.remove_container(name)

    def forget(self, policy: Mapping[str, int], also: Sequence[str] = (), made: str | None = None) -> list[str]:
        """Remove the sets that the policy does not keep and what is left of failed runs; return their ids. The last verified set always stays.

        ``also`` are snapshots without a set that go with them. ``made`` is the set that was just made: it stays, whatever the clock has named the others.
        Where none was made, what its run left behind goes too, which no snapshot names.
        """
        known = self.snapshots()
        # `restic tag` writes the new snapshot before it removes the old one: where it was killed, the old word of a set that is damaged is still there.
        damaged = {snapshot.set for snapshot in known if snapshot.state == DAMAGED}
        good = [snapshot for snapshot in known if snapshot.state in GOOD and snapshot.set not in damaged]
        if belied := [snapshot for snapshot in known if snapshot.state in GOOD and snapshot.set in damaged]:
            # First of all, so that the policy does not count them and nobody is left with them alone.
            self.ask("forget", "forget", *[snapshot.id for snapshot in belied])
        last = max((snapshot for snapshot in good if snapshot.state == VERIFIED), default=None, key=lambda one: one.set)
        kept = {last, good[-1] if good else None, *(snapshot for snapshot in good if snapshot.set == made)}
        # What differs in a row from what it should be may be all that there is of the last days: it goes when a newer set was seen to come back.
        differing = [snapshot for snapshot in known if snapshot.state == DAMAGED and not (last and last.set > snapshot.set)]
        doomed = [snapshot for snapshot in known if snapshot.state not in GOOD and snapshot not in differing]
        # Each by itself, so that a broken set takes no place of a good one.
        doomed += self._too_many(good, GOOD, policy) + self._too_many(differing, (DAMAGED,), policy)
        doomed = [snapshot for snapshot in doomed if snapshot not in kept]
        if doomed or also:
            self.ask("forget", "forget", "--prune", *[snapshot.id for snapshot in doomed], *also)
        elif not made:
            self.ask("prune", "prune")
        return [snapshot.set for snapshot in doomed]

    def _too_many(self, snapshots: Sequence[Snapshot], states: Sequence[str], policy: Mapping[str, int]) -> list[Snapshot]:
        """Return those of some sets, all that are in some states, that the policy does not keep."""
        keep = [word for name, count in sorted(policy.items()) if count for word in (f"--keep-{name}", str(count))]
        if not keep or not snapshots:
            return []
        tags = [word for state in states for word in ("--tag", state)]
        answer = self.ask("policy", "forget", "--dry-run", "--json", "--host", self.project, "--group-by", "host", *tags, *keep)
        named = {row["id"] for group in json.loads(answer) for row in group.get("remove") or []}
        return [snapshot for snapshot in snapshots if snapshot.id in named]

    def check(self, *arguments: str) -> None:
        """Have restic check the repository; raise BackupError."""
        self.ask("check", "check", *arguments)

    def sizes(self) -> dict[str, Any]:
        """Return how large the repository is, in bytes, as restic counts it."""
        return json.loads(self.ask("stats", "stats", "--mode", "raw-data", "--json"))


@dataclass
class Writing:
    """A set that is being written. Only `finish` makes it one."""

    repository: Repository
    name: str
    process: Process

    def finish(self) -> dict[str, Any]:
        """End the set and return restic's summary; raise BackupError where it is not stored whole."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        output = self.process.stdout.read().decode(errors="replace")
        status = self.process.wait()
        self.repository.docker.remove_container(self.name)
        if status != 0:
            raise self.repository.failure("backup", status, self.process.error())
        summaries = [row for row in _rows(output) if row.get("message_type") == "summary"]
        if not summaries or not summaries[-1].get("snapshot_id"):
            raise BackupError("restic ended well and did not say which snapshot it wrote.")
        return summaries[-1]

    def abandon(self) -> None:
        """End restic before it sees the end of its input, which it would take for the end of the set."""
        self.repository.docker.remove_container(self.name)
        self.process.kill()

    def why(self) -> BackupError:
        """Return why restic does not take any more."""
        status = self.process.wait(60)
        return self.repository.failure("backup", status, self.process.error())


@contextlib.contextmanager
def whole(writing: Writing) -> Iterator[None]:
    """Write a snapshot to its end, or give it up: nothing that was cut off is kept. Raises BackupError, with restic's reason where it takes no more."""
    try:
        yield
    except BrokenPipeError:
        why = writing.why()
        writing.abandon()
        raise why from None
    except BaseException:
        writing.abandon()
        raise


def _rows(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def words(snapshots: Sequence[Snapshot]) -> list[str]:
    """Return the sets as lines of text."""
    return [f"{snapshot.set}  {snapshot.state:10}  snapshot {snapshot.id[:8]}" for snapshot in snapshots]
