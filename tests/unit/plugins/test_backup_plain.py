# SPDX-License-Identifier: GPL-3.0-or-later
"""What an export looks like, that nothing is ever written outside of it, and that only a whole one is taken."""

import contextlib
import hashlib
import io
import json
import os
import resource

import pytest
from ansible_collections.campaign.platform.plugins.module_utils import host
from ansible_collections.campaign.platform.plugins.module_utils.backup import plain, sets
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError, DamagedSetError

# What people's tools stumbled over: https://github.com/minio/mc/issues/5230, https://github.com/peak/s5cmd/issues/872, https://github.com/aws/aws-cli/issues/3370
HOSTILE = [
    "../outside", "a/../../outside", "/etc/passwd", "a//b", "directory/", ".", "..", "a/./b", "new\nline", "tab\t", "100%", "%2e%2e/x", "ü", "u\u0308", "日本",
    "back\\slash", "C:x", "con", "aux.txt", "dot.", " blank", "-option", "a*b", 'quote"', "x" * 300, "$(id)", "~/x", ".hidden/../..", "\x00",
]  # fmt: skip
PLAIN = ["a.png", "campaigns/7f3a-1", "a/b/c.tar.gz", "x@y=z+1"]


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_that_is_no_name_of_a_file_lies_under_a_digest(key):
    assert plain.Places().of("b", key) == f"objects-by-digest/b/{hashlib.sha256(key.encode()).hexdigest()}"


@pytest.mark.parametrize("key", PLAIN)
def test_a_plain_key_is_a_path(key):
    assert plain.Places().of("b", key) == f"objects/b/{key}"


@pytest.mark.parametrize("keys", [("a", "a/b"), ("a/b", "a"), ("a", "A"), ("Logo/x", "logo"), ("logo", "LOGO/x"), ("a/b/c", "a/B"), ("a/x", "a/X")])
def test_no_two_keys_share_a_place(keys):
    """Nor where a file system does not tell upper case from lower case."""
    places = plain.Places()
    found = [places.of("b", key) for key in keys]
    assert [path.partition("/")[0] for path in found] == ["objects", "objects-by-digest"]
    assert [places.of("b", key) for key in keys] == found


def test_two_directories_that_differ_in_case_may_hold_different_files():
    places = plain.Places()
    assert [places.of("b", key) for key in ("Logo/a", "logo/b")] == ["objects/b/Logo/a", "objects/b/logo/b"]


def object_of(key: str, content: bytes, **headers: str) -> tuple[dict, bytes]:
    return {"bucket": "b", "key": key, "headers": {"content-type": "image/png", **headers}}, content


def rows_of(*objects: tuple[dict, bytes]) -> bytes:
    rows = ({**meta, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for meta, content in objects)
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def manifest(**more) -> dict:
    moments = {"ended": "2026-11-27T00:00:00Z", "database": "2026-11-27T00:00:00Z"}
    found = {"format": plain.FORMAT, "schema": plain.SCHEMA, "parts": ["minio"], "dumps": {}, "objects": {"count": 0}, "project": "p", "release": "r"}
    return {**found, "moments": moments, "databases": {}, "versions": {}, **more}


@pytest.fixture
def export(tmp_path):
    """A whole export with objects of hostile names."""
    objects = [object_of(key, key.encode(), **{"x-amz-meta-owner": "ada"}) for key in [*HOSTILE, *PLAIN, "a", "a/b"]]
    root = tmp_path / "export"
    root.mkdir()
    made = plain.Directory(str(root))
    made.add_bytes(sets.BUCKETS, b'{"b": {}, "empty": {}}')
    for meta, content in objects:
        made.add("ignored", len(content), io.BytesIO(content), meta)
    made.add_bytes(sets.OBJECTS, rows_of(*objects))
    made.add_bytes(sets.MANIFEST, json.dumps(manifest(objects={"count": len(objects)})).encode())
    made.close()
    return root


class Taken:
    """Remembers what it is handed."""

    def __init__(self):
        self.buckets, self.objects = {}, {}

    def bucket(self, name, settings):
        self.buckets[name] = settings

    def object(self, meta, size, content):
        data = content.read()
        assert len(data) == size
        self.objects[meta["key"]] = (data, meta["headers"])


def test_what_was_written_is_read_as_it_was(export, tmp_path):
    copy = Taken()
    plain.read(str(export), plain.manifest_of(str(export)), copy)
    headers = {"content-type": "image/png", "x-amz-meta-owner": "ada"}
    assert copy.objects == {key: (key.encode(), headers) for key in [*HOSTILE, *PLAIN, "a", "a/b"]}
    assert copy.buckets == {"b": {}, "empty": {}}
    # Where a person finds what could not be brought back.
    assert copy.where == str(export / "buckets.json")
    # Nothing lies outside, and every file has its sum.
    assert os.listdir(tmp_path) == ["export"]
    files = {str(path.relative_to(export)): path for path in export.rglob("*") if path.is_file()}
    sums = dict(line.split("  ")[::-1] for line in (export / "SHA256SUMS").read_text().splitlines())
    assert set(files) == {*sums, "SHA256SUMS"}
    assert {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in sums} == sums
    assert {path.stat().st_mode & 0o077 for path in files.values()} == {0}


def test_an_object_that_was_written_again_is_there_once(tmp_path):
    made = plain.Directory(str(tmp_path))
    for content in (b"a longer one", b"last"):
        made.add("ignored", len(content), io.BytesIO(content), {"bucket": "b", "key": "k"})
    assert (tmp_path / "objects/b/k").read_bytes() == b"last"
    assert made.sums == {"objects/b/k": hashlib.sha256(b"last").hexdigest()}


def test_an_object_that_is_cut_off_is_told(tmp_path):
    with pytest.raises(BackupError, match="2 bytes too early"):
        plain.Directory(str(tmp_path)).add("x", 5, io.BytesIO(b"abc"))


def test_large_files_go_through_in_parts(tmp_path):
    class Source:
        largest = 0

        def read(self, size: int = -1) -> bytes:
            self.largest = max(self.largest, size)
            return b"x" * size

    source = Source()
    plain.Directory(str(tmp_path)).add("x", 5 * plain.CHUNK + 1, source)
    assert source.largest == plain.CHUNK
    assert (tmp_path / "x").stat().st_size == 5 * plain.CHUNK + 1


class Small(plain.Directory):
    """An export whose files have room for a number of bytes, of which one write takes what fits."""

    def __init__(self, root, room: int):
        super().__init__(str(root))
        self.room = room

    @contextlib.contextmanager
    def create(self, path):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        with super().create(path) as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, before[1]))
            try:
                yield file
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_gets_full_cuts_no_file(tmp_path):
    """The last write that fits in part is no error of the kernel's."""
    made = Small(tmp_path, 300 * 1024)
    with pytest.raises(BackupError, match=r"^x cannot be written: File too large\. Nothing of the export is left"):
        made.add("x", 800 * 1024, io.BytesIO(bytes(800 * 1024)))
    # One that has no sum is in no export.
    assert made.sums == {}


def test_what_a_file_system_has_dropped_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(plain, "write_all", lambda file, part: file.write(part[1:]))
    made = plain.Directory(str(tmp_path))
    with pytest.raises(BackupError, match=r"^Of x, 2 bytes are in the export, and 3 were written"):
        made.add("x", 3, io.BytesIO(b"abc"))
    assert made.sums == {}


# --- The place of it


@pytest.mark.parametrize(
    ("make", "target", "told"),
    [
        (None, "relative", "not an absolute path"),
        (None, "/", "not an absolute path"),
        (None, "{}/a/../b", "not an absolute path"),
        (None, "{}/a/", "not an absolute path"),
        (None, "{}/not/there", "is not a directory on this host"),
        (lambda root: (root / "x").write_text(""), "{}/x", "is not a directory"),
        (lambda root: (root / "x").symlink_to(root), "{}/x", "is not a directory"),
        (lambda root: (root / "x").symlink_to("/nowhere"), "{}/x", "is not a directory"),
        (lambda root: ((root / "x").mkdir(), (root / "x/kept").write_text("")), "{}/x", "is not empty"),
        (lambda root: (root / "stack").mkdir(), "{}/stack/export", "the stack's own directory"),
    ],
)
def test_a_place_that_would_surprise_is_refused(tmp_path, make, target, told):
    if make:
        make(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(BackupError, match=told) as caught:
        plain.check_target(target.format(tmp_path), f"{tmp_path}/stack")
    assert "Nothing was written." in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("is_another", [False, True])
def test_where_a_file_system_is_mounted_no_export_is_written(tmp_path, monkeypatch, is_another):
    """It would be written to the disk beside it, and could not get its name."""
    disk = tmp_path / "usb disk"
    disk.mkdir()
    # A directory of the same file system too, which only the list of mounts tells.
    monkeypatch.setattr(os.path, "ismount", lambda path: is_another and path == str(disk))
    (tmp_path / "self").mkdir()
    escaped = str(disk).replace(" ", "\\040")
    (tmp_path / "self/mountinfo").write_text("" if is_another else f"36 35 98:0 /a {escaped} rw,noatime master:1 - ext4 /dev/sdb1 rw\n")
    monkeypatch.setattr(host, "PROC", str(tmp_path))
    with pytest.raises(BackupError, match=r"it is where a file system is mounted\. Name a directory in it\. Nothing was written\."):
        plain.check_target(str(disk), f"{tmp_path}/stack")
    plain.check_target(f"{disk}/export", f"{tmp_path}/stack")


def test_a_new_and_an_empty_directory_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        plain.check_target(f"{tmp_path}/{name}", f"{tmp_path}/stack")
        with plain.written_whole(f"{tmp_path}/{name}") as made:
            assert os.stat(made).st_mode & 0o777 == 0o700
            assert os.path.dirname(made) == str(tmp_path)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(tmp_path)) == ["empty", "new"]


def test_what_is_not_whole_is_not_there(tmp_path):
    with pytest.raises(IsADirectoryError), plain.written_whole(f"{tmp_path}/new") as made:
        os.unlink(made)
    assert os.listdir(tmp_path) == []
    # What a killed run left goes with the next one, and what only looks like it stays.
    for name in (".new.unfinished-1", ".new", ".other.unfinished-1"):
        (tmp_path / name).mkdir()
    with plain.written_whole(f"{tmp_path}/new"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".new", ".other.unfinished-1", "new"]


def test_a_disk_that_is_too_small_is_seen_before(tmp_path):
    free = os.statvfs(tmp_path)
    with pytest.raises(BackupError, match=r"MiB are needed\. Nothing was written"):
        plain.check_space(str(tmp_path), free.f_bavail * free.f_frsize)
    plain.check_space(str(tmp_path), 0)


# --- One that is not whole


def change_the_manifest(root) -> None:
    (root / "manifest.json").write_text(json.dumps({**json.loads((root / "manifest.json").read_text()), "schema": 99}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: (root / "manifest.json").unlink(), "cannot be read"),
        (lambda root: (root / "SHA256SUMS").unlink(), "cannot be read"),
        (change_the_manifest, "not one of this version"),
        (lambda root: (root / "manifest.json").write_text("[]"), "not one of this version"),
        (lambda root: (root / "objects/b/a.png").unlink(), "1 of its files are missing, such as objects/b/a.png"),
        (lambda root: (root / "SHA256SUMS").write_text("0  ../outside\n"), "outside of it"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_done(export, damage, told):
    damage(export)
    with pytest.raises(BackupError, match=told) as caught:
        plain.manifest_of(str(export))
    assert "Nothing was changed." in str(caught.value)


def rewrite(root, **row) -> None:
    lines = (root / "objects.jsonl").read_text().splitlines()
    lines[-1] = json.dumps({**json.loads(lines[-1]), **row})
    (root / "objects.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: (root / "objects/b/a.png").write_text("another"), "b/a.png is not as the listing"),
        (lambda root: rewrite(root, file="../../secret"), "outside of it"),
        (lambda root: rewrite(root, file="/etc/passwd"), "outside of it"),
        (lambda root: (root / "objects.jsonl").write_text("{}\n"), "is not what was written"),
        (lambda root: (root / "objects.jsonl").write_text(""), "not as many objects"),
    ],
)
def test_what_is_not_as_it_was_written_is_refused(export, damage, told):
    found = plain.manifest_of(str(export))
    damage(export)
    with pytest.raises((BackupError, DamagedSetError), match=told):
        plain.read(str(export), found, Taken())


SQL = b"COPY t (id) FROM stdin;\n1\n\\.\n\nALTER TABLE t ADD PRIMARY KEY (id);\n"
# The database of this name lies under another one.
DATABASES = ("d", "roles")


@pytest.fixture
def sql_export(tmp_path):
    """A whole export of two databases."""
    made = plain.Directory(str(tmp_path))
    dumps = {}
    for database in DATABASES:
        made.add_bytes(plain.sql_name(database), SQL)
        dumps[database] = {"size": len(SQL), "sha256": made.sums[plain.sql_name(database)]}
    made.add_bytes(sets.ROLES, b"CREATE ROLE ada;\n")
    made.add_bytes(sets.MANIFEST, json.dumps(manifest(parts=["postgres"], dumps=dumps, roles=made.sums[plain.ROLES])).encode())
    made.close()
    return tmp_path


class TakenSql:
    """Remembers the SQL that it is handed, as psql would read it."""

    def __init__(self):
        self.found = {}

    def roles(self, text):
        self.found[plain.ROLES] = text

    def sql(self, database, text):
        self.found[database] = os.read(text.fileno(), 1024)


def test_sql_is_handed_over_from_its_beginning(sql_export):
    copy = TakenSql()
    plain.read(str(sql_export), plain.manifest_of(str(sql_export)), copy)
    assert copy.found == {plain.ROLES: b"CREATE ROLE ada;\n", **dict.fromkeys(DATABASES, SQL)}


@pytest.mark.parametrize("name", [plain.ROLES, *map(plain.sql_name, DATABASES)])
@pytest.mark.parametrize("change", [lambda text: text[:-10], lambda text: text + b"SELECT 1;\n", lambda text: text.replace(b" ", b"\t", 1), lambda _text: b""])
def test_sql_that_is_not_what_was_exported_is_refused_before_anything_is_loaded(sql_export, name, change):
    """Cut off behind the last row, most SQL loads without an error, and a constraint is missing."""
    (sql_export / name).write_bytes(change((sql_export / name).read_bytes()))
    copy = TakenSql()
    told = rf"^{sql_export}/{name} is not the file that was exported: .*manifest\.json\. Nothing was changed\. .*copy the export again; .*edited on purpose"
    with pytest.raises(DamagedSetError, match=told):
        plain.read(str(sql_export), plain.manifest_of(str(sql_export)), copy)
    assert copy.found == {}


def test_a_link_leads_nowhere(export):
    (export / "objects/b/a.png").unlink()
    (export / "objects/b/a.png").symlink_to("/etc/passwd")
    with pytest.raises(BackupError, match="outside of it"):
        plain.manifest_of(str(export))


def test_the_page_says_how_each_part_is_loaded():
    databases = {"campaign_db": {"extensions": {"postgis": "3.6.1"}}}
    whole = manifest(parts=["minio", "postgres", "redis"], dumps={"campaign_db": {}, "odd/name": {}}, databases=databases, versions={"postgres": "18.1"})
    text = plain.page(whole, passwords=False)
    for words in (
        "psql -X -d postgres -f postgres/roles.sql",
        "-f 'postgres/campaign_db.sql'",
        "'postgres/odd%2Fname.sql'",
        "postgis 3.6.1",
        "aws s3api",
        "mc mirror",
    ):
        assert words in text
    assert "redis/dump.rdb" in text
    assert "The roles have no passwords" in text
    assert "as hashes" in plain.page(whole, passwords=True)
    assert "psql" not in plain.page(manifest(), passwords=False).partition("| Part |")[2]
    # Nobody can replace the database that he is connected to.
    administration = {name: {"extensions": {}} for name in ("campaign_db", "postgres")}
    text = plain.page(manifest(parts=["postgres"], dumps=administration, databases=administration, versions={"postgres": "18.1"}), passwords=False)
    assert "-d template1 -f 'postgres/postgres.sql'" in text
    assert "-d postgres -f 'postgres/campaign_db.sql'" in text


@pytest.mark.parametrize(
    ("database", "path"),
    [
        ("campaign_db", "postgres/campaign_db.sql"),
        ("odd/name", "postgres/odd%2Fname.sql"),
        # Where a file system does not tell upper case from lower case, too.
        ("roles", "postgres/%72oles.sql"),
        ("ROLES", "postgres/%52OLES.sql"),
    ],
)
def test_no_database_takes_the_place_of_the_roles(database, path):
    assert plain.sql_name(database) == path
    assert plain.sql_name(database).lower() != plain.ROLES
