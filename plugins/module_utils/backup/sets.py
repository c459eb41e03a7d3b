# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a set is: one tar archive in one snapshot, written and read as a stream, so that nothing of it lies on the host meanwhile.

Its last member is the set's manifest, which says what all the others have to be. So an archive that was cut off anywhere is not a set.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import tarfile
import time
from collections.abc import Iterator
from typing import IO, Any, Protocol
from urllib.parse import quote, unquote

from ansible_collections.campaign.platform.plugins.module_utils.backup import s3
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, DamagedSetError, UnknownSetError

SCHEMA = 1
MANIFEST, OBJECTS, BUCKETS, ROLES = "manifest.json", "objects.jsonl", "objects/buckets.json", "postgres/roles.sql"
# A dump's size is not known before its end, and a member's is; so it is cut.
PART = 8 * 1024 * 1024
_META = "CAMPAIGN.object"
# What no two objects have in common.
_OF_EACH = ("bucket", "key", "size", "sha256")
_LONGEST_NAME = 200


class Ending:
    """A stream that drops what is written to it once it is closed.

    An archive that was given up writes the rest of its buffer when it is thrown away, and Python prints why that failed behind the message that counts.
    """

    def __init__(self, target: IO[bytes]):
        self.target = target

    def write(self, data: bytes) -> int:
        """Write bytes, and return how many."""
        return len(data) if self.target.closed else self.target.write(data)


class Writer:
    """Writes the members of a set into a stream."""

    def __init__(self, target: IO[bytes]):
        self.archive = tarfile.TarFile.open(fileobj=Ending(target), mode="w|", format=tarfile.PAX_FORMAT, bufsize=1024 * 1024)
        self.archive.copybufsize = 256 * 1024  # type: ignore[attr-defined]
        self.written = 0

    def add(self, path: str, size: int, content: IO[bytes], meta: dict[str, Any] | None = None) -> None:
        """Write one member; OSError where its bytes end too early."""
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode, entry.mtime = size, 0o600, 0
        if meta is not None:
            entry.pax_headers = {_META: json.dumps(meta, sort_keys=True)}
        self.archive.addfile(entry, content)
        # It would remember every member.
        self.archive.members = []  # type: ignore[attr-defined]
        self.written += size

    def add_bytes(self, path: str, content: bytes) -> None:
        """Write a small member."""
        self.add(path, len(content), io.BytesIO(content))

    def close(self) -> None:
        """Write the end of the archive; the stream stays open."""
        self.archive.close()


def object_name(bucket: str, key: str) -> str:
    """Return the path of an object in a set: one that can be unpacked by hand, whatever the key is. The key itself stands in the member's header."""
    name = quote(key, safe="")
    return f"objects/{bucket}/{name if len(name) <= _LONGEST_NAME and name.strip('.') else hashlib.sha256(key.encode()).hexdigest()}"


def dump_name(database: str, number: int) -> str:
    """Return the path of a part of a dump. In their order, all parts are the dump."""
    return f"postgres/{quote(database, safe='')}.dump/{number:08d}"


def moment() -> str:
    """Return the time now in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Sink(Protocol):
    """What takes the parts of a set while it is read."""

    def bucket(self, name: str, settings: dict[str, str]) -> None:
        """Take a bucket."""

    def object(self, meta: dict[str, Any], size: int, content: IO[bytes]) -> None:
        """Take an object."""

    def redis(self, path: str, size: int, content: IO[bytes]) -> None:
        """Take a file of Redis."""

    def roles(self, text: bytes) -> None:
        """Take the roles."""

    def dump(self, database: str, part: bytes) -> None:
        """Take the next part of the dump of a database."""


class Read:
    """What was read of a set: its manifest, and a digest of what each object has to be, by bucket and key."""

    def __init__(self) -> None:
        self.manifest: dict[str, Any] = {}
        self.objects: dict[tuple[str, str], bytes] = {}


def read(source: IO[bytes], sink: Sink) -> Read:
    """Hand each part of a set to who takes it, and return what the set says of itself; raise BackupError where it is not whole.

    Whether what was taken is right is known only when this has returned, and the program that gave the stream has ended well.
    """
    reading = _Reading(sink)
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=1024 * 1024) as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]
                if reading.found.manifest:
                    raise DamagedSetError("The set goes on after its manifest, so it is not what a backup writes.")
                content = archive.extractfile(member)
                if content is None:
                    raise DamagedSetError(f"The set has something that is no file: {member.name[:80]!r}.")
                reading.take(member, content)
        if not reading.found.manifest:
            raise DamagedSetError("The set has no manifest at its end: it was cut off.")
        reading.check()
    except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
        raise DamagedSetError(f"The set is damaged or was cut off ({type(error).__name__}).") from None
    return reading.found


class _Reading:
    """A set while it is read."""

    def __init__(self, sink: Sink):
        self.sink, self.found = sink, Read()
        self.dumps: dict[str, Any] = {}
        self.rows, self.role_text = hashlib.sha256(), b""

    def take(self, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        """Take one member."""
        kind, _slash, rest = member.name.partition("/")
        if member.name == MANIFEST:
            self.found.manifest = json.loads(content.read())
        elif member.name == OBJECTS:
            for line in content:
                self.rows.update(line)
                row = json.loads(line)
                self.found.objects[row["bucket"], row["key"]] = hashlib.sha256(line).digest()
        elif member.name == BUCKETS:
            for bucket, settings in json.loads(content.read()).items():
                self.sink.bucket(bucket, settings)
        elif kind == "objects":
            self.sink.object(json.loads(member.pax_headers[_META]), member.size, content)
        elif kind == "redis":
            self.sink.redis(rest, member.size, content)
        elif member.name == ROLES:
            self.role_text = content.read()
            self.sink.roles(self.role_text)
        elif kind == "postgres":
            self._take_dump(rest, content.read())
        elif kind != "release":
            raise DamagedSetError(f"The set has a part that this version does not know: {member.name[:80]!r}. A newer one wrote it.")

    def _take_dump(self, rest: str, part: bytes) -> None:
        database = unquote(rest.partition("/")[0].removesuffix(".dump"))
        row = self.dumps.setdefault(database, {"size": 0, "digest": hashlib.sha256()})
        row["size"] += len(part)
        row["digest"].update(part)
        self.sink.dump(database, part)

    def check(self) -> None:
        """Raise DamagedSetError where what was read is not what the manifest says."""
        manifest = self.found.manifest
        if manifest.get("schema") != SCHEMA:
            raise UnknownSetError(f"The set has the schema {manifest.get('schema')}, and this version reads {SCHEMA}. Use a collection of its version.")
        have = {name: {"size": row["size"], "sha256": row["digest"].hexdigest()} for name, row in self.dumps.items()}
        said = {name: {key: row[key] for key in ("size", "sha256")} for name, row in manifest["dumps"].items()}
        if have != said:
            raise DamagedSetError("The dumps in the set are not those that its manifest names.")
        listed = manifest["objects"] or {"sha256": hashlib.sha256().hexdigest(), "count": 0}
        if (listed["sha256"], listed["count"]) != (self.rows.hexdigest(), len(self.found.objects)):
            raise DamagedSetError("The list of objects in the set is not the one that its manifest names.")
        if manifest["roles"] and manifest["roles"] != hashlib.sha256(self.role_text).hexdigest():
            raise DamagedSetError("The roles in the set are not those that its manifest names.")


class Dumping:
    """Writes a dump into a set, part by part."""

    def __init__(self, writer: Writer, database: str):
        self.writer, self.database = writer, database
        self.size, self.parts, self.digest = 0, 0, hashlib.sha256()

    def take(self, parts: Iterator[bytes]) -> None:
        """Write all parts."""
        for part in parts:
            self.writer.add_bytes(dump_name(self.database, self.parts), part)
            self.size += len(part)
            self.parts += 1
            self.digest.update(part)

    def facts(self) -> dict[str, Any]:
        """Return what a reader has to find."""
        return {"size": self.size, "parts": self.parts, "sha256": self.digest.hexdigest()}


class Objects:
    """The objects that are in a set so far, with what tells whether one was written again since. Of each some 300 bytes stay in memory."""

    # Digests of what tells the version and of the content, and the size.
    _PACKED = struct.Struct(">16s32sQ")

    def __init__(self) -> None:
        self._rows: dict[str, tuple[bytes, bytes]] = {}
        # What the rows have besides, which many of them have in common.
        self._about: dict[bytes, bytes] = {}
        self.size = 0

    @staticmethod
    def _name(bucket: str, key: str) -> str:
        # No name of a bucket has such a character, and none stands before it.
        return f"{bucket}\0{key}"

    def has(self, bucket: str, key: str) -> bool:
        """Return whether an object is in the set."""
        return self._name(bucket, key) in self._rows

    def copy(self, client: s3.Client, writer: Writer, say: Any) -> int:
        """Write every object that is not in the set, or was written again since, and return how many; one that goes away meanwhile is left out."""
        count = 0
        for bucket in client.buckets():
            # To the end first: what is read takes longer than a page of a listing stays valid.
            for listed in list(client.objects(bucket)):
                name, version = self._name(listed.bucket, listed.key), hashlib.sha256(f"{listed.etag}\0{listed.modified}".encode()).digest()[:16]
                if name in self._rows and self._rows[name][0].startswith(version):
                    continue
                if listed.size > s3.LARGEST:
                    raise BackupError(f"{listed.bucket}/{listed.key} is larger than 5 TiB, which a restore could not write in one request.")
                if row := self._copy(client, writer, listed):
                    about = s3.line({part: row[part] for part in row if part not in _OF_EACH})
                    packed = self._PACKED.pack(version, bytes.fromhex(row["sha256"]), row["size"])
                    self._rows[name] = packed, self._about.setdefault(about, about)
                    count += 1
                    if count % 1000 == 0:
                        say(f"{count} objects are in the set")
        return count

    def _copy(self, client: s3.Client, writer: Writer, listed: s3.Listed) -> dict[str, Any] | None:
        with contextlib.ExitStack() as stack:
            try:
                answer, found = stack.enter_context(client.opened(listed))
                meta = {"bucket": listed.bucket, "key": listed.key, "headers": found["headers"]}
                if found["tagged"]:
                    # On a connection of its own, because this one is being read.
                    other = s3.Client(client.address, client.access_key, client.secret_key, client.region)
                    stack.callback(other.close)
                    found["tags"] = meta["tags"] = other.tags(listed.bucket, listed.key)
            except s3.S3Error as error:
                if error.status == 404:
                    return None
                raise
            stream = s3.Digest(answer)
            writer.add(object_name(listed.bucket, listed.key), found["size"], stream, meta)  # type: ignore[arg-type]
            row = s3.facts_of(listed, stream.size, stream.digest.hexdigest(), found)
        self.size += stream.size
        return row

    def _lines(self) -> Iterator[bytes]:
        for name in sorted(self._rows):
            bucket, _mark, key = name.partition("\0")
            packed, about = self._rows[name]
            _version, digest, size = self._PACKED.unpack(packed)
            yield s3.line({"bucket": bucket, "key": key, "size": size, "sha256": digest.hex(), **json.loads(about)})

    def facts(self) -> tuple[bytes, dict[str, Any]]:
        """Return the list of objects, and what the manifest says of it."""
        # In one piece from the beginning: of many objects it is large.
        text = io.BytesIO()
        text.writelines(self._lines())
        # Before the value is taken, of which a buffer would be a copy.
        with text.getbuffer() as buffer:
            digest = hashlib.sha256(buffer).hexdigest()
        return text.getvalue(), {"count": len(self._rows), "bytes": self.size, "sha256": digest}
