# SPDX-License-Identifier: GPL-3.0-or-later
"""An object store that ends a connection in the middle of an object is asked for the rest of it."""

import http.server
import re
import threading

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import s3

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
