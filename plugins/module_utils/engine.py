# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client of the Docker Engine's API over its Unix socket, with the standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from urllib.parse import urlencode


class EngineError(Exception):
    """The Engine did not answer, or answered with an error.

    ``reason`` is what the Engine or the system says, ``status`` the HTTP status, 0 where there was no answer.
    """

    def __init__(self, where: str, reason: str, status: int = 0):
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.status = status


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

    def __init__(self, socket_path: str = "/var/run/docker.sock", timeout: float = 10):
        self.socket_path = socket_path
        self.timeout = timeout

    def request(self, method: str, path: str, query: dict | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Return status and body; raise EngineError when there is no answer."""
        connection = _SocketConnection(self.socket_path, self.timeout)
        try:
            connection.request(method, f"{path}?{urlencode(query)}" if query else path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise EngineError(self.socket_path, reason) from None
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None, **query: str):
        """Return the parsed JSON of a GET; raise EngineError on any status but 200."""
        status, body = self.request("GET", path, query, headers)
        if status != 200:
            try:
                message = json.loads(body)["message"]
            except (ValueError, KeyError, TypeError):
                message = body.decode(errors="replace")
            raise EngineError(f"GET {path}", message, status)
        return json.loads(body)


def project_containers(engine: Engine, project: str) -> list[dict]:
    """Return the Engine's list of a Compose project's containers, running or not, without those of `docker compose run`."""
    labels = [f"com.docker.compose.project={project}", "com.docker.compose.oneoff=False"]
    return engine.get("/containers/json", all="1", filters=json.dumps({"label": labels}))
