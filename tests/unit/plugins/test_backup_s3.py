# SPDX-License-Identifier: GPL-3.0-or-later
"""An object store that ends a connection in the middle of an object is asked for the rest of it."""

import http.server
import re
import threading

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import s3
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError

CONTENT = bytes(range(256)) * 1000


class Store(http.server.BaseHTTPRequestHandler):
    """Sends so many bytes of the object at a time, and ends the connection."""

    protocol_version = "HTTP/1.1"
    step, version, asked = 0, '"one"', []

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        self.asked.append(first)
        if self.headers["If-Match"] not in (None, self.version):
            self.send_response(412)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.send_header("ETag", self.version)
        self.end_headers()
        self.wfile.write(CONTENT[first : first + self.step])
        self.close_connection = True

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def store():
    Store.step, Store.version, Store.asked = len(CONTENT), '"one"', []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield s3.Client(lambda: server.server_address, "access", "secret-of-mine")
        server.shutdown()


def read(client: s3.Client, change=lambda: None) -> bytes:
    with client.opened(s3.Listed("bucket", "key", len(CONTENT), "one", "")) as (stream, about):
        assert about["size"] == len(CONTENT)
        # What writes an archive takes fewer bytes than it asked for as the end.
        first = stream.read(1000)
        assert len(first) == 1000
        change()
        return first + stream.read(200_000) + stream.read()


@pytest.mark.parametrize(("step", "times"), [(len(CONTENT), 1), (100_000, 3), (1500, 171)])
def test_an_object_is_read_on_from_where_the_connection_ended(store, step, times):
    Store.step = step
    assert read(store) == CONTENT
    assert Store.asked == [number * step for number in range(times)]


def test_an_object_that_was_written_again_meanwhile_is_not_mixed(store):
    Store.step = 2000
    with pytest.raises(s3.S3Error, match="412"):
        read(store, lambda: setattr(Store, "version", '"two"'))


def test_a_store_that_gives_no_more_is_not_asked_for_ever(store):
    Store.step = 2000
    with pytest.raises(s3.S3Error, match="it ended too early"):
        read(store, lambda: setattr(Store, "step", 0))
    assert len(Store.asked) < 20


@pytest.fixture
def away(store, monkeypatch):
    """The store without an address, until it was asked for as often as is said; the seconds between are remembered."""
    address = store.address
    store.slept, store.asked, store.times = [], 0, 0
    monkeypatch.setattr(s3.time, "sleep", store.slept.append)

    def ask():
        store.asked += 1
        if store.asked < store.times:
            raise BackupError("minio has 0 containers that run")
        return address()

    store.address = ask
    return store


@pytest.mark.parametrize("times", [3, s3.ATTEMPTS])
def test_a_server_that_is_being_replaced_is_asked_again(away, times):
    """For some seconds of a deploy no container of it runs."""
    away.times = times
    assert read(away) == CONTENT
    assert (away.asked, away.slept) == (times, [2**number for number in range(times - 1)])


def test_a_server_that_is_gone_is_not_asked_for_ever(away):
    away.times = s3.ATTEMPTS + 1
    with pytest.raises(BackupError, match=r"^minio has 0 containers that run$"):
        read(away)
    assert (away.asked, sum(away.slept)) == (s3.ATTEMPTS, 15)


def test_what_can_be_sent_once_is_sent_once(away):
    away.times = 2
    with pytest.raises(BackupError, match="0 containers"):
        away.put("bucket", "key", None, 0, {})
    assert (away.asked, away.slept) == (1, [])
