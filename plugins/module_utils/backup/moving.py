# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data of another Compose project, which was made by hand: read by throw-away servers over copies of its volumes, which are themselves only read.

It is dumped and not taken over as files. So its superuser, its passwords, its accounts of MinIO and its locales stay behind. All is compared as in a restore.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils.backup import copies, making, postgres, redis, sets, swap
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, DamagedSetError, Docker, Service, await_answer, give, running

_PARTS = ("postgres", "redis", "minio")
_SUPERUSER = b"SELECT rolname FROM pg_authid WHERE oid = 10;\n"
_ROLE = re.compile(r'rolname = "(.+)"\t\(typeid')
# Whatever the other stack asks of those who log in: nobody reaches this server.
_HBA = "local all all trust\nhost all all 127.0.0.1/32 trust\n"
_SETTINGS = {
    "hba_file": "/run/secrets/hba.conf", "listen_addresses": "127.0.0.1", "unix_socket_directories": "/tmp", "shared_preload_libraries": "",
    "fsync": "off", **postgres.ELSEWHERE,
}  # fmt: skip


def _refused(why: str) -> BackupError:
    return BackupError(f"{why} Nothing was changed.")


def names_of(project: str, other: str, live: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the other project's volumes by server: those that were given, an empty name leaving one out, and else those that are called as the stack's own.

    Raises BackupError.
    """
    if surplus := sorted(set(given) - set(live)):
        raise _refused(f"There is no {surplus[0]} in this stack. Volumes are given for {', '.join(live)}.")
    if other == project:
        raise _refused(f"{other} is this stack itself. Name the Compose project that its data is to come from.")
    found = {name: given.get(name, f"{other}_{volume.removeprefix(f'{project}_')}") for name, volume in live.items()}
    taken = {name: volume for name, volume in found.items() if volume}
    if not taken:
        raise _refused("All volumes were left out.")
    return taken


def check(docker: Docker, other: str, volumes: Mapping[str, str], live: Mapping[str, str]) -> dict[str, str]:
    """Return the directories of another project's volumes; raise BackupError where they cannot be read as they are."""
    running_ones = docker.ask("ps", "--filter", f"label=com.docker.compose.project={other}", "--format", "{{.Names}}").split()
    if running_ones:
        raise _refused(f"The project {other} runs ({', '.join(sorted(running_ones)[:3])}). Stop it first: `docker compose -p {other} stop`.")
    found = {}
    for name, volume in volumes.items():
        if volume in live.values():
            raise _refused(f"{volume} is a volume of this stack itself.")
        status, output, _error = docker.attempt("volume", "inspect", volume)
        if status != 0:
            raise _refused(
                f"There is no volume {volume}, which should have the data of {name}. `docker volume ls` shows those that are there; name it in "
                "backup_restore_from_volumes, or leave it out with an empty name."
            )
        row = json.loads(output)[0]
        if row["Driver"] != "local" or row.get("Options") or not os.path.isdir(row["Mountpoint"]):
            raise _refused(f"The volume {volume} is not a directory of the Engine on this host (driver {row['Driver']}), so it cannot be read.")
        users = docker.ask("ps", "--filter", f"volume={volume}", "--format", "{{.Names}}").split()
        if users:
            raise _refused(f"The volume {volume} is in use by {', '.join(sorted(users)[:3])}. Stop what uses it.")
        found[name] = str(row["Mountpoint"])
    return found


def cluster_in(path: str, volume: str, major: str) -> str:
    """Return where a cluster of a major version lies in a volume, relative to it; raise BackupError where there is none, or not exactly one."""
    found = postgres.clusters_in(path)
    if not found:
        raise _refused(f"The volume {volume} has no data of PostgreSQL.")
    if len(found) > 1:
        raise _refused(f"The volume {volume} has data of several PostgreSQL servers ({', '.join(sorted(found))}). Leave one of them in a volume of its own.")
    ((place, version),) = found.items()
    if version != major:
        raise _refused(
            f"The volume {volume} has data of PostgreSQL {version}, and this stack's is {major}. Bring the other stack to {major} first, or dump it with "
            "its own server and load that."
        )
    return place


def check_objects(path: str, volume: str) -> None:
    """Raise BackupError where a volume has no objects as MinIO keeps them now."""
    try:
        with open(os.path.join(path, ".minio.sys/format.json"), encoding="utf-8") as file:
            kind = json.load(file).get("format")
    except (OSError, ValueError, AttributeError):
        raise _refused(f"The volume {volume} has no objects of MinIO.") from None
    if kind == "fs":
        raise _refused(f"The volume {volume} has objects as MinIO kept them before 2022, which later ones do not read. Copy them with `mc mirror`.")


def kind_of_redis(path: str, volume: str) -> str:
    """Return the name of what a volume of Redis has its keys in; raise BackupError where it has none."""
    for name in ("appendonlydir", "appendonly.aof", redis.RDB):
        if os.path.exists(os.path.join(path, name)):
            return name
    raise _refused(f"The volume {volume} has no keys of Redis. Leave it out of backup_restore_from_volumes with an empty name, if there should be none.")


def has_newer_rdb(path: str, keys: str) -> bool:
    """Return whether a directory of Redis has an RDB file that was written after all of its append-only files."""
    rdb = os.path.join(path, redis.RDB)
    if keys == redis.RDB or not os.path.exists(rdb):
        return False
    log = os.path.join(path, keys)
    written = [os.path.join(log, name) for name in os.listdir(log)] if os.path.isdir(log) else [log]
    return os.stat(rdb).st_mtime > max((os.stat(name).st_mtime for name in written), default=0.0)


def image_of(docker: Docker, volume: str, otherwise: str) -> str:
    """Return the image of the stopped container that a volume belongs to, so that its server has the locales of the data; a given one where there is none."""
    for identifier in docker.ask("ps", "--all", "--quiet", "--filter", f"volume={volume}").split():
        found = docker.inspect(identifier)
        environment = dict(entry.partition("=")[::2] for entry in found["Config"].get("Env") or [])
        if "PG_MAJOR" in environment and docker.attempt("image", "inspect", found["Image"])[0] == 0:
            return str(found["Image"])
    return otherwise


@dataclass
class Source:
    """The other project's data while it is read. It is a `making.Stack`."""

    docker: Docker
    directory: str
    project: str
    say: Callable[[str], None]
    # The servers of this stack that read it, volumes of the other project by server, and their directories.
    servers: copies.Servers
    volumes: Mapping[str, str]
    paths: Mapping[str, str]
    # Where the cluster lies in its volume, its major version, its image, and what Redis has its keys in.
    cluster: str = ""
    major: str = ""
    image: str = ""
    keys: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    containers: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """Return what the names of its containers begin with."""
        return self.docker.run

    def container(self, service: Service) -> str:
        """Return the container of a server that runs."""
        return self.containers[service.name]

    def locked(self) -> AbstractContextManager[Any]:
        """Have nobody deploy meanwhile: nothing of it is deployed."""
        return contextlib.nullcontext()

    def read(self, release: dict[str, Any], private: str, check_again: Callable[[], Any], copy: copies.Copy) -> sets.Read:
        """Hand each part to a copy, in the way of `sets.read`; raise BackupError."""
        with contextlib.ExitStack() as stack:
            servers = self._start(stack, private, check_again)
            self.say("reading the other project's data")
            copy.where = f"the MinIO of the project {self.project}"
            return self._pass_on(making.Making, servers, release, copy)

    def _start(self, stack: contextlib.ExitStack, private: str, check_again: Callable[[], Any]) -> copies.Servers:
        copied = {name: self.docker.create_volume(f"{self.run}_{name}") for name in self.volumes}
        for name, volume in copied.items():
            self.say(f"copying the volume {self.volumes[name]}")
            target = swap.path_of(self.docker, volume)
            self._copy(name, f"{self.paths[name]}/.", target)
        # A copy of what was written to meanwhile is none.
        check_again()
        there = {
            name: dataclasses.replace(one, volumes={copies.volume_of(one)[0]: copied[name]}) for name, one in self.servers.present().items() if name in copied
        }
        if "postgres" in there:
            there["postgres"] = self._start_postgres(stack, there["postgres"], private)
        if "minio" in there:
            one = copies.Copy(self.docker, copies.Servers(None, None, there["minio"]), copied, private, None, self.say)
            stack.enter_context(one.minio(there["minio"]))
            self.containers["minio"] = f"{self.run}-minio"
            there["minio"] = dataclasses.replace(there["minio"], secrets=one.files_of_minio(there["minio"]))
        if "redis" in there:
            self._check_keys(there["redis"], swap.path_of(self.docker, copied["redis"]))
            give(self.docker, there["redis"], copied["redis"], "/data", f"{self.run}-redis-owner")
            if self.keys == redis.RDB:
                redis.read_rdb(self.docker, there["redis"], copied["redis"], f"{self.run}-redis-rdb")
            elif self.keys == "appendonly.aof":
                # It takes the file of earlier versions over when it starts.
                redis.write_rdb(self.docker, there["redis"], copied["redis"], f"{self.run}-redis-rdb")
        return copies.Servers(*(there.get(name) for name in _PARTS))

    def _copy(self, name: str, source: str, target: str) -> None:
        """Copy files of a server's volume into the directory of another one; raise BackupError."""
        done = subprocess.run(["cp", "--archive", "--reflink=auto", source, target], capture_output=True, check=False)
        if done.returncode != 0:
            raise BackupError(f"The volume {self.volumes[name]} cannot be copied. Look at the free space.")

    def _check_keys(self, service: Service, path: str) -> None:
        """Raise BackupError where append-only files and an RDB file that was written later hold other keys: one of both is of long ago."""
        if not has_newer_rdb(path, self.keys):
            return
        self.say("comparing the append-only files of Redis with its RDB file, which was written later")
        found = []
        for number, kind in enumerate((self.keys, redis.RDB)):
            name = f"{self.run}-redis-{number}"
            volume = self.docker.create_volume(name)
            self._copy("redis", os.path.join(path, kind), swap.path_of(self.docker, volume))
            give(self.docker, service, volume, "/data", f"{name}-owner")
            if kind == redis.RDB:
                redis.read_rdb(self.docker, service, volume, f"{name}-read")
            found.append(redis.facts(self.docker, service, volume, f"{name}-facts"))
        if found[0] != found[1]:
            raise BackupError(
                f"The volume {self.volumes['redis']} has {self.keys} with {found[0]['keys']} keys, and {redis.RDB}, which was written later, with "
                f"{found[1]['keys']}, and these are not the same. Its Redis read the former with `appendonly yes`, else the latter. Move the other one away."
            )

    def _start_postgres(self, stack: contextlib.ExitStack, service: Service, private: str) -> Service:
        """Start PostgreSQL over a copy, and return the service with the superuser that was found in it."""
        target, volume = next(iter(service.volumes.items()))
        owner = os.stat(os.path.join(self.paths["postgres"], self.cluster))
        hba = os.path.join(private, "hba.conf")
        with open(hba, "w", encoding="ascii") as file:
            file.write(_HBA)
        os.chmod(hba, 0o444)
        options = ["--network", "none", "--user", f"{owner.st_uid}:{owner.st_gid}", "--volume", f"{volume}:{target}", "--entrypoint", "postgres"]
        options += ["--mount", f"type=bind,source={hba},target=/run/secrets/hba.conf,readonly", "--shm-size", service.shm_size or "64m"]
        settings = ["-D", os.path.normpath(os.path.join(target, self.cluster))]
        settings += [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        settings += postgres.without_triggers(self.major)
        name = f"{self.run}-postgres"
        # The server by itself, as the one who made the cluster: whose name that is, it knows alone.
        said = self.docker.ask(
            "run", "--rm", "--interactive", "--name", name, *self.docker.confined(), *options, self.image, "--single", *settings, "template1", stdin=_SUPERUSER
        )
        found = _ROLE.search(said)
        if not found:
            raise BackupError("PostgreSQL over the other project's data does not say who its superuser is.")
        user = found[1]
        stack.enter_context(running(self.docker, name, options, self.image, settings))
        await_answer(self.docker, name, "pg_isready", "-q", "-h", "127.0.0.1", "-U", user, "-d", "template1")
        self.containers["postgres"] = name
        # Any database that is there will do to ask from.
        return dataclasses.replace(service, environment={**service.environment, "POSTGRES_USER": user})

    def _pass_on(self, make: type[making.Making], servers: copies.Servers, release: dict[str, Any], copy: copies.Copy) -> sets.Read:
        """Have a set made, and read as it comes."""
        reading, writing = os.pipe()

        def work() -> None:
            with open(writing, "wb") as target:
                make(self, servers, release, sets.Writer(target), self.run, sets.moment()).write()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            made = pool.submit(work)
            try:
                with open(reading, "rb") as source:
                    found = sets.read(source, copy)
            except DamagedSetError:
                # What was cut off follows from what failed.
                made.result()
                raise
            made.result()
        return found


def look(source: Source, live_image: str) -> None:
    """Find out what the volumes hold, before anything is created; raise BackupError where it is not what this stack can take."""
    docker = source.docker
    if "postgres" in source.paths:
        source.image = image_of(docker, source.volumes["postgres"], live_image)
        source.major = postgres.major_in(docker, live_image, f"{docker.run}-version")
        source.cluster = cluster_in(source.paths["postgres"], source.volumes["postgres"], source.major)
    if "minio" in source.paths:
        check_objects(source.paths["minio"], source.volumes["minio"])
    if "redis" in source.paths:
        source.keys = kind_of_redis(source.paths["redis"], source.volumes["redis"])
