# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An export: a directory that nobody needs this collection for. SQL, objects as files with a listing, an RDB file, checksums, and a page on how to load it.

A key of an object may be anything, and a name of a file may not. So an object lies under its own name where that is safe on every file system, and under a
digest of its key where it is not. The listing says which; nothing is ever written outside the directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from typing import IO, Any
from urllib.parse import quote

from ansible_collections.campaign.platform.plugins.module_utils import host
from ansible_collections.campaign.platform.plugins.module_utils.backup import postgres, s3, sets
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, DamagedSetError

FORMAT, SCHEMA = "campaign.platform export", 1
MANIFEST, LISTING, BUCKETS, ROLES, RDB, SUMS, README = (
    "manifest.json", "objects.jsonl", "buckets.json", "postgres/roles.sql", "redis/dump.rdb", "SHA256SUMS", "README.md",
)  # fmt: skip
CHUNK = 1024 * 1024
# More than what is counted: the listing, the page, blocks that are not full.
MARGIN = 64 * 1024 * 1024
_UNFINISHED = ".unfinished-"
# What every file system and every shell takes as it is. Windows keeps some names for devices, whatever their suffix is.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+=-]{0,99}(?<!\.)\Z")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)", re.IGNORECASE)
_LONGEST_KEY = 400


def sql_name(database: str) -> str:
    """Return the path of the SQL of a database, which is never that of the roles."""
    name = quote(database, safe="")
    return f"postgres/{f'%{ord(name[0]):02X}{name[1:]}' if f'postgres/{name.lower()}.sql' == ROLES else name}.sql"


def is_plain(key: str) -> bool:
    """Return whether a key can be a path of files wherever the directory is copied to."""
    return len(key) <= _LONGEST_KEY and all(_PLAIN.match(part) and not _DEVICE.match(part) for part in key.split("/"))


class Places:
    """Where objects lie: no two in one place, also where a file system does not tell `A` from `a`, and none where a directory is."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}
        self.files: set[str] = set()
        self.directories: set[str] = set()

    def of(self, bucket: str, key: str) -> str:
        """Return the path of an object, the same one each time."""
        if (bucket, key) not in self.found:
            path = f"objects/{bucket}/{key}"
            if not (is_plain(key) and self._take(path.lower())):
                path = f"objects-by-digest/{bucket}/{hashlib.sha256(key.encode()).hexdigest()}"
            self.found[bucket, key] = path
        return self.found[bucket, key]

    def _take(self, path: str) -> bool:
        parents = [path[:number] for number, character in enumerate(path) if character == "/"]
        if path in self.files or path in self.directories or any(parent in self.files for parent in parents):
            return False
        self.files.add(path)
        self.directories.update(parents)
        return True


def write_all(file: IO[bytes], part: bytes) -> None:
    """Write all of some bytes. A file without a buffer takes as many as there is room for, and only the next ones are an OSError."""
    left = memoryview(part)
    while left:
        left = left[file.write(left) :]


class Directory:
    """An export while it is written. It takes what `sets.Writer` takes."""

    def __init__(self, root: str):
        self.root, self.places = root, Places()
        self.sums: dict[str, str] = {}
        self.written = 0

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[IO[bytes]]:
        """Yield a new file; its sum is taken when it is closed."""
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            # An object that was written again meanwhile.
            os.unlink(full)
        with open(os.open(full, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
            yield file
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.written += os.fstat(file.fileno()).st_size
        self.sums[path] = digest

    def add(self, path: str, size: int, content: IO[bytes], meta: dict[str, Any] | None = None) -> None:
        """Write one file; raise BackupError where its bytes end too early."""
        with self.create(self.places.of(meta["bucket"], meta["key"]) if meta else path) as file:
            left = size
            while left and (part := content.read(min(left, CHUNK))):
                try:
                    write_all(file, part)
                except OSError as error:
                    raise BackupError(f"{path} cannot be written: {error.strerror}. Nothing of the export is left. Look at the free space.") from None
                left -= len(part)
            if left:
                raise BackupError(f"{path} ended {left} bytes too early.")
            if (there := os.fstat(file.fileno()).st_size) != size:
                raise BackupError(f"Of {path}, {there} bytes are in the export, and {size} were written. Look at the disk that it lies on.")

    def add_bytes(self, path: str, content: bytes) -> None:
        """Write a small file."""
        if path == sets.OBJECTS:
            rows = (json.loads(line) for line in content.splitlines())
            content = b"".join(s3.line({**row, "file": self.places.of(row["bucket"], row["key"])}) for row in rows)
        path = {sets.OBJECTS: LISTING, sets.BUCKETS: BUCKETS, sets.MANIFEST: MANIFEST}.get(path, path)
        self.add(path, len(content), io.BytesIO(content))

    def close(self) -> None:
        """Write the checksums."""
        text = "".join(f"{digest}  {path}\n" for path, digest in sorted(self.sums.items()))
        self.add_bytes(SUMS, text.encode())


# --- The place of it


def check_target(target: str, stack: str) -> None:
    """Raise BackupError where an export cannot be written to a path, or would surprise there."""

    def refused(why: str) -> BackupError:
        return BackupError(f"{target} cannot take the export: {why} Nothing was written.")

    if not target.startswith("/") or os.path.normpath(target) != target or target == "/":
        raise refused("it is not an absolute path of a directory, without `..` and without / at its end.")
    parent = os.path.dirname(target)
    if not os.path.isdir(parent):
        raise refused(f"{parent} is not a directory on this host. Create it, or mount what should be there.")
    if os.path.lexists(target) and (os.path.islink(target) or not os.path.isdir(target)):
        raise refused("it is there and is not a directory.")
    if host.is_mount(target):
        # It is written beside its place, which is another disk, and nothing is renamed onto a mount.
        raise refused("it is where a file system is mounted. Name a directory in it.")
    if os.path.isdir(target) and os.listdir(target):
        raise refused("it is not empty. Name another one, or remove what is in it.")
    if f"{os.path.realpath(target)}/".startswith(f"{os.path.realpath(stack)}/"):
        raise refused("it is in the stack's own directory. Name a place elsewhere.")


def check_space(place: str, needed: int) -> None:
    """Raise BackupError where a directory's file system has not as many bytes left."""
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    if free < needed + MARGIN:
        raise BackupError(f"{place} has {free // 1024**2} MiB left, and about {(needed + MARGIN) // 1024**2} MiB are needed. Nothing was written.")


@contextlib.contextmanager
def written_whole(target: str) -> Iterator[str]:
    """Yield a directory beside a path that gets this name once all is written, and is removed where it is not."""
    parent, name = os.path.split(target)
    for other in os.listdir(parent):
        # Of a run that was killed. This stack has no other one at work.
        if other.startswith(f".{name}{_UNFINISHED}") and not os.path.islink(os.path.join(parent, other)):
            shutil.rmtree(os.path.join(parent, other))
    made = os.path.join(parent, f".{name}{_UNFINISHED}{secrets.token_hex(4)}")
    os.mkdir(made, 0o700)
    try:
        yield made
        os.sync()
        # An empty directory is replaced, and no other.
        os.rename(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


# --- Reading one


def manifest_of(directory: str) -> dict[str, Any]:
    """Return an export's manifest, after all of its parts were seen to be there; raise BackupError."""

    def refused(why: str) -> BackupError:
        return BackupError(f"{directory} is no export that can be taken: {why} Nothing was changed.")

    try:
        with open(os.path.join(directory, MANIFEST), encoding="utf-8") as file:
            found = json.load(file)
        with open(os.path.join(directory, SUMS), encoding="utf-8") as file:
            names = [line.rstrip("\n").partition("  ")[2] for line in file]
    except (OSError, ValueError) as error:
        raise refused(f"its {MANIFEST} or its {SUMS} cannot be read ({type(error).__name__}). The playbook export writes one.") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("schema") != SCHEMA:
        raise refused(f"its {MANIFEST} is not one of this version.")
    missing = [name for name in names if not os.path.isfile(inside(directory, name))]
    if missing:
        raise refused(f"{len(missing)} of its files are missing, such as {missing[0]}.")
    return found


def inside(directory: str, name: str) -> str:
    """Return the path of a file of an export; raise BackupError where it leads elsewhere."""
    root = os.path.realpath(directory)
    path = os.path.realpath(os.path.join(root, name))
    if not path.startswith(f"{root}/"):
        raise BackupError(f"The export names a file outside of it: {name[:80]!r}. Nothing was changed.")
    return path


def rows_of(directory: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the listing; raise DamagedSetError."""
    try:
        with open(os.path.join(directory, LISTING), encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield {**row, "file": inside(directory, row["file"])}
    except (ValueError, KeyError, TypeError):
        raise DamagedSetError(f"{LISTING} of the export is not what was written.") from None


def check_sql(directory: str, manifest: Mapping[str, Any]) -> None:
    """Raise DamagedSetError where the SQL or the roles are not what was exported.

    Cut off behind its last row, SQL loads without an error, and lacks constraints.
    Each is opened for this by itself: psql reads the descriptor that it is given from where that stands.
    """
    wanted = {ROLES: manifest["roles"], **{sql_name(database): row.get("sha256") for database, row in manifest["dumps"].items()}}
    for name, digest in wanted.items():
        with open(inside(directory, name), "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise DamagedSetError(
                f"{os.path.join(directory, name)} is not the file that was exported: its SHA-256 is not the one in {MANIFEST}. Nothing was changed. If it was "
                f"cut off or damaged, copy the export again; `sha256sum --quiet -c {SUMS}` in it names every file that differs. If it was edited on purpose, "
                f"write its new SHA-256 into {MANIFEST}, or load it by hand as {README} says."
            )


def read(directory: str, manifest: dict[str, Any], copy: Any) -> sets.Read:
    """Hand each part of an export to who takes it, in the way of `sets.read`; raise BackupError where one is not what was written."""
    found = sets.Read()
    found.manifest = manifest
    if "postgres" in manifest["parts"]:
        # Before what takes longer.
        check_sql(directory, manifest)
    if "minio" in manifest["parts"]:
        copy.where = os.path.join(directory, BUCKETS)
        with open(copy.where, encoding="utf-8") as file:
            for bucket, settings in json.load(file).items():
                copy.bucket(bucket, settings)
        for row in rows_of(directory):
            with open(row.pop("file"), "rb") as content:
                size = os.fstat(content.fileno()).st_size
                stream = s3.Digest(content)
                copy.object({"headers": {}, **row}, size, stream)
            if (stream.size, stream.digest.hexdigest()) != (row["size"], row["sha256"]):
                raise DamagedSetError(f"{row['bucket']}/{row['key']} is not as the listing of the export says.")
            found.objects[row["bucket"], row["key"]] = hashlib.sha256(s3.line(row)).digest()
        if len(found.objects) != manifest["objects"]["count"]:
            raise DamagedSetError("The listing of the export has not as many objects as its manifest says.")
    if "postgres" in manifest["parts"]:
        with open(os.path.join(directory, ROLES), "rb") as file:
            copy.roles(file.read())
        for database in manifest["dumps"]:
            with open(inside(directory, sql_name(database)), "rb") as file:
                copy.sql(database, file)
    if "redis" in manifest["parts"]:
        with open(os.path.join(directory, RDB), "rb") as file:
            copy.rdb(os.fstat(file.fileno()).st_size, file)
    return found


# --- The page in it

_PAGE = """# Export of {project}

Made {ended} from the release {release}. You need nothing but the usual tools to load it: psql, aws or mc, redis. This directory holds all that was
stored, in plain text: keep it as you keep the data itself. `sha256sum --quiet -c {sums}` says whether it is still what was written.

The database is as it was at {moment}. Most objects were copied before, the rest right after. One that was removed meanwhile may be in here.

| Part | Files |
| --- | --- |
{parts}
| The release that it ran under, to be read by a person | `release/` |
| What was counted: rows and a hash of each table, number of objects, keys of Redis | `{manifest}` |
"""
_POSTGRES = """
## PostgreSQL

Made by PostgreSQL {version} with the extensions {extensions}. Load it into the same major version or a later one that has these extensions.
The SQL begins with `\\restrict`, which a psql of August 2025 or later knows (13.22, 14.19, 15.14, 16.10, 17.6, 18); with an older one remove the two lines.

```sh
psql -X -d postgres -f {roles}      # a role that is there already is told of, and stays as it is; the database postgres gets its settings and rights
{databases}
```

Each creates its database, so one of that name must not be there: `DROP DATABASE` an empty one before. One that its own settings make read-only
takes its tables with `PGOPTIONS='-c default_transaction_read_only=off'` before the command. What fills materialized views comes last: where one cannot be
filled, such as over a foreign server, leave `-v ON_ERROR_STOP=1` out. {passwords}
"""
_MINIO = """
## Objects

{count} objects. `{listing}` has a line of JSON for each: `bucket`, `key`, `size`, `sha256`, `headers` (the content type, `x-amz-meta-...`),
`tags`, and `file`, where its bytes lie. That is below `objects/` under its own key, or below `objects-by-digest/` where the key cannot be a name of a file
everywhere: with `..`, with other characters than plain ones, with a directory of its name, with names that differ in upper case only.
`{buckets}` has the buckets' policies and settings as S3 spells them.

All of them, with content types and metadata, by bash, jq and aws (`AWS_ENDPOINT_URL` names another S3 than Amazon's):

```sh
jq -r 'keys[]' {buckets} | while IFS= read -r bucket; do aws s3api create-bucket --bucket "$bucket"; done
while IFS= read -r row; do
  aws s3api put-object --body "$(jq -r .file <<<"$row")" --cli-input-json "$(jq '.headers as $h | {{Bucket: .bucket, Key: .key,
    ContentType: $h["content-type"], CacheControl: $h["cache-control"], ContentDisposition: $h["content-disposition"],
    ContentEncoding: $h["content-encoding"], ContentLanguage: $h["content-language"],
    Metadata: ($h | with_entries(select(.key | startswith("x-amz-meta-")) | .key |= ltrimstr("x-amz-meta-")))}}
    | with_entries(select(.value != null))' <<<"$row")" </dev/null >/dev/null
done <{listing}
```

Faster, without metadata and with guessed content types, and only those below `objects/`: `mc mirror objects/BUCKET ALIAS/BUCKET`.
"""
_REDIS = """
## Redis

`{rdb}` has all keys, waiting jobs among them. A Redis that keeps an append-only file ignores it, so start one without first:

```sh
cp {rdb} DATA/dump.rdb && redis-server --dir DATA --appendonly no --save "" &
redis-cli CONFIG SET appendonly yes
redis-cli INFO persistence          # wait for aof_rewrite_in_progress:0, then stop it, and start it as usual
```
"""


def page(manifest: Mapping[str, Any], *, passwords: bool) -> str:
    """Return the page that says how to load an export."""
    parts, texts = [], []
    if "postgres" in manifest["parts"]:
        names = list(manifest["dumps"])
        parts.append(f"| The database{'s' if len(names) > 1 else ''} and the roles | `{'`, `'.join([ROLES, *map(sql_name, names)])}` |")
        extensions = sorted({f"{name} {version}" for row in manifest["databases"].values() for name, version in row["extensions"].items()})
        commands = "\n".join(f"psql -X -v ON_ERROR_STOP=1 -d {postgres.beside(name)} -f '{sql_name(name)}'" for name in names)
        told = "The roles have their passwords, as hashes." if passwords else "The roles have no passwords: give those that log in one with `ALTER ROLE`."
        texts.append(
            _POSTGRES.format(version=manifest["versions"]["postgres"], extensions=", ".join(extensions), roles=ROLES, databases=commands, passwords=told)
        )
    if "minio" in manifest["parts"]:
        parts.append(f"| Objects, their listing, their buckets | `objects/`, `objects-by-digest/`, `{LISTING}`, `{BUCKETS}` |")
        texts.append(_MINIO.format(count=manifest["objects"]["count"], listing=LISTING, buckets=BUCKETS))
    if "redis" in manifest["parts"]:
        parts.append(f"| Redis | `{RDB}` |")
        texts.append(_REDIS.format(rdb=RDB))
    moments = manifest["moments"]
    head = _PAGE.format(
        project=manifest["project"],
        ended=moments["ended"],
        release=manifest["release"],
        moment=moments["database"],
        parts="\n".join(parts),
        sums=SUMS,
        manifest=MANIFEST,
    )
    return head + "".join(texts)
