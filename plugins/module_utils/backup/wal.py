# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's log on its way into the repository, and a cluster brought back to a moment from it.

The service `wal` receives the log into a volume. From there it is shipped in pieces: whole segments in sealed ones, and what is not in a sealed one yet,
with the segment that is still written to, in an open one, which the next one replaces. All of it is a stream; nothing lies on the host meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import os
import re
import secrets
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, moments, postgres, s3, sets, state, swap
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, DamagedSetError, Docker, Process, await_answer, running, told
from ansible_collections.campaign.platform.plugins.module_utils.backup.moments import Base, Piece, Way
from ansible_collections.campaign.platform.plugins.module_utils.backup.repository import Repository, whole

_TABLESPACES = " Moments are for a cluster without tablespaces of its own: move what is in them (ALTER TABLE ... SET TABLESPACE pg_default), and drop them."
SERVICE, SLOT, USER = "wal", "campaign_wal", "999:999"
# Where the service keeps what it receives, below its volume.
TARGET, PLACE = "/var/lib/postgresql", "wal"
MARKER = "line.json"
FILE, BASE_FILE, LAST = "wal.tar", "base.tar", "piece.json"
# So many whole segments go into a sealed piece; until then they are written again with each open one, which costs the repository nothing.
SEALED = 8
# So many pieces that others have replaced are forgotten at once.
FORGOTTEN = 20
CATCH_UP_SECONDS = 10
# When nothing can be shipped, the volume takes so many bytes and no more.
LARGEST = 4 * 1024**3
CHUNK = 1024 * 1024
TOLD_SECONDS = 10
# The log ends where there is no file (1). Where one cannot be copied, as on a full disk, PostgreSQL has to give up and not to take that for the end: above 125.
RESTORE_COMMAND = 'for f in "/wal/%f" "/wal/%f.partial"; do if test -e "$f"; then cp "$f" "%p" || exit 255; exit 0; fi; done; exit 1'
_NOT_REACHED = "recovery ended before configured recovery target was reached"
_START = re.compile(rb"START WAL LOCATION: [0-9A-F]+/[0-9A-F]+ \(file ([0-9A-F]{24})\)")
_REPLAYING = re.compile(r"recovering ([0-9A-F]{24})")
# What is known of the shipping, whichever line it ships.
_OF_EACH_LINE = ("at", "error", "failing_since", "told")
# What the server knows, in one line.
_ASK = f"""SELECT json_build_object('now', extract(epoch FROM clock_timestamp()), 'flushed', pg_current_wal_flush_lsn()::text,
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  'segment', (SELECT bytes_per_wal_segment FROM pg_control_init()),
  'size', (SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database),
  'slot', (SELECT json_build_object('active', active, 'received', restart_lsn::text, 'status', wal_status)
    FROM pg_replication_slots WHERE slot_name = '{SLOT}'));"""


class BehindError(BackupError):
    """The log is shipped, and the service that receives it is behind."""


def identifier() -> str:
    """Return a new name that sorts by time."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() // 1000000 % 1000:03d}{secrets.token_hex(2)}"


def read_state(directory: str) -> dict[str, Any]:
    """Return what the host knows of the log that it ships, nothing where it knows nothing."""
    return state.read(directory)["log"] or {}


def write_state(directory: str, found: dict[str, Any]) -> None:
    """Write down what the host knows of it."""
    state.write(state.path_of(directory, state.LOG), json.dumps(found, indent=1, sort_keys=True) + "\n")


def _answer(docker: Docker, container: str, user: str, statement: str, seconds: float) -> str:
    """Return what the server in a container answers to a statement; raise BackupError."""
    words = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "--host=127.0.0.1", f"--username={user}", "--dbname=postgres", "-c", statement]
    return docker.ask("exec", *postgres.client(container, *words), seconds=seconds)


def drop_slot_of(docker: Docker, container: str, user: str) -> None:
    """Have the server in a container keep no log for the service that receives it, which does not run; raise BackupError."""
    drop = f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}';"
    _answer(docker, container, user, drop, 60)


@dataclass
class Server:
    """The stack's PostgreSQL and the service that receives its log: their containers, the superuser, and the directory of the log on the host."""

    docker: Docker
    postgres: str
    receiver: str
    user: str
    volume: str
    image: str = ""

    @property
    def directory(self) -> str:
        """Return where the log lies on the host."""
        return os.path.join(self.volume, PLACE)

    def ask(self) -> dict[str, Any]:
        """Return what the server knows of its log; raise BackupError."""
        return json.loads(_answer(self.docker, self.postgres, self.user, _ASK, 30))

    def caught_up(self) -> tuple[dict[str, Any], float | None]:
        """Return what the server knows, and the moment until which all that was committed lies in the volume; None where that is not so in time."""
        found = self.ask()
        wanted, first = moments.position(found["flushed"]), found
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while True:
            slot = found["slot"]
            if slot and slot["received"] and moments.position(slot["received"]) >= wanted:
                # A commit has its time a little before it is in the log.
                return found, float(first["now"]) - 1
            if not slot or slot["status"] == "lost" or time.monotonic() >= deadline:
                return found, None
            time.sleep(0.2)
            found = self.ask()


def server_of(docker: Docker, project: str) -> Server:
    """Return the server and the receiver of a stack by its containers; raise BackupError."""
    template = '{{.Label "com.docker.compose.service"}} {{.ID}}'
    label = f"label=com.docker.compose.project={project}"
    lines = docker.ask("ps", "--all", "--filter", label, "--filter", "label=com.docker.compose.oneoff=False", "--format", template).splitlines()
    found = dict(line.split(" ", 1) for line in lines if line.split(" ", 1)[0] in ("postgres", SERVICE))
    if SERVICE not in found or "postgres" not in found:
        raise BackupError("The stack has no service wal, which receives the log of PostgreSQL. Deploy with stack_point_in_time, then set backups up again.")
    rows = {name: docker.inspect(container) for name, container in found.items()}
    environment = dict(text.partition("=")[::2] for text in rows["postgres"]["Config"]["Env"])
    volumes = [mount["Source"] for mount in rows[SERVICE]["Mounts"] if mount["Destination"] == TARGET and mount["Type"] == "volume"]
    if not volumes:
        raise BackupError("The service wal keeps the log in no volume. Deploy again.")
    return Server(docker, found["postgres"], found[SERVICE], environment.get("POSTGRES_USER", "postgres"), volumes[0], rows["postgres"]["Config"]["Image"])


# --- Out


@dataclass
class Shipping:
    """The log of one stack on its way into the repository."""

    directory: str
    repository: Repository
    server: Server
    say: Any

    def __post_init__(self) -> None:
        self.known = read_state(self.directory)

    def ship(self, *, seal: bool = False) -> None:
        """Bring into the repository what is new; raise BackupError where that fails, BehindError where it is done and more should be there."""
        told_of, covered = self.server.caught_up()
        slot = told_of["slot"]
        marker = self._marker()
        if slot and slot["status"] == "lost":
            if marker and (marker.get("system"), marker["line"]) == (told_of["system"], self.known.get("line")):
                # What was received until then may not be in the repository yet.
                self._pieces(marker["line"], int(told_of["segment"]), None, seal=False)
            self._begin_again(told_of, drop_slot=True)
            raise BehindError("The service wal was away for longer than the server keeps its log. A new base backup is made; the moments in between are lost.")
        if marker and marker.get("system") != told_of["system"]:
            self._begin_again(told_of)
            raise BehindError(
                "The log in the repository is another cluster's, as before an upgrade of PostgreSQL. A new base backup is made, and moments begin there."
            )
        if not marker:
            marker = self._begin(told_of)
        if self.known.get("line") != marker["line"]:
            self.known = {"line": marker["line"], "pending": self.known.get("pending", [])}
            # What is known of another line is none of this one's: its segments may have lower numbers than those that were sealed there.
            rest = {name: row for name, row in read_state(self.directory).items() if name in _OF_EACH_LINE}
            write_state(self.directory, rest | self.known)
        try:
            self._pieces(marker["line"], int(told_of["segment"]), covered, seal=seal)
        except FileNotFoundError:
            # A segment that has just become whole, and has another name.
            self._pieces(marker["line"], int(told_of["segment"]), covered, seal=seal)
        if covered is None:
            why = "has no slot at the server" if not slot else "is connected and behind" if slot["active"] else "is not connected to the server"
            if not (slot and slot["active"]) and self._stunted(int(told_of["segment"])):
                # It does not go on over a file that a full disk or a kill has left too short, and removes it when it starts.
                self.server.docker.ask("restart", "--time", "15", self.server.receiver)
                why += " and was started again"
            raise BehindError(f"The service wal {why}, so what was written last is not in the repository. Read `docker compose logs wal`.")

    def _stunted(self, segment: int) -> list[str]:
        """Return the files that are still to be written to and shorter than a segment: the receiver makes each as long as one first."""
        return [name for name in self._names() if moments.PARTIAL.match(name) and self._stat(name)[0] != segment]

    def _marker(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError), open(os.path.join(self.server.volume, MARKER), encoding="utf-8") as file:
            return dict(json.load(file))
        return None

    def _begin(self, told_of: dict[str, Any]) -> dict[str, Any]:
        """Begin a line: all that the volume has, and will have."""
        marker = {"line": identifier(), "system": told_of["system"]}
        swap.write(os.path.join(self.server.volume, MARKER), marker)
        return marker

    def _begin_again(self, told_of: dict[str, Any], *, drop_slot: bool = False) -> None:
        """Empty the volume, and have the receiver begin a new line."""
        docker, server = self.server.docker, self.server
        docker.ask("stop", "--time", "15", server.receiver)
        try:
            if drop_slot:
                drop_slot_of(docker, server.postgres, server.user)
            self.empty()
            self._begin(told_of)
        finally:
            docker.ask("start", server.receiver)

    def empty(self) -> None:
        """Remove the log from the volume."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.server.volume, MARKER))
        for name in self._names():
            os.unlink(os.path.join(self.server.directory, name))

    def _names(self) -> list[str]:
        found = os.listdir(self.server.directory) if os.path.isdir(self.server.directory) else []
        return [name for name in found if moments.SEGMENT.match(name) or moments.PARTIAL.match(name) or moments.HISTORY.match(name)]

    def _pieces(self, line: str, segment: int, covered: float | None, *, seal: bool) -> None:
        whole, partial, histories = moments.unsealed(self._names(), self.known.get("sealed"))
        # PostgreSQL takes no file that is shorter than a segment, and there is nothing in it yet.
        partial = sorted(set(partial) - set(self._stunted(segment)))
        print_now = [(name, *self._stat(name)) for name in [*whole, *partial]]
        until = covered if covered is not None else float(self.known.get("covered") or 0)
        if [list(row) for row in print_now] != self.known.get("print"):
            if whole and (seal or len(whole) >= SEALED):
                self._write(Piece("", self._next(), line, whole[0], whole[-1], segment, 0, is_sealed=True), [*whole, *histories])
                self.known["sealed"] = whole[-1]
                self._save()
                # The receiver goes on after the last one that it finds.
                for name in self._names():
                    if moments.SEGMENT.match(name) and name < whole[-1]:
                        os.unlink(os.path.join(self.server.directory, name))
                whole = []
            names = [*whole, *partial]
            first = self.known.get("sealed") if not names else names[0][:24]
            if first:
                last = names[-1][:24] if names else first
                made = self._write(Piece("", self._next(), line, first, last, segment, until, is_sealed=False), [*names, *histories])
                self.known["pending"] = [*self.known.get("pending", []), *([self.known["open"]] if self.known.get("open") else [])]
                self.known |= {"open": made, "print": [row for row in print_now if row[0] in names]}
        self.known |= {"covered": until, "shipped": sets.moment()}
        self._save()

    def _next(self) -> str:
        """Return the name of a piece, which sorts after the one before it on the line, also where the clock was set back."""
        name, last = identifier(), self.known.get("named", "")
        if name <= last:
            stem, _tilde, count = last.partition("~")
            name = f"{stem}~{int(count or 0) + 1:06d}"
        self.known["named"] = name
        return name

    def _save(self) -> None:
        # Others write down results in the same file.
        write_state(self.directory, {**read_state(self.directory), **self.known})

    def _stat(self, name: str) -> tuple[int, int]:
        found = os.stat(os.path.join(self.server.directory, name))
        return found.st_size, found.st_mtime_ns

    def _write(self, piece: Piece, names: list[str]) -> str:
        """Write a piece and return its snapshot; raise BackupError."""
        writing = self.repository.stream("wal", FILE, moments.tags_of(piece))
        with whole(writing):
            archive, sums = sets.Writer(writing.process.stdin), {}
            for name in names:
                with open(os.path.join(self.server.directory, name), "rb") as file:
                    content = s3.Digest(file)
                    archive.add(name, os.fstat(file.fileno()).st_size, content)  # type: ignore[arg-type]
                    sums[name] = content.digest.hexdigest()
            archive.add_bytes(LAST, json.dumps(sums, sort_keys=True).encode())
            archive.close()
            summary = writing.finish()
        return str(summary["snapshot_id"])

    def note(self, **rows: Any) -> None:
        """Write down what the host has to know later."""
        self.known |= rows
        self._save()

    def forget(self) -> None:
        """Forget pieces that others have replaced, where there are enough of them and nobody else is at work with the repository."""
        pending = self.known.get("pending", [])
        # The last one may still be needed: the one after it may be of a run that was killed. A backup that is at work is not waited for.
        if len(pending) >= FORGOTTEN and self.repository.attempt("forget-wal", "--retry-lock", "0s", "forget", *pending[:-1])[0] == 0:
            self.note(pending=pending[-1:])

    def spare(self) -> bool:
        """Give up the line where nothing can be shipped and the volume has grown too large; return whether that was needed."""
        names = self._names()
        if sum(self._stat(name)[0] for name in names) <= LARGEST:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.server.volume, MARKER))
        for name in sorted(name for name in names if moments.SEGMENT.match(name))[:-1]:
            os.unlink(os.path.join(self.server.directory, name))
        return True

    # --- A copy of the cluster

    def base(self) -> Base:
        """Bring a copy of the cluster into the repository; raise BackupError."""
        marker = self._marker()
        if not marker:
            raise BackupError("Nothing of the log was shipped yet, so a base backup could not be brought to any moment.")
        before, server = self.server.ask(), self.server
        name = identifier()
        self.say(f"copying the cluster, about {before['size'] // 1024**2} MiB")
        process = server.docker.start(
            "exec", server.receiver, "pg_basebackup", "--pgdata=-", "--format=tar", "--wal-method=none", "--checkpoint=fast", "--no-password",
            "--manifest-checksums=SHA256", f"--label={name}",
        )  # fmt: skip
        writing = self.repository.stream("base", BASE_FILE, f"base={name},line={marker['line']}")
        try:
            with whole(writing):
                first, size = self._copy(process, writing.process.stdin, int(before["size"]))
                if (status := process.wait(600)) != 0:
                    # A stream of a cluster is one directory.
                    remedy = _TABLESPACES if "tablespace" in process.error() else ""
                    raise BackupError(f"pg_basebackup ended with exit code {status}: {told(process.error())}{remedy}")
                snapshot = str(writing.finish()["snapshot_id"])
        finally:
            process.kill()
        after = server.ask()
        if after["system"] != marker["system"] or self._marker() != marker:
            raise BackupError("The cluster was exchanged while it was copied. Make another backup.")
        found = Base(snapshot, name, marker["line"], first, int(after["segment"]), float(after["now"]), size)
        mark = self.repository.stream("mark", "mark.json", moments.tags_of(found))
        with whole(mark):
            mark.process.stdin.write(b"{}\n")
            mark.finish()
        self.say(f"the base backup {name} is stored: {size} bytes")
        return found

    def note_base(self, base: Base) -> None:
        """Write down that the line has a base. Nobody else may ship meanwhile."""
        self.known = read_state(self.directory)
        self.note(base={"name": base.name, "line": base.line, "end": base.end, "bytes": base.bytes}, base_tried=None)

    def _copy(self, process: Process, target: IO[bytes], expected: int) -> tuple[str, int]:
        """Copy a base backup, and return the segment that it begins in and its size."""
        first, size, said = "", 0, time.monotonic()
        # What a copy begins with says where the log goes on from it.
        head = process.stdout.read(CHUNK)
        part = head
        while part:
            target.write(part)
            size += len(part)
            if time.monotonic() - said > TOLD_SECONDS:
                said = time.monotonic()
                self.say(f"{size // 1024**2} of about {max(expected, size) // 1024**2} MiB of the cluster are copied")
            part = process.stdout.read(CHUNK)
        if found := _START.search(head):
            first = found[1].decode()
        elif process.wait(60) == 0:
            raise BackupError("The copy of the cluster does not say where its log begins.")
        return first, size


# --- In


@dataclass
class Recovery:
    """A cluster on its way to a moment, in the volume of a copy."""

    copy: copies.Copy
    repository: Repository
    way: Way
    moment: datetime.datetime | None

    def __post_init__(self) -> None:
        if not self.copy.servers.postgres:
            raise BackupError("The release has no PostgreSQL of its own: it stands outside the stack, whose provider brings moments of it back.")
        self.service, self.docker, self.say = self.copy.servers.postgres, self.copy.docker, self.copy.say
        self.target, _name = copies.volume_of(self.service)
        self.volume = self.copy.volumes["postgres"]
        self.user = self.service.environment["POSTGRES_USER"]

    def run(self, look: Callable[[copies.Copy, str, str], None] | None = None) -> dict[str, Any]:
        """Recover, and return what every database has; raise BackupError, WayError where another way may be found.

        ``look`` is called with the copy, the container and the user while the recovered server runs.
        """
        self.look = look
        log = self.docker.create_volume(self._name("wal"))
        try:
            self._read_log(swap.path_of(self.docker, log))
            place = self._place()
            self._read_base(place)
            return self._recover(place, log)
        finally:
            self.docker.remove_volume(log)

    def _name(self, what: str) -> str:
        return f"{self.docker.run}-{what}"

    def _place(self) -> str:
        """Return where the image has its cluster."""
        listed = json.loads(self.docker.ask("image", "inspect", self.service.image))[0]["Config"]["Env"] or []
        environment = {**dict(text.partition("=")[::2] for text in listed), **self.service.environment}
        place = environment.get("PGDATA") or f"{self.target}/data"
        if not f"{place}/".startswith(f"{self.target}/"):
            raise BackupError(f"PostgreSQL keeps its cluster in {place}, which is not in its volume. Nothing was changed.")
        return place

    def _owner(self) -> tuple[int, int]:
        uid, _colon, gid = self.service.user.partition(":")
        return int(uid or 0), int(gid or uid or 0)

    def _read_log(self, directory: str) -> None:
        os.chown(directory, *self._owner())
        done = 0
        for count, piece in enumerate(self.way.pieces, 1):
            try:
                done += self._read_piece(piece, directory)
            except DamagedSetError as error:
                raise DamagedPieceError(piece.snapshot, str(error)) from None
            self.say(f"{count} of {len(self.way.pieces)} pieces of the log are here, {done // 1024**2} MiB")

    def _read_piece(self, piece: Piece, directory: str) -> int:
        why, size = "", 0
        with self.repository.dumping(piece.snapshot, FILE) as process:
            try:
                size = self._take_piece(piece, process, directory)
            except (tarfile.TarError, ValueError, EOFError) as error:
                why = f"The piece {piece.name} of the log is not whole ({type(error).__name__})."
            except DamagedSetError as error:
                why = str(error)
            while process.stdout.read(CHUNK):
                pass
            # What restic says comes first: a piece that ends too early follows from it, and may be whole in the repository.
            if (status := process.wait(600)) != 0:
                raise UnreadPieceError(piece.snapshot, str(self.repository.failure(f"reading the piece {piece.name} of the log", status, process.error())))
        if why:
            raise DamagedSetError(why)
        return size

    def _take_piece(self, piece: Piece, process: Process, directory: str) -> int:
        sums: dict[str, str] = {}
        said: dict[str, str] | None = None
        size = 0
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None or not member.isfile():
                    raise DamagedSetError(f"The piece {piece.name} of the log has a member that is no file.")
                if member.name == LAST:
                    said = json.loads(content.read())
                elif any(pattern.match(member.name) for pattern in (moments.SEGMENT, moments.PARTIAL, moments.HISTORY)):
                    # PostgreSQL ends at a file that is shorter than a segment, of which nothing is written yet.
                    is_stunted = bool(moments.PARTIAL.match(member.name)) and member.size != piece.segment
                    sums[member.name] = self._keep(None if is_stunted else os.path.join(directory, member.name), content)
                    size += member.size
                else:
                    raise DamagedSetError(f"The piece {piece.name} of the log has a member that is none of a log.")
        if said != sums:
            raise DamagedSetError(f"The piece {piece.name} of the log is not what was written.")
        return size

    def _keep(self, path: str | None, content: IO[bytes]) -> str:
        """Write a file of the log, or none without a path; return its hash."""
        digest = hashlib.sha256()
        if path is None:
            while part := content.read(CHUNK):
                digest.update(part)
            return digest.hexdigest()
        # A whole one is the same in every piece; of one that is still written to, the later one counts.
        with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            while part := content.read(CHUNK):
                digest.update(part)
                file.write(part)
            os.fchown(file.fileno(), *self._owner())
        os.replace(f"{path}.new", path)
        return digest.hexdigest()

    def _read_base(self, place: str) -> None:
        base = self.way.base
        name, options = self._name("extract"), ["--network", "none", "--user", self.service.user, "--volume", f"{self.volume}:{self.target}"]
        # Another one was perhaps written there before.
        script = 'mkdir -p "$1" && chmod 0700 "$1" && find "$1" -mindepth 1 -delete && exec tar --extract --file=- --directory="$1"'
        self.say(f"writing the base backup {base.name} of {moments.words(base.end)}, {base.bytes // 1024**2} MiB")
        try:
            with self.repository.dumping(base.snapshot, BASE_FILE) as source:
                target = self.docker.start(
                    "run", "--rm", "--interactive", "--name", name, *self.docker.confined(), *options, "--entrypoint", "sh", self.service.image, "-c", script,
                    "sh", place, stdin=-1,
                )  # fmt: skip
                try:
                    size = self._pump(source, target, base.bytes)
                    if (status := source.wait(600)) != 0:
                        raise BaseError(base.snapshot, str(self.repository.failure("reading the base backup", status, source.error())))
                    if size != base.bytes:
                        raise BaseError(base.snapshot, f"The base backup {base.name} has {size} bytes, not {base.bytes}.")
                    if (status := target.wait(600)) != 0:
                        raise BackupError(f"The base backup cannot be written: tar ended with exit code {status}: {told(target.error())}")
                finally:
                    target.kill()
            self.docker.remove_container(name)
            self._check_major(place)
            self.say("comparing every file of the base backup with its checksum")
            # Its log is in the pieces.
            status, _output, error = self.docker.attempt(
                "run", "--rm", "--name", name, *self.docker.confined(), *options, "--entrypoint", "pg_verifybackup", self.service.image, "--no-parse-wal",
                "--quiet", place,
            )  # fmt: skip
            if status == 1:
                raise BaseError(base.snapshot, f"The base backup {base.name} is not what was written: {told(error)}")
            if status != 0:
                raise BackupError(f"The base backup {base.name} was not compared: pg_verifybackup ended with exit code {status}: {told(error)}")
        finally:
            self.docker.remove_container(name)

    @functools.cached_property
    def major(self) -> str:
        """Return the major version of the PostgreSQL that recovers; raise BackupError."""
        return postgres.major_in(self.docker, self.service.image, self._name("version"))

    def _check_major(self, place: str) -> None:
        """Raise BackupError where the base backup is of another major version of PostgreSQL than the image, which would call it damaged."""
        path = os.path.join(swap.path_of(self.docker, self.volume), os.path.relpath(place, self.target), "PG_VERSION")
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                found = file.readline().strip()
        except FileNotFoundError:
            # Which is told when every file is compared.
            return
        if found != self.major:
            raise BackupError(
                f"The base backup {self.way.base.name} is of PostgreSQL {found}, and the release in use has {self.major}. Nothing was changed. A moment of "
                f"before the upgrade comes back over PostgreSQL {found}: go back to it first, by the playbook upgrade_postgres with -e revert=true. Or take a "
                "set, which comes up under both."
            )

    def _pump(self, source: Process, target: Process, expected: int) -> int:
        size, said = 0, time.monotonic()
        try:
            while part := source.stdout.read(CHUNK):
                target.stdin.write(part)
                size += len(part)
                if time.monotonic() - said > TOLD_SECONDS:
                    said = time.monotonic()
                    self.say(f"{size // 1024**2} of {expected // 1024**2} MiB are written")
            target.stdin.close()
        except OSError:
            raise BackupError(f"The base backup cannot be written: tar ended with exit code {target.wait(60)}: {told(target.error())}") from None
        return size

    def _recover(self, place: str, log: str) -> dict[str, Any]:
        signal = os.path.join(swap.path_of(self.docker, self.volume), os.path.relpath(place, self.target), "recovery.signal")
        with open(os.open(signal, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "wb") as file:
            os.fchown(file.fileno(), *self._owner())
        with contextlib.ExitStack() as stack:
            if not (is_reached := self._started(stack, log, self.moment)):
                # Nothing was committed after the moment and before the log's end, which is later.
                self.say("nothing was written after that moment")
                if not self._started(stack, log, None):
                    raise BackupError("PostgreSQL does not come to the end of its log.")
            if not (is_reached and self.moment):
                self._has_all()
            found = self._look()
            if self.look:
                self.look(self.copy, self._name("postgres"), self.user)
            if self.copy.secrets is not None:
                name = self._name("postgres")
                # All of it is written down before it is used.
                self.docker.ask("stop", "--time", "120", name)
                if (code := self.docker.inspect(name)["State"]["ExitCode"]) != 0:
                    raise BackupError(f"The recovered PostgreSQL did not end well: exit code {code}.")
            return found

    def _started(self, outer: contextlib.ExitStack, log: str, moment: datetime.datetime | None) -> bool:
        """Start the server, and return once it serves; False where it has come to the end of the log before the moment. Raises BackupError."""
        settings = {
            "restore_command": RESTORE_COMMAND,
            "recovery_target_action": "promote",
            "recovery_target_timeline": "current",
            # It asks for no more than the cluster itself did.
            "hot_standby": "off",
            "max_wal_senders": "0",
            "max_wal_size": "2GB",
            "lc_messages": "C",
            "log_min_messages": "log",
            **postgres.ELSEWHERE,
        }
        if moment:
            settings["recovery_target_time"] = moment.isoformat(sep=" ")
        words = [*copies.passed_on(self.service.command), *(word for key, value in settings.items() for word in ("-c", f"{key}={value}"))]
        words += postgres.without_triggers(self.major)
        name = self._name("postgres")
        # What it says while it recovers has no row of data; it is read where it ends.
        options = ["--network", "none", *self.copy.options(self.service), "--volume", f"{log}:/wal:ro", "--log-driver", "json-file"]
        with contextlib.ExitStack() as stack:
            stack.enter_context(running(self.docker, name, options, self.service.image, ["postgres", *words]))
            said = time.monotonic()
            while self.docker.attempt("exec", name, "pg_isready", "-q", "-h", "127.0.0.1", "-U", self.user, "-d", "postgres")[0] != 0:
                found = self.docker.inspect(name)["State"]
                if not found["Running"]:
                    return self._ended(name, found, moment)
                if time.monotonic() - said > TOLD_SECONDS:
                    said = time.monotonic()
                    self.say(self._progress(name))
                time.sleep(0.3)
            await_answer(self.docker, name, "pg_isready", "-q", "-h", "127.0.0.1", "-U", self.user, "-d", "postgres")
            outer.push(stack.pop_all())
            return True

    def _ended(self, name: str, found: dict[str, Any], moment: datetime.datetime | None) -> bool:
        """Return false where the server ended because the log does before the moment; raise BackupError where it has another reason."""
        _status, output, error = self.docker.attempt("logs", "--tail", "200", name)
        text = output + error
        if moment and _NOT_REACHED in text:
            return False
        fatal = [line for line in text.splitlines() if "FATAL" in line or "PANIC" in line]
        why = "for want of memory; raise backup_memory" if found.get("OOMKilled") else f"with exit code {found['ExitCode']}: {told(' '.join(fatal[-2:]))}"
        raise BackupError(f"PostgreSQL ended {why}. Nothing was changed.")

    def _progress(self, name: str) -> str:
        _status, output, _error = self.docker.attempt("top", name)
        found = _REPLAYING.search(output)
        if not found:
            return "PostgreSQL recovers"
        base, last = self.way.base, self.way.pieces[-1].last
        first, now, end = (moments.number(one, base.segment) for one in (base.first, found[1], last))
        return f"PostgreSQL recovers: {max(now - first, 0)} of {max(end - first, 0) + 1} segments of the log are replayed"

    def _has_all(self) -> None:
        """Raise BackupError where PostgreSQL took something before the log's end for it, as it does with a record that is damaged."""
        with postgres.session(self.docker, self._name("postgres"), self.user, "postgres") as opened:
            (replayed,) = opened.ask("SELECT pg_last_wal_replay_lsn();")
        last, segment = self.way.pieces[-1].last, self.way.base.segment
        # Of the last one there may be nothing yet but the rest of a record.
        if moments.position(replayed) < (moments.number(last, segment) - 1) * segment:
            raise BackupError(f"PostgreSQL ended its recovery at {replayed}, before the last segment of the log ({last}). Nothing was changed.")

    def _look(self) -> dict[str, Any]:
        """Return what every database has; every table is read for it."""
        name = self._name("postgres")
        with postgres.session(self.docker, name, self.user, "postgres") as opened:
            if opened.ask("SELECT pg_is_in_recovery();") != ["f"]:
                raise BackupError("PostgreSQL has not ended its recovery.")
        found = {}
        for database in postgres.databases(self.docker, name, self.user, "postgres"):
            self.say(f"reading every row of {database}")
            with postgres.session(self.docker, name, self.user, database) as opened:
                found[database] = postgres.facts(opened)
        if self.copy.secrets is not None:
            self._set_password(name, self.copy.secrets["postgres"].get("postgres_password"))
        return found

    def _set_password(self, name: str, path: str | None) -> None:
        """Give the administrator the password of the release that will run: that of the moment may be one that nobody has any more."""
        if not path:
            return
        with open(path, encoding="utf-8") as file:
            literal = file.read().rstrip("\n").replace("'", "''")
        quoted = self.user.replace('"', '""')
        text = (
            "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1;\n"
            "SET log_min_duration_sample = -1; SET log_transaction_sample_rate = 0; SET pg_stat_statements.track_utility = off;\n"
            "SET debug_print_parse = off; SET debug_print_rewritten = off; SET debug_print_plan = off;\n"
            f"SET standard_conforming_strings = on;\nALTER ROLE \"{quoted}\" PASSWORD '{literal}';\n"
        )
        self.docker.ask(
            "exec", "--interactive", *postgres.WRITABLE, name, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate", "--host=127.0.0.1",
            f"--username={self.user}", "--dbname=postgres", stdin=text.encode(),
        )  # fmt: skip


class WayError(BackupError):
    """Something on the way to a moment cannot be used, which a snapshot names. There may be another way."""

    def __init__(self, snapshot: str, why: str):
        super().__init__(why)
        self.snapshot = snapshot


class BaseError(WayError):
    """A base backup is not what was written, or restic failed to read it. An earlier one may lead to the same moment."""


class DamagedPieceError(WayError):
    """A piece of the log is not what was written, as after a shipping that was killed. Another one may have the same."""


class UnreadPieceError(WayError):
    """restic failed to read a piece of the log, which may be whole."""
