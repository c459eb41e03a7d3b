# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that a stack stores, read in one moment: into a set, or into an export."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ansible_collections.campaign.platform.plugins.module_utils import manifest
from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, plain, postgres, redis, s3, sets
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, Docker, Process, Service

# How often a moment is taken again in which an object was just being removed.
MOMENTS = 3
# What stands in a query for the bucket of the release.
BUCKET = "{bucket}"
# So many objects that are missing are named in a manifest, which says how many there are.
NAMED = 100


def missing(found: dict[str, Any]) -> int:
    """Return how many objects the database named that were not in the bucket, from a manifest. One of an earlier version has no number."""
    return int(found.get("missing_count", len(found["missing"])))


class Stack(Protocol):
    """Whose data it is."""

    docker: Docker
    directory: str
    project: str
    run: str
    config: dict[str, Any]

    def say(self, text: str) -> None:
        """Tell who waits what is being done."""

    def container(self, service: Service) -> str:
        """Return the container of a server that runs; raise BackupError."""

    def locked(self) -> AbstractContextManager[Any]:
        """Have nobody deploy meanwhile."""


def objects_query(config: Mapping[str, Any], release: Mapping[str, Any]) -> str:
    """Return the query for the objects that the database needs, with the bucket of a release, or an empty text; raise BackupError and OSError."""
    query = str(config.get("objects_query") or "")
    if BUCKET not in query:
        return query
    found = ""
    if path := release["env_file"]:
        with open(path, encoding="utf-8") as file:
            found = next((line.partition("=")[2].strip().strip("\"'") for line in file if line.startswith("S3_BUCKET=")), "")
    if not found:
        raise BackupError(f"The release {release['release']} has no S3_BUCKET, which {BUCKET} in backup_objects_query stands for. Name a bucket in its place.")
    return query.replace(BUCKET, found.replace("'", "''"))


def named_objects(opened: postgres.Session, query: str) -> list[tuple[str, str]]:
    """Return bucket and key of each object that a query names; raise BackupError, with the variable that has it.

    It is an UnknownNameError where the database does not have what the query asks for.
    """
    try:
        rows = opened.ask(f"SELECT json_build_array(bucket, key) FROM ({query}) AS named (bucket, key);")
    except BackupError as error:
        raise type(error)(
            f"The query of backup_objects_query, which says which objects the database needs, failed. {error} With an application of your own, give a query "
            "that fits its tables, or an empty text to compare nothing, and run the playbook backup."
        ) from None
    return [(bucket, key) for bucket, key in map(json.loads, rows)]


@contextlib.contextmanager
def _ended_well(database: str, process: Process, seconds: float | None = 600) -> Iterator[Process]:
    """Yield a dump that runs, and raise BackupError where it does not end well within the seconds that it has after what is read of it."""
    try:
        yield process
        if (status := process.wait(seconds)) != 0:
            raise BackupError(f"pg_dump failed for the database {database} with exit code {status}: {postgres.objects_of(process.error())}.")
    finally:
        process.kill()


@dataclass
class Making:
    """A set while it is made."""

    backups: Stack
    servers: copies.Servers
    release: dict[str, Any]
    writer: sets.Writer | plain.Directory
    identifier: str
    began: str
    # Whether the roles have the hashes of their passwords.
    with_passwords: bool = False

    def write(self) -> dict[str, Any]:
        """Write all members and return the manifest."""
        say, docker = self.backups.say, self.backups.docker
        moments = {"started": self.began}
        objects, minio = sets.Objects(), self.servers.minio
        found: dict[str, Any] = {
            "schema": sets.SCHEMA, "set": self.identifier, "project": self.backups.project, "release": self.release["release"],
            "layer": self.release.get("layer"), "images": self.release["images"], "parts": sorted(self.servers.present()), "moments": moments,
            "databases": {}, "dumps": {}, "roles": None, "objects": None, "redis": None, "missing": [], "missing_count": 0, "versions": {},
        }  # fmt: skip
        with contextlib.ExitStack() as stack:
            client = None
            buckets: dict[str, dict[str, str]] = {}
            if minio:
                client = copies.s3_client(docker, lambda: self.backups.container(minio), minio, minio.secrets)
                stack.callback(client.close)
                buckets = self._buckets(client)
                self.writer.add_bytes(sets.BUCKETS, json.dumps(buckets, sort_keys=True).encode())
                # Most of them, before anything has to wait for it.
                say(f"{objects.copy(client, self.writer, say)} objects are in the set")
                moments["objects"] = sets.moment()
            with self.backups.locked():
                self._in_one_moment(found, objects, client)
            if self.servers.redis:
                found["redis"] = self._redis_facts(self.servers.redis)
            if client:
                text, facts = objects.facts()
                self.writer.add_bytes(sets.OBJECTS, text)
                found["objects"] = {**facts, "buckets": buckets}
        for path in [*self.release["compose_files"], self.release["env_file"], os.path.join(os.path.dirname(self.release["compose_files"][0]), manifest.NAME)]:
            self._add_release_file(path)
        for name in self.release["configs"]:
            self._add_release_file(os.path.join(self.backups.directory, name), name)
        moments["ended"] = sets.moment()
        found["bytes"] = self.writer.written
        self._describe(found)
        self.writer.add_bytes(sets.MANIFEST, json.dumps(found, indent=1, sort_keys=True).encode())
        self.writer.close()
        return found

    def _describe(self, found: dict[str, Any]) -> None:
        """Say more of what was made than the manifest of a set does."""

    def _add_release_file(self, path: str | None, name: str | None = None) -> None:
        if path:
            with open(path, "rb") as file:
                self.writer.add_bytes(f"release/{name or os.path.basename(path)}", file.read())

    def _buckets(self, client: s3.Client) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for bucket in client.buckets():
            settings = {name: client.setting(bucket, name) for name in s3.SETTINGS}
            found[bucket] = {name: text for name, text in settings.items() if text is not None}
        return found

    def _in_one_moment(self, found: dict[str, Any], objects: sets.Objects, client: s3.Client | None) -> None:
        """Write what belongs together: the database as it is in one moment, the objects that came by then, and Redis."""
        service, docker, say = self.servers.postgres, self.backups.docker, self.backups.say
        moments = found["moments"]
        with contextlib.ExitStack() as stack:
            main: postgres.Session | None = None
            container, user = "", ""
            if service:
                container, user = self.backups.container(service), service.environment["POSTGRES_USER"]
                database = service.environment.get("POSTGRES_DB") or user
            missing: list[str] = []
            for attempt in range(MOMENTS):
                if service:
                    main = stack.enter_context(postgres.session(docker, container, user, database, held=True))
                    moments["database"] = main.ask("SELECT to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"');")[0]
                else:
                    moments["database"] = sets.moment()
                if client:
                    objects.copy(client, self.writer, say)
                    moments["last_objects"] = sets.moment()
                before, missing = missing, self._missing(main, objects) if client else []
                # The application removes an object before its row; of what is in both moments, that is not the reason.
                if not missing or set(missing) & set(before) == set(missing) or attempt == MOMENTS - 1:
                    break
                say(f"{len(missing)} objects that the database names are not there; the moment is taken again")
                stack.close()
                time.sleep(1)
            found |= {"missing": missing[:NAMED], "missing_count": len(missing)}
            if self.servers.redis:
                moments["redis"] = sets.moment()
                self._redis_files(self.servers.redis)
            if main:
                found["versions"]["postgres"] = main.ask("SHOW server_version;")[0]
                text = postgres.roles(docker, container, user, database, passwords=self.with_passwords)
                found["roles"] = hashlib.sha256(text).hexdigest()
                self.writer.add_bytes(sets.ROLES, text)
                self._database(found, container, user, database, main)
                for name in postgres.closed_databases(main):
                    say(f"the database {name} allows no connections, so it is in no set")
                for name in postgres.databases(docker, container, user, database):
                    # Each has a moment of its own, and a connection as long as it needs one.
                    if name != database:
                        with postgres.session(docker, container, user, name, held=True) as opened:
                            self._database(found, container, user, name, opened)

    def _missing(self, opened: postgres.Session | None, objects: sets.Objects) -> list[str]:
        """Return the objects that the database names in its moment and that are not in the set."""
        query = objects_query(self.backups.config, self.release)
        if not opened or not query:
            return []
        return [f"{bucket}/{key}" for bucket, key in named_objects(opened, query) if not objects.has(bucket, key)]

    def _database(self, found: dict[str, Any], container: str, user: str, name: str, opened: postgres.Session) -> None:
        snapshot = opened.ask("SELECT pg_export_snapshot();")[0]
        about = self._dump(name, functools.partial(postgres.dump, self.backups.docker, container, user, name, snapshot))
        if not about["size"]:
            raise BackupError(f"pg_dump gave nothing for the database {name}.")
        found["dumps"][name] = about
        self.backups.say(f"counting and hashing the rows of {name}")
        found["databases"][name] = postgres.facts(opened)

    def _dump(self, name: str, start: Callable[..., Process]) -> dict[str, Any]:
        """Write the dump of a database that ``start`` begins, and return what the manifest says of it."""
        self.backups.say(f"dumping the database {name}")
        dumping = sets.Dumping(self.writer, name)
        with _ended_well(name, start()) as process:
            dumping.take(postgres.copy_chunks(process.stdout, sets.PART))
        return dumping.facts()

    def _redis_files(self, service: Service) -> None:
        """Copy Redis' files as they are in this moment, and write them."""
        self._copy_redis(service)
        for path, size, content in redis.files(self.backups.docker, service, self.volume, f"{self.backups.run}-redis-files"):
            self.writer.add(f"redis/{path}", size, content)

    def _copy_redis(self, service: Service) -> None:
        self.backups.say("copying Redis")
        docker, run = self.backups.docker, self.backups.run
        time.sleep(redis.HELD_BACK_SECONDS)
        self.volume = docker.create_volume(f"{run}_redis-copy")
        redis.copy(docker, service, copies.volume_of(service)[1], self.volume, f"{run}-redis-copy")

    def _redis_facts(self, service: Service) -> dict[str, Any]:
        docker, run = self.backups.docker, self.backups.run
        try:
            return redis.facts(docker, service, self.volume, f"{run}-redis")
        finally:
            docker.remove_volume(self.volume)


class Exporting(Making):
    """An export while it is made."""

    writer: plain.Directory

    def _dump(self, name: str, start: Callable[..., Process]) -> dict[str, Any]:
        self.backups.say(f"writing the SQL of the database {name}")
        path = plain.sql_name(name)
        with self.writer.create(path) as file:
            with _ended_well(name, start(plain=file), seconds=None):
                pass
            size = os.fstat(file.fileno()).st_size
        return {"size": size, "sha256": self.writer.sums[path]}

    def _redis_files(self, service: Service) -> None:
        # What is written of them is made when nobody has to wait for it.
        self._copy_redis(service)

    def _redis_facts(self, service: Service) -> dict[str, Any]:
        docker, run = self.backups.docker, self.backups.run
        redis.write_rdb(docker, service, self.volume, f"{run}-redis-rdb")
        for path, size, content in redis.files(docker, service, self.volume, f"{run}-redis-files"):
            if path == redis.RDB:
                self.writer.add(plain.RDB, size, content)
        return super()._redis_facts(service)

    def _describe(self, found: dict[str, Any]) -> None:
        found |= {"format": plain.FORMAT, "schema": plain.SCHEMA}
        self.writer.add_bytes(plain.README, plain.page(found, passwords=self.with_passwords).encode())
