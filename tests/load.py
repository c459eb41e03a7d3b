# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hundred requests a second, as browsers and scripts send them: pages and lists, writes with a body, with and without keep-alive, and slow uploads."""

import http.client
import json
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from itertools import count

HOST = "127.0.0.1"
PER_SECOND = 200
CLIENTS = 20
SECONDS = 10.0
# A slow upload takes six seconds, which is longer than the moment in which a container is replaced.
CHUNKS, PAUSE = 20, 0.3
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(1_000_000)


def campaign() -> str:
    """Return a campaign of a name of its own, as JSON."""
    place = [8.5, 50.1]
    rule = {"type": "within_radius", "center": place, "radiusMeters": 1000}
    return json.dumps({"name": f"load {uuid.uuid4()}", "place": {"type": "Point", "coordinates": place}, "rule": rule})


@dataclass
class Seen:
    """What came back: how long each answer took, in seconds, and what was no good answer."""

    times: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    uploads: int = 0

    def p99(self) -> float:
        return sorted(self.times)[int(len(self.times) * 0.99)] if self.times else 0.0


class Load:
    """Asks from many threads until it is left. A client that reads `Connection: close` opens another connection, as HTTP says; anything else is a failure."""

    def __init__(self, port: int, user: str, password: str):
        self.port, self.seen = port, Seen()
        self.stopping, self.lock = threading.Event(), threading.Lock()
        self.user, self.password = user, password
        self.sign_in()

    def sign_in(self) -> None:
        """Get a new token, because one does not last for ever."""
        connection = self.connect()
        body = json.dumps({"username": self.user, "password": self.password})
        connection.request("POST", "/api/auth/login", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        connection.close()
        self.headers = {"Authorization": f"Bearer {json.loads(text)['accessToken']}", "Content-Type": "application/json"}

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=SECONDS)

    def ask(self, connection: http.client.HTTPConnection, number: int) -> None:
        """Send one request: four that read, and then one that writes."""
        began = time.monotonic()
        kinds = [("GET", "/", 200), ("GET", "/api/campaigns?limit=1", 200), ("GET", "/api/health/ready", 200), ("GET", "/campaigns/x", 200)]
        method, path, wanted = kinds[number % 5] if number % 5 < 4 else ("POST", "/api/campaigns", 201)
        body = None
        if method == "POST":
            body = campaign()
        try:
            connection.request(method, path, body, self.headers if body else {})
            answer = connection.getresponse()
            text = answer.read()
            said = "" if answer.status == wanted else f"{method} {path}: {answer.status} {text[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            text, said = b"", f"{method} {path}: {type(error).__name__} {error}"
        with self.lock:
            self.seen.times.append(time.monotonic() - began)
            if said:
                self.seen.failures.append(f"{time.strftime('%H:%M:%S')} {said}")
            elif body:
                self.seen.created.append(json.loads(text)["id"])

    def client(self, which: int) -> None:
        connection, interval = self.connect(), CLIENTS / PER_SECOND
        due = time.monotonic() + which * interval / CLIENTS
        for number in count(which):
            if self.stopping.wait(max(due - time.monotonic(), 0)):
                break
            due += interval
            self.ask(connection, number)
            if which % 2:
                # Without keep-alive.
                connection.close()

    def upload(self) -> None:
        """Send an image slowly, again and again."""
        while not self.stopping.is_set():
            try:
                which = self.created()
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                with self.lock:
                    self.seen.failures.append(f"upload: there is nothing to upload to, {type(error).__name__}: {error}")
                self.stopping.wait(PAUSE)
                continue
            said = self.slowly(which)
            with self.lock:
                self.seen.uploads += 1
                self.seen.created.append(which)
                if said:
                    self.seen.failures.append(f"upload: {said}")

    def created(self) -> str:
        """Create a campaign, and return its id; raise what is wrong with the answer."""
        connection = self.connect()
        try:
            connection.request("POST", "/api/campaigns", campaign(), self.headers)
            return str(json.loads(connection.getresponse().read())["id"])
        finally:
            connection.close()

    def slowly(self, which: str) -> str:
        """Return what was wrong with the answer to one slow upload, or an empty text."""
        lines = [f"PUT /api/campaigns/{which}/asset HTTP/1.1", f"Host: {HOST}", f"Authorization: {self.headers['Authorization']}", "Connection: close"]
        lines += ["Content-Type: image/png", f"Content-Length: {len(IMAGE)}", "", ""]
        try:
            with socket.create_connection((HOST, self.port), timeout=SECONDS) as stream:
                stream.sendall("\r\n".join(lines).encode())
                size = -(-len(IMAGE) // CHUNKS)
                for number in range(CHUNKS):
                    stream.sendall(IMAGE[number * size : (number + 1) * size])
                    time.sleep(PAUSE)
                said = stream.recv(4096)
        except OSError as error:
            return f"{type(error).__name__} {error}"
        return "" if said.startswith(b"HTTP/1.1 200") else repr(said[:300])

    def __enter__(self) -> Seen:
        targets = [*(threading.Thread(target=self.client, args=[which]) for which in range(CLIENTS)), threading.Thread(target=self.upload)]
        self.threads = targets
        for thread in targets:
            thread.start()
        return self.seen

    def __exit__(self, *_error: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()
