# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set brought back into new volumes by throw-away servers, and compared with what the set says: for a drill, and before a restore touches anything."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ansible_collections.campaign.platform.plugins.module_utils.backup import postgres, redis, s3, sets
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import (
    BackupError,
    DamagedSetError,
    Docker,
    Process,
    Service,
    await_answer,
    give,
    running,
)
from ansible_collections.campaign.platform.plugins.module_utils.backup.repository import Repository, Snapshot

S3_PORT = 9000
_READY = 60
# Where the servers keep their data.
DATA = {"postgres": "/var/lib/postgresql", "redis": "/data", "minio": "/data"}


@dataclass(frozen=True)
class Servers:
    """The servers of the stack that keep data, as the release defines them; None for one that stands outside the stack."""

    postgres: Service | None
    redis: Service | None
    minio: Service | None

    def present(self) -> dict[str, Service]:
        """Return those that are there, by name."""
        return {name: one for name, one in (("postgres", self.postgres), ("redis", self.redis), ("minio", self.minio)) if one}


def volume_of(service: Service) -> tuple[str, str]:
    """Return target and name of the volume of a server's data; raise BackupError where it has none, or where it is not known which of several is."""
    place = service.environment.get("PGDATA") if service.name == "postgres" else None
    below = f"{place or DATA.get(service.name, '')}/"
    holding = [target for target in service.volumes if below.startswith(f"{target.rstrip('/')}/")]
    # Where the image has its data is not known to the byte: a volume that is mounted within may hold it.
    is_clear = holding and (place or not any(target.startswith(below) for target in service.volumes))
    if len(service.volumes) == 1 or is_clear:
        target = max(holding or service.volumes, key=len)
        return target, service.volumes[target]
    raise BackupError(
        f"The service {service.name} has {len(service.volumes)} volumes, and one with its data is expected: it is not known which one that is. Mount the "
        "others outside of its data, or take directories of the host for them, and deploy."
    )


def s3_client(docker: Docker, container: str | Callable[[], str], service: Service, files: Mapping[str, str]) -> s3.Client:
    """Return a client of the MinIO in a container with its root's credentials, which are read from files of the host."""

    def read(target: str) -> str:
        try:
            with open(files[target], encoding="utf-8") as file:
                return file.read().strip()
        except (OSError, KeyError):
            raise BackupError(f"The secret file of {service.name} for {target} cannot be read.") from None

    def address() -> tuple[str, int]:
        name = container if isinstance(container, str) else container()
        for network in (docker.inspect(name)["NetworkSettings"]["Networks"] or {}).values():
            if network.get("IPAddress"):
                return network["IPAddress"], S3_PORT
        raise BackupError(f"The container {name} has no address, so its objects cannot be read. Does it run?")

    return s3.Client(address, read("minio_root_user"), read("minio_root_password"), service.environment.get("MINIO_REGION") or "us-east-1")


@dataclass
class Copy:
    """Throw-away servers over new volumes, which a set is written into."""

    docker: Docker
    servers: Servers
    # Names of the volumes by server.
    volumes: Mapping[str, str]
    # A directory of the host for nobody but root, which is removed afterwards.
    private: str
    # Secret files of the host by server and target; None for passwords that are made up and thrown away.
    secrets: Mapping[str, Mapping[str, str]] | None
    say: Callable[[str], None]
    # Parts of a set that come from elsewhere.
    without: frozenset[str] = frozenset()
    seconds: dict[str, float] = field(default_factory=dict)
    # Materialized views that could not be filled, by database.
    empty_views: dict[str, Sequence[str]] = field(default_factory=dict)
    # Where the settings of buckets lie that are read.
    where: str = "what is read"
    # What is told of settings that MinIO refuses, by bucket and name.
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    _restore: postgres.Restore | None = None
    _redis: redis.Writer | None = None
    _client: s3.Client | None = None
    _buckets: set[str] = field(default_factory=set)

    # --- The servers

    def _name(self, what: str) -> str:
        return f"{self.docker.run}-{what}"

    def _files(self, service: Service) -> dict[str, str]:
        """Return the secret files of a server by target."""
        if self.secrets is not None:
            return dict(self.secrets[service.name])
        found = {}
        uid, _colon, gid = service.user.partition(":")
        for target in service.secrets:
            path = os.path.join(self.private, f"{service.name}_{target}")
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o400)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(16))
            os.chown(path, int(uid or 0), int(gid or 0))
            found[target] = path
        return found

    def options(self, service: Service) -> list[str]:
        """Return the options of a throw-away container over a server's new volume."""
        target, _name = volume_of(service)
        options = [*service.options(), "--volume", f"{self.volumes[service.name]}:{target}"]
        if service.name != "redis":
            for name, path in self._files(service).items():
                options += ["--mount", f"type=bind,source={path},target=/run/secrets/{name},readonly"]
        return options

    @contextlib.contextmanager
    def postgres(self, service: Service) -> Iterator[tuple[str, str]]:
        """Run PostgreSQL, and yield the container and the user."""
        user = service.environment["POSTGRES_USER"]
        # A set that is thrown away need not survive a power cut. One that is kept is written down when the server ends.
        settings = ["-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "max_wal_size=2GB", "-c", "fsync=off" if self.secrets is None else "fsync=on"]
        settings += passed_on(service.command) + postgres.without_triggers(postgres.major_in(self.docker, service.image, self._name("version")))
        name = self._name("postgres")
        options = ["--network", "none", *self.options(service)]
        with running(self.docker, name, options, service.image, ["postgres", *settings], ends_well=self.secrets is not None):
            await_answer(self.docker, name, "pg_isready", "-q", "-h", "127.0.0.1", "-U", user, "-d", "postgres")
            yield name, user

    @contextlib.contextmanager
    def minio(self, service: Service) -> Iterator[s3.Client]:
        """Run MinIO in a network of its own that leads nowhere, and yield a client of it."""
        network, name = self._name("network"), self._name("minio")
        target, _volume = volume_of(service)
        options = self.options(service)
        self.docker.ask("network", "create", "--internal", *self.docker.labels(), network)
        client = None
        try:
            # A new volume is root's where the image has no directory of its own there.
            give(self.docker, service, self.volumes[service.name], target, name)
            # It would drop whoever waits for the repository.
            options += ["--env", "MINIO_IDLE_TIMEOUT=24h", "--network", network]
            with running(self.docker, name, options, service.image, service.command, ends_well=self.secrets is not None):
                client = s3_client(self.docker, name, service, self.files_of_minio(service))
                self._await_objects(client)
                yield client
        finally:
            if client:
                client.close()
            self.docker.attempt("network", "rm", network)

    def files_of_minio(self, service: Service) -> dict[str, str]:
        """Return the files of the host with the credentials of the MinIO that runs, by target."""
        if self.secrets is not None:
            return dict(self.secrets[service.name])
        return {target: os.path.join(self.private, f"{service.name}_{target}") for target in service.secrets}

    def _await_objects(self, client: s3.Client) -> None:
        deadline = time.monotonic() + _READY
        while True:
            try:
                client.ask("asking the throw-away MinIO", "GET", "/", again=False)
                return
            except s3.S3Error as error:
                if time.monotonic() >= deadline:
                    raise BackupError(f"The throw-away MinIO did not answer within {_READY} s: {error}") from None
            time.sleep(0.3)

    # --- What a set is written by

    def bucket(self, name: str, settings: dict[str, str]) -> None:
        """Take a bucket."""
        if self._client:
            self._client.create_bucket(name)
            self._buckets.add(name)
            for key, text in settings.items():
                try:
                    self._client.put_setting(name, key, text)
                except s3.S3Error as error:
                    # Such as a lifecycle with a tier, which the live server alone knows. No object needs one, of which only the last version is stored.
                    if not 400 <= error.status < 500:
                        raise
                    self.refused[name, key] = (
                        f"The {key} of the bucket {name} was not brought back, because MinIO refuses it: {error.code} (HTTP {error.status}). "
                        f"It lies in {self.where}. Put it back by hand."
                    )

    def object(self, meta: dict[str, Any], size: int, content: IO[bytes]) -> None:
        """Take an object."""
        if self._client:
            if meta["bucket"] not in self._buckets:
                # It was created while the set was made.
                self.bucket(meta["bucket"], {})
            self._client.put(meta["bucket"], meta["key"], content, size, meta["headers"])
            if meta.get("tags"):
                self._client.put_tags(meta["bucket"], meta["key"], meta["tags"])

    def redis(self, path: str, size: int, content: IO[bytes]) -> None:
        """Take a file of Redis."""
        service = self.servers.redis
        if service:
            if self._redis is None:
                self._redis = redis.Writer(self.docker, service, self.volumes["redis"], self._name("redis-write"))
            self._redis.add(path, size, content)

    def roles(self, text: bytes) -> None:
        """Take the roles."""
        if self._postgres:
            postgres.restore_roles(self.docker, *self._postgres, text)

    def dump(self, database: str, part: bytes) -> None:
        """Take the next part of a dump."""
        if not self._postgres:
            return
        if self._restore and self._restore.database != database:
            self._end_restore()
        if self._restore is None:
            self.say(f"writing the database {database}")
            self._restore = postgres.Restore(self.docker, *self._postgres, database)
        self._restore.write(part)

    def sql(self, database: str, text: IO[bytes]) -> None:
        """Take the SQL of a database."""
        if self._postgres:
            self.say(f"writing the database {database}")
            self._tell(database, postgres.restore_sql(self.docker, *self._postgres, database, text))

    def rdb(self, size: int, content: IO[bytes]) -> None:
        """Take all keys of Redis."""
        service = self.servers.redis
        if service:
            self.redis(redis.RDB, size, content)
            self._end_writing()
            redis.read_rdb(self.docker, service, self.volumes["redis"], self._name("redis-rdb"))

    def take(self, read: Callable[[Copy], sets.Read]) -> tuple[dict[str, Any], list[str]]:
        """Have somebody write into the volumes what was stored elsewhere, and return its manifest and what is not as it says; raise BackupError."""
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            self._postgres = stack.enter_context(self.postgres(self.servers.postgres)) if self.servers.postgres else None
            self._client = stack.enter_context(self.minio(self.servers.minio)) if self.servers.minio else None
            stack.callback(self._abandon)
            found = read(self)
            self._end_writing()
            self.seconds["load"] = time.monotonic() - started
            self.say("comparing what was written with what it should be")
            problems = self._compare(found)
            self.seconds["compare"] = time.monotonic() - started - self.seconds["load"]
        return found.manifest, problems

    def _end_restore(self) -> None:
        if self._restore:
            self._tell(self._restore.database, self._restore.close())
            self._restore = None

    def _tell(self, database: str, views: Sequence[str]) -> None:
        if views:
            self.empty_views[database] = views
            self.say(postgres.empty_views(database, views))

    def _end_writing(self) -> None:
        self._end_restore()
        if self._redis:
            self._redis.close()
            self._redis = None

    def load(self, repository: Repository, snapshot: Snapshot) -> tuple[dict[str, Any], list[str]]:
        """Write a set into the volumes, and return its manifest and what is not as it says; raise BackupError where the set is not whole."""

        def read(_copy: Copy) -> sets.Read:
            self.say(f"reading the set {snapshot.set}")
            self.where = f"{sets.BUCKETS} of the set {snapshot.set}"
            with repository.reading(snapshot) as process:
                return self._read(repository, process)

        return self.take(read)

    def _read(self, repository: Repository, process: Process) -> sets.Read:
        try:
            found = sets.read(process.stdout, self)
        except DamagedSetError:
            # What restic says is wrong with the repository comes first: a set that ends too early follows from it.
            process.stdout.close()
            status = process.wait(120)
            if status not in (0, 2, 141) and "broken pipe" not in process.error():
                raise repository.failure("reading the set", status, process.error()) from None
            raise
        if (status := process.wait(600)) != 0:
            raise repository.failure("reading the set", status, process.error())
        return found

    def _abandon(self) -> None:
        if self._restore:
            self._restore.abandon()
        if self._redis:
            self._redis.abandon()

    # --- Comparing

    def _compare(self, found: sets.Read) -> list[str]:
        manifest, problems = found.manifest, []
        for part in ("postgres", "redis", "minio"):
            if part in manifest["parts"] and part not in self.servers.present() and part not in self.without:
                raise BackupError(f"The set has {part}, which the present release does not have. Deploy one that has it.")
        if self._postgres:
            problems += self._compare_databases(manifest, *self._postgres)
        if self._client:
            problems += self._compare_objects(found, self._client)
        if self.servers.redis and manifest["redis"]:
            try:
                problems += redis.differences(manifest["redis"], self._redis_facts(self.servers.redis))
            except redis.NoLogError:
                # A server starts empty over what else there may be, and the set's number of keys came from one that did.
                problems.append("Redis: the set has no append-only files, so nobody knows which keys there were")
        return problems

    def _compare_databases(self, manifest: dict[str, Any], container: str, user: str) -> list[str]:
        problems = []
        there = postgres.databases(self.docker, container, user, "postgres")
        for database, wanted in manifest["databases"].items():
            if database not in there:
                problems.append(f"the database {database} is missing")
                continue
            with postgres.session(self.docker, container, user, database) as opened:
                problems += postgres.differences(wanted, postgres.facts(opened, wanted["tables"]), database)
        return problems

    def _compare_objects(self, found: sets.Read, client: s3.Client) -> list[str]:
        problems, left = [], dict(found.objects)
        for bucket in client.buckets():
            for listed in list(client.objects(bucket)):
                wanted = left.pop((listed.bucket, listed.key), None)
                if wanted is None:
                    problems.append(f"{bucket}: an object is surplus")
                elif self._row(client, listed) != wanted:
                    problems.append(f"{bucket}: {listed.key} is not as the set has it")
        problems += [f"{bucket}: {key} is missing" for bucket, key in sorted(left)]
        for bucket, settings in (found.manifest["objects"] or {}).get("buckets", {}).items():
            here = [name for name in settings if (bucket, name) not in self.refused]
            problems += [f"{bucket}: its {name} is missing" for name in here if client.setting(bucket, name) is None]
        return problems

    def _row(self, client: s3.Client, listed: s3.Listed) -> bytes:
        with client.opened(listed) as (answer, about):
            stream = s3.Digest(answer)
            while stream.read(1024 * 1024):
                pass
        if about["tagged"]:
            about["tags"] = client.tags(listed.bucket, listed.key)
        return hashlib.sha256(s3.line(s3.facts_of(listed, stream.size, stream.digest.hexdigest(), about))).digest()

    def _redis_facts(self, service: Service) -> dict[str, Any]:
        # Of a copy, because asking removes the keys that end by themselves.
        volume = self.docker.create_volume(self._name("redis-look"))
        try:
            redis.copy(self.docker, service, self.volumes["redis"], volume, self._name("redis-copy"))
            return redis.facts(self.docker, service, volume, self._name("redis"))
        finally:
            self.docker.remove_volume(volume)

    _postgres: tuple[str, str] | None = None


# pg_cron can be created in one database only, and a log that is followed may have prepared transactions.
_NEEDED = ("shared_preload_libraries", "max_locks_per_transaction", "max_prepared_transactions", "cron.database_name")


def passed_on(command: Sequence[str]) -> list[str]:
    """Return the options of PostgreSQL's command that a copy needs too: extensions that are loaded with the server cannot be created without."""
    found: list[str] = []
    runs_jobs = False
    words = iter(command)
    for word in words:
        given = next(words, "") if word == "-c" else word[2:] if word.startswith(("-c", "--")) else ""
        name, _equals, value = given.partition("=")
        name = name.replace("-", "_")
        if name in _NEEDED:
            found += ["-c", f"{name}={value}"]
        runs_jobs = runs_jobs or "pg_cron" in value
    # A copy runs no jobs.
    return [*found, "-c", "cron.launch_active_jobs=off"] if runs_jobs else found


@contextlib.contextmanager
def private_directory(parent: str) -> Iterator[str]:
    """Create a directory for root alone, and remove it with what is in it."""
    path = os.path.join(parent, f"private-{secrets.token_hex(4)}")
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        empty(path)


def empty(path: str) -> None:
    """Remove a private directory and the files in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


def loaded(text: str) -> dict[str, Any]:
    """Return a mapping that stands in a text as JSON; raise BackupError."""
    try:
        found = json.loads(text)
    except ValueError:
        raise BackupError("What should be JSON is none.") from None
    return found if isinstance(found, dict) else {}
