# SPDX-License-Identifier: GPL-3.0-or-later
"""What is shipped of PostgreSQL's log, and what is read of it again, with a repository in memory."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
from types import SimpleNamespace

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import moments, sets, wal
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError

NAMES = [f"0000000100000000000000{number:02X}" for number in range(1, 40)]


class Pipe(io.BytesIO):
    """What was written into it stays when it is closed."""

    def close(self) -> None:
        self.content = self.getvalue()


class Repository:
    """Snapshots by id: tags and content."""

    def __init__(self):
        self.kept: dict[str, tuple[str, bytes]] = {}
        self.is_away, self.forgotten = False, []
        # How restic ends that reads, and how much it has printed by then.
        self.status, self.printed = 0, None

    def stream(self, _what, _file, tags):
        pipe = Pipe()

        def finish():
            if self.is_away:
                raise BackupError("restic failed")
            name = f"s{len(self.kept)}"
            self.kept[name] = (tags, pipe.getvalue())
            return {"snapshot_id": name}

        return SimpleNamespace(process=SimpleNamespace(stdin=pipe), finish=finish, abandon=lambda: None)

    def attempt(self, _what, *arguments):
        self.forgotten += [name for name in arguments if name in self.kept]
        return 0, "", ""

    @contextlib.contextmanager
    def dumping(self, name, _file):
        yield SimpleNamespace(stdout=io.BytesIO(self.kept[name][1][: self.printed]), wait=lambda _seconds: self.status, error=lambda: "the network is away")

    def failure(self, what, status, error):
        return BackupError(f"restic failed ({what}, exit code {status}): {error}")

    def index(self):
        return moments.index([{"id": name, "tags": tags.split(",")} for name, (tags, _content) in self.kept.items()])


class Server:
    """A server whose log has some segments."""

    def __init__(self, volume):
        self.volume, self.directory = str(volume), str(volume / "wal")
        os.mkdir(self.directory)
        self.now, self.is_behind, self.system, self.status = 1000.0, False, "77", "reserved"
        # What is still written to is as long as a segment.
        self.segment = 1
        self.docker, self.postgres, self.receiver, self.user = SimpleNamespace(ask=self.called), "p", "w", "u"
        self.calls = []

    def called(self, *arguments, **_options):
        self.calls.append(arguments)

    def caught_up(self):
        self.now += 30
        slot = {"active": not self.is_behind, "received": "0/0", "status": self.status}
        return {"system": self.system, "segment": self.segment, "slot": slot}, None if self.is_behind else self.now

    def write(self, *names, content=b"x"):
        for name in names:
            if name.endswith(".partial"):
                self.segment = len(content)
            with open(os.path.join(self.directory, name), "wb") as file:
                file.write(content)

    def names(self):
        return sorted(os.listdir(self.directory))


@pytest.fixture
def server(tmp_path):
    (tmp_path / "stack/backup").mkdir(parents=True)
    (tmp_path / "volume").mkdir()
    return Server(tmp_path / "volume")


@pytest.fixture
def repository():
    return Repository()


@pytest.fixture
def ship(tmp_path, server, repository):
    def run(**options) -> wal.Shipping:
        # Each time by another process.
        shipping = wal.Shipping(str(tmp_path / "stack"), repository, server, lambda _text: None)
        shipping.ship(**options)
        return shipping

    return run


def test_what_is_new_is_shipped_and_nothing_where_nothing_is(ship, server, repository):
    server.write(f"{NAMES[0]}.partial")
    ship()
    ship()
    ((tags, _content),) = repository.kept.values()
    assert f"first={NAMES[0]},last={NAMES[0]}" in tags
    server.write(f"{NAMES[0]}.partial", content=b"more")
    found = ship()
    assert len(repository.kept) == 2
    # What the host knows of a database that nobody writes to.
    assert found.known["covered"] == server.now
    _bases, pieces = repository.index()
    assert [piece.until for piece in pieces if piece.snapshot == "s1"] == [server.now]


def test_whole_segments_are_sealed_once_and_leave_the_volume(ship, server, repository):
    server.write(*NAMES[: wal.SEALED], f"{NAMES[wal.SEALED]}.partial")
    ship()
    _bases, pieces = repository.index()
    sealed, last = sorted(pieces, key=lambda piece: not piece.is_sealed)
    assert (sealed.first, sealed.last) == (NAMES[0], NAMES[wal.SEALED - 1])
    assert (last.first, last.last) == (NAMES[wal.SEALED], NAMES[wal.SEALED])
    # The receiver goes on behind the last one.
    assert server.names() == [NAMES[wal.SEALED - 1], f"{NAMES[wal.SEALED]}.partial"]
    ship()
    assert len(repository.kept) == 2


def test_a_base_backup_has_a_piece_that_ends_before_it(ship, server, repository):
    server.write(NAMES[0], f"{NAMES[1]}.partial")
    ship(seal=True)
    assert sorted((piece.is_sealed, piece.first, piece.last) for piece in repository.index()[1]) == [
        (False, NAMES[1], NAMES[1]),
        (True, NAMES[0], NAMES[0]),
    ]


def test_a_repository_that_is_away_loses_nothing(ship, server, repository):
    server.write(NAMES[0], f"{NAMES[1]}.partial")
    repository.is_away = True
    with pytest.raises(BackupError):
        ship(seal=True)
    repository.is_away = False
    ship(seal=True)
    assert {piece.first for piece in repository.index()[1]} == {NAMES[0], NAMES[1]}


def test_what_is_behind_is_shipped_and_covers_no_later_moment(ship, server, repository):
    server.write(f"{NAMES[0]}.partial")
    before = ship().known["covered"]
    server.is_behind = True
    server.write(f"{NAMES[0]}.partial", content=b"more")
    with pytest.raises(wal.BehindError, match="is not connected"):
        ship()
    assert sorted(piece.until for piece in repository.index()[1]) == [before, before]


@pytest.mark.parametrize(("change", "told"), [({"system": "78"}, "another cluster's"), ({"status": "lost"}, "away for longer")])
def test_another_cluster_or_a_gap_begins_another_line(ship, server, change, told):
    server.write(NAMES[0], f"{NAMES[1]}.partial")
    line = ship().known["line"]
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(wal.BehindError, match=told):
        ship()
    assert server.names() == []
    assert [call[0] for call in server.calls if call[0] in ("stop", "start")] == ["stop", "start"]
    assert any("pg_drop_replication_slot" in call[-1] for call in server.calls) is ("status" in change)
    server.status = "reserved"
    server.write(f"{NAMES[5]}.partial")
    assert ship().known["line"] != line


def test_pieces_that_others_have_replaced_are_forgotten_but_the_last(ship, server, repository):
    for number in range(wal.FORGOTTEN + 1):
        server.write(f"{NAMES[0]}.partial", content=b"x" * (number + 1))
        found = ship()
        found.forget()
    assert repository.forgotten == [f"s{number}" for number in range(wal.FORGOTTEN - 1)]
    assert found.known["pending"] == [f"s{wal.FORGOTTEN - 1}"]


def test_a_volume_that_cannot_be_emptied_is_given_up_before_it_fills_the_disk(ship, server, monkeypatch):
    server.write(*NAMES[:3], f"{NAMES[3]}.partial", content=b"x" * 100)
    found = ship()
    assert not found.spare()
    monkeypatch.setattr(wal, "LARGEST", 300)
    assert found.spare()
    assert server.names() == [NAMES[2], f"{NAMES[3]}.partial"]
    assert ship().known["line"] != found.known["line"]


# --- In


@pytest.fixture
def recovery(repository):
    found = object.__new__(wal.Recovery)
    found.repository = repository
    found.service = SimpleNamespace(user=f"{os.getuid()}:{os.getgid()}")
    found.say = lambda _text: None
    return found


def test_what_was_shipped_is_read_again(ship, server, repository, recovery, tmp_path):
    server.write(*NAMES[: wal.SEALED], "00000002.history", content=b"log")
    server.write(f"{NAMES[wal.SEALED]}.partial", content=b"part")
    ship()
    recovery.way = SimpleNamespace(pieces=repository.index()[1])
    target = tmp_path / "target"
    target.mkdir()
    recovery._read_log(str(target))
    found = {path.name: path.read_bytes() for path in target.iterdir()}
    assert found == {**dict.fromkeys([*NAMES[: wal.SEALED], "00000002.history"], b"log"), f"{NAMES[wal.SEALED]}.partial": b"part"}


def test_the_password_is_set_where_sessions_are_read_only_by_default(recovery, tmp_path):
    """As by `ALTER DATABASE postgres SET default_transaction_read_only = on`, which came back too."""
    (tmp_path / "password").write_text("it's secret\n")
    asked = []
    recovery.user = "ada"
    recovery.docker = SimpleNamespace(ask=lambda *arguments, stdin: asked.append((arguments, stdin)))
    recovery._set_password("server", str(tmp_path / "password"))
    ((arguments, text),) = asked
    assert arguments[2 : 2 + len(wal.postgres.WRITABLE)] == wal.postgres.WRITABLE
    before, statement, _after = text.partition(b"ALTER ROLE \"ada\" PASSWORD 'it''s secret';")
    assert statement
    # What the server keeps of statements has none with a password.
    for setting in (b"log_statement", b"log_min_duration_sample", b"pg_stat_statements.track_utility", b"debug_print_parse"):
        assert b"SET %s = " % setting in before


@pytest.mark.parametrize("cut", [1, 511, 512, 1024, 20000])
def test_a_piece_of_a_run_that_was_killed_is_none(ship, server, repository, recovery, tmp_path, cut):
    server.write(f"{NAMES[0]}.partial", content=os.urandom(30000))
    ship()
    tags, content = repository.kept["s0"]
    # Without the last member, whose blocks are followed by the end of the archive.
    last = content.rindex(wal.LAST.encode())
    repository.kept["s0"] = (tags, content[: min(last + 512 * 2, len(content)) - cut])
    recovery.way = SimpleNamespace(pieces=repository.index()[1])
    with pytest.raises(wal.DamagedPieceError):
        recovery._read_log(str(tmp_path))


@pytest.mark.parametrize("printed", [0, 1, 700, 20000, None])
def test_a_piece_that_restic_does_not_read_is_not_called_damaged(ship, server, repository, recovery, tmp_path, printed):
    server.write(f"{NAMES[0]}.partial", content=os.urandom(30000))
    ship()
    recovery.way = SimpleNamespace(pieces=repository.index()[1])
    repository.status, repository.printed = 1, printed
    with pytest.raises(wal.UnreadPieceError, match=r"restic failed \(reading the piece .* of the log, exit code 1\): the network is away") as found:
        recovery._read_log(str(tmp_path))
    assert found.value.snapshot == recovery.way.pieces[0].snapshot


def test_a_base_backup_that_is_not_what_was_written_says_so_and_which_it_is(repository, recovery):
    repository.kept["b"] = ("", b"x" * 10)
    repository.status, repository.printed = 1, 4
    recovery.target, recovery.volume = "/data", "v"
    recovery.way = SimpleNamespace(base=SimpleNamespace(snapshot="b", name="n", end=0.0, bytes=10))
    recovery.service = SimpleNamespace(user="999:999", image="i")
    tar = SimpleNamespace(stdin=io.BytesIO(), wait=lambda _seconds: 0, error=lambda: "", kill=lambda: None)
    compared = [(0, "", "")]
    recovery.docker = SimpleNamespace(
        run="r", start=lambda *_words, **_options: tar, confined=list, remove_container=lambda _name: None, attempt=lambda *_words: compared[0]
    )

    recovery._check_major = lambda _place: None

    def reading():
        tar.stdin = io.BytesIO()
        recovery._read_base("/data/pg")

    with pytest.raises(wal.BaseError, match="restic failed"):
        reading()
    repository.status = 0
    with pytest.raises(wal.BaseError, match="The base backup n has 4 bytes, not 10") as found:
        reading()
    assert found.value.snapshot == "b"
    repository.printed = None
    reading()
    compared[0] = (1, "", "pg_verifybackup: error: checksum mismatch for file")
    with pytest.raises(wal.BaseError, match=r"The base backup n is not what was written: .*checksum mismatch"):
        reading()
    # Killed for want of memory, for one, which says nothing of it.
    compared[0] = (137, "", "")
    with pytest.raises(BackupError, match="was not compared: pg_verifybackup ended with exit code 137") as found:
        reading()
    assert not isinstance(found.value, wal.BaseError)


def test_a_piece_with_other_files_is_none(repository, recovery, tmp_path):
    pipe = Pipe()
    archive = sets.Writer(pipe)
    archive.add_bytes("../evil", b"x")
    archive.add_bytes(wal.LAST, json.dumps({}).encode())
    archive.close()
    piece = moments.Piece("s0", "p", "l", NAMES[0], NAMES[0], 16777216, 1.0, is_sealed=False)
    repository.kept["s0"] = (moments.tags_of(piece), pipe.getvalue())
    recovery.way = SimpleNamespace(pieces=[piece])
    with pytest.raises(wal.DamagedPieceError):
        recovery._read_log(str(tmp_path))
    assert not (tmp_path.parent / "evil").exists()


def test_a_copy_of_a_cluster_says_where_its_log_begins():
    text = f"backup_label\0START WAL LOCATION: 0/2000028 (file {NAMES[1]})\nCHECKPOINT".encode()
    shipping = object.__new__(wal.Shipping)
    shipping.say = lambda _text: None
    target = io.BytesIO()
    process = SimpleNamespace(stdout=io.BytesIO(text), wait=lambda _seconds: 0)
    assert shipping._copy(process, target, 10) == (NAMES[1], len(text))
    assert target.getvalue() == text
    with pytest.raises(BackupError, match="where its log begins"):
        shipping._copy(SimpleNamespace(stdout=io.BytesIO(b"nothing"), wait=lambda _seconds: 0), io.BytesIO(), 10)


@pytest.mark.parametrize(
    ("files", "target", "code", "copied"),
    [
        (["A"], "here", 0, "A"),
        (["A.partial"], "here", 0, "A.partial"),
        (["A", "A.partial"], "here", 0, "A"),
        # The end of the log.
        (["B"], "here", 1, None),
        # Which is no end: PostgreSQL gives up above 125.
        (["A"], "nowhere/here", 255, None),
        (["A.partial"], "nowhere/here", 255, None),
    ],
)
def test_a_segment_that_cannot_be_copied_is_not_the_end_of_the_log(tmp_path, files, target, code, copied):
    for name in files:
        (tmp_path / name).write_text(name)
    command = wal.RESTORE_COMMAND.replace("/wal/%f", f"{tmp_path}/A").replace("%p", f"{tmp_path}/{target}")
    assert subprocess.run(["sh", "-c", command], capture_output=True).returncode == code
    assert copied is None or (tmp_path / target).read_text() == copied


@pytest.mark.parametrize(("replayed", "is_all"), [("0/5000028", True), ("0/4FFFFD8", True), ("0/4000000", True), ("0/3FFFFB0", False), ("0/2000100", False)])
def test_a_recovery_that_ends_before_the_log_does_is_none(recovery, monkeypatch, replayed, is_all):
    @contextlib.contextmanager
    def session(*_where):
        yield SimpleNamespace(ask=lambda _statement: [replayed])

    monkeypatch.setattr(wal.postgres, "session", session)
    recovery.docker, recovery.user = SimpleNamespace(run="r"), "u"
    recovery.way = SimpleNamespace(pieces=(SimpleNamespace(last="000000010000000000000005"),), base=SimpleNamespace(segment=16 * 1024**2))
    with contextlib.nullcontext() if is_all else pytest.raises(BackupError, match="before the last segment of the log"):
        recovery._has_all()


def test_a_line_begins_with_nothing_of_the_one_before(ship, server, repository, tmp_path):
    """A restored cluster begins with lower segments than those that were sealed of the one before it, and none of them may be taken for shipped."""
    server.write(*[f"0000000100000000000000{number:02X}" for number in range(0xA0, 0xA0 + wal.SEALED)], "0000000100000000000000A8.partial")
    found = ship()
    found.note(base={"name": "b", "line": found.known["line"]}, base_tried=1.0)
    before = wal.read_state(str(tmp_path / "stack"))
    for name in server.names():
        os.unlink(os.path.join(server.directory, name))
    os.unlink(os.path.join(server.volume, wal.MARKER))
    server.write("000000010000000000000005.partial")
    ship()
    after = wal.read_state(str(tmp_path / "stack"))
    assert after["line"] != before["line"]
    assert not {"sealed", "base", "base_tried"} & set(after)
    # And nothing of the line before is forgotten for it.
    assert after.get("pending", []) == []
    whole = [f"0000000100000000000000{number:02X}" for number in range(5, 5 + wal.SEALED)]
    os.unlink(os.path.join(server.directory, "000000010000000000000005.partial"))
    server.write(*whole, f"{whole[-1][:-1]}D.partial")
    ship()
    base = moments.Base("b", "b", after["line"], whole[0], server.segment, 1.0)
    way = moments.way(base, repository.index()[1])
    assert way is not None
    assert [piece.is_sealed for piece in way.pieces] == [True, False]


def test_what_is_shorter_than_a_segment_is_not_shipped(ship, server, repository):
    """PostgreSQL ends at it when it recovers."""
    server.write(NAMES[0], f"{NAMES[1]}.partial", content=b"whole")
    with open(os.path.join(server.directory, f"{NAMES[2]}.partial"), "wb") as file:
        file.write(b"sh")
    ship()
    ((tags, content),) = repository.kept.values()
    assert f"last={NAMES[1]}" in tags
    assert NAMES[2].encode() not in content
    # It stops the receiver, which removes it when it starts.
    server.is_behind = True
    with pytest.raises(wal.BehindError, match="is not connected to the server and was started again"):
        ship()
    assert [call[0] for call in server.calls] == ["restart"]
    os.unlink(os.path.join(server.directory, f"{NAMES[2]}.partial"))
    with pytest.raises(wal.BehindError, match="is not connected to the server, so"):
        ship()
    assert [call[0] for call in server.calls] == ["restart"]


def test_what_is_shorter_than_a_segment_is_no_end_of_a_log(ship, server, repository, recovery, tmp_path):
    server.write(NAMES[0], f"{NAMES[1]}.partial", content=b"whole")
    ship()
    recovery.way = SimpleNamespace(pieces=[dataclasses.replace(piece, segment=16) for piece in repository.index()[1]])
    target = tmp_path / "target"
    target.mkdir()
    recovery._read_log(str(target))
    assert [path.name for path in target.iterdir()] == [NAMES[0]]


def test_a_piece_sorts_after_the_one_before_also_where_the_clock_was_set_back(ship, server, repository, monkeypatch):
    names = iter(["20991231T000000Z-000aaaa", "20260101T000000Z-000bbbb", "20260101T000030Z-000cccc", "20991231T000001Z-000dddd"])
    monkeypatch.setattr(wal, "identifier", lambda: next(names))
    monkeypatch.setattr(wal.Shipping, "_begin", lambda _self, _told: {"line": "a", "system": "77"})
    for number in range(4):
        server.write(f"{NAMES[0]}.partial", content=b"x" * (number + 1))
        ship()
    made = [dict(tag.split("=") for tag in tags.split(","))["wal"] for tags, _content in repository.kept.values()]
    assert made == ["20991231T000000Z-000aaaa", "20991231T000000Z-000aaaa~000001", "20991231T000000Z-000aaaa~000002", "20991231T000001Z-000dddd"]
    assert sorted(made) == made


@pytest.mark.parametrize("failing", ["unlink", "drop"])
def test_a_receiver_that_was_stopped_is_started_whatever_fails(ship, server, monkeypatch, failing):
    server.write(f"{NAMES[0]}.partial")
    ship()
    server.status = "lost"

    def fail(*_given):
        raise BackupError("no")

    monkeypatch.setattr(*((wal.Shipping, "empty", fail) if failing == "unlink" else (wal, "drop_slot_of", fail)))
    with pytest.raises(BackupError, match=r"^no$"):
        ship()
    assert [call[0] for call in server.calls if call[0] in ("stop", "start")] == ["stop", "start"]


@pytest.mark.parametrize("major", ["17", "18"])
def test_a_base_backup_of_another_major_version_is_not_called_damaged(recovery, tmp_path, monkeypatch, major):
    (tmp_path / "17").mkdir()
    (tmp_path / "17/PG_VERSION").write_text("17\n")
    monkeypatch.setattr(wal.swap, "path_of", lambda _docker, _volume: str(tmp_path))
    recovery.target, recovery.volume, recovery.way = "/data", "v", SimpleNamespace(base=SimpleNamespace(name="n"))
    recovery.service = SimpleNamespace(image="i")
    recovery.docker = SimpleNamespace(run="r", confined=list, ask=lambda *_words, **_options: f"postgres (PostgreSQL) {major}.4 (Debian)\n")
    with contextlib.nullcontext() if major == "17" else pytest.raises(BackupError, match="is of PostgreSQL 17, and the release in use has 18") as found:
        recovery._check_major("/data/17")
    assert major == "17" or not isinstance(found.value, wal.WayError)
    recovery._check_major("/data/other")


@pytest.mark.parametrize(("major", "is_off"), [("16", False), ("17", True), ("18", True)])
def test_a_recovered_server_loads_what_its_tables_need_and_fires_no_event_trigger(recovery, monkeypatch, major, is_off):
    """An extension whose tables cannot be read without its library, which the command names."""
    started = []
    monkeypatch.setattr(wal, "running", lambda *given: started.append(given[-1]) or contextlib.nullcontext())
    monkeypatch.setattr(wal, "await_answer", lambda *_given: None)
    recovery.service = SimpleNamespace(image="i", command=["postgres", "-c", "shared_preload_libraries=timescaledb", "-c", "work_mem=1GB"])
    recovery.copy, recovery.user = SimpleNamespace(options=lambda _service: []), "u"
    said = f"postgres (PostgreSQL) {major}.4 (Debian)\n"
    recovery.docker = SimpleNamespace(run="r", attempt=lambda *_words: (0, "", ""), confined=list, ask=lambda *_words: said)
    with contextlib.ExitStack() as stack:
        assert recovery._started(stack, "v", None)
    (words,) = started
    assert "shared_preload_libraries=timescaledb" in words
    assert "work_mem=1GB" not in words
    assert ("event_triggers=off" in words) is is_off


def test_what_was_received_before_the_slot_was_lost_is_shipped_first(ship, server, repository):
    server.write(f"{NAMES[0]}.partial")
    ship()
    os.unlink(os.path.join(server.directory, f"{NAMES[0]}.partial"))
    server.write(NAMES[0], f"{NAMES[1]}.partial")
    server.status = "lost"
    # Where that is not possible, it waits.
    repository.is_away = True
    with pytest.raises(BackupError, match="restic failed"):
        ship()
    assert server.names() == [NAMES[0], f"{NAMES[1]}.partial"]
    repository.is_away = False
    with pytest.raises(wal.BehindError, match="away for longer"):
        ship()
    assert server.names() == []
    assert max(piece.last for piece in repository.index()[1]) == NAMES[1]
