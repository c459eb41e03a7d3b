# SPDX-License-Identifier: GPL-3.0-or-later
"""A set is read as it was written, and what was cut off, changed or mixed up is not a set."""

import contextlib
import gc
import hashlib
import io
import json
import sys
import tarfile
import tracemalloc

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import s3, sets
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import DamagedSetError

KEYS = ("a", "a/b", "../../etc/passwd", "...", "x" * 900, "ü & + ? # %41")
DUMP = bytes(range(256)) * 100


class Sink:
    def __init__(self):
        self.found = {"buckets": {}, "objects": {}, "redis": {}, "roles": b"", "dumps": {}}

    def bucket(self, name, settings):
        self.found["buckets"][name] = settings

    def object(self, meta, size, content):
        data = content.read()
        assert len(data) == size
        self.found["objects"][meta["bucket"], meta["key"]] = (data, meta["headers"])

    def redis(self, path, _size, content):
        self.found["redis"][path] = content.read()

    def roles(self, text):
        self.found["roles"] = text

    def dump(self, database, part):
        self.found["dumps"][database] = self.found["dumps"].get(database, b"") + part


def written(change=lambda manifest: manifest, dump: bytes = DUMP, left_out: str = "") -> bytes:
    target = io.BytesIO()
    writer = sets.Writer(target)
    writer.add_bytes(sets.BUCKETS, json.dumps({"b": {"policy": "{}"}}).encode())
    rows = []
    for key in KEYS:
        writer.add(sets.object_name("b", key), 3, io.BytesIO(b"abc"), {"bucket": "b", "key": key, "headers": {"content-type": "text/plain"}})
        rows.append(json.dumps({"bucket": "b", "key": key}).encode() + b"\n")
    writer.add_bytes("redis/appendonlydir/one.aof", b"aof")
    writer.add_bytes(sets.ROLES, b"roles")
    dumping = sets.Dumping(writer, "d/b")
    dumping.take(iter([dump[:10000], dump[10000:]]))
    writer.add_bytes("release/.env", b"")
    text = b"".join(rows)
    if left_out != sets.OBJECTS:
        writer.add_bytes(sets.OBJECTS, text)
    facts = {**dumping.facts(), "sha256": hashlib.sha256(DUMP).hexdigest(), "size": len(DUMP)}
    manifest = {"schema": 1, "dumps": {"d/b": facts}, "roles": hashlib.sha256(b"roles").hexdigest()}
    manifest["objects"] = {"count": len(rows), "sha256": hashlib.sha256(text).hexdigest()}
    if left_out != sets.MANIFEST:
        writer.add_bytes(sets.MANIFEST, json.dumps(change(manifest)).encode())
    writer.close()
    return target.getvalue()


def test_a_set_is_read_as_it_was_written():
    sink = Sink()
    found = sets.read(io.BytesIO(written()), sink)
    assert sink.found["buckets"] == {"b": {"policy": "{}"}}
    assert sink.found["objects"] == {("b", key): (b"abc", {"content-type": "text/plain"}) for key in KEYS}
    assert sink.found["redis"] == {"appendonlydir/one.aof": b"aof"}
    assert sink.found["roles"] == b"roles"
    assert sink.found["dumps"] == {"d/b": DUMP}
    assert set(found.objects) == {("b", key) for key in KEYS}


def test_every_name_in_a_set_can_be_unpacked_by_hand():
    with tarfile.open(fileobj=io.BytesIO(written())) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))
    for name in names:
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert all(len(part) <= 255 for part in name.split("/"))
    # Of a key that ends where another goes on, both are files.
    objects = {name for name in names if name.startswith("objects/b/")}
    assert not any(other.startswith(f"{name}/") for name in objects for other in objects)


def test_a_set_that_was_cut_off_anywhere_is_none():
    whole = written()
    end = whole.index(sets.MANIFEST.encode())
    for length in [0, 1, 512, *range(1000, end, 4099), end - 512, end, end + 600]:
        with pytest.raises(DamagedSetError):
            sets.read(io.BytesIO(whole[:length]), Sink())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (written(left_out=sets.MANIFEST), "no manifest at its end"),
        (written(left_out=sets.OBJECTS), "list of objects"),
        (written(dump=DUMP[:-1]), "dumps"),
        (written(dump=b"x" + DUMP[1:]), "dumps"),
        (written(lambda manifest: {**manifest, "dumps": {}}), "dumps"),
        (written(lambda manifest: {**manifest, "roles": "0" * 64}), "roles"),
        (written(lambda manifest: {**manifest, "schema": 2}), "schema 2"),
        (written(lambda _manifest: {"schema": 1}), "damaged"),
        (written(lambda manifest: {**manifest, "objects": {"count": 5, "sha256": manifest["objects"]["sha256"]}}), "list of objects"),
    ],
)
def test_a_set_that_is_not_what_its_manifest_says_is_refused(text, told):
    with pytest.raises(DamagedSetError, match=told):
        sets.read(io.BytesIO(text), Sink())


def test_an_object_that_ends_too_early_ends_the_writing():
    with pytest.raises(OSError, match="unexpected end"):
        sets.Writer(io.BytesIO()).add("objects/b/a", 10, io.BytesIO(b"abc"), {})


def test_an_archive_that_is_given_up_says_nothing(tmp_path, monkeypatch):
    """Python prints what goes wrong where an object is thrown away."""
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    target = (tmp_path / "set").open("wb")
    writer = sets.Writer(target)
    writer.add_bytes("a", b"abc")
    target.close()
    del writer
    gc.collect()
    assert printed == []


@pytest.mark.parametrize("status", [404, 403])
def test_an_object_that_goes_away_before_its_tags_are_read_is_left_out(monkeypatch, status):
    listed = s3.Listed("b", "a", 3, "etag", "now")

    class Client:
        address, access_key, secret_key, region = "address", "key", "secret", "region"

        def __init__(self, *_given):
            pass

        def close(self):
            pass

        @contextlib.contextmanager
        def opened(self, _listed):
            yield io.BytesIO(b"abc"), {"headers": {}, "size": 3, "tagged": 1}

        def tags(self, bucket, key):
            raise s3.S3Error(f"reading the tags of {bucket}/{key}", status, "NoSuchKey")

    client, target = Client(), io.BytesIO()
    monkeypatch.setattr(s3, "Client", Client)
    client.buckets, client.objects = lambda: ["b"], lambda _bucket: [listed]
    objects, writer = sets.Objects(), sets.Writer(target)
    if status == 404:
        assert objects.copy(client, writer, print) == 0
        assert not objects.has("b", "a")
    else:
        with pytest.raises(s3.S3Error):
            objects.copy(client, writer, print)
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(target.getvalue())) as archive:
        assert archive.getnames() == []


def test_the_list_of_many_objects_is_in_memory_once():
    objects = sets.Objects()
    for number in range(20_000):
        objects._rows[objects._name("b", f"{number:064}")] = objects._PACKED.pack(bytes(16), bytes(32), number), b'{"headers":{}}'
    tracemalloc.start()
    try:
        text, facts = objects.facts()
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (facts["count"], facts["sha256"]) == (20_000, hashlib.sha256(text).hexdigest())
    # The sorted names, and what a buffer that grows has to spare.
    assert peak < 1.5 * len(text)
