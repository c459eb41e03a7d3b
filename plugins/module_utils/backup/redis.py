# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis' part of a set: a copy of its append-only files, which holds every write that was acknowledged, so that waiting jobs survive.

The files are copied from the volume, which is mounted read-only: no user of the stack's Redis may read all keys, and none is added for backups.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
import time
from collections.abc import Iterator
from typing import IO, Any

from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, Docker, Service, await_answer, give, running, told
from ansible_collections.campaign.platform.plugins.module_utils.backup.sets import Ending

# A rewrite of the log that starts while files are copied gives other files; then they are copied again.
ATTEMPTS = 10
_CHANGED, _NO_LOG = 9, 8
_COPY = """
set -eu
cd /from
[ -d appendonlydir ] || exit 8
list() { cat appendonlydir/*.manifest; }
before=$(list)
rm -rf /to/appendonlydir
cp -pR appendonlydir /to/
[ "$(list)" = "$before" ] || exit 9
for name in $(printf '%s\n' "$before" | sed -n 's/^file \\([^ ]*\\) .*/\\1/p'); do [ -f "/to/appendonlydir/$name" ] || exit 9; done
"""
# With `appendfsync everysec` a write that was acknowledged is in the file up to two seconds later, while the disk is busy with the one before it
# (flushAppendOnlyFile in Redis' aof.c). No user of the stack's Redis may wait for it (WAITAOF).
HELD_BACK_SECONDS = 3
# What the processes of a container have open.
_OPEN = "ls -l /proc/[0-9]*/fd 2>/dev/null"
# A server that has just loaded its files has opened none to write to for a moment.
_LOOKS = 5
RDB = "dump.rdb"
LOAD_SECONDS = 600
# As many as nobody has, because one that is numbered higher than a server knows ends it while it loads.
DATABASES = 1024
# Keys and fields that end by themselves may be gone by the time of a comparison, so what is compared is what stays. Fields do so since Redis 7.4.
_FORGET = """
local left = 0
for database = 0, tonumber(ARGV[1]) - 1 do
  redis.call('SELECT', database)
  local cursor = '0'
  repeat
    local found = redis.call('SCAN', cursor, 'COUNT', 1000)
    cursor = found[1]
    for _, key in ipairs(found[2]) do
      if redis.call('PTTL', key) >= 0 then
        redis.call('DEL', key)
      elseif redis.call('TYPE', key).ok == 'hash' then
        local place = '0'
        repeat
          local fields = redis.call('HSCAN', key, place, 'COUNT', 1000)
          place = fields[1]
          for at = 1, #fields[2], 2 do
            local ends = redis.pcall('HPTTL', key, 'FIELDS', 1, fields[2][at])
            if not ends.err and ends[1] and ends[1] >= 0 then redis.call('HDEL', key, fields[2][at]) end
          end
        until place == '0'
      end
    end
  until cursor == '0'
  left = left + redis.call('DBSIZE')
end
return left
"""


class NoLogError(BackupError):
    """There are no append-only files, or old ones: what else Redis stores is of the last time that it was saved, if it ever was."""

    def __init__(self, seen: str):
        super().__init__(
            f"Redis writes no append-only file ({seen}), and its keys are read from that: none of them would be stored, or those of long ago. Nothing of this "
            "run is kept, and earlier sets stay. Turn it on (`appendonly yes`) without losing keys, as docs/troubleshooting.md says, and run this again."
        )


def check_log(docker: Docker, container: str) -> None:
    """Raise NoLogError where the Redis in a container has no append-only file open to write to, whatever lies in its volume.

    No user of it may ask for its settings, and they can change while it runs. The container's user sees the files that it has open. Where not even what it
    waits with is seen, as where it runs as another user, nothing is known, and what lies in the volume is all there is.
    """
    for attempt in range(_LOOKS):
        _status, seen, _error = docker.attempt("exec", container, "sh", "-c", _OPEN)
        if "/appendonlydir/" in seen or "eventpoll" not in seen:
            return
        if attempt < _LOOKS - 1:
            time.sleep(1)
    raise NoLogError("`appendonly no`")


def copy(docker: Docker, service: Service, source: str, target: str, name: str) -> None:
    """Copy the append-only files of a Redis that may be at work into an empty volume; raise BackupError, which is a NoLogError where there are none.

    What one at work has acknowledged in the last HELD_BACK_SECONDS may be in none of them yet.
    """
    for _attempt in range(ATTEMPTS):
        try:
            status, _output, error = docker.attempt(
                "run", "--rm", "--name", name, *docker.confined(), "--network", "none", "--user", "0:0", "--cap-add", "DAC_READ_SEARCH", "--cap-add", "CHOWN",
                "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER", "--entrypoint", "/bin/sh", "--volume", f"{source}:/from:ro", "--volume", f"{target}:/to",
                service.image, "-c", _COPY,
            )  # fmt: skip
        finally:
            docker.remove_container(name)
        if status == 0:
            return
        if status == _NO_LOG:
            raise NoLogError(f"the volume {source} has no appendonlydir")
        if status not in (_CHANGED, 1):
            raise BackupError(f"The files of Redis cannot be copied (exit code {status}): {error.strip()[-300:]}")
    raise BackupError(f"The files of Redis changed {ATTEMPTS} times while they were copied.")


@contextlib.contextmanager
def _holder(docker: Docker, service: Service, volume: str, name: str) -> Iterator[str]:
    """Create a container that is never started and has a volume, so that files can be brought into it and out of it without any program in the image."""
    try:
        yield docker.ask("create", "--name", name, *docker.labels(), "--network", "none", "--volume", f"{volume}:/data", service.image, "true").strip()
    finally:
        docker.remove_container(name)


def files(docker: Docker, service: Service, volume: str, name: str) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield path, size and bytes of each file of a Redis in a volume; each has to be read before the next."""
    with _holder(docker, service, volume, name):
        process = docker.start("cp", f"{name}:/data/.", "-")
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    if member.isfile():
                        content = archive.extractfile(member)
                        yield member.name.removeprefix("./"), member.size, content
                    archive.members = []  # type: ignore[attr-defined]
            if (status := process.wait(60)) != 0:
                raise BackupError(f"The files of Redis cannot be read: `docker cp` ended with exit code {status}: {told(process.error())}")
        except tarfile.TarError:
            raise BackupError("The files of Redis cannot be read: what `docker cp` gave is cut off.") from None
        finally:
            process.kill()


class Writer:
    """Writes files into the volume of a Redis, as its user."""

    def __init__(self, docker: Docker, service: Service, volume: str, name: str):
        self.docker, self.name, self.service, self.volume = docker, name, service, volume
        uid, _colon, gid = service.user.partition(":")
        self.owner = (int(uid or 0), int(gid or 0))
        docker.ask("create", "--name", name, *docker.labels(), "--network", "none", "--volume", f"{volume}:/data", service.image, "true")
        self.process = docker.start("cp", "-", f"{name}:/data", stdin=-1)
        self.archive = tarfile.TarFile.open(fileobj=Ending(self.process.stdin), mode="w|", format=tarfile.PAX_FORMAT)
        self.made: set[str] = set()

    def _entry(self, path: str, kind: bytes, mode: int, size: int = 0) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.size = kind, mode, size
        entry.uid, entry.gid = self.owner
        return entry

    def add(self, path: str, size: int, content: IO[bytes]) -> None:
        """Write one file; raise BackupError for a path that leads elsewhere."""
        if not re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?", path) or ".." in path:
            raise BackupError(f"The set has a file of Redis under a name that Redis does not use: {path[:80]!r}.")
        directory = path.rpartition("/")[0]
        if directory and directory not in self.made:
            self.made.add(directory)
            self.archive.addfile(self._entry(directory, tarfile.DIRTYPE, 0o755))
        self.archive.addfile(self._entry(path, tarfile.REGTYPE, 0o644, size), content)

    def close(self) -> None:
        """End the writing; raise BackupError where not all of it was written."""
        try:
            self.archive.close()
            self.process.stdin.close()
            if (status := self.process.wait(600)) != 0:
                raise BackupError(f"The files of Redis cannot be written: `docker cp` ended with exit code {status}: {told(self.process.error())}")
            # Whose they are in the archive is not what Docker makes of it.
            give(self.docker, self.service, self.volume, "/data", f"{self.name}-owner")
        except OSError as error:
            raise BackupError(f"The files of Redis cannot be written: {error.strerror}.") from None
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what the writing needed."""
        self.process.kill()
        self.docker.remove_container(self.name)


def write_rdb(docker: Docker, service: Service, volume: str, name: str) -> None:
    """Have a throw-away Redis write all that its append-only files hold in a volume into an RDB file beside them; raise BackupError."""
    # A copy is in a directory of root's.
    give(docker, service, volume, "/data", f"{name}-owner")
    options = ["--network", "none", *service.options(), "--volume", f"{volume}:/data"]
    command = ["redis-server", "--appendonly", "yes", "--dir", "/data", "--save", "", "--dbfilename", RDB, "--bind", "127.0.0.1", "--databases", str(DATABASES)]
    with running(docker, name, options, service.image, command):
        await_answer(docker, name, "sh", "-c", "redis-cli ping | grep -qx PONG")
        said = docker.ask("exec", name, "redis-cli", "SAVE", seconds=LOAD_SECONDS).strip()
        if said != "OK":
            raise BackupError(f"A throw-away Redis did not write an RDB file: {told(said)}")


def read_rdb(docker: Docker, service: Service, volume: str, name: str) -> None:
    """Have a throw-away Redis turn the RDB file in a volume into append-only files; raise BackupError.

    A Redis that keeps append-only files starts empty where it finds none, whatever else is there.
    """
    options = ["--network", "none", *service.options(), "--volume", f"{volume}:/data"]
    command = ["redis-server", "--appendonly", "no", "--dir", "/data", "--save", "", "--dbfilename", RDB, "--bind", "127.0.0.1", "--databases", str(DATABASES)]
    with running(docker, name, options, service.image, command, ends_well=True):
        await_answer(docker, name, "sh", "-c", "redis-cli ping | grep -qx PONG", seconds=LOAD_SECONDS)
        docker.ask("exec", name, "redis-cli", "CONFIG", "SET", "appendonly", "yes")
        deadline = time.monotonic() + LOAD_SECONDS
        while True:
            found = dict(line.partition(":")[::2] for line in docker.ask("exec", name, "redis-cli", "INFO", "persistence").split())
            if (found.get("aof_enabled"), found.get("aof_rewrite_in_progress"), found.get("aof_rewrite_scheduled")) == ("1", "0", "0"):
                if found.get("aof_last_bgrewrite_status") != "ok":
                    raise BackupError("A throw-away Redis could not write the append-only files. Look at the free space.")
                return
            if time.monotonic() >= deadline:
                raise BackupError(f"A throw-away Redis did not write the append-only files within {LOAD_SECONDS} s.")
            time.sleep(0.2)


def facts(docker: Docker, service: Service, volume: str, name: str) -> dict[str, Any]:
    """Start a Redis over the files in a volume, which shows that they can be read, and return the number and a digest of its lasting keys.

    The volume must be one to be thrown away: the keys that end by themselves are removed from it.
    """
    options = ["--network", "none", *service.options(), "--volume", f"{volume}:/data"]
    command = ["redis-server", "--appendonly", "yes", "--dir", "/data", "--save", "", "--enable-debug-command", "yes", "--port", "6379", "--bind", "127.0.0.1"]
    command += ["--databases", str(DATABASES)]
    with running(docker, name, options, service.image, command):
        await_answer(docker, name, "sh", "-c", "redis-cli ping | grep -qx PONG")
        left = docker.ask("exec", name, "redis-cli", "EVAL", _FORGET, "0", str(DATABASES), seconds=LOAD_SECONDS).strip()
        digest = docker.ask("exec", name, "redis-cli", "DEBUG", "DIGEST").strip()
    if not left.isdigit() or not re.fullmatch(r"[0-9a-f]{40}", digest):
        raise BackupError("A throw-away Redis over the copied files did not say what it holds.")
    return {"keys": int(left), "digest": digest}


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return what a copy's facts say otherwise than the set's."""
    if wanted["keys"] != found["keys"]:
        return [f"Redis: {found['keys']} keys, not {wanted['keys']}"]
    return [] if wanted["digest"] == found["digest"] else ["Redis: some of the keys are not those of the set"]
