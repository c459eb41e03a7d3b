# Copyright: campaign.platform contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which moments can be brought back: copies of PostgreSQL's cluster (bases), pieces of its log, and what of them leads to a moment.

A line is a log without a gap: all that one volume of the service `wal` has received from one cluster. What belongs together says so in the tags of its
snapshots, so the repository alone is enough to know what there is.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.campaign.platform.plugins.module_utils.backup.docker import BackupError

# What a file of the log is called: https://www.postgresql.org/docs/18/wal-internals.html
SEGMENT = re.compile(r"[0-9A-F]{24}\Z")
PARTIAL = re.compile(r"[0-9A-F]{24}\.partial\Z")
HISTORY = re.compile(r"[0-9A-F]{8}\.history\Z")
LATEST = "latest"
DAY = 86400


@dataclass(frozen=True)
class Base:
    """A copy of the cluster: restic's snapshot, the line and the segment of the log that it begins in, the bytes of a segment, its end (seconds since 1970).

    What is known at its end only stands at a snapshot of its own, ``mark``: to change tags, restic would need the repository for itself.
    """

    snapshot: str
    name: str
    line: str
    first: str
    segment: int
    end: float
    bytes: int = 0
    mark: str = ""


@dataclass(frozen=True)
class Piece:
    """A piece of the log, from a segment to another one. All that was committed until a moment is in it or before
    (seconds since 1970; 0 where that is not known).

    One that is not sealed ends with a segment that is still written to, and the next one takes its place.
    """

    snapshot: str
    name: str
    line: str
    first: str
    last: str
    segment: int
    until: float
    is_sealed: bool


@dataclass(frozen=True)
class Way:
    """What leads to a moment: a base, the pieces of the log that follow it, and the last moment that they lead to."""

    base: Base
    pieces: tuple[Piece, ...]
    until: float


def number(name: str, size: int) -> int:
    """Return the number of a segment in its timeline."""
    return int(name[8:16], 16) * (2**32 // size) + int(name[16:24], 16)


def position(text: str) -> int:
    """Return a position in the log, such as 0/24DE548, as a number."""
    high, _slash, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def tags_of(one: Base | Piece) -> str:
    """Return the tags of a snapshot as restic takes them."""
    if isinstance(one, Base):
        row: dict[str, Any] = {"mark": one.name, "of": one.snapshot, "line": one.line, "first": one.first, "segment": one.segment}
        row |= {"end": f"{one.end:.3f}", "bytes": one.bytes}
    else:
        row = {"wal": one.name, "line": one.line, "first": one.first, "last": one.last, "segment": one.segment, "until": f"{one.until:.3f}"}
        row["kind"] = "sealed" if one.is_sealed else "open"
    return ",".join(f"{key}={value}" for key, value in row.items())


def _ids(rows: Collection[Mapping[str, Any]]) -> dict[str, str]:
    """Return the ids that snapshots have now, by those that they have or had: `restic copy`, `tag` and `rewrite` give new ones, and keep the first one."""
    return {row["original"]: row["id"] for row in rows if row.get("original")} | {row["id"]: row["id"] for row in rows}


def index(rows: Collection[Mapping[str, Any]]) -> tuple[list[Base], list[Piece]]:
    """Return bases and pieces from restic's list of snapshots, the oldest first. One that was not finished has no mark, and is none, as one that is gone is."""
    bases, pieces, ids = [], [], _ids(rows)
    for row in rows:
        tags = dict(tag.split("=", 1) for tag in row.get("tags") or [] if "=" in tag)
        try:
            if "mark" in tags:
                segment, end, size = int(tags["segment"]), float(tags["end"]), int(tags["bytes"])
                bases.append(Base(ids[tags["of"]], tags["mark"], tags["line"], tags["first"], segment, end, size, mark=row["id"]))
            elif "wal" in tags:
                pieces.append(
                    Piece(
                        *(row["id"], tags["wal"], tags["line"], tags["first"], tags["last"]),
                        segment=int(tags["segment"]),
                        until=float(tags["until"]),
                        is_sealed=tags["kind"] == "sealed",
                    )
                )
        except (KeyError, ValueError):
            continue
    return sorted(bases, key=lambda base: base.end), sorted(pieces, key=lambda piece: (piece.line, piece.name))


def unfinished(rows: Collection[Mapping[str, Any]]) -> list[str]:
    """Return the snapshots of bases whose run was killed before they were whole."""
    marked = {tag.removeprefix("of=") for row in rows for tag in row.get("tags") or [] if tag.startswith("of=")}
    bases = [row for row in rows if any(tag.startswith("base=") for tag in row.get("tags") or [])]
    return [row["id"] for row in bases if not {row["id"], row.get("original")} & marked]


def way(base: Base, pieces: Sequence[Piece]) -> Way | None:
    """Return the way from a base to the last moment that the pieces lead to without a gap, None where they do not reach the base's own end."""
    own = [piece for piece in pieces if piece.line == base.line]
    following, used = number(base.first, base.segment), []
    until = 0.0
    for piece in sorted((one for one in own if one.is_sealed), key=lambda one: number(one.first, one.segment)):
        if number(piece.first, piece.segment) <= following <= number(piece.last, piece.segment):
            used.append(piece)
            following, until = number(piece.last, piece.segment) + 1, max(until, piece.until)
    last = [one for one in own if not one.is_sealed and number(one.first, one.segment) <= following <= number(one.last, one.segment) + 1]
    if last:
        # By their names, which never go back as a clock may.
        newest = max(last, key=lambda one: one.name)
        used.append(newest)
        until = max(until, newest.until)
    # One that a sealed one has replaced still says until when: a shipping may have been cut off between the two.
    until = max([until, *(one.until for one in own if not one.is_sealed and number(one.last, one.segment) < following)])
    return Way(base, tuple(used), until) if until >= base.end else None


def lines(bases: Sequence[Base], pieces: Sequence[Piece]) -> dict[str, tuple[float, float]]:
    """Return from when until when there are moments that can be brought back, by line."""
    found: dict[str, tuple[float, float]] = {}
    for base in bases:
        if one := way(base, pieces):
            since, until = found.get(base.line, (base.end, one.until))
            found[base.line] = (min(since, base.end), max(until, one.until))
    return found


def ranges(bases: Sequence[Base], pieces: Sequence[Piece]) -> list[tuple[float, float]]:
    """Return from when until when there are moments that can be brought back."""
    return sorted(lines(bases, pieces).values())


def choice(bases: Sequence[Base], pieces: Sequence[Piece], chosen: Way, own: str | None) -> str:
    """Return which line a way is of, and which others there are, an empty text where there is no other. ``own`` is the line that this host ships."""
    found = lines(bases, pieces)
    if len(found) < 2:
        return ""

    def told(line: str) -> str:
        since, until = found[line]
        return f"{line} (from {words(since + 1)} to {words(until)}{', which this host ships' if line == own else ''})"

    others = ", ".join(told(line) for line in sorted(found, key=lambda line: found[line], reverse=True) if line != chosen.base.line)
    return (
        f"The logs of {len(found)} clusters are in the repository: of several hosts, or from before and after a restore. Taken is {told(chosen.base.line)}. "
        f"The others are {others}. If it is to be one of them, name a moment of it."
    )


def known_later(pieces: Sequence[Piece], line: str, snapshot: str, covered: float) -> list[Piece]:
    """Return the pieces with what the host knows better: nothing was written since the one in a snapshot, up to a moment."""
    return [replace(piece, until=max(piece.until, covered)) if (piece.line, piece.snapshot) == (line, snapshot) else piece for piece in pieces]


def parsed(text: str) -> datetime.datetime:
    """Return a moment that a person wrote, with its time zone; raise ValueError with what is wrong with it."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("it is not a moment. Write it such as 2026-11-27T05:00:00Z, or latest") from None
    if found.tzinfo is None:
        raise ValueError("it has no time zone, and would be another moment elsewhere. Write it such as 2026-11-27T05:00:00Z or 2026-11-27T06:00:00+01:00")
    return found.astimezone(datetime.UTC)


def words(seconds: float) -> str:
    """Return a moment as a person reads it. Of a part of a second nothing is promised, so it is cut off."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def choose(bases: Sequence[Base], pieces: Sequence[Piece], wanted: str) -> tuple[Way, datetime.datetime | None]:
    """Return the shortest way to a moment, and the moment; that is None for the latest one. Raises BackupError, with which moments there are."""
    ways = [one for base in bases if (one := way(base, pieces))]
    if not ways:
        raise BackupError("There is no moment to go back to: no whole base backup with the log that follows it is in the repository. Nothing was changed.")
    if wanted == LATEST:
        return max(ways, key=lambda one: (one.until, one.base.end)), None
    try:
        moment = parsed(wanted)
    except ValueError as error:
        raise BackupError(f"{wanted}: {error}. Nothing was changed.") from None
    fitting = [one for one in ways if one.base.end <= moment.timestamp() <= one.until]
    if not fitting:
        there = ", and from ".join(f"{words(since + 1)} to {words(until)}" for since, until in ranges(bases, pieces))
        raise BackupError(f"{wanted} cannot be brought back. There is every moment from {there}. Nothing was changed.")
    return max(fitting, key=lambda one: one.base.end), moment


def around(bases: Sequence[Base], pieces: Sequence[Piece], line: str, wanted: float | None, why: str) -> Way:
    """Return the shortest way to a moment of a line (seconds since 1970; None for the last one that is left), with the bases and pieces that are left.

    Raises BackupError where there is none, with why another way could not be taken and with what is there: whoever has confirmed a moment is not given
    an earlier one, nor one of another cluster.
    """
    own = [base for base in bases if base.line == line]
    ways = [one for base in own if (one := way(base, pieces))]
    if wanted is None and ways:
        return max(ways, key=lambda one: (one.until, one.base.end))
    fitting = [one for one in ways if wanted is not None and one.base.end <= wanted <= one.until]
    if fitting:
        return max(fitting, key=lambda one: one.base.end)
    there = "no moment of this log"
    if found := lines(own, pieces).get(line):
        there = f"every moment from {words(found[0] + 1)} to {words(found[1])}: ask for one of them by its time"
    raise BackupError(
        f"{why} Nothing else leads to {'a moment' if wanted is None else words(wanted)}. Nothing was changed. Where the repository could not be read, run this "
        f"again. Without it there is {there}."
    )


def doomed(bases: Sequence[Base], pieces: Sequence[Piece], now: float, days: int, *, is_on: bool) -> list[str]:
    """Return the snapshots that no moment of the last days needs.

    The newest base from before that stays as well, without which the first of these days would have none. Once points in time are turned off, what there is
    ends with its days.
    """
    horizon = now - days * DAY
    before = [base for base in bases if base.end <= horizon]
    kept = [base for base in bases if base.end > horizon] + (before[-1:] if is_on or len(before) < len(bases) else [])
    until: dict[str, float] = {}
    for piece in pieces:
        until[piece.line] = max(until.get(piece.line, 0.0), piece.until)
    # Several hosts may have one repository.
    kept += [base for base in {base.line: base for base in before}.values() if base not in kept and until.get(base.line, 0.0) > horizon]
    # A `restic tag` that was killed leaves two marks of one base.
    needed_by = {base.snapshot for base in kept}
    gone = [snapshot for base in bases if base not in kept for snapshot in (base.snapshot, base.mark) if snapshot not in needed_by]
    # Two of each line: the last one may be of a run that was killed while it wrote it.
    newest: dict[str, list[Piece]] = {}
    for piece in sorted((one for one in pieces if not one.is_sealed), key=lambda one: one.name):
        newest[piece.line] = [*newest.get(piece.line, []), piece][-2:]
    # A line that is just beginning has no base yet. Of one whose pieces do not say until when, nobody knows.
    young = {line for line, end in until.items() if is_on and (end > horizon or not end)} - {base.line for base in bases}
    for piece in pieces:
        needed = [base for base in kept if base.line == piece.line and number(piece.last, piece.segment) >= number(base.first, base.segment)]
        if not (needed or piece.line in young) or (not piece.is_sealed and piece not in newest[piece.line]):
            gone.append(piece.snapshot)
    return gone


def unsealed(names: Collection[str], sealed: str | None) -> tuple[list[str], list[str], list[str]]:
    """Return of the files of a volume: whole segments that are in no sealed piece yet, the ones that are still written to, and histories of timelines."""
    whole = sorted(name for name in names if SEGMENT.match(name) and (sealed is None or name > sealed))
    return whole, sorted(name for name in names if PARTIAL.match(name)), sorted(name for name in names if HISTORY.match(name))
