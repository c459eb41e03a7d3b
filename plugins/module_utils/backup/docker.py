# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker's client as a backup calls it, and containers and volumes that are thrown away.

Nothing here has a secret in its arguments or its environment: secrets are files that are mounted.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

# What tells the containers, networks and volumes of a backup from all others: the project that it is of, and the run that made them.
OWNER, RUN = "campaign.platform.backup", "campaign.platform.backup.run"
# What marks the volumes of a restore, which hold the data from before once it is done. Nothing removes them but by their names.
RESTORE = "campaign.platform.restore"
# A container that is to be removed may be removed by somebody else already.
_GONE = ("No such container", "No such volume", "No such network", "no such volume", "not found", "is already in progress")
READY_SECONDS = 120


class BackupError(Exception):
    """A step failed. The text says what, and what to do; it holds no secret and no row of data."""


class DamagedSetError(BackupError):
    """A set is not what a backup wrote."""


class UnknownSetError(DamagedSetError):
    """A set is what a backup of another version wrote, whose collection reads it."""


def told(text: str, limit: int = 400) -> str:
    """Return the end of what a program printed, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else "..." + line[-limit:]


@dataclass(frozen=True)
class Limits:
    """What a throw-away container may use of the host: memory as Docker spells it, and a number of CPUs."""

    memory: str = "1g"
    cpus: str = "1.0"


@dataclass
class Docker:
    """Docker's client for one stack, with an empty configuration and without the caller's environment."""

    project: str
    # Of the client's configuration.
    directory: str
    run: str
    socket: str = "/var/run/docker.sock"
    limits: Limits = field(default_factory=Limits)

    def command(self, *arguments: str) -> list[str]:
        """Return the command of a call."""
        path = os.environ.get("PATH", os.defpath)
        return ["env", "-i", f"PATH={path}", f"DOCKER_CONFIG={self.directory}", f"DOCKER_HOST=unix://{self.socket}", "docker", *arguments]

    def attempt(self, *arguments: str, stdin: bytes | None = None, seconds: float | None = None) -> tuple[int, str, str]:
        """Return exit status, output and error of a call, whatever they are; raise BackupError where it does not end in time."""
        try:
            given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
            done = subprocess.run(self.command(*arguments), capture_output=True, timeout=seconds, check=False, **given)
        except subprocess.TimeoutExpired:
            raise BackupError(f"`docker {arguments[0]}` did not end within {seconds:g} s.") from None
        except OSError as error:
            raise BackupError(f"Docker's client does not run: {error.strerror}.") from None
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def ask(self, *arguments: str, stdin: bytes | None = None, seconds: float | None = 600) -> str:
        """Return the output of a call; raise BackupError with its error."""
        status, output, error = self.attempt(*arguments, stdin=stdin, seconds=seconds)
        if status != 0:
            raise BackupError(f"`docker {arguments[0]}` failed with exit code {status}: {told(error) or 'it printed nothing'}")
        return output

    def start(self, *arguments: str, stdin: int | None = subprocess.DEVNULL, stdout: int | IO[bytes] | None = subprocess.PIPE) -> Process:
        """Start a call that is read from or written to while it runs."""
        # In memory: nothing of it stays anywhere.
        errors = io.FileIO(os.memfd_create("errors"), "r+b")
        try:
            return Process(subprocess.Popen(self.command(*arguments), stdin=stdin, stdout=stdout, stderr=errors), errors)
        except OSError as error:
            raise BackupError(f"Docker's client does not run: {error.strerror}.") from None

    def labels(self) -> list[str]:
        """Return the options that mark what is created as this backup's own."""
        return ["--label", f"{OWNER}={self.project}", "--label", f"{RUN}={self.run}"]

    def confined(self, tmp: str = "64m") -> list[str]:
        """Return the options of a throw-away container: limits of its own, no rights, nothing written down; ``tmp`` is the size of its /tmp."""
        memory = self.limits.memory
        return [
            *self.labels(),
            *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256", "--ulimit", "core=0"),
            *("--memory", memory, "--memory-swap", memory, "--cpus", self.limits.cpus, "--cpu-shares", "128", "--log-driver", "none"),
            *("--tmpfs", f"/tmp:noexec,nosuid,nodev,size={tmp},mode=1777"),
        ]

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what the Engine says of a container; raise BackupError."""
        return json.loads(self.ask("container", "inspect", container))[0]

    def remove_container(self, name: str) -> None:
        """Remove a container with its anonymous volumes, if it is there."""
        status, _output, error = self.attempt("rm", "--force", "--volumes", name)
        if status != 0 and not any(text in error for text in _GONE):
            raise BackupError(f"The container {name} cannot be removed: {told(error)}")

    def remove_volume(self, name: str) -> None:
        """Remove a volume that nothing uses, if it is there."""
        for attempt in range(20):
            status, _output, error = self.attempt("volume", "rm", name)
            if status == 0 or any(text in error for text in _GONE):
                return
            # The container that used it is being removed.
            time.sleep(0.1 * attempt)
        raise BackupError(f"The volume {name} cannot be removed: {told(error)}")

    def create_volume(self, name: str, *, throw_away: bool = True) -> str:
        """Create an empty volume and return its name. One that is not to be thrown away is found by its name only."""
        labels = self.labels() if throw_away else ["--label", f"{RESTORE}={self.project}"]
        return self.ask("volume", "create", *labels, name).strip()

    def owned(self, kind: str, *, run: str | None = None) -> list[str]:
        """Return the names of this project's backups' own containers, volumes or networks; those of one run with ``run``."""
        label = f"{RUN}={run}" if run else f"{OWNER}={self.project}"
        every = ["--all"] if kind == "container" else []
        template = "{{.Names}}" if kind == "container" else "{{.Name}}"
        found = self.ask(kind, "ls", *every, "--filter", f"label={label}", "--filter", f"label={OWNER}={self.project}", "--format", template)
        return found.split()

    def sweep(self) -> None:
        """Remove containers, networks and volumes to be thrown away that backups of this project left behind."""
        for name in self.owned("container"):
            self.remove_container(name)
        for name in self.owned("network"):
            self.attempt("network", "rm", name)
        for name in self.owned("volume"):
            self.remove_volume(name)


class Process:
    """A call of Docker's client that runs. Its error output is kept in memory, and shown only where it failed."""

    def __init__(self, popen: subprocess.Popen[bytes], errors: io.FileIO):
        self.popen, self.errors = popen, errors

    @property
    def stdin(self) -> IO[bytes]:
        """What the call reads."""
        return self.popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """What the call prints."""
        return self.popen.stdout

    def error(self, size: int = 65536) -> str:
        """Return what the call has said is wrong so far, of which the first bytes in number."""
        # Not by seeking: the call writes where this descriptor stands.
        return os.pread(self.errors.fileno(), size, 0).decode(errors="replace")

    def wait(self, seconds: float | None = None) -> int:
        """Return the exit status."""
        return self.popen.wait(seconds)

    def kill(self) -> None:
        """End the client; what it started in a container is ended by whoever removes that."""
        with contextlib.suppress(OSError):
            self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()


@dataclass(frozen=True)
class Service:
    """A server of the stack as its release defines it: image, numeric user, environment, command, tmpfs, volumes by target and secret files by target."""

    name: str
    image: str
    user: str
    environment: Mapping[str, str]
    command: Sequence[str]
    tmpfs: Sequence[str]
    shm_size: str
    volumes: Mapping[str, str]
    secrets: Mapping[str, str]

    def options(self) -> list[str]:
        """Return the options that make a container of the service's image what the release's container is, without its network and its volumes."""
        options = ["--user", self.user] if self.user else []
        for name, value in self.environment.items():
            options += ["--env", f"{name}={value}"]
        for mount in self.tmpfs:
            if not mount.startswith("/tmp:"):
                options += ["--tmpfs", mount]
        return [*options, *(["--shm-size", self.shm_size] if self.shm_size else [])]


def service_of(name: str, configuration: Mapping[str, Any]) -> Service | None:
    """Return a service from what `docker compose config --format json` prints, None where the release has none of that name."""
    body = (configuration.get("services") or {}).get(name)
    if not body:
        return None
    files = {key: row.get("file", "") for key, row in (configuration.get("secrets") or {}).items()}
    named = {key: row.get("name", key) for key, row in (configuration.get("volumes") or {}).items()}
    secrets = {item.get("target") or item["source"]: files.get(item["source"], "") for item in body.get("secrets") or []}
    volumes = {item["target"]: named.get(item["source"], item["source"]) for item in body.get("volumes") or [] if item.get("type") == "volume"}
    environment = {key: "" if value is None else str(value).replace("$$", "$") for key, value in (body.get("environment") or {}).items()}
    tmpfs = body.get("tmpfs") or []
    return Service(
        name=name,
        image=body["image"],
        user=str(body.get("user") or ""),
        environment=environment,
        command=list(body.get("command") or []),
        tmpfs=[tmpfs] if isinstance(tmpfs, str) else list(tmpfs),
        shm_size=str(body.get("shm_size") or ""),
        volumes=volumes,
        secrets={target: path for target, path in secrets.items() if path},
    )


@contextlib.contextmanager
def running(docker: Docker, name: str, options: Sequence[str], image: str, command: Sequence[str] = (), *, ends_well: bool = False) -> Iterator[str]:
    """Run a throw-away container as long as it is needed, and yield its name. With ``ends_well`` it is given the time to write down what it has."""
    try:
        docker.ask("run", "--detach", "--name", name, *docker.confined(), *options, image, *command)
        yield name
        if ends_well:
            docker.ask("stop", "--time", "120", name)
            if (code := docker.inspect(name)["State"]["ExitCode"]) != 0:
                raise BackupError(f"The throw-away container {name} did not end well: exit code {code}.")
    finally:
        docker.remove_container(name)


def await_answer(docker: Docker, name: str, *command: str, seconds: float = READY_SECONDS) -> None:
    """Wait until a command in a container ends well; raise BackupError where the container ends before, or in time."""
    deadline = time.monotonic() + seconds
    while docker.attempt("exec", name, *command)[0] != 0:
        state = docker.inspect(name)["State"]
        if not state["Running"]:
            why = "for want of memory; raise backup_memory" if state.get("OOMKilled") else f"with exit code {state['ExitCode']}"
            raise BackupError(f"The throw-away container {name} ended {why}.")
        if time.monotonic() >= deadline:
            raise BackupError(f"The throw-away container {name} did not answer within {seconds:g} s.")
        time.sleep(0.3)


def give(docker: Docker, service: Service, volume: str, target: str, name: str) -> None:
    """Give a volume and all that is in it to the user of a service, whatever its image has there."""
    try:
        docker.ask(
            "run", "--rm", "--name", name, *docker.confined(), "--network", "none", "--user", "0:0", "--cap-add", "CHOWN", "--cap-add", "DAC_READ_SEARCH",
            "--entrypoint", "chown", "--volume", f"{volume}:{target}", service.image, "-R", service.user, target,
        )  # fmt: skip
    finally:
        docker.remove_container(name)
