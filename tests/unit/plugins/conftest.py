# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules' tests share: a module run as Ansible runs it, and an Engine for the test behind a Unix socket."""

import json
import re
import socketserver
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from ansible.module_utils.testing import patch_module_args


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def payload(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What is answered; the header goes first, and ``body`` comes piece by piece where it is an iterable."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    # What the client does with an answer without a length matters: the Engine ends some by closing the connection.
    protocol_version = "HTTP/1.0"

    def answer(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, unquote(url.path), query, dict(self.headers), body)
        self.server.requests.append(request)
        reply = self.server.reply(request)
        if not isinstance(reply, Reply):
            reply = Reply(body=reply)
        content = reply.body
        if isinstance(content, (dict, list)):
            content = json.dumps(content).encode()
        elif isinstance(content, str):
            content = content.encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(content, bytes):
            self.send_header("Content-Length", str(len(content)))
            content = [content]
        self.end_headers()
        for piece in content:
            self.wfile.write(piece)
            self.wfile.flush()

    do_GET = do_POST = do_DELETE = do_PUT = answer

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_arguments) -> None:
        pass


class Answering:
    """Replies by rules of method and path, the newest first."""

    def prepare(self) -> None:
        self.requests: list[Request] = []
        self._rules: list[tuple[str, re.Pattern[str], Any]] = []

    def on(self, method: str, path: str, reply: Any) -> None:
        """Answer with a value, a Reply, or what a function makes of the request. ``path`` is a regular expression."""
        self._rules.insert(0, (method, re.compile(path), reply))

    def reply(self, request: Request) -> Any:
        for method, path, reply in self._rules:
            if method == request.method and path.fullmatch(request.path):
                return reply(request) if callable(reply) else reply
        return Reply(404, {"message": f"no answer to {request.method} {request.path}"})

    def asked(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if request.method == method and re.fullmatch(path, request.path)]

    def handle_error(self, *_arguments) -> None:
        # A client that gave up is what some tests are about.
        pass


class FakeEngine(Answering, socketserver.ThreadingUnixStreamServer):
    """An Engine behind a Unix socket: version and containers; everything else is a 404 until a test says otherwise."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str):
        self.prepare()
        self.path = path
        self.containers: dict[str, dict] = {}
        super().__init__(path, Handler)
        self.on("GET", "/version", {"Version": "29.0.0", "ApiVersion": "1.52", "Os": "linux", "Arch": "amd64"})
        self.on("GET", "/containers/json", lambda _request: [{"Id": name, "Labels": {"com.docker.compose.service": name}} for name in self.containers])
        self.on("GET", "/containers/[^/]+/json", self._container)
        self.on("GET", "/containers/[^/]+/logs", frame(b"a line\n"))
        self.on("GET", "/images/.+/json", {"Id": "sha256:a"})

    def get_request(self):
        request, _address = super().get_request()
        return request, ("client", 0)

    def _container(self, request: Request) -> Any:
        container = self.containers[request.path.split("/")[2]]
        states = container["States"]
        state = states.pop(0) if len(states) > 1 else states[0]
        return {**container, "State": state}

    def container(self, service: str, *states: dict, **more) -> None:
        """Add a container: its states one after the other, of which the last one stays. It is on loopback, so that tests can answer for it."""
        self.containers[service] = {
            "Id": service,
            "Image": "sha256:a",
            "States": list(states),
            "HostConfig": {"LogConfig": {"Type": "json-file"}},
            "NetworkSettings": {"Networks": {"backend": {"IPAddress": "127.0.0.1"}}, "Ports": {}},
            **more,
        }


class WebServer(Answering, ThreadingHTTPServer):
    """A service that is asked by HTTP."""

    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1"):
        self.prepare()
        super().__init__((address, 0), Handler)

    @property
    def port(self) -> int:
        return self.server_address[1]


def frame(text: bytes, stream: int = 1) -> bytes:
    """Return text as the Engine frames a container's output."""
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def engine(tmp_path_factory):
    # A path of its own, because a Unix socket's is limited to 107 bytes.
    with serving(FakeEngine(str(tmp_path_factory.mktemp("e") / "s"))) as server:
        yield server


@pytest.fixture
def web():
    with serving(WebServer()) as server:
        yield server


@pytest.fixture
def framed() -> Callable[..., bytes]:
    return frame


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def run_module(capsys):
    """Run a module's main() with parameters, and return what it answers."""

    def run(module, check_mode: bool = False, **params) -> dict:
        capsys.readouterr()
        with patch_module_args({**params, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit) as ended:
            module.main()
        answer = json.loads(capsys.readouterr().out)
        assert ended.value.code == (1 if answer.get("failed") else 0)
        return answer

    return run
