# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client of the Docker Engine's API over its Unix socket, with the standard library only."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

PROJECT = "com.docker.compose.project"


class EngineError(Exception):
    """The Engine did not answer, or answered with an error.

    ``reason`` is what the Engine or the system says, ``status`` the HTTP status, 0 where there was no answer.
    """

    def __init__(self, where: str, reason: str, status: int = 0):
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.status = status


class EngineTimeout(Exception):
    """A command in a container did not end in time."""


@dataclass(frozen=True)
class Ended:
    """A command that ran to its end in a container; ``output`` is stdout and stderr as they came."""

    status: int
    stdout: str
    output: str


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """The Engine behind a socket. A connection is opened for each request, so threads may share an instance."""

    def __init__(self, socket_path: str, timeout: float = 10):
        self.socket_path = socket_path
        self.timeout = timeout

    @contextlib.contextmanager
    def _connected(self) -> Iterator[_SocketConnection]:
        connection = _SocketConnection(self.socket_path, self.timeout)
        try:
            yield connection
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise EngineError(self.socket_path, reason) from None
        finally:
            connection.close()

    def request(
        self, method: str, path: str, query: dict | None = None, headers: dict[str, str] | None = None, payload: dict | None = None
    ) -> tuple[int, bytes]:
        """Return status and body; raise EngineError when there is no answer. ``payload`` is sent as JSON."""
        with self._connected() as connection:
            _send(connection, method, f"{path}?{urlencode(query)}" if query else path, payload, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def get(self, path: str, headers: dict[str, str] | None = None, **query: str):
        """Return the parsed JSON of a GET; raise EngineError on any status but 200."""
        status, body = self.request("GET", path, query, headers)
        if status != 200:
            raise EngineError(f"GET {path}", message_of(body), status)
        return json.loads(body)

    def execute(self, container: str, command: list[str], environment: dict[str, str], seconds: float) -> Ended:
        """Run a command in a running container, as the container's user, and return how it ended.

        Raise EngineTimeout after ``seconds``; the API cannot stop the command, so it goes on until it ends by itself. Raise EngineError where it
        could not be started.
        """
        deadline = time.monotonic() + seconds
        wanted = {"AttachStdout": True, "AttachStderr": True, "Cmd": command, "Env": [f"{name}={value}" for name, value in environment.items()]}
        status, body = self.request("POST", f"/containers/{container}/exec", payload=wanted)
        if status != 201:
            raise EngineError(f"POST /containers/{container}/exec", message_of(body), status)
        identifier = json.loads(body)["Id"]
        frames = demultiplex(self._attach(identifier, deadline))
        # The output may end a moment before the command does.
        while (state := self.get(f"/exec/{identifier}/json"))["Running"]:
            if time.monotonic() >= deadline:
                raise EngineTimeout
            time.sleep(0.05)
        stdout = b"".join(text for stream, text in frames if stream == 1)
        return Ended(state["ExitCode"], stdout.decode(errors="replace"), b"".join(text for _stream, text in frames).decode(errors="replace"))

    def _attach(self, identifier: str, deadline: float) -> bytes:
        path = f"/exec/{identifier}/start"
        with self._connected() as connection:
            _send(connection, "POST", path, {"Detach": False, "Tty": False})
            # The connection belongs to the answer from here on.
            stream = connection.sock
            received = b""
            try:
                stream.settimeout(max(deadline - time.monotonic(), 0.001))
                answer = connection.getresponse()
                while not answer.isclosed():
                    # A command that goes on printing has no more time than a silent one.
                    stream.settimeout(max(deadline - time.monotonic(), 0.001))
                    received += answer.read1(65536)
            except TimeoutError:
                raise EngineTimeout from None
            if answer.status != 200:
                raise EngineError(f"POST {path}", message_of(received), answer.status)
            return received


def _send(connection: _SocketConnection, method: str, path: str, payload: dict | None, headers: dict[str, str] | None = None) -> None:
    headers = dict(headers or {})
    body = None
    if payload is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(payload)
    connection.request(method, path, body, headers)


def message_of(body: bytes) -> str:
    """Return what the Engine says is wrong."""
    try:
        return json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")


def demultiplex(body: bytes) -> list[tuple[int, bytes]]:
    """Return stream (1 for stdout, 2 for stderr) and bytes of each frame of an output; that of a terminal has no frames and is all stdout."""
    frames, rest = [], body
    # Each frame starts with eight bytes: the stream, three zeros and the length.
    while len(rest) >= 8 and rest[0] in (0, 1, 2) and rest[1:4] == b"\0\0\0":
        end = 8 + int.from_bytes(rest[4:8], "big")
        frames.append((rest[0], rest[8:end]))
        rest = rest[end:]
    return [*frames, (1, rest)] if rest else frames


def project_containers(engine: Engine, project: str, *, one_off: bool = False) -> list[dict]:
    """Return the Engine's list of a Compose project's containers, running or not; those of `docker compose run` only with ``one_off``."""
    labels = [f"{PROJECT}={project}"] + ([] if one_off else ["com.docker.compose.oneoff=False"])
    return engine.get("/containers/json", all="1", filters=json.dumps({"label": labels}))


def client_directory() -> str:
    """Return the directory of the configuration of Docker's client for the user who runs this."""
    return os.environ.get("DOCKER_CONFIG") or str(pathlib.Path.home() / ".docker")


def is_below(path: str, directory: str) -> bool:
    """Return whether a path is a directory or lies below it, links followed."""
    inside = os.path.realpath(directory)
    return os.path.commonpath([os.path.realpath(path), inside]) == inside if os.path.isabs(path) else False


def started_elsewhere(labels: dict[str, str], directory: str) -> str | None:
    """Return the directory that a Compose project's container was started from, None where it is the stack's own.

    A name alone says nothing of whose a project is: Compose takes every container of that name for its own. A person who types `docker compose up` in
    the stack's directory starts containers whose project directory is the release's.
    """
    origin = labels.get("com.docker.compose.project.working_dir", "")
    files = labels.get("com.docker.compose.project.config_files", "").split(",")
    if any(is_below(path, directory) for path in (origin, *files)):
        return None
    return origin or "a directory that its labels do not name"
