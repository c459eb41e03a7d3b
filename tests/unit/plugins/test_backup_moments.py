# SPDX-License-Identifier: GPL-3.0-or-later
"""Which moments can be brought back from what is in the repository, and what may be removed from it."""

import dataclasses
import datetime
import itertools

import pytest
from ansible_collections.campaign.platform.plugins.module_utils.backup import moments
from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError
from ansible_collections.campaign.platform.plugins.module_utils.backup.moments import Base, Piece

SEGMENT = 16 * 1024 * 1024
NOW = 1_795_000_000.0


def segment(number: int) -> str:
    return f"00000001{number // 256:08X}{number % 256:08X}"


def base(first: int, end: float, line: str = "a", name: str = "") -> Base:
    return Base(f"base-{line}-{first}", name or f"b{first:03}", line, segment(first), SEGMENT, end, 100, f"mark-{line}-{first}")


def piece(first: int, last: int, until: float = 0, line: str = "a", name: str = "") -> Piece:
    kind = "open" if until else "sealed"
    return Piece(f"{kind}-{line}-{first}-{last}-{until:g}", name or f"p{until:012.0f}{last:03}", line, segment(first), segment(last), SEGMENT, until, not until)


BASES = [base(10, 100), base(20, 200)]
PIECES = [piece(8, 15), piece(16, 25), piece(26, 26, 290, name="p1"), piece(26, 27, 300, name="p2")]


def at(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def test_segments_are_numbered_across_files_of_the_log():
    assert moments.number("0000000100000001000000FF", SEGMENT) + 1 == moments.number("000000010000000200000000", SEGMENT)
    assert moments.number("000000010000000100000003", 1024**3) + 1 == moments.number("000000010000000200000000", 1024**3)
    assert moments.position("1/0000000A") == 2**32 + 10


def test_what_is_written_into_tags_is_read_from_them():
    rows = [{"id": getattr(one, "mark", one.snapshot), "tags": moments.tags_of(one).split(",")} for one in [*BASES, *PIECES]]
    rows += [{"id": one.snapshot, "tags": [f"base={one.name}", "line=a"]} for one in BASES]
    others = [{"id": "x", "tags": ["set=1", "verified"]}, {"id": "y", "tags": None}, {"id": "z", "tags": ["base=b", "line=a"]}, {"id": "w", "tags": ["wal=b"]}]
    bases, pieces = moments.index(rows + others)
    assert bases == BASES
    assert sorted(pieces, key=lambda one: one.snapshot) == sorted(PIECES, key=lambda one: one.snapshot)
    assert moments.unfinished(rows + others) == ["z"]


def rows_of(*bases: Base) -> list[dict]:
    copied = [{"id": one.snapshot, "tags": [f"base={one.name}", "line=a"]} for one in bases]
    return copied + [{"id": one.mark, "tags": moments.tags_of(one).split(",")} for one in bases]


def test_a_base_that_was_copied_or_tagged_is_found_under_its_new_id():
    """restic gives a snapshot another id then, and says which one it had at first."""
    rows = [{**row, "id": f"new-{row['id']}", "original": row["id"]} for row in rows_of(*BASES)]
    bases, _pieces = moments.index(rows)
    assert [(one.snapshot, one.mark) for one in bases] == [("new-base-a-10", "new-mark-a-10"), ("new-base-a-20", "new-mark-a-20")]
    assert moments.unfinished(rows) == []
    # One of which nobody has said that it is whole is none under any id.
    assert moments.unfinished([*rows, {"id": "new-z", "original": "z", "tags": ["base=b", "line=a"]}]) == ["new-z"]
    # Where both are there, it is the one that the mark names.
    assert [one.snapshot for one in moments.index([*rows, *rows_of(BASES[0])[:1]])[0]] == ["base-a-10", "new-base-a-20"]


def test_a_mark_of_a_base_that_is_gone_promises_no_moment():
    bases, _pieces = moments.index(rows_of(*BASES)[1:])
    assert bases == BASES[1:]


def test_of_two_marks_of_a_base_none_takes_the_base_away():
    bases = [BASES[0], dataclasses.replace(BASES[0], mark="again")]
    gone = moments.doomed(bases, PIECES, 100 + 30 * DAY, 7, is_on=True)
    assert BASES[0].snapshot not in gone
    assert BASES[0].mark in gone


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(at(100), "base-a-10"), (at(199.9), "base-a-10"), (at(200), "base-a-20"), (at(300), "base-a-20"), ("latest", "base-a-20")],
)
def test_the_newest_base_before_a_moment_is_taken(wanted, expected):
    way, moment = moments.choose(BASES, PIECES, wanted)
    assert (way.base.snapshot, way.until) == (expected, 300)
    assert moment is None if wanted == "latest" else moment is not None


def test_only_the_pieces_that_follow_are_read_and_of_those_that_are_open_the_newest():
    way, _moment = moments.choose(BASES, PIECES, at(250))
    assert [one.snapshot for one in way.pieces] == ["sealed-a-16-25-0", "open-a-26-27-300"]


@pytest.mark.parametrize("wanted", [at(99), at(301)])
def test_a_moment_that_is_not_there_is_refused_with_those_that_are(wanted):
    with pytest.raises(BackupError, match=r"There is every moment from 1970-01-01T00:01:41Z to 1970-01-01T00:05:00Z\. Nothing was changed"):
        moments.choose(BASES, PIECES, wanted)


@pytest.mark.parametrize(
    ("wanted", "why"), [("2026-11-27T05:00:00", "no time zone"), ("2026-11-27", "no time zone"), ("now", "is not a moment"), ("", "is not a moment")]
)
def test_a_moment_has_a_time_zone(wanted, why):
    with pytest.raises(BackupError, match=why):
        moments.choose(BASES, PIECES, wanted)


def test_a_moment_of_another_time_zone_is_the_same_moment():
    assert moments.parsed("2026-11-27T06:30:00+01:00") == moments.parsed("2026-11-27T05:30:00Z")


def test_a_gap_ends_the_way():
    without = [one for one in PIECES if one.snapshot != "sealed-a-16-25-0"]
    assert [moments.way(one, without) for one in BASES] == [None, None]
    with pytest.raises(BackupError, match="no moment to go back to"):
        moments.choose(BASES, without, "latest")


def test_a_base_without_the_log_of_its_own_end_leads_nowhere():
    assert moments.way(base(26, 301), PIECES) is None
    assert moments.way(base(26, 299), PIECES) is not None


def test_a_line_is_not_mended_with_pieces_of_another_one():
    bases, pieces = [base(10, 100), base(3, 1000, "b")], [*PIECES, piece(3, 4, 1100, "b")]
    assert moments.ranges(bases, pieces) == [(100, 300), (1000, 1100)]
    with pytest.raises(BackupError, match="00:01:41Z to 1970-01-01T00:05:00Z, and from 1970-01-01T00:16:41Z to 1970-01-01T00:18:20Z"):
        moments.choose(bases, pieces, at(500))


def test_of_several_lines_it_is_told_which_one_is_taken():
    assert moments.choice(BASES, PIECES, moments.way(BASES[1], PIECES), "a") == ""
    bases, pieces = [*BASES, base(3, 1000, "b")], [*PIECES, piece(3, 4, 1100, "b")]
    way, _moment = moments.choose(bases, pieces, "latest")
    told = moments.choice(bases, pieces, way, "b")
    assert "Taken is b (from 1970-01-01T00:16:41Z to 1970-01-01T00:18:20Z, which this host ships). The others are a (from 1970-01-01T00:01:41Z to" in told
    assert "The logs of 2 clusters are in the repository" in told
    assert "Taken is a (from" in moments.choice(bases, pieces, moments.choose(bases, pieces, at(150))[0], None)


def test_where_the_last_piece_is_damaged_the_one_before_leads_less_far():
    left = [one for one in PIECES if one.until != 300]
    assert moments.choose(BASES, left, "latest")[0].until == 290


def without(snapshot: str) -> list[Piece]:
    return [one for one in PIECES if one.snapshot != snapshot]


def test_around_a_piece_the_same_moment_is_reached_or_none():
    left = without("open-a-26-27-300")
    for wanted in (at(150), at(290)):
        way, moment = moments.choose(BASES, PIECES, wanted)
        found = moments.around(BASES, left, "a", moment.timestamp(), "why.")
        assert (found.base, found.pieces[-1].snapshot) == (way.base, "open-a-26-26-290")
    # The latest one was said to be a later one.
    told = r"^why\. Nothing else leads to 1970-01-01T00:05:00Z\. Nothing was .*there is every moment from 1970-01-01T00:01:41Z to 1970-01-01T00:04:50Z: ask"
    with pytest.raises(BackupError, match=told):
        moments.around(BASES, left, "a", 300, "why.")
    assert moments.around(BASES, left, "a", None, "why.").until == 290
    with pytest.raises(BackupError, match=r"^why\. Nothing else leads to .* there is no moment of this log\.$"):
        moments.around(BASES, without("sealed-a-16-25-0"), "a", 250, "why.")


def test_around_a_piece_no_other_cluster_is_taken():
    bases, pieces = [*BASES, base(3, 90, "b")], [*without("open-a-26-27-300"), piece(3, 4, 400, "b")]
    for wanted in (295, 300):
        with pytest.raises(BackupError, match="Nothing else leads to 1970-01-01T00:0"):
            moments.around(bases, pieces, "a", wanted, "why.")
    # Of the last one, too, although another log goes on for longer.
    assert moments.around(bases, pieces, "a", None, "why.").until == 290


def test_what_the_host_knows_of_a_database_that_nobody_writes_to_counts():
    later = moments.known_later(PIECES, "a", "open-a-26-27-300", 900)
    assert moments.choose(BASES, later, at(890))[0].until == 900
    assert moments.known_later(PIECES, "a", "another", 900) == PIECES


DAY = 86400


def days_of(count: int) -> tuple[list[Base], list[Piece]]:
    """Return a base each day, ten segments a day, and the log until now."""
    bases = [base(10 * number, NOW - (count - number) * DAY + 10) for number in range(count)]
    pieces = [piece(10 * number, 10 * number + 9) for number in range(count)]
    return bases, [*pieces, piece(10 * count, 10 * count, NOW - 30, name="q1"), piece(10 * count, 10 * count, NOW, name="q2")]


def test_what_the_last_days_need_stays_and_nothing_else():
    bases, pieces = days_of(10)
    gone = moments.doomed(bases, pieces, NOW, 7, is_on=True)
    assert gone == ["base-a-0", "mark-a-0", "base-a-10", "mark-a-10", *(f"sealed-a-{number}-{number + 9}-0" for number in (0, 10))]
    left = [one for one in bases if one.snapshot not in gone], [one for one in pieces if one.snapshot not in gone]
    # The first of the seven days is whole.
    assert moments.choose(*left, at(NOW - 7 * DAY))[0].until == NOW


def test_pieces_that_others_have_replaced_go_and_two_stay():
    bases, pieces = days_of(2)
    more = [piece(20, 20, NOW - 60 - number, name=f"o{9 - number}") for number in range(3)]
    assert moments.doomed(bases, [*pieces, *more], NOW, 7, is_on=True) == [one.snapshot for one in more]


def test_turned_off_they_end_with_their_days():
    bases, pieces = days_of(3)
    assert moments.doomed(bases, pieces, NOW + 2 * DAY, 7, is_on=False) == []
    assert set(moments.doomed(bases, pieces, NOW + 30 * DAY, 7, is_on=False)) == {one.snapshot for one in [*bases, *pieces]} | {one.mark for one in bases}
    # Turned on, the last base stays however old it is.
    assert "base-a-20" not in moments.doomed(bases, pieces, NOW + 30 * DAY, 7, is_on=True)


def test_a_line_that_has_just_begun_stays_until_it_has_a_base():
    bases, pieces = days_of(2)
    young = piece(3, 3, NOW + 10, "b", name="z")
    assert young.snapshot not in moments.doomed(bases, [*pieces, young], NOW + 20, 7, is_on=True)
    # Another host's, whose piece comes later, takes nothing away from it.
    later = piece(3, 3, NOW + 99, "c", name="zz")
    assert young.snapshot not in moments.doomed(bases, [*pieces, young, later], NOW + 99, 7, is_on=True)
    assert young.snapshot in moments.doomed(bases, [*pieces, young, later], NOW + 8 * DAY, 7, is_on=True)


def test_each_of_two_hosts_keeps_the_base_of_before_its_days():
    bases = [base(10, NOW - 7 * DAY - 7200, "b"), base(10, NOW - 7 * DAY - 3600), base(20, NOW - DAY), base(20, NOW - DAY, "b")]
    pieces = [one for line in "ab" for one in (piece(10, 19, line=line), piece(20, 20, NOW, line, name=f"o{line}"))]
    gone = moments.doomed(bases, pieces, NOW, 7, is_on=True)
    assert gone == []
    for line in "ab":
        own = [one for one in bases if one.line == line], [one for one in pieces if one.line == line]
        assert moments.choose(*own, at(NOW - 7 * DAY))[0].until == NOW
    # One that nobody adds to any more goes with its days.
    pieces = [one for one in pieces if one.name != "ob"]
    assert "base-b-10" in moments.doomed(bases[:3], pieces, NOW, 7, is_on=True)


def test_a_piece_that_a_sealed_one_has_replaced_says_until_when_there_are_moments():
    """The host ended between the two, or what was written last is damaged."""
    cut_off = [piece(8, 15), piece(16, 22, 250, name="p0"), piece(16, 25)]
    way, _moment = moments.choose(BASES, cut_off, "latest")
    assert (way.base.snapshot, way.until) == ("base-a-20", 250)
    assert [one.snapshot for one in way.pieces] == ["sealed-a-16-25-0"]
    # It leads to no base that was made later.
    assert moments.way(base(20, 260), cut_off) is None


def test_the_piece_that_was_written_last_is_taken_whatever_the_clock_said():
    ahead = [*PIECES[:2], piece(26, 26, 9000, name="p1"), piece(26, 27, 300, name="p2")]
    assert moments.way(BASES[1], ahead).pieces[-1].name == "p2"


def test_of_a_volume_what_is_not_sealed_is_shipped():
    names = [segment(3), segment(4), segment(5), segment(6) + ".partial", "00000002.history", "line.json", "x.new"]
    assert moments.unsealed(names, segment(3)) == ([segment(4), segment(5)], [segment(6) + ".partial"], ["00000002.history"])
    assert moments.unsealed(names, None)[0] == [segment(3), segment(4), segment(5)]


def test_every_subset_of_pieces_gives_a_way_without_a_gap_or_none():
    for count in range(len(PIECES) + 1):
        for some in itertools.combinations(PIECES, count):
            for one in BASES:
                found = moments.way(one, some)
                if found is None:
                    continue
                covered = {number for part in found.pieces for number in range(moments.number(part.first, SEGMENT), moments.number(part.last, SEGMENT) + 1)}
                first = moments.number(one.first, SEGMENT)
                assert covered >= set(range(first, max(covered) + 1))
